//! Tool scopes: which tool the calling thread or task works for, and hence what narrows it further.
//!
//! A scope is kept twice. The thread's *floor* is native and out of reach of Python; it holds for synchronous code
//! and travels into threads started inside it. A context variable holds for tasks, which share a thread. Where the
//! two disagree the operation is judged under both, so a task may narrow its thread's floor and never lift it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use failcore_model::{Claims, Denial, Event, Text};

use crate::{hook_context, monitor, supervised};

/// A path of tool names, the outermost first.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    pub(crate) path: Vec<Text>,
    pub(crate) step: Option<Text>,
    /// The thread's floor before it was entered.
    outer: Held,
    /// Whether it was left; then its place is its outer's.
    left: AtomicBool,
}

/// A scope, or none.
pub(crate) type Held = Option<Arc<Scope>>;

impl Scope {
    fn within(outer: &Held, tool: Text, step: Option<Text>) -> Arc<Self> {
        let mut path = outer.as_ref().map(|scope| scope.path.clone()).unwrap_or_default();
        path.push(tool);
        let step = step.or_else(|| outer.as_ref().and_then(|scope| scope.step.clone()));
        Arc::new(Self { path, step, outer: floor(), left: AtomicBool::new(false) })
    }
}

thread_local!(static FLOOR: RefCell<Held> = const { RefCell::new(None) });

/// The scope in force, for judging.
#[derive(Default)]
pub(crate) struct Current(Held);

impl Current {
    /// Whether no tool is at work.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The scope itself.
    pub(crate) fn held(self) -> Held {
        self.0
    }
}

/// Whether a scope was ever entered: most programs have none, and need not look.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// The scope of the calling thread and task together.
pub(crate) fn current() -> Current {
    if !ENTERED.load(Ordering::Relaxed) {
        return Current::default();
    }
    let floor = floor();
    let task = hook_context::task_scope();
    Current(match (floor, task) {
        (held, None) | (None, held) => held,
        (Some(floor), Some(task)) if task.path.starts_with(&floor.path) => Some(task),
        (Some(floor), Some(task)) => Some(Arc::new(Scope {
            path: floor.path.iter().chain(&task.path).cloned().collect(),
            step: task.step.clone().or_else(|| floor.step.clone()),
            ..Scope::default()
        })),
    })
}

/// What the calling thread claims of itself.
pub(crate) fn claims() -> Claims {
    claims_of(&current().held())
}

/// What a thread in this scope claims of itself.
pub(crate) fn claims_of(scope: &Held) -> Claims {
    match scope {
        None => Claims::default(),
        Some(scope) => {
            let path = scope.path.iter().cloned().collect();
            Claims { scope: path, step: scope.step.clone(), site: None }
        }
    }
}

/// Starts the calling thread in a scope, which it never leaves: the one that its process was born in. The supervisor
/// knows.
pub(crate) fn begin_in(path: Vec<Text>) {
    if !path.is_empty() {
        drop(replace_floor(Some(Arc::new(Scope { path, ..Scope::default() }))));
    }
}

fn floor() -> Held {
    FLOOR
        .try_with(|floor| floor.try_borrow().map(|held| held.clone()).unwrap_or_default())
        .unwrap_or_default()
}

/// Replaces the thread's floor and returns the one before it.
pub(crate) fn set_floor(held: Held) -> Held {
    let before = replace_floor(held);
    supervised::tell_scope();
    before
}

fn replace_floor(held: Held) -> Held {
    FLOOR
        .try_with(|floor| floor.try_borrow_mut().map(|mut floor| std::mem::replace(&mut *floor, held)))
        .ok()
        .and_then(Result::ok)
        .flatten()
}

/// A scope that was entered, with what to put back when it is left.
pub(crate) struct Entered {
    scope: Arc<Scope>,
    /// Whether it holds for the task only.
    task: bool,
}

/// Enters a tool scope: for the thread and what it starts, or (`task`) only for what runs in this task.
///
/// # Errors
/// A denial where the fact cannot be recorded.
pub(crate) fn enter(tool: Text, step: Option<Text>, task: bool) -> Result<Entered, Denial> {
    ENTERED.store(true, Ordering::SeqCst);
    let scope = Scope::within(&current().held(), tool, step);
    let (pid, tid) = ids();
    monitor::record(&Event::ScopeEntered { pid, tid, scope: scope.path.clone(), step: scope.step.clone() })?;
    if !task {
        set_floor(Some(Arc::clone(&scope)));
    }
    Ok(Entered { scope, task })
}

impl Entered {
    /// The scope entered.
    pub(crate) fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// Leaves the scope. Where one inside it is still open, that one's end leads out of both.
    pub(crate) fn leave(self) {
        self.scope.left.store(true, Ordering::Release);
        if !self.task {
            let mut floor = floor();
            while let Some(left) = floor.as_ref().filter(|scope| scope.left.load(Ordering::Acquire)) {
                floor = left.outer.clone();
            }
            set_floor(floor);
        }
        let (pid, tid) = ids();
        // What follows runs with more rights only in the sense of the session's own; nothing to refuse here.
        drop(monitor::record(&Event::ScopeLeft { pid, tid, scope: self.scope.path.clone() }));
    }
}

fn ids() -> (u32, u32) {
    (std::process::id(), rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs())
}
