/* ares [t] NAME…: looks names up by c-ares, over TCP where the first argument is `t`. */
#include <arpa/inet.h>
#include <ares.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static void told(void *name, int status, int timeouts, struct ares_addrinfo *found) {
    (void)timeouts;
    printf("%s:", (char *)name);
    if (status)
        printf(" error %d", status);
    for (struct ares_addrinfo_node *one = found ? found->nodes : NULL; one; one = one->ai_next) {
        char host[64];
        const void *at = one->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
                                                   : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        printf(" %s", inet_ntop(one->ai_family, at, host, sizeof host));
    }
    puts("");
}

int main(int count, char **args) {
    int stream = args[1][0] == 't' && !args[1][1];
    struct ares_options options = {.flags = stream ? ARES_FLAG_USEVC : 0};
    ares_channel channel;
    if (ares_library_init(ARES_LIB_INIT_ALL) || ares_init_options(&channel, &options, ARES_OPT_FLAGS))
        return 1;
    struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC};
    for (int n = 1 + stream; n < count; n++)
        ares_getaddrinfo(channel, args[n], "8080", &hints, told, args[n]);
    for (;;) {
        fd_set readable, writable;
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        int most = ares_fds(channel, &readable, &writable);
        if (!most)
            return 0;
        struct timeval left;
        select(most, &readable, &writable, NULL, ares_timeout(channel, NULL, &left));
        ares_process(channel, &readable, &writable);
    }
}
