//! `failcore run`: starts a program under a policy and stays beside it until everything it started has ended.

mod approvals;
mod begin;
mod carried;
mod clock;
mod control;
mod freeze;
mod lane;
mod prepare;
mod signals;
mod stdin;
mod summary;
mod terminal;
mod tree;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use failcore_gate::expected::{Differs, Divergence};
use failcore_kernel::{Cgroup, Sampled, Server};
use failcore_model::{Event, Text};
use failcore_policy::Limits;
use rustix::event::{PollFd, PollFlags, poll};

use crate::args::Run;
use crate::control::{Reply, State};
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::ui::{self, Ui, count};

use approvals::Approvals;
use begin::{Begun, Supervised};
pub(crate) use carried::Owners;
use clock::Clock;
use control::{Change, Control, Given};
use freeze::Frozen;
use prepare::Prepared;
pub(crate) use prepare::{Again, os};
use signals::Signals;
use summary::Summary;
use tree::{GRACE, Tree};

/// How often the tree is measured where a limit depends on it, and where it is near its limit on memory.
const CLOSE_WATCH: Duration = Duration::from_millis(100);
const CLOSEST_WATCH: Duration = Duration::from_millis(20);
/// How often orphans are collected where none does.
const LOOSE_WATCH: Duration = Duration::from_millis(500);
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
        if self.prepared.program.is_python {
            self.server.expect();
        }
        let limits = *self.prepared.policy.limits();
        let measured = [limits.memory, limits.processes, limits.write_bytes].iter().any(Option::is_some);
        let (mut stopped, mut broken, mut stoppers) = (None, false, Vec::new());
        let mut watch = if measured { CLOSE_WATCH } else { LOOSE_WATCH };
        if self.prepared.expected.is_some() {
            watch = CLOSEST_WATCH;
        } else if self.prepared.keeping.is_some() {
            watch = CLOSE_WATCH;
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
        let (mut broker, mut unheard) = (None, Vec::new());
        if let Some(Supervised { supervisor, broker: names, relay, recorder }) = self.supervised.take() {
            for text in supervisor.lacked() {
                ui.note(text);
            }
            unheard = supervisor.unheard();
            supervisor.finish();
            // What is still said is kept as it ends.
            drop(relay);
            if let Some(Err(why)) = recorder.map(|recorder| recorder.finish()) {
                ui.note(format_args!("the recording is not whole, and cannot be run again: {why}"));
                self.server.record(Event::RecordingBroken { text: why });
            }
            if let Some(replayed) = &self.prepared.replayed {
                self.server.record(Event::Notice { text: replayed.summary() });
            }
            broker = Some(names);
        }
        let reached = self.parted().is_some_and(|parted| matches!(parted.differs, Differs::Reached(_)));
        let mut parted = self.parted().map(|divergence| Parted(divergence).to_string());
        if let Some(text) = parted.clone() {
            self.server.record(Event::Notice { text });
        }
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
        for text in unheard {
            ui.note(text);
        }
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
            return Ok(if reached { Exit::Success } else { Exit::Diverged });
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
        let recorder = self.supervised.as_ref().and_then(|supervised| supervised.recorder.as_ref());
        if let Some(full) = recorder.and_then(|recorder| recorder.full()) {
            return Some(Stop { limit: "record", text: full.to_owned() });
        }
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
        let supervised = &self.supervised;
        let polite = |elapsed: Duration| {
            let polite = polite(elapsed);
            if !polite && let Some(supervised) = supervised {
                // Nothing is done for it any more: no process can start.
                supervised.supervisor.hold(Duration::ZERO);
            }
            polite
        };
        self.tree.stop(polite, self.frozen.take(), self.cgroup.as_deref())
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

/// Where a run that is run again does something else, for its owner.
struct Parted<'a>(&'a Divergence);

impl fmt::Display for Parted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Divergence { scope, site, nearest, differs, .. } = self.0;
        let what = if matches!(differs, Differs::Reached(_)) { "stopped" } else { "diverged" };
        write!(f, "{what}: {}", self.0)?;
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
