//! Asks the person at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use failcore_gate::Approver;
use failcore_model::{Answer, Request, Text};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, getpgrp, kill_process_group};
use rustix::termios::{QueueSelector, tcflush, tcgetpgrp, tcsetpgrp};

use crate::ui::{FAINT, STRONG, Styled, WARN, place};

/// How long a question waits for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest answer read.
const LINE: usize = 256;

/// The person at the controlling terminal; nobody where there is none.
///
/// # Security
/// The program shares the terminal: it can write there too. What it cannot do is answer: input typed before the
/// question is thrown away, and everything shown of its request has its control characters escaped.
pub(crate) struct Terminal {
    /// One question at a time.
    asking: Mutex<()>,
    person: Text,
    /// The process group of the program, where that is another than ours; 0 before it is known.
    program: AtomicI32,
}

impl Terminal {
    /// Answers will be recorded as given by the user of this process.
    pub(crate) fn new() -> Self {
        let named = std::env::var_os("USER").or_else(|| std::env::var_os("LOGNAME")).unwrap_or_default();
        let person = match named.to_str() {
            Some(name) if !name.is_empty() => format!("{name} (uid {})", rustix::process::getuid().as_raw()),
            _ => format!("uid {}", rustix::process::getuid().as_raw()),
        };
        Self { asking: Mutex::new(()), person: person.into(), program: AtomicI32::new(0) }
    }

    /// The program runs in a process group of its own, to which the terminal may belong while it runs.
    pub(crate) fn shared_with(&self, group: Pid) {
        self.program.store(group.as_raw_nonzero().get(), Ordering::SeqCst);
    }
}

impl Approver for Terminal {
    fn ask(&self, request: &Request, question: &str) -> (Answer, Text) {
        let _turn = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        match ask(request, question, Pid::from_raw(self.program.load(Ordering::SeqCst))) {
            Some(answer) => (answer, self.person.clone()),
            None => (Answer::Denied, Text::default()),
        }
    }
}

/// Asks and waits; nothing where there is nobody, or nobody answers in time.
fn ask(request: &Request, question: &str, program: Option<Pid>) -> Option<Answer> {
    let mut tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    let foreground = tcgetpgrp(&tty).ok()?;
    let _taken = match foreground == getpgrp() {
        true => None,
        false if Some(foreground) == program => Some(Taken::from(tty.try_clone().ok()?, foreground)?),
        // In the background, reading would stop this process and with it the whole run.
        false => return None,
    };
    let subject = &request.subject;
    let agent = subject.agent.as_ref().map(|agent| format!("{agent}, ")).unwrap_or_default();
    let tool = subject.claimed.tool().map(|tool| format!(", tool {tool}")).unwrap_or_default();
    let site = subject.claimed.site.as_ref().map(|site| format!(", at {}", place(site))).unwrap_or_default();
    let mut out = anstream::AutoStream::auto(tty.try_clone().ok()?);
    write!(
        out,
        "\n{} the program asks for leave ({agent}process {}{tool}{site})\n  {}\n{} ",
        Styled(FAINT, "failcore:"),
        subject.pid,
        Styled(STRONG, Text::from(question)),
        Styled(WARN, format_args!("Allow it? y or n, {} s:", PATIENCE.as_secs())),
    )
    .ok()?;
    tcflush(&tty, QueueSelector::IFlush).ok()?;
    let answer = line(&mut tty).map(|line| match line.trim_ascii() {
        b"y" | b"Y" | b"yes" => Answer::Approved,
        _ => Answer::Denied,
    });
    let said = match answer {
        Some(Answer::Approved) => "allowed",
        Some(Answer::Denied) => "refused",
        None => "\nno answer: refused",
    };
    drop(writeln!(out, "{} {said}", Styled(FAINT, "failcore:")));
    answer
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

/// One line, typed within [`PATIENCE`].
fn line(tty: &mut File) -> Option<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut line = Vec::new();
    while line.len() < LINE && !line.ends_with(b"\n") {
        let left = until.checked_duration_since(Instant::now())?;
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).ok()?, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(tty, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return None,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        let mut byte = [0];
        if tty.read(&mut byte).ok()? == 0 {
            return None;
        }
        line.push(byte[0]);
    }
    Some(line)
}
