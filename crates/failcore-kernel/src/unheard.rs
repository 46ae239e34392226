//! Refusals of which a program hears an errno and no more, since no hook in it could say why.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use failcore_model::{Denial, Reason, Text};
use failcore_trace::without_secrets;

/// How many different ones are said; the trace has them all.
const MOST: usize = 3;
/// How many different ones are told apart.
const TOLD_APART: usize = 1000;

/// What a run's programs were refused without hearing why.
#[derive(Debug, Default)]
pub(crate) struct Unheard(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    first: Vec<String>,
    known: HashSet<u64>,
}

impl Unheard {
    /// Notes a refusal of a program.
    pub(crate) fn note(&self, program: &Text, denial: &Denial) {
        // That a file is not there is what programs expect; of what is refused because the run is at its end, the run says why.
        if matches!(denial.reason, Reason::Absent | Reason::Diverged | Reason::TraceUnwritable) {
            return;
        }
        let mut hash = DefaultHasher::new();
        (program, denial.verb, &denial.resource).hash(&mut hash);
        let mut all = self.all();
        if all.known.len() >= TOLD_APART || !all.known.insert(hash.finish()) || all.first.len() >= MOST {
            return;
        }
        let name = program.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let (resource, hint) =
            (without_secrets(&denial.resource), denial.hint.as_deref().map(without_secrets));
        let denial = Denial { resource, hint, ..denial.clone() };
        all.first.push(format!("{}: {}", Text::from(name), denial.fact()));
    }

    /// The first ones in words, and how many different ones there were beside them.
    pub(crate) fn said(&self) -> Vec<String> {
        let all = self.all();
        let mut said = all.first.clone();
        let others = all.known.len() - said.len();
        if others > 0 {
            let least = if all.known.len() < TOLD_APART { "" } else { "at least " };
            let refusals = if others == 1 { "refusal" } else { "different refusals" };
            said.push(format!(
                "and {least}{others} {refusals} more that programs hear only an errno of: `failcore trace show TRACE`"
            ));
        }
        said
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use failcore_model::Verb;

    use super::*;

    fn denial(resource: &str, reason: Reason) -> Denial {
        let resource = resource.to_owned();
        Denial { verb: Verb::FsOpen, resource, rule: None, reason, hint: None, errno: 13, retry: false }
    }

    #[test]
    fn the_first_are_said_each_once_and_the_others_counted() {
        let unheard = Unheard::default();
        for file in ["/a", "/b", "/a", "/c", "/d", "/e", "/d"] {
            unheard.note(&"/usr/bin/cat".into(), &denial(file, Reason::NotGranted));
        }
        unheard.note(&"/usr/bin/cat".into(), &denial("/none", Reason::Absent));
        let secret =
            denial("/usr/bin/curl -H Authorization: Bearer sk-live-0123456789abcdef", Reason::NotGranted);
        let only = Unheard::default();
        only.note(&Text::from(&b"/bin/s\x1bh"[..]), &secret);
        let said =
            "s\\u{1b}h: fs.open /usr/bin/curl -H Authorization: [redacted:header] refused: not_granted";
        assert_eq!(only.said(), [said]);
        let mut said =
            ["/a", "/b", "/c"].map(|file| format!("cat: fs.open {file} refused: not_granted")).to_vec();
        said.push(
            "and 2 different refusals more that programs hear only an errno of: `failcore trace show TRACE`"
                .into(),
        );
        assert_eq!(unheard.said(), said);
        for file in 0..2 * TOLD_APART {
            unheard.note(&"/usr/bin/cat".into(), &denial(&file.to_string(), Reason::NotGranted));
        }
        assert!(unheard.said().last().unwrap().starts_with("and at least 997 different refusals more"));
    }
}
