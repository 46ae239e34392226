//! `failcore trace`, on traces of known content.

mod common;

use common::{SESSION, World};

const REQUESTS: &[&str] = &[
    "fs.open read ./data/a.txt",
    "fs.open read ./data/a.txt",
    "fs.open read ./elsewhere?",
    "web_search: net.connect api.example.com:443",
    "web_search: net.connect 169.254.169.254:80",
    "fs.open create+modify ./work/out.txt",
    "fs.open read ./data/.env",
    "fs.delete ./data/a.txt @ lib/agent.py:41",
];

#[test]
fn show_folds_repeats_and_absent_files() {
    let world = World::new();
    world.trace(REQUESTS);
    let said = world.failcore(&["trace", "show", "./trace"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert_reads!(said.out, @r#"
         0 [time]  opened  python agent.py  policy [digest], lane runtime, trace kept outside the agent
         1 [time]  allowed fs.open [dir]/data/a.txt (read) ×2
         4 [time]  allowed net.connect 1.1.1.1:443 (api.example.com) [web_search]
         5 [time]  refused net.connect 169.254.169.254:80  caution by net.metadata [web_search]
         6 [time]  allowed fs.open [dir]/work/out.txt (create, modify)
         7 [time]  refused fs.open [dir]/data/.env (read)  forbidden by no-secrets
         8 [time]  refused fs.delete [dir]/data/a.txt  not_granted at agent.py:41
         9 [time]  closed  exit code 0

    4 allowed, 3 refused; 1 absent file looked for
          1 × fs.delete [dir]/data/a.txt not_granted
          1 × fs.open [dir]/data/.env (read) forbidden
          1 × net.connect 169.254.169.254:80 caution
    "#);
}

#[test]
fn show_all_folds_nothing() {
    let world = World::new();
    world.trace(REQUESTS);
    let said = world.failcore(&["trace", "show", "./trace", "--all"]);
    let decisions = said.out.lines().filter(|line| line.contains("[dir]") || line.contains("net.connect"));
    // Each of the requests, and the refusals again in the summary.
    assert_eq!(decisions.count(), REQUESTS.len() + 3, "{}", said.out);
}

#[test]
fn filters_choose_decisions() {
    let world = World::new();
    world.trace(REQUESTS);
    let shown = |args: &[&str]| {
        let said = world.failcore(&[&["--json", "trace", "show", "./trace"], args].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        let number =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap();
        said.out.lines().map(number).collect::<Vec<_>>()
    };
    assert_eq!(shown(&[]).len(), REQUESTS.len() + 2);
    assert_eq!(shown(&["--denied"]), [3, 5, 7, 8]);
    assert_eq!(shown(&["--verb", "net.*"]), [4, 5]);
    assert_eq!(shown(&["--verb", "fs.delete", "--verb", "net.connect"]), [4, 5, 8]);
    assert_eq!(shown(&["--tool", "web_search", "--denied"]), [5]);
    assert_eq!(shown(&["--path", "./work"]), [6]);
    assert_eq!(shown(&["--path", "./data", "--denied"]), [7, 8]);
}

#[test]
fn a_verb_that_is_none_is_a_usage_error() {
    let world = World::new();
    world.trace(REQUESTS);
    let said = world.failcore(&["trace", "show", "./trace", "--verb", "fs.reed"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("fs.read"), "{}", said.err);
}

#[test]
fn explain_names_rule_line_and_remedy() {
    let world = World::new();
    world.trace(REQUESTS);
    let said = world.failcore(&["trace", "explain", "./trace", "7"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_reads!(said.out, @r#"
    denied  fs.open [dir]/data/.env (read)
      because  a deny entry forbids it; nothing lifts that (forbidden)
      rule     forbid fs.deny { path = "**/.env", id = "no-secrets", reason = "secrets stay here" }  policy.toml:7:9
      seen as  Permission denied (os error 13)
    "#);
    let said = world.failcore(&["trace", "explain", "./trace", "8"]);
    assert_reads!(said.out, @r#"
    denied  fs.delete [dir]/data/a.txt
      at       [dir]/lib/agent.py:41
      because  no permit covers it (not_granted)
      seen as  Permission denied (os error 13)
      remedy   to permit: [fs] write = ["[dir]/data/a.txt"]
    "#);
}

#[test]
fn explain_of_what_is_no_decision_says_so() {
    let world = World::new();
    world.trace(REQUESTS);
    let said = world.failcore(&["trace", "explain", "./trace", "0"]);
    assert_eq!(said.code, 2);
    assert_reads!(said.err, @r#"
    × record 0 is no decision, it is `session.opened`
    help: `failcore trace show` lists the decisions with their numbers
    "#);
    let said = world.failcore(&["trace", "explain", "./trace", "99"]);
    assert_eq!(said.code, 2);
    assert_reads!(said.err, @r#"
    × the trace has no record 99
    help: the last one is 9; `failcore trace show` lists them
    "#);
}

#[test]
fn a_whole_trace_verifies() {
    let world = World::new();
    world.trace(REQUESTS);
    let said = world.failcore(&["trace", "verify", "./trace"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_reads!(said.out, @r#"
    valid: every record is what was signed, and the session was closed
      records  10, 10 signed by 1 checkpoint
      size     [n] bytes in 1 segment
      root […]
      key […] (from the trace itself)
    "#);
}

#[test]
fn a_changed_record_is_named() {
    let world = World::new();
    let trace = world.trace(REQUESTS).join("trace.jsonl");
    let text = std::fs::read_to_string(&trace).unwrap();
    std::fs::write(&trace, text.replacen("169.254.169.254", "169.254.169.253", 1)).unwrap();
    let said = world.failcore(&["trace", "verify", "./trace"]);
    assert_eq!(said.code, 4, "{}", said.err);
    assert_reads!(said.out, @r#"
    altered: the record was changed
      record 5
      ./trace/trace.jsonl, line 6
      records  10, 0 signed by 0 checkpoints
      size     [n] bytes in 1 segment
      root […]
      key […] (from the trace itself)
    "#);
}

#[test]
fn a_trace_without_an_end_is_not_valid() {
    let world = World::new();
    world.trace_in("trace", REQUESTS, false);
    let said = world.failcore(&["trace", "verify", "./trace"]);
    assert_eq!(said.code, 4, "{}", said.err);
    assert!(said.out.starts_with("not closed"), "{}", said.out);
    let said = world.failcore(&["trace", "show", "./trace"]);
    assert!(said.code == 0 && said.err.contains("the session is not closed"), "{}", said.err);
}

#[test]
fn a_trace_signed_by_another_key_does_not_verify_with_ours() {
    let world = World::new();
    world.trace(REQUESTS);
    let other = World::new();
    let theirs = other.trace(&[]).join("key.pub");
    let said = world.failcore(&["trace", "verify", "./trace", "--key", theirs.to_str().unwrap()]);
    assert_eq!(said.code, 4, "{}{}", said.out, said.err);
}

#[test]
fn a_trace_cut_anywhere_is_one_message_and_the_right_code() {
    let world = World::new();
    let trace = world.trace(REQUESTS).join("trace.jsonl");
    let whole = std::fs::read(&trace).unwrap();
    for cut in [0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&trace, &whole[..cut]).unwrap();
        let verified = world.failcore(&["trace", "verify", "./trace"]);
        assert_eq!(verified.code, 4, "cut at {cut}: {}{}", verified.out, verified.err);
        let shown = world.failcore(&["trace", "show", "./trace"]);
        let torn = cut > 0 && whole[cut - 1] != b'\n';
        assert_eq!(shown.code, if torn { 4 } else { 0 }, "cut at {cut}: {}", shown.err);
        assert_eq!(shown.err.matches('×').count(), usize::from(torn), "{}", shown.err);
        assert!(!shown.err.contains("panicked"), "{}", shown.err);
    }
}

#[test]
fn a_proof_stands_alone() {
    let world = World::new();
    let dir = world.trace(REQUESTS);
    let said = world.failcore(&["trace", "prove", "./trace", "5"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let proof =
        serde_json::from_str(&said.out.replace("[dir]", &world.path().display().to_string())).unwrap();
    let key = failcore_trace::VerifyingKey::load(&dir.join("key.pub")).unwrap();
    assert_eq!(failcore_trace::verify_proof(&proof, &key).unwrap().seq, 5);
    assert_eq!(world.failcore(&["trace", "prove", "./trace", "99"]).code, 2);
}

#[test]
fn exports_keep_every_record_and_survive_spreadsheets() {
    let world = World::new();
    let dir = world.trace(REQUESTS);
    let said = world.failcore(&["trace", "export", "./trace"]);
    let whole = std::fs::read_to_string(dir.join("trace.jsonl")).unwrap();
    assert_eq!(said.out, whole.trim_end().replace(&world.path().display().to_string(), "[dir]"));
    let said = world.failcore(&["trace", "export", "./trace", "--format", "csv"]);
    assert_eq!(said.out.lines().count(), REQUESTS.len() + 1);
    assert!(said.out.contains(",web_search,deny,"), "{}", said.out);
    let last = said.out.lines().last().unwrap();
    assert!(last.ends_with(",fs.delete,[dir]/data/a.txt,[dir]/lib/agent.py:41"), "{last}");
}

#[test]
fn tail_ends_with_the_session() {
    let world = World::new();
    world.trace(REQUESTS);
    let said = world.failcore(&["trace", "tail", "./trace"]);
    assert_eq!(said.code, 0);
    assert!(said.out.contains("closed  exit code 0"), "{}", said.out);
}

#[test]
fn tail_shows_records_as_they_are_written() {
    let world = World::new();
    let key = failcore_trace::SigningKey::load_or_create(&world.path().join("key")).unwrap();
    let mut writer = failcore_trace::Writer::create(&world.path().join("live"), SESSION, &key, "").unwrap();
    let notice = |text: &str| failcore_model::Event::Notice { text: text.into() };
    writer.append(&notice("before")).unwrap();
    let mut tail = std::process::Command::new(assert_cmd::cargo::cargo_bin!("failcore"))
        .args(["trace", "tail", "./live"])
        .current_dir(world.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(tail.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains("before"));
    writer.append(&notice("while it follows")).unwrap();
    assert!(next().contains("while it follows"));
    writer.close(Some(0)).unwrap();
    assert!(next().contains("closed"));
    assert!(tail.wait().unwrap().success());
}

#[test]
fn runs_are_found_by_id_and_listed() {
    let world = World::new();
    let none = world.failcore(&["trace", "list"]);
    assert_eq!((none.code, none.out.as_str()), (0, ""));
    world.trace_in(&format!(".local/state/failcore/runs/{SESSION}"), REQUESTS, true);
    let said = world.failcore(&["trace", "list"]);
    assert!(
        said.out.starts_with(SESSION) && said.out.ends_with("researcher  python agent.py"),
        "{}",
        said.out
    );
    assert_eq!(world.failcore(&["trace", "verify", &SESSION[..5]]).code, 0);
    let said = world.failcore(&["trace", "show", "nobody"]);
    assert_eq!(said.code, 2);
    assert_reads!(said.err, @r#"
    × no run is called `nobody` in `[dir]/.local/state/failcore/runs`
    help: `failcore trace list` shows the runs there are
    "#);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new();
    let many: Vec<String> = (0..3000).map(|n| format!("fs.open read ./data/{n}.txt")).collect();
    world.trace(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let failcore = assert_cmd::cargo::cargo_bin!("failcore");
    let script = format!("set -o pipefail; {} trace show --all ./trace | head -n 1", failcore.display());
    let mut command = assert_cmd::Command::new("bash");
    command.current_dir(world.path()).args(["-c", &script]);
    let said = world.said(&mut command);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert_eq!(said.out.lines().count(), 1);
}

#[test]
fn diff_tells_where_two_runs_part_whatever_their_order() {
    let world = World::new();
    world.trace_in("first", REQUESTS, true);
    let mut later: Vec<&str> = REQUESTS.iter().rev().copied().collect();
    world.trace_in("same", &later, true);
    let said = world.failcore(&["diff", "./first", "./same"]);
    assert_eq!((said.code, said.out.as_str()), (0, "no difference: 8 operations in both"), "{}", said.err);

    later.pop();
    later.insert(0, "web_search: net.connect api.example.com:80");
    world.write("policy.toml", common::POLICY.replace("./work", "./elsewhere"));
    world.trace_under(&world.path().join("policy.toml"), "second", &later, true);
    let said = world.failcore(&["diff", "./first", "./second"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert_reads!(said.out, @r#"
    first: record 1 of the second, net.connect 1.1.1.1:80 (api.example.com)

    web_search
      + net.connect 1.1.1.1:80 (api.example.com)  refused (not_granted)  #1

    outside of tools
      - fs.open [dir]/data/a.txt (read)  allowed  #2
      ~ fs.open [dir]/elsewhere (read)  refused (absent) → allowed  #3 #7
      ~ fs.open [dir]/work/out.txt (create, modify)  allowed → refused (not_granted)  #6 #4

    they differ: 7 operations in both, 2 of them decided otherwise, 1 only in the first, 1 only in the second
    "#);
    let said = world.failcore(&["--json", "diff", "./first", "./second"]);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["common"], 7);
    assert_eq!(answer["differences"].as_array().unwrap().len(), 4);
}

#[test]
fn a_trace_that_was_altered_is_not_compared() {
    let world = World::new();
    world.trace_in("first", REQUESTS, true);
    let file = world.trace_in("second", REQUESTS, true).join("trace.jsonl");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, whole.replace("/data/a.txt", "/data/z.txt")).unwrap();
    let said = world.failcore(&["diff", "./first", "./second"]);
    assert_eq!((said.code, said.out.as_str()), (4, ""), "{}", said.err);
}
