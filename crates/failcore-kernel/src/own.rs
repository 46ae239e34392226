//! What the parent itself records: the supervisor's decisions go to the writer without a ring, under the same law of
//! credit.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use failcore_gate::{Sink, SinkError};
use failcore_model::{Action, Endpoint, Event, FileRef, Text};

use crate::page::RunPage;

/// Bytes of records that may wait for the writer at most; as much space is assured for them.
pub(crate) const CAPACITY: u64 = 4 << 20;
/// And at first: taking space costs time and memory where the trace lies in memory (tmpfs(5)), and most runs need little.
pub(crate) const FIRST: u64 = 64 << 10;
/// How long to wait for room before looking again whether there will ever be any.
const LOOK: Duration = Duration::from_millis(50);

/// Records on their way from the parent's threads to the writer.
pub(crate) struct Own {
    queue: Mutex<Queue>,
    room: Condvar,
}

struct Queue {
    events: Vec<Event>,
    /// Bytes that the waiting events come to.
    waiting: u64,
    /// Bytes taken from the space assured.
    used: u64,
    /// Bytes that may be taken.
    credit: u64,
    /// Whether that is too little for somebody.
    pressed: bool,
    /// Why nothing is taken any more.
    closed: Option<String>,
}

/// What the writer took.
pub(crate) struct Taken {
    /// The bytes that the events were counted with.
    pub(crate) bytes: u64,
    /// The credit that there should be from now on.
    pub(crate) credit: u64,
}

impl Own {
    /// With credit for the [`FIRST`] bytes.
    pub(crate) fn new() -> Self {
        let queue =
            Queue { events: Vec::new(), waiting: 0, used: 0, credit: FIRST, pressed: false, closed: None };
        Self { queue: Mutex::new(queue), room: Condvar::new() }
    }

    /// The space that must be assured for a credit: what waits, and what is taken while that is written.
    pub(crate) fn space(credit: u64) -> u64 {
        2 * credit
    }

    /// Puts an event in without asking for room: for the few facts that the parent must state.
    pub(crate) fn push(&self, event: Event) {
        self.lock().events.push(event);
    }

    /// Moves everything out into `events`, which is empty and whose room is used for what comes next.
    pub(crate) fn take(&self, events: &mut Vec<Event>) -> Taken {
        let mut queue = self.lock();
        std::mem::swap(&mut queue.events, events);
        let bytes = std::mem::take(&mut queue.waiting);
        // All of it, before anybody has to wait.
        let credit = if queue.pressed || bytes > FIRST / 4 { CAPACITY } else { queue.credit };
        Taken { bytes, credit }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        let queue = self.lock();
        queue.events.is_empty() && !queue.pressed
    }

    /// Space for what was taken was assured anew, and for its credit.
    pub(crate) fn grant(&self, taken: &Taken) {
        let mut queue = self.lock();
        queue.used = queue.used.saturating_sub(taken.bytes);
        queue.credit = queue.credit.max(taken.credit);
        queue.pressed &= queue.credit < CAPACITY;
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
            if queue.used + len <= queue.credit {
                break;
            }
            if queue.credit < CAPACITY && !queue.pressed {
                queue.pressed = true;
                self.page.ring();
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

/// At least as many bytes as the event's JSON has, with room for what the record's head adds.
///
/// Of the events that there are many of it is estimated from their texts, each byte of which comes to six at most; what may
/// be long by that, and everything else, is written out to be counted.
fn length(event: &Event) -> Result<u64, serde_json::Error> {
    const HEAD: u64 = 160;
    const SHORT: u64 = 64 << 10;
    if let Some(estimate) = estimate(event).filter(|estimate| *estimate <= SHORT) {
        return Ok(estimate);
    }
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

/// As [`length`], without writing it out; nothing for events that are rare.
fn estimate(event: &Event) -> Option<u64> {
    const FIXED: usize = 1024;
    const IDENTITY: usize = 64;
    const ESCAPED: usize = 6;
    /// Quotes and a comma.
    const AROUND: usize = 3;
    let (request, decision) = match event {
        Event::Decided { request, decision, .. } => (request, decision),
        Event::ProcessJoined { exe, .. } => return Some((FIXED + ESCAPED * exe.as_bytes().len()) as u64),
        Event::ProcessLeft { .. } => return Some(FIXED as u64),
        _ => return None,
    };
    if !request.subject.claimed.is_empty() || !request.context.addresses.is_empty() {
        return None;
    }
    let of_file = |file: &FileRef| file.asked.as_bytes().len() + file.path.as_bytes().len();
    let (object, ids) = match &request.action {
        Action::Open { file, .. } => (of_file(file), file.ids.len()),
        Action::Exec { image, argv } => {
            let argv = argv.iter().map(|arg| arg.as_bytes().len() + AROUND);
            (of_file(image) + argv.sum::<usize>(), image.ids.len())
        }
        // An address comes to less than what is fixed.
        Action::Connect(Endpoint::Inet { .. }) => (0, 0),
        _ => return None,
    };
    let names = &request.context.names;
    let label = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.as_bytes().len());
    let subject = &request.subject;
    let texts = object
        + names.iter().map(|name| name.as_str().len() + 1).sum::<usize>()
        + subject.exe.as_bytes().len()
        + label(&subject.agent)
        + label(&subject.run)
        + decision.rules.iter().map(|rule| rule.as_str().len() + 4).sum::<usize>();
    Some((FIXED + IDENTITY * ids + ESCAPED * texts) as u64)
}

#[cfg(test)]
mod tests {
    use failcore_model::{
        AbsPath, Context, Decision, FileId, HostName, Request, Rights, RuleId, Subject, Transport,
    };

    use super::*;

    #[test]
    fn whoever_needs_more_credit_than_there_is_at_first_gets_all_of_it() {
        let own = Arc::new(Own::new());
        let page = RunPage::alone(failcore_model::Timestamp(0)).unwrap();
        let sink = OwnSink { own: Arc::clone(&own), page };
        let text = "x".repeat(2 * usize::try_from(FIRST).unwrap());
        let big = Event::Notice { text };
        std::thread::scope(|scope| {
            let said = scope.spawn(|| sink.append(&big));
            while own.is_empty() {
                std::thread::yield_now();
            }
            let mut events = Vec::new();
            let taken = own.take(&mut events);
            assert_eq!((events.len(), taken.bytes, taken.credit), (0, 0, CAPACITY));
            own.grant(&taken);
            said.join().unwrap().unwrap();
            let taken = own.take(&mut events);
            assert_eq!(events, std::slice::from_ref(&big));
            own.grant(&taken);
            assert!(own.is_empty());
        });
        own.close("over");
        assert!(sink.append(&big).is_err());
        assert!(sink.append(&Event::Notice { text: "x".repeat(CAPACITY as usize) }).is_err());
    }

    #[test]
    fn the_estimate_is_never_too_small() {
        for byte in [b'a', b'"', 1, 0xff, b'\\'] {
            let path = AbsPath::new(&[&b"/"[..], &[byte; 200]].concat()).unwrap();
            let id = FileId { dev: u64::MAX, ino: u64::MAX };
            let file = FileRef {
                asked: Text::from(&[byte; 300]),
                path,
                exists: false,
                dir: Some(false),
                ids: [id; 40].into_iter().collect(),
            };
            let text = Some(Text::from(&[byte; 100]));
            let subject = Subject {
                pid: u32::MAX,
                tid: u32::MAX,
                exe: Text::from(&[byte; 90]),
                agent: text.clone(),
                run: text,
                ..Subject::default()
            };
            let context = Context {
                time: failcore_model::Timestamp(u64::MAX / 2),
                counters: failcore_model::Counters {
                    wall_ns: u64::MAX,
                    operations: u64::MAX,
                    connections: u64::MAX,
                    processes: u64::MAX,
                    write_bytes: u64::MAX,
                    memory: u64::MAX,
                },
                ..Context::default()
            };
            let decision: Decision =
                Decision::allow([RuleId::from("a \" rule"), RuleId::from("b")].into_iter().collect());
            let named = Context {
                names: (0..40).map(|n| HostName::parse(&format!("n{n}")).unwrap()).collect(),
                ..context.clone()
            };
            let addr = std::net::SocketAddrV6::new([0xffff; 8].into(), u16::MAX, u32::MAX, u32::MAX).into();
            let connect = Action::Connect(Endpoint::Inet { transport: Transport::Other, addr });
            let argv = [Text::from(&[byte; 50]), Text::from(&[]), Text::from(&[byte])].into();
            let exec = Action::Exec { image: file.clone(), argv };
            let open = Action::Open { file, rights: Rights::all() };
            let exe = Text::from(&[byte; 300]);
            let joined = Event::ProcessJoined { pid: u32::MAX, parent: u32::MAX, exe };
            for event in [joined, Event::ProcessLeft { pid: u32::MAX }] {
                let written = serde_json::to_vec(&event).unwrap().len() as u64 + 160;
                assert!(estimate(&event).unwrap() >= written);
            }
            for (action, context) in [(open, context.clone()), (exec, context), (connect, named)] {
                let request = Arc::new(Request { action, subject: subject.clone(), context });
                let decision = decision.clone();
                let event = Event::Decided { op: u64::MAX, request, decision, enforced: true, ns: u64::MAX };
                let written = serde_json::to_vec(&event).unwrap().len() as u64 + 160;
                assert!(estimate(&event).unwrap() >= written, "{:?} < {written}", estimate(&event));
            }
        }
    }
}
