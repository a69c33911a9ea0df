/* What the two ends of a connection are called. */
#include "core.h"

#include <stdlib.h>
#include <string.h>

enum { NAME_HEAD = offsetof(pmx__target, to) };

void pmx__balancer(const pmx__proxy *proxy, pmx__target *name)
{
    memset(name, 0, sizeof *name);
    name->size = proxy->name_size;
    memcpy(&name->to, proxy->bytes, proxy->name_size);
}

pmx__proxy *pmx__proxy_at(const pmx__conn *c)
{
    int family = c->task & PMX__FAMILY;
    if (c->flags & PMX__DONE)
        return c->at.names ? c->at.names->proxy : NULL;
    if (family == PMX__OVER_TLS)
        return c->at.tls->proxy;
    return family == PMX__PROXIED && !(c->flags & PMX__OUTGOING) ? c->at.proxy
                                                                 : NULL;
}

/* The name of the peer of a connection that has been open. */
void pmx__peer(const pmx__conn *c, pmx__target *peer)
{
    int family = c->task & PMX__FAMILY;
    struct sockaddr_in6 *to = &peer->to.v6;
    memset(peer, 0, sizeof *peer);
    if (family == 4) {
        peer->size = sizeof peer->to.v4;
        peer->to.v4.sin_family = AF_INET;
        peer->to.v4.sin_addr.s_addr = c->ip4;
        peer->to.v4.sin_port = c->port4;
    } else if (c->flags & PMX__DONE) {
        if (c->at.names)
            *peer = c->at.names->targets[0];
    } else if (pmx__connects(c)) {
        /* the address that was tried last */
        const pmx__route *route = c->at.route;
        *peer = route->attempts[route->next ? route->next - 1 : 0].to;
    } else if (family == 6) {
        peer->size = sizeof *to;
        to->sin6_family = AF_INET6;
        to->sin6_port = c->port4;
        uint8_t *ip = (uint8_t *)&to->sin6_addr;
        memcpy(ip, c->at.ip6, 8);
        memcpy(ip + 8, &c->ip4, 4);
        memcpy(ip + 12, c->ip6_end, 4);
    } else if (family == PMX__SCOPED && c->at.peer6) {
        peer->size = sizeof *to;
        to->sin6_family = AF_INET6;
        to->sin6_port = c->at.peer6->port;
        to->sin6_scope_id = c->at.peer6->scope;
        memcpy(&to->sin6_addr, c->at.peer6->ip, sizeof c->at.peer6->ip);
    } else if (family == PMX__OVER_TLS) {
        *peer = c->at.tls->peer;
    } else if (family == 1 && c->at.peer) {
        memcpy(peer, c->at.peer, NAME_HEAD + (size_t)c->at.peer->size);
    } else if (pmx__proxy_at(c)) {
        pmx__proxy *proxy = c->at.proxy;
        if (c->flags & PMX__CONNECTING ||
            !pmx__proxy_names(pmx__header_of(proxy), 0, peer))
            pmx__balancer(proxy, peer);
    }
}

void pmx__own_name(const pmx__conn *c, pmx_sock sock, pmx__target *name)
{
    pmx__proxy *proxy = pmx__awaits(c) ? NULL : pmx__proxy_at(c);
    if (proxy && pmx__proxy_names(pmx__header_of(proxy), 1, name))
        return;
    if (sock == PMX__NO_SOCK || pmx__is_pipe(c) || pmx__local(sock, name))
        memset(name, 0, sizeof *name);
}

/* IPv4 and IPv6 addresses fit into the slot. A scope does not; it is rare. */
void pmx__keep_peer(pmx__conn *c, const pmx__target *peer)
{
    int family = pmx__family(peer);
    const struct sockaddr_in6 *from = &peer->to.v6;
    const uint8_t *ip = (const uint8_t *)&from->sin6_addr;
    c->at.peer = NULL;
    if (pmx__is_pipe(c))        /* its ends have no names */
        return;
    if (family == 4) {
        c->ip4 = peer->to.v4.sin_addr.s_addr;
        c->port4 = peer->to.v4.sin_port;
    } else if (family == 6 && !from->sin6_scope_id) {
        c->port4 = from->sin6_port;
        memcpy(c->at.ip6, ip, 8);
        memcpy(&c->ip4, ip + 8, 4);
        memcpy(c->ip6_end, ip + 12, 4);
    } else if (family == 6) {
        family = PMX__SCOPED;
        c->at.peer6 = sys_malloc(sizeof *c->at.peer6);
        if (c->at.peer6) {
            memcpy(c->at.peer6->ip, ip, sizeof c->at.peer6->ip);
            c->at.peer6->scope = from->sin6_scope_id;
            c->at.peer6->port = from->sin6_port;
        }
    } else if (peer->size && pmx__is_named(peer)) {
        size_t size = NAME_HEAD + (size_t)peer->size;
        c->at.peer = sys_malloc(size);
        if (c->at.peer)
            memcpy(c->at.peer, peer, size);
    }
    c->task = (uint8_t)((c->task & ~PMX__FAMILY) | family);
}

void pmx__keep_names(pmx__conn *c)
{
    pmx__names *names = sys_calloc(1, sizeof *names);
    if (names) {
        pmx__peer(c, &names->targets[0]);
        pmx__own_name(c, c->sock, &names->targets[1]);
        if ((c->task & PMX__FAMILY) == PMX__OVER_TLS) {
            names->tls_error = c->at.tls->code;
            names->tls_verify = c->at.tls->verify;
        }
        pmx__describe(&names->targets[0], &names->names[0]);
        pmx__describe(&names->targets[1], &names->names[1]);
    }
    pmx__proxy *proxy = pmx__proxy_at(c);
    void *memory = pmx__at_memory(c);
    if (memory != proxy)
        free(memory);
    if (names)
        names->proxy = proxy;
    else
        free(proxy);
    c->at.names = names;
}

void pmx__at_free(pmx__conn *c)
{
    pmx__proxy *proxy = pmx__proxy_at(c);
    void *memory = pmx__at_memory(c);
    if (memory != proxy)
        free(memory);
    free(proxy);
    c->at.names = NULL;
}
