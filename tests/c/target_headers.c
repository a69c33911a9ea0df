/* The fuzzers' target for headers of the PROXY protocol: see fuzz/targets.h. */
#ifdef __linux__
#include "choices.h"
#include "fuzz/targets.h"
#include "sim.h"

#include <stdlib.h>
#include <string.h>

/* How long the header is that these bytes begin with, by their whole: kept apart
 * from how proxy.c goes along. 0: more would be needed; -1: it is none. */
static int64_t plain_size(const uint8_t *bytes, size_t size)
{
    static const uint8_t signature[12] = {13, 10, 13, 10, 0, 13, 10, 'Q', 'U',
                                          'I', 'T', 10};
    size_t begun = size < 12 ? size : 12;
    if (size && !memcmp(bytes, signature, begun)) {
        if (size < 16)
            return 0;
        size_t whole = 16 + 256u * bytes[14] + bytes[15];
        return whole > 4096 ? -1 : size < whole ? 0 : (int64_t)whole;
    }
    const uint8_t *end = memchr(bytes, '\n', size < 107 ? size : 107);
    if (end)
        return end - bytes + 1;
    return size < 107 ? 0 : -1;
}

/* Bytes that come in steps, each in an exact copy, so that a read too far is
 * seen. What proxy.c takes for a header is as long as that is. */
static int64_t take_alone(const uint8_t *bytes, size_t size, choices c)
{
    size_t at = 0;
    for (;;) {
        uint8_t *copy = malloc(at + !at);
        CHECK(copy);
        memcpy(copy, bytes, at);
        int lacks = pmx__proxy_lacks(copy, at);
        free(copy);
        CHECK(lacks <= PMX__PROXY_MOST);
        if (lacks < 0)
            return -1;
        if (!lacks)
            break;
        size_t some = 1 + choose(&c, 40);
        some = some < (size_t)lacks ? some : (size_t)lacks;
        some = some < size - at ? some : size - at;
        if (!some)
            return 0;
        at += some;
    }
    uint8_t *header = malloc(at + PMX__PROXY_ROOM);
    CHECK(header);
    memcpy(header, bytes, at);
    int64_t settled = pmx__proxy_settle(header, at);
    EQUAL(plain_size(bytes, size), at);
    if (settled >= 0) {
        /* it is one of version 2 now, and is so again */
        pmx__target name;
        CHECK(settled >= 16);
        EQUAL(pmx__proxy_lacks(header, (size_t)settled),
              pmx__proxy_is_local(header) && at > 16 ? (int)at - 16 : 0);
        if (!pmx__proxy_is_local(header))
            EQUAL(pmx__proxy_settle(header, (size_t)settled), settled);
        EQUAL(pmx__proxy_names(header, 0, &name),
              pmx__proxy_names(header, 1, &name));
    }
    free(header);
    return settled < 0 ? -1 : (int64_t)at;
}

/* What is behind the header is the connection's input, or nobody hears of it. */
static void take_in_memory(const uint8_t *bytes, size_t size, int64_t header,
                           choices c)
{
    static const pmx_network all = {4, 0, {0}};
    world w;
    pmx_policy p = raw();
    buffer got = {0};
    sim_begin();
    inject_nothing();
    test_backend = "poll";
    world_begin(&w, 100, 10000);
    EQUAL(pmx_trust(w.mux, &all, 1), 1);
    p.proxy = 1;
    p.proxy_ms = 3600000;
    world_listen(&w, &p);
    union {
        struct sockaddr is;
        struct sockaddr_in in;
    } at = {.in = {.sin_family = AF_INET,
                   .sin_port = htons((uint16_t)w.port)}};
    sim_as_peer = 1;
    int peer = sim_socket(AF_INET, SOCK_STREAM, 0);
    (void)sim_connect(peer, &at.is, sizeof at.in);
    sim_as_peer = 0;
    turn(&w, 0);
    for (size_t sent = 0; sent < size;) {
        size_t some = 1 + choose(&c, 200);
        some = some < size - sent ? some : size - sent;
        if (sim_send(peer, bytes + sent, some, 0) < 0)
            break;
        sent += some;
        turn(&w, 0);
        mux_is_sound(w.mux);
    }
    (void)sim_shutdown(peer, SHUT_WR);
    for (int k = 0; k < 100 && pmx_counts(w.mux)->connections; k++) {
        uint8_t end[16];
        turn(&w, MS);
        (void)sim_recv(peer, end, sizeof end, 0);
    }
    (void)sim_close(peer);
    for (int k = 0; k < 100 && pmx_counts(w.mux)->connections; k++)
        turn(&w, MS);
    EQUAL(pmx_counts(w.mux)->connections, 0);
    EQUAL(w.opened.count, header > 0);
    EQUAL(w.closed_count, header > 0);
    EQUAL(pmx_counts(w.mux)->refused, header <= 0);
    if (header > 0) {
        got = received_by(&w, w.opened.ids[0]);
        EQUAL(got.size, size - (size_t)header);
        CHECK(!got.size || !memcmp(got.bytes, bytes + header, got.size));
        release(&got);
    }
    world_is_clean(&w);
    world_end(&w);
    EQUAL(sim_open(), 0);
    sim_end();
    test_backend = NULL;
}

void fuzz_headers(const uint8_t *bytes, size_t size)
{
    choices steps = choices_drawn(size ? bytes[size - 1] + size : 0);
    const uint8_t nothing = 0;
    int64_t header = take_alone(size ? bytes : &nothing, size, steps);
    take_in_memory(bytes, size, header, steps);
}
#else
typedef int headers_target_on_linux;    /* a file must not be empty */
#endif
