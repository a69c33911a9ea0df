/* The yardstick: what C on epoll does with this work when nothing stands
 * between them. recv and send inline, no table of handlers, no queue unless
 * the kernel refuses; --framing lines cuts each line out and answers it alone,
 * --payload echo answers raw bytes unchanged.
 *
 * Compiled with BENCH_TLS, it does the same over TLS, with OpenSSL.
 *
 * epoll [--port P] [--framing raw|lines] [--payload upper|echo] [--backlog N]
 *       [--tls PEM] */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../wire.h"

#define BUFFER 262144U /* at most this is read at once */
#define LINE 65536U    /* and a line is no longer than this */
#define EVENTS 512

struct conn {
    struct wire wire;
    size_t unsent, rest; /* of an answer, and of a line not yet complete */
    char *bytes;         /* both, in this order */
};

static char buffer[LINE + BUFFER];
static bool lines, echo;
static int poller;

static void die(const char *what)
{
    fprintf(stderr, "epoll: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void end(struct conn *c)
{
    wire_end(&c->wire);
    free(c->bytes);
    free(c);
}

static void watch(struct conn *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->wire.fd, &event);
}

static bool keep(struct conn *c, const char *bytes, size_t unsent, size_t rest)
{
    size_t n = unsent + rest;
    char *copy = n > 0 ? malloc(n) : NULL;
    if (copy)
        memcpy(copy, bytes, n);
    free(c->bytes);
    c->bytes = copy;
    c->unsent = unsent;
    c->rest = rest;
    return copy || n == 0;
}

/* Without a branch, so that compilers do 16 bytes or more at a time. */
static void upper(char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        unsigned char is_lower = (unsigned char)(c - 'a') < 26;
        bytes[i] = (char)(c ^ (unsigned char)(is_lower << 5));
    }
}

/* Answers the whole lines among n bytes, in place; returns their length. */
static size_t upper_lines(char *bytes, size_t n)
{
    char *at = bytes, *stop;
    while ((stop = memchr(at, '\n', n - (size_t)(at - bytes)))) {
        upper(at, (size_t)(stop - at));
        at = stop + 1;
    }
    return (size_t)(at - bytes);
}

/* Whether all has left, and reading goes on. */
static bool writable(struct conn *c)
{
    ssize_t sent = wire_send(&c->wire, c->bytes, c->unsent);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        end(c);
        return false;
    }
    if (sent > 0) {
        c->unsent -= (size_t)sent;
        memmove(c->bytes, c->bytes + sent, c->unsent + c->rest);
    }
    if (c->unsent > 0)
        return false;
    watch(c, EPOLLIN);
    return true;
}

/* Whether there is more, of which no event tells. */
static bool readable(struct conn *c)
{
    char *from = buffer + LINE - c->rest; /* an unfinished line goes before */
    ssize_t n = wire_recv(&c->wire, buffer + LINE, BUFFER);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        end(c);
        return false;
    }
    if (c->rest > 0)
        memcpy(from, c->bytes, c->rest);
    size_t have = c->rest + (size_t)n, whole = have, sent = 0;
    if (lines)
        whole = upper_lines(from, have);
    else if (!echo)
        upper(from, have);
    while (sent < whole) {
        ssize_t took = wire_send(&c->wire, from + sent, whole - sent);
        if (took < 0 && errno == EINTR)
            continue;
        if (took < 0)
            break;
        sent += (size_t)took;
    }
    if (sent == have && !c->bytes)
        return wire_holds(&c->wire);
    if (have - whole > LINE || (sent < whole && errno != EAGAIN) ||
        !keep(c, from + sent, whole - sent, have - whole)) {
        end(c);
        return false;
    }
    if (c->unsent == 0)
        return wire_holds(&c->wire);
    watch(c, EPOLLOUT); /* and reading goes on when it has left */
    return false;
}

static void accept_all(int listener)
{
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (!c || !wire_begin(&c->wire, fd, true)) {
            close(fd);
            free(c);
        } else if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) {
            end(c);
        }
    }
}

static int listen_on(unsigned port, int backlog)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port)};
    socklen_t length = sizeof address;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, length) < 0 || listen(fd, backlog) < 0)
        die("listen");
    getsockname(fd, (struct sockaddr *)&address, &length);
    printf("listening on 127.0.0.1:%d (epoll)\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    const char *pem = NULL;
    unsigned port = 0;
    int backlog = 0;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--port") == 0)
            port = (unsigned)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--framing") == 0)
            lines = strcmp(argv[i + 1], "lines") == 0;
        else if (strcmp(argv[i], "--payload") == 0)
            echo = strcmp(argv[i + 1], "echo") == 0;
        else if (strcmp(argv[i], "--backlog") == 0)
            backlog = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--tls") == 0)
            pem = argv[i + 1];
    }
    if (!wire_set_up(pem)) {
        fprintf(stderr, "epoll: no TLS with %s\n", pem ? pem : "no certificate");
        exit(1);
    }
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port, backlog > 0 ? backlog : SOMAXCONN);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if (!c->unsent || writable(c))
                while (readable(c))
                    ;
        }
    }
}
