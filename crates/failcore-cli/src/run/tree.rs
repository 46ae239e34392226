//! The processes of a run: all that descend from this one, found, measured and stopped, even when their parents
//! are gone.
//!
//! This process is their child subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`), so that an orphan becomes our own
//! child: descent from us never breaks.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use failcore_kernel::{Cgroup, Sampled};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use procfs::process::{Process, Stat};
use procfs::{FromRead, ProcError};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, waitpid,
};

use super::freeze::{Frozen, Unfrozen};
use crate::failure::Problem;

/// How long processes left behind get to end by themselves after SIGTERM.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// How long the guardian gets to end after all others have.
const LAST: Duration = Duration::from_secs(2);
/// How long between looks while stopping.
const LOOK: Duration = Duration::from_millis(5);
/// How long collecting what has ended may take at a time.
const REAPING: Duration = Duration::from_millis(200);
/// How long stopping may take before it is given up: a process in uninterruptible sleep cannot be ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every process below this one.
pub(crate) struct Tree {
    below: Below,
    page: u64,
    root: Option<Pid>,
    ended: Option<WaitStatus>,
    /// Bytes that processes wrote which we reaped ourselves, where they are limited; those of others count with their
    /// parents.
    written: Option<u64>,
}

/// Which processes belong to the program: those that descend from us, but for our own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Below {
    own: Pid,
    guardian: Option<Pid>,
    helper: Option<Pid>,
}

/// A process of the tree; the start time tells it from a later one with its number.
///
/// Nothing is kept open for it: a program must not be able to use up what is needed to stop it.
pub(super) struct Member {
    pub(super) stat: Stat,
}

impl Tree {
    /// Makes every descendant stay one; `written` says whether what they write is limited.
    pub(crate) fn adopt(written: bool) -> Result<Self, Problem> {
        let own = getpid();
        set_child_subreaper(Some(own)).map_err(Problem::system("adopt orphaned processes"))?;
        let below = Below { own, guardian: None, helper: None };
        Ok(Self { below, page: procfs::page_size(), root: None, ended: None, written: written.then_some(0) })
    }

    /// Whose end is the run's end; `counts` says whether it is a process of the program itself.
    pub(crate) fn watch(&mut self, root: Pid, counts: bool) {
        self.root = Some(root);
        self.below.guardian = (!counts).then_some(root);
    }

    /// Leaves a process of ours alone.
    pub(crate) fn spare(&mut self, helper: Option<u32>) {
        self.below.helper = helper.and_then(|helper| Pid::from_raw(helper.cast_signed()));
    }

    /// How the root ended, once it has.
    pub(crate) fn ended(&self) -> Option<WaitStatus> {
        self.ended
    }

    /// Holds every process of the program where it is, until what is returned is dropped.
    pub(crate) fn freeze(&self, cgroup: Option<&Arc<Cgroup>>) -> Result<Frozen, Unfrozen> {
        Frozen::new(self.below, cgroup)
    }

    /// Measures the tree, and reaps our own children that ended.
    pub(crate) fn sample(&mut self, memory_limit: Option<u64>) -> Sampled {
        self.reap();
        // What cannot be looked at now will be the next time.
        let members = self.below.members_now().unwrap_or_default();
        let (dead, alive): (Vec<_>, Vec<_>) = members.into_iter().partition(Member::is_dead);
        let mut sampled = Sampled { processes: alive.len() as u64, ..Sampled::default() };
        for member in &alive {
            sampled.memory += member.stat.rss * self.page;
        }
        // Shared pages count once for each process in the resident sets; ask exactly only where it matters.
        if memory_limit.is_some_and(|limit| sampled.memory > limit) {
            sampled.memory = alive.iter().map(|member| member.proportional(self.page)).sum();
        }
        if let Some(written) = self.written {
            // What they wrote counts with their parents once those have waited for them.
            sampled.write_bytes = alive.iter().chain(&dead).map(Member::written).sum::<u64>() + written;
        }
        sampled
    }

    /// Ends every process of the tree: asks them to for as long as `polite` says, and then makes them. What is `frozen`
    /// is let go when it has been told to end. Those of a `cgroup` end at once, those that are just being born too.
    ///
    /// Returns how many there were, and how many are still there: what waits in the kernel uninterruptibly cannot be ended.
    pub(crate) fn stop(
        &mut self,
        mut polite: impl FnMut(Duration) -> bool,
        mut frozen: Option<Frozen>,
        cgroup: Option<&Cgroup>,
    ) -> (usize, usize) {
        let started = Instant::now();
        let (mut known, mut asked) = (HashSet::new(), HashSet::new());
        // Since when they are made to, and since when only the guardian is left.
        let (mut surely, mut alone) = (None, None);
        loop {
            let past = |since: &mut Option<Instant>| since.get_or_insert_with(Instant::now).elapsed();
            let polite = surely.is_none() && polite(started.elapsed());
            let first = !polite && surely.is_none();
            let over = !polite && past(&mut surely) > PATIENCE;
            // Whoever ends because another does is counted too.
            let now = if first { self.below.members_now().unwrap_or_default() } else { Vec::new() };
            let alive = now.iter().filter(|member| !member.is_dead()).map(Member::identity);
            // Before all of the machine's processes are looked at, which gives those that fork the time to.
            let struck = if polite { Vec::new() } else { self.below.strike() };
            let mut found = alive.chain(struck).fold(false, |found, identity| found | known.insert(identity));
            if !polite && let Some(cgroup) = cgroup {
                // After they are counted. Where the kernel is too old for it, the tree is walked.
                let _ = cgroup.kill();
            }
            // Who cannot be looked at is not gone.
            let Ok(members) = self.below.members() else {
                if over {
                    return (known.len(), known.len().max(1));
                }
                self.reap();
                std::thread::sleep(LOOK);
                continue;
            };
            let alive: Vec<Member> = members.into_iter().filter(|member| !member.is_dead()).collect();
            let guarded = self.below.guardian.filter(|_| self.ended.is_none());
            if (alive.is_empty() && guarded.is_none()) || over {
                return (known.len(), alive.len());
            }
            for member in &alive {
                let identity = member.identity();
                found |= known.insert(identity);
                if !polite {
                    member.signal(Signal::KILL);
                } else if asked.insert(identity) {
                    member.signal(Signal::TERM);
                    // One that was stopped hears nothing until it goes on.
                    member.signal(Signal::CONT);
                }
            }
            if !polite {
                drop(frozen.take());
            }
            // It ends as the program did, and says how.
            if let Some(guardian) = guarded
                && alive.is_empty()
                && past(&mut alone) > LAST
            {
                // Not reaped yet: the number is still its own.
                let _ = rustix::process::kill_process(guardian, Signal::KILL);
            }
            self.reap();
            // Whoever forks faster than we look is not given the time.
            if polite || !found {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Collects what ended, before its number can be another's: our children, and those that were held while they ended,
    /// which are handed on to their parents by that.
    pub(crate) fn reap(&mut self) {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let started = Instant::now();
        while let Some(ended) = waitid(Id::All, look).ok().and_then(|status| status.pid()) {
            // They may end faster than they are collected.
            if started.elapsed() > REAPING {
                return;
            }
            let Some(pid) = Pid::from_raw(ended.as_raw()) else { return };
            let wrote = self.written.map(|written| written + self.wrote(pid));
            let Ok(Some((_, status))) = waitpid(Some(pid), WaitOptions::NOHANG) else { return };
            // Who is held is told of as well.
            if status.stopped() {
                continue;
            }
            self.written = wrote;
            if self.root == Some(pid) {
                self.ended = Some(status);
            }
        }
    }

    /// Bytes that a child of ours wrote which has ended and is still there.
    fn wrote(&self, pid: Pid) -> u64 {
        let member = Member::of(pid).ok().filter(|member| member.stat.ppid == raw(self.below.own));
        member.map_or(0, |member| member.written())
    }
}

fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

/// The children of a process (proc_tid_children(5)): some may be missing that were born or adopted just now. Nothing
/// where the kernel lists none.
fn children(pid: i32) -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Some(found) };
    for thread in threads.flatten() {
        match std::fs::read_to_string(thread.path().join("children")) {
            Ok(list) => {
                found
                    .extend(list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
            }
            // Of a thread that still is there it is there, or nowhere.
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(found)
}

impl Below {
    fn is_ours(&self, pid: i32) -> bool {
        [self.guardian, self.helper].contains(&Pid::from_raw(pid))
    }

    /// Ends most processes of the program, each before its children are listed, so that it can make no more; who they were.
    fn strike(&self) -> Vec<(i32, u64)> {
        let mut struck = Vec::new();
        let mut parents = vec![raw(self.own)];
        while let Some(parent) = parents.pop() {
            for pid in children(parent).unwrap_or_default() {
                parents.push(raw(pid));
                let member =
                    Member::of(pid).ok().filter(|member| !self.is_ours(raw(pid)) && !member.is_dead());
                if let Some(member) = member {
                    member.signal(Signal::KILL);
                    struck.push(member.identity());
                }
            }
        }
        struck
    }

    /// Most processes of the program, found without a look at every other there is.
    fn members_now(&self) -> io::Result<Vec<Member>> {
        let mut found = Vec::new();
        let mut parents = vec![raw(self.own)];
        while let Some(parent) = parents.pop() {
            let Some(children) = children(parent) else { return self.members() };
            for pid in children {
                parents.push(raw(pid));
                // Whoever ended meanwhile is no member.
                found.extend(Member::of(pid).ok().filter(|_| !self.is_ours(raw(pid))));
            }
        }
        Ok(found)
    }

    /// Every process of the program; nothing is missing.
    pub(super) fn members(&self) -> io::Result<Vec<Member>> {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        // Who has no child has no descendant: orphans would be its own.
        if waitid(Id::All, look) == Err(nix::errno::Errno::ECHILD) {
            return Ok(Vec::new());
        }
        let mut by_parent: HashMap<i32, Vec<Member>> = HashMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let Some(pid) = pid else { continue };
            match Member::of(pid) {
                Ok(member) => by_parent.entry(member.stat.ppid).or_default().push(member),
                // Whoever ended between the listing and now is no member.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut found = Vec::new();
        let mut parents = vec![raw(self.own)];
        while let Some(parent) = parents.pop() {
            for child in by_parent.remove(&parent).unwrap_or_default() {
                parents.push(child.stat.pid);
                if !self.is_ours(child.stat.pid) {
                    found.push(child);
                }
            }
        }
        Ok(found)
    }
}

/// What the kernel says of a process or thread, by its directory below /proc.
fn stat(of: &Path) -> io::Result<Stat> {
    Stat::from_file(of.join("stat")).map_err(|error| match error {
        ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        ProcError::Io(error, _) => error,
        error => io::Error::other(error),
    })
}

/// Whether what was looked at has ended.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

impl Member {
    fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self { stat: stat(Path::new(&format!("/proc/{}", raw(pid))))? })
    }

    /// Its number, and when it started.
    fn identity(&self) -> (i32, u64) {
        (self.stat.pid, self.stat.starttime)
    }

    /// Whether nothing of it runs any more: the first thread of a process can end before the others.
    fn is_dead(&self) -> bool {
        self.stat.state == 'Z' && self.stat.num_threads <= 1
    }

    /// Whether its number still means it.
    fn is_still(&self) -> io::Result<bool> {
        match Pid::from_raw(self.stat.pid).map(Self::of) {
            Some(Ok(now)) => Ok(now.stat.starttime == self.stat.starttime),
            Some(Err(error)) if !is_gone(&error) => Err(error),
            _ => Ok(false),
        }
    }

    /// What the kernel says of it, and of no later process with its number.
    fn process(&self) -> Option<Process> {
        let process = Process::new(self.stat.pid).ok()?;
        self.is_still().is_ok_and(|still| still).then_some(process)
    }

    /// Each of its threads; nothing is missing, and there are none where it has ended.
    pub(super) fn threads(&self) -> io::Result<Vec<Stat>> {
        let tasks = format!("/proc/{}/task", self.stat.pid);
        let mut threads = Vec::new();
        let mut look = || -> io::Result<()> {
            for entry in std::fs::read_dir(&tasks)? {
                match stat(&entry?.path()) {
                    Ok(thread) => threads.push(thread),
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        match look() {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
        Ok(if self.is_still()? { threads } else { Vec::new() })
    }

    /// Bytes handed to write calls, or that it made dirty through mappings, whichever is more. Counts what its
    /// waited-for children wrote (proc_pid_io(5)).
    fn written(&self) -> u64 {
        let io = self.process().and_then(|process| process.io().ok());
        io.map_or(0, |io| io.wchar.max(io.write_bytes))
    }

    /// Bytes of memory, each shared page divided among its users (`Pss`); resident ones where that is not told.
    fn proportional(&self, page: u64) -> u64 {
        let exact = self.process().and_then(|process| process.smaps_rollup().ok()).and_then(|rollup| {
            rollup.memory_map_rollup.iter().find_map(|map| map.extension.map.get("Pss").copied())
        });
        exact.unwrap_or(self.stat.rss * page)
    }

    /// Sends a signal to this very process, never to a later one with its number.
    fn signal(&self, signal: Signal) {
        if let Some(process) = self.pidfd() {
            let _ = pidfd_send_signal(&process, signal);
        }
    }

    /// A descriptor of this very process.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.stat.pid)?, PidfdFlags::empty()).ok()?;
        // It names whoever has the number now; that it is still the one we saw:
        self.is_still().is_ok_and(|still| still).then_some(fd)
    }
}

/// The exit code a shell reports for how a process ended.
pub(crate) fn code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 128,
    };
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}
