//! The names of the files that make a trace.

use std::path::{Path, PathBuf};

pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const LEAVES: &str = "leaves";
pub(crate) const POLICY: &str = "policy.toml";
pub(crate) const INDEX: &str = "index.bin";
pub(crate) const KEY: &str = "key.pub";

/// The file of one segment: `trace.jsonl`, then `trace.000001.jsonl` and so on.
pub(crate) fn segment(dir: &Path, number: u32) -> PathBuf {
    match number {
        0 => dir.join("trace.jsonl"),
        n => dir.join(format!("trace.{n:06}.jsonl")),
    }
}

/// Takes a trace back that was only just begun, as far as possible: its files go, others and the directory stay.
pub fn discard(dir: &Path) {
    for file in [LEAVES, CHECKPOINTS, POLICY, KEY].map(|name| dir.join(name)) {
        drop(std::fs::remove_file(file));
    }
    // The trace itself is the lock, so it goes last.
    drop(std::fs::remove_file(segment(dir, 0)));
}
