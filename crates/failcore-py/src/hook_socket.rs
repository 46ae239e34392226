//! The descriptor inside a `socket.socket`, which its Python class could hide.
#![allow(unsafe_code, reason = "asks the base type, past what a subclass overrides")]

use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::hook_context::in_main_interpreter;
use crate::hook_object::Object;

/// `_socket.socket` of the main interpreter.
static SOCKET_TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// The descriptor of a socket object; `None` where it is no socket or is closed.
///
/// `sys.audit` lets anything stand there, and a subclass may define any `fileno`: so the type is compared with the
/// one in the module's C interface, and that type's own method is asked.
pub(crate) fn descriptor(object: Object<'_>) -> Option<BorrowedFd<'_>> {
    // SAFETY: the GIL is held; the capsule is the module's own `PySocketModule_APIObject`, whose first field is the
    // type (Modules/socketmodule.h); the method's result is a new reference.
    unsafe {
        let kind = socket_type()?;
        if ffi::PyObject_TypeCheck(object.as_ptr(), kind) == 0 {
            return None;
        }
        let fileno = ffi::PyObject_GetAttrString(kind.cast(), c"fileno".as_ptr());
        if fileno.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        let number =
            ffi::PyObject_CallFunctionObjArgs(fileno, object.as_ptr(), ptr::null_mut::<ffi::PyObject>());
        ffi::Py_DECREF(fileno);
        let Some(result) = Object::new(number) else {
            ffi::PyErr_Clear();
            return None;
        };
        let fd = result.int().and_then(|fd| i32::try_from(fd).ok()).filter(|fd| *fd >= 0);
        ffi::Py_DECREF(number);
        fd.map(|fd| BorrowedFd::borrow_raw(fd))
    }
}

unsafe fn socket_type() -> Option<*mut ffi::PyTypeObject> {
    let main = in_main_interpreter();
    let kept = SOCKET_TYPE.load(Ordering::Acquire);
    if main && !kept.is_null() {
        return Some(kept);
    }
    // SAFETY: the GIL is held; the name is the capsule's own, which only C code can give to another.
    unsafe {
        let capsule = ffi::PyCapsule_Import(c"_socket.CAPI".as_ptr(), 0).cast::<*mut ffi::PyTypeObject>();
        if capsule.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        let kind = *capsule;
        if main {
            SOCKET_TYPE.store(kind, Ordering::Release);
        }
        Some(kind)
    }
}
