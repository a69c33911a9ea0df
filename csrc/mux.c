/*
 * The mux: its life, and the turn.
 *
 * A turn sends, waits, receives and frames, closes, accepts, reports, in this
 * order. A descriptor that a turn accepts can therefore not meet an event that
 * was meant for the connection which had its number before.
 *
 * The mux keeps readiness, not the poller. An event only puts a connection
 * into a ready list, and the connection leaves the list when nothing more can
 * be done for it. When the batch is full, the connections that the turn has
 * not reached keep their places and come first in the next turn, which does
 * not wait. So all connections are served alike, however many are always
 * ready, and edge-triggered pollers need no second look.
 */
#include "mux.h"

#include <stdlib.h>
#include <string.h>

/* --- life -------------------------------------------------------------- */

/* A mux without a wakeup: pmx__do_wakeup_open() adds that. */
static int open_mux(pmx_mux **place, const char *backend, uint32_t rows,
                    uint64_t arena_size, int small)
{
    int error = pmx__net_start();
    if (error)
        return error;
    if (!rows || rows > 1u << 24 || !arena_size || arena_size > INT32_MAX)
        return -EINVAL;
    pmx_mux *mux = sys_calloc(1, sizeof *mux);
    if (!mux)
        return -ENOMEM;
    mux->max_rows = rows;
    mux->arena_most = arena_size;
    mux->event_room = small ? PMX__FEW_EVENTS : PMX__EVENTS;
    mux->scratch_size = small ? PMX__SMALL_SCRATCH : PMX__PORTION;
    mux->first_slots = small ? PMX__FEW_SLOTS : PMX__SLAB;
    mux->forks = pmx__forks();
    mux->stats = &mux->own;
    mux->turn = 1;
    pmx__services_begin(mux);
    mux->free = (pmx__list){PMX__NONE, PMX__NONE};
    mux->free_listeners = mux->accepting = mux->full_listeners = mux->free;
    mux->wakeup[0] = mux->wakeup[1] = mux->watcher = PMX__NO_SOCK;
    error = pmx__allocate_tables(mux);
    if (!error)
        error = pmx__poller_open(backend, 0, &mux->poller, &mux->poll_state);
    if (error) {
        pmx__free_tables(mux);
        free(mux);
        return error;
    }
    mux->now = pmx__now();
    *place = mux;
    return 0;
}

int pmx_open_small(pmx_mux **place, const char *backend,
                   uint32_t max_messages, uint64_t arena_size)
{
    return open_mux(place, backend, max_messages, arena_size, 1);
}

int pmx_open(pmx_mux **place, const char *backend, uint32_t max_messages,
             uint64_t arena_size, int64_t spin_ns)
{
    pmx_mux *mux;
    int error = open_mux(&mux, backend, max_messages, arena_size, 0);
    if (error)
        return error;
    mux->spin_ns = pmx__usable_cpus() > 1 ? spin_ns : 0;
    error = pmx__do_wakeup_open(mux);
    if (error) {
        pmx__do_shut(mux);
        free(mux);
    } else {
        *place = mux;
    }
    return error;
}

int pmx__do_wakeup_open(pmx_mux *mux)
{
    pmx_sock pair[2];
    if (mux->wakeup[0] != PMX__NO_SOCK)
        return 0;
    int error = pmx__wakeup_open(pair);
    if (error)
        return error;
    error = mux->poller->add(mux->poll_state, pair[0], PMX__WAKEUP_TOKEN,
                             PMX__IN);
    if (error) {
        pmx__wakeup_close(pair);
        return error;
    }
    mux->wakeup[0] = pair[0];
    mux->wakeup[1] = pair[1];
    return 0;
}

/* A peer must not take a truncated stream for a whole one. So a connection
 * whose output does not fit into the kernel now is reset. A forked child only
 * closes its descriptors: anything else would be done to the parent. */
static void close_conn(pmx_mux *mux, uint32_t slot, int forked)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (pmx__connects(c))
        pmx__take_socket(mux, c, pmx__sock_of(c), forked);
    if (c->sock != PMX__NO_SOCK && forked) {
        pmx__transport_end(c);
        pmx__drop_sock(c->sock);
    } else if (c->sock != PMX__NO_SOCK) {
        size_t taken;
        while (c->queue && !(c->flags & PMX__CONNECTING) &&
               !pmx__queue_send(mux, c, &taken))
            ;
        int whole = !c->queue;
        if (whole && c->rules->transport->bye)
            (void)c->rules->transport->bye(mux, c);
        pmx__transport_end(c);
        if (c->flags & PMX__IN_POLLER)
            mux->poller->del(mux->poll_state, c->sock);
        if (!whole)
            pmx__reset_end(c);
        else
            pmx__let_go(mux, c);
    }
    pmx__queue_drop(mux, c);
    pmx__linger_no_more(mux, slot);
    pmx__carry_drop(mux, c);
    pmx__at_free(c);
    pmx__rules_drop(mux, c->rules);
}

/* Free all but the mux itself, which a late caller may still look at. */
void pmx__do_shut(pmx_mux *mux)
{
    int forked = pmx_forked(mux);
    if (forked)
        pmx__count_in_own(mux);
    for (uint32_t slot = 0; slot < mux->slots; slot++)
        if (pmx__slot(mux, slot)->generation & 1)
            close_conn(mux, slot, forked);
    for (uint32_t i = 0; i < mux->listener_count; i++)
        if (mux->listeners[i].rules)
            pmx__close_listener(mux, &mux->listeners[i], forked);
    pmx__balance_end(mux);
    pmx__count_in_own(mux);
    mux->poller->close(mux->poll_state);
    if (mux->wakeup[0] != PMX__NO_SOCK)
        pmx__wakeup_close(mux->wakeup);
    mux->wakeup[0] = mux->wakeup[1] = PMX__NO_SOCK;
    for (uint32_t slab = 0; slab < mux->slab_count; slab++)
        free(mux->slabs[slab]);
    free(mux->slabs);
    free(mux->due);
    free(mux->rules);
    free(mux->peers);
    free(mux->listeners);
    free(mux->pieces);
    free(mux->dirty);
    free(mux->wire);
    free(mux->commons);
    free(mux->foreign);
    free(mux->waiting);
    free(mux->failed);
    pmx__area_free(mux->tls);
    pmx__services_end(mux);
    pmx__trusts_end(mux);
    pmx__free_tables(mux);
}

void pmx__do_keep_wakeup(pmx_mux *mux, int64_t *wakeup)
{
    for (int i = 0; i < 2; i++) {
        wakeup[i] = (int64_t)mux->wakeup[i];
        mux->wakeup[i] = PMX__NO_SOCK;
    }
}

void pmx_wakeup_close(const int64_t *wakeup)
{
    const pmx_sock pair[2] = {(pmx_sock)wakeup[0], (pmx_sock)wakeup[1]};
    if (pair[0] != PMX__NO_SOCK)
        pmx__wakeup_close(pair);
}

const char *pmx_name(const pmx_mux *mux)
{
    return mux->poller->name;
}

int pmx_forked(const pmx_mux *mux)
{
    return mux->forks != pmx__forks();
}

const pmx_stats *pmx_counts(const pmx_mux *mux)
{
    return mux->stats;
}

int pmx_wakeup_fd(const pmx_mux *mux)
{
    return (int)mux->wakeup[1];
}

int pmx_wakeup(const pmx_mux *mux)
{
    return mux->wakeup[1] == PMX__NO_SOCK ? 0 : pmx__wakeup_send(mux->wakeup);
}

int pmx__do_fileno(const pmx_mux *mux)
{
    return mux->poller->fileno(mux->poll_state);
}

/* --- the turn ---------------------------------------------------------- */

static void begin_batch(pmx_mux *mux, pmx_arena *arena)
{
    pmx__arena_reset(arena);
    for (uint32_t i = 0; i < mux->closed_count; i++)
        pmx__conn_free(mux, mux->closed[i].slot);
    mux->arena = arena;
    mux->arena_size = mux->arena_most < arena->capacity ? mux->arena_most
                                                        : arena->capacity;
    mux->rows = mux->row_conns = 0;
    mux->full = mux->crowded = 0;
    mux->opened_count = mux->ended_count = mux->blocked_count = 0;
    mux->drained_count = mux->closed_count = 0;
    mux->idle_count = 0;
    mux->handed_at = 0;
    mux->gathered_at = INT64_MAX;
    mux->turn++;
}

void pmx__do_reset_all(pmx_mux *mux, int error)
{
    for (uint32_t slot = 0; slot < mux->slots; slot++)
        if (pmx__slot(mux, slot)->generation & 1)
            pmx__finish(mux, slot, error, 1);
}

/* True if each connection that may bring a row has one, and none has sent a part
 * of another. */
static int all_have_rows(const pmx_mux *mux)
{
    uint32_t have = 0;
    if (mux->row_conns < mux->serving->sources)
        return 0;
    for (uint32_t i = 0; i < mux->row_conns; i++) {
        const pmx__conn *c = pmx__slot(mux, mux->row_slots[i]);
        uint32_t over = c->flags & (PMX__CLOSING | PMX__DONE);     /* no carry */
        if (c->flags & PMX__IN_READY ||
            (!over && c->carry && c->carry->size))
            return 0;
        have += !!(c->flags & PMX__MAY_BRING);
    }
    return have >= mux->serving->sources;
}

static int enough(const pmx_mux *mux)
{
    const pmx__service *s = mux->serving;
    if (!mux->rows)
        return mux->opened_count || s->report_count || mux->idle_count;
    return mux->rows >= s->min_messages || mux->full || mux->crowded ||
           mux->now >= mux->gathered_at || pmx__others_wait(mux) ||
           all_have_rows(mux);
}

/* Handshakes are told with each turn: they are no rows of a batch. */
static int tell_handshakes(const pmx_mux *mux, pmx_turn *t)
{
    t->waiting_count = mux->waiting_count;
    t->waiting = mux->waiting;
    t->failed_count = mux->failed_count;
    t->failed = mux->failed;
    return mux->waiting_count | mux->failed_count ? PMX_HANDSHAKES : 0;
}

static void forget_handshakes(pmx_mux *mux)
{
    for (uint32_t i = 0; i < mux->failed_count; i++)
        pmx__conn_free(mux, mux->failed[i].slot);
    mux->waiting_count = mux->failed_count = 0;
}

/* The batch stays for the next harvest. */
static int put_off(pmx_turn *t)
{
    t->messages = t->opened_count = t->ended_count = t->blocked_count = 0;
    t->drained_count = t->closed_count = t->idle_count = 0;
    t->service = t->mux->serving->number;
    t->done_ns = t->mux->now;
    int reason = PMX_GATHERING | tell_handshakes(t->mux, t);
    t->reason = (uint32_t)reason;
    return reason;
}

static int report(pmx_mux *mux, pmx_turn *t, int reason)
{
    do {                        /* a row may not hold any more */
        pmx__next_reporter(mux);
        pmx__report(mux);
    } while (mux->report_count && !pmx__has_rows(mux) &&
             !(mux->ended_count | mux->blocked_count | mux->drained_count |
               mux->closed_count | mux->failed_count));
    t->service = mux->serving->number;
    if (mux->arena->size >= PMX__LARGE_FRAME && !mux->keeps_memory)
        pmx__keep_freed_memory(mux);
    t->messages = mux->rows;
    t->opened_count = mux->opened_count;
    t->ended_count = mux->ended_count;
    t->blocked_count = mux->blocked_count;
    t->drained_count = mux->drained_count;
    t->closed_count = mux->closed_count;
    t->opened = mux->opened;
    t->ended = mux->ended;
    t->blocked = mux->blocked;
    t->drained = mux->drained;
    t->closed = mux->closed;
    t->idle_count = mux->idle_count;
    t->idle = mux->idle;
    t->foreign_count = mux->foreign_count;
    t->foreign = mux->foreign;
    reason |= tell_handshakes(mux, t);
    if (mux->arena != t->arena)
        reason |= PMX_LARGE;
    t->arena = mux->arena;
    if (mux->opened_count | mux->ended_count | mux->blocked_count |
        mux->drained_count | mux->closed_count | mux->idle_count)
        reason |= PMX_OTHER_ROWS | PMX_ROWS;
    if (mux->rows)
        reason |= PMX_ROWS;
    if (reason & PMX_ROWS || mux->foreign_count)
        mux->handed_at = mux->now;
    if (mux->arena->gap)
        reason |= PMX_GAPS;
    if (mux->notable)
        reason |= PMX_NOTABLE;
    mux->notable = 0;
    t->reason = (uint32_t)reason;
    t->done_ns = mux->now;
    return reason;
}

int pmx__do_submit(pmx_turn *t)
{
    pmx_mux *mux = t->mux;
    if (pmx_forked(mux))
        return -EPERM;
    uint32_t count = t->block_count;
    t->block_count = 0;         /* the log is taken over once */
    mux->now = pmx__now();
    pmx__hand_back(mux, mux->now);
    pmx__take_log(mux, t->blocks, count);
    return 0;
}

/* Serve the sockets that are ready, and whatever is due; the reason to return. */
static int serve_all(pmx_mux *mux)
{
    mux->dropped = mux->flushed = 0;
    mux->shakes = 0;
    pmx__next_service(mux);
    pmx__serve_ready(mux);
    pmx__serve_chores(mux);
    pmx__expire(mux);
    pmx__ask_sockets(mux);
    pmx__accept_all(mux);
    pmx__give_memory_back(mux);
    int reason = pmx__drain_all(mux);
    if (pmx__has_gifts(mux))
        reason |= PMX_GIVEN;
    if (mux->waiting_count)
        reason |= PMX_HANDSHAKES;
    return reason;
}

/* The rest of a turn, once what was logged is sent. */
static int go_round(pmx_turn *t)
{
    pmx_mux *mux = t->mux;
    mux->foreign_count = 0;
    forget_handshakes(mux);
    if (!mux->gathering) {
        begin_batch(mux, t->arena);
        pmx__close_ending(mux);
    }

    int64_t end = t->timeout_ns == PMX_FOR_EVER ? INT64_MAX
                : t->timeout_ns == PMX_LOOK ? mux->now
                : pmx__after(mux->now, t->timeout_ns);
    int reason = 0;
    uint32_t passes = mux->service_count;   /* each service has its turn */
    do {
        int64_t until = pmx__earlier(end, mux->gathered_at);
        until = pmx__earlier(until, pmx__next_act(mux));
        int64_t at_once = pmx__at_once(mux);
        if (at_once >= 0)
            until = pmx__earlier(until, at_once ? mux->now + at_once : 0);
        int count = pmx__doze_or_wait(mux, until);
        mux->now = pmx__now();
        mux->short_of_buffers = 0;
        if (count == -EINTR || (count < 0 && pmx__has_rows(mux)))
            reason |= PMX_INTERRUPTED;  /* a second failure is returned */
        else if (count < 0)
            return count;
        else if (pmx__note_events(mux, count))
            reason |= PMX_WOKEN;
        if (mux->foreign_count)
            reason |= PMX_FOREIGN;

        reason |= serve_all(mux);
        if (mux->rows && mux->gathered_at == INT64_MAX)
            mux->gathered_at = pmx__after(mux->now, mux->serving->max_delay_ns);
        if (t->until_sent && !mux->stats->queued)
            reason |= PMX_ROWS;
        if (mux->notable && !pmx__has_rows(mux))
            break;
    } while (!reason && !enough(mux) &&
             (mux->now < end || (pmx__others_wait(mux) && --passes)));

    /* A connection that waits for its object ends no batch. */
    int goes_on = t->timeout_ns == PMX_LOOK ? !reason || reason == PMX_HANDSHAKES
                                            : reason == PMX_HANDSHAKES && mux->now < end;
    mux->gathering = goes_on && mux->rows && !enough(mux);
    if (mux->rows && !mux->gathering)
        pmx__note_gathering(mux);
    return mux->gathering ? put_off(t) : report(mux, t, reason);
}

int pmx__do_harvest(pmx_turn *t)
{
    pmx_mux *mux = t->mux;
    int has_log = !!t->block_count;
    int result = pmx__do_submit(t);
    if (result)
        return result;
    mux->stats->harvests++;
    pmx__turn_begins(mux, has_log);
    result = go_round(t);
    pmx__turn_ends(mux);
    if (mux->seats)
        pmx__tell_others(mux);
    return result;
}
