//! Whether a trace is what was signed, and if not, which record is the first that is not.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use failcore_model::Event;
use memchr::memmem::Finder;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tlog_tiles::tlog::Hash;

use crate::checkpoint::{Checkpoints, Head};
use crate::lines::{Lines, Step};
use crate::merkle::{Frontier, record_hash};
use crate::{TraceError, VerifyingKey, layout, reader};

/// What stands in a record that closes a session.
static CLOSES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""type":"session.closed""#));

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The session the checkpoints name.
    pub session: Option<String>,
    /// Whole lines found.
    pub records: u64,
    /// Records found to be what a checkpoint signed.
    pub signed: u64,
    /// Checkpoints with a good signature that were reached.
    pub checkpoints: u64,
    /// Segments found.
    pub segments: u32,
    /// Their length in bytes.
    pub bytes: u64,
    /// The root over the signed records, in base64.
    pub root: String,
    /// The key that the signatures were checked with.
    pub key: String,
    /// The answer.
    #[serde(flatten)]
    pub integrity: Integrity,
}

/// The answer of [`verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "integrity", rename_all = "snake_case")]
pub enum Integrity {
    /// Every record is what was signed, and the session was closed.
    Valid,
    /// Nothing signed was altered, but the session was never closed: records may be missing at the end, and the last
    /// `unsigned` ones carry no signature.
    NotClosed {
        /// Records after the last checkpoint.
        unsigned: u64,
        /// Bytes of a last line without an end, if there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        torn: Option<u64>,
    },
    /// Something was changed, removed, inserted or reordered.
    Altered(Alteration),
}

/// Where a trace stops being what was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alteration {
    /// The first record that is not what was signed.
    pub seq: u64,
    /// Where the trace does not tell the exact record: the last one that it could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<u64>,
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1, where it is a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What is wrong with an altered trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Flaw {
    /// The record was changed.
    #[error("the record was changed")]
    Changed,
    /// The record is gone; the one after it stands in its place.
    #[error("the record was removed")]
    Removed,
    /// Something stands before the record that does not belong there.
    #[error("a line was inserted before the record")]
    Inserted,
    /// Records changed places; this is the first of them.
    #[error("the record changed places with another")]
    Reordered,
    /// The trace ends before the last signed record.
    #[error("the trace was cut off before the record")]
    Cut,
    /// Something stands after the end of the session.
    #[error("lines were added after the end of the session")]
    Added,
    /// A line that no checkpoint covers is no record of this trace.
    #[error("the line is no record of this trace: {0}")]
    Foreign(String),
    /// The file of checkpoints does not hold what was signed.
    #[error("the checkpoints were changed: {0}")]
    Checkpoints(String),
    /// The file of leaf hashes is not what was signed; the records are.
    #[error("the leaf hashes were changed")]
    Leaves,
    /// The policy beside the trace is not the one the session was opened with.
    #[error("the policy is not the one that the session was opened with")]
    Policy,
}

impl Report {
    /// Whether everything is as it was signed and closed.
    pub fn is_valid(&self) -> bool {
        self.integrity == Integrity::Valid
    }
}

impl fmt::Display for Report {
    /// One line that says it all; `failcore trace verify` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = |n: u64| if n == 1 { "1 record".to_owned() } else { format!("{n} records") };
        match &self.integrity {
            Integrity::Valid => write!(f, "valid: {}, root {}", records(self.records), self.root),
            Integrity::NotClosed { unsigned, torn } => {
                write!(
                    f,
                    "not closed: {} as signed, {unsigned} more without a signature",
                    records(self.signed)
                )?;
                match torn {
                    Some(bytes) => write!(f, ", and a torn last line of {bytes} bytes"),
                    None => Ok(()),
                }
            }
            Integrity::Altered(alteration) => write!(f, "altered: {alteration}"),
        }
    }
}

impl fmt::Display for Alteration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.through {
            Some(last) if last > self.seq => write!(f, "somewhere in records {} to {last}", self.seq)?,
            _ => write!(f, "record {}", self.seq)?,
        }
        write!(f, " (`{}`", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        write!(f, "): {}", self.flaw)
    }
}

/// Compares a trace with its signed checkpoints; memory does not grow with the trace.
///
/// # Security
/// Without `key` the trace's own `key.pub` is believed, which shows accidents but not a forger who brings a key of
/// his own: give the key from elsewhere to rely on it. Whoever holds the signing key can write another valid trace.
///
/// # Errors
/// [`TraceError`] where the trace cannot be read at all; what was altered is no error but a [`Integrity`].
pub fn verify(dir: &Path, key: Option<&VerifyingKey>) -> Result<Report, TraceError> {
    let key = match key {
        Some(key) => key.clone(),
        None => VerifyingKey::load(&dir.join(layout::KEY))?,
    };
    Verification::open(dir, &key)?.run()
}

/// One pass over a trace, its leaf hashes and its checkpoints side by side.
struct Verification {
    dir: PathBuf,
    key: VerifyingKey,
    lines: Lines,
    leaves: Leaves,
    checkpoints: Checkpoints,
    /// The log as the lines make it.
    found: Frontier,
    /// The next checkpoint to be reached.
    ahead: Option<Head>,
    /// Records and root of the last checkpoint that held.
    held: (u64, Hash),
    held_checkpoints: u64,
    session: Option<String>,
    /// The first line that is not what the leaf hashes say.
    mismatch: Option<Mismatch>,
    /// The first record that holds though its leaf hash does not.
    bad_leaf: Option<u64>,
    /// Whether the line read last closes the session.
    closed: bool,
    /// Whether the policy beside the trace is the one of its first record.
    policy_holds: bool,
}

struct Mismatch {
    seq: u64,
    file: PathBuf,
    line: Option<u64>,
    /// The leaf hash at `seq` and the one after it, as the file of leaves has them.
    expected: [Option<Hash>; 2],
    /// The same as the lines have them.
    found: [Option<Hash>; 2],
    /// The log as the leaf hashes make it; up to here it is as the lines make it.
    claimed: Frontier,
}

impl Mismatch {
    fn flaw(&self) -> Flaw {
        let [here, next] = self.expected;
        let gone = next.is_some() && self.found[0] == next;
        let later = here.is_some() && self.found[1] == here;
        match (self.found[0], gone, later) {
            (None, ..) => Flaw::Cut,
            (_, true, true) => Flaw::Reordered,
            (_, true, false) => Flaw::Removed,
            (_, false, true) => Flaw::Inserted,
            (_, false, false) => Flaw::Changed,
        }
    }
}

impl Verification {
    fn open(dir: &Path, key: &VerifyingKey) -> Result<Self, TraceError> {
        Ok(Self {
            lines: Lines::open(dir)?,
            leaves: Leaves::open(&dir.join(layout::LEAVES))?,
            checkpoints: Checkpoints::open(&dir.join(layout::CHECKPOINTS), key)?,
            dir: dir.into(),
            key: key.clone(),
            found: Frontier::default(),
            ahead: None,
            held: (0, Frontier::default().root()),
            held_checkpoints: 0,
            session: None,
            mismatch: None,
            bad_leaf: None,
            closed: false,
            policy_holds: true,
        })
    }

    fn run(mut self) -> Result<Report, TraceError> {
        let integrity = match self.walk() {
            Ok(integrity) => integrity,
            Err(Stop::Altered(alteration)) => Integrity::Altered(*alteration),
            Err(Stop::Failed(e)) => return Err(e),
        };
        // How long the trace is, is told even where it is not believed beyond some line.
        while let Ok(Step::Line { .. }) = self.lines.step() {
            self.found.push(record_hash(self.lines.text()));
        }
        Ok(Report {
            session: self.session,
            records: self.found.size(),
            signed: self.held.0,
            checkpoints: self.held_checkpoints,
            segments: self.lines.segment() + 1,
            bytes: self.lines.bytes(),
            root: self.held.1.to_string(),
            key: self.key.to_string(),
            integrity,
        })
    }

    fn walk(&mut self) -> Result<Integrity, Stop> {
        self.advance()?;
        let torn = loop {
            while let Some(head) = self.ahead.filter(|head| head.size == self.found.size()) {
                self.compare(head)?;
                self.held = (head.size, head.root);
                self.held_checkpoints += 1;
                self.advance()?;
            }
            match self.lines.step()? {
                Step::Line { first } => self.line(first)?,
                Step::End => break None,
                Step::Torn => break Some(self.lines.text().len() as u64),
            }
        };
        if let Some(head) = self.ahead {
            return Err(self.cut(head)?);
        }
        if !self.policy_holds {
            return Err(self.alteration(0, layout::POLICY, Flaw::Policy));
        }
        if let Some(seq) = self.bad_leaf {
            return Err(self.alteration(seq, layout::LEAVES, Flaw::Leaves));
        }
        let unsigned = self.found.size() - self.held.0;
        if torn.is_some() && unsigned == 0 && self.closed {
            return Err(self.here(self.held.0, Flaw::Added));
        }
        if unsigned > 0 || torn.is_some() || !self.closed {
            return Ok(Integrity::NotClosed { unsigned, torn });
        }
        if self.leaves.next()?.is_some() || self.leaves.torn {
            return Err(self.alteration(self.held.0, layout::LEAVES, Flaw::Leaves));
        }
        Ok(Integrity::Valid)
    }

    /// Reads the checkpoint to be reached next.
    fn advance(&mut self) -> Result<(), Stop> {
        let why = match self.checkpoints.next() {
            Ok(None) => {
                self.ahead = None;
                return Ok(());
            }
            Ok(Some((head, session, _))) => {
                self.ahead = Some(head);
                if *self.session.get_or_insert_with(|| session.clone()) == session {
                    return Ok(());
                }
                format!("number {} is of another session, `{session}`", head.number)
            }
            Err(TraceError::BadCheckpoint { number, why, .. }) => format!("number {number}: {why}"),
            Err(e) => return Err(e.into()),
        };
        Err(self.alteration(self.held.0, layout::CHECKPOINTS, Flaw::Checkpoints(why)))
    }

    fn line(&mut self, first: bool) -> Result<(), Stop> {
        let seq = self.found.size();
        let text = self.lines.text();
        let leaf = record_hash(text);
        if self.ahead.is_none() {
            self.unsigned_line(seq, first && self.lines.segment() > 0)?;
        } else if let Some(expected) = self.leaves.next()? {
            if let Some(mismatch) = &mut self.mismatch {
                mismatch.found[1].get_or_insert(leaf);
                mismatch.claimed.push(expected);
            } else if expected != leaf {
                let next = self.leaves.peek()?;
                let mut mismatch = self.mismatch_at(seq, [Some(expected), next], [Some(leaf), None]);
                mismatch.claimed.push(expected);
                self.mismatch = Some(mismatch);
            }
        } else if self.mismatch.is_none() {
            self.mismatch = Some(self.mismatch_at(seq, [None; 2], [Some(leaf), None]));
        }
        self.found.push(leaf);
        self.note(seq);
        Ok(())
    }

    fn mismatch_at(&self, seq: u64, expected: [Option<Hash>; 2], found: [Option<Hash>; 2]) -> Mismatch {
        let line = found[0].map(|_| self.lines.number());
        Mismatch { seq, file: self.lines.path().into(), line, expected, found, claimed: self.found.clone() }
    }

    /// A line that no checkpoint covers must at least read as the next record.
    fn unsigned_line(&mut self, seq: u64, opens_segment: bool) -> Result<(), Stop> {
        let flaw = if self.closed && self.held.0 == seq {
            Flaw::Added
        } else {
            match reader::record(self.lines.text()) {
                Err(why) => Flaw::Foreign(why),
                Ok(record) if record.seq != seq => Flaw::Foreign(format!("it is record {}", record.seq)),
                Ok(record) if self.session.as_deref().is_some_and(|s| s != &*record.session) => {
                    Flaw::Foreign(format!("it is of session `{}`", record.session))
                }
                Ok(record) => match record.event {
                    Event::SegmentOpened { root, .. } if root == self.found.root().to_string() => {
                        return Ok(());
                    }
                    Event::SegmentOpened { .. } => Flaw::Foreign("it continues another trace".into()),
                    _ if opens_segment => Flaw::Foreign("it does not say what it continues".into()),
                    _ => return Ok(()),
                },
            }
        };
        Err(self.here(seq, flaw))
    }

    /// Keeps what the verdict needs of the first and the last record.
    fn note(&mut self, seq: u64) {
        let text = self.lines.text();
        let event = || reader::record(text).ok().map(|record| record.event);
        self.closed = CLOSES.find(text).is_some() && matches!(event(), Some(Event::SessionClosed { .. }));
        if seq == 0
            && let Some(Event::SessionOpened { policy, .. }) = event()
        {
            self.policy_holds = std::fs::read(self.dir.join(layout::POLICY))
                .is_ok_and(|text| hex(&Sha256::digest(&text)) == policy);
        }
    }

    /// Whether the lines up to here are what this checkpoint signed.
    fn compare(&mut self, head: Head) -> Result<(), Stop> {
        if self.found.root() != head.root {
            return Err(self.named(head));
        }
        // The records hold, so it is the leaf hashes that do not: the next stretch is judged apart from this one.
        if let Some(mismatch) = self.mismatch.take() {
            self.bad_leaf.get_or_insert(mismatch.seq);
        }
        Ok(())
    }

    /// The lines end before this checkpoint.
    fn cut(&mut self, head: Head) -> Result<Stop, TraceError> {
        let mismatch = self.mismatch.take();
        let mut mismatch =
            mismatch.unwrap_or_else(|| self.mismatch_at(self.found.size(), [None; 2], [None; 2]));
        while mismatch.claimed.size() < head.size {
            let Some(leaf) = self.leaves.next()? else { break };
            mismatch.claimed.push(leaf);
        }
        self.mismatch = Some(mismatch);
        Ok(self.named(head))
    }

    /// The alteration before this checkpoint: exact where the leaf hashes are those that were signed.
    fn named(&self, head: Head) -> Stop {
        let exact = |claimed: &Frontier| claimed.size() == head.size && claimed.root() == head.root;
        match &self.mismatch {
            Some(mismatch) if exact(&mismatch.claimed) => Alteration {
                seq: mismatch.seq,
                through: None,
                file: mismatch.file.clone(),
                line: mismatch.line,
                flaw: mismatch.flaw(),
            },
            _ => Alteration {
                seq: self.held.0,
                through: Some(head.size.saturating_sub(1)),
                file: self.lines.path().into(),
                line: None,
                flaw: if self.found.size() < head.size { Flaw::Cut } else { Flaw::Changed },
            },
        }
        .into()
    }

    /// An alteration of the line read last.
    fn here(&self, seq: u64, flaw: Flaw) -> Stop {
        let (file, line) = (self.lines.path().into(), Some(self.lines.number()));
        Alteration { seq, through: None, file, line, flaw }.into()
    }

    fn alteration(&self, seq: u64, file: &str, flaw: Flaw) -> Stop {
        Alteration { seq, through: None, file: self.dir.join(file), line: None, flaw }.into()
    }
}

/// Why a verification ends early.
enum Stop {
    Altered(Box<Alteration>),
    Failed(TraceError),
}

impl From<Alteration> for Stop {
    fn from(alteration: Alteration) -> Self {
        Self::Altered(alteration.into())
    }
}

impl From<TraceError> for Stop {
    fn from(e: TraceError) -> Self {
        Self::Failed(e)
    }
}

/// The file of leaf hashes, 32 bytes each.
pub(crate) struct Leaves {
    path: PathBuf,
    file: Option<BufReader<File>>,
    peeked: Option<Hash>,
    /// Whether the file ended within a hash.
    torn: bool,
}

impl Leaves {
    /// Opens the file; one that is not there holds no hashes.
    pub(crate) fn open(path: &Path) -> Result<Self, TraceError> {
        let file = match File::open(path) {
            Ok(file) => Some(BufReader::with_capacity(64 << 10, file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(TraceError::io("open", path)(e)),
        };
        Ok(Self { path: path.into(), file, peeked: None, torn: false })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Hash>, TraceError> {
        let next = self.peek()?;
        self.peeked = None;
        Ok(next)
    }

    fn peek(&mut self) -> Result<Option<Hash>, TraceError> {
        if self.peeked.is_none()
            && let Some(file) = &mut self.file
        {
            let mut hash = [0u8; 32];
            let mut filled = 0;
            while filled < hash.len() {
                match file.read(&mut hash[filled..]).map_err(TraceError::io("read", &self.path))? {
                    0 => break,
                    n => filled += n,
                }
            }
            self.torn |= filled > 0 && filled < hash.len();
            self.peeked = (filled == hash.len()).then_some(Hash(hash));
        }
        Ok(self.peeked)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
