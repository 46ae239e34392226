//! What the gate's side sees, as it is kept.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use failcore_gate::{Appearance, Naming, Outside, SinkError, Witness};
use failcore_model::heard::{Asked, Payload, Said};
use failcore_model::input::{Input, Moment, Told};
use failcore_model::{Claims, Event, RuleId, Text};
use rustix::fs::{AtFlags, CWD, FileType, Mode, fstat, open, readlink, statat};

use super::{First, MOST, MOST_CONTAINED, READ, Recorder, names, unkept};
use crate::program;
use crate::store;
use crate::walk::{End, absolute, components, is_live, parent};

impl Witness for Recorder {
    fn looks(&self, from: &[u8], asked: &[u8], follow: bool) -> Result<(), SinkError> {
        let path = absolute(from, asked);
        if !path.starts_with(b"/") {
            return Ok(());
        }
        let mut seen = self.lock();
        let mut key = path.clone();
        key.push(u8::from(follow));
        if !seen.asked.contains(&key) {
            self.walk(&mut seen, &path, follow)?;
            seen.asked.insert(key);
        }
        Ok(())
    }

    fn named(&self, from: &[u8], to: &[u8], how: Naming) -> Result<(), SinkError> {
        let mut seen = self.lock();
        let mut place = |path: &[u8]| -> Result<Option<Vec<u8>>, SinkError> {
            let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
            let Some(name) = components(path).next_back() else { return Ok(None) };
            let End::At(dir, _) = self.walk(&mut seen, parent(&path[..end]), true)? else { return Ok(None) };
            Ok(Some(if dir == b"/" { [&dir, name].concat() } else { [&dir[..], b"/", name].concat() }))
        };
        let (Some(from), Some(to)) = (place(from)?, place(to)?) else { return Ok(()) };
        let is_directory = || {
            statat(CWD, to.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        // A file that is only moved is known by its number.
        if how == Naming::Exchanged || is_directory() {
            seen.move_it(from.clone(), to.clone(), how == Naming::Exchanged);
            // What was asked before may be something else by now.
            seen.asked.clear();
        }
        drop(seen);
        // What the program leaves where it put it is what it would read there.
        if how == Naming::Exchanged {
            self.leaves(&from)?;
        }
        self.leaves(&to)
    }

    fn cuts(&self, from: &[u8], asked: &[u8]) -> Result<(), SinkError> {
        let end = self.walk(&mut self.lock(), &absolute(from, asked), true)?;
        if let End::At(path, _) = end { self.leaves(&path) } else { Ok(()) }
    }

    fn opens(&self, opened: BorrowedFd<'_>) -> Result<(), SinkError> {
        let own = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let path = readlink(&own, Vec::new()).map_err(unkept)?.into_bytes();
        if !path.starts_with(b"/") || is_live(&path) {
            return Ok(());
        }
        let stat = fstat(opened).map_err(unkept)?;
        let mut seen = self.lock();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let Some(path) = seen.origin(&path) else { return Ok(()) };
                let Some(First::Directory { listed }) = seen.first.get_mut(&path) else { return Ok(()) };
                if std::mem::replace(listed, true) {
                    return Ok(());
                }
                drop(seen);
                let names = names(&own).map_err(unkept)?;
                self.write(&path, Input::Names { names })
            }
            FileType::RegularFile => {
                let Some((path, before)) = Self::is_to_be_read(&mut seen, &path, &stat) else {
                    return Ok(());
                };
                drop(seen);
                // The open itself emptied it: what it held was not learnt.
                if stat.st_size == 0 && before.size != 0 {
                    return Ok(());
                }
                // What may be written and not read is not read by the program either.
                let Ok(file) = open(&own, READ, Mode::empty()) else { return Ok(()) };
                self.keep(&path, &mut file.into()).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn clock(&self, thread: &str, clock: i32, now: Moment) -> Result<Moment, SinkError> {
        self.told(thread, Told::Clock { clock, at: now })?;
        Ok(now)
    }

    fn random(&self, thread: &str, bytes: Vec<u8>) -> Result<Vec<u8>, SinkError> {
        self.told(thread, Told::Random { bytes: Text::from(&bytes[..]) })?;
        Ok(bytes)
    }

    fn recalls(&self, _: &Asked, _: &Claims) -> Result<Option<(Said, Vec<u8>)>, SinkError> {
        Ok(None)
    }

    fn hears(&self, asked: Asked, said: Said, payload: Option<Vec<u8>>) -> Result<(), SinkError> {
        let payload = match payload {
            None => None,
            Some(bytes) => {
                let (sha256, size) = (store::sha256(&bytes), bytes.len() as u64);
                let kept = !self.keeping.secrets.finds(&bytes);
                if kept {
                    self.pack(&sha256, bytes)?;
                }
                Some(Payload { sha256, size, kept })
            }
        };
        self.sink.append(&Event::Heard { asked, said, payload })
    }

    fn parts(&self, _: &Asked, _: &Claims, _: &str) {}

    fn appears(&self, _: &mut Appearance) -> bool {
        false
    }

    fn outside(&self, _: &[RuleId]) -> Option<Arc<dyn Outside>> {
        None
    }

    fn plays(&self) -> bool {
        false
    }

    fn most(&self) -> u64 {
        let most = if self.keeping.self_contained { MOST_CONTAINED } else { MOST };
        self.keeping.payloads.max_file.unwrap_or(most).min(MOST_CONTAINED)
    }

    fn runs(&self, from: &[u8], asked: &[u8]) -> Result<(), SinkError> {
        let mut next = Some(absolute(from, asked));
        // The interpreter of an interpreter, and the loader of that (fs/exec.c).
        for _ in 0..8 {
            let Some(path) = next.take() else { break };
            let mut seen = self.lock();
            let End::At(path, stat) = self.walk(&mut seen, &path, true)? else { break };
            let Some((path, _)) = Self::is_to_be_read(&mut seen, &path, &stat) else { break };
            drop(seen);
            // What may be run and not read has to be on the machine.
            let Ok(file) = open(path.as_slice(), READ, Mode::empty()) else { break };
            next = program::helper(&self.keep(&path, &mut file.into())?);
        }
        Ok(())
    }
}
