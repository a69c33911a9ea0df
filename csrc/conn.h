/* What a connection is, and what its ends are called. Layer 3; core.h includes it. */
#ifndef PMX_CONN_H
#define PMX_CONN_H

#include "core.h"

/* names.c: what a connection's ends are called; size 0: the system tells none */
void pmx__peer(const pmx__conn *c, pmx__target *peer);
void pmx__own_name(const pmx__conn *c, pmx_sock sock, pmx__target *name);
/* Of a connection with a header, or that awaits one: the balancer's name. */
void pmx__balancer(const pmx__proxy *proxy, pmx__target *name);
/* The connection's header and balancer, or NULL. */
pmx__proxy *pmx__proxy_at(const pmx__conn *c);
/* Free the memory that `at` points to, and what belongs to it. */
void pmx__at_free(pmx__conn *c);
/* Remember the peer's name; without memory the connection has none. */
void pmx__keep_peer(pmx__conn *c, const pmx__target *peer);
void pmx__keep_names(pmx__conn *c);

/* A connection may have a pipe's end in place of a socket: see pipe.c. */
static inline int pmx__is_pipe(const pmx__conn *c)
{
    uint8_t family = c->task & PMX__FAMILY;
    return family == PMX__READ_END || family == PMX__WRITE_END;
}

static inline int pmx__only_sends(const pmx__conn *c)
{
    return (c->task & PMX__FAMILY) == PMX__WRITE_END;
}

/* True if the connection dials: at.route has its sockets. */
static inline int pmx__connects(const pmx__conn *c)
{
    return (c->flags & (PMX__CONNECTING | PMX__DONE | PMX__OUTGOING)) ==
               (PMX__CONNECTING | PMX__OUTGOING) &&
           (c->task & PMX__FAMILY) != PMX__OVER_TLS;
}

/* True if it was accepted, and its header has not come. */
static inline int pmx__awaits(const pmx__conn *c)
{
    return (c->flags & (PMX__CONNECTING | PMX__DONE | PMX__OUTGOING)) ==
               PMX__CONNECTING &&
           (c->task & PMX__FAMILY) == PMX__PROXIED;
}

/* True if its TCP is connected, and its TLS is not. */
static inline int pmx__shakes(const pmx__conn *c)
{
    return (c->flags & (PMX__CONNECTING | PMX__DONE)) == PMX__CONNECTING &&
           (c->task & PMX__FAMILY) == PMX__OVER_TLS;
}

/* route.c: the sockets of a connection that is being made */
pmx_sock pmx__sock_of(const pmx__conn *c);
void pmx__end_attempt(pmx_mux *mux, pmx__attempt *attempt, int failed);
/* Give the connection the socket of one attempt, or NO_SOCK; end the others. */
void pmx__take_socket(pmx_mux *mux, pmx__conn *c, pmx_sock sock, int forked);

#endif
