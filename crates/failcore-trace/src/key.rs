//! The keys that sign checkpoints: one per user, outside every trace.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine};
use rustix::rand::{GetRandomFlags, getrandom};
use signed_note::{StandardSigner, StandardVerifier};

use crate::TraceError;

/// The name every FailCore key bears in signed notes.
const NAME: &str = "failcore";
/// Ed25519 in the encoding of C2SP signed-note.
const ALGORITHM: u8 = 1;

/// The private half: signs checkpoints and keys the digests of redacted secrets.
///
/// # Security
/// Who holds it can write any trace anew. It lies with mode 0600 outside the traces, and a run keeps it from the
/// agent; an embedded session cannot.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// The public half: all that an auditor needs beside the trace itself.
///
/// Written as C2SP signed-note has it, `failcore+<id>+<base64>`, so that other tools can check checkpoints too.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl SigningKey {
    /// The key kept in `path`; made there first, with its directory, if nothing is.
    ///
    /// # Errors
    /// [`TraceError::Io`], and [`TraceError::BadKey`] where the file is no key.
    pub fn load_or_create(path: &Path) -> Result<Self, TraceError> {
        match Self::load(path) {
            Err(TraceError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(TraceError::io("create", dir))?;
        // Complete under another name first, then linked: two runs that start together agree on one key.
        let key = Self::generate()?;
        let draft = dir.join(format!(".key.{}", uuid::Uuid::now_v7().simple()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| {
                file.write_all(key.to_text().as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::hard_link(&draft, path));
        let _ = fs::remove_file(&draft);
        match written {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(TraceError::io("create", path)(e)),
            _ => Self::load(path),
        }
    }

    /// The key kept in `path`.
    ///
    /// # Errors
    /// [`TraceError::Io`], and [`TraceError::BadKey`] where the file is no key or not its owner's alone.
    pub fn load(path: &Path) -> Result<Self, TraceError> {
        let bad = |why| TraceError::BadKey { name: path.display().to_string(), why };
        let mut text = String::new();
        let file = fs::File::open(path).map_err(TraceError::io("read", path))?;
        let mode = file.metadata().map_err(TraceError::io("examine", path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(bad("others may read or change it; `chmod 600` it, or remove it to get a new one"));
        }
        file.take(1024).read_to_string(&mut text).map_err(TraceError::io("read", path))?;
        let text = text.trim_end();
        StandardSigner::new(text).map_err(|_| bad("it is no signing key of signed-note form"))?;
        let base64 = text.splitn(5, '+').nth(4).unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(base64).map_err(|_| bad("its key is no base64"))?;
        let secret = bytes.get(1..).and_then(|b| <[u8; 32]>::try_from(b).ok());
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&secret.ok_or_else(|| bad("its length is wrong"))?)))
    }

    /// A new key that is kept nowhere.
    ///
    /// # Errors
    /// [`TraceError::Io`] where the system gives no randomness.
    pub fn generate() -> Result<Self, TraceError> {
        let mut secret = [0u8; 32];
        let mut filled = 0;
        while filled < secret.len() {
            filled += getrandom(&mut secret[filled..], GetRandomFlags::empty())
                .map_err(|e| TraceError::io("read", Path::new("getrandom(2)"))(e.into()))?;
        }
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&secret)))
    }

    /// Its public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// `PRIVATE+KEY+failcore+<id>+<base64>` and a newline, as signed-note has it.
    fn to_text(&self) -> String {
        let public = self.verifying_key().to_string();
        let id = public.split('+').nth(1).unwrap_or_default();
        let secret = BASE64_STANDARD.encode([&[ALGORITHM], self.0.as_bytes().as_slice()].concat());
        format!("PRIVATE+KEY+{NAME}+{id}+{secret}\n")
    }

    pub(crate) fn signer(&self) -> Result<StandardSigner, TraceError> {
        StandardSigner::new(self.to_text().trim_end())
            .map_err(|_| TraceError::BadKey { name: NAME.into(), why: "it does not sign" })
    }

    /// A key for another purpose that tells nothing about this one.
    pub(crate) fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        crate::redact::hmac(self.0.as_bytes(), purpose)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verifying_key())
    }
}

impl VerifyingKey {
    /// The key kept in `path`.
    ///
    /// # Errors
    /// [`TraceError::Io`], and [`TraceError::BadKey`] where the file is no key.
    pub fn load(path: &Path) -> Result<Self, TraceError> {
        let mut text = String::new();
        fs::File::open(path)
            .and_then(|file| file.take(1024).read_to_string(&mut text))
            .map_err(TraceError::io("read", path))?;
        let key = text.strip_suffix('\n').unwrap_or(&text);
        key.parse().map_err(|e| match e {
            TraceError::BadKey { why, .. } => TraceError::BadKey { name: path.display().to_string(), why },
            other => other,
        })
    }

    pub(crate) fn verifier(&self) -> Result<StandardVerifier, TraceError> {
        StandardVerifier::new(&self.to_string())
            .map_err(|_| TraceError::BadKey { name: self.to_string(), why: "it does not verify" })
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&signed_note::new_ed25519_verifier_key(NAME, &self.0))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl FromStr for VerifyingKey {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let bad = |why| TraceError::BadKey { name: text.into(), why };
        StandardVerifier::new(text).map_err(|_| bad("it is no public key of signed-note form"))?;
        let base64 = text.splitn(3, '+').nth(2).unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(base64).map_err(|_| bad("its key is no base64"))?;
        let public = bytes.get(1..).and_then(|b| <[u8; 32]>::try_from(b).ok());
        ed25519_dalek::VerifyingKey::from_bytes(&public.ok_or_else(|| bad("its length is wrong"))?)
            .map(Self)
            .map_err(|_| bad("it is no point on the curve"))
    }
}

impl serde::Serialize for VerifyingKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_per_user_readable_by_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("failcore/key");
        let made = SigningKey::load_or_create(&path).unwrap();
        let again = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(made.verifying_key(), again.verifying_key());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "the draft is gone");
    }

    #[test]
    fn text_forms_are_those_of_signed_note() {
        let key = SigningKey::generate().unwrap();
        let public = key.verifying_key();
        assert_eq!(public.to_string().parse::<VerifyingKey>().unwrap(), public);
        assert!(StandardVerifier::new(&public.to_string()).is_ok());
        assert!("failcore+00000000+AAAA".parse::<VerifyingKey>().is_err());
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_key_that_others_can_read_signs_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        SigningKey::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SigningKey::load_or_create(&path), Err(TraceError::BadKey { .. })));
    }

    #[test]
    fn a_file_that_is_no_key_is_named_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        fs::write(&path, "hello").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = SigningKey::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("is no key"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    }
}
