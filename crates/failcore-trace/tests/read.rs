//! Reading: while it is written, where it is broken, and by its schema.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::{closed, decided, opened, writer};
use failcore_model::Event;
use failcore_trace::{Reader, TraceError, verify};

#[test]
fn a_reader_follows_its_writer_from_segment_to_segment() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let (mut writer, _) = writer(&dir, 8, 3000);
    let mut reader = Reader::open(&dir).unwrap().follow();
    assert!(reader.next().is_none());
    writer.append(&opened()).unwrap();
    let mut seen = 0;
    for op in 0..40 {
        for record in reader.by_ref() {
            assert_eq!(record.unwrap().seq, seen);
            seen += 1;
        }
        assert_eq!(seen, writer.records(), "at {op}");
        writer.append(&decided(op)).unwrap();
    }
    assert!(!reader.is_closed());
    writer.close(None).unwrap();
    assert!(matches!(reader.by_ref().last().unwrap().unwrap().event, Event::SessionClosed { .. }));
    assert!(reader.is_closed() && reader.next().is_none());
}

#[test]
fn half_a_line_is_waited_for_when_following() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let (mut writer, _) = writer(&dir, 8, u64::MAX);
    writer.append(&opened()).unwrap();
    drop(writer);
    let file = dir.join("trace.jsonl");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let mut reader = Reader::open(&dir).unwrap().follow();
    assert!(reader.next().is_none());
    fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(&whole[whole.len() / 2..]).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().event, opened());
}

/// What a person is told, without the directory that differs from run to run.
fn told(dir: &Path, error: &impl std::fmt::Display) -> String {
    error.to_string().replace(dir.to_str().unwrap(), "RUN")
}

#[test]
fn what_is_broken_is_told_with_its_line() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let key = closed(&dir, 5, 4, u64::MAX).verifying_key();
    let file = dir.join("trace.jsonl");
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let mut out = String::new();
    let mut broken = |what: &str, text: &str| {
        fs::write(&file, text).unwrap();
        let error = Reader::open(&dir).unwrap().find_map(Result::err).unwrap();
        let report = verify(&dir, Some(&key)).unwrap();
        out.push_str(&format!(
            "{what}\n  read:   {}\n  verify: {}\n",
            told(&dir, &error),
            told(&dir, &report)
        ));
        assert!(Reader::open(&dir).unwrap().count() <= 6, "nothing is read after an error");
    };
    broken("a torn last line", &whole[..whole.len() - 20]);
    broken("a later version", &whole.replacen("{\"v\":1", "{\"v\":2", 1));
    broken("no JSON", &[lines[0], "oops\n", lines[2]].concat());
    broken("a field nobody knows", &whole.replacen("\"enforced\":true", "\"enforced\":true,\"extra\":1", 1));
    broken("a missing record", &[lines[0], lines[2], lines[3], lines[4]].concat());
    broken(
        "another session",
        &whole.replacen("session-1", "session-2", 2).replacen("session-2", "session-1", 1),
    );
    broken("something after the end", &format!("{whole}{}", lines[1]));
    insta::assert_snapshot!(out);
}

#[test]
fn reports_are_values() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    closed(&dir, 6, 4, u64::MAX);
    let mut report = verify(&dir, None).unwrap();
    (report.bytes, report.root, report.key) = (0, "ROOT".into(), "KEY".into());
    insta::assert_json_snapshot!("valid", report);
    let text = fs::read_to_string(dir.join("trace.jsonl")).unwrap();
    fs::write(dir.join("trace.jsonl"), text.replace("module_2/", "module_x/")).unwrap();
    let mut report = verify(&dir, None).unwrap();
    (report.bytes, report.root, report.key) = (0, "ROOT".into(), "KEY".into());
    let report = serde_json::to_string_pretty(&report).unwrap();
    insta::assert_snapshot!("altered", told(&dir, &report));
}

#[test]
fn what_is_no_trace_is_said_to_be_none() {
    let home = tempfile::tempdir().unwrap();
    assert!(matches!(Reader::open(home.path()), Err(TraceError::NoTrace(_))));
    assert!(matches!(Reader::open(&home.path().join("nowhere")), Err(TraceError::NoTrace(_))));
    assert!(verify(home.path(), None).is_err());
}

/// The published schema is the code's, and knows every field that is written. `UPDATE_SCHEMA=1` writes it anew.
#[test]
fn the_published_schema_is_current() {
    let schema = failcore_trace::schema();
    let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/trace.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "run the test with UPDATE_SCHEMA=1");

    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    closed(&dir, 8, 4, 1500);
    let schema = schema.to_value();
    for line in fs::read_to_string(dir.join("trace.jsonl")).unwrap().lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in record.as_object().unwrap().keys() {
            assert!(schema["properties"].get(field).is_some(), "`{field}` is not in the schema");
        }
        for field in schema["required"].as_array().unwrap() {
            assert!(record.get(field.as_str().unwrap()).is_some(), "{field} is required");
        }
    }
}
