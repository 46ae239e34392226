//! Connections that the supervisor made known, by the program's end of each.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Mutex;

use failcore_gate::Passage;

use crate::lock;

/// Connections that wait at once; with more, the one that was made known first is forgotten and closed.
const MOST: usize = 4096;

/// Who is expected.
///
/// # Security
/// Any process of the machine can connect to a socket on loopback; only connections that the supervisor made known are
/// served, each once.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    known: HashMap<SocketAddr, Passage>,
    order: VecDeque<SocketAddr>,
    /// Those that are being served: a program may ask twice whether its connection stands.
    served: HashSet<SocketAddr>,
}

impl Waiting {
    pub(crate) fn add(&self, passage: Passage) {
        let from = plain(passage.sender.from);
        let mut table = lock(&self.0);
        if table.served.contains(&from) {
            return;
        }
        if table.known.insert(from, passage).is_none() {
            table.order.push_back(from);
        }
        while table.order.len() > MOST {
            if let Some(oldest) = table.order.pop_front() {
                table.known.remove(&oldest);
            }
        }
    }

    /// Whether such a connection is expected from there.
    pub(crate) fn is_expected(&self, from: SocketAddr, such: impl FnOnce(&Passage) -> bool) -> bool {
        lock(&self.0).known.get(&plain(from)).is_some_and(such)
    }

    /// Takes a connection that is here.
    pub(crate) fn take(&self, from: SocketAddr) -> Option<Passage> {
        let from = plain(from);
        let mut table = lock(&self.0);
        let passage = table.known.remove(&from)?;
        table.order.retain(|known| *known != from);
        table.served.insert(from);
        Some(passage)
    }

    /// Forgets a connection that has ended.
    pub(crate) fn leave(&self, from: SocketAddr) {
        let from = plain(from);
        let mut table = lock(&self.0);
        table.served.remove(&from);
        if table.known.remove(&from).is_some() {
            table.order.retain(|known| *known != from);
        }
    }
}

/// One form of an address: IPv4 is IPv4, and there are no scopes on loopback.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use failcore_gate::{Actor, Sender};
    use failcore_model::Transport;

    use super::*;

    fn passage(from: &str, pid: u32) -> Passage {
        let actor = Actor { pid, tid: pid, exe: "/bin/agent".into() };
        let from = from.parse().unwrap();
        let sender =
            Sender { transport: Transport::Tcp, from, answered_as: None, actor, claims: Default::default() };
        Passage {
            sender,
            to: "93.184.216.34:443".parse().unwrap(),
            ends: None,
            judged: true,
            far: None,
            outside: None,
        }
    }

    fn pid(waiting: &Waiting, from: &str) -> Option<u32> {
        waiting.take(from.parse().unwrap()).map(|passage| passage.sender.actor.pid)
    }

    #[test]
    fn each_is_served_once_and_nobody_else() {
        let waiting = Waiting::default();
        assert_eq!(pid(&waiting, "127.0.0.1:9"), None);
        waiting.add(passage("[::ffff:127.0.0.1]:9", 1));
        assert_eq!(pid(&waiting, "127.0.0.1:9"), Some(1));
        // Asked again while it is served.
        waiting.add(passage("127.0.0.1:9", 1));
        assert_eq!(pid(&waiting, "127.0.0.1:9"), None);
        waiting.leave("127.0.0.1:9".parse().unwrap());
        assert_eq!(pid(&waiting, "127.0.0.1:9"), None);
        waiting.add(passage("127.0.0.1:9", 2));
        assert_eq!(pid(&waiting, "127.0.0.1:9"), Some(2));
    }

    #[test]
    fn with_too_many_the_first_is_forgotten() {
        let waiting = Waiting::default();
        for port in 1..=MOST + 2 {
            waiting.add(passage(&format!("127.0.0.1:{port}"), u32::try_from(port).unwrap()));
        }
        assert_eq!(pid(&waiting, "127.0.0.1:2"), None);
        assert_eq!(pid(&waiting, "127.0.0.1:3"), Some(3));
        assert_eq!(lock(&waiting.0).order.len(), MOST - 1);
    }
}
