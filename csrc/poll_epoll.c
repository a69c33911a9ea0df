/*
 * epoll (Linux). Edge-triggered: one epoll_ctl when a connection comes, none
 * when it pauses or has something to send; close(2) alone does not remove a
 * descriptor that a forked child still holds, so the mux deletes it first.
 *
 * Sub-millisecond waits need epoll_pwait2 (Linux 5.11), which glibc has since
 * 2.35 only, hence syscall(). Where the kernel lacks it (ENOSYS) or a sandbox
 * forbids it (EPERM), ppoll on the epoll descriptor waits as precisely.
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
    int no_pwait2;
    struct epoll_event events[ROOM];
} state_t;

static int epoll_open(void **state)
{
    state_t *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->fd = epoll_create1(EPOLL_CLOEXEC);
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
    close(s->fd);
    free(s);
}

static int epoll_add(void *state, int fd, uint64_t token, uint32_t what)
{
    state_t *s = state;
    struct epoll_event event = {
        .events = EPOLLRDHUP | EPOLLPRI | EPOLLET |
                  (what & PMX__IN ? EPOLLIN : 0u) |
                  (what & PMX__OUT ? EPOLLOUT : 0u),
        .data.u64 = token,
    };
    return epoll_ctl(s->fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static int epoll_mod(void *state, int fd, uint64_t token, uint32_t what)
{
    (void)state, (void)fd, (void)token, (void)what;
    return 0;
}

static int epoll_del(void *state, int fd)
{
    state_t *s = state;
    struct epoll_event unused = {0};
    return epoll_ctl(s->fd, EPOLL_CTL_DEL, fd, &unused) ? -errno : 0;
}

static int wait_precisely(state_t *s, int room, int64_t timeout_ns)
{
    struct timespec span = {
        .tv_sec = (time_t)(timeout_ns / 1000000000),
        .tv_nsec = (long)(timeout_ns % 1000000000),
    };
    if (!s->no_pwait2) {
        long n = syscall(SYS_epoll_pwait2, s->fd, s->events, room, &span,
                         NULL, (size_t)0);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n >= 0 ? (int)n : -errno;
        s->no_pwait2 = 1;
    }
    struct pollfd self = {.fd = s->fd, .events = POLLIN};
    int n = ppoll(&self, 1, &span, NULL);
    if (n > 0)
        n = epoll_wait(s->fd, s->events, room, 0);
    return n >= 0 ? n : -errno;
}

static int epoll_wait_(void *state, pmx__event *events, int room,
                       int64_t timeout_ns)
{
    state_t *s = state;
    if (room > ROOM)
        room = ROOM;
    int n;
    if (timeout_ns > 0) {
        n = wait_precisely(s, room, timeout_ns);
    } else {
        n = epoll_wait(s->fd, s->events, room, timeout_ns < 0 ? -1 : 0);
        n = n < 0 ? -errno : n;
    }
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

static int epoll_fileno(const void *state)
{
    return ((const state_t *)state)->fd;
}

const pmx__poller pmx__epoll = {
    "epoll", 1, 1,
    epoll_open, epoll_close_, epoll_add, epoll_mod, epoll_del,
    epoll_wait_, epoll_fileno,
};
#endif
