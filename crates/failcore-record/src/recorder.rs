//! Keeping what stands at each path that a program looks at, the first time that it does.

mod witness;

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use failcore_gate::{Sink, SinkError, Witness};
use failcore_model::input::{Input, Kind, Moment, Name, STDIN, Shown, Told};
use failcore_model::{AbsPath, Event, Text};
use failcore_policy::Payloads;
use failcore_trace::Redactor;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, open, readlink, readlinkat, statat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::store::{self, Store, StoreError};
use crate::walk::{End, below, parent, walk};

/// Contents that may wait to be packed; whoever has more to keep waits.
const WAITING: usize = 16;
/// Longest file that is kept where nothing else is said, and where everything is kept, in bytes: it is held in memory on
/// the way.
const MOST: u64 = 64 << 20;
const MOST_CONTAINED: u64 = 1 << 30;
/// What all that is kept comes to at most where nothing else is said, in bytes: it is laid out in memory again.
const MOST_IN_ALL: u64 = 4 << 30;
/// How much of longer ones is read at a time, and how much of a program says what it needs.
const CHUNK: u64 = 1 << 20;
const HEAD: usize = 1 << 20;
/// Reading waits for nobody: some files of the kernel have no end.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Which contents are kept.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    /// Trees of programs and libraries.
    pub libraries: Vec<PathBuf>,
    /// Whether what lies in them is kept too, and not only its hash; then every file of up to a gibibyte is, unless the
    /// policy says otherwise.
    pub self_contained: bool,
    /// What the policy says of it.
    pub payloads: Payloads,
    /// Secrets: a file that holds one is not kept, unless it is a library.
    pub secrets: Redactor,
}

/// Writes what a program learns into its trace.
///
/// # Security
/// What is kept can be read by whoever can read the trace's directory. Only what the program was granted to open or to run is kept.
pub struct Recorder {
    sink: Arc<dyn Sink>,
    keeping: Keeping,
    seen: Mutex<Seen>,
    packer: Mutex<Option<Packer>>,
    kept: Mutex<Kept>,
    /// What was taken from the standard input, where it is passed on.
    taken: Mutex<Option<Vec<u8>>>,
    failed: Arc<OnceLock<String>>,
    full: OnceLock<String>,
}

/// What is kept so far.
#[derive(Default)]
struct Kept {
    objects: HashSet<String>,
    bytes: u64,
}

/// Who packs, and the way to them.
struct Packer {
    pack: SyncSender<(String, Vec<u8>)>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// What was asked before, from where, in the same way.
    asked: HashSet<Vec<u8>>,
    /// What stood at each path at first.
    first: HashMap<Vec<u8>, First>,
    /// Where each file stood at first whose contents are not known, by device and inode.
    unread: HashMap<(u64, u64), Vec<u8>>,
    /// The directories that the program moved, and all that changed places: from where to where.
    moved: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Seen {
    /// Where at first that stood, if it was there, which has this path now; nothing where it has its place from the run.
    fn origin(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mut path = path.to_vec();
        for (from, to) in self.moved.iter().rev() {
            if let Some(rest) = below(&path, to) {
                path = [from, rest].concat();
            } else if below(&path, from).is_some() {
                return None;
            }
        }
        Some(path)
    }

    fn move_it(&mut self, from: Vec<u8>, to: Vec<u8>, exchange: bool) {
        if !exchange {
            return self.moved.push((from, to));
        }
        // By way of a place where nothing can be.
        let aside = b"/\0".to_vec();
        self.moved.extend([(from.clone(), aside.clone()), (to.clone(), from), (aside, to)]);
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum First {
    Absent,
    Directory {
        listed: bool,
    },
    /// `read` once its contents are kept, or cannot be had any more.
    File {
        read: bool,
        state: State,
    },
    Other,
}

/// By which a file shows that it was changed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct State {
    inode: u64,
    size: i64,
    modified: (i64, u64),
}

impl State {
    fn of(stat: &Stat) -> Self {
        Self { inode: stat.st_ino, size: stat.st_size, modified: (stat.st_mtime, stat.st_mtime_nsec) }
    }
}

/// Contents that were read.
struct Held {
    sha256: String,
    size: u64,
    kept: bool,
    /// How they begin.
    head: Vec<u8>,
}

fn unkept(why: impl Display) -> SinkError {
    SinkError(why.to_string().into())
}

impl Recorder {
    /// Begins to record into `store` and `sink`. The calling thread must be one that may write there: the thread that
    /// packs inherits what it may do.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(mut store: Store, sink: Arc<dyn Sink>, keeping: Keeping) -> Result<Self, StoreError> {
        let failed = Arc::new(OnceLock::new());
        let (pack, packed) = mpsc::sync_channel::<(String, Vec<u8>)>(WAITING);
        let why = Arc::clone(&failed);
        let packer = std::thread::Builder::new().name("failcore-keep".into()).spawn(move || {
            for (sha256, bytes) in packed {
                if let Err(error) = store.put(&sha256, &bytes) {
                    let _ = why.set(error.to_string());
                }
            }
        });
        let thread = packer.map_err(|source| StoreError::Io {
            verb: "start a thread for",
            path: "objects".into(),
            source,
        })?;
        let packer = Mutex::new(Some(Packer { pack, thread }));
        Ok(Self {
            sink,
            keeping,
            seen: Mutex::default(),
            packer,
            kept: Mutex::default(),
            taken: Mutex::default(),
            failed,
            full: OnceLock::new(),
        })
    }

    /// Why nothing more is kept, once what was to be kept is more than the policy lets it be: then nothing is learnt any
    /// more, and the run is to be stopped.
    pub fn full(&self) -> Option<&str> {
        self.full.get().map(String::as_str)
    }

    /// Ends the recording, after the program: all of it is kept, and what the program left of files that it looked at.
    ///
    /// # Errors
    /// Why something is not, in words.
    pub fn finish(&self) -> Result<(), String> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(taken) = taken {
            let Held { sha256, size, kept, .. } =
                self.hold(STDIN.as_bytes(), &mut &taken[..]).map_err(|error| error.to_string())?;
            let input = Input::Stdin { sha256, size, kept, at: None };
            self.write(STDIN.as_bytes(), input).map_err(|error| error.to_string())?;
        }
        self.settle();
        let first = std::mem::take(&mut self.lock().first);
        for (path, first) in first {
            let now = statat(CWD, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok();
            let now = now.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
            let changed = match (first, &now) {
                (First::Absent, now) => now.is_some(),
                (First::File { state, .. }, Some(now)) => State::of(now) != state,
                (First::File { .. }, None) => true,
                (First::Directory { .. } | First::Other, _) => false,
            };
            // The kernel's own files are others each time.
            if changed && !path.starts_with(b"/proc/") && !path.starts_with(b"/sys/") {
                let left = Event::Left { sha256: store::hash_of(Path::new(os(&path))), path: path.into() };
                self.sink.append(&left).map_err(|error| error.to_string())?;
            }
        }
        self.failed.get().or(self.full.get()).cloned().map_or(Ok(()), Err)
    }

    fn settle(&self) {
        let packer = self.packer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Packer { pack, thread }) = packer {
            drop(pack);
            drop(thread.join());
        }
    }

    /// Has it packed, by who may write where it goes.
    fn pack(&self, sha256: &str, bytes: Vec<u8>) -> Result<(), SinkError> {
        if let Some(why) = self.failed.get().or(self.full.get()) {
            return Err(unkept(why));
        }
        self.spend(sha256, bytes.len() as u64)?;
        let packer = self.packer.lock().unwrap_or_else(PoisonError::into_inner);
        let pack = packer.as_ref().map(|packer| packer.pack.clone());
        drop(packer);
        let pack = pack.ok_or_else(|| unkept("the recording has ended"))?;
        pack.send((sha256.to_owned(), bytes)).map_err(|_| unkept("nobody packs any more"))
    }

    /// Counts what is about to be kept, each once.
    fn spend(&self, sha256: &str, bytes: u64) -> Result<(), SinkError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.objects.contains(sha256) {
            return Ok(());
        }
        let most = self.most_in_all();
        let needed = kept.bytes.saturating_add(bytes);
        if needed > most {
            return Err(self.is_full(format!("the recording needs {needed}")));
        }
        kept.objects.insert(sha256.to_owned());
        kept.bytes = needed;
        Ok(())
    }

    fn most_in_all(&self) -> u64 {
        self.keeping.payloads.max_total.unwrap_or(MOST_IN_ALL)
    }

    fn is_full(&self, needs: String) -> SinkError {
        let why = || format!("`record.max_total` is {}, and {needs}", self.most_in_all());
        unkept(self.full.get_or_init(why))
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, path: &[u8], input: Input) -> Result<(), SinkError> {
        self.sink.append(&Event::Input { path: Text::from(path), input })
    }

    fn told(&self, thread: &str, told: Told) -> Result<(), SinkError> {
        self.sink.append(&Event::Told { thread: Text::from(thread.as_bytes()), told })
    }

    /// Walks along a path, and keeps what stands on the way where it was not seen before.
    fn walk(&self, seen: &mut Seen, path: &[u8], follow: bool) -> Result<End, SinkError> {
        walk(path, follow, |here| self.look(seen, here))
    }

    /// What stands at a path without links now; kept where it is the first look, and it did not come to be during the run.
    fn look(&self, seen: &mut Seen, path: &[u8]) -> Result<Option<Stat>, SinkError> {
        let stat = match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            // Whoever may not look learns nothing.
            Err(_) => return Ok(None),
        };
        let Some(origin) = seen.origin(path) else { return Ok(stat) };
        if seen.first.contains_key(&origin) || seen.first.get(parent(&origin)) == Some(&First::Absent) {
            return Ok(stat);
        }
        let (first, input) = match &stat {
            None => (First::Absent, Input::Absent),
            Some(stat) => first_look(path, stat),
        };
        seen.first.insert(origin.clone(), first);
        if let Some(stat) = stat.as_ref().filter(|_| matches!(first, First::File { .. })) {
            seen.unread.insert((stat.st_dev, stat.st_ino), origin.clone());
        }
        self.write(&origin, input)?;
        Ok(stat)
    }

    /// The program's standard input is a regular file that it reads from `at` on.
    ///
    /// # Errors
    /// Where what it holds cannot be kept.
    pub fn reads_file(&self, file: BorrowedFd<'_>, at: u64) -> Result<(), SinkError> {
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = readlink(&own, Vec::new()).map_err(unkept)?.into_bytes();
        let mut file = File::from(open(&own, READ, Mode::empty()).map_err(unkept)?);
        let Held { sha256, size, kept, .. } = self.hold(&path, &mut file)?;
        self.write(STDIN.as_bytes(), Input::Stdin { sha256, size, kept, at: Some(at) })
    }

    /// This is about to be passed on to the program's standard input.
    ///
    /// # Errors
    /// Where it cannot be kept: then nothing of it may be passed on.
    pub fn takes(&self, piece: &[u8]) -> Result<(), SinkError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = taken.get_or_insert_default();
        let most = self.most_in_all().min(MOST_CONTAINED);
        if (taken.len() + piece.len()) as u64 > most {
            return Err(self.is_full(format!("the standard input alone is longer than {most} bytes")));
        }
        taken.extend(piece);
        Ok(())
    }

    /// Keeps what the file at `path` holds; how it begins.
    fn keep(&self, path: &[u8], file: &mut File) -> Result<Vec<u8>, SinkError> {
        let Held { sha256, size, kept, head } = self.hold(path, file)?;
        self.write(path, Input::Contents { sha256, size, kept })?;
        Ok(head)
    }

    /// Keeps what is read to its end, as far as that is kept of what is called `path`.
    fn hold(&self, path: &[u8], file: &mut impl Read) -> Result<Held, SinkError> {
        let Keeping { libraries, self_contained, payloads, secrets } = &self.keeping;
        let library = libraries.iter().any(|tree| Path::new(os(path)).starts_with(tree));
        let wanted = AbsPath::new(path).is_ok_and(|path| {
            !payloads.only_hashes(&path) && (*self_contained || payloads.keeps(&path).unwrap_or(!library))
        });
        let most = self.most();
        let mut bytes = Vec::new();
        take(file, (most + 1).max(HEAD as u64), &mut bytes)?;
        let mut hash = Sha256::new_with_prefix(&bytes);
        let mut size = bytes.len() as u64;
        let fits = size <= most;
        if !fits {
            // What is not kept need not be held.
            let mut more = bytes.split_off(HEAD.min(bytes.len()));
            loop {
                more.clear();
                take(file, CHUNK, &mut more)?;
                if more.is_empty() {
                    break;
                }
                hash.update(&more);
                size += more.len() as u64;
            }
        }
        let sha256 = format!("{:x}", hash.finalize());
        let kept = fits && wanted && (library || !secrets.finds(&bytes));
        let head = bytes[..HEAD.min(bytes.len())].to_vec();
        if kept {
            self.pack(&sha256, bytes)?;
        }
        Ok(Held { sha256, size, kept, head })
    }

    /// Keeps what the file at `path` holds, which the program leaves there without having read it.
    fn leaves(&self, path: &[u8]) -> Result<(), SinkError> {
        let regular = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        // Whatever else it is, opening it may do something.
        if !statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| regular(&stat)) {
            return Ok(());
        }
        let Ok(file) = open(path, READ | OFlags::NOFOLLOW, Mode::empty()) else { return Ok(()) };
        let stat = fstat(&file).map_err(unkept)?;
        if !regular(&stat) {
            return Ok(());
        }
        let unread = Self::is_to_be_read(&mut self.lock(), path, &stat);
        unread.map_or(Ok(()), |(first, _)| self.keep(&first, &mut file.into()).map(drop))
    }

    /// Where at first that stood which stands at `path`, and in what state it was, where its contents are still to be kept;
    /// asked once.
    fn is_to_be_read(seen: &mut Seen, path: &[u8], stat: &Stat) -> Option<(Vec<u8>, State)> {
        let id = (stat.st_dev, stat.st_ino);
        // It may have got another name meanwhile; and who replaced it may have been anybody.
        let was = seen.origin(path).and_then(|origin| match seen.first.get(&origin) {
            Some(First::File { state, .. }) => Some((origin, state.inode == stat.st_ino)),
            _ => None,
        });
        let path = match (was, seen.unread.get(&id)) {
            (Some((origin, true)), _) | (Some((origin, false)), None) => origin,
            (_, Some(other)) => other.clone(),
            (None, None) => return None,
        };
        match seen.first.get_mut(&path) {
            Some(First::File { read, state }) if !*read => {
                *read = true;
                let state = *state;
                seen.unread.remove(&id);
                Some((path, state))
            }
            _ => None,
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Reads at most `most` more bytes, as far as they are there now.
fn take(file: &mut impl Read, most: u64, bytes: &mut Vec<u8>) -> Result<(), SinkError> {
    match file.take(most).read_to_end(bytes) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(unkept(error)),
        _ => Ok(()),
    }
}

fn os(path: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(path)
}

fn first_look(path: &[u8], stat: &Stat) -> (First, Input) {
    let mode = stat.st_mode & 0o7777;
    let modified = Moment { s: stat.st_mtime, ns: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() };
    let shown = Some(Shown {
        inode: stat.st_ino,
        links: stat.st_nlink,
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        changed: Moment { s: stat.st_ctime, ns: u32::try_from(stat.st_ctime_nsec).unwrap_or_default() },
    });
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            (First::Directory { listed: false }, Input::Directory { mode, modified, shown })
        }
        FileType::RegularFile => {
            let size = stat.st_size.cast_unsigned();
            (First::File { read: false, state: State::of(stat) }, Input::File { mode, modified, size, shown })
        }
        FileType::Symlink => match readlinkat(CWD, path, Vec::new()) {
            Ok(target) => {
                let (target, modified) = (Text::from(target.into_bytes()), Some(modified));
                (First::Other, Input::Link { target, modified, shown })
            }
            // Gone meanwhile.
            Err(_) => (First::Absent, Input::Absent),
        },
        _ => (First::Other, Input::Special { mode: stat.st_mode, device: stat.st_rdev }),
    }
}

/// The names in a directory, as the kernel orders them.
fn names(dir: &str) -> io::Result<Vec<Name>> {
    let dir = open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut found = Vec::new();
    for entry in Dir::new(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        found.push(Name { name: Text::from(name), kind });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    struct Nowhere;

    impl Sink for Nowhere {
        fn append(&self, _: &Event) -> Result<(), SinkError> {
            Ok(())
        }
    }

    #[test]
    fn what_was_moved_has_its_place_from_where_it_was() {
        let mut seen = Seen::default();
        for (from, to, exchange) in [
            ("/w/x", "/w/a/x", false),
            ("/w/a", "/w/b", false),
            ("/w/b/sub", "/w/c", false),
            ("/w/one", "/v/two", true),
            ("/w/made", "/w/one/made", false),
        ] {
            seen.move_it(from.into(), to.into(), exchange);
        }
        let origin = |path: &str| seen.origin(path.as_bytes()).map(|path| String::from_utf8(path).unwrap());
        for (now, first) in [
            ("/w/b/f", Some("/w/a/f")),
            ("/w/b/x/f", Some("/w/x/f")),
            ("/w/c", Some("/w/a/sub")),
            ("/w/c/f", Some("/w/a/sub/f")),
            ("/w/bb/f", Some("/w/bb/f")),
            ("/v/two/f", Some("/w/one/f")),
            ("/w/one", Some("/v/two")),
            ("/w/one/f", Some("/v/two/f")),
            ("/w/one/made/f", Some("/w/made/f")),
            // Made anew where the other was.
            ("/w/a/f", None),
            ("/w/b/sub/f", None),
            ("/w/x", None),
        ] {
            assert_eq!(origin(now).as_deref(), first, "{now}");
        }
    }

    #[test]
    fn where_nothing_can_be_kept_nothing_is_learnt() {
        let dir = tempfile::tempdir().unwrap();
        let keeping = Keeping::default();
        let recorder = Recorder::start(Store::without_room(), Arc::new(Nowhere), keeping).unwrap();
        let opens = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            recorder.looks(b"/", path.as_os_str().as_bytes(), true)?;
            recorder.opens(File::open(&path).unwrap().as_fd())
        };
        // The first is on its way when it shows.
        let refused = (0..1000).find(|n| opens(&n.to_string()).is_err());
        assert!(refused.is_some_and(|n| n > 0));
        assert!(recorder.finish().unwrap_err().contains("cannot write /dev/full"));
        assert!(opens("later").is_err());
    }
}
