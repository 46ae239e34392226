//! What is odd about a policy that loads: rules that do nothing, and rules that a lane does not hold.

use failcore_model::{Lane, RuleId};
use serde::Serialize;

use crate::limits::MESSAGE_BUDGETS;
use crate::pattern::{Part, Pattern};
use crate::rule::{Effect, HostPattern, Key, Object, Over, Rule, Way};
use crate::set::PolicySet;

/// Something odd about a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule.
    pub rule: RuleId,
    /// What is odd.
    pub kind: Oddity,
    /// The rule that makes it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<RuleId>,
}

/// Why a rule does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// A deny covers all that it grants.
    Unreachable,
    /// Another rule of the same effect covers it.
    Shadowed,
    /// It stands for nothing on this machine: the program is not installed, the packages are not there.
    Empty,
}

/// How well a lane holds a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// As written.
    Exact,
    /// With known gaps, which Coverage names.
    Approximate,
    /// Not at all.
    NotHeld,
}

/// One row of the enforcement matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The rule.
    pub rule: RuleId,
    /// Each lane and how it holds the rule.
    pub lanes: Vec<(Lane, Holds)>,
}

/// The lanes of the matrix; a replay holds what it replays.
pub const LANES: [Lane; 3] = [Lane::Runtime, Lane::Kernel, Lane::Bpf];

/// The user's own rules that do nothing. Conservative: what is reported is so, what is not may be so as well.
pub fn findings(set: &PolicySet) -> Vec<Finding> {
    let own = |rule: &&Rule| !shipped(rule) && rule.tool.is_none();
    let mut found = Vec::new();
    for rule in set.rules().filter(own).filter(|rule| !matches!(rule.key, Key::Tool | Key::Always)) {
        let finding =
            |kind, by: Option<&Rule>| Finding { rule: rule.id.clone(), kind, by: by.map(|r| r.id.clone()) };
        if rule.objects.is_empty() {
            found.push(finding(Oddity::Empty, None));
            continue;
        }
        let session = || set.rules().filter(|other| other.tool.is_none() && other.id != rule.id);
        let covering =
            |other: &&Rule| rule.objects.iter().all(|object| other.objects.iter().any(|o| covers(o, object)));
        if rule.effect == Effect::Permit
            && let Some(deny) = session().filter(|other| other.effect == Effect::Forbid).find(covering)
        {
            found.push(finding(Oddity::Unreachable, Some(deny)));
            continue;
        }
        // Of two that cover each other the first stands; an exact grant may lift a caution that a wider one does not.
        let plain = |other: &&Rule| {
            other.effect == rule.effect
                && (other.until, other.approve, other.audit) == (None, false, false)
                && !rule.objects.iter().any(exact)
                && !rule.approve
                && !rule.audit
                && !rule.carry
        };
        let earlier = |other: &Rule| set.position(&other.id) < set.position(&rule.id);
        let both =
            |other: &Rule| other.objects.iter().all(|object| rule.objects.iter().any(|o| covers(o, object)));
        let by = session().filter(plain).filter(covering).find(|other| earlier(other) || !both(other));
        if let Some(by) = by {
            found.push(finding(Oddity::Shadowed, Some(by)));
        }
    }
    found
}

/// How each lane holds each of the user's own rules.
pub fn matrix(set: &PolicySet) -> Vec<Row> {
    set.rules()
        .filter(|rule| !shipped(rule) && rule.key != Key::Always)
        .map(|rule| Row { rule: rule.id.clone(), lanes: LANES.map(|lane| (lane, holds(rule, lane))).into() })
        .collect()
}

/// How a lane holds a rule.
pub fn holds(rule: &Rule, lane: Lane) -> Holds {
    use Holds::{Approximate, Exact, NotHeld};
    let globbed = rule
        .objects
        .iter()
        .any(|object| matches!(object, Object::File { path, .. } if path.literal().is_none()));
    match lane {
        // In the same process: everything it can see, with what native code can go round in Coverage.
        Lane::Runtime => match rule.key {
            // A program has whatever the caller has.
            Key::Capabilities => NotHeld,
            // Nothing there could look into a connection.
            Key::NetHttp | Key::Credential => NotHeld,
            _ if rule.carry || rule.objects.iter().any(of_messages) => NotHeld,
            Key::Limit | Key::NetSocket | Key::NetListen => Approximate,
            // Chosen by `failcore run`; a session that a program opens itself comes too late.
            Key::Env => Approximate,
            Key::Limits => Approximate,
            Key::Exec => Approximate,
            _ => Exact,
        },
        Lane::Kernel | Lane::Broker | Lane::Replay => match rule.key {
            Key::Native | Key::Unmapped | Key::Tool => Approximate,
            // Arguments can change after they were read, where memory is shared.
            Key::Exec
                if rule
                    .objects
                    .iter()
                    .any(|o| matches!(o, Object::Exec { args, .. } if *args != crate::Args::Any)) =>
            {
                Approximate
            }
            // A hard link made before the run goes by another name than the pattern.
            Key::FsDeny if globbed => Approximate,
            Key::Limits if rule.objects.iter().any(sampled) => Approximate,
            _ => Exact,
        },
        Lane::Bpf => match rule.key {
            Key::Native | Key::Env | Key::Unmapped | Key::Capabilities => NotHeld,
            Key::NetHttp | Key::Credential => NotHeld,
            _ if rule.carry || rule.objects.iter().any(of_messages) => NotHeld,
            _ if rule.approve => NotHeld,
            Key::Tool | Key::Exec | Key::Limits => Approximate,
            _ if globbed => Approximate,
            _ => Exact,
        },
    }
}

fn of_messages(object: &Object) -> bool {
    matches!(object, Object::Budget { name, .. } if MESSAGE_BUDGETS.contains(&name.as_str()))
}

fn sampled(object: &Object) -> bool {
    matches!(object, Object::Budget { name, .. } if matches!(name.as_str(), "memory" | "write_bytes"))
}

fn shipped(rule: &Rule) -> bool {
    rule.source.starts_with("preset:") || rule.source == crate::presets::BUILT_IN || rule.source == "run"
}

/// Whether an object is one that lifts a caution.
fn exact(object: &Object) -> bool {
    match object {
        Object::File { path, .. } => path.literal().is_some(),
        Object::Net { host, .. } => matches!(host, HostPattern::Range(_) | HostPattern::Localhost),
        _ => false,
    }
}

/// Whether all that `inner` speaks of is spoken of by `outer`.
fn covers(outer: &Object, inner: &Object) -> bool {
    let way = |outer: &Way, inner: &Way| outer == inner || *outer == Way::Both;
    match (outer, inner) {
        (Object::File { path: outer, rights: o }, Object::File { path: inner, rights: i }) => {
            o.contains(*i) && within(outer, inner)
        }
        (Object::UnixPath { path: outer, way: o }, Object::UnixPath { path: inner, way: i }) => {
            way(o, i) && within(outer, inner)
        }
        (Object::Library(outer), Object::Library(inner)) => within(outer, inner),
        (
            Object::Net { host: outer, over: oo, ports: op, way: ow },
            Object::Net { host: inner, over: io, ports: ip, way: iw },
        ) => {
            (oo == io || *oo == Over::Any)
                && op.0 <= ip.0
                && ip.1 <= op.1
                && way(ow, iw)
                && match (outer, inner) {
                    (HostPattern::Below(base), HostPattern::Name(name) | HostPattern::Below(name)) => {
                        name.as_str().strip_suffix(base.as_str()).is_some_and(|rest| rest.ends_with('.'))
                            || outer == inner
                    }
                    (HostPattern::Any, HostPattern::Name(_) | HostPattern::Below(_)) => true,
                    (HostPattern::Range(o), HostPattern::Range(i)) => o.contains(i),
                    _ => outer == inner,
                }
        }
        // Of two limits the smaller one stops the run.
        (Object::Budget { name: outer, most: o }, Object::Budget { name: inner, most: i }) => {
            outer == inner && o <= i
        }
        _ => outer == inner,
    }
}

/// Whether the pattern `outer`, without wildcards after its literal part, holds all of `inner`.
fn within(outer: &Pattern, inner: &Pattern) -> bool {
    if let Some(path) = inner.literal() {
        return outer.covers(&path);
    }
    let (o, i) = (outer.parts(), inner.parts());
    o.iter().all(|part| matches!(part, Part::Literal(_))) && i.starts_with(o)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Environment;
    use failcore_model::AbsPath;

    fn load(text: &str) -> PolicySet {
        let dir = AbsPath::new(b"/srv/agent").unwrap();
        PolicySet::parse("p", text, &dir, &Environment::default()).unwrap()
    }

    fn shown(text: &str) -> Vec<String> {
        let found = findings(&load(text));
        found
            .iter()
            .map(|f| format!("{} {:?} {}", f.rule, f.kind, f.by.as_ref().map_or("-", |by| by.as_str())))
            .collect()
    }

    #[test]
    fn rules_that_do_nothing() {
        assert_eq!(
            shown(
                "[fs]\nread = [\"./a/*.txt\", \"./a\", \"./x/y\"]\ndeny = [\"./x\"]\n[net]\nconnect = [\"*.e.org:443\", \"a.e.org:443\"]\n[process]\nexec = [\"no-such-program\"]"
            ),
            [
                "p#fs.read[0] Shadowed p#fs.read[1]",
                "p#fs.read[2] Unreachable p#fs.deny[0]",
                "p#net.connect[1] Shadowed p#net.connect[0]",
                "p#process.exec[0] Empty -",
            ]
        );
    }

    #[test]
    fn a_limit_above_that_of_what_is_extended_does_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("base.toml"), "[limits]\nconnections = 5\noperations = 5").unwrap();
        let child = "extends = [\"base.toml\"]\n[limits]\nconnections = 9\noperations = 4\nprocesses = 9";
        std::fs::write(dir.path().join("child.toml"), child).unwrap();
        let set = PolicySet::load(&dir.path().join("child.toml"), &Environment::default()).unwrap();
        let found: Vec<_> = findings(&set).into_iter().map(|f| (f.rule.to_string(), f.kind)).collect();
        assert_eq!(
            found,
            [
                ("base.toml#limits.operations".to_owned(), Oddity::Shadowed),
                ("child.toml#limits.connections".to_owned(), Oddity::Shadowed)
            ]
        );
    }

    #[test]
    fn what_does_something_is_not_reported() {
        let none: [&str; 0] = [];
        // An exact grant inside a wider one lifts cautions; an approval asks where the wider grant does not.
        assert_eq!(
            shown("[fs]\nwrite = [\"./w\", \"./w/.envrc\", { path = \"./w/p*\", approve = true }]"),
            none
        );
        assert_eq!(shown("[net]\nconnect = [\"*:*\", \"10.0.0.0/8:22\"]"), none);
    }

    #[test]
    fn every_key_has_a_place_in_the_matrix() {
        let set = load("[fs]\ndeny = [\"**/.env\"]\n[env]\npass = [\"A\"]\n[limits]\nmemory = \"1GiB\"");
        let rows = matrix(&set);
        let row = |n: usize| rows[n].lanes.iter().map(|(_, holds)| *holds).collect::<Vec<_>>();
        assert_eq!(row(0), [Holds::Exact, Holds::Approximate, Holds::Approximate]);
        assert_eq!(row(1), [Holds::Approximate, Holds::Exact, Holds::NotHeld]);
        assert_eq!(row(2), [Holds::Approximate, Holds::Approximate, Holds::Approximate]);
    }
}
