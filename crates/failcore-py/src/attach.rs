//! A process of a `failcore run`: joined to its parent before the interpreter starts, and never let go.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use failcore_gate::{Approver, Gate};
use failcore_kernel::{Attachment, HOOK_VAR, SOCKET_VAR, descends};
use failcore_model::{AbsPath, Answer, FileRef, Lane, Request, Text};
use failcore_policy::PolicySet;

use crate::monitor::{self, Identity, Source, Stand};
use crate::patched_net::PINS;
use crate::{
    expected, hook_attach, hook_context, hook_make, hook_patch, hook_raise, hook_site, opening, program,
    scope, supervised,
};

/// The variable of the dynamic loader (ld.so(8)).
const PRELOAD: &str = "LD_PRELOAD";

/// What children must find in their environment, as it was when this process started.
static FORCED: OnceLock<Vec<(Vec<u8>, Vec<u8>)>> = OnceLock::new();

const BEFORE: u8 = 0;
const EARLY: u8 = 1;
const READY: u8 = 2;
const BROKEN: u8 = 3;
static INTERPRETER: AtomicU8 = AtomicU8::new(BEFORE);

/// Joins the run that the environment names, and seals this process.
///
/// # Errors
/// In words; the process must not go on then.
pub(crate) fn attach() -> Result<(), String> {
    let socket = std::env::var_os(SOCKET_VAR).ok_or_else(|| format!("`{SOCKET_VAR}` is not set"))?;
    let forced = [PRELOAD, SOCKET_VAR, HOOK_VAR]
        .into_iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (name.into(), value.into_encoded_bytes())))
        .collect();
    monitor::enter(Box::new(Run { socket: socket.into(), ..Run::default() }), true)?;
    drop(FORCED.set(forced));
    hook_attach::watch_forks()
}

/// Whether this process belongs to a `failcore run`.
pub(crate) fn is_attached() -> bool {
    FORCED.get().is_some()
}

/// Called at each import, and before the main program, of a process that was attached before its interpreter
/// started. At the first import the functions of `posix` exist and no code of the agent has run; once the
/// interpreter is initialised, the modules built into it can be loaded as well.
///
/// # Errors
/// In words, where a stand-in does not fit; then nothing more is imported.
pub(crate) fn interpreter_is_up() -> Result<(), String> {
    if !is_attached() {
        return Ok(());
    }
    let reached = INTERPRETER.load(Ordering::SeqCst);
    let next = match reached {
        READY => return Ok(()),
        BROKEN => return Err("this interpreter's functions are not what the gate knows".into()),
        _ if hook_context::is_initialised() => READY,
        EARLY => return Ok(()),
        _ => EARLY,
    };
    INTERPRETER.store(next, Ordering::SeqCst);
    let _loading = expected::note_loading_all();
    if next == READY {
        // Now, while no code of the agent has run; a refusal before is a plain PermissionError.
        hook_raise::prepare();
    }
    hook_patch::replace_loaded(next == READY).inspect_err(|_| INTERPRETER.store(BROKEN, Ordering::SeqCst))
}

/// The gate of an attached process.
#[derive(Default)]
struct Run {
    socket: PathBuf,
    identity: Mutex<Identity>,
    /// The process that governs the run.
    parent: AtomicU32,
}

impl Source for Run {
    fn stand(&self) -> Result<Stand, String> {
        let attachment = Attachment::connect(&self.socket).map_err(|error| error.to_string())?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Identity {
            session: attachment.session.clone(),
            agent: attachment.agent.clone(),
            run: attachment.run.clone(),
        };
        self.parent.store(attachment.parent, Ordering::Relaxed);
        let policy = PolicySet::from_json(&attachment.policy).map_err(|error| error.to_string())?;
        let gate = Gate::builder(Arc::new(policy), attachment.sink(), Lane::Runtime)
            .names(Arc::clone(&PINS) as _)
            .site(hook_site::here)
            .meter(attachment.meter())
            .approver(Arc::new(Patient(attachment.approver())))
            .identity(attachment.agent.clone(), attachment.run.clone())
            .build();
        if let Some(supervised) = &attachment.supervised {
            scope::begin_in(supervised.scope.clone());
        }
        Ok(Stand { gate: Arc::new(gate), supervised: attachment.supervised.clone() })
    }

    fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn includes(&self, pid: u32) -> bool {
        let parent = self.parent.load(Ordering::Relaxed);
        pid != parent && descends(pid, parent)
    }
}

/// An approver whose waiting does not stop the other threads of the program.
struct Patient(Arc<dyn Approver>);

impl Approver for Patient {
    fn ask(&self, request: &Request, question: &str) -> (Answer, Text) {
        if opening::is_unlocked() {
            return self.0.ask(request, question);
        }
        hook_make::unlocked(|| self.0.ask(request, question))
    }
}

/// Whether a program, if it is a Python, can load the gate.
///
/// # Errors
/// Why not.
pub(crate) fn preloadable(image: &FileRef) -> Result<(), &'static str> {
    // The supervisor holds what the hook does not get into.
    if is_attached() && !supervised::is_on() && program::is_static_python(&image.path) {
        return Err("a statically linked interpreter cannot load the gate");
    }
    Ok(())
}

/// The argument vector for a program that passes an environment on: env(1) gets ours as its last assignments.
///
/// # Errors
/// Why the gate would not reach the program that it starts.
pub(crate) fn force_arguments(
    image: &AbsPath,
    argv: &[Vec<u8>],
) -> Result<Option<Vec<Vec<u8>>>, &'static str> {
    let Some(forced) = FORCED.get() else { return Ok(None) };
    // The supervisor judges the arguments as the program gave them, and holds what the hook does not get into.
    if supervised::is_on() {
        return Ok(None);
    }
    let Some(place) = program::env_place(image, argv)? else { return Ok(None) };
    if place == argv.len() {
        return Ok(None); // it prints the environment
    }
    let mut whole = argv.to_vec();
    let assignments = forced.iter().map(|(name, value)| [name, &b"="[..], value].concat());
    whole.splice(place..place, assignments);
    Ok(Some(whole))
}

/// Makes this process's own environment fit for children that inherit it.
pub(crate) fn force_own_environment() {
    for (name, value) in FORCED.get().into_iter().flatten() {
        let name_text = String::from_utf8_lossy(name);
        let now = std::env::var_os(&*name_text).map(std::ffi::OsString::into_encoded_bytes);
        let wanted = merged(name, value, now.as_deref());
        if now.as_deref() != Some(&*wanted) {
            hook_attach::set_environment(name, &wanted);
        }
    }
}

/// Puts what children must find into `NAME=value` lines.
pub(crate) fn force_lines(lines: &mut Vec<Vec<u8>>) {
    for (name, value) in FORCED.get().into_iter().flatten() {
        let prefix = [name, &b"="[..]].concat();
        let now = lines.iter().find_map(|line| line.strip_prefix(&*prefix)).map(<[u8]>::to_vec);
        let wanted = merged(name, value, now.as_deref());
        lines.retain(|line| !line.starts_with(&prefix));
        lines.push([&prefix, &*wanted].concat());
    }
}

/// The same for pairs.
pub(crate) fn force_pairs(pairs: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    for (name, value) in FORCED.get().into_iter().flatten() {
        let now = pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let wanted = merged(name, value, now.as_deref());
        pairs.retain(|(key, _)| key != name);
        pairs.push((name.clone(), wanted));
    }
}

/// A variable's value for a child: ours, and for `LD_PRELOAD` ours before the agent's own.
fn merged(name: &[u8], forced: &[u8], now: Option<&[u8]>) -> Vec<u8> {
    match now {
        Some(now) if name == PRELOAD.as_bytes() && !now.is_empty() && now != forced => {
            if now.starts_with(&[forced, b":"].concat()) {
                now.to_vec()
            } else {
                [forced, b":", now].concat()
            }
        }
        _ => forced.to_vec(),
    }
}
