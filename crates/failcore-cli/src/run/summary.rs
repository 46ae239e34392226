//! The line at the end of a run.

use std::fmt;
use std::path::PathBuf;

use failcore_kernel::Tally;
use serde::Serialize;

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
    /// What ended it before its program did: a limit, or its `owner`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<&'static str>,
}

impl Summary {
    /// Of a run whose trace was just closed.
    pub(super) fn of(
        session: &str,
        trace: PathBuf,
        exit: u8,
        stopped: Option<&'static str>,
        tally: Tally,
    ) -> Self {
        let Tally { allowed, refused, absent } = tally;
        Self { session: session.into(), exit, allowed, refused, absent, stopped, trace }
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
