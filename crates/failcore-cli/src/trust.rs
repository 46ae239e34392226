//! `failcore trust`: which `failcore.toml` may be used without being named.
//!
//! A repository can bring a policy of its own, and a hostile one would grant itself everything. So a policy that is
//! only *found* is used only while its text, and the text of every file it extends, is what the user once trusted.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::args::Trust;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::policy;
use crate::ui::{Answer, STRONG, Styled, Ui};

/// The file name that is looked for.
pub(crate) const FILE: &str = "failcore.toml";

/// Records or revokes the user's trust in a policy.
pub(crate) fn run(args: &Trust, ui: &mut Ui) -> Result<Exit, Failure> {
    let file = match &args.file {
        Some(file) => file.clone(),
        None => nearest().ok_or(Problem::Missing {
            path: FILE.into(),
            help: "none lies in the working directory or above it; `failcore init` writes one",
        })?,
    };
    // What does not even load is not worth trusting, and its errors say more than a digest.
    policy::load(&file, &policy::environment())?;
    let file = file.canonicalize().map_err(|error| Problem::io("resolve", &file, error))?;
    let digest = digest(&file)?;
    let mut store = Store::open()?;
    let trusted = !args.revoke;
    if trusted {
        store.digests.insert(file.clone(), digest.clone());
    } else if store.digests.remove(&file).is_none() {
        return Err(Problem::Nonsense {
            what: format!("`{}` is not trusted", file.display()),
            help: "there is nothing to take back".into(),
        }
        .into());
    }
    store.save()?;
    ui.answer(&Trusted { file, digest, trusted })?;
    Ok(Exit::Success)
}

/// The nearest policy from the working directory upwards.
pub(crate) fn nearest() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|dir| dir.join(FILE)).find(|file| file.is_file())
}

/// Whether the present text of a policy, and of what it extends, is what the user trusted.
pub(crate) fn is_trusted(file: &Path) -> Result<bool, Failure> {
    let Ok(file) = file.canonicalize() else { return Ok(false) };
    let store = Store::open()?;
    let Some(known) = store.digests.get(&file) else { return Ok(false) };
    Ok(digest(&file)? == *known)
}

/// The file that remembers what is trusted; the program under the gate must not change it.
pub(crate) fn store_path() -> Result<PathBuf, Failure> {
    Ok(failcore_trace::state_dir().map_err(Problem::trace)?.join("trusted.json"))
}

/// SHA-256 over every text that the policy is made of, each with its length before it.
fn digest(file: &Path) -> Result<String, Failure> {
    let mut hash = Sha256::new();
    let (mut waiting, mut seen) = (vec![file.to_owned()], Vec::new());
    while let Some(file) = waiting.pop() {
        let file = file.canonicalize().map_err(|error| Problem::io("resolve", &file, error))?;
        if seen.contains(&file) {
            continue;
        }
        let text = std::fs::read(&file).map_err(|error| Problem::io("read", &file, error))?;
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(&text);
        waiting.extend(extended(&text).map(|other| file.parent().unwrap_or(Path::new("/")).join(other)));
        seen.push(file);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files a policy names under `extends`.
fn extended(text: &[u8]) -> impl Iterator<Item = String> + use<> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Head {
        extends: Vec<String>,
    }
    let head: Head =
        std::str::from_utf8(text).ok().and_then(|text| toml::from_str(text).ok()).unwrap_or_default();
    head.extends.into_iter().filter(|name| !name.starts_with("preset:"))
}

#[derive(Default, Serialize, Deserialize)]
struct Store {
    digests: BTreeMap<PathBuf, String>,
}

impl Store {
    fn open() -> Result<Self, Failure> {
        let path = store_path()?;
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Problem::io("read", &path, error).into()),
        };
        Ok(serde_json::from_slice(&text).map_err(|error| Problem::io("read", &path, error.into()))?)
    }

    /// Replaces the whole file at once.
    fn save(&self) -> Result<(), Failure> {
        let path = store_path()?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let save = || -> io::Result<()> {
            std::fs::create_dir_all(dir)?;
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        Ok(save().map_err(|error| Problem::io("write", &path, error))?)
    }
}

#[derive(Serialize)]
struct Trusted {
    file: PathBuf,
    digest: String,
    trusted: bool,
}

impl Answer for Trusted {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let file = Styled(STRONG, self.file.display());
        if self.trusted {
            writeln!(out, "{file} is trusted as it is now; a change ends that")
        } else {
            writeln!(out, "{file} is no longer trusted")
        }
    }
}
