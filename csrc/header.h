/* Headers of the PROXY protocol, as bytes. Layer 3. */
#ifndef PMX_HEADER_H
#define PMX_HEADER_H

#include "poller.h"
#include "proxy.h"

/* A connection that a balancer has passed on: the balancer's address, no longer
 * than it is, then the header, as far as it has come: see proxy.c and,
 * of connections, header.c of layer 7. */
typedef struct {
    uint16_t name_size;         /* of that address, in bytes */
    uint16_t size, room;        /* of the header, likewise */
    uint8_t bytes[];
} pmx__proxy;

static inline uint8_t *pmx__header_of(pmx__proxy *proxy)
{
    return proxy->bytes + proxy->name_size;
}

enum {
    PMX__PROXY_LOCAL = 0x20,    /* the balancer speaks for itself, or */
    PMX__PROXY_FOR = 0x21,      /* for another, who has come */
    PMX__PROXY_TCP4 = 0x11,     /* over TCP */
    PMX__PROXY_TCP6 = 0x21
};

enum { PMX__PROXY_MOST = 4096, PMX__PROXY_ROOM = 64 };
/* How many bytes the header lacks at least; 0: it is whole; -EPROTO. */
int pmx__proxy_lacks(const uint8_t *bytes, size_t size);
/* The header is whole, and its memory has PROXY_ROOM: check it, and make it
 * one of version 2. Its size, or -EPROTO. */
int64_t pmx__proxy_settle(uint8_t *bytes, size_t size);
/* The peer's or the local name that the header tells: 1, or 0 if it tells
 * none. */
int pmx__proxy_names(const uint8_t *header, int local, pmx__target *name);
/* True if the balancer speaks for itself: the header tells nothing. */
int pmx__proxy_is_local(const uint8_t *header);
int pmx__do_trust(pmx_mux *mux, const pmx_network *networks, uint32_t count);
/* Whether such a peer may send headers, by that number. */
int pmx__trusts(const pmx_mux *mux, uint32_t number, const pmx__target *peer,
                int is_unix);
void pmx__trusts_end(pmx_mux *mux);

#endif
