//! A refusal, in words that a model can act on.

use failcore_model::{Decision, Denial, Reason, Request};

use crate::set::PolicySet;

const ENOENT: i32 = 2;
const EACCES: i32 = 13;

impl PolicySet {
    /// The refusal that a denied decision comes to.
    pub fn denial(&self, request: &Request, decision: &Decision) -> Denial {
        let rule = decision.rules.first().cloned();
        Denial {
            verb: request.action.verb(),
            resource: request.action.resource(),
            hint: rule.as_ref().and_then(|id| self.rule(id)).and_then(|rule| rule.reason.clone()),
            rule,
            reason: decision.reason,
            errno: if decision.reason == Reason::Absent { ENOENT } else { EACCES },
            retry: decision.reason == Reason::ApprovalTimeout,
        }
    }
}
