//! A refusal as a value.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Reason, RuleId, Verb};

/// What was refused and why. Not an error: each face renders it (an errno, `failcore.Denied`, text).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Denial {
    /// What was attempted.
    pub verb: Verb,
    /// On what, in words.
    pub resource: String,
    /// The one rule that decided; none where no permit covers it.
    pub rule: Option<RuleId>,
    /// The reason code.
    pub reason: Reason,
    /// What would permit it, or the policy author's own words.
    pub hint: Option<String>,
    /// The error number a program expects (errno(3)).
    pub errno: i32,
    /// Whether the same attempt can succeed later.
    pub retry: bool,
}

impl Denial {
    /// What was refused, why, and what would permit it, without advice to an agent.
    pub fn fact(&self) -> String {
        let Self { verb, resource, reason, .. } = self;
        let why = self.rule.as_ref().map_or_else(|| format!(": {reason}"), |rule| format!(" by {rule}"));
        let hint = self.hint.iter().map(|hint| format!("; {hint}")).collect::<String>();
        format!("{verb} {resource} refused{why}{hint}")
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = if self.retry { "." } else { ". Do not retry." };
        write!(f, "{}{advice}", self.fact())
    }
}
