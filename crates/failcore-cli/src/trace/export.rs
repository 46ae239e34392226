//! A trace in another form. Never from inside the agent's process.

use std::borrow::Cow;
use std::path::Path;

use failcore_model::{Event, Record};

use crate::args::Format;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::ui::Ui;

const HEADER: &str = "seq,time,session,pid,tid,agent,tool,verdict,reason,rule,verb,resource,site\n";

/// Writes every record, or every operation, to the standard output.
pub(super) fn run(dir: &Path, format: Format, ui: &mut Ui) -> Result<Exit, Failure> {
    if matches!(format, Format::Csv) {
        ui.with(|out| out.write_all(HEADER.as_bytes()))?;
    }
    for record in super::read(dir)? {
        let record = record.map_err(Problem::trace)?;
        match format {
            Format::Jsonl => ui.json(&record)?,
            Format::Csv => {
                if let Some(row) = row(&record) {
                    ui.with(|out| writeln!(out, "{row}"))?;
                }
            }
        }
        if ui.is_gone() {
            break;
        }
    }
    Ok(Exit::Success)
}

fn row(record: &Record) -> Option<String> {
    let Event::Decided { request, decision, .. } = &record.event else { return None };
    let subject = &request.subject;
    let text = |text: Option<&failcore_model::Text>| text.map(ToString::to_string).unwrap_or_default();
    let fields = [
        record.seq.to_string(),
        record.ts.to_string(),
        record.session.to_string(),
        subject.pid.to_string(),
        subject.tid.to_string(),
        text(subject.agent.as_ref()),
        text(subject.claimed.tool()),
        if decision.is_allow() { "allow" } else { "deny" }.to_owned(),
        decision.reason.to_string(),
        decision.rules.first().map(ToString::to_string).unwrap_or_default(),
        request.action.verb().to_string(),
        request.operation().split_once(' ').map(|(_, resource)| resource.to_owned()).unwrap_or_default(),
        text(subject.claimed.site.as_ref()),
    ];
    Some(fields.iter().map(|field| quoted(field)).collect::<Vec<_>>().join(","))
}

/// One field of RFC 4180. A field that a spreadsheet would run as a formula gets a leading apostrophe
/// (OWASP, CSV injection): resources are the agent's own words.
fn quoted(field: &str) -> Cow<'_, str> {
    let field: Cow<'_, str> = match field.as_bytes().first() {
        Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r') => format!("'{field}").into(),
        _ => field.into(),
    };
    if field.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", field.replace('"', "\"\"")).into();
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_commas_quotes_and_spreadsheets() {
        assert_eq!(quoted("/a,b"), "\"/a,b\"");
        assert_eq!(quoted("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(quoted("=HYPERLINK(1)"), "'=HYPERLINK(1)");
        assert_eq!(quoted("/plain"), "/plain");
    }
}
