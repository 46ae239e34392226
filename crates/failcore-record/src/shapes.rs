//! What file systems tell of files by their own ways, as the recorded one told it: numbers, links, lengths of directories.
//! The tree in memory that a program runs again in has others.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use failcore_gate::Appearance;
use failcore_model::input::{Moment, Shown};
use rustix::fs::{AtFlags, CWD, Stat, statat};

use crate::recording::Node;

/// Numbers of files that the second run makes begin here, so that they are none of the record's.
const OWN: u64 = 1 << 40;

/// How each recorded file is to appear.
#[derive(Debug)]
pub(crate) struct Shapes {
    /// By path: how it was recorded, and when it was changed last.
    recorded: Vec<(Vec<u8>, Shown, Moment)>,
    /// The tree, as it was when the program looked for the first time.
    tree: OnceLock<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    /// Its file system.
    device: u64,
    /// By number there: how it was recorded, when it was changed last, and how it stood.
    by_inode: HashMap<u64, (Shown, Moment, Appearance)>,
}

impl Shapes {
    pub(crate) fn of(nodes: &BTreeMap<Vec<u8>, Node>) -> Self {
        let shown = |(path, node): (&Vec<u8>, &Node)| match node {
            Node::Directory { shown, modified, .. } | Node::File { shown, modified, .. } => {
                Some((path.clone(), (*shown)?, *modified))
            }
            Node::Link { made, .. } => made.map(|(modified, shown)| (path.clone(), shown, modified)),
            Node::Absent | Node::Special => None,
        };
        Self { recorded: nodes.iter().filter_map(shown).collect(), tree: OnceLock::new() }
    }

    /// Looks at each file of the record where it stands now, in the tree that is the root.
    fn tree(&self) -> Tree {
        let Ok(root) = statat(CWD, "/", AtFlags::empty()) else { return Tree::default() };
        let found = self.recorded.iter().filter_map(|(path, shown, modified)| {
            let stat = statat(CWD, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
            (stat.st_dev == root.st_dev).then(|| (stat.st_ino, (*shown, *modified, appearance(&stat))))
        });
        Tree { device: root.st_dev, by_inode: found.collect() }
    }

    /// Has a file appear as it was recorded, as far as it is still that; whether it is of the tree.
    pub(crate) fn show(&self, now: &mut Appearance) -> bool {
        let tree = self.tree.get_or_init(|| self.tree());
        if now.device != tree.device {
            return false;
        }
        let Some((shown, modified, then)) = tree.by_inode.get(&now.inode) else {
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
        if now.modified == then.modified {
            now.modified = *modified;
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
