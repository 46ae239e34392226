//! Laying out what was recorded as a tree of files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use failcore_model::input::{Moment, Name};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, chmod, mkdir, mknodat, symlink, utimensat,
};

use crate::recording::{Contents, Node, Recording};
use crate::store::{Objects, StoreError, sha256};

/// Why a recorded program cannot be run again here.
#[derive(Debug, thiserror::Error)]
pub enum Unready {
    /// A file of which only the hash was kept is not the same any more, or gone.
    #[error("{} is not what it was when the run was recorded, and its contents were not kept", .0.display())]
    Changed(PathBuf),
    /// The standard input was not kept, and is not given again.
    #[error("the standard input was not kept, and what is given is not what it gave then")]
    Ungiven,
    /// An object is gone or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tree cannot be made.
    #[error("cannot lay out {}: {source}", path.display())]
    Io {
        /// What could not be made.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

struct Layout<'a> {
    recording: &'a Recording,
    objects: &'a Objects,
    root: &'a Path,
    live: &'a [PathBuf],
    children: HashMap<&'a [u8], Vec<&'a [u8]>>,
}

impl Recording {
    /// Makes the tree of files below `root`, an empty directory, as the program found it at first. What was seen and never
    /// read is there with its length and holds nothing; devices and the like are empty files. Contents that were not
    /// kept are taken from the same place on this machine, if they are still the same; what lies below `live` is left out,
    /// for whoever shows what is there now.
    ///
    /// # Errors
    /// [`Unready`].
    pub fn lay_out(&self, root: &Path, objects: &Objects, live: &[PathBuf]) -> Result<(), Unready> {
        let layout = Layout { recording: self, objects, root, live, children: self.children() };
        layout.fill(b"/")
    }
}

impl Layout<'_> {
    fn at(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(&path[1..]))
    }

    /// Makes what stands in a directory that is there, and then gives that its mode and time.
    fn fill(&self, dir: &[u8]) -> Result<(), Unready> {
        let node = self.recording.nodes.get(dir);
        let listed: &[Name] = match node {
            Some(Node::Directory { names: Some(names), .. }) => names,
            _ => &[],
        };
        let mut below = Vec::new();
        let seen = self.children.get(dir).map(Vec::as_slice).unwrap_or_default();
        let unlisted =
            seen.iter().filter(|name| listed.iter().all(|listed| listed.name.as_bytes() != **name));
        // The file system lists the newest first.
        let order = unlisted
            .map(|name| (*name, None))
            .chain(listed.iter().rev().map(|listed| (listed.name.as_bytes(), Some(listed.kind))));
        for (name, kind) in order {
            let path = if dir == b"/" { [dir, name].concat() } else { [dir, b"/", name].concat() };
            let node = match (self.recording.nodes.get(&path), kind) {
                // It came to be during the run.
                (Some(Node::Absent), _) => continue,
                (Some(node), _) => node.clone(),
                (None, Some(kind)) => Node::of(kind),
                (None, None) => continue,
            };
            self.make(&path, &node)?;
            if matches!(node, Node::Directory { .. }) {
                below.push((path, node));
            }
        }
        for (path, node) in below {
            self.fill(&path)?;
            if let Node::Directory { mode, modified, .. } = node {
                let at = self.at(&path);
                let set = chmod(&at, Mode::from_raw_mode(mode)).and_then(|()| stamp(&at, modified));
                set.map_err(|errno| Unready::Io { path: at, source: errno.into() })?;
            }
        }
        Ok(())
    }

    fn make(&self, path: &[u8], node: &Node) -> Result<(), Unready> {
        let at = self.at(path);
        let failed = |source: io::Error| Unready::Io { path: at.clone(), source };
        let done = match node {
            Node::Absent => Ok(()),
            Node::Directory { .. } => mkdir(&at, Mode::RWXU),
            Node::Link { target, .. } => symlink(target.as_slice(), &at),
            Node::Special => mknodat(CWD, &at, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0),
            Node::File { mode, modified, size, contents, .. } => {
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at).map_err(failed)?;
                let is_live =
                    || self.live.iter().any(|live| Path::new(OsStr::from_bytes(path)).starts_with(live));
                match contents {
                    Some(contents) if !is_live() => {
                        file.write_all(&self.contents(path, contents)?).map_err(failed)?;
                    }
                    _ => file.set_len(*size).map_err(failed)?,
                }
                drop(file);
                chmod(&at, Mode::from_raw_mode(*mode)).and_then(|()| stamp(&at, *modified))
            }
        };
        done.map_err(|errno| failed(errno.into()))
    }

    fn contents(&self, path: &[u8], contents: &Contents) -> Result<Vec<u8>, Unready> {
        if let Some(bytes) = self.recording.set.get(&contents.sha256) {
            return Ok(bytes.clone());
        }
        if contents.kept {
            return Ok(self.objects.get(&contents.sha256, contents.size)?);
        }
        let here = Path::new(OsStr::from_bytes(path));
        let bytes = File::open(here).and_then(|mut file| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes)?;
            Ok(bytes)
        });
        bytes
            .ok()
            .filter(|bytes| sha256(bytes) == contents.sha256)
            .ok_or_else(|| Unready::Changed(here.into()))
    }
}

fn stamp(at: &Path, modified: Moment) -> rustix::io::Result<()> {
    let time = Timespec { tv_sec: modified.s, tv_nsec: modified.ns.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW)
}
