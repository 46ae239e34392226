//! Opens on their way from the hook to the kernel.
//!
//! The hook judges a path; CPython then gives it to open(2), where a link may have been put in its place. The preloaded
//! object lets us make that call: without following links, so that the kernel itself proves that what was judged is
//! what is opened. And since it is proved there, what is read need not be resolved before (see
//! [`presumed`](failcore_gate::resolve::presumed)). Where the proof fails, the path is resolved and judged anew.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use failcore_gate::resolve::{self, Follow, Found};
use failcore_gate::{Gate, Grant};
use failcore_model::{Action, Claims, Denial, Outcome, Text};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::decode_fs::rights;
use crate::{attach, monitor, scope, supervised};

/// How long an open may take from the hook to the kernel; a note that is older belongs to an event that no open
/// followed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a path that changes all the time is judged anew.
const ATTEMPTS: usize = 16;

/// An open that was judged.
struct Opening {
    path: Text,
    flags: i32,
    claims: Claims,
    /// The grant of an open that was only presumed to be of this path.
    presumed: Option<(Arc<Gate>, Grant)>,
    at: Instant,
}

/// What one thread has to remember.
struct Thread {
    /// The open that comes next.
    ahead: Option<Opening>,
    /// Why the last one was refused after all.
    refused: Option<Denial>,
    /// Whether it judges in the midst of an open, for which CPython has let go of the GIL.
    unlocked: bool,
}

thread_local!(static THREAD: RefCell<Thread> = const {
    RefCell::new(Thread { ahead: None, refused: None, unlocked: false })
});

/// Whether opens were seen to come through here: an interpreter may have open(2) built in.
static ARRIVING: AtomicBool = AtomicBool::new(false);

/// `None` while the thread ends, or where a signal came in between.
fn with<T>(f: impl FnOnce(&mut Thread) -> T) -> Option<T> {
    THREAD.try_with(|thread| thread.try_borrow_mut().ok().map(|mut thread| f(&mut thread))).ok()?
}

/// Whether an event with these flags is followed by an open with the same: `fopen` passes none, and everything else
/// of CPython's closes on exec. A supervisor opens what it has judged itself.
fn is_followed(flags: i32) -> bool {
    attach::is_attached() && !supervised::is_on() && flags & libc::O_CLOEXEC != 0
}

/// Whether another open is on its way, around which this one happens.
fn is_taken() -> bool {
    let taken = |opening: &Opening| opening.at.elapsed() < PATIENCE;
    with(|thread| thread.ahead.as_ref().is_some_and(taken)).unwrap_or(true)
}

fn expect(opening: Opening) {
    with(|thread| thread.ahead = Some(opening));
}

/// Judges an open for reading by its presumed path; false where it must be resolved first.
pub(crate) fn presume(path: &[u8], flags: i32) -> bool {
    const PLAIN: i32 = libc::O_CLOEXEC | libc::O_LARGEFILE | libc::O_NOCTTY | libc::O_NONBLOCK;
    if !is_followed(flags)
        || flags & !PLAIN != libc::O_RDONLY
        || !ARRIVING.load(Ordering::Relaxed)
        || is_taken()
    {
        return false;
    }
    let (claims, at) = (scope::claims(), Instant::now());
    let Some((gate, grant)) = monitor::grant_presumed(path, claims.clone(), at) else { return false };
    let Action::Open { file, .. } = grant.action() else { return false };
    let path = file.asked.clone();
    expect(Opening { path, flags, claims, presumed: Some((gate, grant)), at });
    true
}

/// An open of this path, to which no link led, was judged and comes next.
pub(crate) fn judged(path: &[u8], flags: i32) {
    if is_followed(flags) && !is_taken() {
        let claims = scope::claims();
        expect(Opening { path: path.into(), flags, claims, presumed: None, at: Instant::now() });
    }
}

/// Why the calling thread's last open was refused by us, if it was.
pub(crate) fn refusal() -> Option<Denial> {
    with(|thread| thread.refused.take()).flatten()
}

/// Whether the calling thread judges without holding the GIL.
pub(crate) fn is_unlocked() -> bool {
    with(|thread| thread.unlocked).unwrap_or(true)
}

/// Opens what was judged: the descriptor, or the errno of what went wrong. `None` where this is not the open that
/// was expected, or where the kernel may open it as it likes. The GIL need not be held.
pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> Option<Result<RawFd, i32>> {
    let is_it = |opening: &mut Opening| opening.flags == flags && opening.path.as_bytes() == path.to_bytes();
    let opening = with(|thread| thread.ahead.take_if(is_it))??;
    ARRIVING.store(true, Ordering::Relaxed);
    match without_links(path, flags, mode) {
        Ok(fd) => match &opening.presumed {
            Some((gate, _)) if gate.policy().concerns(|| resolve::identity(&fd)) => {
                again(opening, path, mode, Errno::ACCESS)
            }
            _ => Some(Ok(fd.into_raw_fd())),
        },
        // Where the last component may not be a link, it may have been that.
        Err(Errno::LOOP) if flags & libc::O_NOFOLLOW == 0 => again(opening, path, mode, Errno::LOOP),
        // The interpreter runs its signal handlers and comes back.
        Err(Errno::INTR) => {
            expect(opening);
            Some(Err(Errno::INTR.raw_os_error()))
        }
        // What openat2(2) takes more exactly than open(2).
        Err(Errno::INVAL) if opening.presumed.is_none() => None,
        Err(errno) => {
            conclude(opening, errno);
            Some(Err(errno.raw_os_error()))
        }
    }
}

/// Opens a path if no symbolic link leads to it.
fn without_links(path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let making = flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
    let mode = if making { Mode::from_raw_mode(mode & 0o7777) } else { Mode::empty() };
    openat2(CWD, path, OFlags::from_bits_retain(flags as u32), mode, no_links)
}

/// Says of a presumed open that it did not come off.
fn conclude(opening: Opening, errno: Errno) -> Claims {
    if let Some((gate, grant)) = opening.presumed {
        if let Action::Open { file, .. } = grant.action() {
            resolve::wrong(&file.path);
        }
        gate.conclude(grant, Outcome::Failed(errno.raw_os_error()));
    }
    opening.claims
}

/// Resolves and judges the path as it leads now, and if need be again: whoever swaps it may be quick, but not win.
fn again(opening: Opening, path: &CStr, mode: u32, errno: Errno) -> Option<Result<RawFd, i32>> {
    let flags = opening.flags;
    let claims = conclude(opening, errno);
    for _ in 0..ATTEMPTS {
        let found = match monitor::file(None, path.to_bytes(), follow(flags)) {
            Ok(found) => found,
            Err(error) => return Some(Err(error.errno())),
        };
        let Found { file, no_links } = found;
        let rights = rights(flags, file.exists);
        let action = Action::Open { file, rights };
        with(|thread| thread.unlocked = true);
        let judged = monitor::grant_claimed(action, &None, &claims, &[]);
        with(|thread| thread.unlocked = false);
        if let Err(denial) = judged {
            let errno = denial.errno;
            with(|thread| thread.refused = Some(denial));
            return Some(Err(errno));
        }
        if !no_links {
            return None;
        }
        match without_links(path, flags, mode) {
            Ok(fd) => return Some(Ok(fd.into_raw_fd())),
            Err(Errno::LOOP) => {}
            Err(Errno::INVAL) => return None,
            Err(errno) => return Some(Err(errno.raw_os_error())),
        }
    }
    Some(Err(Errno::LOOP.raw_os_error()))
}

/// Whether an open with these flags follows a link in the last component.
pub(crate) fn follow(flags: i32) -> Follow {
    if flags & libc::O_NOFOLLOW != 0 || flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL
    {
        Follow::NoFinal
    } else {
        Follow::Final
    }
}
