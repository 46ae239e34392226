//! The listener of a seccomp filter: receiving notifications and answering them (seccomp_unotify(2)).

#![allow(unsafe_code, reason = "ioctls on the listener; each block says why it is sound")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notice {
    /// The kernel's cookie, valid while the task waits.
    pub(crate) id: u64,
    /// The task's thread id.
    pub(crate) tid: u32,
    /// The call's number.
    pub(crate) nr: i64,
    /// Its argument registers.
    pub(crate) args: [u64; 6],
}

/// The descriptor that notifications come from.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

const fn request(direction: u32, number: u32, size: usize) -> libc::Ioctl {
    ((direction << 30) | ((size as u32) << 16) | ((b'!' as u32) << 8) | number) as libc::Ioctl
}

const RECV: libc::Ioctl = request(3, 0, size_of::<libc::seccomp_notif>());
const SEND: libc::Ioctl = request(3, 1, size_of::<libc::seccomp_notif_resp>());
const ID_VALID: libc::Ioctl = request(1, 2, size_of::<u64>());
const ADDFD: libc::Ioctl = request(1, 3, size_of::<libc::seccomp_notif_addfd>());
const SET_FLAGS: libc::Ioctl = request(1, 4, size_of::<u64>());
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (linux/seccomp.h).
const SYNC_WAKE_UP: u64 = 1;

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Wakes the supervisor on the notifying CPU and the task on the supervisor's, since both wait for each other.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.6; all works without.
    pub(crate) fn wake_in_place(&self) -> Result<(), Errno> {
        // SAFETY: this request takes its flags by value.
        check(unsafe { libc::ioctl(self.raw(), SET_FLAGS, SYNC_WAKE_UP) }).map(drop)
    }

    /// Waits for a system call.
    ///
    /// # Errors
    /// `EINTR` by a signal, `ENOENT` where the task was gone by the time; both mean: again.
    pub(crate) fn receive(&self) -> Result<Notice, Errno> {
        // SAFETY: plain integers, for which zero is a value; the kernel demands zeros.
        let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one `seccomp_notif` to a live one.
        check(unsafe { libc::ioctl(self.raw(), RECV, &raw mut raw) })?;
        Ok(Notice { id: raw.id, tid: raw.pid, nr: raw.data.nr.into(), args: raw.data.args })
    }

    /// Whether no task is left under the filter.
    pub(crate) fn is_deserted(&self) -> bool {
        self.polled(PollFlags::HUP)
    }

    fn polled(&self, for_what: PollFlags) -> bool {
        let mut fds = [PollFd::new(&self.0, for_what)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(for_what)
    }

    /// Whether a call waits to be taken.
    pub(crate) fn has_calls(&self) -> bool {
        self.polled(PollFlags::IN)
    }

    /// Whether the task still waits, hence whether its number still means it.
    pub(crate) fn is_waiting(&self, notice: &Notice) -> bool {
        self.is_waiting_for(notice.id)
    }

    /// Whether a task still waits for the answer to the call of this id.
    pub(crate) fn is_waiting_for(&self, id: u64) -> bool {
        // SAFETY: the request reads eight bytes of a live u64.
        check(unsafe { libc::ioctl(self.raw(), ID_VALID, &raw const id) }).is_ok()
    }

    /// Ends the call with a return value.
    ///
    /// # Errors
    /// `ENOENT` where the task is gone, which is no matter.
    pub(crate) fn succeed(&self, notice: &Notice, value: i64) -> Result<(), Errno> {
        self.send(libc::seccomp_notif_resp { id: notice.id, val: value, error: 0, flags: 0 })
    }

    /// Ends the call with an errno.
    ///
    /// # Errors
    /// As [`Listener::succeed`].
    pub(crate) fn fail(&self, notice: &Notice, errno: i32) -> Result<(), Errno> {
        self.send(libc::seccomp_notif_resp { id: notice.id, val: 0, error: -errno, flags: 0 })
    }

    /// Lets the kernel perform the call.
    ///
    /// # Security
    /// It reads the registers and *memory anew*, and the table of descriptors: only for calls of which nothing that
    /// was judged lies there, or of which another layer holds the same.
    ///
    /// # Errors
    /// As [`Listener::succeed`].
    pub(crate) fn proceed(&self, notice: &Notice) -> Result<(), Errno> {
        const CONTINUE: u32 = 1;
        self.send(libc::seccomp_notif_resp { id: notice.id, val: 0, error: 0, flags: CONTINUE })
    }

    /// Puts a descriptor into the task and ends the call with its number, in one step.
    ///
    /// # Errors
    /// `EMFILE` by the task's own limit (the call is then not ended yet), `ENOENT` where it is gone.
    pub(crate) fn inject(
        &self,
        notice: &Notice,
        fd: BorrowedFd<'_>,
        close_on_exec: bool,
    ) -> Result<(), Errno> {
        const SEND_TOO: u32 = 2;
        self.add(notice, fd, SEND_TOO, 0, close_on_exec).map(drop)
    }

    /// Puts a descriptor into the task, of which none is left here, and says its number; the call still waits.
    ///
    /// # Errors
    /// As [`Listener::inject`].
    pub(crate) fn give(&self, notice: &Notice, fd: OwnedFd, close_on_exec: bool) -> Result<i64, Errno> {
        self.add(notice, fd.as_fd(), 0, 0, close_on_exec).map(i64::from)
    }

    /// Puts a descriptor into the task in place of `number`; the call still waits.
    ///
    /// # Errors
    /// `EBADF` for a number that the task's limit does not allow, `ENOENT` where it is gone.
    pub(crate) fn replace(
        &self,
        notice: &Notice,
        fd: BorrowedFd<'_>,
        number: u32,
        close_on_exec: bool,
    ) -> Result<(), Errno> {
        const SET_NUMBER: u32 = 1;
        self.add(notice, fd, SET_NUMBER, number, close_on_exec).map(drop)
    }

    fn add(
        &self,
        notice: &Notice,
        fd: BorrowedFd<'_>,
        flags: u32,
        number: u32,
        close_on_exec: bool,
    ) -> Result<libc::c_int, Errno> {
        let add = libc::seccomp_notif_addfd {
            id: notice.id,
            flags,
            srcfd: fd.as_raw_fd().unsigned_abs(),
            newfd: number,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.unsigned_abs() } else { 0 },
        };
        // SAFETY: the request reads one live `seccomp_notif_addfd`.
        check(unsafe { libc::ioctl(self.raw(), ADDFD, &raw const add) })
    }

    fn send(&self, mut response: libc::seccomp_notif_resp) -> Result<(), Errno> {
        // SAFETY: the request reads one live `seccomp_notif_resp`.
        check(unsafe { libc::ioctl(self.raw(), SEND, &raw mut response) }).map(drop)
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(returned: libc::c_int) -> Result<libc::c_int, Errno> {
    if returned < 0 { Err(last()) } else { Ok(returned) }
}

/// The calling thread's errno.
pub(crate) fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
