//! Answers that come from the very address that was asked, for resolvers that look where an answer comes from and do
//! not connect their socket (musl's, many static ones).
//!
//! The kernel lets nobody send from an address that is not the machine's own, or from a port below 1024, but those who
//! may write whole packets (`CAP_NET_RAW`, raw(7)). The packets go to loopback and nowhere else.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

const UDP: u8 = 17;
const HOPS: u8 = 64;

/// Sockets that take whole packets, for the families where there may be any.
#[derive(Debug)]
pub(crate) struct AsAsked {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl AsAsked {
    /// Opens them, where this process may.
    pub(crate) fn open() -> Self {
        let raw =
            |family| socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW)).ok();
        Self { v4: raw(AddressFamily::INET), v6: raw(AddressFamily::INET6) }
    }

    /// Whether answers can come from this address.
    pub(crate) fn can(&self, asked: SocketAddr) -> bool {
        self.of(asked.ip()).is_some()
    }

    /// Sends a datagram from `asked` to a socket on loopback.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` for a receiver that is not on this machine's loopback, or of the other family.
    pub(crate) fn send(&self, asked: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let socket = self.of(asked.ip()).filter(|_| to.ip().is_loopback()).ok_or_else(invalid)?;
        let packet = packet(asked, to, payload).ok_or_else(invalid)?;
        sendto(socket, &packet, SendFlags::empty(), &SocketAddr::new(to.ip(), 0))?;
        Ok(())
    }

    fn of(&self, asked: IpAddr) -> Option<&OwnedFd> {
        if asked.to_canonical().is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

/// A whole packet: the header of RFC 791 (the kernel fills in what is zero) or of RFC 8200, and that of RFC 768.
fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len() + 8).ok()?;
    let udp = [from.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes()].concat();
    let mut packet = Vec::with_capacity(payload.len() + 48);
    let checksum = match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, UDP, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            // None, which IPv4 allows: nothing is lost on loopback.
            0
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([UDP, HOPS]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            checksum(from, to, length, &udp, payload)
        }
        _ => return None,
    };
    packet.extend(udp);
    packet.extend(checksum.to_be_bytes());
    packet.extend(payload);
    Some(packet)
}

/// RFC 8200 section 8.1.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, length: u16, udp: &[u8], payload: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
            .sum()
    };
    let mut sum = words(&from.octets()) + words(&to.octets()) + u32::from(length) + u32::from(UDP);
    sum += words(udp) + words(payload);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    match !(sum as u16) {
        0 => 0xffff,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn packets_are_what_the_standards_say() {
        let v4 = packet(at("10.1.2.3:53"), at("127.0.0.1:4660"), b"hi").unwrap();
        assert_eq!(v4[..12], [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
        assert_eq!(v4[12..], [10, 1, 2, 3, 127, 0, 0, 1, 0, 53, 0x12, 0x34, 0, 10, 0, 0, b'h', b'i']);
        for payload in [&b""[..], b"h", b"hello", &[0xff; 1232]] {
            let v6 = packet(at("[2001:db8::1]:53"), at("[::1]:4660"), payload).unwrap();
            let length = u16::try_from(payload.len() + 8).unwrap();
            assert_eq!(v6[4..8], [length.to_be_bytes()[0], length.to_be_bytes()[1], 17, 64]);
            // With its checksum in it, everything adds up to nothing.
            let (head, udp) = v6.split_at(40);
            let (from, to) = head[8..].split_at(16);
            let addr = |bytes: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap());
            assert_eq!(checksum(addr(from), addr(to), length, &udp[..8], &udp[8..]), 0xffff);
        }
        assert_eq!(packet(at("10.1.2.3:53"), at("[::1]:1"), b""), None);
        assert_eq!(packet(at("10.1.2.3:53"), at("127.0.0.1:1"), &[0; 65528]), None);
    }

    #[test]
    fn nothing_is_sent_to_other_machines() {
        let as_asked = AsAsked::open();
        for to in ["192.0.2.1:9", "0.0.0.0:9", "[2001:db8::2]:9"] {
            assert!(as_asked.send(at("10.1.2.3:53"), at(to), b"x").is_err(), "{to}");
        }
    }
}
