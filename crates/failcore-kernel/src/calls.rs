//! Every system call and what becomes of it: the filter's table, each row with its reason.
//!
//! What stands in no row is refused with `ENOSYS`: a call that nobody has thought about is not let through.

#![allow(non_upper_case_globals, reason = "the calls bear the names that the kernel gave them")]

use std::sync::LazyLock;

use libc::*;

use crate::filter::{Test, Test::*};
use crate::groups::{JOIN_ANY, JOIN_V4, JOIN_V6};

/// One system call's rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Its number on this architecture.
    pub(crate) nr: i64,
    /// Its name, as in the manual.
    pub(crate) name: &'static str,
    /// What becomes of it.
    pub(crate) rule: Rule,
    /// Why.
    #[allow(dead_code, reason = "for readers, and checked by a test to be there")]
    pub(crate) why: &'static str,
}

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    /// It runs.
    Allow,
    /// The supervisor is asked, and acts.
    Ask,
    /// Refused with this errno and not recorded: programs try it all the time and have another way. 0 is a success
    /// that does nothing.
    Refuse(i32),
    /// The supervisor records the attempt and refuses it with this errno, whatever the policy says.
    Forbid(i32),
    /// Depends on registers: the rule of the first test that holds, else the last.
    When(&'static [(Test, Rule)], &'static Rule),
}

use Rule::{Allow, Ask, Forbid, Refuse, When};

/// The row of a call.
pub(crate) fn row(nr: i64) -> Option<&'static Row> {
    // Asked at every notice.
    static BY_NUMBER: LazyLock<Vec<Option<&'static Row>>> = LazyLock::new(|| {
        let mut rows = Vec::new();
        for row in tables() {
            let nr = usize::try_from(row.nr).expect("system calls have numbers from 0");
            rows.resize(rows.len().max(nr + 1), None);
            rows[nr] = Some(row);
        }
        rows
    });
    BY_NUMBER.get(usize::try_from(nr).ok()?).copied().flatten()
}

/// Every row.
pub(crate) fn tables() -> impl Iterator<Item = &'static Row> {
    EVERYWHERE.iter().chain(LEGACY)
}

macro_rules! rows {
    ($($why:literal, $rule:expr => $($call:ident)*;)*) => {
        &[$($(Row { nr: $call, name: stringify!($call).split_at(4).1, rule: $rule, why: $why },)*)*]
    };
}

/// Every flag that makes a new namespace (linux/sched.h).
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const NEW_TIME: u64 = 0x80;
const FASTOPEN: u64 = MSG_FASTOPEN as u64;
const PATH_ONLY: u64 = O_PATH as u64;

/// Where the options of firewalls begin: they and what comes after ask for privilege. A user has that over the sockets of
/// a network that he made himself, as a resolver may get one (`island`).
const NETFILTER: u64 = 64;
/// Where the options of multicast routing begin (linux/mroute6.h).
const ROUTING: u64 = 200;
/// Where the options by which SCTP binds, connects and parts begin (linux/sctp.h).
const SCTP_PEERS: u64 = 100;
/// Requests about sockets and interfaces that only look (linux/sockios.h). All others change something, and ask for
/// privilege or name a receiver of signals.
const NETWORK: &[u64] = &[
    0x8903,      // FIOGETOWN
    0x8904,      // SIOCGPGRP
    0x8905,      // SIOCATMARK
    0x8906,      // SIOCGSTAMP
    0x8907,      // SIOCGSTAMPNS
    0x8010_8906, // the same since Linux 5.1
    0x8010_8907,
    0x8910, // SIOCGIFNAME
    0x8912, // SIOCGIFCONF
    0x8913, // SIOCGIFFLAGS
    0x8915, // SIOCGIFADDR
    0x8917, // SIOCGIFDSTADDR
    0x8919, // SIOCGIFBRDADDR
    0x891b, // SIOCGIFNETMASK
    0x891d, // SIOCGIFMETRIC
    0x8921, // SIOCGIFMTU
    0x8927, // SIOCGIFHWADDR
    0x8933, // SIOCGIFINDEX
    0x8935, // SIOCGIFPFLAGS
    0x8938, // SIOCGIFCOUNT
    0x8942, // SIOCGIFTXQLEN
    0x8946, // SIOCETHTOOL
    0x8947, // SIOCGMIIPHY
    0x894b, // SIOCOUTQNSD
    0x8970, // SIOCGIFMAP
];

/// Calls that every architecture has.
#[rustfmt::skip]
const EVERYWHERE: &[Row] = rows! {
    "works on descriptors that were judged when they were made", Allow =>
        SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2
        SYS_pwritev2 SYS_close SYS_close_range SYS_lseek SYS_fstat SYS_fsync SYS_fdatasync SYS_ftruncate
        SYS_fallocate SYS_fadvise64 SYS_readahead SYS_sync_file_range SYS_flock SYS_getdents64 SYS_dup SYS_dup3
        SYS_pipe2 SYS_sendfile SYS_splice SYS_tee SYS_vmsplice SYS_copy_file_range SYS_eventfd2 SYS_timerfd_create
        SYS_timerfd_settime SYS_timerfd_gettime SYS_signalfd4 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait
        SYS_epoll_pwait2 SYS_ppoll SYS_pselect6 SYS_inotify_init1 SYS_inotify_rm_watch SYS_syncfs SYS_sync
        SYS_io_setup SYS_io_destroy SYS_io_getevents SYS_io_submit SYS_io_cancel SYS_io_pgetevents SYS_cachestat
        SYS_fstatfs;
    "metadata is not mediated, and changing the working directory shows no more of it", Allow =>
        SYS_newfstatat SYS_statx SYS_statfs SYS_faccessat SYS_faccessat2 SYS_readlinkat SYS_getcwd SYS_chdir
        SYS_fchdir SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
        SYS_name_to_handle_at SYS_umask;
    "the process's own memory", Allow =>
        SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_msync SYS_mincore SYS_madvise SYS_brk SYS_mlock SYS_mlock2
        SYS_munlock SYS_mlockall SYS_munlockall SYS_remap_file_pages SYS_pkey_mprotect SYS_pkey_alloc SYS_pkey_free
        SYS_mbind SYS_set_mempolicy SYS_get_mempolicy SYS_set_mempolicy_home_node SYS_membarrier SYS_mseal;
    "the process itself: its identity within what it has, its end, its time", Allow =>
        SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_getpid SYS_getppid SYS_gettid SYS_getuid SYS_geteuid
        SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_getpgid SYS_getsid SYS_setpgid
        SYS_setsid SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid
        SYS_setfsgid SYS_setgroups SYS_capget SYS_capset SYS_getrlimit SYS_setrlimit SYS_getrusage SYS_times
        SYS_uname SYS_sysinfo SYS_getcpu SYS_personality SYS_set_tid_address SYS_set_robust_list
        SYS_get_robust_list SYS_rseq SYS_restart_syscall SYS_sched_yield SYS_getpriority SYS_sched_getparam
        SYS_sched_getscheduler SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_rr_get_interval
        SYS_sched_getaffinity SYS_sched_getattr SYS_ioprio_get SYS_getrandom SYS_gettimeofday SYS_clock_gettime
        SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_getitimer SYS_setitimer SYS_timer_create
        SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_adjtimex SYS_clock_adjtime
        SYS_settimeofday SYS_clock_settime SYS_futex SYS_futex_waitv SYS_futex_wake SYS_futex_wait
        SYS_futex_requeue SYS_pidfd_open;
    "its own signals' treatment", Allow =>
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigtimedwait
        SYS_rt_sigsuspend SYS_sigaltstack;
    "narrows only: a filter or a domain added on top", Allow =>
        SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self;
    "sockets whose peer was judged when they were bound or connected", Allow =>
        SYS_accept SYS_accept4 SYS_getsockname SYS_getpeername SYS_shutdown
        SYS_recvfrom SYS_recvmsg SYS_recvmmsg;
    "numbers in tables of the whole machine, of which a run sees its own", Ask =>
        SYS_shmget SYS_shmat SYS_shmctl SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget SYS_msgsnd SYS_msgrcv
        SYS_msgctl;
    "works on memory and descriptors that are the process's own", Allow =>
        SYS_shmdt SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_getsetattr SYS_mq_notify;
    "a name in the queue file system, which no policy can speak of", Forbid(EACCES) => SYS_mq_open SYS_mq_unlink;

    "a descriptor for the path alone reads nothing; whatever is done through it is judged then",
        When(&[(Bits(2, PATH_ONLY), Allow)], &Ask) => SYS_openat;
    "its flags lie in memory", Ask => SYS_openat2;
    "names and contents of files", Ask =>
        SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_renameat SYS_renameat2 SYS_linkat SYS_symlinkat SYS_truncate
        SYS_inotify_add_watch;
    "attributes of files, by name or by descriptor", Ask =>
        SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_utimensat SYS_setxattr SYS_lsetxattr
        SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr;
    "anonymous memory that could be run as a program", Ask => SYS_memfd_create;
    "starts an image", Ask => SYS_execve SYS_execveat;

    "plain stream and datagram sockets reach nobody until they connect or send; other kinds are judged, among them \
     MPTCP, whose peer names further addresses that the kernel then connects to by itself",
        When(&[
            (Is(0, AF_UNIX as u64), Allow),
            (Stream(IPPROTO_TCP as u64), Allow),
            (Datagram(IPPROTO_UDP as u64), Allow),
        ], &Ask) => SYS_socket;
    "as socket; its two ends reach nobody but each other, but making one loads the family's code",
        When(&[(Is(0, AF_UNIX as u64), Allow)], &Ask) => SYS_socketpair;
    "whom a socket reaches", Ask => SYS_connect SYS_bind SYS_listen SYS_sendmsg SYS_sendmmsg;
    "an address in the call names a receiver; without one the connection was judged",
        When(&[(Bits(3, FASTOPEN), Ask), (Is(4, 0), Allow)], &Ask) => SYS_sendto;
    "routing options, marks, headers of one's own and a chosen interface would carry a packet to someone else than the \
     address judged, loopback's included, and so would the options that go with a flow label; options of firewalls and \
     IPsec, and extension headers, ask for privilege; a group that is joined is judged, since the network is told; SCTP \
     binds and connects by options as well; filters and the rest are harmless",
        When(&[
            (Both(1, IPPROTO_IP as u64, 2, JOIN_V4[0] as u64), Ask),
            (Both(1, IPPROTO_IP as u64, 2, JOIN_V4[1] as u64), Ask),
            (Both(1, IPPROTO_IP as u64, 2, JOIN_ANY[0] as u64), Ask),
            (Both(1, IPPROTO_IP as u64, 2, JOIN_ANY[1] as u64), Ask),
            (Both(1, IPPROTO_IPV6 as u64, 2, JOIN_V6 as u64), Ask),
            (Both(1, IPPROTO_IPV6 as u64, 2, JOIN_ANY[0] as u64), Ask),
            (Both(1, IPPROTO_IPV6 as u64, 2, JOIN_ANY[1] as u64), Ask),
            (Both(1, IPPROTO_IPV6 as u64, 2, 27), Forbid(EPERM)), // IPV6_JOIN_ANYCAST
            (Both(1, IPPROTO_IPV6 as u64, 2, 32), Forbid(EPERM)), // IPV6_FLOWLABEL_MGR
            (Both(1, IPPROTO_IP as u64, 2, IP_TRANSPARENT as u64), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, IPV6_TRANSPARENT as u64), Forbid(EPERM)),
            (From(1, IPPROTO_SCTP as u64, 2, SCTP_PEERS), Forbid(EPERM)),
            (Both(1, SOL_SOCKET as u64, 2, SO_BINDTODEVICE as u64), Forbid(EPERM)),
            (Both(1, SOL_SOCKET as u64, 2, 62), Forbid(EPERM)), // SO_BINDTOIFINDEX
            (Both(1, IPPROTO_IP as u64, 2, 50), Forbid(EPERM)), // IP_UNICAST_IF
            (Both(1, IPPROTO_IPV6 as u64, 2, 76), Forbid(EPERM)), // IPV6_UNICAST_IF
            (Both(1, IPPROTO_IPV6 as u64, 2, IPV6_PKTINFO as u64), Forbid(EPERM)),
            (Both(1, SOL_SOCKET as u64, 2, SO_MARK as u64), Forbid(EPERM)),
            (Both(1, IPPROTO_IP as u64, 2, IP_HDRINCL as u64), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, 36), Forbid(EPERM)), // IPV6_HDRINCL
            (Both(1, IPPROTO_IP as u64, 2, 16), Forbid(EPERM)), // IP_IPSEC_POLICY
            (Both(1, IPPROTO_IP as u64, 2, 17), Forbid(EPERM)), // IP_XFRM_POLICY
            (From(1, IPPROTO_IP as u64, 2, NETFILTER), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, 34), Forbid(EPERM)), // IPV6_IPSEC_POLICY
            (Both(1, IPPROTO_IPV6 as u64, 2, 35), Forbid(EPERM)), // IPV6_XFRM_POLICY
            (Both(1, IPPROTO_IPV6 as u64, 2, 54), Forbid(EPERM)), // IPV6_HOPOPTS
            (Both(1, IPPROTO_IPV6 as u64, 2, 55), Forbid(EPERM)), // IPV6_RTHDRDSTOPTS
            (Both(1, IPPROTO_IPV6 as u64, 2, 59), Forbid(EPERM)), // IPV6_DSTOPTS
            (Both(1, IPPROTO_IPV6 as u64, 2, NETFILTER), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, NETFILTER + 1), Forbid(EPERM)),
            (From(1, IPPROTO_IPV6 as u64, 2, ROUTING), Forbid(EPERM)),
            (Both(1, IPPROTO_IP as u64, 2, IP_OPTIONS as u64), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, IPV6_RTHDR as u64), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, 5), Forbid(EPERM)), // IPV6_2292RTHDR
            (Both(1, IPPROTO_IPV6 as u64, 2, 6), Forbid(EPERM)), // IPV6_2292PKTOPTIONS
        ], &Allow) => SYS_setsockopt;

    "the firewall's tables and SCTP, as above; where a connection was redirected from is no table",
        When(&[
            (Both(1, IPPROTO_IP as u64, 2, 80), Allow), // SO_ORIGINAL_DST
            (From(1, IPPROTO_IP as u64, 2, NETFILTER), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, NETFILTER), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, NETFILTER + 1), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, NETFILTER + 4), Forbid(EPERM)),
            (Both(1, IPPROTO_IPV6 as u64, 2, NETFILTER + 5), Forbid(EPERM)),
            (From(1, IPPROTO_SCTP as u64, 2, SCTP_PEERS), Forbid(EPERM)), // SCTP_SOCKOPT_CONNECTX3 connects
        ], &Allow) => SYS_getsockopt;

    "threads of one process run free; a new process is counted; a new namespace would change what names mean, and a \
     child of somebody else's could leave the scope it was born in",
        When(&[
            (Bits(0, NEW_NAMESPACES), Forbid(EPERM)),
            (Bits(0, CLONE_THREAD as u64), Allow),
            (Bits(0, CLONE_PARENT as u64), Forbid(EPERM)),
        ], &Ask) => SYS_clone;
    "its flags lie in memory; the C library falls back to clone", Refuse(ENOSYS) => SYS_clone3;
    "a new namespace would change what names mean",
        When(&[(Bits(0, NEW_NAMESPACES | NEW_TIME), Forbid(EPERM))], &Allow) => SYS_unshare;
    "another namespace would change what names mean", Forbid(EPERM) => SYS_setns SYS_chroot SYS_pivot_root;
    "signals to others", Ask =>
        SYS_kill SYS_tkill SYS_tgkill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_pidfd_send_signal;
    "reaches into another process", Ask =>
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp SYS_process_mrelease
        SYS_migrate_pages SYS_move_pages;
    "limits and scheduling of oneself are free, those of others judged", When(&[(Is(0, 0), Allow)], &Ask) =>
        SYS_prlimit64 SYS_sched_setaffinity SYS_sched_setscheduler SYS_sched_setparam SYS_sched_setattr;
    "as above; the first argument says whether the second is a process, a group or a user",
        When(&[(Both(0, PRIO_PROCESS as u64, 1, 0), Allow)], &Ask) => SYS_setpriority;
    "as above", When(&[(Both(0, 1, 1, 0), Allow)], &Ask) => SYS_ioprio_set; // IOPRIO_WHO_PROCESS
    "the memory of oneself, or of another process", Ask => SYS_process_madvise;
    "whom signals about a descriptor go to",
        When(&[(Is(1, F_SETOWN as u64), Ask), (Is(1, 15), Forbid(EPERM))], &Allow) => SYS_fcntl; // F_SETOWN_EX
    "most are requests to a device that was judged when opened; a few change attributes, type at a terminal, name a \
     receiver of signals or make a network interface",
        When(&[
            (Is(1, 0x5412), Forbid(EPERM)),      // TIOCSTI
            (Is(1, 0x541c), Forbid(EPERM)),      // TIOCLINUX
            (TypeBut(1, 0x89, NETWORK), Forbid(EPERM)),
            (Is(1, 0x4004_54ca), Forbid(EPERM)), // TUNSETIFF
            (Is(1, 0x4008_6602), Ask),           // FS_IOC_SETFLAGS
            (Is(1, 0x4004_6602), Ask),           // FS_IOC32_SETFLAGS
            (Is(1, 0x401c_5820), Ask),           // FS_IOC_FSSETXATTR
            (Is(1, 0x4008_7602), Ask),           // FS_IOC_SETVERSION
            (Is(1, 0x4004_9409), Allow),         // FICLONE
            (Is(1, 0x4020_940d), Allow),         // FICLONERANGE
            (Is(1, 0xc018_9436), Allow),         // FIDEDUPERANGE
            (Type(1, 0x94), Forbid(EOPNOTSUPP)), // the rest of btrfs: subvolumes and snapshots are names
        ], &Allow) => SYS_ioctl;
    "a process that cannot be looked into cannot be supervised, so it only seems to become one; who takes orphans over \
     has children that it did not fork, whose scope is another's",
        When(&[
            (Is(0, PR_SET_DUMPABLE as u64), Refuse(0)),
            (Is(0, PR_SET_CHILD_SUBREAPER as u64), Ask),
            (Is(0, PR_SET_MM as u64), Forbid(EPERM)),
        ], &Allow) => SYS_prctl;

    "the mount table decides what names mean", Forbid(EPERM) =>
        SYS_mount SYS_umount2 SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
        SYS_mount_setattr SYS_swapon SYS_swapoff SYS_quotactl SYS_quotactl_fd SYS_acct;
    "opens files without a path", Forbid(EPERM) => SYS_open_by_handle_at SYS_fanotify_init SYS_fanotify_mark;
    "performs calls that no filter sees", Forbid(ENOSYS) => SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register;
    "the kernel's own insides", Forbid(EPERM) =>
        SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_keyctl SYS_add_key SYS_request_key SYS_init_module
        SYS_finit_module SYS_delete_module SYS_kexec_load SYS_kexec_file_load SYS_reboot SYS_syslog SYS_vhangup
        SYS_sethostname SYS_setdomainname SYS_memfd_secret SYS_lookup_dcookie;
};

/// Calls that only the oldest architectures have, beside their successors above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const LEGACY: &[Row] = rows! {
    "works on descriptors that were judged when they were made", Allow =>
        SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd
        SYS_inotify_init SYS_getdents;
    "metadata is not mediated", Allow => SYS_stat SYS_lstat SYS_access SYS_readlink SYS_ustat SYS_sysfs;
    "the process itself", Allow =>
        SYS_alarm SYS_pause SYS_getpgrp SYS_time SYS_arch_prctl SYS_set_thread_area SYS_get_thread_area
        SYS_modify_ldt;
    "as openat", When(&[(Bits(1, PATH_ONLY), Allow)], &Ask) => SYS_open;
    "names, contents and attributes of files", Ask =>
        SYS_creat SYS_mkdir SYS_rmdir SYS_mknod SYS_unlink SYS_rename SYS_link SYS_symlink SYS_chmod SYS_chown
        SYS_lchown SYS_utime SYS_utimes SYS_futimesat;
    "a new process is counted", Ask => SYS_fork SYS_vfork;
    "the kernel's own insides", Forbid(EPERM) => SYS_iopl SYS_ioperm SYS_uselib;
};

#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[Row] = &[];

// Calls newer than the C bindings; the numbers are the same everywhere from 424 on.
const SYS_io_pgetevents: i64 = if cfg!(target_arch = "x86_64") { 333 } else { 292 };
const SYS_cachestat: i64 = 451;
const SYS_futex_wake: i64 = 454;
const SYS_futex_wait: i64 = 455;
const SYS_futex_requeue: i64 = 456;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_call_has_one_row_and_a_reason() {
        let mut seen = HashMap::new();
        for row in tables() {
            assert_eq!(seen.insert(row.nr, row.name), None, "{} stands twice", row.name);
            assert!(!row.why.is_empty());
        }
    }

    #[test]
    fn what_escapes_a_filter_is_never_allowed() {
        let escapes = [
            SYS_io_uring_setup,
            SYS_open_by_handle_at,
            SYS_ptrace,
            SYS_bpf,
            SYS_mount,
            SYS_setns,
            SYS_pivot_root,
            SYS_userfaultfd,
            SYS_keyctl,
            SYS_kexec_load,
            SYS_clone3,
            SYS_openat2,
            SYS_renameat2,
            SYS_sendmsg,
            SYS_sendmmsg,
            SYS_execveat,
            SYS_fchmodat2,
            SYS_process_vm_writev,
            SYS_pidfd_getfd,
            SYS_init_module,
        ];
        for nr in escapes {
            let row = row(nr).unwrap();
            assert!(matches!(row.rule, Ask | Refuse(_) | Forbid(_)), "{} is {:?}", row.name, row.rule);
        }
    }
}
