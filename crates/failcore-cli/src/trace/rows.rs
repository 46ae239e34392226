//! Records as lines for people: one line each, repeats folded, and a summary.

use std::collections::BTreeMap;
use std::io::{self, Write};

use failcore_model::heard::{End, Said};
use failcore_model::input::{Input, Told};
use failcore_model::{
    Answer, Coverage, Decision, Event, Hold, Obligation, Outcome, Reason, Record, Request, Text,
};

use crate::ui::{BAD, FAINT, GOOD, STRONG, Styled, WARN, count, place};

/// How many refusals the summary names.
const NAMED: usize = 10;

/// Writes records as lines.
pub(super) struct Rows {
    all: bool,
    held: Option<Held>,
    allowed: u64,
    refused: u64,
    absent: u64,
    refusals: BTreeMap<(String, Reason), u64>,
}

/// A line that waits for its repeats.
struct Held {
    line: String,
    what: (bool, String),
    times: u64,
}

impl Rows {
    /// With `all` nothing is folded.
    pub(super) fn new(all: bool) -> Self {
        Self { all, held: None, allowed: 0, refused: 0, absent: 0, refusals: BTreeMap::new() }
    }

    /// Takes the next record.
    pub(super) fn record(&mut self, record: &Record, out: &mut dyn Write) -> io::Result<()> {
        if let Event::Decided { request, decision, .. } = &record.event {
            return self.decision(record, request, decision, out);
        }
        let Some(text) = words(&record.event, self.all) else { return Ok(()) };
        self.settle(out)?;
        writeln!(out, "{}{text}", head(record))
    }

    fn decision(
        &mut self,
        record: &Record,
        request: &Request,
        decision: &Decision,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let operation = request.operation();
        if decision.is_allow() {
            self.allowed += 1;
        } else if decision.reason == Reason::Absent {
            self.absent += 1;
            if !self.all {
                return Ok(());
            }
        } else {
            self.refused += 1;
            *self.refusals.entry((operation.clone(), decision.reason)).or_default() += 1;
        }
        let what = (decision.is_allow(), operation);
        if !self.all
            && let Some(held) = &mut self.held
            && held.what == what
        {
            held.times += 1;
            return Ok(());
        }
        self.settle(out)?;
        self.held = Some(Held { line: line(record), what, times: 1 });
        if self.all { self.settle(out) } else { Ok(()) }
    }

    /// Writes the line that waits.
    pub(super) fn settle(&mut self, out: &mut dyn Write) -> io::Result<()> {
        match self.held.take() {
            Some(Held { line, times: 1, .. }) => writeln!(out, "{line}"),
            Some(Held { line, times, .. }) => writeln!(out, "{line} {}", Styled(STRONG, format!("×{times}"))),
            None => Ok(()),
        }
    }

    /// Writes what is left, and the summary.
    pub(super) fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.settle(out)?;
        if self.allowed + self.refused + self.absent == 0 {
            return Ok(());
        }
        writeln!(out)?;
        write!(
            out,
            "{} allowed, {} refused",
            Styled(GOOD, self.allowed),
            Styled(if self.refused > 0 { BAD } else { FAINT }, self.refused)
        )?;
        if self.absent > 0 {
            let looked = format!("; {} looked for", count(self.absent, "absent file"));
            write!(out, "{}", Styled(FAINT, looked))?;
        }
        writeln!(out)?;
        let mut refusals: Vec<_> = std::mem::take(&mut self.refusals).into_iter().collect();
        refusals.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
        let more = refusals.len().saturating_sub(NAMED);
        for ((operation, reason), times) in refusals.into_iter().take(NAMED) {
            writeln!(out, "  {times:>5} × {operation} {}", Styled(FAINT, reason))?;
        }
        if more > 0 {
            writeln!(out, "          and {more} others")?;
        }
        Ok(())
    }
}

/// A record as one line, whatever it is.
pub(crate) fn line(record: &Record) -> String {
    let text = match &record.event {
        Event::Decided { request, decision, enforced, .. } => judged(request, decision, *enforced),
        event => words(event, true).unwrap_or_default(),
    };
    format!("{}{text}", head(record))
}

/// A command line as one text.
pub(crate) fn command(argv: &[Text]) -> String {
    argv.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn head(record: &Record) -> String {
    let ts = record.ts.to_string();
    let time = ts.get(11..23).unwrap_or(&ts);
    format!("{} {}  ", Styled(FAINT, format_args!("{:>6}", record.seq)), Styled(FAINT, time))
}

fn judged(request: &Request, decision: &Decision, enforced: bool) -> String {
    let operation = request.operation();
    let (style, word) = match (decision.is_allow(), enforced) {
        (true, _) if decision.obligations.contains(&Obligation::Approve) => (WARN, "asked"),
        (true, _) => (GOOD, "allowed"),
        (false, true) => (BAD, "refused"),
        (false, false) => (WARN, "audited"),
    };
    let mut line = format!("{} {operation}", Styled(style, format_args!("{word:<7}")));
    if !decision.is_allow() {
        line += &format!("  {}", Styled(FAINT, decision.reason));
        if let Some(rule) = decision.rules.first() {
            line += &format!(" {}", Styled(FAINT, format_args!("by {rule}")));
        }
    }
    if decision.obligations.contains(&Obligation::Audit) {
        line += &format!(" {}", Styled(WARN, "flagged"));
    }
    if !request.subject.claimed.scope.is_empty() {
        let scope: Vec<String> = request.subject.claimed.scope.iter().map(ToString::to_string).collect();
        line += &format!(" {}", Styled(FAINT, format_args!("[{}]", scope.join("/"))));
    }
    if let Some(site) = &request.subject.claimed.site {
        line += &format!(" {}", Styled(FAINT, format_args!("at {}", place(site))));
    }
    line
}

/// What is no decision, in words; nothing for what only `all` shows.
fn words(event: &Event, all: bool) -> Option<String> {
    Some(match event {
        Event::SessionOpened { policy, coverage, command: argv } => format!(
            "{} {}  policy {}, {}",
            Styled(STRONG, "opened "),
            command(argv),
            policy.get(..12).unwrap_or(policy),
            held(coverage),
        ),
        Event::Approval { answer: Answer::Approved, who, op, .. } => {
            format!("{} operation {op} by {who}", Styled(GOOD, "approved"))
        }
        Event::Approval { answer: Answer::Denied, who, op, .. } if who.is_empty() => {
            format!("{} operation {op}: nobody answered", Styled(BAD, "not approved"))
        }
        Event::Approval { answer: Answer::Denied, who, op, .. } => {
            format!("{} operation {op} by {who}", Styled(BAD, "not approved"))
        }
        Event::Concluded { op, pid, outcome } if all => match outcome {
            Outcome::Done(value) => {
                let value = value.map(|value| format!(": {value}")).unwrap_or_default();
                format!("{} operation {op} of process {pid}{value}", Styled(FAINT, "done   "))
            }
            Outcome::Failed(errno) => {
                let error = io::Error::from_raw_os_error(*errno);
                format!("{} operation {op} of process {pid}: {error}", Styled(FAINT, "failed "))
            }
        },
        // Decisions have a line of their own.
        Event::Concluded { .. } | Event::Decided { .. } => return None,
        Event::ScopeEntered { scope, step, .. } => {
            let step = step.as_ref().map(|step| format!(", step {step}")).unwrap_or_default();
            format!("{} {}{step}", Styled(FAINT, "entered"), path(scope))
        }
        Event::ScopeLeft { scope, .. } => format!("{} {}", Styled(FAINT, "left   "), path(scope)),
        Event::ProcessJoined { pid, parent, exe } => {
            format!("{} process {pid} {exe}, child of {parent}", Styled(FAINT, "joined "))
        }
        Event::ProcessLeft { pid } => format!("{} process {pid}", Styled(FAINT, "ended  ")),
        Event::SegmentOpened { segment, .. } => {
            if !all {
                return None;
            }
            format!("{} {segment}", Styled(FAINT, "segment"))
        }
        Event::Notice { text } => format!("{} {}", Styled(WARN, "notice "), Text::from(text)),
        Event::RecordingBroken { text } => format!("{} {}", Styled(BAD, "broken "), Text::from(text)),
        Event::RunPaused { who } => format!("{} by {who}", Styled(WARN, "paused ")),
        Event::RunResumed { who } => format!("{} by {who}", Styled(GOOD, "resumed")),
        Event::RunStopped { who } => format!("{} by {who}", Styled(BAD, "stopped")),
        Event::RecordingStarted { start } => {
            format!(
                "{} what the program learns is kept; it starts in {}",
                Styled(STRONG, "records"),
                start.cwd
            )
        }
        Event::Input { path, input } => {
            if !all {
                return None;
            }
            format!("{} {path}: {}", Styled(FAINT, "learnt "), learnt(input))
        }
        Event::Told { thread, told } => {
            if !all {
                return None;
            }
            let told = match told {
                Told::Clock { clock, at } => format!("clock {clock} is at {}.{:09}", at.s, at.ns),
                Told::Random { bytes } => count(bytes.as_bytes().len() as u64, "random byte"),
            };
            format!("{} thread {thread}: {told}", Styled(FAINT, "learnt "))
        }
        Event::Heard { asked, said, payload } => {
            if !all {
                return None;
            }
            let size = payload.as_ref().map(|payload| {
                let kept = if payload.kept { "kept" } else { "not kept" };
                format!(", {}, {kept}", count(payload.size, "byte"))
            });
            format!("{} {asked}: {}{}", Styled(FAINT, "heard  "), answered(said), size.unwrap_or_default())
        }
        Event::Left { path, sha256 } => {
            let left = match sha256 {
                Some(sha256) => format!("holds {}", sha256.get(..12).unwrap_or(sha256)),
                None => "is gone".into(),
            };
            format!("{} {path} {left}", Styled(FAINT, "left   "))
        }
        Event::SessionClosed { exit } => {
            let exit = exit.map(|code| format!("exit code {code}")).unwrap_or_default();
            format!("{} {exit}", Styled(STRONG, "closed "))
        }
    })
}

fn learnt(input: &Input) -> String {
    match input {
        Input::Absent => "nothing is there".into(),
        Input::Link { target, .. } => format!("a link to {target}"),
        Input::Directory { .. } => "a directory".into(),
        Input::Names { names } => count(names.len() as u64, "name"),
        Input::File { size, .. } => format!("a file of {}", count(*size, "byte")),
        Input::Contents { sha256, kept, .. } | Input::Stdin { sha256, kept, .. } => {
            let kept = if *kept { "kept" } else { "not kept" };
            format!("holds {}, {kept}", sha256.get(..12).unwrap_or(sha256))
        }
        Input::Special { .. } => "a device or the like".into(),
    }
}

fn answered(said: &Said) -> String {
    match said {
        Said::Addresses { addrs, .. } => addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Said::NoAddresses { message, .. } => message.clone(),
        Said::Route { from } => format!("from {from}"),
        Said::Connected { protocol: Some(protocol) } => format!("stands, speaks {protocol}"),
        Said::Connected { protocol: None } => "stands".into(),
        Said::Failed { errno } => std::io::Error::from_raw_os_error(*errno).to_string(),
        Said::Response { status, end: End::Whole, .. } => format!("status {status}"),
        Said::Response { status, end: End::Broken, .. } => format!("status {status}, broken off"),
        Said::Response { status, end: End::Left, .. } => format!("status {status}, not read to its end"),
        Said::Turns { turns, .. } => count(turns.len() as u64, "turn"),
        Said::Unkept { why } => format!("not kept: {why}"),
    }
}

fn path(scope: &[Text]) -> String {
    scope.iter().map(ToString::to_string).collect::<Vec<_>>().join("/")
}

fn held(coverage: &Coverage) -> String {
    let trace = match coverage.trace {
        Hold::Binding => "trace kept outside the agent",
        Hold::Advisory => "trace kept by the agent itself",
        Hold::None => "no trace",
    };
    format!("lane {}, {trace}", coverage.lane.as_str())
}
