//! Records as rows of the index: the same facts as in the JSON form, in postcard, borrowed from the file.
//!
//! The model's own serde forms are made for JSON, where fields may be left out; a row has every field in its place.

use std::net::{IpAddr, SocketAddr};

use failcore_model::{
    AbsPath, Action, Answer, Claims, Context, Counters, Decision, Endpoint, Event, Family, Fault, FileId,
    FileRef, HostName, Lane, NativeObject, Obligation, Reason, Record, Request, Rights, RuleId, SignalTarget,
    SocketKind, Subject, Text, Timestamp, Transport, UnixAddr, Verb, Verdict,
};
use serde::{Deserialize, Serialize};

/// One record of the index.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct Row<'a> {
    pub(crate) seq: u64,
    ts: u64,
    fact: Fact<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
#[allow(clippy::large_enum_variant, reason = "rows are made and used up one at a time")]
enum Fact<'a> {
    Decided(Decided<'a>),
    Approval { op: u64, pid: u32, approved: bool, who: &'a [u8] },
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Decided<'a> {
    op: u64,
    enforced: bool,
    ns: u64,
    action: What<'a>,
    pid: u32,
    tid: u32,
    exe: &'a [u8],
    agent: Option<&'a [u8]>,
    run: Option<&'a [u8]>,
    scope: Vec<&'a [u8]>,
    step: Option<&'a [u8]>,
    site: Option<&'a [u8]>,
    lane: Lane,
    time: u64,
    names: Vec<&'a str>,
    addresses: Vec<IpAddr>,
    counters: [u64; 6],
    verdict: Verdict,
    reason: Reason,
    rules: Vec<&'a str>,
    obligations: Vec<Obligation>,
    faults: Vec<Fault>,
}

/// An action: the verb where several share a form.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum What<'a> {
    Open(File<'a>, u8),
    File(Verb, File<'a>),
    Files(Verb, File<'a>, File<'a>),
    Symlink(&'a [u8], File<'a>),
    Resolve(&'a str),
    Socket(i32, i32, i32),
    Endpoint(Verb, Place<'a>),
    Ipc(Unix<'a>),
    Http(&'a str, &'a str, u16, &'a str),
    Exec(File<'a>, Vec<&'a [u8]>),
    Signal(SignalTarget, i32, i32),
    Process(Verb, i32),
    Ffi,
    Named(Verb, &'a [u8]),
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct File<'a> {
    path: &'a [u8],
    /// Where it differs from the path.
    asked: Option<&'a [u8]>,
    exists: bool,
    dir: Option<bool>,
    ids: Vec<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum Place<'a> {
    Inet { transport: Transport, ip: IpAddr, port: u16, zone: u32 },
    Unix(Unix<'a>),
    Other(i32, &'a [u8]),
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum Unix<'a> {
    Path(File<'a>),
    Abstract(&'a [u8]),
    Unnamed,
}

impl<'a> Row<'a> {
    /// The row of a record; `None` for records that no decision depends on.
    pub(crate) fn of(record: &'a Record) -> Option<Self> {
        let fact = match &record.event {
            Event::Decided { op, request, decision, enforced, ns } => {
                Fact::Decided(Decided::of(*op, request, decision, *enforced, *ns))
            }
            Event::Approval { op, pid, answer, who } => Fact::Approval {
                op: *op,
                pid: *pid,
                approved: *answer == Answer::Approved,
                who: who.as_bytes(),
            },
            _ => return None,
        };
        Some(Self { seq: record.seq, ts: record.ts.0, fact })
    }

    /// The record again; `None` where the row holds what no record can.
    pub(crate) fn record(self, session: &str) -> Option<Record> {
        let event = match self.fact {
            Fact::Decided(decided) => decided.event()?,
            Fact::Approval { op, pid, approved, who } => {
                let answer = if approved { Answer::Approved } else { Answer::Denied };
                Event::Approval { op, pid, answer, who: who.into() }
            }
        };
        Some(Record { seq: self.seq, ts: Timestamp(self.ts), session: session.into(), event })
    }
}

fn bytes(text: &Text) -> &[u8] {
    text.as_bytes()
}

fn all(texts: &[Text]) -> Vec<&[u8]> {
    texts.iter().map(Text::as_bytes).collect()
}

fn texts(all: Vec<&[u8]>) -> Vec<Text> {
    all.into_iter().map(Text::from).collect()
}

impl<'a> Decided<'a> {
    fn of(op: u64, request: &'a Request, decision: &'a Decision, enforced: bool, ns: u64) -> Self {
        // Taken apart field by field: a new one does not compile until it has its place here.
        let Request { action, subject, context } = request;
        let Subject { pid, tid, exe, agent, run, claimed: Claims { scope, step, site } } = subject;
        let Context { lane, time, names, addresses, counters } = context;
        let Counters { wall_ns, operations, connections, processes, write_bytes, memory } = *counters;
        let Decision { verdict, reason, rules, obligations, faults } = decision;
        Self {
            op,
            enforced,
            ns,
            action: What::of(action),
            pid: *pid,
            tid: *tid,
            exe: exe.as_bytes(),
            agent: agent.as_ref().map(bytes),
            run: run.as_ref().map(bytes),
            scope: all(scope),
            step: step.as_ref().map(bytes),
            site: site.as_ref().map(bytes),
            lane: *lane,
            time: time.0,
            names: names.iter().map(HostName::as_str).collect(),
            addresses: addresses.to_vec(),
            counters: [wall_ns, operations, connections, processes, write_bytes, memory],
            verdict: *verdict,
            reason: *reason,
            rules: rules.iter().map(RuleId::as_str).collect(),
            obligations: obligations.to_vec(),
            faults: faults.to_vec(),
        }
    }

    fn event(self) -> Option<Event> {
        let [wall_ns, operations, connections, processes, write_bytes, memory] = self.counters;
        let names: Option<_> = self.names.into_iter().map(|name| HostName::parse(name).ok()).collect();
        let request = Request {
            action: self.action.action()?,
            subject: Subject {
                pid: self.pid,
                tid: self.tid,
                exe: self.exe.into(),
                agent: self.agent.map(Text::from),
                run: self.run.map(Text::from),
                claimed: Claims {
                    scope: texts(self.scope),
                    step: self.step.map(Text::from),
                    site: self.site.map(Text::from),
                },
            },
            context: Context {
                lane: self.lane,
                time: Timestamp(self.time),
                names: names?,
                addresses: self.addresses.into(),
                counters: Counters { wall_ns, operations, connections, processes, write_bytes, memory },
            },
        };
        let decision = Decision {
            verdict: self.verdict,
            reason: self.reason,
            rules: self.rules.into_iter().map(RuleId::from).collect(),
            obligations: self.obligations.into(),
            faults: self.faults.into(),
        };
        Some(Event::Decided {
            op: self.op,
            request: Box::new(request),
            decision,
            enforced: self.enforced,
            ns: self.ns,
        })
    }
}

impl<'a> What<'a> {
    fn of(action: &'a Action) -> Self {
        let verb = action.verb();
        match action {
            Action::Open { file, rights } => Self::Open(File::of(file), rights.bits()),
            Action::Read(file)
            | Action::Create(file)
            | Action::Modify(file)
            | Action::Delete(file)
            | Action::Attr(file)
            | Action::Load(NativeObject::Library(file)) => Self::File(verb, File::of(file)),
            Action::Rename { from, to } | Action::Link { from, to } => {
                Self::Files(verb, File::of(from), File::of(to))
            }
            Action::Symlink { target, at } => Self::Symlink(target.as_bytes(), File::of(at)),
            Action::Resolve(host) => Self::Resolve(host.as_str()),
            Action::Connect(at) | Action::Send(at) | Action::Bind(at) | Action::Listen(at) => {
                Self::Endpoint(verb, Place::of(at))
            }
            Action::Socket { family, kind, protocol } => {
                Self::Socket(family.number(), kind.number(), *protocol)
            }
            Action::Http { method, host, port, path } => Self::Http(method, host.as_str(), *port, path),
            Action::IpcConnect(addr) => Self::Ipc(Unix::of(addr)),
            Action::Exec { image, argv } => Self::Exec(File::of(image), all(argv)),
            Action::Signal { to, pid, signal } => Self::Signal(*to, *pid, *signal),
            Action::Trace { pid } | Action::Limit { pid } => Self::Process(verb, *pid),
            Action::Load(NativeObject::Ffi) => Self::Ffi,
            Action::EnvRead(name) | Action::KernelCall(name) | Action::Unmapped(name) => {
                Self::Named(verb, name.as_bytes())
            }
        }
    }

    fn action(self) -> Option<Action> {
        Some(match self {
            Self::Open(file, rights) => {
                Action::Open { file: file.reference()?, rights: Rights::from_bits(rights)? }
            }
            Self::File(verb, file) => {
                let file = file.reference()?;
                match verb {
                    Verb::FsRead => Action::Read(file),
                    Verb::FsCreate => Action::Create(file),
                    Verb::FsModify => Action::Modify(file),
                    Verb::FsDelete => Action::Delete(file),
                    Verb::FsAttr => Action::Attr(file),
                    Verb::NativeLoad => Action::Load(NativeObject::Library(file)),
                    _ => return None,
                }
            }
            Self::Files(verb, from, to) => {
                let (from, to) = (from.reference()?, to.reference()?);
                match verb {
                    Verb::FsRename => Action::Rename { from, to },
                    Verb::FsLink => Action::Link { from, to },
                    _ => return None,
                }
            }
            Self::Symlink(target, at) => Action::Symlink { target: target.into(), at: at.reference()? },
            Self::Resolve(host) => Action::Resolve(HostName::parse(host).ok()?),
            Self::Socket(family, kind, protocol) => Action::Socket {
                family: Family::from_number(family),
                kind: SocketKind::from_number(kind),
                protocol,
            },
            Self::Endpoint(verb, place) => {
                let at = place.endpoint()?;
                match verb {
                    Verb::NetConnect => Action::Connect(at),
                    Verb::NetSend => Action::Send(at),
                    Verb::NetBind => Action::Bind(at),
                    Verb::NetListen => Action::Listen(at),
                    _ => return None,
                }
            }
            Self::Ipc(addr) => Action::IpcConnect(addr.addr()?),
            Self::Http(method, host, port, path) => Action::Http {
                method: method.into(),
                host: HostName::parse(host).ok()?,
                port,
                path: path.into(),
            },
            Self::Exec(image, argv) => Action::Exec { image: image.reference()?, argv: texts(argv) },
            Self::Signal(to, pid, signal) => Action::Signal { to, pid, signal },
            Self::Process(Verb::ProcessTrace, pid) => Action::Trace { pid },
            Self::Process(Verb::ProcessLimit, pid) => Action::Limit { pid },
            Self::Ffi => Action::Load(NativeObject::Ffi),
            Self::Named(Verb::EnvRead, name) => Action::EnvRead(name.into()),
            Self::Named(Verb::KernelCall, name) => Action::KernelCall(name.into()),
            Self::Named(Verb::Unmapped, name) => Action::Unmapped(name.into()),
            Self::Process(..) | Self::Named(..) => return None,
        })
    }
}

impl<'a> File<'a> {
    fn of(file: &'a FileRef) -> Self {
        let FileRef { asked, path, exists, dir, ids } = file;
        let asked = Some(asked.as_bytes()).filter(|asked| *asked != path.as_bytes());
        let ids = ids.iter().map(|id| (id.dev, id.ino)).collect();
        Self { path: path.as_bytes(), asked, exists: *exists, dir: *dir, ids }
    }

    fn reference(self) -> Option<FileRef> {
        Some(FileRef {
            asked: self.asked.unwrap_or(self.path).into(),
            path: AbsPath::try_from(Text::from(self.path)).ok()?,
            exists: self.exists,
            dir: self.dir,
            ids: self.ids.into_iter().map(|(dev, ino)| FileId { dev, ino }).collect(),
        })
    }
}

impl<'a> Place<'a> {
    fn of(at: &'a Endpoint) -> Self {
        match at {
            Endpoint::Inet { transport, addr } => {
                let zone = if let SocketAddr::V6(v6) = addr { v6.scope_id() } else { 0 };
                Self::Inet { transport: *transport, ip: addr.ip(), port: addr.port(), zone }
            }
            Endpoint::Unix(addr) => Self::Unix(Unix::of(addr)),
            Endpoint::Other { family, raw } => Self::Other(*family, raw.as_bytes()),
        }
    }

    fn endpoint(self) -> Option<Endpoint> {
        Some(match self {
            Self::Inet { transport, ip, port, zone } => {
                let mut addr = SocketAddr::new(ip, port);
                if let SocketAddr::V6(v6) = &mut addr {
                    v6.set_scope_id(zone);
                }
                Endpoint::Inet { transport, addr }
            }
            Self::Unix(addr) => Endpoint::Unix(addr.addr()?),
            Self::Other(family, raw) => Endpoint::Other { family, raw: raw.into() },
        })
    }
}

impl<'a> Unix<'a> {
    fn of(addr: &'a UnixAddr) -> Self {
        match addr {
            UnixAddr::Path(file) => Self::Path(File::of(file)),
            UnixAddr::Abstract(name) => Self::Abstract(name.as_bytes()),
            UnixAddr::Unnamed => Self::Unnamed,
        }
    }

    fn addr(self) -> Option<UnixAddr> {
        Some(match self {
            Self::Path(file) => UnixAddr::Path(file.reference()?),
            Self::Abstract(name) => UnixAddr::Abstract(name.into()),
            Self::Unnamed => UnixAddr::Unnamed,
        })
    }
}
