/* The clock and the calls that wait: how they fail, tell of what is not, and
 * take no time. See injected.h. */
#include "injected.h"

#ifndef _WIN32
#include "poller.h"
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <sys/syscall.h>
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
#endif
#ifdef PMX_HAVE_KQUEUE
#include <sys/event.h>
#include <sys/time.h>
#endif
#include "injected_parts.h"
#include "sim_calls.h"

enum { FDS = 4096 };

int injected_stuck;

static int hasty;
static int64_t ahead;           /* of the system's clock */
static uint8_t again[FDS];
static int again_any;
#ifdef __linux__
static struct { int epoll; struct epoll_event is; } listed[FDS];
#endif

void inject_haste(int on)
{
    hasty = on;
    ahead = on ? ahead : 0;
    injected_stuck = 0;
}

void injected_again(int fd)
{
    again[fd] = 1;
    again_any = 1;
}

void injected_forget(int fd)
{
    if (fd >= FDS)
        return;
    again[fd] = 0;
#ifdef __linux__
    listed[fd].epoll = 0;
#endif
}

int sys_clock_gettime(int clock, struct timespec *now)
{
    int result = clock_gettime((clockid_t)clock, now);
    int64_t ns = (int64_t)now->tv_nsec + ahead;
    now->tv_sec += (time_t)(ns / 1000000000);
    now->tv_nsec = (long)(ns % 1000000000);
    return result;
}

/* What a peer has just sent may still be on its way: the kernel delivers some
 * of it in a thread of its own. */
enum { MOMENT = 100000 };       /* ns */
static int breathe(void)
{
    const struct timespec span = {0, MOMENT};
    return !nanosleep(&span, NULL);
}

/* Nothing has happened in a wait for so long (-1: for ever). */
static void pass(int64_t ns)
{
    if (ns < 0)
        injected_stuck = 1;
    else
        ahead += ns;
}

#ifdef __linux__
int sys_epoll_create1(int flags)
{
    injected_inheritable += !(flags & EPOLL_CLOEXEC);
    return injected_fails(CALL_epoll_create1) ? -1 : epoll_create1(flags);
}

int sys_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
    if (what == EPOLL_CTL_ADD && injected_fails(CALL_epoll_add))
        return -1;
    int result = epoll_ctl(epoll, what, fd, event);
    if (!result && fd < FDS) {
        listed[fd].epoll = what == EPOLL_CTL_DEL ? 0 : epoll;
        listed[fd].is = *event;
    }
    return result;
}

/* An edge for who was sent away though there was something. */
static void make_edges(int epoll)
{
    int others = 0;             /* that another epoll watches */
    for (int fd = 0; again_any && fd < FDS; fd++) {
        if (again[fd] && listed[fd].epoll == epoll) {
            (void)epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &listed[fd].is);
            again[fd] = 0;
        }
        others |= again[fd];
    }
    again_any = others;
}

/* All that are watched are said to be ready, one event each. */
static int all_ready(int epoll, struct epoll_event *events, int n, int room)
{
    for (int fd = 0; fd < FDS; fd++) {
        int k = 0;
        if (listed[fd].epoll != epoll)
            continue;
        uint32_t what = listed[fd].is.events & (EPOLLIN | EPOLLOUT);
        while (k < n && events[k].data.u64 != listed[fd].is.data.u64)
            k++;
        if (k == n && n < room)
            events[n++] = (struct epoll_event){0, listed[fd].is.data};
        if (k < n)
            events[k].events |= what;
    }
    return n;
}

static int epoll_for(enum injected_call call, int epoll,
                     struct epoll_event *events, int room, int64_t ns)
{
    int error = injected_fate(call);
    make_edges(epoll);
    if (error == SPURIOUS) {
        int n = epoll_wait(epoll, events, room, 0);
        return n < 0 ? n : all_ready(epoll, events, n, room);
    }
    if (error) {
        errno = error;
        return -1;
    }
    if (hasty && ns) {
        int n = epoll_wait(epoll, events, room, 0);
        if (!n && breathe())
            n = epoll_wait(epoll, events, room, 0);
        if (!n)
            pass(ns);
        return n;
    }
    if (call == CALL_epoll_wait)
        return epoll_wait(epoll, events, room, ns < 0 ? -1 : 0);
    const int64_t span[2] = {ns / 1000000000, ns % 1000000000};
    return (int)syscall(SYS_epoll_pwait2, epoll, events, room, span, NULL,
                        (size_t)0);
}

int sys_epoll_pwait2(int epoll, struct epoll_event *events, int room,
                     const int64_t *span)
{
    return epoll_for(CALL_epoll_pwait2, epoll, events, room,
                     span[0] * 1000000000 + span[1]);
}

int sys_epoll_wait(int epoll, struct epoll_event *events, int room, int ms)
{
    return epoll_for(CALL_epoll_wait, epoll, events, room, ms);
}
#endif

/* As poll; ns < 0 is for ever. */
static int poll_for(struct pollfd *fds, unsigned long count, int64_t ns)
{
    int error = injected_fate(CALL_poll);
    if (error == SPURIOUS) {
        int n = 0;
        (void)poll(fds, (nfds_t)count, 0);
        for (unsigned long i = 0; i < count; i++) {
            if (fds[i].fd >= 0)
                fds[i].revents |= fds[i].events;
            n += !!fds[i].revents;
        }
        return n;
    }
    if (error) {
        errno = error;
        return -1;
    }
    if (hasty && ns) {
        int n = poll(fds, (nfds_t)count, 0);
        if (!n && breathe())
            n = poll(fds, (nfds_t)count, 0);
        if (!n)
            pass(ns);
        return n;
    }
#ifdef __linux__
    const struct timespec span = {(time_t)(ns / 1000000000),
                                  (long)(ns % 1000000000)};
    return ppoll(fds, (nfds_t)count, ns < 0 ? NULL : &span, NULL);
#else
    return poll(fds, (nfds_t)count, ns < 0 ? -1 : (int)(ns / 1000000));
#endif
}

int sys_poll(struct pollfd *fds, unsigned long count, int ms)
{
    return poll_for(fds, count, ms < 0 ? -1 : (int64_t)ms * 1000000);
}

int sys_ppoll(struct pollfd *fds, unsigned long count,
              const struct timespec *span, const void *mask)
{
    CHECK(!mask);
#ifdef __linux__
    if (count)
        make_edges(fds[0].fd);  /* of an epoll that cannot wait for so short */
#endif
    return poll_for(fds, count,
                    span ? (int64_t)span->tv_sec * 1000000000 + span->tv_nsec
                         : -1);
}

int sys_select(int count, fd_set *in, fd_set *out, fd_set *failed,
               struct timeval *span)
{
    int error = injected_fate(CALL_select);
    if (error == SPURIOUS) {
        int n = 0;
        for (int fd = 0; fd < count; fd++)
            n += !!FD_ISSET(fd, in) + !!FD_ISSET(fd, out);
        return n;
    }
    if (error) {
        errno = error;
        return -1;
    }
    int64_t ns = span ? (int64_t)span->tv_sec * 1000000000 +
                            span->tv_usec * 1000 : -1;
    struct timeval moment = {0, ns ? MOMENT / 1000 : 0};
    int n = select(count, in, out, failed, hasty ? &moment : span);
    if (hasty && !n && ns)
        pass(ns);
    return n;
}

#ifdef PMX_HAVE_KQUEUE
int sys_kqueue(void)
{
    return injected_fails(CALL_kqueue) ? -1 : kqueue();
}

#if defined(__NetBSD__) || defined(KQUEUE_CLOEXEC)
int sys_kqueue1(int flags)
{
    return injected_fails(CALL_kqueue) ? -1 : kqueue1(flags);
}
#endif

int injected_kevent(int fd, const struct kevent *changes, int count,
                    struct kevent *events, int room,
                    const struct timespec *span)
{
    if (injected_fails(CALL_kevent))
        return -1;
#ifdef __NetBSD__
    return kevent(fd, changes, (size_t)count, events, (size_t)room, span);
#else
    return kevent(fd, changes, count, events, room, span);
#endif
}
#endif
#else
typedef int injected_no_waits;  /* a file must not be empty */
#endif
