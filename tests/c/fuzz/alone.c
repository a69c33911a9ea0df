/* A failed CHECK outside of run.c: say so, with how to have it again, and
 * stop there. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>

const char *test_backend;
char test_note[64];

void test_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "FAILED %s:%d: %s\n", file, line, what);
    if (test_note[0])
        fprintf(stderr, "again: make -C tests/c lives %s\n", test_note);
    abort();
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
    test_failed("skipped", 0, why);
}
