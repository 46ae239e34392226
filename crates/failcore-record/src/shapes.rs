//! What file systems tell of files by their own ways, as the recorded one told it: numbers, links, lengths of directories.
//! The tree in memory that a program runs again in has others.

use std::collections::{BTreeMap, HashMap};

use failcore_gate::Appearance;
use failcore_model::input::{Moment, Shown};
use rustix::fs::{AtFlags, CWD, Stat, statat};

use crate::recording::Node;

/// Numbers of files that the second run makes begin here, so that they are none of the record's.
const OWN: u64 = 1 << 40;

/// How each recorded file is to appear.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    /// The file system of the tree.
    device: u64,
    /// By number there: how it was recorded, and how it stood when the tree was new.
    by_inode: HashMap<u64, (Shown, Appearance)>,
}

impl Shapes {
    /// Looks at each file of the record where it stands now, in the tree that is the root.
    pub(crate) fn of(nodes: &BTreeMap<Vec<u8>, Node>) -> Self {
        let Ok(root) = statat(CWD, "/", AtFlags::empty()) else { return Self::default() };
        let shown = |node: &Node| match node {
            Node::Directory { shown, .. } | Node::File { shown, .. } => *shown,
            Node::Absent | Node::Link(_) | Node::Special => None,
        };
        let found = nodes.iter().filter_map(|(path, node)| {
            let stat = statat(CWD, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
            (stat.st_dev == root.st_dev).then_some((stat.st_ino, (shown(node)?, appearance(&stat))))
        });
        Self { device: root.st_dev, by_inode: found.collect() }
    }

    /// Has a file appear as it was recorded, as far as it is still that; whether it is of the tree.
    pub(crate) fn show(&self, now: &mut Appearance) -> bool {
        if now.device != self.device {
            return false;
        }
        let Some((shown, then)) = self.by_inode.get(&now.inode) else {
            now.inode |= OWN;
            return true;
        };
        now.inode = shown.inode;
        // As many more or less as there are by now.
        now.links = shown.links.saturating_add(now.links).saturating_sub(then.links);
        if now.directory {
            now.size = shown.size;
        }
        if now.directory || (now.size, now.modified) == (then.size, then.modified) {
            now.blocks = shown.blocks;
        }
        if now.changed == then.changed {
            now.changed = shown.changed;
        }
        true
    }
}

fn appearance(stat: &Stat) -> Appearance {
    let moment = |s, ns| Moment { s, ns: u32::try_from(ns).unwrap_or_default() };
    Appearance {
        directory: rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir(),
        device: stat.st_dev,
        inode: stat.st_ino,
        links: stat.st_nlink,
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        modified: moment(stat.st_mtime, stat.st_mtime_nsec),
        changed: moment(stat.st_ctime, stat.st_ctime_nsec),
    }
}
