/* pmx_drain: who waits is taken in, what has arrived is answered, no more. */
#include "world.h"

#include <string.h>

static int ends_are_all_that_is_missing(const world *w)
{
    for (uint32_t slot = 0; slot < w->mux->slots; slot++) {
        const pmx__conn *c = pmx__slot(w->mux, slot);
        if (c->generation & 1 && !(c->flags & PMX__SHUT))
            return 0;
    }
    return !pmx_counts(w->mux)->listeners;
}

/* Until all have closed: they wait for no peer's end, but where nothing tells
 * what peers have acknowledged, for each one's. */
static void all_close(world *w, const pmx_sock *peers, int count)
{
    const pmx_stats *s = pmx_counts(w->mux);
    if (!acks_are_told()) {
        UNTIL(w, ends_are_all_that_is_missing(w));
        CHECK(s->connections >= (uint64_t)count);
    }
    for (int i = 0; i < count; i++)
        end_if_untold(peers[i]);
    UNTIL(w, !s->connections && w->closed_count == w->opened.count);
}

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
    all_close(&w, peers, COUNT);
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
    all_close(&w, &peer, 1);
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
    if (!acks_are_told())
        p.close_ns = 1000 * MS;         /* time alone bounds it */
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
    EQUAL(error_of(&w, id), acks_are_told() ? 0 : ETIMEDOUT);
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
    UNTIL_DOING(&w, closed(&w, id),
                if (!(end = get(peer, &got))) end_if_untold(peer));
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
    all_close(&w, &peer, 1);
    EQUAL(w.closed_count, 3);
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

/* One turn limits some; the listener is open until all have been, and whoever
 * comes meanwhile is served too. */
static void a_drain_of_many_takes_several_turns(void)
{
    enum { COUNT = 400 };
    world w;
    pmx_sock peers[COUNT + 4], *late = peers + COUNT;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    w.echo = 1;
    for (int i = 0; i < COUNT; i++)
        peers[i] = call(&w);
    UNTIL(&w, w.opened.count == COUNT);
    pmx_drain(w.mux);
    int turns = 0, called = 0;
    while (pmx_counts(w.mux)->listeners) {
        uint32_t before = w.mux->limited;
        if (called < 4) {
            late[called] = call(&w);
            put_text(late[called++], "late\n");
        }
        turn(&w, 0);
        CHECK(w.mux->limited - before <= PMX__LIMITS);
        CHECK(++turns < 100);
    }
    CHECK(turns >= COUNT / PMX__LIMITS);
    all_close(&w, peers, COUNT + called);
    EQUAL(w.opened.count, COUNT + called);
    EQUAL(pmx_counts(w.mux)->reset, 0);
    for (int i = 0; i < called; i++) {
        buffer got = {0};
        EQUAL(get(late[i], &got), 0);
        CHECK(is_text_of(&got, "late\n"));
        release(&got);
        leave(late[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        buffer got = {0};
        EQUAL(get(peers[i], &got), 0);
        leave(peers[i]);
    }
    world_is_clean(&w);
    world_end(&w);
}

/* Nor does a peer that has ended before wait behind one that goes on. */
static void a_drain_tells_whose_end_it_is(void)
{
    world w;
    pmx_sock cut, whole;
    pmx_policy p = raw();
    p.half_open = 1;
    world_serve(&w, &p);
    uint64_t a = meet(&w, &cut), b = meet(&w, &whole);
    put_text(cut, "part of it");
    put_text(whole, "all of it");
    end_writing(whole);
    pmx_drain(w.mux);
    UNTIL(&w, has(&w.ended, a) && has(&w.ended, b));
    EQUAL(pmx_stopping(w.mux, a), 1);
    EQUAL(pmx_stopping(w.mux, b), 0);
    end_writing(cut);                   /* too late */
    turn(&w, MS);
    EQUAL(pmx_stopping(w.mux, a), 1);
    do_op(&w, a, PMX_CLOSE);
    do_op(&w, b, PMX_CLOSE);
    UNTIL(&w, closed(&w, a) && closed(&w, b));
    EQUAL(pmx_stopping(w.mux, a) + pmx_stopping(w.mux, b), 1);
    leave(cut);
    leave(whole);
    world_is_clean(&w);
    EQUAL(pmx_stopping(w.mux, a), 0);   /* it is forgotten */
    world_end(&w);
}

/* A peer whose sends nobody would take could not come to read its answers. */
static void what_comes_after_a_drain_is_taken_and_dropped(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.half_open = 1;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer late = {0}, got = {0};
    fill(&late, 6000000, 1);
    pmx_drain(w.mux);
    UNTIL(&w, has(&w.ended, id));
    size_t at = 0;
    UNTIL_DOING(&w, at == late.size, put_some(peer, &late, &at));
    EQUAL(w.message_count, 0);
    say_text(&w, id, "answer");
    do_op(&w, id, PMX_CLOSE);
    all_close(&w, &peer, 1);
    EQUAL(get(peer, &got), 0);
    CHECK(is_text_of(&got, "answer"));
    release(&late);
    release(&got);
    leave(peer);
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
    (void)meet(&w, &peers[0]);
    peers[1] = call(&w);
    peers[2] = call(&w);
    turn(&w, MS);
    EQUAL(w.opened.count, 1);
    pmx_drain(w.mux);
    all_close(&w, peers, 3);
    EQUAL(w.closed_count, 3);
    EQUAL(pmx_counts(w.mux)->listeners, 0);
    for (int i = 0; i < 3; i++)
        leave(peers[i]);
    world_is_clean(&w);
    world_end(&w);
}

/* A connection that the mux makes, to a listener that is not the mux's. */
static uint64_t call_out(world *w, pmx_sock listener)
{
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    uint64_t id;
    pmx_policy p = lines("\n", 100);
    CHECK(!getsockname(listener, (struct sockaddr *)&name, &size));
    pmx_endpoint to = {.host = "127.0.0.1", .port = ntohs(name.sin_port)};
    EQUAL(pmx_connect(w->mux, &to, 1, &p, &id), 0);
    return id;
}

static pmx_sock accepted_by(pmx_sock listener)
{
    pmx_sock peer = accept(listener, NULL, NULL);
    CHECK(peer != PMX__NO_SOCK && !pmx__prepare(peer));
    return peer;
}

static pmx_sock outside_listener(void)
{
    struct sockaddr_in name;
    pmx_sock sock = socket(AF_INET, SOCK_STREAM, 0);
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(!bind(sock, (struct sockaddr *)&name, sizeof name));
    CHECK(!listen(sock, 8));
    return sock;
}

static void a_drain_leaves_outgoing_connections_alone(void)
{
    enum { COUNT = 3 };         /* open, being made, made later */
    world w;
    pmx_sock caller, peers[COUNT], listener = outside_listener();
    uint64_t ids[COUNT];
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t accepted = meet(&w, &caller);
    ids[0] = call_out(&w, listener);
    UNTIL(&w, has(&w.opened, ids[0]));
    EQUAL(pmx_counts(w.mux)->outgoing, 1);
    EQUAL(pmx_counts(w.mux)->connections, 2);
    ids[1] = call_out(&w, listener);
    pmx_drain(w.mux);
    UNTIL(&w, w.t.reason & PMX_DRAINED);
    ids[2] = call_out(&w, listener);
    end_if_untold(caller);
    UNTIL(&w, closed(&w, accepted) && w.opened.count == COUNT + 1);
    EQUAL(pmx_counts(w.mux)->listeners, 0);
    EQUAL(pmx_counts(w.mux)->outgoing, COUNT);
    EQUAL(pmx_counts(w.mux)->connections, COUNT);
    for (int k = 0; k < COUNT; k++) {   /* they go on, both ways */
        peers[k] = accepted_by(listener);
        put_text(peers[k], "later\n");
        say_text(&w, ids[k], "and answered");
    }
    for (int k = 0; k < COUNT; k++) {
        buffer got = {0};
        UNTIL(&w, messages_of(&w, ids[k]) == 1);
        UNTIL_DOING(&w, is_text_of(&got, "and answered\n"),
                    CHECK(get(peers[k], &got) == 1));
        EQUAL(pmx_stopping(w.mux, ids[k]), 0);
        release(&got);
    }
    EQUAL(w.closed_count, 1);
    /* closed, they need no more than the peer's acknowledgement */
    for (int k = 0; k < COUNT; k++) {
        do_op(&w, ids[k], PMX_CLOSE);
        end_if_untold(peers[k]);
    }
    UNTIL(&w, w.closed_count == COUNT + 1);
    for (int k = 0; k < COUNT; k++) {
        EQUAL(error_of(&w, ids[k]), 0);
        leave(peers[k]);
    }
    leave(caller);
    leave(listener);
    world_is_clean(&w);
    world_end(&w);
}

/* Peers that come while the others are limited have nothing read later. */
static void who_is_accepted_while_others_are_limited_is_limited(void)
{
    enum { FIRST = 400, LATE = 5 };     /* more than a turn limits */
    world w;
    pmx_sock peers[FIRST], late[LATE];
    pmx_policy p = raw();
    p.half_open = 1;
    if (!test_room_for(2 * (FIRST + LATE) + 50))
        test_skipped("too few descriptors");
    world_serve(&w, &p);
    for (int i = 0; i < FIRST; i++)
        (void)meet(&w, &peers[i]);
    for (int i = 0; i < 20; i++)        /* places in front */
        leave(peers[i]);
    UNTIL(&w, w.ended.count == 20);
    for (int i = 0; i < 20; i++)
        do_op(&w, w.ended.ids[i], PMX_CLOSE);
    UNTIL(&w, w.closed_count == 20);
    pmx_drain(w.mux);
    while (w.mux->draining < 2)
        turn(&w, 0);
    for (int i = 0; i < LATE; i++) {
        late[i] = call(&w);
        put_text(late[i], "in time");
    }
    UNTIL(&w, w.t.reason & PMX_DRAINED);
    for (int i = 0; i < LATE; i++)
        (void)offer(late[i], "too late", 8);
    UNTIL(&w, w.ended.count == FIRST + LATE);
    for (size_t k = 0; k < w.message_count; k++)
        CHECK(is_text(&w, &w.messages[k], "in time"));
    pmx_reset_all(w.mux, ECONNABORTED);
    UNTIL(&w, w.closed_count == FIRST + LATE);
    for (int i = 20; i < FIRST; i++)
        leave(peers[i]);
    for (int i = 0; i < LATE; i++)
        leave(late[i]);
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
    EACH(a_drain_of_many_takes_several_turns),
    EACH(a_drain_tells_whose_end_it_is),
    EACH(what_comes_after_a_drain_is_taken_and_dropped),
    EACH(a_drain_leaves_outgoing_connections_alone),
    EACH(who_is_accepted_while_others_are_limited_is_limited),
    {0},
};
