//! Sockets: addresses are copied, judged, and used by the supervisor on a duplicate of the task's own socket.
//!
//! What is handed to the kernel is built anew from what was judged, never the agent's bytes where they could be read
//! in two ways.

#![allow(unsafe_code, reason = "socket calls on addresses of any family; each block says why it is sound")]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use failcore_gate::SockAddr;
use failcore_model::heard::{Asked, Said};
use failcore_model::{Action, Endpoint, Family, FileRef, SocketKind, Text, Transport, UnixAddr};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fcntl_getfl, fstat, openat2};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, socket_domain, socket_protocol, socket_timeout, socket_type};
use rustix::net::{AddressFamily, SocketType};

use crate::brokered::Brokered;
use crate::call::{Answer, Call, DONE, Reply, through};
use crate::carried;
use crate::memory;
use crate::notify::last;
use crate::observed::lost;
use crate::patience::RESTART;
use crate::server::Door;
use crate::walk::{self, Found, Start, View};
use crate::wire::Admitted;

/// Size of `struct sockaddr_storage`.
const STORAGE: usize = 128;

/// A socket of the task, duplicated.
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    pub(crate) domain: AddressFamily,
    pub(crate) kind: SocketType,
    protocol: u32,
    /// Whether `fd` is another one than the task's, which it is to get in place of its own.
    pub(crate) replaced: bool,
}

impl Socket {
    /// The socket behind one of the task's descriptors.
    ///
    /// # Errors
    /// `EBADF`, `ENOTSOCK`.
    pub(crate) fn of(call: &Call<'_>, fd: i32) -> Result<Self, Errno> {
        let fd = call.duplicate(fd)?;
        Ok(Self {
            domain: socket_domain(&fd)?,
            kind: socket_type(&fd)?,
            protocol: socket_protocol(&fd)?.map_or(0, |protocol| protocol.as_raw().get()),
            fd,
            replaced: false,
        })
    }

    /// Success with this value, for a call on the task's descriptor `number`.
    pub(crate) fn answer(self, call: &Call<'_>, number: i32, value: i64) -> Answer {
        match self.replaced {
            true => {
                Answer::Replaced { fd: self.fd, number, close_on_exec: call.closes_on_exec(number), value }
            }
            false => Answer::Value(value),
        }
    }

    pub(crate) fn transport(&self) -> Transport {
        const UDP_LITE: u32 = 136;
        const MPTCP: u32 = 262;
        match (self.kind, self.protocol) {
            (SocketType::STREAM, 0 | 6 | MPTCP) => Transport::Tcp,
            (SocketType::DGRAM, 0 | 17 | UDP_LITE) => Transport::Udp,
            _ => Transport::Other,
        }
    }

    /// Whether calls on it wait.
    pub(crate) fn waits(&self) -> bool {
        fcntl_getfl(&self.fd).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK))
    }

    /// Runs `block`, which sends or connects, and waits as calls on it do.
    ///
    /// # Errors
    /// As [`crate::patience::Patience::during`]; with a time limit it is never started anew (signal(7)).
    pub(crate) fn during<T>(
        &self,
        call: &Call<'_>,
        block: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        call.shared.patience.during(call, block).map_err(|errno| {
            if errno == RESTART && !self.waits_without_limit() { Errno::INTR } else { errno }
        })
    }

    /// Whether calls on it wait as long as it takes, if they wait (socket(7), `SO_SNDTIMEO`).
    pub(crate) fn waits_without_limit(&self) -> bool {
        socket_timeout(&self.fd, Timeout::Send).is_ok_and(|limit| limit.is_none())
    }

    /// Whether it takes no address when something is sent (unix(7)).
    pub(crate) fn is_unix_stream(&self) -> bool {
        self.domain == AddressFamily::UNIX && self.kind == SocketType::STREAM
    }

    /// Whether all that it sends goes by one interface (socket(7), `SO_BINDTOIFINDEX`); where that cannot be told, it does.
    fn has_interface(&self) -> bool {
        const SO_BINDTOIFINDEX: libc::c_int = 62;
        let (mut index, mut len) = (0i32, 4);
        // SAFETY: the kernel writes at most four bytes to a live i32, and the length.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_BINDTOIFINDEX,
                (&raw mut index).cast(),
                &raw mut len,
            )
        };
        done != 0 || index != 0
    }

    fn is_inet(&self) -> bool {
        matches!(self.domain, AddressFamily::INET | AddressFamily::INET6)
    }
}

/// The bytes of a socket address argument.
///
/// # Errors
/// `EINVAL` for a length that no address has, `EFAULT`.
pub(crate) fn copied(call: &Call<'_>, address: u64, len: i32) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len).ok().filter(|len| *len <= STORAGE).ok_or(Errno::INVAL)?;
    memory::bytes(call.tid(), address, len)
}

/// A receiver: what is judged, and the bytes that mean exactly that.
pub(crate) struct Peer {
    pub(crate) action: Action,
    pub(crate) bytes: Vec<u8>,
    /// Keeps the object of a unix socket's path in place of its name.
    _held: Option<OwnedFd>,
    /// Where the path of a unix socket leads nowhere.
    pub(crate) missing: Option<Errno>,
}

/// Reads a receiver's address; `of` makes the action for an endpoint that is no unix socket.
///
/// # Errors
/// `EINVAL` for what no kernel takes; nothing where it is AF_UNSPEC.
pub(crate) fn peer(
    call: &Call<'_>,
    socket: &Socket,
    bytes: &[u8],
    of: fn(Endpoint) -> Action,
) -> Result<Option<Peer>, Errno> {
    let ready = |action, bytes| Ok(Some(Peer { action, bytes, _held: None, missing: None }));
    match SockAddr::decode(bytes) {
        SockAddr::Invalid | SockAddr::UnixUnnamed => Err(Errno::INVAL),
        SockAddr::Unspecified(_) => Ok(None),
        // Connecting or binding to an address of one link leaves the socket with that link, where loopback's addresses are
        // another machine's.
        SockAddr::Inet(addr) if socket.is_inet() && !is_of_link(addr) && socket.has_interface() => {
            Err(call.carried_elsewhere())
        }
        SockAddr::Inet(addr) if socket.is_inet() => {
            ready(of(Endpoint::Inet { transport: socket.transport(), addr }), inet(addr))
        }
        SockAddr::UnixAbstract(name) if socket.domain == AddressFamily::UNIX => {
            let bytes = unix(&[b"\0", name.as_bytes()].concat());
            ready(Action::IpcConnect(UnixAddr::Abstract(name)), bytes)
        }
        SockAddr::UnixPath(asked) if socket.domain == AddressFamily::UNIX => {
            let start = call.start(libc::AT_FDCWD, asked.as_bytes())?;
            let (file, bytes, held, missing) = match walk::object(call, &start, asked.as_bytes(), true)? {
                Found::Object(object) => {
                    let file = call.object_ref(asked.as_bytes(), &object);
                    let bytes = unix(&[through(&object.fd).as_bytes(), b"\0"].concat());
                    (file, bytes, Some(object.fd), None)
                }
                Found::Vacant(entry) => {
                    (call.entry_ref(asked.as_bytes(), &entry), Vec::new(), None, Some(Errno::NOENT))
                }
                Found::Nowhere { path, why } => {
                    (call.file_ref(asked.as_bytes(), path, None), Vec::new(), None, Some(why))
                }
            };
            Ok(Some(Peer { action: Action::IpcConnect(UnixAddr::Path(file)), bytes, _held: held, missing }))
        }
        // Too short for the socket's family, whatever it says (inet_dgram_connect, tcp_v4_connect, tcp_v6_connect).
        _ if socket.is_inet() && bytes.len() < if socket.domain == AddressFamily::INET { 16 } else { 24 } => {
            Err(Errno::INVAL)
        }
        // An address of another family than the socket's: the kernel refuses it.
        SockAddr::Inet(_) | SockAddr::UnixAbstract(_) | SockAddr::UnixPath(_) => Err(Errno::AFNOSUPPORT),
        SockAddr::Other { family, raw } => {
            ready(of(Endpoint::Other { family: family.into(), raw }), bytes.to_vec())
        }
        _ => Err(Errno::INVAL),
    }
}

/// Whether an address means something on one link alone, so that it is named with an interface (RFC 4007).
fn is_of_link(addr: SocketAddr) -> bool {
    match addr {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(v6) => {
            let [first, second, ..] = v6.ip().octets();
            v6.ip().is_unicast_link_local() || first == 0xff && matches!(second & 0xf, 1 | 2)
        }
    }
}

pub(crate) fn inet(addr: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match addr {
        SocketAddr::V4(v4) => {
            bytes.extend(AddressFamily::INET.as_raw().to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(AddressFamily::INET6.as_raw().to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn unix(path: &[u8]) -> Vec<u8> {
    [&AddressFamily::UNIX.as_raw().to_ne_bytes()[..], path].concat()
}

fn length(bytes: &[u8]) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes.len()).unwrap_or(0)
}

fn check(returned: libc::c_int) -> Result<(), Errno> {
    if returned == 0 { Ok(()) } else { Err(last()) }
}

/// Connects our duplicate, hence the task's socket.
pub(crate) fn connect_to(call: &Call<'_>, socket: &Socket, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as the live slice has.
    let connect =
        || check(unsafe { libc::connect(socket.fd.as_raw_fd(), bytes.as_ptr().cast(), length(bytes)) });
    if socket.waits() { socket.during(call, connect) } else { connect() }
}

/// `connect(fd, address, length)`.
pub(crate) fn connect(call: &Call<'_>) -> Reply {
    let bytes = copied(call, call.arg(1), call.int(2))?;
    if let Some(door) = &call.shared.parent.door
        && let SockAddr::UnixPath(path) = SockAddr::decode(&bytes)
        && door.is_at(path.as_bytes())
    {
        return enter(call, door);
    }
    let socket = Socket::of(call, call.int(0))?;
    let Some(peer) = peer(call, &socket, &bytes, Action::Connect)? else {
        // Only ends what was.
        const NOBODY: [u8; 16] = [0; 16];
        connect_to(call, &socket, &NOBODY)?;
        return DONE;
    };
    if let Action::Connect(Endpoint::Inet { transport: Transport::Udp, addr }) = &peer.action
        && is_probe(call, *addr)
    {
        return reachable(call, &socket, *addr);
    }
    if let Some(brokered) = Brokered::of(call, &peer.action) {
        brokered.connect(call, &socket)?;
        return DONE;
    }
    let grant = call.judge(peer.action)?;
    let connected = match peer.missing {
        Some(why) => Err(why),
        None if carried::is_carried(call, &grant) => carried::connect(call, &socket, &grant),
        None => connect_to(call, &socket, &peer.bytes),
    };
    call.concluded(grant, connected)?;
    DONE
}

/// The hook of an interpreter attaches to the run: no operation of the program's, and recorded as the process itself
/// was. It gets a connection of the kind it asked for, since on one that we made for it we would seem to be the peer.
fn enter(call: &Call<'_>, door: &Door) -> Reply {
    if !call.shared.listener.is_waiting(&call.notice) {
        return Err(Errno::SRCH);
    }
    let looks = call.shared.parent.witness.as_ref().is_some_and(|witness| witness.plays());
    let admitted = Admitted { scope: call.process.born_in.to_vec(), looks };
    let (fd, slots) = door.admit(call.process.pid, admitted)?;
    call.process.attached(slots);
    Ok(Answer::Replaced { fd, number: call.int(0), close_on_exec: true, value: 0 })
}

/// Whether a datagram socket is connected only to learn whether an address has a route, as C libraries do that put the
/// addresses of a name in order (RFC 6724): to port 0 or the service's (glibc), or to 65535 (musl). The service's is one
/// that the program may reach by TCP alone.
fn is_probe(call: &Call<'_>, addr: SocketAddr) -> bool {
    let connect = |transport| Action::Connect(Endpoint::Inet { transport, addr });
    addr.port() == 0
        || call.foresee(&connect(Transport::Udp)).is_some()
            && (addr.port() == u16::MAX || call.foresee(&connect(Transport::Tcp)).is_none())
}

/// Tells whether an address has a route, and from which address of ours, which the task asks its socket for next; the
/// C library aborts where that is of another family. The socket is connected to that very address and port 0, where
/// nobody can be, so that nothing it sends leaves this machine.
fn reachable(call: &Call<'_>, socket: &Socket, addr: SocketAddr) -> Reply {
    if !call.shared.listener.is_waiting(&call.notice) {
        return Err(Errno::SRCH);
    }
    let from = match &call.shared.parent.witness {
        None => way_to(socket.domain, addr)?,
        Some(witness) => {
            let asked = Asked::Route { to: addr.ip() };
            match witness.recalls(&asked, &call.process.claims(call.notice.tid)).map_err(lost)? {
                Some((Said::Route { from }, _)) => from,
                Some((Said::Failed { errno }, _)) => return Err(Errno::from_raw_os_error(errno)),
                _ => {
                    let from = way_to(socket.domain, addr);
                    let said = match &from {
                        Ok(from) => Said::Route { from: *from },
                        Err(errno) => Said::Failed { errno: errno.raw_os_error() },
                    };
                    witness.hears(asked, said, None).map_err(lost)?;
                    from?
                }
            }
        }
    };
    connect_to(call, socket, &inet(SocketAddr::new(from, 0)))?;
    DONE
}

/// From which address of ours a way leads to an address.
fn way_to(domain: AddressFamily, addr: SocketAddr) -> Result<IpAddr, Errno> {
    let probe = rustix::net::socket_with(domain, SocketType::DGRAM, rustix::net::SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&probe, &addr)?;
    let own = SocketAddr::try_from(rustix::net::getsockname(&probe)?).map_err(|_| Errno::AFNOSUPPORT)?;
    Ok(own.ip())
}

/// `bind(fd, address, length)`.
pub(crate) fn bind(call: &Call<'_>) -> Reply {
    let bytes = copied(call, call.arg(1), call.int(2))?;
    let socket = Socket::of(call, call.int(0))?;
    let endpoint = |addr| Endpoint::Inet { transport: socket.transport(), addr };
    let (endpoint, bytes) = match SockAddr::decode(&bytes) {
        SockAddr::Inet(addr) if socket.is_inet() => (endpoint(addr), inet(addr)),
        // The kernel reads it as IPv4 there.
        SockAddr::Unspecified(Some(addr)) if socket.domain == AddressFamily::INET => {
            (endpoint(addr.into()), inet(addr.into()))
        }
        SockAddr::UnixPath(asked) if socket.domain == AddressFamily::UNIX => {
            return bind_path(call, &socket, &asked);
        }
        SockAddr::UnixAbstract(name) if socket.domain == AddressFamily::UNIX => {
            let bytes = unix(&[b"\0", name.as_bytes()].concat());
            (Endpoint::Unix(UnixAddr::Abstract(name)), bytes)
        }
        SockAddr::UnixUnnamed if socket.domain == AddressFamily::UNIX => {
            (Endpoint::Unix(UnixAddr::Unnamed), unix(b""))
        }
        SockAddr::Other { family, raw } => (Endpoint::Other { family: family.into(), raw }, bytes),
        _ => return Err(Errno::INVAL),
    };
    let (chooses_nothing, action) = (chooses_nothing(&endpoint), Action::Bind(endpoint));
    // Where the policy refuses it, that changes only how it is done: no decision is made by looking.
    if chooses_nothing && call.foresee(&action).is_some() {
        return DONE;
    }
    let grant = call.judge(action)?;
    call.concluded(grant, bind_to(&socket, &bytes))?;
    DONE
}

/// Resolvers bind their datagram socket to any address and any port before they send. Sending does that by itself: so
/// where it is not granted, it is left undone instead of refused, and nobody can send to a socket that was never bound.
fn chooses_nothing(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Inet { transport: Transport::Udp, addr }
        if addr.port() == 0 && addr.ip().to_canonical().is_unspecified())
}

pub(crate) fn bind_to(socket: &Socket, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as the live slice has.
    check(unsafe { libc::bind(socket.fd.as_raw_fd(), bytes.as_ptr().cast(), length(bytes)) })
}

/// Binds to a path *as the task wrote it*, since that is what getsockname will tell its peers; while it is bound no
/// name the agent could change changes, so that the path means what was judged. By a magic link of /proc it would not: where
/// that leads is changed by other calls, and ours are not the task's. There it is bound to the bare name, in the directory held.
fn bind_path(call: &Call<'_>, socket: &Socket, asked: &Text) -> Reply {
    let asked = asked.as_bytes();
    let find = || -> Result<walk::Entry, Errno> {
        let start = call.start(libc::AT_FDCWD, asked)?;
        match walk::entry(call, &start, asked)? {
            Ok(entry) => Ok(entry),
            Err(Found::Nowhere { why, .. }) => Err(why),
            Err(_) => Err(Errno::NOENT),
        }
    };
    let entry = find()?;
    let file: FileRef = call.entry_ref(asked, &entry);
    let grant = call.judge(Action::Bind(Endpoint::Unix(UnixAddr::Path(file))))?;
    let bound = (|| {
        if entry.stat.is_some() {
            return Err(Errno::ADDRINUSE);
        }
        let _still = call.shared.still();
        let now = find()?;
        let (judged, found) = (fstat(&entry.dir)?, fstat(&now.dir)?);
        if (judged.st_dev, judged.st_ino, &entry.path) != (found.st_dev, found.st_ino, &now.path) {
            return Err(Errno::ACCESS);
        }
        // Our own working directory is this worker's alone.
        if let Start::At(cwd) = call.start(libc::AT_FDCWD, asked)? {
            rustix::process::fchdir(cwd)?;
        }
        let split = asked.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let above = if split == 0 { b".".as_slice() } else { &asked[..split] };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let ours = openat2(CWD, above, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).and_then(fstat);
        let as_written = ours.is_ok_and(|ours| (ours.st_dev, ours.st_ino) == (judged.st_dev, judged.st_ino));
        let path = if as_written {
            asked
        } else {
            rustix::process::fchdir(&entry.dir)?;
            &entry.name
        };
        call.take_umask();
        bind_to(socket, &unix(&[path, b"\0"].concat()))
    })();
    let _ = rustix::process::chdir("/");
    call.concluded(grant, bound)?;
    DONE
}

/// `listen(fd, backlog)`: judged on what the socket is bound to.
pub(crate) fn listen(call: &Call<'_>) -> Reply {
    let socket = Socket::of(call, call.int(0))?;
    let grant = match SockAddr::decode(&local(&socket)?) {
        SockAddr::Inet(addr) => {
            Some(call.judge(Action::Listen(Endpoint::Inet { transport: socket.transport(), addr }))?)
        }
        // The bind was judged; without one the kernel refuses.
        SockAddr::UnixPath(_) | SockAddr::UnixAbstract(_) | SockAddr::UnixUnnamed => None,
        SockAddr::Other { family, raw } => {
            Some(call.judge(Action::Listen(Endpoint::Other { family: family.into(), raw }))?)
        }
        _ => return Err(Errno::INVAL),
    };
    let listening = rustix::net::listen(&socket.fd, call.int(1));
    match grant {
        Some(grant) => call.concluded(grant, listening)?,
        None => listening?,
    }
    if let SockAddr::Inet(addr) = SockAddr::decode(&local(&socket)?) {
        call.shared.now_listens_at(addr.port());
    }
    DONE
}

/// What a socket is bound to.
pub(crate) fn local(socket: &Socket) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; STORAGE];
    let mut len = length(&bytes);
    // SAFETY: the kernel writes at most `len` bytes to a live buffer of that length, and the length itself.
    check(unsafe { libc::getsockname(socket.fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut len) })?;
    bytes.truncate(usize::try_from(len).unwrap_or(0));
    Ok(bytes)
}

/// `socket(family, type, protocol)` of a kind that is not free, and `socketpair`, whose first arguments are the same.
pub(crate) fn socket(call: &Call<'_>) -> Reply {
    let _grant = call.judge(Action::Socket {
        family: Family::from_number(call.int(0)),
        kind: SocketKind::from_number(call.int(1)),
        protocol: call.int(2),
    })?;
    // Three registers, which nothing changes any more.
    Ok(Answer::Proceed)
}

/// The descriptor for calls that need one borrowed.
impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
