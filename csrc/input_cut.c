/*
 * Cutting what was received into frames. It is cut where it stands, in the
 * batch's arena: heads and tails are squeezed out in place, so payloads stand
 * back to back. What is left over, an unfinished frame or whole ones that
 * found no room, is the connection's carry. The carry grows as bytes arrive,
 * never from a claimed length. A large frame that is whole in its carry is
 * handed over with that memory, as a batch of its own; where messages gather,
 * it is copied into the arena, if that could hold it.
 */
#include "input.h"

#include <assert.h>
#include <string.h>

/* The first frame of these bytes, by the connection's framing. */
static int next_frame(const pmx__conn *c, const uint8_t *bytes, size_t size,
                      uint64_t *scanned, pmx_frame *frame)
{
    int found = c->rules->framing->next(&c->rules->policy.framing, bytes, size,
                                        scanned, frame);
    assert(found < PMX__MESSAGE ||
           (frame->whole && frame->whole <= size &&
            frame->head <= frame->whole &&
            frame->size <= frame->whole - frame->head));
    return found;
}

/* --- in the carry ------------------------------------------------------- */

/* The first frame of the carry; at the end of the stream what is left may be
 * one. */
static int frame_of_carry(pmx__conn *c, pmx_frame *frame)
{
    pmx_arena *carry = c->carry;
    const pmx__framing *framing = c->rules->framing;
    int found = next_frame(c, carry->data, (size_t)carry->size,
                           &carry->scanned, frame);
    if (found == PMX__MORE && c->flags & PMX__ENDED && framing->at_end) {
        found = framing->at_end(&c->rules->policy.framing, (size_t)carry->size,
                                frame);
        carry->scanned = 0;
    }
    return found;
}

/* The carry becomes the batch; the bytes behind the frame are a new carry. */
static int adopt(pmx_mux *mux, uint32_t slot, const pmx_frame *frame)
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
        pmx__frame_begins(mux, c);
    }
    mux->stats->buffers -= carry->total;
    carry->data += frame->head;
    carry->capacity -= frame->head;
    carry->size = 0;
    carry->offsets[0] = 0;
    carry->owned = 0;
    mux->arena = carry;
    mux->full = 1;
    pmx__add_row(mux, slot, frame->size);
    return 0;
}

/* Deliver what is whole in the carry; 1 when the batch is full. */
int pmx__deliver_carry(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx_frame frame;
    int found = PMX__MORE;

    while (c->carry && c->carry->size &&
           (found = frame_of_carry(c, &frame)) > 0) {
        pmx_arena *a = mux->arena;
        c->flags |= PMX__FRAMES;
        if (pmx__no_rows_left(mux))
            return 1;
        if (frame.whole > mux->arena_size ||
            (frame.size >= PMX__LARGE_FRAME &&
             c->rules->service->min_messages < 2)) {
            if (mux->rows)
                return 1;       /* the frame is first in the next batch */
            if (adopt(mux, slot, &frame)) {
                pmx__finish(mux, slot, ENOMEM, 1);
                return 0;
            }
        } else {
            uint32_t gap = pmx__gap_for(
                mux, c, frame.whole - frame.head - frame.size);
            if (frame.size + gap > a->capacity - a->size)
                return 1;
            if (frame.size + gap)
                memcpy(a->data + a->size, c->carry->data + frame.head,
                       frame.size + gap);
            pmx__add_row(mux, slot, frame.size);
            c->carry->data += frame.whole;
            c->carry->capacity -= frame.whole;
            c->carry->size -= frame.whole;
            pmx__frame_begins(mux, c);
        }
        found = PMX__MORE;
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
        pmx__input_broken(mux, slot, -found);
    else if (c->flags & PMX__ENDED)
        pmx__frames_over(mux, slot);
    return mux->full;
}

/* How much to ask for into the carry: the rest of a frame whose size is known,
 * so that nothing stands behind it, or a portion. The carry doubles as bytes
 * arrive and stays under twice what one frame may take. */
size_t pmx__carry_room(pmx_mux *mux, pmx__conn *c, size_t allowance)
{
    pmx_arena *carry = c->carry;
    pmx_frame frame;
    size_t wanted = PMX__PORTION;
    size_t most = (size_t)c->rules->policy.framing.max_size + 16 + PMX__PORTION;
    if (next_frame(c, carry->data, (size_t)carry->size, &carry->scanned,
                   &frame) == PMX__MORE && frame.whole > carry->size)
        wanted = frame.whole - (size_t)carry->size;
    wanted = pmx__at_most(wanted, allowance);
    size_t least = pmx__at_most(wanted, (size_t)carry->size);
    if (pmx__arena_reserve(mux, &c->carry, least, most))
        return 0;
    return pmx__at_most(wanted,
                        (size_t)(c->carry->capacity - c->carry->size));
}

/* --- in the arena ------------------------------------------------------- */

/* Keep what is left over behind the frames as the carry; `begins` if a frame
 * was in front of it. */
static int keep_rest(pmx_mux *mux, pmx__conn *c, const uint8_t *rest,
                     size_t size, uint64_t scanned, int begins)
{
    if (!size) {
        if (c->carry && c->carry->size)     /* else see pmx__begun() */
            pmx__carry_drop(mux, c);
        return 0;
    }
    if (c->carry)
        c->carry->size = 0;
    else
        begins = 1;
    if (pmx__arena_reserve(mux, &c->carry, size, size))
        return -ENOMEM;
    if (begins)
        pmx__frame_begins(mux, c);
    memcpy(c->carry->data, rest, size);
    c->carry->size = size;
    c->carry->scanned = scanned;
    return 0;
}

/* Cut the `size` bytes behind arena->size in place. */
void pmx__cut_in_arena(pmx_mux *mux, uint32_t slot, size_t size,
                       uint64_t scanned)
{
    pmx__conn *c = pmx__slot(mux, slot);
    uint8_t *at = mux->arena->data + mux->arena->size;
    uint8_t *begin = at, *end = at + size;
    pmx_frame frame;
    int found = PMX__MORE;

    if (c->rules->framing->run)
        at = pmx__add_run(mux, slot, at, end, &scanned);
    while (at < end && (found = next_frame(c, at, (size_t)(end - at),
                                           &scanned, &frame)) > 0) {
        if (pmx__no_rows_left(mux)) {
            c->flags |= PMX__FRAMES;
            scanned = 0;
            break;
        }
        uint32_t gap = pmx__gap_for(mux, c,
                                    frame.whole - frame.head - frame.size);
        uint8_t *to = mux->arena->data + mux->arena->size;
        if (to != at + frame.head)
            memmove(to, at + frame.head, frame.size + gap);
        pmx__add_row(mux, slot, frame.size);
        at += frame.whole;
        found = PMX__MORE;
    }
    if ((found >= 0 || pmx__is_unanswered(mux, c)) &&
        keep_rest(mux, c, at, (size_t)(end - at), scanned, at != begin))
        pmx__finish(mux, slot, ENOMEM, 1);
    else if (found < 0)
        pmx__input_broken(mux, slot, -found);
}
