//! A callable that runs under the scope it was handed over in, whatever thread runs it.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::scope::{self, Held};

/// Runs its function with the scope of whoever made it as the thread's floor. From Python it can only be called.
#[pyclass(frozen, name = "_Carried", module = "failcore")]
pub(crate) struct Carried {
    function: Py<PyAny>,
    held: Held,
}

impl Carried {
    /// Hands a function over under a scope.
    pub(crate) fn new(function: Py<PyAny>, held: Held) -> Self {
        Self { function, held }
    }
}

struct Restore(Held);

impl Drop for Restore {
    fn drop(&mut self) {
        scope::set_floor(self.0.take());
    }
}

#[pymethods]
impl Carried {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let _restore = Restore(scope::set_floor(self.held.clone()));
        self.function.call(py, args, kwargs)
    }
}
