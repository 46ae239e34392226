//! `failcore run`: starts a program under a policy and stays beside it until everything it started has ended.

mod approve;
mod lane;
mod prepare;
mod signals;
mod summary;
mod tree;

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use failcore_gate::Gate;
use failcore_kernel::{Cgroup, Launch, Parent, Plan, Sampled, Served, Server, Supervisor};
use failcore_model::{Event, Lane, Text};
use failcore_net::{Broker, Hosts, Pins, Resolver};
use failcore_policy::Limits;
use failcore_trace::Writer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::args::Run;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::ui::{self, Ui, count};

use prepare::Prepared;
use signals::Signals;
use summary::Summary;
use tree::Tree;

/// How often the tree is measured where a limit depends on it, and where it is near its limit on memory.
const CLOSE_WATCH: Duration = Duration::from_millis(100);
const CLOSEST_WATCH: Duration = Duration::from_millis(20);
/// How often orphans are collected where none does.
const LOOSE_WATCH: Duration = Duration::from_millis(500);
/// How much private memory one process may ask for, in limits of the run, where memory is only measured: more than it
/// will touch, and still no way to outrun the measuring by far.
const ASKED: u64 = 4;

/// Runs the program; its exit code passes through.
pub(crate) fn run(args: &Run, ui: &mut Ui) -> Result<Exit, Failure> {
    failcore_kernel::close_on_exec()
        .map_err(|source| Problem::System { what: "keep open files from the program", source })
        .map_err(|problem| Failure::from(problem).before_start())?;
    let prepared = Prepared::new(args, ui).map_err(Failure::before_start)?;
    let started = Started::start(prepared, args).map_err(Failure::before_start)?;
    let (exit, summary) = started.attend(ui)?;
    if ui.is_json() {
        // The standard output is the program's.
        ui::json_note(&summary);
    } else {
        ui.note(&summary);
    }
    Ok(exit)
}

/// A program under way.
struct Started {
    prepared: Prepared,
    server: Server,
    signals: Signals,
    tree: Tree,
    /// In the kernel lane.
    supervised: Option<Supervised>,
    /// In the kernel lane, where this machine lets us have one.
    cgroup: Option<Arc<Cgroup>>,
    /// Whose end is the run's: the program, or the guardian that ends as it does.
    root: OwnedFd,
    since: Instant,
}

/// What holds the program in the kernel lane.
struct Supervised {
    supervisor: Supervisor,
    /// Answers for as long as anybody may ask.
    _broker: Broker,
}

/// Why a run was stopped before its program ended.
struct Stop {
    limit: &'static str,
    text: String,
}

impl Started {
    fn start(mut prepared: Prepared, args: &Run) -> Result<Self, Failure> {
        // Before anything is written: a file size limit is a signal otherwise.
        let mut signals = Signals::catch()?;
        let (writer, plan, cgroup) = prepared.open_trace()?;
        match Begun::begin(&prepared, args, writer, &plan, cgroup, &mut signals) {
            Ok(Begun { server, tree, supervised, cgroup, root, since }) => {
                Ok(Self { prepared, server, signals, tree, supervised, cgroup, root, since })
            }
            Err(failure) => {
                prepared.discard_trace();
                Err(failure)
            }
        }
    }

    /// Stays with the program until it and all it started have ended.
    fn attend(mut self, ui: &Ui) -> Result<(Exit, Summary), Failure> {
        let limits = *self.prepared.policy.limits();
        let measured = [limits.memory, limits.processes, limits.write_bytes].iter().any(Option::is_some);
        let (mut stopped, mut broken) = (None, false);
        let mut watch = if measured { CLOSE_WATCH } else { LOOSE_WATCH };
        while self.tree.ended().is_none() {
            self.wait(watch, limits.wall_time);
            let sampled = self.sample(&limits);
            if limits.memory.is_some_and(|most| sampled.memory > most / 2) {
                watch = CLOSEST_WATCH;
            }
            self.server.sample(sampled);
            if let Some(stop) = self.over(&limits, &sampled) {
                ui.note(format_args!("stopped: {}", stop.text));
                self.server.record(Event::Notice { text: format!("stopped: {}", stop.text) });
                self.end_all();
                stopped = Some(stop.limit);
            }
            if !broken && let Some(why) = self.server.broken() {
                ui.note(format_args!("{why}; everything is refused from now on"));
                broken = true;
            }
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
        self.tree.spare(self.helper());
        let left = self.tree.stop(true);
        if left > 0 {
            let text = format!("{} left behind by the program, stopped", count(left, "process"));
            ui.note(&text);
            self.server.record(Event::Notice { text });
        }
        if let Some(supervised) = self.supervised.take() {
            for text in supervised.supervisor.lacked() {
                ui.note(text);
            }
            supervised.supervisor.finish();
        }
        self.signals.release();
        let code = self.tree.ended().map_or(u8::MAX, tree::code);
        let writer = self.server.finish();
        let entered = writer.records() > 1;
        let dir = writer.dir().to_owned();
        writer.close(Some(code.into())).map_err(Problem::trace)?;
        if !entered {
            return Err(Problem::NeverEntered { program: self.prepared.program.file }.into());
        }
        Ok((Exit::Child(code), Summary::of(&self.prepared.session, dir, code, stopped)?))
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
            return over(&Limits { memory: None, ..*limits }, sampled, self.since.elapsed());
        }
        over(limits, sampled, self.since.elapsed())
    }

    /// Ends every process of the run at once.
    fn end_all(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            // Where the kernel is too old for this, the tree is walked.
            let _ = cgroup.kill();
        }
        self.tree.stop(false);
    }

    /// Until the program ends, or it is time to look again.
    fn wait(&self, watch: Duration, wall_time: Option<u64>) {
        let left = wall_time.map(|limit| Duration::from_nanos(limit).saturating_sub(self.since.elapsed()));
        let wait = left.map_or(watch, |left| left.min(watch));
        let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        // Interrupted is as good as woken.
        let _ = poll(&mut [PollFd::new(&self.root, PollFlags::IN)], Some(&timeout));
    }
}

/// What a program that started came with.
struct Begun {
    server: Server,
    tree: Tree,
    supervised: Option<Supervised>,
    cgroup: Option<Arc<Cgroup>>,
    root: OwnedFd,
    since: Instant,
}

impl Begun {
    /// Sets the gate up and starts the program; where one of them fails, nothing has run.
    fn begin(
        prepared: &Prepared,
        args: &Run,
        writer: Writer,
        plan: &Plan,
        cgroup: Option<Cgroup>,
        signals: &mut Signals,
    ) -> Result<Self, Failure> {
        let cgroup = cgroup.map(Arc::new);
        let served = Served {
            session: prepared.session.clone(),
            agent: prepared.agent.clone(),
            run: prepared.label.clone(),
            policy: prepared.policy.resolved().to_owned(),
            supervised: prepared.lane == Lane::Kernel,
        };
        let terminal = Arc::new(approve::Terminal::new());
        let server = Server::start(&prepared.socket(), served, writer, Arc::clone(&terminal) as _)
            .map_err(Problem::start)?;
        let mut tree = Tree::adopt()?;
        let since = Instant::now();
        let begun = match prepared.lane {
            Lane::Runtime => spawn(prepared, args).map(|pid| (pid, None)),
            _ => supervise(prepared, args, plan, &server, cgroup.clone()).map(|supervised| {
                (Pid::from_raw(supervised.supervisor.root().cast_signed()), Some(supervised))
            }),
        };
        let (pid, supervised) = match begun {
            Ok((Some(pid), supervised)) => (pid, supervised),
            Ok((None, _)) => return Err(Problem::System { what: "watch the program", source: gone() }.into()),
            Err(problem) => {
                drop(server.finish().close(None));
                return Err(problem.into());
            }
        };
        let program = supervised.as_ref().map(|supervised| supervised.supervisor.agent().cast_signed());
        if let Some(program) = program.and_then(Pid::from_raw) {
            terminal.shared_with(program);
        }
        tree.watch(pid, supervised.is_none());
        // Not reaped before we do it: the number is still its own.
        let watched = pidfd_open(pid, PidfdFlags::empty())
            .map_err(Problem::system("watch the program"))
            .and_then(|root| signals.forward_to(&root).map(|()| root));
        match watched {
            Ok(root) => Ok(Self { server, tree, supervised, cgroup, root, since }),
            Err(problem) => {
                tree.stop(false);
                Err(problem.into())
            }
        }
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
    let gate = Gate::builder(Arc::new(prepared.policy.clone()), server.sink(), Lane::Kernel)
        .names(Arc::clone(&pins) as _)
        .meter(server.meter())
        .approver(server.approver())
        .identity(prepared.agent.clone(), prepared.label.clone())
        .build();
    let gate = Arc::new(gate);
    let broker = Broker::start(Arc::clone(&gate), Resolver::system(pins))
        .map_err(|source| Problem::System { what: "serve host names", source })?;
    let launch = Launch {
        program: prepared.program.file.clone().into(),
        args: prepared.program.args.clone(),
        env: prepared.environment(),
        cwd: args.cwd.clone(),
        stdin_null: prepared.stdin_null(args),
        private_memory: match &cgroup {
            Some(cgroup) if cgroup.holds_memory() => None,
            _ => prepared.policy.limits().memory.map(|most| most.saturating_mul(ASKED)),
        },
        cgroup,
    };
    let parent = Parent { gate, door: Some(server.door()), carrier: Some(broker.carrier()) };
    let supervisor = Supervisor::start(&launch, plan, parent).map_err(Problem::supervisor)?;
    Ok(Supervised { supervisor, _broker: broker })
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
