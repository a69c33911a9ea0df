/* How connections end in peace. */
#include "world.h"

#include <string.h>

static void a_close_with_unread_input_loses_nothing(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer sent = {0}, got = {0};
    fill(&sent, 3900000, 1);
    put_text(peer, "a request that is never read");
    say(&w, id, sent.bytes, sent.size);
    do_op(&w, id, PMX_CLOSE);
    turn(&w, 0);
    int end = 1;
    UNTIL_DOING(&w, !end, {
        end = get_at_most(peer, &got, 50000);
        CHECK(end >= 0);
        (void)offer(peer, "more", 4);
    });
    CHECK(same(&sent, &got));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(w.message_count, 0);
    release(&sent);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void a_close_ends_after_close_timeout(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.close_ns = 30 * MS;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer got = {0};
    int64_t before = pmx__now();
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, closed(&w, id));
    CHECK(pmx__now() - before >= 30 * MS);
    EQUAL(error_of(&w, id), ETIMEDOUT);
    EQUAL(get(peer, &got), 0);          /* the end came first */
    CHECK(offer(peer, "x", 1) < 0);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void a_close_whose_peer_never_reads_times_out(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.close_ns = 30 * MS;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer much = {0};
    fill(&much, 6000000, 1);
    say(&w, id, much.bytes, much.size);
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ETIMEDOUT);
    CHECK(pmx_counts(w.mux)->discarded > 0);
    leave(peer);
    release(&much);
    world_is_clean(&w);
    world_end(&w);
}

/* Sends a request and its end; gets the answers, and the end. */
static void a_peer_that_half_closes_gets_its_answers(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 1000);
    world_begin(&w, 3, 262144);
    world_listen(&w, &p);
    w.echo = 1;
    uint64_t id = meet(&w, &peer);
    buffer got = {0};
    put_text(peer, "1\n2\n3\n4\n5\n6\nlast");
    end_writing(peer);
    int end = 1;
    UNTIL_DOING(&w, !end, end = get(peer, &got));
    CHECK(is_text_of(&got, "1\n2\n3\n4\n5\n6\nlast\n"));
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    leave(peer);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* The connection is done while the turn serves what is ready: nobody else
 * may be on the list any more. */
static void the_last_of_the_queue_closes_the_connection(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.half_open = 1;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer sent = {0}, got = {0};
    fill(&sent, 6000000, 1);
    end_writing(peer);
    UNTIL(&w, has(&w.ended, id));
    say(&w, id, sent.bytes, sent.size);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id));
    do_op(&w, id, PMX_CLOSE);
    UNTIL_DOING(&w, closed(&w, id), get(peer, &got));
    EQUAL(error_of(&w, id), 0);
    int end = 1;
    UNTIL_DOING(&w, !end, end = get(peer, &got));
    CHECK(same(&sent, &got));
    leave(peer);
    release(&sent);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void half_open_reports_the_end_once_and_goes_on(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    p.half_open = 1;
    world_begin(&w, 1, 262144);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer got = {0};
    put_text(peer, "a\nb\nc");
    end_writing(peer);
    UNTIL(&w, has(&w.ended, id));
    EQUAL(w.message_count, 3);
    count_waits(&w);
    turn(&w, 30 * MS);
    CHECK(wait_count < 4);
    say_text(&w, id, "answer");
    UNTIL_DOING(&w, got.size == 7, get(peer, &got));
    do_op(&w, id, PMX_SEND_EOF);
    int end = 1;
    UNTIL_DOING(&w, !end, end = get(peer, &got));
    wait_count = 0;
    turn(&w, 30 * MS);                  /* hung up: no cause to wake */
    CHECK(wait_count < 4);
    EQUAL(has(&w.ended, id), 1);
    CHECK(!closed(&w, id));
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    leave(peer);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void opened_and_closed_in_one_turn_are_both_told(void)
{
    world w;
    pmx_policy p = raw();
    world_serve(&w, &p);
    for (int i = 0; i < 20; i++) {
        pmx_sock peer = call(&w);
        if (i % 2)
            put_text(peer, "x");
        if (i % 3)
            leave(peer);
        else
            reset_peer(peer);
    }
    /* Windows gives up who resets before it is accepted, and that is all */
    UNTIL(&w, w.opened.count >= 13 && w.closed_count == w.opened.count);
    CHECK(!pmx__accepting(w.mux));
    EQUAL(pmx_counts(w.mux)->accept_pauses, 0);
    for (size_t i = 0; i < w.opened.count; i++)
        CHECK(closed(&w, w.opened.ids[i]));
    world_is_clean(&w);
    world_end(&w);
}

/* Rows are bounded by max_messages; the rest comes with the next harvest. */
static void more_ends_than_rows_are_told_over_several_turns(void)
{
    world w;
    pmx_sock peers[10];
    pmx_policy p = raw();
    world_begin(&w, 3, 262144);
    world_listen(&w, &p);
    for (int i = 0; i < 10; i++)
        peers[i] = call(&w);
    int turns = w.turns;
    UNTIL(&w, w.opened.count == 10);
    CHECK(w.turns - turns >= 4);
    for (int i = 0; i < 10; i++)
        do_op(&w, w.opened.ids[i], PMX_ABORT);
    turn(&w, 0);
    EQUAL(w.t.closed_count, 3);
    EQUAL(pmx_next_timeout(w.mux), 0);
    turns = w.turns;
    UNTIL(&w, w.closed_count == 10);
    CHECK(w.turns - turns >= 3);
    for (int i = 0; i < 10; i++)
        leave(peers[i]);
    world_is_clean(&w);
    world_end(&w);
}

static void names_stay_after_the_end(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    pmx_address names[2];
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    EQUAL(pmx_addresses(w.mux, id, names), 0);
    EQUAL(names[0].family, 4);
    EQUAL(names[1].port, w.port);
    uint32_t port = names[0].port;
    leave(peer);
    UNTIL(&w, closed(&w, id));
    const ending *e = closed(&w, id);
    EQUAL(e->peer.port, port);
    EQUAL(e->local.port, w.port);
    CHECK(!memcmp(e->peer.ip, "\177\0\0\1", 4));
    EQUAL(pmx_addresses(w.mux, id, names), 0);  /* until the next harvest */
    EQUAL(names[0].port, port);
    EQUAL(names[1].port, w.port);
    turn(&w, 0);
    EQUAL(pmx_addresses(w.mux, id, names), -ENOENT);
    world_is_clean(&w);
    world_end(&w);
}

const test_case close_tests[] = {
    EACH(a_close_with_unread_input_loses_nothing),
    EACH(a_close_ends_after_close_timeout),
    EACH(a_close_whose_peer_never_reads_times_out),
    EACH(a_peer_that_half_closes_gets_its_answers),
    EACH(the_last_of_the_queue_closes_the_connection),
    EACH(half_open_reports_the_end_once_and_goes_on),
    EACH(opened_and_closed_in_one_turn_are_both_told),
    EACH(more_ends_than_rows_are_told_over_several_turns),
    EACH(names_stay_after_the_end),
    {0},
};
