//! The page of counters that all processes of a run share.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};
use std::time::Duration;

use failcore_gate::Meter;
use failcore_model::{Action, Counters, Timestamp};
use rustix::io::Errno;
use rustix::thread::futex;

use crate::shared::Shared;

/// What lies at the start of the page.
#[repr(C)]
pub(crate) struct PageHeader {
    /// Bumped by whoever has put something into a ring; the parent sleeps on it.
    wake: AtomicU32,
    /// 1 while the parent sleeps, so that a wake-up costs a system call only then.
    sleeping: AtomicU32,
    opened: AtomicU64,
    operations: AtomicU64,
    connections: AtomicU64,
    processes: AtomicU64,
    write_bytes: AtomicU64,
    memory: AtomicU64,
}

/// The run's counters, and the bell that wakes the parent.
///
/// # Security
/// Every process that maps it can write it: in the interpreter lane, counters are as advisory as the lane. A supervisor
/// counts on a page of its own that no other process maps; to the agent's processes, theirs is a bell.
#[derive(Clone)]
pub struct RunPage(Arc<Shared>);

/// What the parent samples from outside.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sampled {
    /// Processes alive.
    pub processes: u64,
    /// Bytes written so far.
    pub write_bytes: u64,
    /// Bytes of memory in use.
    pub memory: u64,
}

impl RunPage {
    pub(crate) fn create(opened: Timestamp) -> Result<(Self, OwnedFd), Errno> {
        let (shared, fd) = Shared::create("failcore-run", 4096)?;
        let page = Self(Arc::new(shared));
        page.header().opened.store(opened.0, Relaxed);
        Ok((page, fd))
    }

    pub(crate) fn map(fd: impl AsFd) -> Result<Self, Errno> {
        Ok(Self(Arc::new(Shared::map_alone(fd)?)))
    }

    fn header(&self) -> &PageHeader {
        self.0.header()
    }

    /// Counts an operation that was allowed elsewhere.
    pub(crate) fn count_operation(&self) {
        self.header().operations.fetch_add(1, Relaxed);
    }

    /// Publishes what the parent measured.
    pub fn sample(&self, sampled: Sampled) {
        self.header().processes.store(sampled.processes, Relaxed);
        self.header().write_bytes.store(sampled.write_bytes, Relaxed);
        self.header().memory.store(sampled.memory, Relaxed);
    }

    /// Rings the bell: something is in a ring.
    pub(crate) fn ring(&self) {
        let header = self.header();
        // Ordered after the ring's own publication; see `doze` for the other half.
        if header.sleeping.load(SeqCst) != 0 {
            header.wake.fetch_add(1, AcqRel);
            let _ = futex::wake(&header.wake, futex::Flags::empty(), 1);
        }
    }

    /// Sleeps until the bell rings or `timeout` passes, unless `is_idle` finds work after announcing the sleep.
    pub(crate) fn doze(&self, timeout: Duration, is_idle: impl FnOnce() -> bool) {
        let header = self.header();
        let seen = header.wake.load(Acquire);
        header.sleeping.store(1, SeqCst);
        if is_idle() {
            let timeout = futex::Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            };
            let _ = futex::wait(&header.wake, futex::Flags::empty(), seen, Some(&timeout));
        }
        header.sleeping.store(0, Release);
    }
}

impl Meter for RunPage {
    fn counters(&self, now: Timestamp) -> Counters {
        let header = self.header();
        Counters {
            wall_ns: now.0.saturating_sub(header.opened.load(Relaxed)),
            operations: header.operations.load(Relaxed),
            connections: header.connections.load(Relaxed),
            processes: header.processes.load(Relaxed),
            write_bytes: header.write_bytes.load(Relaxed),
            memory: header.memory.load(Relaxed),
        }
    }

    fn count(&self, action: &Action) {
        self.count_operation();
        if matches!(action, Action::Connect(_) | Action::IpcConnect(_)) {
            self.header().connections.fetch_add(1, Relaxed);
        }
    }
}
