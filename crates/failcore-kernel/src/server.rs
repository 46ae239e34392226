//! The parent's side: lets processes of the run in, and keeps what they record.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use failcore_gate::{Approver, Meter, Sink};
use failcore_model::{Event, Text, Timestamp};
use failcore_trace::{TraceError, Writer};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, shutdown, socket_with,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::own::{self, Own, OwnSink};
use crate::page::{RunPage, Sampled};
use crate::ring::{CAPACITY, Consumer, EXPANSION};
use crate::wire::{Ask, Verdict, Welcome, receive, send};

/// Processes attached at once.
const MAX_PROCESSES: usize = 4096;
/// Questions and handshakes under way at once.
const MAX_CONNECTIONS: usize = 256;
/// How long the writer naps between looks while records are coming, so that producers need no wake-up call.
const NAP: Duration = Duration::from_millis(1);
/// Naps without a record before it sleeps until woken.
const IDLE_NAPS: u32 = 50;
/// The longest sleep, after which it looks for processes that ended.
const DOZE: Duration = Duration::from_millis(200);

/// What the processes of a run are told.
#[derive(Debug, Clone)]
pub struct Served {
    /// The session's id.
    pub session: String,
    /// The agent's name.
    pub agent: Option<Text>,
    /// The caller's label of the run.
    pub run: Option<Text>,
    /// The resolved policy text.
    pub policy: String,
}

/// The parent's side of a run: holds the trace while the run lasts.
pub struct Server {
    state: Arc<State>,
    socket: PathBuf,
    acceptor: JoinHandle<()>,
    drainer: JoinHandle<Writer>,
}

/// Why the parent's side could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The socket could not be made.
    #[error("cannot listen on `{}`: {why}", socket.display())]
    Listen {
        /// Its path.
        socket: PathBuf,
        /// The kernel's answer.
        why: Errno,
    },
    /// Shared memory could not be made.
    #[error("cannot make shared memory: {0}")]
    Memory(Errno),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// There is no room for the trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

struct State {
    served: Served,
    policy: OwnedFd,
    page: RunPage,
    page_fd: OwnedFd,
    approver: Arc<dyn Approver>,
    listener: OwnedFd,
    joined: mpsc::Sender<Joined>,
    stopping: AtomicBool,
    processes: AtomicUsize,
    connections: AtomicUsize,
    own: Arc<Own>,
    /// Why the trace can no longer be written, once it cannot.
    broken: Mutex<Option<String>>,
}

/// A process that was let in.
struct Joined {
    pid: u32,
    pidfd: OwnedFd,
    ring: Consumer,
    parent: u32,
    exe: Text,
}

impl Server {
    /// Starts to serve on `socket`, a path in a directory that only its owner can enter, writing to `writer`.
    ///
    /// # Errors
    /// [`ServerError`]; nothing is left behind then but the trace itself.
    pub fn start(
        socket: &Path,
        served: Served,
        mut writer: Writer,
        approver: Arc<dyn Approver>,
    ) -> Result<Self, ServerError> {
        writer.reserve(EXPANSION * CAPACITY as u64 + 2 * own::CAPACITY)?;
        let listener =
            open_listener(socket).map_err(|why| ServerError::Listen { socket: socket.into(), why })?;
        let policy = sealed("failcore-policy", served.policy.as_bytes()).map_err(ServerError::Memory)?;
        let (page, page_fd) = RunPage::create(now()).map_err(ServerError::Memory)?;
        let (joined, joins) = mpsc::channel();
        let state = Arc::new(State {
            served,
            policy,
            page,
            page_fd,
            approver,
            listener,
            joined,
            stopping: AtomicBool::new(false),
            processes: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            own: Arc::default(),
            broken: Mutex::default(),
        });
        let drainer = {
            let state = Arc::clone(&state);
            std::thread::Builder::new()
                .name("failcore-trace".into())
                .spawn(move || {
                    Drain { state: &state, writer, joins, members: Vec::new(), record: Vec::new() }.run()
                })
                .map_err(ServerError::Thread)?
        };
        let acceptor = {
            let state = Arc::clone(&state);
            std::thread::Builder::new()
                .name("failcore-accept".into())
                .spawn(move || accept_loop(&state))
                .map_err(ServerError::Thread)?
        };
        Ok(Self { state, socket: socket.into(), acceptor, drainer })
    }

    /// The run's counters.
    pub fn page(&self) -> &RunPage {
        &self.state.page
    }

    /// Publishes what was measured of the run from outside.
    pub fn sample(&self, sampled: Sampled) {
        self.state.page.sample(sampled);
    }

    /// Where the parent's own gates record: the supervisor of the kernel lane, the broker.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(OwnSink { own: Arc::clone(&self.state.own), page: self.state.page.clone() })
    }

    /// The run's shared counters, for the parent's own gates.
    pub fn meter(&self) -> Arc<dyn Meter> {
        Arc::new(self.state.page.clone())
    }

    /// Who is asked for approvals.
    pub fn approver(&self) -> Arc<dyn Approver> {
        Arc::clone(&self.state.approver)
    }

    /// Records a fact of the parent's own.
    pub fn record(&self, event: Event) {
        self.state.own.push(event);
        self.state.page.ring();
    }

    /// How many processes have attached and not ended.
    pub fn processes(&self) -> usize {
        self.state.processes.load(SeqCst)
    }

    /// Why the trace can no longer be written, if so; every operation is denied from then on.
    pub fn broken(&self) -> Option<String> {
        lock(&self.state.broken).clone()
    }

    /// Stops serving, keeps everything that was recorded, and gives the trace back to be closed.
    pub fn finish(self) -> Writer {
        self.state.stopping.store(true, SeqCst);
        let _ = shutdown(&self.state.listener, rustix::net::Shutdown::Both);
        self.state.page.ring();
        drop(self.acceptor.join());
        drop(std::fs::remove_file(&self.socket));
        match self.drainer.join() {
            Ok(writer) => writer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn open_listener(socket: &Path) -> Result<OwnedFd, Errno> {
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &SocketAddrUnix::new(socket)?)?;
    listen(&listener, 128)?;
    Ok(listener)
}

fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    let written = file.write_all(bytes).and_then(|()| file.rewind());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

// ---- letting processes in -----------------------------------------------------------------------------------

fn accept_loop(state: &Arc<State>) {
    while !state.stopping.load(SeqCst) {
        let connection = match accept_with(&state.listener, SocketFlags::CLOEXEC) {
            Ok(connection) => connection,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(_) if state.stopping.load(SeqCst) => return,
            Err(_) => {
                // Out of descriptors or memory: who waits is refused by time-out, nobody is let in unseen.
                std::thread::sleep(NAP);
                continue;
            }
        };
        if state.connections.fetch_add(1, SeqCst) >= MAX_CONNECTIONS {
            state.connections.fetch_sub(1, SeqCst);
            continue;
        }
        let shared = Arc::clone(state);
        let spawned = std::thread::Builder::new().name("failcore-attach".into()).spawn(move || {
            serve(&shared, connection);
            shared.connections.fetch_sub(1, SeqCst);
        });
        if spawned.is_err() {
            state.connections.fetch_sub(1, SeqCst);
        }
    }
}

/// Answers one question. Whatever goes wrong, the connection just closes, which the other side takes as a no.
fn serve(state: &State, connection: OwnedFd) {
    let Ok(peer) = socket_peercred(&connection) else { return };
    if peer.uid != rustix::process::getuid() || !descends_from_us(peer.pid) {
        return;
    }
    match receive::<Ask>(&connection) {
        Ok((Ask::Attach {}, _)) => let_in(state, &connection, peer.pid),
        Ok((Ask::Approve { request, question }, _)) => {
            let (answer, who) = state.approver.ask(&request, &question);
            drop(send(&connection, &Verdict { answer, who }, &[]));
        }
        Err(_) => {}
    }
}

fn let_in(state: &State, connection: &OwnedFd, pid: Pid) {
    if lock(&state.broken).is_some() || state.processes.load(SeqCst) >= MAX_PROCESSES {
        return;
    }
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let Ok((ring, ring_fd)) = Consumer::create() else { return };
    let number = pid.as_raw_nonzero().get().unsigned_abs();
    let exe = std::fs::read_link(format!("/proc/{number}/exe"))
        .map(|exe| Text::from(exe.as_os_str().as_encoded_bytes()))
        .unwrap_or_default();
    let parent = parent_of(number).unwrap_or_default();
    state.processes.fetch_add(1, SeqCst);
    // Known to the writer before the process can record anything.
    if state.joined.send(Joined { pid: number, pidfd, ring, parent, exe }).is_err() {
        return;
    }
    state.page.ring();
    let Served { session, agent, run, .. } = state.served.clone();
    // Each receiver reads the policy from its start, hence through an open file description of its own.
    let Ok(policy) = reopened(&state.policy) else { return };
    let fds = [policy.as_fd(), state.page_fd.as_fd(), ring_fd.as_fd()];
    drop(send(connection, &Welcome { session, agent, run }, &fds));
}

fn reopened(memfd: &OwnedFd) -> Result<OwnedFd, std::io::Error> {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", memfd.as_raw_fd())).map(Into::into)
}

fn descends_from_us(pid: Pid) -> bool {
    let us = std::process::id();
    let mut pid = pid.as_raw_nonzero().get().unsigned_abs();
    // Bounded: a pid that is reused while we walk must not make this a loop.
    for _ in 0..64 {
        if pid == us {
            return true;
        }
        match parent_of(pid) {
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// The parent's id, from proc_pid_stat(5); the name before it may itself hold spaces and parentheses.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|b| *b == b')')? + 2;
    std::str::from_utf8(&stat[after..]).ok()?.split(' ').nth(1)?.parse().ok()
}

// ---- keeping what they record -------------------------------------------------------------------------------

struct Drain<'a> {
    state: &'a State,
    writer: Writer,
    joins: mpsc::Receiver<Joined>,
    members: Vec<Member>,
    record: Vec<u8>,
}

struct Member {
    pid: u32,
    pidfd: OwnedFd,
    ring: Consumer,
    /// Whether it wrote nonsense: it gets no more credit.
    shunned: bool,
}

impl Drain<'_> {
    fn run(mut self) -> Writer {
        let mut idle = 0;
        loop {
            let stopping = self.state.stopping.load(SeqCst);
            let worked = self.welcome() | self.own_events() | self.drain();
            self.farewell();
            if stopping && !worked {
                self.state.own.close("the run is over");
                return self.writer;
            }
            idle = if worked { 0 } else { idle + 1 };
            if idle < IDLE_NAPS {
                std::thread::sleep(NAP);
            } else {
                let members = &self.members;
                self.state.page.doze(DOZE, || {
                    members.iter().all(|member| member.ring.is_empty())
                        && self.state.own.is_empty()
                        && !self.state.stopping.load(SeqCst)
                });
                idle = IDLE_NAPS - 1;
            }
        }
    }

    fn welcome(&mut self) -> bool {
        let mut any = false;
        while let Ok(Joined { pid, pidfd, ring, parent, exe }) = self.joins.try_recv() {
            any = true;
            self.write(|writer| writer.append(&Event::ProcessJoined { pid, parent, exe }));
            self.members.push(Member { pid, pidfd, ring, shunned: false });
        }
        if any {
            self.grant();
        }
        any
    }

    fn own_events(&mut self) -> bool {
        let (events, bytes) = self.state.own.take();
        if events.is_empty() {
            return false;
        }
        // One write for all that waited; what one of them cannot be is no reason to lose the others.
        for event in &events {
            self.write(|writer| writer.stage(event));
        }
        self.write(Writer::flush);
        self.grant();
        self.state.own.grant(bytes);
        true
    }

    /// Takes everything out of every ring, then assures space for as much again.
    fn drain(&mut self) -> bool {
        let mut any = false;
        for at in 0..self.members.len() {
            while !self.members[at].shunned {
                match self.members[at].ring.next(&mut self.record) {
                    Ok(None) => break,
                    Ok(Some(())) => {
                        any = true;
                        let record = std::mem::take(&mut self.record);
                        if !self.write(|writer| writer.stage_packed(&record)) {
                            self.shun(at);
                        }
                        self.record = record;
                    }
                    Err(_) => self.shun(at),
                }
            }
            // One write for all that this ring held.
            self.write(Writer::flush);
        }
        if any {
            self.grant();
        }
        any
    }

    fn shun(&mut self, at: usize) {
        self.members[at].shunned = true;
        let pid = self.members[at].pid;
        let text =
            format!("process {pid} wrote records that make no sense; it is granted nothing from here on");
        self.write(|writer| writer.append(&Event::Notice { text }));
    }

    fn grant(&mut self) {
        let rings = self.members.iter().filter(|member| !member.shunned).count() as u64;
        let room = rings * EXPANSION * CAPACITY as u64 + 2 * own::CAPACITY;
        let assured = self.write(|writer| writer.reserve(room));
        if assured && lock(&self.state.broken).is_none() {
            for member in self.members.iter().filter(|member| !member.shunned) {
                member.ring.grant();
            }
        }
    }

    /// Writes, and remembers when the trace cannot be written any more: no credit is granted from then on.
    ///
    /// Returns false where it was not written, also because it was no event at all.
    fn write<T>(&mut self, write: impl FnOnce(&mut Writer) -> Result<T, TraceError>) -> bool {
        if lock(&self.state.broken).is_some() {
            return true; // what was granted before is all that can still arrive; nothing new is allowed
        }
        match write(&mut self.writer) {
            Ok(_) => true,
            // One process's record, not the trace: that process gets no more credit.
            Err(TraceError::NotAnEvent(_) | TraceError::Unredactable(_)) => false,
            Err(error) => {
                self.state.own.close(&error.to_string());
                *lock(&self.state.broken) = Some(error.to_string());
                true
            }
        }
    }

    /// Lets go of processes that ended, after their last record.
    fn farewell(&mut self) {
        let mut at = 0;
        while at < self.members.len() {
            let member = &self.members[at];
            let ended = has_ended(&member.pidfd);
            if !ended || !(member.shunned || member.ring.is_empty()) {
                at += 1;
                continue;
            }
            let pid = self.members.swap_remove(at).pid;
            self.state.processes.fetch_sub(1, SeqCst);
            self.write(|writer| writer.append(&Event::ProcessLeft { pid }));
        }
    }
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
}
