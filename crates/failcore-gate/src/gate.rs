//! The one flow: complete, decide, record, grant.

use std::cell::Cell;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use failcore_model::{
    Action, Answer, Claims, Context, Counters, Decision, Denial, Endpoint, Event, Fault, HostName, Lane,
    Obligation, Outcome, Reason, Request, RuleId, Subject, Text, Timestamp,
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
    request: Arc<Request>,
    op: u64,
    decision: Decision,
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
        &self.request.action
    }

    /// The rules that permit it.
    pub fn rules(&self) -> &[RuleId] {
        &self.decision.rules
    }

    /// Its number within the process, which the trace's records share.
    pub fn op(&self) -> u64 {
        self.op
    }

    /// Whether it is a connection that is to be made to the relay, and nowhere else.
    pub fn is_carried(&self) -> bool {
        self.decision.obligations.contains(&Obligation::Carry)
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

/// What was decided, and how long that took.
struct Ruling {
    decision: Decision,
    ns: u64,
}

/// A decision on its way through the trace.
struct Kept {
    op: u64,
    request: Arc<Request>,
    decision: Decision,
    /// Whether it is recorded; nothing where that panicked.
    written: Option<Result<(), Reason>>,
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
        self.check_subject(self.own(claims), action, addresses)
    }

    /// Grants an operation that the policy allows without further ado, and records that. Otherwise nothing has
    /// happened: the caller finds out more about the operation, and asks by [`Gate::check`].
    pub fn grant_plain(&self, action: Action, claims: Claims) -> Option<Grant> {
        self.grant_plain_subject(self.own(claims), action, &[])
    }

    /// As [`Gate::grant_plain`], for another process: asked by who must not wait for a person.
    pub fn grant_plain_for(
        &self,
        actor: Actor,
        action: Action,
        claims: Claims,
        addresses: &[IpAddr],
    ) -> Option<Grant> {
        self.grant_plain_subject(self.subject_of(actor, claims), action, addresses)
    }

    fn grant_plain_subject(&self, subject: Subject, action: Action, addresses: &[IpAddr]) -> Option<Grant> {
        let mut request = self.request(subject, action);
        let ruling = unless_panicked(|| self.decide(&mut request, addresses, None))?;
        if !ruling.decision.is_allow() || !ruling.decision.obligations.is_empty() {
            self.release(&request.action);
            return None;
        }
        self.grant(request, ruling).ok()
    }

    /// The calling thread, as a subject.
    fn own(&self, claims: Claims) -> Subject {
        Subject { tid: thread_id(self.subject.pid), claimed: claims, ..self.subject.clone() }
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
        self.check_subject(self.subject_of(actor, claims), action, addresses)
    }

    /// Another process, as a subject.
    fn subject_of(&self, actor: Actor, claims: Claims) -> Subject {
        let Actor { pid, tid, exe } = actor;
        let (agent, run) = (self.subject.agent.clone(), self.subject.run.clone());
        Subject { pid, tid, exe, agent, run, claimed: claims }
    }

    /// The names that lead to an address now.
    pub fn names(&self, addr: IpAddr) -> SmallVec<[HostName; 1]> {
        self.names.names(addr, now())
    }

    /// When what granted an operation ends, if it does.
    pub fn ends(&self, grant: &Grant) -> Option<Timestamp> {
        grant.decision.rules.iter().filter_map(|rule| self.policy.rule(rule)?.until).min()
    }

    /// Decides an operation that a supervisor will see, decide and record when it happens.
    ///
    /// Only a refusal that is certain already is made here, and recorded: what depends on counters, on names that
    /// somebody else resolved, or on a person, is left to the supervisor.
    ///
    /// # Errors
    /// A [`Denial`], as [`Gate::check`].
    pub fn check_ahead(&self, action: Action, claims: Claims, addresses: &[IpAddr]) -> Result<(), Denial> {
        let mut request = self.request(self.own(claims), action);
        let Some(ruling) = self.weigh(&mut request, addresses, None) else {
            return Err(self.broken(request));
        };
        let decision = &ruling.decision;
        if decision.is_allow() || !self.enforces(decision) || !is_certain(&request.action, decision.reason) {
            return Ok(());
        }
        self.refuse(request, ruling)
    }

    /// Whether an operation that was granted to another process stands, now that it is known which of the names that
    /// lead to its address is meant. What stands is recorded already.
    ///
    /// # Errors
    /// A recorded [`Denial`], as [`Gate::check`].
    pub fn check_name(
        &self,
        actor: Actor,
        action: Action,
        claims: Claims,
        name: &HostName,
    ) -> Result<(), Denial> {
        let mut request = self.request(self.subject_of(actor, claims), action);
        let Some(ruling) = self.weigh(&mut request, &[], Some(name)) else {
            return Err(self.broken(request));
        };
        if ruling.decision.is_allow() || !self.enforces(&ruling.decision) {
            return Ok(());
        }
        self.refuse(request, ruling)
    }

    /// Records a refusal, and makes it whether or not it can be written.
    fn refuse(&self, request: Arc<Request>, ruling: Ruling) -> Result<(), Denial> {
        let kept = self.keep(request, ruling, true);
        match unless_panicked(|| self.policy.denial(&kept.request, &kept.decision)) {
            Some(denial) => Err(denial),
            None => Err(self.broken(kept.request)),
        }
    }

    /// Whether a decision takes effect, rather than being recorded only.
    fn enforces(&self, decision: &Decision) -> bool {
        decision.is_allow()
            || self.policy.mode() == Mode::Enforce
            || matches!(decision.reason, Reason::Always | Reason::Fault)
    }

    fn check_subject(&self, subject: Subject, action: Action, addresses: &[IpAddr]) -> Result<Grant, Denial> {
        let mut request = self.request(subject, action);
        match unless_panicked(|| self.decide(&mut request, addresses, None)) {
            Some(ruling) => self.grant(request, ruling),
            None => Err(self.broken(request)),
        }
    }

    /// A request that is to be completed by [`Gate::decide`].
    fn request(&self, subject: Subject, action: Action) -> Arc<Request> {
        let context = Context { lane: self.lane, ..Context::default() };
        Arc::new(Request { action, subject, context })
    }

    /// Fills in every fact that the decision may look at, and decides; it counts from here on. Of the names of an address
    /// only `name` is looked at, where that is known.
    fn decide(&self, request: &mut Arc<Request>, addresses: &[IpAddr], name: Option<&HostName>) -> Ruling {
        let request = Arc::make_mut(request);
        let context = &mut request.context;
        context.time = now();
        context.addresses = addresses.into();
        if let Action::Connect(Endpoint::Inet { addr, .. }) | Action::Send(Endpoint::Inet { addr, .. }) =
            &request.action
        {
            context.names = match name {
                Some(name) => SmallVec::from_iter([name.clone()]),
                None => self.names.names(addr.ip(), context.time),
            };
        }
        let limits = self.policy.limits();
        if !limits.is_empty() {
            context.counters = relevant(self.meter.reserve(&request.action, context.time), limits);
        }
        let decision = self.policy.decide(request);
        // By the same clock, since each reading of one costs a tenth of a decision.
        Ruling { decision, ns: now().0.saturating_sub(request.context.time.0) }
    }

    /// Takes back what was counted for an operation that does not happen, or that somebody else counts.
    fn release(&self, action: &Action) {
        if !self.policy.limits().is_empty() {
            self.meter.release(action);
        }
    }

    /// Records a decision, and grants or refuses.
    fn grant(&self, request: Arc<Request>, ruling: Ruling) -> Result<Grant, Denial> {
        let enforced = self.enforces(&ruling.decision);
        let refused = !ruling.decision.is_allow() && enforced;
        let kept = self.keep(request, ruling, enforced);
        if kept.written.is_none() {
            return Err(self.broken(kept.request));
        }
        match unless_panicked(|| self.refusal(&kept, refused)) {
            Some(None) => Ok(Grant { request: kept.request, op: kept.op, decision: kept.decision }),
            Some(Some(denial)) => {
                self.release(&kept.request.action);
                Err(denial)
            }
            None => Err(self.broken(kept.request)),
        }
    }

    /// Why an operation does not go ahead, now that its decision was to be recorded; a person is asked here.
    fn refusal(&self, kept: &Kept, refused: bool) -> Option<Denial> {
        let Kept { op, request, decision, written } = kept;
        if refused {
            Some(self.policy.denial(request, decision))
        } else if let Some(Err(reason)) = written {
            Some(self.policy.denial(request, &Decision::deny(*reason, SmallVec::new())))
        } else if decision.obligations.contains(&Obligation::Approve) {
            self.approve(*op, request).err()
        } else {
            None
        }
    }

    /// Records a decision; a trace that fails in whatever way has not recorded it.
    fn keep(&self, mut request: Arc<Request>, ruling: Ruling, enforced: bool) -> Kept {
        let Ruling { decision, ns } = ruling;
        // After the decision, which does not look at it.
        let telling = !decision.is_allow()
            || !decision.obligations.is_empty()
            || !request.action.reads()
            || self.sink.wants_every_site();
        let site = &mut Arc::make_mut(&mut request).subject.claimed.site;
        if !telling {
            *site = None;
        } else if site.is_none() {
            *site = unless_panicked(self.site).flatten();
        }
        let op = self.ops.fetch_add(1, Ordering::Relaxed);
        let event = Event::Decided { op, request, decision, enforced, ns };
        let written = unless_panicked(|| self.sink.append(&event).map_err(|error| error.reason()));
        let Event::Decided { request, decision, .. } = event else { unreachable!("it was made above") };
        Kept { op, request, decision, written }
    }

    /// Why an operation of this process would be refused, were it attempted; nothing where it would go ahead, with a
    /// person's approval where that is asked for. Nothing is recorded, hence nothing granted.
    pub fn foresee(&self, action: Action, claims: Claims, addresses: &[IpAddr]) -> Option<Reason> {
        let mut request = self.request(self.own(claims), action);
        let decision = self
            .weigh(&mut request, addresses, None)
            .map_or_else(|| Decision::fault(Fault::Panic), |ruling| ruling.decision);
        (!decision.is_allow() && self.enforces(&decision)).then_some(decision.reason)
    }

    /// Whether a grant would have been given for this action as well, without anybody being asked. Nothing is recorded.
    pub fn covers(&self, grant: &Grant, action: &Action) -> bool {
        let mut request = self.request(grant.request.subject.clone(), action.clone());
        self.weigh(&mut request, &[], None).is_some_and(|Ruling { decision, .. }| {
            let asks = decision.obligations.contains(&Obligation::Approve);
            if decision.is_allow() { !asks } else { !self.enforces(&decision) }
        })
    }

    /// Decides what is not granted here, so that it does not count; nothing where that panicked.
    fn weigh(
        &self,
        request: &mut Arc<Request>,
        addresses: &[IpAddr],
        name: Option<&HostName>,
    ) -> Option<Ruling> {
        unless_panicked(|| {
            let ruling = self.decide(request, addresses, name);
            self.release(&request.action);
            ruling
        })
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
        self.conclude_op(grant.op, grant.request.subject.pid, outcome);
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

    fn broken(&self, mut request: Arc<Request>) -> Denial {
        let denial = self.denial_without_request(&request.action, Reason::Fault);
        // Best effort: the operation is refused whether or not this can be written.
        Arc::make_mut(&mut request).context.time = now();
        let op = self.ops.fetch_add(1, Ordering::Relaxed);
        let decision = Decision::fault(Fault::Panic);
        let event = Event::Decided { op, request, decision, enforced: true, ns: 0 };
        drop(unless_panicked(|| self.sink.append(&event)));
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

/// The ports may be foreign code; whatever panics in them or in `decide`, the answer is a denial.
fn unless_panicked<T>(step: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(step)).ok()
}

/// Whether a refusal would be the same for somebody who knows more than the deciding process does.
fn is_certain(action: &Action, reason: Reason) -> bool {
    match reason {
        Reason::OverBudget => false,
        // A supervisor can carry it.
        Reason::Uncarried => false,
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
