//! Setting the gate up and starting a program behind it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use failcore_gate::expected::Matching;
use failcore_gate::{Gate, Sink, Witness};
use failcore_kernel::{Cgroup, Launch, Parent, Plan, Served, Server, Supervisor};
use failcore_model::Lane;
use failcore_net::{BrokerServer, Hosts, Pins, Resolver, Upstream};
use failcore_record::{Recorder, Store};
use failcore_relay::RelayServer;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::approvals::Approvals;
use super::clock::Clock;
use super::control::Control;
use super::prepare::{Complete, Prepared};
use super::signals::Signals;
use super::stdin::{self, Kind};
use super::tree::Tree;
use crate::args::Run;
use crate::failure::{Failure, Problem};
use crate::ui::Ui;

/// How much private memory one process may ask for, in limits of the run, where memory is only measured: more than it
/// will touch, and still no way to outrun the measuring by far.
const ASKED: u64 = 4;

/// What holds the program in the kernel lane.
pub(super) struct Supervised {
    pub(super) supervisor: Supervisor,
    /// Answers for as long as anybody may ask.
    pub(super) broker: BrokerServer,
    /// Where connections are carried.
    pub(super) relay: Option<RelayServer>,
    /// Where what the program learns is kept.
    pub(super) recorder: Option<Arc<Recorder>>,
}

impl Supervised {
    /// Does nothing for the program any more, and lets nothing through to it; whether all of that came to rest in time.
    pub(super) fn hold(&self, patience: Duration) -> bool {
        let settled = self.supervisor.hold(patience);
        self.relay.as_ref().is_none_or(|relay| relay.pause(patience)) && settled
    }

    pub(super) fn release(&self) {
        if let Some(relay) = &self.relay {
            relay.resume();
        }
        self.supervisor.release();
    }
}

/// What a program that started came with.
pub(super) struct Begun {
    pub(super) server: Server,
    pub(super) control: Control,
    pub(super) approvals: Arc<Approvals>,
    pub(super) clock: Arc<Clock>,
    pub(super) tree: Tree,
    pub(super) supervised: Option<Supervised>,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    pub(super) root: OwnedFd,
}

impl Begun {
    /// Sets the gate up and starts the program; where one of them fails, nothing has run, and the failure comes with
    /// whether the trace was begun.
    pub(super) fn begin(
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
            let gone =
                || Problem::System { what: "watch the program", source: io::ErrorKind::NotFound.into() };
            let pid = root.ok_or_else(gone)?;
            tree.watch(pid, supervised.is_none());
            // Not reaped before we do it: the number is still its own.
            let watched = pidfd_open(pid, PidfdFlags::empty())
                .map_err(Problem::system("watch the program"))
                .and_then(|root| signals.forward_to(&root).map(|()| root));
            match watched {
                Ok(root) => Ok((control, tree, root, supervised)),
                Err(problem) => {
                    tree.stop(|_| false, None, cgroup.as_deref());
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
    if let Some(dir) = &prepared.cwd {
        command.current_dir(dir);
    }
    match command.spawn() {
        Ok(child) => Ok(Some(Pid::from_child(&child))),
        Err(source) => Err(Problem::Spawn { program: program.file.clone(), source }),
    }
}

/// The program's standard input; `None` where that is ours.
fn stdin_of(
    prepared: &Prepared,
    args: &Run,
    recorder: Option<&Arc<Recorder>>,
) -> io::Result<Option<Arc<OwnedFd>>> {
    let stdin = match (&prepared.given, recorder) {
        (Some(given), _) => Some(stdin::again(given)?),
        (None, _) if prepared.stdin_null(args) => Some(File::open("/dev/null")?.into()),
        (None, Some(recorder)) => Kind::of_ours().record(recorder)?,
        (None, None) => None,
    };
    Ok(stdin.map(Arc::new))
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
    let witness = match (&recorder, &prepared.replayed) {
        (Some(recorder), _) => Some(Arc::clone(recorder) as Arc<dyn Witness>),
        (None, Some(replayed)) => Some(Arc::clone(replayed) as Arc<dyn Witness>),
        (None, None) => None,
    };
    let resolver = match prepared.policy.upstream() {
        servers if servers.is_empty() || prepared.replayed.is_some() => Resolver::system(pins),
        servers => {
            let help = "name servers over TLS prove who they are by the machine's certificate authorities";
            let upstream =
                Upstream::new(servers).map_err(|error| Problem::Upstream { why: error.to_string(), help })?;
            Resolver::asking(pins, upstream)
        }
    };
    let broker = BrokerServer::start(Arc::clone(&gate), resolver.witnessed(witness.clone()))
        .map_err(|source| Problem::System { what: "serve host names", source })?;
    let stdin = stdin_of(prepared, args, recorder.as_ref())
        .map_err(|source| Problem::System { what: "see to the standard input", source })?;
    let launch = Launch {
        program: prepared.program.file.clone().into(),
        args: prepared.program.args.clone(),
        env: prepared.environment(),
        cwd: prepared.cwd.clone(),
        stdin,
        private_memory: match &cgroup {
            Some(cgroup) if cgroup.holds_memory() => None,
            _ => prepared.policy.limits().memory.map(|most| most.saturating_mul(ASKED)),
        },
        cgroup,
    };
    let relay = match &prepared.means {
        Some(means) => Some(
            RelayServer::start(Arc::clone(&gate), Arc::clone(&means.setup), witness.clone())
                .map_err(|source| Problem::System { what: "carry connections", source })?,
        ),
        None => None,
    };
    let parent = Parent {
        gate,
        door: Some(server.door()),
        broker: Some(broker.broker()),
        relay: relay.as_ref().map(RelayServer::relay),
        witness,
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
