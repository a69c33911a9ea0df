/* What is done to connections: in the order of the log. */
#include "world.h"

#include <string.h>

static void what_is_sent_before_a_close_arrives(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer got = {0};
    say_text(&w, id, "one ");
    say_text(&w, id, "two");
    do_op(&w, id, PMX_CLOSE);
    say_text(&w, id, "three");
    UNTIL_DOING(&w, got.size == 7, get(peer, &got));
    CHECK(is_text_of(&got, "one two"));
    EQUAL(get(peer, &got), 0);
    CHECK(!closed(&w, id));             /* it waits for the peer's end */
    EQUAL(pmx_counts(w.mux)->discarded, 5);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    EQUAL(pmx_counts(w.mux)->reset, 0);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void send_eof_ends_one_direction(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.half_open = 1;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer got = {0};
    say_text(&w, id, "all");
    do_op(&w, id, PMX_SEND_EOF);
    say_text(&w, id, "more");
    int end = 1;
    UNTIL_DOING(&w, !end, end = get(peer, &got));
    CHECK(is_text_of(&got, "all"));
    put_text(peer, "still");
    UNTIL(&w, messages_of(&w, id) == 1);
    CHECK(is_text(&w, message_of(&w, id, 0), "still"));
    end_writing(peer);
    UNTIL(&w, has(&w.ended, id));
    CHECK(!closed(&w, id));
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    leave(peer);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void fail_is_a_close_with_an_error(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer got = {0};
    say_text(&w, id, "answer");
    do_op(&w, id, PMX_FAIL);
    UNTIL_DOING(&w, got.size == 6, get(peer, &got));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ECONNABORTED);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void abort_drops_and_resets(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer got = {0};
    say_text(&w, id, "dropped");
    do_op(&w, id, PMX_ABORT);
    do_op(&w, id, PMX_ABORT);
    say_text(&w, id, "dropped");
    do_op(&w, id, PMX_CLOSE);
    do_op(&w, id, PMX_SEND_EOF);
    do_op(&w, id, PMX_PAUSE);
    do_op(&w, id, PMX_RESUME);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    CHECK(is_reset(get(peer, &got)));
    EQUAL(got.size, 0);
    EQUAL(pmx_counts(w.mux)->reset, 1);
    EQUAL(pmx_counts(w.mux)->discarded, 14);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void no_input_comes_while_paused(enum pmx_op stop, enum pmx_op go)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_begin(&w, 2, 262144);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    put_text(peer, "1\n2\n3\n4\n5\n");
    UNTIL(&w, w.message_count == 2);
    /* frames that are buffered are held back too */
    do_op(&w, id, stop);
    put_text(peer, "6\n");
    count_waits(&w);
    turn(&w, 20 * MS);
    EQUAL(w.message_count, 2);
    CHECK(wait_count < 4);
    do_op(&w, id, go);
    UNTIL(&w, w.message_count == 6);
    for (size_t i = 0; i < 6; i++)
        EQUAL(w.in.bytes[w.messages[i].at], '1' + i);
    /* pausing and resuming in one log is nothing */
    do_op(&w, id, stop);
    do_op(&w, id, stop);
    do_op(&w, id, go);
    put_text(peer, "7\n");
    UNTIL(&w, w.message_count == 7);
    do_op(&w, id, go);
    do_op(&w, id, stop);
    put_text(peer, "8\n");
    leave(peer);
    turn(&w, 5 * MS);
    EQUAL(w.message_count, 7);
    do_op(&w, id, go);
    UNTIL(&w, closed(&w, id));
    EQUAL(w.message_count, 8);
    EQUAL(error_of(&w, id), 0);
    world_is_clean(&w);
    world_end(&w);
}

static void pause_holds_input_until_resume(void)
{
    no_input_comes_while_paused(PMX_PAUSE, PMX_RESUME);
}

static void hold_holds_input_until_release(void)
{
    no_input_comes_while_paused(PMX_HOLD, PMX_RELEASE);
}

static void pause_and_hold_are_apart(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    put_text(peer, "x");
    do_op(&w, id, PMX_PAUSE);
    do_op(&w, id, PMX_HOLD);
    turn(&w, 0);
    do_op(&w, id, PMX_RESUME);
    turn(&w, 5 * MS);
    EQUAL(w.message_count, 0);
    do_op(&w, id, PMX_PAUSE);
    do_op(&w, id, PMX_RELEASE);
    turn(&w, 5 * MS);
    EQUAL(w.message_count, 0);
    do_op(&w, id, PMX_RESUME);
    UNTIL(&w, w.message_count == 1);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
}

static void a_paused_connection_can_be_closed(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer got = {0};
    do_op(&w, id, PMX_PAUSE);
    put_text(peer, "never seen");
    turn(&w, 0);
    say_text(&w, id, "bye");
    do_op(&w, id, PMX_CLOSE);
    int end = 1;
    UNTIL_DOING(&w, !end, end = get(peer, &got));
    CHECK(is_text_of(&got, "bye"));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    EQUAL(w.message_count, 0);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void what_is_done_before_opened_counts(void)
{
    world server, client;
    pmx_policy p = raw();
    uint64_t id, first;
    world_serve(&server, &p);
    world_begin(&client, 100, 10000);
    pmx_endpoint at = {.host = "127.0.0.1", .port = server.port};
    EQUAL(pmx_connect(client.mux, &at, 1, &p, &id), 0);
    say_text(&client, id, "early");
    do_op(&client, id, PMX_PAUSE);
    do_op(&client, id, PMX_SEND_EOF);
    UNTIL_DOING(&client, has(&client.opened, id), turn(&server, 0));
    UNTIL_DOING(&server, server.closed_count, turn(&client, 0));
    first = server.opened.ids[0];
    CHECK(is_text(&server, message_of(&server, first, 0), "early"));
    CHECK(!closed(&client, id));        /* it is paused */
    do_op(&client, id, PMX_RESUME);
    UNTIL(&client, closed(&client, id));
    EQUAL(error_of(&client, id), 0);
    /* a close before it is open */
    EQUAL(pmx_connect(client.mux, &at, 1, &p, &id), 0);
    say_text(&client, id, "parting");
    do_op(&client, id, PMX_CLOSE);
    UNTIL_DOING(&client, closed(&client, id), turn(&server, 0));
    EQUAL(error_of(&client, id), 0);
    UNTIL(&server, server.closed_count == 2);
    CHECK(is_text(&server, message_of(&server, server.opened.ids[1], 0),
                  "parting"));
    EQUAL(pmx_connect(client.mux, &at, 1, &p, &id), 0);
    do_op(&client, id, PMX_CLOSE);
    UNTIL(&client, closed(&client, id));
    CHECK(!has(&client.opened, id));
    EQUAL(pmx_connect(client.mux, &at, 1, &p, &id), 0);
    do_op(&client, id, PMX_ABORT);
    UNTIL(&client, closed(&client, id));
    EQUAL(error_of(&client, id), 0);
    world_is_clean(&client);
    world_end(&client);
    world_end(&server);
}

static void an_empty_message_under_raw_is_nothing(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    say(&w, id, NULL, 0);
    turn(&w, 0);
    EQUAL(pmx_counts(w.mux)->messages_out, 0);
    EQUAL(pmx_counts(w.mux)->discarded, 0);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
}

const test_case op_tests[] = {
    EACH(what_is_sent_before_a_close_arrives),
    EACH(send_eof_ends_one_direction),
    EACH(fail_is_a_close_with_an_error),
    EACH(abort_drops_and_resets),
    EACH(pause_holds_input_until_resume),
    EACH(hold_holds_input_until_release),
    EACH(pause_and_hold_are_apart),
    EACH(a_paused_connection_can_be_closed),
    EACH(what_is_done_before_opened_counts),
    ONCE(an_empty_message_under_raw_is_nothing),
    {0},
};
