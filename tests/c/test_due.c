/* Deadlines in their heap. */
#include "idle.h"

#include <stdlib.h>
#include <string.h>

static void a_turn_ends_so_many_at_most(void)
{
    enum { COUNT = PMX__EXPIRIES + 20 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    uint32_t ended = 0;
    pmx_policy p = raw();
    if (!test_room_for(2 * COUNT + 100))
        test_skipped("it takes six hundred descriptors");
    p.idle_ns = IDLE_NS;
    world_serve(&w, &p);
    for (int i = 0; i < COUNT; i++)
        ids[i] = meet(&w, &peers[i]);
    for (int i = 0; i < COUNT; i++)
        age(&w, ids[i]);
    w.mux->now = pmx__now();
    for (int turns = 0; turns < 2; turns++) {
        pmx__expire(w.mux);
        EQUAL(pmx_counts(w.mux)->closed - ended,
              turns ? COUNT - PMX__EXPIRIES : PMX__EXPIRIES);
        ended = (uint32_t)pmx_counts(w.mux)->closed;
        EQUAL(pmx__next_due(w.mux) <= w.mux->now, !turns);  /* no wait */
    }
    UNTIL(&w, w.closed_count == COUNT);
    for (int i = 0; i < COUNT; i++)
        leave(peers[i]);
    test_restore();
    world_is_clean(&w);
    world_end(&w);
}

/* It is looked at when the deadline that stands in the heap is over. */
static void a_touch_moves_nothing_in_the_heap(void)
{
    enum { COUNT = 40 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    pmx__deadline before[COUNT];
    pmx_policy p = raw();
    p.idle_ns = IDLE_NS;
    world_serve(&w, &p);
    for (int i = 0; i < COUNT; i++)
        ids[i] = meet(&w, &peers[i]);
    EQUAL(w.mux->due_count, COUNT);
    memcpy(before, w.mux->due, sizeof before);
    w.mux->now += IDLE_NS / 2;
    for (int i = 0; i < COUNT; i++)
        pmx__touch(w.mux, (uint32_t)ids[i]);
    CHECK(!memcmp(before, w.mux->due, sizeof before));
    w.mux->now += IDLE_NS - IDLE_NS / 4;        /* since they were met */
    EQUAL(pmx__overdue(w.mux), PMX__NONE);
    EQUAL(w.mux->due_count, COUNT);
    CHECK(pmx__next_due(w.mux) > w.mux->now);
    for (int i = 0; i < COUNT; i++) {
        do_op(&w, ids[i], PMX_ABORT);
        leave(peers[i]);
    }
    UNTIL(&w, w.closed_count == COUNT);
    world_is_clean(&w);
    world_end(&w);
}

static void deadlines_stay_in_order_over_pauses(void)
{
    enum { COUNT = 30 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    pmx_policy p = raw();
    p.idle_ns = 60000 * MS;
    world_serve(&w, &p);
    for (int i = 0; i < COUNT; i++)
        ids[i] = meet(&w, &peers[i]);
    uint32_t x = 3;
    for (int step = 0; step < 600; step++) {
        x = x * 1664525u + 1013904223u;
        int i = (int)(x >> 8) % COUNT;
        static const enum pmx_op ops[] = {PMX_PAUSE, PMX_RESUME, PMX_HOLD,
                                          PMX_RELEASE};
        if (x >> 30 == 0)
            put_text(peers[i], "x");
        else
            do_op(&w, ids[i], ops[x >> 20 & 3]);
        turn(&w, 0);
        int count = 0;
        for (uint32_t k = 0; k < w.mux->due_count; k++, count++) {
            const pmx__deadline *d = &w.mux->due[k];
            const pmx__conn *c = pmx__slot(w.mux, d->slot);
            CHECK(!(c->flags & (PMX__PAUSED | PMX__HELD)));
            CHECK(c->since + p.idle_ns >= d->at);
            CHECK(!k || w.mux->due[(k - 1) / 4].at <= d->at);
            EQUAL(c->due_place, k);
        }
        for (int k = 0; k < COUNT; k++)
            count += !!(pmx__slot(w.mux, (uint32_t)ids[k])->flags &
                        (PMX__PAUSED | PMX__HELD));
        EQUAL(count, COUNT);
    }
    for (int i = 0; i < COUNT; i++) {
        do_op(&w, ids[i], PMX_ABORT);
        leave(peers[i]);
    }
    UNTIL(&w, w.closed_count == COUNT);
    world_is_clean(&w);
    world_end(&w);
}

const test_case due_tests[] = {
    ONCE(deadlines_stay_in_order_over_pauses),
    EACH(a_turn_ends_so_many_at_most),
    ONCE(a_touch_moves_nothing_in_the_heap),
    {0},
};
