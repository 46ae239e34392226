//! Whatever stands in a trace's directory, reading and verifying it ends, without a panic, and nothing that was not
//! signed is called valid.
#![no_main]

use failcore_trace::{Reader, verify};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    // The files of a trace, apart by 0xff, which no text of them contains.
    let mut parts = bytes.split(|byte| *byte == 0xff);
    for name in ["trace.jsonl", "checkpoints", "key.pub", "policy.toml", "leaves"] {
        if let Some(part) = parts.next() {
            std::fs::write(dir.path().join(name), part).expect("written");
        }
    }
    if let Ok(reader) = Reader::open(dir.path()) {
        for record in reader {
            if record.is_err() {
                break;
            }
        }
    }
    if let Ok(report) = verify(dir.path(), None) {
        assert!(!report.is_valid());
    }
});
