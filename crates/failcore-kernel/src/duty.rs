//! Which workers wait for calls in the kernel, and which stand by. The kernel wakes each that waits at the listener for
//! every call, so that a crowd of them would cost each call as many wake-ups; and it wakes nobody else.
//!
//! Whoever takes a call and leaves nobody at the listener calls another there, so that no call waits for another one's
//! end. On one processor that costs more than it brings while one task alone calls, of which no second call can come
//! before the first is answered: nobody is called then but by who looks after the workers, should the call take long.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::roster::{Crew, MANY, Roster, Seen};

/// Workers that stand by at most. More than one run keeps busy: starting one costs more than a call, and a worker that
/// is just about to be free again looks busy.
const SPARE: usize = 16;
/// Looks without a call before nobody looks that often any more.
const QUIET_LOOKS: u32 = 50;

/// The duty of waiting for calls.
#[derive(Debug)]
pub(crate) struct Duty {
    /// Ordinary workers that wait at the listener, or are on their way there.
    waiting: AtomicUsize,
    /// Those who give way and do.
    yielding: AtomicUsize,
    /// How many wait there while there is no need for more. Two where there are processors for them: the one that has
    /// just answered a call and comes back keeps a processor busy to which the kernel would move the task otherwise,
    /// waking it up from its sleep.
    places: usize,
    /// The task that called last.
    task: AtomicU32,
    calls: AtomicU64,
    /// Calls by another task than the one before.
    turns: AtomicU64,
    /// How many calls there were at the last look.
    looked_at: AtomicU64,
    /// Whether workers may give way: where the kernel runs them in the task's place, which has others to go to.
    may_yield: bool,
    /// Whether those who give way serve.
    yields: AtomicBool,
    /// How many of them are still to be started.
    lacking: AtomicUsize,
    /// The call in hand while nobody was called to the listener; 0 where there is none.
    alone: AtomicU64,
    /// Whether somebody looks often enough that nobody need be called.
    is_looked_after: AtomicBool,
    standing_by: Mutex<StandingBy>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct StandingBy {
    workers: usize,
    /// How many of them are called.
    called: usize,
    over: bool,
}

/// A call that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Its number.
    pub(crate) call: u64,
    /// Who has to come to the listener.
    pub(crate) need: Need,
    /// Whether there are that many calls by now that somebody should look.
    pub(crate) many: bool,
}

/// Who has to come to the listener when a call was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// There are enough.
    Nobody,
    /// Who stands by, if anybody does.
    WhoStandsBy,
    /// Whoever it is: nobody is there.
    Somebody,
}

/// What was seen at the last look.
#[derive(Debug)]
pub(crate) struct Looks {
    calls: u64,
    turns: u64,
    alone: u64,
    quiet: u32,
    roster: Roster,
    began: Instant,
}

impl Default for Looks {
    fn default() -> Self {
        let (roster, began) = (Roster::default(), Instant::now());
        Self { calls: 0, turns: 0, alone: 0, quiet: 0, roster, began }
    }
}

impl Duty {
    /// For a machine on which so many processors are ours; whether it runs a worker in the place of the task that calls.
    pub(crate) fn new(processors: u32, in_place: bool) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            yielding: AtomicUsize::new(0),
            places: if processors > 1 { 2 } else { 1 },
            task: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            looked_at: AtomicU64::new(0),
            may_yield: processors > 1 && in_place,
            yields: AtomicBool::new(false),
            lacking: AtomicUsize::new(0),
            alone: AtomicU64::new(0),
            is_looked_after: AtomicBool::new(false),
            standing_by: Mutex::default(),
            bell: Condvar::new(),
        }
    }

    /// One more worker is on its way to the listener.
    pub(crate) fn comes(&self, crew: Crew) {
        self.of(crew).fetch_add(1, SeqCst);
    }

    /// A worker leaves the listener for good.
    pub(crate) fn leaves(&self, crew: Crew) {
        self.of(crew).fetch_sub(1, SeqCst);
    }

    fn of(&self, crew: Crew) -> &AtomicUsize {
        match crew {
            Crew::Ordinary => &self.waiting,
            Crew::Yielding => &self.yielding,
        }
    }

    /// How many wait at the listener that can be counted on.
    fn present(&self) -> usize {
        // Who gives way is about to leave where it does not serve.
        let yielding = if self.yields.load(SeqCst) { self.yielding.load(SeqCst) } else { 0 };
        self.waiting.load(SeqCst) + yielding
    }

    /// A worker took a call of a task from the listener.
    pub(crate) fn took(&self, task: u32, crew: Crew) -> Taken {
        let call = self.calls.fetch_add(1, SeqCst) + 1;
        let same = self.task.swap(task, SeqCst) == task;
        if !same {
            self.turns.fetch_add(1, Relaxed);
        }
        self.leaves(crew);
        let alone = self.present() == 0;
        let many = self.may_yield
            && call == self.looked_at.load(Relaxed) + MANY
            && !self.is_looked_after.load(Relaxed);
        let need = |need| Taken { call, need, many };
        if self.places > 1 || !alone || !same || self.lock().workers == 0 {
            return need(match (alone, same) {
                (true, _) => Need::Somebody,
                // Where several tasks call, a third call may come before the second is taken, which a signal could end.
                (false, false) => Need::WhoStandsBy,
                (false, true) => Need::Nobody,
            });
        }
        // First said, then asked; `look` does it the other way round, so that one of the two sees the other.
        self.alone.store(call, SeqCst);
        need(if self.is_looked_after.load(SeqCst) { Need::Nobody } else { Need::Somebody })
    }

    /// Calls somebody who stands by to the listener; whether there was anybody.
    pub(crate) fn call(&self) -> bool {
        let mut by = self.lock();
        if by.called == by.workers {
            return false;
        }
        by.called += 1;
        self.comes(Crew::Ordinary);
        drop(by);
        self.bell.notify_one();
        true
    }

    /// A worker is about to answer its call, and on its way back from then on: the task's next call may come before it is
    /// there.
    pub(crate) fn answers(&self, call: u64, crew: Crew) {
        let _ = self.alone.compare_exchange(call, 0, SeqCst, SeqCst);
        self.comes(crew);
    }

    /// Whether workers of a crew serve. The ordinary ones always do: those who give way come in their place.
    pub(crate) fn wants(&self, crew: Crew) -> bool {
        crew == Crew::Ordinary || self.yields.load(SeqCst)
    }

    /// Whether an ordinary one that takes a call while others give way leaves nobody to be called in their place.
    pub(crate) fn has_no_reserve(&self) -> bool {
        let by = self.yields.load(SeqCst).then(|| self.lock());
        by.is_some_and(|by| by.called == by.workers)
    }

    /// Whether one who gives way is to be started, by whoever is asked to.
    pub(crate) fn lacks(&self) -> bool {
        self.lacking.load(Relaxed) > 0
            && self.lacking.fetch_update(SeqCst, SeqCst, |lacking| lacking.checked_sub(1)).is_ok()
    }

    /// A worker is back; an ordinary one stands by while there are enough at the listener. False where it is not needed any
    /// more.
    pub(crate) fn returns(&self, crew: Crew) -> bool {
        if crew == Crew::Yielding {
            // It does not stand by: it looks itself whether it is still wanted, as it does when it is interrupted.
            return true;
        }
        let enough = |waiting: usize| {
            let yielding = self.present().saturating_sub(self.waiting.load(SeqCst));
            (waiting > 0 && waiting + yielding > self.places).then(|| waiting - 1)
        };
        if self.waiting.fetch_update(SeqCst, SeqCst, enough).is_err() {
            return true;
        }
        let mut by = self.lock();
        if by.workers >= SPARE {
            return false;
        }
        by.workers += 1;
        while by.called == 0 && !by.over {
            by = self.bell.wait(by).unwrap_or_else(PoisonError::into_inner);
        }
        by.workers -= 1;
        if by.called == 0 {
            return false;
        }
        by.called -= 1;
        true
    }

    /// Calls somebody to the listener where the call that was in hand alone at the last look still is, and decides which
    /// crew serves; `waits` says whether a call waits to be taken, or for one who gives way, `crowded` whether others want
    /// the processors. Whether to look again soon.
    pub(crate) fn look(
        &self,
        last: &mut Looks,
        waits: impl FnOnce() -> bool,
        crowded: impl FnOnce() -> bool,
    ) -> bool {
        if self.may_yield {
            return self.choose(last, waits, crowded);
        }
        if self.places > 1 {
            return false;
        }
        let (calls, alone) = (self.calls.load(SeqCst), self.alone.load(SeqCst));
        if alone != 0 && alone == last.alone && self.alone.compare_exchange(alone, 0, SeqCst, SeqCst).is_ok()
        {
            self.call();
        }
        last.quiet = if calls == last.calls { last.quiet + 1 } else { 0 };
        (last.calls, last.alone) = (calls, alone);
        let soon = last.quiet < QUIET_LOOKS;
        self.is_looked_after.store(soon, SeqCst);
        // A call that was taken meanwhile may have relied on it.
        soon || self.alone.load(SeqCst) != 0
    }

    fn choose(&self, last: &mut Looks, waits: impl FnOnce() -> bool, crowded: impl FnOnce() -> bool) -> bool {
        let (calls, turns) = (self.calls.load(SeqCst), self.turns.load(SeqCst));
        let seen = Seen {
            now: last.began.elapsed(),
            calls: calls - last.calls,
            turns: turns - last.turns,
            waits: waits(),
        };
        (last.calls, last.turns) = (calls, turns);
        self.looked_at.store(calls, Relaxed);
        // What was seen since a look long ago says little: it is looked again before anything changes.
        let soon = self.is_looked_after.load(SeqCst);
        let serving = if soon { last.roster.look(seen, crowded) } else { Crew::Ordinary };
        let yields = serving == Crew::Yielding;
        if self.yields.swap(yields, SeqCst) != yields {
            self.lacking.store(if yields { self.places } else { 0 }, SeqCst);
            // Who gives way does not count any more: those who come in its place find that there is room.
            (0..if yields { 0 } else { self.places }).for_each(|_| _ = self.call());
        } else if seen.waits && seen.calls == 0 {
            // Whoever should have taken it by now does not come to its turn.
            self.call();
        }
        let soon = yields || seen.calls >= MANY;
        self.is_looked_after.store(soon, SeqCst);
        soon
    }

    /// Nobody stands by any more.
    pub(crate) fn close(&self) {
        self.lock().over = true;
        self.bell.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, StandingBy> {
        self.standing_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: u32 = 77;

    impl Duty {
        /// The number of a call taken, and whether somebody had to come.
        fn takes(&self, task: u32) -> (u64, bool) {
            let Taken { call, need, .. } = self.took(task, Crew::Ordinary);
            (call, need == Need::Somebody)
        }

        /// How many wait at the listener, and how many stand by.
        fn counted(&self) -> (usize, usize) {
            let by = self.lock();
            (self.waiting.load(SeqCst), by.workers - by.called)
        }

        fn until(&self, counted: (usize, usize)) {
            while self.counted() != counted {
                std::thread::yield_now();
            }
        }
    }

    /// Runs `test` with one worker at the listener and another who stands by.
    fn with_another(duty: &Duty, test: impl FnOnce()) {
        std::thread::scope(|scope| {
            (0..=duty.places).for_each(|_| duty.comes(Crew::Ordinary));
            scope.spawn(|| duty.returns(Crew::Ordinary));
            duty.until((duty.places, 1));
            test();
            duty.close();
        });
    }

    #[test]
    fn no_more_wait_than_there_are_places() {
        for (processors, places) in [(1, 1), (2, 2), (64, 2)] {
            let duty = Duty::new(processors, false);
            std::thread::scope(|scope| {
                (0..places).for_each(|_| duty.comes(Crew::Ordinary));
                for _ in 0..SPARE {
                    duty.comes(Crew::Ordinary);
                    scope.spawn(|| duty.returns(Crew::Ordinary));
                }
                duty.until((places, SPARE));
                duty.comes(Crew::Ordinary);
                assert!(!duty.returns(Crew::Ordinary), "there are enough");
                assert!(duty.call() && duty.call());
                duty.until((places + 2, SPARE - 2));
                duty.close();
            });
            assert_eq!(duty.counted(), (places + 2, 0));
            assert!(!duty.call(), "nobody stands by");
        }
    }

    #[test]
    fn somebody_is_called_when_the_last_one_takes_a_call() {
        let duty = Duty::new(2, false);
        duty.comes(Crew::Ordinary);
        let (first, alone) = duty.takes(TASK);
        assert!(alone);
        duty.comes(Crew::Ordinary);
        duty.answers(first, Crew::Ordinary);
        assert!(duty.returns(Crew::Ordinary));
        // From here on the two take turns, and whoever answered counts before it is back.
        for _ in 0..3 {
            let (call, alone) = duty.takes(TASK);
            assert!(!alone);
            duty.answers(call, Crew::Ordinary);
        }
        assert!(!duty.takes(TASK).1 && duty.takes(TASK + 1).1, "both have a call in hand");
    }

    #[test]
    fn who_gave_way_is_replaced_before_it_leaves() {
        let (duty, mut looks) = (Duty::new(2, true), Looks::default());
        let calls = |crew| {
            for _ in 0..MANY {
                let call = duty.took(TASK, crew).call;
                duty.answers(call, crew);
            }
        };
        std::thread::scope(|scope| {
            duty.comes(Crew::Ordinary);
            duty.comes(Crew::Ordinary);
            while !duty.wants(Crew::Yielding) {
                calls(Crew::Ordinary);
                duty.look(&mut looks, || true, || false);
            }
            assert!(duty.lacks() && duty.lacks() && !duty.lacks());
            duty.comes(Crew::Yielding);
            duty.comes(Crew::Yielding);
            (0..2).for_each(|_| drop(scope.spawn(|| duty.returns(Crew::Ordinary))));
            duty.until((0, 2));
            assert!(duty.returns(Crew::Yielding) && !duty.has_no_reserve());
            while duty.wants(Crew::Yielding) {
                duty.look(&mut looks, || true, || false);
            }
            duty.until((2, 0));
            assert_eq!(duty.took(TASK, Crew::Yielding).need, Need::Nobody);
            assert!(!duty.wants(Crew::Yielding), "it does not serve any more");
            assert!(duty.returns(Crew::Ordinary), "the ordinary ones are not too many for that");
            duty.close();
        });
    }

    #[test]
    fn where_several_tasks_call_one_who_stands_by_comes_before_he_must() {
        let duty = Duty::new(2, false);
        (0..2).for_each(|_| duty.comes(Crew::Ordinary));
        assert_eq!(duty.took(TASK, Crew::Ordinary).need, Need::WhoStandsBy);
        duty.comes(Crew::Ordinary);
        assert_eq!(duty.took(TASK, Crew::Ordinary).need, Need::Nobody);
        assert_eq!(duty.took(TASK + 1, Crew::Ordinary).need, Need::Somebody);
    }

    #[test]
    fn on_one_processor_nobody_is_called_while_one_task_alone_calls() {
        let (duty, mut looks) = (Duty::new(1, true), Looks::default());
        with_another(&duty, || {
            assert!(duty.look(&mut looks, || false, || false));
            let (call, alone) = duty.takes(TASK);
            assert!(alone, "another task had called before");
            duty.answers(call, Crew::Ordinary);
            for _ in 0..3 {
                let (call, alone) = duty.takes(TASK);
                duty.look(&mut looks, || false, || false);
                assert!(!alone);
                duty.answers(call, Crew::Ordinary);
            }
            assert!(duty.takes(TASK + 1).1);
        });
    }

    #[test]
    fn who_is_long_at_a_call_does_not_stay_alone() {
        let (duty, mut looks) = (Duty::new(1, true), Looks::default());
        with_another(&duty, || {
            duty.look(&mut looks, || false, || false);
            let (call, _) = duty.takes(TASK);
            duty.answers(call, Crew::Ordinary);
            let (long, alone) = duty.takes(TASK);
            assert!(!alone);
            duty.look(&mut looks, || false, || false);
            assert_eq!(duty.counted(), (0, 1), "at one look it may have been taken just now");
            duty.look(&mut looks, || false, || false);
            assert_eq!(duty.counted(), (1, 0));
            duty.look(&mut looks, || false, || false);
            duty.answers(long, Crew::Ordinary);
            assert_eq!(duty.counted(), (2, 0));
        });
    }

    #[test]
    fn somebody_is_called_for_each_call_unless_somebody_looks() {
        let (duty, mut looks) = (Duty::new(1, true), Looks::default());
        with_another(&duty, || {
            let calls = || {
                (0..3).all(|_| {
                    let (call, alone) = duty.takes(TASK);
                    duty.answers(call, Crew::Ordinary);
                    alone
                })
            };
            assert!(calls());
            while duty.look(&mut looks, || false, || false) {}
            assert!(calls(), "it was quiet for so long that nobody looks");
            assert!(duty.look(&mut looks, || false, || false), "calls were seen");
            assert!(!calls());
        });
    }
}
