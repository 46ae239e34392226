//! What is searched for, and what a filter shows: the conditions of `failcore trace show`, and text.

use std::sync::LazyLock;

use clap::Parser;
use failcore_model::{Event, Record, Text};
use failcore_trace::read_record;
use memchr::memmem::Finder;

use crate::args::Filter;
use crate::failure::Failure;
use crate::trace::{self, Chosen, files};

/// What stands in the line of every refusal.
pub(super) static DENIED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""deny""#));

/// Conditions that all must hold.
pub(super) struct Wanted {
    chosen: Chosen,
    /// Text that is looked for in what is shown of a record; in small letters where case does not matter.
    text: Option<String>,
}

/// As they are typed: `--denied --verb 'fs.*' passwd`.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Words {
    #[command(flatten)]
    filter: Filter,
    text: Vec<String>,
}

impl Wanted {
    /// The conditions of the command line.
    pub(super) fn new(filter: Filter) -> Result<Self, Failure> {
        Ok(Self { chosen: Chosen::new(filter)?, text: None })
    }

    /// Reads what was typed; where it makes no sense, why.
    pub(super) fn typed(words: &str) -> Result<Self, String> {
        let words = shlex::split(words).ok_or("a quotation mark is not closed")?;
        let Words { filter, text } = Words::try_parse_from(words).map_err(|error| {
            let said = error.render().to_string();
            let first = said.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        })?;
        let text = Some(text.join(" ")).filter(|text| !text.is_empty());
        let chosen = Chosen::new(filter).map_err(|failure| failure.report.to_string())?;
        Ok(Self { chosen, text })
    }

    /// Whether it leaves anything out.
    pub(super) fn is_narrow(&self) -> bool {
        self.chosen.is_narrow() || self.text.is_some()
    }

    /// Whether the record of a line meets all conditions.
    pub(super) fn has(&self, line: &[u8]) -> bool {
        if self.chosen.is_of_refusals() && DENIED.find(line).is_none() {
            return false;
        }
        read_record(line).is_ok_and(|record| {
            self.chosen.has(&record) && self.text.as_ref().is_none_or(|text| holds(&record, text))
        })
    }
}

/// Whether text stands in what is shown of a record; without a capital letter in it, case does not matter.
fn holds(record: &Record, text: &str) -> bool {
    let line = trace::line(record);
    let mut shown = anstream::adapter::strip_str(&line).to_string();
    if let Event::Decided { request, .. } = &record.event {
        let subject = &request.subject;
        let claimed = &subject.claimed;
        let asked = files(&request.action).into_iter().flatten().map(|file| &file.asked);
        let about = [&subject.agent, &subject.run, &claimed.step, &claimed.site].into_iter().flatten();
        for more in asked.chain([&subject.exe]).chain(about).map(Text::to_string) {
            shown += "\n";
            shown += &more;
        }
    }
    if text.chars().any(char::is_uppercase) {
        shown.contains(text)
    } else {
        shown.to_lowercase().contains(text)
    }
}

#[cfg(test)]
mod tests {
    use failcore_model::{
        AbsPath, Action, Context, Decision, FileRef, Reason, Request, Rights, Subject, Timestamp,
    };

    use super::*;

    /// A refused open.
    fn line() -> Vec<u8> {
        let mut file = FileRef::at(AbsPath::new(b"/home/me/Secrets/.env").unwrap());
        file.asked = "../Secrets/.env".into();
        let mut subject = Subject { exe: "/usr/bin/python3".into(), ..Subject::default() };
        subject.claimed.scope = [Text::from("fetch")].into();
        subject.claimed.site = Some("/home/me/lib/agent.py:7".into());
        let action = Action::Open { file, rights: Rights::READ };
        let event = Event::Decided {
            op: 1,
            request: Request { action, subject, context: Context::default() }.into(),
            decision: Decision::deny(Reason::NotGranted, Default::default()),
            enforced: true,
            ns: 1,
        };
        serde_json::to_vec(&Record { seq: 4, ts: Timestamp(1), session: "s".into(), event }).unwrap()
    }

    fn has(words: &str) -> bool {
        Wanted::typed(words).unwrap().has(&line())
    }

    #[test]
    fn text_is_looked_for_in_what_is_shown() {
        for words in [
            "secrets",
            "Secrets",
            "refused fs.open /home",
            "(read)",
            "not_granted",
            "../secrets",
            "python3",
            "lib/agent.py:7",
        ] {
            assert!(has(words), "{words}");
        }
        // A capital letter is meant; names of fields are not shown.
        for words in ["SECRETS", "claimed", "session", "elsewhere"] {
            assert!(!has(words), "{words}");
        }
    }

    #[test]
    fn conditions_are_those_of_trace_show() {
        for words in ["--denied", "--verb fs.open", "--verb 'fs.*' --tool fetch", "--path /home/me .env", ""]
        {
            assert!(has(words), "{words}");
        }
        for words in ["--verb net.*", "--tool other", "--path /tmp", "--denied passwd"] {
            assert!(!has(words), "{words}");
        }
        assert!(!Wanted::typed("").unwrap().is_narrow() && Wanted::typed("a").unwrap().is_narrow());
    }

    #[test]
    fn what_makes_no_sense_says_why() {
        let why = |words| Wanted::typed(words).err().unwrap();
        assert!(why("--verb fs.reed").contains("fs.reed"));
        assert!(why("--nonsense").contains("--nonsense"));
        assert!(why("it's").contains("quotation mark"));
    }
}
