/* Outgoing connections. */
#include "world.h"

#include <string.h>

/* A port that refuses: bound, and nobody listens. */
static pmx_sock refusing(uint32_t *port)
{
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    pmx_sock sock = socket(AF_INET, SOCK_STREAM, 0);
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(!bind(sock, (struct sockaddr *)&name, sizeof name));
    CHECK(!getsockname(sock, (struct sockaddr *)&name, &size));
    *port = ntohs(name.sin_port);
    return sock;
}

static pmx_sock listening(uint32_t *port, int backlog)
{
    pmx_sock sock = refusing(port);
    CHECK(!listen(sock, backlog));
    return sock;
}

static void a_connection_opens_and_talks(void)
{
    world w;
    pmx_policy p = raw();
    pmx_address names[2];
    uint64_t id;
    world_serve(&w, &p);
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    EQUAL(pmx_addresses(w.mux, id, names), 0);
    EQUAL(names[0].port, w.port);
    CHECK(!has(&w.opened, id));
    UNTIL(&w, w.opened.count == 2);
    EQUAL(has(&w.opened, id), 1);
    EQUAL(pmx_addresses(w.mux, id, names), 0);
    EQUAL(names[0].port, w.port);
    CHECK(names[1].port);
    uint64_t other = w.opened.ids[w.opened.ids[0] == id];
    say_text(&w, id, "there");
    UNTIL(&w, messages_of(&w, other) == 1);
    say_text(&w, other, "and back");
    UNTIL(&w, messages_of(&w, id) == 1);
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, w.closed_count == 2);
    EQUAL(closed(&w, id)->peer.port, w.port);
    EQUAL(pmx_counts(w.mux)->connected, 1);
    EQUAL(pmx_counts(w.mux)->accepted, 1);
    world_is_clean(&w);
    world_end(&w);
}

static void a_refused_connection_is_reported(void)
{
    world w;
    pmx_policy p = raw();
    uint32_t port;
    uint64_t id;
    pmx_sock sock = refusing(&port);
    world_begin(&w, 100, 10000);
    pmx_endpoint at = {.host = "127.0.0.1", .port = port};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    say_text(&w, id, "never said");
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ECONNREFUSED);
    EQUAL(w.opened.count, 0);
    EQUAL(pmx_counts(w.mux)->discarded, 10);
    leave(sock);
    world_is_clean(&w);
    world_end(&w);
}

static void the_next_address_is_tried(void)
{
    world w;
    pmx_policy p = raw();
    uint32_t port;
    uint64_t id;
    pmx_sock sock = refusing(&port);
    world_serve(&w, &p);
    pmx_endpoint at[] = {
        {.host = "127.0.0.1", .port = port},
        {.host = "127.0.0.1", .port = port},
        {.host = "127.0.0.1", .port = w.port},
        {.host = "127.0.0.1", .port = port},
    };
    EQUAL(pmx_connect(w.mux, at, 4, &p, &id), 0);
    say_text(&w, id, "here");
    UNTIL(&w, w.message_count == 1);
    CHECK(has(&w.opened, id));
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, w.closed_count == 2);
    leave(sock);
    world_is_clean(&w);
    world_end(&w);
}

#ifndef _WIN32
static void of_several_errors_the_last_is_told(void)
{
    world w;
    pmx_policy p = raw();
    uint32_t port;
    uint64_t id;
    pmx_sock sock = refusing(&port);
    world_begin(&w, 100, 10000);
    pmx_endpoint at[] = {
        {.host = "127.0.0.1", .port = port},
        {.path = "/nowhere/at/all", .path_size = 15},
        {.host = "127.0.0.1", .port = port},
    };
    EQUAL(pmx_connect(w.mux, at, 2, &p, &id), 0);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ENOENT);
    EQUAL(pmx_connect(w.mux, &at[1], 2, &p, &id), 0);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ECONNREFUSED);
    leave(sock);
    world_is_clean(&w);
    world_end(&w);
}
#endif

static void a_connection_comes_from_its_source(void)
{
    world w;
    pmx_policy p = raw();
    pmx_address names[2];
    uint32_t port;
    uint64_t ids[3];
    leave(refusing(&port));
    world_serve(&w, &p);
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port,
                       .source = "127.0.0.1", .source_port = port};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[0]), 0);
    UNTIL(&w, has(&w.opened, ids[0]));
    EQUAL(pmx_addresses(w.mux, ids[0], names), 0);
    EQUAL(names[1].port, port);
    /* the same again is in use, and another machine's is not ours */
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[1]), 0);
    at.source = "192.0.2.1";
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[2]), 0);
    UNTIL(&w, closed(&w, ids[1]) && closed(&w, ids[2]));
    CHECK(error_of(&w, ids[1]) == EADDRINUSE ||
          error_of(&w, ids[1]) == EADDRNOTAVAIL);
    EQUAL(error_of(&w, ids[2]), EADDRNOTAVAIL);
    at.source = "no number";
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[2]), -EINVAL);
    do_op(&w, ids[0], PMX_ABORT);
    UNTIL(&w, w.closed_count == 4);
    world_is_clean(&w);
    world_end(&w);
}

static void a_connect_times_out(void)
{
    world w;
    pmx_policy p = raw();
    uint32_t port;
    uint64_t id = 0;
    pmx_sock sock = listening(&port, 0);     /* a full backlog drops the rest */
    p.connect_ns = 40 * MS;
    world_begin(&w, 100, 10000);
    pmx_endpoint at = {.host = "127.0.0.1", .port = port};
    for (int i = 0; i < 8; i++)
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    int64_t before = pmx__now();
    UNTIL(&w, closed(&w, id));
    CHECK(pmx__now() - before >= 30 * MS);
    EQUAL(error_of(&w, id), ETIMEDOUT);
    CHECK(!has(&w.opened, id));
    for (size_t i = 0; i < w.opened.count; i++)
        do_op(&w, w.opened.ids[i], PMX_ABORT);
    UNTIL(&w, w.closed_count == 8);
    leave(sock);
    world_is_clean(&w);
    world_end(&w);
}

/* And each in its own time, though they have one policy. */
static void each_connect_has_a_deadline_of_its_own(void)
{
    enum { COUNT = 8, S = 1000 };
    world w;
    pmx_policy p = raw();
    uint32_t port;
    uint64_t ids[COUNT];
    pmx_sock sock = listening(&port, 0);     /* a full backlog drops the rest */
    world_begin(&w, 100, 10000);
    pmx_endpoint at = {.host = "127.0.0.1", .port = port};
    for (int i = 0; i < COUNT; i++) {
        p.connect_ns = i < COUNT - 3 ? -1 : (60 - 20 * (i % 3)) * S * MS;
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[i]), 0);
    }
    EQUAL(w.mux->rules_count, 1);
    for (int k = 0; k < 3; k++) {
        w.mux->now += 20 * S * MS + MS;
        pmx__expire(w.mux);
        for (int i = COUNT - 3; i < COUNT; i++)
            EQUAL(!!(pmx__find(w.mux, ids[i])->flags & PMX__DONE),
                  60 - 20 * (i % 3) <= 20 * (k + 1));
    }
    turn(&w, 0);
    for (int i = 0; i < COUNT; i++)
        if (!closed(&w, ids[i]))
            do_op(&w, ids[i], PMX_ABORT);
    UNTIL(&w, w.closed_count == COUNT);
    for (int i = COUNT - 3; i < COUNT; i++)
        EQUAL(error_of(&w, ids[i]), ETIMEDOUT);
    leave(sock);
    world_is_clean(&w);
    world_end(&w);
}

/* The other side says something and ends before we know that we are
 * connected: one event tells all of it. */
static void what_comes_with_the_connection_is_not_lost(void)
{
    world w;
    pmx_policy p = raw();
    uint32_t port;
    uint64_t id;
    pmx_sock sock = listening(&port, 5);
    world_begin(&w, 100, 10000);
    pmx_endpoint at = {.host = "127.0.0.1", .port = port};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    pmx_sock peer = accept(sock, NULL, NULL);
    put_text(peer, "welcome");
    end_writing(peer);
    UNTIL(&w, closed(&w, id));
    CHECK(is_text(&w, message_of(&w, id, 0), "welcome"));
    EQUAL(error_of(&w, id), 0);
    leave(peer);
    leave(sock);
    world_is_clean(&w);
    world_end(&w);
}

/* A listener that closes resets whom it has not accepted. */
static void a_connection_that_nobody_accepts_is_reset(void)
{
    static const enum pmx_op states[] = {PMX_RESUME, PMX_PAUSE, PMX_HOLD,
                                         PMX_SEND_EOF, PMX_CLOSE};
    for (int i = 0; i < 6; i++) {
        world w;
        pmx_policy p = raw();
        uint32_t port;
        uint64_t id;
        needs_resets();
        pmx_sock sock = listening(&port, 5);
        world_begin(&w, 100, 10000);
        pmx_endpoint at = {.host = "127.0.0.1", .port = port};
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
        if (i < 5) {
            UNTIL(&w, w.opened.count);
            do_op(&w, id, states[i]);
            UNTIL(&w, !w.mux->ready_count && !w.mux->chore_count);
        }
        leave(sock);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), ECONNRESET);
        world_is_clean(&w);
        world_end(&w);
    }
}

static void many_connect_at_once(void)
{
    enum { COUNT = 100 };
    world w;
    pmx_policy p = raw();
    uint64_t ids[COUNT];
    world_begin(&w, 7, 262144);         /* and few rows to tell it in */
    world_listen(&w, &p);
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    for (int i = 0; i < COUNT; i++)
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[i]), 0);
    UNTIL(&w, w.opened.count == 2 * COUNT);
    for (int i = 0; i < COUNT; i++) {
        EQUAL(has(&w.opened, ids[i]), 1);
        do_op(&w, ids[i], PMX_CLOSE);
    }
    UNTIL(&w, w.closed_count == 2 * COUNT);
    world_is_clean(&w);
    world_end(&w);
}

static void what_makes_no_sense_is_refused(void)
{
    world w;
    uint64_t id;
    pmx_policy p = raw();
    world_begin(&w, 100, 10000);
    pmx_endpoint at = {.host = "not a number", .port = 1};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), -EINVAL);
    EQUAL(pmx_connect(w.mux, &at, 0, &p, &id), -EINVAL);
    EQUAL(pmx_connect(w.mux, &at, UINT32_MAX, &p, &id), -EINVAL);
    p.framing.max_size = UINT32_MAX;
    at.host = "127.0.0.1";
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), -EINVAL);
    world_is_clean(&w);
    world_end(&w);
}

#ifndef _WIN32
/* The call says "again", not "in progress": nothing is on its way. */
static void a_call_that_could_not_begin_is_made_again(void)
{
    world w;
    pmx_policy p = raw();
    const injected_fault fault = {CALL_connect, EAGAIN, "connect EAGAIN"};
    uint64_t id;
    world_serve(&w, &p);
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    inject_nth(&fault, 1, 0);
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    EQUAL(injected_now, 1);
    inject_nothing();
    UNTIL(&w, has(&w.opened, id));
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
}
#endif

#ifndef _WIN32
static pmx_sock refusing_in(int family, uint32_t *port)
{
    union {
        struct sockaddr is;
        struct sockaddr_in6 in6;
    } name;
    socklen_t size = sizeof name;
    if (family == AF_INET)
        return refusing(port);
    memset(&name, 0, sizeof name);
    name.in6.sin6_family = AF_INET6;
    name.in6.sin6_addr = in6addr_loopback;
    pmx_sock sock = socket(AF_INET6, SOCK_STREAM, 0);
    if (sock < 0 || bind(sock, &name.is, sizeof name.in6))
        test_skipped("this machine has no IPv6");
    CHECK(!getsockname(sock, &name.is, &size));
    *port = ntohs(name.in6.sin6_port);
    return sock;
}

static void who_is_connected_to_itself_is_refused(int family, const char *host)
{
    world w;
    pmx_policy p = raw();
    uint32_t port;
    uint64_t ids[3];
    leave(refusing_in(family, &port));      /* it is free again */
    world_serve(&w, &p);
    pmx_endpoint at[] = {{.host = host, .port = port},
                         {.host = host, .port = port},
                         {.host = "127.0.0.1", .port = w.port}};
    injected_to_itself = 1;
    EQUAL(pmx_connect(w.mux, at, 1, &p, &ids[0]), 0);
    say_text(&w, ids[0], "anybody there?");
    UNTIL(&w, closed(&w, ids[0]));
    EQUAL(error_of(&w, ids[0]), ECONNREFUSED);
    /* and while it closes */
    injected_to_itself = 1;
    EQUAL(pmx_connect(w.mux, at, 1, &p, &ids[1]), 0);
    say_text(&w, ids[1], "anybody there?");
    do_op(&w, ids[1], PMX_CLOSE);
    UNTIL(&w, closed(&w, ids[1]));
    EQUAL(error_of(&w, ids[1]), ECONNREFUSED);
    EQUAL(w.opened.count, 0);
    EQUAL(w.message_count, 0);
    EQUAL(pmx_counts(w.mux)->connected, 0);
    /* the next addresses are tried */
    injected_to_itself = 2;
    EQUAL(pmx_connect(w.mux, at, 3, &p, &ids[2]), 0);
    UNTIL(&w, w.opened.count == 2);
    CHECK(has(&w.opened, ids[2]));
    inject_nothing();
    /* nothing stays of it: a server can bind, without SO_REUSEADDR */
    pmx_sock server = socket(family, SOCK_STREAM, 0);
    pmx__target to;
    EQUAL(pmx__resolve(&at[0], &to), 0);
    CHECK(!bind(server, &to.to.any, to.size));
    leave(server);
    do_op(&w, ids[2], PMX_CLOSE);
    UNTIL(&w, w.closed_count == 4);
    world_is_clean(&w);
    world_end(&w);
}

static void a_connection_to_itself_is_refused(void)
{
    who_is_connected_to_itself_is_refused(AF_INET, "127.0.0.1");
}

static void a_connection_to_itself_is_refused_over_ipv6(void)
{
    who_is_connected_to_itself_is_refused(AF_INET6, "::1");
}
#endif

const test_case connect_tests[] = {
    EACH(a_connection_opens_and_talks),
    EACH(a_refused_connection_is_reported),
    EACH(the_next_address_is_tried),
    UNIX_EACH(of_several_errors_the_last_is_told, NO_UNIX),
    EACH(a_connection_comes_from_its_source),
    EACH(a_connect_times_out),
    EACH(what_comes_with_the_connection_is_not_lost),
    EACH(a_connection_that_nobody_accepts_is_reset),
    EACH(many_connect_at_once),
    UNIX_EACH(a_connection_to_itself_is_refused, "no call is injected there"),
    UNIX_EACH(a_connection_to_itself_is_refused_over_ipv6,
              "no call is injected there"),
    UNIX_EACH(a_call_that_could_not_begin_is_made_again,
              "there it is on its way then"),
    ONCE(what_makes_no_sense_is_refused),
    EACH(each_connect_has_a_deadline_of_its_own),
    {0},
};
