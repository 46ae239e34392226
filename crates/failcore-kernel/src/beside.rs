//! Threads that run beside the one that starts them, from the first moment.
//!
//! Linux often puts the first thread of a process behind its parent, on the same processor, and moves it only once the
//! parent sleeps, though another processor is idle (`select_task_rq_fair`, measured on 6.18: 0.5 ms on average). Work that
//! is to overlap with what the parent goes on to do is sent to another processor by hand.

#![allow(unsafe_code, reason = "rustix cannot move another thread; the block says why it is sound")]

use std::os::unix::thread::JoinHandleExt;
use std::thread::{Builder, JoinHandle};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu};

/// Starts a thread named `name`, on another processor than this where there is one.
///
/// # Errors
/// Those of [`Builder::spawn`].
pub fn beside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let thread = Builder::new().name(name.into()).spawn(work)?;
    if let Ok(ours) = sched_getaffinity(None) {
        let mut others = ours;
        others.unset(sched_getcpu());
        if others.count() > 0 {
            // A thread that is waiting for its turn is moved at once, and stays where it is when it may run anywhere again.
            place(&thread, &others);
            place(&thread, &ours);
        }
    }
    Ok(thread)
}

/// Where it may not be placed, it runs where it is.
fn place<T>(thread: &JoinHandle<T>, on: &CpuSet) {
    // SAFETY: a thread that was neither joined nor detached, and a set of the size said. Of a thread that has ended the
    // number is 0, which means the calling one: it is placed as it was in the end (sched_setaffinity(2)).
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
            let thread = beside("beside", move || {
                let _ = told.recv();
                sched_getaffinity(None).unwrap()
            });
            drop(tell);
            assert_eq!(thread.unwrap().join().unwrap(), ours);
            // Of one that may have ended before it was placed.
            beside("beside", || ()).unwrap().join().unwrap();
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
        let thread = beside("beside", move || said.store(true, std::sync::atomic::Ordering::SeqCst)).unwrap();
        // A parent that never sleeps; the kernel would not leave it alone for as long as this either.
        while !began.load(std::sync::atomic::Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        thread.join().unwrap();
    }
}
