//! Where in the program an operation comes from: the call site that a record claims.
//!
//! An auditor looks for the line of the agent that led here, not for the one in the standard library that made the
//! call. So the innermost frame of the program's own code is named; where there is none, that of an installed package;
//! else the innermost there is. A claim like every other: a program can compile code under any file's name.
#![allow(unsafe_code, reason = "frames are raw pointers")]

use std::ptr::NonNull;

use failcore_model::Text;
use pyo3::ffi;

use crate::hook_context::is_initialised;
use crate::hook_object::Object;
use crate::opening;

// Exported by every CPython since 3.9, and the first three in the limited API since 3.10 (Include/pyframe.h,
// cpython/frameobject.h, pystate.h).
unsafe extern "C" {
    fn PyFrame_GetLineNumber(frame: *mut ffi::PyFrameObject) -> std::ffi::c_int;
    fn PyFrame_GetCode(frame: *mut ffi::PyFrameObject) -> *mut ffi::PyObject;
    fn PyEval_GetFrame() -> *mut ffi::PyFrameObject;
    fn PyFrame_GetBack(frame: *mut ffi::PyFrameObject) -> *mut ffi::PyFrameObject;
    fn PyGILState_Check() -> std::ffi::c_int;
}

/// Frames looked at: a program deeper than this in library code is named by that.
const MOST_FRAMES: usize = 64;
/// The longest file name that is claimed; a program may call its code anything.
const LONGEST: usize = 1024;

/// Whose code a frame runs; the less the better an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Program,
    Package,
    Library,
    Frozen,
}

/// The call site of the calling thread, `file:line`; nothing where no Python code runs. Runs none itself.
pub(crate) fn here() -> Option<Text> {
    // In an open the GIL may be let go of, which the interpreter does not tell once it has others beside it.
    if opening::is_unlocked() {
        return None;
    }
    // SAFETY: reads a flag of the calling thread, and whether an exception is under way, which is then left alone.
    let may_look = unsafe { PyGILState_Check() != 0 && ffi::PyErr_Occurred().is_null() };
    if !is_initialised() || !may_look {
        return None;
    }
    // SAFETY: the GIL is held. Since 3.11 frames get their objects when they are asked for, and until 3.11 such an
    // allocation can start the collector, which runs finalisers: it is off meanwhile.
    let collects = unsafe { ffi::PyGC_Disable() != 0 };
    let found = innermost();
    if collects {
        // SAFETY: as above; it was on.
        unsafe { ffi::PyGC_Enable() };
    }
    found
}

/// Whether code of a Python program runs in the calling thread, or none does: then it is the interpreter itself that acts.
pub(crate) fn is_in_code() -> bool {
    // SAFETY: reads a flag of the calling thread; with the GIL held the frame is borrowed, or null.
    is_initialised() && unsafe { PyGILState_Check() != 0 && !PyEval_GetFrame().is_null() }
}

/// A frame of the calling thread, with a reference of ours.
struct Frame(NonNull<ffi::PyFrameObject>);

impl Frame {
    fn current() -> Option<Self> {
        // SAFETY: the GIL is held; the frame is borrowed, or null where no Python code runs.
        unsafe {
            let frame = NonNull::new(PyEval_GetFrame())?;
            ffi::Py_INCREF(frame.as_ptr().cast());
            Some(Self(frame))
        }
    }

    fn caller(&self) -> Option<Self> {
        // SAFETY: a live frame; the answer is a new reference or null.
        NonNull::new(unsafe { PyFrame_GetBack(self.0.as_ptr()) }).map(Self)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: our reference; the frame is running, so it is not the last one and nothing is freed.
        unsafe { ffi::Py_DECREF(self.0.as_ptr().cast()) };
    }
}

fn innermost() -> Option<Text> {
    let mut best: Option<(Whose, Text)> = None;
    let mut next = Frame::current();
    for _ in 0..MOST_FRAMES {
        let Some(frame) = next else { break };
        if let Some(better) = look(&frame, best.as_ref().map(|(whose, _)| *whose)) {
            let done = better.0 == Whose::Program;
            best = Some(better);
            if done {
                break;
            }
        }
        next = frame.caller();
    }
    best.map(|(_, site)| site)
}

/// The place of a frame, if it is a better answer than what is known.
fn look(frame: &Frame, known: Option<Whose>) -> Option<(Whose, Text)> {
    // SAFETY: a live frame always has a code object, which we get a reference of. Its type cannot be derived from, and
    // the attribute is a plain member: nothing of the program runs. The name is copied before the references go.
    unsafe {
        let code = PyFrame_GetCode(frame.0.as_ptr());
        let name = ffi::PyObject_GetAttrString(code, c"co_filename".as_ptr());
        ffi::Py_DECREF(code);
        let Some(file) = Object::new(name) else {
            ffi::PyErr_Clear();
            return None;
        };
        let found = file.os_bytes().filter(|bytes| bytes.len() <= LONGEST).and_then(|bytes| {
            let whose = whose(&bytes);
            if known.is_some_and(|known| known <= whose) {
                return None;
            }
            let line = PyFrame_GetLineNumber(frame.0.as_ptr());
            let site =
                if line > 0 { [&bytes, format!(":{line}").as_bytes()].concat() } else { bytes.into_owned() };
            Some((whose, Text::from(site.as_slice())))
        });
        ffi::Py_DECREF(name);
        found
    }
}

/// Whether a path is neither of the standard library nor of installed packages.
pub(crate) fn is_programs_own(path: &[u8]) -> bool {
    whose(path) == Whose::Program
}

/// Whose code a file holds, by where it lies: below `lib/python3.N` is the standard library, below a directory for
/// packages there or elsewhere what was installed.
fn whose(file: &[u8]) -> Whose {
    if file.starts_with(b"<frozen ") {
        return Whose::Frozen;
    }
    let mut above: &[u8] = b"";
    let mut library = false;
    for name in file.split(|byte| *byte == b'/') {
        if matches!(name, b"site-packages" | b"dist-packages") {
            return Whose::Package;
        }
        library |= matches!(above, b"lib" | b"lib64") && name.starts_with(b"python3");
        above = name;
    }
    if library { Whose::Library } else { Whose::Program }
}
