/* Connections that are owed answers, which come in blocks of their own. */
#include "idle.h"

/* All of this log are answers. */
static void answer_in(world *w, int64_t timeout_ns)
{
    w->answers = 1;
    turn(w, timeout_ns);
    w->answers = 0;
}

/* A peer that asks, and its message is owed an answer. */
static uint64_t owe(world *w, pmx_sock *peer, const pmx_policy *p)
{
    world_serve(w, p);
    uint64_t id = meet_small(w, peer);
    put_text(*peer, "x\n");
    UNTIL(w, messages_of(w, id) == 1);
    do_op(w, id, PMX_OWED);
    turn(w, 0);
    return id;
}

static void owed_end(world *w, uint64_t id, pmx_sock peer)
{
    leave(peer);
    UNTIL(w, closed(w, id));
    world_is_clean(w);
    world_end(w);
}

static void who_is_owed_an_answer_stays_at_its_peers_end(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    uint64_t id = owe(&w, &peer, &p);
    buffer got = {0};
    put_text(peer, "last");
    end_writing(peer);
    UNTIL(&w, messages_of(&w, id) == 2);
    for (int i = 0; i < 3; i++) {
        turn(&w, 0);
        CHECK(!closed(&w, id));
    }
    say_text(&w, id, "answer");
    do_op(&w, id, PMX_WAITS);
    answer_in(&w, 0);
    int end = 1;
    UNTIL_DOING(&w, !end, end = get(peer, &got));
    CHECK(is_text_of(&got, "answer\n"));
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    release(&got);
    owed_end(&w, id, peer);
}

/* The end comes in the turn with the last row. */
static void what_was_owed_before_does_not_end_the_last_batch(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    uint64_t id = owe(&w, &peer, &p);
    buffer got = {0};
    put_text(peer, "last");
    end_writing(peer);
    UNTIL(&w, messages_of(&w, id) == 2);
    say_text(&w, id, "one");
    do_op(&w, id, PMX_WAITS);
    say_text(&w, id, "two");            /* which answers the batch at hand */
    int end = 1;
    UNTIL_DOING(&w, !end, end = get(peer, &got));
    CHECK(is_text_of(&got, "one\ntwo\n"));
    release(&got);
    owed_end(&w, id, peer);
}

static void a_broken_stream_ends_behind_what_is_owed(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 3);
    uint64_t id = owe(&w, &peer, &p);
    buffer got = {0};
    put_text(peer, "too long\n");
    UNTIL(&w, pmx__find(w.mux, id)->flags & PMX__ENDED);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    say_text(&w, id, "answer");
    do_op(&w, id, PMX_WAITS);
    UNTIL_DOING(&w, got.size == 7, get(peer, &got));
    CHECK(is_text_of(&got, "answer\n"));
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), EMSGSIZE);
    release(&got);
    owed_end(&w, id, peer);
}

/* Both directions have ended, which pollers tell as a hang-up, before the bytes
 * are read that are no frame of the old framing. */
static void a_switch_forgets_what_was_broken_behind_a_hang_up(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 3), loose = lines("\n", 100);
    uint64_t id = owe(&w, &peer, &p);
    do_op(&w, id, PMX_SEND_EOF);
    turn(&w, 0);
    put_text(peer, "too long\n");
    end_writing(peer);
    UNTIL(&w, pmx__find(w.mux, id)->flags & PMX__ENDED);
    turn(&w, 0);
    EQUAL(pmx__find(w.mux, id)->error, EMSGSIZE);
    switch_to(&w, id, &loose, NULL, 0);
    UNTIL(&w, messages_of(&w, id) == 2);
    do_op(&w, id, PMX_WAITS);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    owed_end(&w, id, peer);
}

static void who_is_owed_an_answer_is_not_idle(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    p.idle_ns = IDLE_NS;
    uint64_t id = owe(&w, &peer, &p);
    for (int i = 0; i < 3; i++) {
        age(&w, id);
        w.mux->handed_at = 0;
        turn(&w, 0);
        CHECK(!closed(&w, id));
        EQUAL(w.t.idle_count, 0);       /* and nobody is asked */
    }
    do_op(&w, id, PMX_WAITS);
    turn(&w, 0);
    age(&w, id);
    w.mux->handed_at = 0;
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ETIMEDOUT);
    owed_end(&w, id, peer);
}

static void what_is_owed_may_have_any_size_and_nothing_else(void)
{
    enum { SIZE = 9000000 };
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    p.max_output = 1000;
    uint64_t id = owe(&w, &peer, &p);
    buffer much = {0};
    fill(&much, SIZE, 1);
    for (int k = 0; k < 3; k++) {
        say(&w, id, much.bytes, SIZE);
        answer_in(&w, 0);
        CHECK(!closed(&w, id));
    }
    CHECK(pmx_queued(w.mux, id) > p.max_output);
    say_text(&w, id, "no answer");
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOBUFS);
    release(&much);
    owed_end(&w, id, peer);
}

/* It has had its answers, or never was owed any. */
static void who_is_owed_nothing_gets_no_more_than_others(void)
{
    enum { SIZE = 9000000 };
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    p.max_output = 1000;
    uint64_t id = owe(&w, &peer, &p);
    buffer much = {0};
    fill(&much, SIZE, 1);
    say(&w, id, much.bytes, SIZE);
    do_op(&w, id, PMX_WAITS);
    answer_in(&w, 0);
    CHECK(!closed(&w, id));
    say_text(&w, id, "answer");
    answer_in(&w, 0);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOBUFS);
    release(&much);
    owed_end(&w, id, peer);
}

static void a_slot_that_is_used_again_is_owed_nothing(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    uint64_t id = owe(&w, &peer, &p);
    do_op(&w, id, PMX_ABORT);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    do_op(&w, id, PMX_WAITS);        /* nobody is meant any more */
    for (uint32_t next = ~(uint32_t)id; next != (uint32_t)id;) {
        uint64_t other = meet(&w, &peer);
        next = (uint32_t)other;
        EQUAL(pmx__find(w.mux, other)->owed, 0);
        leave(peer);
        UNTIL(&w, closed(&w, other));
    }
    world_is_clean(&w);
    world_end(&w);
}

const test_case owed_tests[] = {
    EACH(who_is_owed_an_answer_stays_at_its_peers_end),
    EACH(what_was_owed_before_does_not_end_the_last_batch),
    EACH(a_broken_stream_ends_behind_what_is_owed),
    EACH(a_switch_forgets_what_was_broken_behind_a_hang_up),
    EACH(who_is_owed_an_answer_is_not_idle),
    EACH(what_is_owed_may_have_any_size_and_nothing_else),
    EACH(who_is_owed_nothing_gets_no_more_than_others),
    EACH(a_slot_that_is_used_again_is_owed_nothing),
    {0},
};
