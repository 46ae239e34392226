//! Events on sockets: decided on the address that the kernel will get, never on a spelling.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::BorrowedFd;

use failcore_gate::resolve::Follow;
use failcore_model::{Action, Endpoint, Family, Host, HostName, SocketKind, Text, Transport, UnixAddr};
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::decode_fs::resolve as resolve_path;
use crate::events::Judged;
use crate::hook_object::{Args, Object};
use crate::hook_raise::Refusal;
use crate::hook_socket;
use crate::{expected, monitor, supervised};

/// Who an address object names, before any look-up.
pub(crate) enum Peer {
    /// An address, in whatever spelling.
    At(SocketAddr),
    /// A name, which must be resolved by us.
    Named(HostName, u16),
    /// A unix socket.
    Unix(UnixAddr),
    /// Another family.
    Other(Endpoint),
}

/// A socket as the kernel knows it.
pub(crate) struct Socket {
    pub(crate) family: AddressFamily,
    pub(crate) transport: Transport,
}

/// Asks the kernel what a socket object holds.
pub(crate) fn socket(event: &str, object: Option<Object<'_>>) -> Result<Socket, Box<Refusal>> {
    let Some(fd) = object.and_then(hook_socket::descriptor) else {
        return Err(monitor::undecodable(event, "it is no open socket").into());
    };
    describe(fd).map_err(|errno| Refusal::os(errno.raw_os_error()).into())
}

fn describe(fd: BorrowedFd<'_>) -> rustix::io::Result<Socket> {
    let family = sockopt::socket_domain(fd)?;
    let kind = sockopt::socket_type(fd)?;
    let protocol = sockopt::socket_protocol(fd)?.map_or(0, |protocol| protocol.as_raw().get() as i32);
    const MPTCP: i32 = 262;
    let transport = match (kind, protocol) {
        (SocketType::STREAM, 0 | libc::IPPROTO_TCP | MPTCP) => Transport::Tcp,
        (SocketType::DGRAM, 0 | libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => Transport::Udp,
        _ => Transport::Other,
    };
    Ok(Socket { family, transport })
}

/// Reads an address object for a socket (the forms of Modules/socketmodule.c, getsockaddrarg).
///
/// # Errors
/// A refusal where it has no form that is known, or a host that is none.
pub(crate) fn peer(
    event: &str,
    socket: &Socket,
    address: Option<Object<'_>>,
    follow: Follow,
) -> Result<Peer, Box<Refusal>> {
    let unknown = || Box::<Refusal>::from(monitor::undecodable(event, "the address has no known form"));
    let address = address.ok_or_else(unknown)?;
    match socket.family {
        AddressFamily::INET | AddressFamily::INET6 => {
            let host = address.item(0).ok_or_else(unknown)?;
            let port = address.item(1).and_then(Object::int).and_then(|port| u16::try_from(port).ok());
            inet(event, socket, host, port.ok_or_else(unknown)?, address.item(3).and_then(Object::int))
        }
        AddressFamily::UNIX => {
            let path = address.os_bytes().ok_or_else(unknown)?;
            unix(event, &path, address, follow).map(Peer::Unix)
        }
        family => {
            let family = i32::from(family.as_raw());
            Ok(Peer::Other(Endpoint::Other { family, raw: Text::default() }))
        }
    }
}

fn inet(
    event: &str,
    socket: &Socket,
    host: Object<'_>,
    port: u16,
    scope: Option<i64>,
) -> Result<Peer, Box<Refusal>> {
    let bytes = host.os_bytes();
    let text = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let Some(text) = text else {
        return Err(monitor::undecodable(event, "a host must be a `str` or `bytes`").into());
    };
    let six = socket.family == AddressFamily::INET6;
    let addr: IpAddr = match text {
        "" if six => std::net::Ipv6Addr::UNSPECIFIED.into(),
        "" => Ipv4Addr::UNSPECIFIED.into(),
        "<broadcast>" => Ipv4Addr::BROADCAST.into(),
        _ => match Host::parse(text) {
            Ok(Host::Addr(addr)) => addr,
            Ok(Host::Name(name)) => return Ok(Peer::Named(name, port)),
            Err(error) => {
                let denial = monitor::undecodable(event, &format!("`{text}`: {error}"));
                return Err(Refusal::name(denial).into());
            }
        },
    };
    Ok(Peer::At(match addr {
        IpAddr::V4(_) => SocketAddr::new(addr, port),
        IpAddr::V6(v6) => {
            SocketAddrV6::new(v6, port, 0, scope.and_then(|scope| u32::try_from(scope).ok()).unwrap_or(0))
                .into()
        }
    }))
}

fn unix(event: &str, path: &[u8], about: Object<'_>, follow: Follow) -> Result<UnixAddr, Box<Refusal>> {
    match path {
        [] => Ok(UnixAddr::Unnamed),
        [0, name @ ..] => Ok(UnixAddr::Abstract(Text::from(name))),
        _ => {
            // The kernel reads up to the first NUL (unix(7)), other readers further.
            if path.contains(&0) {
                return Err(monitor::undecodable(event, "the path contains a NUL byte").into());
            }
            resolve_path(None, path, follow, Some(about)).map(UnixAddr::Path)
        }
    }
}

/// `socket.__new__` (self, family, type, protocol).
pub(crate) fn create(args: Args<'_>) -> Judged {
    let (Some(family), Some(kind), Some(protocol)) = (args.int(1), args.int(2), args.int(3)) else {
        return Err(monitor::undecodable("socket.__new__", "family and type must be numbers").into());
    };
    // −1 stands for the default, or for what a given descriptor holds, which was judged when it was made.
    if family == -1 && kind == -1 {
        return Ok(());
    }
    let family = match family as i32 {
        -1 | libc::AF_INET => Family::Inet,
        libc::AF_INET6 => Family::Inet6,
        libc::AF_UNIX => Family::Unix,
        other => Family::Other(other),
    };
    let kind = match kind as i32 & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
        libc::SOCK_STREAM => SocketKind::Stream,
        libc::SOCK_DGRAM => SocketKind::Datagram,
        libc::SOCK_SEQPACKET => SocketKind::SeqPacket,
        libc::SOCK_RAW | 10 => SocketKind::Raw, // 10: SOCK_PACKET
        other if other & 0xf == 0xf => SocketKind::Stream, // −1 without its flags: the default
        other => SocketKind::Other(other),
    };
    Ok(monitor::check(Action::Socket { family, kind, protocol: (protocol as i32).max(0) }, &[])?)
}

/// A name that the interpreter itself looked up: under a supervisor the name broker judged it, and the address is
/// judged when it is used.
fn by_name(event: &str, name: &HostName) -> Judged {
    if supervised::is_on() { judge_name(name) } else { Err(unresolved(event, name)) }
}

/// A name where no stand-in came before.
fn unresolved(event: &str, name: &HostName) -> Box<Refusal> {
    monitor::undecodable(event, &format!("`{name}` was not resolved by FailCore")).into()
}

/// `socket.bind` (self, address).
pub(crate) fn bind(args: Args<'_>) -> Judged {
    let socket = socket("socket.bind", args.get(0))?;
    match peer("socket.bind", &socket, args.get(1), Follow::NoFinal)? {
        Peer::Named(name, _) => by_name("socket.bind", &name),
        peer => judge_bind(&socket, peer),
    }
}

/// Judges a bind to an address that needs no look-up.
pub(crate) fn judge_bind(socket: &Socket, peer: Peer) -> Judged {
    let at = match peer {
        Peer::At(addr) => Endpoint::Inet { transport: socket.transport, addr },
        Peer::Unix(UnixAddr::Unnamed) | Peer::Named(..) => return Ok(()),
        Peer::Unix(addr) => Endpoint::Unix(addr),
        Peer::Other(at) => at,
    };
    Ok(monitor::check(Action::Bind(at), &[])?)
}

/// `socket.connect` (self, address), also raised by `connect_ex`.
pub(crate) fn connect(args: Args<'_>) -> Judged {
    if expected::is_judged(args.get(1)) {
        return Ok(());
    }
    let socket = socket("socket.connect", args.get(0))?;
    match peer("socket.connect", &socket, args.get(1), Follow::Final)? {
        Peer::Named(name, _) => by_name("socket.connect", &name),
        peer => judge_connect(&socket, peer),
    }
}

/// Judges a connect to an address that needs no look-up.
pub(crate) fn judge_connect(socket: &Socket, peer: Peer) -> Judged {
    let action = match peer {
        Peer::At(addr) => Action::Connect(Endpoint::Inet { transport: socket.transport, addr }),
        Peer::Unix(addr) => Action::IpcConnect(addr),
        Peer::Other(at) => Action::Connect(at),
        Peer::Named(..) => return Ok(()),
    };
    Ok(monitor::check(action, &[])?)
}

/// `socket.sendto` (self, address).
pub(crate) fn send(args: Args<'_>) -> Judged {
    let socket = socket("socket.sendto", args.get(0))?;
    match peer("socket.sendto", &socket, args.get(1), Follow::Final)? {
        Peer::Named(name, _) => by_name("socket.sendto", &name),
        peer => judge_send(&socket, peer),
    }
}

/// `socket.sendmsg` (self, address or None): without an address the peer was judged when it was connected.
pub(crate) fn sendmsg(args: Args<'_>) -> Judged {
    if args.get(1).is_none_or(Object::is_none) { Ok(()) } else { send(args) }
}

/// Judges one datagram to an address that needs no look-up. On a stream it is a connection (MSG_FASTOPEN).
pub(crate) fn judge_send(socket: &Socket, peer: Peer) -> Judged {
    let action = match peer {
        Peer::At(addr) if socket.transport == Transport::Tcp => {
            Action::Connect(Endpoint::Inet { transport: Transport::Tcp, addr })
        }
        Peer::At(addr) => Action::Send(Endpoint::Inet { transport: socket.transport, addr }),
        Peer::Unix(addr) => Action::IpcConnect(addr),
        Peer::Other(at) => Action::Send(at),
        Peer::Named(..) => return Ok(()),
    };
    Ok(monitor::check(action, &[])?)
}

/// What a look-up asks for.
pub(crate) enum Sought {
    /// An address: nothing is looked up.
    Literal(IpAddr),
    /// A name.
    Name(HostName),
    /// No host: this machine's own addresses.
    Local,
}

/// Reads the host of a look-up.
pub(crate) fn sought(event: &str, host: Option<Object<'_>>) -> Result<Sought, Box<Refusal>> {
    let Some(host) = host.filter(|host| !host.is_none()) else { return Ok(Sought::Local) };
    let bytes = host.os_bytes();
    let text = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let Some(text) = text else {
        return Err(monitor::undecodable(event, "a host must be a `str` or `bytes`").into());
    };
    if text.is_empty() || text == "<broadcast>" {
        return Ok(Sought::Local);
    }
    match Host::parse(text) {
        Ok(Host::Addr(addr)) => Ok(Sought::Literal(addr)),
        Ok(Host::Name(name)) => Ok(Sought::Name(name)),
        Err(error) => Err(Refusal::name(monitor::undecodable(event, &format!("`{text}`: {error}"))).into()),
    }
}

/// `socket.gethostbyaddr` (name or address): an address is looked up backwards.
pub(crate) fn by_address(args: Args<'_>) -> Judged {
    if expected::is_judged(args.get(0)) {
        return Ok(());
    }
    match sought("socket.gethostbyaddr", args.get(0))? {
        Sought::Literal(addr) => judge_reverse(addr),
        _ => resolve(args),
    }
}

/// `socket.getaddrinfo` (host, …), `socket.gethostbyname` (name).
pub(crate) fn resolve(args: Args<'_>) -> Judged {
    if expected::is_judged(args.get(0)) {
        return Ok(());
    }
    match sought("socket.getaddrinfo", args.get(0))? {
        Sought::Name(name) => Err(unresolved("socket.getaddrinfo", &name)),
        Sought::Literal(_) | Sought::Local => Ok(()),
    }
}

/// `socket.getnameinfo` (sockaddr).
pub(crate) fn nameinfo(args: Args<'_>) -> Judged {
    let host = args.get(0).and_then(|address| address.item(0));
    if expected::is_judged(args.get(0)) {
        return Ok(());
    }
    match sought("socket.getnameinfo", host)? {
        Sought::Literal(addr) => judge_reverse(addr),
        Sought::Name(name) => Err(unresolved("socket.getnameinfo", &name)),
        Sought::Local => Ok(()),
    }
}

/// Judges the look-up of an address's name, which asks the DNS for a name made of the address (RFC 1035 §3.5,
/// RFC 3596 §2.5).
pub(crate) fn judge_reverse(addr: IpAddr) -> Judged {
    let name = match addr {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6
                .octets()
                .iter()
                .rev()
                .fold(String::new(), |out, byte| format!("{out}{:x}.{:x}.", byte & 0xf, byte >> 4));
            format!("{nibbles}ip6.arpa")
        }
    };
    match HostName::parse(&name) {
        Ok(name) => judge_name(&name),
        Err(_) => {
            Err(monitor::undecodable("socket.getnameinfo", "the address has no name to ask for").into())
        }
    }
}

/// Judges the look-up of a name.
pub(crate) fn judge_name(name: &HostName) -> Judged {
    monitor::check(Action::Resolve(name.clone()), &[]).map_err(|denial| Refusal::name(denial).into())
}

/// `socket.sethostname` (name): the machine's own name, for which the policy has no word.
pub(crate) fn sethostname(_: Args<'_>) -> Judged {
    Ok(monitor::check(Action::Unmapped("socket.sethostname".into()), &[])?)
}

/// `syslog.openlog`, `syslog.syslog`: the C library talks to the logger's socket (syslog(3)).
pub(crate) fn syslog(_: Args<'_>) -> Judged {
    let log = resolve_path(None, b"/dev/log", Follow::Final, None)?;
    Ok(monitor::check(Action::IpcConnect(UnixAddr::Path(log)), &[])?)
}
