//! One parser of a host, giving the same value for check, lookup and record.
//!
//! Whoever judges one spelling and looks up another has judged nothing. So this reads what any resolver in use
//! would read (WHATWG URL host parsing, inet_aton(3), UTS #46), and refuses what two of them read differently.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A DNS name in the one form that is judged, looked up and recorded: lower-case ASCII (IDNA A-labels), no
/// trailing dot, never an address in any spelling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct HostName(Box<str>);

/// What a program names as host: a name, or an address in one of its spellings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A DNS name.
    Name(HostName),
    /// An address, whatever its spelling was (`127.1`, `0x7f000001`, `[::1]`, `１２７.0.0.1` …).
    Addr(IpAddr),
}

/// Why some text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Nothing there, or an empty label.
    #[error("host is empty or has an empty label")]
    Empty,
    /// A NUL byte, at which resolvers cut the name.
    #[error("host contains a NUL byte")]
    Nul,
    /// A label over 63 bytes or a name over 253 (RFC 1035 §2.3.4).
    #[error("host name is too long")]
    TooLong,
    /// A character that no host name has, or that two parsers read differently.
    #[error("host contains a character that is not allowed")]
    Character,
    /// IDNA refuses it (UTS #46).
    #[error("host is no valid internationalised name")]
    Idna,
    /// One of the characters that IDNA 2003 and IDNA 2008 make different names of (UTS #46 section 2.3): Python's
    /// codec looks `faß.example` up as `fass.example`, others as `xn--fa-hia.example`.
    #[error("host contains `{0}`, of which versions of IDNA make different names: write the xn-- form")]
    Deviation(char),
    /// It ends in a number, hence would be read as an address, and is none (WHATWG URL, host parsing).
    #[error("host ends in a number but is no address")]
    BadAddress,
}

impl HostName {
    /// Reads a DNS name.
    ///
    /// # Errors
    /// [`HostError`] as for [`Host::parse`]; [`HostError::BadAddress`] where the text is an address.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        match Host::parse(text)? {
            Host::Name(name) => Ok(name),
            Host::Addr(_) => Err(HostError::BadAddress),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Labels from the top-level domain down.
    pub fn labels_from_root(&self) -> impl Iterator<Item = &str> {
        self.0.rsplit('.')
    }

    /// Whether it is a documented name of a cloud's instance metadata service, or lies in a Kubernetes cluster's
    /// own zone.
    ///
    /// # Security
    /// Any name can be made to resolve there: this catches the usual ones early and with a clear reason, and
    /// [`is_metadata`](crate::is_metadata) on the resolved address is what holds.
    ///
    /// ```
    /// use failcore_model::HostName;
    /// assert!(HostName::parse("Metadata.Google.Internal.").unwrap().is_metadata());
    /// assert!(HostName::parse("api.team.svc.cluster.local").unwrap().is_metadata());
    /// assert!(!HostName::parse("metadata.example.com").unwrap().is_metadata());
    /// ```
    pub fn is_metadata(&self) -> bool {
        METADATA_NAMES.contains(&self.as_str())
            || METADATA_ZONES.iter().any(|zone| {
                self.0.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
    }
}

/// Google, Google, Google's search domain, AWS EC2-Classic, AWS, Tencent, Rancher, Kubernetes' search domains.
const METADATA_NAMES: [&str; 9] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
    "rancher-metadata",
    "kubernetes",
    "kubernetes.default",
];

/// Kubernetes' services and pods, also as its search domains allow to write them.
const METADATA_ZONES: [&str; 3] = ["svc.cluster.local", "pod.cluster.local", "svc"];

impl Host {
    /// Reads what a program hands over as host.
    ///
    /// Accepts the spellings that some resolver accepts, so that none is judged as something else: short,
    /// octal, hexadecimal and decimal IPv4 (inet_aton(3)), bracketed IPv6, full-width digits and dots, one
    /// trailing dot. Zone ids (`fe80::1%eth0`) are dropped: they choose an interface, not another address.
    ///
    /// # Errors
    /// [`HostError`] says what is wrong; such a host is never looked up.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains('\0') {
            return Err(HostError::Nul);
        }
        if let Some(v6) = ipv6(text) {
            return Ok(Self::Addr(v6.into()));
        }
        // Four decimal numbers, which nothing below would make anything else of.
        if let Ok(v4) = text.parse::<std::net::Ipv4Addr>() {
            return Ok(Self::Addr(v4.into()));
        }
        if let Some(c) = text.chars().find(|c| matches!(c, 'ß' | 'ẞ' | 'ς' | '\u{200c}' | '\u{200d}')) {
            return Err(HostError::Deviation(c));
        }
        // First here, so that no mapping can hide them; then again on what IDNA made of the rest.
        if !text.chars().all(|c| !c.is_ascii() || is_host_byte(c as u8)) {
            return Err(HostError::Character);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
            .map_err(|_| HostError::Idna)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if name.split('.').any(str::is_empty) {
            return Err(HostError::Empty);
        }
        if name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
            return Err(HostError::TooLong);
        }
        if !name.bytes().all(is_host_byte) {
            return Err(HostError::Character);
        }
        if ends_in_number(name) {
            return ipv4(name).map(|v4| Self::Addr(v4.into())).ok_or(HostError::BadAddress);
        }
        Ok(Self::Name(HostName(name.to_ascii_lowercase().into())))
    }
}

fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
}

/// An IPv6 address, in brackets or not, with a zone id where one can be meant (RFC 4007 section 11, RFC 6874).
///
/// Elsewhere `%31` may as well be an escaped `1`, and getaddrinfo(3) knows no zones there either.
fn ipv6(text: &str) -> Option<std::net::Ipv6Addr> {
    let bare = text.strip_prefix('[').map_or(Some(text), |rest| rest.strip_suffix(']'))?;
    let Some((addr, zone)) = bare.split_once('%') else { return bare.parse().ok() };
    let named = (1..=17).contains(&zone.len()) && zone.bytes().all(|b| is_host_byte(b) || b == b'~');
    let addr: std::net::Ipv6Addr = addr.parse().ok().filter(|_| named)?;
    (addr.is_unicast_link_local() || addr.is_multicast()).then_some(addr)
}

/// WHATWG URL "ends in a number": the last label is all digits or a hexadecimal number, of whatever length.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|b| b.is_ascii_digit()) || number(last).is_some()
}

/// inet_aton(3): one to four numbers, the last filling the remaining bytes.
fn ipv4(text: &str) -> Option<std::net::Ipv4Addr> {
    let (head, last) = text.rsplit_once('.').map_or((None, text), |(head, last)| (Some(head), last));
    let (mut addr, mut free) = (0u64, 32);
    for part in head.into_iter().flat_map(|head| head.split('.')) {
        let byte = number(part).filter(|n| *n <= 255)?;
        free = if free > 8 { free - 8 } else { return None };
        addr |= byte << free;
    }
    let last = number(last).filter(|n| *n < 1 << free)?;
    u32::try_from(addr | last).ok().map(Into::into)
}

/// One number of inet_aton(3): decimal, octal after `0`, hexadecimal after `0x`; too large a one is `u64::MAX`.
///
/// An empty `0x` is 0, as for WHATWG; inet_aton refuses it, and as an address it is refused as well.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', digits @ ..] => (digits, 16),
        [b'0', digits @ ..] => (digits, 8),
        [] => return None,
        digits => (digits, 10),
    };
    digits.iter().try_fold(0u64, |n, b| {
        let digit = char::from(*b).to_digit(radix)?;
        Some(n.saturating_mul(radix.into()).saturating_add(digit.into()))
    })
}

impl TryFrom<String> for HostName {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, HostError> {
        Self::parse(&text)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Addr(addr) => addr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        match Host::parse(text) {
            Ok(Host::Name(name)) => format!("name {name}"),
            Ok(Host::Addr(addr)) => format!("addr {addr}"),
            Err(error) => format!("{error:?}"),
        }
    }

    fn check(want: &str, texts: &[&str]) {
        for text in texts {
            assert_eq!(read(text), want, "{text:?}");
        }
    }

    #[test]
    fn names_have_one_form() {
        check(
            "name api.example.com",
            &["api.example.com", "API.Example.COM.", "ａｐｉ．example．com", "api。example｡com"],
        );
        check(
            "name example.com",
            &["ⓔⓧⓐⓜⓟⓛⓔ.ⓒⓞⓜ", "exa\u{ad}mple.com", "exa\u{200b}mp\u{2060}le.com\u{feff}"],
        );
        check(
            "name xn--bcher-kva.example",
            &["bücher.example", "BÜCHER.example", "bu\u{308}cher.example", "XN--bcher-KVA.example"],
        );
        check("name localhost", &["localhost", "LOCALHOST.", "ⓛocalhost"]);
        check("name xn--6qqa088eba", &["你好你好"]);
        check("name a_b.example", &["a_b.example"]);
        check("name 127.0.0.1.nip.io", &["127.0.0.1.nip.io"]);
        check("name 0x7f.0.0.0x7g", &["0x7f.0.0.0x7g"]);
        check("name 1e3", &["1e3"]);
    }

    #[test]
    fn a_look_alike_is_another_name() {
        // Cyrillic а, е, о; Greek ο; dotless ı; all of them read as Latin by a person.
        for (look_alike, name) in [
            ("exаmple.com", "example.com"),
            ("gооgle.com", "google.com"),
            ("gοοgle.com", "google.com"),
            ("gıthub.com", "github.com"),
            ("lоcalhost", "localhost"),
            ("metadata.gооgle.internal", "metadata.google.internal"),
        ] {
            let read = HostName::parse(look_alike).unwrap();
            assert!(read.as_str().contains("xn--"), "{look_alike} is {read}");
            assert_ne!(read, HostName::parse(name).unwrap());
        }
    }

    #[test]
    fn addresses_are_addresses_in_every_spelling() {
        let loopback = [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0X7F.1",
            "0x00000000000000000000007f.1",
            "017700000001",
            "00000000000000177.1",
            "0177.0.0.01",
            "127.0.0.1.",
            "１２７.0.0.1",
            "①②⑦.⓪.0.1",
            "127。0．0｡1",
            "𝟏𝟐𝟕.0.0.1",
            "127.0.0.\u{ad}1",
        ];
        check("addr 127.0.0.1", &loopback);
        let metadata = [
            "2852039166",
            "0xA9.0xFE.0xA9.0xFE",
            "0xA9FEA9FE",
            "0251.0376.0251.0376",
            "0251.00376.000251.0000376",
            "0251.254.169.254",
            "169.254.43518",
            "169.16689662",
            "①⑥⑨。②⑤④。⑯⑨｡②⑤④",
        ];
        check("addr 169.254.169.254", &metadata);
        check(
            "addr 192.168.0.1",
            &["3232235521", "0xc0.0250.01", "０Ｘｃ０．０２５０．０１", "0xc0.0250.01."],
        );
        check("addr 0.0.0.0", &["0", "00", "0.0", "0x", "0x.0", "0.0.0.0."]);
        check("addr 255.255.255.255", &["4294967295", "037777777777", "0xffffffff", "255.0xffffff"]);
        check("addr 1.0.255.255", &["1.65535"]);
    }

    #[test]
    fn ipv6_literals_are_one_address() {
        check("addr ::1", &["::1", "[::1]", "0000::1", "0:0:0:0:0:0:0:1", "::0.0.0.1", "[::0001]"]);
        check("addr fe80::1", &["fe80::1%eth0", "[FE80::1%25eth0]", "fe80:0:0::1%1"]);
        check("addr ::ffff:127.0.0.1", &["::ffff:7f00:1", "[0:0:0:0:0:ffff:127.0.0.1]", "::FFFF:127.0.0.1"]);
        check("addr 64:ff9b::a9fe:a9fe", &["64:ff9b::169.254.169.254"]);
        check("addr 2606:4700::5efe:a00:1", &["2606:4700::5efe:10.0.0.1"]);
        for text in [
            "[::1",
            "::1]",
            "[[::1]]",
            "::1.2.3.4x",
            "[::1.2.3.]",
            "[::.1]",
            "[::%31]",
            "::1%",
            "::1%lo",
            "fe80::1%a/b",
            "[:]",
        ] {
            assert_eq!(read(text), "Character", "{text}");
        }
        check(
            "Character",
            &["[]", "[127.0.0.1]", "[example.com]", "::ffff:0177.0.0.1", "::ffff:127.1", "：：１", "::00001"],
        );
        check("Character", &["fe80::1%abcdefghijklmnopqr", "[::1]:80", "fe80::1%\u{ff10}"]);
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        check("Nul", &["attacker.example\0.good.example", "\0", "::1\0", "[::1]\0"]);
        check("Empty", &["", ".", "..", "a..b", ".a", "a..", "。", "\u{ad}", "127..1", "127.0.0.1.."]);
        check(
            "Character",
            &["user@host", "good.example@evil.example", "host\\.evil", "a b", "a\tb", "a\n", " a", "a/b"],
        );
        check(
            "Character",
            &["a#b", "a?b", "a:80", "%31", "a%00", "127.0.0.1 x", "1.1.1.1 &@2.2.2.2# @3.3.3.3"],
        );
        check(
            "Character",
            &["＠.example", "a／b", "a＃b", "％４１.com", "a：80", "a\u{3000}b", "a\u{a0}b", "℀.example"],
        );
        check(
            "Idna",
            &[
                "\u{fffd}",
                "\u{fdd0}zyx.com",
                "a.b.c.xn--pokxncvks",
                "10.0.0.XN--pokxncvks",
                "xn--",
                "\u{202e}moc",
            ],
        );
        check("Idna", &["xn--localhost-.example", "xn--127-.0.0.1"]);
        check("Deviation('ß')", &["faß.example"]);
        check("Deviation('\\u{200d}')", &["a\u{200d}b.example"]);
        check("Deviation('ς')", &["βόλος.com"]);
        check(
            "BadAddress",
            &[
                "1.2.3.4.5",
                "1.2.3.4.5.",
                "256.1.1.1",
                "192.168.0.257",
                "09",
                "08.1",
                "1.16777216.",
                "1.16777216",
            ],
        );
        check(
            "BadAddress",
            &["4294967296", "7147006462", "425.510.425.510", "0x41414141A9FEA9FE", "1.2.3.0x100"],
        );
        check(
            "BadAddress",
            &[
                "0x4141414141414141414141A9FEA9FE",
                "40000000000000000000000000000177",
                "a.0xffffffffffffffffffff",
            ],
        );
        check(
            "BadAddress",
            &["o177.0.0.1", "0o177.0.0.1", "q177.0.0.1", "0xx.1", "example.1", "example.0x1", "0x7g.1"],
        );
        let long = |n: usize| format!("{}.com", "a".repeat(n));
        assert_eq!(read(&long(63)), format!("name {}", long(63)));
        assert_eq!(read(&long(64)), "TooLong");
        let labels = |n: usize| vec!["a"; n].join(".");
        assert_eq!(read(&labels(127)), format!("name {}", labels(127)));
        assert_eq!(read(&format!("{}.", labels(127))), format!("name {}", labels(127)));
        assert_eq!(read(&labels(128)), "TooLong");
    }

    #[test]
    fn names_of_metadata_services_are_known() {
        for text in [
            "metadata.google.internal",
            "INSTANCE-DATA",
            "a.b.svc.cluster.local.",
            "svc.cluster.local",
            "kubernetes.default.svc",
        ] {
            assert!(HostName::parse(text).unwrap().is_metadata(), "{text}");
        }
        for text in [
            "google.internal",
            "xmetadata.google.internal",
            "asvc.cluster.local",
            "metadata.google.internal.example",
        ] {
            assert!(!HostName::parse(text).unwrap().is_metadata(), "{text}");
        }
    }

    /// What a hostile spelling is made of.
    fn spelling() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => prop::sample::select(vec![
                ".", "。", "．", "0x", "0X", "0", "1", "127", "255", "256", "177", "xn--", "[", "]", "%", ":", "::", "-",
                "_", "a", "Z", "ß", "ü", "①", "７", "\u{ad}", "\u{200d}", "\0", "@", "\\", "/", " ", "ffff", "localhost",
            ])
            .prop_map(str::to_owned),
            1 => any::<String>(),
            1 => any::<u32>().prop_map(|n| n.to_string()),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn parsing_is_total_and_has_one_form(text in spelling()) {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host.clone()), "from {:?}", text);
                let upper = Host::parse(&host.to_string().to_uppercase());
                prop_assert_eq!(upper, Ok(host.clone()));
                if let Host::Name(name) = host {
                    prop_assert!(name.as_str().len() <= 253 && name.as_str().is_ascii());
                    prop_assert_eq!(name.as_str().to_lowercase(), name.as_str());
                    prop_assert!(name.as_str().parse::<IpAddr>().is_err());
                    prop_assert!(name.labels_from_root().all(|label| (1..=63).contains(&label.len())));
                    prop_assert_eq!(Host::parse(&format!("{name}.")), Ok(Host::Name(name)));
                }
            }
        }

        #[test]
        fn every_spelling_of_an_ipv4_address_is_that_address(n: u32, radix in prop::array::uniform4(0..3), parts in 1..5usize) {
            let addr = Host::Addr(IpAddr::from(n.to_be_bytes()));
            let mut text = Vec::new();
            for (i, radix) in radix.iter().enumerate().take(parts) {
                let bits = if i + 1 == parts { n & (u32::MAX >> (8 * i)) } else { n >> (24 - 8 * i) & 0xff };
                text.push(match radix {
                    0 => bits.to_string(),
                    1 => format!("0{bits:o}"),
                    _ => format!("0x{bits:X}"),
                });
            }
            prop_assert_eq!(Host::parse(&text.join(".")), Ok(addr.clone()));
            let wide = |c: char| if c == '.' { '。' } else { char::from_u32(c as u32 + 0xfee0).unwrap_or(c) };
            prop_assert_eq!(Host::parse(&text.join(".").chars().map(wide).collect::<String>()), Ok(addr));
        }

        #[test]
        fn ipv6_round_trips(n: u128) {
            let addr = std::net::Ipv6Addr::from_bits(n);
            prop_assert_eq!(Host::parse(&addr.to_string()), Ok(Host::Addr(addr.into())));
            prop_assert_eq!(Host::parse(&format!("[{addr}]")), Ok(Host::Addr(addr.into())));
            let local = std::net::Ipv6Addr::from_bits(0xfe80 << 112 | n >> 16);
            prop_assert_eq!(Host::parse(&format!("[{local}%eth0]")), Ok(Host::Addr(local.into())));
        }
    }
}
