//! The parent's side: lets processes of the run in, and keeps what they record.

mod drain;

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime};

use failcore_gate::{Approver, Meter, Sink};
use failcore_model::{Answer, Event, Reason, Text};
use failcore_policy::PolicySet;
use failcore_trace::{TraceError, Writer};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};

use crate::alive::{self, Holding};
use crate::beside::beside;
use crate::own::{self, Own, OwnSink};
use crate::page::{RunPage, Sampled};
use crate::peer::Peer;
use crate::reception::Reception;
use crate::ring::{CAPACITY, Consumer, EXPANSION};
use crate::slots::Slots;
use crate::tasks::parent_of;
use crate::wire::{Admitted, Ask, Verdict, Welcome, receive, send};
use drain::Drain;

/// Processes attached at once.
const MAX_PROCESSES: usize = 4096;
/// Descriptors that they leave to us, each of which takes one: without any, a program could not even be stopped.
const SPARE: u64 = 128;
/// Questions and handshakes under way at once.
const MAX_CONNECTIONS: usize = 256;

/// What the processes of a run are told.
#[derive(Debug, Clone)]
pub struct Served {
    /// The session's id.
    pub session: String,
    /// The agent's name.
    pub agent: Option<Text>,
    /// The caller's label of the run.
    pub run: Option<Text>,
    /// The policy, which they read in its resolved form.
    pub policy: Arc<PolicySet>,
    /// Whether a supervisor decides and records what the processes do: it alone lets them in then.
    pub supervised: bool,
}

/// How many decisions a trace holds so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Allowed.
    pub allowed: u64,
    /// Refused, those of files that are not there apart.
    pub refused: u64,
    /// Refusals of files that are not there.
    pub absent: u64,
}

/// The parent's side of a run: holds the trace while the run lasts.
pub struct Server {
    state: Arc<State>,
    socket: PathBuf,
    /// Where processes attach by themselves; under a supervisor none does.
    acceptor: Option<JoinHandle<()>>,
    /// The trace comes back from it, if it was begun.
    drainer: JoinHandle<Option<Writer>>,
    opened: Mutex<mpsc::Receiver<Result<(), TraceError>>>,
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
    /// Made when the first process attaches: under a supervisor most programs never do.
    entrance: Mutex<Option<Entrance>>,
    /// The bell; every process of the run maps it.
    page: RunPage,
    page_fd: OwnedFd,
    /// Where it is counted: on a page of our own under a supervisor, else on the one that all share.
    meter: RunPage,
    approver: Arc<dyn Approver>,
    reception: Option<Reception>,
    joined: mpsc::Sender<Joined>,
    stopping: AtomicBool,
    processes: AtomicUsize,
    connections: AtomicUsize,
    own: Arc<Own>,
    /// What persons answered to processes that have not recorded it yet.
    answered: Mutex<Vec<(u32, Answer, Text)>>,
    tally: Counts,
    /// Why the trace can no longer be written, once it cannot.
    broken: Mutex<Option<String>>,
}

/// What processes that attach have in common.
struct Entrance {
    policy: OwnedFd,
    /// Tells them that there is somebody to write what they record.
    _holding: Holding,
}

#[derive(Default)]
struct Counts {
    allowed: AtomicU64,
    refused: AtomicU64,
    absent: AtomicU64,
}

impl Counts {
    fn add(&self, event: &Event) {
        if let Event::Decided { decision, .. } = event {
            let count = match decision.reason {
                _ if decision.is_allow() => &self.allowed,
                Reason::Absent => &self.absent,
                _ => &self.refused,
            };
            count.fetch_add(1, Relaxed);
        }
    }
}

/// A process that was let in.
struct Joined {
    pid: u32,
    pidfd: OwnedFd,
    ring: Consumer,
    /// Whom to announce; nobody where the supervisor does that.
    announced: Option<(u32, Text)>,
}

/// The way into a run for processes under supervision: the supervisor lets them in, since it knows who they are.
#[derive(Clone)]
pub struct Door {
    state: Arc<State>,
    path: Arc<Path>,
}

impl Server {
    /// Starts to serve on `socket`, a path in a directory that only its owner can enter, writing to the trace that `open`
    /// begins. Under a supervisor, who knows the path, there is no socket at it.
    ///
    /// The trace is begun beside whatever the caller does next, who is to ask [`Server::opened`] before it lets anything
    /// happen that is to be recorded.
    ///
    /// # Errors
    /// [`ServerError`]; nothing is left behind then but perhaps the trace itself.
    pub fn start(
        socket: &Path,
        served: Served,
        open: impl FnOnce() -> Result<Writer, TraceError> + Send + 'static,
        approver: Arc<dyn Approver>,
    ) -> Result<Self, ServerError> {
        let reception = (!served.supervised)
            .then(|| Reception::open(socket))
            .transpose()
            .map_err(|why| ServerError::Listen { socket: socket.into(), why })?;
        let page = || RunPage::create(SystemTime::now().into()).map_err(ServerError::Memory);
        let (page, page_fd, meter) = match (page()?, served.supervised) {
            ((bell, fd), true) => (bell, fd, page()?.0),
            ((all, fd), false) => (all.clone(), fd, all),
        };
        let (joined, joins) = mpsc::channel();
        let state = Arc::new(State {
            served,
            entrance: Mutex::default(),
            page,
            page_fd,
            meter,
            approver,
            reception,
            joined,
            stopping: AtomicBool::new(false),
            processes: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            own: Arc::new(Own::new()),
            answered: Mutex::default(),
            tally: Counts::default(),
            broken: Mutex::default(),
        });
        let (tell, opened) = mpsc::channel();
        let drainer = {
            let state = Arc::clone(&state);
            beside(Builder::new().name("failcore-trace".into()), move || {
                let mut writer = match open() {
                    Ok(writer) => writer,
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        return None;
                    }
                };
                // For the first process that attaches, and all that our own threads may have waiting: without a supervisor
                // taken now, so that none attaches in vain; under one looked for, since most programs need little.
                let all = EXPANSION * CAPACITY as u64 + Own::space(own::CAPACITY);
                let assured = if state.served.supervised {
                    writer.has_room(all).and_then(|()| writer.reserve(Own::space(own::FIRST)))
                } else {
                    writer.reserve(all)
                };
                let is_assured = assured.is_ok();
                let _ = tell.send(assured);
                if !is_assured {
                    return Some(writer);
                }
                Some(Drain::new(&state, writer, joins).run())
            })
            .map_err(ServerError::Thread)?
        };
        let accept = |state: Arc<State>| {
            Builder::new().name("failcore-accept".into()).spawn(move || {
                let Some(reception) = &state.reception else { return };
                reception.accept(|connection| {
                    // Whoever finds no place sees the connection close, which is a no.
                    let _ = state.attend(move |state| serve(state, &connection));
                });
            })
        };
        let acceptor = state.reception.is_some().then(|| accept(Arc::clone(&state)));
        let acceptor = acceptor.transpose().map_err(ServerError::Thread)?;
        Ok(Self { state, socket: socket.into(), acceptor, drainer, opened: Mutex::new(opened) })
    }

    /// Waits until the trace is there to be written; to be asked once.
    ///
    /// # Errors
    /// [`ServerError::Trace`] where it could not be begun.
    pub fn opened(&self) -> Result<(), ServerError> {
        let gone = || ServerError::Thread(std::io::ErrorKind::Other.into());
        Ok(lock(&self.opened).recv().map_err(|_| gone())??)
    }

    /// Takes `by` out of the run's time: it was paused for so long.
    pub fn postpone(&self, by: Duration) {
        self.state.meter.postpone(by);
    }

    /// Publishes what was measured of the run from outside.
    pub fn sample(&self, sampled: Sampled) {
        self.state.meter.sample(sampled);
    }

    /// The trace, for those who state facts of the parent's own or want to know what it holds.
    pub fn ledger(&self) -> Ledger {
        Ledger { state: Arc::clone(&self.state) }
    }

    /// Where the parent's own gates record: the supervisor of the kernel lane, the broker.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(OwnSink { own: Arc::clone(&self.state.own), page: self.state.page.clone() })
    }

    /// The run's counters, for the parent's own gates.
    pub fn meter(&self) -> Arc<dyn Meter> {
        Arc::new(self.state.meter.clone())
    }

    /// Who is asked for approvals.
    pub fn approver(&self) -> Arc<dyn Approver> {
        Arc::clone(&self.state.approver)
    }

    /// The way in for a supervisor's processes.
    pub fn door(&self) -> Door {
        Door { state: Arc::clone(&self.state), path: self.socket.as_path().into() }
    }

    /// Records a fact of the parent's own.
    pub fn record(&self, event: Event) {
        self.state.record(event);
    }

    /// Makes ready what each process is given as it attaches, while the first one is on its way. What fails here fails again
    /// then, and that process is told.
    pub fn expect(&self) {
        drop(self.state.entrance());
    }

    /// How many processes have attached and not ended.
    pub fn processes(&self) -> usize {
        self.state.processes.load(SeqCst)
    }

    /// Why the trace can no longer be written, if so; every operation is denied from then on.
    pub fn broken(&self) -> Option<String> {
        lock(&self.state.broken).clone()
    }

    /// Stops serving, keeps everything that was recorded, and gives the trace back to be closed, if it was ever begun.
    pub fn finish(self) -> Option<Writer> {
        self.state.stopping.store(true, SeqCst);
        self.state.page.ring();
        self.drainer.thread().unpark();
        if let (Some(reception), Some(acceptor)) = (&self.state.reception, self.acceptor) {
            reception.close();
            drop(acceptor.join());
            drop(std::fs::remove_file(&self.socket));
        }
        match self.drainer.join() {
            Ok(writer) => writer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// The trace of a run under way.
#[derive(Clone)]
pub struct Ledger {
    state: Arc<State>,
}

impl Ledger {
    /// As [`Server::record`].
    pub fn record(&self, event: Event) {
        self.state.record(event);
    }

    /// How many decisions were recorded so far.
    pub fn tally(&self) -> Tally {
        let Counts { allowed, refused, absent } = &self.state.tally;
        Tally { allowed: allowed.load(Relaxed), refused: refused.load(Relaxed), absent: absent.load(Relaxed) }
    }
}

impl Door {
    /// Whether a path that a process wants to connect to is this door.
    pub(crate) fn is_at(&self, path: &[u8]) -> bool {
        self.path.as_os_str().as_encoded_bytes() == path
    }

    /// Serves the process `pid`: its end of a connection, and the slots of its threads.
    ///
    /// # Errors
    /// `EAGAIN` where too many are being served, and the kernel's.
    pub(crate) fn admit(&self, pid: u32, admitted: Admitted) -> Result<(OwnedFd, Arc<Slots>), Errno> {
        let raw = Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH)?;
        let (theirs, ours) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (slots, slots_fd) = Slots::create()?;
        let slots = Arc::new(slots);
        self.state.attend(move |state| answer(state, &ours, raw, Some((admitted, slots_fd))))?;
        Ok((theirs, slots))
    }
}

impl State {
    /// Runs a conversation on a thread of its own.
    fn attend(self: &Arc<Self>, talk: impl FnOnce(&Self) + Send + 'static) -> Result<(), Errno> {
        if self.connections.fetch_add(1, SeqCst) >= MAX_CONNECTIONS {
            self.connections.fetch_sub(1, SeqCst);
            return Err(Errno::AGAIN);
        }
        let shared = Arc::clone(self);
        let spawned = Builder::new().name("failcore-attend".into()).spawn(move || {
            talk(&shared);
            shared.connections.fetch_sub(1, SeqCst);
        });
        if spawned.is_err() {
            self.connections.fetch_sub(1, SeqCst);
        }
        spawned.map(drop).map_err(|_| Errno::AGAIN)
    }

    /// The policy for one more process, to be read from its start, hence an open file description of its own.
    fn entrance(&self) -> std::io::Result<OwnedFd> {
        let mut entrance = lock(&self.entrance);
        let entrance = match entrance.as_mut() {
            Some(entrance) => entrance,
            None => {
                let policy = self.served.policy.to_json().map_err(std::io::Error::other)?;
                let policy = sealed("failcore-policy", &policy)?;
                entrance.insert(Entrance { policy, _holding: alive::hold(&self.page)? })
            }
        };
        reopened(&entrance.policy)
    }

    fn record(&self, event: Event) {
        self.own.push(event);
        self.page.ring();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    let written = file.write_all(bytes).and_then(|()| file.rewind());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Answers whoever connects by himself.
fn serve(state: &State, connection: &OwnedFd) {
    let Ok(peer) = Peer::of(connection) else { return };
    let ours = peer.uid == rustix::process::getuid().as_raw() && peer.descends(std::process::id());
    if ours && let Some(pid) = Pid::from_raw(peer.pid.cast_signed()) {
        answer(state, connection, pid, None);
    }
}

/// Answers one question. Whatever goes wrong, the connection just closes, which the other side takes as a no.
fn answer(state: &State, connection: &OwnedFd, pid: Pid, supervised: Option<(Admitted, OwnedFd)>) {
    match receive::<Ask>(connection) {
        Ok((Ask::Attach {}, _)) => let_in(state, connection, pid, supervised),
        Ok((Ask::Approve { request, question }, _)) => {
            let (answer, who) = state.approver.ask(&request, &question);
            lock(&state.answered).push((number(pid), answer, who.clone()));
            drop(send(connection, &Verdict { answer, who }, &[]));
        }
        Err(_) => {}
    }
}

fn let_in(state: &State, connection: &OwnedFd, pid: Pid, supervised: Option<(Admitted, OwnedFd)>) {
    let room = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |most| most.saturating_sub(SPARE));
    let most = usize::try_from(room).unwrap_or(usize::MAX).min(MAX_PROCESSES);
    if lock(&state.broken).is_some() || state.processes.load(SeqCst) >= most {
        return;
    }
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let Ok((ring, ring_fd)) = Consumer::create() else { return };
    let number = number(pid);
    let announced = supervised.is_none().then(|| {
        let exe = std::fs::read_link(format!("/proc/{number}/exe"))
            .map(|exe| Text::from(exe.as_os_str().as_encoded_bytes()))
            .unwrap_or_default();
        (parent_of(number).unwrap_or_default(), exe)
    });
    state.processes.fetch_add(1, SeqCst);
    // Known to the writer before the process can record anything.
    if state.joined.send(Joined { pid: number, pidfd, ring, announced }).is_err() {
        return;
    }
    state.page.ring();
    let Served { session, agent, run, .. } = state.served.clone();
    let Ok(policy) = state.entrance() else { return };
    let (supervised, slots) = supervised.unzip();
    let mut fds = vec![policy.as_fd(), state.page_fd.as_fd(), ring_fd.as_fd()];
    fds.extend(slots.as_ref().map(AsFd::as_fd));
    drop(send(connection, &Welcome { session, agent, run, supervised }, &fds));
}

fn reopened(memfd: &OwnedFd) -> Result<OwnedFd, std::io::Error> {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", memfd.as_raw_fd())).map(Into::into)
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}
