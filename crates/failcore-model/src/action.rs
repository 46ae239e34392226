//! What is attempted: verb and resource in one variant, so that "connect to a path" cannot be written.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{AbsPath, HostName, Rights, Text, Verb};

/// One attempted operation. One system call is one action, two-path calls included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `fs.open`: one open with the set of rights it needs.
    Open {
        /// The file.
        file: FileRef,
        /// Everything the open needs; all of it must be permitted.
        rights: Rights,
    },
    /// `fs.read` without an open: list a directory, map a file.
    Read(FileRef),
    /// `fs.create` without an open: mkdir, mknod, mkfifo.
    Create(FileRef),
    /// `fs.modify` by name: truncate.
    Modify(FileRef),
    /// `fs.delete`: unlink, rmdir.
    Delete(FileRef),
    /// `fs.attr`: mode, owner, times, extended attributes.
    Attr(FileRef),
    /// `fs.rename`.
    Rename {
        /// What is moved.
        from: FileRef,
        /// Its new name; `exists` says whether a target is overwritten.
        to: FileRef,
    },
    /// `fs.link`.
    Link {
        /// The existing file.
        from: FileRef,
        /// Its new name.
        to: FileRef,
    },
    /// `fs.symlink`: what it points to is judged when followed.
    Symlink {
        /// What it will point to, as written.
        target: Text,
        /// The new name.
        at: FileRef,
    },
    /// `net.resolve`.
    Resolve(HostName),
    /// `net.connect`.
    Connect(Endpoint),
    /// `net.send`: one datagram from an unconnected socket.
    Send(Endpoint),
    /// `net.bind`.
    Bind(Endpoint),
    /// `net.listen`.
    Listen(Endpoint),
    /// `net.socket`.
    Socket {
        /// The address family.
        family: Family,
        /// The socket type.
        kind: SocketKind,
        /// The protocol number (`IPPROTO_*`), 0 for the default.
        protocol: i32,
    },
    /// `net.http`.
    Http {
        /// The method, upper-case.
        method: String,
        /// The host the request is for.
        host: HostName,
        /// The port.
        port: u16,
        /// The path in normal form, starting with `/`, without the query.
        path: String,
    },
    /// `ipc.connect`.
    IpcConnect(UnixAddr),
    /// `process.exec`.
    Exec {
        /// The resolved image, `asked` being the name it was asked for by.
        image: FileRef,
        /// The argument vector, the program's own name first.
        argv: Vec<Text>,
    },
    /// `process.signal`.
    Signal {
        /// Who receives it, seen from the sender.
        to: SignalTarget,
        /// The process id as given (negative: a group).
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// `process.trace`: ptrace, process_vm_*, pidfd_getfd.
    Trace {
        /// The process reached into.
        pid: i32,
    },
    /// `process.limit`: prlimit and the like on another process.
    Limit {
        /// The process whose limit changes.
        pid: i32,
    },
    /// `native.load`.
    Load(NativeObject),
    /// `env.read`.
    EnvRead(Text),
    /// `kernel.call`: always refused.
    KernelCall(Text),
    /// An operation of a mediated family that no decoder knows: the audit event or system call by name.
    Unmapped(Text),
}

/// A file as a program names it and as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef {
    /// The path as the program wrote it.
    pub asked: Text,
    /// The resolved path: no symbolic link left in it, except that the last component may be one where the
    /// operation acts on the link itself.
    pub path: AbsPath,
    /// Whether something is there.
    pub exists: bool,
    /// Whether it is a directory, where that was looked at because a decision depends on it: at what is moved. What
    /// is not known counts as one.
    pub dir: Option<bool>,
    /// Identity of the object, if it was determined, and then of each directory above it; empty when not.
    pub ids: SmallVec<[FileId; 1]>,
}

impl FileRef {
    /// A reference to a resolved path, asked for by that very path, whose identity was not determined.
    pub fn at(path: AbsPath) -> Self {
        Self { asked: path.clone().into(), path, exists: true, dir: None, ids: SmallVec::new() }
    }

    /// Whether other files may lie below it.
    pub fn may_be_directory(&self) -> bool {
        self.dir != Some(false)
    }
}

/// Identity of a file while it exists.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct FileId {
    /// Device (`st_dev`).
    pub dev: u64,
    /// Inode (`st_ino`).
    pub ino: u64,
}

/// Transport of an internet endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP, MPTCP.
    Tcp,
    /// UDP, UDP-Lite.
    Udp,
    /// Anything else: SCTP, DCCP, raw, ICMP.
    Other,
}

/// The far or near end of a socket, as in the socket address handed to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// IPv4 or IPv6.
    Inet {
        /// The transport.
        transport: Transport,
        /// Address and port.
        addr: SocketAddr,
    },
    /// A unix socket (bind; connecting is [`Action::IpcConnect`]).
    Unix(UnixAddr),
    /// Another address family, by its number, with the raw address.
    Other {
        /// `AF_*`.
        family: i32,
        /// The bytes after the family.
        raw: Text,
    },
}

/// A unix socket's address (unix(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnixAddr {
    /// A name in the file system.
    Path(FileRef),
    /// An abstract name, without its leading NUL.
    Abstract(Text),
    /// An unnamed socket.
    Unnamed,
}

/// An address family that rules can speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// AF_INET
    Inet,
    /// AF_INET6
    Inet6,
    /// AF_UNIX
    Unix,
    /// Any other, by number: netlink, packet, vsock …
    Other(i32),
}

/// A socket type that rules can speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketKind {
    /// SOCK_STREAM
    Stream,
    /// SOCK_DGRAM
    Datagram,
    /// SOCK_SEQPACKET
    SeqPacket,
    /// SOCK_RAW, SOCK_PACKET
    Raw,
    /// Any other, by number.
    Other(i32),
}

/// Who a signal goes to, seen from the sender; the nearer is less.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    /// The sending process.
    Own,
    /// A process started by the sender, directly or not.
    Child,
    /// Another process of the run.
    Run,
    /// A process outside the run.
    Outside,
}

/// Native code about to enter the interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NativeObject {
    /// A shared object.
    Library(FileRef),
    /// The foreign function interface itself (ctypes, cffi).
    Ffi,
}

impl Action {
    /// Whether it only reads a file.
    pub fn reads(&self) -> bool {
        match self {
            Self::Open { rights, .. } => Rights::READ.contains(*rights),
            Self::Read(_) => true,
            _ => false,
        }
    }

    /// The verb of the action.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Open { .. } => Verb::FsOpen,
            Self::Read(_) => Verb::FsRead,
            Self::Create(_) => Verb::FsCreate,
            Self::Modify(_) => Verb::FsModify,
            Self::Delete(_) => Verb::FsDelete,
            Self::Attr(_) => Verb::FsAttr,
            Self::Rename { .. } => Verb::FsRename,
            Self::Link { .. } => Verb::FsLink,
            Self::Symlink { .. } => Verb::FsSymlink,
            Self::Resolve(_) => Verb::NetResolve,
            Self::Connect(_) => Verb::NetConnect,
            Self::Send(_) => Verb::NetSend,
            Self::Bind(_) => Verb::NetBind,
            Self::Listen(_) => Verb::NetListen,
            Self::Socket { .. } => Verb::NetSocket,
            Self::Http { .. } => Verb::NetHttp,
            Self::IpcConnect(_) => Verb::IpcConnect,
            Self::Exec { .. } => Verb::ProcessExec,
            Self::Signal { .. } => Verb::ProcessSignal,
            Self::Trace { .. } => Verb::ProcessTrace,
            Self::Limit { .. } => Verb::ProcessLimit,
            Self::Load(_) => Verb::NativeLoad,
            Self::EnvRead(_) => Verb::EnvRead,
            Self::KernelCall(_) => Verb::KernelCall,
            Self::Unmapped(_) => Verb::Unmapped,
        }
    }

    /// The resource in words, as denials and listings show it: `/work/a`, `10.0.0.1:80`, `/usr/bin/git status`.
    pub fn resource(&self) -> String {
        match self {
            Self::Open { file, .. }
            | Self::Read(file)
            | Self::Create(file)
            | Self::Modify(file)
            | Self::Delete(file)
            | Self::Attr(file) => file.path.to_string(),
            Self::Rename { from, to } | Self::Link { from, to } => format!("{} -> {}", from.path, to.path),
            Self::Symlink { target, at } => format!("{} -> {target}", at.path),
            Self::Resolve(host) => host.to_string(),
            Self::Connect(at) | Self::Send(at) | Self::Bind(at) | Self::Listen(at) => at.to_string(),
            Self::Socket { family, kind, protocol } => format!("{family} {kind} {protocol}"),
            Self::Http { method, host, port, path } => format!("{method} {host}:{port}{path}"),
            Self::IpcConnect(addr) => addr.to_string(),
            Self::Exec { image, argv } => {
                argv.iter().skip(1).fold(image.path.to_string(), |line, arg| format!("{line} {arg}"))
            }
            Self::Signal { to, pid, signal } => format!("{signal} to {pid} ({})", to.as_str()),
            Self::Trace { pid } | Self::Limit { pid } => pid.to_string(),
            Self::Load(NativeObject::Library(file)) => file.path.to_string(),
            Self::Load(NativeObject::Ffi) => "ctypes".into(),
            Self::EnvRead(name) => name.to_string(),
            Self::KernelCall(name) | Self::Unmapped(name) => name.to_string(),
        }
    }
}

impl SignalTarget {
    /// The word used in text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Child => "child",
            Self::Run => "run",
            Self::Outside => "outside",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { transport: Transport::Tcp, addr } => addr.fmt(f),
            Self::Inet { transport: Transport::Udp, addr } => write!(f, "udp:{addr}"),
            Self::Inet { transport: Transport::Other, addr } => write!(f, "other:{addr}"),
            Self::Unix(addr) => addr.fmt(f),
            Self::Other { family, .. } => write!(f, "family {family}"),
        }
    }
}

impl fmt::Display for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(file) => write!(f, "unix:{}", file.path),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Unnamed => f.write_str("unix:"),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet => f.write_str("inet"),
            Self::Inet6 => f.write_str("inet6"),
            Self::Unix => f.write_str("unix"),
            Self::Other(n) => write!(f, "family-{n}"),
        }
    }
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream => f.write_str("stream"),
            Self::Datagram => f.write_str("datagram"),
            Self::SeqPacket => f.write_str("seqpacket"),
            Self::Raw => f.write_str("raw"),
            Self::Other(n) => write!(f, "type-{n}"),
        }
    }
}

// The numbers of linux/socket.h, which the trace's schema names; the same on every Linux architecture but MIPS.
pub(crate) const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

impl Family {
    /// From the kernel's number (`AF_*`).
    pub fn from_number(family: i32) -> Self {
        match family {
            AF_UNIX => Self::Unix,
            AF_INET => Self::Inet,
            AF_INET6 => Self::Inet6,
            other => Self::Other(other),
        }
    }

    /// The kernel's number (`AF_*`).
    pub fn number(self) -> i32 {
        match self {
            Self::Unix => AF_UNIX,
            Self::Inet => AF_INET,
            Self::Inet6 => AF_INET6,
            Self::Other(other) => other,
        }
    }
}

impl SocketKind {
    /// From the kernel's number (`SOCK_*`), flags such as `SOCK_CLOEXEC` ignored.
    pub fn from_number(kind: i32) -> Self {
        match kind & 0xf {
            1 => Self::Stream,
            2 => Self::Datagram,
            3 | 10 => Self::Raw,
            5 => Self::SeqPacket,
            other => Self::Other(other),
        }
    }

    /// The kernel's number (`SOCK_*`).
    pub fn number(self) -> i32 {
        match self {
            Self::Stream => 1,
            Self::Datagram => 2,
            Self::Raw => 3,
            Self::SeqPacket => 5,
            Self::Other(other) => other,
        }
    }
}
