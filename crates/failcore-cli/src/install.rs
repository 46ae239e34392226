//! Where the other parts of FailCore lie, seen from this executable.

use std::env;
use std::path::{Path, PathBuf};

use failcore_kernel::HOOK_VAR;

const PRELOAD: &str = "libfailcore_preload.so";
const HOOK: &str = "_failcore.abi3.so";
/// What cargo calls the hook before it is packed into a wheel.
const BUILT_HOOK: &str = "lib_failcore.so";

#[derive(Clone)]
/// The parts: each where it was found, or where it was looked for in vain.
pub(crate) struct Installation {
    /// The shared object with the interpreter hook.
    pub(crate) hook: Result<PathBuf, PathBuf>,
    /// The shared object that brings the hook into every Python process.
    pub(crate) preload: Result<PathBuf, PathBuf>,
}

impl Installation {
    /// Looks in the prefix of this executable (`<prefix>/bin/failcore`), then beside it, as in a build directory.
    pub(crate) fn find() -> Self {
        let exe = env::current_exe().and_then(|exe| exe.canonicalize()).unwrap_or_default();
        let bin = exe.parent().unwrap_or(Path::new("/"));
        let prefix = bin.parent().unwrap_or(bin);
        let hook = match env::var_os(HOOK_VAR) {
            Some(named) => first([PathBuf::from(named)]),
            None => first(
                site_packages(prefix)
                    .map(|dir| dir.join("failcore").join(HOOK))
                    .chain([bin.join(BUILT_HOOK)]),
            ),
        };
        let preload = first([prefix.join("lib/failcore").join(PRELOAD), bin.join(PRELOAD)]);
        Self { hook, preload }
    }
}

fn first(places: impl IntoIterator<Item = PathBuf>) -> Result<PathBuf, PathBuf> {
    let mut places = places.into_iter();
    let mut sought = None;
    match places.find(|place| {
        sought.get_or_insert_with(|| place.clone());
        place.is_file()
    }) {
        Some(found) => found.canonicalize().map_err(|_| found),
        None => Err(sought.unwrap_or_default()),
    }
}

/// `<prefix>/lib/python3.*/site-packages`, and Debian's dist-packages.
fn site_packages(prefix: &Path) -> impl Iterator<Item = PathBuf> {
    let lib = prefix.join("lib");
    let versions = lib.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    versions
        .filter(|dir| dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python3")))
        .flat_map(|dir| ["site-packages", "dist-packages"].map(|name| dir.join(name)))
}
