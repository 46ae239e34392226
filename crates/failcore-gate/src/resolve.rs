//! From the path a program names to the object it would reach.
//!
//! Policies judge resolved paths, so resolving is part of completing a request. The common case, a path without
//! symbolic links, costs one `openat2(2)`; everything else is walked. Who can have the kernel prove the path when it
//! is used needs no call at all: see [`presumed`].

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use failcore_model::{AbsPath, FileId, FileRef, PathError, Text};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;
use smallvec::SmallVec;

/// Whether a symbolic link in the last component is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// As open and chmod do.
    Final,
    /// As unlink, rename, lstat and `O_NOFOLLOW` do.
    NoFinal,
}

/// Why a path could not be resolved; each is a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The path itself is malformed.
    #[error(transparent)]
    Malformed(#[from] PathError),
    /// The kernel would not say, for a reason other than absence.
    #[error("path cannot be resolved: {0}")]
    Os(Errno),
}

impl ResolveError {
    /// The error number (errno(3)).
    pub fn errno(self) -> i32 {
        match self {
            Self::Malformed(PathError::Nul) => Errno::INVAL.raw_os_error(),
            Self::Malformed(_) => Errno::NAMETOOLONG.raw_os_error(),
            Self::Os(errno) => errno.raw_os_error(),
        }
    }
}

/// How long what was found about the directories above a file is taken as known. A program outside the gate that moves a
/// denied directory goes unnoticed for so long; a path resolved in this lane can be raced for longer than that.
const FRESH: Duration = Duration::from_millis(1);
/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What a path was found to name.
#[derive(Debug)]
pub struct Found {
    /// The file.
    pub file: FileRef,
    /// Whether no symbolic link led to it, so that the kernel opens it also where it must follow none.
    pub no_links: bool,
}

/// Resolves what `asked` names, relative to the directory `at` (the working directory without one).
///
/// What does not exist is resolved as far as it does, and keeps its remaining names: it is judged like what
/// exists. With `ids`, the identity of the object and of each directory above it is determined as well. The
/// process's own `/proc/PID` is spelt `/proc/self`, so that rules can speak of it.
///
/// # Errors
/// [`ResolveError`] for NUL bytes, over-long paths and failures other than absence (such as no free descriptor).
///
/// # Security
/// The answer holds for the moment of asking: a racing thread may change links afterwards. Callers that must not
/// be raced act on a descriptor, not on this path.
pub fn file(
    at: Option<BorrowedFd<'_>>,
    asked: &[u8],
    follow: Follow,
    ids: bool,
) -> Result<Found, ResolveError> {
    found(at, asked, follow, ids, straight)
}

/// As [`file`], by calls that a supervisor of system calls lets pass unseen: openat(2) with `O_PATH`, and no openat2(2),
/// whose flags it cannot see.
///
/// # Errors
/// As [`file`].
pub fn file_unmediated(
    at: Option<BorrowedFd<'_>>,
    asked: &[u8],
    follow: Follow,
    ids: bool,
) -> Result<Found, ResolveError> {
    found(at, asked, follow, ids, held)
}

/// One way of finding an object that exists.
type Find = fn(Option<BorrowedFd<'_>>, &[u8], Follow) -> Result<Reached, Errno>;

/// An object that exists.
struct Reached {
    fd: OwnedFd,
    path: AbsPath,
    /// Whether the kernel proved that no symbolic link led there.
    no_links: bool,
}

fn found(
    at: Option<BorrowedFd<'_>>,
    asked: &[u8],
    follow: Follow,
    ids: bool,
    find: Find,
) -> Result<Found, ResolveError> {
    if asked.contains(&0) {
        return Err(PathError::Nul.into());
    }
    if asked.len() > 4095 {
        return Err(PathError::TooLong.into());
    }
    // A final slash asks for a directory and makes the kernel follow a last link.
    let follow = if asked.ends_with(b"/") { Follow::Final } else { follow };
    let mut proven = false;
    let (path, exists, no_links, id) = match find(at, asked, follow) {
        Ok(Reached { fd, path, no_links }) => {
            proven = no_links;
            (path, true, no_links, ids.then(|| identity(&fd)).flatten())
        }
        Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::BADF) if asked.is_empty() => {
            return Err(ResolveError::Os(Errno::NOENT));
        }
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(ResolveError::Os(errno)),
        Err(_) => {
            let start = match at {
                Some(dir) if !asked.starts_with(b"/") => real_path(dir).map_err(ResolveError::Os)?,
                _ if asked.starts_with(b"/") => AbsPath::root(),
                _ => working_directory().map_err(ResolveError::Os)?,
            };
            let Walked { path, exists, links } = walk(start, asked, follow)?;
            let id = if ids && exists { stat_identity(&path) } else { None };
            (path, exists, links == 0, id)
        }
    };
    let path = own_proc(path);
    let mut file = FileRef { asked: spelled(asked, &path), exists, dir: None, ids: SmallVec::new(), path };
    file.ids.extend(id);
    if (ids || proven)
        && let Some(dir) = file.path.parent_bytes()
    {
        file.ids.extend_from_slice(&chain(dir, proven, ids, Instant::now()));
    }
    Ok(Found { file, no_links })
}

/// What `asked` names if it is there and no link, in a directory to which no link led a moment ago. `None` where nothing
/// is known of the directory. The identity of the object itself is left out.
///
/// # Security
/// A guess, for who then has the kernel refuse links (`RESOLVE_NO_SYMLINKS`) in the very call that opens the path, and
/// looks at the identity of what was opened. Where either tells otherwise the guess was [`wrong`]: the path must be
/// resolved by [`file`].
pub fn presumed(asked: &[u8], ids: bool, now: Instant) -> Option<FileRef> {
    let path = if asked.starts_with(b"/") {
        AbsPath::new(asked).ok()?
    } else {
        let dir = working_directory().ok()?;
        AbsPath::new(&[dir.as_bytes(), b"/", asked].concat()).ok()?
    };
    if path.as_bytes().starts_with(b"/proc/") {
        return None; // another process finds other things there
    }
    let dir = path.parent_bytes()?;
    let ids = CHAINS.with_borrow(|chains| {
        let chain = chains.iter().flatten().find(|chain| chain.is_of(dir, now))?;
        (chain.no_links && !chain.misled && (chain.whole || !ids)).then(|| chain.ids.clone())
    })?;
    Some(FileRef { asked: spelled(asked, &path), path, exists: true, dir: None, ids })
}

/// A path was not what was [`presumed`]: nothing more is presumed of its directory for the time being.
pub fn wrong(path: &AbsPath) {
    CHAINS.with_borrow_mut(|chains| {
        for chain in chains.iter_mut().flatten() {
            chain.misled |= path.parent_bytes() == Some(chain.dir.as_bytes());
        }
    });
}

/// Forgets what is known of directories: this process is about to move one, or to make a link.
pub fn forget() {
    MOVES.fetch_add(1, Relaxed);
}

/// The asked bytes, which are mostly those of the path.
fn spelled(asked: &[u8], path: &AbsPath) -> Text {
    if asked == path.as_bytes() { path.clone().into() } else { Text::from(asked) }
}

/// Whether a resolved path is that of a directory, and not of a link to one; `None` where the kernel does not say.
///
/// Apart from [`file`], because only what is moved is asked about: opens do not pay for it.
pub fn is_directory(path: &AbsPath) -> Option<bool> {
    let stat = statat(CWD, path.as_path(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// The fast path: succeeds only where no component is a symbolic link, which makes the spelling the truth.
fn straight(at: Option<BorrowedFd<'_>>, asked: &[u8], follow: Follow) -> Result<Reached, Errno> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if follow == Follow::NoFinal {
        flags |= OFlags::NOFOLLOW;
    }
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd = openat2(at.unwrap_or(CWD), asked, flags, Mode::empty(), no_links)?;
    let path = if asked.starts_with(b"/") {
        AbsPath::lexical(asked).map_err(|_| Errno::NAMETOOLONG)?
    } else if at.is_some() {
        real_path(fd.as_fd())?
    } else {
        below(&working_directory()?, asked).map_err(|_| Errno::NAMETOOLONG)?
    };
    Ok(Reached { fd, path, no_links: true })
}

/// The way that a supervisor lets pass: the kernel follows the links, and says where they led.
fn held(at: Option<BorrowedFd<'_>>, asked: &[u8], follow: Follow) -> Result<Reached, Errno> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if follow == Follow::NoFinal {
        flags |= OFlags::NOFOLLOW;
    }
    let fd = openat(at.unwrap_or(CWD), asked, flags, Mode::empty())?;
    let path = real_path(fd.as_fd())?;
    Ok(Reached { fd, path, no_links: false })
}

fn below(dir: &AbsPath, relative: &[u8]) -> Result<AbsPath, PathError> {
    let mut whole = dir.as_bytes().to_vec();
    whole.push(b'/');
    whole.extend_from_slice(relative);
    AbsPath::lexical(&whole)
}

/// Where a walk ended, and how many links it followed.
struct Walked {
    path: AbsPath,
    exists: bool,
    links: usize,
}

/// Walks component by component as the kernel does (path_resolution(7)), keeping the names of what is missing.
fn walk(start: AbsPath, asked: &[u8], follow: Follow) -> Result<Walked, ResolveError> {
    let mut here = start;
    let mut exists = true;
    let mut links = 0;
    // Components still to go, the next one last.
    let mut ahead: Vec<Vec<u8>> = split(asked);
    while let Some(name) = ahead.pop() {
        if name == b".." {
            here = here.parent().unwrap_or(here);
            continue;
        }
        let next = here.join(&name)?;
        let last = ahead.is_empty();
        if !exists || (last && follow == Follow::NoFinal) {
            exists = exists && statat(CWD, next.as_path(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
            here = next;
            continue;
        }
        match readlinkat(CWD, next.as_path(), Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(ResolveError::Os(Errno::LOOP));
                }
                if let Some(real) = magic(&next) {
                    // A magic link of /proc goes to an object, not to a spelling; one without a path (a pipe, a
                    // socket) stays what it is.
                    match real {
                        Some(real) => here = real,
                        None => here = next,
                    }
                    continue;
                }
                let target = target.into_bytes();
                if target.starts_with(b"/") {
                    here = AbsPath::root();
                }
                ahead.extend(split(&target));
            }
            Err(Errno::INVAL) => here = next, // no link
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {
                exists = false;
                here = next;
            }
            Err(errno) => return Err(ResolveError::Os(errno)),
        }
    }
    Ok(Walked { path: here, exists, links })
}

fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|c| !matches!(*c, b"" | b".")).rev().map(<[u8]>::to_vec).collect()
}

/// For a magic link of /proc (`fd/N`, `cwd`, `root`, `exe`, `map_files/…`, `ns/…`): where it really leads, `None` inside where
/// that is no path.
fn magic(link: &AbsPath) -> Option<Option<AbsPath>> {
    if !link.as_bytes().starts_with(b"/proc/") {
        return None;
    }
    let name = link.file_name()?;
    let holder = link.parent()?;
    let numbered = |dir: &[u8]| holder.file_name() == Some(dir);
    let is_magic = matches!(name, b"cwd" | b"root" | b"exe")
        || numbered(b"fd")
        || numbered(b"map_files")
        || numbered(b"ns");
    if !is_magic {
        return None;
    }
    let real = openat(CWD, link.as_path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(|fd| real_path(fd.as_fd()))
        .ok();
    Some(real)
}

/// The path of an open descriptor, from the kernel.
fn real_path(fd: BorrowedFd<'_>) -> Result<AbsPath, Errno> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let target = readlinkat(CWD, link, Vec::new())?.into_bytes();
    AbsPath::new(&target).map_err(|_| Errno::NOENT)
}

fn working_directory() -> Result<AbsPath, Errno> {
    let cwd = rustix::process::getcwd(Vec::new())?;
    AbsPath::new(cwd.as_bytes()).map_err(|_| Errno::NOENT)
}

/// Spells the process's own `/proc/PID` as `/proc/self`.
fn own_proc(path: AbsPath) -> AbsPath {
    let Some(rest) = path.as_bytes().strip_prefix(b"/proc/") else { return path };
    let end = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    if rest[..end] != *std::process::id().to_string().as_bytes() {
        return path;
    }
    let own = [b"/proc/self", &rest[end..]].concat();
    AbsPath::new(&own).unwrap_or(path)
}

/// A directory as it was found a moment ago.
struct Chain {
    dir: AbsPath,
    /// Whether no symbolic link led to it.
    no_links: bool,
    /// Whether something in it was not what was presumed.
    misled: bool,
    /// Whether `ids` holds its identity and that of each directory above it.
    whole: bool,
    ids: SmallVec<[FileId; 1]>,
    at: Instant,
    /// The value of [`MOVES`] then.
    moves: u64,
}

impl Chain {
    fn is_of(&self, dir: &[u8], now: Instant) -> bool {
        self.dir.as_bytes() == dir && now - self.at < FRESH && self.moves == MOVES.load(Relaxed)
    }
}

/// How often this process has moved something or made a link.
static MOVES: AtomicU64 = AtomicU64::new(0);

// Programs use many files of few directories in a row, so the thread's last answers serve for `FRESH`.
thread_local!(static CHAINS: RefCell<[Option<Chain>; 4]> = const { RefCell::new([const { None }; 4]) });

/// The identity of `dir` and of each directory above it, where wanted; what is not known yet is found out and kept.
/// `no_links`: it has just been reached without a symbolic link.
fn chain(dir: &[u8], no_links: bool, ids: bool, now: Instant) -> SmallVec<[FileId; 1]> {
    CHAINS.with_borrow_mut(|chains| {
        let known = chains
            .iter()
            .flatten()
            .find(|chain| chain.is_of(dir, now) && (chain.no_links || !no_links) && (chain.whole || !ids));
        if let Some(known) = known {
            return known.ids.clone();
        }
        let Ok(dir) = AbsPath::new(dir) else { return SmallVec::new() };
        let moves = MOVES.load(Relaxed);
        let mut found = SmallVec::new();
        let mut next = ids.then(|| dir.clone());
        while let Some(here) = next {
            found.extend(stat_identity(&here));
            next = here.parent();
        }
        let same = chains.iter().position(|chain| chain.as_ref().is_some_and(|chain| chain.dir == dir));
        let oldest =
            || (0..chains.len()).min_by_key(|n| chains[*n].as_ref().map(|chain| chain.at)).unwrap_or(0);
        let slot = same.unwrap_or_else(oldest);
        let misled = same.and_then(|n| chains[n].as_ref()).is_some_and(|chain| chain.misled);
        chains[slot] = Some(Chain { dir, no_links, misled, whole: ids, ids: found.clone(), at: now, moves });
        found
    })
}

/// The identity of an open file.
pub fn identity(fd: impl AsFd) -> Option<FileId> {
    fstat(fd).ok().map(|stat| FileId { dev: stat.st_dev, ino: stat.st_ino })
}

fn stat_identity(path: &AbsPath) -> Option<FileId> {
    let path: &Path = path.as_path();
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileId { dev: stat.st_dev, ino: stat.st_ino })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Dir {
        _held: tempfile::TempDir,
        root: AbsPath,
    }

    impl Dir {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().canonicalize().unwrap();
            Self { _held: dir, root: AbsPath::new(path.as_os_str().as_encoded_bytes()).unwrap() }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.root.as_path().join(name)
        }

        fn real(&self, asked: &str, follow: Follow) -> (String, bool) {
            let asked = self.path(asked);
            let found = file(None, asked.as_os_str().as_encoded_bytes(), follow, false).unwrap().file;
            let root = format!("{}/", self.root);
            let path = found.path.to_string();
            (path.strip_prefix(&root).unwrap_or(&path).to_owned(), found.exists)
        }
    }

    fn resolved(path: &str) -> (String, bool) {
        (path.to_owned(), true)
    }

    fn missing(path: &str) -> (String, bool) {
        (path.to_owned(), false)
    }

    #[test]
    fn links_lead_where_the_kernel_goes() {
        let dir = Dir::new();
        fs::create_dir(dir.path("real")).unwrap();
        fs::write(dir.path("real/file"), "x").unwrap();
        symlink("real", dir.path("link")).unwrap();
        symlink("../real/file", dir.path("real/again")).unwrap();
        assert_eq!(dir.real("real/file", Follow::Final), resolved("real/file"));
        assert_eq!(dir.real("link/file", Follow::Final), resolved("real/file"));
        assert_eq!(dir.real("link/again", Follow::Final), resolved("real/file"));
        assert_eq!(dir.real("link/again", Follow::NoFinal), resolved("real/again"));
        assert_eq!(dir.real("link", Follow::NoFinal), resolved("link"));
        assert_eq!(dir.real("link/", Follow::NoFinal), resolved("real"));
        // `..` after a link leaves the link's target, not the link's directory.
        fs::create_dir_all(dir.path("deep/er")).unwrap();
        symlink("deep/er", dir.path("hop")).unwrap();
        assert_eq!(dir.real("hop/../x", Follow::Final), missing("deep/x"));
    }

    #[test]
    fn what_is_missing_keeps_its_names() {
        let dir = Dir::new();
        symlink("nowhere/at/all", dir.path("dangling")).unwrap();
        assert_eq!(dir.real("a/b/c", Follow::Final), missing("a/b/c"));
        assert_eq!(dir.real("dangling", Follow::Final), missing("nowhere/at/all"));
        assert_eq!(dir.real("dangling", Follow::NoFinal), resolved("dangling"));
        fs::write(dir.path("plain"), "x").unwrap();
        assert_eq!(dir.real("plain/below", Follow::Final), missing("plain/below"));
    }

    #[test]
    fn only_a_directory_itself_is_one() {
        let dir = Dir::new();
        fs::create_dir(dir.path("d")).unwrap();
        fs::write(dir.path("f"), "x").unwrap();
        symlink("d", dir.path("l")).unwrap();
        let kind = |name: &str| is_directory(&dir.root.join(name.as_bytes()).unwrap());
        assert_eq!(["d", "f", "l", "nothing"].map(kind), [Some(true), Some(false), Some(false), None]);
    }

    #[test]
    fn loops_and_malformed_paths_are_errors() {
        let dir = Dir::new();
        symlink("b", dir.path("a")).unwrap();
        symlink("a", dir.path("b")).unwrap();
        let asked = dir.path("a");
        let asked = asked.as_os_str().as_encoded_bytes();
        assert_eq!(file(None, asked, Follow::Final, false).unwrap_err(), ResolveError::Os(Errno::LOOP));
        assert_eq!(file(None, b"/a\0b", Follow::Final, false).unwrap_err(), PathError::Nul.into());
        assert_eq!(file(None, &[b'a'; 5000], Follow::Final, false).unwrap_err(), PathError::TooLong.into());
    }

    #[test]
    fn proc_does_not_disguise_a_path() {
        let dir = Dir::new();
        fs::write(dir.path("secret"), "x").unwrap();
        let real = dir.path("secret");
        let via_root = format!("/proc/self/root{}", real.display());
        let found = file(None, via_root.as_bytes(), Follow::Final, false).unwrap().file;
        assert_eq!(found.path.as_path(), real);
        let open = fs::File::open(&real).unwrap();
        let via_fd = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        let found = file(None, via_fd.as_bytes(), Follow::Final, false).unwrap().file;
        assert_eq!(found.path.as_path(), real);
        let own = file(None, b"/proc/self/maps", Follow::Final, false).unwrap().file;
        assert_eq!(own.path.as_bytes(), b"/proc/self/maps");
    }

    #[test]
    fn both_ways_find_the_same() {
        let dir = Dir::new();
        fs::create_dir(dir.path("real")).unwrap();
        fs::write(dir.path("real/file"), "x").unwrap();
        symlink("real", dir.path("link")).unwrap();
        symlink("nowhere", dir.path("dangling")).unwrap();
        let held = fs::File::open(dir.path("real/file")).unwrap();
        let fd = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        let asked = ["real/file", "link/file", "link", "link/../x", "dangling", "missing/below", "real/"];
        let absolute = asked.iter().map(|name| dir.path(name)).map(|path| path.into_os_string());
        for asked in absolute.chain(["/proc/self/maps".into(), fd.into(), "relative".into()]) {
            for follow in [Follow::Final, Follow::NoFinal] {
                let asked = asked.as_encoded_bytes();
                let found = file(None, asked, follow, true).unwrap().file;
                assert_eq!(file_unmediated(None, asked, follow, true).unwrap().file, found);
            }
        }
    }

    #[test]
    fn a_directory_descriptor_is_where_relative_paths_start() {
        let dir = Dir::new();
        fs::create_dir(dir.path("d")).unwrap();
        fs::write(dir.path("d/f"), "x").unwrap();
        let open = fs::File::open(dir.path("d")).unwrap();
        let found = file(Some(open.as_fd()), b"f", Follow::Final, true).unwrap().file;
        assert_eq!(found.path.as_path(), dir.path("d/f"));
        assert!(found.exists);
        assert!(found.ids.len() >= 2, "object and ancestors");
        let found = file(Some(open.as_fd()), b"../new", Follow::Final, false).unwrap().file;
        assert_eq!((found.path.as_path(), found.exists), (dir.path("new").as_path(), false));
    }

    #[test]
    fn a_neighbour_is_presumed_for_a_moment_and_where_nothing_speaks_against_it() {
        let dir = Dir::new();
        fs::create_dir(dir.path("d")).unwrap();
        fs::write(dir.path("d/a"), "x").unwrap();
        symlink("d", dir.path("l")).unwrap();
        let asked = |name: &str| dir.path(name).into_os_string().into_encoded_bytes();
        let now = Instant::now();
        let presumed = |name: &str, ids| presumed(&asked(name), ids, now);
        let known = |name: &str, ids| file(None, &asked(name), Follow::Final, ids).unwrap().file;
        assert!(presumed("d/b", false).is_none(), "nothing is known yet");
        known("l/a", true);
        assert!(presumed("l/b", true).is_none(), "a link led there");

        known("d/a", false);
        let found = presumed("d/b", false).unwrap();
        assert_eq!((found.path.as_path(), found.exists, found.ids.len()), (&*dir.path("d/b"), true, 0));
        assert!(presumed("d/b", true).is_none(), "identities are not known");
        let ids = known("d/a", true).ids;
        assert_eq!(presumed("d/b", true).unwrap().ids[..], ids[1..], "those of the directories");
        for other in ["d", "d/c/b", "d/../d/b", "d//b", "d/b/"] {
            assert!(presumed(other, true).is_none(), "{other}");
        }
        assert!(super::presumed(&asked("d/b"), true, now + 20 * FRESH).is_none(), "too long ago");

        forget();
        assert!(presumed("d/b", true).is_none(), "something was moved");
        known("d/a", true);
        assert!(presumed("d/b", true).is_some());
        wrong(&found.path);
        assert!(presumed("d/a", true).is_none(), "it was wrong before");
        known("d/a", true);
        assert!(presumed("d/a", true).is_none(), "and is remembered");
    }
}
