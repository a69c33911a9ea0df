/*
 * Queued output: what the kernel would not take. Small pieces are gathered in
 * chunks; what send_many gives to many slow readers is one reference-counted
 * buffer. An empty queue is no queue: an idle connection has none.
 */
#include "transport.h"

#include <stdlib.h>
#include <string.h>

enum {
    LEAST_ROOM = 1024,          /* of a chunk; the next has twice its room */
    MOST_ROOM = 65536,
    HEAD_ROOM = 64,             /* behind a common piece: a tail, a head */
};

static pmx__chunk *append(pmx_mux *mux, pmx__conn *c, size_t room)
{
    pmx__chunk *chunk = sys_malloc(sizeof *chunk + room);
    if (!chunk)
        return NULL;
    if (!c->queue) {
        c->queue = sys_calloc(1, sizeof *c->queue);
        if (!c->queue) {
            free(chunk);
            return NULL;
        }
    }
    memset(chunk, 0, sizeof *chunk);
    chunk->room = room;
    if (c->queue->tail)
        c->queue->tail->next = chunk;
    else
        c->queue->head = chunk;
    c->queue->tail = chunk;
    mux->stats->buffers += sizeof *chunk + room;
    return chunk;
}

static void count(pmx_mux *mux, pmx__conn *c, size_t size)
{
    c->queue->size += size;
    mux->stats->queued += size;
}

int pmx__queue_copy(pmx_mux *mux, pmx__conn *c, const void *bytes,
                    size_t size)
{
    const uint8_t *from = bytes;
    if (!size)
        return 0;
    pmx__chunk *tail = c->queue ? c->queue->tail : NULL;
    size_t fits = tail && !tail->common ? tail->room - tail->end : 0;
    if (fits > size)
        fits = size;
    /* the whole room is had before anything is counted */
    pmx__chunk *more = NULL;
    if (fits < size) {
        size_t room = !tail ? LEAST_ROOM
                    : tail->common ? HEAD_ROOM : 2 * tail->room;
        room = room > MOST_ROOM ? MOST_ROOM : room;
        room = room < size - fits ? size - fits : room;
        more = append(mux, c, room);
        if (!more)
            return -ENOMEM;
        memcpy(more->bytes, from + fits, size - fits);
        more->end = size - fits;
    }
    if (fits) {
        memcpy(tail->bytes + tail->end, from, fits);
        tail->end += fits;
    }
    count(mux, c, size);
    return 0;
}

pmx__common *pmx__common_new(pmx_mux *mux, const void *bytes, size_t size)
{
    pmx__common *common = sys_malloc(sizeof *common + size);
    if (!common)
        return NULL;
    common->refs = 1;
    common->size = size;
    memcpy(common->bytes, bytes, size);
    mux->stats->buffers += sizeof *common + size;
    return common;
}

void pmx__common_drop(pmx_mux *mux, pmx__common *common)
{
    if (!common || --common->refs)
        return;
    mux->stats->buffers -= sizeof *common + common->size;
    free(common);
}

int pmx__queue_common(pmx_mux *mux, pmx__conn *c, pmx__common *common,
                     size_t begin)
{
    pmx__chunk *chunk = append(mux, c, 0);
    if (!chunk)
        return -ENOMEM;
    common->refs++;
    chunk->common = common;
    chunk->begin = begin;
    chunk->end = common->size;
    count(mux, c, common->size - begin);
    return 0;
}

int pmx__queue_raw(pmx_mux *mux, pmx__conn *c, const void *bytes, size_t size)
{
    pmx__chunk *last = c->queue ? c->queue->tail : NULL;
    pmx__chunk *chunk = append(mux, c, size);
    pmx__chunk **place = c->queue ? &c->queue->head : NULL;
    if (!chunk)
        return -ENOMEM;
    memcpy(chunk->bytes, bytes, size);
    chunk->end = size;
    chunk->raw = 1;
    while (*place != chunk && (*place)->raw)
        place = &(*place)->next;
    if (*place != chunk) {      /* from the tail to behind the raw chunks */
        last->next = NULL;
        chunk->next = *place;
        *place = chunk;
        c->queue->tail = last;
    }
    count(mux, c, size);
    return 0;
}

static void pop(pmx_mux *mux, pmx__queue *queue)
{
    pmx__chunk *chunk = queue->head;
    queue->head = chunk->next;
    if (!queue->head)
        queue->tail = NULL;
    mux->stats->buffers -= sizeof *chunk + chunk->room;
    pmx__common_drop(mux, chunk->common);
    free(chunk);
}

void pmx__queue_drop(pmx_mux *mux, pmx__conn *c)
{
    if (!c->queue)
        return;
    mux->stats->discarded += c->queue->size;
    mux->stats->queued -= c->queue->size;
    while (c->queue->head)
        pop(mux, c->queue);
    free(c->queue);
    c->queue = NULL;
}

void pmx__queue_take(pmx_mux *mux, pmx__conn *c, uint8_t *to)
{
    if (!c->queue)
        return;
    mux->stats->queued -= c->queue->size;
    while (c->queue->head) {
        const pmx__chunk *chunk = c->queue->head;
        const uint8_t *bytes =
            chunk->common ? chunk->common->bytes : chunk->bytes;
        size_t size = chunk->end - chunk->begin;
        if (to) {
            memcpy(to, bytes + chunk->begin, size);
            to += size;
        }
        pop(mux, c->queue);
    }
    free(c->queue);
    c->queue = NULL;
}

/* Forget what was taken, which is no more than there is: behind the raw chunk
 * at the head, unless that is what was sent. */
static void consume(pmx_mux *mux, pmx__conn *c, size_t size, int raw)
{
    pmx__queue *queue = c->queue;
    pmx__chunk *kept = queue->head->raw && !raw ? queue->head : NULL;
    if (kept)
        queue->head = kept->next;
    queue->size -= size;
    mux->stats->queued -= size;
    mux->stats->bytes_out += raw ? 0 : size;
    while (size) {
        pmx__chunk *chunk = queue->head;
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): see above */
        size_t part = chunk->end - chunk->begin;
        if (part > size) {
            chunk->begin += size;
            break;
        }
        size -= part;
        pop(mux, queue);
    }
    if (kept) {
        kept->next = queue->head;
        queue->head = kept;
        if (!kept->next)
            queue->tail = kept;
    }
    if (!queue->head) {
        free(queue);
        c->queue = NULL;
    }
}

int pmx__queue_send(pmx_mux *mux, pmx__conn *c, size_t *taken)
{
    *taken = 0;
    while (c->queue && *taken < PMX__FLUSH) {
        pmx__span spans[PMX__SPANS];
        pmx__chunk *first = c->queue->head;
        if (first->raw) {
            int64_t n = pmx__send(c->sock, first->bytes + first->begin,
                                  first->end - first->begin);
            if (n < 0)
                return (int)n;
            *taken += (size_t)n;
            consume(mux, c, (size_t)n, 1);
            continue;
        }
        int used = 0;
        size_t room = PMX__FLUSH - *taken;
        for (pmx__chunk *chunk = first;
             chunk && room && used < PMX__SPANS; chunk = chunk->next) {
            const uint8_t *bytes =
                chunk->common ? chunk->common->bytes : chunk->bytes;
            size_t size = chunk->end - chunk->begin;
            size = size < room ? size : room;
            spans[used++] = PMX__SPAN(bytes + chunk->begin, size);
            room -= size;
        }
        int64_t n = c->rules->transport->send(mux, c, spans, used);
        if (n < 0)
            return (int)n;
        *taken += (size_t)n;
        consume(mux, c, (size_t)n, 0);
    }
    return 0;
}
