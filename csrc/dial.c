/* Outgoing connections: a route of addresses, tried in order. */
#include "turn.h"

#include <stdlib.h>

/* Try the next targets of the route until one is on its way. If all fail, the
 * connection ends with the last error. */
static void dial(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__route *route = c->at.route;
    while (route->next < route->count) {
        pmx__target *target = &route->targets[route->next];
        int dialled = pmx__dial(target, &c->sock);
        if (dialled == -EAGAIN) {       /* a full backlog: later */
            route->refused = 1;
            pmx__look_at(mux, slot, mux->now + PMX__REDIAL_NS);
            return;
        }
        if (!dialled || dialled == -EINPROGRESS) {
            int added = mux->poller->add(mux->poll_state, c->sock,
                                         pmx__id(slot, c),
                                         PMX__IN | PMX__OUT);
            if (!added) {
                c->flags |= PMX__IN_POLLER;
                c->watched = PMX__WATCH_IN | PMX__WATCH_OUT;
                pmx__watch(mux, slot);
                if (!dialled) {         /* the next harvest reports it */
                    c->flags |= PMX__CAN_WRITE;
                    pmx__ready(mux, slot);
                }
                return;
            }
            pmx__drop_sock(c->sock);
            dialled = added;
        }
        c->sock = PMX__NO_SOCK;
        error = -dialled;
        route->next++;
    }
    pmx__finish(mux, slot, error ? error : ECONNREFUSED, 0);
}

/* A connection that is about to have a socket. It owns the route unless this
 * fails. */
static int begin(pmx_mux *mux, pmx__route *route, const pmx_policy *policy,
                 uint32_t *slot)
{
    /* How long connecting may take belongs to the call: with what is left of a
     * deadline, each connection would have a policy of its own. */
    pmx_policy common = *policy;
    common.connect_ns = -1;
    pmx__rules *rules = pmx__rules_reused(
        mux, &common, pmx__transport_for(&route->targets[0]));
    int error = rules ? pmx__conn_new(mux, rules, slot) : -ENOMEM;
    if (rules)
        pmx__rules_drop(mux, rules);    /* the connection keeps them */
    if (error)
        return error;
    pmx__conn *c = pmx__slot(mux, *slot);
    c->at.route = route;
    c->flags = PMX__CONNECTING | PMX__OUTGOING;
    pmx__set_due(mux, *slot, PMX__CONNECT_DUE);
    return 0;
}

int pmx__do_connect(pmx_mux *mux, const pmx_endpoint *endpoints,
                    uint32_t count, const pmx_policy *policy, uint64_t *id)
{
    if (!pmx__policy_valid(mux, policy) || !count || count > 1024)
        return -EINVAL;
    pmx__route *route =
        sys_calloc(1, sizeof *route + count * sizeof *route->targets);
    if (!route)
        return -ENOMEM;
    uint32_t slot;
    int error = 0;
    route->count = count;
    mux->now = pmx__now();
    route->until = policy->connect_ns < 0
                       ? INT64_MAX : pmx__after(mux->now, policy->connect_ns);
    for (uint32_t i = 0; i < count && !error; i++)
        error = pmx__resolve(&endpoints[i], &route->targets[i]);
    if (!error)
        error = begin(mux, route, policy, &slot);
    if (error) {
        free(route);
        return error;
    }
    pmx__conn *c = pmx__slot(mux, slot);
    *id = pmx__id(slot, c);
    dial(mux, slot, 0);
    /* the caller learns at once that the system has no descriptor */
    if (c->flags & PMX__DONE &&
        (c->error == EMFILE || c->error == ENFILE || c->error == ENOSPC ||
         c->error == ENOMEM || c->error == ENOBUFS)) {
        error = -c->error;
        mux->stats.closed--;
        c->flags |= PMX__DISOWNED;
    }
    return error;
}

/* The socket is as one that was dialled and is connected: the next turn looks
 * at it, and reports it as opened or closed. */
int pmx__do_adopt(pmx_mux *mux, int64_t number, const pmx_policy *policy,
                  uint64_t *id)
{
    pmx_sock sock = (pmx_sock)number;
    uint32_t slot;
    if (!pmx__policy_valid(mux, policy))
        return -EINVAL;
    if (number < 0 || (int64_t)sock != number)
        return -EBADF;
    pmx__route *route = sys_calloc(1, sizeof *route + sizeof *route->targets);
    if (!route)
        return -ENOMEM;
    route->count = 1;
    route->until = INT64_MAX;
    mux->now = pmx__now();
    int error = pmx__stream_given(sock, &route->targets[0]);
    if (!error)
        error = begin(mux, route, policy, &slot);
    if (error) {
        free(route);
        return error;
    }
    pmx__conn *c = pmx__slot(mux, slot);
    error = mux->poller->add(mux->poll_state, sock, pmx__id(slot, c),
                             PMX__IN | PMX__OUT);
    if (error) {
        pmx__undue(mux, slot);
        pmx__conn_free(mux, slot);
        return error;
    }
    c->sock = sock;
    c->flags |= PMX__IN_POLLER | PMX__CAN_WRITE;
    c->watched = PMX__WATCH_IN | PMX__WATCH_OUT;
    *id = pmx__id(slot, c);
    pmx__watch(mux, slot);
    pmx__ready(mux, slot);
    return 0;
}

/* A dialled socket has become writable, or the time to dial again has come. */
void pmx__connected(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->at.route->refused) {
        c->at.route->refused = 0;
        c->flags &= ~(uint32_t)PMX__CAN_WRITE;
        dial(mux, slot, 0);
        return;
    }
    /* in a closing connection c->error is that of the close */
    int told = !(c->flags & PMX__CLOSING);
    int error = told && c->error ? -c->error : pmx__dialled(c->sock);
    if (told)
        c->error = 0;
    c->flags &= ~(uint32_t)(PMX__CAN_WRITE | PMX__CAN_READ);
    if (error == -ENOTCONN) {   /* not connected yet */
        error = pmx__arm(mux, c);
        if (!error)
            return;
    }
    if (error) {
        mux->poller->del(mux->poll_state, c->sock);
        c->flags &= ~(uint32_t)PMX__IN_POLLER;
        pmx__reset_sock(c->sock);       /* to itself, it would linger */
        c->sock = PMX__NO_SOCK;
        c->at.route->next++;
        dial(mux, slot, -error);
        return;
    }
    pmx__route *route = c->at.route;
    pmx__keep_peer(c, &route->targets[route->next]);
    free(route);
    c->flags &= ~(uint32_t)PMX__CONNECTING;
    /* sooner, it would bound connecting too */
    pmx__set_options(c->sock, &c->rules->policy);
    /* one event reported all that has come meanwhile, the end too */
    c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
    mux->stats.connected++;
    pmx__opened(mux, slot);
    if (c->flags & PMX__CLOSING)
        pmx__due_to_close(mux, slot);
    pmx__settle(mux, slot);     /* queued output leaves in its turn */
}
