/*
 * Services: which of them a batch is for, and which wait for one.
 *
 * A connection that has input to be served stands in the ready list of its
 * service. A connection that has something to report stands in the report
 * list. A connection whose work brings no rows (connecting, closing, only
 * sending) is a chore: every turn serves the list of chores, whatever services
 * they have. Services with a connection in one of their lists stand in line,
 * and the first of them gets the next batch.
 */
#include "slots.h"

#include <stdlib.h>

static void begin(pmx__service *s, uint32_t number)
{
    *s = (pmx__service){.number = number, .min_messages = 1,
                        .ready = {PMX__NONE, PMX__NONE},
                        .report = {PMX__NONE, PMX__NONE},
                        .cut_short = PMX__NONE};
}

void pmx__services_begin(pmx_mux *mux)
{
    begin(&mux->first, 0);
    mux->service_count = 1;
    mux->serving = &mux->first;
    mux->chores = mux->first.ready;
    mux->fresh = PMX__NONE;
}

void pmx__services_end(pmx_mux *mux)
{
    for (uint32_t i = 1; i < mux->service_count; i++)
        free(mux->others[i - 1]);
    free(mux->others);
}

int pmx__do_add_service(pmx_mux *mux)
{
    uint32_t number = mux->service_count;
    if (number > mux->service_room) {
        uint32_t room = mux->service_room ? 2 * mux->service_room : 4;
        pmx__service **grown =
            room > INT32_MAX / sizeof *grown
                ? NULL : sys_realloc(mux->others, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        mux->others = grown;
        mux->service_room = room;
    }
    pmx__service *s = sys_malloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    begin(s, number);
    mux->others[number - 1] = s;
    mux->service_count++;
    return (int)number;
}

pmx__service *pmx__find_service(pmx_mux *mux, uint32_t number)
{
    return !number ? &mux->first
         : number < mux->service_count ? mux->others[number - 1] : NULL;
}

int pmx__do_configure(pmx_mux *mux, uint32_t number, uint32_t min_messages,
                      int64_t max_delay_ns, uint32_t leave_gaps)
{
    pmx__service *s = pmx__find_service(mux, number);
    if (!s)
        return -EINVAL;
    s->min_messages = min_messages;
    s->max_delay_ns = max_delay_ns;
    s->leave_gaps = leave_gaps;
    return 0;
}

/* --- whose turn it is ---------------------------------------------------- */

static void line_up(pmx_mux *mux, pmx__service *s)
{
    if (s->in_line)
        return;
    s->in_line = 1;
    s->next = NULL;
    if (mux->line_tail)
        mux->line_tail->next = s;
    else
        mux->line_head = s;
    mux->line_tail = s;
}

static void serve(pmx_mux *mux, pmx__service *s)
{
    mux->serving = s;
    mux->arena->no_gaps = !s->leave_gaps;
}

int pmx__claim(pmx_mux *mux, pmx__service *s)
{
    if (mux->serving != s && !pmx__has_rows(mux) &&
        !mux->serving->report_count)
        serve(mux, s);
    return mux->serving == s;
}

void pmx__next_service(pmx_mux *mux)
{
    pmx__service *s;
    if (pmx__has_rows(mux))
        return;
    while ((s = mux->line_head)) {
        mux->line_head = s->next;
        if (!s->next)
            mux->line_tail = NULL;
        s->in_line = 0;
        if (s->ready_count || s->report_count) {
            line_up(mux, s);    /* next time the others come first */
            break;
        }
    }
    serve(mux, s ? s : mux->serving);
}

void pmx__next_reporter(pmx_mux *mux)
{
    pmx__service *s = mux->line_head;
    if (pmx__has_rows(mux) || mux->serving->report_count ||
        !mux->report_count)
        return;
    while (!s->report_count)
        s = s->next;
    serve(mux, s);
}

/* --- lists --------------------------------------------------------------- */

static void push(const pmx_mux *mux, pmx__list *list, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    uint32_t tail = list->tail;
    c->ready_prev = tail;
    c->ready_next = PMX__NONE;
    if (tail == PMX__NONE)
        list->head = slot;
    else
        pmx__slot(mux, tail)->ready_next = slot;
    list->tail = slot;
}

void pmx__enlist(pmx_mux *mux, uint32_t slot, int chore)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (chore) {
        c->flags |= PMX__IN_READY | PMX__IN_CHORES;
        push(mux, &mux->chores, slot);
        mux->chore_count++;
        return;
    }
    pmx__service *s = c->rules->service;
    c->flags |= PMX__IN_READY;
    push(mux, &s->ready, slot);
    s->ready_count++;
    mux->ready_count++;
    line_up(mux, s);
}

static void take_out(const pmx_mux *mux, pmx__list *list, const pmx__conn *c)
{
    uint32_t prev = c->ready_prev, next = c->ready_next;
    if (prev == PMX__NONE)
        list->head = next;
    else
        pmx__slot(mux, prev)->ready_next = next;
    if (next == PMX__NONE)
        list->tail = prev;
    else
        pmx__slot(mux, next)->ready_prev = prev;
}

void pmx__unready(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    uint32_t flags = c->flags;
    if (!(flags & PMX__IN_READY))
        return;
    c->flags = flags & ~(uint32_t)(PMX__IN_READY | PMX__IN_CHORES);
    if (flags & PMX__IN_CHORES) {
        take_out(mux, &mux->chores, c);
        mux->chore_count--;
    } else {
        pmx__service *s = c->rules->service;
        take_out(mux, &s->ready, c);
        s->ready_count--;
        mux->ready_count--;
    }
}

int pmx__leave_service(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__service *s = c->rules->service;
    int reports = !!(c->flags & PMX__IN_REPORT);
    pmx__unready(mux, slot);
    if (s->cut_short == slot)
        s->cut_short = PMX__NONE;
    if (c->flags & PMX__MAY_BRING) {
        mux->sources--;
        s->sources--;
    }
    for (uint32_t at = s->report.head, before = PMX__NONE; reports;
         before = at, at = pmx__slot(mux, at)->report_next) {
        if (at != slot)
            continue;
        if (before == PMX__NONE)
            s->report.head = c->report_next;
        else
            pmx__slot(mux, before)->report_next = c->report_next;
        if (s->report.tail == slot)
            s->report.tail = before;
        s->report_count--;
        mux->report_count--;
        break;
    }
    c->flags &= ~(uint32_t)(PMX__MAY_BRING | PMX__IN_REPORT);
    return reports;
}

void pmx__say(pmx_mux *mux, uint32_t slot, uint32_t what)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__service *s = c->rules->service;
    c->flags |= what;
    if (c->flags & PMX__IN_REPORT)
        return;
    c->flags |= PMX__IN_REPORT;
    c->report_next = PMX__NONE;
    if (s->report.tail == PMX__NONE)
        s->report.head = slot;
    else
        pmx__slot(mux, s->report.tail)->report_next = slot;
    s->report.tail = slot;
    s->report_count++;
    mux->report_count++;
    line_up(mux, s);
}
