//! A trace in memory, for the tests of whoever asks a gate.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use failcore_gate::{Sink, SinkError};
use failcore_model::Event;

/// Keeps events, and fails or panics on demand.
#[derive(Default)]
pub struct Kept {
    pub events: Mutex<Vec<Event>>,
    pub full: AtomicBool,
    pub panics: bool,
}

impl Sink for Kept {
    fn append(&self, event: &Event) -> Result<(), SinkError> {
        assert!(!self.panics, "a sink that panics");
        if self.full.load(SeqCst) {
            return Err(SinkError("no space left on device".into()));
        }
        self.events.lock().unwrap().push(event.clone());
        Ok(())
    }
}
