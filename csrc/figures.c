/*
 * Where a mux counts: in memory of its own, or in a file that other processes
 * see. They read at any time, and hold nobody up: so each figure is one
 * aligned word, which a machine stores at once.
 */
#include "core.h"

#include <errno.h>
#include <string.h>

enum { POWERS = sizeof((pmx_stats *)0)->turn_ns / sizeof(uint64_t) };

/* Count a value by its power of two, which a double has as its exponent. No
 * other way to have it costs nothing and is C for every compiler. */
static void note(uint64_t *powers, uint64_t value)
{
    double as_double = (double)(int64_t)(value | 1);
    uint64_t bits;
    memcpy(&bits, &as_double, sizeof bits);
    uint64_t power = (bits >> 52) - 1023;
    powers[power < POWERS ? power : POWERS - 1]++;
}

void pmx__turn_begins(pmx_mux *mux, int has_sent)
{
    pmx_stats *s = mux->stats;
    uint64_t now = (uint64_t)mux->now, since = s->in_handler_since;
    if (since) {
        s->outside_sum += now - since;
        note(s->outside_ns, now - since);
    }
    s->in_handler_since = 0;
    s->last_turn = now;
    mux->sent_ns = has_sent ? pmx__now() - mux->now : 0;
}

/* A socket that is full, or ended, needs no further byte. */
static void wake_watcher(pmx_mux *mux)
{
    mux->stats->asleep = 0;
    if (mux->watcher != PMX__NO_SOCK &&
        pmx__send(mux->watcher, "", 1) == -ENOBUFS)
        mux->stats->asleep = 1;         /* the next turn tries again */
}

void pmx__turn_ends(pmx_mux *mux)
{
    pmx_stats *s = mux->stats;
    int64_t now = pmx__now();
    uint64_t took = (uint64_t)(now - mux->now + mux->sent_ns);
    s->turn_sum += took;
    note(s->turn_ns, took);
    if (mux->rows && !mux->gathering)
        note(s->turn_rows, mux->rows);
    s->ready = mux->ready_count;
    /* The compiler keeps the order of these two, and a machine makes a store
     * seen within microseconds. A watcher looks half a second after it has set
     * `asleep`, so no fence is needed here. */
    *(volatile uint64_t *)&s->in_handler_since = (uint64_t)now;
    if (*(volatile uint64_t *)&s->asleep)
        wake_watcher(mux);
}

void pmx__do_wakes(pmx_mux *mux, int64_t sock)
{
    mux->watcher = sock < 0 ? PMX__NO_SOCK : (pmx_sock)sock;
}

/* Count in the mux's own memory again; the file keeps its figures. */
void pmx__count_in_own(pmx_mux *mux)
{
    if (!mux->shared)
        return;
    mux->own = *mux->stats;
    mux->stats = &mux->own;
    mux->own.asleep = 0;
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
