//! The resolved policy: one self-contained text, from which the same decisions follow anywhere.

use failcore_model::AbsPath;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::environment::{Environment, Python};
use crate::error::{PolicyError, Problem};
use crate::payloads::Payloads;
use crate::rule::{Key, Rule};
use crate::set::{Mode, Reads, Stdin};
use crate::upstream::NameServer;

/// A policy with everything in it expanded. [`crate::PolicySet`] is this, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resolved {
    /// Version of this form.
    pub(crate) resolved: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) mode: Mode,
    pub(crate) reads: Reads,
    #[serde(default, skip_serializing_if = "is_inherited")]
    pub(crate) stdin: Stdin,
    /// Patterns over the names of variables whose values are kept out of the record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) redact: Vec<crate::pattern::Glob>,
    /// Whom names are asked of, instead of the machine's own resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) upstream: Vec<NameServer>,
    #[serde(default, skip_serializing_if = "Run::is_none")]
    pub(crate) run: Run,
    /// What a recording keeps.
    #[serde(default, skip_serializing_if = "Payloads::is_default")]
    pub(crate) record: Payloads,
    #[serde(default, rename = "tool", skip_serializing_if = "Vec::is_empty")]
    pub(crate) tools: Vec<Tool>,
    #[serde(default, rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<Rule>,
}

/// The run it was resolved for: what `~`, `${tmp}` and the `python` preset referred to, so that another policy can
/// be read as if for the same run. Decides nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) home: Option<AbsPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tmp: Option<AbsPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) python: Option<Python>,
}

impl Run {
    pub(crate) fn of(env: &Environment) -> Self {
        Self { home: env.home.clone(), tmp: env.tmp.clone(), python: env.python.clone() }
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A tool scope: the lists it has of its own. Its entries are rules that name it by position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    /// Pattern over tool names.
    pub(crate) name: crate::pattern::Glob,
    /// The lists that stand instead of the session's.
    pub(crate) keys: Vec<Key>,
    /// The rule that names it in decisions.
    pub(crate) rule: failcore_model::RuleId,
}

/// Version of the resolved form.
pub(crate) const VERSION: u32 = 1;

impl Resolved {
    pub(crate) fn empty() -> Self {
        Self {
            resolved: VERSION,
            name: None,
            mode: Mode::Enforce,
            reads: Reads::Binding,
            stdin: Stdin::Inherit,
            redact: Vec::new(),
            upstream: Vec::new(),
            run: Run::default(),
            record: Payloads::default(),
            tools: Vec::new(),
            rules: Vec::new(),
        }
    }

    pub(crate) fn to_text(&self) -> Result<String, PolicyError> {
        toml::to_string(self).map_err(|error| problem(format!("cannot write the resolved policy: {error}")))
    }

    pub(crate) fn from_text(text: &str) -> Result<Self, PolicyError> {
        let resolved: Result<Self, _> = toml::from_str(text);
        resolved.map_err(|error| none(error.message()))?.known()
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, PolicyError> {
        serde_json::to_vec(self)
            .map_err(|error| problem(format!("cannot write the resolved policy: {error}")))
    }

    pub(crate) fn from_json(json: &[u8]) -> Result<Self, PolicyError> {
        let resolved: Result<Self, _> = serde_json::from_slice(json);
        resolved.map_err(|error| none(&error.to_string()))?.known()
    }

    fn known(self) -> Result<Self, PolicyError> {
        match self.resolved {
            VERSION => Ok(self),
            version => Err(problem(format!("resolved policy version {version} is not known"))),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_inherited(stdin: &Stdin) -> bool {
    *stdin == Stdin::Inherit
}

/// SHA-256 in hexadecimal.
pub(crate) fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn none(why: &str) -> PolicyError {
    problem(format!("this is no resolved policy: {why}"))
}

fn problem(message: String) -> PolicyError {
    PolicyError::new(vec![Problem::plain(message)])
}
