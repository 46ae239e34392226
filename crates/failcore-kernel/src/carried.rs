//! What a program sends to addresses that a [`Carrier`](failcore_gate::Carrier) stands for, as the name broker for DNS
//! servers: its socket is connected to the carrier, which judges what is said.

use std::net::SocketAddr;

use failcore_gate::Sender;
use failcore_model::{Action, Endpoint, Transport};
use rustix::io::Errno;
use rustix::net::{getpeername, getsockname};

use crate::call::Call;
use crate::sockets::{Socket, bind_to, connect_to, inet};

/// A connection or datagram that goes elsewhere than it is addressed to.
pub(crate) struct Carried {
    transport: Transport,
    asked: SocketAddr,
    instead: SocketAddr,
}

impl Carried {
    /// Where it goes instead; nothing where the action is to be judged.
    pub(crate) fn of(call: &Call<'_>, action: &Action) -> Option<Self> {
        let (Action::Connect(Endpoint::Inet { transport, addr })
        | Action::Send(Endpoint::Inet { transport, addr })) = action
        else {
            return None;
        };
        let instead = call.shared.parent.carrier.as_ref()?.instead_of(*transport, *addr)?;
        Some(Self { transport: *transport, asked: *addr, instead })
    }

    /// Connects the task's socket to the carrier, and makes it known there.
    ///
    /// # Errors
    /// As connect(2); `EINPROGRESS` is none that undoes anything.
    pub(crate) fn connect(&self, call: &Call<'_>, socket: &Socket) -> Result<(), Errno> {
        if !call.shared.listener.is_waiting(&call.notice) {
            return Err(Errno::SRCH);
        }
        let connected = connect_to(call, socket, &inet(self.instead));
        if matches!(connected, Ok(()) | Err(Errno::INPROGRESS)) {
            self.make_known(call, socket, None)?;
        }
        connected
    }

    /// Makes the task's socket ready for data to the carrier; the address that the data is to be sent to, which is none
    /// where the socket is connected to it.
    ///
    /// # Errors
    /// As connect(2) and bind(2).
    pub(crate) fn prepare(&self, call: &Call<'_>, socket: &Socket) -> Result<Vec<u8>, Errno> {
        let connected =
            getpeername(&socket.fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        if connected == Some(self.instead) {
            return Ok(Vec::new());
        }
        let as_asked =
            call.shared.parent.carrier.as_ref().is_some_and(|carrier| carrier.answers_as(self.asked));
        if self.transport != Transport::Udp || (connected.is_none() && !as_asked) {
            // Unlike one that is merely bound, a connected socket hears nobody else.
            self.connect(call, socket)?;
            return Ok(Vec::new());
        }
        if !call.shared.listener.is_waiting(&call.notice) {
            return Err(Errno::SRCH);
        }
        if local(socket)?.port() == 0 {
            // Sending would bind it to any address, where everyone can send to it.
            bind_to(socket, &inet(SocketAddr::new(self.instead.ip(), 0)))?;
        }
        self.make_known(call, socket, as_asked.then_some(self.asked))?;
        Ok(inet(self.instead))
    }

    fn make_known(
        &self,
        call: &Call<'_>,
        socket: &Socket,
        answered_as: Option<SocketAddr>,
    ) -> Result<(), Errno> {
        let mut from = local(socket)?;
        if from.ip().to_canonical().is_unspecified() {
            from.set_ip(self.instead.ip());
        }
        if let Some(carrier) = &call.shared.parent.carrier {
            let (transport, actor) = (self.transport, call.actor());
            let claims = call.process.claims(call.notice.tid);
            carrier.carry(Sender { transport, from, answered_as, actor, claims });
        }
        Ok(())
    }
}

fn local(socket: &Socket) -> Result<SocketAddr, Errno> {
    getsockname(&socket.fd)?.try_into().map_err(|_| Errno::AFNOSUPPORT)
}
