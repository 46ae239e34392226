//! A walk through a trace: the place one is at, read together with what is there.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use failcore_model::{Event, Record};
use failcore_policy::PolicySet;
use failcore_record::Objects;
use failcore_trace::{Places, read_record};
use memchr::memmem::Finder;
use ratatui::text::Line;

use super::details::{Beside, details};
use super::position::{Goal, Look, Move, Position};
use super::relations::Relations;
use super::scopes::Scopes;
use super::styled::{printed, styled};
use super::wanted::{DENIED, Wanted};
use crate::failure::{Failure, Problem};
use crate::trace;
use crate::ui::BAD;

/// What stands in the line of every record of a kind.
static DECIDED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""decided""#));
static ENTERED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""scope.entered""#));

/// A trace, and where somebody is in it.
pub(super) struct Walk {
    places: Places<Scopes>,
    /// None where it does not lie beside the trace.
    policy: Option<PolicySet>,
    /// None where nothing was recorded.
    objects: Option<Result<Objects, String>>,
    position: Position,
    filter: Option<Wanted>,
    search: Option<Wanted>,
    here: Here,
}

/// What stands where one is.
struct Here {
    seq: u64,
    /// The record; why there is none.
    record: Result<Record, String>,
    scopes: Scopes,
    relations: Relations,
    /// All that is known of it, once that was asked for.
    told: Option<Vec<Line<'static>>>,
}

impl Walk {
    /// Begins at the first record of the trace in `dir`.
    pub(super) fn begin(dir: &Path) -> Result<Self, Failure> {
        let places = Places::read(dir, Scopes::gather).map_err(Problem::trace)?;
        if places.is_empty() {
            return Err(Problem::Nonsense {
                what: format!("{} has no record yet", dir.display()),
                help: "`failcore trace tail` shows records as they are written".into(),
            }
            .into());
        }
        // Records alone, as other tools may write them, are shown too.
        let policy = dir.join("policy.toml").exists().then(|| crate::policy::recorded(dir)).transpose()?;
        let objects =
            dir.join("objects").exists().then(|| Objects::open(dir).map_err(|error| error.to_string()));
        let position = Position::new(places.len());
        let here = Here {
            seq: 0,
            record: Err(String::new()),
            scopes: Scopes::default(),
            relations: Relations::default(),
            told: None,
        };
        let mut walk = Self { places, policy, objects, position, filter: None, search: None, here };
        walk.arrive();
        Ok(walk)
    }

    /// Where one is.
    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    /// Sets how many records are listed.
    pub(super) fn set_page(&mut self, page: usize) {
        self.position.set_page(page);
    }

    /// Begins a movement.
    pub(super) fn go(&mut self, to: Move) {
        self.position.go(to);
        self.arrive();
    }

    /// Ends a movement that has not arrived.
    pub(super) fn stay(&mut self) {
        self.position.stay();
    }

    /// Shows only what meets conditions; none shows all.
    pub(super) fn filter(&mut self, wanted: Option<Wanted>) {
        self.filter = wanted.filter(Wanted::is_narrow);
        self.position.filtered(self.filter.is_some());
    }

    /// Sets what is searched for; whether there is anything.
    pub(super) fn search(&mut self, wanted: Wanted) {
        self.search = Some(wanted);
    }

    /// Whether anything was searched for yet.
    pub(super) fn has_search(&self) -> bool {
        self.search.is_some()
    }

    /// Whether the filter shows the record where one is.
    pub(super) fn is_shown(&mut self, seq: u64) -> bool {
        let Some(filter) = &self.filter else { return true };
        let mut shown = false;
        let looked = self.places.each(seq..seq + 1, |_, line| {
            shown = filter.has(line);
            ControlFlow::Break(())
        });
        looked.is_ok() && shown
    }

    /// Whether something is being looked for.
    pub(super) fn is_busy(&self) -> bool {
        self.position.look().is_some() || !self.here.relations.is_done()
    }

    /// Goes on with a movement for so long, or until it arrives.
    pub(super) fn travel(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while self.position.seeks().is_some() && Instant::now() < until {
            self.step();
        }
    }

    /// Goes on looking for so long, or until all was found.
    pub(super) fn work(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while self.is_busy() && Instant::now() < until {
            self.step();
        }
    }

    fn step(&mut self) {
        if let Some(look) = self.position.look() {
            let found = self.look(&look);
            self.position.found(&look, &found);
            self.arrive();
        } else {
            self.relate();
        }
    }

    fn look(&mut self, look: &Look) -> Vec<u64> {
        let (filter, search) = (self.filter.as_ref(), self.search.as_ref());
        let is =
            |line: &[u8], kind: fn(&Event) -> bool| read_record(line).is_ok_and(|record| kind(&record.event));
        let meets = |line: &[u8]| match look.goal {
            Goal::Shown => filter.is_none_or(|wanted| wanted.has(line)),
            Goal::Match => search.is_some_and(|wanted| wanted.has(line)),
            Goal::Operation => {
                DECIDED.find(line).is_some() && is(line, |event| matches!(event, Event::Decided { .. }))
            }
            Goal::Step => {
                ENTERED.find(line).is_some() && is(line, |event| matches!(event, Event::ScopeEntered { .. }))
            }
            Goal::Denial => {
                let refused = |event: &Event| match event {
                    Event::Decided { decision, .. } => !decision.is_allow(),
                    _ => false,
                };
                DENIED.find(line).is_some() && is(line, refused)
            }
        };
        let mut found = Vec::new();
        // What cannot be read any more is not found; where one is then says why.
        drop(self.places.each(look.records.clone(), |seq, line| {
            if meets(line) {
                found.push(seq);
            }
            if found.len() < look.enough { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }));
        found
    }

    fn relate(&mut self) {
        let Some(stretch) = self.here.relations.look() else { return };
        let mut found = Vec::new();
        drop(self.places.each(stretch.records.clone(), |_, line| {
            found.extend(stretch.take(line));
            ControlFlow::Continue(())
        }));
        self.here.relations.found(&stretch, found);
        self.here.told = None;
    }

    /// Reads what stands where one is, if that is elsewhere than before.
    fn arrive(&mut self) {
        let seq = self.position.at();
        if self.here.seq == seq && self.here.record.is_ok() {
            return;
        }
        let record = self.places.record(seq).map_err(|error| error.to_string());
        let scopes = self.places.state(seq).unwrap_or_default();
        let relations = record.as_ref().map_or_else(
            |_| Relations::default(),
            |record| Relations::of(record, self.position.len(), self.objects.is_some()),
        );
        self.here = Here { seq, record, scopes, relations, told: None };
    }

    /// One line for each record to be listed, with its number.
    pub(super) fn list(&mut self) -> Vec<(u64, Line<'static>)> {
        let mut line = |seq| match self.places.record(seq) {
            Ok(record) => printed(|out| writeln!(out, "{}", trace::line(&record)))
                .into_iter()
                .next()
                .unwrap_or_default(),
            Err(error) => styled(BAD, &format!("{seq:>6}  {error}")).into(),
        };
        self.position.listed().into_iter().map(|seq| (seq, line(seq))).collect()
    }

    /// All that is known of the record where one is.
    pub(super) fn details(&mut self) -> &[Line<'static>] {
        let Here { record, scopes, relations, told, .. } = &mut self.here;
        told.get_or_insert_with(|| match record {
            Ok(record) => {
                let (policy, objects) = (self.policy.as_ref(), self.objects.as_ref());
                details(record, &Beside { policy, objects, scopes, relations })
            }
            Err(why) => vec![styled(BAD, why).into()],
        })
    }

    /// The first record of the trace.
    pub(super) fn first(&mut self) -> Option<Record> {
        self.places.record(0).ok()
    }
}
