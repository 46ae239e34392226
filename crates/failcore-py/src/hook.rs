//! The audit hook: what CPython calls before nearly everything that reaches outside.
//!
//! `PySys_AddAuditHook` (PEP 578) installs a C function that Python code can neither see nor remove, in every
//! interpreter of the process. It gets an event's name and arguments and may refuse by raising. What matters for
//! cost is the event that does not matter: those leave after one comparison of the name.
#![allow(unsafe_code, reason = "the audit hook is a C function on borrowed objects")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi;

use crate::hook_entry;
use crate::hook_object::{Args, Object};
use crate::hook_raise::{self, Refusal};
use crate::{events, monitor};

// Exported by every CPython since 3.8 (Include/cpython/sysmodule.h), before and after initialisation.
unsafe extern "C" {
    fn PySys_AddAuditHook(hook: Hook, data: *mut c_void) -> c_int;
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

type Hook = unsafe extern "C" fn(*const c_char, *mut ffi::PyObject, *mut c_void) -> c_int;

static INSTALLED: AtomicBool = AtomicBool::new(false);
const PROBE: &CStr = c"failcore.probe";

/// Whether an installation is being tried out, and whether the hook has answered.
static PROBING: AtomicBool = AtomicBool::new(false);
static PROBED: AtomicBool = AtomicBool::new(false);

/// Installs the hook, once for the process.
///
/// Works before the interpreter initialises. Afterwards an earlier Python hook can veto it silently, so it is
/// tried out at once.
///
/// # Errors
/// In words, where the hook is not in force afterwards.
pub(crate) fn install(initialised: bool) -> Result<(), &'static str> {
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    // SAFETY: the hook is a static function of a library that is never unloaded, and takes no data.
    let add = || unsafe { PySys_AddAuditHook(hook, std::ptr::null_mut()) };
    let answer = if initialised { add() } else { hook_entry::remembered(add) };
    let mut alive = answer == 0;
    if initialised && alive {
        PROBED.store(false, Ordering::SeqCst);
        PROBING.store(true, Ordering::SeqCst);
        // SAFETY: a C string and no arguments; the GIL is held. Another hook's exception is not ours to pass on.
        unsafe {
            if PySys_Audit(PROBE.as_ptr(), std::ptr::null()) != 0 {
                ffi::PyErr_Clear();
            }
        }
        PROBING.store(false, Ordering::SeqCst);
        alive = PROBED.load(Ordering::SeqCst);
    }
    if alive {
        return Ok(());
    }
    INSTALLED.store(false, Ordering::SeqCst);
    if initialised {
        // SAFETY: the GIL is held; a veto may have left an exception.
        unsafe { ffi::PyErr_Clear() };
    }
    Err("another audit hook refuses the gate")
}

/// What CPython calls. Nothing unwinds out of it, and whatever fails in it is a refusal.
unsafe extern "C" fn hook(event: *const c_char, args: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    if !monitor::active() {
        if PROBING.load(Ordering::Relaxed) {
            probed(event);
        }
        return 0;
    }
    let answer = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: CPython passes a C string and a tuple that both outlive the call, with the GIL held (it calls
        // no hook without a thread state: Python/sysmodule.c, sys_audit_tstate).
        let (name, args) = unsafe { (CStr::from_ptr(event).to_bytes(), Object::new(args)) };
        events::judge(name, args.and_then(Args::of))
    }));
    match answer {
        Ok(Ok(())) => 0,
        Ok(Err(refusal)) => refuse(*refusal),
        Err(_) => refuse(Refusal::of(monitor::broken("the gate failed inside"))),
    }
}

#[cold]
fn refuse(refusal: Refusal) -> c_int {
    // A panic while building the exception still leaves one, or CPython would report a SystemError, which is a
    // refusal as well.
    if catch_unwind(AssertUnwindSafe(|| hook_raise::raise(refusal))).is_err() {
        hook_raise::raise_plain(libc::EIO, "the gate failed inside");
    }
    -1
}

#[cold]
fn probed(event: *const c_char) {
    // SAFETY: CPython passes a C string.
    if unsafe { CStr::from_ptr(event) } == PROBE {
        PROBED.store(true, Ordering::SeqCst);
    }
}
