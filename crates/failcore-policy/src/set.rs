//! The policy as everyone else sees it: immutable, checked, ready to decide.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use failcore_model::{AbsPath, FileId, HostName, RuleId, Text};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::capability::Capability;
use crate::command;
use crate::environment::{Environment, Reals};
use crate::error::PolicyError;
use crate::index::Index;
use crate::limits::Limits;
use crate::pattern::Pattern;
use crate::payloads::Payloads;
use crate::resolved::{self, Resolved};
use crate::rule::{Args, Credential, Effect, Key, Object, Rule};
use crate::source;
use crate::upstream::NameServer;

/// A policy, checked and compiled. Immutable; share it in an `Arc`.
#[derive(Debug, Clone)]
pub struct PolicySet {
    pub(crate) resolved: Resolved,
    pub(crate) index: Index,
    by_id: FxHashMap<RuleId, u32>,
    /// Written when it is first asked for: a run adds rules more than once before it is.
    written: OnceLock<Written>,
}

/// The policy as resolved.
#[derive(Debug, Clone)]
struct Written {
    text: Arc<str>,
    digest: Arc<str>,
}

/// What becomes of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is recorded and goes ahead, but for what is always refused.
    Audit,
}

/// Who holds read-only opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// Each is mediated and recorded by the binding lane.
    #[default]
    Binding,
    /// Compiled layers may hold them, and the record be the interpreter hook's. No lane does so yet.
    Advisory,
}

/// What a program reads as its standard input.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// What the caller of `failcore run` gave it.
    #[default]
    Inherit,
    /// Nothing.
    Null,
}

impl PolicySet {
    /// Loads a policy file and what it extends.
    ///
    /// # Errors
    /// [`PolicyError`] holds every problem found, with its place.
    ///
    /// # Security
    /// Symbolic links in the policy's paths are followed now: who can change them before the run starts can
    /// change what is granted.
    pub fn load(file: &Path, env: &Environment) -> Result<Self, PolicyError> {
        Ok(Self::compile(source::load(file, env)?))
    }

    /// Reads a policy from text; `dir` is what its relative paths are relative to.
    ///
    /// # Errors
    /// As [`PolicySet::load`].
    pub fn parse(name: &str, text: &str, dir: &AbsPath, env: &Environment) -> Result<Self, PolicyError> {
        Ok(Self::compile(source::parse(name, text, dir, env)?))
    }

    /// Reads what [`PolicySet::resolved`] wrote; depends on nothing but the text.
    ///
    /// # Errors
    /// [`PolicyError`] where it is no resolved policy.
    pub fn from_resolved(text: &str) -> Result<Self, PolicyError> {
        let read = Self::compile(Resolved::from_text(text)?);
        Ok(Self { written: Written::of(text).into(), ..read })
    }

    /// The same as [`PolicySet::resolved`] for a program to read, not for people: JSON, which is read several times faster.
    ///
    /// # Errors
    /// [`PolicyError`] where it cannot be written.
    pub fn to_json(&self) -> Result<Vec<u8>, PolicyError> {
        self.resolved.to_json()
    }

    /// Reads what [`PolicySet::to_json`] wrote.
    ///
    /// # Errors
    /// [`PolicyError`] where it is no resolved policy.
    pub fn from_json(json: &[u8]) -> Result<Self, PolicyError> {
        Resolved::from_json(json).map(Self::compile)
    }

    pub(crate) fn compile(resolved: Resolved) -> Self {
        Self {
            index: Index::build(&resolved),
            by_id: resolved.rules.iter().zip(0..).map(|(rule, n)| (rule.id.clone(), n)).collect(),
            written: OnceLock::new(),
            resolved,
        }
    }

    fn written(&self) -> &Written {
        // All that a policy's text can say can be written again; should it fail all the same, there is no policy to be
        // read, and nobody who needs one gets anything.
        self.written.get_or_init(|| Written::of(&self.resolved.to_text().unwrap_or_default()))
    }

    /// Self-contained TOML with everything expanded and each rule's id and place kept.
    pub fn resolved(&self) -> &str {
        &self.written().text
    }

    /// The environment to read another policy in, as if for the run that this one was resolved for: this
    /// process's own, with that run's home, interpreter and private directory.
    pub fn environment(&self) -> Environment {
        let run = self.resolved.run.clone();
        let own = Environment::current();
        Environment { home: run.home.or(own.home), python: run.python, tmp: run.tmp, ..own }
    }

    /// SHA-256 of [`PolicySet::resolved`], in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.written().digest
    }

    /// The rule of that id.
    pub fn rule(&self, id: &RuleId) -> Option<&Rule> {
        self.by_id.get(id).and_then(|n| self.resolved.rules.get(*n as usize))
    }

    pub(crate) fn position(&self, id: &RuleId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// Every rule, those of presets and what is built in first.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.resolved.rules.iter()
    }

    /// The policy's own name.
    pub fn name(&self) -> Option<&str> {
        self.resolved.name.as_deref()
    }

    /// What becomes of a refusal.
    pub fn mode(&self) -> Mode {
        self.resolved.mode
    }

    /// Who holds read-only opens.
    pub fn reads(&self) -> Reads {
        self.resolved.reads
    }

    /// What the program reads as its standard input.
    pub fn stdin(&self) -> Stdin {
        self.resolved.stdin
    }

    /// Capabilities that the program keeps, in the order of their numbers.
    pub fn capabilities(&self) -> std::collections::BTreeSet<Capability> {
        let objects = self.rules().flat_map(|rule| &rule.objects);
        objects
            .filter_map(|object| if let Object::Capability(kept) = object { Some(*kept) } else { None })
            .collect()
    }

    /// The patterns of those variables' names whose values are kept out of the record.
    pub fn redacted(&self) -> impl Iterator<Item = String> {
        self.resolved.redact.iter().map(|name| String::from_utf8_lossy(name.text()).into_owned())
    }

    /// Which payloads a recording keeps.
    pub fn payloads(&self) -> &Payloads {
        &self.resolved.record
    }

    /// Whom the run's names are asked of, in this order; nobody, where that is the machine's own resolver.
    pub fn upstream(&self) -> &[NameServer] {
        &self.resolved.upstream
    }

    /// Each `[[tool]]` entry: the pattern of its name, and the lists it has of its own, the empty ones too.
    pub fn tools(&self) -> impl Iterator<Item = (String, &[Key])> {
        let tools = self.resolved.tools.iter();
        tools.map(|tool| (String::from_utf8_lossy(tool.name.text()).into_owned(), tool.keys.as_slice()))
    }

    /// Whether the value of this environment variable is kept out of the record.
    pub fn redacts(&self, variable: &[u8]) -> bool {
        self.resolved.redact.iter().any(|name| name.matches(variable))
    }

    /// Whether some connections are carried, so that somebody must be there to carry them.
    pub fn carries(&self) -> bool {
        !self.index.carried.is_empty()
    }

    /// The rules because of which connections are carried.
    pub fn carried(&self) -> impl Iterator<Item = &Rule> {
        self.rules().filter(|rule| rule.carry || matches!(rule.key, Key::NetHttp | Key::Credential))
    }

    /// Whether connections to this host and port are opened, for a program in these tool scopes: rules speak of their
    /// requests, or add to them. Where not, a carried one passes as it is once its name is checked.
    pub fn opens(&self, host: &HostName, port: u16, scope: &[Text]) -> bool {
        let mut tools = Vec::new();
        scope.iter().for_each(|name| self.index.tools_of(name.as_bytes(), |tool| tools.push(tool)));
        let mut opens = false;
        self.index.carried.of_name(host, port, |term, _| {
            let tool = self.index.metas[term.rule as usize].tool;
            opens |= term.opens && tool.is_none_or(|tool| tools.contains(&tool));
        });
        opens
    }

    /// Whether any connection is opened.
    pub fn opens_any(&self) -> bool {
        let opening = |object: &Object| matches!(object, Object::Http { .. } | Object::Credential(_));
        self.rules().any(|rule| rule.objects.iter().any(opening))
    }

    /// The credentials that requests get.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.rules().flat_map(|rule| &rule.objects).filter_map(|object| match object {
            Object::Credential(credential) => Some(credential),
            _ => None,
        })
    }

    /// The budget of that name for a single message of a carried connection, and its rule: `request_bytes`,
    /// `response_bytes`.
    pub fn message_budget(&self, budget: &str) -> Option<(u64, &Rule)> {
        let of = |rule: &'_ Rule| match rule.objects.as_slice() {
            [Object::Budget { name, most }] if name == budget => Some(*most),
            _ => None,
        };
        self.rules().filter_map(|rule| Some((of(rule)?, rule))).min_by_key(|(most, _)| *most)
    }

    /// The budgets.
    pub fn limits(&self) -> &Limits {
        &self.index.limits
    }

    /// Whether some `[[tool]]` entry narrows the tool of that name.
    pub fn has_scope(&self, tool: &str) -> bool {
        let mut found = false;
        self.index.tools_of(tool.as_bytes(), |_| found = true);
        found
    }

    /// Refuses every change to these paths and to what lies below, whatever the policy says: the trace, the
    /// policy file, what host names are looked up by.
    #[must_use]
    pub fn protect(self, paths: &[AbsPath]) -> Self {
        use failcore_model::Rights;
        self.always_refuse(paths, Rights::all() - Rights::READ, "what the gate goes by stays as it is")
    }

    /// Refuses every use of these paths and of what lies below, reading too, whatever the policy says: the key that
    /// signs traces.
    #[must_use]
    pub fn hide(self, paths: &[AbsPath]) -> Self {
        self.always_refuse(paths, failcore_model::Rights::all(), "the gate's own secrets stay its own")
    }

    fn always_refuse(self, paths: &[AbsPath], rights: failcore_model::Rights, reason: &str) -> Self {
        self.with_rules(paths.iter().map(|path| Rule {
            reason: Some(reason.into()),
            always: true,
            ..Rule::new(
                RuleId::from(""),
                Key::Always,
                Effect::Forbid,
                vec![Object::File { path: Pattern::of(path), rights }],
            )
        }))
    }

    /// Permits reading one file, or one directory and below: the script of a run without a policy.
    #[must_use]
    pub fn permit_read(self, path: &AbsPath) -> Self {
        use failcore_model::Rights;
        let object = Object::File { path: Pattern::of(path), rights: Rights::READ };
        self.with_rules([Rule::new(RuleId::from(""), Key::FsRead, Effect::Permit, vec![object])])
    }

    /// Permits starting one program with exactly these arguments: the command that the user named.
    #[must_use]
    pub fn permit_exec(self, path: &AbsPath, args: &[Text]) -> Self {
        let objects = command::program(path, &Args::Exactly(args.to_vec()), &Reals::default());
        self.with_rules([Rule::new(RuleId::from(""), Key::Exec, Effect::Permit, objects)])
    }

    /// The denies that name one path, and that path: what the kernel can tell the identity of when a run begins.
    pub fn literal_denies(&self) -> Vec<(RuleId, AbsPath)> {
        let mut found = Vec::new();
        for rule in self.rules().filter(|rule| rule.effect == Effect::Forbid) {
            for object in &rule.objects {
                if let Object::File { path, .. } = object {
                    found.extend(path.literal().map(|path| (rule.id.clone(), path)));
                }
            }
        }
        found
    }

    /// Adds the identities that [`PolicySet::literal_denies`] were found to have; unknown ids are passed over.
    #[must_use]
    pub fn with_identities(mut self, ids: &[(RuleId, FileId)]) -> Self {
        for (id, file) in ids {
            let Some(n) = self.position(id) else { continue };
            let Some(rule) = self.resolved.rules.get_mut(n as usize) else { continue };
            if !rule.ids.contains(file) {
                rule.ids.push(*file);
                self.index.identify(n, rule, *file);
            }
        }
        self.written.take();
        self
    }

    /// The same on another machine, or among other files: what was held by identity is held by name alone, until it is
    /// identified anew.
    pub fn without_identities(self) -> Self {
        let mut resolved = self.resolved;
        resolved.rules.iter_mut().for_each(|rule| rule.ids.clear());
        Self::compile(resolved)
    }

    /// Whether any deny is held by identity, so that a request needs its file's identities.
    pub fn has_identities(&self) -> bool {
        self.rules().any(|rule| !rule.ids.is_empty())
    }

    /// Whether a deny is held by the identity of an open file; also where that cannot be told.
    pub fn concerns(&self, identity: impl FnOnce() -> Option<FileId>) -> bool {
        let ids = &self.index.ids;
        !ids.is_empty() && identity().is_none_or(|id| !ids.of(id).is_empty())
    }

    fn with_rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        for mut rule in rules {
            let same = self.rules().filter(|r| r.source == rule.source && r.key == rule.key).count();
            rule.id = RuleId::from(&format!("{}#{}[{same}]", rule.source, rule.key));
            rule.text = rule.objects.first().map_or_else(String::new, |object| match object {
                Object::File { path, .. } => path.to_string(),
                Object::Exec { image, .. } => image.to_string(),
                _ => String::new(),
            });
            self.by_id.insert(rule.id.clone(), self.index.metas.len() as u32);
            self.index.insert(&rule);
            self.resolved.rules.push(rule);
        }
        self.index.finish();
        self.written.take();
        self
    }
}

impl Written {
    fn of(text: &str) -> Self {
        Self { text: text.into(), digest: resolved::digest(text).into() }
    }
}

/// The policy without a rule: it refuses everything.
impl Default for PolicySet {
    fn default() -> Self {
        Self::compile(Resolved::empty())
    }
}
