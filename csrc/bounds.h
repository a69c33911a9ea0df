/* How much of anything there is, and how soon it is tried again. A turn's work
 * has a bound, so that no connection waits long for the others. Layer 3. */
#ifndef PMX_BOUNDS_H
#define PMX_BOUNDS_H

#include <stdint.h>

enum {
    /* A connection's portion of a turn is at least this: about what a socket's
     * receive queue holds, and a little more. So a message of 64 KiB comes
     * with its framing, and a receive that is not filled has taken all. */
    PMX__PORTION = 65536 + 4096,
    /* A frame of this size or more is handed over in its own memory. */
    PMX__LARGE_FRAME = 65536,
    /* A carry up to this size is copied in front of what is received next;
     * the next bytes are received into a larger one. This bounds the copying
     * and saves allocations. */
    PMX__SMALL_CARRY = 2048,
    /* Pieces up to this size are copied together, a larger one is sent by
     * reference: here a span of sendmsg begins to cost less than memcpy. */
    PMX__SMALL_PIECE = 4096,
    /* New connections a turn: a burst must not hold up the established. */
    PMX__ACCEPTS = 256,
    /* Steps of handshakes a turn, while others are ready: each may take half a
     * millisecond. */
    PMX__SHAKES = 8,
    /* Bytes a turn, so that the other connections do not wait longer: sent of
     * one queue, sent of all queues, received to be dropped. */
    PMX__FLUSH = 1 << 20,
    PMX__FLUSH_ALL = 8 << 20,
    PMX__DROPS = 1 << 20,
    /* Events a wait; of a small mux: events, scratch, slots at first. */
    PMX__EVENTS = 1024,
    PMX__FEW_EVENTS = 8,
    PMX__SMALL_SCRATCH = 2 * PMX__SMALL_PIECE,
    PMX__FEW_SLOTS = 4,
    /* Deadlines a turn: a mass of them must not hold up the connections. */
    PMX__EXPIRIES = 256,
    /* Connections that a drain limits, and slots that it looks at, a turn. */
    PMX__LIMITS = 128,
    PMX__PLACES = 4096,
    PMX__LOOKS = 4,             /* looks for progress in close_ns */
    PMX__SLAB = 256,            /* slots of a slab, which is never moved */
    PMX__GENERATIONS = 1 << 28, /* of a slot, which is then retired */
};
/* When buffers have held at least TRIM_LEAST, and hold a quarter of that for
 * TRIM_NS, the difference goes back to the system. */
#define PMX__TRIM_LEAST (UINT64_C(16) << 20)
#define PMX__TRIM_NS INT64_C(500000000)
/* How soon to try again. */
#define PMX__RETRY_NS INT64_C(100000000)    /* accepting, after EMFILE */
#define PMX__ACK_NS INT64_C(10000000)       /* a look for acknowledgements, */
#define PMX__ACK_EACH_NS INT64_C(10000)     /* plus this for each that waits */
#define PMX__SOON_NS INT64_C(1000000)       /* a look, at the soonest */
#define PMX__AGAIN_NS INT64_C(1000000)      /* a deadline, events unheard */
#define PMX__AWAY_NS INT64_C(100000000)     /* a batch's handling, from which on
                                               peers may wait to be read */
#define PMX__BUFFERS_NS INT64_C(1000000)    /* a send, after ENOBUFS */
#define PMX__REDIAL_NS INT64_C(10000000)    /* a Unix backlog that was full */
#define PMX__BESIDE_NS INT64_C(250000000)   /* the next address, beside those
                                               that do not answer: RFC 8305 */

#endif
