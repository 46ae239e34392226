//! Keeping what the processes of a run record: the one thread that writes the trace.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::time::Duration;

use failcore_model::{Answer, Event};
use failcore_trace::{TraceError, Unpacker, Writer};

use super::{Joined, State, lock};
use crate::own::{self, Own};
use crate::ring::{CAPACITY, Consumer, EXPANSION};
use crate::said::may_say;
use crate::tasks::ended;

/// How long the writer naps between looks while records are coming, so that producers need no wake-up call.
const NAP: Duration = Duration::from_millis(1);
/// Naps without a record before it sleeps until woken.
const IDLE_NAPS: u32 = 50;
/// The longest sleep, after which it looks for processes that ended.
const DOZE: Duration = Duration::from_millis(200);

/// The writer, and all that it takes records from.
pub(super) struct Drain<'a> {
    state: &'a State,
    writer: Writer,
    joins: mpsc::Receiver<Joined>,
    members: Vec<Member>,
    /// What the parent's own threads may have waiting, in bytes.
    credit: u64,
    /// Events of the parent's own, while they are written.
    events: Vec<Event>,
    record: Vec<u8>,
    unpacker: Unpacker,
}

struct Member {
    pid: u32,
    pidfd: OwnedFd,
    ring: Consumer,
    /// Whether it wrote nonsense: it gets no more credit.
    shunned: bool,
}

impl<'a> Drain<'a> {
    /// With a trace that has room for what the parent's own threads may have waiting at first.
    pub(super) fn new(state: &'a State, writer: Writer, joins: mpsc::Receiver<Joined>) -> Self {
        Self {
            state,
            writer,
            joins,
            members: Vec::new(),
            credit: own::FIRST,
            events: Vec::new(),
            record: Vec::new(),
            unpacker: Unpacker::default(),
        }
    }

    /// Until the run is over.
    pub(super) fn run(mut self) -> Writer {
        let mut idle = 0;
        loop {
            let stopping = self.state.stopping.load(SeqCst);
            let worked = self.welcome() | self.own_events() | self.drain();
            self.farewell();
            if stopping && !worked {
                self.state.own.close("the run is over");
                return self.writer;
            }
            if stopping {
                continue;
            }
            idle = if worked { 0 } else { idle + 1 };
            if idle < IDLE_NAPS {
                // Woken only when it is over.
                std::thread::park_timeout(NAP);
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
        while let Ok(Joined { pid, pidfd, ring, announced }) = self.joins.try_recv() {
            any = true;
            if let Some((parent, exe)) = announced {
                self.write(|writer| writer.append(&Event::ProcessJoined { pid, parent, exe }));
            }
            self.members.push(Member { pid, pidfd, ring, shunned: false });
        }
        if any {
            self.grant();
        }
        any
    }

    fn own_events(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let taken = self.state.own.take(&mut events);
        let any = !events.is_empty() || taken.credit > self.credit;
        self.credit = taken.credit;
        // One write for all that waited; what one of them cannot be is no reason to lose the others.
        for event in &events {
            let tally = &self.state.tally;
            self.write(|writer| writer.stage(event).map(|()| tally.add(event)));
        }
        if any {
            self.write(Writer::flush);
            self.grant();
            self.state.own.grant(&taken);
        }
        events.clear();
        self.events = events;
        any
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
                        let said = self.unpacker.unpack(&record).ok();
                        if !said.is_some_and(|event| self.hear(at, &event)) {
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

    /// Keeps what a process says, where it may say it.
    fn hear(&mut self, at: usize, event: &Event) -> bool {
        let (pid, supervised) = (self.members[at].pid, self.state.served.supervised);
        if !may_say(event, pid, supervised) || !self.was_answered(event) {
            return false;
        }
        // Counted where it was decided, but under a supervisor.
        if supervised && matches!(event, Event::Decided { decision, .. } if decision.is_allow()) {
            self.state.meter.count_operation();
        }
        let tally = &self.state.tally;
        self.write(|writer| writer.stage(event).map(|()| tally.add(event)))
    }

    /// Whether an answer that a process records is one it was given; that nobody answered anyone may say.
    fn was_answered(&self, event: &Event) -> bool {
        let Event::Approval { pid, answer, who, .. } = event else { return true };
        let mut answered = lock(&self.state.answered);
        let given = (*pid, *answer, who.clone());
        match answered.iter().position(|one| *one == given) {
            Some(at) => {
                answered.swap_remove(at);
                true
            }
            None => *answer == Answer::Denied && who.is_empty(),
        }
    }

    fn shun(&mut self, at: usize) {
        self.members[at].shunned = true;
        let pid = self.members[at].pid;
        let text = format!(
            "process {pid} wrote records that it cannot have made; it is granted nothing from here on"
        );
        self.write(|writer| writer.append(&Event::Notice { text }));
    }

    fn grant(&mut self) {
        if lock(&self.state.broken).is_some() {
            return;
        }
        let rings = self.members.iter().filter(|member| !member.shunned).count() as u64;
        let room = rings * EXPANSION * CAPACITY as u64 + Own::space(self.credit);
        let assured = self.write(|writer| writer.reserve(room));
        if assured && lock(&self.state.broken).is_none() {
            for member in self.members.iter().filter(|member| !member.shunned) {
                member.ring.grant();
            }
        }
    }

    /// Writes, and remembers when the trace cannot be written any more: no credit is granted from then on. What still
    /// arrives was allowed on credit given before, for which there is space: it is written all the same.
    ///
    /// Returns false where it was no event at all.
    fn write<T>(&mut self, write: impl FnOnce(&mut Writer) -> Result<T, TraceError>) -> bool {
        match write(&mut self.writer) {
            Ok(_) => true,
            // One process's record, not the trace: that process gets no more credit.
            Err(TraceError::NotAnEvent(_) | TraceError::Unredactable(_)) => false,
            Err(error) => {
                self.state.own.close(&error.to_string());
                lock(&self.state.broken).get_or_insert_with(|| error.to_string());
                true
            }
        }
    }

    /// Lets go of processes that ended, after their last record.
    fn farewell(&mut self) {
        let mut at = 0;
        while at < self.members.len() {
            let member = &self.members[at];
            if !ended(&member.pidfd) || !(member.shunned || member.ring.is_empty()) {
                at += 1;
                continue;
            }
            let pid = self.members.swap_remove(at).pid;
            lock(&self.state.answered).retain(|(of, ..)| *of != pid);
            self.state.processes.fetch_sub(1, SeqCst);
            if !self.state.served.supervised {
                self.write(|writer| writer.append(&Event::ProcessLeft { pid }));
            }
        }
    }
}
