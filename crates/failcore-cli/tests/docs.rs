//! Every example of `docs/cli.md` is run, in order, and answers as it says there.
//!
//! A block ```` ```toml NAME ```` is a file of the example's project; in a block ```` ```console ```` a line `$ …` is a
//! command, `? N` under it its exit code where that is not 0, the rest what it says. What follows a command in the
//! background sees its run ask for leave. `UPDATE_DOCS=1` writes what the commands say now into the page.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{World, gate, python};

/// Where the project of the page lies.
const PROJECT: &str = "/home/me/project";

/// What the page calls an earlier run, for examples whose record numbers must not depend on the interpreter.
const EARLIER: &[&str] = &[
    "fs.open read ./agent.py",
    "fs.open read ./settings.ini?",
    "fs.open read ./data/sales.csv",
    "fs.open create+modify ./work/report.txt @ agent.py:2",
    "fetch: net.connect api.example.com:443 @ agent.py:9",
    "fetch: net.connect 169.254.169.254:80 @ agent.py:9",
    "fs.open read ./data/.env @ agent.py:5",
    "fs.open read ./data/.env @ agent.py:5",
];

/// And another one of the same program.
const LATER: &[&str] = &[
    "fs.open read ./agent.py",
    "fs.open read ./settings.ini?",
    "fs.open read ./data/prices.csv @ agent.py:4",
    "fs.open read ./data/sales.csv",
    "fs.open create+modify ./work/report.txt @ agent.py:2",
    "fetch: net.connect api.example.com:443 @ agent.py:9",
    "fs.open read ./data/.env @ agent.py:5",
];

#[test]
fn the_examples_of_the_reference_are_true() {
    gate();
    let world = World::new();
    std::fs::create_dir_all(world.path().join("work")).unwrap();
    std::fs::create_dir_all(world.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(python(), world.path().join("bin/python")).unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let mut now = String::new();
    let mut fence: Option<(String, String)> = None;
    for line in text.lines() {
        match &mut fence {
            None => {
                if let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) {
                    fence = Some((info.into(), String::new()));
                }
                now += &format!("{line}\n");
            }
            Some((info, block)) if line == "```" => {
                match info.split_once(' ') {
                    Some((_, name)) => drop(world.write(name, &*block)),
                    None if info == "console" => *block = examples(&world, block),
                    None => {}
                }
                now += &format!("{block}```\n");
                fence = None;
            }
            Some((_, block)) => *block += &format!("{line}\n"),
        }
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, now).unwrap();
        return;
    }
    similar(&text, &now);
}

/// Runs a block's commands; the block with what they say.
fn examples(world: &World, block: &str) -> String {
    let failcore = assert_cmd::cargo::cargo_bin!("failcore");
    let outer = std::env::var_os("PATH").unwrap();
    let path = [world.path().join("bin"), failcore.parent().unwrap().into()]
        .into_iter()
        .chain(std::env::split_paths(&outer));
    let path = std::env::join_paths(path).unwrap();
    let mut said = String::new();
    for line in block.lines().filter_map(|line| line.strip_prefix("$ ")) {
        for (name, operations) in [("earlier", EARLIER), ("later", LATER)] {
            if line.contains(&format!("./{name}")) && !world.path().join(name).exists() {
                world.trace_under(&world.path().join("agent.toml"), name, operations, true);
            }
        }
        // Without a terminal: whoever runs the tests is not asked.
        let shell = |line: &str| {
            let mut shell = assert_cmd::Command::new("setsid");
            shell.current_dir(world.path()).env_clear().env("HOME", world.path()).env("PATH", &path);
            shell.args(["--wait", "sh", "-c", &format!("{{ {line}\n}} 2>&1")]);
            shell
        };
        let answer = world.said(&mut shell(line));
        said += &format!("$ {line}\n");
        if line.ends_with('&') {
            let until = Instant::now() + Duration::from_secs(60);
            while !world.said(&mut shell("failcore --json ps")).out.contains(r#""waiting":[{"#) {
                assert!(Instant::now() < until, "`{line}` does not ask for leave");
            }
        }
        if answer.code != 0 {
            said += &format!("? {}\n", answer.code);
        }
        if !answer.out.is_empty() {
            said += &format!("{}\n", answer.out.replace("[dir]", PROJECT));
        }
    }
    said
}

/// Compares two pages line by line; what differs from run to run and machine to machine counts as equal.
fn similar(page: &str, now: &str) {
    let patterns = [
        (r"\d\d:\d\d:\d\d\.\d{3}", "TIME"),
        (r"\b\d+ allowed", "N allowed"),
        (r", \d+ not there", ""),
        (r#""(allowed|absent)":\d+"#, "N"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "SESSION"),
        (r"[0-9a-f]{12,}|[A-Za-z0-9+/]{40,}=*", "HASH"),
        (r"\d+ bytes", "N bytes"),
        (r"key .*", "KEY"),
        (r"\d+ rules", "N rules"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d+ +\d+ +\d+ +", "SINCE COUNTS "),
        (r"process \d+", "process N"),
        (r"\d+ s left", "N s left"),
    ];
    let vague = |text: &str| {
        patterns.iter().fold(text.to_owned(), |text, (pattern, instead)| {
            regex::Regex::new(pattern).unwrap().replace_all(&text, *instead).into_owned()
        })
    };
    let (page, now) = (vague(page), vague(now));
    for (line, (was, is)) in (1..).zip(page.lines().zip(now.lines())) {
        assert_eq!(is, was, "docs/cli.md line {line} says otherwise; UPDATE_DOCS=1 writes what is true");
    }
    assert_eq!(page.lines().count(), now.lines().count());
}
