//! Python objects as an audit hook may read them: borrowed, without running a line of Python.
//!
//! Whatever an event carries comes from the agent, and `sys.audit` lets it put anything there. So nothing here
//! calls a method of an object: exact layouts of `str`, `bytes` and `int` are read, all else is [`Path::Opaque`].
#![allow(unsafe_code, reason = "CPython objects are raw pointers")]

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ptr::NonNull;

use pyo3::ffi;

/// A borrowed Python object, alive as long as the tuple it was taken from.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a>(NonNull<ffi::PyObject>, PhantomData<&'a ffi::PyObject>);

/// The arguments of an audit event.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a>(Object<'a>);

/// What stands where a path is expected.
pub(crate) enum Path<'a> {
    /// Bytes as the kernel will get them.
    Bytes(Cow<'a, [u8]>),
    /// An open descriptor: the object was judged when it was opened.
    Descriptor(i32),
    /// `None`, which means the working directory where it is allowed.
    Default,
    /// Something whose bytes could differ the next time they are asked for.
    Opaque,
}

impl<'a> Object<'a> {
    /// Takes a pointer from CPython.
    ///
    /// # Safety
    /// `pointer` is null or a live object that outlives `'a`, and the calling thread holds the GIL during `'a`.
    pub(crate) unsafe fn new(pointer: *mut ffi::PyObject) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self(pointer, PhantomData))
    }

    pub(crate) fn as_ptr(self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    pub(crate) fn is_none(self) -> bool {
        // SAFETY: compares addresses only.
        unsafe { self.as_ptr() == ffi::Py_None() }
    }

    pub(crate) fn is_str(self) -> bool {
        // SAFETY: reads the type's flags of a live object.
        unsafe { ffi::PyUnicode_Check(self.as_ptr()) != 0 }
    }

    pub(crate) fn is_bytes(self) -> bool {
        // SAFETY: reads the type's flags of a live object.
        unsafe { ffi::PyBytes_Check(self.as_ptr()) != 0 }
    }

    pub(crate) fn is_tuple(self) -> bool {
        // SAFETY: reads the type's flags of a live object.
        unsafe { ffi::PyTuple_Check(self.as_ptr()) != 0 }
    }

    pub(crate) fn is_list(self) -> bool {
        // SAFETY: reads the type's flags of a live object.
        unsafe { ffi::PyList_Check(self.as_ptr()) != 0 }
    }

    /// The value of an `int` that fits.
    pub(crate) fn int(self) -> Option<i64> {
        // SAFETY: PyLong_AsLongLong on an `int` reads digits and runs no Python; an overflow leaves an
        // exception, cleared at once.
        unsafe {
            if ffi::PyLong_Check(self.as_ptr()) == 0 {
                return None;
            }
            let value = ffi::PyLong_AsLongLong(self.as_ptr());
            if value == -1 && !ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            Some(value)
        }
    }

    /// The text of a `str` that is UTF-8 throughout (no surrogates).
    pub(crate) fn text(self) -> Option<&'a str> {
        if !self.is_str() {
            return None;
        }
        let mut length: ffi::Py_ssize_t = 0;
        // SAFETY: it is a `str`; the UTF-8 form is cached in the object and lives as long as it. A surrogate
        // leaves an exception, cleared at once.
        unsafe {
            let data = ffi::PyUnicode_AsUTF8AndSize(self.as_ptr(), &raw mut length);
            if data.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            let bytes = std::slice::from_raw_parts(data.cast::<u8>(), usize::try_from(length).ok()?);
            Some(std::str::from_utf8_unchecked(bytes))
        }
    }

    /// The contents of a `bytes`.
    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        if !self.is_bytes() {
            return None;
        }
        // SAFETY: it is a `bytes`, which is immutable and lives for 'a.
        unsafe {
            let data = ffi::PyBytes_AsString(self.as_ptr()).cast::<u8>();
            let length = usize::try_from(ffi::PyBytes_Size(self.as_ptr())).ok()?;
            Some(std::slice::from_raw_parts(data, length))
        }
    }

    /// The bytes of a `str` in the file system encoding, or of a `bytes`; `None` for anything else.
    pub(crate) fn os_bytes(self) -> Option<Cow<'a, [u8]>> {
        if let Some(bytes) = self.bytes() {
            return Some(Cow::Borrowed(bytes));
        }
        if let Some(text) = self.text()
            && text.is_ascii()
        {
            return Some(Cow::Borrowed(text.as_bytes()));
        }
        if !self.is_str() {
            return None;
        }
        // SAFETY: it is a `str`; the result is a new `bytes` that is copied and released here. The codec of the
        // file system encoding is C code that runs no Python of the agent.
        unsafe {
            let encoded = ffi::PyUnicode_EncodeFSDefault(self.as_ptr());
            let Some(object) = Object::new(encoded) else {
                ffi::PyErr_Clear();
                return None;
            };
            let owned = object.bytes().map(|bytes| Cow::Owned(bytes.to_vec()));
            ffi::Py_DECREF(encoded);
            owned
        }
    }

    /// What it means as a path.
    pub(crate) fn path(self) -> Path<'a> {
        if let Some(bytes) = self.os_bytes() {
            return Path::Bytes(bytes);
        }
        if self.is_none() {
            return Path::Default;
        }
        match self.int().map(i32::try_from) {
            Some(Ok(descriptor)) => Path::Descriptor(descriptor),
            _ => Path::Opaque,
        }
    }

    /// The items of a tuple or list, borrowed. A list could change while Python runs: copy what matters first.
    pub(crate) fn items(self) -> Option<Vec<Object<'a>>> {
        let (tuple, list) = (self.is_tuple(), self.is_list());
        if !tuple && !list {
            return None;
        }
        // SAFETY: the type was checked, indices stay below the size, and nothing here runs Python.
        unsafe {
            let size = if tuple { ffi::PyTuple_Size(self.as_ptr()) } else { ffi::PyList_Size(self.as_ptr()) };
            (0..size)
                .map(|i| {
                    Object::new(if tuple {
                        ffi::PyTuple_GetItem(self.as_ptr(), i)
                    } else {
                        ffi::PyList_GetItem(self.as_ptr(), i)
                    })
                })
                .collect()
        }
    }

    /// One item of a tuple.
    pub(crate) fn item(self, index: usize) -> Option<Object<'a>> {
        Args::of(self)?.get(index)
    }
}

impl<'a> Args<'a> {
    /// The arguments of an event, which CPython always makes a tuple.
    pub(crate) fn of(object: Object<'a>) -> Option<Self> {
        object.is_tuple().then_some(Self(object))
    }

    pub(crate) fn get(self, index: usize) -> Option<Object<'a>> {
        // SAFETY: it is a tuple; the index is below its size.
        unsafe {
            let index = ffi::Py_ssize_t::try_from(index).ok()?;
            if index >= ffi::PyTuple_Size(self.0.as_ptr()) {
                return None;
            }
            Object::new(ffi::PyTuple_GetItem(self.0.as_ptr(), index))
        }
    }

    pub(crate) fn int(self, index: usize) -> Option<i64> {
        self.get(index)?.int()
    }

    pub(crate) fn path(self, index: usize) -> Path<'a> {
        self.get(index).map_or(Path::Opaque, Object::path)
    }
}

/// The directory that a `dir_fd` stands for; none for the default (−1, and `AT_FDCWD` as CPython passes it on).
pub(crate) fn directory<'a>(fd: i64) -> Option<std::os::fd::BorrowedFd<'a>> {
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the number is used at once to resolve a path; a closed or foreign descriptor gives EBADF or
    // another directory than the operation would use, which a racing thread of the agent could arrange anyway.
    Some(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) })
}
