/*
 * A connection leaves its mux with its socket open, and goes on in another one,
 * of this process or of another.
 *
 * All that the next mux cannot ask the socket moves: input that is in no row
 * yet, output that the kernel has not taken, whether reading is paused, which
 * ends of the stream have been said, how long its clocks have run, the peer's
 * name. What a poller tells again is not moved. A connection whose end is on
 * the way stays, and so does one whose transport or caller has a part of it.
 *
 * A peer may go while its connection moves. So attaching asks the socket
 * nothing that only a connected one answers: the input is delivered, and then
 * the poller tells of the end.
 */
#include "turn.h"

#include <string.h>

enum {
    /* the connection has ended, is closing, or is lost */
    ENDS = PMX__CLOSING | PMX__DONE | PMX__OUTGOING |
           PMX__DISOWNED | PMX__LOST | PMX__LIMITED | PMX__ENDING |
           PMX__DROPPING | PMX__SEND_FAILED | PMX__RESET_LAST | PMX__UNACKED,
    ANY_STATE = PMX_WAS_PAUSED | PMX_WAS_BLOCKED | PMX_WAS_ENDED |
                PMX_WAS_SHUT | PMX_WAS_SWITCHED
};

/* --- leaving ----------------------------------------------------------- */

/* True if a connection that has switched to the framing cannot move: its
 * parameters mean nothing in another process. */
static int is_local(const pmx_framing *f)
{
    const pmx__framing *framing = pmx__framing_of(f);
    return !framing || framing->is_local;
}

static int has_switched_to_local(const pmx__conn *c)
{
    const pmx_policy *is = &c->rules->policy;
    return c->rules->first &&
           (is_local(&is->framing) ||
            (is->replies.other && is_local(&is->replies)));
}

/* 0: it can move. -EAGAIN: not now. -ENOTSUP: never. */
static int may_move(const pmx_mux *mux, const pmx__conn *c)
{
    uint32_t f = c->flags;
    if (f & ENDS || c->error || !c->rules->transport->moves || mux->draining ||
        has_switched_to_local(c))
        return -ENOTSUP;
    if (f & PMX__ENDED && (!c->rules->policy.half_open || c->carry))
        return -ENOTSUP;
    if (mux->gathering || c->dirty != PMX__NONE ||
        f & (PMX__CONNECTING | PMX__IN_REPORT | PMX__HELD) || c->say_blocked || c->owed ||
        c->task & (uint8_t)~PMX__FAMILY)
        return -EAGAIN;
    if (c->carry && !c->carry->size)
        return -EAGAIN;         /* the caller has a part of a frame */
    return f & PMX__SEND_ENDED && !(f & PMX__SHUT) ? -EAGAIN : 0;
}

/* How long the idle clock has run; while it stands, `since` says so. */
static int64_t idle_age(const pmx_mux *mux, const pmx__conn *c)
{
    if (c->rules->policy.idle_ns < 0)
        return 0;
    int64_t age = c->flags & PMX__PAUSED ? c->since : mux->now - c->since;
    return age > 0 ? age : 0;
}

static int64_t frame_age(const pmx_mux *mux, const pmx__conn *c)
{
    if (!c->carry || c->flags & PMX__FRAMES)
        return 0;
    int64_t age = c->flags & PMX__MAY_BRING
                      ? pmx__frame_clock(mux) - c->carry->since
                      : c->carry->since;
    return age > 0 ? age : 0;
}

static uint32_t state_of(const pmx__conn *c)
{
    uint32_t f = c->flags;
    return (f & PMX__PAUSED ? PMX_WAS_PAUSED : 0u) |
           (f & PMX__OVER_WATER ? PMX_WAS_BLOCKED : 0u) |
           (f & PMX__ENDED ? PMX_WAS_ENDED : 0u) |
           (f & PMX__SHUT ? PMX_WAS_SHUT : 0u) |
           (c->rules->first ? PMX_WAS_SWITCHED : 0u);
}

int pmx__do_held(pmx_mux *mux, uint64_t id, pmx_moving *m)
{
    const pmx__conn *c = pmx__find(mux, id);
    if (!c)
        return -ENOENT;
    int error = may_move(mux, c);
    if (error)
        return error;
    mux->now = pmx__now();
    memset(m, 0, sizeof *m);
    m->input_size = c->carry ? c->carry->size : 0;
    m->output_size = c->queue ? c->queue->size : 0;
    m->idle_ns = idle_age(mux, c);
    m->frame_ns = frame_age(mux, c);
    m->state = state_of(c);
    m->listener = pmx__counted_by(c)->listener;
    m->framing = c->rules->policy.framing;
    m->replies = c->rules->policy.replies;
    pmx__proxy *proxy = pmx__proxy_at(c);
    if (proxy) {
        m->proxy = pmx__header_of(proxy);
        m->proxy_size = proxy->size;
        pmx__balancer(proxy, &mux->asked[0]);
    } else {
        pmx__peer(c, &mux->asked[0]);
    }
    pmx__describe(&mux->asked[0], &m->peer);
    return 0;
}

int64_t pmx__do_detach(pmx_mux *mux, uint64_t id, void *input, void *output)
{
    pmx__conn *c = pmx__find(mux, id);
    uint32_t slot = (uint32_t)id;
    if (!c)
        return -ENOENT;
    int error = may_move(mux, c);
    if (error)
        return error;
    pmx__rules *rules = pmx__counted_by(c);
    if (c->counts_for_peer) {
        pmx__target peer;
        pmx__peer(c, &peer);
        pmx__peer_leaves(mux, rules, &peer);
        c->counts_for_peer = 0;
    }
    if (c->carry)
        memcpy(input, c->carry->data, (size_t)c->carry->size);
    pmx__carry_drop(mux, c);
    pmx__queue_take(mux, c, output);
    mux->poller->del(mux->poll_state, c->sock);
    pmx__leave_service(mux, slot);
    pmx__undue(mux, slot);
    int64_t sock = (int64_t)c->sock;
    mux->stats->connections--;
    mux->stats->moved_out++;
    pmx__forget_state(mux, c);
    if (rules->connections)             /* it is a listener's */
        rules->connections--;
    mux->room = 1;
    pmx__conn_free(mux, slot);
    return sock;
}

/* --- arriving ---------------------------------------------------------- */

/* A clock has run for no longer than that. So no time that is reckoned with its
 * age overflows. */
#define MOST_AGE (INT64_C(1) << 61)

static int is_sound(const pmx_moving *m)
{
    if (m->state & ~(uint32_t)ANY_STATE || m->idle_ns < 0 || m->frame_ns < 0 ||
        m->idle_ns > MOST_AGE || m->frame_ns > MOST_AGE ||
        m->input_size > INT32_MAX || m->output_size > SIZE_MAX / 2 ||
        (m->state & PMX_WAS_ENDED && m->input_size) ||
        (m->state & PMX_WAS_SHUT && m->output_size))
        return 0;
    return !(m->state & PMX_WAS_SWITCHED) ||
           !(is_local(&m->framing) ||
             (m->replies.other && is_local(&m->replies)));
}

/* The rules of the connection, with a reference that is the caller's. */
static int rules_for(pmx_mux *mux, const pmx__listener *l,
                     const pmx_policy *policy, const pmx_moving *m,
                     const pmx__target *peer, pmx__rules **rules)
{
    pmx__rules *is = l ? l->rules : NULL;
    const pmx_policy *common = l ? &is->policy : policy;
    if (!pmx__policy_valid(mux, common) ||
        (l && is->transport != pmx__transport_for(common, peer)))
        return -EINVAL;
    if (!pmx__transport_for(common, peer)->moves)
        return -ENOTSUP;
    if (l)
        is->refs++;
    else
        is = pmx__rules_reused(mux, common, pmx__transport_for(common, peer));
    if (is && m->state & PMX_WAS_SWITCHED) {
        pmx_policy switched = is->policy;
        pmx__rules *first = is;
        switched.framing = m->framing;
        switched.replies = m->replies;
        if (!pmx__policy_valid(mux, &switched)) {
            pmx__rules_drop(mux, first);
            return -EINVAL;
        }
        is = pmx__rules_switched(mux, first, &switched);
        pmx__rules_drop(mux, first);
    }
    *rules = is;
    return is ? 0 : -ENOMEM;
}

/* Give the connection the bytes that it held. */
static int fill(pmx_mux *mux, pmx__conn *c, const pmx_moving *m)
{
    size_t input = (size_t)m->input_size, output = (size_t)m->output_size;
    pmx_frame frame;
    if (output && pmx__queue_copy(mux, c, m->output, output))
        return -ENOMEM;
    if (!input)
        return 0;
    if (pmx__arena_reserve(mux, &c->carry, input, input))
        return -ENOMEM;
    memcpy(c->carry->data, m->input, input);
    c->carry->size = input;
    c->carry->since = m->frame_ns;      /* until the connection is read */
    if (c->rules->framing->next(&c->rules->policy.framing, c->carry->data,
                                input, &c->carry->scanned, &frame)) {
        c->flags |= PMX__FRAMES;        /* or bytes that are none */
        c->carry->scanned = 0;
        c->carry->since = 0;
    }
    return 0;
}

/* The connection is open: its clocks and lists. */
static void go_on(pmx_mux *mux, uint32_t slot, const pmx_moving *m)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__PAUSED)
        c->since = m->idle_ns;  /* the time that its clock has run */
    else
        pmx__due_since(mux, slot, PMX__IDLE_DUE, mux->now - m->idle_ns);
    if (c->queue && c->queue->size > c->rules->policy.high_water &&
        !(c->flags & PMX__OVER_WATER))
        pmx__over_water(mux, slot);
    pmx__watch(mux, slot);
    pmx__settle(mux, slot);
    if (c->flags & PMX__ENDED && !c->rules->policy.half_open)
        pmx__begin_close(mux, slot, 0);
    if (c->flags & PMX__DONE)
        return;
    pmx__watch(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

int pmx__do_attach(pmx_mux *mux, int64_t number, uint64_t listener,
                   const pmx_policy *policy, const pmx_moving *m, uint64_t *id)
{
    pmx_sock sock = (pmx_sock)number;
    const pmx__listener *l = NULL;
    pmx__rules *rules = NULL;
    pmx__target peer;
    uint32_t slot;
    if (number < 0 || (int64_t)sock != number)
        return -EBADF;
    if (mux->draining)
        return -ECANCELED;
    if (!is_sound(m) || pmx__target_of(&m->peer, &peer))
        return -EINVAL;
    if (listener && !(l = pmx__find_listener(mux, listener)))
        return -ENOENT;
    int error = rules_for(mux, l, policy, m, &peer, &rules);
    if (error)
        return error;
    mux->now = pmx__now();
    error = pmx__conn_new(mux, rules, &slot);
    pmx__rules_drop(mux, rules);        /* the connection keeps them */
    if (error)
        return error;
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__rules *counted = pmx__counted_by(c);
    if (m->proxy_size)
        error = pmx__header_again(c, &peer, m->proxy, m->proxy_size);
    else
        pmx__keep_peer(c, &peer);
    if ((c->task & PMX__FAMILY) == PMX__SCOPED && !c->at.peer6)
        error = -ENOMEM;
    if (!error)
        error = fill(mux, c, m);
    if (!error)
        error = mux->poller->add(mux->poll_state, sock, pmx__id(slot, c),
                                 PMX__IN | PMX__OUT);
    if (!error) {
        error = pmx__prepare(sock);
        if (error)
            mux->poller->del(mux->poll_state, sock);
    }
    if (error) {
        pmx__queue_take(mux, c, NULL);
        pmx__carry_drop(mux, c);
        pmx__conn_free(mux, slot);
        return error;
    }
    pmx__set_options(sock, &c->rules->policy);
    /* a peer that has max_per_peer already is not refused, nor counted */
    pmx__peer(c, &peer);
    c->counts_for_peer = l && pmx__peer_comes(mux, counted, &peer) > 0;
    c->sock = sock;
    c->watched = PMX__WATCH_IN | PMX__WATCH_OUT;
    c->flags |= PMX__IN_POLLER | PMX__CAN_WRITE |
                (m->state & PMX_WAS_PAUSED ? PMX__PAUSED : 0u) |
                (m->state & PMX_WAS_BLOCKED ? PMX__OVER_WATER : 0u) |
                (m->state & PMX_WAS_ENDED ? PMX__ENDED : 0u) |
                (m->state & PMX_WAS_SHUT ? PMX__SHUT | PMX__SEND_ENDED : 0u);
    mux->stats->paused += !!(c->flags & PMX__PAUSED);
    mux->stats->over += !!(c->flags & PMX__OVER_WATER);
    pmx__count(mux, c);
    counted->connections += !!l;
    mux->stats->moved_in++;
    *id = pmx__id(slot, c);
    go_on(mux, slot, m);
    return 0;
}
