//! The lines of a trace across its segments, each with where it stands; memory is one line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::{TraceError, layout};

/// Longest line accepted, in bytes. An action's largest parts are bounded by the kernel: 128 KiB an argument, paths
/// of 4 KiB (execve(2), `MAX_ARG_STRLEN`), 2 MiB of arguments by default.
pub(crate) const MAX_LINE: u64 = 64 << 20;

/// How much is read ahead, in bytes.
const AHEAD: usize = 256 << 10;

/// A cursor over lines.
pub(crate) struct Lines {
    dir: PathBuf,
    segment: u32,
    path: PathBuf,
    file: BufReader<File>,
    line: u64,
    bytes: u64,
    /// Bytes read so far of this segment.
    within: u64,
    /// The line's length with its newline, where it lies whole in what was read ahead.
    ahead: usize,
    /// The line, or what there is of it, where it does not.
    buffer: Vec<u8>,
}

/// Where a line begins.
pub(crate) struct Place {
    segment: u32,
    line: u64,
    within: u64,
}

/// What comes next.
pub(crate) enum Step {
    /// A whole line lies in [`Lines::text`].
    Line {
        /// Whether it is the first of its segment.
        first: bool,
    },
    /// Nothing more, at the end of a line.
    End,
    /// Part of a line lies in [`Lines::text`]; what follows it may still come.
    Torn,
}

impl Lines {
    /// Opens the first segment of the trace in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, TraceError> {
        let path = layout::segment(dir, 0);
        let file = File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                TraceError::NoTrace(dir.into())
            }
            _ => TraceError::io("open", &path)(e),
        })?;
        let file = BufReader::with_capacity(AHEAD, file);
        Ok(Self {
            dir: dir.into(),
            segment: 0,
            path,
            file,
            line: 0,
            bytes: 0,
            within: 0,
            ahead: 0,
            buffer: Vec::new(),
        })
    }

    /// Where the next line begins, if this segment has one: else it is the first of the next.
    pub(crate) fn place(&self) -> Place {
        Place { segment: self.segment, line: self.line, within: self.within }
    }

    /// Goes to where a line begins.
    pub(crate) fn go_to(&mut self, place: &Place) -> Result<(), TraceError> {
        self.ahead = 0;
        self.buffer.clear();
        if self.segment != place.segment {
            let path = layout::segment(&self.dir, place.segment);
            let file = File::open(&path).map_err(TraceError::io("open", &path))?;
            self.file = BufReader::with_capacity(AHEAD, file);
            (self.path, self.segment) = (path, place.segment);
        }
        self.file.seek(SeekFrom::Start(place.within)).map_err(TraceError::io("read", &self.path))?;
        (self.line, self.within) = (place.line, place.within);
        Ok(())
    }

    /// Moves on by one line, into the next segment where this one ends.
    pub(crate) fn step(&mut self) -> Result<Step, TraceError> {
        self.file.consume(std::mem::take(&mut self.ahead));
        if self.buffer.ends_with(b"\n") {
            self.buffer.clear();
        }
        loop {
            if self.fill()? {
                return Ok(Step::Line { first: self.line == 1 });
            }
            if !self.buffer.is_empty() {
                return Ok(Step::Torn);
            }
            let path = layout::segment(&self.dir, self.segment + 1);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Step::End),
                Err(e) => return Err(TraceError::io("open", &path)(e)),
            };
            // A writer still at work may have added to the old segment before it began this one.
            if self.fill()? {
                return Ok(Step::Line { first: self.line == 1 });
            }
            if !self.buffer.is_empty() {
                return Ok(Step::Torn);
            }
            self.file = BufReader::with_capacity(AHEAD, file);
            self.path = path;
            self.segment += 1;
            (self.line, self.within) = (0, 0);
        }
    }

    /// Reads up to the end of a line; whether it was reached.
    fn fill(&mut self) -> Result<bool, TraceError> {
        let fresh = self.buffer.is_empty();
        if fresh {
            let ahead = self.file.fill_buf().map_err(TraceError::io("read", &self.path))?;
            if let Some(end) = memchr::memchr(b'\n', ahead) {
                self.ahead = end + 1;
                self.bytes += self.ahead as u64;
                self.within += self.ahead as u64;
                self.line += 1;
                return Ok(true);
            }
        }
        let room = MAX_LINE.saturating_sub(self.buffer.len() as u64);
        let read = (&mut self.file)
            .take(room)
            .read_until(b'\n', &mut self.buffer)
            .map_err(TraceError::io("read", &self.path))?;
        self.bytes += read as u64;
        self.within += read as u64;
        self.line += u64::from(fresh && read > 0);
        if self.buffer.ends_with(b"\n") {
            return Ok(true);
        }
        if self.buffer.len() as u64 >= MAX_LINE {
            return Err(self.bad("it is too long for a record"));
        }
        Ok(false)
    }

    /// The line, without its newline.
    pub(crate) fn text(&self) -> &[u8] {
        if let Some(end) = self.ahead.checked_sub(1) {
            return &self.file.buffer()[..end];
        }
        self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer)
    }

    /// The line's number in its segment, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.line
    }

    /// The segment's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The segment's number, from 0.
    pub(crate) fn segment(&self) -> u32 {
        self.segment
    }

    /// Bytes read so far, over all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn bad(&self, why: impl Into<String>) -> TraceError {
        TraceError::BadLine { path: self.path.clone(), line: self.line, why: why.into() }
    }

    pub(crate) fn torn(&self) -> TraceError {
        TraceError::Torn { path: self.path.clone(), line: self.line, bytes: self.buffer.len() as u64 }
    }
}
