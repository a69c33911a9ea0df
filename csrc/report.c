/* Rows that are no messages: what is to be told of connections. */
#include "slots.h"

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
