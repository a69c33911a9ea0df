/* The path of a Unix listener means the same file from listen to close. */
#include "world.h"

#ifndef _WIN32
#include "socket_file.h"

#include <fcntl.h>
#include <sys/file.h>

static int listen_there(world *w, const pmx_endpoint *at, uint64_t *id)
{
    pmx_policy p = raw();
    return pmx_listen(w->mux, at, &p, 10, 0, 0600, id);
}

/* Another server's socket at the path, which listens if it is not dead. */
static int anothers(int dead)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(name.sun_path, path);
    CHECK(!bind(sock, (struct sockaddr *)&name, sizeof name));
    CHECK(dead || !listen(sock, 1));
    if (!dead)
        return sock;
    close(sock);
    return -1;
}

static void the_file_of_a_relative_path_goes_wherever_the_program_is(void)
{
    world w;
    char home[1024];
    CHECK(getcwd(home, sizeof home));
    (void)begin(&w);
    pmx_endpoint at[] = {{.path = "socket", .path_size = 6},
                         {.path = "./socket", .path_size = 8},
                         {.path = "../socket", .path_size = 9}};
    char below[140];
    snprintf(below, sizeof below, "%s/below", directory);
    CHECK(!mkdir(below, 0700));
    for (int i = 0; i < 6; i++) {
        CHECK(!chdir(i % 3 == 2 ? below : directory));
        EQUAL(listen_there(&w, &at[i % 3], &w.listener), 0);
        CHECK(exists());
        CHECK(!chdir(home));
        if (i < 5)
            EQUAL(pmx_unlisten(w.mux, w.listener), 0);
        else
            pmx_drain(w.mux), turn(&w, 0);
        CHECK(!exists());
    }
    rmdir(below);
    end(&w);
}

static void the_file_is_found_in_a_directory_of_another_name(void)
{
    world w;
    char moved[80], link[80], real[128];
    pmx_endpoint at = begin(&w);
    snprintf(moved, sizeof moved, "%s-moved", directory);
    snprintf(link, sizeof link, "%s-link", directory);
    /* the directory is renamed */
    EQUAL(listen_there(&w, &at, &w.listener), 0);
    CHECK(!rename(directory, moved));
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    CHECK(!rename(moved, directory));
    CHECK(!exists());
    /* the link that led to it leads to another file of that name now */
    CHECK(!symlink(directory, link));
    snprintf(real, sizeof real, "%s/socket", link);
    at = (pmx_endpoint){.path = real, .path_size = (uint32_t)strlen(real)};
    EQUAL(listen_there(&w, &at, &w.listener), 0);
    CHECK(!mkdir(moved, 0700) && !unlink(link) && !symlink(moved, link));
    int file = open(real, O_CREAT | O_WRONLY, 0600);
    close(file);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    CHECK(!exists());
    CHECK(!unlink(real) && !unlink(link) && !rmdir(moved));
    end(&w);
}

static void a_listen_that_fails_leaves_no_file(void)
{
    static const injected_fault faults[] = {
        {CALL_listen, ENOMEM, "listen ENOMEM"},
        {CALL_getsockname, ENOBUFS, "getsockname ENOBUFS"},
        {CALL_openat, EMFILE, "openat EMFILE"},
        {CALL_fchmodat, EPERM, "fchmodat EPERM"},
        {CALL_epoll_add, ENOSPC, "epoll_add ENOSPC"},
    };
    world w;
    pmx_endpoint at = begin(&w);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        pmx_policy p = raw();
        int known = faults[i].call != CALL_epoll_add ||
                    !strcmp(pmx_name(w.mux), "epoll");
        inject_nth(&faults[i], 1, 0);
        /* a mode that bind() alone does not give */
        int error = pmx_listen(w.mux, &at, &p, 10, 0, 01600, &w.listener);
        inject_nothing();
        EQUAL(error, known ? -faults[i].error : 0);
        if (!error)
            EQUAL(pmx_unlisten(w.mux, w.listener), 0);
        CHECK(!exists());
    }
    end(&w);
}

static int swapped;

/* Another server unlinks what it takes for stale, and is the first. */
static void swap_before_listen(enum injected_call call)
{
    if (call != CALL_listen || swapped)
        return;
    CHECK(!unlink(path));
    swapped = anothers(0);
}

static void who_has_lost_the_path_does_not_listen(void)
{
    static const injected_fault fails = {CALL_listen, ENOMEM, "listen ENOMEM"};
    world w;
    pmx_endpoint at = begin(&w);
    for (int both = 0; both < 2; both++) {
        swapped = 0;
        if (both)
            inject_nth(&fails, 1, 0);
        injected_before = swap_before_listen;
        EQUAL(listen_there(&w, &at, &w.listener),
              both ? -ENOMEM : -EADDRINUSE);
        inject_nothing();
        CHECK(swapped && exists());     /* and the other's file stays */
        int peer = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        strcpy(name.sun_path, path);
        CHECK(!connect(peer, (struct sockaddr *)&name, sizeof name));
        close(peer);
        close(swapped);
        CHECK(!unlink(path));
    }
    EQUAL(pmx_counts(w.mux)->listeners, 0);
    end(&w);
}

static int held, waits;

/* While somebody else starts there we neither bind nor unlink. */
static void let_go_in_time(enum injected_call call)
{
    CHECK(call != CALL_bind || held < 0);
    if (call != CALL_poll || held < 0 || ++waits < 3)
        return;
    close(held);
    held = -1;
}

static void one_that_starts_waits_for_another_that_starts(void)
{
    world w;
    pmx_endpoint at = begin(&w);
    (void)anothers(1);
    held = open(directory, O_RDONLY | O_DIRECTORY);
    waits = 0;
    CHECK(!flock(held, LOCK_EX));
    injected_before = let_go_in_time;
    EQUAL(listen_there(&w, &at, &w.listener), 0);
    inject_nothing();
    EQUAL(waits, 3);
    CHECK(held < 0);
    /* and its own lock has ended */
    int other = open(directory, O_RDONLY | O_DIRECTORY);
    CHECK(!flock(other, LOCK_EX | LOCK_NB));
    close(other);
    end(&w);
    CHECK(!exists());
}

static void a_lock_that_is_never_let_go_does_not_block(void)
{
    world w;
    pmx_endpoint at = begin(&w);
    (void)anothers(1);
    held = open(directory, O_RDONLY | O_DIRECTORY);
    CHECK(!flock(held, LOCK_EX));
    inject_haste(1);            /* the second that it waits takes none */
    EQUAL(listen_there(&w, &at, &w.listener), 0);
    inject_haste(0);
    close(held);
    end(&w);
    CHECK(!exists());
}

static void a_directory_that_cannot_be_listed_will_do(void)
{
    static const injected_fault denied = {CALL_openat, EACCES,
                                          "openat EACCES"};
    world w;
    pmx_endpoint at = begin(&w);
    (void)anothers(1);
    inject_nth(&denied, 1, 0);
    EQUAL(listen_there(&w, &at, &w.listener), 0);
    EQUAL(injected_now, 1);
    inject_nothing();
    end(&w);
    CHECK(!exists());
}

static void what_is_stale_and_cannot_be_removed_says_why(void)
{
    static const injected_fault faults[] = {
        {CALL_unlinkat, EACCES, "unlinkat EACCES"},
        {CALL_unlinkat, EIO, "unlinkat EIO"},
    };
    world w;
    pmx_endpoint at = begin(&w);
    (void)anothers(1);
    for (int i = 0; i < 2; i++) {
        inject_nth(&faults[i], 1, 0);
        EQUAL(listen_there(&w, &at, &w.listener), -faults[i].error);
        inject_nothing();
        CHECK(exists());
    }
    end(&w);
}

enum { STARTERS = 4 };
static struct { pmx_mux *mux; int error; } starters[STARTERS];
static const pmx_endpoint *start_at;
static int32_t arrived;

static void start(void *number)
{
    const int *i = number;
    pmx_policy p = raw();
    uint64_t id;
    int32_t is = 0;
    while (!pmx__swap(&arrived, &is, is + 1))
        ;
    do
        is = -1;
    while (!pmx__swap(&arrived, &is, 0) && is < STARTERS);
    starters[*i].error = pmx_listen(starters[*i].mux, start_at, &p, 10, 0,
                                    0600, &id);
}

static void of_many_that_start_on_a_stale_path_one_listens(void)
{
    static int numbers[STARTERS];
    world w;
    pmx_endpoint at = begin(&w);
    start_at = &at;
    for (int trial = 0; trial < 100; trial++) {
        void *threads[STARTERS];
        int listening = 0;
        (void)anothers(1);
        arrived = 0;
        for (int i = 0; i < STARTERS; i++) {
            numbers[i] = i;
            EQUAL(pmx_open(&starters[i].mux, NULL, 10, 10000, 0), 0);
            threads[i] = test_thread(start, &numbers[i]);
        }
        for (int i = 0; i < STARTERS; i++) {
            test_join(threads[i]);
            listening += !starters[i].error;
            CHECK(!starters[i].error || starters[i].error == -EADDRINUSE);
        }
        EQUAL(listening, 1);
        CHECK(exists());
        for (int i = 0; i < STARTERS; i++)
            pmx_close(starters[i].mux);
        CHECK(!exists());
    }
    end(&w);
}
#endif

const test_case unix_path_tests[] = {
    UNIX_ONCE(the_file_of_a_relative_path_goes_wherever_the_program_is,
              NO_UNIX),
    UNIX_ONCE(the_file_is_found_in_a_directory_of_another_name, NO_UNIX),
    UNIX_EACH(a_listen_that_fails_leaves_no_file, NO_UNIX),
    UNIX_ONCE(who_has_lost_the_path_does_not_listen, NO_UNIX),
    UNIX_ONCE(one_that_starts_waits_for_another_that_starts, NO_UNIX),
    UNIX_ONCE(a_lock_that_is_never_let_go_does_not_block, NO_UNIX),
    UNIX_ONCE(a_directory_that_cannot_be_listed_will_do, NO_UNIX),
    UNIX_ONCE(what_is_stale_and_cannot_be_removed_says_why, NO_UNIX),
    UNIX_ONCE(of_many_that_start_on_a_stale_path_one_listens, NO_UNIX),
    {0},
};
