//! `failcore replay`: decides a whole trace again under another policy. Nothing is done again, only decided.

use std::io::{self, Write};
use std::path::Path;

use failcore_gate::replay::{Change, Differences, what_if};
use failcore_model::{Record, Verdict};
use failcore_policy::Rule;
use failcore_trace::{Alteration, Index, Integrity, Report, TraceError};
use serde::Serialize;

use crate::args::Replay;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::policy::{self, said};
use crate::trace;
use crate::ui::{Answer, BAD, FAINT, GOOD, STRONG, Styled, Ui, WARN, clause, count, place};

/// From how many records on a trace gets an index, which a second replay reads several times faster.
const WORTH_AN_INDEX: u64 = 50_000;

/// Decides every record again; exit code 3 where a decision changed or could not be made.
pub(crate) fn run(args: &Replay, ui: &mut Ui) -> Result<Exit, Failure> {
    let dir = trace::locate(&args.trace)?;
    // The other policy means the recorded run's interpreter and directories, not those of whoever asks; records
    // alone, as other tools may write them, do not say which those were.
    let recorded = dir.join("policy.toml").exists().then(|| policy::recorded(&dir)).transpose()?;
    let env = recorded.map_or_else(policy::environment, |recorded| recorded.environment());
    let policy = policy::load(&args.policy, &env)?;
    let Recorded { records, all } = recorded_decisions(&dir, believed(&dir, ui)?.as_ref())?;
    let bar = ui.progress("deciding again", None);
    let records = records.inspect(|_| bar.inc(1));
    let found = what_if(records, &policy, |request| failcore_trace::redacted_field(request).is_some());
    bar.finish_and_clear();
    let mut differences = found.map_err(Problem::trace)?;
    differences.records = all.unwrap_or(differences.records);
    let exit = if differences.is_empty() { Exit::Success } else { Exit::Denied };
    let rules =
        differences.changes.iter().map(|change| change.rule.as_ref().and_then(|id| policy.rule(id)).cloned());
    let rules = rules.collect();
    ui.answer(&Replayed { differences, rules })?;
    Ok(exit)
}

/// Refuses a trace whose records are not what was signed: what would have become of them says nothing. The report is of
/// those that are, from the first to the last.
fn believed(dir: &Path, ui: &Ui) -> Result<Option<Report>, Failure> {
    if !dir.join("key.pub").exists() {
        ui.note("these records carry no signature: nothing says that they are what was written");
        return Ok(None);
    }
    let bar = trace::looking(ui, "verifying");
    let report = failcore_trace::verify(dir, None);
    bar.finish_and_clear();
    let report = report.map_err(Problem::trace)?;
    match &report.integrity {
        Integrity::Altered(Alteration { seq, flaw, .. }) => {
            let error = TraceError::Unverified(format!("{flaw} (record {seq})"));
            Err(Problem::trace(error).into())
        }
        // One whose end is missing is decided again as far as it goes.
        Integrity::NotClosed { .. } => Ok(None),
        Integrity::Valid => Ok(Some(report)),
    }
}

/// The records to be decided again.
struct Recorded {
    records: Box<dyn Iterator<Item = Result<Record, TraceError>>>,
    /// How many the trace has, where these are only some.
    all: Option<u64>,
}

/// What was decided, of a whole trace from its index where there is one or it is worth making.
fn recorded_decisions(dir: &Path, whole: Option<&Report>) -> Result<Recorded, Failure> {
    if let Some(report) = whole {
        let mut index = Index::open(dir, report).map_err(Problem::trace)?;
        if index.is_none() && report.records >= WORTH_AN_INDEX {
            // A directory that cannot be written to only costs the time.
            index = Index::build(dir, report).ok();
        }
        if let Some(index) = index {
            return Ok(Recorded { records: Box::new(index), all: Some(report.records) });
        }
    }
    Ok(Recorded { records: Box::new(trace::read(dir)?), all: None })
}

#[derive(Serialize)]
struct Replayed {
    #[serde(flatten)]
    differences: Differences,
    /// The rule of each change, in the same order.
    rules: Vec<Option<Rule>>,
}

impl Answer for Replayed {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let Differences { records, decided, undecidable, changes } = &self.differences;
        for (change, rule) in changes.iter().zip(&self.rules) {
            tell(change, rule.as_ref(), out)?;
        }
        let changed: u64 = changes.iter().map(|change| change.count).sum();
        let verdict = match changed {
            0 => Styled(GOOD, "nothing changes".to_owned()),
            n => Styled(BAD, count(n, "decision") + " would change"),
        };
        writeln!(
            out,
            "{verdict}: {} decided again, of {}",
            count(*decided, "operation"),
            count(*records, "record")
        )?;
        if *undecidable > 0 {
            let text = format!(
                "{} cannot be decided again: a secret was taken out",
                count(*undecidable, "operation")
            );
            writeln!(out, "{}", Styled(WARN, text))?;
        }
        Ok(())
    }
}

fn tell(change: &Change, rule: Option<&Rule>, out: &mut dyn Write) -> io::Result<()> {
    let (style, word) = match change.now {
        Verdict::Allow => (GOOD, "now allowed"),
        Verdict::Deny => (BAD, "now denied"),
    };
    let why = match rule {
        Some(rule) => format!("{}  {}", said(rule), Styled(FAINT, rule.place())),
        None => clause(change.reason.meaning()),
    };
    let times = Styled(STRONG, format_args!("×{}", change.count));
    writeln!(out, "{} {times}  {why}", Styled(style, word))?;
    for example in &change.examples {
        write!(out, "  {} {}", Styled(FAINT, format_args!("{:>6}", example.seq)), example.operation)?;
        match &example.site {
            Some(site) => writeln!(out, " {}", Styled(FAINT, format_args!("at {}", place(site))))?,
            None => writeln!(out)?,
        }
    }
    let more = change.count.saturating_sub(change.examples.len() as u64);
    if more > 0 {
        writeln!(out, "         and {more} more")?;
    }
    writeln!(out)
}
