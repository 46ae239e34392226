//! Stand-ins on processes: what is started is what was judged, and it starts with the gate.

use failcore_gate::resolve::Follow;
use failcore_model::{Action, FileRef, Text};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::decode_fs::{judge, resolve, rights};
use crate::decode_process::{limit, signal, start};
use crate::events::Judged;
use crate::hook_call::Call;
use crate::hook_make as make;
use crate::hook_object::Object;
use crate::hook_raise::Refusal;
use crate::patched_fs::{lost, settle, settle_int};
use crate::{attach, expected, hook_context, monitor, supervised};

fn unreadable(event: &str, what: &str) -> Box<Refusal> {
    monitor::undecodable(event, what).into()
}

fn texts(argv: &[Vec<u8>]) -> Vec<Text> {
    argv.iter().map(Text::from).collect()
}

/// Replaces an argument vector by what it is now, as a list of `bytes`.
fn settle_argv(call: &mut Call, index: usize, name: &str) -> Result<Vec<Vec<u8>>, Box<Refusal>> {
    let argv = call.get(index, name).map_or_else(|| Ok(Vec::new()), make::fs_list)?;
    replace_list(call, index, name, &argv)?;
    Ok(argv)
}

fn replace_list(call: &mut Call, index: usize, name: &str, items: &[Vec<u8>]) -> Judged {
    let list = make::list(items.iter().map(Vec::as_slice));
    call.replace(index, name, list).map_err(|()| lost())
}

/// `_posixsubprocess.fork_exec(args, executable_list, close_fds, fds_to_keep, cwd, env_list, …)`.
///
/// The child tries each candidate in turn: the first that can run is judged, and the child gets that one alone. Where
/// none can, the child reports why, as without the gate, from a name that stays unable to.
pub(crate) fn fork_exec(call: &mut Call) -> Judged {
    if call.get(5, "").is_none() {
        return Ok(()); // too few arguments, which the function itself refuses
    }
    // What a refusal names, as `subprocess` does: the program as it was called.
    let called =
        call.get(0, "").and_then(Object::items).and_then(|items| items.first().copied().map(make::again));
    let called = called.and_then(|called| call.take(called));
    let argv = settle_argv(call, 0, "")?;
    let candidates = call.get(1, "").map_or_else(|| Ok(Vec::new()), make::fs_list)?;
    let cwd = match call.get(4, "").filter(|cwd| !cwd.is_none()) {
        None => None,
        Some(cwd) => {
            let cwd = make::fs_bytes(cwd)?;
            call.settle(4, "", make::bytes(&cwd)).map_err(|()| lost())?;
            Some(cwd)
        }
    };
    match call.get(5, "").filter(|env| !env.is_none()) {
        None => attach::force_own_environment(),
        Some(env) => {
            let mut env = make::fs_list(env)?;
            attach::force_lines(&mut env);
            replace_list(call, 5, "", &env)?;
        }
    }
    // What the child runs before the program can change its environment and its working directory.
    let preparation = preparation(call);
    if let Some(index) = preparation {
        let prepared = call.get(index, "").and_then(make::prepare).ok_or_else(lost)?;
        call.replace(index, "", prepared).map_err(|()| lost())?;
    }
    let (program, image) = match first_runnable(&candidates, cwd.as_deref())? {
        Found::Program(program, image) => (program, image),
        // A supervisor judges whatever the child tries.
        Found::Nothing(_) if supervised::is_on() => return replace_list(call, 1, "", &candidates),
        Found::Nothing(errno) => {
            let Some(never) = never(errno) else { return Err(Refusal::os(errno).into()) };
            return replace_list(call, 1, "", &[never]);
        }
    };
    let about = match called {
        Some(called) if argv.first().is_some_and(|argv0| names(&program, argv0)) => Some(called),
        _ => call.take(make::fs_text(&program)?),
    };
    let forced = through_env(&image, &argv)?;
    start(image, texts(&argv), about)?;
    if let Some(argv) = forced {
        replace_list(call, 0, "", &argv)?;
    }
    let program = if preparation.is_some() { absolute(&program, cwd.as_deref())? } else { program };
    replace_list(call, 1, "", &[program])
}

/// The place of a `preexec_fn`: behind the number `umask`, which is the 20th or, from 3.11, the 21st argument.
fn preparation(call: &Call) -> Option<usize> {
    let index = if hook_context::minor_version() < 11 { 20 } else { 21 };
    call.get(index, "").filter(|function| !function.is_none()).map(|_| index)
}

/// A candidate by a name that does not depend on the working directory.
fn absolute(program: &[u8], cwd: Option<&[u8]>) -> Result<Vec<u8>, Box<Refusal>> {
    let own =
        std::env::current_dir().map_err(|error| Refusal::os(error.raw_os_error().unwrap_or(libc::ENOENT)))?;
    let path = own.join(crate::decode_fs::os(cwd.unwrap_or_default())).join(crate::decode_fs::os(program));
    Ok(path.into_os_string().into_encoded_bytes())
}

/// Whether a candidate is what a program's name stands for: itself, or found by it on `PATH`.
fn names(candidate: &[u8], name: &[u8]) -> bool {
    candidate == name || (!name.contains(&b'/') && candidate.rsplit(|b| *b == b'/').next() == Some(name))
}

/// What a search for a program came to.
enum Found {
    /// A candidate and its image.
    Program(Vec<u8>, FileRef),
    /// The error that execve(2) would end in.
    Nothing(i32),
}

/// The first candidate that the child could execute, as execve(2) would find it from its directory.
fn first_runnable(candidates: &[Vec<u8>], cwd: Option<&[u8]>) -> Result<Found, Box<Refusal>> {
    let cwd_errno = cwd.and_then(|cwd| directory_error(crate::decode_fs::os(cwd)));
    if let Some(errno) = cwd_errno {
        return Ok(Found::Nothing(errno));
    }
    let (mut first, mut last) = (None, libc::ENOENT);
    for candidate in candidates {
        let whole = match cwd {
            Some(cwd) if !candidate.starts_with(b"/") => [cwd, b"/", candidate].concat(),
            _ => candidate.clone(),
        };
        let path = crate::decode_fs::os(&whole);
        match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            // A directory can be searched, and not executed.
            Ok(()) if std::fs::metadata(path).is_ok_and(|file| file.is_dir()) => last = libc::EACCES,
            Ok(()) => {
                return Ok(Found::Program(candidate.clone(), resolve(None, &whole, Follow::Final, None)?));
            }
            Err(error) => last = error.raw_os_error(),
        }
        if !matches!(last, libc::ENOENT | libc::ENOTDIR) {
            first.get_or_insert(last);
        }
    }
    Ok(Found::Nothing(first.unwrap_or(last)))
}

/// Why the child could not enter a directory.
fn directory_error(cwd: &std::path::Path) -> Option<i32> {
    match accessat(CWD, cwd, Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) if std::fs::metadata(cwd).is_ok_and(|at| at.is_dir()) => None,
        Ok(()) => Some(libc::ENOTDIR),
        Err(errno) => Some(errno.raw_os_error()),
    }
}

/// A name that execve(2) refuses with this error, whatever anyone makes meanwhile; `None` where there is none.
fn never(errno: i32) -> Option<Vec<u8>> {
    match errno {
        libc::ENOENT => Some(Vec::new()),
        libc::EACCES => Some(b"/".to_vec()),                // a directory
        libc::ENOTDIR => Some(b"/proc/self/exe/".to_vec()), // no directory
        libc::ENAMETOOLONG => Some([&b"/"[..], &[b'x'; libc::PATH_MAX as usize]].concat()),
        _ => None,
    }
}

/// `os.execv(path, argv)`.
pub(crate) fn execv(call: &mut Call) -> Judged {
    exec(call, "os.execv", false)?;
    attach::force_own_environment();
    Ok(())
}

/// `os.execve(path, argv, env)`.
pub(crate) fn execve(call: &mut Call) -> Judged {
    exec(call, "os.execve", true)?;
    settle_env(call, "os.execve")
}

/// `os.posix_spawn(path, argv, env, *, file_actions=…, …)`.
pub(crate) fn spawn(call: &mut Call) -> Judged {
    file_actions(call)?;
    exec(call, "os.posix_spawn", false)?;
    settle_env(call, "os.posix_spawn")
}

/// `os.posix_spawnp(path, argv, env, …)`: the C library searches `PATH`; it gets the result of ours.
pub(crate) fn spawnp(call: &mut Call) -> Judged {
    settle(call, 0, "path")?;
    let Some(name) = call.get(0, "path") else { return Ok(()) };
    let name = make::fs_bytes(name)?;
    if !name.contains(&b'/') {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        let candidates: Vec<_> = path
            .as_encoded_bytes()
            .split(|b| *b == b':')
            .map(|dir| [if dir.is_empty() { b"." } else { dir }, b"/", &name].concat())
            .collect();
        match first_runnable(&candidates, None)? {
            Found::Program(program, _) => {
                call.settle(0, "path", make::bytes(&program)).map_err(|()| lost())?
            }
            Found::Nothing(errno) => return Err(Refusal::os(errno).about(call.get(0, "path"), None).into()),
        }
    }
    spawn(call)
}

/// Judges the program of an exec call and leaves only what was judged in it. `by_descriptor` says whether the
/// function takes a descriptor for it.
fn exec(call: &mut Call, event: &str, by_descriptor: bool) -> Judged {
    let Some(object) = call.get(0, "path") else { return Ok(()) };
    let path = match object.int().filter(|_| by_descriptor) {
        Some(fd) => format!("/proc/self/fd/{fd}").into_bytes(),
        None => {
            settle(call, 0, "path")?;
            let path = call.get(0, "path").map_or_else(|| Ok(Vec::new()), make::fs_bytes)?;
            call.settle(0, "path", make::bytes(&path)).map_err(|()| lost())?;
            path
        }
    };
    if !call.get(1, "argv").is_some_and(|argv| argv.is_tuple() || argv.is_list()) {
        return Err(Refusal::wrong_type(format!("{event}: argv must be a tuple or list")).into());
    }
    let argv = settle_argv(call, 1, "argv")?;
    if argv.first().is_none_or(Vec::is_empty) {
        return Err(Refusal::value(format!("{event}: argv must not be empty, nor its first element")).into());
    }
    let about = call.get(0, "path");
    let image = resolve(None, &path, Follow::Final, about)?;
    if !image.exists {
        let errno = rustix::fs::stat(&*path).err().unwrap_or(rustix::io::Errno::NOENT);
        // `execv` alone says nothing of a file.
        let about = about.filter(|_| event != "os.execv");
        return Err(Refusal::os(errno.raw_os_error()).about(about, None).into());
    }
    let forced = through_env(&image, &argv)?;
    start(image, texts(&argv), about)?;
    if let Some(argv) = forced {
        replace_list(call, 1, "argv", &argv)?;
    }
    let judged = call.raw(0, "path").map_or(0, |path| path as usize);
    call.keep(expected::note_judged(judged));
    Ok(())
}

/// The arguments of an env(1) that is to pass the gate on.
fn through_env(image: &FileRef, argv: &[Vec<u8>]) -> Result<Option<Vec<Vec<u8>>>, Box<Refusal>> {
    attach::force_arguments(&image.path, argv).map_err(|why| unreadable("process.exec", why))
}

fn settle_env(call: &mut Call, event: &str) -> Judged {
    let Some(env) = call.get(2, "env").filter(|env| !env.is_none()) else {
        attach::force_own_environment();
        return Ok(());
    };
    if !make::is_mapping(env) {
        return Err(Refusal::wrong_type(format!("{event}: environment must be a mapping object")).into());
    }
    let mut env = make::fs_mapping(env)?;
    attach::force_pairs(&mut env);
    call.replace(2, "env", make::dictionary(&env)).map_err(|()| lost())
}

/// The `POSIX_SPAWN_OPEN` actions of a posix_spawn open files in the child, where no event tells.
fn file_actions(call: &mut Call) -> Judged {
    const OPEN: i64 = 0; // POSIX_SPAWN_OPEN (Modules/posixmodule.c)
    const NOWHERE: usize = usize::MAX;
    let Some(actions) = call.get(NOWHERE, "file_actions").filter(|actions| !actions.is_none()) else {
        return Ok(());
    };
    let unknown = || unreadable("os.posix_spawn", "file actions must be a tuple or list of tuples");
    let copied = make::sequence(actions)?;
    call.replace(NOWHERE, "file_actions", copied).map_err(|()| lost())?;
    let actions = call.get(NOWHERE, "file_actions").and_then(Object::items).ok_or_else(unknown)?;
    for action in actions {
        let Some(tag) = action.item(0) else { return Ok(()) }; // the function itself refuses it
        match tag.int() {
            Some(OPEN) => {}
            Some(_) => continue,
            None => {
                make::number(tag)?;
                return Err(unknown());
            }
        }
        let about = action.item(2);
        let path = about.and_then(Object::os_bytes).ok_or_else(unknown)?;
        if path.contains(&0) {
            return Ok(()); // so it does
        }
        let flags = action.item(3).and_then(Object::int).ok_or_else(unknown)? as i32;
        let file = resolve(None, &path, Follow::Final, about)?;
        let rights = rights(flags, file.exists);
        judge(Action::Open { file, rights }, about)?;
    }
    Ok(())
}

fn kernel(name: &str) -> Judged {
    Ok(monitor::check(Action::KernelCall(name.into()), &[])?)
}

/// `os.chroot(path)`.
pub(crate) fn chroot(call: &mut Call) -> Judged {
    kernel("chroot").map_err(|refusal| Box::new(refusal.about(call.get(0, "path"), None)))
}

/// `os.unshare(flags)`.
pub(crate) fn unshare(_: &mut Call) -> Judged {
    kernel("unshare")
}

/// `os.setns(fd, nstype=0)`.
pub(crate) fn setns(_: &mut Call) -> Judged {
    kernel("setns")
}

/// `os.setpriority(which, who, priority)`: of groups and users it is not known who belongs to them.
pub(crate) fn setpriority(call: &mut Call) -> Judged {
    const PROCESS: i64 = 0; // PRIO_PROCESS
    match (settle_int(call, 0, "which")?, settle_int(call, 1, "who")?) {
        (Some(PROCESS), Some(pid)) => limit(pid),
        (Some(_), Some(_)) => limit(-1),
        _ => Ok(()),
    }
}

/// `os.sched_setscheduler(pid, …)`, `os.sched_setparam(pid, …)`, `os.sched_setaffinity(pid, …)`.
pub(crate) fn scheduling(call: &mut Call) -> Judged {
    settle_int(call, 0, "pid")?.map_or(Ok(()), limit)
}

/// `signal.pidfd_send_signal(pidfd, signalnum, …)`.
pub(crate) fn pidfd_send_signal(call: &mut Call) -> Judged {
    if supervised::is_on() {
        return Ok(());
    }
    let (Some(fd), Some(number)) = (settle_int(call, 0, "pidfd")?, settle_int(call, 1, "signalnum")?) else {
        return Ok(()); // no numbers that a descriptor or signal has
    };
    // proc_pid_fdinfo(5): the process behind the descriptor; −1 where it is gone, 0 where it cannot be seen from here.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    match pid {
        Some(-1) => Err(Refusal::os(libc::ESRCH).into()),
        Some(pid @ 1..) => signal(pid, number),
        Some(_) => signal(-1, number),
        // A directory of /proc means a process as well.
        None if std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|file| file.is_dir()) => {
            signal(-1, number)
        }
        None => Err(Refusal::os(libc::EBADF).into()),
    }
}
