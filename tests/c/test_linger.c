/* How long a close waits, in the time of the system in memory, where nobody is
 * ever late. */
#include "virtual.h"

#ifdef __linux__
#include <string.h>

static world w;
static uint8_t bytes[1 << 16];

static size_t reads(int fd, size_t most)
{
    ssize_t n = sim_recv(fd, bytes, most, 0);
    return n > 0 ? (size_t)n : 0;
}

static void leaves(int fd)
{
    sim_close(fd);
}

/* --- progress ---------------------------------------------------------- */

/* Bytes that it has of so many, reading 500 of them every 400 ms, when the
 * connection has been closed with a second's patience; it sends too. */
static size_t read_in_steps(uint64_t id, int fd, size_t size, int steps)
{
    size_t got = 0;
    for (int n = 0; n < steps && got < size && !closed(&w, id); n++) {
        turn(&w, 400 * MS);
        got += reads(fd, 500);
        (void)sim_send(fd, "more", 4, 0);
    }
    return got;
}

static void what_the_peer_acknowledges_stretches_a_close(void)
{
    pmx_policy p = raw();
    uint64_t id;
    p.close_ns = 1000 * MS;
    virtual_begin(&w, &p, 1000);
    int fd = virtual_peer(&w, &id);
    say(&w, id, bytes, 20000);
    do_op(&w, id, PMX_CLOSE);
    int64_t before = sim_clock();
    EQUAL(read_in_steps(id, fd, 20000, 1000), 20000);
    CHECK(sim_clock() - before > 10 * p.close_ns);
    leaves(fd);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    virtual_end(&w);
}

static void a_peer_that_reads_no_more_is_reset_in_time(void)
{
    pmx_policy p = raw();
    uint64_t id;
    p.close_ns = 1000 * MS;
    virtual_begin(&w, &p, 3000);
    int fd = virtual_peer(&w, &id);
    say(&w, id, bytes, 20000);
    do_op(&w, id, PMX_CLOSE);
    EQUAL(read_in_steps(id, fd, 20000, 10), 5000);
    int64_t before = sim_clock();
    while (!closed(&w, id))
        turn(&w, 5000 * MS);
    EQUAL(error_of(&w, id), ETIMEDOUT);
    CHECK(sim_clock() - before <= p.close_ns / 4 * 5 + MS);
    CHECK(sim_clock() - before >= p.close_ns / 2);
    leaves(fd);
    virtual_end(&w);
}

static void what_the_peer_sends_does_not_stretch_a_close(void)
{
    pmx_policy p = raw();
    uint64_t id;
    p.close_ns = 1000 * MS;
    virtual_begin(&w, &p, 65536);
    int fd = virtual_peer(&w, &id);
    say_text(&w, id, "bye");
    do_op(&w, id, PMX_CLOSE);
    int64_t before = sim_clock();
    while (!closed(&w, id)) {
        turn(&w, 100 * MS);
        (void)sim_send(fd, bytes, 1000, 0);
    }
    EQUAL(error_of(&w, id), ETIMEDOUT);
    CHECK(sim_clock() - before <= p.close_ns + 100 * MS);
    leaves(fd);
    virtual_end(&w);
}

/* The peer has read on while the mux was busy elsewhere, and not looked. */
static void a_mux_that_comes_late_gives_the_peer_its_time(void)
{
    pmx_policy p = raw();
    uint64_t id;
    p.close_ns = 1000 * MS;
    virtual_begin(&w, &p, 3000);
    int fd = virtual_peer(&w, &id);
    say(&w, id, bytes, 5000);
    do_op(&w, id, PMX_CLOSE);
    turn(&w, 0);
    EQUAL(pmx_queued(w.mux, id), 0);
    sim_time += 5000 * MS;
    EQUAL(reads(fd, 500), 500);
    turn(&w, 0);
    CHECK(!closed(&w, id));
    int64_t before = sim_clock();
    while (!closed(&w, id))
        turn(&w, 100 * MS);
    CHECK(sim_clock() - before <= 5 * p.close_ns / 4 + 100 * MS);
    EQUAL(error_of(&w, id), ETIMEDOUT);
    leaves(fd);
    virtual_end(&w);
}

/* A close waits in silence: a look now and then is all it costs, beside what
 * select() has to ask about errors. */
static void a_close_is_looked_at_now_and_then(void)
{
    pmx_policy p = raw();
    uint64_t id;
    p.close_ns = 30000 * MS;
    virtual_begin(&w, &p, 65536);
    int fd = virtual_peer(&w, &id);
    do_op(&w, id, PMX_CLOSE);
    count_waits(&w);
    turn(&w, 29000 * MS);
    CHECK(wait_count <= 6 || !w.mux->poller->watches_errors);
    CHECK(!closed(&w, id));
    leaves(fd);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    virtual_end(&w);
}

static void a_close_without_patience_for_ever_is_not_looked_at(void)
{
    pmx_policy p = raw();
    uint64_t id;
    p.close_ns = -1;
    p.max_connections = 1;      /* so that it is asked at first */
    virtual_begin(&w, &p, 65536);
    int fd = virtual_peer(&w, &id);
    do_op(&w, id, PMX_CLOSE);
    turn(&w, 100 * MS);
    count_waits(&w);
    turn(&w, 100000 * MS);
    CHECK(wait_count <= 2 || !w.mux->poller->watches_errors);
    leaves(fd);
    UNTIL(&w, closed(&w, id));
    virtual_end(&w);
}

/* Nobody answers: of its two times the one that is over first holds. */
static void a_close_while_connecting_has_its_own_time(void)
{
    pmx_policy p = raw();
    uint64_t ids[3];
    virtual_begin(&w, &p, 65536);
    sim_now.dial = SIM_LOST;
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    static const int64_t connect_ms[] = {-1, 500, 5000};
    static const int64_t over_ms[] = {1000, 500, 1000};
    for (int i = 0; i < 3; i++) {
        p.close_ns = 1000 * MS;
        p.connect_ns = connect_ms[i] < 0 ? -1 : connect_ms[i] * MS;
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[i]), 0);
        int64_t before = sim_clock();
        say_text(&w, ids[i], "hello");
        do_op(&w, ids[i], PMX_CLOSE);
        while (!closed(&w, ids[i]))
            turn(&w, 10000 * MS);
        EQUAL(error_of(&w, ids[i]), ETIMEDOUT);
        CHECK(sim_clock() - before >= over_ms[i] * MS);
        CHECK(sim_clock() - before <= over_ms[i] * MS + 50 * MS);
    }
    virtual_end(&w);
}

/* --- acknowledgement --------------------------------------------------- */

/* The reset of a connection that broke its framing waits for its peer alone,
 * however many others begin to wait meanwhile. */
static void each_is_asked_in_its_own_time(void)
{
    enum { OTHERS = 60 };
    static uint8_t text[300];
    uint64_t id, ids[OTHERS];
    int fds[OTHERS];
    pmx_policy p = lines("\n", 100);
    virtual_begin(&w, &p, 3000);
    memset(text, 'x', sizeof text);
    int fd = virtual_peer(&w, &id);
    say(&w, id, text, sizeof text);
    turn(&w, MS);
    sim_now.delay = 20 * MS;    /* of those that come from now on */
    for (int i = 0; i < OTHERS; i++)
        fds[i] = virtual_peer(&w, &ids[i]);
    say(&w, id, bytes, 5000);
    turn(&w, 0);
    sim_send(fd, text, sizeof text, 0);
    for (int i = 0; i < OTHERS / 2; i++) {
        sim_send(fds[i], text, sizeof text, 0);
        turn(&w, 4 * MS);
    }
    CHECK(!closed(&w, id));     /* it has not read its answers */
    while (reads(fd, sizeof bytes))
        turn(&w, 0);
    int64_t before = sim_clock();
    for (int i = OTHERS / 2; i < OTHERS && !closed(&w, id); i++) {
        sim_send(fds[i], text, sizeof text, 0);
        turn(&w, 4 * MS);
        (void)reads(fd, sizeof bytes);
    }
    CHECK(sim_clock() - before < 40 * MS);
    EQUAL(error_of(&w, id), EMSGSIZE);
    leaves(fd);
    for (int i = 0; i < OTHERS; i++)
        leaves(fds[i]);
    UNTIL(&w, w.closed_count == OTHERS + 1);
    virtual_end(&w);
}

static void a_drain_waits_for_what_is_on_its_way(void)
{
    pmx_policy p = raw();
    uint64_t id;
    virtual_begin(&w, &p, 65536);
    sim_now.delay = 500 * MS;
    int fd = virtual_peer(&w, &id);
    for (int n = 0; n < 10; n++)
        turn(&w, 200 * MS);
    say(&w, id, bytes, 5000);
    turn(&w, 0);
    EQUAL(pmx_queued(w.mux, id), 0);
    pmx_drain(w.mux);
    int64_t before = sim_clock();
    while (!closed(&w, id)) {
        (void)sim_send(fd, "late", 4, 0);
        turn(&w, 100 * MS);
    }
    CHECK(sim_clock() - before >= 500 * MS);
    CHECK(sim_clock() - before <= 800 * MS);
    EQUAL(error_of(&w, id), 0);
    EQUAL(reads(fd, sizeof bytes), 5000);
    EQUAL(sim_recv(fd, bytes, 1, 0), 0);
    EQUAL(w.message_count, 0);
    leaves(fd);
    virtual_end(&w);
}

/* What is with the kernel, but not with the peer, is lost with a cause. */
static void a_drain_that_is_cut_short_says_what_it_has_not_delivered(void)
{
    pmx_policy p = raw();
    uint64_t id;
    virtual_begin(&w, &p, 3000);
    int fd = virtual_peer(&w, &id);
    say(&w, id, bytes, 4000);
    turn(&w, 0);
    EQUAL(pmx_queued(w.mux, id), 0);
    pmx_drain(w.mux);
    for (int n = 0; n < 20; n++)
        turn(&w, 100 * MS);
    CHECK(!closed(&w, id));
    pmx_reset_all(w.mux, ETIMEDOUT);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), ETIMEDOUT);
    EQUAL(pmx_counts(w.mux)->reset, 1);
    EQUAL(pmx_stopping(w.mux, id), 1);
    leaves(fd);
    virtual_end(&w);
}

/* One that has ended before is waited for as well: it has half-closed. */
static void a_drain_waits_for_a_peer_that_has_ended(void)
{
    pmx_policy p = raw();
    uint64_t ids[2];
    int fds[2];
    p.half_open = 1;
    virtual_begin(&w, &p, 3000);
    for (int i = 0; i < 2; i++) {
        fds[i] = virtual_peer(&w, &ids[i]);
        sim_shutdown(fds[i], SHUT_WR);
        say(&w, ids[i], bytes, 4000);
        do_op(&w, ids[i], PMX_SEND_EOF);
    }
    pmx_drain(w.mux);
    UNTIL(&w, has(&w.ended, ids[0]) && has(&w.ended, ids[1]));
    for (int i = 0; i < 2; i++)
        do_op(&w, ids[i], PMX_CLOSE);
    for (int n = 0; n < 20; n++)
        turn(&w, 100 * MS);
    CHECK(!closed(&w, ids[0]) && !closed(&w, ids[1]));
    leaves(fds[1]);                     /* with answers unread: a reset */
    EQUAL(reads(fds[0], sizeof bytes), 3000);
    UNTIL(&w, w.closed_count == 2);
    EQUAL(error_of(&w, ids[0]), 0);
    EQUAL(error_of(&w, ids[1]), ECONNRESET);
    EQUAL(reads(fds[0], sizeof bytes), 1000);
    leaves(fds[0]);
    virtual_end(&w);
}

/* --- where nothing tells what is acknowledged ----------------------------- */

/* Windows. No look helps, so there is none; the end is an event. */
static void without_acknowledgements_a_close_waits_for_the_end_in_silence(void)
{
    for (int drains = 0; drains < 2; drains++) {
        pmx_policy p = raw();
        uint64_t id, other;
        p.close_ns = -1;
        p.max_connections = 2;
        virtual_begin(&w, &p, 3000);
        sim_now.untold = 1;
        int fd = virtual_peer(&w, &id), second = virtual_peer(&w, &other);
        say(&w, id, bytes, 2000);
        say(&w, other, bytes, 2000);
        if (drains)
            pmx_drain(w.mux);
        do_op(&w, id, PMX_CLOSE);
        do_op(&w, other, PMX_CLOSE);
        turn(&w, 100 * MS);
        count_waits(&w);
        turn(&w, 100000 * MS);
        CHECK(wait_count <= 2 || !w.mux->poller->watches_errors);
        EQUAL(reads(fd, sizeof bytes), 2000);
        turn(&w, 100 * MS);
        EQUAL(w.closed_count, 0);       /* that is not known */
        leaves(fd);
        UNTIL(&w, closed(&w, id));
        EQUAL(error_of(&w, id), 0);
        leaves(second);                 /* with its answer unread */
        UNTIL(&w, closed(&w, other));
        EQUAL(error_of(&w, other), ECONNRESET);
        virtual_end(&w);
    }
}

#endif

const test_case linger_tests[] = {
    VIRTUAL(what_the_peer_acknowledges_stretches_a_close),
    VIRTUAL(a_peer_that_reads_no_more_is_reset_in_time),
    VIRTUAL(what_the_peer_sends_does_not_stretch_a_close),
    VIRTUAL(a_mux_that_comes_late_gives_the_peer_its_time),
    VIRTUAL(a_close_is_looked_at_now_and_then),
    VIRTUAL(a_close_without_patience_for_ever_is_not_looked_at),
    VIRTUAL(a_close_while_connecting_has_its_own_time),
    VIRTUAL(each_is_asked_in_its_own_time),
    VIRTUAL(a_drain_waits_for_what_is_on_its_way),
    VIRTUAL(a_drain_that_is_cut_short_says_what_it_has_not_delivered),
    VIRTUAL(a_drain_waits_for_a_peer_that_has_ended),
    VIRTUAL(without_acknowledgements_a_close_waits_for_the_end_in_silence),
    {0},
};
