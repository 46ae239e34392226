//! The threads that take calls: who they are, and what each has in hand.

#![allow(unsafe_code, reason = "sched_setscheduler has no safe wrapper; each block says why it is sound")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::notify::{Listener, Notice};
use crate::patience::interrupt;
use crate::roster::Crew;

/// Every worker there is.
#[derive(Debug, Default)]
pub(crate) struct Workers(Mutex<Vec<Arc<Worker>>>);

/// A thread that takes calls.
#[derive(Debug)]
pub(crate) struct Worker {
    tid: i32,
    crew: Crew,
    /// The call in hand, 0 where there is none (seccomp_unotify(2), `id`).
    call: AtomicU64,
    /// Whether it opens what was a regular file before.
    guesses: AtomicBool,
    /// The call in hand while it did so at the last look.
    guessed: AtomicU64,
}

impl Workers {
    /// The calling thread is one from now on.
    ///
    /// # Errors
    /// The kernel's, where it cannot give way as its crew does.
    pub(crate) fn join(&self, crew: Crew) -> Result<Arc<Worker>, rustix::io::Errno> {
        if crew == Crew::Yielding {
            give_way()?;
        }
        let worker = Arc::new(Worker {
            tid: rustix::thread::gettid().as_raw_nonzero().get(),
            crew,
            call: AtomicU64::new(0),
            guesses: AtomicBool::new(false),
            guessed: AtomicU64::new(0),
        });
        self.lock().push(Arc::clone(&worker));
        Ok(worker)
    }

    /// It is none any more.
    pub(crate) fn leave(&self, worker: &Worker) {
        self.lock().retain(|other| other.tid != worker.tid);
    }

    /// Interrupts whatever any of them waits in.
    pub(crate) fn interrupt(&self) {
        self.lock().iter().for_each(|worker| interrupt(worker.tid));
    }

    /// Has those who give way and wait for a call look up.
    pub(crate) fn relieve(&self) {
        let idle = |worker: &&Arc<Worker>| worker.crew == Crew::Yielding && worker.call.load(SeqCst) == 0;
        self.lock().iter().filter(idle).for_each(|worker| interrupt(worker.tid));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether a task waits for the answer of who gives way.
    pub(crate) fn keep_waiting(&self, listener: &Listener) -> bool {
        let waits = |call| call != 0 && listener.is_waiting_for(call);
        let workers = self.lock();
        workers.iter().any(|worker| worker.crew == Crew::Yielding && waits(worker.call.load(SeqCst)))
    }

    /// Interrupts who opened what was a regular file before already at the last look: it is none, and waits for somebody.
    pub(crate) fn look_at_guesses(&self) {
        for worker in self.lock().iter() {
            let guessing = if worker.guesses.load(SeqCst) { worker.call.load(SeqCst) } else { 0 };
            if worker.guessed.swap(guessing, SeqCst) == guessing && guessing != 0 {
                interrupt(worker.tid);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Worker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Its crew.
    pub(crate) fn crew(&self) -> Crew {
        self.crew
    }

    /// It has this call in hand.
    pub(crate) fn takes(&self, notice: &Notice) {
        self.call.store(notice.id, SeqCst);
    }

    /// Opens what was a regular file before. Should it be something that waits for somebody by now, it is interrupted.
    pub(crate) fn guess<T>(&self, open: impl FnOnce() -> T) -> T {
        self.guesses.store(true, SeqCst);
        let opened = open();
        self.guesses.store(false, SeqCst);
        opened
    }

    /// It has none in hand.
    pub(crate) fn is_done(&self) {
        self.call.store(0, SeqCst);
    }
}

/// Lets everybody else run before the calling thread, for as long as it lives: without privileges there is no way back.
fn give_way() -> Result<(), rustix::io::Errno> {
    // SAFETY: all zeros is the priority that this policy has.
    let none: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread; the kernel reads one live `sched_param`. By number, as some C libraries refuse.
    match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const none) } {
        0 => Ok(()),
        _ => Err(crate::notify::last()),
    }
}
