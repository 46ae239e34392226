//! What becomes of a file's word and of those it extends: lists add up, one value stands instead of another, limits
//! and denies stay.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failcore_model::{AbsPath, Action, SignalTarget, Verdict};
use failcore_policy::{Environment, Mode, PolicySet, ask};

/// Loads the first of these files; each extends what its text says.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Self(dir)
    }

    fn load(&self, name: &str) -> PolicySet {
        PolicySet::load(&self.0.path().join(name), &Environment::default())
            .unwrap_or_else(|error| panic!("{name}: {:#?}", error.problems()))
    }

    fn allows(&self, name: &str, request: &str) -> bool {
        let dir = failcore_model::AbsPath::new(
            self.0.path().canonicalize().unwrap().as_os_str().as_encoded_bytes(),
        );
        let request = ask(request, &dir.unwrap(), &Environment::default()).unwrap();
        let set = self.load(name);
        let decision = set.decide(&request);
        let again = PolicySet::from_resolved(set.resolved()).unwrap();
        assert_eq!(again.decide(&request), decision, "from its resolved text");
        decision.verdict == Verdict::Allow
    }

    /// Whom the policy lets be signalled, at most.
    fn reach(&self, name: &str) -> Option<SignalTarget> {
        let set = self.load(name);
        let request = |to| {
            let mut request =
                ask("process.signal self", &failcore_model::AbsPath::root(), &Environment::default())
                    .unwrap();
            request.action = Action::Signal { to, pid: 5, signal: 15 };
            request
        };
        [SignalTarget::Run, SignalTarget::Child, SignalTarget::Own]
            .into_iter()
            .find(|to| set.decide(&request(*to)).is_allow())
    }
}

#[test]
fn the_files_own_value_stands_instead_of_what_it_extends() {
    let files = Files::new(&[
        ("wide.toml", "[process]\nsignal = \"run\"\nlimit = true"),
        ("none.toml", "extends = [\"wide.toml\"]\n[process]\nsignal = \"none\"\nlimit = false"),
        ("self.toml", "extends = [\"wide.toml\"]\n[process]\nsignal = \"self\""),
        ("silent.toml", "extends = [\"wide.toml\"]"),
        ("again.toml", "extends = [\"none.toml\"]\n[process]\nsignal = \"children\""),
        ("preset.toml", "extends = [\"preset:python\"]\n[process]\nsignal = \"none\""),
        ("python.toml", "extends = [\"preset:python\"]"),
        ("all.toml", "extends = [\"preset:allow-all\"]\n[process]\nsignal = \"self\"\nlimit = false"),
    ]);
    assert_eq!(files.reach("wide.toml"), Some(SignalTarget::Run));
    assert_eq!(files.reach("none.toml"), None);
    assert_eq!(files.reach("self.toml"), Some(SignalTarget::Own));
    assert_eq!(files.reach("silent.toml"), Some(SignalTarget::Run));
    assert_eq!(files.reach("again.toml"), Some(SignalTarget::Child));
    assert_eq!(files.reach("preset.toml"), None);
    assert_eq!(files.reach("python.toml"), Some(SignalTarget::Child));
    assert_eq!(files.reach("all.toml"), Some(SignalTarget::Own));
    let limit = |name| files.allows(name, "process.limit 7");
    assert_eq!(
        ["wide.toml", "none.toml", "self.toml", "silent.toml", "again.toml", "all.toml"].map(limit),
        [true, false, true, true, false, false]
    );
}

#[test]
fn of_values_side_by_side_the_wider_stands_in_any_order() {
    let files = Files::new(&[
        ("base.toml", "[process]\nsignal = \"children\""),
        ("none.toml", "extends = [\"base.toml\"]\n[process]\nsignal = \"none\""),
        ("one.toml", "extends = [\"base.toml\", \"none.toml\"]"),
        ("two.toml", "extends = [\"none.toml\", \"base.toml\"]"),
        ("self.toml", "[process]\nsignal = \"self\""),
        ("three.toml", "extends = [\"self.toml\", \"none.toml\"]"),
        ("four.toml", "extends = [\"none.toml\", \"self.toml\", \"preset:python\"]"),
    ]);
    assert_eq!(files.reach("one.toml"), Some(SignalTarget::Child));
    assert_eq!(files.reach("two.toml"), Some(SignalTarget::Child));
    assert_eq!(files.reach("three.toml"), Some(SignalTarget::Own));
    assert_eq!(files.reach("four.toml"), Some(SignalTarget::Child));
}

#[test]
fn a_tools_value_narrows_the_tool_alone() {
    let files = Files::new(&[
        ("base.toml", "[process]\nsignal = \"run\"\n[[tool]]\nname = \"quiet\"\nprocess.signal = \"none\""),
        ("child.toml", "extends = [\"base.toml\"]\n[process]\nsignal = \"children\""),
    ]);
    let set = files.load("child.toml");
    let mut request =
        ask("process.signal self", &failcore_model::AbsPath::root(), &Environment::default()).unwrap();
    assert!(set.decide(&request).is_allow());
    request.subject.claimed.scope.push("quiet".into());
    assert!(!set.decide(&request).is_allow());
}

#[test]
fn limits_and_denies_of_what_is_extended_stay() {
    let files = Files::new(&[
        ("base.toml", "[fs]\nread = [\"./a\"]\ndeny = [\"./a/x\"]\n[limits]\nconnections = 5"),
        (
            "child.toml",
            "extends = [\"base.toml\"]\n[fs]\nread = [\"./b\", \"./a/x\"]\ndeny = []\n[limits]\nconnections = 9\noperations = 3",
        ),
        ("less.toml", "extends = [\"base.toml\"]\n[limits]\nconnections = 2"),
    ]);
    assert_eq!(files.load("child.toml").limits().connections, Some(5));
    assert_eq!(files.load("child.toml").limits().operations, Some(3));
    assert_eq!(files.load("less.toml").limits().connections, Some(2));
    let reads = |path: &str| files.allows("child.toml", &format!("fs.read {path}"));
    assert_eq!(["./a/y", "./b", "./a/x"].map(reads), [true, true, false]);
}

#[test]
fn the_runs_own_settings_come_from_the_named_file() {
    let files = Files::new(&[
        ("base.toml", "name = \"base\"\nmode = \"audit\"\n[trace]\nreads = \"advisory\""),
        ("child.toml", "extends = [\"base.toml\"]"),
    ]);
    let (base, child) = (files.load("base.toml"), files.load("child.toml"));
    assert_eq!((base.mode(), base.name()), (Mode::Audit, Some("base")));
    assert_eq!((child.mode(), child.name()), (Mode::Enforce, None));
    assert_ne!(base.reads(), child.reads());
}

#[test]
fn what_is_kept_out_of_the_record_adds_up() {
    let files = Files::new(&[
        ("base.toml", "[trace]\nredact = [\"CORP_*\"]"),
        ("child.toml", "extends = [\"base.toml\"]\n[trace]\nredact = [\"DB_PIN\"]"),
    ]);
    let set = files.load("child.toml");
    let again = PolicySet::from_resolved(set.resolved()).unwrap();
    for set in [set, again] {
        let redacts = |name: &str| set.redacts(name.as_bytes());
        assert_eq!(["CORP_X", "DB_PIN", "DB_PINS", "PATH"].map(redacts), [true, true, false, false]);
    }
}

#[test]
fn what_is_not_kept_of_payloads_stands_and_the_smallest_limits_do() {
    let files = Files::new(&[
        ("silent.toml", ""),
        ("base.toml", "[record]\nkeep = [\"/data\"]\nhash_only = [\"/data/models/**\"]\nmax_file = \"1MiB\""),
        (
            "child.toml",
            "extends = [\"base.toml\"]\n[record]\nkeep = [\"/more\", \"/data/models/small\"]\nmax_file = \"2MiB\"\n\
             max_total = 5",
        ),
        ("none.toml", "[record]\nkeep = []"),
    ]);
    let keeps = |name: &str, path: &str| {
        let set = files.load(name);
        let again = PolicySet::from_resolved(set.resolved()).unwrap();
        assert_eq!(again.payloads(), set.payloads());
        let path = AbsPath::new(path.as_bytes()).unwrap();
        set.payloads().keeps(&path).map(|kept| kept && !set.payloads().only_hashes(&path))
    };
    assert_eq!(keeps("silent.toml", "/data/a"), None);
    assert_eq!(keeps("none.toml", "/data/a"), Some(false));
    for (path, kept) in
        [("/data/a", true), ("/more/b/c", true), ("/other", false), ("/data/models/small", false)]
    {
        assert_eq!(keeps("child.toml", path), Some(kept), "{path}");
    }
    let child = files.load("child.toml");
    assert_eq!((child.payloads().max_file, child.payloads().max_total), (Some(1 << 20), Some(5)));
}

#[test]
fn name_servers_are_the_files_own_or_those_of_what_it_extends() {
    let files = Files::new(&[
        ("one.toml", "[dns]\nupstream = [\"tls://9.9.9.9#dns.quad9.net\"]"),
        ("two.toml", "[dns]\nupstream = [\"dns://10.0.0.53\"]"),
        ("silent.toml", "extends = [\"one.toml\"]"),
        ("both.toml", "extends = [\"one.toml\", \"two.toml\"]"),
        ("own.toml", "extends = [\"both.toml\"]\n[dns]\nupstream = [\"https://1.1.1.1\"]"),
        ("none.toml", "extends = [\"both.toml\"]\n[dns]\nupstream = []"),
    ]);
    let servers = |name: &str| {
        let set = files.load(name);
        assert_eq!(PolicySet::from_resolved(set.resolved()).unwrap().upstream(), set.upstream());
        set.upstream().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (one, two) = ("tls://9.9.9.9:853#dns.quad9.net", "dns://10.0.0.53:53");
    assert_eq!(servers("silent.toml"), [one]);
    assert_eq!(servers("both.toml"), [one, two]);
    assert_eq!(servers("own.toml"), ["https://1.1.1.1:443/dns-query"]);
    assert_eq!(servers("none.toml"), [""; 0], "the machine's own resolver");
}
