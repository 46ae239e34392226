//! Who is at the other end of a unix socket.

#![allow(unsafe_code, reason = "socket options that have no sound wrapper; each block says why it is sound")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::notify::last;
use crate::tasks::{ancestry, descends, ended};

/// The process that connected, or listens, at the other end.
#[derive(Debug)]
pub struct Peer {
    /// Its number as we see it; 0 where it lives in a PID namespace that we cannot look into.
    pub pid: u32,
    /// The user it had then.
    pub uid: u32,
    /// Means it and no later process of its number; from Linux 6.5 on.
    pidfd: Option<OwnedFd>,
}

impl Peer {
    /// Asks the kernel (unix(7), `SO_PEERCRED` and `SO_PEERPIDFD`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(connection: impl AsFd) -> Result<Self, Errno> {
        let fd = connection.as_fd().as_raw_fd();
        let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to a live `ucred`, for which any bits are a value.
        let got = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut cred).cast(), &raw mut len)
        };
        if got != 0 {
            return Err(last());
        }
        let mut pidfd: libc::c_int = -1;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: as above, to a live integer.
        let got = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERPIDFD, (&raw mut pidfd).cast(), &raw mut len)
        };
        let pidfd = match got {
            // SAFETY: a descriptor that the kernel has just made for us alone.
            0 if pidfd >= 0 => Some(unsafe { OwnedFd::from_raw_fd(pidfd) }),
            _ => match last() {
                // Older kernels do not know the option.
                Errno::NOPROTOOPT => None,
                why => return Err(why),
            },
        };
        Ok(Self { pid: cred.pid.unsigned_abs(), uid: cred.uid, pidfd })
    }

    /// Whether it descends from the process `ancestor`, or is it.
    pub fn descends(&self, ancestor: u32) -> bool {
        descends(self.pid, ancestor)
    }

    /// Whether it is certain that it does *not* descend from the process `ancestor`.
    ///
    /// # Security
    /// Whoever ended, or whose ancestors changed while we looked, is nobody that is certain to be an outsider: a
    /// process of the run could connect and end, so that its number becomes another's.
    pub fn stands_outside(&self, ancestor: u32) -> bool {
        let (Some(first), Some(second)) = (ancestry(self.pid), ancestry(self.pid)) else { return false };
        first == second
            && !first.iter().any(|(pid, _)| *pid == ancestor)
            && !self.pidfd.as_ref().is_some_and(ended)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_peer_that_has_ended_is_no_outsider() {
        let (_near, far) = UnixStream::pair().unwrap();
        let own = Peer::of(&far).unwrap();
        assert_eq!((own.pid, own.uid), (std::process::id(), rustix::process::getuid().as_raw()));
        assert!(own.descends(own.pid) && !own.stands_outside(own.pid));

        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let peer = Peer { pid: child.id(), uid: 0, pidfd: None };
        assert!(!peer.stands_outside(own.pid));
        let stranger = child.id();
        assert!(own.stands_outside(stranger));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!peer.stands_outside(1));
        assert!(!Peer { pid: 0, uid: 0, pidfd: None }.stands_outside(own.pid));
    }
}
