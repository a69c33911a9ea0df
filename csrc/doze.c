/*
 * Dozing: how a batch waits that gathers messages. Each event would wake the
 * thread for a few rows, and at a steady stream of messages that costs as much
 * as no gathering. So a mux whose batch has a row waits for a slice of
 * max_delay on its wakeup alone, then serves all that is ready, and so on.
 *
 * A byte on the wakeup, or a signal, ends the doze, and so does each time at
 * which the mux has to act. Slices grow, for peers that answer at once: equal
 * slices of max_delay / 4 left a ping-pong of 10 connections 0.15 of its
 * throughput. Where each connection has brought a row long before max_delay,
 * the peers wait for answers, and the next batch does not doze.
 *
 * Where a loop of the caller's waits for the mux, the loop dozes: it does not
 * watch the poller for a slice. A slice then lasts long enough for each
 * connection to bring a row whether its peer waits or not. So where each one
 * has by the end of the first slice, a batch that does not doze finds out.
 */
#include "turn.h"

/* Nanoseconds: the shortest slice, so that a doze saves more than it costs; the
 * longest one, so that enough messages are soon noticed beside a long
 * max_delay; and the longest one while others wait for their turn. */
enum { LEAST = 30000, MOST = 10000000, BESIDE_OTHERS = 200000 };

/* True if nobody else waits: no queued output for room in the kernel, and no
 * connection has another service. */
static int is_alone(const pmx_mux *mux)
{
    return !mux->stats->queued && mux->sources == mux->serving->sources;
}

/* Note how fast messages came during the last slice. */
static void note_pace(pmx_mux *mux)
{
    uint32_t came = mux->rows - mux->dozed_rows;
    if (mux->slice)
        mux->serving->pace = came ? (mux->now - mux->dozed_at) / came : 0;
}

/* The time in which the missing messages come at that pace. */
static int64_t span_of_missing(const pmx_mux *mux)
{
    const pmx__service *s = mux->serving;
    return s->pace ? s->pace * (int64_t)(s->min_messages - mux->rows)
                   : INT64_MAX;
}

static int may_doze(const pmx_mux *mux)
{
    return mux->rows && !mux->serving->is_answered && !mux->draining;
}

static int64_t next_slice(const pmx_mux *mux, int64_t least)
{
    int64_t delay = mux->serving->max_delay_ns;
    int64_t slice = mux->slice ? pmx__earlier(2 * mux->slice, delay / 4)
                               : delay / 32;
    slice = pmx__earlier(slice, span_of_missing(mux));
    slice = pmx__earlier(slice, is_alone(mux) ? MOST : BESIDE_OTHERS);
    return slice < least ? least : slice;
}

static void begin_slice(pmx_mux *mux, int64_t slice)
{
    mux->slice = slice;
    mux->slices++;
    mux->dozed_at = mux->now;
    mux->dozed_rows = mux->rows;
}

/* 1 if the mux dozed, 0 if it is to wait for events, or -EINTR. */
static int doze(pmx_mux *mux, int64_t until)
{
    int64_t left = until - mux->now;
    if (!may_doze(mux) || mux->spin_ns || mux->wakeup[0] == PMX__NO_SOCK ||
        left < 2 * (int64_t)LEAST)
        return 0;
    note_pace(mux);
    /* the poller waits for the last moment, so that it is not missed */
    int64_t slice = pmx__earlier(next_slice(mux, LEAST), left - LEAST);
    int woken = pmx__wakeup_wait(mux->wakeup, slice);
    if (woken < 0)
        return woken == -EINTR ? woken : 0;
    begin_slice(mux, slice);
    return 1;
}

int64_t pmx__do_doze(pmx_mux *mux, int64_t least)
{
    if (!mux->gathering || !may_doze(mux) || !is_alone(mux) ||
        pmx__at_once(mux) >= 0)
        return 0;
    mux->now = pmx__now();
    mux->loop_least = least;
    int64_t until = pmx__earlier(mux->gathered_at, pmx__next_act(mux));
    if (until - mux->now < least / 2)
        return 0;
    if (mux->dozed_at + mux->slice <= mux->now) {
        note_pace(mux);
        if (mux->slices && mux->rows == mux->dozed_rows) {
            mux->slice = 0;     /* a quiet one: the next event ends the wait */
            return 0;
        }
        begin_slice(mux, next_slice(mux, least));
    }
    return pmx__earlier(mux->dozed_at + mux->slice, until) - mux->now;
}

int pmx_woken_fd(const pmx_mux *mux)
{
    return (int)mux->wakeup[0];
}

int pmx__doze_or_wait(pmx_mux *mux, int64_t until)
{
    int dozed = doze(mux, until);
    return dozed < 0 ? dozed : pmx__wait(mux, dozed ? 0 : until);
}

/* A try that was in vain has about twice as many suspicions pass before the
 * next one, up to so many. */
enum { MOST_SUSPICIONS = 63 };

void pmx__note_gathering(pmx_mux *mux)
{
    pmx__service *s = mux->serving;
    int64_t begun = mux->gathered_at - s->max_delay_ns;
    int64_t soon = s->max_delay_ns / 8;
    if (soon < mux->loop_least / 2)
        soon = mux->loop_least / 2;
    note_pace(mux);
    if (mux->rows && s->max_delay_ns) {
        int all = mux->row_conns >= s->sources;
        if (all && mux->now - begun < soon) {
            s->is_answered = 1;
            s->try_after = s->was_late = 0;
        } else if (s->is_answered && all && !s->was_late) {
            s->was_late = 1;    /* perhaps a busy machine: once more */
        } else if (s->is_answered) {
            s->is_answered = s->suspicions = s->was_late = 0;
            if (s->try_after < MOST_SUSPICIONS)
                s->try_after = 2 * s->try_after + 1;
        } else if (all && mux->slices == 1) {
            s->is_answered = ++s->suspicions > s->try_after;
        }
    }
    mux->slice = 0;
    mux->slices = 0;
}
