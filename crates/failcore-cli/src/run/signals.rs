//! Signals sent to this process pass on to the program, as if it had been started without us.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use failcore_kernel::ignored_signals;
use rustix::process::{Signal, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::iterator::{Handle, SignalsInfo};
use signal_hook::low_level::siginfo::Cause;

use crate::failure::Problem;

/// The signals passed on, caught from before the program starts.
pub(super) struct Signals {
    caught: Option<SignalsInfo<WithOrigin>>,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Catches them from now on, but for those that whoever started us has them ignored (nohup(1), a shell's jobs in the
    /// background): the program ignores those as well. They wait for [`Signals::forward_to`].
    pub(super) fn catch() -> Result<Self, Problem> {
        let failed = |source| Problem::System { what: "catch signals", source };
        // So that a file size limit is an error of write(2), which denies, and not the end of the parent.
        signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(failed)?;
        let ignored = ignored_signals().map_err(failed)?;
        let passed = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
        let caught = SignalsInfo::new(passed.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0))
            .map_err(failed)?;
        Ok(Self { handle: caught.handle(), caught: Some(caught), thread: None })
    }

    /// Passes them on to the program behind `pidfd`.
    ///
    /// What the terminal sends (Ctrl-C) reaches the program's process group by itself and is not sent twice.
    pub(super) fn forward_to(&mut self, pidfd: &OwnedFd) -> Result<(), Problem> {
        let failed = |source| Problem::System { what: "pass signals on", source };
        let program = pidfd.as_fd().try_clone_to_owned().map_err(failed)?;
        let Some(mut caught) = self.caught.take() else { return Ok(()) };
        let forward = move || {
            for origin in caught.forever() {
                if origin.cause == Cause::Kernel {
                    continue;
                }
                if let Some(signal) = Signal::from_named_raw(origin.signal) {
                    // Gone already is no matter.
                    let _ = pidfd_send_signal(&program, signal);
                }
            }
        };
        let thread = std::thread::Builder::new().name("failcore-signals".into()).spawn(forward);
        self.thread = Some(thread.map_err(failed)?);
        Ok(())
    }

    /// Stops passing on.
    pub(super) fn release(self) {
        self.handle.close();
        if let Some(thread) = self.thread {
            drop(thread.join());
        }
    }
}
