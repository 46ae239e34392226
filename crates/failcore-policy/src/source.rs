//! From a policy's text to a [`Document`], with every problem in it and not only the first.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use failcore_model::{AbsPath, Verdict};
use miette::NamedSource;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::document::{Document, Expect};
use crate::environment::{Environment, Reals, absolute};
use crate::error::{PolicyError, Problem, Wrong};
use crate::expand::{Draft, Expansion, Singles};
use crate::presets;
use crate::resolved::Resolved;
use crate::set::PolicySet;

/// Problems shown at once; beyond that one mistake has many consequences.
const MAX_PROBLEMS: usize = 20;
/// Files that extend files that extend files.
const MAX_DEPTH: usize = 16;

/// Loads a file and what it extends.
pub(crate) fn load(file: &Path, env: &Environment) -> Result<Resolved, PolicyError> {
    let (text, dir, real) = open(file).map_err(|error| PolicyError::file(file.into(), &error))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut loader = Loader::new(env);
    loader.open_now.push(real);
    loader.whole(&name, &text, &dir)
}

/// Reads a policy from text.
pub(crate) fn parse(
    name: &str,
    text: &str,
    dir: &AbsPath,
    env: &Environment,
) -> Result<Resolved, PolicyError> {
    Loader::new(env).whole(name, text, dir)
}

fn open(file: &Path) -> std::io::Result<(String, AbsPath, PathBuf)> {
    let real = std::fs::canonicalize(file)?;
    let text = std::fs::read_to_string(&real)?;
    let dir = real.parent().and_then(|dir| absolute(dir.as_os_str().as_encoded_bytes()));
    Ok((text, dir.unwrap_or_else(AbsPath::root), real))
}

struct Loader<'a> {
    env: &'a Environment,
    reals: Rc<Reals>,
    problems: Vec<Problem>,
    /// Files being read, to find circles.
    open_now: Vec<PathBuf>,
    /// What was taken in already, since twice is once, and what it came to under keys of one value, since a file on the
    /// way may have said something else.
    done: HashMap<PathBuf, Singles>,
    depth: usize,
    /// What every policy starts from.
    built_in: Draft,
}

/// A text being read.
struct Origin<'a> {
    name: &'a str,
    text: &'a str,
    dir: &'a AbsPath,
    shipped: bool,
}

impl<'a> Loader<'a> {
    fn new(env: &'a Environment) -> Self {
        Self {
            env,
            reals: Rc::default(),
            problems: Vec::new(),
            open_now: Vec::new(),
            done: HashMap::new(),
            depth: 0,
            built_in: Draft::default(),
        }
    }

    fn whole(mut self, name: &str, text: &str, dir: &AbsPath) -> Result<Resolved, PolicyError> {
        let mut draft = Draft::default();
        self.preset(presets::BUILT_IN, &mut draft);
        self.built_in = draft.clone();
        let (document, _) = self.read(&Origin { name, text, dir, shipped: false }, &mut draft);
        if self.problems.is_empty() {
            Ok(draft.finish(&document, self.env))
        } else {
            Err(PolicyError::new(self.problems))
        }
    }

    fn preset(&mut self, name: &str, draft: &mut Draft) -> bool {
        let Some(text) = presets::text(name) else { return false };
        match self.done.get(Path::new(name)) {
            Some(singles) => draft.add_singles(singles.clone()),
            None => {
                let origin = Origin { name, text, dir: &AbsPath::root(), shipped: true };
                let (_, singles) = self.read(&origin, draft);
                self.done.insert(name.into(), singles);
            }
        }
        true
    }

    /// Reads one text, what it extends first, into `draft`; also what it comes to under keys of one value.
    fn read(&mut self, origin: &Origin<'_>, draft: &mut Draft) -> (Document, Singles) {
        let source = Arc::new(NamedSource::new(origin.name, origin.text.to_owned()).with_language("TOML"));
        let before = self.problems.len();
        let (document, wrongs) = document(origin.text);
        self.report(&source, wrongs);
        let mut extended = Draft::default();
        for parent in &document.extends {
            let result = self.extend(parent.get(), origin, &mut extended);
            self.report(&source, result.err().map(|wrong| (parent.span(), wrong)));
        }
        let mut expansion = Expansion::new(
            origin.name,
            origin.text,
            origin.dir,
            origin.shipped,
            self.env,
            Rc::clone(&self.reals),
        );
        expansion.document(&document);
        let (own, wrongs) = expansion.done();
        self.report(&source, wrongs);
        let mut taken = extended.put_on_top(own);
        let singles = extended.singles().clone();
        if self.problems.len() == before && !document.test.is_empty() {
            let wrongs = self.rows(&document, origin, &extended);
            self.report(&source, wrongs);
        }
        taken.extend(draft.add(extended));
        self.report(
            &source,
            taken.iter().map(|id| (0..0, Wrong::new(format!("two rules have the id `{id}`")))),
        );
        (document, singles)
    }

    fn extend(&mut self, parent: &str, origin: &Origin<'_>, draft: &mut Draft) -> Result<(), Wrong> {
        if let Some(name) = parent.strip_prefix("preset:") {
            return if self.preset(parent, draft) {
                Ok(())
            } else {
                Err(Wrong::new(format!("there is no preset `{name}`")).meant(name, presets::NAMES))
            };
        }
        let file = origin.dir.as_path().join(parent);
        let (text, dir, real) = open(&file).map_err(|error| {
            Wrong::new(format!("cannot read `{parent}`: {error}"))
                .help("presets are written `preset:NAME`; files by their path, relative to this one")
        })?;
        if self.open_now.contains(&real) || self.depth >= MAX_DEPTH {
            return Err(Wrong::new(format!("`{parent}` extends, in the end, itself")));
        }
        if let Some(singles) = self.done.get(&real) {
            draft.add_singles(singles.clone());
            return Ok(());
        }
        self.open_now.push(real.clone());
        self.depth += 1;
        // Named from where the first file stands, so that two files never have one name.
        let name = match origin.name.rsplit_once('/') {
            Some((above, _)) if !parent.starts_with('/') => format!("{above}/{parent}"),
            _ => parent.to_owned(),
        };
        let (_, singles) = self.read(&Origin { name: &name, text: &text, dir: &dir, shipped: false }, draft);
        self.done.insert(real, singles);
        self.depth -= 1;
        self.open_now.pop();
        Ok(())
    }

    /// Checks a file's own rows against the file and what it extends.
    fn rows(&self, document: &Document, origin: &Origin<'_>, own: &Draft) -> Vec<(Range<usize>, Wrong)> {
        let mut draft = self.built_in.clone();
        draft.add(own.clone());
        let set = PolicySet::compile(draft.finish(document, self.env));
        let mut wrongs = Vec::new();
        for row in &document.test {
            let row = row.get();
            let request = match crate::ask::request(row.request.get(), origin.dir, self.env) {
                Ok(request) => request,
                Err(wrong) => {
                    wrongs.push((row.request.span(), wrong));
                    continue;
                }
            };
            let request = match &row.tool {
                Some(tool) => crate::ask::by_tool(request, tool),
                None => request,
            };
            let decision = set.decide(&request);
            let expected = if row.expect == Expect::Allow { Verdict::Allow } else { Verdict::Deny };
            if decision.verdict == expected {
                continue;
            }
            let wrong = match decision.rules.first().and_then(|id| set.rule(id)) {
                _ if expected == Verdict::Allow => {
                    let denial = set.denial(&request, &decision);
                    Wrong::new(format!("`{}` is refused ({})", row.request.get(), denial.reason))
                        .help_if(denial.hint)
                }
                Some(rule) => Wrong::new(format!("`{}` is allowed", row.request.get())).help(format!(
                    "`{}` at {} grants it",
                    rule.id,
                    rule.place()
                )),
                None => Wrong::new(format!("`{}` is allowed", row.request.get())),
            };
            wrongs.push((row.request.span(), wrong.label("this row does not hold")));
        }
        wrongs
    }

    fn report(
        &mut self,
        source: &Arc<NamedSource<String>>,
        wrongs: impl IntoIterator<Item = (Range<usize>, Wrong)>,
    ) {
        for (span, wrong) in wrongs {
            if self.problems.len() < MAX_PROBLEMS {
                self.problems.push(Problem {
                    message: wrong.message,
                    help: wrong.help,
                    label: wrong.label,
                    within: Some(source.clone()),
                    span: span.into(),
                });
            }
        }
    }
}

/// Reads the text as far as it makes sense: whatever is wrong is reported, cut out, and the rest read again.
fn document(text: &str) -> (Document, Vec<(Range<usize>, Wrong)>) {
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // Only the first: one missing bracket makes nonsense of all that follows.
        let first = errors.iter().take(1);
        let wrongs = first.map(|e| (e.span().unwrap_or_default(), syntax(e.message()))).collect();
        return (Document::default(), wrongs);
    }
    let mut found = Document::deserialize(toml::Deserializer::from(tree));
    let mut wrongs = Vec::new();
    let mut mended = None;
    loop {
        let error = match found {
            Ok(document) => return (document, wrongs),
            Err(error) => error,
        };
        // Few policies come to this: it is read once more to be cut.
        let tree = mended.get_or_insert_with(|| DeTable::parse_recoverable(text).0);
        let span = error.span().unwrap_or_default();
        wrongs.push((span.clone(), rephrase(error.message(), text.get(span.clone()))));
        if wrongs.len() > MAX_PROBLEMS || !cut_from_table(tree.get_mut(), &span) {
            return (Document::default(), wrongs);
        }
        found = Document::deserialize(toml::Deserializer::from(tree.clone()));
    }
}

fn syntax(message: &str) -> Wrong {
    Wrong::new(message).help("a policy is a TOML file; what follows is looked at once this is mended")
}

/// Removes the key or value that stands at `span`, or the smallest that holds it.
fn cut_from_table(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let mut doomed = None;
    for (key, value) in table.iter_mut() {
        let at_key = within(span, &key.span());
        if at_key || within(span, &value.span()) || is_held(value, span) {
            if at_key || !cut_from_value(value, span) {
                doomed = Some(key.get_ref().to_string());
            } else {
                return true;
            }
            break;
        }
    }
    doomed.is_some_and(|key| table.remove(key.as_str()).is_some())
}

fn cut_from_value(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    if value.span() == *span {
        return false;
    }
    match value.get_mut() {
        DeValue::Table(table) => cut_from_table(table, span),
        DeValue::Array(array) => {
            let found = array.iter_mut().position(|item| within(span, &item.span()) || is_held(item, span));
            match found {
                Some(n) => {
                    if !array.get_mut(n).is_some_and(|item| cut_from_value(item, span)) {
                        let kept = array.iter().enumerate().filter(|(i, _)| *i != n);
                        *array = kept.map(|(_, item)| item.clone()).collect();
                    }
                    true
                }
                None => false,
            }
        }
        _ => false,
    }
}

/// Whether `span` lies in some value below: tables written in several places span their header only.
fn is_held(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            within(span, &key.span()) || within(span, &value.span()) || is_held(value, span)
        }),
        DeValue::Array(array) => array.iter().any(|item| within(span, &item.span()) || is_held(item, span)),
        _ => false,
    }
}

fn within(inner: &Range<usize>, outer: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && inner.start < inner.end
}

/// The parser's words in ours. Its form is fixed by serde: ``unknown field `x`, expected one of `a`, `b` ``.
fn rephrase(message: &str, at: Option<&str>) -> Wrong {
    let message = message.trim_end();
    for (start, what) in [("unknown field `", "key"), ("unknown variant `", "word")] {
        let Some((word, rest)) = message.strip_prefix(start).and_then(|rest| rest.split_once('`')) else {
            continue;
        };
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).filter(|w| *w != "caution").collect();
        return Wrong::new(format!("there is no {what} `{word}` here")).meant(word, &known);
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return Wrong::new(format!("`{field}` is missing here"));
    }
    let wrong = Wrong::new(message.to_owned());
    match at {
        Some(at) if message.starts_with("invalid type") => {
            wrong.label(format!("`{}`", at.lines().next().unwrap_or("")))
        }
        _ => wrong,
    }
}
