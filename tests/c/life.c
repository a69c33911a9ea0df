/* A life: see life.h. */
#ifdef __linux__
#include "life.h"
#include "sim.h"
#include "toy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

life_t life;
int life_trace;

/* --- a turn ------------------------------------------------------------ */

/* What will end the input of each, as far as it can be known: that the next
 * frame of what was sent is too long. */
static void look_ahead(void)
{
    for (int i = 0; i < life.conn_count; i++) {
        conn *k = &life.conns[i];
        const peer *p = k->peer >= 0 ? &life.peers[k->peer] : NULL;
        size_t at, begin, length, next = 0;
        enum plain is = PLAIN_NONE;
        if (!p || k->too_long || k->told_closed ||
            k->policy.framing.kind == PMX_RAW ||
            k->looked == 2 * p->sent.size + (size_t)p->ended)
            continue;
        k->looked = 2 * p->sent.size + (size_t)p->ended;
        for (at = p->cut; at < p->sent.size; at += next) {
            is = plain_cut(&k->policy.framing, p->sent.bytes + at,
                           p->sent.size - at, p->ended, &begin, &length,
                           &next);
            if (is != PLAIN_MESSAGE)
                break;
        }
        k->too_long = is < 0 ||
                      (p->ended && at < p->sent.size);
    }
}

/* Output is bounded; a connection that is over high water is told, and again
 * when it is not. */
static void check_queue(conn *k)
{
    const pmx__conn *c = pmx__find(life.mux, k->id);
    uint64_t queued = pmx_queued(life.mux, k->id);
    uint64_t least = queued;            /* of what the user has sent */
    least -= least < life_slack() ? least : life_slack();
    CHECK(least <= k->policy.max_output || least <= k->largest ||
          k->answered);
    if (least <= k->policy.max_output)
        k->answered = 0;
    if (!c || c->flags & (PMX__CLOSING | PMX__SEND_FAILED | PMX__DONE))
        k->is_over = 0;
    if (k->is_over && queued <= k->policy.low_water)
        CHECK(life.mux->report_count);  /* no room for it yet */
    int over = least > k->policy.high_water && k->opened && c &&
               !(c->flags & (PMX__CLOSING | PMX__SEND_FAILED | PMX__DONE));
    if (over)
        CHECK(k->told_blocked || life.mux->report_count);
    k->is_over |= over;
}

static void turn_is_over(int reason)
{
    for (int i = 0; i < life.peer_count; i++)
        compare_got(&life.peers[i]);
    for (int i = 0; i < life.conn_count; i++)
        if (!life.conns[i].told_closed && life.conns[i].half == life.half)
            check_queue(&life.conns[i]);
    mux_is_sound(life.mux);
    life.gathering = !!(reason & PMX_GATHERING);
    look_ahead();
}

/* Services that have rows take turns. */
static void check_turns(void)
{
    for (uint32_t i = 0; i < life.services; i++) {
        const pmx__service *s = pmx__find_service(life.mux, i);
        life.waits[i] = i != life.t.service && s->report_count
                            ? life.waits[i] + 1 : 0;
        CHECK(life.waits[i] <= life.services);
    }
}

static void take_report(void)
{
    const pmx_turn *t = &life.t;
    check_turns();
    for (uint32_t i = 0; i < t->opened_count; i++)
        check_opened(t->opened[i]);
    for (uint32_t i = 0; i < t->messages; i++)
        check_message(i);
    for (uint32_t i = 0; i < t->ended_count; i++)
        check_ended(t->ended[i]);
    for (uint32_t i = 0; i < t->blocked_count; i++)
        check_blocked(t->blocked[i]);
    for (uint32_t i = 0; i < t->drained_count; i++)
        check_drained(t->drained[i]);
    for (uint32_t i = 0; i < t->closed_count; i++)
        check_closed(&t->closed[i]);
    for (uint32_t i = 0; i < t->failed_count; i++)
        CHECK(life.toy == 2 && !conn_of(t->failed[i].id));
    life.failed += t->failed_count;
}

static void all_may_have_faults(void)
{
    for (int i = 0; i < life.conn_count; i++)
        if (!life.conns[i].told_closed)
            life.conns[i].matter |= HAS_FAULT;
}

/* Faults that no one notices: what is cut short comes later. */
static int is_harmless(const injected_fault *f)
{
    switch (f->call) {
    case CALL_recv: case CALL_send: case CALL_read: case CALL_write:
    case CALL_writev:
    case CALL_epoll_wait: case CALL_epoll_pwait2: case CALL_poll:
    case CALL_select:
        return f->error == EINTR || f->error == EAGAIN || f->error == SHORT ||
               f->error == SPURIOUS || f->error == ENOSYS;
    case CALL_accept:
        return 1;
    default:
        return 0;
    }
}

void life_note_faults(void)
{
    if (life.faults == 1 && injected_now && !is_harmless(life.fault))
        life.faults = 2;
    if (life.faults == 2)
        all_may_have_faults();
}

/* With what peers do meanwhile: while the life goes on, a few things; in the
 * end, all that is left. */
static int harvest(int64_t timeout)
{
    write_log();
    life.t.mux = life.mux;
    life.t.arena = life.arena;
    life.t.timeout_ns = timeout;
    for (uint32_t s = 0; s < life.services; s++) {
        uint32_t gaps = choose(life.c, 2);
        uint32_t least = once_in(life.c, 3) ? 1 + choose(life.c, 6) : 1;
        pmx_configure(life.mux, s, least, once_in(life.c, 2) ? 0 : MS, gaps);
    }
    life.woken = 0;
    life.acts = life.ending ? 0 : (int)choose(life.c, 6);
    sim_idle = life.ending ? peers_finish : peers_act;
    TRACE("turn, %lld ns\n", (long long)timeout);
    int64_t begun = sim_clock();
    int reason = pmx_harvest(&life.t);
    sim_idle = NULL;
    TRACE("  -> %d after %lld ns\n", reason,
          (long long)(sim_clock() - begun));
    if (reason >= 0 && timeout >= 0)
        CHECK(sim_clock() - begun <= timeout + MS);
    return reason;
}

/* A harvest that waited and has nothing to report leaves nothing lying about
 * that no event would tell of again. What came over TCP may have come when the
 * wait was over. */
static void nothing_waits_unseen(void)
{
    for (uint32_t slot = 0; slot < life.mux->slots; slot++) {
        const pmx__conn *c = pmx__slot(life.mux, slot);
        int unread = 0;
        int family = c->task & PMX__FAMILY;
        if (!(c->generation & 1) ||
            (family != 1 && family != PMX__READ_END) ||
            !(c->flags & PMX__MAY_BRING) || c->flags & PMX__IN_READY)
            continue;
        CHECK(!sim_ioctl(c->sock, FIONREAD, &unread));
        EQUAL(unread, 0);
    }
}

static void one_turn(int64_t timeout)
{
    int reason = harvest(timeout);
    for (int i = 0; i < life.conn_count; i++)
        if (life.conns[i].half == life.half)
            life.conns[i].had_row = 0;  /* its answers are in */
    life_note_faults();
    if (reason == -EDEADLK && life.ending && life.way != 2 &&
        injected_count[CALL_shutdown] != life.shutdowns_failed) {
        life.way = 2;           /* a peer that is told of no end sends none */
        return;
    }
    if (reason < 0) {
        CHECK(reason != -EDEADLK);      /* stuck */
        CHECK(life.faults == 2);
        return;
    }
    EQUAL(reason, life.t.reason);
    CHECK(!(reason & PMX_GATHERING) || timeout == PMX_LOOK || reason & PMX_HANDSHAKES);
    life_gives(reason);
    take_report();
    EQUAL(life.t.arena != life.arena, !!(reason & PMX_LARGE));
    if (reason & PMX_LARGE)
        pmx_arena_free(life.t.arena);
    inject_pause(1);
    toy_adopt(life.mux, &life.t);
    inject_pause(0);
    turn_is_over(reason);
    if (!reason && !life.faults && timeout >= 0 && life.mux->poller->edge)
        nothing_waits_unseen();
}

/* --- the end ----------------------------------------------------------- */

static int somebody_is_left(void)
{
    for (int i = 0; i < life.conn_count; i++)
        if (!life.conns[i].told_closed && life.conns[i].half == life.half)
            return 1;
    return pmx_counts(life.mux)->connections > 0 || life.mux->report_count;
}

/* 0: nobody is, in either mux. The life goes to the one that has somebody. */
static int go_to_who_is_left(int count)
{
    if (life.other.mux && (count % 2 || !somebody_is_left()))
        life_turn_to_other();
    if (life.other.mux && !somebody_is_left())
        life_turn_to_other();
    return somebody_is_left();
}

/* What was owed has come; without a fault nothing is lost. */
static void check_conn(const conn *k)
{
    if (k->peer < 0)
        return;
    peer *p = &life.peers[k->peer];
    compare_got(p);
    CHECK(p->got.size <= k->expected.size);
    if (peer_matter(k))
        return;
    /* a time that is over is said; whatever else ends it loses nothing */
    if (k->error && (k->policy.idle_ns >= 0 || k->policy.message_ns >= 0 ||
                     k->policy.close_ns >= 0))
        return;
    /* who owes its peer nothing may close before it opens */
    CHECK((k->opened || (k->pipe && !k->owed)) && k->told_closed);
    if (p->got.size < k->owed)
        TRACE("conn %d, peer %d got %d of %d\n", (int)(k - life.conns), k->peer,
              (int)p->got.size, (int)k->owed);
    CHECK(p->got.size >= k->owed);
    /* nor does what its peer sends through the close take the end away */
    CHECK(k->error || (p->got_end && !p->is_lost) || p->pipe == PMX_READABLE);
}

/* A drain leaves outgoing connections to the user, who closes them when there
 * are no others any more. */
static int is_left_to_user(const conn *k)
{
    const pmx_stats *s = pmx_counts(life.mux);
    return life.way == 1 && k->outgoing && s->connections == s->outgoing;
}

static void say_good_bye(void)
{
    for (int i = 0; i < life.conn_count; i++) {
        const conn *k = &life.conns[i];
        if (k->told_closed || k->half != life.half)
            continue;
        if (k->paused)
            user_says(i, PMX_RESUME, 0);
        user_says(i, PMX_RELEASE, 0);
        user_says(i, PMX_WAITS, 0);
        if (life.way == 0 || k->told_ended || is_left_to_user(k) ||
            (life.way == 3 && k->pipe == PMX_WRITABLE))
            user_says(i, PMX_CLOSE, 0);
        else if (life.way == 2)
            user_says(i, PMX_ABORT, 0);
    }
}

static void everybody_leaves(void)
{
    life.ending = 1;
    life.way = (int)choose(life.c, 5);
    life.talk = once_in(life.c, 2) ? 1000 : 0;
    inject_nothing();
    TRACE("the end, in way %d\n", life.way);
    if (life.way == 1) {
        pmx_drain(life.mux);
        if (life.other.mux)
            pmx_drain(life.other.mux);
        life.draining = 1;
        peers_note_drain();
    }
    if (life.way == 4) {
        for (int i = 0; i < life.conn_count; i++)
            life.conns[i].matter |= RESET_ALL;
        life.all_reset = 1;
        pmx_reset_all(life.mux, ECONNABORTED);
        if (life.other.mux)
            pmx_reset_all(life.other.mux, ECONNABORTED);
    }
    int count = 0;
    while (go_to_who_is_left(count) || (life.draining && !count)) {
        CHECK(count++ < 1000000);
        int has_room = life.log_count < MOST_ENTRIES / 3;
        if (has_room)
            say_good_bye();
        one_turn(has_room ? PMX_FOR_EVER : 0);
        if (life.way == 4)
            life.way = 0;
    }
}

/* --- from beginning to end --------------------------------------------- */

static void some_faults(choices *c)
{
    switch (choose(c, 8)) {
    case 0: case 1: {
        life.fault =
            &injected_faults[choose(c, (uint32_t)injected_fault_count)];
        inject_nth(life.fault, 1 + (long)choose(c, 256), 1 + choose(c, 100));
        life.faults = 1;
        break;
    }
    case 2:
        inject_at_random(choose(c, 65536), 10 + 4 * choose(c, 256));
        life.faults = 2;
        break;
    default:
        inject_nothing();
        break;
    }
}

static int begin(choices *c, const char *backend)
{
    static const uint64_t arenas[] = {16, 100, 1000, 20000, 262144};
    static const uint32_t rows[] = {1, 2, 5, 64, 1000};
    static const int64_t spins[] = {0, 0, 0, -1, 5000};
    memset(&life, 0, sizeof life);
    life.c = c;
    life.wild = (int)choose(c, 2);
    uint32_t kind = choose(c, 64);
    life.large = kind % 16 == 15;
    life.proxied = kind < 12;
    life.toy = once_in(c, 4) ? 1 + (int)choose(c, 2) : 0;
    if (life.toy == 2) {
        toy_use();
        toy_ways.portable = (int)choose(c, 2);
        toy_ways.tickets = (int)choose(c, 3);
        toy_ways.flight = once_in(c, 3) ? choose(c, 3000) : 0;
    }
    life.shutdowns_failed = injected_count[CALL_shutdown];
    sim_begin();
    sim_now.descriptors = once_in(c, 8) ? 8 + (int)choose(c, 16) : SIM_FDS;
    uint64_t size = ONE_OF(c, arenas);
    life.max_rows = ONE_OF(c, rows);
    sim_as_peer = 1;
    peers_listen();
    sim_as_peer = 0;
    some_faults(c);
    int error = pmx_open(&life.mux, backend, life.max_rows, size,
                         ONE_OF(c, spins));
    if (!error) {
        uint32_t more = once_in(c, 2) ? choose(c, MOST_SERVICES) : 0;
        for (life.services = 1; life.services <= more; life.services++)
            if (pmx_add_service(life.mux) < 0)
                break;
        life.proxied = life.proxied && headers_trust_all(life.mux);
        inject_pause(1);
        life.arena = pmx_arena_new(size, life.max_rows);
        CHECK(life.arena);
        inject_pause(0);
        life_open_second(backend, size);
        life_shares();
    }
    CHECK(!error || life.faults);
    return error;
}

static void end(void)
{
    for (int i = 0; i < life.peer_count; i++) {
        release(&life.peers[i].header);
        release(&life.peers[i].plan);
        release(&life.peers[i].sent);
        release(&life.peers[i].got);
        release(&life.peers[i].wire);
        release(&life.peers[i].heard);
        toy_forget(&life.peers[i].secret);
    }
    for (int i = 0; i < life.conn_count; i++)
        release(&life.conns[i].expected);
    life_shares_no_more();
    free_log();
    pmx_arena_free(life.arena);
    pmx_arena_free(life.other.arena);
    inject_nothing();
    sim_end();
}

static void check_counts(void)
{
    static const pmx_stats none;
    const pmx_stats *s = pmx_counts(life.mux);
    const pmx_stats *o = life.other.mux ? pmx_counts(life.other.mux) : &none;
    EQUAL(s->connections + o->connections, 0);
    EQUAL(s->queued + o->queued, 0);
    EQUAL(s->buffers + o->buffers, 0);
    uint64_t unheard = s->accepted + s->connected + o->accepted + o->connected -
                       life.opened - life.failed;
    CHECK(!unheard || life.proxied);    /* their header did not come */
    CHECK(unheard <= s->refused + s->refused_per_peer + o->refused +
                         o->refused_per_peer);
    EQUAL(s->closed + o->closed, life.closed + life.failed + unheard);
    EQUAL(s->messages_in + o->messages_in, life.rows);
    EQUAL(s->moved_in + o->moved_in, s->moved_out + o->moved_out);
}

void live(choices *c, const char *backend)
{
    static const int64_t spans[] = {0, 0, MS, MS, 100 * MS, 5000 * MS,
                                    PMX_LOOK, PMX_LOOK, PMX_FOR_EVER};
    if (!begin(c, backend)) {
        for (int n = 5 + (int)choose(c, 60); n && !are_used_up(c); n--) {
            life_moves();
            if (life.other.mux && once_in(c, 2))
                life_turn_to_other();
            for (uint32_t k = choose(c, 5); k; k--)
                user_acts();
            for (life.acts = (int)choose(c, 4); life.acts;)
                (void)peers_act();
            one_turn(ONE_OF(c, spans));
        }
        if (once_in(c, 12)) {
            pmx_close(life.mux);        /* in the middle of it */
            pmx_dispose(&life.other.mux);
        } else {
            everybody_leaves();
            check_counts();
            pmx_close(life.mux);
            pmx_dispose(&life.other.mux);
            while (peers_finish() || sim_pass())
                ;
            for (int i = 0; i < life.conn_count; i++)
                check_conn(&life.conns[i]);
        }
    }
    EQUAL(sim_open(), 0);
    EQUAL(toy_states, 0);
    toy_over();
    end();
}
#else
typedef int life_on_linux;      /* a file must not be empty */
#endif
