//! Every audit event of CPython 3.10 to 3.13 on Linux, and what becomes of it.
//!
//! The list was read out of the interpreters themselves (each call of `PySys_Audit` in the shared library and its
//! extension modules, each `sys.audit` in the standard library), not out of the documentation, which leaves some
//! out. A test reads it out of the installed interpreters again and compares.

use crate::hook_entry;
use crate::hook_object::Args;
use crate::hook_raise::Refusal;
use crate::{decode_fs as fs, decode_native as native, decode_net as net, decode_process as process};

/// What judging an event ends in.
pub(crate) type Judged = Result<(), Box<Refusal>>;

macro_rules! events {
    (
        mapped { $($name:literal => $decode:path, $verb:literal;)* }
        noticed { $($seen:literal => $notice:path, $why:literal;)* }
        ignored { $($reason:literal: [$($quiet:literal),* $(,)?];)* }
    ) => {
        /// Judges one event.
        pub(crate) fn judge(name: &[u8], args: Option<Args<'_>>) -> Judged {
            // Ordered by nothing: the compiler turns it into a search by length and content.
            match name {
                $(name if name == $name.as_bytes() => match args {
                    Some(args) => $decode(args),
                    None => Err(unreadable($name)),
                },)*
                $(name if name == $seen.as_bytes() => match args {
                    Some(args) => $notice(args),
                    None => Err(unreadable($seen)),
                },)*
                $($(name if name == $quiet.as_bytes() => Ok(()),)*)*
                _ => unknown(name),
            }
        }

        /// Each event with its verb, or with the reason why nothing is asked.
        pub(crate) const TABLE: &[(&str, Treatment)] = &[
            $(($name, Treatment::Mapped($verb)),)*
            $(($seen, Treatment::Ignored($why)),)*
            $($(($quiet, Treatment::Ignored($reason)),)*)*
        ];
    };
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Treatment {
    /// It is judged as this verb.
    Mapped(&'static str),
    /// Nothing is asked, for this reason.
    Ignored(&'static str),
}

/// Families whose unknown members are refused unless a rule names them.
pub(crate) const FAMILIES: &[&str] = &[
    "os.",
    "socket.",
    "subprocess.",
    "shutil.",
    "ctypes.",
    "_ctypes.",
    "mmap.",
    "sqlite3.",
    "fcntl.",
    "resource.",
    "signal.",
    "syslog.",
    "tempfile.",
    "pty.",
    "_posixsubprocess.",
    "_posixshmem.",
    "multiprocessing.",
    "ssl.",
    "_ssl.",
    "readline.",
    "msvcrt.",
    "winreg.",
    "_winapi.",
    "imp.",
    "_imp.",
    "cpython.remote",
];

events! {
    mapped {
        "open" => fs::open, "fs.open";
        "os.listdir" => fs::list, "fs.read";
        "os.scandir" => fs::list, "fs.read";
        "os.mkdir" => fs::mkdir, "fs.create";
        "os.rmdir" => fs::delete, "fs.delete";
        "os.remove" => fs::delete, "fs.delete";
        "os.rename" => fs::rename, "fs.rename";
        "os.link" => fs::link, "fs.link";
        "os.symlink" => fs::symlink, "fs.symlink";
        "os.truncate" => fs::truncate, "fs.modify";
        "os.chmod" => fs::chmod, "fs.attr";
        "os.chown" => fs::chown, "fs.attr";
        "os.utime" => fs::utime, "fs.attr";
        "os.setxattr" => fs::attr, "fs.attr";
        "os.removexattr" => fs::attr, "fs.attr";
        "sqlite3.connect" => fs::sqlite, "fs.open";
        "sqlite3.connect/handle" => fs::sqlite_handle, "fs.open";
        "fcntl.fcntl" => process::fcntl, "process.signal";
        "fcntl.ioctl" => process::ioctl, "kernel.call";
        "os.exec" => process::exec, "process.exec";
        "os.posix_spawn" => process::exec, "process.exec";
        "os.system" => process::system, "process.exec";
        "os.kill" => process::kill, "process.signal";
        "os.killpg" => process::killpg, "process.signal";
        "resource.prlimit" => process::prlimit, "process.limit";
        "socket.__new__" => net::create, "net.socket";
        "socket.bind" => net::bind, "net.bind";
        "socket.connect" => net::connect, "net.connect";
        "socket.sendto" => net::send, "net.send";
        "socket.sendmsg" => net::sendmsg, "net.send";
        "socket.getaddrinfo" => net::resolve, "net.resolve";
        "socket.gethostbyname" => net::resolve, "net.resolve";
        "socket.gethostbyaddr" => net::by_address, "net.resolve";
        "socket.getnameinfo" => net::nameinfo, "net.resolve";
        "socket.sethostname" => net::sethostname, "unmapped";
        "syslog.openlog" => net::syslog, "ipc.connect";
        "syslog.syslog" => net::syslog, "ipc.connect";
        "import" => native::import, "native.load";
        "ctypes.dlopen" => native::dlopen, "native.load";
        "ctypes.dlsym" => native::ffi, "native.load";
        "ctypes.dlsym/handle" => native::ffi, "native.load";
        "ctypes.call_function" => native::ffi, "native.load";
        "ctypes.cdata" => native::ffi, "native.load";
        "ctypes.cdata/buffer" => native::ffi, "native.load";
        "ctypes.addressof" => native::ffi, "native.load";
        "ctypes.string_at" => native::ffi, "native.load";
        "ctypes.wstring_at" => native::ffi, "native.load";
        "ctypes.PyObj_FromPtr" => native::ffi, "native.load";
        "sqlite3.enable_load_extension" => native::ffi, "native.load";
        "sqlite3.load_extension" => native::ffi, "native.load";
    }
    noticed {
        "os.fork" => process::fork,
            "fork is counted by the kernel lanes, not judged; the child attaches anew";
        "os.forkpty" => process::fork,
            "fork is counted by the kernel lanes, not judged; the child attaches anew";
        "cpython._PySys_ClearAuditHooks" => hook_entry::about_to_be_cleared,
            "the interpreter's own life; what it reads raises `open`";
        "cpython.run_command" => native::main_program, "what it reads raises `open`";
        "cpython.run_file" => native::main_program, "what it reads raises `open`";
        "cpython.run_module" => native::main_program, "what it reads raises `open`";
        "cpython.run_stdin" => native::main_program, "what it reads raises `open`";
    }
    ignored {
        "judged where the program is started, in `_posixsubprocess.fork_exec`": ["subprocess.Popen"];
        "the descriptor was judged when it was opened": [
            "mmap.__new__", "fcntl.flock", "fcntl.lockf", "os.lockf",
        ];
        "metadata stays visible; Coverage says so": [
            "os.chdir", "os.getxattr", "os.listxattr", "os.getcwd",
        ];
        "reaches only the own process": [
            "signal.pthread_kill", "resource.setrlimit", "time.sleep", "syslog.closelog", "syslog.setlogmask",
            "_thread.start_new_thread", "_thread.start_joinable_thread", "ctypes.get_errno", "ctypes.set_errno",
            "ctypes.create_string_buffer", "ctypes.create_unicode_buffer", "array.__new__",
        ];
        "the environment of children is made where they are started": ["os.putenv", "os.unsetenv"];
        "reads a name of the machine or of a service, which is no secret": [
            "socket.gethostname", "socket.getservbyname", "socket.getservbyport",
        ];
        "made of operations that raise events of their own": [
            "os.walk", "os.fwalk", "glob.glob", "glob.glob/2", "pathlib.Path.glob", "pathlib.Path.rglob",
            "pathlib.Path.walk", "shutil.chown", "shutil.copyfile", "shutil.copymode", "shutil.copystat",
            "shutil.copytree", "shutil.make_archive", "shutil.move", "shutil.rmtree", "shutil.unpack_archive",
            "tempfile.mkdtemp", "tempfile.mkstemp", "pty.spawn", "webbrowser.open", "ensurepip.bootstrap",
            "ftplib.connect", "ftplib.sendcmd", "http.client.connect", "http.client.send", "imaplib.open",
            "imaplib.send", "nntplib.connect", "nntplib.putline", "poplib.connect", "poplib.putline",
            "smtplib.connect", "smtplib.send", "telnetlib.Telnet.open", "telnetlib.Telnet.write", "urllib.Request",
        ];
        "stays inside the interpreter": [
            "builtins.breakpoint", "builtins.id", "builtins.input", "builtins.input/result", "code.__new__",
            "compile", "exec", "function.__new__", "gc.get_objects", "gc.get_referents", "gc.get_referrers",
            "marshal.dumps", "marshal.load", "marshal.loads", "object.__delattr__", "object.__getattr__",
            "object.__setattr__", "pickle.find_class", "pdb.Pdb", "setopencodehook", "sys._current_exceptions",
            "sys._current_frames", "sys._getframe", "sys._getframemodulename", "sys.addaudithook",
            "sys.excepthook", "sys.monitoring.register_callback", "sys.set_asyncgen_hook_finalizer",
            "sys.set_asyncgen_hook_firstiter", "sys.set_asyncgen_hooks_finalizer",
            "sys.set_asyncgen_hooks_firstiter", "sys.setprofile", "sys.settrace", "sys.unraisablehook",
        ];
        "the interpreter's own life; what it reads raises `open`": [
            "cpython.PyInterpreterState_Clear", "cpython.PyInterpreterState_New",
            "cpython.run_interactivehook", "cpython.run_startup", ];
    }
}

/// An event that the table does not know.
fn unknown(name: &[u8]) -> Judged {
    if !FAMILIES.iter().any(|family| name.starts_with(family.as_bytes())) {
        return Ok(());
    }
    Ok(crate::monitor::check(failcore_model::Action::Unmapped(failcore_model::Text::from(name)), &[])?)
}

#[cold]
fn unreadable(name: &str) -> Box<Refusal> {
    crate::monitor::undecodable(name, "it has no arguments").into()
}
