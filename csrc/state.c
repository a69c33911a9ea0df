/*
 * The state of a connection, as its flags say, and what happens to it. Its
 * life:
 *
 *   connecting -> open -> ending -> closing -> done -> reported, freed
 *
 * No other file decides what a connection does next: the poller and the lists
 * of the mux are told from here.
 */
#include "state.h"

#include <stdlib.h>

/* While one of these is set, the idle clock stands still. */
enum { STOPPED = PMX__PAUSED | PMX__HELD };

/* --- what the flags say -------------------------------------------------- */

int pmx__blocked(const pmx__conn *c)
{
    if (c->flags & PMX__CLOSING)
        return 0;
    return c->flags & PMX__PAUSED ||
           (c->flags & (PMX__HELD | PMX__OVER_WATER) &&
            !(c->flags & PMX__LOST));
}

/* True if nobody reads the connection and no frame of it is left. Then a lost
 * peer is its end. */
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

/* True if bytes are received from the connection, be it only to drop them. */
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
 * the output of the connection is served. */
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

/* Tell a level-triggered poller what to watch now, and count the connections
 * that may bring messages. This is called whenever a connection's state has
 * changed. */
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
        if (!(f & (PMX__CLOSING | PMX__DONE)) && c->carry) {
            /* an unfinished frame's clock stands from here on, or goes on */
            c->carry->since = pmx__frame_clock(mux) - c->carry->since;
            pmx__frame_due(mux, slot);
        }
    }
    if (mux->poller->edge || !(f & PMX__IN_POLLER))
        return;
    uint32_t what = 0;
    if (pmx__awaits(c) ||
        (pmx__shakes(c) && !(c->queue && c->queue->head->raw))) {
        what = PMX__IN;
    } else if (f & PMX__CONNECTING) {
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

/* The connection is one of the mux's, for its figures and limits. */
void pmx__count(pmx_mux *mux, pmx__conn *c)
{
    if (c->flags & PMX__COUNTED)
        return;
    c->flags |= PMX__COUNTED;
    mux->stats->connections++;
    mux->stats->outgoing += !!(c->flags & PMX__OUTGOING);
}

void pmx__opened(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->flags |= PMX__CAN_WRITE;
    pmx__count(mux, c);
    if (mux->opened_count < mux->max_rows &&
        pmx__claim(mux, c->rules->service))
        mux->opened[mux->opened_count++] = pmx__id(slot, c);
    else
        pmx__say(mux, slot, PMX__SAY_OPENED);
    if (c->flags & PMX__OVER_WATER)     /* by what was sent before */
        pmx__over_water(mux, slot);
    pmx__set_due(mux, slot, PMX__IDLE_DUE);
    if (c->flags & STOPPED) {
        pmx__undue(mux, slot);
        c->since = 0;           /* the time that its clock has run */
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
        c->since = mux->now - c->since;     /* as long as its clock ran */
    }
    mux->stats->paused += flag & ~c->flags & PMX__PAUSED ? 1 : 0;
    c->flags |= flag;
    pmx__watch(mux, slot);
}

void pmx__resume(pmx_mux *mux, uint32_t slot, uint32_t flag)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE || !(c->flags & flag))
        return;
    mux->stats->paused -= flag & PMX__PAUSED ? 1 : 0;
    c->flags &= ~flag;
    if (!(c->flags & (STOPPED | PMX__CLOSING | PMX__CONNECTING)) &&
        pmx__has_no_due(c))
        pmx__due_since(mux, slot, PMX__IDLE_DUE, mux->now - c->since);
    pmx__watch(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

/* An empty carry stands for the bytes that the caller has. */
void pmx__begun(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__CONNECTING | PMX__CLOSING | PMX__DONE | PMX__ENDED) ||
        c->rules->policy.framing.kind != PMX_RAW || c->carry)
        return;
    if (pmx__arena_reserve(mux, &c->carry, 0, 0)) {
        pmx__finish(mux, slot, ENOMEM, 1);
        return;
    }
    pmx__frame_begins(mux, c);
    pmx__frame_due(mux, slot);
}

void pmx__whole(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!(c->flags & (PMX__CLOSING | PMX__DONE)) && c->carry && !c->carry->size)
        pmx__carry_drop(mux, c);
}

/* The connection's output has gone over high water. Reading stops until it is
 * under low water. One that is to be told that it has drained is told nothing:
 * it was told before that it is blocked, and is so again. */
void pmx__over_water(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    mux->stats->over += !(c->flags & PMX__OVER_WATER);
    c->flags |= PMX__OVER_WATER;
    if (c->flags & PMX__SAY_DRAINED) {
        c->flags &= ~(uint32_t)PMX__SAY_DRAINED;
    } else if (!(c->flags & PMX__CONNECTING)) {     /* else pmx__opened() does */
        c->say_blocked = 1;
        pmx__say(mux, slot, 0);
    }
    pmx__watch(mux, slot);
}

/* The connection's output is dropped, or does not hold reading any more. What
 * has not been told of it is not so now. */
void pmx__not_over_water(pmx_mux *mux, pmx__conn *c)
{
    if (c->flags & PMX__OVER_WATER)
        c->say_blocked = 0;
    pmx__under_water(mux, c);
}

void pmx__under_water(pmx_mux *mux, pmx__conn *c)
{
    mux->stats->over -= !!(c->flags & PMX__OVER_WATER);
    c->flags &= ~(uint32_t)PMX__OVER_WATER;
}

void pmx__forget_state(pmx_mux *mux, const pmx__conn *c)
{
    mux->stats->over -= !!(c->flags & PMX__OVER_WATER);
    mux->stats->paused -= !!(c->flags & PMX__PAUSED);
}

/* The poller reports an error or a hang-up. A connection that is read learns of
 * it from recv(), and nothing but the user's pause holds that back any more;
 * any other connection must be told here. */
void pmx__lost(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__CONNECTING | PMX__DONE))
        return;
    if (pmx__nobody_reads(c)) {
        if (!error)
            error = pmx__pending_error(c);
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

/* Read on to the end, whatever holds reading. An error that was taken from the
 * socket is kept until the end is reached. */
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

/* Close a socket without resetting it. The kernel resets a connection that is
 * closed with unread input, so what has arrived is read first. A Unix socket is
 * shut down before, so that nothing more arrives. */
void pmx__let_go(pmx_mux *mux, const pmx__conn *c)
{
    if (pmx__is_pipe(c)) {
        pmx__close_end(c);
        return;
    }
    if (c->rules->transport->arrives_at_once)
        pmx__shutdown_both(c->sock);
    for (int n = 0; n < 16; n++)
        if (pmx__recv(c->sock, mux->scratch, mux->scratch_size) <= 0)
            break;
    pmx__close_sock(c->sock);
}

/* The handshake has an end, a good one or not: another may begin. */
void pmx__shake_ends(pmx_mux *mux, pmx__conn *c)
{
    pmx__rules *rules = pmx__counted_by(c);
    if (c->flags & PMX__OUTGOING)
        return;
    rules->shaking--;
    mux->room |= !!rules->policy.max_handshakes;
}

void pmx__header_refused(pmx_mux *mux, const pmx__target *peer,
                         const pmx__target *local, int error)
{
    mux->stats->proxy_refused++;
    mux->stats->proxy_error = (uint64_t)error;
    mux->refused_header[0] = *peer;
    mux->refused_header[1] = *local;
    mux->notable = 1;
}

/* The connection ends before its header has come: nobody has heard of it. A peer
 * that says nothing and leaves only looks whether there is a server. */
static void refuse(pmx_mux *mux, pmx__conn *c)
{
    pmx__target names[2];
    c->flags |= PMX__DISOWNED;
    if (c->error != EACCES)     /* that is refused_per_peer */
        mux->stats->refused++;
    if (c->error == EPROTO || c->error == ETIMEDOUT) {
        pmx__peer(c, &names[0]);
        pmx__own_name(c, c->sock, &names[1]);
        pmx__header_refused(mux, &names[0], &names[1], c->error);
    }
    if (c->rules->transport->shakes)
        pmx__shake_ends(mux, c);
}

void pmx__finish(pmx_mux *mux, uint32_t slot, int error, int reset)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    if (!c->error)
        c->error = error;
    /* TCP gives an open connection up when its time has run out, and then
     * reports the last error that the network had reported. */
    if (c->flags & PMX__COUNTED &&
        (c->error == EHOSTUNREACH || c->error == ENETUNREACH))
        c->error = ETIMEDOUT;
    if (c->error == EPIPE)      /* both are called ECONNRESET */
        c->error = ECONNRESET;
    if (c->counts_for_peer) {
        pmx__target peer;
        pmx__peer(c, &peer);
        pmx__peer_leaves(mux, pmx__counted_by(c), &peer);
        c->counts_for_peer = 0;
    }
    c->owed = 0;
    if (pmx__connects(c))
        pmx__take_socket(mux, c, pmx__sock_of(c), 0);
    if (pmx__awaits(c))
        refuse(mux, c);
    if (pmx__shakes(c)) {
        pmx__shake_ends(mux, c);
        mux->stats->tls_failed++;
    }
    pmx__transport_end(c);
    pmx__keep_names(c);
    pmx__queue_drop(mux, c);
    pmx__linger_no_more(mux, slot);
    pmx__carry_drop(mux, c);
    if (c->sock != PMX__NO_SOCK) {
        if (c->flags & PMX__IN_POLLER)
            mux->poller->del(mux->poll_state, c->sock);
        if (reset)
            pmx__reset_end(c);
        else if (c->flags & PMX__DROPPING)
            pmx__let_go(mux, c);
        else
            pmx__close_end(c);
        c->sock = PMX__NO_SOCK;
    }
    pmx__unready(mux, slot);
    pmx__undue(mux, slot);
    if (c->flags & PMX__UNACKED)
        mux->unacked--;
    pmx__forget_state(mux, c);
    c->flags |= PMX__DONE;
    c->flags &= ~(uint32_t)(PMX__IN_POLLER | PMX__ENDING | PMX__UNACKED);
    pmx__watch(mux, slot);
    mux->stats->closed++;
    mux->stats->protocol_errors += c->error == EPROTO || c->error == EMSGSIZE;
    mux->stats->enobufs += c->error == ENOBUFS;
    if (reset || c->error == ECONNRESET)
        mux->stats->reset++;
    if (c->flags & PMX__COUNTED) {
        mux->stats->connections--;
        mux->stats->outgoing -= !!(c->flags & PMX__OUTGOING);
        pmx__rules *rules = pmx__counted_by(c);
        if (rules->connections)         /* it is a listener's */
            rules->connections--;
    }
    mux->room = 1;              /* accepting may go on */
    pmx__say(mux, slot, 0);
}
