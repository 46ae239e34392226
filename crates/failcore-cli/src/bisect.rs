//! `failcore bisect`: the first recorded operation that two policies decide otherwise, and the rules that make it so.

use std::io::{self, Write};
use std::path::PathBuf;

use failcore_gate::replay::{Parting, first_parting};
use serde::Serialize;

use crate::args::Bisect;
use crate::exit::Exit;
use crate::explain::Explanation;
use crate::failure::{Failure, Problem};
use crate::policy;
use crate::trace;
use crate::ui::{Answer, FAINT, GOOD, STRONG, Styled, Ui};

/// Exit code 3 where there is such an operation.
pub(crate) fn run(args: &Bisect, ui: &mut Ui) -> Result<Exit, Failure> {
    let dir = trace::locate(&args.trace)?;
    let env = policy::environment_of(&dir)?;
    let (good, bad) = (policy::load(&args.good, &env)?, policy::load(&args.bad, &env)?);
    let bar = trace::looking(ui, "verifying");
    let parting = trace::decisions(&dir, ui.notes(), &bar).and_then(|decisions| {
        bar.set_message("deciding again");
        first_parting(decisions, [&good, &bad], trace::is_undecidable)
            .map_err(|error| Problem::trace(error).into())
    });
    bar.finish_and_clear();
    let found = parting?.map(|Parting { seq, request, decisions: [by_good, by_bad] }| Found {
        seq,
        good: Explanation::of(&good, &request, &by_good),
        bad: Explanation::of(&bad, &request, &by_bad),
    });
    let exit = if found.is_some() { Exit::Denied } else { Exit::Success };
    ui.answer(&Bisected { policies: [args.good.clone(), args.bad.clone()], found })?;
    Ok(exit)
}

#[derive(Serialize)]
struct Bisected {
    #[serde(skip)]
    policies: [PathBuf; 2],
    #[serde(flatten)]
    found: Option<Found>,
}

#[derive(Serialize)]
struct Found {
    seq: u64,
    good: Explanation,
    bad: Explanation,
}

impl Answer for Bisected {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(Found { seq, good, bad }) = &self.found else {
            return writeln!(out, "{}: they decide every operation alike", Styled(GOOD, "no difference"));
        };
        writeln!(
            out,
            "{} is the first that they decide otherwise",
            Styled(STRONG, format_args!("record {seq}"))
        )?;
        for (policy, explanation) in self.policies.iter().zip([good, bad]) {
            writeln!(out, "\n{}", Styled(FAINT, policy.display()))?;
            explanation.tell(out)?;
        }
        Ok(())
    }
}
