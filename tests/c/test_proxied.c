/* Connections that a balancer passes on, with a header of the PROXY protocol. */
#include "headers.h"
#include "world.h"

#include <string.h>

static const pmx_network ours = {4, 8, {127}};

/* A world whose peers send headers, if they are in the network. */
static void serve_behind(world *w, const pmx_policy *policy,
                         const pmx_network *network)
{
    pmx_policy p = *policy;
    world_begin(w, 100, 10000);
    EQUAL(pmx_trust(w->mux, network, 1), 1);
    EQUAL(pmx_trust(w->mux, network, 1), 1);
    p.proxy = 1;
    p.proxy_ms = p.proxy_ms ? p.proxy_ms : 60000;
    world_listen(w, &p);
}

static void is_refused(world *w, pmx_sock peer, uint64_t refused)
{
    buffer got = {0};
    int said = 1;
    UNTIL_DOING(w, (said = get(peer, &got)) <= 0, (void)0);
    CHECK(is_reset(said));
    EQUAL(got.size, 0);
    EQUAL(pmx_counts(w->mux)->refused, refused);
    EQUAL(w->opened.count + w->closed_count + w->failed_count, 0);
    UNTIL(w, !pmx_counts(w->mux)->connections);
    leave(peer);
}

static void each_framing_lies_behind_a_header(void)
{
    static const char *const sent[] = {"hello\n", "hello\n", "\5hello", "hello",
                                       "\5hello"};
    pmx_policy policies[] = {raw(), lines("\n", 100), prefix(1, 0, 100),
                             fixed(5), varint(100)};
    for (size_t k = 0; k < 5; k++)
        for (size_t h = 0; h < 4; h++) {
            world w;
            buffer all = {0}, got = {0};
            pmx_address names[2];
            pmx_proxied told;
            serve_behind(&w, &policies[k], &ours);
            w.echo = 1;
            pmx_sock peer = call(&w);
            append(&all, good[h].bytes, good[h].size);
            append(&all, sent[k], strlen(sent[k]));
            put(peer, all.bytes, all.size);
            UNTIL_DOING(&w, is_text_of(&got, sent[k]), (void)get(peer, &got));
            EQUAL(w.opened.count, 1);
            uint64_t id = w.opened.ids[0];
            EQUAL(messages_of(&w, id), 1);
            EQUAL(pmx_addresses(w.mux, id, names), 0);
            EQUAL(names[0].port, 0x1234);
            EQUAL(names[1].port, 0x5678);
            EQUAL(names[0].family, h / 2 ? 6 : 4);
            EQUAL(pmx_proxy_of(w.mux, id, &told), 0);
            EQUAL(told.size, good[h | 1].size);
            CHECK(!memcmp(told.header, good[h | 1].bytes, told.size));
            EQUAL(told.transport.family, 4);
            EQUAL(told.transport.ip[0], 127);
            EQUAL(pmx_counts(w.mux)->bytes_in, strlen(sent[k]));
            leave(peer);
            UNTIL(&w, closed(&w, id));
            EQUAL(closed(&w, id)->peer.port, 0x1234);
            EQUAL(closed(&w, id)->local.port, 0x5678);
            EQUAL(pmx_counts(w.mux)->refused, 0);
            world_is_clean(&w);
            world_end(&w);
            release(&all);
            release(&got);
        }
}

/* It may be cut anywhere, and in three; a wait for the rest does not spin. */
static void a_header_comes_in_pieces(void)
{
    for (size_t h = 0; h < GOOD; h++)
        for (size_t cut = 1; cut < good[h].size + 2;
             cut += good[h].size > 60 ? 7 : 1) {
            world w;
            buffer all = {0};
            pmx_policy p = lines("\n", 100);
            serve_behind(&w, &p, &ours);
            pmx_sock peer = call(&w);
            append(&all, good[h].bytes, good[h].size);
            append(&all, "hi\n", 3);
            put(peer, all.bytes, cut);
            UNTIL(&w, pmx_counts(w.mux)->accepted == 1);
            turn(&w, 0);
            turn(&w, 0);
            EQUAL(w.opened.count, cut >= good[h].size);
            if (cut == good[h].size / 2) {
                count_waits(&w);
                turn(&w, 5 * MS);
                CHECK(wait_count < 4);
            }
            put(peer, all.bytes + cut, all.size - cut);
            UNTIL(&w, w.message_count == 1);
            CHECK(is_text(&w, &w.messages[0], "hi"));
            leave(peer);
            UNTIL(&w, w.closed_count == 1);
            EQUAL(w.closed[0].error, 0);
            world_is_clean(&w);
            world_end(&w);
            release(&all);
        }
}

static void a_peer_that_sends_no_header_is_reset(void)
{
    for (size_t k = 0; k < BAD; k++) {
        world w;
        pmx_address names[2];
        pmx_policy p = raw();
        serve_behind(&w, &p, &ours);
        EQUAL(pmx_refused_header(w.mux, names), -ENOENT);
        pmx_sock peer = call(&w);
        put(peer, bad[k].bytes, bad[k].size);
        is_refused(&w, peer, 1);
        EQUAL(pmx_counts(w.mux)->proxy_refused, 1);
        EQUAL(pmx_counts(w.mux)->proxy_error, EPROTO);
        EQUAL(pmx_refused_header(w.mux, names), 0);
        EQUAL(names[0].ip[0], 127);
        EQUAL(names[1].port, w.port);
        world_is_clean(&w);
        world_end(&w);
    }
}

/* Whoever is in another network may not say for whom it has come. */
static void a_peer_that_is_not_trusted_is_reset(void)
{
    static const pmx_network others[] = {
        {4, 8, {10}}, {4, 32, {127, 0, 0, 2}}, {6, 0, {0}}, {1, 0, {0}},
        {4, 9, {127, 128}},
    };
    for (size_t k = 0; k < 5; k++) {
        world w;
        pmx_policy p = raw();
        serve_behind(&w, &p, &others[k]);
        pmx_sock peer = call(&w);
        is_refused(&w, peer, 1);
        EQUAL(pmx_counts(w.mux)->proxy_error, EACCES);
        EQUAL(pmx_counts(w.mux)->accepted, 0);
        world_is_clean(&w);
        world_end(&w);
    }
}

static void a_network_is_the_first_bits_of_an_address(void)
{
    static const struct {
        pmx_network network;
        const char *host;
        int is_in;
    } table[] = {
        {{4, 32, {10, 1, 2, 3}}, "10.1.2.3", 1},
        {{4, 32, {10, 1, 2, 3}}, "10.1.2.2", 0},
        {{4, 31, {10, 1, 2, 2}}, "10.1.2.3", 1},
        {{4, 31, {10, 1, 2, 2}}, "10.1.2.4", 0},
        {{4, 9, {10, 128}}, "10.128.0.1", 1},
        {{4, 9, {10, 128}}, "10.127.0.1", 0},
        {{4, 0, {0}}, "192.0.2.1", 1},
        {{4, 0, {0}}, "::1", 0},
        {{4, 8, {10}}, "::ffff:10.1.2.3", 1},
        {{4, 8, {10}}, "::ffff:11.1.2.3", 0},
        {{6, 0, {0}}, "::1", 1},
        {{6, 0, {0}}, "::ffff:10.1.2.3", 0},
        {{6, 0, {0}}, "10.1.2.3", 0},
        {{6, 32, {0x20, 1, 0xd, 0xb8}}, "2001:db8::1", 1},
        {{6, 32, {0x20, 1, 0xd, 0xb8}}, "2001:db9::1", 0},
        {{6, 128, {[15] = 1}}, "::1", 1},
        {{6, 128, {[15] = 1}}, "::2", 0},
        {{1, 0, {0}}, "10.1.2.3", 0},
    };
    static const pmx_network wrong[] = {{4, 33, {0}}, {6, 129, {0}}, {1, 1, {0}},
                                        {2, 0, {0}}};
    world w;
    pmx_policy p = raw();
    uint64_t id;
    pmx_endpoint at = {.host = "127.0.0.1"};
    world_begin(&w, 100, 10000);
    for (size_t k = 0; k < sizeof table / sizeof *table; k++) {
        pmx__target peer;
        pmx_endpoint from = {.host = table[k].host, .port = 1};
        int number = pmx_trust(w.mux, &table[k].network, 1);
        CHECK(number > 0);
        EQUAL(pmx__resolve(&from, &peer), 0);
        EQUAL(pmx__trusts(w.mux, (uint32_t)number, &peer, 0), table[k].is_in);
        EQUAL(pmx__trusts(w.mux, (uint32_t)number, &peer, 1),
              table[k].network.family == 1);
    }
    for (size_t k = 0; k < 4; k++)
        EQUAL(pmx_trust(w.mux, &wrong[k], 1), -EINVAL);
    EQUAL(pmx_trust(w.mux, wrong, 0), -EINVAL);
    p.proxy = 1000;
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &id), -EINVAL);
    world_end(&w);
}

static void a_header_has_its_time(void)
{
    world w;
    buffer got = {0};
    pmx_policy p = raw();
    p.proxy_ms = 30000;
    serve_behind(&w, &p, &ours);
    pmx_sock peer = call(&w), other = call(&w);
    UNTIL(&w, pmx_counts(w.mux)->accepted == 2);
    put(other, TCP4, 28);
    UNTIL(&w, w.opened.count == 1);
    for (int k = 0; k < 5; k++) {       /* no byte of it sets the time back */
        put(peer, &TCP4[k], 1);
        pmx_shift_clock(5000u * (uint32_t)(k + 1));
        turn(&w, 0);
    }
    EQUAL(pmx_counts(w.mux)->refused, 0);
    pmx_shift_clock(31000);
    UNTIL(&w, pmx_counts(w.mux)->refused == 1);
    EQUAL(pmx_counts(w.mux)->proxy_error, ETIMEDOUT);
    CHECK(is_reset(get(peer, &got)));
    pmx_shift_clock(90000);             /* that time is for headers alone */
    turn(&w, 0);
    EQUAL(w.closed_count, 0);
    pmx_shift_clock(0);
    leave(peer);
    leave(other);
    UNTIL(&w, w.closed_count == 1);
    world_is_clean(&w);
    world_end(&w);
}

/* Who only looks whether there is a server is not worth a word. */
static void a_peer_that_leaves_without_a_byte_is_not_told(void)
{
    world w;
    pmx_policy p = raw();
    serve_behind(&w, &p, &ours);
    pmx_sock peer = call(&w), other = call(&w);
    UNTIL(&w, pmx_counts(w.mux)->accepted == 2);
    leave(peer);
    reset_peer(other);
    UNTIL(&w, pmx_counts(w.mux)->refused == 2);
    EQUAL(pmx_counts(w.mux)->proxy_refused, 0);
    EQUAL(w.opened.count + w.closed_count + w.failed_count, 0);
    peer = call(&w);                    /* but a part of a header is */
    put(peer, TCP4, 20);
    end_writing(peer);
    UNTIL(&w, pmx_counts(w.mux)->proxy_refused == 1);
    EQUAL(pmx_counts(w.mux)->proxy_error, EPROTO);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void who_awaits_a_header_counts_for_max_connections(void)
{
    world w;
    pmx_policy p = raw();
    p.max_connections = 1;
    serve_behind(&w, &p, &ours);
    pmx_sock peer = call(&w), other = call(&w);
    UNTIL(&w, pmx_counts(w.mux)->accept_pauses == 1);
    EQUAL(pmx_counts(w.mux)->accepted, 1);
    EQUAL(pmx_counts(w.mux)->connections, 1);
    put(other, TCP4, 28);
    turn(&w, 0);
    EQUAL(w.opened.count, 0);
    leave(peer);
    UNTIL(&w, w.opened.count == 1);
    leave(other);
    UNTIL(&w, w.closed_count == 1);
    world_is_clean(&w);
    world_end(&w);
}

/* All come from one balancer: each client that it names has its number. */
static void a_client_has_so_many_connections_and_not_its_balancer(void)
{
    world w;
    pmx_sock peers[3];
    pmx_address name;
    buffer got = {0};
    pmx_policy p = raw();
    p.max_per_peer = 1;
    serve_behind(&w, &p, &ours);
    for (int k = 0; k < 3; k++)
        peers[k] = call(&w);
    put(peers[0], good[0].bytes, good[0].size);
    put(peers[1], good[2].bytes, good[2].size);
    UNTIL(&w, w.opened.count == 2);
    put(peers[2], TCP4, 28);
    UNTIL(&w, pmx_counts(w.mux)->refused_per_peer == 1);
    EQUAL(pmx_counts(w.mux)->refused, 0);
    EQUAL(pmx_counts(w.mux)->refuser, w.listener);
    EQUAL(pmx_refused_peer(w.mux, &name), 0);
    EQUAL(name.port, 0x1234);
    UNTIL_DOING(&w, is_reset(get(peers[2], &got)), (void)0);
    leave(peers[2]);
    leave(peers[0]);
    UNTIL(&w, w.closed_count == 1);
    peers[0] = call(&w);
    put(peers[0], TCP4, 28);
    UNTIL(&w, w.opened.count == 3);
    leave(peers[0]);
    leave(peers[1]);
    UNTIL(&w, w.closed_count == 3);
    CHECK(!w.mux->peers);
    world_is_clean(&w);
    world_end(&w);
}

/* What came before the stop is answered, behind its header; who has not sent one
 * by then is refused. */
static void a_stop_takes_the_headers_that_have_come(void)
{
    world w;
    buffer all = {0}, got = {0};
    pmx_policy p = lines("\n", 100);
    serve_behind(&w, &p, &ours);
    w.echo = 1;
    pmx_sock silent = call(&w), late = call(&w);
    UNTIL(&w, pmx_counts(w.mux)->accepted == 2);
    put(late, TCP4, 10);
    append(&all, TCP4, 28);
    append(&all, "hi\n", 3);
    pmx_sock peer = call(&w);           /* in the backlog */
    put(peer, all.bytes, all.size);
    EQUAL(pmx_drain(w.mux), 0);
    UNTIL_DOING(&w, !get(peer, &got), (void)0);
    CHECK(is_text_of(&got, "hi\n"));
    end_writing(peer);
    UNTIL(&w, w.closed_count == 1 && !pmx_counts(w.mux)->connections);
    EQUAL(w.opened.count, 1);
    EQUAL(w.closed[0].error, 0);
    EQUAL(pmx_counts(w.mux)->refused, 2);
    EQUAL(pmx_counts(w.mux)->proxy_refused, 0);
    leave(peer);
    leave(silent);
    leave(late);
    world_is_clean(&w);
    world_end(&w);
    release(&all);
    release(&got);
}

static void who_awaits_a_header_is_closed_with_the_mux(void)
{
    for (int k = 0; k < 2; k++) {
        world w;
        pmx_policy p = raw();
        serve_behind(&w, &p, &ours);
        pmx_sock peer = call(&w);
        put(peer, TCP4, 20);
        UNTIL(&w, pmx_counts(w.mux)->accepted == 1);
        if (k) {
            EQUAL(pmx_reset_all(w.mux, ECONNABORTED), 0);
            UNTIL(&w, !pmx_counts(w.mux)->connections);
            EQUAL(w.closed_count, 0);
            world_is_clean(&w);
        }
        world_end(&w);
        leave(peer);
    }
}

#ifndef _WIN32
/* Whatever fails while a header comes: the connection is served behind it, or
 * refused or reset, and nothing is left of it. */
static void a_failure_while_a_header_comes_leaves_nothing(void)
{
    static const injected_fault faults[] = {
        {CALL_malloc, ENOMEM, NULL}, {CALL_realloc, ENOMEM, NULL},
        {CALL_recv, EINTR, NULL}, {CALL_recv, SHORT, NULL},
        {CALL_recv, EAGAIN, NULL}, {CALL_recv, ECONNRESET, NULL},
        {CALL_getsockname, ENOBUFS, NULL},
    };
    for (size_t h = 0; h < GOOD; h++)
        for (size_t k = 0; k < sizeof faults / sizeof *faults; k++)
            for (long nth = 1; nth < 10; nth++) {
                world w;
                buffer all = {0};
                pmx_policy p = lines("\n", 100);
                serve_behind(&w, &p, &ours);
                pmx_sock peer = call(&w);
                append(&all, good[h].bytes, good[h].size);
                append(&all, "hi\n", 3);
                put(peer, all.bytes, all.size);
                inject_nth(&faults[k], nth, 1);
                for (int n = 0; n < 6; n++)
                    turn(&w, 0);
                inject_nothing();
                CHECK(w.opened.count + pmx_counts(w.mux)->refused <= 2);
                if (w.message_count)
                    CHECK(is_text(&w, &w.messages[0], "hi"));
                leave(peer);
                UNTIL(&w, !pmx_counts(w.mux)->connections);
                EQUAL(w.closed_count, w.opened.count);
                world_is_clean(&w);
                world_end(&w);
                release(&all);
            }
}
#endif

/* A balancer that speaks for itself is the peer, and leaves no header. */
static void a_balancer_may_speak_for_itself(void)
{
    for (size_t h = 4; h < 14; h++) {
        world w;
        pmx_address names[2];
        pmx_proxied told;
        pmx_policy p = raw();
        int is_local = h == 9 || h == 10;
        if (h > 5 && h < 9)
            continue;           /* these name somebody */
        p.max_per_peer = 3;
        serve_behind(&w, &p, &ours);
        pmx_sock peer = call(&w);
        put(peer, good[h].bytes, good[h].size);
        UNTIL(&w, w.opened.count == 1);
        uint64_t id = w.opened.ids[0];
        EQUAL(pmx_addresses(w.mux, id, names), 0);
        EQUAL(names[0].ip[0], 127);
        EQUAL(names[1].port, w.port);
        EQUAL(pmx_proxy_of(w.mux, id, &told), is_local ? -ENOENT : 0);
        if (!is_local)
            EQUAL(told.transport.port, names[0].port);
        leave(peer);
        UNTIL(&w, w.closed_count == 1);
        EQUAL(w.closed[0].peer.port, names[0].port);
        CHECK(!w.mux->peers);
        world_is_clean(&w);
        world_end(&w);
    }
}

const test_case proxied_tests[] = {
    ONCE(a_network_is_the_first_bits_of_an_address),
    ONCE(each_framing_lies_behind_a_header),
    EACH(a_header_comes_in_pieces),
    EACH(a_peer_that_sends_no_header_is_reset),
    EACH(a_peer_that_is_not_trusted_is_reset),
    EACH(a_header_has_its_time),
    EACH(a_peer_that_leaves_without_a_byte_is_not_told),
    EACH(who_awaits_a_header_counts_for_max_connections),
    EACH(a_client_has_so_many_connections_and_not_its_balancer),
    EACH(a_stop_takes_the_headers_that_have_come),
    EACH(who_awaits_a_header_is_closed_with_the_mux),
    EACH(a_balancer_may_speak_for_itself),
    UNIX_ONCE(a_failure_while_a_header_comes_leaves_nothing, "no faults there"),
    {0},
};
