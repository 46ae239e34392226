//! Events on processes: programs that start, signals, limits, and the descriptors' back doors to them.

use std::borrow::Cow;

use failcore_gate::resolve::Follow;
use failcore_kernel::receiver;
use failcore_model::{Action, FileRef, Text};

use crate::decode_fs::resolve;
use crate::events::Judged;
use crate::hook_object::{Args, Object, Path};
use crate::hook_raise::Refusal;
use crate::{attach, expected, monitor, supervised};

/// `os.exec`, `os.posix_spawn` (path, argv, env), where no stand-in came before.
pub(crate) fn exec(args: Args<'_>) -> Judged {
    if expected::is_judged(args.get(0)) {
        return Ok(());
    }
    if attach::is_attached() {
        return Err(monitor::undecodable("os.exec", "the program is started past the gate").into());
    }
    let about = args.get(0);
    let path = match args.path(0) {
        Path::Bytes(bytes) => bytes,
        Path::Descriptor(fd) => Cow::Owned(format!("/proc/self/fd/{fd}").into_bytes()),
        _ => return Err(monitor::undecodable("os.exec", "a path must be a `str` or `bytes`").into()),
    };
    let image = resolve(None, &path, Follow::Final, about)?;
    let argv = args.get(1).and_then(Object::items).unwrap_or_default();
    let argv = argv
        .into_iter()
        .map(|item| item.os_bytes().map(|bytes| Text::from(&*bytes)))
        .collect::<Option<Vec<_>>>();
    let Some(argv) = argv else {
        return Err(monitor::undecodable("os.exec", "the arguments must be `str` or `bytes`").into());
    };
    start(image, argv, about)
}

/// Judges the start of a program.
pub(crate) fn start(image: FileRef, argv: Vec<Text>, about: Option<Object<'_>>) -> Judged {
    attach::preloadable(&image).map_err(|why| monitor::undecodable("process.exec", why))?;
    monitor::check(Action::Exec { image, argv }, &[])
        .map_err(|denial| Box::new(Refusal::of(denial).about(about, None)))
}

/// `os.system` (command).
pub(crate) fn system(args: Args<'_>) -> Judged {
    let Path::Bytes(command) = args.path(0) else {
        return Err(monitor::undecodable("os.system", "the command must be a `str` or `bytes`").into());
    };
    let shell = resolve(None, b"/bin/sh", Follow::Final, None)?;
    start(shell, vec!["sh".into(), "-c".into(), Text::from(&*command)], None)?;
    attach::force_own_environment();
    Ok(())
}

/// `os.fork`, `os.forkpty`: a supervisor keeps the child in the scope that the thread is in now.
pub(crate) fn fork(_: Args<'_>) -> Judged {
    supervised::tell_scope();
    Ok(())
}

/// `os.kill` (pid, signal).
pub(crate) fn kill(args: Args<'_>) -> Judged {
    let (Some(pid), Some(number)) = (args.int(0), args.int(1)) else {
        return Err(monitor::undecodable("os.kill", "process and signal must be numbers").into());
    };
    signal(pid, number)
}

/// `os.killpg` (pgid, signal).
pub(crate) fn killpg(args: Args<'_>) -> Judged {
    let (Some(group), Some(number)) = (args.int(0), args.int(1)) else {
        return Err(monitor::undecodable("os.killpg", "group and signal must be numbers").into());
    };
    signal(if group == 0 { 0 } else { -group }, number)
}

/// Judges a signal; number 0, which only asks whether somebody is there, like any other.
///
/// Where nobody is, nothing is sent: the number could be an outsider's by the time it is used.
pub(crate) fn signal(pid: i64, number: i64) -> Judged {
    // Finding out who is who would read files of /proc; the supervisor knows.
    if supervised::is_on() {
        return Ok(());
    }
    let (Ok(pid), Ok(number)) = (i32::try_from(pid), i32::try_from(number)) else { return Ok(()) };
    let Some(to) = receiver(pid, std::process::id(), monitor::in_run) else {
        return Err(Refusal::os(libc::ESRCH).into());
    };
    Ok(monitor::check(Action::Signal { to, pid, signal: number }, &[])?)
}

/// `resource.prlimit` (pid, resource, limits).
pub(crate) fn prlimit(args: Args<'_>) -> Judged {
    let Some(pid) = args.int(0) else {
        return Err(monitor::undecodable("resource.prlimit", "the process must be a number").into());
    };
    // Asking sets nothing.
    if args.get(2).is_none_or(Object::is_none) { Ok(()) } else { limit(pid) }
}

/// Judges a change of another process's limits or scheduling.
pub(crate) fn limit(pid: i64) -> Judged {
    if pid == 0 || pid == i64::from(std::process::id()) {
        return Ok(());
    }
    Ok(monitor::check(Action::Limit { pid: pid as i32 }, &[])?)
}

/// `fcntl.fcntl` (fd, command, argument): an owner gets signals when the descriptor is ready (fcntl(2)).
pub(crate) fn fcntl(args: Args<'_>) -> Judged {
    const F_SETOWN: i64 = 8;
    const F_SETSIG: i64 = 10;
    const F_SETOWN_EX: i64 = 15;
    match args.int(1) {
        Some(F_SETOWN) => owner(args),
        Some(F_SETOWN_EX) => signal(-1, i64::from(libc::SIGIO)),
        Some(F_SETSIG) | Some(_) => Ok(()),
        None => Err(monitor::undecodable("fcntl.fcntl", "the command must be a number").into()),
    }
}

/// Whoever is named to get a descriptor's signals; zero means nobody.
fn owner(args: Args<'_>) -> Judged {
    match args.int(2) {
        Some(0) => Ok(()),
        to => signal(to.unwrap_or(-1), i64::from(libc::SIGIO)),
    }
}

/// `fcntl.ioctl` (fd, request, argument): the few that reach beyond the descriptor.
pub(crate) fn ioctl(args: Args<'_>) -> Judged {
    let Some(request) = args.int(1) else {
        return Err(monitor::undecodable("fcntl.ioctl", "the request must be a number").into());
    };
    // Include/uapi/asm-generic/ioctls.h, linux/sockios.h, linux/fs.h
    match request & 0xffff_ffff {
        // Types into the terminal as if the user had: TIOCSTI, TIOCLINUX.
        0x5412 => Ok(monitor::check(Action::KernelCall("ioctl TIOCSTI".into()), &[])?),
        0x541C => Ok(monitor::check(Action::KernelCall("ioctl TIOCLINUX".into()), &[])?),
        // FIOSETOWN, SIOCSPGRP.
        0x8901 | 0x8902 => owner(args),
        // FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR: attributes of the open file.
        0x4008_6602 | 0x4004_6602 | 0x401c_5820 => {
            let fd = args.int(0).unwrap_or(-1);
            let file = resolve(None, format!("/proc/self/fd/{fd}").as_bytes(), Follow::Final, None)?;
            crate::decode_fs::judge(Action::Attr(file), None)
        }
        _ => Ok(()),
    }
}
