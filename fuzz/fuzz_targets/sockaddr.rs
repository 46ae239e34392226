//! Any bytes are some socket address, and what they say is what the decoder says.
#![no_main]

use std::net::SocketAddr;

use failcore_model::{Text, Transport};
use failcore_net::SockAddr;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let decoded = SockAddr::decode(bytes);
    match &decoded {
        SockAddr::Inet(SocketAddr::V4(addr)) => {
            assert_eq!(bytes[2..4], addr.port().to_be_bytes());
            assert_eq!(bytes[4..8], addr.ip().octets());
        }
        SockAddr::Inet(SocketAddr::V6(addr)) => {
            assert_eq!(bytes[2..4], addr.port().to_be_bytes());
            assert_eq!(bytes[8..24], addr.ip().octets());
        }
        SockAddr::UnixPath(path) => assert!(!path.is_empty() && bytes[2..].starts_with(path.as_bytes())),
        SockAddr::UnixAbstract(name) => assert_eq!(bytes[3..], *name.as_bytes()),
        SockAddr::Other { raw, .. } => assert_eq!(bytes[2..], *raw.as_bytes()),
        _ => {}
    }
    let _ = decoded.endpoint(Transport::Tcp, |_: &Text| Err(()));
});
