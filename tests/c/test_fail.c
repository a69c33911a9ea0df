/* Without memory: whichever allocation fails, connections may end, with
 * ENOMEM, but nothing is lost, leaked or touched that should not be. */
#include "world.h"

#include <string.h>

static buffer data;

/* A little of everything. What the core refuses is taken as it is. */
static void live(void)
{
    world w;
    uint64_t id, other, listener;
    pmx_policy p = lines("\n", 1 << 20), q = raw();
    buffer got = {0};
    memset(&w, 0, sizeof w);
    w.arena = pmx_arena_new(262144, 64);
    if (!w.arena)
        goto done;
    if (pmx_open(&w.mux, test_backend, 64, 262144, 0)) {
        pmx_arena_free(w.arena);
        goto done;
    }
    pmx_endpoint at = {.host = "127.0.0.1"};
    pmx_address name;
    if (!pmx_listen(w.mux, &at, &p, 100, 0, 0, &listener)) {
        EQUAL(pmx_listener_address(w.mux, listener, &name), 0);
        pmx_sock peers[3];
        size_t sent[3] = {0};
        w.port = at.port = name.port;
        for (int i = 0; i < 3; i++)
            peers[i] = call_small(&w);
        other = 0;
        if (pmx_connect(w.mux, &at, 1, &q, &other))
            other = 0;
        if (!pmx_connect(w.mux, &at, 1, &p, &id))
            do_op(&w, id, PMX_CLOSE);
        buffer frames = {0};
        append(&frames, "one\ntwo\n", 8);
        append(&frames, data.bytes, 200000);
        append(&frames, "\nlast\nand an unfinished", 23);
        say(&w, other, "x\n", 2);
        for (int step = 0; step < 40; step++) {
            for (int i = 0; i < 3; i++)
                if (step > i * 5 && sent[i] < frames.size) {
                    int64_t n = offer(peers[i], frames.bytes + sent[i],
                                      frames.size - sent[i]);
                    sent[i] += n > 0 ? (size_t)n : 0;
                }
            /* a listener that cannot take anybody in tries again later */
            if (w.mux->accept_again)
                w.mux->accept_again = 1;
            CHECK(turn(&w, 0) >= 0 || !test_fail_at);
            if (step == 20)
                for (size_t k = 0; k < w.opened.count; k++) {
                    say(&w, w.opened.ids[k], data.bytes,
                        k == 2 ? data.size : 9000);
                    say(&w, w.opened.ids[k], data.bytes, 5000);
                }
            if (step == 23) {
                const pmx_block block = {
                    PMX_SHARED, (uint32_t)w.opened.count, w.opened.ids, NULL,
                    data.bytes, 100000};
                pmx_turn t = {.mux = w.mux, .blocks = &block,
                              .block_count = w.opened.count ? 1 : 0};
                int result = pmx_submit(&t);
                CHECK(!result || result == -ENOMEM);
            }
            got.size = 0;
            get(peers[step % 3], &got);
        }
        for (int i = 0; i < 3; i++)
            leave(peers[i]);
        for (size_t k = 0; k < w.closed_count; k++)
            CHECK(w.closed[k].error == 0 || w.closed[k].error == ENOMEM ||
                  w.closed[k].error == ECONNRESET ||
                  w.closed[k].error == EMSGSIZE);
        release(&frames);
    }
    test_fail_at = 0;
    pmx_reset_all(w.mux, 0);
    do
        turn(&w, 0);
    while (w.mux->report_count);
    world_is_clean(&w);
    world_end(&w);
done:
    test_fail_at = 0;
    release(&got);
}

static void each_allocation_may_fail(void)
{
    /* poll allocates too */
    test_backend = pmx_backend_probe("poll") ? "select" : "poll";
    long before = test_allocations;
    fill(&data, 3000000, 1);
    for (size_t i = 0; i < data.size; i++)
        data.bytes[i] = (uint8_t)('a' + data.bytes[i] % 16);
    live();
    long count = test_allocations - before;
    CHECK(count > 20);
    /* nearly all of them, then some of the many alike */
    for (long at = 1; at <= count + 2; at += at < 60 ? 1 : count / 20 + 1) {
        test_fail_at = at;
        live();
    }
    release(&data);
    test_backend = NULL;
}

static void without_memory_the_log_is_taken_all_the_same(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    say_text(&w, id, "x");
    test_fail_at = 1;
    CHECK(turn(&w, 0) >= 0);
    EQUAL(test_fail_at, 0);
    EQUAL(pmx_counts(w.mux)->bytes_out, 1);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
}

/* The peer has one row, and the batch waits for more, when a wait fails. */
static void rows_outlive_a_wait_that_fails(void)
{
    world w;
    pmx_sock peer, other;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    (void)meet(&w, &other);
    put_text(peer, "one\n");
    count_waits(&w);
    wait_fails_at = 2;
    wait_result = -ENOMEM;
    CHECK(turn_of(&w, 1000 * MS, 10, 1000 * MS) & PMX_INTERRUPTED);
    EQUAL(wait_result, 0);
    EQUAL(messages_of(&w, id), 1);
    wait_fails_at = 1;          /* now there is nothing to lose */
    wait_result = -ENOMEM;
    EQUAL(turn(&w, 0), -ENOMEM);
    leave(peer);
    leave(other);
    world_end(&w);
}

const test_case fail_tests[] = {
    ONCE(each_allocation_may_fail),
    ONCE(without_memory_the_log_is_taken_all_the_same),
    EACH(rows_outlive_a_wait_that_fails),
    {0},
};
