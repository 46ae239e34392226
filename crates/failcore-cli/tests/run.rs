//! `failcore run` with a real interpreter under the real gate.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Said, World, gate, python};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Grants the work directory, and what the preset grants; `more` goes below.
fn policy(more: &str) -> String {
    format!(
        "version = 1\nextends = [\"preset:python\"]\n[fs]\nread = [\"./agent.py\"]\nwrite = [\"./work\"]\n{more}"
    )
}

/// Runs a program under a policy, its trace in `./trace`.
fn run(world: &World, policy: &str, program: &str) -> Said {
    gate();
    world.write("agent.toml", policy);
    world.write("agent.py", program);
    std::fs::create_dir_all(world.path().join("work")).unwrap();
    world.failcore(&[
        "run",
        "--lane",
        "runtime",
        "-p",
        "agent.toml",
        "--trace",
        "trace",
        "--",
        python(),
        "agent.py",
    ])
}

fn valid(world: &World) {
    let said = world.failcore(&["trace", "verify", "./trace"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
}

/// Waits until no process has this number any more.
fn gone(pid: i32) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let ended = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')));
        if ended && test_kill_process(Pid::from_raw(pid).unwrap()).is_err() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn output_and_exit_code_pass_through() {
    let world = World::new();
    let said = run(
        &world,
        &policy(""),
        "import sys; print('to out'); print('to err', file=sys.stderr); sys.exit(7)",
    );
    assert_eq!((said.code, said.out.as_str()), (7, "to out"), "{}", said.err);
    assert!(said.err.starts_with("to err\n") && said.err.contains("0 refused"), "{}", said.err);
    valid(&world);
}

#[test]
fn a_signal_that_ends_the_program_is_128_and_its_number() {
    let world = World::new();
    let said = run(&world, &policy(""), "import os; os.abort()");
    assert_eq!(said.code, 128 + 6, "{}", said.err);
    valid(&world);
}

#[test]
fn refusals_are_counted_shown_and_explained() {
    let world = World::new();
    let said = run(
        &world,
        &policy("deny = [\"**/.env\"]\n"),
        "for path in ('work/.env', '/etc/shadow', 'work/out.txt'):\n  try: open(path, 'w').close()\n  except OSError as e: print(type(e).__name__)\n",
    );
    assert_eq!((said.code, said.out.as_str()), (0, "Denied\nDenied"), "{}", said.err);
    assert!(said.err.contains("2 refused"), "{}", said.err);
    let shown = world.failcore(&["--json", "trace", "show", "./trace", "--denied", "--path", "./work"]);
    let record: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    let explained = world.failcore(&["trace", "explain", "./trace", &record["seq"].to_string()]);
    assert!(
        explained.out.contains("forbid fs.deny **/.env") && explained.out.contains("agent.toml:6:9"),
        "{}",
        explained.out
    );
    let strict = policy("").replace("write = [\"./work\"]", "");
    world.write("strict.toml", strict);
    let replayed = world.failcore(&["replay", "./trace", "-p", "strict.toml"]);
    assert!(replayed.code == 3 && replayed.out.contains("work/out.txt"), "{}{}", replayed.out, replayed.err);
}

#[test]
fn signals_reach_the_program() {
    gate();
    let world = World::new();
    world.write("agent.toml", policy(""));
    world.write(
        "agent.py",
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nprint('ready', flush=True)\nwhile True: time.sleep(0.05)\n",
    );
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("failcore"))
        .current_dir(world.path())
        .env("HOME", world.path())
        .env_remove("XDG_STATE_HOME")
        .args(["run", "-p", "agent.toml", "--trace", "trace", "--", python(), "agent.py"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    valid(&world);
}

#[test]
fn a_daemon_does_not_outlive_its_run() {
    let world = World::new();
    let said = run(
        &world,
        &policy(""),
        "import os, signal, sys, time\n\
         if os.fork() == 0:\n\
         \x20 os.setsid()\n\
         \x20 if os.fork(): os._exit(0)\n\
         \x20 signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
         \x20 open('work/pid', 'w').write(str(os.getpid()))\n\
         \x20 os.rename('work/pid', 'work/daemon')\n\
         \x20 time.sleep(600)\n\
         while not os.path.exists('work/daemon'): time.sleep(0.01)\n",
    );
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("1 process left behind"), "{}", said.err);
    let pid = std::fs::read_to_string(world.path().join("work/daemon")).unwrap().parse().unwrap();
    assert!(gone(pid), "{pid} still lives");
    valid(&world);
}

#[test]
fn limits_stop_the_whole_tree() {
    let sleep = "import time\ntime.sleep(600)\n";
    let fork = "import os, time\nfor n in range(6):\n  if os.fork() == 0: time.sleep(600)\ntime.sleep(600)\n";
    let hoard = "import time\nkept = bytearray(b'x' * (300 << 20))\ntime.sleep(600)\n";
    let write = "import os, time\nf = open('work/big', 'wb')\nfor n in range(64): f.write(b'x' * (1 << 20)); f.flush()\ntime.sleep(600)\n";
    for (limit, program) in [
        ("wall_time = \"1s\"", sleep),
        ("processes = 4", fork),
        ("memory = \"200MiB\"", hoard),
        ("write_bytes = \"16MiB\"", write),
    ] {
        let world = World::new();
        let started = Instant::now();
        let said = run(&world, &policy(&format!("[limits]\n{limit}\n")), program);
        assert_eq!(said.code, 128 + 9, "{limit}: {}", said.err);
        assert!(started.elapsed() < Duration::from_secs(30), "{limit}");
        let name = limit.split(' ').next().unwrap();
        assert!(
            said.err.contains("stopped: ") && said.err.contains(&format!("limits.{name}")),
            "{}",
            said.err
        );
        let shown = world.failcore(&["trace", "show", "./trace"]);
        assert!(shown.out.contains("stopped: "), "{}", shown.out);
        valid(&world);
    }
}

#[test]
fn only_granted_variables_reach_the_program_and_its_temporary_directory_goes() {
    let world = World::new();
    gate();
    world.write("agent.toml", policy("[env]\npass = [\"GIVEN_*\"]\n"));
    world.write(
        "agent.py",
        "import os, tempfile\nprint('GIVEN_ONE' in os.environ, 'API_SECRET' in os.environ)\nopen(tempfile.mkstemp()[1], 'w').close()\nprint(tempfile.gettempdir())\n",
    );
    let said = world.said(
        world
            .command()
            .args(["-q", "run", "-p", "agent.toml", "--trace", "trace", "--", python(), "agent.py"])
            .env("GIVEN_ONE", "1")
            .env("API_SECRET", "hunter2hunter2"),
    );
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let (flags, tmp) = said.out.split_once('\n').unwrap();
    assert_eq!(flags, "True False");
    assert!(tmp.contains("failcore-tmp-") && !PathBuf::from(tmp).exists(), "{tmp}");
}

#[test]
fn the_gates_own_files_stay_out_of_reach() {
    let world = World::new();
    let all = "version = 1\nextends = [\"preset:allow-all\"]\n";
    let said = run(
        &world,
        all,
        "import glob, os\n\
         files = ['agent.toml', *glob.glob('trace/*'), *glob.glob('.local/state/failcore/*')]\n\
         assert len(files) > 4, files\n\
         for file in files:\n\
         \x20 try: open(file, 'ab').close()\n\
         \x20 except PermissionError: continue\n\
         \x20 print('opened', file)\n\
         try: open('.local/state/failcore/key').close()\n\
         except PermissionError: pass\n\
         else: print('read the key')\n\
         try: os.rename('trace', 'moved')\n\
         except PermissionError: pass\n\
         else: print('moved the trace')\n",
    );
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{}", said.err);
    valid(&world);
}

#[test]
fn a_policy_that_is_only_found_is_used_once_trusted() {
    gate();
    let world = World::new();
    world.write("failcore.toml", policy(""));
    world.write("agent.py", "open('work/x', 'w').close()");
    std::fs::create_dir_all(world.path().join("work")).unwrap();
    let run = || world.failcore(&["run", "--", python(), "agent.py"]);
    let said = run();
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(
        said.err.contains("you have not trusted it") && said.err.contains("failcore.Denied"),
        "{}",
        said.err
    );
    assert_eq!(world.failcore(&["trust"]).code, 0);
    let said = run();
    assert_eq!(said.code, 0, "{}", said.err);
    world.write("failcore.toml", policy("# changed\n"));
    assert_eq!(run().code, 1);
}

#[test]
fn the_end_can_be_read_by_programs() {
    gate();
    let world = World::new();
    world.write("agent.py", "import sys; sys.exit(3)");
    let said = world.failcore(&[
        "--json",
        "run",
        "--lane",
        "runtime",
        "--agent",
        "tester",
        "--",
        python(),
        "agent.py",
    ]);
    assert_eq!(said.code, 3, "{}", said.err);
    let last: serde_json::Value = serde_json::from_str(said.err.lines().last().unwrap()).unwrap();
    assert_eq!((&last["exit"], &last["refused"]), (&3.into(), &0.into()));
    assert!(last["allowed"].as_u64().unwrap() > 0);
    let listed = world.failcore(&["trace", "list"]);
    assert!(listed.out.contains("tester"), "{}", listed.out);
}

#[test]
fn what_keeps_a_program_from_starting_leaves_nothing_behind() {
    gate();
    let world = World::new();
    world.write("agent.py", "print('ran')");
    world.write("broken.toml", "version = 1\n[fs]\nraed = []\n");
    let refused = |args: &[&str]| {
        let said = world.failcore(&[&["-q", "run"], args, &["--", python(), "agent.py"]].concat());
        assert_eq!((said.code, said.out.as_str()), (126, ""), "{args:?}: {}", said.err);
        said.err
    };
    refused(&["-p", "broken.toml", "--trace", "t1"]);
    assert_reads!(refused(&["-p", "nowhere.toml", "--trace", "t1"]), @r#"
    × there is no file `nowhere.toml`
    help: `failcore init` writes a policy to start from; `preset:python` is one that is built in
    "#);
    assert!(!world.path().join("t1").exists());
    assert_reads!(refused(&["--trace", "/proc/nowhere/trace"]), @r#"
    × cannot make `/proc/nowhere/trace`
    ╰─▶ No such file or directory (os error 2)
    help: it, or the directory it lies in, does not exist
    "#);
    let before = world.trace(&[]).join("trace.jsonl");
    let text = std::fs::read_to_string(&before).unwrap();
    assert_reads!(refused(&["--trace", "trace"]), @r#"
    × `[dir]/trace` already holds a trace
    help: a trace is never appended to; name a directory that is not there yet
    "#);
    assert_eq!(std::fs::read_to_string(&before).unwrap(), text);
}

#[test]
fn a_program_that_never_entered_the_gate_is_a_failure() {
    gate();
    let world = World::new();
    world.write("fake/lib/python3.12/os.py", "");
    std::fs::create_dir_all(world.path().join("fake/bin")).unwrap();
    std::fs::copy("/bin/true", world.path().join("fake/bin/python3.12")).unwrap();
    let said = world.failcore(&[
        "-q",
        "run",
        "--lane",
        "runtime",
        "--trace",
        "trace",
        "--",
        "fake/bin/python3.12",
        "x.py",
    ]);
    assert_eq!(said.code, 125, "{}", said.err);
    assert_reads!(said.err, @r#"
    × `[dir]/fake/bin/python3.12` never entered the gate: nothing that it did was held or recorded
    help: it is called like a Python interpreter but does not behave as one; name the real one
    "#);
    valid(&world);
}
