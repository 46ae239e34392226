//! The processes of a run: all that descend from this one, found, measured and stopped, even when their parents
//! are gone.
//!
//! This process is their child subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`), so that an orphan becomes our own
//! child: descent from us never breaks.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use failcore_kernel::Sampled;
use procfs::process::{Process, Stat, all_processes};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, waitpid,
};

use super::freeze::{Frozen, Unfrozen};
use crate::failure::Problem;

/// How long processes left behind get to end by themselves after SIGTERM, and our own one to end after them.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// How long between looks while stopping.
const LOOK: Duration = Duration::from_millis(5);
/// How long stopping may take before it is given up: a process in uninterruptible sleep cannot be ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every process below this one.
pub(crate) struct Tree {
    own: Pid,
    page: u64,
    root: Option<Pid>,
    /// Whether the root is a process of the program, and not one of ours.
    counts: bool,
    ended: Option<WaitStatus>,
    /// Bytes that processes wrote which we reaped ourselves; those of others count with their parents.
    written: u64,
}

/// A process of the tree; the start time tells it from a later one with its number.
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) stat: Stat,
}

impl Tree {
    /// Makes every descendant stay one.
    pub(crate) fn adopt() -> Result<Self, Problem> {
        let own = getpid();
        set_child_subreaper(Some(own)).map_err(Problem::system("adopt orphaned processes"))?;
        Ok(Self { own, page: procfs::page_size(), root: None, counts: true, ended: None, written: 0 })
    }

    /// Whose end is the run's end; `counts` says whether it is a process of the program itself.
    pub(crate) fn watch(&mut self, root: Pid, counts: bool) {
        self.root = Some(root);
        self.counts = counts;
    }

    /// How the root ended, once it has.
    pub(crate) fn ended(&self) -> Option<WaitStatus> {
        self.ended
    }

    /// Holds every process of the program where it is, until what is returned is dropped.
    pub(crate) fn freeze(&self) -> Result<Frozen, Unfrozen> {
        Frozen::new(self.own, self.root, self.counts)
    }

    /// Whether a process is the one of ours that stands between the program and us.
    fn is_ours(&self, member: &Member) -> bool {
        !self.counts && self.root.map(|root| root.as_raw_nonzero().get()) == Some(member.stat.pid)
    }

    /// Measures the tree, and reaps our own children that ended.
    pub(crate) fn sample(&mut self, memory_limit: Option<u64>) -> Sampled {
        let (dead, alive): (Vec<_>, Vec<_>) = below(self.own).into_iter().partition(Member::is_dead);
        let ours = alive.iter().filter(|member| self.is_ours(member)).count();
        let mut sampled = Sampled { processes: (alive.len() - ours) as u64, ..Sampled::default() };
        let mut write_bytes = 0;
        for member in &alive {
            write_bytes += member.written();
            sampled.memory += member.stat.rss * self.page;
        }
        // Shared pages count once for each process in the resident sets; ask exactly only where it matters.
        if memory_limit.is_some_and(|limit| sampled.memory > limit) {
            sampled.memory = alive.iter().map(|member| member.proportional(self.page)).sum();
        }
        for member in &dead {
            // What it wrote counts with whoever waits for it: its parent, or us.
            let written = member.written();
            if member.stat.ppid == self.own.as_raw_nonzero().get()
                && self.collect(Pid::from_raw(member.stat.pid))
            {
                self.written += written;
            } else {
                write_bytes += written;
            }
        }
        sampled.write_bytes = write_bytes + self.written;
        sampled
    }

    /// Ends every process of the tree: asks them to for as long as `polite` says, and then makes them. What is `frozen`
    /// is let go when it has been told to end.
    ///
    /// Returns how many there were, and how many are still there: what waits in the kernel uninterruptibly cannot be ended.
    pub(crate) fn stop(
        &mut self,
        mut polite: impl FnMut(Duration) -> bool,
        frozen: Option<Frozen>,
    ) -> (usize, usize) {
        let started = Instant::now();
        let (mut known, mut asked, mut frozen) = (HashSet::new(), HashSet::new(), frozen);
        // Since when they are made to, and since when only our own one is left.
        let (mut surely, mut alone) = (None, None);
        loop {
            let alive = below(self.own).into_iter().filter(|member| !member.is_dead());
            let (ours, alive): (Vec<_>, Vec<_>) = alive.partition(|member| self.is_ours(member));
            let past = |since: &mut Option<Instant>| since.get_or_insert_with(Instant::now).elapsed();
            let polite = surely.is_none() && polite(started.elapsed());
            if (alive.is_empty() && ours.is_empty()) || (!polite && past(&mut surely) > PATIENCE) {
                self.reap();
                return (known.len(), alive.len());
            }
            let mut found = false;
            for member in &alive {
                let identity = (member.stat.pid, member.stat.starttime);
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
            if alive.is_empty() && past(&mut alone) > 2 * GRACE {
                ours.iter().for_each(|member| member.signal(Signal::KILL));
            }
            self.reap();
            // Whoever forks faster than we look is not given the time.
            if polite || !found {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Collects every child that ended.
    fn reap(&mut self) {
        while self.collect(None) {}
    }

    /// Collects a child that ended; whether there was one.
    fn collect(&mut self, child: Option<Pid>) -> bool {
        match waitpid(child, WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                // Who is held is told of as well, but has not ended.
                if self.root == Some(pid) && !status.stopped() {
                    self.ended = Some(status);
                }
                true
            }
            _ => false,
        }
    }
}

/// Every process that descends from `own`.
pub(super) fn below(own: Pid) -> Vec<Member> {
    let Ok(processes) = all_processes() else { return Vec::new() };
    let mut by_parent: HashMap<i32, Vec<Member>> = HashMap::new();
    for process in processes.flatten() {
        // Whoever ended between the listing and now is no member.
        if let Ok(stat) = process.stat() {
            by_parent.entry(stat.ppid).or_default().push(Member { process, stat });
        }
    }
    let mut found = Vec::new();
    let mut parents = vec![own.as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        for child in by_parent.remove(&parent).unwrap_or_default() {
            parents.push(child.stat.pid);
            found.push(child);
        }
    }
    found
}

impl Member {
    /// Whether nothing of it runs any more: the first thread of a process can end before the others.
    fn is_dead(&self) -> bool {
        self.stat.state == 'Z' && self.stat.num_threads <= 1
    }

    /// Bytes handed to write calls, or that it made dirty through mappings, whichever is more. Counts what its
    /// waited-for children wrote (proc_pid_io(5)).
    fn written(&self) -> u64 {
        self.process.io().map_or(0, |io| io.wchar.max(io.write_bytes))
    }

    /// Bytes of memory, each shared page divided among its users (`Pss`); resident ones where that is not told.
    fn proportional(&self, page: u64) -> u64 {
        let exact = self.process.smaps_rollup().ok().and_then(|rollup| {
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
        let same = self.process.stat().is_ok_and(|stat| stat.starttime == self.stat.starttime);
        same.then_some(fd)
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
