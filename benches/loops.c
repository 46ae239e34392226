// Loops of one operation, native. Usage: loops OPERATION ARGUMENT COUNT; prints the median nanoseconds an operation.
//   open PATH      open and close
//   whole PATH     open, read and close
//   free PATH      what no policy touches: read, write, epoll, clock, futex, receive
//   connect PORT   socket, connect to loopback, close
//   spawn PATH     posix_spawn and wait
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void must(int held, const char *what) {
    if (!held) { perror(what); _exit(1); }
}

static const char *argument;
static struct sockaddr_in peer = {.sin_family = AF_INET};
static int zeros, ready, pair[2];
static char *environment[] = {0};

static void open_close(void) {
    int fd = open(argument, O_RDONLY | O_CLOEXEC);
    must(fd >= 0, "open");
    close(fd);
}

static void open_read_close(void) {
    char bytes[4096];
    int fd = open(argument, O_RDONLY | O_CLOEXEC);
    must(fd >= 0 && read(fd, bytes, sizeof bytes) > 0, "read");
    close(fd);
}

static void untouched(void) {
    char bytes[16];
    int word = 0;
    struct epoll_event event;
    struct timespec t;
    must(read(zeros, bytes, 1) == 1, "read");
    must(write(pair[0], bytes, 1) == 1, "write");
    must(epoll_wait(ready, &event, 1, 0) == 1, "epoll_wait");
    must(recv(pair[1], bytes, 1, 0) == 1, "recv");
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

static void connect_close(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0, "socket");
    must(!connect(fd, (struct sockaddr *)&peer, sizeof peer), "connect");
    close(fd);
}

static void spawn(void) {
    pid_t pid;
    char *const argv[] = {(char *)argument, 0};
    errno = posix_spawn(&pid, argument, 0, 0, argv, environment);
    must(!errno, "posix_spawn");
    waitpid(pid, 0, 0);
}

static int ascending(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

#define PARTS 50

static int loop(const char *operation, long count) {
    void (*once)(void) = 0;
    if (!strcmp(operation, "open")) once = open_close;
    if (!strcmp(operation, "whole")) once = open_read_close;
    if (!strcmp(operation, "free")) {
        struct epoll_event event = {.events = EPOLLIN};
        once = untouched;
        zeros = open("/dev/zero", O_RDONLY);
        ready = epoll_create1(0);
        must(zeros >= 0 && ready >= 0 && !socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), "socketpair");
        must(!epoll_ctl(ready, EPOLL_CTL_ADD, pair[1], &event), "epoll_ctl");
    }
    if (!strcmp(operation, "connect")) {
        once = connect_close;
        peer.sin_port = htons(atoi(argument));
        peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    }
    if (!strcmp(operation, "spawn")) once = spawn;
    if (!once) return 2;
    double each[PARTS];
    long size = count / PARTS > 0 ? count / PARTS : 1;
    once();
    for (int part = 0; part < PARTS; part++) {
        double start = now();
        for (long n = 0; n < size; n++) once();
        each[part] = (now() - start) / size;
    }
    qsort(each, PARTS, sizeof *each, ascending);
    printf("%.0f\n", each[PARTS / 2]);
    fflush(stdout);
    return 0;
}

int main(int count, char **argv) {
    if (count != 4) return 2;
    argument = argv[2];
    return loop(argv[1], atol(argv[3]));
}
