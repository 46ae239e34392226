//! What a full, un-thinned record costs: append, verify, parse, in processor time of one core.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../../../benches/cpu_time.rs"]
mod cpu_time;

use common::{decided, opened, writer};
use cpu_time::{CpuTime, cpu};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use failcore_model::{Event, Record};
use failcore_trace::{Index, Reader, Unpacker, pack, verify};
use std::hint::black_box;

const RECORDS: u64 = 50_000;

fn trace(c: &mut Criterion<CpuTime>) {
    // In memory where possible: what the processor does is measured, not the disk.
    let shm = std::path::Path::new("/dev/shm");
    let home = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let events: Vec<Event> = (0..64).map(decided).collect();
    let body = serde_json::to_vec(&events[7]).unwrap();
    let mut packed = Vec::new();
    pack(&events[7], &mut packed).unwrap();

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
    group.bench_function("pack", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            pack(black_box(&events[7]), &mut out).unwrap();
        });
    });
    let mut unpacker = Unpacker::default();
    group.bench_function("unpack", |b| b.iter(|| unpacker.unpack(black_box(&packed)).unwrap()));
    // Each in a trace of its own, so that none pays for what another has left in memory.
    let appender = |name: &str| {
        let (mut appender, _) = writer(&home.path().join(name), 4096, 1 << 30);
        appender.append(&opened()).unwrap();
        appender
    };
    group.bench_function("append one by one", |b| {
        let (mut appender, mut at) = (appender("one"), 0);
        b.iter(|| {
            at += 1;
            appender.append(&events[at % events.len()]).unwrap()
        });
        std::fs::remove_dir_all(appender.dir()).unwrap();
    });
    group.bench_function("append in batches of 64", |b| {
        let mut appender = appender("batches");
        b.iter_custom(|n| {
            let start = cpu();
            for _ in 0..n.div_ceil(64) {
                appender.append_all(&events).unwrap();
            }
            cpu() - start
        });
        std::fs::remove_dir_all(appender.dir()).unwrap();
    });
    group.bench_function("append an agent's records in batches of 64", |b| {
        let mut appender = appender("agent");
        b.iter_custom(|n| {
            let start = cpu();
            for _ in 0..n.div_ceil(64) {
                (0..64).for_each(|_| appender.stage(&unpacker.unpack(&packed).unwrap()).unwrap());
                appender.flush().unwrap();
            }
            cpu() - start
        });
        std::fs::remove_dir_all(appender.dir()).unwrap();
    });
    group.finish();

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
    group.bench_function("verify and read", |b| {
        b.iter(|| {
            assert!(verify(&dir, None).unwrap().is_valid());
            Reader::open(&dir).unwrap().map(Result::unwrap).map(|record: Record| record.seq).sum::<u64>()
        });
    });
    let report = verify(&dir, None).unwrap();
    group.bench_function("build index", |b| b.iter(|| Index::build(&dir, &report).unwrap().len()));
    group.bench_function("read index", |b| {
        b.iter(|| {
            Index::open(&dir, &report).unwrap().unwrap().map(Result::unwrap).map(|r| r.seq).sum::<u64>()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = trace
}
criterion_main!(benches);
