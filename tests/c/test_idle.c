/* Idle connections: whose time runs, and whose stands. */
#include "idle.h"

#include <stdlib.h>
#include <string.h>

static void an_idle_connection_times_out(void)
{
    world w;
    pmx_sock peer, busy;
    pmx_policy p = raw();
    p.idle_ns = 40 * MS;
    world_serve(&w, &p);
    int64_t before = pmx__now();
    uint64_t id = meet(&w, &peer), second = meet(&w, &busy);
    buffer got = {0};
    UNTIL_DOING(&w, closed(&w, id), put_text(busy, "x"));
    CHECK(pmx__now() - before >= 40 * MS);
    EQUAL(error_of(&w, id), ETIMEDOUT);
    CHECK(is_reset(get(peer, &got)));
    CHECK(!closed(&w, second));
    /* one turn sleeps until then, however long it may */
    count_waits(&w);
    turn(&w, 5000 * MS);
    CHECK(closed(&w, second) || w.t.messages);
    UNTIL(&w, closed(&w, second));
    CHECK(wait_count < 12);
    leave(peer);
    leave(busy);
    world_is_clean(&w);
    world_end(&w);
}

static void the_idle_clock_stands_still_while_paused(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.idle_ns = 30 * MS;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    do_op(&w, id, PMX_PAUSE);
    do_op(&w, id, PMX_HOLD);
    turn(&w, 0);
    do_op(&w, id, PMX_RESUME);
    int64_t before = pmx__now();
    while (pmx__now() - before < 60 * MS)
        turn(&w, 20 * MS);
    CHECK(!closed(&w, id));
    do_op(&w, id, PMX_RELEASE);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ETIMEDOUT);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

/* What the kernel takes counts, what waits for a reader does not. */
static void the_idle_clock_runs_while_output_is_unread(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    p.idle_ns = 40 * MS;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer much = {0};
    fill(&much, 6000000, 1);
    say(&w, id, much.bytes, much.size);
    UNTIL_DOING(&w, closed(&w, id), put_text(peer, "unread"));
    EQUAL(error_of(&w, id), ETIMEDOUT);
    leave(peer);
    release(&much);
    world_is_clean(&w);
    world_end(&w);
}

/* --- who is idle, by a clock that the test sets ------------------------- */

/* What a turn finds that has not heard of it. */
static int is_ended_in_time(world *w, uint64_t id)
{
    age(w, id);
    w->mux->now = pmx__now();
    pmx__expire(w->mux);
    return !!(pmx__find(w->mux, id)->flags & PMX__DONE);
}

/* The same, of one whose answer the kernel had, at a look half the time later. */
static int is_ended_at_the_look(world *w, uint64_t id)
{
    pmx__conn *c = pmx__find(w->mux, id);
    turn(w, 0);                 /* what is queued is offered */
    if (c->due != PMX__SLOW_DUE)
        return 0;               /* some of it was taken */
    pmx__due_since(w->mux, (uint32_t)id, PMX__SLOW_DUE,
                   pmx__now() - IDLE_NS / 2 - MS);
    w->mux->now = pmx__now();
    pmx__expire(w->mux);
    return !!(c->flags & PMX__DONE);
}

static void idle_end(world *w, uint64_t id, pmx_sock peer)
{
    UNTIL(w, closed(w, id));
    EQUAL(error_of(w, id), ETIMEDOUT);
    leave(peer);
    world_is_clean(w);
    world_end(w);
}

static void who_has_unread_bytes_is_not_idle(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_idle(&w, &peer);
    put_text(peer, "unread");
    CHECK(!is_ended_in_time(&w, id));
    CHECK(!is_ended_in_time(&w, id));
    UNTIL(&w, messages_of(&w, id) == 1);
    turn(&w, 0);
    CHECK(is_ended_in_time(&w, id));
    idle_end(&w, id, peer);
}

/* Its message is in a batch that nobody has been handed yet. */
static void whose_message_is_gathered_is_not_idle(void)
{
    world w;
    pmx_sock peer, other;
    uint64_t id = serve_idle(&w, &peer), silent = meet(&w, &other);
    put_text(peer, "gathered");
    do {
        EQUAL(turn_of(&w, PMX_LOOK, 3, 60000 * MS), PMX_GATHERING);
        CHECK(!is_ended_in_time(&w, id));
    } while (!w.mux->rows);
    CHECK(!is_ended_in_time(&w, id));
    CHECK(is_ended_in_time(&w, silent));
    turn(&w, 0);
    EQUAL(messages_of(&w, id), 1);
    turn(&w, 0);
    CHECK(is_ended_in_time(&w, id));
    UNTIL(&w, closed(&w, silent));
    leave(other);
    idle_end(&w, id, peer);
}

/* While it does not take its answers, its bytes are not read. */
static void who_does_not_read_is_idle_whatever_he_says(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_idle(&w, &peer);
    buffer much = {0};
    fill(&much, 9000000, 1);
    say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    put_text(peer, "unread");
    turn(&w, 0);
    CHECK(!is_ended_in_time(&w, id));   /* it may be reading */
    UNTIL(&w, is_ended_at_the_look(&w, id) || is_ended_in_time(&w, id));
    release(&much);
    idle_end(&w, id, peer);
}

/* Half of no time is none: its connection goes on. */
static void who_may_be_reading_may_switch_to_no_idle_time(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_idle(&w, &peer);
    buffer much = {0};
    fill(&much, 9000000, 1);
    say_much(&w, id, &much);
    CHECK(!is_ended_in_time(&w, id));
    EQUAL(pmx__find(w.mux, id)->due, PMX__SLOW_DUE);
    pmx_policy p = raw();
    p.idle_ns = -1;
    switch_to(&w, id, &p, NULL, 0);
    turn(&w, 0);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    do_op(&w, id, PMX_ABORT);
    UNTIL(&w, closed(&w, id));
    release(&much);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

/* All of its answer is with the kernel, or no more is taken for now, and no
 * event tells that the peer reads it. Where nothing else tells that either, the
 * peer has read what the kernel has taken. */
static void who_reads_an_answer_slowly_is_not_idle(void)
{
    enum { SIZE = 9000000, LAST = 1000000 };
    world w;
    pmx_sock peer;
    uint64_t id = serve_idle(&w, &peer);
    buffer much = {0}, got = {0};
    set_room(peer, SO_RCVBUF, 32768);   /* what it acknowledges, unread */
    fill(&much, SIZE, 1);
    say_much(&w, id, &much);
    while (got.size < SIZE - LAST && (acks_are_told() || pmx_queued(w.mux, id))) {
        CHECK(!is_ended_in_time(&w, id));
        size_t before = got.size;
        int64_t until = deadline();
        while (got.size < SIZE && got.size < before + 1000000 &&
               pmx__now() < until)
            get_at_most(peer, &got, 100000);
        CHECK(!is_ended_at_the_look(&w, id));
    }
    if (acks_are_told()) {
        UNTIL_DOING(&w, got.size == SIZE, CHECK(get(peer, &got) >= 0));
        UNTIL(&w, !pmx__unacknowledged(pmx__find(w.mux, id)->sock));
    }
    CHECK(is_ended_in_time(&w, id));
    release(&much);
    release(&got);
    idle_end(&w, id, peer);
}

/* The half of its time that a look has given it ends with what it says. */
static void who_speaks_after_a_look_has_all_of_its_time(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_idle(&w, &peer);
    buffer much = {0};
    fill(&much, 9000000, 1);
    pmx__find(w.mux, id)->rules->policy.high_water = 1 << 30;
    say_much(&w, id, &much);
    CHECK(!is_ended_in_time(&w, id));
    EQUAL(pmx__find(w.mux, id)->due, PMX__SLOW_DUE);
    put_text(peer, "here");
    UNTIL(&w, messages_of(&w, id) == 1);
    EQUAL(pmx__find(w.mux, id)->due, PMX__IDLE_DUE);
    CHECK(!is_ended_in_time(&w, id));
    do_op(&w, id, PMX_PAUSE);           /* the clock stands, */
    turn(&w, 0);
    EQUAL(pmx__find(w.mux, id)->due, PMX__NOT_DUE);
    do_op(&w, id, PMX_RESUME);          /* and runs again */
    turn(&w, 0);
    EQUAL(pmx__find(w.mux, id)->due, PMX__IDLE_DUE);
    UNTIL(&w, is_ended_at_the_look(&w, id) || is_ended_in_time(&w, id));
    release(&much);
    idle_end(&w, id, peer);
}

/* Where waits bring as many events as there is room for, that of an idle one
 * may not have been fetched yet; but in the end each has been. */
static void full_waits_hold_back_idle_deadlines_for_a_while(void)
{
    world w;
    pmx_sock peer, other;
    uint64_t id = serve_idle(&w, &peer), closing = meet(&w, &other);
    pmx__slot(w.mux, (uint32_t)closing)->rules->policy.close_ns = MS;
    do_op(&w, closing, PMX_CLOSE);
    turn(&w, 0);
    pmx__due_since(w.mux, (uint32_t)closing, PMX__CLOSE_DUE, 0);
    pmx__find(w.mux, closing)->left = 0;        /* it was looked at before */
    w.mux->unheard = 1;
    CHECK(!is_ended_in_time(&w, id));
    CHECK(pmx__find(w.mux, closing)->flags & PMX__DONE);
    w.mux->unheard = w.mux->slots / PMX__EVENTS + 1;
    CHECK(!is_ended_in_time(&w, id));
    w.mux->unheard++;
    CHECK(is_ended_in_time(&w, id));
    UNTIL(&w, closed(&w, closing));
    leave(other);
    idle_end(&w, id, peer);
}

static void waits_that_are_full_are_counted(void)
{
    world w;
    world_begin(&w, 100, 10000);
    memset(w.mux->events, 0, PMX__EVENTS * sizeof *w.mux->events);
    for (int i = 0; i < PMX__EVENTS; i++)
        w.mux->events[i].token = UINT32_MAX;    /* nobody's */
    for (uint32_t n = 1; n < 4; n++) {
        pmx__note_events(w.mux, PMX__EVENTS);
        EQUAL(w.mux->unheard, n);
    }
    pmx__note_events(w.mux, PMX__EVENTS - 1);
    EQUAL(w.mux->unheard, 0);
    world_end(&w);
}

/* Who has a message in the batch, or was told to be open. */
static void the_callers_time_is_nobodys_idleness(void)
{
    world w;
    pmx_sock peer, silent;
    uint64_t id = serve_idle(&w, &peer), other = meet(&w, &silent);
    const pmx__conn *c = pmx__find(w.mux, id);
    const pmx__conn *d = pmx__find(w.mux, other);
    turn(&w, 0);
    put_text(peer, "x");
    UNTIL(&w, w.t.messages);
    int64_t before = d->since;
    int64_t later = w.mux->now + IDLE_NS;
    pmx__hand_back(w.mux, later);
    EQUAL(c->since, later);
    EQUAL(d->since, before);
    w.mux->now = pmx__now();
    turn(&w, 0);                        /* the batch is no longer its */
    pmx__hand_back(w.mux, later + MS * 1000);
    EQUAL(c->since, later);
    do_op(&w, id, PMX_ABORT);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    CHECK(is_ended_in_time(&w, other));
    idle_end(&w, other, silent);
}

/* In a turn in which its time is over; 0 where it was ended. */
static int is_asked_about(world *w, uint64_t id)
{
    age(w, id);
    w->mux->handed_at = 0;      /* however slow this machine is */
    turn(w, 0);
    EQUAL(!w->t.idle_count, !!closed(w, id));
    return w->t.idle_count == 1 && w->t.idle[0] == id;
}

static void who_waits_for_a_task_is_asked_about(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_idle(&w, &peer);
    do_op(&w, id, PMX_WAITS);
    turn(&w, 0);
    put_text(peer, "x");
    UNTIL(&w, messages_of(&w, id) == 1);
    for (int i = 0; i < 3; i++) {       /* no answer: it is at it */
        CHECK(is_asked_about(&w, id));
    }
    say_text(&w, id, "answer");
    turn(&w, 0);
    do_op(&w, id, PMX_KEPT);            /* there are more */
    say_text(&w, id, "answer");
    turn(&w, 0);
    CHECK(is_asked_about(&w, id));
    say_text(&w, id, "answer");         /* and the last one */
    do_op(&w, id, PMX_TAKEN);
    turn(&w, 0);
    CHECK(is_asked_about(&w, id));
    say_text(&w, id, "answer");         /* is answered */
    turn(&w, 0);
    CHECK(is_ended_in_time(&w, id));
    idle_end(&w, id, peer);
}

/* What several messages at once were answered with does not tell whether the
 * last of them was. */
static void a_task_that_had_several_is_asked_about(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    p.idle_ns = IDLE_NS;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    do_op(&w, id, PMX_WAITS);
    turn(&w, 0);
    put_text(peer, "1\n2\n");
    UNTIL(&w, messages_of(&w, id) == 2);
    say_text(&w, id, "answer");
    turn(&w, 0);
    CHECK(is_asked_about(&w, id));
    say_text(&w, id, "answer");
    turn(&w, 0);
    CHECK(is_ended_in_time(&w, id));
    idle_end(&w, id, peer);
}

static void a_task_that_waits_for_its_peer_has_an_idle_one(void)
{
    world w;
    pmx_sock peer;
    uint64_t id = serve_idle(&w, &peer);
    do_op(&w, id, PMX_WAITS);
    turn(&w, 0);
    put_text(peer, "no answer to this");
    UNTIL(&w, messages_of(&w, id) == 1);
    CHECK(is_asked_about(&w, id));
    put_text(peer, "meanwhile");        /* the last word comes too late */
    do_op(&w, id, PMX_WAITS);
    UNTIL(&w, messages_of(&w, id) == 2);
    CHECK(is_asked_about(&w, id));
    do_op(&w, id, PMX_WAITS);
    idle_end(&w, id, peer);
}

const test_case idle_tests[] = {
    EACH(who_has_unread_bytes_is_not_idle),
    EACH(whose_message_is_gathered_is_not_idle),
    EACH(who_does_not_read_is_idle_whatever_he_says),
    EACH(who_reads_an_answer_slowly_is_not_idle),
    EACH(who_may_be_reading_may_switch_to_no_idle_time),
    EACH(who_speaks_after_a_look_has_all_of_its_time),
    EACH(full_waits_hold_back_idle_deadlines_for_a_while),
    ONCE(waits_that_are_full_are_counted),
    EACH(the_callers_time_is_nobodys_idleness),
    EACH(who_waits_for_a_task_is_asked_about),
    EACH(a_task_that_had_several_is_asked_about),
    EACH(a_task_that_waits_for_its_peer_has_an_idle_one),
    EACH(an_idle_connection_times_out),
    EACH(the_idle_clock_stands_still_while_paused),
    EACH(the_idle_clock_runs_while_output_is_unread),
    {0},
};
