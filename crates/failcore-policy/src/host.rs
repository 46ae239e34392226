//! One entry of a `[net]` list, read.

use std::net::IpAddr;

use failcore_model::{Host, HostName, IpClass};
use ipnet::IpNet;

use crate::error::Wrong;
use crate::rule::{HostPattern, Object, Over, Way};

/// Reads `[tcp:|udp:|other:|any:]host[:ports]`.
///
/// A permit must say its port, and means TCP where no transport stands before it; a deny or caution without
/// them covers every port and transport.
pub(crate) fn internet(text: &str, way: Way, shipped: bool) -> Result<Object, Wrong> {
    let permit = way != Way::Both;
    let (over, rest) = match text.split_once(':') {
        Some(("tcp", rest)) => (Over::Tcp, rest),
        Some(("udp", rest)) => (Over::Udp, rest),
        Some(("other", rest)) => (Over::Other, rest),
        Some(("any", rest)) => (Over::Any, rest),
        _ if permit => (Over::Tcp, text),
        _ => (Over::Any, text),
    };
    if rest.contains("://") || (rest.contains('/') && rest.contains('?')) {
        return Err(Wrong::new(format!("`{text}` is a URL"))
            .help("name host and port alone, as `api.example.com:443`"));
    }
    if let Some(class) = rest.strip_prefix("class:").filter(|_| shipped) {
        let class = class_named(class).ok_or_else(|| Wrong::new(format!("`{class}` is no address class")))?;
        return Ok(Object::Net { host: HostPattern::Class(class), over, ports: (0, u16::MAX), way });
    }
    let (host, ports) = split(rest)?;
    let ports = match ports {
        Some(ports) => self::ports(ports)?,
        None if permit => {
            return Err(Wrong::new(format!("`{text}` says no port"))
                .help(format!("write `{text}:443`, or `{text}:*` for any port")));
        }
        None => (0, u16::MAX),
    };
    let host = pattern(host, way)?;
    Ok(Object::Net { host, over, ports, way })
}

/// Reads `host[:ports]` of an entry that grants, whose port is `otherwise` where it says none.
pub(crate) fn named(text: &str, otherwise: u16) -> Result<(HostPattern, (u16, u16)), Wrong> {
    let (host, ports) = split(text)?;
    let ports = ports.map_or(Ok((otherwise, otherwise)), self::ports)?;
    Ok((pattern(host, Way::Out)?, ports))
}

/// Host and ports; an IPv6 address stands in brackets.
fn split(text: &str) -> Result<(&str, Option<&str>), Wrong> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or_else(|| {
            Wrong::new(format!("`{text}` opens a bracket and never closes it"))
                .help("write `[2001:db8::1]:443`")
        })?;
        // `[2001:db8::]/32` and `[2001:db8::/32]` mean the same.
        let slash = if after.starts_with('/') { after.find(':').unwrap_or(after.len()) } else { 0 };
        let host = if slash > 0 { &text[1..1 + inside.len() + 1 + slash] } else { inside };
        return match &after[slash..] {
            "" => Ok((host, None)),
            ports => match ports.strip_prefix(':') {
                Some(ports) => Ok((host, Some(ports))),
                None => Err(Wrong::new(format!("`{text}` has something after the bracket that is no port"))),
            },
        };
    }
    match text.matches(':').count() {
        0 => Ok((text, None)),
        1 => Ok(text.split_once(':').map_or((text, None), |(host, ports)| (host, Some(ports)))),
        _ => Err(Wrong::new(format!("`{text}` has an IPv6 address without brackets"))
            .help("write `[2001:db8::1]:443`")),
    }
}

fn ports(text: &str) -> Result<(u16, u16), Wrong> {
    if text == "*" {
        return Ok((0, u16::MAX));
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (low.parse::<u16>(), high.parse::<u16>()) {
        (Ok(low), Ok(high)) if low <= high => Ok((low, high)),
        _ => Err(Wrong::new(format!("`{text}` is no port"))
            .help("a port is a number up to 65535, a range `80-90`, or `*`")),
    }
}

fn pattern(text: &str, way: Way) -> Result<HostPattern, Wrong> {
    let text = &text.replacen(']', "", 1); // `2001:db8::]/32`
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if let Some((addr, len)) = text.split_once('/') {
        let net = addr.parse::<IpAddr>().ok().zip(len.parse().ok());
        let net = net.and_then(|(addr, len)| IpNet::new(addr, len).ok());
        let net = net.ok_or_else(|| {
            Wrong::new(format!("`{text}` is no address range"))
                .help("write it as `10.0.0.0/8` or `[fd00::]/8`")
        })?;
        if net != net.trunc() {
            return Err(Wrong::new(format!("`{text}` names one address and a range around it"))
                .help(format!("write `{}` for the range or `{}` for the address", net.trunc(), net.addr())));
        }
        return Ok(HostPattern::Range(net));
    }
    if let Ok(addr) = text.parse::<IpAddr>() {
        // A v4-mapped address is the IPv4 address to the kernel.
        return Ok(HostPattern::Range(addr.to_canonical().into()));
    }
    let named = |text: &str| match Host::parse(text) {
        Ok(Host::Name(name)) => Ok(name),
        Ok(Host::Addr(addr)) => {
            Err(Wrong::new(format!("`{text}` is another spelling of the address {addr}"))
                .help(format!("write `{addr}`")))
        }
        Err(error) => Err(Wrong::new(format!("`{text}` is no host: {error}"))),
    };
    if let Some(base) = text.strip_prefix("*.") {
        let base = named(base)?;
        if way != Way::Both && is_public_suffix(&base) {
            return Err(Wrong::new(format!("`{text}` covers names of people who have nothing in common"))
                .help(format!("`{base}` is a public suffix; name what is below it, as `*.example.{base}`")));
        }
        return Ok(HostPattern::Below(base));
    }
    if text.contains('*') {
        return Err(Wrong::new(format!("`{text}` has a `*` inside a label"))
            .help("`*` stands alone, or as the first label: `*.example.com`"));
    }
    let name = named(text)?;
    if name.as_str() == "localhost" {
        return Ok(HostPattern::Localhost);
    }
    if way == Way::In {
        return Err(Wrong::new(format!("`{text}` is a name, and sockets listen on addresses"))
            .help("write an address, as `127.0.0.1:8080`, or `localhost`"));
    }
    Ok(HostPattern::Name(name))
}

/// Whether anyone can register names right below it, by the Public Suffix List.
fn is_public_suffix(name: &HostName) -> bool {
    let suffix = psl::suffix(name.as_str().as_bytes());
    suffix.is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == name.as_str().as_bytes())
}

fn class_named(name: &str) -> Option<IpClass> {
    use IpClass::*;
    [Metadata, Unspecified, Loopback, Private, LinkLocal, Shared, Multicast, Reserved]
        .into_iter()
        .find(|class| class_name(*class) == name)
}

/// The word for a class of addresses.
pub(crate) fn class_name(class: IpClass) -> &'static str {
    match class {
        IpClass::Metadata => "metadata",
        IpClass::Unspecified => "unspecified",
        IpClass::Loopback => "loopback",
        IpClass::Private => "private",
        IpClass::LinkLocal => "link_local",
        IpClass::Shared => "shared",
        IpClass::Multicast => "multicast",
        IpClass::Public => "public",
        _ => "reserved",
    }
}

/// Reads `family [type [protocol]]`, the words that refusals of `net.socket` show.
pub(crate) fn socket(text: &str) -> Result<Object, Wrong> {
    const FAMILIES: [(&str, i32); 12] = [
        ("unspec", 0),
        ("unix", 1),
        ("inet", 2),
        ("inet6", 10),
        ("netlink", 16),
        ("packet", 17),
        ("can", 29),
        ("tipc", 30),
        ("bluetooth", 31),
        ("alg", 38),
        ("vsock", 40),
        ("xdp", 44),
    ];
    const KINDS: [(&str, i32); 4] = [("stream", 1), ("datagram", 2), ("raw", 3), ("seqpacket", 5)];
    let number = |word: &str, table: &[(&str, i32)], prefix: &str| -> Result<Option<i32>, Wrong> {
        if word == "*" {
            return Ok(None);
        }
        let named = table.iter().find(|(name, _)| *name == word).map(|(_, n)| *n);
        let numbered = || word.strip_prefix(prefix).unwrap_or(word).parse().ok();
        named.or_else(numbered).map(Some).ok_or_else(|| {
            let words: String = table.iter().map(|(name, _)| format!("{name}, ")).collect();
            Wrong::new(format!("`{word}` is no socket family, type or protocol"))
                .help(format!("{words}a number, or `*`"))
        })
    };
    let mut words = text.split_whitespace();
    let family = number(words.next().unwrap_or_default(), &FAMILIES, "family-")?;
    let kind = number(words.next().unwrap_or("*"), &KINDS, "type-")?;
    let protocol = number(words.next().unwrap_or("*"), &[], "")?;
    match words.next() {
        Some(word) => Err(Wrong::new(format!("`{word}` is too much")).help("family, type, protocol")),
        None => Ok(Object::Socket { family, kind, protocol }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, way: Way) -> String {
        match internet(text, way, false) {
            Ok(Object::Net { host, over, ports: (low, high), .. }) => {
                format!("{over:?} {host:?} {low}-{high}")
            }
            Ok(other) => format!("{other:?}"),
            Err(wrong) => format!("{} | {}", wrong.message, wrong.help.unwrap_or_default()),
        }
    }

    #[test]
    fn hosts_and_ports() {
        let out = |text| read(text, Way::Out);
        assert_eq!(out("API.Example.com:443"), "Tcp Name(api.example.com) 443-443");
        assert_eq!(out("*.wikipedia.org:*"), "Tcp Below(wikipedia.org) 0-65535");
        assert_eq!(out("udp:10.0.0.1:53"), "Udp Range(10.0.0.1/32) 53-53");
        assert_eq!(out("10.1.0.0/16:5432"), "Tcp Range(10.1.0.0/16) 5432-5432");
        assert_eq!(out("[2001:db8::1]:80-90"), "Tcp Range(2001:db8::1/128) 80-90");
        assert_eq!(out("[2001:db8::]/32:443"), "Tcp Range(2001:db8::/32) 443-443");
        assert_eq!(out("[2001:db8::/32]:443"), "Tcp Range(2001:db8::/32) 443-443");
        assert_eq!(out("[::ffff:10.0.0.1]:1"), "Tcp Range(10.0.0.1/32) 1-1");
        assert_eq!(out("localhost:80"), "Tcp Localhost 80-80");
        assert_eq!(out("*:443"), "Tcp Any 443-443");
        assert_eq!(read("tracker.wikipedia.org", Way::Both), "Any Name(tracker.wikipedia.org) 0-65535");
        assert_eq!(read("*.com", Way::Both), "Any Below(com) 0-65535");
        assert_eq!(read("[fd00::]/8", Way::Both), "Any Range(fd00::/8) 0-65535");
    }

    #[test]
    fn what_is_no_host() {
        for text in [
            "api.example.com",
            "2001:db8::1:443",
            "[2001:db8::1:443",
            "[::1]443",
            "a.example:http",
            "a.example:90-80",
            "a.example:65536",
            "10.0.0.1/8:80",
            "127.1:80",
            "0x7f000001:80",
            "*.com:443",
            "*.co.uk:443",
            "*.github.io:443",
            "a*.example.com:443",
            "https://api.example.com",
            "user@example.com:80",
            "a..b:80",
            ":80",
        ] {
            assert!(internet(text, Way::Out, false).is_err(), "{text}");
        }
        assert!(internet("example.com:80", Way::In, false).is_err());
        assert!(internet("class:metadata", Way::Both, false).is_err());
    }

    #[test]
    fn sockets() {
        assert_eq!(
            socket("netlink raw 0").unwrap(),
            Object::Socket { family: Some(16), kind: Some(3), protocol: Some(0) }
        );
        assert_eq!(socket("*").unwrap(), Object::Socket { family: None, kind: None, protocol: None });
        assert!(socket("net").is_err());
        assert!(socket("inet raw 1 2").is_err());
    }
}
