/* Connections that leave one mux and go on in another. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

static world old, new;

/* What the last connection took along; its bytes are kept here. */
static pmx_moving moved;
static uint8_t *input, *output;

static int64_t leave_old(uint64_t id)
{
    EQUAL(pmx_held(old.mux, id, &moved), 0);
    input = realloc(input, (size_t)moved.input_size + 1);
    output = realloc(output, (size_t)moved.output_size + 1);
    int64_t sock = pmx_detach(old.mux, id, input, output);
    CHECK(sock >= 0);
    moved.input = input;
    moved.output = output;
    mux_is_sound(old.mux);
    return sock;
}

static uint64_t come_to_new(int64_t sock, const pmx_policy *p)
{
    uint64_t id = 0;
    EQUAL(pmx_attach(new.mux, sock, 0, p, &moved, &id), 0);
    mux_is_sound(new.mux);
    return id;
}

static uint64_t move_by(uint64_t id, const pmx_policy *p)
{
    return come_to_new(leave_old(id), p);
}

static void begin(const pmx_policy *p)
{
    world_serve(&old, p);
    world_begin(&new, 100, 100000);
}

static void end(void)
{
    world_is_clean(&old);
    world_is_clean(&new);
    world_end(&old);
    world_end(&new);
    free(input);
    free(output);
    input = output = NULL;
}

static void input_and_output_arrive_once_and_in_order(void)
{
    pmx_sock peer;
    pmx_policy p = lines("\n", 1 << 20);
    buffer much = {0}, got = {0};
    begin(&p);
    uint64_t id = meet_small(&old, &peer);
    fill(&much, 8000000, 1);
    put_text(peer, "one\ntw");
    UNTIL(&old, messages_of(&old, id) == 1);
    say(&old, id, much.bytes, much.size);
    turn(&old, 0);
    uint64_t queued = pmx_queued(old.mux, id);
    CHECK(queued);
    turn(&old, 0);              /* its row `blocked` */
    UNTIL(&old, pmx_held(old.mux, id, &moved) == 0);
    uint64_t here = move_by(id, &p);
    EQUAL(pmx_counts(old.mux)->connections, 0);
    EQUAL(pmx_counts(old.mux)->queued, 0);
    EQUAL(pmx_counts(old.mux)->discarded, 0);
    EQUAL(pmx_counts(old.mux)->closed, 0);
    EQUAL(pmx_held(old.mux, id, &moved), -ENOENT);
    CHECK(moved.state & PMX_WAS_BLOCKED);
    say_text(&new, here, "behind");
    put_text(peer, "o\nthree\n");
    UNTIL_DOING(&new, got.size == much.size + 8, get(peer, &got));
    CHECK(!memcmp(got.bytes, much.bytes, much.size));
    CHECK(!memcmp(got.bytes + much.size, "\nbehind\n", 8));
    UNTIL(&new, messages_of(&new, here) == 2 && has(&new.drained, here));
    CHECK(is_text(&new, message_of(&new, here, 0), "two"));
    CHECK(is_text(&new, message_of(&new, here, 1), "three"));
    EQUAL(new.opened.count, 0);
    EQUAL(old.closed_count, 0);
    pmx_address was[2], is[2];
    EQUAL(pmx_addresses(new.mux, here, is), 0);
    was[0] = is[0];
    EQUAL(was[0].family, 4);
    CHECK(was[0].port && is[1].port == old.port);
    leave(peer);
    UNTIL(&new, closed(&new, here));
    EQUAL(closed(&new, here)->peer.port, was[0].port);
    release(&much);
    release(&got);
    end();
}

static void whole_frames_that_wait_come_first(void)
{
    pmx_sock peer;
    pmx_policy p = prefix(1, 0, 100);
    begin(&p);
    uint64_t id = meet(&old, &peer);
    do_op(&old, id, PMX_PAUSE);
    turn(&old, 0);
    put(peer, "\1a\1b\2c", 6);
    turn(&old, 0);
    uint64_t here = move_by(id, &p);
    CHECK(moved.state & PMX_WAS_PAUSED);
    for (int k = 0; k < 5; k++)
        turn(&new, MS);
    EQUAL(new.message_count, 0);
    do_op(&new, here, PMX_RESUME);
    put(peer, "d", 1);
    UNTIL(&new, messages_of(&new, here) == 3);
    CHECK(is_text(&new, message_of(&new, here, 2), "cd"));
    leave(peer);
    UNTIL(&new, closed(&new, here));
    end();
}

static void frames_in_the_carry_are_delivered(void)
{
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_begin(&old, 1, 262144);       /* a row a turn */
    world_listen(&old, &p);
    world_begin(&new, 100, 100000);
    uint64_t id = meet(&old, &peer);
    put_text(peer, "1\n2\n3\n4");
    UNTIL(&old, old.message_count == 1);
    uint64_t here = move_by(id, &p);
    EQUAL(moved.input_size, 5);
    UNTIL(&new, messages_of(&new, here) == 2);
    CHECK(is_text(&new, message_of(&new, here, 0), "2"));
    leave(peer);                /* and the last line, which has no end */
    UNTIL(&new, closed(&new, here));
    EQUAL(messages_of(&new, here), 3);
    EQUAL(error_of(&new, here), 0);
    end();
}

static void half_open_connections_stay_half_open(void)
{
    pmx_sock peers[2];
    uint64_t ids[2];
    pmx_policy p = raw();
    buffer got = {0};
    p.half_open = 1;
    begin(&p);
    for (int k = 0; k < 2; k++)
        ids[k] = meet(&old, &peers[k]);
    end_writing(peers[0]);
    do_op(&old, ids[1], PMX_SEND_EOF);
    UNTIL(&old, has(&old.ended, ids[0]));
    turn(&old, 0);
    uint64_t ended = move_by(ids[0], &p);
    EQUAL(moved.state, PMX_WAS_ENDED);
    uint64_t shut = move_by(ids[1], &p);
    EQUAL(moved.state, PMX_WAS_SHUT);
    say_text(&new, ended, "last words");
    say_text(&new, shut, "nobody hears this");
    put_text(peers[1], "more");
    UNTIL_DOING(&new, got.size == 10, get(peers[0], &got));
    UNTIL(&new, messages_of(&new, shut) == 1);
    CHECK(is_text_of(&got, "last words"));
    EQUAL(new.ended.count, 0);
    do_op(&new, ended, PMX_CLOSE);
    end_writing(peers[1]);
    UNTIL(&new, has(&new.ended, shut));
    do_op(&new, shut, PMX_CLOSE);
    UNTIL(&new, new.closed_count == 2);
    for (int k = 0; k < 2; k++)
        leave(peers[k]);
    release(&got);
    end();
}

/* The input that had come is delivered, and then the end is told. */
static void a_peer_may_go_while_its_connection_moves(void)
{
    needs_resets();
    pmx_sock peers[2];
    uint64_t ids[2], here[2];
    pmx_policy p = lines("\n", 100);
    begin(&p);
    for (int k = 0; k < 2; k++) {
        ids[k] = meet(&old, &peers[k]);
        put_text(peers[k], "a\nb");
    }
    UNTIL(&old, old.message_count == 2);
    int64_t socks[2];
    pmx_moving of[2];
    uint8_t byte[] = "b";
    for (int k = 0; k < 2; k++) {
        socks[k] = leave_old(ids[k]);
        of[k] = moved;
        of[k].input = byte;
    }
    put_text(peers[0], "\n");
    leave(peers[0]);
    reset_peer(peers[1]);
    for (int k = 0; k < 2; k++)
        EQUAL(pmx_attach(new.mux, socks[k], 0, &p, &of[k], &here[k]), 0);
    UNTIL(&new, new.closed_count == 2);
    EQUAL(messages_of(&new, here[0]), 1);
    CHECK(is_text(&new, message_of(&new, here[0], 0), "b"));
    EQUAL(error_of(&new, here[0]), 0);
    EQUAL(error_of(&new, here[1]), ECONNRESET);
    CHECK(closed(&new, here[1])->peer.port);
    end();
}

static void who_cannot_move_stays(void)
{
    pmx_sock peers[6];
    uint64_t ids[6], out;
    pmx_policy p = raw(), tls = raw();
    begin(&p);
    for (int k = 0; k < 6; k++)
        ids[k] = meet_small(&old, &peers[k]);
    buffer much = {0};
    fill(&much, 8000000, 1);
    pmx_endpoint at = {.host = "127.0.0.1", .port = old.port};
    EQUAL(pmx_connect(old.mux, &at, 1, &p, &out), 0);
    EQUAL(pmx_held(old.mux, out, &moved), -ENOTSUP);
    UNTIL(&old, has(&old.opened, out) && old.opened.count == 8);
    say(&old, ids[0], much.bytes, much.size);
    do_op(&old, ids[0], PMX_CLOSE);
    say(&old, ids[1], much.bytes, much.size);
    do_op(&old, ids[1], PMX_SEND_EOF);
    do_op(&old, ids[2], PMX_HOLD);
    do_op(&old, ids[3], PMX_OWED);
    put_text(peers[4], "x");
    do_op(&old, ids[4], PMX_BEGUN);
    turn(&old, 0);
    turn(&old, 0);
    EQUAL(pmx_held(old.mux, out, &moved), -ENOTSUP);
    EQUAL(pmx_held(old.mux, ids[0], &moved), -ENOTSUP);
    for (int k = 1; k < 5; k++)
        EQUAL(pmx_held(old.mux, ids[k], &moved), -EAGAIN);
    EQUAL(pmx_detach(old.mux, ids[0], NULL, NULL), -ENOTSUP);
    EQUAL(pmx_held(old.mux, 12345, &moved), -ENOENT);
    do_op(&old, ids[2], PMX_RELEASE);
    do_op(&old, ids[3], PMX_WAITS);
    do_op(&old, ids[4], PMX_WHOLE);
    turn(&old, 0);
    for (int k = 2; k < 5; k++)
        EQUAL(pmx_held(old.mux, ids[k], &moved), 0);
    tls.tls = 1;
    int64_t sock = leave_old(ids[5]);
    EQUAL(pmx_attach(new.mux, sock, 0, &tls, &moved, &out), -ENOTSUP);
    out = come_to_new(sock, &p);
    pmx_drain(old.mux);
    EQUAL(pmx_held(old.mux, ids[2], &moved), -ENOTSUP);
    pmx_reset_all(old.mux, ECONNABORTED);
    pmx_reset_all(new.mux, ECONNABORTED);
    UNTIL(&old, !pmx_counts(old.mux)->connections && !old.mux->report_count);
    UNTIL(&new, new.closed_count == 1);
    for (int k = 0; k < 6; k++)
        leave(peers[k]);
    release(&much);
    world_end(&old);
    world_end(&new);
}

static void a_batch_that_gathers_keeps_its_connections(void)
{
    pmx_sock peer;
    pmx_policy p = raw();
    begin(&p);
    uint64_t id = meet(&old, &peer);
    pmx_sock other = call(&old);
    UNTIL(&old, old.opened.count == 2);
    put_text(peer, "x");
    int64_t until = deadline();
    while (!(turn_of(&old, PMX_LOOK, 5, 10000 * MS) & PMX_GATHERING))
        CHECK(pmx__now() < until);
    EQUAL(pmx_held(old.mux, id, &moved), -EAGAIN);
    UNTIL(&old, messages_of(&old, id) == 1);
    EQUAL(pmx_held(old.mux, id, &moved), 0);
    leave(peer);
    leave(other);
    UNTIL(&old, old.closed_count == 2);
    end();
}

static int scans(const uint8_t *bytes, size_t size, uint64_t *scanned,
                 pmx_frame *frame)
{
    (void)bytes, (void)scanned;
    *frame = (pmx_frame){0, size, size};
    return 1;
}

static void the_framing_of_a_switch_moves_along(void)
{
    pmx_sock peer;
    pmx_policy p = lines("\n", 100), to = prefix(1, 0, 50);
    pmx_policy local = scanner(scans, 100);
    begin(&p);
    uint64_t id = meet(&old, &peer), out;
    switch_to(&old, id, &to, "\2x", 2);
    turn(&old, 0);
    int64_t sock = leave_old(id);
    EQUAL(moved.state, PMX_WAS_SWITCHED);
    moved.framing = local.framing;      /* an address of another process' */
    EQUAL(pmx_attach(new.mux, sock, 0, &p, &moved, &out), -EINVAL);
    moved.framing = to.framing;
    uint64_t here = come_to_new(sock, &p);
    put_text(peer, "y");
    UNTIL(&new, messages_of(&new, here) == 1);
    CHECK(is_text(&new, message_of(&new, here, 0), "xy"));
    switch_to(&new, here, &local, NULL, 0);
    turn(&new, 0);
    EQUAL(pmx_held(new.mux, here, &moved), -ENOTSUP);
    leave(peer);
    UNTIL(&new, closed(&new, here));
    end();
}

static void a_listener_counts_those_that_come_and_go(void)
{
    pmx_sock peers[3];
    pmx_policy p = raw();
    uint64_t back;
    p.max_connections = 1;
    begin(&p);
    uint64_t id = meet(&old, &peers[0]);
    peers[1] = call(&old);
    UNTIL(&old, pmx_counts(old.mux)->accept_pauses);
    int64_t sock = leave_old(id);
    EQUAL(moved.listener, old.listener);
    UNTIL(&old, old.opened.count == 2); /* its place was free */
    EQUAL(pmx_attach(old.mux, sock, old.listener, NULL, &moved, &back), 0);
    mux_is_sound(old.mux);      /* one over the limit, who is not refused */
    CHECK(back != id);
    peers[2] = call(&old);
    for (int k = 0; k < 5; k++)
        turn(&old, MS);
    EQUAL(old.opened.count, 2);
    leave(peers[0]);
    leave(peers[1]);
    UNTIL(&old, old.opened.count == 3);
    EQUAL(pmx_unlisten(old.mux, old.listener), 0);
    sock = leave_old(old.opened.ids[2]);
    EQUAL(pmx_attach(old.mux, sock, old.listener, NULL, &moved, &back),
          -ENOENT);
    back = come_to_new(sock, &p);
    leave(peers[2]);
    UNTIL(&new, closed(&new, back));
    UNTIL(&old, old.closed_count == 2);
    world_end(&old);
    world_end(&new);
}

/* The header's names and all that it tells. */
static void what_a_balancer_told_moves_along(void)
{
    static const pmx_network any[] = {{.family = 4}};
    static const char line[] = "PROXY TCP4 10.1.2.3 10.4.5.6 7 8\r\nhello";
    pmx_policy p = raw();
    pmx_proxied told;
    pmx_address names[2];
    world_begin(&old, 100, 100000);
    world_begin(&new, 100, 100000);
    int number = pmx_trust(old.mux, any, 1);
    CHECK(number > 0);
    p.proxy = (uint32_t)number;
    p.proxy_ms = 10000;
    world_listen(&old, &p);
    pmx_sock peer = call(&old);
    put_text(peer, line);
    UNTIL(&old, old.message_count == 1);
    uint64_t id = old.opened.ids[0];
    EQUAL(pmx_held(old.mux, id, &moved), 0);
    EQUAL(moved.proxy_size, 28);
    uint8_t header[28];
    memcpy(header, moved.proxy, sizeof header);
    int64_t sock = leave_old(id);
    p.proxy = 0;                /* another server may await none */
    uint64_t here;
    for (size_t k = 0; k < sizeof header; k++) {
        moved.proxy = header;
        moved.proxy_size = (uint32_t)k;
        if (k)
            EQUAL(pmx_attach(new.mux, sock, 0, &p, &moved, &here), -EINVAL);
    }
    moved.proxy_size = sizeof header;
    here = come_to_new(sock, &p);
    EQUAL(pmx_addresses(new.mux, here, names), 0);
    EQUAL(names[0].ip[0], 10);
    EQUAL(names[0].port, 7);
    EQUAL(names[1].port, 8);
    EQUAL(pmx_proxy_of(new.mux, here, &told), 0);
    EQUAL(told.size, sizeof header);
    CHECK(!memcmp(told.header, header, sizeof header));
    EQUAL(told.transport.ip[0], 127);
    put_text(peer, "more");
    UNTIL(&new, messages_of(&new, here) == 1);
    leave(peer);
    UNTIL(&new, closed(&new, here));
    end();
}

static void what_is_not_sound_is_refused(void)
{
    pmx_sock peer;
    uint64_t out;
    pmx_policy p = raw();
    begin(&p);
    int64_t sock = leave_old(meet(&old, &peer));
    pmx_moving good = moved;
    for (int k = 0; k < 9; k++) {
        pmx_moving m = good;
        switch (k) {
        case 0: m.state = 64; break;
        case 1: m.idle_ns = -1; break;
        case 2: m.frame_ns = INT64_MIN; break;
        case 3: m.input_size = UINT64_C(1) << 40; break;
        case 4: m.peer.family = 5; break;
        case 5: m.peer.port = 70000; break;
        case 6: m.idle_ns = (INT64_C(1) << 61) + 1; break;
        case 7: m.frame_ns = INT64_MAX; break;
        default: m.state = PMX_WAS_SHUT; m.output_size = 1; break;
        }
        EQUAL(pmx_attach(new.mux, sock, 0, &p, &m, &out), -EINVAL);
    }
    EQUAL(pmx_attach(new.mux, -1, 0, &p, &good, &out), -EBADF);
    mux_is_sound(new.mux);
    pmx_drain(new.mux);
    EQUAL(pmx_attach(new.mux, sock, 0, &p, &good, &out), -ECANCELED);
    /* the old one takes it back */
    EQUAL(pmx_attach(old.mux, sock, old.listener, NULL, &good, &out), 0);
    put_text(peer, "still here");
    UNTIL(&old, messages_of(&old, out) == 1);
    leave(peer);
    UNTIL(&old, closed(&old, out));
    end();
}

#ifdef __linux__
static void clocks_go_on_where_they_were(void)
{
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    p.idle_ns = 60000 * MS;
    p.message_ns = 100000 * MS;
    begin(&p);
    uint64_t id = meet(&old, &peer);
    put_text(peer, "ab");
    turn(&old, 0);
    UNTIL(&old, pmx_held(old.mux, id, &moved) == 0 && moved.input_size == 2);
    pmx_shift_clock(50000);
    EQUAL(pmx_held(old.mux, id, &moved), 0);
    CHECK(moved.idle_ns >= 50000 * MS && moved.idle_ns < 59000 * MS);
    CHECK(moved.frame_ns >= 50000 * MS && moved.frame_ns < 59000 * MS);
    uint64_t here = move_by(id, &p);
    int64_t left = pmx_next_timeout(new.mux);
    CHECK(left > 1000 * MS && left <= 10000 * MS);
    do_op(&new, here, PMX_PAUSE);       /* where they stand still */
    turn(&new, 0);
    pmx_shift_clock(500000);
    turn(&new, 0);
    pmx_moving m;
    EQUAL(pmx_held(new.mux, here, &m), 0);
    CHECK(m.idle_ns >= 50000 * MS && m.idle_ns < 60000 * MS);
    CHECK(m.frame_ns >= 50000 * MS && m.frame_ns < 60000 * MS);
    do_op(&new, here, PMX_RESUME);
    turn(&new, 0);
    pmx_shift_clock(511000);
    UNTIL(&new, closed(&new, here));
    EQUAL(error_of(&new, here), ETIMEDOUT);
    pmx_shift_clock(0);
    leave(peer);
    end();
}
#endif

const test_case move_tests[] = {
    EACH(input_and_output_arrive_once_and_in_order),
    EACH(whole_frames_that_wait_come_first),
    EACH(frames_in_the_carry_are_delivered),
    EACH(half_open_connections_stay_half_open),
    EACH(a_peer_may_go_while_its_connection_moves),
    EACH(who_cannot_move_stays),
    EACH(a_batch_that_gathers_keeps_its_connections),
    EACH(the_framing_of_a_switch_moves_along),
    EACH(a_listener_counts_those_that_come_and_go),
    EACH(what_a_balancer_told_moves_along),
    EACH(what_is_not_sound_is_refused),
#ifdef __linux__
    EACH(clocks_go_on_where_they_were),
#endif
    {0},
};
