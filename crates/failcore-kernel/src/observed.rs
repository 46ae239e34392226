//! What a recording sees of a call: the paths it names, and what it opened or is about to run.
//!
//! Of a program that is recorded the supervisor is asked about calls that only look as well, which are let through.

#![allow(non_upper_case_globals, reason = "the calls bear the names that the kernel gave them")]

use std::sync::{Arc, PoisonError};

use libc::*;
use rustix::fs::OFlags;
use rustix::io::Errno;

use failcore_gate::{Naming, SinkError, SockAddr, Witness};
use failcore_model::input::Moment;

use crate::call::{Answer, Call, Reply};
use crate::memory;
use crate::metadata;
use crate::notify::last;
use crate::sockets;
use crate::walk::{self, View};

/// Calls that only look, some of them or all, and are asked about for a recording alone.
pub(crate) fn is_look(nr: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matches!(nr, SYS_open | SYS_stat | SYS_lstat | SYS_access | SYS_readlink | SYS_time | SYS_arch_prctl) {
        return true;
    }
    matches!(
        nr,
        // An open for the path alone.
        SYS_openat
            | SYS_newfstatat
            | SYS_statx
            | SYS_faccessat
            | SYS_faccessat2
            | SYS_readlinkat
            | SYS_chdir
            | SYS_statfs
            | SYS_getxattr
            | SYS_lgetxattr
            | SYS_listxattr
            | SYS_llistxattr
            // What a clock says, and chance.
            | SYS_clock_gettime
            | SYS_gettimeofday
            | SYS_getrandom
            // Every program begins with one of these, so that it is seen before it asks for anything.
            | SYS_set_tid_address
    )
}

/// Most random bytes that a call gives; it may give fewer than were asked for.
const MOST_RANDOM: usize = 1 << 20;

/// A path that a call names.
struct Look {
    dir: i32,
    path: usize,
    follow: bool,
}

const fn look(path: usize, follow: bool) -> Look {
    Look { dir: AT_FDCWD, path, follow }
}

/// The paths that a call names.
fn looks(call: &Call<'_>) -> [Option<Look>; 2] {
    let at = |dir: usize, follow| Some(Look { dir: call.int(dir), path: dir + 1, follow });
    let flag = |arg: usize, flag: i32| call.int(arg) & flag != 0;
    let itself = AT_SYMLINK_NOFOLLOW;
    let opened = |arg: usize| {
        let exclusive = OFlags::CREATE | OFlags::EXCL;
        let flags = OFlags::from_bits_retain(call.int(arg).cast_unsigned());
        !flags.contains(OFlags::NOFOLLOW) && !flags.contains(exclusive)
    };
    #[cfg(target_arch = "x86_64")]
    match call.notice.nr {
        SYS_open => return [Some(look(0, opened(1))), None],
        SYS_creat | SYS_stat | SYS_access | SYS_chmod | SYS_chown | SYS_utime | SYS_utimes => {
            return [Some(look(0, true)), None];
        }
        SYS_lstat | SYS_readlink | SYS_mkdir | SYS_rmdir | SYS_mknod | SYS_unlink | SYS_lchown => {
            return [Some(look(0, false)), None];
        }
        SYS_rename | SYS_link => return [Some(look(0, false)), Some(look(1, false))],
        SYS_symlink => return [Some(look(1, false)), None],
        SYS_futimesat => return [at(0, true), None],
        _ => {}
    }
    match call.notice.nr {
        SYS_openat => [at(0, opened(2)), None],
        SYS_openat2 | SYS_faccessat => [at(0, true), None],
        SYS_newfstatat | SYS_faccessat2 | SYS_utimensat => [at(0, !flag(3, itself)), None],
        SYS_statx => [at(0, !flag(2, itself)), None],
        SYS_readlinkat | SYS_mkdirat | SYS_mknodat | SYS_unlinkat => [at(0, false), None],
        SYS_fchmodat | SYS_fchmodat2 => [at(0, true), None],
        SYS_fchownat => [at(0, !flag(4, itself)), None],
        SYS_chdir | SYS_truncate | SYS_statfs | SYS_getxattr | SYS_listxattr | SYS_setxattr
        | SYS_removexattr | SYS_execve => [Some(look(0, true)), None],
        SYS_lgetxattr | SYS_llistxattr | SYS_lsetxattr | SYS_lremovexattr => [Some(look(0, false)), None],
        SYS_execveat => [at(0, !flag(4, itself)), None],
        SYS_inotify_add_watch => [Some(look(1, true)), None],
        SYS_renameat | SYS_renameat2 | SYS_linkat => [at(0, false), at(2, false)],
        SYS_symlinkat => [at(1, false), None],
        _ => [None, None],
    }
}

/// Sees to it that nothing which an image asks for stays unseen, the first time that it calls.
///
/// # Errors
/// `EIO` where that cannot be had.
pub(crate) fn image(call: &Call<'_>) -> Result<(), Errno> {
    let (image, process) = (call.process.image(), &call.process);
    let mut rewritten = process.rewritten.lock().unwrap_or_else(PoisonError::into_inner);
    if rewritten.as_ref().is_some_and(|known| Arc::ptr_eq(known, &image)) {
        return Ok(());
    }
    if let Some(rewriter) = &call.shared.rewriter {
        rewriter.rewrite(process.pid).map_err(|_| Errno::IO)?;
    }
    *rewritten = Some(image);
    Ok(())
}

/// Lets a call through that only looks; what nobody but this thread is told comes from the recording.
///
/// # Errors
/// As the call itself fails, and as [`before`].
pub(crate) fn tell(call: &Call<'_>, witness: &dyn Witness) -> Reply {
    let thread = || call.shared.voices.of(&call.process, call.tid());
    let time = |clock: i32| {
        let asks = match call.shared.callers.of(call.process.pid, call.tid()) {
            Some(code) => format!("{} {code}", thread()),
            None => thread(),
        };
        witness.clock(&asks, clock, now(call, clock)?).map_err(lost)
    };
    #[cfg(target_arch = "x86_64")]
    if call.notice.nr == SYS_time {
        let at = time(CLOCK_REALTIME)?.s;
        if call.arg(0) != 0 {
            memory::write(call.tid(), call.arg(0), &at.to_ne_bytes())?;
        }
        return Ok(Answer::Value(at));
    }
    match call.notice.nr {
        SYS_clock_gettime if (0..=CLOCK_TAI).contains(&call.int(0)) => {
            let at = time(call.int(0))?;
            memory::write(call.tid(), call.arg(1), &pair(at.s, at.ns.into()))?;
        }
        SYS_gettimeofday => {
            let at = time(CLOCK_REALTIME)?;
            if call.arg(0) != 0 {
                memory::write(call.tid(), call.arg(0), &pair(at.s, i64::from(at.ns / 1000)))?;
            }
            if call.arg(1) != 0 {
                memory::write(call.tid(), call.arg(1), &[0; 8])?;
            }
        }
        SYS_getrandom if call.int(2) & !7 == 0 => {
            let len = usize::try_from(call.arg(1)).unwrap_or(usize::MAX).min(MOST_RANDOM);
            let bytes = random(witness, &thread(), len)?;
            memory::write(call.tid(), call.arg(0), &bytes)?;
            return Ok(Answer::Value(i64::try_from(bytes.len()).unwrap_or_default()));
        }
        _ if witness.plays() && metadata::tell(call, witness) => {}
        _ => return Ok(Answer::Proceed),
    }
    Ok(Answer::Value(0))
}

/// Random bytes for a thread, as a recording has them.
///
/// # Errors
/// As [`before`].
pub(crate) fn random(witness: &dyn Witness, thread: &str, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    let flags = rustix::rand::GetRandomFlags::empty();
    let mut filled = 0;
    while filled < len {
        filled += rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes[filled..], flags))?;
    }
    witness.random(thread, bytes).map_err(lost)
}

/// Two words, as `struct timespec` and `struct timeval` are.
fn pair(one: i64, other: i64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&one.to_ne_bytes());
    bytes[8..].copy_from_slice(&other.to_ne_bytes());
    bytes
}

/// What the task's clock says.
#[allow(unsafe_code, reason = "rustix reads only one's own clocks")]
fn now(call: &Call<'_>, clock: i32) -> Result<Moment, Errno> {
    // The processor time of another process or thread has a clock by its number (clock_getcpuclockid(3)).
    let id = match clock {
        CLOCK_PROCESS_CPUTIME_ID => !call.process.pid.cast_signed() << 3 | 2,
        CLOCK_THREAD_CPUTIME_ID => !call.tid().cast_signed() << 3 | 4 | 2,
        other => other,
    };
    let mut at = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to a live one.
    match unsafe { clock_gettime(id, &raw mut at) } {
        0 => Ok(Moment { s: at.tv_sec, ns: u32::try_from(at.tv_nsec).unwrap_or_default() }),
        _ => Err(last()),
    }
}

/// Tells a recording which paths a call names, before it is made; `looks_only` says whether it does no more than that.
///
/// # Errors
/// `EIO` where it cannot be kept: then nothing is learnt.
pub(crate) fn before(call: &Call<'_>, witness: &dyn Witness, looks_only: bool) -> Result<(), Errno> {
    let who = || call.process.claims(call.tid());
    let named = |dir: i32, asked: &[u8], follow: bool| {
        let Some(from) = start(call, dir, asked) else { return Ok(()) };
        let kept = match looks_only {
            true => witness.asks(&from, asked, follow, &who),
            false => witness.looks(&from, asked, follow),
        };
        kept.map_err(lost)
    };
    // What the call itself fails with is for the call to find.
    for Look { dir, path, follow } in looks(call).into_iter().flatten() {
        if let Ok(asked) = call.path_at(call.arg(path)) {
            named(dir, &asked, follow)?;
            if call.notice.nr == SYS_truncate
                && let Some(from) = start(call, dir, &asked)
            {
                witness.cuts(&from, &asked).map_err(lost)?;
            }
        }
    }
    if matches!(call.notice.nr, SYS_connect | SYS_bind)
        && let Ok(bytes) = sockets::copied(call, call.arg(1), call.int(2))
        && let SockAddr::UnixPath(asked) = SockAddr::decode(&bytes)
    {
        named(AT_FDCWD, asked.as_bytes(), call.notice.nr == SYS_connect)?;
    }
    Ok(())
}

/// What a path that is asked for starts from; nothing, where that is nowhere.
fn start(call: &Call<'_>, dir: i32, asked: &[u8]) -> Option<Vec<u8>> {
    match asked {
        [] => None,
        [b'/', ..] => Some(Vec::new()),
        _ => directory(call, dir),
    }
}

/// The path of the directory that a relative path starts from.
fn directory(call: &Call<'_>, dir: i32) -> Option<Vec<u8>> {
    let fd = call.directory(dir).ok()?;
    Some(walk::real_path(std::os::fd::AsFd::as_fd(&fd)).ok()?.as_bytes().to_vec())
}

/// Tells a recording what a call that was granted is about to give the program.
///
/// # Errors
/// As [`before`].
pub(crate) fn after(call: &Call<'_>, witness: &dyn Witness, reply: Reply) -> Reply {
    match &reply {
        Ok(Answer::Descriptor { fd, .. }) => {
            witness.opens(std::os::fd::AsFd::as_fd(fd)).map_err(lost)?;
        }
        Ok(Answer::Value(0)) => {
            let Some(how) = naming(call) else { return reply };
            let places = looks(call).map(|look| {
                let Look { dir, path, .. } = look?;
                let asked = call.path_at(call.arg(path)).ok()?;
                Some([&start(call, dir, &asked)?[..], b"/", &asked].concat())
            });
            if let [Some(from), Some(to)] = places {
                witness.named(&from, &to, how).map_err(lost)?;
            }
        }
        Ok(Answer::Proceed) if matches!(call.notice.nr, SYS_execve | SYS_execveat) => {
            for Look { dir, path, .. } in looks(call).into_iter().flatten() {
                let asked = call.path_at(call.arg(path))?;
                if let Some(from) = start(call, dir, &asked) {
                    witness.runs(&from, &asked).map_err(lost)?;
                }
            }
        }
        _ => {}
    }
    reply
}

/// How a call gives something another name; nothing of others.
fn naming(call: &Call<'_>) -> Option<Naming> {
    #[cfg(target_arch = "x86_64")]
    match call.notice.nr {
        SYS_rename => return Some(Naming::Moved),
        SYS_link => return Some(Naming::Linked),
        _ => {}
    }
    match call.notice.nr {
        SYS_renameat2 if call.int(4).cast_unsigned() & RENAME_EXCHANGE != 0 => Some(Naming::Exchanged),
        SYS_renameat | SYS_renameat2 => Some(Naming::Moved),
        SYS_linkat => Some(Naming::Linked),
        _ => None,
    }
}

pub(crate) fn lost(_: SinkError) -> Errno {
    Errno::IO
}
