//! Which threads take the calls: ordinary ones, or such that give way to everybody (`SCHED_IDLE`, sched(7)).
//!
//! A descriptor is handed over by waking up the task that asked for it, and the kernel wakes it on another processor if one is
//! idle, away from its caches and perhaps out of that processor's sleep, which can double what an open takes. It leaves the
//! task where it is if the thread that wakes it gives way to it there. But a thread that gives way gets next to nothing where
//! others want the processor. So such threads serve only while one task makes many calls, and only as long as they get on
//! with them; then the ordinary ones do, for a while that doubles.

use std::time::Duration;

/// Calls between two looks that are many.
pub(crate) const MANY: u64 = 40;
/// Calls between two looks that are next to nothing, where one waits.
const FEW: u64 = 8;
/// Looks in a row that have to agree.
const AGREED: u32 = 2;
/// Looks without a call before the ordinary ones take over again: who gives way may be late at a single call.
const QUIET: u32 = 25;
/// How long the ordinary ones serve after the others did not get on.
const REST: Duration = Duration::from_millis(250);
/// The longest that becomes.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// A kind of worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crew {
    /// As urgent as any thread.
    Ordinary,
    /// Runs where nobody else wants to.
    Yielding,
}

/// What happened since the look before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The time.
    pub(crate) now: Duration,
    /// Calls that were taken.
    pub(crate) calls: u64,
    /// Those of them by another task than the call before.
    pub(crate) turns: u64,
    /// Whether a call waits now, to be taken or to be answered by who gives way.
    pub(crate) waits: bool,
}

/// Which crew serves, decided at each look.
#[derive(Debug)]
pub(crate) struct Roster {
    serving: Crew,
    /// Looks in a row that spoke for the other crew.
    against: u32,
    quiet: u32,
    /// The ordinary ones serve until then at least, and for how long the next time.
    rests_until: Duration,
    rest: Duration,
}

impl Default for Roster {
    fn default() -> Self {
        Self { serving: Crew::Ordinary, against: 0, quiet: 0, rests_until: Duration::ZERO, rest: REST }
    }
}

impl Roster {
    /// Who serves from now on; `crowded` says whether others want the processors.
    pub(crate) fn look(&mut self, seen: Seen, crowded: impl FnOnce() -> bool) -> Crew {
        let Seen { now, calls, turns, waits } = seen;
        let against = match self.serving {
            Crew::Ordinary => calls >= MANY && turns * 16 <= calls && now >= self.rests_until,
            Crew::Yielding => waits && calls < FEW,
        };
        self.against = if against { self.against + 1 } else { 0 };
        self.quiet = if calls == 0 { self.quiet + 1 } else { 0 };
        match self.serving {
            Crew::Ordinary if self.against >= AGREED && crowded() => {
                (self.against, self.rests_until) = (0, now + REST);
            }
            Crew::Ordinary if self.against >= AGREED => self.changes(Crew::Yielding),
            Crew::Yielding if self.against >= AGREED => {
                self.rests_until = now + self.rest;
                self.rest = (self.rest * 2).min(LONGEST_REST);
                self.changes(Crew::Ordinary);
            }
            Crew::Yielding if turns * 4 > calls => {
                self.rests_until = now + REST;
                self.changes(Crew::Ordinary);
            }
            Crew::Yielding if self.quiet >= QUIET => self.changes(Crew::Ordinary),
            // They got on with many: the last time that they did not is no sign any more.
            Crew::Yielding if calls >= MANY && now > self.rests_until + LONGEST_REST => self.rest = REST,
            _ => {}
        }
        self.serving
    }

    fn changes(&mut self, to: Crew) {
        (self.serving, self.against, self.quiet) = (to, 0, 0);
    }
}

/// Whether more threads want to run than there are processors, beside whoever calls, serves and looks.
pub(crate) fn is_crowded(processors: u32) -> bool {
    const OURS: u32 = 3;
    // `0.20 0.18 0.12 RUNNING/ALL LAST` (proc_loadavg(5)); who cannot tell finds out.
    let running = std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| {
        let (running, _) = text.split(' ').nth(3)?.split_once('/')?;
        running.parse::<u32>().ok()
    });
    running.is_some_and(|running| running >= processors + OURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A roster at which was looked every two milliseconds.
    #[derive(Default)]
    struct Looked(Roster, Duration);

    impl Looked {
        fn look(&mut self, calls: u64, turns: u64, waits: bool) -> Crew {
            self.1 += Duration::from_millis(2);
            self.0.look(Seen { now: self.1, calls, turns, waits }, || false)
        }

        /// How many looks at a task that calls all the time it takes until somebody else serves.
        fn looks(&mut self, calls: u64, waits: bool) -> u32 {
            let before = self.0.serving;
            let mut looks = 1;
            while self.look(calls, 0, waits) == before {
                looks += 1;
                assert!(looks < 10_000);
            }
            looks
        }
    }

    #[test]
    fn who_gives_way_serves_one_task_that_makes_many_calls() {
        let mut looked = Looked::default();
        assert_eq!(looked.look(100, 0, true), Crew::Ordinary);
        assert_eq!(looked.look(20, 0, true), Crew::Ordinary, "not many any more");
        assert_eq!(looked.looks(100, true), AGREED);
        assert_eq!(looked.look(100, 90, true), Crew::Ordinary, "several tasks call");
        (0..200).for_each(|_| assert_eq!(looked.look(100, 50, true), Crew::Ordinary));
    }

    #[test]
    fn ordinary_ones_serve_where_others_want_the_processors() {
        let (mut roster, mut asked) = (Roster::default(), 0);
        for look in 0..1000 {
            let now = Duration::from_millis(2 * look);
            let crowded = || {
                asked += 1;
                true
            };
            assert_eq!(roster.look(Seen { now, calls: 100, turns: 0, waits: true }, crowded), Crew::Ordinary);
        }
        assert_eq!(asked, 8, "four times a second");
    }

    #[test]
    fn ordinary_ones_serve_while_who_gives_way_does_not_get_on() {
        let mut looked = Looked::default();
        let mut rests = Vec::new();
        for _ in 0..9 {
            rests.push(looked.looks(100, true));
            assert_eq!(looked.look(3, 0, false), Crew::Yielding, "few calls, and none that waits");
            assert_eq!(looked.looks(1, true), AGREED);
        }
        assert_eq!(rests[..4], [2, 126, 251, 501]);
        assert_eq!(rests[8], 2501, "no longer than five seconds");
        looked.looks(100, true);
        (0..3000).for_each(|_| assert_eq!(looked.look(100, 0, true), Crew::Yielding));
        assert_eq!(looked.looks(0, true), AGREED);
        assert_eq!(looked.looks(100, true), 126, "it went well for long");
    }

    #[test]
    fn ordinary_ones_serve_single_calls() {
        let mut looked = Looked::default();
        looked.looks(100, false);
        assert_eq!(looked.looks(0, false), QUIET);
        assert_eq!(looked.looks(100, false), AGREED, "nothing had gone wrong");
    }
}
