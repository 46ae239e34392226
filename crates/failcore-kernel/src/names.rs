//! Names: made, removed, moved and linked by the supervisor in the directory that was resolved.
//!
//! Every change of a name the agent makes goes through here, under the shared side of a lock: who holds it alone
//! sees names that stand still.

use std::os::fd::AsFd;

use failcore_model::{Action, FileRef, Text};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, RenameFlags, linkat, mkdirat, mknodat, renameat_with, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use crate::call::{Call, DONE, Reply, through};
use crate::walk::{self, Entry, Found, Start};

const HERE: i32 = libc::AT_FDCWD;

/// Where a path argument stands: the directory descriptor and the number of the argument.
#[derive(Clone, Copy)]
struct At {
    dir: i32,
    path: usize,
}

fn at(dir: i32, path: usize) -> At {
    At { dir, path }
}

/// An entry with the path it was asked for by.
struct Named {
    asked: Vec<u8>,
    entry: Entry,
}

/// The entry that an argument names.
///
/// Where its directory cannot be reached the call fails with what the kernel says: nothing is there to be judged, and
/// what exists is visible anyway. `dots` is what the call says to a path that ends in `.` or `..`, or is the root.
fn named(call: &Call<'_>, at: At, dots: impl Fn(&[u8]) -> Errno) -> Result<Named, Errno> {
    let asked = call.path(at.path)?;
    let start = call.start(at.dir, &asked)?;
    match walk::entry(call, &start, &asked) {
        Ok(Ok(entry)) => Ok(Named { asked, entry }),
        Ok(Err(Found::Nowhere { why, .. })) => Err(why),
        Ok(Err(_)) => Err(Errno::NOENT),
        Err(Errno::INVAL) => Err(dots(&asked)),
        Err(errno) => Err(errno),
    }
}

/// What is said to a slash after the name of something that will be no directory.
fn no_directory(entry: &Entry) -> Errno {
    if entry.stat.is_some() { Errno::EXIST } else { Errno::NOENT }
}

fn mode(raw: u64) -> Mode {
    Mode::from_raw_mode((raw & 0o7777) as u32)
}

// ---- making -------------------------------------------------------------------------------------------------

#[cfg(target_arch = "x86_64")]
pub(crate) fn mkdir(call: &Call<'_>) -> Reply {
    make_directory(call, at(HERE, 0), call.arg(1))
}

/// `mkdirat(dir, path, mode)`.
pub(crate) fn mkdir_at(call: &Call<'_>) -> Reply {
    make_directory(call, at(call.int(0), 1), call.arg(2))
}

fn make_directory(call: &Call<'_>, at: At, raw: u64) -> Reply {
    let Named { asked, entry } = named(call, at, |_| Errno::EXIST)?;
    let grant = call.judge(Action::Create(call.entry_ref(&asked, &entry)))?;
    call.take_umask();
    let _names = call.shared.names();
    call.concluded(grant, mkdirat(&entry.dir, entry.name.as_slice(), mode(raw)))?;
    DONE
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn mknod(call: &Call<'_>) -> Reply {
    make_node(call, at(HERE, 0), call.arg(1), call.arg(2))
}

/// `mknodat(dir, path, mode, dev)`.
pub(crate) fn mknod_at(call: &Call<'_>) -> Reply {
    make_node(call, at(call.int(0), 1), call.arg(2), call.arg(3))
}

fn make_node(call: &Call<'_>, at: At, raw: u64, device: u64) -> Reply {
    let kind = match raw as u32 & libc::S_IFMT {
        0 => FileType::RegularFile,
        libc::S_IFDIR => return Err(Errno::PERM),
        kind => FileType::from_raw_mode(kind),
    };
    let Named { asked, entry } = named(call, at, |_| Errno::EXIST)?;
    if entry.slash {
        return Err(no_directory(&entry));
    }
    let grant = call.judge(Action::Create(call.entry_ref(&asked, &entry)))?;
    call.take_umask();
    let _names = call.shared.names();
    // The argument is an unsigned int in the kernel's encoding.
    let made = mknodat(&entry.dir, entry.name.as_slice(), kind, mode(raw), Dev::from(device as u32));
    call.concluded(grant, made)?;
    DONE
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn symlink(call: &Call<'_>) -> Reply {
    make_link(call, at(HERE, 1))
}

/// `symlinkat(target, dir, path)`.
pub(crate) fn symlink_at(call: &Call<'_>) -> Reply {
    make_link(call, at(call.int(1), 2))
}

fn make_link(call: &Call<'_>, at: At) -> Reply {
    let target = call.path(0)?;
    if target.is_empty() {
        return Err(Errno::NOENT);
    }
    let Named { asked, entry } = named(call, at, |_| Errno::EXIST)?;
    let action =
        Action::Symlink { target: Text::from(target.as_slice()), at: call.entry_ref(&asked, &entry) };
    let grant = call.judge(action)?;
    let _names = call.shared.names();
    let made = match entry.slash {
        true => Err(no_directory(&entry)),
        false => symlinkat(target.as_slice(), &entry.dir, entry.name.as_slice()),
    };
    call.concluded(grant, made)?;
    DONE
}

// ---- removing -----------------------------------------------------------------------------------------------

#[cfg(target_arch = "x86_64")]
pub(crate) fn unlink(call: &Call<'_>) -> Reply {
    remove(call, at(HERE, 0), AtFlags::empty())
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn rmdir(call: &Call<'_>) -> Reply {
    remove(call, at(HERE, 0), AtFlags::REMOVEDIR)
}

/// `unlinkat(dir, path, flags)`.
pub(crate) fn unlink_at(call: &Call<'_>) -> Reply {
    let flags = AtFlags::from_bits_retain(call.int(2).cast_unsigned());
    if !AtFlags::REMOVEDIR.contains(flags) {
        return Err(Errno::INVAL);
    }
    remove(call, at(call.int(0), 1), flags)
}

fn remove(call: &Call<'_>, at: At, flags: AtFlags) -> Reply {
    let dots = |asked: &[u8]| {
        let end = asked.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        match &asked[..end] {
            _ if flags.is_empty() => Errno::ISDIR,
            b"" => Errno::BUSY,
            up if up.ends_with(b"..") => Errno::NOTEMPTY,
            _ => Errno::INVAL,
        }
    };
    let Named { asked, entry } = named(call, at, dots)?;
    if entry.stat.is_none() {
        return Err(Errno::NOENT);
    }
    let grant = call.judge(Action::Delete(call.entry_ref(&asked, &entry)))?;
    let _names = call.shared.names();
    let removed = match entry.slash && flags.is_empty() {
        true => Err(if entry.is_directory() == Some(true) { Errno::ISDIR } else { Errno::NOTDIR }),
        false => unlinkat(&entry.dir, entry.name.as_slice(), flags),
    };
    call.concluded(grant, removed)?;
    DONE
}

// ---- moving and linking -------------------------------------------------------------------------------------

#[cfg(target_arch = "x86_64")]
pub(crate) fn rename(call: &Call<'_>) -> Reply {
    relocate(call, at(HERE, 0), at(HERE, 1), 0)
}

/// `renameat(dir, path, dir, path)`.
pub(crate) fn rename_at(call: &Call<'_>) -> Reply {
    relocate(call, at(call.int(0), 1), at(call.int(2), 3), 0)
}

/// `renameat2(dir, path, dir, path, flags)`.
pub(crate) fn rename_at2(call: &Call<'_>) -> Reply {
    relocate(call, at(call.int(0), 1), at(call.int(2), 3), call.int(4).cast_unsigned())
}

fn relocate(call: &Call<'_>, from: At, to: At, flags: u32) -> Reply {
    let flags = RenameFlags::from_bits_retain(flags);
    let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
    if !known.contains(flags) || flags == known {
        return Err(Errno::INVAL);
    }
    let from = named(call, from, |_| Errno::BUSY)?;
    let to = named(call, to, |_| Errno::BUSY)?;
    if from.entry.stat.is_none() {
        return Err(Errno::NOENT);
    }
    let (a, b) = (call.entry_ref(&from.asked, &from.entry), call.entry_ref(&to.asked, &to.entry));
    let (a_moves, b_moves) = (
        FileRef { dir: from.entry.is_directory(), ..a.clone() },
        FileRef { dir: to.entry.is_directory(), ..b.clone() },
    );
    let grant = call.judge(Action::Rename { from: a_moves, to: b })?;
    // An exchange is two moves.
    if flags.contains(RenameFlags::EXCHANGE) {
        let back = call.judge(Action::Rename { from: b_moves, to: a });
        if let Err(errno) = back {
            return call.concluded(grant, Err(errno));
        }
    }
    // Alone: a directory put where a file was judged would carry along what nobody looked for.
    let still = call.shared.still();
    let (a, b) = (&from.entry, &to.entry);
    let moved = if (a.slash || b.slash) && a.is_directory() != Some(true) {
        Err(Errno::NOTDIR)
    } else if a.turned_into_directory() || b.turned_into_directory() {
        // The file that was judged is gone.
        Err(Errno::NOENT)
    } else {
        renameat_with(&a.dir, a.name.as_slice(), &b.dir, b.name.as_slice(), flags)
    };
    drop(still);
    call.concluded(grant, moved)?;
    DONE
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn link(call: &Call<'_>) -> Reply {
    add_name(call, at(HERE, 0), at(HERE, 1), AtFlags::empty())
}

/// `linkat(dir, path, dir, path, flags)`.
pub(crate) fn link_at(call: &Call<'_>) -> Reply {
    let flags = AtFlags::from_bits_retain(call.int(4).cast_unsigned());
    if !(AtFlags::SYMLINK_FOLLOW | AtFlags::EMPTY_PATH).contains(flags) {
        return Err(Errno::INVAL);
    }
    add_name(call, at(call.int(0), 1), at(call.int(2), 3), flags)
}

fn add_name(call: &Call<'_>, from: At, to: At, flags: AtFlags) -> Reply {
    let asked = call.path(from.path)?;
    let held;
    let source = if asked.is_empty() && flags.contains(AtFlags::EMPTY_PATH) {
        held = call.descriptor(from.dir)?;
        let stat = rustix::fs::fstat(&held)?;
        let path = walk::real_path(held.as_fd()).map(|path| walk::own_proc(call, path)).ok();
        (held, stat, path)
    } else {
        let start: Start = call.start(from.dir, &asked)?;
        match walk::object(call, &start, &asked, flags.contains(AtFlags::SYMLINK_FOLLOW))? {
            Found::Object(object) => {
                let path = (object.stat.st_nlink > 0).then_some(object.path);
                (object.fd, object.stat, path)
            }
            Found::Vacant(_) => return Err(Errno::NOENT),
            Found::Nowhere { why, .. } => return Err(why),
        }
    };
    let (object, stat, path) = source;
    let to = named(call, to, |_| Errno::EXIST)?;
    let to_ref = call.entry_ref(&to.asked, &to.entry);
    let action = match path {
        Some(path) => {
            let id = failcore_model::FileId { dev: stat.st_dev, ino: stat.st_ino };
            Action::Link { from: call.file_ref(&asked, path, Some(id)), to: to_ref }
        }
        // A file without a name that the task made: it gets its first one.
        None => Action::Create(to_ref),
    };
    let grant = call.judge(action)?;
    let _names = call.shared.names();
    let made = match to.entry.slash {
        true => Err(no_directory(&to.entry)),
        // The object itself, through the magic link to our descriptor of it.
        false => {
            linkat(CWD, through(&object), &to.entry.dir, to.entry.name.as_slice(), AtFlags::SYMLINK_FOLLOW)
        }
    };
    call.concluded(grant, made)?;
    DONE
}
