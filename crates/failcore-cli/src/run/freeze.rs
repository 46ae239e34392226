//! A tree of processes that stands still: none of them gets to its next instruction until it is let go.
//!
//! A thread of ours seizes every thread of theirs and interrupts it (ptrace(2), `PTRACE_SEIZE`). SIGSTOP would not do: a
//! program can set itself going again, by a timer that sends SIGCONT; parents, and shells that mind their jobs, are told
//! of it; and who had been stopped before could not be told from who was stopped by us. Only where a process may not be
//! seized (it runs with other rights, or has a tracer) is it stopped that way.
//!
//! Letting go is the end of our thread: the kernel lets go of all that it held.

use std::collections::HashSet;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd;
use rustix::process::{Pid, Signal, pidfd_send_signal};

use super::tree::{Member, below};

/// How long it may take until all stand still.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long between looks.
const LOOK: Duration = Duration::from_millis(1);
/// How often those that ended while they were held are handed on to their parents.
const REAP: Duration = Duration::from_millis(50);

/// A thread's number, and when it started.
type Thread = (i32, u64);

/// Every process of the tree, held until this is dropped.
pub(crate) struct Frozen {
    /// Closed to let go.
    hold: Option<Sender<Infallible>>,
    holder: Option<JoinHandle<()>>,
    /// Those that were stopped by a signal.
    stopped: Vec<OwnedFd>,
}

/// Why a tree does not stand still; everything of it was let go again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfrozen {
    /// This process could not be held.
    #[error("process {0} cannot be held: it runs with other rights, or does not come to rest")]
    Process(i32),
    /// There were always new ones.
    #[error("its processes come faster than they can be held")]
    TooMany,
    /// There could be no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Frozen {
    /// Holds every process below `own`, but `root` only where `counts` says so; those that are born meanwhile too.
    pub(super) fn new(own: Pid, root: Option<Pid>, counts: bool) -> Result<Self, Unfrozen> {
        let root = root.map(|root| root.as_raw_nonzero().get());
        let (hold, held) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        // Seized for as long as this very thread lives.
        let holder = std::thread::Builder::new()
            .name("failcore-pause".into())
            .spawn(move || {
                let mut seen = HashSet::new();
                let stopped = seize_all(own, root.filter(|_| !counts), &mut seen);
                let stands = stopped.is_ok();
                let heard = tell.send(stopped).is_ok();
                // How the root ends is for others to hear.
                seen.retain(|(tid, _)| Some(*tid) != root);
                while stands && heard && held.recv_timeout(REAP) == Err(RecvTimeoutError::Timeout) {
                    seen.retain(|(tid, _)| !hand_on(*tid));
                }
            })
            .map_err(Unfrozen::Thread)?;
        let mut frozen = Self { hold: Some(hold), holder: Some(holder), stopped: Vec::new() };
        // It ends without a word only by a panic.
        let panicked = |_| Unfrozen::Thread(std::io::Error::other("it panicked"));
        frozen.stopped = told.recv().map_err(panicked)??;
        Ok(frozen)
    }
}

impl Drop for Frozen {
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
fn seize_all(own: Pid, spare: Option<i32>, seen: &mut HashSet<Thread>) -> Result<Vec<OwnedFd>, Unfrozen> {
    let until = Instant::now() + PATIENCE;
    let mut stopped = Vec::new();
    loop {
        let (mut found, mut running) = (false, None);
        for member in below(own).iter().filter(|member| Some(member.stat.pid) != spare) {
            for thread in member.process.tasks().into_iter().flatten().flatten() {
                let Ok(stat) = thread.stat() else { continue };
                // Dead, or at least never to run again.
                if matches!(stat.state, 'Z' | 'X' | 'x') {
                    continue;
                }
                if seen.insert((stat.pid, stat.starttime)) {
                    found = true;
                    if !seize(stat.pid) && !is_gone(stat.pid) {
                        match stop(member) {
                            Some(process) => stopped.extend(process),
                            None => running = Some(member.stat.pid),
                        }
                    }
                // What sleeps wakes at the interruption; what waits for a disk, for us as its supervisor or for a
                // child that shares its memory ends that call alone before it stands.
                } else if matches!(stat.state, 'R' | 'S') {
                    running = Some(member.stat.pid);
                }
            }
        }
        if running.is_none() && !found {
            return Ok(stopped);
        }
        if Instant::now() > until {
            go_on(&stopped);
            return Err(running.map_or(Unfrozen::TooMany, Unfrozen::Process));
        }
        if !found {
            std::thread::sleep(LOOK);
        }
    }
}

/// Seizes one thread and interrupts it.
fn seize(tid: i32) -> bool {
    let thread = unistd::Pid::from_raw(tid);
    ptrace::seize(thread, ptrace::Options::empty()).is_ok() && ptrace::interrupt(thread).is_ok()
}

fn is_gone(tid: i32) -> bool {
    procfs::process::Process::new(tid)
        .and_then(|thread| thread.stat())
        .map_or(true, |stat| matches!(stat.state, 'Z' | 'X' | 'x'))
}

/// Stops a process by a signal: what sets it going again, or that it stood already; nothing where it may not be.
fn stop(member: &Member) -> Option<Option<OwnedFd>> {
    if member.stat.state == 'T' {
        return Some(None);
    }
    let process = member.pidfd()?;
    pidfd_send_signal(&process, Signal::STOP).ok()?;
    Some(Some(process))
}

/// Who ends while it is seized is told of to its tracer first, and to its parent once the tracer has heard it; whether
/// it has ended.
fn hand_on(tid: i32) -> bool {
    let ours = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    matches!(
        waitpid(unistd::Pid::from_raw(tid), Some(ours)),
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD)
    )
}
