//! The process between supervisor and agent: starts the agent, ends as it ends, and ends everything if the
//! supervisor is gone.
//!
//! It is the ancestor of the whole run: orphans become its children (prctl(2), `PR_SET_CHILD_SUBREAPER`), so that
//! descent never breaks and nothing can hide from it. It comes to be by fork in a process with threads, hence makes
//! system calls only: no allocation, no lock.

#![allow(unsafe_code, reason = "code between fork and exec is system calls; each block says why it is sound")]

use std::ffi::{CString, c_char, c_int};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};

use crate::cgroup::Hold;
use crate::filter::Instruction;
use crate::supervisor::PROBED;

/// Everything that guardian and agent need, made before the fork.
pub(crate) struct Prepared {
    pub(crate) program: CString,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: Option<CString>,
    pub(crate) filter: Vec<Instruction>,
    /// The agent's end of the link to the supervisor.
    pub(crate) link: RawFd,
    /// Reads end of file once the supervisor is gone.
    pub(crate) life: RawFd,
    /// The Landlock rule set that the agent enters, or -1.
    pub(crate) domain: RawFd,
    /// A file that Landlock keeps from being written, where there is a domain.
    pub(crate) forbidden: Option<CString>,
    /// The controlling terminal, or -1.
    pub(crate) terminal: RawFd,
    /// What stdin becomes, or -1 where it is inherited.
    pub(crate) stdin: RawFd,
    /// The limit on descriptors before the supervisor raised its own.
    pub(crate) descriptors: libc::rlimit,
    /// Bytes of private memory that each process may ask for; `RLIM_INFINITY` where it is not limited.
    pub(crate) memory: libc::rlim_t,
    /// The run's own cgroup.
    pub(crate) cgroup: Option<Hold>,
}

impl Prepared {
    /// Descriptors that the guardian needs of the cgroup, -1 for what is not there.
    fn cgroup_fds(&self) -> [RawFd; 3] {
        let raw = |fd: &OwnedFd| fd.as_raw_fd();
        self.cgroup.as_ref().map_or([-1; 3], |cgroup| {
            [raw(&cgroup.dir), cgroup.kill.as_ref().map_or(-1, raw), raw(&cgroup.base)]
        })
    }
}

/// Steps of the agent's start, as told to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Step {
    /// The filter is in; `value` is its listener in the agent.
    Filter = 1,
    /// A probe was refused as it should be; both were.
    Probed = 2,
    /// Something failed, with the errno; before the program.
    Domain = 10,
    /// Landlock let a forbidden file be opened.
    DomainLeaks = 11,
    /// The filter could not be installed.
    NoFilter = 12,
    /// A probe was not refused by us; the value is which.
    ProbeLeaks = 13,
    /// The working directory could not be entered.
    Directory = 14,
    /// The program could not be started.
    Exec = 15,
    /// There could be no process.
    Fork = 16,
    /// There could be none in the cgroup.
    Cgroup = 17,
}

/// One message over the link.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Message {
    pub(crate) step: i32,
    pub(crate) pid: i32,
    pub(crate) value: i32,
}

/// What the guardian works with after the fork: pointers into memory that lives as long as the process.
pub(crate) struct Raw<'a> {
    of: &'a Prepared,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
}

impl<'a> Raw<'a> {
    pub(crate) fn new(of: &'a Prepared) -> Self {
        let pointers = |strings: &[CString]| {
            strings.iter().map(|string| string.as_ptr()).chain([null()]).collect::<Vec<_>>()
        };
        Self { of, argv: pointers(&of.argv), env: pointers(&of.env) }
    }
}

/// Forks the guardian, which never returns.
///
/// # Errors
/// The kernel's.
pub(crate) fn start(raw: &Raw<'_>) -> std::io::Result<i32> {
    // SAFETY: the child runs `guard`, which makes only system calls on prepared memory and never returns.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => guard(raw),
        pid => Ok(pid),
    }
}

pub(crate) fn errno() -> c_int {
    // SAFETY: points to the calling thread's own errno.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn end(code: c_int) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

fn tell(link: RawFd, step: Step, value: i32) -> bool {
    let message = Message { step: step as i32, pid: std::process::id().cast_signed(), value };
    let len = size_of::<Message>();
    // SAFETY: `message` is a live struct of three integers without padding.
    unsafe { libc::write(link, (&raw const message).cast(), len) == len.cast_signed() }
}

/// Waits for the supervisor's go-ahead.
fn heard(link: RawFd) -> bool {
    let mut byte = 0u8;
    // SAFETY: one byte into a live one.
    unsafe { libc::read(link, (&raw mut byte).cast(), 1) == 1 }
}

/// Closes every descriptor from 3 on but these.
pub(crate) fn close_others(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from = 3u32;
    for fd in keep.iter().filter(|fd| **fd >= 3) {
        let fd = fd.unsigned_abs();
        if fd > from {
            // SAFETY: nothing in this process uses the descriptors of the process it was forked from.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd + 1;
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, 0) };
}

fn guard(raw: &Raw<'_>) -> ! {
    let of = raw.of;
    let [cgroup, cgroup_kill, cgroup_base] = of.cgroup_fds();
    close_others(&mut [of.link, of.life, of.domain, of.terminal, of.stdin, cgroup, cgroup_kill, cgroup_base]);
    // SAFETY: system calls on live local memory only; all of them are async-signal-safe.
    unsafe {
        let supervisor = libc::getppid();
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"failcore-guard".as_ptr(), 0, 0, 0);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, null_mut());
        let signals = libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        let group = libc::getpgrp();
        let foreground = of.terminal >= 0 && libc::tcgetpgrp(of.terminal) == group;

        let agent = fork_into(cgroup);
        if agent == 0 {
            libc::close(signals);
            libc::close(of.life);
            become_agent(raw, foreground);
        }
        if agent < 0 || signals < 0 {
            tell(of.link, if cgroup < 0 { Step::Fork } else { Step::Cgroup }, errno());
            kill_all(of);
            end(126);
        }
        libc::setpgid(agent, agent);
        if foreground {
            libc::tcsetpgrp(of.terminal, agent);
        }
        for fd in [of.link, of.domain, of.stdin] {
            if fd >= 0 {
                libc::close(fd);
            }
        }
        watch(of, supervisor, agent, group, signals)
    }
}

/// Waits for the agent's end or the supervisor's, passing signals on.
fn watch(of: &Prepared, supervisor: i32, agent: i32, group: i32, signals: RawFd) -> ! {
    loop {
        // SAFETY: system calls on live local memory.
        unsafe {
            let mut fds = [
                libc::pollfd { fd: of.life, events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: signals, events: libc::POLLIN, revents: 0 },
            ];
            libc::poll(fds.as_mut_ptr(), 2, -1);
            if fds[0].revents != 0 {
                kill_all(of);
                clear_away(of);
                end(137);
            }
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            while libc::read(signals, (&raw mut info).cast(), size_of::<libc::signalfd_siginfo>()) > 0 {
                let signal = info.ssi_signo.cast_signed();
                match signal {
                    libc::SIGCHLD => {}
                    libc::SIGCONT => resume(of, agent, group),
                    // The supervisor alone passes signals on; what came to the whole group came to it too.
                    _ if info.ssi_pid.cast_signed() == supervisor => {
                        libc::kill(agent, signal);
                    }
                    _ => {}
                }
            }
            loop {
                let mut status = 0;
                let pid = libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED);
                if pid <= 0 {
                    break;
                }
                if pid != agent {
                    continue;
                }
                if libc::WIFSTOPPED(status) {
                    // It wanted the terminal while a person is asked there, and will go on after that.
                    if matches!(libc::WSTOPSIG(status), libc::SIGTTIN | libc::SIGTTOU)
                        && of.terminal >= 0
                        && libc::tcgetpgrp(of.terminal) == group
                    {
                        continue;
                    }
                    stop(of, group);
                    resume(of, agent, group);
                    continue;
                }
                if of.terminal >= 0 && libc::tcgetpgrp(of.terminal) == agent {
                    libc::tcsetpgrp(of.terminal, group);
                }
                end_rest(of);
                end_like(status);
            }
        }
    }
}

/// The program ended: what it left behind is asked to end, and then made to. The supervisor cannot do this for us: it
/// may be dying at this very moment, and the program have ended because of that.
fn end_rest(of: &Prepared) {
    const GRACE_ROUNDS: u32 = 500;
    each_child(|pid| {
        // SAFETY: numbers only. One that was stopped hears nothing until it goes on.
        unsafe {
            libc::kill(pid, libc::SIGTERM);
            libc::kill(pid, libc::SIGCONT);
        }
    });
    for _ in 0..GRACE_ROUNDS {
        if !reap() {
            return;
        }
        let mut fd = libc::pollfd { fd: of.life, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd.
        if unsafe { libc::poll(&raw mut fd, 1, 2) } != 0 {
            break;
        }
    }
    kill_all(of);
}

/// The agent was stopped: so is the whole job, as the shell that started us sees it.
fn stop(of: &Prepared, group: i32) {
    if of.terminal < 0 {
        return;
    }
    // SAFETY: numbers only.
    unsafe {
        libc::tcsetpgrp(of.terminal, group);
        libc::kill(0, libc::SIGSTOP);
    }
}

/// The job goes on: in the foreground if we were put there.
fn resume(of: &Prepared, agent: i32, group: i32) {
    // SAFETY: numbers only.
    unsafe {
        if of.terminal >= 0 && libc::tcgetpgrp(of.terminal) == group {
            libc::tcsetpgrp(of.terminal, agent);
        }
        libc::kill(-agent, libc::SIGCONT);
    }
}

/// Ends as the agent ended.
fn end_like(status: c_int) -> ! {
    if libc::WIFEXITED(status) {
        end(libc::WEXITSTATUS(status));
    }
    let signal = libc::WTERMSIG(status);
    // SAFETY: system calls on live local memory; the default action ends this process.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(signal, libc::SIG_DFL);
        let mut only: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        libc::kill(libc::getpid(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const only, null_mut());
    }
    end(128 + signal)
}

/// Ends every process of the run: children first, then those that become children because their parents ended.
///
/// New processes cannot arise meanwhile for long: with the supervisor gone, every fork fails. Those of a cgroup end at
/// once, however they fork.
fn kill_all(of: &Prepared) {
    let [_, cgroup_kill, _] = of.cgroup_fds();
    loop {
        if cgroup_kill >= 0 {
            // SAFETY: one byte of a static string.
            unsafe { libc::write(cgroup_kill, c"1".as_ptr().cast(), 1) };
        }
        each_child(|pid| {
            // SAFETY: numbers only; a child's stays its own until we reap it.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        });
        if !reap() {
            return;
        }
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 500_000 };
        // SAFETY: one live timespec.
        unsafe { libc::nanosleep(&raw const nap, null_mut()) };
    }
}

/// Removes the cgroup, which nobody else is there to do any more.
fn clear_away(of: &Prepared) {
    // Some 20 seconds: on a machine with much to do it takes its time.
    const ROUNDS: u32 = 20_000;
    let Some(cgroup) = &of.cgroup else { return };
    for _ in 0..ROUNDS {
        // SAFETY: a live descriptor and a live string.
        let done =
            unsafe { libc::unlinkat(cgroup.base.as_raw_fd(), cgroup.name.as_ptr(), libc::AT_REMOVEDIR) };
        // Busy while the last processes are on their way out.
        if done == 0 || errno() != libc::EBUSY {
            return;
        }
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // SAFETY: one live timespec.
        unsafe { libc::nanosleep(&raw const nap, null_mut()) };
    }
}

/// As fork(2); into a cgroup from the first instruction on, where there is one.
///
/// # Safety
/// As fork(2) in a process that had threads: the child may only make system calls.
unsafe fn fork_into(cgroup: RawFd) -> i32 {
    const INTO_CGROUP: u64 = 0x2_0000_0000; // CLONE_INTO_CGROUP
    if cgroup < 0 {
        // SAFETY: the caller's promise.
        return unsafe { libc::fork() };
    }
    // SAFETY: plain integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.unsigned_abs().into();
    // SAFETY: a live struct of the size given; without CLONE_VM the child goes on with memory of its own.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    i32::try_from(pid).unwrap_or(-1)
}

/// Calls `act` with each of our children (proc_pid_task_children, see proc(5)).
fn each_child(act: impl Fn(i32)) {
    let mut text = [0u8; 4096];
    // SAFETY: system calls on a static string and live local memory.
    let len = unsafe {
        let fd = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return;
        }
        let len = libc::read(fd, text.as_mut_ptr().cast(), text.len());
        libc::close(fd);
        len
    };
    let mut pid = 0i32;
    // A number that the buffer cut off is not followed by a space, and is left for the next round.
    for byte in &text[..usize::try_from(len).unwrap_or(0)] {
        match byte {
            b'0'..=b'9' => pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0')),
            _ => {
                if pid > 1 {
                    act(pid);
                }
                pid = 0;
            }
        }
    }
}

/// Collects children that ended; whether any are left.
fn reap() -> bool {
    loop {
        // SAFETY: no status is asked for.
        match unsafe { libc::waitpid(-1, null_mut(), libc::WNOHANG) } {
            0 => return true,
            -1 => return errno() != libc::ECHILD,
            _ => {}
        }
    }
}

/// Turns into the program.
fn become_agent(raw: &Raw<'_>, foreground: bool) -> ! {
    let of = raw.of;
    let link = of.link;
    let fail = |step: Step, value: c_int| -> ! {
        tell(link, step, value);
        end(126)
    };
    // SAFETY: system calls on prepared or local memory, all async-signal-safe.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::setpgid(0, 0);
        if foreground {
            // All signals are blocked still, so that this does not stop us.
            libc::tcsetpgrp(of.terminal, libc::getpid());
        }
        if of.terminal >= 0 {
            libc::close(of.terminal);
        }
        if of.stdin >= 0 {
            libc::dup2(of.stdin, 0);
            libc::close(of.stdin);
        }
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const of.descriptors);
        if of.memory != libc::RLIM_INFINITY {
            let mut data = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::getrlimit(libc::RLIMIT_DATA, &raw mut data);
            // What is lower already stays so.
            data.rlim_cur = data.rlim_cur.min(of.memory);
            data.rlim_max = data.rlim_max.min(of.memory);
            libc::setrlimit(libc::RLIMIT_DATA, &raw const data);
        }
        // What the supervisor's language runtime changed for itself.
        for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGRTMAX() - 3] {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, null_mut());
        if let Some(cwd) = &of.cwd
            && libc::chdir(cwd.as_ptr()) != 0
        {
            fail(Step::Directory, errno());
        }
        // The supervisor copies this process's memory; it must be allowed to.
        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if of.domain >= 0 {
            if libc::syscall(libc::SYS_landlock_restrict_self, of.domain, 0) != 0 {
                fail(Step::Domain, errno());
            }
            libc::close(of.domain);
            if let Some(path) = &of.forbidden
                && libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) >= 0
            {
                fail(Step::DomainLeaks, 0);
            }
        }
        let listener = install(&of.filter);
        if listener < 0 {
            fail(Step::NoFilter, errno());
        }
        if !tell(link, Step::Filter, listener) || !heard(link) {
            end(126);
        }
        libc::close(listener);
        if let Err(which) = probe() {
            fail(Step::ProbeLeaks, which);
        }
        if !tell(link, Step::Probed, 0) || !heard(link) {
            end(126);
        }
        libc::fcntl(link, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::execve(of.program.as_ptr(), raw.argv.as_ptr(), raw.env.as_ptr());
        fail(Step::Exec, errno())
    }
}

/// Installs the filter; its listener.
fn install(filter: &[Instruction]) -> RawFd {
    use libc::{
        SECCOMP_FILTER_FLAG_NEW_LISTENER as LISTENER, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as WAIT_KILLABLE,
    };
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(0),
        filter: filter.as_ptr().cast_mut(),
    };
    for flags in [LISTENER | WAIT_KILLABLE, LISTENER] {
        // SAFETY: the kernel reads `program` and the instructions it points to, both alive.
        let fd = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        // The first flag set is for Linux 5.19 and later.
        if fd >= 0 || errno() != libc::EINVAL {
            return i32::try_from(fd).unwrap_or(-1);
        }
    }
    -1
}

/// Tries one open and one connect, which the supervisor refuses in its own way while nothing is allowed yet.
///
/// # Errors
/// Which of them was not refused that way.
fn probe() -> Result<(), c_int> {
    // SAFETY: system calls on static or local memory.
    unsafe {
        if libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) != -1 || errno() != PROBED {
            return Err(1);
        }
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let mut at: libc::sockaddr_un = std::mem::zeroed();
        at.sun_family = libc::AF_UNIX as libc::sa_family_t;
        at.sun_path[0] = b'/' as c_char;
        let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        if socket < 0 || libc::connect(socket, (&raw const at).cast(), len) != -1 || errno() != PROBED {
            return Err(2);
        }
        libc::close(socket);
    }
    Ok(())
}
