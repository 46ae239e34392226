//! Events on files: from their arguments to the action that is judged.

use std::borrow::Cow;
use std::os::fd::BorrowedFd;

use failcore_gate::resolve::{self, Follow, ResolveError, is_directory};
use failcore_model::{Action, FileRef, PathError, Rights, Text};

use crate::events::Judged;
use crate::hook_object::{Args, Object, Path, directory};
use crate::hook_raise::Refusal;
use crate::{expected, hook_sqlite, monitor, opening};

/// What happens where nothing could be resolved.
pub(crate) fn unresolved(error: ResolveError, about: Option<Object<'_>>) -> Box<Refusal> {
    // NUL bytes and lengths beyond the kernel's make the operation fail by itself; so do loops and a lack of
    // descriptors. The exception is then the one the program knows.
    match error {
        ResolveError::Malformed(PathError::Nul) => Refusal::value("embedded null byte").into(),
        other => Refusal::os(other.errno()).about(about, None).into(),
    }
}

/// Judges an action on one file and names that file in a refusal.
pub(crate) fn judge(action: Action, about: Option<Object<'_>>) -> Judged {
    monitor::check(action, &[]).map_err(|denial| Box::new(Refusal::of(denial).about(about, None)))
}

fn opaque(event: &str) -> Box<Refusal> {
    monitor::undecodable(event, "a path must be a `str` or `bytes`, since another object's answer can change")
        .into()
}

/// The bytes of a path argument; `None` for a descriptor, whose object was judged when it was opened.
fn bytes<'a>(event: &str, args: Args<'a>, index: usize) -> Result<Option<Cow<'a, [u8]>>, Box<Refusal>> {
    match args.path(index) {
        Path::Bytes(bytes) => Ok(Some(bytes)),
        Path::Descriptor(_) => Ok(None),
        Path::Default | Path::Opaque => Err(opaque(event)),
    }
}

/// Resolves a path argument.
pub(crate) fn resolve(
    at: Option<BorrowedFd<'_>>,
    path: &[u8],
    follow: Follow,
    about: Option<Object<'_>>,
) -> Result<FileRef, Box<Refusal>> {
    monitor::file(at, path, follow).map(|found| found.file).map_err(|error| unresolved(error, about))
}

/// The rights that open(2) flags ask for; `exists` decides whether something is made.
pub(crate) fn rights(flags: i32, exists: bool) -> Rights {
    let mut rights = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => Rights::READ,
        libc::O_WRONLY => Rights::MODIFY,
        _ => Rights::READ | Rights::MODIFY,
    };
    if flags & (libc::O_TRUNC | libc::O_APPEND) != 0 && flags & libc::O_ACCMODE != libc::O_RDONLY
        || flags & libc::O_TRUNC != 0
    {
        rights |= Rights::MODIFY;
    }
    if (flags & libc::O_CREAT != 0 && !exists) || flags & libc::O_TMPFILE == libc::O_TMPFILE {
        rights |= Rights::CREATE;
    }
    rights
}

/// The flags that an `open` mode stands for (fopen(3), and `io.open`'s `x`).
fn mode_flags(mode: &str) -> i32 {
    let mut flags = match mode.bytes().find(|b| matches!(b, b'r' | b'w' | b'a' | b'x')) {
        Some(b'w') => libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
        Some(b'a') => libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
        Some(b'x') => libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL,
        _ => libc::O_RDONLY,
    };
    if mode.contains('+') {
        flags = (flags & !libc::O_ACCMODE) | libc::O_RDWR;
    }
    flags
}

/// Whether a supervisor sees such an open, and says why where it refuses it.
fn is_explained(path: &[u8], flags: i32) -> bool {
    // There is room for no longer one in what it says.
    const LONGEST: usize = 256;
    // What leads into the insides of another process fails as the call itself does.
    const INSIDES: [&[u8]; 2] = [b"/proc/", b"/dev/"];
    flags & libc::O_PATH == 0 && path.len() <= LONGEST && !INSIDES.iter().any(|start| path.starts_with(start))
}

/// `open` (path, mode, flags): from `io.open`, `FileIO`, `os.open`, and the interpreter's own fopen and open.
pub(crate) fn open(args: Args<'_>) -> Judged {
    let about = args.get(0);
    let Some(path) = bytes("open", args, 0)? else { return Ok(()) };
    let (Some(mode), Some(flags)) = (args.get(1), args.int(2)) else { return Err(opaque("open")) };
    let passed = flags as i32;
    let mut flags = passed;
    let mut at = None;
    let through_ours = expected::directory_for(about);
    if let Some(mode) = mode.text() {
        // Not added up: FileIO's own flags say more than its mode, and fopen passes no flags.
        let by_mode = mode_flags(mode);
        if flags & libc::O_ACCMODE == libc::O_RDONLY {
            flags |= by_mode;
        } else {
            flags |= by_mode & !libc::O_ACCMODE;
            if by_mode & libc::O_ACCMODE == libc::O_RDWR {
                flags = (flags & !libc::O_ACCMODE) | libc::O_RDWR;
            }
        }
    } else if !mode.is_none() {
        return Err(opaque("open"));
    } else if let Some(dir) = through_ours {
        at = directory(dir);
    } else if !path.starts_with(b"/") {
        // The event of `os.open` leaves out the directory, so only our own `os.open` may pass.
        return Err(monitor::undecodable("open", "the directory of a relative path is not known").into());
    }
    // Only a stand-in can tell the program of a refusal that comes after the event.
    if through_ours.is_some() && is_explained(&path, passed) && monitor::leave_to_supervisor() {
        return Ok(());
    }
    if through_ours.is_some() && at.is_none() && flags == passed && opening::presume(&path, passed) {
        return Ok(());
    }
    let found = monitor::file(at, &path, opening::follow(flags)).map_err(|error| unresolved(error, about))?;
    let resolve::Found { file, no_links } = found;
    let rights = rights(flags, file.exists);
    judge(Action::Open { file, rights }, about)?;
    if no_links && at.is_none() {
        opening::judged(&path, passed);
    }
    Ok(())
}

/// `os.listdir`, `os.scandir` (path).
pub(crate) fn list(args: Args<'_>) -> Judged {
    let about = args.get(0);
    let path = match args.path(0) {
        Path::Bytes(bytes) => bytes,
        Path::Descriptor(_) => return Ok(()),
        Path::Default => Cow::Borrowed(&b"."[..]),
        Path::Opaque => return Err(opaque("os.listdir")),
    };
    judge(Action::Read(resolve(None, &path, Follow::Final, about)?), about)
}

fn at_of(args: Args<'_>, index: usize) -> Option<BorrowedFd<'static>> {
    args.int(index).and_then(directory)
}

fn one(event: &str, args: Args<'_>, dir: usize, action: fn(FileRef) -> Action) -> Judged {
    let about = args.get(0);
    let Some(path) = bytes(event, args, 0)? else { return Err(opaque(event)) };
    let at = at_of(args, dir);
    judge(action(resolve(at, &path, Follow::NoFinal, about)?), about)
}

/// `os.mkdir` (path, mode, dir_fd).
pub(crate) fn mkdir(args: Args<'_>) -> Judged {
    one("os.mkdir", args, 2, Action::Create)
}

/// `os.remove`, `os.rmdir` (path, dir_fd).
pub(crate) fn delete(args: Args<'_>) -> Judged {
    one("os.remove", args, 1, Action::Delete)
}

fn two(event: &str, args: Args<'_>, from: Follow) -> Result<(FileRef, FileRef), Box<Refusal>> {
    let (first, second) = (args.get(0), args.get(1));
    let (Some(a), Some(b)) = (bytes(event, args, 0)?, bytes(event, args, 1)?) else {
        return Err(opaque(event));
    };
    let a = resolve(at_of(args, 2), &a, from, first)?;
    let b = resolve(at_of(args, 3), &b, Follow::NoFinal, second)?;
    Ok((a, b))
}

fn judge_two(action: Action, args: Args<'_>) -> Judged {
    monitor::check(action, &[])
        .map_err(|denial| Box::new(Refusal::of(denial).about(args.get(0), args.get(1))))
}

/// `os.rename` (src, dst, src_dir_fd, dst_dir_fd), also raised by `os.replace`.
pub(crate) fn rename(args: Args<'_>) -> Judged {
    let (mut from, to) = two("os.rename", args, Follow::NoFinal)?;
    from.dir = is_directory(&from.path);
    judge_two(Action::Rename { from, to }, args)?;
    resolve::forget();
    Ok(())
}

/// `os.link` (src, dst, src_dir_fd, dst_dir_fd). The event does not say whether a link is followed: the object
/// behind it is what a new name would give away, so that is judged.
pub(crate) fn link(args: Args<'_>) -> Judged {
    let (from, to) = two("os.link", args, Follow::Final)?;
    judge_two(Action::Link { from, to }, args)
}

/// `os.symlink` (src, dst, dir_fd).
pub(crate) fn symlink(args: Args<'_>) -> Judged {
    let (Some(target), Some(at)) = (bytes("os.symlink", args, 0)?, bytes("os.symlink", args, 1)?) else {
        return Err(opaque("os.symlink"));
    };
    let at = resolve(at_of(args, 2), &at, Follow::NoFinal, args.get(1))?;
    judge_two(Action::Symlink { target: Text::from(&*target), at }, args)?;
    resolve::forget();
    Ok(())
}

/// `os.truncate` (path or descriptor, length). A descriptor must have been opened for writing.
pub(crate) fn truncate(args: Args<'_>) -> Judged {
    let Some(path) = bytes("os.truncate", args, 0)? else { return Ok(()) };
    let about = args.get(0);
    judge(Action::Modify(resolve(None, &path, Follow::Final, about)?), about)
}

/// A change of attributes, by path or by descriptor: a descriptor opened for reading changes them too.
fn attributes(event: &str, args: Args<'_>, dir: Option<usize>) -> Judged {
    let about = args.get(0);
    let at = dir.and_then(|dir| at_of(args, dir));
    let path = match args.path(0) {
        Path::Bytes(bytes) => bytes,
        Path::Descriptor(fd) => Cow::Owned(format!("/proc/self/fd/{fd}").into_bytes()),
        Path::Default | Path::Opaque => return Err(opaque(event)),
    };
    let file = resolve(at, &path, Follow::Final, about)?;
    if matches!(args.path(0), Path::Descriptor(_)) && file.path.as_bytes().starts_with(b"/proc/self/fd/") {
        return Ok(()); // a pipe or socket
    }
    // Most of these have a variant that acts on a link itself, and the event does not say which: both must be
    // permitted where they differ.
    if !matches!(args.path(0), Path::Descriptor(_)) && file.path.as_bytes() != &*path {
        let itself = resolve(at, &path, Follow::NoFinal, about)?;
        if itself.path != file.path {
            judge(Action::Attr(itself), about)?;
        }
    }
    judge(Action::Attr(file), about)
}

/// `os.chmod` (path, mode, dir_fd).
pub(crate) fn chmod(args: Args<'_>) -> Judged {
    attributes("os.chmod", args, Some(2))
}

/// `os.chown` (path, uid, gid, dir_fd).
pub(crate) fn chown(args: Args<'_>) -> Judged {
    attributes("os.chown", args, Some(3))
}

/// `os.utime` (path, times, ns, dir_fd).
pub(crate) fn utime(args: Args<'_>) -> Judged {
    attributes("os.utime", args, Some(3))
}

/// `os.setxattr`, `os.removexattr` (path, …).
pub(crate) fn attr(args: Args<'_>) -> Judged {
    attributes("os.setxattr", args, None)
}

/// `sqlite3.connect` (database). Whether it is a URI is not said, unless our own `sqlite3.connect` was called: else
/// both readings must be permitted.
pub(crate) fn sqlite(args: Args<'_>) -> Judged {
    let about = args.get(0);
    let Some(database) = bytes("sqlite3.connect", args, 0)? else { return Err(opaque("sqlite3.connect")) };
    judge_database(&database, expected::sqlite_uri(), about)
}

/// `sqlite3.connect/handle` (connection): open now, and given an authorizer before the program gets it.
pub(crate) fn sqlite_handle(args: Args<'_>) -> Judged {
    match args.get(0) {
        Some(connection) if hook_sqlite::guard(connection) => Ok(()),
        _ => Err(monitor::undecodable("sqlite3.connect/handle", "the connection cannot be watched").into()),
    }
}

/// Judges the files that a database name stands for.
pub(crate) fn judge_database(name: &[u8], uri: Option<bool>, about: Option<Object<'_>>) -> Judged {
    for (path, read_only) in sqlite_files(name, uri) {
        let file = resolve(None, &path, Follow::Final, about)?;
        let mut rights = Rights::READ;
        if !read_only {
            rights |= Rights::MODIFY;
            if !file.exists {
                rights |= Rights::CREATE;
            }
        }
        judge(Action::Open { file, rights }, about)?;
    }
    Ok(())
}

/// The files that sqlite would open for a database name (sqlite.org/uri.html), and whether only for reading.
pub(crate) fn sqlite_files(name: &[u8], uri: Option<bool>) -> Vec<(Vec<u8>, bool)> {
    let mut files = Vec::new();
    let rest = name.strip_prefix(b"file:");
    if let (Some(rest), true) = (rest, uri != Some(false)) {
        let rest = rest.split(|b| *b == b'#').next().unwrap_or_default();
        let (path, query) = match rest.iter().position(|b| *b == b'?') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &b""[..]),
        };
        // `file://localhost/path` and `file:///path`.
        let path = match path.strip_prefix(b"//") {
            Some(rest) => &rest[rest.iter().position(|b| *b == b'/').unwrap_or(rest.len())..],
            None => path,
        };
        let query = unescape(query);
        let has = |what: &[u8]| query.split(|b| *b == b'&').any(|pair| pair == what);
        let path = unescape(path);
        if !has(b"mode=memory") && !path.is_empty() && path != b":memory:" {
            files.push((path, has(b"mode=ro")));
        }
        if uri == Some(true) {
            return files;
        }
    }
    if !name.is_empty() && name != b":memory:" {
        files.push((name.to_vec(), false));
    }
    files
}

/// Undoes `%HH`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        match (text[i], digit(i + 1), digit(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                i += 3;
            }
            (byte, ..) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    out
}

/// Bytes as the standard library wants a path.
pub(crate) fn os(path: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(path))
}
