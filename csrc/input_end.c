/*
 * How a connection's input ends: by its peer, by a stop, by a failure, or by
 * bytes that are no frame.
 */
#include "input.h"

/* Input is over and every frame is delivered: now the connection may end. Bytes
 * that could not be framed are kept until the messages before them have been
 * answered, since the caller may answer by switching to another framing. */
static void input_over(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!(c->flags & PMX__RESET_LAST) || !pmx__is_unanswered(mux, c))
        pmx__carry_drop(mux, c);
    if (c->flags & PMX__SEND_FAILED) {
        pmx__finish(mux, slot, c->error, 0);
    } else if (c->rules->policy.half_open && !c->error) {
        pmx__say(mux, slot, PMX__SAY_ENDED);
        pmx__watch(mux, slot);
        pmx__settle(mux, slot);
    } else if (pmx__is_unanswered(mux, c)) {
        c->flags |= PMX__ENDING;
        if (c->row_turn == mux->turn)   /* else pmx__answered() sees to it */
            mux->ending[mux->ending_count++] = slot;
        pmx__watch(mux, slot);
    } else {
        pmx__begin_close(mux, slot, 0);
    }
}

/* Whether a stop has ended the connection's input, and not the peer. */
static int was_cut(const pmx__conn *c)
{
    return c->flags & PMX__LIMITED && c->flags & PMX__DROPPING;
}

/* The bytes are no frame, or too long a one. A peer that a stop has cut off
 * inside a frame has broken nothing: its connection is not reset. */
void pmx__input_broken(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->error)
        c->error = error;
    if (!was_cut(c)) {
        c->flags |= PMX__RESET_LAST;
        c->flags &= ~(uint32_t)PMX__LIMITED;
    }
    c->flags |= PMX__ENDED;
    c->flags &= ~(uint32_t)PMX__FRAMES;
    input_over(mux, slot);
}

/* True if this end of stream is a failure: a send, or SO_ERROR, had the error,
 * so recv() sees a plain end. Where an errno does not tell, the end may be one:
 * a last line is not to be lost. */
static int is_broken(const pmx__conn *c)
{
    return PMX__EPIPE_TELLS && c->flags & (PMX__LOST | PMX__SEND_FAILED) &&
           c->error && c->error != EPIPE;
}

/* The input has ended, and the carry has no whole frame any more. */
void pmx__frames_over(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    const pmx__framing *framing = c->rules->framing;
    pmx_frame frame;
    int rest = PMX__MORE;
    if (c->carry && c->carry->size && !is_broken(c))
        rest = framing->at_end ? framing->at_end(&c->rules->policy.framing,
                                                 (size_t)c->carry->size, &frame)
                               : -EPROTO;
    if (rest == PMX__MORE ||
        (rest < 0 && was_cut(c) && c->rules->policy.half_open)) {
        /* The rest is no message. Where a stop has cut a message in two,
         * the coroutine may answer those before. */
        input_over(mux, slot);
    } else if (rest < 0) {
        pmx__input_broken(mux, slot, -rest);
    } else {
        c->flags |= PMX__FRAMES;    /* an unterminated last line */
        pmx__watch(mux, slot);
        pmx__ready(mux, slot);
    }
}

/* The peer has ended its stream. */
void pmx__end_input(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->flags &= ~(uint32_t)(PMX__CAN_READ | PMX__TO_THE_END);
    if (c->flags & PMX__ENDED) {
        c->flags &= ~(uint32_t)PMX__DROPPING;
        pmx__settle(mux, slot);
        if (!(c->flags & PMX__DONE))
            pmx__watch(mux, slot);
        return;
    }
    c->flags |= PMX__ENDED;
    c->flags &= ~(uint32_t)PMX__LIMITED;
    pmx__frames_over(mux, slot);
}

/* The stream has ended where a transport knows that it must not: no byte of an
 * unfinished frame is a message. What was answered is sent. */
void pmx__input_torn(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (!c->error)
        c->error = EPROTO;
    pmx__carry_drop(mux, c);
    pmx__end_input(mux, slot);
}

/* The stop is the end: what comes from now on is dropped. */
void pmx__cut_input(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    c->left = 0;
    c->flags |= PMX__ENDED | PMX__DROPPING;
    if (c->flags & PMX__FRAMES)
        pmx__watch(mux, slot);
    else
        pmx__frames_over(mux, slot);
}

/* Receiving has failed: the end, once every frame is delivered. */
static void lost_input(pmx_mux *mux, uint32_t slot, int error)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & PMX__PAUSED || !(c->flags & PMX__FRAMES)) {
        pmx__finish(mux, slot, error, 0);
        return;
    }
    if (!c->error)
        c->error = error;
    c->flags |= PMX__ENDED | PMX__LOST;
    c->flags &= ~(uint32_t)PMX__CAN_READ;
    pmx__watch(mux, slot);
}

/* All input that had arrived has been received. The peer's end may be behind
 * that input: then the stream is whole, and no stop has cut it. */
void pmx__look_for_end(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    pmx__got got = {0};
    int64_t n = c->rules->transport->recv(mux, c, mux->scratch, mux->scratch_size,
                                    &got);
    if (n > 0)
        mux->stats->bytes_in += (uint64_t)n;
    int over = !n || n == PMX__CUT;
    if (!over && n < 0 && n != -EAGAIN)
        lost_input(mux, slot, (int)-n);
    else if (!over)
        pmx__cut_input(mux, slot);
    else if (c->flags & PMX__FRAMES)
        c->flags &= ~(uint32_t)PMX__LIMITED;    /* the end is received again */
    else if (n)
        pmx__input_torn(mux, slot);
    else
        pmx__end_input(mux, slot);
}

/* Read what has arrived and no more (the server stops). */
void pmx__limit_input(pmx_mux *mux, uint32_t slot)
{
    pmx__conn *c = pmx__slot(mux, slot);
    if (c->flags & (PMX__DONE | PMX__CONNECTING | PMX__ENDED | PMX__LIMITED))
        return;
    size_t arrived = pmx__arrived(c->sock);
    c->left = arrived > UINT32_MAX ? UINT32_MAX : (uint32_t)arrived;
    c->flags |= PMX__LIMITED | PMX__CAN_READ;
    if (!c->left && !pmx__held(c))
        pmx__look_for_end(mux, slot);
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}
