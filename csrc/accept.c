/* Listeners, and whom they accept. */
#include "core.h"

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

int pmx__do_listen(pmx_mux *mux, const pmx_endpoint *endpoint,
                   const pmx_policy *policy, int backlog, int reuse_port,
                   uint32_t mode, uint64_t *id)
{
    pmx__target target;
    if (!pmx__policy_valid(policy))
        return -EINVAL;
    int error = pmx__resolve(endpoint, &target);
    if (error)
        return error;
    pmx__listener *l = free_place(mux);
    pmx__rules *rules = l ? pmx__rules_for(mux, policy, pmx__via(&target), 0) : NULL;
    if (!rules)
        return -ENOMEM;
    uint32_t generation = l->generation + 1;
    memset(l, 0, sizeof *l);
    l->generation = generation;
    error = pmx__listen(&target, backlog, reuse_port, mode, &l->sock, &l->file);
    if (error)
        goto fail_listen;
    pmx__keep_alive(l->sock, policy);
    error = pmx__local(l->sock, &l->name);
    if (error)
        goto fail_add;
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
    pmx__file_close(&l->file, pmx__file_of(&target), 0);
    pmx__drop_sock(l->sock);
fail_listen:
    pmx__rules_drop(mux, rules);
    return error;
}

void pmx__close_listener(pmx_mux *mux, pmx__listener *l, int forked)
{
    if (!forked)
        mux->poller->del(mux->poll_state, l->sock);
    pmx__file_close(&l->file, pmx__file_of(&l->name), forked);
    if (forked)
        pmx__drop_sock(l->sock);
    else
        pmx__close_sock(l->sock);
    pmx__rules_drop(mux, l->rules);
    l->rules = NULL;
    mux->stats.listeners--;
}

int pmx__do_unlisten(pmx_mux *mux, uint64_t id)
{
    pmx__listener *l = find(mux, id);
    if (!l)
        return -ENOENT;
    pmx__close_listener(mux, l, 0);
    return 0;
}

int pmx__do_listener_address(pmx_mux *mux, uint64_t id, pmx_address *name)
{
    pmx__listener *l = find(mux, id);
    if (!l)
        return -ENOENT;
    mux->asked[0] = l->name;
    pmx__describe(&mux->asked[0], name);
    return 0;
}

/* --- accepting --------------------------------------------------------- */

static int is_full(const pmx_mux *mux, const pmx__listener *l)
{
    const pmx__rules *rules = l->rules;
    return l->full && !(mux->room && pmx__places_taken(rules) <
                                         rules->is.max_connections);
}

/* Whether a turn need not wait, since somebody may be accepted. */
int pmx__accepting(const pmx_mux *mux)
{
    if (mux->accept_again && !mux->room)
        return 0;
    for (uint32_t i = 0; i < mux->listener_count; i++) {
        const pmx__listener *l = &mux->listeners[i];
        if (l->rules && l->can_accept && !is_full(mux, l))
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

/* Connections are gone, and their descriptors with them. */
static void make_room(pmx_mux *mux)
{
    for (uint32_t i = 0; i < mux->listener_count; i++) {
        pmx__listener *l = &mux->listeners[i];
        if (l->rules && l->full && !is_full(mux, l)) {
            l->full = 0;
            pmx__watch_listener(mux, l);
        }
    }
    mux->room = 0;
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
    c->family = pmx__family(&l->name);
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
            pmx__places_taken(l->rules) >= is->max_connections) {
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
    if (mux->room)
        make_room(mux);
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

void pmx__do_drain(pmx_mux *mux)
{
    if (mux->draining)
        return;
    mux->draining = 1;
    for (uint32_t i = 0; i < mux->listener_count; i++)
        mux->listeners[i].can_accept = 1, mux->listeners[i].full = 0;
}

