//! The gates that stand before every operation of this process.
//!
//! A sealed gate stays for the life of the process; those of embedded sessions come and go above it. An operation
//! must be granted by all of them, so opening a session inside another can only narrow.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use failcore_gate::{Gate, Grant, resolve};
use failcore_kernel::Supervised;
use failcore_model::{Action, Claims, Denial, Event, Reason, Rights, Text};
use smallvec::SmallVec;

use crate::scope::{self, Held};
use crate::{hook_site, supervised};

/// Makes the gate of one process: a gate does not survive a fork, so the child asks for its own.
pub(crate) trait Source: Send + Sync {
    /// A gate for the calling process, whose trace continues the session's.
    ///
    /// # Errors
    /// In words, where none can be had; every operation is refused then.
    fn stand(&self) -> Result<Stand, String>;

    /// Who the session belongs to.
    fn identity(&self) -> Identity;

    /// Whether a process belongs to what the session governs.
    fn includes(&self, pid: u32) -> bool;
}

/// Who a session belongs to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    /// The session's id.
    pub(crate) session: String,
    /// The agent's name.
    pub(crate) agent: Option<Text>,
    /// The caller's label of the run.
    pub(crate) run: Option<Text>,
}

/// A gate of one process.
#[derive(Clone)]
pub(crate) struct Stand {
    pub(crate) gate: Arc<Gate>,
    /// Where a supervisor decides again, and records, what it sees happen.
    pub(crate) supervised: Option<Supervised>,
}

/// One gate in force.
pub(crate) struct Post {
    id: u64,
    sealed: bool,
    source: Box<dyn Source>,
    stand: ArcSwap<(u64, Stand)>,
}

impl Post {
    /// The gate of the calling process.
    pub(crate) fn gate(&self) -> Result<Arc<Gate>, Denial> {
        Ok(Arc::clone(&self.stand()?.1.gate))
    }

    fn stand(&self) -> Result<arc_swap::Guard<Arc<(u64, Stand)>>, Denial> {
        let now = generation();
        let current = self.stand.load();
        if current.0 == now {
            return Ok(current);
        }
        // A forked child on its first operation: it has one thread, so nobody races this.
        let stand = self.source.stand().map_err(|error| broken(&error))?;
        self.stand.store(Arc::new((now, stand)));
        Ok(self.stand.load())
    }

    /// Asks about an operation; no grant where a supervisor will decide it.
    fn ask(
        &self,
        action: Action,
        scope: &Held,
        claims: &Claims,
        addresses: &[IpAddr],
    ) -> Result<Option<Grant>, Denial> {
        let stand = self.stand()?;
        let Stand { gate, supervised } = &stand.1;
        if let Some(supervised) = supervised {
            let mut claims = claims.clone();
            if supervised::is_brokered(&action) {
                supervised::tell(supervised, scope, &claims);
                return Ok(None);
            }
            if failcore_kernel::is_seen(&action) {
                // The supervisor records it, and cannot look for itself.
                if supervised.looks || !action.reads() {
                    claims.site = hook_site::here();
                }
                supervised::tell(supervised, scope, &claims);
                return gate.check_ahead(action, claims, addresses).map(|()| None);
            }
            supervised::tell(supervised, scope, &claims);
        }
        gate.check(action, claims.clone(), addresses).map(Some)
    }

    /// Who the session belongs to.
    pub(crate) fn identity(&self) -> Identity {
        self.source.identity()
    }
}

/// All gates in force, the outermost first.
#[derive(Default)]
struct Posts {
    all: SmallVec<[Arc<Post>; 2]>,
    /// Whether some policy judges by the identity of files.
    identities: bool,
}

static POSTS: ArcSwapOption<Posts> = ArcSwapOption::const_empty();
static ANY: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU64 = AtomicU64::new(1);
/// How many forks this process is away from the one that loaded us.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// How many forks away this process is.
pub(crate) fn generation() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Counts a fork; called in the child, where only this is safe to do.
pub(crate) fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Whether any gate is in force: the one load that every audit event pays for.
pub(crate) fn active() -> bool {
    ANY.load(Ordering::Relaxed)
}

/// Puts a gate in force, inside all those before it.
///
/// # Errors
/// In words, where the source has no gate.
pub(crate) fn enter(source: Box<dyn Source>, sealed: bool) -> Result<u64, String> {
    let stand = source.stand()?;
    if let Some(supervised) = &stand.supervised {
        supervised::note(supervised);
    }
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let post = Arc::new(Post { id, sealed, source, stand: ArcSwap::from_pointee((generation(), stand)) });
    change(|all| all.push(Arc::clone(&post)));
    ANY.store(true, Ordering::SeqCst);
    Ok(id)
}

/// Ends the gate of an embedded session. A sealed one stays.
///
/// # Errors
/// In words, where the gate is sealed, or where a tool scope is open: what runs inside one may not end what
/// confines it.
pub(crate) fn leave(id: u64) -> Result<Arc<Gate>, &'static str> {
    let posts = POSTS.load();
    let post = posts
        .as_ref()
        .and_then(|posts| posts.all.iter().find(|post| post.id == id))
        .ok_or("the session is not open")?;
    if post.sealed {
        return Err("a sealed session cannot be ended");
    }
    if !scope::current().is_empty() {
        return Err("a session cannot be ended inside a tool scope");
    }
    let gate = post.gate().map_err(|_| "the session has no trace in this process")?;
    change(|all| all.retain(|post| post.id != id));
    ANY.store(POSTS.load().as_ref().is_some_and(|posts| !posts.all.is_empty()), Ordering::SeqCst);
    Ok(gate)
}

fn change(edit: impl Fn(&mut SmallVec<[Arc<Post>; 2]>)) {
    POSTS.rcu(|old| {
        let mut all = old.as_ref().map(|posts| posts.all.clone()).unwrap_or_default();
        edit(&mut all);
        let identities = all.iter().any(|post| post.gate().is_ok_and(|gate| gate.policy().has_identities()));
        Some(Arc::new(Posts { all, identities }))
    });
}

/// The innermost gate in force.
pub(crate) fn innermost() -> Option<Arc<Post>> {
    POSTS.load().as_ref().and_then(|posts| posts.all.last().cloned())
}

/// Whether a sealed gate is in force.
pub(crate) fn is_sealed() -> bool {
    POSTS.load().as_ref().is_some_and(|posts| posts.all.iter().any(|post| post.sealed))
}

/// Asks every gate about an operation that the interpreter will perform.
///
/// # Errors
/// The first denial; also where a gate has no trace in this process.
pub(crate) fn check(action: Action, addresses: &[IpAddr]) -> Result<(), Denial> {
    grant(action, addresses).map(drop)
}

/// Asks every gate about an operation that we will perform, and returns the innermost one's grant; none where no
/// gate is in force.
///
/// # Errors
/// As [`check`].
pub(crate) fn grant(action: Action, addresses: &[IpAddr]) -> Result<Option<Grant>, Denial> {
    let scope = scope::current().held();
    let claims = scope::claims_of(&scope);
    grant_claimed(action, &scope, &claims, addresses)
}

/// As [`grant`], with what was claimed before; for where the GIL is not held.
///
/// # Errors
/// As [`check`].
pub(crate) fn grant_claimed(
    action: Action,
    scope: &Held,
    claims: &Claims,
    addresses: &[IpAddr],
) -> Result<Option<Grant>, Denial> {
    let posts = POSTS.load();
    let Some(posts) = posts.as_ref() else { return Ok(None) };
    let Some((last, before)) = posts.all.split_last() else { return Ok(None) };
    for post in before {
        drop(post.ask(action.clone(), scope, claims, addresses)?);
    }
    last.ask(action, scope, claims, addresses)
}

/// Whether the operation that the calling thread is about to attempt can be left to a supervisor alone: it is told what
/// it cannot see, decides, and says why it refuses. So it is where no other gate is in force.
pub(crate) fn leave_to_supervisor() -> bool {
    let posts = POSTS.load();
    let Some([post]) = posts.as_ref().map(|posts| posts.all.as_slice()) else { return false };
    let Ok(stand) = post.stand() else { return false };
    let Some(supervised) = &stand.1.supervised else { return false };
    let scope = scope::current().held();
    // Of an allowed read it is not kept; whether this is one, the supervisor finds out.
    let claims = Claims { site: hook_site::here(), ..scope::claims_of(&scope) };
    supervised::tell(supervised, &scope, &claims)
}

/// Calls `act` with what this process and its supervisor share.
pub(crate) fn each_supervised(act: impl Fn(&Supervised)) {
    let posts = POSTS.load();
    for post in posts.iter().flat_map(|posts| &posts.all) {
        if let Ok(stand) = post.stand()
            && let Some(supervised) = &stand.1.supervised
        {
            act(supervised);
        }
    }
}

/// Whether a process belongs to what every gate governs.
pub(crate) fn in_run(pid: u32) -> bool {
    POSTS.load().as_ref().is_some_and(|posts| posts.all.iter().all(|post| post.source.includes(pid)))
}

/// Whether every gate would allow an operation, without asking for it: nothing is recorded.
pub(crate) fn would_allow(action: Action) -> bool {
    let posts = POSTS.load();
    let Some(posts) = posts.as_ref() else { return true };
    let claims = scope::claims();
    posts
        .all
        .iter()
        .all(|post| post.gate().is_ok_and(|gate| gate.foresee(action.clone(), claims.clone(), &[]).is_none()))
}

/// Refuses an operation that could not be decoded, and records that.
pub(crate) fn undecodable(event: &str, what: &str) -> Denial {
    // `kernel.call` is always refused, whatever a policy says.
    let name = format!("{event}: {what}");
    match check(Action::KernelCall(name.as_str().into()), &[]) {
        Err(denial) => Denial { hint: Some(what.into()), ..denial },
        Ok(()) => broken(&name),
    }
}

/// Records a fact with every gate; a trace that cannot be written is a denial.
pub(crate) fn record(event: &Event) -> Result<(), Denial> {
    let posts = POSTS.load();
    let Some(posts) = posts.as_ref() else { return Ok(()) };
    for post in &posts.all {
        post.gate()?.record(event)?;
    }
    Ok(())
}

/// Resolves a path as the policies in force need it.
///
/// # Errors
/// As [`resolve::file`].
pub(crate) fn file(
    at: Option<std::os::fd::BorrowedFd<'_>>,
    asked: &[u8],
    follow: resolve::Follow,
) -> Result<resolve::Found, resolve::ResolveError> {
    let identities = POSTS.load().as_ref().is_some_and(|posts| posts.identities);
    // What the supervisor mediates it records: looking a path up is no operation of the program's.
    if supervised::is_on() {
        return resolve::file_unmediated(at, asked, follow, identities);
    }
    resolve::file(at, asked, follow, identities)
}

/// Grants a presumed open for reading ([`resolve::presumed`]) where nothing stands against it; else nothing has
/// happened. Only where one gate is in force, so that it is judged once.
pub(crate) fn grant_presumed(asked: &[u8], claims: Claims, now: Instant) -> Option<(Arc<Gate>, Grant)> {
    let posts = POSTS.load();
    let posts = posts.as_ref()?;
    let [post] = posts.all.as_slice() else { return None };
    let file = resolve::presumed(asked, posts.identities, now)?;
    let gate = post.gate().ok()?;
    let grant = gate.grant_plain(Action::Open { file, rights: Rights::READ }, claims)?;
    Some((gate, grant))
}

/// A denial where no gate can be asked.
pub(crate) fn broken(hint: &str) -> Denial {
    Denial {
        verb: failcore_model::Verb::Unmapped,
        resource: "gate".into(),
        rule: None,
        reason: Reason::Fault,
        hint: Some(hint.into()),
        errno: libc::EIO,
        retry: false,
    }
}
