/*
 * Which connections have run out of time. A peer's clock runs while the peer
 * could act. It stands still while the peer waits for us: until its bytes are
 * read, until its turn comes, until the task that has its message answers.
 * None of that is examined before the time is over, so a message costs one
 * store, the touch.
 *
 * A frame that is not whole yet has a clock of its own, which no byte sets
 * back. It runs while the connection is read: see pmx__watch().
 */
#include "state.h"

static int is_idle_due(const pmx__conn *c)
{
    return c->due == PMX__IDLE_DUE || c->due == PMX__SLOW_DUE;
}

/* True if the peer has done its part: the kernel has room for queued output,
 * unread bytes have arrived, a message is in the batch that gathers, or answers
 * are owed. Bytes do not count while reading is paused because the peer does
 * not take its answers. */
static int waits_for_us(const pmx_mux *mux, const pmx__conn *c)
{
    if (pmx__has_work(c) || c->row_turn == mux->turn || c->owed)
        return 1;
    if (pmx__blocked(c) || c->flags & PMX__ENDED)
        return 0;
    size_t arrived = pmx__arrived(c->sock);
    return arrived && arrived != SIZE_MAX;
}

/* The peer may still be reading output that the kernel has taken. A poller
 * reports room only when there is much of it, so no event may have told of a
 * steady reader. Therefore the kernel is offered what is queued, and the peer
 * gets half of its time again to acknowledge something. */
static int may_read(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int looked = c->due == PMX__SLOW_DUE;
    /* `left` has another meaning while a drain limits the input */
    int limited = (c->flags & (PMX__LIMITED | PMX__ENDED)) == PMX__LIMITED;
    int64_t n = limited ? 0 : pmx__not_acknowledged(c);
    uint32_t left = n < 0 ? 0 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    if (looked ? limited || left >= c->left : !left && !c->queue)
        return 0;
    if (looked)
        pmx__touch(mux, slot);
    else
        pmx__set_due(mux, slot, PMX__SLOW_DUE);
    if (!limited)
        c->left = left;
    if (c->queue) {
        c->flags |= PMX__CAN_WRITE;
        pmx__ready(mux, slot);
    }
    return 1;
}

static void too_late(pmx_mux *mux, uint32_t slot)
{
    mux->stats->timeouts_idle++;
    pmx__finish(mux, slot, ETIMEDOUT, 1);
}

/* The connection's time is over, unless its peer waits for us. A task that has
 * a message of the connection may be working on it or wait for the next one.
 * Only the caller knows, so the connection becomes a row of mux->idle. */
static void expire_idle(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->rules->policy.idle_ns) {
        too_late(mux, slot);
    } else if (waits_for_us(mux, c)) {
        pmx__touch(mux, slot);
    } else if (!(c->task & (PMX__OWES | PMX__KEEPS))) {
        if (!may_read(mux, slot))
            too_late(mux, slot);
    } else {
        c->task |= PMX__SAY_IDLE;
        pmx__say(mux, slot, 0);
        pmx__touch(mux, slot);
    }
}

/* The unfinished frame is too old, unless bytes have arrived that may end it:
 * those are read first, and where the caller cuts them, the caller sees them. */
static void expire_frame(pmx_mux *mux, uint32_t slot)
{
    const pmx__conn *c = pmx__slot(mux, slot);
    int shown = !c->carry->size && c->row_turn == mux->turn;
    size_t arrived = shown || c->flags & PMX__CAN_READ
                         ? 1 : pmx__arrived(c->sock);
    if (arrived && arrived != SIZE_MAX)
        pmx__put_off(mux);
    else
        too_late(mux, slot);
}

void pmx__expire(pmx_mux *mux)
{
    uint32_t slot;
    /* The event of an idle connection may be among those not fetched yet.
     * After so many full waits the events of all slots have been fetched. */
    uint32_t rounds = mux->slots / mux->event_room + 1;
    int heard = !mux->unheard || mux->unheard > rounds;
    for (uint32_t left = PMX__EXPIRIES;
         left && (slot = pmx__overdue(mux)) != PMX__NONE; left--) {
        const pmx__conn *c = pmx__slot(mux, slot);
        int frame = pmx__frame_deadline(mux, c) <= mux->now;
        if (!frame && !is_idle_due(c))
            pmx__is_due(mux, slot);
        else if (!heard)
            pmx__put_off(mux);
        else if (frame)
            expire_frame(mux, slot);
        else
            expire_idle(mux, slot);
    }
}

/* The connection's task waits for the next message, so it owes no answer to
 * those before. As the reply to a row of mux->idle, this ends the connection. */
void pmx__waits(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int asked = c->task & PMX__TASK;
    c->task = (c->task & PMX__FAMILY) | PMX__TASK;
    if (asked && is_idle_due(c) && c->dirty == PMX__NONE &&
        !waits_for_us(mux, c) && !may_read(mux, slot))
        too_late(mux, slot);
}

/* The caller has handled a batch. That time does not count against the
 * connections in the batch, which waited meanwhile. A millisecond is ignored. */
void pmx__hand_back(pmx_mux *mux, int64_t now)
{
    enum { BRIEF_NS = 1000000 };
    if (!mux->handed_at || now - mux->handed_at < BRIEF_NS)
        return;
    if (now - mux->handed_at >= PMX__AWAY_NS)
        mux->away += now - mux->handed_at;
    mux->now = mux->handed_at = now;
    for (uint32_t i = 0; i < mux->row_conns; i++)
        pmx__touch(mux, mux->row_slots[i]);
    for (uint32_t i = 0; i < mux->opened_count; i++)
        if (pmx__find(mux, mux->opened[i]))
            pmx__touch(mux, (uint32_t)mux->opened[i]);
}
