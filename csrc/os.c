/* Time, forks, processors, memory: what the core asks of the OS beside
 * sockets; and what compiled it. */
#ifdef __linux__
#define _GNU_SOURCE             /* CPU_COUNT */
#endif
#include "net.h"

#include <time.h>

#ifdef __GLIBC__                /* by any header of it */
#include <malloc.h>
#endif

#ifndef _WIN32
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

/* Milliseconds that a test has moved the clock on: 32 bits, which every
 * machine loads at once. */
static uint32_t ahead_ms;

#ifdef _WIN32
void pmx_shift_clock(uint32_t ms)
{
    (void)InterlockedExchange((volatile LONG *)&ahead_ms, (LONG)ms);
}

static int64_t ahead(void)
{
    return *(volatile uint32_t *)&ahead_ms * (int64_t)1000000;
}

int pmx__net_start(void)
{
    static int started;
    WSADATA data;
    if (!started && WSAStartup(MAKEWORD(2, 2), &data))
        return -ENOSYS;
    started = 1;
    return 0;
}

uint32_t pmx__forks(void)
{
    return 0;
}

int64_t pmx__now(void)
{
    LARGE_INTEGER count, rate;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&rate);
    return ahead() + count.QuadPart / rate.QuadPart * 1000000000 +
           count.QuadPart % rate.QuadPart * 1000000000 / rate.QuadPart;
}

int pmx__map(int64_t file, size_t size, void **place)
{
    (void)file, (void)size, (void)place;
    return -ENOTSUP;
}

void pmx__unmap(void *place, size_t size)
{
    (void)place, (void)size;
}

uint32_t pmx__usable_cpus(void)
{
    DWORD_PTR usable = 0, all = 0;
    uint32_t count = 0;
    (void)GetProcessAffinityMask(GetCurrentProcess(), &usable, &all);
    if (!usable)                /* in more than one group of processors */
        return 64;
    for (; usable; usable &= usable - 1)
        count++;
    return count;
}
#else
void pmx_shift_clock(uint32_t ms)
{
    __atomic_store_n(&ahead_ms, ms, __ATOMIC_RELAXED);
}

static int64_t ahead(void)
{
    return __atomic_load_n(&ahead_ms, __ATOMIC_RELAXED) * (int64_t)1000000;
}

static uint32_t forks;

static void after_fork(void)
{
    forks++;
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork);
}

int pmx__net_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    return -pthread_once(&once, watch_forks);
}

uint32_t pmx__forks(void)
{
    return forks;
}

int64_t pmx__now(void)
{
    struct timespec t;
    sys_clock_gettime(CLOCK_MONOTONIC, &t);
    return ahead() + (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A write behind the end of a mapped file would be a signal. */
int pmx__map(int64_t file, size_t size, void **place)
{
    struct stat info;
    if (sys_fstat_file((int)file, &info))
        return -errno;
    if (info.st_size < 0 || (uint64_t)info.st_size < size)
        return -EINVAL;
    *place = sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
                      (int)file, 0);
    return *place == MAP_FAILED ? -errno : 0;
}

void pmx__unmap(void *place, size_t size)
{
    (void)sys_munmap(place, size);
}

uint32_t pmx__usable_cpus(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (!sys_sched_getaffinity(0, sizeof set, &set))
        return (uint32_t)CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}
#endif

void pmx__trim_memory(void)
{
#ifdef __GLIBC__
    (void)sys_malloc_trim(0);
#endif
}

const char *pmx_compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#elif defined(_MSC_VER)
    return "MSVC";
#else
    return "unknown";
#endif
}
