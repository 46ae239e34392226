//! What the rules that meet one object come to: permit, forbid and caution put together, in any order.

use failcore_model::{Reason, Rights, Timestamp};
use smallvec::SmallVec;

use crate::index::{Index, Meta};
use crate::resolved::Tool;
use crate::rule::Effect;

/// Which rules count.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    /// Those of the session.
    Session,
    /// Those of a tool: its own lists, and the session's where it has none; every deny of both.
    Tool(u16, &'a Tool),
}

impl View<'_> {
    pub(crate) fn sees(self, meta: &Meta) -> bool {
        match (self, meta.tool) {
            (Self::Session, tool) => tool.is_none(),
            (Self::Tool(this, _), Some(tool)) => this == tool,
            (Self::Tool(_, scope), None) => meta.effect != Effect::Permit || !scope.keys.contains(&meta.key),
        }
    }

    /// Whether a rule says how something is done here, whether or not it permits it: the session's, and a tool's own.
    pub(crate) fn heeds(self, meta: &Meta) -> bool {
        match (self, meta.tool) {
            (_, None) => true,
            (Self::Session, Some(_)) => false,
            (Self::Tool(this, _), Some(tool)) => this == tool,
        }
    }
}

/// What was found so far about one object. The one right of objects that have no rights is `READ`.
pub(crate) struct Tally<'a> {
    index: &'a Index,
    view: View<'a>,
    now: Timestamp,
    needed: Rights,
    granted: Rights,
    /// Granted by an entry that names this very object.
    exact: Rights,
    forbidden: Rights,
    cautioned: Rights,
    /// The first permit for each right.
    permits: [u32; 5],
    forbid: Option<(bool, u32)>,
    cautions: [u32; 5],
    expired: [u32; 5],
    approve: bool,
    audit: bool,
}

/// What a judgement comes to: [`Reason::Granted`], or why not.
#[derive(Debug, Clone)]
pub(crate) struct Ruling {
    pub(crate) reason: Reason,
    /// Rules by position, the deciding one first.
    pub(crate) rules: SmallVec<[u32; 2]>,
    pub(crate) approve: bool,
    pub(crate) audit: bool,
    pub(crate) carry: bool,
}

const NONE: u32 = u32::MAX;

impl<'a> Tally<'a> {
    pub(crate) fn new(index: &'a Index, view: View<'a>, now: Timestamp, needed: Rights) -> Self {
        Self {
            index,
            view,
            now,
            needed,
            granted: Rights::empty(),
            exact: Rights::empty(),
            forbidden: Rights::empty(),
            cautioned: Rights::empty(),
            permits: [NONE; 5],
            forbid: None,
            cautions: [NONE; 5],
            expired: [NONE; 5],
            approve: false,
            audit: false,
        }
    }

    pub(crate) fn effect(&self, rule: u32) -> Effect {
        self.index.metas[rule as usize].effect
    }

    /// Takes in a rule that speaks of the object. `exact`: it names this very object.
    pub(crate) fn meet(&mut self, rule: u32, rights: Rights, exact: bool) {
        let meta = &self.index.metas[rule as usize];
        let rights = rights & self.needed;
        if rights.is_empty() || !self.view.sees(meta) {
            return;
        }
        match meta.effect {
            Effect::Forbid => {
                self.forbidden |= rights;
                let candidate = (!meta.always, rule);
                self.forbid = Some(self.forbid.map_or(candidate, |known| known.min(candidate)));
            }
            Effect::Caution => {
                self.cautioned |= rights;
                note(&mut self.cautions, rights, rule);
            }
            Effect::Permit if self.now.0 >= meta.until => {
                note(&mut self.expired, rights, rule);
            }
            Effect::Permit => {
                self.granted |= rights;
                if exact {
                    self.exact |= rights;
                }
                note(&mut self.permits, rights, rule);
                self.approve |= meta.approve;
                self.audit |= meta.audit;
            }
        }
    }

    /// The rights that remain once everything is put together.
    pub(crate) fn effective(&self) -> Rights {
        self.granted - self.forbidden - (self.cautioned - self.exact)
    }

    /// Why the object is refused whatever is granted, if it is.
    pub(crate) fn refusal(&self, wanted: Rights) -> Option<Ruling> {
        if self.forbidden.intersects(wanted)
            && let Some((not_always, rule)) = self.forbid
        {
            let reason = if not_always { Reason::Forbidden } else { Reason::Always };
            return Some(Ruling::deny(reason, Some(rule)));
        }
        let unlifted = (self.cautioned - self.exact) & wanted;
        let caution = each(unlifted).map(|slot| self.cautions[slot]).min()?;
        Some(Ruling::deny(Reason::Caution, Some(caution)))
    }

    /// What it comes to.
    pub(crate) fn ruling(&self, wanted: Rights) -> Ruling {
        if let Some(refusal) = self.refusal(wanted) {
            return refusal;
        }
        if !self.granted.contains(wanted) {
            // Expired only where nothing else is missing.
            let ended = each(wanted - self.granted).map(|slot| self.expired[slot]);
            let known = ended.clone().all(|rule| rule != NONE);
            return match ended.min().filter(|_| known) {
                Some(rule) => Ruling::deny(Reason::Expired, Some(rule)),
                None => Ruling::deny(Reason::NotGranted, None),
            };
        }
        let mut ruling = Ruling::granted();
        for slot in each(wanted) {
            ruling.name(self.permits[slot]);
        }
        ruling.approve = self.approve;
        ruling.audit = self.audit;
        ruling
    }
}

/// Keeps the first rule for each right.
fn note(slots: &mut [u32; 5], rights: Rights, rule: u32) {
    for slot in each(rights) {
        slots[slot] = slots[slot].min(rule);
    }
}

/// The places of the rights in a set.
fn each(rights: Rights) -> impl Iterator<Item = usize> + Clone {
    (0..5).filter(move |slot| rights.bits() & (1 << slot) != 0)
}

impl Ruling {
    pub(crate) fn granted() -> Self {
        Self { reason: Reason::Granted, rules: SmallVec::new(), approve: false, audit: false, carry: false }
    }

    pub(crate) fn deny(reason: Reason, rule: Option<u32>) -> Self {
        Self { reason, rules: rule.into_iter().collect(), ..Self::granted() }
    }

    pub(crate) fn is_granted(&self) -> bool {
        self.reason == Reason::Granted
    }

    fn name(&mut self, rule: u32) {
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    /// Both are needed: the graver refusal, or the two grants together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        let gravity = |ruling: &Self| match ruling.reason {
            Reason::Granted => 0,
            Reason::Always => 6,
            Reason::Forbidden => 5,
            Reason::DeniedBelow => 4,
            Reason::Caution | Reason::SpecialAddress => 3,
            Reason::Expired => 1,
            _ => 2,
        };
        if !self.is_granted() || !other.is_granted() {
            return if gravity(&other) > gravity(&self) { other } else { self };
        }
        for rule in other.rules {
            self.name(rule);
        }
        self.approve |= other.approve;
        self.audit |= other.audit;
        self.carry |= other.carry;
        self
    }
}
