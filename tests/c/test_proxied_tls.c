/* Headers of the PROXY protocol before TLS, and those that go out. */
#include "headers.h"
#include "toy_ssl.h"

#include <string.h>

static const pmx_network ours = {4, 8, {127}};

/* --- TLS -------------------------------------------------------------------- */

static void tls_begins_behind_a_header(void)
{
    for (size_t cut = 1; cut < 40; cut++) {
        world w;
        toy_heard h = {0};
        buffer wire = {0};
        pmx_address names[2];
        pmx_proxied told;
        pmx_policy p = lines("\n", 100);
        p.tls = 7;
        p.max_handshakes = 1;
        toy_ways.portable = cut % 2;
        world_begin(&w, 100, 10000);
        toy_secure(&w);
        EQUAL(pmx_trust(w.mux, &ours, 1), 1);
        p.proxy = 1;
        p.proxy_ms = 60000;
        world_listen(&w, &p);
        w.echo = 1;
        pmx_sock peer = call(&w);
        append(&wire, TCP4, 28);
        toy_greet(&wire);
        toy_data(&wire, "hello\n", 6);
        put(peer, wire.bytes, cut);
        UNTIL(&w, pmx_counts(w.mux)->accepted == 1);
        turn(&w, 0);
        EQUAL(pmx_counts(w.mux)->connections, 1);
        put(peer, wire.bytes + cut, wire.size - cut);
        UNTIL_DOING(&w, h.plain.size == 6, toy_hear(&h, peer));
        uint64_t id = w.opened.ids[0];
        EQUAL(pmx_addresses(w.mux, id, names), 0);
        EQUAL(names[0].port, 0x1234);
        EQUAL(names[1].port, 0x5678);
        EQUAL(pmx_proxy_of(w.mux, id, &told), 0);
        EQUAL(told.size, 28);
        leave(peer);
        UNTIL(&w, closed(&w, id));
        EQUAL(closed(&w, id)->peer.port, 0x1234);
        release(&wire);
        toy_forget(&h);
        toy_end(&w);
    }
}

/* Of the connections that have begun, so many are not open yet: those that await
 * their header are among them, and each leaves its place. */
static void a_header_is_a_part_of_the_handshake(void)
{
    world w;
    pmx_policy p = raw();
    p.tls = 7;
    p.max_handshakes = 1;
    toy_ways.portable = 0;
    world_begin(&w, 100, 10000);
    toy_secure(&w);
    EQUAL(pmx_trust(w.mux, &ours, 1), 1);
    p.proxy = 1;
    p.proxy_ms = 60000;
    world_listen(&w, &p);
    for (int k = 0; k < 3; k++) {
        pmx_sock peer = call(&w);
        UNTIL(&w, pmx_counts(w.mux)->accepted == (uint64_t)k + 1);
        if (k == 0)
            put_text(peer, "\x16\3\1");
        if (k == 1)
            put(peer, TCP4 "?????", 33);
        if (k == 2) {
            put(peer, TCP4, 28);
            UNTIL(&w, w.mux->slots && pmx__shakes(pmx__slot(w.mux, 0)));
        }
        leave(peer);
        UNTIL(&w, !pmx_counts(w.mux)->connections);
        EQUAL(w.opened.count + w.closed_count, 0);
    }
    EQUAL(pmx_counts(w.mux)->refused, 1);
    EQUAL(pmx_counts(w.mux)->tls_failed, 2);
    toy_end(&w);
}

/* --- outgoing ------------------------------------------------------------------ */

/* The header is the first that the peer gets, though nothing is sent. */
static void a_header_goes_out_first(void)
{
    for (int k = 0; k < 6; k++) {
        world w;
        uint64_t id;
        buffer got = {0};
        pmx_policy p = lines("\n", 100);
        pmx_sock listener, peer;
        struct sockaddr_in name;
        socklen_t size = sizeof name;
        toy_ways.portable = k % 2;
        p.tls = k >= 4 ? 7 : 0;
        world_begin(&w, 100, 10000);
        if (p.tls)
            toy_secure(&w);
        listener = socket(AF_INET, SOCK_STREAM, 0);
        memset(&name, 0, sizeof name);
        name.sin_family = AF_INET;
        name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        CHECK(!bind(listener, (struct sockaddr *)&name, sizeof name));
        CHECK(!getsockname(listener, (struct sockaddr *)&name, &size));
        CHECK(!listen(listener, 4));
        pmx_endpoint at = {.host = "127.0.0.1", .port = ntohs(name.sin_port),
                           .header = (const uint8_t *)TCP4, .header_size = 28};
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
        if (k & 1)
            say_text(&w, id, "early");
        if (k == 2 || k == 3)
            do_op(&w, id, PMX_SEND_EOF);
        peer = accept(listener, NULL, NULL);
        CHECK(peer != PMX__NO_SOCK);
        EQUAL(pmx__prepare(peer), 0);
        size_t whole = p.tls ? 28 + SSL_HEAD : k & 1 ? 34 : 28;
        UNTIL_DOING(&w, got.size >= whole, (void)get(peer, &got));
        EQUAL(got.size, whole);
        CHECK(!memcmp(got.bytes, TCP4, 28));
        if (p.tls)
            EQUAL(got.bytes[28], 'c');
        else if (k & 1)
            CHECK(!memcmp(got.bytes + 28, "early\n", 6));
        EQUAL(pmx_counts(w.mux)->bytes_out, whole - 28 - (p.tls ? SSL_HEAD : 0));
        leave(peer);
        leave(listener);
        UNTIL(&w, closed(&w, id));
        release(&got);
        toy_end(&w);
    }
}

const test_case proxied_tls_tests[] = {
    EACH(tls_begins_behind_a_header),
    EACH(a_header_is_a_part_of_the_handshake),
    EACH(a_header_goes_out_first),
    {0},
};
