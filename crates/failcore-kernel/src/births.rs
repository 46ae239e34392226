//! How many processes a run has: counted where each is asked for, so that a limit on them is never passed.
//!
//! The kernel performs a fork after it was granted and does not say when. Until it shows that one is over, it counts as
//! one more process; where too many seem to be there, they are counted anew. What ended and was not waited for counts
//! too, as everywhere in Linux.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::tasks::{children, threads};

/// How often, and how long apart, it is looked whether forks under way are over, before another one is refused.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// The processes of a run that has a limit on them.
pub(crate) struct Births {
    most: u64,
    /// The ancestor of every process of the run, itself none.
    root: u32,
    state: Mutex<State>,
}

struct State {
    /// No more than so many are there or on their way.
    bound: u64,
    under_way: Vec<Fork>,
}

/// A fork that was granted.
struct Fork {
    pid: u32,
    tid: u32,
    /// The thread's children before.
    before: Vec<u32>,
}

impl Births {
    /// A run of at most `most` processes, below `root`; the first is there.
    pub(crate) fn new(most: u64, root: u32) -> Self {
        Self { most, root, state: Mutex::new(State { bound: 1, under_way: Vec::new() }) }
    }

    /// Whether a thread may fork now; it then does.
    pub(crate) fn grant(&self, pid: u32, tid: u32) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread is here again, so that its fork before is over.
        state.under_way.retain(|fork| fork.tid != tid);
        for look in 0.. {
            if state.bound < self.most {
                break;
            }
            if look > 0 {
                if look == LOOKS || state.under_way.is_empty() {
                    return false;
                }
                std::thread::sleep(PAUSE);
            }
            state.under_way.retain(|fork| !fork.is_over());
            // Forks that ended since are counted twice, never left out.
            state.bound = alive(self.root) + state.under_way.len() as u64;
        }
        let before = children(pid, tid).unwrap_or_default();
        state.under_way.push(Fork { pid, tid, before });
        state.bound += 1;
        true
    }
}

impl Fork {
    /// Whether the thread shows that it is past the fork, or gone.
    fn is_over(&self) -> bool {
        let Ok(call) = std::fs::read_to_string(format!("/proc/{}/task/{}/syscall", self.pid, self.tid))
        else {
            return true;
        };
        let new = || {
            children(self.pid, self.tid)
                .is_some_and(|now| now.iter().any(|child| !self.before.contains(child)))
        };
        match call.split_whitespace().next().map(str::parse) {
            // What waits in another call, or in none, has come back from this one.
            Some(Ok(number)) => !is_fork(number) || new(),
            // It runs, here or there (proc_pid_syscall(5)).
            _ => new(),
        }
    }
}

fn is_fork(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matches!(number, libc::SYS_fork | libc::SYS_vfork) {
        return true;
    }
    number == libc::SYS_clone
}

/// How many processes are below another one.
fn alive(root: u32) -> u64 {
    let mut found = HashSet::new();
    // Whoever ends meanwhile leaves its children to the root: looked at until it has no new ones.
    loop {
        let known = found.len();
        let mut parents = vec![root];
        while let Some(parent) = parents.pop() {
            for tid in threads(parent) {
                let children = children(parent, tid).unwrap_or_default();
                parents.extend(children.into_iter().filter(|child| found.insert(*child)));
            }
        }
        if found.len() == known {
            return found.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::sync::mpsc;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn processes_count_until_they_are_waited_for() {
        let script = "sleep 60 & a=$!; sleep 60 & b=$!; sleep 60 & echo $!; read line; wait $!; echo; read line; kill $a $b";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(shell.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let last = line.trim().parse().unwrap();
        // Between two commands a shell waits for whatever has ended; while it reads it does not.
        let reads = format!("{} 0x0 ", libc::SYS_read);
        let call = format!("/proc/{}/syscall", shell.id());
        while !std::fs::read_to_string(&call).unwrap().starts_with(&reads) {}
        let three = Births::new(3, shell.id());
        // Nothing is known of the two that were started before it began to count, until it looks.
        assert!(three.grant(shell.id(), shell.id()) && three.grant(shell.id(), shell.id()));
        assert!(!three.grant(shell.id(), shell.id()));
        kill_process(Pid::from_raw(last).unwrap(), Signal::KILL).unwrap();
        while !std::fs::read_to_string(format!("/proc/{last}/stat")).unwrap().contains(") Z") {}
        assert!(!three.grant(shell.id(), shell.id()), "it ended, and nobody waited for it");
        shell.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
        said.read_line(&mut line).unwrap();
        assert!(three.grant(shell.id(), shell.id()));
        shell.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_fork_is_over_when_its_thread_is_gone_or_has_a_new_child() {
        let own = std::process::id();
        assert!(Fork { pid: own, tid: u32::MAX, before: Vec::new() }.is_over());
        // A thread that only runs, and starts a child when it is told to.
        let (go, done) = (AtomicU32::new(0), AtomicU32::new(0));
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                tell.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
                while go.load(SeqCst) == 0 {}
                let mut child = sleeper();
                done.store(1, SeqCst);
                while go.load(SeqCst) == 1 {}
                child.kill().unwrap();
                child.wait().unwrap();
            });
            let tid = told.recv().unwrap();
            let fork = Fork { pid: own, tid, before: children(own, tid).unwrap() };
            assert!(!fork.is_over());
            go.store(1, SeqCst);
            while done.load(SeqCst) == 0 {}
            assert!(fork.is_over());
            go.store(2, SeqCst);
        });
    }
}
