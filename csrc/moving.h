/* Connections that move from one mux to another: a part of the public C API. */
#ifndef PMX_MOVING_H
#define PMX_MOVING_H

#include "pymux.h"

/* cdef begin */
/* What a connection that moves to another mux holds. */
enum pmx_moving_state {
    PMX_WAS_PAUSED = 1,         /* by PMX_PAUSE */
    PMX_WAS_BLOCKED = 2,        /* it was reported as over high water */
    PMX_WAS_ENDED = 4,          /* the peer's end was reported */
    PMX_WAS_SHUT = 8,           /* the end of our stream was sent */
    PMX_WAS_SWITCHED = 16       /* framing and replies hold, not the policy's */
};

typedef struct {
    const void *input;          /* received, and in no row yet */
    uint64_t input_size;
    const void *output;         /* as it goes out; the kernel has not taken it */
    uint64_t output_size;
    int64_t idle_ns;            /* how long the idle clock has run, */
    int64_t frame_ns;           /* and that of an unfinished frame */
    uint64_t listener;          /* whose the connection was, or 0 */
    const void *proxy;          /* the PROXY header, as of pmx_proxy_of(), */
    uint32_t proxy_size;        /* or 0 */
    uint32_t state;             /* enum pmx_moving_state */
    pmx_framing framing, replies;
    pmx_address peer;           /* of the socket; like proxy until the next call
                                   with this mux */
} pmx_moving;

/* What the connection would take along; input and output are left NULL.
 * -EAGAIN: it cannot move now, since something of it is to be reported, sent or
 * answered. -ENOTSUP: it will not: its end is on the way, it is outgoing, it is
 * over TLS, or its framing is a function of this process. The log was submitted
 * before, and the last batch is dealt with. */
int pmx_held(pmx_mux *mux, uint64_t id, pmx_moving *moving);
/* Take the connection out, with room for its input and output. There is no row
 * `closed`, and the id is nobody's from now on. The socket, which is the
 * caller's and open, or -errno as of pmx_held(). */
int64_t pmx_detach(pmx_mux *mux, uint64_t id, void *input, void *output);
/* The inverse: a connection of such a socket, which is the mux's if this
 * succeeds, by the policy of a listener, or (listener 0) by that which is given.
 * There is no row `opened`; a peer that is gone is found by the next harvest.
 * -ENOENT: no such listener; -EINVAL: what moves is not sound, or the listener
 * is of another kind; -ENOTSUP: over TLS; -ECANCELED: the mux drains. */
int pmx_attach(pmx_mux *mux, int64_t sock, uint64_t listener,
               const pmx_policy *policy, const pmx_moving *moving,
               uint64_t *id);
/* cdef end */

#endif
