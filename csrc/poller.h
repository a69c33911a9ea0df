/*
 * The contract of a backend. Layer 2.
 *
 * A poller watches descriptors, each with a token, and wait() fills an array
 * of events: a token, and what happened. It knows nothing of connections.
 *
 * An edge-triggered poller (edge = 1) watches from add() on what that asks
 * for, and reports changes; mod() is never called. If it reports PMX__OUT only
 * once, it has arm(). The mux calls that when the kernel has refused to take
 * bytes, or when a dialled socket is not connected yet after all; then
 * PMX__OUT is reported once more, at once if the kernel can take bytes by now.
 * A level-triggered poller watches what add() and mod() ask for: PMX__IN,
 * PMX__OUT, both, or 0, which means errors alone where it can
 * (watches_errors). PMX__DROP asks for nothing at all, since hang-up and error
 * cannot be masked and would wake it for ever.
 *
 * PMX__LAST in an event means that the stream may end behind the bytes that
 * have arrived: receive until nothing comes. An event with PMX__ERROR may
 * bring the socket's error, which then may be gone from the socket. A wait
 * that finds more events than fit reports the others first the next time, so
 * that no descriptor starves.
 *
 * A selector (watch.c) opens its poller with `level`. Then every poller is
 * level-triggered and reports what add() and mod() ask for, nothing else; a
 * token is number << 2 | PMX__IN | PMX__OUT, as asked for. look() takes the
 * place of wait(). Several threads may be in look() at once, while others add,
 * mod and del: it waits on the caller's own memory. A poller with a table of
 * its own (`guarded`) changes and copies the table under the guard.
 *
 * All return >= 0 or -errno. To add a descriptor twice is -EEXIST, to mod or
 * del one that was not added is -ENOENT, where the poller or its kernel knows.
 */
#ifndef PMX_POLLER_H
#define PMX_POLLER_H

#include "net.h"
#include "watch.h"

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
    /* level: close the descriptor; close() frees the memory. No thread is in
     * look(), and none comes in any more */
    void (*shut)(void *state);
    /* edge: see above; NULL: PMX__OUT is reported each time */
    int (*arm)(void *state, pmx_sock sock);
} pmx__poller;

extern const pmx__poller pmx__epoll;
extern const pmx__poller pmx__kqueue;
extern const pmx__poller pmx__poll;
extern const pmx__poller pmx__select;

/* Open the poller of that name, or, for NULL, the best that works. -EINVAL: no
 * such poller; else the error of the last one. */
int pmx__poller_open(const char *name, int level, const pmx__poller **poller,
                     void **state);

/* At least `size` bytes for this wait alone; their content is lost from wait to
 * wait. NULL: no memory. */
void *pmx__ready_memory(pmx_ready *ready, size_t size);

/* The lock of all tables of guarded pollers. It is held for moments, and no
 * process is forked off while it is held. */
int pmx__guard_start(void);
void pmx__guard(void);
void pmx__unguard(void);

/* Write `to` if *place is *is, atomically, and return 1. Otherwise *is becomes
 * what *place is, and 0 is returned. */
int pmx__swap(int32_t *place, int32_t *is, int32_t to);

#endif
