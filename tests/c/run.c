/* Runs the tests: all, or those whose name holds one of the arguments; not
 * those that hold what an argument says behind a '-'. */
#include "mux.h"
#include "test.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SECONDS = 180,              /* for one test, on a very slow machine */
    SLOW = 300,                 /* milliseconds: worth a line */
};

static const test_case *const all[] = {
    frame_tests, memory_tests, poller_tests, framing_tests, large_tests,
    send_tests, block_tests, op_tests, close_tests, lost_tests, time_tests,
    accept_tests, unix_tests, connect_tests, fair_tests, slot_tests,
    life_tests, drain_tests, fail_tests, wire_tests,
    random_tests, watch_tests, fault_tests, thread_tests, entry_tests,
    route_tests,
    sim_tests, corpus_tests, linger_tests, gather_tests, services_tests,
    balance_tests, listen_on_tests, idle_tests, message_time_tests, peers_tests, due_tests, unix_path_tests, length_tests,
    switch_tests, switch_policy_tests,
    toy_tests, clock_tests, output_limit_tests, owed_tests, arrow_tests,
    foreign_tests, pipe_tests, write_end_tests, load_tests, tls_tests,
    tls_output_tests, tls_dial_tests, retire_tests,
    proxy_tests, proxied_tests, proxied_tls_tests,
    move_tests,
    figures_tests,
};

const char *test_backend;
char test_note[64];
static char name[128];
static jmp_buf stopped;
static int passed, failed, skipped;
static int settles_late;        /* an emulated kqueue closes what it has used
                                   in a thread of its own, some time */

void test_failed(const char *file, int line, const char *what)
{
    test_fail_at = 0;
    fprintf(stderr, "FAILED %s %s\n    %s:%d: %s\n", name, test_note, file,
            line, what);
    longjmp(stopped, 1);
}

void test_differ(const char *file, int line, const char *what, long long is,
                 long long wanted)
{
    char text[256];
    snprintf(text, sizeof text, "%s is %lld, not %lld", what, is, wanted);
    test_failed(file, line, text);
}

void test_skipped(const char *why)
{
    printf("skipped: %s: %s\n", name, why);
    longjmp(stopped, 2);
}

void test_settle(void)
{
    int64_t until = pmx__now() + 30000000;
    int before = test_descriptors();
    while (settles_late && pmx__now() < until) {
        int now = test_descriptors();
        if (now != before)
            until = pmx__now() + 30000000;
        before = now;
    }
}

static int is_chosen(char *const *words)
{
    int chosen = -1;            /* nothing said so far */
    for (; *words; words++) {
        if (**words == '-' && strstr(name, *words + 1))
            return 0;
        if (**words != '-' && chosen < 1)
            chosen = strstr(name, *words) != NULL;
    }
    return chosen != 0;
}

static void run(const test_case *test, char *const *words)
{
    snprintf(name, sizeof name, "%s%s%s", test->name,
             test_backend ? " on " : "", test_backend ? test_backend : "");
    if (!is_chosen(words))
        return;
    volatile int before = test_descriptors();
    int64_t begun = pmx__now();
    test_note[0] = 0;
    test_watch(name, SECONDS);
    switch (setjmp(stopped)) {
    case 0:
        if (test->skip)
            test_skipped(test->skip);
        test->run();
        break;
    case 1:
        failed++;
        test_restore();
        return;
    default:
        skipped++;
        return;
    }
    test_watch(name, 0);
    if (!settles_late && test_descriptors() != before)
        test_differ(test->name, 0, "descriptors open", test_descriptors(),
                    before);
    passed++;
    int64_t took = (pmx__now() - begun) / 1000000;
    if (took > SLOW)
        printf("%s: %d ms\n", name, (int)took);
}

int main(int argc, char **argv)
{
    int64_t begun = pmx__now();
    (void)argc;
    setvbuf(stdout, NULL, _IONBF, 0);   /* or a forked child prints it too */
    test_begin();
    (void)pmx__net_start();     /* for sockets without a mux */
#ifdef __linux__
    settles_late = !pmx_backend_probe("kqueue");
#endif
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (const test_case *test = all[i]; test->name; test++) {
            const char *backend = NULL;
            uint32_t index = 0;
            while (test->everywhere && (backend = pmx_backend_name(index++)))
                if (!pmx_backend_probe(backend)) {
                    test_backend = backend;
                    run(test, argv + 1);
                }
            test_backend = NULL;
            if (!test->everywhere)
                run(test, argv + 1);
        }
    printf("%d ms\n", (int)((pmx__now() - begun) / 1000000));
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    fflush(stdout);
    if (failed)
        _Exit(1);               /* a stopped test leaks: nothing to report */
    return !passed;
}
