//! One call of a function of the interpreter, as its stand-in sees it: arguments to read and to replace.
#![allow(unsafe_code, reason = "arguments arrive in CPython's calling conventions")]

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::ffi;
use smallvec::SmallVec;

use crate::expected::Guard;
use crate::hook_context::is_finalising;
use crate::hook_object::Object;
use crate::hook_raise::{self, Refusal};
use crate::{monitor, opening};

type Raw = *mut ffi::PyObject;

/// How CPython hands arguments over (METH_* in Include/methodobject.h).
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// `METH_NOARGS`, `METH_O`: one pointer, possibly null.
    One(Raw),
    /// `METH_VARARGS`, with the keywords where the function takes any.
    Tuple(Raw, Option<Raw>),
    /// `METH_FASTCALL`, with the names of keywords where the function takes any, and with the defining class.
    Fast { args: *const Raw, count: ffi::Py_ssize_t, names: Option<Raw>, class: Option<*mut c_void> },
}

/// A call in progress.
pub(crate) struct Call {
    pub(crate) slf: Raw,
    shape: Shape,
    /// Every argument, positional ones first; null never occurs.
    values: SmallVec<[Raw; 8]>,
    /// How many of them are positional.
    positional: usize,
    /// The names of the others.
    names: SmallVec<[Raw; 4]>,
    /// References of ours, released after the call.
    owned: SmallVec<[Raw; 8]>,
    /// Copies of arguments, and what the program passed.
    settled: SmallVec<[(Raw, Raw); 2]>,
    changed: bool,
    /// What must stay in force while the function runs.
    guards: SmallVec<[Guard; 1]>,
    after: Option<After>,
    opens: bool,
    /// Whether the function came back, or was never called.
    finished: bool,
}

/// What is done with a result; a refusal takes its place.
pub(crate) type After = Box<dyn FnOnce(Object<'_>) -> Result<(), Box<Refusal>>>;

impl Call {
    /// Unpacks a call.
    ///
    /// # Safety
    /// The pointers are what CPython passed to a function of this shape, and the GIL is held.
    pub(crate) unsafe fn new(slf: Raw, shape: Shape) -> Self {
        let mut call = Self {
            slf,
            shape,
            values: SmallVec::new(),
            positional: 0,
            names: SmallVec::new(),
            owned: SmallVec::new(),
            settled: SmallVec::new(),
            changed: false,
            guards: SmallVec::new(),
            after: None,
            opens: false,
            finished: true,
        };
        // SAFETY: tuples, dictionaries and vectors are as CPython's calling conventions say; all is borrowed for
        // the length of the call.
        unsafe {
            match shape {
                Shape::One(value) => call.values.extend((!value.is_null()).then_some(value)),
                Shape::Tuple(args, keywords) => {
                    for i in 0..ffi::PyTuple_Size(args) {
                        call.values.push(ffi::PyTuple_GetItem(args, i));
                    }
                    call.positional = call.values.len();
                    let keywords = keywords.unwrap_or(ptr::null_mut());
                    if !keywords.is_null() {
                        let (mut at, mut key, mut value) = (0, ptr::null_mut(), ptr::null_mut());
                        while ffi::PyDict_Next(keywords, &raw mut at, &raw mut key, &raw mut value) != 0 {
                            call.names.push(key);
                            call.values.push(value);
                        }
                    }
                }
                Shape::Fast { args, count, names, .. } => {
                    // The top bit of the count is PY_VECTORCALL_ARGUMENTS_OFFSET, cleared before functions see it.
                    call.positional = usize::try_from(count).unwrap_or(0);
                    let names = names.unwrap_or(ptr::null_mut());
                    let named = if names.is_null() { 0 } else { ffi::PyTuple_Size(names) };
                    for i in 0..call.positional + usize::try_from(named).unwrap_or(0) {
                        call.values.push(*args.add(i));
                    }
                    for i in 0..named {
                        call.names.push(ffi::PyTuple_GetItem(names, i));
                    }
                }
            }
            if let Shape::One(_) = shape {
                call.positional = call.values.len();
            }
            // What is judged must live until the call is over, whatever another thread does to a container.
            for value in &call.values {
                ffi::Py_INCREF(*value);
                call.owned.push(*value);
            }
        }
        call
    }

    fn place(&self, index: usize, name: &str) -> Option<usize> {
        if index < self.positional {
            return Some(index);
        }
        let named = self.names.iter().position(|key| {
            // SAFETY: keyword names are live `str` objects for the length of the call.
            unsafe { Object::new(*key) }.and_then(Object::text) == Some(name)
        })?;
        Some(self.positional + named)
    }

    /// The argument at a position, or of that name.
    pub(crate) fn get(&self, index: usize, name: &str) -> Option<Object<'_>> {
        let place = self.place(index, name)?;
        // SAFETY: the values are kept alive by `owned`, which lives as long as this call.
        unsafe { Object::new(self.values[place]) }
    }

    /// What the method was called on.
    pub(crate) fn receiver<'a>(&self) -> Option<Object<'a>> {
        // SAFETY: CPython keeps it alive for the whole call, which outlives every use of it here.
        unsafe { Object::new(self.slf) }
    }

    /// The same as a pointer, to compare or to replace while the call is borrowed.
    pub(crate) fn raw(&self, index: usize, name: &str) -> Option<Raw> {
        self.place(index, name).map(|place| self.values[place])
    }

    /// Replaces an argument that is there, taking a new reference; null (a failed construction) is refused.
    ///
    /// # Errors
    /// Where there is no such argument or nothing to put there.
    pub(crate) fn replace(&mut self, index: usize, name: &str, value: Raw) -> Result<(), ()> {
        if value.is_null() {
            return Err(());
        }
        self.owned.push(value);
        let place = self.place(index, name).ok_or(())?;
        self.values[place] = value;
        self.changed = true;
        Ok(())
    }

    /// Replaces an argument by what it is now, so that what is judged is used. An `OSError` about the copy names what
    /// the program passed.
    ///
    /// # Errors
    /// As [`Call::replace`].
    pub(crate) fn settle(&mut self, index: usize, name: &str, value: Raw) -> Result<(), ()> {
        let before = self.raw(index, name).ok_or(())?;
        self.replace(index, name, value)?;
        let known = self.settled.iter().find(|(copy, _)| *copy == before);
        let original = known.map_or(before, |(_, original)| *original);
        if original != value {
            self.settled.push((value, original));
        }
        Ok(())
    }

    /// Takes over a reference, and keeps its object until the call and every refusal of it are over.
    pub(crate) fn take<'a>(&mut self, value: Raw) -> Option<Object<'a>> {
        // SAFETY: `owned` keeps it for so long; null is none.
        let object = unsafe { Object::new(value) }?;
        self.owned.push(value);
        Some(object)
    }

    /// Sets the exception of a refusal of this call.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        hook_raise::raise(refusal);
        if !self.settled.is_empty() {
            hook_raise::name_originals(&self.settled);
        }
    }

    /// Keeps something in force while the function runs.
    pub(crate) fn keep(&mut self, guard: Guard) {
        self.guards.push(guard);
    }

    /// It opens a file, and a refusal may come to light only then.
    pub(crate) fn opens(&mut self) {
        drop(opening::refusal()); // of an open that nobody asked about
        self.opens = true;
    }

    /// Looks at the result.
    pub(crate) fn then(&mut self, after: impl FnOnce(Object<'_>) -> Result<(), Box<Refusal>> + 'static) {
        self.after = Some(Box::new(after));
    }

    /// Calls the function with the arguments as they are now.
    ///
    /// # Safety
    /// `original` is the function that this call was meant for.
    pub(crate) unsafe fn run(&mut self, original: *mut c_void) -> Raw {
        self.finished = false;
        // SAFETY: the caller vouches for `original`; its convention is that of `shape`.
        let result = unsafe {
            match self.shape {
                Shape::One(value) => {
                    let value = self.values.first().copied().unwrap_or(value);
                    direct(original, self.slf, Shape::One(value))
                }
                Shape::Tuple(args, keywords) if self.changed => self.rebuilt(original, args, keywords),
                Shape::Tuple(..) => direct(original, self.slf, self.shape),
                Shape::Fast { names, class, .. } => {
                    let count = self.positional as ffi::Py_ssize_t;
                    let args = self.values.as_ptr();
                    direct(original, self.slf, Shape::Fast { args, count, names, class })
                }
            }
        };
        self.finished = true;
        self.guards.clear();
        if self.opens && result.is_null() {
            let about = self.get(0, "file").or_else(|| self.get(0, "path"));
            hook_raise::instead(opening::refusal(), about);
        }
        // SAFETY: the result is a new reference or null.
        if let (Some(after), Some(result)) = (self.after.take(), unsafe { Object::new(result) }) {
            let answer = catch_unwind(AssertUnwindSafe(|| after(result)))
                .unwrap_or_else(|_| Err(monitor::broken("the gate failed inside").into()));
            if let Err(refusal) = answer {
                // SAFETY: the result is our reference, which nobody gets now.
                unsafe { ffi::Py_DECREF(result.as_ptr()) };
                self.refuse(*refusal);
                return ptr::null_mut();
            }
        }
        if result.is_null() && !self.settled.is_empty() {
            hook_raise::name_originals(&self.settled);
        }
        result
    }

    unsafe fn rebuilt(&self, original: *mut c_void, _: Raw, keywords: Option<Raw>) -> Raw {
        // SAFETY: a new tuple takes new references to live values; likewise the dictionary.
        unsafe {
            let args = ffi::PyTuple_New(self.positional as ffi::Py_ssize_t);
            if args.is_null() {
                return ptr::null_mut();
            }
            for (i, value) in self.values[..self.positional].iter().enumerate() {
                ffi::Py_INCREF(*value);
                ffi::PyTuple_SetItem(args, i as ffi::Py_ssize_t, *value);
            }
            let named = keywords.map(|_| {
                let named = ffi::PyDict_New();
                for (key, value) in self.names.iter().zip(&self.values[self.positional..]) {
                    ffi::PyDict_SetItem(named, *key, *value);
                }
                named
            });
            let result = direct(original, self.slf, Shape::Tuple(args, named));
            ffi::Py_DECREF(args);
            if let Some(named) = named {
                ffi::Py_XDECREF(named);
            }
            result
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // While a thread is unwound at the interpreter's end it has no GIL: what it holds is lost with the process.
        if is_finalising() && !self.finished {
            return;
        }
        for value in self.owned.drain(..) {
            // SAFETY: each is one reference of ours; the GIL is held for the whole call.
            unsafe { ffi::Py_DECREF(value) };
        }
    }
}

/// Calls a function with the arguments that its stand-in got.
///
/// # Safety
/// `original` follows the convention of `shape`, and the GIL is held.
pub(crate) unsafe fn direct(original: *mut c_void, slf: Raw, shape: Shape) -> Raw {
    type One = unsafe extern "C-unwind" fn(Raw, Raw) -> Raw;
    type Named = unsafe extern "C-unwind" fn(Raw, Raw, Raw) -> Raw;
    type Fast = unsafe extern "C-unwind" fn(Raw, *const Raw, ffi::Py_ssize_t) -> Raw;
    type FastNamed = unsafe extern "C-unwind" fn(Raw, *const Raw, ffi::Py_ssize_t, Raw) -> Raw;
    type Method = unsafe extern "C-unwind" fn(Raw, *mut c_void, *const Raw, ffi::Py_ssize_t, Raw) -> Raw;
    // SAFETY: the shape was chosen by the function's own flags when it was replaced.
    unsafe {
        use std::mem::transmute;
        match shape {
            Shape::One(value) | Shape::Tuple(value, None) => {
                transmute::<*mut c_void, One>(original)(slf, value)
            }
            Shape::Tuple(args, Some(named)) => transmute::<*mut c_void, Named>(original)(slf, args, named),
            Shape::Fast { args, count, names: None, .. } => {
                transmute::<*mut c_void, Fast>(original)(slf, args, count)
            }
            Shape::Fast { args, count, names: Some(names), class: None } => {
                transmute::<*mut c_void, FastNamed>(original)(slf, args, count, names)
            }
            Shape::Fast { args, count, names: Some(names), class: Some(class) } => {
                transmute::<*mut c_void, Method>(original)(slf, class, args, count, names)
            }
        }
    }
}

/// Flags of a method that say how it is called, without those that say where it lives.
pub(crate) fn convention(flags: c_int) -> c_int {
    flags & !(ffi::METH_CLASS | ffi::METH_STATIC | ffi::METH_COEXIST)
}
