//! The Merkle log of RFC 6962 while it grows: only its right edge is kept, so memory is logarithmic.

pub(crate) use tlog_tiles::tlog::{EMPTY_HASH, record_hash};
use tlog_tiles::tlog::{Hash, node_hash};

/// The roots of the perfect subtrees that make up the log so far, the largest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    /// Adds a leaf, given as its hash.
    pub(crate) fn push(&mut self, mut leaf: Hash) {
        // Each trailing one bit of the size is a perfect subtree that the new leaf completes.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                leaf = node_hash(left, leaf);
            }
        }
        self.roots.push(leaf);
        self.size += 1;
    }

    /// How many leaves there are.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The root of all leaves so far.
    pub(crate) fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev().copied();
        let Some(last) = roots.next() else { return EMPTY_HASH };
        roots.fold(last, |right, left| node_hash(left, right))
    }
}
