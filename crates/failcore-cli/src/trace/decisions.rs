//! The decisions of a trace that can be believed, for what decides them again or compares them.

use std::path::Path;

use failcore_model::{Record, Request};
use failcore_trace::{Alteration, Index, Integrity, Report, TraceError};
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
/// worth making. A trace whose records are not what was signed is refused: it says nothing.
pub(crate) fn decisions(dir: &Path, notes: Notes, bar: &ProgressBar) -> Result<Decisions, Failure> {
    bar.set_message("verifying");
    if let Some(report) = believed(dir, notes)? {
        let mut index = Index::open(dir, &report).map_err(Problem::trace)?;
        if index.is_none() && report.records >= WORTH_AN_INDEX {
            // A directory that cannot be written to only costs the time.
            index = Index::build(dir, &report).ok();
        }
        if let Some(index) = index {
            return Ok(Decisions { records: Box::new(index), all: Some(report.records) });
        }
    }
    Ok(Decisions { records: Box::new(super::read(dir)?), all: None })
}

/// Whether a secret was taken out of a request where a rule could look: it cannot be decided again.
pub(crate) fn is_undecidable(request: &Request) -> bool {
    failcore_trace::redacted_field(request).is_some()
}

/// The report of records that are what was signed, from the first to the last.
pub(crate) fn believed(dir: &Path, notes: Notes) -> Result<Option<Report>, Failure> {
    if !dir.join("key.pub").exists() {
        notes.note("these records carry no signature: nothing says that they are what was written");
        return Ok(None);
    }
    let report = failcore_trace::verify(dir, None).map_err(Problem::trace)?;
    match &report.integrity {
        Integrity::Altered(Alteration { seq, flaw, .. }) => {
            let error = TraceError::Unverified(format!("{flaw} (record {seq})"));
            Err(Problem::trace(error).into())
        }
        // One whose end is missing is read as far as it goes.
        Integrity::NotClosed { .. } => Ok(None),
        Integrity::Valid => Ok(Some(report)),
    }
}
