/*
 * Sending. Frames for the same connection are strung together and leave in one
 * system call; nothing is copied but small pieces, to coalesce them, and what
 * the kernel does not take. A connection with queued output only appends to
 * it.
 */
#include "output.h"

#include <string.h>

/* --- the queue --------------------------------------------------------- */

/* The result of a send that took less than it was offered: 0 if the connection
 * goes on when the kernel takes bytes again, else -errno. */
int pmx__send_refused(pmx_mux *mux, pmx__conn *c, int error)
{
    if (error == -EAGAIN) {
        c->flags &= ~(uint32_t)PMX__CAN_WRITE;
        return pmx__arm(mux, c->sock);
    }
    if (error == -ENOBUFS) {    /* no event will tell: see net.h */
        mux->short_of_buffers = 1;
        return 0;
    }
    return error;
}

void pmx__flush(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    size_t taken;
    int error = pmx__queue_send(mux, c, &taken);
    mux->flushed += taken;
    if (taken)
        pmx__touch(mux, slot);
    if (taken && c->flags & PMX__CLOSING)
        c->since = mux->now;    /* progress */
    error = pmx__send_refused(mux, c, error);
    if (error) {
        pmx__send_failed(mux, slot, -error);
        return;
    }
    pmx__settle(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    pmx__watch(mux, slot);
    if (pmx__has_work(c))       /* it had its portion: again in the next turn */
        pmx__ready(mux, slot);
}

/* Queue one frame from its byte `skip` on. */
int pmx__queue_frame(pmx_mux *mux, pmx__conn *c, const pmx__piece *p,
                     size_t skip)
{
    const uint8_t *tail = c->rules->out->delimiter;
    int error = 0;

    if (skip < p->head_size) {
        error = pmx__queue_copy(mux, c, p->head + skip, p->head_size - skip);
        skip = p->head_size;
    }
    skip -= p->head_size;
    if (skip < p->size && !error) {
        if (p->common && p->size > PMX__SMALL_PIECE) {
            pmx__common **common = &mux->commons[p->common - 1];
            if (!*common)
                *common = pmx__common_new(mux, p->data, p->size);
            error = *common ? pmx__queue_common(mux, c, *common, skip)
                            : -ENOMEM;
        } else {
            error = pmx__queue_copy(mux, c, p->data + skip, p->size - skip);
        }
    }
    skip = skip < p->size ? 0 : skip - p->size;
    if (skip < p->tail_size && !error)
        error = pmx__queue_copy(mux, c, tail + skip, p->tail_size - skip);
    return error;
}

/* --- this turn's pieces ------------------------------------------------ */

typedef struct {
    pmx__span spans[PMX__SPANS];
    int count;
    size_t scratch_used;
    size_t size;
    const uint8_t *end;         /* of the last span */
} gather_t;

static void add_span(gather_t *g, const uint8_t *bytes, size_t size)
{
    size_t last = g->count ? PMX__SPAN_SIZE(g->spans[g->count - 1]) : 0;
    if (g->count && g->end == bytes)
        g->spans[g->count - 1] = PMX__SPAN(bytes - last, last + size);
    else
        g->spans[g->count++] = PMX__SPAN(bytes, size);
    g->end = bytes + size;
    g->size += size;
}

static void add_copy(pmx_mux *mux, gather_t *g, const uint8_t *bytes,
                     size_t size)
{
    uint8_t *to = mux->scratch + g->scratch_used;
    if (!size)
        return;
    memcpy(to, bytes, size);
    g->scratch_used += size;
    add_span(g, to, size);
}

/* Gather frames from `first` on; the first that found no room, or NONE. */
static uint32_t gather(pmx_mux *mux, const pmx__conn *c, uint32_t first,
                       gather_t *g)
{
    uint32_t at = first;

    g->count = 0;
    g->scratch_used = g->size = 0;
    g->end = NULL;
    while (at != PMX__NONE) {
        const pmx__piece *p = &mux->pieces[at];
        int alone = at == first && p->next == PMX__NONE;
        int by_reference =
            p->size >= PMX__SMALL_PIECE ||
            (p->head_size + p->tail_size == 0 && (alone || g->end == p->data));
        size_t copied = (size_t)p->head_size + p->tail_size +
                        (by_reference ? 0 : p->size);
        if (g->count + 3 > PMX__SPANS ||
            g->scratch_used + copied > mux->scratch_size)
            break;
        add_copy(mux, g, p->head, p->head_size);
        if (by_reference)
            add_span(g, p->data, p->size);
        else
            add_copy(mux, g, p->data, p->size);
        add_copy(mux, g, c->rules->out->delimiter, p->tail_size);
        at = p->next;
    }
    return at;
}

/* What the kernel did not take of the frames from `at` on is queued. */
static void queue_rest(pmx_mux *mux, uint32_t slot, uint32_t at, size_t skip)
{
    pmx__conn *c = pmx__slot(mux, slot);
    for (; at != PMX__NONE; at = mux->pieces[at].next) {
        const pmx__piece *p = &mux->pieces[at];
        size_t whole = p->head_size + p->size + p->tail_size;
        if (skip >= whole) {
            skip -= whole;
            continue;
        }
        if (pmx__queue_frame(mux, c, p, skip)) {
            pmx__finish(mux, slot, ENOMEM, 1);
            return;
        }
        skip = 0;
    }
}

/* Send this turn's pieces of a connection; the entry has none afterwards. */
void pmx__send_pieces(pmx_mux *mux, pmx__dirty *entry)
{
    uint32_t slot = entry->slot, at = entry->head;
    pmx__conn *c = pmx__slot(mux, slot);
    entry->head = PMX__NONE;
    c->dirty = PMX__NONE;
    if (c->flags & PMX__DONE) {
        mux->stats->discarded += entry->size;
        return;
    }
    while (at != PMX__NONE) {
        gather_t g;
        uint32_t next = gather(mux, c, at, &g);
        int64_t n = !g.size ? 0
                            : c->rules->transport->send(mux, c, g.spans, g.count);
        if (n < 0 && n != -EAGAIN && n != -ENOBUFS) {
            queue_rest(mux, slot, at, 0);       /* to be counted as lost */
            if (!(c->flags & PMX__DONE))
                pmx__send_failed(mux, slot, (int)-n);
            return;
        }
        size_t taken = n > 0 ? (size_t)n : 0;
        mux->stats->bytes_out += taken;
        if (taken)
            pmx__touch(mux, slot);
        if (taken < g.size || c->queue) {
            queue_rest(mux, slot, at, taken);
            if (!(c->flags & PMX__DONE))
                pmx__flush(mux, slot);
            return;
        }
        at = next;
    }
    pmx__settle(mux, slot);
}
