//! The C symbol that the preloaded object calls before the interpreter starts.
#![allow(unsafe_code, reason = "a C entry point, and functions of the C library")]

use std::ffi::{CString, c_char, c_int};
use std::panic::catch_unwind;

use crate::{attach, hook, monitor};

/// Joins the run and installs the hook. Returns 0, or 1 with the reason in `message` (at most `size` bytes with
/// its NUL): the process must end then.
///
/// # Safety
/// `message` has room for `size` bytes, and no interpreter has started in this process.
#[allow(unreachable_pub, reason = "reached by name, from the preloaded object")]
// SAFETY: no other symbol of the process has this name; the preload looks it up in this object alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn failcore_attach(message: *mut c_char, size: usize) -> c_int {
    let answer = catch_unwind(|| {
        attach::attach()?;
        hook::install(false).map_err(str::to_owned)
    })
    .unwrap_or_else(|_| Err("the gate failed inside".into()));
    let Err(why) = answer else { return 0 };
    let why = CString::new(why.replace('\0', " ")).unwrap_or_default();
    let bytes = why.as_bytes();
    if let Some(room) = size.checked_sub(1) {
        let length = bytes.len().min(room);
        // SAFETY: the caller gives `size` bytes; `length` plus the NUL is no more.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), message, length);
            *message.add(length) = 0;
        }
    }
    1
}

/// Notices forks, so that a child asks for a gate of its own.
///
/// # Errors
/// In words, where the C library has no memory for it.
pub(crate) fn watch_forks() -> Result<(), String> {
    static WATCHED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if WATCHED.swap(true, std::sync::atomic::Ordering::SeqCst) {
        return Ok(());
    }
    unsafe extern "C" fn in_child() {
        monitor::forked();
    }
    // SAFETY: the handler only adds to an atomic, which is safe in the child of a threaded process; the library
    // that holds it is never unloaded.
    match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
        0 => Ok(()),
        errno => Err(std::io::Error::from_raw_os_error(errno).to_string()),
    }
}

/// Sets a variable of this process's environment.
pub(crate) fn set_environment(name: &[u8], value: &[u8]) {
    let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else { return };
    // SAFETY: CPython changes the environment under the GIL, as we do; native threads that read it meanwhile are
    // in the same danger from `os.putenv`.
    unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) };
}
