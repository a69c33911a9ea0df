/*
 * The contract of a transport: what stands between a connection's socket and
 * the bytes that are framed. A policy in use (pmx__rules) says which.
 *
 * recv() and send() are as the system's: bytes, 0 at the end of the peer's
 * stream, or -errno; -EAGAIN when nothing can be had or taken now. A transport
 * that changes bytes keeps what the kernel did not take of them, and says so
 * by PMX__WIRE: what send() has taken counts as sent. Layer 4.
 */
#ifndef PMX_TRANSPORT_H
#define PMX_TRANSPORT_H

#include "core.h"

typedef struct pmx__transport {
    const char *name;
    /* A receive that is not filled has taken all there was. */
    int short_is_all;
    /* What was sent is with the peer, and a close does not take it back; there
     * is nothing to acknowledge. */
    int arrives_at_once;
    int64_t (*recv)(pmx_mux *mux, pmx__conn *c, void *to,
                    size_t size);
    int64_t (*send)(pmx_mux *mux, pmx__conn *c,
                    pmx__span *spans, int count);
} pmx__transport;

extern const pmx__transport pmx__tcp;
extern const pmx__transport pmx__unix;

static inline const pmx__transport *pmx__transport_for(const pmx__target *target)
{
    return pmx__family(target) == 1 ? &pmx__unix : &pmx__tcp;
}

/* outq.c: queued output */
int pmx__queue_copy(pmx_mux *mux, pmx__conn *c, const void *bytes,
                    size_t size);
int pmx__queue_share(pmx_mux *mux, pmx__conn *c, pmx__shared *shared,
                     size_t begin);
/* Until the queue is empty (0) or the kernel takes no more (-errno). */
int pmx__queue_send(pmx_mux *mux, pmx__conn *c, size_t *taken);
void pmx__queue_drop(pmx_mux *mux, pmx__conn *c);
pmx__shared *pmx__share(pmx_mux *mux, const void *bytes, size_t size);
void pmx__unshare(pmx_mux *mux, pmx__shared *shared);

#endif
