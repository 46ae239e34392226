//! The JSON form of an [`Action`]: written from borrowed fields, read through one flat struct.

use std::net::{IpAddr, SocketAddr};

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use smallvec::SmallVec;

use crate::action::AF_UNIX;
use crate::{
    AbsPath, Action, Endpoint, Family, FileId, FileRef, HostName, NativeObject, Rights, SignalTarget,
    SocketKind, Text, Transport, UnixAddr, Verb,
};

/// The flat JSON form of an [`Action`]: `verb`, and the fields that verb has. Flat because people filter traces
/// with `jq`; one struct because tagged enums make serde buffer, and traces are read by the million.
#[derive(Deserialize, schemars::JsonSchema, Default)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Action", description = "What was attempted. Which fields stand depends on `verb`.")]
struct Flat {
    verb: Option<Verb>,
    /// The resolved path.
    path: Option<AbsPath>,
    /// The path as the program wrote it, where it differs.
    asked: Option<Text>,
    /// Present and true where nothing is at `path`.
    #[serde(default)]
    absent: bool,
    /// Whether what is moved is a directory. Where it is not said it counts as one.
    dir: Option<bool>,
    #[serde(default)]
    #[schemars(with = "Vec<FileId>")]
    ids: SmallVec<[FileId; 1]>,
    rights: Option<Rights>,
    /// The second path of a rename or link: the new name.
    to: Option<Box<Flat>>,
    target: Option<Text>,
    host: Option<HostName>,
    addr: Option<IpAddr>,
    port: Option<u16>,
    /// IPv6 scope id.
    zone: Option<u32>,
    transport: Option<Transport>,
    #[serde(rename = "abstract")]
    abstract_name: Option<Text>,
    family: Option<i32>,
    kind: Option<i32>,
    protocol: Option<i32>,
    raw: Option<Text>,
    method: Option<String>,
    url_path: Option<String>,
    argv: Option<Vec<Text>>,
    pid: Option<i32>,
    signal: Option<i32>,
    receiver: Option<SignalTarget>,
    name: Option<Text>,
}

impl Flat {
    fn take_file(&mut self) -> Result<FileRef, &'static str> {
        let path = self.path.take().ok_or("path")?;
        let asked = self.asked.take().unwrap_or_else(|| path.clone().into());
        Ok(FileRef { asked, path, exists: !self.absent, dir: self.dir, ids: std::mem::take(&mut self.ids) })
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
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("verb", &self.verb())?;
        self.fields(&mut map)?;
        map.end()
    }
}

/// The fields of the flat form, written from where they are: nothing is copied on the way to the trace.
impl Action {
    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        match self {
            Self::Open { file, rights } => {
                file.fields(map)?;
                map.serialize_entry("rights", rights)
            }
            Self::Read(file)
            | Self::Create(file)
            | Self::Modify(file)
            | Self::Delete(file)
            | Self::Attr(file)
            | Self::Load(NativeObject::Library(file)) => file.fields(map),
            Self::Rename { from, to } | Self::Link { from, to } => {
                from.fields(map)?;
                map.serialize_entry("to", &Second(to))
            }
            Self::Symlink { target, at } => {
                at.fields(map)?;
                map.serialize_entry("target", target)
            }
            Self::Resolve(host) => map.serialize_entry("host", host),
            Self::Connect(at) | Self::Send(at) | Self::Bind(at) | Self::Listen(at) => at.fields(map),
            Self::Socket { family, kind, protocol } => {
                map.serialize_entry("family", &family.number())?;
                map.serialize_entry("kind", &kind.number())?;
                map.serialize_entry("protocol", protocol)
            }
            Self::Http { method, host, port, path } => {
                map.serialize_entry("method", method)?;
                map.serialize_entry("host", host)?;
                map.serialize_entry("port", port)?;
                map.serialize_entry("url_path", path)
            }
            Self::IpcConnect(addr) => addr.fields(map),
            Self::Exec { image, argv } => {
                image.fields(map)?;
                map.serialize_entry("argv", argv)
            }
            Self::Signal { to, pid, signal } => {
                map.serialize_entry("receiver", to)?;
                map.serialize_entry("pid", pid)?;
                map.serialize_entry("signal", signal)
            }
            Self::Trace { pid } | Self::Limit { pid } => map.serialize_entry("pid", pid),
            Self::Load(NativeObject::Ffi) => Ok(()),
            Self::EnvRead(name) | Self::KernelCall(name) | Self::Unmapped(name) => {
                map.serialize_entry("name", name)
            }
        }
    }
}

impl FileRef {
    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("path", &self.path)?;
        if self.asked.as_bytes() != self.path.as_bytes() {
            map.serialize_entry("asked", &self.asked)?;
        }
        if !self.exists {
            map.serialize_entry("absent", &true)?;
        }
        if let Some(dir) = self.dir {
            map.serialize_entry("dir", &dir)?;
        }
        if !self.ids.is_empty() {
            map.serialize_entry("ids", &self.ids)?;
        }
        Ok(())
    }
}

/// The second file of an action, as an object of its own.
struct Second<'a>(&'a FileRef);

impl Serialize for Second<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        self.0.fields(&mut map)?;
        map.end()
    }
}

impl UnixAddr {
    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("family", &AF_UNIX)?;
        match self {
            Self::Path(file) => file.fields(map),
            Self::Abstract(name) => map.serialize_entry("abstract", name),
            Self::Unnamed => Ok(()),
        }
    }
}

impl Endpoint {
    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        match self {
            Self::Inet { transport, addr } => {
                map.serialize_entry("addr", &addr.ip())?;
                map.serialize_entry("port", &addr.port())?;
                if let SocketAddr::V6(v6) = addr
                    && v6.scope_id() != 0
                {
                    map.serialize_entry("zone", &v6.scope_id())?;
                }
                map.serialize_entry("transport", transport)
            }
            Self::Unix(addr) => addr.fields(map),
            Self::Other { family, raw } => {
                map.serialize_entry("family", family)?;
                map.serialize_entry("raw", raw)
            }
        }
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
            Action::Rename { from: FileRef { dir: Some(false), ..file("/a") }, to: missing.clone() },
            Action::Rename { from: FileRef { dir: Some(true), ..file("/a") }, to: file("/b") },
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
