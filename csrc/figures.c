/*
 * Where a mux counts: in memory of its own, or in memory of the caller's, which
 * other processes may see. They read it at any time, and stop nobody: so each
 * figure is one aligned word, which a machine stores at once.
 */
#include "core.h"

int pmx__do_count_in(pmx_mux *mux, pmx_stats *place)
{
    if (mux->forks != pmx__forks())
        return -EPERM;
    *place = *mux->stats;
    mux->stats = place;
    return 0;
}

/* What was counted stays in the caller's memory too. */
void pmx__count_in_own(pmx_mux *mux)
{
    if (mux->stats != &mux->own)
        mux->own = *mux->stats;
    mux->stats = &mux->own;
}
