//! Reading a trace from Python.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use failcore_trace::{Reader, locate};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// The records of a trace, each as the JSON text of one object.
#[pyclass(frozen, name = "_TraceReader", module = "failcore")]
pub(crate) struct TraceReader(Mutex<Reader>);

#[pymethods]
impl TraceReader {
    /// Opens a trace by its directory, its session id or the unique start of one.
    #[new]
    fn new(name: PathBuf) -> PyResult<Self> {
        let failed = |error: failcore_trace::TraceError| PyOSError::new_err(error.to_string());
        let path = match name.to_str() {
            Some(text) if !name.exists() => locate(text).map_err(failed)?,
            _ => name,
        };
        Reader::open(&path).map(|reader| Self(Mutex::new(reader))).map_err(failed)
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self) -> PyResult<Option<String>> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).next() {
            None => Ok(None),
            Some(Ok(record)) => serde_json::to_string(&record)
                .map(Some)
                .map_err(|error| PyValueError::new_err(error.to_string())),
            Some(Err(error)) => Err(PyValueError::new_err(error.to_string())),
        }
    }
}
