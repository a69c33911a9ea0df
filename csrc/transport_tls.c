/*
 * TLS between a connection's socket and its framing. Ciphertext is received into
 * the mux's area, and the plaintext goes where a plain connection's bytes would
 * go. Plaintext is encrypted into the area and sent from there. What the socket
 * refuses of that is the head of the queue, and all behind it is plaintext.
 *
 * A byte of plaintext is given to the engine once. An end of stream without
 * close_notify is a cut: an attacker can send a FIN. This transport judges that,
 * not the engine.
 */
#include "transport.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* --- the area ------------------------------------------------------------ */

int pmx__put_out(pmx_mux *mux, pmx__conn *c)
{
    pmx__tls_area *area = mux->tls;
    size_t size = area->out_size;
    area->out_size = 0;
    if (!size || c->flags & PMX__SEND_FAILED)   /* nothing follows what is lost */
        return 0;
    int64_t n = c->queue && c->queue->head->raw
                    ? -EAGAIN : pmx__send(c->sock, area->out, size);
    if (n < 0 && n != -EAGAIN && n != -ENOBUFS)
        return (int)n;
    size_t taken = n > 0 ? (size_t)n : 0;
    return taken < size ? pmx__queue_raw(mux, c, area->out + taken, size - taken)
                        : 0;
}

/* Another connection is taken up. The last one has left nothing, or this one's
 * peer would get it. */
static pmx__tls_area *take_up(pmx_mux *mux)
{
    assert(!mux->tls->out_size);
    mux->tls->out_size = 0;
    mux->tls->in_size = 0;
    return mux->tls;
}

void pmx__unkeep(pmx_mux *mux, pmx__tls *t)
{
    take_up(mux);
    mux->tls->in = t->rest ? t->rest + t->rest_begin : NULL;
    mux->tls->in_size = t->rest_end - t->rest_begin;
}

static void drop_rest(pmx__tls *t)
{
    free(t->rest);
    t->rest = NULL;
    t->rest_begin = t->rest_end = 0;
}

static int is_of_rest(const pmx__tls *t, const uint8_t *at)
{
    return t->rest && at >= t->rest && at <= t->rest + t->rest_end;
}

int pmx__keep(pmx_mux *mux, pmx__tls *t)
{
    pmx__tls_area *area = mux->tls;
    size_t size = area->in_size;
    area->in_size = 0;
    if (size && is_of_rest(t, area->in)) {
        t->rest_begin = t->rest_end - size;
        return 0;
    }
    drop_rest(t);
    if (!size)
        return 0;
    t->rest = sys_malloc(size);
    if (!t->rest)
        return -ENOMEM;
    memcpy(t->rest, area->in, size);
    t->rest_end = size;
    return 0;
}

/* --- the transport --------------------------------------------------------- */

/* The connection's TLS, if it has come so far and has not ended. */
static pmx__tls *tls_of(const pmx__conn *c)
{
    return (c->task & PMX__FAMILY) == PMX__OVER_TLS && !(c->flags & PMX__DONE)
               ? c->at.tls : NULL;
}

static size_t tls_held(const pmx__conn *c)
{
    const pmx__tls *t = tls_of(c);
    if (!t || !t->engine || c->flags & PMX__CONNECTING)
        return 0;
    size_t rest = t->rest_end - t->rest_begin;
    return t->over == 1 ? rest + t->engine->pending(t) : 0;
}

/* How much ciphertext may be received at once: about what makes `size` bytes of
 * plaintext, and while a stop limits the input, no more than it lets in. */
static size_t most_of_wire(const pmx__conn *c, size_t size, size_t had)
{
    size_t most = size + size / 64 + 512;
    if (most > PMX__WIRE)
        most = PMX__WIRE;
    if ((c->flags & (PMX__LIMITED | PMX__ENDED)) == PMX__LIMITED && c->left > had)
        most = c->left - had < most ? c->left - had : most;
    return most;
}

/* Receive ciphertext into the area: 1, or what recv() is to return. */
static int64_t receive(pmx_mux *mux, pmx__conn *c, size_t size, pmx__got *got)
{
    pmx__tls_area *area = mux->tls;
    size_t most = most_of_wire(c, size, got->wire);
    int64_t n = pmx__recv(c->sock, area->wire, most);
    got->dry = n == -EAGAIN;
    if (n <= 0)
        return n ? n : PMX__CUT;
    if (!c->rules->transport->arrives_at_once && (size_t)n < most)
        got->dry = 1;
    got->wire += (size_t)n;
    area->in = area->wire;
    area->in_size = (size_t)n;
    return 1;
}

/* Decrypt into `to` until it is full, or the socket has no more, or the portion
 * of a turn is over without a byte. What the stream then is: 1 if it goes on. */
static int64_t decrypt(pmx_mux *mux, pmx__conn *c, uint8_t *to, size_t size,
                       pmx__got *got, size_t *done)
{
    pmx__tls *t = c->at.tls;
    pmx__tls_area *area = mux->tls;
    int limited = c->flags & PMX__LIMITED && !(c->flags & PMX__ENDED);
    int kept = area->in_size || t->engine->pending(t);
    int may_have = kept;
    for (;;) {
        if (may_have) {
            int64_t n = t->engine->read(t, area, to + *done, size - *done);
            if (n > 0)
                *done += (size_t)n;
            else if (n != -EAGAIN)
                return n;
            if (*done == size)
                return 1;
            may_have = n > 0 && (area->in_size || t->engine->pending(t));
            if (may_have)
                continue;
        }
        if (*done)
            return 1;
        if (got->wire >= PMX__WIRE ||
            (limited && c->left <= got->wire && (kept || got->wire))) {
            got->dry = 0;       /* the end may be behind, and has no event */
            return 1;
        }
        int64_t is = receive(mux, c, size, got);
        if (is != 1)
            return is == -EAGAIN ? 1 : is;
        may_have = 1;
    }
}

static int64_t tls_recv(pmx_mux *mux, pmx__conn *c, void *to, size_t size,
                        pmx__got *got)
{
    pmx__tls *t = c->at.tls;
    size_t done = 0;
    *got = (pmx__got){0};
    if (t->over != 1)
        return t->over;
    pmx__unkeep(mux, t);
    int64_t is = decrypt(mux, c, to, size, got, &done);
    if (is == PMX__CUT) {
        t->code = PMX_TLS_CUT;
        if (c->rules->policy.tls_lax)
            is = 0;
    }
    size_t before = c->queue ? c->queue->size : 0;
    int error = pmx__put_out(mux, c);   /* an alert, or what KeyUpdate asks */
    got->queued = c->queue && c->queue->size > before;
    if (is != 1)
        mux->tls->in_size = 0;  /* nothing behind the end is looked at */
    if (pmx__keep(mux, t) && is == 1)
        is = -ENOMEM;
    if (error && is == 1)
        is = error;
    if (is != 1) {
        t->over = is;
        got->dry = 0;           /* the end is told by the next call */
        return done ? (int64_t)done : is;
    }
    return done ? (int64_t)done : -EAGAIN;
}

/* What is dropped need not be decrypted. */
static int64_t tls_drop(pmx_mux *mux, pmx__conn *c, pmx__got *got)
{
    int64_t n = pmx__recv(c->sock, mux->scratch, mux->scratch_size);
    *got = (pmx__got){.wire = n > 0 ? (size_t)n : 0};
    got->dry = c->rules->transport->arrives_at_once
                   ? n == -EAGAIN : got->wire < mux->scratch_size;
    return n;
}

static int64_t tls_send(pmx_mux *mux, pmx__conn *c, pmx__span *spans,
                        int count)
{
    pmx__tls *t = tls_of(c);
    int64_t taken = 0;
    int error = 0;
    if (!t || c->flags & PMX__CONNECTING || (c->queue && c->queue->head->raw))
        return -EAGAIN;
    pmx__tls_area *area = take_up(mux);
    if (pmx__area_reserve(area, PMX__ENCRYPTED))
        return -ENOMEM;
    for (int i = 0; i < count && !error; i++) {
        const uint8_t *at = spans[i].iov_base;
        size_t left = PMX__SPAN_SIZE(spans[i]);
        while (left && !error) {
            size_t part = left < PMX__ENCRYPT ? left : PMX__ENCRYPT;
            error = t->engine->write(t, area, at, part);
            at += part;
            left -= part;
            taken += (int64_t)part;
            if (error || area->out_size < PMX__ENCRYPT)
                continue;
            error = pmx__put_out(mux, c);
            if (!error && c->queue && c->queue->head->raw)
                return taken;
        }
    }
    if (error) {
        area->out_size = 0;
        return error;
    }
    error = pmx__put_out(mux, c);
    return error ? error : taken;
}

static int tls_bye(pmx_mux *mux, pmx__conn *c)
{
    pmx__tls *t = tls_of(c);
    if (!t || t->said_bye || c->flags & PMX__CONNECTING || t->over < 0)
        return 0;
    t->said_bye = 1;
    t->engine->bye(t, take_up(mux));
    return pmx__put_out(mux, c);
}

static void tls_end(pmx__conn *c)
{
    pmx__tls *t = tls_of(c);
    if (!t)
        return;
    drop_rest(t);
    t->engine = NULL;
    t->over = -ENOTCONN;
}

const pmx__transport pmx__tls_tcp = {
    .name = "tls", .shakes = 1, .recv = tls_recv, .send = tls_send,
    .held = tls_held, .drop = tls_drop, .bye = tls_bye, .end = tls_end,
};

const pmx__transport pmx__tls_unix = {
    .name = "tls on Unix", .arrives_at_once = 1, .shakes = 1,
    .recv = tls_recv, .send = tls_send, .held = tls_held, .drop = tls_drop,
    .bye = tls_bye, .end = tls_end,
};
