//! `/dev/random` and `/dev/urandom` (random(4)) for a program whose inputs somebody knows: in their place it gets a pipe
//! without end, all of whose bytes follow from a few. Whoever knows those can give it the same bytes again.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use failcore_gate::Witness;
use rustix::fs::{FileType, OFlags, makedev};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use sha2::{Digest, Sha256};

use crate::call::Call;
use crate::observed;
use crate::walk::{Object, View};

/// Streams at once; each has a thread while it is open.
const MOST: usize = 256;
/// As much as all the rest follows from: nobody guesses it.
const SEED: usize = 32;
/// What a pipe holds (pipe(7)); the first bytes are there together.
const BLOCK: usize = 64 << 10;
const STACK: usize = 256 << 10;

/// The streams of a run that are open.
#[derive(Default)]
pub(crate) struct Chance(Arc<()>);

impl Chance {
    /// A stream in place of a device that an open for reading found, where it is one that gives random bytes and somebody
    /// wants to know them.
    pub(crate) fn instead(call: &Call<'_>, found: &Object, flags: OFlags) -> Option<Result<OwnedFd, Errno>> {
        let witness = call.shared.parent.witness.as_deref()?;
        let rdev = found.stat.st_rdev;
        let gives = rdev == makedev(1, 8) || rdev == makedev(1, 9);
        let reads = flags & OFlags::RWMODE == OFlags::RDONLY && !flags.contains(OFlags::DIRECTORY);
        (found.is(FileType::CharacterDevice) && gives && reads)
            .then(|| call.shared.chance.stream(call, witness))
    }

    fn stream(&self, call: &Call<'_>, witness: &dyn Witness) -> Result<OwnedFd, Errno> {
        let open = Arc::clone(&self.0);
        // This one, ours and each that is open.
        if Arc::strong_count(&open) > MOST + 1 {
            return Err(Errno::NFILE);
        }
        let thread = call.shared.voices.of(&call.process, call.tid());
        let seed = observed::random(witness, &format!("{thread} device"), SEED)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let fill = move || {
            let (_open, mut write) = (open, File::from(write));
            let mut blocks = (0..).map(|number| block(&seed, number));
            // Until nobody reads any more.
            while blocks.next().is_some_and(|block| write.write_all(&block).is_ok()) {}
        };
        let filled = std::thread::Builder::new().name("failcore-chance".into()).stack_size(STACK).spawn(fill);
        filled.map_err(|_| Errno::NFILE)?;
        Ok(read)
    }
}

fn block(seed: &[u8], number: u64) -> Vec<u8> {
    let per_block = (BLOCK / Sha256::output_size()) as u64;
    let hashes = (number * per_block..(number + 1) * per_block)
        .map(|count| Sha256::new().chain_update(seed).chain_update(count.to_le_bytes()).finalize());
    hashes.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_follow_from_the_seed_and_no_two_blocks_are_alike() {
        let (one, other) = ([1; SEED], [2; SEED]);
        assert_eq!(block(&one, 7), block(&one, 7));
        assert_eq!(block(&one, 0).len(), BLOCK);
        assert_ne!(block(&one, 0), block(&one, 1));
        assert_ne!(block(&one, 0), block(&other, 0));
        let ones: u32 = block(&one, 0).iter().map(|byte| byte.count_ones()).sum();
        let half = BLOCK as u32 * 4;
        assert!(ones.abs_diff(half) < half / 50, "{ones}");
    }
}
