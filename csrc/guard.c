/*
 * The guard is one lock for the tables of all selectors. A thread holds it only
 * for a store or a copy, so one lock is enough. A fork takes this lock first,
 * so the child finds every table whole and the lock free.
 *
 * This file also has the memory of a wait and the core's one atomic operation
 * and fence. (MSVC's C has no atomics of C11.)
 */
#include "poller.h"

#include <stdlib.h>

void *pmx__ready_memory(pmx_ready *ready, size_t size)
{
    if (ready->memory && ready->size >= size)
        return ready->memory;
    free(ready->memory);
    size += size / 2 + 64;
    ready->memory = sys_malloc(size);
    ready->size = ready->memory ? size : 0;
    return ready->memory;
}

#ifdef _WIN32
static SRWLOCK lock = SRWLOCK_INIT;

int pmx__guard_start(void)
{
    return 0;
}

void pmx__guard(void)
{
    AcquireSRWLockExclusive(&lock);
}

void pmx__unguard(void)
{
    ReleaseSRWLockExclusive(&lock);
}

int pmx__swap(int32_t *place, int32_t *is, int32_t to)
{
    LONG was = InterlockedCompareExchange((volatile LONG *)place, to, *is);
    int swapped = was == *is;
    *is = was;
    return swapped;
}

void pmx_fence(void)
{
    MemoryBarrier();
}
#else
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void guard_forks(void)
{
    (void)pthread_atfork(pmx__guard, pmx__unguard, pmx__unguard);
}

int pmx__guard_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    return -pthread_once(&once, guard_forks);
}

void pmx__guard(void)
{
    (void)pthread_mutex_lock(&lock);
}

void pmx__unguard(void)
{
    (void)pthread_mutex_unlock(&lock);
}

int pmx__swap(int32_t *place, int32_t *is, int32_t to)
{
    return __atomic_compare_exchange_n(place, is, to, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

void pmx_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
#endif
