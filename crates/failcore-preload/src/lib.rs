//! Loads the gate into every CPython before its interpreter initialises, and into nothing else.
//!
//! `LD_PRELOAD` is inherited by every program, so this object runs in foreign processes: where the process has no
//! `PySys_AddAuditHook` it does nothing but make calls anew that a signal kept from being taken. Where it has, the extension module named by
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
/// The C library's `open64`, once it was looked for.
static OPEN64: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

// `.init_array` holds functions that the loader calls before `main` (System V gABI, "Initialization and
// termination functions").
#[used]
// SAFETY: the section holds pointers to functions of this very type, and the loader has relocated them by then.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = load;

extern "C" fn load() {
    // A signal handler and a forked child may call them, and may not look anything up.
    for (real, name) in REAL.iter().zip(NAMES) {
        next(real, name);
    }
    if !in_python() {
        return;
    }
    join(leave);
}

/// Functions of the C library, made anew where a signal came between. No program expects `EINTR` of these, and the C
/// library passes on what its own function comes to.
///
/// Under a supervisor `EINTR` is what a signal leads to that arrives before the supervisor has taken the call
/// (seccomp_unotify(2)); nothing happened then.
macro_rules! made_anew {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        /// Those that this object stands before, in the order of their names here.
        static REAL: [AtomicPtr<c_void>; NAMES.len()] = [const { AtomicPtr::new(null_mut()) }; NAMES.len()];
        const NAMES: &[&CStr] = &[$(
            // SAFETY: ends in the one NUL that it holds.
            unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) }
        ),*];

        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "called as the functions are")]
        enum Nth { $($name),* }

        $(
            /// As the C library's function of that name.
            ///
            /// # Safety
            /// As it says.
            // SAFETY: it stands in place of the C library's on purpose, with the same type and meaning.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> c_int {
                let nth = Nth::$name as usize;
                let real = next(&REAL[nth], NAMES[nth]);
                if real.is_null() {
                    return missing();
                }
                // SAFETY: the C library's function of that name has this type.
                let real = unsafe {
                    transmute::<*mut c_void, unsafe extern "C" fn($($kind),*) -> c_int>(real)
                };
                loop {
                    // SAFETY: the caller keeps to the contract of the function.
                    let answer = unsafe { real($($argument),*) };
                    // SAFETY: the calling thread's own errno.
                    if answer != -1 || unsafe { *libc::__errno_location() } != libc::EINTR {
                        return answer;
                    }
                }
            }
        )*
    };
}

type Path = *const c_char;
type Strings = *const *const c_char;
type Bytes = *const c_void;

made_anew! {
    fork();
    execve(path: Path, arguments: Strings, environment: Strings);
    kill(process: libc::pid_t, signal: c_int);
    mkdir(path: Path, mode: libc::mode_t);
    mkdirat(dir: c_int, path: Path, mode: libc::mode_t);
    rmdir(path: Path);
    unlink(path: Path);
    unlinkat(dir: c_int, path: Path, flags: c_int);
    rename(old: Path, new: Path);
    renameat(old_dir: c_int, old: Path, new_dir: c_int, new: Path);
    renameat2(old_dir: c_int, old: Path, new_dir: c_int, new: Path, flags: c_uint);
    link(old: Path, new: Path);
    linkat(old_dir: c_int, old: Path, new_dir: c_int, new: Path, flags: c_int);
    symlink(target: Path, path: Path);
    symlinkat(target: Path, dir: c_int, path: Path);
    truncate(path: Path, len: libc::off_t);
    truncate64(path: Path, len: libc::off64_t);
    chmod(path: Path, mode: libc::mode_t);
    fchmod(fd: c_int, mode: libc::mode_t);
    fchmodat(dir: c_int, path: Path, mode: libc::mode_t, flags: c_int);
    chown(path: Path, user: libc::uid_t, group: libc::gid_t);
    lchown(path: Path, user: libc::uid_t, group: libc::gid_t);
    fchown(fd: c_int, user: libc::uid_t, group: libc::gid_t);
    fchownat(dir: c_int, path: Path, user: libc::uid_t, group: libc::gid_t, flags: c_int);
    utimensat(dir: c_int, path: Path, times: *const libc::timespec, flags: c_int);
    futimens(fd: c_int, times: *const libc::timespec);
    utimes(path: Path, times: *const libc::timeval);
    setxattr(path: Path, name: Path, value: Bytes, size: usize, flags: c_int);
    lsetxattr(path: Path, name: Path, value: Bytes, size: usize, flags: c_int);
    fsetxattr(fd: c_int, name: Path, value: Bytes, size: usize, flags: c_int);
    removexattr(path: Path, name: Path);
    lremovexattr(path: Path, name: Path);
    fremovexattr(fd: c_int, name: Path);
    memfd_create(name: Path, flags: c_uint);
    bind(socket: c_int, address: Bytes, len: libc::socklen_t);
    listen(socket: c_int, backlog: c_int);
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
#[cfg(target_arch = "x86_64")]
fn in_python() -> bool {
    let function: *const c_void;
    // The loader has looked for it when it relocated this object, as for any symbol; in vain, dlsym(3) would make words of it.
    // SAFETY: reads this object's own table of addresses; a weak symbol that is not there has the address 0 (System V gABI,
    // "Symbol Table").
    unsafe {
        core::arch::asm!(
            ".weak PySys_AddAuditHook",
            "mov {function}, qword ptr [rip + PySys_AddAuditHook@GOTPCREL]",
            function = out(reg) function,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    !function.is_null()
}

/// Whether this process has a CPython in it, linked or shared.
#[cfg(not(target_arch = "x86_64"))]
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
