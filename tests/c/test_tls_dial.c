/* Outgoing connections over TLS: a handshake is a part of connecting. */
#include "toy_ssl.h"

#include <string.h>

/* A world with a plain listener in the place of a TLS server, and a connection
 * over TLS to it. */
typedef struct {
    world w;
    pmx_sock listener, peer;
    uint64_t id;
    toy_heard heard;
} dialled;

static void dial(dialled *d, const pmx_policy *policy, int portable)
{
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    pmx_policy p = *policy;
    memset(d, 0, sizeof *d);
    memset(&name, 0, sizeof name);
    p.tls = 9;
    toy_ways.portable = portable;
    world_begin(&d->w, 100, 10000);
    toy_secure(&d->w);
    d->listener = socket(AF_INET, SOCK_STREAM, 0);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(!bind(d->listener, (struct sockaddr *)&name, sizeof name));
    CHECK(!getsockname(d->listener, (struct sockaddr *)&name, &size));
    CHECK(!listen(d->listener, 4));
    pmx_endpoint at = {.host = "127.0.0.1", .port = ntohs(name.sin_port)};
    EQUAL(pmx_connect(d->w.mux, &at, 1, &p, &d->id), 0);
    d->peer = accept(d->listener, NULL, NULL);
    CHECK(d->peer != PMX__NO_SOCK);
    EQUAL(pmx__prepare(d->peer), 0);
}

static void hang_up(dialled *d)
{
    leave(d->peer);
    leave(d->listener);
    UNTIL(&d->w, closed(&d->w, d->id));
    EQUAL(closed(&d->w, d->id)->peer.family, 4);
    toy_forget(&d->heard);
    toy_end(&d->w);
}

/* Until the world has said its hello. */
static void hear_hello(dialled *d)
{
    UNTIL_DOING(&d->w, d->heard.wire.size >= SSL_HEAD,
                toy_hear(&d->heard, d->peer));
    EQUAL(d->heard.wire.bytes[0], 'c');
}

static void a_connection_opens_behind_its_handshake(void)
{
    for (int portable = 0; portable < 2; portable++) {
        dialled d;
        pmx_policy p = lines("\n", 100);
        pmx_address names[2];
        dial(&d, &p, portable);
        say_text(&d.w, d.id, "early");
        hear_hello(&d);
        EQUAL(d.w.opened.count, 0);
        EQUAL(d.heard.plain.size, 0);
        EQUAL(pmx_queued(d.w.mux, d.id), 6);
        EQUAL(pmx_addresses(d.w.mux, d.id, names), 0);
        EQUAL(names[0].family, 4);
        toy_put(d.peer, 's');
        toy_put_data(d.peer, "hello\n");
        UNTIL_DOING(&d.w, d.heard.plain.size == 6,
                    toy_hear(&d.heard, d.peer));
        CHECK(is_text_of(&d.heard.plain, "early\n"));
        UNTIL(&d.w, messages_of(&d.w, d.id) == 1);
        EQUAL(has(&d.w.opened, d.id), 1);
        EQUAL(pmx_counts(d.w.mux)->connected, 1);
        do_op(&d.w, d.id, PMX_CLOSE);
        UNTIL_DOING(&d.w, d.heard.end, toy_hear(&d.heard, d.peer));
        EQUAL(d.heard.byes, 1);
        hang_up(&d);
    }
}

static void a_handshake_that_fails_closes_it(void)
{
    for (int k = 0; k < 6; k++) {
        dialled d;
        pmx_policy p = raw();
        dial(&d, &p, k % 2);
        hear_hello(&d);
        if (k / 2 == 0)
            put_text(d.peer, "220 smtp.example ESMTP\r\n");
        else if (k / 2 == 1)
            end_writing(d.peer);
        else
            toy_put(d.peer, 'a');
        UNTIL_DOING(&d.w, closed(&d.w, d.id), toy_hear(&d.heard, d.peer));
        EQUAL(error_of(&d.w, d.id), EPROTO);
        EQUAL(closed(&d.w, d.id)->tls_error,
              k / 2 == 1 ? PMX_TLS_CUT : k % 2 ? 0 : TOY_CODE);
        EQUAL(d.w.opened.count + d.w.failed_count, 0);
        EQUAL(pmx_counts(d.w.mux)->connected, 0);
        EQUAL(pmx_counts(d.w.mux)->tls_failed, 1);
        hang_up(&d);
    }
}

/* One deadline covers TCP and TLS; handshake_ns the latter alone. */
static void connecting_has_its_time(void)
{
    for (int k = 0; k < 3; k++) {
        dialled d;
        pmx_policy p = raw();
        p.connect_ns = k == 0 ? 20 * MS : k == 1 ? 3600000 * MS : -1;
        p.handshake_ns = k == 0 ? 3600000 * MS : 20 * MS;
        dial(&d, &p, 0);
        UNTIL(&d.w, closed(&d.w, d.id));
        EQUAL(error_of(&d.w, d.id), ETIMEDOUT);
        EQUAL(d.w.opened.count, 0);
        hang_up(&d);
    }
}

/* A close before the handshake is done flushes what was sent, as one while TCP
 * connects does; without output there is nothing to wait for. */
static void a_close_meanwhile_loses_nothing(void)
{
    for (int sends = 0; sends < 2; sends++) {
        dialled d;
        pmx_policy p = raw();
        dial(&d, &p, 0);
        hear_hello(&d);
        if (sends)
            say_text(&d.w, d.id, "bye bye");
        do_op(&d.w, d.id, PMX_CLOSE);
        turn(&d.w, 0);
        EQUAL(!!closed(&d.w, d.id), !sends);
        if (sends) {
            toy_put(d.peer, 's');
            UNTIL_DOING(&d.w, d.heard.end, toy_hear(&d.heard, d.peer));
            CHECK(is_text_of(&d.heard.plain, "bye bye"));
            EQUAL(d.heard.byes, 1);
        }
        hang_up(&d);
    }
}

static void an_abort_meanwhile_ends_it(void)
{
    dialled d;
    pmx_policy p = raw();
    dial(&d, &p, 0);
    hear_hello(&d);
    say_text(&d.w, d.id, "never");
    do_op(&d.w, d.id, PMX_ABORT);
    UNTIL(&d.w, closed(&d.w, d.id));
    EQUAL(error_of(&d.w, d.id), 0);
    hang_up(&d);
}

/* Both sides in one mux, over each engine; much goes both ways at once. */
static void both_ends_are_of_one_mux(void)
{
    for (int k = 0; k < 4; k++) {
        world w;
        uint64_t id;
        buffer much = {0};
        pmx_policy p = prefix(4, 0, 3000000);
        toy_ways.portable = k % 2;
        toy_ways.flight = k / 2 ? 100000 : 0;
        toy_serve(&w, &p, 100, 10000);
        w.echo = 1;
        p.tls = 9;
        pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
        fill(&much, 2000000, 1);
        say(&w, id, much.bytes, much.size);
        /* each side sends back what comes */
        UNTIL(&w, messages_of(&w, id) == 2);
        do_op(&w, id, PMX_CLOSE);
        UNTIL(&w, w.closed_count == 2);
        EQUAL(w.closed[0].error, 0);
        EQUAL(w.closed[1].error, 0);
        for (size_t m = 0; m < w.message_count; m++)
            EQUAL(w.messages[m].size, much.size);
        CHECK(!memcmp(w.in.bytes + w.messages[1].at, much.bytes, much.size));
        EQUAL(pmx_counts(w.mux)->tls_handshakes, 2);
        release(&much);
        toy_end(&w);
    }
}

/* An object for a connection that has gone, or has one, is passed over. */
static void objects_for_nobody_are_passed_over(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    toy_serve(&w, &p, 100, 10000);
    uint64_t id = toy_meet(&w, &peer, 0);
    const uint64_t ids[] = {id, 0, id + (UINT64_C(2) << 32), UINT64_MAX};
    const uint64_t objects[] = {1, 1, 1, 1};
    EQUAL(pmx_tls_adopt(w.mux, ids, objects, 4), 0);
    toy_put_data(peer, "hello");
    UNTIL(&w, messages_of(&w, id) == 1);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    uint64_t none = 0;
    CHECK(pmx_tls_function(pmx_tls_optional()) && !pmx_tls_function(99));
    EQUAL(pmx_tls_use(&none, 1), -EINVAL);
    toy_end(&w);
}

/* Of an adopted socket the peer may be the client. Its hello lies in the system
 * when the mux takes over, and the tickets wait for the first answer. */
static void a_client_that_is_adopted_is_served(void)
{
    for (int k = 0; k < 4; k++) {
        world w;
        pmx_sock pair[2];
        uint64_t id;
        buffer wire = {0};
        toy_heard heard = {0};
        pmx_policy p = lines("\n", 100);
        p.tls = TOY_SERVES;
        toy_ways.portable = k % 2;
        toy_ways.flight = k / 2 ? 100000 : 0;
        toy_ways.tickets = 2;
        world_begin(&w, 100, 10000);
        toy_secure(&w);
        pair_of(pair);
        toy_greet(&wire);
        toy_data(&wire, "early\n", 6);
        put(pair[1], wire.bytes, wire.size);
        EQUAL(pmx_adopt(w.mux, (int64_t)pair[0], 0, &p, &id), 0);
        UNTIL_DOING(&w, messages_of(&w, id) == 1, toy_hear(&heard, pair[1]));
        EQUAL(has(&w.opened, id), 1);
        EQUAL(pmx_counts(w.mux)->connected, 1);
        EQUAL(pmx_counts(w.mux)->tls_handshakes, 1);
        toy_hear(&heard, pair[1]);
        EQUAL(heard.hellos, 1);
        if (!toy_ways.portable)
            EQUAL(heard.tickets, 0);
        say_text(&w, id, "answer");
        UNTIL_DOING(&w, heard.plain.size == 7, toy_hear(&heard, pair[1]));
        CHECK(is_text_of(&heard.plain, "answer\n"));
        EQUAL(heard.tickets, 2);
        leave(pair[1]);
        UNTIL(&w, closed(&w, id));
        EQUAL(closed(&w, id)->tls_error, PMX_TLS_CUT);
        release(&wire);
        toy_forget(&heard);
        toy_end(&w);
    }
}

/* One that does not get through is closed, as it is the caller's, and no row of
 * `failed`. */
static void a_client_that_is_adopted_and_fails_is_closed(void)
{
    for (int k = 0; k < 4; k++) {
        world w;
        pmx_sock pair[2];
        uint64_t id;
        pmx_policy p = raw();
        p.tls = TOY_SERVES;
        p.handshake_ns = k / 2 ? 20 * MS : -1;
        toy_ways.portable = k % 2;
        world_begin(&w, 100, 10000);
        toy_secure(&w);
        pair_of(pair);
        if (k / 2 == 0)
            put_text(pair[1], "GET / HTTP/1.1\r\n\r\n");
        EQUAL(pmx_adopt(w.mux, (int64_t)pair[0], 0, &p, &id), 0);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), k / 2 ? ETIMEDOUT : EPROTO);
        EQUAL(w.opened.count + w.failed_count, 0);
        EQUAL(pmx_counts(w.mux)->tls_failed, 1);
        leave(pair[1]);
        toy_end(&w);
    }
}

const test_case tls_dial_tests[] = {
    EACH(a_connection_opens_behind_its_handshake),
    EACH(a_handshake_that_fails_closes_it),
    EACH(connecting_has_its_time),
    EACH(a_close_meanwhile_loses_nothing),
    EACH(an_abort_meanwhile_ends_it),
    EACH(both_ends_are_of_one_mux),
    EACH(objects_for_nobody_are_passed_over),
    EACH(a_client_that_is_adopted_is_served),
    EACH(a_client_that_is_adopted_and_fails_is_closed),
    {0},
};
