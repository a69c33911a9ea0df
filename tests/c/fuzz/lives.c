/* Lives by the million: `lives [FROM [COUNT [BACKEND]]]`. A seed whose life
 * fails is printed, with the command that lives it again; TRACE=1 tells what
 * happens in it, BYTES=file writes what was chosen, for a fuzzer. */
#include "life.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

int main(int argc, char **argv)
{
    unsigned long long from = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    unsigned long long count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;
    const char *only = argc > 3 && argv[3][0] ? argv[3] : NULL;
    const char *path = getenv("BYTES");
    double begun = seconds();
    buffer record = {0};
    life_trace = getenv("TRACE") != NULL;
    mallopt(M_MMAP_THRESHOLD, 1 << 26);     /* keep what there is */
    mallopt(M_TRIM_THRESHOLD, 1 << 28);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned long long seed = from; seed - from < count; seed++)
        for (int b = 0; b < 3; b++) {
            if (only && strcmp(only, backends[b]))
                continue;
            snprintf(test_note, sizeof test_note,
                     "FROM=%llu SEEDS=1 ONLY=%s", seed, backends[b]);
            choices c = choices_drawn(seed);
            c.record = path ? &record : NULL;
            long before = blocks;
            live(&c, backends[b]);
            if (!path)
                EQUAL(blocks, before);
            if (path)
                keep(path, &record);
        }
    double took = seconds() - begun;
    printf("%llu seeds on %s: %.1f s, %.0f lives a second\n", count,
           only ? only : "each backend", took,
           (double)count * (only ? 1 : 3) / took);
    return 0;
}
