/* Where connections and listeners are, and the lists that they stand in.
 * Layer 5. */
#ifndef PMX_SLOTS_H
#define PMX_SLOTS_H

#include "frame.h"
#include "transport.h"

/* slots.c: where connections are, their rules, who has work */
pmx__conn *pmx__find(const pmx_mux *mux, uint64_t id);
uint64_t pmx__id(uint32_t slot, const pmx__conn *c);
pmx__rules *pmx__rules_new(const pmx_policy *policy,
                           const pmx__transport *transport);
pmx__rules *pmx__rules_shared(pmx_mux *mux, const pmx_policy *policy,
                              const pmx__transport *transport);
void pmx__rules_drop(pmx_mux *mux, pmx__rules *rules);
int pmx__conn_new(pmx_mux *mux, pmx__rules *rules, uint32_t *slot);
void pmx__conn_free(pmx_mux *mux, uint32_t slot);
void pmx__ready(pmx_mux *mux, uint32_t slot);
void pmx__unready(pmx_mux *mux, uint32_t slot);
/* How many of max_connections are taken: those that linger are counted apart,
 * up to the same number. */
static inline uint32_t pmx__places_taken(const pmx__rules *rules)
{
    uint32_t most = rules->policy.max_connections;
    return rules->connections -
           (rules->lingering < most ? rules->lingering : most);
}
void pmx__may_go(pmx_mux *mux, uint32_t slot);
void pmx__linger_no_more(pmx_mux *mux, uint32_t slot);
int pmx__policy_valid(const pmx_policy *policy);

/* listeners.c */
uint64_t pmx__listener_id(const pmx_mux *mux, const pmx__listener *l);
pmx__listener *pmx__find_listener(const pmx_mux *mux, uint64_t id);
/* A place for a listener, zeroed but for its generation; NULL: no memory. */
pmx__listener *pmx__listener_new(pmx_mux *mux);
void pmx__listener_free(pmx_mux *mux, pmx__listener *l);
void pmx__listener_state(pmx_mux *mux, pmx__listener *l, int can_accept,
                         int full);
void pmx__watch_listener(pmx_mux *mux, pmx__listener *listener);
int pmx__accepting(const pmx_mux *mux);
void pmx__may_accept(pmx_mux *mux, uint64_t listener);

/* report.c: rows that are no messages */
void pmx__say(pmx_mux *mux, uint32_t slot, uint32_t what);
void pmx__report(pmx_mux *mux);

#endif
