/* switch.c: a connection goes over to another framing in mid-stream, and no
 * byte of its input or output is lost or framed by the wrong one. */
#include "world.h"

#include <string.h>

/* All messages of a connection, as "a|b|". */
static void received_is(const world *w, uint64_t id, const char *wanted)
{
    buffer all = {0};
    for (size_t k = 0; k < messages_of(w, id); k++) {
        const message *m = message_of(w, id, k);
        append(&all, w->in.bytes + m->at, m->size);
        append(&all, "|", 1);
    }
    append(&all, "", 1);
    if (strcmp((const char *)all.bytes, wanted))
        test_failed(__FILE__, __LINE__, (const char *)all.bytes);
    release(&all);
}

static void output_is_framed_by_what_holds_when_it_is_logged(void)
{
    world w;
    pmx_sock peer;
    buffer got = {0};
    pmx_policy p = lines("\n", 100), two = prefix(2, 0, 100), last = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    say_text(&w, id, "a");
    say_text(&w, id, "b");
    switch_to(&w, id, &two, NULL, 0);
    say_text(&w, id, "c");
    say_text(&w, id, "");
    switch_to(&w, id, &last, NULL, 0);
    say_text(&w, id, "end");
    UNTIL_DOING(&w, got.size == 12, get(peer, &got));
    CHECK(!memcmp(got.bytes, "a\nb\n\0\1c\0\0end", 12));
    EQUAL(pmx_counts(w.mux)->messages_out, 5);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* What the kernel does not take is queued as it was framed. */
static void queued_output_keeps_its_framing(void)
{
    world w;
    pmx_sock peer;
    buffer much = {0}, wire = {0}, got = {0};
    pmx_policy p = lines("#", 100), two = lines("--", 100);
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    fill(&much, 6000000, 1);
    say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id));
    say_text(&w, id, "old");
    switch_to(&w, id, &two, NULL, 0);
    say_text(&w, id, "new");
    append(&wire, much.bytes, much.size);
    append(&wire, "#old#new--", 10);
    UNTIL_DOING(&w, got.size == wire.size, get(peer, &got));
    CHECK(same(&got, &wire));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&much);
    release(&wire);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void blocks_of_each_kind_can_switch(void)
{
    for (uint32_t cut = PMX_LENGTHS; cut <= PMX_SPANS; cut++) {
        world w;
        pmx_sock peer;
        pmx_policy p = lines("\n", 100), two = prefix(1, 0, 100);
        buffer data = {0}, got = {0};
        if (cut == PMX_SHARED || cut == PMX_DELIMITED)
            continue;
        world_serve(&w, &p);
        uint64_t id = meet(&w, &peer);
        uint64_t ids[] = {id, id | (uint64_t)PMX_SWITCH << PMX_OP_SHIFT, id};
        int64_t lengths[] = {1, sizeof two, 1};
        int64_t wide[] = {0, 1, 1 + sizeof two, 2 + sizeof two};
        int32_t narrow[] = {0, 1, 1 + sizeof two, 2 + sizeof two};
        const uint8_t *spans[] = {(const uint8_t *)"a",
                                  (const uint8_t *)&two,
                                  (const uint8_t *)"b"};
        append(&data, "a", 1);
        append(&data, &two, sizeof two);
        append(&data, "b", 1);
        pmx_block block = {.cut = cut, .count = 3, .ids = ids,
                           .bounds = lengths, .data = data.bytes,
                           .size = data.size};
        if (cut == PMX_OFFSETS32)
            block.bounds = narrow;
        if (cut == PMX_OFFSETS64)
            block.bounds = wide;
        if (cut == PMX_SPANS)
            block.data = spans;
        pmx_turn t = {.mux = w.mux, .blocks = &block, .block_count = 1};
        EQUAL(pmx_submit(&t), 0);
        UNTIL_DOING(&w, got.size == 4, get(peer, &got));
        CHECK(!memcmp(got.bytes, "a\n\1b", 4));
        leave(peer);
        UNTIL(&w, closed(&w, id));
        release(&data);
        release(&got);
        world_is_clean(&w);
        world_end(&w);
    }
}

/* Lines that were cut beforehand are messages, whatever holds by now. */
static void lines_behind_a_switch_are_framed_anew(void)
{
    world w;
    pmx_sock peer;
    buffer got = {0};
    pmx_policy p = lines("\n", 100), two = prefix(1, 0, 100);
    pmx_policy other = lines(";", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer), ids[] = {id, id};
    pmx_framing as = p.framing;
    pmx_block block = {.cut = PMX_DELIMITED, .count = 2, .ids = ids,
                       .bounds = &as, .data = "a\nbc\n", .size = 5};
    pmx_turn t = {.mux = w.mux, .blocks = &block, .block_count = 1};
    switch_to(&w, id, &two, NULL, 0);
    turn(&w, 0);
    EQUAL(pmx_submit(&t), 0);
    switch_to(&w, id, &other, NULL, 0);
    turn(&w, 0);
    t.block_count = 1;
    EQUAL(pmx_submit(&t), 0);
    UNTIL_DOING(&w, got.size == 10, get(peer, &got));
    CHECK(!memcmp(got.bytes, "\1a\2bca;bc;", 10));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* A line, then frames: all came before the line was answered. What the caller
 * was given beyond it, it gives back. */
static void input_is_cut_anew(uint64_t arena, uint32_t rows, size_t cut)
{
    static const char stream[] = "go\n\0\2hi\0\0\0\3\nyo\0\1";
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100), two = prefix(2, 0, 100);
    world_begin(&w, rows, arena);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer), before = pmx_counts(w.mux)->bytes_in;
    put(peer, stream, cut);
    UNTIL(&w, pmx_counts(w.mux)->bytes_in == before + cut &&
              messages_of(&w, id));
    buffer back = {0}, all = received_by(&w, id);
    for (size_t k = 1; k < messages_of(&w, id); k++) {
        const message *m = message_of(&w, id, k);
        append(&back, w.in.bytes + m->at, m->size);
        append(&back, "\n", 1);
    }
    CHECK(is_text(&w, message_of(&w, id, 0), "go"));
    w.message_count = 0;
    switch_to(&w, id, &two, back.bytes, back.size);
    put(peer, stream + cut, sizeof stream - 1 - cut);
    UNTIL(&w, messages_of(&w, id) == 3);
    buffer got = received_by(&w, id);
    EQUAL(got.size, 5);
    CHECK(!memcmp(got.bytes, "hi\nyo", 5));
    EQUAL(message_of(&w, id, 0)->size, 2);
    EQUAL(message_of(&w, id, 1)->size, 0);
    mux_is_sound(w.mux);
    leave(peer);                /* inside a frame */
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), EPROTO);
    release(&back);
    release(&all);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void input_that_nobody_has_seen_is_cut_anew(void)
{
    for (size_t cut = 3; cut <= 16; cut++) {
        input_is_cut_anew(262144, 4096, cut);
        input_is_cut_anew(262144, 1, cut);
        input_is_cut_anew(16, 4096, cut);
    }
}

/* What the old framing takes for an error is none of the new one, until the
 * batch that came before it has been answered. */
static void what_the_old_framing_cannot_read_is_kept(void)
{
    world w;
    pmx_sock peer, other;
    buffer bulk = {0};
    pmx_policy p = lines("\n", 10), two = prefix(4, 0, 100000);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer), sad = meet(&w, &other);
    append(&bulk, "go\n\0\0\x4e\x20", 7);
    fill(&bulk, 20000, 1);
    put(peer, bulk.bytes, 5000);
    put(other, bulk.bytes, 5000);
    UNTIL(&w, messages_of(&w, id) && messages_of(&w, sad));
    received_is(&w, id, "go|");
    switch_to(&w, id, &two, NULL, 0);
    put(peer, bulk.bytes + 5000, bulk.size - 5000);
    UNTIL(&w, messages_of(&w, id) == 2);
    const message *m = message_of(&w, id, 1);
    EQUAL(m->size, 20000);
    CHECK(!memcmp(w.in.bytes + m->at, bulk.bytes + 7, 20000));
    end_writing(peer);
    UNTIL(&w, closed(&w, id) && closed(&w, sad));
    EQUAL(error_of(&w, id), 0);
    EQUAL(error_of(&w, sad), EMSGSIZE);         /* nobody switched it */
    leave(peer);
    leave(other);
    release(&bulk);
    world_is_clean(&w);
    world_end(&w);
}

static void what_is_given_back_comes_before_an_end_that_was_seen(void)
{
    for (uint32_t half_open = 0; half_open < 2; half_open++) {
        world w;
        pmx_sock peer;
        pmx_policy p = lines("\n", 100), two = prefix(1, 0, 100);
        p.half_open = two.half_open = half_open;
        world_serve(&w, &p);
        uint64_t id = meet(&w, &peer);
        put(peer, "go\n\2hi\n", 7);
        end_writing(peer);
        UNTIL(&w, messages_of(&w, id) == 2);
        if (half_open)
            UNTIL(&w, has(&w.ended, id));
        switch_to(&w, id, &two, "\2hi\1x", 5);
        switch_to(&w, id, &p, NULL, 0);
        switch_to(&w, id, &two, NULL, 0);
        UNTIL(&w, messages_of(&w, id) == 4);
        received_is(&w, id, "go|\2hi|hi|x|");
        mux_is_sound(w.mux);
        if (half_open) {
            UNTIL(&w, has(&w.ended, id) == 2);
            switch_to(&w, id, &p, NULL, 0);     /* there is nothing to cut */
            turn(&w, 0);
            turn(&w, 0);
            EQUAL(has(&w.ended, id), 2);
            do_op(&w, id, PMX_CLOSE);
        }
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), 0);
        leave(peer);
        world_is_clean(&w);
        world_end(&w);
    }
}

/* What was searched for the old delimiter is searched for the new one. */
static void a_search_begins_anew(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100), two = lines(";", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer), before = pmx_counts(w.mux)->bytes_in;
    put_text(peer, "a;bc;d");
    UNTIL(&w, pmx_counts(w.mux)->bytes_in == before + 6);
    switch_to(&w, id, &two, NULL, 0);
    UNTIL(&w, messages_of(&w, id) == 2);
    received_is(&w, id, "a|bc|");
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
}

/* A batch that gathers is kept, and so is the list of connections that end
 * with it: one that switches in vain must not be in it twice. */
static void an_end_may_be_put_off_again_and_again(void)
{
    world w;
    pmx_sock peer, others[2];
    pmx_policy p = lines("\n", 5), two = prefix(1, 0, 3), three = two;
    three.framing.width = 2;
    world_begin(&w, 2, 1000);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    for (int k = 0; k < 2; k++)
        (void)meet(&w, &others[k]);     /* they may bring the second message */
    put_text(peer, "go\n\377\377 is too long");
    int64_t until = deadline();
    while (!w.mux->ending_count) {
        int reason = turn_of(&w, PMX_LOOK, 2, INT64_MAX / 2);
        CHECK(!reason || reason == PMX_GATHERING);
        CHECK(pmx__now() < until);
    }
    CHECK(w.mux->gathering && w.mux->ending_count == 1);
    for (int k = 0; k < 10; k++) {
        switch_to(&w, id, k % 2 ? &three : &two, NULL, 0);
        EQUAL(turn_of(&w, PMX_LOOK, 2, INT64_MAX / 2), PMX_GATHERING);
        EQUAL(w.mux->ending_count, 1);
        mux_is_sound(w.mux);
    }
    UNTIL(&w, messages_of(&w, id) == 1);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), EMSGSIZE);
    leave(peer);
    for (int k = 0; k < 2; k++)
        leave(others[k]);
    UNTIL(&w, w.closed_count == 3);
    world_is_clean(&w);
    world_end(&w);
}

static void one_that_closes_or_is_gone_does_not_switch(void)
{
    world w;
    pmx_sock peer;
    buffer got = {0};
    pmx_policy p = lines("\n", 100), two = prefix(1, 0, 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    say_text(&w, id, "bye");
    do_op(&w, id, PMX_CLOSE);
    switch_to(&w, id, &two, "\1x", 2);
    UNTIL_DOING(&w, got.size == 4, get(peer, &got));
    CHECK(is_text_of(&got, "bye\n"));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(w.message_count, 0);
    switch_to(&w, id, &two, "\1x", 2);
    switch_to(&w, 77, &two, "\1x", 2);
    turn(&w, 0);
    /* its peer is gone, which the output before the switch finds out */
    id = meet(&w, &peer);
    do_op(&w, id, PMX_PAUSE);
    turn(&w, 0);
    reset_peer(peer);
    say_text(&w, id, "old");
    switch_to(&w, id, &two, NULL, 0);
    say_text(&w, id, "new");
    UNTIL(&w, closed(&w, id));
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void one_that_connects_can_switch(void)
{
    world w;
    pmx_policy p = lines("\n", 100), two = prefix(1, 0, 100);
    uint64_t id;
    world_serve(&w, &p);
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    say_text(&w, id, "old");
    switch_to(&w, id, &two, "\1a\2", 3);
    say_text(&w, id, "new");
    UNTIL(&w, w.opened.count == 2 && w.message_count == 2);
    uint64_t other = w.opened.ids[w.opened.ids[0] == id];
    do_op(&w, other, PMX_CLOSE);
    UNTIL(&w, closed(&w, id) && closed(&w, other));
    received_is(&w, id, "a|");
    EQUAL(error_of(&w, id), EPROTO);            /* two bytes were to come */
    received_is(&w, other, "old|");
    world_is_clean(&w);
    world_end(&w);
}

/* While a mux drains: what has arrived is cut anew, and no more is read. */
static void a_drain_does_not_hinder_it(void)
{
    for (int broken = 0; broken < 2; broken++) {
        world w;
        pmx_sock peer;
        pmx_policy p = lines("\n", 5), two = prefix(1, 0, 100);
        world_serve(&w, &p);
        uint64_t id = meet(&w, &peer);
        put_text(peer, broken ? "go\n\10too long" : "go\n\2hi");
        EQUAL(pmx_drain(w.mux), 0);
        UNTIL(&w, messages_of(&w, id));
        EQUAL(!!pmx__find(w.mux, id)->error, broken);
        switch_to(&w, id, &two, NULL, 0);
        offer(peer, "\4late", 5);
        end_if_untold(peer);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), 0);
        const message *m = message_of(&w, id, 1);
        CHECK(is_text(&w, m, broken ? "too long" : "hi"));
        mux_is_sound(w.mux);
        leave(peer);
        world_is_clean(&w);
        world_end(&w);
    }
}

static void memory_that_cannot_be_had_ends_the_connection(void)
{
    int failures = 0;
    for (long at = 1; at < 40; at++) {
        world w;
        pmx_sock peer;
        pmx_policy p = lines("\n", 100), two = prefix(1, 0, 255);
        buffer back = {0};
        world_serve(&w, &p);
        uint64_t id = meet(&w, &peer);
        put_text(peer, "go\nhalf a line");
        UNTIL(&w, messages_of(&w, id));
        for (int k = 0; k < 400; k++)
            append(&back, "\1x", 2);
        switch_to(&w, id, &two, back.bytes, back.size);
        test_fail_at = at;
        turn(&w, 0);
        int failed = !test_fail_at;
        test_fail_at = 0;
        failures += failed;
        if (!failed)
            at = 40;
        UNTIL(&w, closed(&w, id) || messages_of(&w, id) > 400);
        if (closed(&w, id))
            EQUAL(error_of(&w, id), ENOMEM);
        leave(peer);
        UNTIL(&w, closed(&w, id));
        release(&back);
        world_is_clean(&w);
        world_end(&w);
    }
    CHECK(failures >= 2);
}

const test_case switch_tests[] = {
    EACH(output_is_framed_by_what_holds_when_it_is_logged),
    EACH(queued_output_keeps_its_framing),
    EACH(blocks_of_each_kind_can_switch),
    EACH(lines_behind_a_switch_are_framed_anew),
    EACH(input_that_nobody_has_seen_is_cut_anew),
    EACH(what_the_old_framing_cannot_read_is_kept),
    EACH(what_is_given_back_comes_before_an_end_that_was_seen),
    EACH(a_search_begins_anew),
    EACH(an_end_may_be_put_off_again_and_again),
    EACH(one_that_closes_or_is_gone_does_not_switch),
    EACH(one_that_connects_can_switch),
    EACH(a_drain_does_not_hinder_it),
    EACH(memory_that_cannot_be_had_ends_the_connection),
    {0},
};
