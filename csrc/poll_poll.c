/*
 * poll: every OS but Windows. The array of descriptors is ours, so a change of
 * interest is a store. poll cannot mask hang-up and error, but skips negative
 * numbers, so a descriptor without interest is written as ~fd. The search for
 * ready descriptors starts where the last wait stopped, so that the first ones
 * do not starve the rest. A selector waits on a copy of the array, which costs
 * little beside the kernel's work on each entry.
 */
#ifndef _WIN32
#ifdef __linux__
#define _GNU_SOURCE             /* ppoll */
#endif
#include "poller.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    struct pollfd *fds;
    uint64_t *tokens;
    uint32_t count;
    uint32_t room;
    uint32_t next;              /* the first entry to look at */
    uint32_t *places;           /* by descriptor: index in fds, plus 1 */
    uint32_t places_room;
} state_t;

static int poll_open(void **state, int level)
{
    (void)level;
    *state = sys_calloc(1, sizeof(state_t));
    return *state ? 0 : -ENOMEM;
}

static void poll_close(void *state)
{
    state_t *s = state;
    free(s->fds);
    free(s->tokens);
    free(s->places);
    free(s);
}

static int grow(void *array, uint32_t *room, uint32_t least, size_t item)
{
    void *old;
    memcpy(&old, array, sizeof old);
    uint32_t wanted = *room ? *room : 64;
    while (wanted < least)
        wanted *= 2;
    void *grown = sys_realloc(old, wanted * item);
    if (!grown)
        return -ENOMEM;
    memcpy(array, &grown, sizeof grown);
    *room = wanted;
    return 0;
}

static void set(struct pollfd *entry, int fd, uint32_t what)
{
    entry->fd = what & PMX__DROP ? ~fd : fd;
    entry->events = (short)((what & PMX__IN ? POLLIN : 0) |
                            (what & PMX__OUT ? POLLOUT : 0));
    entry->revents = 0;
}

static int poll_add(void *state, int fd, uint64_t token, uint32_t what)
{
    state_t *s = state;
    if (s->count == s->room) {
        uint32_t room = s->room;
        if (grow(&s->tokens, &room, s->count + 1, sizeof *s->tokens) ||
            grow(&s->fds, &s->room, s->count + 1, sizeof *s->fds))
            return -ENOMEM;
    }
    uint32_t known = s->places_room;
    if ((uint32_t)fd >= known) {
        if (grow(&s->places, &s->places_room, (uint32_t)fd + 1,
                 sizeof *s->places))
            return -ENOMEM;
        memset(s->places + known, 0,
               (s->places_room - known) * sizeof *s->places);
    }
    if (s->places[fd])
        return -EEXIST;
    s->places[fd] = s->count + 1;
    s->tokens[s->count] = token;
    set(&s->fds[s->count++], fd, what);
    return 0;
}

static int is_watched(const state_t *s, int fd)
{
    return (uint32_t)fd < s->places_room && s->places[fd];
}

static int poll_mod(void *state, int fd, uint64_t token, uint32_t what)
{
    state_t *s = state;
    (void)token;
    if (!is_watched(s, fd))
        return -ENOENT;
    set(&s->fds[s->places[fd] - 1], fd, what);
    return 0;
}

static int poll_del(void *state, int fd)
{
    state_t *s = state;
    if (!is_watched(s, fd))
        return -ENOENT;
    uint32_t place = s->places[fd] - 1;
    uint32_t last = --s->count;
    s->places[fd] = 0;
    if (place != last) {
        int moved = s->fds[last].fd;
        s->fds[place] = s->fds[last];
        s->tokens[place] = s->tokens[last];
        s->places[moved < 0 ? ~moved : moved] = place + 1;
    }
    return 0;
}

static int wait_for(struct pollfd *fds, uint32_t count, int64_t timeout_ns)
{
#if defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__)
    struct timespec span = {
        .tv_sec = (time_t)(timeout_ns / 1000000000),
        .tv_nsec = (long)(timeout_ns % 1000000000),
    };
    return sys_ppoll(fds, count, timeout_ns < 0 ? NULL : &span, NULL);
#else
    int64_t ms = timeout_ns < 0 ? -1 : timeout_ns / 1000000 +
                                       (timeout_ns % 1000000 != 0);
    return sys_poll(fds, count, ms > INT_MAX ? INT_MAX : (int)ms);
#endif
}

static int poll_wait(void *state, pmx__event *events, int room,
                     int64_t timeout_ns)
{
    state_t *s = state;
    int ready = wait_for(s->fds, s->count, timeout_ns);
    if (ready < 0)
        return -errno;
    int n = 0;
    uint32_t at = s->next < s->count ? s->next : 0;
    for (uint32_t seen = 0; seen < s->count && n < ready && n < room;
         seen++, at = at + 1 < s->count ? at + 1 : 0) {
        int e = s->fds[at].revents;
        if (!e || s->fds[at].fd < 0)
            continue;
        uint32_t what = 0;
        if (e & (POLLIN | POLLHUP | POLLERR | POLLNVAL))
            what |= PMX__IN;
        if (e & (POLLOUT | POLLHUP | POLLERR | POLLNVAL))
            what |= PMX__OUT;
        if (e & (POLLHUP | POLLERR | POLLNVAL))
            what |= PMX__LAST | PMX__ERROR;
        events[n++] = (pmx__event){s->tokens[at], what, 0};
    }
    s->next = at;
    return n;
}

static struct pollfd *copy(const state_t *s, pmx_ready *ready, uint32_t *count)
{
    pmx__guard();
    size_t size = s->count * sizeof *s->fds;
    struct pollfd *fds = pmx__ready_memory(ready, size);
    if (fds && size)
        memcpy(fds, s->fds, size);
    *count = s->count;
    pmx__unguard();
    return fds;
}

/* poll always reports hang-up, errors and a closed descriptor. Report them as
 * the events that were asked for, as the standard library's selectors do. */
static int poll_look(void *state, pmx_ready *ready, int64_t timeout_ns)
{
    uint32_t count;
    struct pollfd *fds = copy(state, ready, &count);
    if (!fds)
        return -ENOMEM;
    int left = wait_for(fds, count, timeout_ns);
    if (left < 0)
        return -errno;
    int n = 0;
    for (uint32_t i = 0; left && n < (int)ready->room; i++) {
        int e = fds[i].revents, asked = fds[i].events;
        if (!e)
            continue;
        left--;
        ready->found[n++] = (int64_t)fds[i].fd << 2 |
                            (asked & POLLIN && e & ~POLLOUT ? PMX__IN : 0) |
                            (asked & POLLOUT && e & ~POLLIN ? PMX__OUT : 0);
    }
    return n;
}

static void poll_shut(void *state)
{
    (void)state;
}

static int poll_fileno(const void *state)
{
    (void)state;
    return -ENOTSUP;
}

const pmx__poller pmx__poll = {
    "poll", 0, 1, 1,
    poll_open, poll_close, poll_add, poll_mod, poll_del,
    poll_wait, poll_fileno, poll_look, poll_shut, NULL,
};
#else
typedef int pmx__no_poll;       /* a file must not be empty */
#endif
