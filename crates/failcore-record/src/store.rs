//! The objects of a trace: what files held, each under its SHA-256 and packed by Zstandard (RFC 8878).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// How hard it is packed: what costs about as much time as the hash.
const LEVEL: i32 = 1;

/// The objects of one trace.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
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
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of what a file holds now, in hexadecimal; nothing where it cannot be read.
pub(crate) fn hash_of(file: &Path) -> Option<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(file).ok()?, &mut hash).ok()?;
    Some(hex(&hash.finalize()))
}

impl Store {
    /// The objects of the trace in `trace`.
    pub fn of(trace: &Path) -> Self {
        Self { dir: trace.join("objects") }
    }

    /// Makes the directory, for its owner alone.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(&self) -> Result<(), StoreError> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&self.dir);
        made.map_err(StoreError::io("make", &self.dir))
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("{sha256}.zst"))
    }

    /// Keeps `bytes` under their hash, once.
    ///
    /// # Errors
    /// [`StoreError::Io`]; nothing of it lies under that name then.
    pub fn put(&self, sha256: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(sha256);
        if path.exists() {
            return Ok(());
        }
        // Named for the writing until it is whole: whoever reads the name finds all of it.
        let begun = path.with_extension("part");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&begun)
            .and_then(|mut file| file.write_all(&zstd::encode_all(bytes, LEVEL)?))
            .and_then(|()| std::fs::rename(&begun, &path));
        written.map_err(|error| {
            drop(std::fs::remove_file(&begun));
            StoreError::io("write", &path)(error)
        })
    }

    /// What was kept under a hash, of this size, proven to be it.
    ///
    /// # Errors
    /// [`StoreError`]; what is not what it was is not handed out in part.
    pub fn get(&self, sha256: &str, size: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(sha256);
        let file = File::open(&path).map_err(StoreError::io("read", &path))?;
        let mut bytes = Vec::new();
        // However much somebody has made it unpack to.
        let unpacked =
            zstd::Decoder::new(file).and_then(|packed| packed.take(size + 1).read_to_end(&mut bytes));
        if unpacked.is_err() || self::sha256(&bytes) != sha256 {
            return Err(StoreError::Changed(path));
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
        let store = Store::of(dir.path());
        store.create().unwrap();
        let text = b"some text ".repeat(1000);
        let hash = sha256(&text);
        store.put(&hash, &text).unwrap();
        store.put(&hash, &text).unwrap();
        assert_eq!(store.get(&hash, text.len() as u64).unwrap(), text);
        assert!(std::fs::metadata(store.path(&hash)).unwrap().len() < 1000, "packed");

        let mut packed = std::fs::read(store.path(&hash)).unwrap();
        packed.truncate(packed.len() - 3);
        std::fs::write(store.path(&hash), &packed).unwrap();
        assert!(matches!(store.get(&hash, text.len() as u64), Err(StoreError::Changed(_))));
        std::fs::write(store.path(&hash), zstd::encode_all(&b"other"[..], 1).unwrap()).unwrap();
        assert!(matches!(store.get(&hash, text.len() as u64), Err(StoreError::Changed(_))));
        let bomb = zstd::encode_all(&vec![0; 1 << 20][..], 1).unwrap();
        std::fs::write(store.path(&hash), bomb).unwrap();
        assert!(matches!(store.get(&hash, text.len() as u64), Err(StoreError::Changed(_))));
        assert!(matches!(store.get("00", 1), Err(StoreError::Io { .. })));
    }
}
