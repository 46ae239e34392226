//! `failcore explain`: what a policy answers to one request, and why. The same `decide` as enforcement.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use failcore_model::{AbsPath, Decision, Denial, Fault, Obligation, Reason, Request, Text, Verb, Verdict};
use failcore_policy::{AskError, Capability, Environment, Key, Object, PolicySet, Rule};
use serde::Serialize;

use crate::args::Explain;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::policy::{self, said};
use crate::ui::{Answer, BAD, FAINT, GOOD, STRONG, Styled, Table, Ui, WARN, clause};

/// Decides one request and explains the decision; exit code 3 where it is denied.
pub(crate) fn run(args: &Explain, ui: &mut Ui) -> Result<Exit, Failure> {
    let env = policy::environment();
    let policy = policy::load(&args.policy, &env)?;
    if args.verb == Key::Capabilities.as_str() {
        let kept = Kept::of(&policy, &args.resource)?;
        ui.answer(&kept)?;
        return Ok(if kept.rule.is_some() { Exit::Success } else { Exit::Denied });
    }
    let request = request(args, &env)?;
    let decision = policy.decide(&request);
    ui.answer(&Explanation::of(&policy, &request, &decision))?;
    Ok(if decision.is_allow() { Exit::Success } else { Exit::Denied })
}

/// The request in words; a relative path counts from the working directory.
fn request(args: &Explain, env: &Environment) -> Result<Request, Failure> {
    let here = std::env::current_dir().map_err(|error| Problem::io("resolve", Path::new("."), error))?;
    let nonsense = |what: String, help: Option<String>| Problem::Nonsense {
        what,
        help: help
            .unwrap_or_else(|| "as in `failcore explain POLICY net.connect api.example.com:443`".into()),
    };
    let dir = AbsPath::lexical(here.as_os_str().as_encoded_bytes())
        .map_err(|error| nonsense(format!("the working directory: {error}"), None))?;
    let resource = args.resource.to_str().ok_or_else(|| {
        let help = "a request in words is UTF-8; ask about the directory it lies in";
        nonsense(format!("`{}` is not UTF-8", args.resource.display()), Some(help.into()))
    })?;
    let words = match args.verb.as_str() {
        // The name of the policy's list, for what programs do to write a file.
        "fs.write" => format!("fs.open create+modify {resource}"),
        verb => format!("{verb} {resource}"),
    };
    let mut request =
        failcore_policy::ask(&words, &dir, env).map_err(|error| nonsense(error.message, error.help))?;
    request.subject.claimed.scope = args.tool.iter().map(Text::from).collect();
    // As of now: a grant that has ended permits nothing any more.
    request.context.time = SystemTime::now().into();
    Ok(request)
}

/// Whether a program keeps a capability: settled when it starts, so that it is no decision.
#[derive(Serialize)]
struct Kept<'a> {
    capability: Capability,
    /// The rule that keeps it; nothing where it is given up.
    rule: Option<&'a Rule>,
}

impl<'a> Kept<'a> {
    fn of(policy: &'a PolicySet, name: &OsStr) -> Result<Self, Failure> {
        let capability = name.to_string_lossy().parse().map_err(|error: AskError| {
            let help = error.help.unwrap_or_else(|| "capabilities(7) describes them".into());
            Problem::Nonsense { what: error.message, help }
        })?;
        let keeps = |rule: &&Rule| rule.objects.contains(&Object::Capability(capability));
        Ok(Self { capability, rule: policy.rules().find(keeps) })
    }
}

impl Answer for Kept<'_> {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { capability, rule } = self;
        match rule {
            Some(rule) => {
                writeln!(out, "{}  {}", Styled(GOOD, "kept"), Styled(STRONG, capability))?;
                writeln!(out, "  {}  {}", said(rule), Styled(FAINT, rule.place()))
            }
            None => {
                writeln!(out, "{}  {}", Styled(BAD, "given up"), Styled(STRONG, capability))?;
                let remedy = format!("to keep it: [capabilities] keep = [\"{capability}\"]");
                writeln!(out, "  {}", Styled(FAINT, remedy))
            }
        }
    }
}

/// A decision with its reasons.
#[derive(Serialize)]
pub(crate) struct Explanation {
    verb: Verb,
    resource: String,
    #[serde(skip)]
    operation: String,
    verdict: Verdict,
    /// Whether the verdict was enforced; false for a refusal in audit mode.
    enforced: bool,
    reason: Reason,
    rules: Vec<Rule>,
    obligations: Vec<Obligation>,
    faults: Vec<Fault>,
    /// Where in the program a recorded operation came from, as far as the program said.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<Text>,
    /// The refusal as the program sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    denial: Option<Denial>,
}

impl Explanation {
    /// A decision just made.
    pub(crate) fn of(policy: &PolicySet, request: &Request, decision: &Decision) -> Self {
        let enforced = decision.is_allow() || policy.mode() == failcore_policy::Mode::Enforce;
        Self::recorded(policy, request, decision, enforced)
    }

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
            operation: request.operation(),
            verdict: decision.verdict,
            enforced,
            reason: decision.reason,
            rules: decision.rules.iter().filter_map(|id| policy.rule(id)).cloned().collect(),
            obligations: decision.obligations.to_vec(),
            faults: decision.faults.to_vec(),
            site: request.subject.claimed.site.clone(),
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
        writeln!(out, "{}  {}", Styled(style, word), Styled(STRONG, &self.operation))?;
        let plain = anstyle::Style::new();
        let mut table = Table::default();
        let mut row = |what: &str, style, text: String| table.row([(FAINT, what.into()), (style, text)]);
        if let Some(site) = &self.site {
            row("at", plain, site.to_string());
        }
        row("because", plain, format!("{} ({})", clause(self.reason.meaning()), self.reason));
        for rule in &self.rules {
            row("rule", plain, format!("{}  {}", said(rule), Styled(FAINT, rule.place())));
            if let Some(reason) = rule.reason.as_ref().filter(|reason| !rule.text.contains(*reason)) {
                row("", FAINT, format!("“{reason}”"));
            }
        }
        if self.obligations.contains(&Obligation::Approve) {
            row("but", WARN, "a person must approve it each time".into());
        }
        if self.obligations.contains(&Obligation::Audit) {
            row("and", WARN, "the record is flagged".into());
        }
        if self.obligations.contains(&Obligation::Carry) {
            row("but", WARN, "the connection is carried: what is asked for on it is judged as well".into());
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
