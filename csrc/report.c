/* Rows that are no messages: what is reported of connections. */
#include "state.h"

/* True if the connection was accepted, and its handshake has failed: nobody
 * knows it. */
static int has_failed(const pmx__conn *c)
{
    return (c->flags & (PMX__CONNECTING | PMX__OUTGOING)) == PMX__CONNECTING;
}

static int has_room(const pmx_mux *mux, const pmx__conn *c)
{
    uint32_t most = mux->max_rows;
    return !(c->flags & PMX__SAY_OPENED && mux->opened_count == most) &&
           !(c->task & PMX__SAY_IDLE && mux->idle_count == most);
}

/* Add what is to be reported of the connection. A row holds when it is
 * reported: a task that has answered meanwhile is not asked about. `blocked` and
 * `drained` alternate, so a connection that is over high water again before it
 * was told that it had drained is told neither (pmx__over_water). */
static void add_rows(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    uint64_t id = pmx__id(slot, c);
    if (c->flags & PMX__SAY_OPENED)
        mux->opened[mux->opened_count++] = id;
    if (c->flags & PMX__SAY_ENDED)
        mux->ended[mux->ended_count++] = id;
    if (c->say_blocked && !(c->flags & PMX__DONE))
        mux->blocked[mux->blocked_count++] = id;
    if (c->flags & PMX__SAY_DRAINED && !(c->flags & PMX__DONE))
        mux->drained[mux->drained_count++] = id;
    if (c->task & PMX__SAY_IDLE && !(c->flags & PMX__DONE) &&
        c->task & (PMX__OWES | PMX__KEEPS))
        mux->idle[mux->idle_count++] = id;
    if (c->flags & PMX__DONE) {
        pmx_closed row = {.id = id, .error = c->error, .slot = slot};
        if (c->at.names) {
            row.names = c->at.names->names;
            row.tls_error = c->at.names->tls_error;
            row.tls_verify = c->at.names->tls_verify;
        }
        if (has_failed(c))
            mux->failed[mux->failed_count++] = row;
        else
            mux->closed[mux->closed_count++] = row;
    }
    c->say_blocked = 0;
    c->task &= (uint8_t)~PMX__SAY_IDLE;
    c->flags &= ~(uint32_t)(PMX__SAY_OPENED | PMX__SAY_ENDED |
                            PMX__SAY_DRAINED | PMX__IN_REPORT);
    if (pmx__has_work(c))       /* its input may have waited for that row */
        pmx__ready(mux, slot);
}

void pmx__report(pmx_mux *mux)
{
    pmx__service *s = mux->serving;
    for (uint32_t n = mux->max_rows; n && s->report_count; n--) {
        uint32_t slot = s->report.head;
        const pmx__conn *c = pmx__slot(mux, slot);
        if (!has_room(mux, c))
            break;
        s->report.head = c->report_next;
        if (s->report.head == PMX__NONE)
            s->report.tail = PMX__NONE;
        s->report_count--;
        mux->report_count--;
        if (c->flags & PMX__DISOWNED)
            pmx__conn_free(mux, slot);
        else
            add_rows(mux, slot);
    }
}
