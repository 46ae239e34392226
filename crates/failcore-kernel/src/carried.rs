//! Carried connections, which are granted on the condition that what is said on them is judged: the task's socket is
//! connected to the [`Relay`](failcore_gate::Relay), which makes the other half.

use std::net::SocketAddr;

use failcore_gate::{Grant, Sender};
use failcore_model::{Action, Endpoint};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect as route, getsockname, socket_with};

use crate::call::Call;
use crate::sockets::{Socket, connect_to, inet};

/// Connects the task's socket to the relay, and makes it known there.
///
/// # Errors
/// As connect(2): what is known before anybody is asked is as without us; `EINPROGRESS` is none that undoes anything.
pub(crate) fn connect(call: &Call<'_>, socket: &Socket, grant: &Grant) -> Result<(), Errno> {
    let Action::Connect(Endpoint::Inet { transport, addr: to }) = *grant.action() else {
        return Err(Errno::ACCESS);
    };
    let relay = call.shared.parent.relay.as_ref().ok_or(Errno::ACCESS)?;
    let instead = relay.instead_of(to).ok_or(Errno::CONNREFUSED)?;
    leads_there(to)?;
    let connected = connect_to(call, socket, &inet(instead));
    if matches!(connected, Ok(()) | Err(Errno::INPROGRESS)) {
        let mut from: SocketAddr = getsockname(&socket.fd)?.try_into().map_err(|_| Errno::AFNOSUPPORT)?;
        if from.ip().to_canonical().is_unspecified() {
            from.set_ip(instead.ip());
        }
        let (actor, claims) = (call.actor(), call.process.claims(call.notice.tid));
        let ends = call.shared.parent.gate.ends(grant);
        relay.carry(Sender { transport, from, answered_as: None, actor, claims }, to, ends);
    }
    connected
}

/// Whether there is a route to an address, without which a program tries its next one at once.
fn leads_there(to: SocketAddr) -> Result<(), Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    route(socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?, &to)
}
