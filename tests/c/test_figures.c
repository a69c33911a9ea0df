/* What is counted of turns, and of how connections end. */
#include "world.h"

#include <errno.h>

static uint64_t sum(const uint64_t *powers)
{
    uint64_t all = 0;
    for (int k = 0; k < 32; k++)
        all += powers[k];
    return all;
}

static void each_turn_is_counted_by_its_rows_and_times(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    const pmx_stats *s = pmx_counts(w.mux);
    uint64_t id = meet(&w, &peer);
    uint64_t turns = s->harvests, outside = sum(s->outside_ns);
    EQUAL(sum(s->turn_ns), turns);
    EQUAL(outside, turns - 1);          /* nothing is before the first */
    EQUAL(sum(s->turn_rows), 0);
    put_text(peer, "a\n");
    UNTIL(&w, w.message_count == 1);
    EQUAL(s->turn_rows[0], 1);
    put_text(peer, "a\nb\nc\nd\ne\n");
    UNTIL(&w, w.message_count == 6);
    EQUAL(s->turn_rows[2], 1);
    EQUAL(sum(s->turn_rows), 2);
    EQUAL(sum(s->turn_ns), s->harvests);
    CHECK(s->in_handler_since >= s->last_turn && s->last_turn);
    CHECK((int64_t)s->in_handler_since <= pmx__now());
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
}

/* The wait is no part of a turn's time, and what is sent before it is. */
static void a_turns_time_is_without_its_wait(void)
{
    world w;
    pmx_policy p = raw();
    world_serve(&w, &p);
    const pmx_stats *s = pmx_counts(w.mux);
    turn(&w, 0);
    uint64_t before = s->turn_sum;
    turn(&w, 300 * MS);
    CHECK(s->turn_sum - before < 300 * (uint64_t)MS);
    CHECK(s->in_handler_since - s->last_turn >= 300 * (uint64_t)MS);
    world_end(&w);
}

static void a_time_of_any_length_has_its_place(void)
{
    world w;
    world_begin(&w, 16, 4096);
    pmx_stats *s = w.mux->stats;
    static const struct { uint64_t took; int power; } times[] = {
        {0, 0}, {1, 0}, {2, 1}, {3, 1}, {4, 2}, {1023, 9}, {1024, 10},
        {UINT64_C(1) << 31, 31}, {UINT64_C(1) << 40, 31},
        {INT64_MAX - 1, 31},
    };
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        uint64_t before = s->outside_ns[times[i].power];
        w.mux->now = INT64_MAX;
        s->in_handler_since = (uint64_t)INT64_MAX - times[i].took;
        pmx__turn_begins(w.mux, 0);
        EQUAL(s->outside_ns[times[i].power], before + 1);
        EQUAL(s->in_handler_since, 0);
    }
    w.mux->now = pmx__now();
    world_end(&w);
}

static void the_input_that_a_turn_does_not_reach_is_told(void)
{
    world w;
    pmx_sock peers[3];
    pmx_policy p = lines("\n", 100);
    world_begin(&w, 1, 4096);           /* a row a turn */
    world_listen(&w, &p);
    for (int i = 0; i < 3; i++)
        (void)meet(&w, &peers[i]);
    for (int i = 0; i < 3; i++)
        put_text(peers[i], "a\n");
    UNTIL(&w, w.message_count == 1);
    uint64_t most = pmx_counts(w.mux)->ready;
    UNTIL(&w, w.message_count == 3);
    UNTIL(&w, !pmx_counts(w.mux)->ready);
    CHECK(most >= 1);
    for (int i = 0; i < 3; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == 3);
    world_end(&w);
}

static void who_is_paused_is_counted_once(void)
{
    world w;
    pmx_sock peer, other;
    pmx_policy p = raw();
    world_serve(&w, &p);
    const pmx_stats *s = pmx_counts(w.mux);
    uint64_t id = meet(&w, &peer), id2 = meet(&w, &other);
    do_op(&w, id, PMX_PAUSE);
    do_op(&w, id, PMX_PAUSE);
    do_op(&w, id, PMX_HOLD);
    do_op(&w, id2, PMX_HOLD);
    turn(&w, 0);
    EQUAL(s->paused, 1);
    do_op(&w, id, PMX_RELEASE);
    do_op(&w, id, PMX_RESUME);
    do_op(&w, id, PMX_RESUME);
    do_op(&w, id2, PMX_PAUSE);
    turn(&w, 0);
    EQUAL(s->paused, 1);
    do_op(&w, id2, PMX_ABORT);
    UNTIL(&w, closed(&w, id2));
    EQUAL(s->paused, 0);
    leave(peer);
    leave(other);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
}

static void who_is_over_high_water_is_counted(void)
{
    world w;
    pmx_sock peer, other;
    pmx_policy p = raw();
    buffer much = {0}, got = {0};
    world_serve(&w, &p);
    const pmx_stats *s = pmx_counts(w.mux);
    uint64_t id = meet_small(&w, &peer), id2 = meet_small(&w, &other);
    fill(&much, 8000000, 1);
    say(&w, id, much.bytes, much.size);
    say(&w, id2, much.bytes, much.size);
    turn(&w, 0);
    EQUAL(s->over, 2);
    UNTIL_DOING(&w, got.size == much.size, (void)get(peer, &got));
    EQUAL(s->over, 1);
    do_op(&w, id2, PMX_CLOSE);          /* reading is not held any more */
    turn(&w, 0);
    EQUAL(s->over, 0);
    leave(other);
    leave(peer);
    UNTIL(&w, w.closed_count == 2);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void how_a_connection_has_ended_is_counted(void)
{
    world w;
    pmx_sock cut, large, idle, slow;
    pmx_policy p = lines("\n", 10);
    p.idle_ns = 50 * MS;
    world_serve(&w, &p);
    const pmx_stats *s = pmx_counts(w.mux);
    (void)meet(&w, &large);
    put_text(large, "longer than ten bytes");
    UNTIL(&w, w.closed_count == 1);
    EQUAL(s->protocol_errors, 1);
    (void)meet(&w, &idle);
    UNTIL(&w, w.closed_count == 2);
    EQUAL(s->timeouts_idle, 1);
    leave(large);
    leave(idle);
    world_end(&w);

    p = fixed(4);
    p.close_ns = 50 * MS;
    p.max_output = 1000;
    world_serve(&w, &p);
    s = pmx_counts(w.mux);
    (void)meet(&w, &cut);
    put_text(cut, "ab");
    CHECK(!shutdown(cut, SHUT_WR));
    UNTIL(&w, w.closed_count == 1);
    EQUAL(s->protocol_errors, 1);
    uint64_t id = meet(&w, &slow);
    do_op(&w, id, PMX_CLOSE);           /* and the peer does not */
    UNTIL(&w, w.closed_count == 2);
    EQUAL(s->timeouts_close, 1);
    EQUAL(s->timeouts_idle, 0);
    leave(cut);
    leave(slow);
    world_end(&w);
}

/* One byte, in the turn after the watcher has said that it sleeps. */
static void a_turn_wakes_a_watcher_that_sleeps_once(void)
{
    world w;
    pmx_sock pair[2];
    char bytes[8];
    world_begin(&w, 16, 4096);
    pair_of(pair);
    uint64_t *asleep = &w.mux->stats->asleep;
    EQUAL(pmx_wakes(w.mux, pair[0]), 0);
    turn(&w, 0);
    EQUAL(pmx__recv(pair[1], bytes, sizeof bytes), -EAGAIN);
    *asleep = 1;
    turn(&w, 0);
    EQUAL(*asleep, 0);
    turn(&w, 0);
    EQUAL(pmx__recv(pair[1], bytes, sizeof bytes), 1);
    EQUAL(pmx__recv(pair[1], bytes, sizeof bytes), -EAGAIN);
    leave(pair[1]);
    *asleep = 1;
    turn(&w, 0);                        /* the watcher is gone */
    EQUAL(*asleep, 0);
    EQUAL(pmx_wakes(w.mux, -1), 0);
    leave(pair[0]);
    *asleep = 1;
    turn(&w, 0);
    EQUAL(*asleep, 0);
    world_is_clean(&w);
    world_end(&w);
}

const test_case figures_tests[] = {
    EACH(a_turn_wakes_a_watcher_that_sleeps_once),
    EACH(each_turn_is_counted_by_its_rows_and_times),
    EACH(a_turns_time_is_without_its_wait),
    ONCE(a_time_of_any_length_has_its_place),
    EACH(the_input_that_a_turn_does_not_reach_is_told),
    EACH(who_is_paused_is_counted_once),
    EACH(who_is_over_high_water_is_counted),
    EACH(how_a_connection_has_ended_is_counted),
    {0},
};
