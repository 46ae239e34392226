//! What is said over the control socket of a run: an order, and its answer.

use std::path::PathBuf;

use failcore_model::{Answer, Lane, Text, Timestamp};
use serde::{Deserialize, Serialize};

/// What the owner of a run wants of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Say how you are.
    Status {},
    /// Stand still.
    Pause {},
    /// Go on.
    Resume {},
    /// End, after so many milliseconds in which the program may end by itself.
    Stop {
        /// None of them: at once.
        grace: u64,
    },
    /// The answer to what the program asks for.
    Answer {
        /// The question's number.
        question: u64,
        /// Yes or no.
        answer: Answer,
    },
}

/// What the run says to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// To [`Order::Status`].
    Status(Box<Status>),
    /// It was done, or was so already.
    Done {
        /// Whether it was not so before.
        changed: bool,
    },
    /// Nothing of it runs any more.
    Stopped {
        /// How many processes were ended.
        processes: u64,
    },
    /// The answer was taken.
    Answered {
        /// What it was about.
        operation: String,
    },
    /// It could not be done.
    No {
        /// Why.
        why: String,
        /// What helps.
        help: String,
    },
}

/// How a run is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) session: String,
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<Text>,
    /// The owner's own label.
    #[serde(rename = "run", skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<Text>,
    pub(crate) lane: Lane,
    /// The policy's name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    pub(crate) command: Vec<Text>,
    pub(crate) trace: PathBuf,
    /// The process of `failcore run`.
    pub(crate) pid: u32,
    pub(crate) since: Timestamp,
    pub(crate) processes: u64,
    pub(crate) allowed: u64,
    pub(crate) refused: u64,
    /// Refusals of files that are not there.
    pub(crate) absent: u64,
    pub(crate) waiting: Vec<Question>,
}

/// Whether a run runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    Paused,
    Stopping,
}

/// What a program asks leave for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) id: u64,
    /// Verb and resource. Cut short it ends with `…`.
    pub(crate) operation: String,
    /// The process that waits.
    pub(crate) pid: u32,
    /// The tool scope it says it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool: Option<Text>,
    pub(crate) asked: Timestamp,
    /// How many seconds are left until the answer is no.
    pub(crate) left: u64,
}
