//! A refusal, in words that a model can act on: one rule, and what would be permitted instead.

use failcore_model::{
    AbsPath, Action, Decision, Denial, Endpoint, FileRef, IpClass, NativeObject, Reason, Request, Rights,
    Text, Transport, UnixAddr,
};

use crate::host::class_name;
use crate::http::HTTPS;
use crate::pattern::escape;
use crate::rule::{Effect, HostPattern, Key, Object, Rule, Way};
use crate::set::PolicySet;

/// Hosts that a hint lists; more make a model try them all.
const SHOWN: usize = 5;

// errno(3), the numbers that Linux gives on every architecture.
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const EDQUOT: i32 = 122;

impl PolicySet {
    /// The refusal that a denied decision comes to: the rule that decided, a hint, and the error that the
    /// program sees.
    pub fn denial(&self, request: &Request, decision: &Decision) -> Denial {
        let rule = decision.rules.first().and_then(|id| self.rule(id));
        let action = &request.action;
        let budget = match rule.map(|rule| rule.objects.as_slice()) {
            Some([Object::Budget { name, .. }]) => name.as_str(),
            _ => "",
        };
        Denial {
            verb: action.verb(),
            resource: action.resource(),
            rule: decision.rules.first().cloned(),
            reason: decision.reason,
            hint: self.hint(request, decision.reason, rule),
            errno: errno(action, decision.reason, budget),
            // Processes end and memory is given back; nothing else that is used up comes again.
            retry: match decision.reason {
                Reason::ApprovalTimeout => true,
                Reason::OverBudget => matches!(budget, "processes" | "memory"),
                _ => false,
            },
        }
    }

    fn hint(&self, request: &Request, reason: Reason, rule: Option<&Rule>) -> Option<String> {
        let action = &request.action;
        let author = rule.and_then(|rule| rule.reason.clone());
        let permit = || line(request).map(|line| format!("to permit: {line}"));
        let parts: Vec<Option<String>> = match reason {
            Reason::Granted => vec![],
            Reason::Forbidden => {
                vec![author.or_else(|| rule.map(|rule| format!("denied at {}", rule.place())))]
            }
            Reason::Always => vec![author.or_else(|| Some("no policy can permit it".into()))],
            Reason::Caution | Reason::SpecialAddress => {
                let metadata = class(action) == Some(IpClass::Metadata);
                let why = match (reason, class(action)) {
                    (Reason::SpecialAddress, Some(class)) => {
                        Some(format!("the name leads to a {} address", class_name(class).replace('_', "-")))
                    }
                    _ => author,
                };
                vec![why, if metadata { None } else { permit() }, self.permitted_hosts(action)]
            }
            Reason::Unpinned => {
                vec![Some("connect by name, not by address".into()), self.permitted_hosts(action), permit()]
            }
            Reason::NotGranted | Reason::Unmapped | Reason::Absent => {
                vec![self.permitted_requests(action, None).or_else(|| self.permitted_hosts(action)), permit()]
            }
            Reason::Expired => {
                let until = rule.and_then(|rule| rule.until);
                vec![until.map(|until| format!("the grant ended at {until}"))]
            }
            Reason::OutsideScope => {
                let tool = rule.map(|rule| format!("tool `{}` may not", rule.text));
                vec![tool, self.permitted_requests(action, rule).or_else(|| self.permitted_hosts(action))]
            }
            Reason::OverBudget => vec![rule.map(used_up)],
            Reason::DeniedBelow => {
                vec![rule.map(|rule| format!("it would carry along what `{}` denies", rule.text))]
            }
            Reason::Refused => vec![Some("a person refused it".into())],
            Reason::ApprovalTimeout => vec![Some("nobody approved it in time".into())],
            Reason::Malformed => vec![Some("the name is not one that the system takes".into())],
            Reason::TraceUnwritable => vec![Some("the record cannot be written".into())],
            Reason::Diverged => vec![Some("the recorded run did not do it".into())],
            Reason::Fault => vec![Some("the gate itself failed".into())],
            Reason::Uncarried => vec![Some(
                "carried connections need the kernel lane: start the program by `failcore run --lane kernel`"
                    .into(),
            )],
        };
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The requests that are permitted to the host of one that is not; to the tool that may not make it, where it has a
    /// list of its own.
    fn permitted_requests(&self, action: &Action, tool: Option<&Rule>) -> Option<String> {
        let Action::Http { host, port, .. } = action else { return None };
        let own = tool.and_then(|rule| {
            let at = self.resolved.tools.iter().position(|tool| tool.rule == rule.id)?;
            self.resolved.tools[at].keys.contains(&Key::NetHttp).then_some(at as u16)
        });
        let mut rules = Vec::new();
        self.index.carried.of_name(host, *port, |term, _| {
            let rule = self.resolved.rules.get(term.rule as usize);
            rules.extend(rule.filter(|rule| term.requests.is_some() && rule.tool == own));
        });
        rules.dedup_by_key(|rule| &rule.id);
        let shown: Vec<&str> = rules.iter().take(SHOWN).map(|rule| rule.text.as_str()).collect();
        let more = rules.len().saturating_sub(SHOWN);
        match (shown.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(format!("permitted there: {}", shown.join(", "))),
            (false, more) => Some(format!("permitted there: {} and {more} more", shown.join(", "))),
        }
    }

    /// The hosts that connections may go to, for actions on the network.
    fn permitted_hosts(&self, action: &Action) -> Option<String> {
        if !matches!(
            action,
            Action::Resolve(_)
                | Action::Http { .. }
                | Action::Connect(Endpoint::Inet { .. })
                | Action::Send(Endpoint::Inet { .. })
        ) {
            return None;
        }
        let mut hosts: Vec<String> = Vec::new();
        for rule in self.rules().filter(|rule| rule.effect == Effect::Permit && rule.tool.is_none()) {
            for object in &rule.objects {
                if let Object::Net { host, way: Way::Out | Way::Both, .. } | Object::Http { host, .. } =
                    object
                {
                    let host = spelt(host);
                    if !hosts.contains(&host) {
                        hosts.push(host);
                    }
                }
            }
        }
        Some(match hosts.len() {
            0 => "no host is permitted".into(),
            n if n > SHOWN => {
                format!("permitted hosts: {} and {} more", hosts[..SHOWN].join(", "), n - SHOWN)
            }
            _ => format!("permitted hosts: {}", hosts.join(", ")),
        })
    }
}

fn spelt(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => "*".into(),
        HostPattern::Name(name) => name.to_string(),
        HostPattern::Below(name) => format!("*.{name}"),
        HostPattern::Range(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
        HostPattern::Range(net) => net.to_string(),
        HostPattern::Localhost => "localhost".into(),
        HostPattern::Class(class) => class_name(*class).into(),
    }
}

fn used_up(rule: &Rule) -> String {
    match rule.objects.as_slice() {
        [Object::Budget { name, .. }] => format!("the budget `{name} = {}` is used up", rule.text),
        _ => "a budget is used up".into(),
    }
}

fn class(action: &Action) -> Option<IpClass> {
    match action {
        Action::Connect(Endpoint::Inet { addr, .. })
        | Action::Send(Endpoint::Inet { addr, .. })
        | Action::Bind(Endpoint::Inet { addr, .. })
        | Action::Listen(Endpoint::Inet { addr, .. }) => Some(IpClass::of(addr.ip())),
        _ => None,
    }
}

/// The line of a policy that would permit the action; none where that takes more than a line.
fn line(request: &Request) -> Option<String> {
    let path = |file: &FileRef| literal(&file.path);
    let (section, key, value) = match &request.action {
        Action::Open { file, rights } if Rights::READ.contains(*rights) => ("fs", "read", path(file)?),
        Action::Read(file) => ("fs", "read", path(file)?),
        Action::Open { file, .. }
        | Action::Create(file)
        | Action::Modify(file)
        | Action::Delete(file)
        | Action::Attr(file)
        | Action::Symlink { at: file, .. } => ("fs", "write", path(file)?),
        Action::Rename { .. } | Action::Link { .. } => return None,
        Action::Resolve(name) => ("net", "connect", format!("{name}:443")),
        Action::Http { method, host, port, path } => {
            let port = if *port == HTTPS { String::new() } else { format!(":{port}") };
            let path = String::from_utf8(escape(path.as_bytes())).ok()?;
            ("net", "http", format!("{method} {host}{port}{path}"))
        }
        Action::Connect(at) | Action::Send(at) => ("net", "connect", endpoint(at, request)?),
        Action::Bind(at) | Action::Listen(at) => ("net", "listen", endpoint(at, request)?),
        Action::Socket { family, kind, protocol } => ("net", "socket", format!("{family} {kind} {protocol}")),
        Action::IpcConnect(addr) => ("net", "connect", unix(addr)?),
        Action::Exec { image, argv } => ("process", "exec", command(image, argv)?),
        Action::Signal { to, .. } => {
            let level = match to {
                failcore_model::SignalTarget::Own => "self",
                failcore_model::SignalTarget::Child => "children",
                _ => "run",
            };
            return Some(format!("[process] signal = \"{level}\""));
        }
        Action::Limit { .. } => return Some("[process] limit = true".into()),
        Action::Load(NativeObject::Ffi) => ("native", "load", "ctypes".into()),
        Action::Load(NativeObject::Library(file)) => ("native", "load", path(file)?),
        Action::EnvRead(name) => ("env", "pass", escaped(name)?),
        Action::Unmapped(name) => ("unmapped", "permit", escaped(name)?),
        Action::Trace { .. } | Action::KernelCall(_) => return None,
    };
    Some(format!("[{section}] {key} = [{}]", toml::Value::String(value)))
}

/// A path as a policy writes it; none where it is no text.
fn literal(path: &AbsPath) -> Option<String> {
    String::from_utf8(escape(path.as_bytes())).ok()
}

fn escaped(name: &Text) -> Option<String> {
    String::from_utf8(escape(name.as_bytes())).ok()
}

fn endpoint(at: &Endpoint, request: &Request) -> Option<String> {
    let Endpoint::Inet { transport, addr } = at else {
        return match at {
            Endpoint::Unix(addr) => unix(addr),
            _ => None,
        };
    };
    let prefix = match transport {
        Transport::Tcp => "",
        Transport::Udp => "udp:",
        Transport::Other => "other:",
    };
    let public = IpClass::of(addr.ip()).is_public();
    Some(match request.context.names.first().filter(|_| public) {
        Some(name) => format!("{prefix}{name}:{}", addr.port()),
        None => format!("{prefix}{}", std::net::SocketAddr::new(addr.ip().to_canonical(), addr.port())),
    })
}

fn unix(addr: &UnixAddr) -> Option<String> {
    match addr {
        UnixAddr::Path(file) => literal(&file.path).map(|path| format!("unix:{path}")),
        UnixAddr::Abstract(name) => escaped(name).map(|name| format!("unix:@{name}")),
        UnixAddr::Unnamed => None,
    }
}

fn command(image: &FileRef, argv: &[Text]) -> Option<String> {
    let asked = image.asked.as_str().filter(|asked| !asked.is_empty());
    let mut words = vec![asked.map_or_else(|| literal(&image.path), |asked| Some(asked.to_owned()))?];
    for arg in argv.iter().skip(1) {
        let arg = arg.as_str()?;
        let plain = !arg.is_empty() && !arg.contains([' ', '\t', '\'', '"', '\n']);
        words.push(match arg {
            arg if plain => arg.into(),
            arg if !arg.contains('\'') => format!("'{arg}'"),
            arg if !arg.contains('"') => format!("\"{arg}\""),
            _ => return None,
        });
    }
    Some(words.join(" "))
}

fn errno(action: &Action, reason: Reason, budget: &str) -> i32 {
    match reason {
        Reason::Absent => ENOENT,
        Reason::OverBudget if budget == "processes" => EAGAIN,
        Reason::OverBudget => EDQUOT,
        Reason::TraceUnwritable | Reason::Diverged | Reason::Fault => EIO,
        Reason::Malformed => EINVAL,
        _ => match action {
            Action::Signal { .. } | Action::Trace { .. } | Action::Limit { .. } => EPERM,
            // Programs fall back to ordinary calls where such a one is not there.
            Action::KernelCall(name) if is_entry(name.as_bytes()) => ENOSYS,
            Action::KernelCall(_) => EPERM,
            _ => EACCES,
        },
    }
}

/// io_uring, and the entries of other calling conventions.
fn is_entry(name: &[u8]) -> bool {
    name.starts_with(b"io_uring")
        || name.starts_with(b"x32")
        || name.starts_with(b"ia32")
        || name.starts_with(b"i386")
}
