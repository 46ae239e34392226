//! What can go wrong with a trace, grouped by whose fault it is.

use std::io;
use std::path::{Path, PathBuf};

/// Why a trace could not be written, read or proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    // The machine.
    /// The operating system refused.
    #[error("cannot {doing} `{}`: {source}", .path.display())]
    Io {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A write failed half-way and could not be undone; nothing more is appended after it.
    #[error("trace `{}` is broken by an earlier failed write", .0.display())]
    Broken(PathBuf),
    /// Neither `XDG_STATE_HOME` nor `HOME` names a directory.
    #[error("no place for traces: set `XDG_STATE_HOME` or `HOME` to an absolute path")]
    NoHome,

    // The caller.
    /// A forked child would write into its parent's trace.
    #[error("trace `{}` belongs to the process that this one was forked from", .0.display())]
    Forked(PathBuf),
    /// There is a trace already; one is never appended to by a second writer.
    #[error("`{}` already holds a trace", .0.display())]
    Exists(PathBuf),
    /// There is no trace.
    #[error("`{}` holds no trace", .0.display())]
    NoTrace(PathBuf),
    /// No run is called that.
    #[error("no run is called `{name}` in `{}`", .dir.display())]
    NoRun {
        /// What was asked for.
        name: String,
        /// Where was looked.
        dir: PathBuf,
    },
    /// Several runs start like that.
    #[error("`{prefix}` could be any of {}", .candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Some of the runs it fits.
        candidates: Vec<String>,
    },
    /// A session id that could not stand in a file name or in a signed line.
    #[error("`{0}` is no session id: letters, digits, `-` and `_` only")]
    BadSession(String),
    /// There is no such record.
    #[error("there is no record {seq}: the signed part of the trace ends before {signed}")]
    NoRecord {
        /// The record asked for.
        seq: u64,
        /// How many records the last checkpoint covers.
        signed: u64,
    },

    // The agent.
    /// Bytes from an agent that are not exactly one event.
    #[error("not an event: {0}")]
    NotAnEvent(String),
    /// With its secret taken out, the record could not be read back.
    #[error("a secret in the record cannot be taken out: {0}")]
    Unredactable(String),

    // The file.
    /// A line is no record.
    #[error("`{}` line {line}: {why}", .path.display())]
    BadLine {
        /// The segment.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The last line has no end: the writer was stopped while writing it, or the file was cut.
    #[error("`{}` line {line} is torn: it ends after {bytes} bytes without a newline", .path.display())]
    Torn {
        /// The segment.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// How much of it there is.
        bytes: u64,
    },
    /// A key file or key text is none.
    #[error("`{name}` is no key: {why}")]
    BadKey {
        /// The file, or the text.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Checkpoints that do not parse or whose signature is wrong.
    #[error("`{}` checkpoint {number}: {why}", .path.display())]
    BadCheckpoint {
        /// The file of checkpoints.
        path: PathBuf,
        /// Which one, from 0.
        number: u64,
        /// What is wrong.
        why: String,
    },
    /// A proof does not prove its record.
    #[error("the proof does not hold: {0}")]
    BadProof(&'static str),
    /// The trace is not what was signed; `verify` says where.
    #[error("the trace does not verify: {0}")]
    Unverified(String),
}

impl TraceError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.into(), source }
    }

    /// Whether the disk, a quota or a size limit is used up.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }
}
