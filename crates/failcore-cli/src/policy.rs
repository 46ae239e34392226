//! `failcore policy`, and how every command comes by a policy.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use failcore_model::AbsPath;
use failcore_policy::{Effect, Environment, Key, Limits, Mode, PolicySet, Python, Reads, Rule, Stdin};
use serde::Serialize;

use crate::args::Policy;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::interpreter;
use crate::ui::{Answer, BAD, FAINT, GOOD, Styled, Ui, count};

/// Does what `failcore policy …` was asked for.
pub(crate) fn run(args: &Policy, ui: &mut Ui) -> Result<Exit, Failure> {
    match args {
        Policy::Show { policy } => {
            let policy = load(policy, &environment())?;
            ui.answer(&Shown {
                name: policy.name(),
                digest: policy.digest(),
                resolved: policy.resolved(),
                rules: policy.rules().collect(),
            })?;
            Ok(Exit::Success)
        }
        Policy::Diff { old, new } => {
            let env = environment();
            let difference = Difference::between(&load(old, &env)?, &load(new, &env)?);
            ui.answer(&difference)?;
            Ok(if difference.is_empty() { Exit::Success } else { Exit::Denied })
        }
        Policy::Schema => {
            let schema = serde_json::to_string_pretty(&failcore_policy::schema()).unwrap_or_default();
            ui.with(|out| writeln!(out, "{schema}"))?;
            Ok(Exit::Success)
        }
    }
}

/// Loads a policy file, or a preset by its name.
pub(crate) fn load(policy: &Path, env: &Environment) -> Result<PolicySet, Failure> {
    match policy.to_str() {
        Some(preset) if preset.starts_with("preset:") => Ok(self::preset(preset, env)?),
        _ if !policy.exists() => Err(Problem::Missing {
            path: policy.into(),
            help: "`failcore init` writes a policy to start from; `preset:python` is one that is built in",
        }
        .into()),
        _ => Ok(PolicySet::load(policy, env)?),
    }
}

/// A preset on its own.
pub(crate) fn preset(name: &str, env: &Environment) -> Result<PolicySet, failcore_policy::PolicyError> {
    let list = toml_string(name);
    PolicySet::parse(name, &format!("version = 1\nextends = [{list}]\n"), &AbsPath::root(), env)
}

/// The policy that a trace was made under.
pub(crate) fn recorded(dir: &Path) -> Result<PolicySet, Failure> {
    let file = dir.join("policy.toml");
    let text = std::fs::read_to_string(&file).map_err(|error| Problem::io("read", &file, error))?;
    Ok(PolicySet::from_resolved(&text)?)
}

/// The environment of the run that left the trace in `dir`: another policy for it means that run's interpreter and
/// directories, not those of whoever asks. Records alone, as other tools may write them, do not say which those were.
pub(crate) fn environment_of(dir: &Path) -> Result<Environment, Failure> {
    if !dir.join("policy.toml").exists() {
        return Ok(environment());
    }
    Ok(recorded(dir)?.environment())
}

/// The environment of a question asked outside a run: this one, with the first Python on PATH.
pub(crate) fn environment() -> Environment {
    let mut env = Environment::current();
    env.python = interpreter::first_on_path().and_then(|python| Python::find(python.as_os_str(), &env.path));
    env
}

fn toml_string(text: &str) -> String {
    format!("{text:?}")
}

#[derive(Serialize)]
struct Shown<'a> {
    name: Option<&'a str>,
    digest: &'a str,
    resolved: &'a str,
    rules: Vec<&'a Rule>,
}

impl Answer for Shown<'_> {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", Styled(FAINT, format_args!("# digest {}", self.digest)))?;
        out.write_all(self.resolved.as_bytes())
    }
}

/// What two policies differ in: rules by what they say, not by name or place.
#[derive(Serialize)]
struct Difference {
    removed: Vec<Rule>,
    added: Vec<Rule>,
    /// Settings whose value changed: the one before and the one after.
    changed: BTreeMap<String, (Option<String>, Option<String>)>,
}

impl Difference {
    fn between(old: &PolicySet, new: &PolicySet) -> Self {
        let meaning = |rule: &Rule| {
            let bare = Rule {
                id: "".into(),
                source: String::new(),
                line: 0,
                column: 0,
                text: String::new(),
                reason: None,
                ..rule.clone()
            };
            format!("{bare:?}")
        };
        let meanings =
            |policy: &PolicySet| policy.rules().map(meaning).collect::<std::collections::HashSet<_>>();
        let beyond = |policy: &PolicySet, other: &PolicySet| -> Vec<Rule> {
            let known = meanings(other);
            let differs = |rule: &&Rule| rule.key != Key::Limits && !known.contains(&meaning(rule));
            policy.rules().filter(differs).cloned().collect()
        };
        let mut changed = BTreeMap::new();
        let mut compare = |name: &str, old: Option<String>, new: Option<String>| {
            if old != new {
                changed.insert(name.to_owned(), (old, new));
            }
        };
        let mode = |policy: &PolicySet| match policy.mode() {
            Mode::Enforce => Some("enforce".to_owned()),
            Mode::Audit => Some("audit".to_owned()),
        };
        compare("mode", mode(old), mode(new));
        let stdin = |policy: &PolicySet| (policy.stdin() == Stdin::Null).then(|| "null".to_owned());
        compare("io.stdin", stdin(old), stdin(new));
        let reads = |policy: &PolicySet| match policy.reads() {
            Reads::Binding => Some("binding".to_owned()),
            Reads::Advisory => Some("advisory".to_owned()),
        };
        compare("trace.reads", reads(old), reads(new));
        let redact = |policy: &PolicySet| list(policy.redacted());
        compare("trace.redact", redact(old), redact(new));
        let upstream = |policy: &PolicySet| list(policy.upstream().iter());
        compare("dns.upstream", upstream(old), upstream(new));
        for (name, kept) in [("record.keep", true), ("record.hash_only", false)] {
            let said = |policy: &PolicySet| match kept {
                true => {
                    policy.payloads().kept().map(|all| list(all.iter()).unwrap_or_else(|| "nothing".into()))
                }
                false => list(policy.payloads().hash_only().iter()),
            };
            compare(name, said(old), said(new));
        }
        let bytes = |most: Option<u64>| most.map(|most| most.to_string());
        compare("record.max_file", bytes(old.payloads().max_file), bytes(new.payloads().max_file));
        compare("record.max_total", bytes(old.payloads().max_total), bytes(new.payloads().max_total));
        // A list that a tool has of its own narrows it even where it is empty, and so has no rule.
        let tools: BTreeSet<String> = old.tools().chain(new.tools()).map(|(name, _)| name).collect();
        for name in tools {
            let narrowed = |policy: &PolicySet| {
                let entries = policy.tools().filter(|(of, _)| *of == name);
                list(entries.map(|(_, keys)| list(keys.iter()).unwrap_or_else(|| "nothing".into())))
            };
            compare(&format!("tool {name} narrows"), narrowed(old), narrowed(new));
        }
        for name in Limits::NAMES {
            let limit = |policy: &PolicySet| policy.limits().named(name).map(|value| value.to_string());
            compare(&format!("limits.{name}"), limit(old), limit(new));
        }
        Self { removed: beyond(old, new), added: beyond(new, old), changed }
    }

    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty() && self.changed.is_empty()
    }
}

impl Answer for Difference {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "no difference");
        }
        for (sign, style, rules) in [("-", BAD, &self.removed), ("+", GOOD, &self.added)] {
            for rule in rules {
                let place = Styled(FAINT, rule.place());
                writeln!(out, "{} {place}", Styled(style, format_args!("{sign} {}", said(rule))))?;
            }
        }
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
        for (name, (old, new)) in &self.changed {
            writeln!(out, "{} {name}: {} → {}", Styled(GOOD, "~"), value(old), value(new))?;
        }
        writeln!(
            out,
            "{} removed, {} added, {} changed",
            count(self.removed.len(), "rule"),
            count(self.added.len(), "rule"),
            count(self.changed.len(), "setting")
        )
    }
}

/// Words with commas between them; nothing where there are none.
fn list(words: impl Iterator<Item = impl ToString>) -> Option<String> {
    let words: Vec<String> = words.map(|word| word.to_string()).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// A rule in words: effect, list and entry.
pub(crate) fn said(rule: &Rule) -> String {
    let effect = match rule.effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
        Effect::Caution => "caution",
    };
    let tool = rule.tool.map(|n| format!(" in tool {n}")).unwrap_or_default();
    format!("{effect} {} {}{tool}", rule.key, rule.text)
}
