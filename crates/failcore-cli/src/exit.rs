//! The exit codes, in one place: scripts and CI read them.

use std::process::ExitCode;

/// How a command of `failcore` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Success,
    /// The arguments, a policy or another input make no sense.
    Usage,
    /// The answer is no: denied, or not the same as before.
    Denied,
    /// The trace does not verify.
    Unverified,
    /// The replay took another way than the record.
    Diverged,
    /// FailCore itself failed.
    Failure,
    /// The command could not be started under the gate.
    NotStarted,
    /// What the child of a `run` ended with: its own code, or 128 + the signal's number.
    Child(u8),
}

impl Exit {
    /// The number the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::Unverified => 4,
            Self::Diverged => 5,
            Self::Failure => 125,
            Self::NotStarted => 126,
            Self::Child(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table shown by `failcore help` and in the man page.
pub(crate) const TABLE: &str = "\
Exit codes:
    0  all is well (run: the program's own code passes through, 128+N for signal N)
    2  wrong arguments, a broken policy, an input that is not there
    3  the answer is no: denied, or something changed
    4  the trace does not verify
    5  the replay diverged
  125  FailCore itself failed
  126  the program could not be started under the gate";
