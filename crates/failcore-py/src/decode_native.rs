//! Events on native code: what enters the interpreter, and the foreign function interface that calls any of it.

use std::borrow::Cow;

use failcore_gate::resolve::Follow;
use failcore_model::{Action, NativeObject};

use crate::decode_fs::{judge, resolve};
use crate::events::Judged;
use crate::hook_object::{Args, Object, Path};
use crate::hook_patch;
use crate::hook_raise::Refusal;
use crate::{attach, expected, hook_site, monitor};

/// Modules that call any C function or write any memory: loading one is using the foreign function interface.
const FOREIGN: &[&str] = &[
    "_ctypes",
    "_ctypes_test",
    "_cffi_backend",
    "_testcapi",
    "_testinternalcapi",
    "_testlimitedcapi",
    "_testclinic",
    "_testbuffer",
    "_xxtestfuzz",
];

/// `import` (module, filename, path, meta_path, path_hooks): raised when a module is looked for, and again with a
/// file name when a shared object is loaded.
pub(crate) fn import(args: Args<'_>) -> Judged {
    module(args).map_err(|refusal| Box::new(refusal.of_module(args.get(0))))
}

fn module(args: Args<'_>) -> Judged {
    attach::interpreter_is_up().map_err(|error| Refusal::import(monitor::broken(&error)))?;
    let Some(name) = args.get(0).and_then(Object::text) else {
        return Err(Refusal::import(monitor::undecodable("import", "a module's name must be a `str`")).into());
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    if args.get(1).is_none_or(Object::is_none) {
        if FOREIGN.contains(&last) && hook_patch::is_builtin(last) {
            foreign()?;
        }
        beside(args, name)?;
    } else {
        library(args, last)?;
    }
    if let Some(number) = hook_patch::concerns(last)
        && let Some(_loading) = expected::note_loading(number)
    {
        hook_patch::replace_module(last).map_err(|error| Refusal::import(monitor::broken(&error)))?;
    }
    Ok(())
}

/// A module that lies in a directory which may not be listed: the import machinery would take the refusal for an empty
/// directory, and say that there is no such module.
fn beside(args: Args<'_>, module: &str) -> Judged {
    let holds = |dir: &[u8]| {
        let dir = if dir.is_empty() { b"." } else { dir };
        [&b".py"[..], b"/__init__.py"].into_iter().any(|end| {
            let file = [dir, b"/", module.as_bytes(), end].concat();
            rustix::fs::stat(file.as_slice()).is_ok()
        })
    };
    if module.contains(['.', '/']) || hook_patch::is_builtin(module) {
        return Ok(());
    }
    let dirs = args.get(2).and_then(Object::items).unwrap_or_default();
    let mut dirs = dirs.into_iter().filter_map(|dir| Some((dir, dir.os_bytes()?)));
    let Some((about, dir)) = dirs.find(|(_, dir)| hook_site::is_programs_own(dir) && holds(dir)) else {
        return Ok(());
    };
    let dir = if dir.is_empty() { Cow::Borrowed(&b"."[..]) } else { dir };
    let listing = Action::Read(resolve(None, &dir, Follow::Final, Some(about))?);
    // Where another directory has it too, that one is found.
    if monitor::would_allow(listing.clone()) || dirs.any(|(_, dir)| holds(&dir)) {
        return Ok(());
    }
    monitor::check(listing, &[]).map_err(|denial| Refusal::import(denial).into())
}

/// `cpython.run_command`, `run_file`, `run_module`, `run_stdin`: the main program is about to run.
pub(crate) fn main_program(_: Args<'_>) -> Judged {
    Ok(attach::interpreter_is_up().map_err(|error| monitor::broken(&error))?)
}

fn library(args: Args<'_>, module: &str) -> Judged {
    let about = args.get(1);
    let Path::Bytes(file) = args.path(1) else {
        return Err(Refusal::import(monitor::undecodable("import", "the file must be a `str`")).into());
    };
    let name = file.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let stem = name.split(|b| *b == b'.').next().unwrap_or_default();
    if FOREIGN.iter().any(|foreign| foreign.as_bytes() == stem || *foreign == module) {
        foreign()?;
    }
    let file = resolve(None, &file, Follow::Final, about)?;
    monitor::check(Action::Load(NativeObject::Library(file)), &[])
        .map_err(|denial| Refusal::import(denial).into())
}

fn foreign() -> Judged {
    monitor::check(Action::Load(NativeObject::Ffi), &[]).map_err(|denial| Refusal::import(denial).into())
}

/// `ctypes.dlopen` (name). `None` is what `import ctypes` does: a library that can do without expects ImportError.
pub(crate) fn dlopen(args: Args<'_>) -> Judged {
    if args.get(0).is_none_or(Object::is_none) {
        return foreign();
    }
    ffi(args)?;
    let about = args.get(0);
    match args.path(0) {
        // A bare name is looked up by the dynamic loader, in places that no event tells.
        Path::Bytes(name) if !name.contains(&b'/') => Ok(()),
        Path::Bytes(name) => {
            let file = resolve(None, &name, Follow::Final, about)?;
            judge(Action::Load(NativeObject::Library(file)), about)
        }
        _ => Err(monitor::undecodable("ctypes.dlopen", "a path must be a `str` or `bytes`").into()),
    }
}

/// Any other use of the foreign function interface.
pub(crate) fn ffi(_: Args<'_>) -> Judged {
    Ok(monitor::check(Action::Load(NativeObject::Ffi), &[])?)
}
