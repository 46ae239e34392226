//! A network of the run's own, of which every address is here: a datagram socket in it reaches the name broker at
//! whatever server it asks, hears from that very server, and reaches nobody else.
//!
//! Some resolvers do not connect their socket and look where an answer comes from (musl's, many static ones). In the
//! machine's own network only privilege can answer in the name of another; in a namespace of its own every user may.
//! A process lives in it and makes sockets for who asks; it runs nothing and has no other descriptor.

#![allow(unsafe_code, reason = "code after a fork is system calls; each block says why it is sound")]

use std::collections::HashSet;
use std::ffi::c_int;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::guardian::{close_others, end, errno};
use crate::notify::last;

/// Servers that are stood in for; a machine is set up with three at most (resolv.conf(5)).
const MOST_SERVERS: usize = 16;

/// The network, and the process in it.
#[derive(Debug)]
pub(crate) struct Island {
    link: Mutex<OwnedFd>,
    pid: u32,
    /// The kernel's number for the network.
    cookie: u64,
    servers: Mutex<HashSet<SocketAddr>>,
}

/// What the process is asked for: a socket bound to this address.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Wanted {
    family: u16,
    /// In network order.
    port: u16,
    /// As much of it as the family has.
    addr: [u8; 16],
}

const WANTED: usize = size_of::<Wanted>();

impl Island {
    /// Makes the network.
    ///
    /// # Errors
    /// The kernel's, where a user may not make namespaces.
    pub(crate) fn make() -> Result<Self, Errno> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // SAFETY: the child runs `live`, which makes only system calls on its own stack and never returns.
        let pid = match unsafe { libc::fork() } {
            -1 => return Err(last()),
            0 => live(theirs.as_raw_fd()),
            pid => pid.unsigned_abs(),
        };
        drop(theirs);
        let mut island = Self { link: Mutex::new(ours), pid, cookie: 0, servers: Mutex::default() };
        // The first word is whether the network stands.
        hear(&island.link(), false)?;
        island.cookie = cookie(&island.socket(AddressFamily::INET)?)?;
        Ok(island)
    }

    /// The process in it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether a socket is in it.
    pub(crate) fn has(&self, socket: impl AsFd) -> bool {
        cookie(&socket).is_ok_and(|cookie| cookie == self.cookie)
    }

    /// A fresh datagram socket in it, bound to a port of its own.
    ///
    /// # Errors
    /// The kernel's; `EPIPE` where the process is gone.
    pub(crate) fn socket(&self, family: AddressFamily) -> Result<OwnedFd, Errno> {
        self.ask(Wanted { family: family.as_raw(), port: 0, addr: [0; 16] })
    }

    /// Has `serve` serve a server's address, unless it is served already.
    ///
    /// # Errors
    /// As [`Island::socket`], what `serve` returns, and `ENOBUFS` for one server too many.
    pub(crate) fn stand_in(
        &self,
        server: SocketAddr,
        serve: impl FnOnce(OwnedFd) -> std::io::Result<()>,
    ) -> Result<(), Errno> {
        let server = SocketAddr::new(server.ip().to_canonical(), server.port());
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.contains(&server) {
            return Ok(());
        }
        if servers.len() >= MOST_SERVERS {
            return Err(Errno::NOBUFS);
        }
        let mut wanted = Wanted { family: 0, port: server.port().to_be(), addr: [0; 16] };
        match server.ip() {
            IpAddr::V4(v4) => {
                wanted.family = AddressFamily::INET.as_raw();
                wanted.addr[..4].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                wanted.family = AddressFamily::INET6.as_raw();
                wanted.addr = v6.octets();
            }
        }
        serve(self.ask(wanted)?).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        servers.insert(server);
        Ok(())
    }

    fn ask(&self, wanted: Wanted) -> Result<OwnedFd, Errno> {
        // SAFETY: three integers without padding between them, live as long as the slice.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const wanted).cast::<u8>(), WANTED) };
        let link = self.link();
        sendmsg(&*link, &[IoSlice::new(bytes)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
        hear(&link, true)?.ok_or(Errno::PIPE)
    }

    /// Held from a question to its answer.
    fn link(&self) -> MutexGuard<'_, OwnedFd> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One answer of the process: an errno, or a descriptor where one is due.
fn hear(link: &OwnedFd, descriptor: bool) -> Result<Option<OwnedFd>, Errno> {
    let mut word = [0; size_of::<c_int>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(link, &mut [IoSliceMut::new(&mut word)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if got.bytes != word.len() {
        return Err(Errno::PIPE);
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match c_int::from_ne_bytes(word) {
        0 if descriptor && fd.is_none() => Err(Errno::PIPE),
        0 => Ok(fd),
        code => Err(Errno::from_raw_os_error(code)),
    }
}

/// Which network a socket is in (socket(7), `SO_NETNS_COOKIE`, since Linux 5.14).
fn cookie(socket: &impl AsFd) -> Result<u64, Errno> {
    const SO_NETNS_COOKIE: c_int = 71;
    let (mut cookie, mut len) = (0u64, 8);
    // SAFETY: the kernel writes at most eight bytes to a live u64, and the length.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if done == 0 && len == 8 { Ok(cookie) } else { Err(last()) }
}

/// The life of the process: makes the network, then sockets, until nobody is there to ask.
fn live(link: RawFd) -> ! {
    close_others(&mut [link]);
    // SAFETY: system calls on live local memory only; all of them are async-signal-safe.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"failcore-island".as_ptr(), 0, 0, 0);
        // The terminal's signals are for the program.
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, null_mut());
        let made = libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) == 0 && settle();
        tell(link, if made { 0 } else { errno() }, None);
        if !made {
            end(1);
        }
        loop {
            let mut wanted: Wanted = std::mem::zeroed();
            if libc::recv(link, (&raw mut wanted).cast(), WANTED, 0) != WANTED.cast_signed() {
                end(0);
            }
            let socket = bound(&wanted);
            if socket < 0 {
                tell(link, errno(), None);
            } else {
                tell(link, 0, Some(socket));
                libc::close(socket);
            }
        }
    }
}

/// Sends a word, and a descriptor with it.
fn tell(link: RawFd, code: c_int, fd: Option<RawFd>) {
    const SPACE: usize = 24;
    #[repr(C, align(8))]
    struct Control([u8; SPACE]);
    let mut control = Control([0; SPACE]);
    let mut piece =
        libc::iovec { iov_base: (&raw const code).cast_mut().cast(), iov_len: size_of::<c_int>() };
    // SAFETY: zero is a value of the header; what it points to is alive until after the call, and the control buffer
    // is aligned and as long as one descriptor's message (`CMSG_SPACE(4)`).
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        if let Some(fd) = fd {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = SPACE;
            let head = libc::CMSG_FIRSTHDR(&raw const header);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = 20;
            libc::CMSG_DATA(head).cast::<c_int>().write(fd);
        }
        libc::sendmsg(link, &raw const header, libc::MSG_NOSIGNAL);
    }
}

/// A datagram socket bound to an address; -1 with errno where there is none.
fn bound(wanted: &Wanted) -> c_int {
    const SOL_IPV6: c_int = 41;
    const IPV6_FREEBIND: c_int = 78;
    let six = c_int::from(wanted.family) == libc::AF_INET6;
    // SAFETY: system calls on live local memory only; zero is a value of both addresses.
    unsafe {
        let fd = libc::socket(wanted.family.into(), libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return fd;
        }
        let done = if six {
            // IPv4 addresses are all here by the route; IPv6 wants to be told.
            let one: c_int = 1;
            libc::setsockopt(fd, SOL_IPV6, IPV6_FREEBIND, (&raw const one).cast(), 4);
            let mut at: libc::sockaddr_in6 = std::mem::zeroed();
            at.sin6_family = wanted.family;
            at.sin6_port = wanted.port;
            at.sin6_addr.s6_addr = wanted.addr;
            libc::bind(fd, (&raw const at).cast(), 28)
        } else {
            let mut at: libc::sockaddr_in = std::mem::zeroed();
            at.sin_family = wanted.family;
            at.sin_port = wanted.port;
            let [a, b, c, d, ..] = wanted.addr;
            at.sin_addr.s_addr = u32::from_ne_bytes([a, b, c, d]);
            libc::bind(fd, (&raw const at).cast(), 16)
        };
        if done == 0 {
            return fd;
        }
        let why = errno();
        libc::close(fd);
        *libc::__errno_location() = why;
        -1
    }
}

/// Brings loopback up, and makes every address one of its own; whether it could.
pub(crate) fn settle() -> bool {
    // Without IPv6 there are no servers by it.
    loopback_up()
        && route(libc::AF_INET)
        && (route(libc::AF_INET6) || errno() == libc::EAFNOSUPPORT || errno() == libc::EOPNOTSUPP)
}

/// Brings loopback up in a network that is new; whether it could.
fn loopback_up() -> bool {
    // SAFETY: system calls on live local memory only; zero is a value of the request.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags =
            (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOOPBACK) as libc::c_short;
        let up = libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) == 0;
        libc::close(fd);
        up
    }
}

/// `ip route add local default dev lo`, as rtnetlink(7) has it.
fn route(family: c_int) -> bool {
    #[repr(C)]
    struct Request {
        head: libc::nlmsghdr,
        /// `struct rtmsg`: family, lengths of prefixes, type of service, table, protocol, scope, type; then its flags.
        route: [u8; 8],
        flags: u32,
        /// `RTA_OIF`: by the first interface there is.
        attribute: [u16; 2],
        interface: u32,
    }
    const LOCAL_TABLE: u8 = 255;
    const BOOT: u8 = 3;
    const HOST: u8 = 254;
    const LOCAL: u8 = 2;
    const OUT: u16 = 4;
    let request = Request {
        head: libc::nlmsghdr {
            nlmsg_len: size_of::<Request>() as u32,
            nlmsg_type: libc::RTM_NEWROUTE,
            nlmsg_flags: (libc::NLM_F_REQUEST | libc::NLM_F_CREATE | libc::NLM_F_ACK) as u16,
            nlmsg_seq: 1,
            nlmsg_pid: 0,
        },
        route: [family as u8, 0, 0, 0, LOCAL_TABLE, BOOT, HOST, LOCAL],
        flags: 0,
        attribute: [8, OUT],
        interface: 1,
    };
    let mut answer = [0u32; 64];
    // SAFETY: system calls on live local memory only; the request has no padding.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        let length = size_of::<Request>();
        let heard = libc::send(fd, (&raw const request).cast(), length, 0) == length.cast_signed()
            && libc::recv(fd, answer.as_mut_ptr().cast(), size_of_val(&answer), 0) >= 20;
        libc::close(fd);
        // After the head, a `struct nlmsgerr` that begins with an errno, negative.
        let code = answer[4].cast_signed();
        if heard && code != 0 {
            *libc::__errno_location() = -code;
        }
        heard && code == 0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_server_answers_by_its_own_address_and_nobody_else_is_reached() {
        let island = match Island::make() {
            Ok(island) => island,
            Err(errno) => {
                let reason = format!("SKIPPED: this machine makes no namespaces: {errno}\n");
                return std::io::stderr().write_all(reason.as_bytes()).unwrap();
            }
        };
        for (server, family) in [
            ("10.1.2.3:53", AddressFamily::INET),
            ("127.0.0.53:53", AddressFamily::INET),
            ("[2001:db8::53]:53", AddressFamily::INET6),
            ("[::ffff:9.9.9.9]:53", AddressFamily::INET6),
        ] {
            let server: SocketAddr = server.parse().unwrap();
            let mut served = None;
            island
                .stand_in(server, |socket| {
                    served = Some(UdpSocket::from(socket));
                    Ok(())
                })
                .unwrap();
            let served = served.unwrap();
            island.stand_in(server, |_| panic!("it is served already")).unwrap();
            let asks = UdpSocket::from(island.socket(family).unwrap());
            assert!(island.has(&asks) && island.has(&served));
            asks.send_to(b"question", server).unwrap();
            let mut bytes = [0; 16];
            let (len, from) = served.recv_from(&mut bytes).unwrap();
            assert_eq!(from.port(), asks.local_addr().unwrap().port());
            served.send_to(&bytes[..len], from).unwrap();
            assert_eq!(asks.recv_from(&mut bytes).unwrap(), (8, server));
        }
        // What listens on the machine's own loopback is elsewhere.
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.set_nonblocking(true).unwrap();
        assert!(!island.has(&here));
        let asks = UdpSocket::from(island.socket(AddressFamily::INET).unwrap());
        asks.send_to(b"x", here.local_addr().unwrap()).unwrap();
        assert!(here.recv_from(&mut [0; 1]).is_err());
        for n in 0..MOST_SERVERS {
            let full = island.stand_in(([10, 0, 0, n as u8], 53).into(), |_| Ok(()));
            assert_eq!(full.is_err(), n + 4 >= MOST_SERVERS, "{n}");
        }
    }
}
