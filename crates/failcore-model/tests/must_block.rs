//! Literals that no name permit and no careless parser may let through, from public collections.
//!
//! Data only, each list with its source. Each literal must be refused as a host or be an address that is not
//! public; what must stay reachable is listed as well, so that refusing everything would not pass.

use failcore_model::{Host, HostName, IpClass, is_metadata};

#[track_caller]
fn check_blocked(source: &str, literals: &[&str]) {
    let open: Vec<_> = literals
        .iter()
        .filter(|text| matches!(Host::parse(text), Ok(Host::Addr(addr)) if IpClass::of(addr).is_public()))
        .collect();
    assert!(open.is_empty(), "{source}: public are {open:?}");
    let names: Vec<_> = literals.iter().filter(|text| HostName::parse(text).is_ok()).collect();
    assert!(names.is_empty(), "{source}: read as names are {names:?}");
}

#[track_caller]
fn check_public(literals: &[&str]) {
    for text in literals {
        let Ok(Host::Addr(addr)) = Host::parse(text) else { panic!("{text} is no address") };
        assert_eq!(IpClass::of(addr), IpClass::Public, "{text}");
    }
}

#[track_caller]
fn check_metadata(literals: &[&str], want: bool) {
    for text in literals {
        let Ok(Host::Addr(addr)) = Host::parse(text) else { panic!("{text} is no address") };
        assert_eq!(is_metadata(addr), want, "{text} is {:?}", IpClass::of(addr));
    }
}

/// pydantic/pydantic-ai tests/test_ssrf.py (MIT), `TestIsPrivateIp` and `TestIsCloudMetadataIp`.
#[test]
fn pydantic_ai() {
    check_blocked(
        "private",
        &[
            "127.0.0.1",
            "127.0.0.2",
            "127.255.255.255",
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "192.168.255.255",
            "169.254.0.1",
            "169.254.255.255",
            "0.0.0.0",
            "0.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "192.0.0.1",
            "192.0.0.170",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "fe80::ffff:ffff:ffff:ffff",
            "fc00::1",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2002::1",
            "2002:c0a8:0101::1",
            "2002:0a00:0001::1",
            "::",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "ff02::1",
            "64:ff9b::192.168.1.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::192.168.1.1",
            "64:ff9b:1:c0a8:1:100::",
            "::192.168.1.1",
            "::10.0.0.1",
            "::a9fe:a9fe",
            "2606:4700::5efe:192.168.1.1",
            "2606:4700::200:5efe:169.254.169.254",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:192.168.1.1",
            "::ffff:172.16.0.1",
        ],
    );
    check_public(&[
        "8.8.8.8",
        "1.1.1.1",
        "93.184.215.14",
        "140.82.114.4",
        "2001:4860:4860::8888",
        "2606:4700:4700::1111",
        "::ffff:8.8.8.8",
        "::ffff:1.1.1.1",
        "2606:4700::5efe:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ]);
    check_metadata(
        &[
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "169.254.42.42",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:42::42",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "::ffff:100.100.100.200",
            "64:ff9b::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::100.100.100.200",
            "2002:a9fe:a9fe::",
            "2002:6464:64c8::",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
            "::169.254.169.254",
            "::a9fe:a9fe",
            "2606:4700::5efe:169.254.169.254",
            "2606:4700::200:5efe:169.254.169.254",
            "2001:db8:64::a9fe:a9fe",
            "64:ff9b::169.254.170.2",
            "2001::5601:5601",
        ],
        true,
    );
    check_metadata(
        &[
            "8.8.8.8",
            "127.0.0.1",
            "169.254.169.253",
            "169.254.169.255",
            "169.254.170.1",
            "169.254.170.3",
            "168.63.129.15",
            "168.63.129.17",
            "100.100.100.199",
            "100.100.100.201",
            "::8.8.8.8",
            "2606:4700::5efe:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2606:4700:4700::1111",
        ],
        false,
    );
}

/// swisskyrepo/PayloadsAllTheThings "Server Side Request Forgery" (MIT): hosts of its URLs.
#[test]
fn payloads_all_the_things() {
    check_blocked(
        "hosts",
        &[
            "127.0.0.1",
            "0.0.0.0",
            "[::]",
            "[0000::1]",
            "0000::1",
            "127.127.127.127",
            "127.0.1.3",
            "127.0.0.0",
            "2130706433",
            "3232235521",
            "3232235777",
            "2852039166",
            "0177.0.0.1",
            "o177.0.0.1",
            "0o177.0.0.1",
            "q177.0.0.1",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "[::ffff:127.0.0.1]",
            "0",
            "127.1",
            "127.0.1",
            "localhost:+11211aaa",
            "localhost:00011211aaaa",
            "evil$google.com",
            "1.1.1.1 &@2.2.2.2# @3.3.3.3",
            "127.1.1.1:80\\@127.2.2.2",
            "127.1.1.1:80#\\@127.2.2.2",
            "0://evil.com:80;http://google.com",
            "①②⑦.⓪.⓪.①",
            "①⑥⑨。②⑤④。⑯⑨｡②⑤④",
            "⓪ⓧⓐ⑨｡⓪ⓧⓕⓔ｡⓪ⓧⓐ⑨｡⓪ⓧⓕⓔ",
            "⓪ⓧⓐ⑨ⓕⓔⓐ⑨ⓕⓔ",
            "②⑧⑤②⓪③⑨①⑥⑥",
            "425.510.425.510",
            "2852039166",
            "7147006462",
            "0xA9.0xFE.0xA9.0xFE",
            "0xA9FEA9FE",
            "0x41414141A9FEA9FE",
            "0251.0376.0251.0376",
            "0251.00376.000251.0000376",
            "0251.254.169.254",
            "[::ffff:a9fe:a9fe]",
            "[0:0:0:0:0:ffff:a9fe:a9fe]",
            "[0:0:0:0:0:ffff:169.254.169.254]",
            "[fd00:ec2::254]",
            "169.254.170.2",
            "192.0.0.192",
            "100.100.100.200",
        ],
    );
    for name in ["instance-data", "metadata.google.internal", "metadata", "rancher-metadata"] {
        assert!(HostName::parse(name).unwrap().is_metadata(), "{name}");
    }
    assert_eq!(HostName::parse("ⓔⓧⓐⓜⓟⓛⓔ.ⓒⓞⓜ").unwrap().as_str(), "example.com");
}

/// stripe/smokescreen pkg/smokescreen/*_test.go (MIT): addresses it denies by default, and spellings of hosts.
#[test]
fn smokescreen() {
    check_blocked(
        "addresses",
        &[
            "10.0.0.1",
            "10.1.0.1",
            "127.0.0.1",
            "127.0.0.5",
            "169.254.169.254",
            "100.64.0.1",
            "fc00::1",
            "fd00::5",
            "64:ff9b::a00:1",
            "64:ff9b::1",
            "::ffff:10.0.0.5",
            "[127.0.0.1]",
            "[[example.net]]",
            ":",
            "",
            "[example.net]",
            "2001:DB8::1337",
            "[2001:DB8::1337]:007",
        ],
    );
    assert_eq!(HostName::parse("🔐.example.com").unwrap().as_str(), "xn--jv8h.example.com");
    assert_eq!(HostName::parse("FOO-BAR.example.com.").unwrap().as_str(), "foo-bar.example.com");
}

/// servo/rust-url url/tests/urltestdata.json (from web-platform-tests, BSD-3-Clause): hosts that must fail or be
/// addresses there, and their addresses.
#[test]
fn url_test_data() {
    for (text, want) in [
        ("0Xc0.0250.01", "192.168.0.1"),
        ("０Ｘｃ０．０２５０．０１", "192.168.0.1"),
        ("192.0x00A80001", "192.168.0.1"),
        ("256", "0.0.1.0"),
        ("0", "0.0.0.0"),
        ("[::127.0.0.1]", "::7f00:1"),
        ("[0:0:0:0:0:0:13.1.68.3]", "::d01:4403"),
        ("[2001::1]", "2001::1"),
        ("[1:0::]", "1::"),
        ("[0:1:2:3:4:5:6:7]", "0:1:2:3:4:5:6:7"),
    ] {
        assert_eq!(Host::parse(text), Ok(Host::Addr(want.parse().unwrap())), "{text}");
    }
    check_blocked(
        "failures",
        &[
            "example example.com",
            "Goo%20 goo%7C|.com",
            "[]",
            "[:]",
            "GOO\u{a0}\u{3000}goo.com",
            "\u{fdd0}zyx.com",
            "%ef%b7%90zyx.com",
            "\u{fffd}",
            "a.b.c.xn--pokxncvks",
            "10.0.0.xn--pokxncvks",
            "a.b.c.XN--pokxncvks",
            "10.0.0.xN--pokxncvks",
            "％４１.com",
            "%ef%bc%85%ef%bc%94%ef%bc%91.com",
            "％００.com",
            "%zz%66%a.com",
            "%25",
            "hello%00",
            "192.168.0.257",
            "%3g%78%63%30%2e%30%32%35%30%2E.01",
            "192.168.0.1 hello",
            "x x",
            "[www.google.com]",
            "[google.com]",
            "[::1.2.3.4x]",
            "[::1.2.3.]",
            "[::1.2.]",
            "[::.1.2]",
            "[::1.]",
            "[::.1]",
            "[::%31]",
            "%5B::1]",
            "1.2.3.4.5",
            "1.2.3.4.5.",
            "256.256.256.256",
            "4294967296",
            "0xffffffff1",
            "256.256.256.256.256",
            "1.2.3.08",
            "1.2.3.08.",
            "1.2.3.09",
            "09.2.3.4",
            "09.2.3.4.",
            "01.2.3.4.5",
            "0x100.2.3.4",
            "0x100.2.3.4.",
            "0x1.2.3.4.5",
            "foo.1.2.3.4",
            "foo.2.3.4",
            "foo.09",
            "foo.0x4",
            "foo.0x",
            "0999999999999999999",
            "0x",
            "0XFFFFFFFF.",
            "\u{ad}",
            "xn--",
            "xn--a",
            "a<b",
            "a>b",
            "a^b",
            "ho\u{0}st",
            "ho\tst",
            "ho\nst",
            "ho\u{7f}st",
        ],
    );
}

/// python/cpython Lib/test/test_ipaddress.py (PSF): what `is_global`, `is_private` and their kin are tested with.
#[test]
fn cpython_ipaddress() {
    check_blocked(
        "not global",
        &[
            "224.1.1.1",
            "240.0.0.0",
            "192.168.1.1",
            "10.255.255.255",
            "172.31.255.255",
            "169.254.100.200",
            "127.100.200.254",
            "0.0.0.0",
            "100.64.0.0",
            "192.0.0.0",
            "192.0.0.170",
            "192.0.0.171",
            "192.0.0.8",
            "192.0.0.9",
            "192.0.0.10",
            "192.0.2.0",
            "192.175.48.1",
            "198.18.0.0",
            "198.51.100.0",
            "203.0.113.0",
            "255.255.255.255",
            "ffff::",
            "feff::",
            "ff00::",
            "fecf::",
            "fec0::",
            "fbff::",
            "fc00::",
            "fdff:ffff::",
            "fe80::",
            "febf::",
            "0:0::0:01",
            "::",
            "100::",
            "2001::",
            "2001:1::1",
            "2001:1::2",
            "2001:2::",
            "2001:3::",
            "2001:4::",
            "2001:4:112::",
            "2001:10::",
            "2001:20::",
            "2001:30::",
            "2001:40::",
            "2001:db8::",
            "2002::",
            "64:ff9b:1::",
            "::ffff:0:0",
            "4000::1",
            "8000::1",
            "c000::1",
            "e000::1",
            "f000::1",
            "f800::1",
            "5fff::1",
            "7fff::1",
            "01ff::1",
            "0200::1",
            "3fff::1",
            "5f00::1",
        ],
    );
    check_public(&[
        "11.0.0.0",
        "172.32.0.0",
        "169.255.100.200",
        "128.0.0.0",
        "100.63.255.255",
        "2001:200::1",
    ]);
}

/// Each class of literal that guards in use were found to miss.
#[test]
fn what_other_guards_miss() {
    check_blocked(
        "missed elsewhere",
        &[
            "::ffff:0.0.0.0",
            "::ffff:0:0",
            "::ffff:0:127.0.0.1",
            "::ffff:0:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::7f00:1",
            "64:ff9b:1:7f00:0:100::",
            "64:ff9b:1:127f:0:1::",
            "64:ff9b:1:1212:7f:0:100::",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:7f00:1::",
            "2001:0:4136:e378:8000:63bf:80ff:fffe",
            "2606:4700::5efe:127.0.0.1",
            "2606:4700::200:5efe:10.0.0.1",
            "fe80::5efe:127.0.0.1",
            "::127.0.0.1",
            "::2",
            "fec0::1",
            "fe80::1%eth0",
            "fe80::a9fe:a9fe%1",
            "ff02::1%lo",
            "192.88.99.1",
            "168.63.129.16",
            "0.1.2.3",
            "255.255.255.254",
            "100.127.255.254",
            "192.0.0.8",
            "198.19.0.1",
            "2001:2::1",
            "3fff::1",
            "5f00::1",
            "100:0:0:1::1",
        ],
    );
}
