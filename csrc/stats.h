/*
 * The figures of a mux: a part of the public C API, see pymux.h. A page of
 * memory that processes share has them: see pmx_count_in(). A process reads by
 * name what a process of another version counts, so a later version only
 * appends.
 */
#ifndef PMX_STATS_H
#define PMX_STATS_H

#include <stdint.h>

/* cdef begin */
typedef struct pmx_mux pmx_mux;

typedef struct {
    uint64_t connections;
    uint64_t listeners;
    uint64_t accepted;
    uint64_t connected;
    uint64_t closed;
    uint64_t reset;
    uint64_t refused;
    uint64_t refused_per_peer;
    uint64_t messages_in;
    uint64_t messages_out;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t queued;
    uint64_t discarded;
    uint64_t harvests;
    uint64_t buffers;
    uint64_t accept_pauses;
    uint64_t shortages;         /* accept_pauses for want of something, and */
    uint64_t shortage;          /* the errno of the last one */
    uint64_t handshake_pauses;  /* accept_pauses by max_handshakes */
    uint64_t full;              /* the last listener with max_connections, */
    uint64_t busy;              /* with max_handshakes, */
    uint64_t refuser;           /* and with a peer that had max_per_peer */
    uint64_t outgoing;          /* of connections: made by pmx_connect() */
    uint64_t tls_handshakes;    /* that succeeded, */
    uint64_t tls_resumed;       /* of these, by a session ticket, */
    uint64_t tls_failed;        /* and that did not */
    uint64_t protocol_errors;   /* of closed: with EPROTO or EMSGSIZE, */
    uint64_t timeouts_idle;     /* by idle_ns or message_ns, */
    uint64_t timeouts_close;    /* by close_ns, */
    uint64_t enobufs;           /* and by max_output */
    uint64_t paused;            /* of connections: by PMX_PAUSE, */
    uint64_t over;              /* over high water, */
    uint64_t ready;             /* and with input that a turn has not reached */
    /* Nanoseconds: in turns, but for the waits; between turns; and, by the
     * caller's measure, until it could go on after a turn. */
    uint64_t turn_sum;
    uint64_t outside_sum;
    uint64_t gil_ns;
    uint64_t last_turn;         /* when the last one began, monotonic, */
    uint64_t in_handler_since;  /* and when it ended; 0 while one goes on */
    uint64_t moved_in;          /* by the caller: connections that have come */
    uint64_t moved_out;         /* from another process, and gone to one, */
    uint64_t given_away;        /* and that were accepted for another one; */
    uint64_t backplane_dropped; /* messages that a broker did not get */
    uint64_t proxy_refused;     /* of refused: they may not send a PROXY header, or
                                   sent none that is one, or none in time; */
    uint64_t proxy_error;       /* the last one: EACCES, EPROTO, ETIMEDOUT */
    uint64_t listeners_full;    /* of listeners: paused by max_connections or
                                   max_handshakes */
    /* How many turns had at least 2^k rows, or ns, but not 2^(k + 1); the
     * first ones of less too, and the last ones of more. */
    uint64_t turn_rows[32];
    uint64_t turn_ns[32];
    uint64_t outside_ns[32];
    uint64_t asleep;            /* not 0: a process that reads these sleeps,
                                   and is to be woken: see pmx_wakes() */
} pmx_stats;                    /* words of 64 bits, in all at most 3,840 bytes */

const pmx_stats *pmx_counts(const pmx_mux *mux);
/* Count in a file from now on, at a multiple of 8 bytes, and from what was
 * counted before; until pmx_shut(), in a forked child too. The file is shared
 * memory then, and stays the caller's. It has the figures' room at least, or
 * -EINVAL; -ENOTSUP: not on this OS. pmx_counts() is to be asked anew after this
 * and after pmx_shut(). */
int pmx_count_in(pmx_mux *mux, int64_t file, uint64_t offset);
/* Let a turn that ends while the figure `asleep` is not 0 set it to 0, and send a
 * byte to a connected socket. So a process that reads the figures may sleep:
 * half a second after it has set `asleep` it sees each handler that runs, or is
 * woken by it. The socket stays the caller's, and open until pmx_shut() or the
 * next call; -1: none. */
int pmx_wakes(pmx_mux *mux, int64_t sock);
/* No figure is read before those above it, or written after those below it. */
void pmx_fence(void);
/* cdef end */

#endif
