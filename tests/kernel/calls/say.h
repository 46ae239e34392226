/* What the programs here share: each call is printed as it is written, with what it returned and why it failed, so that
   two runs of a program can be compared line by line. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A call and its errno; a descriptor that it returned is left open. */
#define T(call)                                                                                                    \
    ({                                                                                                             \
        errno = 0;                                                                                                 \
        long returned_ = (long)(call);                                                                             \
        int why_ = errno;                                                                                          \
        printf("%s = %ld%s%s\n", #call, returned_, returned_ == -1 ? " " : "",                                     \
               returned_ == -1 ? strerrorname_np(why_) : "");                                                      \
        errno = why_;                                                                                              \
        returned_;                                                                                                 \
    })
/* As T, for a call whose value differs from run to run: only whether it succeeded. */
#define S(call)                                                                                                    \
    ({                                                                                                             \
        errno = 0;                                                                                                 \
        long returned_ = (long)(call);                                                                             \
        int why_ = errno;                                                                                          \
        printf("%s: %s\n", #call, returned_ == -1 ? strerrorname_np(why_) : "ok");                                 \
        errno = why_;                                                                                              \
        returned_;                                                                                                 \
    })
/* As T, and closes the descriptor. */
#define F(call)                                                                                                    \
    ({                                                                                                             \
        int opened_ = T(call);                                                                                     \
        if (opened_ >= 0) close(opened_);                                                                          \
        opened_;                                                                                                   \
    })
/* A value, in octal or decimal. */
#define O(value) printf("%s is 0%lo\n", #value, (unsigned long)(value))
#define D(value) printf("%s is %ld\n", #value, (long)(value))
#define TEXT(value) printf("%s is \"%s\"\n", #value, value)
#define SECTION(name) printf("== %s\n", name)

__attribute__((unused)) static void put(const char *path, const char *text) {
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) printf("cannot make %s: %s\n", path, strerrorname_np(errno));
    close(fd);
}

__attribute__((unused)) static long mode_of(const char *path) {
    struct stat s;
    return lstat(path, &s) ? -1 : s.st_mode;
}

__attribute__((unused)) static long size_of(const char *path) {
    struct stat s;
    return lstat(path, &s) ? -1 : s.st_size;
}

__attribute__((unused)) static const char *repeated(char what, int times) {
    static char buffers[8][8192];
    static int next;
    char *buffer = buffers[next++ % 8];
    memset(buffer, what, times);
    buffer[times] = 0;
    return buffer;
}

/* An address at which nothing is mapped. */
#define NOWHERE ((void *)8)
