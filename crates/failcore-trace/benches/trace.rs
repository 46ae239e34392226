//! What a full, un-thinned record costs: append, verify, parse.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{decided, opened, writer};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use failcore_model::{Event, Record};
use failcore_trace::{Reader, verify};
use std::hint::black_box;

const RECORDS: u64 = 50_000;

fn trace(c: &mut Criterion) {
    let home = tempfile::tempdir().unwrap();
    let events: Vec<Event> = (0..64).map(decided).collect();
    let body = serde_json::to_vec(&events[7]).unwrap();

    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            serde_json::to_writer(&mut out, black_box(&events[7])).unwrap();
        });
    });
    group.bench_function("decode", |b| b.iter(|| serde_json::from_slice::<Event>(black_box(&body)).unwrap()));
    let mut at = 0;
    let dir = home.path().join("append");
    let (mut appender, _) = writer(&dir, 4096, 1 << 30);
    appender.append(&opened()).unwrap();
    group.bench_function("append", |b| {
        b.iter(|| {
            at += 1;
            appender.append(&events[at % events.len()]).unwrap()
        });
    });
    group.bench_function("append in batches of 64", |b| {
        b.iter_custom(|n| {
            let start = std::time::Instant::now();
            for _ in 0..n.div_ceil(64) {
                appender.append_all(&events).unwrap();
            }
            start.elapsed()
        });
    });
    group.bench_function("append an agent's bytes", |b| b.iter(|| appender.append_body(&body).unwrap()));
    group.finish();
    drop(appender);
    std::fs::remove_dir_all(dir).unwrap();

    let dir = home.path().join("read");
    common::closed(&dir, RECORDS, 4096, 1 << 30);
    let mut group = c.benchmark_group("trace");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function("verify", |b| b.iter(|| assert!(verify(&dir, None).unwrap().is_valid())));
    group.bench_function("read", |b| {
        b.iter(|| {
            Reader::open(&dir).unwrap().map(Result::unwrap).map(|record: Record| record.seq).sum::<u64>()
        });
    });
    group.finish();
}

criterion_group!(benches, trace);
criterion_main!(benches);
