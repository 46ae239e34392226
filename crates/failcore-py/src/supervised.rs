//! Under a supervisor: what each thread tells it beside its system calls, and hears from it.
//!
//! The supervisor decides and records what the kernel lets it see. The hook tells it what the kernel cannot see, and
//! refuses early what will be refused for certain, so that the exception says all there is to say.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use failcore_gate::DNS_PORT;
use failcore_kernel::{Slot, Slots, Supervised};
use failcore_model::{Action, Claims, Denial, Endpoint, Text, Transport};

use crate::scope::{self, Held};
use crate::{hook_site, monitor};

/// Whether this process runs under a supervisor.
static SUPERVISED: AtomicBool = AtomicBool::new(false);

/// Whether the supervisor also wants to know where in the program it is looked.
static LOOKS: AtomicBool = AtomicBool::new(false);

/// Notes that this process, and with it every fork of it, runs under a supervisor.
pub(crate) fn note(supervised: &Supervised) {
    LOOKS.store(supervised.looks, Ordering::SeqCst);
    SUPERVISED.store(true, Ordering::SeqCst);
}

/// Whether the supervisor is to know where in the program it is read and looked too.
pub(crate) fn looks_are_told() -> bool {
    LOOKS.load(Ordering::Relaxed)
}

/// Whether this process runs under a supervisor.
pub(crate) fn is_on() -> bool {
    SUPERVISED.load(Ordering::Relaxed)
}

/// Whether the supervisor decides on what is sent, whomever it is sent to: DNS servers, in whose place the name broker
/// answers.
pub(crate) fn is_brokered(action: &Action) -> bool {
    let (Action::Connect(Endpoint::Inet { transport, addr })
    | Action::Send(Endpoint::Inet { transport, addr })) = action
    else {
        return false;
    };
    addr.port() == DNS_PORT && matches!(transport, Transport::Tcp | Transport::Udp)
}

/// The calling thread's slot.
struct Own {
    /// The process's generation that it belongs to: a forked child has slots of its own.
    generation: u64,
    slots: Arc<Slots>,
    slot: Slot,
    /// What was claimed last.
    claimed: Option<(Held, Option<Text>)>,
    /// Whether there was room for all of it.
    whole: bool,
}

impl Drop for Own {
    fn drop(&mut self) {
        // What a fork left us is a copy of the parent's, whose memory we do not have.
        if self.generation == monitor::generation() {
            self.slots.free(self.slot);
        }
    }
}

thread_local!(static OWN: RefCell<Option<Own>> = const { RefCell::new(None) });

fn with_own<T>(supervised: &Supervised, act: impl FnOnce(&mut Own) -> T) -> Option<T> {
    OWN.try_with(|own| {
        let mut own = own.try_borrow_mut().ok()?;
        let generation = monitor::generation();
        if own.as_ref().is_none_or(|own| own.generation != generation) {
            *own = None;
            let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            let slot = supervised.slots.take(tid)?;
            *own = Some(Own {
                generation,
                slots: Arc::clone(&supervised.slots),
                slot,
                claimed: None,
                whole: false,
            });
        }
        own.as_mut().map(act)
    })
    .ok()
    .flatten()
}

/// Tells the supervisor what the calling thread does from here on, and for whom. Returns whether it will know all of
/// it, and can answer.
pub(crate) fn tell(supervised: &Supervised, scope: &Held, claims: &Claims) -> bool {
    let told = with_own(supervised, |own| {
        let same = own.claimed.as_ref().is_some_and(|(told, site)| {
            *site == claims.site
                && match (told, scope) {
                    (None, None) => true,
                    (Some(told), Some(scope)) => Arc::ptr_eq(told, scope),
                    _ => false,
                }
        });
        if same {
            return own.whole;
        }
        let json =
            if claims.is_empty() { Vec::new() } else { serde_json::to_vec(claims).unwrap_or_default() };
        // Too long a call site is no reason to lose the scope.
        own.whole = own.slots.claim(own.slot, &json);
        if !own.whole {
            let shorter = Claims { site: None, ..claims.clone() };
            own.slots.claim(own.slot, &serde_json::to_vec(&shorter).unwrap_or_default());
        }
        own.claimed = Some((scope.clone(), claims.site.clone()));
        own.whole
    });
    told.unwrap_or(false)
}

/// Tells the supervisor the calling thread's scope, as after it was entered or left.
pub(crate) fn tell_scope() {
    if !is_on() {
        return;
    }
    let held = scope::current().held();
    let claims = scope::claims_of(&held);
    monitor::each_supervised(|supervised| {
        tell(supervised, &held, &claims);
    });
}

/// Tells the supervisor where in the program the calling thread is, until [`moved_on`].
pub(crate) fn tell_place() {
    let held = scope::current().held();
    let claims = Claims { site: hook_site::here(), ..scope::claims_of(&held) };
    monitor::each_supervised(|supervised| {
        tell(supervised, &held, &claims);
    });
}

/// After a call: what comes next, unseen, is not there any more.
pub(crate) fn moved_on() {
    if looks_are_told() {
        tell_scope();
    }
}

/// Makes ready to hear of the next call alone: what was refused before is forgotten.
pub(crate) fn listen() {
    if is_on() {
        monitor::each_supervised(|supervised| {
            with_own(supervised, |own| drop(own.slots.reply(own.slot)));
        });
    }
}

/// Why the calling thread's last call was refused, where the supervisor said so.
pub(crate) fn heard() -> Option<Denial> {
    OWN.try_with(|own| {
        let own = own.try_borrow().ok()?;
        let own = own.as_ref().filter(|own| own.generation == monitor::generation())?;
        serde_json::from_slice(&own.slots.reply(own.slot)?).ok()
    })
    .ok()
    .flatten()
}
