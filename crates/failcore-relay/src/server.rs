//! The relay of a run: takes connections on loopback, and makes their other halves.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use failcore_gate::{Gate, Passage, Relay, Witness};
use failcore_model::{Coverage, Hold, Verb};
use failcore_policy::PolicySet;
use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{interval, sleep, timeout, timeout_at};

use crate::authority::Authority;
use crate::body::moment;
use crate::credentials::Credentials;
use crate::idle::Idle;
use crate::ride::{SILENCE, ride};
use crate::trust::Trust;
use crate::waiting::Waiting;
use crate::witnessed::FIRST_WORDS;
use crate::{Error, lock};

/// Connections at once; more wait.
const MOST: usize = 4096;
/// Bytes by which it is told what a connection speaks.
const FIRST: usize = 16;
/// Questions to the gate at once, each of which may wait for a person.
const MOST_QUESTIONS: usize = 512;

/// What a relay goes by, beside the policy.
pub struct Setup {
    /// Whom it believes.
    pub trust: Trust,
    /// The authority that programs were told to believe; without one no connection is opened.
    pub authority: Option<Authority>,
    /// What it adds to requests.
    pub credentials: Credentials,
    /// The proxies that whoever starts the run goes through, by the variables that curl knows.
    pub proxies: Matcher,
}

/// The relay of a run.
///
/// # Security
/// What reaches it is written by the agent, and by servers. All of it is read by one thread, which does nothing else; a
/// connection that breaks something ends alone. The authority's key and the secrets are in this process, into which no
/// program of the run can look.
pub struct RelayServer {
    shared: Arc<Shared>,
    handle: Handle,
    over: Arc<Notify>,
    serving: Option<JoinHandle<()>>,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) gate: Arc<Gate>,
    pub(crate) client: ClientConfig,
    pub(crate) setup: Arc<Setup>,
    pub(crate) budgets: Budgets,
    pub(crate) idle: Arc<Idle>,
    /// Who keeps what is said, or says it.
    pub(crate) witness: Option<Arc<dyn Witness>>,
    /// Whom programs did not believe to be us, so that their TLS passes as it is.
    pub(crate) unopened: Mutex<HashSet<(SocketAddr, String)>>,
    waiting: Waiting,
    /// On loopback, by family.
    doors: Vec<SocketAddr>,
    paused: Mutex<bool>,
    resumed: Condvar,
    rooms: Arc<Semaphore>,
}

/// How long bodies may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budgets {
    pub(crate) request: Option<u64>,
    pub(crate) response: Option<u64>,
}

impl RelayServer {
    /// Starts serving on loopback, on ports that the system chooses. What is asked for is judged and recorded by `gate`.
    ///
    /// # Errors
    /// The kernel's, where there is no loopback, no descriptor or no thread to be had.
    /// Where there is a `witness`, it sees all that is said, and connections that are granted as they are can be carried too.
    pub fn start(gate: Arc<Gate>, setup: Arc<Setup>, witness: Option<Arc<dyn Witness>>) -> io::Result<Self> {
        let mut listeners = vec![listen(Ipv4Addr::LOCALHOST.into())?];
        // A machine without IPv6 has no servers to ask by it either.
        listeners.extend(listen(Ipv6Addr::LOCALHOST.into()));
        let doors = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let most = |name| gate.policy().message_budget(name).map(|(most, _)| most);
        let budgets = Budgets { request: most("request_bytes"), response: most("response_bytes") };
        let shared = Arc::new(Shared {
            client: setup.trust.client().map_err(io::Error::other)?,
            gate,
            setup,
            budgets,
            idle: Arc::default(),
            witness,
            unopened: Mutex::default(),
            waiting: Waiting::default(),
            doors,
            paused: Mutex::new(false),
            resumed: Condvar::new(),
            rooms: Arc::new(Semaphore::new(MOST)),
        });
        // One thread: what stands still while the run is paused stands still as a whole.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MOST_QUESTIONS)
            .build()?;
        let (handle, over) = (runtime.handle().clone(), Arc::new(Notify::new()));
        let (of, end) = (Arc::clone(&shared), Arc::clone(&over));
        let serving = Builder::new().name("failcore-relay".into()).spawn(move || {
            runtime.block_on(async {
                for listener in listeners {
                    // It was made here, and is ready.
                    if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                        tokio::spawn(take_in(Arc::clone(&of), listener));
                    }
                }
                // With a timer that is sooner than those of connections, none of theirs has to wake this very thread, as
                // a first timer does: a system call for each request.
                let mut sooner = interval(SILENCE / 4);
                loop {
                    tokio::select! {
                        () = end.notified() => return,
                        _ = sooner.tick() => {}
                    }
                }
            });
            // Cuts everything. Who waits for a person's answer is told by others that nobody gives one any more.
            runtime.shutdown_background();
        })?;
        Ok(Self { shared, handle, over, serving: Some(serving) })
    }

    /// Says in a coverage what a lane with a relay holds of a policy.
    pub fn covers(coverage: &mut Coverage, policy: &PolicySet) {
        if !policy.carries() {
            return;
        }
        if let Some(held) = coverage.verbs.iter_mut().find(|held| held.verb == Verb::NetHttp) {
            held.hold = Hold::Binding;
            held.by = "relay".into();
        }
        let carried: Vec<String> = policy.carried().map(|rule| rule.text.clone()).collect();
        coverage.notes.push(format!("carried connections: {}", carried.join(", ")));
        coverage.notes.extend(NOT_HELD.iter().map(|note| (*note).into()));
    }

    /// The port by which a supervisor makes connections to it.
    pub fn relay(&self) -> Arc<dyn Relay> {
        Arc::clone(&self.shared) as Arc<dyn Relay>
    }

    /// Carries nothing any more, until it is told to go on; whether it stood still within that time.
    pub fn pause(&self, patience: Duration) -> bool {
        *lock(&self.shared.paused) = true;
        let (stands, still) = mpsc::channel();
        let of = Arc::clone(&self.shared);
        self.handle.spawn(async move {
            // Holds the one thread there is.
            let paused = lock(&of.paused);
            let _ = stands.send(());
            let paused = of.resumed.wait_while(paused, |paused| *paused);
            drop(paused.unwrap_or_else(PoisonError::into_inner));
        });
        still.recv_timeout(patience).is_ok()
    }

    /// Goes on after [`RelayServer::pause`].
    pub fn resume(&self) {
        *lock(&self.shared.paused) = false;
        self.shared.resumed.notify_all();
    }
}

/// What the relay does not hold.
const NOT_HELD: &[&str] = &[
    "on a carried connection that is not opened, the name that TLS asks for is checked, and what is said within it is not",
    "of a request the method, the host and the path are judged; query, headers and body pass as they are",
];

impl Drop for RelayServer {
    fn drop(&mut self) {
        self.resume();
        self.over.notify_one();
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}

impl Relay for Shared {
    fn instead_of(&self, to: SocketAddr) -> Option<SocketAddr> {
        let v4 = self.doors.first()?;
        if !to.ip().to_canonical().is_ipv4() {
            return self.doors.get(1).copied();
        }
        Some(match v4.ip() {
            IpAddr::V4(ip) if to.is_ipv6() => (ip.to_ipv6_mapped(), v4.port()).into(),
            _ => *v4,
        })
    }

    fn tcp_ports(&self) -> Vec<u16> {
        self.doors.iter().map(SocketAddr::port).collect()
    }

    fn carry(&self, passage: Passage) {
        let to = SocketAddr::new(passage.to.ip().to_canonical(), passage.to.port());
        self.waiting.add(Passage { to, ..passage });
    }
}

fn listen(at: IpAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((at, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections in, until the end.
async fn take_in(shared: Arc<Shared>, listener: tokio::net::TcpListener) {
    loop {
        let Ok(room) = Arc::clone(&shared.rooms).acquire_owned().await else { return };
        let Ok((stream, from)) = listener.accept().await else {
            // No descriptor, most likely: some connection will end.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // Whatever ends it, the program sees it end.
            let _ = known(&shared, stream, from).await;
            shared.waiting.leave(from);
            drop(room);
        });
    }
}

/// Carries a connection that the supervisor made known.
async fn known(shared: &Arc<Shared>, stream: tokio::net::TcpStream, from: SocketAddr) -> Result<(), Error> {
    // It is made known after it was made, and before the program can say anything.
    let mut first = [0; FIRST];
    let waits = if shared.witness.is_some() { FIRST_WORDS } else { SILENCE };
    let words = async {
        loop {
            match timeout(waits, stream.peek(&mut first)).await {
                Ok(length) => return length.map(Some),
                Err(_) if shared.waiting.is_expected(from, |passage| !passage.judged) => return Ok(None),
                Err(_) => {}
            }
        }
    };
    let length = match timeout(SILENCE, words).await?? {
        Some(0) => return Ok(()),
        Some(length) => length,
        // It listens first.
        None => 0,
    };
    let Some(passage) = shared.waiting.take(from) else { return Ok(()) };
    let ends = passage.ends;
    let journey = ride(shared, stream, passage, &first[..length]);
    match ends {
        Some(ends) => timeout_at(moment(ends), journey).await?,
        None => journey.await,
    }
}
