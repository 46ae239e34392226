//! The gate's promises: recorded before granted, and every failure a denial.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::Kept;
use failcore_gate::{Actor, Approver, Gate, Meter};
use failcore_model::{
    AbsPath, Action, Answer, Claims, Counters, Event, FileRef, Lane, Reason, Request, Rights, Text,
    Timestamp, Verdict,
};
use failcore_policy::{Environment, PolicySet};

impl Kept {
    fn decided(&self) -> Vec<(Verdict, Reason, bool)> {
        let one = |event: &Event| match event {
            Event::Decided { decision, enforced, .. } => Some((decision.verdict, decision.reason, *enforced)),
            _ => None,
        };
        self.events.lock().unwrap().iter().filter_map(one).collect()
    }
}

struct Says(Answer, &'static str);

impl Approver for Says {
    fn ask(&self, _: &Request, _: &str) -> (Answer, Text) {
        (self.0, self.1.into())
    }
}

fn policy(text: &str) -> Arc<PolicySet> {
    let environment =
        Environment { home: None, vars: Default::default(), path: vec![], python: None, tmp: None };
    let text = format!("version = 1\n{text}");
    Arc::new(PolicySet::parse("policy.toml", &text, &AbsPath::root(), &environment).unwrap())
}

fn read(path: &str) -> Action {
    Action::Open { file: FileRef::at(AbsPath::new(path.as_bytes()).unwrap()), rights: Rights::READ }
}

fn gate(text: &str, sink: &Arc<Kept>) -> Gate {
    Gate::builder(policy(text), Arc::clone(sink) as _, Lane::Runtime).build()
}

#[test]
fn a_grant_carries_what_was_judged_and_was_recorded() {
    let sink = Arc::new(Kept::default());
    let gate = gate("[fs]\nread = [\"/data\"]", &sink);
    let grant = gate.check(read("/data/a"), Claims::default(), &[]).unwrap();
    assert_eq!(grant.action(), &read("/data/a"));
    assert_eq!(sink.decided(), [(Verdict::Allow, Reason::Granted, true)]);
    let denial = gate.check(read("/etc/a"), Claims::default(), &[]).unwrap_err();
    assert_eq!((denial.reason, denial.errno), (Reason::NotGranted, 13));
    assert_eq!(sink.decided().len(), 2);
}

#[test]
fn a_plain_grant_is_recorded_and_anything_else_leaves_no_trace() {
    let sink = Arc::new(Kept::default());
    let gate = gate("[fs]\nread = [\"/data\", { path = \"/asked\", approve = true }]", &sink);
    let grant = gate.grant_plain(read("/data/a"), Claims::default()).unwrap();
    assert_eq!(grant.action(), &read("/data/a"));
    assert_eq!(sink.decided(), [(Verdict::Allow, Reason::Granted, true)]);
    let actor = Actor { pid: 7, tid: 8, exe: "/bin/agent".into() };
    for path in ["/etc/a", "/asked/a"] {
        assert!(gate.grant_plain(read(path), Claims::default()).is_none());
        assert!(gate.grant_plain_for(actor.clone(), read(path), Claims::default(), &[]).is_none());
    }
    assert_eq!(sink.decided().len(), 1);
    assert!(gate.grant_plain_for(actor, read("/data/a"), Claims::default(), &[]).is_some());
    let events = sink.events.lock().unwrap();
    let mut whose = events.iter().filter_map(|event| match event {
        Event::Decided { request, .. } => Some(request.subject.tid),
        _ => None,
    });
    assert_eq!(whose.next_back(), Some(8));
    let failing = Arc::new(Kept { full: true.into(), ..Kept::default() });
    let gate = self::gate("[fs]\nread = [\"/data\"]", &failing);
    assert!(gate.grant_plain(read("/data/a"), Claims::default()).is_none());
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let sink = Arc::new(Kept { full: true.into(), ..Kept::default() });
    let denial =
        gate("[fs]\nread = [\"/data\"]", &sink).check(read("/data/a"), Claims::default(), &[]).unwrap_err();
    assert_eq!((denial.reason, denial.errno), (Reason::TraceUnwritable, 5));
}

#[test]
fn a_panic_inside_is_a_denial() {
    let sink = Arc::new(Kept { panics: true, ..Kept::default() });
    let denial =
        gate("[fs]\nread = [\"/data\"]", &sink).check(read("/data/a"), Claims::default(), &[]).unwrap_err();
    assert_eq!((denial.reason, denial.errno), (Reason::Fault, 5));
}

#[test]
fn audit_mode_refuses_only_what_is_always_refused() {
    let sink = Arc::new(Kept::default());
    let gate = gate("mode = \"audit\"", &sink);
    assert!(gate.check(read("/etc/a"), Claims::default(), &[]).is_ok());
    let denial = gate.check(Action::KernelCall("mount".into()), Claims::default(), &[]).unwrap_err();
    assert_eq!(denial.reason, Reason::Always);
    assert_eq!(
        sink.decided(),
        [(Verdict::Deny, Reason::NotGranted, false), (Verdict::Deny, Reason::Always, true)]
    );
}

#[test]
fn an_approval_is_asked_for_and_recorded() {
    let text = "[fs]\nread = [{ path = \"/data\", approve = true }]";
    for (answer, who, expected) in [
        (Answer::Approved, "alice", None),
        (Answer::Denied, "alice", Some(Reason::Refused)),
        (Answer::Denied, "", Some(Reason::ApprovalTimeout)),
    ] {
        let sink = Arc::new(Kept::default());
        let gate = Gate::builder(policy(text), Arc::clone(&sink) as _, Lane::Runtime)
            .approver(Arc::new(Says(answer, who)))
            .build();
        let outcome = gate.check(read("/data/a"), Claims::default(), &[]);
        assert_eq!(outcome.err().map(|denial| denial.reason), expected);
        assert_eq!(sink.decided(), [(Verdict::Allow, Reason::Granted, true)]);
        let events = sink.events.lock().unwrap();
        assert!(
            matches!(&events[1], Event::Approval { answer: a, who: w, .. } if *a == answer && *w == Text::from(who))
        );
    }
}

#[test]
fn counters_enter_the_request_only_where_a_limit_looks_at_them() {
    struct Busy;
    impl Meter for Busy {
        fn reserve(&self, _: &Action, _: Timestamp) -> Counters {
            Counters { operations: 7, connections: 9, ..Counters::default() }
        }

        fn release(&self, _: &Action) {}
    }
    let sink = Arc::new(Kept::default());
    let text = "[fs]\nread = [\"/data\"]\n[limits]\nconnections = 10";
    let gate =
        Gate::builder(policy(text), Arc::clone(&sink) as _, Lane::Runtime).meter(Arc::new(Busy)).build();
    let _grant = gate.check(read("/data/a"), Claims::default(), &[]).unwrap();
    let events = sink.events.lock().unwrap();
    let Event::Decided { request, .. } = &events[0] else { panic!("no decision") };
    assert_eq!(request.context.counters, Counters { connections: 9, ..Counters::default() });
}
