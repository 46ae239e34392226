//! Copying out of an agent's memory: once, into owned data, which alone is judged and acted on.

#![allow(unsafe_code, reason = "process_vm_readv has no safe wrapper; each block says why it is sound")]

use rustix::io::Errno;

use crate::notify::last;

/// Longest path the kernel takes, with its NUL.
const PATH_MAX: usize = 4096;
const PAGE: u64 = 4096;

/// Fills `out` from `address` in the memory of a task; how much could be read before the first unmapped page.
///
/// Not by an open /proc/PID/mem, which costs a quarter less: it also reads what the task itself may not (proc_pid_mem(5)),
/// where a call of its own fails.
///
/// # Errors
/// `EFAULT` where nothing could be read, `EPERM` for a task that may not be looked into, `ESRCH`.
pub(crate) fn read(tid: u32, address: u64, out: &mut [u8]) -> Result<usize, Errno> {
    if out.is_empty() {
        return Ok(0);
    }
    let local = libc::iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: out.len() };
    // SAFETY: `local` describes the whole of `out`, which is exclusively ours; the remote address is only a number to
    // this process, checked by the kernel in the other.
    let read =
        unsafe { libc::process_vm_readv(tid.cast_signed(), &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).map_err(|_| last())
}

/// As [`read`], but all or nothing.
///
/// # Errors
/// As [`read`]; `EFAULT` where not all could be read.
pub(crate) fn read_exact(tid: u32, address: u64, out: &mut [u8]) -> Result<(), Errno> {
    if read(tid, address, out)? == out.len() { Ok(()) } else { Err(Errno::FAULT) }
}

/// `len` bytes.
///
/// # Errors
/// As [`read_exact`].
pub(crate) fn bytes(tid: u32, address: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut out = vec![0; len];
    read_exact(tid, address, &mut out)?;
    Ok(out)
}

/// The path at `address`, without its NUL.
///
/// # Errors
/// `ENAMETOOLONG` where there is no NUL within `PATH_MAX`, otherwise as [`read`].
pub(crate) fn path(tid: u32, address: u64) -> Result<Vec<u8>, Errno> {
    text(tid, address, PATH_MAX)
        .map_err(|errno| if errno == Errno::TOOBIG { Errno::NAMETOOLONG } else { errno })
}

/// The string at `address`, without its NUL, of at most `most` bytes with it.
///
/// # Errors
/// `E2BIG` where it is longer, otherwise as [`read`].
pub(crate) fn text(tid: u32, address: u64, most: usize) -> Result<Vec<u8>, Errno> {
    let mut found = Vec::new();
    let mut at = address;
    // Page by page: what follows the string may not be mapped.
    while found.len() < most {
        let left = usize::try_from(PAGE - at % PAGE).unwrap_or(0);
        let start = found.len();
        // Most strings are short; the first piece is small so that little is copied.
        let piece = left.min(most - start).min(if start == 0 { 256 } else { PATH_MAX });
        found.resize(start + piece, 0);
        let got = read(tid, at, &mut found[start..])?;
        if let Some(end) = found[start..start + got].iter().position(|byte| *byte == 0) {
            found.truncate(start + end);
            return Ok(found);
        }
        if got < piece {
            return Err(Errno::FAULT);
        }
        at = at.checked_add(piece as u64).ok_or(Errno::FAULT)?;
    }
    Err(Errno::TOOBIG)
}

/// Native words in a row, read some at a time.
pub(crate) struct Words {
    tid: u32,
    at: u64,
    read: [u8; Self::SIZE],
    /// What of them was not handed out yet.
    left: std::ops::Range<usize>,
}

impl Words {
    const SIZE: usize = 256;

    /// Those from `address` on in the memory of a task.
    pub(crate) fn at(tid: u32, address: u64) -> Self {
        Self { tid, at: address, read: [0; Self::SIZE], left: 0..0 }
    }

    /// The next one.
    ///
    /// # Errors
    /// As [`read_exact`].
    pub(crate) fn next(&mut self) -> Result<u64, Errno> {
        const WORD: usize = 8;
        if self.left.is_empty() {
            // What follows on the next page may not be mapped; a word may lie on both.
            let page = usize::try_from(PAGE - self.at % PAGE).unwrap_or(0) / WORD * WORD;
            let len = page.clamp(WORD, Self::SIZE);
            read_exact(self.tid, self.at, &mut self.read[..len])?;
            self.at = self.at.checked_add(len as u64).ok_or(Errno::FAULT)?;
            self.left = 0..len;
        }
        let word = &self.read[self.left.start..self.left.start + WORD];
        self.left.start += WORD;
        Ok(u64::from_ne_bytes(word.try_into().unwrap_or_default()))
    }
}

/// Puts bytes at `address` in the memory of a task: results that a call returns there.
///
/// # Errors
/// As [`read_exact`].
pub(crate) fn write(tid: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the kernel only reads `local`, which describes the whole of `bytes`; the remote address is only a number
    // to this process, checked by the kernel in the other.
    let written =
        unsafe { libc::process_vm_writev(tid.cast_signed(), &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(written) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(_) => Err(last()),
    }
}
