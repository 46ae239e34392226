//! The extension module `failcore._failcore`.

use std::sync::{Mutex, PoisonError};

use failcore_model::Text;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::carried::Carried;
use crate::events::{FAMILIES, TABLE, Treatment};
use crate::hook_context::{self, TaskScope, Token};
use crate::hook_raise::{self, Refusal};
use crate::policy::Policy;
use crate::session::Session;
use crate::trace::{_what_if, TraceReader};
use crate::{monitor, patched, scope};

/// A tool scope that was entered; ends once.
#[pyclass(frozen, name = "_Entered", module = "failcore")]
struct Entered(Mutex<Option<(scope::Entered, Token)>>);

/// Enters a tool scope for the thread, or (`task`) for the running task only.
#[pyfunction]
#[pyo3(signature = (tool, step=None, task=false))]
fn _enter(py: Python<'_>, tool: &str, step: Option<&str>, task: bool) -> PyResult<Entered> {
    let entered = match scope::enter(Text::from(tool), step.map(Text::from), task) {
        Ok(entered) => entered,
        Err(denial) => {
            hook_raise::raise(Refusal::of(denial));
            return Err(PyErr::fetch(py));
        }
    };
    let token = hook_context::set_task_scope(py, entered.scope())?;
    Ok(Entered(Mutex::new(Some((entered, token)))))
}

#[pymethods]
impl Entered {
    /// Leaves the scope; a second time does nothing.
    fn leave(&self, py: Python<'_>) {
        if let Some((entered, token)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            token.reset(py);
            entered.leave();
        }
    }
}

/// Wraps a callable so that it runs under the present scope, whatever thread runs it.
#[pyfunction]
fn _carry(function: Py<PyAny>) -> Carried {
    Carried::new(function, scope::current().held())
}

/// What is in force: (active, sealed, session, agent, run, tool names from the outermost, step).
#[pyfunction]
#[allow(clippy::type_complexity, reason = "the Python side makes a named tuple of it")]
fn _current() -> (bool, bool, Option<String>, Option<String>, Option<String>, Vec<String>, Option<String>) {
    let claims = scope::claims();
    let text = |text: Text| text.to_string();
    let identity = monitor::innermost().map(|post| post.identity());
    let session = identity.as_ref().map(|identity| identity.session.clone());
    let (agent, run) = identity.map_or((None, None), |identity| (identity.agent, identity.run));
    (
        monitor::active(),
        monitor::is_sealed(),
        session,
        agent.map(text),
        run.map(text),
        claims.scope.into_iter().map(text).collect(),
        claims.step.map(text),
    )
}

/// Puts a policy in force for the rest of the process's life.
#[pyfunction]
#[pyo3(signature = (policy, *, trace=None, agent=None, run=None))]
fn seal(
    py: Python<'_>,
    policy: &Bound<'_, Policy>,
    trace: Option<std::path::PathBuf>,
    agent: Option<String>,
    run: Option<String>,
) -> PyResult<Py<Session>> {
    let class = py.get_type::<Session>();
    let arguments = pyo3::types::PyDict::new(py);
    arguments.set_item("trace", trace)?;
    arguments.set_item("agent", agent)?;
    arguments.set_item("run", run)?;
    let session = class.call((policy,), Some(&arguments))?.cast_into::<Session>()?;
    session.get().begin(py, true)?;
    Ok(session.unbind())
}

/// Every audit event that is known, with (verb, None) or (None, reason), and the families whose unknown members
/// are refused.
#[pyfunction]
#[allow(clippy::type_complexity, reason = "a table for the tests")]
fn _events() -> (Vec<(&'static str, Option<&'static str>, Option<&'static str>)>, Vec<&'static str>) {
    let row = |(name, treatment): &(&'static str, Treatment)| match treatment {
        Treatment::Mapped(verb) => (*name, Some(*verb), None),
        Treatment::Ignored(reason) => (*name, None, Some(*reason)),
    };
    (TABLE.iter().map(row).collect(), FAMILIES.to_vec())
}

/// A text without the secrets that have a known shape.
#[pyfunction]
fn _redact(text: &str) -> String {
    failcore_trace::without_secrets(text)
}

/// Every function that has a stand-in, as `module.name` or `module.Class.name`.
#[pyfunction]
fn _stand_ins() -> Vec<String> {
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    patched::TARGETS
        .iter()
        .map(|target| match target.class {
            Some(class) => format!("{}.{}.{}", text(target.module), text(class), text(target.name)),
            None => format!("{}.{}", text(target.module), text(target.name)),
        })
        .collect()
}

/// The native half of the `failcore` package.
#[pymodule(gil_used = true)]
fn _failcore(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    if !hook_context::in_main_interpreter() {
        return Err(PyRuntimeError::new_err("failcore is for the main interpreter; its gate holds in all"));
    }
    hook_context::create(py)?;
    let classes = hook_raise::classes(py)?;
    for name in ["Denied", "DeniedAbsent", "DeniedImport", "_as_denied"] {
        module.add(name, classes.getattr(name)?)?;
    }
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Policy>()?;
    module.add_class::<Session>()?;
    module.add_class::<TraceReader>()?;
    module.add_class::<TaskScope>()?;
    module.add_class::<Carried>()?;
    module.add_class::<Entered>()?;
    module.add_function(wrap_pyfunction!(_what_if, module)?)?;
    module.add_function(wrap_pyfunction!(_enter, module)?)?;
    module.add_function(wrap_pyfunction!(_carry, module)?)?;
    module.add_function(wrap_pyfunction!(_current, module)?)?;
    module.add_function(wrap_pyfunction!(seal, module)?)?;
    module.add_function(wrap_pyfunction!(_events, module)?)?;
    module.add_function(wrap_pyfunction!(_redact, module)?)?;
    module.add_function(wrap_pyfunction!(_stand_ins, module)?)?;
    Ok(())
}
