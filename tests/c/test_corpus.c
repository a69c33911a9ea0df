/* The fuzzers' inputs, each of which is a test, and some random lives. */
#include "test.h"

#ifdef __linux__
#include "fuzz/targets.h"
#include "life.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

/* Run from this directory, as make does it. */
static void each_input(const char *name,
                       void (*run)(const uint8_t *bytes, size_t size))
{
    char path[512];
    int count = 0;
    snprintf(path, sizeof path, "fuzz/corpus/%s", name);
    DIR *directory = opendir(path);
    const struct dirent *item;
    if (!directory)
        test_skipped("fuzz/corpus is not here");
    while ((item = readdir(directory))) {
        buffer bytes = {0};
        uint8_t part[4096];
        size_t n;
        snprintf(path, sizeof path, "fuzz/corpus/%s/%.200s", name,
                 item->d_name);
        FILE *file = item->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!file)
            continue;
        while ((n = fread(part, 1, sizeof part, file)) > 0)
            append(&bytes, part, n);
        fclose(file);
        snprintf(test_note, sizeof test_note, "%.60s", item->d_name);
        run(bytes.bytes, bytes.size);
        release(&bytes);
        count++;
    }
    closedir(directory);
    CHECK(count > 0);
}

static void the_corpus_of_frames_in(void)
{
    each_input("frames_in", fuzz_frames_in);
}

static void the_corpus_of_headers(void)
{
    each_input("headers", fuzz_headers);
}

static void the_corpus_of_frames_out(void)
{
    each_input("frames_out", fuzz_frames_out);
}

static void the_corpus_of_turns(void)
{
    each_input("turn", fuzz_turn);
}

static void some_lives(uint64_t count)
{
    if (!strcmp(test_backend, "kqueue"))
        test_skipped("the system in memory has none");
    for (uint64_t seed = 1; seed <= count; seed++) {
        snprintf(test_note, sizeof test_note, "FROM=%d SEEDS=1 ONLY=%s",
                 (int)seed, test_backend);
        choices c = choices_drawn(seed);
        live(&c, test_backend);
    }
}

static void some_lives_in_memory(void)
{
    life_two = 0;
    some_lives(300);
}

/* Connections move at every step, with faults: `make moves` has many more. */
static void some_lives_with_two_muxes(void)
{
    life_two = 1;
    some_lives(150);
}

const test_case corpus_tests[] = {
    ONCE(the_corpus_of_frames_in),
    ONCE(the_corpus_of_headers),
    ONCE(the_corpus_of_frames_out),
    ONCE(the_corpus_of_turns),
    EACH(some_lives_in_memory),
    EACH(some_lives_with_two_muxes),
    {0},
};
#else
const test_case corpus_tests[] = {
    {"some_lives_in_memory", NULL, 0, "it is Linux that they live on"},
    {0},
};
#endif
