/* A caller asks the state of a connection. */
#include "turn.h"

#include <string.h>

int64_t pmx__do_unacknowledged(const pmx_mux *mux, uint64_t id)
{
    const pmx__conn *c = pmx__find(mux, id);
    if (!c || c->flags & PMX__DONE)
        return -ENOENT;
    uint64_t queued = c->queue ? c->queue->size : 0;
    if (c->flags & PMX__CONNECTING || c->rules->transport->arrives_at_once)
        return (int64_t)queued;
    int64_t unacknowledged = pmx__unacknowledged(c->sock);
    return unacknowledged < 0 ? -ENOTSUP : (int64_t)queued + unacknowledged;
}

uint64_t pmx__do_queued(const pmx_mux *mux, uint64_t id)
{
    const pmx__conn *c = pmx__find(mux, id);
    return c && c->queue ? c->queue->size : 0;
}

int64_t pmx__do_pass_over(const pmx_mux *mux, uint64_t *ids, uint32_t count,
                          uint64_t most)
{
    uint32_t kept = 0;
    for (uint32_t k = 0; k < count; k++) {
        uint64_t id = ids[k];
        if (pmx__do_queued(mux, id) > most)
            continue;
        ids[k] = ids[kept];
        ids[kept++] = id;
    }
    return kept;
}

int64_t pmx__do_socket(const pmx_mux *mux, uint64_t id)
{
    const pmx__listener *l = NULL;
    const pmx__conn *c = NULL;
    if (id & PMX__LISTENER_TAG)
        l = pmx__find_listener(mux, id);
    else
        c = pmx__find(mux, id);
    pmx_sock sock = l ? l->sock : c ? pmx__sock_of(c) : PMX__NO_SOCK;
    if (c && pmx__connects(c) && c->at.route->count > 1)
        sock = PMX__NO_SOCK;    /* another attempt may win the connection */
    return sock == PMX__NO_SOCK ? -ENOENT : (int64_t)sock;
}

int pmx__do_credentials(const pmx_mux *mux, uint64_t id, int64_t of[3])
{
    const pmx__conn *c = pmx__find(mux, id);
    if (!c || c->sock == PMX__NO_SOCK)
        return -ENOENT;
    return c->rules->transport->arrives_at_once && !pmx__is_pipe(c)
               ? pmx__credentials(c->sock, of) : -ENOTSUP;
}

int pmx__do_pending(const pmx_mux *mux, uint64_t id)
{
    const pmx__conn *c = pmx__find(mux, id);
    if (!c)
        return 0;
    if (c->flags & PMX__IN_REPORT)
        return 1;
    if (c->flags & (PMX__DONE | PMX__CONNECTING) || pmx__blocked(c))
        return 0;
    if (c->flags & PMX__FRAMES)
        return 1;
    if (c->flags & PMX__ENDED)
        return 0;
    /* the poller may have had more events than there was room for */
    return c->flags & PMX__CAN_READ ||
           (mux->unheard && pmx__arrived(c->sock) > 0);
}

int pmx__do_policy_of(const pmx_mux *mux, uint64_t id, pmx_policy *policy)
{
    const pmx__conn *c = pmx__find(mux, id);
    if (!c)
        return -ENOENT;
    *policy = c->rules->policy;
    return 0;
}

int pmx__do_addresses(pmx_mux *mux, uint64_t id, pmx_address *names)
{
    const pmx__conn *c = pmx__find(mux, id);
    if (!c)
        return -ENOENT;
    pmx_sock sock = pmx__sock_of(c);
    memset(mux->asked, 0, sizeof mux->asked);
    pmx__peer(c, &mux->asked[0]);
    if (c->flags & PMX__DONE && c->at.names)
        mux->asked[1] = c->at.names->targets[1];
    else
        pmx__own_name(c, sock, &mux->asked[1]);
    pmx__describe(&mux->asked[0], &names[0]);
    pmx__describe(&mux->asked[1], &names[1]);
    return 0;
}

int pmx__do_refused_peer(pmx_mux *mux, pmx_address *name)
{
    if (!mux->stats->refuser)
        return -ENOENT;
    pmx__describe(&mux->refused_peer, name);
    return 0;
}

int64_t pmx__do_accepted(const pmx_mux *mux, uint64_t *ids, uint32_t room)
{
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < mux->slots; slot++) {
        const pmx__conn *c = pmx__slot(mux, slot);
        if (!(c->generation & 1) || c->flags & (PMX__OUTGOING | PMX__DONE))
            continue;
        if (count < room)
            ids[count] = pmx__id(slot, c);
        count++;
    }
    return count;
}

int pmx__do_refused_header(pmx_mux *mux, pmx_address *names)
{
    if (!mux->stats->proxy_refused)
        return -ENOENT;
    pmx__describe(&mux->refused_header[0], &names[0]);
    pmx__describe(&mux->refused_header[1], &names[1]);
    return 0;
}

int pmx__do_proxy_of(pmx_mux *mux, uint64_t id, pmx_proxied *told)
{
    const pmx__conn *c = pmx__find(mux, id);
    pmx__proxy *proxy = c && !pmx__awaits(c) ? pmx__proxy_at(c) : NULL;
    if (!proxy)
        return -ENOENT;
    pmx__balancer(proxy, &mux->asked[0]);
    pmx__describe(&mux->asked[0], &told->transport);
    told->header = pmx__header_of(proxy);
    told->size = proxy->size;
    return 0;
}

int pmx__do_stopping(const pmx_mux *mux, uint64_t id)
{
    const pmx__conn *c = pmx__find(mux, id);
    return c && c->flags & PMX__LIMITED &&
           c->flags & (PMX__ENDED | PMX__DONE);
}
