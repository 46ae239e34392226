//! What a command line really starts, seen from its files alone: which Python, and with which script, or which other
//! program.
//!
//! The interpreter lane holds CPython 3.10 and later. Whatever else a command names is refused there, before
//! anything runs: a program without the gate in it must not look guarded. The kernel lane holds every program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::failure::Problem;

/// The first version whose audit hooks suffice.
const OLDEST: Version = (3, 10);
/// How deep `#!` lines may nest (the kernel: BINPRM_BUF_SIZE levels are 4 and more; one interpreter is enough).
const HEAD: u64 = 4096;

type Version = (u16, u16);

/// A command as it will be executed.
#[derive(Debug)]
pub(crate) struct Program {
    /// The file by the name it was found by, absolute: a virtual environment's own link to its interpreter, say.
    pub(crate) file: PathBuf,
    /// Whether that is a CPython which the gate can be loaded into.
    pub(crate) is_python: bool,
    /// The script file, where one is named.
    pub(crate) script: Option<PathBuf>,
    /// The arguments after the program.
    pub(crate) args: Vec<OsString>,
}

impl Program {
    /// Finds out what `command` starts, whatever it is.
    pub(crate) fn any(command: &[OsString]) -> Result<Self, Problem> {
        match Self::python(command) {
            Err(Problem::NotHeld { .. }) if !command.first().is_some_and(is_shim) => {}
            found => return found,
        }
        let Some((name, args)) = command.split_first() else {
            return Err(Problem::NoProgram { program: String::new() });
        };
        let program = name.display().to_string();
        let Some(file) = which(name) else { return Err(Problem::NoProgram { program }) };
        if let Some(missing) = missing_interpreter(&file) {
            let why = format!("its first line names `{}`, which is not there", missing.display());
            let help = "install that, or name another interpreter before it".into();
            return Err(Problem::NotHeld { program, why, help });
        }
        Ok(Self { file, is_python: false, script: None, args: args.to_vec() })
    }

    /// Finds out which Python `command` starts.
    ///
    /// A script is started through the interpreter of its `#!` line directly, so that no `env` or shell runs in
    /// between.
    pub(crate) fn python(command: &[OsString]) -> Result<Self, Problem> {
        let (name, args) =
            command.split_first().ok_or_else(|| Problem::NoProgram { program: String::new() })?;
        let file = which(name).ok_or_else(|| Problem::NoProgram { program: name.display().to_string() })?;
        let program = name.display().to_string();
        let head = head(&file).map_err(|error| Problem::io("read", &file, error))?;
        if head.starts_with(b"\x7fELF") {
            return Self::binary(file, &program, args);
        }
        let refuse =
            |why: &str, help: String| Problem::NotHeld { program: program.clone(), why: why.into(), help };
        let Some(shebang) = Shebang::parse(&head) else {
            return Err(refuse(
                "it is neither a Python interpreter nor a script that names one",
                NO_PYTHON.into(),
            ));
        };
        let not_python = || {
            if is_shim(file.as_os_str()) {
                let help = format!(
                    "it is a shim, a shell script that looks the real one up; run that: `failcore run -- \"$(pyenv which {})\" …`",
                    file.file_name().unwrap_or_default().display()
                );
                return refuse("it is a shell script", help);
            }
            refuse("its first line names no Python interpreter", NO_PYTHON.into())
        };
        let interpreter = which(&shebang.interpreter).ok_or_else(not_python)?;
        let mut whole = shebang.args;
        whole.push(file.as_os_str().to_owned());
        whole.extend_from_slice(args);
        Self::binary(interpreter, &program, &whole).map_err(|problem| match problem {
            Problem::NotHeld { why, .. } if why == NOT_PYTHON => not_python(),
            other => other,
        })
    }

    fn binary(interpreter: PathBuf, program: &str, args: &[OsString]) -> Result<Self, Problem> {
        let refuse =
            |why: String, help: &str| Problem::NotHeld { program: program.into(), why, help: help.into() };
        let python = Python::of(&interpreter).ok_or_else(|| refuse(NOT_PYTHON.into(), NO_PYTHON))?;
        if python.version < OLDEST {
            let (major, minor) = python.version;
            return Err(refuse(
                format!("it is Python {major}.{minor}"),
                "this lane needs CPython 3.10 or later, whose audit hooks see enough",
            ));
        }
        if python.is_static {
            return Err(refuse(
                "it is statically linked, so that the gate cannot be loaded into it".into(),
                "use an interpreter that is linked dynamically",
            ));
        }
        Ok(Self { file: interpreter, is_python: true, script: script(args), args: args.to_vec() })
    }
}

/// The interpreter that the first line of a script names, where it is not there.
fn missing_interpreter(script: &Path) -> Option<PathBuf> {
    let head = head(script).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let path = Path::new(OsStr::from_bytes(line.split(u8::is_ascii_whitespace).next()?));
    (path.is_absolute() && !path.exists()).then(|| path.to_owned())
}

/// Whether a program is one of the shell scripts by which version managers look the real one up.
fn is_shim(program: impl AsRef<OsStr>) -> bool {
    which(program.as_ref()).is_some_and(|file| file.components().any(|part| part.as_os_str() == "shims"))
}

const NOT_PYTHON: &str = "it is no CPython interpreter";
const NO_PYTHON: &str = "the runtime lane holds programs that CPython 3.10 or later runs; name the interpreter, as in `failcore run -- python agent.py`, or let the kernel lane hold it";

/// A CPython, told from its name and the files around it.
struct Python {
    version: Version,
    is_static: bool,
}

impl Python {
    fn of(executable: &Path) -> Option<Self> {
        let found = failcore_policy::Python::find(executable.as_os_str(), &[])?;
        let real = executable.canonicalize().ok()?;
        // The landmarks of an installation stand above other programs of its prefix too.
        if !real.file_name()?.as_bytes().starts_with(b"python") {
            return None;
        }
        let (major, minor) = found.version.split_once('.')?;
        Some(Self { version: (major.parse().ok()?, minor.parse().ok()?), is_static: is_static(&real)? })
    }
}

/// Whether an ELF file names no dynamic loader (elf(5): no `PT_INTERP`); nothing where it is no ELF file.
fn is_static(file: &Path) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let head = head(file).ok()?;
    let wide = match head.get(..5)? {
        b"\x7fELF\x02" => true,
        b"\x7fELF\x01" => false,
        _ => return None,
    };
    let number = |at: usize, len: usize| {
        let bytes = head.get(at..at + len)?;
        let little = head.get(5) == Some(&1);
        let fold = |n: usize, byte: &u8| n << 8 | usize::from(*byte);
        Some(if little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) })
    };
    let (table, size, count) = if wide {
        (number(32, 8)?, number(54, 2)?, number(56, 2)?)
    } else {
        (number(28, 4)?, number(42, 2)?, number(44, 2)?)
    };
    let names_loader = (0..count).any(|n| number(table + n * size, 4) == Some(PT_INTERP as usize));
    Some(!names_loader)
}

/// The script that a Python command line names (`python --help`): the first argument that is no option.
fn script(args: &[OsString]) -> Option<PathBuf> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.as_bytes();
        if !text.starts_with(b"-") {
            return Some(arg.into());
        }
        if text == b"-" {
            return None;
        }
        if text.starts_with(b"--") {
            if text == b"--check-hash-based-pycs" {
                args.next();
            }
            continue;
        }
        for (n, option) in text.iter().enumerate().skip(1) {
            match option {
                b'c' | b'm' => return None,
                b'W' | b'X' => {
                    if n + 1 == text.len() {
                        args.next();
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    None
}

/// What starts a script.
#[derive(Debug, PartialEq, Eq)]
struct Shebang {
    interpreter: OsString,
    args: Vec<OsString>,
}

impl Shebang {
    /// Reads a `#!` line as execve(2) does, looks through `env`, and through the shell line with which pip and its
    /// kin start interpreters whose path is too long for a `#!`.
    fn parse(head: &[u8]) -> Option<Self> {
        let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?.trim_ascii();
        let (path, arg) = match line.iter().position(u8::is_ascii_whitespace) {
            Some(end) => (&line[..end], line[end..].trim_ascii()),
            None => (line, &b""[..]),
        };
        let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        if path == b"/bin/sh" {
            let second = head.split(|b| *b == b'\n').nth(1)?.strip_prefix(b"'''exec' ")?;
            let interpreter = second.strip_suffix(br#" "$0" "$@""#)?;
            let bare = interpreter.strip_prefix(b"\"").and_then(|path| path.strip_suffix(b"\""));
            return Some(Self { interpreter: text(bare.unwrap_or(interpreter)), args: Vec::new() });
        }
        if Path::new(OsStr::from_bytes(path)).file_name() == Some(OsStr::new("env")) {
            let split = arg.strip_prefix(b"-S").map(<[u8]>::trim_ascii);
            let mut words: Vec<OsString> = match split {
                Some(line) => {
                    line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).map(text).collect()
                }
                None => vec![text(arg)],
            };
            if words.is_empty() {
                return None;
            }
            return Some(Self { interpreter: words.remove(0), args: words });
        }
        let args = if arg.is_empty() { Vec::new() } else { vec![text(arg)] };
        Some(Self { interpreter: text(path), args })
    }
}

fn head(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD as usize);
    File::open(file)?.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

/// The executable file that a shell would start for `name`, absolute and not resolved further.
pub(crate) fn which(name: &OsStr) -> Option<PathBuf> {
    let executable =
        |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    let file = if name.as_bytes().contains(&b'/') {
        PathBuf::from(name)
    } else {
        env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| executable(path))?
    };
    executable(&file).then(|| std::path::absolute(file).ok()).flatten()
}

/// The interpreter that `python3` or `python` starts, where it is one and no launcher.
pub(crate) fn first_on_path() -> Option<PathBuf> {
    ["python3", "python"].into_iter().find_map(|name| {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|dir| dir.join(name)).find(|file| Python::of(file).is_some())
    })
}

/// Every CPython on PATH that the lane holds, in words: version and path, one a version.
pub(crate) fn all_on_path() -> Vec<String> {
    let mut found = std::collections::BTreeMap::new();
    for dir in env::split_paths(&env::var_os("PATH").unwrap_or_default()) {
        let entries = dir.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        for file in entries.filter(|file| {
            file.file_name().and_then(OsStr::to_str).is_some_and(|name| {
                name.strip_prefix("python3")
                    .is_some_and(|rest| rest.bytes().all(|b| b == b'.' || b.is_ascii_digit()))
            })
        }) {
            match Python::of(&file) {
                Some(python)
                    if python.version >= OLDEST && !python.is_static && which(file.as_os_str()).is_some() =>
                {
                    found.entry(python.version).or_insert(file);
                }
                _ => {}
            }
        }
    }
    found.into_iter().map(|((major, minor), file)| format!("{major}.{minor}  {}", file.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn the_script_is_the_first_argument_that_is_no_option() {
        for (line, expected) in [
            ("agent.py --x", Some("agent.py")),
            ("-u -W error agent.py", Some("agent.py")),
            ("-Werror -Xdev -bb agent.py", Some("agent.py")),
            ("-X dev agent.py", Some("agent.py")),
            ("--check-hash-based-pycs always agent.py", Some("agent.py")),
            ("-c code agent.py", None),
            ("-Im module", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(script(&args(line)), expected.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn first_lines_are_read_as_the_kernel_and_env_do() {
        let parse = |text: &str| {
            Shebang::parse(text.as_bytes()).map(|found| {
                let args: Vec<_> = found.args.iter().map(|arg| arg.to_str().unwrap()).collect();
                format!("{} {}", found.interpreter.to_str().unwrap(), args.join("|"))
            })
        };
        assert_eq!(parse("#!/usr/bin/python3\nx").unwrap(), "/usr/bin/python3 ");
        assert_eq!(parse("#! /v/bin/python -I -u \n").unwrap(), "/v/bin/python -I -u");
        assert_eq!(parse("#!/usr/bin/env python3\n").unwrap(), "python3 ");
        assert_eq!(parse("#!/usr/bin/env -S python3 -I -u\n").unwrap(), "python3 -I|-u");
        assert_eq!(
            parse("#!/bin/sh\n'''exec' /v/bin/python \"$0\" \"$@\"\n' '''").unwrap(),
            "/v/bin/python "
        );
        assert_eq!(parse("#!/bin/sh\n'''exec' \"/a b/python\" \"$0\" \"$@\"\n").unwrap(), "/a b/python ");
        assert_eq!(parse("#!/bin/sh\necho hi\n"), None);
        assert_eq!(parse("import os\n"), None);
    }
}
