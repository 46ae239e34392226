/* Names at one address: each call opens what lies there for its process, through forks, a child that shares the memory,
   execs, and pages that come and go or may not be read. */
#include "say.h"
#include <sched.h>

#define PLACE ((char *)0x200000000000)
#define MANY 40

static void place(void) {
    mmap(PLACE, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* Opens `name` by way of the one address, and says what is in it. */
static void says(const char *name) {
    char text[16] = "";
    memmove(PLACE, name, strlen(name) + 1);
    int fd = open(PLACE, O_RDONLY);
    if (fd < 0) { printf("%s: %s\n", name, strerrorname_np(errno)); return; }
    read(fd, text, sizeof text - 1);
    close(fd);
    printf("%s: %s\n", name, text);
}

static void often(void) {
    for (int n = 0; n < MANY; n++) says(n % 2 ? "two" : "one");
}

static int shares_it(void *nothing) {
    often();
    says("three");
    char *argv[] = {"/proc/self/exe", "again", 0};
    execv(argv[0], argv);
    _exit(1);
}

static void born(int (*child)(void *), int flags) {
    static char stack[65536];
    int status;
    fflush(stdout);
    pid_t pid = clone(child, stack + sizeof stack, flags | SIGCHLD, 0);
    waitpid(pid, &status, 0);
    D(status);
}

static int forked(void *nothing) {
    often();
    fflush(stdout);
    _exit(0);
}

int main(int count, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 0);
    place();
    if (count > 1) {
        SECTION("run by who shared it");
        often();
        says("four");
        return 0;
    }
    put("one", "1");
    put("two", "2");
    put("three", "3");
    put("four", "4");
    SECTION("often");
    often();
    SECTION("no name");
    F(open(NOWHERE, O_RDONLY));
    munmap(PLACE, 8192);
    F(open(PLACE, O_RDONLY));
    place();
    often();
    munmap(PLACE + 4096, 4096);
    strcpy(PLACE + 4096 - 4, "two");
    F(open(PLACE + 4096 - 4, O_RDONLY));
    memcpy(PLACE + 4096 - 4, "twoo", 4);
    F(open(PLACE + 4096 - 4, O_RDONLY));
    mprotect(PLACE, 4096, PROT_NONE);
    F(open(PLACE, O_RDONLY));
    place();
    often();
    SECTION("forked");
    born(forked, 0);
    says("one");
    SECTION("shared until it runs something");
    born(shares_it, CLONE_VM | CLONE_VFORK);
    says("two");
    often();
    return 0;
}
