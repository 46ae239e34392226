/* Makes the system calls that it reads from standard input, one a line, and says what each returned: a value, or less an
   errno. It knows nothing of what it does, so that whoever is between it and the kernel decides.

       [&]NUMBER ARGUMENT…

   An argument is `i` and a number, `b` and bytes in hexadecimal (a NUL is added), `v` and such strings with commas
   between them (a vector), `r` and the line whose value it is, `me`, `parent`, or `child`, which ends with us.
   With `&` a process of its own makes the call. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static long results[256];
static pid_t child;

static char *bytes(const char *hex, int length) {
    char *made = calloc(1, length / 2 + 1);
    for (int i = 0; i + 1 < length; i += 2) {
        unsigned byte;
        sscanf(hex + i, "%2x", &byte);
        made[i / 2] = byte;
    }
    return made;
}

static long vector(char *text) {
    char **made = calloc(strlen(text) + 2, sizeof *made);
    for (int n = 0; *text; n++) {
        int length = strcspn(text, ",");
        made[n] = bytes(text, length);
        text += length + (text[length] == ',');
    }
    return (long)made;
}

static long argument(char *word) {
    if (!strcmp(word, "me")) return getpid();
    if (!strcmp(word, "parent")) return getppid();
    if (!strcmp(word, "child")) {
        if (!child && !(child = fork())) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;) pause();
        }
        return child;
    }
    switch (*word++) {
    case 'i': return atol(word);
    case 'b': return (long)bytes(word, strlen(word));
    case 'v': return vector(word);
    case 'r': return results[atoi(word)];
    }
    abort();
}

static long call(char *line) {
    long a[7] = {0};
    int n = 0;
    for (char *word; n < 7 && (word = strsep(&line, " "));) a[n] = n ? argument(word) : atol(word), n++;
    long value = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    return value == -1 ? -errno : value;
}

int main(void) {
    static char text[1 << 16];
    int length = 0, got;
    while ((got = read(0, text + length, sizeof text - 1 - length)) > 0) length += got;
    char *rest = text, *line;
    for (int n = 0; n < 256 && (line = strsep(&rest, "\n")) && *line; n++) {
        if (*line != '&') {
            results[n] = call(line);
        } else {
            pid_t other = fork();
            if (!other) _exit(-call(line + 1));
            int status;
            waitpid(other, &status, 0);
            results[n] = WIFEXITED(status) ? -WEXITSTATUS(status) : -1000 - WTERMSIG(status);
        }
        printf("%ld\n", results[n]);
        fflush(stdout);
    }
    return 0;
}
