//! A user of their own for each test: home, traces and policies in a directory that goes away.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot set itself up has failed")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use assert_cmd::Command;
use failcore_model::{AbsPath, Coverage, Event, Hold, Lane, Text};
use failcore_policy::{Environment, PolicySet, ask};
use failcore_trace::{SigningKey, Writer};

/// The session of every trace made here.
pub(crate) const SESSION: &str = "0190c0de";

/// A policy with a rule for each case below.
pub(crate) const POLICY: &str = r#"version = 1
name = "tested"

[fs]
read = ["./data"]
write = ["./work"]
deny = [{ path = "**/.env", id = "no-secrets", reason = "secrets stay here" }]

[net]
connect = ["api.example.com:443"]
"#;

/// A user's directory.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

/// What a command said and how it ended.
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("failcore-test-").tempdir().unwrap();
        Self { dir }
    }

    /// The directory, as the kernel names it.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The command, run as this user in this directory.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("failcore"));
        command
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .timeout(std::time::Duration::from_secs(60));
        command
    }

    pub(crate) fn failcore(&self, args: &[&str]) -> Said {
        self.said(self.command().args(args))
    }

    /// Runs a command; what differs from run to run is replaced in what it says.
    pub(crate) fn said(&self, command: &mut Command) -> Said {
        let output = command.output().unwrap();
        let clean = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).replace(&self.path().display().to_string(), "[dir]");
            text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
        };
        Said { out: clean(&output.stdout), err: clean(&output.stderr), code: output.status.code().unwrap() }
    }

    fn environment(&self) -> Environment {
        let home = AbsPath::new(self.path().as_os_str().as_encoded_bytes()).unwrap();
        Environment { home: Some(home), ..Environment::default() }
    }

    fn abs(&self) -> AbsPath {
        AbsPath::new(self.path().as_os_str().as_encoded_bytes()).unwrap()
    }

    /// A closed trace in `./trace` of these requests, decided under [`POLICY`] in `./policy.toml`.
    pub(crate) fn trace(&self, requests: &[&str]) -> PathBuf {
        self.trace_in("trace", requests, true)
    }

    /// As [`World::trace`], elsewhere, and closed or not.
    pub(crate) fn trace_in(&self, name: &str, requests: &[&str], close: bool) -> PathBuf {
        let file = self.write("policy.toml", POLICY);
        self.trace_under(&file, name, requests, close)
    }

    /// As [`World::trace_in`], under the policy in `file`.
    pub(crate) fn trace_under(&self, file: &Path, name: &str, requests: &[&str], close: bool) -> PathBuf {
        let env = self.environment();
        let policy = PolicySet::load(file, &env).unwrap();
        let dir = self.path().join(name);
        let key = SigningKey::load_or_create(&self.path().join(".local/state/failcore/key")).unwrap();
        let mut writer = Writer::create(&dir, SESSION, &key, policy.resolved()).unwrap();
        let coverage = Coverage { lane: Lane::Runtime, trace: Hold::Binding, verbs: vec![], notes: vec![] };
        let opened = Event::SessionOpened {
            policy: policy.digest().into(),
            coverage: coverage.into(),
            command: vec!["python".into(), "agent.py".into()],
        };
        writer.append(&opened).unwrap();
        for (op, words) in (0..).zip(requests) {
            // `tool: verb resource` was asked inside a tool scope, ` @ agent.py:3` at that place of the program; a final
            // `?` says that nothing is there.
            let (words, site) =
                words.split_once(" @ ").map_or((*words, None), |(words, at)| (words, Some(at)));
            let (tool, words) =
                words.split_once(": ").map_or((None, words), |(tool, rest)| (Some(tool), rest));
            let absent = words.ends_with('?');
            let mut request = ask(words.trim_end_matches('?'), &self.abs(), &env).unwrap();
            request.subject.pid = 7;
            request.subject.tid = 7;
            request.subject.agent = Some("researcher".into());
            request.subject.claimed.scope = tool.map(Text::from).into_iter().collect();
            request.subject.claimed.site =
                site.map(|site| Text::from(self.path().join(site).as_os_str().as_encoded_bytes()));
            if absent && let failcore_model::Action::Open { file, .. } = &mut request.action {
                file.exists = false;
            }
            let decision = policy.decide(&request);
            let event = Event::Decided { op, request: request.into(), decision, enforced: true, ns: 250 };
            writer.append(&event).unwrap();
        }
        if close {
            writer.close(Some(0)).unwrap();
        } else {
            writer.checkpoint().unwrap();
        }
        dir
    }
}

/// Builds the parts of the gate that are no dependency of this crate, beside the command, where it finds them.
pub(crate) fn gate() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(["build", "-q", "-p", "failcore-py", "-p", "failcore-preload"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the gate's parts do not build");
    });
}

/// An interpreter that the lane holds, as `doctor` finds it.
pub(crate) fn python() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let said = World::new().failcore(&["--json", "doctor"]);
        let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let groups = answer["groups"].as_array().unwrap();
        let mut findings = groups.iter().flat_map(|group| group["findings"].as_array().unwrap());
        let python = findings.find(|finding| finding["what"] == "Python" && finding["state"] == "good");
        let detail =
            python.expect("these tests need CPython 3.10 or later on PATH")["detail"].as_str().unwrap();
        detail.split_once("  ").unwrap().1.to_owned()
    })
}

/// Compares what people read, times replaced.
#[macro_export]
macro_rules! assert_reads {
    ($said:expr, @$expected:literal) => {
        insta::with_settings!({filters => vec![
            (r"\d\d:\d\d:\d\d\.\d{3}", "[time]"),
            (r"policy [0-9a-f]{12}", "policy [digest]"),
            (r"(root|key|digest) +\S{40,}", "$1 […]"),
            (r"\d+ bytes in", "[n] bytes in"),
        ]}, { insta::assert_snapshot!($said, @$expected) });
    };
}
