//! The interpreter's own entry for the hook, and the allocator that has to free it.
//!
//! CPython keeps each hook in an entry from the raw allocator, and frees it at its end (Python/sysmodule.c,
//! `PySys_AddAuditHook`, `_PySys_ClearAuditHooks`). A hook that is there before initialisation has its entry from
//! the first allocator; with `-X dev` or PYTHONMALLOC=debug another one is there at the end, takes the entry for
//! corrupted memory and kills the process. So the entry is remembered, and goes back to where it came from.
#![allow(unsafe_code, reason = "allocators are C functions")]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::events::Judged;
use crate::hook_context;
use crate::hook_object::Args;

/// `PyMemAllocatorEx` (Include/cpython/pymem.h), the same since 3.5.
#[repr(C)]
#[derive(Clone, Copy)]
struct Allocator {
    data: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void),
}

// SAFETY: CPython calls the raw allocator's functions from any thread, with or without the GIL; that is its contract.
unsafe impl Send for Allocator {}
// SAFETY: as above; the fields are never changed.
unsafe impl Sync for Allocator {}

/// `PYMEM_DOMAIN_RAW`.
const RAW: c_int = 0;

unsafe extern "C" {
    fn PyMem_GetAllocator(domain: c_int, allocator: *mut Allocator);
    fn PyMem_SetAllocator(domain: c_int, allocator: *const Allocator);
}

/// The allocator before initialisation, and what it gave for the hook.
static FIRST: OnceLock<Allocator> = OnceLock::new();
static ENTRY: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// The allocator at the end.
static LAST: OnceLock<Allocator> = OnceLock::new();

/// Adds the hook by `add`, before initialisation, and remembers its entry.
pub(crate) fn remembered<R>(add: impl FnOnce() -> R) -> R {
    let first = *FIRST.get_or_init(current);
    set(&Allocator { malloc: noted, ..first });
    let answer = add();
    set(&first);
    answer
}

/// CPython is about to free its entries: ours goes back to the allocator that gave it. Programs can raise the event
/// too, at any time: only at the end does it mean anything.
pub(crate) fn about_to_be_cleared(_: Args<'_>) -> Judged {
    if hook_context::is_finalising() && !ENTRY.load(Ordering::Relaxed).is_null() {
        let last = *LAST.get_or_init(current);
        set(&Allocator { free: given_back, ..last });
    }
    Ok(())
}

unsafe extern "C" fn noted(data: *mut c_void, size: usize) -> *mut c_void {
    let Some(first) = FIRST.get() else { return null_mut() };
    // SAFETY: the arguments are those that CPython passes for this very allocator.
    let memory = unsafe { (first.malloc)(data, size) };
    ENTRY.store(memory, Ordering::Relaxed);
    memory
}

unsafe extern "C" fn given_back(data: *mut c_void, memory: *mut c_void) {
    let ours = !memory.is_null()
        && ENTRY.compare_exchange(memory, null_mut(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
    match (FIRST.get(), LAST.get()) {
        // SAFETY: this allocator gave the memory, and it is freed once.
        (Some(first), _) if ours => unsafe { (first.free)(first.data, memory) },
        // SAFETY: the arguments are those that CPython passes for this very allocator.
        (_, Some(last)) => unsafe { (last.free)(data, memory) },
        _ => {}
    }
}

fn current() -> Allocator {
    let mut found = std::mem::MaybeUninit::uninit();
    // SAFETY: it fills the struct in, and needs neither an interpreter nor the GIL.
    unsafe {
        PyMem_GetAllocator(RAW, found.as_mut_ptr());
        found.assume_init()
    }
}

fn set(allocator: &Allocator) {
    // SAFETY: the functions are static, and behave as the allocator they stand for. Called before there are other
    // threads, or by the one that finalises the interpreter.
    unsafe { PyMem_SetAllocator(RAW, allocator) }
}
