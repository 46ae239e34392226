//! What a gate needs from the outside, as traits that the faces wire up.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::{fmt, io};

use failcore_model::heard::{Asked, Said};
use failcore_model::input::Moment;
use failcore_model::{
    Action, Answer, Claims, Counters, Event, HostName, Reason, Request, RuleId, Text, Timestamp, Transport,
};
use smallvec::SmallVec;

use crate::Actor;
use crate::expected::Divergence;

/// Where events go, in order, before their effect.
pub trait Sink: Send + Sync {
    /// Keeps one event: on return it survives the death of the agent's process, as far as this sink promises.
    ///
    /// # Errors
    /// [`SinkError`] where it could not be kept; the operation it speaks of is then denied.
    fn append(&self, event: &Event) -> Result<(), SinkError>;

    /// Whether it wants the call sites of allowed reads too; there are many of them, so records leave them out.
    fn wants_every_site(&self) -> bool {
        false
    }
}

/// An event could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("the trace cannot be written: {0}")]
pub struct SinkError(pub Box<dyn std::error::Error + Send + Sync>);

impl SinkError {
    /// Why an operation is refused whose record was not taken.
    pub fn reason(&self) -> Reason {
        if self.0.is::<Divergence>() { Reason::Diverged } else { Reason::TraceUnwritable }
    }
}

/// The names that our own resolution pinned to addresses.
pub trait Names: Send + Sync {
    /// Names pinned to `addr` that are still valid at `now`.
    fn names(&self, addr: IpAddr, now: Timestamp) -> SmallVec<[HostName; 1]>;
}

/// What the session has used so far.
pub trait Meter: Send + Sync {
    /// Counts an operation, and returns what was used before it, as of `now`.
    ///
    /// Asked before the decision: of many operations at once no two see the same, so that together they get no more
    /// than is left. One that is then refused may have kept another from the last that was left.
    fn reserve(&self, action: &Action, now: Timestamp) -> Counters;

    /// Takes back what was counted for an operation that does not happen.
    fn release(&self, action: &Action);
}

/// Somebody who can say yes.
pub trait Approver: Send + Sync {
    /// Asks about an operation and waits. A time-out answers [`Answer::Denied`] with an empty name.
    fn ask(&self, request: &Request, question: &str) -> (Answer, Text);
}

/// The name broker: takes what a program sends to DNS servers, in their place, and judges the names in it.
pub trait Broker: Send + Sync {
    /// The socket to reach instead of `to`; nothing where `to` is judged and reached as it is. Of the same family,
    /// so that the program's own socket can be connected to it.
    fn instead_of(&self, transport: Transport, to: SocketAddr) -> Option<SocketAddr>;

    /// TCP ports that [`Broker::instead_of`] leads to, for layers that confine ports.
    fn tcp_ports(&self) -> Vec<u16>;

    /// Whether answers to `asked` can come under its own address, so that a datagram socket need not be connected.
    fn answers_as(&self, asked: SocketAddr) -> bool;

    /// Serves one more datagram socket, which is bound to an address that programs ask; it is in a network that only the
    /// run's own sockets are in.
    ///
    /// # Errors
    /// Where it cannot be served.
    fn serve(&self, socket: OwnedFd) -> std::io::Result<()>;

    /// Makes a socket known, before anything can be sent on it. What comes from other sockets gets no answer.
    fn expect(&self, sender: Sender);
}

/// Somebody who takes over single connections that are granted on the condition that what is said on them is judged
/// ([`Grant::is_carried`](crate::Grant::is_carried)).
pub trait Relay: Send + Sync {
    /// The socket to reach instead of `to`, of the same family; nothing where there is none, and the connection cannot
    /// be made.
    fn instead_of(&self, to: SocketAddr) -> Option<SocketAddr>;

    /// TCP ports that [`Relay::instead_of`] leads to, for layers that confine ports.
    fn tcp_ports(&self) -> Vec<u16>;

    /// Makes a connection known before anything can be sent on it. What comes from other sockets is closed.
    fn carry(&self, passage: Passage);
}

/// A connection that a [`Relay`] is to carry.
#[derive(Debug)]
pub struct Passage {
    /// Whose it is.
    pub sender: Sender,
    /// Where it was addressed to.
    pub to: SocketAddr,
    /// When what grants it ends, and it is cut.
    pub ends: Option<Timestamp>,
    /// Whether what is said on it is to be judged; otherwise it is granted as it is, and carried so that it can be recorded
    /// or played.
    pub judged: bool,
    /// The other half, where that was made before.
    pub far: Option<OwnedFd>,
    /// Who makes more of them, where it really happens in a program that is run again; nothing of it is recorded or played.
    pub outside: Option<Arc<dyn Outside>>,
}

/// What a file system tells of a file (inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appearance {
    /// Whether it is a directory.
    pub directory: bool,
    /// The file system's number.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Its length, in bytes.
    pub size: u64,
    /// How much it takes, in units of 512 bytes.
    pub blocks: u64,
    /// When its contents were changed last.
    pub modified: Moment,
    /// When its metadata were.
    pub changed: Moment,
}

/// Somebody outside of the world that a program is run again in, for what is to happen for real.
pub trait Outside: fmt::Debug + Send + Sync {
    /// A connection that does not wait.
    ///
    /// # Errors
    /// As connect(2).
    fn connect(&self, to: SocketAddr) -> io::Result<OwnedFd>;

    /// The addresses of a name, in the order of getaddrinfo(3).
    ///
    /// # Errors
    /// `EAI_*` as in netdb.h, and what it means in words.
    fn addresses(&self, name: &HostName) -> Result<Vec<IpAddr>, (i32, String)>;
}

/// How something got another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// It was moved.
    Moved,
    /// It changed places with what had that name.
    Exchanged,
    /// It has both names (link(2)).
    Linked,
}

/// Somebody who sees what a program learns from outside, before it does.
///
/// # Errors
/// Where it cannot be kept, each of these fails, and what the program is about to learn is refused.
pub trait Witness: Send + Sync {
    /// The program names `asked`, from the directory `from` where it is relative; `follow` says whether it means what a
    /// link in the last place leads to.
    fn looks(&self, from: &[u8], asked: &[u8], follow: bool) -> Result<(), SinkError>;

    /// The program asks what stands at a path, as in [`Witness::looks`], and does no more; `who` says what it claims.
    fn asks(
        &self,
        from: &[u8],
        asked: &[u8],
        follow: bool,
        _who: &dyn Fn() -> Claims,
    ) -> Result<(), SinkError> {
        self.looks(from, asked, follow)
    }

    /// What stands or stood at the absolute path `from` got the name `to` from the program.
    fn named(&self, _from: &[u8], _to: &[u8], _how: Naming) -> Result<(), SinkError> {
        Ok(())
    }

    /// The program is about to change the length of the file that `asked` names, as in [`Witness::looks`], which it need not have
    /// opened.
    fn cuts(&self, _from: &[u8], _asked: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }

    /// The program is about to get a descriptor of this file or directory.
    fn opens(&self, opened: BorrowedFd<'_>) -> Result<(), SinkError>;

    /// The program is about to run the file that `asked` names, as in [`Witness::looks`].
    fn runs(&self, from: &[u8], asked: &[u8]) -> Result<(), SinkError>;

    /// A thread asks what time it is by a clock (clock_gettime(2)) that is at `now`; what it is to be told. The thread has
    /// the same name whenever the program is run.
    fn clock(&self, thread: &str, clock: i32, now: Moment) -> Result<Moment, SinkError>;

    /// A thread asks for random bytes, and these are some; what it is to be given, of the same length.
    fn random(&self, thread: &str, bytes: Vec<u8>) -> Result<Vec<u8>, SinkError>;

    /// What somebody outside answers, with what is kept beside it, where that is known already; otherwise they are to be
    /// asked, which a program does that claims this, and [`Witness::hears`] is to be told.
    fn recalls(&self, asked: &Asked, claims: &Claims) -> Result<Option<(Said, Vec<u8>)>, SinkError>;

    /// Somebody outside answered, with this payload.
    fn hears(&self, asked: Asked, said: Said, payload: Option<Vec<u8>>) -> Result<(), SinkError>;

    /// The program says something else to somebody than it did when it was recorded, in this way: there the runs part.
    fn parts(&self, from: &Asked, claims: &Claims, how: &str);

    /// The program looks at a file that is so; how it is to appear. Whether it is to appear otherwise at all.
    fn appears(&self, now: &mut Appearance) -> bool;

    /// Who does it for real what one of these rules permits, in a program that is run again; nobody, for all other rules.
    fn outside(&self, rules: &[RuleId]) -> Option<Arc<dyn Outside>>;

    /// Whether nobody outside is asked, because all that is known is known from a record.
    fn plays(&self) -> bool;

    /// How long a payload may be, in bytes; of longer ones nothing need be gathered.
    fn most(&self) -> u64;
}

/// The port of DNS servers, unencrypted (RFC 1035 section 4.2): what is sent there in a run with a name broker goes
/// to it. Ports 853 and 443 are ports like any other.
pub const DNS_PORT: u16 = 53;

/// A socket that a [`Broker`] is to answer.
#[derive(Debug, Clone)]
pub struct Sender {
    /// What it is.
    pub transport: Transport,
    /// Its local address, as the broker sees it; without an IP address in the run's own network.
    pub from: SocketAddr,
    /// The address that answers are to come from, where that is not the broker's own ([`Broker::answers_as`]).
    pub answered_as: Option<SocketAddr>,
    /// Whose it is.
    pub actor: Actor,
    /// What the actor said of itself when it connected.
    pub claims: Claims,
}

/// No names are pinned: every connection is judged by its address alone.
#[derive(Debug, Clone, Copy)]
pub struct NoNames;

impl Names for NoNames {
    fn names(&self, _: IpAddr, _: Timestamp) -> SmallVec<[HostName; 1]> {
        SmallVec::new()
    }
}

/// Nothing is counted, hence no limit is ever reached; for sessions whose policy has none.
#[derive(Debug, Clone, Copy)]
pub struct Uncounted;

impl Meter for Uncounted {
    fn reserve(&self, _: &Action, _: Timestamp) -> Counters {
        Counters::default()
    }

    fn release(&self, _: &Action) {}
}

/// Nobody is there to ask, which is a no.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Approver for Nobody {
    fn ask(&self, _: &Request, _: &str) -> (Answer, Text) {
        (Answer::Denied, Text::default())
    }
}
