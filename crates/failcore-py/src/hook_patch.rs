//! Stand-ins for functions that say too little to the audit hook, or nothing.
//!
//! A function of an extension module is a `PyMethodDef` in the module's static data, and every builtin function
//! object reads its C pointer from there at each call. Replacing that pointer replaces the function for all of
//! them: in every interpreter, for references taken before, after a reload of the module, and without anything
//! that Python code could unwrap or put back. The signature stays, so introspection and pickling do not notice.
#![allow(unsafe_code, reason = "replaces C functions in CPython's method tables")]

use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::expected::Guard;
use crate::hook_call::{Call, Shape, convention, direct};
use crate::hook_object::Object;
use crate::hook_raise::{self, Refusal};
use crate::patched::TARGETS;
use crate::{hook_context, hook_make, monitor, opening, supervised};

type Raw = *mut ffi::PyObject;

/// A function to stand in for.
pub(crate) struct Target {
    /// The module that defines it.
    pub(crate) module: &'static CStr,
    /// The type it is a method of.
    pub(crate) class: Option<&'static CStr>,
    /// Its name.
    pub(crate) name: &'static CStr,
    /// Where it is replaced.
    pub(crate) due: Due,
    /// Judges the call, and may replace arguments by what was judged.
    pub(crate) judge: fn(&mut Call) -> Result<(), Box<Refusal>>,
    /// For calls of which only the first argument matters and nothing is judged: what is in force meanwhile. `None`
    /// where it must be looked at by `judge` after all.
    pub(crate) around: Option<fn(Object<'_>) -> Option<Guard>>,
}

/// Where a function is replaced.
pub(crate) enum Due {
    /// Under a supervisor, and without one up to this minor version of the interpreter.
    Until(u32),
    /// Under a supervisor only.
    Supervised,
    /// Under one that wants to know where in the program it is looked.
    LooksTold,
}

impl Target {
    /// Whether it is replaced in this process.
    fn is_due(&self) -> bool {
        match self.due {
            Due::Until(minor) => supervised::is_on() || hook_context::minor_version() <= minor,
            Due::Supervised => supervised::is_on(),
            Due::LooksTold => supervised::looks_are_told(),
        }
    }
}

/// The original functions, by target.
static ORIGINALS: [AtomicPtr<c_void>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];
static DONE: Mutex<()> = Mutex::new(());

/// Runs a call of target `index` through its judge.
///
/// CPython ends a daemon thread that asks for the GIL of an ending interpreter by unwinding its stack
/// (pthread_exit(3)), from inside the original function: so it is called outside of every `catch_unwind`, through
/// frames that let an unwinding pass.
unsafe fn run(index: usize, slf: Raw, shape: Shape) -> Raw {
    let original = ORIGINALS[index].load(Ordering::Acquire);
    if !monitor::active() {
        // SAFETY: the original follows the same convention, and gets what CPython passed.
        return unsafe { direct(original, slf, shape) };
    }
    // A supervisor judges opens itself, and is listened to.
    if let Some(around) = TARGETS[index].around.filter(|_| !supervised::is_on())
        && let Shape::Fast { args, count, names, class: None } = shape
        && count > 0
        && names.is_none_or(<Raw>::is_null)
        // SAFETY: CPython passed so many arguments, which its caller keeps alive for the whole call.
        && let Some(first) = unsafe { Object::new(*args) }
        && let Some(guard) = around(first)
    {
        // SAFETY: the original follows the same convention, and gets what CPython passed.
        let result = unsafe { direct(original, slf, shape) };
        drop(guard);
        if result.is_null() {
            hook_raise::instead(opening::refusal(), Some(first));
        }
        return result;
    }
    // SAFETY: CPython passed this shape with the GIL held.
    let mut call = unsafe { Call::new(slf, shape) };
    match catch_unwind(AssertUnwindSafe(|| (TARGETS[index].judge)(&mut call))) {
        Ok(Ok(())) => {
            supervised::listen();
            // SAFETY: the original follows the same convention.
            let result = unsafe { call.run(original) };
            supervised::moved_on();
            if result.is_null() {
                hook_raise::explain();
            }
            return result;
        }
        Ok(Err(refusal)) => call.refuse(*refusal),
        Err(_) => call.refuse(Refusal::of(monitor::broken("the gate failed inside"))),
    }
    ptr::null_mut()
}

unsafe extern "C-unwind" fn one<const I: usize>(slf: Raw, value: Raw) -> Raw {
    // SAFETY: called by CPython as METH_O, METH_NOARGS.
    unsafe { run(I, slf, Shape::One(value)) }
}

unsafe extern "C-unwind" fn tuple<const I: usize>(slf: Raw, args: Raw) -> Raw {
    // SAFETY: called by CPython as METH_VARARGS.
    unsafe { run(I, slf, Shape::Tuple(args, None)) }
}

unsafe extern "C-unwind" fn named<const I: usize>(slf: Raw, args: Raw, keywords: Raw) -> Raw {
    // SAFETY: called by CPython as METH_VARARGS | METH_KEYWORDS.
    unsafe { run(I, slf, Shape::Tuple(args, Some(keywords))) }
}

unsafe extern "C-unwind" fn fast<const I: usize>(slf: Raw, args: *const Raw, count: ffi::Py_ssize_t) -> Raw {
    // SAFETY: called by CPython as METH_FASTCALL.
    unsafe { run(I, slf, Shape::Fast { args, count, names: None, class: None }) }
}

unsafe extern "C-unwind" fn fast_named<const I: usize>(
    slf: Raw,
    args: *const Raw,
    count: ffi::Py_ssize_t,
    names: Raw,
) -> Raw {
    // SAFETY: called by CPython as METH_FASTCALL | METH_KEYWORDS.
    unsafe { run(I, slf, Shape::Fast { args, count, names: Some(names), class: None }) }
}

unsafe extern "C-unwind" fn method<const I: usize>(
    slf: Raw,
    class: *mut c_void,
    args: *const Raw,
    count: ffi::Py_ssize_t,
    names: Raw,
) -> Raw {
    // SAFETY: called by CPython as METH_METHOD | METH_FASTCALL | METH_KEYWORDS.
    unsafe { run(I, slf, Shape::Fast { args, count, names: Some(names), class: Some(class) }) }
}

macro_rules! stand_ins {
    ($($i:literal)*) => {
        /// How many functions can be replaced.
        pub(crate) const SLOTS: usize = [$($i),*].len();

        /// The stand-in of target `index` in the convention that the function's flags say.
        fn stand_in(index: usize, flags: c_int) -> Option<*mut c_void> {
            const METHOD: c_int = 0x0200; // METH_METHOD, outside the limited API's headers
            const FAST: c_int = ffi::METH_FASTCALL;
            const NAMED: c_int = ffi::METH_KEYWORDS;
            let table: [*mut c_void; SLOTS] = if flags == ffi::METH_O || flags == ffi::METH_NOARGS {
                [$(one::<$i> as *mut c_void),*]
            } else if flags == ffi::METH_VARARGS {
                [$(tuple::<$i> as *mut c_void),*]
            } else if flags == ffi::METH_VARARGS | NAMED {
                [$(named::<$i> as *mut c_void),*]
            } else if flags == FAST {
                [$(fast::<$i> as *mut c_void),*]
            } else if flags == FAST | NAMED {
                [$(fast_named::<$i> as *mut c_void),*]
            } else if flags == METHOD | FAST | NAMED {
                [$(method::<$i> as *mut c_void),*]
            } else {
                return None;
            };
            table.get(index).copied()
        }
    };
}

stand_ins! {
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
    64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95
}

const _: () = assert!(TARGETS.len() <= SLOTS, "more targets than stand-ins");
// A bit each, while their modules are imported.
const _: () = assert!(SLOTS <= 128);

/// The number of a module whose functions are replaced.
pub(crate) fn concerns(module: &str) -> Option<usize> {
    TARGETS.iter().position(|target| target.is_due() && target.module.to_bytes() == module.as_bytes())
}

/// Whether every function of this module that exists here is replaced.
fn done(module: &CStr) -> bool {
    TARGETS
        .iter()
        .enumerate()
        .filter(|(_, target)| target.module == module)
        .any(|(index, _)| !ORIGINALS[index].load(Ordering::Acquire).is_null())
}

/// Replaces what is to be replaced in the modules that are loaded already, and (`builtins`) in those built into the
/// interpreter, which load without an event. These cannot be loaded before it is initialised.
///
/// # Errors
/// In words, where a function is not what it should be; nothing should run under the gate then.
pub(crate) fn replace_loaded(builtins: bool) -> Result<(), String> {
    let mut previous = None;
    for target in TARGETS.iter().filter(|target| target.is_due()) {
        if previous == Some(target.module) {
            continue;
        }
        previous = Some(target.module);
        // SAFETY: the GIL is held; the module is a new reference or null, and a builtin one is imported.
        unsafe {
            let name = ffi::PyUnicode_FromString(target.module.as_ptr());
            if name.is_null() {
                return Err("no memory".into());
            }
            let mut module = ffi::PyImport_GetModule(name);
            ffi::Py_DECREF(name);
            if module.is_null() {
                ffi::PyErr_Clear();
                if !builtins || !builtin(target.module) {
                    continue;
                }
                module = ffi::PyImport_ImportModule(target.module.as_ptr());
            }
            if module.is_null() {
                ffi::PyErr_Clear();
                return Err(format!("`{}` does not load", target.module.to_string_lossy()));
            }
            let answer = replace(target.module, module);
            ffi::Py_DECREF(module);
            answer?;
        }
    }
    Ok(())
}

/// Imports a module and replaces its functions before anybody else gets hold of it.
///
/// # Errors
/// In words; `None` inside where the module cannot be imported, which the agent will hear from its own import.
pub(crate) fn replace_module(module: &str) -> Result<(), String> {
    let due = |target: &&Target| target.is_due() && target.module.to_bytes() == module.as_bytes();
    let Some(target) = TARGETS.iter().find(due) else {
        return Ok(());
    };
    if done(target.module) {
        return Ok(());
    }
    // SAFETY: the GIL is held; the name is a C string; the module is a new reference or null.
    unsafe {
        let object = ffi::PyImport_ImportModule(target.module.as_ptr());
        if object.is_null() {
            ffi::PyErr_Clear();
            return Ok(());
        }
        let answer = replace(target.module, object);
        ffi::Py_DECREF(object);
        answer
    }
}

/// Whether a module is built into the interpreter, and so loads without an event that names a file.
pub(crate) fn is_builtin(module: &str) -> bool {
    std::ffi::CString::new(module).is_ok_and(|module| builtin(&module))
}

fn builtin(module: &CStr) -> bool {
    // SAFETY: the table is static and ends with a null name (Include/cpython/import.h).
    unsafe {
        let mut entry = PyImport_Inittab;
        while !entry.is_null() && !(*entry).name.is_null() {
            if CStr::from_ptr((*entry).name) == module {
                return true;
            }
            entry = entry.add(1);
        }
    }
    false
}

#[repr(C)]
struct Inittab {
    name: *const std::ffi::c_char,
    init: *const c_void,
}

unsafe extern "C" {
    static PyImport_Inittab: *const Inittab;
}

/// Replaces the functions of one loaded module.
unsafe fn replace(name: &CStr, module: Raw) -> Result<(), String> {
    let guard = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if done(name) {
        return Ok(());
    }
    let wrong = |target: &Target, what: &str| {
        Err(format!("`{}.{}` {what}", name.to_string_lossy(), target.name.to_string_lossy()))
    };
    let wanted = |target: &&Target| target.module == name && target.is_due();
    for (index, target) in TARGETS.iter().enumerate().filter(|(_, target)| wanted(target)) {
        // SAFETY: the module is live and the GIL is held; each object is checked before it is looked into.
        unsafe {
            let Some(def) = definition(module, target) else {
                continue; // this version or build has no such function
            };
            let Ok(def) = def else { return wrong(target, "is no function of the interpreter") };
            let Some(stand_in) = stand_in(index, convention((*def).ml_flags)) else {
                return wrong(target, "is called in a way that is not known");
            };
            if !writable(def) {
                return wrong(target, "cannot be replaced");
            }
            let pointer = (&raw mut (*def).ml_meth).cast::<AtomicPtr<c_void>>();
            ORIGINALS[index].store((*pointer).load(Ordering::Acquire), Ordering::Release);
            (*pointer).store(stand_in, Ordering::Release);
        }
    }
    drop(guard);
    hook_make::remember(name, module);
    Ok(())
}

/// The definition of a function, if the module has it; `Err` where something else stands in its place.
unsafe fn definition(module: Raw, target: &Target) -> Option<Result<*mut ffi::PyMethodDef, ()>> {
    // Fields outside the limited API: m_ml follows the head of a PyCFunctionObject, d_method the three pointers of
    // a PyDescrObject (Include/cpython/methodobject.h, descrobject.h; unchanged from 3.8 to 3.13). What is read is
    // compared with what public functions and the name say before it is believed.
    const HEAD: usize = size_of::<ffi::PyObject>() / size_of::<usize>();
    // SAFETY: attribute look-ups on a live module; exact types are checked before fields are read.
    unsafe {
        let found = |object: Raw, name: &CStr| {
            let found = ffi::PyObject_GetAttrString(object, name.as_ptr());
            if found.is_null() {
                ffi::PyErr_Clear();
            } else {
                ffi::Py_DECREF(found); // the module or type keeps it
            }
            found
        };
        let mut holder = module;
        if let Some(class) = target.class {
            holder = found(module, class);
            if holder.is_null() {
                return None;
            }
        }
        let object = found(holder, target.name);
        if object.is_null() {
            return None;
        }
        let def = if target.class.is_some() {
            if ffi::Py_TYPE(object) != &raw mut ffi::PyMethodDescr_Type {
                return Some(Err(()));
            }
            *object.cast::<*mut ffi::PyMethodDef>().add(HEAD + 3)
        } else {
            if ffi::PyCFunction_Check(object) == 0 {
                return Some(Err(()));
            }
            let def = *object.cast::<*mut ffi::PyMethodDef>().add(HEAD);
            let known = ffi::PyCFunction_GetFunction(object).map_or(ptr::null_mut(), |f| f as *mut c_void);
            if def.is_null()
                || *(&raw const (*def).ml_meth).cast::<*mut c_void>() != known
                || (*def).ml_flags != ffi::PyCFunction_GetFlags(object)
            {
                return Some(Err(()));
            }
            def
        };
        if def.is_null() || (*def).ml_name.is_null() || CStr::from_ptr((*def).ml_name) != target.name {
            return Some(Err(()));
        }
        Some(Ok(def))
    }
}

/// Makes the page of a definition writable, which it nearly always is.
unsafe fn writable(def: *mut ffi::PyMethodDef) -> bool {
    // SAFETY: sysconf has no effect; mprotect adds a right to pages that hold static data.
    unsafe {
        let Ok(page) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) else { return false };
        let start = def as usize & !(page - 1);
        let end = (def as usize + size_of::<ffi::PyMethodDef>()).next_multiple_of(page);
        libc::mprotect(start as *mut c_void, end - start, libc::PROT_READ | libc::PROT_WRITE) == 0
    }
}
