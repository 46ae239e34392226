//! Loads the gate into every CPython before its interpreter initialises, and into nothing else.
//!
//! `LD_PRELOAD` is inherited by every program, so this object runs in foreign processes: where the process has no
//! `PySys_AddAuditHook` it does nothing at all. Where it has, the extension module named by `FAILCORE_HOOK` is loaded
//! and told to join the run; a Python that cannot join ends here, with status 126.
#![allow(unsafe_code, reason = "a constructor of the dynamic loader, in C's terms")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::transmute;

/// `failcore_attach` of the extension module.
type Attach = unsafe extern "C" fn(*mut c_char, usize) -> c_int;

// `.init_array` holds functions that the loader calls before `main` (System V gABI, "Initialization and
// termination functions").
#[used]
// SAFETY: the section holds pointers to functions of this very type, and the loader has relocated them by then.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = load;

extern "C" fn load() {
    if !in_python() {
        return;
    }
    if let Err(why) = join() {
        leave(&why);
    }
}

/// Whether this process has a CPython in it, linked or shared.
fn in_python() -> bool {
    // SAFETY: a look-up by name in what is loaded already.
    unsafe { !libc::dlsym(libc::RTLD_DEFAULT, c"PySys_AddAuditHook".as_ptr()).is_null() }
}

fn join() -> Result<(), String> {
    const VARIABLE: &str = "FAILCORE_HOOK";
    let hook = std::env::var_os(VARIABLE).ok_or_else(|| format!("`{VARIABLE}` is not set"))?;
    let hook = CString::new(hook.into_encoded_bytes()).map_err(|_| format!("`{VARIABLE}` is no path"))?;
    // SAFETY: C strings; the object is never unloaded. Its symbol has the type above by contract of the package,
    // which ships both.
    let attach = unsafe {
        let object = libc::dlopen(hook.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if object.is_null() {
            return Err(loader_error());
        }
        let symbol = libc::dlsym(object, c"failcore_attach".as_ptr());
        if symbol.is_null() {
            return Err(loader_error());
        }
        transmute::<*mut libc::c_void, Attach>(symbol)
    };
    let mut message = [0; 1024];
    // SAFETY: the buffer has that size, and no interpreter has started: this runs before `main`.
    if unsafe { attach(message.as_mut_ptr(), message.len()) } == 0 {
        return Ok(());
    }
    // SAFETY: the function leaves a C string in the buffer.
    Err(unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned())
}

fn loader_error() -> String {
    // SAFETY: called right after a failure; the text is copied at once.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the dynamic loader does not say why".into();
    }
    // SAFETY: a C string of the loader's.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Ends the process: a Python without the gate must not run.
fn leave(why: &str) -> ! {
    let text = format!("failcore: this Python cannot start under the gate: {why}\n");
    // SAFETY: a plain write and exit; whether the write succeeds does not matter.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(126)
    }
}
