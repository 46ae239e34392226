//! Policy text and a request, apart by a line `---`: reading never panics, deciding always answers, and a policy
//! resolved and read again is the same policy.
#![no_main]

use failcore_model::{AbsPath, Request};
use failcore_policy::{Environment, PolicySet};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (policy, request) = text.split_once("\n---\n").unwrap_or((text, ""));
    // Other files are not what is tried here.
    if policy.contains("extends") {
        return;
    }
    let dir = AbsPath::new(b"/nonexistent").expect("an absolute path");
    let Ok(policy) = PolicySet::parse("fuzz", policy, &dir, &Environment::default()) else { return };
    let again = PolicySet::from_resolved(policy.resolved()).expect("what was resolved is a policy");
    assert_eq!(again.digest(), policy.digest());
    assert_eq!(again.resolved(), policy.resolved());

    let Ok(request) = serde_json::from_str::<Request>(request) else { return };
    let decision = policy.decide(&request);
    assert_eq!(again.decide(&request), decision);
    if !decision.is_allow() {
        let _ = policy.denial(&request, &decision).to_string();
    }
});
