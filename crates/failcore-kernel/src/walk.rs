//! From the path an agent's task names to the object it means, in the task's own view.
//!
//! The supervisor resolves, holds the object by an `O_PATH` descriptor, and everything after acts on that
//! descriptor: what was judged is what is used. `/proc/self` is the task, not the supervisor; magic links of /proc
//! lead to objects and are followed only below processes of the run.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use failcore_model::{AbsPath, FileId};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Stat, fstat, fstatfs, openat,
    openat2, readlinkat, statat,
};
use rustix::io::Errno;

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: u32 = 40;
const HOLD: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// No link on the way, of whatever kind.
pub(crate) const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// Whose view it is.
pub(crate) trait View {
    /// The process.
    fn tgid(&self) -> u32;
    /// The task.
    fn tid(&self) -> u32;
    /// Whether a process belongs to the run.
    fn in_run(&self, pid: u32) -> bool;
}

/// Where a relative path starts.
#[derive(Debug)]
pub(crate) enum Start {
    /// The path is absolute.
    Root,
    /// This directory.
    At(OwnedFd),
}

/// An existing object.
#[derive(Debug)]
pub(crate) struct Object {
    /// An `O_PATH` descriptor of it.
    pub(crate) fd: OwnedFd,
    /// What it is.
    pub(crate) stat: Stat,
    /// Its path as rules speak of it.
    pub(crate) path: AbsPath,
}

/// A name in an existing directory.
#[derive(Debug)]
pub(crate) struct Entry {
    /// An `O_PATH` descriptor of the directory.
    pub(crate) dir: OwnedFd,
    /// The name, one component.
    pub(crate) name: Vec<u8>,
    /// What bears it now, itself and not what it may link to.
    pub(crate) stat: Option<Stat>,
    /// Its path as rules speak of it.
    pub(crate) path: AbsPath,
    /// Whether the name was written with a slash after it, which demands a directory.
    pub(crate) slash: bool,
}

/// Where a walk ended.
#[derive(Debug)]
pub(crate) enum Found {
    /// At an object.
    Object(Object),
    /// At the last name, which nothing bears, in an existing directory.
    Vacant(Entry),
    /// Before the end: a directory on the way is missing, is none, or may not be searched.
    Nowhere {
        /// The path as far as it could be resolved, with the remaining names.
        path: AbsPath,
        /// The errno of the call that stopped.
        why: Errno,
    },
}

impl Object {
    /// Its identity.
    pub(crate) fn id(&self) -> FileId {
        FileId { dev: self.stat.st_dev, ino: self.stat.st_ino }
    }

    /// Whether it is of this kind.
    pub(crate) fn is(&self, kind: FileType) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == kind
    }
}

impl Entry {
    /// Whether what bears the name is a directory; `None` where nothing does.
    pub(crate) fn is_directory(&self) -> Option<bool> {
        self.stat.as_ref().map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Whether something else bore the name when it was looked at, and a directory does by now.
    pub(crate) fn turned_into_directory(&self) -> bool {
        self.is_directory() == Some(false)
            && statat(&self.dir, self.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|now| FileType::from_raw_mode(now.st_mode) == FileType::Directory)
    }
}

/// The object that `asked` means; a link in the last place is followed if `follow`.
///
/// # Errors
/// What the call itself fails with, whatever the policy says: `ELOOP`, `ENAMETOOLONG`, no descriptors; `EACCES` for a
/// magic link into a process outside the run.
pub(crate) fn object(view: &dyn View, start: &Start, asked: &[u8], follow: bool) -> Result<Found, Errno> {
    if asked.is_empty() {
        return Err(Errno::NOENT);
    }
    // The common case: no link on the way, which one call both finds and proves.
    let mut flags = HOLD;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    match openat2(start.fd(), asked, flags, Mode::empty(), NO_LINKS) {
        Ok(fd) => return Ok(Found::Object(finish(view, fd, Some(asked))?)),
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NAMETOOLONG)) => return Err(errno),
        // The next most common: one link, and that right below the root, as /bin and /lib are today.
        Err(Errno::LOOP) => {
            if let Some(past) = past_first_link(asked)
                && let Ok(fd) = openat2(CWD, past.as_slice(), flags, Mode::empty(), NO_LINKS)
            {
                return Ok(Found::Object(finish(view, fd, Some(&past))?));
            }
        }
        Err(_) => {}
    }
    Walk { view, links: 0 }.run(start, asked, follow || asked.ends_with(b"/"))
}

/// An absolute path whose first component is a link, with that replaced by what the link says.
pub(crate) fn past_first_link(asked: &[u8]) -> Option<Vec<u8>> {
    let first = Some(first(asked)).filter(|first| first.len() > 1)?;
    let mut past = vec![b'/'];
    past.extend_from_slice(readlinkat(CWD, first, Vec::new()).ok()?.to_bytes());
    past.extend_from_slice(&asked[first.len()..]);
    Some(past)
}

/// An absolute path's first component, with the slash before it; nothing of a relative one.
pub(crate) fn first(asked: &[u8]) -> &[u8] {
    match asked.split_first() {
        Some((b'/', rest)) => {
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            &asked[..=end]
        }
        _ => &[],
    }
}

/// The directory entry that `asked` names, never followed.
///
/// # Errors
/// As [`object`]; `Err(EINVAL)` where the last component, of a directory that is there, is `.`, `..` or nothing, which
/// names no entry.
pub(crate) fn entry(view: &dyn View, start: &Start, asked: &[u8]) -> Result<Result<Entry, Found>, Errno> {
    if asked.is_empty() {
        return Err(Errno::NOENT);
    }
    let end = asked.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let (trimmed, slash) = (&asked[..end], end < asked.len());
    let split = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let (above, name) = trimmed.split_at(split);
    if name.len() > 255 {
        return Err(Errno::NAMETOOLONG);
    }
    let above = match (above, name) {
        (b"", b"") => b"/".as_slice(),
        (b"", _) => b".".as_slice(),
        (above, _) => above,
    };
    if matches!(name, b"" | b"." | b"..") {
        return match object(view, start, above, true)? {
            Found::Object(dir) if dir.is(FileType::Directory) => Err(Errno::INVAL),
            Found::Object(other) => Ok(Err(Found::Nowhere { path: other.path, why: Errno::NOTDIR })),
            Found::Vacant(missing) => Ok(Err(Found::Nowhere { path: missing.path, why: Errno::NOENT })),
            nowhere @ Found::Nowhere { .. } => Ok(Err(nowhere)),
        };
    }
    let dir = match object(view, start, above, true)? {
        Found::Object(dir) if dir.is(FileType::Directory) => dir,
        Found::Object(other) => {
            return Ok(Err(Found::Nowhere { path: joined(&other.path, name)?, why: Errno::NOTDIR }));
        }
        Found::Vacant(missing) => {
            return Ok(Err(Found::Nowhere { path: joined(&missing.path, name)?, why: Errno::NOENT }));
        }
        Found::Nowhere { path, why } => return Ok(Err(Found::Nowhere { path: joined(&path, name)?, why })),
    };
    match vacant_or_not(dir.fd, &dir.path, name, slash) {
        // Whether something bears the name is for those to know who may search the directory.
        Err(why @ Errno::ACCESS) => Ok(Err(Found::Nowhere { path: joined(&dir.path, name)?, why })),
        entry => entry.map(Ok),
    }
}

/// The entry `name` of a directory whose path is known.
fn vacant_or_not(dir: OwnedFd, path: &AbsPath, name: &[u8], slash: bool) -> Result<Entry, Errno> {
    let stat = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(stat),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(errno),
    };
    Ok(Entry { path: joined(path, name)?, dir, name: name.to_vec(), stat, slash })
}

fn joined(dir: &AbsPath, name: &[u8]) -> Result<AbsPath, Errno> {
    dir.join(name).map_err(|_| Errno::NAMETOOLONG)
}

impl Start {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root => CWD,
            Self::At(fd) => fd.as_fd(),
        }
    }
}

/// An object from its descriptor. `asked` is the path that led to it where no link was on the way.
fn finish(view: &dyn View, fd: OwnedFd, asked: Option<&[u8]>) -> Result<Object, Errno> {
    let stat = fstat(&fd)?;
    let spelled = asked
        .filter(|asked| asked.starts_with(b"/") && !has_parent(asked))
        .and_then(|asked| AbsPath::lexical(asked).ok());
    let path = match spelled {
        // Nothing moved while it was walked that could not as well have been there before.
        Some(path) => path,
        // A working directory may have been deleted under its task.
        None => real_path(fd.as_fd()).or_else(|_| last_path(fd.as_fd()))?,
    };
    Ok(Object { path: own_proc(view, path), fd, stat })
}

fn has_parent(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|component| component == b"..")
}

/// The path of an object, from the kernel.
///
/// # Errors
/// `ENOENT` where it has none any more: it was deleted, or is no file of a mounted file system.
pub(crate) fn real_path(fd: BorrowedFd<'_>) -> Result<AbsPath, Errno> {
    let target = readlinkat(CWD, own_fd(fd), Vec::new())?.into_bytes();
    if target.ends_with(b" (deleted)") && fstat(fd)?.st_nlink == 0 {
        return Err(Errno::NOENT);
    }
    AbsPath::new(&target).map_err(|_| Errno::NOENT)
}

/// The path that a file had before it was deleted: what may be done to it does not grow with that.
fn last_path(fd: BorrowedFd<'_>) -> Result<AbsPath, Errno> {
    let target = readlinkat(CWD, own_fd(fd), Vec::new())?.into_bytes();
    let path = target.strip_suffix(b" (deleted)").filter(|path| !path.starts_with(b"/memfd:"));
    AbsPath::new(path.ok_or(Errno::NOENT)?).map_err(|_| Errno::NOENT)
}

/// The magic link to one of our own descriptors, through which calls that take only paths act on an object.
pub(crate) fn own_fd(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Spells the process's own `/proc/PID` as `/proc/self`, as rules do.
pub(crate) fn own_proc(view: &dyn View, path: AbsPath) -> AbsPath {
    let Some(rest) = path.as_bytes().strip_prefix(b"/proc/") else { return path };
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    if !rest[..end].iter().all(u8::is_ascii_digit) || rest[..end] != *view.tgid().to_string().as_bytes() {
        return path;
    }
    AbsPath::new(&[b"/proc/self", &rest[end..]].concat()).unwrap_or(path)
}

/// The process whose part of /proc a path lies in: its first component that is a number.
pub(crate) fn proc_owner(path: &AbsPath) -> Option<u32> {
    let number = |name: &&[u8]| name.first().is_some_and(u8::is_ascii_digit);
    path.components().filter(number).find_map(|name| std::str::from_utf8(name).ok()?.parse().ok())
}

/// Whether an object lies in a /proc, wherever that is mounted.
pub(crate) fn is_proc(fd: BorrowedFd<'_>) -> bool {
    fstatfs(fd).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC)
}

struct Walk<'a> {
    view: &'a dyn View,
    links: u32,
}

impl Walk<'_> {
    /// Walks component by component as the kernel does (path_resolution(7)).
    fn run(mut self, start: &Start, asked: &[u8], follow: bool) -> Result<Found, Errno> {
        let mut here = match start {
            _ if asked.starts_with(b"/") => root()?,
            Start::Root => root()?,
            Start::At(dir) => rustix::io::fcntl_dupfd_cloexec(dir, 0)?,
        };
        // Components still to go, the next one last.
        let mut ahead = split(asked);
        // A slash at the end demands a directory, also where the end is that of a link's target.
        let mut slash = asked.ends_with(b"/");
        while let Some(name) = ahead.pop() {
            let last = ahead.is_empty();
            if name.len() > 255 {
                return Err(Errno::NAMETOOLONG);
            }
            // Both want a directory that may be searched.
            if matches!(name.as_slice(), b"." | b"..") {
                match openat(&here, name.as_slice(), HOLD | OFlags::DIRECTORY, Mode::empty()) {
                    Ok(there) => here = there,
                    Err(why) => return self.nowhere(&here, &[], &ahead, why),
                }
                continue;
            }
            let next = match openat(&here, name.as_slice(), HOLD | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) if last => {
                    let path = own_proc(self.view, real_path(here.as_fd())?);
                    return Ok(Found::Vacant(vacant_or_not(here, &path, &name, slash)?));
                }
                Err(why @ (Errno::NOENT | Errno::NOTDIR | Errno::ACCESS)) => {
                    return self.nowhere(&here, &name, &ahead, why);
                }
                Err(errno) => return Err(errno),
            };
            let kind = FileType::from_raw_mode(fstat(&next)?.st_mode);
            if kind == FileType::Symlink && (!last || follow) {
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                match self.follow(&here, &name, &next)? {
                    Link::Text(target) => {
                        if target.starts_with(b"/") {
                            here = root()?;
                        }
                        slash |= last && target.ends_with(b"/");
                        ahead.extend(split(&target));
                    }
                    Link::Object(object) if last => return self.at_magic(&here, &name, object),
                    Link::Object(object) => here = object,
                }
                continue;
            }
            if last && (kind == FileType::Directory || !slash) {
                return finish(self.view, next, None).map(Found::Object);
            }
            if kind != FileType::Directory {
                return self.nowhere(&here, &name, &ahead, Errno::NOTDIR);
            }
            here = next;
        }
        finish(self.view, here, None).map(Found::Object)
    }

    /// Where a link leads.
    fn follow(&self, dir: &OwnedFd, name: &[u8], link: &OwnedFd) -> Result<Link, Errno> {
        const PROC_ROOT: u64 = 1;
        if !is_proc(link.as_fd()) {
            return Ok(Link::Text(readlinkat(link, "", Vec::new())?.into_bytes()));
        }
        let at_root = fstat(dir)?.st_ino == PROC_ROOT;
        match name {
            b"self" if at_root => return Ok(Link::Text(self.view.tgid().to_string().into_bytes())),
            b"thread-self" if at_root => {
                return Ok(Link::Text(format!("{}/task/{}", self.view.tgid(), self.view.tid()).into_bytes()));
            }
            _ => {}
        }
        let Some(pid) = proc_owner(&real_path(dir.as_fd())?) else {
            return Ok(Link::Text(readlinkat(link, "", Vec::new())?.into_bytes()));
        };
        if !self.view.in_run(pid) {
            return Err(Errno::ACCESS);
        }
        let object = openat(dir, name, HOLD, Mode::empty())?;
        // Another namespace's door opens nothing here.
        const NSFS: i64 = 0x6e73_6673;
        if fstatfs(&object)?.f_type == NSFS {
            return Err(Errno::ACCESS);
        }
        Ok(Link::Object(object))
    }

    /// The object behind a magic link; one that never had a path (a pipe, a socket) is spoken of by the link's.
    fn at_magic(&self, dir: &OwnedFd, name: &[u8], object: OwnedFd) -> Result<Found, Errno> {
        let stat = fstat(&object)?;
        let path = match real_path(object.as_fd()).or_else(|_| last_path(object.as_fd())) {
            Ok(path) => path,
            Err(_) => joined(&real_path(dir.as_fd())?, name)?,
        };
        Ok(Found::Object(Object { path: own_proc(self.view, path), fd: object, stat }))
    }

    fn nowhere(&self, here: &OwnedFd, name: &[u8], ahead: &[Vec<u8>], why: Errno) -> Result<Found, Errno> {
        let mut path = own_proc(self.view, real_path(here.as_fd())?);
        if !name.is_empty() {
            path = joined(&path, name)?;
        }
        for name in ahead.iter().rev() {
            path = match name.as_slice() {
                b"." => path,
                b".." => path.parent().unwrap_or(path),
                name => joined(&path, name)?,
            };
        }
        Ok(Found::Nowhere { path, why })
    }
}

enum Link {
    Text(Vec<u8>),
    Object(OwnedFd),
}

fn root() -> Result<OwnedFd, Errno> {
    openat(CWD, "/", HOLD | OFlags::DIRECTORY, Mode::empty())
}

fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|c| !c.is_empty()).rev().map(<[u8]>::to_vec).collect()
}
