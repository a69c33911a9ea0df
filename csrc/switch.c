/*
 * A connection goes over to another policy in mid-stream: what was logged
 * before is framed by the old one, what comes behind by the new one, and input
 * that nobody has seen yet is cut anew. The caller gives back the bytes of
 * messages that were reported, but belong to the new framing.
 */
#include "output.h"

#include <string.h>

/* The connection's clock goes on, with the new policy's time. */
static void set_deadline(pmx_mux *mux, uint32_t slot)
{
    const pmx__conn *c = pmx__slot(mux, slot);
    int64_t since = pmx__has_no_due(c) ? mux->now : c->since;
    int slow = c->due == PMX__SLOW_DUE && c->rules->policy.idle_ns > 0;
    if (c->flags & PMX__CONNECTING)
        return;                 /* pmx_connect() was told how long */
    if (c->flags & PMX__SEND_FAILED)
        pmx__due_since(mux, slot, PMX__CLOSE_DUE, since);
    else if (!(c->flags & (PMX__PAUSED | PMX__HELD)))
        pmx__due_since(mux, slot, slow ? PMX__SLOW_DUE : PMX__IDLE_DUE, since);
}

static void use(pmx_mux *mux, uint32_t slot, pmx__rules *rules)
{
    pmx__conn *c = pmx__slot(mux, slot);
    const pmx_policy *was = &c->rules->policy, *is = &rules->policy;
    int probes = is->keep_idle != was->keep_idle ||
                 is->keep_interval != was->keep_interval ||
                 is->keep_count != was->keep_count;
    if (probes && !(c->flags & PMX__CONNECTING) && !pmx__is_pipe(c))
        pmx__keep_alive(c->sock, is);
    int moves = rules->service != c->rules->service;
    int reports = moves ? pmx__leave_service(mux, slot) : 0;
    pmx__rules_drop(mux, c->rules);
    c->rules = rules;
    if (reports)
        pmx__say(mux, slot, 0);
    set_deadline(mux, slot);
    if (c->queue && c->queue->size > is->high_water &&
        !(c->flags & PMX__OVER_WATER))
        pmx__over_water(mux, slot);
}

/* The connection's input had ended with a batch, which the caller answers by
 * this switch: the connection goes on. Bytes that were no frame of the old
 * framing may be some of the new one, so whether the stream itself has ended
 * is asked again. */
static void go_on(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    int was_broken = !!(c->flags & PMX__RESET_LAST);
    for (uint32_t i = 0; c->flags & PMX__ENDING && i < mux->ending_count; i++)
        if (mux->ending[i] == slot) {
            mux->ending_count--;
            memmove(mux->ending + i, mux->ending + i + 1,
                    (mux->ending_count - i) * sizeof *mux->ending);
            break;
        }
    c->flags &= ~(uint32_t)(PMX__ENDING | PMX__RESET_LAST | PMX__SAY_ENDED);
    if (was_broken && (c->error == EPROTO || c->error == EMSGSIZE ||
                       !(c->flags & (PMX__LOST | PMX__SEND_FAILED))))
        c->error = c->flags & PMX__SEND_FAILED ? ECONNRESET : 0;
    /* A stop, or a close, has ended the input for good. What the peer has sent
     * since was dropped, so its own end is not the end of a whole stream. */
    if (c->flags & (PMX__DROPPING | PMX__LIMITED))
        return;
    c->flags &= ~(uint32_t)PMX__ENDED;
    c->flags |= PMX__CAN_READ | PMX__TO_THE_END;
    if (was_broken && mux->draining > 1 && !(c->flags & PMX__OUTGOING))
        pmx__limit_input(mux, slot);
}

/* Put the bytes in front of what is left over, and begin with them. */
static int cut_anew(pmx_mux *mux, uint32_t slot, const uint8_t *bytes,
                    size_t size)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__whole(mux, slot);
    if (pmx__only_sends(c))
        return 0;               /* it has no input */
    if (size) {
        size_t had = c->carry ? (size_t)c->carry->size : 0;
        if (pmx__arena_reserve(mux, &c->carry, size, had + size))
            return -ENOMEM;
        memmove(c->carry->data + size, c->carry->data, had);
        memcpy(c->carry->data, bytes, size);
        c->carry->size = had + size;
    }
    if (!c->carry)
        return 0;
    c->carry->scanned = 0;
    pmx__frame_begins(mux, c);
    c->flags |= PMX__FRAMES;    /* perhaps: delivering finds out */
    if (c->flags & PMX__ENDED)
        go_on(mux, slot);
    return 0;
}

void pmx__switch(pmx_mux *mux, uint32_t slot, const uint8_t *piece,
                 size_t size)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx_policy policy;
    if (c->flags & (PMX__DONE | PMX__CLOSING))
        return;                 /* nothing more is sent or delivered */
    if (c->dirty != PMX__NONE)
        pmx__send_pieces(mux, &mux->dirty[c->dirty]);
    if (c->flags & (PMX__DONE | PMX__CLOSING))
        return;
    if (size >= sizeof policy)
        memcpy(&policy, piece, sizeof policy);
    if (size < sizeof policy || !pmx__policy_valid(mux, &policy)) {
        pmx__finish(mux, slot, EINVAL, 1);
        return;
    }
    pmx__rules *rules = pmx__rules_switched(mux, c->rules, &policy);
    if (!rules) {
        pmx__finish(mux, slot, ENOMEM, 1);
        return;
    }
    use(mux, slot, rules);
    if (cut_anew(mux, slot, piece + sizeof policy, size - sizeof policy)) {
        pmx__finish(mux, slot, ENOMEM, 1);
        return;
    }
    pmx__settle(mux, slot);
    if (c->flags & PMX__DONE)
        return;
    pmx__watch(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}
