//! Attributes and contents by name: mode, owner, times, extended attributes, truncation, watching.

#![allow(unsafe_code, reason = "calls without a safe wrapper; each block says why it is sound")]

use std::ffi::CString;
use std::os::fd::AsFd;

use failcore_model::{Action, FileRef};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fstat,
    utimensat,
};
use rustix::io::Errno;

use crate::call::{Answer, Call, DONE, Reply, through};
use crate::memory;
use crate::notify::last;
use crate::walk::{self, Found, Object, View};

const HERE: i32 = libc::AT_FDCWD;

/// The object that a path argument means, with what it was asked for by.
fn by_path(call: &Call<'_>, dir: i32, path: usize, follow: bool) -> Result<(Vec<u8>, Object), Errno> {
    let asked = call.path(path)?;
    let start = call.start(dir, &asked)?;
    match walk::object(call, &start, &asked, follow)? {
        Found::Object(object) => Ok((asked, object)),
        Found::Vacant(_) => Err(Errno::NOENT),
        Found::Nowhere { why, .. } => Err(why),
    }
}

/// The object behind a descriptor of the task.
fn by_descriptor(call: &Call<'_>, fd: i32) -> Result<(Vec<u8>, Object), Errno> {
    let held = call.descriptor(fd)?;
    let asked = format!("/proc/self/fd/{fd}").into_bytes();
    let path = match walk::real_path(held.as_fd()) {
        Ok(path) => walk::own_proc(call, path),
        Err(_) => failcore_model::AbsPath::new(&asked).map_err(|_| Errno::BADF)?,
    };
    Ok((asked, Object { stat: fstat(&held)?, fd: held, path }))
}

/// The object behind an open descriptor: one for a path alone changes nothing.
fn by_open(call: &Call<'_>, fd: i32) -> Result<(Vec<u8>, Object), Errno> {
    let found = by_descriptor(call, fd)?;
    if call.is_path_only(fd) { Err(Errno::BADF) } else { Ok(found) }
}

/// As [`by_path`], where an empty path with `AT_EMPTY_PATH` means the descriptor itself.
fn by_either(call: &Call<'_>, dir: i32, path: usize, flags: i32) -> Result<(Vec<u8>, Object), Errno> {
    if flags & libc::AT_EMPTY_PATH != 0 && call.path(path)?.is_empty() {
        return if dir == HERE {
            let fd = call.directory(dir)?;
            let path = walk::real_path(fd.as_fd())?;
            Ok((b".".to_vec(), Object { stat: fstat(&fd)?, fd, path }))
        } else {
            by_descriptor(call, dir)
        };
    }
    by_path(call, dir, path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
}

/// Judges a change of attributes and makes it on the object.
fn change(
    call: &Call<'_>,
    (asked, object): (Vec<u8>, Object),
    act: impl FnOnce(&Object) -> Result<(), Errno>,
) -> Reply {
    // Objects without a name (pipes, sockets, memory) are the task's own.
    if is_nameless(&object) {
        act(&object)?;
        return DONE;
    }
    let grant = call.judge(Action::Attr(call.object_ref(&asked, &object)))?;
    call.concluded(grant, act(&object))?;
    DONE
}

fn is_nameless(object: &Object) -> bool {
    walk::real_path(object.fd.as_fd()).is_err()
}

// ---- mode ---------------------------------------------------------------------------------------------------

#[cfg(target_arch = "x86_64")]
pub(crate) fn chmod_path(call: &Call<'_>) -> Reply {
    set_mode(call, by_path(call, HERE, 0, true)?, call.arg(1))
}

/// `fchmod(fd, mode)`.
pub(crate) fn fchmod(call: &Call<'_>) -> Reply {
    set_mode(call, by_open(call, call.int(0))?, call.arg(1))
}

/// `fchmodat(dir, path, mode)`.
pub(crate) fn fchmodat(call: &Call<'_>) -> Reply {
    set_mode(call, by_path(call, call.int(0), 1, true)?, call.arg(2))
}

/// `fchmodat2(dir, path, mode, flags)`.
pub(crate) fn fchmodat2(call: &Call<'_>) -> Reply {
    let flags = call.int(3);
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    set_mode(call, by_either(call, call.int(0), 1, flags)?, call.arg(2))
}

fn set_mode(call: &Call<'_>, at: (Vec<u8>, Object), raw: u64) -> Reply {
    change(call, at, |object| {
        if object.is(FileType::Symlink) {
            return Err(Errno::OPNOTSUPP);
        }
        chmod(through(&object.fd), Mode::from_raw_mode((raw & 0o7777) as u32))
    })
}

// ---- owner --------------------------------------------------------------------------------------------------

#[cfg(target_arch = "x86_64")]
pub(crate) fn chown(call: &Call<'_>) -> Reply {
    set_owner(call, by_path(call, HERE, 0, true)?, call.arg(1), call.arg(2))
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn lchown(call: &Call<'_>) -> Reply {
    set_owner(call, by_path(call, HERE, 0, false)?, call.arg(1), call.arg(2))
}

/// `fchown(fd, uid, gid)`.
pub(crate) fn fchown(call: &Call<'_>) -> Reply {
    set_owner(call, by_open(call, call.int(0))?, call.arg(1), call.arg(2))
}

/// `fchownat(dir, path, uid, gid, flags)`.
pub(crate) fn fchownat(call: &Call<'_>) -> Reply {
    let flags = call.int(4);
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    set_owner(call, by_either(call, call.int(0), 1, flags)?, call.arg(2), call.arg(3))
}

fn set_owner(call: &Call<'_>, at: (Vec<u8>, Object), uid: u64, gid: u64) -> Reply {
    let (uid, gid) = (uid as u32, gid as u32);
    change(call, at, |object| {
        let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
        let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
        chownat(&object.fd, "", uid, gid, AtFlags::EMPTY_PATH)
    })
}

// ---- times --------------------------------------------------------------------------------------------------

/// `utimensat(dir, path, times, flags)`; without a path the descriptor itself.
pub(crate) fn utimens(call: &Call<'_>) -> Reply {
    let flags = call.int(3);
    let times = match call.arg(2) {
        0 => [(0, libc::UTIME_NOW); 2],
        at => {
            let words = words(call.tid(), at, 4)?;
            [(words[0], words[1]), (words[2], words[3])]
        }
    };
    if times.iter().all(|(_, nanoseconds)| *nanoseconds == libc::UTIME_OMIT) {
        return DONE;
    }
    let bare = call.arg(1) == 0 && call.int(0) != HERE;
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 || bare && flags != 0 {
        return Err(Errno::INVAL);
    }
    let at = if bare { by_open(call, call.int(0))? } else { by_either(call, call.int(0), 1, flags)? };
    set_times(call, at, times)
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn utime(call: &Call<'_>) -> Reply {
    let times = match call.arg(1) {
        0 => [(0, libc::UTIME_NOW); 2],
        at => {
            let words = words(call.tid(), at, 2)?;
            [(words[0], 0), (words[1], 0)]
        }
    };
    set_times(call, by_path(call, HERE, 0, true)?, times)
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn utimes(call: &Call<'_>) -> Reply {
    let times = microseconds(call, call.arg(1))?;
    set_times(call, by_path(call, HERE, 0, true)?, times)
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn futimesat(call: &Call<'_>) -> Reply {
    let times = microseconds(call, call.arg(2))?;
    let at = match call.arg(1) {
        0 if call.int(0) != HERE => by_open(call, call.int(0))?,
        _ => by_path(call, call.int(0), 1, true)?,
    };
    set_times(call, at, times)
}

#[cfg(target_arch = "x86_64")]
fn microseconds(call: &Call<'_>, at: u64) -> Result<[(i64, i64); 2], Errno> {
    if at == 0 {
        return Ok([(0, libc::UTIME_NOW); 2]);
    }
    let words = words(call.tid(), at, 4)?;
    let time = |seconds: i64, micro: i64| {
        if (0..1_000_000).contains(&micro) { Ok((seconds, micro * 1000)) } else { Err(Errno::INVAL) }
    };
    Ok([time(words[0], words[1])?, time(words[2], words[3])?])
}

fn words(tid: u32, at: u64, count: usize) -> Result<Vec<i64>, Errno> {
    let raw = memory::bytes(tid, at, count * 8)?;
    Ok(raw.chunks_exact(8).map(|word| i64::from_ne_bytes(word.try_into().unwrap_or_default())).collect())
}

fn set_times(call: &Call<'_>, at: (Vec<u8>, Object), times: [(i64, i64); 2]) -> Reply {
    let spec = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: spec(times[0]), last_modification: spec(times[1]) };
    change(call, at, |object| {
        if object.is(FileType::Symlink) {
            return utimensat(&object.fd, "", &times, AtFlags::EMPTY_PATH);
        }
        utimensat(CWD, through(&object.fd), &times, AtFlags::empty())
    })
}

// ---- extended attributes ------------------------------------------------------------------------------------

/// The longest name and value of an extended attribute (xattr(7)).
const MOST_NAME: usize = 256;
const MOST_VALUE: usize = 65_536;

pub(crate) fn setxattr(call: &Call<'_>) -> Reply {
    set_xattr(call, by_path(call, HERE, 0, true)?)
}

pub(crate) fn lsetxattr(call: &Call<'_>) -> Reply {
    set_xattr(call, by_path(call, HERE, 0, false)?)
}

pub(crate) fn fsetxattr(call: &Call<'_>) -> Reply {
    set_xattr(call, by_open(call, call.int(0))?)
}

fn xattr_name(call: &Call<'_>) -> Result<Vec<u8>, Errno> {
    memory::text(call.tid(), call.arg(1), MOST_NAME)
        .map_err(|errno| if errno == Errno::TOOBIG { Errno::RANGE } else { errno })
}

fn set_xattr(call: &Call<'_>, at: (Vec<u8>, Object)) -> Reply {
    let name = xattr_name(call)?;
    let len = usize::try_from(call.arg(3)).ok().filter(|len| *len <= MOST_VALUE).ok_or(Errno::TOOBIG)?;
    let value = memory::bytes(call.tid(), call.arg(2), len)?;
    let flags = XattrFlags::from_bits_retain(call.int(4).cast_unsigned());
    change(call, at, |object| {
        // On a link itself the kernel takes none but what needs privilege.
        if object.is(FileType::Symlink) {
            return Err(Errno::PERM);
        }
        rustix::fs::setxattr(through(&object.fd), name.as_slice(), &value, flags)
    })
}

pub(crate) fn removexattr(call: &Call<'_>) -> Reply {
    remove_xattr(call, by_path(call, HERE, 0, true)?)
}

pub(crate) fn lremovexattr(call: &Call<'_>) -> Reply {
    remove_xattr(call, by_path(call, HERE, 0, false)?)
}

pub(crate) fn fremovexattr(call: &Call<'_>) -> Reply {
    remove_xattr(call, by_open(call, call.int(0))?)
}

fn remove_xattr(call: &Call<'_>, at: (Vec<u8>, Object)) -> Reply {
    let name = xattr_name(call)?;
    change(call, at, |object| {
        if object.is(FileType::Symlink) {
            return Err(Errno::PERM);
        }
        rustix::fs::removexattr(through(&object.fd), name.as_slice())
    })
}

// ---- flags of a file system ---------------------------------------------------------------------------------

/// The ioctls that change attributes (ioctl_iflags(2), ioctl_fssetxattr): made on a descriptor of our own.
pub(crate) fn ioctl(call: &Call<'_>) -> Reply {
    const SET_FLAGS: u32 = 0x4008_6602;
    const FS_SET_XATTR: u32 = 0x401c_5820;
    let (request, len) = match call.int(1).cast_unsigned() {
        SET_FLAGS => (SET_FLAGS, 4),
        FS_SET_XATTR => (FS_SET_XATTR, 28),
        _ => return Err(Errno::NOTTY),
    };
    let mut argument = memory::bytes(call.tid(), call.arg(2), len)?;
    argument.resize(64, 0);
    change(call, by_open(call, call.int(0))?, |object| {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(through(&object.fd), flags, Mode::empty())?;
        // SAFETY: both requests only read at most 28 bytes of the 64 that live in `argument`.
        let done =
            unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), request.into(), argument.as_ptr()) };
        if done == 0 { Ok(()) } else { Err(last()) }
    })
}

// ---- contents by name ---------------------------------------------------------------------------------------

/// `truncate(path, length)`.
pub(crate) fn truncate(call: &Call<'_>) -> Reply {
    let length = call.arg(1).cast_signed();
    if length < 0 {
        return Err(Errno::INVAL);
    }
    let (asked, object) = by_path(call, HERE, 0, true)?;
    let file: FileRef = call.object_ref(&asked, &object);
    let grant = call.judge(Action::Modify(file))?;
    let link = CString::new(through(&object.fd)).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path is a live C string.
    let done = unsafe { libc::truncate(link.as_ptr(), length) };
    call.concluded(grant, if done == 0 { Ok(()) } else { Err(last()) })?;
    DONE
}

/// `inotify_add_watch(fd, path, mask)`: who watches a directory reads it.
pub(crate) fn watch(call: &Call<'_>) -> Reply {
    let mask = call.int(2).cast_unsigned();
    let (asked, object) = by_path(call, HERE, 1, mask & libc::IN_DONT_FOLLOW == 0)?;
    if mask & libc::IN_ONLYDIR != 0 && !object.is(FileType::Directory) {
        return Err(Errno::NOTDIR);
    }
    let queue = call.duplicate(call.int(0))?;
    let grant = call.judge(Action::Read(call.object_ref(&asked, &object)))?;
    let link = CString::new(through(&object.fd)).map_err(|_| Errno::INVAL)?;
    // Our descriptor's link is to be followed, to the very object.
    let mask = mask & !libc::IN_DONT_FOLLOW;
    // SAFETY: the path is a live C string; the descriptor is the task's queue, shared with it.
    let added =
        unsafe { libc::inotify_add_watch(std::os::fd::AsRawFd::as_raw_fd(&queue), link.as_ptr(), mask) };
    let number = call.concluded(grant, if added >= 0 { Ok(added) } else { Err(last()) })?;
    Ok(Answer::Value(number.into()))
}

// ---- memory as files ----------------------------------------------------------------------------------------

/// `memfd_create(name, flags)`: never a program. Sealed against being run (memfd_create(2), `MFD_NOEXEC_SEAL`).
pub(crate) fn memfd(call: &Call<'_>) -> Reply {
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 0x10;
    let name = memory::text(call.tid(), call.arg(0), 250)
        .map_err(|errno| if errno == Errno::TOOBIG { Errno::INVAL } else { errno })?;
    let flags = call.int(1).cast_unsigned();
    if flags & EXEC != 0 {
        return Err(Errno::ACCESS);
    }
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let wanted = rustix::fs::MemfdFlags::from_bits_retain(flags | NOEXEC_SEAL | libc::MFD_CLOEXEC);
    let fd = rustix::fs::memfd_create(&name, wanted)?;
    Ok(Answer::Descriptor { fd, close_on_exec: flags & libc::MFD_CLOEXEC != 0, may_linger: true })
}
