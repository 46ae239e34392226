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
use crate::patched_fs::lost;
use crate::{attach, expected, monitor, supervised};

fn unreadable(event: &str, what: &str) -> Box<Refusal> {
    monitor::undecodable(event, what).into()
}

fn texts(argv: &[Vec<u8>]) -> Vec<Text> {
    argv.iter().map(Text::from).collect()
}

/// Replaces an argument vector by what it is now, as a list of `bytes`.
fn settle_argv(call: &mut Call, index: usize, name: &str, event: &str) -> Result<Vec<Vec<u8>>, Box<Refusal>> {
    let Some(argv) = call.get(index, name).and_then(make::fs_list) else {
        return Err(unreadable(event, "the arguments must be `str`, `bytes` or paths"));
    };
    let list = make::list(argv.iter().map(Vec::as_slice));
    call.replace(index, name, list).map_err(|()| lost())?;
    Ok(argv)
}

/// `_posixsubprocess.fork_exec(args, executable_list, close_fds, fds_to_keep, cwd, env_list, …)`.
///
/// The child tries each candidate in turn: the first that can run is judged, and the child gets that one alone.
pub(crate) fn fork_exec(call: &mut Call) -> Judged {
    const EVENT: &str = "_posixsubprocess.fork_exec";
    // What `subprocess` names as the file that was not found.
    let asked =
        call.get(0, "").and_then(Object::items).and_then(|items| items.first().copied().map(make::again));
    if let Some(asked) = asked {
        call.own(asked);
    }
    let argv = settle_argv(call, 0, "", EVENT)?;
    let Some(candidates) = call.get(1, "").and_then(make::fs_list) else {
        return Err(unreadable(EVENT, "the program must be `str`, `bytes` or a path"));
    };
    let cwd = match call.get(4, "").filter(|cwd| !cwd.is_none()) {
        None => None,
        Some(cwd) => {
            Some(make::fs_bytes(cwd).ok_or_else(|| unreadable(EVENT, "the directory must be a path"))?)
        }
    };
    if let Some(cwd) = &cwd {
        call.replace(4, "", make::bytes(cwd)).map_err(|()| lost())?;
        if !std::fs::metadata(crate::decode_fs::os(cwd)).is_ok_and(|at| at.is_dir()) {
            // The child cannot enter it and ends before any program starts.
            return Ok(());
        }
    }
    let asked = asked.and_then(|asked| call.owned(asked));
    let (program, image) = first_runnable(&candidates, cwd.as_deref())
        .map_err(|refusal| Box::new(refusal.about(asked, None)))?;
    let forced = through_env(&image, &argv)?;
    start(image, texts(&argv), asked)?;
    if let Some(argv) = forced {
        let list = make::list(argv.iter().map(Vec::as_slice));
        call.replace(0, "", list).map_err(|()| lost())?;
    }
    let only = make::tuple(&[make::bytes(&program)]);
    call.replace(1, "", only).map_err(|()| lost())?;
    match call.get(5, "").filter(|env| !env.is_none()) {
        None => attach::force_own_environment(),
        Some(env) => {
            let Some(mut env) = make::fs_list(env) else {
                return Err(unreadable(EVENT, "the environment must be `bytes`"));
            };
            attach::force_lines(&mut env);
            let env = make::list(env.iter().map(Vec::as_slice));
            call.replace(5, "", env).map_err(|()| lost())?;
        }
    }
    Ok(())
}

/// The first candidate that the child could execute, as execve(2) would find it from its directory.
fn first_runnable(candidates: &[Vec<u8>], cwd: Option<&[u8]>) -> Result<(Vec<u8>, FileRef), Box<Refusal>> {
    let mut errno = libc::ENOENT;
    for candidate in candidates {
        let whole = match cwd {
            Some(cwd) if !candidate.starts_with(b"/") => [cwd, b"/", candidate].concat(),
            _ => candidate.clone(),
        };
        let path = crate::decode_fs::os(&whole);
        match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) if std::fs::metadata(path).is_ok_and(|file| file.is_dir()) => errno = libc::EACCES,
            Ok(()) => return Ok((candidate.clone(), resolve(None, &whole, Follow::Final, None)?)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(error) => errno = error.raw_os_error(),
        }
    }
    // What the child would report.
    Err(Refusal::os(errno).into())
}

/// `os.execv(path, argv)`.
pub(crate) fn execv(call: &mut Call) -> Judged {
    exec(call, "os.execv")?;
    attach::force_own_environment();
    Ok(())
}

/// `os.execve(path, argv, env)`.
pub(crate) fn execve(call: &mut Call) -> Judged {
    exec(call, "os.execve")?;
    settle_env(call, "os.execve")
}

/// `os.posix_spawn(path, argv, env, *, file_actions=…, …)`.
pub(crate) fn spawn(call: &mut Call) -> Judged {
    file_actions(call)?;
    exec(call, "os.posix_spawn")?;
    settle_env(call, "os.posix_spawn")
}

/// `os.posix_spawnp(path, argv, env, …)`: the C library searches `PATH`; it gets the result of ours.
pub(crate) fn spawnp(call: &mut Call) -> Judged {
    let Some(name) = call.get(0, "path").and_then(make::fs_bytes) else { return Ok(()) };
    if !name.contains(&b'/') {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        let candidates: Vec<_> = path
            .as_encoded_bytes()
            .split(|b| *b == b':')
            .map(|dir| [if dir.is_empty() { b"." } else { dir }, b"/", &name].concat())
            .collect();
        let asked = call.get(0, "path").map(make::again);
        if let Some(asked) = asked {
            call.own(asked);
        }
        let asked = asked.and_then(|asked| call.owned(asked));
        let (program, _) =
            first_runnable(&candidates, None).map_err(|refusal| Box::new(refusal.about(asked, None)))?;
        call.replace(0, "path", make::bytes(&program)).map_err(|()| lost())?;
    }
    spawn(call)
}

/// Judges the program of an exec call and leaves only what was judged in it.
fn exec(call: &mut Call, event: &str) -> Judged {
    let Some(object) = call.get(0, "path") else { return Ok(()) };
    // What the program named stands in the exception, not our copy.
    let asked = make::again(object);
    let number = object.int();
    call.own(asked);
    let about = call.owned(asked);
    let Some(object) = about else { return Ok(()) };
    let path = match number {
        Some(fd) => format!("/proc/self/fd/{fd}").into_bytes(),
        None => {
            let Some(path) = make::fs_bytes(object) else { return Ok(()) };
            call.replace(0, "path", make::bytes(&path)).map_err(|()| lost())?;
            path
        }
    };
    let argv = settle_argv(call, 1, "argv", event)?;
    let image = resolve(None, &path, Follow::Final, about)?;
    if !image.exists {
        return Err(Refusal::os(libc::ENOENT).about(about, None).into());
    }
    let forced = through_env(&image, &argv)?;
    start(image, texts(&argv), about)?;
    if let Some(argv) = forced {
        let list = make::list(argv.iter().map(Vec::as_slice));
        call.replace(1, "argv", list).map_err(|()| lost())?;
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
    let Some(mut env) = make::fs_mapping(env) else {
        return Err(unreadable(event, "the environment must map `str` to `str`"));
    };
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
    let copied = make::sequence(actions).ok_or_else(unknown)?;
    call.replace(NOWHERE, "file_actions", copied).map_err(|()| lost())?;
    let actions = call.get(NOWHERE, "file_actions").and_then(Object::items).ok_or_else(unknown)?;
    for action in actions {
        let Some(tag) = action.item(0) else { return Ok(()) }; // the function itself refuses it
        match tag.int() {
            Some(OPEN) => {}
            Some(_) => continue,
            None if make::index(tag).is_none() => return Ok(()), // so it does
            None => return Err(unknown()),
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
pub(crate) fn chroot(_: &mut Call) -> Judged {
    kernel("chroot")
}

/// `os.unshare(flags)`.
pub(crate) fn unshare(_: &mut Call) -> Judged {
    kernel("unshare")
}

/// `os.setns(fd, nstype=0)`.
pub(crate) fn setns(_: &mut Call) -> Judged {
    kernel("setns")
}

/// `os.setpriority(which, who, priority)`: only a single process can be told apart.
pub(crate) fn setpriority(call: &mut Call) -> Judged {
    match (call.get(0, "which").and_then(Object::int), call.get(1, "who").and_then(Object::int)) {
        (Some(0), Some(pid)) => limit(pid),
        (Some(_), Some(0)) => Ok(()),
        (_, Some(other)) => limit(-other.abs()),
        _ => Ok(()),
    }
}

/// `os.sched_setscheduler(pid, …)`, `os.sched_setparam(pid, …)`, `os.sched_setaffinity(pid, …)`.
pub(crate) fn scheduling(call: &mut Call) -> Judged {
    call.get(0, "pid").and_then(Object::int).map_or(Ok(()), limit)
}

/// `signal.pidfd_send_signal(pidfd, signalnum, …)`.
pub(crate) fn pidfd_send_signal(call: &mut Call) -> Judged {
    if supervised::is_on() {
        return Ok(());
    }
    let (Some(fd), Some(number)) =
        (call.get(0, "pidfd").and_then(Object::int), call.get(1, "signalnum").and_then(Object::int))
    else {
        return Ok(());
    };
    // proc_pid_fdinfo(5): the process behind the descriptor.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse().ok())
        .unwrap_or(-1);
    signal(pid, number)
}
