/*
 * The output log. A turn begins by taking it over: what was done to
 * connections since the last one, in order.
 */
#include "output.h"

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

/* Whether what is sent now answers the connection's messages. In the turn in
 * which its messages are handed over, all output does. The connection was not
 * over high water then, and is not read again until the peer has taken this.
 * So a peer that reads is never cut off, whatever it asks for at once; and for
 * a peer that does not read, the answers to one batch are queued at most; and
 * those that are owed, whose messages the caller bounds. */
static int is_answer(const pmx_mux *mux, const pmx__conn *c)
{
    return (c->row_turn == mux->turn && !mux->gathering) ||
           (mux->answering && c->owed);
}

/* A task's output answers the message that the task has, whenever that was
 * handed over; and so does its other output of the same turn. */
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
    error = pmx__send_refused(mux, c, error);
    if (error)
        return error;
    if (c->queue ? c->queue->size + more > most : in_hand(mux, c))
        return -ENOBUFS;
    pmx__settle(mux, slot);
    pmx__watch(mux, slot);      /* an empty queue waits for no room */
    return 0;
}

/* One frame, or as many as stand in data as they go out (framed > 0). */
static void log_send(pmx_mux *mux, uint64_t id, const uint8_t *data,
                     size_t size, uint32_t common, uint32_t framed)
{
    pmx__conn *c = pmx__find(mux, id);
    if (!c) {                   /* id 0: the row has no answer */
        mux->stats->discarded += id ? size : 0;
        return;
    }
    uint32_t slot = (uint32_t)id;
    const pmx_framing *f = c->rules->out;
    const pmx__framing *framing = c->rules->out_framing;
    pmx__piece piece;
    piece.head_size =
        framed || !framing->head ? 0 : framing->head(f, size, piece.head);
    piece.tail_size = framed || !framing->tail ? 0 : framing->tail(f);
    piece.data = data;
    piece.size = size;
    piece.common = common;
    piece.next = PMX__NONE;
    size_t whole = piece.head_size + size + piece.tail_size;
    if (c->flags & (PMX__DONE | PMX__SEND_ENDED | PMX__SEND_FAILED)) {
        mux->stats->discarded += whole;
        return;
    }
    if (!whole)
        return;                 /* nothing, and nothing around it */
    size_t queued = in_hand(mux, c);
    if (c->task & (PMX__OWES | PMX__KEEPS))
        note_answer(mux, c);
    if (queued && queued + whole > c->rules->policy.max_output &&
        !is_answer(mux, c)) {
        int error = make_room(mux, slot, whole);
        if (error) {
            mux->stats->discarded += whole;
            if (error == -ENOBUFS)
                pmx__finish(mux, slot, ENOBUFS, 1);
            else
                pmx__send_failed(mux, slot, -error);
            return;
        }
        queued = in_hand(mux, c);
    }
    mux->stats->messages_out += framed ? framed : 1;
    if (queued + whole > c->rules->policy.high_water &&
        !(c->flags & PMX__OVER_WATER))
        pmx__over_water(mux, slot);
    int error = c->queue || c->flags & PMX__CONNECTING ||
                        !(c->flags & PMX__CAN_WRITE)
                    ? pmx__queue_frame(mux, c, &piece, 0)
                    : add_piece(mux, slot, &piece, whole);
    if (error)
        pmx__finish(mux, slot, ENOMEM, 1);
    else if (c->queue)
        pmx__watch(mux, slot);
}

static void log_switch(pmx_mux *mux, uint64_t id, const uint8_t *piece,
                       size_t size)
{
    if (pmx__find(mux, id))
        pmx__switch(mux, (uint32_t)id, piece, size);
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
    case PMX_WAITS:
        if (c->owed)
            pmx__answered(mux, slot);
        else
            pmx__waits(mux, slot);
        break;
    case PMX_KEPT: c->task |= PMX__TASK | PMX__KEEPS; break;
    case PMX_TAKEN:
        c->task = (c->task & PMX__FAMILY) | PMX__TASK | PMX__OWES;
        break;
    case PMX_BEGUN: pmx__begun(mux, slot); break;
    case PMX_WHOLE: pmx__whole(mux, slot); break;
    case PMX_OWED: c->owed = 1; break;
    case PMX_SEND: case PMX_SWITCH: break;      /* they have a piece */
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
    const pmx_framing *f = c->rules->out;
    const pmx__framing *framing = c->rules->out_framing;
    const uint8_t *data = b->data;
    size_t tail = framing->tail ? framing->tail(f) : 0;
    uint8_t *from = mux->wire + mux->wire_used;
    uint8_t *to = from, *most = mux->wire + mux->wire_room;
    uint64_t bound = c->rules->policy.max_output / 2;
    uint32_t count = 0;
    do {
        uint64_t begin, stop = *end;
        bounds_of(b, k, &begin, &stop);
        size_t size = (size_t)(stop - begin);
        if (begin > stop || stop > b->size || size >= PMX__SMALL_PIECE ||
            (size_t)(most - to) < PMX__HEAD + size + tail ||
            (uint64_t)(to - from) + PMX__HEAD + size + tail > bound)
            break;
        to += framing->head ? framing->head(f, size, to) : 0;
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
        else if (op == PMX_SWITCH)
            log_switch(mux, id, data[k], (size_t)item64(b->bounds, k));
        else
            log_op(mux, id, op);
    }
}

/* Pieces of one buffer, with their bounds. */
static void log_pieces(pmx_mux *mux, const pmx_block *b, uint32_t common)
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
        int is_piece = begin <= end && end <= b->size;
        if (op == PMX_SWITCH)
            log_switch(mux, id, is_piece && data ? data + begin : NULL,
                       is_piece && data ? (size_t)(end - begin) : 0);
        else if (op != PMX_SEND)
            log_op(mux, id, op);
        else if (is_piece)
            log_send(mux, id, data + begin, (size_t)(end - begin), common, 0);
    }
}

/* Whether lines that are cut by `lines` are what the connection sends; it may
 * have switched to another framing since they were written. */
static int sends_lines(const pmx__conn *c, const pmx_framing *lines)
{
    const pmx_framing *f = c->rules->out;
    return c->rules->out_framing == &pmx__lines && f->width == lines->width &&
           !memcmp(f->delimiter, lines->delimiter, sizeof f->delimiter);
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
        int alone = c && !sends_lines(c, lines);
        uint64_t most = c && !alone ? c->rules->policy.max_output / 2 : 0;
        const uint8_t *begin = at;
        pmx_frame frame;
        uint32_t count = 0;
        do {
            uint64_t scanned = 0;
            if (pmx__lines.next(lines, at, (size_t)(end - at), &scanned,
                                &frame) <= 0)
                break;
            if (count && (size_t)(at - begin) + frame.whole > most)
                break;
            at += frame.whole;
            count++;
        } while (++k < b->count && !alone && item64(b->ids, k) == id);
        if (!count)
            return;             /* fewer lines than ids */
        if (alone)
            log_send(mux, id, begin, frame.size, 0, 0);
        else
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
        if ((blocks[i].cut & ~(uint32_t)PMX_ANSWERS) < PMX_SHARED &&
            blocks[i].count > 1)
            wanted += blocks[i].size + 24 * (uint64_t)blocks[i].count;
    if (wanted <= mux->wire_room || wanted > MOST)
        return;
    free(mux->wire);
    mux->wire = sys_malloc((size_t)wanted);
    mux->wire_room = mux->wire ? (size_t)wanted : 0;
}

void pmx__take_log(pmx_mux *mux, const pmx_block *blocks, uint32_t count)
{
    /* a block without a place in commons is copied for each that queues it */
    while (mux->common_room < count)
        if (grow(&mux->commons, &mux->common_room, sizeof *mux->commons))
            break;
    uint32_t commons = count < mux->common_room ? count : mux->common_room;
    if (commons)
        memset(mux->commons, 0, commons * sizeof *mux->commons);
    mux->piece_count = mux->dirty_count = 0;
    make_wire(mux, blocks, count);
    for (uint32_t i = 0; i < count; i++) {
        pmx_block b = blocks[i];
        b.cut &= ~(uint32_t)PMX_ANSWERS;
        mux->answering = b.cut != blocks[i].cut;
        switch (b.cut) {
        case PMX_DELIMITED: log_lines(mux, &b); break;
        case PMX_SPANS: log_spans(mux, &b); break;
        case PMX_SHARED: log_pieces(mux, &b, i < commons ? i + 1 : 0); break;
        default: log_pieces(mux, &b, 0); break;
        }
    }
    for (uint32_t i = 0; i < mux->dirty_count; i++)
        if (mux->dirty[i].head != PMX__NONE)    /* else sent before a switch */
            pmx__send_pieces(mux, &mux->dirty[i]);
    for (uint32_t i = 0; i < commons; i++)
        pmx__common_drop(mux, mux->commons[i]);
}
