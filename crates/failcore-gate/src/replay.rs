//! What-if replay: decide a recorded session again under another policy, without any effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use failcore_model::{Decision, Event, Reason, Record, Request, RuleId, Text, Verdict};
use failcore_policy::PolicySet;
use serde::Serialize;

/// How many records each group shows; groups are counted in full.
const EXAMPLES: usize = 5;

/// What another policy would have decided differently.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Differences {
    /// Records read.
    pub records: u64,
    /// Decisions among them that were made again.
    pub decided: u64,
    /// Decisions that could not be made again, because a redacted field matters to a rule.
    pub undecidable: u64,
    /// Where the verdict changes, by the rule that makes the new decision.
    pub changes: Vec<Change>,
}

/// Operations whose verdict changes for the same reason.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// The recorded verdict.
    pub was: Verdict,
    /// The verdict under the other policy.
    pub now: Verdict,
    /// The rule of the other policy that decides; none where no permit covers the operation.
    pub rule: Option<RuleId>,
    /// Its reason.
    pub reason: Reason,
    /// How many operations.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<Example>,
}

/// One operation whose verdict changes.
#[derive(Debug, Clone, Serialize)]
pub struct Example {
    /// Its place in the trace.
    pub seq: u64,
    /// The operation in words.
    pub operation: String,
    /// Where in the program it came from, as far as the program said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Text>,
}

impl Differences {
    /// Whether every decision came out as recorded, and every one could be made.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.undecidable == 0
    }
}

/// Decides every record again under `policy`, streaming, in constant memory.
///
/// `undecidable` says of a request whether a redacted value stands in it where a rule could look.
///
/// # Errors
/// The first error of `records`: a trace that cannot be read is not replayed in part.
pub fn what_if<E>(
    records: impl IntoIterator<Item = Result<Record, E>>,
    policy: &PolicySet,
    undecidable: impl Fn(&Request) -> bool,
) -> Result<Differences, E> {
    type Key = (Option<RuleId>, Reason, bool);
    let mut found = Differences::default();
    let mut groups: BTreeMap<Key, Change> = BTreeMap::new();
    for record in records {
        let record = record?;
        found.records += 1;
        let Event::Decided { request, decision: was, .. } = record.event else { continue };
        if !depends_on_policy(&was) {
            continue;
        }
        if undecidable(&request) {
            found.undecidable += 1;
            continue;
        }
        found.decided += 1;
        let now = policy.decide(&request);
        if now.verdict == was.verdict {
            continue;
        }
        let rule = now.rules.first().cloned();
        let change = groups.entry((rule.clone(), now.reason, now.is_allow())).or_insert_with(|| Change {
            was: was.verdict,
            now: now.verdict,
            rule,
            reason: now.reason,
            count: 0,
            examples: Vec::new(),
        });
        change.count += 1;
        if change.examples.len() < EXAMPLES {
            let operation = request.operation();
            change.examples.push(Example {
                seq: record.seq,
                operation,
                site: request.subject.claimed.site.clone(),
            });
        }
    }
    found.changes = groups.into_values().collect();
    Ok(found)
}

/// The first recorded operation that two policies decide otherwise.
#[derive(Debug, Clone)]
pub struct Parting {
    /// Its place in the trace.
    pub seq: u64,
    /// The operation.
    pub request: Arc<Request>,
    /// What each policy decides.
    pub decisions: [Decision; 2],
}

/// Finds the first record that two policies decide otherwise; memory is one record. What is `undecidable` is passed over
/// (see [`what_if`]).
///
/// # Errors
/// The first error of `records` before that.
pub fn first_parting<E>(
    records: impl IntoIterator<Item = Result<Record, E>>,
    policies: [&PolicySet; 2],
    undecidable: impl Fn(&Request) -> bool,
) -> Result<Option<Parting>, E> {
    for record in records {
        let record = record?;
        let Event::Decided { request, decision, .. } = record.event else { continue };
        if !depends_on_policy(&decision) || undecidable(&request) {
            continue;
        }
        let decisions = policies.map(|policy| policy.decide(&request));
        if decisions[0].verdict != decisions[1].verdict {
            return Ok(Some(Parting { seq: record.seq, request, decisions }));
        }
    }
    Ok(None)
}

/// Whether another policy could have come to another decision: a fault or a full disk is no matter of policy.
fn depends_on_policy(decision: &Decision) -> bool {
    !matches!(decision.reason, Reason::Fault | Reason::TraceUnwritable | Reason::Diverged)
}
