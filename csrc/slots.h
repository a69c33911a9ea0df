/* Where connections and listeners are, and the lists that they stand in.
 * Layer 5. */
#ifndef PMX_SLOTS_H
#define PMX_SLOTS_H

#include "frame.h"
#include "transport.h"

/* slots.c: where connections are, and their rules */
pmx__conn *pmx__find(const pmx_mux *mux, uint64_t id);
uint64_t pmx__id(uint32_t slot, const pmx__conn *c);
/* The policy has passed pmx__policy_valid(). */
pmx__rules *pmx__rules_new(pmx_mux *mux, const pmx_policy *policy,
                           const pmx__transport *transport);
pmx__rules *pmx__rules_reused(pmx_mux *mux, const pmx_policy *policy,
                              const pmx__transport *transport);
/* The rules of a connection that switches from `from` to the policy. */
pmx__rules *pmx__rules_switched(pmx_mux *mux, pmx__rules *from,
                                const pmx_policy *policy);
void pmx__rules_drop(pmx_mux *mux, pmx__rules *rules);
int pmx__conn_new(pmx_mux *mux, pmx__rules *rules, uint32_t *slot);
void pmx__conn_free(pmx_mux *mux, uint32_t slot);
/* The rules whose max_connections counts the connection. */
static inline pmx__rules *pmx__counted_by(const pmx__conn *c)
{
    return c->rules->first ? c->rules->first : c->rules;
}
/* The places of max_connections that are taken. Lingering connections count
 * apart, up to the same number. */
static inline uint32_t pmx__places_taken(const pmx__rules *rules)
{
    uint32_t most = rules->policy.max_connections;
    return rules->connections -
           (rules->lingering < most ? rules->lingering : most);
}

static inline int pmx__shakes_most(const pmx__rules *rules)
{
    uint32_t most = rules->policy.max_handshakes;
    return most && rules->shaking >= most;
}
void pmx__may_go(pmx_mux *mux, uint32_t slot);
void pmx__linger_no_more(pmx_mux *mux, uint32_t slot);
int pmx__policy_valid(pmx_mux *mux, const pmx_policy *policy);

/* peers.c */
/* A connection of the peer comes to a listener that has these rules: 1 if the
 * connection is counted, 0 if there is no need to; -EACCES if the peer has
 * max_per_peer of them. */
int pmx__peer_comes(pmx_mux *mux, pmx__rules *rules, const pmx__target *peer);
/* One that was counted has ended. */
void pmx__peer_leaves(pmx_mux *mux, pmx__rules *rules,
                      const pmx__target *peer);

/* listeners.c */
uint64_t pmx__listener_id(const pmx_mux *mux, const pmx__listener *l);
/* The id of a listener with these rules, or 0. */
uint64_t pmx__listener_with(const pmx_mux *mux, const pmx__rules *rules);
pmx__listener *pmx__find_listener(const pmx_mux *mux, uint64_t id);
/* A place for a listener, zeroed but for its generation; NULL: no memory. */
pmx__listener *pmx__listener_new(pmx_mux *mux);
void pmx__listener_free(pmx_mux *mux, pmx__listener *l);
void pmx__listener_state(pmx_mux *mux, pmx__listener *l, int can_accept,
                         int full);
void pmx__watch_listener(pmx_mux *mux, pmx__listener *listener);
int pmx__accepting(const pmx_mux *mux);
void pmx__may_accept(pmx_mux *mux, uint64_t listener);

/* services.c */
void pmx__services_begin(pmx_mux *mux);
void pmx__services_end(pmx_mux *mux);
pmx__service *pmx__find_service(pmx_mux *mux, uint32_t number);
int pmx__do_add_service(pmx_mux *mux);
int pmx__do_configure(pmx_mux *mux, uint32_t number, uint32_t min_messages,
                      int64_t max_delay_ns, uint32_t leave_gaps);
/* True if this batch has rows that would be lost if it were not handed over. */
static inline int pmx__has_rows(const pmx_mux *mux)
{
    return mux->rows || mux->opened_count || mux->idle_count;
}
/* True if another service waits for this batch to be handed over. */
static inline int pmx__others_wait(const pmx_mux *mux)
{
    return mux->ready_count > mux->serving->ready_count ||
           mux->report_count > mux->serving->report_count;
}
/* True if the batch may have rows of the service. A batch without rows, of a
 * service that has nothing to report either, becomes one of that service. */
int pmx__claim(pmx_mux *mux, pmx__service *service);
/* A batch without rows goes to the service that is first in line. */
void pmx__next_service(pmx_mux *mux);
/* A batch that would report nothing goes to a service that has reports. */
void pmx__next_reporter(pmx_mux *mux);
/* Put the connection into the ready list of its service, or of chores. */
void pmx__enlist(pmx_mux *mux, uint32_t slot, int chore);
void pmx__unready(pmx_mux *mux, uint32_t slot);
/* Take the connection out of all lists of its service. True if it had something
 * to report. */
int pmx__leave_service(pmx_mux *mux, uint32_t slot);
/* Report this of the connection (0: what its other state says). */
void pmx__say(pmx_mux *mux, uint32_t slot, uint32_t what);

#endif
