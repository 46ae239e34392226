//! The index: what decisions depend on, out of a verified trace, in a form that reads faster than JSON.
//!
//! It is derived and may be thrown away at any time. It is used only where it was made from the very records that the
//! trace's checkpoints sign; its own bytes are checked for damage when it is opened.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use failcore_model::{Event, Record, Subject, Timestamp};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::lines::{Lines, MAX_LINE, Step};
use crate::merkle::{Frontier, record_hash};
use crate::packed::{Fact, Unpacker, append};
use crate::{Report, TraceError, layout, reader};

const MAGIC: &[u8; 16] = b"failcore index 4";

/// The `decided` and `approval` records of a trace, read from its index.
pub struct Index {
    path: PathBuf,
    file: BufReader<File>,
    session: Arc<str>,
    unpacker: Unpacker,
    row: Vec<u8>,
    left: u64,
}

/// One record of the index.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Row<'a> {
    seq: u64,
    ts: u64,
    fact: Fact<'a>,
}

impl<'a> Row<'a> {
    /// The row of a record; `None` for records that no decision depends on.
    fn of(record: &'a Record) -> Option<Self> {
        let fact = Fact::of(&record.event)
            .filter(|fact| matches!(fact, Fact::Decided(_) | Fact::Approval { .. }))?;
        Some(Self { seq: record.seq, ts: record.ts.0, fact })
    }
}

/// What an index is made from.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Header {
    session: String,
    /// Records covered, and the root over them.
    signed: u64,
    root: String,
    /// Rows that follow, and the XXH3 of their bytes.
    rows: u64,
    digest: u128,
}

impl Index {
    /// Opens the index of the trace in `dir` if there is one of exactly the records that `report` found signed.
    ///
    /// # Security
    /// The report must come from [`verify`](crate::verify()) of the same directory, with a key that is believed. The
    /// index carries no signature of its own: who can write into the directory can also replace it.
    ///
    /// # Errors
    /// [`TraceError::Io`]; an index that is absent, old or damaged is `None`.
    pub fn open(dir: &Path, report: &Report) -> Result<Option<Self>, TraceError> {
        let path = dir.join(layout::INDEX);
        let mut file = match File::open(&path) {
            Ok(file) => BufReader::with_capacity(256 << 10, file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(TraceError::io("open", &path)(e)),
        };
        let Some((header, start)) = header(&mut file).map_err(TraceError::io("read", &path))? else {
            return Ok(None);
        };
        if header.signed != report.signed
            || header.root != report.root
            || Some(&header.session) != report.session.as_ref()
        {
            return Ok(None);
        }
        let mut digest = Xxh3::new();
        std::io::copy(&mut file, &mut digest).map_err(TraceError::io("read", &path))?;
        if digest.digest128() != header.digest {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(start)).map_err(TraceError::io("read", &path))?;
        Ok(Some(Self {
            path,
            file,
            session: header.session.into(),
            unpacker: Unpacker::default(),
            row: Vec::new(),
            left: header.rows,
        }))
    }

    /// Makes the index of the signed records anew and opens it.
    ///
    /// # Errors
    /// [`TraceError::Unverified`] where the records are not those of the report, otherwise as [`Index::open`].
    pub fn build(dir: &Path, report: &Report) -> Result<Self, TraceError> {
        let path = dir.join(layout::INDEX);
        let draft = dir.join(format!("{}.{}", layout::INDEX, std::process::id()));
        let built = write(dir, &draft, report)
            .and_then(|()| fs::rename(&draft, &path).map_err(TraceError::io("create", &path)));
        if built.is_err() {
            let _ = fs::remove_file(&draft);
        }
        built?;
        Self::open(dir, report)?
            .ok_or_else(|| TraceError::Unverified("its index was changed while it was made".into()))
    }

    /// How many records are left to read.
    pub fn len(&self) -> u64 {
        self.left
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    fn read(&mut self) -> Result<Record, TraceError> {
        let io = |e| TraceError::io("read", &self.path)(e);
        let bad = || TraceError::Unverified(format!("`{}` holds no rows", self.path.display()));
        let mut length = [0u8; 4];
        self.file.read_exact(&mut length).map_err(io)?;
        let length = u32::from_le_bytes(length) as usize;
        if length as u64 > MAX_LINE {
            return Err(bad());
        }
        let mut record = |row: &[u8]| {
            let row: Row<'_> = postcard::from_bytes(row).map_err(|_| bad())?;
            let event = self.unpacker.row(row.fact).ok_or_else(bad)?;
            Ok(Record { seq: row.seq, ts: Timestamp(row.ts), session: Arc::clone(&self.session), event })
        };
        // Most rows lie whole in what was read ahead.
        if self.file.buffer().len() >= length {
            let read = record(&self.file.buffer()[..length]);
            self.file.consume(length);
            return read;
        }
        self.row.resize(length, 0);
        self.file.read_exact(&mut self.row).map_err(io)?;
        record(&self.row)
    }
}

impl Iterator for Index {
    type Item = Result<Record, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let item = self.read();
        if item.is_err() {
            self.left = 0;
        }
        Some(item)
    }
}

/// The header, and where the rows start.
fn header(file: &mut impl Read) -> std::io::Result<Option<(Header, u64)>> {
    let mut start = [0u8; MAGIC.len() + 4];
    if let Err(e) = file.read_exact(&mut start) {
        return if e.kind() == std::io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(e) };
    }
    let (magic, length) = start.split_at(MAGIC.len());
    let length = length.try_into().map_or(0, u32::from_le_bytes);
    if magic != MAGIC || length > 4096 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(length.into()).read_to_end(&mut bytes)?;
    Ok(postcard::from_bytes(&bytes).ok().map(|header| (header, start.len() as u64 + u64::from(length))))
}

fn write(dir: &Path, draft: &Path, report: &Report) -> Result<(), TraceError> {
    let io = || TraceError::io("write", draft);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft).map_err(io())?;
    let mut out = BufWriter::with_capacity(256 << 10, file);
    let mut header = Header {
        session: report.session.clone().unwrap_or_default(),
        signed: report.signed,
        root: report.root.clone(),
        rows: 0,
        digest: u128::MAX,
    };
    // The header's numbers have a variable length: room is kept for it, filled in at the end.
    header.rows = u64::MAX;
    let room = postcard::to_stdvec(&header).map_err(|_| unwritable())?.len();
    header.rows = 0;
    out.write_all(&vec![0; MAGIC.len() + 4 + room]).map_err(io())?;

    let mut lines = Lines::open(dir)?;
    let (mut log, mut digest) = (Frontier::default(), Xxh3::new());
    let (mut row, mut subject) = (Vec::new(), Subject::default());
    while log.size() < report.signed {
        let Step::Line { .. } = lines.step()? else { break };
        log.push(record_hash(lines.text()));
        let record = reader::record(lines.text()).map_err(|why| lines.bad(why))?;
        let Some(mut facts) = Row::of(&record) else { continue };
        if let Event::Decided { request, .. } = &record.event {
            if request.subject == subject {
                facts.fact = facts.fact.of_the_same();
            } else {
                subject = request.subject.clone();
            }
        }
        row.clear();
        row.extend_from_slice(&[0; 4]);
        append(&facts, &mut row).map_err(|_| unwritable())?;
        let length = u32::try_from(row.len() - 4).map_err(|_| unwritable())?;
        row[..4].copy_from_slice(&length.to_le_bytes());
        digest.update(&row);
        out.write_all(&row).map_err(io())?;
        header.rows += 1;
    }
    if log.size() != report.signed || log.root().to_string() != report.root {
        return Err(TraceError::Unverified("it was changed after it was verified".into()));
    }
    header.digest = digest.digest128();
    let mut bytes = postcard::to_stdvec(&header).map_err(|_| unwritable())?;
    // What the room has over is zeros, which the header's reader leaves unread.
    bytes.resize(room, 0);
    let mut out = out.into_inner().map_err(|e| io()(e.into_error()))?;
    out.seek(SeekFrom::Start(0)).map_err(io())?;
    out.write_all(&[MAGIC.as_slice(), &(room as u32).to_le_bytes(), &bytes].concat()).map_err(io())
}

fn unwritable() -> TraceError {
    TraceError::Unverified("a record does not fit the index".into())
}
