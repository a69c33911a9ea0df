/* Lives by the million: `lives [FROM [COUNT [PROCESSES [BACKEND]]]]`. A seed
 * whose life fails is printed, with the command that lives it again; TRACE=1
 * tells what happens in it, BYTES=file writes what it chose, for a fuzzer. */
#include "life.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const backends[] = {"epoll", "poll", "select"};

/* Blocks of memory in use: the linker (--wrap) brings every call here. */
static long blocks;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void __wrap_free(void *memory);

void *__wrap_malloc(size_t size)
{
    void *memory = __real_malloc(size);
    blocks += !!memory;
    return memory;
}

void *__wrap_calloc(size_t count, size_t size)
{
    void *memory = __real_calloc(count, size);
    blocks += !!memory;
    return memory;
}

void *__wrap_realloc(void *memory, size_t size)
{
    void *grown = __real_realloc(memory, size);
    blocks += !memory && grown;
    return grown;
}

void __wrap_free(void *memory)
{
    blocks -= !!memory;
    __real_free(memory);
}

static void keep(const char *path, const buffer *bytes)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes->bytes, 1, bytes->size, file) != bytes->size ||
        fclose(file))
        exit(2);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void live_all(unsigned long long from, unsigned long long count,
                     unsigned long long step, const char *only)
{
    const char *path = getenv("BYTES");
    buffer record = {0};
    for (unsigned long long k = 0; k < count; k += step)
        for (int b = 0; b < 3; b++) {
            if (only && strcmp(only, backends[b]))
                continue;
            snprintf(test_note, sizeof test_note,
                     "FROM=%llu SEEDS=1 ONLY=%s", from + k, backends[b]);
            choices c = choices_drawn(from + k);
            c.record = path ? &record : NULL;
            long before = blocks;
            live(&c, backends[b]);
            if (path)
                keep(path, &record);
            else
                EQUAL(blocks, before);
        }
}

/* A crash tells its seed, too. */
static void crashed(int number)
{
    fprintf(stderr, "signal %d: make -C tests/c lives %s\n", number, test_note);
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

int main(int argc, char **argv)
{
    unsigned long long from = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    unsigned long long count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;
    unsigned jobs = argc > 3 ? (unsigned)atoi(argv[3]) : 1;
    const char *only = argc > 4 ? argv[4] : NULL;
    double begun = seconds();
    int status, failed = 0;
    life_trace = getenv("TRACE") != NULL;
    life_two = getenv("MOVES") != NULL;
    mallopt(M_MMAP_THRESHOLD, 1 << 26);     /* keep what there is */
    mallopt(M_TRIM_THRESHOLD, 1 << 28);
    for (unsigned k = 0; k < jobs; k++)
        if (!fork()) {
            (void)signal(SIGSEGV, crashed);
            (void)signal(SIGBUS, crashed);
            (void)signal(SIGABRT, crashed);
            (void)signal(SIGTERM, crashed);
            live_all(from + k, count - k, jobs, only);
            return 0;
        }
    while (wait(&status) > 0)
        failed |= status;
    double took = seconds() - begun;
    printf("%llu seeds on %s: %.1f s, %.0f lives a second%s\n", count,
           only ? only : "each backend", took,
           (double)count * (only ? 1 : 3) / took, failed ? ", FAILED" : "");
    return !!failed;
}
