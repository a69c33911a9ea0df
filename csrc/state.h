/* What becomes of a connection. Layer 6. */
#ifndef PMX_STATE_H
#define PMX_STATE_H

#include "slots.h"

/* The clock of unfinished frames stands while the caller is at a batch. */
static inline int64_t pmx__frame_clock(const pmx_mux *mux)
{
    return mux->now - mux->away;
}

/* The carry begins with another frame. It remembers when the frame began by
 * that clock; of a connection that is not read, how long the frame was read. */
static inline void pmx__frame_begins(const pmx_mux *mux, const pmx__conn *c)
{
    c->carry->since = c->flags & PMX__MAY_BRING ? pmx__frame_clock(mux) : 0;
}

/* A send was refused: the poller is to report when the socket takes bytes
 * again. */
static inline int pmx__arm(const pmx_mux *mux, pmx_sock sock)
{
    return mux->poller->arm ? mux->poller->arm(mux->poll_state, sock) : 0;
}

/* state.c: what happens to a connection */
int pmx__has_work(const pmx__conn *c);
int pmx__blocked(const pmx__conn *c);
int pmx__nobody_reads(const pmx__conn *c);
int pmx__reads(const pmx__conn *c);
/* True if serving the connection may bring rows: it is no chore. */
int pmx__brings_rows(const pmx__conn *c);
/* The connection has work: put it into the ready list that suits it. */
void pmx__ready(pmx_mux *mux, uint32_t slot);
void pmx__watch(pmx_mux *mux, uint32_t slot);
void pmx__count(pmx_mux *mux, pmx__conn *c);
void pmx__opened(pmx_mux *mux, uint32_t slot);
void pmx__shake_ends(pmx_mux *mux, pmx__conn *c);
void pmx__over_water(pmx_mux *mux, uint32_t slot);
void pmx__not_over_water(pmx_mux *mux, pmx__conn *c);
/* The same, and what is to be told stays so. */
void pmx__under_water(pmx_mux *mux, pmx__conn *c);
/* The figures have the connection's state no more. */
void pmx__forget_state(pmx_mux *mux, const pmx__conn *c);
void pmx__pause(pmx_mux *mux, uint32_t slot, uint32_t flag);
void pmx__resume(pmx_mux *mux, uint32_t slot, uint32_t flag);
/* The caller has a part of a frame, or none. */
void pmx__begun(pmx_mux *mux, uint32_t slot);
void pmx__whole(pmx_mux *mux, uint32_t slot);
void pmx__lost(pmx_mux *mux, uint32_t slot, int error);
void pmx__read_to_end(pmx_mux *mux, uint32_t slot, int error);
void pmx__let_go(pmx_mux *mux, const pmx__conn *c);
/* A peer that may not send a header, or has sent none that is one. */
void pmx__header_refused(pmx_mux *mux, const pmx__target *peer,
                         const pmx__target *local, int error);
void pmx__finish(pmx_mux *mux, uint32_t slot, int error, int reset);

/* report.c: make rows of what is to be reported of the service that the batch
 * is for, as far as there is room. */
void pmx__report(pmx_mux *mux);

/* close.c: how a connection ends */
void pmx__begin_close(pmx_mux *mux, uint32_t slot, int error);
void pmx__due_to_close(pmx_mux *mux, uint32_t slot);
void pmx__answered(pmx_mux *mux, uint32_t slot);
void pmx__end_sending(pmx_mux *mux, uint32_t slot);
void pmx__send_failed(pmx_mux *mux, uint32_t slot, int error);
void pmx__settle(pmx_mux *mux, uint32_t slot);
/* The connection's time is over, or it is to be looked at. (Idle ones:
 * expire.c.) */
void pmx__is_due(pmx_mux *mux, uint32_t slot);

/* expire.c: connections whose time is over */
void pmx__expire(pmx_mux *mux);
void pmx__waits(pmx_mux *mux, uint32_t slot);
void pmx__hand_back(pmx_mux *mux, int64_t now);

#endif
