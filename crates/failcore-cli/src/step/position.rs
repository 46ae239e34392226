//! Where somebody is in a trace, and how they get elsewhere.
//!
//! Nothing here reads a trace. What is looked for is looked for a stretch at a time: this says which records to look at
//! next, and is told which of them are what is meant. So keys are heard however long a search takes, and memory does not
//! grow with it.

use std::collections::VecDeque;
use std::ops::Range;

/// How many records are looked at in one go: at first few, since what is meant is mostly near.
const STRETCH: Range<u64> = 64..4096;

/// What one can go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// A record that the filter shows.
    Shown,
    /// An operation.
    Operation,
    /// Where a tool begins.
    Step,
    /// What was refused.
    Denial,
    /// What was searched for.
    Match,
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Forward,
    Back,
}

/// A movement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// To the nearest that is meant.
    To(Goal, Way),
    /// By as many as the list shows at once.
    Page(Way),
    First,
    Last,
    /// To the record of this number, whether the filter shows it or not.
    Number(u64),
}

/// A stretch of records to look at, and what to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) records: Range<u64>,
    pub(super) goal: Goal,
    /// After so many finds the rest need not be looked at.
    pub(super) enough: usize,
    whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Quest,
    Window,
}

/// A movement on its way.
#[derive(Debug)]
struct Quest {
    goal: Goal,
    way: Way,
    /// The records not yet looked at.
    rest: Range<u64>,
    /// How many finds it takes to be there.
    left: usize,
    /// The last find so far.
    best: Option<u64>,
    stretch: u64,
}

/// The records around the present one that the filter shows.
#[derive(Debug, Default)]
struct Window {
    seen: VecDeque<u64>,
    /// What was looked at.
    range: Range<u64>,
}

/// A place in a trace.
#[derive(Debug)]
pub(super) struct Position {
    len: u64,
    at: u64,
    /// How many records the list shows.
    page: usize,
    /// Whether a filter leaves records out.
    narrowed: bool,
    window: Window,
    quest: Option<Quest>,
    /// What was looked for in vain.
    missed: Option<(Goal, Way)>,
}

impl Position {
    /// The beginning of a trace of `len` records, which has one at least.
    pub(super) fn new(len: u64) -> Self {
        Self { len, at: 0, page: 1, narrowed: false, window: Window::default(), quest: None, missed: None }
    }

    /// The number of the present record.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// How many records there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What is being looked for, and which record is looked at.
    pub(super) fn seeks(&self) -> Option<(Goal, u64)> {
        self.quest.as_ref().map(|quest| match quest.way {
            Way::Forward => (quest.goal, quest.rest.start),
            Way::Back => (quest.goal, quest.rest.end),
        })
    }

    /// What the last movement looked for in vain.
    pub(super) fn missed(&self) -> Option<(Goal, Way)> {
        self.missed
    }

    /// Sets how many records the list shows.
    pub(super) fn set_page(&mut self, page: usize) {
        self.page = page.max(1);
    }

    /// Another filter, which leaves records out or does not.
    pub(super) fn filtered(&mut self, narrowed: bool) {
        self.narrowed = narrowed;
        self.window = Window { seen: VecDeque::new(), range: self.at..self.at };
        self.quest = None;
        self.missed = None;
    }

    /// Stays where it is, whatever was looked for.
    pub(super) fn stay(&mut self) {
        self.quest = None;
        self.missed = None;
    }

    /// Begins a movement; one on its way ends.
    pub(super) fn go(&mut self, to: Move) {
        self.stay();
        let all = 0..self.len;
        match to {
            Move::Number(at) => self.arrive(at.min(self.len - 1)),
            Move::First if !self.narrowed => self.arrive(0),
            Move::Last if !self.narrowed => self.arrive(self.len - 1),
            Move::First => self.seek(Goal::Shown, Way::Forward, all, 1),
            Move::Last => self.seek(Goal::Shown, Way::Back, all, 1),
            Move::To(goal, way) => self.seek(goal, way, self.rest(way), 1),
            Move::Page(way) => self.seek(Goal::Shown, way, self.rest(way), self.page),
        }
    }

    fn rest(&self, way: Way) -> Range<u64> {
        match way {
            Way::Forward => self.at + 1..self.len,
            Way::Back => 0..self.at,
        }
    }

    fn seek(&mut self, goal: Goal, way: Way, rest: Range<u64>, left: usize) {
        if rest.is_empty() {
            self.missed = Some((goal, way));
        } else if goal == Goal::Shown && !self.narrowed {
            let left = left as u64;
            self.arrive(match way {
                Way::Forward => (self.at + left).min(self.len - 1),
                Way::Back => self.at.saturating_sub(left),
            });
        } else {
            self.quest = Some(Quest { goal, way, rest, left, best: None, stretch: STRETCH.start });
        }
    }

    fn arrive(&mut self, at: u64) {
        self.at = at;
        self.quest = None;
        let Range { start, end } = self.window.range;
        if at < start || at > end {
            self.window = Window { seen: VecDeque::new(), range: at..at };
        }
        self.trim();
    }

    /// What is to be looked at next; nothing where all is known that is to be shown.
    pub(super) fn look(&self) -> Option<Look> {
        if let Some(Quest { goal, way, rest, left, stretch, .. }) = &self.quest {
            let records = match way {
                Way::Forward => rest.start..rest.end.min(rest.start + stretch),
                Way::Back => rest.start.max(rest.end.saturating_sub(*stretch))..rest.end,
            };
            let enough = if *way == Way::Forward { *left } else { usize::MAX };
            return Some(Look { records, goal: *goal, enough, whose: Whose::Quest });
        }
        let Window { seen, range } = &self.window;
        let before = seen.partition_point(|seq| *seq < self.at);
        let records = match () {
            () if !self.narrowed => return None,
            () if seen.len() - before <= self.page && range.end < self.len => {
                range.end..self.len.min(range.end + STRETCH.end)
            }
            () if before < self.page && range.start > 0 => {
                range.start.saturating_sub(STRETCH.end)..range.start
            }
            () => return None,
        };
        Some(Look { records, goal: Goal::Shown, enough: usize::MAX, whose: Whose::Window })
    }

    /// Takes in which of the records of a look are what is looked for, in their order.
    pub(super) fn found(&mut self, look: &Look, found: &[u64]) {
        let Look { records, whose, .. } = look;
        if *whose == Whose::Window {
            if records.start >= self.window.range.end {
                self.window.seen.extend(found);
                self.window.range.end = records.end;
            } else {
                found.iter().rev().for_each(|seq| self.window.seen.push_front(*seq));
                self.window.range.start = records.start;
            }
            return;
        }
        let Some(quest) = &mut self.quest else { return };
        quest.stretch = STRETCH.end.min(quest.stretch * 2);
        let nth = match quest.way {
            Way::Forward => found.get(quest.left - 1),
            Way::Back => found.len().checked_sub(quest.left).map(|nth| &found[nth]),
        };
        if let Some(at) = nth {
            return self.arrive(*at);
        }
        quest.left -= found.len();
        match quest.way {
            Way::Forward => {
                quest.best = found.last().copied().or(quest.best);
                quest.rest.start = records.end;
            }
            Way::Back => {
                quest.best = found.first().copied().or(quest.best);
                quest.rest.end = records.start;
            }
        }
        if quest.rest.is_empty() {
            let (goal, way) = (quest.goal, quest.way);
            match quest.best {
                Some(at) => self.arrive(at),
                None => {
                    self.quest = None;
                    self.missed = Some((goal, way));
                }
            }
        }
    }

    /// Forgets what lies so far off that it will not be shown soon.
    fn trim(&mut self) {
        let Window { seen, range } = &mut self.window;
        let far = self.page * 4;
        let before = seen.partition_point(|seq| *seq < self.at);
        for _ in far..before {
            if let Some(seq) = seen.pop_front() {
                range.start = seq + 1;
            }
        }
        let after = seen.len() - seen.partition_point(|seq| *seq <= self.at);
        for _ in far..after {
            if let Some(seq) = seen.pop_back() {
                range.end = seq;
            }
        }
    }

    /// The numbers of the records to list, the present one among them and in the middle where it can be; those that were not
    /// looked for yet are missing.
    pub(super) fn listed(&self) -> Vec<u64> {
        let page = self.page as u64;
        if !self.narrowed {
            let first = self.at.saturating_sub(page / 2).min(self.len.saturating_sub(page));
            return (first..self.len.min(first + page)).collect();
        }
        let mut all: Vec<u64> = self.window.seen.iter().copied().collect();
        let at = all.partition_point(|seq| *seq < self.at);
        // One that the filter leaves out is listed while somebody is there.
        if all.get(at) != Some(&self.at) {
            all.insert(at, self.at);
        }
        let first = at.saturating_sub(self.page / 2).min(all.len().saturating_sub(self.page));
        all.into_iter().skip(first).take(self.page).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a position look at a trace in which the goals are met by these numbers, until it has seen enough.
    fn settle(position: &mut Position, meets: impl Fn(Goal, u64) -> bool) -> u64 {
        let mut looks = 0;
        while let Some(look) = position.look() {
            assert!(!look.records.is_empty() && look.records.end <= position.len(), "{look:?}");
            assert!(look.records.end - look.records.start <= STRETCH.end);
            let found = look.records.clone().filter(|seq| meets(look.goal, *seq));
            let found: Vec<u64> = found.take(look.enough).collect();
            position.found(&look, &found);
            looks += 1;
        }
        looks
    }

    fn at(position: &mut Position, to: Move, meets: impl Fn(Goal, u64) -> bool) -> u64 {
        position.go(to);
        settle(position, meets);
        position.at()
    }

    #[test]
    fn without_a_filter_records_follow_one_another() {
        let mut position = Position::new(100);
        position.set_page(10);
        let none = |_, _| panic!("there is nothing to look for");
        assert_eq!(at(&mut position, Move::To(Goal::Shown, Way::Back), none), 0);
        assert_eq!(position.missed(), Some((Goal::Shown, Way::Back)));
        assert_eq!(at(&mut position, Move::To(Goal::Shown, Way::Forward), none), 1);
        assert_eq!(position.missed(), None);
        assert_eq!(at(&mut position, Move::Page(Way::Forward), none), 11);
        assert_eq!(position.listed(), (6..16).collect::<Vec<_>>());
        assert_eq!(at(&mut position, Move::Last, none), 99);
        assert_eq!(position.listed(), (90..100).collect::<Vec<_>>());
        assert_eq!(at(&mut position, Move::Page(Way::Back), none), 89);
        assert_eq!(at(&mut position, Move::First, none), 0);
        assert_eq!(at(&mut position, Move::Number(u64::MAX), none), 99);
        assert_eq!(position.listed().len(), 10);
        position.set_page(1000);
        assert_eq!(position.listed(), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_nearest_is_found_however_far_it_is() {
        let mut position = Position::new(1_000_000);
        let meets = |goal, seq| match goal {
            Goal::Denial => seq % 300_007 == 5,
            Goal::Step => seq == 70,
            _ => seq % 2 == 0,
        };
        let (next, previous) = (Move::To(Goal::Denial, Way::Forward), Move::To(Goal::Denial, Way::Back));
        for expected in [5, 300_012, 600_019, 900_026] {
            assert_eq!(at(&mut position, next, meets), expected);
        }
        assert_eq!(at(&mut position, next, meets), 900_026);
        assert_eq!(position.missed(), Some((Goal::Denial, Way::Forward)));
        for expected in [600_019, 300_012, 5, 5] {
            assert_eq!(at(&mut position, previous, meets), expected);
        }
        assert_eq!(at(&mut position, Move::To(Goal::Step, Way::Forward), meets), 70);
        assert_eq!(at(&mut position, Move::To(Goal::Operation, Way::Back), meets), 68);
    }

    #[test]
    fn a_search_on_its_way_can_be_called_off() {
        let mut position = Position::new(1_000_000);
        position.go(Move::To(Goal::Match, Way::Forward));
        for _ in 0..20 {
            let look = position.look().unwrap();
            position.found(&look, &[]);
        }
        let (goal, so_far) = position.seeks().unwrap();
        assert!(goal == Goal::Match && so_far > 10_000 && so_far < 1_000_000);
        position.stay();
        assert_eq!(
            (position.seeks(), position.look(), position.at(), position.missed()),
            (None, None, 0, None)
        );
        // Another movement does that too.
        position.go(Move::To(Goal::Match, Way::Forward));
        position.go(Move::Number(7));
        assert_eq!((position.seeks(), position.at()), (None, 7));
    }

    #[test]
    fn a_filter_lists_what_it_shows_and_goes_there_alone() {
        let mut position = Position::new(200_000);
        position.set_page(5);
        position.filtered(true);
        let meets = |_, seq| seq % 1000 == 3;
        settle(&mut position, meets);
        // Where one is belongs to the list.
        assert_eq!(position.listed(), [0, 3, 1003, 2003, 3003]);
        assert_eq!(at(&mut position, Move::To(Goal::Shown, Way::Forward), meets), 3);
        assert_eq!(position.listed(), [3, 1003, 2003, 3003, 4003]);
        assert_eq!(at(&mut position, Move::Page(Way::Forward), meets), 5003);
        assert_eq!(position.listed(), [3003, 4003, 5003, 6003, 7003]);
        assert_eq!(at(&mut position, Move::Last, meets), 199_003);
        assert_eq!(position.listed(), [195_003, 196_003, 197_003, 198_003, 199_003]);
        assert_eq!(at(&mut position, Move::Page(Way::Forward), meets), 199_003);
        assert!(position.missed().is_some());
        assert_eq!(at(&mut position, Move::Number(100_500), meets), 100_500);
        assert_eq!(position.listed(), [99_003, 100_003, 100_500, 101_003, 102_003]);
        assert_eq!(at(&mut position, Move::To(Goal::Shown, Way::Back), meets), 100_003);
        // Fewer than a page are left.
        assert_eq!(at(&mut position, Move::Number(2500), meets), 2500);
        assert_eq!(at(&mut position, Move::Page(Way::Back), meets), 3);
        assert_eq!(at(&mut position, Move::First, meets), 3);
        position.filtered(false);
        assert_eq!(position.listed(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_filter_that_shows_nothing_ends_and_says_so() {
        let mut position = Position::new(50_000);
        position.set_page(5);
        position.filtered(true);
        let none = |_, _| false;
        assert_eq!(at(&mut position, Move::First, none), 0);
        assert_eq!(position.missed(), Some((Goal::Shown, Way::Forward)));
        assert_eq!(position.listed(), [0]);
    }

    #[test]
    fn what_is_kept_of_a_list_does_not_grow() {
        let mut position = Position::new(1_000_000);
        position.set_page(10);
        position.filtered(true);
        let meets = |_, seq| seq % 3 == 0;
        for _ in 0..3000 {
            position.go(Move::To(Goal::Shown, Way::Forward));
            settle(&mut position, meets);
        }
        assert_eq!(position.at(), 9000);
        for _ in 0..2000 {
            position.go(Move::To(Goal::Shown, Way::Back));
            settle(&mut position, meets);
            assert_eq!(position.listed().len(), 10);
        }
        assert_eq!(position.at(), 3000);
        assert!(position.window.seen.len() <= 4 * 10 + 2 * 4096);
    }
}
