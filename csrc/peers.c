/*
 * How many connections of a listener each peer address has, for max_per_peer: a
 * table, so that this costs an accept one step, however many there are.
 *
 * An address stands in the first free place from the one on that its hash
 * says. Strangers choose addresses, so the hash has a seed that they do not
 * know. The table has room for the addresses of open connections, and is freed
 * with the last of them.
 */
#include "slots.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 16 };

/* What counts as one peer: an address of IPv4, written as one of IPv6 or not,
 * or the first half of one of IPv6, which is what a network has. 0: no such
 * address. */
static int key_of(pmx__rules *rules, const pmx__target *peer,
                  pmx__peer_count *key)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    const uint8_t *ip = (const uint8_t *)&peer->to.v6.sin6_addr;
    int family = pmx__family(peer);
    *key = (pmx__peer_count){.rules = rules};
    if (family == 4) {
        memcpy(&key->net, &peer->to.v4.sin_addr, 4);
    } else if (family == 6 && !memcmp(ip, mapped, sizeof mapped)) {
        memcpy(&key->net, ip + 12, 4);
    } else if (family == 6) {
        memcpy(&key->net, ip, 8);
        key->is6 = 1;
    }
    return family == 4 || family == 6;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 33) * UINT64_C(0xff51afd7ed558ccd);
    x = (x ^ x >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}

static uint32_t home_of(const pmx_mux *mux, const pmx__peer_count *key)
{
    uint64_t rules = (uint64_t)(uintptr_t)key->rules + key->is6;
    return (uint32_t)mix(key->net ^ mix(rules ^ mux->peer_seed)) &
           (mux->peer_room - 1);
}

/* The place of the key, or the free one where the key would stand. */
static pmx__peer_count *place_of(const pmx_mux *mux,
                                 const pmx__peer_count *key)
{
    uint32_t at = home_of(mux, key);
    for (;; at = (at + 1) & (mux->peer_room - 1)) {
        pmx__peer_count *is = &mux->peers[at];
        if (!is->rules || (is->rules == key->rules && is->net == key->net &&
                           is->is6 == key->is6))
            return is;
    }
}

/* Room for another. A table that cannot grow is filled, but for one place. */
static int make_room(pmx_mux *mux)
{
    uint32_t had = mux->peer_room, room = had ? 2 * had : FIRST_ROOM;
    if (mux->peer_used < had / 4 * 3)
        return 0;
    pmx__peer_count *old = mux->peers;
    pmx__peer_count *grown = room > had ? sys_calloc(room, sizeof *grown)
                                        : NULL;
    if (!grown)
        return mux->peer_used + 1 < had ? 0 : -ENOMEM;
    if (!had)
        mux->peer_seed = mix((uint64_t)pmx__now() ^
                             (uint64_t)(uintptr_t)grown << 24);
    mux->peers = grown;
    mux->peer_room = room;
    for (uint32_t i = 0; i < had; i++)
        if (old[i].rules)
            *place_of(mux, &old[i]) = old[i];
    free(old);
    return 0;
}

int pmx__peer_comes(pmx_mux *mux, pmx__rules *rules, const pmx__target *peer)
{
    pmx__peer_count key;
    if (!rules->policy.max_per_peer || !key_of(rules, peer, &key))
        return 0;
    int error = make_room(mux);
    if (error)
        return error;
    pmx__peer_count *is = place_of(mux, &key);
    if (!is->rules) {
        *is = key;
        mux->peer_used++;
    }
    if (is->count >= rules->policy.max_per_peer)
        return -EACCES;
    is->count++;
    return 1;
}

/* Close the gap: who stands behind it, and further from home, moves into it. */
static void take_out(pmx_mux *mux, uint32_t gap)
{
    uint32_t mask = mux->peer_room - 1;
    for (uint32_t at = (gap + 1) & mask; mux->peers[at].rules;
         at = (at + 1) & mask) {
        uint32_t home = home_of(mux, &mux->peers[at]);
        if (((at - home) & mask) >= ((at - gap) & mask)) {
            mux->peers[gap] = mux->peers[at];
            gap = at;
        }
    }
    mux->peers[gap].rules = NULL;
}

void pmx__peer_leaves(pmx_mux *mux, pmx__rules *rules, const pmx__target *peer)
{
    pmx__peer_count key;
    (void)key_of(rules, peer, &key);
    pmx__peer_count *is = place_of(mux, &key);
    if (--is->count)
        return;
    take_out(mux, (uint32_t)(is - mux->peers));
    if (!--mux->peer_used) {
        free(mux->peers);
        mux->peers = NULL;
        mux->peer_room = 0;
    }
}
