//! The C symbol through which the preloaded object asks about each open(2) of the process.
#![allow(unsafe_code, reason = "a C entry point that stands before a function of the C library")]

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::panic::catch_unwind;

use crate::opening;

/// Opens a path that the hook has just judged: a descriptor, −1 with errno, or −2 where the call is not ours to make.
///
/// # Safety
/// `path` is a C string, as open(2) takes it. The GIL need not be held.
#[allow(unreachable_pub, reason = "reached by name, from the preloaded object")]
// SAFETY: no other symbol of the process has this name; the preload looks it up in this object alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn failcore_open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    if path.is_null() {
        return -2;
    }
    // SAFETY: a C string, by the caller's contract.
    let path = unsafe { CStr::from_ptr(path) };
    match catch_unwind(|| opening::open(path, flags, mode)) {
        Ok(Some(Ok(descriptor))) => descriptor,
        Ok(None) => -2,
        failed => {
            let errno = if let Ok(Some(Err(errno))) = failed { errno } else { libc::EIO };
            // SAFETY: errno is the calling thread's own.
            unsafe { *libc::__errno_location() = errno };
            -1
        }
    }
}
