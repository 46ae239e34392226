//! The pin table: by which names an address was resolved, and until when that counts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use failcore_gate::Names;
use failcore_model::{HostName, Timestamp};
use smallvec::SmallVec;

use crate::Hosts;

/// The addresses that judged names resolved to, so that a connect can be judged by name.
///
/// Bounded: when full, what has expired goes first and then what expires soonest, so a flood of names makes
/// connects be refused and never permitted. A look-up takes no lock and does not allocate for addresses with at most one
/// name, beyond that name; adding copies the table, which is small beside a name resolution. There being no lock,
/// a `fork` in another thread leaves nothing locked in the child.
///
/// # Security
/// A pin says that *we* resolved the name to the address, not that the address is harmless: whoever owns the name
/// chose it. The address's own class is to be judged beside the name.
///
/// ```
/// use failcore_gate::Names;
/// use failcore_model::{HostName, Timestamp};
/// use failcore_net::Pins;
/// use std::time::Duration;
///
/// let pins = Pins::new();
/// let (name, addr) = (HostName::parse("example.com").unwrap(), "93.184.215.14".parse().unwrap());
/// pins.pin(&name, &[addr], Duration::from_secs(60), Timestamp(0));
/// assert_eq!(pins.names(addr, Timestamp(0)).as_slice(), [name]);
/// assert!(pins.names(addr, Timestamp(60_000_000_000)).is_empty());
/// ```
#[derive(Debug)]
pub struct Pins {
    table: ArcSwap<Table>,
    capacity: usize,
    hosts: Hosts,
}

/// All pins, sorted by address and then by name; no pair twice.
#[derive(Debug, Clone, Default)]
struct Table(Vec<Pin>);

#[derive(Debug, Clone)]
struct Pin {
    addr: IpAddr,
    name: Arc<HostName>,
    until: Timestamp,
}

impl Pins {
    /// An empty table for 1,024 pairs of name and address.
    pub fn new() -> Self {
        Self::with_capacity(1024)
    }

    /// An empty table for so many pairs of name and address.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { table: ArcSwap::default(), capacity, hosts: Hosts::default() }
    }

    /// Counts the names of a hosts file as well, which a program may read for itself.
    #[must_use]
    pub fn with_hosts(self, hosts: Hosts) -> Self {
        Self { hosts, ..self }
    }

    /// Remembers that `host` resolved to `addrs`, for `ttl` from `now`.
    ///
    /// Earlier addresses of the name stay until their own time is up, as a program may still hold them; a pair
    /// that is there already lasts as long as the longer of the two.
    pub fn pin(&self, host: &HostName, addrs: &[IpAddr], ttl: Duration, now: Timestamp) {
        if addrs.is_empty() {
            return;
        }
        let until = now.plus(u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX));
        let name = Arc::new(host.clone());
        self.table.rcu(|table| table.with(&name, addrs, until, now, self.capacity));
    }

    /// How many pairs it holds, expired ones included.
    pub fn len(&self) -> usize {
        self.table.load().0.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything: no address has a name until it is resolved again.
    pub fn clear(&self) {
        self.table.store(Arc::default());
    }
}

impl Names for Pins {
    /// The names pinned to an address at `now`. IPv4 written as mapped IPv6 is the same address.
    fn names(&self, addr: IpAddr, now: Timestamp) -> SmallVec<[HostName; 1]> {
        let addr = addr.to_canonical();
        let table = self.table.load();
        let from = table.0.partition_point(|pin| pin.addr < addr);
        let mut names: SmallVec<[HostName; 1]> = table.0[from..]
            .iter()
            .take_while(|pin| pin.addr == addr)
            .filter(|pin| pin.until > now)
            .map(|pin| HostName::clone(&pin.name))
            .collect();
        for name in self.hosts.names(addr) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}

impl Default for Pins {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    fn with(
        &self,
        name: &Arc<HostName>,
        addrs: &[IpAddr],
        until: Timestamp,
        now: Timestamp,
        room: usize,
    ) -> Self {
        let fresh = addrs.iter().map(|addr| Pin { addr: addr.to_canonical(), name: name.clone(), until });
        let mut pins: Vec<_> = self.0.iter().filter(|pin| pin.until > now).cloned().chain(fresh).collect();
        // The one that lasts longest comes first of its pair and is the one kept.
        pins.sort_by(|a, b| (a.addr, &a.name, b.until).cmp(&(b.addr, &b.name, a.until)));
        pins.dedup_by(|later, kept| later.addr == kept.addr && later.name == kept.name);
        if pins.len() > room {
            pins.sort_by_key(|pin| std::cmp::Reverse(pin.until));
            pins.truncate(room);
            pins.sort_by(|a, b| (a.addr, &a.name).cmp(&(b.addr, &b.name)));
        }
        Self(pins)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn seconds(n: u64) -> Timestamp {
        Timestamp(n * 1_000_000_000)
    }

    fn names(pins: &Pins, addr: &str, now: u64) -> Vec<String> {
        pins.names(addr.parse().unwrap(), seconds(now)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pin_expires_and_is_renewed() {
        let pins = Pins::new();
        let addr = "1.2.3.4".parse().unwrap();
        pins.pin(&host("a.example"), &[addr], Duration::from_secs(10), seconds(0));
        assert_eq!(names(&pins, "1.2.3.4", 9), ["a.example"]);
        assert!(names(&pins, "1.2.3.4", 10).is_empty());
        pins.pin(&host("a.example"), &[addr], Duration::from_secs(10), seconds(5));
        assert_eq!(names(&pins, "1.2.3.4", 14), ["a.example"]);
        // A shorter answer does not shorten.
        pins.pin(&host("a.example"), &[addr], Duration::from_secs(1), seconds(6));
        assert_eq!(names(&pins, "1.2.3.4", 14), ["a.example"]);
        assert_eq!(pins.len(), 1);
    }

    #[test]
    fn several_names_share_an_address_and_mapped_is_plain() {
        let pins = Pins::new();
        for name in ["b.example", "a.example"] {
            pins.pin(&host(name), &["1.2.3.4".parse().unwrap()], Duration::from_secs(10), seconds(0));
        }
        assert_eq!(names(&pins, "::ffff:1.2.3.4", 1), ["a.example", "b.example"]);
        assert!(names(&pins, "1.2.3.5", 1).is_empty());
        assert!(names(&pins, "::1.2.3.4", 1).is_empty());
    }

    #[test]
    fn when_full_the_soonest_to_expire_goes() {
        let pins = Pins::with_capacity(2);
        for (i, ttl) in [(1, 30), (2, 10), (3, 20)] {
            pins.pin(&host("a.example"), &[IpAddr::from([1, 1, 1, i])], Duration::from_secs(ttl), seconds(0));
        }
        assert_eq!(pins.len(), 2);
        assert!(names(&pins, "1.1.1.2", 1).is_empty());
        assert_eq!(names(&pins, "1.1.1.3", 1), ["a.example"]);
        pins.clear();
        assert!(pins.is_empty());
    }

    #[test]
    fn threads_that_pin_at_once_lose_nothing() {
        let pins = Pins::new();
        std::thread::scope(|scope| {
            for t in 0..4u8 {
                let pins = &pins;
                scope.spawn(move || {
                    for i in 0..50 {
                        let addr = IpAddr::from([9, 9, t, i]);
                        pins.pin(&host("a.example"), &[addr], Duration::from_secs(9), seconds(1));
                        assert_eq!(pins.names(addr, seconds(2)).len(), 1);
                    }
                });
            }
        });
        assert_eq!(pins.len(), 200);
    }

    proptest! {
        /// Against the plainest table there is.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0..3usize, 0..4u8, 1..20u64, 0..4u64), 0..40)) {
            let hosts = ["a.example", "b.example", "c.example"].map(host);
            let (pins, mut map, mut now) = (Pins::new(), BTreeMap::new(), 0);
            for (who, at, ttl, pause) in steps {
                now += pause;
                let addr = IpAddr::from([8, 8, 8, at]);
                pins.pin(&hosts[who], &[addr], Duration::from_secs(ttl), seconds(now));
                let until = map.entry((addr, hosts[who].clone())).or_insert(0);
                *until = (now + ttl).max(*until);
                for last in 0..4 {
                    let addr = IpAddr::from([8, 8, 8, last]);
                    let want: Vec<_> = map.iter().filter(|((a, _), u)| *a == addr && **u > now).map(|((_, n), _)| n.clone()).collect();
                    prop_assert_eq!(pins.names(addr, seconds(now)).to_vec(), want);
                }
            }
        }

        #[test]
        fn never_grows_beyond_its_room(room in 1..8usize, addrs in prop::collection::vec(any::<u32>(), 0..40)) {
            let pins = Pins::with_capacity(room);
            for chunk in addrs.chunks(3) {
                let chunk: Vec<_> = chunk.iter().map(|n| IpAddr::from(n.to_be_bytes())).collect();
                pins.pin(&host("a.example"), &chunk, Duration::from_secs(1), seconds(0));
                prop_assert!(pins.len() <= room);
                prop_assert!(!pins.is_empty());
            }
        }
    }
}
