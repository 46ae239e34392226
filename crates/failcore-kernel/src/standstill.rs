//! While a run is paused nothing is done for its processes: what was decided waits, what waits in the kernel for
//! another is taken back, and new calls are left unanswered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often whoever acts is told to stop, until nobody does.
const BEAT: Duration = Duration::from_millis(2);

/// Who acts for the agent just now, and whether anybody may.
#[derive(Debug, Default)]
pub(crate) struct Standstill {
    acting: AtomicUsize,
    still: AtomicBool,
    over: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

/// Leave to act, until it is dropped.
#[derive(Debug)]
pub(crate) struct Acting<'a>(&'a Standstill);

/// Whether somebody may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It may, and never had to wait for it.
    Given,
    /// It may, after a while in which much can have changed.
    GivenLater,
    /// It never may again.
    Never,
}

impl Standstill {
    /// Waits until acting is allowed; nothing where it never will be again.
    pub(crate) fn act(&self) -> Option<Acting<'_>> {
        (self.begin() != Leave::Never).then_some(Acting(self))
    }

    /// Does what is no act, such as deciding or waiting for a person, as somebody who acts and wants to go on acting
    /// after it.
    pub(crate) fn rest<T>(&self, during: impl FnOnce() -> T) -> (T, Leave) {
        self.end();
        let done = during();
        let leave = self.begin();
        if leave == Leave::Never {
            // The guard of whoever called still counts.
            self.acting.fetch_add(1, SeqCst);
        }
        (done, leave)
    }

    /// Whether whoever acts is to stop as soon as it can.
    pub(crate) fn is_still(&self) -> bool {
        self.still.load(SeqCst)
    }

    /// Keeps everybody from acting from now on. Who acts already is told to stop by `nudge`; whether all have within
    /// `patience`.
    pub(crate) fn hold(&self, patience: Duration, nudge: impl Fn()) -> bool {
        let until = Instant::now() + patience;
        let mut held = self.lock();
        self.still.store(true, SeqCst);
        loop {
            // Their number is only looked at under the lock by those who wait, but changes without it.
            if self.acting.load(SeqCst) == 0 {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            drop(held);
            nudge();
            held = match self.bell.wait_timeout(self.lock(), BEAT) {
                Ok((held, _)) => held,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Lets everybody act again.
    pub(crate) fn release(&self) {
        let held = self.lock();
        self.still.store(false, SeqCst);
        drop(held);
        self.bell.notify_all();
    }

    /// Nobody acts any more: who waits for leave gets none.
    pub(crate) fn close(&self) {
        let held = self.lock();
        self.over.store(true, SeqCst);
        drop(held);
        self.bell.notify_all();
    }

    fn begin(&self) -> Leave {
        let mut leave = Leave::Given;
        loop {
            // First counted, then asked: `hold` sets first and then counts, so that one of the two sees the other.
            self.acting.fetch_add(1, SeqCst);
            if !self.still.load(SeqCst) && !self.over.load(SeqCst) {
                return leave;
            }
            self.end();
            leave = Leave::GivenLater;
            let mut held = self.lock();
            while self.still.load(SeqCst) && !self.over.load(SeqCst) {
                held = self.bell.wait(held).unwrap_or_else(PoisonError::into_inner);
            }
            if self.over.load(SeqCst) {
                return Leave::Never;
            }
        }
    }

    fn end(&self) {
        if self.acting.fetch_sub(1, SeqCst) == 1 && self.still.load(SeqCst) {
            drop(self.lock());
            self.bell.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn nobody_acts_while_it_is_held() {
        let (standstill, acts) = (Standstill::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some(_acting) = standstill.act() {
                        acts.fetch_add(1, SeqCst);
                    }
                });
            }
            for _ in 0..50 {
                assert!(standstill.hold(Duration::from_secs(10), || {}));
                let before = acts.load(SeqCst);
                std::thread::sleep(Duration::from_millis(1));
                assert_eq!(acts.load(SeqCst), before);
                standstill.release();
                let until = Instant::now() + Duration::from_secs(10);
                while acts.load(SeqCst) == before {
                    assert!(Instant::now() < until, "nobody went on");
                    std::thread::yield_now();
                }
            }
            standstill.close();
        });
    }

    #[test]
    fn who_rests_is_not_waited_for_and_goes_on_only_after() {
        let (standstill, rested, went_on) =
            (Standstill::default(), AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (resting, rests) = std::sync::mpsc::channel();
            let (wake, woken) = std::sync::mpsc::channel::<()>();
            let (standstill, rested, went_on) = (&standstill, &rested, &went_on);
            scope.spawn(move || {
                let _acting = standstill.act().unwrap();
                let ((), leave) = standstill.rest(|| {
                    resting.send(()).unwrap();
                    woken.recv().unwrap();
                    rested.store(true, SeqCst);
                });
                assert_eq!(leave, Leave::GivenLater);
                went_on.store(true, SeqCst);
            });
            rests.recv().unwrap();
            assert!(standstill.hold(Duration::from_secs(10), || {}));
            wake.send(()).unwrap();
            while !rested.load(SeqCst) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(20));
            assert!(!went_on.load(SeqCst));
            standstill.release();
        });
        assert!(went_on.load(SeqCst));
        assert_eq!(standstill.acting.load(SeqCst), 0);
    }

    #[test]
    fn who_acts_is_told_to_stop_and_does_not_hold_up_for_ever() {
        let standstill = Standstill::default();
        let acting = std::cell::Cell::new(standstill.act());
        assert!(!standstill.hold(Duration::ZERO, || {}));
        let nudges = std::cell::Cell::new(0);
        let stops_at_the_third = || {
            nudges.set(nudges.get() + 1);
            if nudges.get() == 3 {
                drop(acting.take());
            }
        };
        assert!(standstill.hold(Duration::from_secs(60), stops_at_the_third));
        assert_eq!(nudges.get(), 3);
        standstill.close();
        assert!(standstill.act().is_none());
    }
}
