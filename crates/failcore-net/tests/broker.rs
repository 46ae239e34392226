//! The broker over real sockets, with answers that the test gives: what is looked up, recorded, pinned and answered.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../failcore-gate/tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::Kept;
use failcore_gate::{Actor, Broker, Gate, Names, Sender, now};
use failcore_model::{AbsPath, Action, Event, HostName, Lane, Reason, Transport, Verdict};
use failcore_net::{BrokerServer, Found, LookupError, Pins, Resolver};
use failcore_policy::{Environment, PolicySet};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), 53);
const SERVER6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 53);
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers by name, one after the other and the last for ever; a name without any is unknown.
#[derive(Default)]
struct Upstream {
    answers: Mutex<HashMap<&'static str, Vec<Found>>>,
    asked: Mutex<Vec<String>>,
    held: Mutex<bool>,
    go_on: Condvar,
}

impl Upstream {
    fn look_up(&self, name: &HostName) -> Result<Found, LookupError> {
        self.asked.lock().unwrap().push(name.to_string());
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.go_on.wait(held).unwrap();
        }
        drop(held);
        let mut answers = self.answers.lock().unwrap();
        let left = answers.get_mut(name.as_str()).ok_or_else(|| LookupError::new(-2, "no such name"))?;
        Ok(if left.len() > 1 { left.remove(0) } else { left[0].clone() })
    }

    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.go_on.notify_all();
    }
}

/// A broker with its world.
struct World {
    broker: BrokerServer,
    port: Arc<dyn Broker>,
    kept: Arc<Kept>,
    upstream: Arc<Upstream>,
    pins: Arc<Pins>,
    gate: Arc<Gate>,
}

fn world(policy: &str, answers: &[(&'static str, &[&str])]) -> World {
    world_with(policy, answers, |resolver| resolver)
}

fn world_with(
    policy: &str,
    answers: &[(&'static str, &[&str])],
    change: impl FnOnce(Resolver) -> Resolver,
) -> World {
    let policy = format!("version = 1\n{policy}");
    let policy = PolicySet::parse("test", &policy, &AbsPath::root(), &Environment::default()).unwrap();
    let (kept, upstream) = (Arc::<Kept>::default(), Arc::<Upstream>::default());
    for (name, successive) in answers {
        let found = successive.iter().map(|one| found(one)).collect();
        upstream.answers.lock().unwrap().insert(name, found);
    }
    let pins = Arc::new(Pins::new());
    let gate = Gate::builder(Arc::new(policy), kept.clone(), Lane::Kernel).names(pins.clone()).build();
    let (gate, of) = (Arc::new(gate), upstream.clone());
    let resolver = change(Resolver::new(pins.clone(), move |name| of.look_up(name)));
    let broker = BrokerServer::start(gate.clone(), resolver).unwrap();
    let port = broker.broker();
    World { broker, port, kept, upstream, pins, gate }
}

/// Addresses, and an alias where one of the words is none.
fn found(text: &str) -> Found {
    let mut found = Found::default();
    for word in text.split_whitespace() {
        match word.parse() {
            Ok(addr) => found.addrs.push(addr),
            Err(_) => found.aliases.push(HostName::parse(word).unwrap()),
        }
    }
    found
}

fn actor(pid: u32) -> Actor {
    Actor { pid, tid: pid, exe: "/bin/agent".into() }
}

fn sender(transport: Transport, from: SocketAddr, answered_as: Option<SocketAddr>, pid: u32) -> Sender {
    Sender { transport, from, answered_as, actor: actor(pid), claims: Default::default() }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let labels = name.split('.').map(str::as_bytes);
    raw_question(&Name::from_labels(labels).unwrap(), kind)
}

fn raw_question(name: &Name, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(hickory_proto::op::Query::query(name.clone(), kind));
    message.to_vec().unwrap()
}

impl World {
    /// A datagram socket as the supervisor leaves it.
    fn socket(&self, server: SocketAddr, pid: u32) -> UdpSocket {
        let door = self.port.instead_of(Transport::Udp, server).unwrap();
        assert_eq!(door.is_ipv4(), server.is_ipv4());
        let socket = UdpSocket::bind((if door.is_ipv4() { "127.0.0.1" } else { "::1" }, 0)).unwrap();
        socket.connect(door).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        self.port.expect(sender(Transport::Udp, socket.local_addr().unwrap(), None, pid));
        socket
    }

    fn stream(&self, pid: u32) -> TcpStream {
        let stream = TcpStream::connect(self.port.instead_of(Transport::Tcp, SERVER).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        self.port.expect(sender(Transport::Tcp, stream.local_addr().unwrap(), None, pid));
        stream
    }

    fn ask(&self, name: &str, kind: RecordType) -> Message {
        exchange(&self.socket(SERVER, 7), &question(name, kind))
    }

    /// The addresses of a name, or the code of the answer.
    fn addrs(&self, name: &str) -> Result<Vec<String>, ResponseCode> {
        let mut all = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = self.ask(name, kind);
            if answer.response_code != ResponseCode::NoError {
                return Err(answer.response_code);
            }
            all.extend(answer.answers.iter().map(|one| one.data.to_string()));
        }
        Ok(all)
    }

    fn asked(&self) -> Vec<String> {
        self.upstream.asked.lock().unwrap().clone()
    }

    /// Every decision, as `verb resource reason`.
    fn decided(&self) -> Vec<String> {
        let events = self.kept.events.lock().unwrap();
        let decided = events.iter().filter_map(|event| match event {
            Event::Decided { request, decision, .. } => {
                let verdict =
                    if decision.verdict == Verdict::Allow { Reason::Granted } else { decision.reason };
                Some(format!("{} {} {verdict}", request.action.verb(), request.action.resource()))
            }
            _ => None,
        });
        decided.collect()
    }

    fn connects(&self, addr: &str) -> bool {
        let addr = addr.parse().unwrap();
        let at = failcore_model::Endpoint::Inet { transport: Transport::Tcp, addr };
        self.gate.check_for(actor(7), Action::Connect(at), Default::default(), &[]).is_ok()
    }
}

fn exchange(socket: &UdpSocket, question: &[u8]) -> Message {
    socket.send(question).unwrap();
    let mut bytes = [0; 65536];
    let len = socket.recv(&mut bytes).unwrap();
    let answer = Message::from_vec(&bytes[..len]).unwrap();
    assert_eq!(answer.id.to_be_bytes(), question[..2]);
    answer
}

fn over(stream: &mut TcpStream, question: &[u8]) -> std::io::Result<Message> {
    let length = u16::try_from(question.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(Message::from_vec(&bytes).unwrap())
}

const GRANTED: &str = "[net]\nconnect = [\"good.example:443\", \"*.wide.example:443\"]\n\
                       deny = [\"tracker.wide.example\"]";
const PUBLIC: &str = "93.184.215.14";

#[test]
fn a_granted_name_is_looked_up_once_recorded_once_pinned_and_answered() {
    let world = world(GRANTED, &[("good.example", &["93.184.215.14 2606:4700::1111 93.184.215.15"])]);
    assert_eq!(world.addrs("GOOD.example").unwrap(), [PUBLIC, "93.184.215.15", "2606:4700::1111"]);
    assert_eq!(world.asked(), ["good.example"]);
    assert_eq!(world.decided(), ["net.resolve good.example granted"]);
    for addr in [PUBLIC, "93.184.215.15", "2606:4700::1111"] {
        let names = world.pins.names(addr.parse().unwrap(), now());
        assert_eq!(names.as_slice(), [HostName::parse("good.example").unwrap()], "{addr}");
    }
    assert!(world.connects("93.184.215.14:443") && !world.connects("93.184.215.16:443"));
    let events = world.kept.events.lock().unwrap();
    let Event::Decided { request, .. } = &events[0] else { panic!("{:?}", events[0]) };
    assert_eq!((request.subject.pid, request.subject.exe.clone()), (7, "/bin/agent".into()));
}

#[test]
fn a_refused_name_does_not_exist_and_is_never_looked_up() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    for name in ["evil.example", "secret-in-labels.evil.example", "wide.example", "tracker.wide.example"] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::HTTPS, RecordType::ANY] {
            assert_eq!(world.ask(name, kind).response_code, ResponseCode::NXDomain, "{name} {kind}");
        }
    }
    // Written so that a careless reader sees a granted name.
    let tricks: &[&[&[u8]]] = &[
        &[b"evil", b"example\0", b"good", b"example"],
        &[b"good.example"],
        &[b"good", b"example\0"],
        &["g\u{043e}\u{043e}d".as_bytes(), b"example"],
        &[b"good", b"example", b"evil", b"example"],
        &[b"93", b"184", b"215", b"14"],
        &[b"\xff\xff", b"example"],
    ];
    for labels in tricks {
        let name = Name::from_labels(labels.iter().copied()).unwrap();
        let answer = exchange(&world.socket(SERVER, 7), &raw_question(&name, RecordType::A));
        assert_eq!(answer.response_code, ResponseCode::NXDomain, "{name}");
    }
    assert_eq!(world.asked(), [""; 0]);
    let decided = world.decided();
    assert!(decided.contains(&"net.resolve tracker.wide.example forbidden".into()), "{decided:#?}");
    assert!(decided.contains(&"net.resolve xn--gd-fmca.example not_granted".into()), "{decided:#?}");
    assert_eq!(decided.iter().filter(|one| one.starts_with("unmapped dns IN A ")).count(), 5, "{decided:#?}");
    assert!(decided.iter().all(|one| !one.ends_with("granted") || one.ends_with("not_granted")));
}

#[test]
fn full_width_and_punycode_are_the_name_they_mean() {
    let world = world("[net]\nconnect = [\"bücher.example:443\"]", &[("xn--bcher-kva.example", &[PUBLIC])]);
    for label in ["bücher", "xn--bcher-kva", "ＢÜＣＨＥＲ"] {
        let name = Name::from_labels([label.as_bytes(), b"example"]).unwrap();
        let answer = exchange(&world.socket(SERVER, 7), &raw_question(&name, RecordType::A));
        assert_eq!(answer.answers.len(), 1, "{label}");
        assert_eq!(answer.queries[0].name(), &name, "the question comes back as it was asked");
    }
    assert_eq!(world.asked(), ["xn--bcher-kva.example"]);
}

#[test]
fn other_records_are_none_and_odd_questions_no_names() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    for kind in [RecordType::TXT, RecordType::MX, RecordType::HTTPS, RecordType::PTR, RecordType::ANY] {
        let answer = world.ask("good.example", kind);
        assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    assert_eq!(world.ask("good.example", RecordType::AXFR).response_code, ResponseCode::NXDomain);
    assert_eq!(world.ask("1.2.0.192.in-addr.arpa", RecordType::PTR).response_code, ResponseCode::NXDomain);
    let mut chaos = question("good.example", RecordType::TXT);
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(exchange(&world.socket(SERVER, 7), &chaos).response_code, ResponseCode::NXDomain);
    assert_eq!(world.asked(), [""; 0]);
    let mut update = question("good.example", RecordType::SOA);
    update[2] = 5 << 3;
    assert_eq!(exchange(&world.socket(SERVER, 7), &update).response_code, ResponseCode::NotImp);
}

#[test]
fn what_leads_inside_is_dropped_and_the_second_answer_too() {
    let world = world(
        "[net]\nconnect = [\"rebind.example:80\", \"mixed.example:80\", \"inside.example:80\", \"10.0.0.7:80\"]",
        &[
            ("rebind.example", &[PUBLIC, "127.0.0.1"]),
            (
                "mixed.example",
                &["127.0.0.1 93.184.215.14 169.254.169.254 10.0.0.7 10.0.0.8 ::1 fd00:ec2::254"],
            ),
            ("inside.example", &["127.0.0.1 ::ffff:10.0.0.8 168.63.129.16"]),
        ],
    );
    assert_eq!(world.addrs("rebind.example").unwrap(), [PUBLIC]);
    // Another process asks, and it is another operation.
    let again = exchange(&world.socket(SERVER, 8), &question("rebind.example", RecordType::A));
    assert_eq!(again.response_code, ResponseCode::NXDomain);
    assert_eq!(world.asked(), ["rebind.example"; 2]);
    assert!(world.connects("93.184.215.14:80") && !world.connects("127.0.0.1:80"));
    // What the policy grants as an address is kept.
    assert_eq!(world.addrs("mixed.example").unwrap(), [PUBLIC, "10.0.0.7"]);
    assert_eq!(world.addrs("inside.example").unwrap_err(), ResponseCode::NXDomain);
    assert!(world.decided().contains(&"net.resolve inside.example special_address".into()));
    assert!(!world.connects("168.63.129.16:80"));
}

#[test]
fn an_alias_may_lead_anywhere_but_to_what_is_refused() {
    let world = world(
        &GRANTED.replace(
            "\"good.example:443\"",
            "\"good.example:443\", \"cdn.example:443\", \"meta.example:443\"",
        ),
        &[
            ("good.example", &["93.184.215.14 tracker.wide.example"]),
            ("cdn.example", &["93.184.215.15 edge-17.nobody-granted.example"]),
            ("meta.example", &["93.184.215.16 metadata.google.internal"]),
        ],
    );
    assert_eq!(world.addrs("good.example").unwrap_err(), ResponseCode::NXDomain);
    assert_eq!(world.addrs("meta.example").unwrap_err(), ResponseCode::NXDomain);
    assert!(!world.connects("93.184.215.14:443") && !world.connects("93.184.215.16:443"), "never pinned");
    let answer = world.ask("cdn.example", RecordType::A);
    let data: Vec<_> = answer.answers.iter().map(|one| one.data.to_string()).collect();
    assert_eq!(data, ["edge-17.nobody-granted.example.", "93.184.215.15"]);
    assert!(world.connects("93.184.215.15:443"), "by the name that was asked for");
    let decided = world.decided();
    assert!(decided.contains(&"net.resolve tracker.wide.example forbidden".into()), "{decided:#?}");
    assert!(!decided.iter().any(|one| one.contains("nobody-granted")), "{decided:#?}");
}

#[test]
fn an_answer_never_outlives_its_pin() {
    for (pinned, most) in [(300, 60), (7, 7), (1, 1), (0, 0)] {
        let world = world_with(GRANTED, &[("good.example", &[PUBLIC])], |resolver| {
            resolver.with_ttl(Duration::from_secs(pinned))
        });
        let before = now();
        let answer = world.ask("good.example", RecordType::A);
        let ttl = answer.answers[0].ttl;
        assert!(ttl <= most, "{ttl} s of a pin of {pinned} s");
        assert!(ttl + 2 >= most, "{ttl} s");
        let pinned_at = |time| !world.pins.names(PUBLIC.parse().unwrap(), time).is_empty();
        if ttl > 0 {
            assert!(pinned_at(before.plus(u64::from(ttl) * 1_000_000_000 - 1)));
        }
        assert!(!pinned_at(now().plus(pinned * 1_000_000_000)));
    }
}

#[test]
fn what_cannot_be_found_out_is_asked_again_and_what_is_not_there_is_not() {
    let world = world_with(GRANTED, &[("gone.wide.example", &[""])], |_| {
        Resolver::new(Arc::default(), |name| match name.as_str() {
            "none.wide.example" => Err(LookupError::new(-2, "no such name")),
            "bare.wide.example" => Err(LookupError::new(-5, "no address")),
            "slow.wide.example" => Err(LookupError::new(-3, "try again")),
            _ => panic!("a resolver that panics"),
        })
    });
    assert_eq!(world.addrs("none.wide.example").unwrap_err(), ResponseCode::NXDomain);
    assert_eq!(world.addrs("bare.wide.example").unwrap(), [""; 0]);
    assert_eq!(world.addrs("slow.wide.example").unwrap_err(), ResponseCode::ServFail);
    assert_eq!(world.addrs("panic.wide.example").unwrap_err(), ResponseCode::ServFail);
    assert_eq!(world.addrs("none.wide.example").unwrap_err(), ResponseCode::NXDomain, "it still answers");
}

#[test]
fn what_cannot_be_recorded_is_not_looked_up() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    world.kept.full.store(true, SeqCst);
    assert_eq!(world.addrs("good.example").unwrap_err(), ResponseCode::ServFail);
    assert_eq!(world.asked(), [""; 0]);
}

#[test]
fn audit_mode_refuses_nothing_and_records_all() {
    let world =
        world("mode = \"audit\"\n[net]\nconnect = []", &[("other.example", &["93.184.215.14 127.0.0.1"])]);
    assert_eq!(world.addrs("other.example").unwrap(), [PUBLIC, "127.0.0.1"]);
    assert_eq!(world.decided(), ["net.resolve other.example not_granted"]);
}

#[test]
fn sockets_that_nobody_made_known_get_no_answer() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.connect(world.port.instead_of(Transport::Udp, SERVER).unwrap()).unwrap();
    stranger.send(&question("good.example", RecordType::A)).unwrap();
    let mut stream = TcpStream::connect(world.port.instead_of(Transport::Tcp, SERVER).unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(over(&mut stream, &question("good.example", RecordType::A)).is_err(), "closed");
    // One that is known, asked after it on the same socket, is answered first.
    assert_eq!(world.addrs("good.example").unwrap(), [PUBLIC]);
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.recv(&mut [0; 512]).is_err());
    assert_eq!(world.decided().len(), 1);
}

#[test]
fn by_stream_and_by_the_other_family() {
    let world = world(GRANTED, &[("good.example", &["93.184.215.14 2606:4700::1111"])]);
    let mut stream = world.stream(7);
    for _ in 0..3 {
        let answer = over(&mut stream, &question("good.example", RecordType::AAAA)).unwrap();
        assert_eq!(answer.answers.len(), 1);
        let answer = over(&mut stream, &question("evil.example", RecordType::A)).unwrap();
        assert_eq!(answer.response_code, ResponseCode::NXDomain);
    }
    let answer = exchange(&world.socket(SERVER6, 7), &question("good.example", RecordType::A));
    assert_eq!(answer.answers.len(), 1);
    let mapped: SocketAddr = "[::ffff:10.1.2.3]:53".parse().unwrap();
    let door = world.port.instead_of(Transport::Udp, mapped).unwrap();
    assert!(door.ip().to_string().starts_with("::ffff:127."), "{door}");
    for other in ["10.1.2.3:853", "10.1.2.3:5353", "[::1]:443"] {
        assert_eq!(world.port.instead_of(Transport::Tcp, other.parse().unwrap()), None);
    }
    assert_eq!(world.port.instead_of(Transport::Other, SERVER), None);
    assert!(world.port.tcp_ports().contains(&world.port.instead_of(Transport::Tcp, SERVER).unwrap().port()));
}

#[test]
fn a_long_answer_comes_by_stream() {
    let many: Vec<String> = (0..200).map(|n| format!("93.184.{}.{n}", n / 100)).collect();
    let many: &'static str = Box::leak(many.join(" ").into_boxed_str());
    let world = world(GRANTED, &[("good.example", &[many])]);
    let answer = world.ask("good.example", RecordType::A);
    assert!(answer.truncation && answer.answers.len() < 32);
    let answer = over(&mut world.stream(7), &question("good.example", RecordType::A)).unwrap();
    assert_eq!((answer.truncation, answer.answers.len()), (false, 200));
    assert!(answer.answers.iter().all(|one| match one.data {
        RData::A(addr) => world.connects(&format!("{}:443", addr.0)),
        _ => false,
    }));
}

#[test]
fn silent_and_slow_streams_hold_nobody_up() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    let mut silent: Vec<_> = (0..40).map(|_| world.stream(7)).collect();
    for (n, stream) in silent.iter_mut().enumerate() {
        // Nothing, half a length, or half a question.
        let _ = stream.write_all(&question("good.example", RecordType::A)[..n % 20]);
    }
    assert_eq!(world.addrs("good.example").unwrap(), [PUBLIC]);
    // Beyond what is served at once they are closed.
    let closed = silent.iter().filter(|stream| {
        let mut stream: &TcpStream = stream;
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        match stream.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    });
    assert!(closed.count() >= 8);
    drop(silent);
    // When they are gone there is room again.
    let answered = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        over(&mut world.stream(7), &question("good.example", RecordType::A)).is_ok()
    });
    assert!(answered);
    // A length that no question has.
    let mut stream = world.stream(7);
    stream.write_all(&[0xff, 0xff]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_slow_look_up_holds_up_only_who_asked_and_is_one_however_often_it_is_asked() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC]), ("slow.wide.example", &[PUBLIC])]);
    assert_eq!(world.addrs("good.example").unwrap(), [PUBLIC]);
    world.upstream.hold(true);
    let waiting = world.socket(SERVER, 7);
    let slow = question("slow.wide.example", RecordType::A);
    for _ in 0..5 {
        // The same again, as a resolver does that hears nothing; and both families at once.
        waiting.send(&slow).unwrap();
        waiting.send(&question("slow.wide.example", RecordType::AAAA)).unwrap();
    }
    assert_eq!(world.addrs("evil.example").unwrap_err(), ResponseCode::NXDomain);
    while world.asked().len() < 2 {
        std::thread::yield_now();
    }
    world.upstream.hold(false);
    let mut bytes = [0; 512];
    let answers = (0..6).map(|_| waiting.recv(&mut bytes).unwrap());
    assert_eq!(answers.count(), 6, "one for the five, and five for what was asked anew");
    assert_eq!(world.asked(), ["good.example", "slow.wide.example"]);
    let decided = world.decided();
    assert_eq!(decided.iter().filter(|one| one.contains("slow.wide.example")).count(), 1, "{decided:#?}");
}

#[test]
fn a_flood_is_survived_with_bounded_means() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    world.upstream.hold(true);
    let sockets: Vec<_> = (0..8).map(|n| world.socket(SERVER, 7 + n)).collect();
    for n in 0..20_000u32 {
        let socket = &sockets[n as usize % sockets.len()];
        let bytes = match n % 4 {
            0 => question(&format!("n{n}.wide.example"), RecordType::A),
            1 => question(&format!("n{n}.evil.example"), RecordType::A),
            2 => vec![n as u8; n as usize % 700],
            _ => question("good.example", RecordType::A),
        };
        // Where its buffer is full the socket says so, and the flood goes on.
        let _ = socket.send(&bytes);
    }
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(threads < 120, "{threads} threads, with those of the tests beside this one");
    world.upstream.hold(false);
    let fresh = world.socket(SERVER, 99);
    fresh.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let answered = (0..100).any(|_| {
        let _ = fresh.send(&question("good.example", RecordType::A));
        fresh.recv(&mut [0; 512]).is_ok()
    });
    assert!(answered);
}

#[test]
fn it_ends_while_a_look_up_is_stuck() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    world.upstream.hold(true);
    let (socket, mut stream) = (world.socket(SERVER, 7), world.stream(7));
    socket.send(&question("good.example", RecordType::A)).unwrap();
    while world.asked().is_empty() {
        std::thread::yield_now();
    }
    drop(world.broker);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "closed");
    world.upstream.hold(false);
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked_where_that_may_be() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    for server in [SERVER, SERVER6] {
        if !world.port.answers_as(server) {
            let reason = "SKIPPED: needs CAP_NET_RAW to answer from another's address\n";
            std::io::stderr().write_all(reason.as_bytes()).unwrap();
            continue;
        }
        let door = world.port.instead_of(Transport::Udp, server).unwrap();
        let socket = UdpSocket::bind((door.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        world.port.expect(sender(Transport::Udp, socket.local_addr().unwrap(), Some(server), 7));
        let asked = question("good.example", RecordType::A);
        socket.send_to(&asked, door).unwrap();
        let mut bytes = [0; 512];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(from, server);
        assert_eq!(Message::from_vec(&bytes[..len]).unwrap().answers.len(), 1);
    }
}

#[test]
fn in_the_runs_own_network_everybody_is_answered_and_known_by_port() {
    let world = world(GRANTED, &[("good.example", &[PUBLIC])]);
    let served = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = served.local_addr().unwrap();
    world.port.serve(served.into()).unwrap();
    let asks = UdpSocket::bind("127.0.0.1:0").unwrap();
    asks.set_read_timeout(Some(PATIENCE)).unwrap();
    let asked = question("good.example", RecordType::A);
    let pids = || {
        let events = world.kept.events.lock().unwrap();
        let pid = |event: &Event| match event {
            Event::Decided { request, .. } => Some(request.subject.pid),
            _ => None,
        };
        events.iter().filter_map(pid).collect::<Vec<_>>()
    };
    for (known, expected) in [(None, vec![0]), (Some(7), vec![0, 7])] {
        if let Some(pid) = known {
            let from = (Ipv4Addr::UNSPECIFIED, asks.local_addr().unwrap().port()).into();
            world.port.expect(sender(Transport::Udp, from, None, pid));
        }
        asks.send_to(&asked, server).unwrap();
        let mut bytes = [0; 512];
        let (len, from) = asks.recv_from(&mut bytes).unwrap();
        assert_eq!((from, Message::from_vec(&bytes[..len]).unwrap().answers.len()), (server, 1));
        assert_eq!(pids(), expected);
    }
}
