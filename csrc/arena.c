/*
 * An arena: a header, the columns of a batch and its payloads in one piece of
 * memory, so that one exporter on the Python side keeps all of it alive. The
 * carry of a connection is an arena of one row: a large frame that has been
 * assembled in it is handed over as a batch of its own, without a copy.
 *
 * `data` may be moved forward over bytes that are used up; `capacity` counts
 * from there. The block itself begins at the header.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

/* The header; the ids behind it stand at a multiple of 8, on 32 bits too. */
enum { HEADER = (sizeof(pmx_arena) + 7) / 8 * 8 };

static size_t columns_size(uint32_t rows)
{
    size_t n = rows;
    return n * sizeof(uint64_t) + (n + 2) / 2 * 2 * sizeof(int32_t) +
           2 * ((n + 1) / 2 * 2 * sizeof(uint32_t));
}

/* Point the columns at their places behind the header. */
static void lay_out(pmx_arena *arena)
{
    size_t rows = arena->rows;
    uint8_t *at = (uint8_t *)arena + HEADER;
    arena->ids = (uint64_t *)(void *)at;
    at += rows * sizeof(uint64_t);
    arena->offsets = (int32_t *)(void *)at;
    at += (rows + 2) / 2 * 2 * sizeof(int32_t);
    arena->slots = (uint32_t *)(void *)at;
    at += (rows + 1) / 2 * 2 * sizeof(uint32_t);
    arena->runs = (uint32_t *)(void *)at;
    at += (rows + 1) / 2 * 2 * sizeof(uint32_t);
    arena->data = at;
    arena->capacity = arena->total - (uint64_t)(at - (uint8_t *)arena);
}

pmx_arena *pmx_arena_new(uint64_t capacity, uint32_t rows)
{
    uint64_t total = HEADER + columns_size(rows) + capacity;
    if (capacity > INT32_MAX + UINT64_C(4096) || total > SIZE_MAX)
        return NULL;
    pmx_arena *arena = sys_malloc((size_t)total);
    if (!arena)
        return NULL;
    arena->total = total;
    arena->rows = rows;
    arena->owned = 1;
    arena->lease = NULL;
    pmx__arena_reset(arena);
    return arena;
}

void pmx_arena_free(pmx_arena *arena)
{
    free(arena);
}

void pmx_arena_drop(pmx_arena *arena)
{
    if (!arena->owned)
        return;
    if (arena->lease)
        pmx__lease_end(arena->lease);
    else
        free(arena);
}

/* --- who needs an arena ------------------------------------------------ */

/* Any thread may end its part, at any time. */
struct pmx_lease {
    pmx_arena *arena;
    int32_t holders;            /* the owner and arrays; 0: it is freed */
    int32_t refs;               /* of this struct: one of all holders, and one
                                   of each pmx_arena_lease() */
};

static int32_t add(int32_t *place, int32_t more)
{
    int32_t is = 0;
    while (!pmx__swap(place, &is, is + more))
        ;
    return is + more;
}

pmx_lease *pmx_arena_lease(pmx_arena *arena)
{
    if (!arena->lease) {
        pmx_lease *lease = sys_malloc(sizeof *lease);
        if (!lease)
            return NULL;
        *lease = (pmx_lease){arena, 1, 1};
        arena->lease = lease;
    }
    (void)add(&arena->lease->refs, 1);
    return arena->lease;
}

void pmx_lease_drop(pmx_lease *lease)
{
    if (!add(&lease->refs, -1))
        free(lease);
}

int pmx_lease_holders(pmx_lease *lease)
{
    return add(&lease->holders, 0);
}

void pmx__lease_more(pmx_lease *lease)
{
    (void)add(&lease->holders, 1);
}

void pmx__lease_end(pmx_lease *lease)
{
    if (!add(&lease->holders, -1)) {
        free(lease->arena);
        pmx_lease_drop(lease);
    }
}

const pmx_arena *pmx__leased(const pmx_lease *lease)
{
    return lease->arena;
}

/* --- room in an arena -------------------------------------------------- */

void pmx__arena_reset(pmx_arena *arena)
{
    lay_out(arena);
    arena->size = 0;
    arena->scanned = 0;
    arena->since = 0;
    arena->uniform = UINT32_MAX;
    arena->gap = arena->no_gaps = 0;
    arena->run_count = 0;
    arena->offsets[0] = 0;
}

int pmx__arena_reserve(pmx_mux *mux, pmx_arena **place, size_t size,
                       size_t most)
{
    pmx_arena *arena = *place;
    if (!arena) {
        arena = pmx_arena_new(size > 256 ? size : 256, 1);
        if (!arena)
            return -ENOMEM;
        mux->stats->buffers += arena->total;
        *place = arena;
        return 0;
    }
    if (arena->capacity - arena->size >= size)
        return 0;

    /* Move the bytes to the front first; then double the room, up to `most`. */
    uint8_t *data = arena->data;
    uint64_t used = arena->size;
    lay_out(arena);
    if (arena->data != data)
        memmove(arena->data, data, (size_t)used);
    if (arena->capacity - used >= size)
        return 0;
    uint64_t wanted = 2 * arena->capacity;
    if (wanted > most)
        wanted = most;
    if (wanted < used + size)
        wanted = used + size;
    uint64_t head = arena->total - arena->capacity;
    uint64_t before = arena->total;
    arena = sys_realloc(arena, (size_t)(head + wanted));
    if (!arena)
        return -ENOMEM;
    arena->total = head + wanted;
    lay_out(arena);
    mux->stats->buffers += arena->total - before;
    *place = arena;
    return 0;
}

void pmx__carry_drop(pmx_mux *mux, pmx__conn *c)
{
    if (!c->carry)
        return;
    mux->stats->buffers -= c->carry->total;
    free(c->carry);
    c->carry = NULL;
}

/* The last message is the one that ends where the data ends. */
void pmx_close_gaps(pmx_arena *arena)
{
    uint32_t gap = arena->gap;
    uint64_t to = 0;
    arena->no_gaps = 1;
    arena->gap = 0;
    if (!gap)
        return;
    for (uint32_t k = 0; (uint64_t)arena->offsets[k] < arena->size; k++) {
        /* messages before k are closed up, k and the rest are not */
        uint64_t from = (uint64_t)arena->offsets[k];
        uint64_t size = (uint64_t)arena->offsets[k + 1] - from - gap;
        memmove(arena->data + to, arena->data + from, (size_t)size);
        arena->offsets[k] = (int32_t)to;
        to += size;
        if ((uint64_t)arena->offsets[k + 1] == arena->size) {
            arena->offsets[k + 1] = (int32_t)to;
            break;
        }
    }
    arena->size = to;
}

int64_t pmx_check_offsets(const void *offsets, uint32_t width, uint64_t n,
                          uint64_t size)
{
    uint64_t last = 0;
    for (uint64_t k = 0; k <= n; k++) {
        int64_t at = width == 4 ? ((const int32_t *)offsets)[k]
                                : ((const int64_t *)offsets)[k];
        if (at < 0 || (uint64_t)at < last || (uint64_t)at > size)
            return (int64_t)k;
        last = (uint64_t)at;
    }
    return -1;
}
