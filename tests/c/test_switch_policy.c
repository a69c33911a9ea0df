/* switch.c: which limits, clocks, place and service a connection has after a
 * switch, and which policy ends it. */
#include "world.h"

static void the_new_policy_s_limits_hold(void)
{
    world w;
    pmx_sock peer;
    buffer much = {0}, got = {0};
    pmx_policy p = raw(), small = lines("\n", 3);
    small.high_water = 10;
    small.low_water = 5;
    small.idle_ns = 50 * MS;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    fill(&much, 6000000, 1);
    p.high_water = p.low_water = UINT64_C(1) << 40;
    switch_to(&w, id, &p, NULL, 0);
    say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    CHECK(!(pmx__find(w.mux, id)->flags & PMX__OVER_WATER));
    CHECK(pmx_queued(w.mux, id) > 10);
    switch_to(&w, id, &small, NULL, 0);
    turn(&w, 0);
    CHECK(pmx__find(w.mux, id)->flags & PMX__OVER_WATER);
    UNTIL_DOING(&w, has(&w.drained, id), get(peer, &got));
    pmx_policy is;
    EQUAL(pmx_policy_of(w.mux, id, &is), 0);
    EQUAL(is.high_water, 10);
    UNTIL_DOING(&w, closed(&w, id), get(peer, &got));
    EQUAL(error_of(&w, id), ETIMEDOUT);
    leave(peer);
    id = meet(&w, &peer);
    switch_to(&w, id, &small, NULL, 0);
    put_text(peer, "four\n");
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), EMSGSIZE);
    leave(peer);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* A connection whose writing side has failed has until close_ns. */
static void a_deadline_is_the_new_policy_s(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw(), two = raw();
    p.idle_ns = 3600 * 1000 * MS;
    p.close_ns = -1;
    two.keep_idle = 100;
    two.keep_interval = two.keep_count = 5;
    two.close_ns = 30 * MS;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    do_op(&w, id, PMX_PAUSE);
    switch_to(&w, id, &two, NULL, 0);           /* its clock stands */
    turn(&w, 0);
    EQUAL(pmx__find(w.mux, id)->due, PMX__NOT_DUE);
    mux_is_sound(w.mux);
    switch_to(&w, id, &p, NULL, 0);
    do_op(&w, id, PMX_RESUME);
    turn(&w, 0);
    EQUAL(pmx__find(w.mux, id)->due, PMX__IDLE_DUE);
    /* half of no time is no time either */
    pmx__set_due(w.mux, (uint32_t)id, PMX__SLOW_DUE);
    p.idle_ns = -1;
    switch_to(&w, id, &p, NULL, 0);
    turn(&w, 0);
    EQUAL(pmx__find(w.mux, id)->due, PMX__NOT_DUE);
    pmx__find(w.mux, id)->flags |= PMX__SEND_FAILED;    /* as if */
    switch_to(&w, id, &two, NULL, 0);
    turn(&w, 0);
    mux_is_sound(w.mux);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ETIMEDOUT);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void a_place_stays_that_of_the_listener(void)
{
    world w;
    pmx_sock peers[3];
    uint64_t ids[2];
    pmx_policy p = raw(), two = lines("\n", 10);
    p.max_connections = 2;
    p.close_ns = two.close_ns = -1;
    world_serve(&w, &p);
    for (int k = 0; k < 2; k++) {
        ids[k] = meet(&w, &peers[k]);
        switch_to(&w, ids[k], &two, NULL, 0);
    }
    turn(&w, 0);
    EQUAL(w.mux->rules_count, 1);               /* both have the same */
    peers[2] = call(&w);
    for (int k = 0; k < 5; k++)
        turn(&w, MS);
    EQUAL(w.opened.count, 2);
    mux_is_sound(w.mux);
    do_op(&w, ids[0], PMX_CLOSE);               /* it lingers, */
    UNTIL(&w, w.opened.count == 3);             /* and gives its place */
    mux_is_sound(w.mux);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    for (int k = 0; k < 3; k++)
        leave(peers[k]);
    UNTIL(&w, w.closed_count == 3);
    turn(&w, 0);                                /* they are freed */
    EQUAL(w.mux->rules_count, 0);
    world_is_clean(&w);
    world_end(&w);
}

static void a_policy_that_is_not_valid_ends_the_connection(void)
{
    world w;
    pmx_sock peers[2];
    uint64_t ids[2];
    pmx_policy p = raw(), wrong = lines("\n", 1);
    wrong.framing.width = 0;
    world_serve(&w, &p);
    for (int k = 0; k < 2; k++)
        ids[k] = meet(&w, &peers[k]);
    switch_to(&w, ids[0], &wrong, NULL, 0);
    say(&w, ids[1] | (uint64_t)PMX_SWITCH << PMX_OP_SHIFT, &p, sizeof p - 1);
    UNTIL(&w, w.closed_count == 2);
    for (int k = 0; k < 2; k++) {
        EQUAL(error_of(&w, ids[k]), EINVAL);
        leave(peers[k]);
    }
    world_is_clean(&w);
    world_end(&w);
}

/* Rows of a harvest are of one service: those to come move with it. */
static void what_is_to_be_reported_moves_to_the_new_service(void)
{
    world w;
    pmx_sock peers[4];
    uint64_t ids[4];
    pmx_policy p = raw(), two = lines("\n", 100);
    p.half_open = two.half_open = 1;
    world_begin(&w, 1, 10000);
    world_listen(&w, &p);
    EQUAL(pmx_add_service(w.mux), 1);
    two.service = 1;
    for (int k = 0; k < 4; k++)
        ids[k] = meet(&w, &peers[k]);
    for (int k = 0; k < 4; k++)
        end_writing(peers[k]);
    UNTIL(&w, w.mux->report_count == 3);        /* one row a turn */
    uint32_t first = w.mux->first.report.head;
    uint32_t second = pmx__slot(w.mux, first)->report_next;
    uint32_t third = pmx__slot(w.mux, second)->report_next;
    const uint32_t order[] = {second, third, first};
    for (int k = 0; k < 3; k++)
        switch_to(&w, pmx__id(order[k], pmx__slot(w.mux, order[k])), &two,
                  NULL, 0);
    while (w.ended.count < 4) {
        size_t before = w.ended.count;
        turn(&w, MS);
        mux_is_sound(w.mux);
        EQUAL(w.t.service, w.ended.count > before ? 1u : w.t.service);
    }
    for (int k = 0; k < 4; k++) {
        do_op(&w, ids[k], PMX_ABORT);
        leave(peers[k]);
    }
    UNTIL(&w, w.closed_count == 4);
    world_is_clean(&w);
    world_end(&w);
}

const test_case switch_policy_tests[] = {
    EACH(the_new_policy_s_limits_hold),
    EACH(a_deadline_is_the_new_policy_s),
    EACH(a_place_stays_that_of_the_listener),
    EACH(a_policy_that_is_not_valid_ends_the_connection),
    EACH(what_is_to_be_reported_moves_to_the_new_service),
    {0},
};
