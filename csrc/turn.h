/* The steps of a turn, which the mux takes in order. Layer 7. entry.c lets one
 * thread in to a function with do_; in pymux.h it has the name without. */
#ifndef PMX_TURN_H
#define PMX_TURN_H

#include "moving.h"
#include "state.h"

/* wait.c: until when, and what the poller reports */
/* Nanoseconds for which waiting for events makes no sense: 0, or a moment if
 * the only work is a send that was refused for want of memory; -1: wait. */
int64_t pmx__at_once(const pmx_mux *mux);
/* When the mux must act, whatever the descriptors do. */
int64_t pmx__next_act(const pmx_mux *mux);
/* Wait until then (INT64_MAX: for ever; in the past: only look). The number of
 * events in mux->events, or -errno. */
int pmx__wait(pmx_mux *mux, int64_t until);
/* doze.c: let a batch gather. As pmx__wait(), but a batch that gathers waits a
 * part of the time on the wakeup alone, and then only looks for events. */
int pmx__doze_or_wait(pmx_mux *mux, int64_t until);
int64_t pmx__do_doze(pmx_mux *mux, int64_t least);
/* The batch is handed over: note how its messages came. */
void pmx__note_gathering(pmx_mux *mux);

/* wait.c again */
/* True if the wakeup was among the events. */
int pmx__note_events(pmx_mux *mux, int count);
void pmx__ask_sockets(pmx_mux *mux);
int64_t pmx__do_next_timeout(pmx_mux *mux);
int pmx__do_foreign(pmx_mux *mux, int64_t number, uint32_t had,
                    uint32_t wanted);

/* balance.c: peers that are given to other workers */
int pmx__do_balance(pmx_mux *mux, int64_t file, uint32_t seats, uint32_t own);
void pmx__balance_end(pmx_mux *mux);
/* Tell the others how many connections are here. */
void pmx__tell_others(pmx_mux *mux);
/* True if the next peer goes to another worker, though this one is full. */
int pmx__passes_on(pmx_mux *mux, const pmx__rules *rules);
/* True if a peer that was accepted is another worker's now. */
int pmx__gives(pmx_mux *mux, const pmx__listener *l, pmx_sock sock,
               const pmx__target *peer);
/* One that was meant for the seat has arrived, or never will. */
void pmx__came(pmx_mux *mux, uint32_t seat);
int pmx__has_gifts(const pmx_mux *mux);
/* How many may come back, since they were not sent yet. */
uint32_t pmx__gifts(const pmx_mux *mux);
/* Take one in hand; NULL: there is none. */
const pmx__gift *pmx__next_gift(pmx_mux *mux);
/* The gift in hand, which is no more; NULL: there is none. */
const pmx__gift *pmx__in_hand(pmx_mux *mux);

/* accept.c: listeners */
int pmx__do_given(pmx_mux *mux, pmx_gift *gift);
int pmx__do_gave(pmx_mux *mux, uint32_t was_sent);
int pmx__do_admit(pmx_mux *mux, int64_t number, uint64_t listener,
                  const pmx_address *peer, uint32_t seat);
void pmx__accept_all(pmx_mux *mux);
void pmx__close_listener(pmx_mux *mux, pmx__listener *listener, int forked);
int pmx__do_listen(pmx_mux *mux, const pmx_endpoint *endpoint,
                   const pmx_policy *policy, int backlog, int reuse_port,
                   uint32_t mode, uint64_t *listener);
int pmx__do_listen_beside(pmx_mux *mux, const pmx_endpoint *endpoint,
                          uint64_t beside, int backlog, int reuse_port,
                          uint64_t *listener);
int pmx__do_listen_on(pmx_mux *mux, int64_t sock, const pmx_policy *policy,
                      uint64_t *listener);
int pmx__do_unlisten(pmx_mux *mux, uint64_t listener);
int pmx__do_set_most(pmx_mux *mux, uint64_t listener, uint32_t most);
int pmx__do_listener_address(pmx_mux *mux, uint64_t listener,
                             pmx_address *name);
void pmx__do_drain(pmx_mux *mux);
void pmx__do_retire(pmx_mux *mux);

/* shake.c: handshakes of TLS */
/* The connection's TCP is connected, with that peer: 0 or -ENOMEM. Its handshake
 * has until that time, or less by its policy. */
int pmx__tls_begin(pmx_mux *mux, uint32_t slot, const pmx__target *peer,
                   int64_t until);
/* From now on the connection waits for its object. */
void pmx__tls_wait(pmx_mux *mux, uint32_t slot);
/* The socket of a connection that shakes hands is ready for something. */
void pmx__shake(pmx_mux *mux, uint32_t slot);
int pmx__do_tls_adopt(pmx_mux *mux, const uint64_t *ids,
                      const uint64_t *objects, uint32_t count);

/* header.c: connections that await the header of a PROXY */
/* The connection was accepted of that balancer: 0 or -ENOMEM. */
/* The header that a connection has brought along is whole. -EINVAL: it is none of
 * version 2. */
int pmx__header_again(pmx__conn *c, const pmx__target *balancer,
                      const void *bytes, size_t size);
int pmx__header_begin(pmx__conn *c, const pmx__target *balancer);
/* Its socket is ready for something. */
void pmx__hear_header(pmx_mux *mux, uint32_t slot);

/* dial.c: outgoing connections */
void pmx__connected(pmx_mux *mux, uint32_t slot);
int pmx__do_connect(pmx_mux *mux, const pmx_endpoint *endpoints,
                    uint32_t count, const pmx_policy *policy, uint64_t *id);
int pmx__do_adopt(pmx_mux *mux, int64_t number, uint32_t pipe,
                  const pmx_policy *policy, uint64_t *id);

/* move.c: connections that leave for another mux, and arrive */
int pmx__do_held(pmx_mux *mux, uint64_t id, pmx_moving *moving);
int64_t pmx__do_detach(pmx_mux *mux, uint64_t id, void *input, void *output);
int pmx__do_attach(pmx_mux *mux, int64_t number, uint64_t listener,
                   const pmx_policy *policy, const pmx_moving *moving,
                   uint64_t *id);

/* input.c, input_end.c */
int pmx__take_in(pmx_mux *mux, uint32_t slot);
void pmx__limit_input(pmx_mux *mux, uint32_t slot);

/* log.c, output.c: the log, and sending */
void pmx__take_log(pmx_mux *mux, const pmx_block *blocks, uint32_t count);
void pmx__flush(pmx_mux *mux, uint32_t slot);

/* ask.c: what the caller may ask of a connection */
int pmx__do_addresses(pmx_mux *mux, uint64_t id, pmx_address *names);
int pmx__do_refused_peer(pmx_mux *mux, pmx_address *name);
int pmx__do_refused_header(pmx_mux *mux, pmx_address *names);
int pmx__do_proxy_of(pmx_mux *mux, uint64_t id, pmx_proxied *told);
int pmx__do_policy_of(const pmx_mux *mux, uint64_t id, pmx_policy *policy);
uint64_t pmx__do_queued(const pmx_mux *mux, uint64_t id);
int64_t pmx__do_pass_over(const pmx_mux *mux, uint64_t *ids, uint32_t count,
                          uint64_t most);
int64_t pmx__do_unacknowledged(const pmx_mux *mux, uint64_t id);
int64_t pmx__do_socket(const pmx_mux *mux, uint64_t id);
int pmx__do_credentials(const pmx_mux *mux, uint64_t id, int64_t of[3]);
int pmx__do_pending(const pmx_mux *mux, uint64_t id);
int pmx__do_stopping(const pmx_mux *mux, uint64_t id);
int64_t pmx__do_accepted(const pmx_mux *mux, uint64_t *ids, uint32_t room);

#endif
