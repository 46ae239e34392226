//! The program's standard input, of a program that is recorded or run again: what it gives is known.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use failcore_record::{Given, Recorder};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, makedev, memfd_create, open};
use rustix::pipe::{PipeFlags, pipe_with};

/// Read at once of what is passed on; what a pipe holds (pipe(7)).
const PIECE: usize = 64 << 10;

/// What a recording makes of our standard input.
pub(super) enum Kind {
    /// Nothing comes of it that would have to be kept.
    Nothing,
    /// Somebody types; that is not recorded.
    Terminal,
    /// A file, which the program reads itself.
    File(File),
    /// Anything else, which is passed on.
    Stream(File),
}

impl Kind {
    pub(super) fn of_ours() -> Self {
        let stdin = io::stdin();
        let Ok(file) = stdin.as_fd().try_clone_to_owned().map(File::from) else { return Self::Nothing };
        let Ok(found) = file.metadata() else { return Self::Nothing };
        let kind = found.file_type();
        if rustix::termios::isatty(&file) {
            Self::Terminal
        } else if kind.is_char_device() && found.rdev() == makedev(1, 3) {
            Self::Nothing
        } else if kind.is_file() {
            Self::File(file)
        } else {
            Self::Stream(file)
        }
    }

    /// What becomes the program's standard input; `None` where that is ours, as it is.
    pub(super) fn record(self, recorder: &Arc<Recorder>) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::Nothing | Self::Terminal => Ok(None),
            Self::File(mut file) => {
                let at = file.stream_position()?;
                recorder.reads_file(file.as_fd(), at).map_err(io::Error::other)?;
                Ok(None)
            }
            Self::Stream(mut from) => {
                let recorder = Arc::clone(recorder);
                let (read, mut write) = pipe()?;
                thread(move || {
                    let mut piece = vec![0; PIECE];
                    loop {
                        match from.read(&mut piece) {
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                                let _ = poll(&mut [PollFd::new(&from, PollFlags::IN)], None);
                            }
                            Ok(len) if len > 0 => {
                                let piece = &piece[..len];
                                if recorder.takes(piece).is_err() {
                                    // What is not kept is not given, and that there is no more would not be true: the run
                                    // waits, and is being stopped.
                                    return std::mem::forget(write);
                                }
                                if write.write_all(piece).is_err() {
                                    break;
                                }
                            }
                            _ => break,
                        }
                    }
                })?;
                Ok(Some(read))
            }
        }
    }
}

/// A standard input that gives what was given before, and then ends.
pub(super) fn again(given: &Given) -> io::Result<OwnedFd> {
    let Some(at) = given.at else {
        let (read, mut write) = pipe()?;
        let bytes = Arc::clone(&given.bytes);
        thread(move || drop(write.write_all(&bytes)))?;
        return Ok(read);
    };
    let mut memory = File::from(memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    memory.write_all(&given.bytes)?;
    // Opened anew, to be read alone.
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
    let mut file = File::from(open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    file.seek(SeekFrom::Start(at))?;
    Ok(file.into())
}

fn pipe() -> io::Result<(OwnedFd, File)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((read, File::from(write)))
}

/// Nobody waits for it: who reads may end first, and what is passed on may never end.
fn thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name("failcore-stdin".into()).spawn(work).map(drop)
}
