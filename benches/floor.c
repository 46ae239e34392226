// What supervision by user notification costs by itself: runs a command under an otherwise empty supervisor, which decides
// nothing, records nothing, and does no more than any supervisor must that never lets the kernel read a name or an
// address a second time. Usage: floor MODE COMMAND [ARGUMENT...]
//   exec       no supervisor at all: fork, exec, wait
//   continue   opens are notified, and the kernel goes on with them, which can hold nothing against a racing thread
//   emulate    an open: the path is copied, opened and the descriptor injected; a connect: the address is copied, the socket
//              duplicated and connected; an exec goes on, since nothing else is possible
//   confine    the same, within a Landlock domain
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS // Linux 6.6
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, __u64)
#endif
#define WAKE_IN_PLACE 1 // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define GIVE(value) BPF_STMT(BPF_RET | BPF_K, value)
#define IF(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1)

static int listener, emulate;

static void must(int held, const char *what) {
    if (!held) { perror(what); _exit(125); }
}

// ---- the program's side -----------------------------------------------------------------------------------------------

static int filtered(void) {
    const __u32 ask = SECCOMP_RET_USER_NOTIF, more = emulate ? ask : SECCOMP_RET_ALLOW;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        IF(SYS_openat), GIVE(ask),
        IF(SYS_connect), GIVE(more),
        IF(SYS_execve), GIVE(more),
        // Its flags lie in memory, where namespaces could be among them; the C library falls back to clone.
        IF(SYS_clone3), GIVE(SECCOMP_RET_ERRNO | ENOSYS),
        GIVE(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

// A domain with one rule: everything may be read and run, and nothing written but below /tmp and /dev.
static void enter_domain(void) {
    const __u64 read = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE;
    struct landlock_ruleset_attr all = {.handled_access_fs = read | LANDLOCK_ACCESS_FS_WRITE_FILE};
    int rules = syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
    must(rules >= 0, "landlock_create_ruleset");
    struct { const char *path; __u64 rights; } trees[] = {
        {"/", read}, {"/tmp", all.handled_access_fs}, {"/dev", all.handled_access_fs}};
    for (size_t n = 0; n < sizeof trees / sizeof *trees; n++) {
        int tree = open(trees[n].path, O_PATH | O_CLOEXEC);
        struct landlock_path_beneath_attr rule = {.allowed_access = trees[n].rights, .parent_fd = tree};
        must(!syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), "landlock_add_rule");
        close(tree);
    }
    must(!syscall(SYS_landlock_restrict_self, rules, 0), "landlock_restrict_self");
    close(rules);
}

// ---- the supervisor's side --------------------------------------------------------------------------------------------

static long copied(pid_t pid, __u64 address, void *out, size_t len) {
    struct iovec local = {out, len}, remote = {(void *)address, len};
    return process_vm_readv(pid, &local, 1, &remote, 1, 0);
}

static void answer(__u64 id, int error, unsigned flags) {
    struct seccomp_notif_resp response = {.id = id, .error = -error, .flags = flags};
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

// A path may end where its page does, and what follows not be mapped: less is read then.
static void open_for(const struct seccomp_notif *call) {
    char path[256];
    if (copied(call->pid, call->data.args[1], path, sizeof path) <= 0) return answer(call->id, EFAULT, 0);
    int dir = call->data.args[0];
    if (path[0] != '/' && dir != AT_FDCWD) return answer(call->id, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call->id)) return;
    int flags = call->data.args[2];
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
    if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) how.mode = call->data.args[3] & 07777;
    int fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    if (fd < 0) return answer(call->id, errno, 0);
    struct seccomp_notif_addfd add = {
        .id = call->id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = fd, .newfd_flags = flags & O_CLOEXEC};
    ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
    close(fd);
}

static void connect_for(const struct seccomp_notif *call) {
    static _Thread_local pid_t of;
    static _Thread_local int pidfd = -1;
    if (of != (pid_t)call->pid) {
        if (pidfd >= 0) close(pidfd);
        pidfd = syscall(SYS_pidfd_open, of = call->pid, 0);
    }
    struct sockaddr_storage address;
    size_t len = call->data.args[2] < sizeof address ? call->data.args[2] : sizeof address;
    if (copied(call->pid, call->data.args[1], &address, len) != (long)len) return answer(call->id, EFAULT, 0);
    int fd = syscall(SYS_pidfd_getfd, pidfd, call->data.args[0], 0);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call->id)) return;
    int failed = fd < 0 || connect(fd, (struct sockaddr *)&address, len) ? errno : 0;
    answer(call->id, failed, 0);
    if (fd >= 0) close(fd);
}

static void *supervise(void *nothing) {
    for (;;) {
        struct seccomp_notif call = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) {
            struct pollfd left = {.fd = listener};
            poll(&left, 1, 0);
            if (left.revents & POLLHUP) return nothing;
            continue;
        }
        if (emulate && call.data.nr == SYS_openat) open_for(&call);
        else if (emulate && call.data.nr == SYS_connect) connect_for(&call);
        else answer(call.id, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
    }
}

int main(int count, char **argv) {
    if (count < 3) return 2;
    const char *mode = argv[1];
    int bare = !strcmp(mode, "exec");
    emulate = strcmp(mode, "continue") != 0;
    int told[2];
    must(!pipe2(told, O_CLOEXEC), "pipe");
    // The table of descriptors is shared until the exec, so that the listener is there for both.
    pid_t program = syscall(SYS_clone, bare ? SIGCHLD : SIGCHLD | CLONE_FILES, 0, 0, 0, 0);
    must(program >= 0, "clone");
    if (!program) {
        if (!bare) {
            must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
            if (!strcmp(mode, "confine")) enter_domain();
            int fd = filtered();
            must(fd >= 0 && write(told[1], &fd, sizeof fd) == sizeof fd, "seccomp");
        }
        execvp(argv[2], argv + 2);
        must(0, "exec");
    }
    if (!bare) {
        must(read(told[0], &listener, sizeof listener) == sizeof listener, "listener");
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, WAKE_IN_PLACE);
        // Of two that take turns the one that comes back keeps a second processor awake; with one there is nothing to keep.
        cpu_set_t ours;
        pthread_t other;
        if (!sched_getaffinity(0, sizeof ours, &ours) && CPU_COUNT(&ours) > 1) pthread_create(&other, 0, supervise, 0);
        supervise(0);
    }
    int status;
    must(waitpid(program, &status, 0) == program, "wait");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
