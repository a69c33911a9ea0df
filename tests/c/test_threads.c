/* What several threads may do at once. Under ThreadSanitizer (`make tsan`)
 * these tests tell of races, however they end. */
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#ifndef _WIN32
#include <fcntl.h>
#include <pthread.h>
#endif

#define NO_POSIX "mutexes here are POSIX's"

enum { READ = PMX_READABLE, WRITE = PMX_WRITABLE, THREADS = 4 };

/* --- the mux: wakeups from any thread, all else in its own ------------- */

enum { WAKES = 500 };

typedef struct {
    const pmx_mux *mux;
    _Atomic int working;
    _Atomic int wrong;
} wakers;

static void wake_often(void *of)
{
    wakers *all = of;
    for (int i = 0; i < WAKES; i++)
        all->wrong |= pmx_wakeup(all->mux) != 0;
    all->working--;
}

static void threads_may_wake_a_mux_that_echoes(void)
{
    for (int by_pipe = 0; by_pipe < 2; by_pipe++) {
        world w;
        pmx_sock peer;
        pmx_policy p = raw();
        void *threads[THREADS];
        buffer got = {0};
        pmx_wakeup_by_pipe(by_pipe);
        world_serve(&w, &p);
        pmx_wakeup_by_pipe(0);
        w.echo = 1;
        (void)meet(&w, &peer);
        wakers all = {w.mux, THREADS, 0};
        for (int i = 0; i < THREADS; i++)
            threads[i] = test_thread(wake_often, &all);
        size_t sent = 0;
        do {
            put(peer, "x", 1);
            sent++;
            EQUAL(turn(&w, -1) & ~(PMX_WOKEN | PMX_ROWS), 0);
        } while (all.working);
        for (int i = 0; i < THREADS; i++)
            test_join(threads[i]);
        EQUAL(all.wrong, 0);
        UNTIL_DOING(&w, got.size == sent, (void)get(peer, &got));
        while (turn(&w, 0) & PMX_WOKEN)
            ;
        EQUAL(turn(&w, 0), 0);
        release(&got);
        leave(peer);
        UNTIL(&w, w.closed_count == 1);
        world_end(&w);
    }
}

static void use_a_mux_of_its_own(void *of)
{
    _Atomic int *wrong = of;
    pmx_mux *mux;
    pmx_turn t = {.timeout_ns = -1};
    if (pmx_open(&mux, test_backend, 16, 4096, 0)) {
        *wrong = 1;
        return;
    }
    t.mux = mux;
    t.arena = pmx_arena_new(4096, 16);
    *wrong |= !t.arena || pmx_wakeup(mux) || pmx_harvest(&t) != PMX_WOKEN;
    pmx_arena_free(t.arena);
    pmx_close(mux);
}

static void threads_may_each_have_a_mux(void)
{
    void *threads[THREADS];
    _Atomic int wrong = 0;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < THREADS; i++)
            threads[i] = test_thread(use_a_mux_of_its_own, &wrong);
        for (int i = 0; i < THREADS; i++)
            test_join(threads[i]);
    }
    EQUAL(wrong, 0);
}

#ifndef _WIN32
/* As the Python side does it: who wakes holds a lock that closing takes. */
typedef struct {
    pthread_mutex_t lock;
    pmx_mux *mux;
    _Atomic int woke;
} shared_mux;

static void wake_until_closed(void *of)
{
    shared_mux *shared = of;
    int open = 1;
    while (open) {
        pthread_mutex_lock(&shared->lock);
        open = shared->mux != NULL;
        if (open)
            (void)pmx_wakeup(shared->mux);
        pthread_mutex_unlock(&shared->lock);
        shared->woke++;
    }
}

static void threads_may_wake_until_the_mux_is_closed_under_a_lock(void)
{
    for (int round = 0; round < 20; round++) {
        world w;
        void *threads[THREADS];
        shared_mux shared = {.lock = PTHREAD_MUTEX_INITIALIZER};
        world_begin(&w, 100, 10000);
        shared.mux = w.mux;
        for (int i = 0; i < THREADS; i++)
            threads[i] = test_thread(wake_until_closed, &shared);
        while (shared.woke < 5)
            EQUAL(turn(&w, -1), PMX_WOKEN);
        pthread_mutex_lock(&shared.lock);
        shared.mux = NULL;
        world_end(&w);
        pthread_mutex_unlock(&shared.lock);
        for (int i = 0; i < THREADS; i++)
            test_join(threads[i]);
    }
}
#endif

/* --- the watch: anything from any thread ------------------------------- */

typedef struct {
    pmx_watch *is;
    pmx_sock sock;
    _Atomic int begun;
    _Atomic int result;
    _Atomic int wrong;
} user;

/* Until it is shut: then everything says so. */
static void use_until_shut(void *of)
{
    user *u = of;
    pmx_ready *ready = pmx_ready_new(u->is, 16);
    int n = ready ? 0 : -ENOMEM;
    for (int i = 0; n >= 0; i++) {
        n = pmx_watch_set(u->is, (int64_t)u->sock, 0, WRITE);
        u->begun = 1;
        if (!n)
            n = pmx_ready_wait(ready, i % 3 * 1000);
        if (n >= 0)
            n = pmx_watch_set(u->is, (int64_t)u->sock, WRITE, 0);
        if (pmx_watch_fileno(u->is) == -EBADF && n >= 0)
            n = pmx_ready_look(ready);
    }
    u->wrong = n != -EBADF;
    if (ready)
        pmx_ready_free(ready);
}

static void shut(void *is)
{
    pmx_watch_shut(is);
}

static void threads_may_shut_a_watch_that_others_use(void)
{
    for (int round = 0; round < 20; round++) {
        pmx_watch *is;
        pmx_sock pairs[THREADS][2];
        user users[THREADS];
        void *threads[THREADS], *others[2];
        EQUAL(pmx_watch_open(&is, test_backend), 0);
        for (int i = 0; i < THREADS; i++) {
            pair_of(pairs[i]);
            users[i] = (user){is, pairs[i][0], 0, 0, 0};
            threads[i] = test_thread(use_until_shut, &users[i]);
        }
        for (int i = 0; i < THREADS; i++)
            while (!users[i].begun)
                (void)pmx_watch_fileno(is);
        for (int i = 0; i < 2; i++)
            others[i] = test_thread(shut, is);
        for (int i = 0; i < 2; i++)
            test_join(others[i]);
        for (int i = 0; i < THREADS; i++) {
            test_join(threads[i]);
            EQUAL(users[i].wrong, 0);
            leave(pairs[i][0]);
            leave(pairs[i][1]);
        }
        pmx_watch_free(is);
    }
}

#ifndef _WIN32
static void wait_for_ever(void *of)
{
    user *u = of;
    pmx_ready *ready = pmx_ready_new(u->is, 16);
    u->begun = 1;
    u->result = ready ? pmx_ready_wait(ready, -1) : -ENOMEM;
    if (ready)
        pmx_ready_free(ready);
}

static int is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* Else another file could get the number, and a thread that is just about to
 * wait, or to change something, would do it to that one. */
static void a_thread_that_waits_keeps_the_number_of_a_shut_watch(void)
{
    user u = {0};
    int64_t until = deadline();
    do {
        pmx_sock pair[2];
        EQUAL(pmx_watch_open(&u.is, test_backend), 0);
        pair_of(pair);
        EQUAL(pmx_watch_set(u.is, (int64_t)pair[0], 0, READ), 0);
        int number = pmx_watch_fileno(u.is);
        u.begun = 0;
        void *thread = test_thread(wait_for_ever, &u);
        while (!u.begun)
            ;
        pmx_watch_shut(u.is);
        int kept = number < 0 || is_open(number);
        put_text(pair[1], "x");
        test_join(thread);
        if (u.result == 1)      /* it came in time */
            CHECK(kept);
        else
            EQUAL(u.result, -EBADF);
        CHECK(number < 0 || !is_open(number));
        pmx_watch_free(u.is);
        leave(pair[0]);
        leave(pair[1]);
        CHECK(pmx__now() < until);
    } while (u.result != 1);
}
#endif

#ifndef _WIN32
static void a_mux_closed_in_its_place_may_leave_its_wakeup(void)
{
    int64_t wakeup[2];
    pmx_mux *mux = NULL;
    EQUAL(pmx_open(&mux, test_backend, 16, 4096, 0), 0);
    int number = pmx_wakeup_fd(mux), poller = pmx_fileno(mux);
    EQUAL(pmx_keep_wakeup(mux, wakeup), 0);
    pmx_dispose(&mux);
    CHECK(!mux);
    EQUAL(wakeup[1], number);
    CHECK(is_open(number) && is_open((int)wakeup[0]));
    CHECK(poller < 0 || !is_open(poller));
    pmx_dispose(&mux);                  /* there is none any more */
    pmx_wakeup_close(wakeup);
    CHECK(!is_open(number) && !is_open((int)wakeup[0]));
    EQUAL(pmx_open(&mux, test_backend, 16, 4096, 0), 0);
    number = pmx_wakeup_fd(mux);
    pmx_dispose(&mux);
    CHECK(!mux && !is_open(number));
}
#endif

const test_case thread_tests[] = {
    UNIX_EACH(a_mux_closed_in_its_place_may_leave_its_wakeup, NO_POSIX),
    EACH(threads_may_wake_a_mux_that_echoes),
    EACH(threads_may_each_have_a_mux),
    UNIX_EACH(threads_may_wake_until_the_mux_is_closed_under_a_lock, NO_POSIX),
    EACH(threads_may_shut_a_watch_that_others_use),
    UNIX_EACH(a_thread_that_waits_keeps_the_number_of_a_shut_watch, NO_POSIX),
    {0},
};
