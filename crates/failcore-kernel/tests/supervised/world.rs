//! A directory with a policy, in which programs run under supervision.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use failcore_model::{Decision, Event, Record, Request};
use failcore_trace::Reader;

/// Who the programs run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Own,
    /// An ordinary user, where the tests run as root.
    Ordinary,
}

/// The users that the tests can play: both as root, else the one there is.
pub fn users() -> &'static [User] {
    if rustix::process::getuid().is_root() { &[User::Own, User::Ordinary] } else { &[User::Own] }
}

/// A policy's directory: `ok` may be read, `w` written; `ok/secret`, `w/denied` and `w/git/hooks`, which does not exist,
/// are denied.
pub struct World {
    dir: tempfile::TempDir,
    user: User,
    /// Lines added to the policy, section headers included.
    pub more: String,
    /// Further programs that may run.
    pub exec: Vec<String>,
    /// Further grants: beginnings of lists, and what follows them.
    pub beyond: Vec<(&'static str, String)>,
    /// Whether the supervisor alone knows of these, and the kernel underneath does not.
    pub mistaken: bool,
}

/// What a program did.
pub struct Ran {
    /// Its end and what it said.
    pub output: Output,
    /// The trace.
    pub records: Vec<Record>,
}

impl World {
    pub fn new(user: User) -> Self {
        // Under /tmp, which an ordinary user can reach whatever TMPDIR says.
        let dir = tempfile::Builder::new().prefix("failcore").tempdir_in("/tmp").unwrap();
        for name in ["ok", "w", "w/denied", "bin", "out"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        for (name, text) in [
            ("ok/a", "public\n"),
            ("ok/secret", "secret\n"),
            ("w/denied/f", "hidden\n"),
            ("out/f", "outside\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        open_up(dir.path());
        Self { dir, user, more: String::new(), exec: Vec::new(), beyond: Vec::new(), mistaken: false }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Compiles a C program into the world.
    pub fn compile(&mut self, name: &str, source: &str) -> PathBuf {
        let (text, program) = (self.path(&format!("bin/{name}.c")), self.path(&format!("bin/{name}")));
        std::fs::write(&text, source).unwrap();
        let done = Command::new("cc")
            .args(["-O1", "-w", "-pthread", "-D_GNU_SOURCE", "-o"])
            .args([&program, &text])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        self.exec.push(program.display().to_string());
        program
    }

    fn policy(&self) -> String {
        let dir = self.dir.path().display();
        let exec: String = self.exec.iter().map(|program| format!(", {program:?}")).collect();
        format!(
            r#"version = 1
[fs]
read = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/tty", "/proc/self", "/proc/filesystems", "{dir}/ok", "{dir}/bin"]
write = ["{dir}/w"]
deny = ["{dir}/ok/secret", "{dir}/w/denied", "{dir}/w/git/hooks"]
[process]
exec = ["/bin/sh", "/bin/cat", "/bin/true", "/bin/ls", "/bin/sleep", "/bin/mv", "/bin/ln", "/bin/mkdir", "/usr/bin/bash"{exec}]
signal = "children"
{}"#,
            self.more
        )
    }

    /// A command that runs a program under supervision, as this world's user.
    pub fn command<S: AsRef<OsStr>>(&self, program: &[S]) -> Command {
        build();
        let supervise =
            std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/supervise");
        // Where an ordinary user can get at it.
        let copy = self.path("bin/supervise");
        if !copy.exists() {
            // By another process: one that we fork meanwhile would hold the copy open for writing.
            assert!(Command::new("cp").arg(supervise).arg(&copy).status().unwrap().success());
        }
        let policy = self.policy();
        let wider = self
            .beyond
            .iter()
            .fold(policy.clone(), |policy, (list, grant)| policy.replace(list, &format!("{list}{grant}, ")));
        std::fs::write(self.path("policy.toml"), wider).unwrap();
        std::fs::write(self.path("plan.toml"), policy).unwrap();
        open_up(self.dir.path());
        drop(std::fs::remove_dir_all(self.path("trace")));
        let mut command = match self.user {
            User::Own => Command::new(&copy),
            User::Ordinary => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
                command
            }
        };
        command.arg(self.path("policy.toml")).arg(self.path("trace")).arg("--").args(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(self.dir.path());
        if self.mistaken {
            command.env("PLANNED_BY", self.path("plan.toml"));
        }
        command
    }

    /// Runs a program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, program: &[S]) -> Ran {
        let output = self.command(program).output().unwrap();
        Ran { output, records: self.records() }
    }

    /// Runs a shell script to its end.
    pub fn shell(&self, script: &str) -> Ran {
        self.run(&["/bin/sh", "-c", script])
    }

    /// The trace of the last run, as far as it goes.
    pub fn records(&self) -> Vec<Record> {
        Reader::open(&self.path("trace/trace"))
            .map(|reader| reader.map_while(Result::ok).collect())
            .unwrap_or_default()
    }
}

/// Builds the program that supervises, which is an example of the command's crate: it wires what crates of this row may
/// not know of each other.
fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-q", "-p", "failcore-cli", "--example", "supervise"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the example does not build");
    });
}

/// Lets every user at everything: what is refused is refused by the gate.
fn open_up(path: &Path) {
    let found = path.symlink_metadata().unwrap();
    if found.is_symlink() {
        return;
    }
    drop(std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)));
    if found.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            open_up(&entry.path());
        }
    }
}

impl Ran {
    pub fn code(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Every decision, as `verb resource verdict`.
    pub fn decisions(&self) -> Vec<String> {
        self.decided()
            .map(|(request, decision)| {
                let verdict = if decision.is_allow() { "allow" } else { "deny" };
                format!("{} {} {verdict}", request.action.verb(), request.action.resource())
            })
            .collect()
    }

    fn decided(&self) -> impl Iterator<Item = (&Request, &Decision)> {
        self.records.iter().filter_map(|record| match &record.event {
            Event::Decided { request, decision, .. } => Some((&**request, decision)),
            _ => None,
        })
    }

    /// How many decisions speak of this.
    pub fn count(&self, decision: &str) -> usize {
        self.decisions().iter().filter(|found| found.contains(decision)).count()
    }
}
