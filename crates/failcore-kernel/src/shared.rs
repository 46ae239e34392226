//! Memory in a memfd, mapped by an agent's process and its parent at once.

#![allow(unsafe_code, reason = "mapping memory and sharing it between processes is what this file is for")]

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A shared mapping of a whole memfd whose size nobody can change.
///
/// # Security
/// The other side may write anything at any time: read through atomics, copy out, then judge the copy.
pub(crate) struct Shared {
    start: NonNull<u8>,
    len: usize,
    /// The process that alone has it.
    alone: Option<u32>,
}

// SAFETY: the mapping lives until `Drop`, is not tied to a thread, and is only reached through atomics and raw
// copies (see `bytes_at` and `copy_in`), never through references to plain memory.
unsafe impl Send for Shared {}
// SAFETY: as above; concurrent access is by atomics, or by copies that the ring's protocol orders.
unsafe impl Sync for Shared {}

impl Shared {
    /// Makes a memfd of `len` bytes, all zero, sealed against resizing, and maps it.
    pub(crate) fn create(name: &str, len: usize) -> Result<(Self, OwnedFd), Errno> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(&fd)?, fd))
    }

    /// As [`Shared::map`], in the process that it is for alone: a fork does not have it.
    ///
    /// # Errors
    /// As [`Shared::map`].
    pub(crate) fn map_alone(fd: impl AsFd) -> Result<Self, Errno> {
        let mut shared = Self::map(fd)?;
        shared.alone = Some(std::process::id());
        // SAFETY: exactly the range that was mapped; a child that has it no more asks for its own before it uses any
        // (`Attachment`).
        unsafe { madvise(shared.start.as_ptr().cast(), shared.len, Advice::LinuxDontFork)? };
        Ok(shared)
    }

    /// Maps a memfd made by [`Shared::create`].
    ///
    /// # Errors
    /// `EINVAL` where its size could still change, since touching it could then kill the process (SIGBUS, mmap(2)).
    pub(crate) fn map(fd: impl AsFd) -> Result<Self, Errno> {
        let seals = fcntl_get_seals(&fd)?;
        let len = usize::try_from(fstat(&fd)?.st_size).map_err(|_| Errno::INVAL)?;
        if !seals.contains(SealFlags::SHRINK) || len == 0 {
            return Err(Errno::INVAL);
        }
        // SAFETY: a fresh mapping at an address the kernel chooses aliases nothing; its length is the file's, which
        // the seal keeps from shrinking.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)?
        };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, len, alone: None })
    }

    /// Brings every page into memory now, at once and not one by one as they are first written to. Where that is not
    /// possible they come later.
    pub(crate) fn populate(&self) {
        // SAFETY: exactly the range that was mapped; nothing of it changes (madvise(2), `MADV_POPULATE_WRITE`).
        let _ = unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxPopulateWrite) };
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The header of type `T` at the start of the mapping.
    ///
    /// `T` is a `repr(C)` struct of atomics, for which every bit pattern is a value.
    pub(crate) fn header<T: Header>(&self) -> &T {
        self.header_at(0)
    }

    /// The header of type `T` at the start of one of the mapping's pages.
    pub(crate) fn header_at<T: Header>(&self, offset: usize) -> &T {
        const { assert!(align_of::<T>() <= 4096) };
        assert!(offset.is_multiple_of(4096), "headers stand at the start of a page");
        assert!(
            offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.len),
            "header is larger than the mapping"
        );
        // SAFETY: in bounds (asserted), page-aligned (mmap, asserted), valid for any bits (`Header`'s contract), and
        // alive as long as `self`. Other processes write it only as atomics too, or harm only the values they may
        // write.
        unsafe { self.start.add(offset).cast::<T>().as_ref() }
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len),
            "copy outside the mapping"
        );
        // SAFETY: in bounds (asserted); source and target cannot overlap, since no reference into the mapping exists.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len());
        }
    }

    /// Appends `len` bytes from `offset` to `out`. What is copied may be torn if the other side misbehaves; the copy
    /// is then judged like any other bytes.
    pub(crate) fn copy_out(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "copy outside the mapping");
        out.reserve(len);
        // SAFETY: in bounds (asserted), `out` has room for `len` more bytes (reserved), all of which are then
        // initialised by the copy; u8 has no invalid bits.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.start.as_ptr().add(offset),
                out.as_mut_ptr().add(out.len()),
                len,
            );
            out.set_len(out.len() + len);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // In a fork something else may lie there by now.
        if self.alone.is_some_and(|process| process != std::process::id()) {
            return;
        }
        // SAFETY: exactly the range that `map` mapped; no reference into it outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) }; // fails only for a range never mapped
    }
}

/// A `repr(C)` struct made of atomics only.
///
/// # Safety
/// Every bit pattern must be a valid value, and every field must be safe to share with a process that writes to it.
pub(crate) unsafe trait Header {}

// SAFETY: `repr(C)`, atomics only.
unsafe impl Header for crate::ring::RingHeader {}
// SAFETY: `repr(C)`, atomics only.
unsafe impl Header for crate::page::PageHeader {}
// SAFETY: `repr(C)`, atomics only.
unsafe impl Header for crate::slots::SlotHeader {}
