//! From a refusal to the exception that the agent sees.
#![allow(unsafe_code, reason = "exceptions are raised from a C function, in any interpreter")]

use std::cell::Cell;
use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use failcore_model::{Denial, Reason, Verb};
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::hook_context::{in_main_interpreter, is_initialised};
use crate::hook_object::Object;
use crate::{attach, hook_site, supervised};

/// Why an operation does not happen, and how the agent's code expects to hear of it.
pub(crate) struct Refusal {
    what: What,
    /// The objects that stand as `filename` and `filename2`, or as an import's `name`, borrowed from the event.
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
    /// An argument is of a type that is not taken.
    Type(String),
    /// An argument has the right type and no use.
    Value(String),
    /// Reading an argument raised.
    Raised(Raised),
}

/// An exception of the program's own is set: what it wanted cannot be read, and does not happen.
///
/// Whoever gets one passes it on at once, since nothing of Python may run while it is set.
pub(crate) struct Raised(());

impl Raised {
    /// Says that the call just made into Python has failed.
    pub(crate) fn now() -> Self {
        Self(())
    }
}

impl From<Raised> for Box<Refusal> {
    fn from(raised: Raised) -> Self {
        Self::new(Refusal { what: What::Raised(raised), ..Refusal::os(0) })
    }
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

    /// A `TypeError`, as the operation itself would have it.
    pub(crate) fn wrong_type(message: impl Into<String>) -> Self {
        Self { what: What::Type(message.into()), ..Self::os(0) }
    }

    /// A `ValueError`, as the operation itself would have it.
    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self { what: What::Value(message.into()), ..Self::os(0) }
    }

    /// A failure that the operation itself would meet.
    pub(crate) fn os(errno: i32) -> Self {
        Self { what: What::Os(errno), files: [ptr::null_mut(); 2] }
    }

    /// With the name of the module that does not load, where one does not.
    pub(crate) fn of_module(self, name: Option<Object<'_>>) -> Self {
        if matches!(self.what, What::Import(_)) { self.about(name, None) } else { self }
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
        // SAFETY: the classes are static objects of the interpreter.
        What::Type(message) => return raise_text(unsafe { ffi::PyExc_TypeError }, message),
        // SAFETY: as above.
        What::Value(message) => return raise_text(unsafe { ffi::PyExc_ValueError }, message),
        What::Raised(_) => return raise_again(),
        What::Denied(denial) | What::Import(denial) | What::Name(denial) => (denial, denial.errno),
    };
    let by_itself = is_script(denial);
    if by_itself {
        tell_user(denial);
    }
    // The classes can have been tampered with, or not be there yet: then the plain exception must do.
    if !in_main_interpreter() || RAISING.replace(true) {
        raise_plain(errno, &denial.to_string());
    } else {
        // SAFETY: the GIL is held and this is the main interpreter, where PyO3's objects live.
        let py = unsafe { Python::assume_attached() };
        let raised = kept(py).is_some_and(|classes| build(py, &classes, &refusal, denial).is_ok());
        RAISING.set(false);
        if !raised {
            raise_plain(errno, &denial.to_string());
        }
    }
    if by_itself {
        // SAFETY: the calling thread's own.
        unsafe { *libc::__errno_location() = errno };
    }
}

/// Whether the interpreter itself is refused the script that it was to run, in a program that `failcore run` started: no code
/// runs yet, and the file is called as `sys.argv` says.
fn is_script(denial: &Denial) -> bool {
    if denial.verb != Verb::FsOpen || !attach::is_attached() || !is_initialised() || hook_site::is_in_code() {
        return false;
    }
    // SAFETY: the GIL is held, as the hook is called with it; the object is borrowed from the interpreter.
    let argv = unsafe { Object::new(ffi::PySys_GetObject(c"argv".as_ptr())) };
    let name = argv.and_then(|argv| argv.items()?.first()?.os_bytes());
    name.is_some_and(|name| {
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        !last.is_empty() && denial.resource.as_bytes().ends_with(last)
    })
}

/// Says once on the standard error why: the interpreter drops our exception and tells the errno (Modules/main.c,
/// `pymain_run_file`).
fn tell_user(denial: &Denial) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        let text = format!("failcore: {denial}\n");
        // SAFETY: the bytes live; who does not listen is not told.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
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

/// Where the supervisor refused a call, puts what it says in place of the exception that the errno made.
pub(crate) fn explain() {
    let Some(denial) = supervised::heard() else { return };
    if !in_main_interpreter() || RAISING.replace(true) {
        return;
    }
    // SAFETY: the GIL is held and this is the main interpreter.
    let py = unsafe { Python::assume_attached() };
    if let Some(raised) = UnderWay::take(py) {
        let attribute = |name: &str| raised.value.getattr(name).ok().filter(|found| !found.is_none());
        let is_about_it =
            attribute("errno").and_then(|errno| errno.extract::<i32>().ok()) == Some(denial.errno);
        let files = [attribute("filename"), attribute("filename2")];
        let refusal = Refusal {
            what: What::Denied(denial.clone()),
            files: files.each_ref().map(|file| file.as_ref().map_or(ptr::null_mut(), |file| file.as_ptr())),
        };
        let explained =
            is_about_it && kept(py).is_some_and(|classes| build(py, &classes, &refusal, &denial).is_ok());
        if !explained {
            raised.restore();
        }
    }
    RAISING.set(false);
}

/// The exception under way, taken up. Not a [`PyErr`], which gives its references back only where PyO3 itself has taken
/// the GIL: here the interpreter has it already, and they would be kept for ever.
struct UnderWay<'py> {
    class: Bound<'py, PyAny>,
    value: Bound<'py, PyAny>,
    traceback: Option<Bound<'py, PyAny>>,
}

impl<'py> UnderWay<'py> {
    fn take(py: Python<'py>) -> Option<Self> {
        let (mut class, mut value, mut traceback) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the GIL is held; all three become references of ours, or null.
        unsafe {
            ffi::PyErr_Fetch(&raw mut class, &raw mut value, &raw mut traceback);
            ffi::PyErr_NormalizeException(&raw mut class, &raw mut value, &raw mut traceback);
            let owned = |object| Bound::from_owned_ptr_or_opt(py, object);
            let traceback = owned(traceback);
            Some(Self { class: owned(class)?, value: owned(value)?, traceback })
        }
    }

    /// Lets it be under way again.
    fn restore(self) {
        let traceback = self.traceback.map_or(ptr::null_mut(), Bound::into_ptr);
        // SAFETY: the GIL is held; the references are handed over.
        unsafe { ffi::PyErr_Restore(self.class.into_ptr(), self.value.into_ptr(), traceback) };
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
    let import = matches!(refusal.what, What::Import(_));
    let files = if import { [None, None] } else { refusal.files.map(file) };
    let exception = match files {
        [None, _] => class.call1((errno, &message))?,
        [first, None] => class.call1((errno, &message, first))?,
        [first, second] => class.call1((errno, &message, first, py.None(), second))?,
    };
    describe(&exception, denial)?;
    let raised = if import {
        let import = classes.getattr("DeniedImport")?.call1((&message,))?;
        describe(&import, denial)?;
        import.setattr("name", file(refusal.files[0]))?;
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

/// Leaves the exception that is set; without one, which does not happen, it is still a refusal.
fn raise_again() {
    // SAFETY: the GIL is held; looks whether an exception is set.
    if unsafe { ffi::PyErr_Occurred() }.is_null() {
        raise_plain(libc::EIO, "an argument could not be read");
    }
}

/// Sets an exception of a class that takes a message alone.
fn raise_text(class: *mut ffi::PyObject, message: &str) {
    let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    // SAFETY: the GIL is held; the class is live and the message is copied.
    unsafe { ffi::PyErr_SetString(class, message.as_ptr()) };
}

/// Puts the program's own objects back into the `filename` and `filename2` of the exception that is set, where
/// copies of ours stand. Each pair is a copy and what it was made of.
pub(crate) fn name_originals(pairs: &[(*mut ffi::PyObject, *mut ffi::PyObject)]) {
    // SAFETY: the GIL is held; both sides of each pair are live; the three references fetched are given back, and an
    // exception on the way leaves the first one as it was.
    unsafe {
        if ffi::PyErr_Occurred().is_null() || ffi::PyErr_ExceptionMatches(ffi::PyExc_OSError) == 0 {
            return;
        }
        let (mut class, mut value, mut traceback) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        ffi::PyErr_Fetch(&raw mut class, &raw mut value, &raw mut traceback);
        ffi::PyErr_NormalizeException(&raw mut class, &raw mut value, &raw mut traceback);
        for attribute in [c"filename", c"filename2"] {
            let named = ffi::PyObject_GetAttrString(value, attribute.as_ptr());
            if let Some((_, original)) = pairs.iter().find(|(copy, _)| *copy == named) {
                ffi::PyObject_SetAttrString(value, attribute.as_ptr(), *original);
            }
            ffi::Py_XDECREF(named);
            ffi::PyErr_Clear();
        }
        ffi::PyErr_Restore(class, value, traceback);
    }
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
