//! Keeps what a program learns from outside, and lays it out again, so that the same program can be run with nothing
//! outside.
//!
//! While a program is recorded, a [`Recorder`] is told of every path it looks at and every file it reads, and writes what
//! stood there into the trace; contents go into the trace's `objects`, by their SHA-256. Afterwards a [`Recording`] reads
//! that back and [lays it out](Recording::lay_out) as a tree of files, which is all that a second run finds.

mod instead;
mod known;
mod layout;
mod program;
mod recorder;
mod recording;
mod replayed;
mod shapes;
mod store;
mod walk;

pub use layout::Unready;
pub use recorder::{Keeping, Recorder};
pub use recording::{BadRecording, Given, Recording};
pub use replayed::{Live, Replayed};
pub use store::{Objects, Store, StoreError};
