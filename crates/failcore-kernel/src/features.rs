//! What this kernel holds, as far as the kernel lane depends on it.

use crate::probe;

/// The kernel's part of what a plan can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// The Landlock ABI, 0 without Landlock.
    pub landlock: u32,
    /// Whether seccomp hands calls to a supervisor that can put descriptors into the caller (Linux 5.14).
    pub notify: bool,
    /// Whether a call that was handed over waits for its answer whatever signal arrives (Linux 5.19).
    pub killable: bool,
}

impl Features {
    /// Asks the running kernel.
    pub fn probe() -> Self {
        Self {
            landlock: probe::landlock_abi().unwrap_or(0),
            notify: probe::seccomp_notify().is_ok(),
            killable: probe::seccomp_waits_killable(),
        }
    }

    /// What is missing of that without which there is no kernel lane, in words; nothing where all is there.
    pub fn missing(&self) -> Option<&'static str> {
        (!self.notify).then_some(
            "seccomp cannot hand system calls to a supervisor: that takes Linux 5.14 or later, and a container that \
             allows seccomp(2)",
        )
    }
}
