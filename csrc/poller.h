/*
 * The contract of a backend.
 *
 * A poller watches descriptors, each with a token, and wait() fills an array
 * of (token, what happened). It knows nothing of connections.
 *
 * An edge-triggered one (edge = 1) watches what add() says from then on and
 * reports changes; mod() is never called. One that reports PMX__OUT once only
 * has arm(), which is called whenever the kernel has refused to take bytes, or
 * a dialled socket is not connected yet after all: then PMX__OUT is reported
 * once more, at once if it can take bytes by now. A level-triggered one watches what
 * add() and mod() say, PMX__IN, PMX__OUT, both, or 0: errors alone, if it can
 * (watches_errors). PMX__DROP asks for nothing at all, since hang-up and
 * error cannot be masked and would wake it for ever.
 *
 * PMX__LAST in an event says that the stream may end behind what is there:
 * receive until nothing comes. With PMX__ERROR may come the socket's error,
 * which is then perhaps not to be had from the socket any more. A wait that
 * finds more than fits reports the rest first the next time, so that nobody
 * starves.
 *
 * A selector (watch.c) opens its poller with `level`: then every poller is
 * level-triggered, reports what add() and mod() ask for and nothing else, and
 * a token is number << 2 | PMX__IN | PMX__OUT, what is asked for. look() takes
 * the place of wait(). Several threads may be in look() at once, while others
 * add, mod and del: it waits on memory that is the caller's own, and
 * pollers with tables of their own (`guarded`) copy them under the guard,
 * under which they are changed.
 *
 * All return >= 0 or -errno. add() of what is there is -EEXIST, mod() and
 * del() of what is not -ENOENT, where the poller or its kernel knows.
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
    int guarded;
    int (*open)(void **state, int level);
    void (*close)(void *state);
    int (*add)(void *state, pmx_sock sock, uint64_t token, uint32_t what);
    int (*mod)(void *state, pmx_sock sock, uint64_t token, uint32_t what);
    int (*del)(void *state, pmx_sock sock);
    /* timeout_ns < 0 waits for ever; returns the number of events */
    int (*wait)(void *state, pmx__event *events, int room,
                int64_t timeout_ns);
    /* a descriptor that is readable when wait() has something, or -ENOTSUP */
    int (*fileno)(const void *state);
    /* level: fill ready->found with number << 2 | PMX__IN | PMX__OUT, from
     * the first place on, up to ready->room of them */
    int (*look)(void *state, pmx_ready *ready, int64_t timeout_ns);
    /* level: let go of the descriptor, the memory at close(); by then nobody
     * looks, adds, mods or dels any more */
    void (*shut)(void *state);
    /* edge: see above; NULL: PMX__OUT is reported each time */
    int (*arm)(void *state, pmx_sock sock);
} pmx__poller;

extern const pmx__poller pmx__epoll;
extern const pmx__poller pmx__kqueue;
extern const pmx__poller pmx__poll;
extern const pmx__poller pmx__select;

/* By name, or the best that works for NULL; -EINVAL, or why it does not. */
int pmx__poller_open(const char *name, int level, const pmx__poller **poller,
                     void **state);

/* At least `size` bytes that are this wait's own, their content lost from
 * wait to wait; NULL: no memory. */
void *pmx__ready_memory(pmx_ready *ready, size_t size);

/* The lock of all tables of guarded pollers, held for moments only. Nothing
 * is forked off while it is held. */
int pmx__guard_start(void);
void pmx__guard(void);
void pmx__unguard(void);

/* Write `to` if there is *is, atomically; 0: *is is now what there is. */
int pmx__swap(int32_t *place, int32_t *is, int32_t to);

#endif
