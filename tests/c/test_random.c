/* Anything in any order. After each turn the lists, flags and figures of the
 * mux must agree with each other; in the end everybody is gone. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PEERS = 16, LISTENERS = 4 };

static uint32_t state;

static uint32_t chance(uint32_t of)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % of;
}

static void turn_and_check(world *w)
{
    uint32_t least = chance(3) ? 1 : 1 + chance(5);
    size_t before = w->message_count;
    CHECK(turn_of(w, chance(4) ? 0 : MS, least, MS) >= 0);
    mux_is_sound(w->mux);
    for (size_t i = before; i < w->message_count; i++)
        EQUAL(has(&w->opened, w->messages[i].id), 1);
    for (uint32_t i = 0; i < w->t.closed_count; i++)
        CHECK(has(&w->opened, w->t.closed[i].id) <= 1);
    /* nothing is said of who was said to be closed */
    for (uint32_t i = 0; i < w->t.messages; i++) {
        const ending *e = closed(w, w->t.arena->ids[i]);
        CHECK(!e || e->turn == w->turns);
    }
    w->message_count = w->in.size = 0;
}

static uint64_t anybody(const world *w)
{
    return w->opened.count && chance(20)
               ? w->opened.ids[w->opened.count - 1 -
                               chance((uint32_t)w->opened.count) % 30 %
                                   (uint32_t)w->opened.count]
               : chance(100);
}

static void do_something(world *w, pmx_sock *peers, const uint32_t *ports,
                         const buffer *data, const pmx_policy *policies)
{
    int i = (int)chance(PEERS);
    uint64_t id = anybody(w);
    static const size_t sizes[] = {0, 1, 7, 100, 5000, 70000, 400000};
    size_t size = sizes[chance(7)];
    buffer got = {0};
    if (peers[i] == PMX__NO_SOCK)
        peers[i] = call_port(ports[chance(LISTENERS)], (int)chance(2));
    switch (chance(16)) {
    case 0: case 1: case 2: case 3:
        (void)offer(peers[i], data->bytes + chance(1000), size);
        break;
    case 4: case 5: case 6:
        (void)get_at_most(peers[i], &got, size);
        break;
    case 7:
        if (chance(2))
            reset_peer(peers[i]);
        else
            leave(peers[i]);
        peers[i] = PMX__NO_SOCK;
        break;
    case 8:
        end_writing(peers[i]);
        break;
    case 9: case 10: case 11: case 12:
        say(w, id, data->bytes, size);
        break;
    case 13: {
        uint64_t out;
        uint32_t k = chance(LISTENERS);
        pmx_endpoint at[] = {{.host = "127.0.0.1", .port = 1},
                             {.host = "127.0.0.1", .port = ports[k]}};
        uint32_t skip = chance(2);
        if (pmx_counts(w->mux)->connections < 40)
            EQUAL(pmx_connect(w->mux, at + skip, 2 - skip, &policies[k],
                              &out), 0);
        break;
    }
    default:
        do_op(w, id, (enum pmx_op)(1 + chance(chance(3) ? 8 : 15)));
        break;
    }
    release(&got);
}

static void live(uint32_t seed, int64_t until)
{
    world w;
    pmx_sock peers[PEERS];
    uint32_t ports[LISTENERS];
    buffer data = {0};
    state = seed;
    static const uint64_t arenas[] = {16, 1000, 262144};
    static const uint32_t rows[] = {1, 5, 4096};
    pmx_policy policies[LISTENERS] = {raw(), lines("\n", 20000),
                                      prefix(1, 0, 200), lines("ab", 300000)};
    world_begin(&w, rows[chance(3)], arenas[chance(3)]);
    w.gaps = (int)chance(2);
    fill(&data, 401000, seed);
    for (int k = 0; k < LISTENERS; k++) {
        pmx_policy *p = &policies[k];
        p->half_open = chance(2);
        p->max_connections = chance(3) ? 0 : 3;
        p->idle_ns = chance(2) ? -1 : 20 * MS;
        p->close_ns = 30 * MS;
        p->connect_ns = 500 * MS;
        p->max_output = chance(2) ? 1000000 : 16777216;
        world_listen(&w, p);
        ports[k] = w.port;
    }
    memset(peers, -1, sizeof peers);
    for (int step = 0; step < 400 && pmx__now() < until; step++) {
        for (uint32_t k = 1 + chance(6); k; k--)
            do_something(&w, peers, ports, &data, policies);
        turn_and_check(&w);
    }
    /* an end in one of three ways */
    uint32_t way = chance(3);
    if (way == 0)
        pmx_drain(w.mux);
    for (int i = 0; i < PEERS; i++)
        if (peers[i] >= 0)
            leave(peers[i]);
    for (int step = 0; step < 20000; step++) {
        if (!pmx_counts(w.mux)->connections && !w.mux->report_count &&
            !w.mux->ready_count && !w.mux->chore_count && step > 5)
            break;
        for (size_t k = 0; k < w.opened.count && step % 8 == 1; k++) {
            do_op(&w, w.opened.ids[k], PMX_RESUME);
            do_op(&w, w.opened.ids[k], PMX_RELEASE);
            do_op(&w, w.opened.ids[k], way == 1 ? PMX_ABORT : PMX_CLOSE);
        }
        turn_and_check(&w);
    }
    for (size_t k = 0; k < w.opened.count; k++)
        CHECK(closed(&w, w.opened.ids[k]));
    for (int k = 0; k < 600 && w.closed_count <
                                   pmx_counts(w.mux)->closed; k++)
        turn_and_check(&w);
    EQUAL(pmx_counts(w.mux)->connections, 0);
    EQUAL(pmx_counts(w.mux)->queued, 0);
    world_end(&w);
    release(&data);
}

static void anything_in_any_order(void)
{
    const char *wanted = getenv("SEEDS");       /* more, for as long as it
                                                   takes, from this on */
    uint32_t first = wanted ? (uint32_t)atoi(wanted) : 1;
    int64_t until = wanted ? INT64_MAX : pmx__now() + 1500 * MS;
    for (uint32_t seed = first; pmx__now() < until && seed < first + 30;
         seed++) {
        snprintf(test_note, sizeof test_note, "seed %u", seed);
        live(seed, until);
    }
}

const test_case random_tests[] = {
    EACH(anything_in_any_order),
    {0},
};
