/* Services: the rows of a harvest are of one, and they take turns. */
#include "world.h"

#include <string.h>

/* A listener for the service; its port. */
static uint32_t listen_for(world *w, const pmx_policy *policy,
                           uint32_t service)
{
    pmx_policy p = *policy;
    p.service = service;
    world_listen(w, &p);
    return w->port;
}

static void add_services(world *w, int wanted)
{
    for (int k = 1; k <= wanted; k++)
        EQUAL(pmx_add_service(w->mux), k);
}

static void services_are_numbered_and_checked(void)
{
    world w;
    uint64_t id;
    pmx_policy p = raw();
    pmx_endpoint at = {.host = "127.0.0.1", .port = 1};
    world_begin(&w, 10, 1000);
    p.service = 1;
    EQUAL(pmx_listen(w.mux, &at, &p, 8, 0, 0600, &id), -EINVAL);
    EQUAL(pmx_listen_on(w.mux, 0, &p, &id), -EINVAL);
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), -EINVAL);
    EQUAL(pmx_configure(w.mux, 0, 1, 0, 0), 0);
    EQUAL(pmx_configure(w.mux, 1, 1, 0, 0), -EINVAL);
    add_services(&w, 20);
    EQUAL(pmx_configure(w.mux, 20, 1, 0, 0), 0);
    EQUAL(pmx_configure(w.mux, 21, 1, 0, 0), -EINVAL);
    listen_for(&w, &p, 20);
    world_end(&w);
}

static void without_memory_there_is_no_more_service(void)
{
    world w;
    pmx_policy p = raw();
    world_begin(&w, 10, 1000);
    for (int at = 1; at <= 2; at++) {
        test_fail_at = at;
        EQUAL(pmx_add_service(w.mux), -ENOMEM);
        test_fail_at = 0;
    }
    add_services(&w, 1);
    listen_for(&w, &p, 1);
    world_end(&w);
}

enum { FLOODERS = 20, SERVICES = 3 };

/* Peers that always have more to say. */
typedef struct {
    pmx_sock peers[FLOODERS];
    size_t at[FLOODERS];
    buffer said;
} flood;

static void flood_begin(flood *f, world *w)
{
    memset(f, 0, sizeof *f);
    fill(&f->said, 100000, 1);
    for (int i = 0; i < FLOODERS; i++)
        (void)meet(w, &f->peers[i]);
}

static void flood_goes_on(flood *f)
{
    for (int i = 0; i < FLOODERS; i++)
        while (put_some(f->peers[i], &f->said, &f->at[i]))
            f->at[i] = 0;
}

static void flood_end(flood *f)
{
    for (int i = 0; i < FLOODERS; i++)
        leave(f->peers[i]);
    release(&f->said);
}

static void a_flood_delays_another_service_by_one_turn(void)
{
    world w;
    flood f;
    pmx_sock peer;
    pmx_policy p = raw(), l = lines("\n", 100);
    world_begin(&w, 64, 100000);
    w.forget = 1;
    add_services(&w, 1);
    uint32_t quiet = listen_for(&w, &l, 1);
    uint32_t loud = listen_for(&w, &p, 0);
    flood_begin(&f, &w);
    w.port = quiet;
    (void)meet(&w, &peer);
    w.port = loud;
    for (int k = 0; k < 50; k++) {
        flood_goes_on(&f);
        turn(&w, 0);
        put_text(peer, "hello\n");
        int turns = 0;
        do {
            flood_goes_on(&f);
            turn(&w, 0);
            CHECK(w.t.messages);
        } while (!w.t.service && ++turns < 100);
        CHECK(turns <= 1);
        EQUAL(w.t.messages, 1);
    }
    leave(peer);
    flood_end(&f);
    UNTIL(&w, w.closed_count == FLOODERS + 1);
    world_is_clean(&w);
    world_end(&w);
}

static void services_that_have_rows_take_turns(void)
{
    world w;
    flood f[SERVICES];
    pmx_policy p = raw();
    world_begin(&w, 64, 100000);
    w.forget = 1;
    add_services(&w, SERVICES - 1);
    for (uint32_t s = 0; s < SERVICES; s++) {
        listen_for(&w, &p, s);
        flood_begin(&f[s], &w);
    }
    for (int s = 0; s < SERVICES; s++)
        flood_goes_on(&f[s]);
    turn(&w, 0);
    for (uint32_t k = 1; k < 60; k++) {
        uint32_t before = w.t.service;
        for (int s = 0; s < SERVICES; s++)
            flood_goes_on(&f[s]);
        turn(&w, 0);
        EQUAL(w.t.service, (before + 1) % SERVICES);
        CHECK(w.t.messages);
    }
    for (int s = 0; s < SERVICES; s++)
        flood_end(&f[s]);
    UNTIL(&w, w.closed_count == SERVICES * FLOODERS);
    world_is_clean(&w);
    world_end(&w);
}

/* What brings no rows does not wait for its service's turn. */
static void output_leaves_in_every_turn(void)
{
    world w;
    flood f;
    pmx_sock peer;
    buffer much = {0}, got = {0};
    pmx_policy p = raw();
    fill(&much, 3000000, 7);
    world_begin(&w, 64, 100000);
    w.forget = 1;
    add_services(&w, 1);
    uint32_t other = listen_for(&w, &p, 1);
    listen_for(&w, &p, 0);
    flood_begin(&f, &w);
    w.port = other;
    uint64_t id = meet_small(&w, &peer);
    say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    for (int k = 0; pmx_queued(w.mux, id) && k < 10000; k++) {
        uint64_t before = pmx_queued(w.mux, id);
        size_t had = got.size;
        flood_goes_on(&f);
        CHECK(get(peer, &got) >= 0);
        turn(&w, 0);
        EQUAL(w.t.service, 0);          /* it is the only one with rows */
        /* what the peer took makes room, sooner or later */
        CHECK(pmx_queued(w.mux, id) <= before || got.size == had);
    }
    EQUAL(pmx_queued(w.mux, id), 0);
    leave(peer);
    flood_end(&f);
    UNTIL(&w, w.closed_count == FLOODERS + 1);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* A connection of each of two services: of 1, of 0. */
typedef struct {
    world w;
    pmx_sock peers[2];
    uint64_t ids[2];
    uint32_t ports[2];
} two;

static void two_begin(two *t, const pmx_policy *p)
{
    world_begin(&t->w, 100, 10000);
    add_services(&t->w, 1);
    for (uint32_t s = 0; s < 2; s++) {
        t->ports[s] = listen_for(&t->w, p, s);
        t->ids[s] = meet(&t->w, &t->peers[s]);
    }
}

static void two_end(two *t)
{
    for (int s = 0; s < 2; s++)
        leave(t->peers[s]);
    UNTIL(&t->w, t->w.closed_count == t->w.opened.count);
    world_is_clean(&t->w);
    world_end(&t->w);
}

static void another_service_ends_a_wait_for_more_messages(void)
{
    two t;
    pmx_sock silent[2];
    pmx_policy p = lines("\n", 100);
    two_begin(&t, &p);
    for (int s = 0; s < 2; s++) {
        t.w.port = t.ports[s];
        (void)meet(&t.w, &silent[s]);
    }
    for (int s = 0; s < 2; s++)
        put_text(t.peers[s], "one\n");
    int64_t begun = pmx__now();
    turn_of(&t.w, 15000 * MS, 3, 15000 * MS);
    EQUAL(t.w.message_count, 1);
    CHECK(pmx__now() - begun < 10000 * MS);
    UNTIL(&t.w, t.w.message_count == 2);
    for (int s = 0; s < 2; s++)
        leave(silent[s]);
    two_end(&t);
}

static void a_batch_gathers_for_its_service_alone(void)
{
    two t;
    pmx_sock third;
    pmx_policy p = lines("\n", 100);
    two_begin(&t, &p);
    (void)meet(&t.w, &third);           /* of service 1, and silent */
    EQUAL(pmx_configure(t.w.mux, 1, 3, 10 * MS, 0), 0);
    pmx_turn turn_ = {.mux = t.w.mux, .arena = t.w.arena, .timeout_ns = MS};
    put_text(t.peers[1], "one\n");
    pmx_harvest(&turn_);                /* it waits for two more */
    while (!turn_.messages)
        pmx_harvest(&turn_);
    EQUAL(turn_.service, 1);
    put_text(t.peers[0], "one\n");      /* service 0 waits for none */
    do
        pmx_harvest(&turn_);
    while (!turn_.messages);
    EQUAL(turn_.service, 0);
    leave(third);
    two_end(&t);
}

static void a_batch_that_is_kept_is_handed_over_for_another_service(void)
{
    two t;
    pmx_sock third;
    pmx_policy p = lines("\n", 100);
    two_begin(&t, &p);
    (void)meet(&t.w, &third);
    EQUAL(pmx_configure(t.w.mux, 1, 3, 60000 * MS, 0), 0);
    pmx_turn turn_ = {.mux = t.w.mux, .arena = t.w.arena,
                      .timeout_ns = PMX_LOOK};
    put_text(t.peers[1], "one\n");
    while (pmx_harvest(&turn_) != PMX_GATHERING)
        CHECK(!turn_.messages);
    EQUAL(turn_.service, 1);
    EQUAL(turn_.messages, 0);
    put_text(t.peers[0], "two\n");
    while (pmx_harvest(&turn_) == PMX_GATHERING)
        ;
    EQUAL(turn_.service, 1);
    EQUAL(turn_.messages, 1);
    EQUAL(pmx_next_timeout(t.w.mux), 0);
    pmx_harvest(&turn_);
    EQUAL(turn_.service, 0);
    EQUAL(turn_.messages, 1);
    leave(third);
    two_end(&t);
}

static void opened_precedes_the_messages_of_a_connection(void)
{
    enum { COUNT = 40 };
    two t;
    pmx_sock peers[COUNT];
    pmx_policy p = lines("\n", 100);
    two_begin(&t, &p);
    t.w.forget = 0;
    for (int i = 0; i < COUNT; i++) {
        t.w.port = t.ports[i % 2];
        peers[i] = call(&t.w);
        put_text(peers[i], "first\n");
        put_text(t.peers[1 - i % 2], "more\n");
        if (i % 3)
            turn(&t.w, 0);
        for (uint32_t k = 0; k < t.w.t.messages; k++)
            CHECK(has(&t.w.opened, t.w.t.arena->ids[k]));
    }
    UNTIL(&t.w, t.w.message_count == 2 * COUNT);
    EQUAL(t.w.opened.count, COUNT + 2);
    for (int i = 0; i < COUNT; i++)
        leave(peers[i]);
    two_end(&t);
}

/* A batch of service 0 gathers: what opens for service 1 meanwhile ends it. */
static void what_opens_waits_for_a_batch_of_another_service(void)
{
    two t;
    pmx_sock third;
    pmx_policy p = lines("\n", 100);
    two_begin(&t, &p);
    t.w.port = t.ports[0];
    (void)meet(&t.w, &third);           /* of service 0, and silent */
    EQUAL(pmx_configure(t.w.mux, 0, 3, 60000 * MS, 0), 0);
    pmx_turn turn_ = {.mux = t.w.mux, .arena = t.w.arena,
                      .timeout_ns = PMX_LOOK};
    put_text(t.peers[0], "one\n");
    while (pmx_harvest(&turn_) != PMX_GATHERING)
        CHECK(!turn_.messages);
    t.w.port = t.ports[1];
    pmx_sock fourth = call(&t.w);
    put_text(fourth, "at once\n");
    while (pmx_harvest(&turn_) == PMX_GATHERING)
        ;
    EQUAL(turn_.service, 0);
    EQUAL(turn_.messages, 1);
    EQUAL(turn_.opened_count, 0);
    mux_is_sound(t.w.mux);
    do
        pmx_harvest(&turn_);
    while (!turn_.opened_count);
    EQUAL(turn_.service, 1);
    EQUAL(turn_.messages, 0);
    do
        pmx_harvest(&turn_);
    while (!turn_.messages);
    EQUAL(turn_.service, 1);
    mux_is_sound(t.w.mux);
    pmx_reset_all(t.w.mux, ECONNABORTED);
    leave(third);
    leave(fourth);
    for (int s = 0; s < 2; s++)
        leave(t.peers[s]);
    world_end(&t.w);
}

static void ends_are_reported_service_by_service(void)
{
    enum { COUNT = 10 };
    world w;
    pmx_sock peers[SERVICES][COUNT];
    uint32_t reported[SERVICES] = {0};
    pmx_policy p = raw();
    world_begin(&w, 100, 10000);
    add_services(&w, SERVICES - 1);
    for (uint32_t s = 0; s < SERVICES; s++) {
        listen_for(&w, &p, s);
        for (int i = 0; i < COUNT; i++)
            (void)meet(&w, &peers[s][i]);
    }
    pmx_reset_all(w.mux, ECONNABORTED);
    for (int k = 0; k < SERVICES; k++) {
        EQUAL(pmx_next_timeout(w.mux), 0);
        turn(&w, 0);
        EQUAL(w.t.closed_count, COUNT);
        reported[w.t.service]++;
    }
    for (int s = 0; s < SERVICES; s++)
        EQUAL(reported[s], 1);
    for (int s = 0; s < SERVICES; s++)
        for (int i = 0; i < COUNT; i++)
            leave(peers[s][i]);
    world_is_clean(&w);
    world_end(&w);
}

static void hundreds_of_services_are_all_served(void)
{
    enum { MANY = 300 };          /* select() takes 1,024 descriptors */
    world w;
    pmx_policy p = lines("\n", 100);
    if (!test_room_for(2 * MANY + 50))
        test_skipped("too few descriptors");
    world_begin(&w, 100, 10000);
    add_services(&w, MANY - 1);
    for (int i = 0; i < MANY; i++) {
        uint64_t id;
        pmx_endpoint at = {.host = "127.0.0.1"};
        if (!i)
            listen_for(&w, &p, 0);
        at.port = w.port;
        p.service = (uint32_t)i;        /* outgoing, to the mux itself */
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
        say_text(&w, id, "hello\n");
    }
    w.echo = 1;
    while (w.message_count < 3 * MANY)
        turn(&w, MS);
    EQUAL(pmx_counts(w.mux)->outgoing, MANY);
    EQUAL(w.mux->rules_count, MANY);
    pmx_reset_all(w.mux, ECONNABORTED);
    UNTIL(&w, w.closed_count == 2 * MANY);
    world_is_clean(&w);
    world_end(&w);
}

const test_case services_tests[] = {
    ONCE(services_are_numbered_and_checked),
    ONCE(without_memory_there_is_no_more_service),
    EACH(a_flood_delays_another_service_by_one_turn),
    EACH(services_that_have_rows_take_turns),
    EACH(output_leaves_in_every_turn),
    EACH(another_service_ends_a_wait_for_more_messages),
    EACH(a_batch_gathers_for_its_service_alone),
    EACH(a_batch_that_is_kept_is_handed_over_for_another_service),
    EACH(opened_precedes_the_messages_of_a_connection),
    EACH(what_opens_waits_for_a_batch_of_another_service),
    EACH(ends_are_reported_service_by_service),
    EACH(hundreds_of_services_are_all_served),
    {0},
};
