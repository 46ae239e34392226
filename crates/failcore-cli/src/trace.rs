//! `failcore trace`: show, follow, verify, prove and export what was recorded.

mod decisions;
mod export;
mod filter;
mod rows;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use failcore_model::{Event, Record};
use failcore_trace::{Alteration, Integrity, Reader, Report, VerifyingKey};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::args::{ShownRows, Trace};
use crate::exit::Exit;
use crate::explain::Explanation;
use crate::failure::{Failure, Problem};
use crate::policy;
use crate::ui::{Answer, BAD, FAINT, GOOD, STRONG, Styled, Table, Ui, WARN, count};

pub(crate) use decisions::{Believed, Decisions, believed, decisions, is_undecidable};
pub(crate) use filter::{Chosen, files};
use rows::Rows;
pub(crate) use rows::{command, line};

/// How long `tail` waits before it looks again.
const TAIL_PAUSE: Duration = Duration::from_millis(100);

/// Does what `failcore trace …` was asked for.
pub(crate) fn run(args: &Trace, ui: &mut Ui) -> Result<Exit, Failure> {
    match args {
        Trace::List => list(ui),
        Trace::Show(args) => show(&locate(&args.trace)?, &args.rows, false, ui),
        Trace::Tail(args) => tail(&locate(&args.trace)?, &args.rows, ui),
        Trace::Verify { trace, key } => verify(trace, key.as_deref(), ui),
        Trace::Prove { trace, seq } => {
            let dir = locate(trace)?;
            let bar = looking(ui, "looking for the record");
            let proof = failcore_trace::prove(&dir, *seq);
            bar.finish_and_clear();
            ui.json(&proof.map_err(Problem::trace)?)?;
            Ok(Exit::Success)
        }
        Trace::Explain { trace, seq } => explain(trace, *seq, ui),
        Trace::Export { trace, format } => export::run(&locate(trace)?, *format, ui),
    }
}

/// The directory of a trace named by path, session id or a unique beginning of one.
pub(crate) fn locate(name: &Path) -> Result<PathBuf, Failure> {
    let found = match name.to_str() {
        Some(name) => failcore_trace::locate(name),
        // No session id is spelt like that: it can only be a path.
        None => Reader::open(name).map(|_| name.to_owned()),
    };
    found.map_err(|error| Problem::trace(error).into())
}

/// The records of the trace in `dir`.
pub(crate) fn read(dir: &Path) -> Result<Reader, Failure> {
    Reader::open(dir).map_err(|error| Problem::trace(error).into())
}

/// Shows the records of the trace in `dir`, and those that come, until it is closed.
pub(crate) fn tail(dir: &Path, rows: &ShownRows, ui: &mut Ui) -> Result<Exit, Failure> {
    show(dir, rows, true, ui)
}

fn show(dir: &Path, rows: &ShownRows, follow: bool, ui: &mut Ui) -> Result<Exit, Failure> {
    let mut reader = read(dir)?;
    if follow {
        reader = reader.follow();
    }
    let chosen = Chosen::new(rows.filter.clone())?;
    let mut rows = Rows::new(rows.all);
    loop {
        for record in reader.by_ref() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    // What could be read is shown; then comes why it stops.
                    ui.with(|out| rows.end(out))?;
                    return Err(Problem::trace(error).into());
                }
            };
            if !chosen.has(&record) {
                continue;
            }
            if ui.is_json() {
                ui.json(&record)?
            } else {
                ui.with(|out| rows.record(&record, out))?
            }
            if ui.is_gone() {
                return Ok(Exit::Success);
            }
        }
        if !follow || reader.is_closed() {
            break;
        }
        if !ui.is_json() {
            ui.with(|out| rows.settle(out))?;
        }
        ui.flush()?;
        std::thread::sleep(TAIL_PAUSE);
    }
    if !ui.is_json() {
        ui.with(|out| rows.end(out))?;
    }
    if !reader.is_closed() {
        ui.note("the session is not closed: it is still under way, or its end is missing; `failcore trace verify` tells");
    }
    Ok(Exit::Success)
}

/// Shows that something is being done that takes its time with a large trace.
pub(crate) fn looking(ui: &Ui, what: &'static str) -> ProgressBar {
    let bar = ui.progress(what, None);
    bar.enable_steady_tick(TAIL_PAUSE);
    bar
}

fn verify(name: &Path, key: Option<&Path>, ui: &mut Ui) -> Result<Exit, Failure> {
    let dir = locate(name)?;
    let key = key.map(VerifyingKey::load).transpose().map_err(Problem::trace)?;
    let bar = looking(ui, "verifying");
    let report = failcore_trace::verify(&dir, key.as_ref());
    bar.finish_and_clear();
    let report = report.map_err(Problem::trace)?;
    let exit = if report.is_valid() { Exit::Success } else { Exit::Unverified };
    ui.answer(&Verified { dir, own_key: key.is_none(), report })?;
    Ok(exit)
}

#[derive(Serialize)]
struct Verified {
    dir: PathBuf,
    /// Whether the key was taken from the trace itself.
    own_key: bool,
    #[serde(flatten)]
    report: Report,
}

impl Answer for Verified {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let Report { records, signed, checkpoints, segments, bytes, root, key, integrity, .. } = &self.report;
        match integrity {
            Integrity::Valid => writeln!(
                out,
                "{}: every record is what was signed, and the session was closed",
                Styled(GOOD, "valid")
            )?,
            Integrity::NotClosed { unsigned, torn } => {
                writeln!(
                    out,
                    "{}: nothing signed was altered, but the session was never closed",
                    Styled(WARN, "not closed")
                )?;
                if *unsigned > 0 {
                    writeln!(out, "  the last {} carry no signature", count(*unsigned, "record"))?;
                }
                if let Some(bytes) = torn {
                    writeln!(out, "  the last line is torn: {} without an end", count(*bytes, "byte"))?;
                }
            }
            Integrity::Altered(Alteration { seq, through, file, line, flaw }) => {
                writeln!(out, "{}: {flaw}", Styled(BAD, "altered"))?;
                match through {
                    Some(last) => writeln!(out, "  somewhere in records {seq} to {last}")?,
                    None => writeln!(out, "  record {seq}")?,
                }
                match line {
                    Some(line) => writeln!(out, "  {}, line {line}", file.display())?,
                    None => writeln!(out, "  {}", file.display())?,
                }
            }
        }
        let mut table = Table::default();
        let plain = anstyle::Style::new();
        let mut row = |what: &str, value: String| table.row([(FAINT, what.into()), (plain, value)]);
        row("records", format!("{records}, {signed} signed by {}", count(*checkpoints, "checkpoint")));
        row("size", format!("{} in {}", count(*bytes, "byte"), count(*segments, "segment")));
        row("root", root.clone());
        row("key", if self.own_key { format!("{key} (from the trace itself)") } else { key.clone() });
        table.write(out, "  ")
    }
}

fn explain(name: &Path, seq: u64, ui: &mut Ui) -> Result<Exit, Failure> {
    let dir = locate(name)?;
    let bar = looking(ui, "looking for the record");
    let record = nth(&dir, seq);
    bar.finish_and_clear();
    let record = record?;
    let Event::Decided { request, decision, enforced, .. } = record.event else {
        return Err(Problem::Nonsense {
            what: format!("record {seq} is no decision, it is `{}`", record.event.kind()),
            help: "`failcore trace show` lists the decisions with their numbers".into(),
        }
        .into());
    };
    let policy = policy::recorded(&dir)?;
    ui.answer(&Explanation::recorded(&policy, &request, &decision, enforced))?;
    Ok(Exit::Success)
}

fn nth(dir: &Path, seq: u64) -> Result<Record, Failure> {
    let mut last = None;
    for record in read(dir)? {
        let record = record.map_err(Problem::trace)?;
        if record.seq == seq {
            return Ok(record);
        }
        last = Some(record.seq);
    }
    let has = last.map_or("it has none".into(), |last| format!("the last one is {last}"));
    Err(Problem::Nonsense {
        what: format!("the trace has no record {seq}"),
        help: format!("{has}; `failcore trace show` lists them"),
    }
    .into())
}

fn list(ui: &mut Ui) -> Result<Exit, Failure> {
    let dir = failcore_trace::runs_dir().map_err(Problem::trace)?;
    let mut runs: Vec<Run> = match dir.read_dir() {
        Ok(entries) => entries.flatten().filter_map(|entry| Run::of(entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Problem::io("list", &dir, error).into()),
    };
    // Session ids sort by time.
    runs.sort_by(|a, b| b.session.cmp(&a.session));
    if ui.is_json() {
        return runs.iter().try_for_each(|run| ui.json(run)).map(|()| Exit::Success);
    }
    if runs.is_empty() {
        ui.note(format_args!("no run has left a trace in {} yet", dir.display()));
    }
    ui.with(|out| {
        let mut table = Table::default();
        let plain = anstyle::Style::new();
        for run in &runs {
            let agent = run.agent.clone().unwrap_or_default();
            table.row([
                (STRONG, run.session.clone()),
                (FAINT, run.started.get(..19).unwrap_or_default().replace('T', " ")),
                (plain, agent),
                (plain, run.command.clone()),
            ]);
        }
        table.write(out, "")
    })?;
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct Run {
    session: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    command: String,
    dir: PathBuf,
}

impl Run {
    /// What the first records say; nothing where there is no trace.
    fn of(dir: PathBuf) -> Option<Self> {
        /// The agent's name stands in every decision; one of the first records is one.
        const LOOK: usize = 8;
        let mut records = Reader::open(&dir).ok()?.take(LOOK).map_while(Result::ok);
        let first = records.next()?;
        let Event::SessionOpened { command, .. } = &first.event else { return None };
        let agent = records.find_map(|record| match record.event {
            Event::Decided { request, .. } => request.subject.agent.as_ref().map(|agent| agent.to_string()),
            _ => None,
        });
        Some(Self {
            session: first.session.to_string(),
            started: first.ts.to_string(),
            agent,
            command: rows::command(command),
            dir,
        })
    }
}
