//! What was found the last time: a guess that saves calls where it is right, and is proved every time.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many are remembered; two that share a place take it from one another.
const PLACES: usize = 4096;

/// A set of paths, or what else bytes can name, that forgets.
pub(crate) struct Likely {
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Likely {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }
}

impl Likely {
    /// Whether it was noted; rarely also where it was not.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        let (place, hash) = self.place(name);
        place.load(Relaxed) == hash
    }

    /// Remembers it.
    pub(crate) fn note(&self, name: &[u8]) {
        let (place, hash) = self.place(name);
        place.store(hash, Relaxed);
    }

    /// Forgets it.
    pub(crate) fn forget(&self, name: &[u8]) {
        self.place(name).0.store(0, Relaxed);
    }

    fn place(&self, name: &[u8]) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(name);
        (&self.places[hash as usize % PLACES], hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_until_it_forgets() {
        let likely = Likely::default();
        assert!(!likely.has(b"/a"));
        likely.note(b"/a");
        assert!(likely.has(b"/a") && !likely.has(b"/b"));
        likely.forget(b"/a");
        assert!(!likely.has(b"/a"));
    }
}
