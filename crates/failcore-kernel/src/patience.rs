//! Waiting for the agent's sake without getting stuck: a call that blocks in a worker ends when its task is gone or
//! has a signal to see to.

#![allow(unsafe_code, reason = "a signal that only interrupts; each block says why it is sound")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::call::Call;
use crate::notify::{Listener, Notice};
use crate::standstill::Leave;
use crate::tasks::field;

/// How often waiting calls are looked at.
const BEAT: Duration = Duration::from_millis(20);
/// How often to look around while no call waits.
const IDLE: Duration = Duration::from_millis(50);
/// How often it is looked whether a worker is long at a call, while there are any.
const LOOK: Duration = Duration::from_millis(2);
/// What makes the kernel restart the call or report `EINTR`, as the signal's handler was set up
/// (linux/errno.h `ERESTARTSYS`).
pub(crate) const RESTART: Errno = Errno::from_raw_os_error(512);

/// The calls that wait in workers.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    waiting: Mutex<HashMap<i32, Notice>>,
    bell: Condvar,
    over: AtomicBool,
}

impl Patience {
    /// Runs `block`, which may wait for long.
    ///
    /// # Errors
    /// Its own; `ERESTARTSYS` where the task has a signal to see to first.
    pub(crate) fn during<T>(
        &self,
        call: &Call<'_>,
        mut block: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        prepare();
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        self.lock().insert(own, call.notice);
        let result = loop {
            // While the run is paused it does not wait in the kernel, where it could come through.
            if call.shared.standstill.is_still()
                && (call.shared.standstill.rest(|| ()).1 == Leave::Never
                    || !call.shared.listener.is_waiting(&call.notice))
            {
                break Err(Errno::INTR);
            }
            match block() {
                // A nudge that was meant for the call before this one, or for a pause.
                Err(Errno::INTR)
                    if call.shared.listener.is_waiting(&call.notice) && !has_signal(call.notice.tid) => {}
                Err(Errno::INTR) => break Err(RESTART),
                result => break result,
            }
        };
        self.lock().remove(&own);
        result
    }

    /// Looks after waiting calls, and does `also` now and then, until [`Patience::end`]; more often it does `look`, which
    /// says whether to look again soon.
    pub(crate) fn watch(&self, listener: &Listener, mut look: impl FnMut() -> bool, also: impl Fn()) {
        let mut since = Instant::now();
        let mut waiting = self.lock();
        while !self.over.load(SeqCst) {
            let beat = if waiting.is_empty() { IDLE } else { BEAT };
            let nap = if look() { LOOK } else { beat };
            waiting = match self.bell.wait_timeout(waiting, nap) {
                Ok((waiting, _)) => waiting,
                Err(poisoned) => poisoned.into_inner().0,
            };
            if since.elapsed() < beat {
                continue;
            }
            since = Instant::now();
            for (worker, notice) in waiting.iter() {
                if !listener.is_waiting(notice) || has_signal(notice.tid) {
                    interrupt(*worker);
                }
            }
            drop(waiting);
            also();
            waiting = self.lock();
        }
    }

    /// Has it looked now.
    pub(crate) fn look_now(&self) {
        self.bell.notify_all();
    }

    /// Interrupts every call that waits: it looks up, and waits on where it may.
    pub(crate) fn nudge(&self) {
        self.lock().keys().for_each(|worker| interrupt(*worker));
    }

    /// Ends the watch.
    pub(crate) fn end(&self) {
        let waiting = self.lock();
        self.over.store(true, SeqCst);
        drop(waiting);
        self.bell.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Notice>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The signal that interrupts a worker; nobody else uses it, and its handler does nothing.
fn nudge() -> i32 {
    libc::SIGRTMAX() - 3
}

/// Makes the nudge interrupt instead of kill.
pub(crate) fn prepare() {
    static ONCE: Once = Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid one (no flags, empty mask; without SA_RESTART calls end with EINTR);
        // the handler does nothing, hence is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(nudge(), &raw const action, std::ptr::null_mut());
        }
    });
}

/// Interrupts whatever call a thread of ours waits in.
pub(crate) fn interrupt(worker: i32) {
    // SAFETY: numbers only; the signal has a handler (`prepare`), and a thread that is gone is an error, no harm.
    unsafe {
        libc::syscall(libc::SYS_tgkill, std::process::id(), worker, nudge());
    }
}

/// Whether a signal is pending that would interrupt the task were it waiting in the kernel itself.
fn has_signal(tid: u32) -> bool {
    let Ok(status) = crate::tasks::proc_file(format!("/proc/{tid}/status")) else { return false };
    let mask = |label: &[u8]| {
        field(&status, label)
            .and_then(|hex| u64::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok())
            .unwrap_or_default()
    };
    let bit = |signal: i32| 1u64 << (signal - 1);
    let quiet = bit(libc::SIGCHLD) | bit(libc::SIGCONT) | bit(libc::SIGURG) | bit(libc::SIGWINCH);
    let pending = (mask(b"SigPnd:") | mask(b"ShdPnd:")) & !mask(b"SigBlk:") & !mask(b"SigIgn:");
    pending & (mask(b"SigCgt:") | !quiet) != 0
}
