//! Names for processes and threads that are the same when a program is run again: by descent, and in the order they were
//! born in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::tasks::{Process, proc_file};

/// The names given so far.
#[derive(Default)]
pub(crate) struct Voices(Mutex<HashMap<u32, Voice>>);

struct Voice {
    /// Not held: nothing of a process that has ended stays but its name.
    process: Weak<Process>,
    name: String,
    children: Numbers,
    threads: Numbers,
}

/// Numbers for ids, in the order of the ids as far as several are new at once.
#[derive(Default)]
struct Numbers(BTreeMap<u32, usize>);

impl Numbers {
    /// The number of `id`, which is one of `there`.
    fn of(&mut self, id: u32, there: impl FnOnce() -> BTreeSet<u32>) -> usize {
        if let Some(number) = self.0.get(&id) {
            return *number;
        }
        let mut there = there();
        there.insert(id);
        for id in there {
            let next = self.0.len();
            self.0.entry(id).or_insert(next);
        }
        self.0.get(&id).copied().unwrap_or_default()
    }
}

impl Voices {
    /// The name of a thread: that of its process, as `0.1.0` for the first child of the second child of the program, and
    /// its number there.
    pub(crate) fn of(&self, process: &Arc<Process>, tid: u32) -> String {
        let mut voices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = process.pid;
        if voices.get(&pid).is_none_or(|voice| Weak::as_ptr(&voice.process) != Arc::as_ptr(process)) {
            let name = match voices.get_mut(&process.parent) {
                Some(parent) => {
                    let number = parent.children.of(pid, || children(process.parent));
                    format!("{}.{number}", parent.name)
                }
                // The program itself, and whoever was adopted.
                None => "0".into(),
            };
            let process = Arc::downgrade(process);
            voices.insert(
                pid,
                Voice { process, name, children: Numbers::default(), threads: Numbers::default() },
            );
        }
        match voices.get_mut(&pid) {
            Some(voice) => format!("{}/{}", voice.name, voice.threads.of(tid, || threads(pid))),
            None => String::new(),
        }
    }
}

fn threads(pid: u32) -> BTreeSet<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

fn children(pid: u32) -> BTreeSet<u32> {
    let lists =
        threads(pid).into_iter().filter_map(|tid| proc_file(format!("/proc/{pid}/task/{tid}/children")).ok());
    lists
        .flat_map(|list| {
            let ids = list
                .split(u8::is_ascii_whitespace)
                .filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok());
            ids.collect::<Vec<u32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_older_comes_first_whoever_is_heard_first() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.of(30, || BTreeSet::from([10, 20, 30])), 2);
        assert_eq!(numbers.of(10, || panic!("it has a number")), 0);
        assert_eq!(numbers.of(40, || BTreeSet::from([20, 40])), 3);
        assert_eq!(numbers.of(50, BTreeSet::new), 4);
    }
}
