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

#[cfg(test)]
mod tests {
    use super::*;
    use tlog_tiles::tlog::{Error, HashReader, stored_hashes, tree_hash};

    fn hex(hash: Hash) -> String {
        hash.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The test vectors of Google's certificate-transparency (merkletree/merkle_tree_test.go).
    #[test]
    fn roots_are_those_of_rfc_6962() {
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let mut log = Frontier::default();
        assert_eq!(hex(log.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        log.push(record_hash(leaves[0]));
        assert_eq!(hex(log.root()), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        leaves[1..].iter().for_each(|leaf| log.push(record_hash(leaf)));
        assert_eq!(hex(log.root()), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    struct Stored(Vec<Hash>);

    impl HashReader for Stored {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
            Ok(indexes.iter().map(|i| self.0[*i as usize]).collect())
        }
    }

    #[test]
    fn the_right_edge_is_enough_for_every_size() {
        let (mut log, mut stored) = (Frontier::default(), Stored(Vec::new()));
        for n in 0..300u64 {
            log.push(record_hash(&n.to_le_bytes()));
            let new = stored_hashes(n, &n.to_le_bytes(), &stored).unwrap();
            stored.0.extend(new);
            assert_eq!(log.root(), tree_hash(n + 1, &stored).unwrap(), "{n}");
            assert!(log.roots.len() <= 9, "memory is logarithmic");
        }
    }
}
