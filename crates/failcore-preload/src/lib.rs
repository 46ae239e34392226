//! Loads the gate into every CPython before its interpreter initialises, and into nothing else.
//!
//! `LD_PRELOAD` is inherited by every program, so this object runs in foreign processes: where the process has no
//! `PySys_AddAuditHook` it does nothing but make forks succeed ([`fork`]). Where it has, the extension module named by
//! `FAILCORE_HOOK` is loaded and told to join the run; a Python that cannot join ends here, with status 126. From then on
//! the process's calls of open(2) come by here, so that what the hook judged is opened as it was judged.
//!
//! Every program that starts pays for what is in here. So it is built without the standard library, which would bring
//! the unwinder's object with it: one more file to find, open and relocate in each process (profile `preload`).
#![cfg_attr(panic = "abort", no_std)]
#![allow(unsafe_code, reason = "a constructor of the dynamic loader, in C's terms")]

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// `failcore_attach` of the extension module.
type Attach = unsafe extern "C" fn(*mut c_char, usize) -> c_int;
/// `failcore_open` of the extension module.
type Ours = unsafe extern "C" fn(*const c_char, c_int, c_uint) -> c_int;
/// open(2).
type Open = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;

/// The extension module's function, once it is loaded.
static OPEN: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// The C library's `open64` and `fork`, once they were looked for.
static OPEN64: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static FORK: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

// `.init_array` holds functions that the loader calls before `main` (System V gABI, "Initialization and
// termination functions").
#[used]
// SAFETY: the section holds pointers to functions of this very type, and the loader has relocated them by then.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = load;

extern "C" fn load() {
    // A signal handler may fork, and may not look anything up.
    next(&FORK, c"fork");
    if !in_python() {
        return;
    }
    join(leave);
}

/// `fork` of the C library, made anew where a signal came between.
///
/// No program expects `EINTR` of fork(2). Under a supervisor it is what a signal leads to that arrives before the
/// supervisor has taken the call (seccomp_unotify(2)); nothing happened then.
///
/// # Safety
/// As fork(2).
// SAFETY: it stands in place of the C library's on purpose, with the same type and meaning.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fork() -> libc::pid_t {
    let real = next(&FORK, c"fork");
    if real.is_null() {
        return missing();
    }
    // SAFETY: the C library's function of that name has this type.
    let real = unsafe { transmute::<*mut c_void, unsafe extern "C" fn() -> libc::pid_t>(real) };
    loop {
        // SAFETY: the caller keeps to the contract of fork(2).
        let pid = unsafe { real() };
        // SAFETY: the calling thread's own errno.
        if pid != -1 || unsafe { *libc::__errno_location() } != libc::EINTR {
            return pid;
        }
    }
}

/// The function of that name which this object stands before, the C library's; `known` remembers it.
fn next(known: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let found = known.load(Ordering::Relaxed);
    if !found.is_null() {
        return found;
    }
    // SAFETY: a look-up by name in what was loaded after this object.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    known.store(found, Ordering::Relaxed);
    found
}

/// What a call of a function that is not there comes to.
fn missing() -> c_int {
    // SAFETY: the calling thread's own errno.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// Whether this process has a CPython in it, linked or shared.
fn in_python() -> bool {
    // SAFETY: a look-up by name in what is loaded already.
    unsafe { !libc::dlsym(libc::RTLD_DEFAULT, c"PySys_AddAuditHook".as_ptr()).is_null() }
}

/// Joins the run; else `tell` is told why not.
fn join(tell: fn(&CStr) -> c_int) -> c_int {
    // SAFETY: C strings; no other thread changes the environment yet. The object is never unloaded. Its symbol has the
    // type above by contract of the package, which ships both.
    let attach = unsafe {
        let hook = libc::getenv(c"FAILCORE_HOOK".as_ptr());
        if hook.is_null() {
            return tell(c"`FAILCORE_HOOK` is not set");
        }
        let object = libc::dlopen(hook, libc::RTLD_NOW | libc::RTLD_LOCAL);
        if object.is_null() {
            return loader_error(tell);
        }
        let symbol = libc::dlsym(object, c"failcore_attach".as_ptr());
        if symbol.is_null() {
            return loader_error(tell);
        }
        OPEN.store(libc::dlsym(object, c"failcore_open".as_ptr()), Ordering::Release);
        transmute::<*mut libc::c_void, Attach>(symbol)
    };
    let mut message = [0; 1024];
    // SAFETY: the buffer has that size, and no interpreter has started: this runs before `main`.
    if unsafe { attach(message.as_mut_ptr(), message.len()) } == 0 {
        return 0;
    }
    // SAFETY: the function leaves a C string in the buffer.
    tell(unsafe { CStr::from_ptr(message.as_ptr()) })
}

/// Stands before the C library's function of that name, which all of CPython's opens go through. The mode is passed as
/// every supported machine passes an argument that a variadic function may or may not read.
///
/// # Safety
/// As open(2).
// SAFETY: taking the place of a function of the C library is what a preloaded object is for; this one does the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let ours = OPEN.load(Ordering::Acquire);
    if !ours.is_null() {
        // SAFETY: `failcore_open` of the extension module has this type by contract of the package, which ships both;
        // the path is the caller's.
        let answer = unsafe { transmute::<*mut c_void, Ours>(ours)(path, flags, mode) };
        if answer != -2 {
            return answer;
        }
    }
    let real = next(&OPEN64, c"open64");
    if real.is_null() {
        return missing();
    }
    // SAFETY: the C library's function, called as this one was.
    unsafe { transmute::<*mut c_void, Open>(real)(path, flags, mode) }
}

fn loader_error(tell: fn(&CStr) -> c_int) -> c_int {
    // SAFETY: called right after a failure.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return tell(c"the dynamic loader does not say why");
    }
    // SAFETY: a C string of the loader's, which nothing replaces before it is told.
    tell(unsafe { CStr::from_ptr(text) })
}

/// Ends the process: a Python without the gate must not run.
fn leave(why: &CStr) -> c_int {
    let part =
        |text: &CStr| libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.count_bytes() };
    let parts = [part(c"failcore: this Python cannot start under the gate: "), part(why), part(c"\n")];
    // SAFETY: a plain write and exit; whether the write succeeds does not matter.
    unsafe {
        libc::writev(2, parts.as_ptr(), 3);
        libc::_exit(126)
    }
}

/// Nothing here panics; the language wants to be told what would happen.
#[cfg(panic = "abort")]
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}
