//! The complete input of a decision.

use serde::{Deserialize, Serialize};

use crate::{Action, Context, HostName, Subject};

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

impl Request {
    /// The operation in words, as listings show it: verb and resource, with the rights of an open and the names
    /// pinned to an address: `fs.open /work/a (create, modify)`, `net.connect 203.0.113.7:443 (api.example.com)`.
    pub fn operation(&self) -> String {
        let (verb, resource) = (self.action.verb(), self.action.resource());
        let more: Vec<&str> = match &self.action {
            Action::Open { rights, .. } => rights.names().collect(),
            _ => self.context.names.iter().map(HostName::as_str).collect(),
        };
        if more.is_empty() {
            format!("{verb} {resource}")
        } else {
            format!("{verb} {resource} ({})", more.join(", "))
        }
    }
}
