//! The shared cases of `corpus/`: policy, request, expected decision. Every lane runs the same ones.
//!
//! A case is a folder with `policy.toml`, `request.json` (one request or a list) and `expected.json` (one
//! expectation or a list as long). Policies stand as if they lay in `/srv/agent`, with the home directory
//! `/home/agent`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use failcore_model::{AbsPath, Obligation, Reason, Request, RuleId, Verdict};
use failcore_policy::{Environment, PolicySet};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    verdict: Verdict,
    reason: Reason,
    /// The rule that decided, where the case is about it.
    #[serde(default)]
    rule: Option<RuleId>,
    #[serde(default)]
    obligations: Vec<Obligation>,
    #[serde(default)]
    errno: Option<i32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

fn read<T: DeserializeOwned>(file: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    match serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())) {
        OneOrMany::Many(all) => all,
        OneOrMany::One(one) => vec![one],
    }
}

fn environment() -> Environment {
    let dir = |path: &str| AbsPath::new(path.as_bytes()).unwrap();
    Environment {
        home: Some(dir("/home/agent")),
        tmp: Some(dir("/srv/agent-tmp")),
        path: vec![],
        ..Environment::default()
    }
}

fn check(case: &Path) -> usize {
    let name = case.file_name().unwrap().to_string_lossy();
    let text = std::fs::read_to_string(case.join("policy.toml")).unwrap();
    let dir = AbsPath::new(b"/srv/agent").unwrap();
    let set = PolicySet::parse("policy.toml", &text, &dir, &environment())
        .unwrap_or_else(|error| panic!("{name}: {:#?}", error.problems()));
    let again = PolicySet::from_resolved(set.resolved()).unwrap();
    let requests: Vec<Request> = read(&case.join("request.json"));
    let expectations: Vec<Expected> = read(&case.join("expected.json"));
    assert_eq!(requests.len(), expectations.len(), "{name}: as many expectations as requests");
    for (request, expected) in requests.iter().zip(&expectations) {
        let decision = set.decide(request);
        let what = format!("{name}: {} {}: {decision:?}", request.action.verb(), request.action.resource());
        assert_eq!((decision.verdict, decision.reason), (expected.verdict, expected.reason), "{what}");
        assert_eq!(decision.obligations.as_slice(), expected.obligations, "{what}");
        if let Some(rule) = &expected.rule {
            assert_eq!(decision.rules.first(), Some(rule), "{what}");
        }
        if let Some(errno) = expected.errno {
            assert_eq!(set.denial(request, &decision).errno, errno, "{what}");
        }
        assert_eq!(again.decide(request), decision, "{what}, and from its resolved text");
    }
    requests.len()
}

#[test]
fn every_case_comes_out_as_expected() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus");
    let mut cases: Vec<_> = std::fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    let requests: usize = cases.iter().map(|case| check(case)).sum();
    assert!(cases.len() >= 60 && requests > cases.len(), "{} cases, {requests} requests", cases.len());
}
