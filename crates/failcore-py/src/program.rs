//! What an executable file tells of itself before it runs.

use std::fs::File;
use std::os::unix::fs::FileExt;

use failcore_model::AbsPath;

/// Whether it is a Python that the dynamic loader has no part in: no `PT_INTERP` segment (elf(5)).
pub(crate) fn is_static_python(path: &AbsPath) -> bool {
    let named = path.file_name().is_some_and(|name| {
        [&b"python"[..], b"pypy", b"graalpy"].iter().any(|prefix| name.starts_with(prefix))
    });
    named && interpreter_segment(path) == Some(false)
}

/// Where in an env(1) command the variables of the program can be added last, so that no option takes them away;
/// `None` where the command is no env.
///
/// # Errors
/// Where an option hides the program (`-S`).
pub(crate) fn env_place(path: &AbsPath, argv: &[Vec<u8>]) -> Result<Option<usize>, &'static str> {
    if path.file_name() != Some(b"env") {
        return Ok(None);
    }
    let mut at = 1;
    while let Some(word) = argv.get(at).filter(|word| word.starts_with(b"-")) {
        at += 1;
        match &word[..] {
            b"--" => break,
            b"--unset" | b"--chdir" => at += 1,
            word if word.starts_with(b"--split") || word.starts_with(b"--s") => return Err(HIDDEN),
            word if word.starts_with(b"--") => {}
            // A cluster of letters: `u` and `C` take the rest of it, or the next word.
            word => match word[1..].iter().position(|letter| matches!(letter, b'u' | b'C' | b'S')) {
                Some(letter) if word[1 + letter] == b'S' => return Err(HIDDEN),
                Some(letter) if letter + 2 == word.len() => at += 1,
                _ => {}
            },
        }
    }
    while argv.get(at).is_some_and(|word| word.contains(&b'=')) {
        at += 1;
    }
    Ok(Some(at.min(argv.len())))
}

const HIDDEN: &str = "`env -S` hides the program it starts";

/// Whether an ELF file of 64 bits has a `PT_INTERP` segment; `None` where it is no such file.
fn interpreter_segment(path: &AbsPath) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let file = File::open(path.as_path()).ok()?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let start = u64::from_le_bytes(header[32..40].try_into().ok()?);
    let (size, count) = (u64::from(half(54)), u64::from(half(56)));
    for i in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, start.checked_add(i.checked_mul(size)?)?).ok()?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}
