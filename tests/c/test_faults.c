/*
 * Every failure that the system can give, at every call.
 *
 * One scene (scene.h), which is run with the first call of a kind failing in
 * one way, then the second, and so on until there are no more, for every kind
 * and way (as SQLite's and curl's tests do); then with calls failing at
 * random, by seed. Each time: who is not whole is reported as lost with the
 * failure's errno, at most one of them for one failure, the others are whole,
 * nothing leaks, nothing waits for ever.
 */
#include "scene.h"

#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- one failure after the other ---------------------------------------- */

/* Those that the core makes up for, whatever it was doing. */
static int is_made_up_for(const injected_fault *f)
{
    if (f->call == CALL_send && f->error == ENOBUFS)
        return 1;               /* sent again a moment later */
    switch (f->error) {
    case SHORT: case SPURIOUS: case EINTR: case EAGAIN:
        return 1;
    default:
        break;
    }
    switch (f->call) {          /* bind() may be that of a source address */
    case CALL_accept: case CALL_close:
    case CALL_epoll_create1: case CALL_epoll_pwait2: case CALL_epoll_wait:
    case CALL_fchmod: case CALL_flock: case CALL_fstatat:
    case CALL_getsockname: case CALL_listen: case CALL_openat: case CALL_pipe:
    case CALL_poll: case CALL_select: case CALL_setsockopt:
    case CALL_socketpair: case CALL_unlinkat:
        return 1;
    default:
        return 0;
    }
}

/* What is no mux: each backend's probe, and a selector's watch. */
static int look_around(void)
{
    pmx_sock pair[2];
    pmx_watch *watch = NULL;
    pmx_ready *ready = NULL;
    inject_pause(1);
    pair_of(pair);
    put_text(pair[1], "x");
    inject_pause(0);
    int error = pmx_backend_probe(test_backend);
    error = error ? error : pmx_watch_open(&watch, test_backend);
    if (!error) {
        ready = pmx_ready_new(watch, 4);
        error = ready ? pmx_watch_set(watch, pair[0], 0, PMX_READABLE)
                      : -ENOMEM;
        int found = error ? 0 : pmx_ready_wait(ready, 1000 * MS);
        if (found < 0)
            error = found;
        else if (!error)
            EQUAL(ready->found[0] >> 2, pair[0]);
        if (ready)
            pmx_ready_free(ready);
        pmx_watch_shut(watch);
        pmx_watch_free(watch);
    }
    inject_pause(1);
    leave(pair[0]);
    leave(pair[1]);
    return error;
}

/* A mux that counts in a file, watches one socket and adopts another. */
static int bring_in(void)
{
    pmx_sock watched[2], adopted[2];
    pmx_policy p = lines("\n", 100);
    pmx_turn t = {0};
    uint64_t id = 0;
    inject_pause(1);
    pair_of(watched);
    pair_of(adopted);
    put_text(watched[1], "x");
    put_text(adopted[1], "hello\n");
    FILE *file = file_of(4096);
    pmx_arena *arena = pmx_arena_new(4096, 16);
    inject_pause(0);
    int64_t sock = watched[0];
    int error = pmx_open(&t.mux, test_backend, 16, 4096, 0);
    if (!error)
        error = pmx_count_in(t.mux, fileno(file), 256);
    if (!error)
        error = pmx_wakes(t.mux, watched[1]);
    if (!error)
        t.mux->stats->asleep = 1;
    if (!error)
        error = pmx_foreign(t.mux, sock, 0, PMX_READABLE);
    if (!error)
        error = pmx_adopt(t.mux, adopted[0], 0, &p, &id);
    int own = !id, seen = 0;
    uint32_t messages = 0;
    for (int n = 0; !error && n < 50 && !(seen && messages); n++) {
        t.arena = arena;
        int reason = pmx_harvest(&t);
        error = reason < 0 ? reason : t.closed_count ? -t.closed[0].error : 0;
        messages += reason < 0 ? 0 : t.messages;
        if (!error && reason & PMX_FOREIGN) {
            seen = 1;
            error = pmx_foreign(t.mux, sock, PMX_READABLE, PMX_READABLE);
        }
    }
    CHECK(error || (seen && messages));
    if (t.mux)
        (void)pmx_close(t.mux);
    inject_pause(1);
    pmx_arena_free(arena);
    CHECK(!fclose(file));
    if (own)
        leave(adopted[0]);
    leave(adopted[1]);
    leave(watched[0]);
    leave(watched[1]);
    return error;
}

/* A mux with one pipe's read end and another's write end: a line comes by the
 * one and a line goes by the other, whose reader then leaves. */
static int pass_through(void)
{
    int in[2], out[2];
    char got[8];
    pmx_policy p = lines("\n", 100);
    pmx_turn t = {0};
    uint64_t ids[2] = {0};
    int64_t length = 6;
    inject_pause(1);
    CHECK(!pipe(in) && !pipe(out) && !fcntl(out[0], F_SETFL, O_NONBLOCK));
    EQUAL(write(in[1], "hello\n", 6), 6);
    pmx_arena *arena = pmx_arena_new(4096, 16);
    inject_pause(0);
    int error = pmx_open(&t.mux, test_backend, 16, 4096, 0);
    if (!error)
        error = pmx_adopt(t.mux, in[0], PMX_READABLE, &p, &ids[0]);
    if (!error)
        error = pmx_adopt(t.mux, out[1], PMX_WRITABLE, &p, &ids[1]);
    const pmx_block block = {PMX_LENGTHS, 1, &ids[1], &length, "hello!", 6};
    ssize_t n = 0;
    uint32_t messages = 0;
    for (int k = 0; !error && k < 50 && !(n > 0 && messages); k++) {
        t.arena = arena;
        t.blocks = &block;
        t.block_count = !k;
        t.timeout_ns = MS;
        int reason = pmx_harvest(&t);
        error = reason < 0 ? reason : t.closed_count ? -t.closed[0].error : 0;
        messages += reason < 0 ? 0 : t.messages;
        n = n > 0 ? n : read(out[0], got, sizeof got);
    }
    CHECK(error || (n > 0 && messages));
    inject_pause(1);
    CHECK(!close(out[0]));      /* the write end hears of that by itself */
    inject_pause(0);
    int is_over = 0;
    for (int k = 0; !error && k < 50 && !is_over; k++) {
        t.arena = arena;
        t.timeout_ns = 200 * MS;
        int reason = pmx_harvest(&t);
        error = reason < 0 ? reason : 0;
        for (uint32_t i = 0; i < t.closed_count && reason >= 0; i++)
            is_over |= t.closed[i].id == ids[1];
    }
    CHECK(error || is_over);
    if (t.mux)
        (void)pmx_close(t.mux);
    inject_pause(1);
    pmx_arena_free(arena);
    if (!ids[0])
        CHECK(!close(in[0]));
    if (!ids[1])
        CHECK(!close(out[1]));
    CHECK(!close(in[1]));
    return error;
}

/* What a mux is given, with each call of the core failing in turn. */
static void each_call_fails_in(int (*what)(void))
{
    for (size_t k = 0; k < injected_fault_count; k++) {
        const injected_fault *fault = &injected_faults[k];
        long nth = 0;
        do {
            snprintf(test_note, sizeof test_note, "%s, call %ld", fault->name,
                     ++nth);
            inject_nth(fault, nth, 1);
            int error = what();
            inject_nothing();
            CHECK(!error || error == -ENOSYS || explained(-error));
        } while (injected_now);
    }
}

static void each_call_to_bring_a_socket_in_may_fail(void)
{
    each_call_fails_in(bring_in);
}

static void each_call_to_bring_a_pipe_in_may_fail(void)
{
    if (!strcmp(test_backend, "kqueue"))
        test_skipped("a false EAGAIN has no edge behind it there");
    void (*before)(int) = signal(SIGPIPE, SIG_DFL);     /* it would kill */
    uint64_t not_sockets = injected_not_sockets;
    inject_haste(1);            /* select looks for the loss now and then */
    each_call_fails_in(pass_through);
    inject_haste(0);
    EQUAL(injected_not_sockets, not_sockets);
    signal(SIGPIPE, before);
}

static void each_call_of_a_selector_may_fail(void)
{
    each_call_fails_in(look_around);
}

static void each_call_fails_in_a_scene(void)
{
    scene s;
    uint64_t before = injected_total;
    make_bulk();
    inject_nothing();
    EQUAL(play(&s), 0);
    for (size_t k = 0; k < injected_fault_count; k++) {
        const injected_fault *fault = &injected_faults[k];
        long nth = 0;
        do {
            nth++;
            snprintf(test_note, sizeof test_note, "%s, call %ld", fault->name,
                     nth);
            inject_nth(fault, nth, nth % 2 ? 1 : SIZE_MAX);
            int count = play(&s);
            CHECK(count <= 1 && s.lost <= 2);
            CHECK(!count || !is_made_up_for(fault));
        } while (injected_now);
    }
    printf("%llu faults, one a scene\n",
           (unsigned long long)(injected_total - before));
    drop_bulk();
}

static void each_call_may_fail(void)
{
    each_call_fails_in_a_scene();
}

static void each_call_may_fail_over_tls(void)
{
    scene_is_secure = 1;
    each_call_fails_in_a_scene();
    scene_is_secure = 0;
}

/* --- at random ---------------------------------------------------------- */

/* FROM=seed SEEDS=1 plays one again, SEEDS=1000000 a million. */
static void calls_may_fail_at_random(void)
{
    static const uint32_t often[] = {3, 10, 30, 100, 300};
    const char *wanted = getenv("SEEDS"), *from = getenv("FROM");
    uint32_t first = from ? (uint32_t)atoi(from) : 1;
    uint32_t count = wanted ? (uint32_t)atoi(wanted) : 70;
    scene s;
    make_bulk();
    if (wanted)
        test_watch("a long run", 0);
    for (uint32_t seed = first; seed - first < count; seed++) {
        snprintf(test_note, sizeof test_note, "seed %u", seed);
        inject_at_random(seed, often[seed % 5]);
        (void)play(&s);
    }
    if (wanted)
        printf("%llu faults in %u seeds\n", (unsigned long long)injected_total,
               count);
    drop_bulk();
}

const test_case fault_tests[] = {
    EACH(each_call_to_bring_a_socket_in_may_fail),
    EACH(each_call_to_bring_a_pipe_in_may_fail),
    EACH(each_call_may_fail),
    ONCE(each_call_may_fail_over_tls),
    EACH(each_call_of_a_selector_may_fail),
    EACH(calls_may_fail_at_random),
    {0},
};
#else
const test_case fault_tests[] = {{0}};
#endif
