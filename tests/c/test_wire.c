/* Frames that stay or stand as they are on the wire: delimiters left in
 * place, replies that have theirs, runs of small frames, pmx_exchange(). */
#include "world.h"

#include <string.h>

static void gets(world *w, pmx_sock peer, const char *text)
{
    buffer got = {0};
    UNTIL_DOING(w, got.size >= strlen(text), get(peer, &got));
    CHECK(is_text_of(&got, text));
    release(&got);
}

static void hang_up(world *w, pmx_sock peer)
{
    size_t before = w->closed_count;
    leave(peer);
    UNTIL(w, w->closed_count > before);
}

/* One harvest with one block, sent to where the test wants it. */
static int harvest_block(world *w, const pmx_block *block)
{
    pmx_turn t = {.mux = w->mux, .arena = w->arena, .blocks = block,
                  .block_count = 1};
    return pmx_harvest(&t);
}

static void delimiters_stay_where_everybody_has_the_same(void)
{
    world w;
    pmx_sock peers[2];
    pmx_policy p = lines("\r\n", 100);
    world_serve(&w, &p);
    w.gaps = 1;
    uint64_t a = meet(&w, &peers[0]), b = meet(&w, &peers[1]);
    put_text(peers[0], "one\r\n\r\nthree\r\nand");
    put_text(peers[1], "1\r\n2\r\n");
    turn(&w, MS);
    UNTIL(&w, messages_of(&w, a) == 3 && messages_of(&w, b) == 2);
    CHECK(w.t.arena->gap == 2 || !w.t.messages);
    put_text(peers[0], " more\r\n");
    UNTIL(&w, messages_of(&w, a) == 4);
    EQUAL(w.t.arena->gap, 2);
    EQUAL(w.t.arena->size, 10);
    pmx_close_gaps(w.arena);
    EQUAL(w.arena->size, 8);
    EQUAL(w.arena->offsets[1], 8);
    CHECK(!memcmp(w.arena->data, "and more", 8));
    pmx_close_gaps(w.arena);            /* twice is once */
    EQUAL(w.arena->size, 8);
    CHECK(is_text(&w, message_of(&w, a, 2), "three"));
    hang_up(&w, peers[0]);
    hang_up(&w, peers[1]);
    world_is_clean(&w);
    world_end(&w);
}

/* What is no line with the same delimiter closes the gaps of all. */
static void a_mixed_batch_has_no_gaps(void)
{
    world w;
    pmx_policy policies[] = {lines("\n", 100), lines("\r\n", 100),
                             prefix(1, 0, 100), raw()};
    static const char *const said[] = {"a\nbc\n\nd", "e\r\n\r\nfg", "\1h\2ij",
                                       "klm"};
    static const char *const text[] = {"abcd", "efg", "hij", "klm"};
    for (uint32_t order = 0; order < 16; order++) {
        pmx_sock peers[4];
        uint64_t ids[4];
        world_begin(&w, 4096, 262144);
        w.gaps = 1;
        for (int k = 0; k < 4; k++) {
            world_listen(&w, &policies[k]);
            ids[k] = meet(&w, &peers[k]);
        }
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t i = order & 1 ? 3 - k : k;
            i = order & 2 ? i ^ 1 : i;
            if (order >> 2 == i)
                continue;
            put_text(peers[i], said[i]);
            end_writing(peers[i]);
        }
        /* all but one of the four hang up once they are answered */
        UNTIL(&w, w.closed_count == 3);
        for (uint32_t i = 0; i < 4; i++) {
            buffer all = received_by(&w, ids[i]);
            CHECK(is_text_of(&all, order >> 2 == i ? "" : text[i]));
            release(&all);
        }
        for (int i = 0; i < 4; i++)
            leave(peers[i]);
        UNTIL(&w, w.closed_count == 4);
        world_is_clean(&w);
        world_end(&w);
    }
}

/* Bytes that have no delimiter fill a batch to its end, and no further. */
static void raw_bytes_behind_lines_stay_within_the_batch(void)
{
    world w;
    pmx_sock speaker, flood;
    pmx_policy p = lines("\n", 100), q = raw();
    buffer said = {0};
    world_begin(&w, 100, 10000);
    w.gaps = 1;
    world_listen(&w, &p);
    (void)meet(&w, &speaker);
    world_listen(&w, &q);
    uint64_t id = meet(&w, &flood);
    fill(&said, 200000, 1);
    size_t at = 0;
    for (int whole = 0; !whole;) {
        put_text(speaker, "a\nb\n");
        put_some(flood, &said, &at);
        turn(&w, MS);
        CHECK(w.arena->size <= w.arena->capacity);
        buffer all = received_by(&w, id);
        CHECK(all.size <= said.size);
        whole = same(&all, &said);
        CHECK(whole || all.size < said.size);
        release(&all);
    }
    release(&said);
    hang_up(&w, speaker);
    hang_up(&w, flood);
    world_is_clean(&w);
    world_end(&w);
}

static void delimited_replies_go_out_as_they_are(void)
{
    world w;
    pmx_sock peers[2];
    pmx_policy p = lines("\n", 4);      /* replies may be longer */
    pmx_framing is = lines("\n", INT32_MAX).framing;
    world_serve(&w, &p);
    uint64_t a = meet(&w, &peers[0]), b = meet(&w, &peers[1]);
    const uint64_t ids[] = {a, a, b, a, b + 2, b};
    static const char text[] = "one\ntwo\nthree\n\nnobody's\nsix and more\n";
    pmx_block block = {PMX_DELIMITED, 6, ids, &is, (const uint8_t *)text,
                       sizeof text - 1};
    CHECK(harvest_block(&w, &block) >= 0);
    gets(&w, peers[0], "one\ntwo\n\n");
    gets(&w, peers[1], "three\nsix and more\n");
    EQUAL(pmx_counts(w.mux)->messages_out, 5);
    EQUAL(pmx_counts(w.mux)->discarded, 9);
    /* fewer lines than ids: what there is is sent, and nothing else */
    block.size = 6;
    CHECK(harvest_block(&w, &block) >= 0);
    gets(&w, peers[0], "one\n");
    block.size = 0;
    CHECK(harvest_block(&w, &block) >= 0);
    hang_up(&w, peers[0]);
    hang_up(&w, peers[1]);
    world_is_clean(&w);
    world_end(&w);
}

/* Runs for one connection, cut by others, by what is large and by what makes
 * no sense; the columns not aligned. */
static void runs_of_small_frames_keep_order_and_frames(void)
{
    pmx_policy policies[] = {raw(), lines("<>", 9000), prefix(2, 1, 9000)};
    for (int kind = 0; kind < 3; kind++) {
        world w;
        pmx_sock peers[2];
        pmx_policy *p = &policies[kind];
        world_serve(&w, p);
        uint64_t to[2] = {meet(&w, &peers[0]), meet(&w, &peers[1])};
        buffer data = {0}, wanted[2] = {{0}, {0}}, got[2] = {{0}, {0}};
        buffer ids = {0}, bounds = {0};
        uint32_t x = 11, count = 0;
        append(&ids, "x", 1);
        append(&bounds, "yz", 3);
        int32_t at = 0;
        append(&bounds, &at, 4);
        for (int k = 0; k < 2000; k++) {
            x = x * 1664525u + 1013904223u;
            size_t size = k % 100 == 50 ? 6000 : x >> 27;
            uint64_t id = to[k / 7 % 2 && x >> 31];
            if (k % 300 == 299)
                id += 5;                /* nobody */
            uint8_t head[8];
            buffer *b = id == to[0] ? &wanted[0]
                        : id == to[1] ? &wanted[1] : NULL;
            size_t begin = data.size;
            fill(&data, size, x);
            if (b) {
                append(b, head,
                       frame_head(&p->framing, size, head));
                append(b, data.bytes + begin, size);
                append(b, "<>", kind == 1 ? 2 : 0);
            }
            at = (int32_t)data.size;
            append(&ids, &id, 8);
            append(&bounds, &at, 4);
            count++;
        }
        const pmx_block block = {PMX_OFFSETS32, count, ids.bytes + 1,
                                 bounds.bytes + 3, data.bytes, data.size};
        CHECK(harvest_block(&w, &block) >= 0);
        for (int i = 0; i < 2; i++) {
            UNTIL_DOING(&w, got[i].size >= wanted[i].size,
                        get(peers[i], &got[i]));
            CHECK(same(&got[i], &wanted[i]));
            release(&got[i]);
            release(&wanted[i]);
            hang_up(&w, peers[i]);
        }
        release(&data);
        release(&ids);
        release(&bounds);
        world_is_clean(&w);
        world_end(&w);
    }
}

/* Small frames that together pass max_output end the connection, as they
 * would one by one; what finds the queue empty is taken. */
static void runs_are_held_to_max_output(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = prefix(1, 0, 255);
    p.max_output = 1000;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    for (int k = 0; k < 9; k++)
        say_text(&w, id, "0123456789012345678901234567890123456789012345678");
    turn(&w, 0);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    EQUAL(pmx_counts(w.mux)->bytes_out, 450);
    for (int k = 0; k < 60; k++)
        say_text(&w, id, "0123456789012345678901234567890123456789012345678");
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOBUFS);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void an_exchange_is_a_harvest_with_a_log(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    uint8_t ids[17], lengths[17];
    const int64_t sizes[2] = {2, 3};
    memcpy(ids + 1, &id, 8);
    memcpy(ids + 9, &id, 8);
    memcpy(lengths + 1, sizes, 16);
    pmx_turn t = {.mux = w.mux, .arena = w.arena};
    put_text(peer, "a\nb\n");
    int64_t result = pmx_exchange(&t, -1, 1, ids + 1, NULL,
                                  (const uint8_t *)"hello", 5);
    EQUAL(result >> PMX_MESSAGES_SHIFT, t.messages);
    CHECK(t.messages == 2 || t.messages == 1);
    EQUAL(result & ((1 << PMX_MESSAGES_SHIFT) - 1), t.reason);
    CHECK(PMX_GATHERING < 1 << PMX_MESSAGES_SHIFT);     /* and room for more */
    gets(&w, peer, "hello\n");
    EQUAL(pmx_exchange(&t, 0, 2, ids + 1, lengths + 1,
                       (const uint8_t *)"hello", 5) &
          ((1 << PMX_MESSAGES_SHIFT) - 1), 0);
    gets(&w, peer, "he\nllo\n");
    EQUAL(pmx_exchange(&t, 0, 0, NULL, NULL, NULL, 0), 0);
    hang_up(&w, peer);
    world_is_clean(&w);
    world_end(&w);
}

/* Operations among them, a frame of nothing, and more than a socket takes. */
static void pieces_wherever_they_are_go_out_in_order(void)
{
    world w;
    pmx_sock peer;
    int ended = 1;
    pmx_policy p = lines("\n", 100);
    buffer large = {0}, got = {0}, wanted = {0};
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    fill(&large, 3000000, 7);
    const uint64_t ids[5] = {id, id, id, id,
                             id | (uint64_t)PMX_SEND_EOF << PMX_OP_SHIFT};
    const int64_t sizes[5] = {2, (int64_t)large.size, 0, 3, 0};
    const void *spans[5] = {"ab", large.bytes, NULL, "cde", NULL};
    pmx_turn t = {.mux = w.mux, .arena = w.arena};
    CHECK(pmx_exchange(&t, 0, (uint64_t)PMX_SPANS << PMX_CUT_SHIFT | 5, ids,
                       sizes, spans, 5) >= 0);
    EQUAL(w.mux->stats->messages_out, 4);
    append(&wanted, "ab\n", 3);
    append(&wanted, large.bytes, large.size);
    append(&wanted, "\n\ncde\n", 6);
    UNTIL_DOING(&w, ended <= 0, ended = get(peer, &got));
    CHECK(same(&got, &wanted));
    release(&large);
    release(&got);
    release(&wanted);
    hang_up(&w, peer);
    world_is_clean(&w);
    world_end(&w);
}

const test_case wire_tests[] = {
    EACH(delimiters_stay_where_everybody_has_the_same),
    ONCE(a_mixed_batch_has_no_gaps),
    ONCE(raw_bytes_behind_lines_stay_within_the_batch),
    ONCE(delimited_replies_go_out_as_they_are),
    ONCE(runs_of_small_frames_keep_order_and_frames),
    ONCE(runs_are_held_to_max_output),
    EACH(an_exchange_is_a_harvest_with_a_log),
    EACH(pieces_wherever_they_are_go_out_in_order),
    {0},
};
