//! The verbs, defined once: the same strings in policy text, Python, trace and documentation.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// What is attempted, without its object.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum Verb {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Verb {
            /// Every verb, in the order of the documentation.
            pub const ALL: &[Verb] = &[$(Verb::$name,)*];

            /// The verb as it is written everywhere, such as `fs.read`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Verb::$name => $text,)* }
            }
        }
    };
}

verbs! {
    /// Open a file with a set of rights.
    FsOpen = "fs.open",
    /// Read contents or list a directory without an open of its own.
    FsRead = "fs.read",
    /// Make a directory, node or FIFO.
    FsCreate = "fs.create",
    /// Change contents by name (truncate).
    FsModify = "fs.modify",
    /// Unlink or rmdir.
    FsDelete = "fs.delete",
    /// Change mode, owner, times or extended attributes.
    FsAttr = "fs.attr",
    /// Rename: delete(from) + create(to) + delete(an overwritten target).
    FsRename = "fs.rename",
    /// Make a hard link.
    FsLink = "fs.link",
    /// Make a symbolic link.
    FsSymlink = "fs.symlink",
    /// Look a host name up.
    NetResolve = "net.resolve",
    /// Connect a socket to an address.
    NetConnect = "net.connect",
    /// Send one datagram from an unconnected socket.
    NetSend = "net.send",
    /// Bind a socket to a local address.
    NetBind = "net.bind",
    /// Accept connections.
    NetListen = "net.listen",
    /// Create a socket of a family and type.
    NetSocket = "net.socket",
    /// One HTTP request on a carried connection.
    NetHttp = "net.http",
    /// Connect to a unix socket.
    IpcConnect = "ipc.connect",
    /// Start a program image.
    ProcessExec = "process.exec",
    /// Send a signal.
    ProcessSignal = "process.signal",
    /// Trace a process or reach into its memory.
    ProcessTrace = "process.trace",
    /// Change another process's limits.
    ProcessLimit = "process.limit",
    /// Load native code into the interpreter.
    NativeLoad = "native.load",
    /// Read an environment variable (interpreter lane).
    EnvRead = "env.read",
    /// An operation on the system itself that is always refused.
    KernelCall = "kernel.call",
    /// An operation of a mediated family that no decoder knows.
    Unmapped = "unmapped",
}

impl std::str::FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| UnknownVerb(text.into()))
    }
}

/// A word that names no verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no verb")]
pub struct UnknownVerb(String);

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
