/* Addresses that are tried beside each other: see csrc/dial.c. */
#include "virtual.h"

#ifdef __linux__

#define BESIDE_MS (PMX__BESIDE_NS / MS)

/* Two listeners; a connection to an address that nobody answers, then to
 * theirs. */
typedef struct {
    world w;
    uint64_t id, others;        /* the connection; the second listener */
    pmx_endpoint at[3];
    int64_t begun;
    int open;                   /* descriptors before it */
} race;

static void begin_race(race *r, const pmx_policy *p)
{
    pmx_address name;
    virtual_begin(&r->w, p, 65536);
    pmx_endpoint any = {.host = "127.0.0.1"};
    EQUAL(pmx_listen(r->w.mux, &any, p, 100, 0, 0600, &r->others), 0);
    EQUAL(pmx_listener_address(r->w.mux, r->others, &name), 0);
    r->at[0] = (pmx_endpoint){.host = "127.0.0.9", .port = r->w.port};
    r->at[1] = (pmx_endpoint){.host = "127.0.0.1", .port = r->w.port};
    r->at[2] = (pmx_endpoint){.host = "127.0.0.1", .port = name.port};
    r->open = sim_open();
}

/* The next attempts end like this, in so many milliseconds. */
static void answers(enum sim_dial dial, int64_t ms)
{
    sim_now.dial = dial;
    sim_now.delay = ms * MS;
}

static void connect_to(race *r, uint32_t first, uint32_t count,
                       const pmx_policy *p)
{
    r->begun = sim_clock();
    EQUAL(pmx_connect(r->w.mux, r->at + first, count, p, &r->id), 0);
}

static void end_race(race *r)
{
    if (!closed(&r->w, r->id))
        do_op(&r->w, r->id, PMX_CLOSE);
    UNTIL(&r->w, !pmx_counts(r->w.mux)->connections);
    EQUAL(sim_open(), r->open);
    virtual_end(&r->w);
}

static int64_t passed_ms(const race *r)
{
    return (sim_clock() - r->begun) / MS;
}

static void turn_until_ms(race *r, int64_t ms)
{
    while (passed_ms(r) < ms)
        turn(&r->w, (ms - passed_ms(r)) * MS);
}

static uint32_t peer_port(const race *r)
{
    pmx_address names[2];
    EQUAL(pmx_addresses(r->w.mux, r->id, names), 0);
    return names[0].port;
}

static void an_address_that_does_not_answer_holds_up_no_other(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    answers(SIM_LOST, 0);
    connect_to(&r, 0, 2, &p);
    say_text(&r.w, r.id, "hello");
    turn_until_ms(&r, BESIDE_MS - 1);
    EQUAL(sim_open(), r.open + 1);
    answers(SIM_SOON, 0);
    UNTIL(&r.w, r.w.message_count == 1);
    CHECK(has(&r.w.opened, r.id));
    CHECK(passed_ms(&r) >= BESIDE_MS && passed_ms(&r) < BESIDE_MS + 10);
    EQUAL(peer_port(&r), r.w.port);
    EQUAL(sim_open(), r.open + 2);      /* and the accepted one */
    EQUAL(pmx_counts(r.w.mux)->connected, 1);
    do_op(&r.w, r.id, PMX_CLOSE);
    UNTIL(&r.w, r.w.closed_count == 2);
    EQUAL(error_of(&r.w, r.id), 0);
    EQUAL(sim_open(), r.open);
    end_race(&r);
}

/* The first attempt answers at 400 ms, the second, begun at 250, at 350. */
static void the_attempt_that_succeeds_first_is_the_connection(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    answers(SIM_LATER, 400);
    connect_to(&r, 1, 2, &p);
    turn_until_ms(&r, BESIDE_MS - 1);
    answers(SIM_LATER, 100);
    turn_until_ms(&r, BESIDE_MS + 1);
    EQUAL(sim_open(), r.open + 2);
    UNTIL(&r.w, has(&r.w.opened, r.id));
    EQUAL(passed_ms(&r), BESIDE_MS + 100);
    EQUAL(peer_port(&r), r.at[2].port);
    /* the slower one has ended; nothing comes of it any more */
    turn_until_ms(&r, 1000);
    EQUAL(pmx_counts(r.w.mux)->connected, 1);
    EQUAL(sim_open(), r.open + 2);
    end_race(&r);
}

/* The first attempt answers at 300 ms, the second not before 350. */
static void an_early_attempt_goes_on_beside_later_ones(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    answers(SIM_LATER, 300);
    connect_to(&r, 1, 2, &p);
    turn_until_ms(&r, BESIDE_MS - 1);
    answers(SIM_LATER, 100);
    UNTIL(&r.w, has(&r.w.opened, r.id));
    EQUAL(passed_ms(&r), 300);
    EQUAL(peer_port(&r), r.w.port);
    say_text(&r.w, r.id, "hello");
    UNTIL(&r.w, r.w.message_count == 1);
    end_race(&r);
}

/* The last attempt is refused; the first one is still on its way. */
static void a_failed_attempt_ends_no_other(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    EQUAL(pmx_unlisten(r.w.mux, r.others), 0);
    r.open--;
    answers(SIM_LATER, 300);
    connect_to(&r, 1, 2, &p);
    turn_until_ms(&r, BESIDE_MS - 1);
    answers(SIM_SOON, 0);
    turn_until_ms(&r, BESIDE_MS + 1);
    EQUAL(sim_open(), r.open + 1);
    UNTIL(&r.w, has(&r.w.opened, r.id));
    EQUAL(passed_ms(&r), 300);
    end_race(&r);
}

/* The first attempt is refused after 50 ms: the second begins at once. */
static void after_a_failure_the_next_attempt_begins_at_once(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    r.at[0] = r.at[2];
    EQUAL(pmx_unlisten(r.w.mux, r.others), 0);
    r.open--;
    answers(SIM_LATER, 50);
    connect_to(&r, 0, 2, &p);
    answers(SIM_SOON, 0);
    UNTIL(&r.w, has(&r.w.opened, r.id));
    CHECK(passed_ms(&r) >= 50 && passed_ms(&r) < 60);
    end_race(&r);
}

static void the_deadline_is_of_all_attempts(void)
{
    race r;
    pmx_policy p = raw();
    p.connect_ns = 600 * MS;
    begin_race(&r, &p);
    answers(SIM_LOST, 0);
    connect_to(&r, 0, 3, &p);
    turn_until_ms(&r, 2 * BESIDE_MS + 1);
    EQUAL(sim_open(), r.open + 3);
    CHECK(!closed(&r.w, r.id));
    UNTIL(&r.w, closed(&r.w, r.id));
    EQUAL(error_of(&r.w, r.id), ETIMEDOUT);
    EQUAL(passed_ms(&r), 600);
    EQUAL(closed(&r.w, r.id)->peer.port, r.at[2].port);
    EQUAL(sim_open(), r.open);
    end_race(&r);
}

/* A close without output ends all attempts; one with output is for the attempt
 * that succeeds, also if that has not begun. */
static void a_close_does_not_end_the_race_for_output(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    answers(SIM_LOST, 0);
    connect_to(&r, 0, 3, &p);
    turn_until_ms(&r, BESIDE_MS + 1);
    EQUAL(sim_open(), r.open + 2);
    do_op(&r.w, r.id, PMX_CLOSE);
    UNTIL(&r.w, closed(&r.w, r.id));
    EQUAL(sim_open(), r.open);

    p.close_ns = 1000 * MS;
    connect_to(&r, 0, 2, &p);
    say_text(&r.w, r.id, "hello");
    do_op(&r.w, r.id, PMX_CLOSE);
    turn_until_ms(&r, 1);
    answers(SIM_SOON, 0);
    UNTIL(&r.w, r.w.message_count == 1);
    CHECK(passed_ms(&r) < BESIDE_MS + 10);
    UNTIL(&r.w, closed(&r.w, r.id));
    EQUAL(error_of(&r.w, r.id), 0);
    end_race(&r);
}

/* The descriptors are used up for a while: the earlier attempt is left. The
 * next one is made when there is one again. */
static void an_attempt_without_a_descriptor_is_made_later(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    answers(SIM_LOST, 0);
    connect_to(&r, 0, 2, &p);
    answers(SIM_SOON, 0);
    sim_now.descriptors = sim_open();
    turn_until_ms(&r, BESIDE_MS + 50);
    EQUAL(sim_open(), r.open + 1);
    sim_now.descriptors = SIM_FDS;
    UNTIL(&r.w, has(&r.w.opened, r.id));
    CHECK(passed_ms(&r) >= BESIDE_MS + 100 && passed_ms(&r) < BESIDE_MS + 110);
    EQUAL(peer_port(&r), r.w.port);
    end_race(&r);
}

/* While several addresses are tried, nobody can know which socket it will be. */
static void the_socket_is_told_once_there_is_one(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    answers(SIM_LOST, 0);
    connect_to(&r, 0, 2, &p);
    EQUAL(pmx_socket(r.w.mux, r.id), -ENOENT);
    answers(SIM_SOON, 0);
    UNTIL(&r.w, has(&r.w.opened, r.id));
    CHECK(pmx_socket(r.w.mux, r.id) >= 0);
    uint64_t first = r.id;
    connect_to(&r, 1, 1, &p);
    CHECK(pmx_socket(r.w.mux, r.id) >= 0);
    do_op(&r.w, first, PMX_CLOSE);
    end_race(&r);
}

static void a_mux_that_is_closed_ends_all_attempts(void)
{
    race r;
    pmx_policy p = raw();
    begin_race(&r, &p);
    answers(SIM_LOST, 0);
    connect_to(&r, 0, 3, &p);
    turn_until_ms(&r, 2 * BESIDE_MS + 1);
    EQUAL(sim_open(), r.open + 3);
    virtual_end(&r.w);          /* no descriptor is left open */
}
#endif

const test_case route_tests[] = {
    VIRTUAL(an_address_that_does_not_answer_holds_up_no_other),
    VIRTUAL(the_attempt_that_succeeds_first_is_the_connection),
    VIRTUAL(an_early_attempt_goes_on_beside_later_ones),
    VIRTUAL(a_failed_attempt_ends_no_other),
    VIRTUAL(after_a_failure_the_next_attempt_begins_at_once),
    VIRTUAL(the_deadline_is_of_all_attempts),
    VIRTUAL(a_close_does_not_end_the_race_for_output),
    VIRTUAL(an_attempt_without_a_descriptor_is_made_later),
    VIRTUAL(the_socket_is_told_once_there_is_one),
    VIRTUAL(a_mux_that_is_closed_ends_all_attempts),
    {0},
};
