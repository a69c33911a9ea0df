/* What the core allocates through, so that tests can let it fail. */
#include "test.h"

#include <stdlib.h>

long test_fail_at;
long test_allocations;

static int refused(void)
{
    test_allocations++;
    return test_fail_at && !--test_fail_at;
}

void *test_malloc(size_t size)
{
    return refused() ? NULL : malloc(size);
}

void *test_calloc(size_t count, size_t size)
{
    return refused() ? NULL : calloc(count, size);
}

void *test_realloc(void *memory, size_t size)
{
    return refused() ? NULL : realloc(memory, size);
}
