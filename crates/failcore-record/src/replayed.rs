//! Telling a program what it was told when it was recorded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use failcore_gate::expected::{Differs, Divergence, Expected};
use failcore_gate::{Appearance, Outside, SinkError, Witness};
use failcore_model::heard::{Asked, Said};
use failcore_model::input::Moment;
use failcore_model::{Claims, RuleId};
use sha2::{Digest, Sha256};

use crate::known::{self, Known};
use crate::recording::{Answers, Values};
use crate::shapes::Shapes;
use crate::store::{Objects, hash_of};
use crate::walk::absolute;

/// Gives each thread the values of the record, one after the other.
///
/// Where a thread asks more often than it did, its clocks go on from where they were, and what is random to it follows
/// from what was.
pub struct Replayed {
    known: Known,
    shapes: Shapes,
    values: Values,
    kin: Kin,
    heard: Answers,
    objects: Objects,
    expected: Arc<Expected>,
    live: Live,
    left: BTreeMap<Vec<u8>, Option<String>>,
    state: Mutex<State>,
}

/// What really happens in a program that is run again.
#[derive(Default)]
pub struct Live {
    /// The rules that permit it.
    pub rules: HashSet<RuleId>,
    /// Where of the machine's own files are there.
    pub files: Vec<PathBuf>,
    /// Who connects.
    pub outside: Option<Arc<dyn Outside>>,
}

impl Live {
    fn has(&self, path: &[u8]) -> bool {
        self.files.iter().any(|live| Path::new(OsStr::from_bytes(path)).starts_with(live))
    }
}

#[derive(Default)]
struct State {
    /// Whose list each thread is given, and which are so.
    heirs: HashMap<Asks, Option<Asks>>,
    taken: HashSet<Asks>,
    /// How much of each list was given.
    given: HashMap<Asks, usize>,
    /// How often each question was answered.
    answered: HashMap<Asked, usize>,
    /// What each clock was said to be at last, and what it was then.
    last: HashMap<i32, (Moment, Moment)>,
    /// How often something was told that the record has.
    told: u64,
    /// How often random bytes were made up, so that no two are the same, and a clock went on from what it said.
    made_up: u64,
    went_on: u64,
}

impl Replayed {
    pub(crate) fn new(
        (known, shapes): (Known, Shapes),
        values: Values,
        heard: Answers,
        left: BTreeMap<Vec<u8>, Option<String>>,
        objects: Objects,
        expected: Arc<Expected>,
    ) -> Self {
        Self {
            known,
            shapes,
            kin: Kin::of(&values),
            values,
            heard,
            objects,
            expected,
            live: Live::default(),
            left,
            state: Mutex::default(),
        }
    }

    /// The same, where some of it really happens.
    #[must_use]
    pub fn but_for(self, live: Live) -> Self {
        Self { live, ..self }
    }

    /// The rules by which something really happens.
    pub fn live_rules(&self) -> Vec<RuleId> {
        let mut rules: Vec<RuleId> = self.live.rules.iter().cloned().collect();
        rules.sort();
        rules
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runs part here.
    fn part(&self, asked: &Asked, claims: &Claims, differs: Differs) -> SinkError {
        let others = self.heard.keys().map(ToString::to_string);
        let divergence = Divergence::asked(asked.to_string(), claims, differs, others);
        self.expected.part(divergence.clone());
        SinkError(Box::new(divergence))
    }

    /// After the program: the files that it left otherwise than it did when it was recorded.
    pub fn left_otherwise(&self) -> Vec<PathBuf> {
        let file = |path: &Vec<u8>| PathBuf::from(OsStr::from_bytes(path));
        let played = self.left.iter().filter(|(path, _)| !self.live.has(path));
        let otherwise = played.filter(|(path, sha256)| hash_of(&file(path)) != **sha256);
        otherwise.map(|(path, _)| file(path)).collect()
    }

    /// What threads were told, in words.
    pub fn summary(&self) -> String {
        let State { told, made_up, went_on, .. } =
            &*self.state.lock().unwrap_or_else(PoisonError::into_inner);
        format!(
            "clocks and random numbers: {told} from the record, {} that it does not have and that follow from them",
            made_up + went_on
        )
    }
}

/// A thread and the code that asks, and the clock it asks; nothing where it asks for chance.
type Asks = (String, Option<i32>);

impl State {
    /// The next of a thread's list; `lists` are those that the recorded threads had.
    fn next<'a, T>(
        &mut self,
        asks: Asks,
        lists: impl Fn(&Asks) -> Option<&'a Vec<T>>,
        all: &Kin,
    ) -> Option<&'a T> {
        let heir = match self.heirs.get(&asks) {
            Some(known) => known.clone(),
            None => {
                let found = all.heir(&asks, &self.taken);
                self.taken.extend(found.clone());
                self.heirs.insert(asks, found.clone());
                found
            }
        }?;
        let value = lists(&heir)?.get(*self.given.entry(heir.clone()).or_default())?;
        *self.given.entry(heir).or_default() += 1;
        Some(value)
    }
}

/// The recorded threads that asked for the same by the same code, by process, the oldest first.
///
/// How many threads a process has had by a certain time differs from run to run, and with it their numbers: a pool makes one
/// more where the others are still at work.
struct Kin(HashMap<(String, String, Option<i32>), BTreeMap<usize, Asks>>);

impl Kin {
    fn of(values: &Values) -> Self {
        let clocks = values.clocks.keys().map(|(thread, clock)| (thread.clone(), Some(*clock)));
        let random = values.random.keys().map(|thread| (thread.clone(), None));
        let mut kin: HashMap<_, BTreeMap<usize, Asks>> = HashMap::new();
        for asks in clocks.chain(random) {
            let (process, number, code) = parts(&asks.0);
            kin.entry((process.into(), code.into(), asks.1)).or_default().insert(number, asks);
        }
        Self(kin)
    }

    /// The one whose values a thread gets: the one with its number, or the oldest that nobody stands for yet.
    fn heir(&self, asks: &Asks, taken: &HashSet<Asks>) -> Option<Asks> {
        let (process, number, code) = parts(&asks.0);
        let kin = self.0.get(&(process.into(), code.into(), asks.1))?;
        let free = |heir: &&Asks| !taken.contains(*heir);
        kin.get(&number).filter(free).or_else(|| kin.values().find(free)).cloned()
    }
}

/// The process of a thread, its number there, and the code that asks.
fn parts(thread: &str) -> (&str, usize, &str) {
    let (thread, code) = thread.split_once(' ').unwrap_or((thread, ""));
    let (process, number) = thread.rsplit_once('/').unwrap_or((thread, ""));
    (process, number.parse().unwrap_or(usize::MAX), code)
}

fn nanoseconds(at: Moment) -> i128 {
    i128::from(at.s) * 1_000_000_000 + i128::from(at.ns)
}

fn moment(nanoseconds: i128) -> Moment {
    let s = nanoseconds.div_euclid(1_000_000_000);
    let ns = nanoseconds.rem_euclid(1_000_000_000);
    Moment { s: i64::try_from(s).unwrap_or_default(), ns: u32::try_from(ns).unwrap_or_default() }
}

impl Witness for Replayed {
    fn looks(&self, from: &[u8], asked: &[u8], follow: bool) -> Result<(), SinkError> {
        let path = absolute(from, asked);
        if path.starts_with(b"/") {
            self.known.uses(&path, follow);
        }
        Ok(())
    }

    fn asks(
        &self,
        from: &[u8],
        asked: &[u8],
        follow: bool,
        who: &dyn Fn() -> Claims,
    ) -> Result<(), SinkError> {
        let path = absolute(from, asked);
        let unknown = path.starts_with(b"/").then(|| self.known.unknown(&path, follow)).flatten();
        let Some(unknown) = unknown.filter(|path| !self.live.has(path)) else { return Ok(()) };
        let (look, differs) = (known::said(&unknown), Differs::Recorded(0));
        let divergence = Divergence::asked(look, &who(), differs, self.known.all());
        self.expected.part(divergence.clone());
        Err(SinkError(Box::new(divergence)))
    }

    fn opens(&self, _: BorrowedFd<'_>) -> Result<(), SinkError> {
        Ok(())
    }

    fn runs(&self, _: &[u8], _: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }

    fn recalls(&self, asked: &Asked, claims: &Claims) -> Result<Option<(Said, Vec<u8>)>, SinkError> {
        let known = self.heard.get(asked).map(Vec::as_slice).unwrap_or_default();
        let mut state = self.state();
        let answered = state.answered.entry(asked.clone()).or_default();
        let mut nth = *answered;
        *answered += 1;
        drop(state);
        if !matches!(asked, Asked::Request { .. } | Asked::Conversation { .. }) {
            // Whoever asks again is told what was said last.
            nth = nth.min(known.len().saturating_sub(1));
        }
        let part = |differs| Err(self.part(asked, claims, differs));
        match known.get(nth) {
            Some((Said::Unkept { why }, _)) => part(Differs::Unkept(why.clone())),
            Some((said, None)) => Ok(Some((said.clone(), Vec::new()))),
            Some((said, Some(payload))) if payload.kept => {
                let bytes = self.objects.get(&payload.sha256, payload.size);
                Ok(Some((said.clone(), bytes.map_err(|error| SinkError(Box::new(error)))?)))
            }
            Some((_, Some(_))) => part(Differs::Unkept("there is a secret in it".into())),
            // Nobody is there, as the kernel will say.
            None if matches!(asked, Asked::Route { .. } | Asked::Connection { .. }) => Ok(None),
            None => part(Differs::Recorded(known.len() as u64)),
        }
    }

    fn appears(&self, now: &mut Appearance) -> bool {
        self.shapes.show(now)
    }

    fn hears(&self, _: Asked, _: Said, _: Option<Vec<u8>>) -> Result<(), SinkError> {
        Ok(())
    }

    fn parts(&self, from: &Asked, claims: &Claims, how: &str) {
        self.part(from, claims, Differs::Otherwise(how.into()));
    }

    fn outside(&self, rules: &[RuleId]) -> Option<Arc<dyn Outside>> {
        let Live { rules: live, outside, .. } = &self.live;
        rules.iter().any(|rule| live.contains(rule)).then(|| outside.clone()).flatten()
    }

    fn plays(&self) -> bool {
        true
    }

    fn most(&self) -> u64 {
        0
    }

    fn clock(&self, thread: &str, clock: i32, now: Moment) -> Result<Moment, SinkError> {
        let mut state = self.state();
        let lists = |(thread, _): &Asks| self.values.clocks.get(&(thread.clone(), clock));
        let recorded = state.next((thread.to_owned(), Some(clock)), lists, &self.kin);
        let at = match recorded {
            Some(at) => {
                state.told += 1;
                *at
            }
            None => match (state.last.get(&clock), self.values.first(clock)) {
                (Some((said, then)), _) => moment(nanoseconds(*said) + nanoseconds(now) - nanoseconds(*then)),
                (None, Some(first)) => first,
                (None, None) => now,
            },
        };
        state.went_on += u64::from(recorded.is_none());
        let ahead = state.last.get(&clock).is_none_or(|(said, _)| *said <= at);
        if ahead {
            state.last.insert(clock, (at, now));
        }
        Ok(at)
    }

    fn random(&self, thread: &str, bytes: Vec<u8>) -> Result<Vec<u8>, SinkError> {
        let mut state = self.state();
        let asks = (thread.to_owned(), None);
        let recorded = state.next(asks, |(thread, _)| self.values.random.get(thread), &self.kin);
        if let Some(recorded) = recorded.filter(|recorded| recorded.len() == bytes.len()) {
            state.told += 1;
            return Ok(recorded.clone());
        }
        state.made_up += 1;
        let seed = [&b"failcore unrecorded "[..], thread.as_bytes(), &state.made_up.to_le_bytes()].concat();
        let made_up = (0u64..).flat_map(|n| Sha256::digest([&seed[..], &n.to_le_bytes()].concat()));
        Ok(made_up.take(bytes.len()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_is_told_what_it_was_told_and_then_time_goes_on() {
        let at = |s, ns| Moment { s, ns };
        let mut values = Values::default();
        values.clocks.insert(("0/0".into(), 1), vec![at(5, 0), at(6, 500)]);
        values.clocks.insert(("0/1".into(), 1), vec![at(5, 700)]);
        values.random.insert("0/0".into(), vec![vec![1, 2, 3]]);
        for (thread, value) in
            [("0/3 pool", 3), ("0/4 pool", 4), ("0/5 draw", 5), ("0/6 draw", 6), ("0/8 draw", 8)]
        {
            values.random.insert(thread.into(), vec![vec![value]]);
        }
        let home = tempfile::tempdir().unwrap();
        let objects = Objects::open(home.path()).unwrap();
        let known = Known::of(&BTreeMap::new());
        let replayed = Replayed::new(
            (known, Shapes::of(&BTreeMap::new())),
            values,
            Answers::new(),
            BTreeMap::new(),
            objects,
            Arc::default(),
        );
        let clock = |thread, now| replayed.clock(thread, 1, now).unwrap();
        assert_eq!(clock("0/0", at(900, 0)), at(5, 0));
        assert_eq!(clock("0/1", at(900, 1)), at(5, 700));
        assert_eq!(clock("0/0", at(900, 2)), at(6, 500));
        assert_eq!(clock("0/0", at(901, 12)), at(7, 510));
        // Whoever was not there then is told what follows from the others.
        assert_eq!(clock("0.0/0", at(902, 12)), at(8, 510));
        let random = |len: usize| replayed.random("0/0", vec![9; len]).unwrap();
        assert_eq!(random(3), [1, 2, 3]);
        // Threads that came to be later or earlier stand for those that did the same.
        for (thread, value) in [("0/3 draw", 5), ("0/3 pool", 3), ("0/4 draw", 6), ("0/5 draw", 8)] {
            assert_eq!(replayed.random(thread, vec![9]).unwrap(), [value], "{thread}");
        }
        assert_ne!(replayed.random("0.1/4 pool", vec![9]).unwrap(), [4], "of another process");
        let (one, other) = (random(40), random(40));
        assert!(one != other && one.len() == 40 && one != [9; 40]);
        assert_eq!(
            replayed.summary(),
            "clocks and random numbers: 8 from the record, 5 that it does not have and that follow from them"
        );
    }
}
