/* records SERVER NAME:KIND…: asks for records of any kind by TCP, and prints the code and the rest of each answer in
 * hexadecimal. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int all(int fd, unsigned char *into, int length) {
    for (int had = 0; had < length;) {
        long more = read(fd, into + had, length - had);
        if (more <= 0)
            return 0;
        had += more;
    }
    return 1;
}

int main(int count, char **args) {
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, args[1], &server.sin_addr);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int n = 2; n < count; n++) {
        static unsigned char question[600], answer[65536];
        char name[300], *colon;
        strncpy(name, args[n], sizeof name - 1);
        colon = strrchr(name, ':');
        *colon = 0;
        int at = 14, kind = atoi(colon + 1), fd = socket(AF_INET, SOCK_STREAM, 0);
        memset(question, 0, sizeof question);
        question[3] = n, question[4] = 1, question[7] = 1;
        for (char *label = strtok(name, "."); label; label = strtok(NULL, "."), at++) {
            question[at] = strlen(label);
            memcpy(question + at + 1, label, strlen(label));
            at += strlen(label);
        }
        at++;
        question[at] = kind >> 8, question[at + 1] = kind, question[at + 3] = 1;
        at += 4;
        question[0] = (at - 2) >> 8, question[1] = at - 2;
        if (connect(fd, (void *)&server, sizeof server) || write(fd, question, at) != at || !all(fd, answer, 2) ||
            !all(fd, answer + 2, answer[0] << 8 | answer[1])) {
            printf("%s:%d nothing\n", args[n], kind);
            continue;
        }
        printf("%s ", args[n]);
        for (int b = 2; b < 2 + (answer[0] << 8 | answer[1]); b++)
            printf("%02x", answer[b]);
        puts("");
        close(fd);
    }
    return 0;
}
