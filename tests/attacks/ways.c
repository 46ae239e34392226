/* ways WAY ADDRESS PORT [GRANTED]: one way out of this machine, by raw calls; prints the errno that it came to.
 *
 * ADDRESS is IPv4 and belongs to somebody who must not be reached; GRANTED is a port of 127.0.0.1 that may be. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in to, granted;
static struct sockaddr_in6 mapped, loop6;
static const char *where;
static int port;

/* Ends with what a call came to. */
static void end(long result) {
    printf("%d\n", result < 0 ? errno : 0);
    exit(0);
}
/* For what must have worked before. */
static long must(long result, const char *what) {
    if (result < 0) {
        printf("cannot %s: %d\n", what, errno);
        exit(1);
    }
    return result;
}
static int make(int family, int kind, int protocol) { return (int)must(socket(family, kind, protocol), "make a socket"); }
#define AT(address) (struct sockaddr *)&address, sizeof address
static int tcp(void) { return make(AF_INET, SOCK_STREAM, 0); }
static int udp(void) { return make(AF_INET, SOCK_DGRAM, 0); }
static int udp6(void) { return make(AF_INET6, SOCK_DGRAM, 0); }

/* A message to an address, with one piece of ancillary data where it is given. */
static long message(int fd, void *address, int length, int level, int type, const void *data, int size) {
    static char control[512] __attribute__((aligned(8)));
    struct iovec piece = {"x", 1};
    struct msghdr m = {.msg_name = address, .msg_namelen = length, .msg_iov = &piece, .msg_iovlen = 1};
    if (data) {
        m.msg_control = control, m.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = level, c->cmsg_type = type, c->cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(c), data, size);
    }
    return sendmsg(fd, &m, 0);
}
static long with(int six, int level, int type, const void *data, int size) {
    return six ? message(udp6(), &mapped, sizeof mapped, level, type, data, size)
               : message(udp(), &to, sizeof to, level, type, data, size);
}
static long option(int fd, int level, int name, const void *value, int size) { return setsockopt(fd, level, name, value, size); }
static long number(int fd, int level, int name, int value) { return option(fd, level, name, &value, sizeof value); }

static struct sockaddr_un un(const char *path) {
    struct sockaddr_un at = {AF_UNIX};
    strncpy(at.sun_path, path, sizeof at.sun_path - 1);
    return at;
}
#define HIDDEN (offsetof(struct sockaddr_un, sun_path) + strlen(where))
static struct sockaddr_un hidden(void) {
    struct sockaddr_un at = {AF_UNIX};
    memcpy(at.sun_path, where, strlen(where));
    at.sun_path[0] = 0;
    return at;
}

/* A socket that comes to somebody else by a unix socket. */
static int received(int fd) {
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "make a pair");
    must(message(pair[0], NULL, 0, SOL_SOCKET, SCM_RIGHTS, &fd, sizeof fd), "send a socket");
    close(fd);
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec piece = {&byte, 1};
    struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    must(recvmsg(pair[1], &m, 0), "receive a socket");
    return *(int *)CMSG_DATA(CMSG_FIRSTHDR(&m));
}

static int nothing(void *unused) { return (int)(long)unused; }

#define WAY(name) if (!strcmp(way, name))
int main(int count, char **args) {
    const char *way = args[1];
    where = count > 2 ? args[2] : "0.0.0.0", port = count > 3 ? atoi(args[3]) : 0;
    to.sin_family = granted.sin_family = AF_INET, mapped.sin6_family = loop6.sin6_family = AF_INET6;
    to.sin_port = mapped.sin6_port = loop6.sin6_port = htons(port);
    granted.sin_port = htons(count > 4 ? atoi(args[4]) : 0), granted.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    inet_pton(AF_INET, where, &to.sin_addr);
    char text[64];
    snprintf(text, sizeof text, "::ffff:%s", where);
    inet_pton(AF_INET6, text, &mapped.sin6_addr);
    loop6.sin6_addr = in6addr_loopback;
    struct sockaddr_in home = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}}, any = {AF_INET};
    struct sockaddr nobody = {AF_UNSPEC};
    alarm(20);

    /* TCP */
    WAY("tcp") end(connect(tcp(), AT(to)));
    WAY("tcp6") end(connect(make(AF_INET6, SOCK_STREAM, 0), AT(loop6)));
    WAY("tcp mapped") end(connect(make(AF_INET6, SOCK_STREAM, 0), AT(mapped)));
    WAY("tcp scope id") {
        loop6.sin6_scope_id = if_nametoindex("lo");
        end(connect(make(AF_INET6, SOCK_STREAM, 0), AT(loop6)));
    }
    WAY("tcp link local") {
        inet_pton(AF_INET6, "fe80::1", &loop6.sin6_addr), loop6.sin6_scope_id = if_nametoindex("lo");
        end(connect(make(AF_INET6, SOCK_STREAM, 0), AT(loop6)));
    }
    WAY("tcp flow label") {
        loop6.sin6_flowinfo = htonl(0x12345);
        end(connect(make(AF_INET6, SOCK_STREAM, 0), AT(loop6)));
    }
    WAY("tcp nonblocking") {
        int fd = make(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        long done = connect(fd, AT(to));
        end(done && errno != EINPROGRESS ? done : 0);
    }
    WAY("fastopen sendto") end(sendto(tcp(), "x", 1, MSG_FASTOPEN, AT(to)));
    WAY("fastopen sendmsg") {
        struct iovec piece = {"x", 1};
        struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &piece, .msg_iovlen = 1};
        end(sendmsg(tcp(), &m, MSG_FASTOPEN));
    }
    WAY("fastopen connect") {
        int fd = tcp();
        must(number(fd, IPPROTO_TCP, 30, 1), "set TCP_FASTOPEN_CONNECT");
        if (connect(fd, AT(to))) end(-1);
        end(send(fd, "x", 1, MSG_NOSIGNAL));
    }
    WAY("fastopen connect, then sendto another") {
        int fd = tcp();
        must(number(fd, IPPROTO_TCP, 30, 1), "set TCP_FASTOPEN_CONNECT");
        must(connect(fd, AT(granted)), "connect where it is granted");
        long sent = sendto(fd, "x", 1, MSG_FASTOPEN, AT(to));
        end(sent);
    }
    WAY("zero") { to.sin_addr.s_addr = 0; end(connect(tcp(), AT(to))); }
    WAY("listening, then connect") {
        int fd = tcp();
        must(bind(fd, AT(home)), "bind");
        must(listen(fd, 1), "listen");
        end(connect(fd, AT(to)));
    }
    WAY("dissolve, then connect") {
        int fd = tcp();
        must(connect(fd, AT(granted)), "connect where it is granted");
        must(connect(fd, AT(nobody)), "dissolve");
        end(connect(fd, AT(to)));
    }
    WAY("connected, then connect") {
        int fd = udp();
        must(connect(fd, AT(granted)), "connect where it is granted");
        end(connect(fd, AT(to)));
    }
    WAY("sctp") end(socket(AF_INET, SOCK_STREAM, 132));
    WAY("sctp seqpacket") end(socket(AF_INET, SOCK_SEQPACKET, 132));
    WAY("dccp") end(socket(AF_INET, 6, 33));
    WAY("mptcp") {
        int fd = socket(AF_INET, SOCK_STREAM, 262);
        end(fd < 0 ? -1 : connect(fd, AT(to)));
    }
    WAY("smc") end(socket(AF_INET, SOCK_STREAM, 256));
    WAY("udplite") {
        int fd = socket(AF_INET, SOCK_DGRAM, 136);
        end(fd < 0 ? -1 : sendto(fd, "x", 1, 0, AT(to)));
    }

    /* UDP */
    WAY("udp connected") {
        int fd = udp();
        if (connect(fd, AT(to))) end(-1);
        end(send(fd, "x", 1, 0));
    }
    WAY("udp probe, then send") {
        int fd = udp();
        must(connect(fd, AT(to)), "ask for a route");
        send(fd, "x", 1, 0);
        end(sendto(fd, "x", 1, 0, AT(to)));
    }
    WAY("udp sendto") end(sendto(udp(), "x", 1, 0, AT(to)));
    WAY("udp sendmsg") end(message(udp(), &to, sizeof to, 0, 0, NULL, 0));
    WAY("udp sendmmsg") {
        struct iovec piece = {"x", 1};
        struct mmsghdr two[2] = {{{.msg_name = &granted, .msg_namelen = sizeof granted, .msg_iov = &piece, .msg_iovlen = 1}, 0},
                                 {{.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &piece, .msg_iovlen = 1}, 0}};
        int fd = udp();
        long first = sendmmsg(fd, two, 2, 0);
        /* The kernel says how many were sent; why the next was not, shows with the next call. */
        end(first == 2 ? 0 : sendmmsg(fd, two + 1, 1, 0));
    }
    WAY("udp mapped") end(sendto(udp6(), "x", 1, 0, AT(mapped)));
    WAY("udp of the other family") end(sendto(udp6(), "x", 1, 0, AT(to)));
    WAY("udp connected elsewhere") {
        int fd = udp();
        must(connect(fd, AT(granted)), "connect where it is granted");
        end(sendto(fd, "x", 1, 0, AT(to)));
    }
    WAY("udp unspecified family") { to.sin_family = AF_UNSPEC; end(sendto(udp(), "x", 1, 0, AT(to))); }
    WAY("bind unspecified family") {
        to.sin_family = AF_UNSPEC;
        end(bind(tcp(), AT(to)));
    }
    WAY("broadcast") {
        int fd = udp();
        must(number(fd, SOL_SOCKET, SO_BROADCAST, 1), "set SO_BROADCAST");
        inet_pton(AF_INET, "255.255.255.255", &to.sin_addr);
        end(sendto(fd, "x", 1, 0, AT(to)));
    }
    WAY("multicast") { inet_pton(AF_INET, "239.1.2.3", &to.sin_addr); end(sendto(udp(), "x", 1, 0, AT(to))); }
    WAY("splice") {
        int pipes[2], fd = udp();
        must(pipe(pipes), "make a pipe");
        must(write(pipes[1], "x", 1), "write");
        if (connect(fd, AT(to))) end(-1);
        end(splice(pipes[0], NULL, fd, NULL, 1, 0));
    }
    WAY("splice unconnected") {
        int pipes[2];
        must(pipe(pipes), "make a pipe");
        must(write(pipes[1], "x", 1), "write");
        end(splice(pipes[0], NULL, udp(), NULL, 1, 0));
    }
    WAY("sendfile") {
        int fd = tcp(), file = (int)must(open(args[0], O_RDONLY), "open myself");
        if (connect(fd, AT(to))) end(-1);
        end(sendfile(fd, file, NULL, 10));
    }
    WAY("sendfile unconnected") {
        int file = (int)must(open(args[0], O_RDONLY), "open myself");
        signal(SIGPIPE, SIG_IGN);
        end(sendfile(tcp(), file, NULL, 10));
    }

    /* Routes of one's own */
    char route4[] = {131 - 256, 7, 4, 127, 0, 0, 1, 0};
    struct { unsigned char next, len, type, left; unsigned reserved; struct in6_addr hop; } route6 = {0, 2, 2, 1, 0, in6addr_loopback};
    WAY("source route") { int fd = tcp(); end(option(fd, IPPROTO_IP, 4, route4, sizeof route4)); }
    WAY("source route, message") end(with(0, IPPROTO_IP, 7, route4, sizeof route4));
    WAY("routing header") end(option(udp6(), IPPROTO_IPV6, 57, &route6, sizeof route6));
    WAY("routing header, message") end(with(1, IPPROTO_IPV6, 57, &route6, sizeof route6));
    WAY("routing header, old message") end(with(1, IPPROTO_IPV6, 5, &route6, sizeof route6));
    WAY("hop options, message") { char none[8] = {0, 0, 1, 4}; end(with(1, IPPROTO_IPV6, 54, none, sizeof none)); }
    WAY("flow label lease") { char request[32] = {[15] = 1, [20] = 0, [21] = 1, [22] = 1}; end(option(udp6(), IPPROTO_IPV6, 32, request, sizeof request)); }
    WAY("flow label, message") { int label = htonl(0x12345); end(with(1, IPPROTO_IPV6, 11, &label, sizeof label)); }
    int lo = (int)if_nametoindex("lo");
    WAY("interface") end(option(udp(), SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    WAY("interface by number") end(number(udp(), SOL_SOCKET, 62, lo));
    WAY("interface for unicast") end(number(udp(), IPPROTO_IP, 50, htonl(lo)));
    WAY("interface of a link") {
        struct sockaddr_in6 link = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_scope_id = lo};
        inet_pton(AF_INET6, "fe80::1", &link.sin6_addr);
        int fd = udp6();
        /* Whether or not somebody is there, the socket is that link's from now on. */
        if (connect(fd, AT(link)) && errno == EACCES) end(-1);
        end(connect(fd, AT(mapped)));
    }
    WAY("interface of a link, message") {
        struct sockaddr_in6 link = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_scope_id = lo};
        inet_pton(AF_INET6, "ff02::1", &link.sin6_addr);
        int fd = udp6();
        if (connect(fd, AT(link)) && errno == EACCES) end(-1);
        end(sendto(fd, "x", 1, 0, AT(mapped)));
    }
    WAY("interface, message") { struct in_pktinfo info = {.ipi_ifindex = lo}; end(with(0, IPPROTO_IP, IP_PKTINFO, &info, sizeof info)); }
    WAY("interface, message by IPv6") { struct in6_pktinfo info = {.ipi6_ifindex = lo}; end(with(1, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info)); }
    WAY("mark") end(number(udp(), SOL_SOCKET, SO_MARK, 7));
    WAY("mark, message") { int mark = 7; end(with(0, SOL_SOCKET, SO_MARK, &mark, sizeof mark)); }
    WAY("transparent") end(number(udp(), IPPROTO_IP, IP_TRANSPARENT, 1));
    WAY("transparent by IPv6") end(number(udp6(), IPPROTO_IPV6, 75, 1));
    WAY("header of one's own") end(number(udp(), IPPROTO_IP, IP_HDRINCL, 1));
    WAY("sctp connects by an option") end(option(tcp(), 132, 110, &to, sizeof to));
    WAY("anycast") { struct { struct in6_addr group; int interface; } join = {in6addr_loopback, lo}; end(option(udp6(), IPPROTO_IPV6, 27, &join, sizeof join)); }

    /* Groups */
    struct ip_mreqn join4 = {.imr_ifindex = lo};
    inet_pton(AF_INET, "239.1.2.3", &join4.imr_multiaddr);
    struct ip_mreq_source source4 = {join4.imr_multiaddr, {htonl(INADDR_LOOPBACK)}, {htonl(INADDR_LOOPBACK)}};
    struct { struct in6_addr group; int interface; } join6 = {.interface = lo};
    inet_pton(AF_INET6, "ff02::1234", &join6.group);
    struct group_req any4 = {.gr_interface = lo}, any6 = any4;
    struct group_source_req of4 = {.gsr_interface = lo};
    struct sockaddr_in group4 = {AF_INET, 0, join4.imr_multiaddr};
    struct sockaddr_in6 group6 = {.sin6_family = AF_INET6, .sin6_addr = join6.group};
    memcpy(&any4.gr_group, &group4, sizeof group4), memcpy(&any6.gr_group, &group6, sizeof group6);
    memcpy(&of4.gsr_group, &group4, sizeof group4), memcpy(&of4.gsr_source, &home, sizeof home);
    WAY("join") end(option(udp(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &join4, sizeof join4));
    WAY("join a source") end(option(udp(), IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &source4, sizeof source4));
    WAY("join by IPv6") end(option(udp6(), IPPROTO_IPV6, IPV6_JOIN_GROUP, &join6, sizeof join6));
    WAY("join either way") end(option(udp(), IPPROTO_IP, MCAST_JOIN_GROUP, &any4, sizeof any4));
    WAY("join either way by IPv6") end(option(udp6(), IPPROTO_IPV6, MCAST_JOIN_GROUP, &any6, sizeof any6));
    WAY("join a source either way") end(option(udp(), IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &of4, sizeof of4));
    WAY("join nowhere") end(option(udp(), IPPROTO_IP, IP_ADD_MEMBERSHIP, (void *)8, sizeof join4));
    WAY("join too short") end(option(udp(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &join4, 3));

    /* Kinds of sockets: `family kind protocol` in ADDRESS. */
    WAY("socket") {
        int family, kind, protocol;
        sscanf(where, "%d %d %d", &family, &kind, &protocol);
        end(socket(family, kind, protocol));
    }
    WAY("pair") { int pair[2]; end(socketpair(AF_TIPC, SOCK_STREAM, 0, pair)); }
    WAY("ping") {
        int fd = socket(AF_INET, SOCK_DGRAM, 1);
        if (fd < 0) end(-1);
        char echo[8] = {8};
        if (sendto(fd, echo, sizeof echo, 0, AT(to)) < 0) end(-1);
        struct pollfd answer = {fd, POLLIN};
        errno = ETIMEDOUT;
        end(poll(&answer, 1, 5000) == 1 ? recv(fd, echo, sizeof echo, 0) : -1);
    }
    WAY("ping by IPv6") {
        int fd = socket(AF_INET6, SOCK_DGRAM, 58);
        if (fd < 0) end(-1);
        char echo[8] = {128 - 256};
        loop6.sin6_port = 0;
        end(sendto(fd, echo, sizeof echo, 0, AT(loop6)));
    }
    WAY("raw icmp") end(socket(AF_INET, SOCK_RAW, 1));
    WAY("raw") end(socket(AF_INET, SOCK_RAW, 255));
    WAY("raw by IPv6") end(socket(AF_INET6, SOCK_RAW, 58));
    WAY("netlink") {
        int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
        struct sockaddr_nl kernel = {AF_NETLINK};
        struct { struct nlmsghdr head; char family; } request = {{sizeof request, 18, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, AF_UNSPEC};
        end(fd < 0 ? -1 : sendto(fd, &request, sizeof request, 0, AT(kernel)));
    }

    /* Unix sockets: a path or, with any first byte in place of the NUL, a hidden name in ADDRESS. */
    struct sockaddr_un path = un(where), secret = hidden();
    WAY("unix path") end(connect(make(AF_UNIX, SOCK_STREAM, 0), AT(path)));
    WAY("unix path, datagram") end(sendto(make(AF_UNIX, SOCK_DGRAM, 0), "x", 1, 0, AT(path)));
    WAY("unix path, message") end(message(make(AF_UNIX, SOCK_DGRAM, 0), &path, sizeof path, 0, 0, NULL, 0));
    WAY("unix path, seqpacket") end(connect(make(AF_UNIX, SOCK_SEQPACKET, 0), AT(path)));
    WAY("unix path through /proc") {
        snprintf(path.sun_path, sizeof path.sun_path, "/proc/self/root%s", where);
        end(connect(make(AF_UNIX, SOCK_STREAM, 0), AT(path)));
    }
    WAY("unix hidden") end(connect(make(AF_UNIX, SOCK_STREAM, 0), (void *)&secret, HIDDEN));
    WAY("unix hidden, datagram") end(sendto(make(AF_UNIX, SOCK_DGRAM, 0), "x", 1, 0, (void *)&secret, HIDDEN));

    /* In */
    WAY("bind") end(bind(tcp(), AT(to)));
    WAY("bind, datagram") end(bind(udp(), AT(to)));
    WAY("bind any") { any.sin_port = htons(port); end(bind(tcp(), AT(any))); }
    WAY("listen unbound") end(listen(tcp(), 1));
    WAY("accept") {
        int fd = tcp();
        socklen_t length = sizeof to;
        if (bind(fd, AT(to)) || listen(fd, 1)) end(-1);
        must(getsockname(fd, (void *)&to, &length), "learn the address");
        int peer = tcp();
        must(connect(peer, AT(to)), "connect to myself");
        end(accept(fd, NULL, NULL));
    }

    /* Sockets that come from elsewhere */
    WAY("received, then connect") end(connect(received(tcp()), AT(to)));
    WAY("received, then sendto") end(sendto(received(udp()), "x", 1, 0, AT(to)));
    WAY("received connected, then elsewhere") {
        int fd = udp();
        must(connect(fd, AT(granted)), "connect where it is granted");
        end(sendto(received(fd), "x", 1, 0, AT(to)));
    }
    WAY("duplicated in a child") {
        int fd = tcp();
        fflush(stdout);
        if (!fork()) end(connect(dup2(fd, 50), AT(to)));
        wait(NULL);
        exit(0);
    }
    WAY("standard input") end(sendto(0, "x", 1, 0, AT(to)));
    WAY("standard input, connected") end(write(0, "x", 1));
    WAY("left open") end(write(port, "x", 1));

    /* Around all of it */
    WAY("io_uring") { char params[120] = {0}; end(syscall(SYS_io_uring_setup, 4, params)); }
    WAY("bpf") { char attributes[64] = {0}; end(syscall(SYS_bpf, BPF_PROG_LOAD, attributes, sizeof attributes)); }
    WAY("attach a program") end(number(udp(), SOL_SOCKET, SO_ATTACH_BPF, 99));
    WAY("tun") end(open("/dev/net/tun", O_RDWR));
    WAY("tun interface") {
        int fd = open("/dev/net/tun", O_RDWR);
        struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
        if (fd < 0) end(-1);
        end(ioctl(fd, TUNSETIFF, &request));
    }
    WAY("another network, made") end(unshare(CLONE_NEWNET));
    WAY("another network, with a user") end(unshare(CLONE_NEWUSER | CLONE_NEWNET));
    WAY("another network, born in") {
        static char stack[65536];
        end(clone(nothing, stack + sizeof stack, CLONE_NEWNET | SIGCHLD, NULL));
    }
    WAY("another network, entered") end(setns((int)must(syscall(SYS_pidfd_open, getpid(), 0), "open myself"), CLONE_NEWNET));
    WAY("route") { struct rtentry entry = {0}; end(ioctl(udp(), SIOCADDRT, &entry)); }
    WAY("address of an interface") { struct ifreq request = {.ifr_name = "lo"}; end(ioctl(udp(), SIOCSIFADDR, &request)); }
    WAY("firewall") { char table[84] = "filter"; end(option(udp(), IPPROTO_IP, 64, table, sizeof table)); }
    WAY("dns elsewhere, stream") { to.sin_port = htons(853); end(connect(tcp(), AT(to))); }
    WAY("dns elsewhere, multicast") { inet_pton(AF_INET, "224.0.0.251", &to.sin_addr), to.sin_port = htons(5353); end(sendto(udp(), "x", 1, 0, AT(to))); }

    printf("there is no such way\n");
    return 2;
}
