/* The rows of a batch: each a message, with the connection that it is of. */
#include "input.h"

/* So many rows of a connection follow those before. */
static void note_rows(pmx_mux *mux, uint32_t slot, uint32_t count)
{
    pmx_arena *a = mux->arena;
    pmx__conn *c = pmx__slot(mux, slot);
    if (mux->rows && a->slots[mux->rows - 1] == slot)
        a->runs[a->run_count - 1] += count;
    else
        a->runs[a->run_count++] = count;
    mux->rows += count;
    mux->stats->messages_in += count;
    if (c->task & PMX__TASK)
        c->task |= c->row_turn == mux->turn || count > 1
                       ? PMX__OWES | PMX__OWES_MORE : PMX__OWES;
    if (c->row_turn != mux->turn) {
        c->row_turn = mux->turn;
        mux->row_slots[mux->row_conns++] = slot;
    }
}

/* One row: its `size` bytes are in place behind arena->size, and behind them
 * the gap, if the batch has gaps. */
void pmx__add_row(pmx_mux *mux, uint32_t slot, size_t size)
{
    pmx_arena *a = mux->arena;
    pmx__conn *c = pmx__slot(mux, slot);
    a->size += size + a->gap;
    a->ids[mux->rows] = pmx__id(slot, c);
    a->slots[mux->rows] = slot;
    if (!mux->rows)
        a->uniform = (uint32_t)size;
    else if (a->uniform != size)
        a->uniform = UINT32_MAX;
    a->offsets[mux->rows + 1] = (int32_t)a->size;
    note_rows(mux, slot, 1);
}

/* Make rows of as many messages as the framing cuts in a row, from `at` on. The
 * result is where the first byte stands that is in no row. This does what
 * pmx__add_row() does for one, with what stays the same taken out of the
 * loop. */
uint8_t *pmx__add_run(pmx_mux *mux, uint32_t slot, uint8_t *at, uint8_t *end,
                      uint64_t *scanned)
{
    pmx_arena *a = mux->arena;
    pmx__conn *c = pmx__slot(mux, slot);
    const pmx__framing *framing = c->rules->framing;
    const pmx_framing *f = &c->rules->policy.framing;
    uint32_t first = mux->rows;
    uint32_t gap = a->no_gaps || !framing->tail ? 0 : framing->tail(f);
    if (first && a->gap != gap)
        return at;
    pmx__run run = {
        .at = at, .end = end, .to = a->data + a->size, .scanned = *scanned,
        .data = a->data, .offsets = a->offsets + 1, .room = mux->max_rows,
        .count = first, .uniform = a->uniform, .gap = gap,
    };
    framing->run(f, &run);
    if (run.count == first)
        return at;
    uint64_t id = pmx__id(slot, c);
    for (uint32_t row = first; row < run.count; row++) {
        a->ids[row] = id;
        a->slots[row] = slot;
    }
    a->gap = gap;
    a->uniform = run.uniform;
    a->size = (uint64_t)(run.to - a->data);
    *scanned = run.scanned;
    note_rows(mux, slot, run.count - first);
    return run.at;
}

/* The width of the tail that stays behind this message, or 0. A batch has gaps
 * of one width behind all its rows, or no gaps. The first row decides; where a
 * later row differs, the gaps before are closed. */
uint32_t pmx__gap_for(pmx_mux *mux, const pmx__conn *c, size_t tail)
{
    pmx_arena *a = mux->arena;
    uint32_t gap = c->rules->framing->tail ? (uint32_t)tail : 0;
    if (a->no_gaps)
        return 0;
    if (!mux->rows)
        a->gap = gap;
    if (a->gap != gap || !gap)
        pmx_close_gaps(a);
    return a->gap;
}
