//! The processes of a program, held where they are: none of them gets to its next instruction until it is let go.
//!
//! Where the run has a cgroup of its own, the kernel freezes that. Else a thread of ours seizes every thread of theirs
//! and interrupts it (ptrace(2), `PTRACE_SEIZE`). SIGSTOP would not do: a program can set itself going again, by a timer
//! that sends SIGCONT; parents, and shells that mind their jobs, are told of it; and who had been stopped before could
//! not be told from who was stopped by us. Only where a process may not be seized (it runs with other rights, or has a
//! tracer) is it stopped that way.

use std::collections::HashSet;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use failcore_kernel::Cgroup;
use nix::sys::ptrace;
use nix::unistd;
use procfs::FromRead;
use procfs::process::{Stat, Status};
use rustix::process::{Signal, pidfd_send_signal};

use super::tree::{Below, Member};

/// How long it may take until all stand still.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long between looks.
const LOOK: Duration = Duration::from_millis(1);

/// Every process of the program, held until this is dropped.
pub(crate) struct Frozen {
    /// Where the kernel holds them.
    cgroup: Option<Arc<Cgroup>>,
    /// Where we do.
    seized: Option<Seized>,
}

/// Why they do not stand still; all were let go again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfrozen {
    /// This process could not be held.
    #[error("process {0} cannot be held: it runs with other rights, or does not come to rest")]
    Process(i32),
    /// There were always new ones.
    #[error("its processes come faster than they can be held")]
    TooMany,
    /// They could not be looked at, or there could be no thread.
    #[error("its processes cannot be held: {0}")]
    System(#[from] std::io::Error),
}

impl Frozen {
    /// Holds every process of the program, those that are born meanwhile too.
    pub(super) fn new(below: Below, cgroup: Option<&Arc<Cgroup>>) -> Result<Self, Unfrozen> {
        if let Some(cgroup) = cgroup {
            let frozen = Self { cgroup: Some(Arc::clone(cgroup)), seized: None };
            match cgroup.freeze(LOOK) {
                Ok(()) => return Ok(frozen),
                // Whoever waits for its supervisor, or for a child that shares its memory, is told only when that is
                // over: the kernel does not call such a cgroup frozen, though nothing in it runs.
                Err(rustix::io::Errno::TIMEDOUT) => {
                    return rest(below).map(|()| frozen);
                }
                // An older kernel.
                Err(_) => {}
            }
        }
        Ok(Self { cgroup: None, seized: Some(Seized::new(below)?) })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.thaw();
        }
        drop(self.seized.take());
    }
}

/// Waits until no thread of the program runs.
fn rest(below: Below) -> Result<(), Unfrozen> {
    let until = Instant::now() + PATIENCE;
    'look: loop {
        for member in below.members()? {
            if member.threads()?.iter().any(|thread| thread.state == 'R') {
                if Instant::now() > until {
                    return Err(Unfrozen::Process(member.stat.pid));
                }
                std::thread::sleep(LOOK);
                continue 'look;
            }
        }
        return Ok(());
    }
}

/// Every process, held by a thread of ours. The end of that thread lets them go: the kernel sees to it.
struct Seized {
    /// Closed to end it.
    hold: Option<Sender<Infallible>>,
    holder: Option<JoinHandle<()>>,
    /// Those that were stopped by a signal.
    stopped: Vec<OwnedFd>,
}

impl Seized {
    fn new(below: Below) -> Result<Self, Unfrozen> {
        let (hold, held) = mpsc::channel::<Infallible>();
        let (tell, told) = mpsc::channel();
        let holder = std::thread::Builder::new().name("failcore-pause".into()).spawn(move || {
            let seized = seize_all(below);
            let stands = seized.is_ok();
            if tell.send(seized).is_ok() && stands {
                let Err(_closed) = held.recv();
            }
        })?;
        let mut seized = Self { hold: Some(hold), holder: Some(holder), stopped: Vec::new() };
        // It ends without a word only by a panic.
        let panicked = |_| Unfrozen::System(std::io::Error::other("the thread that holds them panicked"));
        seized.stopped = told.recv().map_err(panicked)??;
        Ok(seized)
    }
}

impl Drop for Seized {
    fn drop(&mut self) {
        self.hold = None;
        if let Some(holder) = self.holder.take() {
            drop(holder.join());
        }
        go_on(&self.stopped);
    }
}

fn go_on(stopped: &[OwnedFd]) {
    for process in stopped {
        let _ = pidfd_send_signal(process, Signal::CONT);
    }
}

/// Seizes until nobody is left that was not seized, and nobody runs any more; those that were stopped instead.
fn seize_all(below: Below) -> Result<Vec<OwnedFd>, Unfrozen> {
    let mut stopped = Vec::new();
    match seize_each(below, &mut stopped) {
        Ok(()) => Ok(stopped),
        Err(why) => {
            go_on(&stopped);
            Err(why)
        }
    }
}

fn seize_each(below: Below, stopped: &mut Vec<OwnedFd>) -> Result<(), Unfrozen> {
    let until = Instant::now() + PATIENCE;
    let mut seen = HashSet::new();
    let mut stood = false;
    loop {
        let (mut found, mut running) = (false, None);
        for member in below.members()? {
            for thread in member.threads()? {
                if is_dead(thread.state) {
                    continue;
                }
                if seen.insert((thread.pid, thread.starttime)) {
                    found = true;
                    if !seize(&thread) && is_alive(&thread) {
                        stopped.extend(stop(&member)?);
                    }
                // What sleeps wakes at the interruption; what waits for a disk, for its supervisor or for a child that
                // shares its memory ends that call alone before it stands.
                } else if matches!(thread.state, 'R' | 'S') {
                    running = Some(thread.pid);
                }
            }
        }
        // Who came to rest while the others were looked at can have had a child since the listing: all that are listed
        // after that have to be known, and to stand.
        let stands = !found && running.is_none();
        if stands && stood {
            return Ok(());
        }
        stood = stands;
        if Instant::now() > until {
            return Err(running.map_or(Unfrozen::TooMany, Unfrozen::Process));
        }
        // Whoever forks faster than we look is not given the time.
        if running.is_some() && !found {
            std::thread::sleep(LOOK);
        }
    }
}

/// Seizes one thread and interrupts it; whoever it starts from then on is seized as it is born.
fn seize(thread: &Stat) -> bool {
    let tid = unistd::Pid::from_raw(thread.pid);
    let born = ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACEVFORK
        | ptrace::Options::PTRACE_O_TRACECLONE;
    // Its number can have become another's; one that is seized and not interrupted runs on.
    match ptrace::seize(tid, born) {
        Ok(()) => is_alive(thread) && ptrace::interrupt(tid).is_ok(),
        Err(_) => is_ours(thread),
    }
}

/// Whether this thread of ours holds it already: it was born of one that was seized.
fn is_ours(thread: &Stat) -> bool {
    let status = Status::from_file(format!("/proc/{}/status", thread.pid));
    status.is_ok_and(|status| status.tracerpid == unistd::gettid().as_raw())
}

/// Whether it is still there, and can run.
fn is_alive(thread: &Stat) -> bool {
    let now = Stat::from_file(format!("/proc/{}/stat", thread.pid));
    now.is_ok_and(|now| now.starttime == thread.starttime && !is_dead(now.state))
}

fn is_dead(state: char) -> bool {
    matches!(state, 'Z' | 'X' | 'x')
}

/// Stops a process by a signal: what sets it going again; nothing where it stood already.
fn stop(member: &Member) -> Result<Option<OwnedFd>, Unfrozen> {
    if member.stat.state == 'T' {
        return Ok(None);
    }
    let process = member.pidfd().ok_or(Unfrozen::Process(member.stat.pid))?;
    pidfd_send_signal(&process, Signal::STOP).map_err(|_| Unfrozen::Process(member.stat.pid))?;
    Ok(Some(process))
}
