//! The decision point: policy text to a checked [`PolicySet`], and [`PolicySet::decide`].
//!
//! `decide` is pure and total: no I/O, no lock, no clock, no panic on any request, no allocation when it allows.
//! Loading is where files are read, symbolic links followed and programs looked up; the outcome is one
//! self-contained text ([`PolicySet::resolved`]) from which the same decisions follow anywhere.

mod ask;
mod candidates;
mod capability;
pub mod check;
mod command;
mod decide;
mod denial;
mod document;
mod environment;
mod error;
mod expand;
mod host;
mod http;
mod index;
mod limits;
mod pattern;
mod payloads;
mod presets;
mod resolved;
mod rule;
mod set;
mod source;
mod tally;
mod trie;
mod upstream;

pub use ask::{AskError, ask};
pub use capability::Capability;
pub use document::schema;
pub use environment::{Environment, Python};
pub use error::{PolicyError, Problem};
pub use http::UrlPattern;
pub use limits::{Limits, duration};
pub use pattern::{Glob, Part, Pattern, PatternError};
pub use payloads::Payloads;
pub use rule::{Args, Credential, Effect, HostPattern, Key, Object, Over, Rule, Secret, Way};
pub use set::{Mode, PolicySet, Reads, Stdin};
pub use upstream::{AskedBy, NameServer};
