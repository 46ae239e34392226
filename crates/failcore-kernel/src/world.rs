//! A world of a program's own: a tree of files and a network that nobody else is in (mount_namespaces(7),
//! network_namespaces(7), user_namespaces(7)).

#![allow(unsafe_code, reason = "unshare is declared unsafe because of descriptors, which this leaves alone")]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use failcore_model::{Coverage, RuleId, Verb};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, chmodat, mkdirat, openat, openat2, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{getegid, geteuid, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::island::settle;

/// Devices that are the same everywhere, and hold nothing.
const DEVICES: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts"];

/// A world that is being made: the calling process still sees the machine's files, and no longer its network.
#[derive(Debug)]
pub struct World {
    root: PathBuf,
}

/// A world cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {why}")]
pub struct WorldError {
    /// What was attempted.
    pub step: String,
    /// The kernel's answer.
    pub why: io::Error,
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> WorldError {
    let step = step.into();
    move |why| WorldError { step, why: why.into() }
}

impl World {
    /// Leaves the machine's mounts, network and System V objects for new ones, as user `uid` of group `gid`, and mounts an
    /// empty file system in memory at `root`, a directory. Nothing of it is seen by other processes, and all of it is
    /// gone with the last process in it.
    ///
    /// # Errors
    /// [`WorldError`]: an ordinary user may not be let make namespaces here. The process is then of no use any more.
    pub fn begin(root: &Path, uid: u32, gid: u32) -> Result<Self, WorldError> {
        let (own_uid, own_gid) = (geteuid().as_raw(), getegid().as_raw());
        let as_oneself = own_uid == 0 && (uid, gid) == (own_uid, own_gid);
        let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
        if !as_oneself {
            flags |= UnshareFlags::NEWUSER;
        }
        // SAFETY: no descriptor becomes another's.
        unsafe { unshare_unsafe(flags) }.map_err(failed("cannot make namespaces"))?;
        if !as_oneself {
            // A group cannot be mapped by who could still drop it.
            for (file, text) in [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("{uid} {own_uid} 1")),
                ("gid_map", format!("{gid} {own_gid} 1")),
            ] {
                let file = Path::new("/proc/self").join(file);
                std::fs::write(&file, text).map_err(failed(format!("cannot write {}", file.display())))?;
            }
        }
        if !settle() {
            return Err(failed("cannot make a network of its own")(io::Error::last_os_error()));
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(failed("cannot part from the machine's mounts"))?;
        mount("failcore", root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
            .map_err(failed("cannot mount a file system in memory"))?;
        Ok(Self { root: root.to_owned() })
    }

    /// Makes what was laid out the calling process's root. Of the machine's files there are /proc, the devices that hold
    /// nothing, and each of `bound` with all below it, at its own path; and of `links`, each after those that it leads by,
    /// those at whose path there is nothing. What was laid out below /proc stands over the machine's.
    ///
    /// # Errors
    /// [`WorldError`].
    pub fn enter(self, bound: &[PathBuf], links: &[(PathBuf, PathBuf)]) -> Result<(), WorldError> {
        let proc = self.root.join("proc");
        let mut over = Vec::new();
        files_below(&proc, &mut over).map_err(failed("cannot read what was laid out below /proc"))?;
        self.bind(Path::new("/proc"))?;
        for (file, at) in over {
            // Not every file of /proc that was is.
            let _ = mount_bind(format!("/proc/self/fd/{}", file.as_raw_fd()), &at);
        }
        for device in DEVICES {
            let device = Path::new("/dev").join(device);
            if device.exists() {
                self.bind(&device)?;
            }
        }
        let shared = self
            .directory(Path::new("/dev/shm"))
            .and_then(|shared| chmodat(shared, ".", Mode::from_raw_mode(0o1777), AtFlags::empty()));
        shared.map_err(failed("cannot make /dev/shm"))?;
        for path in bound {
            self.bind(path)?;
        }
        for (path, target) in links {
            self.link(path, target).map_err(failed(format!("cannot make the link {}", path.display())))?;
        }
        rustix::process::chdir(&self.root).map_err(failed("cannot enter the new root"))?;
        pivot_root(".", ".").map_err(failed("cannot make it the root"))?;
        unmount(".", UnmountFlags::DETACH).map_err(failed("cannot leave the old root"))?;
        rustix::process::chdir("/").map_err(failed("cannot enter the new root"))
    }

    /// Says of a run in such a world what it holds: whatever is decided, nothing outside is reached, but what the rules in
    /// `live` permit. `bound` is as in [`World::enter`].
    pub fn covers(coverage: &mut Coverage, bound: &[PathBuf], live: &[RuleId]) {
        for held in &mut coverage.verbs {
            held.by.push_str(match held.verb {
                Verb::FsOpen
                | Verb::FsRead
                | Verb::FsCreate
                | Verb::FsModify
                | Verb::FsDelete
                | Verb::FsAttr
                | Verb::FsRename
                | Verb::FsLink
                | Verb::FsSymlink
                | Verb::ProcessExec
                | Verb::NativeLoad => "; in a mount namespace whose files are the record's, in memory",
                Verb::NetResolve
                | Verb::NetConnect
                | Verb::NetSend
                | Verb::NetBind
                | Verb::NetListen
                | Verb::NetSocket
                | Verb::NetHttp => "; in a network namespace that nobody else is in",
                _ => "",
            });
        }
        let reached = match live {
            [] => "nothing outside is reached, whatever is decided".to_owned(),
            live => {
                let live: Vec<_> = live.iter().map(ToString::to_string).collect();
                format!(
                    "nothing outside is reached but by these rules, by which it really is: {}",
                    live.join(", ")
                )
            }
        };
        coverage.notes.push(format!(
            "run again from a record: {reached}; its namespaces have the files of the record, in memory, and nobody is on \
             its network but who says what was said then"
        ));
        let bound: Vec<_> = bound.iter().map(|path| path.display().to_string()).collect();
        coverage.notes.push(format!(
            "of the machine it has /proc, devices that hold nothing, and {}, of which what is FailCore's own is closed to \
             the program as in every run; processes outside it sees in /proc, and can neither signal nor trace",
            bound.join(", ")
        ));
    }

    /// Shows what is at `path` on the machine there in the world too.
    fn bind(&self, path: &Path) -> Result<(), WorldError> {
        let step = || format!("cannot show {}", path.display());
        let at = if path.is_dir() { self.directory(path) } else { self.file(path) };
        at.and_then(|at| {
            // By descriptors, so that no link of the tree leads out of it.
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(CWD, path, flags | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
            let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(tree, "", at, "", both)
        })
        .map_err(failed(step()))
    }

    /// What stands at an absolute path of the new root, wherever links of it lead there; never what is outside of it.
    fn find(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root =
            openat(CWD, &self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// The directory at a path, made where there is none.
    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.find(path, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let (above, name) = self.room(path)?;
        mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
        openat(above, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// The file at a path, made where there is none.
    fn file(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.find(path, OFlags::empty()) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let (above, name) = self.room(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(above, name, flags, Mode::from_raw_mode(0o600))
    }

    /// A link at a path, unless something stands there.
    fn link(&self, path: &Path, target: &Path) -> Result<(), Errno> {
        match self.find(path, OFlags::empty()) {
            Err(Errno::NOENT) => {}
            found => return found.map(drop),
        }
        let (above, name) = self.room(path)?;
        symlinkat(target, above, name)
    }

    /// The directory above a path at which nothing is found, and its name there, which is free: of a link that leads nowhere no
    /// more is known than that it was there.
    fn room<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (above, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
        let above = self.directory(above)?;
        match unlinkat(&above, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((above, name)),
            Err(errno) => Err(errno),
        }
    }
}

/// Every file below `dir` that holds something, with a descriptor that stays when something else stands there.
fn files_below(dir: &Path, found: &mut Vec<(OwnedFd, PathBuf)>) -> io::Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files_below(&entry.path(), found)?;
        } else if kind.is_file() && entry.metadata()?.len() > 0 {
            let held: Result<OwnedFd, Errno> =
                openat(CWD, entry.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            found.push((held?, entry.path()));
        }
    }
    Ok(())
}
