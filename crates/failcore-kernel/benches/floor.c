// The floor that the supervisor is compared with: a loop of open and close, bare or under an otherwise empty
// supervisor. Usage: floor bare|continue|emulate PATH COUNT [pinned]; prints nanoseconds per open and close.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int listener, emulate, agent;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void loop(const char *path, long count) {
    // The best of two hundred parts: what else the machine does is not counted.
    double best = 1e18;
    for (int part = 0; part < 200; part++) {
        double start = now();
        for (long n = 0; n < count / 200; n++) {
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd < 0) { perror("open"); _exit(1); }
            close(fd);
        }
        double each = (now() - start) / (count / 200);
        if (each < best) best = each;
    }
    printf("%.0f\n", best);
}

static void *supervise(void *_) {
    for (;;) {
        struct seccomp_notif call = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) {
            if (errno == ENOENT || errno == EINTR) continue;
            return 0;
        }
        if (emulate) {
            char path[256];
            struct iovec local = {path, 256}, remote = {(void *)call.data.args[1], 256};
            process_vm_readv(call.pid, &local, 1, &remote, 1, 0);
            ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call.id);
            struct open_how how = {.flags = O_RDONLY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS};
            int fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
            struct seccomp_notif_addfd add = {.id = call.id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = fd, .newfd_flags = O_CLOEXEC};
            ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
            close(fd);
        } else {
            struct seccomp_notif_resp go = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
            ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &go);
        }
    }
}

int main(int count, char **argv) {
    if (count < 4) return 2;
    emulate = !strcmp(argv[1], "emulate");
    if (count > 4) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        sched_setaffinity(0, sizeof one, &one);
    }
    if (!strcmp(argv[1], "bare")) { loop(argv[2], atol(argv[3])); return 0; }
    int pipes[2], go[2];
    pipe(pipes); pipe(go);
    agent = fork();
    if (!agent) {
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {4, code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
        write(pipes[1], &fd, sizeof fd);
        char byte;
        read(go[0], &byte, 1);
        loop(argv[2], atol(argv[3]));
        fflush(stdout);
        _exit(0);
    }
    int fd;
    read(pipes[0], &fd, sizeof fd);
    listener = syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, agent, 0), fd, 0);
    ioctl(listener, _IOW('!', 4, __u64), 1);
    pthread_t thread;
    pthread_create(&thread, 0, supervise, 0);
    write(go[1], "x", 1);
    waitpid(agent, 0, 0);
    _exit(0);
}
