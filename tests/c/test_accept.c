/* Listeners and who they let in. */
#include "world.h"

#include <string.h>
#ifndef _WIN32
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>
#endif

static void a_burst_is_accepted_whole(void)
{
    enum { COUNT = 240 };
    world w;
    pmx_sock peers[COUNT];
    pmx_policy p = raw();
    world_serve(&w, &p);
    for (int i = 0; i < COUNT; i++)
        peers[i] = call(&w);
    UNTIL(&w, w.opened.count == COUNT);
    EQUAL(pmx_counts(w.mux)->connections, COUNT);
    for (int i = 0; i < COUNT; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == COUNT);
    world_is_clean(&w);
    world_end(&w);
}

static void a_thousand_connections_echo(void)
{
    enum { COUNT = 1000 };
    world w;
    static pmx_sock peers[COUNT];
    pmx_policy p = raw();
    if (!test_room_for(2 * COUNT + 100) ||
        (!strcmp(test_backend, "select") && pmx_select_limit() < 2 * COUNT))
        test_skipped("it takes two thousand descriptors");
    world_serve(&w, &p);
    w.echo = 1;
    for (int i = 0; i < COUNT; i++)
        peers[i] = call(&w);
    for (uint32_t i = 0; i < COUNT; i++)
        put(peers[i], &i, sizeof i);
    for (uint32_t i = 0; i < COUNT; i++) {
        buffer got = {0};
        UNTIL_DOING(&w, got.size, get(peers[i], &got));
        EQUAL(got.size, sizeof i);
        CHECK(!memcmp(got.bytes, &i, sizeof i));
        release(&got);
    }
    for (int i = 0; i < COUNT; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == COUNT);
    EQUAL(w.message_count, COUNT);
    test_restore();
    world_is_clean(&w);
    world_end(&w);
}

static void at_max_connections_peers_wait(void)
{
    world w;
    pmx_sock peers[5];
    pmx_policy p = raw();
    p.max_connections = 2;
    world_serve(&w, &p);
    for (int i = 0; i < 5; i++)
        peers[i] = call(&w);
    UNTIL(&w, w.opened.count == 2);
    count_waits(&w);
    turn(&w, 30 * MS);
    EQUAL(w.opened.count, 2);
    CHECK(wait_count < 4);
    EQUAL(pmx_counts(w.mux)->accept_pauses, 1);
    EQUAL(pmx_counts(w.mux)->shortages, 0);     /* the listener is full */
    EQUAL(pmx_counts(w.mux)->listeners_full, 1);
    EQUAL(pmx_counts(w.mux)->full, w.listener);
    put_text(peers[4], "waiting");      /* and so does what they say */
    for (size_t i = 0; i < 5; i++) {
        EQUAL(pmx_counts(w.mux)->connections, i < 4 ? 2 : 1);
        leave(peers[i]);
        size_t wanted = i + 3 < 5 ? i + 3 : 5;
        UNTIL(&w, w.closed_count == i + 1 && w.opened.count == wanted);
    }
    EQUAL(w.message_count, 1);
    world_is_clean(&w);
    world_end(&w);
}

#ifndef _WIN32
static int fillers[1024], filler_count;

/* No descriptor is to be had but those that are closed from now on. */
static void limit_descriptors(struct rlimit *before)
{
    test_settle();
    int last = fcntl(0, F_DUPFD, 300);  /* beyond all that are in use */
    close(last);
    for (filler_count = 0; filler_count < 1024;) {
        int filler = dup(0);
        fillers[filler_count++] = filler;
        if (filler >= last)
            break;
    }
    CHECK(!getrlimit(RLIMIT_NOFILE, before));
    struct rlimit now = *before;
    now.rlim_cur = (rlim_t)last + 1;
    CHECK(!setrlimit(RLIMIT_NOFILE, &now));
}

static void unlimit_descriptors(const struct rlimit *before)
{
    setrlimit(RLIMIT_NOFILE, before);
    while (filler_count)
        close(fillers[--filler_count]);
}

static void without_descriptors_accepting_pauses(void)
{
    world w;
    pmx_sock peer, waiting;
    struct rlimit before;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    waiting = call(&w);
    limit_descriptors(&before);
    count_waits(&w);
    UNTIL(&w, pmx_counts(w.mux)->accept_pauses == 1);
    int64_t cpu = test_cpu_ns();
    wait_count = 0;
    turn(&w, 250 * MS);
    CHECK(wait_count < 10);             /* every 100 ms it tries again */
    CHECK(test_cpu_ns() - cpu < 100 * MS);
    EQUAL(w.opened.count, 1);
    put_text(peer, "x");                /* the others are served */
    UNTIL(&w, w.message_count == 1);
    /* a descriptor that is closed is used at once */
    do_op(&w, id, PMX_ABORT);
    UNTIL(&w, w.opened.count == 2);
    /* at the limit a connect() is refused to its caller */
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    uint64_t none;
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &none), -EMFILE);
    pmx_mux *mux;
    EQUAL(pmx_open(&mux, test_backend, 10, 1000, 0), -EMFILE);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &none), -EMFILE);
    unlimit_descriptors(&before);
    turn(&w, 0);
    CHECK(!closed(&w, none));
    leave(peer);
    leave(waiting);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
}

static void accepting_is_tried_again_by_itself(void)
{
    world w;
    pmx_sock waiting;
    struct rlimit before;
    pmx_policy p = raw();
    world_serve(&w, &p);
    waiting = call(&w);
    limit_descriptors(&before);
    /* a wait for ever ends, once, since the caller is to learn of it */
    EQUAL(turn(&w, -1), PMX_NOTABLE);
    EQUAL(pmx_counts(w.mux)->accept_pauses, 1);
    EQUAL(pmx_counts(w.mux)->shortages, 1);
    EQUAL(pmx_counts(w.mux)->shortage, EMFILE);
    unlimit_descriptors(&before);
    UNTIL(&w, w.opened.count == 1);
    leave(waiting);
    UNTIL(&w, w.closed_count == 1);
    world_is_clean(&w);
    world_end(&w);
}

/* What select cannot hold is closed and counted, and harms nobody. */
static void descriptors_beyond_selects_sets_are_refused(void)
{
    world w;
    pmx_sock peer, other;
    int limit = (int)pmx_select_limit();
    struct rlimit before, more;
    pmx_policy p = raw();
    test_backend = "select";
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    CHECK(!getrlimit(RLIMIT_NOFILE, &before));
    more = before;
    more.rlim_cur = before.rlim_max;
    setrlimit(RLIMIT_NOFILE, &more);
    int taken[2048], count = 0, last = 0;
    CHECK(limit < 2048);
    while (last >= 0 && last < limit - 1 && count < 2048)
        last = taken[count++] = open("/dev/null", O_RDONLY);
    if (last >= limit - 1) {
        other = call(&w);
        UNTIL(&w, pmx_counts(w.mux)->refused == 1);
        EQUAL(w.opened.count, 1);
        pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
        uint64_t none;
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &none), -ENOSPC);
        put_text(peer, "x");
        UNTIL(&w, w.message_count == 1);
        leave(other);
    }
    while (count)
        close(taken[--count]);
    setrlimit(RLIMIT_NOFILE, &before);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
    test_backend = NULL;
}
#endif

static void a_port_in_use_is_refused(void)
{
    world w;
    uint64_t second;
    pmx_policy p = raw();
    world_serve(&w, &p);
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &second), -EADDRINUSE);
    EQUAL(pmx_counts(w.mux)->listeners, 1);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    EQUAL(pmx_unlisten(w.mux, w.listener), -ENOENT);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &second), 0);
    CHECK(second != w.listener);
    p.framing.kind = 77;
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &second), -EINVAL);
    p = raw();
    at.host = "no number";
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &second), -EINVAL);
    world_end(&w);
}

#ifndef _WIN32
static void a_port_can_be_shared(void)
{
    world w;
    uint64_t first, second;
    pmx_address name;
    pmx_policy p = raw();
    world_begin(&w, 100, 10000);
    pmx_endpoint at = {.host = "127.0.0.1"};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 1, 0, &first), 0);
    EQUAL(pmx_listener_address(w.mux, first, &name), 0);
    at.port = name.port;
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 1, 0, &second), 0);
    world_end(&w);
}
#endif

static void listeners_have_rules_of_their_own(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw(), q = lines("\n", 10), is;
    pmx_address name;
    uint64_t second;
    world_serve(&w, &p);
    pmx_endpoint at = {.host = "127.0.0.1"};
    EQUAL(pmx_listen(w.mux, &at, &q, 10, 0, 0, &second), 0);
    EQUAL(pmx_listener_address(w.mux, second, &name), 0);
    uint64_t id = meet(&w, &peer);
    EQUAL(pmx_policy_of(w.mux, id, &is), 0);
    CHECK(!memcmp(&is, &p, sizeof p));
    pmx_sock other = call_port(name.port, 0);
    UNTIL(&w, w.opened.count == 2);
    EQUAL(pmx_unlisten(w.mux, second), 0);      /* its rules live on */
    EQUAL(pmx_policy_of(w.mux, w.opened.ids[1], &is), 0);
    CHECK(!memcmp(&is, &q, sizeof q));
    put_text(other, "a\nb\n");
    UNTIL(&w, w.message_count == 2);
    leave(peer);
    leave(other);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
}

/* Two places, taken through either listener; the policy outlives the first. */
static void listeners_beside_each_other_share_their_places(void)
{
    world w;
    pmx_policy p = raw();
    pmx_address name;
    uint64_t second, none;
    p.max_connections = 2;
    world_serve(&w, &p);
    pmx_endpoint at = {.host = "127.0.0.1"};
    EQUAL(pmx_listen_beside(w.mux, &at, w.listener, 10, 0, &second), 0);
    EQUAL(pmx_listener_address(w.mux, second, &name), 0);
    pmx_sock peers[3] = {call(&w), call_port(name.port, 0)};
    UNTIL(&w, w.opened.count == 2);
    peers[2] = call(&w);
    turn(&w, 30 * MS);
    EQUAL(w.opened.count, 2);
    leave(peers[1]);
    UNTIL(&w, w.opened.count == 3);
    at.port = name.port;
    EQUAL(pmx_listen_beside(w.mux, &at, w.listener, 10, 0, &none), -EADDRINUSE);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    EQUAL(pmx_listen_beside(w.mux, &at, w.listener, 10, 0, &none), -ENOENT);
    EQUAL(pmx_counts(w.mux)->listeners, 1);
    leave(peers[0]);
    leave(peers[2]);
    UNTIL(&w, w.closed_count == 3);
    world_is_clean(&w);
    world_end(&w);
}

static void an_ipv6_listener_takes_ipv6(void)
{
    world w;
    pmx_policy p = raw();
    pmx_address names[2];
    uint64_t id;
    world_begin(&w, 100, 10000);
    pmx_endpoint at = {.host = "::1"};
    if (pmx_listen(w.mux, &at, &p, 10, 0, 0, &w.listener) == 0) {
        EQUAL(pmx_listener_address(w.mux, w.listener, &names[0]), 0);
        EQUAL(names[0].family, 6);
        at.port = names[0].port;
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
        UNTIL(&w, w.opened.count == 2);
        EQUAL(pmx_addresses(w.mux, id, names), 0);
        EQUAL(names[0].family, 6);
        EQUAL(names[0].port, at.port);
        EQUAL(names[0].ip[15], 1);
        EQUAL(names[1].family, 6);
        uint64_t other = w.opened.ids[w.opened.ids[0] == id];
        uint32_t port = names[1].port;
        EQUAL(pmx_addresses(w.mux, other, names), 0);
        EQUAL(names[0].port, port);
        do_op(&w, id, PMX_CLOSE);
        UNTIL(&w, w.closed_count == 2);
        EQUAL(closed(&w, other)->peer.family, 6);
        EQUAL(closed(&w, other)->peer.port, port);
    }
    world_is_clean(&w);
    world_end(&w);
}

#ifdef __linux__
/* Its name is not that of the peer before it. */
static void a_peer_that_the_system_does_not_name_has_no_name(void)
{
    world w;
    pmx_policy p = raw();
    pmx_address names[2];
    pmx_sock peers[2];
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peers[0]);
    EQUAL(pmx_addresses(w.mux, id, names), 0);
    CHECK(names[0].port);
    injected_nameless = 1;
    id = meet(&w, &peers[1]);
    inject_nothing();
    EQUAL(pmx_addresses(w.mux, id, names), 0);
    EQUAL(names[0].port, 0);
    EQUAL(names[1].port, w.port);
    leave(peers[0]);
    leave(peers[1]);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
}
#endif

/* Listeners, all of them called from now on. */
static void listen_often(world *w, const pmx_policy *p, uint32_t *ports,
                         int count)
{
    for (int i = 0; i < count; i++) {
        world_listen(w, p);
        ports[i] = w->port;
    }
}

static void a_turn_looks_at_those_alone_that_are_called(void)
{
    enum { COUNT = 40 };
    world w;
    uint32_t ports[COUNT];
    pmx_policy p = raw();
    p.max_connections = 1;
    world_begin(&w, 100, 10000);
    listen_often(&w, &p, ports, COUNT);
    turn(&w, 0);
    EQUAL(w.mux->accepting.head, PMX__NONE);    /* the rest is silent */
    EQUAL(w.mux->full_listeners.head, PMX__NONE);
    pmx_sock peer = call_port(ports[7], 0), second = call_port(ports[7], 0);
    UNTIL(&w, w.mux->full_listeners.head != PMX__NONE);
    EQUAL(w.opened.count, 1);
    EQUAL(w.mux->accepting.head, PMX__NONE);
    EQUAL(w.mux->full_listeners.head, w.mux->full_listeners.tail);
    pmx_sock other = call_port(ports[30], 0);
    UNTIL(&w, w.opened.count == 2);
    leave(peer);
    UNTIL(&w, w.opened.count == 3);
    leave(second);
    leave(other);
    UNTIL(&w, w.closed_count == 3);
    turn(&w, 0);
    EQUAL(w.mux->accepting.head, PMX__NONE);
    EQUAL(w.mux->full_listeners.head, PMX__NONE);
    world_is_clean(&w);
    world_end(&w);
}

static void listeners_take_turns(void)
{
    enum { COUNT = 3 };
    world w;
    uint32_t ports[COUNT];
    pmx_sock peers[2 * COUNT];
    pmx_policy p = raw();
    world_begin(&w, 1, 10000);          /* one row a turn, one is accepted */
    listen_often(&w, &p, ports, COUNT);
    for (int i = 0; i < 2 * COUNT; i++)
        peers[i] = call_port(ports[i / 2], 0);
    UNTIL(&w, w.opened.count == 2 * COUNT);
    for (int half = 0; half < 2; half++) {
        int seen = 0;
        for (int i = 0; i < COUNT; i++) {
            pmx_address names[2];
            uint64_t id = w.opened.ids[half * COUNT + i];
            EQUAL(pmx_addresses(w.mux, id, names), 0);
            for (int k = 0; k < COUNT; k++)
                seen |= (names[1].port == ports[k]) << k;
        }
        EQUAL(seen, (1 << COUNT) - 1);
    }
    for (int i = 0; i < 2 * COUNT; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == 2 * COUNT);
    world_is_clean(&w);
    world_end(&w);
}

static void the_place_of_a_listener_is_used_again(void)
{
    world w;
    pmx_policy p = raw();
    pmx_endpoint at = {.host = "127.0.0.1"};
    uint64_t ids[3], old;
    world_begin(&w, 100, 10000);
    for (int i = 0; i < 3; i++)
        EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &ids[i]), 0);
    uint32_t count = w.mux->listener_count;
    for (int i = 0; i < 50; i++) {
        old = ids[i % 3];
        EQUAL(pmx_unlisten(w.mux, old), 0);
        mux_is_sound(w.mux);
        EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0, &ids[i % 3]), 0);
        EQUAL(pmx_unlisten(w.mux, old), -ENOENT);
    }
    EQUAL(w.mux->listener_count, count);
    pmx_endpoint taken = {.host = "127.0.0.1"};
    pmx_address name;
    EQUAL(pmx_listener_address(w.mux, ids[0], &name), 0);
    taken.port = name.port;
    for (int i = 0; i < 3; i++)         /* nor does one that fails keep any */
        EQUAL(pmx_listen(w.mux, &taken, &p, 10, 0, 0, &old), -EADDRINUSE);
    CHECK(w.mux->listener_count <= count + 1);
    mux_is_sound(w.mux);
    for (int i = 0; i < 3; i++)
        EQUAL(pmx_unlisten(w.mux, ids[i]), 0);
    world_is_clean(&w);
    world_end(&w);
}

#define NO_LIMIT "descriptors cannot be limited"

const test_case accept_tests[] = {
    EACH(a_burst_is_accepted_whole),
    EACH(a_thousand_connections_echo),
    EACH(at_max_connections_peers_wait),
    UNIX_EACH(without_descriptors_accepting_pauses, NO_LIMIT),
    UNIX_EACH(accepting_is_tried_again_by_itself, NO_LIMIT),
    UNIX_ONCE(descriptors_beyond_selects_sets_are_refused, NO_LIMIT),
    ONCE(a_port_in_use_is_refused),
    UNIX_ONCE(a_port_can_be_shared, "there is no SO_REUSEPORT"),
    ONCE(listeners_have_rules_of_their_own),
    EACH(listeners_beside_each_other_share_their_places),
    EACH(an_ipv6_listener_takes_ipv6),
#ifdef __linux__
    EACH(a_peer_that_the_system_does_not_name_has_no_name),
#endif
    EACH(a_turn_looks_at_those_alone_that_are_called),
    EACH(listeners_take_turns),
    ONCE(the_place_of_a_listener_is_used_again),
    {0},
};
