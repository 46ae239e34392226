//! Python objects that take the place of arguments: exact, immutable, and made from what was judged.
#![allow(unsafe_code, reason = "builds objects for C functions")]

use std::sync::Arc;

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass_init::PyClassInitializer;

use crate::carried::Carried;
use crate::hook_context::{in_main_interpreter, is_finalising};
use crate::hook_object::Object;
use crate::hook_raise::Raised;
use crate::prepared::Prepared;
use crate::scope::Scope;
use crate::{hook_sqlite, sqlite};

type Raw = *mut ffi::PyObject;

// Exported by every CPython since 3.9 (Include/cpython/abstract.h), and in the limited API since 3.11.
unsafe extern "C" {
    fn PyObject_CheckBuffer(object: Raw) -> std::ffi::c_int;
}

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

/// The number that an object stands for, asking `__index__` once.
///
/// # Errors
/// Where it is none.
pub(crate) fn index(object: Object<'_>) -> Result<Raw, Raised> {
    // SAFETY: the GIL is held; the result is a new reference or null with an exception.
    made(unsafe { ffi::PyNumber_Index(object.as_ptr()) })
}

/// The same as a number; `None` beyond 64 bits.
///
/// # Errors
/// Where it is none.
pub(crate) fn number(object: Object<'_>) -> Result<Option<i64>, Raised> {
    let found = index(object)?;
    // SAFETY: a live object, whose reference is given back.
    unsafe {
        let number = Object::new(found).and_then(Object::int);
        ffi::Py_DECREF(found);
        Ok(number)
    }
}

/// A new reference, or the exception that CPython has set beside a null.
fn made(value: Raw) -> Result<Raw, Raised> {
    if value.is_null() { Err(Raised::now()) } else { Ok(value) }
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

/// The path of an object as `bytes`, asking `__fspath__` once.
///
/// # Errors
/// Where it is no path, or one with a NUL byte.
pub(crate) fn fs_bytes(object: Object<'_>) -> Result<Vec<u8>, Raised> {
    let mut converted: Raw = std::ptr::null_mut();
    // SAFETY: the GIL is held; the converter leaves a new reference to a `bytes`, copied and released here, or sets
    // an exception.
    unsafe {
        let answer = ffi::PyUnicode_FSConverter(object.as_ptr(), (&raw mut converted).cast());
        let found = Object::new(converted).filter(|_| answer != 0);
        let path = found.and_then(Object::bytes).map(<[u8]>::to_vec);
        ffi::Py_XDECREF(converted);
        path.ok_or_else(Raised::now)
    }
}

/// The path of an object as a new `str` or `bytes`, asking `__fspath__` once.
///
/// # Errors
/// Where it is no path.
pub(crate) fn fs_path(object: Object<'_>) -> Result<Raw, Raised> {
    // SAFETY: the GIL is held; the result is a new reference or null with an exception.
    made(unsafe { ffi::PyOS_FSPath(object.as_ptr()) })
}

/// A path as the `str` that Python would show.
///
/// # Errors
/// Where there is no memory for it.
pub(crate) fn fs_text(path: &[u8]) -> Result<Raw, Raised> {
    // SAFETY: the GIL is held; the data is copied.
    made(unsafe {
        ffi::PyUnicode_DecodeFSDefaultAndSize(path.as_ptr().cast(), path.len() as ffi::Py_ssize_t)
    })
}

/// Whether an object counts as a number (`PyNumber_Check`).
pub(crate) fn is_number(object: Object<'_>) -> bool {
    // SAFETY: the GIL is held; reads the type's slots of a live object.
    unsafe { ffi::PyNumber_Check(object.as_ptr()) != 0 }
}

/// Whether an object shows memory that is not its own value, as a `bytearray` and a `memoryview` do.
pub(crate) fn has_buffer(object: Object<'_>) -> bool {
    // SAFETY: the GIL is held; reads the type's slots of a live object.
    !object.is_bytes() && !object.is_str() && unsafe { PyObject_CheckBuffer(object.as_ptr()) } != 0
}

/// What an object with a buffer holds now, as a new `bytes`.
///
/// # Errors
/// Where it cannot be read.
pub(crate) fn copy(object: Object<'_>) -> Result<Raw, Raised> {
    // SAFETY: the GIL is held; the copy is a new reference or null with an exception.
    made(unsafe { ffi::PyBytes_FromObject(object.as_ptr()) })
}

/// Warns, as CPython's own path arguments do, of a path that is neither `str` nor `bytes` nor path-like.
///
/// # Errors
/// Where warnings are exceptions.
pub(crate) fn warn_of_buffer(object: Object<'_>) -> Result<(), Raised> {
    // SAFETY: the GIL is held; the name is a new reference or null with an exception; the text is copied, and the
    // level is that of the caller of a C function.
    unsafe {
        let kind = ffi::Py_TYPE(object.as_ptr());
        let name = made(ffi::PyObject_GetAttrString(kind.cast(), c"__name__".as_ptr()))?;
        let shown = Object::new(name).and_then(Object::text).unwrap_or_default();
        let text = format!("path should be string, bytes or os.PathLike, not {shown}");
        ffi::Py_DECREF(name);
        let text = std::ffi::CString::new(text).unwrap_or_default();
        match ffi::PyErr_WarnEx(ffi::PyExc_DeprecationWarning, text.as_ptr(), 1) {
            0 => Ok(()),
            _ => Err(Raised::now()),
        }
    }
}

/// The items of any sequence or iterable, each as a path's `bytes`.
///
/// # Errors
/// Where it is none, or one of them is no path.
pub(crate) fn fs_list(object: Object<'_>) -> Result<Vec<Vec<u8>>, Raised> {
    // SAFETY: the GIL is held; PySequence_List makes a new list that nobody else knows, so that the items stay
    // while Python runs in `__fspath__`.
    unsafe {
        let list = ffi::PySequence_List(object.as_ptr());
        let items = Object::new(list).ok_or_else(Raised::now)?.items().unwrap_or_default();
        let found = items.into_iter().map(fs_bytes).collect();
        ffi::Py_DECREF(list);
        found
    }
}

/// Whether an object has items by key.
pub(crate) fn is_mapping(object: Object<'_>) -> bool {
    // SAFETY: the GIL is held; reads the type's slots of a live object.
    unsafe { ffi::PyMapping_Check(object.as_ptr()) != 0 }
}

/// Keys and values as bytes.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The pairs of a mapping, each side as `bytes`.
///
/// # Errors
/// Where it is no mapping, where something in it is no path, or where its two sides do not fit.
pub(crate) fn fs_mapping(object: Object<'_>) -> Result<Pairs, Raised> {
    // SAFETY: the GIL is held; both lists are new references or null with an exception.
    unsafe {
        let keys = made(ffi::PyMapping_Keys(object.as_ptr()))?;
        let values = made(ffi::PyMapping_Values(object.as_ptr()));
        let read = |list: Raw| Object::new(list).map_or_else(|| Ok(Vec::new()), fs_list);
        let sides = values.and_then(|values| {
            let sides = read(keys).and_then(|keys| Ok((keys, read(values)?)));
            ffi::Py_DECREF(values);
            sides
        });
        ffi::Py_DECREF(keys);
        let (keys, values) = sides?;
        if keys.len() != values.len() {
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"mapping changed size while it was read".as_ptr());
            return Err(Raised::now());
        }
        Ok(keys.into_iter().zip(values).collect())
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
///
/// # Errors
/// Where it is none.
pub(crate) fn sequence(object: Object<'_>) -> Result<Raw, Raised> {
    // SAFETY: the GIL is held; the result is a new reference or null with an exception.
    made(unsafe { ffi::PySequence_Tuple(object.as_ptr()) })
}

/// A callable that runs `function` under a scope; `None` in a sub-interpreter, where our classes must not be seen.
pub(crate) fn carry(function: Object<'_>, held: Arc<Scope>) -> Option<Raw> {
    wrap(function, |function| Carried::new(function, Some(held)))
}

/// A callable that runs a `preexec_fn` and prepares the environment after it; `None` as above.
pub(crate) fn prepare(function: Object<'_>) -> Option<Raw> {
    wrap(function, Prepared::new)
}

fn wrap<T: Into<PyClassInitializer<C>>, C: PyClass>(
    function: Object<'_>,
    class: impl FnOnce(Py<PyAny>) -> T,
) -> Option<Raw> {
    if !in_main_interpreter() {
        return None;
    }
    // SAFETY: the GIL is held and this is the main interpreter; the function is live.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: as above.
    let function = unsafe { Bound::from_borrowed_ptr(py, function.as_ptr()) }.unbind();
    Bound::new(py, class(function)).ok().map(Bound::into_any).map(Bound::into_ptr)
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
