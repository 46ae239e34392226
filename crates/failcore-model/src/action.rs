//! What is attempted: verb and resource in one variant, so that "connect to a path" cannot be written.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

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
    /// Identity of the object and then of each directory above it, as far as determined; empty when not.
    pub ids: SmallVec<[FileId; 1]>,
}

impl FileRef {
    /// A reference to a resolved path, asked for by that very path, whose identity was not determined.
    pub fn at(path: AbsPath) -> Self {
        Self { asked: Text::from(path.as_bytes()), path, exists: true, ids: SmallVec::new() }
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

/// Who a signal goes to, seen from the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
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

// ---- the JSON form ------------------------------------------------------------------------------------------

/// The flat JSON form of an [`Action`]: `verb`, and the fields that verb has. Flat because people filter traces
/// with `jq`; one struct because tagged enums make serde buffer, and traces are read by the million.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Default)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Action")]
struct Flat {
    verb: Option<Verb>,
    /// The resolved path.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<AbsPath>,
    /// The path as the program wrote it, where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<Text>,
    /// Present and true where nothing is at `path`.
    #[serde(default, skip_serializing_if = "is_false")]
    absent: bool,
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    #[schemars(with = "Vec<FileId>")]
    ids: SmallVec<[FileId; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rights: Option<Rights>,
    /// The second path of a rename or link: the new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Box<Flat>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<HostName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// IPv6 scope id.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<Transport>,
    #[serde(rename = "abstract", skip_serializing_if = "Option::is_none")]
    abstract_name: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    argv: Option<Vec<Text>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver: Option<SignalTarget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Text>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(b: &bool) -> bool {
    !b
}

impl Flat {
    fn file(&mut self, file: &FileRef) {
        if file.asked.as_bytes() != file.path.as_bytes() {
            self.asked = Some(file.asked.clone());
        }
        self.path = Some(file.path.clone());
        self.absent = !file.exists;
        self.ids = file.ids.clone();
    }

    fn second(file: &FileRef) -> Option<Box<Self>> {
        let mut flat = Self::default();
        flat.file(file);
        Some(Box::new(flat))
    }

    fn unix(&mut self, addr: &UnixAddr) {
        self.family = Some(AF_UNIX);
        match addr {
            UnixAddr::Path(file) => self.file(file),
            UnixAddr::Abstract(name) => self.abstract_name = Some(name.clone()),
            UnixAddr::Unnamed => {}
        }
    }

    fn endpoint(&mut self, at: &Endpoint) {
        match at {
            Endpoint::Inet { transport, addr } => {
                self.transport = Some(*transport);
                self.addr = Some(addr.ip());
                self.port = Some(addr.port());
                if let SocketAddr::V6(v6) = addr {
                    self.zone = Some(v6.scope_id()).filter(|zone| *zone != 0);
                }
            }
            Endpoint::Unix(addr) => self.unix(addr),
            Endpoint::Other { family, raw } => {
                self.family = Some(*family);
                self.raw = Some(raw.clone());
            }
        }
    }

    fn take_file(&mut self) -> Result<FileRef, &'static str> {
        let path = self.path.take().ok_or("path")?;
        let asked = self.asked.take().unwrap_or_else(|| Text::from(path.as_bytes()));
        Ok(FileRef { asked, path, exists: !self.absent, ids: std::mem::take(&mut self.ids) })
    }

    fn take_second(&mut self) -> Result<FileRef, &'static str> {
        self.to.take().ok_or("to")?.take_file()
    }

    fn take_unix(&mut self) -> Result<UnixAddr, &'static str> {
        Ok(if self.path.is_some() {
            UnixAddr::Path(self.take_file()?)
        } else {
            self.abstract_name.take().map_or(UnixAddr::Unnamed, UnixAddr::Abstract)
        })
    }

    fn take_endpoint(&mut self) -> Result<Endpoint, &'static str> {
        if let Some(ip) = self.addr {
            let (port, transport) = (self.port.ok_or("port")?, self.transport.ok_or("transport")?);
            let mut addr = SocketAddr::new(ip, port);
            if let (SocketAddr::V6(v6), Some(zone)) = (&mut addr, self.zone) {
                v6.set_scope_id(zone);
            }
            return Ok(Endpoint::Inet { transport, addr });
        }
        match self.family.ok_or("addr")? {
            AF_UNIX => self.take_unix().map(Endpoint::Unix),
            family => Ok(Endpoint::Other { family, raw: self.raw.take().ok_or("raw")? }),
        }
    }

    fn take_name(&mut self) -> Result<Text, &'static str> {
        self.name.take().ok_or("name")
    }
}

// The numbers of linux/socket.h, which the trace's schema names; the same on every Linux architecture but MIPS.
const AF_UNIX: i32 = 1;
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

impl From<&Action> for Flat {
    fn from(action: &Action) -> Self {
        let mut flat = Self { verb: Some(action.verb()), ..Self::default() };
        match action {
            Action::Open { file, rights } => {
                flat.file(file);
                flat.rights = Some(*rights);
            }
            Action::Read(file)
            | Action::Create(file)
            | Action::Modify(file)
            | Action::Delete(file)
            | Action::Attr(file)
            | Action::Load(NativeObject::Library(file)) => flat.file(file),
            Action::Rename { from, to } | Action::Link { from, to } => {
                flat.file(from);
                flat.to = Self::second(to);
            }
            Action::Symlink { target, at } => {
                flat.file(at);
                flat.target = Some(target.clone());
            }
            Action::Resolve(host) => flat.host = Some(host.clone()),
            Action::Connect(at) | Action::Send(at) | Action::Bind(at) | Action::Listen(at) => {
                flat.endpoint(at)
            }
            Action::Socket { family, kind, protocol } => {
                flat.family = Some(family.number());
                flat.kind = Some(kind.number());
                flat.protocol = Some(*protocol);
            }
            Action::Http { method, host, port, path } => {
                flat.method = Some(method.clone());
                flat.host = Some(host.clone());
                flat.port = Some(*port);
                flat.url_path = Some(path.clone());
            }
            Action::IpcConnect(addr) => flat.unix(addr),
            Action::Exec { image, argv } => {
                flat.file(image);
                flat.argv = Some(argv.clone());
            }
            Action::Signal { to, pid, signal } => {
                flat.receiver = Some(*to);
                flat.pid = Some(*pid);
                flat.signal = Some(*signal);
            }
            Action::Trace { pid } | Action::Limit { pid } => flat.pid = Some(*pid),
            Action::Load(NativeObject::Ffi) => {}
            Action::EnvRead(name) | Action::KernelCall(name) | Action::Unmapped(name) => {
                flat.name = Some(name.clone());
            }
        }
        flat
    }
}

impl TryFrom<Flat> for Action {
    type Error = String;

    fn try_from(mut flat: Flat) -> Result<Self, String> {
        let verb = flat.verb.ok_or("action has no `verb`")?;
        Self::from_flat(verb, &mut flat).map_err(|field| format!("action `{verb}` has no `{field}`"))
    }
}

impl Action {
    fn from_flat(verb: Verb, flat: &mut Flat) -> Result<Self, &'static str> {
        Ok(match verb {
            Verb::FsOpen => Self::Open { rights: flat.rights.ok_or("rights")?, file: flat.take_file()? },
            Verb::FsRead => Self::Read(flat.take_file()?),
            Verb::FsCreate => Self::Create(flat.take_file()?),
            Verb::FsModify => Self::Modify(flat.take_file()?),
            Verb::FsDelete => Self::Delete(flat.take_file()?),
            Verb::FsAttr => Self::Attr(flat.take_file()?),
            Verb::FsRename => Self::Rename { to: flat.take_second()?, from: flat.take_file()? },
            Verb::FsLink => Self::Link { to: flat.take_second()?, from: flat.take_file()? },
            Verb::FsSymlink => {
                Self::Symlink { target: flat.target.take().ok_or("target")?, at: flat.take_file()? }
            }
            Verb::NetResolve => Self::Resolve(flat.host.take().ok_or("host")?),
            Verb::NetConnect => Self::Connect(flat.take_endpoint()?),
            Verb::NetSend => Self::Send(flat.take_endpoint()?),
            Verb::NetBind => Self::Bind(flat.take_endpoint()?),
            Verb::NetListen => Self::Listen(flat.take_endpoint()?),
            Verb::NetSocket => Self::Socket {
                family: Family::from_number(flat.family.ok_or("family")?),
                kind: SocketKind::from_number(flat.kind.ok_or("kind")?),
                protocol: flat.protocol.ok_or("protocol")?,
            },
            Verb::NetHttp => Self::Http {
                method: flat.method.take().ok_or("method")?,
                host: flat.host.take().ok_or("host")?,
                port: flat.port.ok_or("port")?,
                path: flat.url_path.take().ok_or("url_path")?,
            },
            Verb::IpcConnect => Self::IpcConnect(flat.take_unix()?),
            Verb::ProcessExec => {
                Self::Exec { argv: flat.argv.take().ok_or("argv")?, image: flat.take_file()? }
            }
            Verb::ProcessSignal => Self::Signal {
                to: flat.receiver.ok_or("receiver")?,
                pid: flat.pid.ok_or("pid")?,
                signal: flat.signal.ok_or("signal")?,
            },
            Verb::ProcessTrace => Self::Trace { pid: flat.pid.ok_or("pid")? },
            Verb::ProcessLimit => Self::Limit { pid: flat.pid.ok_or("pid")? },
            Verb::NativeLoad if flat.path.is_none() => Self::Load(NativeObject::Ffi),
            Verb::NativeLoad => Self::Load(NativeObject::Library(flat.take_file()?)),
            Verb::EnvRead => Self::EnvRead(flat.take_name()?),
            Verb::KernelCall => Self::KernelCall(flat.take_name()?),
            Verb::Unmapped => Self::Unmapped(flat.take_name()?),
        })
    }
}

impl Serialize for Action {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Flat::from(self).serialize(s)
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Flat::deserialize(d)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Action {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Action".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Flat::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> FileRef {
        let mut file = FileRef::at(AbsPath::new(path.as_bytes()).unwrap());
        file.ids.push(FileId { dev: 1, ino: 2 });
        file
    }

    #[test]
    fn every_action_survives_json() {
        let inet = |text: &str| Endpoint::Inet { transport: Transport::Tcp, addr: text.parse().unwrap() };
        let host = HostName::parse("api.example.com").unwrap();
        let missing = FileRef { exists: false, asked: Text::from(b"../\xff"), ..file("/w/a") };
        let actions = [
            Action::Open { file: missing.clone(), rights: Rights::READ | Rights::CREATE },
            Action::Read(file("/w")),
            Action::Create(file("/w/d")),
            Action::Modify(file("/w/d")),
            Action::Delete(file("/w/d")),
            Action::Attr(file("/w/d")),
            Action::Rename { from: file("/a"), to: missing.clone() },
            Action::Link { from: file("/a"), to: missing },
            Action::Symlink { target: Text::from("../x"), at: file("/b") },
            Action::Resolve(host.clone()),
            Action::Connect(inet("[fe80::1%3]:80")),
            Action::Send(inet("10.0.0.1:53")),
            Action::Bind(Endpoint::Unix(UnixAddr::Path(file("/run/s")))),
            Action::Listen(Endpoint::Other { family: 40, raw: Text::from(b"\x01\xff") }),
            Action::Socket { family: Family::Other(16), kind: SocketKind::Raw, protocol: 0 },
            Action::Http { method: "GET".into(), host, port: 443, path: "/a".into() },
            Action::IpcConnect(UnixAddr::Abstract(Text::from("bus"))),
            Action::IpcConnect(UnixAddr::Unnamed),
            Action::Exec { image: file("/usr/bin/git"), argv: vec!["git".into(), "status".into()] },
            Action::Signal { to: SignalTarget::Child, pid: -7, signal: 9 },
            Action::Trace { pid: 7 },
            Action::Limit { pid: 7 },
            Action::Load(NativeObject::Library(file("/lib/x.so"))),
            Action::Load(NativeObject::Ffi),
            Action::EnvRead("HOME".into()),
            Action::KernelCall("mount".into()),
            Action::Unmapped("os.new_thing".into()),
        ];
        let verbs: std::collections::HashSet<Verb> = actions.iter().map(Action::verb).collect();
        assert_eq!(verbs.len(), Verb::ALL.len(), "a verb has no case here");
        for action in actions {
            let json = serde_json::to_string(&action).unwrap();
            assert_eq!(serde_json::from_str::<Action>(&json).unwrap(), action, "{json}");
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = serde_json::from_str::<Action>(r#"{"verb":"fs.open","path":"/a"}"#).unwrap_err();
        assert!(error.to_string().contains("action `fs.open` has no `rights`"), "{error}");
    }
}
