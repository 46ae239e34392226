//! From a [`Document`] to rules: everything that depends on this machine is looked up here, once.

mod paths;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use failcore_model::{AbsPath, Rights, RuleId, SignalTarget};
use rustc_hash::FxHashSet;

use crate::capability::Capability;
use crate::command;
use crate::document::{
    Amount, At, Budgets, CredentialEntry, Document, Entry, Env, Fs, Native, Net, Process, Recorded, Signal,
    Tool,
};
use crate::environment::{Environment, Reals};
use crate::error::Wrong;
use crate::host;
use crate::http;
use crate::limits::{MESSAGE_BUDGETS, duration, size};
use crate::pattern::{Glob, Pattern, PatternError, alternatives};
use crate::payloads::Payloads;
use crate::resolved::{self, Resolved};
use crate::rule::{Credential, Effect, HostPattern, Key, Object, Over, Rule, Secret, Way};
use crate::set::Stdin;
use crate::upstream::NameServer;

/// Version of the policy language.
const VERSION: u32 = 1;

/// Rules and scopes on their way to a policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    rules: Vec<Rule>,
    /// The ids of the rules.
    ids: FxHashSet<RuleId>,
    tools: Vec<resolved::Tool>,
    singles: Singles,
    stdin: Stdin,
    redact: Vec<Glob>,
    upstream: Option<Vec<NameServer>>,
    payloads: Payloads,
}

/// What the keys that hold one value instead of a list grant the session; `None` is a value that grants nothing.
pub(crate) type Singles = BTreeMap<Key, Option<Rule>>;

impl Draft {
    /// Puts the file that extends these rules on top: what it says under a key of one value stands instead of theirs.
    /// Returns those ids that were taken already.
    pub(crate) fn put_on_top(&mut self, own: Self) -> Vec<RuleId> {
        self.singles.retain(|key, _| !own.singles.contains_key(key));
        if own.upstream.is_some() {
            self.upstream = None;
        }
        self.add(own)
    }

    /// Takes in another draft's rules beside these; returns those ids that were taken already.
    pub(crate) fn add(&mut self, other: Self) -> Vec<RuleId> {
        self.add_singles(other.singles);
        // What takes the input away stands, whoever says it.
        self.stdin = self.stdin.max(other.stdin);
        self.redact.extend(other.redact);
        self.payloads.add(other.payloads);
        if let Some(upstream) = other.upstream {
            self.upstream.get_or_insert_default().extend(upstream);
        }
        let offset = self.tools.len() as u16;
        let mut taken = Vec::new();
        for mut rule in other.rules {
            if !self.ids.insert(rule.id.clone()) {
                taken.push(rule.id.clone());
            }
            rule.tool = rule.tool.map(|tool| tool + offset);
            self.rules.push(rule);
        }
        self.tools.extend(other.tools);
        taken
    }

    fn push(&mut self, rule: Rule) {
        self.ids.insert(rule.id.clone());
        self.rules.push(rule);
    }

    /// Takes in values beside these: of two for one key the wider stands, as entries of two lists add up.
    pub(crate) fn add_singles(&mut self, others: Singles) {
        for (key, other) in others {
            let known = self.singles.entry(key).or_default();
            if breadth(other.as_ref()) > breadth(known.as_ref()) {
                *known = other;
            }
        }
    }

    /// What the keys of one value say.
    pub(crate) fn singles(&self) -> &Singles {
        &self.singles
    }

    /// The policy: what it is called and what becomes of refusals is the named file's say.
    pub(crate) fn finish(self, document: &Document, env: &Environment) -> Resolved {
        Resolved {
            resolved: resolved::VERSION,
            name: document.name.clone(),
            mode: document.mode,
            reads: document.trace.reads,
            stdin: self.stdin,
            redact: self.redact,
            upstream: self.upstream.unwrap_or_default(),
            run: resolved::Run::of(env),
            record: self.payloads,
            tools: self.tools,
            rules: self.rules.into_iter().chain(self.singles.into_values().flatten()).collect(),
        }
    }
}

/// How much a value under a key of one value grants.
fn breadth(rule: Option<&Rule>) -> (bool, Option<SignalTarget>) {
    let to = rule.and_then(|rule| rule.objects.first()).and_then(|object| match object {
        Object::Signal(to) => Some(*to),
        _ => None,
    });
    (rule.is_some(), to)
}

/// One text being expanded.
pub(crate) struct Expansion<'a> {
    source: &'a str,
    text: &'a str,
    dir: &'a AbsPath,
    /// Whether it ships with the program, and so may hold cautions and name what the run fills in.
    shipped: bool,
    env: &'a Environment,
    /// Where the paths lead.
    reals: Rc<Reals>,
    /// Where the lines of the text begin.
    lines: Vec<usize>,
    /// The `[[tool]]` entry being read.
    tool: Option<u16>,
    draft: Draft,
    wrongs: Vec<(Range<usize>, Wrong)>,
}

impl<'a> Expansion<'a> {
    pub(crate) fn new(
        source: &'a str,
        text: &'a str,
        dir: &'a AbsPath,
        shipped: bool,
        env: &'a Environment,
        reals: Rc<Reals>,
    ) -> Self {
        Self {
            source,
            text,
            dir,
            shipped,
            env,
            reals,
            lines: std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect(),
            tool: None,
            draft: Draft::default(),
            wrongs: Vec::new(),
        }
    }

    /// The rules, and what is wrong.
    pub(crate) fn done(self) -> (Draft, Vec<(Range<usize>, Wrong)>) {
        (self.draft, self.wrongs)
    }

    pub(crate) fn document(&mut self, document: &Document) {
        if let Some(version) = document.version.as_ref().filter(|v| *v.get() != VERSION) {
            let wrong = Wrong::new(format!("policy version {} is not known", version.get()));
            self.wrongs.push((version.span(), wrong.help(format!("this FailCore reads version {VERSION}"))));
        }
        self.lists(&document.fs, &document.net, &document.process, &document.env, &document.native);
        let Budgets { wall_time, memory, processes, connections, write_bytes, operations } = &document.limits;
        self.budget("wall_time", wall_time, |text| {
            duration(text).ok_or("write it as `30m`, `90s` or `1h30m`")
        });
        let Net { request_bytes, response_bytes, .. } = &document.net;
        for (name, amount) in [
            ("memory", memory),
            ("write_bytes", write_bytes),
            ("request_bytes", request_bytes),
            ("response_bytes", response_bytes),
        ] {
            self.budget(name, amount, bytes);
        }
        self.payloads(&document.record);
        for (n, credential) in document.credential.iter().enumerate() {
            self.credential(n, credential);
        }
        for (name, count) in
            [("processes", processes), ("connections", connections), ("operations", operations)]
        {
            self.budget(name, count, |count| Ok(*count));
        }
        self.draft.stdin = document.io.stdin;
        for (n, name) in document.capabilities.keep.iter().flatten().enumerate() {
            match Capability::named(&name.get().0) {
                Ok(kept) => {
                    let id = RuleId::from(&format!("{}#{}[{n}]", self.source, Key::Capabilities));
                    let objects = vec![Object::Capability(kept)];
                    let rule = self.rule(Key::Capabilities, id, name.span(), name.get().0.clone(), objects);
                    self.draft.push(rule);
                }
                Err(wrong) => self.wrongs.push((name.span(), wrong)),
            }
        }
        let unmapped = document.unmapped.permit.as_deref();
        self.list(Key::Unmapped, unmapped, |e| &e.0, |_, entry| name_object(entry, Object::Unmapped));
        for name in &document.trace.redact {
            match Glob::parse(name.get().as_bytes()) {
                Ok(name) => self.draft.redact.push(name),
                Err(error) => self.wrongs.push((name.span(), wrong_pattern(error))),
            }
        }
        if let Some(upstream) = &document.dns.upstream {
            let mut servers = Vec::new();
            for server in upstream {
                match NameServer::parse(server.get()) {
                    Ok(server) => servers.push(server),
                    Err(wrong) => self.wrongs.push((server.span(), wrong)),
                }
            }
            self.draft.upstream = Some(servers);
        }
        for (n, tool) in document.tool.iter().enumerate() {
            self.scope(n, tool);
        }
    }

    fn scope(&mut self, n: usize, at: &At<Tool>) {
        let tool = at.get();
        let name = match Glob::parse(tool.name.get().as_bytes()) {
            Ok(name) => name,
            Err(error) => return self.wrongs.push((tool.name.span(), Wrong::new(error.to_string()))),
        };
        let id = RuleId::from(&format!("{}#tool[{n}]", self.source));
        let keys = [
            (Key::FsRead, tool.fs.read.is_some()),
            (Key::FsWrite, tool.fs.write.is_some()),
            (Key::NetConnect, tool.net.connect.is_some()),
            (Key::NetHttp, tool.net.http.is_some()),
            (Key::NetListen, tool.net.listen.is_some()),
            (Key::NetSocket, tool.net.socket.is_some()),
            (Key::Exec, tool.process.exec.is_some()),
            (Key::Signal, tool.process.signal.is_some()),
            (Key::Limit, tool.process.limit.is_some()),
            (Key::Native, tool.native.load.is_some()),
        ];
        let keys = keys.into_iter().filter(|(_, own)| *own).map(|(key, _)| key).collect();
        let budgets =
            [("request_bytes", &tool.net.request_bytes), ("response_bytes", &tool.net.response_bytes)];
        for (name, value) in budgets {
            if let Some(value) = value {
                let wrong = Wrong::new(format!("`{name}` of a single tool is not held"));
                self.wrongs.push((value.span(), wrong.help("it is the whole session's, under `[net]`")));
            }
        }
        if let Some(env) = &tool.env {
            let wrong = Wrong::new("the environment of a single tool is not held").help(
                "variables are the whole program's from its start: name them in `[env] pass`, or not at all",
            );
            self.wrongs.push((env.span(), wrong));
        }
        self.tool = Some(self.draft.tools.len() as u16);
        let rule = self.rule(Key::Tool, id.clone(), tool.name.span(), tool.name.get().clone(), Vec::new());
        self.draft.push(Rule { effect: Effect::Forbid, ..rule });
        self.draft.tools.push(resolved::Tool { name, keys, rule: id });
        self.lists(&tool.fs, &tool.net, &tool.process, &Env::default(), &tool.native);
        self.tool = None;
    }

    fn lists(&mut self, fs: &Fs, net: &Net, process: &Process, env: &Env, native: &Native) {
        if !self.shipped {
            let spans = fs.caution.iter().flatten().map(At::span);
            let spans: Vec<_> = spans.chain(net.caution.iter().flatten().map(At::span)).collect();
            for span in spans {
                let wrong = Wrong::new("there is no key `caution` here")
                    .help("cautions are the presets'; write `deny`");
                self.wrongs.push((span, wrong));
            }
        }
        let lists = [
            (Key::FsRead, &fs.read),
            (Key::FsWrite, &fs.write),
            (Key::FsDeny, &fs.deny),
            (Key::FsCaution, &fs.caution),
        ];
        for (key, list) in lists {
            let standard = match key {
                Key::FsRead => Rights::READ,
                Key::FsWrite => Rights::WRITE,
                _ => Rights::all(),
            };
            self.list(
                key,
                list.as_deref(),
                |e| &e.0,
                |this, entry| {
                    let rights = entry.only.unwrap_or(standard);
                    if key == Key::FsRead && !Rights::READ.contains(rights) {
                        return Err(
                            Wrong::new("an entry of `read` grants reading only").help("put it under `write`")
                        );
                    }
                    let paths = this.paths(&entry.object)?;
                    Ok(paths.into_iter().map(|path| Object::File { path, rights }).collect())
                },
            );
        }
        self.list(
            Key::NetConnect,
            net.connect.as_deref(),
            |e| &e.0,
            |this, entry| {
                let objects = this.endpoints(&entry.object, Way::Out)?;
                match objects.as_slice() {
                    _ if !entry.carry => Ok(objects),
                    [Object::Net { over: Over::Tcp, host, .. }] if !matches!(host, HostPattern::Range(_)) => {
                        Ok(objects)
                    }
                    _ => Err(Wrong::new(format!("`{}` cannot be carried", entry.object)).help(
                        "on a carried connection the name of the host is checked, over TCP: an address has none",
                    )),
                }
            },
        );
        self.list(Key::NetHttp, net.http.as_deref(), |e| &e.0, |_, entry| http::requests(&entry.object));
        let lists = [
            (Key::NetListen, &net.listen, Way::In),
            (Key::NetDeny, &net.deny, Way::Both),
            (Key::NetCaution, &net.caution, Way::Both),
        ];
        for (key, list, way) in lists {
            self.list(key, list.as_deref(), |e| &e.0, |this, entry| this.endpoints(&entry.object, way));
        }
        self.list(
            Key::NetSocket,
            net.socket.as_deref(),
            |e| &e.0,
            |_, e| host::socket(&e.object).map(|o| vec![o]),
        );
        self.list(Key::Exec, process.exec.as_deref(), |e| &e.0, |this, entry| this.command(&entry.object));
        if let Some(signal) = &process.signal {
            let level = match signal.get() {
                Signal::None => None,
                Signal::Own => Some(SignalTarget::Own),
                Signal::Children => Some(SignalTarget::Child),
                Signal::Run => Some(SignalTarget::Run),
            };
            self.single(Key::Signal, signal.span(), level.map(Object::Signal));
        }
        if let Some(limit) = &process.limit {
            self.single(Key::Limit, limit.span(), limit.get().then_some(Object::Limit));
        }
        self.list(Key::Env, env.pass.as_deref(), |e| &e.0, |_, entry| name_object(entry, Object::Env));
        self.list(
            Key::Native,
            native.load.as_deref(),
            |e| &e.0,
            |this, entry| match entry.object.as_str() {
                "ctypes" => Ok(vec![Object::Ffi]),
                "site-packages" => {
                    let dirs = this.env.python.iter().flat_map(|python| &python.site_packages);
                    let both = dirs.flat_map(|dir| this.with_real(Pattern::of(dir)));
                    Ok(both.map(Object::Library).collect())
                }
                path => Ok(this.paths(path)?.into_iter().map(Object::Library).collect()),
            },
        );
    }

    /// Turns one list into rules, entry by entry.
    fn list<E>(
        &mut self,
        key: Key,
        list: Option<&[At<E>]>,
        entry: impl Fn(&E) -> &Entry,
        objects: impl Fn(&Self, &Entry) -> Result<Vec<Object>, Wrong>,
    ) {
        for (n, at) in list.into_iter().flatten().enumerate() {
            let (span, entry) = (at.span(), entry(at.get()));
            let effect = match key {
                Key::FsDeny | Key::NetDeny => Effect::Forbid,
                Key::FsCaution | Key::NetCaution => Effect::Caution,
                _ => Effect::Permit,
            };
            let grant_only =
                [("approve", entry.approve), ("until", entry.until.is_some()), ("audit", entry.audit)];
            if let Some((name, _)) = grant_only.iter().find(|(_, set)| *set && effect != Effect::Permit) {
                let wrong = Wrong::new(format!("`{name}` says nothing on a deny"));
                self.wrongs.push((span.clone(), wrong.help("a deny stands for everyone, without end")));
            }
            let per_operation = [("approve", entry.approve), ("audit", entry.audit)];
            if let Some((name, _)) = per_operation.iter().find(|(_, set)| *set && key == Key::Env) {
                let wrong = Wrong::new(format!("`{name}` is not held under `[env]`")).help(
                    "the program has its variables from the start: none is asked for that could be judged",
                );
                self.wrongs.push((span.clone(), wrong));
            }
            if entry.only == Some(Rights::empty()) {
                self.wrongs.push((span.clone(), Wrong::new("`only = []` leaves nothing of the entry")));
            }
            match objects(self, entry) {
                Ok(objects) => {
                    let id = match (&entry.id, self.tool) {
                        (Some(id), _) => RuleId::from(id),
                        (None, None) => RuleId::from(&format!("{}#{key}[{n}]", self.source)),
                        (None, Some(tool)) => {
                            RuleId::from(&format!("{}#tool[{tool}].{key}[{n}]", self.source))
                        }
                    };
                    let text = if entry.plain { None } else { self.text.get(span.clone()) };
                    let text = text.unwrap_or(&entry.object).to_owned();
                    let rule = self.rule(key, id, span.clone(), text, objects);
                    if self.draft.ids.contains(&rule.id) {
                        let wrong = Wrong::new(format!("the id `{}` is taken already", rule.id));
                        self.wrongs
                            .push((span, wrong.help("ids name rules in decisions; each stands for one")));
                        continue;
                    }
                    self.draft.push(Rule {
                        effect,
                        reason: entry.reason.clone(),
                        until: entry.until,
                        approve: entry.approve,
                        audit: entry.audit,
                        carry: entry.carry,
                        ..rule
                    });
                }
                Err(wrong) => self.wrongs.push((span, wrong)),
            }
        }
    }

    /// A rule from a key that holds one value.
    fn single(&mut self, key: Key, span: Range<usize>, object: Option<Object>) {
        let id = match self.tool {
            None => RuleId::from(&format!("{}#{key}", self.source)),
            Some(tool) => RuleId::from(&format!("{}#tool[{tool}].{key}", self.source)),
        };
        let text = self.text.get(span.clone()).unwrap_or_default().to_owned();
        let rule = object.map(|object| self.rule(key, id, span, text, vec![object]));
        if self.tool.is_some() {
            rule.into_iter().for_each(|rule| self.draft.push(rule));
        } else {
            self.draft.singles.insert(key, rule);
        }
    }

    fn budget<T>(
        &mut self,
        name: &str,
        value: &Option<At<T>>,
        read: impl Fn(&T) -> Result<u64, &'static str>,
    ) {
        let (Some(most), Some(value)) = (self.amount(name, value, read), value) else { return };
        let text = self.text.get(value.span()).unwrap_or_default().to_owned();
        let section = if MESSAGE_BUDGETS.contains(&name) { "net" } else { "limits" };
        let id = RuleId::from(&format!("{}#{section}.{name}", self.source));
        let object = Object::Budget { name: name.into(), most };
        let rule = self.rule(Key::Limits, id, value.span(), text, vec![object]);
        self.draft.push(Rule { effect: Effect::Forbid, ..rule });
    }

    /// The amount of a key that makes no rule.
    fn amount<T>(
        &mut self,
        name: &str,
        value: &Option<At<T>>,
        read: impl Fn(&T) -> Result<u64, &'static str>,
    ) -> Option<u64> {
        let value = value.as_ref()?;
        // The resolved policy is TOML too, whose integers have a sign.
        let small = |most: u64| i64::try_from(most).map(|_| most).map_err(|_| "nothing is as large as that");
        match read(value.get()).and_then(small) {
            Ok(most) => Some(most),
            Err(help) => {
                let text = self.text.get(value.span()).unwrap_or_default();
                let wrong = Wrong::new(format!("`{name}` is {text}, which is no amount")).help(help);
                self.wrongs.push((value.span(), wrong));
                None
            }
        }
    }

    fn payloads(&mut self, record: &Recorded) {
        let max_file = self.amount("max_file", &record.max_file, bytes);
        let max_total = self.amount("max_total", &record.max_total, bytes);
        let keep = record.keep.as_deref().map(|entries| self.patterns(entries));
        let hash_only = self.patterns(&record.hash_only);
        self.draft.payloads = Payloads { max_file, max_total, keep, hash_only };
    }

    fn patterns(&mut self, entries: &[At<String>]) -> Vec<Pattern> {
        let mut found = Vec::new();
        for entry in entries {
            match self.paths(entry.get()) {
                Ok(paths) => found.extend(paths),
                Err(wrong) => self.wrongs.push((entry.span(), wrong)),
            }
        }
        found
    }

    fn rule(&self, key: Key, id: RuleId, span: Range<usize>, text: String, objects: Vec<Object>) -> Rule {
        let line = self.lines.partition_point(|begin| *begin <= span.start);
        let begin = self.lines.get(line.wrapping_sub(1)).copied().unwrap_or_default();
        let column = self.text.get(begin..span.start).unwrap_or_default().chars().count() + 1;
        let mut rule = Rule::new(id, key, Effect::Permit, objects);
        rule.source = self.source.into();
        (rule.line, rule.column) = (line as u32, column as u32);
        rule.text = text;
        rule.tool = self.tool;
        rule
    }

    fn command(&self, text: &str) -> Result<Vec<Object>, Wrong> {
        let words = command::words(text)?;
        let Some((program, rest)) = words.split_first() else {
            return Err(Wrong::new("an empty command names no program"));
        };
        if program == "*" {
            return Err(Wrong::new("`*` names no program").help("a path pattern such as `/usr/bin/*` does"));
        }
        let args = command::args(rest);
        if program.contains('/') || program.starts_with(['~', '$']) {
            let patterns = self.written(program)?;
            return Ok(patterns
                .into_iter()
                .flat_map(|pattern| match pattern.literal() {
                    Some(path) => command::program(&path, &args, &self.reals),
                    None => self.with_real(pattern).flat_map(|p| command::programs(&p, &args)).collect(),
                })
                .collect());
        }
        // A program that is not installed grants nothing; `check` says so.
        let found = self.env.look_up(program.as_ref());
        Ok(found.map(|path| command::program(&path, &args, &self.reals)).unwrap_or_default())
    }

    fn credential(&mut self, n: usize, at: &At<CredentialEntry>) {
        match self.secret(at.get()) {
            Ok(credential) => {
                let id = match &at.get().id {
                    Some(id) => RuleId::from(id),
                    None => RuleId::from(&format!("{}#{}[{n}]", self.source, Key::Credential)),
                };
                let text = format!("{} for {}", at.get().header, at.get().host);
                let rule =
                    self.rule(Key::Credential, id, at.span(), text, vec![Object::Credential(credential)]);
                self.draft.push(rule);
            }
            Err(wrong) => self.wrongs.push((at.span(), wrong)),
        }
    }

    fn secret(&self, entry: &CredentialEntry) -> Result<Credential, Wrong> {
        let (host, port) = match host::named(&entry.host, http::HTTPS)? {
            (HostPattern::Name(host), (first, last)) if first == last => (host, first),
            _ => {
                return Err(Wrong::new(format!("`{}` is not one host with one port", entry.host))
                    .help("a secret is for one host: name it, as `api.example.com`"));
            }
        };
        let header = entry.header.to_ascii_lowercase();
        http::check_header(&header)?;
        if !entry.prefix.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(Wrong::new("the prefix has characters that no header has"));
        }
        let from = match (&entry.env, &entry.file) {
            (Some(name), None) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Secret::Env(name.clone())
            }
            (None, Some(file)) => match self.written(file)?.as_slice() {
                [pattern] => match pattern.literal() {
                    Some(path) => Secret::File(path),
                    None => return Err(Wrong::new(format!("`{file}` is not one file"))),
                },
                _ => return Err(Wrong::new(format!("`{file}` is not one file"))),
            },
            _ => {
                return Err(Wrong::new("a credential's secret is in one place").help(
                    "name the variable that holds it with `env`, or its file with `file`; it is never written here",
                ));
            }
        };
        Ok(Credential { host, port, header, prefix: entry.prefix.clone(), from })
    }

    /// An entry about endpoints of either kind.
    fn endpoints(&self, text: &str, way: Way) -> Result<Vec<Object>, Wrong> {
        match text.strip_prefix("unix:") {
            Some(path) => self.unix(path, way),
            None => host::internet(text, way, self.shipped).map(|object| vec![object]),
        }
    }

    fn unix(&self, text: &str, way: Way) -> Result<Vec<Object>, Wrong> {
        if let Some(name) = text.strip_prefix('@') {
            let name = Glob::parse(name.as_bytes()).map_err(wrong_pattern)?;
            return Ok(vec![Object::UnixName { name, way }]);
        }
        if text == "*" {
            let name = Glob::parse(b"*").map_err(wrong_pattern)?;
            return Ok(vec![
                Object::UnixPath { path: Pattern::of(&AbsPath::root()), way },
                Object::UnixName { name, way },
            ]);
        }
        Ok(self.paths(text)?.into_iter().map(|path| Object::UnixPath { path, way }).collect())
    }
}

/// The bytes of an amount, or how to write one.
fn bytes(amount: &Amount) -> Result<u64, &'static str> {
    match amount {
        Amount::Bytes(bytes) => Ok(*bytes),
        Amount::Text(text) => size(text).ok_or("write it as `2GiB`, `500MB` or a number of bytes"),
    }
}

fn name_object(entry: &Entry, object: impl Fn(Glob) -> Object) -> Result<Vec<Object>, Wrong> {
    if entry.object.is_empty() {
        return Err(Wrong::new("an empty name names nothing"));
    }
    let alternatives = alternatives(entry.object.as_bytes()).map_err(wrong_pattern)?;
    alternatives.iter().map(|text| Glob::parse(text).map(&object).map_err(wrong_pattern)).collect()
}

fn wrong_pattern(error: PatternError) -> Wrong {
    Wrong::new(error.to_string())
}
