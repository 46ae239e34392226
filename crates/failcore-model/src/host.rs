//! One parser of a host, giving the same value for check, lookup and record.

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
}

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
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let unzoned = bare.split_once('%').map_or(bare, |(addr, _)| addr);
        if let Ok(v6) = unzoned.parse::<std::net::Ipv6Addr>() {
            return Ok(Self::Addr(v6.into()));
        }
        if text
            .contains(|c: char| c.is_ascii() && !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
        {
            return Err(HostError::Character);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
            .map_err(|_| HostError::Idna)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if name.is_empty() || name.split('.').any(str::is_empty) {
            return Err(HostError::Empty);
        }
        if name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
            return Err(HostError::TooLong);
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
            return Err(HostError::Character);
        }
        if ends_in_number(name) {
            return ipv4(name).map(|v4| Self::Addr(v4.into())).ok_or(HostError::BadAddress);
        }
        Ok(Self::Name(HostName(name.to_ascii_lowercase().into())))
    }
}

/// WHATWG URL "ends in a number": the last label is all digits or a hexadecimal number.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|b| b.is_ascii_digit()) || number(last).is_some()
}

/// inet_aton(3): one to four numbers, the last filling the remaining bytes.
fn ipv4(text: &str) -> Option<std::net::Ipv4Addr> {
    let parts: Vec<u64> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, heads) = parts.split_last()?;
    if heads.len() > 3 || heads.iter().any(|n| *n > 255) || *last >= 1 << (8 * (4 - heads.len())) {
        return None;
    }
    let head = heads.iter().enumerate().fold(0, |sum, (i, n)| sum | n << (24 - 8 * i));
    u32::try_from(head | last).ok().map(Into::into)
}

fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    if digits.is_empty() {
        return (radix == 16).then_some(0); // "0x" reads as 0
    }
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
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
    use super::*;

    fn read(text: &str) -> String {
        match Host::parse(text) {
            Ok(Host::Name(name)) => format!("name {name}"),
            Ok(Host::Addr(addr)) => format!("addr {addr}"),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn names_have_one_form() {
        assert_eq!(read("API.Example.COM."), "name api.example.com");
        assert_eq!(read("bücher.example"), "name xn--bcher-kva.example");
        assert_eq!(read("localhost"), "name localhost");
        assert_eq!(read("a_b.example"), "name a_b.example");
    }

    #[test]
    fn addresses_are_addresses_in_every_spelling() {
        for text in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "017700000001",
            "0x7f.1",
            "127.0.0.1.",
            "１２７.0.0.1",
            "127。0。0。1",
        ] {
            assert_eq!(read(text), "addr 127.0.0.1", "{text}");
        }
        assert_eq!(read("0"), "addr 0.0.0.0");
        assert_eq!(read("[::1]"), "addr ::1");
        assert_eq!(read("fe80::1%eth0"), "addr fe80::1");
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        assert_eq!(read("attacker.example\0.good.example"), "Nul");
        assert_eq!(read("a..b"), "Empty");
        assert_eq!(read(""), "Empty");
        assert_eq!(read("user@host"), "Character");
        assert_eq!(read("host\\.evil"), "Character");
        assert_eq!(read("a b"), "Character");
        assert_eq!(read("1.2.3.4.5"), "BadAddress");
        assert_eq!(read("256.1.1.1"), "BadAddress");
        assert_eq!(read("09"), "BadAddress");
        assert_eq!(read(&format!("{}.com", "a".repeat(64))), "TooLong");
    }
}
