//! `failcore replay`: decides whole traces again under another policy. Nothing is done again, only decided.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use failcore_gate::replay::{Change, Differences, what_if};
use failcore_model::Verdict;
use failcore_policy::Rule;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::args::Replay;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::policy::{self, said};
use crate::rerun;
use crate::trace;
use crate::ui::{self, Answer, BAD, FAINT, GOOD, Notes, STRONG, Styled, Ui, WARN, clause, count, place};

/// Runs the recorded program again; with a policy, decides every record again: exit code 3 where a decision changed or could not be made.
pub(crate) fn run(args: &Replay, ui: &mut Ui) -> Result<Exit, Failure> {
    let Some(policy) = &args.policy else { return rerun::run(args, ui) };
    let (notes, bar) = (ui.notes(), trace::looking(ui, "verifying"));
    let (mut exit, mut failed) = (Exit::Success, None);
    let replayed = |name: &Path| again(name, policy, notes, &bar);
    side_by_side(&args.traces, replayed, |name, replayed| {
        let replayed = match replayed {
            Ok(replayed) => replayed,
            // The others are answered all the same.
            Err(failure) => {
                failed.replace(failure).iter().for_each(ui::report);
                return Ok(());
            }
        };
        if !replayed.differences.is_empty() {
            exit = Exit::Denied;
        }
        bar.suspend(|| {
            if args.traces.len() > 1 && !ui.is_json() {
                ui.with(|out| writeln!(out, "{}", Styled(STRONG, name.display())))?;
            }
            ui.answer(&replayed)
        })
    })?;
    bar.finish_and_clear();
    failed.map_or(Ok(exit), Err)
}

/// Decides the trace called `name` again.
fn again(name: &Path, policy: &Path, notes: Notes, bar: &ProgressBar) -> Result<Replayed, Failure> {
    let dir = trace::locate(name)?;
    let policy = policy::load(policy, &policy::environment_of(&dir)?)?;
    let decisions = trace::decisions(&dir, notes, bar)?;
    let all = decisions.all;
    bar.set_message("deciding again");
    let records = decisions.inspect(|_| bar.inc(1));
    let mut differences = what_if(records, &policy, trace::is_undecidable).map_err(Problem::trace)?;
    differences.records = all.unwrap_or(differences.records);
    let rules =
        differences.changes.iter().map(|change| change.rule.as_ref().and_then(|id| policy.rule(id)).cloned());
    let rules = rules.collect();
    Ok(Replayed { trace: dir, differences, rules })
}

/// Does `work` for every trace, as many at once as there are processors, and hands on what comes of it in their order.
fn side_by_side<T: Send>(
    traces: &[PathBuf],
    work: impl Fn(&Path) -> T + Sync,
    mut each: impl FnMut(&Path, T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(traces.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = traces.get(at) else { break };
                    // Where an answer could not be given, nobody listens any more.
                    if sender.send((at, work(name))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let receiver = receiver; // gone when this ends, so that nothing more is begun
        let mut early = BTreeMap::new();
        for (at, name) in traces.iter().enumerate() {
            let answer = loop {
                if let Some(answer) = early.remove(&at) {
                    break answer;
                }
                // Every trace is answered, unless its thread panicked: the scope passes that on.
                let Ok((at, answer)) = receiver.recv() else { return Ok(()) };
                early.insert(at, answer);
            };
            each(name, answer)?;
        }
        Ok(())
    })
}

#[derive(Serialize)]
struct Replayed {
    trace: PathBuf,
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
