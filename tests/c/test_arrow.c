/* arrow.c: columns as Arrow arrays, and who frees the arena. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

/* An arena with the rows "one", "" and "three". */
static pmx_arena *three_rows(void)
{
    static const int32_t ends[] = {0, 3, 3, 8};
    pmx_arena *arena = pmx_arena_new(8, 3);
    CHECK(arena);
    memcpy(arena->data, "onethree", 8);
    memcpy(arena->offsets, ends, sizeof ends);
    for (uint64_t k = 0; k < 3; k++)
        arena->ids[k] = 100 + k;
    return arena;
}

static void release_of(pmx_array *array)
{
    array->release(array);
    CHECK(!array->release);
}

static void an_arrow_array_is_the_memory_of_its_column(void)
{
    pmx_arena *arena = three_rows();
    pmx_lease *lease = pmx_arena_lease(arena);
    pmx_array messages, ids;
    pmx_schema schema;
    EQUAL(pmx_arrow_array(&messages, lease, PMX_ARROW_MESSAGES, 3), 0);
    EQUAL(pmx_arrow_array(&ids, lease, PMX_ARROW_IDS, 3), 0);
    EQUAL(messages.length, 3);
    EQUAL(messages.n_buffers, 3);
    EQUAL(messages.null_count + messages.offset + messages.n_children, 0);
    CHECK(!messages.buffers[0] && messages.buffers[1] == arena->offsets &&
          messages.buffers[2] == arena->data);
    EQUAL(ids.n_buffers, 2);
    CHECK(!ids.buffers[0] && ids.buffers[1] == arena->ids);
    pmx_arrow_schema(&schema, PMX_ARROW_MESSAGES);
    CHECK(!strcmp(schema.format, "z"));
    schema.release(&schema);
    CHECK(!schema.release);
    pmx_arrow_schema(&schema, PMX_ARROW_IDS);
    CHECK(!strcmp(schema.format, "L"));
    release_of(&messages);
    release_of(&ids);
    pmx_arena_drop(arena);
    pmx_lease_drop(lease);
}

/* The sanitizer tells if memory is lost, or used after it was freed. */
static void the_last_holder_of_an_arena_frees_it(void)
{
    for (int last = 0; last < 3; last++) {
        pmx_arena *arena = three_rows();
        pmx_lease *lease = pmx_arena_lease(arena);
        CHECK(pmx_arena_lease(arena) == lease);
        pmx_lease_drop(lease);
        pmx_array one, moved, two;
        EQUAL(pmx_lease_holders(lease), 1);
        EQUAL(pmx_arrow_array(&one, lease, PMX_ARROW_MESSAGES, 3), 0);
        EQUAL(pmx_arrow_array(&two, lease, PMX_ARROW_IDS, 3), 0);
        EQUAL(pmx_lease_holders(lease), 3);
        moved = one;
        one.release = NULL;
        if (last == 0) {
            pmx_arena_drop(arena);
            release_of(&two);
            CHECK(!memcmp(moved.buffers[2], "onethree", 8));
            EQUAL(pmx_lease_holders(lease), 1);
            release_of(&moved);
        } else if (last == 1) {
            release_of(&moved);
            pmx_arena_drop(arena);
            CHECK(((const uint64_t *)two.buffers[1])[2] == 102);
            pmx_lease_drop(lease);
            release_of(&two);
            continue;
        } else {
            release_of(&two);
            release_of(&moved);
            EQUAL(pmx_lease_holders(lease), 1);
            CHECK(!memcmp(arena->data, "onethree", 8));
            pmx_arena_drop(arena);
        }
        EQUAL(pmx_lease_holders(lease), 0);
        pmx_lease_drop(lease);
    }
}

static void an_arena_that_is_not_owned_yet_is_not_dropped(void)
{
    pmx_arena *arena = three_rows();
    arena->owned = 0;
    pmx_arena_drop(arena);
    EQUAL(arena->ids[0], 100);
    pmx_arena_free(arena);
}

/* Also if it is released before its array is, or nobody takes that. */
static void a_stream_brings_one_array(void)
{
    for (int takes = 0; takes < 2; takes++) {
        pmx_arena *arena = three_rows();
        pmx_lease *lease = pmx_arena_lease(arena);
        pmx_stream stream;
        pmx_schema schema;
        pmx_array array, end;
        EQUAL(pmx_arrow_stream(&stream, lease, PMX_ARROW_MESSAGES, 3), 0);
        pmx_arena_drop(arena);
        EQUAL(stream.get_schema(&stream, &schema), 0);
        CHECK(!strcmp(schema.format, "z"));
        schema.release(&schema);
        CHECK(!stream.get_last_error(&stream));
        if (takes) {
            test_fail_at = 1;
            EQUAL(stream.get_next(&stream, &array), ENOMEM);
            test_fail_at = 0;
            CHECK(!array.release);
            EQUAL(stream.get_next(&stream, &array), 0);
            for (int i = 0; i < 2; i++) {
                EQUAL(stream.get_next(&stream, &end), 0);
                CHECK(!end.release);
            }
            EQUAL(pmx_lease_holders(lease), 2);
        }
        stream.release(&stream);
        CHECK(!stream.release);
        if (takes) {
            EQUAL(array.length, 3);
            CHECK(!memcmp(array.buffers[2], "onethree", 8));
            release_of(&array);
        }
        EQUAL(pmx_lease_holders(lease), 0);
        pmx_lease_drop(lease);
    }
}

static void arrays_without_memory_are_refused(void)
{
    pmx_arena *arena = three_rows();
    test_fail_at = 1;
    CHECK(!pmx_arena_lease(arena));
    test_fail_at = 0;
    pmx_lease *lease = pmx_arena_lease(arena);
    pmx_array array = {0};
    test_fail_at = 1;
    EQUAL(pmx_arrow_array(&array, lease, PMX_ARROW_MESSAGES, 3), -ENOMEM);
    CHECK(!array.release);
    EQUAL(pmx_lease_holders(lease), 1);
    test_fail_at = 1;
    CHECK(!pmx_arrow_new_array());
    test_fail_at = 1;
    CHECK(!pmx_arrow_new_schema());
    pmx_stream stream = {0};
    test_fail_at = 1;
    EQUAL(pmx_arrow_stream(&stream, lease, PMX_ARROW_IDS, 3), -ENOMEM);
    CHECK(!stream.release);
    EQUAL(pmx_lease_holders(lease), 1);
    test_fail_at = 1;
    CHECK(!pmx_arrow_new_stream());
    test_fail_at = 0;
    pmx_arena_drop(arena);
    pmx_lease_drop(lease);
}

enum { THREADS = 4, ARRAYS = 200 };

typedef struct {
    pmx_lease *lease;
    pmx_array arrays[ARRAYS];
} releaser;

static void release_all(void *of)
{
    releaser *mine = of;
    for (int i = 0; i < ARRAYS; i++) {
        mine->arrays[i].release(&mine->arrays[i]);
        (void)pmx_lease_holders(mine->lease);
    }
    pmx_lease_drop(mine->lease);
}

static void threads_may_release_while_the_owner_makes_more_and_ends(void)
{
    static releaser all[THREADS];
    void *threads[THREADS];
    pmx_arena *arena = three_rows();
    for (int i = 0; i < THREADS; i++) {
        all[i].lease = pmx_arena_lease(arena);
        for (int k = 0; k < ARRAYS; k++)
            EQUAL(pmx_arrow_array(&all[i].arrays[k], all[i].lease,
                                  PMX_ARROW_MESSAGES, 3), 0);
        threads[i] = test_thread(release_all, &all[i]);
    }
    pmx_arena_drop(arena);
    for (int i = 0; i < THREADS; i++)
        test_join(threads[i]);
}

/* A capsule is a pointer and a name. */
typedef struct {
    void *pointer;
    const char *name;
} capsule;

static void *look_into(void *of, const char *name)
{
    capsule *c = of;
    return strcmp(c->name, name) ? NULL : c->pointer;
}

static void a_capsule_releases_what_nobody_has_taken(void)
{
    pmx_arena *arena = three_rows();
    pmx_lease *lease = pmx_arena_lease(arena);
    pmx_arrow_capsules(look_into);
    for (int taken = 0; taken < 2; taken++) {
        pmx_array mine, *array = pmx_arrow_new_array();
        pmx_schema *schema = pmx_arrow_new_schema();
        CHECK(array && !array->release && schema && !schema->release);
        pmx_arrow_schema(schema, PMX_ARROW_MESSAGES);
        EQUAL(pmx_arrow_array(array, lease, PMX_ARROW_MESSAGES, 3), 0);
        mine = *array;
        if (taken)
            array->release = NULL;
        pmx_arrow_end_schema(&(capsule){schema, pmx_arrow_name(0)});
        pmx_arrow_end_array(&(capsule){array, pmx_arrow_name(1)});
        EQUAL(pmx_lease_holders(lease), taken ? 2 : 1);
        if (taken)
            release_of(&mine);
    }
    /* nothing was filled in */
    pmx_arrow_end_array(&(capsule){pmx_arrow_new_array(), pmx_arrow_name(1)});
    pmx_arrow_end_schema(&(capsule){pmx_arrow_new_schema(), pmx_arrow_name(0)});
    pmx_arena_drop(arena);
    pmx_lease_drop(lease);
}

const test_case arrow_tests[] = {
    ONCE(an_arrow_array_is_the_memory_of_its_column),
    ONCE(the_last_holder_of_an_arena_frees_it),
    ONCE(an_arena_that_is_not_owned_yet_is_not_dropped),
    ONCE(a_stream_brings_one_array),
    ONCE(arrays_without_memory_are_refused),
    ONCE(threads_may_release_while_the_owner_makes_more_and_ends),
    ONCE(a_capsule_releases_what_nobody_has_taken),
    {0},
};
