//! The line at the end of a run.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;
use serde::Serialize;

use super::io_problem;
use crate::failure::Failure;
use crate::ui::{BAD, FAINT, GOOD, STRONG, Styled};

/// What came of a run.
#[derive(Serialize)]
pub(super) struct Summary {
    session: String,
    trace: PathBuf,
    exit: u8,
    allowed: u64,
    refused: u64,
    /// Refusals of files that are not there.
    absent: u64,
    /// The limit that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<&'static str>,
}

impl Summary {
    /// Counts the decisions in the trace that was just closed.
    pub(super) fn of(
        session: &str,
        trace: PathBuf,
        exit: u8,
        stopped: Option<&'static str>,
    ) -> Result<Self, Failure> {
        let mut summary =
            Self { session: session.into(), exit, allowed: 0, refused: 0, absent: 0, stopped, trace };
        let mut segments: Vec<PathBuf> = summary
            .trace
            .read_dir()
            .map_err(io_problem("list", &summary.trace))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|file| file.extension().is_some_and(|end| end == "jsonl"))
            .collect();
        segments.sort();
        for segment in segments {
            summary.count(&segment).map_err(io_problem("read", &segment))?;
        }
        Ok(summary)
    }

    /// Looks for the words the writer puts into each decision. A string in a record cannot hold them: its quotes
    /// are escaped.
    fn count(&mut self, segment: &Path) -> std::io::Result<()> {
        let allow = Finder::new(br#""decision":{"verdict":"allow""#);
        let absent = Finder::new(br#""decision":{"verdict":"deny","reason":"absent""#);
        let deny = Finder::new(br#""decision":{"verdict":"deny""#);
        let mut lines = BufReader::with_capacity(1 << 16, File::open(segment)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            if allow.find(&line).is_some() {
                self.allowed += 1;
            } else if absent.find(&line).is_some() {
                self.absent += 1;
            } else if deny.find(&line).is_some() {
                self.refused += 1;
            }
            line.clear();
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = Styled(if self.refused > 0 { BAD } else { FAINT }, self.refused);
        write!(f, "{} allowed, {refused} refused", Styled(GOOD, self.allowed))?;
        if self.absent > 0 {
            write!(f, "{}", Styled(FAINT, format_args!(", {} not there", self.absent)))?;
        }
        write!(f, "; trace {}", Styled(STRONG, self.trace.display()))
    }
}
