/* pmx_drain: who waits is taken in, what has arrived is answered, no more. */
#include "world.h"

#include <string.h>

static void a_drain_takes_in_the_backlog_and_answers(void)
{
    enum { COUNT = 300 };               /* more than one turn accepts */
    world w;
    pmx_sock peers[COUNT];
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    w.echo = 1;
    for (int i = 0; i < COUNT; i++) {
        peers[i] = call(&w);
        if (i % 2)
            put_text(peers[i], "one\ntwo\n");
    }
    pmx_drain(w.mux);
    EQUAL(pmx_next_timeout(w.mux), 0);
    UNTIL(&w, w.closed_count == COUNT);
    EQUAL(w.opened.count, COUNT);
    EQUAL(pmx_counts(w.mux)->listeners, 0);
    EQUAL(pmx_counts(w.mux)->reset, 0);
    for (int i = 0; i < COUNT; i++) {
        buffer got = {0};
        EQUAL(error_of(&w, w.opened.ids[i]), 0);
        EQUAL(get(peers[i], &got), 0);
        CHECK(is_text_of(&got, i % 2 ? "one\ntwo\n" : ""));
        release(&got);
        leave(peers[i]);
    }
    world_is_clean(&w);
    world_end(&w);
}

static void what_comes_after_a_drain_is_not_read(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.half_open = 1;                    /* so that it stays */
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    put_text(peer, "before");
    pmx_drain(w.mux);
    UNTIL(&w, has(&w.ended, id));
    put_text(peer, "after");
    count_waits(&w);
    turn(&w, 20 * MS);
    CHECK(wait_count < 4);
    EQUAL(w.message_count, 1);
    CHECK(is_text(&w, message_of(&w, id, 0), "before"));
    buffer got = {0};
    say_text(&w, id, "answer");
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, closed(&w, id));          /* it does not wait for the peer */
    EQUAL(error_of(&w, id), 0);
    EQUAL(get(peer, &got), 0);          /* nor does it reset */
    CHECK(is_text_of(&got, "answer"));
    release(&got);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

/* A peer that never stops talking ends all the same. */
#ifndef _WIN32
static void a_drain_answers_though_nobody_says_how_much_has_arrived(void)
{
    static const injected_fault mute = {CALL_ioctl, EINVAL, "ioctl EINVAL"};
    world w;
    pmx_sock peer;
    buffer got = {0};
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    w.echo = 1;
    peer = call(&w);                    /* accepted when it is drained */
    put_text(peer, "one\ntwo\n");
    pmx_drain(w.mux);
    inject_nth(&mute, 1, 0);
    UNTIL(&w, w.closed_count);
    EQUAL(injected_now, 1);
    inject_nothing();
    EQUAL(w.closed[0].error, 0);
    EQUAL(get(peer, &got), 0);
    CHECK(is_text_of(&got, "one\ntwo\n"));
    release(&got);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}
#endif

static void a_peer_that_goes_on_talking_is_drained(void)
{
    world w;
    pmx_sock peer;
    size_t at = 0;
    pmx_policy p = lines("\n", 100);
    world_begin(&w, 50, 10000);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer said = {0};
    while (said.size < 8000000)
        append(&said, "0123456789\n", 11);
    put_some(peer, &said, &at);
    turn(&w, 0);
    pmx_drain(w.mux);
    int64_t until = deadline();
    while (!closed(&w, id)) {
        (void)offer(peer, said.bytes, 110);
        turn(&w, 0);
        CHECK(pmx__now() < until);
    }
    CHECK(w.in.size <= said.size);
    /* in order, and whole but perhaps for the last */
    for (size_t i = 0; i + 1 < w.message_count; i++)
        CHECK(is_text(&w, &w.messages[i], "0123456789"));
    CHECK(w.message_count > 1000);
    release(&said);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void a_drain_waits_for_unread_output(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer sent = {0}, got = {0};
    fill(&sent, 6000000, 1);
    say(&w, id, sent.bytes, sent.size);
    turn(&w, 0);
    put_text(peer, "held back\nlast");
    turn(&w, MS);
    EQUAL(w.message_count, 0);
    pmx_drain(w.mux);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    int end = 1;
    UNTIL_DOING(&w, closed(&w, id), end = get(peer, &got));
    while (end > 0 && got.size < sent.size + 1)
        end = get(peer, &got);
    EQUAL(w.message_count, 2);
    append(&sent, "\n", 1);
    CHECK(same(&sent, &got));
    EQUAL(error_of(&w, id), 0);
    release(&sent);
    release(&got);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void closing_connections_do_not_wait_for_their_peers(void)
{
    world w;
    pmx_sock peer;
    int connecting;
    uint64_t out;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    do_op(&w, id, PMX_CLOSE);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &out), 0);
    pmx_drain(w.mux);
    pmx_drain(w.mux);                   /* twice is once */
    UNTIL(&w, w.closed_count == 3);
    EQUAL(error_of(&w, id), 0);
    EQUAL(error_of(&w, out), 0);
    connecting = pmx_connect(w.mux, &at, 1, &p, &out);
    EQUAL(connecting, 0);
    UNTIL(&w, closed(&w, out));
    EQUAL(error_of(&w, out), ECONNREFUSED);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void a_drain_with_nobody_is_over_at_once(void)
{
    world w;
    pmx_policy p = raw();
    world_serve(&w, &p);
    pmx_drain(w.mux);
    CHECK(turn(&w, -1) & PMX_DRAINED);
    EQUAL(pmx_counts(w.mux)->listeners, 0);
    EQUAL(turn(&w, 0), 0);
    EQUAL(pmx_next_timeout(w.mux), -1);
    world_is_clean(&w);
    world_end(&w);
}

static void a_drain_does_not_wait_for_room(void)
{
    world w;
    pmx_sock peers[3];
    pmx_policy p = raw();
    p.max_connections = 1;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peers[0]);
    peers[1] = call(&w);
    peers[2] = call(&w);
    turn(&w, MS);
    pmx_drain(w.mux);
    UNTIL(&w, closed(&w, id));
    UNTIL(&w, pmx_counts(w.mux)->listeners == 0);
    UNTIL(&w, pmx_counts(w.mux)->connections == 0);
    for (int i = 0; i < 3; i++)
        leave(peers[i]);
    world_is_clean(&w);
    world_end(&w);
}

const test_case drain_tests[] = {
    EACH(a_drain_takes_in_the_backlog_and_answers),
    EACH(what_comes_after_a_drain_is_not_read),
    UNIX_EACH(a_drain_answers_though_nobody_says_how_much_has_arrived,
              "nothing is injected there"),
    EACH(a_peer_that_goes_on_talking_is_drained),
    EACH(a_drain_waits_for_unread_output),
    EACH(closing_connections_do_not_wait_for_their_peers),
    EACH(a_drain_with_nobody_is_over_at_once),
    EACH(a_drain_does_not_wait_for_room),
    {0},
};
