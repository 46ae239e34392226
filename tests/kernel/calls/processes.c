/* Processes: starting images in every way, signals, limits, and what is refused. */
#include "say.h"
#include <sched.h>
#include <spawn.h>
#include <sys/fanotify.h>
#include <sys/prctl.h>

extern char **environ;
static int caught, bell[2];
static void catch(int number) {
    caught = number;
    if (number == SIGALRM) write(bell[1], "!", 1);
}

/* What a child does, by its exit code: an errno, or that of the image. */
#define CHILD(call)                                                                                                \
    ({                                                                                                             \
        fflush(stdout);                                                                                            \
        int child_ = fork(), status_;                                                                              \
        if (!child_) { call; _exit(errno); }                                                                       \
        waitpid(child_, &status_, 0);                                                                              \
        printf("%s: %s %d\n", #call, WIFEXITED(status_) ? "exit" : "signal",                                       \
               WIFEXITED(status_) ? WEXITSTATUS(status_) : WTERMSIG(status_));                                     \
    })

static int in_thread(void *how) {
    _exit((int)(long)how);
}

int main(int argc, char **argv) {
    char *args[] = {"sh", "-c", "exit 42", 0}, *name[] = {"name", 0}, *none[] = {0};
    umask(022);
    put("script", "#!/bin/sh\nexit 43\n");
    chmod("script", 0755);
    put("bad", "#!/nowhere/interpreter\n");
    chmod("bad", 0755);
    put("loop", "#!loop\n");
    chmod("loop", 0755);
    put("text", "no program");
    chmod("text", 0755);
    put("closed", "#!/bin/sh\n");
    chmod("closed", 0644);
    put("empty", "");
    chmod("empty", 0755);
    symlink("/bin/sh", "to_sh");
    mkdir("d", 0755);

    SECTION("exec");
    CHILD(execve("/bin/sh", args, environ));
    CHILD(execve("to_sh", args, environ));
    CHILD(execve("script", name, environ));
    CHILD(execve("./script", name, environ));
    CHILD(execve("bad", name, environ));
    CHILD(execve("loop", name, environ));
    CHILD(execve("text", name, environ));
    CHILD(execve("empty", name, environ));
    CHILD(execve("closed", name, environ));
    CHILD(execve("missing", name, environ));
    CHILD(execve("d", name, environ));
    CHILD(execve("script/", name, environ));
    CHILD(execve("script/x", name, environ));
    CHILD(execve("", name, environ));
    CHILD(execve(NULL, name, environ));
    CHILD(execve("/bin/sh", NOWHERE, environ));
    CHILD(execve("/bin/sh", args, NOWHERE));
    CHILD(execve("/bin/sh", args, NULL));
    CHILD(execvp("sh", args));
    CHILD(execlp("nowhere_at_all", "x", NULL));
    int sh = open("/bin/sh", O_RDONLY | O_CLOEXEC), way = open("/bin/sh", O_PATH), dir = open("/bin", O_PATH), script = open("script", O_RDONLY);
    CHILD(fexecve(sh, args, environ));
    CHILD(syscall(SYS_execveat, way, "", args, environ, AT_EMPTY_PATH));
    CHILD(syscall(SYS_execveat, dir, "sh", args, environ, 0));
    CHILD(syscall(SYS_execveat, AT_FDCWD, "to_sh", args, environ, AT_SYMLINK_NOFOLLOW));
    CHILD(syscall(SYS_execveat, 99, "sh", args, environ, 0));
    CHILD(syscall(SYS_execveat, way, "", args, environ, 0));
    CHILD(syscall(SYS_execveat, dir, "sh", args, environ, 1));
    CHILD(fexecve(script, name, environ));
    char *big = malloc(200000), *huge[] = {"sh", "-c", "exit ${#1}", big, 0};
    memset(big, 'x', 199999), big[199999] = 0;
    CHILD(execve("/bin/sh", huge, environ));
    int memory = memfd_create("program", 0), from = open("/bin/true", O_RDONLY);
    static char bytes[1 << 22];
    write(memory, bytes, read(from, bytes, sizeof bytes));
    CHILD(fexecve(memory, name, environ));

    SECTION("starting");
    signal(SIGUSR2, catch);
    int status;
    pid_t child = vfork();
    if (!child) execve("/bin/sh", args, environ), _exit(1);
    T(waitpid(child, &status, 0) == child);
    D(WEXITSTATUS(status));
    T(posix_spawn(&child, "/bin/sh", 0, 0, args, environ));
    T(waitpid(child, &status, 0) == child);
    D(WEXITSTATUS(status));
    T(posix_spawn(&child, "missing", 0, 0, args, environ));
    T(posix_spawnp(&child, "sh", 0, 0, args, environ));
    T(waitpid(child, &status, 0) == child);
    static char stack[65536];
    child = clone(in_thread, stack + sizeof stack, CLONE_VM | SIGCHLD, (void *)5);
    T(waitpid(child, &status, 0) == child);
    D(WEXITSTATUS(status));
    child = clone(in_thread, stack + sizeof stack, CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_VM | SIGCHLD, (void *)6);
    T(waitpid(child, &status, 0) == child);
    D(WEXITSTATUS(status));
    child = clone(in_thread, stack + sizeof stack, SIGUSR2, (void *)7);
    T(waitpid(child, &status, __WALL) == child);
    T(clone(in_thread, stack + sizeof stack, CLONE_SIGHAND | SIGCHLD, (void *)8));
    T(clone(in_thread, stack + sizeof stack, CLONE_THREAD | SIGCHLD, (void *)8));
    int pidfd = -1;
    child = clone(in_thread, stack + sizeof stack, CLONE_PIDFD | SIGCHLD, (void *)9, &pidfd);
    D(pidfd >= 0);
    T(waitpid(child, &status, 0) == child);
    D(system("exit 3") >> 8);
    D(pclose(popen("exit 4", "r")) >> 8);

    SECTION("signals");
    signal(SIGUSR1, catch);
    T(kill(getpid(), SIGUSR1));
    D(caught == SIGUSR1);
    T(kill(getpid(), 0));
    T(kill(getpid(), 999));
    T(kill(getpid(), -1));
    T(kill(0x7ffffff0, 0));
    child = fork();
    if (!child) pause(), _exit(0);
    T(kill(child, 0));
    T(kill(child, SIGTERM));
    T(waitpid(child, &status, 0) == child);
    D(WTERMSIG(status));
    T(kill(child, 0));
    child = fork();
    if (!child) { setpgid(0, 0); pause(); _exit(0); }
    setpgid(child, child);
    T(kill(-child, SIGTERM));
    T(waitpid(child, &status, 0) == child);
    T(kill(-child, 0));
    caught = 0;
    T(raise(SIGUSR1));
    D(caught == SIGUSR1);
    T(syscall(SYS_tkill, gettid(), 0));
    T(syscall(SYS_tkill, -1, 0));
    T(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
    T(syscall(SYS_tgkill, -1, gettid(), 0));
    T(syscall(SYS_tgkill, getpid(), 0x7ffffff0, 0));
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    T(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info));
    T(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, NOWHERE));
    T(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 5}));
    pidfd = syscall(SYS_pidfd_open, getpid(), 0);
    T(syscall(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 0));
    T(syscall(SYS_pidfd_send_signal, 99, SIGUSR1, NULL, 0));
    T(syscall(SYS_pidfd_send_signal, sh, SIGUSR1, NULL, 0));
    T(syscall(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 99));
    struct sigaction restart = {.sa_handler = catch, .sa_flags = SA_RESTART}, plain = {.sa_handler = catch};
    mkfifo("fifo", 0600);
    pipe(bell);
    for (int again = 0; again < 2; again++) {
        sigaction(SIGALRM, again ? &restart : &plain, 0);
        /* A child opens the other end when the alarm has gone off. */
        char rung;
        child = fork();
        if (!child) { read(bell[0], &rung, 1); usleep(50000); close(open("fifo", O_WRONLY)); _exit(0); }
        caught = 0;
        ualarm(100000, 0);
        D(again);
        int fd = T(open("fifo", O_RDONLY) >= 0);
        D(caught == SIGALRM);
        if (!again) close(open("fifo", O_RDONLY));
        waitpid(child, 0, 0);
    }

    SECTION("limits");
    struct rlimit limit = {64, 64}, now;
    T(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}));
    T(prlimit(0, RLIMIT_NOFILE, NULL, &now));
    T(prlimit(getpid(), RLIMIT_NOFILE, NULL, &now));
    T(prlimit(0, 99, NULL, &now));
    T(getpriority(PRIO_PROCESS, 0));
    T(setpriority(PRIO_PROCESS, 0, 5));
    T(setpriority(PRIO_PROCESS, getpid(), 6));
    T(setpriority(PRIO_PROCESS, 0, 1));
    T(setpriority(99, 0, 1));
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    T(sched_setaffinity(0, sizeof set, &set));
    T(sched_setaffinity(getpid(), sizeof set, &set));
    T(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}));
    T(sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){1}));
    T(setrlimit(RLIMIT_NOFILE, &limit));
    T(setrlimit(RLIMIT_NOFILE, &(struct rlimit){128, 128}));
    T(close_range(3, ~0U, 0));
    T(close_range(5, 3, 0));
    T(dup2(1, 63));
    T(dup2(1, 64));
    T(close_range(60, 63, 4));
    D(fcntl(63, F_GETFD));

    SECTION("oneself");
    T(prctl(PR_SET_NAME, "renamed"));
    T(prctl(PR_GET_DUMPABLE));
    T(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    T(prctl(PR_SET_PDEATHSIG, SIGTERM));
    T(prctl(PR_SET_CHILD_SUBREAPER, 1));
    T(fcntl(1, F_GETOWN));
    CHILD(errno = setsid() == getpid() ? 0 : errno);
    T(getpgid(0) == getpgrp());
    T(personality(0xffffffff) >= 0);
    T(unshare(CLONE_FILES));
    T(unshare(CLONE_FS));
    T(chroot("."));
    T(syscall(SYS_mount, "none", "d", "tmpfs", 0, 0));
    T(fanotify_init(FAN_CLASS_NOTIF, 0));
    T(setuid(getuid()));
    T(setgid(12345));
    return 0;
}
