//! On which processor a thread begins.
//!
//! Linux often puts a process's first thread behind its parent, on the same processor, and moves it only once the parent
//! sleeps, though another processor is idle; and later ones behind a thread that is at work elsewhere, though the parent is
//! about to sleep (`select_task_rq_fair`; measured on 6.18, half a millisecond each on average). Where it matters to a
//! program's start, who starts a thread says which it is to be. The thread may run anywhere from then on.

#![allow(unsafe_code, reason = "rustix cannot move another thread; the block says why it is sound")]

use std::os::unix::thread::JoinHandleExt;
use std::thread::{Builder, JoinHandle};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu};

/// Starts a thread that works while the calling one does: on another processor, where there is one.
///
/// # Errors
/// Those of [`Builder::spawn`].
pub(crate) fn beside<T: Send + 'static>(
    builder: Builder,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    begin(builder, work, |ours, here| {
        let mut others = *ours;
        others.unset(here);
        others
    })
}

/// Starts a thread that takes over when the calling one sleeps: on the same processor.
///
/// # Errors
/// Those of [`Builder::spawn`].
pub(crate) fn behind<T: Send + 'static>(
    builder: Builder,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    begin(builder, work, |_, here| {
        let mut only = CpuSet::new();
        only.set(here);
        only
    })
}

fn begin<T: Send + 'static>(
    builder: Builder,
    work: impl FnOnce() -> T + Send + 'static,
    on: impl FnOnce(&CpuSet, usize) -> CpuSet,
) -> std::io::Result<JoinHandle<T>> {
    let thread = builder.spawn(work)?;
    if let Ok(ours) = sched_getaffinity(None) {
        let on = on(&ours, sched_getcpu());
        if on.count() > 0 {
            // A thread that waits for its turn is moved at once, and stays where it is when it may run anywhere again.
            place(&thread, &on);
            place(&thread, &ours);
        }
    }
    Ok(thread)
}

/// Where it may not be placed, it runs where it is.
fn place<T>(thread: &JoinHandle<T>, on: &CpuSet) {
    // SAFETY: a thread that was neither joined nor detached, and a set of the size said. Of a thread that has ended the
    // number is 0, which means the calling one: that is placed, and placed back (sched_setaffinity(2)).
    unsafe {
        libc::pthread_setaffinity_np(thread.as_pthread_t(), size_of::<CpuSet>(), (&raw const *on).cast())
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_may_run_anywhere_its_parent_may() {
        let ours = sched_getaffinity(None).unwrap();
        for _ in 0..100 {
            let (tell, told) = std::sync::mpsc::channel::<()>();
            let thread = beside(Builder::new(), move || {
                let _ = told.recv();
                sched_getaffinity(None).unwrap()
            });
            drop(tell);
            assert_eq!(thread.unwrap().join().unwrap(), ours);
            // Those that may have ended before they were placed.
            beside(Builder::new(), || ()).unwrap().join().unwrap();
            behind(Builder::new(), || ()).unwrap().join().unwrap();
            assert_eq!(sched_getaffinity(None).unwrap(), ours);
        }
    }

    #[test]
    fn it_starts_though_its_parent_does_not_rest() {
        if sched_getaffinity(None).unwrap().count() < 2 {
            return;
        }
        let began = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let said = std::sync::Arc::clone(&began);
        let thread =
            beside(Builder::new(), move || said.store(true, std::sync::atomic::Ordering::SeqCst)).unwrap();
        // A parent that never sleeps; the kernel would not leave it alone for as long as this either.
        while !began.load(std::sync::atomic::Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        thread.join().unwrap();
    }
}
