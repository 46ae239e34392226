//! What a model reads when it is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failcore_model::{AbsPath, Action, Decision, Lane, Reason, Timestamp};
use failcore_policy::{Environment, PolicySet, ask};

const POLICY: &str = r#"
[fs]
read = ["./data"]
write = ["./work"]
deny = [{ path = "./work/secrets", reason = "use the vault tool" }, "./work/*/key.pem"]
[net]
connect = ["api.example.com:443", "*.wikipedia.org:443"]
[process]
exec = [{ cmd = "/bin/ls", until = "2026-01-01T00:00:00Z" }]
[limits]
connections = 10
processes = 4
[[tool]]
name = "web_*"
fs.write = []
"#;

/// Each line: the request, then the refusal as shown.
fn refusals(requests: &[&str], change: impl Fn(&mut failcore_model::Request)) -> String {
    let dir = AbsPath::new(b"/srv/agent").unwrap();
    let env = Environment { path: vec![AbsPath::new(b"/bin").unwrap()], ..Environment::default() };
    let set = PolicySet::parse("demo.toml", POLICY, &dir, &env).unwrap();
    let mut shown = String::new();
    for text in requests {
        let mut request = ask(text, &dir, &env).unwrap();
        change(&mut request);
        let decision = set.decide(&request);
        assert!(!decision.is_allow(), "{text}");
        let denial = set.denial(&request, &decision);
        shown += &format!("{text}\n    {denial} [{} errno {}]\n", denial.reason, denial.errno);
    }
    shown
}

#[test]
fn files() {
    insta::assert_snapshot!(refusals(
        &[
            "fs.read /etc/shadow",
            "fs.open create+modify ./data/x",
            "fs.read ./work/secrets/a",
            "fs.rename ./work/a -> ./work/b",
            "fs.create ./we*ird",
        ],
        |_| ()
    ));
    insta::assert_snapshot!(
        "absent",
        refusals(&["fs.open read ./config.ini"], |request| {
            if let Action::Open { file, .. } = &mut request.action {
                file.exists = false;
            }
        })
    );
}

#[test]
fn network() {
    insta::assert_snapshot!(refusals(
        &[
            "net.connect 169.254.169.254:80",
            "net.connect evil.example:443",
            "net.connect 93.184.216.34:443",
            "net.connect 127.0.0.1:8080",
            "net.connect udp:8.8.8.8:53",
            "net.resolve evil.example",
            "net.listen 0.0.0.0:80",
            "net.socket netlink raw 0",
            "ipc.connect unix:/run/docker.sock",
        ],
        |_| ()
    ));
    insta::assert_snapshot!(
        "a_name_that_leads_inside",
        refusals(&["net.connect 10.0.0.5:443"], |request| {
            request.context.names.push(failcore_model::HostName::parse("api.example.com").unwrap());
        })
    );
}

#[test]
fn processes() {
    insta::assert_snapshot!(refusals(
        &[
            "process.exec /bin/sh -c 'rm -rf /'",
            "process.signal children",
            "process.signal outside",
            "process.trace 1",
            "kernel.call io_uring_setup",
            "kernel.call mount",
            "native.load ctypes",
            "env.read AWS_SECRET_ACCESS_KEY",
            "unmapped os.new_thing",
        ],
        |_| ()
    ));
    insta::assert_snapshot!(
        "a_grant_that_ended",
        refusals(&["process.exec /bin/ls -l"], |request| {
            request.context.time = "2026-06-01T00:00:00Z".parse::<Timestamp>().unwrap();
        })
    );
}

#[test]
fn scopes_and_budgets() {
    insta::assert_snapshot!(
        "outside_the_scope",
        refusals(&["fs.create ./work/a"], |request| {
            request.subject.claimed.scope = ["web_search".into()].into();
        })
    );
    insta::assert_snapshot!(
        "over_budget",
        refusals(&["net.connect api.example.com:443", "process.exec /bin/ls"], |request| {
            request.context.counters.connections = 10;
            request.context.counters.processes = 4;
            // There the hook counts them; elsewhere each fork is.
            request.context.lane = Lane::Runtime;
        })
    );
}

#[test]
fn what_the_gate_adds_is_put_in_words_too() {
    let dir = AbsPath::new(b"/srv/agent").unwrap();
    let env = Environment::default();
    let set = PolicySet::parse("demo.toml", "", &dir, &env).unwrap();
    let request = ask("fs.read ./x", &dir, &env).unwrap();
    let shown: Vec<String> =
        [Reason::Refused, Reason::ApprovalTimeout, Reason::TraceUnwritable, Reason::Diverged, Reason::Fault]
            .into_iter()
            .map(|reason| {
                let denial = set.denial(&request, &Decision::deny(reason, Default::default()));
                format!("{denial} [errno {}]", denial.errno)
            })
            .collect();
    insta::assert_snapshot!(shown.join("\n"));
}
