//! A unix socket at which others call.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    shutdown, socket_with,
};

/// How long to wait before accepting again where there are no descriptors or no memory.
const NAP: Duration = Duration::from_millis(1);
/// Callers that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A listening socket.
pub struct Reception {
    listener: OwnedFd,
    closed: AtomicBool,
}

impl Reception {
    /// Listens at `socket`, where nothing may be yet.
    ///
    /// # Errors
    /// The kernel's.
    ///
    /// # Security
    /// Who may connect is up to the directory that the socket lies in.
    pub fn open(socket: &Path) -> Result<Self, Errno> {
        let listener = unix()?;
        bind(&listener, &SocketAddrUnix::new(socket)?)?;
        listen(&listener, BACKLOG)?;
        Ok(Self { listener, closed: AtomicBool::new(false) })
    }

    /// Hands every connection to `serve`, until [`Reception::close`].
    pub fn accept(&self, mut serve: impl FnMut(OwnedFd)) {
        while !self.closed.load(SeqCst) {
            match accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(connection) => serve(connection),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) if self.closed.load(SeqCst) => return,
                // Who waits is refused by time-out; nobody is let in unseen.
                Err(_) => std::thread::sleep(NAP),
            }
        }
    }

    /// Accepts nobody any more.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
        let _ = shutdown(&self.listener, Shutdown::Both);
    }
}

/// Connects to a socket that a [`Reception`] listens at; sending and receiving wait no longer than `patience`.
///
/// # Errors
/// The kernel's: `ECONNREFUSED` where nobody listens any more.
pub fn dial(socket: &Path, patience: Option<Duration>) -> Result<OwnedFd, Errno> {
    let fd = unix()?;
    wait_at_most(&fd, patience)?;
    connect(&fd, &SocketAddrUnix::new(socket)?)?;
    Ok(fd)
}

/// Lets sending and receiving on a connection wait no longer than `patience`.
///
/// # Errors
/// The kernel's.
pub fn wait_at_most(connection: impl AsFd, patience: Option<Duration>) -> Result<(), Errno> {
    set_socket_timeout(&connection, Timeout::Recv, patience)?;
    set_socket_timeout(&connection, Timeout::Send, patience)
}

fn unix() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}
