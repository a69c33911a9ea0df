/*
 * What a connection is, from its flags, and what is told of it: to the poller,
 * to the user. Its states:
 *
 *   connecting -> open -> ending -> closing -> done -> reported, freed
 */
#include "state.h"

#include <stdlib.h>

enum { STOPPED = PMX__PAUSED | PMX__HELD };     /* the idle clock stands */

/* --- what it is, from its flags -------------------------------------------- */

int pmx__blocked(const pmx__conn *c)
{
    if (c->flags & PMX__CLOSING)
        return 0;
    return c->flags & PMX__PAUSED ||
           (c->flags & (PMX__HELD | PMX__OVER_WATER) && !(c->flags & PMX__LOST));
}

/* Nobody reads it, nor has frames of it to come: a lost peer is the end. */
int pmx__nobody_reads(const pmx__conn *c)
{
    return c->flags & PMX__PAUSED ||
           (c->flags & PMX__ENDED && !(c->flags & PMX__FRAMES));
}

int pmx__has_work(const pmx__conn *c)
{
    if (c->flags & PMX__DONE)
        return 0;
    if (c->flags & PMX__CONNECTING)
        return !!(c->flags & PMX__CAN_WRITE);
    if (c->queue && c->flags & PMX__CAN_WRITE)
        return 1;
    return (c->flags & PMX__FRAMES && !pmx__blocked(c)) ||
           (c->flags & PMX__CAN_READ && pmx__reads(c));
}

/* Whether it is received from, be it to drop what comes. */
int pmx__reads(const pmx__conn *c)
{
    if (c->flags & PMX__DROPPING)
        return !(c->flags & PMX__FRAMES);
    return !(c->flags & PMX__ENDED) && !pmx__blocked(c);
}

/* --- the ready lists ----------------------------------------------------- */

int pmx__brings_rows(const pmx__conn *c)
{
    if (c->flags & (PMX__CONNECTING | PMX__DONE) || pmx__blocked(c))
        return 0;
    return c->flags & PMX__FRAMES ||
           (c->flags & PMX__CAN_READ && !(c->flags & PMX__ENDED));
}

/* No message precedes the row that says opened: until that is reported, only
 * output is served. */
void pmx__ready(pmx_mux *mux, uint32_t slot)
{
    const pmx__conn *c = pmx__slot(mux, slot);
    int chore = !pmx__brings_rows(c);
    if (!chore && c->flags & PMX__SAY_OPENED) {
        if (!c->queue || !(c->flags & PMX__CAN_WRITE))
            return;
        chore = 1;
    }
    if (c->flags & PMX__IN_READY) {
        if (chore == !!(c->flags & PMX__IN_CHORES))
            return;
        pmx__unready(mux, slot);
    }
    pmx__enlist(mux, slot, chore);
}

/* --- what is watched --------------------------------------------------- */

/* Tell a level-triggered poller what is wanted now, and keep count of who may
 * bring messages. To be called whenever a connection's state has changed. */
void pmx__watch(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    uint32_t f = c->flags;
    int source = !(f & (PMX__CONNECTING | PMX__DONE | PMX__ENDED |
                        PMX__CLOSING)) && !pmx__blocked(c);
    if (source != !!(f & PMX__MAY_BRING)) {
        c->flags ^= PMX__MAY_BRING;
        mux->sources += source ? 1u : UINT32_MAX;
        c->rules->service->sources += source ? 1u : UINT32_MAX;
    }
    if (mux->poller->edge || !(f & PMX__IN_POLLER))
        return;
    uint32_t what = 0;
    if (f & PMX__CONNECTING) {
        what = PMX__OUT;
    } else {
        if (pmx__reads(c))
            what |= PMX__IN;
        if (c->queue && !(f & PMX__CAN_WRITE))
            what |= PMX__OUT;
        if (!what && f & PMX__HANGUP_SEEN)
            what = PMX__DROP;
    }
    uint32_t watched = (what & PMX__IN ? PMX__WATCH_IN : 0u) |
                       (what & PMX__OUT ? PMX__WATCH_OUT : 0u) |
                       (what & PMX__DROP ? PMX__WATCH_DROP : 0u);
    if (watched == c->watched)
        return;
    c->watched = watched & 7;
    mux->poller->mod(mux->poll_state, c->sock, pmx__id(slot, c), what);
}

void pmx__opened(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->flags |= PMX__COUNTED | PMX__CAN_WRITE;
    mux->stats.connections++;
    mux->stats.outgoing += !!(c->flags & PMX__OUTGOING);
    if (mux->opened_count < mux->max_rows &&
        pmx__claim(mux, c->rules->service))
        mux->opened[mux->opened_count++] = pmx__id(slot, c);
    else
        pmx__say(mux, slot, PMX__SAY_OPENED);
    pmx__set_due(mux, slot, PMX__IDLE_DUE);
    if (c->flags & STOPPED) {
        pmx__undue(mux, slot);
        c->since = 0;           /* what its clock has run */
    }
    pmx__watch(mux, slot);
}

/* --- states ------------------------------------------------------------ */

void pmx__pause(pmx_mux *mux, uint32_t slot, uint32_t flag)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    if (!(c->flags & STOPPED) &&
        (c->due == PMX__IDLE_DUE || c->due == PMX__SLOW_DUE)) {
        pmx__undue(mux, slot);
        c->since = mux->now - c->since;     /* what it had run */
    }
    c->flags |= flag;
    pmx__watch(mux, slot);
}

void pmx__resume(pmx_mux *mux, uint32_t slot, uint32_t flag)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE || !(c->flags & flag))
        return;
    c->flags &= ~flag;
    if (!(c->flags & (STOPPED | PMX__CLOSING | PMX__CONNECTING)) && !c->due)
        pmx__due_since(mux, slot, PMX__IDLE_DUE, mux->now - c->since);
    pmx__watch(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

/* The poller tells of an error or a hang-up. Who reads finds out by reading;
 * who does not must be told, and an automatic pause has no purpose left. */
void pmx__lost(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__CONNECTING | PMX__DONE))
        return;
    if (pmx__nobody_reads(c)) {
        if (!error)
            error = pmx__sock_error(c->sock);
        if (error) {
            pmx__finish(mux, slot, error, 0);
            return;
        }
        c->flags |= PMX__HANGUP_SEEN;
        pmx__watch(mux, slot);
    } else {
        pmx__read_to_end(mux, slot, error);
    }
}

/* Read on to the end, whatever held reading; the error, where it has been
 * taken from the socket, is kept for when that is reached. */
void pmx__read_to_end(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->error)
        c->error = error;
    c->flags |= PMX__LOST | PMX__CAN_READ | PMX__TO_THE_END;
    pmx__watch(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

/* Close a socket that is not to be reset. Input that is left unread would
 * reset it: what is there is taken. A Unix socket is shut before, so that
 * nothing comes behind that. */
void pmx__let_go(pmx_mux *mux, const pmx__conn *c)
{
    if (c->rules->transport->arrives_at_once)
        pmx__shutdown_both(c->sock);
    for (int n = 0; n < 16; n++)
        if (pmx__recv(c->sock, mux->scratch, mux->scratch_size) <= 0)
            break;
    pmx__close_sock(c->sock);
}

void pmx__finish(pmx_mux *mux, uint32_t slot, int error, int reset)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    if (!c->error)
        c->error = error;
    /* TCP gives an open connection up only when its time has run out, and
     * says then what the network had told it last */
    if (c->flags & PMX__COUNTED &&
        (c->error == EHOSTUNREACH || c->error == ENETUNREACH))
        c->error = ETIMEDOUT;
    if (c->error == EPIPE)      /* one name for it */
        c->error = ECONNRESET;
    pmx__keep_names(c);
    pmx__queue_drop(mux, c);
    pmx__linger_no_more(mux, slot);
    pmx__carry_drop(mux, c);
    if (c->sock != PMX__NO_SOCK) {
        pmx__transport_end(c);
        if (c->flags & PMX__IN_POLLER)
            mux->poller->del(mux->poll_state, c->sock);
        if (reset)
            pmx__reset_sock(c->sock);
        else if (c->flags & PMX__DROPPING)
            pmx__let_go(mux, c);
        else
            pmx__close_sock(c->sock);
        c->sock = PMX__NO_SOCK;
    }
    pmx__unready(mux, slot);
    pmx__undue(mux, slot);
    if (c->flags & PMX__UNACKED)
        mux->unacked--;
    c->flags |= PMX__DONE;
    c->flags &= ~(uint32_t)(PMX__IN_POLLER | PMX__ENDING | PMX__UNACKED);
    pmx__watch(mux, slot);
    mux->stats.closed++;
    if (reset || c->error == ECONNRESET)
        mux->stats.reset++;
    if (c->flags & PMX__COUNTED) {
        mux->stats.connections--;
        mux->stats.outgoing -= !!(c->flags & PMX__OUTGOING);
        if (pmx__counted_by(c)->connections)    /* accepted, by a listener */
            pmx__counted_by(c)->connections--;
    }
    mux->room = 1;              /* accepting may go on */
    pmx__say(mux, slot, 0);
}
