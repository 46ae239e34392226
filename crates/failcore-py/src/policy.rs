//! The Python class of a policy.

use std::path::PathBuf;
use std::sync::Arc;

use failcore_model::AbsPath;
use failcore_policy::{Environment, PolicyError, PolicySet, Python as Installation};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// A checked policy; immutable.
#[pyclass(frozen, module = "failcore")]
pub(crate) struct Policy {
    set: Arc<PolicySet>,
    file: Option<PathBuf>,
}

impl Policy {
    pub(crate) fn set(&self) -> Arc<PolicySet> {
        Arc::clone(&self.set)
    }

    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.file.clone()
    }
}

fn environment(py: Python<'_>) -> Environment {
    let mut environment = Environment::current();
    environment.python = py
        .import("sys")
        .and_then(|sys| sys.getattr("executable"))
        .and_then(|executable| executable.extract::<std::ffi::OsString>())
        .ok()
        .and_then(|executable| Installation::find(&executable, &environment.path));
    environment
}

/// Everything that is wrong, each on a line as `name:line:column: what (remedy)`.
fn refused(error: &PolicyError) -> PyErr {
    let lines: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| {
            let place = problem
                .within
                .as_ref()
                .zip(problem.position())
                .map_or_else(String::new, |(within, (line, column))| {
                    format!("{}:{line}:{column}: ", within.name())
                });
            let remedy = problem.help.as_ref().map_or_else(String::new, |help| format!(" ({help})"));
            format!("{place}{}{remedy}", problem.message)
        })
        .collect();
    PyValueError::new_err(lines.join("\n"))
}

#[pymethods]
impl Policy {
    /// A policy from its text. Relative paths in it are relative to `dir`, by default the working directory.
    #[staticmethod]
    #[pyo3(signature = (text, *, name="policy", dir=None))]
    fn from_str(py: Python<'_>, text: &str, name: &str, dir: Option<PathBuf>) -> PyResult<Self> {
        let dir = std::path::absolute(dir.unwrap_or_else(|| PathBuf::from(".")))?;
        let dir = AbsPath::lexical(dir.as_os_str().as_encoded_bytes())
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let set = PolicySet::parse(name, text, &dir, &environment(py)).map_err(|error| refused(&error))?;
        Ok(Self { set: Arc::new(set), file: None })
    }

    /// A policy from a file, with what it extends.
    #[staticmethod]
    fn from_file(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        // A file that cannot be read is the `OSError` that `open` would raise.
        drop(std::fs::File::open(&path)?);
        let set = PolicySet::load(&path, &environment(py)).map_err(|error| refused(&error))?;
        Ok(Self { set: Arc::new(set), file: Some(std::path::absolute(path)?) })
    }

    /// The policy's own name.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.set.name()
    }

    /// SHA-256 of the resolved text, in hexadecimal.
    #[getter]
    fn digest(&self) -> &str {
        self.set.digest()
    }

    /// The self-contained text: everything expanded.
    #[getter]
    fn resolved(&self) -> &str {
        self.set.resolved()
    }

    fn __repr__(&self) -> String {
        let digest = self.set.digest();
        format!(
            "<failcore.Policy {} {}>",
            self.set.name().unwrap_or("unnamed"),
            &digest[..digest.len().min(12)]
        )
    }
}
