//! What somebody outside answered a program: what a recording keeps of the network, so that the program can be run again
//! with nobody there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{HostName, Text};

/// What somebody outside was asked, by which the answer is found again: how often it was asked before counts, and nothing
/// else of its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// The addresses of a host name.
    Addresses {
        /// The name.
        name: HostName,
    },
    /// Whether a way leads to an address, and from which of this machine's.
    Route {
        /// The address.
        to: IpAddr,
    },
    /// A connection.
    Connection {
        /// Where to.
        to: SocketAddr,
    },
    /// TLS, on a connection.
    Tls {
        /// Where to.
        to: SocketAddr,
        /// The host that is asked for.
        host: String,
        /// Protocols that the program speaks (RFC 7301).
        protocols: Vec<String>,
    },
    /// An HTTP request. Its fields do not count: they hold secrets, and what differs each time.
    Request {
        /// The method.
        method: String,
        /// The whole URL.
        url: String,
        /// SHA-256 of its body, in hexadecimal.
        body: String,
    },
    /// All that is said on a connection that is not HTTP, or no more.
    Conversation {
        /// With whom: host and port, or a whole URL.
        with: String,
    },
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { name } => write!(f, "addresses of {name}"),
            Self::Route { to } => write!(f, "way to {to}"),
            Self::Connection { to } => write!(f, "connection to {to}"),
            Self::Tls { to, host, .. } => write!(f, "TLS with {host} at {to}"),
            Self::Request { method, url, body } => {
                write!(f, "{method} {url} with a body of SHA-256 {}…", body.get(..8).unwrap_or(body))
            }
            Self::Conversation { with } => write!(f, "conversation with {with}"),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Addresses, before anything is filtered.
    Addresses {
        /// In the order of the answer.
        addrs: Vec<IpAddr>,
        /// The names that the one asked for is an alias of.
        aliases: Vec<HostName>,
        /// Seconds that they may be kept, where that was told.
        ttl: Option<u32>,
    },
    /// There are no addresses.
    NoAddresses {
        /// `EAI_*`, as in netdb.h.
        code: i32,
        /// In words.
        message: String,
    },
    /// A way leads there.
    Route {
        /// From this address.
        from: IpAddr,
    },
    /// It stands, with the protocol that both speak, where TLS told one.
    Connected {
        /// As TLS names it (RFC 7301).
        protocol: Option<String>,
    },
    /// It failed.
    Failed {
        /// With this errno(3).
        errno: i32,
    },
    /// An HTTP response; its body is kept beside it.
    Response {
        /// Its status.
        status: u16,
        /// Its reason phrase, where that is not the usual one.
        reason: Option<Text>,
        /// Its fields, but for those that only two neighbours exchange.
        fields: Vec<Field>,
        /// The fields after its body.
        trailers: Vec<Field>,
        /// How it ended.
        end: End,
    },
    /// All that was heard, which is kept beside it, in turns with what the program said.
    Turns {
        /// In their order.
        turns: Vec<Turn>,
        /// Whether the other side ended it.
        ended: bool,
    },
    /// It is not kept: there a program that is run again ends.
    Unkept {
        /// Why.
        why: String,
    },
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was whole.
    Whole,
    /// The server broke it off.
    Broken,
    /// The program did not wait for its end.
    Left,
}

/// A field of an HTTP message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Field {
    /// Its name.
    pub name: Text,
    /// Its value.
    pub value: Text,
}

/// A turn of a conversation: once the program has said so much, this much is heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Turn {
    /// Bytes that the program has said by then, from the beginning.
    pub said: u64,
    /// SHA-256 of them, in hexadecimal.
    pub sha256: String,
    /// Bytes that are heard in answer.
    pub heard: u64,
}

/// What is kept beside an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Payload {
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
    /// Its length, in bytes.
    pub size: u64,
    /// Whether it lies in the trace's directory. What does not is not there when the program is run again, which ends there.
    pub kept: bool,
}
