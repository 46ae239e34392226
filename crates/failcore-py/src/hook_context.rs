//! The context variable that carries a scope from task to task.
#![allow(unsafe_code, reason = "context variables are outside the limited API's headers")]

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::scope::{Held, Scope};

// Exported by every CPython since 3.7, with these signatures (Include/cpython/context.h).
unsafe extern "C" {
    fn PyContextVar_New(name: *const std::ffi::c_char, default: *mut ffi::PyObject) -> *mut ffi::PyObject;
    fn PyContextVar_Get(
        var: *mut ffi::PyObject,
        default: *mut ffi::PyObject,
        value: *mut *mut ffi::PyObject,
    ) -> std::ffi::c_int;
    fn PyContextVar_Set(var: *mut ffi::PyObject, value: *mut ffi::PyObject) -> *mut ffi::PyObject;
    fn PyContextVar_Reset(var: *mut ffi::PyObject, token: *mut ffi::PyObject) -> std::ffi::c_int;
    fn PyInterpreterState_Main() -> *mut ffi::PyInterpreterState;
}

static VARIABLE: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// A scope as the context variable holds it: opaque, and not to be made from Python.
#[pyclass(frozen, name = "_Scope", module = "failcore")]
pub(crate) struct TaskScope(Arc<Scope>);

/// What puts the context variable back.
pub(crate) struct Token(Py<PyAny>);

/// Whether the calling thread is in the main interpreter. Objects of ours must not be seen in any other.
pub(crate) fn in_main_interpreter() -> bool {
    // SAFETY: both read a pointer; the GIL is held wherever hooks and our functions run.
    unsafe { ffi::PyInterpreterState_Get() == PyInterpreterState_Main() }
}

/// The minor version of the interpreter: 11 for CPython 3.11.7.
pub(crate) fn minor_version() -> u32 {
    static MINOR: OnceLock<u32> = OnceLock::new();
    *MINOR.get_or_init(|| {
        // SAFETY: a static C string that begins with the version, such as `3.11.7 (main, …`.
        let version = unsafe { std::ffi::CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy();
        version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or_default()
    })
}

/// Whether the interpreter can run any code.
pub(crate) fn is_initialised() -> bool {
    // SAFETY: reads a flag.
    unsafe { ffi::Py_IsInitialized() != 0 }
}

/// Whether the interpreter is ending.
pub(crate) fn is_finalising() -> bool {
    type Ask = unsafe extern "C" fn() -> std::ffi::c_int;
    static ASK: OnceLock<Option<Ask>> = OnceLock::new();
    let ask = ASK.get_or_init(|| {
        // Public since 3.13, with an underscore before.
        [c"Py_IsFinalizing", c"_Py_IsFinalizing"].into_iter().find_map(|name| {
            // SAFETY: a look-up by name; the function takes nothing and reads a flag in every version.
            unsafe {
                let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
                (!found.is_null()).then(|| std::mem::transmute::<*mut libc::c_void, Ask>(found))
            }
        })
    });
    // SAFETY: as above.
    ask.is_some_and(|ask| unsafe { ask() != 0 })
}

/// Makes the context variable, once.
///
/// # Errors
/// Where Python has no memory for it.
pub(crate) fn create(py: Python<'_>) -> PyResult<()> {
    if !VARIABLE.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    // SAFETY: the name is a C string; a null default means none. The reference is kept for ever.
    let var = unsafe { PyContextVar_New(c"failcore.scope".as_ptr(), ptr::null_mut()) };
    if var.is_null() {
        return Err(PyErr::fetch(py));
    }
    VARIABLE.store(var, Ordering::Release);
    Ok(())
}

/// The scope of the running task.
pub(crate) fn task_scope() -> Held {
    let var = VARIABLE.load(Ordering::Acquire);
    if var.is_null() || !in_main_interpreter() {
        return None;
    }
    let mut value = ptr::null_mut();
    // SAFETY: `var` is a live context variable of this interpreter and the GIL is held; the value is a new
    // reference, or null where the variable is not set.
    unsafe {
        if PyContextVar_Get(var, ptr::null_mut(), &raw mut value) != 0 {
            ffi::PyErr_Clear();
            return None;
        }
        if value.is_null() {
            return None;
        }
        let value = Bound::from_owned_ptr(Python::assume_attached(), value);
        value.cast::<TaskScope>().ok().map(|scope| Arc::clone(&scope.get().0))
    }
}

/// Sets the scope of the running task and of those it starts.
///
/// # Errors
/// Where Python has no memory for it.
pub(crate) fn set_task_scope(py: Python<'_>, scope: &Arc<Scope>) -> PyResult<Token> {
    let value = Bound::new(py, TaskScope(Arc::clone(scope)))?;
    // SAFETY: the variable was made when the module was initialised; the token is a new reference.
    unsafe {
        let token = PyContextVar_Set(VARIABLE.load(Ordering::Acquire), value.as_ptr());
        Ok(Token(Bound::from_owned_ptr_or_err(py, token)?.unbind()))
    }
}

impl Token {
    /// Puts back what was there before; in another context than the one it was set in there is nothing to do.
    pub(crate) fn reset(&self, py: Python<'_>) {
        // SAFETY: variable and token are live, and the token belongs to this variable.
        unsafe {
            if PyContextVar_Reset(VARIABLE.load(Ordering::Acquire), self.0.as_ptr()) != 0 {
                ffi::PyErr_Clear();
            }
        }
        let _ = py;
    }
}
