/*
 * Where a mux counts: in memory of its own, or in a file that other processes
 * see. They read at any time, and hold nobody up: so each figure is one
 * aligned word, which a machine stores at once.
 */
#include "core.h"

/* What was counted stays in the file. */
void pmx__count_in_own(pmx_mux *mux)
{
    if (!mux->shared)
        return;
    mux->own = *mux->stats;
    mux->stats = &mux->own;
    pmx__unmap(mux->shared, mux->shared_size);
    mux->shared = NULL;
}

int pmx__do_count_in(pmx_mux *mux, int64_t file, uint64_t offset)
{
    void *shared;
    if (mux->forks != pmx__forks())
        return -EPERM;
    if (offset % 8 || offset > SIZE_MAX / 2)
        return -EINVAL;
    size_t size = (size_t)offset + sizeof(pmx_stats);
    int error = pmx__map(file, size, &shared);
    if (error)
        return error;
    pmx__count_in_own(mux);
    pmx_stats *place = (pmx_stats *)(void *)((uint8_t *)shared + offset);
    *place = *mux->stats;
    mux->stats = place;
    mux->shared = shared;
    mux->shared_size = size;
    return 0;
}
