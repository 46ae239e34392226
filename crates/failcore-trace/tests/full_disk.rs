//! A full disk is an error of the append that met it, never a lost or half-written record.
//!
//! Without a harness, because a size limit and a mount belong to a whole process: it starts itself again, once under
//! RLIMIT_FSIZE and once with a tiny tmpfs in a mount namespace of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test without a harness")]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use common::{decided, opened, writer};
use failcore_trace::{Integrity, Reader, TraceError, Writer, verify};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, scenario, dir] = args.as_slice()
        && flag == "--within"
    {
        match scenario.as_str() {
            "limit" => size_limit(Path::new(dir)),
            _ => tiny_disk(Path::new(dir)),
        }
        return ExitCode::SUCCESS;
    }
    let this = std::env::current_exe().unwrap();
    let home = tempfile::tempdir().unwrap();
    let start = |program: &str, script: &str| {
        let args = match program {
            "sh" => vec![],
            _ => vec!["--mount", "--map-root-user", "--user", "sh"],
        };
        Command::new(program).args(args).arg("-c").arg(script).arg(&this).arg(home.path()).status()
    };
    // SIGXFSZ ignored, as the writer's documentation demands; 128 blocks of 512 bytes.
    let limited =
        start("sh", r#"trap "" XFSZ; ulimit -f 128; exec "$0" --within limit "$1/limited""#).unwrap();
    assert!(limited.success(), "under RLIMIT_FSIZE");
    println!("full_disk: size limit ... ok");

    let mounts = Command::new("unshare").args(["--mount", "--map-root-user", "--user", "true"]).status();
    if !mounts.is_ok_and(|status| status.success()) {
        println!("full_disk: tiny disk ... skipped: this machine gives no mount namespace (unshare(1))");
        return ExitCode::SUCCESS;
    }
    let script = r#"mount -t tmpfs -o size=512k tmpfs "$1" && exec "$0" --within disk "$1""#;
    assert!(start("unshare", script).unwrap().success(), "on a tiny disk");
    println!("full_disk: tiny disk ... ok");
    ExitCode::SUCCESS
}

/// Appends until it is refused; how many records were taken.
fn fill(writer: &mut Writer) -> u64 {
    for op in 0.. {
        match writer.append(&decided(op)) {
            Ok(_) => {}
            Err(e) => {
                assert!(e.is_full(), "{e}");
                return op;
            }
        }
    }
    unreachable!("no disk is endless")
}

fn whole_lines(dir: &Path, records: u64) {
    assert!(fs::read(dir.join("trace.jsonl")).unwrap().ends_with(b"\n"), "half a line was left");
    assert_eq!(Reader::open(dir).unwrap().map(Result::unwrap).count() as u64, records);
}

fn size_limit(dir: &Path) {
    let (mut writer, _) = writer(dir, 16, u64::MAX);
    writer.append(&opened()).unwrap();
    let taken = fill(&mut writer);
    assert!(taken > 50, "only {taken} records fit");
    assert!(writer.reserve(1 << 20).is_err_and(|e| e.is_full()));
    whole_lines(dir, taken + 1);
    assert!(matches!(writer.append(&decided(0)), Err(e) if e.is_full()));
    drop(writer);
    assert!(matches!(verify(dir, None).unwrap().integrity, Integrity::NotClosed { torn: None, .. }));
}

fn tiny_disk(disk: &Path) {
    let ballast = |bytes: usize| {
        let mut file = fs::File::create(disk.join("ballast")).unwrap();
        let chunk = [0u8; 512];
        for _ in 0..bytes / chunk.len() {
            if file.write_all(&chunk).is_err() {
                return;
            }
        }
    };
    let dir = disk.join("run");
    let (mut writer, key) = writer(&dir, 16, u64::MAX);
    writer.append(&opened()).unwrap();
    ballast(200 << 10);
    let taken = fill(&mut writer);
    whole_lines(&dir, taken + 1);

    // With room again it goes on where it was, and what was assured is there however full the disk gets.
    fs::remove_file(disk.join("ballast")).unwrap();
    writer.reserve(100 << 10).unwrap();
    ballast(usize::MAX);
    let size = serde_json::to_vec(&decided(0)).unwrap().len() as u64 + 200;
    let assured = (100 << 10) / size;
    for op in 0..assured {
        writer.append(&decided(op)).unwrap_or_else(|e| panic!("record {op} of {assured} had its space: {e}"));
    }
    assert!(writer.reserve(400 << 10).is_err_and(|e| e.is_full()));
    fs::remove_file(disk.join("ballast")).unwrap();
    let records = writer.records();
    assert_eq!(records, 1 + taken + assured);
    writer.close(Some(0)).unwrap();
    let report = verify(&dir, Some(&key.verifying_key())).unwrap();
    assert!(report.is_valid(), "{report:?}");

    // What was assured and not used is the room for the last signature.
    let dir = disk.join("last");
    let (mut writer, key) = self::writer(&dir, 16, u64::MAX);
    writer.reserve(64 << 10).unwrap();
    ballast(usize::MAX);
    writer.append(&opened()).unwrap();
    writer.close(Some(0)).unwrap();
    let report = verify(&dir, Some(&key.verifying_key())).unwrap();
    assert!(report.is_valid(), "{report:?}");
    fs::remove_file(disk.join("ballast")).unwrap();

    // A trace that cannot even begin says so.
    ballast(usize::MAX);
    let begun = Writer::create(&disk.join("other"), "session-2", &key, &"x".repeat(8192));
    assert!(matches!(begun, Err(TraceError::Io { .. })));
}
