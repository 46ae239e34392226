//! What is wrong with a policy, shown where it stands.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode, SourceSpan};

/// Why a policy does not load: everything found, not only the first.
#[derive(Debug, Clone)]
pub struct PolicyError {
    /// What is wrong, in the order of the text; never empty.
    problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// In words.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// The text it stands in, with the file's name.
    pub within: Option<Arc<NamedSource<String>>>,
    /// Where in it.
    pub span: SourceSpan,
    /// What the caret says.
    pub label: Option<String>,
}

impl PolicyError {
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|p| (p.within.as_ref().map(|s| s.name().to_owned()), p.span.offset()));
        Self { problems }
    }

    pub(crate) fn file(path: PathBuf, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let message = format!("cannot read policy `{}`: {error}", path.display());
        let help = match error.kind() {
            ErrorKind::InvalidData => "a policy is a TOML file, and TOML is UTF-8",
            ErrorKind::IsADirectory => "name the file in it",
            ErrorKind::PermissionDenied => "you may not read it",
            _ => "name a policy file, or a preset such as `preset:python`",
        };
        Self { problems: vec![Problem { help: Some(help.into()), ..Problem::plain(message) }] }
    }

    /// Everything that is wrong.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl Problem {
    pub(crate) fn plain(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, within: None, span: (0, 0).into(), label: None }
    }

    /// Line and column in characters, both from 1.
    pub fn position(&self) -> Option<(usize, usize)> {
        let source = self.within.as_ref()?;
        Some(position(source.inner(), self.span.offset()))
    }
}

/// Line and column in characters, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.bytes().filter(|byte| *byte == b'\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What is wrong with a piece of policy text, before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) label: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, label: None }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(crate) fn help_if(self, help: Option<String>) -> Self {
        Self { help, ..self }
    }

    pub(crate) fn label(self, label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// Offers the nearest of the words that would stand here, or all of them.
    pub(crate) fn meant(self, word: &str, known: &[&str]) -> Self {
        let nearest = known
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(word, a).total_cmp(&strsim::jaro_winkler(word, b)));
        match nearest.filter(|near| strsim::jaro_winkler(word, near) > 0.8) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => {
                let known: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
                self.help(format!("known here: {}", known.join(", ")))
            }
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => one.fmt(f),
            many => write!(f, "the policy has {} problems", many.len()),
        }
    }
}

impl std::error::Error for PolicyError {}

impl Diagnostic for PolicyError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.only()?.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.only()?.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.only()?.labels()
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        let many = self.problems.len() > 1;
        many.then(|| Box::new(self.problems.iter().map(|p| p as &dyn Diagnostic)) as Box<_>)
    }
}

impl PolicyError {
    fn only(&self) -> Option<&Problem> {
        if let [one] = self.problems.as_slice() { Some(one) } else { None }
    }
}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<_>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.within.as_ref().map(|source| &**source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.within.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(self.label.clone(), self.span))))
    }
}
