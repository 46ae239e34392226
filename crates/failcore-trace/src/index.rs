//! The index: what decisions depend on, out of a verified trace, in a form that reads faster than JSON.
//!
//! It is derived and may be thrown away at any time. It is used only where it was made from the very records that the
//! trace's checkpoints sign; its own bytes are checked for damage when it is opened. Of a trace that verified, it also
//! keeps what the file system says of the trace's files, so that one nothing was written to since need not be verified again.
//!
//! A file of it is [`MAGIC`], the [`Stamp`], an XXH3, the number of rows, the header and the rows, these each after its length.
//! The digest is that of the header, the rows and their number.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use failcore_model::{Event, Record, Subject, Timestamp};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::lines::{Lines, MAX_LINE, Step};
use crate::merkle::{Frontier, record_hash};
use crate::packed::{Fact, Unpacker, append};
use crate::stamp::Stamp;
use crate::{Report, TraceError, layout, reader};

const MAGIC: &[u8; 16] = b"failcore index 5";
/// Where the stamp, the digest, the number of rows and the header begin.
const STAMP: usize = MAGIC.len();
const DIGEST: usize = STAMP + 16;
const ROWS: usize = DIGEST + 16;
const HEADER: usize = ROWS + 8;
const LONGEST_HEADER: u32 = 4096;

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
        let Some((index, header)) = Self::load(dir, |_| true)? else { return Ok(None) };
        let same = header.signed == report.signed
            && header.root == report.root
            && Some(&header.session) == report.session.as_ref();
        Ok(same.then_some(index))
    }

    /// Opens the index of a trace that verified as whole, and nothing of which was written to since, as the file system tells;
    /// with it, how many records the trace has.
    ///
    /// # Security
    /// A write that leaves no trace in a file's times and length (past the file system, or by root who turned the clock back)
    /// is not noticed here: [`verify`](crate::verify()) notices. Nor does the index carry a signature, see [`Index::open`].
    ///
    /// # Errors
    /// [`TraceError::Io`]; an index that is absent, old, damaged or of files that were changed is `None`.
    pub fn unchanged(dir: &Path) -> Result<Option<(Self, u64)>, TraceError> {
        let stamp = Stamp::of(dir);
        let found = Self::load(dir, |kept| stamp.as_ref().is_some_and(|stamp| kept == stamp.bytes()))?;
        Ok(found.map(|(index, header)| (index, header.signed)))
    }

    /// Keeps in this index that its trace verified as whole when the files were as in `stamp`, which was taken before.
    ///
    /// # Errors
    /// [`TraceError::Io`]; [`TraceError::Unverified`] where another file stands at its place by now.
    pub fn keep(&self, stamp: &Stamp) -> Result<(), TraceError> {
        let mut options = OpenOptions::new();
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.write(true).custom_flags(flags.bits().cast_signed());
        let file = options.open(&self.path).map_err(TraceError::io("open", &self.path))?;
        let which = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        let same = which(&file).and_then(|there| Ok(there == which(self.file.get_ref())?));
        if !same.map_err(TraceError::io("look at", &self.path))? {
            return Err(TraceError::Unverified("its index was changed while it was read".into()));
        }
        file.write_all_at(stamp.bytes(), STAMP as u64).map_err(TraceError::io("write", &self.path))
    }

    /// Opens an index that is whole, and has a stamp that is `wanted`.
    fn load(dir: &Path, wanted: impl FnOnce(&[u8]) -> bool) -> Result<Option<(Self, Header)>, TraceError> {
        let path = dir.join(layout::INDEX);
        let mut file = match File::open(&path) {
            Ok(file) => BufReader::with_capacity(256 << 10, file),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(TraceError::io("open", &path)(e)),
        };
        let read = |file: &mut BufReader<File>| -> io::Result<Option<(Header, u64)>> {
            let mut start = [0; HEADER];
            file.read_exact(&mut start)?;
            if &start[..STAMP] != MAGIC || !wanted(&start[STAMP..DIGEST]) {
                return Ok(None);
            }
            let (mut digest, rows) = (Xxh3::new(), &start[ROWS..]);
            io::copy(file, &mut digest)?;
            digest.update(rows);
            if digest.digest128().to_le_bytes() != start[DIGEST..ROWS] {
                return Ok(None);
            }
            file.seek(SeekFrom::Start(HEADER as u64))?;
            let mut length = [0; 4];
            file.read_exact(&mut length)?;
            let length = u32::from_le_bytes(length);
            if length > LONGEST_HEADER {
                return Ok(None);
            }
            let mut header = vec![0; length as usize];
            file.read_exact(&mut header)?;
            let left = rows.try_into().map_or(0, u64::from_le_bytes);
            Ok(postcard::from_bytes::<Header>(&header).ok().map(|header| (header, left)))
        };
        match read(&mut file) {
            Ok(Some((header, left))) => {
                let session = header.session.as_str().into();
                let index =
                    Self { path, file, session, unpacker: Unpacker::default(), row: Vec::new(), left };
                Ok(Some((index, header)))
            }
            Ok(None) => Ok(None),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(TraceError::io("read", &path)(e)),
        }
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

fn write(dir: &Path, draft: &Path, report: &Report) -> Result<(), TraceError> {
    let io = || TraceError::io("write", draft);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft).map_err(io())?;
    let mut out = BufWriter::with_capacity(256 << 10, file);
    let header = Header {
        session: report.session.clone().unwrap_or_default(),
        signed: report.signed,
        root: report.root.clone(),
    };
    let mut rows = 0u64;
    let mut bytes = vec![0; 4];
    append(&header, &mut bytes).map_err(|_| unwritable())?;
    measured(&mut bytes)?;
    out.write_all(&[0; HEADER]).and_then(|()| out.write_all(&bytes)).map_err(io())?;

    let mut lines = Lines::open(dir)?;
    let (mut log, mut digest) = (Frontier::default(), Xxh3::new());
    digest.update(&bytes);
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
        measured(&mut row)?;
        digest.update(&row);
        out.write_all(&row).map_err(io())?;
        rows += 1;
    }
    if log.size() != report.signed || log.root().to_string() != report.root {
        return Err(TraceError::Unverified("it was changed after it was verified".into()));
    }
    digest.update(&rows.to_le_bytes());
    let mut out = out.into_inner().map_err(|e| io()(e.into_error()))?;
    out.seek(SeekFrom::Start(0)).map_err(io())?;
    let digest = digest.digest128().to_le_bytes();
    out.write_all(&[MAGIC, &Stamp::NONE, &digest, &rows.to_le_bytes()[..]].concat()).map_err(io())
}

/// Writes the length of what follows into the first four bytes.
fn measured(bytes: &mut [u8]) -> Result<(), TraceError> {
    let length = u32::try_from(bytes.len() - 4).map_err(|_| unwritable())?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn unwritable() -> TraceError {
    TraceError::Unverified("a record does not fit the index".into())
}
