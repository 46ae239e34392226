//! A word in shared memory that says whether the parent lives, kept true by the kernel however the parent ends.
//!
//! A killed parent cannot say goodbye, and a process that only shares memory with it has nothing to notice that by. The
//! kernel has: it walks the list of robust futexes of every thread that ends (get_robust_list(2)) and marks those that
//! the thread held. So one thread holds such a futex for the run's lifetime and never lets go.

#![allow(unsafe_code, reason = "set_robust_list has no safe wrapper")]

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;

use rustix::thread::gettid;

use crate::page::RunPage;

/// `FUTEX_OWNER_DIED` (linux/futex.h).
const OWNER_DIED: u32 = 0x4000_0000;

/// `struct robust_list_head` (linux/futex.h), and the one entry of the list.
#[repr(C)]
struct Head {
    first: *const Entry,
    /// From an entry to its futex.
    offset: isize,
    pending: *const Entry,
}

#[repr(C)]
struct Entry {
    next: *const Entry,
}

/// Whether the word's holder lives.
pub(crate) fn is_held(word: &AtomicU32) -> bool {
    let held = word.load(SeqCst);
    held != 0 && held & OWNER_DIED == 0
}

/// Holds the page's word until this is dropped, or this process ends.
pub(crate) struct Holding {
    _until: mpsc::Sender<()>,
}

/// Makes the word say that this process lives.
///
/// # Errors
/// The system's, where no thread can be started or the kernel keeps no such lists.
pub(crate) fn hold(page: &RunPage) -> std::io::Result<Holding> {
    let (until, dropped) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let page = page.clone();
    std::thread::Builder::new().name("failcore-alive".into()).stack_size(64 << 10).spawn(move || {
        let held = enlist(page.alive());
        let failed = held.is_err();
        drop(tell.send(held));
        if !failed {
            // Nobody ever sends: this ends when the other side is dropped. The page stays mapped until then.
            let _ = dropped.recv();
        }
        // The word is marked by the kernel when the thread ends, a moment from now; by hand, so that it is certain
        // while the page is still mapped.
        page.alive().store(OWNER_DIED, SeqCst);
    })?;
    told.recv().map_err(|_| std::io::ErrorKind::Other)??;
    Ok(Holding { _until: until })
}

/// Makes the calling thread the holder of the word, for as long as it lives.
fn enlist(word: &AtomicU32) -> std::io::Result<()> {
    // Read by the kernel when the thread ends, so never freed: a few bytes a run.
    let entry: *mut Entry = Box::leak(Box::new(Entry { next: ptr::null() }));
    let head: *mut Head = Box::leak(Box::new(Head {
        first: entry,
        offset: (ptr::from_ref(word) as isize).wrapping_sub(entry as isize),
        pending: ptr::null(),
    }));
    // SAFETY: both were just leaked, and only this thread knows them. A list ends where it comes back to its head, whose
    // first field is an entry's only one. The kernel only reads the list, and of the word changes nothing but its mark,
    // if it holds this thread's number; the word stays mapped as long as this thread lives. The C library's own list of
    // the thread, which this replaces, is empty: nothing in it takes a robust mutex.
    let answer = unsafe {
        (*entry).next = head.cast::<Entry>();
        libc::syscall(libc::SYS_set_robust_list, head, size_of::<Head>())
    };
    if answer != 0 {
        return Err(std::io::Error::last_os_error());
    }
    word.store(gettid().as_raw_nonzero().get().cast_unsigned(), SeqCst);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use failcore_model::Timestamp;

    use super::*;

    fn soon(what: impl Fn() -> bool) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        while !what() {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn it_is_held_until_it_is_let_go() {
        let (page, _fd) = RunPage::create(Timestamp(0)).unwrap();
        assert!(!is_held(page.alive()));
        let holding = hold(&page).unwrap();
        assert!(is_held(page.alive()));
        drop(holding);
        assert!(soon(|| !is_held(page.alive())));
    }

    #[test]
    fn the_kernel_marks_it_where_the_holder_cannot() {
        let (page, _fd) = RunPage::create(Timestamp(0)).unwrap();
        let of = page.clone();
        // As a thread that ends without a word.
        std::thread::spawn(move || enlist(of.alive()).unwrap()).join().unwrap();
        assert!(soon(|| page.alive().load(SeqCst) == OWNER_DIED));
    }
}
