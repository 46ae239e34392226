//! The decisions of a trace that can be believed, for what decides them again or compares them.

use std::fmt::{self, Display};
use std::path::Path;

use failcore_model::{Record, Request};
use failcore_trace::{Alteration, Index, Integrity, Report, Stamp, TraceError};
use indicatif::ProgressBar;

use crate::failure::{Failure, Problem};
use crate::ui::Notes;

/// From how many records on a trace gets an index, which a second reading does several times faster.
const WORTH_AN_INDEX: u64 = 50_000;

/// The decisions of a trace, one after the other.
pub(crate) struct Decisions {
    records: Box<dyn Iterator<Item = Result<Record, TraceError>> + Send>,
    /// How many records the trace has, where these are only some.
    pub(crate) all: Option<u64>,
}

impl Iterator for Decisions {
    type Item = Result<Record, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.next()
    }
}

/// Verifies the trace in `dir` and reads what was decided, of a whole one from its index where there is one or it is
/// worth making; one that verified before and was not written to since is not verified again. A trace whose records are not
/// what was signed is refused: it says nothing.
pub(crate) fn decisions(dir: &Path, notes: Notes, bar: &ProgressBar) -> Result<Decisions, Failure> {
    bar.set_message("verifying");
    // A way round; what fails there is gone another way.
    if let Ok(Some((index, all))) = Index::unchanged(dir) {
        return Ok(Decisions { records: Box::new(index), all: Some(all) });
    }
    let stamp = Stamp::of(dir);
    if let Some(report) = believed(dir)?.whole(notes) {
        let mut index = Index::open(dir, &report).map_err(Problem::trace)?;
        if index.is_none() && report.records >= WORTH_AN_INDEX {
            // A directory that cannot be written to only costs the time.
            index = Index::build(dir, &report).ok();
        }
        if let Some(index) = index {
            if let Some(stamp) = stamp {
                let _ = index.keep(&stamp);
            }
            return Ok(Decisions { records: Box::new(index), all: Some(report.records) });
        }
    }
    Ok(Decisions { records: Box::new(super::read(dir)?), all: None })
}

/// Whether a secret was taken out of a request where a rule could look: it cannot be decided again.
pub(crate) fn is_undecidable(request: &Request) -> bool {
    failcore_trace::redacted_field(request).is_some()
}

/// What says that the records of a trace are what was written.
pub(crate) enum Believed {
    /// They are what was signed, from the first to the last.
    Whole(Report),
    /// They are what was signed as far as that goes; the end is missing, or is still to come.
    NotClosed(Report),
    /// Nothing does.
    Unsigned,
}

impl Believed {
    /// The report of records that are what was signed, from the first to the last.
    pub(crate) fn whole(self, notes: Notes) -> Option<Report> {
        match self {
            Self::Whole(report) => Some(report),
            Self::NotClosed(_) => None,
            Self::Unsigned => {
                notes.note(UNSIGNED);
                None
            }
        }
    }
}

impl Display for Believed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(report) | Self::NotClosed(report) => report.fmt(f),
            Self::Unsigned => f.write_str(UNSIGNED),
        }
    }
}

const UNSIGNED: &str = "these records carry no signature: nothing says that they are what was written";

/// Verifies the trace in `dir`; one whose records are not what was signed is refused: it says nothing.
pub(crate) fn believed(dir: &Path) -> Result<Believed, Failure> {
    if !dir.join("key.pub").exists() {
        return Ok(Believed::Unsigned);
    }
    let report = failcore_trace::verify(dir, None).map_err(Problem::trace)?;
    match &report.integrity {
        Integrity::Altered(Alteration { seq, flaw, .. }) => {
            let error = TraceError::Unverified(format!("{flaw} (record {seq})"));
            Err(Problem::trace(error).into())
        }
        // One whose end is missing is read as far as it goes.
        Integrity::NotClosed { .. } => Ok(Believed::NotClosed(report)),
        Integrity::Valid => Ok(Believed::Whole(report)),
    }
}
