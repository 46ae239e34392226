//! Reading a trace from Python.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use failcore_gate::replay::what_if;
use failcore_model::Request;
use failcore_trace::{Alteration, Integrity, Reader, TraceError, locate, redacted_field, verify};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::policy::Policy;

fn failed(error: TraceError) -> PyErr {
    PyOSError::new_err(error.to_string())
}

/// The directory of a trace, by that, its session id or the unique start of one.
fn find(name: PathBuf) -> PyResult<PathBuf> {
    match name.to_str() {
        Some(text) if !name.exists() => locate(text).map_err(failed),
        _ => Ok(name),
    }
}

/// What another policy would have decided otherwise, as the JSON text of one object. The trace is verified first.
#[pyfunction]
pub(crate) fn _what_if(py: Python<'_>, trace: PathBuf, policy: &Policy) -> PyResult<String> {
    let (dir, policy) = (find(trace)?, policy.set());
    let differences = py.detach(|| {
        let altered =
            |why: String| PyValueError::new_err(format!("{} does not verify: {why}", dir.display()));
        if let Integrity::Altered(Alteration { seq, flaw, .. }) =
            verify(&dir, None).map_err(failed)?.integrity
        {
            return Err(altered(format!("{flaw} (record {seq})")));
        }
        let records = Reader::open(&dir).map_err(failed)?;
        let undecidable = |request: &Request| redacted_field(request).is_some();
        what_if(records, &policy, undecidable).map_err(|error| altered(error.to_string()))
    })?;
    serde_json::to_string(&differences).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The records of a trace, each as the JSON text of one object.
#[pyclass(frozen, name = "_TraceReader", module = "failcore")]
pub(crate) struct TraceReader(Mutex<Reader>);

#[pymethods]
impl TraceReader {
    /// Opens a trace by its directory, its session id or the unique start of one.
    #[new]
    fn new(name: PathBuf) -> PyResult<Self> {
        let reader = Reader::open(&find(name)?).map_err(failed)?;
        Ok(Self(Mutex::new(reader)))
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
