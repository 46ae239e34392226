//! What a decision costs with 10, 100, 1,000 and 10,000 rules, one in ten of them a glob.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

#[path = "../../../benches/cpu_time.rs"]
mod cpu_time;

use std::hint::black_box;

use cpu_time::CpuTime;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use failcore_model::{AbsPath, Request};
use failcore_policy::{Environment, PolicySet, ask};

/// A policy of about `n` rules: directories, globs in their place, globs anywhere, hosts and ranges.
fn policy(n: usize) -> PolicySet {
    let list = |write: &dyn Fn(usize) -> String, n: usize| (0..n).map(write).collect::<Vec<_>>().join(", ");
    let text = format!(
        "[fs]\nread = [{}]\ndeny = [{}]\n[net]\nconnect = [{}]\n",
        list(
            &|i| if i % 10 == 9 {
                format!("\"/data/p{}/*.r{i}\"", i / 100)
            } else {
                format!("\"/data/d{}/s{i}\"", i / 100)
            },
            n * 6 / 10
        ),
        list(
            &|i| if i % 10 == 9 {
                format!("\"**/*.k{i}\"")
            } else {
                format!("\"/data/d{}/s{i}/secret\"", i / 100)
            },
            n * 2 / 10
        ),
        list(
            &|i| if i % 2 == 0 {
                format!("\"h{i}.example.com:443\"")
            } else {
                format!("\"10.{}.{}.0/24:5432\"", i / 250, i % 250)
            },
            n * 2 / 10
        ),
    );
    PolicySet::parse("bench", &text, &AbsPath::root(), &Environment::default()).unwrap()
}

fn request(text: &str) -> Request {
    ask(text, &AbsPath::root(), &Environment::default()).unwrap()
}

fn decide(c: &mut Criterion<CpuTime>) {
    for (name, text, allowed) in [
        ("open", "fs.open read /data/d0/s3/reports/2026/summary.csv", true),
        ("open denied", "fs.open read /etc/ssh/keys/host/private.pem", false),
        ("connect", "net.connect h0.example.com:443", true),
        ("connect by range", "net.connect 10.0.1.7:5432", true),
    ] {
        let mut group = c.benchmark_group(format!("decide {name}"));
        for n in [10, 100, 1_000, 10_000] {
            let (set, request) = (policy(n), request(text));
            assert_eq!(set.decide(&request).is_allow(), allowed, "{name} with {n} rules");
            group.bench_with_input(BenchmarkId::from_parameter(n), &request, |b, request| {
                b.iter(|| set.decide(black_box(request)));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = decide
}
criterion_main!(benches);
