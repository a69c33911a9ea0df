/*
 * Deadlines: a heap of all of them, the next one first.
 *
 * A touch only stores its time. The heap learns of it when the old deadline is
 * over. So a connection costs the heap one step in the time that it may be
 * idle, however much it says, and a message costs one store. The heap has room
 * for every slot, so setting a deadline cannot fail.
 *
 * A connection that closes or dials comes up before its deadline too, to be
 * looked at: the heap has the earlier of the two times.
 *
 * An unfinished frame has a deadline of its own, beside the connection's. The
 * heap has the earlier of both, and does not learn that the frame is whole or
 * that reading has stopped: the connection then comes up in vain, once in the
 * time that a frame may take.
 */
#include "core.h"

int64_t pmx__deadline_of(const pmx__conn *c)
{
    int64_t span = -1;
    if (c->due == PMX__CONNECT_DUE && pmx__awaits(c))
        return pmx__after(c->since, INT64_C(1000000) * c->rules->policy.proxy_ms);
    if (c->due == PMX__CONNECT_DUE)
        return pmx__shakes(c) ? c->at.tls->until : c->at.route->until;
    if (c->due == PMX__IDLE_DUE)
        span = c->rules->policy.idle_ns;
    else if (c->due == PMX__SLOW_DUE)
        span = c->rules->policy.idle_ns < 0     /* after a switch */
                   ? -1 : c->rules->policy.idle_ns / 2;
    else if (c->due == PMX__CLOSE_DUE)
        span = c->rules->policy.close_ns;
    return span < 0 ? INT64_MAX : pmx__after(c->since, span);
}

int64_t pmx__frame_deadline(const pmx_mux *mux, const pmx__conn *c)
{
    int64_t span = c->rules->policy.message_ns;
    uint32_t now = c->flags & (PMX__MAY_BRING | PMX__FRAMES | PMX__CLOSING |
                               PMX__DONE);
    /* the links of those that linger stand in the place of the carry */
    if (span < 0 || now != PMX__MAY_BRING || !c->carry)
        return INT64_MAX;
    return pmx__after(c->carry->since + mux->away, span);
}

static int64_t next_of(const pmx_mux *mux, const pmx__conn *c)
{
    return pmx__earlier(pmx__deadline_of(c), pmx__frame_deadline(mux, c));
}

static void put(pmx_mux *mux, uint32_t place, pmx__deadline d)
{
    mux->due[place] = d;
    pmx__slot(mux, d.slot)->due_place = place;
}

/* Move the hole at `place` to where d belongs, and put d there. */
static void settle(pmx_mux *mux, uint32_t place, pmx__deadline d)
{
    while (place && mux->due[(place - 1) / 4].at > d.at) {
        put(mux, place, mux->due[(place - 1) / 4]);
        place = (place - 1) / 4;
    }
    for (;;) {
        uint32_t first = 4 * place + 1, least = place;
        int64_t at = d.at;
        for (uint32_t k = first; k < first + 4 && k < mux->due_count; k++)
            if (mux->due[k].at < at)
                at = mux->due[k].at, least = k;
        if (least == place)
            break;
        put(mux, place, mux->due[least]);
        place = least;
    }
    put(mux, place, d);
}

void pmx__undue(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->due)
        return;
    c->due = PMX__NOT_DUE;
    pmx__deadline last = mux->due[--mux->due_count];
    if (c->due_place < mux->due_count)
        settle(mux, c->due_place, last);
}

void pmx__due_since(pmx_mux *mux, uint32_t slot, enum pmx__due due,
                    int64_t since)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__undue(mux, slot);
    c->since = since;
    c->due = due & 7;
    if (pmx__deadline_of(c) == INT64_MAX)
        c->due = PMX__FRAME_DUE;
    int64_t at = next_of(mux, c);
    if (at == INT64_MAX)
        c->due = PMX__NOT_DUE;
    else
        settle(mux, mux->due_count++, (pmx__deadline){.at = at, .slot = slot});
}

void pmx__frame_due(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int64_t at = pmx__frame_deadline(mux, c);
    if (at >= (c->due ? mux->due[c->due_place].at : INT64_MAX))
        return;
    if (!c->due) {
        c->due = PMX__FRAME_DUE;
        c->due_place = mux->due_count++;
    }
    settle(mux, c->due_place, (pmx__deadline){.at = at, .slot = slot});
}

void pmx__look_at(pmx_mux *mux, uint32_t slot, int64_t at)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->due) {
        c->due = PMX__LOOK_DUE;
        c->due_place = mux->due_count++;
    }
    at = pmx__earlier(at, pmx__deadline_of(c));
    settle(mux, c->due_place, (pmx__deadline){.at = at, .slot = slot});
}

void pmx__set_due(pmx_mux *mux, uint32_t slot, enum pmx__due due)
{
    pmx__due_since(mux, slot, due, mux->now);
}

void pmx__touch(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->due == PMX__IDLE_DUE)
        c->since = mux->now;
    else if (c->due == PMX__SLOW_DUE)
        pmx__set_due(mux, slot, PMX__IDLE_DUE);
    else if (c->flags & (PMX__PAUSED | PMX__HELD) && pmx__has_no_due(c))
        c->since = 0;           /* the time that its clock has run */
}

void pmx__put_off(pmx_mux *mux)
{
    pmx__deadline first = mux->due[0];
    first.at = mux->now + PMX__AGAIN_NS;
    settle(mux, 0, first);
}

int64_t pmx__next_due(const pmx_mux *mux)
{
    return mux->due_count ? mux->due[0].at : INT64_MAX;
}

uint32_t pmx__overdue(pmx_mux *mux)
{
    while (mux->due_count && mux->due[0].at <= mux->now) {
        pmx__deadline first = mux->due[0];
        const pmx__conn *c = pmx__slot(mux, first.slot);
        first.at = next_of(mux, c);
        if (first.at <= mux->now ||
            c->flags & (PMX__CONNECTING | PMX__CLOSING))
            return first.slot;
        if (first.at == INT64_MAX)
            pmx__undue(mux, first.slot);
        else
            settle(mux, 0, first);  /* the connection was touched since */
    }
    return PMX__NONE;
}
