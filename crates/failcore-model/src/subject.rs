//! Who attempts an operation.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::Text;

/// Who attempts it. What only the agent's own process says lies apart, under [`Subject::claimed`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Process id, in the namespace of whoever records.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The image the process runs, as a path; empty where unknown.
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub exe: Text,
    /// The agent's name, given when the session was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Text>,
    /// The caller's own label for this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Text>,
    /// What the agent's process says about itself.
    #[serde(default, skip_serializing_if = "Claims::is_empty")]
    pub claimed: Claims,
}

/// What only the agent's process says: useful, never proof.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Tool scopes entered, the outermost first; each narrows what the session grants.
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    #[schemars(with = "Vec<Text>")]
    pub scope: SmallVec<[Text; 1]>,
    /// The step of the agent's plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Text>,
    /// The call site, `file:line`; allowed reads have none, since finding it costs more than deciding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Text>,
}

impl Claims {
    /// Whether nothing is claimed.
    pub fn is_empty(&self) -> bool {
        self.scope.is_empty() && self.step.is_none() && self.site.is_none()
    }

    /// The innermost tool scope.
    pub fn tool(&self) -> Option<&Text> {
        self.scope.last()
    }
}
