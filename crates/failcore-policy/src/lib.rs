//! The decision point: policy text to a checked PolicySet, and decide.
//!
//! This first form knows only the default: nothing is granted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use failcore_model::{AbsPath, Decision, Denial, FileId, Reason, Request, RuleId};

/// What loading may look at besides the text.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The home directory.
    pub home: Option<AbsPath>,
    /// Environment variables.
    pub vars: BTreeMap<String, String>,
    /// Directories of PATH.
    pub path: Vec<AbsPath>,
    /// The interpreter.
    pub python: Option<Python>,
    /// The private TMPDIR of the run.
    pub tmp: Option<AbsPath>,
}

/// An interpreter's layout.
#[derive(Debug, Clone)]
pub struct Python {
    /// As named.
    pub executable: AbsPath,
    /// The image.
    pub real_executable: AbsPath,
    /// `sys.prefix`.
    pub prefix: AbsPath,
    /// `sys.base_prefix`.
    pub base_prefix: AbsPath,
}

impl Environment {
    /// This process's.
    pub fn current() -> Self {
        Self::default()
    }
}

impl Python {
    /// Finds an interpreter.
    pub fn find(_command: &OsStr, _path: &[AbsPath]) -> Option<Self> {
        None
    }
}

/// Whether refusals are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are.
    Enforce,
    /// They are recorded only.
    Audit,
}

/// Budgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Nanoseconds.
    pub wall_time: Option<u64>,
    /// Operations.
    pub operations: Option<u64>,
    /// Connections.
    pub connections: Option<u64>,
    /// Processes.
    pub processes: Option<u64>,
    /// Bytes.
    pub write_bytes: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A policy that could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("policy cannot be loaded")]
pub struct PolicyError;

/// A checked policy.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    limits: Limits,
}

impl PolicySet {
    /// Loads a file.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn load(_file: &Path, _environment: &Environment) -> Result<Self, PolicyError> {
        Ok(Self::default())
    }

    /// Parses text.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn parse(
        _name: &str,
        _text: &str,
        _dir: &AbsPath,
        _environment: &Environment,
    ) -> Result<Self, PolicyError> {
        Ok(Self::default())
    }

    /// Reads what [`PolicySet::resolved`] gave.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn from_resolved(_text: &str) -> Result<Self, PolicyError> {
        Ok(Self::default())
    }

    /// The self-contained text.
    pub fn resolved(&self) -> &str {
        "version = 1\n"
    }

    /// SHA-256 of the resolved text.
    pub fn digest(&self) -> &str {
        ""
    }

    /// Decides.
    pub fn decide(&self, _request: &Request) -> Decision {
        Decision::deny(Reason::NotGranted, Default::default())
    }

    /// A refusal in words.
    pub fn denial(&self, request: &Request, decision: &Decision) -> Denial {
        Denial {
            verb: request.action.verb(),
            resource: request.action.resource(),
            rule: decision.rules.first().cloned(),
            reason: decision.reason,
            hint: None,
            errno: 13,
            retry: false,
        }
    }

    /// The policy's name.
    pub fn name(&self) -> Option<&str> {
        None
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        Mode::Enforce
    }

    /// The budgets.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether an environment variable is passed.
    pub fn env_passes(&self, _name: &[u8]) -> bool {
        false
    }

    /// Refuses writing to these paths whatever the policy says.
    pub fn protect(self, _paths: &[AbsPath]) -> Self {
        self
    }

    /// Permits reading a file.
    pub fn permit_read(self, _path: &AbsPath) -> Self {
        self
    }

    /// Literal denies, for their identities.
    pub fn literal_denies(&self) -> Vec<(RuleId, AbsPath)> {
        Vec::new()
    }

    /// Adds identities.
    pub fn with_identities(self, _ids: &[(RuleId, FileId)]) -> Self {
        self
    }

    /// Whether identities matter.
    pub fn has_identities(&self) -> bool {
        false
    }

    /// Whether a tool scope of that name narrows anything.
    pub fn has_scope(&self, _tool: &str) -> bool {
        false
    }
}
