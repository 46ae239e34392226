//! A callable that a child runs before it executes a program: the program's own, and then what ours must hold.

use pyo3::prelude::*;

use crate::attach;

/// Runs a `preexec_fn`, and puts back into the child's environment what the gate needs there. From Python it can only
/// be called.
#[pyclass(frozen, name = "_Prepared", module = "failcore")]
pub(crate) struct Prepared {
    function: Py<PyAny>,
}

impl Prepared {
    /// Wraps a `preexec_fn`.
    pub(crate) fn new(function: Py<PyAny>) -> Self {
        Self { function }
    }
}

#[pymethods]
impl Prepared {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        self.function.call0(py)?;
        attach::force_own_environment();
        Ok(())
    }
}
