//! `failcore run`: starts a program under a policy and stays beside it until everything it started has ended.

mod approvals;
mod carried;
mod clock;
mod control;
mod freeze;
mod lane;
mod prepare;
mod signals;
mod summary;
mod terminal;
mod tree;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use failcore_gate::expected::{Divergence, Matching};
use failcore_gate::{Gate, Sink, Witness};
use failcore_kernel::{Cgroup, Launch, Parent, Plan, Sampled, Served, Server, Supervisor};
use failcore_model::{Event, Lane, Text};
use failcore_net::{BrokerServer, Hosts, Pins, Resolver, Upstream};
use failcore_policy::Limits;
use failcore_record::{Recorder, Store};
use failcore_relay::RelayServer;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::args::Run;
use crate::control::{Reply, State};
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::ui::{self, Ui, count};

use approvals::Approvals;
use clock::Clock;
use control::{Change, Control, Given};
use freeze::Frozen;
pub(crate) use prepare::{Again, os};
use prepare::{Complete, Prepared};
use signals::Signals;
use summary::Summary;
use tree::{GRACE, Tree};

/// How often the tree is measured where a limit depends on it, and where it is near its limit on memory.
const CLOSE_WATCH: Duration = Duration::from_millis(100);
const CLOSEST_WATCH: Duration = Duration::from_millis(20);
/// How often orphans are collected where none does.
const LOOSE_WATCH: Duration = Duration::from_millis(500);
/// How much private memory one process may ask for, in limits of the run, where memory is only measured: more than it
/// will touch, and still no way to outrun the measuring by far.
const ASKED: u64 = 4;
/// How long a pause waits for what is being done for the program at that moment.
const SETTLE: Duration = Duration::from_secs(2);

/// Runs the program; its exit code passes through.
pub(crate) fn run(args: &Run, ui: &mut Ui) -> Result<Exit, Failure> {
    start(args, None, ui)
}

/// Runs a recorded program again, in the world that this process has entered.
pub(crate) fn again(args: &Run, again: Again, ui: &mut Ui) -> Result<Exit, Failure> {
    start(args, Some(again), ui)
}

fn start(args: &Run, again: Option<Again>, ui: &mut Ui) -> Result<Exit, Failure> {
    failcore_kernel::close_on_exec()
        .map_err(|source| Problem::System { what: "keep open files from the program", source })
        .map_err(|problem| Failure::from(problem).before_start())?;
    let prepared = Prepared::new(args, again, ui).map_err(Failure::before_start)?;
    let started = Started::start(prepared, args, ui).map_err(Failure::before_start)?;
    started.attend(ui)
}

/// A program under way.
struct Started {
    prepared: Prepared,
    server: Server,
    control: Control,
    approvals: Arc<Approvals>,
    clock: Arc<Clock>,
    signals: Signals,
    tree: Tree,
    /// In the kernel lane.
    supervised: Option<Supervised>,
    /// In the kernel lane, where this machine lets us have one.
    cgroup: Option<Arc<Cgroup>>,
    /// While it is paused.
    frozen: Option<Frozen>,
    /// Whose end is the run's: the program, or the guardian that ends as it does.
    root: OwnedFd,
}

/// What holds the program in the kernel lane.
struct Supervised {
    supervisor: Supervisor,
    /// Answers for as long as anybody may ask.
    broker: BrokerServer,
    /// Where connections are carried.
    relay: Option<RelayServer>,
    /// Where what the program learns is kept.
    recorder: Option<Arc<Recorder>>,
}

impl Supervised {
    /// Does nothing for the program any more, and lets nothing through to it; whether all of that came to rest in time.
    fn hold(&self, patience: Duration) -> bool {
        let settled = self.supervisor.hold(patience);
        self.relay.as_ref().is_none_or(|relay| relay.pause(patience)) && settled
    }

    fn release(&self) {
        if let Some(relay) = &self.relay {
            relay.resume();
        }
        self.supervisor.release();
    }
}

/// Why a run was stopped before its program ended.
struct Stop {
    limit: &'static str,
    text: String,
}

impl Started {
    fn start(mut prepared: Prepared, args: &Run, ui: &Ui) -> Result<Self, Failure> {
        // Before anything is written: a file size limit is a signal otherwise.
        let mut signals = Signals::catch()?;
        let begun = prepared
            .complete()
            .map_err(|failure| (failure, false))
            .and_then(|complete| Begun::begin(&prepared, args, ui, complete, &mut signals));
        match begun {
            Ok(begun) => {
                let Begun { server, control, approvals, clock, tree, supervised, cgroup, root } = begun;
                Ok(Self {
                    prepared,
                    server,
                    control,
                    approvals,
                    clock,
                    signals,
                    tree,
                    supervised,
                    cgroup,
                    frozen: None,
                    root,
                })
            }
            Err((failure, begun)) => {
                prepared.discard_trace(begun);
                Err(failure)
            }
        }
    }

    /// Stays with the program until it and all it started have ended, and says what came of it.
    fn attend(mut self, ui: &Ui) -> Result<Exit, Failure> {
        let limits = *self.prepared.policy.limits();
        let measured = [limits.memory, limits.processes, limits.write_bytes].iter().any(Option::is_some);
        let (mut stopped, mut broken, mut stoppers) = (None, false, Vec::new());
        let mut watch = if measured { CLOSE_WATCH } else { LOOSE_WATCH };
        if self.prepared.expected.is_some() {
            watch = CLOSEST_WATCH;
        }
        let mut parted_since = None;
        // Where nothing is measured it is known to be one process, and looked at again when it is not over by then.
        let mut first = (!measured).then(|| Sampled { processes: 1, ..Sampled::default() });
        while self.tree.ended().is_none() {
            let sampled = first.take().unwrap_or_else(|| self.sample(&limits));
            if limits.memory.is_some_and(|most| sampled.memory > most / 2) {
                watch = CLOSEST_WATCH;
            }
            self.server.sample(sampled);
            self.control.counted(sampled.processes);
            if let Some(stop) = self.over(&limits, &sampled) {
                ui.note(format_args!("stopped: {}", stop.text));
                self.server.record(Event::Notice { text: format!("stopped: {}", stop.text) });
                self.end(|_| false);
                stopped = Some(stop.limit);
            }
            broken = broken || self.is_broken(ui);
            if stopped.is_none() && self.parted().is_some() {
                // It is refused everything by now, and can say where it stands.
                let since = *parted_since.get_or_insert_with(Instant::now);
                if since.elapsed() > GRACE {
                    stopped = Some("divergence");
                    self.end(|_| false);
                }
            }
            self.wait(watch, limits.wall_time);
            if !measured {
                self.tree.reap();
            }
            while self.tree.ended().is_none()
                && let Some(given) = self.control.next()
            {
                match given.change {
                    Change::Pause => self.pause(given, ui),
                    Change::Resume => self.resume(given, ui),
                    Change::Stop(grace) => {
                        stopped = Some("owner");
                        stoppers.extend(self.stop(given, grace, ui));
                    }
                }
            }
        }
        if !broken {
            self.is_broken(ui);
        }
        let sampled = Sampled::default();
        if stopped.is_none()
            && let Some(stop) = self.over(&Limits { wall_time: None, ..limits }, &sampled)
        {
            // The kernel was quicker than we.
            ui.note(format_args!("stopped: {}", stop.text));
            self.server.record(Event::Notice { text: format!("stopped: {}", stop.text) });
            stopped = Some(stop.limit);
        }
        // What was paused when its program was ended by somebody else does not run again.
        let paused = self.frozen.is_some();
        let (left, _) = self.end(|elapsed| !paused && elapsed < GRACE);
        if left > 0 {
            let text = format!("{} left behind by the program, stopped", count(left, "process"));
            ui.note(&text);
            self.server.record(Event::Notice { text });
        }
        self.approvals.close();
        let mut broker = None;
        if let Some(Supervised { supervisor, broker: names, relay, recorder }) = self.supervised.take() {
            for text in supervisor.lacked() {
                ui.note(text);
            }
            supervisor.finish();
            if let Some(Err(why)) = recorder.map(|recorder| recorder.finish()) {
                let text = format!("the recording is not whole, and cannot be run again: {why}");
                ui.note(&text);
                self.server.record(Event::Notice { text });
            }
            drop(relay);
            broker = Some(names);
        }
        let mut parted = self.parted().map(|divergence| Parted(divergence).to_string());
        if parted.is_none()
            && let Some(replayed) = &self.prepared.replayed
        {
            let otherwise = replayed.left_otherwise();
            let files: Vec<String> = otherwise.iter().map(|file| file.display().to_string()).collect();
            parted = (!files.is_empty()).then(|| {
                format!("diverged: what the program left in {} is not what it was", files.join(", "))
            });
        }
        let code = self.tree.ended().map_or(u8::MAX, tree::code);
        let tally = self.server.ledger();
        let Prepared { session, program, tmp, .. } = self.prepared;
        let writer = self.server.finish();
        // What nobody uses any more is cleared away while the trace is written to the disk; at once, where no thread is
        // to be had for it.
        let (signals, cgroup) = (self.signals, self.cgroup);
        let clear = move || {
            signals.release();
            drop((broker, cgroup, tmp));
        };
        let cleared = std::thread::Builder::new().name("failcore-clear".into()).spawn(clear);
        let Some(writer) = writer else { return Err(Problem::NeverEntered { program: program.file }.into()) };
        let entered = writer.records() > 1;
        let dir = writer.dir().to_owned();
        let closed = writer.close(Some(code.into())).map_err(Problem::trace);
        drop(cleared.map(|cleared| cleared.join()));
        closed?;
        if entered {
            let summary = Summary::of(&session, dir, code, stopped, tally.tally());
            if ui.is_json() {
                // The standard output is the program's.
                ui::json_note(&summary);
            } else {
                ui.note(&summary);
            }
        }
        self.control.close();
        // Once all is said: whoever is told that the run is stopped finds its last line, and the run no more.
        for (given, reply) in stoppers {
            given.answer(reply);
        }
        if !entered {
            return Err(Problem::NeverEntered { program: program.file }.into());
        }
        if let Some(parted) = parted {
            ui.note(parted);
            return Ok(Exit::Diverged);
        }
        Ok(Exit::Child(code))
    }

    /// Where a program that runs again does what it did not do before.
    fn parted(&self) -> Option<&Divergence> {
        self.prepared.expected.as_ref()?.parted()
    }

    /// Whether the trace cannot be written any more, which is said then.
    fn is_broken(&self, ui: &Ui) -> bool {
        let why = self.server.broken();
        if let Some(why) = &why {
            ui.note(format_args!("{why}; everything is refused from now on"));
        }
        why.is_some()
    }

    /// A process that belongs to the supervisor and not to the program.
    fn helper(&self) -> Option<u32> {
        self.supervised.as_ref()?.supervisor.helper()
    }

    /// What the run uses now.
    fn sample(&mut self, limits: &Limits) -> Sampled {
        self.tree.spare(self.helper());
        match self.cgroup.as_ref().filter(|cgroup| cgroup.holds_memory()) {
            // What the kernel counts, since that is what it holds.
            Some(cgroup) => {
                let memory = cgroup.memory().unwrap_or_default();
                Sampled { memory, ..self.tree.sample(None) }
            }
            None => self.tree.sample(limits.memory),
        }
    }

    /// The first limit that is passed.
    fn over(&self, limits: &Limits, sampled: &Sampled) -> Option<Stop> {
        let held = self.cgroup.as_ref().filter(|cgroup| cgroup.holds_memory());
        if let (Some(cgroup), Some(most)) = (held, limits.memory) {
            if cgroup.out_of_memory() > 0 {
                let text = format!("`limits.memory` is {most}, and the program asked for more");
                return Some(Stop { limit: "memory", text });
            }
            return over(&Limits { memory: None, ..*limits }, sampled, self.clock.elapsed());
        }
        over(limits, sampled, self.clock.elapsed())
    }

    /// Ends every process of the run: asks them to for as long as `polite` says, and then makes them. Returns how many
    /// there were, and how many are still there.
    fn end(&mut self, mut polite: impl FnMut(Duration) -> bool) -> (usize, usize) {
        self.tree.spare(self.helper());
        let (supervised, cgroup) = (&self.supervised, &self.cgroup);
        let polite = |elapsed: Duration| {
            let polite = polite(elapsed);
            if !polite && let Some(supervised) = supervised {
                // Nothing is done for it any more: no process can start.
                supervised.supervisor.hold(Duration::ZERO);
            }
            if !polite && let Some(cgroup) = cgroup {
                // At once, those that are just being born too. Where the kernel is too old for it, the tree is walked.
                let _ = cgroup.kill();
            }
            polite
        };
        self.tree.stop(polite, self.frozen.take())
    }

    /// Until the program ends, somebody gives an order, or it is time to look again.
    fn wait(&self, watch: Duration, wall_time: Option<u64>) {
        let left = wall_time.map(|limit| Duration::from_nanos(limit).saturating_sub(self.clock.elapsed()));
        // A limit that is reached while it is paused is none: its time stands still.
        let left = left.filter(|_| self.frozen.is_none());
        let wait = left.map_or(watch, |left| left.min(watch));
        let mut fds = [
            PollFd::new(&self.root, PollFlags::IN),
            PollFd::from_borrowed_fd(self.control.bell(), PollFlags::IN),
        ];
        // Interrupted is as good as woken.
        let _ = poll(&mut fds, Some(&terminal::timeout(wait)));
    }

    fn pause(&mut self, given: Given, ui: &Ui) {
        if self.frozen.is_some() {
            return given.answer(Reply::Done { changed: false });
        }
        // First nothing is done for it any more, so that it cannot start processes while they are held.
        let settled = self.supervised.as_ref().is_none_or(|supervised| supervised.hold(SETTLE));
        self.tree.spare(self.helper());
        match self.tree.freeze(self.cgroup.as_ref()) {
            Ok(frozen) => {
                self.frozen = Some(frozen);
                self.clock.pause();
                self.control.is_now(State::Paused);
                self.server.record(Event::RunPaused { who: given.who.clone() });
                if !settled {
                    let text = "a call that was under way when the run was paused may still come to its end";
                    self.server.record(Event::Notice { text: text.into() });
                }
                ui.note(format_args!("paused by {}", given.who));
                given.answer(Reply::Done { changed: true });
            }
            Err(why) => {
                if let Some(supervised) = &self.supervised {
                    supervised.release();
                }
                let help = "it goes on as it was; `failcore stop` ends it".into();
                given.answer(Reply::No { why: format!("the run cannot be paused: {why}"), help });
            }
        }
    }

    fn resume(&mut self, given: Given, ui: &Ui) {
        let changed = self.go_on(&given, ui);
        given.answer(Reply::Done { changed });
    }

    /// Lets a paused run go on; whether it was one.
    fn go_on(&mut self, given: &Given, ui: &Ui) -> bool {
        let Some(frozen) = self.frozen.take() else { return false };
        self.server.record(Event::RunResumed { who: given.who.clone() });
        self.server.postpone(self.clock.resume());
        self.control.is_now(State::Running);
        ui.note(format_args!("resumed by {}", given.who));
        if let Some(supervised) = &self.supervised {
            supervised.release();
        }
        drop(frozen);
        true
    }

    /// Ends the program and all it started; who is to be told so, and what.
    fn stop(&mut self, given: Given, grace: Duration, ui: &Ui) -> Vec<(Given, Reply)> {
        if !grace.is_zero() {
            // Whoever is to end by itself must be able to.
            self.go_on(&given, ui);
        }
        self.control.is_now(State::Stopping);
        self.server.record(Event::RunStopped { who: given.who.clone() });
        ui.note(format_args!("stopped by {}", given.who));
        let orders = self.control.orders();
        let (mut grace, mut givers) = (grace, vec![given]);
        let (processes, left) = self.end(|elapsed| {
            for given in orders.try_iter() {
                match given.change {
                    // Whoever cannot wait need not.
                    Change::Stop(sooner) => {
                        grace = grace.min(elapsed.saturating_add(sooner));
                        givers.push(given);
                    }
                    _ => given.answer(Reply::No {
                        why: "the run is being stopped".into(),
                        help: "`failcore stop` without a grace ends it at once".into(),
                    }),
                }
            }
            elapsed < grace
        });
        let reply = || match left {
            0 => Reply::Stopped { processes: processes as u64 },
            left => Reply::No {
                why: format!("{} cannot be ended: the kernel does not let go", count(left, "process")),
                help: "what is left waits for a device or a file system that does not answer".into(),
            },
        };
        givers.into_iter().map(|given| (given, reply())).collect()
    }
}

/// What a program that started came with.
struct Begun {
    server: Server,
    control: Control,
    approvals: Arc<Approvals>,
    clock: Arc<Clock>,
    tree: Tree,
    supervised: Option<Supervised>,
    cgroup: Option<Arc<Cgroup>>,
    root: OwnedFd,
}

impl Begun {
    /// Sets the gate up and starts the program; where one of them fails, nothing has run, and the failure comes with
    /// whether the trace was begun.
    fn begin(
        prepared: &Prepared,
        args: &Run,
        ui: &Ui,
        complete: Complete,
        signals: &mut Signals,
    ) -> Result<Self, (Failure, bool)> {
        let Complete { trace, plan, cgroup } = complete;
        let cgroup = cgroup.map(Arc::new);
        let served = Served {
            session: prepared.session.clone(),
            agent: prepared.agent.clone(),
            run: prepared.label.clone(),
            policy: Arc::clone(&prepared.policy),
            supervised: prepared.lane == Lane::Kernel,
        };
        let clock = Arc::new(Clock::start());
        let approvals =
            Arc::new(Approvals::new(&prepared.session, args.patience, Arc::clone(&clock), ui.notes()));
        // The trace is begun beside all that follows, up to the program itself.
        let server = Server::start(&prepared.socket(), served, || trace.begin(), Arc::clone(&approvals) as _)
            .map_err(|error| (Problem::start(error).into(), false))?;
        let mut begin = || {
            let mut tree = Tree::adopt(prepared.policy.limits().write_bytes.is_some())?;
            // Whoever cannot be stopped by its owner does not start.
            let control = Control::open(prepared.about(), Arc::clone(&approvals), server.ledger())?;
            let supervised = match prepared.lane {
                Lane::Runtime => None,
                _ => Some(supervise(prepared, args, &plan, &server, cgroup.clone())?),
            };
            let root = match &supervised {
                None => {
                    server.opened().map_err(Problem::start)?;
                    spawn(prepared, args)?
                }
                Some(supervised) => Pid::from_raw(supervised.supervisor.root().cast_signed()),
            };
            let gone = || Problem::System { what: "watch the program", source: gone() };
            let pid = root.ok_or_else(gone)?;
            tree.watch(pid, supervised.is_none());
            // Not reaped before we do it: the number is still its own.
            let watched = pidfd_open(pid, PidfdFlags::empty())
                .map_err(Problem::system("watch the program"))
                .and_then(|root| signals.forward_to(&root).map(|()| root));
            match watched {
                Ok(root) => Ok((control, tree, root, supervised)),
                Err(problem) => {
                    tree.stop(|_| false, None);
                    Err(problem)
                }
            }
        };
        let begun: Result<_, Problem> = begin();
        // It is on pages that were shared with the guardian when that was made: to give it back they would be copied.
        std::mem::forget(plan);
        let (control, tree, root, supervised) = match begun {
            Ok(begun) => begun,
            Err(problem) => {
                let trace = server.finish();
                let begun = trace.is_some();
                drop(trace.map(|writer| writer.close(None)));
                return Err((problem.into(), begun));
            }
        };
        let program = supervised.as_ref().map(|supervised| supervised.supervisor.agent().cast_signed());
        if let Some(program) = program.and_then(Pid::from_raw) {
            approvals.shared_with(program);
        }
        Ok(Self { server, control, approvals, clock, tree, supervised, cgroup, root })
    }
}

/// Starts the program in the runtime lane: a child of ours like any other.
fn spawn(prepared: &Prepared, args: &Run) -> Result<Option<Pid>, Problem> {
    let program = &prepared.program;
    let mut command = Command::new(&program.file);
    command.args(&program.args).env_clear().envs(prepared.environment());
    if prepared.stdin_null(args) {
        command.stdin(Stdio::null());
    }
    if let Some(dir) = &args.cwd {
        command.current_dir(dir);
    }
    match command.spawn() {
        Ok(child) => Ok(Some(Pid::from_child(&child))),
        Err(source) => Err(Problem::Spawn { program: program.file.clone(), source }),
    }
}

/// Starts the program in the kernel lane, under a supervisor that decides by the run's policy and records in its
/// trace.
fn supervise(
    prepared: &Prepared,
    args: &Run,
    plan: &Plan,
    server: &Server,
    cgroup: Option<Arc<Cgroup>>,
) -> Result<Supervised, Problem> {
    let pins = Arc::new(Pins::new().with_hosts(Hosts::system()));
    let sink: Arc<dyn Sink> = match &prepared.expected {
        Some(expected) => Arc::new(Matching { trace: server.sink(), expected: Arc::clone(expected) }),
        None => server.sink(),
    };
    let recorder = match &prepared.keeping {
        Some(keeping) => {
            let recorder = Store::create(prepared.trace())
                .and_then(|store| Recorder::start(store, server.sink(), keeping.clone()))
                .map_err(|source| Problem::Unkept { source })?;
            Some(Arc::new(recorder))
        }
        None => None,
    };
    let gate = Gate::builder(Arc::clone(&prepared.policy), sink, Lane::Kernel)
        .names(Arc::clone(&pins) as _)
        .meter(server.meter())
        .approver(server.approver())
        .identity(prepared.agent.clone(), prepared.label.clone())
        .build();
    let gate = Arc::new(gate);
    let resolver = match prepared.policy.upstream() {
        [] => Resolver::system(pins),
        servers => {
            let help = "name servers over TLS prove who they are by the machine's certificate authorities";
            let upstream =
                Upstream::new(servers).map_err(|error| Problem::Upstream { why: error.to_string(), help })?;
            Resolver::asking(pins, upstream)
        }
    };
    let broker = BrokerServer::start(Arc::clone(&gate), resolver)
        .map_err(|source| Problem::System { what: "serve host names", source })?;
    let launch = Launch {
        program: prepared.program.file.clone().into(),
        args: prepared.program.args.clone(),
        env: prepared.environment(),
        cwd: prepared.cwd.clone(),
        stdin_null: prepared.stdin_null(args),
        private_memory: match &cgroup {
            Some(cgroup) if cgroup.holds_memory() => None,
            _ => prepared.policy.limits().memory.map(|most| most.saturating_mul(ASKED)),
        },
        cgroup,
    };
    let relay = match &prepared.means {
        Some(means) => Some(
            RelayServer::start(Arc::clone(&gate), Arc::clone(&means.setup))
                .map_err(|source| Problem::System { what: "carry connections", source })?,
        ),
        None => None,
    };
    let parent = Parent {
        gate,
        door: Some(server.door()),
        broker: Some(broker.broker()),
        relay: relay.as_ref().map(RelayServer::relay),
        witness: match (&recorder, &prepared.replayed) {
            (Some(recorder), _) => Some(Arc::clone(recorder) as Arc<dyn Witness>),
            (None, Some(replayed)) => Some(Arc::clone(replayed) as Arc<dyn Witness>),
            (None, None) => None,
        },
    };
    let mut unopened = None;
    let ready = || server.opened().map_err(|error| unopened = Some(error)).is_ok();
    let supervisor = Supervisor::start(&launch, plan, parent, ready);
    if let Some(error) = unopened {
        return Err(Problem::start(error));
    }
    let supervisor = supervisor.map_err(Problem::supervisor)?;
    Ok(Supervised { supervisor, broker, relay, recorder })
}

/// Where a run that is run again does something else, for its owner.
struct Parted<'a>(&'a Divergence);

impl fmt::Display for Parted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Divergence { scope, site, nearest, .. } = self.0;
        write!(f, "diverged: {}", self.0)?;
        if let [.., tool] = &scope[..] {
            write!(f, ", in the tool `{tool}`")?;
        }
        if let Some(site) = site {
            write!(f, ", at {}", ui::place(site))?;
        }
        if let Some(nearest) = nearest {
            write!(f, "; most like it is {nearest}")?;
        }
        write!(f, "; nothing of it was done")
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// The first limit that is passed.
fn over(limits: &Limits, sampled: &Sampled, elapsed: Duration) -> Option<Stop> {
    let wall = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    let checks = [
        ("wall_time", limits.wall_time, wall),
        ("memory", limits.memory, sampled.memory),
        ("processes", limits.processes, sampled.processes),
        ("write_bytes", limits.write_bytes, sampled.write_bytes),
    ];
    checks.into_iter().find_map(|(limit, most, used)| {
        let most = most.filter(|most| used > *most)?;
        let text = match limit {
            "wall_time" => format!("the {} of `limits.wall_time` are over", seconds(most)),
            _ => format!("`limits.{limit}` is {most}, and the program is at {used}"),
        };
        Some(Stop { limit, text })
    })
}

fn seconds(nanoseconds: u64) -> String {
    format!("{} s", Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// Text of an argument or name as the trace keeps it.
fn text(of: &std::ffi::OsStr) -> Text {
    Text::from(of.as_encoded_bytes())
}

/// A file system failure on the way.
fn io_problem(verb: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Problem {
    let path = path.to_owned();
    move |error| Problem::io(verb, &path, error)
}
