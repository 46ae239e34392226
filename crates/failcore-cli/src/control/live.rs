//! Where runs under way are found: each has a socket, called after its session, in a directory of its user's alone.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use failcore_kernel::{Peer, Reception, WireError, dial, receive, send};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, open, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::message::{Order, Reply, State, Status};
use crate::failure::{Failure, Problem};

/// How long a run may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);
/// Ends the name of a socket that is not listened at yet.
const UNBORN: &str = ".new";
/// How long one may stay like that.
const BIRTH: Duration = Duration::from_secs(60);

/// A directory of sockets, held open so that it stays the one that was examined.
pub(crate) struct Place {
    path: PathBuf,
    dir: OwnedFd,
}

/// Where sockets of this user's runs may be; for root, those of another user that the environment names, too.
pub(crate) fn paths() -> Vec<PathBuf> {
    paths_in(|owner| owner == uid() || uid() == 0)
}

/// Below the user's runtime directory (XDG Base Directory Specification), where that belongs to somebody it may, or
/// with the rest of what we keep.
fn paths_in(runtime_of: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    const OTHERS_WRITE: u32 = 0o022;
    let is_runtime = |dir: &PathBuf| {
        dir.is_absolute()
            && dir.metadata().is_ok_and(|found| {
                found.is_dir() && found.mode() & OTHERS_WRITE == 0 && runtime_of(found.uid())
            })
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(is_runtime);
    let state = failcore_trace::state_dir().ok().map(|state| state.join("live"));
    runtime.map(|dir| dir.join("failcore")).into_iter().chain(state).collect()
}

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

impl Place {
    /// The place where runs of this user register, made if need be.
    fn own() -> Result<Self, Problem> {
        let mut problem = Problem::trace(failcore_trace::TraceError::NoHome);
        // A runtime directory that is of no use is no reason to go without.
        for path in paths_in(|owner| owner == uid()) {
            let made = path
                .parent()
                .map_or(Ok(()), |above| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(above));
            let made = made.and_then(|()| match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made,
            });
            match made.map_err(|error| Problem::io("make", &path, error)).and_then(|()| Self::at(path)) {
                Ok(place) if place.owner() == Some(uid()) => return Ok(place),
                Ok(place) => problem = Problem::Shared { path: place.path },
                Err(why) => problem = why,
            }
        }
        Err(problem)
    }

    /// An existing one.
    ///
    /// # Security
    /// Only its owner can have put anything into it, and for anybody but root that is this user: what is found there
    /// is what this user's runs left there.
    fn at(path: PathBuf) -> Result<Self, Problem> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno: Errno| Problem::io("open", &path, errno.into());
        let dir = open(&path, flags, Mode::empty()).map_err(failed)?;
        let found = fstat(&dir).map_err(failed)?;
        let closed = Mode::from_raw_mode(found.st_mode).intersection(Mode::RWXG | Mode::RWXO).is_empty();
        if !closed || (found.st_uid != uid() && uid() != 0) {
            return Err(Problem::Shared { path });
        }
        Ok(Self { path, dir })
    }

    /// Every one there is.
    fn all() -> Vec<Self> {
        paths().into_iter().filter_map(|path| Self::at(path).ok()).collect()
    }

    fn owner(&self) -> Option<u32> {
        fstat(&self.dir).ok().map(|found| found.st_uid)
    }

    /// A name of it, through the open directory: however long its path is, and wherever it is by now.
    fn name(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()).into()
    }

    fn remove(&self, name: &str) {
        let _ = unlinkat(&self.dir, name, AtFlags::empty());
    }

    /// The sessions that have a socket here.
    fn sessions(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.name("."));
        let mut found: Vec<String> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                entry.file_type().is_ok_and(|kind| std::os::unix::fs::FileTypeExt::is_socket(&kind))
            })
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        found.retain(|name| match name.strip_suffix(UNBORN) {
            None => failcore_trace::is_session_id(name),
            Some(_) => {
                self.forget_unborn(name);
                false
            }
        });
        found
    }

    /// Removes what was bound by somebody who ended before it listened.
    fn forget_unborn(&self, name: &str) {
        let made = statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok().and_then(|found| {
            let since = Duration::from_secs(u64::try_from(found.st_mtime).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        });
        if made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age > BIRTH) {
            self.remove(name);
        }
    }
}

/// A run's own socket; nobody finds it once this is dropped.
pub(crate) struct Seat {
    place: Place,
    name: String,
}

impl Seat {
    /// Listens for what the owner of `session` wants.
    pub(crate) fn take(session: &str) -> Result<(Self, Reception), Problem> {
        let place = Place::own()?;
        let unborn = format!("{session}{UNBORN}");
        let failed = |place: &Place, errno: Errno| Problem::io("listen in", &place.path, errno.into());
        let reception = Reception::open(&place.name(&unborn)).map_err(|errno| failed(&place, errno))?;
        // Found only once it is listened at: who refuses is gone, and is cleared away.
        renameat(&place.dir, unborn.as_str(), &place.dir, session).map_err(|errno| failed(&place, errno))?;
        Ok((Self { place, name: session.into() }, reception))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.place.remove(&self.name);
    }
}

/// A run under way.
pub(crate) struct Live {
    place: Arc<Place>,
    pub(crate) session: String,
    /// What it says of itself; nothing where it does not answer.
    pub(crate) status: Option<Status>,
}

impl Live {
    /// Every run of this user's that is under way, the oldest first. What is left of those that ended is cleared away.
    pub(crate) fn all() -> Vec<Self> {
        let mut found = Vec::new();
        for place in Place::all() {
            let place = Arc::new(place);
            for session in place.sessions() {
                let mut live = Self { place: Arc::clone(&place), session, status: None };
                match live.say(Order::Status {}, Some(PATIENCE)) {
                    Ok(Reply::Status(status)) => live.status = Some(*status),
                    Ok(_) => {}
                    Err(WireError::Socket(Errno::CONNREFUSED)) => {
                        live.place.remove(&live.session);
                        continue;
                    }
                    // It ended while we asked.
                    Err(WireError::Socket(Errno::NOENT)) | Err(WireError::HungUp) => continue,
                    Err(_) => {}
                }
                found.push(live);
            }
        }
        // Session ids sort by time.
        found.sort_by(|a, b| a.session.cmp(&b.session));
        found
    }

    /// The run under way that `name` means: its session, the beginning of that, or the owner's own label.
    pub(crate) fn find(name: &str) -> Result<Self, Failure> {
        let mut found = Self::all();
        if let Some(at) = found.iter().position(|live| live.session == name) {
            return Ok(found.swap_remove(at));
        }
        found.retain(|live| live.session.starts_with(name) || live.is_labelled(name));
        if found.len() > 1 {
            let sessions: Vec<&str> = found.iter().map(|live| live.session.as_str()).collect();
            return Err(Problem::Nonsense {
                what: format!("`{name}` means more than one run"),
                help: format!("name one of {}", sessions.join(", ")),
            }
            .into());
        }
        found.pop().ok_or_else(|| Problem::NoRun { name: name.into() }.into())
    }

    fn is_labelled(&self, name: &str) -> bool {
        let label = self.status.as_ref().and_then(|status| status.label.as_ref());
        label.is_some_and(|label| label.as_bytes() == name.as_bytes())
    }

    /// Gives an order and waits for the answer, but no longer than `patience`.
    pub(crate) fn order(&self, order: Order, patience: Option<Duration>) -> Result<Reply, Failure> {
        match self.say(order, patience) {
            Ok(Reply::No { why, help }) => Err(Problem::Nonsense { what: why, help }.into()),
            Ok(reply) => Ok(reply),
            Err(WireError::HungUp | WireError::Socket(Errno::CONNREFUSED | Errno::NOENT)) => {
                Err(Problem::NoRun { name: self.session.clone() }.into())
            }
            Err(error) => Err(Problem::Unanswered { session: self.session.clone(), error }.into()),
        }
    }

    fn say(&self, order: Order, patience: Option<Duration>) -> Result<Reply, WireError> {
        let connection = dial(&self.place.name(&self.session), patience)?;
        // Whoever listens there is whom the directory belongs to.
        if Some(Peer::of(&connection)?.uid) != self.place.owner() {
            return Err(WireError::HungUp);
        }
        send(&connection, &order, &[])?;
        Ok(receive(&connection)?.0)
    }

    /// Sets the parent of the run going where it was stopped in its terminal, so that it hears us.
    pub(crate) fn wake(&self) {
        let Ok(connection) = dial(&self.place.name(&self.session), Some(PATIENCE)) else { return };
        let pid = Peer::of(&connection).ok().and_then(|peer| i32::try_from(peer.pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        }
    }

    /// Whether it stands still because it was told to.
    pub(crate) fn is_paused(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.state == State::Paused)
    }
}
