//! The index gives the same records as the trace, or none.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use common::{closed, decided, opened, writer};
use failcore_model::*;
use failcore_trace::{Index, Reader, Stamp, TraceError, Unpacker, pack, verify};

fn actions() -> Vec<Action> {
    let file = |path: &str| {
        let mut file = FileRef::at(AbsPath::new(path.as_bytes()).unwrap());
        file.ids.push(FileId { dev: 1, ino: u64::MAX });
        file
    };
    let missing = FileRef { exists: false, asked: Text::from(b"../\xff"), ..file("/w/a") };
    let inet = |text: &str| Endpoint::Inet { transport: Transport::Udp, addr: text.parse().unwrap() };
    let host = HostName::parse("api.example.com").unwrap();
    vec![
        Action::Open { file: missing.clone(), rights: Rights::READ | Rights::CREATE },
        Action::Read(file("/")),
        Action::Create(file("/w/d")),
        Action::Modify(file("/w/d")),
        Action::Delete(file("/w/d")),
        Action::Attr(file("/w/d")),
        Action::Rename { from: FileRef { dir: Some(false), ..file("/a") }, to: missing.clone() },
        Action::Rename { from: FileRef { dir: Some(true), ..file("/a") }, to: file("/b") },
        Action::Link { from: file("/a"), to: missing },
        Action::Symlink { target: Text::from("../x"), at: file("/b") },
        Action::Resolve(host.clone()),
        Action::Connect(inet("[fe80::1%3]:80")),
        Action::Send(inet("10.0.0.1:53")),
        Action::Bind(Endpoint::Unix(UnixAddr::Path(file("/run/s")))),
        Action::Listen(Endpoint::Other { family: 40, raw: Text::from(b"\x01\xff") }),
        Action::Socket { family: Family::Other(16), kind: SocketKind::Raw, protocol: -1 },
        Action::Http { method: "GET".into(), host, port: 443, path: "/a".into() },
        Action::IpcConnect(UnixAddr::Abstract(Text::from("bus"))),
        Action::IpcConnect(UnixAddr::Unnamed),
        Action::Exec {
            image: file("/usr/bin/git"),
            argv: vec!["git".into(), Text::from(b"\xfe"), "".into()],
        },
        Action::Signal { to: SignalTarget::Child, pid: -7, signal: 9 },
        Action::Trace { pid: 7 },
        Action::Limit { pid: 7 },
        Action::Load(NativeObject::Library(file("/lib/x.so"))),
        Action::Load(NativeObject::Ffi),
        Action::EnvRead("HOME".into()),
        Action::KernelCall("mount".into()),
        Action::Unmapped("os.new_thing".into()),
    ]
}

/// A trace with every verb, both kinds of address and every optional part present and absent.
fn broad(dir: &Path) {
    let (mut writer, _) = writer(dir, 8, 9000);
    writer.append(&opened()).unwrap();
    for (op, action) in actions().into_iter().enumerate() {
        let Event::Decided { request, mut decision, ns, .. } = decided(op as u64) else { unreachable!() };
        let mut request = Arc::unwrap_or_clone(request);
        request.action = action;
        if op % 2 == 0 {
            request.subject = Subject { run: Some("r".into()), ..Subject::default() };
            request.subject.claimed.step = Some(Text::from(b"\xff"));
            request.context.names.push(HostName::parse("a.example").unwrap());
            request.context.addresses.extend([
                "::1".parse().unwrap(),
                "10.1.2.3".parse().unwrap(),
                "::".parse().unwrap(),
            ]);
            decision = Decision::fault(Fault::Resolve);
            decision.obligations.push(Obligation::Approve);
        }
        let (op, request) = (op as u64, request.into());
        writer.append(&Event::Decided { op, request, decision, enforced: op.is_multiple_of(3), ns }).unwrap();
        writer.append(&Event::Approval { op, pid: 1, answer: Answer::Denied, who: "me".into() }).unwrap();
        writer.append(&Event::Concluded { op, pid: 1, outcome: Outcome::Done(None) }).unwrap();
    }
    writer.close(None).unwrap();
}

fn deciding(dir: &Path) -> Vec<Record> {
    let depends = |record: &Record| matches!(record.event, Event::Decided { .. } | Event::Approval { .. });
    Reader::open(dir).unwrap().map(Result::unwrap).filter(depends).collect()
}

#[test]
fn the_index_holds_what_decisions_depend_on_unchanged() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    broad(&dir);
    let verbs: std::collections::HashSet<Verb> = actions().iter().map(Action::verb).collect();
    assert_eq!(verbs.len(), Verb::ALL.len(), "a verb has no case here");
    let report = verify(&dir, None).unwrap();
    assert!(report.is_valid() && report.segments > 1);
    assert!(Index::open(&dir, &report).unwrap().is_none(), "nothing was built yet");
    let built: Vec<Record> = Index::build(&dir, &report).unwrap().map(Result::unwrap).collect();
    assert_eq!(built, deciding(&dir));
    let index = Index::open(&dir, &report).unwrap().unwrap();
    assert_eq!(index.len(), built.len() as u64);
    assert_eq!(index.map(Result::unwrap).collect::<Vec<_>>(), built);
    assert_eq!(Index::build(&dir, &report).unwrap().len(), built.len() as u64, "and again");
    assert!(verify(&dir, None).unwrap().is_valid(), "the index is no part of the trace");

    // One process all along, which rows say once.
    let dir = home.path().join("alike");
    closed(&dir, 20, 8, u64::MAX);
    let report = verify(&dir, None).unwrap();
    let built: Vec<Record> = Index::build(&dir, &report).unwrap().map(Result::unwrap).collect();
    assert_eq!(built, deciding(&dir));
}

#[test]
fn what_an_agent_may_say_survives_its_compact_form() {
    let home = tempfile::tempdir().unwrap();
    broad(home.path());
    let scope = vec![Text::from("web"), Text::from(b"\xff")];
    let more = [
        Event::Concluded { op: 1, pid: 2, outcome: Outcome::Failed(-2) },
        Event::Concluded { op: u64::MAX, pid: 2, outcome: Outcome::Done(Some(i64::MIN)) },
        Event::ScopeEntered { pid: 1, tid: 2, scope: scope.clone(), step: Some("plan".into()) },
        Event::ScopeLeft { pid: 1, tid: 2, scope },
    ];
    let mut unpacker = Unpacker::default();
    for event in deciding(home.path()).into_iter().map(|record| record.event).chain(more) {
        let mut bytes = Vec::new();
        pack(&event, &mut bytes).unwrap();
        assert_eq!(unpacker.unpack(&bytes).unwrap(), event);
    }
}

#[test]
fn whatever_an_agent_hands_over_is_read_back_as_it_was_written() {
    let home = tempfile::tempdir().unwrap();
    broad(home.path());
    let mut unpacker = Unpacker::default();
    let mut understood = 0;
    for record in deciding(home.path()) {
        let mut bytes = Vec::new();
        pack(&record.event, &mut bytes).unwrap();
        for at in 0..bytes.len() {
            for byte in [0, 1, 2, b'.', b'/', 0x7f, 0x80, 0xff, bytes[at].wrapping_add(1)] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                let Ok(event) = unpacker.unpack(&changed) else { continue };
                understood += 1;
                let json = serde_json::to_string(&event).unwrap();
                assert_eq!(serde_json::from_str::<Event>(&json).ok(), Some(event), "{json}");
            }
        }
    }
    assert!(understood > 1000, "{understood}");
}

#[test]
fn a_trace_that_nothing_was_written_to_since_it_verified_is_known_by_its_index() {
    let home = tempfile::tempdir().unwrap();
    let written = ["trace.jsonl", "leaves", "checkpoints", "policy.toml", "key.pub", "trace.000001.jsonl"];
    let dirs = written.map(|name| home.path().join(name));
    for dir in &dirs {
        closed(dir, 4, 2, u64::MAX);
        Index::build(dir, &verify(dir, None).unwrap()).unwrap();
        assert!(Index::unchanged(dir).unwrap().is_none(), "nothing was kept yet");
    }
    let settled = |dir| {
        // Some seconds after the last write.
        let looks = std::iter::repeat_with(|| {
            sleep(Duration::from_millis(50));
            Stamp::of(dir)
        });
        looks.take(1200).flatten().next().unwrap()
    };
    let kept = |dir: &Path, stamp: &Stamp| {
        Index::open(dir, &verify(dir, None).unwrap()).unwrap().unwrap().keep(stamp).unwrap()
    };
    for dir in &dirs {
        kept(dir, &settled(dir));
        let (index, all) = Index::unchanged(dir).unwrap().unwrap();
        assert_eq!(all, verify(dir, None).unwrap().records);
        assert_eq!(index.map(Result::unwrap).collect::<Vec<_>>(), deciding(dir));
    }
    // Each of the files that a verification reads, written anew with its bytes and times as they were; and one more.
    for (dir, name) in dirs.iter().zip(written) {
        let path = dir.join(name);
        let before = fs::metadata(&path).and_then(|file| file.modified());
        fs::write(&path, fs::read(&path).unwrap_or_default()).unwrap();
        if let Ok(time) = before {
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
    }
    for (dir, name) in dirs.iter().zip(written) {
        let stamp = settled(dir);
        assert!(Index::unchanged(dir).unwrap().is_none(), "{name}");
        kept(dir, &stamp);
        assert!(Index::unchanged(dir).unwrap().is_some(), "{name}, verified again");
    }
}

#[test]
fn an_index_that_is_damaged_or_of_other_records_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (home.path().join("one"), home.path().join("two"));
    closed(&one, 4, 2, u64::MAX);
    closed(&two, 4, 2, u64::MAX);
    let (first, second) = (verify(&one, None).unwrap(), verify(&two, None).unwrap());
    Index::build(&one, &first).unwrap();
    let expected = deciding(&one);
    let path = one.join("index.bin");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        fs::write(&path, &flipped).unwrap();
        if let Some(index) = Index::open(&one, &first).unwrap() {
            // That is its stamp, which says nothing of what is in it.
            assert!((16..32).contains(&at), "byte {at}");
            assert_eq!(index.map(Result::unwrap).collect::<Vec<_>>(), expected);
        }
        fs::write(&path, &whole[..at]).unwrap();
        assert!(Index::open(&one, &first).unwrap().is_none(), "cut to {at}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(Index::open(&one, &second).unwrap().is_none());
    fs::copy(&path, two.join("index.bin")).unwrap();
    assert!(Index::open(&two, &second).unwrap().is_none());
    assert!(matches!(Index::build(&one, &second), Err(TraceError::Unverified(_))));
    assert_eq!(
        fs::read_dir(&one)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("index"))
            .count(),
        1
    );
}
