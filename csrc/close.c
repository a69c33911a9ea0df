/*
 * How a connection ends, and when. (Its states: see state.c.)
 *
 * ENDED means that no more input is delivered; ENDING, that the connection
 * closes when the answers to its messages are in, also those that are owed;
 * CLOSING, that its queue is flushed and the end of the stream sent; DROPPING,
 * that what the peer still sends is read and dropped until the peer ends too. A
 * close with unread input would make the kernel reset the connection and throw
 * away what it has not delivered. While the mux drains, or once it has ended the
 * input (LIMITED), it is enough that the peer has acknowledged everything. pmx__settle() takes each step as soon as it
 * can be taken, and time without progress bounds all of them.
 *
 * No event reports what a peer acknowledges, so closing connections are looked
 * at now and then. A byte that the peer acknowledges is progress, and so is a
 * byte that the kernel takes. What the peer sends is no progress: the peer
 * could hold the connection for ever.
 */
#include "state.h"

/* Set when a closing connection is looked at next, for progress. */
static void look_again(pmx_mux *mux, uint32_t slot)
{
    const pmx__conn *c = pmx__slot(mux, slot);
    int64_t span = c->rules->policy.close_ns / PMX__LOOKS;
    if (c->flags & PMX__UNACKED)
        span = PMX__ACK_NS + PMX__ACK_EACH_NS * mux->unacked;
    else if (span < PMX__SOON_NS)
        span = PMX__SOON_NS;
    if (c->due == PMX__CLOSE_DUE || c->flags & PMX__UNACKED)
        pmx__look_at(mux, slot, pmx__after(mux->now, span));
    else                        /* no time bounds this, nothing waits */
        pmx__undue(mux, slot);
}

void pmx__due_to_close(pmx_mux *mux, uint32_t slot)
{
    pmx__slot(mux, slot)->left = PMX__UNKNOWN;
    pmx__set_due(mux, slot, PMX__CLOSE_DUE);
    look_again(mux, slot);
}

/* A connection that is still connecting has until the earlier of its two
 * deadlines. */
static void close_in_time(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    const pmx_policy *is = &c->rules->policy;
    c->flags |= PMX__CLOSING | PMX__SEND_ENDED | PMX__ENDED;
    if (!pmx__is_pipe(c))
        c->flags |= PMX__DROPPING;
    pmx__not_over_water(mux, c);
    if (is->close_ns < 0 ||
        pmx__after(mux->now, is->close_ns) >= pmx__deadline_of(c))
        return;
    pmx__set_due(mux, slot, PMX__CLOSE_DUE);
    if (pmx__connects(c) && c->at.route->next_at != INT64_MAX)
        pmx__look_at(mux, slot, c->at.route->next_at);
}

void pmx__begin_close(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__CLOSING | PMX__DONE))
        return;
    if (!c->error)
        c->error = error;
    if (c->flags & PMX__CONNECTING) {
        if (!c->queue)          /* no output waits */
            pmx__finish(mux, slot, 0, 0);
        else
            close_in_time(mux, slot);
        return;
    }
    c->flags |= PMX__CLOSING | PMX__SEND_ENDED;
    pmx__under_water(mux, c);
    c->flags &= ~(uint32_t)(PMX__FRAMES | PMX__ENDING | PMX__SAY_DRAINED);
    c->say_blocked = 0;
    if (!(c->flags & PMX__ENDED)) {     /* no stop ends it, but this close */
        c->flags |= PMX__ENDED | (pmx__is_pipe(c) ? 0u : PMX__DROPPING);
        c->flags &= ~(uint32_t)PMX__LIMITED;
    }
    pmx__carry_drop(mux, c);
    pmx__due_to_close(mux, slot);
    pmx__settle(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    pmx__watch(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

/* All answers that were owed are in. A connection that had ended closes behind
 * them; but one with rows in the last batch closes when that is answered, which
 * the turn sees to. */
void pmx__answered(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->owed = 0;
    if (c->flags & PMX__ENDING && c->row_turn != mux->turn)
        pmx__begin_close(mux, slot, 0);
}

/* Bytes that the peer has not acknowledged; -1: the OS does not tell. */
static int64_t unacknowledged(const pmx__conn *c)
{
    return c->rules->transport->arrives_at_once
               ? 0 : pmx__unacknowledged(c->sock);
}

/* The connection waits until its peer has acknowledged everything. No event
 * reports that, so the connection is looked at soon. */
static void look_soon(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__UNACKED)
        return;
    c->flags |= PMX__UNACKED;
    mux->unacked++;
    look_again(mux, slot);
}

/* Finish the connection once its peer has acknowledged everything. Where the OS
 * does not tell what is acknowledged, no look helps: the connection waits for
 * its peer's end, which is an event, and a reset does not wait. */
static void finish_acknowledged(pmx_mux *mux, uint32_t slot, int reset)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int64_t n = unacknowledged(c);
    if (n > 0)
        look_soon(mux, slot);
    if (n > 0 || (n < 0 && c->flags & PMX__DROPPING))
        return;
    /* lost output is not acknowledged */
    pmx__finish(mux, slot,
                c->error ? c->error : pmx__pending_error(c), reset);
}

/* The kernel has all output and the end of the stream. The connection lingers
 * and gives its place under max_connections to another. When more connections
 * linger than may be open, the one whose peer has had everything for longest is
 * closed: its peer has nothing to lose. */
static void linger(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__rules *rules = pmx__counted_by(c);
    uint32_t most = rules->policy.max_connections;
    if (!most)
        return;
    if (!c->lingers) {
        c->lingers = PMX__LINGERS;
        rules->lingering++;
        mux->room = 1;
    }
    int64_t n = c->lingers == PMX__LINGERS ? unacknowledged(c) : -1;
    if (!n)
        pmx__may_go(mux, slot);
    else if (n > 0)
        look_soon(mux, slot);
    while (rules->lingering > most && rules->oldest)
        pmx__finish(mux, rules->oldest - 1,
                    pmx__slot(mux, rules->oldest - 1)->error, 0);
}

/* The kernel refused: the writing side has ended, the reading side goes on to
 * its end, or at once where nobody reads. */
void pmx__send_failed(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->error)
        c->error = error;
    c->flags |= PMX__SEND_FAILED | PMX__LOST;
    pmx__not_over_water(mux, c);
    pmx__queue_drop(mux, c);
    if (c->flags & PMX__CLOSING || pmx__nobody_reads(c)) {
        pmx__finish(mux, slot, error, 0);
        return;
    }
    c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
    pmx__set_due(mux, slot, PMX__CLOSE_DUE);
    pmx__watch(mux, slot);
    pmx__ready(mux, slot);
}

/* Where the peer is gone, the socket does not tell of it again. Nothing is lost if
 * the peer has all that was sent. A peer that is there would find the stream cut. */
static void bye_failed(pmx_mux *mux, uint32_t slot, int error)
{
    const pmx__conn *c = pmx__slot(mux, slot);
    int is_gone = error == EPIPE || error == ECONNRESET;
    if (is_gone && c->flags & PMX__CLOSING && c->flags & PMX__ENDED &&
        pmx__unacknowledged(c->sock) <= 0)
        pmx__finish(mux, slot, c->error, 0);
    else
        pmx__send_failed(mux, slot, error);
}

/* Take the steps that a shorter queue allows. Under low water, read on. When
 * the queue is empty, send the end. Then, if the connection is closing, close
 * it when the peer has ended too. */
void pmx__settle(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__CONNECTING | PMX__DONE) || c->dirty != PMX__NONE)
        return;
    const pmx__transport *transport = c->rules->transport;
    size_t queued = c->queue ? c->queue->size : 0;
    if (c->flags & PMX__OVER_WATER && queued <= c->rules->policy.low_water) {
        pmx__under_water(mux, c);
        pmx__say(mux, slot, PMX__SAY_DRAINED);
        pmx__watch(mux, slot);
        if (pmx__has_work(c))
            pmx__ready(mux, slot);
    } else if (c->rules->transport->shakes &&
               queued > c->rules->policy.high_water &&
               !(c->flags & (PMX__OVER_WATER | PMX__CLOSING))) {
        pmx__over_water(mux, slot);     /* encrypted, the output is longer */
    }
    if (queued || !(c->flags & PMX__SEND_ENDED))
        return;
    if (c->flags & PMX__CLOSING && c->flags & PMX__RESET_LAST) {
        /* A reset throws away what the peer does not have yet. So does a close
         * while input is unread. */
        finish_acknowledged(mux, slot, 1);
        return;
    }
    if (!(c->flags & (PMX__SHUT | PMX__SEND_FAILED))) {
        int error = transport->bye ? transport->bye(mux, c) : 0;
        if (error) {
            bye_failed(mux, slot, -error);
            return;
        }
        if (c->queue) {         /* the end follows when the kernel has that */
            pmx__watch(mux, slot);
            pmx__ready(mux, slot);
            return;
        }
        pmx__shutdown_write(c->sock);
        c->flags |= PMX__SHUT;
    }
    if (!(c->flags & PMX__CLOSING))
        return;
    if ((mux->draining > 1 || c->flags & PMX__LIMITED) &&
        !(c->flags & PMX__SEND_FAILED))
        finish_acknowledged(mux, slot, 0);
    else if (c->flags & PMX__DROPPING && !(c->flags & PMX__SEND_FAILED))
        linger(mux, slot);
    else                        /* the peer has ended, or is lost */
        pmx__finish(mux, slot, c->error, 0);
}

static void close_too_late(pmx_mux *mux, uint32_t slot)
{
    mux->stats->timeouts_close++;
    pmx__finish(mux, slot, ETIMEDOUT, 1);
}

/* Bytes that the peer has acknowledged since the last look are progress. When
 * all are acknowledged, the step that has waited for that can be taken. */
static void look(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int error = c->flags & PMX__HANGUP_SEEN ? pmx__pending_error(c) : 0;
    if (error) {                /* a poller may have stopped watching it */
        pmx__finish(mux, slot, error, 0);
        return;
    }
    int64_t n = pmx__not_acknowledged(c);
    uint32_t left = n < 0 || n > PMX__UNKNOWN ? PMX__UNKNOWN : (uint32_t)n;
    if (left < c->left && (c->left != PMX__UNKNOWN ||
                           mux->now >= pmx__deadline_of(c)))
        c->since = mux->now;    /* the first look has nothing to compare with */
    c->left = left;
    if (n <= 0 && c->flags & PMX__UNACKED) {
        c->flags &= ~(uint32_t)PMX__UNACKED;
        mux->unacked--;
    }
    if (!(c->flags & PMX__UNACKED))
        pmx__settle(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    if (mux->now >= pmx__deadline_of(c))
        close_too_late(mux, slot);
    else
        look_again(mux, slot);
}

/* Of a pipe the write end has nothing else to do, and the read end has no part
 * in it. */
void pmx__end_sending(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (pmx__only_sends(c)) {
        pmx__begin_close(mux, slot, 0);
        return;
    }
    c->flags |= PMX__SEND_ENDED;
    pmx__settle(mux, slot);
}

/* The connection's time is over, or the connection is to be looked at. */
void pmx__is_due(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__CONNECTING && mux->now < pmx__deadline_of(c)) {
        pmx__look_at(mux, slot, INT64_MAX);
        if (pmx__connects(c) && mux->now >= c->at.route->next_at) {
            c->flags |= PMX__CAN_WRITE;
            pmx__ready(mux, slot);
        }
    } else if (c->flags & PMX__CLOSING && !(c->flags & PMX__CONNECTING)) {
        look(mux, slot);
    } else if (c->flags & PMX__CONNECTING) {
        pmx__finish(mux, slot, ETIMEDOUT, 1);
    } else {
        close_too_late(mux, slot);
    }
}
