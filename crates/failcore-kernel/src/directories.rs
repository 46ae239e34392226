//! Identities of directories, remembered for a moment: asking the kernel for each of a path's costs more than the rest
//! of a decision.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use failcore_model::{AbsPath, FileId};
use rustix::fs::{AtFlags, CWD, statat};
use rustix::time::{ClockId, clock_gettime};
use smallvec::SmallVec;

/// How long an answer holds. The agent changes names only through the supervisor, which forgets everything then; this
/// is for what others change.
const FRESH: Duration = Duration::from_millis(20);
/// Directories remembered.
const MOST: usize = 4096;

/// The identities of directories.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    known: RwLock<HashMap<Box<[u8]>, Known>>,
    /// Grows whenever the agent has changed a name.
    changes: AtomicU64,
}

#[derive(Debug)]
struct Known {
    /// Of the directory and of each above it.
    ids: Box<[FileId]>,
    at: Duration,
    changes: u64,
}

/// The time since some beginning, to the tick, which costs a fourth of the exact one.
fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::MonotonicCoarse)).unwrap_or(Duration::MAX)
}

impl Directories {
    /// Adds the identity of `dir`, a path as rules see it, and of each directory above it.
    pub(crate) fn add(&self, dir: &[u8], ids: &mut SmallVec<[FileId; 1]>) {
        // Before looking: what changes while we look makes the answer old at once.
        let changes = self.changes.load(SeqCst);
        let now = now();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(dir)
            && known.changes == changes
            && now.saturating_sub(known.at) < FRESH
        {
            ids.extend_from_slice(&known.ids);
            return;
        }
        drop(known);
        let up = std::iter::successors(AbsPath::new(dir).ok(), AbsPath::parent);
        let found: Box<[FileId]> = up
            .filter_map(|dir| statat(CWD, dir.as_path(), AtFlags::SYMLINK_NOFOLLOW).ok())
            .map(|stat| FileId { dev: stat.st_dev, ino: stat.st_ino })
            .collect();
        ids.extend_from_slice(&found);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(dir.into(), Known { ids: found, at: now, changes });
    }

    /// The agent changed a name: nothing known holds any more.
    pub(crate) fn forget(&self) {
        self.changes.fetch_add(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_names_makes_it_look_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let path = AbsPath::new(root.join("d").as_os_str().as_encoded_bytes()).unwrap();
        std::fs::create_dir(path.as_path()).unwrap();
        std::fs::create_dir(root.join("e")).unwrap();
        let directories = Directories::default();
        let ids = || {
            let mut ids = SmallVec::new();
            directories.add(path.as_bytes(), &mut ids);
            ids
        };
        let before = ids();
        assert_eq!(before.len(), path.components().count() + 1);
        std::fs::rename(path.as_path(), root.join("x")).unwrap();
        std::fs::rename(root.join("e"), path.as_path()).unwrap();
        directories.forget();
        let after = ids();
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1..], after[1..]);
    }
}
