//! The functions that have stand-ins, and why each one needs it.

use crate::events::Judged;
use crate::hook_call::Call;
use crate::hook_patch::{Due, Target};
use crate::{
    patched_fs as fs, patched_net as net, patched_process as process, patched_thread as thread, supervised,
};

macro_rules! targets {
    (
        $($module:literal {
            $($(#[$class:literal])? $name:literal => $judge:path $(, until $until:expr)? $(, around $around:path)?;)*
        })*
        under_supervision { $($heard:literal: [$($function:literal),* $(,)?];)* }
        where_looks_are_told { $($looked:literal: [$($look:literal),* $(,)?];)* }
    ) => {
        /// Every stand-in. Functions that a version or build lacks are left out when they are replaced.
        pub(crate) const TARGETS: &[Target] = &[
            $($(Target {
                module: $module,
                class: targets!(@class $($class)?),
                name: $name,
                due: Due::Until(targets!(@until $($until)?)),
                judge: $judge,
                around: targets!(@around $($around)?),
            },)*)*
            $($(Target {
                module: $heard,
                class: None,
                name: $function,
                due: Due::Supervised,
                judge: heard,
                around: None,
            },)*)*
            $($(Target {
                module: $looked,
                class: None,
                name: $look,
                due: Due::LooksTold,
                judge: looked,
                around: None,
            },)*)*
        ];
    };
    (@class) => { None };
    (@around) => { None };
    (@around $around:path) => { Some($around) };
    (@class $class:literal) => { Some($class) };
    (@until) => { u32::MAX };
    (@until $until:expr) => { $until };
}

/// A call that only looks is judged by nobody: a supervisor that wants to know where it was made is told.
fn looked(_: &mut Call) -> Judged {
    supervised::tell_place();
    Ok(())
}

/// The event has judged the call; the stand-in is there for what the supervisor says after it.
fn heard(_: &mut Call) -> Judged {
    Ok(())
}

targets! {
    // `posix` is `os`'s other half: `os.open` is the same function object.
    c"posix" {
        c"open" => fs::open, around fs::around_open; // the event leaves out dir_fd
        c"mkfifo" => fs::make;                  // these raise no event
        c"mknod" => fs::make;
        c"listdir" => fs::one_path, until fs::LAST_WITH_BUFFERS; // a buffer could change before its event
        c"scandir" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"mkdir" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"rmdir" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"remove" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"unlink" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"truncate" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"chmod" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"chown" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"lchown" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"utime" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"setxattr" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"removexattr" => fs::one_path, until fs::LAST_WITH_BUFFERS;
        c"rename" => fs::two_paths, until fs::LAST_WITH_BUFFERS;
        c"replace" => fs::two_paths, until fs::LAST_WITH_BUFFERS;
        c"link" => fs::two_paths, until fs::LAST_WITH_BUFFERS;
        c"symlink" => fs::two_paths, until fs::LAST_WITH_BUFFERS;
        c"chroot" => process::chroot;
        c"unshare" => process::unshare;
        c"setns" => process::setns;
        c"setpriority" => process::setpriority;
        c"sched_setscheduler" => process::scheduling;
        c"sched_setparam" => process::scheduling;
        c"sched_setaffinity" => process::scheduling;
        c"execv" => process::execv;             // children of a run must load the gate
        c"execve" => process::execve;
        c"posix_spawn" => process::spawn;
        c"posix_spawnp" => process::spawnp;
    }
    c"_io" {
        c"open" => fs::io_open, around fs::around_open; // the open itself proves what was judged
        c"open_code" => fs::open_code, around fs::around_open;
    }
    c"_posixsubprocess" { c"fork_exec" => process::fork_exec; }  // subprocess and multiprocessing start programs here
    c"_thread" {
        c"start_new_thread" => thread::start;   // the scope travels
        c"start_new" => thread::start;
        c"start_joinable_thread" => thread::start;
    }
    c"_posixshmem" {
        c"shm_open" => fs::shm_open;
        c"shm_unlink" => fs::shm_unlink;
    }
    c"_signal" { c"pidfd_send_signal" => process::pidfd_send_signal; }
    c"_socket" {
        c"getaddrinfo" => net::getaddrinfo;     // names are judged, and their answers pinned
        c"gethostbyname" => net::gethostbyname;
        c"gethostbyname_ex" => net::gethostbyname;
        c"gethostbyaddr" => net::gethostbyaddr;
        c"getnameinfo" => net::getnameinfo;
        #[c"socket"] c"connect" => net::connect; // CPython resolves names before the event
        #[c"socket"] c"connect_ex" => net::connect_ex;
        #[c"socket"] c"bind" => net::bind;
        #[c"socket"] c"listen" => net::listen;
        #[c"socket"] c"sendto" => net::sendto;
        #[c"socket"] c"sendmsg" => net::sendmsg;
    }
    c"_sqlite3" {
        c"connect" => fs::sqlite_connect;
        #[c"Connection"] c"set_authorizer" => fs::set_authorizer; // there is one, and it is ours first
    }
    c"_ssl" {
        #[c"_SSLContext"] c"load_cert_chain" => fs::load_cert_chain; // OpenSSL opens files itself
        #[c"_SSLContext"] c"load_verify_locations" => fs::load_verify_locations;
        #[c"_SSLContext"] c"load_dh_params" => fs::read_first;
    }
    c"readline" {
        c"read_init_file" => fs::read_first;    // the library opens files itself
        c"read_history_file" => fs::read_history;
        c"write_history_file" => fs::write_history;
        c"append_history_file" => fs::append_history;
    }
    c"_gdbm" { c"open" => fs::database; }
    c"_dbm" { c"open" => fs::database; }
    c"spwd" {
        c"getspnam" => fs::shadow;
        c"getspall" => fs::shadow;
    }

    // Under a supervisor every one of them is replaced, and these too: its refusals become `failcore.Denied` where a
    // function comes back with an errno.
    under_supervision {
        c"_io": [c"open", c"open_code"];
        c"posix": [c"lchmod", c"fchmod", c"fchown", c"kill", c"killpg"];
        c"resource": [c"prlimit"];
    }

    // Where a recorded run is run again: what the record does not have is named with its place in the program.
    where_looks_are_told {
        c"posix": [
            c"stat", c"lstat", c"access", c"readlink", c"chdir", c"statvfs", c"pathconf", c"getxattr", c"listxattr"
        ];
    }
}
