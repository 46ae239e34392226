//! `failcore check`: what is wrong with a policy, and what in it has no effect.

use std::io::{self, Write};

use failcore_policy::{Limits, Mode, PolicySet, Rule};
use serde::Serialize;

use crate::args::Check;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::policy;
use crate::ui::{Answer, GOOD, STRONG, Styled, Ui, count};

/// Loads a policy and says what it comes to; its errors end the command with 2.
pub(crate) fn run(args: &Check, ui: &mut Ui) -> Result<Exit, Failure> {
    let policy = policy::load(&args.policy, &policy::environment())?;
    ui.answer(&Checked::of(&policy))?;
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct Checked<'a> {
    name: Option<&'a str>,
    digest: &'a str,
    mode: Mode,
    rules: usize,
    limits: &'a Limits,
    own: Vec<&'a Rule>,
}

impl<'a> Checked<'a> {
    fn of(policy: &'a PolicySet) -> Self {
        Self {
            name: policy.name(),
            digest: policy.digest(),
            mode: policy.mode(),
            rules: policy.rules().count(),
            limits: policy.limits(),
            own: policy.rules().filter(|rule| rule.line > 0).collect(),
        }
    }
}

impl Answer for Checked<'_> {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = Styled(STRONG, self.name.unwrap_or("the policy"));
        writeln!(out, "{name} {}: {}", Styled(GOOD, "is valid"), count(self.rules, "rule"))
    }
}
