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

static pmx__list *list_of(pmx_mux *mux, const pmx__conn *c)
{
    return c->flags & PMX__IN_CHORES ? &mux->chores
                                     : &c->rules->service->ready;
}

void pmx__enlist(pmx_mux *mux, uint32_t slot, int chore)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->flags |= chore ? PMX__IN_READY | PMX__IN_CHORES : PMX__IN_READY;
    pmx__list *list = list_of(mux, c);
    c->ready_prev = list->tail;
    c->ready_next = PMX__NONE;
    if (list->tail == PMX__NONE)
        list->head = slot;
    else
        pmx__slot(mux, list->tail)->ready_next = slot;
    list->tail = slot;
    if (chore) {
        mux->chore_count++;
        return;
    }
    c->rules->service->ready_count++;
    mux->ready_count++;
    line_up(mux, c->rules->service);
}

void pmx__unready(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!(c->flags & PMX__IN_READY))
        return;
    pmx__list *list = list_of(mux, c);
    if (c->ready_prev == PMX__NONE)
        list->head = c->ready_next;
    else
        pmx__slot(mux, c->ready_prev)->ready_next = c->ready_next;
    if (c->ready_next == PMX__NONE)
        list->tail = c->ready_prev;
    else
        pmx__slot(mux, c->ready_next)->ready_prev = c->ready_prev;
    if (c->flags & PMX__IN_CHORES) {
        mux->chore_count--;
    } else {
        c->rules->service->ready_count--;
        mux->ready_count--;
    }
    c->flags &= ~(uint32_t)(PMX__IN_READY | PMX__IN_CHORES);
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
