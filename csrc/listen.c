/* How connections come about: listeners accept, connects go out. */
#include "mux.h"

#include <stdlib.h>
#include <string.h>

enum { INDEX_BITS = 20 };

static uint64_t listener_id(const pmx_mux *mux, const pmx__listener *l)
{
    return PMX__LISTENER_TAG | (uint64_t)l->generation << INDEX_BITS |
           (uint64_t)(l - mux->listeners);
}

static pmx__listener *find(const pmx_mux *mux, uint64_t id)
{
    uint32_t index = (uint32_t)(id & ((1u << INDEX_BITS) - 1));
    if (!(id & PMX__LISTENER_TAG) || index >= mux->listener_count)
        return NULL;
    pmx__listener *l = &mux->listeners[index];
    return l->rules && listener_id(mux, l) == id ? l : NULL;
}

/* --- listening --------------------------------------------------------- */

static pmx__listener *free_place(pmx_mux *mux)
{
    for (uint32_t i = 0; i < mux->listener_count; i++)
        if (!mux->listeners[i].rules)
            return &mux->listeners[i];
    if (mux->listener_count >> INDEX_BITS)
        return NULL;
    pmx__listener *grown = sys_realloc(
        mux->listeners, (mux->listener_count + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    mux->listeners = grown;
    memset(&grown[mux->listener_count], 0, sizeof *grown);
    return &grown[mux->listener_count++];
}

static int policy_valid(const pmx_policy *policy)
{
    return pmx__framing_valid(&policy->framing) &&
           policy->framing.max_size <= INT32_MAX;
}

int pmx_listen(pmx_mux *mux, const pmx_endpoint *endpoint,
               const pmx_policy *policy, int backlog, int reuse_port,
               uint32_t mode, uint64_t *id)
{
    pmx__target target;
    if (!policy_valid(policy))
        return -EINVAL;
    int error = pmx__resolve(endpoint, &target);
    if (error)
        return error;
    pmx__listener *l = free_place(mux);
    pmx__rules *rules = l ? pmx__rules_for(mux, policy, 0) : NULL;
    if (!rules)
        return -ENOMEM;
    uint32_t generation = l->generation + 1;
    memset(l, 0, sizeof *l);
    l->generation = generation;
    error = pmx__listen(&target, backlog, reuse_port, mode, &l->sock);
    if (error)
        goto fail_listen;
    pmx__keep_alive(l->sock, policy);
    error = pmx__local(l->sock, &l->name);
    if (error)
        goto fail_add;
    const char *path = pmx__file_of(&target);
    l->has_file = path && !pmx__file_identity(path, l->identity);
    error = mux->poller->add(mux->poll_state, l->sock, listener_id(mux, l),
                             PMX__IN);
    if (error)
        goto fail_add;
    l->rules = rules;
    *id = listener_id(mux, l);
    mux->stats.listeners++;
    pmx__watch_listener(mux, l);
    return 0;
fail_add:
    if (l->has_file)
        pmx__unlink_if(pmx__file_of(&target), l->identity);
    pmx__drop_sock(l->sock);
fail_listen:
    pmx__rules_drop(mux, rules);
    return error;
}

void pmx__close_listener(pmx_mux *mux, pmx__listener *l, int forked)
{
    const char *path = pmx__file_of(&l->name);
    if (forked) {
        pmx__drop_sock(l->sock);
    } else {
        mux->poller->del(mux->poll_state, l->sock);
        if (l->has_file && path)
            pmx__unlink_if(path, l->identity);
        pmx__close_sock(l->sock);
    }
    pmx__rules_drop(mux, l->rules);
    l->rules = NULL;
    mux->stats.listeners--;
}

int pmx_unlisten(pmx_mux *mux, uint64_t id)
{
    pmx__listener *l = find(mux, id);
    if (!l)
        return -ENOENT;
    pmx__close_listener(mux, l, 0);
    return 0;
}

int pmx_listener_address(pmx_mux *mux, uint64_t id, pmx_address *name)
{
    pmx__listener *l = find(mux, id);
    if (!l)
        return -ENOENT;
    mux->asked[0] = l->name;
    pmx__describe(&mux->asked[0], name);
    return 0;
}

static uint8_t family_of(int family)
{
    return family == AF_INET || family == AF_INET6 ? 6 : 1;
}

/* --- accepting --------------------------------------------------------- */

/* Whether a turn need not wait, since somebody may be accepted. */
int pmx__accepting(const pmx_mux *mux)
{
    if (mux->accept_again)
        return 0;
    for (uint32_t i = 0; i < mux->listener_count; i++) {
        const pmx__listener *l = &mux->listeners[i];
        if (l->rules && l->can_accept && !l->full)
            return 1;
    }
    return 0;
}

void pmx__may_accept(pmx_mux *mux, uint64_t id)
{
    pmx__listener *l = find(mux, id);
    if (l)
        l->can_accept = 1;
}

void pmx__watch_listener(pmx_mux *mux, pmx__listener *l)
{
    if (mux->poller->edge)
        return;
    int wanted = !l->full && !mux->accept_again;
    mux->poller->mod(mux->poll_state, l->sock, listener_id(mux, l),
                     wanted ? PMX__IN : PMX__DROP);
}

static void watch_all(pmx_mux *mux)
{
    for (uint32_t i = 0; i < mux->listener_count; i++)
        if (mux->listeners[i].rules)
            pmx__watch_listener(mux, &mux->listeners[i]);
}

/* Nothing to accept with: try again when a descriptor is closed, or soon. */
static void pause_accepting(pmx_mux *mux)
{
    if (!mux->accept_again)
        mux->stats.accept_pauses++;
    mux->accept_again = mux->now + PMX__RETRY_NS;
    watch_all(mux);
}

static void resume_accepting(pmx_mux *mux)
{
    if (!mux->accept_again)
        return;
    mux->accept_again = 0;
    watch_all(mux);
}

/* A connection under these rules is gone, and its descriptor with it. */
void pmx__room_again(pmx_mux *mux, pmx__rules *rules)
{
    for (uint32_t i = 0; i < mux->listener_count; i++) {
        pmx__listener *l = &mux->listeners[i];
        if (l->rules == rules && l->full) {
            l->full = 0;
            pmx__watch_listener(mux, l);
        }
    }
    resume_accepting(mux);
}

static void admit(pmx_mux *mux, pmx__listener *l, pmx_sock sock,
                  const pmx__target *peer)
{
    uint32_t slot;
    int error = pmx__conn_new(mux, l->rules, &slot);
    if (error)
        goto refuse;
    if (!PMX__HANDS_ON)
        pmx__keep_alive(sock, &l->rules->is);
    pmx__conn *c = pmx__slot(mux, slot);
    c->sock = sock;
    c->family = family_of(l->name.to.any.sa_family);
    if (peer->to.any.sa_family == AF_INET) {
        c->family = 4;
        c->ip4 = peer->to.v4.sin_addr.s_addr;
        c->port4 = peer->to.v4.sin_port;
    } else if (pmx__is_named(peer)) {
        c->at.peer = sys_malloc(sizeof *peer);
        if (c->at.peer)
            *c->at.peer = *peer;
    }
    error = mux->poller->add(mux->poll_state, sock, pmx__id(slot, c),
                             PMX__IN | PMX__OUT);
    if (error) {
        pmx__conn_free(mux, slot);
        goto refuse;
    }
    c->flags = PMX__LISTED | PMX__COUNTED | PMX__WATCH_IN | PMX__WATCH_OUT;
    l->rules->connections++;
    mux->stats.accepted++;
    pmx__opened(mux, slot);
    return;
refuse:
    pmx__drop_sock(sock);
    mux->stats.refused++;
    pause_accepting(mux);
}

/* Accept from one listener until nobody waits; how many were tried. */
static uint32_t accept_from(pmx_mux *mux, pmx__listener *l, uint32_t budget)
{
    uint32_t tried = 0;
    while (l->can_accept && !l->full && !mux->accept_again &&
           tried < budget && mux->opened_count < mux->max_rows) {
        pmx_sock sock;
        pmx__target peer;
        const pmx_policy *is = &l->rules->is;
        if (is->max_connections && !mux->draining &&
            l->rules->connections >= is->max_connections) {
            l->full = 1;
            mux->stats.accept_pauses++;
            pmx__watch_listener(mux, l);
            break;
        }
        tried++;
        int error = pmx__accept(l->sock, &sock, &peer);
        switch (-error) {
        case 0:
            admit(mux, l, sock, &peer);
            break;
        case EAGAIN:
            l->can_accept = 0;
            break;
        case ECONNABORTED: case EPROTO: case EPERM: case ENETDOWN:
        case EHOSTUNREACH: case ENETUNREACH: case ETIMEDOUT: case EINTR:
            break;              /* that peer is gone; the next, please */
        default:                /* EMFILE, ENFILE, ENOMEM, ENOBUFS, ... */
            pause_accepting(mux);
            break;
        }
    }
    if (l->can_accept && mux->opened_count == mux->max_rows)
        mux->capped = 1;
    return tried;
}

void pmx__accept_all(pmx_mux *mux)
{
    uint32_t budget = PMX__ACCEPTS;
    if (mux->accept_again && mux->now >= mux->accept_again)
        resume_accepting(mux);
    if (!mux->stats.listeners)
        return;
    for (uint32_t n = mux->listener_count; n; n--) {
        uint32_t index = mux->next_listener++ % mux->listener_count;
        pmx__listener *l = &mux->listeners[index];
        if (!l->rules)
            continue;
        budget -= accept_from(mux, l, budget);
    }
}

void pmx_drain(pmx_mux *mux)
{
    if (mux->draining)
        return;
    mux->draining = 1;
    for (uint32_t i = 0; i < mux->listener_count; i++)
        mux->listeners[i].can_accept = 1, mux->listeners[i].full = 0;
}

/* --- connecting -------------------------------------------------------- */

/* Try the route's next targets until one is on its way; when none is, the
 * connection ends with the last error. */
static void dial(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__route *route = c->at.route;
    while (route->next < route->count) {
        pmx__target *target = &route->targets[route->next];
        int dialled = pmx__dial(target, &c->sock);
        if (dialled == -EAGAIN) {       /* a full backlog, say: later */
            route->refused = 1;
            mux->redial_at = mux->now + PMX__REDIAL_NS;
            return;
        }
        if (!dialled || dialled == -EINPROGRESS) {
            int added = mux->poller->add(mux->poll_state, c->sock,
                                         pmx__id(slot, c),
                                         PMX__IN | PMX__OUT);
            if (!added) {
                c->flags |= PMX__LISTED | PMX__WATCH_IN | PMX__WATCH_OUT;
                pmx__watch(mux, slot);
                if (!dialled) {         /* reported by the next harvest */
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

int pmx_connect(pmx_mux *mux, const pmx_endpoint *endpoints, uint32_t count,
                const pmx_policy *policy, uint64_t *id)
{
    if (!policy_valid(policy) || !count || count > 1024)
        return -EINVAL;
    pmx__route *route =
        sys_calloc(1, sizeof *route + count * sizeof *route->targets);
    if (!route)
        return -ENOMEM;
    uint32_t slot;
    int error = 0;
    route->count = count;
    for (uint32_t i = 0; i < count && !error; i++)
        error = pmx__resolve(&endpoints[i], &route->targets[i]);
    if (error)
        goto fail;
    pmx__rules *rules = pmx__rules_for(mux, policy, 1);
    error = rules ? pmx__conn_new(mux, rules, &slot) : -ENOMEM;
    if (rules)
        pmx__rules_drop(mux, rules);    /* the connection keeps them */
    if (error)
        goto fail;
    mux->now = pmx__now();
    pmx__conn *c = pmx__slot(mux, slot);
    c->at.route = route;
    c->flags = PMX__CONNECTING;
    *id = pmx__id(slot, c);
    pmx__set_due(mux, slot, PMX__CONNECT_DUE);
    dial(mux, slot, 0);
    /* a descriptor that cannot be had is the caller's to know, now */
    if (c->flags & PMX__DONE &&
        (c->error == EMFILE || c->error == ENFILE || c->error == ENOSPC ||
         c->error == ENOMEM || c->error == ENOBUFS)) {
        error = -c->error;
        mux->stats.closed--;
        c->flags |= PMX__DISOWNED;
    }
    return error;
fail:
    free(route);
    return error;
}

/* The poller says that a dialled socket has become writable. */
void pmx__connected(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (mux->opened_count == mux->max_rows) {
        mux->capped = 1;        /* no row to report it in: next turn */
        return;
    }
    int told = !(c->flags & PMX__CLOSING);      /* else it is the closing's */
    int error = told && c->error ? -c->error : pmx__dialled(c->sock);
    if (told)
        c->error = 0;
    c->flags &= ~(uint32_t)(PMX__CAN_WRITE | PMX__CAN_READ);
    if (error == -ENOTCONN)
        return;                 /* not yet */
    if (error) {
        mux->poller->del(mux->poll_state, c->sock);
        c->flags &= ~(uint32_t)PMX__LISTED;
        pmx__drop_sock(c->sock);
        c->sock = PMX__NO_SOCK;
        c->at.route->next++;
        dial(mux, slot, -error);
        return;
    }
    pmx__target *peer = sys_malloc(sizeof *peer);
    pmx__target *target = &c->at.route->targets[c->at.route->next];
    c->family = family_of(target->to.any.sa_family);
    if (peer)
        *peer = *target;
    free(c->at.route);
    c->at.peer = peer;
    c->flags &= ~(uint32_t)PMX__CONNECTING;
    pmx__keep_alive(c->sock, &c->rules->is);    /* not sooner: it would bound
                                                   connecting too */
    /* what has come meanwhile, its end too, had this one event */
    c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
    mux->stats.connected++;
    pmx__opened(mux, slot);
    if (c->flags & PMX__CLOSING)
        pmx__set_due(mux, slot, PMX__CLOSE_DUE);
    if (c->queue)
        pmx__flush(mux, slot);
    else
        pmx__settle(mux, slot);
    if (!(c->flags & PMX__DONE) && mux->draining == 2)
        pmx__limit_input(mux, slot);
}

void pmx__redial(pmx_mux *mux)
{
    if (!mux->redial_at || mux->now < mux->redial_at)
        return;
    mux->redial_at = 0;
    for (uint32_t slot = 0; slot < mux->slots; slot++) {
        pmx__conn *c = pmx__slot(mux, slot);
        if (c->generation & 1 && c->flags & PMX__CONNECTING &&
            !(c->flags & PMX__DONE) && c->at.route->refused) {
            c->at.route->refused = 0;
            dial(mux, slot, 0);
        }
    }
}
