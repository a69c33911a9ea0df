/*
 * Whose time is over. A peer's clock runs while the peer could act, not while
 * it waits for us: for its bytes to be read, for its turn, for the task that
 * has its message. None of that is looked at before the time is over, so that
 * a message costs nothing but the touch.
 */
#include "core.h"

/* Whether the peer has done its part: the kernel has room for what is queued,
 * or bytes have arrived that are not read yet. Of those that nobody reads
 * since the peer does not take its answers, none counts. */
static int waits_for_us(const pmx__conn *c)
{
    if (pmx__has_work(c))
        return 1;
    if (pmx__blocked(c) || c->flags & PMX__ENDED)
        return 0;
    size_t arrived = pmx__arrived(c->sock);
    return arrived && arrived != SIZE_MAX;
}

/* Its time is over; but not while it waits for us. A task that has a message
 * of its may be at it, or may wait for the next: that is asked. */
static void expire_idle(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->rules->is.idle_ns) {
        pmx__finish(mux, slot, ETIMEDOUT, 1);
    } else if (waits_for_us(c)) {
        pmx__touch(mux, slot);
    } else if (!(c->task & (PMX__OWES | PMX__KEEPS))) {
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
        if (pmx__slot(mux, slot)->due != PMX__IDLE_DUE)
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
    if (asked && c->due == PMX__IDLE_DUE && c->row_turn != mux->turn &&
        c->dirty == PMX__NONE && !waits_for_us(c))
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
