//! What a program that is run again is told of its files (stat(2), statx(2)): what it was told then, where the file system
//! in memory has ways of its own.

#![allow(unsafe_code, reason = "two structures of the kernel's as bytes; each block says why it is sound")]
#![allow(clippy::useless_conversion, reason = "how wide some fields are differs by machine")]
#![allow(non_upper_case_globals, reason = "the calls bear the names that the kernel gave them")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use failcore_gate::{Appearance, Witness};
use failcore_model::input::Moment;
use libc::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, SYS_fstat, SYS_newfstatat, SYS_statx};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::call::Call;
use crate::memory;
use crate::walk::View;

/// Whether a call asks only for metadata by a descriptor, of which recording learns nothing.
pub(crate) fn is_by_descriptor(nr: i64) -> bool {
    nr == SYS_fstat
}

/// Tells what the file that a call asks about appeared as; whether it did. Whatever is not as simple as that is for the
/// kernel to answer.
pub(crate) fn tell(call: &Call<'_>, witness: &dyn Witness) -> bool {
    told(call, witness).is_some()
}

fn told(call: &Call<'_>, witness: &dyn Witness) -> Option<()> {
    let (file, buffer) = match call.notice.nr {
        SYS_fstat => (call.descriptor(call.int(0)).ok()?, call.arg(1)),
        SYS_newfstatat => (named(call, call.int(0), call.arg(1), call.int(3))?, call.arg(2)),
        SYS_statx => (named(call, call.int(0), call.arg(1), call.int(2))?, call.arg(4)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat => (named(call, AT_FDCWD, call.arg(0), 0)?, call.arg(1)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat => (named(call, AT_FDCWD, call.arg(0), AT_SYMLINK_NOFOLLOW)?, call.arg(1)),
        _ => return None,
    };
    if call.notice.nr == SYS_statx {
        // More than was asked for may be told.
        let mask = u32::try_from(call.arg(3)).ok()? | libc::STATX_BASIC_STATS;
        // SAFETY: zero is a value of the structure.
        let mut found: libc::statx = unsafe { std::mem::zeroed() };
        let at = file.as_raw_fd();
        // SAFETY: the kernel writes one structure to a live one, and reads an empty string.
        let done = unsafe { libc::statx(at, EMPTY.as_ptr(), AT_EMPTY_PATH, mask, &raw mut found) };
        let moment = |at: libc::statx_timestamp| Moment { s: at.tv_sec, ns: at.tv_nsec };
        let mut now = Appearance {
            directory: u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFDIR,
            device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            links: found.stx_nlink.into(),
            size: found.stx_size,
            blocks: found.stx_blocks,
            modified: moment(found.stx_mtime),
            changed: moment(found.stx_ctime),
        };
        // Of what was not asked for nothing is known.
        if done != 0
            || found.stx_mask & libc::STATX_BASIC_STATS != libc::STATX_BASIC_STATS
            || !witness.appears(&mut now)
        {
            return None;
        }
        (found.stx_ino, found.stx_nlink) = (now.inode, u32::try_from(now.links).ok()?);
        (found.stx_size, found.stx_blocks) = (now.size, now.blocks);
        (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec) = (now.modified.s, now.modified.ns);
        (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec) = (now.changed.s, now.changed.ns);
        return memory::write(call.tid(), buffer, bytes(&found)).ok();
    }
    // SAFETY: zero is a value of the structure.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one structure to a live one.
    let done = unsafe { libc::fstat(file.as_raw_fd(), &raw mut found) };
    let moment = |s, ns| Moment { s, ns: u32::try_from(ns).unwrap_or_default() };
    let mut now = Appearance {
        directory: found.st_mode & libc::S_IFMT == libc::S_IFDIR,
        device: found.st_dev,
        inode: found.st_ino,
        links: u64::from(found.st_nlink),
        size: found.st_size.cast_unsigned(),
        blocks: found.st_blocks.cast_unsigned(),
        modified: moment(found.st_mtime, found.st_mtime_nsec),
        changed: moment(found.st_ctime, found.st_ctime_nsec),
    };
    if done != 0 || !witness.appears(&mut now) {
        return None;
    }
    found.st_ino = now.inode;
    found.st_nlink = now.links.try_into().ok()?;
    (found.st_size, found.st_blocks) = (now.size.cast_signed(), now.blocks.cast_signed());
    (found.st_mtime, found.st_mtime_nsec) = (now.modified.s, now.modified.ns.into());
    (found.st_ctime, found.st_ctime_nsec) = (now.changed.s, now.changed.ns.into());
    memory::write(call.tid(), buffer, bytes(&found)).ok()
}

const EMPTY: &CStr = c"";

/// The file that a call names. What leads through /proc is another for us than for the task.
fn named(call: &Call<'_>, dir: i32, path: u64, flags: i32) -> Option<OwnedFd> {
    let path = if path == 0 { Vec::new() } else { call.path_at(path).ok()? };
    if path.is_empty() {
        return (flags & AT_EMPTY_PATH != 0 && dir != AT_FDCWD).then(|| call.descriptor(dir).ok()).flatten();
    }
    let mut how = OFlags::PATH | OFlags::CLOEXEC;
    how.set(OFlags::NOFOLLOW, flags & AT_SYMLINK_NOFOLLOW != 0);
    let held = if path.starts_with(b"/") { None } else { Some(call.directory(dir).ok()?) };
    let from = held.as_ref().map_or(CWD, AsFd::as_fd);
    // The file system tells whether it led through /proc to what is in it.
    openat2(from, path, how, Mode::empty(), ResolveFlags::NO_MAGICLINKS).ok()
}

fn bytes<T>(of: &T) -> &[u8] {
    // SAFETY: as many bytes as the live value has, all of them written: it was zero before the kernel filled it in.
    unsafe { std::slice::from_raw_parts((&raw const *of).cast(), size_of::<T>()) }
}
