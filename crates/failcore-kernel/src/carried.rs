//! Carried connections, whose words somebody has to hear: they are granted on the condition that what is said on them is
//! judged, or they are recorded or played. The task's socket is connected to the [`Relay`](failcore_gate::Relay), which
//! has the other half.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use failcore_gate::{Grant, Passage, Sender};
use failcore_model::heard::{Asked, Said};
use failcore_model::{Action, Endpoint, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect as reach, getsockname, socket_with};

use crate::call::Call;
use crate::observed::lost;
use crate::sockets::{Socket, connect_to, inet};

/// How long a server is waited for before the program is told that its connection stands, so that it learns of one that
/// does not as without us.
const WAITED_FOR: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Whether a connection goes to the relay.
pub(crate) fn is_carried(call: &Call<'_>, grant: &Grant) -> bool {
    grant.is_carried() || is_witnessed(call, grant)
}

/// Whether it is recorded or played, as all are that leave the run.
fn is_witnessed(call: &Call<'_>, grant: &Grant) -> bool {
    let Action::Connect(Endpoint::Inet { transport: Transport::Tcp, addr }) = *grant.action() else {
        return false;
    };
    let parent = &call.shared.parent;
    let own = || call.shared.listens_at(addr.port()) && is_here(addr.ip());
    parent.witness.is_some() && parent.relay.is_some() && !own()
}

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
    let judged = grant.is_carried();
    let witness = call.shared.parent.witness.as_ref();
    let outside = witness.and_then(|witness| witness.outside(grant.rules()));
    let far = match &outside {
        // The relay makes it, when there is a request that may go there.
        Some(_) if judged => None,
        Some(outside) => {
            let made =
                || outside.connect(to).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
            Some(call.shared.patience.during(call, made)?)
        }
        None => witnessed(call, to, judged)?,
    };
    let connected = connect_to(call, socket, &inet(instead));
    if matches!(connected, Ok(()) | Err(Errno::INPROGRESS)) {
        let mut from: SocketAddr = getsockname(&socket.fd)?.try_into().map_err(|_| Errno::AFNOSUPPORT)?;
        if from.ip().to_canonical().is_unspecified() {
            from.set_ip(instead.ip());
        }
        let (actor, claims) = (call.actor(), call.process.claims(call.notice.tid));
        let ends = call.shared.parent.gate.ends(grant);
        let sender = Sender { transport, from, answered_as: None, actor, claims };
        relay.carry(Passage { sender, to, ends, judged, far, outside });
    }
    connected
}

/// The other half, as far as it is made before the program's own: where it was recorded, it comes out as it did then.
fn witnessed(call: &Call<'_>, to: SocketAddr, judged: bool) -> Result<Option<OwnedFd>, Errno> {
    let make = || match judged {
        // The owner's proxy may be what leads there.
        true => leads_there(to).map(|()| None),
        false => made(call, to).map(Some),
    };
    let Some(witness) = &call.shared.parent.witness else { return make() };
    let asked = Asked::Connection { to };
    match witness.recalls(&asked, &call.process.claims(call.notice.tid)).map_err(lost)? {
        Some((Said::Failed { errno }, _)) => return Err(Errno::from_raw_os_error(errno)),
        Some(_) => return Ok(None),
        None => {}
    }
    let far = make();
    let said = match &far {
        Ok(_) => Said::Connected { protocol: None },
        Err(errno) => Said::Failed { errno: errno.raw_os_error() },
    };
    witness.hears(asked, said, None).map_err(lost)?;
    far
}

/// A connection of ours. One that takes long is handed on half made.
fn made(call: &Call<'_>, to: SocketAddr) -> Result<OwnedFd, Errno> {
    let fd = socket_with(family(to), SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match reach(&fd, &to) {
        Ok(()) => return Ok(fd),
        Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    call.shared
        .patience
        .during(call, || poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&WAITED_FOR)).map(drop))?;
    socket_error(&fd)??;
    Ok(fd)
}

/// Whether there is a route to an address, without which a program tries its next one at once.
fn leads_there(to: SocketAddr) -> Result<(), Errno> {
    reach(socket_with(family(to), SocketType::DGRAM, SocketFlags::CLOEXEC, None)?, &to)
}

/// Whether an address is one of this machine's own.
fn is_here(addr: IpAddr) -> bool {
    let addr = addr.to_canonical();
    let at = SocketAddr::new(addr, 0);
    let binds = || bind(socket_with(family(at), SocketType::DGRAM, SocketFlags::CLOEXEC, None)?, &at);
    addr.is_loopback() || addr.is_unspecified() || binds().is_ok()
}

fn family(of: SocketAddr) -> AddressFamily {
    if of.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}
