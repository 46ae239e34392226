//! Where the records of a trace stand, so that any of them is found without reading all before it.
//!
//! Marks lie along the trace, and the longer it is the further apart they are: there are never more than a few thousand,
//! however many records there are. Each carries what its caller gathered on the way to it, such as what was open then.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use failcore_model::Record;

use crate::lines::{Lines, Place, Step};
use crate::{TraceError, reader};

/// Most marks that are kept.
const MARKS: usize = 4096;
/// Records between two marks at first.
const EVERY: u64 = 64;
const NOWHERE: u64 = u64::MAX;

/// A trace whose records are read in any order; memory does not grow with it.
///
/// It knows the records that were there when it was made, and gives what is there now, whether or not that is what was
/// signed: [`verify`](crate::verify()) tells.
pub struct Places<S> {
    lines: Lines,
    /// The number of the line that comes next; `NOWHERE` where that is not known.
    next: u64,
    marks: Vec<(Place, S)>,
    /// How many records lie between two marks.
    every: u64,
    len: u64,
    gather: fn(&mut S, u64, &[u8]),
}

impl<S: Clone + Default> Places<S> {
    /// Reads the trace in `dir` once. `gather` is given the number and the line of each record, to add what it says to what
    /// was gathered from those before; `S` should be cheap to copy. A torn last line is left out.
    ///
    /// # Errors
    /// [`TraceError::NoTrace`], [`TraceError::Io`], [`TraceError::BadLine`] for what is too long for a record.
    pub fn read(dir: &Path, gather: fn(&mut S, u64, &[u8])) -> Result<Self, TraceError> {
        Self::with_marks(MARKS, dir, gather)
    }

    fn with_marks(most: usize, dir: &Path, gather: fn(&mut S, u64, &[u8])) -> Result<Self, TraceError> {
        let mut lines = Lines::open(dir)?;
        let (mut marks, mut every, mut len, mut state) = (Vec::new(), EVERY, 0u64, S::default());
        loop {
            let place = lines.place();
            let Step::Line { .. } = lines.step()? else { break };
            if len.is_multiple_of(every) {
                if marks.len() == most {
                    // As many as a power of two: this one stays on a mark.
                    let mut stays = [true, false].into_iter().cycle();
                    marks.retain(|_| stays.next().unwrap_or_default());
                    every *= 2;
                }
                marks.push((place, state.clone()));
            }
            gather(&mut state, len, lines.text());
            len += 1;
        }
        Ok(Self { lines, next: NOWHERE, marks, every, len, gather })
    }

    /// How many records there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Goes through the lines of some records, in order, for as long as `look` wants more.
    ///
    /// # Errors
    /// [`TraceError::Io`].
    pub fn each(
        &mut self,
        records: Range<u64>,
        mut look: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), TraceError> {
        for seq in records.start..records.end.min(self.len) {
            if !self.go(seq)? || look(seq, self.lines.text()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// One record.
    ///
    /// # Errors
    /// [`TraceError::NoRecord`] where there is none of that number, [`TraceError::BadLine`] where the line is none,
    /// [`TraceError::Io`].
    pub fn record(&mut self, seq: u64) -> Result<Record, TraceError> {
        if seq >= self.len || !self.go(seq)? {
            return Err(TraceError::NoRecord { seq, signed: self.len });
        }
        let record = reader::record(self.lines.text()).map_err(|why| self.lines.bad(why))?;
        if record.seq != seq {
            return Err(self.lines.bad(format!("it is record {}, not {seq}", record.seq)));
        }
        Ok(record)
    }

    /// What was gathered up to a record, that one included.
    ///
    /// # Errors
    /// [`TraceError::Io`].
    pub fn state(&mut self, seq: u64) -> Result<S, TraceError> {
        let mark = self.mark(seq);
        let mut state = self.marks.get(mark).map(|(_, state)| state.clone()).unwrap_or_default();
        let gather = self.gather;
        self.each(mark as u64 * self.every..seq.saturating_add(1), |seq, line| {
            gather(&mut state, seq, line);
            ControlFlow::Continue(())
        })?;
        Ok(state)
    }

    /// The last mark at or before a record.
    fn mark(&self, seq: u64) -> usize {
        usize::try_from(seq / self.every).unwrap_or(usize::MAX).min(self.marks.len().saturating_sub(1))
    }

    /// Reads the line of a record; whether it is there.
    fn go(&mut self, seq: u64) -> Result<bool, TraceError> {
        if self.next == seq + 1 {
            return Ok(true);
        }
        let mark = self.mark(seq);
        let at = mark as u64 * self.every;
        if self.next > seq || self.next < at {
            let Some((place, _)) = self.marks.get(mark) else { return Ok(false) };
            self.next = NOWHERE;
            self.lines.go_to(place)?;
            self.next = at;
        }
        let mut next = std::mem::replace(&mut self.next, NOWHERE);
        while next <= seq {
            // The trace may be shorter than it was.
            let Step::Line { .. } = self.lines.step()? else { return Ok(false) };
            next += 1;
        }
        self.next = next;
        Ok(true)
    }
}

/// Reads one line of a trace as a record; why it is none, if it is none.
///
/// # Errors
/// What is wrong, in words.
pub fn read_record(line: &[u8]) -> Result<Record, String> {
    reader::record(line)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::layout;

    /// A trace of lines that are no records, over three segments; one line is longer than what is read ahead.
    fn lines(dir: &Path, len: u64) {
        for segment in 0..3u64 {
            let mut text = String::new();
            for seq in segment * len / 3..(segment + 1) * len / 3 {
                let long = if seq == len / 2 { 300 << 10 } else { seq as usize % 7 };
                writeln!(text, "{seq} {}", " ".repeat(long)).unwrap();
            }
            if segment == 2 {
                text += "torn";
            }
            std::fs::write(layout::segment(dir, segment as u32), text).unwrap();
        }
    }

    fn sum(sum: &mut u64, seq: u64, line: &[u8]) {
        assert_eq!(number(line), seq);
        *sum += seq;
    }

    fn number(line: &[u8]) -> u64 {
        str::from_utf8(line).unwrap().trim_end().parse().unwrap()
    }

    #[test]
    fn any_line_is_found_with_what_was_gathered_however_many_there_are() {
        let dir = tempfile::tempdir().unwrap();
        for (marks, len) in [(2, 1), (4, 64), (4, 65), (4, 3000), (16, 3001), (MARKS, 3000)] {
            lines(dir.path(), len);
            let mut places = Places::<u64>::with_marks(marks, dir.path(), sum).unwrap();
            assert_eq!(places.len(), len);
            assert!(places.marks.len() <= marks && places.every * places.marks.len() as u64 >= len);
            // Back and forth, and to each neighbour.
            let mut seq = 0;
            for _ in 0..30 {
                seq = (seq * 7 + 1234) % len;
                for seq in [seq, seq, seq + 1, seq.saturating_sub(1)] {
                    let mut seen = Vec::new();
                    let look = |at, line: &[u8]| {
                        assert_eq!(number(line), at);
                        seen.push(at);
                        if seen.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                    };
                    places.each(seq..seq + 5, look).unwrap();
                    assert_eq!(seen, (seq..len.min(seq + 3)).collect::<Vec<_>>());
                }
                assert_eq!(places.state(seq).unwrap(), seq * (seq + 1) / 2);
            }
            assert!(matches!(places.record(len), Err(TraceError::NoRecord { .. })));
            assert!(matches!(places.record(len - 1), Err(TraceError::BadLine { .. })));
        }
    }

    #[test]
    fn a_trace_that_became_shorter_ends_where_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        lines(dir.path(), 300);
        let mut places = Places::<()>::read(dir.path(), |(), _, _| {}).unwrap();
        std::fs::write(layout::segment(dir.path(), 2), "").unwrap();
        assert!(matches!(places.record(299), Err(TraceError::NoRecord { .. })));
        let mut seen = 0;
        places
            .each(150..300, |_, _| {
                seen += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(seen, 50);
    }
}
