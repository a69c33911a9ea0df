/*
 * The output log, and sending.
 *
 * A turn begins by taking over the log: what was done to connections since
 * the last one, in order. Frames for the same connection are strung together
 * and leave in one system call; nothing is copied but small pieces, to
 * coalesce them, and what the kernel does not take. A connection with queued
 * output only appends to it.
 */
#include "turn.h"

#include <stdlib.h>
#include <string.h>

/* Room for one more item, doubling. */
static int grow(void *array, uint32_t *room, size_t item)
{
    void *is;
    memcpy(&is, array, sizeof is);
    uint32_t wanted = *room ? 2 * *room : 256;
    void *grown = sys_realloc(is, wanted * item);
    if (!grown)
        return -ENOMEM;
    memcpy(array, &grown, sizeof grown);
    *room = wanted;
    return 0;
}

static const uint8_t *tail_of(const pmx__conn *c, const pmx__piece *p,
                              size_t *size)
{
    const pmx_framing *f = &c->rules->policy.framing;
    *size = f->kind == PMX_LINES && !p->framed ? f->width : 0;
    return f->delimiter;
}

/* --- the queue --------------------------------------------------------- */

/* The kernel refused: the writing side has ended, the reading side goes on to
 * its end, or at once where nobody reads. */
static void send_failed(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->error)
        c->error = error;
    c->flags |= PMX__SEND_FAILED | PMX__LOST;
    c->flags &= ~(uint32_t)PMX__OVER_WATER;
    pmx__queue_drop(mux, c);
    if (c->flags & PMX__CLOSING || pmx__nobody_reads(c)) {
        pmx__finish(mux, slot, error, 0);
        return;
    }
    c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
    pmx__set_due(mux, slot, PMX__CLOSE_DUE);
    pmx__watch(mux, slot);
    pmx__ready(mux, slot);
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
    if (error == -EAGAIN) {
        c->flags &= ~(uint32_t)PMX__CAN_WRITE;
        error = pmx__arm(mux, c);
    } else if (error == -ENOBUFS) {     /* no event will tell: see net.h */
        mux->short_of_buffers = 1;
        error = 0;
    }
    if (error) {
        send_failed(mux, slot, -error);
        return;
    }
    pmx__settle(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    pmx__watch(mux, slot);
    if (pmx__has_work(c))       /* it had its share: again in the next turn */
        pmx__ready(mux, slot);
}

/* Queue one frame from its byte `skip` on. */
static int queue_frame(pmx_mux *mux, pmx__conn *c, const pmx__piece *p,
                       size_t skip)
{
    size_t tail_size;
    const uint8_t *tail = tail_of(c, p, &tail_size);
    int error = 0;

    if (skip < p->head_size) {
        error = pmx__queue_copy(mux, c, p->head + skip, p->head_size - skip);
        skip = p->head_size;
    }
    skip -= p->head_size;
    if (skip < p->size && !error) {
        if (p->share && p->size > PMX__SMALL_PIECE) {
            pmx__shared **shared = &mux->shares[p->share - 1];
            if (!*shared)
                *shared = pmx__share(mux, p->data, p->size);
            error = *shared ? pmx__queue_share(mux, c, *shared, skip)
                            : -ENOMEM;
        } else {
            error = pmx__queue_copy(mux, c, p->data + skip, p->size - skip);
        }
    }
    skip = skip < p->size ? 0 : skip - p->size;
    if (skip < tail_size && !error)
        error = pmx__queue_copy(mux, c, tail + skip, tail_size - skip);
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
        size_t tail_size;
        const uint8_t *tail = tail_of(c, p, &tail_size);
        int alone = at == first && p->next == PMX__NONE;
        int by_reference =
            p->size >= PMX__SMALL_PIECE ||
            (p->head_size + tail_size == 0 && (alone || g->end == p->data));
        size_t copied = p->head_size + tail_size +
                        (by_reference ? 0 : p->size);
        if (g->count + 3 > PMX__SPANS ||
            g->scratch_used + copied > mux->scratch_size)
            break;
        add_copy(mux, g, p->head, p->head_size);
        if (by_reference)
            add_span(g, p->data, p->size);
        else
            add_copy(mux, g, p->data, p->size);
        add_copy(mux, g, tail, tail_size);
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
        size_t tail_size;
        (void)tail_of(c, p, &tail_size);
        size_t whole = p->head_size + p->size + tail_size;
        if (skip >= whole) {
            skip -= whole;
            continue;
        }
        if (queue_frame(mux, c, p, skip)) {
            pmx__finish(mux, slot, ENOMEM, 1);
            return;
        }
        skip = 0;
    }
}

static void send_dirty(pmx_mux *mux, const pmx__dirty *entry)
{
    uint32_t slot = entry->slot;
    pmx__conn *c = pmx__slot(mux, slot);
    uint32_t at = entry->head;
    c->dirty = PMX__NONE;
    if (c->flags & PMX__DONE) {
        mux->stats.discarded += entry->size;
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
                send_failed(mux, slot, (int)-n);
            return;
        }
        size_t taken = n > 0 ? (size_t)n : 0;
        mux->stats.bytes_out += taken;
        if (taken)
            pmx__touch(mux, slot);
        if (taken < g.size) {
            queue_rest(mux, slot, at, taken);
            if (!(c->flags & PMX__DONE))
                pmx__flush(mux, slot);
            return;
        }
        at = next;
    }
    pmx__settle(mux, slot);
}

/* --- the log ----------------------------------------------------------- */

static int add_piece(pmx_mux *mux, uint32_t slot, const pmx__piece *piece,
                     size_t whole)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (mux->piece_count == mux->piece_room &&
        grow(&mux->pieces, &mux->piece_room, sizeof *mux->pieces))
        return -ENOMEM;
    if (c->dirty == PMX__NONE) {
        if (mux->dirty_count == mux->dirty_room &&
            grow(&mux->dirty, &mux->dirty_room, sizeof *mux->dirty))
            return -ENOMEM;
        c->dirty = mux->dirty_count++;
        mux->dirty[c->dirty] = (pmx__dirty){
            slot, mux->piece_count, mux->piece_count, 0};
    } else {
        uint32_t tail = mux->dirty[c->dirty].tail;
        mux->pieces[tail].next = mux->piece_count;
        mux->dirty[c->dirty].tail = mux->piece_count;
    }
    mux->dirty[c->dirty].size += whole;
    mux->pieces[mux->piece_count++] = *piece;
    return 0;
}

/* Bytes that the kernel has not taken, of this turn's output too. */
static size_t in_hand(const pmx_mux *mux, const pmx__conn *c)
{
    return (c->queue ? c->queue->size : 0) +
           (c->dirty != PMX__NONE ? mux->dirty[c->dirty].size : 0);
}

/* Whether what is sent now belongs to what the connection has asked for: in
 * the turn in which messages of its own are handed over, all of it. It was
 * not over high water then, and nothing more is read until the peer has taken
 * this: so a peer that reads is never cut off, whatever it asks for at once,
 * and one that does not has the answers to one batch queued at most. */
static int is_answer(const pmx_mux *mux, const pmx__conn *c)
{
    return c->row_turn == mux->turn && !mux->gathering;
}

/* What a task sends is the answer to the message that it has, whenever that
 * was handed over; and so is what it sends with it in the same turn. */
static void note_answer(const pmx_mux *mux, pmx__conn *c)
{
    if (c->row_turn != mux->turn || !(c->task & PMX__OWES_MORE))
        c->task &= (uint8_t)~(PMX__OWES | PMX__OWES_MORE);
    c->row_turn = mux->turn;
}

/* Before a limit is judged, the kernel is offered what is queued: the peer
 * may have taken much since it last refused. 0 when `more` bytes fit. */
static int make_room(pmx_mux *mux, uint32_t slot, size_t more)
{
    pmx__conn *c = pmx__slot(mux, slot);
    uint64_t most = c->rules->policy.max_output;
    int error = 0;
    while (c->queue && !error && !(c->flags & PMX__CONNECTING) &&
           c->queue->size + more > most) {
        size_t taken;
        error = pmx__queue_send(mux, c, &taken);
        if (taken)
            pmx__touch(mux, slot);
    }
    if (error == -EAGAIN) {
        c->flags &= ~(uint32_t)PMX__CAN_WRITE;
        error = pmx__arm(mux, c);
    } else if (error == -ENOBUFS) {     /* no event will tell: see net.h */
        mux->short_of_buffers = 1;
        error = 0;
    }
    if (error)
        return error;
    if (c->queue ? c->queue->size + more > most : in_hand(mux, c))
        return -ENOBUFS;
    pmx__settle(mux, slot);
    pmx__watch(mux, slot);      /* for room no more, where all is gone */
    return 0;
}

/* One frame, or as many as stand in data as they go out (framed > 0). */
static void log_send(pmx_mux *mux, uint64_t id, const uint8_t *data,
                     size_t size, uint32_t share, uint32_t framed)
{
    pmx__conn *c = pmx__find(mux, id);
    if (!c) {
        mux->stats.discarded += size;
        return;
    }
    uint32_t slot = (uint32_t)id;
    const pmx_framing *f = &c->rules->policy.framing;
    pmx__piece piece;
    size_t tail_size;
    piece.framed = framed || f->kind == PMX_RAW;
    piece.head_size =
        piece.framed ? 0 : pmx__frame_head(f, size, piece.head);
    piece.data = data;
    piece.size = size;
    piece.share = share;
    piece.next = PMX__NONE;
    (void)tail_of(c, &piece, &tail_size);
    size_t whole = piece.head_size + size + tail_size;
    if (c->flags & (PMX__DONE | PMX__SEND_ENDED | PMX__SEND_FAILED)) {
        mux->stats.discarded += whole;
        return;
    }
    if (!whole)
        return;                 /* nothing, under Raw */
    size_t queued = in_hand(mux, c);
    if (c->task & (PMX__OWES | PMX__KEEPS))
        note_answer(mux, c);
    if (queued && queued + whole > c->rules->policy.max_output &&
        !is_answer(mux, c)) {
        int error = make_room(mux, slot, whole);
        if (error) {
            mux->stats.discarded += whole;
            if (error == -ENOBUFS)
                pmx__finish(mux, slot, ENOBUFS, 1);
            else
                send_failed(mux, slot, -error);
            return;
        }
        queued = in_hand(mux, c);
    }
    mux->stats.messages_out += framed ? framed : 1;
    if (queued + whole > c->rules->policy.high_water &&
        !(c->flags & PMX__OVER_WATER)) {
        c->flags |= PMX__OVER_WATER;
        pmx__watch(mux, slot);
    }
    int error = c->queue || c->flags & PMX__CONNECTING ||
                        !(c->flags & PMX__CAN_WRITE)
                    ? queue_frame(mux, c, &piece, 0)
                    : add_piece(mux, slot, &piece, whole);
    if (error)
        pmx__finish(mux, slot, ENOMEM, 1);
    else if (c->queue)
        pmx__watch(mux, slot);
}

static void log_op(pmx_mux *mux, uint64_t id, enum pmx_op op)
{
    pmx__conn *c = pmx__find(mux, id);
    uint32_t slot = (uint32_t)id;
    if (!c)
        return;
    switch (op) {
    case PMX_SEND_EOF: pmx__end_sending(mux, slot); break;
    case PMX_CLOSE: pmx__begin_close(mux, slot, 0); break;
    case PMX_FAIL: pmx__begin_close(mux, slot, ECONNABORTED); break;
    case PMX_ABORT: pmx__finish(mux, slot, 0, 1); break;
    case PMX_PAUSE: pmx__pause(mux, slot, PMX__PAUSED); break;
    case PMX_RESUME: pmx__resume(mux, slot, PMX__PAUSED); break;
    case PMX_HOLD: pmx__pause(mux, slot, PMX__HELD); break;
    case PMX_RELEASE: pmx__resume(mux, slot, PMX__HELD); break;
    case PMX_WAITS: pmx__waits(mux, slot); break;
    case PMX_KEPT: c->task |= PMX__TASK | PMX__KEEPS; break;
    case PMX_TAKEN:
        c->task = (c->task & PMX__FAMILY) | PMX__TASK | PMX__OWES;
        break;
    case PMX_SWITCH:
    case PMX_SEND: break;
    }
}

/* Items of a column that need not be aligned. */
static uint64_t item64(const void *column, uint32_t k)
{
    uint64_t value;
    memcpy(&value, (const uint8_t *)column + (size_t)k * 8, 8);
    return value;
}

static uint64_t item32(const void *column, uint32_t k)
{
    uint32_t value;
    memcpy(&value, (const uint8_t *)column + (size_t)k * 4, 4);
    return value;
}

/* Where piece k of a block begins and ends; `end` is that of the one before. */
static void bounds_of(const pmx_block *b, uint32_t k, uint64_t *begin,
                      uint64_t *end)
{
    switch (b->cut) {
    case PMX_LENGTHS:
        *begin = *end;
        *end += item64(b->bounds, k);
        break;
    case PMX_OFFSETS32:
        *begin = item32(b->bounds, k);
        *end = item32(b->bounds, k + 1);
        break;
    case PMX_OFFSETS64:
        *begin = item64(b->bounds, k);
        *end = item64(b->bounds, k + 1);
        break;
    default:
        *begin = 0;
        *end = b->size;
        break;
    }
}

/* Small frames in a row for one connection are put together at once, as they
 * go out; how many there were, from piece k on. */
static uint32_t log_run(pmx_mux *mux, const pmx_block *b, uint32_t k,
                        uint64_t *end)
{
    uint64_t id = item64(b->ids, k);
    const pmx__conn *c = pmx__find(mux, id);
    if (!c || !mux->wire || b->cut == PMX_SHARED || k + 1 == b->count ||
        item64(b->ids, k + 1) != id)
        return 0;
    const pmx_framing *f = &c->rules->policy.framing;
    const uint8_t *data = b->data;
    size_t tail = f->kind == PMX_LINES ? f->width : 0;
    uint8_t *from = mux->wire + mux->wire_used;
    uint8_t *to = from, *most = mux->wire + mux->wire_room;
    uint64_t bound = c->rules->policy.max_output / 2;
    uint32_t count = 0;
    do {
        uint64_t begin, stop = *end;
        bounds_of(b, k, &begin, &stop);
        size_t size = (size_t)(stop - begin);
        if (begin > stop || stop > b->size || size >= PMX__SMALL_PIECE ||
            (size_t)(most - to) < 8 + size + tail ||
            (uint64_t)(to - from) + 8 + size + tail > bound)
            break;
        to += pmx__frame_head(f, size, to);
        if (size)
            memcpy(to, data + begin, size);
        to += size;
        if (tail)
            memcpy(to, f->delimiter, tail);
        to += tail;
        *end = stop;
        count++;
    } while (++k < b->count && item64(b->ids, k) == id);
    if (count) {
        mux->wire_used += (size_t)(to - from);
        log_send(mux, id, from, (size_t)(to - from), 0, count);
    }
    return count;
}

/* Pieces wherever they are. */
static void log_spans(pmx_mux *mux, const pmx_block *b)
{
    for (uint32_t k = 0; k < b->count; k++) {
        uint64_t id = item64(b->ids, k) & PMX_ID_MASK;
        enum pmx_op op = (enum pmx_op)(item64(b->ids, k) >> PMX_OP_SHIFT);
        const uint8_t *const *data = b->data;
        if (op == PMX_SEND)
            log_send(mux, id, data[k], (size_t)item64(b->bounds, k), 0, 0);
        else
            log_op(mux, id, op);
    }
}

/* Pieces of one buffer, with their bounds. */
static void log_pieces(pmx_mux *mux, const pmx_block *b, uint32_t share)
{
    const uint8_t *data = b->data;
    uint64_t begin = 0, end = 0;
    for (uint32_t k = 0; k < b->count;) {
        uint64_t id = item64(b->ids, k) & PMX_ID_MASK;
        enum pmx_op op = (enum pmx_op)(item64(b->ids, k) >> PMX_OP_SHIFT);
        uint32_t run = op == PMX_SEND ? log_run(mux, b, k, &end) : 0;
        k += run;
        if (run)
            continue;
        bounds_of(b, k++, &begin, &end);
        if (op != PMX_SEND)
            log_op(mux, id, op);
        else if (begin <= end && end <= b->size)
            log_send(mux, id, data + begin, (size_t)(end - begin), share, 0);
    }
}

/* Lines as they go out: those in a row for one connection are one piece, as
 * long as what may be queued bounds them as it would one by one. */
static void log_lines(pmx_mux *mux, const pmx_block *b)
{
    const pmx_framing *lines = b->bounds;
    const uint8_t *at = b->data, *end = at + b->size;
    for (uint32_t k = 0; k < b->count;) {
        uint64_t id = item64(b->ids, k);
        const pmx__conn *c = pmx__find(mux, id);
        uint64_t most = c ? c->rules->policy.max_output / 2 : 0;
        const uint8_t *begin = at;
        uint32_t count = 0;
        do {
            pmx__frame frame;
            uint64_t scanned = 0;
            if (pmx__next_frame(lines, at, (size_t)(end - at), &scanned,
                                &frame) <= 0)
                break;
            if (count && (size_t)(at - begin) + frame.whole > most)
                break;
            at += frame.whole;
            count++;
        } while (++k < b->count && item64(b->ids, k) == id);
        if (!count)
            return;             /* fewer lines than ids */
        log_send(mux, id, begin, (size_t)(at - begin), 0, count);
    }
}

/* Room for runs of small frames; where it cannot be had, or would be much,
 * they go one by one. It is made before any of it is pointed into. */
static void make_wire(pmx_mux *mux, const pmx_block *blocks, uint32_t count)
{
    enum { MOST = 1 << 22 };
    uint64_t wanted = 0;
    mux->wire_used = 0;
    for (uint32_t i = 0; i < count && wanted <= MOST; i++)
        if (blocks[i].cut < PMX_SHARED && blocks[i].count > 1)
            wanted += blocks[i].size + 24 * (uint64_t)blocks[i].count;
    if (wanted <= mux->wire_room || wanted > MOST)
        return;
    free(mux->wire);
    mux->wire = sys_malloc((size_t)wanted);
    mux->wire_room = mux->wire ? (size_t)wanted : 0;
}

void pmx__take_log(pmx_mux *mux, const pmx_block *blocks, uint32_t count)
{
    /* a block without a place in shares is copied for each that queues it */
    while (mux->share_room < count)
        if (grow(&mux->shares, &mux->share_room, sizeof *mux->shares))
            break;
    uint32_t shared = count < mux->share_room ? count : mux->share_room;
    if (shared)
        memset(mux->shares, 0, shared * sizeof *mux->shares);
    mux->piece_count = mux->dirty_count = 0;
    make_wire(mux, blocks, count);
    for (uint32_t i = 0; i < count; i++)
        switch (blocks[i].cut) {
        case PMX_DELIMITED: log_lines(mux, &blocks[i]); break;
        case PMX_SPANS: log_spans(mux, &blocks[i]); break;
        case PMX_SHARED:
            log_pieces(mux, &blocks[i], i < shared ? i + 1 : 0);
            break;
        default: log_pieces(mux, &blocks[i], 0); break;
        }
    for (uint32_t i = 0; i < mux->dirty_count; i++)
        send_dirty(mux, &mux->dirty[i]);
    for (uint32_t i = 0; i < shared; i++)
        pmx__unshare(mux, mux->shares[i]);
}
