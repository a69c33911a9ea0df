/* The lists, flags and figures of a mux must agree with each other. */
#include "world.h"

/* Every list as long as its count says, linked both ways. */
static void check_lists(const pmx_mux *m)
{
    uint32_t count = 0, last = PMX__NONE;
    for (uint32_t at = m->ready.head; at != PMX__NONE; count++) {
        const pmx__conn *c = pmx__slot(m, at);
        CHECK(c->flags & PMX__IN_READY && c->ready_prev == last);
        CHECK(!(c->flags & PMX__DONE));
        last = at;
        at = c->ready_next;
    }
    EQUAL(m->ready.tail, last);
    EQUAL(m->ready_count, count);
    count = 0;
    last = PMX__NONE;
    for (uint32_t at = m->report.head; at != PMX__NONE; count++) {
        CHECK(pmx__slot(m, at)->flags & PMX__IN_REPORT);
        last = at;
        at = pmx__slot(m, at)->report_next;
    }
    EQUAL(m->report.tail, last);
    EQUAL(m->report_count, count);
}

/* Its deadline stands where it says, and no later than it is. */
static void check_place(const pmx_mux *m, uint32_t slot)
{
    const pmx__conn *c = pmx__slot(m, slot);
    if (!c->due)
        return;
    CHECK(c->due_place < m->due_count);
    EQUAL(m->due[c->due_place].slot, slot);
    CHECK(m->due[c->due_place].at <= pmx__deadline_of(c));
}

/* Those that linger are in a list, linked both ways, and nobody else is. */
static void check_lingering(const pmx_mux *m, const pmx__rules *r)
{
    uint32_t count = 0, last = 0, all = 0, may_go = 0;
    for (uint32_t at = r->oldest; at; count++) {
        const pmx__conn *c = pmx__slot(m, at - 1);
        CHECK(c->lingers == PMX__MAY_GO && c->rules == r);
        EQUAL(c->linger.older, last);
        last = at;
        at = c->linger.newer;
    }
    for (uint32_t slot = 0; slot < m->slots; slot++) {
        const pmx__conn *c = pmx__slot(m, slot);
        all += c->lingers && c->rules == r;
        may_go += c->lingers == PMX__MAY_GO && c->rules == r;
    }
    EQUAL(r->newest, last);
    EQUAL(r->lingering, all);
    EQUAL(may_go, count);
    CHECK(!count || r->lingering <= r->policy.max_connections);
}

static void check_slots(const pmx_mux *m)
{
    uint64_t queued = 0, connections = 0;
    uint32_t sources = 0, unacked = 0;
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
        sources += !!(f & PMX__MAY_BRING);
        unacked += !!(f & PMX__UNACKED);
        if (f & PMX__DONE) {
            CHECK(c->sock == PMX__NO_SOCK && !c->queue && !c->carry);
            CHECK(!(f & (PMX__IN_READY | PMX__MAY_BRING)) && !c->due);
            continue;
        }
        /* who has work is on the list, and who waits is watched */
        CHECK(f & PMX__IN_READY || !pmx__has_work(c));
        if (f & PMX__CONNECTING)
            continue;
        CHECK(!(f & PMX__FRAMES) || c->carry);
        if (!m->poller->edge && f & PMX__IN_POLLER) {
            EQUAL(!!(f & PMX__WATCH_IN), pmx__reads(c));
            /* who is ready is served first, and nobody waits before */
            CHECK(f & PMX__IN_READY ||
                  !!(f & PMX__WATCH_OUT) ==
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
    EQUAL(m->stats.queued, queued);
    EQUAL(m->stats.connections, connections);
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

/* Nobody is let in beyond max_connections. */
static void check_listeners(const pmx_mux *m)
{
    uint64_t count = 0;
    uint32_t accepting = 0, full = 0;
    for (uint32_t i = 0; i < m->listener_count; i++) {
        const pmx__rules *r = m->listeners[i].rules;
        count += !!r;
        CHECK(!r || !r->policy.max_connections || m->draining ||
              pmx__places_taken(r) <= r->policy.max_connections);
        if (r)
            check_lingering(m, r);
        accepting += r && m->listeners[i].can_accept && !m->listeners[i].full;
        full += r && m->listeners[i].full;
    }
    EQUAL(m->stats.listeners, count);
    EQUAL(length_of(m, &m->accepting), accepting);
    EQUAL(length_of(m, &m->full_listeners), full);
    EQUAL(length_of(m, &m->free_listeners), m->listener_count - count);
}

void mux_is_sound(const pmx_mux *m)
{
    check_lists(m);
    check_slots(m);
    check_listeners(m);
}
