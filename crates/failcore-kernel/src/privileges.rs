//! What a thread may do as root: nothing but what a policy keeps, for good and for every program started from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use failcore_model::{Action, Endpoint};
use failcore_policy::Capability;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs,
};

/// Capabilities that a policy keeps and the calling thread does not have, so that it cannot hand them on.
pub fn lacking_capabilities(keep: &BTreeSet<Capability>) -> Vec<Capability> {
    let own = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    keep.iter().copied().filter(|one| !own.contains(bit(*one))).collect()
}

/// Gives up every capability of the calling thread but these, for good, and the way to new ones.
///
/// # Errors
/// The kernel's, where the thread would have more or less than that.
pub(crate) fn give_up(keep: &BTreeSet<Capability>) -> Result<(), Errno> {
    let kept = keep.iter().copied().map(bit).fold(CapabilitySet::empty(), |all, one| all | one);
    // It fails for a thread that has nothing to give up, or behind the last one that the kernel knows; what counts is
    // checked at the end.
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !kept.contains(one) && remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
    // Root's programs get nothing for being root's.
    let no_root = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    let _ = set_capabilities_secure_bits(no_root);
    let _ = clear_ambient_capability_set();
    set_no_new_privs(true)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    set_capabilities(None, sets)?;
    // Ambient ones outlive the start of a program.
    for one in keep {
        configure_capability_in_ambient_set(bit(*one), true)?;
    }
    if capabilities(None)? == sets { Ok(()) } else { Err(Errno::PERM) }
}

/// Notices where root's program lacks what root's programs mostly have.
#[derive(Default)]
pub(crate) struct Lacks {
    /// Whether it is root's at all.
    root: bool,
    kept: BTreeSet<&'static str>,
    /// By the capabilities that would help, what was said of them.
    told: Mutex<BTreeMap<&'static [&'static str], String>>,
}

impl Lacks {
    pub(crate) fn new(keep: &BTreeSet<Capability>) -> Self {
        let kept = keep.iter().map(|one| one.as_str()).collect();
        Self { root: rustix::process::geteuid().is_root(), kept, told: Mutex::default() }
    }

    /// What to say of a granted action that the kernel refused, where a capability may be what it lacks; each once.
    pub(crate) fn notice(&self, action: &Action, errno: Errno) -> Option<String> {
        let helpful =
            helpful(action).filter(|_| self.root && matches!(errno, Errno::ACCESS | Errno::PERM))?;
        if helpful.iter().all(|one| self.kept.contains(one)) {
            return None;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.contains_key(helpful) {
            return None;
        }
        let names: Vec<String> = helpful.iter().map(|one| format!("\"{one}\"")).collect();
        let text = format!(
            "the kernel refused {} {} ({errno}), which the policy grants: a program of root has none of root's \
             capabilities here; `[capabilities] keep = [{}]` may be what it lacks",
            action.verb(),
            action.resource(),
            names.join(", ")
        );
        told.insert(helpful, text.clone());
        Some(text)
    }

    /// All that was said.
    pub(crate) fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The capabilities without which the kernel refuses an action to some.
fn helpful(action: &Action) -> Option<&'static [&'static str]> {
    Some(match action {
        Action::Open { .. }
        | Action::Read(_)
        | Action::Create(_)
        | Action::Modify(_)
        | Action::Delete(_)
        | Action::Rename { .. }
        | Action::Link { .. }
        | Action::Symlink { .. }
        | Action::IpcConnect(_)
        | Action::Bind(Endpoint::Unix(_)) => &["dac_override"],
        Action::Attr(_) => &["chown", "fowner"],
        Action::Bind(Endpoint::Inet { .. }) => &["net_bind_service"],
        Action::Socket { .. } => &["net_raw"],
        _ => return None,
    })
}

fn bit(capability: Capability) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << capability.number())
}

#[cfg(test)]
mod tests {
    use failcore_model::{AbsPath, FileRef, Rights};

    use super::*;

    fn open() -> Action {
        Action::Open { file: FileRef::at(AbsPath::new(b"/x").unwrap()), rights: Rights::READ }
    }

    #[test]
    fn what_root_lacks_is_said_once() {
        let lacks = Lacks { root: true, ..Lacks::default() };
        assert!(lacks.notice(&open(), Errno::ACCESS).unwrap().contains("dac_override"));
        assert_eq!(lacks.notice(&open(), Errno::ACCESS), None);
        assert_eq!(lacks.notice(&open(), Errno::NOENT), None);
        assert!(lacks.notice(&Action::Attr(FileRef::at(AbsPath::root())), Errno::PERM).is_some());
        assert_eq!(lacks.told().len(), 2);
    }

    #[test]
    fn nothing_is_said_of_what_is_kept_or_of_others_than_root() {
        let lacks = Lacks { root: true, kept: BTreeSet::from(["dac_override"]), ..Lacks::default() };
        assert_eq!(lacks.notice(&open(), Errno::ACCESS), None);
        assert_eq!(Lacks::default().notice(&open(), Errno::ACCESS), None);
    }
}
