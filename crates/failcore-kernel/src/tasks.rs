//! The processes of a run, as the supervisor knows them: which process a thread belongs to, what it runs.

#![allow(
    unsafe_code,
    reason = "questions to the kernel that have no safe wrapper; each block says why it is sound"
)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use failcore_model::{Claims, Denial, FileId, Text};
use rustc_hash::FxHashMap;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::exec::Expected;
use crate::lineage::{Forks, Scope, joined};
use crate::notify::{Listener, Notice};
use crate::slots::Slots;

/// One process of the run.
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// Its parent when it was first seen.
    pub(crate) parent: u32,
    pidfd: OwnedFd,
    image: RwLock<Arc<Image>>,
    /// The tool scope it was born in.
    pub(crate) born_in: Scope,
    /// Its forks whose child was not seen yet.
    pub(crate) forks: Forks,
    /// What its threads say and hear beside their calls, once it has attached.
    slots: RwLock<Option<Arc<Slots>>>,
    /// The execs of its threads that were granted and whose end was not seen yet.
    expected: Mutex<Vec<Expected>>,
    /// The image whose clocks are system calls by now.
    pub(crate) rewritten: Mutex<Option<Arc<Image>>>,
    /// Whether it was noted that its resolver may not take the answers it gets.
    pub(crate) noted: AtomicBool,
}

/// The program that a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// Its path.
    pub(crate) path: Text,
    /// Its identity.
    pub(crate) id: Option<FileId>,
}

/// What became of the execs of a process.
#[derive(Debug)]
pub(crate) enum Verified {
    /// None was under way, or it is still.
    Nothing,
    /// What was granted runs.
    Judged,
    /// These calls failed, if any: what ran before still does.
    Failed(Vec<Expected>),
    /// The judged image runs, with arguments that are not granted.
    Ended,
    /// Something else runs than what was judged.
    Other(Image),
}

/// Every process seen.
#[derive(Default)]
pub(crate) struct Tasks {
    processes: RwLock<HashMap<u32, Arc<Process>>>,
    /// Whose thread each is.
    threads: RwLock<FxHashMap<u32, Arc<Process>>>,
    /// Held while a process is met: what it was born in is found out once, however many threads of it call at once.
    meeting: Mutex<()>,
    /// Whether any fork was made in a tool scope: in most runs there is none, and nothing to be found out.
    scoped: AtomicBool,
    /// Scopes of children that were never seen before their parents ended.
    orphaned: Mutex<Vec<Scope>>,
}

/// How far descent is followed: a number that is reused meanwhile must not make it a loop.
const MOST_ANCESTORS: usize = 4096;
/// Threads remembered; more are looked up anew.
const MOST_THREADS: usize = 65_536;

impl Tasks {
    /// The process of a thread, and whether it is seen for the first time.
    ///
    /// # Errors
    /// `ESRCH` where it is gone.
    pub(crate) fn of(&self, tid: u32) -> Result<(Arc<Process>, bool), Errno> {
        let remembered = read(&self.threads).get(&tid).cloned();
        if let Some(process) = remembered.filter(|process| process.has_thread(tid)) {
            return Ok((process, false));
        }
        let (process, new) = self.found(tid)?;
        let mut threads = write(&self.threads);
        if threads.len() >= MOST_THREADS {
            threads.clear();
        }
        if new {
            // Of an earlier process of its number.
            threads.retain(|_, other| other.pid != process.pid);
        }
        threads.insert(tid, Arc::clone(&process));
        Ok((process, new))
    }

    /// As [`Tasks::of`], of a thread that is not remembered.
    fn found(&self, tid: u32) -> Result<(Arc<Process>, bool), Errno> {
        let Found { pid, parent, pidfd } = Found::leader(tid).map_or_else(|| Found::thread(tid), Ok)?;
        let known = || read(&self.processes).get(&pid).filter(|process| !process.has_ended()).cloned();
        if let Some(process) = known() {
            return Ok((process, false));
        }
        let _meeting = lock(&self.meeting);
        if let Some(process) = known() {
            return Ok((process, false));
        }
        let pidfd = match pidfd {
            Some(pidfd) => pidfd,
            None => pidfd_open(Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH)?, PidfdFlags::empty())?,
        };
        let process = Arc::new(Process {
            pid,
            parent,
            born_in: self.born_in(pid, parent),
            forks: Forks::default(),
            slots: RwLock::default(),
            pidfd,
            image: RwLock::new(Arc::new(image_of(pid))),
            expected: Mutex::default(),
            rewritten: Mutex::default(),
            noted: AtomicBool::default(),
        });
        let previous = write(&self.processes).insert(pid, Arc::clone(&process));
        // One that ended and had the same number.
        if let Some(scope) = previous.and_then(|previous| previous.bequest()) {
            lock(&self.orphaned).push(scope);
        }
        Ok((process, true))
    }

    /// The tool scope that a process was born in.
    fn born_in(&self, pid: u32, parent: u32) -> Scope {
        if !self.scoped.load(SeqCst) {
            return Scope::new();
        }
        let parent = read(&self.processes).get(&parent).cloned();
        let matched = parent.as_ref().and_then(|parent| parent.forks.matched(parent.pid, pid));
        let adopted = matched.is_none() || parent.as_ref().is_some_and(|parent| parent.forks.adopts());
        if let Some(scope) = matched.as_ref().filter(|_| !adopted) {
            return scope.clone();
        }
        // Whoever forked it may have ended before its first call: it could be anybody's whose children were not all seen.
        let orphaned = lock(&self.orphaned);
        let ended = self.all().into_iter().filter(|process| process.has_ended());
        let left: Vec<Scope> = ended.filter_map(|process| process.bequest()).collect();
        let near = matched.as_ref().or(parent.as_ref().map(|parent| &parent.born_in));
        joined(orphaned.iter().chain(&left).chain(near)).0
    }

    /// Notes that a thread of `process` forks while in `scope`.
    pub(crate) fn forks(&self, process: &Process, tid: u32, scope: Scope) {
        // A fork before the first of them that is matched only later gets the narrower scope, as wherever it is unclear.
        if scope.is_empty() && !self.scoped.load(SeqCst) {
            return;
        }
        self.scoped.store(true, SeqCst);
        process.forks.note(process.pid, tid, scope, |child| read(&self.processes).contains_key(&child));
    }

    /// Forgets the processes that ended, and returns their ids.
    pub(crate) fn sweep(&self) -> Vec<u32> {
        let ended: Vec<u32> = read(&self.processes)
            .values()
            .filter(|process| process.has_ended())
            .map(|process| process.pid)
            .collect();
        if !ended.is_empty() {
            let mut orphaned = lock(&self.orphaned);
            let mut processes = write(&self.processes);
            for pid in &ended {
                let bequest = processes.remove(pid).and_then(|process| process.bequest());
                if let Some(scope) = bequest.filter(|scope| !orphaned.contains(scope)) {
                    orphaned.push(scope);
                }
            }
            drop((processes, orphaned));
            write(&self.threads).retain(|_, process| !ended.contains(&process.pid));
        }
        ended
    }

    /// Every process known.
    pub(crate) fn all(&self) -> Vec<Arc<Process>> {
        read(&self.processes).values().cloned().collect()
    }
}

impl Process {
    /// What it runs.
    pub(crate) fn image(&self) -> Arc<Image> {
        Arc::clone(&read(&self.image))
    }

    /// Whether a thread belongs to it.
    fn has_thread(&self, tid: u32) -> bool {
        // Its own number stays its own as long as it is there, which costs less to ask.
        if tid == self.pid { !self.has_ended() } else { belongs(self.pid, tid) }
    }

    /// What its children were born in that nobody has seen yet; nothing where that is no scope at all.
    fn bequest(&self) -> Option<Scope> {
        Some(self.forks.unseen()).filter(|scope| !scope.is_empty())
    }

    /// It attached: its threads have slots from now on. Who attaches once more is heard no other way than before, or any
    /// code in a tool could shed what its thread claims.
    pub(crate) fn attached(&self, slots: Arc<Slots>) {
        write(&self.slots).get_or_insert(slots);
    }

    /// What a thread of it claims, within what the process was born in.
    pub(crate) fn claims(&self, tid: u32) -> Claims {
        let claimed = read(&self.slots).as_ref().and_then(|slots| slots.claims(tid));
        let mut claims: Claims =
            claimed.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        if !claims.scope.starts_with(&self.born_in) {
            claims.scope.insert_many(0, self.born_in.iter().cloned());
        }
        claims
    }

    /// Tells a waiting thread of it why it is refused; returns whether anybody is there to hear that.
    pub(crate) fn refuse(&self, tid: u32, denial: &Denial) -> bool {
        let slots = read(&self.slots);
        if let Some(slots) = slots.as_ref()
            && let Ok(json) = serde_json::to_vec(denial)
        {
            slots.answer(tid, &json);
        }
        slots.is_some()
    }

    /// Notes that an exec was granted. A thread makes one at a time: of an earlier one of its, the end was seen.
    pub(crate) fn expect(&self, expected: Expected) {
        lock(&self.expected).push(expected);
    }

    /// Whether an exec is under way.
    pub(crate) fn is_changing(&self) -> bool {
        !lock(&self.expected).is_empty()
    }

    /// Compares what runs with what was granted. `caller` is the call of one of its threads that waits now, if any; `covers`
    /// says whether a grant holds for these arguments as well.
    ///
    /// # Security
    /// While one thread is about to start a program the others go on, and the number of the one that does it is gone before
    /// the image is another. So where the image is as before, an exec is over only while a call waits that came from its
    /// thread, or from another one and its thread is there no more: whoever starts a program has ended all others.
    pub(crate) fn verify(
        &self,
        caller: Option<(&Listener, &Notice)>,
        covers: impl Fn(&Expected, &[u8]) -> bool,
    ) -> Verified {
        let mut pending = lock(&self.expected);
        let Some(before) = pending.first().map(|one| one.before) else { return Verified::Nothing };
        let id = image_id(self.pid);
        if id.is_none() && self.has_ended() {
            return Verified::Nothing;
        }
        let same = id == before;
        let ran = arguments_of(self.pid);
        let gone = |one: &Expected| !self.has_thread(one.tid);
        let mut over: Vec<bool> = pending.iter().map(|one| !same || gone(one)).collect();
        // Looked at last: what was seen before was so while it waited.
        match caller.filter(|(listener, notice)| listener.is_waiting(notice)) {
            Some((_, notice)) => {
                over.iter_mut().zip(&*pending).for_each(|(over, one)| *over |= one.tid == notice.tid);
            }
            // The image is there before its arguments are (begin_new_exec in fs/exec.c).
            None if same || ran.is_empty() => return Verified::Nothing,
            None => {}
        }
        let runs = |one: &Expected| id == Some(one.id) && !(same && one.ran_before.as_ref() == Some(&ran));
        let ended = || pending.iter().zip(&over).filter(|(_, over)| **over).map(|(one, _)| one);
        let as_judged = ended().find(|one| id == Some(one.id) && one.was_given(&ran));
        let started = as_judged.or_else(|| ended().find(|one| runs(one)));
        let Some(started) = started else {
            if !same {
                return Verified::Other(image_of(self.pid));
            }
            let mut over = over.into_iter();
            let (failed, under_way) = pending.drain(..).partition(|_| over.next() == Some(true));
            *pending = under_way;
            return Verified::Failed(failed);
        };
        if as_judged.is_none() && !covers(started, &ran) {
            return Verified::Ended;
        }
        let path = started.path.clone();
        let now = path.map_or_else(|| image_of(self.pid), |path| Image { path, id });
        *write(&self.image) = Arc::new(now);
        // It attaches anew.
        *write(&self.slots) = None;
        // The other threads are gone, if this was no call that failed.
        let mut over = over.into_iter();
        pending.retain(|_| over.next() == Some(false));
        Verified::Judged
    }

    /// The descriptor that means this process and no later one of its number.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        ended(&self.pidfd)
    }
}

/// What the kernel says of a task's process.
struct Found {
    pid: u32,
    parent: u32,
    pidfd: Option<OwnedFd>,
}

impl Found {
    /// Of a process's first thread, which has its number, since Linux 6.13.
    fn leader(tid: u32) -> Option<Self> {
        /// `struct pidfd_info` as it was first (linux/pidfd.h).
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            mask: u64,
            cgroup: u64,
            pid: u32,
            tgid: u32,
            ppid: u32,
            ids: [u32; 8],
            spare: u32,
        }
        const GET_INFO: libc::c_ulong = 0xc040_ff0b; // PIDFD_GET_INFO
        const PIDS: u64 = 1; // PIDFD_INFO_PID
        let pidfd = pidfd_open(Pid::from_raw(tid.cast_signed())?, PidfdFlags::empty()).ok()?;
        let mut info = Info { mask: PIDS, ..Info::default() };
        // SAFETY: the request's number holds the size of `Info`, of which the kernel writes no more.
        let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
        let told = done == 0 && info.mask & PIDS != 0 && info.tgid == tid;
        told.then_some(Self { pid: tid, parent: info.ppid, pidfd: Some(pidfd) })
    }

    /// Of any thread.
    fn thread(tid: u32) -> Result<Self, Errno> {
        let status = proc_file(format!("/proc/{tid}/status")).map_err(|_| Errno::SRCH)?;
        let pid = number(&status, b"Tgid:").ok_or(Errno::SRCH)?;
        Ok(Self { pid, parent: number(&status, b"PPid:").unwrap_or_default(), pidfd: None })
    }
}

/// Whether the process that a pidfd means has ended.
pub(crate) fn ended(pidfd: &OwnedFd) -> bool {
    let mut fd = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live `pollfd`, and no time to wait: asked before every call, and cheaper than ppoll(2).
    unsafe { libc::poll(&raw mut fd, 1, 0) > 0 }
}

/// Whether a thread belongs to a process: the kernel finds no such pair otherwise.
fn belongs(pid: u32, tid: u32) -> bool {
    // SAFETY: numbers only; signal 0 is a question.
    unsafe { libc::syscall(libc::SYS_tgkill, pid.cast_signed(), tid.cast_signed(), 0) == 0 }
}

/// The image a process runs now.
pub(crate) fn image_of(pid: u32) -> Image {
    let path = std::fs::read_link(format!("/proc/{pid}/exe"));
    let path = path.map(|path| Text::from(path.as_os_str().as_encoded_bytes()));
    Image { path: path.unwrap_or_default(), id: image_id(pid) }
}

/// Its identity.
fn image_id(pid: u32) -> Option<FileId> {
    let stat = rustix::fs::stat(format!("/proc/{pid}/exe")).ok()?;
    Some(FileId { dev: stat.st_dev, ino: stat.st_ino })
}

/// The arguments a process was started with, each with its NUL (proc_pid_cmdline(5)).
pub(crate) fn arguments_of(pid: u32) -> Vec<u8> {
    proc_file(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// A number of /proc/TID/status (proc_pid_status(5)), by its label.
pub(crate) fn status_number(tid: u32, label: &[u8]) -> Option<u32> {
    number(&proc_file(format!("/proc/{tid}/status")).ok()?, label)
}

/// The signals that this process ignores, as a mask whose lowest bit is signal 1 (proc_pid_status(5)).
///
/// # Errors
/// Where /proc does not say.
pub fn ignored_signals() -> io::Result<u64> {
    let status = proc_file("/proc/self/status".into())?;
    let mask = field(&status, b"SigIgn:").and_then(|hex| std::str::from_utf8(hex).ok());
    mask.and_then(|hex| u64::from_str_radix(hex, 16).ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What a file of /proc says, in as few calls as it takes: the kernel makes it anew for each.
pub(crate) fn proc_file(path: String) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(4096);
    File::open(path)?.read_to_end(&mut text)?;
    Ok(text)
}

/// A number of a text, by its label.
fn number(text: &[u8], label: &[u8]) -> Option<u32> {
    std::str::from_utf8(field(text, label)?).ok()?.parse().ok()
}

/// The first word after a label of /proc/TID/status.
pub(crate) fn field<'a>(status: &'a [u8], label: &[u8]) -> Option<&'a [u8]> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(label))?;
    line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())
}

/// The parent of a process.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    stat_field(pid, 1)
}

/// A field of /proc/PID/stat, counted from 0 after the name (proc_pid_stat(5)); the name may itself hold spaces and
/// parentheses.
pub(crate) fn stat_field(pid: u32, field: usize) -> Option<u32> {
    stat_fields(pid)?.split(' ').nth(field)?.parse().ok()
}

/// What follows the name in /proc/PID/stat.
fn stat_fields(pid: u32) -> Option<String> {
    let mut stat = proc_file(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|byte| *byte == b')')? + 2;
    String::from_utf8(stat.split_off(after.min(stat.len()))).ok()
}

/// A process and all it descends from, each with when it started, in clock ticks since boot, which tells it from a
/// later process of its number; nothing where one of them is gone.
pub(crate) fn ancestry(pid: u32) -> Option<Vec<(u32, u64)>> {
    const PARENT: usize = 1;
    const STARTED: usize = 19;
    let (mut line, mut pid) = (Vec::new(), pid);
    // Nobody's child is the first process of the namespace, or was started from outside of it.
    while pid != 0 {
        let fields = stat_fields(pid)?;
        let number = |at: usize| fields.split(' ').nth(at)?.parse::<u64>().ok();
        line.push((pid, number(STARTED)?));
        if line.len() > MOST_ANCESTORS {
            return None;
        }
        pid = u32::try_from(number(PARENT)?).ok()?;
    }
    Some(line).filter(|line| !line.is_empty())
}

/// The children that a thread forked and that were not waited for (proc_tid_children(5)); nothing where the kernel does
/// not say.
pub(crate) fn children(pid: u32, tid: u32) -> Option<Vec<u32>> {
    let text = String::from_utf8(proc_file(format!("/proc/{pid}/task/{tid}/children")).ok()?).ok()?;
    text.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
}

/// The threads of a process.
pub(crate) fn threads(pid: u32) -> Vec<u32> {
    let listed = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether `pid` descends from `ancestor`, or is it.
pub fn descends(pid: u32, ancestor: u32) -> bool {
    let mut pid = pid;
    for _ in 0..MOST_ANCESTORS {
        if pid == ancestor {
            return true;
        }
        match parent_of(pid) {
            Some(parent) if parent > 1 => pid = parent,
            Some(1) if ancestor == 1 => return true,
            _ => return false,
        }
    }
    false
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
