//! Stand-ins on files.

use failcore_gate::resolve::Follow;
use failcore_model::{Action, Rights};

use crate::decode_fs::{judge, resolve, rights};
use crate::events::Judged;
use crate::expected::Guard;
use crate::hook_call::Call;
use crate::hook_context::minor_version;
use crate::hook_make as make;
use crate::hook_object::{Object, directory};
use crate::hook_raise::Refusal;
use crate::{expected, monitor, opening};

/// Replaces a path argument by what `__fspath__` says now, which is what exceptions name as well. What is no path ends
/// here: asked again, it could be one.
pub(crate) fn settle(call: &mut Call, index: usize, name: &str) -> Judged {
    let Some(object) = call.get(index, name) else { return Ok(()) };
    if object.is_str() || object.is_bytes() || object.is_none() {
        return Ok(());
    }
    let path = make::fs_path(object)?;
    call.replace(index, name, path).map_err(|()| lost())
}

/// Replaces a path with a buffer, whose content could change after it was judged, by a copy. CPython takes such
/// paths until 3.11, with a warning.
fn settle_buffer(call: &mut Call, index: usize, name: &str) -> Judged {
    let Some(object) = call.get(index, name) else { return Ok(()) };
    if !takes_buffers() || !make::has_buffer(object) {
        return Ok(());
    }
    make::warn_of_buffer(object)?;
    let copy = make::copy(object)?;
    call.settle(index, name, copy).map_err(|()| lost())
}

/// Whether this CPython takes any object with a buffer as a path of `os`.
fn takes_buffers() -> bool {
    minor_version() <= LAST_WITH_BUFFERS
}

/// The last minor version that does.
pub(crate) const LAST_WITH_BUFFERS: u32 = 11;

/// `os.listdir(path)` and others whose event is judged, with the path that is used.
pub(crate) fn one_path(call: &mut Call) -> Judged {
    settle_buffer(call, 0, "path")
}

/// `os.rename(src, dst)` and others of two paths.
pub(crate) fn two_paths(call: &mut Call) -> Judged {
    settle_buffer(call, 0, "src")?;
    settle_buffer(call, 1, "dst")
}

/// An argument as the number it is now, asking `__index__` once; `None` where there is none, or a number that no
/// function takes.
pub(crate) fn settle_int(call: &mut Call, index: usize, name: &str) -> Result<Option<i64>, Box<Refusal>> {
    let Some(object) = call.get(index, name) else { return Ok(None) };
    if object.int().is_none() {
        let number = make::index(object)?;
        call.settle(index, name, number).map_err(|()| lost())?;
    }
    Ok(call.get(index, name).and_then(Object::int))
}

pub(crate) fn lost() -> Box<Refusal> {
    monitor::broken("an argument could not be replaced by what was judged").into()
}

/// The `dir_fd` of a call, as the number it is; another object's answer could change.
fn dir_fd(call: &mut Call) -> Result<i64, Box<Refusal>> {
    if call.get(NOWHERE, "dir_fd").is_none_or(Object::is_none) {
        return Ok(-1);
    }
    match settle_int(call, NOWHERE, "dir_fd")? {
        Some(fd) if fd >= 0 => Ok(fd),
        // −1 would be read as "the working directory" here and as a bad descriptor there.
        _ => Err(Refusal::os(libc::EBADF).into()),
    }
}

/// A keyword-only argument has no position.
const NOWHERE: usize = usize::MAX;

/// `os.open(path, flags, mode=0o777, *, dir_fd=None)`: the event behind it is judged with the directory.
pub(crate) fn open(call: &mut Call) -> Judged {
    settle_buffer(call, 0, "path")?;
    settle(call, 0, "path")?;
    let dir = dir_fd(call)?;
    let guard = expected::note_open(call.get(0, "path"), dir);
    call.keep(guard);
    call.opens();
    Ok(())
}

/// The same of a call whose first argument is a path already, with nothing that says what it is relative to.
pub(crate) fn around_open(path: Object<'_>) -> Option<Guard> {
    if !path.is_str() && !path.is_bytes() {
        return None;
    }
    drop(opening::refusal()); // of an open that nobody asked about
    Some(expected::note_open(Some(path), -1))
}

/// `io.open(file, mode, …, opener=None)`, which is `open`: so that the event behind it may leave part of the judging to
/// the open itself.
pub(crate) fn io_open(call: &mut Call) -> Judged {
    // What is a number is a descriptor, whatever path it has besides.
    if call.get(0, "file").is_some_and(make::is_number) {
        return Ok(());
    }
    settle(call, 0, "file")?;
    opens(call, "file");
    Ok(())
}

/// `io.open_code(path)`, which takes a `str` alone.
pub(crate) fn open_code(call: &mut Call) -> Judged {
    opens(call, "path");
    Ok(())
}

fn opens(call: &mut Call, name: &str) {
    let guard = expected::note_open(call.get(0, name), -1);
    call.keep(guard);
    call.opens();
}

/// `os.mkfifo(path, mode, *, dir_fd)`, `os.mknod(path, mode, device, *, dir_fd)`.
pub(crate) fn make(call: &mut Call) -> Judged {
    settle_buffer(call, 0, "path")?;
    settle(call, 0, "path")?;
    let dir = dir_fd(call)?;
    let about = call.get(0, "path");
    let Some(path) = about.and_then(Object::os_bytes) else { return Ok(()) };
    judge(Action::Create(resolve(directory(dir), &path, Follow::NoFinal, about)?), about)
}

fn open_file(path: &[u8], flags: i32, about: Option<Object<'_>>) -> Judged {
    let file = resolve(None, path, Follow::Final, about)?;
    let rights = rights(flags, file.exists);
    judge(Action::Open { file, rights }, about)
}

/// Where the C library keeps named shared memory (shm_overview(7)).
fn shm_path(call: &Call) -> Option<Vec<u8>> {
    let name = call.get(0, "path")?.os_bytes()?;
    let name = name.strip_prefix(b"/").unwrap_or(&name);
    Some([b"/dev/shm/", name].concat())
}

/// `_posixshmem.shm_open(path, flags, mode=0o777)`.
pub(crate) fn shm_open(call: &mut Call) -> Judged {
    let Some(path) = shm_path(call) else { return Ok(()) };
    let Some(flags) = settle_int(call, 1, "flags")? else { return Ok(()) };
    open_file(&path, flags as i32, call.get(0, "path"))
}

/// `_posixshmem.shm_unlink(path)`.
pub(crate) fn shm_unlink(call: &mut Call) -> Judged {
    let Some(path) = shm_path(call) else { return Ok(()) };
    let about = call.get(0, "path");
    judge(Action::Delete(resolve(None, &path, Follow::NoFinal, about)?), about)
}

/// `sqlite3.connect(database, timeout, detect_types, isolation_level, check_same_thread, factory,
/// cached_statements, uri)`: the event does not say how the name is read.
pub(crate) fn sqlite_connect(call: &mut Call) -> Judged {
    settle(call, 0, "database")?;
    // Another object than these is asked by the function itself and may answer otherwise: both readings count.
    let uri = match call.get(7, "uri") {
        None => Some(false),
        Some(object) if object.is_none() => Some(false),
        Some(object) => object.int().map(|uri| uri != 0),
    };
    if let Some(uri) = uri {
        call.keep(expected::note_uri(uri));
    }
    Ok(())
}

/// `Connection.set_authorizer(authorizer_callback)`.
pub(crate) fn set_authorizer(call: &mut Call) -> Judged {
    let Some(own) = call.get(0, "authorizer_callback") else { return Ok(()) };
    let wrapped = make::wrap_authorizer(own).ok_or_else(lost)?;
    call.replace(0, "authorizer_callback", wrapped).map_err(|()| lost())
}

fn read(call: &mut Call, index: usize, name: &str) -> Judged {
    settle(call, index, name)?;
    let about = call.get(index, name);
    match about.and_then(Object::os_bytes) {
        Some(path) => open_file(&path, libc::O_RDONLY, about),
        None => Ok(()),
    }
}

/// `load_dh_params(path)`, `readline.read_init_file([path])`.
pub(crate) fn read_first(call: &mut Call) -> Judged {
    read(call, 0, "path")
}

/// `load_cert_chain(certfile, keyfile=None, password=None)`.
pub(crate) fn load_cert_chain(call: &mut Call) -> Judged {
    read(call, 0, "certfile")?;
    read(call, 1, "keyfile")
}

/// `load_verify_locations(cafile=None, capath=None, cadata=None)`.
pub(crate) fn load_verify_locations(call: &mut Call) -> Judged {
    read(call, 0, "cafile")?;
    settle(call, 1, "capath")?;
    let about = call.get(1, "capath");
    match about.and_then(Object::os_bytes) {
        Some(path) => judge(Action::Read(resolve(None, &path, Follow::Final, about)?), about),
        None => Ok(()),
    }
}

/// The history file that is meant where none is named (readline(3)).
fn history(call: &mut Call, index: usize, flags: i32) -> Judged {
    settle(call, index, "filename")?;
    let about = call.get(index, "filename");
    match about.and_then(Object::os_bytes) {
        Some(path) => open_file(&path, flags, about),
        None => {
            let home = std::env::var_os("HOME").unwrap_or_default();
            open_file(&[home.as_encoded_bytes(), b"/.history"].concat(), flags, None)
        }
    }
}

/// `readline.read_history_file([path])`.
pub(crate) fn read_history(call: &mut Call) -> Judged {
    history(call, 0, libc::O_RDONLY)
}

/// `readline.write_history_file([path])`.
pub(crate) fn write_history(call: &mut Call) -> Judged {
    history(call, 0, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)
}

/// `readline.append_history_file(count[, path])`.
pub(crate) fn append_history(call: &mut Call) -> Judged {
    history(call, 1, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND)
}

/// `_gdbm.open`, `_dbm.open` (filename, flags='r', mode=0o666); `dbm.ndbm` adds a suffix of its own.
pub(crate) fn database(call: &mut Call) -> Judged {
    settle(call, 0, "filename")?;
    let about = call.get(0, "filename");
    let Some(path) = about.and_then(Object::os_bytes) else { return Ok(()) };
    let flags = match call.get(1, "flags").and_then(Object::text).unwrap_or("r").as_bytes().first() {
        Some(b'r') => libc::O_RDONLY,
        Some(b'w') => libc::O_RDWR,
        _ => libc::O_RDWR | libc::O_CREAT,
    };
    for suffix in [&b""[..], b".db", b".pag", b".dir"] {
        let path = [&*path, suffix].concat();
        let file = resolve(None, &path, Follow::Final, about)?;
        // Which of them the library uses depends on how it was built; absent ones would only be made.
        if suffix.is_empty() || file.exists || flags & libc::O_CREAT != 0 {
            let rights = rights(flags, file.exists);
            judge(Action::Open { file, rights }, about)?;
        }
    }
    Ok(())
}

/// `spwd.getspnam`, `spwd.getspall`: the C library reads the shadow file.
pub(crate) fn shadow(_: &mut Call) -> Judged {
    let file = resolve(None, b"/etc/shadow", Follow::Final, None)?;
    judge(Action::Open { file, rights: Rights::READ }, None)
}
