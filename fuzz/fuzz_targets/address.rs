//! No address is without a class, and none is public that carries a special one.
#![no_main]

use std::net::Ipv6Addr;

use failcore_model::{IpClass, embedded_v4s, is_metadata};

libfuzzer_sys::fuzz_target!(|octets: [u8; 16]| {
    let v6 = Ipv6Addr::from(octets);
    let class = IpClass::of(v6.into());
    for v4 in embedded_v4s(v6) {
        let inner = IpClass::of(v4.into());
        // Through a local NAT64 nothing reaches 0.0.0.0/8, but its addresses are not public anyway.
        assert!(inner.is_public() || !class.is_public(), "{v6} carries {v4}");
        assert!(inner != IpClass::Metadata || is_metadata(v6.into()), "{v6} carries {v4}");
    }
    if let Some(v4) = v6.to_ipv4_mapped() {
        assert_eq!(class, IpClass::of(v4.into()));
    }
});
