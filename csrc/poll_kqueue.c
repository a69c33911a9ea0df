/*
 * kqueue (macOS, the BSDs). EV_CLEAR makes it edge-triggered: a filter for
 * each direction is added once. EV_RECEIPT turns the answer to each change
 * into an entry of its own, so that a failed change is told apart from a
 * pending event and no event is lost while changes are made.
 *
 * EV_EOF on the read filter is the peer's end, with data perhaps still to be
 * read before it; fflags then holds the socket's error, if any. Tokens are
 * kept by descriptor, since udata is not 64 bits wide everywhere.
 *
 * Linux has no kqueue but libraries that emulate it: libkqueue 2.7 (2026-07,
 * https://github.com/mheily/libkqueue) takes the error off the socket to put
 * it into fflags, does not tell of an end that comes with data, gives out a
 * descriptor that never becomes readable, and loses events where more than
 * 256 descriptors are ready at once. Before 2.4 it cannot watch both
 * directions of one descriptor, which the probe finds out.
 */
#include "poller.h"

#ifdef PMX_HAVE_KQUEUE
#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/event.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
enum { ROOM = 1024, EMULATED = 1 };
#else
enum { ROOM = 1024, EMULATED = 0 };
#endif

typedef struct {
    int fd;
    uint64_t *tokens;           /* by descriptor */
    uint32_t tokens_room;
    struct kevent events[ROOM];
} state_t;

static int kqueue_open(void **state)
{
    state_t *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->fd = kqueue();
    if (s->fd < 0) {
        int error = -errno;
        free(s);
        return error;
    }
    (void)fcntl(s->fd, F_SETFD, FD_CLOEXEC);
    *state = s;
    return 0;
}

static void kqueue_close(void *state)
{
    state_t *s = state;
    close(s->fd);
    free(s->tokens);
    free(s);
}

/* Apply one or two changes; the first error among the receipts. */
static int change(state_t *s, struct kevent *changes, int count)
{
    struct kevent receipts[2];
    const struct timespec at_once = {0, 0};
    int n;
    do
        n = kevent(s->fd, changes, count, receipts, count, &at_once);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    for (int i = 0; i < n; i++)
        if (receipts[i].flags & EV_ERROR && receipts[i].data)
            return -(int)receipts[i].data;
    return 0;
}

static int kqueue_add(void *state, int fd, uint64_t token, uint32_t what)
{
    state_t *s = state;
    struct kevent changes[2];
    int count = 0;

    if ((uint32_t)fd >= s->tokens_room) {
        uint32_t room = s->tokens_room ? s->tokens_room : 64;
        while (room <= (uint32_t)fd)
            room *= 2;
        uint64_t *grown = realloc(s->tokens, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        s->tokens = grown;
        s->tokens_room = room;
    }
    s->tokens[fd] = token;
    if (what & PMX__IN)
        EV_SET(&changes[count++], (uintptr_t)fd, EVFILT_READ,
               EV_ADD | EV_CLEAR | EV_RECEIPT, 0, 0, 0);
    if (what & PMX__OUT)
        EV_SET(&changes[count++], (uintptr_t)fd, EVFILT_WRITE,
               EV_ADD | EV_CLEAR | EV_RECEIPT, 0, 0, 0);
    return change(s, changes, count);
}

static int kqueue_mod(void *state, int fd, uint64_t token, uint32_t what)
{
    (void)state, (void)fd, (void)token, (void)what;
    return 0;
}

static int kqueue_del(void *state, int fd)
{
    state_t *s = state;
    struct kevent changes[2];
    EV_SET(&changes[0], (uintptr_t)fd, EVFILT_READ, EV_DELETE | EV_RECEIPT,
           0, 0, 0);
    EV_SET(&changes[1], (uintptr_t)fd, EVFILT_WRITE, EV_DELETE | EV_RECEIPT,
           0, 0, 0);
    int error = change(s, changes, 2);
    /* a filter that was never added, or went with its descriptor */
    return error == -ENOENT || error == -EBADF ? 0 : error;
}

static int kqueue_wait(void *state, pmx__event *events, int room,
                       int64_t timeout_ns)
{
    state_t *s = state;
    if (room > ROOM)
        room = ROOM;
    struct timespec span = {0, 0};
    if (timeout_ns > 0) {
        span.tv_sec = (time_t)(timeout_ns / 1000000000);
        span.tv_nsec = (long)(timeout_ns % 1000000000);
    }
    int n = kevent(s->fd, NULL, 0, s->events, room,
                   timeout_ns < 0 ? NULL : &span);
    if (n < 0)
        return -errno;
    int count = 0;
    for (int i = 0; i < n; i++) {
        const struct kevent *e = &s->events[i];
        if (e->ident >= s->tokens_room)
            continue;
        uint32_t what = e->filter == EVFILT_WRITE ? PMX__OUT : PMX__IN;
        int32_t error = e->flags & EV_EOF ? (int32_t)e->fflags : 0;
        if (e->flags & EV_EOF)
            what |= PMX__IN | PMX__LAST | (error ? PMX__ERROR : 0);
        if (e->flags & EV_ERROR)
            what |= PMX__IN | PMX__OUT | PMX__LAST | PMX__ERROR;
        if (EMULATED && what & PMX__IN)
            what |= PMX__LAST;
        events[count++] = (pmx__event){
            s->tokens[e->ident], what, error == EPIPE ? ECONNRESET : error};
    }
    return count;
}

static int kqueue_fileno(const void *state)
{
    return EMULATED ? -ENOTSUP : ((const state_t *)state)->fd;
}

const pmx__poller pmx__kqueue = {
    "kqueue", 1, 1,
    kqueue_open, kqueue_close, kqueue_add, kqueue_mod, kqueue_del,
    kqueue_wait, kqueue_fileno,
};
#else
typedef int pmx__no_kqueue;     /* a file must not be empty */
#endif
