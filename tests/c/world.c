#include "world.h"

#include <stdlib.h>
#include <string.h>

/* --- buffers ----------------------------------------------------------- */

static void make_room(buffer *b, size_t size)
{
    size_t room = b->room ? b->room : 256;
    while (room - b->size < size)
        room *= 2;
    if (room == b->room)
        return;
    b->bytes = realloc(b->bytes, room);
    b->room = room;
    CHECK(b->bytes);
}

void append(buffer *b, const void *bytes, size_t size)
{
    make_room(b, size);
    if (size)
        memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

/* A file of so many zeros that nobody else sees; reads are not buffered. */
FILE *file_of(size_t size)
{
    FILE *file = tmpfile();
    void *zeros = calloc(1, size);
    CHECK(file && zeros && !setvbuf(file, NULL, _IONBF, 0));
    EQUAL(fwrite(zeros, size, 1, file), 1);
    free(zeros);
    return file;
}

void release(buffer *b)
{
    free(b->bytes);
    *b = (buffer){0};
}

void fill(buffer *b, size_t size, uint32_t seed)
{
    uint32_t x = seed * 2654435761u + 1;
    make_room(b, size);
    uint8_t *to = b->bytes + b->size;
    for (size_t i = 0; i < size; i++) {
        x = x * 1664525u + 1013904223u;
        to[i] = (uint8_t)(x >> 24);
    }
    b->size += size;
}

int same(const buffer *a, const buffer *b)
{
    return a->size == b->size &&
           (!a->size || !memcmp(a->bytes, b->bytes, a->size));
}

int is_text_of(const buffer *b, const char *text)
{
    return b->size == strlen(text) &&
           (!b->size || !memcmp(b->bytes, text, b->size));
}

static void append_id(id_list *list, uint64_t id)
{
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 64;
        list->ids = realloc(list->ids, list->room * sizeof *list->ids);
        CHECK(list->ids);
    }
    list->ids[list->count++] = id;
}

/* --- policies ---------------------------------------------------------- */

pmx_policy raw(void)
{
    pmx_policy p;
    memset(&p, 0, sizeof p);
    p.framing.max_size = 65536;
    p.high_water = 65536;
    p.low_water = 16384;
    p.max_output = 16777216;
    p.idle_ns = p.message_ns = -1;
    p.close_ns = 30000 * MS;
    p.connect_ns = p.handshake_ns = -1;
    return p;
}

pmx_policy lines(const char *delimiter, uint32_t max_size)
{
    pmx_policy p = raw();
    p.framing.kind = PMX_LINES;
    p.framing.width = (uint32_t)strlen(delimiter);
    p.framing.max_size = max_size;
    memcpy(p.framing.delimiter, delimiter, p.framing.width);
    return p;
}

pmx_policy prefix(uint32_t width, int little, uint32_t max_size)
{
    pmx_policy p = raw();
    p.framing.kind = PMX_PREFIX;
    p.framing.width = width;
    p.framing.little = (uint32_t)little;
    p.framing.max_size = max_size;
    return p;
}

pmx_policy fixed(uint32_t size)
{
    pmx_policy p = raw();
    p.framing.kind = PMX_FIXED;
    p.framing.max_size = size;
    return p;
}

pmx_policy varint(uint32_t max_size)
{
    pmx_policy p = raw();
    p.framing.kind = PMX_VARINT;
    p.framing.max_size = max_size;
    return p;
}

pmx_policy scanner(pmx_scan scan, uint32_t max_size)
{
    pmx_policy p = raw();
    p.framing.kind = PMX_SCANNER;
    p.framing.scan = (uint64_t)(uintptr_t)scan;
    p.framing.max_size = max_size;
    return p;
}

/* --- life -------------------------------------------------------------- */

void world_begin(world *w, uint32_t max_messages, uint64_t arena_size)
{
    memset(w, 0, sizeof *w);
    EQUAL(pmx_open(&w->mux, test_backend, max_messages, arena_size, 0), 0);
    w->arena = pmx_arena_new(arena_size, max_messages);
    CHECK(w->arena);
}

void world_listen(world *w, const pmx_policy *policy)
{
    pmx_endpoint at = {.host = "127.0.0.1"};
    pmx_address name;
    EQUAL(pmx_listen(w->mux, &at, policy, 4096, 0, 0600, &w->listener), 0);
    EQUAL(pmx_listener_address(w->mux, w->listener, &name), 0);
    w->port = name.port;
}

void world_serve(world *w, const pmx_policy *policy)
{
    world_begin(w, 4096, 262144);
    world_listen(w, policy);
}

void world_end(world *w)
{
    pmx_close(w->mux);
    pmx_arena_free(w->arena);
    pmx_arena_free(w->large);
    release(&w->ids);
    release(&w->lengths);
    release(&w->out);
    release(&w->in);
    free(w->messages);
    free(w->opened.ids);
    free(w->ended.ids);
    free(w->blocked.ids);
    free(w->drained.ids);
    free(w->closed);
    memset(w, 0, sizeof *w);
}

void world_is_clean(world *w)
{
    const pmx_stats *s = pmx_counts(w->mux);
    turn(w, 0);
    EQUAL(s->connections, 0);
    EQUAL(s->queued, 0);
    EQUAL(s->buffers, 0);
    EQUAL(w->mux->ready_count + w->mux->chore_count, 0);
    EQUAL(w->mux->report_count, 0);
    EQUAL(w->mux->sources, 0);
}

/* --- the turn ---------------------------------------------------------- */

static void record_message(world *w, uint32_t k)
{
    const pmx_arena *a = w->t.arena;
    CHECK(a->offsets[k + 1] >= a->offsets[k] + (int32_t)a->gap);
    size_t size = (size_t)(a->offsets[k + 1] - a->offsets[k]) - a->gap;
    const uint8_t *bytes = a->data + a->offsets[k];
    if (a->gap) {
        pmx_policy is;
        EQUAL(pmx_policy_of(w->mux, a->ids[k], &is), 0);
        EQUAL(is.framing.width, a->gap);
        CHECK(!memcmp(bytes + size, is.framing.delimiter, a->gap));
    }
    CHECK(a->slots[k] == (uint32_t)a->ids[k]);
    CHECK(a->uniform == UINT32_MAX || a->uniform == size);
    w->bytes += size;
    if (w->echo)
        say(w, a->ids[k], bytes, size);
    if (w->forget)
        return;
    if (w->message_count == w->message_room) {
        w->message_room = w->message_room ? 2 * w->message_room : 256;
        w->messages = realloc(w->messages,
                              w->message_room * sizeof *w->messages);
        CHECK(w->messages);
    }
    w->messages[w->message_count++] =
        (message){a->ids[k], w->in.size, size, w->turns};
    append(&w->in, bytes, size);
}

static void record_closed(world *w, const pmx_closed *row)
{
    CHECK(!closed(w, row->id));
    CHECK(row->slot == (uint32_t)row->id);
    if (w->closed_count == w->closed_room) {
        w->closed_room = w->closed_room ? 2 * w->closed_room : 64;
        w->closed = realloc(w->closed, w->closed_room * sizeof *w->closed);
        CHECK(w->closed);
    }
    ending *e = &w->closed[w->closed_count++];
    memset(e, 0, sizeof *e);
    e->id = row->id;
    e->error = row->error;
    e->tls_error = row->tls_error;
    e->tls_verify = row->tls_verify;
    e->turn = w->turns;
    if (row->names) {
        e->peer = row->names[0];
        e->local = row->names[1];
    }
}

/* All rows of a harvest are of one service. */
static void check_service(const world *w)
{
    const pmx_turn *t = &w->t;
    for (uint32_t k = 0; k < t->messages + t->opened_count + t->ended_count +
                                 t->blocked_count + t->drained_count +
                                 t->closed_count + t->idle_count; k++) {
        pmx_policy policy;
        uint32_t i = k;
        uint64_t id = i < t->messages ? t->arena->ids[i]
                    : (i -= t->messages) < t->opened_count ? t->opened[i]
                    : (i -= t->opened_count) < t->ended_count ? t->ended[i]
                    : (i -= t->ended_count) < t->blocked_count ? t->blocked[i]
                    : (i -= t->blocked_count) < t->drained_count ? t->drained[i]
                    : (i -= t->drained_count) < t->closed_count
                          ? t->closed[i].id : t->idle[i - t->closed_count];
        EQUAL(pmx_policy_of(w->mux, id, &policy), 0);
        EQUAL(policy.service, t->service);
    }
}

int turn_of(world *w, int64_t timeout_ns, uint32_t min_messages,
            int64_t max_delay_ns)
{
    pmx_block block = {
        .cut = PMX_LENGTHS | (w->answers ? PMX_ANSWERS : 0u),
        .count = w->log_count,
        .ids = (const uint64_t *)(const void *)w->ids.bytes,
        .bounds = w->lengths.bytes,
        .data = w->out.bytes, .size = w->out.size,
    };
    w->turns++;
    w->t = (pmx_turn){
        .mux = w->mux, .arena = w->arena, .blocks = &block,
        .block_count = w->log_count ? 1 : 0, .timeout_ns = timeout_ns,
    };
    for (uint32_t s = 0; s < w->mux->service_count; s++)
        (void)pmx_configure(w->mux, s, min_messages, max_delay_ns,
                            (uint32_t)w->gaps);
    int reason = pmx_harvest(&w->t);
    w->log_count = 0;
    w->ids.size = w->lengths.size = w->out.size = 0;
    if (reason < 0)
        return reason;
    EQUAL(w->t.reason, reason);
    EQUAL(!!(reason & PMX_GAPS), w->t.arena->gap > 0);
    CHECK(w->gaps || !w->t.arena->gap);
    if (reason & PMX_LARGE) {
        CHECK(w->t.arena != w->arena);
        pmx_arena_free(w->large);
        w->large = w->t.arena;
    } else {
        CHECK(w->t.arena == w->arena);
    }
    if (w->mux->service_count > 1)
        check_service(w);
    for (uint32_t k = 0; k < w->t.opened_count; k++)
        append_id(&w->opened, w->t.opened[k]);
    for (uint32_t k = 0; k < w->t.messages; k++)
        record_message(w, k);
    for (uint32_t k = 0; k < w->t.ended_count; k++)
        append_id(&w->ended, w->t.ended[k]);
    for (uint32_t k = 0; k < w->t.blocked_count; k++)
        append_id(&w->blocked, w->t.blocked[k]);
    for (uint32_t k = 0; k < w->t.drained_count; k++)
        append_id(&w->drained, w->t.drained[k]);
    for (uint32_t k = 0; k < w->t.closed_count; k++)
        record_closed(w, &w->t.closed[k]);
    for (uint32_t k = 0; k < w->t.failed_count; k++)
        w->failed[w->failed_count++ % 16] = (ending){
            .id = w->t.failed[k].id, .error = w->t.failed[k].error,
            .tls_error = w->t.failed[k].tls_error,
            .tls_verify = w->t.failed[k].tls_verify, .turn = w->turns,
        };
    if (w->t.waiting_count) {
        CHECK(reason & PMX_HANDSHAKES && w->adopt);
        w->adopt(w);
    }
    return reason;
}

int turn(world *w, int64_t timeout_ns)
{
    return turn_of(w, timeout_ns, 1, 0);
}

int64_t deadline(void)
{
    return pmx__now() + 20000 * MS;
}

/* --- the log ----------------------------------------------------------- */

void say(world *w, uint64_t id, const void *bytes, size_t size)
{
    int64_t length = (int64_t)size;
    append(&w->ids, &id, sizeof id);
    append(&w->lengths, &length, sizeof length);
    append(&w->out, bytes, size);
    w->log_count++;
}

void say_text(world *w, uint64_t id, const char *text)
{
    say(w, id, text, strlen(text));
}

void say_much(world *w, uint64_t id, const buffer *bytes)
{
    say(w, id, bytes->bytes, bytes->size);
    UNTIL(w, !(pmx__find(w->mux, id)->flags & PMX__CAN_WRITE));
    CHECK(pmx_queued(w->mux, id));
}

void do_op(world *w, uint64_t id, enum pmx_op op)
{
    say(w, id | (uint64_t)op << PMX_OP_SHIFT, NULL, 0);
}

void switch_to(world *w, uint64_t id, const pmx_policy *to, const void *back,
               size_t size)
{
    buffer piece = {0};
    append(&piece, to, sizeof *to);
    append(&piece, back, size);
    say(w, id | (uint64_t)PMX_SWITCH << PMX_OP_SHIFT, piece.bytes,
        piece.size);
    release(&piece);
}

/* --- what is known ----------------------------------------------------- */

int has(const id_list *list, uint64_t id)
{
    int count = 0;
    for (size_t i = 0; i < list->count; i++)
        count += list->ids[i] == id;
    return count;
}

const ending *closed(const world *w, uint64_t id)
{
    for (size_t i = 0; i < w->closed_count; i++)
        if (w->closed[i].id == id)
            return &w->closed[i];
    return NULL;
}

int error_of(const world *w, uint64_t id)
{
    const ending *e = closed(w, id);
    return e ? e->error : -1;
}

buffer received_by(const world *w, uint64_t id)
{
    buffer all = {0};
    for (size_t i = 0; i < w->message_count; i++)
        if (w->messages[i].id == id)
            append(&all, w->in.bytes + w->messages[i].at,
                   w->messages[i].size);
    return all;
}

size_t messages_of(const world *w, uint64_t id)
{
    size_t count = 0;
    for (size_t i = 0; i < w->message_count; i++)
        count += w->messages[i].id == id;
    return count;
}

const message *message_of(const world *w, uint64_t id, size_t k)
{
    for (size_t i = 0; i < w->message_count; i++)
        if (w->messages[i].id == id && !k--)
            return &w->messages[i];
    return NULL;
}

int is_text(const world *w, const message *m, const char *text)
{
    return m && m->size == strlen(text) &&
           !memcmp(w->in.bytes + m->at, text, m->size);
}

/* --- counting waits ---------------------------------------------------- */

long wait_count;
int wait_result;
long wait_fails_at;
static const pmx__poller *counted;

static int counting_wait(void *state, pmx__event *events, int room,
                         int64_t timeout_ns)
{
    wait_count++;
    if (wait_result && wait_count >= wait_fails_at) {
        int result = wait_result;
        wait_result = 0;
        return result;
    }
    return counted->wait(state, events, room, timeout_ns);
}

void count_waits(world *w)
{
    static pmx__poller counting;
    counted = w->mux->poller;
    counting = *counted;
    counting.wait = counting_wait;
    w->mux->poller = &counting;
    wait_count = 0;
    wait_result = 0;
    wait_fails_at = 0;
}
