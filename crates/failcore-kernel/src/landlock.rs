//! Landlock domains from a plan: one for the threads that act for the agent, one within it for the agent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use failcore_model::Rights;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::plan::{Images, Plan};

/// The newest ABI whose rights a plan speaks of; what an older kernel does not know is left out.
const KNOWN: ABI = ABI::V7;
/// Files of a directory that are looked at for the interpreters they need; with more, looking costs more than it
/// bounds, and the system's own directories of programs are runnable too.
const MOST_FILES: usize = 128;
const SYSTEM: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];

/// Both domains, made and not yet entered.
pub(crate) struct Domains {
    /// For the threads that act for the agent.
    pub(crate) acting: RulesetCreated,
    /// For the agent, within that.
    pub(crate) agent: Option<OwnedFd>,
}

/// Makes the domains of a plan; none where it confines nothing. `own` are ports of the parent's own to which it
/// connects for the agent; `clears` is a directory in which the guardian removes the run's cgroup when the parent is gone.
///
/// # Errors
/// The kernel's, where a rule set cannot be made.
pub(crate) fn domains(
    plan: &Plan,
    own: &[u16],
    clears: Option<&Path>,
) -> Result<Option<Domains>, RulesetError> {
    let Some(files) = &plan.files else { return Ok(None) };
    // Requests to devices are the device's own matter: who may open it may use it.
    let all = AccessFs::from_all(KNOWN) & !BitFlags::from(AccessFs::IoctlDev);
    let images = images(plan);

    let mut acting = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
    if plan.connect.is_some() {
        acting = acting.handle_access(AccessNet::ConnectTcp)?;
    }
    if plan.bind.is_some() {
        acting = acting.handle_access(AccessNet::BindTcp)?;
    }
    let mut granted = Granted::default();
    // What the supervisor itself needs to know of the agent's tasks.
    granted.grant(Path::new("/proc"), AccessFs::ReadFile | AccessFs::ReadDir);
    for (path, rights) in files {
        granted.grant(path.as_path(), access(*rights));
    }
    for dir in &plan.sockets {
        granted.grant(dir.as_path(), AccessFs::MakeSock.into());
    }
    for image in &images {
        granted.grant(image, AccessFs::Execute | AccessFs::ReadFile);
    }
    if let Some(dir) = clears {
        granted.beneath(dir, AccessFs::RemoveDir.into());
    }
    let mut acting = granted.put_into(acting.create()?)?;
    for port in plan.connect.iter().flat_map(|ports| ports.iter().chain(own)) {
        acting = acting.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    for port in plan.bind.iter().flatten() {
        acting = acting.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }

    // The kernel performs next to nothing for the agent itself: it runs images, and that is all.
    let mut agent = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(KNOWN))?;
    if plan.scoped {
        agent = agent.scope(Scope::from_all(KNOWN))?;
    }
    let mut granted = Granted::default();
    for image in &images {
        // The kernel reads what it runs.
        granted.grant(image, AccessFs::Execute | AccessFs::ReadFile);
    }
    let agent = granted.put_into(agent.create()?)?;
    Ok(Some(Domains { acting, agent: agent.into() }))
}

/// The Landlock rights that a grant's come to.
fn access(rights: Rights) -> BitFlags<AccessFs> {
    let mut access = BitFlags::empty();
    if rights.contains(Rights::READ) {
        access |= AccessFs::ReadFile | AccessFs::ReadDir;
    }
    if rights.contains(Rights::MODIFY) {
        access |= AccessFs::WriteFile | AccessFs::Truncate;
    }
    if rights.contains(Rights::CREATE) {
        access |= AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::MakeSym
            | AccessFs::MakeFifo
            | AccessFs::MakeSock
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::Refer;
    }
    if rights.contains(Rights::DELETE) {
        access |= AccessFs::RemoveFile | AccessFs::RemoveDir | AccessFs::Refer;
    }
    access
}

/// Rules on their way to the kernel: the rights below each path, which leads through no symbolic link.
///
/// What a directory above grants already needs no rule of its own; each costs an open.
#[derive(Debug, Default)]
struct Granted(BTreeMap<OsString, BitFlags<AccessFs>>);

impl Granted {
    /// Grants rights below a path. What is not there yet is granted where it would be made, and a file's making and
    /// removing in its directory: wider than the policy, which the supervisor makes exact.
    fn grant(&mut self, path: &Path, access: BitFlags<AccessFs>) {
        if self.has(path, access) {
            return;
        }
        let on_file: BitFlags<AccessFs> = AccessFs::from_file(KNOWN);
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => self.beneath(path, access),
            Ok(_) => {
                self.beneath(path, access & on_file);
                if let Some(dir) = path.parent() {
                    // Who reads a file needs no right to list what is beside it.
                    self.beneath(dir, access & !on_file & !BitFlags::from(AccessFs::ReadDir));
                }
            }
            Err(_) => match path.ancestors().skip(1).find(|dir| dir.is_dir()) {
                // Not the whole system for one missing directory.
                Some(dir) if dir != Path::new("/") => self.beneath(dir, access),
                _ => {}
            },
        }
    }

    fn beneath(&mut self, path: &Path, access: BitFlags<AccessFs>) {
        if !self.has(path, access) {
            *self.0.entry(path.into()).or_default() |= access;
        }
    }

    /// Whether rights below a path are granted, there or above.
    fn has(&self, path: &Path, access: BitFlags<AccessFs>) -> bool {
        access.is_empty()
            || path
                .ancestors()
                .any(|dir| self.0.get(dir.as_os_str()).is_some_and(|granted| granted.contains(access)))
    }

    fn put_into(&self, mut rules: RulesetCreated) -> Result<RulesetCreated, RulesetError> {
        for (path, access) in &self.0 {
            let path = Path::new(path);
            // A directory above may have been granted after it.
            if path.parent().is_some_and(|above| self.has(above, *access)) {
                continue;
            }
            // Where it went away, or may not be entered, nobody can use the grant either.
            if let Ok(fd) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(fd, *access))?;
            }
        }
        Ok(rules)
    }
}

/// Every file or directory that must be runnable: the images, and the interpreters they name.
fn images(plan: &Plan) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for images in &plan.images {
        match images {
            Images::File(path) => with_interpreters(path.as_path(), &mut found),
            Images::In(dir) => {
                found.push(dir.as_path().into());
                let files: Vec<PathBuf> = std::fs::read_dir(dir.as_path())
                    .into_iter()
                    .flatten()
                    .flatten()
                    .take(MOST_FILES + 1)
                    .map(|file| file.path())
                    .collect();
                for file in files.iter().take(MOST_FILES) {
                    // The file itself is in the directory; what a link leads to may not be.
                    if file.is_symlink() {
                        found.extend(file.canonicalize());
                    }
                    if let Some(interpreter) = interpreter(file) {
                        with_interpreters(&interpreter, &mut found);
                    }
                }
                if files.len() > MOST_FILES {
                    found.extend(SYSTEM.map(PathBuf::from));
                    with_interpreters(Path::new("/bin/sh"), &mut found);
                }
            }
            // Whatever is there may name whatever interpreter.
            Images::Below(dir) => found.extend([dir.as_path().into(), PathBuf::from("/")]),
        }
    }
    // As they are found: a rule holds below what a path leads to.
    let mut found: Vec<PathBuf> = found.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect();
    found.sort();
    found.dedup();
    found
}

/// A file, and what the kernel starts to run it: the interpreter of its first line, or of its program header.
fn with_interpreters(path: &Path, found: &mut Vec<PathBuf>) {
    let mut next = Some(path.to_owned());
    for _ in 0..6 {
        let Some(path) = next.take() else { return };
        if found.contains(&path) {
            return;
        }
        next = interpreter(&path);
        found.push(path);
    }
}

fn interpreter(path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let mut file = File::options()
        .read(true)
        .open(path)
        .ok()
        .filter(|file| file.metadata().is_ok_and(|found| found.is_file()))?;
    let mut head = [0; 256];
    let len = file.read(&mut head).ok()?;
    if let Some(line) = head[..len].strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let name = line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).find(|word| !word.is_empty())?;
        return Some(Path::new(std::ffi::OsStr::from_bytes(name)).to_owned());
    }
    // elf(5), 64-bit.
    const INTERPRETER: u32 = 3;
    if len < 64 || head[..5] != *b"\x7fELF\x02" {
        return None;
    }
    let half = |at: usize| u64::from(u16::from_ne_bytes([head[at], head[at + 1]]));
    let start = u64::from_ne_bytes(head[32..40].try_into().ok()?);
    let (size, count) = (half(54), half(56));
    for n in 0..count.min(64) {
        let mut header = [0; 56];
        file.read_exact_at(&mut header, start.checked_add(n * size)?).ok()?;
        let long = |at: usize| Some(u64::from_ne_bytes(header[at..at + 8].try_into().ok()?));
        if u32::from_ne_bytes(header[..4].try_into().ok()?) == INTERPRETER {
            let mut name = vec![0; usize::try_from(long(32)?).ok().filter(|len| *len <= 4096)?];
            file.read_exact_at(&mut name, long(8)?).ok()?;
            let name = name.split(|byte| *byte == 0).next()?;
            return Some(Path::new(std::ffi::OsStr::from_bytes(name)).to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_above_needs_no_rule() {
        let of = |path: &str| PathBuf::from(path);
        let named = |path: &str| OsString::from(path);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut granted = Granted::default();
        granted.beneath(&of("/w"), read);
        granted.beneath(&of("/w/a"), read);
        granted.beneath(&of("/w/b"), AccessFs::MakeReg.into());
        granted.beneath(&of("/w/b/c"), read | AccessFs::MakeReg);
        granted.beneath(&of("/wide"), read);
        assert_eq!(
            granted.0.keys().collect::<Vec<_>>(),
            [&named("/w"), &named("/w/b"), &named("/w/b/c"), &named("/wide")]
        );
        assert!(granted.has(&of("/w/x/y"), read) && granted.has(&of("/w/b/x"), AccessFs::MakeReg.into()));
        assert!(!granted.has(&of("/"), read) && !granted.has(&of("/widest"), read));
    }

    #[test]
    fn a_readable_file_does_not_make_its_directory_readable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut granted = Granted::default();
        granted.grant(&file, access(Rights::READ));
        assert_eq!(granted.0, BTreeMap::from([(file.clone().into(), AccessFs::ReadFile.into())]));
        // Who may remove it may do so where it stands; who may read what is not there, where it will be.
        granted.grant(&file, access(Rights::DELETE));
        assert!(granted.has(dir.path(), AccessFs::RemoveFile.into()));
        assert!(!granted.has(dir.path(), AccessFs::ReadDir.into()));
        granted.grant(&dir.path().join("later"), access(Rights::READ));
        assert!(granted.has(dir.path(), AccessFs::ReadFile | AccessFs::ReadDir));
    }

    #[test]
    fn interpreters_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "#! /bin/sh -e\ntrue\n").unwrap();
        let mut found = Vec::new();
        with_interpreters(&script, &mut found);
        assert_eq!(found[..2], [script, PathBuf::from("/bin/sh")]);
        assert!(found[2].to_string_lossy().contains("ld-"), "{found:?}");
        assert_eq!(interpreter(dir.path()), None);
    }
}
