//! The presets load, and mean what the documentation says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;

use failcore_model::{AbsPath, Reason, Verdict};
use failcore_policy::{Environment, PolicySet, Python, ask};

fn load(text: &str, env: &Environment) -> PolicySet {
    let dir = AbsPath::new(b"/srv/agent").unwrap();
    PolicySet::parse("demo.toml", text, &dir, env).unwrap_or_else(|error| panic!("{:#?}", error.problems()))
}

#[track_caller]
fn check(set: &PolicySet, env: &Environment, request: &str, expected: Verdict) -> Reason {
    let request_ = ask(request, &AbsPath::new(b"/srv/agent").unwrap(), env).unwrap();
    let decision = set.decide(&request_);
    assert_eq!(decision.verdict, expected, "{request}: {decision:?}");
    decision.reason
}

fn environment() -> Environment {
    let dir = |path: &str| AbsPath::new(path.as_bytes()).unwrap();
    Environment {
        home: Some(dir("/home/agent")),
        path: vec![dir("/usr/bin"), dir("/bin")],
        tmp: Some(dir("/srv/run-tmp")),
        ..Environment::default()
    }
}

#[test]
fn allow_all_permits_everything_but_what_is_always_refused() {
    let env = environment();
    let set = load("extends = [\"preset:allow-all\"]", &env);
    for request in [
        "fs.open read+create+modify ./work/a",
        "fs.delete /etc/hostname",
        "fs.attr ~/.bashrc",
        "fs.rename ./a -> ./b",
        "fs.link ./a -> ./b",
        "fs.symlink ./a -> ./b",
        "net.resolve api.example.com",
        "net.connect api.example.com:443",
        "net.connect 127.0.0.1:80",
        "net.connect [::1]:80",
        "net.connect 169.254.169.254:80",
        "net.connect [::ffff:10.0.0.1]:80",
        "net.send udp:8.8.8.8:53",
        "net.bind 0.0.0.0:8080",
        "net.listen [::]:0",
        "net.socket netlink raw 0",
        "net.http GET api.example.com/x",
        "ipc.connect unix:/run/x.sock",
        "ipc.connect @name",
        "process.exec /bin/sh -c 'echo x'",
        "process.signal self",
        "process.signal run",
        "process.limit 7",
        "native.load ctypes",
        "native.load /srv/x.so",
        "env.read SECRET",
        "unmapped os.new_thing",
    ] {
        check(&set, &env, request, Verdict::Allow);
    }
    for request in ["kernel.call mount", "process.trace 7", "process.signal outside"] {
        assert_eq!(check(&set, &env, request, Verdict::Deny), Reason::Always, "{request}");
    }
}

#[test]
fn without_grants_nothing_is_allowed() {
    let env = environment();
    let set = load("", &env);
    for request in [
        "fs.read /etc/passwd",
        "fs.create ./a",
        "net.resolve example.com",
        "net.connect 93.184.216.34:443",
        "net.connect 127.0.0.1:80",
        "net.bind 127.0.0.1:0",
        "net.socket netlink raw 0",
        "net.socket inet raw",
        "ipc.connect unix:/run/x",
        "process.exec /bin/true",
        "process.signal self",
        "process.limit 7",
        "native.load ctypes",
        "env.read PATH",
        "unmapped os.new_thing",
    ] {
        check(&set, &env, request, Verdict::Deny);
    }
}

#[test]
fn native_holds_files_that_run_later_back() {
    let env = environment();
    let set = load(
        "extends = [\"preset:native\"]\n[fs]\nwrite = [\"./work\", \"~\", \"./work/.vscode/settings.json\"]",
        &env,
    );
    check(&set, &env, "fs.open create+modify ./work/a", Verdict::Allow);
    check(&set, &env, "fs.open read+modify /dev/null", Verdict::Allow);
    check(&set, &env, "fs.create /srv/run-tmp/x", Verdict::Allow);
    check(&set, &env, "fs.read ./work/.git/hooks/pre-commit", Verdict::Allow);
    check(&set, &env, "fs.modify ./work/.vscode/settings.json", Verdict::Allow);
    for request in [
        "fs.create ./work/.git/hooks/pre-commit",
        "fs.attr ./work/.git/hooks/pre-commit.sample",
        "fs.open create+modify ~/.bashrc",
        "fs.create ./work/.vscode/tasks.json",
        "fs.create ./work/sub/failcore.toml",
        "fs.symlink ./work/.envrc -> /etc/passwd",
    ] {
        assert_eq!(check(&set, &env, request, Verdict::Deny), Reason::Caution, "{request}");
    }
    assert_eq!(check(&set, &env, "fs.read /etc/shadow", Verdict::Deny), Reason::NotGranted);
    assert_eq!(
        check(&set, &env, "fs.rename ./work/.git -> ./work/git", Verdict::Deny),
        Reason::DeniedBelow,
        "hooks would be reached under another name"
    );
    check(&set, &env, "fs.rename ./work/src -> ./work/lib", Verdict::Allow);
}

#[test]
fn python_reads_what_the_interpreter_needs() {
    let mut env = environment();
    let mut path = Environment::current().path;
    path.retain(|dir| !dir.to_string().contains("shims")); // launcher scripts of version managers
    let python = Python::find(OsStr::new("python3"), &path).expect("the tests need a python3 on the path");
    env.python = Some(python.clone());
    let set = load("extends = [\"preset:python\"]", &env);
    let lib = format!("{}/lib/python{}", python.base_prefix, python.version);
    for request in [
        format!("fs.open read {lib}/os.py"),
        format!("fs.read {lib}"),
        "fs.open read /etc/ld.so.cache".into(),
        "fs.open read /proc/self/maps".into(),
        "fs.open read /usr/share/zoneinfo/UTC".into(),
        format!("native.load {lib}/lib-dynload/_ssl.so"),
        format!("process.exec {} -c 'import this'", python.executable),
        "process.signal children".into(),
    ] {
        check(&set, &env, &request, Verdict::Allow);
    }
    assert_eq!(Python::find(OsStr::new("sh"), &env.path), None);
    for request in [
        "fs.read ./main.py",
        "fs.read ~/x",
        "native.load /srv/x.so",
        "native.load ctypes",
        "process.exec /bin/sh",
    ] {
        check(&set, &env, request, Verdict::Deny);
    }
}

#[test]
fn the_documentations_example_loads() {
    let text = include_str!("../../../docs/policy.md");
    let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let env = environment();
    let set = load(example, &env);
    assert_eq!(set.name(), Some("researcher"));
    check(&set, &env, "fs.create ./work/report.md", Verdict::Allow);
    check(&set, &env, "net.connect en.wikipedia.org:443", Verdict::Allow);
    check(&set, &env, "net.connect tracker.wikipedia.org:443", Verdict::Deny);
}

/// The published schema is the code's. `UPDATE_SCHEMA=1` writes it anew.
#[test]
fn the_published_schema_is_current_and_knows_every_section() {
    let schema = failcore_policy::schema();
    let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "run the test with UPDATE_SCHEMA=1");
    let schema = schema.to_value();
    let sections = schema["properties"].as_object().unwrap();
    for section in
        ["fs", "net", "process", "env", "native", "limits", "trace", "tool", "test", "record", "io"]
    {
        assert!(sections.contains_key(section), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
    assert!(!schema.to_string().contains("caution"), "cautions are the presets'");
}
