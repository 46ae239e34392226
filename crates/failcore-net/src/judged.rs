//! From a question to its answer: the name is judged and recorded, looked up once, filtered and pinned.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use failcore_gate::{Gate, Grant, Sender, now};
use failcore_model::{Action, Denial, Event, HostName, Reason, Text, Timestamp};
use hickory_proto::rr::{Record, RecordType};

use crate::question::{About, Question, Reply};
use crate::resolver::{EAI_NODATA, EAI_NONAME, ResolveError, Resolver};

/// A program asks for both families of addresses of a name, and perhaps for more, one right after the other. Within
/// this time that is one operation: one judgement, one record, one look-up.
const ONE_OPERATION: Duration = Duration::from_secs(2);
/// Operations that are remembered for as long; beyond that each question is one of its own.
const MOST_REMEMBERED: usize = 1024;
/// Seconds that an asker may keep an answer, at most. A pin outlives it by far, so that a connect right at its end is
/// still known by its name.
const MOST_SECONDS: u64 = 60;

/// Judges names and looks them up.
pub(crate) struct Judged {
    gate: Arc<Gate>,
    resolver: Resolver,
    remembered: Mutex<HashMap<Key, Remembered>>,
    /// Whether it was said that nobody can be asked.
    unreachable: AtomicBool,
}

/// Who asks, in which tool scope, for what.
type Key = (u32, Vec<Text>, HostName);

struct Remembered {
    since: Instant,
    operation: Arc<Operation>,
}

/// One `net.resolve`, in two steps, each of which happens once; whoever needs one that is under way waits for it.
#[derive(Default)]
struct Operation {
    granted: OnceLock<Result<Grant, Said>>,
    found: OnceLock<Said>,
}

/// What an operation came to.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    /// The name's addresses, and until when they may be kept.
    Exists { addrs: Arc<[IpAddr]>, aliases: Arc<[HostName]>, until: Timestamp },
    /// The same of other records.
    Has { records: Arc<[Record]>, aliases: Arc<[HostName]>, until: Timestamp },
    /// As [`Reply::NoName`].
    NoName,
    /// As [`Reply::Failed`].
    Failed,
}

impl Judged {
    pub(crate) fn new(gate: Arc<Gate>, resolver: Resolver) -> Self {
        Self { gate, resolver, remembered: Mutex::default(), unreachable: AtomicBool::new(false) }
    }

    /// Answers a question. Blocks as long as the judgement, which may ask a person, and the system's resolver do.
    pub(crate) fn answer(&self, asker: &Sender, question: &Question) -> Said {
        let about = question.about();
        let name = match question.name() {
            Ok(name) if about != About::Unknown => name,
            // What we would make of it is never what the asker means: refused also where a rule or audit mode would
            // let it pass.
            _ => {
                let action = Action::Unmapped(Text::from(format!("dns {}", question.text()).as_str()));
                return match self.check(asker, action, &[]) {
                    Err(said) => said,
                    Ok(_) => Said::NoName,
                };
            }
        };
        let operation = self.operation((asker.actor.pid, asker.claims.scope.to_vec(), name.clone()));
        let granted = operation.granted.get_or_init(|| self.check(asker, Action::Resolve(name.clone()), &[]));
        match (granted, about) {
            (Err(said), _) => said.clone(),
            (Ok(_), About::Other) => Said::nothing(),
            (Ok(grant), About::Records(kind)) => self.records(asker, kind, grant),
            (Ok(grant), _) => operation.found.get_or_init(|| self.look_up(asker, &name, grant)).clone(),
        }
    }

    /// The operation that a question belongs to.
    fn operation(&self, key: Key) -> Arc<Operation> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let lasts =
            |of: &Remembered| of.since.elapsed() < ONE_OPERATION || Arc::strong_count(&of.operation) > 1;
        if let Some(found) = remembered.get(&key).filter(|found| lasts(found)) {
            return Arc::clone(&found.operation);
        }
        let operation = Arc::<Operation>::default();
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, found| lasts(found));
        }
        if remembered.len() < MOST_REMEMBERED {
            let fresh = Remembered { since: Instant::now(), operation: Arc::clone(&operation) };
            remembered.insert(key, fresh);
        }
        operation
    }

    fn look_up(&self, asker: &Sender, name: &HostName, grant: &Grant) -> Said {
        let resolve = |name: &HostName| Action::Resolve(name.clone());
        let mut refused = None;
        let found = match self.resolver.look_up(grant, |alias| self.may_follow(asker, alias, &mut refused)) {
            Ok(found) => found,
            Err(error) => return refused.unwrap_or_else(|| self.failed(&error)),
        };
        let grants = |addr| self.gate.foresee(resolve(name), asker.claims.clone(), &[addr]).is_none();
        match self.resolver.admit(name, &found, now(), grants) {
            Ok(answer) => Said::Exists {
                addrs: answer.addrs.into(),
                aliases: found.aliases.into(),
                until: answer.fresh,
            },
            Err(error) => {
                if let ResolveError::NotPublic { dropped, .. } = &error {
                    // Judged again with the addresses, which says why and leaves a record.
                    let addrs: Vec<_> = dropped.iter().map(|(addr, _)| *addr).collect();
                    drop(self.check(asker, resolve(name), &addrs));
                }
                self.failed(&error)
            }
        }
    }

    /// Other records than addresses.
    fn records(&self, asker: &Sender, kind: RecordType, grant: &Grant) -> Said {
        let mut refused = None;
        let may = |alias: &HostName| self.may_follow(asker, alias, &mut refused);
        match self.resolver.records(grant, kind, may) {
            Ok(None) => Said::nothing(),
            Ok(Some(chain)) => Said::Has {
                until: now().plus(u64::from(chain.ttl()).saturating_mul(1_000_000_000)),
                records: chain.records().into(),
                aliases: chain.aliases().into(),
            },
            Err(error) => refused.unwrap_or_else(|| self.failed(&error)),
        }
    }

    /// Whether a name may be an alias of this one. It need not be granted, or no name at a content network would ever
    /// be; but what is refused by its own name is not reached by another.
    fn may_follow(&self, asker: &Sender, alias: &HostName, refused: &mut Option<Said>) -> bool {
        if refused.is_some() {
            return false;
        }
        let resolve = || Action::Resolve(alias.clone());
        let foreseen = self.gate.foresee(resolve(), asker.claims.clone(), &[]);
        if let Some(Reason::Forbidden | Reason::Always | Reason::Caution) = foreseen
            && let Err(said) = self.check(asker, resolve(), &[])
        {
            *refused = Some(said);
        }
        refused.is_none()
    }

    /// What a failure is answered with; that nobody can be asked at all is said once.
    fn failed(&self, error: &ResolveError) -> Said {
        if let ResolveError::Lookup { source, .. } = error
            && source.is_unreachable()
            && !self.unreachable.swap(true, Relaxed)
        {
            let obstacles = self.resolver.obstacles();
            let why = if obstacles.is_empty() { source.to_string() } else { obstacles.join("; ") };
            let text = format!("no name server of `[dns] upstream` could be asked: {why}");
            // What cannot be written shows with the next decision.
            let _ = self.gate.record(&Event::Notice { text });
        }
        match error.eai() {
            EAI_NONAME => Said::NoName,
            EAI_NODATA => Said::nothing(),
            _ => Said::Failed,
        }
    }

    fn check(&self, asker: &Sender, action: Action, addrs: &[IpAddr]) -> Result<Grant, Said> {
        self.gate
            .check_for(asker.actor.clone(), action, asker.claims.clone(), addrs)
            .map_err(|denial| refused(&denial))
    }
}

impl Said {
    /// The name is there, and has none of what was asked for.
    fn nothing() -> Self {
        Self::Exists { addrs: Arc::default(), aliases: Arc::default(), until: Timestamp(0) }
    }

    /// As it is put into a message at this moment.
    pub(crate) fn reply(&self, now: Timestamp) -> Reply<'_> {
        match self {
            Self::Exists { addrs, aliases, until } => {
                Reply::Exists { addrs, aliases, ttl: left(*until, now) }
            }
            Self::Has { records, aliases, until } => Reply::Has { records, aliases, ttl: left(*until, now) },
            Self::NoName => Reply::NoName,
            Self::Failed => Reply::Failed,
        }
    }
}

fn refused(denial: &Denial) -> Said {
    match denial.reason {
        Reason::Fault | Reason::TraceUnwritable | Reason::Diverged => Said::Failed,
        _ => Said::NoName,
    }
}

/// Seconds that an answer may be kept.
fn left(until: Timestamp, now: Timestamp) -> u32 {
    // To the nearest one, since the answer came a moment ago.
    let left = until.0.saturating_sub(now.0).saturating_add(500_000_000) / 1_000_000_000;
    u32::try_from(left.min(MOST_SECONDS)).unwrap_or(0)
}
