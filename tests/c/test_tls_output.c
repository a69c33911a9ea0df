/* What goes out over TLS: who gets it, when, and what happens when a socket or
 * an engine refuses. */
#include "injected.h"
#include "sim.h"
#include "toy_ssl.h"

#include <string.h>

static void refused_output_is_the_head_of_the_queue(void)
{
    for (int portable = 0; portable < 2; portable++) {
        world w;
        pmx_sock peer;
        toy_heard h = {0};
        buffer much = {0};
        pmx_policy p = raw();
        toy_ways.portable = portable;
        toy_serve(&w, &p, 100, 10000);
        uint64_t id = toy_meet(&w, &peer, 1);
        long before = toy_written;
        fill(&much, 6000000, 1);
        for (size_t at = 0; at < much.size; at += 1000000)
            say(&w, id, much.bytes + at, 1000000);
        do_op(&w, id, PMX_CLOSE);
        UNTIL(&w, !(pmx__find(w.mux, id)->flags & PMX__CAN_WRITE));
        const pmx__queue *queue = pmx__find(w.mux, id)->queue;
        CHECK(queue->head->raw && !queue->tail->raw);
        CHECK(queue->size < much.size + 100000);
        UNTIL_DOING(&w, h.end, toy_hear(&h, peer));
        CHECK(h.byes == 1 && same(&h.plain, &much));
        EQUAL(toy_written - before, much.size);         /* each byte once */
        EQUAL(pmx_counts(w.mux)->bytes_out, much.size);
        leave(peer);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), 0);
        release(&much);
        toy_forget(&h);
        toy_end(&w);
    }
}

#ifndef _WIN32
static void refuse_to_send(enum injected_call call)
{
    static const injected_fault refused = {CALL_send, EAGAIN, "EAGAIN of send"};
    if (call == CALL_send)
        inject_nth(&refused, 1, 0);
}

/* Output at high water is over it once it is encrypted and the socket refuses it.
 * What waits until there is less is told of both. */
static void output_that_encryption_takes_over_high_water_is_told_to_drain(void)
{
    for (int portable = 0; portable < 2; portable++) {
        world w;
        pmx_sock peer;
        toy_heard h = {0};
        buffer all = {0};
        pmx_policy p = raw();
        p.high_water = 2 * SSL_RECORD;
        p.low_water = SSL_RECORD;
        toy_ways.portable = portable;
        toy_serve(&w, &p, 100, 10000);
        uint64_t id = toy_meet(&w, &peer, 0);
        fill(&all, p.high_water, 1);
        injected_before = refuse_to_send;
        say(&w, id, all.bytes, all.size);
        (void)turn_of(&w, 0, 1, 0);
        inject_nothing();
        CHECK(pmx_queued(w.mux, id) > p.high_water);
        UNTIL_DOING(&w, has(&w.drained, id), toy_hear(&h, peer));
        EQUAL(has(&w.blocked, id), 1);
        UNTIL_DOING(&w, h.plain.size == all.size, toy_hear(&h, peer));
        CHECK(same(&h.plain, &all));
        leave(peer);
        UNTIL(&w, closed(&w, id));
        release(&all);
        toy_forget(&h);
        toy_end(&w);
    }
}

/* The peer would take what follows for what is lost. What it has said arrives. */
static void nothing_goes_out_behind_output_that_is_lost(void)
{
    static const injected_fault lost = {CALL_send, ENOMEM, "ENOMEM of send"};
    for (int portable = 0; portable < 2; portable++) {
        world w;
        pmx_sock peer;
        toy_heard h = {0};
        pmx_policy p = raw();
        toy_ways.portable = portable;
        toy_serve(&w, &p, 100, 10000);
        uint64_t id = toy_meet(&w, &peer, 0);
        inject_nth(&lost, 1, 0);
        say_text(&w, id, "lost");
        (void)turn_of(&w, 0, 1, 0);
        inject_nothing();
        CHECK(pmx__find(w.mux, id)->flags & PMX__SEND_FAILED);
        toy_put(peer, 'k');                     /* asks for an answer of TLS */
        toy_put_data(peer, "still heard");
        UNTIL(&w, w.message_count);
        CHECK(is_text(&w, &w.messages[0], "still heard"));
        end_writing(peer);
        UNTIL_DOING(&w, closed(&w, id), toy_hear(&h, peer));
        EQUAL(error_of(&w, id), ENOMEM);
        UNTIL_DOING(&w, h.end || h.error, toy_hear(&h, peer));
        EQUAL(h.updates + h.byes, 0);
        EQUAL(h.plain.size, 0);
        leave(peer);
        toy_forget(&h);
        toy_end(&w);
    }
}
#endif

/* A flight that the socket refuses holds the handshake up, and nothing else. */
static void a_large_flight_goes_out_in_its_time(void)
{
    for (int portable = 0; portable < 2; portable++) {
        world w;
        toy_heard h = {0};
        buffer wire = {0};
        pmx_policy p = raw();
        toy_ways.portable = portable;
        toy_ways.flight = 12000000;
        toy_serve(&w, &p, 100, 10000);
        w.echo = 1;
        pmx_sock peer = call_small(&w);
        toy_record(&wire, 'f', NULL, 0);
        toy_data(&wire, "hello", 5);
        toy_put(peer, 'c');
        UNTIL(&w, pmx_counts(w.mux)->queued > 100000);
        put(peer, wire.bytes, wire.size);
        EQUAL(w.opened.count, 0);
        count_waits(&w);
        turn(&w, 20 * MS);
        CHECK(wait_count < 4);
        UNTIL_DOING(&w, h.plain.size, toy_hear(&h, peer));
        CHECK(is_text_of(&h.plain, "hello"));
        leave(peer);
        UNTIL(&w, w.closed_count);
        release(&wire);
        toy_forget(&h);
        toy_end(&w);
    }
}

/* A peer may ask for answers of TLS itself, and not take them. */
static void a_flood_of_updates_pauses_its_reading(void)
{
    world w;
    pmx_sock peer;
    buffer wire = {0};
    pmx_policy p = raw();
    p.high_water = 2000;
    p.low_water = 1000;
    toy_serve(&w, &p, 100, 10000);
    uint64_t id = toy_meet(&w, &peer, 1);
    for (int k = 0; k < 10000; k++)
        toy_record(&wire, 'k', NULL, 0);
    toy_heard h = {0};
    for (int64_t until = deadline(); !has(&w.blocked, id);) {
        size_t at = 0;
        put_some(peer, &wire, &at);
        turn(&w, 0);
        CHECK(pmx_queued(w.mux, id) < PMX__WIRE + 4000);
        CHECK(pmx__now() < until);
    }
    UNTIL_DOING(&w, has(&w.drained, id), toy_hear(&h, peer));
    CHECK(h.updates > 100);
    EQUAL(w.message_count, 0);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&wire);
    toy_forget(&h);
    toy_end(&w);
}

/* Records without a byte for the framing cost a portion of a turn, as others
 * do; who sends them holds nobody up. */
static void empty_records_hold_nobody_up(void)
{
    world w;
    pmx_sock flooder, peer;
    toy_heard h = {0};
    buffer wire = {0};
    pmx_policy p = lines("\n", 100);
    toy_serve(&w, &p, 100, 262144);
    w.echo = 1;
    uint64_t bad = toy_meet(&w, &flooder, 0);
    uint64_t id = toy_meet(&w, &peer, 0);
    for (int k = 0; k < 100000; k++)
        toy_record(&wire, 'd', NULL, 0);
    set_room(flooder, SO_SNDBUF, 1 << 20);
    for (int k = 0; k < 20; k++) {
        size_t at = 0;
        put_some(flooder, &wire, &at);
        toy_put_data(peer, "hello\n");
        size_t before = messages_of(&w, id);
        int turns = w.turns;
        UNTIL(&w, messages_of(&w, id) > before);
        CHECK(w.turns - turns < 20);
    }
    EQUAL(messages_of(&w, bad), 0);
    CHECK(!closed(&w, bad));
    leave(flooder);
    leave(peer);
    UNTIL(&w, w.closed_count == 2);
    release(&wire);
    toy_forget(&h);
    toy_end(&w);
}

#ifdef __linux__
/* A receive that is not filled has taken all there was, but not where a portion
 * is over without a byte: an end behind it may have no event of its own. */
static void a_portion_of_empty_records_leaves_the_socket_undecided(void)
{
    static const injected_fault cut_short = {CALL_recv, SHORT, ""};
    union {
        struct sockaddr is;
        struct sockaddr_in in;
    } at = {.in = {.sin_family = AF_INET}};
    world w;
    buffer wire = {0};
    uint8_t plain[PMX__WIRE];
    pmx__got got;
    pmx_policy p = raw();
    test_backend = "epoll";
    sim_begin();
    sim_now.room_in = sim_now.room_out = 1 << 20;
    inject_nothing();
    toy_serve(&w, &p, 100, 262144);
    at.in.sin_port = htons((uint16_t)w.port);
    toy_greet(&wire);
    sim_as_peer = 1;
    int peer = sim_socket(AF_INET, SOCK_STREAM, 0);
    (void)sim_connect(peer, &at.is, sizeof at.in);
    sim_as_peer = 0;
    EQUAL(sim_send(peer, wire.bytes, wire.size, 0), wire.size);
    for (int k = 0; k < 9; k++)
        turn(&w, 0);
    EQUAL(w.opened.count, 1);
    for (wire.size = 0; wire.size < PMX__WIRE + 3000;)
        toy_record(&wire, 'd', NULL, 0);
    EQUAL(sim_send(peer, wire.bytes, wire.size, 0), wire.size);
    pmx__conn *c = pmx__find(w.mux, w.opened.ids[0]);
    const pmx__transport *is = c->rules->transport;
    inject_nth(&cut_short, 1, 69000);   /* then 3,000, which fill no receive */
    EQUAL(is->recv(w.mux, c, plain, sizeof plain, &got), -EAGAIN);
    inject_nothing();
    EQUAL(got.wire, wire.size);
    EQUAL(got.dry, 0);
    EQUAL(is->recv(w.mux, c, plain, sizeof plain, &got), -EAGAIN);
    EQUAL(got.dry, 1);
    sim_close(peer);
    UNTIL(&w, w.closed_count == 1);
    toy_end(&w);
    release(&wire);
    EQUAL(sim_open(), 0);
    sim_end();
    test_backend = NULL;
}
#endif

static void tickets_are_sent_before_the_first_answer(void)
{
    world w;
    pmx_sock peer;
    toy_heard h = {0};
    pmx_policy p = raw();
    toy_ways.tickets = 2;
    toy_ways.reused = 1;
    toy_serve(&w, &p, 100, 10000);
    uint64_t id = toy_meet(&w, &peer, 0);
    toy_put_data(peer, "hello");
    UNTIL(&w, messages_of(&w, id) == 1);
    for (int k = 0; k < 3; k++) {
        turn(&w, MS);
        toy_hear(&h, peer);
    }
    EQUAL(h.tickets, 0);                /* who only sends gets none */
    say_text(&w, id, "first");
    say_text(&w, id, "second");
    UNTIL_DOING(&w, h.plain.size == 11, toy_hear(&h, peer));
    EQUAL(h.tickets, 2);
    EQUAL(h.tickets_before_data, 2);
    EQUAL(pmx_counts(w.mux)->tls_resumed, 1);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    toy_forget(&h);
    toy_end(&w);
}

/* Many shake hands while one is served: a turn has a bounded part of that. */
static void handshakes_do_not_starve_the_established(void)
{
    enum { COUNT = 60 };
    world w;
    pmx_sock peer, others[COUNT];
    buffer wire = {0};
    pmx_policy p = lines("\n", 100);
    toy_serve(&w, &p, 1000, 262144);
    uint64_t id = toy_meet(&w, &peer, 0);
    for (int k = 0; k < COUNT; k++)
        others[k] = call(&w);
    UNTIL(&w, pmx_counts(w.mux)->accepted == COUNT + 1);
    turn(&w, 0);
    toy_greet(&wire);
    for (int k = 0; k < COUNT; k++)
        put(others[k], wire.bytes, wire.size);
    for (int k = 0; k < 400; k++)
        toy_put_data(peer, "a\nb\nc\n");
    for (int64_t until = deadline(); w.opened.count < COUNT + 1;) {
        size_t opened = w.opened.count, got = messages_of(&w, id);
        turn_of(&w, MS, 1, 0);
        CHECK(w.opened.count - opened <= PMX__SHAKES ||
              messages_of(&w, id) == got);
        CHECK(pmx__now() < until);
    }
    UNTIL(&w, messages_of(&w, id) == 1200);
    for (int k = 0; k < COUNT; k++)
        leave(others[k]);
    leave(peer);
    UNTIL(&w, w.closed_count == COUNT + 1);
    release(&wire);
    toy_end(&w);
}

/* What is told of handshakes is no row: a batch whose messages gather goes on. */
static void a_handshake_leaves_a_batch_to_gather(void)
{
    world w;
    pmx_sock peer, quiet, other;
    pmx_policy p = raw();
    toy_serve(&w, &p, 100, 10000);
    uint64_t id = toy_meet(&w, &peer, 0);
    (void)toy_meet(&w, &quiet, 0);      /* its message is waited for */
    toy_put_data(peer, "hello");
    other = call(&w);
    int reason = turn_of(&w, 20000 * MS, 100, 10000 * MS);
    EQUAL(reason, PMX_GATHERING | PMX_HANDSHAKES);
    EQUAL(messages_of(&w, id), 0);
    toy_put_data(quiet, "too");
    EQUAL(turn_of(&w, 20000 * MS, 100, 10000 * MS) & PMX_ROWS, PMX_ROWS);
    EQUAL(messages_of(&w, id), 1);
    leave(peer);
    leave(quiet);
    leave(other);
    UNTIL(&w, w.closed_count == 2 && w.failed_count == 1);
    toy_end(&w);
}

#ifndef _WIN32
/* Nobody gets another's bytes, whatever fails: engines, sockets, memory, while
 * the arena is tiny. Each peer has a letter of its own. */
static void no_peer_gets_the_bytes_of_another(void)
{
    enum { COUNT = 20 };
    for (uint32_t seed = 1; seed <= 60; seed++) {
        world w;
        pmx_sock peers[COUNT];
        toy_heard heard[COUNT] = {0};
        uint64_t ids[COUNT];
        pmx_policy p = raw();
        char text[3000];
        toy_ways.portable = seed % 2;
        toy_ways.tickets = (int)(seed % 3);
        toy_serve(&w, &p, seed % 3 ? 100 : 2, seed % 5 ? 10000 : 16);
        w.echo = 1;
        for (int k = 0; k < COUNT; k++)
            ids[k] = toy_meet(&w, &peers[k], k % 3 == 0);
        inject_at_random(seed, 30);
        toy_ways.fail_at = toy_steps + 5 + (long)(seed % 50);
        for (int n = 0; n < 30; n++) {
            inject_pause(1);
            for (int k = 0; k < COUNT; k++) {
                buffer wire = {0};
                memset(text, 'a' + k, sizeof text);
                if ((n + k) % 7 == 3)
                    toy_record(&wire, 'k', NULL, 0);
                toy_data(&wire, text, (size_t)(1 + (n * 37 + k * 101) % 2999));
                if (n == 20 && k % 5 == 1)
                    toy_record(&wire, k % 2 ? 'b' : '?', NULL, 0);
                (void)offer(peers[k], wire.bytes, wire.size);
                release(&wire);
                toy_hear(&heard[k], peers[k]);
            }
            inject_pause(0);
            (void)turn_of(&w, 0, 1, 0);
        }
        inject_nothing();
        for (int k = 0; k < COUNT; k++) {
            toy_hear(&heard[k], peers[k]);
            for (size_t i = 0; i < heard[k].plain.size; i++)
                EQUAL(heard[k].plain.bytes[i], 'a' + k);
            leave(peers[k]);
            toy_forget(&heard[k]);
        }
        UNTIL(&w, w.closed_count + w.failed_count == COUNT);
        for (int k = 0; k < COUNT; k++)
            CHECK(closed(&w, ids[k]));
        toy_end(&w);
    }
}

/* Each step of an engine fails once, and so does each allocation: the connection
 * ends with an error, or all is whole. */
static void each_step_may_fail(void)
{
    for (int k = 0; k < 4; k++) {
        int memory = k / 2, ends = 0;
        for (long nth = 1; !ends; nth++) {
            world w;
            pmx_sock peer;
            toy_heard h = {0};
            buffer wire = {0}, much = {0};
            pmx_policy p = raw();
            toy_ways.portable = k % 2;
            toy_ways.tickets = 1;
            toy_serve(&w, &p, 100, 10000);
            w.echo = 1;
            peer = call(&w);
            fill(&much, 30000, 1);
            toy_greet(&wire);
            toy_data(&wire, much.bytes, much.size);
            toy_record(&wire, 'b', NULL, 0);
            put(peer, wire.bytes, wire.size);
            long failed_at = memory ? test_allocations + nth : toy_steps + nth;
            test_fail_at = memory ? nth : 0;
            toy_ways.fail_at = memory ? 0 : failed_at;
            for (int64_t until = deadline();
                 !w.closed_count && !w.failed_count && pmx__now() < until;) {
                (void)turn_of(&w, MS, 1, 0);
                toy_hear(&h, peer);
                if (pmx_counts(w.mux)->refused)
                    break;              /* there was no memory to accept it */
            }
            ends = memory ? test_fail_at != 0 : toy_steps < failed_at;
            test_fail_at = 0;
            int error = w.closed_count ? w.closed[0].error
                      : w.failed_count ? w.failed[0].error : ENOMEM;
            if (error)
                EQUAL(error, memory ? ENOMEM : EPROTO);
            else
                CHECK(same(&h.plain, &much) && h.byes == 1);
            CHECK(!ends || !error);
            leave(peer);
            release(&wire);
            release(&much);
            toy_forget(&h);
            UNTIL(&w, !pmx_counts(w.mux)->connections);
            toy_end(&w);
        }
    }
}
#endif

const test_case tls_output_tests[] = {
    EACH(refused_output_is_the_head_of_the_queue),
    EACH(a_large_flight_goes_out_in_its_time),
    EACH(a_flood_of_updates_pauses_its_reading),
    EACH(empty_records_hold_nobody_up),
#ifdef __linux__
    ONCE(a_portion_of_empty_records_leaves_the_socket_undecided),
#endif
    EACH(tickets_are_sent_before_the_first_answer),
    EACH(handshakes_do_not_starve_the_established),
    EACH(a_handshake_leaves_a_batch_to_gather),
#ifndef _WIN32
    EACH(output_that_encryption_takes_over_high_water_is_told_to_drain),
    EACH(nothing_goes_out_behind_output_that_is_lost),
    EACH(no_peer_gets_the_bytes_of_another),
    EACH(each_step_may_fail),
#endif
    {0},
};
