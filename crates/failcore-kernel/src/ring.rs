//! A ring of records between one agent process and the parent that writes the trace.
//!
//! One producer process (its threads take turns), one consumer. The producer may only write as far as the parent
//! has granted credit, and the parent grants only what it can keep: so a record in the ring is as good as written,
//! whatever happens to the agent's process afterwards.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::time::{Duration, Instant};

use failcore_gate::{Sink, SinkError};
use failcore_model::Event;
use rustix::io::Errno;
use rustix::thread::futex;

use crate::alive;
use crate::page::RunPage;
use crate::shared::Shared;

/// Bytes of records a ring holds. A power of two.
pub(crate) const CAPACITY: usize = 1 << 18;
/// The largest record accepted; a longer one is refused, and with it the operation.
const MAX_RECORD: usize = 1 << 17;
/// Where the records start.
const HEADER: usize = 4096;
/// How long a producer waits for credit before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Each record is preceded by its length and padded to this, which bounds how much longer it gets in the trace.
const ALIGN: usize = 64;
/// Bytes that the trace takes at most for each byte in a ring: the smallest record is a full line there, and an
/// identity of two bytes comes to eighteen in JSON.
pub(crate) const EXPANSION: u64 = 12;

/// What lies at the start of a ring. Positions count bytes since the ring was made and never wrap.
#[repr(C)]
pub(crate) struct RingHeader {
    /// Written up to here, by the producer.
    head: AtomicU64,
    /// Apart from `head`, so that the two sides do not share a cache line.
    _apart: [AtomicU64; 7],
    /// The producer may write up to here, set by the parent.
    credit: AtomicU64,
    /// Bumped with `credit`; a producer without credit sleeps on it.
    bell: AtomicU32,
    /// How many producers sleep.
    waiting: AtomicU32,
}

/// Why a record did not get into the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingError {
    #[error("the record is too large")]
    TooLarge,
    #[error("the parent grants no more space")]
    NoCredit,
    #[error("the parent that writes the trace is gone")]
    ParentGone,
    #[error("another thread failed while writing")]
    Poisoned,
}

/// The agent's side.
pub(crate) struct Producer {
    shared: Shared,
    page: RunPage,
    /// The position to write at, and a buffer for the record's bytes.
    at: Mutex<(u64, Vec<u8>)>,
}

impl Producer {
    pub(crate) fn map(fd: impl AsFd, page: RunPage) -> Result<Self, Errno> {
        let shared = Shared::map_alone(fd)?;
        if shared.len() != HEADER + CAPACITY {
            return Err(Errno::INVAL);
        }
        shared.populate();
        Ok(Self { shared, page, at: Mutex::new((0, Vec::with_capacity(4096))) })
    }

    fn header(&self) -> &RingHeader {
        self.shared.header()
    }

    fn push(&self, event: &Event) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut at = self.at.lock().map_err(|_| RingError::Poisoned)?;
        let (position, buffer) = &mut *at;
        buffer.clear();
        buffer.extend_from_slice(&[0; 4]);
        failcore_trace::pack(event, buffer)?;
        let len = buffer.len() - 4;
        if len > MAX_RECORD {
            return Err(RingError::TooLarge.into());
        }
        buffer[..4].copy_from_slice(&u32::try_from(len)?.to_le_bytes());
        buffer.resize(buffer.len().next_multiple_of(ALIGN), 0);
        let end = *position + buffer.len() as u64;
        self.await_credit(end)?;

        let offset = (*position % CAPACITY as u64) as usize;
        let first = buffer.len().min(CAPACITY - offset);
        self.shared.copy_in(HEADER + offset, &buffer[..first]);
        self.shared.copy_in(HEADER, &buffer[first..]);
        *position = end;
        self.header().head.store(end, SeqCst);
        drop(at);
        self.page.ring();
        Ok(())
    }

    fn await_credit(&self, end: u64) -> Result<(), RingError> {
        let header = self.header();
        // Credit outlives the parent, the ring does not.
        if !alive::is_held(self.page.alive()) {
            return Err(RingError::ParentGone);
        }
        if header.credit.load(Acquire) >= end {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        header.waiting.fetch_add(1, SeqCst);
        let answer = loop {
            let seen = header.bell.load(Acquire);
            if header.credit.load(SeqCst) >= end {
                break Ok(());
            }
            if !alive::is_held(self.page.alive()) {
                break Err(RingError::ParentGone);
            }
            if Instant::now() >= deadline {
                break Err(RingError::NoCredit);
            }
            self.page.ring();
            let nap = futex::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = futex::wait(&header.bell, futex::Flags::empty(), seen, Some(&nap));
        };
        header.waiting.fetch_sub(1, SeqCst);
        answer
    }
}

impl Sink for Producer {
    fn append(&self, event: &Event) -> Result<(), SinkError> {
        self.push(event).map_err(SinkError)
    }
}

/// The parent's side.
pub(crate) struct Consumer {
    shared: Shared,
    tail: u64,
}

/// The producer broke the protocol: what is in the ring cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process wrote nonsense into its record ring")]
pub(crate) struct Nonsense;

impl Consumer {
    /// Makes a ring without credit; its descriptor is for the agent.
    pub(crate) fn create() -> Result<(Self, OwnedFd), Errno> {
        let (shared, fd) = Shared::create("failcore-ring", HEADER + CAPACITY)?;
        Ok((Self { shared, tail: 0 }, fd))
    }

    fn header(&self) -> &RingHeader {
        self.shared.header()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.header().head.load(SeqCst) == self.tail
    }

    /// Copies the next record out; `None` where there is none.
    ///
    /// # Errors
    /// [`Nonsense`] where lengths and positions cannot be true.
    pub(crate) fn next(&mut self, out: &mut Vec<u8>) -> Result<Option<()>, Nonsense> {
        let head = self.header().head.load(Acquire);
        let ready = head.checked_sub(self.tail).ok_or(Nonsense)?;
        if ready == 0 {
            return Ok(None);
        }
        if ready > CAPACITY as u64 || !ready.is_multiple_of(ALIGN as u64) {
            return Err(Nonsense);
        }
        out.clear();
        self.copy_wrapping(self.tail, 4, out);
        let Ok(length) = <[u8; 4]>::try_from(out.as_slice()) else { return Err(Nonsense) };
        let len = u32::from_le_bytes(length) as usize;
        let whole = (len + 4).next_multiple_of(ALIGN) as u64;
        if len > MAX_RECORD || whole > ready {
            return Err(Nonsense);
        }
        out.clear();
        self.copy_wrapping(self.tail + 4, len, out);
        self.tail += whole;
        Ok(Some(()))
    }

    fn copy_wrapping(&self, position: u64, len: usize, out: &mut Vec<u8>) {
        let offset = (position % CAPACITY as u64) as usize;
        let first = len.min(CAPACITY - offset);
        self.shared.copy_out(HEADER + offset, first, out);
        self.shared.copy_out(HEADER, len - first, out);
    }

    /// Lets the producer write as much as the ring holds beyond what was taken. Call it when space for that is
    /// assured.
    pub(crate) fn grant(&self) {
        let header = self.header();
        let credit = self.tail + CAPACITY as u64;
        if header.credit.load(Relaxed) == credit {
            return;
        }
        header.credit.store(credit, SeqCst);
        header.bell.fetch_add(1, Release);
        if header.waiting.load(SeqCst) > 0 {
            let _ = futex::wake(&header.bell, futex::Flags::empty(), u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use failcore_trace::Unpacker;

    use super::*;

    fn ring() -> (Producer, Consumer) {
        let (page, page_fd) = RunPage::create(failcore_model::Timestamp(0)).unwrap();
        std::mem::forget(alive::hold(&page).unwrap());
        let (consumer, fd) = Consumer::create().unwrap();
        (Producer::map(fd, RunPage::map(page_fd).unwrap()).unwrap(), consumer)
    }

    fn said(text: String) -> Event {
        Event::ScopeLeft { pid: 1, tid: 1, scope: vec![text.into()] }
    }

    fn unpacked(bytes: &[u8]) -> Option<Event> {
        Unpacker::default().unpack(bytes).ok()
    }

    #[test]
    fn records_come_out_as_they_went_in_across_the_wrap() {
        let (producer, mut consumer) = ring();
        consumer.grant();
        let mut out = Vec::new();
        for round in 0..40 {
            let event = said("x".repeat(1000 * (round + 7) % 100_000));
            producer.append(&event).unwrap();
            consumer.next(&mut out).unwrap().unwrap();
            assert_eq!(unpacked(&out), Some(event));
            assert_eq!(consumer.next(&mut out), Ok(None));
            consumer.grant();
        }
    }

    #[test]
    fn a_full_ring_waits_for_the_parent_and_threads_take_turns() {
        let (producer, mut consumer) = ring();
        consumer.grant();
        let (threads, each) = (4, 2000);
        let counted = std::thread::scope(|scope| {
            for thread in 0..threads {
                let producer = &producer;
                scope.spawn(move || {
                    for n in 0..each {
                        producer.append(&said(format!("{thread}.{n}.{}", "y".repeat(900)))).unwrap();
                    }
                });
            }
            let mut out = Vec::new();
            let mut counted = 0;
            while counted < threads * each {
                match consumer.next(&mut out).unwrap() {
                    Some(()) => counted += usize::from(unpacked(&out).is_some()),
                    None => std::thread::yield_now(),
                }
                consumer.grant();
            }
            counted
        });
        assert_eq!(counted, threads * each);
    }

    #[test]
    fn what_is_too_large_or_not_for_an_agent_to_say_is_refused() {
        let (producer, consumer) = ring();
        consumer.grant();
        assert!(producer.append(&said("z".repeat(MAX_RECORD + 1))).is_err());
        assert!(producer.append(&Event::Notice { text: "all is well".into() }).is_err());
        assert!(producer.append(&Event::SessionClosed { exit: None }).is_err());
        producer.append(&said("small".into())).unwrap();
    }

    #[test]
    fn the_trace_never_takes_more_than_was_assured() {
        use failcore_model::*;
        let dir = tempfile::tempdir().unwrap();
        let key = failcore_trace::SigningKey::generate().unwrap();
        let session = "s".repeat(64);
        let (producer, mut consumer) = ring();
        let small = Text::default();
        let file = |path: &[u8], ids| FileRef {
            asked: small.clone(),
            path: AbsPath::new(path).unwrap(),
            exists: false,
            dir: Some(true),
            ids: std::iter::repeat_n(FileId { dev: 0, ino: 0 }, ids).collect(),
        };
        let open = |path: &[u8], ids| Action::Open { file: file(path, ids), rights: Rights::all() };
        let texts = |text: &[u8]| vec![Text::from(text); 3000];
        let exec = |argv| Action::Exec { image: file(b"/", 0), argv };
        let decided = |action, obligations, rules: &str| {
            let full = u32::MAX;
            let subject = Subject { pid: full, tid: full, ..Subject::default() };
            let counters = Counters {
                wall_ns: 0,
                operations: 1,
                connections: 1,
                processes: 1,
                write_bytes: 1,
                memory: 1,
            };
            let request = std::sync::Arc::new(Request {
                action,
                subject,
                context: Context { counters, ..Context::default() },
            });
            let mut decision = Decision::allow(rules.split(' ').map(RuleId::from).collect());
            decision.reason = Reason::TraceUnwritable;
            decision.obligations = std::iter::repeat_n(Obligation::Approve, obligations).collect();
            decision.faults = std::iter::repeat_n(Fault::Resolve, obligations).collect();
            Event::Decided { op: 0, request, decision, enforced: false, ns: 0 }
        };
        let (odd, control) = ([&b"/"[..], &[0xff; 250]].concat(), [&b"/"[..], &[1; 250]].concat());
        let events = [
            Event::Concluded { op: 0, pid: 0, outcome: Outcome::Done(Some(i64::MIN)) },
            Event::ScopeEntered { pid: 0, tid: 0, scope: texts(b"\xff"), step: None },
            Event::Approval { op: 0, pid: 0, answer: Answer::Denied, who: small.clone() },
            decided(open(b"/", 0), 0, ""),
            decided(open(b"/", 5000), 0, ""),
            decided(open(&odd, 0), 0, ""),
            decided(open(&control, 0), 1, ""),
            decided(open(b"/", 0), 5000, &" ".repeat(5000)),
            decided(exec(texts(b"")), 1, "\u{1}"),
            decided(exec(texts(b"\xff")), 1, ""),
            decided(exec(texts(b"\x01")), 1, ""),
            decided(exec(texts(b"token=abcdef")), 1, ""),
        ];
        let mut out = Vec::new();
        for (n, event) in events.iter().enumerate() {
            let dir = dir.path().join(n.to_string());
            let mut writer = failcore_trace::Writer::create(&dir, &session, &key, "").unwrap();
            consumer.grant();
            let before = consumer.tail;
            producer.append(event).unwrap();
            consumer.next(&mut out).unwrap().unwrap();
            writer.stage(&unpacked(&out).unwrap()).unwrap();
            writer.flush().unwrap();
            let line = std::fs::metadata(dir.join("trace.jsonl")).unwrap().len();
            let assured = EXPANSION * (consumer.tail - before);
            assert!(line <= assured, "number {n}: {line} bytes, {assured} assured");
        }
    }

    #[test]
    fn credit_is_worth_nothing_without_the_parent() {
        let (page, page_fd) = RunPage::create(failcore_model::Timestamp(0)).unwrap();
        let holding = alive::hold(&page).unwrap();
        let (consumer, fd) = Consumer::create().unwrap();
        let producer = Producer::map(fd, RunPage::map(page_fd).unwrap()).unwrap();
        consumer.grant();
        producer.append(&said("kept".into())).unwrap();
        drop(holding);
        let started = Instant::now();
        while producer.append(&said("lost".into())).is_ok() {
            assert!(started.elapsed() < Duration::from_secs(5), "it goes on and on");
        }
    }

    #[test]
    fn nonsense_is_noticed() {
        let (producer, mut consumer) = ring();
        let mut out = Vec::new();
        producer.header().head.store(ALIGN as u64, SeqCst);
        producer.shared.copy_in(HEADER, &u32::MAX.to_le_bytes());
        assert_eq!(consumer.next(&mut out), Err(Nonsense));
        producer.header().head.store(u64::MAX - (ALIGN as u64 - 1), SeqCst);
        assert_eq!(consumer.next(&mut out), Err(Nonsense));
        producer.header().head.store(ALIGN as u64 + 8, SeqCst);
        assert_eq!(consumer.next(&mut out), Err(Nonsense));
    }
}
