//! Stand-ins on sockets and names: judged names, one look-up, pinned answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use failcore_gate::now;
use failcore_gate::resolve::Follow;
use failcore_model::{Action, Endpoint, HostName, Text, Transport, UnixAddr};
use failcore_net::{Found, Pins, ResolveError, Resolver};
use rustix::net::{AddressFamily, SocketAddrAny};

use crate::decode_net::{Peer, Socket, Sought, judge_name, peer, socket, sought};
use crate::events::Judged;
use crate::hook_call::Call;
use crate::hook_list;
use crate::hook_make as make;
use crate::hook_object::Object;
use crate::hook_raise::Refusal;
use crate::patched_fs::lost;
use crate::{expected, hook_socket, monitor};

/// The names that this process resolved, for all its gates.
pub(crate) static PINS: LazyLock<Arc<Pins>> = LazyLock::new(Arc::default);
static RESOLVER: LazyLock<Resolver> = LazyLock::new(|| Resolver::system(Arc::clone(&PINS)));

/// Whether a policy grants an address by itself for some use. Without a port nothing can be said yet, and the
/// connect will be judged by the address all the same.
fn granted(addr: IpAddr, port: u16) -> bool {
    let addr = SocketAddr::new(addr, port);
    let at = |transport| Endpoint::Inet { transport, addr };
    port == 0
        || [Transport::Tcp, Transport::Udp].into_iter().any(|transport| {
            [Action::Connect(at(transport)), Action::Send(at(transport)), Action::Bind(at(transport))]
                .into_iter()
                .any(monitor::would_allow)
        })
}

/// Admits the addresses that a judged name resolved to, and returns those to be kept.
fn admit(name: &HostName, found: &[IpAddr], port: u16) -> Result<Vec<IpAddr>, Box<Refusal>> {
    let found = Found { addrs: found.to_vec(), ..Found::default() };
    match RESOLVER.admit(name, &found, now(), |addr| granted(addr, port)) {
        Ok(answer) => Ok(answer.addrs),
        Err(error) => Err(refused(name, &error)),
    }
}

fn refused(name: &HostName, error: &ResolveError) -> Box<Refusal> {
    if let ResolveError::NotPublic { dropped, .. } = error {
        // Judged again with the addresses, which says why and leaves a record.
        let addresses: Vec<_> = dropped.iter().map(|(addr, _)| *addr).collect();
        if let Err(denial) = monitor::check(Action::Resolve(name.clone()), &addresses) {
            return Refusal::name(denial).into();
        }
    }
    Refusal::lookup(error.eai(), error.to_string()).into()
}

/// Replaces the host of a look-up by the name that was judged; `None` where nothing is looked up.
fn judged(call: &mut Call, event: &str) -> Result<Option<HostName>, Box<Refusal>> {
    let Sought::Name(name) = sought(event, call.get(0, "host"))? else { return Ok(None) };
    judge_name(&name)?;
    let host = make::text(name.as_str());
    call.replace(0, "host", host).map_err(|()| lost())?;
    call.keep(expected::note_judged(host as usize));
    Ok(Some(name))
}

/// `socket.getaddrinfo(host, port, family=0, type=0, proto=0, flags=0)`.
pub(crate) fn getaddrinfo(call: &mut Call) -> Judged {
    let numeric = call.get(5, "flags").and_then(Object::int).unwrap_or(0) & i64::from(libc::AI_NUMERICHOST);
    if numeric != 0 {
        if let Some(host) = call.raw(0, "host") {
            call.keep(expected::note_judged(host as usize));
        }
        return Ok(());
    }
    let Some(name) = judged(call, "socket.getaddrinfo")? else { return Ok(()) };
    let port = call.get(1, "port").and_then(port_number).unwrap_or(0);
    call.then(move |result| {
        let address = |entry: Object<'_>| ip(entry.item(4)?.item(0)?);
        hook_list::retain(result, |found| admit(&name, found, port), address)
    });
    Ok(())
}

/// A port as `getaddrinfo` takes it: a number, or its digits.
fn port_number(object: Object<'_>) -> Option<u16> {
    match object.int() {
        Some(port) => u16::try_from(port).ok(),
        None => std::str::from_utf8(&object.os_bytes()?).ok()?.parse().ok(),
    }
}

fn ip(object: Object<'_>) -> Option<IpAddr> {
    let text = object.text()?;
    text.split('%').next()?.parse().ok()
}

/// `socket.gethostbyname(name)`, `socket.gethostbyname_ex(name)`.
pub(crate) fn gethostbyname(call: &mut Call) -> Judged {
    let Some(name) = judged(call, "socket.gethostbyname")? else { return Ok(()) };
    call.then(move |result| answer(&name, result));
    Ok(())
}

/// `socket.gethostbyaddr(name or address)`.
pub(crate) fn gethostbyaddr(call: &mut Call) -> Judged {
    gethostbyname(call)
}

/// An address, or (name, aliases, addresses).
fn answer(name: &HostName, result: Object<'_>) -> Judged {
    match (ip(result), result.item(2)) {
        (Some(addr), _) => admit(name, &[addr], 0).map(drop),
        (None, Some(list)) => hook_list::retain(list, |found| admit(name, found, 0), ip),
        (None, None) => Ok(()),
    }
}

/// `socket.getnameinfo(sockaddr, flags)`: with NI_NUMERICHOST nothing is looked up.
pub(crate) fn getnameinfo(call: &mut Call) -> Judged {
    let flags = call.get(1, "flags").and_then(Object::int).unwrap_or(0);
    if flags & i64::from(libc::NI_NUMERICHOST) != 0
        && let Some(address) = call.raw(0, "sockaddr")
    {
        call.keep(expected::note_judged(address as usize));
    }
    Ok(())
}

/// Where an address argument names a host, puts the address in its place that the name leads to; everything else
/// is judged by the hook, from the event.
fn resolved(call: &mut Call, index: usize, event: &str) -> Judged {
    let Some(slf) = call.receiver() else { return Ok(()) };
    let Some(address) = call.get(index, "address") else { return Ok(()) };
    if make::has_buffer(address) {
        // The name of a unix socket, whose content could change after it was judged.
        let copy = make::copy(address)?;
        return call.replace(index, "address", copy).map_err(|()| lost());
    }
    if !address.is_tuple() {
        return Ok(());
    }
    let Ok(socket) = socket(event, Some(slf)) else { return Ok(()) };
    if !matches!(socket.family, AddressFamily::INET | AddressFamily::INET6) {
        return Ok(());
    }
    if let (Some(host), Some(port)) = (address.item(0), address.item(1).filter(|port| port.int().is_none())) {
        // A number of another kind is asked once, and its answer is what is judged and used.
        let port = make::index(port)?;
        let mut parts = vec![make::again(host), port];
        parts.extend((2..4).map_while(|i| address.item(i)).map(make::again));
        call.replace(index, "address", make::tuple(&parts)).map_err(|()| lost())?;
    }
    let Some(address) = call.get(index, "address") else { return Ok(()) };
    let Ok(Peer::Named(name, port)) = peer(event, &socket, Some(address), Follow::Final) else {
        return Ok(());
    };
    let grant = monitor::grant(Action::Resolve(name.clone()), &[])
        .map_err(|denial| Box::new(Refusal::name(denial)))?;
    let Some(grant) = grant else { return Ok(()) };
    let found = make::unlocked(|| RESOLVER.resolve(&grant, now(), |addr| granted(addr, port)));
    let addr = match found {
        Ok(found) => found.addrs.into_iter().find(|addr| fits(&socket, addr)),
        Err(error) => return Err(refused(&name, &error)),
    };
    let Some(addr) = addr else {
        return Err(
            Refusal::lookup(libc::EAI_NONAME, format!("`{name}` has no address of this family")).into()
        );
    };
    let mut parts = vec![make::text(&addr.to_string()), make::int(i64::from(port))];
    parts.extend((2..4).map_while(|i| address.item(i)).map(make::again));
    let literal = make::tuple(&parts);
    call.replace(index, "address", literal).map_err(|()| lost())
}

fn fits(socket: &Socket, addr: &IpAddr) -> bool {
    addr.is_ipv6() == (socket.family == AddressFamily::INET6)
}

/// `socket.connect(address)`.
pub(crate) fn connect(call: &mut Call) -> Judged {
    // Where nothing is looked up, a supervisor judges the address that the kernel gets, and says why it refuses.
    if let Some(address) = call.get(0, "address")
        && is_literal(address)
        && monitor::leave_to_supervisor()
    {
        call.keep(expected::note_judged(address.as_ptr() as usize));
        return Ok(());
    }
    resolved(call, 0, "socket.connect")
}

/// `socket.connect_ex(address)`, which raises nothing where the supervisor refuses: so it is judged ahead.
pub(crate) fn connect_ex(call: &mut Call) -> Judged {
    resolved(call, 0, "socket.connect")
}

/// Whether it is an address in its usual spelling, and a port.
fn is_literal(address: Object<'_>) -> bool {
    let host = address.item(0).and_then(Object::text);
    let port = address.item(1).and_then(Object::int);
    host.is_some_and(|host| host.parse::<IpAddr>().is_ok())
        && port.is_some_and(|port| u16::try_from(port).is_ok())
}

/// `socket.bind(address)`.
pub(crate) fn bind(call: &mut Call) -> Judged {
    resolved(call, 0, "socket.bind")
}

/// `socket.sendto(data[, flags], address)`.
pub(crate) fn sendto(call: &mut Call) -> Judged {
    let last = if call.get(2, "address").is_some() { 2 } else { 1 };
    resolved(call, last, "socket.sendto")
}

/// `socket.sendmsg(buffers[, ancdata[, flags[, address]]])`.
pub(crate) fn sendmsg(call: &mut Call) -> Judged {
    resolved(call, 3, "socket.sendmsg")
}

/// `socket.listen([backlog])`, which raises no event.
pub(crate) fn listen(call: &mut Call) -> Judged {
    let Some(slf) = call.receiver() else { return Ok(()) };
    let socket = socket("socket.listen", Some(slf))?;
    let Some(fd) = hook_socket::descriptor(slf) else { return Ok(()) };
    let local = rustix::net::getsockname(fd).map_err(|errno| Refusal::os(errno.raw_os_error()))?;
    Ok(monitor::check(Action::Listen(endpoint(&socket, local)), &[])?)
}

fn endpoint(socket: &Socket, local: SocketAddrAny) -> Endpoint {
    if let Ok(addr) = SocketAddr::try_from(local.clone()) {
        return Endpoint::Inet { transport: socket.transport, addr };
    }
    match rustix::net::SocketAddrUnix::try_from(local) {
        Ok(unix) => Endpoint::Unix(match (unix.path_bytes(), unix.abstract_name()) {
            (Some(path), _) => crate::decode_fs::resolve(None, path, Follow::NoFinal, None)
                .map_or(UnixAddr::Unnamed, UnixAddr::Path),
            (None, Some(name)) => UnixAddr::Abstract(Text::from(name)),
            (None, None) => UnixAddr::Unnamed,
        }),
        Err(_) => Endpoint::Other { family: i32::from(socket.family.as_raw()), raw: Text::default() },
    }
}
