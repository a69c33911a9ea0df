/*
 * The public C API of the PROXY protocol: balancers that say, before the first
 * byte of a connection, of whom it is. A listener whose policy has `proxy`
 * awaits a header of version 1 or 2. Its connections are `opened` when that
 * has come, and have the names that it tells. What has none in time, or
 * another one, is refused.
 */
#ifndef PMX_PROXY_H
#define PMX_PROXY_H

#include "pymux.h"

/* cdef begin */
/* A network: the first bits of an address. */
typedef struct {
    int32_t family;             /* 4, 6, or 1: every peer of a Unix socket */
    uint32_t bits;
    uint8_t ip[16];
} pmx_network;

/* The PROXY header of an accepted connection, as one of version 2, whichever it
 * was; and the peer of the socket. */
typedef struct {
    pmx_address transport;
    const uint8_t *header;      /* until the next harvest */
    uint32_t size;
} pmx_proxied;

/* Networks whose peers may send PROXY headers: a number for pmx_policy.proxy,
 * the same for the same networks, or -errno. A peer with an address of IPv4
 * that is written as one of IPv6 is in networks of IPv4. Peers of other
 * networks are refused. */
int pmx_trust(pmx_mux *mux, const pmx_network *networks, uint32_t count);

/* The last peer of pmx_stats.proxy_refused, and where it came in; -ENOENT. */
int pmx_refused_header(pmx_mux *mux, pmx_address *names);
/* What a PROXY header said of the connection, until its end is reported.
 * -ENOENT: there was none, or the balancer spoke for itself. */
int pmx_proxy_of(pmx_mux *mux, uint64_t id, pmx_proxied *told);
/* cdef end */

#endif
