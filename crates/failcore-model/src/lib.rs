//! The words of FailCore.
//!
//! Everyone shares these types and nobody redefines them: an enforcement point decodes an operation into an
//! [`Action`], the gate completes it into a [`Request`], the policy answers with a [`Decision`], and the trace
//! keeps the [`Event`]s. Nothing here does I/O, reads a clock or contains `unsafe`.

mod action;
mod action_json;
mod addr;
mod addr_table;
mod context;
mod coverage;
mod decision;
mod denial;
mod event;
pub mod heard;
mod host;
pub mod input;
mod path;
mod request;
mod rights;
mod subject;
mod text;
mod time;
mod url_path;
mod verb;

pub use action::{
    Action, Endpoint, Family, FileId, FileRef, NativeObject, SignalTarget, SocketKind, Transport, UnixAddr,
};
pub use addr::{IpClass, embedded_v4, embedded_v4s, is_metadata};
pub use context::{Context, Counters, Lane};
pub use coverage::{Coverage, Hold, VerbCoverage};
pub use decision::{Decision, Fault, Obligation, Reason, RuleId, Verdict};
pub use denial::Denial;
pub use event::{Answer, Event, Outcome, Record, TRACE_VERSION};
pub use host::{Host, HostError, HostName};
pub use path::{AbsPath, PathError};
pub use request::Request;
pub use rights::Rights;
pub use subject::{Claims, Subject};
pub use text::Text;
pub use time::Timestamp;
pub use url_path::{UrlPathError, url_path};
pub use verb::Verb;
