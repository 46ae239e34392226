//! Python objects that take the place of arguments: exact, immutable, and made from what was judged.
#![allow(unsafe_code, reason = "builds objects for C functions")]

use std::sync::Arc;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::carried::Carried;
use crate::hook_context::{in_main_interpreter, is_finalising};
use crate::hook_object::Object;
use crate::scope::Scope;
use crate::{hook_sqlite, sqlite};

type Raw = *mut ffi::PyObject;

/// A new `bytes`; null where there is no memory, with an exception set.
pub(crate) fn bytes(value: &[u8]) -> Raw {
    // SAFETY: the GIL is held; the data is copied.
    unsafe { ffi::PyBytes_FromStringAndSize(value.as_ptr().cast(), value.len() as ffi::Py_ssize_t) }
}

/// A new `str`; null where there is no memory.
pub(crate) fn text(value: &str) -> Raw {
    // SAFETY: the GIL is held; the data is UTF-8 and copied.
    unsafe { ffi::PyUnicode_FromStringAndSize(value.as_ptr().cast(), value.len() as ffi::Py_ssize_t) }
}

/// A new `int`.
pub(crate) fn int(value: i64) -> Raw {
    // SAFETY: the GIL is held.
    unsafe { ffi::PyLong_FromLongLong(value) }
}

/// The number that an object stands for, asking `__index__` once; `None` where it is none.
pub(crate) fn index(object: Object<'_>) -> Option<Raw> {
    // SAFETY: the GIL is held; the result is a new reference or null with an exception.
    unsafe {
        let number = ffi::PyNumber_Index(object.as_ptr());
        if number.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Some(number)
    }
}

/// A new list of `bytes`.
pub(crate) fn list<'a>(values: impl ExactSizeIterator<Item = &'a [u8]>) -> Raw {
    // SAFETY: a new list of that length takes the new references; null items do not occur beyond a lack of
    // memory, where the list is dropped again.
    unsafe {
        let list = ffi::PyList_New(values.len() as ffi::Py_ssize_t);
        if list.is_null() {
            return list;
        }
        for (i, value) in values.enumerate() {
            let item = bytes(value);
            if item.is_null() {
                ffi::Py_DECREF(list);
                return std::ptr::null_mut();
            }
            ffi::PyList_SetItem(list, i as ffi::Py_ssize_t, item);
        }
        list
    }
}

/// A new tuple that takes over the references; null where one of them is.
pub(crate) fn tuple(values: &[Raw]) -> Raw {
    // SAFETY: the GIL is held; every value is a new reference or null, and each is either kept or released.
    unsafe {
        let whole = values.iter().all(|value| !value.is_null());
        let tuple =
            if whole { ffi::PyTuple_New(values.len() as ffi::Py_ssize_t) } else { std::ptr::null_mut() };
        for (i, value) in values.iter().enumerate() {
            if tuple.is_null() {
                ffi::Py_XDECREF(*value);
            } else {
                ffi::PyTuple_SetItem(tuple, i as ffi::Py_ssize_t, *value);
            }
        }
        tuple
    }
}

/// A new dictionary from `bytes` to `bytes`.
pub(crate) fn dictionary(values: &[(Vec<u8>, Vec<u8>)]) -> Raw {
    // SAFETY: the GIL is held; the dictionary takes references of its own.
    unsafe {
        let dictionary = ffi::PyDict_New();
        if dictionary.is_null() {
            return dictionary;
        }
        for (key, value) in values {
            let (key, value) = (bytes(key), bytes(value));
            if key.is_null() || value.is_null() || ffi::PyDict_SetItem(dictionary, key, value) != 0 {
                ffi::Py_XDECREF(key);
                ffi::Py_XDECREF(value);
                ffi::Py_DECREF(dictionary);
                return std::ptr::null_mut();
            }
            ffi::Py_DECREF(key);
            ffi::Py_DECREF(value);
        }
        dictionary
    }
}

/// One more reference.
pub(crate) fn again(object: Object<'_>) -> Raw {
    // SAFETY: a live object.
    unsafe { ffi::Py_INCREF(object.as_ptr()) };
    object.as_ptr()
}

/// The path of an object as `bytes`, asking `__fspath__` once; `None` where it is no path, with no exception left.
pub(crate) fn fs_bytes(object: Object<'_>) -> Option<Vec<u8>> {
    // SAFETY: the GIL is held; the result is a new reference, copied and released.
    unsafe {
        let path = ffi::PyOS_FSPath(object.as_ptr());
        let Some(path) = Object::new(path) else {
            ffi::PyErr_Clear();
            return None;
        };
        let found = path.os_bytes().map(std::borrow::Cow::into_owned);
        ffi::Py_DECREF(path.as_ptr());
        found
    }
}

/// The path of an object as a new `str` or `bytes`, asking `__fspath__` once; `None` as above.
pub(crate) fn fs_path(object: Object<'_>) -> Option<Raw> {
    if object.is_str() || object.is_bytes() {
        return Some(again(object));
    }
    // SAFETY: the GIL is held; the result is a new reference.
    unsafe {
        let path = ffi::PyOS_FSPath(object.as_ptr());
        if path.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Some(path)
    }
}

/// The items of any sequence or iterable, each as a path's `bytes`; `None` where one is none.
pub(crate) fn fs_list(object: Object<'_>) -> Option<Vec<Vec<u8>>> {
    // SAFETY: the GIL is held; PySequence_List makes a new list that nobody else knows, so that the items stay
    // while Python runs in `__fspath__`.
    unsafe {
        let list = ffi::PySequence_List(object.as_ptr());
        let Some(items) = Object::new(list) else {
            ffi::PyErr_Clear();
            return None;
        };
        let found = items.items().and_then(|items| items.into_iter().map(fs_bytes).collect());
        ffi::Py_DECREF(list);
        found
    }
}

/// The pairs of a mapping, each side as `bytes`; `None` where one is none.
pub(crate) fn fs_mapping(object: Object<'_>) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    // SAFETY: the GIL is held; both lists are new references or null.
    unsafe {
        let keys = ffi::PyMapping_Keys(object.as_ptr());
        let values = if keys.is_null() { keys } else { ffi::PyMapping_Values(object.as_ptr()) };
        let found = match (Object::new(keys), Object::new(values)) {
            (Some(keys), Some(values)) => fs_list(keys)
                .zip(fs_list(values))
                .filter(|(keys, values)| keys.len() == values.len())
                .map(|(keys, values)| keys.into_iter().zip(values).collect()),
            _ => None,
        };
        ffi::Py_XDECREF(keys);
        ffi::Py_XDECREF(values);
        ffi::PyErr_Clear();
        found
    }
}

/// Runs something slow without the GIL.
pub(crate) fn unlocked<T>(slow: impl FnOnce() -> T) -> T {
    struct Restore(*mut ffi::PyThreadState);
    impl Drop for Restore {
        fn drop(&mut self) {
            // A daemon thread that asks for the GIL of an interpreter that is ending would be unwound through
            // frames of ours; it waits for the end instead, as CPython 3.14 lets it.
            while is_finalising() {
                std::thread::park();
            }
            // SAFETY: the state saved below, on the same thread.
            unsafe { ffi::PyEval_RestoreThread(self.0) };
        }
    }
    // SAFETY: the GIL is held here, and `slow` touches nothing of Python.
    let _restore = Restore(unsafe { ffi::PyEval_SaveThread() });
    slow()
}

/// A new tuple of a sequence's items.
pub(crate) fn sequence(object: Object<'_>) -> Option<Raw> {
    // SAFETY: the GIL is held; the result is a new reference or null with an exception.
    unsafe {
        let tuple = ffi::PySequence_Tuple(object.as_ptr());
        if tuple.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Some(tuple)
    }
}

/// A callable that runs `function` under a scope; `None` in a sub-interpreter, where our classes must not be seen.
pub(crate) fn carry(function: Object<'_>, held: Arc<Scope>) -> Option<Raw> {
    if !in_main_interpreter() {
        return None;
    }
    // SAFETY: the GIL is held and this is the main interpreter; the function is live.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: as above.
    let function = unsafe { Bound::from_borrowed_ptr(py, function.as_ptr()) }.unbind();
    Bound::new(py, Carried::new(function, Some(held))).ok().map(|carried| carried.into_ptr())
}

/// A program's own authorizer behind ours, as a new reference; `None` where that cannot be.
pub(crate) fn wrap_authorizer(own: Object<'_>) -> Option<Raw> {
    if !in_main_interpreter() {
        return None;
    }
    // SAFETY: the GIL is held and this is the main interpreter; the object is live.
    let own = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), own.as_ptr()) };
    sqlite::wrap(&own).ok().map(Py::into_ptr)
}

/// Remembers what must be found again later from a module whose functions were replaced.
pub(crate) fn remember(name: &std::ffi::CStr, module: Raw) {
    if name == c"_sqlite3" {
        // SAFETY: the GIL is held; the module is live, and only its own attributes are looked at.
        hook_sqlite::remember(&unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), module) });
    }
}
