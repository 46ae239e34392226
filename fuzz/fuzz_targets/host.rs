//! A host is read into one form, whatever the bytes: reading that form again changes nothing.
#![no_main]

use failcore_model::Host;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(host) = Host::parse(text) else { return };
    let shown = host.to_string();
    assert_eq!(Host::parse(&shown), Ok(host.clone()), "{text:?}");
    assert_eq!(Host::parse(&shown.to_uppercase()), Ok(host.clone()), "{text:?}");
    assert!(!text.contains('\0'));
    if let Host::Name(name) = host {
        assert!(name.as_str().len() <= 253 && name.as_str().is_ascii());
        assert!(name.labels_from_root().all(|label| (1..=63).contains(&label.len())));
        assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
        let _ = name.is_metadata();
    }
    // What the standard library takes for an address is that address here, too.
    if let Ok(addr) = text.parse::<std::net::IpAddr>() {
        assert_eq!(Host::parse(text), Ok(Host::Addr(addr)));
    }
});
