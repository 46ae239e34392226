//! One entry of `[process] exec`, read: which image, asked for by which name, with which arguments.

use std::io::Read;
use std::path::Path;

use failcore_model::{AbsPath, Rights, Text};

use crate::environment::{Reals, absolute};
use crate::error::Wrong;
use crate::pattern::{Glob, Part, Pattern, escape};
use crate::rule::{Args, Object};

/// Interpreters of interpreters that are followed (the kernel's own limit, `fs/exec.c`).
const MAX_DEPTH: usize = 4;
/// How much of an image is read to find its interpreter.
const HEAD: usize = 4096;

/// Splits a command into words. Quotes keep blanks; there is nothing else a shell would do.
pub(crate) fn words(text: &str) -> Result<Vec<String>, Wrong> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ' | '\t', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Wrong::new(format!("`{text}` opens a quote and never closes it")));
    }
    words.extend(word);
    Ok(words)
}

/// What the words after the program come to.
pub(crate) fn args(words: &[String]) -> Args {
    let texts = |words: &[String]| words.iter().map(Text::from).collect();
    match words {
        [] => Args::Any,
        [start @ .., star] if star == "*" => {
            if start.is_empty() {
                Args::Any
            } else {
                Args::Starting(texts(start))
            }
        }
        _ => Args::Exactly(texts(words)),
    }
}

/// The objects of a rule about the program at `path`: starting it, and reading what starting it reads.
pub(crate) fn program(path: &AbsPath, args: &Args, reals: &Reals) -> Vec<Object> {
    let image = reals.real(path).unwrap_or_else(|| path.clone());
    let name = path.file_name().unwrap_or_default();
    let start = Object::Exec {
        image: Pattern::of(&image),
        name: literal(name),
        named: image.file_name() != Some(name),
        args: args.clone(),
    };
    let mut reads = vec![image];
    interpreters(&mut reads, 0, reals);
    let read = |path: &AbsPath| Object::File { path: Pattern::of(path), rights: Rights::READ };
    std::iter::once(start).chain(reads.iter().map(read)).collect()
}

/// The objects of a rule about every program that `pattern` matches.
pub(crate) fn programs(pattern: &Pattern, args: &Args) -> Vec<Object> {
    let name = match pattern.parts().last() {
        Some(Part::Literal(name)) => literal(name),
        Some(Part::Glob(glob)) => glob.clone(),
        _ => literal(b""),
    };
    let start = Object::Exec { image: pattern.clone(), name, named: false, args: args.clone() };
    vec![start, Object::File { path: pattern.clone(), rights: Rights::READ }]
}

fn literal(name: &[u8]) -> Glob {
    Glob::literally(&escape(name))
}

/// Adds the ELF interpreter or the `#!` interpreter of the last image, and theirs (elf(5), execve(2)).
fn interpreters(images: &mut Vec<AbsPath>, depth: usize, reals: &Reals) {
    let Some(image) = images.last() else { return };
    let found = reals.interpreter(image, || {
        let named = absolute(&interpreter(image.as_path())?)?;
        Some(reals.real(&named).unwrap_or(named))
    });
    let Some(found) = found else { return };
    if depth < MAX_DEPTH && !images.contains(&found) {
        images.push(found);
        interpreters(images, depth + 1, reals);
    }
}

fn interpreter(image: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    std::fs::File::open(image).ok()?.take(HEAD as u64).read_to_end(&mut head).ok()?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next()?.trim_ascii_start();
        return line.split(|b| matches!(b, b' ' | b'\t' | b'\r')).next().map(<[u8]>::to_vec);
    }
    // PT_INTERP of a 64-bit little-endian ELF; its string lies in the first page of every common linker's output.
    const PT_INTERP: u64 = 3;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, width: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(width)?)?;
        Some(bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).find_map(|n| {
        let entry = usize::try_from(table.checked_add(n * size)?).ok()?;
        if number(entry, 4)? != PT_INTERP {
            return None;
        }
        let start = usize::try_from(number(entry + 8, 8)?).ok()?;
        let length = usize::try_from(number(entry + 32, 8)?).ok()?;
        let path = head.get(start..start.checked_add(length)?)?;
        path.strip_suffix(b"\0").map(<[u8]>::to_vec)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_quotes() {
        assert_eq!(
            words("git commit -m 'two words' \"\"").unwrap(),
            ["git", "commit", "-m", "two words", ""]
        );
        assert_eq!(words("  a\tb ").unwrap(), ["a", "b"]);
        assert!(words("a 'b").is_err());
    }

    #[test]
    fn what_the_arguments_come_to() {
        let read = |text: &str| args(&words(text).unwrap()[1..]);
        assert_eq!(read("git"), Args::Any);
        assert_eq!(read("git *"), Args::Any);
        assert_eq!(read("git status"), Args::Exactly(vec!["status".into()]));
        assert_eq!(read("git log *"), Args::Starting(vec!["log".into()]));
    }

    #[test]
    fn a_grant_reads_image_and_interpreters() {
        let dir = tempfile::tempdir().unwrap();
        let real_dir = dir.path().canonicalize().unwrap();
        let script = real_dir.join("tool");
        std::fs::write(&script, "#! /bin/sh -e\n").unwrap();
        let link = real_dir.join("alias");
        std::os::unix::fs::symlink("tool", &link).unwrap();
        let path = |p: &Path| absolute(p.as_os_str().as_encoded_bytes()).unwrap();
        let objects = program(&path(&link), &Args::Any, &Reals::default());
        let Object::Exec { image, name, named, .. } = &objects[0] else { panic!("{objects:?}") };
        assert_eq!(image.literal(), Some(path(&script)));
        assert_eq!((name.to_string().as_str(), *named), ("alias", true));
        let shell = path(&Path::new("/bin/sh").canonicalize().unwrap());
        let reads: Vec<_> = objects[1..]
            .iter()
            .map(|object| match object {
                Object::File { path, rights: Rights::READ } => path.literal().unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(reads[..2], [path(&script), shell]);
        assert!(reads.len() == 3 && reads[2].to_string().contains("ld-"), "{reads:?}");
    }
}
