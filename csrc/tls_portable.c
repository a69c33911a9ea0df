/*
 * The engine whose objects the caller drives, by one function. It takes the
 * place of tls_openssl.c where that cannot reach OpenSSL. This is the only
 * function that the core calls back.
 */
#include "tls_engine.h"

#include <string.h>

/* A memory BIO keeps the largest size that it had, so little goes in or out at
 * a time. */
enum { STEP = 16384, ROOM = STEP + 4096 };

static pmx_tls_call call;

void pmx_tls_portable(pmx_tls_call function)
{
    call = function;
}

int pmx__has_portable(void)
{
    return !!call;
}

/* One step, and all that the object has made for the peer. */
static int run(pmx__tls_area *area, pmx_tls_work *work)
{
    pmx_tls_work more = {.id = work->id, .step = PMX_TLS_TAKE};
    for (pmx_tls_work *now = work;; now = &more) {
        if (pmx__area_reserve(area, ROOM))
            return -ENOMEM;
        now->mux = area->mux;
        now->is = PMX_TLS_FAILED;
        now->out = area->out + area->out_size;
        now->out_room = ROOM;
        now->made = 0;
        call(now);
        if (now->made > ROOM)
            return -EPROTO;
        area->out_size += now->made;
        if (now->made < ROOM)
            return 0;
    }
}

/* Give the object the next part of what was received. */
static int64_t take_in(pmx__tls_area *area, pmx_tls_work *work)
{
    work->in = area->in;
    work->in_size = area->in_size < STEP ? area->in_size : STEP;
    if (work->in_size) {
        area->in += work->in_size;
        area->in_size -= work->in_size;
    }
    return run(area, work);
}

/* When the handshake is done, the object may have taken in what comes behind
 * it. */
static int64_t shake(pmx__tls *t, pmx__tls_area *area, int *resumed)
{
    for (;;) {
        pmx_tls_work work = {.id = t->id, .step = PMX_TLS_SHAKE};
        int64_t error = take_in(area, &work);
        *resumed = !!work.resumed;
        t->has_more = 1;
        if (error || work.is == PMX_TLS_FAILED)
            return error ? error : -EPROTO;
        if (work.is == PMX_TLS_DONE)
            return 1;
        if (!area->in_size)
            return -EAGAIN;
    }
}

/* What the object has is decrypted before it gets more. */
static int64_t read_in(pmx__tls *t, pmx__tls_area *area, uint8_t *to,
                       size_t room)
{
    for (;;) {
        pmx_tls_work work = {.id = t->id, .step = PMX_TLS_READ, .to = to,
                             .room = room};
        int64_t error = t->has_more ? run(area, &work) : take_in(area, &work);
        if (error || work.got > room)
            return error ? error : -EPROTO;
        t->has_more = work.got == room || (work.got && work.is);
        if (work.got)
            return (int64_t)work.got;
        if (work.is)
            return work.is == PMX_TLS_DONE ? 0 : -EPROTO;
        if (!area->in_size)
            return -EAGAIN;
    }
}

static int write_out(pmx__tls *t, pmx__tls_area *area, const uint8_t *from,
                     size_t size)
{
    while (size) {
        size_t part = size < STEP ? size : STEP;
        pmx_tls_work work = {.id = t->id, .step = PMX_TLS_WRITE, .in = from,
                             .in_size = part};
        int error = run(area, &work);
        if (error || work.is == PMX_TLS_FAILED)
            return error ? error : -EPROTO;
        from += part;
        size -= part;
    }
    return 0;
}

static void bye(pmx__tls *t, pmx__tls_area *area)
{
    pmx_tls_work work = {.id = t->id, .step = PMX_TLS_BYE};
    (void)run(area, &work);
}

static size_t pending(const pmx__tls *t)
{
    return t->has_more;
}

const pmx__tls_engine pmx__portable = {
    .name = "portable", .shake = shake, .read = read_in, .write = write_out,
    .bye = bye, .pending = pending,
};
