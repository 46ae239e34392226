//! What a record knows of the paths that a program looked at, and so where a second run looks at what nobody knows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use failcore_gate::compare::normal_words;
use rustix::fs::{AtFlags, CWD, statat};
use rustix::io::Errno;

use crate::recording::Node;
use crate::walk::{parent, walk};

/// The paths of a record.
pub(crate) struct Known {
    /// Each, with whether it was a directory of which not all names are known.
    paths: HashMap<Vec<u8>, bool>,
    /// What the second run names by itself, where it is about to do more than look.
    own: Mutex<HashSet<Vec<u8>>>,
}

impl Known {
    pub(crate) fn of(nodes: &BTreeMap<Vec<u8>, Node>) -> Self {
        /// What a directory has to let others do for all of them to look into it.
        const SEARCHED_BY_ALL: u32 = 0o001;
        let searched: HashSet<&[u8]> = nodes.keys().map(|path| parent(path)).collect();
        let in_part = |path: &[u8], node: &Node| {
            // Whoever was not let into a directory learnt nothing of it.
            let let_in = |mode| searched.contains(path) || mode & SEARCHED_BY_ALL != 0;
            matches!(node, Node::Directory { names: None, mode, .. } if let_in(*mode))
        };
        let paths = nodes.iter().map(|(path, node)| (path.clone(), in_part(path, node))).collect();
        Self { paths, own: Mutex::default() }
    }

    /// The program does something by this path: what comes of that is its own.
    pub(crate) fn uses(&self, path: &[u8], follow: bool) {
        if let Some(vacant) = vacant(path, follow)
            && !self.paths.contains_key(&vacant)
        {
            self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(vacant);
        }
    }

    /// The place on the way along `path` where there is nothing now, and nobody knows whether something was.
    pub(crate) fn unknown(&self, path: &[u8], follow: bool) -> Option<Vec<u8>> {
        let vacant = vacant(path, follow)?;
        // In a directory that the run made there is what the run put there.
        if self.paths.contains_key(&vacant) || self.paths.get(parent(&vacant)) != Some(&true) {
            return None;
        }
        if self.own.lock().unwrap_or_else(PoisonError::into_inner).contains(&vacant) {
            return None;
        }
        let said = said(&vacant);
        let alike = self.paths.keys().any(|path| self::said(path) == said);
        (!alike).then_some(vacant)
    }

    /// Each path as [`said`] says it.
    pub(crate) fn all(&self) -> impl Iterator<Item = String> {
        self.paths.keys().map(|path| said(path))
    }
}

/// A look in words, with one word for what differs from run to run by nature.
pub(crate) fn said(path: &[u8]) -> String {
    normal_words(format!("look at {}", String::from_utf8_lossy(path)))
}

/// Where on the way along a path there is nothing.
fn vacant(path: &[u8], follow: bool) -> Option<Vec<u8>> {
    let mut vacant = None;
    let walked = walk(path, follow, |here| {
        Ok::<_, Infallible>(match statat(CWD, here, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => {
                vacant = Some(here.to_vec());
                None
            }
            Err(_) => None,
        })
    });
    walked.ok().and(vacant)
}

#[cfg(test)]
mod tests {
    use failcore_model::input::Moment;

    use super::*;

    #[test]
    fn what_nobody_knows_is_told_from_what_is_known_not_to_be_there() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let place = |name: &str| home.join(name).into_os_string().into_encoded_bytes();
        let directory =
            |names, mode| Node::Directory { mode, modified: Moment { s: 0, ns: 0 }, names, shown: None };
        let mut nodes = BTreeMap::new();
        for (name, node) in [
            ("dir", directory(None, 0o755)),
            ("dir/absent", Node::Absent),
            ("dir/tmp.Ab12Cd34", Node::Absent),
            ("listed", directory(Some(Vec::new()), 0o755)),
            ("closed", directory(None, 0o700)),
            ("private", directory(None, 0o700)),
            ("private/x", Node::Absent),
        ] {
            nodes.insert(place(name), node);
        }
        for dir in ["dir", "listed", "closed", "private", "made"] {
            std::fs::create_dir(home.join(dir)).unwrap();
        }
        std::fs::write(home.join("dir/made"), "").unwrap();
        std::os::unix::fs::symlink("dir", home.join("link")).unwrap();
        let known = Known::of(&nodes);
        let unknown = |name: &str| known.unknown(&place(name), true);
        for name in [
            "dir",
            "dir/absent",
            "dir/absent/below",
            "dir/made",
            "dir/tmp.Zz99Yy88",
            "listed/x",
            "closed/x",
            "made/x",
            "other/x",
            "link/absent",
        ] {
            assert_eq!(unknown(name), None, "{name}");
        }
        for name in ["dir/other", "link/other", "dir/other/below"] {
            assert_eq!(unknown(name), Some(place("dir/other")), "{name}");
        }
        assert_eq!(unknown("private/y"), Some(place("private/y")));
        known.uses(&place("dir/other"), false);
        assert_eq!(unknown("dir/other"), None);
    }
}
