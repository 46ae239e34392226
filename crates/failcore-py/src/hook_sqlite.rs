//! The authorizer that every database connection gets before the program has it, in C's terms.
#![allow(unsafe_code, reason = "sqlite3's C interface, on the handle inside a connection")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::hook_object::Object;
use crate::sqlite::{self, SQLITE_ATTACH, SQLITE_DENY, SQLITE_OK, SQLITE_PRAGMA};

type Text = *const c_char;
type Callback = unsafe extern "C" fn(*mut c_void, c_int, Text, Text, Text, Text) -> c_int;
type SetAuthorizer = unsafe extern "C" fn(*mut c_void, Option<Callback>, *mut c_void) -> c_int;

/// What a connection is and how sqlite3 takes an authorizer, found before any code of the agent could put
/// something else in its place.
struct Library {
    /// `tp_dealloc` of the class of connections: each loading of the module makes a class of its own, and Python
    /// code can give none of its classes this function.
    dealloc: usize,
    set_authorizer: SetAuthorizer,
}

static LIBRARY: OnceLock<Library> = OnceLock::new();

/// Remembers what is needed, from the module `_sqlite3` that was just loaded.
pub(crate) fn remember(module: &Bound<'_, PyAny>) {
    let find = || -> Option<Library> {
        let connection = module.getattr("Connection").ok()?;
        let set_authorizer = symbol(module)?;
        // SAFETY: it is a live type.
        let dealloc = unsafe { ffi::PyType_GetSlot(connection.as_ptr().cast(), ffi::Py_tp_dealloc) } as usize;
        (dealloc != 0).then_some(Library { dealloc, set_authorizer })
    };
    if let Some(library) = find() {
        drop(LIBRARY.set(library));
    }
}

/// `sqlite3_set_authorizer` of the library that the module is linked with.
fn symbol(module: &Bound<'_, PyAny>) -> Option<SetAuthorizer> {
    let file = module.getattr("__file__").ok().and_then(|file| file.extract::<String>().ok());
    // SAFETY: C strings; RTLD_NOLOAD finds the module's own object, whose dependencies dlsym searches as well. A
    // module built into the interpreter is searched for there.
    unsafe {
        let object = match file {
            Some(file) => {
                let file = CString::new(file).ok()?;
                libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD)
            }
            None => libc::RTLD_DEFAULT,
        };
        let found = libc::dlsym(object, c"sqlite3_set_authorizer".as_ptr());
        (!found.is_null()).then(|| std::mem::transmute::<*mut c_void, SetAuthorizer>(found))
    }
}

/// Gives a connection that was just opened our authorizer.
pub(crate) fn guard(connection: Object<'_>) -> bool {
    const HEAD: usize = size_of::<ffi::PyObject>() / size_of::<usize>();
    let Some(library) = LIBRARY.get() else { return false };
    // SAFETY: the class is compared first; its first field after the head is the `sqlite3 *` (`pysqlite_Connection`,
    // Modules/_sqlite/connection.h, 3.10 to 3.13), open when this event is raised. The callback takes no data.
    unsafe {
        let mut class = ffi::Py_TYPE(connection.as_ptr());
        while !class.is_null() && ffi::PyType_GetSlot(class, ffi::Py_tp_dealloc) as usize != library.dealloc {
            class = ffi::PyType_GetSlot(class, ffi::Py_tp_base).cast();
        }
        if class.is_null() {
            return false;
        }
        let handle = *connection.as_ptr().cast::<*mut c_void>().add(HEAD);
        !handle.is_null() && (library.set_authorizer)(handle, Some(authorize), ptr::null_mut()) == SQLITE_OK
    }
}

/// What sqlite3 asks while it compiles a statement, with the GIL released.
unsafe extern "C" fn authorize(
    _: *mut c_void,
    action: c_int,
    first: Text,
    second: Text,
    _: Text,
    _: Text,
) -> c_int {
    if action != SQLITE_ATTACH && action != SQLITE_PRAGMA {
        return SQLITE_OK;
    }
    // SAFETY: sqlite3 passes C strings or null; pysqlite released the GIL of this thread, which is taken meanwhile.
    unsafe {
        let text = |text: Text| (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes());
        let state = ffi::PyGILState_Ensure();
        let answer =
            catch_unwind(AssertUnwindSafe(|| sqlite::permits(action, text(first), text(second).is_some())));
        ffi::PyGILState_Release(state);
        if matches!(answer, Ok(true)) { SQLITE_OK } else { SQLITE_DENY }
    }
}
