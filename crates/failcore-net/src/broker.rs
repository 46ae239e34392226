//! The name broker of a supervised run: answers the run's DNS questions in place of the servers that are asked.
//!
//! The supervisor makes every connect and datagram to a DNS server to the broker's own sockets instead ([`Carrier`]).
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

use failcore_gate::{Carrier, Gate, Sender, now};
use failcore_model::{Coverage, Hold, Transport, Verb};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::Resolver;
use crate::as_asked::AsAsked;
use crate::askers::Askers;
use crate::judged::{Judged, Said};
use crate::question::{NoQuestion, Question, framed};

/// The port of DNS (RFC 1035 section 4.2). What is encrypted (853, 443) is a connection like any other.
const DNS: u16 = 53;
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
/// # use failcore_net::{Broker, Hosts, Pins, Resolver};
/// # fn wire(policy: Arc<failcore_policy::PolicySet>, sink: Arc<dyn Sink>) -> std::io::Result<()> {
/// let pins = Arc::new(Pins::new().with_hosts(Hosts::system()));
/// let gate = Arc::new(Gate::builder(policy, sink, Lane::Kernel).names(pins.clone()).build());
/// let broker = Broker::start(gate.clone(), Resolver::system(pins))?;
/// // Supervisor::start(&launch, &plan, Parent { gate, carrier: Some(broker.carrier()), … });
/// // Broker::covers(&mut coverage) says what it holds.
/// // … and the broker is dropped after the supervisor.
/// # drop(broker); Ok(()) }
/// ```
///
/// # Security
/// What reaches it is written by the agent: messages are read by a total parser, and the name in them by the one parser
/// of host names. A refused name is answered as not existing and never leaves the machine, in whatever form.
pub struct Broker {
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
}

struct Shared {
    judged: Judged,
    askers: Askers,
    as_asked: AsAsked,
    doors: Vec<Door>,
    /// Rings when it is over.
    bell: OwnedFd,
    over: AtomicBool,
    waiting: Mutex<Waiting>,
    work: Condvar,
    streams: Mutex<Vec<(SocketAddr, TcpStream)>>,
}

/// The sockets of one family.
#[derive(Debug)]
struct Door {
    udp: UdpSocket,
    tcp: TcpListener,
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
    door: usize,
    from: SocketAddr,
    asker: Sender,
    question: Question,
}

impl Broker {
    /// Starts serving on loopback, on ports that the system chooses. Names are judged and recorded by `gate`, looked up
    /// and pinned by `resolver`.
    ///
    /// # Errors
    /// The kernel's, where there is no loopback, no descriptor or no thread to be had.
    pub fn start(gate: Arc<Gate>, resolver: Resolver) -> io::Result<Self> {
        let mut doors = vec![Door::at(Ipv4Addr::LOCALHOST.into())?];
        // A machine without IPv6 has no servers to ask by it either.
        doors.extend(Door::at(Ipv6Addr::LOCALHOST.into()));
        let shared = Arc::new(Shared {
            judged: Judged::new(gate, resolver),
            askers: Askers::default(),
            as_asked: AsAsked::open(),
            doors,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            over: AtomicBool::new(false),
            waiting: Mutex::default(),
            work: Condvar::new(),
            streams: Mutex::default(),
        });
        let of = Arc::clone(&shared);
        let serving = Builder::new().name("failcore-names".into()).spawn(move || of.serve())?;
        Ok(Self { shared, serving: Some(serving) })
    }

    /// The port by which a supervisor makes connections to it.
    pub fn carrier(&self) -> Arc<dyn Carrier> {
        Arc::clone(&self.shared) as Arc<dyn Carrier>
    }

    /// Says in a coverage what a lane with a broker holds of names.
    pub fn covers(coverage: &mut Coverage) {
        if let Some(held) = coverage.verbs.iter_mut().find(|held| held.verb == Verb::NetResolve) {
            held.hold = Hold::Binding;
            held.by = "name broker".into();
        }
        coverage.notes.extend(NOT_HELD.iter().map(|note| (*note).into()));
    }
}

/// What the broker does not hold.
const NOT_HELD: &[&str] = &[
    "a name in the hosts file is resolved by the program itself: its look-up is not recorded, the connection to it is",
    "of a name that is an alias, the last name in the chain is compared with what is denied, those in between are not",
];

impl Drop for Broker {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}

impl Carrier for Shared {
    fn instead_of(&self, transport: Transport, to: SocketAddr) -> Option<SocketAddr> {
        if to.port() != DNS {
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
            Transport::Tcp => mapped(door.tcp.local_addr()),
            Transport::Other => None,
        }
    }

    fn tcp_ports(&self) -> Vec<u16> {
        self.doors.iter().filter_map(|door| Some(door.tcp.local_addr().ok()?.port())).collect()
    }

    fn answers_as(&self, asked: SocketAddr) -> bool {
        self.as_asked.can(asked)
    }

    fn carry(&self, sender: Sender) {
        self.askers.add(sender);
    }
}

impl Door {
    fn at(at: IpAddr) -> io::Result<Self> {
        let (udp, tcp) = (UdpSocket::bind((at, 0))?, TcpListener::bind((at, 0))?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }
}

impl Shared {
    /// Takes datagrams and streams in, until the end.
    fn serve(self: &Arc<Self>) {
        while !self.over.load(SeqCst) {
            let mut sockets: Vec<_> = self
                .doors
                .iter()
                .flat_map(|door| {
                    [PollFd::new(&door.udp, PollFlags::IN), PollFd::new(&door.tcp, PollFlags::IN)]
                })
                .collect();
            sockets.push(PollFd::new(&self.bell, PollFlags::IN));
            match poll(&mut sockets, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let ready: Vec<bool> = sockets.iter().map(|socket| !socket.revents().is_empty()).collect();
            for door in 0..self.doors.len() {
                if ready[2 * door] {
                    self.take_datagram(door);
                }
                if ready[2 * door + 1] {
                    self.take_stream(door);
                }
            }
        }
    }

    fn take_datagram(self: &Arc<Self>, door: usize) {
        // One byte more than is read as a message, so that a longer one is known to be none.
        let mut bytes = [0; LONGEST + 1];
        let udp = &self.doors[door].udp;
        let Ok((len, from)) = udp.recv_from(&mut bytes) else { return };
        let Some(asker) = self.askers.of(Transport::Udp, from) else { return };
        if len > LONGEST {
            return;
        }
        match Question::read(&bytes[..len]) {
            Ok(question) => self.hand_over(Datagram { door, from, asker, question }),
            Err(NoQuestion::Answer(answer)) => self.send(door, from, &asker, &answer),
            Err(NoQuestion::Silence) => {}
        }
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
            let Datagram { door, from, asker, question } = datagram;
            let said = self.answer(&asker, &question);
            self.send(door, from, &asker, &question.datagram(said.reply(now())));
            lock(&self.waiting).known.remove(&(from, question.id()));
        }
    }

    fn send(&self, door: usize, to: SocketAddr, asker: &Sender, answer: &[u8]) {
        // Lost, as a datagram may be.
        let _ = match asker.answered_as {
            Some(asked) => self.as_asked.send(asked, to, answer),
            None => self.doors[door].udp.send_to(answer, to).map(drop),
        };
    }

    fn take_stream(self: &Arc<Self>, door: usize) {
        let Ok((stream, from)) = self.doors[door].tcp.accept() else { return };
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
            let _ = of.serve_stream(stream, from);
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
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
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
