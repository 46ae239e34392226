//! Where traces lie and how they are called.

use std::path::{Path, PathBuf};

use crate::TraceError;

/// `$XDG_STATE_HOME/failcore`, by default `~/.local/state/failcore`: runs and the signing key.
///
/// # Errors
/// [`TraceError::NoHome`] where neither variable names an absolute path.
pub fn state_dir() -> Result<PathBuf, TraceError> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("failcore"))
        .ok_or(TraceError::NoHome)
}

/// The directory that holds every run's trace, each under its session id.
///
/// # Errors
/// [`TraceError::NoHome`].
pub fn runs_dir() -> Result<PathBuf, TraceError> {
    Ok(state_dir()?.join("runs"))
}

/// The file of the user's signing key.
///
/// # Errors
/// [`TraceError::NoHome`].
pub fn key_path() -> Result<PathBuf, TraceError> {
    Ok(state_dir()?.join("key"))
}

/// A new session id: a UUID of version 7 (RFC 9562), so that ids sort by time and tell nothing else.
pub fn new_session_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The trace that `name` means: a path, a session id or the unique start of one.
///
/// # Errors
/// [`TraceError::NoTrace`] for a path without a trace, [`TraceError::NoRun`] and [`TraceError::Ambiguous`] for
/// an id.
pub fn locate(name: &str) -> Result<PathBuf, TraceError> {
    if name.contains('/') || name == "." || name == ".." {
        return at(Path::new(name));
    }
    let runs = runs_dir();
    match runs.as_deref().map(|dir| locate_in(dir, name)) {
        Ok(Ok(found)) => Ok(found),
        // A bare name of the current directory is a path too, unless a run is called that.
        _ if Path::new(name).exists() => at(Path::new(name)),
        Ok(error) => error,
        Err(_) => runs,
    }
}

/// As [`locate`] for ids, in another directory of runs.
///
/// # Errors
/// [`TraceError::NoRun`] and [`TraceError::Ambiguous`].
pub fn locate_in(dir: &Path, name: &str) -> Result<PathBuf, TraceError> {
    let none = || TraceError::NoRun { name: name.into(), dir: dir.into() };
    if !is_session_id(name) {
        return Err(none());
    }
    let mut found: Vec<String> = match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|id| id.starts_with(name))
            .collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(TraceError::io("list", dir)(e)),
    };
    found.sort_unstable();
    match found.as_slice() {
        [] => Err(none()),
        [id] => at(&dir.join(id)),
        _ if found.iter().any(|id| id == name) => at(&dir.join(name)),
        _ => {
            found.truncate(8);
            Err(TraceError::Ambiguous { prefix: name.into(), candidates: found })
        }
    }
}

/// Whether a session can be called that.
pub fn is_session_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn at(path: &Path) -> Result<PathBuf, TraceError> {
    let dir = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    if path.exists() && crate::layout::segment(dir, 0).exists() {
        Ok(dir.into())
    } else {
        Err(TraceError::NoTrace(path.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(dir: &Path, id: &str) {
        std::fs::create_dir_all(dir.join(id)).unwrap();
        std::fs::write(dir.join(id).join("trace.jsonl"), "").unwrap();
    }

    #[test]
    fn ids_prefixes_and_paths_are_understood() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        for id in ["0190-a", "0190-ab", "0191-c"] {
            run(dir, id);
        }
        assert_eq!(locate_in(dir, "0191").unwrap(), dir.join("0191-c"));
        assert_eq!(locate_in(dir, "0190-a").unwrap(), dir.join("0190-a"), "a whole id beats a prefix");
        let error = locate_in(dir, "0190").unwrap_err();
        assert_eq!(error.to_string(), "`0190` could be any of 0190-a, 0190-ab");
        assert!(matches!(locate_in(dir, "02"), Err(TraceError::NoRun { .. })));
        assert!(matches!(locate_in(dir, "../etc"), Err(TraceError::NoRun { .. })));
        assert!(matches!(locate_in(&dir.join("none"), "02"), Err(TraceError::NoRun { .. })));
        let path = dir.join("0191-c");
        assert_eq!(locate(path.to_str().unwrap()).unwrap(), path);
        assert_eq!(locate(path.join("trace.jsonl").to_str().unwrap()).unwrap(), path);
        assert!(matches!(locate(dir.to_str().unwrap()), Err(TraceError::NoTrace(_))));
    }

    #[test]
    fn session_ids_sort_by_time() {
        let ids: Vec<String> = (0..50).map(|_| new_session_id()).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| is_session_id(id)));
    }
}
