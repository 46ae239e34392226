//! The decision.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use failcore_model::{
    Action, Decision, Endpoint, FileRef, HostName, IpClass, Lane, NativeObject, Obligation, Reason, Request,
    Rights, SignalTarget, Text, Transport, UnixAddr, embedded_v4s,
};
use smallvec::SmallVec;

use crate::index::{CarryTerm, ExecTerm, Port};
use crate::limits::Limits;
use crate::rule::{Args, Effect, Key, Way};
use crate::set::PolicySet;
use crate::tally::{Ruling, Tally, View};
use crate::trie::Step;

/// The one right of objects that have no rights.
const ONE: Rights = Rights::READ;
/// Longest path that a program may ask for (`PATH_MAX` without its NUL).
const MAX_ASKED: usize = 4095;

impl PolicySet {
    /// Answers a request. Pure and total: the same request always gets the same answer, and every request gets
    /// one. An allow names at most a few permits and allocates nothing for the first two.
    pub fn decide(&self, request: &Request) -> Decision {
        if malformed(&request.action) {
            return Decision::deny(Reason::Malformed, SmallVec::new());
        }
        let mut ruling = self.judge(request, View::Session);
        if ruling.is_granted() {
            for name in &request.subject.claimed.scope {
                self.index.tools_of(name.as_bytes(), |tool| {
                    if ruling.is_granted() {
                        let narrowed = self.in_scope(request, tool);
                        ruling = std::mem::replace(&mut ruling, Ruling::granted()).and(narrowed);
                    }
                });
            }
        }
        if ruling.is_granted() && ruling.carry && request.context.lane == Lane::Runtime {
            ruling = Ruling::deny(Reason::Uncarried, None);
        }
        if ruling.is_granted() {
            if let Some(budget) = self.used_up(request) {
                ruling = Ruling::deny(Reason::OverBudget, Some(budget));
            }
        } else if matches!(ruling.reason, Reason::NotGranted | Reason::Expired | Reason::OutsideScope)
            && looks_for_nothing(&request.action)
        {
            ruling.reason = Reason::Absent;
        }
        self.decision(ruling)
    }

    /// What one tool scope says. It can only take away, so that a refusal of its own kind is named by the scope.
    fn in_scope(&self, request: &Request, tool: u16) -> Ruling {
        let Some(scope) = self.resolved.tools.get(usize::from(tool)) else { return Ruling::granted() };
        let ruling = self.judge(request, View::Tool(tool, scope));
        let own = |rule: &u32| self.index.metas[*rule as usize].tool == Some(tool);
        match ruling.reason {
            Reason::Granted => ruling,
            Reason::Forbidden | Reason::DeniedBelow if ruling.rules.first().is_some_and(own) => ruling,
            _ => Ruling::deny(Reason::OutsideScope, self.position(&scope.rule)),
        }
    }

    fn decision(&self, ruling: Ruling) -> Decision {
        let rules = ruling.rules.iter().map(|n| self.resolved.rules[*n as usize].id.clone()).collect();
        if !ruling.is_granted() {
            return Decision::deny(ruling.reason, rules);
        }
        let mut decision = Decision::allow(rules);
        // One obligation fits without allocation; asking a person costs more than that anyway.
        if ruling.approve {
            decision.obligations.push(Obligation::Approve);
        }
        if ruling.audit {
            decision.obligations.push(Obligation::Audit);
        }
        if ruling.carry {
            decision.obligations.push(Obligation::Carry);
        }
        decision
    }

    fn judge(&self, request: &Request, view: View<'_>) -> Ruling {
        let j = Judge { set: self, request, view };
        match &request.action {
            Action::Open { file, rights } => {
                j.file(file, if rights.is_empty() { Rights::READ } else { *rights })
            }
            Action::Read(file) => j.file(file, Rights::READ),
            Action::Create(file) | Action::Symlink { at: file, .. } => j.file(file, Rights::CREATE),
            Action::Modify(file) => j.file(file, Rights::MODIFY),
            Action::Delete(file) => j.file(file, Rights::DELETE),
            Action::Attr(file) => j.file(file, Rights::ATTR),
            Action::Rename { from, to } => j.rename(from, to),
            Action::Link { from, to } => j.link(from, to),
            Action::Resolve(name) => j.host(name, Port::Unsaid),
            Action::Http { method, host, port, path } => j.http(method, host, *port, path),
            Action::Connect(Endpoint::Inet { transport, addr }) => {
                let ruling = j.address(addr.ip(), Port::At(*transport, addr.port()), Way::Out);
                let carry = *transport == Transport::Tcp && j.carries(addr.ip(), addr.port());
                Ruling { carry, ..ruling }
            }
            Action::Send(Endpoint::Inet { transport, addr }) => {
                j.address(addr.ip(), Port::At(*transport, addr.port()), Way::Out)
            }
            Action::Bind(Endpoint::Inet { transport, addr }) => {
                j.address(addr.ip(), Port::At(*transport, addr.port()), Way::In)
            }
            Action::Listen(Endpoint::Inet { transport, addr }) => {
                j.address(addr.ip(), Port::Bound(*transport, addr.port()), Way::In)
            }
            Action::Connect(Endpoint::Unix(addr))
            | Action::Send(Endpoint::Unix(addr))
            | Action::IpcConnect(addr) => j.unix(addr, Way::Out),
            Action::Bind(Endpoint::Unix(addr)) | Action::Listen(Endpoint::Unix(addr)) => {
                j.unix(addr, Way::In)
            }
            // AF_UNSPEC parts a socket from its peer when connecting, and reads as IPv4 elsewhere.
            Action::Send(Endpoint::Other { family: 0, .. })
            | Action::Bind(Endpoint::Other { family: 0, .. })
            | Action::Listen(Endpoint::Other { family: 0, .. }) => Ruling::deny(Reason::NotGranted, None),
            Action::Connect(Endpoint::Other { family, .. })
            | Action::Send(Endpoint::Other { family, .. })
            | Action::Bind(Endpoint::Other { family, .. })
            | Action::Listen(Endpoint::Other { family, .. }) => j.socket(*family, None, None),
            Action::Socket { family, kind, protocol } => {
                j.socket(family.number(), Some(kind.number()), Some(*protocol))
            }
            Action::Exec { image, argv } => j.exec(image, argv),
            Action::Signal { to, .. } => j.signal(*to),
            Action::Limit { .. } => j.rules(&self.index.limit),
            Action::Load(NativeObject::Ffi) => j.rules(&self.index.ffi),
            Action::Load(NativeObject::Library(file)) => j.library(file),
            Action::EnvRead(name) => {
                let mut tally = j.tally(ONE);
                self.index.env.walk(word(name), |n, whole| meet_if(&mut tally, whole, *n));
                tally.ruling(ONE)
            }
            Action::Unmapped(name) => {
                let mut tally = j.tally(ONE);
                self.index.unmapped.walk(word(name), |n, whole| meet_if(&mut tally, whole, *n));
                let ruling = tally.ruling(ONE);
                if ruling.reason == Reason::NotGranted {
                    Ruling::deny(Reason::Unmapped, None)
                } else {
                    ruling
                }
            }
            Action::Trace { .. } | Action::KernelCall(_) => Ruling::deny(Reason::Always, None),
        }
    }

    /// The rule of a budget that leaves no room for the action.
    fn used_up(&self, request: &Request) -> Option<u32> {
        let Request { action, context, .. } = request;
        let counters = &context.counters;
        let Limits { wall_time, memory, processes, connections, write_bytes, operations } = self.index.limits;
        let full = |limit: Option<u64>, used: u64| limit.is_some_and(|most| used >= most);
        // In the order of `Limits::NAMES`.
        let used_up = [
            full(wall_time, counters.wall_ns),
            full(memory, counters.memory),
            // Where the hook sees a program start, a process starts with it; elsewhere forks are counted themselves.
            full(processes, counters.processes)
                && matches!(action, Action::Exec { .. })
                && context.lane == Lane::Runtime,
            full(connections, counters.connections)
                && matches!(action, Action::Connect(_) | Action::Send(_) | Action::IpcConnect(_)),
            full(write_bytes, counters.write_bytes) && writes(action),
            full(operations, counters.operations),
        ];
        used_up.iter().zip(self.index.budgets).find(|(full, _)| **full).and_then(|(_, rule)| rule)
    }
}

/// One request seen with one set of rules.
struct Judge<'a> {
    set: &'a PolicySet,
    request: &'a Request,
    view: View<'a>,
}

impl<'a> Judge<'a> {
    fn tally(&self, needed: Rights) -> Tally<'a> {
        Tally::new(&self.set.index, self.view, self.request.context.time, needed)
    }

    fn file(&self, file: &FileRef, rights: Rights) -> Ruling {
        self.file_tally(file, rights).ruling(rights)
    }

    fn file_tally(&self, file: &FileRef, rights: Rights) -> Tally<'a> {
        let mut tally = self.tally(rights);
        self.set.index.files.walk(self.steps(file), |term, whole| {
            tally.meet(term.rule, term.rights, whole && term.literal);
        });
        for id in &file.ids {
            for term in self.set.index.ids.of(*id) {
                tally.meet(term.rule, term.rights, false);
            }
        }
        tally
    }

    /// Why an object that has a path is refused by its path, whatever else grants it.
    fn path_refusal(&self, file: &FileRef, rights: Rights) -> Ruling {
        self.file_tally(file, rights).refusal(rights).unwrap_or_else(Ruling::granted)
    }

    fn rename(&self, from: &FileRef, to: &FileRef) -> Ruling {
        let onto = if to.exists { Rights::CREATE | Rights::DELETE } else { Rights::CREATE };
        let both = self.file(from, Rights::DELETE).and(self.file(to, onto));
        if from.may_be_directory() { both.and(self.carried(from)).and(self.carried(to)) } else { both }
    }

    /// Whether something refused could be carried along below a path that is moved.
    fn carried(&self, file: &FileRef) -> Ruling {
        let mut graver: Option<(bool, u32)> = None;
        self.set.index.files.below(self.steps(file), |term| {
            let meta = &self.set.index.metas[term.rule as usize];
            if meta.effect != Effect::Permit && self.view.sees(meta) {
                let candidate = (!meta.always, term.rule);
                graver = Some(graver.map_or(candidate, |known| known.min(candidate)));
            }
        });
        match graver {
            None => Ruling::granted(),
            Some((false, rule)) => Ruling::deny(Reason::Always, Some(rule)),
            Some((true, rule)) => Ruling::deny(Reason::DeniedBelow, Some(rule)),
        }
    }

    /// A second name must not give more than the first: every right at the new name must hold at the old.
    fn link(&self, from: &FileRef, to: &FileRef) -> Ruling {
        let there = self.file_tally(to, Rights::all());
        let created = there.ruling(Rights::CREATE);
        if !created.is_granted() {
            return created;
        }
        created.and(self.file(from, there.effective()))
    }

    /// An address, by itself and by the names pinned to it.
    fn address(&self, addr: IpAddr, port: Port, way: Way) -> Ruling {
        let context = &self.request.context;
        let public = IpClass::of(addr).is_public();
        let mut tally = self.tally(ONE);
        self.meet_address(&mut tally, addr, port, way);
        let mut named = false;
        for name in &context.names {
            self.meet_name(name, port, way, |rule, effect, _| {
                if effect == Effect::Permit && !public {
                    named |= self.view.sees(&self.set.index.metas[rule as usize]);
                } else {
                    tally.meet(rule, ONE, false);
                }
            });
        }
        let mut ruling = tally.ruling(ONE);
        match ruling.reason {
            Reason::Caution if named => ruling.reason = Reason::SpecialAddress,
            Reason::NotGranted if named => ruling.reason = Reason::SpecialAddress,
            Reason::NotGranted
                if way == Way::Out && context.names.is_empty() && self.set.index.names_hosts =>
            {
                ruling.reason = Reason::Unpinned;
            }
            _ => {}
        }
        ruling
    }

    /// Takes in what the rules say about an address. Refusals see through every disguise; permits only through
    /// the one that the kernel itself undoes.
    fn meet_address(&self, tally: &mut Tally<'_>, addr: IpAddr, port: Port, way: Way) {
        let index = &self.set.index;
        let class = IpClass::of(addr);
        let canonical = addr.to_canonical();
        index.ranges(canonical, |term| {
            if term.covers(port, way, tally.effect(term.rule)) {
                tally.meet(term.rule, ONE, true);
            }
        });
        for reached in reached(addr, canonical) {
            index.ranges(reached, |term| {
                let effect = tally.effect(term.rule);
                if effect != Effect::Permit && term.covers(port, way, effect) {
                    tally.meet(term.rule, ONE, false);
                }
            });
        }
        for term in &index.anyone {
            let effect = tally.effect(term.rule);
            if (class.is_public() || effect != Effect::Permit) && term.covers(port, way, effect) {
                tally.meet(term.rule, ONE, false);
            }
        }
        for term in index.class(class) {
            if term.covers(port, way, tally.effect(term.rule)) {
                tally.meet(term.rule, ONE, false);
            }
        }
    }

    /// Calls `visit` with each rule about the name, its effect, and whether it is that very name.
    fn meet_name(&self, name: &HostName, port: Port, way: Way, mut visit: impl FnMut(u32, Effect, bool)) {
        let index = &self.set.index;
        index.names.walk(name.labels_from_root().map(|label| (label.as_bytes(), None)), |term, whole| {
            let effect = index.metas[term.rule as usize].effect;
            if whole != term.below && term.covers(port, way, effect) {
                visit(term.rule, effect, whole);
            }
        });
    }

    /// Whether connections to an address are carried, by the names pinned to it.
    fn carries(&self, addr: IpAddr, port: u16) -> bool {
        let index = &self.set.index;
        if index.carried.is_empty() {
            return false;
        }
        let (names, mut found) = (&self.request.context.names, false);
        let mut note = |term: &CarryTerm| found |= self.view.heeds(&index.metas[term.rule as usize]);
        names.iter().for_each(|name| index.carried.of_name(name, port, |term, _| note(term)));
        if names.is_empty() && IpClass::of(addr).is_public() {
            index.carried.of_nobody(port, &mut note);
        }
        if addr.to_canonical().is_loopback() {
            index.carried.of_localhost(port, &mut note);
        }
        found
    }

    /// One request, and the address that it would go to. Where rules speak of the host's requests, no other permit
    /// counts.
    fn http(&self, method: &str, name: &HostName, port: u16, path: &str) -> Ruling {
        let (index, at) = (&self.set.index, Port::At(Transport::Tcp, port));
        let mut tally = self.tally(ONE);
        let mut ruled = false;
        index.carried.of_name(name, port, |term, exact| {
            if let Some(requests) = &term.requests {
                ruled |= self.view.heeds(&index.metas[term.rule as usize]);
                if requests.cover(method, path) {
                    tally.meet(term.rule, ONE, exact);
                }
            }
        });
        let counts = |rule: u32| {
            let meta = &index.metas[rule as usize];
            meta.effect != Effect::Permit || (!ruled && meta.key != Key::NetHttp)
        };
        self.meet_name(name, at, Way::Out, |rule, _, exact| {
            if counts(rule) {
                tally.meet(rule, ONE, exact);
            }
        });
        for term in &index.anyone {
            if counts(term.rule) && term.covers(at, Way::Out, tally.effect(term.rule)) {
                tally.meet(term.rule, ONE, false);
            }
        }
        self.reaching(tally.ruling(ONE), at)
    }

    /// A name to look up, and the addresses it came to.
    fn host(&self, name: &HostName, port: Port) -> Ruling {
        let mut tally = self.tally(ONE);
        self.meet_name(name, port, Way::Out, |rule, _, exact| tally.meet(rule, ONE, exact));
        for term in &self.set.index.anyone {
            if term.covers(port, Way::Out, tally.effect(term.rule)) {
                tally.meet(term.rule, ONE, false);
            }
        }
        self.reaching(tally.ruling(ONE), port)
    }

    /// What becomes of a ruling by name, given the addresses behind the name.
    fn reaching(&self, by_name: Ruling, port: Port) -> Ruling {
        self.request.context.addresses.iter().fold(by_name, |ruling, addr| {
            let mut tally = self.tally(ONE);
            self.meet_address(&mut tally, *addr, port, Way::Out);
            let mut refusal = tally.refusal(ONE).unwrap_or_else(Ruling::granted);
            if refusal.reason == Reason::Caution {
                refusal.reason = Reason::SpecialAddress;
            }
            ruling.and(refusal)
        })
    }

    fn unix(&self, addr: &UnixAddr, way: Way) -> Ruling {
        let mut tally = self.tally(ONE);
        match addr {
            UnixAddr::Path(file) => {
                self.set.index.unix_paths.walk(self.steps(file), |(rule, of), _| {
                    meet_if(&mut tally, of.covers(way), *rule);
                });
                let rights = if way == Way::In { Rights::CREATE } else { Rights::READ | Rights::MODIFY };
                return tally.ruling(ONE).and(self.path_refusal(file, rights));
            }
            UnixAddr::Abstract(name) => self.set.index.unix_names.walk(word(name), |(rule, of), whole| {
                meet_if(&mut tally, whole && of.covers(way), *rule);
            }),
            // Only who may use every abstract name may have the kernel pick one.
            UnixAddr::Unnamed => {
                self.set.index.unix_names.walk(word(&Text::default()), |(rule, of), whole| {
                    meet_if(&mut tally, whole && of.covers(way), *rule);
                })
            }
        }
        tally.ruling(ONE)
    }

    fn socket(&self, family: i32, kind: Option<i32>, protocol: Option<i32>) -> Ruling {
        let mut tally = self.tally(ONE);
        let fits = |rule: Option<i32>, asked: Option<i32>| rule.is_none() || asked.is_none() || rule == asked;
        for term in &self.set.index.sockets {
            let met =
                fits(term.family, Some(family)) && fits(term.kind, kind) && fits(term.protocol, protocol);
            meet_if(&mut tally, met, term.rule);
        }
        tally.ruling(ONE)
    }

    fn exec(&self, image: &FileRef, argv: &[Text]) -> Ruling {
        let asked = if image.asked.is_empty() { image.path.as_bytes() } else { image.asked.as_bytes() };
        let mut tally = self.tally(ONE);
        self.set.index.images.walk(self.steps(image), |term, whole| {
            meet_if(&mut tally, whole && term.starts(asked, argv), term.rule);
        });
        tally.ruling(ONE).and(self.path_refusal(image, Rights::READ))
    }

    fn library(&self, file: &FileRef) -> Ruling {
        let mut tally = self.tally(ONE);
        self.set.index.libraries.walk(self.steps(file), |rule, _| tally.meet(*rule, ONE, false));
        tally.ruling(ONE).and(self.path_refusal(file, Rights::READ))
    }

    fn signal(&self, to: SignalTarget) -> Ruling {
        if to == SignalTarget::Outside {
            // The supervisor is out there.
            return Ruling::deny(Reason::Always, None);
        }
        let mut tally = self.tally(ONE);
        for (rule, level) in &self.set.index.signals {
            meet_if(&mut tally, to <= *level, *rule);
        }
        tally.ruling(ONE)
    }

    fn rules(&self, rules: &[u32]) -> Ruling {
        let mut tally = self.tally(ONE);
        rules.iter().for_each(|rule| tally.meet(*rule, ONE, false));
        tally.ruling(ONE)
    }

    /// The components of a path, where those of the process's own `/proc` directory are `self` as well.
    fn steps<'f>(&self, file: &'f FileRef) -> impl Iterator<Item = Step<'f>> {
        let pid = self.request.subject.pid;
        let in_proc = file.path.as_bytes().starts_with(b"/proc/");
        file.path.components().enumerate().map(move |(n, name)| {
            let own = in_proc && n == 1 && pid != 0 && number(name) == Some(pid);
            (name, own.then_some(&b"self"[..]))
        })
    }
}

impl ExecTerm {
    fn starts(&self, asked: &[u8], argv: &[Text]) -> bool {
        let called = |path: &[u8]| self.name.matches(path.rsplit(|b| *b == b'/').next().unwrap_or_default());
        let args = argv.get(1..).unwrap_or_default();
        called(asked)
            && (!self.named || argv.first().is_some_and(|name| called(name.as_bytes())))
            && match &self.args {
                Args::Any => true,
                Args::Exactly(these) => args == these.as_slice(),
                Args::Starting(these) => args.starts_with(these),
            }
    }
}

fn meet_if(tally: &mut Tally<'_>, met: bool, rule: u32) {
    if met {
        tally.meet(rule, ONE, false);
    }
}

/// A name as the one component it is.
fn word(name: &Text) -> std::iter::Once<Step<'_>> {
    std::iter::once((name.as_bytes(), None))
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What else a connection to the address reaches: every IPv4 address inside it, and this machine for `0.0.0.0`, `::`.
fn reached(addr: IpAddr, canonical: IpAddr) -> impl Iterator<Item = IpAddr> {
    let v6 = match addr {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    };
    let inner =
        v6.into_iter().flat_map(embedded_v4s).map(IpAddr::V4).filter(move |inner| *inner != canonical);
    let original = (canonical != addr).then_some(addr);
    let here = IpClass::of(addr) == IpClass::Unspecified;
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    original.into_iter().chain(inner).chain(loopback.into_iter().filter(move |_| here))
}

/// Whether the action only looks at something that is not there.
fn looks_for_nothing(action: &Action) -> bool {
    match action {
        Action::Open { file, rights } => !file.exists && Rights::READ.contains(*rights),
        Action::Read(file) => !file.exists,
        _ => false,
    }
}

fn writes(action: &Action) -> bool {
    match action {
        Action::Open { rights, .. } => rights.intersects(Rights::CREATE | Rights::MODIFY),
        Action::Create(_) | Action::Modify(_) => true,
        _ => false,
    }
}

/// Whether a path was asked for that no kernel call takes.
fn malformed(action: &Action) -> bool {
    let bad = |file: &FileRef| {
        let asked = file.asked.as_bytes();
        asked.len() > MAX_ASKED || asked.contains(&0)
    };
    match action {
        Action::Open { file, .. }
        | Action::Read(file)
        | Action::Create(file)
        | Action::Modify(file)
        | Action::Delete(file)
        | Action::Attr(file)
        | Action::Symlink { at: file, .. }
        | Action::Exec { image: file, .. }
        | Action::Load(NativeObject::Library(file)) => bad(file),
        Action::Rename { from, to } | Action::Link { from, to } => bad(from) || bad(to),
        _ => false,
    }
}
