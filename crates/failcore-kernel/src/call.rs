//! One system call of an agent's task, while it waits: its arguments, its view of the file system, its verdict.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use failcore_gate::{Actor, Grant};
use failcore_model::{Action, Event, FileId, FileRef, Outcome, Reason, Text};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use smallvec::SmallVec;

use crate::calls::row;
use crate::memory;
use crate::notify::Notice;
use crate::standstill::Leave;
use crate::supervisor::Shared;
use crate::tasks::Process;
use crate::walk::{Entry, Object, Start, View};
use crate::workers::Worker;

/// Identities that most paths come to: their own and those of the directories above.
const USUAL_DEPTH: usize = 8;

/// What the task gets.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A return value.
    Value(i64),
    /// This descriptor, under a number of its own.
    Descriptor {
        /// What is injected.
        fd: OwnedFd,
        /// Whether it closes on exec.
        close_on_exec: bool,
        /// Whether nobody can notice that we hold it a moment longer than the call lasts, which is the fastest way. A
        /// writer that lingers keeps a program from being run and a pipe from ending.
        may_linger: bool,
    },
    /// This descriptor in place of one that the task has, and a return value.
    Replaced {
        /// What is injected.
        fd: OwnedFd,
        /// The number that means it from now on.
        number: i32,
        /// Whether it closes on exec.
        close_on_exec: bool,
        /// The value.
        value: i64,
    },
    /// The kernel performs the call: nothing judged can change any more, or it is verified afterwards.
    Proceed,
}

/// What a handler comes to; an errno ends the call with it.
pub(crate) type Reply = Result<Answer, Errno>;

/// Success without a value.
pub(crate) const DONE: Reply = Ok(Answer::Value(0));

/// A waiting call.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) worker: &'a Worker,
    pub(crate) notice: Notice,
    pub(crate) process: Arc<Process>,
}

impl View for Call<'_> {
    fn tgid(&self) -> u32 {
        self.process.pid
    }

    fn tid(&self) -> u32 {
        self.notice.tid
    }

    fn in_run(&self, pid: u32) -> bool {
        self.shared.in_run(pid)
    }
}

impl Call<'_> {
    /// An argument register.
    pub(crate) fn arg(&self, n: usize) -> u64 {
        self.notice.args[n]
    }

    /// An argument that is an `int`: the kernel looks at its lower half only.
    pub(crate) fn int(&self, n: usize) -> i32 {
        self.notice.args[n] as u32 as i32
    }

    /// The path that argument `n` points to, copied.
    pub(crate) fn path(&self, n: usize) -> Result<Vec<u8>, Errno> {
        self.path_at(self.arg(n))
    }

    /// The path at an address, copied.
    pub(crate) fn path_at(&self, address: u64) -> Result<Vec<u8>, Errno> {
        memory::path(self.notice.tid, address)
    }

    /// Where `asked` starts for this task, given the directory descriptor of the call. Nowhere, where it is empty.
    pub(crate) fn start(&self, dir: i32, asked: &[u8]) -> Result<Start, Errno> {
        if asked.is_empty() {
            return Err(Errno::NOENT);
        }
        if asked.starts_with(b"/") { Ok(Start::Root) } else { self.directory(dir).map(Start::At) }
    }

    /// The directory that relative paths start from.
    pub(crate) fn directory(&self, dir: i32) -> Result<OwnedFd, Errno> {
        if dir == libc::AT_FDCWD { self.held("cwd") } else { self.descriptor(dir) }
    }

    /// The object behind one of the task's descriptors, held by an `O_PATH` descriptor of ours.
    pub(crate) fn descriptor(&self, fd: i32) -> Result<OwnedFd, Errno> {
        if fd < 0 {
            return Err(Errno::BADF);
        }
        self.held(&format!("fd/{fd}"))
            .map_err(|errno| if errno == Errno::NOENT { Errno::BADF } else { errno })
    }

    /// One of the task's descriptors itself: the same open file, so that what is done to it is done to the task's.
    pub(crate) fn duplicate(&self, fd: i32) -> Result<OwnedFd, Errno> {
        if fd < 0 {
            return Err(Errno::BADF);
        }
        // A thread may have a table of descriptors of its own; before Linux 6.9 the process's is all there is.
        const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
        if self.notice.tid != self.process.pid
            && let Some(tid) = Pid::from_raw(self.notice.tid.cast_signed())
            && let Ok(thread) = pidfd_open(tid, THREAD)
        {
            return pidfd_getfd(thread, fd, PidfdGetfdFlags::empty());
        }
        pidfd_getfd(self.process.pidfd(), fd, PidfdGetfdFlags::empty())
    }

    /// Whether one of the task's descriptors closes on exec.
    pub(crate) fn closes_on_exec(&self, fd: i32) -> bool {
        self.descriptor_flags(fd).is_none_or(|flags| flags & libc::O_CLOEXEC != 0)
    }

    /// Whether one of the task's descriptors stands for a path alone, by which nothing is read or changed (open(2)).
    pub(crate) fn is_path_only(&self, fd: i32) -> bool {
        self.descriptor_flags(fd).is_none_or(|flags| flags & libc::O_PATH != 0)
    }

    /// What one of the task's descriptors was opened with (proc_pid_fdinfo(5)).
    fn descriptor_flags(&self, fd: i32) -> Option<i32> {
        let info = crate::tasks::proc_file(format!("/proc/{}/fdinfo/{fd}", self.notice.tid)).ok()?;
        let octal = crate::tasks::field(&info, b"flags:")?;
        i32::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok()
    }

    /// Whether the task can be given one more descriptor; where that cannot be told, it can.
    #[allow(unsafe_code, reason = "rustix reads only one's own limits")]
    pub(crate) fn has_free_descriptor(&self) -> bool {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let pid = self.notice.tid.cast_signed();
        // SAFETY: the kernel writes one `rlimit` to a live one, and reads none.
        if unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) } != 0 {
            return true;
        }
        let fds = format!("/proc/{pid}/fd");
        // Since Linux 6.2 the size is the number of open ones; some may lie above a limit that was lowered since.
        match rustix::fs::stat(&fds) {
            Ok(stat) if (1..limit.rlim_cur).contains(&stat.st_size.cast_unsigned()) => true,
            _ => std::fs::read_dir(fds).map_or(true, |open| {
                let below = |name: &std::ffi::OsStr| {
                    name.to_str()?.parse().ok().filter(|fd: &u64| *fd < limit.rlim_cur)
                };
                open.flatten().filter_map(|entry| below(&entry.file_name())).count() as u64 != limit.rlim_cur
            }),
        }
    }

    fn held(&self, what: &str) -> Result<OwnedFd, Errno> {
        openat(
            CWD,
            format!("/proc/{}/{what}", self.notice.tid),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }

    /// Decides, records, grants. Whatever was copied or resolved before is certain from here on to be this task's.
    ///
    /// # Errors
    /// The denial's errno; `ESRCH` where the task is gone, which nobody sees.
    pub(crate) fn judge(&self, action: Action) -> Result<Grant, Errno> {
        if !self.shared.listener.is_waiting(&self.notice) {
            return Err(Errno::SRCH);
        }
        self.judge_as_before(action)
    }

    /// As [`Call::judge`], for a descriptor that is open already (`open::as_before`) and that nobody has but us: whether the
    /// task still waits shows when it is handed over.
    ///
    /// # Errors
    /// The denial's errno.
    pub(crate) fn judge_as_before(&self, action: Action) -> Result<Grant, Errno> {
        let claims = self.process.claims(self.notice.tid);
        // Deciding is no act: a person may take long to answer, and may answer while the run is paused.
        let check = || self.shared.parent.gate.check_for(self.actor(), action, claims, &[]);
        let (checked, leave) = self.shared.standstill.rest(check);
        let grant = checked.map_err(|denial| {
            let errno = Errno::from_raw_os_error(denial.errno);
            if !self.process.refuse(self.notice.tid, &denial) {
                self.shared.unheard.note(&self.process.image().path, &denial);
            }
            self.shared.refused(denial);
            errno
        })?;
        let goes_on = match leave {
            Leave::Given => true,
            Leave::GivenLater => self.shared.listener.is_waiting(&self.notice),
            Leave::Never => false,
        };
        if goes_on {
            Ok(grant)
        } else {
            self.concluded(grant, Err(Errno::SRCH)).map(|never: Infallible| match never {})
        }
    }

    /// Refuses what would carry a packet to somebody else than its address says, as such options of `setsockopt` are.
    pub(crate) fn carried_elsewhere(&self) -> Errno {
        let name = row(self.notice.nr).map_or("call", |row| row.name);
        // In audit mode this may be granted on paper; it is refused all the same.
        let _ = self.judge(Action::KernelCall(Text::from(name)));
        Errno::PERM
    }

    /// Who calls.
    pub(crate) fn actor(&self) -> Actor {
        Actor { pid: self.process.pid, tid: self.notice.tid, exe: self.process.image().path.clone() }
    }

    /// Why an operation would be refused; nothing is recorded.
    pub(crate) fn foresee(&self, action: &Action) -> Option<Reason> {
        self.shared.parent.gate.foresee(action.clone(), self.process.claims(self.notice.tid), &[])
    }

    /// What a granted operation came to; a failure is recorded.
    pub(crate) fn concluded<T>(&self, grant: Grant, result: Result<T, Errno>) -> Result<T, Errno> {
        if let Err(errno) = &result {
            if let Some(text) = self.shared.lacks.notice(grant.action(), *errno) {
                // The failure itself is recorded below; this only helps to understand it.
                let _ = self.shared.parent.gate.record(&Event::Notice { text });
            }
            self.shared.parent.gate.conclude(grant, Outcome::Failed(errno.raw_os_error()));
        }
        result
    }

    /// An object as rules see it.
    pub(crate) fn object_ref(&self, asked: &[u8], object: &Object) -> FileRef {
        self.file_ref(asked, object.path.clone(), Some(object.id()))
    }

    /// A directory entry as rules see it.
    pub(crate) fn entry_ref(&self, asked: &[u8], entry: &Entry) -> FileRef {
        let id = entry.stat.as_ref().map(|stat| FileId { dev: stat.st_dev, ino: stat.st_ino });
        self.file_ref(asked, entry.path.clone(), id)
    }

    /// A path as rules see it, with the identity of what is there.
    pub(crate) fn file_ref(
        &self,
        asked: &[u8],
        path: failcore_model::AbsPath,
        id: Option<FileId>,
    ) -> FileRef {
        let mut ids = SmallVec::new();
        if self.shared.by_identity {
            ids.reserve(USUAL_DEPTH);
            ids.extend(id);
            if let Some(dir) = path.parent_bytes() {
                self.shared.directories.add(dir, &mut ids);
            }
        }
        let asked = if asked == path.as_bytes() { path.clone().into() } else { Text::from(asked) };
        FileRef { asked, path, exists: id.is_some(), dir: None, ids }
    }

    /// Sets the worker's umask to the task's, so that what is created gets the mode it would get.
    pub(crate) fn take_umask(&self) {
        let status = crate::tasks::proc_file(format!("/proc/{}/status", self.notice.tid)).unwrap_or_default();
        let mask = crate::tasks::field(&status, b"Umask:")
            .and_then(|octal| u32::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok())
            // Unknown: nobody but the owner.
            .unwrap_or(0o077);
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
}

/// The `/proc/self/fd` name of one of our descriptors.
pub(crate) fn through(fd: &impl AsFd) -> String {
    fn name(fd: BorrowedFd<'_>) -> String {
        crate::walk::own_fd(fd)
    }
    name(fd.as_fd())
}
