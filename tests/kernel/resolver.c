/* A resolver of our own, in every way that one can ask: resolver WAY SERVER NAME… prints a line of what each came to. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned char question[600];
static int length;
static union {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
} server, from;
static socklen_t size;

static int is(const char *way, const char *word) { return strstr(way, word) != NULL; }

/* The labels of a name; `\0` and `\.` in it are a NUL and a dot within a label. */
static void ask_for(const char *name) {
    static unsigned short id = 0x1000;
    memset(question, 0, sizeof question);
    id++;
    question[0] = id >> 8, question[1] = id, question[2] = 1, question[5] = 1;
    int at = 12;
    while (*name) {
        int start = at++;
        for (; *name && *name != '.'; name++)
            if (*name == '\\' && *++name == '0')
                question[at++] = 0;
            else
                question[at++] = *name;
        question[start] = at - start - 1;
        name += *name == '.';
    }
    at++;
    question[at + 1] = 1, question[at + 3] = 1;
    length = at + 4;
}

static int waits(int fd, int events) {
    struct pollfd one = {fd, events};
    return poll(&one, 1, 3000) == 1;
}

static long datagram(const char *way, int fd, unsigned char *answer) {
    struct iovec piece = {question, length};
    struct msghdr message = {&server, size, &piece, 1};
    struct mmsghdr two[2] = {{message}, {message}};
    if (is(way, "connect")) {
        if (connect(fd, &server.any, size))
            return -1;
        message.msg_name = two[0].msg_hdr.msg_name = two[1].msg_hdr.msg_name = NULL;
        message.msg_namelen = two[0].msg_hdr.msg_namelen = two[1].msg_hdr.msg_namelen = 0;
    }
    if (is(way, "bind")) {
        from = server;
        memset((char *)&from + 2, 0, size - 2);
        if (bind(fd, &from.any, size))
            return -1;
    }
    int sent = is(way, "mmsg") ? sendmmsg(fd, two, 2, 0) == 2 : is(way, "msg") ? sendmsg(fd, &message, 0) == length
               : is(way, "connect") ? send(fd, question, length, 0) == length
                                    : sendto(fd, question, length, 0, &server.any, size) == length;
    if (!sent)
        return -1;
    socklen_t had = sizeof from;
    memset(&from, 0, sizeof from);
    errno = ETIMEDOUT;
    return waits(fd, POLLIN) ? recvfrom(fd, answer, 4096, 0, &from.any, &had) : -1;
}

static long stream(const char *way, int fd, unsigned char *answer) {
    unsigned char framed[700] = {length >> 8, length};
    memcpy(framed + 2, question, length);
    if (is(way, "nonblock"))
        fcntl(fd, F_SETFL, O_NONBLOCK);
    if (is(way, "fastopen")) {
        if (sendto(fd, framed, length + 2, MSG_FASTOPEN, &server.any, size) != length + 2)
            return -1;
    } else {
        if (connect(fd, &server.any, size) && (errno != EINPROGRESS || !waits(fd, POLLOUT)))
            return -1;
        /* In pieces, as a slow sender. */
        for (int at = 0; at < length + 2; at++)
            if (write(fd, framed + at, 1) != 1)
                return -1;
    }
    from = server;
    long had = 0;
    while (waits(fd, POLLIN)) {
        long more = read(fd, answer + had, 4096 - had);
        if (more <= 0)
            break;
        had += more;
        if (had > 2 && had >= 2 + (answer[0] << 8 | answer[1])) {
            memmove(answer, answer + 2, had - 2);
            return had - 2;
        }
    }
    return -1;
}

int main(int count, char **args) {
    const char *way = args[1];
    int six = strchr(args[2], ':') != NULL;
    server.any.sa_family = six ? AF_INET6 : AF_INET;
    server.four.sin_port = htons(53);
    inet_pton(server.any.sa_family, args[2], six ? (void *)&server.six.sin6_addr : (void *)&server.four.sin_addr);
    size = six ? sizeof server.six : sizeof server.four;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int n = 3; n < count; n++) {
        unsigned char answer[4096] = {0};
        ask_for(args[n]);
        int fd = socket(server.any.sa_family, is(way, "stream") ? SOCK_STREAM : SOCK_DGRAM, 0);
        long had = is(way, "stream") ? stream(way, fd, answer) : datagram(way, fd, answer);
        if (had < 12 || memcmp(answer, question, 2))
            printf("%s: %s\n", args[n], had < 0 ? strerror(errno) : "nonsense");
        else if (is(way, "checked") && memcmp(&from, &server, six ? 24 : 8))
            printf("%s: not from the server\n", args[n]);
        else
            printf("%s: code %d, %d answers\n", args[n], answer[3] & 15, answer[7]);
        close(fd);
    }
    return 0;
}
