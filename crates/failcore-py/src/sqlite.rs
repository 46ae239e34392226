//! Databases that a connection opens later: `ATTACH` and `VACUUM INTO` raise no event.
//!
//! SQLite asks an authorizer before it compiles such a statement (sqlite.org/c3ref/set_authorizer.html). Each
//! connection gets ours as soon as it is open; a program's own takes its place and is asked after ours.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::decode_fs::judge_database;
use crate::monitor;

pub(crate) const SQLITE_OK: i32 = 0;
pub(crate) const SQLITE_DENY: i32 = 1;
pub(crate) const SQLITE_PRAGMA: i32 = 19;
pub(crate) const SQLITE_ATTACH: i32 = 24;

/// Whether a statement may do this: open the file `first`, or set (`sets`) the pragma `first`.
pub(crate) fn permits(action: i32, first: Option<&[u8]>, sets: bool) -> bool {
    match (action, first) {
        (SQLITE_ATTACH, Some(name)) => judge_database(name, None, None).is_ok(),
        // A name that is not written out in the statement is not told.
        (SQLITE_ATTACH, None) => {
            drop(monitor::undecodable("sqlite3 ATTACH", "the file must be written out in the statement"));
            false
        }
        (SQLITE_PRAGMA, Some(name)) => !(sets && name.eq_ignore_ascii_case(b"temp_store_directory")),
        _ => true,
    }
}

/// A program's own authorizer behind ours.
#[pyclass(frozen, name = "_Authorizer", module = "failcore")]
pub(crate) struct Authorizer(Option<Py<PyAny>>);

#[pymethods]
impl Authorizer {
    /// The program's own name for it, which sqlite3 puts into what it prints.
    #[getter]
    fn __name__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.0 {
            Some(own) => own.getattr(py, "__name__"),
            None => Ok("authorizer".into_pyobject(py)?.into_any().unbind()),
        }
    }

    #[pyo3(signature = (action, first=None, *rest))]
    fn __call__(
        &self,
        py: Python<'_>,
        action: i32,
        first: Option<Bound<'_, PyAny>>,
        rest: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        let text = first.as_ref().and_then(|first| first.extract::<String>().ok());
        let sets = rest.get_item(0).is_ok_and(|value| !value.is_none());
        if !permits(action, text.as_deref().map(str::as_bytes), sets) {
            return Ok(SQLITE_DENY.into_pyobject(py)?.into_any().unbind());
        }
        match &self.0 {
            None => Ok(SQLITE_OK.into_pyobject(py)?.into_any().unbind()),
            Some(own) => {
                let head = (action, first).into_pyobject(py)?;
                own.call1(py, head.as_sequence().concat(rest.as_sequence())?.to_tuple()?)
            }
        }
    }
}

/// Wraps a program's own authorizer, or the lack of one.
///
/// # Errors
/// Where Python has no memory for it.
pub(crate) fn wrap(own: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let inner = (!own.is_none()).then(|| own.clone().unbind());
    Ok(Bound::new(own.py(), Authorizer(inner))?.into_any().unbind())
}
