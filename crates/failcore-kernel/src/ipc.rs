//! System V shared memory, semaphores and queues (svipc(7)): numbers in tables that every process of the machine shares.
//!
//! A run gets tables of its own in their place: what it makes is made without a key, keys are looked up among what the
//! run made, and the identifiers of others are refused. What is left at the end is removed, as with a namespace.

#![allow(unsafe_code, reason = "calls without safe wrappers, on numbers; each block says why it is sound")]

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use failcore_model::{Action, Text};
use rustix::io::Errno;

use crate::call::{Answer, Call, Reply};
use crate::notify::last;

/// What kind of object an identifier means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Memory,
    Semaphores,
    Queue,
}

/// The objects of one run.
#[derive(Debug, Default)]
pub(crate) struct Objects(Mutex<HashMap<(Kind, i32), i32>>);

/// The key of an object without one.
const PRIVATE: i32 = libc::IPC_PRIVATE;

impl Objects {
    fn has(&self, kind: Kind, id: i32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(kind, id))
    }

    fn forget(&self, kind: Kind, id: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, id));
    }

    /// The object of a key, made where it is not there and may be.
    fn open(
        &self,
        kind: Kind,
        key: i32,
        flags: i32,
        make: impl FnOnce() -> Result<i32, Errno>,
    ) -> Result<i32, Errno> {
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = objects.iter().find(|((of, _), its)| *of == kind && **its == key && key != PRIVATE);
        if let Some(((_, id), _)) = found {
            let exclusive = libc::IPC_CREAT | libc::IPC_EXCL;
            return if flags & exclusive == exclusive { Err(Errno::EXIST) } else { Ok(*id) };
        }
        if key != PRIVATE && flags & libc::IPC_CREAT == 0 {
            return Err(Errno::NOENT);
        }
        let id = make()?;
        objects.insert((kind, id), key);
        Ok(id)
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        let objects = std::mem::take(self.0.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (kind, id) in objects.into_keys() {
            // SAFETY: removing by number takes no pointer; one that the program removed itself is an error, no harm.
            unsafe {
                match kind {
                    Kind::Memory => libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()),
                    Kind::Semaphores => libc::semctl(id, 0, libc::IPC_RMID),
                    Kind::Queue => libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()),
                };
            }
        }
    }
}

fn opened(id: libc::c_int) -> Result<i32, Errno> {
    if id < 0 { Err(last()) } else { Ok(id) }
}

fn made(id: Result<i32, Errno>) -> Reply {
    id.map(|id| Answer::Value(id.into()))
}

/// `shmget(key, size, flags)`.
pub(crate) fn shmget(call: &Call<'_>) -> Reply {
    let size = usize::try_from(call.arg(1)).map_err(|_| Errno::INVAL)?;
    let flags = call.int(2);
    // SAFETY: numbers only.
    let make = || opened(unsafe { libc::shmget(PRIVATE, size, flags) });
    made(call.shared.objects.open(Kind::Memory, call.int(0), flags, make))
}

/// `semget(key, count, flags)`.
pub(crate) fn semget(call: &Call<'_>) -> Reply {
    let flags = call.int(2);
    // SAFETY: numbers only.
    let make = || opened(unsafe { libc::semget(PRIVATE, call.int(1), flags) });
    made(call.shared.objects.open(Kind::Semaphores, call.int(0), flags, make))
}

/// `msgget(key, flags)`.
pub(crate) fn msgget(call: &Call<'_>) -> Reply {
    let flags = call.int(1);
    // SAFETY: numbers only.
    let make = || opened(unsafe { libc::msgget(PRIVATE, flags) });
    made(call.shared.objects.open(Kind::Queue, call.int(0), flags, make))
}

/// Calls on an object: by the kernel, where it is one of the run's. The identifier lies in a register.
pub(crate) fn on_object(call: &Call<'_>) -> Reply {
    let (kind, command) = match call.notice.nr {
        libc::SYS_shmat => (Kind::Memory, None),
        libc::SYS_shmctl => (Kind::Memory, Some(call.int(1))),
        libc::SYS_semop | libc::SYS_semtimedop => (Kind::Semaphores, None),
        libc::SYS_semctl => (Kind::Semaphores, Some(call.int(2))),
        libc::SYS_msgsnd | libc::SYS_msgrcv => (Kind::Queue, None),
        _ => (Kind::Queue, Some(call.int(1))),
    };
    let id = call.int(0);
    // Commands that walk the machine's table take an index, or nothing at all.
    let walks = match kind {
        Kind::Memory => [libc::IPC_INFO, SHM_INFO, SHM_STAT, SHM_STAT_ANY],
        Kind::Semaphores => [libc::IPC_INFO, libc::SEM_INFO, libc::SEM_STAT, SEM_STAT_ANY],
        Kind::Queue => [libc::IPC_INFO, libc::MSG_INFO, libc::MSG_STAT, MSG_STAT_ANY],
    };
    let walks = command.is_some_and(|command| walks.contains(&command));
    if walks || !call.shared.objects.has(kind, id) {
        let _ = call.judge(Action::KernelCall(Text::from("System V IPC of others")));
        return Err(Errno::ACCESS);
    }
    if command == Some(libc::IPC_RMID) {
        call.shared.objects.forget(kind, id);
    }
    Ok(Answer::Proceed)
}

// linux/shm.h, linux/sem.h, linux/msg.h.
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;
const SEM_STAT_ANY: i32 = 20;
const MSG_STAT_ANY: i32 = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_runs_own() {
        let objects = Objects::default();
        let make = |id| move || Ok(id);
        assert_eq!(objects.open(Kind::Queue, 7, 0, make(1)), Err(Errno::NOENT));
        assert_eq!(objects.open(Kind::Queue, 7, libc::IPC_CREAT, make(1)), Ok(1));
        assert_eq!(objects.open(Kind::Queue, 7, 0, make(9)), Ok(1));
        assert_eq!(
            objects.open(Kind::Queue, 7, libc::IPC_CREAT | libc::IPC_EXCL, make(9)),
            Err(Errno::EXIST)
        );
        assert_eq!(objects.open(Kind::Memory, 7, libc::IPC_CREAT, make(2)), Ok(2), "another table");
        assert_eq!(objects.open(Kind::Queue, PRIVATE, 0, make(3)), Ok(3));
        assert_eq!(objects.open(Kind::Queue, PRIVATE, 0, make(4)), Ok(4));
        assert!(objects.has(Kind::Queue, 1) && !objects.has(Kind::Semaphores, 1));
        objects.forget(Kind::Queue, 1);
        assert!(!objects.has(Kind::Queue, 1));
        std::mem::forget(objects); // none of these is real
    }
}
