/* Peers: plain sockets. */
#include "world.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

int call_port(uint32_t port, int small)
{
    struct sockaddr_in to;
    int peer = socket(AF_INET, SOCK_STREAM, 0);
    int size = 32768, on = 1;
    CHECK(peer >= 0);
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons((uint16_t)port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (small)
        setsockopt(peer, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    CHECK(!connect(peer, (struct sockaddr *)&to, sizeof to));
    CHECK(!fcntl(peer, F_SETFL, O_NONBLOCK));
    return peer;
}

int call(const world *w)
{
    return call_port(w->port, 0);
}

int call_small(const world *w)
{
    return call_port(w->port, 1);
}

static uint64_t met(world *w)
{
    size_t before = w->opened.count;
    UNTIL(w, w->opened.count > before);
    EQUAL(w->opened.count, before + 1);
    return w->opened.ids[before];
}

uint64_t meet(world *w, int *peer)
{
    *peer = call(w);
    return met(w);
}

uint64_t meet_small(world *w, int *peer)
{
    *peer = call_small(w);
    return met(w);
}

void put(int peer, const void *bytes, size_t size)
{
    EQUAL(send(peer, bytes, size, MSG_NOSIGNAL), size);
}

void put_text(int peer, const char *text)
{
    put(peer, text, strlen(text));
}

int put_some(int peer, const buffer *bytes, size_t *at)
{
    while (*at < bytes->size) {
        ssize_t n = send(peer, bytes->bytes + *at, bytes->size - *at,
                         MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return 0;
        CHECK(n > 0);
        *at += (size_t)n;
    }
    return 1;
}

int get_at_most(int peer, buffer *into, size_t size)
{
    uint8_t bytes[16384];
    while (size) {
        size_t part = size < sizeof bytes ? size : sizeof bytes;
        ssize_t n = recv(peer, bytes, part, 0);
        if (n < 0)
            return errno == EAGAIN ? 1 : -errno;
        if (!n)
            return 0;
        append(into, bytes, (size_t)n);
        size -= (size_t)n;
    }
    return 1;
}

int get(int peer, buffer *into)
{
    return get_at_most(peer, into, SIZE_MAX);
}

void reset_peer(int peer)
{
    struct linger now = {1, 0};
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(peer);
}
