//! Reading a trace record by record.

use std::path::Path;
use std::sync::Arc;

use failcore_model::{Event, Record, TRACE_VERSION};

use crate::lines::{Lines, Step};
use crate::{TraceError, layout};

/// The records of a trace in order, over all its segments; memory is one record.
///
/// It reads what is there, whether or not that is what was signed: [`verify`](crate::verify()) tells.
pub struct Reader {
    lines: Lines,
    next: u64,
    session: Option<Arc<str>>,
    follow: bool,
    closed: bool,
    failed: bool,
}

impl Reader {
    /// Opens a trace by its directory, or by a file in it.
    ///
    /// # Errors
    /// [`TraceError::NoTrace`], [`TraceError::Io`].
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let dir = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        if !path.exists() || !layout::segment(dir, 0).exists() {
            return Err(TraceError::NoTrace(path.into()));
        }
        Ok(Self {
            lines: Lines::open(dir)?,
            next: 0,
            session: None,
            follow: false,
            closed: false,
            failed: false,
        })
    }

    /// Follows a trace that is still being written: the iterator then ends with `None` where the writer is, and may
    /// be asked again later; a line that is only half there is waited for.
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Whether the record that closes the session was read: nothing more comes.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The line of the record read last, from 1, in its segment.
    pub fn line(&self) -> u64 {
        self.lines.number()
    }

    fn read(&mut self) -> Result<Option<Record>, TraceError> {
        match self.lines.step()? {
            Step::Line { .. } => {}
            Step::End => return Ok(None),
            Step::Torn if self.follow => return Ok(None),
            Step::Torn => return Err(self.lines.torn()),
        }
        let record = record(self.lines.text()).map_err(|why| self.lines.bad(why))?;
        if self.closed {
            return Err(self.lines.bad("it stands after the end of the session"));
        }
        if record.seq != self.next {
            return Err(self.lines.bad(format!("it is record {}, not {}", record.seq, self.next)));
        }
        let session = self.session.get_or_insert_with(|| record.session.clone());
        if *session != record.session {
            return Err(self.lines.bad(format!("it is of another session, `{}`", record.session)));
        }
        self.next += 1;
        self.closed = matches!(record.event, Event::SessionClosed { .. });
        Ok(Some(record))
    }
}

/// Reads one line. Checked as UTF-8 at once, which is cheaper than string by string.
pub(crate) fn record(line: &[u8]) -> Result<Record, String> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    serde_json::from_str(text).map_err(|e| match version(text) {
        // A later version may have fields that are not known here: say what matters.
        Some(v) if v != TRACE_VERSION => format!("record version {v} is not known"),
        _ => e.to_string().replace(" at line 1 column ", " at column "),
    })
}

fn version(text: &str) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    serde_json::from_str::<Version>(text).ok().map(|version| version.v)
}

impl Iterator for Reader {
    type Item = Result<Record, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.read().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}
