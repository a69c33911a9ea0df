/* Peers that reset, and what they take with them: themselves. */
#include "world.h"

#include <string.h>

static void a_reset_is_reported(void)
{
    world w;
    pmx_sock peer, other;
    pmx_policy p = raw();
    needs_resets();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer), second = meet(&w, &other);
    put_text(peer, "before");
    reset_peer(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ECONNRESET);
    EQUAL(pmx_counts(w.mux)->reset, 1);
    put_text(other, "fine");
    UNTIL(&w, messages_of(&w, second) == 1);
    leave(other);
    UNTIL(&w, closed(&w, second));
    world_is_clean(&w);
    world_end(&w);
}

static void a_reset_while_output_is_pending_ends_that_connection(void)
{
    world w;
    pmx_sock peer, other;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer), second = meet(&w, &other);
    buffer much = {0}, got = {0};
    fill(&much, 6000000, 1);
    say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id));
    reset_peer(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ECONNRESET);
    EQUAL(pmx_counts(w.mux)->queued, 0);
    CHECK(pmx_counts(w.mux)->discarded > 0);
    say_text(&w, id, "to nobody");
    say_text(&w, second, "to you");
    UNTIL_DOING(&w, got.size == 6, get(other, &got));
    leave(other);
    UNTIL(&w, closed(&w, second));
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* Sending fails; what was received before is delivered nevertheless. */
static void a_failed_send_leaves_the_input(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_begin(&w, 1, 262144);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    put_text(peer, "1\n2\n3\n4\n5\n");
    UNTIL(&w, w.message_count == 1);
    say_text(&w, id, "is answered, and so not read");
    turn(&w, 0);
    leave(peer);                        /* with unread input: a reset */
    UNTIL_DOING(&w, closed(&w, id), say_text(&w, id, "x"));
    EQUAL(w.message_count, 5);
    EQUAL(error_of(&w, id), ECONNRESET);
    world_is_clean(&w);
    world_end(&w);
}

/* The same, where the peer ended its stream first, properly. */
static void a_failed_send_leaves_frames_of_an_ended_stream(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_begin(&w, 1, 262144);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    put_text(peer, "1\n2\n3\n4\n5");
    end_writing(peer);
    UNTIL(&w, w.message_count == 1);
    say_text(&w, id, "is answered, and so not read");
    turn(&w, 0);
    leave(peer);
    UNTIL_DOING(&w, closed(&w, id), say_text(&w, id, "x"));
    EQUAL(w.message_count, 5);
    EQUAL(error_of(&w, id), ECONNRESET);
    world_is_clean(&w);
    world_end(&w);
}

/* Reading stands still for unread output, frames wait, and then a reset:
 * nothing is left to wait for. */
static void a_reset_frees_frames_that_waited_for_output(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_begin(&w, 1, 262144);
    world_listen(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer much = {0};
    fill(&much, 6000000, 1);
    put_text(peer, "1\n2\n3\n4\n5");
    end_writing(peer);
    UNTIL(&w, w.message_count == 1);
    say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    EQUAL(w.message_count, 1);
    reset_peer(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(w.message_count, 5);
    EQUAL(error_of(&w, id), ECONNRESET);
    release(&much);
    world_is_clean(&w);
    world_end(&w);
}

/* A drain ends a stream whose last line waits for output: then a reset. */
static void a_last_line_that_waits_outlives_a_reset(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer much = {0};
    fill(&much, 6000000, 1);
    put_text(peer, "last");
    UNTIL(&w, pmx_counts(w.mux)->bytes_in == 4);
    say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    pmx_drain(w.mux);
    turn(&w, 0);
    EQUAL(w.message_count, 0);
    reset_peer(peer);
    UNTIL(&w, closed(&w, id));
    CHECK(is_text(&w, message_of(&w, id, 0), "last"));
    EQUAL(error_of(&w, id), ECONNRESET);
    release(&much);
    world_is_clean(&w);
    world_end(&w);
}

/* Whichever call is told of it: the first to fail here is a send, after which
 * receiving finds an end. */
static void half_a_line_is_no_message_after_a_reset(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    if (!PMX__EPIPE_TELLS)
        test_skipped("there the end of a reset stream looks like any other");
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    put_text(peer, "whole\nhalf");
    UNTIL(&w, pmx_counts(w.mux)->bytes_in == 10);
    reset_peer(peer);
    UNTIL_DOING(&w, closed(&w, id), say_text(&w, id, "x"));
    EQUAL(w.message_count, 1);
    EQUAL(error_of(&w, id), ECONNRESET);
    world_is_clean(&w);
    world_end(&w);
}

/* But it is one after an end, whatever comes then. */
static void a_last_line_is_a_message_before_a_failed_send(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    put_text(peer, "whole\nlast");
    UNTIL(&w, pmx_counts(w.mux)->bytes_in == 10);
    do_op(&w, id, PMX_HOLD);
    turn(&w, 0);
    leave(peer);
    UNTIL_DOING(&w, closed(&w, id), say_text(&w, id, "x"));
    EQUAL(w.message_count, 2);
    EQUAL(error_of(&w, id), ECONNRESET);
    world_is_clean(&w);
    world_end(&w);
}

/* In each state that reads nothing a reset is told, and costs no waits. */
static void is_told_of_a_reset(enum pmx_op op, int ended, int wants)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.half_open = 1;
    needs_resets();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    if (op != PMX_SEND)
        do_op(&w, id, op);
    turn(&w, 0);
    if (ended) {
        end_writing(peer);
        UNTIL(&w, has(&w.ended, id));
    }
    if (wants)
        put_text(peer, "held back");
    count_waits(&w);
    turn(&w, 20 * MS);
    CHECK(wait_count < 4);
    reset_peer(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ECONNRESET);
    CHECK(wait_count < 200);    /* UNTIL waits a millisecond each time */
    wait_count = 0;
    turn(&w, 20 * MS);
    CHECK(wait_count < 4);
    world_is_clean(&w);
    world_end(&w);
}

static void a_paused_connection_is_told_of_a_reset(void)
{
    is_told_of_a_reset(PMX_PAUSE, 0, 0);
    is_told_of_a_reset(PMX_PAUSE, 0, 1);
}

static void a_held_connection_is_told_of_a_reset(void)
{
    is_told_of_a_reset(PMX_HOLD, 0, 0);
}

static void a_half_closed_connection_is_told_of_a_reset(void)
{
    is_told_of_a_reset(PMX_SEND, 1, 0);
}

static void a_held_connection_delivers_before_the_reset(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    needs_resets();
    world_begin(&w, 2, 262144);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    put_text(peer, "1\n2\n3\n4\n5\n");
    UNTIL(&w, w.message_count == 2);
    do_op(&w, id, PMX_HOLD);
    turn(&w, 2 * MS);
    EQUAL(w.message_count, 2);
    reset_peer(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(w.message_count, 5);
    EQUAL(error_of(&w, id), ECONNRESET);
    world_is_clean(&w);
    world_end(&w);
}

#ifndef _WIN32
/* A peer that hangs up behind a pause must not wake us for ever. */
static void a_hang_up_behind_a_pause_does_not_spin(void)
{
    world w;
    pmx_policy p = raw();
    uint64_t id;
    world_begin(&w, 100, 10000);
    pmx_endpoint at = {.path = "\0pymux-test-hang-up", .path_size = 19};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), 0);
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    UNTIL(&w, w.opened.count == 2);
    uint64_t other = w.opened.ids[w.opened.ids[0] == id];
    do_op(&w, other, PMX_PAUSE);
    turn(&w, 0);
    do_op(&w, id, PMX_ABORT);
    UNTIL(&w, closed(&w, id));
    count_waits(&w);
    turn(&w, 40 * MS);
    CHECK(wait_count < 4);
    CHECK(!closed(&w, other));
    do_op(&w, other, PMX_RESUME);
    UNTIL(&w, closed(&w, other));
    EQUAL(error_of(&w, other), 0);
    world_is_clean(&w);
    world_end(&w);
}
#endif

static void a_closing_connection_ends_with_its_peer(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer much = {0};
    fill(&much, 6000000, 1);
    say(&w, id, much.bytes, much.size);
    do_op(&w, id, PMX_CLOSE);
    turn(&w, 0);
    reset_peer(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ECONNRESET);
    release(&much);
    world_is_clean(&w);
    world_end(&w);
}

static void resets_throughout_harm_nobody_else(void)
{
    enum { COUNT = 40 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    buffer sent[COUNT], got[COUNT];
    uint32_t x = 7;
    pmx_policy p = raw();
    needs_resets();
    world_serve(&w, &p);
    w.echo = 1;
    memset(sent, 0, sizeof sent);
    memset(got, 0, sizeof got);
    for (int i = 0; i < COUNT; i++)
        ids[i] = meet(&w, &peers[i]);
    for (int step = 0; step < 1500; step++) {
        x = x * 1664525u + 1013904223u;
        int i = (int)(x >> 8) % COUNT;
        if (i % 2 && x >> 29 == 0) {    /* the odd ones come and go */
            reset_peer(peers[i]);
            UNTIL(&w, closed(&w, ids[i]));
            EQUAL(error_of(&w, ids[i]), ECONNRESET);
            ids[i] = meet(&w, &peers[i]);
            continue;
        }
        size_t at = sent[i].size;
        fill(&sent[i], x >> 20, x);
        put(peers[i], sent[i].bytes + at, sent[i].size - at);
        if (step % 4 == 0)
            turn(&w, 0);
        get(peers[i], &got[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        if (i % 2 == 0) {
            UNTIL_DOING(&w, got[i].size >= sent[i].size,
                        get(peers[i], &got[i]));
            CHECK(same(&sent[i], &got[i]));
        }
        release(&sent[i]);
        release(&got[i]);
        leave(peers[i]);
    }
    UNTIL(&w, pmx_counts(w.mux)->connections == 0);
    world_is_clean(&w);
    world_end(&w);
}

const test_case lost_tests[] = {
    EACH(a_reset_is_reported),
    EACH(a_reset_while_output_is_pending_ends_that_connection),
    EACH(a_failed_send_leaves_the_input),
    EACH(a_failed_send_leaves_frames_of_an_ended_stream),
    EACH(a_reset_frees_frames_that_waited_for_output),
    EACH(a_last_line_that_waits_outlives_a_reset),
    EACH(half_a_line_is_no_message_after_a_reset),
    EACH(a_last_line_is_a_message_before_a_failed_send),
    EACH(a_paused_connection_is_told_of_a_reset),
    EACH(a_held_connection_is_told_of_a_reset),
    EACH(a_half_closed_connection_is_told_of_a_reset),
    EACH(a_held_connection_delivers_before_the_reset),
    UNIX_EACH(a_hang_up_behind_a_pause_does_not_spin, NO_UNIX),
    EACH(a_closing_connection_ends_with_its_peer),
    EACH(resets_throughout_harm_nobody_else),
    {0},
};
