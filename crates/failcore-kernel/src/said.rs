//! What an agent's process may say: its records come out of memory that it can write as it likes, so that each is held to
//! what only that process can know.

use failcore_model::{Action, Event, Lane};

/// Whether a supervisor sees an operation itself, and hence decides and records it.
pub fn is_seen(action: &Action) -> bool {
    !matches!(action, Action::Load(_) | Action::EnvRead(_) | Action::KernelCall(_) | Action::Unmapped(_))
}

/// Whether process `pid` may state an event: of itself, of what is decided inside it, and under a supervisor nothing
/// allowed that the supervisor decides. Its threads' numbers, its image and its scopes are what it claims.
pub(crate) fn may_say(event: &Event, pid: u32, supervised: bool) -> bool {
    match event {
        Event::Decided { request, decision, .. } => {
            request.subject.pid == pid
                && request.context.lane == Lane::Runtime
                && !(supervised && decision.is_allow() && is_seen(&request.action))
        }
        Event::Approval { pid: of, .. }
        | Event::Concluded { pid: of, .. }
        | Event::ScopeEntered { pid: of, .. }
        | Event::ScopeLeft { pid: of, .. } => *of == pid,
        // The parent's to state, as is whatever else there will be.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use failcore_model::{
        AbsPath, Answer, Context, Decision, FileRef, NativeObject, Outcome, Reason, Request, Rights, Subject,
    };

    use super::*;

    fn decided(pid: u32, lane: Lane, action: Action, allow: bool) -> Event {
        let subject = Subject { pid, tid: 99, ..Subject::default() };
        let request = Request { action, subject, context: Context { lane, ..Context::default() } };
        let decision = if allow {
            Decision::allow(Default::default())
        } else {
            Decision::deny(Reason::NotGranted, Default::default())
        };
        Event::Decided { op: 1, request: request.into(), decision, enforced: true, ns: 1 }
    }

    fn open() -> Action {
        Action::Open { file: FileRef::at(AbsPath::root()), rights: Rights::READ }
    }

    #[test]
    fn a_process_speaks_of_itself_and_of_its_lane() {
        for supervised in [false, true] {
            let may = |event: &Event| may_say(event, 7, supervised);
            assert!(may(&decided(7, Lane::Runtime, open(), false)));
            assert!(!may(&decided(8, Lane::Runtime, open(), false)));
            assert!(!may(&decided(7, Lane::Kernel, open(), false)), "the supervisor's lane");
            assert!(!may(&decided(7, Lane::Broker, open(), false)));
            for (pid, expected) in [(7, true), (8, false)] {
                let scope = || vec!["web".into()];
                assert_eq!(may(&Event::ScopeEntered { pid, tid: 1, scope: scope(), step: None }), expected);
                assert_eq!(may(&Event::ScopeLeft { pid, tid: 1, scope: scope() }), expected);
                assert_eq!(may(&Event::Concluded { op: 1, pid, outcome: Outcome::Done(None) }), expected);
                let (answer, who) = (Answer::Denied, "".into());
                assert_eq!(may(&Event::Approval { op: 1, pid, answer, who }), expected);
            }
        }
    }

    #[test]
    fn what_a_supervisor_decides_only_it_allows() {
        assert!(may_say(&decided(7, Lane::Runtime, open(), true), 7, false));
        assert!(!may_say(&decided(7, Lane::Runtime, open(), true), 7, true));
        assert!(may_say(&decided(7, Lane::Runtime, Action::Load(NativeObject::Ffi), true), 7, true));
    }

    #[test]
    fn what_the_parent_states_no_process_says() {
        for event in [
            Event::ProcessJoined { pid: 7, parent: 1, exe: "x".into() },
            Event::ProcessLeft { pid: 7 },
            Event::SegmentOpened { segment: 1, root: String::new() },
            Event::Notice { text: "all is well".into() },
            Event::SessionClosed { exit: Some(0) },
        ] {
            assert!(!may_say(&event, 7, false) && !may_say(&event, 7, true), "{}", event.kind());
        }
    }
}
