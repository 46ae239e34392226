//! What can go wrong in the command itself, whose fault it is, and the remedy.

use std::io;
use std::path::{Path, PathBuf};

use failcore_kernel::{ServerError, StartError, WireError};
use failcore_policy::PolicyError;
use failcore_record::StoreError;
use failcore_relay::CredentialError;
use failcore_trace::TraceError;
use miette::Diagnostic;
use thiserror::Error;

use crate::exit::Exit;

/// An error with the exit code it ends the command with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) report: miette::Report,
}

impl Failure {
    /// An error that ends the command with `exit`.
    pub(crate) fn new(exit: Exit, error: impl Diagnostic + Send + Sync + 'static) -> Self {
        Self { exit, report: miette::Report::new(error) }
    }

    /// The same error where it keeps a program from starting: nothing has run, and 126 says so.
    pub(crate) fn before_start(self) -> Self {
        Self { exit: Exit::NotStarted, ..self }
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::new(problem.exit(), problem)
    }
}

/// What the command itself finds wrong; policies and traces bring their own errors.
#[derive(Debug, Error, Diagnostic)]
pub(crate) enum Problem {
    // What was asked for makes no sense.
    /// There is no such file.
    #[error("there is no file `{}`", path.display())]
    #[diagnostic(help("{help}"))]
    Missing { path: PathBuf, help: &'static str },
    /// It is already there.
    #[error("`{}` is already there", path.display())]
    #[diagnostic(help("nothing was written; name another file, or remove this one first"))]
    Exists { path: PathBuf },
    /// A word on the command line means nothing.
    #[error("{what}")]
    #[diagnostic(help("{help}"))]
    Nonsense { what: String, help: String },

    // The program cannot be started.
    /// The program is not there or cannot be executed.
    #[error("cannot find the program `{program}`")]
    #[diagnostic(help("it is neither a path nor on PATH; name it as you would in a shell"))]
    NoProgram { program: String },
    /// The program is nothing that this lane can hold.
    #[error("`{program}` is not run: {why}")]
    #[diagnostic(help("{help}"))]
    NotHeld { program: String, why: String, help: String },
    /// This machine does not hold the lane.
    #[error("the kernel lane does not hold here: {missing}")]
    #[diagnostic(help(
        "`failcore doctor` says more; `--lane runtime` holds Python code alone, and native code can go round it"
    ))]
    LaneMissing { missing: &'static str },
    /// The program cannot be given the capabilities that the policy names.
    #[error("{what}")]
    #[diagnostic(help("{help}"))]
    Capabilities { what: String, help: &'static str },
    /// The lane carries no connections, and the policy wants some carried.
    #[error("carried connections need the kernel lane, and {place} says `{rule}`")]
    #[diagnostic(help("run with `--lane kernel`, or grant the host as `connect` alone"))]
    Uncarried { rule: String, place: String },
    /// A secret that requests are to carry is not there.
    #[error("{0}")]
    #[diagnostic(help("nothing of the program ran; what the policy names is read by `failcore run` itself"))]
    Credential(CredentialError),
    /// Names cannot be looked up as the policy says.
    #[error("the name servers of `[dns] upstream` cannot be asked: {why}")]
    #[diagnostic(help("{help}"))]
    Upstream { why: String, help: &'static str },
    /// The supervisor did not start the program; nothing of it ran.
    #[error("{error}")]
    Supervisor {
        error: StartError,
        #[help]
        help: Option<String>,
    },
    /// A part of FailCore itself is not installed.
    #[error("a part of FailCore is missing: {what}")]
    #[diagnostic(help(
        "install the `failcore` package into the environment of this command; `failcore doctor` shows what is found"
    ))]
    NotInstalled { what: String },

    /// The program could not be executed.
    #[error("cannot start `{}`", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The parent's side could not be set up.
    #[error("cannot set the gate up")]
    #[diagnostic(help(
        "the system refused what every run needs; `ulimit -a` shows the limits here, `failcore doctor` the rest"
    ))]
    Start {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The program ran and never attached.
    #[error("`{}` never entered the gate: nothing that it did was held or recorded", program.display())]
    #[diagnostic(help(
        "it is called like a Python interpreter but does not behave as one; name the real one"
    ))]
    NeverEntered { program: PathBuf },

    // Runs under way.
    /// There is none of that name.
    #[error("no run under way is called `{name}`")]
    #[diagnostic(help(
        "`failcore ps` lists those there are, `failcore trace list` those that have ended too"
    ))]
    NoRun { name: String },
    /// It does not answer.
    #[error("the run {session} does not answer: {error}")]
    #[diagnostic(help(
        "its `failcore run` may be stopped in its terminal (`fg` there sets it going); `failcore stop` ends it all the same"
    ))]
    Unanswered { session: String, error: WireError },
    /// Where runs are found is not this user's alone.
    #[error("`{}` is not closed to others, or not yours", path.display())]
    #[diagnostic(help(
        "whoever can enter it could stop your runs: see what is in it, then `chmod 700` it, or remove it"
    ))]
    Shared { path: PathBuf },

    // Recordings.
    /// Nothing can be kept.
    #[error("what the program learns cannot be kept")]
    #[diagnostic(help("nothing of it ran; the trace's directory has to take as much as the program reads"))]
    Unkept {
        #[source]
        source: StoreError,
    },
    /// A trace that nothing can be run again from.
    #[error("{} cannot be run again: {why}", trace.display())]
    #[diagnostic(help("{help}"))]
    NotAgain { trace: PathBuf, why: String, help: &'static str },

    // The trace.
    /// A trace cannot be written, found, read or believed.
    #[error("{error}")]
    Trace {
        error: TraceError,
        #[help]
        help: Option<&'static str>,
    },

    // The system refused.
    /// A file operation failed.
    #[error("cannot {verb} `{}`", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
        #[help]
        help: Option<&'static str>,
    },
    /// Another system call failed.
    #[error("cannot {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Problem {
    /// A file operation that failed.
    pub(crate) fn io(verb: &'static str, path: &Path, source: io::Error) -> Self {
        let help = remedy(&source);
        Self::Io { verb, path: path.into(), source, help }
    }

    /// A system call that failed.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::System { what, source: errno.into() }
    }

    /// A program that the supervisor did not start.
    pub(crate) fn supervisor(error: StartError) -> Self {
        let help = match &error {
            StartError::Refused(denial) => denial.hint.clone(),
            StartError::Exec { why, .. } => Some(
                match why.kind() {
                    io::ErrorKind::NotFound => {
                        "the interpreter that it names, in its first line or inside, is not there"
                    }
                    io::ErrorKind::PermissionDenied => {
                        "you may not execute it; `chmod +x`, or a mount with noexec"
                    }
                    _ => "it is nothing that this machine can execute",
                }
                .into(),
            ),
            StartError::NotFound(_) => Some("name it as you would in a shell".into()),
            StartError::Nul(_) => Some("no program can be given such a string".into()),
            StartError::Directory(_) => Some("name another with --cwd".into()),
            StartError::Kernel { .. } | StartError::Leaks(_) => Some(
                "`failcore doctor` says what this machine holds; `--lane runtime` holds Python code alone"
                    .into(),
            ),
            _ => None,
        };
        Self::Supervisor { error, help }
    }

    /// What keeps the parent's side from starting.
    pub(crate) fn start(error: ServerError) -> Self {
        match error {
            ServerError::Trace(error) => Self::trace(error),
            other => Self::Start { source: other.into() },
        }
    }

    /// Something about a trace.
    pub(crate) fn trace(error: TraceError) -> Self {
        let help = match &error {
            TraceError::NoTrace(_) | TraceError::NoRun { .. } | TraceError::Ambiguous { .. } => {
                Some("`failcore trace list` shows the runs there are")
            }
            TraceError::Exists(_) => {
                Some("a trace is never appended to; name a directory that is not there yet")
            }
            TraceError::BadLine { .. }
            | TraceError::Torn { .. }
            | TraceError::BadCheckpoint { .. }
            | TraceError::Unverified(_) => {
                Some("`failcore trace verify` says what of the trace is still what was signed")
            }
            TraceError::NoHome => Some("or give --trace DIR"),
            error if error.is_full() => Some("make room there, or choose another place with --trace DIR"),
            TraceError::Io { source, .. } => remedy(source),
            _ => None,
        };
        Self::Trace { error, help }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Trace { error, .. } => match error {
                TraceError::NoHome
                | TraceError::Exists(_)
                | TraceError::NoTrace(_)
                | TraceError::NoRun { .. }
                | TraceError::Ambiguous { .. }
                | TraceError::BadSession(_)
                | TraceError::NoRecord { .. }
                | TraceError::BadKey { .. } => Exit::Usage,
                TraceError::BadLine { .. }
                | TraceError::Torn { .. }
                | TraceError::BadCheckpoint { .. }
                | TraceError::BadProof(_)
                | TraceError::Unverified(_) => Exit::Unverified,
                _ => Exit::Failure,
            },
            Self::Missing { .. } | Self::Exists { .. } | Self::Nonsense { .. } | Self::NoRun { .. } => {
                Exit::Usage
            }
            Self::NoProgram { .. }
            | Self::NotHeld { .. }
            | Self::LaneMissing { .. }
            | Self::Capabilities { .. }
            | Self::Uncarried { .. }
            | Self::Credential(_)
            | Self::Upstream { .. }
            | Self::Supervisor { .. }
            | Self::NotInstalled { .. }
            | Self::Spawn { .. }
            | Self::Start { .. }
            | Self::Unkept { .. }
            | Self::NotAgain { .. } => Exit::NotStarted,
            Self::NeverEntered { .. }
            | Self::Unanswered { .. }
            | Self::Shared { .. }
            | Self::Io { .. }
            | Self::System { .. } => Exit::Failure,
        }
    }
}

fn remedy(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::PermissionDenied => "you have no permission there; choose another place",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another place",
        io::ErrorKind::StorageFull => "the disk is full",
        io::ErrorKind::NotFound => "it, or the directory it lies in, does not exist",
        io::ErrorKind::NotADirectory => "something on its path is a file, not a directory",
        _ => return None,
    })
}
