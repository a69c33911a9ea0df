/* Peers: plain sockets. */
#include "world.h"

#include <string.h>
#ifdef _WIN32
#define MSG_NOSIGNAL 0
#define SHUT_RDWR SD_BOTH
#define SIZE(size) ((int)(size))
#else
#include <netinet/tcp.h>
#define SIZE(size) (size)
#endif

void set_room(pmx_sock peer, int option, int size)
{
    CHECK(!setsockopt(peer, SOL_SOCKET, option, (const void *)&size,
                      sizeof size));
}

pmx_sock call_port(uint32_t port, int small)
{
    struct sockaddr_in to;
    pmx_sock peer = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    CHECK(peer != PMX__NO_SOCK);
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons((uint16_t)port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (small)
        set_room(peer, SO_RCVBUF, 32768);
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, (const void *)&on, sizeof on);
    CHECK(!connect(peer, (struct sockaddr *)&to, sizeof to));
    CHECK(!pmx__prepare(peer));
    return peer;
}

void pair_of(pmx_sock pair[2])
{
#ifdef _WIN32
    EQUAL(pmx__wakeup_open(pair), 0);
#else
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK(!pmx__prepare(pair[0]) && !pmx__prepare(pair[1]));
#endif
}

pmx_sock call(const world *w)
{
    return call_port(w->port, 0);
}

pmx_sock call_small(const world *w)
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

uint64_t meet(world *w, pmx_sock *peer)
{
    *peer = call(w);
    return met(w);
}

uint64_t meet_small(world *w, pmx_sock *peer)
{
    *peer = call_small(w);
    return met(w);
}

int64_t offer(pmx_sock peer, const void *bytes, size_t size)
{
    int64_t n = send(peer, bytes, SIZE(size), MSG_NOSIGNAL);
    return n < 0 ? pmx__net_error() : n;
}

void put(pmx_sock peer, const void *bytes, size_t size)
{
    EQUAL(offer(peer, bytes, size), size);
}

void put_text(pmx_sock peer, const char *text)
{
    put(peer, text, strlen(text));
}

int put_some(pmx_sock peer, const buffer *bytes, size_t *at)
{
    while (*at < bytes->size) {
        int64_t n = offer(peer, bytes->bytes + *at, bytes->size - *at);
        if (n == -EAGAIN)
            return 0;
        CHECK(n > 0);
        *at += (size_t)n;
    }
    return 1;
}

int get_at_most(pmx_sock peer, buffer *into, size_t size)
{
    uint8_t bytes[16384];
    while (size) {
        size_t part = size < sizeof bytes ? size : sizeof bytes;
        int64_t n = recv(peer, (void *)bytes, SIZE(part), 0);
        if (n < 0)
            return pmx__net_error() == -EAGAIN ? 1 : pmx__net_error();
        if (!n)
            return 0;
        append(into, bytes, (size_t)n);
        size -= (size_t)n;
    }
    return 1;
}

int get(pmx_sock peer, buffer *into)
{
    return get_at_most(peer, into, SIZE_MAX);
}

void end_writing(pmx_sock peer)
{
    pmx__shutdown_write(peer);
}

void end_both(pmx_sock peer)
{
    (void)shutdown(peer, SHUT_RDWR);
}

void leave(pmx_sock peer)
{
    pmx__drop_sock(peer);
}

void reset_peer(pmx_sock peer)
{
    struct linger now = {1, 0};
    setsockopt(peer, SOL_SOCKET, SO_LINGER, (const void *)&now, sizeof now);
    leave(peer);
}

/* Wine (8.0) shuts a socket down before it closes it, and takes what error
 * comes from the socket: who reads is told of an end. */
static int resets_are_told(void)
{
    int said = -ECONNRESET;
#ifdef _WIN32
    pmx_sock pair[2];
    buffer got = {0};
    int64_t until = deadline();
    pair_of(pair);
    reset_peer(pair[1]);
    do {
        said = get(pair[0], &got);
        CHECK(pmx__now() < until);
    } while (said > 0);
    leave(pair[0]);
#endif
    return said < 0;
}

int is_reset(int said)
{
    return said == -ECONNRESET || (!said && !resets_are_told());
}

void needs_resets(void)
{
    if (!resets_are_told())
        test_skipped("there a reset arrives as an end of stream");
}

int acks_are_told(void)
{
    static int told = -1;       /* not known yet */
    if (told < 0) {
        pmx_sock sock = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(sock != PMX__NO_SOCK);
        told = pmx__unacknowledged(sock) >= 0;
        leave(sock);
    }
    return told;
}

void end_if_untold(pmx_sock peer)
{
    if (!acks_are_told())
        end_writing(peer);
}
