//! `failcore diff`: where two traces part.

use std::io::{self, Write};
use std::path::Path;

use failcore_gate::compare::{Comparison, Difference, Kind, Occurrence, compare};
use failcore_model::{Text, Verdict};

use crate::args::Diff;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::trace::{self, Decisions};
use crate::ui::{Answer, BAD, FAINT, GOOD, STRONG, Styled, Ui, WARN, count, place};

/// Compares what two runs did; exit code 3 where they differ.
pub(crate) fn run(args: &Diff, ui: &mut Ui) -> Result<Exit, Failure> {
    let bar = trace::looking(ui, "verifying");
    let read = |name: &Path| -> Result<Decisions, Failure> {
        trace::decisions(&trace::locate(name)?, ui.notes(), &bar)
    };
    let found = read(&args.first).and_then(|first| {
        let second = read(&args.second)?;
        bar.set_message("comparing");
        compare(first, second).map_err(|error| Problem::trace(error).into())
    });
    bar.finish_and_clear();
    let found = found?;
    ui.answer(&found)?;
    Ok(if found.is_empty() { Exit::Success } else { Exit::Denied })
}

impl Answer for Comparison {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(first) = self.differences.first() {
            writeln!(out, "{} {}", Styled(STRONG, "first:"), Styled(STRONG, headline(first)))?;
        }
        // Scopes in the order of their first difference, and so the operations in them.
        let mut scopes: Vec<&[Text]> = Vec::new();
        for Difference { scope, .. } in &self.differences {
            if !scopes.contains(&scope.as_slice()) {
                scopes.push(scope);
            }
        }
        for scope in scopes {
            let names: Vec<String> = scope.iter().map(ToString::to_string).collect();
            let name = if names.is_empty() { "outside of tools".into() } else { names.join("/") };
            writeln!(out, "\n{}", Styled(STRONG, name))?;
            for difference in self.differences.iter().filter(|difference| difference.scope == scope) {
                tell(difference, out)?;
            }
        }
        if !self.differences.is_empty() {
            writeln!(out)?;
        }
        let Self { common, only_first, only_second, decided_otherwise, .. } = self;
        let verdict = match self.is_empty() {
            true => Styled(GOOD, "no difference"),
            false => Styled(BAD, "they differ"),
        };
        write!(out, "{verdict}: {} in both", count(*common, "operation"))?;
        for (number, what) in [
            (decided_otherwise, "of them decided otherwise"),
            (only_first, "only in the first"),
            (only_second, "only in the second"),
        ] {
            if *number > 0 {
                write!(out, ", {number} {what}")?;
            }
        }
        writeln!(out)
    }
}

fn headline(difference: &Difference) -> String {
    let Difference { operation, kind, first, second, .. } = difference;
    let at = |occurrence: &Option<Occurrence>| occurrence.as_ref().map_or(0, |found| found.seq);
    match kind {
        Kind::OnlyFirst => format!("record {} of the first, {operation}", at(first)),
        Kind::OnlySecond => format!("record {} of the second, {operation}", at(second)),
        Kind::DecidedOtherwise => {
            format!("record {} of the first and {} of the second, {operation}", at(first), at(second))
        }
    }
}

fn tell(difference: &Difference, out: &mut dyn Write) -> io::Result<()> {
    let Difference { operation, kind, first, second, count, .. } = difference;
    let (style, sign) = match kind {
        Kind::OnlyFirst => (BAD, '-'),
        Kind::OnlySecond => (GOOD, '+'),
        Kind::DecidedOtherwise => (WARN, '~'),
    };
    write!(out, "  {} {operation}", Styled(style, sign))?;
    if *count > 1 {
        write!(out, " {}", Styled(STRONG, format_args!("×{count}")))?;
    }
    match (first, second) {
        (Some(first), Some(second)) => write!(out, "  {} → {}", decided(first), decided(second))?,
        (Some(only), None) | (None, Some(only)) => write!(out, "  {}", decided(only))?,
        (None, None) => {}
    }
    let records: Vec<String> =
        [first, second].into_iter().flatten().map(|found| found.seq.to_string()).collect();
    write!(out, "  {}", Styled(FAINT, format_args!("#{}", records.join(" #"))))?;
    let site = [second, first].into_iter().flatten().find_map(|found| found.site.as_ref());
    if let Some(site) = site {
        write!(out, " {}", Styled(FAINT, format_args!("at {}", place(site))))?;
    }
    writeln!(out)
}

fn decided(occurrence: &Occurrence) -> String {
    match (occurrence.verdict, &occurrence.rule) {
        (Verdict::Allow, _) => "allowed".into(),
        (Verdict::Deny, Some(rule)) => format!("refused ({} by {rule})", occurrence.reason),
        (Verdict::Deny, None) => format!("refused ({})", occurrence.reason),
    }
}
