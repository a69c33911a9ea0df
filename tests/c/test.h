/*
 * The harness: a test is a function, which ends at the first CHECK that does
 * not hold. After each one as many descriptors must be open as before.
 */
#ifndef TEST_H
#define TEST_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name;
    void (*run)(void);
    int everywhere;             /* once for each backend */
    const char *skip;           /* why it cannot be run here */
} test_case;

#define ONCE(test) {#test, test, 0, NULL}
#define EACH(test) {#test, test, 1, NULL}
#ifdef _WIN32
#define UNIX_ONCE(test, why) {#test, NULL, 0, why}
#define UNIX_EACH(test, why) {#test, NULL, 0, why}
#else
#define UNIX_ONCE(test, why) ONCE(test)
#define UNIX_EACH(test, why) EACH(test)
#endif

/* One a file, each ending with an empty case. */
extern const test_case frame_tests[], memory_tests[], poller_tests[],
    framing_tests[], large_tests[], send_tests[], block_tests[],
    op_tests[], close_tests[], lost_tests[], time_tests[], accept_tests[],
    clock_tests[],
    unix_tests[], connect_tests[], fair_tests[], slot_tests[], life_tests[],
    drain_tests[], fail_tests[], wire_tests[], random_tests[], watch_tests[],
    fault_tests[], thread_tests[], entry_tests[], sim_tests[],
    corpus_tests[], linger_tests[], gather_tests[], services_tests[], balance_tests[],
    listen_on_tests[],
    idle_tests[], due_tests[], message_time_tests[], peers_tests[],
    unix_path_tests[],
    length_tests[], switch_tests[], switch_policy_tests[], toy_tests[],
    output_limit_tests[], owed_tests[], arrow_tests[], foreign_tests[],
    load_tests[], route_tests[], pipe_tests[], write_end_tests[],
    tls_tests[], tls_output_tests[], tls_dial_tests[], retire_tests[],
    proxy_tests[], proxied_tests[], proxied_tls_tests[],
    move_tests[], figures_tests[];

/* The backend this test is run on, NULL where it is run once. */
extern const char *test_backend;

void test_failed(const char *file, int line, const char *what)
    __attribute__((noreturn));

/* Why tests of Unix sockets are skipped. */
#define NO_UNIX "pymux has no Unix sockets there"

/* Ends a test that this machine cannot run. */
void test_skipped(const char *why) __attribute__((noreturn));

#define CHECK(what) \
    do { \
        if (!(what)) \
            test_failed(__FILE__, __LINE__, #what); \
    } while (0)

/* Two integers that must be equal; both are shown if they are not. */
void test_differ(const char *file, int line, const char *what, long long is,
                 long long wanted) __attribute__((noreturn));

#define EQUAL(is, wanted) \
    do { \
        long long is_ = (long long)(is), wanted_ = (long long)(wanted); \
        if (is_ != wanted_) \
            test_differ(__FILE__, __LINE__, #is, is_, wanted_); \
    } while (0)

extern char test_note[64];      /* shown where a test fails */

void test_settle(void);         /* until no descriptor is closed any more */

/* os.c: what the harness needs of the operating system. */
void test_begin(void);
void test_restore(void);        /* what a failed test may leave behind */
int test_descriptors(void);     /* how many are open; -1: nobody tells */
int test_room_for(int descriptors);      /* 0: they cannot be had */
int64_t test_cpu_ns(void);      /* that this process has used */
/* The process ends if the next call does not come in time. */
void test_watch(const char *name, int seconds);
void *test_thread(void (*run)(void *), void *argument);
void test_join(void *thread);
int test_write(int fd, const void *bytes, int size);

/* Allocations of the core: fail the nth from now (0: none). */
extern long test_fail_at;
extern long test_allocations;   /* so far */

#endif
