//! `failcore explain`: what a policy answers to one request, and why. The same `decide` as enforcement.

use std::io::{self, Write};

use failcore_model::{Decision, Denial, Fault, Obligation, Reason, Request, Verb, Verdict};
use failcore_policy::{PolicySet, Rule};
use serde::Serialize;

use crate::policy::said;
use crate::ui::{Answer, BAD, FAINT, GOOD, STRONG, Styled, Table, WARN};

/// A decision with its reasons.
#[derive(Serialize)]
pub(crate) struct Explanation {
    verb: Verb,
    resource: String,
    verdict: Verdict,
    /// Whether the verdict was enforced; false for a refusal in audit mode.
    enforced: bool,
    reason: Reason,
    rules: Vec<Rule>,
    obligations: Vec<Obligation>,
    faults: Vec<Fault>,
    /// The refusal as the program sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    denial: Option<Denial>,
}

impl Explanation {
    /// A decision from a trace, with the policy it was made under.
    pub(crate) fn recorded(
        policy: &PolicySet,
        request: &Request,
        decision: &Decision,
        enforced: bool,
    ) -> Self {
        Self {
            verb: request.action.verb(),
            resource: request.action.resource(),
            verdict: decision.verdict,
            enforced,
            reason: decision.reason,
            rules: decision.rules.iter().filter_map(|id| policy.rule(id)).cloned().collect(),
            obligations: decision.obligations.to_vec(),
            faults: decision.faults.to_vec(),
            denial: (!decision.is_allow()).then(|| policy.denial(request, decision)),
        }
    }
}

impl Answer for Explanation {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let (style, word) = match self.verdict {
            Verdict::Allow => (GOOD, "allowed"),
            Verdict::Deny => (BAD, "denied"),
        };
        writeln!(
            out,
            "{}  {} {}",
            Styled(style, word),
            Styled(STRONG, self.verb),
            failcore_model::Text::from(&self.resource)
        )?;
        let plain = anstyle::Style::new();
        let mut table = Table::default();
        let mut row = |what: &str, style, text: String| table.row([(FAINT, what.into()), (style, text)]);
        row("because", plain, format!("{} ({})", self.reason.meaning().trim_end_matches('.'), self.reason));
        for rule in &self.rules {
            row("rule", plain, format!("{}  {}", said(rule), Styled(FAINT, rule.place())));
            if let Some(reason) = &rule.reason {
                row("", FAINT, format!("“{reason}”"));
            }
        }
        if self.obligations.contains(&Obligation::Approve) {
            row("but", WARN, "a person must approve it each time".into());
        }
        if self.obligations.contains(&Obligation::Audit) {
            row("and", WARN, "the record is flagged".into());
        }
        if !self.enforced {
            row("but", WARN, "the policy only audits: it goes ahead, and is recorded".into());
        }
        if let Some(denial) = &self.denial {
            if self.enforced {
                row("seen as", plain, io::Error::from_raw_os_error(denial.errno).to_string());
            }
            if let Some(hint) = &denial.hint
                && !self.rules.iter().any(|rule| rule.reason.as_ref() == Some(hint))
            {
                row("remedy", plain, hint.clone());
            }
            if denial.retry {
                row("", plain, "the same attempt can succeed later".into());
            }
        }
        table.write(out, "  ")
    }
}
