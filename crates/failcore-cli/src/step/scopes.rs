//! Which tools are at work at a point of a trace.

use std::sync::{Arc, LazyLock};

use failcore_model::{Event, Text};
use failcore_trace::read_record;
use memchr::memmem::Finder;

/// Most that are kept: more are only counted, so that no trace fills the memory.
const MOST: usize = 256;

/// What stands in the line of every record that says so.
static SCOPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""scope."#));
static LEFT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""process.left""#));

/// The tool scopes that were entered and not yet left.
#[derive(Debug, Clone, Default)]
pub(super) struct Scopes(Arc<State>);

#[derive(Debug, Clone, Default)]
struct State {
    open: Vec<Scope>,
    more: u64,
}

/// A tool scope.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The record in which it was entered.
    pub(super) since: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// The whole path, the outermost first.
    pub(super) path: Vec<Text>,
    /// The step of the agent's plan.
    pub(super) step: Option<Text>,
}

impl Scopes {
    /// Adds what a line says.
    pub(super) fn gather(&mut self, seq: u64, line: &[u8]) {
        let concerned = SCOPE.find(line).is_some() || !self.0.open.is_empty() && LEFT.find(line).is_some();
        if let Some(record) = concerned.then(|| read_record(line).ok()).flatten() {
            self.add(seq, record.event);
        }
    }

    fn add(&mut self, seq: u64, event: Event) {
        match event {
            Event::ScopeEntered { pid, tid, scope: path, step } => {
                let state = Arc::make_mut(&mut self.0);
                if state.open.len() < MOST {
                    state.open.push(Scope { since: seq, pid, tid, path, step });
                } else {
                    state.more += 1;
                }
            }
            // Tasks of one thread enter and leave in any order.
            Event::ScopeLeft { pid, tid, scope } => {
                let left = |open: &Scope| (open.pid, open.tid, &open.path) == (pid, tid, &scope);
                match self.0.open.iter().rposition(left) {
                    Some(at) => drop(Arc::make_mut(&mut self.0).open.remove(at)),
                    None if self.0.more > 0 => Arc::make_mut(&mut self.0).more -= 1,
                    None => {}
                }
            }
            Event::ProcessLeft { pid } if self.0.open.iter().any(|open| open.pid == pid) => {
                Arc::make_mut(&mut self.0).open.retain(|open| open.pid != pid);
            }
            _ => {}
        }
    }

    /// Those that are known, in the order they were entered.
    pub(super) fn open(&self) -> &[Scope] {
        &self.0.open
    }

    /// How many there are beside them.
    pub(super) fn more(&self) -> u64 {
        self.0.more
    }
}

#[cfg(test)]
mod tests {
    use failcore_model::{Record, Timestamp};

    use super::*;

    fn entered(pid: u32, tid: u32, scope: &[&str]) -> Event {
        let scope = scope.iter().map(Text::from).collect();
        Event::ScopeEntered { pid, tid, scope, step: Some("plan".into()) }
    }

    fn left(pid: u32, tid: u32, scope: &[&str]) -> Event {
        Event::ScopeLeft { pid, tid, scope: scope.iter().map(Text::from).collect() }
    }

    fn after(events: Vec<Event>) -> Scopes {
        let mut scopes = Scopes::default();
        for (seq, event) in (0..).zip(events) {
            let record = Record { seq, ts: Timestamp(1), session: "s".into(), event };
            scopes.gather(seq, &serde_json::to_vec(&record).unwrap());
        }
        scopes
    }

    fn shown(scopes: &Scopes) -> Vec<String> {
        let one = |scope: &Scope| format!("{} {} {}", scope.since, scope.tid, scope.path.last().unwrap());
        scopes.open().iter().map(one).collect()
    }

    #[test]
    fn what_was_entered_is_open_until_it_is_left_or_its_process_ends() {
        let notice = Event::Notice { text: r#"says "scope.entered" and "process.left""#.into() };
        let events = vec![
            entered(1, 1, &["a"]),
            notice,
            entered(1, 1, &["a", "b"]),
            entered(1, 2, &["a"]),
            // Of two tasks of one thread the first ends first.
            left(1, 1, &["a"]),
            entered(7, 7, &["c"]),
            Event::ProcessLeft { pid: 7 },
        ];
        assert_eq!(shown(&after(events[..3].to_vec())), ["0 1 a", "2 1 b"]);
        assert_eq!(shown(&after(events[..6].to_vec())), ["2 1 b", "3 2 a", "5 7 c"]);
        assert_eq!(shown(&after(events)), ["2 1 b", "3 2 a"]);
        assert_eq!(shown(&after(vec![left(1, 1, &["never"])])), [""; 0]);
    }

    #[test]
    fn a_trace_that_never_leaves_does_not_fill_the_memory() {
        let many: Vec<Event> = (0..1000).map(|tid| entered(1, tid, &["a"])).collect();
        let scopes = after(many);
        assert_eq!((scopes.open().len(), scopes.more()), (MOST, 1000 - MOST as u64));
    }
}
