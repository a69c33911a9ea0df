/* watch.c: who is ready, told to any thread. */
#include "world.h"

#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#define NO_POSIX "signals, threads and forks here are POSIX's"

enum { READ = PMX_READABLE, WRITE = PMX_WRITABLE };

typedef struct {
    pmx_watch *is;
    pmx_ready *ready;
} watch;

static void begin(watch *w)
{
    EQUAL(pmx_watch_open(&w->is, test_backend), 0);
    CHECK(!strcmp(pmx_watch_name(w->is), test_backend));
    w->ready = pmx_ready_new(w->is, 64);
    CHECK(w->ready);
}

static void end(watch *w)
{
    pmx_ready_free(w->ready);
    pmx_watch_free(w->is);
}

static void unpair(pmx_sock pair[2])
{
    leave(pair[0]);
    leave(pair[1]);
}

/* What one look says of a descriptor. */
static int64_t what_of(watch *w, pmx_sock fd)
{
    int64_t what = 0;
    int n = pmx_ready_wait(w->ready, 0);
    CHECK(n >= 0);
    for (int i = 0; i < n; i++)
        if (w->ready->found[i] >> 2 == (int64_t)fd)
            what |= w->ready->found[i] & 3;
    return what;
}

static int is_kqueue(void)
{
    return !strcmp(test_backend, "kqueue");
}

static void what_is_ready_is_told_until_it_is_taken(void)
{
    watch w;
    pmx_sock a[2];
    buffer b = {0};
    begin(&w);
    pair_of(a);
    EQUAL(pmx_watch_set(w.is, (int64_t)a[0], 0, READ), 0);
    EQUAL(what_of(&w, a[0]), 0);
    put_text(a[1], "x");
    EQUAL(what_of(&w, a[0]), READ);
    EQUAL(what_of(&w, a[0]), READ);
    get(a[0], &b);
    EQUAL(what_of(&w, a[0]), 0);
    release(&b);
    unpair(a);
    end(&w);
}

static void what_is_wanted_is_told_and_nothing_else(void)
{
    static const uint32_t steps[] = {
        READ, WRITE, READ | WRITE, READ, 0, WRITE, 0,
        READ | WRITE, WRITE, READ, READ | WRITE, 0};
    watch w;
    pmx_sock a[2];
    begin(&w);
    pair_of(a);
    put_text(a[1], "x");
    uint32_t had = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], had, steps[i]), 0);
        had = steps[i];
        EQUAL(what_of(&w, a[0]), had);
    }
    unpair(a);
    end(&w);
}

static void a_hang_up_is_told_as_what_is_wanted(void)
{
    watch w;
    pmx_sock a[2];
    begin(&w);
    for (uint32_t wanted = READ; wanted <= (READ | WRITE); wanted++) {
        pair_of(a);
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], 0, wanted), 0);
        leave(a[1]);
        EQUAL(what_of(&w, a[0]), wanted);
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], wanted, 0), 0);
        EQUAL(what_of(&w, a[0]), 0);
        leave(a[0]);
    }
    end(&w);
}

static void a_wait_finds_as_many_as_it_has_room_for(void)
{
    enum { COUNT = 20 };
    watch w;
    pmx_sock pairs[COUNT][2];
    begin(&w);
    for (int i = 0; i < COUNT; i++) {
        pair_of(pairs[i]);
        put_text(pairs[i][1], "x");
        EQUAL(pmx_watch_set(w.is, (int64_t)pairs[i][0], 0, READ), 0);
    }
    pmx_ready *small = pmx_ready_new(w.is, 4);
    CHECK(small);
    EQUAL(pmx_ready_wait(small, 0), 4);
    EQUAL(pmx_ready_wait(w.ready, 0), COUNT);
    pmx_ready_free(small);
    for (int i = 0; i < COUNT; i++)
        unpair(pairs[i]);
    end(&w);
}

static void a_table_knows_what_is_in_it(void)
{
    watch w;
    pmx_sock a[2];
    begin(&w);
    pair_of(a);
    if (is_kqueue()) {          /* to which it is all the same */
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], READ, 0), 0);
    } else {
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], READ, 0), -ENOENT);
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], READ, WRITE), -ENOENT);
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], 0, READ), 0);
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], 0, READ), -EEXIST);
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], READ, 0), 0);
        EQUAL(pmx_watch_set(w.is, (int64_t)a[0], READ, 0), -ENOENT);
        EQUAL(pmx_watch_set(w.is, (int64_t)a[1], READ, 0), -ENOENT);
    }
    EQUAL(what_of(&w, a[0]), 0);
    unpair(a);
    end(&w);
}

static void what_is_no_descriptor_is_refused(void)
{
    watch w;
    begin(&w);
    EQUAL(pmx_watch_set(w.is, -1, 0, READ), -EBADF);
#ifndef _WIN32                  /* there a handle may be any number */
    EQUAL(pmx_watch_set(w.is, INT64_C(1) << 32, 0, READ), -EBADF);
    EQUAL(pmx_watch_set(w.is, INT64_MAX, 0, READ), -EBADF);
#endif
    EQUAL(pmx_watch_set(w.is, 0, 0, 4), -EINVAL);
    end(&w);
}

static void once_shut_it_does_nothing(void)
{
    watch w;
    begin(&w);
    CHECK(pmx_watch_fileno(w.is) >= 0 ||
          pmx_watch_fileno(w.is) == -ENOTSUP);
    pmx_watch_shut(w.is);
    pmx_watch_shut(w.is);
    EQUAL(pmx_watch_fileno(w.is), -EBADF);
    EQUAL(pmx_watch_set(w.is, 0, 0, READ), -EBADF);
    EQUAL(pmx_watch_set(w.is, 0, READ, 0), -EBADF);
    EQUAL(pmx_ready_wait(w.ready, -1), -EBADF);
    end(&w);
}

static void a_watch_waits_no_less_than_asked(void)
{
    static const int64_t spans[] = {1, 999, 50 * 1000, 1001 * 1000,
                                    3 * MS + 1};
    watch w;
    begin(&w);
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        int64_t before = pmx__now();
        EQUAL(pmx_ready_wait(w.ready, spans[i]), 0);
        CHECK(pmx__now() - before >= spans[i]);
    }
    end(&w);
}

#ifndef _WIN32
static void nothing(int signal_number)
{
    (void)signal_number;
}

static void a_signal_leaves_the_rest_of_the_time(void)
{
    const struct itimerval soon = {{0, 0}, {0, 5000}};
    struct sigaction handler = {.sa_handler = nothing}, before;
    watch w;
    begin(&w);
    sigaction(SIGALRM, &handler, &before);
    alarm(0);
    setitimer(ITIMER_REAL, &soon, NULL);
    EQUAL(pmx_ready_wait(w.ready, 50 * 1000 * MS), -EINTR);
    CHECK(w.ready->left_ns > 0 && w.ready->left_ns < 50 * 1000 * MS);
    setitimer(ITIMER_REAL, &soon, NULL);
    EQUAL(pmx_ready_wait(w.ready, -1), -EINTR);
    CHECK(w.ready->left_ns < 0);
    sigaction(SIGALRM, &before, NULL);
    end(&w);
}

/* --- threads ----------------------------------------------------------- */

enum { MANY = 200, LOOKS = 12000, LOOKERS = 3 };

typedef struct {
    pmx_watch *is;
    _Atomic int done;
    int wrong;
} looker;

/* All are write ends: none is found readable, and none twice in a look, as it
 * would be by who looks while it moves in the table. */
static void *look_often(void *of)
{
    looker *l = of;
    pmx_ready *ready = pmx_ready_new(l->is, 2 * MANY);
    int seen[4 * MANY] = {0};
    l->wrong = !ready;
    for (int look = 1; look <= LOOKS && !l->wrong; look++) {
        int n = pmx_ready_wait(ready, look % 8 ? 0 : 1000);
        l->wrong |= n < 0;
        for (int k = 0; k < n; k++) {
            int64_t fd = ready->found[k] >> 2;
            l->wrong |= (ready->found[k] & 3) != WRITE || fd >= 4 * MANY;
            if (!l->wrong) {
                l->wrong = seen[fd] == look;
                seen[fd] = look;
            }
        }
    }
    if (ready)
        pmx_ready_free(ready);
    l->done = 1;
    return NULL;
}

static void threads_may_wait_while_others_change_what_is_watched(void)
{
    pthread_t threads[LOOKERS];
    looker lookers[LOOKERS];
    int fds[MANY], busy = LOOKERS;
    watch w;
    begin(&w);
    CHECK(!pipe(fds));
    for (int i = 2; i < MANY; i++)
        CHECK((fds[i] = dup(fds[1])) >= 0);
    for (int i = 0; i < LOOKERS; i++) {
        lookers[i] = (looker){w.is, 0, 0};
        CHECK(!pthread_create(&threads[i], NULL, look_often, &lookers[i]));
    }
    while (busy) {
        for (int i = 1; i < MANY; i++)
            EQUAL(pmx_watch_set(w.is, fds[i], 0, WRITE), 0);
        for (int i = 1; i < MANY; i++)
            EQUAL(pmx_watch_set(w.is, fds[i], WRITE, 0), 0);
        busy = 0;
        for (int i = 0; i < LOOKERS; i++)
            busy += !lookers[i].done;
    }
    for (int i = 0; i < LOOKERS; i++) {
        CHECK(!pthread_join(threads[i], NULL));
        EQUAL(lookers[i].wrong, 0);
    }
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    end(&w);
}

typedef struct {
    pmx_watch *is;
    int fd;
    _Atomic int stop;
} changer;

static void *change_for_ever(void *of)
{
    changer *c = of;
    while (!c->stop) {
        (void)pmx_watch_set(c->is, c->fd, 0, WRITE);
        (void)pmx_watch_set(c->is, c->fd, WRITE, 0);
    }
    return NULL;
}

static void a_child_finds_the_table_whole_and_the_lock_free(void)
{
    watch w;
    changer c = {0};
    pthread_t thread;
    pmx_sock a[2];
    if (is_kqueue() || !strcmp(test_backend, "epoll"))
        return;                 /* they have none */
    begin(&w);
    pair_of(a);
    c = (changer){w.is, a[0], 0};
    CHECK(!pthread_create(&thread, NULL, change_for_ever, &c));
    int status = 0;
    for (int i = 0; i < 20 && !status; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (!pid) {
            alarm(10);
            int wrong = pmx_watch_set(w.is, (int64_t)a[1], 0, WRITE) != 0 ||
                        !(what_of(&w, a[1]) & WRITE) ||
                        pmx_watch_set(w.is, (int64_t)a[1], WRITE, 0) != 0;
            _exit(wrong);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
    }
    c.stop = 1;
    CHECK(!pthread_join(thread, NULL));
    EQUAL(status, 0);
    unpair(a);
    end(&w);
}

static void a_child_leaves_the_number_of_a_kqueue_alone(void)
{
    watch w;
    int status;
    if (!is_kqueue() || pmx_backend_probe("epoll") == 0)
        return;                 /* an emulated one is inherited */
    begin(&w);
    int number = pmx_watch_fileno(w.is);
    pid_t pid = fork();
    if (!pid) {
        int other = dup2(0, number);
        int wrong = pmx_ready_wait(w.ready, 0) != -EBADF ||
                    pmx_watch_set(w.is, 0, 0, READ) != -EBADF;
        pmx_watch_free(w.is);
        _exit(wrong || fcntl(other, F_GETFD) < 0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    EQUAL(status, 0);
    end(&w);
}

#endif

/* --- no memory --------------------------------------------------------- */

static int all_of_it(pmx_sock fd)
{
    pmx_watch *is;
    pmx_ready *ready;
    int error = pmx_watch_open(&is, test_backend);
    if (error)
        return error;
    ready = pmx_ready_new(is, 64);
    error = ready ? pmx_watch_set(is, (int64_t)fd, 0, WRITE) : -ENOMEM;
    if (!error)
        error = pmx_ready_wait(ready, 0);
    if (ready)
        pmx_ready_free(ready);
    pmx_watch_free(is);
    return error;
}

static void a_watch_without_memory_says_so(void)
{
    pmx_sock a[2];
    int n;
    pair_of(a);
    for (long at = 1;; at++) {
        CHECK(at < 20);
        test_fail_at = at;
        n = all_of_it(a[0]);
        int refused = !test_fail_at;
        test_fail_at = 0;
        if (!refused)
            break;
        EQUAL(n, -ENOMEM);
    }
    EQUAL(n, 1);
    CHECK(!pmx_ready_new(NULL, 0));
    CHECK(!pmx_ready_new(NULL, UINT64_C(1) << 60));
    unpair(a);
}

const test_case watch_tests[] = {
    EACH(what_is_ready_is_told_until_it_is_taken),
    EACH(what_is_wanted_is_told_and_nothing_else),
    EACH(a_hang_up_is_told_as_what_is_wanted),
    EACH(a_wait_finds_as_many_as_it_has_room_for),
    EACH(a_table_knows_what_is_in_it),
    EACH(what_is_no_descriptor_is_refused),
    EACH(once_shut_it_does_nothing),
    EACH(a_watch_waits_no_less_than_asked),
    UNIX_EACH(a_signal_leaves_the_rest_of_the_time, NO_POSIX),
    UNIX_EACH(threads_may_wait_while_others_change_what_is_watched, NO_POSIX),
    UNIX_EACH(a_child_finds_the_table_whole_and_the_lock_free, NO_POSIX),
    UNIX_EACH(a_child_leaves_the_number_of_a_kqueue_alone, NO_POSIX),
    EACH(a_watch_without_memory_says_so),
    {0},
};
