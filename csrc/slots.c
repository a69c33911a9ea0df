/*
 * Slots: where connections are, and the policies that they live by. Nothing
 * here knows what a connection does.
 *
 * An id is `generation << 32 | slot`. The generation is odd while the slot is
 * in use. Free slots are used first in, first out, and a slot that is freed in
 * one turn is used in the next at the earliest. So no event that is meant for
 * a connection can meet the next one in its slot. A slot whose generations are
 * used up is retired.
 */
#include "slots.h"

#include <stdlib.h>
#include <string.h>

pmx__conn *pmx__find(const pmx_mux *mux, uint64_t id)
{
    uint32_t slot = (uint32_t)id;
    if (slot >= mux->slots)
        return NULL;
    pmx__conn *c = pmx__slot(mux, slot);
    return c->generation & 1 && c->generation == id >> 32 ? c : NULL;
}

uint64_t pmx__id(uint32_t slot, const pmx__conn *c)
{
    return (uint64_t)c->generation << 32 | slot;
}

/* --- rules ------------------------------------------------------------- */

int pmx__policy_valid(pmx_mux *mux, const pmx_policy *policy)
{
    return pmx__framing_valid(&policy->framing) &&
           (!policy->replies.other || pmx__framing_valid(&policy->replies)) &&
           policy->proxy <= mux->trust_count &&
           pmx__find_service(mux, policy->service);
}

pmx__rules *pmx__rules_new(pmx_mux *mux, const pmx_policy *policy,
                           const pmx__transport *transport)
{
    pmx__rules *rules = sys_calloc(1, sizeof *rules);
    if (!rules)
        return NULL;
    rules->policy = *policy;
    rules->framing = pmx__framing_of(&policy->framing);
    rules->out = policy->replies.other ? &rules->policy.replies
                                       : &rules->policy.framing;
    rules->out_framing = pmx__framing_of(rules->out);
    rules->transport = transport;
    rules->service = pmx__find_service(mux, policy->service);
    rules->refs = 1;
    return rules;
}

/* FNV-1a. */
static uint32_t hash_of(const pmx_policy *policy)
{
    const uint8_t *bytes = (const uint8_t *)policy;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < sizeof *policy; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

static pmx__rules **place_of(const pmx_mux *mux, uint32_t hash)
{
    return &mux->rules[hash & (mux->rules_room - 1)];
}

/* Double the room when the table is full. If that fails, the table still works:
 * its lists get longer. */
static int grow_table(pmx_mux *mux)
{
    uint32_t before = mux->rules_room, room = before ? 2 * before : 16;
    if (mux->rules_count < before)
        return 0;
    pmx__rules **grown = sys_calloc(room, sizeof *grown), **old = mux->rules;
    if (!grown)
        return before ? 0 : -ENOMEM;
    mux->rules = grown;
    mux->rules_room = room;
    for (uint32_t i = 0; i < before; i++)
        while (old[i]) {
            pmx__rules *rules = old[i], **place = place_of(mux, rules->hash);
            old[i] = rules->next;
            rules->next = *place;
            *place = rules;
        }
    free(old);
    return 0;
}

static pmx__rules *find_rules(pmx_mux *mux, const pmx_policy *policy,
                              const pmx__transport *transport,
                              pmx__rules *first)
{
    uint32_t hash = hash_of(policy);
    pmx__rules *rules;
    if (grow_table(mux))
        return NULL;
    for (rules = *place_of(mux, hash); rules; rules = rules->next)
        if (rules->hash == hash && rules->transport == transport &&
            rules->first == first &&
            !memcmp(&rules->policy, policy, sizeof *policy)) {
            rules->refs++;
            return rules;
        }
    rules = pmx__rules_new(mux, policy, transport);
    if (!rules)
        return NULL;
    rules->hash = hash;
    rules->reused = 1;
    rules->first = first;
    if (first)
        first->refs++;
    rules->next = *place_of(mux, hash);
    *place_of(mux, hash) = rules;
    mux->rules_count++;
    return rules;
}

pmx__rules *pmx__rules_reused(pmx_mux *mux, const pmx_policy *policy,
                              const pmx__transport *transport)
{
    return find_rules(mux, policy, transport, NULL);
}

pmx__rules *pmx__rules_switched(pmx_mux *mux, pmx__rules *from,
                                const pmx_policy *policy)
{
    pmx_policy common = *policy;
    common.connect_ns = -1;     /* connecting is over: see dial.c */
    return find_rules(mux, &common, from->transport,
                      from->first ? from->first : from);
}

void pmx__rules_drop(pmx_mux *mux, pmx__rules *rules)
{
    while (rules && !--rules->refs) {
        pmx__rules *first = rules->first;
        if (rules->reused) {
            pmx__rules **place = place_of(mux, rules->hash);
            while (*place != rules)
                place = &(*place)->next;
            *place = rules->next;
            mux->rules_count--;
        }
        free(rules);
        rules = first;
    }
}

/* --- slots ------------------------------------------------------------- */

/* Make room for more slots: one slab. Slabs are small, so that they fit into
 * the memory that the caller's own growing tables leave behind. A small mux
 * begins with a part of the first slab, which moves as it grows. So no pointer
 * to a slot may be kept while a connection is made. */
static int more_slots(pmx_mux *mux)
{
    uint32_t had = mux->slot_room, slab = had / PMX__SLAB;
    uint32_t room = had >= PMX__SLAB ? had + PMX__SLAB
                  : had ? 4 * had : mux->first_slots;
    if (slab == mux->slab_count) {
        size_t slabs = 2 * (size_t)slab + 1;
        pmx__conn **grown = sys_realloc(mux->slabs, slabs * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        memset(grown + slab, 0, (slabs - slab) * sizeof *grown);
        mux->slabs = grown;
        mux->slab_count = (uint32_t)slabs;
    }
    if (mux->due_room < room) {
        uint32_t due_room = 2 * mux->due_room > room ? 2 * mux->due_room : room;
        /* realloc would copy the unused part too, and so take memory for it */
        pmx__deadline *due = sys_malloc(due_room * sizeof *due);
        if (!due)
            return -ENOMEM;
        if (mux->due_count)
            memcpy(due, mux->due, mux->due_count * sizeof *due);
        free(mux->due);
        mux->due = due;
        mux->due_room = due_room;
    }
    uint32_t first = slab * PMX__SLAB;
    pmx__conn *conns =
        sys_realloc(mux->slabs[slab], (room - first) * sizeof *conns);
    if (!conns)
        return -ENOMEM;
    memset(conns + (had - first), 0, (room - had) * sizeof *conns);
    mux->slabs[slab] = conns;
    mux->slot_room = room;
    return 0;
}

int pmx__conn_new(pmx_mux *mux, pmx__rules *rules, uint32_t *slot)
{
    uint32_t s = mux->free.head;
    pmx__conn *c;
    if (s != PMX__NONE) {
        c = pmx__slot(mux, s);
        mux->free.head = c->ready_next;
        if (mux->free.head == PMX__NONE)
            mux->free.tail = PMX__NONE;
    } else {
        if (mux->slots == mux->slot_room && more_slots(mux))
            return -ENOMEM;
        s = mux->slots++;
        c = pmx__slot(mux, s);
    }
    uint32_t generation = c->generation + 1;
    memset(c, 0, sizeof *c);
    c->generation = generation & (2u * PMX__GENERATIONS - 1);
    c->sock = PMX__NO_SOCK;
    c->rules = rules;
    c->ready_prev = c->ready_next = PMX__NONE;
    c->report_next = PMX__NONE;
    c->dirty = PMX__NONE;
    c->row_turn = mux->turn - 1;
    rules->refs++;
    *slot = s;
    return 0;
}

void pmx__conn_free(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__at_free(c);
    pmx__rules_drop(mux, c->rules);
    c->rules = NULL;
    c->flags = 0;
    c->generation++;
    if (c->generation >= PMX__GENERATIONS)
        return;                 /* the slot is retired */
    c->ready_next = PMX__NONE;
    if (mux->free.tail == PMX__NONE)
        mux->free.head = slot;
    else
        pmx__slot(mux, mux->free.tail)->ready_next = slot;
    mux->free.tail = slot;
}

/* --- those that linger ------------------------------------------------- */

static uint32_t *linger_link(pmx_mux *mux, uint32_t place, int newer)
{
    pmx__conn *c = pmx__slot(mux, place - 1);
    return newer ? &c->linger.newer : &c->linger.older;
}

/* The connection is the newest that may go. It has no carry any more: the links
 * of the list use that place. */
void pmx__may_go(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__rules *rules = pmx__counted_by(c);
    c->lingers = PMX__MAY_GO;
    c->linger.older = rules->newest;
    c->linger.newer = 0;
    *(rules->newest ? linger_link(mux, rules->newest, 1) : &rules->oldest) =
        slot + 1;
    rules->newest = slot + 1;
}

void pmx__linger_no_more(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__rules *rules = pmx__counted_by(c);
    if (c->lingers == PMX__MAY_GO) {
        uint32_t older = c->linger.older, newer = c->linger.newer;
        *(newer ? linger_link(mux, newer, 0) : &rules->newest) = older;
        *(older ? linger_link(mux, older, 1) : &rules->oldest) = newer;
        c->carry = NULL;
    }
    if (c->lingers)
        rules->lingering--;
    c->lingers = PMX__LINGERS_NOT;
}
