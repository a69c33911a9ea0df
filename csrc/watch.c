/*
 * A watch is the core of a selector: it only reports which descriptors are
 * ready. This file lets several threads use one watch.
 *
 * The kernel keeps the tables of epoll and kqueue, and threads may use them at
 * once. poll and select get a table with each call, and that table must not
 * change during a wait. So our own table is changed under the guard, and each
 * wait copies the table under the guard. A change does not reach waits that
 * have begun, as in the standard library's selectors.
 *
 * The users of a watch are counted. The last user of a shut watch closes its
 * descriptor. If a thread closed the descriptor while another one used the
 * watch, the number could already mean another file in the other's next call.
 */
#include "poller.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

struct pmx_watch {
    const pmx__poller *poller;
    void *state;
    int32_t uses;               /* USE for each user, plus SHUT */
};

enum { SHUT = 1, USE = 2 };

/* Count a user, or return -EBADF if the watch is shut. */
static int enter(pmx_watch *w)
{
    int32_t uses = 0;
    while (!(uses & SHUT))
        if (pmx__swap(&w->uses, &uses, uses + USE))
            return 0;
    return -EBADF;
}

static void leave(pmx_watch *w)
{
    int32_t uses = USE;
    while (!pmx__swap(&w->uses, &uses, uses - USE))
        ;
    if (uses == (USE | SHUT))
        w->poller->shut(w->state);
}

int pmx_watch_open(pmx_watch **place, const char *backend)
{
    int error = pmx__net_start();
    if (!error)
        error = pmx__guard_start();
    if (error)
        return error;
    pmx_watch *watch = sys_calloc(1, sizeof *watch);
    if (!watch)
        return -ENOMEM;
    error = pmx__poller_open(backend, 1, &watch->poller, &watch->state);
    if (error)
        free(watch);
    else
        *place = watch;
    return error;
}

void pmx_watch_shut(pmx_watch *watch)
{
    int32_t uses = 0;
    while (!(uses & SHUT) && !pmx__swap(&watch->uses, &uses, uses | SHUT))
        ;
    if (!uses)
        watch->poller->shut(watch->state);
}

void pmx_watch_free(pmx_watch *watch)
{
    watch->poller->close(watch->state);
    free(watch);
}

const char *pmx_watch_name(const pmx_watch *watch)
{
    return watch->poller->name;
}

int pmx_watch_fileno(pmx_watch *watch)
{
    int number = enter(watch);
    if (number)
        return number;
    number = watch->poller->fileno(watch->state);
    leave(watch);
    return number;
}

static int change(const pmx_watch *w, pmx_sock sock, uint32_t had,
                  uint32_t wanted)
{
    uint64_t token = (uint64_t)sock << 2 | wanted;
    if (!wanted)
        return had ? w->poller->del(w->state, sock) : 0;
    return had ? w->poller->mod(w->state, sock, token, wanted)
               : w->poller->add(w->state, sock, token, wanted);
}

int pmx_watch_set(pmx_watch *watch, int64_t number, uint32_t had,
                  uint32_t wanted)
{
    pmx_sock sock = (pmx_sock)number;
    if (number < 0 || number >> 60 || (int64_t)sock != number)
        return -EBADF;
    if (wanted & ~(uint32_t)(PMX_READABLE | PMX_WRITABLE))
        return -EINVAL;
    int error = enter(watch);
    if (error)
        return error;
    if (watch->poller->guarded)
        pmx__guard();
    error = change(watch, sock, had, wanted);
    if (watch->poller->guarded)
        pmx__unguard();
    leave(watch);
    return error;
}

pmx_ready *pmx_ready_new(pmx_watch *watch, uint64_t room)
{
    if (!room || room > INT_MAX / sizeof(int64_t))
        return NULL;
    pmx_ready *ready = sys_calloc(1, sizeof *ready);
    int64_t *found = sys_malloc((size_t)room * sizeof *found);
    if (!ready || !found) {
        free(ready);
        free(found);
        return NULL;
    }
    ready->watch = watch;
    ready->found = found;
    ready->room = room;
    return ready;
}

void pmx_ready_free(pmx_ready *ready)
{
    free(ready->found);
    free(ready->memory);
    free(ready);
}

static int look(pmx_ready *ready, int64_t timeout_ns)
{
    pmx_watch *w = ready->watch;
    int n = enter(w);
    if (n)
        return n;
    n = w->poller->look(w->state, ready, timeout_ns);
    leave(w);
    return n;
}

int pmx_ready_look(pmx_ready *ready)
{
    return look(ready, 0);
}

/* A backend may wait for less than it is asked to, and a signal handler may
 * take a part of the time, so the deadline counts from the start of the wait.
 * Where a look is cheap, one comes first. A descriptor that is ready is then
 * found without a clock and a timer, which are a third of the price of such a
 * call. If none is ready, the look costs nothing beside the sleep. */
int pmx_ready_wait(pmx_ready *ready, int64_t timeout_ns)
{
    int64_t end = INT64_MAX;
    int n = 0, timed = timeout_ns > 0;
    ready->left_ns = timeout_ns;
    if (timed && !ready->watch->poller->guarded)
        n = look(ready, 0);
    if (n)
        return n;
    if (timed) {
        int64_t now = pmx__now();
        end = timeout_ns < end - now ? now + timeout_ns : end;
    }
    do {
        n = look(ready, ready->left_ns);
        if (timed) {
            int64_t left = end - pmx__now();
            ready->left_ns = left > 0 ? left : 0;
        }
    } while (!n && ready->left_ns);
    return n;
}
