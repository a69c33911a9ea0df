/*
 * Outgoing connections: a route of addresses, tried in order.
 *
 * An address that does not answer must not hold up the others. So each gets a
 * quarter of a second to itself; then the next one is tried beside those before
 * ("Happy Eyeballs", RFC 8305). One that fails is followed by the next at once.
 * The first attempt to succeed is the connection, and the others end. A failed
 * connection has the error of the attempt that failed last.
 */
#include "turn.h"

#include <stdlib.h>
#include <string.h>

static int watch_attempt(pmx_mux *mux, uint32_t slot, pmx_sock sock)
{
    uint64_t id = pmx__id(slot, pmx__slot(mux, slot));
    return mux->poller->add(mux->poll_state, sock, id,
                            mux->poller->edge ? PMX__IN | PMX__OUT : PMX__OUT);
}

/* kqueue refuses to watch whether a read end becomes writable, or a write end
 * that has lost its reader (-EPIPE). A write end that becomes readable has lost
 * its reader, on every OS. */
static int watch_pipe(pmx_mux *mux, uint32_t slot, pmx_sock pipe)
{
    const pmx__conn *c = pmx__slot(mux, slot);
    int error = -EPIPE;
    if (!mux->poller->edge || pmx__only_sends(c))
        error = watch_attempt(mux, slot, pipe);
    return error != -EPIPE ? error
                           : mux->poller->add(mux->poll_state, pipe,
                                              pmx__id(slot, c), PMX__IN);
}

static int begin_attempt(pmx_mux *mux, uint32_t slot, pmx__attempt *attempt)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx_sock sock = PMX__NO_SOCK;
    int dialled = pmx__dial(&c->at.route->source, &attempt->to, &sock);
    if (dialled && dialled != -EINPROGRESS)
        return dialled;
    int added = watch_attempt(mux, slot, sock);
    if (added) {
        pmx__drop_sock(sock);
        return added;
    }
    attempt->sock = sock;
    if (!dialled) {             /* the next harvest reports it */
        c->flags |= PMX__CAN_WRITE;
        pmx__ready(mux, slot);
    }
    return 0;
}

/* True if the process or the system lacks something, which may come back. */
static int is_shortage(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOSPC ||
           error == -ENOMEM || error == -ENOBUFS;
}

/* Try the next addresses of the route until one is on its way. If no attempt is
 * then, the connection ends with the last error. */
static void dial(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__route *route = c->at.route;
    route->next_at = INT64_MAX;
    while (route->next < route->count) {
        int begun = begin_attempt(mux, slot, &route->attempts[route->next]);
        int later = begun == -EAGAIN    /* a full backlog */
                        || (is_shortage(begun) &&
                            pmx__sock_of(c) != PMX__NO_SOCK);
        if (later) {
            route->next_at = mux->now + (begun == -EAGAIN ? PMX__REDIAL_NS
                                                          : PMX__RETRY_NS);
            pmx__look_at(mux, slot, route->next_at);
            return;
        }
        route->next++;
        if (begun) {
            error = -begun;
            continue;
        }
        if (route->next < route->count) {
            route->next_at = mux->now + PMX__BESIDE_NS;
            pmx__look_at(mux, slot, route->next_at);
        }
        return;
    }
    if (pmx__sock_of(c) == PMX__NO_SOCK)
        pmx__finish(mux, slot, error ? error : ECONNREFUSED, 0);
}

/* With the header of the first of the endpoints; they may be NULL. */
static pmx__route *new_route(const pmx_endpoint *endpoints, uint32_t count)
{
    uint32_t header = endpoints ? endpoints->header_size : 0;
    size_t size = sizeof(pmx__route) + count * sizeof(pmx__attempt);
    pmx__route *route = sys_calloc(1, size + header);
    if (!route)
        return NULL;
    route->header = (uint8_t *)route + size;
    route->header_size = header;
    if (header)
        memcpy(route->header, endpoints->header, header);
    route->count = count;
    route->until = route->next_at = INT64_MAX;
    for (uint32_t i = 0; i < count; i++)
        route->attempts[i].sock = PMX__NO_SOCK;
    return route;
}

/* A connection that is about to have a socket. It owns the route unless this
 * fails. */
static int begin(pmx_mux *mux, pmx__route *route, const pmx_policy *policy,
                 const pmx__transport *transport, uint32_t *slot)
{
    /* How long connecting may take belongs to the call: with what is left of a
     * deadline, each connection would have a policy of its own. */
    pmx_policy common = *policy;
    common.connect_ns = -1;
    pmx__rules *rules = pmx__rules_reused(mux, &common, transport);
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
    if (!pmx__policy_valid(mux, policy) || !count || count > 1024 ||
        endpoints->header_size > 65536)
        return -EINVAL;
    pmx__route *route = new_route(endpoints, count);
    if (!route)
        return -ENOMEM;
    uint32_t slot;
    int error = 0;
    mux->now = pmx__now();
    if (policy->connect_ns >= 0)
        route->until = pmx__after(mux->now, policy->connect_ns);
    if (endpoints->source)
        error = pmx__resolve(&(pmx_endpoint){.host = endpoints->source,
                                             .port = endpoints->source_port},
                             &route->source);
    for (uint32_t i = 0; i < count && !error; i++)
        error = pmx__resolve(&endpoints[i], &route->attempts[i].to);
    if (!error)
        error = begin(mux, route, policy,
                      pmx__transport_for(policy, &route->attempts[0].to), &slot);
    if (error) {
        free(route);
        return error;
    }
    pmx__conn *c = pmx__slot(mux, slot);
    *id = pmx__id(slot, c);
    dial(mux, slot, 0);
    /* the caller learns at once that the system has no descriptor */
    if (c->flags & PMX__DONE && is_shortage(-c->error)) {
        error = -c->error;
        mux->stats->closed--;
        c->flags |= PMX__DISOWNED;
    }
    return error;
}

/* Whether the descriptor is what the caller says, and what its peer is. */
static int look_at_given(pmx_sock sock, uint32_t pipe, pmx__target *peer)
{
    if (pipe)
        return pmx__pipe_given(sock, pipe == PMX_WRITABLE);
    return pmx__stream_given(sock, peer);
}

static const pmx__transport *transport_of(uint32_t pipe,
                                          const pmx_policy *policy,
                                          const pmx__target *peer)
{
    return pipe == PMX_READABLE   ? &pmx__read_end
           : pipe == PMX_WRITABLE ? &pmx__write_end
                                  : pmx__transport_for(policy, peer);
}

/* The state that a pipe's end has from the start: see pipe.c. */
static void be_pipe(pmx__conn *c, uint32_t pipe)
{
    int writes = pipe == PMX_WRITABLE;
    c->task |= writes ? PMX__WRITE_END : PMX__READ_END;
    c->flags |= PMX__SHUT | (writes ? PMX__ENDED : PMX__SEND_ENDED);
}

/* The descriptor is as a socket that was dialled and is connected: the next
 * turn looks at it, and reports it as opened or closed. */
int pmx__do_adopt(pmx_mux *mux, int64_t number, uint32_t pipe,
                  const pmx_policy *policy, uint64_t *id)
{
    pmx_sock sock = (pmx_sock)number;
    uint32_t slot;
    if (!pmx__policy_valid(mux, policy) || pipe > PMX_WRITABLE)
        return -EINVAL;
    if (number < 0 || (int64_t)sock != number)
        return -EBADF;
    pmx__route *route = new_route(NULL, 1);
    if (!route)
        return -ENOMEM;
    pmx__target *peer = &route->attempts[0].to;
    mux->now = pmx__now();
    int error = look_at_given(sock, pipe, peer);
    if (!error)
        error = begin(mux, route, policy, transport_of(pipe, policy, peer),
                      &slot);
    if (error) {
        free(route);
        return error;
    }
    pmx__conn *c = pmx__slot(mux, slot);
    if (pipe)
        be_pipe(c, pipe);
    error = pipe ? watch_pipe(mux, slot, sock) : watch_attempt(mux, slot, sock);
    if (!error) {               /* a descriptor that is refused is not changed */
        error = pipe ? pmx__pipe_take(sock) : pmx__take_given(sock, peer);
        if (error)
            mux->poller->del(mux->poll_state, sock);
    }
    if (error) {
        pmx__undue(mux, slot);
        pmx__conn_free(mux, slot);
        return error;
    }
    route->attempts[0].sock = sock;
    route->next = 1;
    c->flags |= PMX__CAN_WRITE;
    *id = pmx__id(slot, c);
    pmx__ready(mux, slot);
    return 0;
}

/* Look how the attempts are: the number of one that is connected, or NONE.
 * Attempts that have failed end; *error is the error of the last of them. */
static uint32_t look_at_attempts(pmx_mux *mux, pmx__conn *c, int *error)
{
    pmx__route *route = c->at.route;
    uint32_t first = PMX__NONE, count = 0;
    /* in a closing connection c->error is that of the close */
    int told = c->flags & PMX__CLOSING ? 0 : c->error;
    if (told)
        c->error = 0;
    for (uint32_t i = route->next; i--;)
        if (route->attempts[i].sock != PMX__NO_SOCK)
            first = i, count++;
    for (uint32_t i = 0; i < route->next && !(told && count == 1); i++) {
        pmx__attempt *attempt = &route->attempts[i];
        if (attempt->sock == PMX__NO_SOCK)
            continue;
        int is = pmx__dialled(attempt->sock);
        if (!is)
            return i;
        if (is == -ENOTCONN)    /* not connected yet */
            is = pmx__arm(mux, attempt->sock);
        if (!is)
            continue;
        pmx__end_attempt(mux, attempt, 1);
        *error = -is;
        told = 0;
    }
    if (told && count) {        /* the poller has taken the socket's error */
        pmx__end_attempt(mux, &route->attempts[first], 1);
        *error = told;
    }
    return PMX__NONE;
}

/* A pipe's end has opened. Its poller has told what there is, so a FIFO waits
 * for its first writer: a read would take that for the end. */
static void pipe_opened(pmx_mux *mux, uint32_t slot, uint32_t told)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int only_sends = pmx__only_sends(c);
    if (!only_sends && told)
        c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
    pmx__opened(mux, slot);
    if (only_sends && c->rules->policy.half_open)
        pmx__say(mux, slot, PMX__SAY_ENDED);    /* its input has ended */
    if (only_sends && told & PMX__TO_THE_END)
        pmx__finish(mux, slot, EPIPE, 0);       /* its reader has gone */
}

/* TCP is connected, and TLS follows by the same deadline. */
static void shake(pmx_mux *mux, uint32_t slot, pmx__route *route,
                  const pmx__target *peer, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!error)
        error = pmx__tls_begin(mux, slot, peer, route->until);
    if (error) {
        pmx__keep_peer(c, peer);
        c->flags &= ~(uint32_t)PMX__CONNECTING;
    }
    free(route);
    if (error)
        pmx__finish(mux, slot, -error, 1);
    else
        pmx__tls_wait(mux, slot);
}

/* The socket of an attempt has become writable, or the time of the next attempt
 * has come. */
void pmx__connected(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__route *route = c->at.route;
    int error = 0, is_pipe = pmx__is_pipe(c);
    uint32_t told = c->flags & (PMX__CAN_READ | PMX__TO_THE_END);
    c->flags &= ~(uint32_t)(PMX__CAN_WRITE | PMX__CAN_READ | PMX__TO_THE_END);
    uint32_t found = is_pipe ? 0 : look_at_attempts(mux, c, &error);
    if (found == PMX__NONE) {
        if (error || mux->now >= route->next_at)
            dial(mux, slot, error);
        return;
    }
    pmx__take_socket(mux, c, route->attempts[found].sock, 0);
    if (!is_pipe)               /* sooner, it would bound connecting too */
        pmx__set_options(c->sock, &c->rules->policy);
    error = 0;
    if (route->header_size)
        error = pmx__queue_raw(mux, c, route->header, route->header_size);
    if (c->rules->transport->shakes) {
        shake(mux, slot, route, &route->attempts[found].to, error);
        return;
    }
    pmx__keep_peer(c, &route->attempts[found].to);
    free(route);
    c->flags &= ~(uint32_t)PMX__CONNECTING;
    if (error) {
        pmx__finish(mux, slot, -error, 1);
        return;
    }
    mux->stats->connected++;
    if (is_pipe) {
        pipe_opened(mux, slot, told);
    } else {
        /* one event reported all that has come meanwhile, the end too */
        c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
        pmx__opened(mux, slot);
    }
    if (c->flags & PMX__DONE)
        return;
    if (c->flags & PMX__CLOSING)
        pmx__due_to_close(mux, slot);
    pmx__settle(mux, slot);     /* queued output leaves in its turn */
}
