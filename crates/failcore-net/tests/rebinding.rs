//! DNS rebinding against the real resolver: a name that is public when it is judged and internal a moment later.
//!
//! Each test runs itself again in its own user, mount and network namespace, where it is root over an empty
//! network: there it serves DNS on 127.0.0.1:53, and getaddrinfo(3) asks it by way of a resolv.conf of its own.
//! Nothing leaves the machine, and nothing of it changes.

#![allow(clippy::unwrap_used, reason = "what serves a test may panic as the test may")]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use failcore_gate::{Gate, Grant, Names, Sink, SinkError};
use failcore_model::{
    AbsPath, Action, Claims, Endpoint, Event, HostName, IpClass, Lane, Timestamp, Transport,
};
use failcore_net::{Answer, Pins, ResolveError, Resolver};
use failcore_policy::{Environment, PolicySet};

const INSIDE: &str = "REBINDING_TEST_IS_INSIDE";
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14));
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn the_second_answer_leads_nowhere() {
    if !inside("the_second_answer_leads_nowhere") {
        return;
    }
    serve(|asked| vec![if asked == 0 { Ipv4Addr::new(93, 184, 215, 14) } else { Ipv4Addr::LOCALHOST }]);
    let pins = Arc::new(Pins::new());
    let resolver = Resolver::system(pins.clone()).with_ttl(Duration::from_secs(60));
    let rebind = name("rebind.example");

    let answer = resolve(&resolver, "rebind.example", seconds(1), no).unwrap();
    assert_eq!(answer.addrs, [PUBLIC]);
    assert_eq!(pins.names(PUBLIC, seconds(2)).as_slice(), std::slice::from_ref(&rebind));

    let gate = gate(&["rebind.example:80"], &pins);
    let connect = |addr: IpAddr, port: u16| {
        let at = Endpoint::Inet { transport: Transport::Tcp, addr: (addr, port).into() };
        gate.check(Action::Connect(at), Claims::default(), &[]).map(drop)
    };

    // A program that resolves for itself now gets 127.0.0.1, as the server really answers that …
    let own: Vec<_> = ("rebind.example", 80).to_socket_addrs().unwrap().map(|addr| addr.ip()).collect();
    assert_eq!(own, [LOOPBACK]);
    // … and its connect is judged by that address, which no name is pinned to and no name would cover.
    assert!(connect(LOOPBACK, 80).is_err());
    pins.pin(&rebind, &[LOOPBACK, PUBLIC], Duration::MAX, seconds(2));
    assert!(connect(LOOPBACK, 80).is_err(), "even where it was pinned");
    // The public address is reached at the port that is granted, and only because of the pin.
    connect(PUBLIC, 80).unwrap();
    connect(Ipv4Addr::new(93, 184, 215, 14).to_ipv6_mapped().into(), 80).unwrap();
    assert!(connect(PUBLIC, 81).is_err());
    assert!(connect(IpAddr::from([93, 184, 215, 15]), 80).is_err());
    pins.clear();
    assert!(connect(PUBLIC, 80).is_err());
    pins.pin(&rebind, &[PUBLIC], Duration::from_secs(60), seconds(1));

    // Through the resolver it gets no address at all, and the first answer stays what it was.
    let error = resolve(&resolver, "rebind.example", seconds(3), no).unwrap_err();
    let dropped = vec![(LOOPBACK, IpClass::Loopback)];
    assert_eq!(error, ResolveError::NotPublic { name: rebind.clone(), dropped });
    assert_eq!(pins.names(PUBLIC, seconds(4)).as_slice(), [rebind]);
    assert!(pins.names(PUBLIC, seconds(61)).is_empty());
}

#[test]
fn a_mixed_answer_keeps_only_what_is_public() {
    if !inside("a_mixed_answer_keeps_only_what_is_public") {
        return;
    }
    let mixed = [[10, 0, 0, 1], [93, 184, 215, 14], [169, 254, 169, 254], [127, 0, 0, 1]].map(Ipv4Addr::from);
    serve(move |_| mixed.to_vec());
    let resolver = Resolver::system(Arc::default());
    let answer = resolve(&resolver, "mixed.example", seconds(1), no).unwrap();
    assert_eq!(answer.addrs, [PUBLIC]);
    let mut classes: Vec<_> = answer.dropped.iter().map(|(_, class)| *class).collect();
    classes.sort();
    assert_eq!(classes, [IpClass::Metadata, IpClass::Loopback, IpClass::Private]);
}

#[test]
fn the_hosts_file_counts_and_is_filtered_too() {
    if !inside("the_hosts_file_counts_and_is_filtered_too") {
        return;
    }
    let asked = serve(|_| vec![Ipv4Addr::new(9, 9, 9, 9)]);
    let resolver = Resolver::system(Arc::default());
    let answer = resolve(&resolver, "public.example", seconds(1), no).unwrap();
    assert_eq!(answer.addrs, [IpAddr::from([1, 2, 3, 4])]);
    let documentation = IpAddr::from([192, 0, 2, 7]);
    let error = resolve(&resolver, "reserved.example", seconds(1), no).unwrap_err();
    assert_eq!(error.eai(), -2, "{error}");
    let answer =
        resolve(&resolver, "reserved.example", seconds(1), |addr| addr == IpAddr::from([192, 0, 2, 7]))
            .unwrap();
    assert_eq!(answer.addrs, [documentation]);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "the hosts file came first");
}

#[test]
fn an_unknown_name_has_the_systems_own_error() {
    if !inside("an_unknown_name_has_the_systems_own_error") {
        return;
    }
    serve(|_| Vec::new());
    let error = resolve(&Resolver::system(Arc::default()), "none.example", seconds(1), no).unwrap_err();
    let ResolveError::Lookup { source, .. } = &error else { panic!("{error}") };
    // EAI_NODATA, or EAI_NONAME where the C library makes no difference.
    assert!([-2, -5].contains(&source.code), "{error}");
    assert_eq!(error.eai(), source.code);
}

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn seconds(n: u64) -> Timestamp {
    Timestamp(n * 1_000_000_000)
}

/// Keeps nothing: the record is not what is tested here.
struct Nowhere;

impl Sink for Nowhere {
    fn append(&self, _: &Event) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A gate that permits connecting to these hosts and to nothing else.
fn gate(hosts: &[&str], pins: &Arc<Pins>) -> Gate {
    let policy = format!("version = 1\n[net]\nconnect = {hosts:?}\n");
    let dir = AbsPath::new(b"/").unwrap();
    let policy = PolicySet::parse("test", &policy, &dir, &Environment::default()).unwrap();
    Gate::builder(Arc::new(policy), Arc::new(Nowhere), Lane::Runtime).names(pins.clone()).build()
}

fn granted(gate: &Gate, host: &str) -> Grant {
    gate.check(Action::Resolve(name(host)), Claims::default(), &[]).unwrap()
}

/// Resolves through a gate that permits the name.
fn resolve(
    resolver: &Resolver,
    host: &str,
    now: Timestamp,
    grants: fn(IpAddr) -> bool,
) -> Result<Answer, ResolveError> {
    let gate = gate(&[&format!("{host}:80")], resolver.pins());
    resolver.resolve(&granted(&gate, host), now, grants)
}

fn no(_: IpAddr) -> bool {
    false
}

/// Runs the test of this name again inside the namespaces, and tells whether this is already inside.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let probe = Command::new("unshare").args(["-rnm", "ip", "link", "set", "lo", "up"]).output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        let reason = format!(
            "SKIPPED {test}: needs unshare(1), ip(8) and user, mount and network namespaces: {probe:?}\n"
        );
        // Not by a macro, whose output the test harness would swallow.
        std::io::stderr().write_all(reason.as_bytes()).unwrap();
        return false;
    }
    let dir = std::env::temp_dir().join(format!("failcore-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let hosts = "127.0.0.1 localhost\n192.0.2.7 reserved.example\n1.2.3.4 public.example\n";
    std::fs::write(dir.join("hosts"), hosts).unwrap();
    std::fs::write(dir.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    std::fs::write(dir.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:2 attempts:3\n").unwrap();
    let script = r#"
        ip link set lo up || exit 9
        for file in hosts nsswitch.conf resolv.conf; do mount --bind "$1/$file" "/etc/$file" || exit 9; done
        exec "$2" --exact "$3" --nocapture"#;
    let output = Command::new("unshare")
        .args(["-rnm", "sh", "-c", script, "sh"])
        .args([dir.as_os_str(), std::env::current_exe().unwrap().as_os_str(), test.as_ref()])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// A DNS server on 127.0.0.1:53 (RFC 1035 section 4), which answers questions for IPv4 addresses with what
/// `answer` says to the how many-th one it is, and all others with nothing. Returns the count of the former.
fn serve(answer: impl Fn(usize) -> Vec<Ipv4Addr> + Send + 'static) -> Arc<AtomicUsize> {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((_, peer)) = socket.recv_from(&mut query) {
            let labels = query[12..].iter().position(|byte| *byte == 0).unwrap();
            let question = &query[12..12 + labels + 5];
            let addrs = match question[labels + 1..labels + 3] {
                [0, 1] => answer(count.fetch_add(1, Ordering::SeqCst)),
                _ => Vec::new(),
            };
            let mut reply = query[..2].to_vec();
            reply.extend([0x84, 0, 0, 1, 0, addrs.len() as u8, 0, 0, 0, 0]);
            reply.extend(question);
            for addr in addrs {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend(addr.octets());
            }
            socket.send_to(&reply, peer).unwrap();
        }
    });
    asked
}
