//! The specification: what a decision is, with no index and no haste.
//!
//! It looks at every rule for every question. Where this and `decide` differ, one of them is wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use failcore_model::*;
use failcore_policy::{Args, Effect, HostPattern, Object, Over, PolicySet, Rule, Way};

/// The rules that count for a session or for one `[[tool]]` entry, with the time of the request.
struct Rules<'a> {
    all: Vec<&'a Rule>,
    /// Rules that speak of requests, whether or not they permit anything here.
    ruling: Vec<&'a Rule>,
    now: Timestamp,
}

/// A verdict and its reason; also a bare yes for refusals that are looked for alone.
pub(crate) type Answer = (Verdict, Reason);
const YES: Answer = (Verdict::Allow, Reason::Granted);

pub(crate) fn decide(set: &PolicySet, tools: &[(&str, &[&str])], request: &Request) -> Answer {
    let rules = |tool: Option<u16>| Rules {
        all: set
            .rules()
            .filter(|rule| match (tool, rule.tool) {
                (None, own) => own.is_none(),
                (Some(tool), Some(own)) => own == tool,
                (Some(tool), None) => {
                    rule.effect != Effect::Permit || !tools[usize::from(tool)].1.contains(&rule.key.as_str())
                }
            })
            .collect(),
        ruling: set.rules().filter(|rule| rule.tool.is_none() || rule.tool == tool).collect(),
        now: request.context.time,
    };
    let mut answer = rules(None).judge(request);
    for name in request.subject.claimed.scope.iter().filter_map(|name| name.as_str()) {
        for (n, (pattern, _)) in tools.iter().enumerate() {
            let applies = match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *pattern,
            };
            if applies && answer == YES && rules(Some(n as u16)).judge(request) != YES {
                answer = (Verdict::Deny, Reason::OutsideScope);
            }
        }
    }
    if answer == YES && request.context.lane == Lane::Runtime && is_carried(set, tools, request) {
        answer = (Verdict::Deny, Reason::Uncarried);
    }
    let absent = match &request.action {
        Action::Open { file, rights } => !file.exists && *rights == Rights::READ,
        Action::Read(file) => !file.exists,
        _ => false,
    };
    match answer.1 {
        Reason::NotGranted | Reason::Expired | Reason::OutsideScope if absent => {
            (Verdict::Deny, Reason::Absent)
        }
        _ => answer,
    }
}

/// Whether a connection is one that is carried: by a rule of the session, or of a tool that is in scope.
pub(crate) fn is_carried(set: &PolicySet, tools: &[(&str, &[&str])], request: &Request) -> bool {
    let Action::Connect(Endpoint::Inet { transport: Transport::Tcp, addr }) = &request.action else {
        return false;
    };
    let in_scope = |tool: u16| {
        let start = tools[usize::from(tool)].0.trim_end_matches('*');
        request.subject.claimed.scope.iter().any(|name| name.as_bytes().starts_with(start.as_bytes()))
    };
    let names = &request.context.names;
    let meant = |host: &HostPattern| {
        names.iter().any(|name| is_name(host, name) || *host == HostPattern::Any)
            || (names.is_empty() && *host == HostPattern::Any && IpClass::of(addr.ip()).is_public())
            || (*host == HostPattern::Localhost && addr.ip().to_canonical().is_loopback())
    };
    let counts = |rule: &&Rule| rule.tool.is_none_or(in_scope);
    set.rules().filter(counts).any(|rule| {
        rule.objects.iter().any(|object| match object {
            Object::Http { host, ports, .. } => meant(host) && (ports.0..=ports.1).contains(&addr.port()),
            Object::Net { host, ports, .. } => {
                rule.carry && meant(host) && (ports.0..=ports.1).contains(&addr.port())
            }
            _ => false,
        })
    })
}

impl Rules<'_> {
    fn judge(&self, request: &Request) -> Answer {
        let one = |file: &FileRef, right| self.file(file, right);
        match &request.action {
            Action::Open { file, rights } => one(file, *rights),
            Action::Read(file) => one(file, Rights::READ),
            Action::Create(file) | Action::Symlink { at: file, .. } => one(file, Rights::CREATE),
            Action::Modify(file) => one(file, Rights::MODIFY),
            Action::Delete(file) => one(file, Rights::DELETE),
            Action::Attr(file) => one(file, Rights::ATTR),
            Action::Rename { from, to } => {
                let onto = if to.exists { Rights::CREATE | Rights::DELETE } else { Rights::CREATE };
                let carried = match from.dir {
                    Some(false) => [YES, YES],
                    Some(true) | None => [self.below(from), self.below(to)],
                };
                gravest([one(from, Rights::DELETE), one(to, onto)].into_iter().chain(carried))
            }
            Action::Link { from, to } => {
                let created = one(to, Rights::CREATE);
                if created != YES {
                    return created;
                }
                let there: Rights =
                    [Rights::READ, Rights::CREATE, Rights::MODIFY, Rights::DELETE, Rights::ATTR]
                        .into_iter()
                        .filter(|right| one(to, *right) == YES)
                        .collect();
                one(from, there)
            }
            Action::Connect(Endpoint::Inet { transport, addr }) => {
                self.address(addr.ip(), *transport, addr.port(), Way::Out, &request.context.names)
            }
            Action::Http { method, host, port, path } => self.http(method, host, *port, path),
            Action::Bind(Endpoint::Inet { transport, addr }) => {
                self.address(addr.ip(), *transport, addr.port(), Way::In, &request.context.names)
            }
            Action::Resolve(name) => self.resolve(name),
            Action::Exec { image, argv } => {
                let called = |path: &[u8]| path.rsplit(|b| *b == b'/').next().unwrap().to_vec();
                let started = self.any(|object| match object {
                    Object::Exec { image: pattern, name, named, args } => {
                        pattern.literal().as_ref() == Some(&image.path)
                            && name.matches(&called(image.asked.as_bytes()))
                            && (!named
                                || argv.first().is_some_and(|arg| name.matches(&called(arg.as_bytes()))))
                            && match args {
                                Args::Any => true,
                                Args::Exactly(these) => argv[1..] == these[..],
                                Args::Starting(these) => argv[1..].starts_with(these),
                            }
                    }
                    _ => false,
                });
                let forbidden = self.file(image, Rights::READ).1;
                match forbidden {
                    Reason::Forbidden => (Verdict::Deny, forbidden),
                    _ => started,
                }
            }
            Action::EnvRead(name) => {
                self.any(|object| matches!(object, Object::Env(glob) if glob.matches(name.as_bytes())))
            }
            other => panic!("the specification does not speak of {other:?}"),
        }
    }

    fn met(&self, effect: Effect, meets: impl Fn(&Object) -> bool) -> impl Iterator<Item = &Rule> {
        self.all.iter().copied().filter(move |rule| rule.effect == effect && rule.objects.iter().any(&meets))
    }

    /// Refused if any forbid meets it, or a caution that no exact permit lifts; else granted by any permit.
    fn put_together(&self, meets: impl Fn(&Object) -> bool, exact: impl Fn(&Object) -> bool) -> Answer {
        let current = |rule: &&Rule| rule.until.is_none_or(|until| self.now < until);
        let lifted = self.met(Effect::Permit, &exact).any(|rule| current(&rule));
        let forbids: Vec<&Rule> = self.met(Effect::Forbid, &meets).collect();
        let reason = if forbids.iter().any(|rule| rule.always) {
            Reason::Always
        } else if !forbids.is_empty() {
            Reason::Forbidden
        } else if self.met(Effect::Caution, &meets).next().is_some() && !lifted {
            Reason::Caution
        } else if self.met(Effect::Permit, &meets).any(|rule| current(&rule)) {
            return YES;
        } else if self.met(Effect::Permit, &meets).next().is_some() {
            Reason::Expired
        } else {
            Reason::NotGranted
        };
        (Verdict::Deny, reason)
    }

    fn any(&self, meets: impl Fn(&Object) -> bool) -> Answer {
        self.put_together(&meets, |_| false)
    }

    fn file(&self, file: &FileRef, rights: Rights) -> Answer {
        gravest(rights.iter().map(|right| {
            let held =
                |object: &Object| matches!(object, Object::File { rights, .. } if rights.contains(right));
            let by_path = |object: &Object| match object {
                Object::File { path, .. } => held(object) && path.covers(&file.path),
                _ => false,
            };
            let by_identity = self
                .all
                .iter()
                .any(|rule| rule.objects.iter().any(held) && rule.ids.iter().any(|id| file.ids.contains(id)));
            if by_identity {
                return (Verdict::Deny, Reason::Forbidden);
            }
            self.put_together(by_path, |object| match object {
                Object::File { path, .. } => held(object) && path.literal().as_ref() == Some(&file.path),
                _ => false,
            })
        }))
    }

    /// Whether something below the path could be refused: its pattern goes on after it has matched the path.
    fn below(&self, file: &FileRef) -> Answer {
        let goes_on = |object: &Object| match object {
            Object::File { path, .. } => {
                let components: Vec<&[u8]> = file.path.components().collect();
                goes_on(path.parts(), &components, true)
            }
            _ => false,
        };
        let mut refusals =
            self.met(Effect::Forbid, goes_on).chain(self.met(Effect::Caution, goes_on)).peekable();
        match (refusals.peek().is_some(), refusals.any(|rule| rule.always)) {
            (_, true) => (Verdict::Deny, Reason::Always),
            (true, false) => (Verdict::Deny, Reason::DeniedBelow),
            _ => YES,
        }
    }

    fn address(&self, addr: IpAddr, over: Transport, port: u16, way: Way, names: &[HostName]) -> Answer {
        let public = IpClass::of(addr).is_public();
        let covers = |object: &Object, wanted: &dyn Fn(&HostPattern) -> bool| match object {
            Object::Net { host, over: rule_over, ports, way: rule_way } => {
                wanted(host)
                    && (*rule_way == Way::Both || *rule_way == way)
                    && (ports.0..=ports.1).contains(&port)
                    && match rule_over {
                        Over::Any => true,
                        Over::Tcp => over == Transport::Tcp,
                        Over::Udp => over == Transport::Udp,
                        Over::Other => over == Transport::Other,
                    }
            }
            Object::Http { host, ports, .. } => {
                wanted(host)
                    && way == Way::Out
                    && over == Transport::Tcp
                    && (ports.0..=ports.1).contains(&port)
            }
            _ => false,
        };
        let by_address = |host: &HostPattern| within(host, addr.to_canonical());
        let by_name = |host: &HostPattern| names.iter().any(|name| is_name(host, name));
        let permits = |object: &Object| {
            covers(object, &|host| {
                by_address(host) || (public && (by_name(host) || *host == HostPattern::Any))
            })
        };
        let refuses = |object: &Object| {
            covers(object, &|host| {
                let reached = reached(addr).iter().any(|addr| within(host, *addr));
                let class = matches!(host, HostPattern::Class(class) if *class == IpClass::of(addr));
                reached || class || by_name(host) || *host == HostPattern::Any
            })
        };
        let meets = |rule: &Rule| {
            rule.objects
                .iter()
                .any(|object| if rule.effect == Effect::Permit { permits(object) } else { refuses(object) })
        };
        let only = Rules {
            all: self.all.iter().copied().filter(|rule| meets(rule)).collect(),
            ruling: vec![],
            now: self.now,
        };
        let answer = only.put_together(|_| true, |object| covers(object, &by_address));
        let by_some_name = |object: &Object| match object {
            Object::Net { host: HostPattern::Name(_) | HostPattern::Below(_), way, .. } => *way == Way::Out,
            Object::Http { host: HostPattern::Name(_) | HostPattern::Below(_), .. } => true,
            _ => false,
        };
        let names_hosts = self.met(Effect::Permit, by_some_name).next().is_some();
        let named = self.met(Effect::Permit, |object| covers(object, &by_name)).next().is_some();
        match answer.1 {
            Reason::Caution | Reason::NotGranted if named && !public => {
                (Verdict::Deny, Reason::SpecialAddress)
            }
            Reason::NotGranted if way == Way::Out && names.is_empty() && names_hosts => {
                (Verdict::Deny, Reason::Unpinned)
            }
            _ => answer,
        }
    }

    fn resolve(&self, name: &HostName) -> Answer {
        let meets = |object: &Object, every_port: bool| match object {
            Object::Net { host, over, ports, way } => {
                (is_name(host, name) || *host == HostPattern::Any)
                    && *way != Way::In
                    && (!every_port || (*over == Over::Any && *ports == (0, u16::MAX)))
            }
            Object::Http { host, .. } => is_name(host, name) || *host == HostPattern::Any,
            _ => false,
        };
        let counts = |rule: &Rule| rule.objects.iter().any(|o| meets(o, rule.effect != Effect::Permit));
        let only = Rules {
            all: self.all.iter().copied().filter(|rule| counts(rule)).collect(),
            ruling: vec![],
            now: self.now,
        };
        only.put_together(|_| true, |object| names_itself(object, name))
    }

    fn http(&self, method: &str, name: &HostName, port: u16, path: &str) -> Answer {
        let here = |host: &HostPattern, ports: &(u16, u16)| {
            (is_name(host, name) || *host == HostPattern::Any) && (ports.0..=ports.1).contains(&port)
        };
        let speaks =
            |object: &Object| matches!(object, Object::Http { host, ports, .. } if here(host, ports));
        let ruled = self.ruling.iter().any(|rule| rule.objects.iter().any(speaks));
        let meets = |rule: &Rule| {
            rule.objects.iter().any(|object| match object {
                Object::Http { methods, path: pattern, .. } => {
                    speaks(object)
                        && (methods.is_empty() || methods.iter().any(|one| one == method))
                        && pattern.matches(path)
                }
                Object::Net { host, over, ports, way } => {
                    here(host, ports)
                        && *way != Way::In
                        && matches!(over, Over::Tcp | Over::Any)
                        && (!ruled || rule.effect != Effect::Permit)
                }
                _ => false,
            })
        };
        let only = Rules {
            all: self.all.iter().copied().filter(|rule| meets(rule)).collect(),
            ruling: vec![],
            now: self.now,
        };
        only.put_together(|_| true, |object| names_itself(object, name))
    }
}

/// Whether an object is this very name.
fn names_itself(object: &Object, name: &HostName) -> bool {
    match object {
        Object::Net { host, .. } | Object::Http { host, .. } => match host {
            HostPattern::Name(host) => host == name,
            HostPattern::Localhost => name.as_str() == "localhost",
            _ => false,
        },
        _ => false,
    }
}

/// Of several needs the gravest refusal counts.
fn gravest(answers: impl IntoIterator<Item = Answer>) -> Answer {
    let gravity = |answer: &Answer| match answer.1 {
        Reason::Granted => 0,
        Reason::Always => 6,
        Reason::Forbidden => 5,
        Reason::DeniedBelow => 4,
        Reason::Caution => 3,
        Reason::Expired => 1,
        _ => 2,
    };
    answers.into_iter().max_by_key(gravity).unwrap_or(YES)
}

fn goes_on(parts: &[failcore_policy::Part], components: &[&[u8]], leading: bool) -> bool {
    use failcore_policy::Part;
    match (parts, components) {
        ([], _) => false,
        // A leading `**` that has matched all so far matches the same below any new name.
        ([Part::Deep, ..], []) => !leading,
        (_, []) => true,
        ([Part::Deep, rest @ ..], [_, more @ ..]) => {
            goes_on(rest, components, false) || goes_on(parts, more, leading)
        }
        ([Part::Literal(name), rest @ ..], [first, more @ ..]) => {
            **name == **first && goes_on(rest, more, false)
        }
        ([Part::Glob(glob), rest @ ..], [first, more @ ..]) => {
            glob.matches(first) && goes_on(rest, more, false)
        }
    }
}

fn within(host: &HostPattern, addr: IpAddr) -> bool {
    match host {
        HostPattern::Range(net) => net.contains(&addr),
        HostPattern::Localhost => addr.is_loopback(),
        _ => false,
    }
}

fn is_name(host: &HostPattern, name: &HostName) -> bool {
    match host {
        HostPattern::Name(host) => host == name,
        HostPattern::Below(base) => name.as_str().ends_with(&format!(".{base}")),
        HostPattern::Localhost => name.as_str() == "localhost",
        _ => false,
    }
}

/// Every address that a connection to this one may reach.
fn reached(addr: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![addr, addr.to_canonical()];
    if let IpAddr::V6(v6) = addr {
        all.extend(embedded_v4s(v6).map(IpAddr::V4));
    }
    if IpClass::of(addr) == IpClass::Unspecified {
        all.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    }
    all
}
