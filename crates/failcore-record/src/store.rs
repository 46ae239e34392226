//! The objects of a trace: what files held, each once under its SHA-256 and packed by Zstandard (RFC 8878), one after the
//! other in one file. A file each would cost more than all the rest.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// How hard it is packed: what costs about as much time as the hash.
const LEVEL: i32 = 1;
/// Before each object: its hash in hexadecimal, and its packed length in little-endian order.
const HASH: usize = 64;
const HEAD: usize = HASH + 8;

/// The objects of one trace, while they are gathered.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    known: HashSet<String>,
}

/// The objects of one trace, as they were gathered.
#[derive(Debug)]
pub struct Objects {
    path: PathBuf,
    /// None where nothing was ever kept.
    file: Option<File>,
    /// Where each begins, and how long it is packed.
    places: HashMap<String, (u64, u64)>,
    /// Others that were never gathered.
    set: HashMap<String, Vec<u8>>,
}

/// An object cannot be kept, or is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system's error.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Its contents are not those of its name.
    #[error("{} is not what was recorded: it was changed since", .0.display())]
    Changed(PathBuf),
}

impl StoreError {
    fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { verb, path, source }
    }
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The SHA-256 of what a file holds now, in hexadecimal; nothing where it cannot be read.
pub(crate) fn hash_of(file: &Path) -> Option<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(file).ok()?, &mut hash).ok()?;
    Some(format!("{:x}", hash.finalize()))
}

fn path(trace: &Path) -> PathBuf {
    trace.join("objects").join("pack")
}

#[cfg(test)]
impl Store {
    /// One that has no room (full(4)).
    pub(crate) fn without_room() -> Self {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        Self { path, file, known: HashSet::new() }
    }
}

impl Store {
    /// Begins to gather for the trace in `trace`, for its owner alone.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(trace: &Path) -> Result<Self, StoreError> {
        let path = path(trace);
        let dir = path.parent().unwrap_or(trace);
        DirBuilder::new().mode(0o700).recursive(true).create(dir).map_err(StoreError::io("make", dir))?;
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(StoreError::io("make", &path))?;
        Ok(Self { path, file, known: HashSet::new() })
    }

    /// Keeps `bytes` under their hash, once.
    ///
    /// # Errors
    /// [`StoreError::Io`]; nothing can be kept after that.
    pub fn put(&mut self, sha256: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if self.known.contains(sha256) {
            return Ok(());
        }
        let failed = StoreError::io("write", &self.path);
        let packed = match zstd::bulk::compress(bytes, LEVEL) {
            Ok(packed) => packed,
            Err(error) => return Err(failed(error)),
        };
        let mut object = Vec::with_capacity(HEAD + packed.len());
        object.extend(sha256.as_bytes());
        object.extend((packed.len() as u64).to_le_bytes());
        object.extend(packed);
        self.file.write_all(&object).map_err(failed)?;
        self.known.insert(sha256.to_owned());
        Ok(())
    }
}

impl Objects {
    /// Those of the trace in `trace`.
    ///
    /// # Errors
    /// [`StoreError`], where the file makes no sense: its end is missing, for one.
    pub fn open(trace: &Path) -> Result<Self, StoreError> {
        let path = path(trace);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(file.map_err(StoreError::io("read", &path))?),
        };
        let mut places = HashMap::new();
        if let Some(file) = &file {
            let len = file.metadata().map_err(StoreError::io("read", &path))?.len();
            let (mut at, mut head) = (0, [0; HEAD]);
            while at < len {
                let whole = file.read_exact_at(&mut head, at).is_ok();
                let (hash, packed) = head.split_at(HASH);
                let packed = packed.try_into().map(u64::from_le_bytes).unwrap_or_default();
                at += HEAD as u64;
                let (true, Ok(hash)) = (whole && packed <= len.saturating_sub(at), str::from_utf8(hash))
                else {
                    return Err(StoreError::Changed(path));
                };
                places.insert(hash.to_owned(), (at, packed));
                at += packed;
            }
        }
        Ok(Self { path, file, places, set: HashMap::new() })
    }

    /// The same and these, by their SHA-256.
    pub(crate) fn with(self, set: HashMap<String, Vec<u8>>) -> Self {
        Self { set, ..self }
    }

    /// What was kept under a hash, of this size, proven to be it.
    ///
    /// # Errors
    /// [`StoreError`]; what is not what it was is not handed out in part.
    pub fn get(&self, sha256: &str, size: u64) -> Result<Vec<u8>, StoreError> {
        if let Some(bytes) = self.set.get(sha256) {
            return Ok(bytes.clone());
        }
        let changed = || StoreError::Changed(self.path.clone());
        let (Some(file), Some((at, len))) = (&self.file, self.places.get(sha256)) else {
            return Err(changed());
        };
        let mut packed = vec![0; usize::try_from(*len).map_err(|_| changed())?];
        file.read_exact_at(&mut packed, *at).map_err(StoreError::io("read", &self.path))?;
        let mut bytes = Vec::new();
        // However much somebody has made it unpack to.
        let unpacked = zstd::Decoder::new(&packed[..])
            .and_then(|packed| packed.take(size.saturating_add(1)).read_to_end(&mut bytes));
        if unpacked.is_err() || self::sha256(&bytes) != sha256 {
            return Err(changed());
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_was_changed_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let texts = [b"some text ".repeat(1000), b"another".to_vec(), Vec::new()];
        let mut store = Store::create(dir.path()).unwrap();
        for text in texts.iter().chain(&texts) {
            store.put(&sha256(text), text).unwrap();
        }
        let whole = std::fs::read(path(dir.path())).unwrap();
        assert!(whole.len() < 1000, "packed, and each once");
        let get = |text: &[u8]| Objects::open(dir.path())?.get(&sha256(text), text.len() as u64);
        for text in &texts {
            assert_eq!(get(text).unwrap(), *text);
        }
        assert!(matches!(get(b"never seen"), Err(StoreError::Changed(_))));
        // Cut anywhere but between objects, and changed anywhere.
        std::fs::write(path(dir.path()), &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(get(&texts[0]), Err(StoreError::Changed(_))));
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            std::fs::write(path(dir.path()), changed).unwrap();
            for text in &texts {
                // Some bytes say nothing of what is packed, such as how it was packed.
                assert!(get(text).is_ok_and(|got| got == *text) || get(text).is_err(), "{at}");
            }
        }
        let bomb = zstd::bulk::compress(&vec![0; 1 << 24], LEVEL).unwrap();
        let hash = sha256(b"another");
        let object = [hash.as_bytes(), &(bomb.len() as u64).to_le_bytes(), &bomb].concat();
        std::fs::write(path(dir.path()), object).unwrap();
        assert!(matches!(get(b"another"), Err(StoreError::Changed(_))));
    }
}
