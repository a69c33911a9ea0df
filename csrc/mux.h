/* The mux: its life, and the turn. Layer 8. */
#ifndef PMX_MUX_H
#define PMX_MUX_H

#include "load.h"
#include "turn.h"

void pmx__do_shut(pmx_mux *mux);
int pmx__do_wakeup_open(pmx_mux *mux);
void pmx__do_keep_wakeup(pmx_mux *mux, int64_t *wakeup);
int pmx__do_fileno(const pmx_mux *mux);
int pmx__do_harvest(pmx_turn *turn);
int pmx__do_submit(pmx_turn *turn);
void pmx__do_reset_all(pmx_mux *mux, int error);

/* serve.c: the steps of a turn */
void pmx__close_ending(pmx_mux *mux);
void pmx__serve_ready(pmx_mux *mux);
void pmx__serve_chores(pmx_mux *mux);
int pmx__drain_all(pmx_mux *mux);
int64_t pmx__do_end_inputs(pmx_mux *mux, uint64_t *ids, uint32_t count,
                           enum pmx_end when);

#endif
