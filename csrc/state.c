/*
 * What a connection is, from its flags, and what is told of it: to the poller,
 * to the user. Its states:
 *
 *   connecting -> open -> ending -> closing -> done -> reported, freed
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

/* --- what it is, from its flags -------------------------------------------- */

int pmx__blocked(const pmx__conn *c)
{
    if (c->flags & PMX__CLOSING)
        return 0;
    return c->flags & PMX__PAUSED ||
           (c->flags & (PMX__HELD | PMX__OVER_WATER) && !(c->flags & PMX__LOST));
}

/* Nobody reads it, nor has frames of it to come: a lost peer is the end. */
int pmx__nobody_reads(const pmx__conn *c)
{
    return c->flags & PMX__PAUSED ||
           (c->flags & PMX__ENDED && !(c->flags & PMX__FRAMES));
}

int pmx__has_work(const pmx__conn *c)
{
    if (c->flags & PMX__DONE)
        return 0;
    if (c->flags & PMX__CONNECTING)
        return !!(c->flags & PMX__CAN_WRITE);
    if (c->queue && c->flags & PMX__CAN_WRITE)
        return 1;
    return (c->flags & PMX__FRAMES && !pmx__blocked(c)) ||
           (c->flags & PMX__CAN_READ && pmx__reads(c));
}

/* Whether it is received from, be it to drop what comes. */
int pmx__reads(const pmx__conn *c)
{
    if (c->flags & PMX__DROPPING)
        return !(c->flags & PMX__FRAMES);
    return !(c->flags & PMX__ENDED) && !pmx__blocked(c);
}

/* --- what is watched --------------------------------------------------- */

/* Tell a level-triggered poller what is wanted now, and keep count of who may
 * bring messages. To be called whenever a connection's state has changed. */
void pmx__watch(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    uint32_t f = c->flags;
    int source = !(f & (PMX__CONNECTING | PMX__DONE | PMX__ENDED |
                        PMX__CLOSING)) && !pmx__blocked(c);
    if (source != !!(f & PMX__MAY_BRING)) {
        c->flags ^= PMX__MAY_BRING;
        mux->sources += source ? 1u : UINT32_MAX;
    }
    if (mux->poller->edge || !(f & PMX__IN_POLLER))
        return;
    uint32_t what = 0;
    if (f & PMX__CONNECTING) {
        what = PMX__OUT;
    } else {
        if (pmx__reads(c))
            what |= PMX__IN;
        if (c->queue && !(f & PMX__CAN_WRITE))
            what |= PMX__OUT;
        if (!what && f & PMX__HANGUP_SEEN)
            what = PMX__DROP;
    }
    uint32_t told = (f & PMX__WATCH_IN ? PMX__IN : 0u) |
                    (f & PMX__WATCH_OUT ? PMX__OUT : 0u) |
                    (f & PMX__WATCH_DROP ? PMX__DROP : 0u);
    if (what == told)
        return;
    c->flags &= ~(uint32_t)(PMX__WATCH_IN | PMX__WATCH_OUT | PMX__WATCH_DROP);
    c->flags |= (what & PMX__IN ? PMX__WATCH_IN : 0u) |
                (what & PMX__OUT ? PMX__WATCH_OUT : 0u) |
                (what & PMX__DROP ? PMX__WATCH_DROP : 0u);
    mux->poller->mod(mux->poll_state, c->sock, pmx__id(slot, c), what);
}

enum { STOPPED = PMX__PAUSED | PMX__HELD };     /* the idle clock stands */

/* --- reports ----------------------------------------------------------- */

void pmx__say(pmx_mux *mux, uint32_t slot, uint32_t what)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->flags |= what;
    if (c->flags & PMX__IN_REPORT)
        return;
    c->flags |= PMX__IN_REPORT;
    c->report_next = PMX__NONE;
    if (mux->report.tail == PMX__NONE)
        mux->report.head = slot;
    else
        pmx__slot(mux, mux->report.tail)->report_next = slot;
    mux->report.tail = slot;
    mux->report_count++;
}

void pmx__opened(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    mux->opened[mux->opened_count++] = pmx__id(slot, c);
    c->flags |= PMX__COUNTED | PMX__CAN_WRITE;
    mux->stats.connections++;
    pmx__set_due(mux, slot, PMX__IDLE_DUE);
    if (c->flags & STOPPED) {
        pmx__undue(mux, slot);
        c->since = 0;           /* what its clock has run */
    }
    pmx__watch(mux, slot);
}

/* Move what is to be said into this batch's rows, as far as there is room. */
void pmx__report(pmx_mux *mux)
{
    for (uint32_t n = mux->max_rows; n && mux->report.head != PMX__NONE; n--) {
        uint32_t slot = mux->report.head;
        pmx__conn *c = pmx__slot(mux, slot);
        uint64_t id = pmx__id(slot, c);
        mux->report.head = c->report_next;
        if (mux->report.head == PMX__NONE)
            mux->report.tail = PMX__NONE;
        mux->report_count--;
        if (c->flags & PMX__DISOWNED) {
            pmx__conn_free(mux, slot);
            continue;
        }
        if (c->flags & PMX__SAY_ENDED)
            mux->ended[mux->ended_count++] = id;
        if (c->flags & PMX__SAY_DRAINED &&
            !(c->flags & (PMX__DONE | PMX__OVER_WATER)))      /* over it again? */
            mux->drained[mux->drained_count++] = id;
        if (c->flags & PMX__DONE)
            mux->closed[mux->closed_count++] = (pmx_closed){
                .id = id, .error = c->error, .slot = slot,
                .names = c->at.names ? c->at.names->names : NULL,
            };
        c->flags &= ~(uint32_t)(PMX__SAY_ENDED | PMX__SAY_DRAINED |
                                PMX__IN_REPORT);
    }
}

/* --- states ------------------------------------------------------------ */

void pmx__pause(pmx_mux *mux, uint32_t slot, uint32_t flag)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    if (!(c->flags & STOPPED) &&
        (c->due == PMX__IDLE_DUE || c->due == PMX__SLOW_DUE)) {
        pmx__undue(mux, slot);
        c->since = mux->now - c->since;     /* what it had run */
    }
    c->flags |= flag;
    pmx__watch(mux, slot);
}

void pmx__resume(pmx_mux *mux, uint32_t slot, uint32_t flag)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE || !(c->flags & flag))
        return;
    c->flags &= ~flag;
    if (!(c->flags & (STOPPED | PMX__CLOSING | PMX__CONNECTING)) && !c->due)
        pmx__due_since(mux, slot, PMX__IDLE_DUE, mux->now - c->since);
    pmx__watch(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

/* The poller tells of an error or a hang-up. Who reads finds out by reading;
 * who does not must be told, and an automatic pause has no purpose left. */
void pmx__lost(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__CONNECTING | PMX__DONE))
        return;
    if (pmx__nobody_reads(c)) {
        if (!error)
            error = pmx__sock_error(c->sock);
        if (error) {
            pmx__finish(mux, slot, error, 0);
            return;
        }
        c->flags |= PMX__HANGUP_SEEN;
        pmx__watch(mux, slot);
    } else {
        pmx__read_to_end(mux, slot, error);
    }
}

/* Read on to the end, whatever held reading; the error, where it has been
 * taken from the socket, is kept for when that is reached. */
void pmx__read_to_end(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->error)
        c->error = error;
    c->flags |= PMX__LOST | PMX__CAN_READ | PMX__TO_THE_END;
    pmx__watch(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

enum { NAME_HEAD = offsetof(pmx__target, to) };

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
    } else if (c->flags & PMX__CONNECTING) {    /* or the last that was tried */
        const pmx__route *r = c->at.route;
        *peer = r->targets[r->next < r->count ? r->next : r->count - 1];
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
    } else if (family == 1 && c->at.peer) {
        memcpy(peer, c->at.peer, NAME_HEAD + (size_t)c->at.peer->size);
    }
}

/* IPv4 and IPv6 fit into the slot, but for a scope, which is rare. */
void pmx__keep_peer(pmx__conn *c, const pmx__target *peer)
{
    int family = pmx__family(peer);
    const struct sockaddr_in6 *from = &peer->to.v6;
    const uint8_t *ip = (const uint8_t *)&from->sin6_addr;
    c->at.peer = NULL;
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

static void keep_names(pmx__conn *c)
{
    pmx__names *names = sys_calloc(1, sizeof *names);
    if (names) {
        pmx__peer(c, &names->targets[0]);
        if (c->sock == PMX__NO_SOCK ||
            pmx__local(c->sock, &names->targets[1]))
            names->targets[1] = (pmx__target){.size = 0};
        pmx__describe(&names->targets[0], &names->names[0]);
        pmx__describe(&names->targets[1], &names->names[1]);
    }
    free(pmx__at_memory(c));
    c->at.names = names;
}

/* Close a socket that is not to be reset. Input that is left unread would
 * reset it: what is there is taken. A Unix socket is shut before, so that
 * nothing comes behind that. */
void pmx__let_go(pmx_mux *mux, const pmx__conn *c)
{
    if (c->rules->transport->arrives_at_once)
        pmx__shutdown_both(c->sock);
    for (int n = 0; n < 16; n++)
        if (pmx__recv(c->sock, mux->scratch, mux->scratch_size) <= 0)
            break;
    pmx__close_sock(c->sock);
}

void pmx__finish(pmx_mux *mux, uint32_t slot, int error, int reset)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    if (!c->error)
        c->error = error;
    /* TCP gives an open connection up only when its time has run out, and
     * says then what the network had told it last */
    if (c->flags & PMX__COUNTED &&
        (c->error == EHOSTUNREACH || c->error == ENETUNREACH))
        c->error = ETIMEDOUT;
    if (c->error == EPIPE)      /* one name for it */
        c->error = ECONNRESET;
    keep_names(c);
    pmx__queue_drop(mux, c);
    pmx__linger_no_more(mux, slot);
    pmx__carry_drop(mux, c);
    if (c->sock != PMX__NO_SOCK) {
        if (c->flags & PMX__IN_POLLER)
            mux->poller->del(mux->poll_state, c->sock);
        if (reset)
            pmx__reset_sock(c->sock);
        else if (c->flags & PMX__DROPPING)
            pmx__let_go(mux, c);
        else
            pmx__close_sock(c->sock);
        c->sock = PMX__NO_SOCK;
    }
    pmx__unready(mux, slot);
    pmx__undue(mux, slot);
    if (c->flags & PMX__UNACKED)
        mux->unacked--;
    c->flags |= PMX__DONE;
    c->flags &= ~(uint32_t)(PMX__IN_POLLER | PMX__ENDING | PMX__UNACKED);
    pmx__watch(mux, slot);
    mux->stats.closed++;
    if (reset || c->error == ECONNRESET)
        mux->stats.reset++;
    if (c->flags & PMX__COUNTED) {
        mux->stats.connections--;
        if (c->rules->connections)      /* accepted, by a listener */
            c->rules->connections--;
    }
    mux->room = 1;              /* accepting may go on */
    pmx__say(mux, slot, 0);
}
