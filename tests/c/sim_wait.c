/* The waits of the system in memory: see sim.h. */
#ifdef __linux__
#include "sim_parts.h"

#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What poll says of a socket or a pipe: tcp_poll(), unix_poll(), pipe_poll(). */
static uint32_t state_of_pipe(sim_sock *s)
{
    if (s->is_pipe == SIM_READ_END)
        return (s->in.end > s->in.begin ? EPOLLIN : 0u) |
               (s->other ? 0u : EPOLLHUP);
    if (!sim_is_writable(s)) {
        s->no_room = 1;
        return 0;
    }
    return EPOLLOUT | (s->other ? 0u : EPOLLERR);
}

static uint32_t state_of(sim_sock *s)
{
    uint32_t what = 0;
    if (s->is_pipe)
        return state_of_pipe(s);
    if (s->state == SIM_LISTENING)
        return s->waiting ? EPOLLIN : 0;
    if (s->error)
        what |= EPOLLERR;
    if (s->shut == (RECEIVES | SENDS) || s->state == SIM_OVER ||
        s->state == SIM_IDLE)
        what |= EPOLLHUP;
    if (s->shut & RECEIVES)
        what |= EPOLLIN | EPOLLRDHUP;
    if (s->state == SIM_CALLING)
        return what;
    if (s->in.end > s->in.begin)
        what |= EPOLLIN;
    if (s->urgent)
        what |= EPOLLPRI;
    if ((s->family != AF_UNIX && s->shut & SENDS) || sim_is_writable(s))
        what |= EPOLLOUT;
    else
        s->no_room = 1;
    return what;
}

static sim_epoll *sim_epolls;

/* --- epoll ------------------------------------------------------------- */

static void make_ready(sim_epoll *e, int fd)
{
    if (e->items[fd].ready)
        return;
    e->items[fd].ready = 1;
    e->ready[e->count++] = fd;
}

static void unready(sim_epoll *e, int fd)
{
    int to = 0;
    for (int i = 0; i < e->count; i++)
        if (e->ready[i] != fd)
            e->ready[to++] = e->ready[i];
    e->count = to;
    e->items[fd].ready = 0;
}

/* ep_poll_callback() */
void sim_wake(const sim_sock *s, uint32_t what)
{
    if (s->fd < 0)
        return;
    for (sim_epoll *e = sim_epolls; e; e = e->next)
        if (e->items[s->fd].listed &&
            (!what || what & e->items[s->fd].is.events))
            make_ready(e, s->fd);
}

void sim_forget(int fd)
{
    for (sim_epoll *e = sim_epolls; e; e = e->next) {
        if (e->items[fd].ready)
            unready(e, fd);
        e->items[fd].listed = 0;
    }
    sim_epoll **place = &sim_epolls;
    while (*place && *place != sim_files[fd].epoll)
        place = &(*place)->next;
    if (*place)
        *place = (*place)->next;
}

int sim_epoll_create1(int flags)
{
    (void)flags;
    sim_epoll *e = calloc(1, sizeof *e);
    if (!e)
        abort();
    int fd = sim_number_for(NULL, e);
    if (fd < 0) {
        free(e);
        return fd;
    }
    e->next = sim_epolls;
    sim_epolls = e;
    return fd;
}

static sim_epoll *epoll_of(int fd)
{
    if (fd >= 0 && fd < ALL_FDS && sim_files[fd].epoll)
        return sim_files[fd].epoll;
    errno = EBADF;
    return NULL;
}

static uint32_t wanted(const sim_epoll *e, int fd)
{
    return e->items[fd].is.events | EPOLLERR | EPOLLHUP;
}

int sim_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
    sim_epoll *e = epoll_of(epoll);
    sim_sock *s = sim_sock_of(fd);
    if (!e || !s)
        return -1;
    if (what == EPOLL_CTL_ADD && e->items[fd].listed)
        return sim_fails(EEXIST);
    if (what != EPOLL_CTL_ADD && !e->items[fd].listed)
        return sim_fails(ENOENT);
    if (what == EPOLL_CTL_DEL) {
        if (e->items[fd].ready)
            unready(e, fd);
        e->items[fd].listed = 0;
        return 0;
    }
    e->items[fd].listed = 1;
    e->items[fd].is = *event;
    if (what == EPOLL_CTL_ADD)
        e->items[fd].is.events |= EPOLLERR | EPOLLHUP;
    if (state_of(s) & wanted(e, fd))
        make_ready(e, fd);
    return 0;
}

static int collect(sim_epoll *e, struct epoll_event *events, int room)
{
    int n = 0, again[ALL_FDS], again_count = 0, taken = 0;
    while (taken < e->count && n < room) {
        int fd = e->ready[taken++];
        uint32_t is = state_of(sim_files[fd].sock) & wanted(e, fd);
        e->items[fd].ready = 0;
        if (!is)
            continue;
        events[n++] = (struct epoll_event){is, e->items[fd].is.data};
        if (!(e->items[fd].is.events & EPOLLET))
            again[again_count++] = fd;
    }
    memmove(e->ready, e->ready + taken,
            (size_t)(e->count - taken) * sizeof *e->ready);
    e->count -= taken;
    for (int i = 0; i < again_count; i++)
        make_ready(e, again[i]);
    return n;
}

/* --- waiting ----------------------------------------------------------- */

typedef struct {
    int (*look)(void *what);    /* how many are ready */
    void *what;
} wait_t;

/* Until something is ready, for so long (-1: for ever). Who waits in vain so
 * often, however short, waits for ever too. */
static int wait_for(const wait_t *w, int64_t ns)
{
    enum { OFTEN = 100000 };
    static int in_vain;
    int64_t end = ns < 0 ? INT64_MAX : sim_time + ns;
    if (in_vain++ == OFTEN)
        end = INT64_MAX;
    for (;;) {
        int n = w->look(w->what);
        if (n)
            in_vain = 0;
        if (n || !ns)
            return n;
        if (sim_time >= end)
            return 0;
        if (sim_idle && sim_idle()) {
            in_vain = 0;
            continue;
        }
        int64_t next = sim_next_time();
        if (next == INT64_MAX && end == INT64_MAX) {
            in_vain = 0;
            return sim_fails(EDEADLK);
        }
        sim_time = next < end ? next : end;
        sim_happen();
    }
}

typedef struct {
    int epoll;
    struct epoll_event *events;
    int room;
} epoll_look;

static int look_at_epoll(void *what)
{
    const epoll_look *l = what;
    return collect(sim_files[l->epoll].epoll, l->events, l->room);
}

static int wait_epoll(int epoll, struct epoll_event *events, int room,
                      int64_t ns)
{
    epoll_look look = {epoll, events, room};
    return epoll_of(epoll) ? wait_for(&(wait_t){look_at_epoll, &look}, ns)
                           : -1;
}

int sim_epoll_wait(int epoll, struct epoll_event *events, int room, int ms)
{
    return wait_epoll(epoll, events, room,
                      ms < 0 ? -1 : (int64_t)ms * 1000000);
}

int sim_epoll_pwait2(int epoll, struct epoll_event *events, int room,
                     const int64_t *span)
{
    return wait_epoll(epoll, events, room, span[0] * 1000000000 + span[1]);
}

static uint32_t state_of_number(int fd)
{
    if (fd < 0 || fd >= ALL_FDS)
        return POLLNVAL;
    if (sim_files[fd].sock)
        return state_of(sim_files[fd].sock);
    const sim_epoll *e = sim_files[fd].epoll;
    if (!e)
        return POLLNVAL;
    for (int i = 0; i < e->count; i++)
        if (state_of(sim_files[e->ready[i]].sock) & wanted(e, e->ready[i]))
            return EPOLLIN;
    return 0;
}

typedef struct {
    struct pollfd *fds;
    unsigned long count;
} poll_look;

static int look_at_poll(void *what)
{
    const poll_look *l = what;
    int n = 0;
    for (unsigned long i = 0; i < l->count; i++) {
        struct pollfd *p = &l->fds[i];
        uint32_t asked = (uint16_t)p->events | POLLERR | POLLHUP | POLLNVAL;
        p->revents = p->fd < 0 ? 0 : (short)(state_of_number(p->fd) & asked);
        n += !!p->revents;
    }
    return n;
}

static int wait_poll(struct pollfd *fds, unsigned long count, int64_t ns)
{
    poll_look look = {fds, count};
    return wait_for(&(wait_t){look_at_poll, &look}, ns);
}

int sim_poll(struct pollfd *fds, unsigned long count, int ms)
{
    return wait_poll(fds, count, ms < 0 ? -1 : (int64_t)ms * 1000000);
}

int sim_ppoll(struct pollfd *fds, unsigned long count,
              const struct timespec *span, const void *mask)
{
    (void)mask;
    return wait_poll(fds, count,
                     span ? (int64_t)span->tv_sec * 1000000000 + span->tv_nsec
                          : -1);
}

typedef struct {
    int count;
    const fd_set *asked;        /* in, out, failed */
    fd_set found[3];
} select_look;

static int look_at_select(void *what)
{
    static const uint32_t sets[] = {EPOLLIN | EPOLLHUP | EPOLLERR,
                                    EPOLLOUT | EPOLLERR, EPOLLPRI};
    select_look *l = what;
    int n = 0;
    for (int k = 0; k < 3; k++)
        FD_ZERO(&l->found[k]);
    for (int fd = 0; fd < l->count; fd++)
        for (int k = 0; k < 3; k++)
            if (FD_ISSET(fd, &l->asked[k]) &&
                state_of_number(fd) & (sets[k] | POLLNVAL)) {
                FD_SET(fd, &l->found[k]);
                n++;
            }
    return n;
}

int sim_select(int count, fd_set *in, fd_set *out, fd_set *failed,
               struct timeval *span)
{
    const fd_set asked[] = {*in, *out, *failed};
    select_look look = {.count = count, .asked = asked};
    int n = wait_for(&(wait_t){look_at_select, &look},
                     span ? (int64_t)span->tv_sec * 1000000000 +
                                (int64_t)span->tv_usec * 1000
                          : -1);
    if (n < 0)
        return n;
    *in = look.found[0];
    *out = look.found[1];
    *failed = look.found[2];
    return n;
}

/* --- the clock --------------------------------------------------------- */

int64_t sim_clock(void)
{
    return sim_time;
}

int sim_pass(void)
{
    int64_t next = sim_next_time();
    if (next == INT64_MAX)
        return 0;
    sim_time = next;
    sim_happen();
    return 1;
}

/* A look takes a moment, so that who looks until a time comes gets there. */
int sim_clock_gettime(int clock, struct timespec *time)
{
    (void)clock;
    sim_time += 100;
    sim_happen();
    time->tv_sec = (time_t)(sim_time / 1000000000);
    time->tv_nsec = (long)(sim_time % 1000000000);
    return 0;
}
#else
typedef int sim_waits_on_linux; /* a file must not be empty */
#endif
