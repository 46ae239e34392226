//! Attacks that broke others, each by name; as root and as an ordinary user, with real racing threads for bounded time.
//!
//! Everything happens in a temporary directory and on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "supervised/world.rs"]
mod world;

use std::io::IoSliceMut;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use world::{Ran, User, World, users};

/// What every attack helper may use.
const HEAD: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <pthread.h>
#include <time.h>
#include <dirent.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <linux/openat2.h>
#include <linux/fs.h>
static volatile int over;
// As long as it takes for the race to have happened both ways, and no longer than a busy machine may need.
#define RACING(happened) (now() < end || (!(happened) && now() < end + 30))
#define SEEN asm volatile("" ::: "memory")
static double now() { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static void leaked(int fd) { char b[64] = {0}; if (fd >= 0 && read(fd, b, 63) > 0 && (strstr(b, "secret") || strstr(b, "hidden") || strstr(b, "outside"))) { puts("LEAK"); exit(1); } if (fd >= 0) close(fd); }
static void must_fail(const char *what, long r) { if (r >= 0) { printf("LEAK %s\n", what); exit(1); } }
"#;

/// Runs an attack in a fresh world for each user, where it must end by saying `held`; what was decided, for each.
fn attack(name: &str, source: &str) -> Vec<Vec<String>> {
    let mut decided = Vec::new();
    for user in users() {
        let mut world = World::new(*user);
        let program = world.compile(name, &format!("{HEAD}{source}"));
        let ran = world.run(&[program]);
        assert_eq!(
            ran.stdout(),
            "held\n",
            "{name} as {user:?}: {} {:#?}",
            ran.stderr(),
            tail(&ran.decisions())
        );
        for (file, text) in [
            ("ok/a", "public\n"),
            ("ok/secret", "secret\n"),
            ("w/denied/f", "hidden\n"),
            ("out/f", "outside\n"),
        ] {
            assert_eq!(std::fs::read_to_string(world.path(file)).unwrap(), text, "{name}: {file}");
            assert_eq!(
                std::fs::metadata(world.path(file)).unwrap().nlink(),
                1,
                "{name}: {file} has another name"
            );
        }
        assert_eq!(std::fs::read_dir(world.path("ok")).unwrap().count(), 2, "{name}: made where only read");
        assert_eq!(std::fs::read_dir(world.path("out")).unwrap().count(), 1, "{name}: made outside");
        assert_eq!(
            std::fs::read_dir(world.path("w/denied")).unwrap().count(),
            1,
            "{name}: made where denied"
        );
        decided.push(ran.decisions());
    }
    decided
}

fn tail(decisions: &[String]) -> &[String] {
    &decisions[decisions.len().saturating_sub(8)..]
}

/// The numbers that a racing program printed: how many messages it sent, then how often each kind of call went through or was
/// refused. None of these may be rare: there would have been no race.
fn counted(ran: &Ran, numbers: usize) -> Vec<usize> {
    let said: Vec<usize> = ran.stdout().split_whitespace().flat_map(str::parse).collect();
    assert!(
        said.len() == numbers && said[1..].iter().all(|n| *n > 5),
        "no race: {} {} {:#?}",
        ran.stdout(),
        ran.stderr(),
        tail(&ran.decisions())
    );
    said
}

#[test]
fn resolve_then_continue_path_changed_by_a_racing_thread() {
    attack(
        "flip",
        r#"static char path[64] = "ok/a";
        void *flip(void *_) { while (!over) { memcpy(path, "ok/secret", 10); SEEN; memcpy(path, "ok/a\0\0\0\0\0", 10); SEEN; } return 0; }
        int main() { pthread_t t; pthread_create(&t, 0, flip, 0); double end = now() + 2; long n = 0, ok = 0;
            while (RACING(ok > 10 && ok < n)) { int fd = open(path, O_RDONLY); if (fd >= 0) ok++; leaked(fd); n++; }
            over = 1; pthread_join(t, 0); if (ok > 10 && ok < n) puts("held"); else printf("no race: %ld of %ld\n", ok, n); }"#,
    );
}

#[test]
fn symlink_swapped_by_a_racing_thread() {
    attack(
        "swap",
        r#"void *swap(void *_) { while (!over) { unlink("w/l"); symlink("../ok/secret", "w/l"); unlink("w/l"); symlink("../ok/a", "w/l"); } return 0; }
        int main() { pthread_t t; pthread_create(&t, 0, swap, 0); double end = now() + 2; long ok = 0;
            while (RACING(ok > 5)) { int fd = open("w/l", O_RDONLY); if (fd >= 0) ok++; leaked(fd); }
            over = 1; pthread_join(t, 0); puts(ok > 5 ? "held" : "no race"); }"#,
    );
}

#[test]
fn file_that_was_read_swapped_for_a_link_by_a_racing_thread() {
    attack(
        "swapread",
        r#"static char p[512];
        static void *swap(void *_) { while (!over) { unlink(p); symlink("../ok/secret", p); unlink(p); int fd = open(p, O_CREAT | O_EXCL | O_WRONLY, 0600); close(fd); for (int i = 0; i < 3; i++) leaked(open(p, O_RDONLY)); } return 0; }
        int main() { if (!getcwd(p, 400)) return 1; strcat(p, "/w/f"); pthread_t t; pthread_create(&t, 0, swap, 0); double end = now() + 2; long ok = 0, n = 0;
            while (RACING(ok > 10 && ok < n)) { int fd = open(p, O_RDONLY); if (fd >= 0) ok++; leaked(fd); n++; }
            over = 1; pthread_join(t, 0); puts(ok > 10 && ok < n ? "held" : "no race"); }"#,
    );
}

#[test]
fn file_that_was_read_is_a_fifo_now() {
    attack(
        "fifo",
        r#"static char p[512];
        static void fresh() { unlink(p); int fd = open(p, O_CREAT | O_EXCL | O_WRONLY, 0600); if (fd < 0 || write(fd, "x", 1) != 1) exit(2); close(fd);
            for (int i = 0; i < 9; i++) { char c; fd = open(p, O_RDONLY); if (read(fd, &c, 1) != 1 || c != 'x' || fcntl(fd, F_GETFL) & O_NONBLOCK || fcntl(fd, F_GETFD)) exit(3); close(fd);
                fd = open(p, O_RDONLY | O_NONBLOCK | O_CLOEXEC); if (!(fcntl(fd, F_GETFL) & O_NONBLOCK) || fcntl(fd, F_GETFD) != FD_CLOEXEC) exit(4); close(fd); } }
        int main() { if (!getcwd(p, 400)) return 1; strcat(p, "/w/f"); fresh();
            unlink(p); if (mkfifo(p, 0600)) return 5;
            int fd = open(p, O_RDONLY | O_NONBLOCK); if (fd < 0 || !(fcntl(fd, F_GETFL) & O_NONBLOCK)) return 6; close(fd);
            fresh(); unlink(p); if (mkfifo(p, 0600)) return 7;
            if (!fork()) { usleep(100000); int w = open(p, O_WRONLY); _exit(write(w, "y", 1) != 1); }
            char c; int status; fd = open(p, O_RDONLY); if (fcntl(fd, F_GETFL) & O_NONBLOCK || read(fd, &c, 1) != 1 || c != 'y') return 8;
            wait(&status); if (status) return 9;
            unlink(p); symlink("../ok/secret", p); must_fail("link", open(p, O_RDONLY)); puts("held"); }"#,
    );
}

#[test]
fn directory_swapped_for_a_link_while_something_is_created_below() {
    attack(
        "swapdir",
        r#"void *swap(void *_) { while (!over) { rename("w/d", "w/e"); symlink("../out", "w/d"); unlink("w/d"); rename("w/e", "w/d"); } return 0; }
        int main() { mkdir("w/d", 0700); pthread_t t; pthread_create(&t, 0, swap, 0); double end = now() + 2; long ok = 0; char name[64];
            for (int i = 0; RACING(ok > 5); i++) { sprintf(name, "w/d/n%d", i % 50); int fd = open(name, O_CREAT | O_WRONLY, 0600); if (fd >= 0) { ok++; close(fd); } mkdir("w/d/dir", 0700); unlink(name); truncate("w/d/f", 0); chmod("w/d/f", 0); rename("w/d/dir", "w/d/dir2"); rmdir("w/d/dir2"); }
            over = 1; pthread_join(t, 0); puts(ok > 5 ? "held" : "no race"); }"#,
    );
}

#[test]
fn rename_of_a_parent_of_a_denied_directory() {
    attack(
        "parent",
        r#"int main() {
            must_fail("rename w", rename("w", "w2")); must_fail("rename denied", rename("w/denied", "w/x"));
            must_fail("exchange", syscall(SYS_renameat2, AT_FDCWD, "w/denied", AT_FDCWD, "w", RENAME_EXCHANGE));
            mkdir("w/deep", 0700); must_fail("move in", rename("w/deep", "w/denied/deep"));
            leaked(open("w/x/f", O_RDONLY)); leaked(open("w2/denied/f", O_RDONLY)); puts("held"); }"#,
    );
}

#[test]
fn only_a_directory_carries_something_along() {
    attack(
        "carry",
        r#"int main() { int fd = open("w/f", O_CREAT | O_WRONLY, 0600); close(fd); mkdir("w/dir", 0700); symlink("dir", "w/l");
            must_fail("directory", rename("w/dir", "w/git")); must_fail("with a slash", rename("w/dir/", "w/git"));
            if (rename("w/f", "w/git") || rename("w/git", "w/f") || rename("w/l", "w/git")) { perror("rename"); return 1; }
            must_fail("exchange", syscall(SYS_renameat2, AT_FDCWD, "w/git", AT_FDCWD, "w/dir", RENAME_EXCHANGE));
            if (syscall(SYS_renameat2, AT_FDCWD, "w/git", AT_FDCWD, "w/f", RENAME_EXCHANGE)) { perror("exchange"); return 1; }
            puts("held"); }"#,
    );
}

#[test]
fn plain_file_swapped_for_a_directory_while_it_is_moved() {
    attack(
        "swapfile",
        r#"void *swap(void *_) { while (!over) { close(open("w/x", O_CREAT | O_WRONLY, 0600)); unlink("w/x"); mkdir("w/x", 0700); mkdir("w/x/hooks", 0700); rmdir("w/x/hooks"); rmdir("w/x"); } return 0; }
        int main() { pthread_t t; pthread_create(&t, 0, swap, 0); double end = now() + 2; long ok = 0, n = 0; struct stat s;
            while (RACING(ok > 10 && ok < n)) { n++; if (rename("w/x", "w/git")) continue; ok++;
                if (!lstat("w/git", &s) && S_ISDIR(s.st_mode)) { printf("LEAK after %ld of %ld\n", ok, n); exit(1); } unlink("w/git"); }
            over = 1; pthread_join(t, 0); if (ok > 10 && ok < n) puts("held"); else printf("no race: %ld of %ld\n", ok, n); }"#,
    );
}

#[test]
fn hard_link_to_a_denied_file() {
    attack(
        "hardlink",
        r#"int main() {
            must_fail("link", link("ok/secret", "w/l")); must_fail("link", link("w/denied/f", "w/l"));
            must_fail("linkat", linkat(AT_FDCWD, "ok/secret", AT_FDCWD, "w/l", AT_SYMLINK_FOLLOW));
            symlink("../ok/secret", "w/s"); must_fail("follow", linkat(AT_FDCWD, "w/s", AT_FDCWD, "w/l", AT_SYMLINK_FOLLOW));
            int fd = open("ok/secret", O_PATH); must_fail("empty", linkat(fd, "", AT_FDCWD, "w/l", AT_EMPTY_PATH));
            char p[64]; sprintf(p, "/proc/self/fd/%d", fd); must_fail("proc", linkat(AT_FDCWD, p, AT_FDCWD, "w/l", AT_SYMLINK_FOLLOW));
            leaked(open("w/l", O_RDONLY)); puts("held"); }"#,
    );
}

#[test]
fn hard_link_made_before_the_run_is_the_same_object() {
    let world = World::new(User::Own);
    std::fs::hard_link(world.path("ok/secret"), world.path("ok/alias")).unwrap();
    let ran = world.shell("cat ok/alias");
    assert_eq!((ran.stdout().as_str(), ran.code()), ("", 1));
}

#[test]
fn every_spelling_of_a_denied_file() {
    attack(
        "spellings",
        r#"int main() { char cwd[4096], p[8192]; getcwd(cwd, 4096);
            const char *forms[] = {"ok/secret", "ok/../ok/secret", "./ok//secret", "/proc/self/cwd/ok/secret", "/proc/thread-self/cwd/ok/secret", "w/../ok/secret", "ok/./././secret"};
            for (int i = 0; i < 7; i++) leaked(open(forms[i], O_RDONLY));
            sprintf(p, "%s/ok/secret", cwd); leaked(open(p, O_RDONLY)); sprintf(p, "/proc/self/root%s/ok/secret", cwd); leaked(open(p, O_RDONLY));
            sprintf(p, "/proc/%d/root%s/ok/secret", getpid(), cwd); leaked(open(p, O_RDONLY)); sprintf(p, "/proc/1/root%s/ok/secret", cwd); leaked(open(p, O_RDONLY));
            sprintf(p, "/proc/%d/root%s/ok/secret", getppid(), cwd); leaked(open(p, O_RDONLY));
            int d = open("ok", O_RDONLY | O_DIRECTORY); leaked(openat(d, "secret", O_RDONLY)); chdir("ok"); leaked(open("secret", O_RDONLY)); fchdir(d);
            int o = open("secret", O_PATH); sprintf(p, "/proc/self/fd/%d", o); leaked(open(p, O_RDONLY)); sprintf(p, "/dev/fd/%d", o); leaked(open(p, O_RDONLY));
            struct open_how how = {.flags = O_RDONLY}; leaked(syscall(SYS_openat2, d, "secret", &how, sizeof how)); how.resolve = RESOLVE_IN_ROOT; leaked(syscall(SYS_openat2, d, "/secret", &how, sizeof how)); how.resolve = RESOLVE_BENEATH; leaked(syscall(SYS_openat2, d, "secret", &how, sizeof how));
            leaked(syscall(SYS_open, "secret", O_RDONLY)); leaked(syscall(SYS_creat, "secret", 0600)); must_fail("write", open("secret", O_WRONLY)); must_fail("trunc", open("secret", O_RDONLY | O_TRUNC)); must_fail("truncate", truncate("secret", 0));
            struct { struct file_handle h; char b[128]; } h = {.h.handle_bytes = 128}; int mount; if (!name_to_handle_at(AT_FDCWD, "secret", &h.h, &mount, 0)) leaked(open_by_handle_at(d, &h.h, O_RDONLY));
            puts("held"); }"#,
    );
}

#[test]
fn attributes_and_names_inside_a_denied_directory() {
    attack(
        "inside",
        r#"int main() {
            must_fail("chmod", chmod("w/denied", 0)); must_fail("chmod", chmod("w/denied/f", 0)); must_fail("fchmodat2", syscall(452, AT_FDCWD, "w/denied/f", 0, 0));
            must_fail("chown", chown("w/denied/f", getuid(), getgid())); must_fail("lchown", lchown("w/denied/f", getuid(), getgid()));
            must_fail("utimes", utimensat(AT_FDCWD, "w/denied/f", 0, 0)); must_fail("xattr", setxattr("w/denied/f", "user.x", "1", 1, 0));
            int p = open("w/denied/f", O_PATH); must_fail("by fd", fchownat(p, "", getuid(), getgid(), AT_EMPTY_PATH)); must_fail("by fd", utimensat(p, "", 0, AT_EMPTY_PATH)); must_fail("by fd", syscall(452, p, "", 0, AT_EMPTY_PATH));
            char q[64]; sprintf(q, "/proc/self/fd/%d", p); must_fail("by proc", chmod(q, 0)); must_fail("by proc", truncate(q, 0)); must_fail("by proc", setxattr(q, "user.x", "1", 1, 0));
            must_fail("mkdir", mkdir("w/denied/d", 0700)); must_fail("mkfifo", mkfifo("w/denied/p", 0600)); must_fail("mknod", mknod("w/denied/n", S_IFREG | 0600, 0)); must_fail("symlink", symlink("x", "w/denied/s"));
            must_fail("unlink", unlink("w/denied/f")); must_fail("rmdir", rmdir("w/denied")); must_fail("tmpfile", open("w/denied", O_TMPFILE | O_RDWR, 0600)); must_fail("creat", creat("w/denied/c", 0600));
            struct sockaddr_un a = {AF_UNIX, "w/denied/sock"}; int s = socket(AF_UNIX, SOCK_STREAM, 0); must_fail("bind", bind(s, (void *)&a, sizeof a));
            must_fail("opendir", open("w/denied", O_RDONLY | O_DIRECTORY));
            int f = open("ok/a", O_RDONLY), flags = FS_NODUMP_FL; must_fail("setflags", ioctl(f, FS_IOC_SETFLAGS, &flags)); must_fail("fchmod", fchmod(f, 0600)); must_fail("futimens", futimens(f, 0)); must_fail("fsetxattr", fsetxattr(f, "user.x", "1", 1, 0));
            puts("held"); }"#,
    );
}

#[test]
fn the_supervisors_own_insides() {
    let decided = attack(
        "insides",
        &r#"int main() { char p[256]; int up = getppid(); FILE *f; int grand = 0;
            sprintf(p, "/proc/%d/stat", up); 
            const char *names[] = {"mem", "environ", "maps", "fd/3", "fd/4", "fd/5", "fd/6", "root/etc/passwd", "cwd", "exe", "task", "auxv", "io", "ns/mnt", "comm"};
            for (int pid = up - 3; pid <= up; pid++) for (int i = 0; i < 15; i++) { sprintf(p, "/proc/%d/%s", pid, names[i]); must_fail(p, open(p, O_RDWR)); if (i < 14) must_fail(p, open(p, O_RDONLY)); }
            must_fail("kill", kill(up, 0)); must_fail("kill", kill(up, 9)); must_fail("all", kill(-1, 0)); must_fail("group", kill(-getpgid(up), 0)); must_fail("tgkill", syscall(SYS_tgkill, up, up, 9));
            int pfd = syscall(SYS_pidfd_open, up, 0); must_fail("pidfd", syscall(SYS_pidfd_send_signal, pfd, 9, 0, 0)); must_fail("getfd", syscall(SYS_pidfd_getfd, pfd, 3, 0));
            must_fail("ptrace", ptrace(PTRACE_SEIZE, up, 0, 0)); must_fail("traceme", ptrace(PTRACE_TRACEME, 0, 0, 0));
            char b[8]; struct iovec l = {b, 8}, r = {(void *)0x400000, 8}; must_fail("vm_readv", process_vm_readv(up, &l, 1, &r, 1, 0)); must_fail("vm_writev", process_vm_writev(up, &l, 1, &r, 1, 0));
            int fd = open("/dev/null", O_RDONLY); struct { int type, pid; } own = {1, up}; must_fail("setown_ex", fcntl(fd, 15, &own)); must_fail("setown", fcntl(fd, F_SETOWN, up)); must_fail("fiosetown", ioctl(fd, 0x8901, &up)); must_fail("fiosetown high", syscall(SYS_ioctl, fd, 0xffffffff00008901ul, &up));
            struct { unsigned long a, b; } lim = {1, 1}; must_fail("prlimit", syscall(SYS_prlimit64, up, 7, &lim, 0)); must_fail("setpriority", setpriority_(up)); puts("held"); }"#
            .replace("setpriority_(up)", "syscall(SYS_setpriority, 0, up, 19)"),
    );
    for decided in decided {
        let count =
            |verb: &str| decided.iter().filter(|one| one.starts_with(verb) && one.ends_with("deny")).count();
        // It was us who refused: not that there was nothing, nor the kernel.
        assert!(count("process.trace") >= 30, "{decided:#?}");
        assert_eq!((count("process.signal"), count("process.limit")), (7, 2), "{decided:#?}");
    }
}

#[test]
fn calls_that_no_filter_would_see_or_that_change_what_names_mean() {
    let decided = attack(
        "refused",
        r#"int main() {
            must_fail("mount", mount("ok", "w", 0, MS_BIND, 0)); must_fail("umount", umount2("w", MNT_DETACH)); must_fail("pivot", syscall(SYS_pivot_root, ".", ".")); must_fail("chroot", chroot("w"));
            must_fail("unshare", unshare(0x10000000)); must_fail("unshare high", syscall(SYS_unshare, 0xf00000010000000ul)); must_fail("clone", syscall(SYS_clone, 0x10000000 | 17, 0, 0, 0, 0)); must_fail("clone3", syscall(SYS_clone3, 0, 0)); must_fail("setns", syscall(SYS_setns, 0, 0x10000000));
            must_fail("io_uring", syscall(425, 8, (char[256]){0})); must_fail("bpf", syscall(SYS_bpf, 0, 0, 0)); must_fail("userfaultfd", syscall(SYS_userfaultfd, 0)); must_fail("keyctl", syscall(SYS_keyctl, 0, -3, 0)); must_fail("perf", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
            must_fail("fsopen", syscall(430, "tmpfs", 0)); must_fail("open_tree", syscall(428, AT_FDCWD, "ok", 1)); must_fail("module", syscall(SYS_init_module, 0, 0, "")); must_fail("kexec", syscall(SYS_kexec_load, 0, 0, 0, 0)); must_fail("x32", syscall(0x40000000 | 2, "ok/secret", 0)); must_fail("future", syscall(1023)); must_fail("iopl", syscall(SYS_iopl, 3));
            int e; asm volatile("int $0x80" : "=a"(e) : "a"(5), "b"("ok/secret"), "c"(0), "d"(0) : "memory"); must_fail("int80", e); asm volatile("int $0x80" : "=a"(e) : "a"(20)); must_fail("int80 getpid", e);
            must_fail("tiocsti", ioctl(0, 0x5412, "x")); must_fail("mq", syscall(SYS_mq_open, "/failcore", O_CREAT | O_RDWR, 0600, 0));
            must_fail("move_mount", syscall(429, -1, "", -1, "", 0)); must_fail("fsconfig", syscall(431, -1, 0, 0, 0, 0)); must_fail("fsmount", syscall(432, -1, 0, 0)); must_fail("fspick", syscall(433, -1, "", 0)); must_fail("mount_setattr", syscall(442, -1, "", 0, 0, 0));
            must_fail("uring_enter", syscall(426, -1, 0, 0, 0, 0)); must_fail("uring_register", syscall(427, -1, 0, 0, 0)); must_fail("finit_module", syscall(SYS_finit_module, -1, "", 0)); must_fail("delete_module", syscall(SYS_delete_module, "none", 0)); must_fail("kexec_file", syscall(SYS_kexec_file_load, -1, -1, 0, "", 0));
            must_fail("add_key", syscall(SYS_add_key, "user", "k", "v", 1, -2)); must_fail("request_key", syscall(SYS_request_key, "user", "k", 0, 0)); must_fail("fanotify", syscall(SYS_fanotify_init, 0, 0)); must_fail("handle", syscall(SYS_open_by_handle_at, AT_FDCWD, "", 0)); must_fail("secret", syscall(447, 0));
            puts("held"); }"#,
    );
    // Most would fail without us as well, for lack of a capability: that it was us is in the record.
    const REFUSED: &str = "mount umount2 pivot_root chroot unshare clone setns io_uring_setup bpf userfaultfd keyctl \
        perf_event_open fsopen open_tree init_module kexec_load iopl ioctl mq_open move_mount fsconfig fsmount fspick \
        mount_setattr io_uring_enter io_uring_register finit_module delete_module kexec_file_load add_key request_key \
        fanotify_init open_by_handle_at memfd_secret";
    for (name, decided) in
        REFUSED.split_whitespace().flat_map(|name| decided.iter().map(move |all| (name, all)))
    {
        assert!(decided.contains(&format!("kernel.call {name} deny")), "{name}: {decided:#?}");
    }
}

#[test]
fn memory_run_as_a_program() {
    attack(
        "memfd",
        r#"int main(int c, char **v) {
            must_fail("exec flag", syscall(SYS_memfd_create, "x", 0x10));
            int m = syscall(SYS_memfd_create, "x", 0), s = open("/usr/bin/id", O_RDONLY); char b[65536]; long n; while ((n = read(s, b, sizeof b)) > 0) write(m, b, n);
            char p[64]; sprintf(p, "/proc/self/fd/%d", m); char *a[] = {"id", 0}, *e[] = {0};
            fchmod(m, 0700); must_fail("fexecve", syscall(SYS_execveat, m, "", a, e, AT_EMPTY_PATH)); must_fail("by proc", execve(p, a, e));
            int w = open("w/id", O_CREAT | O_WRONLY, 0700); lseek(s, 0, 0); while ((n = read(s, b, sizeof b)) > 0) write(w, b, n); close(w); must_fail("copy", execve("w/id", a, e)); must_fail("itself", execve("/usr/bin/id", a, e));
            char *l[] = {"ld", "/usr/bin/id", 0}; must_fail("ld.so", execve("/lib64/ld-linux-x86-64.so.2", l, e));
            symlink("/usr/bin/id", "w/true"); must_fail("link", execve("w/true", a, e)); puts("held"); }"#,
    );
}

/// A program that no grant names; where it runs, `w/ran` is there.
fn forbidden(world: &mut World) -> PathBuf {
    let program = world.compile(
        "forbidden",
        "#include <fcntl.h>\nint main() { int fd = open(\"w/ran\", O_CREAT | O_WRONLY, 0600); return fd < 0; }",
    );
    world.exec.retain(|granted| *granted != program);
    program
}

#[test]
fn exec_path_changed_by_a_racing_thread() {
    for user in users() {
        let mut world = World::new(*user);
        let forbidden = forbidden(&mut world);
        let source = r#"static char path[256], good[256], bad[256];
            void *flip(void *_) { for (;;) { memcpy(path, bad, 256); SEEN; memcpy(path, good, 256); SEEN; } return 0; }
            int main(int c, char **v) { strcpy(good, "/bin/true"); strcpy(bad, v[1]); memcpy(path, good, 256); double end = now() + 2; int ran = 0, status; char *a[] = {"x", 0}, *e[] = {0};
                pthread_t t; pthread_create(&t, 0, flip, 0);
                while (RACING(ran > 2)) { pid_t p = vfork(); if (!p) { execve(path, a, e); _exit(99); } waitpid(p, &status, 0); if (status == 0) ran++; }
                if (ran > 2) puts("held"); else printf("no race: %d\n", ran); }"#;
        let program = world.compile("execflip", &format!("{HEAD}{source}"));
        // With Landlock underneath, and by the comparison of the running image alone.
        for alone in [false, true] {
            let mut command = world.command(&[&program, &forbidden]);
            if alone {
                command.env("WITHOUT_LANDLOCK", "1");
            }
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said, "held\n", "{}", String::from_utf8_lossy(&output.stderr));
            assert!(!world.path("w/ran").exists(), "another image than the judged one did something");
        }
    }
}

#[test]
fn address_changed_by_a_racing_thread() {
    for user in users() {
        let mut world = World::new(*user);
        let (good, bad) = (
            std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
            std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let port = |of: &std::net::TcpListener| of.local_addr().unwrap().port().to_string();
        let (good_port, bad_port) = (port(&good), port(&bad));
        bad.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            for connection in good.incoming() {
                drop(connection);
            }
        });
        world.more = format!("[net]\nconnect = [\"127.0.0.1:{good_port}\"]");
        let source = r#"static struct sockaddr_in a; static int good, bad;
            void *flip(void *_) { while (!over) { a.sin_port = bad; SEEN; a.sin_port = good; SEEN; } return 0; }
            int main(int c, char **v) { good = htons(atoi(v[1])); bad = htons(atoi(v[2])); a.sin_family = AF_INET; a.sin_addr.s_addr = htonl(0x7f000001); a.sin_port = good;
                pthread_t t; pthread_create(&t, 0, flip, 0); double end = now() + 2; long ok = 0, n = 0;
                while (RACING(ok > 2 && ok < n)) { int s = socket(AF_INET, SOCK_STREAM, 0); if (!connect(s, (void *)&a, sizeof a)) ok++; n++; close(s); }
                over = 1; pthread_join(t, 0); if (ok > 2 && ok < n) puts("held"); else printf("no race: %ld of %ld\n", ok, n); }"#;
        let program = world.compile("addrflip", &format!("{HEAD}{source}"));
        let ran = world.run(&[program.to_str().unwrap(), &good_port, &bad_port]);
        assert_eq!(ran.stdout(), "held\n", "{}", ran.stderr());
        assert!(bad.accept().is_err(), "somebody reached the port that was not granted");
    }
}

#[test]
fn descriptor_swapped_by_a_racing_thread() {
    // The socket or directory behind a number changes while the call waits: what was judged is what is used.
    attack(
        "dupflip",
        r#"static int d, ok, out;
        void *flip(void *_) { while (!over) { dup2(out, d); dup2(ok, d); } return 0; }
        int main() { ok = open("ok", O_PATH); out = open("out", O_PATH); d = dup(ok); pthread_t t; pthread_create(&t, 0, flip, 0); double end = now() + 2; long good = 0;
            while (RACING(good > 5)) { int fd = openat(d, "a", O_RDONLY); if (fd >= 0) good++; leaked(fd); leaked(openat(d, "f", O_RDONLY)); leaked(openat(d, "secret", O_RDONLY)); must_fail("mkdir", mkdirat(d, "n", 0700)); }
            over = 1; pthread_join(t, 0); puts(good > 5 ? "held" : "no race"); }"#,
    );
}

#[test]
fn message_changed_by_a_racing_thread() {
    // What a message is made of changes while it is sent: its address, its pieces, the interface in its ancillary data.
    for user in users() {
        let mut world = World::new(*user);
        let sockets: [_; 3] = std::array::from_fn(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let ports = sockets.each_ref().map(|one| one.local_addr().unwrap().port().to_string());
        let [first, second, _] = &ports;
        world.more = format!("[net]\nconnect = [\"udp:127.0.0.1:{first}\", \"udp:127.0.0.1:{second}\"]");
        let over = Arc::new(AtomicBool::new(false));
        let arrivals = sockets.map(|socket| {
            let over = Arc::clone(&over);
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            std::thread::spawn(move || {
                let (mut numbers, mut bytes) = (Vec::<i32>::new(), [0; 64]);
                loop {
                    // Whether it is over is looked at first, so that nothing is left in the socket then.
                    let last = over.load(SeqCst);
                    match socket.recv(&mut bytes) {
                        Ok(_) => numbers.push(i32::from_ne_bytes(bytes[..4].try_into().unwrap())),
                        Err(_) if last => break numbers,
                        Err(_) => {}
                    }
                }
            })
        });
        let source = r#"static struct sockaddr_in at[3], a; static int number[2]; static char rest[2][16], control[32];
            static struct iovec v[2][2]; static struct mmsghdr m[2];
            void *flip(void *_) { struct cmsghdr *h = (void *)control; struct in_pktinfo *p = (void *)CMSG_DATA(h);
                while (!over) for (int i = 0; i < 6; i++) {
                    a = at[i % 3]; SEEN; p->ipi_ifindex = i % 2 ? 9999 : 0; SEEN;
                    for (int n = 0; n < 2; n++) { struct msghdr *h = &m[n].msg_hdr; h->msg_name = i == 2 ? &at[2] : i == 3 ? &at[1] : &a; SEEN; v[n][1].iov_base = i % 2 ? rest[1] : rest[0]; v[n][1].iov_len = 1 + i; SEEN; h->msg_iovlen = i == 5 ? 5000 : 1 + i % 2; h->msg_controllen = i == 4 ? 12 : CMSG_SPACE(sizeof *p); SEEN; }
                } return 0; }
            int main(int c, char **w) { for (int i = 0; i < 3; i++) at[i] = (struct sockaddr_in){AF_INET, htons(atoi(w[i + 1])), {htonl(0x7f000001)}};
                struct cmsghdr *h = (void *)control; h->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo)); h->cmsg_level = 0; h->cmsg_type = IP_PKTINFO; a = at[0];
                for (int n = 0; n < 2; n++) { v[n][0] = (struct iovec){&number[n], 4}; v[n][1] = (struct iovec){rest[0], 1}; m[n].msg_hdr = (struct msghdr){&a, sizeof a, v[n], 2, control, CMSG_SPACE(sizeof(struct in_pktinfo))}; }
                int s = socket(AF_INET, SOCK_DGRAM, 0); pthread_t t; pthread_create(&t, 0, flip, 0); double end = now() + 2; long sent = 0, ok[3] = {0}, no[3] = {0};
                while (RACING(ok[0] > 5 && ok[1] > 5 && ok[2] > 5 && no[0] > 5 && no[1] > 5 && no[2] > 5)) for (int way = 0; way < 3; way++) {
                    number[0] = sent; number[1] = sent + 1;
                    int r = way == 0 ? sendmsg(s, &m[0].msg_hdr, 0) : way == 1 ? sendmmsg(s, m, 2, 0) : sendto(s, number, 4, 0, (void *)&a, sizeof a);
                    if (r > 0) { ok[way]++; sent += way == 1 ? r : 1; } else { no[way]++; if (errno != EACCES && errno != EPERM && errno != EINVAL && errno != EMSGSIZE) { perror("send"); return 1; } } }
                over = 1; pthread_join(t, 0); printf("%ld %ld %ld %ld %ld %ld %ld\n", sent, ok[0], ok[1], ok[2], no[0], no[1], no[2]); }"#;
        let program = world.compile("message", &format!("{HEAD}{source}"));
        let ran = world.run(&[&[program.display().to_string()], &ports[..]].concat());
        over.store(true, SeqCst);
        let [to_first, to_second, to_other] = arrivals.map(|thread| thread.join().unwrap());
        let said = counted(&ran, 7);
        assert_eq!(to_other, [0; 0], "sent to an address that was not granted");
        // The n-th that was granted is the n-th that was sent, and went where its record says.
        let decisions = ran.decisions();
        let granted: Vec<_> = decisions
            .iter()
            .filter_map(|one| one.strip_prefix("net.send udp:127.0.0.1:")?.strip_suffix(" allow"))
            .collect();
        assert_eq!(granted.len(), said[0], "one record for each that was sent");
        for (port, arrived) in [(first, to_first), (second, to_second)] {
            assert!(arrived.len() > 5, "{arrived:?}");
            let elsewhere = arrived.iter().find(|n| granted[usize::try_from(**n).unwrap()] != port.as_str());
            assert_eq!(elsewhere, None, "a datagram went where its record does not say");
        }
    }
}

#[test]
fn descriptors_in_a_message_changed_by_a_racing_thread() {
    // A number in ancillary data is the sender's descriptor of that number, never one of the supervisor's.
    for user in users() {
        let mut world = World::new(*user);
        let names = ["w/good", "w/other", "out/bad"].map(|name| world.path(name));
        let [good, other, bad] = names.each_ref().map(|path| UnixDatagram::bind(path).unwrap());
        bad.set_nonblocking(true).unwrap();
        let names = names.map(|path| path.display().to_string());
        world.more = format!("[net]\nconnect = [\"unix:{}\", \"unix:{}\"]", names[0], names[1]);
        let public = std::fs::metadata(world.path("ok/a")).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let arrivals = [good, other].map(|socket| {
            let over = Arc::clone(&over);
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            std::thread::spawn(move || {
                let (mut found, mut messages) = (Vec::new(), 0);
                loop {
                    let last = over.load(SeqCst);
                    match received(&socket) {
                        Ok(files) => {
                            messages += 1;
                            found.extend(files.iter().map(|file| (file.dev(), file.ino())));
                        }
                        Err(_) if last => break (messages, found),
                        Err(_) => {}
                    }
                }
            })
        });
        let source = r#"static struct sockaddr_un at[3], a; static char control[256]; static struct mmsghdr m;
            void *flip(void *_) { struct cmsghdr *h = (void *)control; int *fd = (void *)CMSG_DATA(h);
                while (!over) for (int i = 0; i < 48; i++) {
                    a = at[i % 3]; SEEN; m.msg_hdr.msg_name = i % 5 ? &a : &at[2]; SEEN;
                    fd[0] = i % 4 ? 200 : 4 + i; SEEN; fd[1] = i % 3 ? 200 : 5 + i; SEEN;
                    h->cmsg_len = CMSG_LEN(i % 7 ? 4 : 8); h->cmsg_level = i % 11 ? SOL_SOCKET : 0; h->cmsg_type = i % 5 ? SCM_RIGHTS : 77; SEEN;
                } return 0; }
            int main(int c, char **w) { for (int i = 0; i < 3; i++) { at[i].sun_family = AF_UNIX; strcpy(at[i].sun_path, w[i + 1]); }
                struct cmsghdr *h = (void *)control; *h = (struct cmsghdr){CMSG_LEN(4), SOL_SOCKET, SCM_RIGHTS}; a = at[0];
                int s = socket(AF_UNIX, SOCK_DGRAM, 0), file = open("ok/a", O_RDONLY); dup2(file, 200); *(int *)CMSG_DATA(h) = 200; close(file);
                m.msg_hdr = (struct msghdr){&a, sizeof a, &(struct iovec){"x", 1}, 1, control, CMSG_SPACE(8)};
                pthread_t t; pthread_create(&t, 0, flip, 0); double end = now() + 2; long sent = 0, ok[2] = {0}, no[2] = {0};
                while (RACING(ok[0] > 5 && ok[1] > 5 && no[0] > 5 && no[1] > 5)) for (int way = 0; way < 2; way++) {
                    int r = way ? sendmmsg(s, &m, 1, 0) : sendmsg(s, &m.msg_hdr, 0); if (r > 0) { ok[way]++; sent++; } else { no[way]++; if (errno == EFAULT) { perror("send"); return 1; } } }
                over = 1; pthread_join(t, 0); printf("%ld %ld %ld %ld %ld\n", sent, ok[0], ok[1], no[0], no[1]); }"#;
        let program = world.compile("rights", &format!("{HEAD}{source}"));
        let ran = world.run(&[&[program.display().to_string()], &names[..]].concat());
        over.store(true, SeqCst);
        let arrived = arrivals.map(|thread| thread.join().unwrap());
        let said = counted(&ran, 5);
        assert!(bad.recv(&mut [0]).is_err(), "sent to a socket that was not granted");
        assert_eq!(arrived[0].0 + arrived[1].0, said[0], "each that was sent arrived");
        for ((messages, files), name) in arrived.iter().zip(&names) {
            assert!(files.len() > 5, "{name}: {} descriptors in {messages} messages", files.len());
            let foreign = files.iter().find(|file| **file != (public.dev(), public.ino()));
            assert_eq!(foreign, None, "{name}: a descriptor that was never the sender's");
            // What failed after it was granted, its ancillary data not being any, is in the record as that.
            assert!(ran.count(&format!("ipc.connect unix:{name} allow")) >= *messages);
        }
    }
}

/// The files that came with the next message.
fn received(socket: &UnixDatagram) -> std::io::Result<Vec<std::fs::Metadata>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds.map(|fd| std::fs::File::from(fd).metadata().unwrap()));
        }
    }
    Ok(files)
}

#[test]
fn how_to_open_changed_by_a_racing_thread() {
    let decided = attack(
        "howflip",
        r#"static struct open_how how, hows[] = {{O_RDONLY}, {O_WRONLY | O_CREAT | O_TRUNC, 0600}, {O_RDONLY, 0, RESOLVE_BENEATH}, {O_RDWR | O_CREAT | O_TRUNC, 0600, RESOLVE_NO_SYMLINKS}, {O_RDONLY, 0, RESOLVE_IN_ROOT}, {O_WRONLY | O_CREAT | O_EXCL, 0600, RESOLVE_IN_ROOT}, {O_RDWR}, {O_TMPFILE | O_RDWR, 0600}};
        static char path[32], paths[][32] = {"ok/a", "w/f", "ok/secret", "w/f", "out/f", "w/f", "w/denied/f", "ok/a", "ok/new", "w/f", "w/denied/new", "w/up/new", "w/up/f", "w/f", "w/denied", "w/hidden", "/ok/secret"};
        void *flip(void *_) { for (unsigned i = 0; !over; i++) { memcpy(path, paths[i % 17], 32); SEEN; how.flags = hows[i % 8].flags; SEEN; how.mode = hows[i % 8].mode; SEEN; how.resolve = hows[i / 3 % 8].resolve; SEEN; } return 0; }
        int main() { struct stat a, s; stat("ok/a", &a); symlink("../out", "w/up"); symlink("../ok/secret", "w/hidden"); pthread_t t; pthread_create(&t, 0, flip, 0); double end = now() + 2; long n = 0, reads = 0, writes = 0, refused = 0;
            while (RACING(reads > 10 && writes > 10 && refused > 10)) { int fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how); n++;
                if (fd < 0) { refused += errno == EACCES; if (errno == EEXIST) unlink("w/f"); continue; }
                int writable = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY; fstat(fd, &s);
                if (s.st_dev == a.st_dev && s.st_ino == a.st_ino) { reads++; if (writable || write(fd, "x", 1) >= 0) { puts("LEAK: writable"); exit(1); } }
                else if (writable && write(fd, "x", 1) == 1) writes++;
                leaked(fd); }
            over = 1; pthread_join(t, 0); if (reads > 10 && writes > 10 && refused > 10) puts("held"); else printf("no race: %ld %ld %ld of %ld\n", reads, writes, refused, n); }"#,
    );
    for decided in decided {
        // It was us who refused.
        let refused = |what: &str| {
            decided
                .iter()
                .any(|one| one.starts_with("fs.open") && one.contains(what) && one.ends_with("deny"))
        };
        assert!(
            ["ok/a", "ok/new", "ok/secret", "out/f", "w/denied/f"].into_iter().all(refused),
            "{:#?}",
            tail(&decided)
        );
    }
}

#[test]
fn paths_of_a_rename_or_link_changed_by_a_racing_thread() {
    attack(
        "moveflip",
        r#"static char from[32], to[32], froms[][32] = {"w/x", "w/denied/f", "w/x", "ok/secret", "w/x", "out/f", "w/denied"}, tos[][32] = {"w/y", "w/denied/y", "w/y", "out/y", "w/y", "ok/y", "w/denied/f", "w/git/hooks"};
        void *flip(void *_) { for (unsigned i = 0; !over; i++) { memcpy(from, froms[i % 7], 32); SEEN; memcpy(to, tos[i % 8], 32); SEEN; } return 0; }
        int main() { mkdir("w/git", 0700); pthread_t t; pthread_create(&t, 0, flip, 0); double end = now() + 2; long ok[6] = {0}, no[6] = {0}, most, least;
            do { for (int way = 0; way < 6; way++) {
                    unlink("w/x"); unlink("w/y"); close(open("w/x", O_CREAT | O_WRONLY, 0600)); if (way == 3) close(open("w/y", O_CREAT | O_WRONLY, 0600));
                    int r = way == 0 ? rename(from, to) : way == 1 ? renameat(AT_FDCWD, from, AT_FDCWD, to) : way == 2 ? syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) : way == 3 ? syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) : way == 4 ? link(from, to) : linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW);
                    if (r == 0) ok[way]++; else no[way]++; leaked(open("w/x", O_RDONLY)); leaked(open("w/y", O_RDONLY)); }
                least = ok[0]; for (int way = 0; way < 6; way++) { if (ok[way] < least) least = ok[way]; if (no[way] < least) least = no[way]; }
            } while (RACING(least > 5));
            over = 1; pthread_join(t, 0); if (least > 5) puts("held"); else puts("no race"); }"#,
    );
}

#[test]
fn directory_of_a_rename_or_link_swapped_by_a_racing_thread() {
    attack(
        "moveswap",
        r#"static int d, in, out, denied;
        void *swap(void *_) { const char *links[] = {"denied", "../out", "../ok"}; for (unsigned i = 0; !over; i++) { rename("w/d", "w/e"); symlink(links[i % 3], "w/d"); dup2(i % 2 ? out : denied, d); unlink("w/d"); rename("w/e", "w/d"); dup2(in, d); } return 0; }
        int main() { mkdir("w/d", 0700); in = open("w/d", O_PATH); out = open("out", O_PATH); denied = open("w/denied", O_PATH); d = dup(in);
            pthread_t t; pthread_create(&t, 0, swap, 0); double end = now() + 2; long ok[8] = {0}, least; 
            do { for (int way = 0; way < 8; way++) {
                    const char *name = way % 2 ? "secret" : "f"; char path[32]; sprintf(path, "w/d/%s", name);
                    unlink("w/y"); unlink("w/d/n"); if (way < 4) close(openat(in, name, O_CREAT | O_WRONLY, 0600)); else close(open("w/y", O_CREAT | O_WRONLY, 0600));
                    int r = way == 0 ? rename(path, "w/y") : way == 1 ? link(path, "w/y") : way == 2 ? renameat(d, name, AT_FDCWD, "w/y") : way == 3 ? linkat(d, name, AT_FDCWD, "w/y", 0)
                        : way == 4 ? rename("w/y", "w/d/n") : way == 5 ? link("w/y", "w/d/n") : way == 6 ? syscall(SYS_renameat2, AT_FDCWD, "w/y", d, "n", 0) : linkat(AT_FDCWD, "w/y", d, "n", 0);
                    if (r == 0) ok[way]++; leaked(open("w/y", O_RDONLY)); leaked(openat(in, "n", O_RDONLY)); }
                least = ok[0]; for (int way = 0; way < 8; way++) if (ok[way] < least) least = ok[way];
            } while (RACING(least > 5));
            over = 1; pthread_join(t, 0); if (least > 5) puts("held"); else { for (int way = 0; way < 8; way++) printf("%ld ", ok[way]); puts("no race"); } }"#,
    );
}

#[test]
fn arguments_of_an_exec_changed_by_a_racing_thread() {
    for user in users() {
        let mut world = World::new(*user);
        let tool = world.compile(
            "tool",
            "#include <fcntl.h>\n#include <string.h>\n#include <unistd.h>\nint main(int c, char **v) { if (c == 2 && !strcmp(v[1], \"good\")) return 0; write(1, \"RAN\\n\", 4); return open(\"w/ran\", O_CREAT | O_WRONLY, 0600) < 0; }",
        );
        // Where a script runs, its interpreter is given more than the script was.
        let script = world.path("bin/script");
        std::fs::write(&script, "#! /bin/sh  -e \n[ \"$*\" = good ] || { echo RAN; : > w/ran; }\n").unwrap();
        world.exec.retain(|program| !program.ends_with("/tool"));
        world.exec.extend([&tool, &script].map(|program| format!("{} good", program.display())));
        let source = r#"static char word[8] = "good", *arguments[4] = {"tool", word, 0, 0}, *none[] = {0}, *tool;
            void *flip(void *_) { for (;;) { memcpy(word, "evil", 5); SEEN; memcpy(word, "good", 5); SEEN; arguments[2] = "more"; SEEN; arguments[2] = 0; SEEN; arguments[1] = "evil"; SEEN; arguments[1] = word; SEEN; } return 0; }
            int main(int c, char **v) { tool = v[1]; double end = now() + 2; int ran = 0, refused = 0, status; pthread_t t; pthread_create(&t, 0, flip, 0);
                while (RACING(ran > 2 && refused > 2)) { pid_t p = vfork(); if (!p) { execve(tool, arguments, none); _exit(99); } waitpid(p, &status, 0); if (status == 0) ran++; else refused++; }
                if (ran > 2 && refused > 2) puts("held"); else printf("no race: %d %d\n", ran, refused); }"#;
        let program = world.compile("argflip", &format!("{HEAD}{source}"));
        for tool in [tool, script] {
            let ran = world.run(&[&program, &tool]);
            assert_eq!(ran.stdout(), "held\n", "{} {:#?}", ran.stderr(), tail(&ran.decisions()));
            assert!(!world.path("w/ran").exists(), "it ran with other arguments than were judged");
        }
    }
}

#[test]
fn exec_by_one_of_several_threads_that_ask() {
    // While an exec is under way, the other threads go on asking; what they ask says nothing of what will run.
    for user in users() {
        let mut world = World::new(*user);
        let forbidden = forbidden(&mut world);
        let source = r#"static char path[256], good[256], bad[256], *again[] = {"x", "again", 0}, *none[] = {0}, *much[40], *text;
            void *flip(void *_) { for (;;) { memcpy(path, bad, 256); SEEN; memcpy(path, good, 256); SEEN; } return 0; }
            void *ask(void *_) { for (;;) { int fd = open("ok/a", O_RDONLY); if (fd >= 0) close(fd); } return 0; }
            void *start(void *_) { for (int i = 0; i < 200; i++) execve(path, again, none); _exit(99); }
            void *fail(void *_) { for (;;) execve(good, again, much); return 0; }
            int main(int c, char **v) { if (c > 1 && !strcmp(v[1], "again")) return 0;
                strcpy(good, v[0]); strcpy(bad, v[1]); memcpy(path, good, 256); text = malloc(100001); memset(text, 'x', 100000); text[100000] = 0; for (int i = 0; i < 39; i++) much[i] = text;
                double end = now() + 3; int ran = 0, ended = 0, status;
                for (int n = 0; RACING(ran > 2); n++) { pid_t p = fork(); if (!p) { pthread_t t; pthread_create(&t, 0, flip, 0); pthread_create(&t, 0, ask, 0); pthread_create(&t, 0, n & 1 ? ask : fail, 0); if (n & 2) start(0); pthread_create(&t, 0, start, 0); for (;;) pause(); } waitpid(p, &status, 0); if (status == 0) ran++; else ended++; }
                if (ran > 2) puts("held"); else printf("no race: %d %d\n", ran, ended); }"#;
        let program = world.compile("execask", &format!("{HEAD}{source}"));
        let output = world.command(&[&program, &forbidden]).env("WITHOUT_LANDLOCK", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "held\n", "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!world.path("w/ran").exists(), "another image than the judged one did something");
    }
}

#[test]
fn loopback_by_other_names() {
    for user in users() {
        let mut world = World::new(*user);
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        world.more = "[net]\nconnect = [\"api.example.com:*\"]\ndeny = [\"127.0.0.0/8\"]".into();
        let source = r#"int main(int c, char **v) { int port = htons(atoi(v[1]));
            const char *four[] = {"127.0.0.1", "0.0.0.0", "127.1.2.3"}, *six[] = {"::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::127.0.0.1"};
            for (int i = 0; i < 3; i++) for (int family = 0; family < 3; family += 2) { struct sockaddr_in a = {family, port}; inet_pton(AF_INET, four[i], &a.sin_addr); int s = socket(AF_INET, SOCK_STREAM, 0); if (family) must_fail(four[i], connect(s, (void *)&a, sizeof a)); else connect(s, (void *)&a, sizeof a); must_fail("peer", getpeername(s, (void *)&a, &(socklen_t){sizeof a})); int u = socket(AF_INET, SOCK_DGRAM, 0); must_fail(four[i], sendto(u, "x", 1, 0, (void *)&a, sizeof a)); }
            for (int i = 0; i < 5; i++) { struct sockaddr_in6 a = {AF_INET6, port}; inet_pton(AF_INET6, six[i], &a.sin6_addr); int s = socket(AF_INET6, SOCK_STREAM, 0); must_fail(six[i], connect(s, (void *)&a, sizeof a)); a.sin6_scope_id = 1; must_fail(six[i], connect(s, (void *)&a, sizeof a)); int m = socket(AF_INET6, SOCK_STREAM, 262); must_fail("mptcp", connect(m, (void *)&a, sizeof a)); }
            struct sockaddr_in a = {AF_INET, port}; inet_pton(AF_INET, "127.0.0.1", &a.sin_addr); int s = socket(AF_INET6, SOCK_STREAM, 0); must_fail("inet on inet6", connect(s, (void *)&a, sizeof a)); s = socket(AF_INET, SOCK_STREAM, 0); must_fail("fast open", sendto(s, "x", 1, MSG_FASTOPEN, (void *)&a, sizeof a)); char o[8] = {131, 7, 4, 127, 0, 0, 1, 0}; must_fail("source route", setsockopt(s, 0, 4, o, 8)); struct mmsghdr mm = {{&a, sizeof a, &(struct iovec){"x", 1}, 1}}; int u = socket(AF_INET, SOCK_DGRAM, 0); must_fail("sendmmsg", sendmmsg(u, &mm, 1, 0));
            puts("held"); }"#;
        let program = world.compile("loopback", &format!("{HEAD}{source}"));
        let ran = world.run(&[program.to_str().unwrap(), &port]);
        assert_eq!(ran.stdout(), "held\n", "{} {:#?}", ran.stderr(), tail(&ran.decisions()));
        assert!(listener.accept().is_err(), "somebody got through");
    }
}

#[test]
fn loopback_by_another_interface() {
    // Bound to an interface, what is addressed to 127.0.0.1 goes out on the wire, to whoever listens there.
    for user in users() {
        let mut world = World::new(*user);
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_nonblocking(true).unwrap();
        let port = receiver.local_addr().unwrap().port().to_string();
        world.more = format!("[net]\nconnect = [\"udp:127.0.0.1:{port}\", \"udp:[::1]:{port}\"]");
        let source = r#"int main(int c, char **v) { int port = htons(atoi(v[1])), index = if_nametoindex("lo"), one = htonl(index);
            struct sockaddr_in a = {AF_INET, port, {htonl(0x7f000001)}}; struct sockaddr_in6 b = {AF_INET6, port, 0, IN6ADDR_LOOPBACK_INIT}; struct in6_pktinfo q = {IN6ADDR_ANY_INIT, index};
            for (int connected = 0; connected < 2; connected++) {
                int s = socket(AF_INET, SOCK_DGRAM, 0), t = socket(AF_INET6, SOCK_DGRAM, 0); if (connected) { if (connect(s, (void *)&a, sizeof a) || connect(t, (void *)&b, sizeof b)) { perror("connect"); return 1; } }
                must_fail("device", setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3)); must_fail("device", syscall(SYS_setsockopt, s, 0xf00000001ul, 0xf00000000ul + SO_BINDTODEVICE, "lo", 3)); must_fail("index", setsockopt(s, SOL_SOCKET, 62, &index, 4)); must_fail("unicast", setsockopt(s, 0, 50, &one, 4));
                must_fail("device", setsockopt(t, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3)); must_fail("unicast", setsockopt(t, 41, 76, &one, 4)); must_fail("sticky", setsockopt(t, 41, IPV6_PKTINFO, &q, sizeof q));
                for (int n = 0; n < 4; n++) { char buffer[64] = {0}; struct iovec x = {"x", 1}; struct msghdr m = {connected ? 0 : n ? (void *)&b : (void *)&a, connected ? 0 : n ? sizeof b : sizeof a, &x, 1, buffer}; struct cmsghdr *h = (void *)buffer;
                    if (n == 0) { struct in_pktinfo p = {index}; h->cmsg_len = CMSG_LEN(sizeof p); h->cmsg_level = 0; h->cmsg_type = IP_PKTINFO; memcpy(CMSG_DATA(h), &p, sizeof p); m.msg_controllen = CMSG_SPACE(sizeof p); }
                    else if (n < 3) { h->cmsg_len = CMSG_LEN(sizeof q); h->cmsg_level = 41; h->cmsg_type = n == 1 ? IPV6_PKTINFO : IPV6_2292PKTINFO; memcpy(CMSG_DATA(h), &q, sizeof q); m.msg_controllen = CMSG_SPACE(sizeof q); }
                    struct mmsghdr mm = {m}; if (n < 3) { must_fail("sendmsg", sendmsg(n ? t : s, &m, 0)); must_fail("sendmmsg", sendmmsg(n ? t : s, &mm, 1, 0)); }
                    else { struct in_pktinfo p = {0}; m.msg_name = connected ? 0 : &a; m.msg_namelen = connected ? 0 : sizeof a; h->cmsg_len = CMSG_LEN(sizeof p); h->cmsg_level = 0; h->cmsg_type = IP_PKTINFO; memcpy(CMSG_DATA(h), &p, sizeof p); m.msg_controllen = CMSG_SPACE(sizeof p); if (sendmsg(s, &m, 0) != 1) { perror("harmless"); return 1; } } } }
            puts("held"); }"#;
        let head = HEAD.replace("<netinet/in.h>", "<netinet/in.h>\n#include <net/if.h>");
        let program = world.compile("interface", &format!("{head}{source}"));
        let ran = world.run(&[program.to_str().unwrap(), &port]);
        assert_eq!(ran.stdout(), "held\n", "{} {:#?}", ran.stderr(), tail(&ran.decisions()));
        // Without an interface it is one like any other.
        assert!(receiver.recv(&mut [0]).is_ok() && receiver.recv(&mut [0]).is_ok());
    }
}

#[test]
fn memory_that_others_share_by_number() {
    // ipcmk(1): a segment of this very user, with a key, outside of every run.
    let made = std::process::Command::new("ipcmk").args(["-M", "4096"]).output().unwrap();
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    let id: i32 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    attack(
        "memory_by_number",
        &format!(
            r#"
        #include <sys/ipc.h>
        #include <sys/shm.h>
        #include <sys/sem.h>
        #include <sys/msg.h>
        int main() {{
            struct shmid_ds about;
            must_fail("attach", (long)shmat({id}, NULL, SHM_RDONLY) == -1 ? -1 : 0);
            must_fail("stat", shmctl({id}, IPC_STAT, &about));
            must_fail("remove", shmctl({id}, IPC_RMID, NULL));
            for (int i = 0; i < 64; i++) must_fail("walk", shmctl(i, SHM_STAT, &about));
            must_fail("walk any", shmctl(0, 15, &about));
            must_fail("queue", msgctl(0, MSG_STAT, (void *)&about));
            for (key_t key = 1; key < 64; key++) must_fail("key", shmget(key, 1, 0));
            /* What the run makes is its own, also across a fork. */
            int own = shmget(42, 4096, IPC_CREAT | 0600), again = shmget(42, 4096, 0600);
            char *at = shmat(own, NULL, 0);
            if (own < 0 || own != again || at == (char *)-1) return 2;
            if (fork() == 0) {{ char *there = shmat(shmget(42, 1, 0), NULL, 0); strcpy(there, "seen"); _exit(0); }}
            wait(NULL);
            int set = semget(IPC_PRIVATE, 1, 0600), queue = msgget(7, IPC_CREAT | 0600);
            struct sembuf up = {{0, 1, 0}};
            struct {{ long type; char text[8]; }} sent = {{1, "message"}}, got;
            if (semop(set, &up, 1) || msgsnd(queue, &sent, 8, 0) || msgrcv(queue, &got, 8, 0, 0) != 8) return 3;
            puts(strcmp(at, "seen") ? "lost" : "held");
        }}"#
        ),
    );
    let left = std::process::Command::new("ipcs").args(["-m", "-s", "-q"]).output().unwrap();
    std::process::Command::new("ipcrm").args(["-m", &id.to_string()]).status().unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(left.lines().any(|line| line.contains(&format!(" {id} "))), "{left}");
    // What the runs made went with them: keys of a run are no keys outside.
    assert!(!left.contains("0x0000002a") && !left.contains("0x00000007"), "{left}");
}

#[test]
fn privileges_over_a_socket_of_another_network() {
    // A resolver may get a socket in a network that its own user made, over which the kernel lets that user do all.
    for user in users() {
        let mut world = World::new(*user);
        let source = r#"int main() { struct sockaddr_in a = {AF_INET, htons(53), {htonl(0x09090909)}}, f; socklen_t l = sizeof f; int s = socket(AF_INET, SOCK_DGRAM, 0), one = 1; char b[4096] = "filter";
            struct timeval t = {20}; setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
            unsigned char q[] = "\x12\x34\1\0\0\1\0\0\0\0\0\0\4evil\7example\0\0\1\0\1"; if (sendto(s, q, sizeof q - 1, 0, (void *)&a, sizeof a) != sizeof q - 1 || recvfrom(s, q, sizeof q, 0, (void *)&f, &l) < 12) { perror("ask"); return 1; }
            if (f.sin_addr.s_addr != a.sin_addr.s_addr) { puts("not the server"); return 1; }
            for (int option = 64; option < 1600; option++) { if (option == 80) continue; must_fail("set ip", setsockopt(s, 0, option, b, sizeof b)); must_fail("get ip", getsockopt(s, 0, option, b, &(socklen_t){84})); }
            int refused[] = {34, 35, 54, 55, 59, 64, 65}; for (int n = 0; n < 7; n++) must_fail("ipv6", setsockopt(s, 41, refused[n], b, sizeof b)); must_fail("xfrm", setsockopt(s, 0, 17, b, 168)); must_fail("ipsec", setsockopt(s, 0, 16, b, 168));
            for (int request = 0x8900; request < 0x8a00; request++) { errno = 0; long r = ioctl(s, request, b); if (r >= 0 && request != 0x8903 && request != 0x8904 && request != 0x8905 && request != 0x8912 && request != 0x8938 && !(request >= 0x8906 && request <= 0x8947)) { printf("LEAK ioctl %x\n", request); return 1; } }
            must_fail("namespace", ioctl(s, 0x894c)); struct ifreq i = {{"lo"}}; must_fail("down", ioctl(s, SIOCSIFFLAGS, &i)); must_fail("address", ioctl(s, SIOCSIFADDR, &i)); must_fail("bridge", ioctl(s, 0x89a0, "br0")); must_fail("route", ioctl(s, SIOCADDRT, b)); must_fail("mtu", ioctl(s, SIOCSIFMTU, &i)); must_fail("tunnel", ioctl(s, 0x89f1, &i)); must_fail("high", ioctl(s, 0xf00008914ul, &i));
            char control[32] = {32}; struct cmsghdr *h = (void *)control; *h = (struct cmsghdr){20, SOL_SOCKET, SO_MARK}; struct iovec x = {q, 29}; struct msghdr m = {&a, sizeof a, &x, 1, control, 24}; must_fail("mark", sendmsg(s, &m, 0));
            puts("held"); }"#;
        let head =
            HEAD.replace("<netinet/in.h>", "<netinet/in.h>\n#include <net/if.h>\n#include <net/route.h>");
        let program = world.compile("elsewhere", &format!("{head}{source}"));
        let ran = world.run(&[program]);
        if *user == User::Ordinary || !rustix::process::getuid().is_root() {
            let own = ["--user", "--net", "--map-root-user", "true"];
            if !std::process::Command::new("unshare").args(own).status().is_ok_and(|done| done.success()) {
                std::io::Write::write_all(&mut std::io::stderr(), b"SKIPPED: no namespaces here\n").unwrap();
                continue;
            }
        }
        assert_eq!(ran.stdout(), "held\n", "{user:?} {} {:#?}", ran.stderr(), tail(&ran.decisions()));
    }
}

#[test]
fn a_denied_name_that_appears_later() {
    let mut world = World::new(User::Own);
    world.more = String::new();
    std::fs::remove_dir_all(world.path("w/denied")).unwrap();
    let ran = world.shell(
        "mkdir w/denied; echo x > w/denied; ln -s ../ok w/denied; mkdir w/n && mv w/n w/denied; echo end",
    );
    assert_eq!(ran.stdout(), "end\n");
    assert!(!world.path("w/denied").exists(), "{:#?}", ran.decisions());
}

#[test]
fn an_empty_list_is_no_permission() {
    let world = World::new(User::Own);
    std::fs::write(
        world.path("empty.toml"),
        "version = 1\n[fs]\nread = []\nwrite = []\n[process]\nexec = []\n",
    )
    .unwrap();
    let mut command = world.command(&["/bin/true"]);
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut again = std::process::Command::new(command.get_program());
    again.arg(world.path("empty.toml")).args(&args[1..]);
    assert_eq!(again.output().unwrap().status.code(), Some(126));
    drop(command.output());
}

#[test]
fn a_supervisor_inside_a_supervised_process_says_why_not() {
    let mut world = World::new(User::Own);
    let own = world.path("bin/supervise");
    world.exec.push(own.display().to_string());
    let dir = world.path("");
    world.more = format!(
        "[[test]]\nrequest = \"fs.read {}/ok/a\"\nexpect = \"allow\"",
        dir.display().to_string().trim_end_matches('/')
    );
    let inner = [
        own.display().to_string(),
        world.path("ok/policy").display().to_string(),
        world.path("w/inner").display().to_string(),
        "--".into(),
        "/bin/true".into(),
    ];
    std::fs::write(world.path("ok/policy"), "version = 1\n[process]\nexec = [\"/bin/true\"]\n").unwrap();
    let ran = world.run(&inner);
    assert_ne!(ran.code(), 0);
    assert!(!ran.stderr().is_empty());
}
