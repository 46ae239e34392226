//! A unix socket at which others call: each caller is given a thread of its own, up to a number at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

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

/// A listening socket, and how many are being talked to.
pub struct Reception {
    listener: OwnedFd,
    most: usize,
    busy: AtomicUsize,
    closed: AtomicBool,
}

impl Reception {
    /// Listens at `socket`, where nothing may be yet; `most` conversations are held at once.
    ///
    /// # Errors
    /// The kernel's.
    ///
    /// # Security
    /// Who may connect is up to the directory that the socket lies in.
    pub fn open(socket: &Path, most: usize) -> Result<Arc<Self>, Errno> {
        let listener = unix()?;
        bind(&listener, &SocketAddrUnix::new(socket)?)?;
        listen(&listener, BACKLOG)?;
        Ok(Arc::new(Self { listener, most, busy: AtomicUsize::new(0), closed: AtomicBool::new(false) }))
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

    /// Holds a conversation on a thread of its own. Whoever finds no place sees the connection close, which is a no.
    ///
    /// # Errors
    /// `EAGAIN` where too many are being talked to already.
    pub fn attend(self: &Arc<Self>, talk: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
        if self.busy.fetch_add(1, SeqCst) >= self.most {
            self.busy.fetch_sub(1, SeqCst);
            return Err(Errno::AGAIN);
        }
        let place = Place(Arc::clone(self));
        let spawned = std::thread::Builder::new().name("failcore-attend".into()).spawn(move || {
            let _place = place;
            talk();
        });
        spawned.map(drop).map_err(|_| Errno::AGAIN)
    }

    /// Accepts nobody any more.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
        let _ = shutdown(&self.listener, Shutdown::Both);
    }

    /// Waits for the conversations under way, but no longer than `patience`.
    pub fn settle(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.busy.load(SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(NAP);
        }
    }
}

impl AsFd for Reception {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A conversation's place, given back however it ends.
struct Place(Arc<Reception>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, SeqCst);
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
