//! The name servers that `[dns] upstream` names, read.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use failcore_model::{Host, HostName};
use serde::{Deserialize, Serialize};

use crate::error::Wrong;

/// A name server that is asked instead of the machine's own resolver: `tls://9.9.9.9#dns.quad9.net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameServer {
    /// Where it is.
    pub addr: SocketAddr,
    /// How it is asked.
    pub by: AskedBy,
}

/// How a name server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedBy {
    /// DNS by UDP, and by TCP where an answer is too long for it; anybody on the way can read and change it.
    Plain,
    /// DNS over TLS (RFC 7858).
    Tls {
        /// The name that its certificate must be for; without one, its address.
        name: Option<HostName>,
    },
    /// DNS over HTTPS (RFC 8484).
    Https {
        /// As above.
        name: Option<HostName>,
        /// The path of its resource.
        path: String,
    },
}

/// The usual path of a server's resource.
const PATH: &str = "/dns-query";
const EXAMPLES: &str = "write it as `tls://9.9.9.9#dns.quad9.net`, `https://9.9.9.9/dns-query#dns.quad9.net` or `dns://10.0.0.53`";

impl NameServer {
    /// Reads `dns://ADDRESS`, `tls://ADDRESS[#NAME]` or `https://ADDRESS[/PATH][#NAME]`, each with its port where that is
    /// not the usual one.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |why: &str| Wrong::new(format!("`{text}` is no name server: {why}")).help(EXAMPLES);
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("it says not how to ask"));
        };
        let port = match scheme {
            "dns" => 53,
            "tls" => 853,
            "https" => 443,
            _ => return Err(wrong("it is asked by `dns`, `tls` or `https`")),
        };
        let (rest, name) = match rest.split_once('#') {
            Some((rest, name)) => match Host::parse(name) {
                Ok(Host::Name(name)) => (rest, Some(name)),
                Ok(Host::Addr(_)) => return Err(wrong("what follows `#` is the name in its certificate")),
                Err(error) => return Err(wrong(&format!("`{name}`: {error}"))),
            },
            None => (rest, None),
        };
        let (at, path) = match rest.find('/') {
            Some(slash) => (&rest[..slash], Some(&rest[slash..])),
            None => (rest, None),
        };
        let bare = at.strip_prefix('[').and_then(|at| at.strip_suffix(']')).unwrap_or(at);
        let addr = match (at.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(addr), _) => addr,
            (_, Ok(ip)) => SocketAddr::new(ip, port),
            _ => return Err(wrong("it must be an address, since a name would have to be looked up first")),
        };
        let by = match scheme {
            "https" => {
                let path = path.unwrap_or(PATH);
                if !path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'{')) {
                    return Err(wrong("its path has characters that no path has"));
                }
                AskedBy::Https { name, path: path.into() }
            }
            _ if path.is_some() => return Err(wrong("only `https` has a path")),
            "tls" => AskedBy::Tls { name },
            _ if name.is_some() => return Err(wrong("without TLS nothing proves a name")),
            _ => AskedBy::Plain,
        };
        Ok(Self { addr, by })
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, name, path) = match &self.by {
            AskedBy::Plain => ("dns", None, ""),
            AskedBy::Tls { name } => ("tls", name.as_ref(), ""),
            AskedBy::Https { name, path } => ("https", name.as_ref(), path.as_str()),
        };
        write!(f, "{scheme}://{}{path}", self.addr)?;
        name.map_or(Ok(()), |name| write!(f, "#{name}"))
    }
}

impl TryFrom<String> for NameServer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|_| format!("`{text}` is no name server"))
    }
}

impl From<NameServer> for String {
    fn from(server: NameServer) -> Self {
        server.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_written() {
        for (text, written) in [
            ("dns://10.0.0.53", "dns://10.0.0.53:53"),
            ("dns://[2001:db8::1]:5353", "dns://[2001:db8::1]:5353"),
            ("tls://9.9.9.9#dns.quad9.net", "tls://9.9.9.9:853#dns.quad9.net"),
            ("tls://9.9.9.9:8853", "tls://9.9.9.9:8853"),
            ("tls://2620:fe::fe", "tls://[2620:fe::fe]:853"),
            ("https://1.1.1.1", "https://1.1.1.1:443/dns-query"),
            ("https://[2606:4700::1111]/q/x#One.Example", "https://[2606:4700::1111]:443/q/x#one.example"),
        ] {
            let server = NameServer::parse(text).unwrap();
            assert_eq!(server.to_string(), written);
            assert_eq!(NameServer::try_from(written.to_owned()), Ok(server));
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "9.9.9.9",
            "udp://9.9.9.9",
            "tls://dns.quad9.net",
            "https://dns.google/dns-query",
            "tls://9.9.9.9/path",
            "dns://9.9.9.9#name.example",
            "tls://9.9.9.9#9.9.9.9",
            "tls://9.9.9.9#",
            "tls://9.9.9.9:99999",
            "https://1.1.1.1/{?dns}",
            "https://1.1.1.1/a b",
            "tls://",
            "",
        ] {
            assert!(NameServer::parse(text).is_err(), "{text}");
        }
    }
}
