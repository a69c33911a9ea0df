/*
 * The contract of a backend.
 *
 * A poller watches descriptors, each with a token, and wait() fills an array
 * of (token, what happened). It knows nothing of connections.
 *
 * An edge-triggered one (edge = 1) watches what add() says from then on and
 * reports changes; mod() is never called. A level-triggered one watches what
 * add() and mod() say, PMX__IN, PMX__OUT, both, or 0: errors alone, if it can
 * (watches_errors). PMX__DROP asks for nothing at all, since hang-up and
 * error cannot be masked and would wake it for ever.
 *
 * PMX__LAST in an event says that the stream may end behind what is there:
 * receive until nothing comes. With PMX__ERROR may come the socket's error,
 * which is then perhaps not to be had from the socket any more. A wait that finds more than fits reports the
 * rest first the next time, so that nobody starves.
 *
 * All return >= 0 or -errno.
 */
#ifndef PMX_POLLER_H
#define PMX_POLLER_H

#include "net.h"

#ifdef __has_include
#if __has_include(<sys/event.h>)
#define PMX_HAVE_KQUEUE
#endif
#endif

enum pmx__what {
    PMX__IN = 1,
    PMX__OUT = 2,
    PMX__LAST = 4,
    PMX__ERROR = 8,
    PMX__DROP = 16
};

typedef struct {
    uint64_t token;
    uint32_t what;
    int32_t error;              /* 0, or the socket's error if it is known */
} pmx__event;

typedef struct {
    const char *name;
    int edge;
    int watches_errors;
    int (*open)(void **state);
    void (*close)(void *state);
    int (*add)(void *state, pmx_sock sock, uint64_t token, uint32_t what);
    int (*mod)(void *state, pmx_sock sock, uint64_t token, uint32_t what);
    int (*del)(void *state, pmx_sock sock);
    /* timeout_ns < 0 waits for ever; returns the number of events */
    int (*wait)(void *state, pmx__event *events, int room,
                int64_t timeout_ns);
    /* a descriptor that is readable when wait() has something, or -ENOTSUP */
    int (*fileno)(const void *state);
} pmx__poller;

extern const pmx__poller pmx__epoll;
extern const pmx__poller pmx__kqueue;
extern const pmx__poller pmx__poll;
extern const pmx__poller pmx__select;

/* By name, or the best that works for NULL; -EINVAL, or why it does not. */
int pmx__poller_open(const char *name, const pmx__poller **poller,
                     void **state);

#endif
