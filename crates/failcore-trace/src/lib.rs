//! The record of what an agent did: JSON Lines that anyone can read, a Merkle log that nobody can quietly change.
//!
//! A trace is a directory, written by one [`Writer`]: `trace.jsonl` and its later segments hold one record a line,
//! `leaves` the hash of each line, `checkpoints` the signed roots over them (RFC 6962, C2SP tlog-checkpoint),
//! `policy.toml` the policy as resolved and `key.pub` the public key. [`Reader`] gives the records back, [`verify()`]
//! compares them with what was signed, [`prove()`] takes one out with its proof.
//!
//! Nothing here knows policies, kernels or Python: an auditor needs this crate and a public key.

mod checkpoint;
mod error;
mod index;
mod key;
mod layout;
mod lines;
mod merkle;
mod packed;
mod places;
mod prove;
mod reader;
mod redact;
mod runs;
mod shapes;
mod stamp;
mod verify;
mod writer;

pub use error::TraceError;
pub use index::Index;
pub use key::{SigningKey, VerifyingKey};
pub use layout::discard;
pub use packed::{Unpacker, pack};
pub use places::{Places, read_record};
pub use prove::{Proof, prove, verify_proof};
pub use reader::Reader;
pub use redact::{Redactor, is_redacted, redacted_field, without_secrets};
pub use runs::{is_session_id, key_path, locate, locate_in, new_session_id, runs_dir, state_dir};
pub use stamp::Stamp;
pub use verify::{Alteration, Flaw, Integrity, Report, verify};
pub use writer::{Options, Writer};

/// The JSON Schema of a record.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(failcore_model::Record)
}
