//! Where two traces part: the same operations found in both, whatever order threads and processes came in.
//!
//! Operations are matched by what they are (tool scope, verb, resource) and by which of its kind each is, never by
//! their place in the trace. What differs from run to run by nature is taken as equal: see [`normal`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use failcore_model::{Decision, Event, Reason, Record, Request, RuleId, Text, Verdict};
use regex::{Regex, RegexSet};
use serde::Serialize;

/// What two traces have in common, and where they part.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Comparison {
    /// Operations that both traces have.
    pub common: u64,
    /// Operations that only the first has.
    pub only_first: u64,
    /// Operations that only the second has.
    pub only_second: u64,
    /// Operations that both have, decided otherwise.
    pub decided_otherwise: u64,
    /// Each operation in which they differ, the earliest difference first.
    pub differences: Vec<Difference>,
}

/// One operation in which two traces differ.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The tool scope it was attempted in, the outermost first.
    pub scope: Vec<Text>,
    /// The operation, with what differs from run to run written as one word.
    pub operation: String,
    /// How it differs.
    pub kind: Kind,
    /// How many of it differ.
    pub count: u64,
    /// The first that differs, in the first trace; none where that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Occurrence>,
    /// The same in the second trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<Occurrence>,
}

/// How an operation differs between two traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Only the first trace has it, or has it more often.
    OnlyFirst,
    /// Only the second has it, or has it more often.
    OnlySecond,
    /// Both have it, with another verdict or for another reason.
    DecidedOtherwise,
}

/// An operation where it stands in a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Occurrence {
    /// The record's number.
    pub seq: u64,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// Where in the program it came from, as far as that said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Text>,
}

impl Comparison {
    /// Whether the traces hold the same operations, decided alike.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }
}

type Key = (Vec<Text>, String);

/// The operations of a trace, by what they are.
#[derive(Default)]
struct Operations(BTreeMap<Key, Vec<Occurrence>>);

impl Operations {
    fn read<E>(records: impl IntoIterator<Item = Result<Record, E>>) -> Result<Self, E> {
        let mut found = Self::default();
        for record in records {
            let record = record?;
            let Event::Decided { request, decision, .. } = record.event else { continue };
            let Decision { verdict, reason, rules, .. } = decision;
            let operation = normal(&request);
            let claimed = &request.subject.claimed;
            let (scope, site) = (claimed.scope.to_vec(), claimed.site.clone());
            let occurrence =
                Occurrence { seq: record.seq, verdict, reason, rule: rules.into_iter().next(), site };
            found.0.entry((scope, operation)).or_default().push(occurrence);
        }
        Ok(found)
    }
}

/// Compares two traces, given as their records.
///
/// Memory grows with the traces: some 50 bytes an operation.
///
/// # Errors
/// The first error of either: what cannot be read is not compared in part.
pub fn compare<E>(
    first: impl IntoIterator<Item = Result<Record, E>>,
    second: impl IntoIterator<Item = Result<Record, E>>,
) -> Result<Comparison, E> {
    let (first, mut second) = (Operations::read(first)?, Operations::read(second)?);
    let mut found = Comparison::default();
    for (key, ours) in first.0 {
        let theirs = second.0.remove(&key).unwrap_or_default();
        found.meet(key, &ours, &theirs);
    }
    for (key, theirs) in second.0 {
        found.meet(key, &[], &theirs);
    }
    found.differences.sort_by_key(|difference| {
        let seq = |occurrence: &Option<Occurrence>| occurrence.as_ref().map_or(u64::MAX, |found| found.seq);
        seq(&difference.first).min(seq(&difference.second))
    });
    Ok(found)
}

impl Comparison {
    /// Takes in how often an operation was attempted in each trace, and what came of it.
    fn meet(&mut self, (scope, operation): Key, ours: &[Occurrence], theirs: &[Occurrence]) {
        let both = ours.len().min(theirs.len());
        self.common += both as u64;
        let mut part = |kind, count: usize, first: Option<&Occurrence>, second: Option<&Occurrence>| {
            let (scope, operation) = (scope.clone(), operation.clone());
            let (first, second) = (first.cloned(), second.cloned());
            self.differences.push(Difference { scope, operation, kind, count: count as u64, first, second });
            count as u64
        };
        let pairs = || ours.iter().zip(theirs);
        let mut otherwise =
            pairs().filter(|(a, b)| (a.verdict, a.reason) != (b.verdict, b.reason)).peekable();
        if let Some((a, b)) = otherwise.peek().copied() {
            self.decided_otherwise += part(Kind::DecidedOtherwise, otherwise.count(), Some(a), Some(b));
        }
        if let Some(surplus) = ours.get(both) {
            self.only_first += part(Kind::OnlyFirst, ours.len() - both, Some(surplus), None);
        }
        if let Some(surplus) = theirs.get(both) {
            self.only_second += part(Kind::OnlySecond, theirs.len() - both, None, Some(surplus));
        }
    }
}

/// An operation in words, as [`Request::operation`], with one word for what differs from run to run by nature: process
/// ids, session ids and other UUIDs, names of temporary files, ports that the kernel chose.
pub fn normal(request: &Request) -> String {
    normal_words(request.operation())
}

/// The same of an operation that is in words already.
pub fn normal_words(operation: String) -> String {
    // Most operations have none of it.
    if !VARYING.any.is_match(&operation) {
        return operation;
    }
    VARYING.each.iter().fold(operation, |operation, (pattern, word)| {
        match pattern.replace_all(&operation, *word) {
            Cow::Borrowed(_) => operation,
            Cow::Owned(operation) => operation,
        }
    })
}

/// What differs from run to run, and what stands for it.
const PATTERNS: &[(&str, &str)] = &[
    // RFC 9562.
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "ID"),
    // proc(5).
    (r"/proc/\d+\b", "/proc/PID"),
    (r"^(process\.signal \d+ to) -?\d+ ", "$1 PID "),
    (r"^(process\.(?:trace|limit)) -?\d+$", "$1 PID"),
    // mktemp(1); what Python's `tempfile` and `multiprocessing` call their files, and its compiler those on their way.
    (r"/tmp\.[A-Za-z0-9]{6,}\b", "/tmp.TMP"),
    (r"/(pymp-|sem\.mp-|tmp)[a-z0-9_]{8}\b", "/${1}TMP"),
    (r"\.pyc\.\d+\b", ".pyc.TMP"),
    // The run's own directory of temporary files, and what `tempfile` tries it out with.
    (r"/failcore-tmp-[A-Za-z0-9]{6}(/[a-z0-9_]{8}\b)?", "/failcore-tmp-TMP"),
    // Ports of the kernel's choice: 32768 to 60999 where nothing else is configured (ip(7), `ip_local_port_range`).
    (r"^(net\..*):(?:3276[89]|327[7-9]\d|32[89]\d\d|3[3-9]\d{3}|[45]\d{4}|60\d{3})\b", "$1:PORT"),
];

struct Varying {
    any: RegexSet,
    each: Vec<(Regex, &'static str)>,
}

// The patterns are constants that a test compiles.
static VARYING: LazyLock<Varying> = LazyLock::new(|| Varying {
    any: RegexSet::new(PATTERNS.iter().map(|(pattern, _)| pattern)).unwrap_or_else(|_| RegexSet::empty()),
    each: PATTERNS.iter().filter_map(|(pattern, word)| Some((Regex::new(pattern).ok()?, *word))).collect(),
});

#[cfg(test)]
mod tests {
    use super::*;
    use failcore_model::{AbsPath, Action, Context, FileRef, Rights, SignalTarget, Subject, Timestamp};
    use failcore_policy::{Environment, ask};
    use smallvec::SmallVec;

    fn request(words: &str) -> Request {
        ask(words, &AbsPath::root(), &Environment::default()).unwrap()
    }

    fn trace(operations: &[(&str, &str, bool)]) -> Vec<Result<Record, ()>> {
        let record = |(seq, (tool, words, allow)): (u64, &(&str, &str, bool))| {
            let mut request = request(words);
            request.subject.claimed.scope =
                Some(*tool).filter(|tool| !tool.is_empty()).map(Text::from).into_iter().collect();
            let decision = match allow {
                true => Decision::allow(SmallVec::new()),
                false => Decision::deny(Reason::NotGranted, SmallVec::new()),
            };
            let event = Event::Decided { op: seq, request: request.into(), decision, enforced: true, ns: 1 };
            Ok(Record { seq, ts: Timestamp(seq), session: "s".into(), event })
        };
        (0..).zip(operations).map(record).collect()
    }

    /// What differs: how, of what, how often, and where in each trace it begins to.
    type Differs = (Kind, String, u64, Option<u64>, Option<u64>);

    fn differ(a: &[(&str, &str, bool)], b: &[(&str, &str, bool)]) -> Vec<Differs> {
        let seq = |at: Option<Occurrence>| at.map(|at| at.seq);
        let found = compare(trace(a), trace(b)).unwrap();
        let differs = |d: Difference| (d.kind, d.operation, d.count, seq(d.first), seq(d.second));
        found.differences.into_iter().map(differs).collect()
    }

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(VARYING.each.len(), PATTERNS.len());
        assert_eq!(VARYING.any.len(), PATTERNS.len());
    }

    #[test]
    fn what_differs_by_nature_is_equal() {
        for (words, normal_words) in [
            ("fs.read /w/0198f3a2-1111-7222-8333-444455556666/x", "fs.read /w/ID/x"),
            ("fs.read /tmp/tmpab12_cd3/x", "fs.read /tmp/tmpTMP/x"),
            ("fs.read /tmp/tmp.Ab12Cd34Ef", "fs.read /tmp/tmp.TMP"),
            ("fs.read /w/a.cpython-311.pyc.140123456", "fs.read /w/a.cpython-311.pyc.TMP"),
            ("fs.read /w/template/tmpfiles.d", "fs.read /w/template/tmpfiles.d"),
            ("net.connect 127.0.0.1:45123", "net.connect 127.0.0.1:PORT"),
            ("net.connect 127.0.0.1:8080", "net.connect 127.0.0.1:8080"),
            ("net.connect 127.0.0.1:32767", "net.connect 127.0.0.1:32767"),
            ("net.connect 127.0.0.1:61000", "net.connect 127.0.0.1:61000"),
        ] {
            assert_eq!(normal(&request(words)), normal_words, "{words}");
        }
        let signal = Action::Signal { to: SignalTarget::Child, pid: 4711, signal: 15 };
        let request = |action| Request { action, subject: Subject::default(), context: Context::default() };
        assert_eq!(normal(&request(signal)), "process.signal 15 to PID (child)");
        let file = FileRef::at(AbsPath::new(b"/proc/4711/maps").unwrap());
        assert_eq!(
            normal(&request(Action::Open { file, rights: Rights::READ })),
            "fs.open /proc/PID/maps (read)"
        );
    }

    #[test]
    fn the_order_of_threads_makes_no_difference() {
        let a = [("t", "fs.read /a", true), ("", "fs.read /b", true), ("t", "fs.read /a", false)];
        let b = [("", "fs.read /b", true), ("t", "fs.read /a", true), ("t", "fs.read /a", false)];
        assert!(differ(&a, &b).is_empty());
    }

    #[test]
    fn what_differs_is_told_with_the_earliest_first() {
        let a = [
            ("", "fs.read /same", true),
            ("t", "fs.read /a", true),
            ("t", "fs.read /a", true),
            ("t", "fs.read /gone", true),
        ];
        let b = [
            ("", "fs.read /new", true),
            ("", "fs.read /same", true),
            ("t", "fs.read /a", true),
            ("t", "fs.read /a", false),
            ("u", "fs.read /a", true),
            ("u", "fs.read /a", true),
        ];
        let told = |kind, words: &str, count, first, second| {
            (kind, format!("fs.read {words}"), count, first, second)
        };
        assert_eq!(
            differ(&a, &b),
            [
                told(Kind::OnlySecond, "/new", 1, None, Some(0)),
                told(Kind::DecidedOtherwise, "/a", 1, Some(2), Some(3)),
                told(Kind::OnlyFirst, "/gone", 1, Some(3), None),
                told(Kind::OnlySecond, "/a", 2, None, Some(4)),
            ]
        );
    }

    #[test]
    fn a_trace_that_cannot_be_read_is_not_compared_in_part() {
        let mut broken = trace(&[("", "fs.read /a", true)]);
        broken.push(Err(()));
        assert!(compare(broken, trace(&[])).is_err());
    }
}
