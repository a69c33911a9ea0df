/* The lists, flags and figures of a mux must agree with each other. */
#include "world.h"

/* A ready list is as long as its count says and linked both ways. */
static void check_ready(const pmx_mux *m, const pmx__list *list,
                        uint32_t wanted, const pmx__service *s)
{
    uint32_t count = 0, last = PMX__NONE;
    for (uint32_t at = list->head; at != PMX__NONE; count++) {
        const pmx__conn *c = pmx__slot(m, at);
        CHECK(c->flags & PMX__IN_READY && c->ready_prev == last);
        CHECK(!(c->flags & PMX__DONE));
        EQUAL(!!(c->flags & PMX__IN_CHORES), !s);
        CHECK(!s || (c->rules->service == s &&
                     !(c->flags & (PMX__CONNECTING | PMX__SAY_OPENED))));
        last = at;
        at = c->ready_next;
    }
    EQUAL(list->tail, last);
    EQUAL(wanted, count);
}

/* How many connections of the service may bring messages. */
static uint32_t sources_of(const pmx_mux *m, const pmx__service *s)
{
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < m->slots; slot++)
        count += pmx__slot(m, slot)->flags & PMX__MAY_BRING &&
                 pmx__slot(m, slot)->rules->service == s;
    return count;
}

static void check_services(const pmx_mux *m)
{
    uint32_t ready = 0, report = 0, in_line = 0, line = 0;
    for (uint32_t k = 0; k < m->service_count; k++) {
        const pmx__service *s = k ? m->others[k - 1] : &m->first;
        uint32_t count = 0, last = PMX__NONE;
        EQUAL(s->number, k);
        check_ready(m, &s->ready, s->ready_count, s);
        for (uint32_t at = s->report.head; at != PMX__NONE; count++) {
            CHECK(pmx__slot(m, at)->flags & PMX__IN_REPORT);
            CHECK(pmx__slot(m, at)->rules->service == s);
            last = at;
            at = pmx__slot(m, at)->report_next;
        }
        EQUAL(s->report.tail, last);
        EQUAL(s->report_count, count);
        EQUAL(s->sources, sources_of(m, s));
        /* what has something for a batch is in line for one */
        CHECK(s->in_line || !(s->ready_count || s->report_count));
        in_line += !!s->in_line;
        ready += s->ready_count;
        report += s->report_count;
    }
    for (const pmx__service *s = m->line_head; s; s = s->next, line++)
        CHECK(s->in_line && (s->next || s == m->line_tail));
    EQUAL(line, in_line);
    EQUAL(m->ready_count, ready);
    EQUAL(m->report_count, report);
    check_ready(m, &m->chores, m->chore_count, NULL);
}

/* Its deadline stands where it says, and no later than it is. */
static void check_place(const pmx_mux *m, uint32_t slot)
{
    const pmx__conn *c = pmx__slot(m, slot);
    if (!c->due) {
        CHECK(pmx__frame_deadline(m, c) == INT64_MAX);
        return;
    }
    CHECK(c->due_place < m->due_count);
    EQUAL(m->due[c->due_place].slot, slot);
    /* bytes of a frame that is too old may have to be read first */
    int64_t soon = m->now + PMX__AGAIN_NS, at = m->due[c->due_place].at;
    CHECK(at <= pmx__deadline_of(c) || at <= soon);
    CHECK(at <= pmx__frame_deadline(m, c) || at <= soon);
}

/* Those that linger are in a list, linked both ways, and nobody else is. */
static void check_lingering(const pmx_mux *m, const pmx__rules *r)
{
    uint32_t count = 0, last = 0, all = 0, may_go = 0;
    for (uint32_t at = r->oldest; at; count++) {
        const pmx__conn *c = pmx__slot(m, at - 1);
        CHECK(c->lingers == PMX__MAY_GO && pmx__counted_by(c) == r);
        EQUAL(c->linger.older, last);
        last = at;
        at = c->linger.newer;
    }
    for (uint32_t slot = 0; slot < m->slots; slot++) {
        const pmx__conn *c = pmx__slot(m, slot);
        int counts = c->generation & 1 && pmx__counted_by(c) == r;
        all += c->lingers && counts;
        may_go += c->lingers == PMX__MAY_GO && counts;
    }
    EQUAL(r->newest, last);
    EQUAL(r->lingering, all);
    EQUAL(may_go, count);
    CHECK(!count || r->lingering <= r->policy.max_connections);
}

static void check_slots(const pmx_mux *m)
{
    uint64_t queued = 0, connections = 0, outgoing = 0;
    uint32_t sources = 0, unacked = 0, paused = 0, over = 0;
    for (uint32_t slot = 0; slot < m->slots; slot++) {
        const pmx__conn *c = pmx__slot(m, slot);
        uint32_t f = c->flags;
        EQUAL(c->dirty == PMX__NONE || !(c->generation & 1), 1);
        if (!(c->generation & 1)) {
            EQUAL(f, 0);
            continue;
        }
        CHECK(pmx__find(m, pmx__id(slot, c)) == c);
        queued += c->queue ? c->queue->size : 0;
        CHECK(!c->queue || c->queue->size);
        connections += f & PMX__COUNTED && !(f & PMX__DONE);
        outgoing += f & PMX__OUTGOING && f & PMX__COUNTED &&
                    !(f & PMX__DONE);
        sources += !!(f & PMX__MAY_BRING);
        unacked += !!(f & PMX__UNACKED);
        paused += f & PMX__PAUSED && !(f & PMX__DONE);
        over += f & PMX__OVER_WATER && !(f & PMX__DONE);
        if (f & PMX__DONE) {
            CHECK(c->sock == PMX__NO_SOCK && !c->queue && !c->carry);
            CHECK(!(f & (PMX__IN_READY | PMX__MAY_BRING)) && !c->due);
            continue;
        }
        /* who has work is on the list, and who waits is watched */
        CHECK(f & PMX__IN_READY || !pmx__has_work(c) ||
              (f & PMX__SAY_OPENED && pmx__brings_rows(c) &&
               !(c->queue && f & PMX__CAN_WRITE)));
        if (f & PMX__CONNECTING)
            continue;
        CHECK(!(f & PMX__FRAMES) || c->carry);
        if (!m->poller->edge && f & PMX__IN_POLLER) {
            EQUAL(!!(c->watched & PMX__WATCH_IN), pmx__reads(c));
            /* who is ready is served first, and nobody waits before */
            CHECK(f & PMX__IN_READY ||
                  !!(c->watched & PMX__WATCH_OUT) ==
                      (c->queue && !(f & PMX__CAN_WRITE)));
        }
        CHECK(!c->queue || !(f & PMX__SEND_FAILED));
        /* what is closing has a deadline, and so what has failed */
        CHECK(!(f & (PMX__CLOSING | PMX__SEND_FAILED)) ||
              c->due == PMX__CLOSE_DUE || c->rules->policy.close_ns < 0);
        CHECK(!(f & PMX__CLOSING && !(f & PMX__DROPPING)) || c->queue ||
              f & PMX__UNACKED);
        /* what is dropped is delivered to nobody */
        CHECK(!(f & PMX__DROPPING) || f & PMX__ENDED);
        CHECK(!(f & PMX__UNACKED) || (f & PMX__CLOSING && c->due));
        CHECK(!c->lingers || (f & PMX__CLOSING && f & PMX__SHUT && !c->queue));
        check_place(m, slot);
    }
    EQUAL(m->stats->queued, queued);
    EQUAL(m->stats->connections, connections);
    EQUAL(m->stats->outgoing, outgoing);
    EQUAL(m->stats->paused, paused);
    EQUAL(m->stats->over, over);
    EQUAL(m->sources, sources);
    EQUAL(m->unacked, unacked);
}

static uint32_t length_of(const pmx_mux *m, const pmx__list *list)
{
    uint32_t length = 0, last = PMX__NONE;
    for (uint32_t i = list->head; i != PMX__NONE; i = m->listeners[i].next) {
        EQUAL(m->listeners[i].prev, last);
        last = i;
        length++;
    }
    EQUAL(list->tail, last);
    return length;
}

/* Nobody is let in beyond max_connections, but from another mux. */
static void check_listeners(const pmx_mux *m)
{
    uint64_t count = 0;
    uint32_t accepting = 0, full = 0;
    for (uint32_t i = 0; i < m->listener_count; i++) {
        const pmx__rules *r = m->listeners[i].rules;
        count += !!r;
        CHECK(!r || !r->policy.max_connections || m->draining ||
              m->listeners[i].last || m->stats->moved_in ||
              /* one more if a gift has come back: see pmx__passes_on() */
              pmx__places_taken(r) <=
                  r->policy.max_connections + (m->seats != NULL));
        if (r)
            check_lingering(m, r);
        accepting += r && m->listeners[i].can_accept && !m->listeners[i].full;
        full += r && m->listeners[i].full;
    }
    EQUAL(m->stats->listeners, count);
    EQUAL(length_of(m, &m->accepting), accepting);
    EQUAL(length_of(m, &m->full_listeners), full);
    EQUAL(m->stats->listeners_full, full);
    EQUAL(length_of(m, &m->free_listeners), m->listener_count - count);
}

/* The table of peers counts those that say so, and none beyond its limit. */
static void check_peers(const pmx_mux *m)
{
    uint32_t counted = 0, found = 0, used = 0;
    for (uint32_t slot = 0; slot < m->slots; slot++)
        counted += pmx__slot(m, slot)->counts_for_peer;
    for (uint32_t i = 0; i < m->peer_room; i++) {
        const pmx__peer_count *p = &m->peers[i];
        if (!p->rules)
            continue;
        CHECK(p->count && p->count <= p->rules->policy.max_per_peer);
        found += p->count;
        used++;
    }
    EQUAL(found, counted);
    EQUAL(m->peer_used, used);
    EQUAL(!m->peers, !used);
}

void mux_is_sound(const pmx_mux *m)
{
    check_peers(m);
    check_services(m);
    check_slots(m);
    check_listeners(m);
}
