//! From a refusal to the exception that the agent sees.
#![allow(unsafe_code, reason = "exceptions are raised from a C function, in any interpreter")]

use std::cell::Cell;
use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use failcore_model::{Denial, Reason};
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::hook_context::in_main_interpreter;
use crate::hook_object::Object;

/// Why an operation does not happen, and how the agent's code expects to hear of it.
pub(crate) struct Refusal {
    what: What,
    /// The objects that stand as `filename` and `filename2`, borrowed from the event.
    files: [*mut ffi::PyObject; 2],
}

enum What {
    Denied(Denial),
    /// A module does not load.
    Import(Denial),
    /// A host name does not exist.
    Name(Denial),
    /// The operation would fail anyway, with this errno.
    Os(i32),
    /// A look-up found nothing, with this `EAI_*` code.
    Lookup(i32, String),
}

impl Refusal {
    /// A refusal that raises `failcore.Denied`.
    pub(crate) fn of(denial: Denial) -> Self {
        Self { what: What::Denied(denial), files: [ptr::null_mut(); 2] }
    }

    /// A refusal that raises `ImportError`.
    pub(crate) fn import(denial: Denial) -> Self {
        Self { what: What::Import(denial), ..Self::os(0) }
    }

    /// A refusal that is also a `socket.gaierror`.
    pub(crate) fn name(denial: Denial) -> Self {
        Self { what: What::Name(denial), ..Self::os(0) }
    }

    /// A look-up that found nothing (getaddrinfo(3)).
    pub(crate) fn lookup(code: i32, message: String) -> Self {
        Self { what: What::Lookup(code, message), ..Self::os(0) }
    }

    /// A failure that the operation itself would meet.
    pub(crate) fn os(errno: i32) -> Self {
        Self { what: What::Os(errno), files: [ptr::null_mut(); 2] }
    }

    /// With the objects that Python users expect as `filename` and `filename2`.
    pub(crate) fn about(mut self, first: Option<Object<'_>>, second: Option<Object<'_>>) -> Self {
        self.files = [first, second].map(|file| file.map_or(ptr::null_mut(), Object::as_ptr));
        self
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::of(denial)
    }
}

impl From<Denial> for Box<Refusal> {
    fn from(denial: Denial) -> Self {
        Self::new(Refusal::of(denial))
    }
}

/// The exception classes, made once from `denied.py` and kept for ever.
static DENIED: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// The module that holds the exception classes; runs Python the first time.
///
/// # Errors
/// Where Python cannot run it, such as early in its start.
pub(crate) fn classes(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    if let Some(kept) = kept(py) {
        return Ok(kept);
    }
    // PyO3 makes this class when it first fetches an exception, and would wait for itself for ever where making it
    // fails with one, as it does on an exhausted stack.
    drop(py.get_type::<PanicException>());
    let module = PyModule::from_code(py, source(), c"<failcore>", c"failcore._denied")?;
    // `from_code` registers the module; nobody needs to find it there.
    if let Ok(modules) = py.import("sys").and_then(|sys| sys.getattr("modules")) {
        drop(modules.call_method1("pop", ("failcore._denied", py.None())));
    }
    DENIED.store(module.clone().into_ptr(), Ordering::Release);
    Ok(module)
}

/// Makes the exception classes of an attached process; without them a refusal is a plain `PermissionError`.
pub(crate) fn prepare() {
    if in_main_interpreter() {
        // SAFETY: the GIL is held and this is the main interpreter.
        let py = unsafe { Python::assume_attached() };
        if let Err(error) = classes(py) {
            drop(error);
        }
    }
}

fn kept(py: Python<'_>) -> Option<Bound<'_, PyModule>> {
    let kept = DENIED.load(Ordering::Acquire);
    // SAFETY: null, or a live module of the main interpreter, kept for ever.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, kept) }?.cast_into().ok()
}

fn source() -> &'static std::ffi::CStr {
    const SOURCE: &str = concat!(include_str!("denied.py"), "\0");
    std::ffi::CStr::from_bytes_with_nul(SOURCE.as_bytes()).unwrap_or_default()
}

thread_local!(static RAISING: Cell<bool> = const { Cell::new(false) });

/// Sets the exception of a refusal.
pub(crate) fn raise(refusal: Refusal) {
    let (denial, errno) = match &refusal.what {
        What::Os(errno) => return raise_os(*errno, refusal.files[0]),
        What::Lookup(code, message) => return raise_lookup(*code, message),
        What::Denied(denial) | What::Import(denial) | What::Name(denial) => (denial, denial.errno),
    };
    // The classes can have been tampered with, or not be there yet: then the plain exception must do.
    if !in_main_interpreter() || RAISING.replace(true) {
        return raise_plain(errno, &denial.to_string());
    }
    // SAFETY: the GIL is held and this is the main interpreter, where PyO3's objects live.
    let py = unsafe { Python::assume_attached() };
    let raised = kept(py).is_some_and(|classes| build(py, &classes, &refusal, denial).is_ok());
    RAISING.set(false);
    if !raised {
        raise_plain(errno, &denial.to_string());
    }
}

/// Sets the exception of a refusal that came to light when a call failed, instead of the failure's own.
pub(crate) fn instead(refused: Option<Denial>, about: Option<Object<'_>>) {
    if let Some(denial) = refused {
        // SAFETY: the GIL is held; the failure's exception gives way.
        unsafe { ffi::PyErr_Clear() };
        raise(Refusal::of(denial).about(about, None));
    }
}

/// Makes the exception without running Python code.
fn build(py: Python<'_>, classes: &Bound<'_, PyModule>, refusal: &Refusal, denial: &Denial) -> PyResult<()> {
    let class = match &refusal.what {
        What::Denied(denial) if denial.reason == Reason::Absent => classes.getattr("DeniedAbsent")?,
        What::Name(_) => named(py, classes)?,
        _ => classes.getattr("Denied")?,
    };
    let errno = match &refusal.what {
        What::Name(_) => libc::EAI_NONAME,
        _ => denial.errno,
    };
    let file = |object: *mut ffi::PyObject| {
        // SAFETY: null, or borrowed from the event's arguments, which outlive the hook.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, object) }
    };
    let message = denial.to_string();
    let exception = match refusal.files.map(file) {
        [None, _] => class.call1((errno, &message))?,
        [first, None] => class.call1((errno, &message, first))?,
        [first, second] => class.call1((errno, &message, first, py.None(), second))?,
    };
    describe(&exception, denial)?;
    let raised = if matches!(refusal.what, What::Import(_)) {
        let import = classes.getattr("DeniedImport")?.call1((&message,))?;
        describe(&import, denial)?;
        import.setattr("__cause__", exception)?;
        import
    } else {
        exception
    };
    PyErr::from_value(raised).restore(py);
    Ok(())
}

fn describe(exception: &Bound<'_, PyAny>, denial: &Denial) -> PyResult<()> {
    exception.setattr("verb", denial.verb.as_str())?;
    exception.setattr("resource", &denial.resource)?;
    exception.setattr("rule", denial.rule.as_ref().map(|rule| rule.as_str()))?;
    exception.setattr("reason", denial.reason.as_str())?;
    exception.setattr("hint", denial.hint.as_deref())?;
    exception.setattr("retry", denial.retry)
}

/// The class that is a `Denied` and a `socket.gaierror` in one, made when first needed.
fn named<'py>(py: Python<'py>, classes: &Bound<'py, PyModule>) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(class) = classes.getattr("DeniedName") {
        return Ok(class);
    }
    let gaierror = py.import("_socket")?.getattr("gaierror")?;
    let bases = (classes.getattr("NameMixin")?, classes.getattr("Denied")?, gaierror);
    let names = PyDict::new(py);
    names.set_item("__module__", "failcore")?;
    let class = py.get_type::<PyType>().call1(("DeniedName", bases, names))?;
    classes.setattr("DeniedName", &class)?;
    Ok(class)
}

/// Sets a `socket.gaierror`.
fn raise_lookup(code: i32, message: &str) {
    if in_main_interpreter() {
        // SAFETY: the GIL is held and this is the main interpreter.
        let py = unsafe { Python::assume_attached() };
        let error = py
            .import("_socket")
            .and_then(|socket| socket.getattr("gaierror"))
            .and_then(|class| class.call1((code, message)));
        if let Ok(error) = error {
            return PyErr::from_value(error).restore(py);
        }
    }
    raise_plain(code, message);
}

/// Sets a plain `PermissionError`, which needs nothing but the interpreter's own objects.
pub(crate) fn raise_plain(errno: i32, message: &str) {
    let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    // SAFETY: the GIL is held. Each call tolerates failure by leaving another exception, which refuses as well.
    unsafe {
        ffi::PyErr_Clear();
        let arguments = ffi::Py_BuildValue(c"(is)".as_ptr(), errno, message.as_ptr());
        if arguments.is_null() {
            return;
        }
        ffi::PyErr_SetObject(ffi::PyExc_PermissionError, arguments);
        ffi::Py_DECREF(arguments);
    }
}

/// Sets the `OSError` of an errno, as the operation itself would have.
fn raise_os(errno: i32, file: *mut ffi::PyObject) {
    // SAFETY: the GIL is held; the file is null or borrowed from the event.
    unsafe {
        *libc::__errno_location() = errno;
        ffi::PyErr_SetFromErrnoWithFilenameObject(ffi::PyExc_OSError, file);
    }
}
