/* The table of transports, by a toy: see toy.h. */
#include "injected.h"
#include "toy.h"

#include <string.h>

static void serve(world *w, const pmx_policy *p, uint32_t rows, uint64_t arena)
{
    world_begin(w, rows, arena);
    world_listen(w, p);
    toy_instead(pmx__find_listener(w->mux, w->listener)->rules);
}

static void over(world *w)
{
    world_is_clean(w);
    EQUAL(toy_states, 0);
    world_end(w);
}

/* What has come over the wire so far. */
typedef struct {
    buffer wire, plain;
    size_t at;
    int bye, end;
} heard;

static int hear(heard *h, pmx_sock peer)
{
    int is = get(peer, &h->wire);
    h->bye |= toy_unwrap(&h->wire, &h->at, &h->plain);
    h->end |= is <= 0;
    return is;
}

static void forget(heard *h)
{
    release(&h->wire);
    release(&h->plain);
}

static void records_are_cut_anywhere(void)
{
    static const char text[] = "hello\nyou\n\nthere\n";
    for (size_t cut = 1; cut < 30; cut++) {
        world w;
        pmx_sock peer;
        heard h = {0};
        buffer wire = {0};
        pmx_policy p = lines("\n", 100);
        serve(&w, &p, cut % 2 ? 1 : 100, cut % 3 ? 16 : 10000);
        w.echo = 1;
        uint64_t id = meet(&w, &peer);
        append(&wire, "h", 1);
        toy_wrap(&wire, text, 7);
        toy_wrap(&wire, text + 7, sizeof text - 8);
        size_t before = cut < wire.size ? cut : wire.size;
        put(peer, wire.bytes, before);
        UNTIL(&w, pmx_counts(w.mux)->harvests > 3);
        put(peer, wire.bytes + before, wire.size - before);
        UNTIL_DOING(&w, h.plain.size == sizeof text - 1, hear(&h, peer));
        CHECK(is_text_of(&h.plain, text));
        EQUAL(messages_of(&w, id), 4);
        CHECK(!h.bye);
        wire.size = 0;
        toy_bye(&wire);
        put(peer, wire.bytes, wire.size);
        UNTIL_DOING(&w, h.end, hear(&h, peer));
        CHECK(h.bye);                   /* before the end */
        leave(peer);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), 0);
        release(&wire);
        forget(&h);
        over(&w);
    }
}

/* A record that is taken from the socket has no event of its own. */
static void what_is_held_keeps_a_connection_ready(void)
{
    world w;
    pmx_sock peer;
    buffer text = {0}, wire = {0};
    pmx_policy p = lines("\n", 600);
    serve(&w, &p, 2, 16);
    uint64_t id = meet(&w, &peer);
    for (int k = 0; k < 300; k++)
        append(&text, "ab\n", 3);
    append(&wire, "h", 1);
    toy_wrap(&wire, text.bytes, text.size);
    put(peer, wire.bytes, wire.size);
    UNTIL(&w, messages_of(&w, id) == 300);
    end_writing(peer);
    UNTIL(&w, closed(&w, id));
    leave(peer);
    EQUAL(error_of(&w, id), ECONNABORTED);      /* it said no bye */
    release(&text);
    release(&wire);
    over(&w);
}

static void half_a_record_is_waited_for(void)
{
    world w;
    pmx_sock peer;
    buffer wire = {0};
    pmx_policy p = raw();
    serve(&w, &p, 100, 10000);
    uint64_t id = meet(&w, &peer);
    append(&wire, "h", 1);
    toy_wrap(&wire, "hello", 5);
    put(peer, wire.bytes, wire.size - 1);
    UNTIL(&w, pmx_next_timeout(w.mux) < 0);
    count_waits(&w);
    turn(&w, 20 * MS);
    CHECK(wait_count < 4);
    put(peer, wire.bytes + wire.size - 1, 1);
    UNTIL(&w, messages_of(&w, id) == 1);
    CHECK(is_text(&w, message_of(&w, id, 0), "hello"));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&wire);
    over(&w);
}

/* What was made of the output, and refused, goes out first and once. */
static void refused_output_is_the_head_of_the_queue(void)
{
    world w;
    pmx_sock peer;
    heard h = {0};
    buffer much = {0};
    pmx_policy p = raw();
    serve(&w, &p, 100, 10000);
    uint64_t id = meet_small(&w, &peer);
    fill(&much, 6000000, 1);
    for (size_t at = 0; at < much.size; at += 1000000)
        say(&w, id, much.bytes + at, 1000000);
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, !(pmx__find(w.mux, id)->flags & PMX__CAN_WRITE));
    const pmx__queue *queue = pmx__find(w.mux, id)->queue;
    CHECK(queue->head->raw && !queue->tail->raw && queue->size < much.size);
    UNTIL_DOING(&w, h.end, hear(&h, peer));
    CHECK(h.bye && same(&h.plain, &much));
    EQUAL(pmx_counts(w.mux)->bytes_out, much.size);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    release(&much);
    forget(&h);
    over(&w);
}

#ifndef _WIN32
static void a_bye_that_is_refused_comes_before_the_end(void)
{
    world w;
    pmx_sock peer;
    heard h = {0};
    pmx_policy p = raw();
    static const injected_fault refused = {CALL_send, EAGAIN, ""};
    serve(&w, &p, 100, 10000);
    uint64_t id = meet(&w, &peer);
    say_text(&w, id, "all");
    turn(&w, 0);
    do_op(&w, id, PMX_SEND_EOF);
    inject_nth(&refused, 1, 0);
    turn(&w, 0);
    inject_nothing();
    UNTIL_DOING(&w, h.end, hear(&h, peer));
    CHECK(h.bye && is_text_of(&h.plain, "all"));
    do_op(&w, id, PMX_CLOSE);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    forget(&h);
    over(&w);
}
#endif

static void what_a_closing_connection_gets_is_dropped(void)
{
    world w;
    pmx_sock peer;
    heard h = {0};
    buffer much = {0};
    pmx_policy p = lines("\n", 100);
    serve(&w, &p, 100, 10000);
    uint64_t id = meet(&w, &peer);
    do_op(&w, id, PMX_CLOSE);
    fill(&much, 200000, 1);
    size_t at = 0;
    UNTIL_DOING(&w, at == much.size, put_some(peer, &much, &at));
    UNTIL_DOING(&w, h.end, hear(&h, peer));
    CHECK(h.bye);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    EQUAL(w.message_count, 0);
    release(&much);
    forget(&h);
    over(&w);
}

static void what_is_no_record_ends_the_connection(void)
{
    static const char *const wrong[] = {"x", "h\377\377"};
    for (int k = 0; k < 2; k++) {
        world w;
        pmx_sock peer;
        pmx_policy p = raw();
        serve(&w, &p, 100, 10000);
        uint64_t id = meet(&w, &peer);
        put_text(peer, wrong[k]);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), EPROTO);
        leave(peer);
        over(&w);
    }
}

/* A stop delivers what is held, and waits for nothing that is half. */
static void a_stop_takes_what_is_held(void)
{
    for (int half = 0; half < 2; half++) {
        world w;
        pmx_sock peer;
        heard h = {0};
        buffer wire = {0};
        pmx_policy p = lines("\n", 100);
        serve(&w, &p, 1, 16);
        w.echo = 1;
        uint64_t id = meet(&w, &peer);
        append(&wire, "h", 1);
        toy_wrap(&wire, "a\nbc\nd\n", 7);
        toy_wrap(&wire, "e\nf\n", 4);
        put(peer, wire.bytes, wire.size - (size_t)half);
        UNTIL(&w, messages_of(&w, id) == 1);
        EQUAL(pmx_drain(w.mux), 0);
        UNTIL_DOING(&w, h.end, hear(&h, peer));
        CHECK(h.bye);
        CHECK(is_text_of(&h.plain, half ? "a\nbc\nd\n" : "a\nbc\nd\ne\nf\n"));
        leave(peer);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), 0);
        release(&wire);
        forget(&h);
        over(&w);
    }
}

/* Both sides in one mux, which closes in the middle of it. */
static void both_ends_can_be_toys(void)
{
    for (int early = 0; early < 2; early++) {
        world w;
        uint64_t id;
        buffer much = {0};
        pmx_policy p = prefix(4, 0, 100000);
        serve(&w, &p, 100, 10000);
        pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
        pmx__find(w.mux, id)->rules->transport = &toy_tcp;
        fill(&much, 90000, 1);
        say(&w, id, much.bytes, much.size);
        say_text(&w, id, "done");
        UNTIL(&w, w.opened.count == 2);
        uint64_t other = w.opened.ids[w.opened.ids[0] == id];
        if (!early) {
            UNTIL(&w, messages_of(&w, other) == 2);
            const message *m = message_of(&w, other, 0);
            EQUAL(m->size, much.size);
            CHECK(!memcmp(w.in.bytes + m->at, much.bytes, much.size));
            do_op(&w, other, PMX_CLOSE);
            UNTIL(&w, closed(&w, id) && closed(&w, other));
            EQUAL(error_of(&w, id), 0);
            EQUAL(error_of(&w, other), 0);
            world_is_clean(&w);
        }
        release(&much);
        world_end(&w);
        EQUAL(toy_states, 0);
    }
}

/* A framing changes above it, as it does above a socket. */
static void a_switch_leaves_the_transport_alone(void)
{
    world w;
    pmx_sock peer;
    heard h = {0};
    buffer wire = {0};
    pmx_policy p = lines("\n", 100), two = prefix(1, 0, 100);
    serve(&w, &p, 100, 10000);
    uint64_t id = meet(&w, &peer);
    append(&wire, "h", 1);
    toy_wrap(&wire, "go\n\2hi", 6);
    put(peer, wire.bytes, wire.size);
    UNTIL(&w, messages_of(&w, id) == 1);
    switch_to(&w, id, &two, NULL, 0);
    say_text(&w, id, "yes");
    UNTIL_DOING(&w, h.plain.size == 4, hear(&h, peer));
    CHECK(is_text_of(&h.plain, "\3yes"));
    EQUAL(messages_of(&w, id), 2);
    CHECK(is_text(&w, message_of(&w, id, 1), "hi"));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&wire);
    forget(&h);
    over(&w);
}

#ifndef _WIN32
static void memory_for_refused_output_is_needed(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    static const injected_fault refused = {CALL_send, EAGAIN, ""};
    for (long at = 1; at < 4; at++) {
        serve(&w, &p, 100, 10000);
        uint64_t id = meet(&w, &peer);
        turn(&w, 0);
        say_text(&w, id, "hello");
        inject_nth(&refused, 1, 0);
        test_fail_at = at;
        turn(&w, 0);
        test_fail_at = 0;
        inject_nothing();
        leave(peer);
        UNTIL(&w, closed(&w, id));
        over(&w);
    }
}
#endif

const test_case toy_tests[] = {
    EACH(records_are_cut_anywhere),
    EACH(what_is_held_keeps_a_connection_ready),
    EACH(half_a_record_is_waited_for),
    EACH(refused_output_is_the_head_of_the_queue),
    UNIX_EACH(a_bye_that_is_refused_comes_before_the_end,
              "no call is injected there"),
    EACH(what_a_closing_connection_gets_is_dropped),
    EACH(what_is_no_record_ends_the_connection),
    EACH(a_stop_takes_what_is_held),
    EACH(both_ends_can_be_toys),
    EACH(a_switch_leaves_the_transport_alone),
    UNIX_EACH(memory_for_refused_output_is_needed,
              "no call is injected there"),
    {0},
};
