//! A small trace as a real run would leave it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::path::Path;

use failcore_model::*;
use failcore_trace::{Options, SigningKey, Writer};
use sha2::{Digest, Sha256};

pub const POLICY: &str = "version = 1\n";

pub fn opened() -> Event {
    let policy = Sha256::digest(POLICY).iter().map(|b| format!("{b:02x}")).collect();
    let coverage = Coverage { lane: Lane::Runtime, trace: Hold::Binding, verbs: vec![], notes: vec![] };
    Event::SessionOpened {
        policy,
        coverage: coverage.into(),
        command: vec!["python".into(), "agent.py".into()],
    }
}

pub fn decided(op: u64) -> Event {
    let path = format!("/home/agent/project/src/module_{op}/input.json");
    let mut file = FileRef::at(AbsPath::new(path.as_bytes()).unwrap());
    file.asked = Text::from(&format!("src/module_{op}/input.json"));
    file.ids.push(FileId { dev: 65024, ino: 1_234_567 + op });
    let request = Request {
        action: Action::Open { file, rights: Rights::READ },
        subject: Subject {
            pid: 4242,
            tid: 4243,
            exe: "/usr/bin/python3.12".into(),
            agent: Some("research-agent".into()),
            run: None,
            claimed: Claims {
                scope: [Text::from("read_file")].into(),
                step: None,
                site: Some("/home/agent/project/agent.py:118".into()),
            },
        },
        context: Context {
            lane: Lane::Runtime,
            time: Timestamp(1_771_000_000_000_000_000 + op * 1_000),
            counters: Counters { wall_ns: 12_345_678 + op, operations: op, ..Counters::default() },
            ..Context::default()
        },
    };
    Event::Decided {
        op,
        request: request.into(),
        decision: Decision::allow([RuleId::from("failcore.toml#fs.read[0]")].into_iter().collect()),
        enforced: true,
        ns: 312,
    }
}

pub fn writer(dir: &Path, checkpoint_records: u64, segment_bytes: u64) -> (Writer, SigningKey) {
    let key = SigningKey::generate().unwrap();
    let interval = std::time::Duration::from_secs(3600);
    let options =
        Options { checkpoint_records, segment_bytes, checkpoint_interval: interval, ..Options::default() };
    (Writer::create_with(dir, "session-1", &key, POLICY, options).unwrap(), key)
}

/// A closed trace of `records` records.
pub fn closed(dir: &Path, records: u64, checkpoint_records: u64, segment_bytes: u64) -> SigningKey {
    let (mut writer, key) = self::writer(dir, checkpoint_records, segment_bytes);
    writer.append(&opened()).unwrap();
    let mut op = 0;
    while writer.records() < records - 1 {
        writer.append(&decided(op)).unwrap();
        op += 1;
    }
    writer.close(Some(0)).unwrap();
    key
}
