// Binds unix sockets in a directory by way of one of its own descriptors, which stands for another directory every other
// moment: `bind_race GRANTED KEPT TIMES`.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FLIPS = 100 };
static volatile int over;
static int granted, kept;

static void *flip(void *unused)
{
    while (!over) {
        dup2(kept, FLIPS);
        dup2(granted, FLIPS);
    }
    return unused;
}

static int bound(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    int one = socket(AF_UNIX, SOCK_STREAM, 0), done = bind(one, (struct sockaddr *)&at, sizeof at);
    close(one);
    return done == 0;
}

int main(int count, char **words)
{
    if (count != 4) return 2;
    // What a descriptor only stands for is nobody's secret, so that this asks nobody.
    granted = open(words[1], O_PATH | O_DIRECTORY);
    kept = open(words[2], O_PATH | O_DIRECTORY);
    if (granted < 0 || kept < 0 || dup2(granted, FLIPS) < 0) return 3;
    char path[108];
    snprintf(path, sizeof path, "%s/straight", words[1]);
    int straight = bound(path);
    snprintf(path, sizeof path, "%s/straight", words[2]);
    int refused = !bound(path);
    pthread_t flipping;
    if (pthread_create(&flipping, NULL, flip, NULL)) return 4;
    int done = 0, times = atoi(words[3]);
    for (int n = 0; n < times; n++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d/%d", getpid(), FLIPS, n);
        done += bound(path);
    }
    over = 1;
    pthread_join(flipping, NULL);
    printf("{\"straight\": %d, \"refused\": %d, \"done\": %d}\n", straight, refused, done);
    return 0;
}
