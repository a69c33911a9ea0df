/* Fairness: whoever is always ready gets as much as the others. */
#include "world.h"

#include <string.h>

enum { PEERS = 100 };

/* Bytes served to each of many peers that always have more to say. */
static void serve_all(const pmx_policy *p, const buffer *said,
                      uint32_t max_messages, uint64_t arena_size,
                      uint64_t target)
{
    world w;
    pmx_sock peers[PEERS];
    size_t at[PEERS] = {0};
    uint64_t ids[PEERS], served[PEERS] = {0}, total = 0;
    world_begin(&w, max_messages, arena_size);
    world_listen(&w, p);
    /* what waits to be read is always more than a share */
    set_room(w.mux->listeners[0].sock, SO_RCVBUF, 200000);
    for (int i = 0; i < PEERS; i++)
        ids[i] = meet(&w, &peers[i]);
    w.forget = 1;
    int64_t until = deadline();
    while (total < target) {
        for (int i = 0; i < PEERS; i++)
            while (put_some(peers[i], said, &at[i]))
                at[i] = 0;
        turn(&w, 0);
        for (uint32_t k = 0; k < w.t.messages; k++) {
            const pmx_arena *a = w.t.arena;
            int32_t size = a->offsets[k + 1] - a->offsets[k];
            CHECK(a->slots[k] < PEERS);
            served[a->slots[k]] += (uint64_t)size;
            total += (uint64_t)size;
        }
        CHECK(pmx__now() < until);
    }
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = 0; i < PEERS; i++) {
        least = served[i] < least ? served[i] : least;
        most = served[i] > most ? served[i] : most;
        do_op(&w, ids[i], PMX_ABORT);
    }
    /* one share apart, and what is under way */
    CHECK(most - least <= 2 * PMX__PORTION);
    turn(&w, 0);
    for (int i = 0; i < PEERS; i++)
        leave(peers[i]);
    world_is_clean(&w);
    world_end(&w);
}

static void always_ready_peers_are_served_alike(void)
{
    buffer said = {0};
    pmx_policy p = raw();
    fill(&said, 100000, 1);
    serve_all(&p, &said, 4096, 262144, 50 << 20);
    release(&said);
}

/* Framing leaves room in the batch that is less than a share: whoever gets
 * that must not be the same ones each time. */
static void always_ready_peers_are_served_alike_in_frames(void)
{
    buffer said = {0};
    pmx_policy p = prefix(1, 0, 255);
    for (int i = 0; i < 10000; i++)
        append(&said, "\11012345678", 10);
    serve_all(&p, &said, 40000, 262144, 48 << 20);
    release(&said);
}

static void always_ready_peers_are_served_alike_in_few_rows(void)
{
    buffer said = {0};
    pmx_policy p = lines("\n", 5000);
    for (int i = 0; i < 100; i++) {
        for (int k = 0; k < 999; k++)
            append(&said, "x", 1);
        append(&said, "\n", 1);
    }
    serve_all(&p, &said, 50, 262144, 12 << 20);
    release(&said);
}

static void always_ready_peers_are_served_alike_in_a_small_arena(void)
{
    buffer said = {0};
    pmx_policy p = raw();
    fill(&said, 100000, 1);
    serve_all(&p, &said, 4096, 10000, 7 << 20);
    release(&said);
}

/* One that floods does not hold up one that says a word. */
static void a_flood_does_not_hold_up_a_word(void)
{
    world w;
    pmx_sock flood, quiet;
    size_t at = 0;
    pmx_policy p = lines("\n", 1000);
    world_begin(&w, 100, 262144);
    world_listen(&w, &p);
    buffer said = {0};
    for (int i = 0; i < 50000; i++)
        append(&said, "0123456789\n", 11);
    (void)meet(&w, &flood);
    uint64_t id = meet(&w, &quiet);
    w.forget = 1;
    for (int round = 0; round < 20; round++) {
        if (put_some(flood, &said, &at))
            at = 0;
        put_text(quiet, "word\n");
        int turns = 0, found = 0;
        while (!found) {
            turn(&w, MS);
            for (uint32_t k = 0; k < w.t.messages; k++)
                found |= w.t.arena->ids[k] == id;
            CHECK(turns++ < 500);
        }
    }
    release(&said);
    leave(flood);
    leave(quiet);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
}

/* A stream alone gets the whole batch, not only a share of it. */
static void a_stream_alone_gets_the_whole_batch(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer said = {0};
    size_t at = 0, most = 0;
    fill(&said, 4 << 20, 1);
    UNTIL_DOING(&w, w.in.size == said.size, {
        put_some(peer, &said, &at);
        most = w.t.arena->size > most ? (size_t)w.t.arena->size : most;
    });
    CHECK(same(&said, &w.in));
    CHECK(most > PMX__PORTION);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&said);
    world_is_clean(&w);
    world_end(&w);
}

/* Readers that are fast: all of them get all of it, a portion at a time. */
static void what_is_sent_of_queues_in_a_turn_is_bounded(void)
{
    enum { COUNT = 14, SIZE = 8 << 20 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    size_t got[COUNT] = {0}, all = 0;
    uint64_t most = 0, most_of_one = 0;
    pmx_policy p = raw();
    buffer much = {0}, some = {0};
    fill(&much, SIZE, 1);
    world_serve(&w, &p);
    for (int i = 0; i < COUNT; i++) {
        ids[i] = meet(&w, &peers[i]);
        say(&w, ids[i], much.bytes, much.size);
        turn(&w, 0);
    }
    for (int64_t until = deadline(); all < (size_t)COUNT * SIZE;) {
        uint64_t before = pmx_counts(w.mux)->bytes_out;
        uint64_t queued[COUNT];
        for (int i = 0; i < COUNT; i++) {
            some.size = 0;
            get(peers[i], &some);
            got[i] += some.size;
            all += some.size;
            queued[i] = pmx_queued(w.mux, ids[i]);
        }
        turn(&w, 0);
        uint64_t sent = pmx_counts(w.mux)->bytes_out - before;
        most = sent > most ? sent : most;
        for (int i = 0; i < COUNT; i++) {
            sent = queued[i] - pmx_queued(w.mux, ids[i]);
            most_of_one = sent > most_of_one ? sent : most_of_one;
        }
        CHECK(pmx__now() < until);
    }
    CHECK(most_of_one <= PMX__FLUSH);
    CHECK(most < PMX__FLUSH_ALL + PMX__FLUSH);
    for (int i = 0; i < COUNT; i++) {
        EQUAL(got[i], SIZE);
        do_op(&w, ids[i], PMX_ABORT);
        leave(peers[i]);
    }
    UNTIL(&w, w.closed_count == COUNT);
    release(&much);
    release(&some);
    world_is_clean(&w);
    world_end(&w);
    if (most < PMX__FLUSH_ALL)          /* no bound was tried */
        test_skipped("the system takes too little at once");
}

/* Said of each connection that the batch had no room for, and of no other. */
static void what_was_not_reached_is_pending(void)
{
    enum { COUNT = PMX__EVENTS + 50 };  /* more than one wait tells of */
    world w;
    static pmx_sock peers[COUNT];
    static uint64_t ids[COUNT];
    pmx_policy p = lines("\n", 100);
    if (!test_room_for(2 * COUNT + 100) ||
        (!strcmp(test_backend, "select") && pmx_select_limit() < 2 * COUNT))
        test_skipped("it takes two thousand descriptors");
    world_begin(&w, 2, 65536);
    world_listen(&w, &p);
    for (int i = 0; i < COUNT; i++)
        ids[i] = meet(&w, &peers[i]);
    for (int i = 0; i < COUNT; i++)
        EQUAL(pmx_pending(w.mux, ids[i]), 0);
    EQUAL(pmx_pending(w.mux, 0), 0);
    EQUAL(pmx_pending(w.mux, ids[0] + (UINT64_C(2) << 32)), 0);

    do_op(&w, ids[1], PMX_PAUSE);
    turn(&w, 0);
    for (int i = 0; i < COUNT; i++)
        put_text(peers[i], i == 2 ? "half a line" : "line\n");
    UNTIL(&w, w.message_count >= 2);
    for (int i = 0; i < COUNT; i++) {
        if (i == 1)                     /* nobody is kept from it but us */
            EQUAL(pmx_pending(w.mux, ids[i]), 0);
        else if (i != 2)
            EQUAL(pmx_pending(w.mux, ids[i]), !messages_of(&w, ids[i]));
    }
    UNTIL(&w, w.message_count == COUNT - 2);
    for (int i = 0; i < COUNT; i++)
        EQUAL(pmx_pending(w.mux, ids[i]), 0);
    do_op(&w, ids[1], PMX_RESUME);
    UNTIL(&w, w.message_count == COUNT - 1);
    for (int i = 0; i < COUNT; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == COUNT);
    for (int i = 0; i < COUNT; i++)
        EQUAL(pmx_pending(w.mux, ids[i]), 0);
    test_restore();
    world_is_clean(&w);
    world_end(&w);
}

const test_case fair_tests[] = {
    EACH(what_was_not_reached_is_pending),
    EACH(always_ready_peers_are_served_alike),
    EACH(always_ready_peers_are_served_alike_in_frames),
    EACH(always_ready_peers_are_served_alike_in_few_rows),
    EACH(always_ready_peers_are_served_alike_in_a_small_arena),
    EACH(a_flood_does_not_hold_up_a_word),
    EACH(a_stream_alone_gets_the_whole_batch),
    EACH(what_is_sent_of_queues_in_a_turn_is_bounded),
    {0},
};
