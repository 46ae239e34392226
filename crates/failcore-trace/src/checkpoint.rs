//! Signed checkpoints: what a trace held at some moment, in the C2SP formats tlog-checkpoint and signed-note.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use signed_note::{Note, Signer, StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::Checkpoint;
use tlog_tiles::tlog::Hash;

use crate::{TraceError, VerifyingKey};

/// Longest signed checkpoint accepted, in bytes.
const MAX: usize = 4096;

/// The claim of one checkpoint, its signature found good.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Which checkpoint of the trace, from 0.
    pub(crate) number: u64,
    /// How many records it covers.
    pub(crate) size: u64,
    /// The root over them.
    pub(crate) root: Hash,
}

fn origin(session: &str) -> String {
    format!("failcore/{session}")
}

fn extension(number: u64) -> String {
    format!("checkpoint {number}\n")
}

/// The signed note that says so.
pub(crate) fn sign(head: Head, session: &str, signer: &StandardSigner) -> Result<Vec<u8>, &'static str> {
    let checkpoint = Checkpoint::new(&origin(session), head.size, head.root, &extension(head.number))
        .map_err(|_| "it cannot be written as a checkpoint")?;
    let mut note = Note::new(&checkpoint.to_bytes(), &[]).map_err(|_| "it cannot be written as a note")?;
    note.add_sigs(&[signer as &dyn Signer]).map_err(|_| "it cannot be signed")?;
    Ok(note.to_bytes())
}

/// Checks one signed note; the session it is for comes with it.
pub(crate) fn open(bytes: &[u8], key: &VerifyingKey) -> Result<(Head, String), String> {
    let verifier = key.verifier().map_err(|e| e.to_string())?;
    open_with(bytes, &verifier)
}

fn open_with(bytes: &[u8], verifier: &StandardVerifier) -> Result<(Head, String), String> {
    let note = Note::from_bytes(bytes).map_err(|e| e.to_string())?;
    // One way to write it only: nothing in the file is free to change.
    if note.to_bytes() != bytes {
        return Err("it is not in the form it was written in".into());
    }
    note.verify(&VerifierList::new(vec![Box::new(verifier.clone())])).map_err(|e| e.to_string())?;
    let checkpoint = Checkpoint::from_bytes(note.text()).map_err(|e| e.to_string())?;
    let session = checkpoint.origin().strip_prefix("failcore/").ok_or("it is for another kind of log")?;
    let number = checkpoint
        .extension()
        .strip_prefix("checkpoint ")
        .and_then(|rest| rest.trim_end().parse().ok())
        .ok_or("it does not say its number")?;
    let head = Head { number, size: checkpoint.size(), root: *checkpoint.hash() };
    Ok((head, session.to_owned()))
}

/// The checkpoints of a trace, one after the other.
pub(crate) struct Checkpoints {
    path: PathBuf,
    file: Option<BufReader<File>>,
    verifier: StandardVerifier,
    next: u64,
    last_size: u64,
}

impl Checkpoints {
    /// Opens the file; one that is not there holds no checkpoints.
    pub(crate) fn open(path: &Path, key: &VerifyingKey) -> Result<Self, TraceError> {
        let file = match File::open(path) {
            Ok(file) => Some(BufReader::new(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(TraceError::io("open", path)(e)),
        };
        Ok(Self { path: path.into(), file, verifier: key.verifier()?, next: 0, last_size: 0 })
    }

    fn bad(&self, why: impl Into<String>) -> TraceError {
        TraceError::BadCheckpoint { path: self.path.clone(), number: self.next, why: why.into() }
    }

    /// The next checkpoint with its session and the bytes of its note; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<(Head, String, Vec<u8>)>, TraceError> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let mut note = Vec::new();
        loop {
            let start = note.len();
            let limit = (MAX - start) as u64;
            std::io::Read::take(&mut *file, limit)
                .read_until(b'\n', &mut note)
                .map_err(TraceError::io("read", &self.path))?;
            let line = &note[start..];
            if line.is_empty() && start == 0 {
                return Ok(None);
            }
            if !line.ends_with(b"\n") {
                return Err(self.bad(if note.len() >= MAX { "it is too long" } else { "it is cut short" }));
            }
            if line.starts_with("— ".as_bytes()) {
                break;
            }
        }
        let (head, session) = open_with(&note, &self.verifier).map_err(|why| self.bad(why))?;
        if head.number != self.next {
            return Err(self.bad(format!("it is number {}, another one is missing", head.number)));
        }
        if head.size < self.last_size {
            return Err(self.bad("it covers less than the one before it"));
        }
        self.next += 1;
        self.last_size = head.size;
        Ok(Some((head, session, note)))
    }
}
