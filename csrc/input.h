/* Shared by the files that receive and cut. input.c, the first of these files,
 * describes the way of the input. Each file uses the files below it. */
#ifndef PMX_INPUT_H
#define PMX_INPUT_H

#include "turn.h"

static inline size_t pmx__at_most(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t pmx__held(const pmx__conn *c)
{
    return c->rules->transport->held ? c->rules->transport->held(c) : 0;
}

/* input_cut.c: frames, in the arena and in the carry */
void pmx__cut_in_arena(pmx_mux *mux, uint32_t slot, size_t size,
                       uint64_t scanned);
int pmx__deliver_carry(pmx_mux *mux, uint32_t slot);
size_t pmx__carry_room(pmx_mux *mux, pmx__conn *c, size_t allowance);

/* input_end.c: how input ends */
void pmx__input_broken(pmx_mux *mux, uint32_t slot, int error);
void pmx__frames_over(pmx_mux *mux, uint32_t slot);
void pmx__end_input(pmx_mux *mux, uint32_t slot);
void pmx__input_torn(pmx_mux *mux, uint32_t slot);
void pmx__cut_input(pmx_mux *mux, uint32_t slot);
void pmx__look_for_end(pmx_mux *mux, uint32_t slot);

/* rows.c: the rows of a batch */
static inline int pmx__no_rows_left(const pmx_mux *mux)
{
    return mux->rows == mux->max_rows;
}
void pmx__add_row(pmx_mux *mux, uint32_t slot, size_t size);
uint8_t *pmx__add_run(pmx_mux *mux, uint32_t slot, uint8_t *at, uint8_t *end,
                      uint64_t *scanned);
uint32_t pmx__gap_for(pmx_mux *mux, const pmx__conn *c, size_t tail);

/* Whether messages of the connection are in the batch at hand, or are owed
 * answers. */
static inline int pmx__is_unanswered(const pmx_mux *mux, const pmx__conn *c)
{
    return c->row_turn == mux->turn || c->owed;
}

#endif
