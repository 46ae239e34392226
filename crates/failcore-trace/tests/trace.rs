//! A trace from its first record to its proof.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{POLICY, closed, decided, opened, writer};
use failcore_model::*;
use failcore_trace::*;

#[test]
fn what_is_written_is_read_verified_and_proved() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("runs/one");
    let key = closed(&dir, 25, 8, u64::MAX);
    let report = verify(&dir, Some(&key.verifying_key())).unwrap();
    assert!(report.is_valid(), "{report:?}");
    assert_eq!((report.records, report.signed, report.checkpoints), (25, 25, 4));
    let records: Vec<Record> = Reader::open(&dir).unwrap().map(Result::unwrap).collect();
    assert_eq!(records.len(), 25);
    assert_eq!(records[1].event, decided(0));
    assert!(records.iter().enumerate().all(|(i, r)| r.seq == i as u64 && &*r.session == "session-1"));
    assert!(records.is_sorted_by_key(|r| r.ts));
    for record in &records {
        let proof = serde_json::to_string(&prove(&dir, record.seq).unwrap()).unwrap();
        let proof: Proof = serde_json::from_str(&proof).unwrap();
        assert_eq!(verify_proof(&proof, &key.verifying_key()).unwrap(), *record);
        let other = SigningKey::generate().unwrap().verifying_key();
        assert!(verify_proof(&proof, &other).is_err(), "another key proves nothing");
    }
    assert!(matches!(prove(&dir, 25), Err(TraceError::NoRecord { seq: 25, signed: 25 })));
}

#[test]
fn only_the_owner_can_read_it_and_only_one_can_write_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let key = closed(&dir, 3, 8, u64::MAX);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for entry in fs::read_dir(&dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    assert!(matches!(Writer::create(&dir, "session-2", &key, POLICY), Err(TraceError::Exists(_))));
    assert!(verify(&dir, None).unwrap().is_valid());
}

#[test]
fn a_session_that_never_closed_is_not_valid() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let (mut writer, _) = writer(&dir, 4, u64::MAX);
    writer.append(&opened()).unwrap();
    for op in 0..5 {
        writer.append(&decided(op)).unwrap();
    }
    drop(writer);
    let report = verify(&dir, None).unwrap();
    assert_eq!(report.integrity, Integrity::NotClosed { unsigned: 2, torn: None });
    assert_eq!((report.records, report.signed), (6, 4));
}

#[test]
fn an_agent_speaks_only_for_itself() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let (mut writer, key) = writer(&dir, 4, u64::MAX);
    writer.append(&opened()).unwrap();
    let mut body = Vec::new();
    pack(&decided(7), &mut body).unwrap();
    let mut unpacker = Unpacker::default();
    assert_eq!(writer.append(&unpacker.unpack(&body).unwrap()).unwrap(), 1);
    let hostile = [
        Vec::new(),
        body[..body.len() - 1].to_vec(),
        [&body[..], b"\0"].concat(),
        [&body[..], &body].concat(),
        [&[99], &body[1..]].concat(),
        serde_json::to_vec(&decided(7)).unwrap(),
    ];
    for bytes in hostile {
        assert!(matches!(unpacker.unpack(&bytes), Err(TraceError::NotAnEvent(_))), "{bytes:?}");
    }
    for event in [
        opened(),
        Event::ProcessLeft { pid: 1 },
        Event::Notice { text: "x".into() },
        Event::SessionClosed { exit: None },
    ] {
        let mut none = Vec::new();
        assert!(matches!(pack(&event, &mut none), Err(TraceError::NotAnEvent(_))), "{}", event.kind());
        assert!(none.is_empty());
    }
    writer.flush().unwrap();
    assert_eq!(writer.records(), 2);
    writer.close(None).unwrap();
    assert!(verify(&dir, Some(&key.verifying_key())).unwrap().is_valid());
    let second = Reader::open(&dir).unwrap().nth(1).unwrap().unwrap();
    assert_eq!(second.event, decided(7));
}

#[test]
fn segments_are_one_trace() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let key = closed(&dir, 40, 8, 4096);
    let report = verify(&dir, Some(&key.verifying_key())).unwrap();
    assert!(report.is_valid(), "{report:?}");
    assert!(report.segments > 3);
    let mut roots = 0;
    for record in Reader::open(&dir).unwrap() {
        if let Event::SegmentOpened { segment, .. } = record.unwrap().event {
            roots += 1;
            assert_eq!(segment, roots);
        }
    }
    assert_eq!(roots + 1, report.segments);
    let proof = prove(&dir, 30).unwrap();
    assert_eq!(verify_proof(&proof, &key.verifying_key()).unwrap().seq, 30);
}

#[test]
fn a_trace_that_cannot_be_begun_leaves_what_was_there() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("project");
    fs::create_dir(&dir).unwrap();
    // Somebody's own, in a directory that is not meant for traces.
    fs::write(dir.join("policy.toml"), "theirs").unwrap();
    let key = SigningKey::load_or_create(&home.path().join("key")).unwrap();
    assert!(matches!(Writer::create(&dir, "0190c0de", &key, "ours"), Err(TraceError::Exists(_))));
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["policy.toml"]);
    assert_eq!(fs::read_to_string(dir.join("policy.toml")).unwrap(), "theirs");
}
