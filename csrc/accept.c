/* Listening, and accepting connections. */
#include "turn.h"

/* --- listening --------------------------------------------------------- */

/* Accept from the listener's socket from now on. A place that has rules is in
 * use. */
static int begin(pmx_mux *mux, pmx__listener *l, pmx__rules *rules,
                 uint64_t *id)
{
    int error = mux->poller->add(mux->poll_state, l->sock,
                                 pmx__listener_id(mux, l), PMX__IN);
    if (error)
        return error;
    error = l->is_given ? pmx__take_given(l->sock, &l->name) : 0;
    if (error) {
        mux->poller->del(mux->poll_state, l->sock);
        return error;
    }
    pmx__set_options(l->sock, &rules->policy);
    l->rules = rules;
    *id = pmx__listener_id(mux, l);
    if (!rules->listener)
        rules->listener = *id;
    mux->stats->listeners++;
    pmx__watch_listener(mux, l);
    return 0;
}

/* Listen by such rules. One reference to them is the listener's, or is dropped
 * if this fails. */
static int listen_by(pmx_mux *mux, const pmx__target *target,
                     pmx__rules *rules, int backlog, int reuse_port,
                     uint32_t mode, uint64_t *id)
{
    pmx__listener *l = rules ? pmx__listener_new(mux) : NULL;
    int error = l ? pmx__listen(target, backlog, reuse_port, mode, &l->sock,
                                &l->file)
                  : -ENOMEM;
    if (!error) {
        l->backlog = backlog > 0 ? (uint32_t)backlog : 0;
        error = pmx__local(l->sock, &l->name);
        if (!error)
            error = begin(mux, l, rules, id);
        if (!error)
            return 0;
        pmx__file_close(&l->file, pmx__file_of(target), 0);
        pmx__drop_sock(l->sock);
    }
    if (l)
        pmx__listener_free(mux, l);
    pmx__rules_drop(mux, rules);
    return error;
}

int pmx__do_listen(pmx_mux *mux, const pmx_endpoint *endpoint,
                   const pmx_policy *policy, int backlog, int reuse_port,
                   uint32_t mode, uint64_t *id)
{
    pmx__target target;
    if (!pmx__policy_valid(mux, policy))
        return -EINVAL;
    int error = pmx__resolve(endpoint, &target);
    if (error)
        return error;
    pmx__rules *rules =
        pmx__rules_new(mux, policy, pmx__transport_for(policy, &target));
    return listen_by(mux, &target, rules, backlog, reuse_port, mode, id);
}

int pmx__do_listen_beside(pmx_mux *mux, const pmx_endpoint *endpoint,
                          uint64_t beside, int backlog, int reuse_port,
                          uint64_t *id)
{
    pmx__target target;
    const pmx__listener *first = pmx__find_listener(mux, beside);
    int error = first ? pmx__resolve(endpoint, &target) : -ENOENT;
    if (error)
        return error;
    pmx__rules *rules = first->rules;
    if (pmx__transport_for(&rules->policy, &target) != rules->transport)
        return -EINVAL;
    rules->refs++;
    return listen_by(mux, &target, rules, backlog, reuse_port, 0, id);
}

int pmx__do_listen_on(pmx_mux *mux, int64_t number, const pmx_policy *policy,
                      uint64_t *id)
{
    pmx__target name;
    pmx_sock sock = (pmx_sock)number;
    if (!pmx__policy_valid(mux, policy))
        return -EINVAL;
    if (number < 0 || (int64_t)sock != number)
        return -EBADF;
    int error = pmx__listen_given(sock, &name);
    if (error)
        return error;
    pmx__rules *rules =
        pmx__rules_new(mux, policy, pmx__transport_for(policy, &name));
    pmx__listener *l = rules ? pmx__listener_new(mux) : NULL;
    if (!l) {
        pmx__rules_drop(mux, rules);
        return -ENOMEM;
    }
    l->sock = sock;
    l->name = name;
    l->is_given = 1;
    error = begin(mux, l, rules, id);
    if (error) {
        pmx__rules_drop(mux, rules);
        pmx__listener_free(mux, l);
    }
    return error;
}

void pmx__close_listener(pmx_mux *mux, pmx__listener *l, int forked)
{
    if (!forked)
        mux->poller->del(mux->poll_state, l->sock);
    pmx__file_close(&l->file, pmx__file_of(&l->name), forked);
    if (forked || l->is_given)
        pmx__drop_sock(l->sock);
    else
        pmx__close_sock(l->sock);
    pmx__rules_drop(mux, l->rules);
    mux->retiring -= !!l->last;
    pmx__listener_free(mux, l);
    mux->stats->listeners--;
}

int pmx__do_unlisten(pmx_mux *mux, uint64_t id)
{
    pmx__listener *l = pmx__find_listener(mux, id);
    if (!l)
        return -ENOENT;
    pmx__close_listener(mux, l, 0);
    return 0;
}

int pmx__do_listener_address(pmx_mux *mux, uint64_t id, pmx_address *name)
{
    pmx__listener *l = pmx__find_listener(mux, id);
    if (!l)
        return -ENOENT;
    mux->asked[0] = l->name;
    pmx__describe(&mux->asked[0], name);
    return 0;
}

/* --- accepting --------------------------------------------------------- */

static void watch_all(pmx_mux *mux)
{
    for (uint32_t i = 0; !mux->poller->edge && i < mux->listener_count; i++)
        if (mux->listeners[i].rules)
            pmx__watch_listener(mux, &mux->listeners[i]);
}

/* The system is short of something: accept again when a descriptor is closed,
 * or soon. */
static void pause_accepting(pmx_mux *mux, int error)
{
    if (!mux->accept_again) {
        mux->stats->accept_pauses++;
        mux->stats->shortages++;
        mux->stats->shortage = (uint64_t)-error;
        mux->notable = 1;
    }
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

/* A gift may come back. */
static int is_taken_up(const pmx_mux *mux, const pmx__rules *rules)
{
    uint32_t most = rules->policy.max_connections;
    return most && pmx__places_taken(rules) + pmx__gifts(mux) >= most;
}

/* Peers in the backlog may go to a worker with fewer. */
static int must_wait(pmx_mux *mux, const pmx__rules *rules, int is_given)
{
    return pmx__shakes_most(rules) ||
           (is_taken_up(mux, rules) && (is_given || !pmx__passes_on(mux, rules)));
}

/* True if the listener pauses, since the next peer has to wait for a place. */
static int pauses_at_limit(pmx_mux *mux, pmx__listener *l)
{
    int shakes = !is_taken_up(mux, l->rules);
    if (l->full || !must_wait(mux, l->rules, 0))
        return l->full;
    pmx__listener_state(mux, l, 1, 1);
    mux->stats->accept_pauses++;
    mux->stats->handshake_pauses += (uint64_t)shakes;
    *(shakes ? &mux->stats->busy : &mux->stats->full) = pmx__listener_id(mux, l);
    mux->notable = 1;
    pmx__watch_listener(mux, l);
    return 1;
}

/* Connections are gone, and their descriptors with them. */
static void make_room(pmx_mux *mux)
{
    for (uint32_t i = mux->full_listeners.head, next; i != PMX__NONE;
         i = next) {
        pmx__listener *l = &mux->listeners[i];
        next = l->next;
        if (!must_wait(mux, l->rules, 0)) {
            pmx__listener_state(mux, l, l->can_accept, 0);
            pmx__watch_listener(mux, l);
        }
    }
    mux->room = 0;
    resume_accepting(mux);
}

/* Make a connection of a peer that was accepted. */
static void admit(pmx_mux *mux, pmx__listener *l, pmx_sock sock,
                  const pmx__target *peer)
{
    uint32_t slot;
    if (mux->draining && l->rules->transport->shakes) {
        pmx__drop_sock(sock);   /* no handshake is waited for */
        mux->stats->refused++;
        return;
    }
    uint32_t proxy = l->rules->policy.proxy;
    if (proxy && !pmx__trusts(mux, proxy, peer, pmx__family(&l->name) == 1)) {
        pmx__header_refused(mux, peer, &l->name, EACCES);
        mux->stats->refused++;
        pmx__reset_sock(sock);
        return;
    }
    int counts = proxy ? 0 : pmx__peer_comes(mux, l->rules, peer);
    if (counts == -EACCES) {
        mux->stats->refused_per_peer++;
        mux->stats->refuser = pmx__listener_id(mux, l);
        mux->refused_peer = *peer;
        mux->notable = 1;
        pmx__drop_sock(sock);
        return;
    }
    int error = counts < 0 ? counts : pmx__conn_new(mux, l->rules, &slot);
    if (error)
        goto refuse;
    if (!PMX__HANDS_ON)
        pmx__set_options(sock, &l->rules->policy);
    pmx__conn *c = pmx__slot(mux, slot);
    int shakes = l->rules->transport->shakes;
    c->sock = sock;
    if (proxy)
        error = pmx__header_begin(c, peer);
    else if (shakes)
        error = pmx__tls_begin(mux, slot, peer, INT64_MAX);
    else
        pmx__keep_peer(c, peer);
    if ((c->task & PMX__FAMILY) == PMX__SCOPED && !c->at.peer6 && counts)
        error = -ENOMEM;        /* its end could not be counted */
    if (error) {
        pmx__conn_free(mux, slot);
        goto refuse;
    }
    error = mux->poller->add(mux->poll_state, sock, pmx__id(slot, c),
                             PMX__IN | PMX__OUT);
    if (error) {
        pmx__conn_free(mux, slot);
        goto refuse;
    }
    c->counts_for_peer = (unsigned)counts & 1;
    c->flags = PMX__IN_POLLER;
    pmx__count(mux, c);
    c->watched = PMX__WATCH_IN | PMX__WATCH_OUT;
    if (mux->draining == 2) {   /* drain_all() may have passed its slot */
        c->ready_next = mux->fresh;
        mux->fresh = slot;
    }
    l->rules->connections++;
    mux->stats->accepted++;
    if (!shakes && !proxy) {
        pmx__opened(mux, slot);
        return;
    }
    c->flags |= PMX__CONNECTING;
    l->rules->shaking += (uint32_t)shakes;
    if (proxy)
        pmx__set_due(mux, slot, PMX__CONNECT_DUE);
    else
        pmx__tls_wait(mux, slot);
    return;
refuse:
    if (counts > 0)
        pmx__peer_leaves(mux, l->rules, peer);
    pmx__drop_sock(sock);
    mux->stats->refused++;
    pause_accepting(mux, error);
}

/* True if limits hold, so that peers may have to wait in the backlog: a listener
 * that closes would reset them. */
static int may_wait(const pmx_mux *mux, const pmx__listener *l)
{
    return !mux->draining && !l->last;
}

/* True if there is room to report another connection as opened. */
static int has_room(const pmx_mux *mux, const pmx__listener *l)
{
    return mux->opened_count < mux->max_rows &&
           l->rules->service->report_count < mux->max_rows;
}

/* Accept from one listener until no peer waits; the number of tries. */
static uint32_t accept_from(pmx_mux *mux, pmx__listener *l, uint32_t budget)
{
    uint32_t tried = 0;
    while (l->can_accept && !l->full && !mux->accept_again &&
           tried < budget && has_room(mux, l)) {
        pmx_sock sock;
        pmx__target peer;
        peer.size = 0;          /* the system may not tell a name */
        peer.to.any.sa_family = AF_UNSPEC;
        if (may_wait(mux, l) && pauses_at_limit(mux, l))
            break;
        if (may_wait(mux, l) && is_taken_up(mux, l->rules) && pmx__gifts(mux))
            break;              /* one at a time, since it may come back */
        tried++;
        int error = pmx__accept(l->sock, &sock, &peer);
        switch (-error) {
        case 0:
            if (!mux->seats || !pmx__gives(mux, l, sock, &peer))
                admit(mux, l, sock, &peer);
            break;
        case EAGAIN:
            pmx__listener_state(mux, l, 0, 0);
            break;
        case ECONNABORTED: case EPROTO: case EPERM: case ENETDOWN:
        case EHOSTUNREACH: case ENETUNREACH: case ETIMEDOUT: case EINTR:
            break;              /* the peer is gone; the next one */
        default:                /* EMFILE, ENFILE, ENOMEM, ENOBUFS, ... */
            pause_accepting(mux, error);
            break;
        }
        if (l->last > 1 && !error && !mux->draining && --l->last == 1)
            pmx__listener_state(mux, l, 0, 0);  /* all that waited are in */
    }
    return tried;
}

/* Retired listeners whose backlog is empty close. While the mux drains they stay:
 * a peer that finds them closed knows that nothing later is read. */
static void close_retired(pmx_mux *mux)
{
    for (uint32_t i = 0; mux->retiring && i < mux->listener_count; i++) {
        pmx__listener *l = &mux->listeners[i];
        if (l->rules && l->last && !l->can_accept)
            pmx__close_listener(mux, l, 0);
    }
}

void pmx__accept_all(pmx_mux *mux)
{
    uint32_t budget = PMX__ACCEPTS;
    if (mux->room)
        make_room(mux);
    if (mux->accept_again && mux->now >= mux->accept_again)
        resume_accepting(mux);
    for (uint32_t i = PMX__NONE, last = mux->accepting.tail;
         i != last && budget && !mux->accept_again &&
         mux->opened_count < mux->max_rows;) {
        i = mux->accepting.head;
        pmx__listener *l = &mux->listeners[i];
        budget -= accept_from(mux, l, budget);
        if (l->can_accept && !l->full) {
            pmx__listener_state(mux, l, 1, 0);  /* next time the last */
            if (!has_room(mux, l))
                mux->crowded = 1;
        }
    }
    if (mux->accepting.head != PMX__NONE &&
        mux->opened_count == mux->max_rows)
        mux->crowded = 1;
    if (mux->retiring && !mux->draining)
        close_retired(mux);
}

/* Between two turns. What the caller has of the last one is not added to, as if it
 * were full: such a connection is reported by the next harvest. */
static void admit_late(pmx_mux *mux, pmx__listener *l, pmx_sock sock,
                       const pmx__target *peer)
{
    uint32_t opened = mux->opened_count, waiting = mux->waiting_count;
    mux->now = pmx__now();
    mux->opened_count = mux->waiting_count = mux->max_rows;
    admit(mux, l, sock, peer);
    mux->opened_count = opened;
    mux->waiting_count = waiting;
    if (mux->seats)
        pmx__tell_others(mux);
}

int pmx__do_gave(pmx_mux *mux, uint32_t was_sent)
{
    const pmx__gift *gift = pmx__in_hand(mux);
    if (!gift)
        return 0;
    pmx__listener *l = pmx__find_listener(mux, gift->listener);
    if (!was_sent)
        pmx__came(mux, gift->seat);
    if (!was_sent && l) {
        admit_late(mux, l, gift->sock, &gift->peer);
        return 0;
    }
    pmx__drop_sock(gift->sock);
    mux->stats->given_away += was_sent != 0;
    mux->room = 1;
    return 0;
}

int pmx__do_given(pmx_mux *mux, pmx_gift *gift)
{
    (void)pmx__do_gave(mux, 1);
    const pmx__gift *next = pmx__next_gift(mux);
    if (!next)
        return 0;
    *gift = (pmx_gift){.sock = (int64_t)next->sock, .listener = next->listener,
                       .seat = next->seat};
    mux->asked[0] = next->peer;
    pmx__describe(&mux->asked[0], &gift->peer);
    return 1;
}

int pmx__do_admit(pmx_mux *mux, int64_t number, uint64_t listener,
                  const pmx_address *peer, uint32_t seat)
{
    pmx_sock sock = (pmx_sock)number;
    pmx__listener *l = pmx__find_listener(mux, listener);
    pmx__target name = {.size = 0};
    name.to.any.sa_family = AF_UNSPEC;
    if (l && may_wait(mux, l) && must_wait(mux, l->rules, 1)) {
        (void)pauses_at_limit(mux, l);  /* so that it shows that one waits */
        return -EAGAIN;
    }
    pmx__came(mux, seat);
    if (number < 0 || (int64_t)sock != number)
        return -EBADF;
    if (!l)
        return -ENOENT;
    if (peer->family && pmx__target_of(peer, &name))
        return -EINVAL;
    admit_late(mux, l, sock, &name);
    return 0;
}

/* No peer is to come any more. A listener of the mux's own accepts those that
 * wait, whom its close would reset. A given one closes at once: other processes
 * accept from it too, so that the peers in its backlog are theirs. */
static void last_call(pmx_mux *mux)
{
    for (uint32_t i = 0; i < mux->listener_count; i++) {
        pmx__listener *l = &mux->listeners[i];
        if (l->rules && l->is_given)
            pmx__close_listener(mux, l, 0);
        else if (l->rules)
            pmx__listener_state(mux, l, 1, 0);
    }
}

void pmx__do_drain(pmx_mux *mux)
{
    if (mux->draining)
        return;
    mux->draining = 1;
    last_call(mux);
}

/* Where more and more peers come, those that waited at the call are in when as
 * many have been accepted as may wait: the system accepts in order. */
void pmx__do_retire(pmx_mux *mux)
{
    last_call(mux);
    for (uint32_t i = 0; i < mux->listener_count; i++) {
        pmx__listener *l = &mux->listeners[i];
        if (!l->rules || l->last)
            continue;
        l->last = l->backlog + 2;       /* Linux lets one more wait */
        mux->retiring++;
    }
}
