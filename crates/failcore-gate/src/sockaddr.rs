//! Socket addresses as the kernel reads them: the bytes that are handed to `connect`, `bind` and `sendto`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use failcore_model::{Endpoint, FileRef, Text, Transport, UnixAddr};

/// One socket address, decoded from its bytes.
///
/// [`SockAddr::decode`] answers for any bytes; what the kernel would refuse with EINVAL is [`SockAddr::Invalid`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SockAddr {
    /// AF_INET or AF_INET6; the latter with its scope id, its flow label left out.
    Inet(SocketAddr),
    /// AF_UNIX with a path, as written: up to the first NUL, not resolved.
    UnixPath(Text),
    /// AF_UNIX in the abstract namespace, without the leading NUL; other NULs belong to the name.
    UnixAbstract(Text),
    /// AF_UNIX without a name.
    UnixUnnamed,
    /// AF_UNSPEC: to `connect` it means "no peer any more"; for `bind` and `sendto` on an IPv4 socket Linux reads
    /// the rest as AF_INET (net/ipv4/af_inet.c, net/ipv4/udp.c), which is given here where it is long enough.
    Unspecified(Option<SocketAddrV4>),
    /// Any other family: netlink, packet, vsock …
    Other {
        /// `AF_*`.
        family: u16,
        /// The bytes after the family.
        raw: Text,
    },
    /// Shorter or longer than any address of its family; such a call fails with EINVAL.
    Invalid,
}

impl SockAddr {
    /// Reads the bytes of a `struct sockaddr` with its length (man pages ip(7), ipv6(7), unix(7)).
    ///
    /// # Security
    /// Total: no length and no content makes it panic or read past the end. The bytes must be a copy: memory that
    /// another thread can still change says nothing about what the kernel will read.
    ///
    /// ```
    /// use failcore_gate::SockAddr;
    /// let bytes = [2, 0, 1, 0xbb, 93, 184, 215, 14, 0, 0, 0, 0, 0, 0, 0, 0];
    /// # #[cfg(target_endian = "little")]
    /// assert_eq!(SockAddr::decode(&bytes), SockAddr::Inet("93.184.215.14:443".parse().unwrap()));
    /// ```
    pub fn decode(bytes: &[u8]) -> Self {
        let Some((family, rest)) = bytes.split_first_chunk() else { return Self::Invalid };
        if bytes.len() > STORAGE {
            return Self::Invalid;
        }
        match u16::from_ne_bytes(*family) {
            AF_UNSPEC => Self::Unspecified(inet(rest)),
            AF_UNIX => unix(rest),
            AF_INET => inet(rest).map_or(Self::Invalid, |addr| Self::Inet(addr.into())),
            AF_INET6 => inet6(rest).map_or(Self::Invalid, |addr| Self::Inet(addr.into())),
            family => Self::Other { family, raw: rest.into() },
        }
    }

    /// The endpoint to judge, for a socket of this transport; `resolve` turns the path of a unix socket into the file.
    ///
    /// `None` where there is none: an invalid address, and AF_UNSPEC that names no address.
    ///
    /// # Errors
    /// What `resolve` returns.
    pub fn endpoint<E>(
        self,
        transport: Transport,
        resolve: impl FnOnce(&Text) -> Result<FileRef, E>,
    ) -> Result<Option<Endpoint>, E> {
        Ok(Some(match self {
            Self::Inet(addr) => Endpoint::Inet { transport, addr },
            Self::Unspecified(Some(addr)) => Endpoint::Inet { transport, addr: addr.into() },
            Self::UnixPath(path) => Endpoint::Unix(UnixAddr::Path(resolve(&path)?)),
            Self::UnixAbstract(name) => Endpoint::Unix(UnixAddr::Abstract(name)),
            Self::UnixUnnamed => Endpoint::Unix(UnixAddr::Unnamed),
            Self::Other { family, raw } => Endpoint::Other { family: family.into(), raw },
            Self::Unspecified(None) | Self::Invalid => return Ok(None),
        }))
    }
}

// linux/socket.h; the same on every Linux architecture.
const AF_UNSPEC: u16 = 0;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Size of `struct sockaddr_storage`, more than which the kernel does not take.
const STORAGE: usize = 128;
/// Size of `sun_path`.
const SUN_PATH: usize = 108;

/// `struct sockaddr_in` after its family: port, address, eight bytes that do not count but must be there.
fn inet(rest: &[u8]) -> Option<SocketAddrV4> {
    let (port, after) = rest.split_first_chunk()?;
    let (addr, zero) = after.split_first_chunk::<4>()?;
    (zero.len() >= 8).then(|| SocketAddrV4::new(Ipv4Addr::from(*addr), u16::from_be_bytes(*port)))
}

/// `struct sockaddr_in6` after its family; the scope id may be missing, as in RFC 2133.
fn inet6(rest: &[u8]) -> Option<SocketAddrV6> {
    let (port, after) = rest.split_first_chunk()?;
    let (_flow, after) = after.split_first_chunk::<4>()?;
    let (addr, after) = after.split_first_chunk::<16>()?;
    let scope = after.first_chunk().map_or(0, |scope| u32::from_ne_bytes(*scope));
    Some(SocketAddrV6::new(Ipv6Addr::from(*addr), u16::from_be_bytes(*port), 0, scope))
}

fn unix(path: &[u8]) -> SockAddr {
    match path {
        [] => SockAddr::UnixUnnamed,
        path if path.len() > SUN_PATH => SockAddr::Invalid,
        [0, name @ ..] => SockAddr::UnixAbstract(name.into()),
        path => SockAddr::UnixPath(path.split(|b| *b == 0).next().unwrap_or(path).into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(family: u16, rest: &[u8]) -> Vec<u8> {
        [&family.to_ne_bytes(), rest].concat()
    }

    fn encode(addr: SocketAddr) -> Vec<u8> {
        let port = addr.port().to_be_bytes();
        match addr {
            SocketAddr::V4(v4) => bytes(AF_INET, &[&port[..], &v4.ip().octets(), &[0; 8]].concat()),
            SocketAddr::V6(v6) => {
                let scope = v6.scope_id().to_ne_bytes();
                bytes(AF_INET6, &[&port[..], &[0; 4], &v6.ip().octets(), &scope].concat())
            }
        }
    }

    #[test]
    fn internet_addresses() {
        for text in ["127.0.0.1:80", "0.0.0.0:0", "[::1]:443", "[::ffff:127.0.0.1]:65535"] {
            let addr = text.parse().unwrap();
            assert_eq!(SockAddr::decode(&encode(addr)), SockAddr::Inet(addr), "{text}");
        }
        let scoped = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 0, 3));
        assert_eq!(SockAddr::decode(&encode(scoped)), SockAddr::Inet(scoped));
        // RFC 2133: without a scope id, 24 bytes.
        let short = &encode(scoped)[..24];
        assert_eq!(SockAddr::decode(short), SockAddr::Inet("[fe80::1]:1".parse().unwrap()));
    }

    #[test]
    fn one_byte_short_is_invalid() {
        assert_eq!(SockAddr::decode(&[]), SockAddr::Invalid);
        assert_eq!(SockAddr::decode(&[2]), SockAddr::Invalid);
        let v4 = encode("1.2.3.4:5".parse().unwrap());
        let v6 = encode("[::2]:5".parse().unwrap());
        for len in 2..16 {
            assert_eq!(SockAddr::decode(&v4[..len]), SockAddr::Invalid, "{len}");
        }
        for len in 2..24 {
            assert_eq!(SockAddr::decode(&v6[..len]), SockAddr::Invalid, "{len}");
        }
        assert_eq!(SockAddr::decode(&bytes(AF_INET, &[0; 127])), SockAddr::Invalid);
    }

    #[test]
    fn unix_addresses() {
        let unix = |rest: &[u8]| SockAddr::decode(&bytes(AF_UNIX, rest));
        assert_eq!(unix(b""), SockAddr::UnixUnnamed);
        assert_eq!(unix(b"/run/s"), SockAddr::UnixPath(Text::from("/run/s")));
        assert_eq!(unix(b"/run/s\0/etc/other"), SockAddr::UnixPath(Text::from("/run/s")));
        assert_eq!(unix(b"\0"), SockAddr::UnixAbstract(Text::from("")));
        assert_eq!(unix(b"\0a\0b"), SockAddr::UnixAbstract(Text::from("a\0b")));
        assert_eq!(unix(&[b'a'; 108]), SockAddr::UnixPath(Text::from(&[b'a'; 108])));
        assert_eq!(unix(&[b'a'; 109]), SockAddr::Invalid);
    }

    #[test]
    fn unspecified_shows_what_ipv4_would_read() {
        let mut raw = encode("127.0.0.1:80".parse().unwrap());
        raw[..2].fill(0);
        let addr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(SockAddr::decode(&raw), SockAddr::Unspecified(Some(addr)));
        assert_eq!(SockAddr::decode(&[0, 0]), SockAddr::Unspecified(None));
    }

    #[test]
    fn other_families_keep_their_bytes() {
        let vsock = bytes(40, &[0, 0, 1, 2]);
        assert_eq!(SockAddr::decode(&vsock), SockAddr::Other { family: 40, raw: Text::from(&[0, 0, 1, 2]) });
    }

    #[test]
    fn becomes_an_endpoint() {
        let none = |_: &Text| Err(());
        let addr = "127.0.0.1:80".parse().unwrap();
        let endpoint = SockAddr::Inet(addr).endpoint(Transport::Udp, none);
        assert_eq!(endpoint, Ok(Some(Endpoint::Inet { transport: Transport::Udp, addr })));
        assert_eq!(SockAddr::Invalid.endpoint(Transport::Tcp, none), Ok(None));
        assert_eq!(SockAddr::UnixPath(Text::from("/x")).endpoint(Transport::Other, none), Err(()));
        let unix = SockAddr::UnixAbstract(Text::from("x")).endpoint(Transport::Other, none);
        assert_eq!(unix, Ok(Some(Endpoint::Unix(UnixAddr::Abstract(Text::from("x"))))));
    }

    proptest! {
        #[test]
        fn decoding_is_total(family in prop_oneof![0..12u16, any::<u16>()], rest in prop::collection::vec(any::<u8>(), 0..200), cut in 0..4usize) {
            let all = bytes(family, &rest);
            let decoded = SockAddr::decode(&all[cut.min(all.len())..]);
            if cut == 0 {
                match decoded {
                    SockAddr::Inet(addr) => prop_assert_eq!(family == AF_INET, addr.is_ipv4()),
                    SockAddr::Unspecified(_) => prop_assert_eq!(family, AF_UNSPEC),
                    SockAddr::Other { family: f, raw } => prop_assert_eq!(bytes(f, raw.as_bytes()), all),
                    SockAddr::Invalid => prop_assert!(all.len() > SUN_PATH || [AF_INET, AF_INET6].contains(&family)),
                    SockAddr::UnixPath(path) => prop_assert!(!path.is_empty() && !path.as_bytes().contains(&0)),
                    _ => prop_assert_eq!(family, AF_UNIX),
                }
            }
        }

        #[test]
        fn what_is_encoded_is_decoded(ip: std::net::IpAddr, port: u16, scope: u32, more in 0..100usize) {
            let mut addr = SocketAddr::new(ip, port);
            if let SocketAddr::V6(v6) = &mut addr {
                v6.set_scope_id(scope);
            }
            let mut raw = encode(addr);
            raw.resize(raw.len() + more, 7);
            prop_assert_eq!(SockAddr::decode(&raw), SockAddr::Inet(addr));
        }
    }
}
