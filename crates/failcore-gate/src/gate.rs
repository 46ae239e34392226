//! The one flow: complete, decide, record, grant.

use std::cell::Cell;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use failcore_model::{
    Action, Answer, Claims, Context, Counters, Decision, Denial, Endpoint, Event, Fault, Lane, Obligation,
    Outcome, Reason, Request, Subject, Text, Timestamp,
};
use failcore_policy::{Limits, Mode, PolicySet};
use smallvec::SmallVec;

use crate::ports::{Approver, Meter, Names, NoNames, Nobody, Sink, Uncounted};

/// A reference monitor for the operations of one process.
pub struct Gate {
    policy: Arc<PolicySet>,
    sink: Arc<dyn Sink>,
    lane: Lane,
    names: Arc<dyn Names>,
    meter: Arc<dyn Meter>,
    approver: Arc<dyn Approver>,
    site: fn() -> Option<Text>,
    subject: Subject,
    ops: AtomicU64,
}

/// Proof that an operation was decided, recorded and allowed, carrying the very action that was judged.
///
/// Only a [`Gate`] makes one: functions that act for the agent take it and nothing from the agent's memory.
///
/// ```compile_fail,E0451
/// let action = failcore_model::Action::KernelCall("mount".into());
/// let forged = failcore_gate::Grant { action, op: 0 };
/// ```
#[derive(Debug)]
#[must_use = "a grant is for performing the action, or for concluding it"]
pub struct Grant {
    action: Action,
    op: u64,
    pid: u32,
}

/// Who attempts an operation, where the gate is not in the attempting process.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The image the process runs.
    pub exe: Text,
}

impl Grant {
    /// The action that was judged.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// Its number within the process, which the trace's records share.
    pub fn op(&self) -> u64 {
        self.op
    }
}

/// Puts a gate together.
pub struct Builder {
    gate: Gate,
}

impl Builder {
    /// Takes pinned names from `names`; without it no name is ever pinned.
    pub fn names(mut self, names: Arc<dyn Names>) -> Self {
        self.gate.names = names;
        self
    }

    /// Takes counters from `meter`; without it nothing is counted.
    pub fn meter(mut self, meter: Arc<dyn Meter>) -> Self {
        self.gate.meter = meter;
        self
    }

    /// Asks `approver`; without it nobody approves.
    pub fn approver(mut self, approver: Arc<dyn Approver>) -> Self {
        self.gate.approver = approver;
        self
    }

    /// Asks `site` where in the program the calling thread is, for every record but those of allowed reads: programs
    /// read all the time, and finding the place costs more than deciding. Without it no record names a call site.
    pub fn site(mut self, site: fn() -> Option<Text>) -> Self {
        self.gate.site = site;
        self
    }

    /// Names the agent and the caller's own label of the run.
    pub fn identity(mut self, agent: Option<Text>, run: Option<Text>) -> Self {
        self.gate.subject.agent = agent;
        self.gate.subject.run = run;
        self
    }

    /// The finished gate.
    pub fn build(self) -> Gate {
        self.gate
    }
}

/// A request with its decision, not recorded yet.
struct Weighed {
    request: Box<Request>,
    decision: Decision,
    /// How long deciding took.
    ns: u64,
}

/// A decision on its way through the trace.
struct Kept {
    op: u64,
    request: Box<Request>,
    decision: Decision,
    /// Whether it is recorded.
    written: bool,
}

impl Gate {
    /// Starts a gate for the calling process; one made before a fork is not for the child.
    pub fn builder(policy: Arc<PolicySet>, sink: Arc<dyn Sink>, lane: Lane) -> Builder {
        let exe = std::env::current_exe()
            .map(|exe| Text::from(exe.as_os_str().as_encoded_bytes()))
            .unwrap_or_default();
        let subject = Subject { pid: std::process::id(), exe, ..Subject::default() };
        Builder {
            gate: Gate {
                policy,
                sink,
                lane,
                names: Arc::new(NoNames),
                meter: Arc::new(Uncounted),
                approver: Arc::new(Nobody),
                site: || None,
                subject,
                ops: AtomicU64::new(0),
            },
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> &Arc<PolicySet> {
        &self.policy
    }

    /// Decides an operation, records the decision, and grants or refuses it.
    ///
    /// `claims` is what the agent's process says of itself; `addresses` what the host of the action resolved to,
    /// where the enforcement point knows. An approval is waited for here.
    ///
    /// # Errors
    /// A [`Denial`] where the policy refuses it, a person does, the record cannot be written, or anything inside
    /// fails: there is no other way out than a grant.
    pub fn check(&self, action: Action, claims: Claims, addresses: &[IpAddr]) -> Result<Grant, Denial> {
        let tid = thread_id(self.subject.pid);
        let subject = Subject { tid, claimed: claims, ..self.subject.clone() };
        self.check_subject(subject, action, addresses)
    }

    /// As [`Gate::check`], for another process: the gate of a supervisor.
    ///
    /// # Errors
    /// As [`Gate::check`].
    pub fn check_for(
        &self,
        actor: Actor,
        action: Action,
        claims: Claims,
        addresses: &[IpAddr],
    ) -> Result<Grant, Denial> {
        let Actor { pid, tid, exe } = actor;
        let (agent, run) = (self.subject.agent.clone(), self.subject.run.clone());
        self.check_subject(Subject { pid, tid, exe, agent, run, claimed: claims }, action, addresses)
    }

    /// Decides an operation that a supervisor will see, decide and record when it happens.
    ///
    /// Only a refusal that is certain already is made here, and recorded: what depends on counters, on names that
    /// somebody else resolved, or on a person, is left to the supervisor.
    ///
    /// # Errors
    /// A [`Denial`], as [`Gate::check`].
    pub fn check_ahead(&self, action: Action, claims: Claims, addresses: &[IpAddr]) -> Result<(), Denial> {
        let tid = thread_id(self.subject.pid);
        let subject = Subject { tid, claimed: claims, ..self.subject.clone() };
        let foreseen = catch_unwind(AssertUnwindSafe(|| {
            let weighed = self.weigh(subject, action.clone(), addresses);
            self.release(&action);
            let Weighed { request, decision, .. } = &weighed;
            if decision.is_allow()
                || !self.enforces(decision)
                || !is_certain(&request.action, decision.reason)
            {
                return Ok(());
            }
            // Refused whether or not it can be written.
            let kept = self.keep(weighed, true);
            Err(self.policy.denial(&kept.request, &kept.decision))
        }));
        foreseen.unwrap_or_else(|_| Err(self.broken(&action)))
    }

    /// Whether a decision takes effect, rather than being recorded only.
    fn enforces(&self, decision: &Decision) -> bool {
        decision.is_allow()
            || self.policy.mode() == Mode::Enforce
            || matches!(decision.reason, Reason::Always | Reason::Fault)
    }

    fn check_subject(&self, subject: Subject, action: Action, addresses: &[IpAddr]) -> Result<Grant, Denial> {
        // The ports may be foreign code; whatever panics in them or in `decide`, the answer is a denial.
        match catch_unwind(AssertUnwindSafe(|| self.judge(subject, action.clone(), addresses))) {
            Ok(answer) => answer,
            Err(_) => Err(self.broken(&action)),
        }
    }

    fn judge(&self, subject: Subject, action: Action, addresses: &[IpAddr]) -> Result<Grant, Denial> {
        let weighed = self.weigh(subject, action, addresses);
        let enforced = self.enforces(&weighed.decision);
        let refused = !weighed.decision.is_allow() && enforced;
        let Kept { op, request, decision, written } = self.keep(weighed, enforced);
        let refusal = if refused {
            Some(self.policy.denial(&request, &decision))
        } else if !written {
            Some(self.unwritable(&request))
        } else if decision.obligations.contains(&Obligation::Approve) {
            self.approve(op, &request).err()
        } else {
            None
        };
        let Request { action, subject, .. } = *request;
        match refusal {
            None => Ok(Grant { action, op, pid: subject.pid }),
            Some(denial) => {
                self.release(&action);
                Err(denial)
            }
        }
    }

    /// Takes back what was counted for an operation that does not happen, or that somebody else counts.
    fn release(&self, action: &Action) {
        if !self.policy.limits().is_empty() {
            self.meter.release(action);
        }
    }

    /// Completes a request and decides it; it counts from here on.
    fn weigh(&self, subject: Subject, action: Action, addresses: &[IpAddr]) -> Weighed {
        let started = Instant::now();
        let mut request = Box::new(self.complete(subject, action, addresses));
        let decision = self.policy.decide(&request);
        let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // After the decision, which does not look at it.
        let telling = !decision.is_allow() || !decision.obligations.is_empty() || !request.action.reads();
        if telling && request.subject.claimed.site.is_none() {
            request.subject.claimed.site = (self.site)();
        }
        Weighed { request, decision, ns }
    }

    /// Records a decision.
    fn keep(&self, weighed: Weighed, enforced: bool) -> Kept {
        let Weighed { request, decision, ns } = weighed;
        let op = self.ops.fetch_add(1, Ordering::Relaxed);
        let event = Event::Decided { op, request, decision, enforced, ns };
        let written = self.sink.append(&event).is_ok();
        let Event::Decided { request, decision, .. } = event else { unreachable!("it was made above") };
        Kept { op, request, decision, written }
    }

    /// Why an operation of this process would be refused, were it attempted; nothing where it would go ahead, with a
    /// person's approval where that is asked for. Nothing is recorded, hence nothing granted.
    pub fn foresee(&self, action: Action, claims: Claims, addresses: &[IpAddr]) -> Option<Reason> {
        let subject = Subject { claimed: claims, ..self.subject.clone() };
        let weighed = catch_unwind(AssertUnwindSafe(|| {
            let weighed = self.weigh(subject, action, addresses);
            self.release(&weighed.request.action);
            weighed.decision
        }));
        let decision = weighed.unwrap_or_else(|_| Decision::fault(Fault::Panic));
        (!decision.is_allow() && self.enforces(&decision)).then_some(decision.reason)
    }

    /// Fills in every fact that the decision may look at.
    fn complete(&self, subject: Subject, action: Action, addresses: &[IpAddr]) -> Request {
        let time = now();
        let names = match &action {
            Action::Connect(Endpoint::Inet { addr, .. }) | Action::Send(Endpoint::Inet { addr, .. }) => {
                self.names.names(addr.ip(), time)
            }
            _ => SmallVec::new(),
        };
        let limits = self.policy.limits();
        let counters = if limits.is_empty() {
            Counters::default()
        } else {
            relevant(self.meter.reserve(&action, time), limits)
        };
        Request {
            action,
            subject,
            context: Context { lane: self.lane, time, names, addresses: addresses.into(), counters },
        }
    }

    fn approve(&self, op: u64, request: &Request) -> Result<(), Denial> {
        let question = format!("{} {}", request.action.verb(), request.action.resource());
        let (answer, who) = self.approver.ask(request, &question);
        let reason = if who.is_empty() { Reason::ApprovalTimeout } else { Reason::Refused };
        let event = Event::Approval { op, pid: request.subject.pid, answer, who };
        if self.sink.append(&event).is_err() {
            return Err(self.unwritable(request));
        }
        match answer {
            Answer::Approved => Ok(()),
            Answer::Denied => Err(self.policy.denial(request, &Decision::deny(reason, SmallVec::new()))),
        }
    }

    /// Records what really happened to a granted operation.
    ///
    /// A failure to record it is not reported: the decision's own record was written before.
    pub fn conclude(&self, grant: Grant, outcome: Outcome) {
        self.conclude_op(grant.op, grant.pid, outcome);
    }

    /// As [`Gate::conclude`], for an operation that the kernel performed and whose end was seen later.
    pub fn conclude_op(&self, op: u64, pid: u32, outcome: Outcome) {
        drop(self.sink.append(&Event::Concluded { op, pid, outcome }));
    }

    /// Records a fact that is no decision, such as a scope entered.
    ///
    /// # Errors
    /// A [`Denial`] where it cannot be written: what follows it must not happen then.
    pub fn record(&self, event: &Event) -> Result<(), Denial> {
        self.sink.append(event).map_err(|error| Denial {
            resource: event.kind().into(),
            hint: Some(error.to_string()),
            ..self
                .denial_without_request(&Action::Unmapped(Text::from(event.kind())), Reason::TraceUnwritable)
        })
    }

    fn unwritable(&self, request: &Request) -> Denial {
        self.policy.denial(request, &Decision::deny(Reason::TraceUnwritable, SmallVec::new()))
    }

    fn broken(&self, action: &Action) -> Denial {
        let denial = self.denial_without_request(action, Reason::Fault);
        // Best effort: the operation is refused whether or not this can be written.
        let request = Request {
            action: action.clone(),
            subject: self.subject.clone(),
            context: Context { lane: self.lane, time: now(), ..Context::default() },
        };
        let op = self.ops.fetch_add(1, Ordering::Relaxed);
        let decision = Decision::fault(Fault::Panic);
        let event = Event::Decided { op, request: Box::new(request), decision, enforced: true, ns: 0 };
        drop(catch_unwind(AssertUnwindSafe(|| self.sink.append(&event))));
        denial
    }

    fn denial_without_request(&self, action: &Action, reason: Reason) -> Denial {
        const EIO: i32 = 5;
        Denial {
            verb: action.verb(),
            resource: action.resource(),
            rule: None,
            reason,
            hint: None,
            errno: EIO,
            retry: false,
        }
    }
}

/// Whether a refusal would be the same for somebody who knows more than the deciding process does.
fn is_certain(action: &Action, reason: Reason) -> bool {
    match reason {
        Reason::OverBudget => false,
        // A name that somebody else resolved may lead there.
        Reason::NotGranted | Reason::Unpinned => {
            !matches!(action, Action::Connect(Endpoint::Inet { .. }) | Action::Send(Endpoint::Inet { .. }))
        }
        _ => true,
    }
}

/// The clock of decisions and of pins. A clock before 1970 reads as 1970: every `until` is then in the future of nothing that
/// matters, and budgets only shrink.
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Only the counters that some limit looks at: the record holds what the decision used, no more.
fn relevant(all: Counters, limits: &Limits) -> Counters {
    let keep = |limit: Option<u64>, value: u64| if limit.is_some() { value } else { 0 };
    Counters {
        wall_ns: keep(limits.wall_time, all.wall_ns),
        operations: keep(limits.operations, all.operations),
        connections: keep(limits.connections, all.connections),
        processes: keep(limits.processes, all.processes),
        write_bytes: keep(limits.write_bytes, all.write_bytes),
        memory: keep(limits.memory, all.memory),
    }
}

/// The calling thread's id, asked of the kernel once per thread and process.
fn thread_id(pid: u32) -> u32 {
    thread_local!(static CACHED: Cell<(u32, u32)> = const { Cell::new((0, 0)) });
    CACHED.with(|cached| match cached.get() {
        (of, tid) if of == pid => tid,
        _ => {
            let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            cached.set((pid, tid));
            tid
        }
    })
}
