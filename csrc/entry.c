/*
 * The door: every call that touches a mux comes through here, one at a time.
 *
 * A mux belongs to one thread, and the caller sees to that. Where the caller
 * fails to, two threads would change the same lists and corrupt the heap. So a
 * call while another thread is inside gets -EBUSY and does nothing, and a call
 * after pmx_shut() gets -EBADF. No call waits for another. The core never
 * calls back, so a thread cannot meet itself here.
 *
 * These calls do not use the door, since any thread may make them: pmx_name,
 * pmx_forked, pmx_counts, pmx_wakeup_fd, pmx_woken_fd, pmx_wakeup.
 */
#include "mux.h"

#include <stdlib.h>

enum { FREE, TAKEN, SHUT };

static int enter(pmx_mux *mux)
{
    int32_t is = FREE;
    if (pmx__swap(&mux->door, &is, TAKEN))
        return 0;
    return is == SHUT ? -EBADF : -EBUSY;
}

static void leave(pmx_mux *mux)
{
    int32_t is = TAKEN;
    (void)pmx__swap(&mux->door, &is, FREE);
}

/* `result` is that of the call, if the mux lets the thread in; else an
 * error. */
#define INSIDE(mux, type, call)  \
    type result = enter(mux);    \
    if (!result) {               \
        result = (call);         \
        leave(mux);              \
    }                            \
    return result

/* --- life -------------------------------------------------------------- */

/* In a forked child no thread is inside: that one was the parent's. */
int pmx_shut(pmx_mux *mux)
{
    int32_t is = FREE;
    if (!pmx__swap(&mux->door, &is, SHUT)) {
        if (is == SHUT)
            return 0;
        if (!pmx_forked(mux))
            return -EBUSY;
        (void)pmx__swap(&mux->door, &is, SHUT);
    }
    pmx__do_shut(mux);
    return 0;
}

int pmx_close(pmx_mux *mux)
{
    int error = pmx_shut(mux);
    if (!error)
        free(mux);
    return error;
}

void pmx_dispose(pmx_mux **place)
{
    pmx_mux *mux = *place;
    *place = NULL;
    if (mux)
        (void)pmx_close(mux);
}

int pmx_wakeup_open(pmx_mux *mux)
{
    INSIDE(mux, int, pmx__do_wakeup_open(mux));
}

int pmx_keep_wakeup(pmx_mux *mux, int64_t *wakeup)
{
    INSIDE(mux, int, (pmx__do_keep_wakeup(mux, wakeup), 0));
}

int pmx_count_in(pmx_mux *mux, int64_t file, uint64_t offset)
{
    INSIDE(mux, int, pmx__do_count_in(mux, file, offset));
}

int pmx_wakes(pmx_mux *mux, int64_t sock)
{
    INSIDE(mux, int, (pmx__do_wakes(mux, sock), 0));
}

/* --- services ------------------------------------------------------------ */

int pmx_add_service(pmx_mux *mux)
{
    INSIDE(mux, int, pmx__do_add_service(mux));
}

int pmx_configure(pmx_mux *mux, uint32_t service, uint32_t min_messages,
                  int64_t max_delay_ns, uint32_t leave_gaps)
{
    INSIDE(mux, int, pmx__do_configure(mux, service, min_messages,
                                       max_delay_ns, leave_gaps));
}

/* --- listeners and connections ----------------------------------------- */

int pmx_tls_adopt(pmx_mux *mux, const uint64_t *ids, const uint64_t *objects,
                  uint32_t count)
{
    INSIDE(mux, int, pmx__do_tls_adopt(mux, ids, objects, count));
}

int pmx_trust(pmx_mux *mux, const pmx_network *networks, uint32_t count)
{
    INSIDE(mux, int, pmx__do_trust(mux, networks, count));
}

int pmx_listen(pmx_mux *mux, const pmx_endpoint *endpoint,
               const pmx_policy *policy, int backlog, int reuse_port,
               uint32_t mode, uint64_t *listener)
{
    INSIDE(mux, int, pmx__do_listen(mux, endpoint, policy, backlog,
                                    reuse_port, mode, listener));
}

int pmx_listen_beside(pmx_mux *mux, const pmx_endpoint *endpoint,
                      uint64_t beside, int backlog, int reuse_port,
                      uint64_t *listener)
{
    INSIDE(mux, int, pmx__do_listen_beside(mux, endpoint, beside, backlog,
                                           reuse_port, listener));
}

int pmx_listen_on(pmx_mux *mux, int64_t sock, const pmx_policy *policy,
                  uint64_t *listener)
{
    INSIDE(mux, int, pmx__do_listen_on(mux, sock, policy, listener));
}

int pmx_unlisten(pmx_mux *mux, uint64_t listener)
{
    INSIDE(mux, int, pmx__do_unlisten(mux, listener));
}

int pmx_set_most(pmx_mux *mux, uint64_t listener, uint32_t most)
{
    INSIDE(mux, int, pmx__do_set_most(mux, listener, most));
}

int pmx_listener_address(pmx_mux *mux, uint64_t listener, pmx_address *name)
{
    INSIDE(mux, int, pmx__do_listener_address(mux, listener, name));
}

int pmx_connect(pmx_mux *mux, const pmx_endpoint *endpoints, uint32_t count,
                const pmx_policy *policy, uint64_t *id)
{
    INSIDE(mux, int, pmx__do_connect(mux, endpoints, count, policy, id));
}

int pmx_adopt(pmx_mux *mux, int64_t number, uint32_t pipe,
              const pmx_policy *policy, uint64_t *id)
{
    INSIDE(mux, int, pmx__do_adopt(mux, number, pipe, policy, id));
}

int pmx_held(pmx_mux *mux, uint64_t id, pmx_moving *moving)
{
    INSIDE(mux, int, pmx__do_held(mux, id, moving));
}

int64_t pmx_detach(pmx_mux *mux, uint64_t id, void *input, void *output)
{
    INSIDE(mux, int64_t, pmx__do_detach(mux, id, input, output));
}

int pmx_attach(pmx_mux *mux, int64_t sock, uint64_t listener,
               const pmx_policy *policy, const pmx_moving *moving,
               uint64_t *id)
{
    INSIDE(mux, int, pmx__do_attach(mux, sock, listener, policy, moving, id));
}

int pmx_balance(pmx_mux *mux, int64_t file, uint32_t seats, uint32_t own)
{
    INSIDE(mux, int, pmx__do_balance(mux, file, seats, own));
}

int pmx_given(pmx_mux *mux, pmx_gift *gift)
{
    INSIDE(mux, int, pmx__do_given(mux, gift));
}

int pmx_gave(pmx_mux *mux, uint32_t was_sent)
{
    INSIDE(mux, int, pmx__do_gave(mux, was_sent));
}

int pmx_admit(pmx_mux *mux, int64_t sock, uint64_t listener,
              const pmx_address *peer, uint32_t seat)
{
    INSIDE(mux, int, pmx__do_admit(mux, sock, listener, peer, seat));
}

int pmx_addresses(pmx_mux *mux, uint64_t id, pmx_address *names)
{
    INSIDE(mux, int, pmx__do_addresses(mux, id, names));
}

int pmx_refused_peer(pmx_mux *mux, pmx_address *name)
{
    INSIDE(mux, int, pmx__do_refused_peer(mux, name));
}

int pmx_refused_header(pmx_mux *mux, pmx_address *names)
{
    INSIDE(mux, int, pmx__do_refused_header(mux, names));
}

int pmx_proxy_of(pmx_mux *mux, uint64_t id, pmx_proxied *told)
{
    INSIDE(mux, int, pmx__do_proxy_of(mux, id, told));
}

int pmx_policy_of(pmx_mux *mux, uint64_t id, pmx_policy *policy)
{
    INSIDE(mux, int, pmx__do_policy_of(mux, id, policy));
}

uint64_t pmx_queued(pmx_mux *mux, uint64_t id)
{
    if (enter(mux))
        return UINT64_MAX;
    uint64_t queued = pmx__do_queued(mux, id);
    leave(mux);
    return queued;
}

int64_t pmx_pass_over(pmx_mux *mux, uint64_t *ids, uint32_t count,
                      uint64_t most)
{
    INSIDE(mux, int64_t, pmx__do_pass_over(mux, ids, count, most));
}

int64_t pmx_unacknowledged(pmx_mux *mux, uint64_t id)
{
    INSIDE(mux, int64_t, pmx__do_unacknowledged(mux, id));
}

int64_t pmx_socket(pmx_mux *mux, uint64_t id)
{
    INSIDE(mux, int64_t, pmx__do_socket(mux, id));
}

int pmx_credentials(pmx_mux *mux, uint64_t id, int64_t *pid_uid_gid)
{
    INSIDE(mux, int, pmx__do_credentials(mux, id, pid_uid_gid));
}

int pmx_pending(pmx_mux *mux, uint64_t id)
{
    INSIDE(mux, int, pmx__do_pending(mux, id));
}

int pmx_stopping(pmx_mux *mux, uint64_t id)
{
    INSIDE(mux, int, pmx__do_stopping(mux, id));
}

/* --- the turn ---------------------------------------------------------- */

int pmx_harvest(pmx_turn *turn)
{
    INSIDE(turn->mux, int, pmx__do_harvest(turn));
}

/* The turn belongs to the caller that is inside. */
static int64_t exchange(pmx_turn *t, int64_t timeout_ns,
                        const pmx_block *block)
{
    t->timeout_ns = timeout_ns;
    if (block->count) {
        t->blocks = block;
        t->block_count = 1;
    }
    int reason = pmx__do_harvest(t);
    return reason < 0
               ? reason
               : reason | (int64_t)t->messages << PMX_MESSAGES_SHIFT;
}

int64_t pmx_exchange(pmx_turn *turn, int64_t timeout_ns, uint64_t shape,
                     const void *ids, const void *bounds,
                     const void *data, uint64_t size)
{
    int64_t length = (int64_t)size;
    pmx_block block = {
        .cut = (uint32_t)(shape >> PMX_CUT_SHIFT),
        .count = (uint32_t)shape,
        .ids = ids,
        .bounds = shape == 1 ? &length : bounds,
        .data = data,
        .size = size,
    };
    INSIDE(turn->mux, int64_t, exchange(turn, timeout_ns, &block));
}

int pmx_submit(pmx_turn *turn)
{
    INSIDE(turn->mux, int, pmx__do_submit(turn));
}

int64_t pmx_next_timeout(pmx_mux *mux)
{
    INSIDE(mux, int64_t, pmx__do_next_timeout(mux));
}

int64_t pmx_doze(pmx_mux *mux, int64_t least_ns)
{
    INSIDE(mux, int64_t, pmx__do_doze(mux, least_ns));
}

int pmx_foreign(pmx_mux *mux, int64_t number, uint32_t had, uint32_t wanted)
{
    INSIDE(mux, int, pmx__do_foreign(mux, number, had, wanted));
}

int pmx_fileno(pmx_mux *mux)
{
    INSIDE(mux, int, pmx__do_fileno(mux));
}

int pmx_drain(pmx_mux *mux)
{
    INSIDE(mux, int, (pmx__do_drain(mux), 0));
}

int pmx_retire(pmx_mux *mux)
{
    INSIDE(mux, int, (pmx__do_retire(mux), 0));
}

int64_t pmx_accepted(pmx_mux *mux, uint64_t *ids, uint32_t room)
{
    INSIDE(mux, int64_t, pmx__do_accepted(mux, ids, room));
}

int64_t pmx_end_inputs(pmx_mux *mux, uint64_t *ids, uint32_t count,
                       uint32_t when)
{
    INSIDE(mux, int64_t, pmx__do_end_inputs(mux, ids, count,
                                            (enum pmx_end)when));
}

int pmx_reset_all(pmx_mux *mux, int error)
{
    INSIDE(mux, int, (pmx__do_reset_all(mux, error), 0));
}
