//! Parent and agent as two real processes: what the agent recorded is in the trace, however it dies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use failcore_gate::Nobody;
use failcore_kernel::{SOCKET_VAR, Served, Server};
use failcore_model::{Event, Record};
use failcore_policy::PolicySet;
use failcore_trace::{Reader, SigningKey, Writer};

/// A policy of no rules, as resolved.
const POLICY: &str = "resolved = 1\nmode = \"enforce\"\nreads = \"binding\"\n";

/// The `agent` example, which cargo builds beside the tests.
fn agent() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/agent")
}

struct Run {
    dir: tempfile::TempDir,
    server: Server,
}

impl Run {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::load_or_create(&dir.path().join("key")).unwrap();
        let writer = Writer::create(&dir.path().join("trace"), "s1", &key, POLICY).unwrap();
        let served = Served {
            session: "s1".into(),
            agent: None,
            run: None,
            policy: Arc::new(PolicySet::from_resolved(POLICY).unwrap()),
            supervised: false,
        };
        let server =
            Server::start(&dir.path().join("socket"), served, || Ok(writer), Arc::new(Nobody)).unwrap();
        Self { dir, server }
    }

    fn agent(&self, records: u32, end: &str) -> ExitStatus {
        run_agent(&self.dir.path().join("socket"), records, end)
    }

    fn finish(self) -> Vec<Record> {
        let writer = self.server.finish().unwrap();
        writer.close(Some(0)).unwrap();
        Reader::open(&self.dir.path().join("trace")).unwrap().map(Result::unwrap).collect()
    }
}

fn run_agent(socket: &Path, records: u32, end: &str) -> ExitStatus {
    Command::new(agent()).args([&records.to_string(), end]).env(SOCKET_VAR, socket).status().unwrap()
}

/// What the `agent` example said.
fn said(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| match &record.event {
        Event::ScopeLeft { scope, .. } => {
            scope.first().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
        }
        _ => None,
    };
    records.iter().filter_map(text).collect()
}

#[test]
fn a_killed_agent_loses_nothing() {
    let run = Run::start();
    let status = run.agent(20_000, "kill");
    assert_eq!(status.signal(), Some(9));
    let records = run.finish();
    let said = said(&records);
    assert_eq!(said.len(), 20_000);
    for (n, text) in said.iter().enumerate() {
        assert!(text.starts_with(&format!("{n} ")), "out of order: {text}");
        assert!(text.ends_with(&format!("under {POLICY}")), "the policy did not arrive: {text}");
    }
}

#[test]
fn joining_leaves_no_descriptor_in_the_agent() {
    let run = Run::start();
    assert!(run.agent(1, "exit").success());
    let records = run.finish();
    assert!(said(&records)[0].contains(" 0 more descriptors"), "{:?}", said(&records));
}

#[test]
fn processes_are_recorded_as_they_join_and_leave() {
    let run = Run::start();
    assert!(run.agent(10, "exit").success());
    assert!(run.agent(10, "exit").success());
    let kinds: Vec<&str> = run.finish().iter().map(|record| record.event.kind()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "process.joined").count(), 2);
    assert_eq!(kinds.iter().filter(|kind| **kind == "process.left").count(), 2);
    assert_eq!(kinds.last(), Some(&"session.closed"));
}

#[test]
fn what_a_process_cannot_have_recorded_is_not_kept() {
    for kind in ["pid", "lane", "answer", "end", "scope"] {
        let run = Run::start();
        // It may not even notice: what it is granted already it can still write.
        run.agent(10, &format!("forge-{kind}"));
        let honest = run.agent(10, "exit");
        assert!(honest.success(), "another process is not held to it");
        let records = run.finish();
        let text = serde_json::to_string(&records).unwrap();
        assert!(!text.contains("forged"), "{kind}: {text}");
        assert!(!records.iter().any(|record| matches!(record.event, Event::Concluded { .. })), "{kind}");
        assert_eq!(text.matches("that it cannot have made").count(), 1, "{kind}: {text}");
        assert_eq!(said(&records).len(), 10, "{kind}: nothing that came after is believed");
    }
}

#[test]
fn many_agents_at_once() {
    let run = Run::start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(run.agent(2_000, "kill").signal() == Some(9)));
        }
    });
    assert_eq!(said(&run.finish()).len(), 16_000);
}

#[test]
fn without_a_parent_nothing_starts() {
    let run = Run::start();
    let socket = run.dir.path().join("socket");
    let dir = run.dir.path().to_owned();
    let Run { dir: keep, server } = run;
    server.finish().unwrap().close(None).unwrap();
    assert_eq!(run_agent(&socket, 1, "exit").code(), Some(126));
    assert!(dir.exists());
    drop(keep);
}
