/* How much may be queued for a connection: low and high water, max_output. */
#include "world.h"

static void who_is_blocked_and_drained_is_told_once(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.high_water = 1000000;
    p.low_water = 500000;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer sent = {0}, got = {0};
    fill(&sent, 6000000, 1);
    say(&w, id, sent.bytes, sent.size);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id) > p.high_water);
    EQUAL(has(&w.blocked, id), 1);      /* in the turn that it was sent in */
    while (!w.drained.count) {
        CHECK(get_at_most(peer, &got, 100000) == 1);
        turn(&w, 0);
        EQUAL(w.drained.count,
              pmx_queued(w.mux, id) <= p.low_water ? 1 : 0);
    }
    UNTIL_DOING(&w, got.size == sent.size, get(peer, &got));
    EQUAL(has(&w.drained, id), 1);
    EQUAL(has(&w.blocked, id), 1);
    /* under high water nobody is told */
    say(&w, id, sent.bytes, 999999);
    got.size = 0;
    UNTIL_DOING(&w, got.size == 999999, get(peer, &got));
    EQUAL(has(&w.drained, id), 1);
    EQUAL(has(&w.blocked, id), 1);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&sent);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void reading_stops_while_output_is_over_high_water(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer sent = {0}, got = {0};
    fill(&sent, 6000000, 1);
    say(&w, id, sent.bytes, sent.size);
    turn(&w, 0);
    put_text(peer, "hello");
    for (int i = 0; i < 5; i++)
        turn(&w, MS);
    EQUAL(w.message_count, 0);
    UNTIL_DOING(&w, w.message_count == 1, get(peer, &got));
    CHECK(pmx_queued(w.mux, id) <= p.low_water);
    UNTIL_DOING(&w, got.size == sent.size, get(peer, &got));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&sent);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void output_beyond_max_output_ends_the_connection(void)
{
    world w;
    pmx_sock peer, other;
    pmx_policy p = raw();
    p.max_output = 6000000;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer), second = meet(&w, &other);
    buffer much = {0};
    fill(&much, 7000000, 1);
    say_text(&w, second, "still here");
    say_much(&w, id, &much);            /* finds the queue empty */
    CHECK(!closed(&w, id));
    uint64_t queued = pmx_queued(w.mux, id);
    say(&w, id, much.bytes, (size_t)(p.max_output + 1 - queued));
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOBUFS);
    EQUAL(pmx_counts(w.mux)->reset, 1);
    CHECK(pmx_counts(w.mux)->discarded > queued);
    buffer got = {0};
    UNTIL_DOING(&w, got.size == 10, get(other, &got));
    release(&got);
    release(&much);
    leave(peer);
    leave(other);
    UNTIL(&w, closed(&w, second));
    world_is_clean(&w);
    world_end(&w);
}

static void what_is_sent_in_one_log_counts_for_max_output(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.max_output = 1000;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer much = {0};
    fill(&much, 2000, 1);
    say(&w, id, much.bytes, 900);
    say(&w, id, much.bytes, 101);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOBUFS);
    release(&much);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

/* Until another message of the connection's has been handed over. */
static void ask(world *w, uint64_t id, pmx_sock peer)
{
    size_t before = messages_of(w, id);
    put_text(peer, "x");
    UNTIL(w, messages_of(w, id) > before);
}

static void answers_to_a_batch_may_have_any_size(void)
{
    enum { SIZE = 9000000 };
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.max_output = 1000;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer much = {0}, got = {0};
    fill(&much, SIZE, 1);
    ask(&w, id, peer);
    for (int k = 0; k < 3; k++)
        say(&w, id, much.bytes + k * (SIZE / 3), SIZE / 3);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    CHECK(pmx_queued(w.mux, id) > p.max_output);
    UNTIL_DOING(&w, got.size == SIZE, get(peer, &got));
    CHECK(same(&got, &much));
    /* what finds room is no matter; what does not, and is no answer, is */
    ask(&w, id, peer);
    say(&w, id, much.bytes, SIZE);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id) > p.max_output);
    say_text(&w, id, "other");
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOBUFS);
    leave(peer);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* Whose messages a task takes: it answers them when it likes. */
static void what_a_task_sends_is_the_answer_to_its_message(void)
{
    enum { SIZE = 9000000 };
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.max_output = 1000;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer much = {0};
    fill(&much, SIZE, 1);
    do_op(&w, id, PMX_WAITS);
    ask(&w, id, peer);
    turn(&w, 0);
    say(&w, id, much.bytes, SIZE);      /* in a later turn, */
    say_text(&w, id, "and its end");
    turn(&w, 0);
    CHECK(!closed(&w, id));
    do_op(&w, id, PMX_KEPT);            /* or of some that were kept, */
    say_text(&w, id, "another");
    turn(&w, 0);
    say_text(&w, id, "a third");
    turn(&w, 0);
    do_op(&w, id, PMX_TAKEN);           /* and of the last of those */
    turn(&w, 0);
    say_text(&w, id, "the last");
    turn(&w, 0);
    CHECK(!closed(&w, id));
    say_text(&w, id, "no answer");
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOBUFS);
    leave(peer);
    release(&much);
    world_is_clean(&w);
    world_end(&w);
}

static void what_the_kernel_takes_now_is_not_held_against_a_peer(void)
{
    enum { SIZE = 9000000 };
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.max_output = SIZE;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer much = {0}, got = {0};
    fill(&much, SIZE, 1);
    say(&w, id, much.bytes, SIZE);
    turn(&w, 0);
    uint64_t queued = pmx_queued(w.mux, id);
    CHECK(queued);
    while (got.size < SIZE - queued)    /* the mux does not know yet */
        CHECK(get(peer, &got) == 1);
    say(&w, id, much.bytes, got.size + 1);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    do_op(&w, id, PMX_ABORT);
    UNTIL(&w, closed(&w, id));
    leave(peer);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void submit(world *w, uint64_t id, const buffer *bytes, size_t size)
{
    int64_t length = (int64_t)size;
    pmx_block block = {
        .cut = PMX_LENGTHS, .count = 1, .ids = &id, .bounds = &length,
        .data = bytes->bytes, .size = size,
    };
    pmx_turn t = {.mux = w->mux, .blocks = &block, .block_count = 1};
    EQUAL(pmx_submit(&t), 0);
}

/* What was noted of one log need not be true behind the next. */
static void who_is_over_high_water_again_is_not_drained(void)
{
    enum { SIZE = 9000000 };
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.high_water = 65536;
    p.low_water = 16384;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer much = {0}, got = {0};
    fill(&much, SIZE, 1);
    submit(&w, id, &much, 70000);       /* over it, and taken whole */
    CHECK(pmx__find(w.mux, id)->flags & PMX__SAY_DRAINED);
    submit(&w, id, &much, SIZE);        /* taken in part */
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id) > p.high_water);
    EQUAL(w.blocked.count, 1);
    EQUAL(w.drained.count, 0);
    UNTIL_DOING(&w, has(&w.drained, id), (got.size = 0, get(peer, &got)));
    CHECK(pmx_queued(w.mux, id) <= p.low_water);
    EQUAL(w.blocked.count, 1);
    do_op(&w, id, PMX_ABORT);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* What is taken at once is told of all the same, in one turn: a user who has
 * seen it queued waits for the second row. */
static void who_is_over_high_water_for_a_moment_is_told_both(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.high_water = 1000;
    p.low_water = 100;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer much = {0}, got = {0};
    fill(&much, 1001, 1);
    for (uint32_t n = 1; n <= 3; n++) {
        say(&w, id, much.bytes, much.size);
        turn(&w, 0);
        EQUAL(w.blocked.count, n);
        EQUAL(w.drained.count, n);
    }
    UNTIL_DOING(&w, got.size == 3 * much.size, get(peer, &got));
    EQUAL(w.blocked.count, 3);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* A close tells no more of what is queued. */
static void who_closes_over_high_water_is_told_nothing(void)
{
    enum { SIZE = 9000000 };
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer much = {0}, got = {0};
    fill(&much, SIZE, 1);
    say(&w, id, much.bytes, much.size);
    do_op(&w, id, PMX_CLOSE);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id) > p.high_water);
    UNTIL_DOING(&w, got.size == SIZE, get(peer, &got));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(w.blocked.count, 0);
    EQUAL(w.drained.count, 0);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

const test_case output_limit_tests[] = {
    EACH(who_is_blocked_and_drained_is_told_once),
    EACH(reading_stops_while_output_is_over_high_water),
    EACH(output_beyond_max_output_ends_the_connection),
    EACH(what_is_sent_in_one_log_counts_for_max_output),
    EACH(answers_to_a_batch_may_have_any_size),
    EACH(what_a_task_sends_is_the_answer_to_its_message),
    EACH(what_the_kernel_takes_now_is_not_held_against_a_peer),
    EACH(who_is_over_high_water_again_is_not_drained),
    EACH(who_is_over_high_water_for_a_moment_is_told_both),
    EACH(who_closes_over_high_water_is_told_nothing),
    {0},
};
