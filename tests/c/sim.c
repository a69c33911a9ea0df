/*
 * The system in memory: see sim.h. Sockets, how they come to be connected and
 * end; the rest is in sim_names.c, sim_stream.c, sim_files.c and sim_wait.c.
 *
 * What is said of states and errors is what Linux does (net/ipv4/tcp.c,
 * tcp_input.c, net/unix/af_unix.c), which test_sim.c compares it with.
 */
#ifdef __linux__
#include "sim_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

int sim_on, sim_as_peer;
sim_rules sim_now;
int (*sim_idle)(void);

sim_file sim_files[ALL_FDS];
sim_sock *sim_socks;
int64_t sim_time;
static int open_count;
static uint64_t next_link;

int sim_fails(int error)
{
    errno = error;
    return -1;
}

/* --- descriptors ------------------------------------------------------- */

static int is_open(int fd)
{
    const sim_file *f = &sim_files[fd];
    return f->sock || f->epoll || f->is_directory;
}

/* The lowest number that is free, of the core's or of the peers'. */
static int free_number(void)
{
    int at = sim_as_peer ? SIM_FDS : 3;
    int end = sim_as_peer ? ALL_FDS : SIM_FDS;
    if (!sim_as_peer && open_count >= sim_now.descriptors)
        return sim_fails(EMFILE);
    while (at < end && is_open(at))
        at++;
    if (at == end)
        return sim_fails(EMFILE);
    return at;
}

int sim_number_for(sim_sock *sock, sim_epoll *epoll)
{
    int fd = free_number();
    if (fd < 0)
        return fd;
    open_count += fd < SIM_FDS;
    sim_files[fd] = (sim_file){sock, epoll, !sock && !epoll};
    if (sock)
        sock->fd = fd;
    return fd;
}

int sim_open(void)
{
    return open_count;
}

sim_sock *sim_sock_of(int fd)
{
    if (fd >= 0 && fd < ALL_FDS && sim_files[fd].sock)
        return sim_files[fd].sock;
    errno = fd >= 0 && fd < ALL_FDS && is_open(fd) ? ENOTSOCK : EBADF;
    return NULL;
}

sim_sock *sim_no_pipe(int fd)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s || !s->is_pipe)
        return s;
    errno = ENOTSOCK;
    return NULL;
}

sim_sock *sim_new(int family)
{
    sim_sock *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->family = family;
    s->fd = -1;
    s->room_in = sim_now.room_in;
    s->room_out = sim_now.room_out;
    s->delay = sim_now.delay;
    s->next = sim_socks;
    sim_socks = s;
    return s;
}

void sim_free(sim_sock *s)
{
    sim_sock **place = &sim_socks;
    while (*place != s)
        place = &(*place)->next;
    *place = s->next;
    free(s->in.is);
    free(s->out.is);
    free(s);
}

void sim_begin(void)
{
    sim_on = 1;
    sim_time = INT64_C(1000000000);
    next_link = 1;
    sim_no_names();
    sim_no_paths();
    sim_as_peer = 0;
    sim_idle = NULL;
    sim_now = (sim_rules){65536, 65536, 0, SIM_SOON, SIM_FDS, 0};
}

void sim_end(void)
{
    for (int fd = 0; fd < ALL_FDS; fd++)
        if (is_open(fd))
            (void)sim_close(fd);
    while (sim_socks)
        sim_free(sim_socks);
    sim_on = 0;
}

/* --- sockets ----------------------------------------------------------- */

int sim_socket(int family, int type, int protocol)
{
    (void)type, (void)protocol;
    sim_sock *s = sim_new(family);
    int fd = sim_number_for(s, NULL);
    if (fd < 0)
        sim_free(s);
    return fd;
}

static void make_pair(sim_sock *a, sim_sock *b)
{
    a->other = b;
    b->other = a;
    a->state = b->state = SIM_OPEN;
    a->link = b->link = next_link++;
}

static int new_pair(int family, const int as_peer[2], int pair[2])
{
    int before = sim_as_peer;
    for (int i = 0; i < 2; i++) {
        sim_as_peer = as_peer[i];
        pair[i] = sim_socket(family, SOCK_STREAM, 0);
    }
    sim_as_peer = before;
    if (pair[0] >= 0 && pair[1] >= 0) {
        make_pair(sim_sock_of(pair[0]), sim_sock_of(pair[1]));
        return 0;
    }
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0)
            (void)sim_close(pair[i]);
    return sim_fails(EMFILE);
}

int sim_socketpair(int family, int type, int protocol, int pair[2])
{
    (void)type, (void)protocol;
    return new_pair(family, (int[2]){sim_as_peer, sim_as_peer}, pair);
}

static int new_pipe(const int as_peer[2], int pair[2])
{
    if (new_pair(AF_UNIX, as_peer, pair))
        return -1;
    sim_sock_of(pair[0])->is_pipe = SIM_READ_END;
    sim_sock_of(pair[1])->is_pipe = SIM_WRITE_END;
    return 0;
}

int sim_pipe(int pair[2])
{
    return new_pipe((int[2]){sim_as_peer, sim_as_peer}, pair);
}

int sim_pipe_to_peer(int pair[2], int writes)
{
    return new_pipe((int[2]){!writes, writes}, pair);
}

int sim_pipe2(int pair[2], int flags)
{
    (void)flags;
    return sim_pipe(pair);
}

int sim_listen(int fd, int backlog)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    s->state = SIM_LISTENING;
    s->backlog = backlog;
    return 0;
}

uint64_t sim_link(int fd)
{
    const sim_sock *s = sim_sock_of(fd);
    return s ? s->link : 0;
}

/* --- connections come about -------------------------------------------- */

static int is_full(const sim_sock *listener)
{
    return listener->waiting > listener->backlog;
}

/* `s` waits to be accepted from now on, at the end of what waits. */
static void join(sim_sock *listener, sim_sock *s)
{
    sim_sock *e = sim_new(s->family);
    make_pair(s, e);
    e->in_backlog = listener;
    e->turn = listener->turn++;
    e->port = listener->port;
    e->calls = s->port;
    e->name_size = listener->name_size;
    memcpy(e->name, listener->name, e->name_size);
    e->call_size = s->name_size;
    memcpy(e->call, s->name, s->name_size);
    listener->waiting++;
    sim_wake(listener, EPOLLIN);
}

static void call(sim_sock *s)
{
    sim_sock *listener = sim_bound_to(s);
    if (s->call_lost || (listener && is_full(listener))) {
        s->call_at = sim_time + INT64_C(1000000000);
        if (s->tries++ == 3)
            sim_lost(s, ETIMEDOUT);
    } else if (!listener) {
        sim_reset(s);
    } else {
        join(listener, s);
        sim_wake(s, 0);
    }
}

static int call_unix(sim_sock *s, const struct sockaddr *name, socklen_t size)
{
    const char *path = ((const struct sockaddr_un *)(const void *)name)
                           ->sun_path;
    s->call_size = size - offsetof(struct sockaddr_un, sun_path);
    memcpy(s->call, path, s->call_size);
    sim_sock *listener = sim_bound_to(s);
    uint64_t inode = path[0] ? sim_inode(path, s->call_size) : 0;
    if (path[0] && !inode)
        return sim_fails(ENOENT);
    if (!listener || listener->state != SIM_LISTENING ||
        listener->inode != inode)
        return sim_fails(ECONNREFUSED);
    if (is_full(listener))
        return sim_fails(EAGAIN);
    join(listener, s);
    return 0;
}

int sim_connect(int fd, const struct sockaddr *name, socklen_t size)
{
    sim_sock *s = sim_no_pipe(fd);
    if (!s)
        return -1;
    if (name->sa_family == AF_UNSPEC) {
        if (!sim_is_tcp(s))
            return sim_fails(EINVAL);
        sim_disconnect(s);
        return 0;
    }
    if (s->state == SIM_OPEN)
        return sim_fails(EISCONN);
    if (s->state == SIM_CALLING)
        return sim_fails(EALREADY);
    if (!sim_is_tcp(s))
        return call_unix(s, name, size);
    s->calls = sim_port_in(name);
    if (!s->port)
        s->port = sim_free_port();
    s->state = SIM_CALLING;
    s->call_at = sim_time;
    s->call_lost = sim_now.dial == SIM_LOST;
    if (sim_now.dial == SIM_LATER)
        s->call_at += sim_now.delay + 1;
    else
        call(s);
    if (sim_now.dial == SIM_AT_ONCE && s->state == SIM_OPEN)
        return 0;
    return sim_fails(EINPROGRESS);
}

int sim_accept4(int fd, struct sockaddr *name, socklen_t *size, int flags)
{
    sim_sock *l = sim_sock_of(fd), *first = NULL;
    (void)flags;
    if (!l)
        return -1;
    if (l->state != SIM_LISTENING)
        return sim_fails(EINVAL);
    if (free_number() < 0)      /* asked for first, as Linux does */
        return -1;
    for (sim_sock *s = l->waiting ? sim_socks : NULL; s; s = s->next)
        if (s->in_backlog == l && (!first || s->turn < first->turn))
            first = s;
    if (!first)
        return sim_fails(EAGAIN);
    l->waiting--;
    first->in_backlog = NULL;
    sim_name_of(first, first->calls, first->call, first->call_size, name, size);
    return sim_number_for(first, NULL);
}

int sim_accept(int fd, struct sockaddr *name, socklen_t *size)
{
    return sim_accept4(fd, name, size, 0);
}

/* --- and end ----------------------------------------------------------- */

static void hang_up_unix(sim_sock *s, int embryo)
{
    sim_sock *other = s->other;
    if (other) {
        other->shut = RECEIVES | SENDS;
        if (!s->is_pipe && (sim_held(&s->in) || embryo))
            other->error = ECONNRESET;
        sim_wake(other, 0);
        other->other = NULL;
        s->other = NULL;
    }
    s->state = SIM_OVER;
}

static void hang_up(sim_sock *s)
{
    sim_sock *other = s->other;
    if (s->state != SIM_OPEN) {
        s->state = SIM_OVER;
    } else if (sim_held(&s->in) || s->urgent || s->linger0) {
        if (other)
            sim_reset(other);
        sim_is_over(s);
    } else {
        s->shut = RECEIVES | SENDS;
        s->ends = 1;
        sim_leaves(s);              /* it may be over then, and is freed */
    }
}

static void forsake(sim_sock *listener)
{
    sim_sock *next;
    for (sim_sock *s = sim_socks; s; s = next) {
        next = s->next;
        if (s->in_backlog != listener)
            continue;
        s->in_backlog = NULL;
        if (sim_is_tcp(s)) {
            if (s->other)
                sim_reset(s->other);
            s->state = SIM_OVER;
        } else {
            hang_up_unix(s, 1);
        }
        if (s->other)
            s->other->other = NULL;
        sim_free(s);
        next = sim_socks;       /* whoever was freed beside it */
    }
    listener->state = SIM_OVER;
}

int sim_close(int fd)
{
    if (fd < 0 || fd >= ALL_FDS || !is_open(fd))
        return sim_fails(EBADF);
    sim_sock *s = sim_files[fd].sock;
    sim_forget(fd);
    open_count -= fd < SIM_FDS;
    free(sim_files[fd].epoll);
    sim_files[fd] = (sim_file){NULL, NULL, 0};
    if (!s)
        return 0;
    if (s->state == SIM_LISTENING) {
        s->fd = -1;
        forsake(s);
    } else if (sim_is_tcp(s)) {
        if (s->state == SIM_OPEN && !sim_held(&s->in) && !s->urgent &&
            !s->linger0) {
            s->fd = -1;
            hang_up(s);         /* it lives on until all has arrived */
            return 0;
        }
        hang_up(s);
        s->fd = -1;
    } else {
        hang_up_unix(s, 0);
        s->fd = -1;
    }
    sim_free(s);
    return 0;
}

/* When something happens by itself next, and making it happen. */
int64_t sim_next_time(void)
{
    int64_t next = INT64_MAX;
    for (const sim_sock *s = sim_socks; s; s = s->next) {
        if (s->state == SIM_CALLING && s->call_at < next)
            next = s->call_at;
        if (s->flows_at > sim_time && s->flows_at < next)
            next = s->flows_at;
    }
    return next;
}

static int happens_to(sim_sock *s)
{
    if (s->flows_at && s->flows_at <= sim_time) {
        s->flows_at = 0;
        sim_flow(s);
        return 1;
    }
    if (s->state != SIM_CALLING || s->call_at > sim_time)
        return 0;
    call(s);
    return 1;
}

/* Sockets go as it does, so from the start each time. */
void sim_happen(void)
{
    sim_sock *s = sim_socks;
    while (s)
        s = happens_to(s) ? sim_socks : s->next;
}
#else
typedef int sim_is_for_linux;   /* a file must not be empty */
#endif
