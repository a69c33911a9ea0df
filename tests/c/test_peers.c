/* How many connections one peer address may have. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

static pmx_policy few(uint32_t most)
{
    pmx_policy p = raw();
    p.max_per_peer = most;
    return p;
}

/* The peer's stream ends, though it has sent nothing. */
static void is_turned_away(world *w, pmx_sock peer)
{
    buffer got = {0};
    int said = -EAGAIN;
    UNTIL_DOING(w, (said = get(peer, &got)) <= 0 && said != -EAGAIN, (void)0);
    EQUAL(got.size, 0);
    leave(peer);
}

static void a_peer_has_so_many_connections_and_no_more(void)
{
    world w;
    pmx_sock peers[3];
    pmx_policy p = few(2);
    world_serve(&w, &p);
    uint64_t first = meet(&w, &peers[0]);
    (void)meet(&w, &peers[1]);
    for (uint64_t i = 1; i < 4; i++) {
        pmx_sock over = call(&w);
        UNTIL(&w, pmx_counts(w.mux)->refused_per_peer == i);
        is_turned_away(&w, over);
    }
    pmx_address name;           /* of the last of these */
    EQUAL(pmx_counts(w.mux)->refuser, w.listener);
    EQUAL(pmx_refused_peer(w.mux, &name), 0);
    EQUAL(name.family, 4);
    EQUAL(name.ip[0], 127);
    EQUAL(w.opened.count, 2);
    EQUAL(pmx_counts(w.mux)->accepted, 2);
    EQUAL(pmx_counts(w.mux)->refused, 0);
    EQUAL(pmx_counts(w.mux)->accept_pauses, 0);
    leave(peers[0]);            /* there is a place again */
    UNTIL(&w, closed(&w, first));
    (void)meet(&w, &peers[2]);
    EQUAL(pmx_counts(w.mux)->refused_per_peer, 3);
    leave(peers[1]);
    leave(peers[2]);
    UNTIL(&w, w.closed_count == 3);
    CHECK(!w.mux->peers);       /* nothing is kept of those that have gone */
    world_is_clean(&w);
    world_end(&w);
}

/* The caller is told at once, whatever it waits for. */
static void a_wait_ends_when_a_peer_is_turned_away(void)
{
    world w;
    pmx_sock peer;
    pmx_address name;
    pmx_policy p = few(1);
    world_serve(&w, &p);
    (void)meet(&w, &peer);
    EQUAL(pmx_refused_peer(w.mux, &name), -ENOENT);
    pmx_sock over = call(&w);
    EQUAL(turn(&w, PMX_FOR_EVER), PMX_NOTABLE);
    EQUAL(pmx_refused_peer(w.mux, &name), 0);
    EQUAL(turn(&w, 0), 0);
    is_turned_away(&w, over);
    leave(peer);
    UNTIL(&w, w.closed_count == 1);
    world_is_clean(&w);
    world_end(&w);
}

/* What is not accepted is not counted: those that the mux has dialled. */
static void outgoing_connections_have_no_such_limit(void)
{
    world w;
    pmx_sock one, two;
    pmx_policy p = few(1);
    world_serve(&w, &p);
    (void)meet(&w, &one);
    pmx_policy q = few(1);
    pmx_endpoint to = {.host = "127.0.0.1", .port = w.port};
    uint64_t id;
    EQUAL(pmx_connect(w.mux, &to, 1, &q, &id), 0);
    UNTIL(&w, has(&w.opened, id) && pmx_counts(w.mux)->refused_per_peer == 1);
    UNTIL(&w, closed(&w, id));
    leave(one);
    UNTIL(&w, w.closed_count == 2);
    (void)meet(&w, &two);
    leave(two);
    UNTIL(&w, w.closed_count == 3);
    world_is_clean(&w);
    world_end(&w);
}

/* The place stays that of the listener's policy. */
static void who_switches_keeps_its_place(void)
{
    world w;
    pmx_sock peer, other;
    pmx_policy p = few(1), to = lines("\n", 100);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    switch_to(&w, id, &to, NULL, 0);
    turn(&w, 0);
    pmx_sock over = call(&w);
    UNTIL(&w, pmx_counts(w.mux)->refused_per_peer == 1);
    is_turned_away(&w, over);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    (void)meet(&w, &other);
    leave(other);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
}

/* --- the table -------------------------------------------------------- */

static pmx__target of_ip4(uint32_t ip)
{
    pmx__target t;
    memset(&t, 0, sizeof t);
    t.size = sizeof t.to.v4;
    t.to.v4.sin_family = AF_INET;
    memcpy(&t.to.v4.sin_addr, &ip, 4);
    return t;
}

static pmx__target of_ip6(const char *ip)
{
    pmx__target t;
    memset(&t, 0, sizeof t);
    t.size = sizeof t.to.v6;
    t.to.v6.sin6_family = AF_INET6;
    memcpy(&t.to.v6.sin6_addr, ip, 16);
    return t;
}

static void what_counts_as_one_peer(void)
{
    world w;
    pmx_policy p = few(1);
    world_serve(&w, &p);
    pmx__rules *rules = w.mux->listeners[0].rules;
    const pmx__target one = of_ip6("\x20\x01\x0d\xb8\0\0\0\1" "aaaaaaaa"),
                      same = of_ip6("\x20\x01\x0d\xb8\0\0\0\1" "bbbbbbbb"),
                      next = of_ip6("\x20\x01\x0d\xb8\0\0\0\2" "aaaaaaaa"),
                      mapped = of_ip6("\0\0\0\0\0\0\0\0\0\0\xff\xff\1\2\3\4"),
                      zeros = of_ip6("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1");
    uint32_t ip;
    memcpy(&ip, "\1\2\3\4", 4);
    const pmx__target plain = of_ip4(ip), none = of_ip4(0);
    EQUAL(pmx__peer_comes(w.mux, rules, &one), 1);
    EQUAL(pmx__peer_comes(w.mux, rules, &same), -EACCES);
    EQUAL(pmx__peer_comes(w.mux, rules, &next), 1);
    EQUAL(pmx__peer_comes(w.mux, rules, &mapped), 1);
    EQUAL(pmx__peer_comes(w.mux, rules, &plain), -EACCES);
    EQUAL(pmx__peer_comes(w.mux, rules, &zeros), 1);
    EQUAL(pmx__peer_comes(w.mux, rules, &none), 1);
    pmx__target path;
    memset(&path, 0, sizeof path);
    EQUAL(pmx__peer_comes(w.mux, rules, &path), 0);
    EQUAL(w.mux->peer_used, 5);
    pmx__peer_leaves(w.mux, rules, &plain);
    EQUAL(pmx__peer_comes(w.mux, rules, &mapped), 1);
    pmx__peer_leaves(w.mux, rules, &same);
    pmx__peer_leaves(w.mux, rules, &next);
    pmx__peer_leaves(w.mux, rules, &mapped);
    pmx__peer_leaves(w.mux, rules, &zeros);
    pmx__peer_leaves(w.mux, rules, &none);
    CHECK(!w.mux->peers);
    world_end(&w);
}

/* Against an array, as addresses come and go at random. */
static void a_table_of_many_peers_counts_each(void)
{
    enum { PEERS = 300, MOST = 3 };
    static uint32_t counts[PEERS];
    world w;
    pmx_policy p = few(MOST);
    memset(counts, 0, sizeof counts);
    world_serve(&w, &p);
    pmx__rules *rules = w.mux->listeners[0].rules;
    uint32_t x = 1, used = 0;
    for (int step = 0; step < 40000; step++) {
        x = x * 1664525u + 1013904223u;
        uint32_t k = (x >> 8) % PEERS;
        const pmx__target peer = of_ip4(k << 16);
        /* more come at first, and more go in the end */
        if ((x >> 28) < (step < 20000 ? 10u : 5u)) {
            int wanted = counts[k] < MOST ? 1 : -EACCES;
            EQUAL(pmx__peer_comes(w.mux, rules, &peer), wanted);
            used += !counts[k];
            counts[k] += wanted == 1;
        } else if (counts[k]) {
            pmx__peer_leaves(w.mux, rules, &peer);
            used -= !--counts[k];
        }
        EQUAL(w.mux->peer_used, used);
    }
    for (uint32_t k = 0; k < PEERS; k++)
        for (const pmx__target peer = of_ip4(k << 16); counts[k]; counts[k]--)
            pmx__peer_leaves(w.mux, rules, &peer);
    CHECK(!w.mux->peers);
    world_end(&w);
}

/* Without memory the table is filled up, and then takes nobody. */
static void a_table_that_cannot_grow_is_filled(void)
{
    world w;
    pmx_policy p = few(1);
    world_serve(&w, &p);
    pmx__rules *rules = w.mux->listeners[0].rules;
    pmx__target peer = of_ip4(0);
    EQUAL(pmx__peer_comes(w.mux, rules, &peer), 1);
    uint32_t room = w.mux->peer_room, count = 1;
    int error = 1;
    while (error > 0) {
        peer = of_ip4(count);
        test_fail_at = 1;
        error = pmx__peer_comes(w.mux, rules, &peer);
        test_fail_at = 0;
        count += error > 0;
    }
    EQUAL(error, -ENOMEM);
    EQUAL(count, room - 1);
    peer = of_ip4(count);
    EQUAL(pmx__peer_comes(w.mux, rules, &peer), 1);     /* now it has */
    EQUAL(w.mux->peer_room, 2 * room);
    for (uint32_t k = 0; k <= count; k++) {
        peer = of_ip4(k);
        pmx__peer_leaves(w.mux, rules, &peer);
    }
    test_fail_at = 1;
    EQUAL(pmx__peer_comes(w.mux, rules, &peer), -ENOMEM);
    test_fail_at = 0;
    world_end(&w);
}

static void a_listener_is_given_more_places_or_fewer(void)
{
    world w;
    pmx_policy p = raw();
    uint64_t second;
    p.max_connections = 1;
    world_serve(&w, &p);
    EQUAL(pmx_set_most(w.mux, w.listener, 0), -EINVAL);
    EQUAL(pmx_set_most(w.mux, w.listener + 1, 2), -ENOENT);
    pmx_sock peers[3] = {call(&w), call(&w), call(&w)};
    UNTIL(&w, pmx_counts(w.mux)->accept_pauses == 1);
    EQUAL(pmx_counts(w.mux)->accepted, 1);
    EQUAL(pmx_set_most(w.mux, w.listener, 2), 0);
    UNTIL(&w, pmx_counts(w.mux)->accept_pauses == 2);
    EQUAL(pmx_counts(w.mux)->accepted, 2);
    EQUAL(pmx_set_most(w.mux, w.listener, 1), 0);
    leave(peers[0]);            /* one remains, which is all there may be */
    UNTIL(&w, w.closed_count == 1);
    for (int i = 0; i < 3; i++)
        turn(&w, 0);
    EQUAL(pmx_counts(w.mux)->accepted, 2);
    leave(peers[1]);
    UNTIL(&w, pmx_counts(w.mux)->accepted == 3);
    leave(peers[2]);
    UNTIL(&w, w.closed_count == 3);
    p.max_connections = 0;
    pmx_endpoint at = {.host = "127.0.0.1"};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &second), 0);
    EQUAL(pmx_set_most(w.mux, second, 2), -EINVAL);
    world_is_clean(&w);
    world_end(&w);
}

const test_case peers_tests[] = {
    EACH(a_peer_has_so_many_connections_and_no_more),
    EACH(a_wait_ends_when_a_peer_is_turned_away),
    ONCE(outgoing_connections_have_no_such_limit),
    ONCE(who_switches_keeps_its_place),
    ONCE(what_counts_as_one_peer),
    ONCE(a_table_of_many_peers_counts_each),
    ONCE(a_table_that_cannot_grow_is_filled),
    EACH(a_listener_is_given_more_places_or_fewer),
    {0},
};
