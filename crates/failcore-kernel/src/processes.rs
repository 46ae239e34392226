//! Processes: signals, tracing, limits of others. Numbers in registers are all these calls go by, so that what is
//! allowed the kernel performs itself.

#![allow(
    unsafe_code,
    reason = "rustix sends neither real-time signals nor what goes with one; the block says why it is sound"
)]

use std::os::fd::{AsRawFd, OwnedFd};

use failcore_model::{Action, SignalTarget, Text};
use rustix::io::Errno;

use crate::call::{Answer, Call, Reply};
use crate::guardian::errno;
use crate::memory;
use crate::receiver::receiver;
use crate::tasks::status_number;
use crate::walk::View;

/// `kill(pid, signal)`; zero and negative numbers mean groups.
pub(crate) fn kill(call: &Call<'_>) -> Reply {
    signal(call, call.int(0), call.int(1))
}

/// `tkill(tid, signal)`.
pub(crate) fn tkill(call: &Call<'_>) -> Reply {
    let tid = call.int(0);
    if tid <= 0 {
        return Err(Errno::INVAL);
    }
    signal(call, process_of(tid)?, call.int(1))
}

/// `tgkill(pid, tid, signal)`.
pub(crate) fn tgkill(call: &Call<'_>) -> Reply {
    if call.int(0) <= 0 || call.int(1) <= 0 {
        return Err(Errno::INVAL);
    }
    signal(call, call.int(0), call.int(2))
}

/// `rt_sigqueueinfo(pid, signal, info)` and `rt_tgsigqueueinfo(pid, tid, signal, info)`.
pub(crate) fn queue(call: &Call<'_>) -> Reply {
    if call.int(0) <= 0 {
        return Err(Errno::PERM);
    }
    let number = if call.notice.nr == libc::SYS_rt_tgsigqueueinfo { 2 } else { 1 };
    signal(call, call.int(0), call.int(number))
}

/// `pidfd_send_signal(pidfd, signal, info, flags)`: performed on a duplicate, since the number of a descriptor can come
/// to mean another one.
pub(crate) fn by_descriptor(call: &Call<'_>) -> Reply {
    const GROUP: i32 = 1 << 2;
    const KNOWN: i32 = 1 | 1 << 1 | GROUP;
    /// Of a `siginfo_t` (asm-generic/siginfo.h).
    const INFO: usize = 128;
    let (number, at, flags) = (call.int(1), call.arg(2), call.int(3));
    if flags & !KNOWN != 0 || flags.count_ones() > 1 {
        return Err(Errno::INVAL);
    }
    let pidfd = call.duplicate(call.int(0))?;
    let pid = pid_of(&pidfd)?;
    if flags & GROUP != 0 {
        return Err(Errno::INVAL);
    }
    let info = if at == 0 { None } else { Some(memory::bytes(call.tid(), at, INFO)?) };
    let grant = call.judge(Action::Signal { to: target(call, pid)?, pid, signal: number })?;
    let info = info.as_ref().map_or(std::ptr::null(), |info| info.as_ptr());
    // SAFETY: `info` is nothing, or as many bytes as the kernel reads; the other arguments are numbers.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, info, flags) };
    let sent = if sent == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(errno())) };
    call.concluded(grant, sent)?;
    Ok(Answer::Value(0))
}

/// The process that a pidfd stands for (`Pid` in its fdinfo, see pidfd_open(2)).
fn pid_of(pidfd: &OwnedFd) -> Result<i32, Errno> {
    let info =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap_or_default();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    pid.ok_or(Errno::BADF).and_then(|pid| if pid > 0 { Ok(pid) } else { Err(Errno::SRCH) })
}

fn signal(call: &Call<'_>, pid: i32, signal: i32) -> Reply {
    let _grant = call.judge(Action::Signal { to: target(call, pid)?, pid, signal })?;
    Ok(Answer::Proceed)
}

/// Who a number means to the calling process.
fn target(call: &Call<'_>, pid: i32) -> Result<SignalTarget, Errno> {
    receiver(pid, call.tgid(), |pid| call.in_run(pid)).ok_or(Errno::SRCH)
}

fn process_of(tid: i32) -> Result<i32, Errno> {
    let pid = status_number(tid.unsigned_abs(), b"Tgid:").ok_or(Errno::SRCH)?;
    i32::try_from(pid).map_err(|_| Errno::SRCH)
}

/// `fcntl(fd, F_SETOWN, pid)`: whom signals about a descriptor go to.
pub(crate) fn owner(call: &Call<'_>) -> Reply {
    match call.int(2) {
        // Nobody.
        0 => Ok(Answer::Proceed),
        pid => signal(call, pid, libc::SIGIO),
    }
}

/// `process_madvise(pidfd, …)`: how the kernel treats its own memory a process may say; of another it is a reach into that.
pub(crate) fn advise(call: &Call<'_>) -> Reply {
    /// `PIDFD_SELF_THREAD` and `PIDFD_SELF_THREAD_GROUP` (linux/pidfd.h).
    const SELF: [i32; 2] = [-10000, -20000];
    if SELF.contains(&call.int(0)) || pid_of(&call.duplicate(call.int(0))?)?.cast_unsigned() == call.tgid() {
        return Ok(Answer::Proceed);
    }
    reach(call)
}

/// Calls that reach into another process's memory, descriptors or registers: refused, whatever the policy says.
pub(crate) fn reach(call: &Call<'_>) -> Reply {
    let pid = match call.notice.nr {
        libc::SYS_ptrace => call.int(1),
        libc::SYS_pidfd_getfd | libc::SYS_process_mrelease | libc::SYS_process_madvise => -1,
        _ => call.int(0),
    };
    let _ = call.judge(Action::Trace { pid });
    Err(Errno::PERM)
}

/// Limits, priority and placement of another process; one's own by number is free.
pub(crate) fn limit(call: &Call<'_>) -> Reply {
    let pid = match (call.notice.nr, call.int(0)) {
        // `which` says whether it is a process, a group or a user; of anything else the kernel knows nothing.
        (libc::SYS_setpriority, which) if !(0..3).contains(&which) => return Ok(Answer::Proceed),
        (libc::SYS_ioprio_set, which) if !(1..4).contains(&which) => return Ok(Answer::Proceed),
        (libc::SYS_setpriority, 1 | 2) | (libc::SYS_ioprio_set, 2 | 3) => -1,
        (libc::SYS_setpriority | libc::SYS_ioprio_set, _) => call.int(1),
        (_, pid) => pid,
    };
    let own = pid == 0 || (pid > 0 && process_of(pid).is_ok_and(|pid| pid.unsigned_abs() == call.tgid()));
    if own {
        return Ok(Answer::Proceed);
    }
    let _grant = call.judge(Action::Limit { pid })?;
    // Granted or not, no further than the run.
    if pid <= 0 || !call.in_run(pid.unsigned_abs()) {
        let _ = call.judge(Action::KernelCall(Text::from("limit outside the run")));
        return Err(Errno::PERM);
    }
    Ok(Answer::Proceed)
}
