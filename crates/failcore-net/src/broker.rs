//! The name broker of a supervised run: answers the run's DNS questions in place of the servers that are asked.
//!
//! The supervisor makes every connect and datagram to a DNS server to the broker's own sockets instead ([`Broker`]).
//! A few threads serve them, so that a look-up that takes long holds nobody up; all that an asker can make grow is
//! bounded.

use std::collections::{HashSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use failcore_gate::{Actor, Broker, DNS_PORT, Gate, Sender, now};
use failcore_model::{Claims, Coverage, Hold, Text, Transport, Verb};
use failcore_policy::{AskedBy, NameServer};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::Resolver;
use crate::as_asked::AsAsked;
use crate::askers::Askers;
use crate::judged::{Judged, Said};
use crate::question::{NoQuestion, Question, framed};

/// Threads that judge and look up for datagrams.
const MOST_WORKERS: usize = 16;
/// Datagrams that wait for one of them; more are lost, as datagrams may be.
const MOST_WAITING: usize = 256;
/// Streams at once; more are closed as they come.
const MOST_STREAMS: usize = 32;
/// Questions on one stream.
const MOST_QUESTIONS: usize = 1024;
/// How long a stream may take for its next question, or to take an answer (RFC 7766 section 6.2.3).
const STREAM_PATIENCE: Duration = Duration::from_secs(10);
/// The longest question that is read from a stream; the longest that has a meaning is a few hundred bytes.
const LONGEST: usize = 4096;

/// The name broker.
///
/// It lives in the parent, and answers the sockets that the supervisor made known and nobody else. To wire it:
///
/// ```no_run
/// # use std::sync::Arc;
/// # use failcore_gate::{Gate, Sink};
/// # use failcore_model::Lane;
/// # use failcore_net::{BrokerServer, Hosts, Pins, Resolver};
/// # fn wire(policy: Arc<failcore_policy::PolicySet>, sink: Arc<dyn Sink>) -> std::io::Result<()> {
/// let pins = Arc::new(Pins::new().with_hosts(Hosts::system()));
/// let gate = Arc::new(Gate::builder(policy, sink, Lane::Kernel).names(pins.clone()).build());
/// let broker = BrokerServer::start(gate.clone(), Resolver::system(pins))?;
/// // Supervisor::start(&launch, &plan, Parent { gate, broker: Some(broker.broker()), … }, || true);
/// // BrokerServer::covers(&mut coverage, &[]) says what it holds.
/// // … and the broker is dropped after the supervisor.
/// # drop(broker); Ok(()) }
/// ```
///
/// # Security
/// What reaches it is written by the agent: messages are read by a total parser, and the name in them by the one parser
/// of host names. A refused name is answered as not existing and never leaves the machine, in whatever form.
pub struct BrokerServer {
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
}

struct Shared {
    judged: Judged,
    askers: Askers,
    as_asked: AsAsked,
    /// On loopback, by family.
    doors: Vec<Arc<Door>>,
    /// In the run's own network.
    more: Mutex<Vec<Arc<Door>>>,
    /// Rings when it is over, or there is one more.
    bell: OwnedFd,
    over: AtomicBool,
    waiting: Mutex<Waiting>,
    work: Condvar,
    streams: Mutex<Vec<(SocketAddr, TcpStream)>>,
}

/// Sockets that are served.
#[derive(Debug)]
struct Door {
    udp: UdpSocket,
    tcp: Option<TcpListener>,
}

/// Datagrams on their way to a worker.
#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Datagram>,
    /// Those that are waiting or in hand: one that comes again, as its answer takes long, is the same.
    known: HashSet<(SocketAddr, u16)>,
    workers: usize,
    idle: usize,
}

#[derive(Debug)]
struct Datagram {
    door: Arc<Door>,
    from: SocketAddr,
    asker: Sender,
    question: Question,
}

impl BrokerServer {
    /// Starts serving on loopback, on ports that the system chooses. Names are judged and recorded by `gate`, looked up
    /// and pinned by `resolver`.
    ///
    /// # Errors
    /// The kernel's, where there is no loopback, no descriptor or no thread to be had.
    pub fn start(gate: Arc<Gate>, resolver: Resolver) -> io::Result<Self> {
        let mut doors = vec![Arc::new(Door::at(Ipv4Addr::LOCALHOST.into())?)];
        // A machine without IPv6 has no servers to ask by it either.
        doors.extend(Door::at(Ipv6Addr::LOCALHOST.into()).map(Arc::new));
        let shared = Arc::new(Shared {
            judged: Judged::new(gate, resolver),
            askers: Askers::default(),
            as_asked: AsAsked::open(),
            doors,
            more: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            over: AtomicBool::new(false),
            waiting: Mutex::default(),
            work: Condvar::new(),
            streams: Mutex::default(),
        });
        let of = Arc::clone(&shared);
        let serving = Builder::new().name("failcore-names".into()).spawn(move || of.serve_all())?;
        Ok(Self { shared, serving: Some(serving) })
    }

    /// The port by which a supervisor makes connections to it.
    pub fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.shared) as Arc<dyn Broker>
    }

    /// Says in a coverage what a lane with a broker holds of names.
    /// `upstream` are the name servers that are asked, where it is not the machine's own resolver.
    pub fn covers(coverage: &mut Coverage, upstream: &[NameServer]) {
        if let Some(held) = coverage.verbs.iter_mut().find(|held| held.verb == Verb::NetResolve) {
            held.hold = Hold::Binding;
            held.by = "name broker".into();
        }
        coverage.notes.extend(NOT_HELD.iter().map(|note| (*note).into()));
        if upstream.is_empty() {
            coverage.notes.push(ALIASES_NOT_SEEN.into());
        }
        for server in upstream {
            coverage.notes.push(match server.by {
                AskedBy::Plain => {
                    format!("names are asked of {server}, whose answers anybody on the way can change")
                }
                _ => format!("names are asked of {server}, which proves who it is"),
            });
        }
    }
}

/// What the broker does not hold.
const NOT_HELD: &[&str] = &[
    "a name in the hosts file is resolved by the program itself: its look-up is not recorded, the connection to it is",
    "a resolver that does not connect its socket and looks where an answer comes from hears nothing where this user may \
     neither write whole packets nor make namespaces; a notice says so",
];

/// Nor this, by the machine's own resolver.
const ALIASES_NOT_SEEN: &str = "of a name that is an alias, the last name in the chain is compared with what is denied, those in between are not";

impl Drop for BrokerServer {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}

impl Broker for Shared {
    fn instead_of(&self, transport: Transport, to: SocketAddr) -> Option<SocketAddr> {
        if to.port() != DNS_PORT {
            return None;
        }
        let v4 = self.doors.first()?;
        let mapped = |of: io::Result<SocketAddr>| match of.ok()? {
            SocketAddr::V4(v4) if to.is_ipv6() => Some((v4.ip().to_ipv6_mapped(), v4.port()).into()),
            other => Some(other),
        };
        let door = if to.ip().to_canonical().is_ipv4() { v4 } else { self.doors.get(1).unwrap_or(v4) };
        match transport {
            Transport::Udp => mapped(door.udp.local_addr()),
            Transport::Tcp => mapped(door.tcp.as_ref()?.local_addr()),
            Transport::Other => None,
        }
    }

    fn tcp_ports(&self) -> Vec<u16> {
        self.doors.iter().filter_map(|door| Some(door.tcp.as_ref()?.local_addr().ok()?.port())).collect()
    }

    fn answers_as(&self, asked: SocketAddr) -> bool {
        self.as_asked.can(asked)
    }

    fn serve(&self, socket: OwnedFd) -> io::Result<()> {
        let udp = UdpSocket::from(socket);
        udp.set_nonblocking(true)?;
        lock(&self.more).push(Arc::new(Door { udp, tcp: None }));
        self.ring();
        Ok(())
    }

    fn expect(&self, sender: Sender) {
        self.askers.add(sender);
    }
}

impl Door {
    fn at(at: IpAddr) -> io::Result<Self> {
        let (udp, tcp) = (UdpSocket::bind((at, 0))?, TcpListener::bind((at, 0))?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp: Some(tcp) })
    }

    /// Whether it is on loopback, where anybody can come; nobody but the run comes to the others.
    fn is_public(&self) -> bool {
        self.tcp.is_some()
    }
}

impl Shared {
    /// Takes datagrams and streams in, until the end.
    fn serve_all(self: &Arc<Self>) {
        while !self.over.load(SeqCst) {
            let doors: Vec<Arc<Door>> = self.doors.iter().chain(lock(&self.more).iter()).cloned().collect();
            let mut sockets = vec![PollFd::new(&self.bell, PollFlags::IN)];
            sockets.extend(doors.iter().map(|door| PollFd::new(&door.udp, PollFlags::IN)));
            sockets
                .extend(doors.iter().filter_map(|door| Some(PollFd::new(door.tcp.as_ref()?, PollFlags::IN))));
            match poll(&mut sockets, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let mut ready = sockets.iter().map(|socket| !socket.revents().is_empty());
            if ready.next() == Some(true) {
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            }
            let datagrams: Vec<_> = doors.iter().filter(|_| ready.next() == Some(true)).collect();
            let streams: Vec<_> =
                doors.iter().filter(|door| door.is_public() && ready.next() == Some(true)).collect();
            datagrams.into_iter().for_each(|door| self.take_datagram(door));
            streams.into_iter().for_each(|door| self.take_stream(door));
        }
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn take_datagram(self: &Arc<Self>, door: &Arc<Door>) {
        // One byte more than is read as a message, so that a longer one is known to be none.
        let mut bytes = [0; LONGEST + 1];
        let Ok((len, from)) = door.udp.recv_from(&mut bytes) else { return };
        let asker = match door.is_public() {
            true => self.askers.of(Transport::Udp, from),
            false => Some(self.asker_there(from)),
        };
        let Some(asker) = asker else { return };
        if len > LONGEST {
            return;
        }
        match Question::read(&bytes[..len]) {
            Ok(question) => {
                self.hand_over(Datagram { door: Arc::clone(door), from, asker, question });
            }
            Err(NoQuestion::Answer(answer)) => self.send(door, from, &asker, &answer),
            Err(NoQuestion::Silence) => {}
        }
    }

    /// Whose a socket in the run's own network is: the run's in any case.
    fn asker_there(&self, from: SocketAddr) -> Sender {
        let from = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), from.port());
        self.askers.of(Transport::Udp, from).unwrap_or_else(|| Sender {
            transport: Transport::Udp,
            from,
            answered_as: None,
            actor: Actor { pid: 0, tid: 0, exe: Text::default() },
            claims: Claims::default(),
        })
    }

    /// Gives a datagram to a worker, and starts one where none is idle.
    fn hand_over(self: &Arc<Self>, datagram: Datagram) {
        let mut waiting = lock(&self.waiting);
        let known = (datagram.from, datagram.question.id());
        if waiting.queue.len() >= MOST_WAITING || !waiting.known.insert(known) {
            return;
        }
        waiting.queue.push_back(datagram);
        if waiting.idle < waiting.queue.len() && waiting.workers < MOST_WORKERS {
            let of = Arc::clone(self);
            let started = Builder::new().name("failcore-name".into()).spawn(move || of.work());
            waiting.workers += usize::from(started.is_ok());
        }
        drop(waiting);
        self.work.notify_one();
    }

    fn work(&self) {
        loop {
            let mut waiting = lock(&self.waiting);
            let datagram = loop {
                if self.over.load(SeqCst) {
                    return;
                }
                if let Some(datagram) = waiting.queue.pop_front() {
                    break datagram;
                }
                waiting.idle += 1;
                waiting = self.work.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                waiting.idle -= 1;
            };
            drop(waiting);
            // One that broke something gets no answer, and the next one does.
            let _ = catch_unwind(AssertUnwindSafe(|| self.finish(&datagram)));
        }
    }

    fn finish(&self, datagram: &Datagram) {
        let Datagram { door, from, asker, question } = datagram;
        let said = self.answer(asker, question);
        // Before it is answered: whoever has the answer may ask the same again.
        lock(&self.waiting).known.remove(&(*from, question.id()));
        self.send(door, *from, asker, &question.datagram(said.reply(now())));
    }

    fn send(&self, door: &Door, to: SocketAddr, asker: &Sender, answer: &[u8]) {
        // Lost, as a datagram may be.
        let _ = match asker.answered_as {
            Some(asked) => self.as_asked.send(asked, to, answer),
            None => door.udp.send_to(answer, to).map(drop),
        };
    }

    fn take_stream(self: &Arc<Self>, door: &Door) {
        let Some(Ok((stream, from))) = door.tcp.as_ref().map(TcpListener::accept) else { return };
        let Ok(ours) = stream.try_clone() else { return };
        let mut streams = lock(&self.streams);
        if streams.len() >= MOST_STREAMS {
            return;
        }
        streams.push((from, ours));
        drop(streams);
        let of = Arc::clone(self);
        let started = Builder::new().name("failcore-name".into()).spawn(move || {
            // Whatever ends it, an asker comes again or gives up.
            let _ = catch_unwind(AssertUnwindSafe(|| of.serve_stream(stream, from)));
            of.leave(from);
        });
        if started.is_err() {
            self.leave(from);
        }
    }

    /// Answers the questions of one stream, one after the other, until it falls silent.
    fn serve_stream(&self, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(STREAM_PATIENCE))?;
        for _ in 0..MOST_QUESTIONS {
            let until = Instant::now() + STREAM_PATIENCE;
            let mut length = [0; 2];
            read_until(&mut stream, &mut length, until)?;
            // The asker sends nothing before the supervisor has made its socket known.
            let Some(asker) = self.askers.of(Transport::Tcp, from) else { break };
            let length = usize::from(u16::from_be_bytes(length));
            if length > LONGEST {
                break;
            }
            let mut bytes = vec![0; length];
            read_until(&mut stream, &mut bytes, until)?;
            let answer = match Question::read(&bytes) {
                Ok(question) => {
                    let said = self.answer(&asker, &question);
                    question.stream(said.reply(now()))
                }
                Err(NoQuestion::Answer(answer)) => framed(&answer),
                Err(NoQuestion::Silence) => break,
            };
            stream.write_all(&answer)?;
        }
        Ok(())
    }

    fn leave(&self, from: SocketAddr) {
        lock(&self.streams).retain(|(of, _)| *of != from);
        self.askers.remove(Transport::Tcp, from);
    }

    /// The answer, whatever happens.
    fn answer(&self, asker: &Sender, question: &Question) -> Said {
        let answer = || self.judged.answer(asker, question);
        catch_unwind(AssertUnwindSafe(answer)).unwrap_or(Said::Failed)
    }

    /// Ends the serving. Look-ups under way end by themselves, and their answers go nowhere.
    fn end(&self) {
        self.over.store(true, SeqCst);
        self.ring();
        drop(lock(&self.waiting));
        self.work.notify_all();
        for (_, stream) in lock(&self.streams).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn read_until(stream: &mut TcpStream, mut bytes: &mut [u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
