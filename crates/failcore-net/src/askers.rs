//! Whose a socket is that asks.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use failcore_gate::Sender;
use failcore_model::Transport;

/// Sockets that are known at once; with more, the one that was made known first is forgotten and gets no answer.
const MOST: usize = 4096;

/// The sockets of a run that were connected to the broker, by their local addresses.
///
/// # Security
/// Any process of the machine can send to a socket on loopback; only those that the supervisor made known get an
/// answer. A datagram socket that was closed is not noticed: until its port is made known anew, a foreign process that
/// happens to get the same one passes for its last owner, and learns what that one may resolve.
#[derive(Debug, Default)]
pub(crate) struct Askers(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    known: HashMap<(Transport, SocketAddr), Sender>,
    order: VecDeque<(Transport, SocketAddr)>,
}

impl Askers {
    pub(crate) fn add(&self, sender: Sender) {
        let key = (sender.transport, plain(sender.from));
        let mut table = self.lock();
        if table.known.insert(key, sender).is_none() {
            table.order.push_back(key);
        }
        while table.order.len() > MOST {
            if let Some(oldest) = table.order.pop_front() {
                table.known.remove(&oldest);
            }
        }
    }

    pub(crate) fn of(&self, transport: Transport, from: SocketAddr) -> Option<Sender> {
        self.lock().known.get(&(transport, plain(from))).cloned()
    }

    /// Forgets a connection that ended.
    pub(crate) fn remove(&self, transport: Transport, from: SocketAddr) {
        let key = (transport, plain(from));
        let mut table = self.lock();
        if table.known.remove(&key).is_some() {
            table.order.retain(|known| *known != key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One form of an address: IPv4 is IPv4, and there are no scopes on loopback.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(transport: Transport, from: SocketAddr, pid: u32) -> Sender {
        let actor = failcore_gate::Actor { pid, tid: pid, exe: "/bin/agent".into() };
        Sender { transport, from, answered_as: None, actor, claims: Default::default() }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn pid(askers: &Askers, transport: Transport, from: SocketAddr) -> Option<u32> {
        askers.of(transport, from).map(|sender| sender.actor.pid)
    }

    #[test]
    fn a_socket_is_its_last_owners() {
        let askers = Askers::default();
        askers.add(sender(Transport::Udp, "[::ffff:127.0.0.1]:9".parse().unwrap(), 1));
        assert_eq!(pid(&askers, Transport::Udp, at(9)), Some(1));
        assert_eq!(pid(&askers, Transport::Tcp, at(9)), None);
        askers.add(sender(Transport::Udp, at(9), 2));
        askers.add(sender(Transport::Tcp, at(9), 3));
        assert_eq!(pid(&askers, Transport::Udp, at(9)), Some(2));
        askers.remove(Transport::Tcp, at(9));
        assert_eq!(pid(&askers, Transport::Tcp, at(9)), None);
        assert_eq!(pid(&askers, Transport::Udp, at(9)), Some(2));
    }

    #[test]
    fn with_too_many_the_first_is_forgotten() {
        let askers = Askers::default();
        let last = u16::try_from(MOST).unwrap() + 10;
        for port in 1..=last {
            askers.add(sender(Transport::Udp, at(port), port.into()));
        }
        assert_eq!(pid(&askers, Transport::Udp, at(10)), None);
        assert_eq!(pid(&askers, Transport::Udp, at(11)), Some(11));
        assert_eq!(pid(&askers, Transport::Udp, at(last)), Some(last.into()));
        let table = askers.lock();
        assert_eq!((table.known.len(), table.order.len()), (MOST, MOST));
    }
}
