/* Large frames: assembled once, handed over with their memory. */
#include "world.h"

#include <string.h>

/* Bytes copied is what must not grow with the square of the size: count the
 * processor's time for two sizes. The peer is this process, so part of it. */
static int64_t time_of(uint32_t size, const pmx_policy *p)
{
    world w;
    pmx_sock peer;
    world_serve(&w, p);
    uint64_t id = meet(&w, &peer);
    buffer frame = {0};
    uint8_t head[8];
    append(&frame, head, frame_head(&p->framing, size, head));
    size_t begin = frame.size;
    while (frame.size < begin + size)
        append(&frame, "abcdefghijklmnopqrstuvwxyz", 26);
    frame.size = begin + size;
    append(&frame, p->framing.delimiter,
           p->framing.kind == PMX_LINES ? p->framing.width : 0);
    w.forget = 1;
    int64_t before = test_cpu_ns();
    for (size_t at = 0; at < frame.size;) {
        /* pieces of about what one segment carries */
        size_t piece = frame.size - at < 60000 ? frame.size - at : 60000;
        int64_t n = offer(peer, frame.bytes + at, piece);
        at += n > 0 ? (size_t)n : 0;
        turn(&w, 0);
    }
    UNTIL(&w, w.bytes == size);
    int64_t took = test_cpu_ns() - before;
    CHECK(w.large);
    EQUAL(w.large->size, size);
    EQUAL(w.large->offsets[1], size);
    EQUAL(w.large->ids[0], id);
    EQUAL(w.large->uniform, size);
    CHECK(!memcmp(w.large->data, frame.bytes + begin, size));
    release(&frame);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    world_is_clean(&w);
    world_end(&w);
    return took;
}

static void a_large_frame_takes_time_in_proportion(void)
{
    pmx_policy policies[] = {prefix(4, 0, 1 << 24), lines("\r\n", 1 << 24)};
    for (size_t i = 0; i < 2; i++) {
        int64_t small = time_of(1 << 20, &policies[i]);
        int64_t large = time_of(1 << 24, &policies[i]);
        CHECK(large < 80 * small + 500 * MS);   /* the square would be 256 */
    }
    pmx_policy p = fixed(1 << 20);
    (void)time_of(1 << 20, &p);
}

static void a_large_frame_in_tiny_pieces_is_not_copied_each_time(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = prefix(4, 0, 1 << 20);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    put(peer, "\0\1\206\240", 4);       /* 100,000 */
    uint64_t grown = 0, before = 0;
    for (int i = 0; i < 2000; i++) {
        put(peer, "01234567890123456789012345678901234567890123456789", 50);
        turn(&w, 0);
        grown += pmx_counts(w.mux)->buffers != before;
        before = pmx_counts(w.mux)->buffers;
    }
    UNTIL(&w, w.message_count == 1);
    CHECK(grown < 80);
    EQUAL(w.messages[0].size, 100000);
    for (size_t i = 0; i < 100000; i++)
        CHECK(w.in.bytes[i] == '0' + i % 10);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
}

/* Large, small, large, small ... through one connection, and another's. */
static void large_and_small_frames_stay_in_order(void)
{
    static const uint32_t sizes[] = {70000, 0, 65536, 5, 65535, 300000, 1, 9,
                                     262144, 262145, 66000, 66000, 2};
    enum { COUNT = sizeof sizes / sizeof *sizes };
    world w;
    pmx_sock peers[2];
    uint64_t ids[2];
    pmx_policy p = prefix(4, 0, 1 << 20);
    world_serve(&w, &p);
    buffer sent = {0}, pieces = {0};
    for (int i = 0; i < COUNT; i++) {
        uint8_t head[8];
        append(&sent, head, frame_head(&p.framing, sizes[i], head));
        size_t begin = sent.size;
        fill(&sent, sizes[i], (uint32_t)i);
        append(&pieces, sent.bytes + begin, sizes[i]);
    }
    size_t at[2] = {0, 0};
    for (int k = 0; k < 2; k++)
        ids[k] = meet(&w, &peers[k]);
    UNTIL_DOING(&w, w.message_count == 2 * COUNT, {
        put_some(peers[0], &sent, &at[0]);
        put_some(peers[1], &sent, &at[1]);
    });
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < COUNT; i++)
            EQUAL(message_of(&w, ids[k], i)->size, sizes[i]);
        buffer all = received_by(&w, ids[k]);
        CHECK(same(&all, &pieces));
        release(&all);
        leave(peers[k]);
    }
    UNTIL(&w, w.closed_count == 2);
    release(&sent);
    release(&pieces);
    world_is_clean(&w);
    world_end(&w);
}

static void a_large_frame_at_the_end_of_a_stream_is_answered(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 1 << 20);
    world_serve(&w, &p);
    w.echo = 1;
    uint64_t id = meet(&w, &peer);
    buffer sent = {0}, got = {0};
    append(&sent, "first\n", 6);
    for (int i = 0; i < 20000; i++)
        append(&sent, "0123456789", 10);
    size_t at = 0;
    int64_t until = deadline();
    while (!put_some(peer, &sent, &at)) {
        turn(&w, MS);
        CHECK(pmx__now() < until);
    }
    end_writing(peer);
    UNTIL_DOING(&w, closed(&w, id), {
        if (get(peer, &got) <= 0)
            end_both(peer);
    });
    get(peer, &got);
    append(&sent, "\n", 1);     /* the last line's, in the answer */
    CHECK(same(&sent, &got));
    EQUAL(error_of(&w, id), 0);
    leave(peer);
    release(&sent);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

const test_case large_tests[] = {
    ONCE(a_large_frame_takes_time_in_proportion),
    EACH(a_large_frame_in_tiny_pieces_is_not_copied_each_time),
    EACH(large_and_small_frames_stay_in_order),
    EACH(a_large_frame_at_the_end_of_a_stream_is_answered),
    {0},
};
