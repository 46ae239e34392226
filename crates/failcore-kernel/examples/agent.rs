//! A process of a run, for the tests: attaches, records a number of facts, and dies as it is told.
//!
//! Usage: `agent RECORDS kill|exit|forge-KIND`, with `FAILCORE_SOCKET` in the environment; what is forged is recorded
//! once, and then RECORDS more.

use std::process::ExitCode;

use failcore_kernel::{Attachment, SOCKET_VAR};
use failcore_model::{Action, Answer, Context, Decision, Event, Lane, Outcome, Request, Subject};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let records: u32 = args.next().and_then(|n| n.parse().ok()).expect("a number of records");
    let end = args.next().expect("how to end");
    let socket = std::env::var_os(SOCKET_VAR).expect("a socket");
    let before = descriptors();
    let attachment = match Attachment::connect(socket.as_ref()) {
        Ok(attachment) => attachment,
        Err(_) => return ExitCode::from(126),
    };
    let more = descriptors() - before;
    let sink = attachment.sink();
    if let Some(forged) = end.strip_prefix("forge-").map(forged)
        && sink.append(&forged).is_err()
    {
        return ExitCode::from(2);
    }
    let Ok(policy) = failcore_policy::PolicySet::from_json(&attachment.policy) else {
        return ExitCode::from(3);
    };
    for n in 0..records {
        let text = format!("{n} with {more} more descriptors under {}", policy.resolved());
        if sink
            .append(&Event::ScopeLeft { pid: std::process::id(), tid: n, scope: vec![text.into()] })
            .is_err()
        {
            return ExitCode::from(1);
        }
    }
    if end == "kill" {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    ExitCode::SUCCESS
}

/// What a process has no right to say.
fn forged(kind: &str) -> Event {
    let own = std::process::id();
    let decided = |pid, lane| {
        let subject = Subject { pid, tid: own, ..Subject::default() };
        let context = Context { lane, ..Context::default() };
        let request = Request { action: Action::Unmapped("forged".into()), subject, context };
        let decision = Decision::allow(Default::default());
        Event::Decided { op: 1, request: request.into(), decision, enforced: true, ns: 1 }
    };
    match kind {
        "pid" => decided(1, Lane::Runtime),
        "lane" => decided(own, Lane::Kernel),
        "answer" => Event::Approval { op: 1, pid: own, answer: Answer::Approved, who: "forged".into() },
        "end" => Event::Concluded { op: 1, pid: 1, outcome: Outcome::Done(None) },
        _ => Event::ScopeLeft { pid: 1, tid: own, scope: vec!["forged".into()] },
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("own descriptors").count()
}
