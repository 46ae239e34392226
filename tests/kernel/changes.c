/* Changes names and meets at unix sockets by every call there is for it, past every hook, in one directory after the other:
   by the C library where it has the older call, else by number. A line of JSON each says what the kernel answered.

   As a program: changes WAY HOME PREFIX. As a library: `changes` does that in this process, the others by some way that
   could lead out of the scope that the process is in.

   In each HOME/DIRECTORY/WAY there are the files that are changed, and two sockets that are listened at; so there are at
   the abstract names PREFIX-DIRECTORY-WAY. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const directories[] = {"both", "outer", "inner", "neither"};

static void say(const char *way, const char *directory, const char *what, long done) {
    int why = errno;
    dprintf(1, "{\"name\": \"%s %s %s\", \"ok\": %s, \"errno\": %d}\n", way, directory, what, done < 0 ? "false" : "true",
            done < 0 ? why : 0);
}

/* A path, good until eight more were asked for. */
static const char *in(const char *directory, const char *name) {
    static __thread char paths[8][1024];
    static __thread int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static socklen_t address(struct sockaddr_un *to, const char *path, int is_abstract) {
    memset(to, 0, sizeof *to);
    to->sun_family = AF_UNIX;
    strncpy(to->sun_path + is_abstract, path, sizeof to->sun_path - 2);
    return is_abstract ? offsetof(struct sockaddr_un, sun_path) + 1 + strlen(path) : sizeof *to;
}

static long met(int kind, const char *path, int is_abstract, int how) {
    struct sockaddr_un to;
    socklen_t length = address(&to, path, is_abstract);
    int fd = socket(AF_UNIX, kind, 0);
    struct iovec part = {"x", 1};
    struct msghdr message = {.msg_name = &to, .msg_namelen = length, .msg_iov = &part, .msg_iovlen = 1};
    long done = how == 'b'   ? bind(fd, (void *)&to, length)
                : how == 'c' ? connect(fd, (void *)&to, length)
                : how == 't' ? sendto(fd, "x", 1, 0, (void *)&to, length)
                             : sendmsg(fd, &message, 0);
    int why = errno;
    close(fd);
    errno = why;
    return done;
}

/* A second name by a descriptor for reading, as /proc lets whoever has one make. */
static long linked_by_descriptor(const char *from, const char *to) {
    int fd = open(from, O_RDONLY);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    long done = linkat(AT_FDCWD, path, AT_FDCWD, to, AT_SYMLINK_FOLLOW);
    int why = errno;
    close(fd);
    errno = why;
    return done;
}

#define T(what, call) say(way, directory, what, (long)(call))

static void in_one(const char *way, const char *directory, const char *home, const char *prefix) {
    char at[256], own[256], far[512], name[512];
    snprintf(at, sizeof at, "%s/%s/%s", home, directory, way);
    snprintf(own, sizeof own, "%s/both/%s", home, way);
    snprintf(far, sizeof far, "%s/far-%s", own, directory);
    int dir = open(at, O_PATH | O_DIRECTORY);

    T("rename", rename(in(at, "a"), in(at, "a-new")));
    T("renameat", syscall(SYS_renameat, dir, "b", dir, "b-new"));
    T("renameat2", syscall(SYS_renameat2, dir, "c", dir, "c-new", 1 /* RENAME_NOREPLACE */));
    T("exchange", syscall(SYS_renameat2, dir, "d", dir, "e", 2 /* RENAME_EXCHANGE */));
    T("rename over", rename(in(at, "d"), in(at, "e")));
    close(syscall(SYS_openat, AT_FDCWD, in(own, "put"), O_CREAT | O_WRONLY, 0600));
    T("rename into", rename(in(own, "put"), in(at, "put-new")));
    snprintf(name, sizeof name, "taken-%s", directory);
    T("rename out", rename(in(at, "f"), in(own, name)));
    close(syscall(SYS_openat, AT_FDCWD, in(own, "swap"), O_CREAT | O_WRONLY, 0600));
    T("exchange across", syscall(SYS_renameat2, AT_FDCWD, in(own, "swap"), dir, "g", 2));
    T("rename a directory", rename(in(at, "tree"), in(at, "tree-new")));

    T("unlink", unlink(in(at, "h")));
    T("unlinkat", syscall(SYS_unlinkat, dir, "i", 0));
    T("rmdir", rmdir(in(at, "empty")));
    T("unlinkat a directory", syscall(SYS_unlinkat, dir, "void", AT_REMOVEDIR));

    T("link", link(in(at, "j"), in(at, "j-new")));
    snprintf(name, sizeof name, "linked-%s", directory);
    T("link out", link(in(at, "j"), in(own, name)));
    snprintf(name, sizeof name, "held-%s", directory);
    T("link out by descriptor", linked_by_descriptor(in(at, "j"), in(own, name)));
    close(syscall(SYS_openat, AT_FDCWD, in(own, "kept"), O_CREAT | O_WRONLY, 0600));
    T("link into", syscall(SYS_linkat, AT_FDCWD, in(own, "kept"), dir, "kept-new", 0));
    T("symlink", symlink("a", in(at, "soft")));
    T("symlinkat", syscall(SYS_symlinkat, "a", dir, "soft-2"));

    T("mkdir", mkdir(in(at, "made"), 0700));
    T("mkdirat", syscall(SYS_mkdirat, dir, "made-2", 0700));
    T("mknod", syscall(SYS_mknodat, dir, "fifo", S_IFIFO | 0600, 0));
    T("creat", syscall(SYS_openat, dir, "file", O_CREAT | O_WRONLY, 0600));
    T("truncate", syscall(SYS_truncate, in(at, "k"), 1));
    T("open and truncate", syscall(SYS_openat, dir, "l", O_WRONLY | O_TRUNC));
    T("chmod", chmod(in(at, "m"), 0600));
    T("fchmodat", syscall(SYS_fchmodat, dir, "m", 0640));
    int fd = open(in(at, "n"), O_RDONLY);
    T("fchmod", syscall(SYS_fchmod, fd, 0600));
    T("times", syscall(SYS_utimensat, dir, "o", NULL, 0));

    /* By other ways to the same place. */
    int there = open(".", O_PATH);
    if (chdir(at)) perror(at);
    T("mkdir here", mkdir("here", 0700));
    T("unlink by cwd", unlink("/proc/self/cwd/p"));
    if (fchdir(there)) perror("back");
    symlink(at, far);
    T("unlink by a link", unlink(in(far, "q")));
    T("mkdir by a link", mkdir(in(far, "by-link"), 0700));
    snprintf(name, sizeof name, "/proc/self/root%s", at);
    T("unlink by root", unlink(in(name, "r")));

    T("bind", met(SOCK_STREAM, in(at, "bound"), 0, 'b'));
    T("bind by a link", met(SOCK_STREAM, in(far, "bound-2"), 0, 'b'));
    T("connect", met(SOCK_STREAM, in(at, "server"), 0, 'c'));
    T("connect by a link", met(SOCK_STREAM, in(far, "server"), 0, 'c'));
    T("sendto", met(SOCK_DGRAM, in(at, "box"), 0, 't'));
    T("sendmsg", met(SOCK_DGRAM, in(at, "box"), 0, 'm'));
    snprintf(name, sizeof name, "%s-%s-%s", prefix, directory, way);
    T("connect to a name", met(SOCK_STREAM, name, 1, 'c'));
    strcat(name, ".new");
    T("bind to a name", met(SOCK_STREAM, name, 1, 'b'));
    close(fd), close(dir), close(there);
}

void changes(const char *way, const char *home, const char *prefix) {
    for (size_t n = 0; n < sizeof directories / sizeof *directories; n++) in_one(way, directories[n], home, prefix);
    char done[256];
    snprintf(done, sizeof done, "%s/both/%s/done", home, way);
    close(syscall(SYS_openat, AT_FDCWD, done, O_CREAT | O_WRONLY, 0600));
}

static void *changes_of(void *of) {
    char **args = of;
    changes(args[0], args[1], args[2]);
    return NULL;
}

void by_thread(const char *way, const char *home, const char *prefix) {
    const char *args[] = {way, home, prefix};
    pthread_t thread;
    pthread_create(&thread, NULL, changes_of, args);
    pthread_join(thread, NULL);
}

void by_child(const char *way, const char *home, const char *prefix) {
    int pid = fork();
    if (pid == 0) changes(way, home, prefix), _exit(0);
    waitpid(pid, NULL, 0);
}

void by_program(const char *way, const char *home, const char *prefix, const char *program) {
    int pid = fork();
    char *none[] = {NULL};
    if (pid == 0) execve(program, (char *const[]){(char *)program, (char *)way, (char *)home, (char *)prefix, NULL}, none), _exit(1);
    waitpid(pid, NULL, 0);
}

/* Whose parent is gone before it makes its first call that asks, and who waits for `go` to be there, if that is given. */
void left_behind(const char *way, const char *home, const char *prefix, const char *go) {
    int parent = getpid();
    if (fork()) return;
    struct stat unused;
    while (getppid() == parent || (go && stat(go, &unused))) usleep(1000);
    changes(way, home, prefix), _exit(0);
}

void by_orphan(const char *way, const char *home, const char *prefix) {
    int ended[2];
    if (pipe(ended)) return;
    int pid = fork();
    if (pid == 0) left_behind(way, home, prefix, NULL), _exit(0);
    close(ended[1]);
    char none;
    while (read(ended[0], &none, 1) > 0) {}
    close(ended[0]);
    waitpid(pid, NULL, 0);
}

/* Threads of a process of which nothing was heard yet, all of which make their first call that asks at the same time. */
static volatile int waiting;
static void *first(void *path) {
    __atomic_sub_fetch(&waiting, 1, __ATOMIC_SEQ_CST);
    while (waiting > 0) {}
    syscall(SYS_mkdirat, AT_FDCWD, path, 0700);
    return NULL;
}
void all_at_once(const char *path) {
    enum { THREADS = 3 };
    char paths[THREADS][512];
    pthread_t threads[THREADS];
    waiting = THREADS;
    for (int n = 0; n < THREADS; n++) {
        snprintf(paths[n], sizeof paths[n], "%s-%d", path, n);
        pthread_create(&threads[n], NULL, first, paths[n]);
    }
    for (int n = 0; n < THREADS; n++) pthread_join(threads[n], NULL);
}

/* A child that makes no call that asks, until this process ends. */
void silent(void) {
    int parent = getpid();
    if (fork()) return;
    while (getppid() == parent) usleep(1000);
    _exit(0);
}

/* Writes into a slot what a thread in no tool but `free` would say. `struct SlotHeader` in slots.rs. */
static void forge(const char *way, unsigned *slot) {
    static const char claims[] = "{\"scope\":[\"free\"]}";
    memcpy((char *)slot + 64, claims, sizeof claims - 1);
    slot[1] = sizeof claims - 1;
    say(way, "-", "forged", 0);
}

/* Overwrites what its thread claims, where the hook maps it. */
void by_forged_claims(const char *way, const char *home, const char *prefix) {
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long begin, end;
        if (!strstr(line, "failcore-slots") || sscanf(line, "%lx-%lx", &begin, &end) != 2) continue;
        for (unsigned long at = begin; at < end; at += 4096)
            if (*(unsigned *)at == (unsigned)gettid() && strstr((char *)at + 64, "\"scope\"")) forge(way, (unsigned *)at);
    }
    if (maps) fclose(maps);
    changes(way, home, prefix);
}

/* A child that joins the run by itself, and says in its own slot what it likes. */
void by_attaching(const char *way, const char *home, const char *prefix, const char *door) {
    int pid = fork();
    if (pid) {
        waitpid(pid, NULL, 0);
        return;
    }
    static char text[1 << 18], space[CMSG_SPACE(8 * sizeof(int))];
    struct sockaddr_un to;
    socklen_t length = address(&to, door, 0);
    int peer = socket(AF_UNIX, SOCK_SEQPACKET, 0), fd;
    struct iovec part = {text, sizeof text};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    long got = connect(peer, (void *)&to, length) || send(peer, "{\"attach\":{}}", 13, 0) < 0 ? -1 : recvmsg(peer, &message, 0);
    say(way, "-", "attached", got);
    struct cmsghdr *beside = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    for (size_t n = 0; beside && CMSG_LEN(n * sizeof fd) < beside->cmsg_len; n++) {
        memcpy(&fd, CMSG_DATA(beside) + n * sizeof fd, sizeof fd);
        char path[64], target[64] = {0};
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (readlink(path, target, sizeof target - 1) < 0 || !strstr(target, "failcore-slots")) continue;
        char *slots = mmap(NULL, 1024 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        unsigned *own = (unsigned *)(slots + gettid() % 1024 * 4096);
        own[0] = gettid();
        forge(way, own);
    }
    changes(way, home, prefix), _exit(0);
}

int main(int count, char **args) {
    if (count == 4) changes(args[1], args[2], args[3]);
    return 0;
}
