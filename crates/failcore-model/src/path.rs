//! Absolute paths whose spelling holds no surprises.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::Text;

/// Longest path accepted, in bytes, without the terminating NUL: `PATH_MAX` − 1 (limits.h(0p), path_resolution(7)).
const MAX: usize = 4095;
/// Longest component accepted, in bytes (`NAME_MAX`).
const MAX_COMPONENT: usize = 255;

/// An absolute path without `.`, `..`, empty components, trailing slash or NUL; not necessarily UTF-8.
///
/// This is a *spelling*: that it is also the resolved object is for whoever made it to ensure.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "Text")]
#[schemars(with = "Text")]
pub struct AbsPath(Text);

/// Why some bytes are no [`AbsPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It does not start with `/`.
    #[error("path is not absolute")]
    Relative,
    /// It contains a NUL byte, which would end it early in the kernel.
    #[error("path contains a NUL byte")]
    Nul,
    /// It is longer than the kernel takes.
    #[error("path is too long")]
    TooLong,
    /// It goes above the root, or has components that must be resolved first.
    #[error("path is not in resolved form")]
    Unresolved,
}

impl AbsPath {
    /// Takes a path that is already in resolved form.
    ///
    /// # Errors
    /// [`PathError`] where it is relative, over-long, has a NUL, or contains `.`, `..`, `//` or a final `/`.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        let path = Self::lexical(bytes)?;
        if path.as_bytes() == bytes { Ok(path) } else { Err(PathError::Unresolved) }
    }

    /// Folds `.`, `..`, `//` and a final `/` by spelling alone.
    ///
    /// # Security
    /// `a/../b` is `b` only where `a` is no symbolic link: fine for policy text, never for judging what a
    /// program opens.
    ///
    /// # Errors
    /// [`PathError`] where it is relative, over-long or has a NUL.
    pub fn lexical(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        if bytes.len() > MAX {
            return Err(PathError::TooLong);
        }
        if bytes.first() != Some(&b'/') {
            return Err(PathError::Relative);
        }
        if is_folded(bytes) {
            return Ok(Self(bytes.into()));
        }
        let mut kept: Vec<&[u8]> = Vec::new();
        for component in bytes.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(kept.pop()),
                _ if component.len() > MAX_COMPONENT => return Err(PathError::TooLong),
                _ => kept.push(component),
            }
        }
        let mut out = Vec::with_capacity(bytes.len());
        for component in kept {
            out.push(b'/');
            out.extend_from_slice(component);
        }
        if out.is_empty() {
            out.push(b'/');
        }
        Ok(Self(out.into()))
    }

    /// The root directory.
    pub fn root() -> Self {
        Self(Text::from("/"))
    }

    /// The path's bytes, starting with `/`.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The path for the standard library.
    pub fn as_path(&self) -> &std::path::Path {
        use std::os::unix::ffi::OsStrExt;
        std::path::Path::new(std::ffi::OsStr::from_bytes(self.as_bytes()))
    }

    /// The components from the root down, without slashes; none for `/`.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.as_bytes()[1..].split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The last component; none for `/`.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The directory that holds it; none for `/`.
    pub fn parent(&self) -> Option<Self> {
        self.parent_bytes().map(|dir| Self(dir.into()))
    }

    /// The spelling of [`AbsPath::parent`].
    pub fn parent_bytes(&self) -> Option<&[u8]> {
        let name = self.file_name()?;
        let end = self.as_bytes().len() - name.len() - 1;
        Some(&self.as_bytes()[..end.max(1)])
    }

    /// This path with one more component.
    ///
    /// # Errors
    /// [`PathError`] where `name` is no single component or the whole gets too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        let mut bytes = self.as_bytes().to_vec();
        if bytes.len() > 1 {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::new(&bytes)
    }

    /// Whether `self` is `dir` or lies below it.
    pub fn is_within(&self, dir: &Self) -> bool {
        let (path, dir) = (self.as_bytes(), dir.as_bytes());
        dir == b"/" || path == dir || (path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'))
    }
}

impl TryFrom<Text> for AbsPath {
    type Error = PathError;

    fn try_from(text: Text) -> Result<Self, PathError> {
        // Deserialised traces are long: check without building a second copy.
        let bytes = text.as_bytes();
        let clean = bytes.len() <= MAX && !bytes.contains(&0) && is_folded(bytes);
        if clean { Ok(Self(text)) } else { Self::new(bytes) }
    }
}

/// Whether an absolute path has nothing to fold, as most have.
fn is_folded(bytes: &[u8]) -> bool {
    let Some((b'/', rest)) = bytes.split_first() else { return false };
    // Every traced operation pays for this: without early ends, so that many bytes are compared at once.
    let suspicious = |pair: &[u8]| (pair[0] == b'/') & ((pair[1] == b'/') | (pair[1] == b'.'));
    let any = bytes.windows(2).fold(false, |any, pair| any | suspicious(pair));
    if !any && bytes.len() <= MAX_COMPONENT {
        return rest.last() != Some(&b'/');
    }
    rest.is_empty()
        || rest
            .split(|b| *b == b'/')
            .all(|component| !matches!(component, b"" | b"." | b"..") && component.len() <= MAX_COMPONENT)
}

impl Serialize for AbsPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl From<AbsPath> for Text {
    fn from(path: AbsPath) -> Self {
        path.0
    }
}

impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lexical(path: &str) -> String {
        AbsPath::lexical(path.as_bytes()).unwrap().to_string()
    }

    #[test]
    fn folds_by_spelling() {
        assert_eq!(lexical("/a/./b//c/../d/"), "/a/b/d");
        assert_eq!(lexical("/../.."), "/");
        assert_eq!(lexical("/"), "/");
    }

    #[test]
    fn resolved_form_is_demanded() {
        assert_eq!(AbsPath::new(b"/a/../b"), Err(PathError::Unresolved));
        assert_eq!(AbsPath::new(b"/a/"), Err(PathError::Unresolved));
        assert_eq!(AbsPath::new(b"a"), Err(PathError::Relative));
        assert_eq!(AbsPath::new(b"/a\0b"), Err(PathError::Nul));
        assert_eq!(AbsPath::new(&[b'/'; 5000]), Err(PathError::TooLong));
        assert_eq!(AbsPath::new(format!("/{}", "x".repeat(256)).as_bytes()), Err(PathError::TooLong));
        assert!(serde_json::from_str::<AbsPath>(r#""/a/../b""#).is_err());
        assert!(serde_json::from_str::<AbsPath>(r#""/a/b""#).is_ok());
    }

    #[test]
    fn within_counts_whole_components() {
        let dir = AbsPath::new(b"/work").unwrap();
        assert!(AbsPath::new(b"/work").unwrap().is_within(&dir));
        assert!(AbsPath::new(b"/work/a").unwrap().is_within(&dir));
        assert!(!AbsPath::new(b"/workshop").unwrap().is_within(&dir));
        assert!(dir.is_within(&AbsPath::root()));
    }

    #[test]
    fn parent_and_join_are_inverse() {
        let path = AbsPath::new(b"/a/b").unwrap();
        assert_eq!(path.parent().unwrap().join(b"b").unwrap(), path);
        assert_eq!(AbsPath::root().join(b"a").unwrap().parent(), Some(AbsPath::root()));
        assert_eq!(AbsPath::root().parent(), None);
        assert!(path.join(b"../c").is_err());
    }
}
