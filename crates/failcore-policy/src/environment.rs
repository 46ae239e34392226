//! What a policy's `~`, `${VAR}`, bare words and presets refer to on this machine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;

use failcore_model::AbsPath;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// Everything outside a policy's text that its meaning depends on. The resolved policy no longer refers to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The user's home directory, `~`.
    pub home: Option<AbsPath>,
    /// Environment variables whose values are text, for `${VAR}`.
    pub vars: BTreeMap<String, String>,
    /// The directories of `PATH`, where bare program names are looked up.
    pub path: Vec<AbsPath>,
    /// The interpreter that the `python` preset is for.
    pub python: Option<Python>,
    /// The run's private directory for temporary files.
    pub tmp: Option<AbsPath>,
}

/// A Python installation, found without running it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// The interpreter as named, as `/work/.venv/bin/python`.
    pub executable: AbsPath,
    /// The interpreter's image, after symbolic links.
    pub real_executable: AbsPath,
    /// `sys.prefix`: of the virtual environment, where it is one.
    pub prefix: AbsPath,
    /// `sys.base_prefix`: of the installation.
    pub base_prefix: AbsPath,
    /// `sys.base_exec_prefix`: where the installation keeps machine-dependent files.
    pub base_exec_prefix: AbsPath,
    /// `3.11`.
    pub version: String,
    /// The directories that packages are installed in, nearest first.
    pub site_packages: Vec<AbsPath>,
    /// The directories of extension modules of the standard library.
    pub lib_dynload: Vec<AbsPath>,
}

impl Environment {
    /// The environment of this process. No interpreter and no private directory: those are the run's.
    pub fn current() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self {
            home: std::env::var_os("HOME").and_then(|home| absolute(home.as_bytes())),
            vars: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            path: std::env::split_paths(&path).filter_map(|d| absolute(d.as_os_str().as_bytes())).collect(),
            python: None,
            tmp: None,
        }
    }

    /// The program a bare word starts: the first executable file of that name on the path.
    pub fn look_up(&self, word: &OsStr) -> Option<AbsPath> {
        look_up(word, &self.path)
    }
}

impl Python {
    /// Finds the installation that `command` (a path, or a word to look up on `path`) belongs to.
    ///
    /// Runs nothing: reads `pyvenv.cfg` (PEP 405) and looks for the landmark `lib/pythonX.Y/os.py`, as
    /// CPython's own `Modules/getpath.py` does. `None` where it is no Python, or a launcher script.
    pub fn find(command: &OsStr, path: &[AbsPath]) -> Option<Self> {
        let executable = if command.as_bytes().contains(&b'/') {
            absolute(std::path::absolute(command).ok()?.as_os_str().as_bytes())?
        } else {
            look_up(command, path)?
        };
        // Most directories of a search path hold none: one look instead of one at each directory above.
        if !executable.as_path().exists() {
            return None;
        }
        let is_python = |path: &AbsPath| path.file_name().is_some_and(|name| name.starts_with(b"python"));
        let real_executable = real(&executable).filter(is_python).filter(is_image)?;
        let venv = pyvenv(&executable);
        // Of a virtual environment, pyvenv.cfg names the directory of the base interpreter.
        let base_start = match &venv {
            Some((_, home)) => {
                let name = real_executable.file_name()?.to_vec();
                real(&home.join(&name).ok()?).unwrap_or_else(|| real_executable.clone())
            }
            None => real_executable.clone(),
        };
        let name = String::from_utf8(base_start.file_name()?.to_vec()).ok()?;
        let (base_prefix, version) = landmark(&base_start, &name)?;
        let prefix = venv.map_or_else(|| base_prefix.clone(), |(prefix, _)| prefix);
        let lib = |prefix: &AbsPath, rest: &str| -> Vec<AbsPath> {
            ["lib", "lib64"].iter().filter_map(|lib| existing(prefix, &format!("{lib}/{rest}"))).collect()
        };
        let major = version.split('.').next().unwrap_or("3").to_owned();
        let mut site_packages = Vec::new();
        for prefix in [&prefix, &base_prefix] {
            for rest in [
                format!("python{version}/site-packages"),
                format!("python{version}/dist-packages"),
                format!("python{major}/dist-packages"),
            ] {
                site_packages.extend(lib(prefix, &rest));
            }
        }
        if base_prefix.as_bytes() == b"/usr" {
            // Debian installs with pip to /usr/local.
            let local = AbsPath::new(b"/usr/local").ok()?;
            site_packages.extend(lib(&local, &format!("python{version}/dist-packages")));
        }
        let mut seen = Vec::new();
        site_packages.retain(|dir| {
            !seen.contains(dir) && {
                seen.push(dir.clone());
                true
            }
        });
        Some(Self {
            lib_dynload: lib(&base_prefix, &format!("python{version}/lib-dynload")),
            base_exec_prefix: base_prefix.clone(),
            executable,
            real_executable: base_start,
            prefix,
            base_prefix,
            version,
            site_packages,
        })
    }
}

impl Python {
    /// Every path that starts this interpreter: as named, the image, and its other names beside them.
    pub fn names(&self) -> Vec<AbsPath> {
        let image = real(&self.real_executable);
        let mut names = vec![self.executable.clone(), self.real_executable.clone()];
        let beside = [format!("python{}", self.version), "python3".into(), "python".into()];
        let mut dirs: Vec<_> =
            [self.executable.parent(), self.real_executable.parent()].into_iter().flatten().collect();
        dirs.dedup();
        for dir in dirs {
            let named = beside.iter().filter_map(|name| dir.join(name.as_bytes()).ok());
            names.extend(named.filter(|path| image.is_some() && real(path) == image));
        }
        names.sort();
        names.dedup();
        names
    }
}

/// The virtual environment an interpreter stands in, and its `home` key (PEP 405).
fn pyvenv(executable: &AbsPath) -> Option<(AbsPath, AbsPath)> {
    let bin = executable.parent()?;
    let places = [bin.parent(), Some(bin)];
    places.into_iter().flatten().find_map(|prefix| {
        let text = std::fs::read_to_string(prefix.join(b"pyvenv.cfg").ok()?.as_path()).ok()?;
        let home = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim().eq_ignore_ascii_case("home")).then(|| value.trim().to_owned())
        })?;
        Some((prefix, absolute(home.as_bytes())?))
    })
}

/// The prefix above `executable` that holds `lib/pythonX.Y/os.py`, and X.Y.
fn landmark(executable: &AbsPath, name: &str) -> Option<(AbsPath, String)> {
    let named = name
        .strip_prefix("python")
        .filter(|v| v.contains('.'))
        .map(|v| v.trim_end_matches(|c: char| !c.is_ascii_digit()).to_owned());
    let mut dir = executable.parent();
    while let Some(prefix) = dir.filter(|dir| dir.file_name().is_some()) {
        for lib in ["lib", "lib64"] {
            let versions = match &named {
                Some(version) => vec![version.clone()],
                None => versions_in(&prefix, lib),
            };
            for version in versions {
                if existing(&prefix, &format!("{lib}/python{version}/os.py")).is_some() {
                    return Some((prefix, version));
                }
            }
        }
        dir = prefix.parent();
    }
    None
}

/// The X.Y of every `pythonX.Y` directory, the newest first.
fn versions_in(prefix: &AbsPath, lib: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(prefix.as_path().join(lib)) else { return Vec::new() };
    let mut found: Vec<(u32, u32)> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let (major, minor) = name.strip_prefix("python")?.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(major, minor)| format!("{major}.{minor}")).collect()
}

/// Whether it is a program image, not a launcher script such as version managers put on the path.
fn is_image(path: &AbsPath) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    let file = std::fs::File::open(path.as_path());
    file.and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

fn existing(prefix: &AbsPath, rest: &str) -> Option<AbsPath> {
    let path = prefix.as_path().join(rest);
    path.exists().then(|| absolute(path.as_os_str().as_bytes())).flatten()
}

fn look_up(word: &OsStr, path: &[AbsPath]) -> Option<AbsPath> {
    use std::os::unix::fs::PermissionsExt;
    path.iter().filter_map(|dir| dir.join(word.as_bytes()).ok()).find(|file| {
        std::fs::metadata(file.as_path()).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

pub(crate) fn absolute(bytes: &[u8]) -> Option<AbsPath> {
    AbsPath::lexical(bytes).ok()
}

/// The path after symbolic links, where it exists.
pub(crate) fn real(path: &AbsPath) -> Option<AbsPath> {
    absolute(std::fs::canonicalize(path.as_path()).ok()?.as_os_str().as_bytes())
}

/// What was found out about paths: each is looked at once while a policy is read.
#[derive(Debug, Default)]
pub(crate) struct Reals {
    followed: RefCell<FxHashMap<AbsPath, Real>>,
    whole: RefCell<FxHashMap<AbsPath, Option<AbsPath>>>,
    interpreters: RefCell<FxHashMap<AbsPath, Option<AbsPath>>>,
}

/// Where a path leads, and whether anything is there.
#[derive(Debug, Clone)]
struct Real {
    path: AbsPath,
    exists: bool,
}

impl Reals {
    /// The path with symbolic links resolved as far up as it exists; what does not exist stays as written.
    ///
    /// So does what each process has of its own (`/proc/self`): deciding knows whose it is.
    pub(crate) fn as_far(&self, path: &AbsPath) -> AbsPath {
        if own_process(path) { path.clone() } else { self.follow(path).path }
    }

    /// The path after symbolic links, where it exists.
    pub(crate) fn real(&self, path: &AbsPath) -> Option<AbsPath> {
        once(&self.whole, path, || real(path))
    }

    /// What the kernel starts to run this image, as `find` finds it.
    pub(crate) fn interpreter(
        &self,
        image: &AbsPath,
        find: impl FnOnce() -> Option<AbsPath>,
    ) -> Option<AbsPath> {
        once(&self.interpreters, image, find)
    }

    fn follow(&self, path: &AbsPath) -> Real {
        if let Some(known) = self.followed.borrow().get(path) {
            return known.clone();
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Real { path: path.clone(), exists: true };
        };
        let above = self.follow(&parent);
        let Ok(here) = above.path.join(name) else { return Real { path: path.clone(), exists: false } };
        if !above.exists {
            return Real { path: here, exists: false };
        }
        // readlink(2) says in one look whether something is there, and whether that is a link.
        let found = match std::fs::read_link(here.as_path()) {
            Ok(_) => match self.real(&here) {
                Some(path) => Real { path, exists: true },
                None => Real { path: here, exists: false },
            },
            Err(error) => Real { path: here, exists: error.kind() == ErrorKind::InvalidInput },
        };
        self.followed.borrow_mut().insert(path.clone(), found.clone());
        found
    }
}

/// What is known of a path, found out where it is not known yet.
fn once(
    known: &RefCell<FxHashMap<AbsPath, Option<AbsPath>>>,
    path: &AbsPath,
    find: impl FnOnce() -> Option<AbsPath>,
) -> Option<AbsPath> {
    if let Some(known) = known.borrow().get(path) {
        return known.clone();
    }
    let found = find();
    known.borrow_mut().insert(path.clone(), found.clone());
    found
}

/// Whether it is a directory, and not a link to one; `None` where nothing is there.
pub(crate) fn is_directory(path: &AbsPath) -> Option<bool> {
    Some(std::fs::symlink_metadata(path.as_path()).ok()?.is_dir())
}

fn own_process(path: &AbsPath) -> bool {
    let mut components = path.components();
    components.next() == Some(b"proc") && matches!(components.next(), Some(b"self" | b"thread-self"))
}
