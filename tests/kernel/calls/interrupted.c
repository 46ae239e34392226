/* Calls that wait for somebody else, and signals meanwhile: connects to a listener whose queue is full, messages to a
   receiver that is full. Signals keep coming until one has interrupted the call, or the call was started anew so often that
   it may come to its end; so nothing here depends on how long anything takes. */
#include "say.h"
#include <netinet/in.h>
#include <sys/un.h>

enum { BIG = 3 << 20, OFTEN = 3 };
static struct sockaddr_un listener_at = {AF_UNIX, "listener"}, receiver_at = {AF_UNIX, "receiver"};
static struct sockaddr_in inet_at = {AF_INET};
static int listener, inet_listener, receiver, pair[2], bell[2];
static volatile int caught;
static char big[BIG], some[1 << 16];

static void catch(int signal) {
    if (++caught == OFTEN) write(bell[1], "", 1);
}

/* Signals come from now on, or no more. */
static void signals(int flags) {
    struct sigaction handled = {.sa_handler = catch, .sa_flags = flags};
    caught = 0;
    sigaction(SIGALRM, &handled, 0);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 100000}, {0, 100000}}, 0);
}
static void silence(void) { setitimer(ITIMER_REAL, &(struct itimerval){0}, 0); }

/* A child that makes room when enough signals came. */
static pid_t helper;
static void then(void (*make_room)(void)) {
    fflush(stdout);
    helper = fork();
    if (helper) return;
    read(bell[0], some, 1);
    make_room();
    _exit(0);
}
static void helped(void) { waitpid(helper, 0, 0); }
/* It is not needed: rings for it. */
static void unhelped(void) {
    write(bell[1], "", 1);
    helped();
}

/* What waits for whoever takes it. */
static int accepted(int from) {
    int number = 0, one;
    while ((one = accept4(from, 0, 0, SOCK_NONBLOCK)) >= 0) close(one), number++;
    return number;
}
static long received(void) {
    long number = 0;
    while (recv(receiver, some, sizeof some, MSG_DONTWAIT) >= 0) number++;
    return number;
}
static int rights;
static long full;
static long read_all(void) {
    long number = 0, got;
    char control[64];
    struct msghdr m = {0, 0, &(struct iovec){some, sizeof some}, 1, control, sizeof control};
    rights = 0;
    while (m.msg_controllen = sizeof control, (got = recvmsg(pair[1], &m, MSG_DONTWAIT)) > 0) {
        number += got;
        if (m.msg_controllen) rights++, close(*(int *)CMSG_DATA(CMSG_FIRSTHDR(&m)));
    }
    return number;
}
static void accept_one(void) { close(accept(listener, 0, 0)); }
static void accept_inet(void) { close(accept(inet_listener, 0, 0)); }
static void receive_one(void) { recv(receiver, some, sizeof some, 0); }
/* Most of what fills it, and nothing of what comes after. */
static void read_some(void) { read(pair[1], some, full - full / 8); }
static void none(void) {}

/* Fills what is waited for; how much that took. */
static int fill_listener(void) {
    for (int number = 0;; number++) {
        int one = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), full = connect(one, (void *)&listener_at, sizeof listener_at);
        close(one);
        if (full) return number;
    }
}
static int fill_receiver(int with) {
    int number = 0;
    while (sendto(with, "x", 1, MSG_DONTWAIT, (void *)&receiver_at, sizeof receiver_at) == 1) number++;
    return number;
}
static void fill_pair(void) {
    full = 0;
    while (send(pair[0], "x", 1, MSG_DONTWAIT) == 1) full++;
}
static void fill_inet(void) {
    int one = socket(AF_INET, SOCK_STREAM, 0);
    connect(one, (void *)&inet_at, sizeof inet_at);
    poll(&(struct pollfd){inet_listener, POLLIN}, 1, -1);
    close(one);
}

static long send_with_rights(long length) {
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct cmsghdr *h = (void *)control;
    *h = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    *(int *)CMSG_DATA(h) = 1;
    struct iovec pieces[] = {{big, length / 2}, {big + length / 2, length - length / 2}};
    struct msghdr m = {0, 0, pieces, 2, control, sizeof control};
    return sendmsg(pair[0], &m, 0);
}

static void patient(int fd, int seconds) {
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){seconds}, sizeof(struct timeval));
}

int main(void) {
    pipe(bell);
    signal(SIGPIPE, SIG_IGN);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    T(bind(listener, (void *)&listener_at, sizeof listener_at));
    T(listen(listener, 2));
    receiver = socket(AF_UNIX, SOCK_DGRAM, 0);
    T(bind(receiver, (void *)&receiver_at, sizeof receiver_at));
    int filled, s;
    for (int again = 0; again < 3; again++) {
        /* With a time limit a call is never started anew (signal(7)). */
        int flags = again ? SA_RESTART : 0, limit = again == 2 ? 100 : 0;

        SECTION("connect");
        D(again);
        filled = fill_listener();
        fcntl(listener, F_SETFL, 0);
        s = socket(AF_UNIX, SOCK_STREAM, 0);
        patient(s, limit);
        then(accept_one);
        signals(flags);
        int connected = T(connect(s, (void *)&listener_at, sizeof listener_at)) == 0;
        silence();
        D(caught >= (connected ? OFTEN : 1));
        if (connected) helped(); else unhelped();
        if (!connected) T(connect(s, (void *)&listener_at, sizeof listener_at));
        fcntl(listener, F_SETFL, O_NONBLOCK);
        D(accepted(listener) - filled);
        T(send(s, "x", 1, 0));
        close(s);

        SECTION("sendto");
        s = socket(AF_UNIX, SOCK_DGRAM, 0);
        patient(s, limit);
        filled = fill_receiver(s);
        then(receive_one);
        signals(flags);
        int sent = T(sendto(s, "yy", 2, 0, (void *)&receiver_at, sizeof receiver_at)) == 2;
        silence();
        D(caught >= (sent ? OFTEN : 1));
        if (sent) helped(); else unhelped();
        D(received() - filled);
        filled = fill_receiver(s);
        struct mmsghdr two[] = {{{&receiver_at, sizeof receiver_at, &(struct iovec){"z", 1}, 1}}, {{&receiver_at, sizeof receiver_at, &(struct iovec){"z", 1}, 1}}};
        then(receive_one);
        signals(flags);
        /* The first of two goes out when there is room, and the signals that still come end the wait for the second. */
        sent = T(sendmmsg(s, two, 2, 0));
        silence();
        if (sent > 0) helped(); else unhelped();
        D(received() - filled);
        close(s);

        SECTION("sendmsg with descriptors");
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        patient(pair[0], limit);
        fill_pair();
        then(read_some);
        signals(flags);
        sent = T(send_with_rights(1)) == 1;
        silence();
        D(caught >= (sent ? OFTEN : 1));
        if (sent) helped(); else unhelped();
        D(read_all() - full / 8);
        D(rights);
        /* What is sent in part is not started anew. */
        then(none);
        signals(flags);
        long part = send_with_rights(BIG);
        silence();
        unhelped();
        D(part > 0 && part < BIG);
        D(read_all() - part);
        D(rights);
        close(pair[0]);
        close(pair[1]);
    }

    /* A connection that is under way when the call is interrupted comes about all the same (connect(2)). */
    inet_listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    inet_at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof inet_at;
    T(bind(inet_listener, (void *)&inet_at, length));
    T(listen(inet_listener, 0));
    getsockname(inet_listener, (void *)&inet_at, &length);
    for (int again = 0; again < 3; again++) {
        SECTION("connect, inet");
        D(again);
        fill_inet();
        fcntl(inet_listener, F_SETFL, 0);
        s = socket(AF_INET, SOCK_STREAM, 0);
        patient(s, again == 2 ? 100 : 0);
        then(accept_inet);
        signals(again ? SA_RESTART : 0);
        int connected = T(connect(s, (void *)&inet_at, sizeof inet_at)) == 0;
        silence();
        D(caught >= (connected ? OFTEN : 1));
        if (connected) helped(); else unhelped();
        if (!connected) T(connect(s, (void *)&inet_at, sizeof inet_at));
        poll(&(struct pollfd){inet_listener, POLLIN}, 1, -1);
        fcntl(inet_listener, F_SETFL, O_NONBLOCK);
        D(accepted(inet_listener));
        T(send(s, "x", 1, MSG_NOSIGNAL) == 1 || errno == ECONNRESET || errno == EPIPE);
        close(s);
    }

    SECTION("time is up");
    s = socket(AF_UNIX, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){0, 200000}, sizeof(struct timeval));
    filled = fill_listener();
    T(connect(s, (void *)&listener_at, sizeof listener_at));
    D(accepted(listener) - filled);
    close(s);
    s = socket(AF_UNIX, SOCK_DGRAM, 0);
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){0, 200000}, sizeof(struct timeval));
    filled = fill_receiver(s);
    T(sendto(s, "x", 1, 0, (void *)&receiver_at, sizeof receiver_at));
    D(received() - filled);
    close(s);

    for (int way = 0; way < 3; way++) {
        /* What ends a wait, and what does not: the child waits long before anything happens to it. */
        int status, end[] = {SIGSTOP, SIGWINCH, SIGKILL};
        for (int n = 0; n < 3; n++) {
            SECTION("another process");
            D(way);
            D(end[n]);
            socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
            s = socket(AF_UNIX, way ? SOCK_DGRAM : SOCK_STREAM, 0);
            if (way == 0) filled = fill_listener(), fcntl(listener, F_SETFL, 0);
            if (way == 1) filled = fill_receiver(s);
            if (way == 2) fill_pair();
            fflush(stdout);
            pid_t child = fork();
            if (!child) {
                long done = way == 0 ? connect(s, (void *)&listener_at, sizeof listener_at)
                            : way == 1 ? sendto(s, "x", 1, 0, (void *)&receiver_at, sizeof receiver_at)
                                       : send_with_rights(1);
                _exit(done == (way != 0) ? 0 : errno);
            }
            usleep(300000);
            T(kill(child, end[n]));
            if (end[n] == SIGSTOP) {
                T(waitpid(child, &status, WUNTRACED) == child);
                D(WIFSTOPPED(status));
                T(kill(child, SIGCONT));
            }
            if (end[n] != SIGKILL) {
                if (way == 0) accept_one(); else if (way == 1) receive_one(); else read_some();
            }
            T(waitpid(child, &status, 0) == child);
            D(status);
            /* Of one that was killed nothing arrives, also when there is room long after. */
            if (end[n] == SIGKILL) sleep(1);
            if (way == 0) fcntl(listener, F_SETFL, O_NONBLOCK), D(accepted(listener) - filled);
            if (way == 1) D(received() - filled);
            if (way == 2) D(read_all() - (end[n] == SIGKILL ? full : full / 8));
            close(s);
            close(pair[0]);
            close(pair[1]);
        }
    }
    return 0;
}
