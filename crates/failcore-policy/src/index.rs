//! The rules, arranged for deciding.

use std::net::IpAddr;

use failcore_model::{FileId, HostName, IpClass, Rights, SignalTarget, Transport};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use rustc_hash::FxHashMap;

use crate::http::UrlPattern;
use crate::limits::Limits;
use crate::pattern::{Glob, Part};
use crate::resolved::Resolved;
use crate::rule::{Args, Credential, Effect, HostPattern, Key, Object, Over, Rule, Way};
use crate::trie::{Step, Trie};

/// What `decide` looks things up in. A rule goes by its position in the resolved policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// What every rule has, by position.
    pub(crate) metas: Vec<Meta>,
    pub(crate) files: Trie<FileTerm>,
    /// Literal denies by identity.
    pub(crate) ids: Identities,
    pub(crate) images: Trie<ExecTerm>,
    pub(crate) libraries: Trie<u32>,
    pub(crate) ffi: Vec<u32>,
    pub(crate) names: Trie<NetTerm>,
    /// Rules for any host.
    pub(crate) anyone: Vec<NetTerm>,
    v4: PrefixMap<Ipv4Net, Vec<NetTerm>>,
    v6: PrefixMap<Ipv6Net, Vec<NetTerm>>,
    classes: FxHashMap<IpClass, Vec<NetTerm>>,
    pub(crate) carried: Carried,
    /// Whether some permit of the session names a host, so that addresses must be pinned.
    pub(crate) names_hosts: bool,
    pub(crate) unix_paths: Trie<(u32, Way)>,
    pub(crate) unix_names: Trie<(u32, Way)>,
    pub(crate) sockets: Vec<SocketTerm>,
    pub(crate) signals: Vec<(u32, SignalTarget)>,
    pub(crate) limit: Vec<u32>,
    pub(crate) env: Trie<u32>,
    pub(crate) unmapped: Trie<u32>,
    tools: Trie<u16>,
    pub(crate) limits: Limits,
    /// The rule behind each limit, in the order of [`Limits::NAMES`].
    pub(crate) budgets: [Option<u32>; Limits::NAMES.len()],
}

/// What a rule is, without what it speaks of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) effect: Effect,
    pub(crate) key: Key,
    pub(crate) tool: Option<u16>,
    /// Nanoseconds since 1970 at which it ends.
    pub(crate) until: u64,
    pub(crate) approve: bool,
    pub(crate) audit: bool,
    pub(crate) always: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct FileTerm {
    pub(crate) rule: u32,
    pub(crate) rights: Rights,
    /// Whether the pattern is one path.
    pub(crate) literal: bool,
}

/// What is carried, whoever permits it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried {
    names: Trie<CarryTerm>,
    /// Of any host.
    anyone: Vec<CarryTerm>,
    is_any: bool,
}

/// A rule because of which connections to a host are carried.
#[derive(Debug, Clone)]
pub(crate) struct CarryTerm {
    pub(crate) rule: u32,
    ports: (u16, u16),
    below: bool,
    /// Whether TLS is opened, as whoever looks at requests or adds to them must.
    pub(crate) opens: bool,
    /// The requests it permits, where it speaks of any.
    pub(crate) requests: Option<Requests>,
}

impl CarryTerm {
    fn fits(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }
}

/// Requests by method and path.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    methods: Vec<String>,
    path: UrlPattern,
}

impl Requests {
    pub(crate) fn cover(&self, method: &str, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|known| known == method))
            && self.path.matches(path)
    }
}

impl Carried {
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_any
    }

    fn insert(&mut self, host: &HostPattern, term: CarryTerm) {
        self.is_any = true;
        match host {
            HostPattern::Any => self.anyone.push(term),
            HostPattern::Name(name) => self.names.insert(&labels(name), term),
            HostPattern::Below(name) => self.names.insert(&labels(name), CarryTerm { below: true, ..term }),
            HostPattern::Localhost => self.names.insert(&[Part::Literal((*b"localhost").into())], term),
            // They have no name to be checked, and no entry that says so is read.
            HostPattern::Range(_) | HostPattern::Class(_) => {}
        }
    }

    /// Calls `visit` with each rule because of which this port of the host is carried, and whether it names this very
    /// host.
    pub(crate) fn of_name(&self, name: &HostName, port: u16, mut visit: impl FnMut(&CarryTerm, bool)) {
        self.of_labels(name.labels_from_root().map(|label| (label.as_bytes(), None)), port, &mut visit);
        self.of_nobody(port, |term| visit(term, false));
    }

    /// As [`Carried::of_name`], of the host behind an address whose name nobody knows.
    pub(crate) fn of_nobody(&self, port: u16, visit: impl FnMut(&CarryTerm)) {
        self.anyone.iter().filter(|term| term.fits(port)).for_each(visit);
    }

    /// As [`Carried::of_name`], of this machine.
    pub(crate) fn of_localhost(&self, port: u16, mut visit: impl FnMut(&CarryTerm)) {
        self.of_labels(std::iter::once((&b"localhost"[..], None)), port, |term, _| visit(term));
    }

    fn of_labels<'a>(
        &self,
        labels: impl Iterator<Item = Step<'a>>,
        port: u16,
        mut visit: impl FnMut(&CarryTerm, bool),
    ) {
        self.names.walk(labels, |term, whole| {
            if whole != term.below && term.fits(port) {
                visit(term, whole);
            }
        });
    }
}

fn labels(name: &HostName) -> Vec<Part> {
    name.labels_from_root().map(|label| Part::Literal(label.as_bytes().into())).collect()
}

/// Terms by the identity of a file. An object comes with that of each directory above it, few of which are known here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identities {
    /// A bit for the last six of each inode number that is known: most others are told by it.
    seen: u64,
    terms: FxHashMap<FileId, Vec<FileTerm>>,
}

impl Identities {
    fn insert(&mut self, id: FileId, term: FileTerm) {
        self.seen |= 1 << (id.ino % 64);
        self.terms.entry(id).or_default().push(term);
    }

    /// The terms of one identity.
    pub(crate) fn of(&self, id: FileId) -> &[FileTerm] {
        if self.seen >> (id.ino % 64) & 1 == 0 {
            return &[];
        }
        self.terms.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Whether none is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.seen == 0
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ExecTerm {
    pub(crate) rule: u32,
    pub(crate) name: Glob,
    pub(crate) named: bool,
    pub(crate) args: Args,
}

/// A rule about endpoints, without the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetTerm {
    pub(crate) rule: u32,
    over: Over,
    ports: (u16, u16),
    way: Way,
    /// Of a name: whether the labels below are meant, and not the name.
    pub(crate) below: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketTerm {
    pub(crate) rule: u32,
    pub(crate) family: Option<i32>,
    pub(crate) kind: Option<i32>,
    pub(crate) protocol: Option<i32>,
}

/// What is asked about an endpoint, beside the host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Port {
    /// This port, over this transport.
    At(Transport, u16),
    /// This port of a socket that is bound already: who may bind port 0 may listen wherever that led.
    Bound(Transport, u16),
    /// The host as such: a permit for any port permits it, a refusal must be of every port.
    Unsaid,
}

impl NetTerm {
    pub(crate) fn covers(&self, port: Port, way: Way, effect: Effect) -> bool {
        let over = |transport| match self.over {
            Over::Any => true,
            Over::Tcp => transport == Transport::Tcp,
            Over::Udp => transport == Transport::Udp,
            Over::Other => transport == Transport::Other,
        };
        let (low, high) = self.ports;
        self.way.covers(way)
            && match port {
                Port::At(transport, port) => over(transport) && (low..=high).contains(&port),
                Port::Bound(transport, port) => over(transport) && (low == 0 || (low..=high).contains(&port)),
                Port::Unsaid => {
                    effect == Effect::Permit || (self.over == Over::Any && (low, high) == (0, u16::MAX))
                }
            }
    }
}

impl Index {
    pub(crate) fn build(resolved: &Resolved) -> Self {
        let mut index = Self::default();
        resolved.rules.iter().for_each(|rule| index.insert(rule));
        for (tool, n) in resolved.tools.iter().zip(0..) {
            index.tools.insert_name(&tool.name, n);
        }
        index.finish();
        index
    }

    /// Adds the next rule; [`Index::finish`] is due after the last one.
    pub(crate) fn insert(&mut self, rule: &Rule) {
        let n = self.metas.len() as u32;
        self.metas.push(Meta {
            effect: rule.effect,
            key: rule.key,
            tool: rule.tool,
            until: rule.until.map_or(u64::MAX, |until| until.0),
            approve: rule.approve,
            audit: rule.audit,
            always: rule.always,
        });
        for object in &rule.objects {
            self.add(n, rule, object);
        }
    }

    /// Adds an identity that the files of rule `n` were found to have.
    pub(crate) fn identify(&mut self, n: u32, rule: &Rule, id: FileId) {
        for object in &rule.objects {
            if let Object::File { path, rights } = object {
                let literal = path.literal().is_some();
                self.ids.insert(id, FileTerm { rule: n, rights: *rights, literal });
            }
        }
    }

    /// Prepares what was inserted for being looked up.
    pub(crate) fn finish(&mut self) {
        self.files.finish();
        self.images.finish();
        self.libraries.finish();
        self.names.finish();
        self.carried.names.finish();
        self.unix_paths.finish();
        self.unix_names.finish();
        self.env.finish();
        self.unmapped.finish();
        self.tools.finish();
    }

    fn add(&mut self, n: u32, rule: &Rule, object: &Object) {
        match object {
            Object::File { path, rights } => {
                let term = FileTerm { rule: n, rights: *rights, literal: path.literal().is_some() };
                self.files.insert(path.parts(), term);
                rule.ids.iter().for_each(|id| self.ids.insert(*id, term));
            }
            Object::Net { host, over, ports, way } => {
                let term = NetTerm { rule: n, over: *over, ports: *ports, way: *way, below: false };
                self.add_host(host, term, rule.effect == Effect::Permit && rule.tool.is_none());
                if rule.carry {
                    let ports = *ports;
                    let term = CarryTerm { rule: n, ports, below: false, opens: false, requests: None };
                    self.carried.insert(host, term);
                }
            }
            Object::Http { methods, host, ports, path } => {
                let requests = Requests { methods: methods.clone(), path: path.clone() };
                let term =
                    CarryTerm { rule: n, ports: *ports, below: false, opens: true, requests: Some(requests) };
                self.carried.insert(host, term);
                let term = NetTerm { rule: n, over: Over::Tcp, ports: *ports, way: Way::Out, below: false };
                self.add_host(host, term, rule.tool.is_none());
            }
            Object::Credential(Credential { host, port, .. }) => {
                let ports = (*port, *port);
                let term = CarryTerm { rule: n, ports, below: false, opens: true, requests: None };
                self.carried.insert(&HostPattern::Name(host.clone()), term);
            }
            Object::UnixPath { path, way } => self.unix_paths.insert(path.parts(), (n, *way)),
            Object::UnixName { name, way } => self.unix_names.insert_name(name, (n, *way)),
            Object::Socket { family, kind, protocol } => {
                self.sockets.push(SocketTerm { rule: n, family: *family, kind: *kind, protocol: *protocol });
            }
            Object::Exec { image, name, named, args } => {
                let term = ExecTerm { rule: n, name: name.clone(), named: *named, args: args.clone() };
                self.images.insert(image.parts(), term);
            }
            Object::Signal(to) => self.signals.push((n, *to)),
            Object::Limit => self.limit.push(n),
            Object::Library(path) => self.libraries.insert(path.parts(), n),
            Object::Ffi => self.ffi.push(n),
            Object::Env(name) => self.env.insert_name(name, n),
            Object::Unmapped(name) => self.unmapped.insert_name(name, n),
            // Held from the start on, not asked about.
            Object::Capability(_) => {}
            Object::Budget { name, most } => self.add_budget(n, name, *most),
        }
    }

    fn add_host(&mut self, host: &HostPattern, term: NetTerm, permit: bool) {
        match host {
            HostPattern::Any => self.anyone.push(term),
            HostPattern::Name(name) | HostPattern::Below(name) => {
                let below = matches!(host, HostPattern::Below(_));
                self.names_hosts |= permit && term.way != Way::In;
                self.names.insert(&labels(name), NetTerm { below, ..term });
            }
            HostPattern::Localhost => {
                self.names.insert(&[Part::Literal((*b"localhost").into())], term);
                for net in LOOPBACK {
                    self.add_host(&HostPattern::Range(net), term, permit);
                }
            }
            HostPattern::Range(IpNet::V4(net)) => self.v4.entry(net.trunc()).or_default().push(term),
            HostPattern::Range(IpNet::V6(net)) => self.v6.entry(net.trunc()).or_default().push(term),
            HostPattern::Class(class) => self.classes.entry(*class).or_default().push(term),
        }
    }

    fn add_budget(&mut self, n: u32, name: &str, most: u64) {
        let Some(slot) = Limits::NAMES.iter().position(|known| *known == name) else { return };
        if self.limits.named(name).is_none_or(|known| most < known) {
            self.budgets[slot] = Some(n);
        }
        self.limits = self.limits.tightened_by(Limits::only(name, most));
    }

    /// The rules whose range holds the address.
    pub(crate) fn ranges(&self, addr: IpAddr, mut visit: impl FnMut(&NetTerm)) {
        match addr {
            IpAddr::V4(v4) => {
                self.v4.cover(&Ipv4Net::from(v4)).for_each(|(_, terms)| terms.iter().for_each(&mut visit));
            }
            IpAddr::V6(v6) => {
                self.v6.cover(&Ipv6Net::from(v6)).for_each(|(_, terms)| terms.iter().for_each(&mut visit));
            }
        }
    }

    /// The rules about a class of addresses.
    pub(crate) fn class(&self, class: IpClass) -> &[NetTerm] {
        self.classes.get(&class).map(Vec::as_slice).unwrap_or_default()
    }

    /// The `[[tool]]` entries for a tool of that name, by position.
    pub(crate) fn tools_of(&self, tool: &[u8], mut visit: impl FnMut(u16)) {
        self.tools.walk([(tool, None)].into_iter(), |n, whole| {
            if whole {
                visit(*n);
            }
        });
    }
}

/// What `localhost` means as addresses.
pub(crate) const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
];
