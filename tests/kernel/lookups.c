/* Looks names up in every way that the C library has, and says what came of it: the same with a broker as without. */
#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void look_up(const char *name, int family, int flags, const char *service) {
    struct addrinfo hints = {.ai_flags = flags, .ai_family = family, .ai_socktype = SOCK_STREAM}, *found = NULL;
    int code = getaddrinfo(name, service, &hints, &found);
    char text[2048];
    int at = snprintf(text, sizeof text, "getaddrinfo %s %d %x %s:", name, family, flags, service ? service : "-");
    if (code)
        at += snprintf(text + at, sizeof text - at, " error %d", code);
    for (struct addrinfo *one = found; one; one = one->ai_next) {
        char host[64];
        getnameinfo(one->ai_addr, one->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST);
        at += snprintf(text + at, sizeof text - at, " %s%s%s", host, one->ai_canonname ? "=" : "",
                       one->ai_canonname ? one->ai_canonname : "");
    }
    puts(text);
    if (found)
        freeaddrinfo(found);
}

static void entry(const char *how, const char *name, struct hostent *found) {
    printf("%s %s:", how, name);
    if (!found)
        printf(" error %d", h_errno);
    else
        for (char **one = found->h_addr_list; *one; one++) {
            char host[64];
            printf(" %s", inet_ntop(found->h_addrtype, *one, host, sizeof host));
        }
    puts("");
}

static void *in_a_thread(void *name) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    long code = getaddrinfo(name, "8080", &hints, &found);
    if (found)
        freeaddrinfo(found);
    return (void *)code;
}

int main(int count, char **names) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int n = 1; n < count; n++) {
        char *name = names[n];
        int families[] = {AF_UNSPEC, AF_INET, AF_INET6};
        int flags[] = {0, AI_CANONNAME, AI_ADDRCONFIG, AI_V4MAPPED | AI_ALL};
        for (int f = 0; f < 3; f++)
            for (int g = 0; g < 4; g++)
                look_up(name, families[f], flags[g], g % 2 ? NULL : "8080");
        entry("gethostbyname", name, gethostbyname(name));
        entry("gethostbyname2", name, gethostbyname2(name, AF_INET6));
        pthread_t threads[8];
        for (int t = 0; t < 8; t++)
            pthread_create(&threads[t], NULL, in_a_thread, name);
        for (int t = 0; t < 8; t++) {
            void *code;
            pthread_join(threads[t], &code);
            printf("in a thread %s: %ld\n", name, (long)code);
        }
    }
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_addr = {htonl(0x5db8d70f)}};
    char host[256];
    printf("backwards: %d\n", getnameinfo((void *)&server, sizeof server, host, sizeof host, NULL, 0, NI_NAMEREQD));
    return 0;
}
