/*
 * kqueue (macOS, the BSDs). EV_CLEAR makes the read filter edge-triggered, so
 * it is added once. The write filter is EV_ONESHOT, and added again when the
 * kernel has refused a send. An edge-triggered write filter would report an
 * event for each acknowledgement that frees room, so one a message (sowakeup()
 * in uipc_sockbuf.c of FreeBSD 15). A selector uses neither flag, and adds and
 * deletes filters as interest changes. The filters are not counted: to add one
 * twice changes nothing, and to delete a missing one is a harmless ENOENT.
 *
 * EV_RECEIPT gives each change an entry of its own for the answer, so a failed
 * change cannot be taken for a pending event, and no event is lost meanwhile.
 * (Mac OS X 10.5 and FreeBSD 8.1 have it, the others since.) Without it each
 * call makes one change and has no room for events, so a failed call is a
 * failed change.
 *
 * EV_EOF on the read filter means that the peer has ended its stream; unread
 * data may come before the end. fflags then holds the socket's error, if any,
 * and the socket keeps the error too. EV_EOF on the write filter means that
 * the peer no longer reads, or that we have shut down writing. (kqueue(2) of
 * FreeBSD 15, NetBSD 10 and macOS 14; filt_sowrite_common in
 * bsd/kern/uipc_socket.c of https://github.com/apple-oss-distributions/xnu.)
 *
 * Tokens are kept by descriptor, since udata is not 64 bits wide everywhere.
 * udata is an intptr_t in NetBSD before 10 and void * elsewhere; 0 fits both.
 *
 * Without NOTE_LOWAT a filter uses SO_RCVLOWAT, which is one byte, and
 * SO_SNDLOWAT, which send() uses too.
 *
 * fork(2) does not pass on a kqueue. In the child its number is free or means
 * another file (https://github.com/python/cpython/issues/110395), so the child
 * leaves it alone. Closing a descriptor deletes its filters.
 *
 * Linux has only libraries that emulate kqueue. libkqueue 2.7 (2026-07,
 * https://github.com/mheily/libkqueue) clears the socket's error when it puts
 * the error into fflags. It does not report an end that comes with data. Its
 * descriptor never becomes readable. It refuses to add a filter twice, reports
 * at most 512 events at once, and loses edges when more than 256 descriptors
 * are ready at once. Before 2.4 it cannot watch both directions of a
 * descriptor; the probe finds that out.
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

#ifdef __NetBSD__
typedef size_t count_t;
#else
typedef int count_t;
#endif

#ifdef EV_RECEIPT
enum { RECEIPT = EV_RECEIPT };
#else
enum { RECEIPT = 0 };
#endif

typedef struct {
    int fd;
    int level;
    uint32_t forks;
    uint64_t *tokens;           /* by descriptor, unless level */
    uint32_t tokens_room;
    struct kevent events[];     /* ROOM of them, unless level */
} state_t;

static int kqueue_open(void **state, int level)
{
    size_t room = level ? 0 : ROOM;
    state_t *s = sys_calloc(1, sizeof *s + room * sizeof *s->events);
    if (!s)
        return -ENOMEM;
    s->level = level;
    s->forks = pmx__forks();
#if defined(__NetBSD__) || defined(KQUEUE_CLOEXEC)      /* FreeBSD 14 */
    s->fd = sys_kqueue1(O_CLOEXEC);
#else
    s->fd = sys_kqueue();
#endif
    if (s->fd < 0) {
        int error = -errno;
        free(s);
        return error;
    }
#if !defined(__NetBSD__) && !defined(KQUEUE_CLOEXEC)
    (void)sys_fcntl(s->fd, F_SETFD, FD_CLOEXEC);
#endif
    *state = s;
    return 0;
}

static int is_ours(const state_t *s)
{
    return s->fd >= 0 && (EMULATED || s->forks == pmx__forks());
}

static void kqueue_shut(void *state)
{
    state_t *s = state;
    if (is_ours(s))
        sys_close(s->fd);
    s->fd = -1;
}

static void kqueue_close(void *state)
{
    state_t *s = state;
    kqueue_shut(s);
    free(s->tokens);
    free(s);
}

/* Deleting a filter that does not exist is no error. */
static int error_of(const struct kevent *made, int error)
{
    int gone = error == ENOENT || error == EBADF;
    return gone && made->flags & EV_DELETE ? 0 : -error;
}

/* Apply one or two changes, and return the first error. EINTR interrupts the
 * wait but not the changes: "all changes in the changelist have been applied"
 * (kevent(2) of FreeBSD). To apply them again does no harm. */
static int change(const state_t *s, struct kevent *changes, count_t count)
{
    struct kevent receipts[2];
    const struct timespec at_once = {0, 0};
    int first = 0;
    if (!is_ours(s))
        return -EBADF;
    for (count_t i = 0; i < count; i += RECEIPT ? count : 1) {
        int n;
        do
            n = RECEIPT ? sys_kevent(s->fd, changes, count, receipts, count,
                                     &at_once)
                        : sys_kevent(s->fd, &changes[i], 1, NULL, 0, &at_once);
        while (n < 0 && errno == EINTR);
        if (n < 0) {
            int error = RECEIPT ? -errno : error_of(&changes[i], errno);
            first = first ? first : error;
        }
        for (int k = 0; k < n; k++)
            if (receipts[k].flags & EV_ERROR && receipts[k].data && !first)
                first = error_of(&changes[k], (int)receipts[k].data);
    }
    return first;
}

static int keep_token(state_t *s, int fd, uint64_t token)
{
    if ((uint32_t)fd >= s->tokens_room) {
        uint32_t room = s->tokens_room ? s->tokens_room : 64;
        while (room <= (uint32_t)fd)
            room *= 2;
        uint64_t *grown = sys_realloc(s->tokens, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        s->tokens = grown;
        s->tokens_room = room;
    }
    s->tokens[fd] = token;
    return 0;
}

/* Add the filters of the directions in `wanted`; delete those in `rest`. */
static int set(const state_t *s, int fd, uint32_t wanted, uint32_t rest)
{
    struct kevent changes[2];
    const int in = EV_ADD | RECEIPT | (s->level ? 0 : EV_CLEAR);
    const int out = EV_ADD | RECEIPT | (s->level ? 0 : EV_ONESHOT);
    const int delete = EV_DELETE | RECEIPT;
    count_t count = 0;
    if ((wanted | rest) & PMX__IN)
        EV_SET(&changes[count++], (uintptr_t)fd, EVFILT_READ,
               (uint16_t)(wanted & PMX__IN ? in : delete), 0, 0, 0);
    if ((wanted | rest) & PMX__OUT)
        EV_SET(&changes[count++], (uintptr_t)fd, EVFILT_WRITE,
               (uint16_t)(wanted & PMX__OUT ? out : delete), 0, 0, 0);
    return change(s, changes, count);
}

static int kqueue_del(void *state, int fd)
{
    return set(state, fd, 0, PMX__IN | PMX__OUT);
}

/* The kernel may refuse only one of two filters: EPIPE for the write end of a
 * pipe without a reader (pipe_kqfilter in sys/kern/sys_pipe.c of FreeBSD 15;
 * OS X 10.11, https://github.com/tokio-rs/mio/issues/582). Then delete both. */
static int kqueue_add(void *state, int fd, uint64_t token, uint32_t what)
{
    state_t *s = state;
    int error = s->level ? 0 : keep_token(s, fd, token);
    if (!error)
        error = set(s, fd, what, 0);
    if (error)
        (void)kqueue_del(s, fd);
    return error;
}

static int kqueue_mod(void *state, int fd, uint64_t token, uint32_t what)
{
    const state_t *s = state;
    (void)token;
    if (s->level && EMULATED)
        (void)kqueue_del(state, fd);
    return s->level ? set(s, fd, what, ~what) : 0;
}

/* A write filter that has not fired yet stays as it is; an emulated kqueue
 * calls that an error. */
static int kqueue_arm(void *state, int fd)
{
    int error = set(state, fd, PMX__OUT, 0);
    return error == -EEXIST ? 0 : error;
}

/* Wait for at most a day: beyond INT32_MAX seconds FreeBSD waits for ever. */
static int wait_for(const state_t *s, struct kevent *events, int room,
                    int64_t timeout_ns)
{
    struct timespec span = {0, 0};
    if (!is_ours(s))
        return -EBADF;
    if (timeout_ns > 0) {
        int64_t seconds = timeout_ns / 1000000000;
        span.tv_sec = seconds < 86400 ? (time_t)seconds : 86400;
        span.tv_nsec = (long)(timeout_ns % 1000000000);
    }
    int n = sys_kevent(s->fd, NULL, 0, events, (count_t)room,
                       timeout_ns < 0 ? NULL : &span);
    return n >= 0 ? n : -errno;
}

static int kqueue_wait(void *state, pmx__event *events, int room,
                       int64_t timeout_ns)
{
    state_t *s = state;
    int n = wait_for(s, s->events, room < ROOM ? room : ROOM, timeout_ns);
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
        events[count++] = (pmx__event){s->tokens[e->ident], what, error};
    }
    return n < 0 ? n : count;
}

/* A descriptor that is ready both ways has two entries. */
static int kqueue_look(void *state, pmx_ready *ready, int64_t timeout_ns)
{
    struct kevent *events =
        pmx__ready_memory(ready, (size_t)ready->room * sizeof *events);
    if (!events)
        return -ENOMEM;
    int n = wait_for(state, events, (int)ready->room, timeout_ns);
    for (int i = 0; i < n; i++)
        ready->found[i] =
            (int64_t)events[i].ident << 2 |
            (events[i].filter == EVFILT_WRITE ? PMX__OUT : PMX__IN);
    return n;
}

static int kqueue_fileno(const void *state)
{
    return EMULATED ? -ENOTSUP : ((const state_t *)state)->fd;
}

const pmx__poller pmx__kqueue = {
    "kqueue", 1, 1, 0,
    kqueue_open, kqueue_close, kqueue_add, kqueue_mod, kqueue_del,
    kqueue_wait, kqueue_fileno, kqueue_look, kqueue_shut, kqueue_arm,
};
#else
typedef int pmx__no_kqueue;     /* a file must not be empty */
#endif
