//! Events in compact form: rows of the index, and what an agent's process hands to its parent.
//!
//! The model's own serde forms are made for JSON, where fields may be left out; here every field has its place, in
//! postcard, and texts are borrowed. Both sides of a trace pay for each record, so nothing is allocated on the way.

use std::borrow::Cow;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use failcore_model::{
    AbsPath, Action, Answer, Claims, Context, Counters, Decision, Endpoint, Event, Family, Fault, FileId,
    FileRef, HostName, Lane, NativeObject, Obligation, Outcome, Reason, Request, Rights, RuleId,
    SignalTarget, SocketKind, Subject, Text, Timestamp, Transport, UnixAddr, Verb, Verdict,
};
use postcard::ser_flavors::Flavor;
use rustc_hash::FxHasher;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::TraceError;

/// What an agent's process may state: events but those that only the writer's side knows, such as who joined.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
#[allow(clippy::large_enum_variant, reason = "facts are made and used up one at a time")]
pub(crate) enum Fact<'a> {
    Decided(Decided<'a>),
    Approval { op: u64, pid: u32, approved: bool, who: Bytes<'a> },
    Concluded { op: u64, pid: u32, outcome: Outcome },
    ScopeEntered { pid: u32, tid: u32, scope: Texts<'a>, step: Option<Bytes<'a>> },
    ScopeLeft { pid: u32, tid: u32, scope: Texts<'a> },
}

/// Appends the compact form of an event that an agent's process may state.
///
/// # Errors
/// [`TraceError::NotAnEvent`] for every other event; nothing is appended then.
pub fn pack(event: &Event, out: &mut Vec<u8>) -> Result<(), TraceError> {
    let fact = Fact::of(event)
        .ok_or_else(|| TraceError::NotAnEvent(format!("`{}` is not for an agent to say", event.kind())))?;
    append(&fact, out).map_err(|error| TraceError::NotAnEvent(error.to_string()))
}

/// Appends a value's postcard form, with whole slices at once.
pub(crate) fn append(value: &impl Serialize, out: &mut Vec<u8>) -> postcard::Result<()> {
    struct To<'v>(&'v mut Vec<u8>);
    impl Flavor for To<'_> {
        type Output = ();

        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }

        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            // Numbers are most of a record and have few bytes: of a known length they are copied in place.
            match *bytes {
                [a] => self.0.push(a),
                [a, b] => self.0.extend_from_slice(&[a, b]),
                [a, b, c] => self.0.extend_from_slice(&[a, b, c]),
                [a, b, c, d] => self.0.extend_from_slice(&[a, b, c, d]),
                _ => self.0.extend_from_slice(bytes),
            }
            Ok(())
        }

        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    postcard::serialize_with_flavor(value, To(out))
}

/// Reads events in compact form.
#[derive(Default)]
pub struct Unpacker {
    known: Known,
    /// Who attempted what the row before spoke of.
    subject: Subject,
}

impl Unpacker {
    /// Reads exactly one event.
    ///
    /// # Security
    /// The bytes may come from a hostile process: every name and path is checked as when it is read from JSON.
    ///
    /// # Errors
    /// [`TraceError::NotAnEvent`].
    pub fn unpack(&mut self, bytes: &[u8]) -> Result<Event, TraceError> {
        let (fact, rest) = postcard::take_from_bytes::<Fact<'_>>(bytes)
            .map_err(|error| TraceError::NotAnEvent(error.to_string()))?;
        if !rest.is_empty() {
            return Err(TraceError::NotAnEvent("something follows it".into()));
        }
        if matches!(fact, Fact::Decided(Decided { who: None, .. })) {
            return Err(TraceError::NotAnEvent("it does not say who".into()));
        }
        fact.event(self).ok_or_else(|| TraceError::NotAnEvent("it holds what no event can".into()))
    }

    /// The event of the next row of an index; `None` where it holds what no event can.
    pub(crate) fn row(&mut self, fact: Fact<'_>) -> Option<Event> {
        let new = matches!(fact, Fact::Decided(Decided { who: Some(_), .. }));
        let event = fact.event(self)?;
        if new && let Event::Decided { request, .. } = &event {
            self.subject = request.subject.clone();
        }
        Some(event)
    }
}

/// Texts that come again and again, such as the image, the agent's name, tools and rules: each is in memory once.
struct Known {
    texts: [Text; Self::SLOTS],
    rules: [Option<RuleId>; Self::SLOTS],
}

impl Default for Known {
    fn default() -> Self {
        Self { texts: std::array::from_fn(|_| Text::default()), rules: [const { None }; Self::SLOTS] }
    }
}

impl Known {
    const SLOTS: usize = 64;
    /// Longer ones are not kept: they may come from a process that wants memory to be taken.
    const LONGEST: usize = 512;

    fn slot(bytes: &[u8]) -> usize {
        let mut hasher = FxHasher::default();
        hasher.write(bytes);
        hasher.finish() as usize % Self::SLOTS
    }

    fn text(&mut self, bytes: Bytes<'_>) -> Text {
        if bytes.0.len() > Self::LONGEST {
            return bytes.into();
        }
        let known = &mut self.texts[Self::slot(bytes.0)];
        if known.as_bytes() != bytes.0 {
            *known = bytes.into();
        }
        known.clone()
    }

    fn texts<T: FromIterator<Text>>(&mut self, all: Texts<'_>) -> T {
        all.into_iter().map(|text| self.text(text)).collect()
    }

    fn rule(&mut self, id: &str) -> RuleId {
        if id.len() > Self::LONGEST {
            return id.into();
        }
        let known = &mut self.rules[Self::slot(id.as_bytes())];
        match known {
            Some(known) if known.as_str() == id => known.clone(),
            _ => known.insert(id.into()).clone(),
        }
    }
}

type Texts<'a> = SmallVec<[Bytes<'a>; 2]>;

/// Bytes that are copied as one; serde takes a slice for a sequence of numbers.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(d).map(Self)
    }
}

impl<'a> From<&'a Text> for Bytes<'a> {
    fn from(text: &'a Text) -> Self {
        Self(text.as_bytes())
    }
}

impl From<Bytes<'_>> for Text {
    fn from(bytes: Bytes<'_>) -> Self {
        Self::from(bytes.0)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct Decided<'a> {
    op: u64,
    enforced: bool,
    ns: u64,
    action: What<'a>,
    /// None where it is that of the row before; an agent always says.
    who: Option<Who<'a>>,
    lane: Lane,
    time: u64,
    wall_ns: u64,
    operations: u64,
    verdict: Verdict,
    reason: Reason,
    rules: SmallVec<[&'a str; 2]>,
    /// None where there is nothing of it.
    seldom: Option<Seldom<'a>>,
}

/// What most decisions are without.
#[derive(Serialize, Deserialize, Default, PartialEq)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Seldom<'a> {
    names: Vec<&'a str>,
    addresses: Cow<'a, [IpAddr]>,
    connections: u64,
    processes: u64,
    write_bytes: u64,
    memory: u64,
    obligations: Cow<'a, [Obligation]>,
    faults: Cow<'a, [Fault]>,
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Who<'a> {
    pid: u32,
    tid: u32,
    exe: Bytes<'a>,
    agent: Option<Bytes<'a>>,
    run: Option<Bytes<'a>>,
    scope: Texts<'a>,
    step: Option<Bytes<'a>>,
    site: Option<Bytes<'a>>,
}

/// An action: the verb where several share a form.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum What<'a> {
    Open(File<'a>, u8),
    File(Verb, File<'a>),
    Files(Verb, File<'a>, File<'a>),
    Symlink(Bytes<'a>, File<'a>),
    Resolve(&'a str),
    Socket(i32, i32, i32),
    Endpoint(Verb, Place<'a>),
    Ipc(Unix<'a>),
    Http(&'a str, &'a str, u16, &'a str),
    Exec(File<'a>, Texts<'a>),
    Signal(SignalTarget, i32, i32),
    Process(Verb, i32),
    Ffi,
    Named(Verb, Bytes<'a>),
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct File<'a> {
    path: Bytes<'a>,
    /// Where it differs from the path.
    asked: Option<Bytes<'a>>,
    exists: bool,
    dir: Option<bool>,
    ids: Cow<'a, [FileId]>,
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum Place<'a> {
    Inet { transport: Transport, ip: IpAddr, port: u16, zone: u32 },
    Unix(Unix<'a>),
    Other(i32, Bytes<'a>),
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum Unix<'a> {
    Path(File<'a>),
    Abstract(Bytes<'a>),
    Unnamed,
}

impl<'a> Fact<'a> {
    /// Leaves out who it was, where that is known from the row before.
    pub(crate) fn of_the_same(mut self) -> Self {
        if let Self::Decided(decided) = &mut self {
            decided.who = None;
        }
        self
    }

    /// The fact of an event; `None` for events that are not for an agent to say.
    pub(crate) fn of(event: &'a Event) -> Option<Self> {
        Some(match event {
            Event::Decided { op, request, decision, enforced, ns } => {
                Self::Decided(Decided::of(*op, request, decision, *enforced, *ns))
            }
            Event::Approval { op, pid, answer, who } => {
                Self::Approval { op: *op, pid: *pid, approved: *answer == Answer::Approved, who: who.into() }
            }
            Event::Concluded { op, pid, outcome } => {
                Self::Concluded { op: *op, pid: *pid, outcome: *outcome }
            }
            Event::ScopeEntered { pid, tid, scope, step } => {
                let step = step.as_ref().map(Bytes::from);
                Self::ScopeEntered { pid: *pid, tid: *tid, scope: all(scope), step }
            }
            Event::ScopeLeft { pid, tid, scope } => {
                Self::ScopeLeft { pid: *pid, tid: *tid, scope: all(scope) }
            }
            Event::SessionOpened { .. }
            | Event::ProcessJoined { .. }
            | Event::ProcessLeft { .. }
            | Event::SegmentOpened { .. }
            | Event::RunPaused { .. }
            | Event::RunResumed { .. }
            | Event::RunStopped { .. }
            | Event::Notice { .. }
            | Event::RecordingStarted { .. }
            | Event::Input { .. }
            | Event::Told { .. }
            | Event::Heard { .. }
            | Event::Left { .. }
            | Event::RecordingBroken { .. }
            | Event::SessionClosed { .. } => return None,
        })
    }

    /// The event again; `None` where the fact holds what no event can.
    fn event(self, unpacker: &mut Unpacker) -> Option<Event> {
        let known = &mut unpacker.known;
        Some(match self {
            Self::Decided(decided) => return decided.event(unpacker),
            Self::Approval { op, pid, approved, who } => {
                let answer = if approved { Answer::Approved } else { Answer::Denied };
                Event::Approval { op, pid, answer, who: who.into() }
            }
            Self::Concluded { op, pid, outcome } => Event::Concluded { op, pid, outcome },
            Self::ScopeEntered { pid, tid, scope, step } => {
                Event::ScopeEntered { pid, tid, scope: known.texts(scope), step: step.map(Text::from) }
            }
            Self::ScopeLeft { pid, tid, scope } => Event::ScopeLeft { pid, tid, scope: known.texts(scope) },
        })
    }
}

fn all(texts: &[Text]) -> Texts<'_> {
    texts.iter().map(Bytes::from).collect()
}

fn texts(all: Texts<'_>) -> Vec<Text> {
    all.into_iter().map(Text::from).collect()
}

impl<'a> Decided<'a> {
    fn of(op: u64, request: &'a Request, decision: &'a Decision, enforced: bool, ns: u64) -> Self {
        // Taken apart field by field: a new one does not compile until it has its place here.
        let Request { action, subject, context } = request;
        let Context { lane, time, names, addresses, counters } = context;
        let Counters { wall_ns, operations, connections, processes, write_bytes, memory } = *counters;
        let Decision { verdict, reason, rules, obligations, faults } = decision;
        let seldom = Seldom {
            names: names.iter().map(HostName::as_str).collect(),
            addresses: Cow::Borrowed(addresses),
            connections,
            processes,
            write_bytes,
            memory,
            obligations: Cow::Borrowed(obligations),
            faults: Cow::Borrowed(faults),
        };
        Self {
            op,
            enforced,
            ns,
            action: What::of(action),
            who: Some(Who::of(subject)),
            lane: *lane,
            time: time.0,
            wall_ns,
            operations,
            verdict: *verdict,
            reason: *reason,
            rules: rules.iter().map(RuleId::as_str).collect(),
            seldom: Some(seldom).filter(|seldom| *seldom != Seldom::default()),
        }
    }

    fn event(self, unpacker: &mut Unpacker) -> Option<Event> {
        let (wall_ns, operations) = (self.wall_ns, self.operations);
        let Seldom { names, addresses, connections, processes, write_bytes, memory, obligations, faults } =
            self.seldom.unwrap_or_default();
        let subject = match self.who {
            Some(who) => who.subject(&mut unpacker.known),
            None => unpacker.subject.clone(),
        };
        let known = &mut unpacker.known;
        let names: Option<_> = names.into_iter().map(|name| HostName::parse(name).ok()).collect();
        let request = Request {
            action: self.action.action()?,
            subject,
            context: Context {
                lane: self.lane,
                time: Some(Timestamp(self.time)).filter(|time| *time < Timestamp::END)?,
                names: names?,
                addresses: addresses.into_owned().into(),
                counters: Counters { wall_ns, operations, connections, processes, write_bytes, memory },
            },
        };
        let decision = Decision {
            verdict: self.verdict,
            reason: self.reason,
            rules: self.rules.into_iter().map(|id| known.rule(id)).collect(),
            obligations: obligations.into_owned().into(),
            faults: faults.into_owned().into(),
        };
        Some(Event::Decided {
            op: self.op,
            request: Arc::new(request),
            decision,
            enforced: self.enforced,
            ns: self.ns,
        })
    }
}

impl<'a> Who<'a> {
    fn of(subject: &'a Subject) -> Self {
        let Subject { pid, tid, exe, agent, run, claimed: Claims { scope, step, site } } = subject;
        Self {
            pid: *pid,
            tid: *tid,
            exe: exe.into(),
            agent: agent.as_ref().map(Bytes::from),
            run: run.as_ref().map(Bytes::from),
            scope: all(scope),
            step: step.as_ref().map(Bytes::from),
            site: site.as_ref().map(Bytes::from),
        }
    }

    fn subject(self, known: &mut Known) -> Subject {
        Subject {
            pid: self.pid,
            tid: self.tid,
            exe: known.text(self.exe),
            agent: self.agent.map(|agent| known.text(agent)),
            run: self.run.map(|run| known.text(run)),
            claimed: Claims {
                scope: known.texts(self.scope),
                step: self.step.map(|step| known.text(step)),
                site: self.site.map(|site| known.text(site)),
            },
        }
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
            Action::Symlink { target, at } => Self::Symlink(target.into(), File::of(at)),
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
                Self::Named(verb, name.into())
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
        let path = Bytes(path.as_bytes());
        let asked = Some(Bytes::from(asked)).filter(|asked| *asked != path);
        Self { path, asked, exists: *exists, dir: *dir, ids: Cow::Borrowed(ids) }
    }

    fn reference(self) -> Option<FileRef> {
        let path = Text::from(self.path);
        Some(FileRef {
            asked: self.asked.map_or_else(|| path.clone(), Text::from),
            path: AbsPath::try_from(path).ok()?,
            exists: self.exists,
            dir: self.dir,
            ids: self.ids.into_owned().into(),
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
            Endpoint::Other { family, raw } => Self::Other(*family, raw.into()),
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
            // Written down, it would read as a unix socket's.
            Self::Other(family, _) if Family::from_number(family) == Family::Unix => return None,
            Self::Other(family, raw) => Endpoint::Other { family, raw: raw.into() },
        })
    }
}

impl<'a> Unix<'a> {
    fn of(addr: &'a UnixAddr) -> Self {
        match addr {
            UnixAddr::Path(file) => Self::Path(File::of(file)),
            UnixAddr::Abstract(name) => Self::Abstract(name.into()),
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
