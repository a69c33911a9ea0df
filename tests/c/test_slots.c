/* Ids, slots and their generations. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void an_id_is_never_used_again(void)
{
    enum { ROUNDS = 300 };
    world w;
    uint64_t ids[ROUNDS];
    pmx_policy p = raw();
    needs_resets();
    world_serve(&w, &p);
    for (int i = 0; i < ROUNDS; i++) {
        pmx_sock peer;
        ids[i] = meet(&w, &peer);
        for (int k = 0; k < i; k++) {
            CHECK(ids[k] != ids[i]);
            say_text(&w, ids[k], "stale");
            do_op(&w, ids[k], PMX_ABORT);
        }
        put_text(peer, "x");
        UNTIL(&w, messages_of(&w, ids[i]) == 1);
        reset_peer(peer);
        UNTIL(&w, closed(&w, ids[i]));
        EQUAL(error_of(&w, ids[i]), ECONNRESET);
    }
    CHECK(w.mux->slots < 4);            /* slots are */
    EQUAL(pmx_counts(w.mux)->bytes_out, 0);
    world_is_clean(&w);
    world_end(&w);
}

static void a_slot_is_used_again_in_the_next_turn_at_the_earliest(void)
{
    world w;
    pmx_sock first, second, third;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &first);
    do_op(&w, id, PMX_ABORT);
    second = call(&w);
    UNTIL(&w, w.opened.count == 2);
    CHECK(closed(&w, id));
    CHECK((uint32_t)w.opened.ids[1] != (uint32_t)id);
    third = call(&w);
    UNTIL(&w, w.opened.count == 3);
    EQUAL((uint32_t)w.opened.ids[2], (uint32_t)id);
    EQUAL(w.opened.ids[2] >> 32, (id >> 32) + 2);
    leave(first);
    leave(second);
    leave(third);
    UNTIL(&w, w.closed_count == 3);
    world_is_clean(&w);
    world_end(&w);
}

static void a_slot_whose_generations_are_used_up_is_retired(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    turn(&w, 0);
    pmx__slot(w.mux, (uint32_t)id)->generation = PMX__GENERATIONS - 2;
    uint64_t last = meet(&w, &peer);
    EQUAL((uint32_t)last, (uint32_t)id);
    EQUAL(last & ~PMX_ID_MASK, 0);      /* an operation fits above it */
    say_text(&w, last, "works");
    buffer got = {0};
    UNTIL_DOING(&w, got.size == 5, get(peer, &got));
    release(&got);
    leave(peer);
    UNTIL(&w, closed(&w, last));
    turn(&w, 0);
    uint64_t next = meet(&w, &peer);
    CHECK((uint32_t)next != (uint32_t)id);
    EQUAL(pmx__find(w.mux, last) != NULL, 0);
    leave(peer);
    UNTIL(&w, closed(&w, next));
    turn(&w, 0);
    for (uint32_t at = w.mux->free.head; at != PMX__NONE;
         at = pmx__slot(w.mux, at)->ready_next)
        CHECK(at != (uint32_t)id);
    world_is_clean(&w);
    world_end(&w);
}

#ifndef _WIN32
static void slots_are_small_and_never_move(void)
{
    enum { COUNT = 1100 };              /* more than a slab */
    world w;
    pmx_policy p = raw();
    uint64_t ids[COUNT];
    world_begin(&w, 4096, 262144);
    pmx_endpoint at = {.path = "/nowhere/at/all", .path_size = 15};
    if (sizeof(void *) == 8)
        CHECK(sizeof(pmx__conn) <= 96);
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[0]), 0);
    const pmx__conn *first = pmx__slot(w.mux, (uint32_t)ids[0]);
    for (int i = 1; i < COUNT; i++)
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[i]), 0);
    CHECK(first == pmx__slot(w.mux, (uint32_t)ids[0]));
    UNTIL(&w, w.closed_count == COUNT);
    for (int i = 0; i < COUNT; i++)
        EQUAL(error_of(&w, ids[i]), ENOENT);
    world_is_clean(&w);
    /* rules that are the same are kept once, then not at all */
    EQUAL(w.mux->rules_count, 0);
    world_end(&w);
}
#endif

#ifndef _WIN32
static uint32_t longest_chain(const pmx_mux *m)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < m->rules_room; i++) {
        uint32_t length = 0;
        for (const pmx__rules *r = m->rules[i]; r; r = r->next)
            length++;
        longest = length > longest ? length : longest;
    }
    return longest;
}

static void policies_are_found_however_many_there_are(void)
{
    enum { COUNT = 500 };
    world w;
    pmx_policy p = raw();
    uint64_t id;
    world_begin(&w, 4096, 262144);
    pmx_endpoint at = {.path = "/nowhere/at/all", .path_size = 15};
    for (int i = 0; i < COUNT; i++) {   /* timeouts are no policy's */
        p.connect_ns = INT64_C(1000000000) + i;
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    }
    EQUAL(w.mux->rules_count, 1);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < COUNT; i++) {
            p.idle_ns = INT64_C(1000000000) + i;
            EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
        }
    EQUAL(w.mux->rules_count, 1 + COUNT);
    CHECK(longest_chain(w.mux) < 12);
    UNTIL(&w, w.closed_count == 3 * COUNT);
    world_is_clean(&w);
    EQUAL(w.mux->rules_count, 0);
    world_end(&w);
}

static void a_table_of_policies_that_cannot_grow_serves(void)
{
    world w;
    pmx_policy p = raw();
    uint64_t id;
    world_begin(&w, 4096, 262144);
    pmx_endpoint at = {.path = "/nowhere/at/all", .path_size = 15};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    uint32_t room = w.mux->rules_room;
    for (int i = 1; w.mux->rules_count < room; i++) {
        p.idle_ns = i;
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    }
    test_fail_at = 2;                   /* the route first, then the table */
    p.idle_ns = INT64_MAX;
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    EQUAL(test_fail_at, 0);
    EQUAL(w.mux->rules_room, room);
    EQUAL(w.mux->rules_count, room + 1);
    UNTIL(&w, w.closed_count == room + 1);
    world_is_clean(&w);
    world_end(&w);
}
#endif

static void a_peer_of_ipv6_takes_24_bytes_if_any(void)
{
    EQUAL(sizeof(pmx__name6), 24);
    for (uint32_t scope = 0; scope < 2; scope++) {
        pmx__target before, after;
        pmx__conn c;
        memset(&c, 0, sizeof c);
        memset(&before, 0, sizeof before);
        before.size = sizeof before.to.v6;
        before.to.v6.sin6_family = AF_INET6;
        before.to.v6.sin6_port = 0x1234;
        before.to.v6.sin6_scope_id = scope;
        for (int i = 0; i < 16; i++)
            ((uint8_t *)&before.to.v6.sin6_addr)[i] = (uint8_t)(0xf0 + i);
        c.task = PMX__TASK;
        pmx__keep_peer(&c, &before);
        EQUAL(!pmx__at_memory(&c), !scope);     /* none without a scope */
        EQUAL(c.task & ~PMX__FAMILY, PMX__TASK);
        pmx__peer(&c, &after);
        CHECK(!memcmp(&before, &after, sizeof after));
        free(pmx__at_memory(&c));
    }
}

/* A descriptor that is closed and opened again in one turn must not get what
 * was meant for the one before. */
static void a_number_that_is_used_again_gets_its_own_events(void)
{
    enum { COUNT = 30 };
    world w;
    pmx_sock peers[COUNT];
    uint64_t ids[COUNT];
    uint32_t x = 5;
    pmx_policy p = lines("\n", 100);
    world_serve(&w, &p);
    for (int i = 0; i < COUNT; i++)
        ids[i] = meet(&w, &peers[i]);
    for (int step = 0; step < 300; step++) {
        /* who was here speaks, is gone, and another has its place */
        x = x * 1664525u + 1013904223u;
        int i = (int)(x >> 8) % COUNT;
        char text[32];
        put_text(peers[i], "old\n");
        if (step % 2)
            leave(peers[i]);
        else
            reset_peer(peers[i]);
        do_op(&w, ids[i], step % 3 ? PMX_ABORT : PMX_CLOSE);
        ids[i] = meet(&w, &peers[i]);
        int length = snprintf(text, sizeof text, "%d in %d\n", i, step);
        put_text(peers[i], text);
        UNTIL(&w, messages_of(&w, ids[i]) == 1);
        text[length - 1] = 0;
        CHECK(is_text(&w, message_of(&w, ids[i], 0), text));
    }
    for (int i = 0; i < COUNT; i++)
        leave(peers[i]);
    UNTIL(&w, pmx_counts(w.mux)->connections == 0);
    world_is_clean(&w);
    world_end(&w);
}

const test_case slot_tests[] = {
    EACH(an_id_is_never_used_again),
    EACH(a_slot_is_used_again_in_the_next_turn_at_the_earliest),
    ONCE(a_slot_whose_generations_are_used_up_is_retired),
    UNIX_ONCE(slots_are_small_and_never_move, NO_UNIX),
    EACH(a_number_that_is_used_again_gets_its_own_events),
    UNIX_ONCE(policies_are_found_however_many_there_are, NO_UNIX),
    UNIX_ONCE(a_table_of_policies_that_cannot_grow_serves, NO_UNIX),
    ONCE(a_peer_of_ipv6_takes_24_bytes_if_any),
    {0},
};
