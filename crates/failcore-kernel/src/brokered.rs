//! What a program sends to DNS servers: its socket is connected to the name broker ([`Broker`](failcore_gate::Broker))
//! instead, which judges the names that are asked for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::SeqCst;

use failcore_gate::Sender;
use failcore_model::{Action, Endpoint, Event, Transport};
use rustix::fs::{fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_timeout};
use rustix::net::{getpeername, getsockname};

use crate::call::Call;
use crate::island::Island;
use crate::sockets::{Socket, bind_to, connect_to, inet};

/// A connection or datagram that goes elsewhere than it is addressed to.
pub(crate) struct Brokered {
    transport: Transport,
    asked: SocketAddr,
    instead: SocketAddr,
}

impl Brokered {
    /// Where it goes instead; nothing where the action is to be judged.
    pub(crate) fn of(call: &Call<'_>, action: &Action) -> Option<Self> {
        let (Action::Connect(Endpoint::Inet { transport, addr })
        | Action::Send(Endpoint::Inet { transport, addr })) = action
        else {
            return None;
        };
        let instead = call.shared.parent.broker.as_ref()?.instead_of(*transport, *addr)?;
        Some(Self { transport: *transport, asked: *addr, instead })
    }

    /// Connects the task's socket to the broker, and makes it known there.
    ///
    /// # Errors
    /// As connect(2); `EINPROGRESS` is none that undoes anything.
    pub(crate) fn connect(&self, call: &Call<'_>, socket: &Socket) -> Result<(), Errno> {
        if !call.shared.listener.is_waiting(&call.notice) {
            return Err(Errno::SRCH);
        }
        if let Some(island) = call.shared.island_made().filter(|island| island.has(&socket.fd)) {
            self.stand_in(call, island)?;
            self.make_known_there(call, socket)?;
            return connect_to(call, socket, &inet(self.asked));
        }
        let connected = connect_to(call, socket, &inet(self.instead));
        if matches!(connected, Ok(()) | Err(Errno::INPROGRESS)) {
            self.make_known(call, socket, None)?;
        }
        connected
    }

    /// Makes the task's socket ready for data to the broker; the address that the data is to be sent to, which is none
    /// where the socket is connected to it. The task gets another socket only where it may.
    ///
    /// # Errors
    /// As connect(2) and bind(2).
    pub(crate) fn prepare(
        &self,
        call: &Call<'_>,
        socket: &mut Socket,
        may_move: bool,
    ) -> Result<Vec<u8>, Errno> {
        if !call.shared.listener.is_waiting(&call.notice) {
            return Err(Errno::SRCH);
        }
        if let Some(island) = call.shared.island_made().filter(|island| island.has(&socket.fd)) {
            self.stand_in(call, island)?;
            self.make_known_there(call, socket)?;
            return Ok(inet(self.asked));
        }
        let connected =
            getpeername(&socket.fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        if connected == Some(self.instead) {
            return Ok(Vec::new());
        }
        let as_asked = call.shared.parent.broker.as_ref().is_some_and(|broker| broker.answers_as(self.asked));
        if self.transport != Transport::Udp {
            self.connect(call, socket)?;
            return Ok(Vec::new());
        }
        if connected.is_none() && !as_asked {
            // As far as it has chosen nothing that another socket would not have.
            if may_move && local(socket)?.port() == 0 && self.move_over(call, socket).is_ok() {
                return Ok(inet(self.asked));
            }
            // Unlike one that is merely bound, a connected socket hears nobody else.
            self.connect(call, socket)?;
            self.note(call)?;
            return Ok(Vec::new());
        }
        if local(socket)?.port() == 0 {
            // Sending would bind it to any address, where everyone can send to it.
            bind_to(socket, &inet(SocketAddr::new(self.instead.ip(), 0)))?;
        }
        self.make_known(call, socket, as_asked.then_some(self.asked))?;
        Ok(inet(self.instead))
    }

    /// Gives the task another socket in place of its own, on the island, where the server it asks answers by its own
    /// address.
    fn move_over(&self, call: &Call<'_>, socket: &mut Socket) -> Result<(), Errno> {
        // One on the local link is named with an interface, of which the island has none.
        if matches!(self.asked.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Err(Errno::ADDRNOTAVAIL);
        }
        let island = call.shared.island().ok_or(Errno::OPNOTSUPP)?;
        self.stand_in(call, island)?;
        let fresh = island.socket(socket.domain)?;
        fcntl_setfl(&fresh, fcntl_getfl(&socket.fd)?)?;
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&fresh, timeout, socket_timeout(&socket.fd, timeout)?)?;
        }
        (socket.fd, socket.replaced) = (fresh, true);
        self.make_known_there(call, socket)
    }

    fn stand_in(&self, call: &Call<'_>, island: &Island) -> Result<(), Errno> {
        let broker = call.shared.parent.broker.as_ref().ok_or(Errno::OPNOTSUPP)?;
        island.stand_in(self.asked, |socket| broker.serve(socket))
    }

    /// Records, once a process, why its resolver may seem to hear nothing.
    fn note(&self, call: &Call<'_>) -> Result<(), Errno> {
        if call.process.noted.swap(true, SeqCst) {
            return Ok(());
        }
        let text = format!(
            "process {} asked {} from a socket that it did not connect, and is answered from {}: nobody here may \
             answer in another's name, and a resolver that looks where an answer comes from takes none",
            call.process.pid, self.asked, self.instead
        );
        let noted = call.shared.parent.gate.record(&Event::Notice { text });
        noted.map_err(|denial| Errno::from_raw_os_error(denial.errno))
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
        self.announce(call, from, answered_as);
        Ok(())
    }

    /// As [`Brokered::make_known`], on the island: by its port alone, since which address it sends from depends on whom
    /// it asks.
    fn make_known_there(&self, call: &Call<'_>, socket: &Socket) -> Result<(), Errno> {
        let from = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), local(socket)?.port());
        self.announce(call, from, None);
        Ok(())
    }

    fn announce(&self, call: &Call<'_>, from: SocketAddr, answered_as: Option<SocketAddr>) {
        if let Some(broker) = &call.shared.parent.broker {
            let (transport, actor) = (self.transport, call.actor());
            let claims = call.process.claims(call.notice.tid);
            broker.expect(Sender { transport, from, answered_as, actor, claims });
        }
    }
}

fn local(socket: &Socket) -> Result<SocketAddr, Errno> {
    getsockname(&socket.fd)?.try_into().map_err(|_| Errno::AFNOSUPPORT)
}
