//! The same question, put to FailCore, Cedar and Regorus: may this file be read, with n directories granted?

#[path = "../../cpu_time.rs"]
mod cpu_time;

use std::hint::black_box;

use cedar_policy::{Authorizer, Context, Entities, EntityUid, Request};
use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use failcore_model::AbsPath;
use failcore_policy::{Environment, PolicySet, ask};

const FILE: &str = "/data/d0/s3/reports/2026/summary.csv";

/// The directory that rule `i` of `n` grants; one in ten has a wildcard. The one that matters comes last, so that
/// nobody is quick by stopping early.
fn pattern(n: usize, i: usize) -> String {
    let i = n - 1 - i;
    if i % 10 == 9 { format!("/data/p{}/*.r{i}", i / 100) } else { format!("/data/d{}/s{i}", i / 100) }
}

fn decide(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("decide against");
    group.sample_size(20);
    for n in [10, 100, 1_000, 10_000] {
        let list: Vec<String> = (0..n).map(|i| format!("\"{}\"", pattern(n, i))).collect();
        let text = format!("[fs]\nread = [{}]\n", list.join(", "));
        let env = Environment::default();
        let set = PolicySet::parse("bench", &text, &AbsPath::root(), &env).expect("policy loads");
        let request = ask(&format!("fs.open read {FILE}"), &AbsPath::root(), &env).expect("request reads");
        assert!(set.decide(&request).is_allow());
        group.bench_with_input(BenchmarkId::new("failcore", n), &n, |b, _| {
            b.iter(|| set.decide(black_box(&request)))
        });

        let text: String = (0..n)
            .map(|i| {
                let like = if i % 10 == 9 { pattern(n, i) } else { format!("{}/*", pattern(n, i)) };
                format!("permit(principal, action == Action::\"read\", resource) when {{ context.path like \"{like}\" }};\n")
            })
            .collect();
        let policies: cedar_policy::PolicySet = text.parse().expect("cedar policy parses");
        let id = |text: &str| -> EntityUid { text.parse().expect("entity id parses") };
        let context = Context::from_json_value(serde_json::json!({ "path": FILE }), None).expect("context");
        let asked =
            Request::new(id("Agent::\"a\""), id("Action::\"read\""), id("File::\"f\""), context, None)
                .expect("request");
        let (authorizer, entities) = (Authorizer::new(), Entities::empty());
        group.bench_with_input(BenchmarkId::new("cedar", n), &n, |b, _| {
            b.iter(|| authorizer.is_authorized(black_box(&asked), &policies, &entities));
        });

        let prefixes: Vec<String> = (0..n).map(|i| pattern(n, i).replace("/*.", "/")).collect();
        let mut engine = regorus::Engine::new();
        let module = "package p\nimport rego.v1\ndefault allow := false\nallow if { some d in data.dirs; startswith(input.path, d) }\n";
        engine.add_policy("p.rego".into(), module.into()).expect("rego parses");
        let data = serde_json::json!({ "dirs": prefixes }).to_string();
        engine.add_data_json(&data).expect("data");
        engine.set_input_json(&serde_json::json!({ "path": FILE }).to_string()).expect("input");
        group.bench_with_input(BenchmarkId::new("regorus", n), &n, |b, _| {
            b.iter(|| engine.eval_rule(black_box("data.p.allow".into())).expect("evaluates"));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = decide
}
criterion_main!(benches);
