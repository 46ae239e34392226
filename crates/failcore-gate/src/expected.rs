//! What a program is expected to do, because it did it when it was recorded; where it does something else it has parted
//! from the record.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use failcore_model::{
    AbsPath, Action, Claims, Endpoint, Event, NativeObject, Record, Request, RuleId, SignalTarget, Text,
    Transport,
};
use serde::Serialize;

use crate::compare::normal;
use crate::{Sink, SinkError};

/// The operations of a recorded run, by tool scope and by what they are, never by their place.
#[derive(Debug, Default)]
pub struct Expected {
    /// How often each was done, and is still to come.
    counts: Mutex<HashMap<Key, Count>>,
    /// Files that are not those of the record.
    own: Vec<AbsPath>,
    /// What these rules permit is free.
    live: HashSet<RuleId>,
    /// Whether the program itself was started.
    started: AtomicBool,
    /// The operation before which it is to stop, which of its kind, and the record's number.
    until: Option<(Key, u64, u64)>,
    /// The ports that it serves itself; 0 where the kernel chose one.
    served: Mutex<HashSet<u16>>,
    parted: OnceLock<Divergence>,
}

type Key = (Vec<Text>, String);

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    all: u64,
    left: u64,
}

/// The first operation of a second run that the first did not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The operation.
    pub operation: String,
    /// The tool scope, the outermost first.
    pub scope: Vec<Text>,
    /// Where in the program, as far as that said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Text>,
    /// In what it differs.
    pub differs: Differs,
    /// The recorded operation that is most like it, where there is one of its kind; with what differs from run to run
    /// written as one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

/// In what an operation of a second run differs from what is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Differs {
    /// The recorded run did it so often, and no more.
    Recorded(u64),
    /// It would reach somebody outside, of whom nothing is recorded.
    Outside,
    /// What came of it was not kept, for this reason.
    Unkept(String),
    /// It goes on in another way.
    Otherwise(String),
    /// In nothing: it is this record, up to which the program was to run.
    Reached(u64),
}

/// How far a program is run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// To the first operation from this record on.
    Seq(u64),
    /// To the first operation of this step, or of this tool.
    Step(Text),
}

impl Until {
    fn is_at(&self, seq: u64, request: &Request) -> bool {
        let claimed = &request.subject.claimed;
        match self {
            Self::Seq(from) => seq >= *from,
            Self::Step(step) => claimed.step.as_ref() == Some(step) || claimed.scope.contains(step),
        }
    }
}

/// Where a program was to stop, and the record has nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the recorded run has no operation there")]
pub struct NoSuchPlace;

impl std::error::Error for Divergence {}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = &self.operation;
        match &self.differs {
            Differs::Outside => write!(f, "{operation} reaches somebody of whom nothing is recorded"),
            Differs::Recorded(0) => write!(f, "the recorded run had no {operation}"),
            Differs::Recorded(1) => write!(f, "the recorded run had {operation} once, and not again"),
            Differs::Recorded(n) => write!(f, "the recorded run had {operation} {n} times, and no more"),
            Differs::Unkept(why) => write!(f, "what came of {operation} is not in the record: {why}"),
            Differs::Reached(seq) => write!(f, "here the recorded run was at record {seq}: {operation}"),
            Differs::Otherwise(how) => write!(f, "{operation} goes on in another way: {how}"),
        }
    }
}

impl Divergence {
    /// Of something that was asked of others, who were asked for these in the recorded run.
    pub fn asked(
        asked: String,
        claims: &Claims,
        differs: Differs,
        others: impl Iterator<Item = String>,
    ) -> Self {
        let nearest = match differs {
            Differs::Recorded(0) => most_alike(others, &asked),
            _ => None,
        };
        Self { operation: asked, scope: claims.scope.to_vec(), site: claims.site.clone(), differs, nearest }
    }
}

impl Expected {
    /// Reads what a recorded run did.
    ///
    /// # Errors
    /// The first error of `records`.
    pub fn read<E>(records: impl IntoIterator<Item = Result<Record, E>>) -> Result<Self, E> {
        let mut counts: HashMap<Key, Count> = HashMap::new();
        for record in records {
            if let Event::Decided { request, .. } = record?.event {
                let count = counts.entry(key(&request)).or_default();
                *count = Count { all: count.all + 1, left: count.left + 1 };
            }
        }
        Ok(Self { counts: Mutex::new(counts), ..Self::default() })
    }

    /// The same up to some place in those records.
    ///
    /// # Errors
    /// Inside, [`NoSuchPlace`]; else the first error of `records`.
    pub fn up_to<E>(
        self,
        until: &Until,
        records: impl IntoIterator<Item = Result<Record, E>>,
    ) -> Result<Result<Self, NoSuchPlace>, E> {
        let mut before: HashMap<Key, u64> = HashMap::new();
        for record in records {
            let Record { seq, event, .. } = record?;
            let Event::Decided { request, .. } = event else { continue };
            let nth = before.entry(key(&request)).or_default();
            *nth += 1;
            if until.is_at(seq, &request) {
                return Ok(Ok(Self { until: Some((key(&request), *nth, seq)), ..self }));
            }
        }
        Ok(Err(NoSuchPlace))
    }

    /// The same of a program that is not quite the one that was recorded: it consists of these files, and what it does with
    /// them is free.
    #[must_use]
    pub fn of_program(self, own: Vec<AbsPath>) -> Self {
        Self { own, ..self }
    }

    /// The same of a program that really does what these rules permit.
    #[must_use]
    pub fn but_for(self, live: HashSet<RuleId>) -> Self {
        Self { live, ..self }
    }

    /// Where the runs part, once they have.
    pub fn parted(&self) -> Option<&Divergence> {
        self.parted.get()
    }

    /// The runs part here, unless they did before.
    pub fn part(&self, divergence: Divergence) {
        let _ = self.parted.set(divergence);
    }

    /// Whether it reaches somebody who is not of the run and of whom nothing is recorded. On the network of a run that is run again there is nobody else.
    fn outside(&self, action: &Action) -> bool {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        match action {
            Action::Bind(Endpoint::Inet { addr, .. }) => {
                served.insert(addr.port());
                false
            }
            // Whoever was connected to is played, and names have their recorded answers.
            Action::Connect(Endpoint::Inet { transport: Transport::Tcp, .. }) => false,
            Action::Connect(Endpoint::Inet { addr, .. }) | Action::Send(Endpoint::Inet { addr, .. }) => {
                let ip = addr.ip().to_canonical();
                let own = ip.is_loopback() || ip.is_unspecified();
                // Port 0 only asks which address would be used.
                addr.port() != 0 && !(own && (served.contains(&addr.port()) || served.contains(&0)))
            }
            Action::Signal { to: SignalTarget::Outside, .. } => true,
            _ => false,
        }
    }

    /// Whether the recorded run did this too, so often; the first that it did not is kept.
    fn meets(&self, request: &Request, goes_ahead: bool) -> bool {
        if self.parted.get().is_some() {
            return false;
        }
        let key = key(request);
        let first =
            matches!(request.action, Action::Exec { .. }) && !self.started.swap(true, Ordering::Relaxed);
        let free = first || touches(&request.action, &self.own);
        let outside = goes_ahead && self.outside(&request.action);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, nth, seq)) = &self.until
            && *last == key
            && counts.get(&key).is_some_and(|count| count.all - count.left + 1 == *nth)
        {
            let (operation, site) = (request.operation(), request.subject.claimed.site.clone());
            let differs = Differs::Reached(*seq);
            self.part(Divergence { operation, scope: key.0, site, differs, nearest: None });
            return false;
        }
        match counts.get_mut(&key) {
            _ if outside => {}
            Some(count) if count.left > 0 => {
                count.left -= 1;
                return true;
            }
            // What only reads finds the same each time.
            Some(_) if request.action.reads() => return true,
            _ if free => return true,
            _ => {}
        }
        let recorded = counts.get(&key).map_or(0, |count| count.all);
        let nearest = if recorded > 0 || outside { None } else { nearest(counts.keys(), &key) };
        let (scope, operation) = (key.0, request.operation());
        let site = request.subject.claimed.site.clone();
        let differs = if outside { Differs::Outside } else { Differs::Recorded(recorded) };
        self.part(Divergence { operation, scope, site, differs, nearest });
        false
    }
}

fn key(request: &Request) -> Key {
    (request.subject.claimed.scope.to_vec(), normal(request))
}

/// Whether it is about one of these files.
fn touches(action: &Action, files: &[AbsPath]) -> bool {
    match action {
        Action::Open { file, .. }
        | Action::Read(file)
        | Action::Exec { image: file, .. }
        | Action::Load(NativeObject::Library(file)) => files.contains(&file.path),
        _ => false,
    }
}

/// The recorded operation of the same kind that begins most like this one.
fn nearest<'a>(recorded: impl Iterator<Item = &'a Key>, (scope, wanted): &Key) -> Option<String> {
    let verb = wanted.split(' ').next()?;
    let of_verb = recorded.filter(|(_, operation)| operation.split(' ').next() == Some(verb));
    let (_, _, found) =
        of_verb.map(|(other, operation)| (other == scope, alike(operation, wanted), operation)).max()?;
    Some(found.clone())
}

/// The one that begins and ends most like the wanted one.
fn most_alike(all: impl Iterator<Item = String>, wanted: &str) -> Option<String> {
    all.max_by_key(|one| alike(one, wanted)).filter(|one| alike(one, wanted) > 0)
}

/// In how many characters two begin and end alike.
fn alike(one: &str, other: &str) -> usize {
    let ahead = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let behind = one.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
    ahead + behind
}

/// A trace that takes only what was expected: what was not is written, and refused.
pub struct Matching {
    /// Where records go.
    pub trace: Arc<dyn Sink>,
    /// What is expected.
    pub expected: Arc<Expected>,
}

impl Sink for Matching {
    fn append(&self, event: &Event) -> Result<(), SinkError> {
        self.trace.append(event)?;
        let Event::Decided { request, decision, enforced, .. } = event else { return Ok(()) };
        let live = decision.is_allow() && decision.rules.iter().any(|rule| self.expected.live.contains(rule));
        if live && self.expected.parted().is_none() {
            return Ok(());
        }
        if self.expected.meets(request, decision.is_allow() || !enforced) {
            return Ok(());
        }
        let Some(divergence) = self.expected.parted() else {
            return Err(SinkError("nothing says where the runs part".into()));
        };
        Err(SinkError(Box::new(divergence.clone())))
    }

    fn wants_every_site(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use failcore_model::{AbsPath, Decision, Timestamp};
    use failcore_policy::{Environment, ask};
    use smallvec::SmallVec;

    use super::*;

    fn decided(words: &str) -> Event {
        let request = ask(words, &AbsPath::root(), &Environment::default()).unwrap();
        let decision = Decision::allow(SmallVec::new());
        Event::Decided { op: 1, request: request.into(), decision, enforced: true, ns: 1 }
    }

    struct Kept(Mutex<Vec<Event>>);

    impl Sink for Kept {
        fn append(&self, event: &Event) -> Result<(), SinkError> {
            self.0.lock().unwrap().push(event.clone());
            Ok(())
        }
    }

    /// How many of `then` go ahead after a run that did `once`, and where they part.
    fn run(once: &[&str], then: &[&str]) -> (usize, Option<Divergence>) {
        let record = |(seq, words): (u64, &&str)| {
            Ok::<_, ()>(Record { seq, ts: Timestamp(0), session: "s".into(), event: decided(words) })
        };
        let expected = Arc::new(Expected::read((0..).zip(once).map(record)).unwrap());
        let kept = Arc::new(Kept(Mutex::default()));
        let sink = Matching { trace: Arc::clone(&kept) as _, expected: Arc::clone(&expected) };
        let went = then.iter().take_while(|words| sink.append(&decided(words)).is_ok()).count();
        let parted = expected.parted().cloned();
        (went, parted)
    }

    #[test]
    fn the_order_makes_no_difference_and_reading_again_neither() {
        let (went, parted) = run(
            &["fs.read /a", "fs.read /b", "process.exec /x"],
            &["process.exec /x", "fs.read /b", "fs.read /b"],
        );
        assert_eq!((went, parted), (3, None));
    }

    #[test]
    fn what_was_not_recorded_is_named_with_what_is_most_like_it() {
        let (went, parted) = run(&["fs.read /w/data.csv", "fs.read /etc/hosts"], &["fs.read /w/other.csv"]);
        let parted = parted.unwrap();
        assert_eq!(
            (went, parted.operation.as_str(), parted.differs.clone()),
            (0, "fs.read /w/other.csv", Differs::Recorded(0))
        );
        assert_eq!(parted.nearest.as_deref(), Some("fs.read /w/data.csv"));
    }

    #[test]
    fn the_program_itself_may_be_another_and_nobody_outside_is_reached() {
        let record = |(seq, words): (u64, &&str)| {
            Ok::<_, ()>(Record { seq, ts: Timestamp(0), session: "s".into(), event: decided(words) })
        };
        let did = [
            "process.exec /x",
            "net.connect 203.0.113.1:443",
            "net.connect udp:203.0.113.1:443",
            "net.bind 127.0.0.1:80",
            "net.connect 127.0.0.1:80",
        ];
        let expected = Expected::read((0..).zip(&did).map(record)).unwrap();
        let expected = Arc::new(expected.of_program(vec![AbsPath::new(b"/agent").unwrap()]));
        let sink = Matching { trace: Arc::new(Kept(Mutex::default())), expected: Arc::clone(&expected) };
        for words in [
            "process.exec /y",
            "fs.read /agent",
            "net.bind 127.0.0.1:80",
            "net.connect 127.0.0.1:80",
            "net.connect 203.0.113.1:443",
        ] {
            assert!(sink.append(&decided(words)).is_ok(), "{words}");
        }
        assert!(sink.append(&decided("net.connect udp:203.0.113.1:443")).is_err());
        assert_eq!(expected.parted().unwrap().differs, Differs::Outside);
    }

    #[test]
    fn an_effect_that_happens_more_often_is_another_run() {
        let twice = ["process.exec /x", "process.exec /x"];
        let (went, parted) = run(&twice[1..], &twice);
        let parted = parted.unwrap();
        assert_eq!((went, &parted.differs), (1, &Differs::Recorded(1)));
        assert_eq!(parted.to_string(), "the recorded run had process.exec /x once, and not again");
        let (went, parted) = run(&twice, &["process.exec /x"; 3]);
        assert_eq!((went, parted.unwrap().differs), (2, Differs::Recorded(2)));
    }

    #[test]
    fn it_stops_where_it_is_told_to() {
        let did = ["process.exec /x", "fs.read /a", "fs.delete /b", "fs.read /a", "fs.delete /b"];
        let records = || {
            let record = |(seq, words): (u64, &&str)| {
                Ok::<_, ()>(Record { seq, ts: Timestamp(0), session: "s".into(), event: decided(words) })
            };
            (0..).zip(&did).map(record)
        };
        let expected = || Expected::read(records()).unwrap();
        for (from, stops) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)] {
            let expected = Arc::new(expected().up_to(&Until::Seq(from), records()).unwrap().unwrap());
            let sink = Matching { trace: Arc::new(Kept(Mutex::default())), expected: Arc::clone(&expected) };
            let went = did.iter().take_while(|words| sink.append(&decided(words)).is_ok()).count();
            assert_eq!((went, &expected.parted().unwrap().differs), (stops, &Differs::Reached(from)));
        }
        for nowhere in [Until::Seq(5), Until::Step("no such step".into())] {
            assert_eq!(expected().up_to(&nowhere, records()).unwrap().unwrap_err(), NoSuchPlace);
        }
    }

    #[test]
    fn nothing_goes_ahead_after_the_runs_have_parted() {
        let record = Record { seq: 0, ts: Timestamp(0), session: "s".into(), event: decided("fs.read /a") };
        let expected = Arc::new(Expected::read([Ok::<_, ()>(record)]).unwrap());
        let sink = Matching { trace: Arc::new(Kept(Mutex::default())), expected };
        assert!(sink.append(&decided("fs.read /b")).is_err());
        assert!(sink.append(&decided("fs.read /a")).is_err());
    }
}
