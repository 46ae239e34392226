//! Starting images: judged on the file that will run, and verified once it runs.
//!
//! An exec cannot be performed for another task, so the kernel does it and reads path and arguments anew. What a racing
//! thread changes there meanwhile is caught: Landlock bounds what may run at all, and the image that really runs, and the
//! arguments it was given, are compared with the judged ones before its first mediated call is answered.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use failcore_gate::Grant;
use failcore_model::{Action, Event, FileId, Reason, Rights, Text};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};
use rustix::io::Errno;

use crate::call::{Answer, Call, Reply, through};
use crate::memory;
use crate::tasks::arguments_of;
use crate::walk::{self, Found, Object, Start, View};

/// Most arguments, and most bytes of them, that are judged; the kernel's own limit is a quarter of the stack's.
const MOST_ARGUMENTS: usize = 65_536;
const MOST_BYTES: usize = 6 << 20;
/// How many interpreters may stand behind one another (fs/exec.c).
const MOST_INTERPRETERS: usize = 5;

/// What an exec was granted for.
#[derive(Debug)]
pub(crate) struct Expected {
    /// The image that must run then: the program, or its interpreter.
    pub(crate) id: FileId,
    /// Its path, where it has one.
    pub(crate) path: Option<Text>,
    /// The thread that called.
    pub(crate) tid: u32,
    /// What ran before.
    pub(crate) before: Option<FileId>,
    /// The arguments of what ran before, where its image is the one that must run then.
    pub(crate) ran_before: Option<Vec<u8>>,
    /// How many words the kernel puts in place of a script's first argument.
    words: usize,
    /// The grant.
    pub(crate) grant: Grant,
}

impl Expected {
    /// Whether these arguments, as the kernel tells them, are those that were judged.
    pub(crate) fn was_given(&self, ran: &[u8]) -> bool {
        let Action::Exec { argv, .. } = self.grant.action() else { return false };
        match self.words {
            // Without any, a program gets an empty one since Linux 5.18.
            0 if argv.is_empty() => ran.is_empty() || ran == b"\0",
            0 => words(ran).eq(argv.iter().map(Text::as_bytes)),
            // The first one is nowhere to be seen.
            more => words(ran).skip(more).eq(argv.iter().skip(1).map(Text::as_bytes)),
        }
    }

    /// What was started with these arguments, as the kernel tells them.
    pub(crate) fn of(&self, ran: &[u8]) -> Action {
        let mut action = self.grant.action().clone();
        if let Action::Exec { argv, .. } = &mut action {
            argv.truncate(usize::from(self.words > 0));
            argv.extend(words(ran).skip(self.words).map(Text::from));
        }
        action
    }
}

fn words(ran: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ran = (!ran.is_empty()).then(|| ran.strip_suffix(b"\0").unwrap_or(ran));
    ran.into_iter().flat_map(|ran| ran.split(|byte| *byte == 0))
}

/// What /proc/PID/exe will be, its path where it has one, and how many words stand there for a script's first argument.
type Runs = (FileId, Option<Text>, usize);

/// The first line of a script.
struct Interpreter {
    path: Vec<u8>,
    has_argument: bool,
}

/// An image may be run and not read.
struct Unreadable;

/// `execve(path, argv, envp)`.
pub(crate) fn execve(call: &Call<'_>) -> Reply {
    let asked = call.path(0)?;
    let found = walk::object(call, &call.start(libc::AT_FDCWD, &asked)?, &asked, true)?;
    judged(call, &asked, found, call.arg(1))
}

/// `execveat(dir, path, argv, envp, flags)`.
pub(crate) fn execveat(call: &Call<'_>) -> Reply {
    let asked = call.path(1)?;
    let flags = call.int(4);
    let found = if asked.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
        let fd = call.descriptor(call.int(0))?;
        let path = match walk::real_path(fd.as_fd()) {
            Ok(path) => walk::own_proc(call, path),
            // Memory without a name: spoken of by its descriptor.
            Err(_) => failcore_model::AbsPath::new(format!("/proc/self/fd/{}", call.int(0)).as_bytes())
                .map_err(|_| Errno::ACCESS)?,
        };
        Found::Object(Object { stat: fstat(&fd)?, fd, path })
    } else {
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        walk::object(call, &call.start(call.int(0), &asked)?, &asked, follow)?
    };
    judged(call, &asked, found, call.arg(2))
}

fn judged(call: &Call<'_>, asked: &[u8], found: Found, argv: u64) -> Reply {
    let image = match found {
        Found::Object(image) => image,
        // Looking for a program along PATH starts nothing.
        Found::Vacant(_) => return Err(Errno::NOENT),
        Found::Nowhere { why, .. } => return Err(why),
    };
    if image.is(FileType::Symlink) {
        return Err(Errno::LOOP);
    }
    if !image.is(FileType::RegularFile) {
        return Err(Errno::ACCESS);
    }
    let argv = arguments(call.tid(), argv)?;
    let runs = what_runs(call, &image)?;
    let grant = call.judge(Action::Exec { image: call.object_ref(asked, &image), argv })?;
    let Some((id, path, words)) = runs else {
        // Such a process cannot be looked into (prctl(2), PR_SET_DUMPABLE), so it could not be supervised.
        let text = format!("{}, or its interpreter, may be run and not read: it is not started", image.path);
        let _ = call.shared.parent.gate.record(&Event::Notice { text });
        return call.concluded(grant, Err(Errno::ACCESS));
    };
    let before = call.process.image().id;
    let ran_before = (before == Some(id)).then(|| arguments_of(call.process.pid));
    call.process.expect(Expected { id, path, tid: call.tid(), before, ran_before, words, grant });
    Ok(Answer::Proceed)
}

/// The argument vector, copied.
fn arguments(tid: u32, argv: u64) -> Result<Vec<Text>, Errno> {
    let mut found = Vec::new();
    let mut bytes = 0;
    if argv == 0 {
        return Ok(found);
    }
    let mut pointers = memory::Words::at(tid, argv);
    loop {
        let pointer = pointers.next()?;
        if pointer == 0 {
            return Ok(found);
        }
        let argument = memory::text(tid, pointer, MOST_BYTES - bytes)?;
        bytes += argument.len() + 1;
        found.push(Text::from(argument));
        if found.len() > MOST_ARGUMENTS || bytes >= MOST_BYTES {
            return Err(Errno::TOOBIG);
        }
    }
}

/// The image that /proc/PID/exe will show, and its path: the file itself, or the interpreter its first line names, which its
/// grant implies unless the policy forbids that one. `None` where it may be run and not read.
fn what_runs(call: &Call<'_>, image: &Object) -> Result<Option<Runs>, Errno> {
    // Where somebody puts a script into a program that fast, something else runs than is expected, and is ended.
    let state = state(&image.stat);
    if call.shared.programs.has(&state) {
        return Ok(Some((image.id(), named(image), 0)));
    }
    let mut runs = (image.id(), named(image), 0);
    let mut next: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&image.fd, 0)?;
    for _ in 0..MOST_INTERPRETERS {
        let Ok(interpreter) = interpreter(&next) else { return Ok(None) };
        let Some(Interpreter { path: interpreter, has_argument }) = interpreter else { break };
        let start = if interpreter.starts_with(b"/") {
            Start::Root
        } else {
            Start::At(call.directory(libc::AT_FDCWD)?)
        };
        let Found::Object(object) = walk::object(call, &start, &interpreter, true)? else {
            return Err(Errno::NOENT);
        };
        let read = Action::Open { file: call.object_ref(&interpreter, &object), rights: Rights::READ };
        if let Some(Reason::Forbidden | Reason::Always) = call.foresee(&read) {
            let grant = call.judge(read)?;
            return call.concluded(grant, Err(Errno::ACCESS));
        }
        // The script's own path, and each interpreter with its argument.
        let words = runs.2.max(1) + 1 + usize::from(has_argument);
        runs = (object.id(), named(&object), words);
        next = object.fd;
    }
    if runs.0 == image.id() {
        call.shared.programs.note(&state);
    }
    Ok(Some(runs))
}

/// The path of an image as the kernel will tell it; of memory without a name it tells something else.
fn named(image: &Object) -> Option<Text> {
    Some(image.path.as_bytes()).filter(|path| !path.starts_with(b"/proc/")).map(Text::from)
}

/// What tells a file in the state it is in from every other.
fn state(stat: &Stat) -> Vec<u8> {
    format!(
        "{}:{}:{}:{}.{}:{}.{}",
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        stat.st_mtime,
        stat.st_mtime_nsec,
        stat.st_ctime,
        stat.st_ctime_nsec
    )
    .into_bytes()
}

/// What stands after `#!` (execve(2)); the kernel looks at the first 256 bytes.
///
/// # Errors
/// Where it may not be read.
fn interpreter(image: &OwnedFd) -> Result<Option<Interpreter>, Unreadable> {
    let mut head = [0; 256];
    let file = match open(through(image), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ACCESS) => return Err(Unreadable),
        Err(_) => return Ok(None),
    };
    let Ok(len) = File::from(file).read(&mut head) else { return Ok(None) };
    let Some(line) = head[..len].strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = line.iter().position(|byte| !blank(byte)).map_or(&[][..], |start| &line[start..]);
    let end = line.iter().position(|byte| blank(byte) || *byte == 0).unwrap_or(line.len());
    let (path, rest) = line.split_at(end);
    let has_argument = rest.first().is_some_and(blank) && !rest.iter().all(blank);
    Ok((!path.is_empty()).then(|| Interpreter { path: path.to_vec(), has_argument }))
}
