/*
 * Handshakes. A connection over TLS whose TCP is connected goes on as one that
 * is CONNECTING: what is sent is queued, nothing is delivered, and nobody hears
 * of an accepted one. Its peer is not authenticated yet.
 *
 *   waiting (for its object) -> shaking -> open
 *
 * One that never opens ends as any other does, by pmx__finish().
 */
#include "turn.h"

#include <stdlib.h>

/* --- it begins ------------------------------------------------------------ */

static int make_area(pmx_mux *mux)
{
    if (!mux->tls)
        mux->tls = pmx__area_new(mux);
    if (!mux->waiting)
        mux->waiting = sys_calloc(mux->max_rows, sizeof *mux->waiting);
    if (!mux->failed)
        mux->failed = sys_calloc(mux->max_rows, sizeof *mux->failed);
    return mux->tls && mux->waiting && mux->failed ? 0 : -ENOMEM;
}

int pmx__tls_begin(pmx_mux *mux, uint32_t slot, const pmx__target *peer,
                   int64_t until)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__tls *t = make_area(mux) ? NULL : sys_calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    int64_t span = c->rules->policy.handshake_ns;
    t->peer = *peer;
    t->until = span < 0 ? until
                        : pmx__earlier(until, pmx__after(mux->now, span));
    t->over = 1;
    t->id = pmx__id(slot, c);
    c->at.tls = t;
    c->task = (uint8_t)((c->task & ~PMX__FAMILY) | PMX__OVER_TLS);
    return 0;
}

/* Tell the caller that the connection waits for its object; when there is no
 * more room in this turn, in the next one. */
static void announce(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->at.tls->told)
        return;
    if (mux->waiting_count == mux->max_rows) {
        c->flags |= PMX__CAN_WRITE;
        pmx__ready(mux, slot);
        return;
    }
    c->at.tls->told = 1;
    mux->waiting[mux->waiting_count++] = (pmx_waiting){
        .id = pmx__id(slot, c), .tls = c->rules->policy.tls,
        .outgoing = !!(c->flags & PMX__OUTGOING),
    };
}

void pmx__tls_wait(pmx_mux *mux, uint32_t slot)
{
    pmx__set_due(mux, slot, PMX__CONNECT_DUE);
    announce(mux, slot);
    pmx__watch(mux, slot);
}

/* The peer gets the alert before the end: what is unread is read first. */
static void fail(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__slot(mux, slot)->flags |= PMX__DROPPING;
    pmx__finish(mux, slot, error, 0);
}

int pmx__do_tls_adopt(pmx_mux *mux, const uint64_t *ids,
                      const uint64_t *objects, uint32_t count)
{
    for (uint32_t k = 0; k < count; k++) {
        uint32_t slot = (uint32_t)ids[k];
        pmx__conn *c = pmx__find(mux, ids[k]);
        if (!c || !pmx__shakes(c) || c->at.tls->engine)
            continue;
        pmx__tls *t = c->at.tls;
        t->object = objects[k];
        if (objects[k] == PMX_TLS_PORTABLE && pmx__has_portable())
            t->engine = &pmx__portable;
        else if (objects[k] > PMX_TLS_REFUSED &&
                 !pmx__openssl_begin(t))
            t->engine = &pmx__openssl;
        if (!t->engine) {
            fail(mux, slot, EPROTO);
            continue;
        }
        c->flags |= PMX__CAN_WRITE;
        pmx__ready(mux, slot);
    }
    return 0;
}

/* --- its steps -------------------------------------------------------------- */

static void open_up(pmx_mux *mux, uint32_t slot, int resumed)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__shake_ends(mux, c);
    c->flags &= ~(uint32_t)PMX__CONNECTING;
    /* one event reported all that has come meanwhile, the end too */
    c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
    mux->stats->tls_handshakes++;
    mux->stats->tls_resumed += (uint64_t)resumed;
    mux->stats->connected += !!(c->flags & PMX__OUTGOING);
    pmx__opened(mux, slot);
    if (c->flags & PMX__CLOSING)
        pmx__due_to_close(mux, slot);
    pmx__settle(mux, slot);     /* queued output leaves in its turn */
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

/* The rest of a flight that the socket has refused goes first. True if it is
 * gone. */
static int flight_is_gone(pmx_mux *mux, uint32_t slot, int64_t *is)
{
    pmx__conn *c = pmx__slot(mux, slot);
    size_t taken;
    if (!c->queue || !c->queue->head->raw)
        return 1;
    *is = pmx__queue_send(mux, c, &taken);
    if (!c->queue || !c->queue->head->raw)
        return 1;
    if (!*is || *is == -ENOBUFS) {      /* no event will tell: see net.h */
        mux->short_of_buffers |= !!*is;
        c->flags |= PMX__CAN_WRITE;     /* else it had its portion */
        *is = -EAGAIN;
    } else if (*is == -EAGAIN && pmx__arm(mux, c->sock)) {
        *is = -EIO;
    }
    return 0;
}

/* As far as the peer's flights go: 1, -EAGAIN, or another -errno. */
static int64_t shake_hands(pmx_mux *mux, uint32_t slot, int *resumed)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__tls *t = c->at.tls;
    pmx__tls_area *area = mux->tls;
    pmx__unkeep(mux, t);
    for (;;) {
        int64_t is = -EAGAIN;
        if (!flight_is_gone(mux, slot, &is))
            return is;
        is = t->engine->shake(t, area, resumed);
        int error = pmx__put_out(mux, c);
        if (is != -EAGAIN)
            return is < 0 || !error ? is : error;
        if (error)
            return error;
        if (c->queue && c->queue->head->raw)
            continue;
        int64_t n = pmx__recv(c->sock, area->wire, PMX__WIRE);
        if (!n)
            t->code = PMX_TLS_CUT;
        if (n <= 0)
            return n ? n : -EPROTO;
        area->in = area->wire;
        area->in_size = (size_t)n;
    }
}

/* A peer whose last flight gets no answer may hold its first data back until
 * that flight is acknowledged (Nagle), and the OS waits for an answer before it
 * acknowledges: 40 ms on Linux. So the end of a handshake acknowledges. */
void pmx__shake(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int resumed = 0;
    c->flags &= ~(uint32_t)(PMX__CAN_READ | PMX__CAN_WRITE);
    if (c->error && !(c->flags & PMX__CLOSING)) {
        pmx__finish(mux, slot, c->error, 0);    /* the poller has told it */
        return;
    }
    if (!c->at.tls->engine) {
        announce(mux, slot);
        return;
    }
    mux->shakes++;
    int64_t is = shake_hands(mux, slot, &resumed);
    if (is == 1 && !mux->tls->in_size && !c->rules->transport->arrives_at_once)
        pmx__acknowledge(c->sock);
    if (is == 1 && pmx__keep(mux, c->at.tls))
        is = -ENOMEM;
    mux->tls->in_size = 0;
    if (is == 1)
        open_up(mux, slot, resumed);
    else if (is == -EAGAIN)
        pmx__watch(mux, slot);
    else
        fail(mux, slot, (int)-is);
}
