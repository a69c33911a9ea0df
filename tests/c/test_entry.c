/* One thread at a time is inside a mux; and muxes that are small. */
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- who comes second ---------------------------------------------------- */

typedef struct {
    pmx_turn t;
    _Atomic int result;
} waiter;

static void harvest(void *of)
{
    waiter *is = of;
    is->result = pmx_harvest(&is->t);
}

static int is_inside(pmx_mux *mux)
{
    int32_t is = 0;
    if (!pmx__swap(&mux->door, &is, 0))
        return 1;
    return 0;
}

/* What each call says, while a thread waits in a harvest of the same mux. */
static void all_are_refused(world *w, uint64_t id)
{
    pmx_policy p = raw(), is;
    pmx_endpoint at = {.host = "127.0.0.1", .port = w->port};
    pmx_address names[2];
    uint64_t made = 7;
    pmx_block block = {.cut = PMX_SHARED, .count = 1, .ids = &id,
                       .data = "never", .size = 5};
    pmx_turn t = {.mux = w->mux, .arena = w->arena, .blocks = &block,
                  .block_count = 1};
    EQUAL(pmx_listen(w->mux, &at, &p, 8, 0, 0600, &made), -EBUSY);
    EQUAL(pmx_listen_on(w->mux, 0, &p, &made), -EBUSY);
    EQUAL(pmx_listen_beside(w->mux, &at, w->listener, 8, 0, &made), -EBUSY);
    EQUAL(pmx_add_service(w->mux), -EBUSY);
    EQUAL(pmx_configure(w->mux, 0, 7, 7, 7), -EBUSY);
    EQUAL(pmx_unlisten(w->mux, w->listener), -EBUSY);
    EQUAL(pmx_set_most(w->mux, w->listener, 7), -EBUSY);
    EQUAL(pmx_listener_address(w->mux, w->listener, names), -EBUSY);
    EQUAL(pmx_connect(w->mux, &at, 1, &p, &made), -EBUSY);
    EQUAL(pmx_adopt(w->mux, 0, 0, &p, &made), -EBUSY);
    EQUAL(pmx_foreign(w->mux, 0, 0, PMX_READABLE), -EBUSY);
    EQUAL(pmx_addresses(w->mux, id, names), -EBUSY);
    EQUAL(pmx_refused_peer(w->mux, names), -EBUSY);
    EQUAL(pmx_policy_of(w->mux, id, &is), -EBUSY);
    CHECK(pmx_queued(w->mux, id) == UINT64_MAX);
    EQUAL(pmx_pass_over(w->mux, &id, 1, 0), -EBUSY);
    EQUAL(pmx_unacknowledged(w->mux, id), -EBUSY);
    EQUAL(pmx_socket(w->mux, id), -EBUSY);
    EQUAL(pmx_credentials(w->mux, id, (int64_t[3]){0}), -EBUSY);
    EQUAL(pmx_harvest(&t), -EBUSY);
    EQUAL(pmx_submit(&t), -EBUSY);
    EQUAL(t.block_count, 1);            /* not taken over */
    EQUAL(pmx_exchange(&t, 77, 1, &id, NULL, "never", 5), -EBUSY);
    EQUAL(t.timeout_ns, 0);             /* nor touched */
    EQUAL(pmx_next_timeout(w->mux), -EBUSY);
    EQUAL(pmx_doze(w->mux, 1), -EBUSY);
    EQUAL(pmx_fileno(w->mux), -EBUSY);
    EQUAL(pmx_drain(w->mux), -EBUSY);
    EQUAL(pmx_retire(w->mux), -EBUSY);
    EQUAL(pmx_accepted(w->mux, &made, 1), -EBUSY);
    EQUAL(pmx_end_inputs(w->mux, &id, 1, PMX_END_WHOLE), -EBUSY);
    EQUAL(pmx_reset_all(w->mux, ETIMEDOUT), -EBUSY);
    EQUAL(pmx_wakeup_open(w->mux), -EBUSY);
    EQUAL(pmx_shut(w->mux), -EBUSY);
    EQUAL(pmx_close(w->mux), -EBUSY);
    EQUAL(made, 7);
}

static void who_comes_second_is_refused_and_has_done_nothing(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    buffer got = {0};
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    waiter first = {.t = {.mux = w.mux, .arena = w.arena,
                          .timeout_ns = -1}};
    void *thread = test_thread(harvest, &first);
    while (!is_inside(w.mux))
        ;
    all_are_refused(&w, id);
    EQUAL(pmx_counts(w.mux)->connections, 1);
    EQUAL(pmx_counts(w.mux)->listeners, 1);
    EQUAL(pmx_forked(w.mux), 0);
    EQUAL(strcmp(pmx_name(w.mux), test_backend), 0);
    EQUAL(pmx_wakeup(w.mux), 0);        /* any thread may */
    test_join(thread);
    EQUAL(first.result, PMX_WOKEN);
    say_text(&w, id, "now");
    UNTIL_DOING(&w, got.size == 3, (void)get(peer, &got));
    CHECK(is_text_of(&got, "now"));
    release(&got);
    leave(peer);
    UNTIL(&w, w.closed_count == 1);
    world_is_clean(&w);
    world_end(&w);
}

enum { THREADS = 3, ROUNDS = 2000 };

typedef struct {
    pmx_mux *mux;
    _Atomic int done, wrong;
} crowd;

/* Each with a turn of its own: nothing but the mux is shared. */
static void crowd_in(void *of)
{
    crowd *all = of;
    pmx_policy p = raw();
    pmx_endpoint at = {.host = "127.0.0.1", .port = 9};
    pmx_arena *arena = pmx_arena_new(4096, 16);
    uint64_t id = 0;
    for (int i = 0; i < ROUNDS && arena; i++) {
        pmx_turn t = {.mux = all->mux, .arena = arena};
        int is = i % 3 == 0 ? pmx_harvest(&t)
               : i % 3 == 1 ? pmx_submit(&t)
               : i % 500 == 2 ? pmx_connect(all->mux, &at, 1, &p, &id)
               : (int)pmx_next_timeout(all->mux);
        all->done += is != -EBUSY;
        all->wrong |= is < -1 && is != -EBUSY;
    }
    all->wrong |= !arena;
    pmx_arena_free(arena);
}

static void threads_that_crowd_into_a_mux_leave_it_whole(void)
{
    world w;
    void *threads[THREADS];
    world_begin(&w, 16, 4096);
    crowd all = {.mux = w.mux};
    for (int i = 0; i < THREADS; i++)
        threads[i] = test_thread(crowd_in, &all);
    for (int i = 0; i < THREADS; i++)
        test_join(threads[i]);
    EQUAL(all.wrong, 0);
    CHECK(all.done);
    w.mux->gathering = 0;
    mux_is_sound(w.mux);
    world_end(&w);
}

static void a_shut_mux_refuses_all_and_may_be_shut_again(void)
{
    world w;
    pmx_policy p = raw();
    world_serve(&w, &p);
    pmx_mux *mux = w.mux;
    EQUAL(pmx_shut(mux), 0);
    EQUAL(pmx_shut(mux), 0);
    EQUAL(turn(&w, 0), -EBADF);
    EQUAL(pmx_add_service(mux), -EBADF);
    EQUAL(pmx_configure(mux, 0, 1, 0, 0), -EBADF);
    EQUAL(pmx_unlisten(mux, w.listener), -EBADF);
    EQUAL(pmx_doze(mux, 1), -EBADF);
    EQUAL(pmx_next_timeout(mux), -EBADF);
    EQUAL(pmx_wakeup_open(mux), -EBADF);
    EQUAL(pmx_wakeup(mux), 0);
    EQUAL(pmx_counts(mux)->accepted, 0);
    pmx_dispose(&w.mux);
    CHECK(!w.mux);
    pmx_dispose(&w.mux);                /* there is none */
    EQUAL(pmx_open(&w.mux, test_backend, 16, 4096, 0), 0);
    world_end(&w);
}

/* --- small ones ---------------------------------------------------------- */

static void small_world(world *w, const pmx_policy *p)
{
    memset(w, 0, sizeof *w);
    EQUAL(pmx_open_small(&w->mux, test_backend, 16, 8192), 0);
    w->arena = pmx_arena_new(8192, 16);
    CHECK(w->arena);
    world_listen(w, p);
}

static void a_small_mux_has_a_wakeup_when_asked_for_one(void)
{
    world w;
    pmx_policy p = raw();
    small_world(&w, &p);
    int before = test_descriptors();
    CHECK(pmx_wakeup_fd(w.mux) < 0);
    EQUAL(pmx_wakeup(w.mux), 0);
    EQUAL(turn(&w, 0), 0);
    EQUAL(pmx_wakeup_open(w.mux), 0);
    EQUAL(pmx_wakeup_open(w.mux), 0);   /* has one */
    CHECK(before < 0 || test_descriptors() == before + 2);
    CHECK(pmx_wakeup_fd(w.mux) >= 0);
    EQUAL(turn(&w, 0), 0);
    EQUAL(pmx_wakeup(w.mux), 0);
    EQUAL(turn(&w, -1), PMX_WOKEN);
    world_end(&w);
}

static void a_small_mux_has_room_for_many(void)
{
    enum { MANY = 70 };
    world w;
    pmx_sock peers[MANY];
    uint64_t ids[MANY];
    pmx_policy p = lines("\n", 100);
    small_world(&w, &p);
    for (int i = 0; i < MANY; i++) {
        ids[i] = meet(&w, &peers[i]);
        mux_is_sound(w.mux);
    }
    for (int i = 0; i < MANY; i++)
        put_text(peers[i], "question\n");
    UNTIL(&w, w.message_count == MANY);
    for (int i = 0; i < MANY; i++) {
        EQUAL(messages_of(&w, ids[i]), 1);
        say_text(&w, ids[i], "answer");
        leave(peers[i]);
    }
    UNTIL(&w, w.closed_count == MANY);
    world_is_clean(&w);
    world_end(&w);
}

/* --- in a file ----------------------------------------------------------- */

static pmx_stats in_file(FILE *file, long offset)
{
    pmx_stats is;
    CHECK(!fseek(file, offset, SEEK_SET));
    EQUAL(fread(&is, sizeof is, 1, file), 1);
    return is;
}

static void a_mux_counts_in_a_file_until_it_is_shut(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    FILE *file = file_of(2 * sizeof(pmx_stats));
    int64_t fd = fileno(file);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    EQUAL(pmx_counts(w.mux)->accepted, 1);
    int error = pmx_count_in(w.mux, fd, 0);
    if (error == -ENOTSUP) {
        CHECK(!fclose(file));
        leave(peer);
        world_end(&w);
        return;
    }
    EQUAL(error, 0);
    EQUAL(pmx_count_in(w.mux, fd, 4), -EINVAL);
    EQUAL(pmx_count_in(w.mux, fd, sizeof(pmx_stats) + 8), -EINVAL);
    EQUAL(pmx_count_in(w.mux, fd, UINT64_MAX - 7), -EINVAL);
    EQUAL(pmx_count_in(w.mux, -1, 0), -EBADF);
    EQUAL(pmx_count_in(w.mux, fd, 256), 0);
    EQUAL(in_file(file, 256).accepted, 1);
    put_text(peer, "hello");
    UNTIL(&w, w.message_count == 1);
    EQUAL(in_file(file, 256).bytes_in, 5);
    EQUAL(in_file(file, 0).bytes_in, 0);
    mux_is_sound(w.mux);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(in_file(file, 256).connections, 0);
    EQUAL(pmx_shut(w.mux), 0);
    pmx_stats last = in_file(file, 256);
    EQUAL(last.accepted, 1);
    EQUAL(last.listeners, 0);
    CHECK(!memcmp(pmx_counts(w.mux), &last, sizeof last));
    EQUAL(pmx_count_in(w.mux, fd, 256), -EBADF);
    EQUAL(pmx_wakes(w.mux, -1), -EBADF);
    CHECK(!fclose(file));
    world_end(&w);
}

/* --- what is queued ------------------------------------------------------ */

/* A caller that sees that nobody has anything queued need not ask. */
static void what_is_queued_is_counted_for_one_and_for_all(void)
{
    world w;
    pmx_sock peer, other;
    pmx_policy p = raw();
    buffer sent = {0}, got = {0};
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer), idle = meet(&w, &other);
    const pmx_stats *stats = pmx_counts(w.mux);
    EQUAL(stats->queued, 0);
    fill(&sent, 6000000, 1);
    say(&w, id, sent.bytes, sent.size);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id) > 0);
    do {
        EQUAL(pmx_queued(w.mux, id), stats->queued);
        EQUAL(pmx_queued(w.mux, idle), 0);
        get(peer, &got);
        turn(&w, 0);
    } while (got.size < sent.size);
    EQUAL(pmx_queued(w.mux, id), 0);
    EQUAL(stats->queued, 0);
    leave(peer);
    leave(other);
    UNTIL(&w, closed(&w, id) && closed(&w, idle));
    EQUAL(pmx_queued(w.mux, id), 0);
    release(&sent);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void slow_readers_are_passed_over(void)
{
    enum { MANY = 6 };
    world w;
    pmx_sock peers[MANY];
    uint64_t ids[MANY], all[MANY + 1];
    pmx_policy p = raw();
    buffer sent = {0};
    world_serve(&w, &p);
    fill(&sent, 6000000, 1);
    for (int i = 0; i < MANY; i++) {
        ids[i] = meet_small(&w, &peers[i]);
        if (i % 2)
            say(&w, ids[i], sent.bytes, sent.size);
    }
    turn(&w, 0);
    memcpy(all, ids, sizeof ids);
    all[MANY] = 77;             /* no connection has anything queued */
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = 1; i < MANY; i += 2) {
        uint64_t queued = pmx_queued(w.mux, ids[i]);
        least = queued < least ? queued : least;
        most = queued > most ? queued : most;
    }
    CHECK(least > 0);
    EQUAL(pmx_pass_over(w.mux, all, MANY + 1, most), MANY + 1);
    EQUAL(pmx_pass_over(w.mux, all, MANY + 1, least - 1), 4);
    for (int i = 0; i < 3; i++)
        CHECK(all[i] == ids[2 * i]);
    CHECK(all[3] == 77);
    CHECK(all[4] + all[5] + all[6] == ids[1] + ids[3] + ids[5]);
    EQUAL(pmx_pass_over(w.mux, all, 0, 0), 0);
    for (int i = 0; i < MANY; i++)
        leave(peers[i]);
    UNTIL(&w, w.closed_count == MANY);
    release(&sent);
    world_end(&w);
}

static void a_batch_is_as_large_as_the_arena_it_is_given(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 4000);
    buffer sent = {0};
    world_begin(&w, 16, 65536);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    pmx_arena_free(w.arena);            /* a smaller one than was said */
    w.arena = pmx_arena_new(1024, 16);
    CHECK(w.arena);
    for (int i = 0; i < 9; i++) {
        fill(&sent, 3000, (uint32_t)i);
        for (size_t k = 0; k < sent.size; k++)
            sent.bytes[k] = (uint8_t)('a' + sent.bytes[k] % 26);
        put(peer, sent.bytes, sent.size);
        put_text(peer, "\n");
        UNTIL(&w, messages_of(&w, id) == (size_t)i + 1);
        EQUAL(message_of(&w, id, (size_t)i)->size, sent.size);
        release(&sent);
    }
    leave(peer);
    UNTIL(&w, w.closed_count == 1);
    world_end(&w);
}

/* --- what has left ------------------------------------------------------- */

static void a_turn_until_sent_ends_when_nothing_is_queued(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    buffer sent = {0}, got = {0};
    p.high_water = p.max_output = UINT64_C(1) << 40;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    fill(&sent, 20000000, 1);
    say(&w, id, sent.bytes, sent.size);
    EQUAL(turn(&w, 0), 0);
    CHECK(pmx_queued(w.mux, id) > 0);
    CHECK(!acks_are_told() || pmx_unacknowledged(w.mux, id) >=
                                  (int64_t)pmx_queued(w.mux, id));
    int reason = 0;
    for (int64_t until = deadline(); reason != PMX_ROWS;) {
        pmx_turn t = {.mux = w.mux, .arena = w.arena,
                      .timeout_ns = 10 * MS, .until_sent = 1};
        CHECK(pmx__now() < until);
        (void)get_at_most(peer, &got, 1000000);
        reason = pmx_harvest(&t);
        CHECK(reason == PMX_ROWS || pmx_queued(w.mux, id));
    }
    EQUAL(pmx_queued(w.mux, id), 0);
    UNTIL_DOING(&w, got.size == sent.size, (void)get(peer, &got));
    CHECK(same(&sent, &got));
    do_op(&w, id, PMX_SEND_EOF);
    UNTIL(&w, !acks_are_told() || !pmx_unacknowledged(w.mux, id));
    EQUAL(pmx_unacknowledged(w.mux, id + (UINT64_C(2) << 32)), -ENOENT);
    release(&sent);
    release(&got);
    leave(peer);
    UNTIL(&w, w.closed_count == 1);
    world_end(&w);
}

const test_case entry_tests[] = {
    EACH(who_comes_second_is_refused_and_has_done_nothing),
    EACH(threads_that_crowd_into_a_mux_leave_it_whole),
    EACH(a_shut_mux_refuses_all_and_may_be_shut_again),
    EACH(a_small_mux_has_a_wakeup_when_asked_for_one),
    EACH(a_small_mux_has_room_for_many),
    EACH(a_mux_counts_in_a_file_until_it_is_shut),
    EACH(a_batch_is_as_large_as_the_arena_it_is_given),
    EACH(a_turn_until_sent_ends_when_nothing_is_queued),
    EACH(what_is_queued_is_counted_for_one_and_for_all),
    EACH(slow_readers_are_passed_over),
    {0},
};
