//! The command as such: help, generated files, exit codes, inputs that make no sense.

mod common;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use common::World;

#[test]
fn help_reads_well() {
    let said = World::new().failcore(&["-h"]);
    assert_eq!(said.code, 0);
    assert_reads!(said.out, @r#"
    Runs AI agents and other untrusted programs under a policy, records what they do, explains and
    replays it

    Usage: failcore [OPTIONS] <COMMAND>

    Commands:
      run          Run a program under a policy
      ps           List the runs that are under way
      pause        Hold a run still: nothing of it runs and nothing is done for it
      resume       Let a paused run go on
      stop         End a run and everything it started, at once
      tail         Show the records of a run as they are written, until it ends
      approve      Allow what a run asks leave for; without a number, list what it asks
      deny         Refuse what a run asks leave for; without a number, list what it asks
      check        Check a policy: errors, rules without effect, and what each lane holds
      explain      Say what a policy answers to one request, and why
      policy       Show, compare or describe policies
      init         Write a commented policy to start from
      trust        Trust a failcore.toml, so that `run` uses it without -p
      trace        Read and verify traces
      step         Go through a trace at a terminal: by record, operation, tool and refusal
      replay       Run a recorded program again, or decide traces again under another policy
      diff         Say where two runs part
      bisect       Find the first operation of a trace that two policies decide otherwise
      doctor       Say what this machine can hold, and why not
      completions  Print the completions of a shell
      man          Write the manual pages

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Output:
          --json          Answer in JSON: one object, or one a line where there are many
          --color <WHEN>  When to use colour [default: auto] [possible values: auto, always, never]
      -q, --quiet         Say nothing beside the answer and errors

    Exit codes:
        0  all is well (run: the program's own code passes through, 128+N for signal N)
        2  wrong arguments, a broken policy, an input that is not there
        3  the answer is no: denied, or something changed
        4  the trace does not verify
        5  the replay diverged
      125  FailCore itself failed
      126  the program could not be started under the gate
    "#);
    let said = World::new().failcore(&["run", "-h"]);
    assert_reads!(said.out, @r#"
    Run a program under a policy

    Usage: failcore run [OPTIONS] <CMD>...

    Arguments:
      <CMD>...  The program and its arguments

    Options:
      -p, --policy <FILE>    The policy
          --trace <DIR>      Where the trace goes: a directory that does not exist yet
          --lane <LANE>      What enforces the policy [default: auto] [possible values: auto, kernel,
                             runtime]
          --cwd <DIR>        Where the program starts; here where not given
          --stdin <WHAT>     What the program reads as its standard input [default: inherit] [possible
                             values: inherit, null]
          --agent <NAME>     The agent's name, for the trace
          --run <LABEL>      Your own label for this run, for the trace
          --patience <TIME>  How long a question for leave (`approve = true`) waits for an answer, here
                             or by `failcore approve` [default: 2m]
          --record           Keep what the program learns from outside, so that `failcore replay` can
                             run it again with nothing outside
          --self-contained   Keep what interpreters, programs and libraries hold too, not only their
                             hashes
      -h, --help             Print help (see more with '--help')

    Output:
          --json          Answer in JSON: one object, or one a line where there are many
          --color <WHEN>  When to use colour [default: auto] [possible values: auto, always, never]
      -q, --quiet         Say nothing beside the answer and errors

    Examples:
      failcore run -- python agent.py
      failcore run -p agent.toml --agent researcher -- .venv/bin/python -m my_agent
      failcore run -p build.toml -- make test
    "#);
}

#[test]
fn unknown_words_are_usage_errors() {
    let world = World::new();
    for args in [&["frobnicate"][..], &[], &["run"], &["trace", "show"], &["run", "--lane", "bpf", "--", "x"]]
    {
        assert_eq!(world.failcore(args).code, 2, "{args:?}");
    }
}

#[test]
fn every_command_has_a_page_and_every_shell_its_completions() {
    let world = World::new();
    let said = world.failcore(&["man", "pages"]);
    assert_eq!(said.code, 0, "{}", said.err);
    for page in ["failcore.1", "failcore-run.1", "failcore-trace-verify.1", "failcore-policy-diff.1"] {
        let text = std::fs::read_to_string(world.path().join("pages").join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = world.failcore(&["completions", shell]);
        assert!(said.code == 0 && said.out.contains("replay"), "{shell}");
    }
}

#[test]
fn doctor_says_what_the_machine_holds() {
    let world = World::new();
    let said = world.failcore(&["--json", "doctor"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let groups: Vec<&str> =
        answer["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(groups, ["kernel", "runtime", "bpf"]);
    for group in answer["groups"].as_array().unwrap() {
        for finding in group["findings"].as_array().unwrap() {
            let good = finding["state"] == "good";
            assert_eq!(good, finding["remedy"].is_null(), "what is amiss has a remedy: {finding}");
        }
    }
    // A prefix without the other parts holds no lane.
    let said =
        world.said(world.command().args(["doctor", "--lane", "runtime"]).env("FAILCORE_HOOK", "/nowhere.so"));
    assert_eq!(said.code, 126);
    assert!(said.out.contains("/nowhere.so"), "{}", said.out);
}

#[test]
fn colour_is_for_terminals_and_who_asks_for_it() {
    let world = World::new();
    world.trace(&["fs.open read ./data/a.txt"]);
    let show = ["trace", "show", "./trace"];
    assert!(!world.failcore(&show).out.contains('\x1b'));
    assert!(world.failcore(&[&["--color", "always"], &show[..]].concat()).out.contains("\x1b[32m"));
    let said = world.said(world.command().args(["--color", "never"]).args(show).env("CLICOLOR_FORCE", "1"));
    assert!(!said.out.contains('\x1b'));
}

#[test]
fn what_is_not_held_by_the_lane_is_not_run() {
    let world = World::new();
    let refused = |program: &str| {
        let said = world.failcore(&["-q", "run", "--lane", "runtime", "--", program, "--version"]);
        assert_eq!((said.code, said.out.as_str()), (126, ""), "{program}: {}", said.err);
        said.err
    };
    let script = |name: &str, text: &str| {
        let path = world.write(name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        format!("./{name}")
    };
    assert_reads!(refused("sh"), @r#"
    × `sh` is not run: it is no CPython interpreter
    help: the runtime lane holds programs that CPython 3.10 or later runs; name the interpreter, as in `failcore run -- python agent.py`, or let the kernel lane hold it
    "#);
    assert_reads!(refused("no-such-program"), @r#"
    × cannot find the program `no-such-program`
    help: it is neither a path nor on PATH; name it as you would in a shell
    "#);
    assert_reads!(refused(&script("tool.sh", "#!/bin/sh\necho hi\n")), @r#"
    × `./tool.sh` is not run: it is neither a Python interpreter nor a script that names one
    help: the runtime lane holds programs that CPython 3.10 or later runs; name the interpreter, as in `failcore run -- python agent.py`, or let the kernel lane hold it
    "#);
    assert_reads!(refused(&script("shims/python3", "#!/usr/bin/env bash\nexec python3\n")), @r#"
    × `./shims/python3` is not run: it is a shell script
    help: it is a shim, a shell script that looks the real one up; run that: `failcore run -- "$(pyenv which python3)" …`
    "#);
    assert_reads!(refused(&script("data.txt", "hello\n")), @r#"
    × `./data.txt` is not run: it is neither a Python interpreter nor a script that names one
    help: the runtime lane holds programs that CPython 3.10 or later runs; name the interpreter, as in `failcore run -- python agent.py`, or let the kernel lane hold it
    "#);
    // A program that only calls itself Python.
    std::fs::copy("/bin/true", world.path().join("python3.12")).unwrap();
    assert_reads!(refused("./python3.12"), @r#"
    × `./python3.12` is not run: it is no CPython interpreter
    help: the runtime lane holds programs that CPython 3.10 or later runs; name the interpreter, as in `failcore run -- python agent.py`, or let the kernel lane hold it
    "#);
}

#[test]
fn an_old_interpreter_is_not_run() {
    let world = World::new();
    world.write("old/lib/python3.9/os.py", "");
    std::fs::create_dir_all(world.path().join("old/bin")).unwrap();
    std::fs::copy("/bin/true", world.path().join("old/bin/python3.9")).unwrap();
    let said = world.failcore(&["-q", "run", "--lane", "runtime", "--", "old/bin/python3.9", "x.py"]);
    assert_eq!(said.code, 126);
    assert_reads!(said.err, @r#"
    × `old/bin/python3.9` is not run: it is Python 3.9
    help: this lane needs CPython 3.10 or later, whose audit hooks see enough
    "#);
}

#[test]
fn errors_are_json_where_answers_are() {
    let world = World::new();
    let said = world.failcore(&["--json", "trace", "show", "nobody"]);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert!(
        error["message"].as_str().unwrap().contains("nobody") && error["help"].is_string(),
        "{}",
        said.err
    );
    // Also where the command line itself makes no sense; but what follows `--` is the program's.
    for args in
        [&["--json", "frobnicate"][..], &["run", "--json"], &["trace", "show", "--json", "--veb", "x"]]
    {
        let said = world.failcore(args);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{args:?}");
        let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
        assert!(error["message"].is_string() && error["help"].is_string(), "{}", said.err);
    }
    let said = world.failcore(&["run", "--lane", "none", "--", "x", "--json"]);
    assert!(said.code == 2 && said.err.starts_with("error: "), "{}", said.err);
    assert_eq!(world.failcore(&["--json", "--help"]).code, 0);
}

#[test]
fn every_answer_can_be_json() {
    let world = World::new();
    world.trace(&["fs.open read ./data/a.txt"]);
    let json = |args: &[&str]| -> Vec<serde_json::Value> {
        let said = world.failcore(&[&["--json"], args].concat());
        assert_eq!(said.err, "", "{args:?}");
        let values = serde_json::Deserializer::from_str(&said.out).into_iter().map(Result::unwrap);
        let values: Vec<_> = values.collect();
        assert!(!values.is_empty(), "{args:?} says nothing");
        values
    };
    for args in [
        &["check", "policy.toml"][..],
        &["check", "policy.toml", "--matrix"],
        &["explain", "policy.toml", "fs.read", "./data"],
        &["policy", "show", "policy.toml"],
        &["policy", "diff", "policy.toml", "preset:python"],
        &["policy", "schema"],
        &["init", "new.toml"],
        &["trace", "show", "./trace"],
        &["trace", "tail", "./trace"],
        &["trace", "verify", "./trace"],
        &["trace", "prove", "./trace", "1"],
        &["trace", "explain", "./trace", "1"],
        &["trace", "export", "./trace"],
        &["replay", "./trace", "-p", "policy.toml"],
        &["diff", "./trace", "./trace"],
        &["bisect", "./trace", "--good", "policy.toml", "--bad", "policy.toml"],
        &["doctor"],
        &["completions", "bash"],
        &["man", "pages"],
    ] {
        json(args);
    }
    world.write("failcore.toml", common::POLICY);
    assert_eq!(json(&["trust"])[0]["trusted"], true);
    assert_eq!(json(&["trust", "--revoke"])[0]["trusted"], false);
    let runs = world.path().join(".local/state/failcore/runs");
    std::fs::create_dir_all(&runs).unwrap();
    std::fs::rename(world.path().join("trace"), runs.join(common::SESSION)).unwrap();
    assert_eq!(json(&["trace", "list"])[0]["session"], common::SESSION);
}

#[test]
fn a_path_that_is_not_text_is_a_path_all_the_same() {
    let world = World::new();
    let odd = std::ffi::OsStr::from_bytes(b"tr\xffce");
    std::fs::rename(world.trace(&["fs.open read ./data/a.txt"]), world.path().join(odd)).unwrap();
    let said = world.said(world.command().args(["trace", "verify"]).arg(std::path::Path::new(".").join(odd)));
    assert_eq!(said.code, 0, "{}", said.err);
    let said = world.said(world.command().arg("check").arg(odd));
    assert_eq!(said.code, 2, "{}", said.err);
    let said = world.said(world.command().args(["explain", "preset:python", "fs.read"]).arg(odd));
    assert_eq!(said.code, 2, "{}", said.err);
    assert_reads!(said.err, @r#"
    × `tr�ce` is not UTF-8
    help: a request in words is UTF-8; ask about the directory it lies in
    "#);
}

#[test]
fn what_is_not_there_is_named_with_a_remedy() {
    let world = World::new();
    let said = world.failcore(&["check", "nowhere.toml"]);
    assert_eq!(said.code, 2);
    assert_reads!(said.err, @r#"
    × there is no file `nowhere.toml`
    help: `failcore init` writes a policy to start from; `preset:python` is one that is built in
    "#);
    let said = world.failcore(&["man", "/proc/nowhere"]);
    assert_eq!(said.code, 125);
    assert_reads!(said.err, @r#"
    × cannot make `/proc/nowhere`
    ╰─▶ No such file or directory (os error 2)
    help: it, or the directory it lies in, does not exist
    "#);
    let said = world.failcore(&["init", "no/such/dir/failcore.toml"]);
    assert_eq!(said.code, 125);
    assert_reads!(said.err, @r#"
    × cannot make `no/such/dir/failcore.toml`
    ╰─▶ No such file or directory (os error 2)
    help: it, or the directory it lies in, does not exist
    "#);
}
