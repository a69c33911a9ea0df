/* A frame that begins and does not end: how long it may take, by a clock that
 * the test moves. */
#include "world.h"

#include <string.h>

enum { MINUTE_MS = 60000 };

static uint32_t ahead_ms;

static uint64_t serve_within(world *w, pmx_policy p, pmx_sock *peer)
{
    p.message_ns = MINUTE_MS * MS;
    ahead_ms = 0;
    world_serve(w, &p);
    return meet(w, peer);
}

/* The caller is done with its batch; so much later a turn looks around. */
static void wait_and_turn(world *w, uint32_t ms)
{
    CHECK(pmx_next_timeout(w->mux) >= -1);
    pmx_shift_clock(ahead_ms += ms);
    turn(w, 0);
}

static const pmx__conn *conn_of(const world *w, uint64_t id)
{
    return pmx__find(w->mux, id);
}

/* Say something, which is received without a whole message being there. */
static void begin_frame(world *w, uint64_t id, pmx_sock peer, const char *text)
{
    const pmx__conn *c = conn_of(w, id);
    size_t before = c->carry ? (size_t)c->carry->size : 0;
    put_text(peer, text);
    UNTIL(w, c->carry && c->carry->size == before + strlen(text));
}

static void timed_out(world *w, uint64_t id, pmx_sock peer)
{
    buffer got = {0};
    UNTIL(w, closed(w, id));
    EQUAL(error_of(w, id), ETIMEDOUT);
    CHECK(is_reset(get(peer, &got)));
    release(&got);
    pmx_shift_clock(0);
    leave(peer);
    world_is_clean(w);
    world_end(w);
}

static void a_byte_now_and_then_does_not_hold_a_connection(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, lines("\n", 1000), &peer);
    for (int i = 0; i < 5; i++) {
        begin_frame(&w, id, peer, "x");
        wait_and_turn(&w, MINUTE_MS / 6);
        CHECK(!closed(&w, id));
    }
    wait_and_turn(&w, MINUTE_MS / 6);
    timed_out(&w, id, peer);
}

static void each_framing_has_a_time_for_a_frame(void)
{
    const pmx_policy policies[] = {prefix(4, 0, 1000), fixed(1000),
                                   varint(1000)};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        world w;
        pmx_sock peer;
        uint64_t id = serve_within(&w, policies[i], &peer);
        put(peer, "\xc8", 1);
        UNTIL(&w, conn_of(&w, id)->carry);
        wait_and_turn(&w, MINUTE_MS - 1000);
        CHECK(!closed(&w, id));
        wait_and_turn(&w, 2000);
        timed_out(&w, id, peer);
    }
}

/* A frame that outgrows what is copied has a carry that is received into. */
static void a_large_frame_has_the_same_time(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, prefix(4, 0, 1 << 20), &peer);
    buffer part = {0};
    fill(&part, 30000, 1);
    put(peer, "\0\x08\0\0", 4);
    for (int i = 0; i < 4; i++) {
        size_t had = conn_of(&w, id)->carry
                         ? (size_t)conn_of(&w, id)->carry->size : 0;
        put(peer, part.bytes, part.size);
        UNTIL(&w, conn_of(&w, id)->carry &&
                      conn_of(&w, id)->carry->size >= had + part.size);
        wait_and_turn(&w, MINUTE_MS / 5);
        CHECK(!closed(&w, id));
    }
    wait_and_turn(&w, MINUTE_MS / 5 + 1000);
    release(&part);
    timed_out(&w, id, peer);
}

static void each_frame_has_all_of_the_time(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, lines("\n", 1000), &peer);
    begin_frame(&w, id, peer, "the first");
    for (uint32_t i = 1; i < 4; i++) {
        wait_and_turn(&w, MINUTE_MS - 1000);
        put_text(peer, " ends\nand the next");
        UNTIL(&w, messages_of(&w, id) == i);
        CHECK(!closed(&w, id));
    }
    wait_and_turn(&w, MINUTE_MS + 1000);
    timed_out(&w, id, peer);
}

static void between_frames_there_is_no_limit(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, lines("\n", 1000), &peer);
    begin_frame(&w, id, peer, "half");
    EQUAL(w.mux->due_count, 1);
    put_text(peer, " and half\n");
    UNTIL(&w, messages_of(&w, id) == 1);
    wait_and_turn(&w, 2 * MINUTE_MS);
    wait_and_turn(&w, 2 * MINUTE_MS);
    CHECK(!closed(&w, id));
    EQUAL(w.mux->due_count, 0);         /* it comes up no more */
    begin_frame(&w, id, peer, "half");
    wait_and_turn(&w, MINUTE_MS + 1000);
    timed_out(&w, id, peer);
}

static void the_clock_of_a_frame_stands_while_paused(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, lines("\n", 1000), &peer);
    begin_frame(&w, id, peer, "half");
    wait_and_turn(&w, MINUTE_MS / 2);
    do_op(&w, id, PMX_PAUSE);
    turn(&w, 0);
    wait_and_turn(&w, 3 * MINUTE_MS);
    do_op(&w, id, PMX_RESUME);
    turn(&w, 0);
    wait_and_turn(&w, MINUTE_MS / 2 - 1000);
    CHECK(!closed(&w, id));
    wait_and_turn(&w, 2000);
    timed_out(&w, id, peer);
}

/* Its peer may send nothing while its answers wait. */
static void the_clock_of_a_frame_stands_over_high_water(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, lines("\n", 1000), &peer);
    buffer much = {0}, got = {0};
    fill(&much, 9000000, 1);
    begin_frame(&w, id, peer, "half");
    say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    CHECK(conn_of(&w, id)->flags & PMX__OVER_WATER);
    wait_and_turn(&w, 2 * MINUTE_MS);
    CHECK(!closed(&w, id));
    UNTIL_DOING(&w, got.size == much.size + 1, CHECK(get(peer, &got) >= 0));
    CHECK(!closed(&w, id));
    wait_and_turn(&w, MINUTE_MS + 1000);
    release(&much);
    release(&got);
    timed_out(&w, id, peer);
}

/* While the caller is at a batch, nothing is read. */
static void the_callers_time_is_no_part_of_a_frames(void)
{
    world w;
    pmx_sock peer, other;
    uint64_t id = serve_within(&w, lines("\n", 1000), &peer);
    uint64_t asks = meet(&w, &other);
    begin_frame(&w, id, peer, "half");
    put_text(other, "a question\n");
    UNTIL(&w, messages_of(&w, asks) == 1);
    pmx_shift_clock(ahead_ms += 3 * MINUTE_MS);
    turn(&w, 0);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    wait_and_turn(&w, MINUTE_MS + 1000);
    leave(other);
    UNTIL(&w, closed(&w, asks));
    timed_out(&w, id, peer);
}

/* What a turn finds that has not heard of them. */
static void bytes_that_have_arrived_are_read_first(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, lines("\n", 1000), &peer);
    begin_frame(&w, id, peer, "half");
    put_text(peer, " and half\n");
    pmx_sock sock = conn_of(&w, id)->sock;
    int64_t until = deadline();
    while (!pmx__arrived(sock) && pmx__now() < until)
        ;
    CHECK(pmx_next_timeout(w.mux) >= -1);
    pmx_shift_clock(ahead_ms += MINUTE_MS + 1000);
    w.mux->now = pmx__now();
    pmx__expire(w.mux);
    CHECK(!(conn_of(&w, id)->flags & PMX__DONE));
    UNTIL(&w, messages_of(&w, id) == 1);
    begin_frame(&w, id, peer, "half");
    wait_and_turn(&w, MINUTE_MS + 1000);
    timed_out(&w, id, peer);
}

static void an_idle_time_goes_on_beside_a_frames(void)
{
    world w;
    pmx_sock peer, silent;
    pmx_policy p = lines("\n", 1000);
    p.idle_ns = MINUTE_MS / 2 * MS;
    uint64_t id = serve_within(&w, p, &peer), idle = meet(&w, &silent);
    begin_frame(&w, id, peer, "half");
    wait_and_turn(&w, MINUTE_MS / 3);
    begin_frame(&w, id, peer, "more");
    wait_and_turn(&w, MINUTE_MS / 3);
    UNTIL(&w, closed(&w, idle));
    CHECK(!closed(&w, id));
    begin_frame(&w, id, peer, "more");
    wait_and_turn(&w, MINUTE_MS / 3 + 1000);
    leave(silent);
    timed_out(&w, id, peer);
}

/* What is left over is cut anew: its time begins. */
static void a_switch_begins_the_time_of_a_frame(void)
{
    world w;
    pmx_sock peer;
    pmx_policy to = lines("\n", 1000);
    uint64_t id = serve_within(&w, lines("\n", 1000), &peer);
    begin_frame(&w, id, peer, "half");
    wait_and_turn(&w, MINUTE_MS - 1000);
    to.message_ns = 2 * MINUTE_MS * MS;
    switch_to(&w, id, &to, NULL, 0);
    turn(&w, 0);
    wait_and_turn(&w, 2 * MINUTE_MS - 1000);
    CHECK(!closed(&w, id));
    wait_and_turn(&w, 2000);
    timed_out(&w, id, peer);
}

/* --- a frame whose bytes the caller has ----------------------------------- */

/* Raw bytes are reported; the caller says what they are. */
static void tell(world *w, uint64_t id, pmx_sock peer, enum pmx_op what)
{
    size_t before = messages_of(w, id);
    put_text(peer, "x");
    UNTIL(w, messages_of(w, id) == before + 1);
    do_op(w, id, what);
    turn(w, 0);
}

static void a_frame_of_the_callers_has_the_same_time(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, raw(), &peer);
    for (int i = 0; i < 3; i++) {
        tell(&w, id, peer, PMX_BEGUN);
        wait_and_turn(&w, MINUTE_MS / 3 - 1000);
        CHECK(!closed(&w, id));
    }
    wait_and_turn(&w, 4000);
    timed_out(&w, id, peer);
}

static void a_frame_of_the_callers_that_is_whole_has_no_limit(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, raw(), &peer);
    for (int i = 0; i < 3; i++) {
        tell(&w, id, peer, PMX_BEGUN);
        wait_and_turn(&w, MINUTE_MS - 1000);
        tell(&w, id, peer, PMX_WHOLE);
        EQUAL(pmx_counts(w.mux)->buffers, 0);
        wait_and_turn(&w, 10 * MINUTE_MS);
        CHECK(!closed(&w, id));
    }
    tell(&w, id, peer, PMX_BEGUN);
    wait_and_turn(&w, MINUTE_MS + 1000);
    timed_out(&w, id, peer);
}

static void bytes_that_may_end_a_frame_of_the_callers_are_shown_first(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, raw(), &peer);
    for (int end = 1; end >= 0; end--) {
        tell(&w, id, peer, PMX_BEGUN);
        size_t before = messages_of(&w, id);
        put_text(peer, "x");
        for (int n = 0; messages_of(&w, id) == before; n++) {
            CHECK(n < 1000);
            wait_and_turn(&w, n ? 0 : 2 * MINUTE_MS);
        }
        CHECK(!closed(&w, id));
        do_op(&w, id, end ? PMX_WHOLE : PMX_BEGUN);
        turn(&w, 0);
        wait_and_turn(&w, 10);
        EQUAL(!closed(&w, id), end);
    }
    timed_out(&w, id, peer);
}

/* The caller knows whether the stream may end there. */
static void a_stream_may_end_in_a_frame_of_the_callers(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, raw(), &peer);
    tell(&w, id, peer, PMX_BEGUN);
    end_writing(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void a_switch_ends_a_frame_of_the_callers(void)
{
    world w;
    pmx_sock peer;
    pmx_policy to = lines("\n", 1000);
    uint64_t id = serve_within(&w, raw(), &peer);
    to.message_ns = MINUTE_MS * MS;
    tell(&w, id, peer, PMX_BEGUN);
    switch_to(&w, id, &to, NULL, 0);
    turn(&w, 0);
    wait_and_turn(&w, 10 * MINUTE_MS);
    CHECK(!closed(&w, id));
    do_op(&w, id, PMX_BEGUN);           /* of lines there is none */
    turn(&w, 0);
    wait_and_turn(&w, 10 * MINUTE_MS);
    CHECK(!closed(&w, id));
    begin_frame(&w, id, peer, "half");
    wait_and_turn(&w, MINUTE_MS + 1000);
    timed_out(&w, id, peer);
}

static void without_memory_a_frame_of_the_callers_ends_its_connection(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_within(&w, raw(), &peer);
    do_op(&w, id, PMX_WHOLE);
    turn(&w, 0);                /* the log has its memory now */
    do_op(&w, id, PMX_BEGUN);
    test_fail_at = 1;
    turn(&w, 0);
    test_fail_at = 0;
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOMEM);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

const test_case message_time_tests[] = {
    EACH(a_byte_now_and_then_does_not_hold_a_connection),
    ONCE(each_framing_has_a_time_for_a_frame),
    EACH(a_large_frame_has_the_same_time),
    EACH(each_frame_has_all_of_the_time),
    EACH(between_frames_there_is_no_limit),
    EACH(the_clock_of_a_frame_stands_while_paused),
    EACH(the_clock_of_a_frame_stands_over_high_water),
    EACH(the_callers_time_is_no_part_of_a_frames),
    EACH(bytes_that_have_arrived_are_read_first),
    EACH(an_idle_time_goes_on_beside_a_frames),
    EACH(a_switch_begins_the_time_of_a_frame),
    EACH(a_frame_of_the_callers_has_the_same_time),
    EACH(a_frame_of_the_callers_that_is_whole_has_no_limit),
    EACH(bytes_that_may_end_a_frame_of_the_callers_are_shown_first),
    EACH(a_stream_may_end_in_a_frame_of_the_callers),
    ONCE(a_switch_ends_a_frame_of_the_callers),
    ONCE(without_memory_a_frame_of_the_callers_ends_its_connection),
    {0},
};
