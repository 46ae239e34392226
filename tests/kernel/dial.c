/* dial WHERE…: connects to each address, `address:port` or path, and prints the errno of each. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **args) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int n = 1; n < count; n++) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(8080)};
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        int path = args[n][0] == '/', fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM, 0), done;
        if (path) {
            strncpy(at.sun_path, args[n], sizeof at.sun_path - 1);
            done = connect(fd, (void *)&at, sizeof at);
        } else {
            char host[64] = {0}, *port = strchr(args[n], ':');
            memcpy(host, args[n], port ? port - args[n] : (long)strlen(args[n]));
            if (port)
                to.sin_port = htons(atoi(port + 1));
            inet_pton(AF_INET, host, &to.sin_addr);
            done = connect(fd, (void *)&to, sizeof to);
        }
        printf("%s: %d\n", args[n], done ? errno : 0);
        close(fd);
    }
    return 0;
}
