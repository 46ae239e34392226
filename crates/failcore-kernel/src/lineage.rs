//! The tool scope that a process is born with: the one its parent's thread was in when it forked.
//!
//! A child cannot leave that scope, whatever it runs and claims: the supervisor keeps it. The kernel does not say at
//! the fork which process will come of it, so forks are noted, and the child is matched when it makes its first
//! mediated call. Where that is ambiguous it gets every scope it could have been born in: a scope only narrows.

use std::sync::{Mutex, PoisonError};

use failcore_model::Text;

use crate::tasks::children;

/// A path of tool scopes, the outermost first.
pub(crate) type Scope = Vec<Text>;

/// Forks of one process whose child has not been seen yet, each with the thread that made it.
#[derive(Debug, Default)]
pub(crate) struct Forks(Mutex<Vec<(u32, Scope)>>);

impl Forks {
    /// A thread forks in a scope. `is_known` says whether a child was seen already.
    pub(crate) fn note(&self, pid: u32, tid: u32, scope: Scope, is_known: impl Fn(u32) -> bool) {
        let mut forks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What the thread forked before and what ended without a call leaves nothing to be matched.
        if forks.iter().any(|(of, _)| *of == tid)
            && children(pid, tid).is_some_and(|children| children.into_iter().all(is_known))
        {
            forks.retain(|(of, _)| *of != tid);
        }
        forks.push((tid, scope));
    }

    /// The scope that the child `child` of process `pid` was born in; nothing where the process did not fork it, but
    /// took it over from one that ended.
    pub(crate) fn matched(&self, pid: u32, child: u32) -> Option<Scope> {
        let mut forks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = true;
        let mut of = None;
        for (tid, _) in forks.iter() {
            match children(pid, *tid) {
                Some(all) if all.contains(&child) => of = Some(*tid),
                Some(_) => {}
                None => told = false,
            }
        }
        // A thread that ended tells nothing: it could be any one's then.
        let is_candidate = |tid: u32| of.map_or(!told, |of| of == tid);
        let candidates = || forks.iter().filter(|(tid, _)| is_candidate(*tid)).map(|(_, scope)| scope);
        candidates().next()?;
        let (scope, ambiguous) = joined(candidates());
        if !ambiguous && let Some(at) = forks.iter().position(|(tid, _)| is_candidate(*tid)) {
            forks.remove(at);
        }
        Some(scope)
    }

    /// The scopes of every child that was never seen, joined.
    pub(crate) fn unseen(&self) -> Scope {
        let forks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        joined(forks.iter().map(|(_, scope)| scope)).0
    }
}

/// Every different scope, one inside the other; whether there was more than one.
pub(crate) fn joined<'a>(scopes: impl Iterator<Item = &'a Scope>) -> (Scope, bool) {
    let mut different: Vec<&Scope> = Vec::new();
    for scope in scopes {
        if !different.contains(&scope) {
            different.push(scope);
        }
    }
    let ambiguous = different.len() > 1;
    (different.into_iter().flatten().cloned().collect(), ambiguous)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn scope(text: &str) -> Scope {
        text.split_whitespace().map(Text::from).collect()
    }

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_child_gets_the_scope_of_the_thread_that_forked_it() {
        let forks = Forks::default();
        let own = std::process::id();
        let fork = |name: &'static str| {
            let forks = &forks;
            move || {
                let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
                forks.note(own, tid, scope(name), |_| false);
                (Sleeper::start(), tid)
            }
        };
        let (release, wait) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|threads| {
            let (tell, told) = std::sync::mpsc::channel();
            // The thread lives on, so that its child stays its own.
            threads.spawn(move || {
                tell.send(fork("web")()).unwrap();
                let _ = wait.recv();
            });
            let (web, _) = told.recv().unwrap();
            let (plain, _) = fork("")();
            assert_eq!(forks.matched(own, plain.0.id()), Some(scope("")));
            assert_eq!(forks.matched(own, web.0.id()), Some(scope("web")));
            assert_eq!(forks.matched(own, own), None, "not one that it forked");
            drop(release);
        });
        assert_eq!(forks.unseen(), scope(""));
    }

    #[test]
    fn where_it_is_not_clear_every_scope_holds() {
        let forks = Forks::default();
        // Threads that are not there any more.
        forks.note(1, u32::MAX - 1, scope("a"), |_| false);
        forks.note(1, u32::MAX, scope("b c"), |_| false);
        assert_eq!(forks.matched(1, 77), Some(scope("a b c")));
        assert_eq!(forks.unseen(), scope("a b c"));
    }

    #[test]
    fn forks_that_left_no_child_are_forgotten() {
        let forks = Forks::default();
        let own = std::process::id();
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        forks.note(own, tid, scope("old"), |_| true);
        forks.note(own, tid, scope("new"), |_| true);
        assert_eq!(forks.unseen(), scope("new"));
    }
}
