/* How a batch gathers min_messages: dozing, and large messages together. */
#include "virtual.h"

#ifdef __linux__
#include <string.h>

enum { PEERS = 120, EVERY = 10000 };    /* nanoseconds from line to line */

static world w;
static int fds[PEERS];
static uint64_t ids[PEERS];
static int count, talkers, next, to_send;
static int64_t wake_at;

static void begin(int peers)
{
    pmx_policy p = lines("\n", 1000);
    virtual_begin(&w, &p, 70000);
    for (count = 0; count < peers; count++)
        fds[count] = virtual_peer(&w, &ids[count]);
    talkers = count;
    next = to_send = 0;
    count_waits(&w);
    wake_at = INT64_MAX;
}

static void end(void)
{
    sim_idle = NULL;
    for (int i = 0; i < count; i++)
        sim_close(fds[i]);
    UNTIL(&w, w.closed_count == (size_t)count);
    virtual_end(&w);
}

/* While the mux waits, a peer sends a line each 10 us, one after the other. */
static int a_line_now_and_then(void)
{
    if (sim_time >= wake_at) {
        wake_at = INT64_MAX;
        EQUAL(pmx_wakeup(w.mux), 0);
        return 1;
    }
    if (!to_send)
        return 0;
    sim_time += EVERY;
    to_send--;
    EQUAL(sim_send(fds[next++ % talkers], "line\n", 5, 0), 5);
    return 1;
}

/* One batch of lines that come steadily: the messages in it. */
static uint32_t gather(uint32_t min_messages, int64_t max_delay)
{
    sim_idle = a_line_now_and_then;
    wait_count = 0;
    int reason = turn_of(&w, PMX_FOR_EVER, min_messages, max_delay);
    CHECK(reason & PMX_ROWS);
    return w.t.messages;
}

static void a_batch_that_gathers_dozes(void)
{
    begin(PEERS);
    to_send = 100000;
    int64_t before = sim_clock();
    uint32_t rows = gather(4096, MS);
    CHECK(rows >= 95 && rows <= 102);
    /* the first row, the slices, and the last moment */
    CHECK(wait_count <= 14);
    CHECK(sim_clock() - before <= EVERY + MS + 10000);
    end();
}

/* From the second batch on the mux knows how fast they come. */
static void a_batch_is_handed_over_soon_after_its_last_message(void)
{
    begin(PEERS);
    talkers--;                  /* one is silent */
    to_send = 10000;
    CHECK(gather(50, 100 * MS) >= 50);
    for (int k = 0; k < 5; k++) {
        uint32_t rows = gather(50, 100 * MS);
        CHECK(rows >= 50 && rows <= 75);
        CHECK(wait_count <= 8);
    }
    end();
}

/* However long the delay may be. */
static void a_slice_is_short_beside_a_long_delay(void)
{
    begin(PEERS);
    to_send = 3;
    int64_t before = sim_clock();
    EQUAL(gather(3, 60000 * MS), 3);
    CHECK(sim_clock() - before <= 25 * MS);
    end();
}

static void a_wakeup_ends_a_doze_at_once(void)
{
    begin(PEERS);
    talkers--;
    to_send = 100000;
    wake_at = sim_clock() + 5 * MS;
    uint32_t rows = gather(4096, 100 * MS);
    CHECK(w.t.reason & PMX_WOKEN);
    CHECK(rows >= 490 && rows <= 505);
    end();
}

/* A peer that waits for its answer gets it as soon as all have sent. */
static void peers_that_wait_for_answers_are_not_kept_waiting(void)
{
    begin(3);
    for (int k = 0; k < 5; k++) {
        to_send = 3;
        int64_t before = sim_clock();
        EQUAL(gather(100, 2 * MS), 3);
        if (k)
            CHECK(sim_clock() - before <= 3 * EVERY + 5000);
    }
    end();
}

/* And may doze again once messages come otherwise. */
static void a_batch_dozes_again_when_its_peers_do_not_wait(void)
{
    begin(PEERS);
    for (int k = 0; k < 2; k++) {       /* all at once */
        for (int i = 0; i < count; i++)
            EQUAL(sim_send(fds[i], "line\n", 5, 0), 5);
        to_send = 0;
        EQUAL(gather(4096, MS), PEERS);
    }
    to_send = 1000000;
    (void)gather(4096, MS);
    (void)gather(4096, MS);
    CHECK(wait_count <= 14);
    end();
}

static void a_time_that_is_over_ends_a_doze(void)
{
    pmx_policy p = lines("\n", 1000);
    uint64_t id;
    p.idle_ns = 20 * MS;
    p.service = 0;
    begin(PEERS - 1);
    uint32_t port = w.port;
    world_listen(&w, &p);
    int fd = virtual_peer(&w, &id);
    w.port = port;
    int64_t before = sim_clock();
    to_send = 1000000;
    while (!closed(&w, id))
        (void)gather(100000, 1000 * MS);
    EQUAL(error_of(&w, id), ETIMEDOUT);
    CHECK(sim_clock() - before <= 1100 * MS);
    sim_close(fd);
    w.closed_count--;
    end();
}

/* --- in a loop of the caller's ------------------------------------------- */

static int harvests;

/* The clock goes on while it is read. */
static void is_near(int64_t span, int64_t most)
{
    CHECK(span <= most && span > most - MS / 20);
}

/* One batch, where a loop that counts milliseconds watches for the mux. Lines
 * come meanwhile, each an event. */
static uint32_t gather_in_a_loop(uint32_t min_messages, int64_t max_delay)
{
    sim_idle = NULL;
    for (harvests = 1;; harvests++) {
        int reason = turn_of(&w, PMX_LOOK, min_messages, max_delay);
        CHECK(reason >= 0 && harvests < 10000);
        if (reason & PMX_ROWS)
            return w.t.messages;
        int64_t doze = reason & PMX_GATHERING ? pmx_doze(w.mux, MS) : 0;
        int64_t end = sim_clock() + doze;
        CHECK(doze >= 0 && doze <= max_delay);
        do {
            if (!a_line_now_and_then())
                sim_time += EVERY;
        } while (sim_clock() < end);
    }
}

static void a_loop_does_not_watch_while_a_batch_gathers(void)
{
    begin(PEERS);
    talkers--;
    to_send = 100000;
    int64_t before = sim_clock();
    uint32_t rows = gather_in_a_loop(100000, 10 * MS);
    CHECK(rows >= 950 && rows <= 1010);
    CHECK(harvests <= 9);
    CHECK(sim_clock() - before <= 11 * MS);
    end();
}

static void a_batch_in_a_loop_is_handed_over_soon_after_its_last_message(void)
{
    begin(PEERS);
    talkers--;
    to_send = 100000;
    CHECK(gather_in_a_loop(500, 1000 * MS) >= 500);
    for (int k = 0; k < 5; k++) {
        uint32_t rows = gather_in_a_loop(500, 1000 * MS);
        CHECK(rows >= 500 && rows <= 610);
        CHECK(harvests <= 10);
    }
    end();
}

/* A slice would be longer than the rounds of these peers. */
static void peers_that_wait_for_answers_wait_for_no_slice_of_a_loop(void)
{
    begin(3);
    for (int k = 0; k < 8; k++) {
        to_send = 3;
        int64_t before = sim_clock();
        EQUAL(gather_in_a_loop(100, 2 * MS), 3);
        if (k >= 2)
            CHECK(sim_clock() - before <= 5 * EVERY);
        if (k == 5) {           /* a round that is late is no reason */
            EQUAL(sim_send(fds[0], "line\n", 5, 0), 5);
            CHECK(turn_of(&w, PMX_LOOK, 100, 2 * MS) & PMX_GATHERING);
            sim_time += MS;
            for (int i = 1; i < 3; i++)
                EQUAL(sim_send(fds[i], "line\n", 5, 0), 5);
            CHECK(turn_of(&w, PMX_LOOK, 100, 2 * MS) & PMX_ROWS);
        }
    }
    end();
}

/* Peers that each bring a row in a slice, and do not wait, are rarely watched
 * to find that out. */
static void a_loop_rarely_tries_whether_peers_wait(void)
{
    int watched = 0;
    begin(80);                  /* a round takes 0.8 ms */
    to_send = 100000;
    for (int k = 0; k < 100; k++) {
        CHECK(gather_in_a_loop(100000, 4 * MS) >= 80);
        watched += harvests > 10;
    }
    CHECK(watched >= 2 && watched <= 14);
    end();
}

/* To ask again does not begin a slice again. */
static void what_is_left_of_a_slice_falls(void)
{
    begin(2);
    EQUAL(sim_send(fds[0], "line\n", 5, 0), 5);
    CHECK(turn_of(&w, PMX_LOOK, 9, 64 * MS) & PMX_GATHERING);
    is_near(pmx_doze(w.mux, MS), 2 * MS);
    sim_time += MS / 2;
    is_near(pmx_doze(w.mux, MS), 3 * MS / 2);
    EQUAL(sim_send(fds[0], "line\n", 5, 0), 5);
    CHECK(turn_of(&w, PMX_LOOK, 9, 64 * MS) & PMX_GATHERING);
    is_near(pmx_doze(w.mux, MS), 3 * MS / 2);
    sim_time += 3 * MS / 2;
    is_near(pmx_doze(w.mux, MS), 4 * MS);
    EQUAL(sim_send(fds[0], "line\n", 5, 0), 5);
    sim_time += 61 * MS + MS / 4;
    CHECK(turn_of(&w, PMX_LOOK, 9, 64 * MS) & PMX_GATHERING);
    is_near(pmx_doze(w.mux, MS), 3 * MS / 4);   /* the last moment */
    sim_time += MS / 2;
    EQUAL(pmx_doze(w.mux, MS), 0);
    sim_time += MS;
    CHECK(turn_of(&w, PMX_LOOK, 9, 64 * MS) & PMX_ROWS);
    EQUAL(w.t.messages, 3);
    EQUAL(pmx_doze(w.mux, MS), 0);
    end();
}

/* No message came in a slice: a loop that watches is at rest. */
static void after_a_quiet_slice_a_loop_watches(void)
{
    begin(2);
    for (int k = 0; k < 2; k++) {
        EQUAL(sim_send(fds[0], "line\n", 5, 0), 5);
        CHECK(turn_of(&w, PMX_LOOK, 9, 640 * MS) & PMX_GATHERING);
        is_near(pmx_doze(w.mux, MS), 10 * MS);
        sim_time += 10 * MS;
        for (int i = 0; i < 2; i++) {
            CHECK(turn_of(&w, PMX_LOOK, 9, 640 * MS) & PMX_GATHERING);
            EQUAL(pmx_doze(w.mux, MS), 0);
        }
    }
    sim_time += 640 * MS;
    CHECK(turn_of(&w, PMX_LOOK, 9, 640 * MS) & PMX_ROWS);
    end();
}

static void what_a_loop_must_not_sleep_through(void)
{
    pmx_policy p = lines("\n", 1000);
    uint64_t id;
    begin(2);
    EQUAL(pmx_doze(w.mux, MS), 0);      /* nothing gathers */
    EQUAL(sim_send(fds[0], "line\n", 5, 0), 5);
    CHECK(turn_of(&w, PMX_LOOK, 9, 50 * MS) & PMX_GATHERING);
    CHECK(pmx_doze(w.mux, MS) > 0);
    sim_time += 50 * MS;
    CHECK(turn_of(&w, PMX_LOOK, 9, 50 * MS) & PMX_ROWS);
    /* an idle peer's time, */
    p.idle_ns = 3 * MS;
    uint32_t port = w.port;
    world_listen(&w, &p);
    int idle = virtual_peer(&w, &id);
    w.port = port;
    EQUAL(sim_send(fds[0], "line\n", 5, 0), 5);
    CHECK(turn_of(&w, PMX_LOOK, 9, 500 * MS) & PMX_GATHERING);
    is_near(pmx_doze(w.mux, 5 * MS), 3 * MS);
    sim_close(idle);
    UNTIL(&w, w.closed_count == 1);
    /* output that waits for room in the kernel, */
    EQUAL(sim_send(fds[0], "line\n", 5, 0), 5);
    CHECK(turn_of(&w, PMX_LOOK, 9, 50 * MS) & PMX_GATHERING);
    CHECK(pmx_doze(w.mux, MS) > 0);
    w.mux->stats->queued = 1;
    EQUAL(pmx_doze(w.mux, MS), 0);
    w.mux->stats->queued = 0;
    CHECK(pmx_doze(w.mux, MS) > 0);
    /* and a stop */
    EQUAL(pmx_drain(w.mux), 0);
    EQUAL(pmx_doze(w.mux, MS), 0);
    for (int i = 0; i < count; i++)
        sim_close(fds[i]);
    UNTIL(&w, w.closed_count == 3);
    virtual_end(&w);
}

/* --- large messages ----------------------------------------------------- */

static uint8_t large[300000];
static size_t sent[PEERS], whole;

/* Each peer sends its message as far as there is room. */
static int pieces(void)
{
    int moved = 0;
    sim_time += EVERY;
    for (int i = 0; i < count; i++) {
        ssize_t n = sent[i] == whole ? 0
                  : sim_send(fds[i], large + sent[i], whole - sent[i], 0);
        sent[i] += n > 0 ? (size_t)n : 0;
        moved |= n > 0;
    }
    return moved;
}

static void send_large(int peers, size_t size, uint64_t arena)
{
    pmx_policy p = prefix(4, 0, 1000000);
    sim_begin();
    sim_now.room_in = sim_now.room_out = 70000;
    world_begin(&w, 100, arena);
    world_listen(&w, &p);
    for (count = 0; count < peers; count++)
        fds[count] = virtual_peer(&w, &ids[count]);
    memset(large, 'x', sizeof large);
    for (int i = 0; i < 4; i++)
        large[i] = (uint8_t)(size >> 8 * (3 - i));
    memset(sent, 0, sizeof sent);
    whole = size + 4;
    sim_idle = pieces;
    do
        CHECK(turn_of(&w, PMX_FOR_EVER, 8, 1000 * MS) >= 0);
    while (!w.t.messages);
}

static void large_messages_gather(void)
{
    static const size_t sizes[] = {50000, 66000, 100000, 299000};
    for (int k = 0; k < 4; k++) {
        send_large(8, sizes[k], 4 << 20);
        EQUAL(w.t.messages, 8);
        EQUAL(w.t.arena->size, 8 * sizes[k]);
        CHECK(!(w.t.reason & PMX_LARGE));
        end();
    }
}

/* What finds no room is first in the next batch; and a message that no arena
 * holds comes alone, in its own memory. */
static void an_arena_bounds_what_gathers(void)
{
    send_large(8, 100000, 450000);
    CHECK(w.t.messages == 4 || w.t.messages == 3);
    while (w.message_count < 8) {
        turn_of(&w, PMX_FOR_EVER, 8, 10 * MS);
        CHECK(w.t.messages <= 4);
        CHECK(!(w.t.reason & PMX_LARGE));
    }
    end();
    send_large(2, 299000, 200000);
    EQUAL(w.t.messages, 1);
    CHECK(w.t.reason & PMX_LARGE);
    UNTIL(&w, w.message_count == 2);
    end();
}

/* Peers that each bring a message and a part of another have not done. */
/* In the slot of one that lingers, its links stand in the place of the carry. */
static void connections_that_linger_may_have_rows_in_the_batch(void)
{
    pmx_policy p = lines("\n", 1000);
    p.max_connections = 10;
    virtual_begin(&w, &p, 70000);
    for (count = 0; count < 4; count++)
        fds[count] = virtual_peer(&w, &ids[count]);
    for (int i = 0; i < 3; i++)
        EQUAL(sim_send(fds[i], "line\n", 5, 0), 5);
    CHECK(turn_of(&w, PMX_LOOK, 100, 1000 * MS) & PMX_GATHERING);
    do_op(&w, ids[0], PMX_CLOSE);
    do_op(&w, ids[1], PMX_CLOSE);
    for (int i = 0; i < 3; i++) {
        CHECK(turn_of(&w, PMX_LOOK, 100, 1000 * MS) & PMX_GATHERING);
        sim_time += 20 * MS;
    }
    EQUAL(pmx__slot(w.mux, (uint32_t)ids[0])->lingers, PMX__MAY_GO);
    EQUAL(sim_send(fds[3], "line\n", 5, 0), 5);
    CHECK(turn_of(&w, PMX_LOOK, 100, 1000 * MS) & PMX_ROWS);
    EQUAL(w.t.messages, 4);
    end();
}

static void a_message_that_is_on_its_way_is_waited_for(void)
{
    begin(2);
    for (int i = 0; i < 2; i++)
        EQUAL(sim_send(fds[i], "one\ntw", 6, 0), 6);
    int64_t before = sim_clock();
    to_send = 2;                /* "line\n" ends them */
    EQUAL(gather(4, 1000 * MS), 4);
    CHECK(sim_clock() - before < 100 * MS);
    end();
}
#endif

const test_case gather_tests[] = {
    VIRTUAL(a_batch_that_gathers_dozes),
    VIRTUAL(a_batch_is_handed_over_soon_after_its_last_message),
    VIRTUAL(a_slice_is_short_beside_a_long_delay),
    VIRTUAL(a_wakeup_ends_a_doze_at_once),
    VIRTUAL(peers_that_wait_for_answers_are_not_kept_waiting),
    VIRTUAL(a_batch_dozes_again_when_its_peers_do_not_wait),
    VIRTUAL(a_time_that_is_over_ends_a_doze),
    VIRTUAL(a_loop_does_not_watch_while_a_batch_gathers),
    VIRTUAL(a_batch_in_a_loop_is_handed_over_soon_after_its_last_message),
    VIRTUAL(peers_that_wait_for_answers_wait_for_no_slice_of_a_loop),
    VIRTUAL(a_loop_rarely_tries_whether_peers_wait),
    VIRTUAL(what_is_left_of_a_slice_falls),
    VIRTUAL(after_a_quiet_slice_a_loop_watches),
    VIRTUAL(what_a_loop_must_not_sleep_through),
    VIRTUAL(large_messages_gather),
    VIRTUAL(an_arena_bounds_what_gathers),
    VIRTUAL(connections_that_linger_may_have_rows_in_the_batch),
    VIRTUAL(a_message_that_is_on_its_way_is_waited_for),
    {0},
};
