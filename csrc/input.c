/*
 * Receiving. Bytes go straight into the batch's arena and are cut there
 * (input_cut.c). What is left over of a connection, its carry, is copied in
 * front of what is received next while it is small; a larger carry is itself
 * received into.
 */
#include "input.h"

#include <string.h>

/* The rest of a connection's portion of the turn, in bytes of the wire; and
 * whether its transport stopped while the socket may have had more. */
typedef struct {
    size_t left;
    int again;
} portion_t;

/* Receive at most `size` bytes: how many. 0: there are none now, or the input
 * has ended; this has dealt with it. Without a share the bytes are dropped. */
static size_t receive(pmx_mux *mux, uint32_t slot, uint8_t *to, size_t size,
                      portion_t *portion)
{
    pmx__conn *c = pmx__slot(mux, slot);
    const pmx__transport *transport = c->rules->transport;
    pmx__got got = {0};
    int64_t n = portion || !transport->drop ? transport->recv(mux, c, to, size, &got)
                                    : transport->drop(mux, c, &got);
    int limited = c->flags & PMX__LIMITED && !(c->flags & PMX__ENDED);
    if (got.queued && c->queue->size > c->rules->policy.high_water &&
        !(c->flags & (PMX__OVER_WATER | PMX__CLOSING)))
        pmx__over_water(mux, slot);
    if (got.wire && !(c->flags & PMX__DROPPING))
        pmx__touch(mux, slot);
    if (limited)
        c->left -= (uint32_t)pmx__at_most(got.wire, c->left);
    if (portion) {
        portion->left -= pmx__at_most(got.wire, portion->left);
        portion->again = n > 0 && (size_t)n < size && !got.dry;
    } else {
        mux->dropped += got.wire;
    }
    if (n > 0) {
        mux->stats->bytes_in += (uint64_t)n;
        if (got.dry && !limited && !(c->flags & PMX__TO_THE_END) &&
            !pmx__held(c))
            c->flags &= ~(uint32_t)PMX__CAN_READ;
        return (size_t)n;
    }
    if (n == 0)
        pmx__end_input(mux, slot);
    else if (n == PMX__CUT)
        pmx__input_torn(mux, slot);
    else if (n != -EAGAIN)
        pmx__finish(mux, slot, (int)-n, 0);
    else if (!got.dry)
        return 0;               /* its portion is over */
    else if (limited)
        pmx__cut_input(mux, slot);
    else
        c->flags &= ~(uint32_t)(PMX__CAN_READ | PMX__TO_THE_END);
    return 0;
}

static int receive_into_carry(pmx_mux *mux, uint32_t slot, size_t most,
                              portion_t *portion)
{
    pmx__conn *c = pmx__slot(mux, slot);
    size_t room = pmx__carry_room(mux, c, most);
    if (!room) {
        pmx__finish(mux, slot, ENOMEM, 1);
        return 0;
    }
    size_t n = receive(mux, slot, c->carry->data + c->carry->size, room,
                       portion);
    if (!n)
        return 0;
    c->carry->size += n;
    return pmx__deliver_carry(mux, slot);
}

/* 1 when this has filled the arena. */
static int receive_into_arena(pmx_mux *mux, uint32_t slot, size_t room,
                              size_t most, portion_t *portion)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx_arena *a = mux->arena;
    uint8_t *at = a->data + a->size;
    size_t before = c->carry ? (size_t)c->carry->size : 0;
    size_t n = receive(mux, slot, at + before,
                       pmx__at_most(room - before, most), portion);
    if (!n)
        return 0;
    if (before)
        memcpy(at, c->carry->data, before);
    pmx__cut_in_arena(mux, slot, before + n,
                      before ? c->carry->scanned : 0);
    return n == room - before;
}

/* Receive into the batch what is left of the connection's portion; 1 when the
 * batch is full and the turn is over. */
static int take_in(pmx_mux *mux, uint32_t slot, portion_t portion)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__FRAMES && !pmx__blocked(c) &&
        pmx__deliver_carry(mux, slot))
        return 1;
    while (c->flags & PMX__CAN_READ && !pmx__blocked(c) &&
           !(c->flags & (PMX__DONE | PMX__ENDED | PMX__FRAMES))) {
        size_t most = portion.left;
        if (c->flags & PMX__LIMITED) {
            size_t arrived = c->left + pmx__held(c);
            if (!arrived)
                return 0;
            most = pmx__at_most(most, arrived);
        }
        if (pmx__no_rows_left(mux))
            return 1;
        if (!most)
            return 0;           /* it is served again when the others were */
        size_t room = (size_t)(mux->arena->capacity - mux->arena->size);
        size_t carried = c->carry ? (size_t)c->carry->size : 0;
        if (carried > PMX__SMALL_CARRY || (carried && room < 2 * carried)) {
            if (receive_into_carry(mux, slot, most, &portion))
                return 1;
        } else if (room < pmx__at_most(PMX__SMALL_PIECE,
                                       (size_t)mux->arena_size)) {
            return mux->rows ? 1 : 0;
        } else if (receive_into_arena(mux, slot, room, most, &portion) &&
                   portion.left && mux->rows && mux->arena_size >= PMX__PORTION) {
            c->rules->service->cut_short = slot;
            c->rules->service->cut_left = portion.left;
            return 1;
        }
        if (portion.left && !portion.again &&
            !(c->flags & (PMX__TO_THE_END | PMX__LIMITED)))
            return 0;
    }
    return 0;
}

/* A turn's work with one connection's input. A connection whose portion a full
 * batch cut stays first and gets the rest next turn; otherwise the same few
 * would always get the tail. */
int pmx__take_in(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE)
        return 0;               /* it is not on the ready list any more */
    if (c->flags & PMX__DROPPING && !(c->flags & PMX__FRAMES)) {
        /* past its budget, the next turn drops the rest */
        if (c->flags & PMX__CAN_READ && mux->dropped < PMX__DROPS)
            (void)receive(mux, slot, mux->scratch, mux->scratch_size, NULL);
        return 0;
    }
    pmx__service *s = c->rules->service;
    portion_t portion = {.left = (size_t)mux->arena_size / s->ready_count};
    if (portion.left < PMX__PORTION)
        portion.left = PMX__PORTION;
    if (s->cut_short == slot)
        portion.left = s->cut_left;
    s->cut_short = PMX__NONE;
    int full = take_in(mux, slot, portion);
    if ((c->flags & (PMX__LIMITED | PMX__ENDED | PMX__DONE)) == PMX__LIMITED &&
        !c->left && !pmx__held(c))
        pmx__look_for_end(mux, slot);   /* before its last rows are reported */
    if (!(c->flags & (PMX__CLOSING | PMX__DONE)) && c->carry &&
        c->rules->policy.message_ns >= 0)
        pmx__frame_due(mux, slot);
    return full;
}
