/* A load generator: connections of a mux of its own send messages, and every
 * byte that comes back is compared with what is due. It uses the public API
 * alone, as any caller does.
 *
 * A connection has `depth` messages in flight. An answer is followed by the
 * next message. Latency counts from when the message was handed to the mux to
 * when the harvest with its answer returned. */
#include "mux.h"

#include <stdlib.h>
#include <string.h>

enum {
    SUB_BITS = 7,               /* a power of two is cut into 2^7 buckets */
    OPENING = 256,              /* connects under way at once */
    LOAD_ROWS = 4096,
    LOAD_ARENA = 1 << 18
};
#define MOST_IN_FLIGHT (UINT64_C(1) << 24)

typedef struct {
    uint64_t id;                /* 0: not open */
    uint64_t first;             /* where in the ring it began, in bytes */
    uint64_t taken;             /* bytes of answers, all of them right */
    uint64_t sent;              /* messages */
    uint64_t answered;
    int is_open;
} load_conn;

struct pmx_load {
    pmx_load_plan plan;
    pmx_policy policy;
    pmx_mux *mux;
    pmx_arena *arena;
    pmx_turn turn;
    load_conn *conns;
    uint32_t *places;           /* of connections, by slot, and 1 more; 0: none */
    uint32_t place_count;
    uint32_t begun;             /* connections that were tried */
    uint32_t opening;           /* of these, neither open nor lost yet */
    int sending;
    int64_t *stamps;            /* when each message in flight was sent */
    uint32_t piece_count;       /* of the next turn's output: */
    uint64_t *ids;
    int64_t *lengths;
    const uint8_t **pieces;
    pmx_load_figures figures;
};

/* --- latencies ----------------------------------------------------------- */

static uint32_t bucket_of(uint64_t value)
{
    uint32_t shift = 0;
    while (value >> shift >= UINT64_C(2) << SUB_BITS)
        shift++;
    return (shift << SUB_BITS) + (uint32_t)(value >> shift);
}

static uint64_t highest_in(uint32_t bucket)
{
    uint32_t shift = bucket >> SUB_BITS;
    shift = shift ? shift - 1 : 0;
    uint64_t base = bucket - (shift << SUB_BITS);
    return ((base + 1) << shift) - 1;
}

static void count_latency(pmx_load_figures *f, int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    f->answered++;
    f->buckets[bucket_of(value)]++;
    if (value > f->max_ns)
        f->max_ns = value;
}

uint64_t pmx_load_quantile(const pmx_load *load, double quantile)
{
    const pmx_load_figures *f = &load->figures;
    double rank = quantile * (double)f->answered;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < PMX_BUCKETS; i++) {
        seen += f->buckets[i];
        if (seen && (double)seen >= rank)
            return highest_in(i) < f->max_ns ? highest_in(i) : f->max_ns;
    }
    return f->max_ns;
}

void pmx_load_clear(pmx_load *load)
{
    pmx_load_figures *f = &load->figures;
    f->answered = f->max_ns = 0;
    memset(f->buckets, 0, sizeof f->buckets);
}

const pmx_load_figures *pmx_load_counts(const pmx_load *load)
{
    return &load->figures;
}

/* --- its life ------------------------------------------------------------ */

static int is_valid(const pmx_load_plan *plan)
{
    return plan->conns && plan->depth && plan->count && plan->size &&
           plan->size <= INT32_MAX && plan->questions && plan->answers &&
           plan->endpoints && plan->endpoint_count && plan->policy &&
           (uint64_t)plan->conns * plan->depth <= MOST_IN_FLIGHT;
}

static int allocate(pmx_load *load)
{
    size_t conns = load->plan.conns, most = conns * load->plan.depth;
    load->conns = sys_calloc(conns, sizeof *load->conns);
    load->stamps = sys_calloc(most, sizeof *load->stamps);
    load->ids = sys_calloc(most, sizeof *load->ids);
    load->lengths = sys_calloc(most, sizeof *load->lengths);
    load->pieces = sys_calloc(most, sizeof *load->pieces);
    load->arena = pmx_arena_new(LOAD_ARENA, LOAD_ROWS);
    return load->conns && load->stamps && load->ids && load->lengths &&
           load->pieces && load->arena ? 0 : -ENOMEM;
}

int pmx_load_open(pmx_load **place, const char *backend,
                  const pmx_load_plan *plan)
{
    if (!is_valid(plan))
        return -EINVAL;
    pmx_load *load = sys_calloc(1, sizeof *load);
    if (!load)
        return -ENOMEM;
    load->plan = *plan;
    load->policy = *plan->policy;
    int error = allocate(load);
    if (!error)
        error = pmx_open(&load->mux, backend, LOAD_ROWS, LOAD_ARENA, 0);
    if (error) {
        pmx_load_close(load);
        return error;
    }
    load->turn.mux = load->mux;
    load->turn.arena = load->arena;
    for (uint32_t k = 0; k < plan->conns; k++)  /* each another part */
        load->conns[k].first = (uint64_t)k * 7 % plan->count * plan->size;
    *place = load;
    return 0;
}

void pmx_load_close(pmx_load *load)
{
    if (!load)
        return;
    if (load->mux)
        pmx_close(load->mux);
    pmx_arena_free(load->arena);
    free(load->conns);
    free(load->places);
    free(load->stamps);
    free(load->ids);
    free(load->lengths);
    free(load->pieces);
    free(load);
}

/* --- connections --------------------------------------------------------- */

static load_conn *conn_of(pmx_load *load, uint64_t id)
{
    uint32_t slot = (uint32_t)id;
    uint32_t place = slot < load->place_count ? load->places[slot] : 0;
    load_conn *c = place ? &load->conns[place - 1] : NULL;
    return c && c->id == id ? c : NULL;
}

/* Note which connection has an id. */
static int keep_place(pmx_load *load, uint64_t id, uint32_t k)
{
    uint32_t slot = (uint32_t)id;
    if (slot >= load->place_count) {
        uint32_t count = 2 * slot + 64;
        uint32_t *places = sys_realloc(load->places, count * sizeof *places);
        if (!places)
            return -ENOMEM;
        memset(places + load->place_count, 0,
               (count - load->place_count) * sizeof *places);
        load->places = places;
        load->place_count = count;
    }
    load->places[slot] = k + 1;
    load->conns[k].id = id;
    return 0;
}

static int connect_some(pmx_load *load)
{
    while (load->begun < load->plan.conns && load->opening < OPENING) {
        uint64_t id;
        int error = pmx_connect(load->mux, load->plan.endpoints,
                                load->plan.endpoint_count, &load->policy, &id);
        if (!error)
            error = keep_place(load, id, load->begun);
        if (error)
            return error;
        load->begun++;
        load->opening++;
    }
    return 0;
}

/* Expect nothing more of a connection. */
static void give_up(pmx_load *load, load_conn *c)
{
    load->figures.in_flight -= c->sent - c->answered;
    c->id = 0;
}

static void note_opened(pmx_load *load, uint64_t id)
{
    load_conn *c = conn_of(load, id);
    if (!c)
        return;
    c->is_open = 1;
    load->opening--;
    load->figures.opened++;
}

static void note_end(pmx_load *load, const pmx_closed *closed)
{
    load_conn *c = conn_of(load, closed->id);
    if (!c)
        return;
    if (!load->figures.lost++)
        load->figures.error = closed->error;
    if (!c->is_open)
        load->opening--;
    give_up(load, c);
}

/* --- messages ------------------------------------------------------------ */

/* Send until `depth` messages are in flight. */
static void fill(pmx_load *load, load_conn *c, int64_t now)
{
    const pmx_load_plan *plan = &load->plan;
    int64_t *stamps = load->stamps + (size_t)(c - load->conns) * plan->depth;
    uint64_t first = c->first / plan->size;
    while (c->id && c->sent - c->answered < plan->depth) {
        uint32_t k = load->piece_count++;
        load->ids[k] = c->id;
        load->lengths[k] = (int64_t)plan->size;
        load->pieces[k] =
            plan->questions + (first + c->sent) % plan->count * plan->size;
        stamps[c->sent++ % plan->depth] = now;
        load->figures.in_flight++;
    }
}

/* Whether these bytes are what is due next. */
static int is_due(const pmx_load *load, const load_conn *c,
                  const uint8_t *data, uint64_t size)
{
    const pmx_load_plan *plan = &load->plan;
    uint64_t length = plan->count * plan->size;
    if ((plan->framed && size != plan->size) ||
        size > c->sent * plan->size - c->taken)
        return 0;
    for (uint64_t at = (c->first + c->taken) % length; size; at = 0) {
        uint64_t part = size < length - at ? size : length - at;
        if (memcmp(plan->answers + at, data, (size_t)part) != 0)
            return 0;
        data += part;
        size -= part;
    }
    return 1;
}

static void take(pmx_load *load, uint64_t id, const uint8_t *data,
                 uint64_t size, int64_t now)
{
    load_conn *c = conn_of(load, id);
    if (!c)
        return;
    if (!is_due(load, c, data, size)) {
        load->figures.wrong++;
        give_up(load, c);
        return;
    }
    uint32_t depth = load->plan.depth;
    int64_t *stamps = load->stamps + (size_t)(c - load->conns) * depth;
    c->taken += size;
    for (; (c->answered + 1) * load->plan.size <= c->taken; c->answered++) {
        count_latency(&load->figures, now - stamps[c->answered % depth]);
        load->figures.in_flight--;
    }
    if (load->sending)
        fill(load, c, now);
}

static void take_batch(pmx_load *load, int64_t result)
{
    const pmx_turn *turn = &load->turn;
    const pmx_arena *a = turn->arena;
    int64_t now = turn->done_ns;
    uint32_t rows = (uint32_t)(result >> PMX_MESSAGES_SHIFT);
    for (uint32_t k = 0; k < turn->opened_count; k++)
        note_opened(load, turn->opened[k]);
    for (uint32_t k = 0; k < rows; k++)
        take(load, a->ids[k], a->data + a->offsets[k],
             (uint64_t)(a->offsets[k + 1] - a->offsets[k]), now);
    for (uint32_t k = 0; k < turn->closed_count; k++)
        note_end(load, &turn->closed[k]);
}

/* Whether there is nothing left that this mode waits for. */
static int is_done(const pmx_load *load, uint32_t mode)
{
    const pmx_load_figures *f = &load->figures;
    if (mode == PMX_LOAD_CONNECT)
        return f->opened + f->lost >= load->plan.conns;
    return mode == PMX_LOAD_FINISH && !f->in_flight;
}

int pmx_load_run(pmx_load *load, uint32_t mode, int64_t span_ns)
{
    int64_t now = pmx__now(), end = pmx__after(now, span_ns);
    load->sending = mode == PMX_LOAD_SEND;
    for (uint32_t k = 0; load->sending && k < load->plan.conns; k++)
        fill(load, &load->conns[k], now);
    do {
        int error = mode == PMX_LOAD_CONNECT ? connect_some(load) : 0;
        if (error)
            return error;
        uint64_t shape = load->piece_count
                       ? (uint64_t)PMX_SPANS << PMX_CUT_SHIFT | load->piece_count
                       : 0;
        int64_t result = pmx_exchange(&load->turn, now < end ? end - now : 0,
                                      shape, load->ids, load->lengths,
                                      load->pieces, 0);
        load->piece_count = 0;
        if (result < 0)
            return (int)result;
        take_batch(load, result);
        if (load->turn.arena != load->arena)
            pmx_arena_free(load->turn.arena);
        load->turn.arena = load->arena;
        if (result & PMX_INTERRUPTED)
            return 0;
        now = pmx__now();
    } while (now < end && !is_done(load, mode));
    return 0;
}
