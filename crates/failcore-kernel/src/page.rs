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
    /// Held by the parent; see [`alive`](crate::alive).
    alive: AtomicU32,
    _apart: AtomicU32,
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
    /// A page for this process and those that it forks.
    ///
    /// # Errors
    /// The kernel's, where it has no memory for it.
    pub fn alone(opened: Timestamp) -> Result<Self, Errno> {
        Self::create(opened).map(|(page, _)| page)
    }

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

    /// The word that says whether the parent lives.
    pub(crate) fn alive(&self) -> &AtomicU32 {
        &self.header().alive
    }

    /// Publishes what the parent measured.
    pub fn sample(&self, sampled: Sampled) {
        self.header().processes.store(sampled.processes, Relaxed);
        self.header().write_bytes.store(sampled.write_bytes, Relaxed);
        self.header().memory.store(sampled.memory, Relaxed);
    }

    /// As [`Server::postpone`](crate::Server::postpone).
    pub(crate) fn postpone(&self, by: Duration) {
        self.header().opened.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Relaxed);
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
    fn reserve(&self, action: &Action, now: Timestamp) -> Counters {
        let header = self.header();
        Counters {
            wall_ns: now.0.saturating_sub(header.opened.load(Relaxed)),
            operations: header.operations.fetch_add(1, Relaxed),
            connections: header.connections.fetch_add(connections(action), Relaxed),
            processes: header.processes.load(Relaxed),
            write_bytes: header.write_bytes.load(Relaxed),
            memory: header.memory.load(Relaxed),
        }
    }

    fn release(&self, action: &Action) {
        self.header().operations.fetch_sub(1, Relaxed);
        self.header().connections.fetch_sub(connections(action), Relaxed);
    }
}

/// How many connections an operation makes.
fn connections(action: &Action) -> u64 {
    matches!(action, Action::Connect(_) | Action::IpcConnect(_)).into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use failcore_gate::{Gate, Sink, SinkError};
    use failcore_model::{AbsPath, Claims, Endpoint, Event, Lane, Transport};
    use failcore_policy::{Environment, PolicySet};

    use super::*;

    struct Forgotten;

    impl Sink for Forgotten {
        fn append(&self, _: &Event) -> Result<(), SinkError> {
            Ok(())
        }
    }

    #[test]
    fn a_crowd_gets_no_more_than_one() {
        const MOST: usize = 50;
        let text = "[net]\nconnect = [\"127.0.0.1:*\"]\n[limits]\nconnections = 50\n";
        let policy = PolicySet::parse("policy", text, &AbsPath::root(), &Environment::default()).unwrap();
        let policy = Arc::new(policy);
        for round in 0..200 {
            let (page, _fd) = RunPage::create(Timestamp(0)).unwrap();
            // One gate for each, as each process has its own.
            let gate = || {
                Gate::builder(Arc::clone(&policy), Arc::new(Forgotten), Lane::Runtime)
                    .meter(Arc::new(page.clone()))
                    .build()
            };
            let connect = || {
                let addr = "127.0.0.1:80".parse().unwrap();
                Action::Connect(Endpoint::Inet { transport: Transport::Tcp, addr })
            };
            let allowed = AtomicUsize::new(0);
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let gate = gate();
                        start.wait();
                        for _ in 0..MOST {
                            if gate.check(connect(), Claims::default(), &[]).is_ok() {
                                allowed.fetch_add(1, SeqCst);
                            }
                        }
                    });
                }
            });
            assert_eq!(allowed.into_inner(), MOST, "round {round}");
        }
    }
}
