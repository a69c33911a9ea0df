/*
 * select: every OS has it. On Unix a set holds the descriptors numbered below
 * FD_SETSIZE; on Windows it holds FD_SETSIZE handles of any number. A
 * descriptor that does not fit is refused with -ENOSPC when it is added.
 * select cannot watch for errors alone (watches_errors = 0), so the mux checks
 * paused sockets for errors now and then.
 *
 * The table keeps the interest, and each wait fills its sets from the table.
 * On Windows a set is documented as an array, so it is filled and read as an
 * array, and a hash finds the entry of each handle. There the except set
 * reports failed connects.
 */
#ifdef _WIN32
#define FD_SETSIZE 4096
#endif
#include "poller.h"

#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <sys/select.h>
#endif

typedef struct {
    pmx_sock sock;
    uint32_t what;
    uint64_t token;
#ifdef _WIN32
    uint32_t happened;
#endif
} entry_t;

typedef struct {
    fd_set in, out, failed;
} sets_t;

typedef struct {
    entry_t *entries;
    uint32_t count;
    uint32_t next;              /* the first entry to look at */
    uint32_t *places;           /* by hash of handle: index + 1 */
    sets_t sets;                /* as select left them */
} state_t;

enum { BUCKETS = 4 * FD_SETSIZE };  /* a power of two: short probes */

static uint32_t bucket_of(pmx_sock sock)
{
    uint64_t key = (uint64_t)sock;
#ifdef _WIN32
    key = (key >> 2) * UINT64_C(0x9E3779B97F4A7C15) >> 40;
#endif
    return (uint32_t)(key & (BUCKETS - 1));
}

/* Return the bucket that holds the handle, or an empty bucket for it. */
static uint32_t find(const state_t *s, pmx_sock sock)
{
    uint32_t at = bucket_of(sock);
    while (s->places[at] && s->entries[s->places[at] - 1].sock != sock)
        at = (at + 1) & (BUCKETS - 1);
    return at;
}

static int select_open(void **state, int level)
{
    (void)level;
    state_t *s = sys_calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->entries = sys_calloc(FD_SETSIZE, sizeof *s->entries);
    s->places = sys_calloc(BUCKETS, sizeof *s->places);
    *state = s;
    if (s->entries && s->places)
        return 0;
    free(s->entries);
    free(s->places);
    free(s);
    return -ENOMEM;
}

static void select_close(void *state)
{
    state_t *s = state;
    free(s->entries);
    free(s->places);
    free(s);
}

static int select_add(void *state, pmx_sock sock, uint64_t token,
                      uint32_t what)
{
    state_t *s = state;
#ifndef _WIN32
    if (sock >= FD_SETSIZE)
        return -ENOSPC;
#endif
    if (s->count == FD_SETSIZE)
        return -ENOSPC;
    uint32_t bucket = find(s, sock);
    if (s->places[bucket])
        return -EEXIST;
    s->entries[s->count] = (entry_t){
        .sock = sock, .what = what, .token = token};
    s->places[bucket] = ++s->count;
    return 0;
}

static int select_mod(void *state, pmx_sock sock, uint64_t token,
                      uint32_t what)
{
    state_t *s = state;
    uint32_t bucket = find(s, sock);
    if (!s->places[bucket])
        return -ENOENT;
    s->entries[s->places[bucket] - 1].what = what;
    s->entries[s->places[bucket] - 1].token = token;
    return 0;
}

static int select_del(void *state, pmx_sock sock)
{
    state_t *s = state;
    uint32_t hole = find(s, sock);
    if (!s->places[hole])
        return -ENOENT;
    uint32_t place = s->places[hole] - 1;
    uint32_t last = --s->count;

    /* Close the gap in the probe sequence, then the one in the entries. */
    s->places[hole] = 0;
    for (uint32_t at = (hole + 1) & (BUCKETS - 1); s->places[at];
         at = (at + 1) & (BUCKETS - 1)) {
        uint32_t moved = s->places[at];
        s->places[at] = 0;
        s->places[find(s, s->entries[moved - 1].sock)] = moved;
    }
    if (place != last) {
        uint32_t bucket = find(s, s->entries[last].sock);
        s->entries[place] = s->entries[last];
        s->places[bucket] = place + 1;
    }
    return 0;
}

/* Fill the three sets, and return the highest descriptor, or -1. */
static int fill(const state_t *s, sets_t *sets)
{
    int highest = -1;
    FD_ZERO(&sets->in);
    FD_ZERO(&sets->out);
    FD_ZERO(&sets->failed);
    for (uint32_t i = 0; i < s->count; i++) {
        const entry_t *e = &s->entries[i];
#ifdef _WIN32
        if (e->what & PMX__IN)
            sets->in.fd_array[sets->in.fd_count++] = e->sock;
        if (e->what & PMX__OUT) {
            sets->out.fd_array[sets->out.fd_count++] = e->sock;
            sets->failed.fd_array[sets->failed.fd_count++] = e->sock;
        }
        if (e->what & (PMX__IN | PMX__OUT))
            highest = 0;
#else
        if (e->what & PMX__IN)
            FD_SET(e->sock, &sets->in);
        if (e->what & PMX__OUT)
            FD_SET(e->sock, &sets->out);
        if (e->what & (PMX__IN | PMX__OUT) && e->sock > highest)
            highest = e->sock;
#endif
    }
    return highest;
}

#ifdef _WIN32
/* Note the event in the entry of each handle that the set holds. */
static void note(state_t *s, const fd_set *set, uint32_t what)
{
    for (u_int i = 0; i < set->fd_count; i++) {
        uint32_t place = s->places[find(s, set->fd_array[i])];
        if (place)
            s->entries[place - 1].happened |= what;
    }
}

static pmx__event event_of(const state_t *s, const entry_t *e)
{
    pmx__event event = {e->token, e->happened, 0};
    (void)s;
    if (event.what & PMX__ERROR)        /* a connect has failed */
        event.error = pmx__sock_error(e->sock);
    return event;
}
#else
static pmx__event event_of(const state_t *s, const entry_t *e)
{
    pmx__event event = {e->token, 0, 0};
    if (e->what & PMX__IN && FD_ISSET(e->sock, &s->sets.in))
        event.what |= PMX__IN;
    if (e->what & PMX__OUT && FD_ISSET(e->sock, &s->sets.out))
        event.what |= PMX__OUT;
    return event;
}
#endif

static int collect(state_t *s, pmx__event *events, int room)
{
    int n = 0;
    uint32_t at = s->next < s->count ? s->next : 0;
#ifdef _WIN32
    for (uint32_t i = 0; i < s->count; i++)
        s->entries[i].happened = 0;
    note(s, &s->sets.in, PMX__IN);
    note(s, &s->sets.out, PMX__OUT);
    note(s, &s->sets.failed, PMX__OUT | PMX__IN | PMX__LAST | PMX__ERROR);
#endif
    for (uint32_t seen = 0; seen < s->count && n < room;
         seen++, at = at + 1 < s->count ? at + 1 : 0) {
        pmx__event event = event_of(s, &s->entries[at]);
        if (event.what)
            events[n++] = event;
    }
    s->next = at;
    return n;
}

/* Return the result of select, or -errno. */
static int wait_for(sets_t *sets, int highest, int64_t timeout_ns)
{
    int64_t us = timeout_ns / 1000 + (timeout_ns % 1000 != 0);
    struct timeval span = {0};
    if (timeout_ns > 0) {
        if (us > INT64_C(1000000) * 86400)      /* some OS refuse years */
            us = INT64_C(1000000) * 86400;
        span.tv_sec = (long)(us / 1000000);
        span.tv_usec = (int)(us % 1000000);
    }
#ifdef _WIN32
    if (highest < 0) {          /* Windows refuses three empty sets */
        Sleep(timeout_ns < 0 ? INFINITE : (DWORD)((us + 999) / 1000));
        return 0;
    }
#endif
    int ready = sys_select(highest + 1, &sets->in, &sets->out, &sets->failed,
                           timeout_ns < 0 ? NULL : &span);
    if (ready < 0)
        return pmx__net_error();
    return ready;
}

static int select_wait(void *state, pmx__event *events, int room,
                       int64_t timeout_ns)
{
    state_t *s = state;
    int ready = wait_for(&s->sets, fill(s, &s->sets), timeout_ns);
    return ready > 0 ? collect(s, events, room) : ready;
}

#ifdef _WIN32
/* A handle that is ready both ways has two entries. A handle whose connect
 * failed counts as writable. */
static int find_ready(sets_t *sets, int highest, int left, pmx_ready *ready)
{
    int n = 0, room = (int)ready->room;
    (void)highest, (void)left;
    for (u_int i = 0; i < sets->in.fd_count && n < room; i++)
        ready->found[n++] = (int64_t)sets->in.fd_array[i] << 2 | PMX__IN;
    for (u_int i = 0; i < sets->out.fd_count && n < room; i++)
        ready->found[n++] = (int64_t)sets->out.fd_array[i] << 2 | PMX__OUT;
    for (u_int i = 0; i < sets->failed.fd_count && n < room; i++)
        if (!FD_ISSET(sets->failed.fd_array[i], &sets->out))
            ready->found[n++] = (int64_t)sets->failed.fd_array[i] << 2 |
                                PMX__OUT;
    return n;
}
#else
static int find_ready(sets_t *sets, int highest, int left, pmx_ready *ready)
{
    int n = 0;
    for (int fd = 0; fd <= highest && left && n < (int)ready->room; fd++) {
        int in = !!FD_ISSET(fd, &sets->in), out = !!FD_ISSET(fd, &sets->out);
        left -= in + out;
        if (in | out)
            ready->found[n++] = (int64_t)fd << 2 | (in ? PMX__IN : 0) |
                                (out ? PMX__OUT : 0);
    }
    return n;
}
#endif

static int select_look(void *state, pmx_ready *ready, int64_t timeout_ns)
{
    sets_t *sets = pmx__ready_memory(ready, sizeof *sets);
    if (!sets)
        return -ENOMEM;
    pmx__guard();
    int highest = fill(state, sets);
    pmx__unguard();
    int left = wait_for(sets, highest, timeout_ns);
    return left > 0 ? find_ready(sets, highest, left, ready) : left;
}

static void select_shut(void *state)
{
    (void)state;
}

static int select_fileno(const void *state)
{
    (void)state;
    return -ENOTSUP;
}

uint32_t pmx_select_limit(void)
{
    return FD_SETSIZE;
}

const pmx__poller pmx__select = {
    "select", 0, 0, 1,
    select_open, select_close, select_add, select_mod, select_del,
    select_wait, select_fileno, select_look, select_shut, NULL,
};
