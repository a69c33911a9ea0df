/* Echo, sends that are taken in part, and sends that are tried again. */
#include "world.h"

#include <string.h>

static void what_comes_is_sent_back(void)
{
    enum { COUNT = 50 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    buffer sent[COUNT], got[COUNT];
    pmx_policy p = raw();
    world_serve(&w, &p);
    w.echo = 1;
    for (int i = 0; i < COUNT; i++)
        ids[i] = meet(&w, &peers[i]);
    memset(sent, 0, sizeof sent);
    memset(got, 0, sizeof got);
    size_t total = 0;
    for (uint32_t round = 0; round < 20; round++) {
        for (int i = 0; i < COUNT; i++) {
            size_t at = sent[i].size;
            fill(&sent[i], 1 + (round * 31 + (uint32_t)i * 7) % 900, round);
            put(peers[i], sent[i].bytes + at, sent[i].size - at);
        }
        total = 0;
        for (int i = 0; i < COUNT; i++)
            total += sent[i].size;
        UNTIL(&w, pmx_counts(w.mux)->bytes_out == total);
    }
    for (int i = 0; i < COUNT; i++) {
        EQUAL(get(peers[i], &got[i]), 1);
        CHECK(same(&sent[i], &got[i]));
        release(&sent[i]);
        release(&got[i]);
        leave(peers[i]);
    }
    UNTIL(&w, w.closed_count == COUNT);
    for (int i = 0; i < COUNT; i++)
        EQUAL(error_of(&w, ids[i]), 0);
    const pmx_stats *s = pmx_counts(w.mux);
    EQUAL(s->accepted, COUNT);
    EQUAL(s->closed, COUNT);
    EQUAL(s->bytes_in, total);
    EQUAL(s->messages_in, w.message_count);
    EQUAL(s->messages_out, w.message_count);
    EQUAL(s->discarded, 0);
    EQUAL(s->reset, 0);
    world_is_clean(&w);
    world_end(&w);
}

/* Take in slowly, until all of `sent` is there. */
static void all_comes(world *w, pmx_sock peer, const buffer *sent)
{
    buffer got = {0};
    UNTIL_DOING(w, got.size >= sent->size,
                CHECK(get_at_most(peer, &got, 30000) == 1));
    CHECK(same(sent, &got));
    release(&got);
}

static void four_megabytes_reach_a_slow_reader(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer sent = {0};
    fill(&sent, 4 << 20, 1);
    say(&w, id, sent.bytes, sent.size);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id) > 0);
    EQUAL(pmx_queued(w.mux, id), pmx_counts(w.mux)->queued);
    int64_t more = pmx_unacknowledged(w.mux, id);
    CHECK(acks_are_told() ? more >= (int64_t)pmx_queued(w.mux, id)
                          : more == -ENOTSUP);
    all_comes(&w, peer, &sent);
    EQUAL(pmx_queued(w.mux, id), 0);
    if (acks_are_told())
        UNTIL(&w, !pmx_unacknowledged(w.mux, id));  /* with the last ack */
    EQUAL(has(&w.drained, id), 1);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(pmx_unacknowledged(w.mux, id), -ENOENT);
    release(&sent);
    world_is_clean(&w);
    world_end(&w);
}

/* Small and large pieces, before and while some are queued, framed. */
static void pieces_of_all_sizes_leave_in_order(void)
{
    static const size_t sizes[] = {1, 4095, 10, 4096, 0, 5000, 20, 3, 100000,
                                   70000, 1, 1, 60000, 4000, 4000, 4000};
    pmx_policy policies[] = {raw(), prefix(4, 0, 1 << 20),
                             lines("\r\n", 1 << 20)};
    for (int k = 0; k < 3; k++) {
        world w;
        pmx_sock peer;
        world_serve(&w, &policies[k]);
        uint64_t id = meet_small(&w, &peer);
        buffer sent = {0};
        for (uint32_t i = 0; i < 200; i++) {
            size_t size = sizes[i % 16];
            uint8_t head[8];
            append(&sent, head,
                   frame_head(&policies[k].framing, size, head));
            size_t at = sent.size;
            fill(&sent, size, i);
            say(&w, id, sent.bytes + at, size);
            append(&sent, policies[k].framing.delimiter,
                   policies[k].framing.kind == PMX_LINES ? 2 : 0);
            if (i % 50 == 20)
                turn(&w, 0);
        }
        all_comes(&w, peer, &sent);
        leave(peer);
        UNTIL(&w, closed(&w, id));
        release(&sent);
        world_is_clean(&w);
        world_end(&w);
    }
}

static void thousands_of_tiny_pieces_leave_together(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = prefix(1, 0, 255);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer sent = {0}, got = {0};
    for (int i = 0; i < 100000; i++) {
        append(&sent, "\1x", 2);
        say(&w, id, "x", 1);
    }
    turn(&w, 0);
    get(peer, &got);
    UNTIL_DOING(&w, got.size >= sent.size, get(peer, &got));
    CHECK(same(&sent, &got));
    EQUAL(pmx_counts(w.mux)->messages_out, 100000);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&sent);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* A connection that the poller has said has room, and that was not served yet
 * since the batch was full, is offered what it has queued: watched for room
 * then, with nothing to send, a level-triggered poller would tell for ever. */
static void what_is_gone_before_its_turn_is_not_watched_for_room(void)
{
    enum { SIZE = 9000000, LITTLE = 1000000 };
    world w;
    pmx_sock first, peer;
    pmx_policy p = lines("\n", 100);
    p.max_output = 1000;
    p.high_water = 1 << 30;     /* nothing is drained */
    world_begin(&w, 1, 65536);
    world_listen(&w, &p);
    uint64_t talker = meet(&w, &first), id = meet(&w, &peer);
    buffer much = {0}, got = {0};
    fill(&much, SIZE, 1);
    say(&w, id, much.bytes, SIZE);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id));
    while (pmx_queued(w.mux, id) > LITTLE) {
        get_at_most(peer, &got, 50000);
        turn(&w, 0);
    }
    pmx__conn *c = pmx__slot(w.mux, (uint32_t)id);
    UNTIL(&w, !(c->flags & PMX__CAN_WRITE) || !pmx_queued(w.mux, id));
    size_t queued = (size_t)pmx_queued(w.mux, id);
    put_text(first, "1\n2\n3\n4\n5\n6\n");
    UNTIL(&w, messages_of(&w, talker));     /* a batch is full by now */
    int64_t until = deadline();
    while (queued && got.size < SIZE - queued && pmx__now() < until)
        CHECK(get(peer, &got) == 1);        /* so that there is room */
    turn(&w, 0);                /* tells, and serves the other */
    say_text(&w, id, "more");
    turn(&w, 0);
    mux_is_sound(w.mux);
    UNTIL_DOING(&w, got.size == SIZE + 6, get(peer, &got));
    UNTIL(&w, messages_of(&w, talker) == 6);
    turn(&w, 0);
    mux_is_sound(w.mux);
    leave(first);
    leave(peer);
    UNTIL(&w, w.closed_count == 2);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
    if (!queued)
        test_skipped("the system takes all at once");
}

/* --- a poller that reports room once, memory that is short --------------- */

static const pmx__poller *real_poller;
static int armed, arm_result;

/* PMX__OUT is passed on if it has been asked for, and only once. */
static int once_wait(void *state, pmx__event *events, int room,
                     int64_t timeout_ns)
{
    int n = real_poller->wait(state, events, room, timeout_ns);
    for (int i = 0; i < n; i++)
        if (events[i].what & PMX__OUT && !(events[i].what & PMX__LAST)) {
            if (!armed)
                events[i].what &= ~(uint32_t)PMX__OUT;
            armed = 0;
        }
    return n;
}

static int once_arm(void *state, pmx_sock sock)
{
    (void)state, (void)sock;
    armed = !arm_result;
    return arm_result;
}

static void a_poller_is_asked_again_when_a_send_was_refused(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    static pmx__poller once;
    buffer sent = {0};
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    real_poller = w.mux->poller;
    once = *real_poller;
    once.wait = once_wait;
    once.arm = once_arm;
    arm_result = armed = 0;
    if (real_poller->edge) {    /* to others it is said by mod() */
        w.mux->poller = &once;
        fill(&sent, 20000000, 3);
        say(&w, id, sent.bytes, sent.size);
        all_comes(&w, peer, &sent);
        EQUAL(pmx_queued(w.mux, id), 0);
        /* what is taken at once asks for nothing */
        armed = 0;
        say_text(&w, id, "small");
        turn(&w, 0);
        EQUAL(armed, 0);
        /* who cannot be watched would wait for ever */
        arm_result = -ENOMEM;
        say(&w, id, sent.bytes, sent.size);
        turn(&w, 0);
        EQUAL(pmx_queued(w.mux, id), 0);
    }
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), real_poller->edge ? ENOMEM : 0);
    release(&sent);
    world_is_clean(&w);
    world_end(&w);
}

#ifndef _WIN32
static int refusals;
static const pmx_mux *refused;

static void refuse_for_want_of_memory(enum injected_call call)
{
    static const injected_fault fault = {CALL_send, ENOBUFS, "send ENOBUFS"};
    if (call == CALL_send && !refusals)
        (void)pmx_wakeup(refused);      /* enough: the harvest ends */
    if (call == CALL_send && refusals && refusals--)
        inject_nth(&fault, 1, 0);
}

/* The socket has room, so no event tells when there is memory again. */
static void a_send_without_memory_is_tried_again_after_a_moment(void)
{
    enum { REFUSED = 20 };
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    buffer got = {0};
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    refusals = REFUSED;
    refused = w.mux;
    injected_before = refuse_for_want_of_memory;
    int64_t begun = pmx__now();
    say_text(&w, id, "hello, ");
    turn(&w, 0);
    say_text(&w, id, "world");
    CHECK(pmx_next_timeout(w.mux) > 0);
    turn(&w, 10000 * MS);       /* sends within this one harvest */
    EQUAL(refusals, 0);
    CHECK(pmx__now() - begun > REFUSED / 2 * PMX__BUFFERS_NS);
    inject_nothing();
    CHECK(pmx__now() - begun < 5000 * MS);
    UNTIL_DOING(&w, got.size == 12, (void)get(peer, &got));
    CHECK(is_text_of(&got, "hello, world"));
    release(&got);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    world_is_clean(&w);
    world_end(&w);
}
#endif

const test_case send_tests[] = {
    EACH(what_comes_is_sent_back),
    EACH(four_megabytes_reach_a_slow_reader),
    EACH(pieces_of_all_sizes_leave_in_order),
    EACH(thousands_of_tiny_pieces_leave_together),
    EACH(what_is_gone_before_its_turn_is_not_watched_for_room),
    EACH(a_poller_is_asked_again_when_a_send_was_refused),
    UNIX_EACH(a_send_without_memory_is_tried_again_after_a_moment,
              "no call is injected there"),
    {0},
};
