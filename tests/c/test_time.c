/* How long a harvest waits, and for what. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

static void a_harvest_waits_as_long_as_told(void)
{
    static const int64_t spans[] = {0, 1, 1000, 100000, 1500000, 5 * MS};
    world w;
    world_begin(&w, 100, 10000);
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        int64_t before = pmx__now();
        EQUAL(turn(&w, spans[i]), 0);
        CHECK(pmx__now() - before >= spans[i]);
    }
    EQUAL(pmx_next_timeout(w.mux), -1);
    world_end(&w);
}

static void a_batch_gathers_until_min_messages_or_max_delay(void)
{
    world w;
    pmx_sock peer, silent;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    (void)meet(&w, &peer);
    (void)meet(&w, &silent);
    put_text(peer, "1\n");
    int64_t before = pmx__now();
    turn_of(&w, -1, 5, 30 * MS);
    EQUAL(w.t.messages, 1);
    CHECK(pmx__now() - before >= 30 * MS);
    put_text(peer, "1\n2\n3\n4\n5\n");
    turn_of(&w, -1, 5, 60000 * MS);
    EQUAL(w.t.messages, 5);
    put_text(peer, "1\n");
    turn_of(&w, 10 * MS, 5, INT64_MAX);         /* the timeout holds */
    EQUAL(w.t.messages, 1);
    put_text(peer, "1\n");
    put_text(silent, "1\n");                    /* a row from everybody */
    turn_of(&w, -1, 5, 60000 * MS);
    if (w.t.messages == 1)
        turn_of(&w, -1, 5, 60000 * MS);
    CHECK(w.t.messages >= 1);
    put_text(peer, "1\n");
    pmx_wakeup(w.mux);
    CHECK(turn_of(&w, -1, 5, 60000 * MS) & PMX_WOKEN);
    leave(peer);
    leave(silent);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
}

/* What else there is to report waits with the batch, asleep. */
/* For a guest of another loop, which may not wait in here. */
static void a_look_leaves_a_batch_that_may_still_gather(void)
{
    world w;
    pmx_sock peer, silent;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    (void)meet(&w, &silent);
    put_text(peer, "1\n2\n");
    EQUAL(turn_of(&w, PMX_LOOK, 3, 60000 * MS), PMX_GATHERING);
    EQUAL(w.t.messages, 0);
    int64_t left = pmx_next_timeout(w.mux);
    CHECK(left > 50000 * MS && left <= 60000 * MS);
    EQUAL(turn_of(&w, PMX_LOOK, 3, 60000 * MS), PMX_GATHERING);
    put_text(peer, "3\n");
    EQUAL(turn_of(&w, PMX_LOOK, 3, 60000 * MS), PMX_ROWS);
    EQUAL(w.t.messages, 3);
    CHECK(is_text(&w, message_of(&w, id, 0), "1"));
    CHECK(is_text(&w, message_of(&w, id, 2), "3"));
    EQUAL(pmx_next_timeout(w.mux), -1);

    put_text(peer, "4\n");                      /* until max_delay */
    int64_t before = pmx__now();
    EQUAL(turn_of(&w, PMX_LOOK, 3, 20 * MS), PMX_GATHERING);
    while (turn_of(&w, PMX_LOOK, 3, 20 * MS) == PMX_GATHERING)
        CHECK(pmx_next_timeout(w.mux) <= 20 * MS);
    CHECK(pmx__now() - before >= 20 * MS);
    EQUAL(messages_of(&w, id), 4);

    put_text(peer, "5\n");                      /* until a timeout proper, */
    EQUAL(turn_of(&w, PMX_LOOK, 3, 60000 * MS), PMX_GATHERING);
    turn_of(&w, 0, 3, 60000 * MS);
    EQUAL(messages_of(&w, id), 5);
    put_text(peer, "6\n");                      /* or a wakeup, */
    EQUAL(turn_of(&w, PMX_LOOK, 3, 60000 * MS), PMX_GATHERING);
    pmx_wakeup(w.mux);
    EQUAL(turn_of(&w, PMX_LOOK, 3, 60000 * MS), PMX_WOKEN | PMX_ROWS);
    EQUAL(messages_of(&w, id), 6);

    put_text(peer, "7\n");     /* or until no other can bring any: its end is
                                   told with what came before it */
    EQUAL(turn_of(&w, PMX_LOOK, 3, 60000 * MS), PMX_GATHERING);
    leave(silent);
    pmx__shutdown_write(peer);
    UNTIL_DOING(&w, closed(&w, id), turn_of(&w, PMX_LOOK, 3, 60000 * MS));
    EQUAL(messages_of(&w, id), 7);
    EQUAL(w.closed_count, 2);
    EQUAL(pmx_next_timeout(w.mux), -1);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void a_batch_that_gathers_does_not_spin(void)
{
    world w;
    pmx_sock peer, silent, leaves;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    (void)meet(&w, &peer);
    (void)meet(&w, &silent);
    uint64_t id = meet(&w, &leaves);
    put_text(peer, "1\n");
    leave(leaves);
    count_waits(&w);
    turn_of(&w, -1, 5, 40 * MS);
    UNTIL(&w, closed(&w, id));
    CHECK(wait_count < 60);
    leave(peer);
    leave(silent);
    UNTIL(&w, w.closed_count == 3);
    world_is_clean(&w);
    world_end(&w);
}

static void wake(void *mux)
{
    for (int i = 0; i < 100; i++)
        pmx_wakeup(mux);
}

static void another_thread_wakes_a_waiting_mux(void)
{
    for (int i = 0; i < 2; i++) {
        world w;
        pmx_wakeup_by_pipe(i);
        world_begin(&w, 100, 10000);
        pmx_wakeup_by_pipe(0);
        void *thread = test_thread(wake, w.mux);
        EQUAL(turn(&w, -1), PMX_WOKEN);
        test_join(thread);
        while (turn(&w, 10 * MS) & PMX_WOKEN)
            ;
        EQUAL(turn(&w, 0), 0);          /* all of them are taken */
        for (int k = 0; k < 70000; k++)
            EQUAL(pmx_wakeup(w.mux), 0);        /* more than it holds */
        while (turn(&w, 0) & PMX_WOKEN)
            ;
        EQUAL(test_write(pmx_wakeup_fd(w.mux), "x", 1), 1);
        EQUAL(turn(&w, -1), PMX_WOKEN);
        world_end(&w);
    }
}

static void spinning_finds_what_blocking_finds(void)
{
    static const int64_t spins[] = {-1, 20000, 1000000};
    for (int i = 0; i < 3; i++) {
        world w;
        pmx_sock peer;
        pmx_policy p = raw();
        memset(&w, 0, sizeof w);
        EQUAL(pmx_open(&w.mux, test_backend, 100, 10000, spins[i]), 0);
        w.arena = pmx_arena_new(10000, 100);
        world_listen(&w, &p);
        w.echo = 1;
        (void)meet(&w, &peer);
        for (int k = 0; k < 300; k++) {
            buffer got = {0};
            put_text(peer, "x");
            UNTIL(&w, w.t.messages);
            turn(&w, 0);
            EQUAL(get(peer, &got), 1);
            EQUAL(got.size, 1);
            release(&got);
        }
        int64_t before = pmx__now();
        turn(&w, 3 * MS);
        CHECK(pmx__now() - before >= 3 * MS);
        leave(peer);
        UNTIL(&w, w.closed_count == 1);
        world_is_clean(&w);
        world_end(&w);
    }
}

static void an_interrupted_wait_keeps_what_it_has(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    count_waits(&w);
    wait_result = -EINTR;
    put_text(peer, "x");
    EQUAL(turn(&w, -1), PMX_INTERRUPTED);
    UNTIL(&w, w.message_count == 1);
    wait_result = -EBADF;
    EQUAL(turn(&w, -1), -EBADF);
    put_text(peer, "y");
    UNTIL(&w, w.message_count == 2);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
}

const test_case time_tests[] = {
    EACH(a_harvest_waits_as_long_as_told),
    EACH(a_batch_gathers_until_min_messages_or_max_delay),
    EACH(a_look_leaves_a_batch_that_may_still_gather),
    EACH(a_batch_that_gathers_does_not_spin),
    EACH(another_thread_wakes_a_waiting_mux),
    EACH(spinning_finds_what_blocking_finds),
    EACH(an_interrupted_wait_keeps_what_it_has),
    {0},
};
