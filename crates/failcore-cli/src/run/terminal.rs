//! Asks the person at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use failcore_model::{Answer, Text};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, getpgrp, kill_process_group};
use rustix::termios::{QueueSelector, tcflush, tcgetpgrp, tcsetpgrp};

use crate::ui::{FAINT, STRONG, Styled, WARN};

/// The longest answer read.
const LINE: usize = 256;

/// The person at the controlling terminal; nobody where there is none.
///
/// # Security
/// The program shares the terminal: it can write there too. What it cannot do is answer: input typed before the
/// question is thrown away, and everything shown of its request has its control characters escaped.
pub(super) struct Terminal {
    /// The process group of the program, where that is another than ours; 0 before it is known.
    program: AtomicI32,
}

/// A question as it is put to a person.
pub(super) struct Put<'a> {
    pub(super) number: u64,
    pub(super) operation: &'a str,
    /// Who asks: agent, process, tool.
    pub(super) asker: &'a str,
    /// How long there is to answer.
    pub(super) left: Duration,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self { program: AtomicI32::new(0) }
    }

    /// The program runs in a process group of its own, to which the terminal may belong while it runs.
    pub(super) fn shared_with(&self, group: Pid) {
        self.program.store(group.as_raw_nonzero().get(), Ordering::SeqCst);
    }

    /// Asks, and waits for as long as the question says, or until one of `others` can be read from. `settle` is given
    /// the answer, if there was one, and says what came of the question.
    ///
    /// Returns whether there was anybody to ask: there is not where we are in the background.
    pub(super) fn ask(
        &self,
        put: &Put<'_>,
        others: &[BorrowedFd<'_>],
        settle: impl FnOnce(Option<Answer>) -> String,
    ) -> bool {
        self.put(put, others, settle).is_some()
    }

    fn put(
        &self,
        put: &Put<'_>,
        others: &[BorrowedFd<'_>],
        settle: impl FnOnce(Option<Answer>) -> String,
    ) -> Option<()> {
        let mut tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        let foreground = tcgetpgrp(&tty).ok()?;
        let program = Pid::from_raw(self.program.load(Ordering::SeqCst));
        let _taken = match foreground == getpgrp() {
            true => None,
            false if Some(foreground) == program => Some(Taken::from(tty.try_clone().ok()?, foreground)?),
            // In the background, reading would stop this process and with it the whole run.
            false => return None,
        };
        let mut out = anstream::AutoStream::auto(tty.try_clone().ok()?);
        let Put { number, operation, asker, left } = put;
        write!(
            out,
            "\n{} question {number}: the program asks for leave ({asker})\n  {}\n{} ",
            Styled(FAINT, "failcore:"),
            Styled(STRONG, operation),
            Styled(WARN, format_args!("Allow it? y or n, {} s:", left.as_secs())),
        )
        .ok()?;
        tcflush(&tty, QueueSelector::IFlush).ok()?;
        let answer = line(&mut tty, *left, others).map(|line| match line.trim_ascii() {
            b"y" | b"Y" | b"yes" => Answer::Approved,
            _ => Answer::Denied,
        });
        let ended = if answer.is_none() { "\n" } else { "" };
        drop(writeln!(out, "{ended}{} {}", Styled(FAINT, "failcore:"), settle(answer)));
        Some(())
    }
}

/// How a user is named in records and questions.
pub(super) fn person(uid: u32) -> Text {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name).into(),
        _ => format!("uid {uid}").into(),
    }
}

/// The terminal, taken from the program while a person is asked.
struct Taken {
    tty: File,
    program: Pid,
    signals: SigSet,
}

impl Taken {
    fn from(tty: File, program: Pid) -> Option<Self> {
        // Whoever takes a terminal from the background is told to stop.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTOU);
        let signals = stop.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok()?;
        tcsetpgrp(&tty, getpgrp()).ok()?;
        Some(Self { tty, program, signals })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let _ = tcsetpgrp(&self.tty, self.program);
        let _ = self.signals.thread_set_mask();
        // Had it wanted to read meanwhile, it would have been stopped.
        let _ = kill_process_group(self.program, rustix::process::Signal::CONT);
    }
}

/// One line, typed in time and before anything else happens; its end without one is an empty line.
fn line(tty: &mut File, left: Duration, others: &[BorrowedFd<'_>]) -> Option<Vec<u8>> {
    let until = Instant::now() + left;
    let mut line = Vec::new();
    while line.len() < LINE && !line.ends_with(b"\n") {
        let left = until.checked_duration_since(Instant::now())?;
        let all = std::iter::once(tty.as_fd()).chain(others.iter().copied());
        let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout(left))) {
            Ok(0) => return None,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) if fds[1..].iter().any(|fd| !fd.revents().is_empty()) => return None,
            Ok(_) => {}
        }
        let mut byte = [0];
        if tty.read(&mut byte).ok()? == 0 {
            break;
        }
        line.push(byte[0]);
    }
    Some(line)
}

/// A duration as poll(2) takes it.
pub(super) fn timeout(left: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}
