//! What deciding a recorded session again costs, the trace verified first: from its records and from its index.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

#[path = "../../failcore-trace/tests/common/mod.rs"]
mod common;
#[path = "../../../benches/cpu_time.rs"]
mod cpu_time;

use cpu_time::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use failcore_gate::replay::what_if;
use failcore_model::{AbsPath, Record};
use failcore_policy::{Environment, PolicySet};
use failcore_trace::{Index, Reader, TraceError, redacted_field, verify};

const RECORDS: u64 = 50_000;

fn replay(c: &mut Criterion<CpuTime>) {
    let shm = std::path::Path::new("/dev/shm");
    let home = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let dir = home.path().join("run");
    common::closed(&dir, RECORDS, 4096, 1 << 30);
    let text =
        "extends = [\"preset:native\"]\n[fs]\nread = [\"/home/agent/project/src\"]\ndeny = [\"**/.env\"]\n";
    let policy = PolicySet::parse("bench", text, &AbsPath::root(), &Environment::default()).unwrap();
    let report = verify(&dir, None).unwrap();
    drop(Index::build(&dir, &report).unwrap());
    let decide = |records: &mut dyn Iterator<Item = Result<Record, TraceError>>| {
        let found = what_if(records, &policy, |request| redacted_field(request).is_some()).unwrap();
        assert!(found.is_empty() && found.decided == RECORDS - 2);
    };

    let mut group = c.benchmark_group("replay");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function("records, verified and decided again", |b| {
        b.iter(|| {
            assert!(verify(&dir, None).unwrap().is_valid());
            decide(&mut Reader::open(&dir).unwrap());
        });
    });
    group.bench_function("index, checked and decided again", |b| {
        b.iter(|| decide(&mut Index::open(&dir, &report).unwrap().unwrap()));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = replay
}
criterion_main!(benches);
