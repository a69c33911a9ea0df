/*
 * Deadlines. For each duration that a set of rules has, its connections stand
 * in order of last activity: the first is the next to be due, and a touch
 * moves one to the end.
 */
#include "mux.h"

static int64_t span_of(const pmx__rules *rules, enum pmx__due due)
{
    switch (due) {
    case PMX__CONNECT_DUE: return rules->is.connect_ns;
    case PMX__IDLE_DUE: return rules->is.idle_ns;
    case PMX__CLOSE_DUE: return rules->is.close_ns;
    default: return -1;
    }
}

void pmx__undue(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->due)
        return;
    pmx__list *list = &c->rules->due[c->due];
    if (c->due_prev == PMX__NONE)
        list->head = c->due_next;
    else
        pmx__slot(mux, c->due_prev)->due_next = c->due_next;
    if (c->due_next == PMX__NONE)
        list->tail = c->due_prev;
    else
        pmx__slot(mux, c->due_next)->due_prev = c->due_prev;
    c->due = PMX__NOT_DUE;
}

/* Put it behind the last one that is not younger: at the tail, nearly always,
 * but for a connection whose clock stood still. */
void pmx__due_since(pmx_mux *mux, uint32_t slot, enum pmx__due due,
                      int64_t since)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__undue(mux, slot);
    c->since = since;
    if (span_of(c->rules, due) < 0)
        return;
    pmx__list *list = &c->rules->due[due];
    uint32_t before = list->tail;
    while (before != PMX__NONE && pmx__slot(mux, before)->since > since)
        before = pmx__slot(mux, before)->due_prev;
    uint32_t after =
        before == PMX__NONE ? list->head : pmx__slot(mux, before)->due_next;
    c->due = (uint8_t)due;
    c->due_prev = before;
    c->due_next = after;
    if (before == PMX__NONE)
        list->head = slot;
    else
        pmx__slot(mux, before)->due_next = slot;
    if (after == PMX__NONE)
        list->tail = slot;
    else
        pmx__slot(mux, after)->due_prev = slot;
}

void pmx__set_due(pmx_mux *mux, uint32_t slot, enum pmx__due due)
{
    pmx__due_since(mux, slot, due, mux->now);
}

void pmx__touch(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->due == PMX__IDLE_DUE)
        pmx__due_since(mux, slot, PMX__IDLE_DUE, mux->now);
    else if (c->flags & (PMX__PAUSED | PMX__HELD) && !c->due)
        c->since = 0;           /* what its clock has run, standing */
}

int64_t pmx__next_due(const pmx_mux *mux)
{
    int64_t first = INT64_MAX;
    for (const pmx__rules *r = mux->rules; r; r = r->next)
        for (int due = PMX__CONNECT_DUE; due < PMX__DUES; due++) {
            uint32_t head = r->due[due].head;
            if (head == PMX__NONE)
                continue;
            int64_t at = pmx__slot(mux, head)->since;
            int64_t span = span_of(r, (enum pmx__due)due);
            at = span > INT64_MAX - at ? INT64_MAX : at + span;
            if (at < first)
                first = at;
        }
    return first;
}

/* Who has been served last long ago, since others came first or the caller
 * took long, is not idle: what it has sent waits here, or in the kernel, where
 * not even its event may have been fetched yet. */
void pmx__expire(pmx_mux *mux)
{
    uint32_t left = PMX__EXPIRIES;
    if (mux->unheard)
        return;
    for (pmx__rules *r = mux->rules; r; r = r->next)
        for (int due = PMX__CONNECT_DUE; due < PMX__DUES; due++) {
            int64_t span = span_of(r, (enum pmx__due)due);
            uint32_t head;
            while (left && (head = r->due[due].head) != PMX__NONE &&
                   mux->now - pmx__slot(mux, head)->since >= span) {
                if (due == PMX__IDLE_DUE &&
                    pmx__has_work(pmx__slot(mux, head)) && span)
                    pmx__touch(mux, head);
                else
                    pmx__finish(mux, head, ETIMEDOUT, 1);
                left--;
            }
        }
}
