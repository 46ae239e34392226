//! Which of many globs can match a name at all, found by the few bytes that the name begins with and ends in.

use std::sync::Arc;

use aho_corasick::AhoCorasick;
use rustc_hash::FxHashMap;

use crate::pattern::Glob;

/// From how many globs in one place a search for candidates is quicker than trying each.
const MANY: usize = 2;
/// From how many globs without a fixed end a search for what they contain is quicker than trying each.
const MANY_FREE: usize = 12;
/// How many bytes of a fixed end are looked at, so that they fit one number.
const KEY: usize = 4;

/// An index over the globs of one place, by their positions there.
#[derive(Debug, Clone)]
pub(crate) struct Candidates {
    /// Those that end in fixed bytes, as `*.key`.
    tails: Ends,
    /// Those that only begin with some, as `core.*`.
    heads: Ends,
    /// Those that do neither but contain some, as `*secret*`.
    inner: Option<Arc<Inner>>,
    /// Those that could match anything.
    rest: Vec<u32>,
}

/// Globs by up to [`KEY`] bytes of a fixed end.
#[derive(Debug, Clone, Default)]
struct Ends {
    /// The numbers of bytes that occur, a bit each.
    lengths: u8,
    /// The outermost bytes that occur, a bit each: few names have one of them.
    outermost: [u64; 4],
    /// By that number and the bytes.
    globs: FxHashMap<(u8, u32), Vec<u32>>,
}

/// Globs by bytes in their midst.
#[derive(Debug)]
struct Inner {
    search: AhoCorasick,
    /// Globs by the needle they contain.
    holders: Vec<Vec<u32>>,
}

impl Candidates {
    /// Arranges globs; `None` where they are so few that each may be tried.
    pub(crate) fn among<'g>(globs: impl ExactSizeIterator<Item = &'g Glob>) -> Option<Self> {
        if globs.len() < MANY {
            return None;
        }
        let (mut tails, mut heads) = (Ends::default(), Ends::default());
        let (mut free, mut rest) = (Vec::new(), Vec::new());
        for (glob, n) in globs.zip(0..) {
            let (head, tail, needle) = (glob.head(), glob.tail(), glob.needle());
            if !tail.is_empty() {
                tails.insert(&tail[tail.len().saturating_sub(KEY)..], tail.last(), n);
            } else if !head.is_empty() {
                heads.insert(&head[..head.len().min(KEY)], head.first(), n);
            } else if needle.is_empty() {
                rest.push(n);
            } else {
                free.push((needle, n));
            }
        }
        let inner = if free.len() < MANY_FREE { None } else { Inner::of(&free).map(Arc::new) };
        if inner.is_none() {
            rest.extend(free.iter().map(|(_, n)| n));
        }
        Some(Self { tails, heads, inner, rest })
    }

    /// Calls `attempt` with every glob that could match `name`, perhaps more than once.
    pub(crate) fn of(&self, name: &[u8], mut attempt: impl FnMut(u32)) {
        let tail = |length| name.len().checked_sub(length).map(|at| &name[at..]);
        self.tails.of(name.last(), tail, &mut attempt);
        self.heads.of(name.first(), |length| name.get(..length), &mut attempt);
        self.rest.iter().copied().for_each(&mut attempt);
        if let Some(Inner { search, holders }) = self.inner.as_deref() {
            for found in search.find_overlapping_iter(name) {
                holders[found.pattern().as_usize()].iter().copied().for_each(&mut attempt);
            }
        }
    }
}

impl Ends {
    fn insert(&mut self, end: &[u8], outermost: Option<&u8>, n: u32) {
        let key = key(end);
        self.lengths |= 1 << key.0;
        if let Some(byte) = outermost {
            self.outermost[usize::from(byte / 64)] |= 1 << (byte % 64);
        }
        self.globs.entry(key).or_default().push(n);
    }

    /// `end` gives that many bytes of the name's end, where it has them; `outermost` is the last of them.
    fn of<'n>(
        &self,
        outermost: Option<&u8>,
        end: impl Fn(usize) -> Option<&'n [u8]>,
        mut attempt: impl FnMut(u32),
    ) {
        if outermost.is_none_or(|byte| self.outermost[usize::from(byte / 64)] >> (byte % 64) & 1 == 0) {
            return;
        }
        let mut lengths = self.lengths;
        while lengths != 0 {
            let length = lengths.trailing_zeros();
            lengths &= lengths - 1;
            let globs = end(length as usize).and_then(|end| self.globs.get(&key(end)));
            globs.into_iter().flatten().copied().for_each(&mut attempt);
        }
    }
}

/// At most [`KEY`] bytes as their number and one number.
fn key(end: &[u8]) -> (u8, u32) {
    (end.len() as u8, end.iter().fold(0, |key, byte| key << 8 | u32::from(*byte)))
}

impl Inner {
    /// `None` where the automaton gets too large to be built; each glob is tried then.
    fn of(free: &[(Vec<u8>, u32)]) -> Option<Self> {
        let (mut needles, mut holders) = (Vec::<&[u8]>::new(), Vec::<Vec<u32>>::new());
        let mut known = FxHashMap::default();
        for (needle, n) in free {
            let slot = *known.entry(needle).or_insert_with(|| {
                needles.push(needle);
                holders.push(Vec::new());
                holders.len() - 1
            });
            holders[slot].push(*n);
        }
        Some(Self { search: AhoCorasick::new(needles).ok()?, holders })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tried(globs: &[Glob], name: &[u8]) -> Vec<usize> {
        let mut tried = Vec::new();
        match Candidates::among(globs.iter()) {
            None => tried.extend(0..globs.len()),
            Some(candidates) => candidates.of(name, |n| tried.push(n as usize)),
        }
        tried.sort_unstable();
        tried.dedup();
        tried
    }

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| Glob::parse(text.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn only_what_can_match_is_tried() {
        let some = globs(&["*.key", "*.pem", "id_*", "id*", "*~", "*a*", "?", "*.gpgkey"]);
        assert_eq!(tried(&some, b"x.key"), [0, 5, 6]);
        assert_eq!(tried(&some, b"id_rsa"), [2, 3, 5, 6]);
        assert_eq!(tried(&some, b"~"), [4, 5, 6]);
        assert_eq!(tried(&some, b""), [5, 6]);
    }

    #[test]
    fn of_many_without_a_fixed_end_only_those_whose_needle_is_there() {
        let texts: Vec<String> = (10..40).map(|n| format!("*n{n}*")).collect();
        let some = globs(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(tried(&some, b"xn12yn31"), [2, 21]);
        assert_eq!(tried(&some, b"none"), [0usize; 0]);
    }

    proptest! {
        #[test]
        fn whatever_matches_is_tried(
            texts in prop::collection::vec("[ab*?]{0,3}(\\[a\\])?[ab*]{0,6}", 0..40),
            name in "[ab]{0,7}",
        ) {
            let some = globs(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let tried = tried(&some, name.as_bytes());
            for (n, glob) in some.iter().enumerate() {
                prop_assert!(!glob.matches(name.as_bytes()) || tried.contains(&n), "{glob:?} on {name}");
            }
        }
    }
}
