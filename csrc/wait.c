/* Waiting: until when, and what the poller reports then. */
#include "turn.h"

#include <stdlib.h>

/* True if sockets must be asked for errors now and then: some connections are
 * not read, and the poller cannot watch for errors alone. */
static int must_ask(const pmx_mux *mux)
{
    return !mux->poller->watches_errors &&
           mux->stats->connections > mux->sources;
}

int64_t pmx__next_act(const pmx_mux *mux)
{
    int64_t at = pmx__next_due(mux);
    if (mux->accept_again)
        at = pmx__earlier(at, mux->accept_again);
    if (mux->trim_at)
        at = pmx__earlier(at, mux->trim_at);
    if (must_ask(mux))
        at = pmx__earlier(at, mux->ask_at);
    return at;
}

int64_t pmx__at_once(const pmx_mux *mux)
{
    /* while its messages gather, other rows of a service can wait */
    uint32_t later = mux->rows ? mux->serving->report_count : 0;
    if (mux->draining == 1 || mux->draining == 2 || pmx__accepting(mux) ||
        mux->report_count > later || pmx__has_gifts(mux))
        return 0;
    if (!mux->ready_count && !mux->chore_count)
        return -1;
    return mux->short_of_buffers ? PMX__BUFFERS_NS : 0;
}

/* True if a connection closes once its last messages are answered. One that was
 * reset since is still in the list, but has ended already. */
static int somebody_ends(const pmx_mux *mux)
{
    for (uint32_t i = 0; i < mux->ending_count; i++)
        if (pmx__slot(mux, mux->ending[i])->flags & PMX__ENDING)
            return 1;
    return 0;
}

int64_t pmx__do_next_timeout(pmx_mux *mux)
{
    if (mux->handed_at)
        pmx__hand_back(mux, pmx__now());
    mux->handed_at = 0;
    int64_t at_once = pmx__at_once(mux);
    if (!mux->gathering && (mux->report_count || somebody_ends(mux)))
        return 0;
    if (at_once >= 0)
        return at_once;
    int64_t at = pmx__next_act(mux);
    if (mux->gathering)
        at = pmx__earlier(at, mux->gathered_at);
    if (at == INT64_MAX)
        return -1;
    int64_t span = at - pmx__now();
    return span > 0 ? span : 0;
}

/* Poll for a span before blocking. With spin_ns -1 the span adapts: a wait that
 * ends within it doubles it, a longer wait halves it, down to nothing. Now and
 * then a span is tried again. */
enum { SPIN_LEAST_NS = 2000, SPIN_MOST_NS = 50000, SPIN_TRY_EVERY = 256 };

static int spin(pmx_mux *mux, int64_t until)
{
    int adapt = mux->spin_ns < 0;
    int64_t span = adapt ? mux->spin_now : mux->spin_ns;
    if (adapt && !span && mux->stats->harvests % SPIN_TRY_EVERY == 0)
        span = SPIN_MOST_NS;
    if (!span)
        return 0;
    int64_t end = pmx__earlier(pmx__after(pmx__now(), span), until);
    int n, room = (int)mux->event_room;
    do {
        n = mux->poller->wait(mux->poll_state, mux->events, room, 0);
    } while (!n && pmx__now() < end);
    if (adapt && n > 0)
        mux->spin_now = pmx__earlier(2 * span, SPIN_MOST_NS);
    else if (adapt)
        mux->spin_now = span / 2 < SPIN_LEAST_NS ? 0 : span / 2;
    return n;
}

int pmx__wait(pmx_mux *mux, int64_t until)
{
    const pmx__poller *p = mux->poller;
    int room = (int)mux->event_room;
    int64_t span = until == INT64_MAX ? -1 : until - mux->now;
    if (until != INT64_MAX && span <= 0)
        return p->wait(mux->poll_state, mux->events, room, 0);
    if (mux->spin_ns) {
        int n = spin(mux, until);
        if (n)
            return n;
        if (span > 0 && (span = until - pmx__now()) < 0)
            span = 0;
    }
    return p->wait(mux->poll_state, mux->events, room, span);
}

/* Note what the poller reports of a connection. */
static void note_connection(pmx_mux *mux, const pmx__event *event)
{
    pmx__conn *c = pmx__find(mux, event->token);
    uint32_t slot = (uint32_t)event->token;
    if (!c || c->flags & PMX__DONE)
        return;
    if (c->flags & PMX__CONNECTING) {
        c->flags |= PMX__CAN_WRITE;
        if (pmx__is_pipe(c))
            c->flags |= (event->what & PMX__IN ? PMX__CAN_READ : 0u) |
                        (event->what & PMX__LAST ? PMX__TO_THE_END : 0u);
        else if (event->error && !c->error && !(c->flags & PMX__CLOSING))
            c->error = event->error;
    } else {
        if (event->what & PMX__IN)
            c->flags |= PMX__CAN_READ;
        uint32_t lost = event->what & PMX__ERROR;
        int error = event->error;
        if (event->what & PMX__LAST) {
            c->flags |= PMX__TO_THE_END;
            if (pmx__only_sends(c))     /* kqueue says no more of it */
                lost = 1, error = EPIPE;
        }
        if (event->what & PMX__OUT)
            c->flags |= PMX__CAN_WRITE;
        if (lost)
            pmx__lost(mux, slot, error);
    }
    if (pmx__has_work(c))
        pmx__ready(mux, slot);
}

/* The pollers tell of errors even if nobody has asked. */
static void note_foreign(pmx_mux *mux, const pmx__event *event)
{
    uint64_t wanted = event->token & (PMX__IN | PMX__OUT);
    uint64_t what = event->what & PMX__ERROR ? wanted : event->what & wanted;
    uint64_t number = (event->token & ~PMX__FOREIGN_TAG) - wanted;
    if (what)
        mux->foreign[mux->foreign_count++] = (int64_t)(number | what);
}

int pmx__do_foreign(pmx_mux *mux, int64_t number, uint32_t had,
                    uint32_t wanted)
{
    const pmx__poller *p = mux->poller;
    pmx_sock sock = (pmx_sock)number;
    if (number < 0 || number >> 59 || (int64_t)sock != number)
        return -EBADF;
    if ((had | wanted) & ~(uint32_t)(PMX_READABLE | PMX_WRITABLE))
        return -EINVAL;
    if (!mux->foreign)
        mux->foreign = sys_calloc(mux->event_room, sizeof *mux->foreign);
    if (!mux->foreign)
        return -ENOMEM;
    if (had == wanted && !p->edge)
        return 0;
    if (had)                    /* an error: it was closed meanwhile */
        p->del(mux->poll_state, sock);
    return wanted ? p->add(mux->poll_state, sock, PMX__FOREIGN_TAG |
                           (uint64_t)number << 2 | wanted, wanted) : 0;
}

int pmx__note_events(pmx_mux *mux, int count)
{
    int woken = 0;
    mux->foreign_count = 0;
    mux->unheard = count == (int)mux->event_room ? mux->unheard + 1 : 0;
    for (int i = 0; i < count; i++) {
        const pmx__event *event = &mux->events[i];
        if (!(event->token & (PMX__LISTENER_TAG | PMX__FOREIGN_TAG))) {
            note_connection(mux, event);
        } else if (event->token == PMX__WAKEUP_TOKEN) {
            pmx__wakeup_drain(mux->wakeup);
            woken = 1;
        } else if (event->token & PMX__LISTENER_TAG) {
            pmx__may_accept(mux, event->token);
        } else {
            note_foreign(mux, event);
        }
    }
    return woken;
}

void pmx__ask_sockets(pmx_mux *mux)
{
    if (!must_ask(mux) || mux->now < mux->ask_at)
        return;
    mux->ask_at = mux->now + PMX__RETRY_NS;
    for (uint32_t slot = 0; slot < mux->slots; slot++) {
        pmx__conn *c = pmx__slot(mux, slot);
        if (!(c->flags & PMX__IN_POLLER) ||
            c->watched & (PMX__WATCH_IN | PMX__WATCH_OUT))
            continue;
        int error = pmx__pending_error(c);
        if (error && pmx__nobody_reads(c))
            pmx__finish(mux, slot, error, 0);
        else if (error)
            pmx__read_to_end(mux, slot, error);
    }
}
