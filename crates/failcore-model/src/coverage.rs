//! What each enforcement layer really holds.

use serde::{Deserialize, Serialize};

use crate::{Lane, Verb};

/// How strongly something is held.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Not at all.
    None,
    /// In the same process: native code can go round it.
    Advisory,
    /// Outside the process that is held.
    Binding,
}

/// What a session really enforces on this machine; the trace's first record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Coverage {
    /// The lane.
    pub lane: Lane,
    /// Who writes the trace: binding where the agent's process cannot.
    pub trace: Hold,
    /// Each verb and how it is held, in the order of [`Verb::ALL`].
    pub verbs: Vec<VerbCoverage>,
    /// What is not held, in words.
    pub notes: Vec<String>,
}

/// How one verb is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VerbCoverage {
    /// The verb.
    pub verb: Verb,
    /// How strongly.
    pub hold: Hold,
    /// By which mechanism, such as `audit hook`.
    pub by: String,
}

impl Coverage {
    /// This coverage with a weaker layer inside it: what this one does not hold, the other may.
    #[must_use]
    pub fn beside(mut self, inner: &Self) -> Self {
        for held in &mut self.verbs {
            let other = inner.verbs.iter().find(|other| other.verb == held.verb);
            if let Some(other) = other.filter(|other| other.hold > held.hold) {
                held.clone_from(other);
            }
        }
        self
    }
}
