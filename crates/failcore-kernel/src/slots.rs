//! What the threads of a supervised process tell the supervisor, and what it tells them: one slot a thread, in memory
//! that both map.
//!
//! A thread writes what only it knows (tool scope, call site) before it makes a system call; the supervisor copies it
//! once while the thread waits for its answer, and puts into the same slot why it refused, so that the thread can say
//! more than an errno. Since the one writes only while the other does not run, no lock is needed; a program that
//! breaks this cheats about claims, which are marked as such, and about nothing else.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use rustix::io::Errno;

use crate::shared::Shared;

/// Threads with a slot at once; one without claims nothing and hears an errno.
const SLOTS: usize = 1024;
/// Bytes of a slot.
const SIZE: usize = 4096;
/// Where the claims start, and the reply.
const CLAIMS: usize = 64;
const REPLY: usize = 2048;
/// How many slots are looked at for a thread before there is none for it.
const PROBES: usize = 32;

/// What lies at the start of a slot.
#[repr(C)]
pub(crate) struct SlotHeader {
    /// The thread it belongs to, 0 where it is free.
    tid: AtomicU32,
    /// Length of the claims.
    claims: AtomicU32,
    /// Length of the reply, 0 where there is none or it was taken.
    reply: AtomicU32,
}

/// The slots of one process.
pub struct Slots(Shared);

/// A thread's own slot, to be freed when the thread ends.
#[derive(Debug, Clone, Copy)]
pub struct Slot(usize);

impl Slots {
    pub(crate) fn create() -> Result<(Self, OwnedFd), Errno> {
        let (shared, fd) = Shared::create("failcore-slots", SLOTS * SIZE)?;
        Ok((Self(shared), fd))
    }

    pub(crate) fn map(fd: impl AsFd) -> Result<Self, Errno> {
        let shared = Shared::map_alone(fd)?;
        if shared.len() == SLOTS * SIZE { Ok(Self(shared)) } else { Err(Errno::INVAL) }
    }

    fn header(&self, slot: usize) -> &SlotHeader {
        self.0.header_at(slot * SIZE)
    }

    /// Where a thread's slot is looked for, the likeliest place first.
    fn places(tid: u32) -> impl Iterator<Item = usize> {
        let start = tid as usize % SLOTS;
        (0..PROBES).map(move |n| (start + n) % SLOTS)
    }

    // ---- the thread's side --------------------------------------------------------------------------------------

    /// Takes a slot for the calling thread; none where all its places are taken.
    pub fn take(&self, tid: u32) -> Option<Slot> {
        Self::places(tid)
            .find(|slot| self.header(*slot).tid.compare_exchange(0, tid, AcqRel, Relaxed).is_ok())
            .map(Slot)
    }

    /// Gives a slot back.
    pub fn free(&self, slot: Slot) {
        let header = self.header(slot.0);
        header.claims.store(0, Relaxed);
        header.reply.store(0, Relaxed);
        header.tid.store(0, Release);
    }

    /// Says what the thread claims from now on; whether there was room for it.
    pub fn claim(&self, slot: Slot, claims: &[u8]) -> bool {
        let fits = claims.len() <= REPLY - CLAIMS;
        let claims = if fits { claims } else { &[] };
        self.0.copy_in(slot.0 * SIZE + CLAIMS, claims);
        self.header(slot.0).claims.store(u32::try_from(claims.len()).unwrap_or(0), Release);
        fits
    }

    /// Takes the reply out, where the supervisor left one since the last time.
    pub fn reply(&self, slot: Slot) -> Option<Vec<u8>> {
        let len = self.header(slot.0).reply.swap(0, AcqRel) as usize;
        self.copy(slot.0 * SIZE + REPLY, len, SIZE - REPLY)
    }

    // ---- the supervisor's side ----------------------------------------------------------------------------------

    fn find(&self, tid: u32) -> Option<usize> {
        Self::places(tid).find(|slot| self.header(*slot).tid.load(Acquire) == tid)
    }

    /// What a thread claims, copied.
    pub(crate) fn claims(&self, tid: u32) -> Option<Vec<u8>> {
        let slot = self.find(tid)?;
        let len = self.header(slot).claims.load(Acquire) as usize;
        self.copy(slot * SIZE + CLAIMS, len, REPLY - CLAIMS)
    }

    /// Leaves a reply for a thread that waits; one too long for its place is left out.
    pub(crate) fn answer(&self, tid: u32, reply: &[u8]) {
        let Some(slot) = self.find(tid) else { return };
        if reply.len() <= SIZE - REPLY {
            self.0.copy_in(slot * SIZE + REPLY, reply);
            self.header(slot).reply.store(u32::try_from(reply.len()).unwrap_or(0), Release);
        }
    }

    fn copy(&self, offset: usize, len: usize, most: usize) -> Option<Vec<u8>> {
        if len == 0 || len > most {
            return None;
        }
        let mut out = Vec::new();
        self.0.copy_out(offset, len, &mut out);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_is_heard_and_answered_by_itself() {
        let (ours, fd) = Slots::create().unwrap();
        let theirs = Slots::map(fd).unwrap();
        // Two threads whose first place is the same.
        let (a, b) = (7, 7 + SLOTS as u32);
        let (slot_a, slot_b) = (theirs.take(a).unwrap(), theirs.take(b).unwrap());
        assert!(theirs.claim(slot_a, b"one") && theirs.claim(slot_b, b"two"));
        assert_eq!(ours.claims(a).as_deref(), Some(&b"one"[..]));
        assert_eq!(ours.claims(b).as_deref(), Some(&b"two"[..]));
        assert_eq!(ours.claims(9), None);
        ours.answer(b, b"no");
        assert_eq!(theirs.reply(slot_a), None);
        assert_eq!(theirs.reply(slot_b).as_deref(), Some(&b"no"[..]));
        assert_eq!(theirs.reply(slot_b), None, "a reply is taken once");
        theirs.free(slot_a);
        assert_eq!(ours.claims(a), None);
        assert_eq!(ours.claims(b).as_deref(), Some(&b"two"[..]), "found past the free one");
    }

    #[test]
    fn nonsense_from_the_other_side_is_nothing() {
        let (ours, fd) = Slots::create().unwrap();
        let theirs = Slots::map(fd).unwrap();
        let slot = theirs.take(3).unwrap();
        assert!(!theirs.claim(slot, &[b'x'; SIZE]));
        assert_eq!(ours.claims(3), None);
        theirs.header(slot.0).claims.store(u32::MAX, Release);
        assert_eq!(ours.claims(3), None);
    }

    #[test]
    fn when_all_places_are_taken_there_is_none() {
        let (ours, _fd) = Slots::create().unwrap();
        let taken: Vec<Slot> = (1..=SLOTS as u32).map_while(|tid| ours.take(tid)).collect();
        assert_eq!(taken.len(), SLOTS);
        assert!(ours.take(4711).is_none());
    }
}
