//! `failcore check`: what is wrong with a policy, what in it does nothing, and what each lane holds of it.

use std::io::{self, Write};

use anstyle::Style;
use failcore_model::RuleId;
use failcore_policy::check::{Finding, Holds, LANES, Oddity, Row, findings, matrix};
use failcore_policy::{Mode, PolicySet, Rule};
use serde::Serialize;

use crate::args::Check;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::policy::{self, said};
use crate::ui::{Answer, BAD, FAINT, GOOD, STRONG, Styled, Table, Ui, WARN, count};

/// Loads a policy, whose errors end the command with 2, and says what it comes to.
pub(crate) fn run(args: &Check, ui: &mut Ui) -> Result<Exit, Failure> {
    let set = policy::load(&args.policy, &policy::environment())?;
    let findings = findings(&set);
    let odd = !findings.is_empty();
    ui.answer(&Checked {
        name: set.name(),
        digest: set.digest(),
        mode: set.mode(),
        rules: set.rules().count(),
        findings,
        matrix: args.matrix.then(|| matrix(&set)),
        set: &set,
    })?;
    Ok(if odd && args.strict { Exit::Denied } else { Exit::Success })
}

#[derive(Serialize)]
struct Checked<'a> {
    name: Option<&'a str>,
    digest: &'a str,
    mode: Mode,
    rules: usize,
    findings: Vec<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matrix: Option<Vec<Row>>,
    #[serde(skip)]
    set: &'a PolicySet,
}

impl Checked<'_> {
    fn rule(&self, id: &RuleId) -> Option<&Rule> {
        self.set.rule(id)
    }

    fn tell_finding(&self, finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
        let Some(rule) = self.rule(&finding.rule) else { return Ok(()) };
        let why = match finding.kind {
            Oddity::Unreachable => "a deny covers all that it grants",
            Oddity::Shadowed => "another rule covers it",
            Oddity::Empty => "it stands for nothing on this machine",
        };
        let place = Styled(FAINT, rule.place());
        writeln!(out, "  {} {}  {place}", Styled(WARN, "does nothing:"), said(rule))?;
        write!(out, "    {why}")?;
        if let Some(by) = finding.by.as_ref().and_then(|by| self.rule(by)) {
            write!(out, ": {}  {}", said(by), Styled(FAINT, by.place()))?;
        }
        writeln!(out)
    }

    fn tell_matrix(&self, rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
        let plain = Style::new();
        let mut table = Table::default();
        table.row([
            (STRONG, "rule".into()),
            (STRONG, LANES[0].as_str().into()),
            (STRONG, LANES[1].as_str().into()),
            (STRONG, LANES[2].as_str().into()),
        ]);
        for row in rows {
            let Some(rule) = self.rule(&row.rule) else { continue };
            let held = |lane| {
                let holds = row.lanes.iter().find(|(of, _)| *of == lane).map(|(_, holds)| *holds);
                match holds {
                    Some(Holds::Exact) => (GOOD, "exact".into()),
                    Some(Holds::Approximate) => (WARN, "approximate".into()),
                    Some(Holds::NotHeld) | None => (BAD, "not held".into()),
                }
            };
            table.row([(plain, said(rule)), held(LANES[0]), held(LANES[1]), held(LANES[2])]);
        }
        table.write(out, "  ")
    }
}

impl Answer for Checked<'_> {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = Styled(STRONG, self.name.unwrap_or("the policy"));
        write!(out, "{name} {}: {}", Styled(GOOD, "is valid"), count(self.rules, "rule"))?;
        match self.findings.len() {
            0 => writeln!(out)?,
            odd => writeln!(out, ", {}", Styled(WARN, format_args!("{odd} of yours without effect")))?,
        }
        if self.mode == Mode::Audit {
            writeln!(out, "  {}", Styled(WARN, "it only audits: what it would refuse goes ahead"))?;
        }
        for finding in &self.findings {
            self.tell_finding(finding, out)?;
        }
        match &self.matrix {
            Some(rows) => self.tell_matrix(rows, out),
            None => Ok(()),
        }
    }
}
