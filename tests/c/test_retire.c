/* pmx_retire: who waits is let in, nobody later; and the ends of the inputs of
 * some connections, one after the other. */
#include "world.h"

#include <string.h>

#ifndef _WIN32
#include <sys/socket.h>
#include <unistd.h>
#endif

static void a_retire_takes_in_the_backlog_and_serves_on(void)
{
    enum { COUNT = 300 };               /* more than one turn accepts */
    world w;
    pmx_sock peers[COUNT];
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    w.echo = 1;
    for (int i = 0; i < COUNT; i++)
        peers[i] = call(&w);
    EQUAL(pmx_retire(w.mux), 0);
    EQUAL(pmx_next_timeout(w.mux), 0);
    UNTIL(&w, w.opened.count == COUNT && !pmx_counts(w.mux)->listeners);
    EQUAL(pmx_unlisten(w.mux, w.listener), -ENOENT);
    EQUAL(pmx_retire(w.mux), 0);        /* twice is once */
    for (int i = 0; i < COUNT; i++)
        put_text(peers[i], "one\n");
    UNTIL(&w, w.message_count == COUNT);
    EQUAL(w.closed_count, 0);
    turn(&w, 0);
    for (int i = 0; i < COUNT; i++) {
        buffer got = {0};
        EQUAL(get(peers[i], &got), 1);
        CHECK(is_text_of(&got, "one\n"));
        release(&got);
        leave(peers[i]);
    }
    UNTIL(&w, w.closed_count == COUNT);
    EQUAL(pmx_next_timeout(w.mux), -1);
    world_is_clean(&w);
    world_end(&w);
}

static void no_limit_keeps_those_out_who_wait(void)
{
    world w;
    pmx_sock peers[3];
    pmx_policy p = raw();
    p.max_connections = 1;
    world_serve(&w, &p);
    for (int i = 0; i < 3; i++)
        peers[i] = call(&w);
    UNTIL(&w, w.opened.count == 1);
    turn(&w, MS);
    EQUAL(w.opened.count, 1);
    EQUAL(pmx_retire(w.mux), 0);
    UNTIL(&w, w.opened.count == 3 && !pmx_counts(w.mux)->listeners);
    for (int i = 0; i < 3; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == 3);
    world_is_clean(&w);
    world_end(&w);
}

static void later_listeners_do_not_retire(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    EQUAL(pmx_retire(w.mux), 0);
    world_listen(&w, &p);
    UNTIL(&w, pmx_counts(w.mux)->listeners == 1);
    (void)meet(&w, &peer);
    leave(peer);
    UNTIL(&w, w.closed_count == 1);
    EQUAL(pmx_counts(w.mux)->listeners, 1);
    world_is_clean(&w);
    world_end(&w);
}

/* Each turn takes in one peer, and another comes: whoever waited at the call
 * is in after as many as may wait. */
static void peers_that_come_and_come_do_not_hold_a_retire(void)
{
    enum { MOST = 64 };
    world w;
    pmx_sock peers[MOST];
    pmx_policy p = raw();
    pmx_endpoint at = {.host = "127.0.0.1"};
    pmx_address name;
    int count = 0;
    world_begin(&w, 1, 10000);
    EQUAL(pmx_listen(w.mux, &at, &p, 2, 0, 0600, &w.listener), 0);
    EQUAL(pmx_listener_address(w.mux, w.listener, &name), 0);
    w.port = name.port;
    peers[count++] = call(&w);
    peers[count++] = call(&w);
    EQUAL(pmx_retire(w.mux), 0);
    while (pmx_counts(w.mux)->listeners) {
        CHECK(count < MOST);
        turn(&w, 0);
        if (pmx_counts(w.mux)->listeners)
            peers[count++] = call(&w);
    }
    CHECK(w.opened.count >= 2);
    for (int i = 0; i < count; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == w.opened.count);
    world_is_clean(&w);
    world_end(&w);
}

static void a_drain_may_follow_a_retire(void)
{
    world w;
    pmx_sock peers[3];
    pmx_policy p = raw();
    world_serve(&w, &p);
    for (int i = 0; i < 3; i++)
        peers[i] = call(&w);
    EQUAL(pmx_retire(w.mux), 0);
    EQUAL(pmx_drain(w.mux), 0);
    UNTIL(&w, w.opened.count == 3 && !pmx_counts(w.mux)->listeners);
    for (int i = 0; i < 3; i++)
        end_if_untold(peers[i]);
    UNTIL(&w, w.closed_count == 3);
    for (int i = 0; i < 3; i++)
        leave(peers[i]);
    EQUAL(pmx_counts(w.mux)->reset, 0);
    world_is_clean(&w);
    world_end(&w);
}

#ifndef _WIN32
static void a_given_listener_retires_at_once(void)
{
    world w;
    struct sockaddr_in name = {.sin_family = AF_INET};
    socklen_t size = sizeof name;
    pmx_policy p = raw();
    world_begin(&w, 100, 10000);
    int ours = socket(AF_INET, SOCK_STREAM, 0);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(!bind(ours, (struct sockaddr *)&name, sizeof name));
    CHECK(!listen(ours, 8));
    CHECK(!getsockname(ours, (struct sockaddr *)&name, &size));
    w.port = ntohs(name.sin_port);
    EQUAL(pmx_listen_on(w.mux, dup(ours), &p, &w.listener), 0);
    pmx_sock peer = call(&w);
    EQUAL(pmx_retire(w.mux), 0);
    EQUAL(pmx_counts(w.mux)->listeners, 0);
    turn(&w, MS);
    EQUAL(w.opened.count, 0);
    int accepted = accept(ours, NULL, NULL);    /* it waits for others */
    CHECK(accepted >= 0);
    close(accepted);
    close(ours);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}
#endif

/* --- the ends of inputs -------------------------------------------------- */

static void accepted_connections_are_told(void)
{
    world w;
    pmx_sock peers[3];
    uint64_t ids[4] = {0}, out;
    pmx_policy p = raw();
    world_serve(&w, &p);
    EQUAL(pmx_accepted(w.mux, ids, 4), 0);
    for (int i = 0; i < 3; i++)
        (void)meet(&w, &peers[i]);
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &out), 0);
    UNTIL(&w, w.opened.count == 5);     /* `out` has two ends */
    EQUAL(pmx_accepted(w.mux, ids, 2), 4);
    EQUAL(ids[2], 0);
    EQUAL(pmx_accepted(w.mux, ids, 4), 4);
    for (int i = 0; i < 4; i++)
        CHECK(ids[i] != out && has(&w.opened, ids[i]));
    for (int i = 0; i < 3; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == 3);
    EQUAL(pmx_accepted(w.mux, ids, 4), 1);
    do_op(&w, out, PMX_CLOSE);
    UNTIL(&w, w.closed_count == 5);
    world_is_clean(&w);
    world_end(&w);
}

/* As at a drain: what has arrived is answered, and the peer need not end. */
static void an_input_that_is_ended_is_answered_first(void)
{
    world w;
    pmx_sock peer, other;
    buffer got = {0};
    pmx_policy p = raw();
    world_serve(&w, &p);
    w.echo = 1;
    uint64_t id = meet(&w, &peer), stays = meet(&w, &other), ids[] = {id};
    put_text(peer, "before");
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_QUIET), 0);
    UNTIL(&w, messages_of(&w, id) == 1);
    EQUAL(pmx_stopping(w.mux, id), 1);
    EQUAL(pmx_stopping(w.mux, stays), 0);
    put_text(peer, "after");
    if (acks_are_told()) {
        UNTIL(&w, closed(&w, id));
    } else {
        turn(&w, MS);
        end_writing(peer);
        UNTIL(&w, closed(&w, id));
    }
    EQUAL(error_of(&w, id), 0);
    EQUAL(messages_of(&w, id), 1);
    EQUAL(get(peer, &got), 0);
    CHECK(is_text_of(&got, "before"));
    release(&got);
    put_text(other, "goes on");
    UNTIL(&w, messages_of(&w, stays) == 1);
    leave(peer);
    leave(other);
    UNTIL(&w, w.closed_count == 2);
    ids[0] = id;
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_WHOLE), 0);     /* gone */
    world_is_clean(&w);
    world_end(&w);
}

/* What the peer sends after it is dropped, so a switch does not read on. */
static void an_input_that_is_ended_stays_so_in_a_switch(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw(), by_line = lines("\n", 100);
    p.half_open = by_line.half_open = 1;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer), ids[] = {id};
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_WHOLE), 0);
    UNTIL(&w, has(&w.ended, id));
    put_text(peer, "dropped\n");
    end_writing(peer);
    UNTIL(&w, !(pmx__find(w.mux, id)->flags & PMX__DROPPING));
    switch_to(&w, id, &by_line, "one\ntwo\n", 8);
    UNTIL(&w, w.ended.count == 2);
    EQUAL(w.message_count, 2);
    EQUAL(pmx_stopping(w.mux, id), 1);
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, closed(&w, id));
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void a_part_of_a_frame_keeps_an_input_open(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer), ids[] = {id};
    put_text(peer, "on");               /* still in the socket, */
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_WHOLE), 1);
    turn(&w, MS);                       /* and received */
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_WHOLE), 1);
    EQUAL(ids[0], id);
    put_text(peer, "e\n");
    UNTIL(&w, messages_of(&w, id) == 1);
    CHECK(is_text(&w, message_of(&w, id, 0), "one"));
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_WHOLE), 0);
    end_if_untold(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void queued_output_keeps_a_quiet_end_waiting(void)
{
    world w;
    pmx_sock peer;
    buffer much = {0}, got = {0};
    pmx_policy p = raw();
    p.half_open = 1;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer), ids[] = {id};
    fill(&much, 8000000, 1);
    say_much(&w, id, &much);
    CHECK(pmx_queued(w.mux, id));
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_QUIET), 1);
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_ASK), 0);
    ids[0] = id;
    UNTIL_DOING(&w, !pmx_queued(w.mux, id), (void)get(peer, &got));
    EQUAL(pmx_end_inputs(w.mux, ids, 1, PMX_END_QUIET), 0);
    UNTIL(&w, has(&w.ended, id));
    do_op(&w, id, PMX_CLOSE);
    UNTIL_DOING(&w, pmx_counts(w.mux)->closed || !acks_are_told(),
                (void)get(peer, &got));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void an_input_does_not_end_before_it_is_said_to_be_open(void)
{
    enum { COUNT = 6 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    pmx_policy p = raw();
    world_begin(&w, 2, 10000);          /* two are reported in a turn */
    world_listen(&w, &p);
    for (int i = 0; i < COUNT; i++)
        peers[i] = call(&w);
    for (size_t opened = 0; opened < COUNT;) {
        turn(&w, MS);
        int64_t count = pmx_accepted(w.mux, ids, COUNT);
        int64_t not_open = pmx_end_inputs(w.mux, ids, (uint32_t)count,
                                          PMX_END_ASK);
        for (int64_t i = 0; i < not_open; i++)
            CHECK(!has(&w.opened, ids[i]));
        opened = w.opened.count;
        EQUAL((int64_t)opened, count - not_open);
    }
    for (int i = 0; i < COUNT; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == COUNT);
    world_is_clean(&w);
    world_end(&w);
}

const test_case retire_tests[] = {
    EACH(a_retire_takes_in_the_backlog_and_serves_on),
    EACH(no_limit_keeps_those_out_who_wait),
    EACH(later_listeners_do_not_retire),
    EACH(peers_that_come_and_come_do_not_hold_a_retire),
    EACH(a_drain_may_follow_a_retire),
    UNIX_EACH(a_given_listener_retires_at_once, "descriptors are not numbers there"),
    EACH(accepted_connections_are_told),
    EACH(an_input_that_is_ended_is_answered_first),
    EACH(an_input_that_is_ended_stays_so_in_a_switch),
    EACH(a_part_of_a_frame_keeps_an_input_open),
    EACH(queued_output_keeps_a_quiet_end_waiting),
    EACH(an_input_does_not_end_before_it_is_said_to_be_open),
    {0},
};
