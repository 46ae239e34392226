//! The cgroup of a run (kernel documentation, "Control Group v2"): what the kernel counts, freezes and ends as one.
//!
//! A process starts in it (clone3(2), `CLONE_INTO_CGROUP`), so that nothing of the run was ever outside; it cannot leave,
//! since that is a write to a file that no policy permits ([`Mounts`]). Where no cgroup can be made, the run goes without:
//! its processes are found by descent and measured from time to time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use failcore_policy::Limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    Access, AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, accessat, flock, mkdirat, openat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::mounts::{Hierarchy, Mounts};

/// How names of runs' cgroups begin.
const PREFIX: &str = "failcore-";
/// How often a cgroup is made anew that somebody swept away before it was locked.
const TRIES: usize = 4;
/// How long the last processes may take to leave before the cgroup is left behind.
const PATIENCE: Duration = Duration::from_secs(2);
/// Threads a process of the run may have, taken all together, and how many any run may have.
const THREADS: u64 = 64;
const LEAST_THREADS: u64 = 512;

/// A cgroup of one run's own.
///
/// It is removed when this is dropped; whoever else holds [`Cgroup::hold`] removes it where this process cannot any more.
#[derive(Debug)]
pub struct Cgroup {
    base: PathBuf,
    name: String,
    /// The directory, locked for as long as the run lasts: an unlocked one was left behind.
    dir: OwnedFd,
    memory: bool,
    pids: bool,
}

/// Why a run gets no cgroup of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// Cgroup 2 is not there.
    #[error("cgroup 2 is not mounted here, or this process is in none of it")]
    NotThere,
    /// None may be made.
    #[error("no cgroup may be made in `{}`: {why}", dir.display())]
    NotOurs {
        /// The cgroup of this process.
        dir: PathBuf,
        /// The kernel's answer.
        why: Errno,
    },
}

/// What another process needs of a cgroup to start a process in it, and to clear it away when nobody else can.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The directory.
    pub(crate) dir: OwnedFd,
    /// Ends every process when a `1` is written to it; none before Linux 5.14.
    pub(crate) kill: Option<OwnedFd>,
    /// The directory it lies in, and its name there.
    pub(crate) base: OwnedFd,
    pub(crate) name: std::ffi::CString,
}

impl Cgroup {
    /// Makes a cgroup called after `run`, and lets the kernel hold in it what it can of `limits`.
    ///
    /// It lies in this process's own cgroup, or in the nearest one above where the controllers that the limits need are
    /// to be had. Only in its own does this process switch controllers on.
    ///
    /// # Errors
    /// [`CgroupError`]. Without a controller there is a cgroup all the same: see [`Cgroup::holds_memory`].
    pub fn create(run: &str, limits: &Limits, mounts: &Mounts) -> Result<Self, CgroupError> {
        let (own, top) = own(mounts).ok_or(CgroupError::NotThere)?;
        let needs: Vec<&str> = [("memory", limits.memory), ("pids", limits.processes)]
            .into_iter()
            .filter_map(|(controller, limit)| limit.map(|_| controller))
            .collect();
        let name = format!("{PREFIX}{run}");
        let mut first = None;
        let mut why = None;
        for base in own.ancestors().take_while(|dir| dir.starts_with(&top)) {
            match Self::within(base, &name, &needs, base == own) {
                Ok(made) if needs.iter().all(|need| made.has(need)) => {
                    drop(first);
                    return Ok(made.limited(limits));
                }
                // A cgroup without a controller is better than none, and the nearest is the best of those.
                Ok(made) if first.is_none() => first = Some(made),
                Ok(_) => {}
                Err(errno) => {
                    why.get_or_insert(errno);
                }
            }
        }
        match first {
            Some(made) => Ok(made.limited(limits)),
            None => Err(CgroupError::NotOurs { dir: own, why: why.unwrap_or(Errno::ACCESS) }),
        }
    }

    fn within(base: &Path, name: &str, needs: &[&str], own: bool) -> Result<Self, Errno> {
        // Who may not write this file may start nothing in a cgroup below.
        accessat(CWD, base.join("cgroup.procs"), Access::WRITE_OK, AtFlags::EACCESS)?;
        if own {
            for need in needs.iter().filter(|need| listed(&base.join("cgroup.controllers"), need)) {
                // Refused where this cgroup holds processes, as it mostly does.
                let _ = std::fs::write(base.join("cgroup.subtree_control"), format!("+{need}"));
            }
        }
        sweep(base);
        for _ in 0..TRIES {
            match mkdirat(
                CWD,
                base.join(name),
                Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH,
            ) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let Ok(dir) = openat(CWD, base.join(name), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            else {
                continue;
            };
            if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let made = Self { base: base.into(), name: name.into(), memory: false, pids: false, dir };
            // Somebody may have swept it away between its making and its lock.
            match made.read("cgroup.type").as_deref() {
                Some("domain") => return Ok(made),
                Some(_) => return Err(Errno::OPNOTSUPP),
                None => {}
            }
        }
        Err(Errno::AGAIN)
    }

    fn has(&self, controller: &str) -> bool {
        self.read("cgroup.controllers").is_some_and(|all| all.split_whitespace().any(|has| has == controller))
    }

    /// Sets what the kernel is to hold.
    fn limited(mut self, limits: &Limits) -> Self {
        if let Some(most) = limits.memory {
            self.memory = self.write("memory.max", &most.to_string()).is_ok();
            // What does not fit is not moved to disk instead, and the run ends as one.
            let _ = self.write("memory.swap.max", "0");
            let _ = self.write("memory.oom.group", "1");
        }
        if let Some(most) = limits.processes {
            self.pids = self.write("pids.max", &threads(most).to_string()).is_ok();
        }
        self
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    /// Whether the kernel holds the limit on memory.
    pub fn holds_memory(&self) -> bool {
        self.memory
    }

    /// Why it does not hold what a controller would; nothing where it does.
    pub fn lacks(&self, controller: &str) -> Option<&'static str> {
        let named = |hierarchy: &Hierarchy| matches!(hierarchy, Hierarchy::One(names) if names.iter().any(|name| name == controller));
        let held = (controller == "memory" && self.memory) || (controller == "pids" && self.pids);
        (!held).then(|| match Mounts::read().hierarchies().any(|(_, hierarchy)| named(hierarchy)) {
            true => "the controller belongs to cgroup version 1 here",
            false => "the controller is not to be had for it",
        })
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// The kernel's; `ENODEV` once it is removed.
    pub fn enter(&self, pid: Pid) -> Result<(), Errno> {
        self.write("cgroup.procs", &pid.as_raw_nonzero().to_string())
    }

    /// Stops every process where it is, until [`Cgroup::thaw`]; returns once none runs any more.
    ///
    /// # Errors
    /// The kernel's; `ETIMEDOUT` where a process could not be stopped in time, which then stops as soon as it can.
    pub fn freeze(&self, patience: Duration) -> Result<(), Errno> {
        self.write("cgroup.freeze", "1")?;
        self.wait_for("frozen 1", patience)
    }

    /// Lets everything go on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn thaw(&self) -> Result<(), Errno> {
        self.write("cgroup.freeze", "0")
    }

    /// Ends every process at once, frozen ones and those just being born too.
    ///
    /// # Errors
    /// The kernel's; `ENOENT` before Linux 5.14.
    pub fn kill(&self) -> Result<(), Errno> {
        self.write("cgroup.kill", "1")
    }

    /// How often the kernel ended a process for want of memory.
    pub fn out_of_memory(&self) -> u64 {
        self.read("memory.events").and_then(|events| number(&events, "oom_kill")).unwrap_or_default()
    }

    /// Bytes of memory in use that cannot be taken back by dropping cached files.
    pub fn memory(&self) -> Option<u64> {
        let current: u64 = self.read("memory.current")?.trim().parse().ok()?;
        let stat = self.read("memory.stat")?;
        let [file, shared] = ["file", "shmem"].map(|name| number(&stat, name).unwrap_or_default());
        Some(current.saturating_sub(file.saturating_sub(shared)))
    }

    /// What another process needs to use it.
    pub(crate) fn hold(&self) -> Result<Hold, Errno> {
        let name = std::ffi::CString::new(self.name.as_str()).map_err(|_| Errno::INVAL)?;
        Ok(Hold {
            dir: rustix::io::fcntl_dupfd_cloexec(&self.dir, 3)?,
            kill: openat(&self.dir, "cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).ok(),
            base: openat(CWD, &self.base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?,
            name,
        })
    }

    /// The directory it lies in.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// Waits until `cgroup.events` says so (it tells of changes as an exceptional condition, poll(2)).
    fn wait_for(&self, line: &str, patience: Duration) -> Result<(), Errno> {
        let until = Instant::now() + patience;
        let events = openat(&self.dir, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        loop {
            if self.read("cgroup.events").is_some_and(|events| events.lines().any(|l| l == line)) {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::TIMEDOUT);
            }
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout));
        }
    }

    fn read(&self, file: &str) -> Option<String> {
        let fd = openat(&self.dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).ok()?;
        text.truncate(text.trim_end().len());
        Some(text)
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Errno> {
        let fd = openat(&self.dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(fd)
            .write_all(text.as_bytes())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        // Busy while the last processes are on their way out.
        while unlinkat(CWD, self.path(), AtFlags::REMOVEDIR) == Err(Errno::BUSY) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Removes what runs left behind whose processes are all gone: nobody holds the lock of those. Their guardians had the
/// right to do it only where the directory above lets its owner write, which the topmost one does not.
fn sweep(base: &Path) {
    let Ok(here) = openat(CWD, base, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    for entry in Dir::read_from(&here).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_bytes().starts_with(PREFIX.as_bytes())
            && let Ok(dir) = openat(&here, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            // One with processes in it stays.
            let _ = unlinkat(&here, name, AtFlags::REMOVEDIR);
        }
    }
}

/// What the pids controller is to hold, which counts every thread, for so many processes.
fn threads(processes: u64) -> u64 {
    processes.saturating_mul(THREADS).max(LEAST_THREADS)
}

fn listed(file: &Path, word: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|listed| listed == word))
}

/// The number after a name, one pair a line.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The directory of this process's own cgroup, and the topmost one that can be seen.
fn own(mounts: &Mounts) -> Option<(PathBuf, PathBuf)> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    own_in(mounts, &text)
}

fn own_in(mounts: &Mounts, cgroups: &str) -> Option<(PathBuf, PathBuf)> {
    // proc_pid_cgroup(5): hierarchy 0 is version 2.
    let path = Path::new(cgroups.lines().find_map(|line| line.strip_prefix("0::"))?);
    let two = mounts.hierarchies().filter(|(_, hierarchy)| **hierarchy == Hierarchy::Two);
    two.map(|(mount, _)| mount).find_map(|mount| {
        // Outside of what this process may see, the kernel writes `/..`.
        let below = path.strip_prefix(&mount.root).ok().filter(|below| !below.starts_with(".."))?;
        let own = if below == Path::new("") { mount.point.clone() } else { mount.point.join(below) };
        Some((own, mount.point.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_is_found_below_what_is_mounted() {
        let two = |root: &str| Mounts::of(format!("41 31 0:38 {root} /cg rw - cgroup2 none rw").as_bytes());
        let found = |root, own: &str| own_in(&two(root), own).map(|(own, _)| own.display().to_string());
        assert_eq!(found("/", "3:pids:/x\n0::/user/app\n").as_deref(), Some("/cg/user/app"));
        assert_eq!(found("/user", "0::/user/app").as_deref(), Some("/cg/app"));
        assert_eq!(found("/", "0::/").as_deref(), Some("/cg"));
        assert_eq!(found("/", "0::/../other"), None);
        assert_eq!(found("/elsewhere", "0::/user"), None);
        assert_eq!(found("/", "3:pids:/x"), None, "version 1 alone");
        let one = Mounts::of(b"35 31 0:32 / /cg rw - cgroup none rw,memory");
        assert_eq!(own_in(&one, "0::/"), None);
    }

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        let text = "anon 5\nfile 7\nfile_mapped 9\nshmem 2\noom_kill 1\noom_group_kill 3";
        assert_eq!(number(text, "file"), Some(7));
        assert_eq!(number(text, "oom_kill"), Some(1));
        assert_eq!(number(text, "nothing"), None);
    }

    #[test]
    fn every_process_may_have_threads() {
        assert_eq!(threads(1), LEAST_THREADS);
        assert_eq!(threads(64), 4096);
        assert_eq!(threads(u64::MAX), u64::MAX);
    }
}
