/*
 * epoll (Linux). For a mux it is edge-triggered: a new connection costs one
 * epoll_ctl; a pause or queued output costs none. close(2) alone does not
 * remove a descriptor that a forked child still holds, so the mux deletes the
 * descriptor first. For a selector epoll is level-triggered.
 *
 * Sub-millisecond waits need epoll_pwait2 (Linux 5.11). glibc has it only
 * since 2.35, so we use syscall(). Where the kernel lacks the call (ENOSYS) or
 * a sandbox forbids it (EPERM), ppoll on the epoll descriptor is as precise.
 */
#ifdef __linux__
#define _GNU_SOURCE
#include "poller.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

enum { ROOM = 1024 };

typedef struct {
    int fd;
    int level;
    int no_pwait2;
    struct epoll_event events[]; /* ROOM of them, unless level */
} state_t;

static int epoll_open(void **state, int level)
{
    size_t room = level ? 0 : ROOM;
    state_t *s = sys_calloc(1, sizeof *s + room * sizeof *s->events);
    if (!s)
        return -ENOMEM;
    s->level = level;
    s->fd = sys_epoll_create1(EPOLL_CLOEXEC);
    if (s->fd < 0) {
        int error = -errno;
        free(s);
        return error;
    }
    *state = s;
    return 0;
}

static void epoll_close_(void *state)
{
    state_t *s = state;
    if (s->fd >= 0)
        sys_close(s->fd);
    free(s);
}

static void epoll_shut(void *state)
{
    state_t *s = state;
    sys_close(s->fd);
    s->fd = -1;
}

static int change(const state_t *s, int op, int fd, uint64_t token,
                  uint32_t what)
{
    struct epoll_event event = {
        .events = (s->level ? 0u : EPOLLRDHUP | EPOLLPRI | EPOLLET) |
                  (what & PMX__IN ? EPOLLIN : 0u) |
                  (what & PMX__OUT ? EPOLLOUT : 0u),
        .data.u64 = token,
    };
    return sys_epoll_ctl(s->fd, op, fd, &event) ? -errno : 0;
}

static int epoll_add(void *state, int fd, uint64_t token, uint32_t what)
{
    return change(state, EPOLL_CTL_ADD, fd, token, what);
}

static int epoll_mod(void *state, int fd, uint64_t token, uint32_t what)
{
    const state_t *s = state;
    return s->level ? change(s, EPOLL_CTL_MOD, fd, token, what) : 0;
}

static int epoll_del(void *state, int fd)
{
    state_t *s = state;
    struct epoll_event unused = {0};
    return sys_epoll_ctl(s->fd, EPOLL_CTL_DEL, fd, &unused) ? -errno : 0;
}

static int wait_precisely(state_t *s, struct epoll_event *events, int room,
                          int64_t timeout_ns)
{
    struct timespec span = {
        .tv_sec = (time_t)(timeout_ns / 1000000000),
        .tv_nsec = (long)(timeout_ns % 1000000000),
    };
    if (!s->no_pwait2) {
        /* the kernel's timespec; libc's is smaller on 32 bits */
        const int64_t exact[2] = {timeout_ns / 1000000000,
                                  timeout_ns % 1000000000};
        long n = sys_epoll_pwait2(s->fd, events, room, exact);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n >= 0 ? (int)n : -errno;
        s->no_pwait2 = !s->level;   /* threads share a selector's state */
    }
    struct pollfd self = {.fd = s->fd, .events = POLLIN};
    int n = sys_ppoll(&self, 1, &span, NULL);
    if (n > 0)
        n = sys_epoll_wait(s->fd, events, room, 0);
    return n >= 0 ? n : -errno;
}

static int wait_for(state_t *s, struct epoll_event *events, int room,
                    int64_t timeout_ns)
{
    if (timeout_ns > 0)
        return wait_precisely(s, events, room, timeout_ns);
    int n = sys_epoll_wait(s->fd, events, room, timeout_ns < 0 ? -1 : 0);
    return n >= 0 ? n : -errno;
}

static int epoll_wait_(void *state, pmx__event *events, int room,
                       int64_t timeout_ns)
{
    state_t *s = state;
    int n = wait_for(s, s->events, room < ROOM ? room : ROOM, timeout_ns);
    for (int i = 0; i < n; i++) {
        uint32_t e = s->events[i].events;
        uint32_t what = 0;
        if (e & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            what |= PMX__IN;
        if (e & (EPOLLOUT | EPOLLHUP | EPOLLERR))
            what |= PMX__OUT;
        if (e & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI))
            what |= PMX__LAST;
        if (e & (EPOLLHUP | EPOLLERR))
            what |= PMX__ERROR;
        events[i] = (pmx__event){s->events[i].data.u64, what, 0};
    }
    return n;
}

/* The kernel always reports hang-up and errors. Report them as the events that
 * were asked for, as the standard library's selectors do. */
static int epoll_look(void *state, pmx_ready *ready, int64_t timeout_ns)
{
    size_t size = (size_t)ready->room * sizeof(struct epoll_event);
    struct epoll_event *events = pmx__ready_memory(ready, size);
    if (!events)
        return -ENOMEM;
    int n = wait_for(state, events, (int)ready->room, timeout_ns);
    for (int i = 0; i < n; i++) {
        uint32_t e = events[i].events;
        uint64_t what = (e & ~(uint32_t)EPOLLOUT ? PMX__IN : 0u) |
                        (e & ~(uint32_t)EPOLLIN ? PMX__OUT : 0u);
        uint64_t others = PMX__IN | PMX__OUT;
        ready->found[i] = (int64_t)(events[i].data.u64 & (what | ~others));
    }
    return n;
}

static int epoll_fileno(const void *state)
{
    return ((const state_t *)state)->fd;
}

const pmx__poller pmx__epoll = {
    "epoll", 1, 1, 0,
    epoll_open, epoll_close_, epoll_add, epoll_mod, epoll_del,
    epoll_wait_, epoll_fileno, epoll_look, epoll_shut, NULL,
};
#else
typedef int pmx__no_epoll;      /* a file must not be empty */
#endif
