/* Connections that move from one mux to another: a part of the public C API. */
#ifndef PMX_MOVING_H
#define PMX_MOVING_H

#include "pymux.h"

/* cdef begin */
/* The state of a connection that moves to another mux. */
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

/* Tell all that the connection would take along; input and output are left NULL.
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

/* A worker's place in memory that workers share. It stays as it is: processes of
 * other versions see it. */
typedef struct {
    int32_t open;               /* it accepts; by whom made the memory */
    int32_t coming;             /* given to it, and not taken in by it yet */
    uint32_t here;              /* its accepted connections, by itself */
    uint32_t pad;
} pmx_seat;

typedef struct {
    int64_t sock;               /* the mux's, until pmx_gave() */
    uint64_t listener;          /* that has accepted it */
    uint32_t seat;              /* for whom it is */
    uint32_t pad;
    pmx_address peer;           /* until the next call; family 0: not known */
} pmx_gift;

/* Have the seats of a file tell which worker has the fewest connections, this mux's
 * being number `own`. A peer that is accepted while another open seat has fewer, by
 * more than 5 % and more than one with this peer, is given to the lowest: a harvest
 * returns PMX_GIVEN for pmx_given(). File -1: no more. The file stays the caller's.
 * -EINVAL: it has no such seat; -EAGAIN: pmx_given() has some; -ENOTSUP: not on
 * this OS. */
int pmx_balance(pmx_mux *mux, int64_t file, uint32_t seats, uint32_t own);
/* Take a connection that is to be given away in hand: 1, or 0 if there is none. One
 * that was in hand counts as sent. */
int pmx_given(pmx_mux *mux, pmx_gift *gift);
/* That in hand was sent to the other worker, and is closed here; or could not be
 * sent, and is accepted here. */
int pmx_gave(pmx_mux *mux, uint32_t was_sent);
/* Accept a connection for a listener that another worker has accepted, for this
 * seat. The socket is the mux's, and closed if limits or the system refuse it;
 * but -EBADF, -EINVAL (the peer), -ENOENT (no such listener). The seat has one less
 * coming then. -EAGAIN: the listener is full now, and nothing has changed. */
int pmx_admit(pmx_mux *mux, int64_t sock, uint64_t listener,
              const pmx_address *peer, uint32_t seat);
/* cdef end */

#endif
