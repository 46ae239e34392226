//! The supervisor: takes an agent's system calls one by one, has each decided and recorded, performs it or refuses.
//!
//! Workers take turns in waiting for notifications (`duty`), those of one kind or of the other (`roster`), and more are started
//! whenever all have a call in hand, so that no call ever waits for another one's end.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use failcore_model::{Action, Denial, Event, Outcome, Text};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::births::Births;
use crate::call::{Answer, Call, Reply};
use crate::callers::Callers;
use crate::calls::{Row, Rule, row};
use crate::chance::Chance;
use crate::directories::Directories;
use crate::duty::{Duty, Looks, Need, Taken};
use crate::exec::Expected;
use crate::filter::ruling;
use crate::ipc::Objects;
use crate::island::Island;
use crate::launch::Parent;
use crate::likely::Likely;
use crate::notify::{Listener, Notice};
use crate::patience::{self, Patience};
use crate::privileges::Lacks;
use crate::roster::{Crew, is_crowded};
use crate::standstill::Standstill;
use crate::tasks::{Process, Tasks, Verified, descends};
use crate::unheard::Unheard;
use crate::vdso::Rewriter;
use crate::voices::Voices;
use crate::workers::{Worker, Workers};
use crate::{attributes, exec, groups, ipc, messages, names, observed, open, processes, sockets};

/// Workers that may wait at once; more calls queue in the kernel.
const MOST_WORKERS: usize = 1024;
/// Stack of a worker: it handles paths, not recursion.
const STACK: usize = 256 << 10;
/// What the probes before the program's start are answered with; nothing else ever is.
pub(crate) const PROBED: i32 = libc::EKEYREJECTED;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) listener: Arc<Listener>,
    pub(crate) parent: Parent,
    /// Where resolvers ask that take answers from none but whom they asked; made when the first one does.
    island: OnceLock<Option<Island>>,
    pub(crate) tasks: Tasks,
    /// System V objects of the run.
    pub(crate) objects: Objects,
    pub(crate) patience: Patience,
    /// Keeps workers from acting while the run is paused.
    pub(crate) standstill: Standstill,
    /// Whether rules go by identity, so that requests need it.
    pub(crate) by_identity: bool,
    /// Our own table of descriptors, through which an object is opened again.
    pub(crate) own: OwnedFd,
    /// Identities of directories, while no name changes.
    pub(crate) directories: Directories,
    /// Where regular files were read.
    pub(crate) likely: Likely,
    /// Files, each in the state it was in, that are programs and no scripts.
    pub(crate) programs: Likely,
    /// Held shared by whoever changes names, alone by whoever must not see them change.
    names: RwLock<()>,
    /// The guardian: ancestor of every process of the run.
    root: u32,
    /// Refusals that programs hear only an errno of.
    pub(crate) unheard: Unheard,
    /// What root's program finds itself without.
    pub(crate) lacks: Lacks,
    /// Has the program's clocks and random numbers seen, where somebody wants to.
    pub(crate) rewriter: Option<Rewriter>,
    /// Names of threads that are the same in every run.
    pub(crate) voices: Voices,
    /// Which code asks.
    pub(crate) callers: Callers,
    /// Random bytes that are read as a file.
    pub(crate) chance: Chance,
    /// Ports that the run itself listened at, where somebody wants to know who is not of it.
    listening: Mutex<HashSet<u16>>,
    /// Counts processes, where they are limited.
    births: Option<Births>,
    /// Whether it was said that there may be no more of them.
    crowded: AtomicBool,
    /// Before the program starts every call is refused in a way that shows it was us.
    probing: AtomicBool,
    over: AtomicBool,
    /// How many processors are ours.
    processors: u32,
    /// Which workers wait for calls.
    duty: Duty,
    workers: Workers,
    last_refusal: Mutex<Option<Denial>>,
    started: AtomicU32,
}

impl Shared {
    pub(crate) fn new(
        listener: Listener,
        parent: Parent,
        root: u32,
        rewriter: Option<Rewriter>,
    ) -> Result<Arc<Self>, Errno> {
        // Before Linux 6.6 the kernel cannot; wake-ups then cross processors and cost more.
        let in_place = listener.wake_in_place().is_ok();
        // Where it cannot be told, it is as on any machine of today.
        let processors = rustix::thread::sched_getaffinity(None).map_or(2, |ours| ours.count());
        let own = openat(CWD, "/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Arc::new(Self {
            own,
            directories: Directories::default(),
            likely: Likely::default(),
            programs: Likely::default(),
            by_identity: parent.gate.policy().has_identities(),
            lacks: Lacks::new(&parent.gate.policy().capabilities()),
            births: parent.gate.policy().limits().processes.map(|most| Births::new(most, root)),
            rewriter,
            listening: Mutex::default(),
            voices: Voices::default(),
            callers: Callers::default(),
            chance: Chance::default(),
            crowded: AtomicBool::new(false),
            listener: Arc::new(listener),
            parent,
            island: OnceLock::new(),
            tasks: Tasks::default(),
            objects: Objects::default(),
            patience: Patience::default(),
            standstill: Standstill::default(),
            names: RwLock::new(()),
            root,
            probing: AtomicBool::new(true),
            over: AtomicBool::new(false),
            processors,
            duty: Duty::new(processors, in_place),
            workers: Workers::default(),
            last_refusal: Mutex::default(),
            unheard: Unheard::default(),
            started: AtomicU32::new(1),
        }))
    }

    /// Takes down where a process of the run listens.
    pub(crate) fn now_listens_at(&self, port: u16) {
        if self.parent.witness.is_some() {
            self.listening.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        }
    }

    /// Whether one has listened there.
    pub(crate) fn listens_at(&self, port: u16) -> bool {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).contains(&port)
    }

    /// Whether a process belongs to the run; the guardian and the supervisor do not.
    pub(crate) fn in_run(&self, pid: u32) -> bool {
        pid != self.root && descends(pid, self.root)
    }

    /// The island, made where it is not there yet; nothing where it cannot be made.
    pub(crate) fn island(&self) -> Option<&Island> {
        self.island.get_or_init(|| Island::make().ok()).as_ref()
    }

    /// The island, where it was made.
    pub(crate) fn island_made(&self) -> Option<&Island> {
        self.island.get()?.as_ref()
    }

    /// While held, names may change: every change of names that the agent makes holds it.
    pub(crate) fn names(&self) -> Changing<'_, RwLockReadGuard<'_, ()>> {
        Changing { _held: self.names.read().unwrap_or_else(PoisonError::into_inner), of: &self.directories }
    }

    /// While held, nobody else of the run changes a name.
    pub(crate) fn still(&self) -> Changing<'_, RwLockWriteGuard<'_, ()>> {
        Changing { _held: self.names.write().unwrap_or_else(PoisonError::into_inner), of: &self.directories }
    }

    /// Notes a refusal, for whoever wants to say why the program did not start.
    pub(crate) fn refused(&self, denial: Denial) {
        *self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(denial);
    }

    pub(crate) fn last_refusal(&self) -> Option<Denial> {
        self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The probes are over: calls are judged from here on.
    pub(crate) fn begin(&self) {
        self.probing.store(false, SeqCst);
    }

    /// Answers no call from now on; whether none is under way any more within `patience`.
    pub(crate) fn hold(&self, patience: Duration) -> bool {
        self.standstill.hold(patience, || self.patience.nudge())
    }

    /// Ends all workers.
    pub(crate) fn end(&self) {
        self.over.store(true, SeqCst);
        self.standstill.close();
        self.duty.close();
        self.patience.end();
        while self.workers.count() > 0 {
            self.workers.interrupt();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn sweep(&self) {
        for pid in self.tasks.sweep() {
            // A failure shows with the next decision; nothing depends on this record.
            let _ = self.parent.gate.record(&Event::ProcessLeft { pid });
        }
    }

    /// Looks after waiting calls, execs under way and processes that ended, until the end.
    pub(crate) fn look_after(&self) {
        let mut looks = Looks::default();
        let look = || self.look(&mut looks);
        self.patience.watch(&self.listener, look, || {
            self.sweep();
            self.workers.look_at_guesses();
            for process in self.tasks.all() {
                self.verify(&process, None);
            }
        });
        self.sweep();
    }

    /// Looks which workers serve, and whether to look again soon.
    fn look(&self, looks: &mut Looks) -> bool {
        let waits = || self.listener.has_calls() || self.workers.keep_waiting(&self.listener);
        let soon = self.duty.look(looks, waits, || is_crowded(self.processors));
        if !self.duty.wants(Crew::Yielding) {
            self.workers.relieve();
        }
        soon
    }

    /// Compares what a process runs with what it was granted, and ends it where that is something else.
    fn verify(&self, process: &Process, caller: Option<&Notice>) -> bool {
        let caller = caller.map(|notice| (&*self.listener, notice));
        match process.verify(caller, |granted, ran| self.covers(process, granted, ran)) {
            Verified::Nothing | Verified::Judged => true,
            Verified::Failed(calls) => {
                for call in calls {
                    let failed = Outcome::Failed(libc::ENOEXEC);
                    self.parent.gate.conclude_op(call.grant.op(), process.pid, failed);
                }
                true
            }
            Verified::Ended => false,
            Verified::Other(image) => {
                process.kill();
                let text = format!(
                    "process {} runs {} instead of what its exec was granted for; it was ended",
                    process.pid, image.path
                );
                let _ = self.parent.gate.record(&Event::Notice { text });
                false
            }
        }
    }

    /// Whether what was granted to be started is granted with the arguments that it got as well; ends it where not.
    fn covers(&self, process: &Process, expected: &Expected, ran: &[u8]) -> bool {
        let (judged, action) = (&expected.grant, expected.of(ran));
        let covered = self.parent.gate.covers(judged, &action);
        if !covered {
            process.kill();
        }
        let text = format!(
            "process {} runs `{}` instead of `{}`, which its exec was granted for; {}",
            process.pid,
            action.resource(),
            judged.action().resource(),
            if covered { "that is granted too" } else { "it was ended" }
        );
        let _ = self.parent.gate.record(&Event::Notice { text });
        covered
    }
}

/// A change of names under way.
pub(crate) struct Changing<'a, Held> {
    _held: Held,
    of: &'a Directories,
}

impl<Held> Drop for Changing<'_, Held> {
    fn drop(&mut self) {
        self.of.forget();
    }
}

/// Starts a worker that inherits the calling thread's credentials and domain.
///
/// # Errors
/// The kernel's, where no thread can be started.
fn start_worker(shared: &Arc<Shared>, crew: Crew) -> std::io::Result<()> {
    let of = Arc::clone(shared);
    // Counted before it runs, so that two who find nobody do not both start one.
    shared.duty.comes(crew);
    let spawned = worker(shared.started.fetch_add(1, SeqCst)).spawn(move || work(&of, crew));
    if spawned.is_err() {
        shared.duty.leaves(crew);
    }
    spawned.map(drop)
}

/// The thread of a worker.
pub(crate) fn worker(number: u32) -> std::thread::Builder {
    std::thread::Builder::new().name(format!("failcore-{number}")).stack_size(STACK)
}

/// Makes the calling thread, whose credentials and domain all others will have, the first worker.
pub(crate) fn serve(shared: &Arc<Shared>) {
    shared.duty.comes(Crew::Ordinary);
    work(shared, Crew::Ordinary);
}

/// A worker's life; it counts as waiting for calls when it begins.
fn work(shared: &Arc<Shared>, crew: Crew) {
    patience::prepare();
    let Ok(own) = shared.workers.join(crew) else { return shared.duty.leaves(crew) };
    isolate();
    while !shared.over.load(SeqCst) {
        if !shared.duty.wants(crew) {
            shared.duty.leaves(crew);
            break;
        }
        let notice = match shared.listener.receive() {
            Ok(notice) => notice,
            // The task was gone by the time, or a signal told us to look up.
            Err(Errno::NOENT | Errno::INTR) if !shared.listener.is_deserted() => continue,
            // Nobody is left under the filter, and never will be again.
            Err(_) => {
                shared.duty.leaves(crew);
                shared.duty.close();
                break;
            }
        };
        own.takes(&notice);
        let Taken { call, need, many } = shared.duty.took(notice.tid, crew);
        if many {
            shared.patience.look_now();
        }
        // While the run is paused a call gets no answer.
        let acting = shared.standstill.act();
        let called = need == Need::Nobody || shared.duty.call();
        // Whoever is started by one who gives way gives way as well, so that only ordinary ones start others: one of them is
        // always left to be called.
        let nobody = need == Need::Somebody && !called;
        if crew == Crew::Ordinary
            && (nobody || shared.duty.has_no_reserve())
            && shared.workers.count() < MOST_WORKERS
        {
            // Where none can be started the call in hand still gets its answer, and the next waits for it.
            let _ = start_worker(shared, crew);
        }
        let Some(acting) = acting else { break };
        handle(shared, &own, notice, call);
        drop(acting);
        own.is_done();
        if crew == Crew::Ordinary && shared.duty.lacks() {
            let _ = start_worker(shared, Crew::Yielding);
        }
        if !shared.duty.returns(crew) {
            break;
        }
    }
    shared.workers.leave(&own);
}

/// A umask and a working directory of this thread's own.
#[allow(unsafe_code, reason = "unshare is declared unsafe because of descriptors, which this leaves alone")]
fn isolate() {
    // SAFETY: only the file system attributes are unshared; no descriptor becomes another's.
    let _ = unsafe { unshare_unsafe(UnshareFlags::FS) };
    rustix::process::umask(Mode::empty());
}

/// Answers one call, whatever happens.
fn handle(shared: &Shared, worker: &Worker, notice: Notice, call: u64) {
    // A fault of ours is a refusal.
    let reply = catch_unwind(AssertUnwindSafe(|| answer(shared, worker, notice))).unwrap_or(Err(Errno::IO));
    shared.duty.answers(call, worker.crew());
    let sent = match reply {
        Ok(Answer::Value(value)) => shared.listener.succeed(&notice, value),
        Ok(Answer::Proceed) => shared.listener.proceed(&notice),
        Ok(Answer::Replaced { fd, number, close_on_exec, value }) => {
            let (fd, number) = (std::os::fd::AsFd::as_fd(&fd), number.unsigned_abs());
            match shared.listener.replace(&notice, fd, number, close_on_exec) {
                Ok(()) => shared.listener.succeed(&notice, value),
                Err(errno) => shared.listener.fail(&notice, errno.raw_os_error()),
            }
        }
        Ok(Answer::Descriptor { fd, close_on_exec, may_linger }) => {
            let given = if may_linger {
                shared.listener.inject(&notice, std::os::fd::AsFd::as_fd(&fd), close_on_exec)
            } else {
                let given = shared.listener.give(&notice, fd, close_on_exec);
                given.and_then(|number| shared.listener.succeed(&notice, number))
            };
            match given {
                Err(Errno::NOENT | Errno::INPROGRESS) => Ok(()),
                // No descriptor free in the task: its own limit.
                Err(errno) => shared.listener.fail(&notice, errno.raw_os_error()),
                Ok(()) => Ok(()),
            }
        }
        Err(errno) => shared.listener.fail(&notice, errno.raw_os_error()),
    };
    // Whoever is gone by now does not need an answer.
    let _ = sent;
}

fn answer(shared: &Shared, worker: &Worker, notice: Notice) -> Reply {
    if shared.probing.load(SeqCst) {
        return Err(Errno::from_raw_os_error(PROBED));
    }
    let (process, new) = shared.tasks.of(notice.tid)?;
    if new {
        // That it is this task which was looked up, and not a later one of its number.
        if !shared.listener.is_waiting(&notice) {
            return Err(Errno::SRCH);
        }
        let exe = process.image().path.clone();
        let event = Event::ProcessJoined { pid: process.pid, parent: process.parent, exe };
        shared.parent.gate.record(&event).map_err(|denial| Errno::from_raw_os_error(denial.errno))?;
    }
    if process.is_changing() && !shared.verify(&process, Some(&notice)) {
        return Err(Errno::ACCESS);
    }
    let call = Call { shared, worker, notice, process };
    let Some(row) = row(notice.nr) else { return unmapped(&call, "a call without a name") };
    let (rule, witness) = (ruling(row.rule, &notice.args), shared.parent.witness.as_deref());
    if let Some(witness) = witness {
        observed::image(&call)?;
        observed::before(&call, witness, rule == Rule::Allow)?;
    }
    match rule {
        Rule::Forbid(errno) => {
            // In audit mode this may be granted on paper; it is refused all the same.
            let _ = call.judge(Action::KernelCall(Text::from(row.name)));
            Err(Errno::from_raw_os_error(errno))
        }
        rule => match witness {
            Some(witness) if rule == Rule::Allow => observed::tell(&call, witness),
            Some(witness) => observed::after(&call, witness, perform(&call, row)),
            None => perform(&call, row),
        },
    }
}

fn unmapped(call: &Call<'_>, name: &str) -> Reply {
    let _ = call.judge(Action::Unmapped(Text::from(name)));
    Err(Errno::NOSYS)
}

fn fork(call: &Call<'_>) -> Reply {
    let tid = call.notice.tid;
    if let Some(births) = &call.shared.births
        && !births.grant(call.process.pid, tid)
    {
        if !call.shared.crowded.swap(true, SeqCst) {
            let text = "`limits.processes` are all in use; forks fail until one ends".into();
            call.shared.parent.gate.record(&Event::Notice { text }).map_err(|_| Errno::IO)?;
        }
        return Err(Errno::AGAIN);
    }
    call.shared.tasks.forks(&call.process, tid, call.process.claims(tid).scope.into_vec());
    Ok(Answer::Proceed)
}

/// A process that takes over what its descendants leave behind.
fn adopt(call: &Call<'_>) -> Reply {
    call.process.forks.adopt();
    Ok(Answer::Proceed)
}

/// Every call of the table that asks, and who handles it.
fn perform(call: &Call<'_>, row: &Row) -> Reply {
    match handler(row.nr) {
        Some(handle) => handle(call),
        None => unmapped(call, row.name),
    }
}

/// Who handles a call.
fn handler(nr: i64) -> Option<fn(&Call<'_>) -> Reply> {
    #[cfg(target_arch = "x86_64")]
    match nr {
        libc::SYS_open => return Some(open::open),
        libc::SYS_creat => return Some(open::creat),
        libc::SYS_fork | libc::SYS_vfork => return Some(fork),
        libc::SYS_mkdir => return Some(names::mkdir),
        libc::SYS_rmdir => return Some(names::rmdir),
        libc::SYS_mknod => return Some(names::mknod),
        libc::SYS_unlink => return Some(names::unlink),
        libc::SYS_rename => return Some(names::rename),
        libc::SYS_link => return Some(names::link),
        libc::SYS_symlink => return Some(names::symlink),
        libc::SYS_chmod => return Some(attributes::chmod_path),
        libc::SYS_chown => return Some(attributes::chown),
        libc::SYS_lchown => return Some(attributes::lchown),
        libc::SYS_utime => return Some(attributes::utime),
        libc::SYS_utimes => return Some(attributes::utimes),
        libc::SYS_futimesat => return Some(attributes::futimesat),
        _ => {}
    }
    Some(match nr {
        libc::SYS_openat => open::at,
        libc::SYS_openat2 => open::at2,
        libc::SYS_mkdirat => names::mkdir_at,
        libc::SYS_mknodat => names::mknod_at,
        libc::SYS_unlinkat => names::unlink_at,
        libc::SYS_renameat => names::rename_at,
        libc::SYS_renameat2 => names::rename_at2,
        libc::SYS_linkat => names::link_at,
        libc::SYS_symlinkat => names::symlink_at,
        libc::SYS_truncate => attributes::truncate,
        libc::SYS_inotify_add_watch => attributes::watch,
        libc::SYS_fchmod => attributes::fchmod,
        libc::SYS_fchmodat => attributes::fchmodat,
        libc::SYS_fchmodat2 => attributes::fchmodat2,
        libc::SYS_fchown => attributes::fchown,
        libc::SYS_fchownat => attributes::fchownat,
        libc::SYS_utimensat => attributes::utimens,
        libc::SYS_setxattr => attributes::setxattr,
        libc::SYS_lsetxattr => attributes::lsetxattr,
        libc::SYS_fsetxattr => attributes::fsetxattr,
        libc::SYS_removexattr => attributes::removexattr,
        libc::SYS_lremovexattr => attributes::lremovexattr,
        libc::SYS_fremovexattr => attributes::fremovexattr,
        libc::SYS_ioctl => attributes::ioctl,
        libc::SYS_memfd_create => attributes::memfd,
        libc::SYS_execve => exec::execve,
        libc::SYS_execveat => exec::execveat,
        libc::SYS_clone => fork,
        libc::SYS_prctl => adopt,
        libc::SYS_socket | libc::SYS_socketpair => sockets::socket,
        libc::SYS_setsockopt => groups::join,
        libc::SYS_connect => sockets::connect,
        libc::SYS_bind => sockets::bind,
        libc::SYS_listen => sockets::listen,
        libc::SYS_sendto => messages::sendto,
        libc::SYS_sendmsg => messages::sendmsg,
        libc::SYS_sendmmsg => messages::sendmmsg,
        libc::SYS_shmget => ipc::shmget,
        libc::SYS_semget => ipc::semget,
        libc::SYS_msgget => ipc::msgget,
        libc::SYS_shmat
        | libc::SYS_shmctl
        | libc::SYS_semop
        | libc::SYS_semctl
        | libc::SYS_semtimedop
        | libc::SYS_msgsnd
        | libc::SYS_msgrcv
        | libc::SYS_msgctl => ipc::on_object,
        libc::SYS_kill => processes::kill,
        libc::SYS_tkill => processes::tkill,
        libc::SYS_tgkill => processes::tgkill,
        libc::SYS_rt_sigqueueinfo | libc::SYS_rt_tgsigqueueinfo => processes::queue,
        libc::SYS_pidfd_send_signal => processes::by_descriptor,
        libc::SYS_fcntl => processes::owner,
        libc::SYS_ptrace
        | libc::SYS_process_vm_readv
        | libc::SYS_process_vm_writev
        | libc::SYS_pidfd_getfd
        | libc::SYS_kcmp
        | libc::SYS_process_mrelease
        | libc::SYS_migrate_pages
        | libc::SYS_move_pages => processes::reach,
        libc::SYS_process_madvise => processes::advise,
        libc::SYS_prlimit64
        | libc::SYS_sched_setaffinity
        | libc::SYS_sched_setscheduler
        | libc::SYS_sched_setparam
        | libc::SYS_sched_setattr
        | libc::SYS_setpriority
        | libc::SYS_ioprio_set => processes::limit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::tables;

    #[test]
    fn every_call_that_asks_is_answered_by_a_handler() {
        fn asks(rule: Rule) -> bool {
            match rule {
                Rule::Ask => true,
                Rule::When(tests, otherwise) => tests.iter().any(|(_, rule)| asks(*rule)) || asks(*otherwise),
                _ => false,
            }
        }
        for row in tables() {
            assert_eq!(handler(row.nr).is_some(), asks(row.rule), "{}", row.name);
        }
    }
}
