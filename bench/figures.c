/*
 * What the figures of a turn cost, beside the turn. One connection over TCP
 * sends a message, and a turn answers: no turn is shorter. Between such turns,
 * in the same process, the counting alone is done as often. The medians of
 * many rounds are compared, so what disturbs the machine disturbs both.
 */
#define _GNU_SOURCE             /* sockets, in strict C11 */
#include "mux.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROUNDS = 201, TURNS = 500 };

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *of)
{
    qsort(of, ROUNDS, sizeof *of, by_size);
    return of[ROUNDS / 2];
}

int main(void)
{
    pmx_turn t = {0};
    pmx_policy p;
    pmx_address name;
    uint64_t listener, id = 0;
    static double turns[ROUNDS], counting[ROUNDS];
    memset(&p, 0, sizeof p);
    p.framing.kind = PMX_RAW;
    p.high_water = p.low_water = 65536;
    p.max_output = 1 << 24;
    p.idle_ns = p.message_ns = p.connect_ns = p.handshake_ns = -1;
    p.close_ns = INT64_C(30000000000);
    pmx_endpoint here = {.host = "127.0.0.1"};
    check(!pmx_open(&t.mux, NULL, 4096, 262144, 0), "open");
    check(!pmx_listen(t.mux, &here, &p, 16, 0, 0600, &listener), "listen");
    check(!pmx_listener_address(t.mux, listener, &name), "address");
    int peer = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)name.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(!connect(peer, (struct sockaddr *)&to, sizeof to), "connect");
    check(!setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "nodelay");
    t.arena = pmx_arena_new(262144, 4096);
    t.timeout_ns = -1;
    while (!id) {
        check(pmx_harvest(&t) >= 0, "harvest");
        id = t.opened_count ? t.opened[0] : 0;
    }
    char text[64] = {0};
    uint64_t shape = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t spent = 0;
        for (int i = 0; i < TURNS; i++) {
            check(write(peer, text, sizeof text) == sizeof text, "write");
            int64_t began = pmx__now();     /* the answer before, this message */
            check(pmx_exchange(&t, -1, shape, &id, NULL, text,
                               sizeof text) >= 0, "turn");
            spent += pmx__now() - began;
            check(t.messages == 1, "a message a turn");
            if (shape)
                check(read(peer, text, sizeof text) == sizeof text, "read");
            shape = 1;
        }
        turns[round] = (double)spent / TURNS;
        int64_t began = pmx__now();
        for (int i = 0; i < TURNS; i++) {
            pmx__turn_begins(t.mux, 1);
            pmx__turn_ends(t.mux);
        }
        counting[round] = (double)(pmx__now() - began) / TURNS;
    }
    double turn = median(turns), cost = median(counting);
    printf("{\"turn_ns\": %.1f, \"counting_ns\": %.1f, \"share\": %.4f}\n",
           turn, cost, cost / turn);
    close(peer);
    pmx_close(t.mux);
    pmx_arena_free(t.arena);
    return 0;
}
