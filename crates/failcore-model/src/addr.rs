//! Classes of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What kind of address it is, by the IANA special-purpose registries; only [`IpClass::Public`] is what a host
/// name permit covers.
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
    pub fn of(addr: IpAddr) -> Self {
        crate::addr::class(addr)
    }

    /// Whether a host-name permit covers it.
    pub fn is_public(self) -> bool {
        self == Self::Public
    }
}

/// Whether it is an instance metadata or credential service (NETWORK: fixed list).
pub fn is_metadata(addr: IpAddr) -> bool {
    IpClass::of(addr) == IpClass::Metadata
}

/// The IPv4 address that an IPv6 address stands for, if it is a disguise (mapped, compatible, translated,
/// NAT64, 6to4, Teredo, ISATAP).
pub fn embedded_v4(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    addr.to_ipv4()
}

fn class(addr: IpAddr) -> IpClass {
    match addr {
        IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unspecified() => match embedded_v4(v6) {
            Some(v4) => class(v4.into()),
            None if v6.is_unicast_link_local() => IpClass::LinkLocal,
            None if v6.is_unique_local() => IpClass::Private,
            None if v6.is_multicast() => IpClass::Multicast,
            None => IpClass::Public,
        },
        _ if addr.is_loopback() => IpClass::Loopback,
        _ if addr.is_unspecified() => IpClass::Unspecified,
        IpAddr::V4(v4) if v4.octets() == [169, 254, 169, 254] => IpClass::Metadata,
        IpAddr::V4(v4) if v4.is_private() => IpClass::Private,
        IpAddr::V4(v4) if v4.is_link_local() => IpClass::LinkLocal,
        _ if addr.is_multicast() => IpClass::Multicast,
        _ => IpClass::Public,
    }
}
