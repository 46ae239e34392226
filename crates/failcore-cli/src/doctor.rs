//! `failcore doctor`: what this machine can hold, and where it cannot, why and what to do about it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use failcore_kernel::{Cgroup, Mounts, probe};
use failcore_policy::Limits;
use serde::Serialize;

use crate::args::{Doctor, LaneChoice};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::install::Installation;
use crate::interpreter;
use crate::ui::{Answer, BAD, FAINT, GOOD, STRONG, Styled, Table, Ui, WARN};

/// Examines the machine.
pub(crate) fn run(args: &Doctor, ui: &mut Ui) -> Result<Exit, Failure> {
    let findings = Findings { groups: vec![kernel(), runtime(), bpf()] };
    let holds = |group: &Group| group.findings.iter().all(|finding| finding.state != State::Missing);
    let (kernel, runtime) = (holds(&findings.groups[0]), holds(&findings.groups[1]));
    let held = match args.lane {
        None => true,
        Some(LaneChoice::Runtime) => runtime,
        // The hook is loaded in this lane as well.
        Some(LaneChoice::Auto | LaneChoice::Kernel) => kernel && runtime,
    };
    ui.answer(&findings)?;
    Ok(if held { Exit::Success } else { Exit::NotStarted })
}

#[derive(Serialize)]
struct Findings {
    groups: Vec<Group>,
}

#[derive(Serialize)]
struct Group {
    name: &'static str,
    about: &'static str,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// There, and it works.
    Good,
    /// There, with less than could be.
    Limited,
    /// Not there, or it does not work.
    Missing,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, state: State::Good, detail: detail.into(), remedy: None }
    }

    fn limited(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, state: State::Limited, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn missing(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, state: State::Missing, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

impl Finding {
    /// What the lane can do without.
    fn at_most_limited(self) -> Self {
        let state = if self.state == State::Missing { State::Limited } else { self.state };
        Self { state, ..self }
    }
}

impl Answer for Findings {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        for (n, group) in self.groups.iter().enumerate() {
            if n > 0 {
                writeln!(out)?;
            }
            writeln!(out, "{}  {}", Styled(STRONG, group.name), Styled(FAINT, group.about))?;
            let mut table = Table::default();
            for finding in &group.findings {
                let (style, mark) = match finding.state {
                    State::Good => (GOOD, "yes"),
                    State::Limited => (WARN, "partly"),
                    State::Missing => (BAD, "no"),
                };
                let plain = anstyle::Style::new();
                table.row([
                    (style, mark.into()),
                    (plain, finding.what.into()),
                    (plain, finding.detail.clone()),
                ]);
                if let Some(remedy) = &finding.remedy {
                    table.row([
                        (plain, String::new()),
                        (plain, String::new()),
                        (FAINT, format!("→ {remedy}")),
                    ]);
                }
            }
            table.write(out, "  ")?;
        }
        Ok(())
    }
}

fn runtime() -> Group {
    let mut findings = Vec::new();
    let install = "install the `failcore` package into the environment of this command";
    let part = |what, found: Result<PathBuf, PathBuf>| match found {
        Ok(path) => Finding::good(what, path.display().to_string()),
        Err(path) => Finding::missing(what, format!("looked for {}", path.display()), install),
    };
    let installation = Installation::find();
    findings.push(part("interpreter hook", installation.hook));
    findings.push(part("preload library", installation.preload));
    let pythons = interpreter::all_on_path();
    if pythons.is_empty() {
        findings.push(Finding::missing(
            "Python",
            "no CPython 3.10 or later on PATH",
            "install one, or name it with its path in `failcore run -- PATH …`",
        ));
    }
    for python in pythons {
        findings.push(Finding::good("Python", python));
    }
    findings.push(traces());
    Group {
        name: "runtime",
        about: "the audit hook in the Python interpreter; advisory; beside the kernel lane, or alone with --lane runtime",
        findings,
    }
}

fn traces() -> Finding {
    const WHAT: &str = "place for traces";
    let dir = match failcore_trace::runs_dir() {
        Ok(dir) => dir,
        Err(error) => return Finding::missing(WHAT, error.to_string(), "or give --trace DIR"),
    };
    // What exists of it decides; nothing is made by asking.
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Finding::good(WHAT, dir.display().to_string()),
        Err(_) => Finding::missing(
            WHAT,
            format!("{} is not writable", existing.display()),
            "set XDG_STATE_HOME to a directory of yours, or give --trace DIR",
        ),
    }
}

fn kernel() -> Group {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut findings = vec![Finding::good("Linux", release)];
    findings.push(match probe::landlock_abi() {
        Ok(abi) if abi >= 7 => Finding::good("Landlock", format!("ABI {abi}")),
        Ok(abi) => Finding::limited(
            "Landlock",
            format!("ABI {abi}: {}", landlock_lacks(abi)),
            "a newer kernel holds more",
        ),
        Err(error) => Finding::missing(
            "Landlock",
            error.to_string(),
            "boot with `lsm=landlock,…` on a kernel 5.13 or later built with CONFIG_SECURITY_LANDLOCK",
        )
        // The supervisor holds alone then, and Coverage says what that is worth.
        .at_most_limited(),
    });
    findings.push(match probe::seccomp_notify() {
        Ok(()) => Finding::good("seccomp notification", "system calls can be handed to a supervisor"),
        Err(error) => Finding::missing(
            "seccomp notification",
            error.to_string(),
            "needs a kernel 5.14 or later with CONFIG_SECCOMP_FILTER, and a container that allows seccomp(2)",
        ),
    });
    findings.push(yama());
    findings.push(match probe::user_namespaces() {
        Ok(()) => Finding::good("user namespaces", "this user can make them"),
        Err(error) => Finding::limited("user namespaces", error.to_string(), namespaces_remedy()),
    });
    findings.push(cgroup());
    Group {
        name: "kernel",
        about: "a supervisor with seccomp and Landlock; binding, the default of `failcore run`",
        findings,
    }
}

/// What a Landlock ABI does not have yet (docs.kernel.org/userspace-api/landlock.html, "Previous limitations").
fn landlock_lacks(abi: u32) -> &'static str {
    match abi {
        0 | 1 => "no rename between directories, truncation, TCP ports, ioctl or scopes",
        2 => "no truncation, TCP ports, ioctl or scopes",
        3 => "no TCP ports, ioctl or scopes",
        4 => "no ioctl or scopes",
        5 => "no scopes for signals and abstract sockets",
        _ => "no log control",
    }
}

fn yama() -> Finding {
    const WHAT: &str = "Yama ptrace scope";
    let scope = read("/proc/sys/kernel/yama/ptrace_scope");
    match scope.as_deref() {
        None => Finding::good(WHAT, "Yama is not there: the usual rules hold"),
        Some("0") => Finding::good(WHAT, "0: the usual rules hold"),
        Some("1") => Finding::good(WHAT, "1: a supervisor may look into the processes it started"),
        Some(scope) => Finding::missing(
            WHAT,
            format!("{scope}: no supervisor without privilege"),
            "sysctl kernel.yama.ptrace_scope=1 (3 stays until the next boot)",
        ),
    }
}

fn namespaces_remedy() -> &'static str {
    let is = |file, value: &str| read(file).as_deref() == Some(value);
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor restricts them: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile for failcore"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "sysctl kernel.unprivileged_userns_clone=1"
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "sysctl user.max_user_namespaces=1000"
    } else {
        "a container or security module forbids them; nothing needs them, they only make some rules cheaper"
    }
}

fn cgroup() -> Finding {
    const WHAT: &str = "cgroup 2";
    let remedy =
        "run inside `systemd-run --user --scope`, or be root; else the supervisor and measuring hold limits";
    // For as long as the question takes; limits that nothing reaches.
    let most = Some(1 << 40);
    let limits = Limits { memory: most, processes: most, ..Limits::default() };
    let cgroup = match Cgroup::create(&format!("doctor-{}", std::process::id()), &limits, &Mounts::read()) {
        Ok(cgroup) => cgroup,
        Err(error) => return Finding::limited(WHAT, error.to_string(), remedy),
    };
    let lacks: Vec<String> = [("memory", "memory"), ("pids", "threads")]
        .into_iter()
        .filter_map(|(controller, what)| Some(format!("not {what}: {}", cgroup.lacks(controller)?)))
        .collect();
    let detail = "a run gets its own, and is stopped and frozen as one";
    match lacks.as_slice() {
        [] => Finding::good(WHAT, format!("{detail}; memory and threads are held there")),
        lacks => Finding::limited(WHAT, format!("{detail}; {}", lacks.join("; ")), remedy),
    }
}

fn bpf() -> Group {
    let listed = read("/sys/kernel/security/lsm").map(|list| list.split(',').any(|name| name == "bpf"));
    let privilege = "needs CAP_BPF and CAP_NET_ADMIN (root), and a host that allows bpf(2)";
    let findings = vec![
        match probe::cgroup_bpf() {
            Ok(()) => Finding::good("cgroup programs", "connect and send can be held for one cgroup"),
            Err(error) => Finding::missing("cgroup programs", error.to_string(), privilege),
        },
        match (probe::lsm_bpf(), listed) {
            (Ok(()), Some(false)) => Finding::missing(
                "LSM programs",
                "they load, but `bpf` is not among the active security modules",
                "boot with `lsm=…,bpf`",
            ),
            (Ok(()), _) => Finding::good("LSM programs", "files and processes can be held in the kernel"),
            (Err(error), Some(true)) => Finding::missing(
                "LSM programs",
                format!("{error}, though `bpf` is among the active security modules"),
                "as root: a hypervisor, lockdown mode or container forbids them here; otherwise try as root",
            ),
            (Err(error), _) => Finding::missing(
                "LSM programs",
                error.to_string(),
                "needs root, CONFIG_BPF_LSM, CONFIG_DEBUG_INFO_BTF and booting with `lsm=…,bpf`",
            ),
        },
    ];
    Group { name: "bpf", about: "eBPF programs for one cgroup; binding, not used yet", findings }
}

fn read(file: &str) -> Option<String> {
    std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}
