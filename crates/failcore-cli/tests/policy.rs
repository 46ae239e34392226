//! Commands about policies: init, check, explain, policy, trust, replay.

mod common;

use common::{POLICY, World};

#[test]
fn init_writes_a_policy_that_checks_and_never_overwrites() {
    let world = World::new();
    let said = world.failcore(&["init"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_reads!(said.out, @r#"
    failcore.toml written; read it, change it, then:
      failcore check failcore.toml
      failcore run -p failcore.toml -- python agent.py
    "#);
    let written = std::fs::read_to_string(world.path().join("failcore.toml")).unwrap();
    let said = world.failcore(&["check", "failcore.toml"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let said = world.failcore(&["init"]);
    assert_eq!(said.code, 2);
    assert_reads!(said.err, @r#"
    × `failcore.toml` is already there
    help: nothing was written; name another file, or remove this one first
    "#);
    assert_eq!(std::fs::read_to_string(world.path().join("failcore.toml")).unwrap(), written);
}

#[test]
fn check_shows_every_problem_at_its_place() {
    let world = World::new();
    world.write("broken.toml", "version = 1\n[fs]\nraed = [\".\"]\n[net]\nconnect = [\"api.example.com\"]\n");
    let said = world.failcore(&["check", "broken.toml"]);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    assert_reads!(said.err, @r#"
      × the policy has 2 problems

    Error:
      × there is no key `raed` here
       ╭─[broken.toml:3:1]
     2 │ [fs]
     3 │ raed = ["."]
       · ────
     4 │ [net]
       ╰────
      help: did you mean `read`?

    Error:
      × `api.example.com` says no port
       ╭─[broken.toml:5:12]
     4 │ [net]
     5 │ connect = ["api.example.com"]
       ·            ─────────────────
       ╰────
      help: write `api.example.com:443`, or `api.example.com:*` for any port
    "#);
}

#[test]
fn check_tells_rules_without_effect() {
    let world = World::new();
    world.write(
        "shadowed.toml",
        "version = 1\n[fs]\nread = [\"./data\", \"./data/public\", \"./keys\"]\ndeny = [\"./keys\"]\n",
    );
    let said = world.failcore(&["check", "shadowed.toml"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_reads!(said.out, @r#"
    the policy is valid: 25 rules, 1 of yours without effect
      does nothing: permit fs.read ./keys  shadowed.toml:3:36
        a deny covers all that it grants: forbid fs.deny ./keys  shadowed.toml:4:9
    "#);
    assert_eq!(world.failcore(&["check", "--strict", "shadowed.toml"]).code, 3);
}

#[test]
fn check_matrix_says_what_each_lane_holds() {
    let world = World::new();
    world.write("policy.toml", POLICY);
    let said = world.failcore(&["check", "policy.toml", "--matrix"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_reads!(said.out, @r#"
    tested is valid: 25 rules
      rule                                                                                  runtime  kernel       bpf
      permit fs.read ./data                                                                 exact    exact        exact
      permit fs.write ./work                                                                exact    exact        exact
      forbid fs.deny { path = "**/.env", id = "no-secrets", reason = "secrets stay here" }  exact    approximate  approximate
      permit net.connect api.example.com:443                                                exact    exact        exact
    "#);
}

#[test]
fn explain_answers_as_enforcement_does() {
    let world = World::new();
    world.write("policy.toml", POLICY);
    let said = world.failcore(&["explain", "policy.toml", "fs.read", "./data/a.txt"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_reads!(said.out, @r#"
    allowed  fs.read [dir]/data/a.txt
      because  a permit covers it and nothing forbids it (granted)
      rule     permit fs.read ./data  policy.toml:5:9
    "#);
    let said = world.failcore(&["explain", "policy.toml", "fs.write", "./data/a.txt"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert_reads!(said.out, @r#"
    denied  fs.open [dir]/data/a.txt (create, modify)
      because  no permit covers it (not_granted)
      seen as  Permission denied (os error 13)
      remedy   to permit: [fs] write = ["[dir]/data/a.txt"]
    "#);
    let said = world.failcore(&["explain", "policy.toml", "net.connect", "169.254.169.254:80"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert_reads!(said.out, @r#"
    denied  net.connect 169.254.169.254:80
      because  a caution forbids it; only an exact grant lifts that (caution)
      rule     caution net.caution { host = "class:metadata", id = "net.metadata", reason = "instance metadata and credential services" }  built-in:7:3
      seen as  Permission denied (os error 13)
      remedy   instance metadata and credential services; permitted hosts: api.example.com
    "#);
    let said = world.failcore(&["--json", "explain", "policy.toml", "fs.read", "./work/.env"]);
    assert_eq!(said.code, 3, "{}", said.err);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["verdict"], "deny");
    assert_eq!(answer["rules"][0]["id"], "no-secrets");
    assert_eq!(answer["denial"]["hint"], "secrets stay here");
}

#[test]
fn explain_knows_what_time_it_is() {
    let world = World::new();
    let policy = "version = 1\n[fs]\nread = [{ path = \"./old\", until = \"2020-01-01T00:00:00Z\" }, { path = \"./new\", until = \"2500-01-01T00:00:00Z\" }]\n";
    world.write("policy.toml", policy);
    let said = world.failcore(&["explain", "policy.toml", "fs.read", "./old"]);
    assert_eq!(said.code, 3, "{}", said.out);
    assert!(said.out.contains("(expired)"), "{}", said.out);
    assert_eq!(world.failcore(&["explain", "policy.toml", "fs.read", "./new"]).code, 0);
}

#[test]
fn explain_of_nonsense_is_a_usage_error() {
    let world = World::new();
    world.write("policy.toml", POLICY);
    let said = world.failcore(&["explain", "policy.toml", "fs.reed", "./a"]);
    assert_eq!(said.code, 2);
    assert_reads!(said.err, @r#"
    × `fs.reed` is no verb
    help: did you mean `fs.read`?
    "#);
}

#[test]
fn presets_can_be_asked_by_name() {
    let world = World::new();
    assert_eq!(world.failcore(&["explain", "preset:python", "fs.read", "/etc/shadow"]).code, 3);
    assert_eq!(world.failcore(&["explain", "preset:allow-all", "fs.read", "/etc/shadow"]).code, 0);
    assert_eq!(world.failcore(&["explain", "preset:nothing", "fs.read", "/etc/shadow"]).code, 2);
}

#[test]
fn diff_compares_what_rules_say_and_not_where_they_stand() {
    let world = World::new();
    world.write("old.toml", POLICY);
    world.write("moved.toml", format!("# a comment\n\n{POLICY}"));
    assert_eq!(world.failcore(&["policy", "diff", "old.toml", "moved.toml"]).code, 0);
    let wider = POLICY
        .replace("./data\"", "./data\", \"./more\"")
        .replace("api.example.com:443", "api.example.com:8443");
    world.write("new.toml", format!("mode = \"audit\"\n{wider}\n[limits]\nprocesses = 4\n"));
    let said = world.failcore(&["policy", "diff", "old.toml", "new.toml"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert_reads!(said.out, @r#"
    - permit net.connect api.example.com:443 old.toml:10:12
    + permit fs.read ./more new.toml:6:19
    + permit net.connect api.example.com:8443 new.toml:11:12
    ~ limits.processes: none → 4
    ~ mode: enforce → audit
    1 rule removed, 2 rules added, 2 settings changed
    "#);
}

#[test]
fn diff_tells_what_is_no_rule_too() {
    let world = World::new();
    let base = "version = 1\n[fs]\nread = [\".\"]\n[[tool]]\nname = \"web_*\"\n";
    world.write("old.toml", base);
    let diff = |text: &str| {
        world.write("new.toml", text);
        let said = world.failcore(&["policy", "diff", "old.toml", "new.toml"]);
        assert_eq!(said.code, 3, "{}", said.out);
        said.out
    };
    assert_reads!(diff(&format!("{base}fs.write = []\nnet.connect = []\n")), @r#"
    ~ tool web_* narrows: nothing → fs.write, net.connect
    0 rules removed, 0 rules added, 1 setting changed
    "#);
    assert_reads!(diff(&format!("mode = \"audit\"\n{base}[trace]\nreads = \"advisory\"\nredact = [\"PIN\"]\n")), @r#"
    ~ mode: enforce → audit
    ~ trace.reads: binding → advisory
    ~ trace.redact: none → PIN
    0 rules removed, 0 rules added, 3 settings changed
    "#);
    let record =
        "[record]\nkeep = []\nhash_only = [\"/w/*.bin\", \"/m\"]\nmax_file = \"1MiB\"\nmax_total = 5\n";
    assert_reads!(diff(&format!("{base}{record}")), @r#"
    ~ record.hash_only: none → /w/*.bin, /m
    ~ record.keep: none → nothing
    ~ record.max_file: none → 1048576
    ~ record.max_total: none → 5
    0 rules removed, 0 rules added, 4 settings changed
    "#);
    let said = world.failcore(&["policy", "diff", "old.toml", "old.toml"]);
    assert_eq!((said.code, said.out.as_str()), (0, "no difference"));
}

#[test]
fn a_shown_policy_decides_as_the_one_it_came_from() {
    let world = World::new();
    world.write("policy.toml", POLICY);
    let said = world.failcore(&["--json", "policy", "show", "policy.toml"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let shown: serde_json::Value =
        serde_json::from_str(&said.out.replace("[dir]", &world.path().display().to_string())).unwrap();
    let again = failcore_policy::PolicySet::from_resolved(shown["resolved"].as_str().unwrap()).unwrap();
    assert_eq!(again.digest(), shown["digest"]);
}

#[test]
fn the_schema_is_json_schema() {
    let said = World::new().failcore(&["policy", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert!(schema["properties"]["fs"].is_object(), "{}", said.out);
}

#[test]
fn trust_holds_for_the_text_that_was_trusted() {
    let world = World::new();
    assert_eq!(world.failcore(&["trust"]).code, 2, "there is nothing to trust");
    world.write("failcore.toml", POLICY);
    let said = world.failcore(&["trust"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.out, "[dir]/failcore.toml is trusted as it is now; a change ends that");
    let said = world.failcore(&["trust", "--revoke"]);
    assert_eq!((said.code, said.out.as_str()), (0, "[dir]/failcore.toml is no longer trusted"));
    assert_eq!(world.failcore(&["trust", "--revoke"]).code, 2);
}

#[test]
fn a_policy_that_does_not_load_is_not_trusted() {
    let world = World::new();
    world.write("failcore.toml", "version = 1\nnonsense = 1\n");
    assert_eq!(world.failcore(&["trust"]).code, 2);
    assert!(!world.path().join(".local/state/failcore/trusted.json").exists());
}

const REQUESTS: &[&str] = &[
    "fs.open read ./data/a.txt",
    "fs.open read ./data/b.txt",
    "net.connect api.example.com:443 @ lib/agent.py:7",
    "net.connect other.example.com:443",
];

#[test]
fn replay_under_the_same_policy_changes_nothing() {
    let world = World::new();
    world.trace(REQUESTS);
    let said = world.failcore(&["replay", "./trace", "--policy", "policy.toml"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.out, "nothing changes: 4 operations decided again, of 6 records");
}

#[test]
fn replay_groups_what_changes_by_rule() {
    let world = World::new();
    world.trace(REQUESTS);
    let other =
        POLICY.replace("\"./data\"", "").replace("\"api.example.com:443\"", "\"other.example.com:443\"");
    world.write("strict.toml", other);
    let said = world.failcore(&["replay", "./trace", "--policy", "strict.toml"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert_reads!(said.out, @r#"
    now denied ×3  no permit covers it
           1 fs.open [dir]/data/a.txt (read)
           2 fs.open [dir]/data/b.txt (read)
           3 net.connect 1.1.1.1:443 (api.example.com) at agent.py:7

    now allowed ×1  permit net.connect other.example.com:443  strict.toml:10:12
           4 net.connect 1.1.1.1:443 (other.example.com)

    4 decisions would change: 4 operations decided again, of 6 records
    "#);
    let said = world.failcore(&["--json", "replay", "./trace", "--policy", "strict.toml"]);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, answer["changes"].as_array().unwrap().len()), (3, 2));
    let site = answer["changes"][0]["examples"][2]["site"].as_str().unwrap();
    assert!(site.ends_with("/lib/agent.py:7"), "{site}");
}

#[test]
fn only_what_was_signed_is_decided_again() {
    let world = World::new();
    let dir = world.trace(REQUESTS);
    let trace = dir.join("trace.jsonl");
    let whole = std::fs::read_to_string(&trace).unwrap();
    std::fs::write(&trace, whole.replace("/data/a.txt", "/data/z.txt")).unwrap();
    let said = world.failcore(&["-q", "replay", "./trace", "--policy", "policy.toml"]);
    assert_eq!((said.code, said.out.as_str()), (4, ""), "{}", said.err);
    assert_reads!(said.err, @r#"
    × the trace does not verify: the record was changed (record 1)
    help: `failcore trace verify` says what of the trace is still what was signed
    "#);
    // Records alone, as other tools may write them, can be decided again; that nobody signed them is said.
    std::fs::write(&trace, whole).unwrap();
    std::fs::remove_file(dir.join("key.pub")).unwrap();
    let said = world.failcore(&["replay", "./trace", "--policy", "policy.toml"]);
    assert!(said.code == 0 && said.err.contains("no signature"), "{}{}", said.out, said.err);
}

#[test]
fn a_trace_that_cannot_be_read_is_not_replayed_in_part() {
    let world = World::new();
    let trace = world.trace(REQUESTS).join("trace.jsonl");
    let whole = std::fs::read(&trace).unwrap();
    std::fs::write(&trace, &whole[..whole.len() - 1]).unwrap();
    let said = world.failcore(&["replay", "./trace", "--policy", "policy.toml"]);
    assert_eq!((said.code, said.out.as_str()), (4, ""), "{}", said.err);
}

#[test]
fn replay_from_the_index_says_what_the_records_say() {
    let world = World::new();
    let dir = world.trace(REQUESTS);
    world.write("strict.toml", POLICY.replace("\"./data\"", ""));
    let replay = || world.failcore(&["replay", "./trace", "--policy", "strict.toml"]);
    let from_records = replay();
    assert_eq!(from_records.code, 3, "{}", from_records.err);
    let report = failcore_trace::verify(&dir, None).unwrap();
    drop(failcore_trace::Index::build(&dir, &report).unwrap());
    // The lines of the trace are not read again, but for being verified.
    let from_index = replay();
    assert_eq!((from_index.code, from_index.out), (from_records.code, from_records.out));
}

#[test]
fn several_traces_are_answered_in_the_order_they_were_named() {
    let world = World::new();
    world.trace_in("one", REQUESTS, true);
    world.trace_in("two", &REQUESTS[2..], true);
    world.write("strict.toml", POLICY.replace("\"./data\"", ""));
    let replay = || world.failcore(&["replay", "./one", "./two", "./one", "-p", "strict.toml"]);
    let said = replay();
    assert_eq!(said.code, 3, "{}", said.err);
    assert_reads!(said.out, @r#"
    ./one
    now denied ×2  no permit covers it
           1 fs.open [dir]/data/a.txt (read)
           2 fs.open [dir]/data/b.txt (read)

    2 decisions would change: 4 operations decided again, of 6 records
    ./two
    nothing changes: 2 operations decided again, of 4 records
    ./one
    now denied ×2  no permit covers it
           1 fs.open [dir]/data/a.txt (read)
           2 fs.open [dir]/data/b.txt (read)

    2 decisions would change: 4 operations decided again, of 6 records
    "#);
    for _ in 0..5 {
        assert_eq!(replay().out, said.out);
    }
    // One that cannot be read takes nothing from the others, and makes the answer no answer of all.
    let said = world.failcore(&["--json", "replay", "./one", "./none", "./two", "-p", "policy.toml"]);
    let answers: Vec<serde_json::Value> =
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decided: Vec<_> = answers.iter().map(|answer| answer["decided"].as_u64()).collect();
    assert_eq!((said.code, decided), (2, vec![Some(4), Some(2)]), "{}", said.err);
    assert!(answers[1]["trace"].as_str().unwrap().ends_with("two"), "{}", answers[1]);
    assert!(said.err.contains("./none"), "{}", said.err);
}

#[test]
fn bisect_finds_where_two_policies_part_and_why() {
    let world = World::new();
    world.trace(REQUESTS);
    world.write("strict.toml", POLICY.replace("connect = [\"api.example.com:443\"]", ""));
    let said = world.failcore(&["bisect", "./trace", "--good", "policy.toml", "--bad", "strict.toml"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert_reads!(said.out, @r#"
    record 3 is the first that they decide otherwise

    policy.toml
    allowed  net.connect 1.1.1.1:443 (api.example.com)
      at       [dir]/lib/agent.py:7
      because  a permit covers it and nothing forbids it (granted)
      rule     permit net.connect api.example.com:443  policy.toml:10:12

    strict.toml
    denied  net.connect 1.1.1.1:443 (api.example.com)
      at       [dir]/lib/agent.py:7
      because  no permit covers it (not_granted)
      seen as  Permission denied (os error 13)
      remedy   no host is permitted; to permit: [net] connect = ["api.example.com:443"]
    "#);
    let said = world.failcore(&["bisect", "./trace", "--good", "policy.toml", "--bad", "policy.toml"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.out, "no difference: they decide every operation alike");
}
