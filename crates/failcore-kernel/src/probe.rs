//! What this kernel lets us hold, found by trying: each probe asks for the real thing and takes it back at once.
//!
//! Version numbers and build options say what could be there; containers, security modules and sysctls say what
//! is. Nothing here restricts the calling process.

#![allow(unsafe_code, reason = "raw system calls; each block says why it is sound")]

use std::io;
use std::mem::size_of;
use std::ptr;

/// The highest Landlock ABI that this kernel speaks (landlock_create_ruleset(2)).
///
/// # Errors
/// `ENOSYS` where the kernel was built without it, `EOPNOTSUPP` where it is switched off at boot.
pub fn landlock_abi() -> io::Result<u32> {
    const VERSION: libc::c_ulong = 1; // LANDLOCK_CREATE_RULESET_VERSION
    // SAFETY: with this flag the kernel takes no pointer (it demands null and size 0) and makes no descriptor.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0usize, VERSION) };
    u32::try_from(abi).map_err(|_| io::Error::last_os_error())
}

/// Whether seccomp can hand system calls to a supervisor that puts descriptors into the caller (seccomp(2),
/// `SECCOMP_GET_ACTION_AVAIL`; seccomp_unotify(2), `SECCOMP_ADDFD_FLAG_SEND`, which cannot be asked for without a
/// supervised process, hence by the kernel's version).
///
/// # Errors
/// `EOPNOTSUPP` where the action is not known or the kernel is older than 5.14, `ENOSYS` or `EINVAL` without seccomp
/// filters.
pub fn seccomp_notify() -> io::Result<()> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if is_older(&release, (5, 14)) {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads four bytes at a pointer to a live u32.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a call that a supervisor has taken is left alone by signals that do not end its process (seccomp(2),
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19).
pub fn seccomp_waits_killable() -> bool {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: without a filter nothing is installed: the kernel says EFAULT where it knows the flags, EINVAL where not.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            ptr::null::<libc::sock_fprog>(),
        )
    };
    done == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Whether this user may make a user namespace (user_namespaces(7)), tried in a child.
///
/// # Errors
/// What unshare(2) said: `EPERM` by a sysctl or a security module, `ENOSPC` by a limit, `EINVAL` where not built.
pub fn user_namespaces() -> io::Result<()> {
    // SAFETY: the child calls only unshare and _exit, both async-signal-safe, so that locks held by other
    // threads at the fork do not matter.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // SAFETY: as above; `__errno_location` points to this thread's own errno.
        unsafe {
            let failed = libc::unshare(libc::CLONE_NEWUSER) != 0;
            libc::_exit(if failed { *libc::__errno_location() & 0xff } else { 0 });
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live c_int; the child is ours and waited for only here.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Whether a program for `connect` of one cgroup may be loaded (`BPF_PROG_TYPE_CGROUP_SOCK_ADDR`).
///
/// # Errors
/// `EPERM` without privilege or where forbidden.
pub fn cgroup_bpf() -> io::Result<()> {
    const CGROUP_SOCK_ADDR: u32 = 18;
    const CGROUP_INET4_CONNECT: u32 = 10;
    load(CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT, 0)
}

/// Whether an LSM program may be loaded (`BPF_PROG_TYPE_LSM` on `bpf_lsm_file_open`).
///
/// # Errors
/// `EPERM` without privilege or where forbidden; `ENOENT` without the kernel's type information.
pub fn lsm_bpf() -> io::Result<()> {
    const LSM: u32 = 29;
    const LSM_MAC: u32 = 27;
    let btf = std::fs::read("/sys/kernel/btf/vmlinux")?;
    let hook = btf_function(&btf, b"bpf_lsm_file_open").ok_or(io::ErrorKind::NotFound)?;
    load(LSM, LSM_MAC, hook)
}

/// The head of `union bpf_attr` for `BPF_PROG_LOAD` (linux/bpf.h), as far as the probes need it.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// Loads `r0 = 0; exit` and lets go of it.
fn load(prog_type: u32, expected_attach_type: u32, attach_btf_id: u32) -> io::Result<()> {
    const PROG_LOAD: libc::c_int = 5;
    const PROGRAM: [u64; 2] = [0x0000_0000_0000_00b7_u64.to_le(), 0x0000_0000_0000_0095_u64.to_le()];
    let attr = ProgLoad {
        prog_type,
        insn_cnt: 2,
        insns: PROGRAM.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach_type,
        attach_btf_id,
        ..ProgLoad::default()
    };
    // SAFETY: `attr` is as long as said, and the program and licence it points to are static.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attr, size_of::<ProgLoad>()) };
    let Ok(fd) = libc::c_int::try_from(fd) else { return Err(io::Error::from(io::ErrorKind::Other)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    unsafe { libc::close(fd) };
    Ok(())
}

/// The number of the function called `name` in BTF type information (docs.kernel.org/bpf/btf.html).
fn btf_function(btf: &[u8], name: &[u8]) -> Option<u32> {
    const FUNC: u32 = 12;
    let word = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at + 4)?.try_into().ok()?));
    if btf.get(..2)? != 0xeb9f_u16.to_ne_bytes() {
        return None;
    }
    let header = word(4)? as usize;
    let (types, types_len) = (header + word(8)? as usize, word(12)? as usize);
    let strings = header + word(16)? as usize;
    let (mut at, mut id) = (types, 1);
    while at < types + types_len {
        let (name_at, info) = (word(at)? as usize, word(at + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        if kind == FUNC {
            let text = btf.get(strings + name_at..)?;
            if text.starts_with(name) && text.get(name.len()) == Some(&0) {
                return Some(id);
            }
        }
        at += 12
            + match kind {
                1 | 14 | 17 => 4,                // INT, VAR, DECL_TAG
                3 => 12,                         // ARRAY
                4 | 5 | 15 | 19 => 12 * members, // STRUCT, UNION, DATASEC, ENUM64
                6 | 13 => 8 * members,           // ENUM, FUNC_PROTO
                2 | 7..=12 | 16 | 18 => 0,       // PTR … FUNC, FLOAT, TYPE_TAG
                _ => return None,
            };
        id += 1;
    }
    None
}

/// Whether a kernel's release is older than a version; one that says nothing readable is not.
fn is_older(release: &str, than: (u32, u32)) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, older) in [
            ("5.10.0-8-amd64", true),
            ("5.14.0", false),
            ("6.1.0", false),
            ("4.18.0-553.el8", true),
            ("odd", false),
        ] {
            assert_eq!(is_older(release, (5, 14)), older, "{release}");
        }
    }

    #[test]
    fn cut_type_information_is_no_function() {
        let Ok(btf) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        assert!(btf_function(&btf, b"bpf_lsm_file_open").is_some());
        assert_eq!(btf_function(&btf, b"no_such_function_anywhere"), None);
        for cut in [0, 1, 8, 24, 100, btf.len() / 100] {
            assert_eq!(btf_function(&btf[..cut], b"bpf_lsm_file_open"), None, "{cut}");
        }
    }
}
