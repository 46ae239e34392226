//! The decision.

use failcore_model::{Action, Decision, Reason, Request, Rights};
use smallvec::SmallVec;

use crate::rule::{Effect, HostPattern, Object, Rule, Way};
use crate::set::PolicySet;

impl PolicySet {
    /// Answers a request. Pure and total.
    pub fn decide(&self, request: &Request) -> Decision {
        let (file, rights) = match &request.action {
            Action::Open { file, rights } => (Some(file), *rights),
            Action::Read(file) => (Some(file), Rights::READ),
            Action::Create(file) => (Some(file), Rights::CREATE),
            Action::Modify(file) => (Some(file), Rights::MODIFY),
            Action::Delete(file) => (Some(file), Rights::DELETE),
            Action::Attr(file) => (Some(file), Rights::ATTR),
            _ => (None, Rights::READ),
        };
        let meets = |rule: &Rule| -> Rights {
            rule.objects
                .iter()
                .filter_map(|object| match (object, file, &request.action) {
                    (Object::File { path, rights }, Some(file), _) if path.covers(&file.path) => {
                        Some(*rights)
                    }
                    (Object::Net { host: HostPattern::Name(host), way, .. }, _, Action::Resolve(name))
                        if name == host && way.covers(Way::Out) =>
                    {
                        Some(Rights::READ)
                    }
                    (Object::Env(glob), _, Action::EnvRead(name)) if glob.matches(name.as_bytes()) => {
                        Some(Rights::READ)
                    }
                    _ => None,
                })
                .fold(Rights::empty(), Rights::union)
                & rights
        };
        let rules = || self.rules().filter(|rule| !meets(rule).is_empty());
        if let Some(rule) = rules().find(|rule| rule.effect == Effect::Forbid) {
            let reason = if rule.always { Reason::Always } else { Reason::Forbidden };
            return Decision::deny(reason, SmallVec::from_iter([rule.id.clone()]));
        }
        let permits = || rules().filter(|rule| rule.effect == Effect::Permit);
        if permits().map(meets).fold(Rights::empty(), Rights::union) == rights {
            return Decision::allow(permits().take(2).map(|rule| rule.id.clone()).collect());
        }
        Decision::deny(Reason::NotGranted, SmallVec::new())
    }
}
