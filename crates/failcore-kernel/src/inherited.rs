//! Descriptors that this process was started with and that are nobody else's business.

#![allow(unsafe_code, reason = "raw calls on descriptors by number; each block says why it is sound")]

use std::io;

/// Keeps every descriptor from 3 on from programs that are started from here on.
///
/// What the caller of this process left open, on purpose or not, was judged by nobody: no program under a policy gets
/// it.
///
/// # Errors
/// The kernel's.
pub fn close_on_exec() -> io::Result<()> {
    // SAFETY: sets a flag of descriptors; none is closed, and nothing in this process starts programs that rely on them.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return Ok(());
    }
    // Before Linux 5.11 one by one.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // SAFETY: as above; the listing's own descriptor is among them.
        if fd > 2 && unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

    use super::*;

    #[test]
    fn nothing_is_left_to_be_inherited() {
        let file = std::fs::File::open("/").unwrap();
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        close_on_exec().unwrap();
        assert_eq!(fcntl_getfd(&file).unwrap(), FdFlags::CLOEXEC, "{}", file.as_raw_fd());
    }
}
