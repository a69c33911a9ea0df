/* Descriptors of the caller's: to be watched, and to be adopted. */
#include "world.h"

#include <string.h>

/* --- pmx_foreign -------------------------------------------------------- */

/* What this turn has told of a descriptor. */
static int told(world *w, pmx_sock sock)
{
    int found = 0, reason = turn(w, 0);
    if (reason & PMX_FOREIGN)
        for (uint32_t k = 0; k < w->t.foreign_count; k++)
            if (w->t.foreign[k] >> 2 == (int64_t)sock)
                found |= (int)(w->t.foreign[k] & 3);
    return found;
}

/* The same, as a caller does it that then wants the same again. */
static int told_again(world *w, pmx_sock sock, uint32_t wanted)
{
    int found = told(w, sock);
    if (found)
        EQUAL(pmx_foreign(w->mux, (int64_t)sock, wanted, wanted), 0);
    return found;
}

static void a_foreign_descriptor_is_told_while_it_is_ready(void)
{
    world w;
    pmx_sock pair[2];
    buffer got = {0};
    world_begin(&w, 100, 10000);
    pair_of(pair);
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], 0, PMX_READABLE), 0);
    EQUAL(told_again(&w, pair[0], PMX_READABLE), 0);
    put_text(pair[1], "x");
    CHECK(turn(&w, 1000 * MS) & PMX_FOREIGN);
    EQUAL(w.t.foreign_count, 1);
    EQUAL(w.t.foreign[0], (int64_t)pair[0] << 2 | PMX_READABLE);
    for (int i = 0; i < 3; i++) {
        EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], PMX_READABLE, PMX_READABLE),
              0);
        EQUAL(told(&w, pair[0]), PMX_READABLE);
    }
    (void)get(pair[0], &got);
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], PMX_READABLE, PMX_READABLE), 0);
    EQUAL(told(&w, pair[0]), 0);
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], PMX_READABLE, 0), 0);
    put_text(pair[1], "x");
    EQUAL(told(&w, pair[0]), 0);
    release(&got);
    leave(pair[0]);
    leave(pair[1]);
    world_end(&w);
}

static void a_foreign_descriptor_is_told_only_what_was_asked_for(void)
{
    world w;
    pmx_sock pair[2];
    uint32_t both = PMX_READABLE | PMX_WRITABLE;
    world_begin(&w, 100, 10000);
    pair_of(pair);
    put_text(pair[1], "x");
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], 0, PMX_WRITABLE), 0);
    EQUAL(told_again(&w, pair[0], PMX_WRITABLE), PMX_WRITABLE);
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], PMX_WRITABLE, both), 0);
    int found = 0;
    for (int i = 0; i < 10 && found != (int)both; i++)
        found |= told_again(&w, pair[0], both);
    EQUAL(found, both);
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], both, PMX_READABLE), 0);
    EQUAL(told_again(&w, pair[0], PMX_READABLE), PMX_READABLE);
    leave(pair[1]);             /* its end counts as what was asked for */
    EQUAL(told_again(&w, pair[0], PMX_READABLE), PMX_READABLE);
    leave(pair[0]);
    world_end(&w);
}

static void connections_are_served_beside_foreign_descriptors(void)
{
    world w;
    pmx_sock pair[2], peer;
    pmx_policy p = raw();
    world_serve(&w, &p);
    pair_of(pair);
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], 0, PMX_WRITABLE), 0);
    w.echo = 1;
    uint64_t id = meet(&w, &peer);
    put_text(peer, "hello");
    UNTIL_DOING(&w, messages_of(&w, id) == 1,
                pmx_foreign(w.mux, (int64_t)pair[0], PMX_WRITABLE,
                            PMX_WRITABLE));
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], PMX_WRITABLE, 0), 0);
    world_is_clean(&w);
    leave(pair[0]);
    leave(pair[1]);
    world_end(&w);
}

static void what_is_no_descriptor_is_refused(void)
{
    world w;
    pmx_sock pair[2];
    world_begin(&w, 100, 10000);
    pair_of(pair);
    EQUAL(pmx_foreign(w.mux, -1, 0, PMX_READABLE), -EBADF);
    EQUAL(pmx_foreign(w.mux, INT64_MAX, 0, PMX_READABLE), -EBADF);
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], 0, 4), -EINVAL);
    test_fail_at = 1;           /* there is no memory yet */
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], 0, PMX_READABLE), -ENOMEM);
    test_fail_at = 0;
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], 0, PMX_READABLE), 0);
    EQUAL(pmx_foreign(w.mux, (int64_t)pair[0], PMX_READABLE, 0), 0);
    leave(pair[0]);
    leave(pair[1]);
    world_end(&w);
}

/* --- pmx_adopt ---------------------------------------------------------- */

static void an_adopted_socket_is_a_connection(void)
{
    world w;
    pmx_sock pair[2];
    pmx_policy p = lines("\n", 100);
    pmx_address names[2];
    buffer got = {0};
    uint64_t id;
    world_begin(&w, 100, 10000);
    pair_of(pair);
    put_text(pair[1], "early\n");
    EQUAL(pmx_adopt(w.mux, (int64_t)pair[0], 0, &p, &id), 0);
    say_text(&w, id, "hello");
    UNTIL(&w, messages_of(&w, id) == 1);
    CHECK(has(&w.opened, id));
    EQUAL(pmx_addresses(w.mux, id, names), 0);
    EQUAL(pmx_counts(w.mux)->connected, 1);
    EQUAL(pmx_counts(w.mux)->outgoing, 1);
    EQUAL(pmx_counts(w.mux)->connections, 1);
    UNTIL(&w, (get(pair[1], &got), got.size == 6));
    CHECK(is_text_of(&got, "hello\n"));
    leave(pair[1]);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void adopted_sockets_share_the_rules_of_equal_policies(void)
{
    world w;
    pmx_sock pairs[3][2];
    uint64_t ids[3];
    pmx_policy p = raw();
    world_begin(&w, 100, 10000);
    for (int i = 0; i < 3; i++) {
        pair_of(pairs[i]);
        p.connect_ns = i ? 1000 * MS : -1;      /* does not matter here */
        EQUAL(pmx_adopt(w.mux, (int64_t)pairs[i][0], 0, &p, &ids[i]), 0);
    }
    CHECK(pmx__find(w.mux, ids[0])->rules == pmx__find(w.mux, ids[2])->rules);
    UNTIL(&w, w.opened.count == 3);
    mux_is_sound(w.mux);
    pmx_reset_all(w.mux, ECONNABORTED);
    UNTIL(&w, w.closed_count == 3);
    for (int i = 0; i < 3; i++)
        leave(pairs[i][1]);
    world_is_clean(&w);
    world_end(&w);
}

static void a_mux_that_closes_closes_what_it_has_adopted(void)
{
    world w;
    pmx_sock pair[2];
    buffer got = {0};
    pmx_policy p = raw();
    uint64_t id;
    world_begin(&w, 100, 10000);
    pair_of(pair);
    EQUAL(pmx_adopt(w.mux, (int64_t)pair[0], 0, &p, &id), 0);
    world_end(&w);              /* before a turn */
    CHECK(get(pair[1], &got) <= 0);
    leave(pair[1]);
    release(&got);
}

static void what_cannot_be_adopted_stays_the_callers(void)
{
    world w;
    pmx_sock pair[2];
    pmx_policy p = raw(), wrong = fixed(0);
    uint64_t id = 0;
    world_begin(&w, 100, 10000);
    pmx_sock alone = socket(AF_INET, SOCK_STREAM, 0);
    pmx_sock datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    EQUAL(pmx_adopt(w.mux, -1, 0, &p, &id), -EBADF);
    EQUAL(pmx_adopt(w.mux, (int64_t)alone, 0, &p, &id), -ENOTCONN);
    EQUAL(pmx_adopt(w.mux, (int64_t)datagrams, 0, &p, &id), -EINVAL);
    leave(alone);
    leave(datagrams);
    pair_of(pair);
    EQUAL(pmx_adopt(w.mux, (int64_t)pair[0], 0, &wrong, &id), -EINVAL);
    p.service = 7;
    EQUAL(pmx_adopt(w.mux, (int64_t)pair[0], 0, &p, &id), -EINVAL);
    p.service = 0;
    int error, tries = 0;
    do {                        /* each allocation in turn */
        test_fail_at = ++tries;
        error = pmx_adopt(w.mux, (int64_t)pair[0], 0, &p, &id);
        test_fail_at = 0;
        CHECK(!error || error == -ENOMEM);
    } while (error && tries < 20);
    EQUAL(error, 0);
    CHECK(tries > 2);
    UNTIL(&w, w.opened.count == 1);
    leave(pair[1]);
    UNTIL(&w, w.closed_count == 1);
    world_is_clean(&w);
    world_end(&w);
}

const test_case foreign_tests[] = {
    EACH(a_foreign_descriptor_is_told_while_it_is_ready),
    EACH(a_foreign_descriptor_is_told_only_what_was_asked_for),
    EACH(connections_are_served_beside_foreign_descriptors),
    EACH(what_is_no_descriptor_is_refused),
    EACH(an_adopted_socket_is_a_connection),
    EACH(adopted_sockets_share_the_rules_of_equal_policies),
    EACH(a_mux_that_closes_closes_what_it_has_adopted),
    EACH(what_cannot_be_adopted_stays_the_callers),
    {0},
};
