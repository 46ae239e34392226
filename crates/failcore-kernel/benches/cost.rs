//! What one open and close costs: bare, under an otherwise empty supervisor (letting the kernel go on; reading the path,
//! opening and injecting), and under ours with decision and record. Interleaved, the best of several rounds.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark talks to its reader and fails by panicking"
)]

use std::path::Path;
use std::process::Command;

const COUNT: &str = "20000";
const ROUNDS: usize = 5;

fn main() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/floor.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-w", "-pthread", "-o"])
        .arg(at("floor"))
        .arg(source)
        .status()
        .unwrap();
    assert!(compiled.success());
    std::fs::create_dir(at("data")).unwrap();
    std::fs::write(at("data/f"), "x").unwrap();
    let policy = format!(
        "version = 1\n[fs]\nread = [\"/usr\", \"/lib\", \"/etc/ld.so.cache\", \"{0}/data\"]\n[process]\nexec = [\"{0}/floor\"]\n",
        dir.path().display()
    );
    std::fs::write(at("policy.toml"), policy).unwrap();
    // An example of the command's crate; benches and examples are built into sibling directories.
    let built = Command::new(env!("CARGO"))
        .args(["build", "-q", "--release", "-p", "failcore-cli", "--example", "supervise"])
        .status()
        .unwrap();
    assert!(built.success());
    let supervise =
        std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/supervise");
    let file = at("data/f");
    let loops = |mode: &str| {
        let mut command = Command::new(at("floor"));
        command.arg(mode).arg(&file).arg(COUNT);
        measured(&mut command)
    };
    let names =
        ["bare", "floor of letting the kernel go on", "floor of performing", "decided, recorded, performed"];
    let mut best = [f64::MAX; 4];
    for _ in 0..ROUNDS {
        for (n, mode) in ["bare", "continue", "emulate"].into_iter().enumerate() {
            best[n] = best[n].min(loops(mode));
        }
        drop(std::fs::remove_dir_all(at("trace")));
        let mut ours = Command::new(&supervise);
        ours.arg(at("policy.toml"))
            .arg(at("trace"))
            .arg("--")
            .arg(at("floor"))
            .args(["bare"])
            .arg(&file)
            .arg(COUNT);
        best[3] = best[3].min(measured(&mut ours));
    }
    println!("{:<36}{:>10}{:>9}{:>9}", "open + close", "ns", "x bare", "x floor");
    for (name, ns) in names.into_iter().zip(best) {
        println!("{name:<36}{ns:>10.0}{:>9.2}{:>9.2}", ns / best[0], ns / best[2]);
    }
}

fn measured(command: &mut Command) -> f64 {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}
