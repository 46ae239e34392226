//! What belongs to a record: answer and outcome of an operation, the decision behind them, what a file held and what others
//! answered.

use std::ops::Range;
use std::sync::LazyLock;

use failcore_model::heard::Asked;
use failcore_model::input::Input;
use failcore_model::{Action, Endpoint, Event, Record, Text, url_path};
use failcore_trace::read_record;
use memchr::memmem::Finder;

use crate::trace::files;

/// How far from a record what belongs to it is looked for.
pub(super) const FAR: u64 = 1 << 18;
/// How many records are looked at in one go.
const STRETCH: u64 = 4096;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tie {
    /// Answer and outcome of a decided operation.
    Outcome { op: u64, pid: u32 },
    /// The decision that an answer or outcome belongs to.
    Decision { op: u64, pid: u32 },
    /// What a file at one of these paths held.
    Contents(Vec<Text>),
    /// What somebody outside answered.
    Heard(Box<Action>),
}

/// Where it is looked for: forwards, or backwards.
#[derive(Debug)]
struct Search {
    tie: Tie,
    rest: Range<u64>,
    back: bool,
}

/// What belongs to one record, as far as it was found.
#[derive(Debug, Default)]
pub(super) struct Relations {
    searches: Vec<Search>,
    /// Whether the trace goes on beyond what is looked at.
    is_cut: bool,
    found: Vec<Record>,
    payload: Option<Record>,
}

/// A stretch of records to look at.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) records: Range<u64>,
    tie: Tie,
}

/// What stands in the line of every record of a kind.
struct Signs {
    approval: Finder<'static>,
    concluded: Finder<'static>,
    left: Finder<'static>,
    decided: Finder<'static>,
    contents: Finder<'static>,
    heard: Finder<'static>,
}

static SIGNS: LazyLock<Signs> = LazyLock::new(|| Signs {
    approval: Finder::new(r#""approval""#),
    concluded: Finder::new(r#""concluded""#),
    left: Finder::new(r#""process.left""#),
    decided: Finder::new(r#""decided""#),
    contents: Finder::new(r#""contents""#),
    heard: Finder::new(r#""heard""#),
});

impl Stretch {
    /// The record of a line, where it may be what is looked for.
    pub(super) fn take(&self, line: &[u8]) -> Option<Record> {
        let signs = &*SIGNS;
        let any: &[&Finder<'_>] = match &self.tie {
            Tie::Outcome { .. } => &[&signs.concluded, &signs.approval, &signs.left],
            Tie::Decision { .. } => &[&signs.decided],
            Tie::Contents(_) => &[&signs.contents],
            Tie::Heard(_) => &[&signs.heard],
        };
        let record = any.iter().any(|sign| sign.find(line).is_some()).then(|| read_record(line).ok())??;
        let is_meant = match (&self.tie, &record.event) {
            (
                Tie::Outcome { op, pid },
                Event::Approval { op: of, pid: by, .. } | Event::Concluded { op: of, pid: by, .. },
            ) => (op, pid) == (of, by),
            // A number is used again by the next process of the same number.
            (Tie::Outcome { pid, .. }, Event::ProcessLeft { pid: of }) => pid == of,
            (Tie::Decision { op, pid }, Event::Decided { op: of, request, .. }) => {
                (*op, *pid) == (*of, request.subject.pid)
            }
            (Tie::Contents(paths), Event::Input { path, input: Input::Contents { .. } }) => {
                paths.contains(path)
            }
            (Tie::Heard(action), Event::Heard { asked, .. }) => asks(action, asked),
            _ => false,
        };
        is_meant.then_some(record)
    }
}

impl Relations {
    /// Begins to look for what belongs to a record of a trace of `len`, in which contents may be recorded.
    pub(super) fn of(record: &Record, len: u64, recorded: bool) -> Self {
        let before = || record.seq.saturating_sub(FAR)..record.seq;
        let after = || record.seq + 1..len.min(record.seq + 1 + FAR);
        let mut searches = Vec::new();
        match &record.event {
            Event::Decided { op, request, decision, .. } if decision.is_allow() => {
                let tie = Tie::Outcome { op: *op, pid: request.subject.pid };
                searches.push(Search { tie, rest: after(), back: false });
                let paths: Vec<Text> = files(&request.action)
                    .into_iter()
                    .flatten()
                    .map(|file| file.path.clone().into())
                    .collect();
                if recorded && !paths.is_empty() {
                    // Each file once, when it was first read.
                    let tie = Tie::Contents(paths);
                    searches.push(Search { tie: tie.clone(), rest: before(), back: true });
                    searches.push(Search { tie, rest: after(), back: false });
                }
                let action = &request.action;
                if recorded && matches!(action, Action::Resolve(_) | Action::Connect(_) | Action::Http { .. })
                {
                    let tie = Tie::Heard(Box::new(action.clone()));
                    searches.push(Search { tie, rest: after(), back: false });
                }
            }
            Event::Approval { op, pid, .. } | Event::Concluded { op, pid, .. } => {
                let tie = Tie::Decision { op: *op, pid: *pid };
                searches.push(Search { tie, rest: before(), back: true });
            }
            _ => {}
        }
        let within = |search: &Search| !search.rest.is_empty();
        let is_far =
            |search: &Search| if search.back { search.rest.start > 0 } else { search.rest.end < len };
        let is_cut = searches.iter().any(is_far);
        // The last is looked for first.
        let searches = searches.into_iter().rev().filter(within).collect();
        Self { searches, is_cut, ..Self::default() }
    }

    /// The records to look at next.
    pub(super) fn look(&self) -> Option<Stretch> {
        let Search { tie, rest, back } = self.searches.last()?;
        let records = match back {
            true => rest.start.max(rest.end.saturating_sub(STRETCH))..rest.end,
            false => rest.start..rest.end.min(rest.start + STRETCH),
        };
        Some(Stretch { records, tie: tie.clone() })
    }

    /// Takes in what was found in a stretch, in its order.
    pub(super) fn found(&mut self, stretch: &Stretch, mut found: Vec<Record>) {
        let Some(search) = self.searches.last_mut() else { return };
        match search.back {
            true => search.rest.end = stretch.records.start,
            false => search.rest.start = stretch.records.end,
        }
        let mut is_done = search.rest.is_empty();
        match search.tie {
            Tie::Outcome { .. } => {
                let end = found.iter().position(|record| !matches!(record.event, Event::Approval { .. }));
                is_done |= end.is_some();
                found.truncate(end.map_or(found.len(), |end| end + 1));
                found.retain(|record| !matches!(record.event, Event::ProcessLeft { .. }));
                self.found.append(&mut found);
            }
            Tie::Decision { .. } => {
                is_done |= !found.is_empty();
                self.found.extend(found.pop());
            }
            Tie::Heard(_) => {
                is_done |= !found.is_empty();
                if let Some(record) = found.into_iter().next() {
                    if matches!(record.event, Event::Heard { payload: Some(_), .. }) {
                        self.payload = Some(record.clone());
                    }
                    self.found.push(record);
                    self.found.sort_by_key(|record| record.seq);
                }
            }
            Tie::Contents(_) => {
                if !found.is_empty() {
                    let nearest = if search.back { found.len() - 1 } else { 0 };
                    self.payload = Some(found.swap_remove(nearest));
                    // It is the same in the other direction.
                    return self.searches.retain(|search| !matches!(search.tie, Tie::Contents(_)));
                }
            }
        }
        if is_done {
            self.searches.pop();
        }
    }

    /// Whether all was looked at.
    pub(super) fn is_done(&self) -> bool {
        self.searches.is_empty()
    }

    /// Whether not all of the trace is looked at, for there is too much of it.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Answer, outcome or decision, in their order.
    pub(super) fn records(&self) -> &[Record] {
        &self.found
    }

    /// The record that says what the file held that an operation was about, or what was answered.
    pub(super) fn payload(&self) -> Option<&Record> {
        self.payload.as_ref()
    }
}

/// Whether an operation is what somebody outside was asked for.
fn asks(action: &Action, asked: &Asked) -> bool {
    match (action, asked) {
        (Action::Resolve(name), Asked::Addresses { name: of }) => name == of,
        (Action::Connect(Endpoint::Inet { addr, .. }), Asked::Connection { to }) => addr == to,
        (Action::Http { method, host, port, path }, Asked::Request { method: by, url, .. }) => {
            method == by && is_url(url, host.as_str(), *port, path)
        }
        _ => false,
    }
}

/// Whether a URL is that of a request as it was judged.
fn is_url(url: &str, host: &str, port: u16, path: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let (authority, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let raw = target.split('?').next().unwrap_or_default();
    let named = authority.strip_suffix(&format!(":{port}")).unwrap_or(authority);
    named.eq_ignore_ascii_case(host) && url_path(raw).is_ok_and(|normal| normal == path)
}

#[cfg(test)]
mod tests {
    use failcore_model::heard::{Payload, Said};
    use failcore_model::{
        AbsPath, Answer, Context, Decision, FileRef, HostName, Outcome, Request, Rights, Subject, Timestamp,
        Transport,
    };

    use super::*;

    fn decided(op: u64, pid: u32, path: &str) -> Event {
        let action =
            Action::Open { file: FileRef::at(AbsPath::new(path.as_bytes()).unwrap()), rights: Rights::READ };
        let subject = Subject { pid, ..Subject::default() };
        let request = Request { action, subject, context: Context::default() };
        let decision = Decision::allow(Default::default());
        Event::Decided { op, request: request.into(), decision, enforced: true, ns: 1 }
    }

    fn contents(path: &str, size: u64) -> Event {
        Event::Input {
            path: path.into(),
            input: Input::Contents { sha256: "0".repeat(64), size, kept: true },
        }
    }

    fn concluded(op: u64, pid: u32) -> Event {
        Event::Concluded { op, pid, outcome: Outcome::Done(None) }
    }

    /// What belongs to record `seq`: the numbers of the records, and that of the contents.
    fn belongs(events: &[Event], seq: u64) -> (Vec<u64>, Option<u64>) {
        let records: Vec<Record> = (0..)
            .zip(events)
            .map(|(seq, event)| Record { seq, ts: Timestamp(1), session: "s".into(), event: event.clone() })
            .collect();
        let lines: Vec<Vec<u8>> = records.iter().map(|record| serde_json::to_vec(record).unwrap()).collect();
        let mut relations = Relations::of(&records[seq as usize], lines.len() as u64, true);
        while let Some(stretch) = relations.look() {
            assert!(!stretch.records.is_empty());
            let found = stretch.records.clone().filter_map(|seq| stretch.take(&lines[seq as usize]));
            relations.found(&stretch, found.collect());
        }
        assert!(relations.is_done());
        let records = relations.records().iter().map(|record| record.seq).collect();
        (records, relations.payload().map(|record| record.seq))
    }

    #[test]
    fn answer_and_outcome_are_those_of_the_same_operation_and_process() {
        let approval = Event::Approval { op: 1, pid: 5, answer: Answer::Approved, who: "me".into() };
        let mut events =
            vec![decided(1, 5, "/a"), decided(1, 6, "/a"), concluded(1, 6), concluded(2, 5), approval];
        // Further than one stretch.
        events.extend((0..5000).map(|_| Event::Notice { text: "concluded".into() }));
        events.push(concluded(1, 5));
        events.push(concluded(1, 5));
        let last = events.len() as u64 - 2;
        assert_eq!(belongs(&events, 0).0, [4, last]);
        assert_eq!(belongs(&events, 1).0, [2]);
        assert_eq!(belongs(&events, 4).0, [0]);
        assert_eq!(belongs(&events, last).0, [0]);
        assert_eq!(belongs(&events, 2).0, [1]);
        assert_eq!(belongs(&events, 3).0, [0u64; 0]);
    }

    #[test]
    fn the_next_process_of_a_number_is_another() {
        let gone = Event::ProcessLeft { pid: 5 };
        let approval = Event::Approval { op: 1, pid: 5, answer: Answer::Approved, who: "me".into() };
        assert_eq!(belongs(&[decided(1, 5, "/a"), approval, concluded(1, 5)], 0).0, [1, 2]);
        let events = [decided(1, 5, "/a"), gone, decided(1, 5, "/a"), concluded(1, 5)];
        assert_eq!(belongs(&events, 0).0, [0u64; 0]);
        assert_eq!(belongs(&events, 2).0, [3]);
        assert_eq!(belongs(&events, 3).0, [2]);
    }

    #[test]
    fn an_answer_is_that_to_the_same_question() {
        let host = HostName::parse("a.example").unwrap();
        let to = "192.0.2.1:443".parse().unwrap();
        let decided = |action| {
            let Event::Decided { op, mut request, decision, .. } = decided(1, 5, "/") else { unreachable!() };
            std::sync::Arc::make_mut(&mut request).action = action;
            Event::Decided { op, request, decision, enforced: true, ns: 1 }
        };
        let heard = |asked, size: Option<u64>| {
            let payload = size.map(|size| Payload { sha256: "0".repeat(64), size, kept: true });
            Event::Heard { asked, said: Said::Connected { protocol: None }, payload }
        };
        let request =
            |url: &str| Asked::Request { method: "GET".into(), url: url.into(), body: String::new() };
        let http =
            Action::Http { method: "GET".into(), host: host.clone(), port: 443, path: "/a%20b".into() };
        let events = [
            decided(Action::Resolve(host.clone())),
            decided(Action::Connect(Endpoint::Inet { transport: Transport::Tcp, addr: to })),
            heard(Asked::Addresses { name: host }, None),
            heard(Asked::Connection { to }, None),
            decided(http),
            heard(request("https://b.example/a%20b"), Some(1)),
            heard(request("https://a.example/a"), Some(1)),
            heard(request("https://A.example:443/%61%20b?q=1"), Some(1)),
            heard(request("https://a.example/a%20b"), Some(1)),
        ];
        assert_eq!(belongs(&events, 0), (vec![2], None));
        assert_eq!(belongs(&events, 1), (vec![3], None));
        assert_eq!(belongs(&events, 4), (vec![7], Some(7)));
    }

    #[test]
    fn what_a_file_held_is_found_before_and_after() {
        let events = [
            decided(1, 5, "/a"),
            contents("/b", 2),
            contents("/a", 1),
            decided(2, 5, "/b"),
            decided(3, 5, "/c"),
        ];
        assert_eq!(belongs(&events, 0).1, Some(2));
        assert_eq!(belongs(&events, 3).1, Some(1));
        assert_eq!(belongs(&events, 4).1, None);
    }
}
