/* arena.c and outq.c: memory, by itself. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

static void an_arena_has_room_for_what_it_promises(void)
{
    for (uint32_t rows = 1; rows < 9; rows++) {
        pmx_arena *a = pmx_arena_new(rows * 10, rows);
        CHECK(a && a->capacity == rows * 10 && a->rows == rows);
        CHECK((uintptr_t)a->ids % 8 == 0 && (uintptr_t)a->offsets % 4 == 0);
        memset(a->ids, 1, rows * sizeof *a->ids);
        memset(a->offsets, 2, (rows + 1) * sizeof *a->offsets);
        memset(a->slots, 3, rows * sizeof *a->slots);
        memset(a->data, 4, rows * 10);
        EQUAL(a->ids[rows - 1], 0x0101010101010101);
        EQUAL(a->offsets[rows], 0x02020202);
        EQUAL(a->slots[rows - 1], 0x03030303);
        CHECK((uint8_t *)a + a->total == a->data + a->capacity);
        pmx_arena_free(a);
    }
    pmx_arena_free(NULL);
    CHECK(!pmx_arena_new(UINT64_C(1) << 40, 1));
    CHECK(!pmx_arena_new(UINT64_MAX, UINT32_MAX));
}

static void an_arena_grows_in_steps_and_keeps_its_bytes(void)
{
    pmx_mux *mux = calloc(1, sizeof *mux);
    pmx_arena *a = NULL;
    buffer bytes = {0};
    int moves = 0;
    CHECK(mux);
    mux->stats = &mux->own;
    fill(&bytes, 100000, 1);
    for (size_t at = 0; at < bytes.size; at += 100) {
        uint64_t before = a ? a->total : 0;
        EQUAL(pmx__arena_reserve(mux, &a, 100, 110000), 0);
        moves += a->total != before;
        CHECK(a->capacity <= 110000);
        EQUAL(mux->stats->buffers, a->total);
        memcpy(a->data + a->size, bytes.bytes + at, 100);
        a->size += 100;
    }
    CHECK(moves < 15);
    CHECK(!memcmp(a->data, bytes.bytes, bytes.size));
    /* what is done with makes room before memory does */
    a->data += 60000;
    a->size -= 60000;
    a->capacity -= 60000;
    uint64_t before = a->total;
    EQUAL(pmx__arena_reserve(mux, &a, 50000, 110000), 0);
    EQUAL(a->total, before);
    CHECK(!memcmp(a->data, bytes.bytes + 60000, 40000));
    pmx_arena_free(a);
    release(&bytes);
    free(mux);
}

static void offsets_are_checked(void)
{
    static const int32_t good[] = {0, 3, 3, 9}, falls[] = {0, 5, 4, 9},
                         below[] = {-1, 3}, beyond[] = {0, 3, 10};
    static const int64_t wide[] = {2, 3, INT64_MAX}, minus[] = {INT64_MIN};
    EQUAL(pmx_check_offsets(good, 4, 3, 9), -1);
    EQUAL(pmx_check_offsets(falls, 4, 3, 9), 2);
    EQUAL(pmx_check_offsets(below, 4, 1, 9), 0);
    EQUAL(pmx_check_offsets(beyond, 4, 2, 9), 2);
    EQUAL(pmx_check_offsets(wide, 8, 1, 9), -1);
    EQUAL(pmx_check_offsets(wide, 8, 2, 9), 2);
    EQUAL(pmx_check_offsets(minus, 8, 0, 9), 0);
    EQUAL(pmx_check_offsets(good, 4, 0, 0), -1);
}

/* --- queues ------------------------------------------------------------ */

typedef struct {
    pmx_mux *mux;
    pmx__conn conn;
    pmx__rules rules;
    pmx_sock peer;
    buffer sent, got;
} line;

static void line_begin(line *l)
{
    pmx_sock pair[2];
    memset(l, 0, sizeof *l);
    pair_of(pair);
    for (int i = 0; i < 2; i++)
        set_room(pair[i], SO_SNDBUF, 4096);
    l->mux = calloc(1, sizeof *l->mux);
    CHECK(l->mux);
    l->mux->stats = &l->mux->own;
    l->rules.transport = &pmx__unix;
    l->conn.rules = &l->rules;
    l->conn.sock = pair[0];
    l->peer = pair[1];
}

static void line_end(line *l)
{
    pmx__queue_drop(l->mux, &l->conn);
    EQUAL(l->mux->stats->queued, 0);
    EQUAL(l->mux->stats->buffers, 0);
    leave(l->conn.sock);
    leave(l->peer);
    free(l->mux);
    release(&l->sent);
    release(&l->got);
}

static void copy(line *l, size_t size, uint32_t seed)
{
    size_t at = l->sent.size;
    fill(&l->sent, size, seed);
    EQUAL(pmx__queue_copy(l->mux, &l->conn, l->sent.bytes + at, size), 0);
    EQUAL(l->mux->stats->queued, l->conn.queue ? l->conn.queue->size : 0);
}

static void share(line *l, size_t size, size_t begin, uint32_t seed)
{
    buffer b = {0};
    fill(&b, size, seed);
    pmx__common *shared = pmx__common_new(l->mux, b.bytes, size);
    CHECK(shared);
    EQUAL(pmx__queue_common(l->mux, &l->conn, shared, begin), 0);
    pmx__common_drop(l->mux, shared);
    append(&l->sent, b.bytes + begin, size - begin);
    release(&b);
}

static void drain(line *l)
{
    int result;
    do {
        size_t taken, before = l->conn.queue ? l->conn.queue->size : 0;
        result = pmx__queue_send(l->mux, &l->conn, &taken);
        CHECK(result == 0 || result == -EAGAIN);
        EQUAL(before - taken, l->conn.queue ? l->conn.queue->size : 0);
        CHECK(get(l->peer, &l->got) == 1);
    } while (result);
    CHECK(!l->conn.queue);
    CHECK(same(&l->sent, &l->got));
}

static void a_queue_keeps_order_over_copies_and_shares(void)
{
    line l;
    line_begin(&l);
    for (uint32_t i = 0; i < 300; i++) {
        copy(&l, i * 37 % 5000, i);
        if (i % 3 == 0)
            share(&l, 10000 + i, i * 31, i);
    }
    drain(&l);
    copy(&l, 10, 1);            /* and it can be used again */
    share(&l, 10, 9, 2);
    copy(&l, 200000, 3);
    drain(&l);
    line_end(&l);
}

static void small_pieces_share_a_chunk(void)
{
    line l;
    int chunks = 0;
    line_begin(&l);
    for (uint32_t i = 0; i < 10000; i++)
        copy(&l, 10, i);
    for (pmx__chunk *chunk = l.conn.queue->head; chunk; chunk = chunk->next)
        chunks++;
    CHECK(chunks < 20);
    CHECK(l.mux->stats->buffers < 3 * 100000);
    drain(&l);
    line_end(&l);
}

static void a_dropped_queue_is_counted(void)
{
    line l;
    line_begin(&l);
    copy(&l, 100, 1);
    share(&l, 5000, 1000, 2);
    pmx__queue_drop(l.mux, &l.conn);
    EQUAL(l.mux->stats->discarded, 4100);
    line_end(&l);
}

static void a_queue_without_memory_stays_as_it_was(void)
{
    line l;
    buffer more = {0};
    line_begin(&l);
    fill(&more, 100000, 9);
    copy(&l, 100, 1);
    test_fail_at = 1;
    EQUAL(pmx__queue_copy(l.mux, &l.conn, more.bytes, more.size), -ENOMEM);
    EQUAL(l.conn.queue->size, 100);
    drain(&l);
    for (long at = 1; at <= 2; at++) {
        test_fail_at = at;
        EQUAL(pmx__queue_copy(l.mux, &l.conn, more.bytes, 10), -ENOMEM);
        CHECK(!l.conn.queue);
        EQUAL(l.mux->stats->buffers, 0);
    }
    test_fail_at = 1;
    CHECK(!pmx__common_new(l.mux, more.bytes, 10));
    copy(&l, 100, 2);
    drain(&l);
    release(&more);
    line_end(&l);
}

/* A turn in which buffers hold so much, and so much time has gone by. */
static void hold(world *w, uint64_t buffers, int64_t gone_by)
{
    if (w->mux->trim_at)
        w->mux->trim_at -= gone_by;
    w->mux->stats->buffers = buffers;
    turn(w, 0);
    w->mux->stats->buffers = 0;
}

#ifdef __GLIBC__
enum { TRIMS = 1 };
#else
enum { TRIMS = 0 };             /* the allocator takes no such wish */
#endif

static void what_buffers_held_goes_back_to_the_system_once(void)
{
    const uint64_t much = PMX__TRIM_LEAST;
    world w;
    long before = test_trims;
    world_begin(&w, 100, 10000);
    hold(&w, much - 1, 0);              /* too little to matter */
    hold(&w, 0, 0);
    EQUAL(w.mux->trim_at, 0);
    hold(&w, 4 * much, 0);
    hold(&w, much + 1, 0);              /* more than a quarter of it */
    EQUAL(w.mux->trim_at, 0);
    hold(&w, much, 0);
    CHECK(w.mux->trim_at);
    CHECK(pmx_next_timeout(w.mux) > 0);         /* an idle mux wakes for it */
    CHECK(pmx_next_timeout(w.mux) <= PMX__TRIM_NS);
    hold(&w, 4 * much, PMX__TRIM_NS);   /* in use again: nothing is gained */
    EQUAL(w.mux->trim_at, 0);
    EQUAL(test_trims, before);
    hold(&w, 0, 0);
    hold(&w, 0, PMX__TRIM_NS);
    EQUAL(test_trims, before + TRIMS);
    for (int i = 0; i < 3; i++)
        hold(&w, much - 1, PMX__TRIM_NS);       /* from here it counts anew */
    EQUAL(test_trims, before + TRIMS);
    EQUAL(w.mux->trim_at, 0);
    EQUAL(pmx_next_timeout(w.mux), -1);
    world_end(&w);
}

const test_case memory_tests[] = {
    ONCE(an_arena_has_room_for_what_it_promises),
    ONCE(an_arena_grows_in_steps_and_keeps_its_bytes),
    ONCE(offsets_are_checked),
    ONCE(a_queue_keeps_order_over_copies_and_shares),
    ONCE(small_pieces_share_a_chunk),
    ONCE(a_dropped_queue_is_counted),
    ONCE(a_queue_without_memory_stays_as_it_was),
    ONCE(what_buffers_held_goes_back_to_the_system_once),
    {0},
};
