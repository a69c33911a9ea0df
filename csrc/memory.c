/* A mux's tables, and the memory that goes back to the system. */
#include "core.h"

#include <stdlib.h>

void pmx__free_tables(pmx_mux *mux)
{
    free(mux->events);
    free(mux->opened);
    free(mux->ended);
    free(mux->blocked);
    free(mux->drained);
    free(mux->closed);
    free(mux->ending);
    free(mux->idle);
    free(mux->row_slots);
    free(mux->scratch);
}

int pmx__allocate_tables(pmx_mux *mux)
{
    size_t rows = mux->max_rows;
    mux->events = sys_calloc(mux->event_room, sizeof *mux->events);
    mux->opened = sys_calloc(rows, sizeof *mux->opened);
    mux->ended = sys_calloc(rows, sizeof *mux->ended);
    mux->blocked = sys_calloc(rows, sizeof *mux->blocked);
    mux->drained = sys_calloc(rows, sizeof *mux->drained);
    mux->closed = sys_calloc(rows, sizeof *mux->closed);
    mux->ending = sys_calloc(rows, sizeof *mux->ending);
    mux->idle = sys_calloc(rows, sizeof *mux->idle);
    mux->row_slots = sys_calloc(rows, sizeof *mux->row_slots);
    mux->scratch = sys_malloc(mux->scratch_size);
    return mux->events && mux->opened && mux->ended && mux->blocked &&
                   mux->drained && mux->closed && mux->ending &&
                   mux->idle && mux->row_slots && mux->scratch
               ? 0 : -ENOMEM;
}

/* glibc maps every block over 128 KiB until one has been freed. From then on
 * blocks up to that size come from its heap, which is trimmed when twice as
 * much is free. Without that, the pages of a handler that makes some large
 * objects each turn are mapped and cleared every time: with 64 KiB messages
 * this took up to 40% of a server's CPU (measured). So one block is freed here
 * when there is much to handle; up to 2 MiB that are free stay with the
 * process. */
void pmx__keep_freed_memory(pmx_mux *mux)
{
    void *volatile block = sys_malloc(1 << 20);
    free(block);
    mux->keeps_memory = 1;
}

/* The allocator keeps freed memory among memory in use, however much. It is
 * told to give that back, seldom: for so many bytes, and after so long. */
void pmx__give_memory_back(pmx_mux *mux)
{
    uint64_t buffers = mux->stats->buffers;
    if (buffers > mux->most_buffers)
        mux->most_buffers = buffers;
    if (mux->most_buffers < PMX__TRIM_LEAST)
        return;
    if (buffers > mux->most_buffers / 4) {
        mux->trim_at = 0;
    } else if (!mux->trim_at) {
        mux->trim_at = mux->now + PMX__TRIM_NS;
    } else if (mux->now >= mux->trim_at) {
        mux->trim_at = 0;
        mux->most_buffers = buffers;
        pmx__trim_memory();
    }
}
