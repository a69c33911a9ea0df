/*
 * Whose time is over. A peer's clock runs while the peer could act, not while
 * it waits for us: for its bytes to be read, for its turn, for the task that
 * has its message. None of that is looked at before the time is over, so that
 * a message costs nothing but the touch.
 */
#include "core.h"

static int is_idle_due(const pmx__conn *c)
{
    return c->due == PMX__IDLE_DUE || c->due == PMX__SLOW_DUE;
}

/* Whether the peer has done its part: the kernel has room for what is queued,
 * bytes have arrived that are not read yet, or are in the batch that gathers. Of
 * those that nobody reads since the peer does not take its answers, none
 * counts. */
static int waits_for_us(const pmx_mux *mux, const pmx__conn *c)
{
    if (pmx__has_work(c) || c->row_turn == mux->turn)
        return 1;
    if (pmx__blocked(c) || c->flags & PMX__ENDED)
        return 0;
    size_t arrived = pmx__arrived(c->sock);
    return arrived && arrived != SIZE_MAX;
}

/* What the kernel has taken, the peer may be reading yet, and a poller tells of
 * room once there is much of it: no event need have told of a steady reader. So
 * the kernel is offered what is queued, and the peer has half of its time more
 * to acknowledge something. */
static int may_read(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int looked = c->due == PMX__SLOW_DUE;
    /* `left` is another figure while a drain limits the input */
    int limited = (c->flags & (PMX__LIMITED | PMX__ENDED)) == PMX__LIMITED;
    int64_t n = limited ? 0 : pmx__unacknowledged(c->sock);
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

/* Its time is over; but not while it waits for us. A task that has a message
 * of its may be at it, or may wait for the next: that is asked. */
static void expire_idle(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->rules->is.idle_ns) {
        pmx__finish(mux, slot, ETIMEDOUT, 1);
    } else if (waits_for_us(mux, c)) {
        pmx__touch(mux, slot);
    } else if (!(c->task & (PMX__OWES | PMX__KEEPS))) {
        if (!may_read(mux, slot))
            pmx__finish(mux, slot, ETIMEDOUT, 1);
    } else if (mux->idle_count == mux->max_rows) {
        pmx__put_off(mux);
    } else {
        mux->idle[mux->idle_count++] = pmx__id(slot, c);
        pmx__touch(mux, slot);
    }
}

void pmx__expire(pmx_mux *mux)
{
    uint32_t slot;
    /* an idle connection's event may be among those not fetched yet: after so
     * many full waits each slot's has been */
    uint32_t rounds = mux->slots / mux->event_room + 1;
    int heard = !mux->unheard || mux->unheard > rounds;
    for (uint32_t left = PMX__EXPIRIES;
         left && (slot = pmx__overdue(mux)) != PMX__NONE; left--) {
        if (!is_idle_due(pmx__slot(mux, slot)))
            pmx__is_due(mux, slot);
        else if (heard)
            expire_idle(mux, slot);
        else
            pmx__put_off(mux);
    }
}

/* A task waits for its connection's next message: of those before it owes
 * none. Said in answer to a row of mux->idle, it ends the connection. */
void pmx__waits(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int asked = c->task & PMX__TASK;
    c->task = (c->task & PMX__FAMILY) | PMX__TASK;
    if (asked && is_idle_due(c) && c->dirty == PMX__NONE &&
        !waits_for_us(mux, c) && !may_read(mux, slot))
        pmx__finish(mux, slot, ETIMEDOUT, 1);
}

/* The time that the caller has had a batch is not its connections': they had
 * spoken, and waited. A little of it does not matter. */
void pmx__hand_back(pmx_mux *mux, int64_t now)
{
    enum { BRIEF_NS = 1000000 };
    if (!mux->handed_at || now - mux->handed_at < BRIEF_NS)
        return;
    mux->now = mux->handed_at = now;
    for (uint32_t i = 0; i < mux->row_conns; i++)
        pmx__touch(mux, mux->row_slots[i]);
    for (uint32_t i = 0; i < mux->opened_count; i++)
        if (pmx__find(mux, mux->opened[i]))
            pmx__touch(mux, (uint32_t)mux->opened[i]);
}
