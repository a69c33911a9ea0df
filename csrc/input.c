/*
 * Receiving and framing.
 *
 * What a connection has to say goes straight into the batch's arena and is
 * framed there: heads and delimiters are squeezed out in place, so payloads
 * stand back to back. What is left over, an unfinished frame or complete ones
 * that found no room, is its carry. A small carry is copied in front of what
 * is received next; a larger one is received into, and grows as bytes arrive,
 * never from a claimed length. A large frame that is complete in its carry is
 * handed over with that memory, as a batch of its own.
 */
#include "turn.h"

#include <stdlib.h>
#include <string.h>

static size_t at_most(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int no_rows_left(const pmx_mux *mux)
{
    return mux->rows == mux->max_rows;
}

/* So many rows of a connection follow those that there are. */
static void note_rows(pmx_mux *mux, uint32_t slot, uint32_t count)
{
    pmx_arena *a = mux->arena;
    pmx__conn *c = pmx__slot(mux, slot);
    if (mux->rows && a->slots[mux->rows - 1] == slot)
        a->runs[a->run_count - 1] += count;
    else
        a->runs[a->run_count++] = count;
    mux->rows += count;
    mux->stats.messages_in += count;
    if (c->task & PMX__TASK)
        c->task |= c->row_turn == mux->turn || count > 1
                       ? PMX__OWES | PMX__OWES_MORE : PMX__OWES;
    if (c->row_turn != mux->turn) {
        c->row_turn = mux->turn;
        mux->row_slots[mux->row_conns++] = slot;
    }
}

/* One row: the bytes are in place, `size` of them behind arena->size, and
 * behind them the gap, where there is one. */
static void add_row(pmx_mux *mux, uint32_t slot, size_t size)
{
    pmx_arena *a = mux->arena;
    pmx__conn *c = pmx__slot(mux, slot);
    a->size += size + a->gap;
    a->ids[mux->rows] = pmx__id(slot, c);
    a->slots[mux->rows] = slot;
    if (!mux->rows)
        a->uniform = (uint32_t)size;
    else if (a->uniform != size)
        a->uniform = UINT32_MAX;
    a->offsets[mux->rows + 1] = (int32_t)a->size;
    note_rows(mux, slot, 1);
}

/* Whether a frame's delimiter stays behind it: a batch is either all with
 * gaps, of one width, or has none. The first row decides; one that differs
 * has what is there closed up. */
static uint32_t gap_for(pmx_mux *mux, const pmx_framing *f, size_t tail)
{
    pmx_arena *a = mux->arena;
    uint32_t gap = f->kind == PMX_LINES && tail == f->width ? f->width : 0;
    if (a->no_gaps)
        return 0;
    if (!mux->rows)
        a->gap = gap;
    if (a->gap != gap || !gap)
        pmx_close_gaps(a);
    return a->gap;
}

/* Input is over and every frame is delivered: now the connection may end. */
static void input_over(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__carry_drop(mux, c);
    if (c->flags & PMX__SEND_FAILED) {
        pmx__finish(mux, slot, c->error, 0);
    } else if (c->rules->policy.half_open && !c->error) {
        pmx__say(mux, slot, PMX__SAY_ENDED);
        pmx__watch(mux, slot);
        pmx__settle(mux, slot);
    } else if (c->row_turn == mux->turn) {
        c->flags |= PMX__ENDING;
        mux->ending[mux->ending_count++] = slot;
        pmx__watch(mux, slot);
    } else {
        pmx__begin_close(mux, slot, 0);
    }
}

/* Whether its input ended where a stop has cut it, and not by the peer. */
static int was_cut(const pmx__conn *c)
{
    return c->flags & PMX__LIMITED && c->flags & PMX__DROPPING;
}

/* A peer that a stop has cut off inside a frame has broken nothing: its
 * connection is not reset. */
static void protocol_error(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->error)
        c->error = error;
    if (!was_cut(c)) {
        c->flags |= PMX__RESET_LAST;
        c->flags &= ~(uint32_t)PMX__LIMITED;
    }
    c->flags |= PMX__ENDED;
    c->flags &= ~(uint32_t)PMX__FRAMES;
    input_over(mux, slot);
}

/* Whether the end of a stream is none: the connection has failed, and sending
 * was told so, or a question, where receiving would have been. Where an errno
 * does not tell, it may be one: a last line is not to be lost. */
static int is_broken(const pmx__conn *c)
{
    return PMX__EPIPE_TELLS && c->flags & (PMX__LOST | PMX__SEND_FAILED) &&
           c->error && c->error != EPIPE;
}

static void at_end(pmx_mux *mux, uint32_t slot);

/* Take the next frame off the carry: 1 and its bounds, 0 if it is not whole.
 * At the end of the stream what is left is the last line. */
static int frame_of_carry(pmx__conn *c, pmx__frame *frame)
{
    const pmx_framing *f = &c->rules->policy.framing;
    pmx_arena *carry = c->carry;
    int found = pmx__next_frame(f, carry->data, (size_t)carry->size,
                                &carry->scanned, frame);
    if (!found && c->flags & PMX__ENDED && f->kind == PMX_LINES &&
        carry->size) {
        frame->head = 0;
        frame->size = frame->whole = (size_t)carry->size;
        carry->scanned = 0;
        if (frame->size > f->max_size)
            return -EMSGSIZE;
        found = 1;
    }
    return found;
}

/* The carry becomes the batch; what stands behind the frame a new carry. */
static int adopt(pmx_mux *mux, uint32_t slot, const pmx__frame *frame)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx_arena *carry = c->carry;
    size_t rest = (size_t)carry->size - frame->whole;
    c->carry = NULL;
    if (rest) {
        if (pmx__arena_reserve(mux, &c->carry, rest, rest)) {
            c->carry = carry;
            return -ENOMEM;
        }
        memcpy(c->carry->data, carry->data + frame->whole, rest);
        c->carry->size = rest;
    }
    mux->stats.buffers -= carry->total;
    carry->data += frame->head;
    carry->capacity -= frame->head;
    carry->size = 0;
    carry->offsets[0] = 0;
    carry->owned = 0;
    mux->arena = carry;
    mux->full = 1;
    add_row(mux, slot, frame->size);
    return 0;
}

/* Deliver what is complete in the carry; 1 when the batch is full. */
static int deliver_carry(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__frame frame;
    int found = 0;

    while (c->carry && (found = frame_of_carry(c, &frame)) > 0) {
        pmx_arena *a = mux->arena;
        c->flags |= PMX__FRAMES;
        if (no_rows_left(mux))
            return 1;
        if (frame.size >= PMX__LARGE_FRAME || frame.whole > mux->arena_size) {
            if (mux->rows)
                return 1;       /* it comes first in the next turn */
            if (adopt(mux, slot, &frame)) {
                pmx__finish(mux, slot, ENOMEM, 1);
                return 0;
            }
        } else {
            uint32_t gap = gap_for(mux, &c->rules->policy.framing,
                                   frame.whole - frame.head - frame.size);
            if (frame.size + gap > a->capacity - a->size)
                return 1;
            if (frame.size + gap)
                memcpy(a->data + a->size, c->carry->data + frame.head,
                       frame.size + gap);
            add_row(mux, slot, frame.size);
            c->carry->data += frame.whole;
            c->carry->capacity -= frame.whole;
            c->carry->size -= frame.whole;
        }
        if (mux->full)
            break;
    }
    if (mux->full && c->carry && c->carry->size &&
        (found = frame_of_carry(c, &frame)) > 0)
        return 1;               /* FRAMES stays set */
    c->flags &= ~(uint32_t)PMX__FRAMES;
    if (c->carry && !c->carry->size)
        pmx__carry_drop(mux, c);
    if (found < 0)
        protocol_error(mux, slot, -found);
    else if (c->flags & PMX__ENDED)
        at_end(mux, slot);
    return mux->full;
}

/* No more input is delivered but what stands in the carry. */
static void at_end(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int lines = c->rules->policy.framing.kind == PMX_LINES;
    if (!c->carry || is_broken(c) ||
        (!lines && was_cut(c) && c->rules->policy.half_open)) {
        /* half a line is no message; behind half of another frame that a stop
         * has cut, the coroutine may answer the messages before it */
        input_over(mux, slot);
    } else if (lines) {
        c->flags |= PMX__FRAMES;    /* an unterminated last line */
        pmx__watch(mux, slot);
        pmx__ready(mux, slot);
    } else {
        protocol_error(mux, slot, EPROTO);
    }
}

/* The peer has ended its stream. */
static void end_input(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->flags &= ~(uint32_t)(PMX__CAN_READ | PMX__TO_THE_END);
    if (c->flags & PMX__ENDED) {
        c->flags &= ~(uint32_t)PMX__DROPPING;
        pmx__settle(mux, slot);
        if (!(c->flags & PMX__DONE))
            pmx__watch(mux, slot);
        return;
    }
    c->flags |= PMX__ENDED;
    c->flags &= ~(uint32_t)PMX__LIMITED;
    at_end(mux, slot);
}

/* The stop is the end: what comes from now on is dropped. */
static void cut_input(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->left = 0;
    c->flags |= PMX__ENDED | PMX__DROPPING;
    if (c->flags & PMX__FRAMES)
        pmx__watch(mux, slot);
    else
        at_end(mux, slot);
}

/* Receiving has failed: the end, once every frame is delivered. */
static void lost_input(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__PAUSED || !(c->flags & PMX__FRAMES)) {
        pmx__finish(mux, slot, error, 0);
        return;
    }
    if (!c->error)
        c->error = error;
    c->flags |= PMX__ENDED | PMX__LOST;
    c->flags &= ~(uint32_t)PMX__CAN_READ;
    pmx__watch(mux, slot);
}

/* What had arrived has been received. The peer's end may be behind it: then
 * its stream is whole, and no stop has cut it. */
static void look_for_end(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int64_t n = c->rules->transport->recv(mux, c, mux->scratch, mux->scratch_size);
    if (n > 0)
        mux->stats.bytes_in += (uint64_t)n;
    if (n < 0 && n != -EAGAIN)
        lost_input(mux, slot, (int)-n);
    else if (n)
        cut_input(mux, slot);
    else if (c->flags & PMX__FRAMES)
        c->flags &= ~(uint32_t)PMX__LIMITED;    /* it is received again */
    else
        end_input(mux, slot);
}

/* Read what has arrived and no more (the server stops). */
void pmx__limit_input(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__DONE | PMX__CONNECTING | PMX__ENDED | PMX__LIMITED))
        return;
    size_t arrived = pmx__arrived(c->sock);
    c->left = arrived > UINT32_MAX ? UINT32_MAX : (uint32_t)arrived;
    c->flags |= PMX__LIMITED | PMX__CAN_READ;
    if (!c->left)
        look_for_end(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

/* What recv() said, when it was no bytes; or which bytes there are, noted. */
static int received(pmx_mux *mux, uint32_t slot, int64_t n, size_t asked)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (n > 0) {
        mux->stats.bytes_in += (uint64_t)n;
        if (!(c->flags & PMX__DROPPING))
            pmx__touch(mux, slot);
        if (c->flags & PMX__LIMITED && !(c->flags & PMX__ENDED))
            c->left -= (uint32_t)at_most((size_t)n, c->left);
        else if ((size_t)n < asked && c->rules->transport->short_is_all &&
                 !(c->flags & PMX__TO_THE_END))
            c->flags &= ~(uint32_t)PMX__CAN_READ;
        return 1;
    }
    if (n == 0)
        end_input(mux, slot);
    else if (n != -EAGAIN)
        pmx__finish(mux, slot, (int)-n, 0);
    else if (c->flags & PMX__LIMITED && !(c->flags & PMX__ENDED))
        cut_input(mux, slot);
    else
        c->flags &= ~(uint32_t)(PMX__CAN_READ | PMX__TO_THE_END);
    return 0;
}

/* Keep what is left over behind the frames as the carry. */
static int keep_rest(pmx_mux *mux, pmx__conn *c, const uint8_t *rest,
                     size_t size, uint64_t scanned)
{
    if (!size) {
        pmx__carry_drop(mux, c);
        return 0;
    }
    if (c->carry)
        c->carry->size = 0;
    if (pmx__arena_reserve(mux, &c->carry, size, size))
        return -ENOMEM;
    memcpy(c->carry->data, rest, size);
    c->carry->size = size;
    c->carry->scanned = scanned;
    return 0;
}

/* The rows of lines that stay where they are, as long as nothing is unusual:
 * what add_row() does, with what stays the same taken out of the loop. */
static uint8_t *lines_in_place(pmx_mux *mux, uint32_t slot, uint8_t *at,
                               uint8_t *end, uint64_t *scanned)
{
    pmx_arena *a = mux->arena;
    pmx__conn *c = pmx__slot(mux, slot);
    const pmx_framing *f = &c->rules->policy.framing;
    uint64_t id = pmx__id(slot, c);
    uint32_t row = mux->rows, first = row, uniform = a->uniform;
    uint8_t *found, *data = a->data;

    if (row && a->gap != 1)
        return at;
    while (row < mux->max_rows && at + *scanned < end &&
           (found = memchr(at + *scanned, f->delimiter[0],
                           (size_t)(end - at) - (size_t)*scanned))) {
        size_t size = (size_t)(found - at);
        if (size > f->max_size)
            break;
        uniform = row && uniform != size ? UINT32_MAX : (uint32_t)size;
        a->ids[row] = id;
        a->slots[row] = slot;
        at = found + 1;
        *scanned = 0;
        a->offsets[++row] = (int32_t)(at - data);
    }
    if (row == first)
        return at;
    a->gap = 1;
    a->uniform = uniform;
    a->size = (uint64_t)(at - data);
    note_rows(mux, slot, row - first);
    return at;
}

/* Frame `size` bytes behind arena->size in place. */
static void frame_in_arena(pmx_mux *mux, uint32_t slot, size_t size,
                           uint64_t scanned)
{
    pmx__conn *c = pmx__slot(mux, slot);
    const pmx_framing *f = &c->rules->policy.framing;
    uint8_t *at = mux->arena->data + mux->arena->size;
    uint8_t *end = at + size;
    pmx__frame frame;
    int found = 0;

    if (f->kind == PMX_LINES && f->width == 1 && !mux->arena->no_gaps)
        at = lines_in_place(mux, slot, at, end, &scanned);
    while (at < end && (found = pmx__next_frame(f, at, (size_t)(end - at),
                                                &scanned, &frame)) > 0) {
        if (no_rows_left(mux)) {
            c->flags |= PMX__FRAMES;
            break;
        }
        uint32_t gap = gap_for(mux, f, frame.whole - frame.head - frame.size);
        uint8_t *to = mux->arena->data + mux->arena->size;
        if (to != at + frame.head)
            memmove(to, at + frame.head, frame.size + gap);
        add_row(mux, slot, frame.size);
        at += frame.whole;
        found = 0;
    }
    if (found < 0)
        protocol_error(mux, slot, -found);
    else if (keep_rest(mux, c, at, (size_t)(end - at),
                       c->flags & PMX__FRAMES ? 0 : scanned))
        pmx__finish(mux, slot, ENOMEM, 1);
}

/* How much to ask for into the carry: the rest of a frame whose length is
 * known, so that nothing stands behind it, or a share. The carry doubles as
 * bytes arrive and stays under twice what one frame may take. */
static size_t carry_room(pmx_mux *mux, pmx__conn *c, size_t allowance)
{
    const pmx_framing *f = &c->rules->policy.framing;
    pmx_arena *carry = c->carry;
    pmx__frame frame;
    size_t wanted = PMX__PORTION;
    size_t most = (size_t)f->max_size + 16 + PMX__PORTION;
    if (f->kind != PMX_LINES &&
        !pmx__next_frame(f, carry->data, (size_t)carry->size,
                         &carry->scanned, &frame) &&
        frame.whole > carry->size)
        wanted = frame.whole - (size_t)carry->size;
    wanted = at_most(wanted, allowance);
    size_t least = at_most(wanted, (size_t)carry->size);
    if (pmx__arena_reserve(mux, &c->carry, least, most))
        return 0;
    return at_most(wanted, (size_t)(c->carry->capacity - c->carry->size));
}

static int receive_into_carry(pmx_mux *mux, uint32_t slot, size_t *allowance)
{
    pmx__conn *c = pmx__slot(mux, slot);
    size_t room = carry_room(mux, c, *allowance);
    if (!room) {
        pmx__finish(mux, slot, ENOMEM, 1);
        return 0;
    }
    int64_t n = c->rules->transport->recv(mux, c, c->carry->data + c->carry->size, room);
    if (!received(mux, slot, n, room))
        return 0;
    c->carry->size += (size_t)n;
    *allowance -= (size_t)n;
    return deliver_carry(mux, slot);
}

static void receive_into_arena(pmx_mux *mux, uint32_t slot, size_t *allowance,
                               size_t room)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx_arena *a = mux->arena;
    uint8_t *at = a->data + a->size;
    size_t before = c->carry ? (size_t)c->carry->size : 0;
    size_t asked = at_most(room - before, *allowance);
    int64_t n = c->rules->transport->recv(mux, c, at + before, asked);
    if (!received(mux, slot, n, asked))
        return;
    *allowance -= (size_t)n;
    if (c->rules->policy.framing.kind == PMX_RAW) {
        (void)gap_for(mux, &c->rules->policy.framing, 0);
        if (a->data + a->size != at)
            memmove(a->data + a->size, at, (size_t)n);
        add_row(mux, slot, (size_t)n);
    } else {
        if (before)
            memcpy(at, c->carry->data, before);
        frame_in_arena(mux, slot, before + (size_t)n,
                       before ? c->carry->scanned : 0);
    }
}

static void drop_input(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (mux->dropped >= PMX__DROPS)
        return;                 /* the next turn, please */
    int64_t n = c->rules->transport->recv(mux, c, mux->scratch, mux->scratch_size);
    mux->dropped += n > 0 ? (size_t)n : 0;
    (void)received(mux, slot, n, mux->scratch_size);
}

/* Receive into the batch what is left of the connection's share; 1 when the
 * batch is full and the turn is over. */
static int take_in(pmx_mux *mux, uint32_t slot, size_t allowance)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__FRAMES && !pmx__blocked(c) && deliver_carry(mux, slot))
        return 1;
    while (c->flags & PMX__CAN_READ && !pmx__blocked(c) &&
           !(c->flags & (PMX__DONE | PMX__ENDED | PMX__FRAMES))) {
        if (c->flags & PMX__LIMITED && !c->left)
            return 0;
        if (no_rows_left(mux))
            return 1;
        if (c->flags & PMX__LIMITED)
            allowance = at_most(allowance, c->left);
        if (!allowance) {
            mux->capped = 1;
            return 0;
        }
        size_t room = (size_t)(mux->arena->capacity - mux->arena->size);
        size_t carried = c->carry ? (size_t)c->carry->size : 0;
        size_t before = allowance;
        if (carried > PMX__SMALL_CARRY || (carried && room < 2 * carried)) {
            if (receive_into_carry(mux, slot, &allowance))
                return 1;
        } else if (room < at_most(PMX__SMALL_PIECE, (size_t)mux->arena_size)) {
            return mux->rows ? 1 : 0;
        } else {
            receive_into_arena(mux, slot, &allowance, room);
            if (before - allowance == room - carried && allowance &&
                mux->rows && mux->arena_size >= PMX__PORTION) {
                c->rules->service->cut_short = slot;
                c->rules->service->cut_left = allowance;
                return 1;
            }
        }
        if (allowance && c->rules->transport->short_is_all &&
            !(c->flags & (PMX__TO_THE_END | PMX__LIMITED)))
            return 0;
    }
    return 0;
}

/* A turn's work with one connection's input. Whom the batch's end cuts short
 * stays first and has the rest of its share in the next turn: else what is
 * left of a batch would always fall to the same ones. */
int pmx__take_in(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE)
        return 0;               /* it is not on the ready list any more */
    if (c->flags & PMX__DROPPING && !(c->flags & PMX__FRAMES)) {
        if (c->flags & PMX__CAN_READ)
            drop_input(mux, slot);
        return 0;
    }
    pmx__service *s = c->rules->service;
    size_t allowance = (size_t)mux->arena_size / s->ready_count;
    if (allowance < PMX__PORTION)
        allowance = PMX__PORTION;
    if (s->cut_short == slot)
        allowance = s->cut_left;
    s->cut_short = PMX__NONE;
    int full = take_in(mux, slot, allowance);
    if ((c->flags & (PMX__LIMITED | PMX__ENDED | PMX__DONE)) == PMX__LIMITED &&
        !c->left)
        look_for_end(mux, slot);    /* before its last rows are handed over */
    return full;
}
