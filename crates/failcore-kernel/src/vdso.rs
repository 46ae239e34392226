//! Has a program ask the kernel what it would ask the vDSO: there, clocks and random numbers come from memory, and nobody
//! sees it (vdso(7), getrandom(2)).
//!
//! The functions are a page or two of code that the kernel maps into every image. A process's own copy of it may be
//! written as by a debugger (proc_pid_mem(5)); each function becomes the system call of its name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, SyncSender};

use crate::tasks::proc_file;

/// Longest image of it that is read; it is two pages today.
const MOST: usize = 64 << 10;
/// Where an image has its address (getauxval(3)).
const AT_SYSINFO_EHDR: u64 = 33;

/// A thread that rewrites processes. Whoever acts for the program may not: it has no more rights than the program.
pub(crate) struct Rewriter {
    ask: Mutex<SyncSender<(u32, SyncSender<io::Result<()>>)>>,
}

impl Rewriter {
    /// Starts it; it has the rights of the calling thread, and ends with this.
    ///
    /// # Errors
    /// The kernel's, where no thread can be started.
    pub(crate) fn start() -> io::Result<Self> {
        type Asked = (u32, SyncSender<io::Result<()>>);
        let (ask, asked): (SyncSender<Asked>, Receiver<Asked>) = mpsc::sync_channel(0);
        std::thread::Builder::new().name("failcore-vdso".into()).spawn(move || {
            for (pid, answer) in asked {
                let _ = answer.send(rewrite(pid));
            }
        })?;
        Ok(Self { ask: Mutex::new(ask) })
    }

    /// Rewrites the vDSO of a process that stands still.
    ///
    /// # Errors
    /// The kernel's; clocks may then be read unseen.
    pub(crate) fn rewrite(&self, pid: u32) -> io::Result<()> {
        let (answer, answered) = mpsc::sync_channel(1);
        let gone = || io::Error::other("the thread that rewrites is gone");
        let ask = self.ask.lock().map_err(|_| gone())?.clone();
        ask.send((pid, answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

fn rewrite(pid: u32) -> io::Result<()> {
    let auxv =
        proc_file(format!("/proc/{pid}/auxv")).map_err(|errno| io::Error::other(format!("{errno:?}")))?;
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or_default();
    let base =
        auxv.chunks_exact(16).find(|pair| word(&pair[..8]) == AT_SYSINFO_EHDR).map(|pair| word(&pair[8..]));
    // Without one every clock is a system call.
    let Some(base) = base.filter(|base| *base != 0) else { return Ok(()) };
    let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let image = image(&memory, base)?;
    for (at, stub) in stubs(&image) {
        // The image is what the process says it is.
        let at = base.checked_add(at).ok_or(io::ErrorKind::InvalidData)?;
        memory.write_all_at(&stub, at)?;
    }
    Ok(())
}

/// What is mapped from `base` on, up to the first page that is not.
fn image(memory: &File, base: u64) -> io::Result<Vec<u8>> {
    const PAGE: usize = 4096;
    let mut image = Vec::new();
    let mut page = [0; PAGE];
    while image.len() < MOST {
        match memory.read_exact_at(&mut page, base.saturating_add(image.len() as u64)) {
            Ok(()) => image.extend_from_slice(&page),
            Err(error) if image.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(image)
}

/// What is written where in the image, for each function that tells what nobody sees.
fn stubs(image: &[u8]) -> Vec<(u64, Vec<u8>)> {
    use elf::ElfBytes;
    use elf::endian::NativeEndian;

    let Ok(elf) = ElfBytes::<NativeEndian>::minimal_parse(image) else { return Vec::new() };
    let Ok(Some((symbols, names))) = elf.dynamic_symbol_table() else { return Vec::new() };
    symbols
        .iter()
        .filter_map(|symbol| {
            let stub = stub(names.get(symbol.st_name as usize).ok()?)?;
            // Each is longer than that; one that is not is left alone rather than what follows it destroyed.
            (symbol.st_size >= stub.len() as u64).then_some((symbol.st_value, stub))
        })
        .collect()
}

/// The code that a function becomes.
#[cfg(target_arch = "x86_64")]
fn stub(name: &str) -> Option<Vec<u8>> {
    let call = |nr: i64| {
        // mov eax, nr; syscall; ret
        let nr = u32::try_from(nr).unwrap_or_default().to_le_bytes();
        [&[0xb8][..], &nr, &[0x0f, 0x05, 0xc3]].concat()
    };
    Some(match name {
        "__vdso_clock_gettime" => call(libc::SYS_clock_gettime),
        "__vdso_gettimeofday" => call(libc::SYS_gettimeofday),
        "__vdso_time" => call(libc::SYS_time),
        // It has an argument more than the call of its name: where it says that it is not there, that is made.
        // mov rax, -ENOSYS; ret
        "__vdso_getrandom" => vec![0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3],
        _ => return None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn stub(_: &str) -> Option<Vec<u8>> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::io::{Read, Write};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn every_function_of_this_machine_that_tells_something_is_found() {
        let auxv = std::fs::read("/proc/self/auxv").unwrap();
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
        let base = auxv.chunks_exact(16).find(|pair| word(&pair[..8]) == AT_SYSINFO_EHDR).unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let found = stubs(&image(&memory, word(&base[8..])).unwrap());
        assert!(
            found.len() >= 3,
            "clock_gettime, gettimeofday and time, and getrandom where it is: {found:?}"
        );
        let mut cat = std::process::Command::new("cat");
        let mut child = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Who answers has begun.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        rewrite(child.id()).unwrap();
        let auxv = std::fs::read(format!("/proc/{}/auxv", child.id())).unwrap();
        let base = auxv.chunks_exact(16).find(|pair| word(&pair[..8]) == AT_SYSINFO_EHDR).unwrap();
        let memory = File::open(format!("/proc/{}/mem", child.id())).unwrap();
        let image = image(&memory, word(&base[8..])).unwrap();
        for (at, stub) in found {
            assert_eq!(image[at as usize..][..stub.len()], stub[..]);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
