//! Sessions inside a program: the gate, its trace and the Python class.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use failcore_gate::{Approver, Gate, Sink, SinkError};
use failcore_kernel::{RunPage, descends};
use failcore_model::{AbsPath, Answer, Event, Hold, Lane, Request, Text};
use failcore_policy::PolicySet;
use failcore_trace::{Options, Redactor, SigningKey, Writer, key_path, new_session_id, runs_dir};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;

use crate::monitor::{self, Identity, Source, Stand};
use crate::patched_net::PINS;
use crate::policy::Policy;
use crate::{expected, hook, hook_attach, hook_patch, hook_site};

/// A trace written by the agent's own process.
struct OwnTrace(Mutex<Option<Writer>>);

impl OwnTrace {
    fn writer(&self) -> std::sync::MutexGuard<'_, Option<Writer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for OwnTrace {
    fn append(&self, event: &Event) -> Result<(), SinkError> {
        match &mut *self.writer() {
            Some(writer) => writer.append(event).map(drop).map_err(|error| SinkError(error.into())),
            None => Err(SinkError("it is closed".into())),
        }
    }
}

/// A person or program that the caller named.
struct Callback(Py<PyAny>);

impl Approver for Callback {
    fn ask(&self, _: &Request, question: &str) -> (Answer, Text) {
        Python::attach(|py| {
            let answer = self.0.call1(py, (question,)).and_then(|answer| answer.is_truthy(py));
            match answer {
                Ok(true) => (Answer::Approved, Text::from("callback")),
                // An exception in it is a no.
                Ok(false) | Err(_) => (Answer::Denied, Text::from("callback")),
            }
        })
    }
}

/// Everything that a session's gate is made from, in this process and in forked ones.
struct Own {
    policy: Arc<PolicySet>,
    id: String,
    dir: PathBuf,
    agent: Option<Text>,
    run: Option<Text>,
    approver: Option<Arc<Callback>>,
    /// Shared with forked children.
    counters: RunPage,
    key: SigningKey,
    /// The process that opened the session.
    opener: u32,
    trace: Arc<Mutex<Option<Arc<OwnTrace>>>>,
}

impl Own {
    fn create(&self) -> Result<Arc<OwnTrace>, String> {
        if !self.policy.upstream().is_empty() {
            return Err("`[dns] upstream` is not held in a program that looks names up itself; `failcore run` holds it".into());
        }
        let own = std::process::id();
        let dir = if own == self.opener {
            self.dir.clone()
        } else {
            self.dir.join("children").join(format!("{own}-{}", new_session_id()))
        };
        let redactor = Redactor::of_environment(std::env::vars_os(), |name| self.policy.redacts(name));
        let options = Options { redactor: Some(redactor), ..Options::default() };
        let mut writer = Writer::create_with(&dir, &self.id, &self.key, self.policy.resolved(), options)
            .map_err(|e| e.to_string())?;
        let coverage = failcore_gate::coverage::runtime(Hold::Advisory);
        let command = std::env::args_os().map(|arg| Text::from(arg.as_encoded_bytes())).collect();
        let policy = self.policy.digest().to_owned();
        let opened = Event::SessionOpened { policy, coverage: Box::new(coverage), command };
        writer.append(&opened).map_err(|error| error.to_string())?;
        Ok(Arc::new(OwnTrace(Mutex::new(Some(writer)))))
    }
}

impl Source for Own {
    fn stand(&self) -> Result<Stand, String> {
        let trace = self.create()?;
        *self.trace.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&trace));
        let mut gate = Gate::builder(Arc::clone(&self.policy), trace, Lane::Runtime)
            .names(Arc::clone(&PINS) as _)
            .site(hook_site::here)
            .meter(Arc::new(self.counters.clone()))
            .identity(self.agent.clone(), self.run.clone());
        if let Some(approver) = &self.approver {
            gate = gate.approver(Arc::clone(approver) as _);
        }
        Ok(Stand { gate: Arc::new(gate.build()), supervised: None })
    }

    fn identity(&self) -> Identity {
        Identity { session: self.id.clone(), agent: self.agent.clone(), run: self.run.clone() }
    }

    fn includes(&self, pid: u32) -> bool {
        descends(pid, self.opener)
    }
}

/// One gate's lifetime inside a program.
#[pyclass(frozen, module = "failcore")]
pub(crate) struct Session {
    policy: Arc<PolicySet>,
    file: Option<PathBuf>,
    agent: Option<String>,
    run: Option<String>,
    id: String,
    dir: PathBuf,
    approve: Option<Arc<Callback>>,
    open: Mutex<Option<u64>>,
    trace: Arc<Mutex<Option<Arc<OwnTrace>>>>,
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (policy, *, trace=None, agent=None, run=None, approve=None))]
    fn new(
        policy: &Policy,
        trace: Option<PathBuf>,
        agent: Option<String>,
        run: Option<String>,
        approve: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let id = new_session_id();
        let dir = match trace {
            Some(dir) => std::path::absolute(dir)?,
            None => runs_dir().map_err(|error| PyOSError::new_err(error.to_string()))?.join(&id),
        };
        Ok(Self {
            policy: policy.set(),
            file: policy.file(),
            agent,
            run,
            id,
            dir,
            approve: approve.map(|approve| Arc::new(Callback(approve))),
            open: Mutex::new(None),
            trace: Arc::default(),
        })
    }

    /// The session's id.
    #[getter]
    fn id(&self) -> &str {
        &self.id
    }

    /// The directory of the trace.
    #[getter]
    fn trace(&self) -> PathBuf {
        self.dir.clone()
    }

    /// The agent's name.
    #[getter]
    fn agent(&self) -> Option<&str> {
        self.agent.as_deref()
    }

    /// The caller's label of the run.
    #[getter]
    fn run(&self) -> Option<&str> {
        self.run.as_deref()
    }

    /// The digest of the policy.
    #[getter]
    fn digest(&self) -> &str {
        self.policy.digest()
    }

    fn __enter__(slf: Py<Self>, py: Python<'_>) -> PyResult<Py<Self>> {
        slf.get().begin(py, false)?;
        Ok(slf)
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<bool> {
        self.end()?;
        Ok(false)
    }

    fn __repr__(&self) -> String {
        format!("<failcore.Session {} policy={}>", self.id, self.policy.name().unwrap_or("unnamed"))
    }
}

impl Session {
    /// Puts the session in force.
    pub(crate) fn begin(&self, py: Python<'_>, sealed: bool) -> PyResult<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            return Err(PyRuntimeError::new_err("the session is open already"));
        }
        let failed = |error: String| PyRuntimeError::new_err(error);
        let key_file = key_path().map_err(|error| PyOSError::new_err(error.to_string()))?;
        let key =
            SigningKey::load_or_create(&key_file).map_err(|error| PyOSError::new_err(error.to_string()))?;
        if self.dir.exists() && std::fs::read_dir(&self.dir)?.next().is_some() {
            let text =
                format!("`{}` holds files already; a trace needs a directory of its own", self.dir.display());
            return Err(PyOSError::new_err(text));
        }
        crate::hook_context::create(py)?;
        hook_attach::watch_forks().map_err(failed)?;
        hook::install(true).map_err(PyRuntimeError::new_err)?;
        {
            let _loading = expected::note_loading_all();
            hook_patch::replace_loaded(true).map_err(failed)?;
        }
        let absolute = |path: &Path| {
            path.canonicalize()
                .ok()
                .or_else(|| std::path::absolute(path).ok())
                .and_then(|path| AbsPath::lexical(path.as_os_str().as_encoded_bytes()).ok())
        };
        let protected: Vec<_> = [Some(self.dir.as_path()), Some(&*key_file), self.file.as_deref()]
            .into_iter()
            .flatten()
            .filter_map(absolute)
            .collect();
        let own = Own {
            policy: Arc::new(PolicySet::clone(&self.policy).protect(&protected)),
            id: self.id.clone(),
            dir: self.dir.clone(),
            agent: self.agent.as_deref().map(Text::from),
            run: self.run.as_deref().map(Text::from),
            approver: self.approve.clone(),
            counters: RunPage::alone(SystemTime::now().into())
                .map_err(|errno| PyOSError::new_err((errno.raw_os_error(), errno.to_string())))?,
            key,
            opener: std::process::id(),
            trace: Arc::clone(&self.trace),
        };
        *open = Some(monitor::enter(Box::new(own), sealed).map_err(failed)?);
        Ok(())
    }

    fn end(&self) -> PyResult<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let id = open.ok_or_else(|| PyRuntimeError::new_err("the session is not open"))?;
        monitor::leave(id).map_err(PyRuntimeError::new_err)?;
        *open = None;
        let trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = trace.and_then(|trace| trace.writer().take()) {
            writer.close(None).map_err(|error| PyOSError::new_err(error.to_string()))?;
        }
        Ok(())
    }
}
