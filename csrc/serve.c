/* The steps of a turn that serve the connections which are ready. */
#include "mux.h"

/* The answers to the last batch are in: connections that ended with it
 * close, unless some of their answers are owed. */
void pmx__close_ending(pmx_mux *mux)
{
    uint32_t count = mux->ending_count;
    mux->ending_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        pmx__conn *c = pmx__slot(mux, mux->ending[i]);
        if (c->flags & PMX__ENDING && !c->owed)
            pmx__begin_close(mux, mux->ending[i], 0);
    }
}

/* Serve the connections of one service that were ready when this began, in
 * order, until the batch is full or so much of their queues was sent that the
 * other connections have waited long enough. */
void pmx__serve_ready(pmx_mux *mux)
{
    pmx__service *s = mux->serving;
    for (uint32_t n = s->ready_count;
         n && s->ready_count && mux->flushed < PMX__FLUSH_ALL / 2; n--) {
        uint32_t slot = s->ready.head;
        pmx__conn *c = pmx__slot(mux, slot);
        if (c->queue && c->flags & PMX__CAN_WRITE)
            pmx__flush(mux, slot);
        if (pmx__take_in(mux, slot))
            mux->full = 1;
        if (mux->full && pmx__has_work(c) &&
            (c->row_turn != mux->turn || s->cut_short == slot))
            break;              /* without a row yet, it stays first */
        pmx__unready(mux, slot);
        if (pmx__has_work(c))
            pmx__ready(mux, slot);
        if (mux->full)
            break;
    }
}

/* Serve the connections whose work brings no rows: those that connect, only
 * send, or drop what a closed connection still receives. */
void pmx__serve_chores(pmx_mux *mux)
{
    for (uint32_t n = mux->chore_count;
         n && mux->chore_count && mux->flushed < PMX__FLUSH_ALL; n--) {
        uint32_t slot = mux->chores.head;
        pmx__conn *c = pmx__slot(mux, slot);
        if (pmx__shakes(c) && mux->shakes >= PMX__SHAKES && mux->ready_count) {
            pmx__unready(mux, slot);    /* the established come first */
            pmx__ready(mux, slot);
            continue;
        }
        if (pmx__shakes(c))
            pmx__shake(mux, slot);
        else if (pmx__awaits(c))
            pmx__hear_header(mux, slot);
        else if (c->flags & PMX__CONNECTING)
            pmx__connected(mux, slot);
        /* What was sent before it opened leaves in the turn that opens it. */
        if (c->queue && c->flags & PMX__CAN_WRITE &&
            !(c->flags & (PMX__CONNECTING | PMX__DONE)))
            pmx__flush(mux, slot);
        if (c->flags & PMX__DROPPING && !(c->flags & PMX__FRAMES))
            (void)pmx__take_in(mux, slot);
        if (c->flags & PMX__IN_CHORES)
            pmx__unready(mux, slot);
        if (pmx__has_work(c))
            pmx__ready(mux, slot);
    }
}

static void drain(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (pmx__awaits(c))         /* the header may be there, and more behind it */
        pmx__hear_header(mux, slot);
    uint32_t flags = c->flags;
    if (pmx__awaits(c) || (pmx__shakes(c) && !(flags & PMX__OUTGOING)))
        pmx__finish(mux, slot, 0, 0);
    else if (flags & PMX__CLOSING)
        pmx__settle(mux, slot);
    else if (!(flags & PMX__OUTGOING))
        pmx__limit_input(mux, slot);
}

/* The backlog is empty. From here on the input of an accepted connection is
 * what has arrived; some connections are limited each turn. Then the listeners
 * close, so a peer that finds them closed knows that nothing later is read. */
int pmx__drain_all(pmx_mux *mux)
{
    int budget = PMX__PLACES;
    if (mux->draining == 1 && !pmx__accepting(mux))
        mux->draining = 2;
    else if (mux->draining != 2)
        return 0;
    while (mux->fresh != PMX__NONE) {
        uint32_t slot = mux->fresh;
        pmx__conn *c = pmx__slot(mux, slot);
        mux->fresh = c->ready_next;
        c->ready_next = PMX__NONE;
        drain(mux, slot);
    }
    while (mux->limited < mux->slots && budget > 0) {
        uint32_t slot = mux->limited++;
        int used = (int)(pmx__slot(mux, slot)->generation & 1);
        budget -= used ? PMX__PLACES / PMX__LIMITS : 1;
        if (used && !(pmx__slot(mux, slot)->flags & PMX__DONE))
            drain(mux, slot);
    }
    if (mux->limited < mux->slots || pmx__accepting(mux))
        return 0;
    mux->draining = 3;
    for (uint32_t i = 0; i < mux->listener_count; i++)
        if (mux->listeners[i].rules)
            pmx__close_listener(mux, &mux->listeners[i], 0);
    return PMX_DRAINED;
}

/* True if a part of a frame has come, or may have. An empty carry stands for
 * bytes that the caller has. */
static int has_part(const pmx__conn *c)
{
    if (c->flags & PMX__FRAMES || c->carry)
        return 1;
    if (c->rules->policy.framing.kind == PMX_RAW)
        return 0;               /* what has arrived is delivered as it is */
    size_t arrived = pmx__arrived(c->sock);
    return (arrived && arrived != SIZE_MAX) ||
           (c->rules->transport->held && c->rules->transport->held(c));
}

/* True if the connection is to be asked for again. */
static int end_input(pmx_mux *mux, uint32_t slot, enum pmx_end when)
{
    const pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__CLOSING | PMX__DONE | PMX__ENDED | PMX__LIMITED))
        return 0;
    if (c->flags & (PMX__CONNECTING | PMX__SAY_OPENED))
        return 1;
    if (when == PMX_END_ASK)
        return 0;
    if (has_part(c) || (when == PMX_END_QUIET && c->queue))
        return 1;
    pmx__limit_input(mux, slot);
    return 0;
}

int64_t pmx__do_end_inputs(pmx_mux *mux, uint64_t *ids, uint32_t count,
                           enum pmx_end when)
{
    uint32_t left = 0;
    if (mux->gathering && mux->opened_count)
        return count;           /* the caller has not heard of some yet */
    for (uint32_t i = 0; i < count; i++)
        if (pmx__find(mux, ids[i]) &&
            end_input(mux, (uint32_t)ids[i], when))
            ids[left++] = ids[i];
    return left;
}
