//! Rules in resolved form: what the entries of a policy come to once everything in them is expanded.

use std::fmt;

use failcore_model::{AbsPath, FileId, HostName, IpClass, Rights, RuleId, SignalTarget, Text, Timestamp};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::capability::Capability;
use crate::http::UrlPattern;
use crate::pattern::{Glob, Pattern};

/// One rule, with where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name in decisions: `source#fs.read[1]`, or the `id` its author gave.
    pub id: RuleId,
    /// The file or preset it was written in.
    pub source: String,
    /// Line, from 1; 0 for a rule that no text holds.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The entry as written.
    pub text: String,
    /// What it does.
    pub effect: Effect,
    /// The list it stands in.
    pub key: Key,
    /// The `[[tool]]` entry it belongs to, by position; the session's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<u16>,
    /// The author's words, shown with a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When a permit ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Whether a person must approve.
    #[serde(default, skip_serializing_if = "is_false")]
    pub approve: bool,
    /// Whether a permitted operation is flagged.
    #[serde(default, skip_serializing_if = "is_false")]
    pub audit: bool,
    /// Whether the connections it permits are carried.
    #[serde(default, skip_serializing_if = "is_false")]
    pub carry: bool,
    /// Whether it belongs to what is always refused, audit mode included.
    #[serde(default, skip_serializing_if = "is_false")]
    pub always: bool,
    /// Objects that a literal deny named when the run began, by identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "identities")]
    pub ids: Vec<FileId>,
    /// What it speaks of.
    pub objects: Vec<Object>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It grants.
    Permit,
    /// It refuses, and nothing lifts that.
    Forbid,
    /// It refuses unless an exact grant lifts that.
    Caution,
}

macro_rules! keys {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// The list of a policy file that an entry stands in.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the text beside each says all")]
        pub enum Key { $(#[serde(rename = $text)] $name,)* }

        impl Key {
            /// Every key.
            pub const ALL: &[Key] = &[$(Key::$name,)*];

            /// The key as written in a policy, section first.
            pub const fn as_str(self) -> &'static str {
                match self { $(Key::$name => $text,)* }
            }
        }
    };
}

keys! {
    FsRead = "fs.read",
    FsWrite = "fs.write",
    FsDeny = "fs.deny",
    FsCaution = "fs.caution",
    NetConnect = "net.connect",
    NetHttp = "net.http",
    NetListen = "net.listen",
    NetSocket = "net.socket",
    NetDeny = "net.deny",
    NetCaution = "net.caution",
    Exec = "process.exec",
    Signal = "process.signal",
    Limit = "process.limit",
    Env = "env.pass",
    Native = "native.load",
    Unmapped = "unmapped.permit",
    Capabilities = "capabilities.keep",
    Credential = "credential",
    Limits = "limits",
    Tool = "tool",
    Always = "always",
}

/// What a rule speaks of, everything in it expanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Object {
    /// Files: the path and everything below it.
    File {
        /// Which.
        path: Pattern,
        /// What may, or may not, be done with them.
        rights: Rights,
    },
    /// Internet endpoints.
    Net {
        /// Whom.
        host: HostPattern,
        /// Over what.
        over: Over,
        /// The ports, both ends included.
        ports: (u16, u16),
        /// Connecting to it, listening on it, or both.
        way: Way,
    },
    /// HTTP requests, and the connections they need.
    Http {
        /// The methods; any where there is none.
        methods: Vec<String>,
        /// Whom.
        host: HostPattern,
        /// The ports, both ends included.
        ports: (u16, u16),
        /// The path.
        path: UrlPattern,
    },
    /// A header that the relay adds. It grants nothing.
    Credential(Credential),
    /// Unix sockets in the file system.
    UnixPath {
        /// Which.
        path: Pattern,
        /// Connecting or listening.
        way: Way,
    },
    /// Abstract unix sockets.
    UnixName {
        /// A pattern for the whole name.
        name: Glob,
        /// Connecting or listening.
        way: Way,
    },
    /// Creating sockets.
    Socket {
        /// `AF_*`; any where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        family: Option<i32>,
        /// `SOCK_*`; any where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<i32>,
        /// The protocol's number; any where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        protocol: Option<i32>,
    },
    /// Program images.
    Exec {
        /// The resolved image.
        image: Pattern,
        /// The last component of the name asked for.
        name: Glob,
        /// Whether the first argument must be that name too: one image serves under several names.
        named: bool,
        /// The arguments.
        args: Args,
    },
    /// Signals to receivers up to this distance.
    Signal(SignalTarget),
    /// Limits of other processes.
    Limit,
    /// Shared objects the interpreter may load.
    Library(Pattern),
    /// The foreign function interface.
    Ffi,
    /// Environment variables.
    Env(Glob),
    /// Operations that no decoder knows, by name.
    Unmapped(Glob),
    /// A capability that the program keeps.
    Capability(Capability),
    /// A budget of the session.
    Budget {
        /// Which, as named in `[limits]`.
        name: String,
        /// How much.
        most: u64,
    },
}

/// A header with a secret in it, for one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The host.
    pub host: HostName,
    /// Its port.
    pub port: u16,
    /// The header's name, in small letters.
    pub header: String,
    /// What stands before the secret, as `Bearer `.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Where the secret is.
    pub from: Secret,
}

/// Where a secret is that no policy holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// In this environment variable of whoever starts the run; the program does not get it.
    Env(String),
    /// In this file, which the program cannot read.
    File(AbsPath),
}

/// Whom a net rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPattern {
    /// Any name, and any public address.
    Any,
    /// One name.
    Name(HostName),
    /// One or more labels below this name.
    Below(HostName),
    /// Addresses.
    Range(IpNet),
    /// The name `localhost` and the loopback addresses.
    Localhost,
    /// A class of addresses, whatever their disguise.
    Class(IpClass),
}

/// Transports a net rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// TCP, MPTCP.
    Tcp,
    /// UDP, UDP-Lite.
    Udp,
    /// Neither: SCTP, raw …
    Other,
    /// Every transport.
    Any,
}

/// Direction of a net rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Connect, send, resolve.
    Out,
    /// Bind, listen.
    In,
    /// Both.
    Both,
}

/// The arguments an exec rule takes, after the program's own name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Args {
    /// Whatever they are.
    Any,
    /// Exactly these.
    Exactly(Vec<Text>),
    /// These, then any rest.
    Starting(Vec<Text>),
}

impl Rule {
    /// A rule that stands in no text, made by the run itself.
    pub(crate) fn new(id: RuleId, key: Key, effect: Effect, objects: Vec<Object>) -> Self {
        Self {
            id,
            source: "run".into(),
            line: 0,
            column: 0,
            text: String::new(),
            effect,
            key,
            tool: None,
            reason: None,
            until: None,
            approve: false,
            audit: false,
            carry: false,
            always: false,
            ids: Vec::new(),
            objects,
        }
    }

    /// Where it was written, `file:line:column`.
    pub fn place(&self) -> String {
        if self.line == 0 {
            return self.source.clone();
        }
        format!("{}:{}:{}", self.source, self.line, self.column)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Way {
    pub(crate) fn covers(self, wanted: Way) -> bool {
        self == Way::Both || self == wanted
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(b: &bool) -> bool {
    !b
}

/// `dev:ino` as text: inode numbers use all 64 bits on some file systems and a TOML integer has 63.
mod identities {
    use super::FileId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(ids: &[FileId], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(ids.iter().map(|id| format!("{}:{}", id.dev, id.ino)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<FileId>, D::Error> {
        let read = |text: &String| {
            let (dev, ino) = text.split_once(':')?;
            Some(FileId { dev: dev.parse().ok()?, ino: ino.parse().ok()? })
        };
        let texts = Vec::<String>::deserialize(d)?;
        texts
            .iter()
            .map(read)
            .collect::<Option<_>>()
            .ok_or_else(|| D::Error::custom("`ids` holds no identities"))
    }
}
