//! An allowed decision allocates nothing: it is on the path of every operation.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failcore_model::{AbsPath, HostName, Request};
use failcore_policy::{Environment, PolicySet, ask};

const POLICY: &str = r#"
extends = ["preset:native"]
[fs]
read = ["./data", "./src/**/*.rs", "./img/*.png"]
write = ["./work"]
deny = ["**/.env", "./work/.git", "./work/*/key-?.pem"]
[net]
connect = ["api.example.com:443", "*.wikipedia.org:443", "10.1.0.0/16:5432", "unix:/run/postgresql/*"]
[process]
exec = ["/opt/tools/git log *"]
[env]
pass = ["LC_*"]
[limits]
operations = 1000
[[tool]]
name = "web_*"
fs.write = []
"#;

fn counted(set: &PolicySet, request: &Request) -> u64 {
    let mut decision = None;
    let counted = allocation_counter::measure(|| decision = Some(set.decide(request)));
    assert!(decision.as_ref().is_some_and(|d| d.is_allow()), "{:?}: {decision:?}", request.action);
    counted.count_total
}

#[test]
fn an_allow_allocates_nothing() {
    let dir = AbsPath::new(b"/srv/agent").unwrap();
    let env = Environment { home: Some(AbsPath::new(b"/home/agent").unwrap()), ..Environment::default() };
    // Many globs in one place, so that the search for candidates is part of what is counted.
    let many: Vec<String> = (0..100).map(|n| format!("\"./cache/*.part{n}\"")).collect();
    let text = POLICY.replace("\"./data\"", &format!("\"./data\", {}", many.join(", ")));
    let set = PolicySet::parse("p", &text, &dir, &env).unwrap();
    let request = |text: &str| ask(text, &dir, &env).unwrap();
    for text in [
        "fs.open read ./data/a/b/c",
        "fs.open read ./src/a/b/c.rs",
        "fs.open read ./cache/x.part77",
        "fs.open read+create+modify ./work/a",
        "fs.rename ./work/a/b -> ./work/a/c",
        "fs.link ./work/a -> ./work/b",
        "net.resolve en.wikipedia.org",
        "net.connect api.example.com:443",
        "net.connect 10.1.2.3:5432",
        "net.socket inet stream",
        "ipc.connect unix:/run/postgresql/x",
        "process.exec /opt/tools/git log -p",
        "env.read LC_ALL",
    ] {
        assert_eq!(counted(&set, &request(text)), 0, "{text}");
    }
    let mut in_scope = request("fs.open read ./data/a");
    in_scope.subject.claimed.scope = ["web_search".into()].into();
    assert_eq!(counted(&set, &in_scope), 0);
    let mut pinned = request("net.connect api.example.com:443");
    pinned.context.names.push(HostName::parse("cdn.example.net").unwrap());
    assert_eq!(counted(&set, &pinned), 0);
}
