//! What the parent itself records: the supervisor's decisions go to the writer without a ring, under the same law of
//! credit.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use failcore_gate::{Sink, SinkError};
use failcore_model::Event;

use crate::page::RunPage;

/// Bytes of records that may wait for the writer; as much space is assured for them.
pub(crate) const CAPACITY: u64 = 4 << 20;
/// How long to wait for room before looking again whether there will ever be any.
const LOOK: Duration = Duration::from_millis(50);

/// Records on their way from the parent's threads to the writer.
#[derive(Default)]
pub(crate) struct Own {
    queue: Mutex<Queue>,
    room: Condvar,
}

#[derive(Default)]
struct Queue {
    events: Vec<Event>,
    /// Bytes that the waiting events come to.
    waiting: u64,
    /// Bytes taken from the space assured.
    used: u64,
    /// Why nothing is taken any more.
    closed: Option<String>,
}

impl Own {
    /// Puts an event in without asking for room: for the few facts that the parent must state.
    pub(crate) fn push(&self, event: Event) {
        self.lock().events.push(event);
    }

    /// Takes everything out; the bytes it was counted with.
    pub(crate) fn take(&self) -> (Vec<Event>, u64) {
        let mut queue = self.lock();
        (std::mem::take(&mut queue.events), std::mem::take(&mut queue.waiting))
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().events.is_empty()
    }

    /// Space for `bytes` was assured anew.
    pub(crate) fn grant(&self, bytes: u64) {
        let mut queue = self.lock();
        queue.used = queue.used.saturating_sub(bytes);
        drop(queue);
        self.room.notify_all();
    }

    /// Takes nothing any more, and says why.
    pub(crate) fn close(&self, why: &str) {
        self.lock().closed.get_or_insert_with(|| why.to_owned());
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sink for the parent's own threads.
///
/// What it has taken survives the death of the agent; only with the parent itself, and hence with the whole run, is
/// it lost.
pub(crate) struct OwnSink {
    pub(crate) own: Arc<Own>,
    pub(crate) page: RunPage,
}

impl Sink for OwnSink {
    fn append(&self, event: &Event) -> Result<(), SinkError> {
        let len = length(event).map_err(|error| SinkError(error.into()))?;
        if len > CAPACITY {
            return Err(SinkError(format!("a record of {len} bytes is too long").into()));
        }
        let event = event.clone();
        let mut queue = self.own.lock();
        loop {
            if let Some(why) = &queue.closed {
                return Err(SinkError(why.clone().into()));
            }
            if queue.used + len <= CAPACITY {
                break;
            }
            queue = match self.own.room.wait_timeout(queue, LOOK) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        queue.used += len;
        queue.waiting += len;
        queue.events.push(event);
        drop(queue);
        self.page.ring();
        Ok(())
    }
}

/// Bytes of the event's JSON, with room for what the record's head adds.
fn length(event: &Event) -> Result<u64, serde_json::Error> {
    const HEAD: u64 = 160;
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(HEAD);
    serde_json::to_writer(&mut count, event)?;
    Ok(count.0)
}
