//! The laws of deciding, over random policies and requests, and agreement with the specification in `naive`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod naive;

use std::fmt::Write;

use failcore_model::*;
use failcore_policy::{Effect, Environment, PolicySet};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// The lists of a random policy; kept apart so that laws can add to them.
#[derive(Debug, Clone, Default)]
struct Lists {
    read: Vec<String>,
    write: Vec<String>,
    deny: Vec<String>,
    connect: Vec<String>,
    http: Vec<String>,
    listen: Vec<String>,
    net_deny: Vec<String>,
    exec: Vec<String>,
    env: Vec<String>,
    preset: bool,
    tool_write: Option<Vec<String>>,
    tool_connect: Option<Vec<String>>,
    tool_http: Option<Vec<String>>,
}

const TOOL: &str = "web_*";

impl Lists {
    fn text(&self) -> String {
        let mut text = String::new();
        if self.preset {
            text += "extends = [\"preset:native\"]\n";
        }
        let list = |entries: &[String]| format!("[{}]", entries.join(", "));
        write!(text, "[fs]\nread = {}\nwrite = {}\n", list(&self.read), list(&self.write)).unwrap();
        write!(text, "deny = {}\n[net]\nconnect = {}\n", list(&self.deny), list(&self.connect)).unwrap();
        writeln!(text, "http = {}", list(&self.http)).unwrap();
        write!(text, "listen = {}\ndeny = {}\n", list(&self.listen), list(&self.net_deny)).unwrap();
        write!(text, "[process]\nexec = {}\n[env]\npass = {}\n", list(&self.exec), list(&self.env)).unwrap();
        if !self.tool().is_empty() {
            writeln!(text, "[[tool]]\nname = \"{TOOL}\"").unwrap();
            if let Some(write) = &self.tool_write {
                writeln!(text, "fs.write = {}", list(write)).unwrap();
            }
            if let Some(connect) = &self.tool_connect {
                writeln!(text, "net.connect = {}", list(connect)).unwrap();
            }
            if let Some(http) = &self.tool_http {
                writeln!(text, "net.http = {}", list(http)).unwrap();
            }
        }
        text
    }

    fn load(&self) -> PolicySet {
        let env =
            Environment { home: Some(path("/w/home")), path: vec![path("/bin")], ..Environment::default() };
        PolicySet::parse("p", &self.text(), &path("/w"), &env)
            .unwrap_or_else(|error| panic!("{}\n{:#?}", self.text(), error.problems()))
    }

    /// What the specification needs to know of the tools: name and own lists.
    fn tool(&self) -> Vec<&'static str> {
        let own = [
            ("fs.write", self.tool_write.is_some()),
            ("net.connect", self.tool_connect.is_some()),
            ("net.http", self.tool_http.is_some()),
        ];
        own.into_iter().filter(|(_, own)| *own).map(|(key, _)| key).collect()
    }

    fn naively(&self, set: &PolicySet, request: &Request) -> naive::Answer {
        let keys = self.tool();
        let tools: Vec<(&str, &[&str])> = if keys.is_empty() { vec![] } else { vec![(TOOL, &keys)] };
        naive::decide(set, &tools, request)
    }

    fn carries(&self, set: &PolicySet, request: &Request) -> bool {
        let keys = self.tool();
        let tools: Vec<(&str, &[&str])> = if keys.is_empty() { vec![] } else { vec![(TOOL, &keys)] };
        naive::is_carried(set, &tools, request)
    }
}

fn path(text: &str) -> AbsPath {
    AbsPath::new(text.as_bytes()).unwrap()
}

/// Paths from few names, so that rules and requests meet.
fn component() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "ab", ".env", ".git", "hooks", "x.pem", "home", "failcore.toml"])
}

fn some_path() -> impl Strategy<Value = String> {
    prop::collection::vec(component(), 0..5)
        .prop_map(|names| names.iter().fold("/w".to_owned(), |path, name| path + "/" + name))
}

fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => component().prop_map(str::to_owned),
        1 => select(vec!["*", "a*", "?", "*.pem", "*m", "*e*", "[ab]", "{a,b}", "{a/b,.env}", "[!a]*"]).prop_map(str::to_owned),
        1 => Just("**".to_owned()),
    ];
    let start = select(vec!["/w/", "./", "**/", "/", "~/"]);
    (start, prop::collection::vec(part, 1..4)).prop_map(|(start, parts)| {
        let whole = format!("{start}{}", parts.join("/"));
        if start == "/" { format!("/w{whole}") } else { whole }
    })
}

fn rights() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(vec!["read", "create", "modify", "delete", "attr"], 1..=5)
}

fn file_entry(grant: bool) -> impl Strategy<Value = String> {
    let plain = pattern().prop_map(|path| format!("\"{path}\""));
    let only = (pattern(), rights())
        .prop_map(|(path, rights)| format!("{{ path = \"{path}\", only = {rights:?} }}"));
    let until =
        pattern().prop_map(|path| format!("{{ path = \"{path}\", until = \"2026-01-01T00:00:00Z\" }}"));
    let flags = pattern().prop_map(|path| format!("{{ path = \"{path}\", approve = true, audit = true }}"));
    if grant {
        prop_oneof![4 => plain, 2 => only, 1 => until, 1 => flags].boxed()
    } else {
        prop_oneof![4 => plain, 2 => only].boxed()
    }
}

fn hosts() -> Vec<&'static str> {
    vec![
        "a.example",
        "*.a.example",
        "x.a.example",
        "*",
        "localhost",
        "10.0.0.0/8",
        "10.0.0.5",
        "0.0.0.0/0",
        "[::]/0",
        "[::1]",
        "127.0.0.0/8",
        "169.254.169.254",
        "93.184.216.0/24",
        "metadata.google.internal",
        "[64:ff9b::]/96",
    ]
}

fn host_entry() -> impl Strategy<Value = String> {
    let ports = select(vec!["443", "80-90", "*", "8080"]);
    let over = select(vec!["", "", "udp:", "any:"]);
    (over, select(hosts()), ports).prop_map(|(over, host, ports)| format!("\"{over}{host}:{ports}\""))
}

fn connect_entry() -> impl Strategy<Value = String> {
    let carried =
        (select(vec!["a.example", "*.a.example", "*", "localhost"]), select(vec!["443", "80-90", "*"]))
            .prop_map(|(host, ports)| format!("{{ host = \"{host}:{ports}\", carry = true }}"));
    prop_oneof![4 => host_entry(), 1 => carried]
}

fn http_entry() -> impl Strategy<Value = String> {
    let methods = select(vec!["GET", "GET,POST", "*"]);
    let hosts =
        vec!["a.example", "*.a.example", "x.a.example:8080", "*", "localhost:80", "metadata.google.internal"];
    let paths = select(vec!["/**", "/", "/r", "/r/**", "/r/*", "/{r,s}/x", "/**/x"]);
    let plain = (methods, select(hosts), paths)
        .prop_map(|(methods, host, path)| format!("\"{methods} {host}{path}\""));
    (plain, prop::bool::weighted(0.2)).prop_map(|(plain, until)| match until {
        true => format!("{{ request = {plain}, until = \"2026-01-01T00:00:00Z\" }}"),
        false => plain,
    })
}

fn listen_entry() -> impl Strategy<Value = String> {
    select(vec!["\"127.0.0.1:443\"", "\"0.0.0.0:*\"", "\"localhost:80-90\"", "\"*:443\""])
        .prop_map(str::to_owned)
}

fn net_deny() -> impl Strategy<Value = String> {
    let ports = select(vec!["", "", ":443", ":*"]);
    (select(hosts()), ports).prop_map(|(host, ports)| format!("\"{host}{ports}\""))
}

fn lists() -> impl Strategy<Value = Lists> {
    let commands = vec!["\"/bin/sh\"", "\"/bin/sh -c x\"", "\"/bin/ls *\"", "\"/bin/ls -l *\"", "\"ls\""];
    let names = vec!["\"A\"", "\"A*\"", "\"LC_?\"", "\"{B,C}\""];
    let some = |strategy: BoxedStrategy<String>, most| prop::collection::vec(strategy, 0..most);
    (
        (some(file_entry(true).prop_map(no_only).boxed(), 3), some(file_entry(true).boxed(), 5)),
        some(file_entry(false).boxed(), 4),
        (
            some(connect_entry().boxed(), 5),
            some(http_entry().boxed(), 3),
            some(listen_entry().boxed(), 2),
            some(net_deny().boxed(), 3),
        ),
        (subsequence(commands, 0..=3), subsequence(names, 0..=2)),
        prop::bool::weighted(0.15),
        (
            prop::option::weighted(0.3, some(file_entry(true).boxed(), 3)),
            prop::option::weighted(0.3, some(connect_entry().boxed(), 3)),
            prop::option::weighted(0.3, some(http_entry().boxed(), 2)),
        ),
    )
        .prop_map(
            |((read, write), deny, (connect, http, listen, net_deny), (exec, env), preset, tool)| Lists {
                read,
                write,
                deny,
                connect,
                http,
                listen,
                net_deny,
                exec: exec.into_iter().map(str::to_owned).collect(),
                env: env.into_iter().map(str::to_owned).collect(),
                preset,
                tool_write: tool.0,
                tool_connect: tool.1,
                tool_http: tool.2,
            },
        )
}

/// An entry of `read` has no rights to choose from.
fn no_only(entry: String) -> String {
    match entry.find(", only") {
        Some(at) => format!("{} }}", &entry[..at]),
        None => entry,
    }
}

fn file() -> impl Strategy<Value = FileRef> {
    (some_path(), any::<bool>(), any::<Option<bool>>()).prop_map(|(at, exists, dir)| FileRef {
        exists,
        dir,
        ..FileRef::at(path(&at))
    })
}

fn action() -> impl Strategy<Value = Action> {
    let addr = select(vec![
        "93.184.216.34",
        "10.0.0.5",
        "127.0.0.1",
        "0.0.0.0",
        "::",
        "::1",
        "169.254.169.254",
        "::ffff:10.0.0.5",
        "64:ff9b::a00:5",
        "2606:4700::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
    ]);
    let endpoint = (addr, select(vec![443u16, 80, 8080, 53]), any::<bool>()).prop_map(|(addr, port, udp)| {
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        Endpoint::Inet { transport, addr: (addr.parse::<std::net::IpAddr>().unwrap(), port).into() }
    });
    let name = select(vec![
        "a.example",
        "x.a.example",
        "y.x.a.example",
        "localhost",
        "b.example",
        "metadata.google.internal",
    ]);
    let requested = (
        name.clone(),
        select(vec![443u16, 80, 8080]),
        select(vec!["GET", "POST"]),
        select(vec!["/", "/r", "/r/", "/r/x", "/s/x/y"]),
    )
        .prop_map(|(host, port, method, path)| Action::Http {
            method: method.into(),
            host: HostName::parse(host).unwrap(),
            port,
            path: path.into(),
        });
    let open = (file(), rights()).prop_map(|(file, names)| Action::Open {
        file,
        rights: names.into_iter().filter_map(Rights::from_right_name).collect(),
    });
    let exec = (
        select(vec!["sh", "ls"]),
        select(vec!["sh", "ls", "dash", "other"]),
        subsequence(vec!["-l", "-c", "x"], 0..=2),
    )
        .prop_map(|(image, asked, args)| {
            let real = std::fs::canonicalize(format!("/bin/{image}")).unwrap();
            let image = path(real.to_str().unwrap());
            let argv = std::iter::once(asked).chain(args).map(Text::from).collect();
            Action::Exec { image: FileRef { asked: asked.into(), ..FileRef::at(image) }, argv }
        });
    prop_oneof![
        4 => open,
        1 => file().prop_map(Action::Read),
        1 => file().prop_map(Action::Create),
        1 => file().prop_map(Action::Delete),
        1 => file().prop_map(Action::Attr),
        3 => (file(), file()).prop_map(|(from, to)| Action::Rename { from, to }),
        2 => (file(), file()).prop_map(|(from, to)| Action::Link { from, to }),
        5 => endpoint.clone().prop_map(Action::Connect),
        1 => endpoint.prop_map(Action::Bind),
        2 => name.prop_map(|name| Action::Resolve(HostName::parse(name).unwrap())),
        4 => requested,
        1 => exec,
        1 => select(vec!["A", "AB", "B", "LC_X", "LC_XY"]).prop_map(|name| Action::EnvRead(name.into())),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let pinned =
        subsequence(vec!["a.example", "x.a.example", "b.example", "metadata.google.internal"], 0..=2);
    let scope = subsequence(vec!["web_search", "other"], 0..=2);
    let times = select(vec!["2025-06-01T00:00:00Z", "2026-06-01T00:00:00Z"]);
    let lanes = select(vec![Lane::Runtime, Lane::Kernel]);
    (action(), pinned, scope, times, lanes).prop_map(|(action, names, scope, time, lane)| Request {
        action,
        subject: Subject {
            claimed: Claims { scope: scope.into_iter().map(Text::from).collect(), ..Claims::default() },
            ..Subject::default()
        },
        context: Context {
            names: names.into_iter().map(|name| HostName::parse(name).unwrap()).collect(),
            time: time.parse().unwrap(),
            lane,
            ..Context::default()
        },
    })
}

/// Many requests for each policy: loading is what takes time.
fn requests() -> impl Strategy<Value = Vec<Request>> {
    prop::collection::vec(request(), 16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decide_is_what_the_specification_says(lists in lists(), requests in requests()) {
        let set = lists.load();
        for request in requests {
            let decision = set.decide(&request);
            let (verdict, reason) = lists.naively(&set, &request);
            prop_assert_eq!(decision.verdict, verdict, "{:?}\n{:?}\n{}", request, decision, lists.text());
            let carried = decision.obligations.contains(&Obligation::Carry);
            prop_assert_eq!(carried, decision.is_allow() && lists.carries(&set, &request), "{:?}\n{}", request, lists.text());
            // A tool's own deny is named as such, which the specification leaves open.
            if decision.reason != Reason::Forbidden {
                prop_assert_eq!(decision.reason, reason, "{:?}\n{:?}\n{}", request, decision, lists.text());
            }
        }
    }

    #[test]
    fn an_allow_names_a_permit_and_a_deny_never_does(lists in lists(), requests in requests()) {
        let set = lists.load();
        for request in requests {
            let decision = set.decide(&request);
            for id in &decision.rules {
                let rule = set.rule(id).unwrap();
                let named = match decision.verdict {
                    Verdict::Allow => rule.effect == Effect::Permit,
                    Verdict::Deny => rule.effect != Effect::Permit || matches!(decision.reason, Reason::Expired | Reason::Absent),
                };
                prop_assert!(named, "{decision:?}");
            }
            prop_assert!(!decision.is_allow() || !decision.rules.is_empty());
        }
    }

    #[test]
    fn order_is_irrelevant(lists in lists(), requests in requests()) {
        let mut turned = lists.clone();
        for list in [
            &mut turned.read, &mut turned.write, &mut turned.deny, &mut turned.connect, &mut turned.net_deny,
            &mut turned.http, &mut turned.exec, &mut turned.env,
        ] {
            list.reverse();
        }
        let (one, other) = (lists.load(), turned.load());
        for request in requests {
            let (a, b) = (one.decide(&request), other.decide(&request));
            prop_assert_eq!((a.verdict, a.reason, a.obligations), (b.verdict, b.reason, b.obligations));
        }
    }

    #[test]
    fn adding_a_deny_never_allows(lists in lists(), file in file_entry(false), net in net_deny(), requests in requests()) {
        let mut more = lists.clone();
        more.deny.push(file);
        more.net_deny.push(net);
        let (before, after) = (lists.load(), more.load());
        for request in requests {
            prop_assert!(before.decide(&request).is_allow() || !after.decide(&request).is_allow(), "{:?}", request);
        }
    }

    #[test]
    fn a_scope_only_narrows(lists in lists(), requests in requests()) {
        let set = lists.load();
        for request in requests {
            let mut outside = request.clone();
            outside.subject.claimed.scope.clear();
            prop_assert!(set.decide(&outside).is_allow() || !set.decide(&request).is_allow(), "{:?}", request);
        }
    }

    #[test]
    fn a_tool_without_an_entry_is_not_narrowed(lists in lists(), requests in requests()) {
        let set = lists.load();
        for mut request in requests {
            request.subject.claimed.scope.clear();
            let outside = set.decide(&request);
            request.subject.claimed.scope.push("unknown".into());
            prop_assert_eq!(set.decide(&request), outside);
        }
    }

    #[test]
    fn deny_beats_permit(mut lists in lists(), requests in requests()) {
        lists.deny = vec!["\"/\"".into()];
        lists.net_deny = vec!["\"*\"".into(), "\"0.0.0.0/0\"".into(), "\"[::]/0\"".into()];
        let set = lists.load();
        for request in requests.into_iter().filter(|r| !matches!(r.action, Action::EnvRead(_))) {
            prop_assert!(!set.decide(&request).is_allow(), "{:?}", request);
        }
    }

    #[test]
    fn without_grants_everything_is_denied(mut lists in lists(), requests in requests()) {
        lists = Lists { deny: lists.deny, net_deny: lists.net_deny, ..Lists::default() };
        let set = lists.load();
        for request in requests {
            prop_assert!(!set.decide(&request).is_allow(), "{:?}", request);
        }
    }

    #[test]
    fn the_resolved_text_decides_the_same(lists in lists(), requests in requests(), dev in any::<u64>(), ino in any::<u64>()) {
        let mut set = lists.load().protect(&[path("/w/trace")]).permit_read(&path("/w/main.py"));
        let denies = set.literal_denies();
        let ids: Vec<_> = denies.into_iter().map(|(id, _)| (id, FileId { dev, ino })).collect();
        set = set.with_identities(&ids);
        prop_assert!(set.has_identities());
        let again = PolicySet::from_resolved(set.resolved()).unwrap();
        prop_assert_eq!(again.resolved(), set.resolved());
        prop_assert_eq!(again.digest(), set.digest());
        prop_assert_eq!(again.rules().collect::<Vec<_>>(), set.rules().collect::<Vec<_>>());
        let json = PolicySet::from_json(&set.to_json().unwrap()).unwrap();
        prop_assert_eq!(json.resolved(), set.resolved());
        for request in requests {
            prop_assert_eq!(again.decide(&request), set.decide(&request));
            prop_assert_eq!(json.decide(&request), set.decide(&request));
        }
    }
}
