//! The run's end of its control socket: who may give orders is told how it is, has questions answered, and hands the
//! rest to whoever stays with the program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use failcore_kernel::{Ledger, Peer, Reception, receive, send, wait_at_most};
use failcore_model::{Event, Lane, Text, Timestamp};
use rustix::event::{EventfdFlags, eventfd};

use super::approvals::Approvals;
use super::terminal::person;
use crate::control::{Order, Reply, Seat, State, Status};
use crate::failure::Problem;

/// How long whoever connects may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What does not change about a run.
pub(super) struct About {
    pub(super) session: String,
    pub(super) agent: Option<Text>,
    pub(super) label: Option<Text>,
    pub(super) lane: Lane,
    pub(super) policy: Option<String>,
    pub(super) command: Vec<Text>,
    pub(super) trace: std::path::PathBuf,
    pub(super) since: Timestamp,
}

/// A change of state that somebody wants.
pub(super) enum Change {
    Pause,
    Resume,
    /// With so long for the program to end by itself.
    Stop(Duration),
}

/// An order for whoever stays with the program.
pub(super) struct Given {
    pub(super) change: Change,
    /// Who gave it.
    pub(super) who: Text,
    connection: OwnedFd,
}

impl Given {
    /// Says what came of it.
    pub(super) fn answer(self, reply: Reply) {
        // Whoever asked may have gone.
        drop(send(&self.connection, &reply, &[]));
    }
}

/// The socket, while the run lasts.
pub(super) struct Control {
    _seat: Seat,
    reception: Arc<Reception>,
    acceptor: JoinHandle<()>,
    given: Rc<Receiver<Given>>,
    desk: Arc<Desk>,
}

/// Where orders come in, on a thread of its own: what can be answered there is, without another thread, which may not be
/// to be had where the program has taken all there are.
struct Desk {
    about: About,
    approvals: Arc<Approvals>,
    ledger: Ledger,
    processes: AtomicU64,
    state: AtomicU8,
    orders: Sender<Given>,
    bell: OwnedFd,
    /// Whether a process of the run was turned away already.
    tried: AtomicBool,
}

impl Control {
    /// Takes orders from now on.
    pub(super) fn open(about: About, approvals: Arc<Approvals>, ledger: Ledger) -> Result<Self, Problem> {
        let (seat, reception) = Seat::take(&about.session)?;
        let reception = Arc::new(reception);
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(Problem::system("listen for orders"))?;
        let (orders, given) = mpsc::channel();
        let desk = Arc::new(Desk {
            about,
            approvals,
            ledger,
            processes: AtomicU64::new(0),
            state: AtomicU8::new(0),
            orders,
            bell,
            tried: AtomicBool::new(false),
        });
        let acceptor = {
            let (reception, desk) = (Arc::clone(&reception), Arc::clone(&desk));
            std::thread::Builder::new()
                .name("failcore-control".into())
                .spawn(move || reception.accept(|connection| desk.receive(connection)))
                .map_err(|source| Problem::System { what: "listen for orders", source })?
        };
        Ok(Self { _seat: seat, reception, acceptor, given: Rc::new(given), desk })
    }

    /// The next order, if there is one.
    pub(super) fn next(&self) -> Option<Given> {
        let _ = rustix::io::read(&self.desk.bell, &mut [0; 8]);
        self.given.try_recv().ok()
    }

    /// The orders that come in while one is carried out.
    pub(super) fn orders(&self) -> Rc<Receiver<Given>> {
        Rc::clone(&self.given)
    }

    /// Becomes readable with an order.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.desk.bell.as_fd()
    }

    /// Tells how many processes there are.
    pub(super) fn counted(&self, processes: u64) {
        self.desk.processes.store(processes, SeqCst);
    }

    /// Tells whether the run runs.
    pub(super) fn is_now(&self, state: State) {
        self.desk.state.store(state as u8, SeqCst);
    }

    /// Takes no orders any more; those that were not carried out get no answer.
    pub(super) fn close(self) {
        self.reception.close();
        drop(self.acceptor.join());
    }
}

impl Desk {
    /// Lets in who may give orders: the owner of the run or root, and nobody who belongs to it.
    ///
    /// # Security
    /// The socket lies where only its owner gets to, and the run's own processes are kept from it by the policy; this
    /// is the second door.
    fn receive(&self, connection: OwnedFd) {
        let Ok(peer) = Peer::of(&connection) else { return };
        if peer.uid != rustix::process::getuid().as_raw() && peer.uid != 0 {
            return;
        }
        if !peer.stands_outside(std::process::id()) {
            if peer.descends(std::process::id()) && !self.tried.swap(true, SeqCst) {
                let text = "a process of the run reached its control socket and was turned away".into();
                self.ledger.record(Event::Notice { text });
            }
            return;
        }
        // Whatever goes wrong, the connection just closes.
        if wait_at_most(&connection, Some(PATIENCE)).is_err() {
            return;
        }
        let Ok((order, _)) = receive::<Order>(&connection) else { return };
        let reply = match order {
            Order::Status {} => Reply::Status(Box::new(self.status())),
            Order::Answer { question, answer } => {
                match self.approvals.answer(question, answer, person(peer.uid)) {
                    Some(operation) => Reply::Answered { operation },
                    None => Reply::No {
                        why: format!("question {question} does not wait for an answer"),
                        help: format!("`failcore approve {}` lists those that do", self.about.session),
                    },
                }
            }
            Order::Pause {} => return self.hand_over(Change::Pause, peer.uid, connection),
            Order::Resume {} => return self.hand_over(Change::Resume, peer.uid, connection),
            Order::Stop { grace } => {
                return self.hand_over(Change::Stop(Duration::from_millis(grace)), peer.uid, connection);
            }
        };
        drop(send(&connection, &reply, &[]));
    }

    /// Gives the order to whoever stays with the program, who answers it.
    fn hand_over(&self, change: Change, uid: u32, connection: OwnedFd) {
        if self.orders.send(Given { change, who: person(uid), connection }).is_ok() {
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    fn status(&self) -> Status {
        let About { session, agent, label, lane, policy, command, trace, since } = &self.about;
        let tally = self.ledger.tally();
        let states = [State::Running, State::Paused, State::Stopping];
        let now = self.state.load(SeqCst);
        Status {
            session: session.clone(),
            state: states.into_iter().find(|state| *state as u8 == now).unwrap_or(State::Running),
            agent: agent.clone(),
            label: label.clone(),
            lane: *lane,
            policy: policy.clone(),
            command: command.clone(),
            trace: trace.clone(),
            pid: std::process::id(),
            since: *since,
            processes: self.processes.load(SeqCst),
            allowed: tally.allowed,
            refused: tally.refused,
            absent: tally.absent,
            waiting: self.approvals.waiting(),
        }
    }
}
