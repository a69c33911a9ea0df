/* Runs the tests: all, or those whose name holds the argument. */
#include "mux.h"
#include "test.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    SECONDS = 60,               /* for one test, on a very slow machine */
    SLOW = 300,                 /* milliseconds: worth a line */
};

static const test_case *const all[] = {
    frame_tests, memory_tests, poller_tests, framing_tests, large_tests,
    send_tests, block_tests, op_tests, close_tests, lost_tests, time_tests,
    accept_tests, unix_tests, connect_tests, fair_tests, slot_tests,
    life_tests, drain_tests, fail_tests, wire_tests,
    random_tests, watch_tests,
};

const char *test_backend;
char test_note[64];
static char name[128];
static jmp_buf stopped;
static int passed, failed;
static struct rlimit limit;
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

int test_descriptors(void)
{
    DIR *directory = opendir("/dev/fd");
    int count = 0;
    while (directory && readdir(directory))
        count++;
    if (directory)
        closedir(directory);
    return count;
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

int64_t test_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void too_long(int signal_number)
{
    (void)signal_number;
    (void)!write(2, "TOO LONG: ", 10);
    (void)!write(2, name, strlen(name));
    (void)!write(2, "\n", 1);
    _exit(1);
}

static void run(const test_case *test, const char *only)
{
    snprintf(name, sizeof name, "%s%s%s", test->name,
             test_backend ? " on " : "", test_backend ? test_backend : "");
    if (only && !strstr(name, only))
        return;
    volatile int before = test_descriptors();
    int64_t begun = pmx__now();
    test_note[0] = 0;
    alarm(SECONDS);
    if (setjmp(stopped)) {
        failed++;
        setrlimit(RLIMIT_NOFILE, &limit);
        return;
    }
    test->run();
    alarm(0);
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
    signal(SIGALRM, too_long);
    getrlimit(RLIMIT_NOFILE, &limit);
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
                    run(test, argc > 1 ? argv[1] : NULL);
                }
            test_backend = NULL;
            if (!test->everywhere)
                run(test, argc > 1 ? argv[1] : NULL);
        }
    printf("%d ms\n", (int)((pmx__now() - begun) / 1000000));
    printf("%d passed, %d failed\n", passed, failed);
    fflush(stdout);
    if (failed)
        _exit(1);               /* a stopped test leaks: nothing to report */
    return !passed;
}
