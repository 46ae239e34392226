//! Which code asks: a digest of the nearest return address outside of the C library, by the file it lies in and its place
//! there, which are the same whenever a program is run.
//!
//! Threads that wait for each other ask the clock as often as they wait. Without this, what one part of a program is told
//! would depend on how often another had to wait.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::memory;
use crate::tasks::proc_file;

/// How far up the stack it is looked, in words: the functions of the C library that ask are small.
const WORDS: usize = 24;

/// Processes whose code is remembered; it is looked up anew where there are more.
const MOST_PROCESSES: usize = 256;

/// The code that each process has mapped, as it was when an address was looked up last.
#[derive(Default)]
pub(crate) struct Callers(Mutex<HashMap<u32, Vec<Code>>>);

/// A range of addresses with code from a file.
#[derive(Debug, Clone, PartialEq)]
struct Code {
    start: u64,
    end: u64,
    offset: u64,
    file: Vec<u8>,
}

impl Callers {
    /// The code that makes a thread's call; nothing where that cannot be told.
    pub(crate) fn of(&self, pid: u32, tid: u32) -> Option<String> {
        let mut stack = [0; WORDS * 8];
        let read = memory::read(tid, stack_pointer(tid)?, &mut stack).ok()?;
        let words =
            stack[..read].chunks_exact(8).filter_map(|word| word.try_into().map(u64::from_ne_bytes).ok());
        let words: Vec<u64> = words.collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > MOST_PROCESSES {
            known.clear();
        }
        let code = known.entry(pid).or_default();
        // What called is code in any case: where it is not known, something was mapped since.
        if !words.first().is_some_and(|first| code.iter().any(|code| code.has(*first))) {
            *code = mapped(&proc_file(format!("/proc/{pid}/maps")).ok()?);
        }
        let place = |word: &u64| Some((*word, code.iter().find(|code| code.has(*word))?));
        let mut places = words.iter().filter_map(place);
        let first = places.next()?;
        let (word, code) = places.find(|(_, code)| code.file != first.1.file).unwrap_or(first);
        let at = (word - code.start + code.offset).to_le_bytes();
        let digest = Sha256::new().chain_update(&code.file).chain_update(at).finalize();
        let [a, b, c, d, ..] = digest[..] else { return None };
        Some(format!("{:08x}", u32::from_be_bytes([a, b, c, d])))
    }
}

impl Code {
    fn has(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// Where the stack of a thread is that waits in a call (proc_pid_syscall(5)).
fn stack_pointer(tid: u32) -> Option<u64> {
    let line = proc_file(format!("/proc/{tid}/syscall")).ok()?;
    let word = std::str::from_utf8(&line).ok()?.split_whitespace().nth(7)?;
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// The code in a list of mappings (proc_pid_maps(5)).
fn mapped(maps: &[u8]) -> Vec<Code> {
    let line = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let mut word = || std::str::from_utf8(words.next()?).ok();
        let (range, rights, offset) = (word()?, word()?, word()?);
        let (start, end) = range.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let file = words.nth(2).filter(|file| file.starts_with(b"/"))?;
        rights.contains('x').then_some(())?;
        Some(Code { start: number(start)?, end: number(end)?, offset: number(offset)?, file: file.to_vec() })
    };
    maps.split(|byte| *byte == b'\n').filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_can_be_run_and_comes_from_a_file() {
        let maps =
            b"55d0-55d8 r--p 00000000 08:01 7 /usr/bin/x\n55d8-55e0 r-xp 00008000 08:01 7 /usr/bin/x\n\
            7ff0-7ff8 rw-p 00000000 00:00 0 [stack]\n7ff8-7ffa r-xp 00000000 00:00 0 [vdso]\n";
        let found = mapped(maps);
        assert_eq!(
            found,
            [Code { start: 0x55d8, end: 0x55e0, offset: 0x8000, file: b"/usr/bin/x".to_vec() }]
        );
        assert!(found[0].has(0x55d8) && !found[0].has(0x55e0));
        assert!(!mapped(&std::fs::read("/proc/self/maps").unwrap()).is_empty());
    }
}
