/* What the harness needs of the operating system. */
#include "injected.h"
#include "sim.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A test that needs more than half a minute is stuck, but for a machine that
 * is very slow. */
static void too_long(const char *name)
{
    fprintf(stderr, "TOO LONG: %s\n", name);
    fflush(stderr);
    _Exit(1);
}

static const char *volatile watched;

#ifdef _WIN32
#include <io.h>
#include <winsock2.h>

static volatile LONG64 end_at;      /* milliseconds, 0: none */

static DWORD WINAPI watch(void *unused)
{
    (void)unused;
    for (;;) {
        LONG64 end = end_at;
        if (end && (LONG64)GetTickCount64() > end)
            too_long(watched);
        Sleep(200);
    }
}

void test_restore(void)
{
}

void test_begin(void)
{
    HANDLE thread = CreateThread(NULL, 0, watch, NULL, 0, NULL);
    if (thread)
        CloseHandle(thread);
}

void test_watch(const char *name, int seconds)
{
    watched = name;
    end_at = seconds ? (LONG64)GetTickCount64() + seconds * 1000 : 0;
}

int test_descriptors(void)
{
    DWORD count = 0;            /* under Wine (8.0) it stays 0 */
    return GetProcessHandleCount(GetCurrentProcess(), &count) && count
               ? (int)count : -1;
}

int test_room_for(int descriptors)
{
    (void)descriptors;
    return 1;
}

int64_t test_cpu_ns(void)
{
    FILETIME begun, ended, kernel, user;
    GetProcessTimes(GetCurrentProcess(), &begun, &ended, &kernel, &user);
    return (int64_t)(((uint64_t)kernel.dwHighDateTime << 32 |
                      kernel.dwLowDateTime) +
                     ((uint64_t)user.dwHighDateTime << 32 |
                      user.dwLowDateTime)) * 100;
}

typedef struct {
    HANDLE handle;
    void (*run)(void *);
    void *argument;
} thread_t;

static DWORD WINAPI run(void *thread)
{
    ((thread_t *)thread)->run(((thread_t *)thread)->argument);
    return 0;
}

void *test_thread(void (*body)(void *), void *argument)
{
    thread_t *thread = calloc(1, sizeof *thread);
    CHECK(thread);
    thread->run = body;
    thread->argument = argument;
    thread->handle = CreateThread(NULL, 0, run, thread, 0, NULL);
    CHECK(thread->handle);
    return thread;
}

void test_join(void *thread)
{
    WaitForSingleObject(((thread_t *)thread)->handle, INFINITE);
    CloseHandle(((thread_t *)thread)->handle);
    free(thread);
}

/* As the interpreter writes to its wakeup descriptor. */
int test_write(int fd, const void *bytes, int size)
{
    return send((SOCKET)fd, bytes, size, 0);
}
#else
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static void late(int signal_number)
{
    (void)signal_number;
    too_long(watched);
}

static struct rlimit limit;

void test_restore(void)
{
    inject_nothing();
#ifdef __linux__
    if (sim_on)
        sim_end();
#endif
    setrlimit(RLIMIT_NOFILE, &limit);
}

void test_begin(void)
{
    signal(SIGALRM, late);
    getrlimit(RLIMIT_NOFILE, &limit);
}

void test_watch(const char *name, int seconds)
{
    watched = name;
    alarm((unsigned)seconds);
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

int test_room_for(int descriptors)
{
    struct rlimit now = limit;
    if (now.rlim_cur < (rlim_t)descriptors)
        now.rlim_cur = (rlim_t)descriptors;
    return now.rlim_cur <= now.rlim_max && !setrlimit(RLIMIT_NOFILE, &now);
}

int64_t test_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

typedef struct {
    pthread_t is;
    void (*run)(void *);
    void *argument;
} thread_t;

static void *run(void *thread)
{
    ((thread_t *)thread)->run(((thread_t *)thread)->argument);
    return NULL;
}

void *test_thread(void (*body)(void *), void *argument)
{
    thread_t *thread = calloc(1, sizeof *thread);
    CHECK(thread);
    thread->run = body;
    thread->argument = argument;
    CHECK(!pthread_create(&thread->is, NULL, run, thread));
    return thread;
}

void test_join(void *thread)
{
    pthread_join(((thread_t *)thread)->is, NULL);
    free(thread);
}

int test_write(int fd, const void *bytes, int size)
{
    return (int)write(fd, bytes, (size_t)size);
}
#endif
