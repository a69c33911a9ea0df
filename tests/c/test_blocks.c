/* The blocks of the log: how they are cut, and shared. */
#include "world.h"

#include <string.h>

static int harvest_blocks(world *w, const pmx_block *blocks, uint32_t count)
{
    pmx_turn t = {.mux = w->mux, .arena = w->arena, .blocks = blocks,
                  .block_count = count, .timeout_ns = 0};
    return pmx_harvest(&t);
}

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

static void each_cut_says_where_pieces_are(void)
{
    static const int64_t lengths[] = {3, 0, 2};
    static const int32_t narrow[] = {1, 1, 4, 6};
    static const int64_t wide[] = {0, 2, 2, 5};
    world w;
    pmx_sock peers[2];
    pmx_policy p = lines(";", 100);
    world_serve(&w, &p);
    uint64_t a = meet(&w, &peers[0]), b = meet(&w, &peers[1]);
    const uint64_t ids[] = {a, b, a};
    const pmx_block blocks[] = {
        {PMX_LENGTHS, 3, ids, lengths, (const uint8_t *)"abcde", 5},
        {PMX_OFFSETS32, 3, ids, narrow, (const uint8_t *)"012345", 6},
        {PMX_OFFSETS64, 3, ids, wide, (const uint8_t *)"ABCDE", 5},
        {PMX_SHARED, 3, ids, NULL, (const uint8_t *)"!", 1},
    };
    CHECK(harvest_blocks(&w, blocks, 4) >= 0);
    gets(&w, peers[0], "abc;de;;45;AB;CDE;!;!;");
    gets(&w, peers[1], ";123;;!;");
    EQUAL(pmx_counts(w.mux)->messages_out, 12);
    hang_up(&w, peers[0]);
    hang_up(&w, peers[1]);
    world_is_clean(&w);
    world_end(&w);
}

/* A piece that is not within its data is left out; the others are sent. */
static void bounds_that_make_no_sense_harm_nobody(void)
{
    static const int64_t lengths[] = {1, INT64_MAX, -1, INT64_MIN};
    static const int32_t narrow[] = {0, 1, -1, 1};
    static const int32_t falling[] = {5, 3, 6, INT32_MAX, INT32_MIN};
    static const int64_t wide[] = {INT64_MIN, 0, 1, INT64_MAX, 4};
    world w;
    pmx_sock peer;
    pmx_policy p = lines(";", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    const uint64_t ids[] = {id, id, id, id};
    const pmx_block blocks[] = {
        {PMX_LENGTHS, 4, ids, lengths, (const uint8_t *)"abcde", 5},
        {PMX_OFFSETS32, 3, ids, narrow, (const uint8_t *)"01234", 5},
        {PMX_OFFSETS32, 4, ids, falling, (const uint8_t *)"01234", 5},
        {PMX_OFFSETS64, 4, ids, wide, (const uint8_t *)"ABCDE", 5},
        {PMX_SHARED, 1, ids, NULL, (const uint8_t *)"end", 3},
    };
    CHECK(harvest_blocks(&w, blocks, 5) >= 0);
    gets(&w, peer, "a;0;A;end;");
    hang_up(&w, peer);
    world_is_clean(&w);
    world_end(&w);
}

static void ids_that_nobody_has_harm_nobody(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    const uint64_t ids[] = {
        0, 1, 2, UINT64_MAX, UINT64_MAX & PMX_ID_MASK, id + 1,
        id + (UINT64_C(1) << 32), id + (UINT64_C(2) << 32), w.listener,
        id | UINT64_C(15) << PMX_OP_SHIFT, id | UINT64_C(9) << PMX_OP_SHIFT,
        (id + (UINT64_C(2) << 32)) | (uint64_t)PMX_CLOSE << PMX_OP_SHIFT,
        (id + (UINT64_C(2) << 32)) | (uint64_t)PMX_ABORT << PMX_OP_SHIFT,
        UINT64_C(7) | (uint64_t)PMX_PAUSE << PMX_OP_SHIFT, id,
    };
    const pmx_block block = {PMX_SHARED, 15, ids, NULL,
                             (const uint8_t *)"data", 4};
    CHECK(harvest_blocks(&w, &block, 1) >= 0);
    gets(&w, peer, "data");
    EQUAL(pmx_queued(w.mux, 0), 0);
    EQUAL(pmx_queued(w.mux, UINT64_MAX), 0);
    EQUAL(pmx_unacknowledged(w.mux, 0), -ENOENT);
    EQUAL(pmx_unacknowledged(w.mux, UINT64_MAX), -ENOENT);
    EQUAL(pmx_policy_of(w.mux, id + 1, &p), -ENOENT);
    pmx_address names[2];
    EQUAL(pmx_addresses(w.mux, UINT64_MAX, names), -ENOENT);
    EQUAL(pmx_unlisten(w.mux, id), -ENOENT);
    EQUAL(pmx_listener_address(w.mux, UINT64_MAX, names), -ENOENT);
    hang_up(&w, peer);
    world_is_clean(&w);
    world_end(&w);
}

static void empty_blocks_are_nothing(void)
{
    world w;
    pmx_policy p = raw();
    world_serve(&w, &p);
    const pmx_block blocks[300] = {{.cut = PMX_LENGTHS}, {.cut = PMX_SHARED}};
    CHECK(harvest_blocks(&w, blocks, 300) >= 0);
    CHECK(harvest_blocks(&w, NULL, 0) >= 0);
    world_is_clean(&w);
    world_end(&w);
}

/* send_many to slow readers: one buffer, however many they are. */
static void a_shared_block_is_kept_once(void)
{
    enum { COUNT = 6 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    size_t size = 6 << 20;
    buffer data = {0}, got[COUNT];
    pmx_policy p = prefix(4, 0, 8 << 20);
    world_serve(&w, &p);
    memset(got, 0, sizeof got);
    for (int i = 0; i < COUNT; i++)
        ids[i] = meet_small(&w, &peers[i]);
    fill(&data, size, 1);
    const pmx_block block = {PMX_SHARED, COUNT, ids, NULL, data.bytes, size};
    uint64_t before = pmx_counts(w.mux)->buffers;
    CHECK(harvest_blocks(&w, &block, 1) >= 0);
    const pmx_stats *s = pmx_counts(w.mux);
    CHECK(s->queued > size + size / 2);
    CHECK(s->buffers - before < size + size / 4);
    /* one is reset, one aborted, the rest get all of it */
    reset_peer(peers[0]);
    do_op(&w, ids[1], PMX_ABORT);
    UNTIL(&w, w.closed_count == 2);
    size_t whole = 0;
    int64_t until = deadline();
    while (whole < COUNT - 2) {
        whole = 0;
        for (int i = 2; i < COUNT; i++) {
            get(peers[i], &got[i]);
            whole += got[i].size == size + 4;
        }
        turn(&w, 0);
        CHECK(pmx__now() < until);
    }
    for (int i = 2; i < COUNT; i++) {
        CHECK(!memcmp(got[i].bytes + 4, data.bytes, size));
        release(&got[i]);
        hang_up(&w, peers[i]);
    }
    leave(peers[1]);
    release(&data);
    world_is_clean(&w);
    world_end(&w);
}

static void a_submitted_log_leaves_before_the_harvest(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    const pmx_block block = {PMX_SHARED, 1, &id, NULL,
                             (const uint8_t *)"now", 3};
    pmx_turn t = {.mux = w.mux, .blocks = &block, .block_count = 1};
    EQUAL(pmx_submit(&t), 0);
    EQUAL(pmx_counts(w.mux)->bytes_out, 3);
    gets(&w, peer, "now");
    hang_up(&w, peer);
    world_is_clean(&w);
    world_end(&w);
}

const test_case block_tests[] = {
    EACH(each_cut_says_where_pieces_are),
    EACH(bounds_that_make_no_sense_harm_nobody),
    EACH(ids_that_nobody_has_harm_nobody),
    ONCE(empty_blocks_are_nothing),
    EACH(a_shared_block_is_kept_once),
    ONCE(a_submitted_log_leaves_before_the_harvest),
    {0},
};
