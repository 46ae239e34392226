//! The open family: resolved, judged, opened by the supervisor on the resolved object, injected into the task.

use std::os::fd::OwnedFd;

use failcore_model::{AbsPath, Action, FileRef, Rights};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open as reopen, openat, openat2};
use rustix::io::Errno;

use crate::call::{Answer, Call, Reply, through};
use crate::chance::Chance;
use crate::memory;
use crate::walk::{self, Entry, Found, Object, Start, View};

/// Who makes pseudo-terminals.
pub(crate) const MULTIPLEXER: &[u8] = b"/dev/ptmx";
/// How often an open that creates is tried anew when somebody makes the file between look and open.
const TRIES: u32 = 32;

/// The flag of `O_TMPFILE` that is its own (asm-generic/fcntl.h).
const UNNAMED: OFlags = OFlags::TMPFILE.difference(OFlags::DIRECTORY);
/// What the kernel knows as flags of an open (`VALID_OPEN_FLAGS` in linux/fcntl.h); `O_ASYNC` and `O_LARGEFILE` last.
const KNOWN_FLAGS: OFlags = OFlags::RWMODE
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOCTTY)
    .union(OFlags::TRUNC)
    .union(OFlags::APPEND)
    .union(OFlags::NONBLOCK)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::DIRECT)
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOATIME)
    .union(OFlags::CLOEXEC)
    .union(OFlags::PATH)
    .union(OFlags::TMPFILE)
    .union(OFlags::from_bits_retain(0o20_000))
    .union(OFlags::from_bits_retain(0o100_000));
/// Restrictions of the walk that an openat2 may ask for.
const RESTRICTIONS: ResolveFlags = ResolveFlags::NO_XDEV
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::BENEATH)
    .union(ResolveFlags::IN_ROOT);

/// `struct open_how` (openat2(2)).
struct How {
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
}

/// `open(path, flags, mode)`.
pub(crate) fn open(call: &Call<'_>) -> Reply {
    attempt(call, libc::AT_FDCWD, 0, &plain(call.int(1), call.arg(2)))
}

/// `creat(path, mode)`.
pub(crate) fn creat(call: &Call<'_>) -> Reply {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    attempt(call, libc::AT_FDCWD, 0, &plain(flags, call.arg(1)))
}

/// `openat(dir, path, flags, mode)`.
pub(crate) fn at(call: &Call<'_>) -> Reply {
    attempt(call, call.int(0), 1, &plain(call.int(2), call.arg(3)))
}

/// `openat2(dir, path, how, size)`.
pub(crate) fn at2(call: &Call<'_>) -> Reply {
    const SIZE: usize = 24;
    let size = usize::try_from(call.arg(3)).map_err(|_| Errno::INVAL)?;
    if !(SIZE..=4096).contains(&size) {
        return Err(if size < SIZE { Errno::INVAL } else { Errno::TOOBIG });
    }
    let raw = memory::bytes(call.tid(), call.arg(2), size)?;
    // Fields of a kernel newer than we know must be zero, or they would ask for what we do not do.
    if raw[SIZE..].iter().any(|byte| *byte != 0) {
        return Err(Errno::TOOBIG);
    }
    let word = |at: usize| u64::from_ne_bytes(raw[at..at + 8].try_into().unwrap_or_default());
    let flags = u32::try_from(word(0)).map_err(|_| Errno::INVAL)?;
    let mode = u32::try_from(word(8)).map_err(|_| Errno::INVAL)?;
    let how = How {
        flags: OFlags::from_bits_retain(flags),
        mode: Mode::from_bits_retain(mode),
        resolve: ResolveFlags::from_bits_retain(word(16)),
    };
    // As the kernel is strict here where open is not (build_open_flags in fs/open.c).
    let creates = how.flags.intersects(OFlags::CREATE.union(UNNAMED));
    let both = ResolveFlags::BENEATH | ResolveFlags::IN_ROOT;
    if !KNOWN_FLAGS.contains(how.flags)
        || !(RESTRICTIONS | ResolveFlags::CACHED).contains(how.resolve)
        || how.resolve.contains(both)
        || mode & if creates { !0o7777 } else { !0 } != 0
    {
        return Err(Errno::INVAL);
    }
    // Descriptors for the path alone cannot be injected; programs have a way without this call.
    if how.flags.contains(OFlags::PATH) {
        return Err(Errno::NOSYS);
    }
    attempt(call, call.int(0), 1, &how)
}

fn plain(flags: i32, mode: u64) -> How {
    How {
        flags: OFlags::from_bits_retain(flags.cast_unsigned()),
        mode: Mode::from_bits_truncate((mode & 0o7777) as u32),
        resolve: ResolveFlags::empty(),
    }
}

fn attempt(call: &Call<'_>, dir: i32, path: usize, how: &How) -> Reply {
    if how.flags.contains(OFlags::CREATE | OFlags::DIRECTORY) {
        return Err(Errno::INVAL);
    }
    let asked = call.path(path)?;
    let start = call.start(dir, &asked)?;
    // An open that cannot end in a descriptor must not have made or emptied the file.
    if how.flags.intersects(OFlags::CREATE | OFlags::TRUNC) && !call.has_free_descriptor() {
        return Err(Errno::MFILE);
    }
    for _ in 0..TRIES {
        match once(call, &start, &asked, how) {
            // Somebody made it meanwhile: it must be judged as what it is now.
            Err(Errno::EXIST) if !how.flags.contains(OFlags::EXCL) => {}
            reply => return reply,
        }
    }
    Err(Errno::AGAIN)
}

fn once(call: &Call<'_>, start: &Start, asked: &[u8], how: &How) -> Reply {
    let creates = how.flags.contains(OFlags::CREATE);
    let itself = how.flags.contains(OFlags::NOFOLLOW) || how.flags.contains(OFlags::CREATE | OFlags::EXCL);
    let follow = !itself;
    if let Some(object) = as_before(call, asked, how) {
        return existing(call, asked, object, true, how);
    }
    // What is created is no directory, whatever is there (open_last_lookups in fs/namei.c).
    if creates && asked.ends_with(b"/") && how.resolve.is_empty() {
        let end = asked.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
        return match walk::object(call, start, &asked[..end], false)? {
            Found::Nowhere { why, .. } => Err(why),
            _ => Err(Errno::ISDIR),
        };
    }
    let found = if how.resolve.is_empty() {
        walk::object(call, start, asked, follow)?
    } else {
        within(call, start, asked, how, follow)?
    };
    match found {
        Found::Object(object) if how.flags.contains(OFlags::TMPFILE) => unnamed(call, asked, &object, how),
        Found::Object(object) => existing(call, asked, object, false, how),
        Found::Vacant(entry) if creates => create(call, asked, &entry, how),
        Found::Vacant(entry) => {
            let file = call.entry_ref(asked, &entry);
            let grant = call.judge(Action::Open { file, rights: rights(how.flags, false) })?;
            call.concluded(grant, Err(Errno::NOENT))
        }
        Found::Nowhere { ref path, why } => {
            let file = call.file_ref(asked, path.clone(), None);
            let grant = call.judge(Action::Open { file, rights: rights(how.flags, creates) })?;
            call.concluded(grant, Err(why))
        }
    }
}

/// The rights an open needs.
fn rights(flags: OFlags, creates: bool) -> Rights {
    let mut rights = match flags.bits().cast_signed() & libc::O_ACCMODE {
        libc::O_RDONLY => Rights::READ,
        libc::O_WRONLY => Rights::MODIFY,
        _ => Rights::READ | Rights::MODIFY,
    };
    if flags.contains(OFlags::TRUNC) {
        rights |= Rights::MODIFY;
    }
    if creates {
        rights |= Rights::CREATE;
    }
    rights
}

/// Flags of an open that only reads, and whatever else they say has no meaning for a regular file.
const PLAIN: OFlags =
    OFlags::CLOEXEC.union(OFlags::NOCTTY).union(OFlags::NONBLOCK).union(OFlags::from_bits_retain(0o100_000));

/// The regular file that was granted to be read at this path before, opened to be read at once and not first for its path
/// alone; or the FIFO that is there now, whose writer may have met it by this and gone. `None` where nothing was, or
/// something else is there now: then it is as if nothing had happened.
///
/// What is opened before it is judged is no more than a regular file whose reading was granted at this very path, or what
/// somebody has put there since.
fn as_before(call: &Call<'_>, asked: &[u8], how: &How) -> Option<Object> {
    let likely = &call.shared.likely;
    if !PLAIN.contains(how.flags) || !how.resolve.is_empty() || !asked.starts_with(b"/") {
        return None;
    }
    let past = if likely.has(asked) {
        None
    } else {
        let past = likely.has(walk::first(asked)).then(|| walk::past_first_link(asked)).flatten();
        Some(past.filter(|past| likely.has(past))?)
    };
    let path = past.as_deref().unwrap_or(asked);
    let flags = how.flags | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = call.worker.guess(|| openat2(CWD, path, flags, Mode::empty(), walk::NO_LINKS));
    let object = opened.and_then(|fd| {
        Ok(Object { stat: fstat(&fd)?, path: AbsPath::new(path).map_err(|_| Errno::INVAL)?, fd })
    });
    let object = object.ok().filter(|object| object.is(FileType::RegularFile) || object.is(FileType::Fifo));
    if !object.as_ref().is_some_and(|object| object.is(FileType::RegularFile)) {
        likely.forget(path);
    }
    object
}

/// Remembers a regular file that was granted to be read, if no link led to it but one right below the root.
fn note(call: &Call<'_>, asked: &[u8], path: &AbsPath) {
    let (likely, path) = (&call.shared.likely, path.as_bytes());
    if path.starts_with(b"/proc/") || likely.has(path) {
        return;
    }
    if asked == path {
        likely.note(path);
    } else if walk::past_first_link(asked).as_deref() == Some(path) {
        likely.note(walk::first(asked));
        likely.note(path);
    }
}

/// Opens what is there; `open` says whether the object's descriptor is one that reads already.
fn existing(call: &Call<'_>, asked: &[u8], object: Object, open: bool, how: &How) -> Reply {
    let exclusive = how.flags.contains(OFlags::CREATE | OFlags::EXCL);
    if let Some(pid) = foreign(call, &object) {
        let grant = call.judge(Action::Trace { pid: pid.cast_signed() })?;
        return call.concluded(grant, Err(Errno::ACCESS));
    }
    let file = match is_own_terminal(call, &object) {
        // The other end of a terminal that the task made belongs to whoever may make one.
        true => {
            let multiplexer = AbsPath::new(MULTIPLEXER).map_err(|_| Errno::ACCESS)?;
            call.file_ref(asked, multiplexer, Some(object.id()))
        }
        false => call.object_ref(asked, &object),
    };
    let action = Action::Open { file, rights: rights(how.flags, exclusive) };
    let grant = if open { call.judge_as_before(action) } else { call.judge(action) }?;
    let regular = object.is(FileType::RegularFile);
    let path = (regular && !open && PLAIN.contains(how.flags)).then(|| object.path.clone());
    let only_read = !rights(how.flags, false).contains(Rights::MODIFY);
    let may_linger = only_read && (regular || object.is(FileType::Directory));
    let opened = if exclusive {
        Err(Errno::EXIST)
    } else if object.is(FileType::Symlink) {
        Err(if how.flags.contains(OFlags::DIRECTORY) { Errno::NOTDIR } else { Errno::LOOP })
    } else if object.is(FileType::Directory) && how.flags.contains(OFlags::CREATE) {
        Err(Errno::ISDIR)
    } else if open {
        Ok(object.fd)
    } else if let Some(stream) = Chance::instead(call, &object, how.flags) {
        stream
    } else {
        perform(call, &object, how.flags)
    };
    let fd = call.concluded(grant, opened)?;
    if let Some(path) = path {
        note(call, asked, &path);
    }
    Ok(Answer::Descriptor { fd, close_on_exec: how.flags.contains(OFlags::CLOEXEC), may_linger })
}

/// The process outside the run into whose insides the object would give a look or a hand.
fn foreign(call: &Call<'_>, object: &Object) -> Option<u32> {
    if object.path.as_bytes().starts_with(b"/proc/self/") {
        return None;
    }
    let owner = walk::proc_owner(&object.path)?;
    let public = [&b"cmdline"[..], b"comm", b"stat", b"statm", b"status", b"cgroup", b"task", b"net"];
    let name = object.path.file_name().unwrap_or_default();
    let harmless = public.contains(&name) || name.iter().all(u8::is_ascii_digit);
    (!harmless && walk::is_proc(std::os::fd::AsFd::as_fd(&object.fd)) && !call.in_run(owner)).then_some(owner)
}

/// Whether it is the other end of a pseudo-terminal whose master the task holds (pty(7)).
fn is_own_terminal(call: &Call<'_>, object: &Object) -> bool {
    if !object.is(FileType::CharacterDevice) || !(136..=143).contains(&rustix::fs::major(object.stat.st_rdev))
    {
        return false;
    }
    let held = std::fs::read_dir(format!("/proc/{}/fd", call.process.pid)).into_iter().flatten().flatten();
    held.filter(|entry| {
        std::fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str().as_encoded_bytes().ends_with(b"ptmx"))
    })
    .filter_map(|entry| call.duplicate(entry.file_name().to_str()?.parse().ok()?).ok())
    .filter_map(|master| rustix::pty::ptsname(&master, Vec::new()).ok())
    .filter_map(|name| rustix::fs::stat(&name).ok())
    .any(|end| {
        (end.st_dev, end.st_ino, end.st_rdev) == (object.stat.st_dev, object.stat.st_ino, object.stat.st_rdev)
    })
}

/// Opens what was judged: the object itself, through the magic link to our own descriptor of it.
fn perform(call: &Call<'_>, object: &Object, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = (flags - OFlags::CREATE - OFlags::EXCL - OFlags::NOFOLLOW) | OFlags::NOCTTY | OFlags::CLOEXEC;
    if object.is(FileType::CharacterDevice) && object.stat.st_rdev == rustix::fs::makedev(5, 0) {
        return terminal(call, flags);
    }
    let number = std::os::fd::AsRawFd::as_raw_fd(&object.fd).to_string();
    let again = || openat(&call.shared.own, number.as_str(), flags, Mode::empty());
    if object.is(FileType::RegularFile) || object.is(FileType::Directory) {
        return again();
    }
    // FIFOs wait for the other end, devices for whatever they like.
    call.shared.patience.during(call, again)
}

/// `/dev/tty` is the *task's* controlling terminal, which need not be ours.
fn terminal(call: &Call<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    const SESSION: usize = 3;
    const TERMINAL: usize = 4;
    let ours = rustix::process::getsid(None)?.as_raw_nonzero().get().cast_unsigned();
    if crate::tasks::stat_field(call.tid(), SESSION) == Some(ours) {
        return reopen("/dev/tty", flags, Mode::empty());
    }
    let device =
        u64::from(crate::tasks::stat_field(call.tid(), TERMINAL).filter(|n| *n != 0).ok_or(Errno::NXIO)?);
    match (rustix::fs::major(device), rustix::fs::minor(device)) {
        (136..=143, number) => reopen(format!("/dev/pts/{number}"), flags, Mode::empty()),
        (4, number @ 1..64) => reopen(format!("/dev/tty{number}"), flags, Mode::empty()),
        _ => Err(Errno::NXIO),
    }
}

fn create(call: &Call<'_>, asked: &[u8], entry: &Entry, how: &How) -> Reply {
    if entry.slash {
        return Err(Errno::ISDIR);
    }
    let file = call.entry_ref(asked, entry);
    let grant = call.judge(Action::Open { file, rights: rights(how.flags, true) })?;
    call.take_umask();
    // Exclusively, so that it is new: what appeared meanwhile was not judged.
    let flags = how.flags | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let made = openat(&entry.dir, entry.name.as_slice(), flags, how.mode);
    let fd = call.concluded(grant, made)?;
    Ok(Answer::Descriptor { fd, close_on_exec: how.flags.contains(OFlags::CLOEXEC), may_linger: false })
}

/// `O_TMPFILE`: a file without a name, judged as a new file in the directory.
fn unnamed(call: &Call<'_>, asked: &[u8], dir: &Object, how: &How) -> Reply {
    let path = dir.path.join(b"(unnamed)").map_err(|_| Errno::NAMETOOLONG)?;
    let file: FileRef = call.file_ref(asked, path, None);
    let grant = call.judge(Action::Open { file, rights: rights(how.flags, true) })?;
    call.take_umask();
    let made = reopen(through(&dir.fd), (how.flags - OFlags::NOFOLLOW) | OFlags::CLOEXEC, how.mode);
    let fd = call.concluded(grant, made)?;
    Ok(Answer::Descriptor { fd, close_on_exec: how.flags.contains(OFlags::CLOEXEC), may_linger: false })
}

/// An openat2 with restrictions on the way: the kernel walks under the same restrictions, and no magic link.
fn within(call: &Call<'_>, start: &Start, asked: &[u8], how: &How, follow: bool) -> Result<Found, Errno> {
    // CACHED is a hint that may always fail this way.
    if how.resolve.contains(ResolveFlags::CACHED) {
        return Err(Errno::AGAIN);
    }
    // Under IN_ROOT an absolute path starts at the directory too.
    let held;
    let from = match start {
        Start::At(dir) => std::os::fd::AsFd::as_fd(dir),
        Start::Root if how.resolve.contains(ResolveFlags::IN_ROOT) => {
            held = call.directory(call.int(0))?;
            std::os::fd::AsFd::as_fd(&held)
        }
        Start::Root => CWD,
    };
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let resolve = how.resolve | ResolveFlags::NO_MAGICLINKS;
    let reached = |path: &[u8], flags| -> Result<Object, Errno> {
        let fd = openat2(from, path, flags, Mode::empty(), resolve)?;
        let path = walk::real_path(std::os::fd::AsFd::as_fd(&fd))?;
        // `/proc/self` led to ourselves, not to the task.
        if walk::proc_owner(&path) == Some(std::process::id()) {
            return Err(Errno::XDEV);
        }
        Ok(Object { stat: fstat(&fd)?, path: walk::own_proc(call, path), fd })
    };
    match reached(asked, flags) {
        Ok(object) => Ok(Found::Object(object)),
        Err(Errno::NOENT) => {
            let split = asked.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
            let (above, name) = asked.split_at(split);
            if matches!(name, b"" | b"." | b"..") {
                return Err(Errno::NOENT);
            }
            let dir = reached(if above.is_empty() { b"." } else { above }, OFlags::PATH | OFlags::CLOEXEC)?;
            let path = dir.path.join(name).map_err(|_| Errno::NAMETOOLONG)?;
            Ok(Found::Vacant(Entry { dir: dir.fd, name: name.to_vec(), stat: None, path, slash: false }))
        }
        Err(errno) => Err(errno),
    }
}
