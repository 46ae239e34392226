//! The one writer of a trace: appends with write(2), hashes what it appended, signs checkpoints.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use failcore_model::{Event, TRACE_VERSION, Timestamp};
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, getrlimit};
use signed_note::StandardSigner;

use crate::checkpoint::{self, Head};
use crate::merkle::{Frontier, record_hash};
use crate::{Redactor, SigningKey, TraceError, layout, runs};

/// How a trace is written.
#[derive(Debug, Clone)]
pub struct Options {
    /// A checkpoint is signed after this many records at the latest.
    pub checkpoint_records: u64,
    /// And with the first record after this much time.
    pub checkpoint_interval: Duration,
    /// A segment is ended once it is this long, in bytes.
    pub segment_bytes: u64,
    /// What is taken out of records before they are written; by default every known secret shape and the values of
    /// this process's environment variables whose names say that they hold a secret.
    pub redactor: Option<Redactor>,
}

/// Space taken beyond what was asked for at most, in bytes; given back when the trace is closed.
const RESERVE_STEP: u64 = 1 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            checkpoint_records: 4096,
            checkpoint_interval: Duration::from_secs(1),
            segment_bytes: 1 << 30,
            redactor: None,
        }
    }
}

/// Appends records to a new trace.
///
/// Either a record is in the file in full or `append` says why not: a disk that is full is an error, and half-written
/// lines are taken back. Dropping the writer without [`Writer::close`] leaves a trace that says "not closed".
///
/// # Security
/// The file is written, never mapped: a full disk under a mapping would be a SIGBUS. Where RLIMIT_FSIZE is set the
/// process must ignore SIGXFSZ (setrlimit(2)) to see an error.
pub struct Writer {
    dir: PathBuf,
    session: Box<str>,
    signer: StandardSigner,
    options: Options,
    redactor: Redactor,
    segment: u32,
    path: PathBuf,
    file: File,
    /// Length of the current segment.
    len: u64,
    /// End of the space assured in the current segment.
    reserved: u64,
    leaves: File,
    checkpoints: File,
    log: Frontier,
    /// Leaf hashes not yet in the file of leaves.
    fresh: Vec<u8>,
    signed: u64,
    signed_at: Instant,
    next_checkpoint: u64,
    last: Timestamp,
    batch: Vec<u8>,
    ends: Vec<usize>,
    /// The process that made it: a forked child has the same file open.
    owner: Pid,
    broken: bool,
    closed: bool,
}

impl Writer {
    /// Begins the trace of `session` in `dir`, which is made with mode 0700 if need be; `policy` is the resolved
    /// policy text.
    ///
    /// # Errors
    /// [`TraceError::Exists`] where a trace lies there, [`TraceError::BadSession`], [`TraceError::Io`].
    pub fn create(dir: &Path, session: &str, key: &SigningKey, policy: &str) -> Result<Self, TraceError> {
        Self::create_with(dir, session, key, policy, Options::default())
    }

    /// As [`Writer::create`], with other options.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn create_with(
        dir: &Path,
        session: &str,
        key: &SigningKey,
        policy: &str,
        mut options: Options,
    ) -> Result<Self, TraceError> {
        if !runs::is_session_id(session) {
            return Err(TraceError::BadSession(session.into()));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(TraceError::io("create", dir))?;
        let path = layout::segment(dir, 0);
        let signer = key.signer()?;
        let (file, leaves, checkpoints) = furnish(dir, policy, &format!("{}\n", key.verifying_key()))?;
        let redactor = options
            .redactor
            .take()
            .unwrap_or_else(|| Redactor::default().with_secrets_of(std::env::vars_os()))
            .keyed(key);
        Ok(Self {
            dir: dir.into(),
            session: session.into(),
            signer,
            options,
            redactor,
            segment: 0,
            path,
            file,
            len: 0,
            reserved: 0,
            leaves,
            checkpoints,
            log: Frontier::default(),
            fresh: Vec::new(),
            signed: 0,
            signed_at: Instant::now(),
            next_checkpoint: 0,
            last: Timestamp(0),
            batch: Vec::new(),
            ends: Vec::new(),
            owner: rustix::process::getpid(),
            broken: false,
            closed: false,
        })
    }

    /// Appends one event; its sequence number.
    ///
    /// # Errors
    /// [`TraceError`]; the record is then not in the trace, and what it records must not happen.
    pub fn append(&mut self, event: &Event) -> Result<u64, TraceError> {
        self.stage(event)?;
        self.flush()
    }

    /// Appends several events with one write; the sequence number of the last, or of the next where there were none.
    ///
    /// # Errors
    /// As [`Writer::append`]; none of them is in the trace then.
    pub fn append_all<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) -> Result<u64, TraceError> {
        for event in events {
            if let Err(e) = self.stage(event) {
                self.discard();
                return Err(e);
            }
        }
        self.flush()
    }

    /// Puts one event into the batch that [`Writer::flush`] writes.
    ///
    /// # Errors
    /// [`TraceError::Unredactable`]; the batch is as before.
    pub fn stage(&mut self, event: &Event) -> Result<(), TraceError> {
        if self.ends.is_empty() {
            self.upkeep();
        }
        let start = self.batch.len();
        let staged = self.encode(event);
        match staged {
            Ok(()) => self.ends.push(self.batch.len()),
            Err(_) => self.batch.truncate(start),
        }
        staged
    }

    fn encode(&mut self, event: &Event) -> Result<(), TraceError> {
        let seq = self.log.size() + self.ends.len() as u64;
        let ts = self.now();
        let line = &mut self.batch;
        let io = |e: std::io::Error| TraceError::Unredactable(e.to_string());
        write!(line, r#"{{"v":{TRACE_VERSION},"seq":{seq},"ts":"{ts}","session":"{}""#, self.session)
            .map_err(io)?;
        let body = line.len();
        serde_json::to_writer(&mut *line, event).map_err(|e| TraceError::NotAnEvent(e.to_string()))?;
        self.redactor.redact_body(line, body)?;
        // The event's own `{` continues the line's object.
        line[body] = b',';
        line.push(b'\n');
        Ok(())
    }

    /// Writes the batch; the sequence number of its last record, or of the next one where it is empty.
    ///
    /// # Errors
    /// [`TraceError::Io`], [`TraceError::Broken`]; nothing of the batch is in the trace then, and it is empty.
    pub fn flush(&mut self) -> Result<u64, TraceError> {
        let written = self.write_batch();
        self.discard();
        written?;
        Ok(self.log.size().saturating_sub(1))
    }

    /// Signs and rotates when it is time to. What fails is tried again with the next record: a record that can be
    /// written is not refused because of it, and a trace that was never signed says so itself.
    fn upkeep(&mut self) {
        let due = self.log.size() - self.signed;
        if due >= self.options.checkpoint_records
            || (due > 0 && self.signed_at.elapsed() >= self.options.checkpoint_interval)
        {
            let _ = self.checkpoint();
        }
        if self.len >= self.options.segment_bytes {
            let _ = self.rotate();
        }
    }

    fn discard(&mut self) {
        self.batch.clear();
        self.ends.clear();
    }

    fn write_batch(&mut self) -> Result<(), TraceError> {
        if self.broken || self.closed {
            return Err(TraceError::Broken(self.path.clone()));
        }
        if self.owner != rustix::process::getpid() {
            return Err(TraceError::Forked(self.path.clone()));
        }
        if let Err(e) = self.file.write_all(&self.batch) {
            // Part of the batch may be there: take it back, or never write again.
            self.broken = self.file.set_len(self.len).is_err();
            self.reserved = self.len;
            return Err(TraceError::io("append to", &self.path)(e));
        }
        self.len += self.batch.len() as u64;
        let mut start = 0;
        for &end in &self.ends {
            let leaf = record_hash(&self.batch[start..end - 1]);
            self.fresh.extend_from_slice(&leaf.0);
            self.log.push(leaf);
            start = end;
        }
        Ok(())
    }

    /// Assures space for `bytes` more of records and what goes with them, so that appending them cannot meet a full
    /// disk.
    ///
    /// # Errors
    /// [`TraceError::Io`] where there is no such space.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), TraceError> {
        if self.reserved < self.len + bytes {
            // In large steps, so that a caller who asks before every batch costs no system call each time.
            let step = bytes.saturating_add(bytes.min(RESERVE_STEP));
            let assured = match assure(&self.file, self.len, step) {
                Ok(()) => step,
                Err(_) => assure(&self.file, self.len, bytes)
                    .map(|()| bytes)
                    .map_err(TraceError::io("reserve space in", &self.path))?,
            };
            self.reserved = self.len + assured;
        }
        Ok(())
    }

    /// Looks whether there is room for `bytes` more, and takes none of it: others may use it up meanwhile.
    ///
    /// # Errors
    /// [`TraceError::Io`] where there is no such space.
    pub fn has_room(&self, bytes: u64) -> Result<(), TraceError> {
        room(&self.file, self.len, bytes).map_err(TraceError::io("reserve space in", &self.path))
    }

    /// Signs what the trace holds now. Nothing happens where nothing was added since the last one.
    ///
    /// # Errors
    /// [`TraceError::Io`]; the records themselves are in the trace.
    pub fn checkpoint(&mut self) -> Result<(), TraceError> {
        if self.log.size() == self.signed && self.next_checkpoint > 0 {
            return Ok(());
        }
        // Leaves first: a checkpoint never covers hashes that are not there.
        append_or_undo(&mut self.leaves, &self.dir.join(layout::LEAVES), &self.fresh)?;
        self.fresh.clear();
        let head = Head { number: self.next_checkpoint, size: self.log.size(), root: self.log.root() };
        let path = self.dir.join(layout::CHECKPOINTS);
        let note = checkpoint::sign(head, &self.session, &self.signer).map_err(|why| {
            TraceError::BadCheckpoint { path: path.clone(), number: head.number, why: why.into() }
        })?;
        append_or_undo(&mut self.checkpoints, &path, &note)?;
        self.next_checkpoint += 1;
        self.signed = head.size;
        self.signed_at = Instant::now();
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), TraceError> {
        let number = self.segment + 1;
        let path = layout::segment(&self.dir, number);
        let file = create(&self.dir, &path)?;
        let assured = self.reserved.saturating_sub(self.len);
        let begun = if assured > 0 { assure(&file, 0, assured) } else { Ok(()) };
        let old = (
            std::mem::replace(&mut self.file, file),
            std::mem::replace(&mut self.path, path),
            std::mem::replace(&mut self.len, 0),
            std::mem::replace(&mut self.reserved, assured),
        );
        let begun = begun.map_err(TraceError::io("reserve space in", &self.path)).and_then(|()| {
            self.encode(&Event::SegmentOpened { segment: number, root: self.log.root().to_string() })?;
            self.ends.push(self.batch.len());
            self.write_batch()
        });
        self.discard();
        match begun {
            Ok(()) => {
                self.segment = number;
                // Gives back what was assured beyond its end; where that fails the blocks stay taken, no more.
                let _ = old.0.set_len(old.2);
            }
            Err(_) => {
                let _ = std::fs::remove_file(&self.path);
                self.broken = false;
                (self.file, self.path, self.len, self.reserved) = old;
            }
        }
        begun
    }

    /// Ends the session: its last record, its last checkpoint, all of it on the disk.
    ///
    /// # Errors
    /// [`TraceError::Io`]; the trace then stays "not closed".
    pub fn close(mut self, exit: Option<i32>) -> Result<(), TraceError> {
        self.stage(&Event::SessionClosed { exit })?;
        let written = self.write_batch();
        self.discard();
        written?;
        self.reserved = self.len;
        // The disk has the records to write while they are signed.
        let (file, len) = (self.file.try_clone().map_err(TraceError::io("sync", &self.path))?, self.len);
        // What was assured and not used is given back.
        let file = &file;
        let end = move || file.set_len(len).and_then(|()| file.sync_all());
        let synced = std::thread::scope(|scope| {
            let mut records = Beside::begin(scope, end);
            let mut signed = self.checkpoint();
            if signed.is_err() {
                // On a full disk that is the room which the signature needs.
                records = Beside::Done(records.end());
                signed = self.checkpoint();
            }
            signed?;
            let leaves = &self.leaves;
            let leaves = Beside::begin(scope, move || leaves.sync_all());
            let checkpoints = self.checkpoints.sync_all();
            Ok::<_, TraceError>(records.end().and(leaves.end()).and(checkpoints))
        })?;
        self.closed = true;
        synced.map_err(TraceError::io("sync", &self.dir))
    }

    /// The directory of the trace.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The session's id.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// How many records are in the trace.
    pub fn records(&self) -> u64 {
        self.log.size()
    }

    /// Never earlier than the record before, whatever happens to the clock.
    fn now(&mut self) -> Timestamp {
        self.last = self.last.max(SystemTime::now().into());
        self.last
    }
}

/// Makes the files of a new trace; where one of them cannot be made, those made before it go again.
fn furnish(dir: &Path, policy: &str, key: &str) -> Result<(File, File, File), TraceError> {
    let mut made = Vec::new();
    let mut make = |path: PathBuf, text: &str| {
        let mut file = create(dir, &path)?;
        made.push(path.clone());
        file.write_all(text.as_bytes()).map_err(TraceError::io("write", &path))?;
        Ok(file)
    };
    // The trace itself is the lock: whoever makes it owns the directory.
    let files = (|| {
        let file = make(layout::segment(dir, 0), "")?;
        let leaves = make(dir.join(layout::LEAVES), "")?;
        let checkpoints = make(dir.join(layout::CHECKPOINTS), "")?;
        make(dir.join(layout::POLICY), policy)?;
        make(dir.join(layout::KEY), key)?;
        Ok((file, leaves, checkpoints))
    })();
    if files.is_err() {
        made.iter().rev().for_each(|path| drop(std::fs::remove_file(path)));
    }
    files
}

fn create(dir: &Path, path: &Path) -> Result<File, TraceError> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => TraceError::Exists(dir.into()),
        _ => TraceError::io("create", path)(e),
    })
}

/// What is done to a file beside whatever else is done, or at once where no thread is to be had.
enum Beside<'scope> {
    Going(std::thread::ScopedJoinHandle<'scope, std::io::Result<()>>),
    Done(std::io::Result<()>),
}

impl<'scope> Beside<'scope> {
    fn begin(
        scope: &'scope std::thread::Scope<'scope, '_>,
        work: impl Fn() -> std::io::Result<()> + Send + Copy + 'scope,
    ) -> Self {
        let thread = std::thread::Builder::new().name("failcore-sync".into());
        thread.spawn_scoped(scope, work).map_or_else(|_| Self::Done(work()), Self::Going)
    }

    fn end(self) -> std::io::Result<()> {
        match self {
            Self::Going(thread) => thread.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())),
            Self::Done(done) => done,
        }
    }
}

fn append_or_undo(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), TraceError> {
    let len = file.metadata().map_err(TraceError::io("examine", path))?.len();
    file.write_all(bytes).map_err(|e| {
        let _ = file.set_len(len);
        TraceError::io("append to", path)(e)
    })
}

/// Takes blocks beyond the end of the file without changing its length (fallocate(2)).
///
/// A file system that cannot (`EOPNOTSUPP`: NFS before 4.2, ZFS) is asked for its free space instead, which others may
/// use up meanwhile.
fn assure(file: &File, from: u64, bytes: u64) -> std::io::Result<()> {
    below_the_limit(from, bytes)?;
    match fallocate(file, FallocateFlags::KEEP_SIZE, from, bytes.max(1)) {
        Err(Errno::OPNOTSUPP) => room(file, from, bytes),
        done => Ok(done?),
    }
}

/// Looks whether the file may grow so far, and the file system has as much to give.
fn room(file: &File, from: u64, bytes: u64) -> std::io::Result<()> {
    below_the_limit(from, bytes)?;
    let fs = fstatvfs(file)?;
    if fs.f_bavail.saturating_mul(fs.f_frsize) < bytes { Err(Errno::NOSPC.into()) } else { Ok(()) }
}

/// Taking blocks is not stopped by `RLIMIT_FSIZE`, only writing into them is.
fn below_the_limit(from: u64, bytes: u64) -> std::io::Result<()> {
    let limit = getrlimit(Resource::Fsize).current;
    if limit.is_some_and(|limit| from.saturating_add(bytes) > limit) {
        Err(Errno::FBIG.into())
    } else {
        Ok(())
    }
}
