//! `failcore ps`, `pause`, `resume`, `stop`, `tail`, `approve` and `deny`: what the owner of a run wants of it while it
//! is under way.

mod live;
mod message;

use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use failcore_model::{Answer as Verdict, Text};
use serde::Serialize;

pub(crate) use live::{Seat, paths};
pub(crate) use message::{Order, Question, Reply, State, Status};

use crate::args::{Asked, Named, Stop, Tail};
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::trace;
use crate::ui::{Answer, BAD, FAINT, GOOD, STRONG, Styled, Table, Ui, WARN, count};

use live::Live;

/// How long a run may take to do as it is told, beyond the time it is given for it.
const PATIENCE: Duration = Duration::from_secs(30);
const PLAIN: Style = Style::new();

/// Lists the runs under way.
pub(crate) fn ps(ui: &mut Ui) -> Result<Exit, Failure> {
    let runs = Live::all();
    if ui.is_json() {
        return runs.iter().try_for_each(|run| ui.json(&Row::of(run))).map(|()| Exit::Success);
    }
    if runs.is_empty() {
        ui.note("no run is under way");
        return Ok(Exit::Success);
    }
    let mut table = Table::default();
    table.row(COLUMNS.map(|head| (FAINT, head.to_owned())));
    for run in &runs {
        table.row(cells(run));
    }
    ui.with(|out| table.write(out, ""))?;
    Ok(Exit::Success)
}

/// What a program that reads the list gets of a run.
#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Said(&'a Status),
    /// It does not answer: its `failcore run` is stopped, or busy beyond measure.
    Silent {
        session: &'a str,
        state: &'static str,
    },
}

impl<'a> Row<'a> {
    fn of(live: &'a Live) -> Self {
        match &live.status {
            Some(status) => Self::Said(status),
            None => Self::Silent { session: &live.session, state: "silent" },
        }
    }
}

const COLUMNS: [&str; 11] = [
    "session",
    "state",
    "since",
    "processes",
    "allowed",
    "refused",
    "waiting",
    "lane",
    "policy",
    "agent",
    "run",
];

fn cells(live: &Live) -> [(Style, String); COLUMNS.len()] {
    let mut cells = COLUMNS.map(|_| (PLAIN, String::new()));
    cells[0] = (STRONG, live.session.clone());
    let Some(status) = &live.status else {
        cells[1] = (BAD, "silent".into());
        return cells;
    };
    let state = match status.state {
        State::Running => (GOOD, "running".into()),
        State::Paused => (WARN, "paused".into()),
        State::Stopping => (BAD, "stopping".into()),
    };
    let shade = |number: usize, style: Style| (if number > 0 { style } else { FAINT }, number.to_string());
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let text = |text: &Option<Text>| (PLAIN, text.as_ref().map(ToString::to_string).unwrap_or_default());
    let rest = [
        state,
        (FAINT, moment(&status.since.to_string())),
        (PLAIN, status.processes.to_string()),
        shade(number(status.allowed), GOOD),
        shade(number(status.refused), BAD),
        shade(status.waiting.len(), WARN),
        (PLAIN, status.lane.as_str().to_owned()),
        (PLAIN, Text::from(status.policy.clone().unwrap_or_default()).to_string()),
        text(&status.agent),
        text(&status.label),
    ];
    for (cell, value) in cells[1..].iter_mut().zip(rest) {
        *cell = value;
    }
    cells
}

/// Date and time of day without fractions.
fn moment(time: &str) -> String {
    time.get(..19).unwrap_or(time).replace('T', " ")
}

/// What came of an order.
#[derive(Serialize)]
struct Done<'a> {
    session: &'a str,
    #[serde(flatten)]
    reply: Said,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Said {
    State { state: &'static str, changed: bool },
    Stopped { state: &'static str, processes: u64 },
    Answered { question: u64, answer: Verdict, operation: String },
}

impl Answer for Done<'_> {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.reply {
            Said::State { state, changed } => {
                let already = if *changed { "" } else { " already" };
                writeln!(out, "{} is {state}{already}", self.session)
            }
            Said::Stopped { processes, .. } => {
                writeln!(out, "{} is stopped: {} ended", self.session, count(*processes, "process"))
            }
            Said::Answered { answer: Verdict::Approved, operation, .. } => {
                writeln!(out, "{} {operation}", Styled(GOOD, "allowed"))
            }
            Said::Answered { answer: Verdict::Denied, operation, .. } => {
                writeln!(out, "{} {operation}", Styled(BAD, "refused"))
            }
        }
    }
}

/// Holds a run still.
pub(crate) fn pause(args: &Named, ui: &mut Ui) -> Result<Exit, Failure> {
    change(args, Order::Pause {}, "paused", ui)
}

/// Lets it go on.
pub(crate) fn resume(args: &Named, ui: &mut Ui) -> Result<Exit, Failure> {
    change(args, Order::Resume {}, "running", ui)
}

fn change(args: &Named, order: Order, state: &'static str, ui: &mut Ui) -> Result<Exit, Failure> {
    let live = Live::find(&args.run)?;
    let Reply::Done { changed } = live.order(order, Some(PATIENCE))? else { return Err(babble(&live)) };
    ui.answer(&Done { session: &live.session, reply: Said::State { state, changed } })?;
    Ok(Exit::Success)
}

/// Ends a run.
pub(crate) fn stop(args: &Stop, ui: &mut Ui) -> Result<Exit, Failure> {
    let live = Live::find(&args.named.run)?;
    if live.status.is_none() {
        live.wake();
    }
    let grace = u64::try_from(args.grace.as_millis()).unwrap_or(u64::MAX);
    let reply = live.order(Order::Stop { grace }, Some(args.grace.saturating_add(PATIENCE)))?;
    let Reply::Stopped { processes } = reply else { return Err(babble(&live)) };
    let reply = Said::Stopped { state: "stopped", processes };
    ui.answer(&Done { session: &live.session, reply })?;
    Ok(Exit::Success)
}

/// Shows the records of a run as they are written.
pub(crate) fn tail(args: &Tail, ui: &mut Ui) -> Result<Exit, Failure> {
    let dir = match Live::find(&args.run).map(|live| live.status) {
        Ok(Some(status)) => status.trace,
        // It may have ended just now.
        Ok(None) => trace::locate(args.run.as_ref())?,
        Err(problem) => trace::locate(args.run.as_ref()).map_err(|_| problem)?,
    };
    trace::tail(&dir, &args.rows, ui)
}

/// Answers a question of a run, or lists those that wait.
pub(crate) fn answer(args: &Asked, answer: Verdict, ui: &mut Ui) -> Result<Exit, Failure> {
    let live = Live::find(&args.named.run)?;
    let Some(question) = args.id else { return questions(&live, ui) };
    let reply = live.order(Order::Answer { question, answer }, Some(PATIENCE))?;
    let Reply::Answered { operation } = reply else { return Err(babble(&live)) };
    let reply = Said::Answered { question, answer, operation };
    ui.answer(&Done { session: &live.session, reply })?;
    Ok(Exit::Success)
}

fn questions(live: &Live, ui: &mut Ui) -> Result<Exit, Failure> {
    let Some(status) = &live.status else {
        // Asked again, for the reason.
        live.order(Order::Status {}, Some(PATIENCE))?;
        return Err(babble(live));
    };
    if ui.is_json() {
        return status.waiting.iter().try_for_each(|question| ui.json(question)).map(|()| Exit::Success);
    }
    if status.waiting.is_empty() {
        ui.note("nothing waits for an answer");
    }
    let mut table = Table::default();
    for Question { id, operation, pid, tool, left, .. } in &status.waiting {
        let tool = tool.as_ref().map(|tool| format!(", tool {tool}")).unwrap_or_default();
        let left = if live.is_paused() { "paused".into() } else { format!("{left} s left") };
        table.row([
            (STRONG, id.to_string()),
            (PLAIN, operation.clone()),
            (FAINT, format!("process {pid}{tool}, {left}")),
        ]);
    }
    ui.with(|out| table.write(out, ""))?;
    Ok(Exit::Success)
}

/// It answered something else than was asked: another version of FailCore.
fn babble(live: &Live) -> Failure {
    Problem::Nonsense {
        what: format!("the run {} answers something else than was asked", live.session),
        help: "it was started by another version of FailCore; use that one".into(),
    }
    .into()
}
