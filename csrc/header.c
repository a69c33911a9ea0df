/*
 * Connections that await a header of the PROXY protocol. One goes on as one
 * that is CONNECTING: it counts for the limits, nothing of it is delivered,
 * and nobody hears of it. Of its socket just the header is received (proxy.c).
 *
 *   awaiting -> open, or shaking hands (shake.c)
 *
 * One that never gets its header ends by pmx__finish(), and is refused.
 */
#include "turn.h"

#include <stdlib.h>
#include <string.h>

/* A receive asks for no more: memory grows as the header comes, not as the
 * header claims. */
enum { PART = 512 };

int pmx__header_begin(pmx__conn *c, const pmx__target *balancer)
{
    size_t name = pmx__is_named(balancer) ? (size_t)balancer->size : 0;
    pmx__proxy *p = sys_malloc(sizeof *p + name + PMX__PROXY_ROOM);
    if (!p)
        return -ENOMEM;
    *p = (pmx__proxy){.name_size = (uint16_t)name, .room = PMX__PROXY_ROOM};
    memcpy(p->bytes, &balancer->to, name);
    c->at.proxy = p;
    c->task = (uint8_t)((c->task & ~PMX__FAMILY) | PMX__PROXIED);
    return 0;
}

/* Have room for that many bytes of the header. */
static int make_room(pmx__conn *c, size_t size)
{
    pmx__proxy *p = c->at.proxy;
    size_t room = p->room;
    if (size <= room)
        return 0;
    room = 2 * room < size ? size : 2 * room;
    p = sys_realloc(p, sizeof *p + p->name_size + room);
    if (!p)
        return -ENOMEM;
    p->room = (uint16_t)room;
    c->at.proxy = p;
    return 0;
}

int pmx__header_again(pmx__conn *c, const pmx__target *balancer,
                      const void *bytes, size_t size)
{
    int error = size > PMX__PROXY_MOST ? -EINVAL
                                       : pmx__header_begin(c, balancer);
    if (!error)
        error = make_room(c, size + PMX__PROXY_ROOM);
    if (error)
        return error;
    pmx__proxy *p = c->at.proxy;
    uint8_t *header = pmx__header_of(p);
    memcpy(header, bytes, size);
    p->size = (uint16_t)size;
    return pmx__proxy_lacks(header, size) || pmx__proxy_is_local(header) ||
                   pmx__proxy_settle(header, size) != (int64_t)size
               ? -EINVAL : 0;
}

/* Receive what is there of the header: 0 once it is whole, or -errno. A peer
 * that ends its stream before its first byte gets -ECONNRESET. */
static int receive(pmx__conn *c)
{
    for (;;) {
        pmx__proxy *p = c->at.proxy;
        int lacks = pmx__proxy_lacks(pmx__header_of(p), p->size);
        if (lacks <= 0)
            return lacks;
        size_t size = lacks < PART ? (size_t)lacks : PART;
        int error = make_room(c, p->size + size);
        if (error)
            return error;
        p = c->at.proxy;
        int64_t n = pmx__recv(c->sock, pmx__header_of(p) + p->size, size);
        if (n <= 0)
            return n ? (int)n : p->size ? -EPROTO : -ECONNRESET;
        p->size = (uint16_t)(p->size + n);
    }
}

/* The header is whole and right. *peer is whom it names. */
static int settle(pmx__conn *c, pmx__target *peer)
{
    pmx__proxy *p = c->at.proxy;
    int64_t size = pmx__proxy_settle(pmx__header_of(p), p->size);
    if (size < 0)
        return (int)size;
    p->size = (uint16_t)size;
    if (!pmx__proxy_names(pmx__header_of(p), 0, peer))
        pmx__balancer(p, peer);
    return 0;
}

/* The peer that the header names counts for max_per_peer, not the balancer. */
static int count_peer(pmx_mux *mux, pmx__conn *c, const pmx__target *peer)
{
    int counts = pmx__peer_comes(mux, c->rules, peer);
    if (counts == -EACCES) {
        mux->stats->refused_per_peer++;
        mux->stats->refuser = pmx__listener_with(mux, c->rules);
        mux->refused_peer = *peer;
        mux->notable = 1;
    }
    if (counts < 0)
        return counts;
    c->counts_for_peer = (unsigned)counts & 1;
    return 0;
}

/* Give back the memory that the header does not need; of a balancer that speaks
 * for itself, all of it: NULL. */
static pmx__proxy *trim(pmx__proxy *p)
{
    if (pmx__proxy_is_local(pmx__header_of(p))) {
        free(p);
        return NULL;
    }
    pmx__proxy *less = sys_realloc(p, sizeof *p + p->name_size + p->size);
    if (less)
        less->room = less->size;
    return less ? less : p;
}

/* TLS begins behind the header. */
static int shake(pmx_mux *mux, uint32_t slot, const pmx__target *peer)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__proxy *p = c->at.proxy;
    int error = pmx__tls_begin(mux, slot, peer, INT64_MAX);
    if (error)
        return error;
    c->at.tls->proxy = trim(p);
    pmx__tls_wait(mux, slot);
    return 0;
}

static void open_up(pmx_mux *mux, uint32_t slot, const pmx__target *peer)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__proxy *p = trim(c->at.proxy);
    if (p)
        c->at.proxy = p;
    else
        pmx__keep_peer(c, peer);
    if ((c->task & PMX__FAMILY) == PMX__SCOPED && !c->at.peer6 &&
        c->counts_for_peer) {   /* its end could not be counted */
        pmx__peer_leaves(mux, c->rules, peer);
        c->counts_for_peer = 0;
    }
    c->flags &= ~(uint32_t)PMX__CONNECTING;
    /* one event reported all that has come meanwhile, the end too */
    c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
    pmx__opened(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

void pmx__hear_header(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__target peer;
    c->flags &= ~(uint32_t)(PMX__CAN_READ | PMX__CAN_WRITE);
    int error = c->error ? -c->error : receive(c);  /* the poller has told it */
    if (error == -EAGAIN) {
        pmx__watch(mux, slot);
        return;
    }
    if (!error)
        error = settle(c, &peer);
    if (!error)
        error = count_peer(mux, c, &peer);
    if (!error && c->rules->transport->shakes)
        error = shake(mux, slot, &peer);
    else if (!error)
        open_up(mux, slot, &peer);
    if (error)
        pmx__finish(mux, slot, -error, error != -ECONNRESET);
}
