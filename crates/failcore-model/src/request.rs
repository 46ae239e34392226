//! The complete input of a decision.

use serde::{Deserialize, Serialize};

use crate::{Action, Context, Subject};

/// Subject, action and context: everything `decide` looks at. What is not in it cannot change the decision, which
/// is what makes replay exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What is attempted.
    pub action: Action,
    /// Who attempts it.
    pub subject: Subject,
    /// Every other fact.
    pub context: Context,
}
