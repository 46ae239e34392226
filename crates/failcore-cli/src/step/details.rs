//! All that is known of one record, for a screen.

use failcore_model::heard::Payload;
use failcore_model::input::{Input, Told};
use failcore_model::{Event, Record, Text};
use failcore_policy::PolicySet;
use failcore_record::Objects;
use ratatui::text::Line;
use serde::Serialize;
use serde_json::Value;

use super::payload::{note, shown};
use super::relations::{FAR, Relations};
use super::scopes::{Scope, Scopes};
use super::styled::{printed, styled};
use crate::explain::Explanation;
use crate::trace;
use crate::ui::{Answer, FAINT, STRONG, Table, WARN, count};

/// The longest list of values that is shown.
const MOST: usize = 500;
/// The largest contents that are unpacked to be shown, in bytes.
const LARGEST: u64 = 16 << 20;

/// What a record is shown with.
pub(super) struct Beside<'a> {
    /// The policy that it was decided under; none where it is not there.
    pub(super) policy: Option<&'a PolicySet>,
    /// The contents that were recorded; why they cannot be read.
    pub(super) objects: Option<&'a Result<Objects, String>>,
    pub(super) scopes: &'a Scopes,
    pub(super) relations: &'a Relations,
}

/// Everything about a record, the most important first.
pub(super) fn details(record: &Record, beside: &Beside<'_>) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    match &record.event {
        Event::Decided { request, decision, enforced, ns, .. } => {
            match beside.policy {
                Some(policy) => {
                    let explained = Explanation::recorded(policy, request, decision, *enforced);
                    lines.extend(printed(|out| explained.tell(out)));
                }
                None => {
                    let missing = "the policy does not lie beside the trace: its rules cannot be shown";
                    section("decision", facts(decision), &mut lines);
                    lines.push(styled(WARN, missing).into());
                }
            }
            if decision.is_allow() {
                section("what came of it", related(beside.relations, "no answer and no outcome"), &mut lines);
            }
            section("what was asked for", facts(&request.action), &mut lines);
            section("who asked", facts(&request.subject), &mut lines);
            section("tools at work", tools(record, beside.scopes), &mut lines);
            section("what else counted", facts(&request.context), &mut lines);
            section("decided in", vec![format!("  {ns} ns").into()], &mut lines);
        }
        Event::Approval { .. } | Event::Concluded { .. } => {
            section("the operation", related(beside.relations, "no operation of that number"), &mut lines);
            section("the record", facts(&record.event), &mut lines);
            section("tools at work", tools(record, beside.scopes), &mut lines);
        }
        event => {
            section("the record", facts(event), &mut lines);
            section("tools at work", tools(record, beside.scopes), &mut lines);
        }
    }
    if let Some((name, contents)) = payload(record, beside) {
        section(&name, contents, &mut lines);
    }
    lines
}

/// A part with its heading, after an empty line where something stands before it.
fn section(heading: &str, part: Vec<Line<'static>>, lines: &mut Vec<Line<'static>>) {
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    lines.push(styled(STRONG, heading).into());
    lines.extend(part);
}

/// The fields of anything in a trace, under the names that docs/trace.md gives them.
fn facts(value: &impl Serialize) -> Vec<Line<'static>> {
    let value = serde_json::to_value(value).unwrap_or_default();
    let mut fields = Vec::new();
    flatten("", &value, &mut fields);
    let more = fields.len().saturating_sub(MOST);
    fields.truncate(MOST);
    let mut table = Table::default();
    for (name, value) in fields {
        table.row([(FAINT, name), (anstyle::Style::new(), value)]);
    }
    let mut lines = printed(|out| table.write(out, "  "));
    if more > 0 {
        lines.push(note(&format!("  … and {} more", count(more as u64, "value"))));
    }
    lines
}

fn flatten(name: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    if let Some(value) = simple(value) {
        return fields.push((name.into(), value));
    }
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, fields);
            }
        }
        Value::Array(values) => {
            let simple: Option<Vec<String>> = values.iter().map(simple).collect();
            match simple {
                Some(values) if values.is_empty() => fields.push((name.into(), "none".into())),
                Some(values) if values.iter().map(String::len).sum::<usize>() < 200 => {
                    fields.push((name.into(), values.join("  ")));
                }
                Some(values) => {
                    for (nth, value) in values.into_iter().enumerate() {
                        fields.push((if nth == 0 { name.into() } else { String::new() }, value));
                    }
                }
                None => {
                    for (nth, value) in values.iter().enumerate() {
                        let mut of = Vec::new();
                        flatten("", value, &mut of);
                        let all: Vec<String> =
                            of.iter().map(|(name, value)| format!("{name} {value}")).collect();
                        fields.push((if nth == 0 { name.into() } else { String::new() }, all.join("  ")));
                    }
                }
            }
        }
        _ => {}
    }
}

/// A value that is no list and has no fields. Bytes that are no text are written as such.
fn simple(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => "none".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => Text::from(text).to_string(),
        Value::Object(object) if object.len() == 1 && object.contains_key("hex") => {
            serde_json::from_value::<Text>(value.clone()).ok()?.to_string()
        }
        _ => return None,
    })
}

/// What belongs to a record, one line each.
fn related(relations: &Relations, nothing: &str) -> Vec<Line<'static>> {
    let rows = relations.records().iter().map(trace::line);
    let mut lines: Vec<Line<'static>> = rows.flat_map(|row| printed(|out| writeln!(out, "{row}"))).collect();
    if !relations.is_done() {
        lines.push(note("  looking …"));
    } else if lines.is_empty() {
        let within = if relations.is_cut() { format!(" within {FAR} records") } else { String::new() };
        lines.push(note(&format!("  {nothing} is recorded{within}")));
    }
    lines
}

/// What was recorded of what the program learnt, with its heading.
fn payload(record: &Record, beside: &Beside<'_>) -> Option<(String, Vec<Line<'static>>)> {
    match &record.event {
        Event::Told { told: Told::Random { bytes }, .. } => {
            Some(("the bytes".into(), shown(bytes.as_bytes())))
        }
        Event::Input { .. } | Event::Heard { .. } => contents(record, beside.objects?),
        _ => contents(beside.relations.payload()?, beside.objects?),
    }
}

fn contents(record: &Record, objects: &Result<Objects, String>) -> Option<(String, Vec<Line<'static>>)> {
    let (what, sha256, size, kept) = match &record.event {
        Event::Input { path, input: Input::Contents { sha256, size, kept } } => {
            (format!("what {path} held"), sha256, size, kept)
        }
        Event::Heard { asked, payload: Some(Payload { sha256, size, kept }), .. } => {
            (format!("what was answered to {asked}"), sha256, size, kept)
        }
        _ => return None,
    };
    let heading = format!("{what} (record {})", record.seq);
    let lines = match objects {
        _ if !kept => vec![note(&format!("  {}, of which only the hash was kept", count(*size, "byte")))],
        Err(why) => vec![styled(WARN, &format!("  {why}")).into()],
        Ok(_) if *size > LARGEST => {
            vec![note(&format!("  {}, too many to be shown", count(*size, "byte")))]
        }
        Ok(objects) => match objects.get(sha256, *size) {
            Ok(bytes) => shown(&bytes),
            Err(error) => vec![styled(WARN, &format!("  {error}")).into()],
        },
    };
    Some((heading, lines))
}

/// The tool scopes that are open once a record is written, and the one that the record itself names.
fn tools(record: &Record, scopes: &Scopes) -> Vec<Line<'static>> {
    let (pid, tid, own) = match &record.event {
        Event::Decided { request, .. } => {
            (request.subject.pid, request.subject.tid, request.subject.claimed.scope.as_slice())
        }
        Event::ScopeEntered { pid, tid, .. } | Event::ScopeLeft { pid, tid, .. } => (*pid, *tid, &[][..]),
        _ => (0, 0, &[][..]),
    };
    let joined = |path: &[Text]| path.iter().map(ToString::to_string).collect::<Vec<_>>().join("/");
    let mut table = Table::default();
    for Scope { since, pid: by, tid: of, path, step } in scopes.open() {
        let style = if (*by, *of) == (pid, tid) { STRONG } else { anstyle::Style::new() };
        let step = step.as_ref().map(|step| format!("step {step}")).unwrap_or_default();
        table.row([
            (FAINT, format!("since {since}")),
            (style, joined(path)),
            (style, step),
            (FAINT, format!("process {by}, thread {of}")),
        ]);
    }
    // What a program says of its tools can reach the trace a moment after what it does in them.
    let known = scopes.open().iter().any(|open| (open.pid, open.tid, &*open.path) == (pid, tid, own));
    if !own.is_empty() && !known {
        let by = format!("process {pid}, thread {tid}");
        table.row([(FAINT, "now".into()), (STRONG, joined(own)), (STRONG, String::new()), (FAINT, by)]);
    }
    let mut lines = printed(|out| table.write(out, "  "));
    if scopes.more() > 0 {
        lines.push(note(&format!("  and {} more", scopes.more())));
    }
    if lines.is_empty() {
        lines.push(note("  none"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(|line| line.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn every_field_is_shown_under_its_name() {
        let value = serde_json::json!({
            "verb": "process.exec", "argv": ["git", {"hex": "ff1b"}], "claimed": {"scope": ["a"], "step": null},
            "ids": [{"dev": 1, "ino": 2}, {"dev": 1, "ino": 3}], "odd": "a\u{1b}[2J", "exists": true, "none": [],
        });
        assert_eq!(
            plain(&facts(&value)),
            [
                "  argv           git  \\xff\\u{1b}",
                "  claimed.scope  a",
                "  claimed.step   none",
                "  exists         yes",
                "  ids            dev 1  ino 2",
                "                 dev 1  ino 3",
                "  none           none",
                "  odd            a\\u{1b}[2J",
                "  verb           process.exec",
            ]
        );
    }

    #[test]
    fn long_lists_end_with_how_much_more_there_is() {
        let lines = plain(&facts(&serde_json::json!({ "names": vec!["x".repeat(10); 1000] })));
        assert_eq!(lines.len(), MOST + 1);
        assert_eq!(lines[MOST], "  … and 500 values more");
    }
}
