/* Sockets: connecting, binding, sending with everything that can go along. */
#include "say.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/un.h>

static struct sockaddr_un un(const char *path) {
    struct sockaddr_un at = {AF_UNIX};
    strncpy(at.sun_path, path, sizeof at.sun_path);
    return at;
}
static struct sockaddr_in in(const char *ip, int port) {
    struct sockaddr_in at = {AF_INET, htons(port)};
    inet_pton(AF_INET, ip, &at.sin_addr);
    return at;
}
#define LEN(path) (offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1)
#define ADDR(at) (struct sockaddr *)&at, sizeof at

static long send_fds(int to, int *fds, int n, const char *text, int flags) {
    static char control[CMSG_SPACE(300 * sizeof(int))];
    memset(control, 0, sizeof control);
    struct iovec piece = {(void *)text, strlen(text)};
    struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    return sendmsg(to, &m, flags);
}
static int take_fds(int from, int close_on_exec) {
    static char control[CMSG_SPACE(300 * sizeof(int))];
    char text[16];
    struct iovec piece = {text, sizeof text};
    struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(from, &m, MSG_DONTWAIT | (close_on_exec ? MSG_CMSG_CLOEXEC : 0)) < 0) return -1;
    int n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_type == SCM_RIGHTS) {
            n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (int i = 0; i < n; i++) close(((int *)CMSG_DATA(c))[i]);
        }
    return n;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    umask(022);
    put("plain", "x");
    mkdir("d", 0755);
    mkdir("closed", 0);
    symlink("bound", "to_bound");
    char got[256];

    SECTION("unix, by path");
    struct sockaddr_un at = un("bound"), other = un("missing"), file = un("plain"), below = un("d/s"), linked = un("to_bound");
    int s = socket(AF_UNIX, SOCK_STREAM, 0), c;
    T(listen(s, 1));
    T(bind(s, (void *)&at, LEN("bound")));
    O(mode_of("bound"));
    T(bind(s, (void *)&other, LEN("missing")));
    c = socket(AF_UNIX, SOCK_STREAM, 0);
    T(bind(c, (void *)&at, LEN("bound")));
    T(bind(c, (void *)&file, LEN("plain")));
    T(connect(c, (void *)&at, LEN("bound")));
    T(listen(s, 2));
    T(connect(c, (void *)&other, LEN("missing")));
    T(connect(c, (void *)&file, LEN("plain")));
    struct sockaddr_un shut = un("closed/s"), under = un("plain/s"), in_none = un("none/s");
    T(connect(c, (void *)&shut, LEN("closed/s")));
    T(connect(c, (void *)&under, LEN("plain/s")));
    T(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&shut, LEN("closed/s")));
    T(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&in_none, LEN("none/s")));
    T(bind(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&below, sizeof below));
    T(connect(c, (void *)&below, sizeof below));
    T(connect(c, (void *)&linked, LEN("to_bound")));
    T(connect(c, (void *)&at, LEN("bound")));
    int a = accept(s, 0, 0);
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    memset(&name, 0, sizeof name);
    T(getsockname(a, (void *)&name, &length));
    D(length);
    TEXT(name.sun_path);
    length = sizeof name, memset(&name, 0, sizeof name);
    T(getpeername(c, (void *)&name, &length));
    TEXT(name.sun_path);
    struct ucred peer;
    length = sizeof peer;
    T(getsockopt(a, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    D(peer.pid == getpid() && peer.uid == getuid());
    length = sizeof peer;
    T(getsockopt(c, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    D(peer.pid == getpid() && peer.uid == getuid());
    T(connect(99, (void *)&at, LEN("bound")));
    T(connect(0, (void *)&at, LEN("bound")));
    T(connect(c, NOWHERE, LEN("bound")));
    T(connect(c, (void *)&at, 1));
    T(connect(c, (void *)&at, -1));
    T(connect(c, (void *)&at, 4096));
    T(bind(c, (void *)&at, 2));
    int full = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    for (int n = 0; n < 4; n++) T(connect(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), (void *)&at, LEN("bound")));
    T(connect(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&at, LEN("bound")));
    T(connect(socket(AF_UNIX, SOCK_SEQPACKET, 0), (void *)&at, LEN("bound")));
    struct sockaddr_un abstract = {AF_UNIX, "\0failcore_test_calls"};
    int hidden = socket(AF_UNIX, SOCK_STREAM, 0);
    T(connect(hidden, (void *)&abstract, 22));
    T(bind(hidden, (void *)&abstract, 22));
    T(listen(hidden, 1));
    T(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&abstract, 22));
    T(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&abstract, 22));

    SECTION("datagrams and pairs");
    int pair[2], dg[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, dg);
    T(send(pair[0], "text", 4, 0));
    T(recv(pair[1], got, 256, 0));
    struct iovec pieces[3] = {{"one", 3}, {"two", 3}, {"three", 5}};
    struct msghdr m = {.msg_iov = pieces, .msg_iovlen = 3};
    T(sendmsg(pair[0], &m, 0));
    T(recv(pair[1], got, 256, 0));
    struct mmsghdr many[2] = {{m}, {m}};
    T(sendmmsg(dg[0], many, 2, 0));
    D(many[1].msg_len);
    T(recv(dg[1], got, 256, MSG_PEEK));
    T(recv(dg[1], got, 4, MSG_TRUNC));
    T(recv(dg[1], got, 256, 0));
    T(sendmmsg(dg[0], many, 0, 0));
    T(sendmmsg(99, many, 1, 0));
    T(sendmsg(99, &m, 0));
    T(sendmsg(0, &m, 0));
    T(sendmsg(pair[0], NOWHERE, 0));
    m.msg_iovlen = 5000;
    T(sendmsg(pair[0], &m, 0));
    m.msg_iovlen = 0;
    T(sendmsg(pair[0], &m, 0));
    m.msg_iovlen = 3, m.msg_iov = NOWHERE;
    T(sendmsg(pair[0], &m, 0));
    m.msg_iov = pieces;
    pieces[1].iov_base = NOWHERE;
    T(sendmsg(dg[0], &m, 0));
    pieces[1].iov_base = "two";
    m.msg_name = &at, m.msg_namelen = LEN("bound");
    T(sendmsg(pair[0], &m, MSG_DONTWAIT));
    T(sendmsg(dg[0], &m, MSG_DONTWAIT));
    m.msg_name = &below, m.msg_namelen = sizeof below;
    int loose = socket(AF_UNIX, SOCK_DGRAM, 0);
    T(sendmsg(loose, &m, 0));
    T(sendto(loose, "to", 2, 0, (void *)&below, sizeof below));
    T(sendto(loose, "to", 2, 0, (void *)&other, LEN("missing")));
    T(sendto(loose, "to", 2, 0, (void *)&file, LEN("plain")));
    T(sendto(loose, "to", 2, 0, 0, 0));
    m.msg_name = 0, m.msg_namelen = 0;
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    static char much[1 << 20];
    struct iovec huge = {much, sizeof much};
    struct msghdr large = {.msg_iov = &huge, .msg_iovlen = 1};
    D(sendmsg(pair[0], &large, 0) < (long)sizeof much);
    T(sendmsg(pair[0], &large, 0));
    T(sendmsg(dg[0], &large, MSG_DONTWAIT));
    fcntl(pair[0], F_SETFL, 0);
    int status, child = fork();
    if (!child) {
        long all = 0, n;
        close(pair[0]);
        while ((n = read(pair[1], much, sizeof much)) > 0) all += n;
        _exit(all > (1 << 20));
    }
    T(sendmsg(pair[0], &large, 0));
    close(pair[1]);
    close(pair[0]);
    waitpid(child, &status, 0);
    D(WEXITSTATUS(status));
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    close(pair[1]);
    T(sendmsg(pair[0], &m, 0));
    T(sendmsg(pair[0], &m, MSG_NOSIGNAL));
    T(sendmsg(pair[0], &m, MSG_OOB));
    signal(SIGPIPE, SIG_DFL);
    if (!(child = fork())) sendmsg(pair[0], &m, 0), _exit(0);
    waitpid(child, &status, 0);
    D(WTERMSIG(status) == SIGPIPE);
    signal(SIGPIPE, SIG_IGN);
    close(pair[0]);

    SECTION("descriptors that go along");
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    int fds[300];
    for (int n = 0; n < 300; n++) fds[n] = 1;
    T(send_fds(pair[0], fds, 1, "a", 0));
    T(take_fds(pair[1], 1));
    T(send_fds(pair[0], fds, 253, "b", 0));
    T(take_fds(pair[1], 0));
    T(send_fds(pair[0], fds, 254, "c", 0));
    T(send_fds(pair[0], fds, 0, "d", 0));
    T(take_fds(pair[1], 0));
    fds[1] = 99;
    T(send_fds(pair[0], fds, 2, "e", 0));
    fds[1] = pair[0];
    T(send_fds(pair[0], fds, 2, "f", MSG_DONTWAIT));
    T(take_fds(pair[1], 0));
    int on = 1;
    setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    char control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec one = {"x", 1};
    struct msghdr cred = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&cred);
    struct ucred mine = {getpid(), getuid(), getgid()}, false_one = {1, getuid(), getgid()};
    h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_CREDENTIALS, h->cmsg_len = CMSG_LEN(sizeof mine);
    memcpy(CMSG_DATA(h), &mine, sizeof mine);
    T(sendmsg(pair[0], &cred, 0));
    struct msghdr back = {.msg_iov = &(struct iovec){got, 64}, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    T(recvmsg(pair[1], &back, 0));
    struct cmsghdr *r = CMSG_FIRSTHDR(&back);
    D(r && r->cmsg_type == SCM_CREDENTIALS && ((struct ucred *)CMSG_DATA(r))->pid == getpid());
    back.msg_controllen = sizeof control;
    T(send(pair[0], "implicit", 8, 0));
    T(recvmsg(pair[1], &back, 0));
    r = CMSG_FIRSTHDR(&back);
    D(r && ((struct ucred *)CMSG_DATA(r))->pid == getpid());
    struct msghdr again = cred;
    again.msg_controllen = sizeof control;
    h = CMSG_FIRSTHDR(&again);
    h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_CREDENTIALS, h->cmsg_len = CMSG_LEN(sizeof mine);
    memcpy(CMSG_DATA(h), &false_one, sizeof mine);
    T(sendmsg(pair[0], &again, 0));
    h->cmsg_type = 77;
    T(sendmsg(pair[0], &again, 0));
    h->cmsg_len = 1;
    T(sendmsg(pair[0], &again, 0));

    SECTION("inet");
    struct sockaddr_in home = in("127.0.0.1", 0), nobody = in("127.0.0.1", 1), any = in("0.0.0.0", 0), foreign = in("192.0.2.1", 0);
    int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    T(bind(server, ADDR(foreign)));
    T(bind(server, (void *)&home, 8));
    T(bind(server, ADDR(home)));
    T(bind(server, ADDR(home)));
    length = sizeof home;
    getsockname(server, (void *)&home, &length);
    T(connect(client, ADDR(home)));
    T(listen(server, 0));
    T(connect(client, ADDR(nobody)));
    T(connect(client, ADDR(home)));
    T(connect(client, ADDR(home)));
    T(connect(server, ADDR(home)));
    int hasty = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    D(connect(hasty, ADDR(home)) == 0 || errno == EINPROGRESS);
    T(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&at, LEN("bound")));
    struct sockaddr unspec = {AF_UNSPEC};
    T(connect(client, ADDR(unspec)));
    T(bind(socket(AF_INET, SOCK_STREAM, 0), ADDR(home)));
    T(bind(socket(AF_INET6, SOCK_STREAM, 0), ADDR(home)));
    T(bind(socket(AF_INET, SOCK_STREAM, 0), ADDR(any)));
    T(listen(socket(AF_INET, SOCK_STREAM, 0), 1));
    T(listen(socket(AF_INET, SOCK_DGRAM, 0), 1));
    T(listen(99, 1));
    T(listen(0, 1));
    int u = socket(AF_INET, SOCK_DGRAM, 0), v = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in mark = in("127.0.0.1", 0);
    T(bind(u, ADDR(mark)));
    length = sizeof mark;
    getsockname(u, (void *)&mark, &length);
    T(sendto(v, "datagram", 8, 0, ADDR(mark)));
    T(recv(u, got, 256, 0));
    T(sendto(v, much, 70000, 0, ADDR(mark)));
    T(send(v, "x", 1, 0));
    T(connect(v, ADDR(mark)));
    T(send(v, "x", 1, 0));
    struct msghdr dgram = {&mark, sizeof mark, pieces, 3};
    T(sendmsg(v, &dgram, 0));
    struct mmsghdr two[2] = {{dgram}, {dgram}};
    T(sendmmsg(v, two, 2, 0));
    D(two[0].msg_len + two[1].msg_len);
    T(sendto(v, "x", 1, MSG_OOB, ADDR(mark)));
    T(sendto(client, "x", 1, 0, ADDR(home)));
    T(sendto(v, NOWHERE, 1, 0, ADDR(mark)));
    T(sendto(v, "x", 1, 0, NOWHERE, 16));
    T(connect(v, ADDR(unspec)));
    T(send(v, "x", 1, 0));

    SECTION("kinds");
    F(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    F(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    F(socket(AF_INET, 77, 0));
    F(socket(AF_PACKET, SOCK_RAW, 0));
    F(socket(77, SOCK_STREAM, 0));
    F(socket(AF_NETLINK, SOCK_RAW, 0));
    F(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    return 0;
}
