/* TLS beneath the framing, by a toy of OpenSSL and over both engines: see
 * toy_ssl.h. */
#include "toy_ssl.h"

#include <string.h>

static void streams_are_cut_anywhere(void)
{
    static const char text[] = "hello\nyou\n\nthere\n";
    for (size_t cut = 1; cut < 33; cut++) {
        world w;
        toy_heard h = {0};
        buffer wire = {0};
        pmx_policy p = lines("\n", 100);
        toy_ways.portable = cut % 5 < 2;
        toy_ways.flight = cut * 50;
        toy_serve(&w, &p, cut % 2 ? 1 : 100, cut % 3 ? 16 : 10000);
        w.echo = 1;
        pmx_sock peer = call(&w);
        toy_greet(&wire);
        toy_data(&wire, text, 7);
        toy_record(&wire, 't', "?", 1);
        toy_data(&wire, text + 7, sizeof text - 8);
        put(peer, wire.bytes, cut);
        UNTIL(&w, pmx_counts(w.mux)->harvests > 4);
        EQUAL(w.opened.count, cut >= 2 * SSL_HEAD);
        put(peer, wire.bytes + cut, wire.size - cut);
        UNTIL_DOING(&w, h.plain.size == sizeof text - 1, toy_hear(&h, peer));
        CHECK(is_text_of(&h.plain, text));
        EQUAL(h.hellos, 1);
        uint64_t id = w.opened.ids[0];
        EQUAL(messages_of(&w, id), 4);
        CHECK(!h.byes);
        toy_put(peer, 'b');
        UNTIL_DOING(&w, h.end, toy_hear(&h, peer));
        EQUAL(h.byes, 1);
        leave(peer);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), 0);
        EQUAL(pmx_counts(w.mux)->tls_handshakes, 1);
        EQUAL(pmx_counts(w.mux)->bytes_in, sizeof text - 1);
        EQUAL(pmx_counts(w.mux)->bytes_out, sizeof text - 1);
        release(&wire);
        toy_forget(&h);
        toy_end(&w);
    }
}

/* Nobody hears of a peer that was not authenticated. */
static void a_failed_handshake_is_no_connection(void)
{
    for (int k = 0; k < 8; k++) {
        world w;
        toy_heard h = {0};
        pmx_policy p = raw();
        toy_ways.portable = k % 2;
        toy_ways.refuse = k / 2 == 3;
        toy_serve(&w, &p, 100, 10000);
        pmx_sock peer = call(&w);
        if (k / 2 == 0)
            put_text(peer, "GET / HTTP/1.0\r\n\r\n");
        if (k / 2 == 1)
            end_writing(peer);
        if (k / 2 == 2) {
            toy_put(peer, 'c');
            UNTIL_DOING(&w, h.hellos, toy_hear(&h, peer));
            toy_put(peer, 'd');
        }
        UNTIL_DOING(&w, w.failed_count && (h.end || h.error),
                    toy_hear(&h, peer));
        EQUAL(w.failed[0].error, EPROTO);
        EQUAL(h.alerts, k / 2 == 0 || k / 2 == 2);
        EQUAL(h.error, 0);              /* the alert is not reset away */
        EQUAL(w.failed[0].tls_error, k / 2 == 1 ? PMX_TLS_CUT
                                     : k % 2 || k / 2 == 3 ? 0 : TOY_CODE);
        EQUAL(w.failed[0].tls_verify, h.alerts && !(k % 2) ? 20 : 0);
        EQUAL(w.opened.count + w.closed_count, 0);
        const pmx_stats *s = pmx_counts(w.mux);
        EQUAL(s->accepted, 1);
        EQUAL(s->closed, 1);
        EQUAL(s->tls_failed, 1);
        EQUAL(s->tls_handshakes, 0);
        leave(peer);
        toy_forget(&h);
        toy_end(&w);
    }
}

static void a_handshake_has_its_time(void)
{
    world w;
    pmx_policy p = raw();
    p.handshake_ns = 20 * MS;
    toy_serve(&w, &p, 100, 10000);
    pmx_sock peer = call(&w), other;
    toy_put(peer, 'c');
    uint64_t id = toy_meet(&w, &other, 0);
    UNTIL(&w, w.failed_count);
    EQUAL(w.failed[0].error, ETIMEDOUT);
    turn(&w, 30 * MS);
    CHECK(!closed(&w, id));             /* that time is for handshakes alone */
    leave(peer);
    leave(other);
    UNTIL(&w, closed(&w, id));
    toy_end(&w);
}

static void so_many_shake_hands_at_once(void)
{
    enum { MOST = 3, COUNT = 7 };
    world w;
    pmx_sock peers[COUNT];
    buffer wire = {0};
    pmx_policy p = raw();
    p.max_handshakes = MOST;
    toy_serve(&w, &p, 100, 10000);
    const pmx_stats *s = pmx_counts(w.mux);
    for (int k = 0; k < COUNT; k++)
        peers[k] = call(&w);
    UNTIL(&w, s->accepted == MOST);
    for (int k = 0; k < 5; k++)
        turn(&w, MS);
    EQUAL(s->accepted, MOST);
    toy_greet(&wire);
    put(peers[0], wire.bytes, wire.size);
    leave(peers[1]);
    UNTIL(&w, s->accepted == MOST + 2);
    EQUAL(w.opened.count, 1);
    for (int k = 2; k < COUNT; k++)
        put(peers[k], wire.bytes, wire.size);
    UNTIL(&w, w.opened.count == COUNT - 1);
    for (int k = 0; k < COUNT; k++)
        if (k != 1)
            leave(peers[k]);
    UNTIL(&w, !s->connections);
    release(&wire);
    toy_end(&w);
}

/* --- the end ---------------------------------------------------------------- */

/* A FIN may be anybody's. */
static void an_end_without_bye_is_a_cut(void)
{
    for (int k = 0; k < 8; k++) {
        world w;
        pmx_sock peer;
        toy_heard h = {0};
        pmx_policy p = lines("\n", 100);
        int lax = k % 2, bye = k / 2 % 2;
        p.tls_lax = (uint32_t)lax;
        toy_ways.portable = k / 4;
        toy_serve(&w, &p, 100, 10000);
        w.echo = 1;
        uint64_t id = toy_meet(&w, &peer, 0);
        toy_put_data(peer, "one\ntwo\nthr");
        if (bye)
            toy_put(peer, 'b');
        end_writing(peer);
        UNTIL_DOING(&w, h.end, toy_hear(&h, peer));
        /* an unfinished line is one where the end is the peer's */
        EQUAL(messages_of(&w, id), lax || bye ? 3 : 2);
        CHECK(is_text_of(&h.plain, lax || bye ? "one\ntwo\nthr\n"
                                              : "one\ntwo\n"));
        leave(peer);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), lax || bye ? 0 : EPROTO);
        EQUAL(closed(&w, id)->tls_error, bye ? 0 : PMX_TLS_CUT);
        toy_forget(&h);
        toy_end(&w);
    }
}

static void a_cut_is_not_reported_as_an_end(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.half_open = 1;
    toy_serve(&w, &p, 100, 10000);
    uint64_t id = toy_meet(&w, &peer, 0);
    toy_put_data(peer, "hello");
    end_writing(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(w.ended.count, 0);
    EQUAL(error_of(&w, id), EPROTO);
    leave(peer);

    id = toy_meet(&w, &peer, 0);
    toy_put(peer, 'b');
    UNTIL(&w, has(&w.ended, id));
    CHECK(!closed(&w, id));             /* it may still be answered */
    do_op(&w, id, PMX_CLOSE);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    toy_end(&w);
}

static void a_bad_record_ends_the_connection(void)
{
    for (int portable = 0; portable < 2; portable++) {
        world w;
        pmx_sock peer;
        toy_heard h = {0};
        pmx_policy p = raw();
        toy_ways.portable = portable;
        toy_serve(&w, &p, 100, 10000);
        w.echo = 1;
        uint64_t id = toy_meet(&w, &peer, 0);
        toy_put_data(peer, "hello");
        toy_put(peer, '?');
        UNTIL_DOING(&w, closed(&w, id) && (h.end || h.error),
                    toy_hear(&h, peer));
        EQUAL(messages_of(&w, id), 1);
        EQUAL(error_of(&w, id), EPROTO);
        EQUAL(closed(&w, id)->tls_error, portable ? 0 : TOY_CODE);
        EQUAL(h.alerts, 1);
        leave(peer);
        toy_forget(&h);
        toy_end(&w);
    }
}

/* The mux ends a connection; whether its peer finds the stream reset. */
static int is_reset_by(enum pmx_op op, int byes)
{
    int resets = 0;
    for (int portable = 0; portable < 2; portable++) {
        world w;
        pmx_sock peer;
        toy_heard h = {0};
        pmx_policy p = raw();
        toy_ways.portable = portable;
        toy_serve(&w, &p, 100, 10000);
        uint64_t id = toy_meet(&w, &peer, 0);
        say_text(&w, id, "so long");
        do_op(&w, id, op);
        UNTIL_DOING(&w, h.end || h.error, toy_hear(&h, peer));
        EQUAL(h.byes, byes);
        resets += !!h.error;
        leave(peer);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), 0);
        toy_forget(&h);
        toy_end(&w);
    }
    CHECK(resets != 1);
    return resets;
}

static void a_close_says_bye(void)
{
    CHECK(!is_reset_by(PMX_CLOSE, 1));
}

static void an_abort_says_no_bye(void)
{
    int resets = is_reset_by(PMX_ABORT, 0);
    needs_resets();
    CHECK(resets);
}

static void a_mux_that_closes_says_bye(void)
{
    world w;
    pmx_sock peer;
    toy_heard h = {0};
    pmx_policy p = raw();
    toy_serve(&w, &p, 100, 10000);
    toy_meet(&w, &peer, 0);
    pmx_sock half = call(&w);
    toy_put(half, 'c');
    UNTIL(&w, pmx_counts(w.mux)->accepted == 2);
    world_end(&w);
    for (int64_t until = deadline(); !h.end && pmx__now() < until;)
        toy_hear(&h, peer);
    CHECK(h.byes && h.end);
    leave(peer);
    leave(half);
    toy_forget(&h);
    toy_over();
}

static void a_drain_waits_for_no_handshake(void)
{
    world w;
    pmx_sock peer;
    toy_heard h = {0};
    pmx_policy p = lines("\n", 100);
    toy_serve(&w, &p, 100, 10000);
    w.echo = 1;
    uint64_t id = toy_meet(&w, &peer, 0);
    pmx_sock half = call(&w);
    toy_put(half, 'c');
    UNTIL(&w, pmx_counts(w.mux)->accepted == 2);
    toy_put_data(peer, "hello\nyou\n");
    pmx_drain(w.mux);
    UNTIL_DOING(&w, h.end, toy_hear(&h, peer));
    CHECK(is_text_of(&h.plain, "hello\nyou\n"));
    EQUAL(h.byes, 1);
    EQUAL(w.failed_count, 1);
    leave(peer);
    leave(half);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    toy_forget(&h);
    toy_end(&w);
}

const test_case tls_tests[] = {
    EACH(streams_are_cut_anywhere),
    EACH(a_failed_handshake_is_no_connection),
    EACH(a_handshake_has_its_time),
    EACH(so_many_shake_hands_at_once),
    EACH(an_end_without_bye_is_a_cut),
    EACH(a_cut_is_not_reported_as_an_end),
    EACH(a_bad_record_ends_the_connection),
    EACH(a_close_says_bye),
    EACH(an_abort_says_no_bye),
    EACH(a_mux_that_closes_says_bye),
    EACH(a_drain_waits_for_no_handshake),
    {0},
};
