/*
 * The contract of a transport: what stands between a connection's socket and
 * the bytes that are framed. A policy in use (pmx__rules) says which.
 *
 * recv() and send() are as the system's: bytes, 0 at the end of the peer's
 * stream, or -errno; -EAGAIN when nothing can be had or taken now. A transport
 * that changes bytes keeps what the kernel did not take of them, and says so
 * by PMX__WIRE: what send() has taken counts as sent.
 */
#ifndef PMX_TRANSPORT_H
#define PMX_TRANSPORT_H

#include "net.h"

struct pmx_mux;
struct pmx__conn;

typedef struct pmx__transport {
    const char *name;
    /* A receive that is not filled has taken all there was. */
    int short_is_all;
    /* What was sent is with the peer, and a close does not take it back; there
     * is nothing to acknowledge. */
    int arrives_at_once;
    int64_t (*recv)(struct pmx_mux *mux, struct pmx__conn *c, void *to,
                    size_t size);
    int64_t (*send)(struct pmx_mux *mux, struct pmx__conn *c,
                    pmx__span *spans, int count);
} pmx__transport;

extern const pmx__transport pmx__tcp;
extern const pmx__transport pmx__unix;

#endif
