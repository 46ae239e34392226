//! Starting a program under supervision.

#![allow(
    unsafe_code,
    reason = "credentials of one thread, and a descriptor taken over; each block says why it is sound"
)]

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use failcore_gate::{Broker, Gate, Relay, Witness};
use failcore_model::Denial;
use landlock::RulesetCreated;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open, setrlimit,
};

use crate::beside::behind;
use crate::cgroup::Cgroup;
use crate::filter::assemble;
use crate::guardian::{Message, Prepared, Raw, Step, start};
use crate::island::Island;
use crate::landlock::{Domains, domains};
use crate::notify::Listener;
use crate::plan::Plan;
use crate::privileges::give_up;
use crate::server::Door;
use crate::supervisor::{Shared, serve, worker};
use crate::vdso::Rewriter;

/// A program to start.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// The program: a path, or a name looked up on the `PATH` of `env`.
    pub program: OsString,
    /// Its arguments, without its own name.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it starts; the supervisor's working directory where absent.
    pub cwd: Option<PathBuf>,
    /// Its standard input; the supervisor's own where absent.
    pub stdin: Option<Arc<OwnedFd>>,
    /// The cgroup that it starts in and cannot leave.
    pub cgroup: Option<Arc<Cgroup>>,
    /// Bytes of private memory that each of its processes may ask for at most (`RLIMIT_DATA`, getrlimit(2)).
    pub private_memory: Option<u64>,
}

/// What a supervisor has of its parent's side.
#[derive(Clone)]
pub struct Parent {
    /// Decides and records.
    pub gate: Arc<Gate>,
    /// Where interpreters with the hook in them attach; without one, they cannot.
    pub door: Option<Door>,
    /// Takes what is sent to DNS servers; without one, a DNS server is an address like any other.
    pub broker: Option<Arc<dyn Broker>>,
    /// Takes over connections that are to be carried; without it, they cannot be made.
    pub relay: Option<Arc<dyn Relay>>,
    /// Sees what the program learns from outside; without one, calls that only look are not even asked about.
    pub witness: Option<Arc<dyn Witness>>,
}

/// A program that runs under supervision.
pub struct Supervisor {
    shared: Arc<Shared>,
    root: u32,
    agent: u32,
    /// The guardian ends everything once this is closed.
    life: Option<OwnedFd>,
    watcher: Option<std::thread::JoinHandle<()>>,
}

/// Why a program did not start; nothing of it ran.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The program was not found.
    #[error("`{0}` is no program on the search path")]
    NotFound(String),
    /// The policy does not let it start.
    #[error("{}", .0.to_string())]
    Refused(Box<Denial>),
    /// It could not be started.
    #[error("cannot start `{program}`: {why}")]
    Exec {
        /// The program.
        program: String,
        /// The kernel's answer.
        why: std::io::Error,
    },
    /// A string with a NUL byte.
    #[error("`{0}` holds a NUL byte")]
    Nul(String),
    /// The working directory cannot be entered.
    #[error("cannot enter the working directory: {0}")]
    Directory(std::io::Error),
    /// A supervisor is there already: the kernel takes one per process.
    #[error(
        "this process is under a supervisor of system calls already, and Linux lets a process have one: run `failcore` outside of it, or with `--lane runtime`"
    )]
    Nested,
    /// The kernel does not hold what it must.
    #[error("{step}: {why}")]
    Kernel {
        /// What was attempted.
        step: &'static str,
        /// The kernel's answer.
        why: std::io::Error,
    },
    /// The caller was not ready for it.
    #[error("the program was not wanted any more")]
    NotReady,
    /// A probe that had to be refused was not.
    #[error("the gate does not hold: {0}")]
    Leaks(&'static str),
}

impl StartError {
    fn kernel(step: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |why| Self::Kernel { step, why }
    }
}

impl Supervisor {
    /// Starts `launch` under the gate of `parent`.
    ///
    /// The calling process gets one more child, the guardian ([`Supervisor::root`]): it ends as the program ends, and
    /// the caller waits for it. The caller should be a child subreaper, so that what outlives the guardian can be
    /// found.
    ///
    /// `ready` is asked when all is there but the program itself, whether it may run: nothing was recorded before that.
    ///
    /// # Errors
    /// [`StartError`]; nothing of the program has run then.
    ///
    /// # Security
    /// The calling process becomes non-dumpable, so that no process of the same user can reach into it.
    pub fn start(
        launch: &Launch,
        plan: &Plan,
        parent: Parent,
        ready: impl FnOnce() -> bool,
    ) -> Result<Self, StartError> {
        let program = locate(launch)?;
        let shown = program.to_string_lossy().into_owned();
        let (life_read, life) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|why| StartError::Kernel { step: "cannot make a pipe", why: why.into() })?;
        let (mut link, far) = UnixStream::pair().map_err(StartError::kernel("cannot make a socket"))?;
        let descriptors = raise_descriptors();
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(
            |why| StartError::Kernel { step: "cannot close this process to others", why: why.into() },
        )?;
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        let stdin = launch.stdin.clone();
        let broker = parent.broker.iter().flat_map(|broker| broker.tcp_ports());
        let own = broker.chain(parent.relay.iter().flat_map(|relay| relay.tcp_ports())).collect::<Vec<u16>>();
        let clears = launch.cgroup.as_ref().map(|cgroup| cgroup.base());
        let domains = domains(plan, &own, clears).map_err(|why| StartError::Kernel {
            step: "cannot make the Landlock domain",
            why: std::io::Error::other(why),
        })?;
        let (acting, domain) = match domains {
            Some(Domains { acting, agent }) => (Some(acting), agent),
            None => (None, None),
        };
        let prepared = Prepared {
            program: c_string(program.as_os_str().as_bytes())?,
            argv: std::iter::once(&launch.program)
                .chain(&launch.args)
                .map(|arg| c_string(arg.as_bytes()))
                .collect::<Result<_, _>>()?,
            env: launch
                .env
                .iter()
                .map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
                .collect::<Result<_, _>>()?,
            cwd: launch.cwd.as_ref().map(|cwd| c_string(cwd.as_os_str().as_bytes())).transpose()?,
            filter: assemble(
                parent.witness.is_some(),
                parent.witness.as_ref().is_some_and(|witness| witness.plays()),
            ),
            link: far.as_raw_fd(),
            life: life_read.as_raw_fd(),
            domain: domain.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            // Writable for every process, and for none in the agent's domain.
            forbidden: domain.as_ref().map(|_| c"/proc/self/comm".to_owned()),
            terminal: terminal.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            stdin: stdin.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            descriptors,
            memory: launch.private_memory.unwrap_or(libc::RLIM_INFINITY),
            cgroup: launch.cgroup.as_ref().map(|cgroup| cgroup.hold()).transpose().map_err(|why| {
                StartError::Kernel { step: "cannot hold the run's cgroup", why: why.into() }
            })?,
        };
        let rewriter = parent.witness.as_ref().map(|_| Rewriter::start()).transpose();
        let rewriter = rewriter.map_err(StartError::kernel("cannot start a thread"))?;
        let hold = link.try_clone().map_err(StartError::kernel("cannot make a socket"))?;
        let held = (terminal, stdin, life_read, domain);
        let gone = || StartError::Leaks("the thread that starts the program ended");
        let wanted = Wanted { prepared, acting, link: hold, far, parent, rewriter, held };
        // What acts for the agent has no more rights than the agent: a thread that gives up its privileges is the
        // ancestor of both.
        let (tell, told) = mpsc::sync_channel(1);
        let keep = plan.keep.clone();
        behind(worker(0), move || match wanted.start(give_up(&keep)) {
            Ok((shared, root)) => {
                let _ = tell.send(Ok((Arc::clone(&shared), root)));
                serve(&shared);
            }
            Err(why) => drop(tell.send(Err(why))),
        })
        .map_err(StartError::kernel("cannot start a thread"))?;
        let (shared, root) = told.recv().map_err(|_| gone())??;
        let watcher = watch(&shared);
        let agent = probed(&mut link).inspect_err(|_| shared.end())?;
        let watcher = watcher.map_err(StartError::kernel("cannot start a thread"))?;
        let supervisor = Self { shared, root, agent, life: Some(life), watcher: Some(watcher) };
        if !ready() {
            supervisor.stop();
            return Err(StartError::NotReady);
        }
        // Judged from here on; the first call is the exec.
        supervisor.shared.begin();
        link.write_all(&[1]).map_err(StartError::kernel("cannot speak to the program's process"))?;
        match receive(&mut link) {
            // The link closes with the exec.
            None => Ok(supervisor),
            Some(message) => {
                let why = std::io::Error::from_raw_os_error(message.value);
                let refused = supervisor.shared.last_refusal();
                supervisor.stop();
                Err(match refused {
                    Some(denial) => StartError::Refused(Box::new(denial)),
                    None => StartError::Exec { program: shown, why },
                })
            }
        }
    }

    /// The guardian's process id: a child of the calling process that ends as the program ends.
    pub fn root(&self) -> u32 {
        self.root
    }

    /// The program's process id.
    pub fn agent(&self) -> u32 {
        self.agent
    }

    /// What programs were refused and hear only an errno of, in words: the first ones, and how many there were beside them.
    pub fn unheard(&self) -> Vec<String> {
        self.shared.unheard.said()
    }

    /// What of the policy's grants the kernel refused to a program of root, which has no capabilities, in words.
    pub fn lacked(&self) -> Vec<String> {
        self.shared.lacks.told()
    }

    /// A process of the supervisor's own, where it has one by now: not the program's, and gone when the supervision is.
    pub fn helper(&self) -> Option<u32> {
        self.shared.island_made().map(Island::pid)
    }

    /// Answers no call of the program until [`Supervisor::release`], so that nothing is done for it; it may still run
    /// until it calls. Returns whether every call that was under way has come to its end, or waits, within `patience`.
    pub fn hold(&self, patience: Duration) -> bool {
        self.shared.hold(patience)
    }

    /// Answers calls again.
    pub fn release(&self) {
        self.shared.standstill.release();
    }

    /// Ends the program and everything it started, at once.
    pub fn stop(mut self) {
        self.life = None;
        // The guardian ends only when all are gone.
        if let Some(pid) = Pid::from_raw(self.root.cast_signed())
            && let Ok(guardian) = pidfd_open(pid, PidfdFlags::empty())
        {
            let mut fds = [rustix::event::PollFd::new(&guardian, rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, None);
        }
        self.finish();
    }

    /// Ends the supervision, after the program and all it started have ended: whoever is left gets no answer any more.
    pub fn finish(mut self) {
        self.shared.end();
        if let Some(watcher) = self.watcher.take() {
            drop(watcher.join());
        }
    }
}

/// What the thread that gives up its privileges starts the program with.
struct Wanted {
    prepared: Prepared,
    acting: Option<RulesetCreated>,
    link: UnixStream,
    far: UnixStream,
    parent: Parent,
    rewriter: Option<Rewriter>,
    /// What `prepared` names by number: terminal, standard input, the pipe that ends with us, the agent's domain.
    held: (Option<File>, Option<Arc<OwnedFd>>, OwnedFd, Option<OwnedFd>),
}

impl Wanted {
    /// On that thread: starts guardian and agent, and takes the listener.
    fn start(mut self, given_up: Result<(), Errno>) -> Result<(Arc<Shared>, u32), StartError> {
        let outcome = given_up
            .map_err(|why| StartError::Kernel { step: "cannot give up privileges", why: why.into() })
            .and_then(|()| {
                hold_agent(&self.prepared, self.acting, &mut self.link, self.far, self.parent, self.rewriter)
            });
        drop((self.held, self.prepared.cgroup.take()));
        // Guardian and agent have it too: to give it back, the kernel would have to copy the pages it is on.
        std::mem::forget(self.prepared);
        outcome
    }
}

fn hold_agent(
    prepared: &Prepared,
    acting: Option<RulesetCreated>,
    link: &mut UnixStream,
    far: UnixStream,
    parent: Parent,
    rewriter: Option<Rewriter>,
) -> Result<(Arc<Shared>, u32), StartError> {
    if let Some(acting) = acting {
        acting.restrict_self().map_err(|why| StartError::Kernel {
            step: "cannot enter the Landlock domain",
            why: std::io::Error::other(why),
        })?;
    }
    let raw = Raw::new(prepared);
    let root = start(&raw).map_err(StartError::kernel("cannot start a process"))?.cast_unsigned();
    std::mem::forget(raw);
    drop(far);
    let message = receive(link).ok_or(StartError::Leaks("the program's process ended before it began"))?;
    if message.step != Step::Filter as i32 {
        return Err(step_error(message.step, std::io::Error::from_raw_os_error(message.value)));
    }
    let agent = Pid::from_raw(message.pid).ok_or(StartError::Leaks("no process"))?;
    let listener = pidfd_open(agent, PidfdFlags::empty())
        .and_then(|pidfd| pidfd_getfd(pidfd, message.value, PidfdGetfdFlags::empty()))
        .map_err(|why| StartError::Kernel { step: "cannot take over the listener", why: why.into() })?;
    let shared = Shared::new(Listener::new(listener), parent, root, rewriter)
        .map_err(|why| StartError::Kernel { step: "cannot open our own descriptors", why: why.into() })?;
    // It may try what must be refused: this thread is about to answer.
    if let Err(why) = link.write_all(&[1]) {
        shared.end();
        return Err(StartError::kernel("cannot speak to the program's process")(why));
    }
    Ok((shared, root))
}

/// Waits until the agent has tried what must be refused; its process id.
fn probed(link: &mut UnixStream) -> Result<u32, StartError> {
    let message = receive(link).ok_or(StartError::Leaks("the program's process ended at its probes"))?;
    if message.step != Step::Probed as i32 {
        return Err(step_error(message.step, std::io::Error::from_raw_os_error(message.value)));
    }
    Ok(message.pid.cast_unsigned())
}

fn step_error(step: i32, why: std::io::Error) -> StartError {
    let is = |other: Step| step == other as i32;
    if is(Step::NoFilter) && why.raw_os_error() == Some(libc::EBUSY) {
        StartError::Nested
    } else if is(Step::DomainLeaks) {
        StartError::Leaks("Landlock let a forbidden file be opened for writing")
    } else if is(Step::ProbeLeaks) {
        StartError::Leaks("a call that had to be refused was not")
    } else if is(Step::Directory) {
        StartError::Directory(why)
    } else if is(Step::Domain) {
        StartError::Kernel { step: "cannot enter the Landlock domain", why }
    } else if is(Step::Cgroup) {
        StartError::Kernel { step: "cannot start the program in its cgroup", why }
    } else if is(Step::NoFilter) {
        StartError::Kernel { step: "cannot install the seccomp filter", why }
    } else {
        StartError::Kernel { step: "cannot start the program's process", why }
    }
}

/// The next message, or nothing where the other end closed.
fn receive(link: &mut UnixStream) -> Option<Message> {
    let mut bytes = [0; size_of::<Message>()];
    link.read_exact(&mut bytes).ok()?;
    let word = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
    Some(Message { step: word(0), pid: word(4), value: word(8) })
}

fn watch(shared: &Arc<Shared>) -> std::io::Result<std::thread::JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("failcore-watch".into()).spawn(move || shared.look_after())
}

fn c_string(bytes: &[u8]) -> Result<CString, StartError> {
    CString::new(bytes).map_err(|_| StartError::Nul(String::from_utf8_lossy(bytes).into_owned()))
}

/// The program's path: as given where it holds a slash, else the first of that name on the search path.
fn locate(launch: &Launch) -> Result<PathBuf, StartError> {
    let not_found = || StartError::NotFound(launch.program.to_string_lossy().into_owned());
    if launch.program.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(&launch.program));
    }
    if launch.program.is_empty() {
        return Err(not_found());
    }
    let path = launch.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let path = path.unwrap_or_else(|| OsString::from_vec(b"/usr/local/bin:/usr/bin:/bin".to_vec()));
    let start = launch.cwd.clone().unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| start.join(dir).join(&launch.program))
        .find(|candidate| is_program(candidate))
        .ok_or_else(not_found)
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Takes all the descriptors that are to be had, since each process of the run costs one; what was before.
fn raise_descriptors() -> libc::rlimit {
    let before = getrlimit(Resource::Nofile);
    // Where it cannot be raised, fewer processes can be watched; that shows as a refusal then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    let raw = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    libc::rlimit { rlim_cur: raw(before.current), rlim_max: raw(before.maximum) }
}
