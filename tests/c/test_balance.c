/* Peers that are given to the worker with the fewest connections. */
#include "world.h"

#include <errno.h>
#include <string.h>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>

enum { SEATS = 4 };

static world here, there;
static FILE *file;
static pmx_seat *seats;
static pmx_gift gift;

/* Our seat is 1, and that of another mux is 2. */
static void begin(const pmx_policy *p)
{
    world_serve(&here, p);
    world_serve(&there, p);
    file = file_of(SEATS * sizeof *seats);
    seats = mmap(NULL, SEATS * sizeof *seats, PROT_READ | PROT_WRITE,
                 MAP_SHARED, fileno(file), 0);
    CHECK(seats != MAP_FAILED);
    EQUAL(pmx_balance(here.mux, fileno(file), SEATS, 1), 0);
    EQUAL(pmx_balance(there.mux, fileno(file), SEATS, 2), 0);
}

static void end(void)
{
    world_end(&here);
    world_end(&there);
    CHECK(!munmap(seats, SEATS * sizeof *seats));
    CHECK(!fclose(file));
}

static void peer_comes(pmx_sock *peer)
{
    uint64_t accepted = pmx_counts(here.mux)->accepted;
    *peer = call(&here);
    int64_t until = deadline();
    while (pmx_counts(here.mux)->accepted == accepted) {
        if (turn(&here, MS) & PMX_GIVEN)
            return;
        CHECK(pmx__now() < until);
    }
}

static int64_t is_sent(void)
{
    int64_t sock = dup((int)gift.sock);
    CHECK(sock >= 0);
    EQUAL(pmx_gave(here.mux, 1), 0);
    return sock;
}

static void the_worker_with_the_fewest_gets_a_peer(void)
{
    pmx_sock peers[3];
    pmx_policy p = lines("\n", 100);
    begin(&p);
    seats[0].open = seats[2].open = 1;
    seats[0].here = 7;
    seats[2].here = 0;
    peer_comes(&peers[0]);      /* one more than the least is few enough */
    EQUAL(pmx_counts(here.mux)->accepted, 1);
    EQUAL(seats[1].here, 1);
    peer_comes(&peers[1]);
    put_text(peers[1], "early\n");
    EQUAL(pmx_counts(here.mux)->accepted, 1);
    EQUAL(seats[2].coming, 1);
    EQUAL(pmx_given(here.mux, &gift), 1);
    EQUAL(gift.listener, here.listener);
    EQUAL(gift.seat, 2);
    EQUAL(gift.peer.family, 4);
    pmx_address peer = gift.peer;
    int64_t sock = is_sent();
    EQUAL(pmx_given(here.mux, &gift), 0);
    EQUAL(pmx_counts(here.mux)->given_away, 1);
    EQUAL(pmx_admit(there.mux, sock, there.listener, &peer, 2), 0);
    EQUAL(seats[2].coming, 0);
    EQUAL(seats[2].here, 1);
    UNTIL(&there, there.message_count == 1);
    EQUAL(there.opened.count, 1);
    pmx_address names[2];
    EQUAL(pmx_addresses(there.mux, there.opened.ids[0], names), 0);
    EQUAL(names[0].port, peer.port);
    say_text(&there, there.opened.ids[0], "late");
    buffer got = {0};
    UNTIL_DOING(&there, got.size == 5, get(peers[1], &got));
    leave(peers[1]);
    UNTIL(&there, there.closed_count == 1);
    EQUAL(seats[2].here, 0);
    leave(peers[0]);
    UNTIL(&here, here.closed_count == 1);
    EQUAL(seats[1].here, 0);
    release(&got);
    world_is_clean(&here);
    world_is_clean(&there);
    end();
}

static void a_worker_that_does_not_accept_gets_none(void)
{
    pmx_sock peers[3];
    pmx_policy p = raw();
    begin(&p);
    for (int i = 0; i < 3; i++)
        peer_comes(&peers[i]);
    EQUAL(pmx_counts(here.mux)->accepted, 3);
    EQUAL(pmx_given(here.mux, &gift), 0);
    for (int i = 0; i < 3; i++)
        leave(peers[i]);
    end();
}

static void what_is_on_its_way_counts_and_a_few_more_are_kept(void)
{
    pmx_sock peer;
    pmx_policy p = raw();
    begin(&p);
    seats[2].open = 1;
    seats[2].coming = 1;
    peer_comes(&peer);
    leave(peer);
    peer_comes(&peer);
    leave(peer);
    EQUAL(pmx_counts(here.mux)->accepted, 2);
    EQUAL(pmx_given(here.mux, &gift), 0);
    end();
}

static void a_gift_that_cannot_be_sent_is_accepted_here(void)
{
    pmx_sock peers[2];
    pmx_policy p = lines("\n", 100);
    begin(&p);
    seats[2].open = 1;
    peer_comes(&peers[0]);
    peer_comes(&peers[1]);
    EQUAL(pmx_given(here.mux, &gift), 1);
    EQUAL(pmx_gave(here.mux, 0), 0);
    EQUAL(pmx_gave(here.mux, 0), 0);    /* there is none any more */
    EQUAL(seats[2].coming, 0);
    EQUAL(seats[1].here, 2);
    EQUAL(pmx_counts(here.mux)->given_away, 0);
    put_text(peers[1], "here\n");
    UNTIL(&here, here.opened.count == 2 && here.message_count == 1);
    mux_is_sound(here.mux);
    for (int i = 0; i < 2; i++)
        leave(peers[i]);
    UNTIL(&here, here.closed_count == 2);
    world_is_clean(&here);
    end();
}

/* Gifts that may come back have a place, and those that come need one. */
static void limits_of_connections_hold(void)
{
    pmx_sock peers[4], pair[2];
    pmx_policy p = raw();
    pmx_address none = {0};
    p.max_connections = 2;
    begin(&p);
    seats[2].open = 1;
    for (int i = 0; i < 4; i++)
        peers[i] = call(&here);
    CHECK(turn(&here, 1000 * MS) & PMX_GIVEN);
    for (int i = 0; i < 3; i++)
        turn(&here, MS);
    EQUAL(pmx_counts(here.mux)->accepted, 1);
    EQUAL(pmx_given(here.mux, &gift), 1);
    EQUAL(pmx_gave(here.mux, 0), 0);
    EQUAL(pmx_given(here.mux, &gift), 0);
    pair_of(pair);
    seats[1].coming = 1;
    EQUAL(pmx_admit(here.mux, (int64_t)pair[0], here.listener, &none, 1),
          -EAGAIN);
    EQUAL(seats[1].coming, 1);
    leave(peers[0]);
    UNTIL(&here, here.closed_count == 1);
    int64_t until = deadline();
    while (pmx_given(here.mux, &gift) != 1) {   /* the third */
        turn(&here, MS);
        CHECK(pmx__now() < until);
    }
    EQUAL(pmx_gave(here.mux, 1), 0);
    leave(pair[0]);
    leave(pair[1]);
    for (int i = 1; i < 4; i++)
        leave(peers[i]);
    end();
}

/* So the figures show that peers wait, whichever way they have come. */
static void a_listener_is_full_while_a_given_connection_waits(void)
{
    pmx_sock peer, pair[2];
    pmx_policy p = raw();
    pmx_address none = {0};
    p.max_connections = 1;
    begin(&p);
    peer_comes(&peer);
    UNTIL(&here, here.opened.count == 1);
    for (int i = 0; i < 3; i++)
        turn(&here, MS);
    uint64_t before = pmx_counts(here.mux)->accept_pauses;
    EQUAL(pmx_counts(here.mux)->listeners_full, before);
    pair_of(pair);
    for (int i = 0; i < 2; i++) {
        EQUAL(pmx_admit(here.mux, (int64_t)pair[0], here.listener, &none, 1),
              -EAGAIN);
        EQUAL(pmx_counts(here.mux)->listeners_full, 1);
        EQUAL(pmx_counts(here.mux)->accept_pauses, 1);
        mux_is_sound(here.mux);
        turn(&here, MS);
    }
    leave(peer);
    UNTIL(&here, here.closed_count == 1);
    turn(&here, MS);
    EQUAL(pmx_counts(here.mux)->listeners_full, 0);
    EQUAL(pmx_admit(here.mux, (int64_t)pair[0], here.listener, &none, 1), 0);
    leave(pair[1]);
    UNTIL(&here, here.closed_count == 2);
    end();
}

/* It looks for one when it is full, and when its share is set again. */
static void a_full_worker_accepts_for_one_that_has_fewer(void)
{
    pmx_sock peers[6];
    pmx_policy p = raw();
    p.max_connections = 2;
    begin(&p);
    seats[2].open = 1;
    seats[2].here = 9;
    for (int i = 0; i < 3; i++)
        peers[i] = call(&here);
    UNTIL(&here, here.opened.count == 2);
    for (int i = 0; i < 3; i++)
        turn(&here, MS);
    EQUAL(pmx_counts(here.mux)->accepted, 2);
    EQUAL(pmx_counts(here.mux)->listeners_full, 1);
    seats[2].here = 0;
    EQUAL(pmx_set_most(here.mux, here.listener, 2), 0);
    CHECK(turn(&here, 1000 * MS) & PMX_GIVEN);
    EQUAL(pmx_given(here.mux, &gift), 1);   /* one at a time */
    EQUAL(seats[2].coming, 1);
    EQUAL(pmx_gave(here.mux, 1), 0);
    EQUAL(pmx_counts(here.mux)->listeners_full, 0);
    seats[2].coming = 0;
    peers[3] = call(&here);
    CHECK(turn(&here, 1000 * MS) & PMX_GIVEN);
    EQUAL(pmx_given(here.mux, &gift), 1);
    EQUAL(pmx_gave(here.mux, 0), 0);        /* one too many, and no more */
    EQUAL(pmx_counts(here.mux)->accepted, 3);
    peers[4] = call(&here);
    peers[5] = call(&here);
    for (int i = 0; i < 5; i++)
        turn(&here, MS);
    EQUAL(pmx_given(here.mux, &gift), 0);
    EQUAL(pmx_counts(here.mux)->accepted, 3);
    EQUAL(pmx_counts(here.mux)->listeners_full, 1);
    mux_is_sound(here.mux);
    for (int i = 0; i < 6; i++)
        leave(peers[i]);
    end();
}

static void what_nobody_has_taken_ends_with_the_mux(void)
{
    pmx_sock peers[4];
    pmx_policy p = raw();
    begin(&p);
    seats[2].open = 1;
    seats[2].here = 0;
    for (int i = 0; i < 4; i++)
        peer_comes(&peers[i]);
    EQUAL(pmx_balance(here.mux, -1, 0, 0), -EAGAIN);
    EQUAL(pmx_given(here.mux, &gift), 1);
    EQUAL(pmx_balance(here.mux, fileno(file), SEATS, 1), -EAGAIN);
    EQUAL(pmx_shut(here.mux), 0);
    for (int i = 0; i < 4; i++) {
        buffer got = {0};
        int64_t until = deadline();
        int said;
        while ((said = get(peers[i], &got)) == 1)
            CHECK(pmx__now() < until);
        EQUAL(said, 0);
        leave(peers[i]);
        release(&got);
    }
    end();
}

static void wrong_arguments_are_refused(void)
{
    pmx_policy p = raw();
    pmx_sock pair[2];
    begin(&p);
    pmx_address none = {0}, wrong = {.family = 9};
    EQUAL(pmx_balance(here.mux, fileno(file), SEATS, SEATS), -EINVAL);
    EQUAL(pmx_balance(here.mux, fileno(file), SEATS + 1, 0), -EINVAL);
    EQUAL(pmx_balance(here.mux, 1 << 20, SEATS, 0), -EBADF);
    seats[1].coming = 9;
    EQUAL(pmx_admit(here.mux, -1, here.listener, &none, 1), -EBADF);
    pair_of(pair);
    EQUAL(pmx_admit(here.mux, (int64_t)pair[0], 77, &none, 1), -ENOENT);
    EQUAL(pmx_admit(here.mux, (int64_t)pair[0], here.listener, &wrong, 1),
          -EINVAL);
    EQUAL(seats[1].coming, 6);
    EQUAL(pmx_admit(here.mux, (int64_t)pair[0], here.listener, &none, SEATS), 0);
    UNTIL(&here, here.opened.count == 1);
    EQUAL(seats[1].coming, 6);
    EQUAL(pmx_balance(here.mux, -1, 0, 0), 0);
    EQUAL(pmx_balance(here.mux, -1, 0, 0), 0);
    leave(pair[1]);
    UNTIL(&here, here.closed_count == 1);
    end();
}

const test_case balance_tests[] = {
    EACH(the_worker_with_the_fewest_gets_a_peer),
    EACH(a_worker_that_does_not_accept_gets_none),
    EACH(what_is_on_its_way_counts_and_a_few_more_are_kept),
    EACH(a_gift_that_cannot_be_sent_is_accepted_here),
    EACH(limits_of_connections_hold),
    EACH(a_full_worker_accepts_for_one_that_has_fewer),
    EACH(a_listener_is_full_while_a_given_connection_waits),
    EACH(what_nobody_has_taken_ends_with_the_mux),
    ONCE(wrong_arguments_are_refused),
    {0},
};
#else
const test_case balance_tests[] = {{0}};
#endif
