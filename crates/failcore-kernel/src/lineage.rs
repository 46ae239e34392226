//! The tool scope that a process is born with: the one its parent's thread was in when it forked.
//!
//! A child cannot leave that scope, whatever it runs and claims: the supervisor keeps it. The kernel does not say at
//! the fork which process will come of it, so forks are noted, and the child is matched when it makes its first
//! mediated call. Where that is ambiguous it gets every scope it could have been born in: a scope only narrows.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use failcore_model::Text;

use crate::tasks::{children, threads};

/// A path of tool scopes, the outermost first.
pub(crate) type Scope = Vec<Text>;

/// Forks of one process whose child has not been seen yet, each with the thread that made it.
#[derive(Debug, Default)]
pub(crate) struct Forks {
    noted: Mutex<Vec<(u32, Scope)>>,
    /// Whether the process takes over what its descendants leave behind (`PR_SET_CHILD_SUBREAPER`, prctl(2)): a child
    /// may be none of those that it forked then.
    adopts: AtomicBool,
}

impl Forks {
    /// A thread forks in a scope. `is_known` says whether a child was seen already.
    pub(crate) fn note(&self, pid: u32, tid: u32, scope: Scope, is_known: impl Fn(u32) -> bool) {
        let mut forks = self.noted();
        // What was forked before and what ended without a call leaves nothing to be matched.
        let none_unknown = |of: u32| children(pid, of).is_some_and(|all| all.into_iter().all(&is_known));
        if forks.iter().any(|(of, _)| *of == tid) && none_unknown(tid) {
            forks.retain(|(of, _)| *of != tid);
        }
        // A thread that ended left its children to the others.
        let has_ended = |of: u32| of != tid && children(pid, of).is_none();
        if forks.iter().any(|(of, _)| has_ended(*of)) && threads(pid).into_iter().all(none_unknown) {
            forks.retain(|(of, _)| !has_ended(*of));
        }
        forks.push((tid, scope));
    }

    /// The scope that the child `child` of process `pid` was born in; nothing where the process did not fork it, but
    /// took it over from one that ended. Where it [adopts](Self::adopts) the child may have been born in another one.
    pub(crate) fn matched(&self, pid: u32, child: u32) -> Option<Scope> {
        let mut forks = self.noted();
        let mut of = None;
        // Threads that ended: theirs are the children of some other thread by now.
        let mut ended = Vec::new();
        for (tid, _) in forks.iter() {
            match children(pid, *tid) {
                Some(all) if all.contains(&child) => of = Some(*tid),
                Some(_) => {}
                None => ended.push(*tid),
            }
        }
        let is_candidate = |tid: u32| of == Some(tid) || ended.contains(&tid);
        let candidates = || forks.iter().filter(|(tid, _)| is_candidate(*tid)).map(|(_, scope)| scope);
        candidates().next()?;
        let (scope, ambiguous) = joined(candidates());
        if !ambiguous
            && !self.adopts()
            && let Some(at) = forks.iter().position(|(tid, _)| is_candidate(*tid))
        {
            forks.remove(at);
        }
        Some(scope)
    }

    /// The scopes of every child that was never seen, joined.
    pub(crate) fn unseen(&self) -> Scope {
        joined(self.noted().iter().map(|(_, scope)| scope)).0
    }

    /// From now on the process may take over the children of others.
    pub(crate) fn adopt(&self) {
        self.adopts.store(true, SeqCst);
    }

    /// Whether it may have children that it did not fork.
    pub(crate) fn adopts(&self) -> bool {
        self.adopts.load(SeqCst)
    }

    fn noted(&self) -> MutexGuard<'_, Vec<(u32, Scope)>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn the_child_of_a_thread_that_ended_is_not_taken_for_anothers() {
        let forks = Forks::default();
        let own = std::process::id();
        // The process's first thread, which has forked one of which nothing was heard yet, gets the other's child.
        forks.note(own, own, scope(""), |_| false);
        let child = std::thread::scope(|threads| {
            let forked = || {
                let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
                forks.note(own, tid, scope("web"), |_| false);
                (Sleeper::start(), tid)
            };
            threads.spawn(forked).join().unwrap()
        });
        let (child, tid) = child;
        // A thread may be joined a moment before it is gone.
        while children(own, tid).is_some() {
            std::thread::yield_now();
        }
        assert!(children(own, own).unwrap().contains(&child.0.id()));
        assert_eq!(forks.matched(own, child.0.id()), Some(scope("web")));
    }

    #[test]
    fn who_takes_over_orphans_keeps_what_a_match_may_have_been_wrong_about() {
        let forks = Forks::default();
        forks.note(1, u32::MAX, scope("a"), |_| false);
        forks.adopt();
        assert_eq!(forks.matched(1, 77), Some(scope("a")));
        assert_eq!(forks.matched(1, 78), Some(scope("a")));
    }

    #[test]
    fn forks_of_threads_that_ended_are_forgotten_once_every_child_is_known() {
        let forks = Forks::default();
        let own = std::process::id();
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        // A number that no thread of this process has.
        forks.note(own, u32::MAX, scope("old"), |_| true);
        let child = Sleeper::start();
        forks.note(own, tid, scope("new"), |of| of != child.0.id());
        assert_eq!(forks.unseen(), scope("old new"), "it may be that one's");
        // A thread of another test that ends meanwhile makes it wait for the next one.
        for _ in 0..1000 {
            forks.note(own, tid, scope("new"), |_| true);
            if forks.unseen() == scope("new") {
                return;
            }
        }
        panic!("{:?}", forks.unseen());
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
