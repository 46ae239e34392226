//! The relay over real sockets: who is served, what is refused, and what stands still or is cut.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../failcore-gate/tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Kept;
use failcore_gate::{Actor, Gate, Passage, Relay, Sender, now};
use failcore_model::{AbsPath, Event, Lane, Timestamp, Transport, Verdict};
use failcore_policy::{Environment, PolicySet};
use failcore_relay::{Credentials, Proxies, RelayServer, Setup, Trust};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server without TLS that answers every request with `hello`, and keeps what it was sent.
struct Upstream {
    at: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Upstream {
    fn start() -> Self {
        Self::saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false)
    }

    /// One that answers with these bytes, whatever they are, and then perhaps ends the connection.
    fn saying(answer: &'static [u8], ends: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let of = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, of) = (stream.unwrap(), Arc::clone(&of));
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut bytes) {
                        of.lock().unwrap().extend_from_slice(&bytes[..read]);
                        if bytes[..read].ends_with(b"\r\n\r\n") && (stream.write_all(answer).is_err() || ends)
                        {
                            return;
                        }
                    }
                });
            }
        });
        Self { at, heard }
    }

    fn heard(&self) -> String {
        String::from_utf8(self.heard.lock().unwrap().clone()).unwrap()
    }
}

struct World {
    upstream: Upstream,
    kept: Arc<Kept>,
    server: RelayServer,
    relay: Arc<dyn Relay>,
}

impl World {
    fn new() -> Self {
        Self::with(Upstream::start())
    }

    fn with(upstream: Upstream) -> Self {
        let text = format!("[net]\nhttp = [\"GET localhost:{}/open/**\"]", upstream.at.port());
        let policy = PolicySet::parse("p", &text, &AbsPath::root(), &Environment::default()).unwrap();
        let kept = Arc::new(Kept::default());
        let gate = Gate::builder(Arc::new(policy), Arc::clone(&kept) as _, Lane::Kernel).build();
        let setup = Setup {
            trust: Trust::system(),
            authority: None,
            credentials: Credentials::default(),
            proxies: Proxies::from_env(),
        };
        let server = RelayServer::start(Arc::new(gate), Arc::new(setup), None).unwrap();
        let relay = server.relay();
        Self { upstream, kept, server, relay }
    }

    /// A connection as a supervisor makes it.
    fn connect(&self, ends: Option<Timestamp>) -> TcpStream {
        let stream = TcpStream::connect(self.relay.instead_of(self.upstream.at).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let actor = Actor { pid: 7, tid: 7, exe: "/bin/agent".into() };
        let from = stream.local_addr().unwrap();
        let sender =
            Sender { transport: Transport::Tcp, from, answered_as: None, actor, claims: Default::default() };
        let to = self.upstream.at;
        self.relay.carry(Passage { sender, to, ends, judged: true, far: None, outside: None });
        stream
    }

    fn request(&self, path: &str) -> String {
        let port = self.upstream.at.port();
        format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n")
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let events = self.kept.events.lock().unwrap();
        let verdict = |event: &Event| match event {
            Event::Decided { decision, .. } => Some(decision.verdict),
            _ => None,
        };
        events.iter().filter_map(verdict).collect()
    }
}

/// Asks, and reads one answer.
fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

fn answer(stream: &mut TcpStream) -> String {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        said.push(byte[0]);
    }
    let head = String::from_utf8(said).unwrap();
    let length = head.to_ascii_lowercase();
    let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

#[test]
fn requests_are_judged_and_recorded_before_they_are_sent() {
    let world = World::new();
    let mut stream = world.connect(None);
    let said = ask(&mut stream, &world.request("/open/a"));
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("hello"), "{said}");
    let said = ask(&mut stream, &world.request("/shut"));
    assert!(said.starts_with("HTTP/1.1 403") && said.contains("to permit: [net] http = "), "{said}");
    // The connection goes on.
    assert!(ask(&mut stream, &world.request("/open/b")).starts_with("HTTP/1.1 200"));
    assert_eq!(world.verdicts(), [Verdict::Allow, Verdict::Deny, Verdict::Allow]);
    let heard = world.upstream.heard();
    assert!(heard.contains("/open/a") && heard.contains("/open/b") && !heard.contains("/shut"), "{heard}");
}

#[test]
fn what_cannot_be_recorded_is_not_sent() {
    let world = World::new();
    world.kept.full.store(true, SeqCst);
    let said = ask(&mut world.connect(None), &world.request("/open/a"));
    assert!(said.starts_with("HTTP/1.1 502") && said.contains("the record cannot be written"), "{said}");
    assert_eq!(world.upstream.heard(), "");
}

#[test]
fn who_was_not_made_known_is_not_served() {
    let world = World::new();
    let mut stranger = TcpStream::connect(world.relay.instead_of(world.upstream.at).unwrap()).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(world.request("/open/a").as_bytes()).unwrap();
    assert!(matches!(stranger.read(&mut [0; 100]), Ok(0) | Err(_)));
    assert_eq!((world.upstream.heard(), world.verdicts()), (String::new(), Vec::new()));
}

#[test]
fn what_is_no_http_is_closed_and_recorded() {
    let world = World::new();
    let mut stream = world.connect(None);
    stream.write_all(b"\x00\x01binary").unwrap();
    assert!(matches!(stream.read(&mut [0; 100]), Ok(0) | Err(_)));
    assert_eq!(world.verdicts(), [Verdict::Deny]);
}

#[test]
fn nothing_is_carried_while_it_is_paused() {
    let world = World::new();
    let mut stream = world.connect(None);
    assert!(ask(&mut stream, &world.request("/open/before")).ends_with("hello"));
    assert!(world.server.pause(PATIENCE));
    stream.write_all(world.request("/open/while").as_bytes()).unwrap();
    let mut late = world.connect(None);
    late.write_all(world.request("/open/late").as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "nothing comes back");
    let heard = world.upstream.heard();
    assert!(!heard.contains("while") && !heard.contains("late"), "{heard}");
    world.server.resume();
    for stream in [&mut stream, &mut late] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(answer(stream).ends_with("hello"));
    }
    let heard = world.upstream.heard();
    assert!(heard.contains("while") && heard.contains("late"), "{heard}");
}

#[test]
fn what_is_carried_is_cut_when_its_grant_ends_or_the_run_does() {
    let world = World::new();
    let mut brief = world.connect(Some(now().plus(500_000_000)));
    let mut long = world.connect(None);
    for stream in [&mut brief, &mut long] {
        assert!(ask(stream, &world.request("/open/a")).ends_with("hello"));
    }
    assert!(matches!(brief.read(&mut [0]), Ok(0) | Err(_)));
    assert!(ask(&mut long, &world.request("/open/b")).ends_with("hello"));
    let World { server, .. } = world;
    drop(server);
    assert!(matches!(long.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_thousand_that_are_silent_hold_nobody_up() {
    let world = World::new();
    let silent: Vec<TcpStream> = (0..1000).map(|_| world.connect(None)).collect();
    let mut half: Vec<TcpStream> = (0..100).map(|_| world.connect(None)).collect();
    for stream in &mut half {
        stream.write_all(b"GET /open/slow HTTP/1.1\r\nHost: local").unwrap();
    }
    let mut stream = world.connect(None);
    assert!(ask(&mut stream, &world.request("/open/a")).ends_with("hello"));
    drop((silent, half));
}

#[test]
fn a_hostile_server_is_an_answer_like_any_and_the_connection_goes_on() {
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'a'; 2 << 20]].concat().leak();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(100_000)).into_bytes().leak();
    let answers: [&'static [u8]; 7] = [
        b"",
        b"\x16\x03\x01 what is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\0b\n\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        endless,
        many,
    ];
    for (nth, answer) in answers.into_iter().enumerate() {
        let world = World::with(Upstream::saying(answer, true));
        let mut stream = world.connect(None);
        for path in ["/open/a", "/open/b"] {
            let said = ask(&mut stream, &world.request(path));
            assert!(said.starts_with("HTTP/1.1 502"), "{nth}: {said}");
        }
        // Each is asked and recorded, and how it ended too.
        assert_eq!(world.verdicts(), [Verdict::Allow; 2], "{nth}");
        let ends = world.kept.events.lock().unwrap();
        let ends = ends.iter().filter(|event| matches!(event, Event::Concluded { .. })).count();
        assert_eq!(ends, 2, "{nth}");
    }
}

#[test]
fn a_server_that_never_answers_holds_nobody_else_up() {
    let world = World::with(Upstream::saying(b"", false));
    let mut waiting: Vec<TcpStream> = (0..100).map(|_| world.connect(None)).collect();
    for stream in &mut waiting {
        stream.write_all(world.request("/open/a").as_bytes()).unwrap();
    }
    let said = ask(&mut world.connect(None), &world.request("/shut"));
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    drop(waiting);
}

#[test]
fn where_the_server_is_not_there_the_program_is_told() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::with(Upstream { at: closed, heard: Arc::default() });
    let said = ask(&mut world.connect(None), &world.request("/open/x"));
    assert!(said.starts_with("HTTP/1.1 502") && said.contains("refused"), "{said}");
    let failed =
        world.kept.events.lock().unwrap().iter().any(|event| matches!(event, Event::Concluded { .. }));
    assert!(failed, "the failure is recorded");
}
