/* fetch HOST:PORT…: looks each host up, connects to its addresses until one takes it, and says what came of it. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **args) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int n = 1; n < count; n++) {
        char host[256] = {0};
        const char *port = strrchr(args[n], ':') + 1;
        memcpy(host, args[n], port - 1 - args[n]);
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *one;
        if (getaddrinfo(host, port, &hints, &found)) {
            printf("%s no name\n", args[n]);
            continue;
        }
        int fd = -1, done = -1, why = 0;
        for (one = found; one && done; one = one->ai_next) {
            fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
            done = connect(fd, one->ai_addr, one->ai_addrlen);
            why = errno;
            close(fd);
        }
        printf("%s %s\n", args[n], done ? strerror(why) : "reached");
        freeaddrinfo(found);
    }
    return 0;
}
