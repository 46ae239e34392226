//! What was recorded, read back from a trace.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use failcore_gate::expected::Expected;
use failcore_model::heard::{Asked, Payload, Said};
use failcore_model::input::{Input, Kind, Moment, Name, Shown, Start, Told};
use failcore_model::{AbsPath, Action, Event, Record, Text};

use crate::instead;
use crate::known::Known;
use crate::layout::Unready;
use crate::replayed::Replayed;
use crate::shapes::Shapes;
use crate::store::{Objects, sha256};

/// All that a program learnt from outside.
#[derive(Debug)]
pub struct Recording {
    /// How it was started.
    pub start: Start,
    /// What stood at each path at first.
    pub(crate) nodes: BTreeMap<Vec<u8>, Node>,
    /// What its standard input gave, and where in a file it began to read.
    stdin: Option<(Contents, Option<u64>)>,
    values: Values,
    /// What others answered, in the order of each question.
    heard: Answers,
    /// What stands in place of objects, by SHA-256.
    pub(crate) set: HashMap<String, Vec<u8>>,
    /// What the program left, by path.
    left: BTreeMap<Vec<u8>, Option<String>>,
    /// What others changed meanwhile.
    others: Vec<Vec<u8>>,
}

/// What the standard input gives.
#[derive(Debug, Clone)]
pub struct Given {
    /// Of a file all that it holds, of anything else all that comes of it.
    pub bytes: Arc<[u8]>,
    /// Where in a file the program begins to read; nothing, where it is none.
    pub at: Option<u64>,
}

/// What others answered, by what they were asked.
pub(crate) type Answers = HashMap<Asked, Vec<(Said, Option<Payload>)>>;

/// What single threads were told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values {
    /// By thread and clock.
    pub(crate) clocks: HashMap<(String, i32), Vec<Moment>>,
    pub(crate) random: HashMap<String, Vec<Vec<u8>>>,
}

impl Values {
    /// When a clock was first asked by anybody.
    pub(crate) fn first(&self, clock: i32) -> Option<Moment> {
        let of_clock = self.clocks.iter().filter(|((_, of), _)| *of == clock);
        of_clock.filter_map(|(_, said)| said.first().copied()).min()
    }

    fn add(&mut self, thread: &Text, told: Told) {
        let thread = thread.to_string();
        match told {
            Told::Clock { clock, at } => self.clocks.entry((thread, clock)).or_default().push(at),
            Told::Random { bytes } => self.random.entry(thread).or_default().push(bytes.as_bytes().to_vec()),
        }
    }
}

/// What stood at one path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Absent,
    Link { target: Vec<u8>, made: Option<(Moment, Shown)> },
    Directory { mode: u32, modified: Moment, names: Option<Vec<Name>>, shown: Option<Shown> },
    File { mode: u32, modified: Moment, size: u64, contents: Option<Contents>, shown: Option<Shown> },
    Special,
}

/// What a file held.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Contents {
    pub(crate) sha256: String,
    pub(crate) size: u64,
    pub(crate) kept: bool,
}

/// A trace that no program can be run again from.
#[derive(Debug, thiserror::Error)]
pub enum BadRecording<E> {
    /// It was not recorded.
    #[error("this run was not recorded")]
    None,
    /// Something of it was not kept.
    #[error("the recording is not whole: {0}")]
    Broken(String),
    /// It makes no sense.
    #[error("the recording makes no sense at record {seq}: {why}")]
    Nonsense {
        /// The record's number.
        seq: u64,
        /// Why.
        why: &'static str,
    },
    /// What was to be put in its place cannot be.
    #[error("nothing else can stand in place of record {seq}: {why}")]
    NotSet {
        /// The record's number.
        seq: u64,
        /// Why.
        why: &'static str,
    },
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(E),
}

impl Recording {
    /// Gathers what a trace's records say.
    ///
    /// # Errors
    /// [`BadRecording`].
    pub fn read<E>(records: impl IntoIterator<Item = Result<Record, E>>) -> Result<Self, BadRecording<E>> {
        Self::with(records, HashMap::new())
    }

    /// The same with other answers in place of some that were recorded ([`instead::put`]), by the record's number.
    ///
    /// # Errors
    /// [`BadRecording`].
    pub fn with<E>(
        records: impl IntoIterator<Item = Result<Record, E>>,
        mut others: HashMap<u64, Vec<u8>>,
    ) -> Result<Self, BadRecording<E>> {
        let mut set = HashMap::new();
        let (mut start, mut stdin) = (None, None);
        let (mut nodes, mut values, mut heard) = (BTreeMap::new(), Values::default(), Answers::new());
        let (mut left, mut changed) = (BTreeMap::new(), HashSet::new());
        for record in records {
            let Record { seq, mut event, .. } = record.map_err(BadRecording::Trace)?;
            if let Some(bytes) = others.remove(&seq) {
                let hash = instead::put(&mut event, &bytes);
                set.extend(hash.map_err(|why| BadRecording::NotSet { seq, why })?.map(|hash| (hash, bytes)));
            }
            let nonsense = |why| BadRecording::Nonsense { seq, why };
            match event {
                Event::RecordingStarted { start: said } => start = Some(*said),
                Event::Input { input: Input::Stdin { sha256, size, kept, at }, .. } => {
                    if !is_hash(&sha256) {
                        return Err(nonsense("the hash is none"));
                    }
                    stdin = Some((Contents { sha256, size, kept }, at));
                }
                Event::Input { path, input } => {
                    let path = place(&path).ok_or(nonsense("the path is none"))?;
                    add(&mut nodes, path, input).map_err(nonsense)?;
                }
                Event::Decided { request, decision, .. } if decision.is_allow() => {
                    changed.extend(changes(&request.action).into_iter().map(|path| path.as_bytes().to_vec()));
                }
                Event::Left { path, sha256 } => {
                    left.insert(place(&path).ok_or(nonsense("the path is none"))?, sha256);
                }
                Event::RecordingBroken { text } => return Err(BadRecording::Broken(text)),
                Event::Told { thread, told } => values.add(&thread, told),
                Event::Heard { asked, said, payload } => {
                    heard.entry(asked).or_default().push((said, payload));
                }
                _ => {}
            }
        }
        if let Some(seq) = others.into_keys().min() {
            return Err(BadRecording::NotSet { seq, why: "there is none" });
        }
        // What the program only read was changed by others, unless it moved what it lies in.
        let meanwhile = left.keys().filter(|path| !is_within(path, &changed)).cloned().collect();
        left.retain(|path, _| changed.contains(path));
        Ok(Self {
            start: start.ok_or(BadRecording::None)?,
            nodes,
            stdin,
            values,
            heard,
            set,
            left,
            others: meanwhile,
        })
    }

    /// What the program's standard input gives again; nothing, where it gave nothing or nobody knows what. What was not kept
    /// is what `own` holds, if that is the same.
    ///
    /// # Errors
    /// [`Unready`], where it is not.
    pub fn stdin(&self, objects: &Objects, own: &mut impl Read) -> Result<Option<Given>, Unready> {
        let Some((contents, at)) = &self.stdin else { return Ok(None) };
        let bytes = if let Some(bytes) = self.set.get(&contents.sha256) {
            bytes.clone()
        } else if contents.kept {
            objects.get(&contents.sha256, contents.size)?
        } else {
            let mut bytes = Vec::new();
            let read = own.take(contents.size.saturating_add(1)).read_to_end(&mut bytes);
            if read.is_err() || sha256(&bytes) != contents.sha256 {
                return Err(Unready::Ungiven);
            }
            bytes
        };
        Ok(Some(Given { bytes: bytes.into(), at: *at }))
    }

    /// The files that the program looked at and others changed while it was recorded. It finds them as they were at first.
    pub fn changed_by_others(&self) -> impl Iterator<Item = &Path> {
        self.others.iter().map(|path| Path::new(OsStr::from_bytes(path)))
    }

    /// Who tells the program what it was told, and answers it as others did; where it asks them something else, that is told
    /// to `expected`.
    pub fn replayed(self, objects: Objects, expected: Arc<Expected>) -> Replayed {
        let (known, shapes) = (Known::of(&self.nodes), Shapes::of(&self.nodes));
        Replayed::new((known, shapes), self.values, self.heard, self.left, objects.with(self.set), expected)
    }

    /// What stands in each directory, apart from what a listing says.
    pub(crate) fn children(&self) -> HashMap<&[u8], Vec<&[u8]>> {
        let mut children: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for (path, node) in &self.nodes {
            if path.len() > 1 && *node != Node::Absent {
                let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                let parent: &[u8] = if at == 0 { b"/" } else { &path[..at] };
                children.entry(parent).or_default().push(&path[at + 1..]);
            }
        }
        children
    }
}

/// The files that an action changes.
fn changes(action: &Action) -> Vec<&AbsPath> {
    match action {
        Action::Open { file, .. } if !action.reads() => vec![&file.path],
        Action::Create(file) | Action::Modify(file) | Action::Delete(file) => vec![&file.path],
        Action::Rename { from, to } => vec![&from.path, &to.path],
        Action::Link { to, .. } => vec![&to.path],
        _ => Vec::new(),
    }
}

/// A path that leads nowhere but below a root.
fn place(path: &Text) -> Option<Vec<u8>> {
    let bytes = path.as_bytes();
    let rest = bytes.strip_prefix(b"/")?;
    let clean = rest.is_empty() || rest.split(|byte| *byte == b'/').all(is_name);
    (clean && !bytes.contains(&0)).then(|| bytes.to_vec())
}

/// Whether a path, or a directory that it lies in, is among these.
fn is_within(path: &[u8], all: &HashSet<Vec<u8>>) -> bool {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    ends.chain([path.len()]).any(|end| all.contains(&path[..end]))
}

fn is_hash(sha256: &str) -> bool {
    sha256.len() == 64 && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

fn add(nodes: &mut BTreeMap<Vec<u8>, Node>, path: Vec<u8>, input: Input) -> Result<(), &'static str> {
    let new = match input {
        Input::Absent => Node::Absent,
        Input::Link { target, .. } if target.as_bytes().contains(&0) => return Err("a link leads nowhere"),
        Input::Link { target, modified, shown } => {
            Node::Link { target: target.as_bytes().to_vec(), made: modified.zip(shown) }
        }
        Input::Directory { mode, modified, shown } => Node::Directory { mode, modified, names: None, shown },
        Input::File { mode, modified, size, shown } => {
            Node::File { mode, modified, size, contents: None, shown }
        }
        Input::Special { .. } => Node::Special,
        Input::Stdin { .. } => return Err("the standard input is no file"),
        Input::Names { names: listed } => {
            if !listed.iter().all(|name| is_name(name.name.as_bytes())) {
                return Err("a name in a directory is none");
            }
            return match nodes.get_mut(&path) {
                Some(Node::Directory { names, .. }) => {
                    *names = Some(listed);
                    Ok(())
                }
                _ => Err("names in what is no directory"),
            };
        }
        Input::Contents { sha256, size, kept } => {
            if !is_hash(&sha256) {
                return Err("the hash is none");
            }
            return match nodes.get_mut(&path) {
                Some(Node::File { contents, .. }) => {
                    *contents = Some(Contents { sha256, size, kept });
                    Ok(())
                }
                _ => Err("contents of what is no file"),
            };
        }
    };
    match nodes.insert(path, new) {
        None => Ok(()),
        Some(_) => Err("the same path stands twice"),
    }
}

impl Node {
    /// What a name in a listing says of what bears it.
    pub(crate) fn of(kind: Kind) -> Self {
        let modified = Moment { s: 0, ns: 0 };
        match kind {
            Kind::File => Self::File { mode: 0o600, modified, size: 0, contents: None, shown: None },
            Kind::Directory => Self::Directory { mode: 0o700, modified, names: None, shown: None },
            // Nobody followed it.
            Kind::Link => Self::Link { target: b"unrecorded".to_vec(), made: None },
            Kind::Other => Self::Special,
        }
    }
}

#[cfg(test)]
mod tests {
    use failcore_model::Timestamp;

    use super::*;

    fn records(events: Vec<Event>) -> Vec<Result<Record, ()>> {
        let record = |(seq, event)| Ok(Record { seq, ts: Timestamp(1), session: "s".into(), event });
        (0..).zip(events).map(record).collect()
    }

    fn started() -> Event {
        Event::RecordingStarted { start: Box::default() }
    }

    fn input(path: &str, input: Input) -> Event {
        Event::Input { path: path.into(), input }
    }

    #[test]
    fn what_leads_out_of_the_tree_is_refused() {
        for path in ["", "a", "/../a", "/a/../../b", "//a", "/a/", "/a\0b"] {
            let read = Recording::read(records(vec![started(), input(path, Input::Absent)]));
            assert!(matches!(read, Err(BadRecording::Nonsense { seq: 1, .. })), "{path:?}");
        }
        let directory = Input::Directory { mode: 0o755, modified: Moment { s: 0, ns: 0 }, shown: None };
        for name in ["..", ".", "", "a/b"] {
            let names = Input::Names { names: vec![Name { name: name.into(), kind: Kind::File }] };
            let events = vec![started(), input("/a", directory.clone()), input("/a", names)];
            assert!(matches!(Recording::read(records(events)), Err(BadRecording::Nonsense { seq: 2, .. })));
        }
        for hash in ["", "../../etc/passwd", &"g".repeat(64)] {
            let file = Input::File { mode: 0o600, modified: Moment { s: 0, ns: 0 }, size: 1, shown: None };
            let contents = Input::Contents { sha256: hash.into(), size: 1, kept: true };
            let events = vec![started(), input("/a", file), input("/a", contents)];
            assert!(matches!(Recording::read(records(events)), Err(BadRecording::Nonsense { seq: 2, .. })));
        }
    }

    #[test]
    fn what_lies_in_what_was_moved_was_changed_by_the_program() {
        let all = HashSet::from([b"/w/a".to_vec()]);
        for (path, within) in [("/w/a", true), ("/w/a/f", true), ("/w/ab", false), ("/w", false)] {
            assert_eq!(is_within(path.as_bytes(), &all), within, "{path}");
        }
    }

    #[test]
    fn what_is_not_whole_is_no_recording() {
        let broken = vec![started(), Event::RecordingBroken { text: "no room".into() }];
        let read = Recording::read(records(broken));
        assert!(matches!(read, Err(BadRecording::Broken(why)) if why == "no room"));
    }

    #[test]
    fn a_run_that_was_not_recorded_says_so() {
        let closed = Event::SessionClosed { exit: Some(0) };
        assert!(matches!(Recording::read(records(vec![closed])), Err(BadRecording::None)));
    }
}
