/* The clock that tests move on. */
#include "world.h"

static void a_shifted_clock_ends_an_idle_connection_at_once(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    buffer got = {0};
    p.idle_ns = 60000 * MS;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    turn(&w, 0);                /* the batch that tells of it is over */
    int64_t before = pmx__now();
    pmx_shift_clock(50000);
    CHECK(pmx__now() - before >= 50000 * MS);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    pmx_shift_clock(60000);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ETIMEDOUT);
    CHECK(is_reset(get(peer, &got)));
    pmx_shift_clock(0);
    CHECK(pmx__now() - before < 30000 * MS);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

const test_case clock_tests[] = {
    EACH(a_shifted_clock_ends_an_idle_connection_at_once),
    {0},
};
