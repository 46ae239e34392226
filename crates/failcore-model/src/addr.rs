//! Classes of addresses: what a name permit may cover, and what hides behind an IPv6 spelling.
//!
//! The ranges are in the generated table; what is by hand here are the forms in which an IPv6 address carries an
//! IPv4 address, because a translator or a tunnel delivers to that one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::addr_table::{V4, V6};

/// What kind of address it is, by the IANA special-purpose registries; only [`IpClass::Public`] is what a host
/// name permit covers.
///
/// After `Public` the order is the order of danger: where an address has several readings, it has the class of
/// the earliest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IpClass {
    /// Globally reachable unicast.
    Public,
    /// A cloud provider's instance metadata or credential service, public addresses among them.
    Metadata,
    /// `0.0.0.0/8`, `::`: connecting reaches this machine.
    Unspecified,
    /// This machine.
    Loopback,
    /// RFC 1918, RFC 4193 unique local, fec0::/10.
    Private,
    /// Link local.
    LinkLocal,
    /// RFC 6598 carrier-grade NAT.
    Shared,
    /// Multicast, and the limited broadcast address.
    Multicast,
    /// Documentation, benchmarking, protocol assignments, future use: nothing that a program should reach.
    Reserved,
}

impl IpClass {
    /// The class of an address, looking through every IPv6 disguise of an IPv4 address.
    ///
    /// Total and without allocation. A registered block is never `Public`, also where the registry calls it
    /// globally reachable (anycast infrastructure, tunnels); IPv6 outside 2000::/3 is never `Public` either,
    /// save for what is only another spelling of a public IPv4 address (mapped, and NAT64 under 64:ff9b::/96).
    ///
    /// # Security
    /// An operator's own NAT64 or 6rd prefix cannot be known, so behind one an address in 2000::/3 may lead to
    /// any IPv4 address. Metadata addresses are found there at every place of RFC 6052; private ones are not.
    ///
    /// ```
    /// use failcore_model::IpClass;
    /// assert_eq!(IpClass::of("::ffff:127.0.0.1".parse().unwrap()), IpClass::Loopback);
    /// assert_eq!(IpClass::of("64:ff9b::a9fe:a9fe".parse().unwrap()), IpClass::Metadata);
    /// assert_eq!(IpClass::of("2606:4700::1111".parse().unwrap()), IpClass::Public);
    /// ```
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        }
    }

    /// Whether a host-name permit covers it.
    pub fn is_public(self) -> bool {
        self == Self::Public
    }

    /// The more dangerous of two readings.
    fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Public, other) => other,
            (own, Self::Public) => own,
            (own, other) => own.min(other),
        }
    }
}

/// Whether it is an instance metadata or credential service of a cloud, in whatever disguise.
pub fn is_metadata(addr: IpAddr) -> bool {
    IpClass::of(addr) == IpClass::Metadata
}

/// The IPv4 address that an IPv6 address stands for, if it is a disguise; the first of [`embedded_v4s`].
pub fn embedded_v4(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    embedded_v4s(addr).next()
}

/// Every IPv4 address that an IPv6 address may stand for, the likeliest first; none for a plain one.
///
/// Mapped ::ffff:0:0/96 and compatible ::/96 (RFC 4291 section 2.5.5), translated ::ffff:0:0:0/96 (RFC 2765),
/// NAT64 64:ff9b::/96 and, at each prefix length that fits, 64:ff9b:1::/48 (RFC 6052 section 2.2, RFC 8215), 6to4
/// (RFC 3056), Teredo client and server (RFC 4380 section 4) and ISATAP interface ids under any prefix (RFC 5214).
pub fn embedded_v4s(addr: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let b = addr.octets();
    let at = |i: usize| Some(Ipv4Addr::new(b[i], b[i + 1], b[i + 2], b[i + 3]));
    let mut found = [None; 5];
    match addr.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => {} // unspecified and loopback are themselves
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            found[0] = at(12);
        }
        [0x64, 0xff9b, 1, ..] => {
            found[..4].copy_from_slice(&[96, 48, 56, 64].map(|len| Some(rfc6052(addr.to_bits(), len))))
        }
        [0x2001, 0, ..] => found[..2].copy_from_slice(&[rfc4380(&b), at(4)]),
        [0x2002, ..] => found[0] = at(2),
        _ => {}
    }
    // The universal and group bits of the interface id may be anything.
    if b[8] & !3 == 0 && b[9..12] == [0, 0x5e, 0xfe] {
        found[4] = at(12);
    }
    found.into_iter().flatten()
}

/// The IPv4 address after a prefix of `len` bits, jumping over bits 64 to 71 (RFC 6052 section 2.2).
fn rfc6052(addr: u128, len: u32) -> Ipv4Addr {
    let without_u = addr >> 64 << 56 | addr & ((1 << 56) - 1);
    let bits = if len == 96 { addr } else { without_u >> (120 - 32 - len) };
    Ipv4Addr::from_bits(bits as u32)
}

/// The client of a Teredo address, whose bits are inverted.
fn rfc4380(b: &[u8; 16]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::new(!b[12], !b[13], !b[14], !b[15]))
}

fn of_v4(addr: Ipv4Addr) -> IpClass {
    run(&V4, addr.to_bits())
}

fn of_v6(addr: Ipv6Addr) -> IpClass {
    match addr.segments() {
        // Nothing but another spelling: the kernel, or the NAT64, makes an IPv4 packet of it.
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            embedded_v4(addr).map_or(IpClass::Reserved, of_v4)
        }
        segments => {
            let own = run(&V6, addr.to_bits());
            // A local NAT64 translates 0.0.0.0/8 nowhere, and a short prefix leaves zeros in the longer readings.
            let local_nat64 = segments[..3] == [0x64, 0xff9b, 1];
            let class = embedded_v4s(addr)
                .map(of_v4)
                .filter(|class| !(local_nat64 && *class == IpClass::Unspecified))
                .fold(own, IpClass::worse);
            if class == IpClass::Metadata || hides_metadata(addr) { IpClass::Metadata } else { class }
        }
    }
}

/// Whether a metadata address stands at any place where RFC 6052 puts an IPv4 address, whatever the prefix.
fn hides_metadata(addr: Ipv6Addr) -> bool {
    let at = |len| METADATA.contains(&rfc6052(addr.to_bits(), len).to_bits());
    [32, 40, 48, 56, 64, 96].into_iter().any(at)
}

/// The IPv4 addresses of class [`IpClass::Metadata`], taken from the table; each is a run of its own.
const METADATA: [u32; 8] = {
    let (mut found, mut next, mut i) = ([0; 8], 0, 0);
    while i < V4.len() {
        if matches!(V4[i].1, IpClass::Metadata) {
            found[next] = V4[i].0;
            next += 1;
        }
        i += 1;
    }
    assert!(next == found.len());
    found
};

/// The class of the run that holds an address. The first run begins at zero, so there is always one.
fn run<T: PartialOrd + Copy>(table: &[(T, IpClass)], addr: T) -> IpClass {
    let after = table.partition_point(|(first, _)| *first <= addr);
    table.get(after.wrapping_sub(1)).map_or(IpClass::Reserved, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class(text: &str) -> IpClass {
        IpClass::of(text.parse().unwrap())
    }

    /// The table says what the registries say, read here a second time and by other means.
    #[test]
    fn no_registered_block_is_public() {
        let files = [
            include_str!("../data/iana-ipv4-special-registry.csv"),
            include_str!("../data/iana-ipv6-special-registry.csv"),
        ];
        let mut blocks = 0;
        for line in files.iter().flat_map(|file| file.lines()) {
            for word in line.split([',', ' ', '"']) {
                let Some((addr, len)) = word.split_once('/') else { continue };
                let (Ok(addr), Ok(len)) = (addr.parse::<IpAddr>(), len.parse::<u32>()) else { continue };
                blocks += 1;
                if word == "::ffff:0:0/96" || word == "64:ff9b::/96" {
                    continue; // spellings of IPv4, judged as such
                }
                let last = match addr {
                    IpAddr::V4(v4) => {
                        Ipv4Addr::from_bits(v4.to_bits() | (u64::from(u32::MAX) >> len) as u32).into()
                    }
                    IpAddr::V6(v6) => IpAddr::from(Ipv6Addr::from_bits(
                        v6.to_bits() | u128::MAX.checked_shr(len).unwrap_or(0),
                    )),
                };
                assert!(!IpClass::of(addr).is_public(), "{word}");
                assert!(!IpClass::of(last).is_public(), "{word} up to {last}");
            }
        }
        assert_eq!(blocks, 24 + 21, "every line of both registries was read");
    }

    #[test]
    fn tables_are_sorted_and_begin_at_zero() {
        assert_eq!((V4[0].0, V6[0].0), (0, 0));
        assert!(V4.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 != w[1].1));
        assert!(V6.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 != w[1].1));
    }

    #[test]
    fn metadata_runs_are_single_addresses() {
        let after = |i: usize| V4.get(i + 1).map(|run| run.0);
        assert!((0..V4.len()).all(|i| V4[i].1 != IpClass::Metadata || after(i) == Some(V4[i].0 + 1)));
    }

    #[test]
    fn runs_end_where_their_blocks_end() {
        use IpClass::*;
        for (text, want) in [
            ("0.255.255.255", Unspecified),
            ("1.0.0.0", Public),
            ("9.255.255.255", Public),
            ("11.0.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Shared),
            ("100.127.255.255", Shared),
            ("100.128.0.0", Public),
            ("126.255.255.255", Public),
            ("128.0.0.0", Public),
            ("168.63.129.15", Public),
            ("168.63.129.16", Metadata),
            ("169.254.169.253", LinkLocal),
            ("172.32.0.0", Public),
            ("223.255.255.255", Public),
            ("224.0.0.0", Multicast),
            ("240.0.0.0", Reserved),
            ("255.255.255.255", Multicast),
            ("::", Unspecified),
            ("::1", Loopback),
            ("1fff::", Reserved),
            ("2001:1ff:ffff::", Reserved),
            ("2001:200::", Public),
            ("2606:4700::1111", Public),
            ("3fff:1000::", Public),
            ("4000::", Reserved),
            ("fdff::1", Private),
            ("fe80::1", LinkLocal),
            ("fec0::1", Private),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(class(text), want, "{text}");
        }
    }

    #[test]
    fn a_disguise_shows_what_it_carries() {
        for (text, v4) in [
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::10.0.0.1", "10.0.0.1"),
            ("::ffff:0:10.0.0.1", "10.0.0.1"),
            ("64:ff9b::10.0.0.1", "10.0.0.1"),
            ("64:ff9b:1::10.0.0.1", "10.0.0.1"),
            ("64:ff9b:1:0a00:0:100::", "10.0.0.1"),
            ("64:ff9b:1:120a:00:01::", "10.0.0.1"),
            ("64:ff9b:1:1234:0a:0:100::", "10.0.0.1"),
            ("2002:a00:1::", "10.0.0.1"),
            ("2001:0:808:808::f5ff:fffe", "10.0.0.1"),
            ("2606:4700::5efe:10.0.0.1", "10.0.0.1"),
            ("2606:4700::200:5efe:10.0.0.1", "10.0.0.1"),
        ] {
            let found: Vec<_> = embedded_v4s(text.parse().unwrap()).collect();
            assert!(found.contains(&v4.parse().unwrap()), "{text}: {found:?}");
            assert_eq!(class(text), IpClass::Private, "{text}");
        }
        assert_eq!(embedded_v4("2606:4700::1111".parse().unwrap()), None);
        assert_eq!(embedded_v4("::1".parse().unwrap()), None);
        assert_eq!(class("::ffff:0.0.0.0"), IpClass::Unspecified);
        assert_eq!(class("64:ff9b:1::8.8.8.8"), IpClass::Reserved);
        assert_eq!(class("2001:db8:64::a9fe:a9fe"), IpClass::Metadata);
    }

    #[test]
    fn public_addresses_stay_public() {
        for text in [
            "8.8.8.8",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2606:4700::5efe:8.8.8.8",
            "2a00:1450:4001::200e",
        ] {
            assert_eq!(class(text), IpClass::Public, "{text}");
        }
    }

    /// Every form in which an IPv6 address can carry `v4`, with `fill` in the bits that do not matter.
    fn disguises(v4: Ipv4Addr, fill: u128) -> Vec<Ipv6Addr> {
        let n = u128::from(v4.to_bits());
        let nat64 = |len: u32, prefix: u128, fill: u128| {
            // Bits 64 to 71 stay zero; what comes after the address is the suffix.
            let (low, shift) = (fill & ((1 << 56) - 1), 128 - len - 32);
            match len {
                96 => prefix | n,
                64 => prefix | n << 24 | low & 0xff_ffff,
                _ => {
                    let straight = n << shift;
                    let (high, rest) = (straight >> 64 << 64, straight & u128::from(u64::MAX));
                    prefix | high | rest >> 8 | low & ((1 << (shift - 8)) - 1)
                }
            }
        };
        let (wkp, local) = (0x64_ff9b << 96, 0x64_ff9b_0001 << 80);
        let mut all = vec![
            n,
            0xffff << 32 | n,
            0xffff << 48 | n,
            wkp | n,
            0x2002 << 112 | n << 80 | fill >> 48,
            0x2001 << 112 | fill >> 32 & !u128::from(u32::MAX) | n ^ u128::from(u32::MAX),
            0x2001 << 112 | n << 64 | fill & u128::from(u64::MAX),
            0x2606 << 112 | (fill >> 16 & !u128::from(u64::MAX)) | 0x5efe << 32 | n,
            0x2606 << 112 | (fill >> 16 & !u128::from(u64::MAX)) | 0x200_5efe << 32 | n,
        ];
        for len in [48, 56, 64, 96] {
            all.push(nat64(len, local, fill));
        }
        all.into_iter().map(Ipv6Addr::from_bits).collect()
    }

    fn special() -> impl Strategy<Value = Ipv4Addr> {
        let runs: Vec<usize> = (0..V4.len()).filter(|i| V4[*i].1 != IpClass::Public).collect();
        (prop::sample::select(runs), any::<u32>()).prop_map(|(i, n)| {
            let (first, end) = (V4[i].0, V4.get(i + 1).map_or(1 << 32, |next| u64::from(next.0)));
            Ipv4Addr::from_bits(first + (u64::from(n) % (end - u64::from(first))) as u32)
        })
    }

    proptest! {
        #[test]
        fn no_disguise_of_a_special_address_is_public(v4 in special(), fill: u128) {
            for v6 in disguises(v4, fill) {
                prop_assert!(!IpClass::of(v6.into()).is_public(), "{v4} as {v6}");
            }
        }

        #[test]
        fn metadata_is_metadata_in_every_disguise(
            v4 in prop::sample::select(V4.iter().filter(|r| r.1 == IpClass::Metadata).map(|r| r.0).collect::<Vec<_>>()),
            fill: u128,
        ) {
            for v6 in disguises(Ipv4Addr::from_bits(v4), fill) {
                prop_assert!(is_metadata(v6.into()), "{v6}");
            }
        }

        #[test]
        fn mapped_is_the_same_as_plain(n: u32) {
            let v4 = Ipv4Addr::from_bits(n);
            prop_assert_eq!(IpClass::of(v4.to_ipv6_mapped().into()), IpClass::of(v4.into()));
        }

        #[test]
        fn only_global_unicast_is_public(n: u128) {
            let v6 = Ipv6Addr::from_bits(n);
            if IpClass::of(v6.into()).is_public() {
                let spelling = embedded_v4(v6).is_some_and(|v4| IpClass::of(v4.into()).is_public());
                prop_assert!(n >> 125 == 1 || spelling, "{v6}");
            }
        }
    }
}
