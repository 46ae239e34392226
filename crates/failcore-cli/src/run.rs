//! `failcore run`: starts a program under a policy and stays beside it until everything it started has ended.

mod approve;
mod prepare;
mod signals;
mod summary;
mod tree;

use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use failcore_kernel::{HOOK_VAR, SOCKET_VAR, Sampled, Served, Server};
use failcore_model::{Event, Text};
use failcore_policy::Limits;
use failcore_trace::Writer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::args::{LaneChoice, Run};
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::ui::{self, Ui, count};

use prepare::Prepared;
use signals::Signals;
use summary::Summary;
use tree::Tree;

/// How often the tree is measured where a limit depends on it.
const CLOSE_WATCH: Duration = Duration::from_millis(100);
/// How often orphans are collected where none does.
const LOOSE_WATCH: Duration = Duration::from_millis(500);

/// Runs the program; its exit code passes through.
pub(crate) fn run(args: &Run, ui: &mut Ui) -> Result<Exit, Failure> {
    if args.lane == LaneChoice::Auto {
        ui.note(
            "lane `auto` is `runtime` for now: it holds Python code; native code in the same process can go round it",
        );
    }
    let prepared = Prepared::new(args, ui).map_err(Failure::before_start)?;
    let started = Started::start(prepared).map_err(Failure::before_start)?;
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
    root: OwnedFd,
    since: Instant,
}

/// Why a run was stopped before its program ended.
struct Stop {
    limit: &'static str,
    text: String,
}

impl Started {
    fn start(mut prepared: Prepared) -> Result<Self, Failure> {
        // Before anything is written: a file size limit is a signal otherwise.
        let mut signals = Signals::catch()?;
        let writer = prepared.open_trace()?;
        match Self::begin(&prepared, writer, &mut signals) {
            Ok((server, tree, root, since)) => Ok(Self { prepared, server, signals, tree, root, since }),
            Err(failure) => {
                prepared.discard_trace();
                Err(failure)
            }
        }
    }

    /// Sets the gate up and starts the program; where one of them fails, nothing has run.
    fn begin(
        prepared: &Prepared,
        writer: Writer,
        signals: &mut Signals,
    ) -> Result<(Server, Tree, OwnedFd, Instant), Failure> {
        let served = Served {
            session: prepared.session.clone(),
            agent: prepared.agent.clone(),
            run: prepared.label.clone(),
            policy: prepared.policy.resolved().to_owned(),
        };
        let server = Server::start(&prepared.socket(), served, writer, Arc::new(approve::Terminal::new()))
            .map_err(Problem::start)?;
        let mut tree = Tree::adopt()?;
        let mut command = Command::new(&prepared.program.interpreter);
        command.args(&prepared.program.args).env_clear().envs(prepared.environment());
        command.env(SOCKET_VAR, prepared.socket()).env(HOOK_VAR, &prepared.hook);
        let since = Instant::now();
        let started = command
            .spawn()
            .map_err(|source| Problem::Spawn { program: prepared.program.interpreter.clone(), source });
        let child = match started {
            Ok(child) => child,
            Err(problem) => {
                drop(server.finish().close(None));
                return Err(problem.into());
            }
        };
        let pid = Pid::from_child(&child);
        tree.watch(pid);
        // Not reaped before we do it: the number is still its own.
        let watched = pidfd_open(pid, PidfdFlags::empty())
            .map_err(Problem::system("watch the program"))
            .and_then(|root| signals.forward_to(&root).map(|()| root));
        match watched {
            Ok(root) => Ok((server, tree, root, since)),
            Err(problem) => {
                tree.stop(false);
                Err(problem.into())
            }
        }
    }

    /// Stays with the program until it and all it started have ended.
    fn attend(mut self, ui: &Ui) -> Result<(Exit, Summary), Failure> {
        let limits = *self.prepared.policy.limits();
        let measured = [limits.memory, limits.processes, limits.write_bytes].iter().any(Option::is_some);
        let (mut stopped, mut broken) = (None, false);
        while self.tree.ended().is_none() {
            self.wait(if measured { CLOSE_WATCH } else { LOOSE_WATCH }, limits.wall_time);
            let sampled = self.tree.sample(limits.memory);
            self.server.sample(sampled);
            if let Some(stop) = over(&limits, &sampled, self.since.elapsed()) {
                ui.note(format_args!("stopped: {}", stop.text));
                self.server.record(Event::Notice { text: format!("stopped: {}", stop.text) });
                self.tree.stop(false);
                stopped = Some(stop.limit);
            }
            if !broken && let Some(why) = self.server.broken() {
                ui.note(format_args!("{why}; everything is refused from now on"));
                broken = true;
            }
        }
        let left = self.tree.stop(true);
        if left > 0 {
            let text = format!("{} left behind by the program, stopped", count(left, "process"));
            ui.note(&text);
            self.server.record(Event::Notice { text });
        }
        self.signals.release();
        let code = self.tree.ended().map_or(u8::MAX, tree::code);
        let writer = self.server.finish();
        let entered = writer.records() > 1;
        let dir = writer.dir().to_owned();
        writer.close(Some(code.into())).map_err(Problem::trace)?;
        if !entered {
            return Err(Problem::NeverEntered { program: self.prepared.program.interpreter }.into());
        }
        Ok((Exit::Child(code), Summary::of(&self.prepared.session, dir, code, stopped)?))
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
