//! What the program asks leave for: put to the person at the terminal, and to whoever gives orders from outside. The
//! first answer counts; where none comes in time it is no.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use failcore_gate::{Approver, now};
use failcore_model::{Answer, Request, Text, Timestamp};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::clock::Clock;
use super::terminal::{Put, Terminal, person, timeout};
use crate::control;
use crate::ui::{Notes, place};

/// How often a terminal is looked for that was not there, or not ours to ask at.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of an operation that are shown in a list, and of all operations in one.
const SHOWN: usize = 2 << 10;
const ALL_SHOWN: usize = 64 << 10;

/// The questions of a run, and who can answer them.
pub(super) struct Approvals {
    session: String,
    patience: Duration,
    clock: Arc<Clock>,
    notes: Notes,
    terminal: Terminal,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Which one is put at the terminal.
    shown: Option<u64>,
    over: bool,
}

/// A question without an answer, or with one that was not taken yet.
struct Waiting {
    operation: Arc<str>,
    pid: u32,
    tool: Option<Text>,
    asked: Timestamp,
    /// When the answer is no, by the run's clock.
    until: Duration,
    answer: Option<(Answer, Text)>,
    /// Rung when there is something new about it, or the terminal is free.
    bell: Arc<OwnedFd>,
}

/// What somebody who waits is to do next.
enum Next {
    Take(Answer, Text),
    GiveUp,
    AskThere(Duration),
    Wait(Duration),
}

impl Approvals {
    pub(super) fn new(session: &str, patience: Duration, clock: Arc<Clock>, notes: Notes) -> Self {
        Self {
            session: session.into(),
            patience,
            clock,
            notes,
            terminal: Terminal::new(),
            state: Mutex::default(),
        }
    }

    /// The program runs in a process group of its own, to which the terminal may belong while it runs.
    pub(super) fn shared_with(&self, group: Pid) {
        self.terminal.shared_with(group);
    }

    /// What waits, the oldest first.
    pub(super) fn waiting(&self) -> Vec<control::Question> {
        let (state, elapsed) = (self.lock(), self.clock.elapsed());
        let mut room = ALL_SHOWN;
        let unanswered = state.waiting.iter().filter(|(_, waiting)| waiting.answer.is_none());
        unanswered
            .map_while(|(id, waiting)| {
                let operation = cut(&waiting.operation);
                room = room.checked_sub(operation.len())?;
                Some(control::Question {
                    id: *id,
                    operation,
                    pid: waiting.pid,
                    tool: waiting.tool.clone(),
                    asked: waiting.asked,
                    left: waiting.until.saturating_sub(elapsed).as_secs(),
                })
            })
            .collect()
    }

    /// Answers a question: what it was about, or nothing where it does not wait any more.
    pub(super) fn answer(&self, id: u64, answer: Answer, who: Text) -> Option<String> {
        let mut state = self.lock();
        let waiting = state.waiting.get_mut(&id).filter(|waiting| waiting.answer.is_none())?;
        waiting.answer = Some((answer, who));
        ring(&waiting.bell);
        Some(cut(&waiting.operation))
    }

    /// Nobody is asked any more: whoever waits gets no answer.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.over = true;
        state.waiting.values().for_each(|waiting| ring(&waiting.bell));
    }

    fn put(&self, request: &Request, question: &str) -> Option<(Answer, Text)> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?);
        // Who has ended needs no answer; its number may be another's by then.
        let pid = Pid::from_raw(request.subject.pid.cast_signed());
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let operation: Arc<str> = Text::from(question).to_string().into();
        let tool = request.subject.claimed.tool().cloned();
        let id = {
            let mut state = self.lock();
            state.asked += 1;
            let id = state.asked;
            let waiting = Waiting {
                operation: Arc::clone(&operation),
                pid: request.subject.pid,
                tool: tool.clone(),
                asked: now(),
                until: self.clock.elapsed().saturating_add(self.patience),
                answer: None,
                bell: Arc::clone(&bell),
            };
            state.waiting.insert(id, waiting);
            id
        };
        let agent = request.subject.agent.as_ref().map(|agent| format!("{agent}, ")).unwrap_or_default();
        let tool = tool.map(|tool| format!(", tool {tool}")).unwrap_or_default();
        let site = request.subject.claimed.site.as_ref();
        let site = site.map(|site| format!(", at {}", place(site))).unwrap_or_default();
        let asker = format!("{agent}process {}{tool}{site}", request.subject.pid);
        let others: Vec<BorrowedFd<'_>> =
            std::iter::once(bell.as_fd()).chain(process.as_ref().map(AsFd::as_fd)).collect();
        let mut noted = false;
        let answer = loop {
            match self.next(id, process.as_ref()) {
                Next::Take(answer, who) => break Some((answer, who)),
                Next::GiveUp => break None,
                Next::Wait(left) => wait(&others, left.min(LOOK)),
                Next::AskThere(left) => {
                    let put = Put { number: id, operation: &operation, asker: &asker, left };
                    let asked = self.terminal.ask(&put, &others, |answer| self.settle(id, answer));
                    self.leave(asked);
                    if !asked {
                        if !noted {
                            self.note(id, &operation, &asker);
                            noted = true;
                        }
                        wait(&others, left.min(LOOK));
                    }
                }
            }
        };
        self.lock().waiting.remove(&id);
        answer
    }

    /// Says where nobody sits at a terminal that an answer is wanted.
    fn note(&self, id: u64, operation: &str, asker: &str) {
        self.notes.note(format_args!(
            "the program asks for leave ({asker}): {operation}; within {} s: failcore approve {} {id}",
            self.patience.as_secs(),
            self.session
        ));
    }

    /// What whoever asked question `id` does next.
    fn next(&self, id: u64, process: Option<&OwnedFd>) -> Next {
        let mut state = self.lock();
        let over = state.over || process.is_some_and(is_ready);
        let Some(waiting) = state.waiting.get_mut(&id) else { return Next::GiveUp };
        drain(&waiting.bell);
        if let Some((answer, who)) = waiting.answer.take() {
            return Next::Take(answer, who);
        }
        let left = waiting.until.saturating_sub(self.clock.elapsed());
        if over || left.is_zero() {
            return Next::GiveUp;
        }
        if state.shown.is_some() {
            return Next::Wait(left);
        }
        state.shown = Some(id);
        Next::AskThere(left)
    }

    /// Takes the answer of the person at the terminal, if there is one and it is the first; how the question stands.
    fn settle(&self, id: u64, answer: Option<Answer>) -> String {
        // It is the user of this process who sits there; looking up a name may take its time.
        let answer = answer.map(|answer| (answer, person(rustix::process::getuid().as_raw())));
        let mut state = self.lock();
        let Some(waiting) = state.waiting.get_mut(&id) else { return "not asked any more".into() };
        if let Some(answer) = answer {
            waiting.answer.get_or_insert(answer);
        }
        match &waiting.answer {
            Some((Answer::Approved, who)) => format!("allowed by {who}"),
            Some((Answer::Denied, who)) => format!("refused by {who}"),
            None => "no answer: refused".into(),
        }
    }

    /// Leaves the terminal to the next question, where somebody is there.
    fn leave(&self, somebody: bool) {
        let mut state = self.lock();
        state.shown = None;
        if somebody {
            state.waiting.values().for_each(|waiting| ring(&waiting.bell));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Approver for Approvals {
    fn ask(&self, request: &Request, question: &str) -> (Answer, Text) {
        self.put(request, question).unwrap_or((Answer::Denied, Text::default()))
    }
}

fn wait(others: &[BorrowedFd<'_>], left: Duration) {
    let mut fds: Vec<PollFd<'_>> =
        others.iter().map(|other| PollFd::from_borrowed_fd(*other, PollFlags::IN)).collect();
    // Interrupted is as good as woken.
    let _ = poll(&mut fds, Some(&timeout(left)));
}

fn is_ready(fd: &OwnedFd) -> bool {
    matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout(Duration::ZERO))), Ok(n) if n > 0)
}

fn ring(bell: &OwnedFd) {
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

fn drain(bell: &OwnedFd) {
    let _ = rustix::io::read(bell, &mut [0; 8]);
}

/// As much of an operation as a list shows.
fn cut(operation: &str) -> String {
    match operation.char_indices().find(|(at, _)| *at >= SHOWN) {
        Some((at, _)) => format!("{}…", &operation[..at]),
        None => operation.into(),
    }
}
