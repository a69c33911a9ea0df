/*
 * Peers that were accepted here, and are given to the worker with the fewest
 * connections.
 *
 * The system spreads new connections over the workers' sockets by chance. Where
 * connections live long, chance stays: of 16 connections the busiest of 8 workers
 * has 6. So a worker that has more than the least one gives what it accepts away,
 * before anything of it is read or said.
 *
 * Each worker has a seat in memory that all of them share. It says itself how many
 * connections it has, so that no figure can drift. What is on the way to it stands
 * in `coming`, which who gives raises at once: two that give see each other.
 * `coming` never falls below 0, and whoever made the memory clears it if a worker
 * has died with a gift in hand.
 */
#include "turn.h"

#include <stdlib.h>

struct pmx__seats {
    pmx_seat *all;              /* a file's pages */
    uint32_t count, own;
    uint32_t given, taken;      /* of gifts: waiting, and of these in hand before */
    int in_hand;                /* gifts[taken - 1] is */
    pmx__gift gifts[PMX__ACCEPTS];
};

static int64_t load_of(const pmx_seat *seat)
{
    return (int64_t)seat->here + (seat->coming > 0 ? seat->coming : 0);
}

static void add_coming(pmx_seat *seat, int32_t by)
{
    int32_t is = seat->coming;
    int64_t to;
    do {
        to = (int64_t)is + by;
        if (to < 0 || to > INT32_MAX)
            return;
    } while (!pmx__swap(&seat->coming, &is, (int32_t)to));
}

/* --- beginning and end --------------------------------------------------- */

void pmx__balance_end(pmx_mux *mux)
{
    struct pmx__seats *s = mux->seats;
    if (!s)
        return;
    for (uint32_t i = s->taken - (s->in_hand ? 1 : 0); i < s->given; i++)
        pmx__drop_sock(s->gifts[i].sock);
    pmx__unmap(s->all, s->count * sizeof *s->all);
    free(s);
    mux->seats = NULL;
}

int pmx__do_balance(pmx_mux *mux, int64_t file, uint32_t seats, uint32_t own)
{
    void *all;
    if (mux->forks != pmx__forks())
        return -EPERM;
    if (mux->seats && mux->seats->given)
        return -EAGAIN;
    if (file < 0) {
        pmx__balance_end(mux);
        return 0;
    }
    if (own >= seats || seats > 1u << 16)
        return -EINVAL;
    int error = pmx__map(file, seats * sizeof(pmx_seat), &all);
    if (error)
        return error;
    struct pmx__seats *s = sys_malloc(sizeof *s);
    if (!s) {
        pmx__unmap(all, seats * sizeof(pmx_seat));
        return -ENOMEM;
    }
    pmx__balance_end(mux);
    s->all = all;
    s->count = seats;
    s->own = own;
    s->given = s->taken = 0;
    s->in_hand = 0;
    mux->seats = s;
    pmx__tell_others(mux);
    return 0;
}

/* --- giving ---------------------------------------------------------------- */

void pmx__tell_others(pmx_mux *mux)
{
    struct pmx__seats *s = mux->seats;
    s->all[s->own].here =
        (uint32_t)(mux->stats->connections - mux->stats->outgoing);
}

/* The open seat with the fewest, ours being the first of equals; the next ones
 * come before those far off, so that workers do not all choose the same. */
static uint32_t least_of(const struct pmx__seats *s)
{
    uint32_t best = s->own;
    int64_t least = load_of(&s->all[s->own]);
    for (uint32_t k = 1; k < s->count; k++) {
        uint32_t i = (s->own + k) % s->count;
        if (!s->all[i].open)
            continue;
        int64_t is = load_of(&s->all[i]);
        if (is < least) {
            least = is;
            best = i;
        }
    }
    return best;
}

/* The seat that the next peer goes to, perhaps our own. */
static uint32_t seat_of_next(pmx_mux *mux)
{
    const struct pmx__seats *s = mux->seats;
    pmx__tell_others(mux);
    uint32_t to = least_of(s);
    int64_t least = load_of(&s->all[to]);
    int64_t slack = least / 20 > 1 ? least / 20 : 1;
    int stays = load_of(&s->all[s->own]) + 1 <= least + slack;
    return stays || s->given == PMX__ACCEPTS ? s->own : to;
}

/* A worker that has as many as it may have goes on accepting for another one. A
 * gift that comes back is one too many, and ends that. */
int pmx__passes_on(pmx_mux *mux, const pmx__rules *rules)
{
    return mux->seats && seat_of_next(mux) != mux->seats->own &&
           pmx__places_taken(rules) <= rules->policy.max_connections;
}

int pmx__gives(pmx_mux *mux, const pmx__listener *l, pmx_sock sock,
               const pmx__target *peer)
{
    struct pmx__seats *s = mux->seats;
    if (mux->draining || l->last)
        return 0;
    uint32_t to = seat_of_next(mux);
    if (to == s->own)
        return 0;
    add_coming(&s->all[to], 1);
    s->gifts[s->given++] =
        (pmx__gift){.sock = sock, .listener = pmx__listener_id(mux, l),
                    .seat = to, .peer = *peer};
    return 1;
}

void pmx__came(pmx_mux *mux, uint32_t seat)
{
    if (mux->seats && seat < mux->seats->count)
        add_coming(&mux->seats->all[seat], -1);
}

int pmx__has_gifts(const pmx_mux *mux)
{
    return mux->seats && mux->seats->taken < mux->seats->given;
}

uint32_t pmx__gifts(const pmx_mux *mux)
{
    const struct pmx__seats *s = mux->seats;
    return s ? s->given - s->taken + (s->in_hand ? 1 : 0) : 0;
}

const pmx__gift *pmx__in_hand(pmx_mux *mux)
{
    struct pmx__seats *s = mux->seats;
    if (!s || !s->in_hand)
        return NULL;
    s->in_hand = 0;
    const pmx__gift *gift = &s->gifts[s->taken - 1];
    if (s->taken == s->given)
        s->taken = s->given = 0;
    return gift;
}

const pmx__gift *pmx__next_gift(pmx_mux *mux)
{
    if (!pmx__has_gifts(mux))
        return NULL;
    mux->seats->in_hand = 1;
    return &mux->seats->gifts[mux->seats->taken++];
}

/* The worker's share of max_connections has changed. */
int pmx__do_set_most(pmx_mux *mux, uint64_t id, uint32_t most)
{
    pmx__listener *l = pmx__find_listener(mux, id);
    if (!l)
        return -ENOENT;
    if (!most || !l->rules->policy.max_connections)
        return -EINVAL;
    l->rules->policy.max_connections = most;    /* no other listener has these */
    mux->room = 1;              /* one that was full may accept again */
    return 0;
}
