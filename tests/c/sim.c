/*
 * The system in memory: see sim.h. Sockets here, waits in sim_wait.c.
 *
 * What is said of states and errors is what Linux does (net/ipv4/tcp.c,
 * tcp_input.c, net/unix/af_unix.c), which test_sim.c compares it with.
 */
#ifdef __linux__
#include "sim_parts.h"

#include "test.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>

int sim_on, sim_as_peer;
sim_rules sim_now;
int (*sim_idle)(void);

sim_file sim_files[ALL_FDS];
sim_sock *sim_socks;
int64_t sim_time;
static int open_count;
static uint16_t next_port;
static uint64_t next_inode, next_link;

/* Names of Unix sockets in the file system. */
enum { PATHS = 64 };
static struct {
    char path[108];
    uint64_t inode;
} paths[PATHS];

int sim_fails(int error)
{
    errno = error;
    return -1;
}

/* --- bytes ------------------------------------------------------------- */

static void put(sim_bytes *b, const uint8_t *from, size_t size)
{
    if (b->end + size > b->room) {
        if (b->begin)
            memmove(b->is, b->is + b->begin, b->end - b->begin);
        b->end -= b->begin;
        b->begin = 0;
        if (b->end + size > b->room) {
            b->room = 2 * (b->end + size);
            b->is = realloc(b->is, b->room);
            if (!b->is)
                abort();
        }
    }
    memcpy(b->is + b->end, from, size);
    b->end += size;
}

static size_t held(const sim_bytes *b)
{
    return b->end - b->begin;
}

static void drop(sim_bytes *b, size_t size)
{
    b->begin += size;
    if (b->begin == b->end)
        b->begin = b->end = 0;
}

/* --- descriptors ------------------------------------------------------- */

/* The lowest number that is free, of the core's or of the peers'. */
static int free_number(void)
{
    int at = sim_as_peer ? SIM_FDS : 3;
    int end = sim_as_peer ? ALL_FDS : SIM_FDS;
    if (!sim_as_peer && open_count >= sim_now.descriptors)
        return sim_fails(EMFILE);
    while (at < end && (sim_files[at].sock || sim_files[at].epoll))
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
    sim_files[fd] = (sim_file){sock, epoll};
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
    errno = fd >= 0 && fd < ALL_FDS && sim_files[fd].epoll ? ENOTSOCK : EBADF;
    return NULL;
}

static sim_sock *new_sock(int family)
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

static void free_sock(sim_sock *s)
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
    next_port = 40000;
    next_inode = next_link = 1;
    sim_as_peer = 0;
    sim_idle = NULL;
    sim_now = (sim_rules){65536, 65536, 0, SIM_SOON, SIM_FDS};
}

void sim_end(void)
{
    for (int fd = 0; fd < ALL_FDS; fd++)
        if (sim_files[fd].sock || sim_files[fd].epoll)
            (void)sim_close(fd);
    while (sim_socks)
        free_sock(sim_socks);
    memset(paths, 0, sizeof paths);
    sim_on = 0;
}

/* --- a stream ---------------------------------------------------------- */

static int is_tcp(const sim_sock *s)
{
    return s->family != AF_UNIX;
}

int sim_is_writable(const sim_sock *s)
{
    if (is_tcp(s))      /* sk_stream_is_writeable, unix_writable */
        return held(&s->out) <= s->room_out / 3 * 2;
    return !s->other || held(&s->other->in) <= s->room_out / 4;
}

static void is_over(sim_sock *s)
{
    s->state = SIM_OVER;
    s->shut = RECEIVES | SENDS;
    s->out.begin = s->out.end = 0;
    if (s->other)
        s->other->other = NULL;
    s->other = NULL;
    sim_wake(s, 0);
}

static void release_if_over(sim_sock *s)
{
    if (s->fd < 0 && s->state == SIM_OVER && !s->in_backlog)
        free_sock(s);
}

/* The other end, or the network, says that there is no connection. */
static void lost(sim_sock *s, int error)
{
    if (s->state == SIM_OVER)
        return;
    s->error = error;
    sim_wake(s, EPOLLERR);
    is_over(s);
    release_if_over(s);
}

static void reset(sim_sock *s)
{
    lost(s, s->state == SIM_CALLING ? ECONNREFUSED
            : s->done && !s->ends ? EPIPE : ECONNRESET);
}

static void reset_both(sim_sock *s)
{
    sim_sock *other = s->other;
    reset(s);
    if (other)
        reset(other);
}

void sim_break(int fd, int error)
{
    sim_sock *s = sim_sock_of(fd);
    sim_sock *other = s ? s->other : NULL;
    if (!s || s->state != SIM_OPEN || !is_tcp(s))
        return;
    lost(s, error);
    if (other)
        lost(other, error);
}

/* Both ends have been sent and have arrived. */
static void end_of_both(sim_sock *s, sim_sock *other)
{
    is_over(s);
    is_over(other);
    release_if_over(s);
    release_if_over(other);
}

/* Nobody is there to have what arrives. */
static int refuses(const sim_sock *to)
{
    return (to->fd < 0 && !to->in_backlog) ||
           (to->shut & RECEIVES && to->ends);
}

static void room_again(sim_sock *s)
{
    if (s->no_room && sim_is_writable(s)) {
        s->no_room = 0;
        sim_wake(s, EPOLLOUT);
    }
}

/* With the next `size` bytes, or behind them. The mark counts the bytes of
 * the stream before it, which are as many on both sides. */
static void urgent_arrives(sim_sock *s, size_t size)
{
    sim_sock *to = s->other;
    if (!s->urgent_out || !to ||
        s->urgent_out - 1 > s->sent - held(&s->out) + size)
        return;
    to->urgent = s->urgent_out;
    s->urgent_out = 0;
    sim_wake(to, EPOLLPRI);
}

/* What is on its way arrives, as far as there is room for it. */
static void flow(sim_sock *s)
{
    sim_sock *to = s->other;
    if (!to || s->flows_at > sim_time)
        return;
    size_t size = held(&s->out), room = to->room_in - held(&to->in);
    if (to->room_in < held(&to->in))
        room = 0;
    if (size)
        urgent_arrives(s, size < room ? size : room);
    if (size && refuses(to)) {
        reset_both(s);
        return;
    }
    size = size < room ? size : room;
    if (size) {
        put(&to->in, s->out.is + s->out.begin, size);
        drop(&s->out, size);
        sim_wake(to, EPOLLIN);
        room_again(s);
    }
    if (held(&s->out) || !s->ends || s->end_arrived)
        return;
    s->end_arrived = 1;
    to->done = 1;
    to->shut |= RECEIVES;
    sim_wake(to, 0);
    if (to->end_arrived)
        end_of_both(s, to);
}

static void leaves(sim_sock *s)
{
    if (s->flows_at <= sim_time)
        s->flows_at = sim_time + s->delay;
    flow(s);
}

static ssize_t send_tcp(sim_sock *s, const uint8_t *from, size_t size)
{
    size_t room = s->room_out - held(&s->out), part;
    if (!room || !sim_is_writable(s)) {
        s->no_room = 1;
        return sim_fails(EAGAIN);
    }
    part = size < room ? size : room;
    put(&s->out, from, part);
    s->sent += part;
    if (part < size)
        s->no_room = 1;
    leaves(s);
    return (ssize_t)part;
}

static ssize_t send_unix(sim_sock *s, const uint8_t *from, size_t size)
{
    sim_sock *to = s->other;
    if (!to || to->shut & RECEIVES)
        return sim_fails(EPIPE);
    size_t used = held(&to->in);
    if (used >= s->room_out) {
        s->no_room = 1;
        return sim_fails(EAGAIN);
    }
    size = size < s->room_out - used ? size : s->room_out - used;
    put(&to->in, from, size);
    s->sent += size;
    sim_wake(to, EPOLLIN);
    return (ssize_t)size;
}

ssize_t sim_send(int fd, const void *from, size_t size, int flags)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (s->state == SIM_CALLING && !s->error)
        return sim_fails(EAGAIN);
    if (is_tcp(s) && s->error)
        return sim_fails(sim_take_error(s));
    if (s->state == SIM_IDLE && !is_tcp(s))
        return sim_fails(ENOTCONN);
    if (s->state != SIM_OPEN || s->shut & SENDS)
        return sim_fails(EPIPE);
    if (!size)
        return 0;
    if (flags & MSG_OOB && !is_tcp(s))
        return sim_fails(EOPNOTSUPP);
    if (flags & MSG_OOB) {
        if (s->urgent_out || !s->other || s->other->urgent)
            return sim_fails(EAGAIN);   /* one at a time */
        /* the last byte stands beside the stream, and a mark in it */
        s->urgent_out = s->sent + size;
        ssize_t n = size > 1 ? send_tcp(s, from, size - 1) : 0;
        if (n + 1 < (ssize_t)size) {
            s->urgent_out = 0;
            return n;
        }
        urgent_arrives(s, 0);
        if (s->other && refuses(s->other))
            reset_both(s);
        return n + 1;
    }
    return is_tcp(s) ? send_tcp(s, from, size) : send_unix(s, from, size);
}

ssize_t sim_sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t all = 0;
    for (size_t i = 0; i < (size_t)message->msg_iovlen; i++) {
        const struct iovec *span = &message->msg_iov[i];
        if (!span->iov_len)
            continue;
        ssize_t n = sim_send(fd, span->iov_base, span->iov_len, flags);
        if (n < 0)
            return all ? all : n;
        all += n;
        if ((size_t)n < span->iov_len)
            break;
    }
    return all;
}

int sim_take_error(sim_sock *s)
{
    int error = s->error;
    s->error = 0;
    return error;
}

static size_t before_urgent(const sim_sock *s)
{
    return s->urgent ? (size_t)(s->urgent - 1 - s->received) : SIZE_MAX;
}

ssize_t sim_recv(int fd, void *to, size_t size, int flags)
{
    sim_sock *s = sim_sock_of(fd);
    (void)flags;
    if (!s)
        return -1;
    if (!is_tcp(s) && s->state != SIM_OPEN && s->state != SIM_OVER)
        return sim_fails(EINVAL);
    if (s->state == SIM_LISTENING)
        return sim_fails(ENOTCONN);
    size_t n = held(&s->in) < size ? held(&s->in) : size;
    size_t before = before_urgent(s);
    if (!before)
        s->urgent = 0;          /* skipped */
    else if (before < n)
        n = before;             /* not across it */
    if (n) {
        memcpy(to, s->in.is + s->in.begin, n);
        drop(&s->in, n);
        s->received += n;
        if (is_tcp(s) && s->other)
            flow(s->other);
        else if (s->other)
            room_again(s->other);
        return (ssize_t)n;
    }
    if (!size || (is_tcp(s) && s->done))
        return 0;
    if (s->error)
        return sim_fails(sim_take_error(s));
    if (s->shut & RECEIVES)
        return 0;
    return sim_fails(is_tcp(s) && s->state == SIM_IDLE ? ENOTCONN : EAGAIN);
}

ssize_t sim_read(int fd, void *to, size_t size)
{
    return sim_recv(fd, to, size, 0);
}

ssize_t sim_write(int fd, const void *from, size_t size)
{
    return sim_send(fd, from, size, 0);
}

static void disconnect(sim_sock *s)
{
    sim_sock *other = s->other;
    if (s->state == SIM_OPEN || s->state == SIM_CALLING)
        s->error = ECONNRESET;
    is_over(s);
    s->state = SIM_IDLE;
    s->shut = 0;
    s->ends = s->end_arrived = s->done = 0;
    s->in.begin = s->in.end = 0;
    s->urgent = 0;
    if (s->error)
        sim_wake(s, EPOLLERR);
    if (other)
        reset(other);
}

int sim_shutdown(int fd, int how)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    unsigned what = how == SHUT_RD ? RECEIVES : how == SHUT_WR ? SENDS
                                              : RECEIVES | SENDS;
    if (is_tcp(s)) {
        if (s->state == SIM_IDLE || s->state == SIM_OVER) {
            s->shut |= what;
            sim_wake(s, 0);
            return sim_fails(ENOTCONN);
        }
        if (s->state == SIM_LISTENING)
            return 0;           /* it is closed next */
        if (s->state == SIM_CALLING) {
            disconnect(s);
            return 0;
        }
        s->shut |= what;
        if (what & SENDS && !s->ends) {
            s->ends = 1;
            sim_wake(s, 0);
            leaves(s);
            return 0;
        }
    } else {
        sim_sock *other = s->other;
        s->shut |= what;
        if (other) {
            other->shut |= (what & RECEIVES ? SENDS : 0u) |
                           (what & SENDS ? RECEIVES : 0u);
            sim_wake(other, 0);
        }
    }
    sim_wake(s, 0);
    return 0;
}

/* --- sockets and their names ------------------------------------------- */

int sim_socket(int family, int type, int protocol)
{
    (void)type, (void)protocol;
    sim_sock *s = new_sock(family);
    int fd = sim_number_for(s, NULL);
    if (fd < 0)
        free_sock(s);
    return fd;
}

static void make_pair(sim_sock *a, sim_sock *b)
{
    a->other = b;
    b->other = a;
    a->state = b->state = SIM_OPEN;
    a->link = b->link = next_link++;
}

int sim_socketpair(int family, int type, int protocol, int pair[2])
{
    pair[0] = sim_socket(family, type, protocol);
    if (pair[0] < 0)
        return -1;
    pair[1] = sim_socket(family, type, protocol);
    if (pair[1] < 0) {
        (void)sim_close(pair[0]);
        return sim_fails(EMFILE);
    }
    make_pair(sim_sock_of(pair[0]), sim_sock_of(pair[1]));
    return 0;
}

int sim_pipe(int pair[2])
{
    int error = sim_socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    if (!error)
        sim_sock_of(pair[0])->is_pipe = sim_sock_of(pair[1])->is_pipe = 1;
    return error;
}

static sim_sock *bound_to(const sim_sock *s)
{
    for (sim_sock *o = sim_socks; o; o = o->next) {
        if (o == s || o->family != s->family || o->state == SIM_OVER)
            continue;
        if (is_tcp(s) ? o->state == SIM_LISTENING && o->port == s->calls
                      : o->is_bound && o->name_size == s->call_size &&
                            !memcmp(o->name, s->call, s->call_size))
            return o;
    }
    return NULL;
}

static int path_of(const char *path, size_t size)
{
    for (int i = 0; i < PATHS; i++)
        if (paths[i].inode && !strncmp(paths[i].path, path, size))
            return i;
    return -1;
}

static int bind_unix(sim_sock *s, const struct sockaddr *name, socklen_t size)
{
    const char *path = ((const struct sockaddr_un *)(const void *)name)
                           ->sun_path;
    s->call_size = size - offsetof(struct sockaddr_un, sun_path);
    memcpy(s->call, path, s->call_size);
    if (path[0]) {
        int i = 0;
        if (path_of(path, s->call_size) >= 0)
            return sim_fails(EADDRINUSE);
        while (i < PATHS && paths[i].inode)
            i++;
        if (i == PATHS)
            return sim_fails(ENOSPC);
        memcpy(paths[i].path, path, s->call_size);
        s->inode = paths[i].inode = next_inode++;
    } else if (bound_to(s)) {
        return sim_fails(EADDRINUSE);
    }
    s->is_bound = 1;
    s->name_size = s->call_size;
    memcpy(s->name, s->call, s->call_size);
    return 0;
}

static uint16_t port_in(const struct sockaddr *name)
{
    return ntohs(((const struct sockaddr_in *)(const void *)name)->sin_port);
}

int sim_bind(int fd, const struct sockaddr *name, socklen_t size)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (!is_tcp(s))
        return bind_unix(s, name, size);
    s->port = s->calls = port_in(name);
    if (!s->port)
        s->port = next_port++;
    else if (bound_to(s))
        return sim_fails(EADDRINUSE);
    return 0;
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

/* The names that the two ends have; size is what there is room for, then. */
static void name_of(const sim_sock *s, int port, const char *path,
                    size_t path_size, struct sockaddr *name, socklen_t *size)
{
    union {
        struct sockaddr_un un;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } is;
    size_t whole;
    memset(&is, 0, sizeof is);
    if (!is_tcp(s)) {
        is.un.sun_family = AF_UNIX;
        if (path_size)
            memcpy(is.un.sun_path, path, path_size);
        whole = offsetof(struct sockaddr_un, sun_path) + path_size;
    } else if (s->family == AF_INET6) {
        is.in6.sin6_family = AF_INET6;
        is.in6.sin6_port = htons((uint16_t)port);
        is.in6.sin6_addr = in6addr_loopback;
        whole = sizeof is.in6;
    } else {
        is.in.sin_family = AF_INET;
        is.in.sin_port = htons((uint16_t)port);
        is.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        whole = sizeof is.in;
    }
    memcpy(name, &is, whole < *size ? whole : *size);
    *size = (socklen_t)whole;
}

int sim_getsockname(int fd, struct sockaddr *name, socklen_t *size)
{
    const sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    name_of(s, s->port, s->name, s->name_size, name, size);
    return 0;
}

static int is_called(const sim_sock *s)
{
    return is_tcp(s) ? s->state == SIM_OPEN
                     : s->state == SIM_OPEN || s->state == SIM_OVER;
}

int sim_getpeername(int fd, struct sockaddr *name, socklen_t *size)
{
    const sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (!is_called(s))
        return sim_fails(ENOTCONN);
    name_of(s, s->calls, s->call, s->call_size, name, size);
    return 0;
}

int sim_port(int fd)
{
    const sim_sock *s = sim_sock_of(fd);
    return s ? s->port : -1;
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
    sim_sock *e = new_sock(s->family);
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

void sim_call(sim_sock *s)
{
    sim_sock *listener = bound_to(s);
    if (s->call_lost || (listener && is_full(listener))) {
        s->call_at = sim_time + INT64_C(1000000000);
        if (s->tries++ == 3)
            lost(s, ETIMEDOUT);
    } else if (!listener) {
        reset(s);
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
    sim_sock *listener = bound_to(s);
    int place = path[0] ? path_of(path, s->call_size) : -1;
    if (path[0] && place < 0)
        return sim_fails(ENOENT);
    if (!listener || listener->state != SIM_LISTENING ||
        (path[0] && listener->inode != paths[place].inode))
        return sim_fails(ECONNREFUSED);
    if (is_full(listener))
        return sim_fails(EAGAIN);
    join(listener, s);
    return 0;
}

int sim_connect(int fd, const struct sockaddr *name, socklen_t size)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (name->sa_family == AF_UNSPEC) {
        if (!is_tcp(s))
            return sim_fails(EINVAL);
        disconnect(s);
        return 0;
    }
    if (s->state == SIM_OPEN)
        return sim_fails(EISCONN);
    if (s->state == SIM_CALLING)
        return sim_fails(EALREADY);
    if (!is_tcp(s))
        return call_unix(s, name, size);
    s->calls = port_in(name);
    if (!s->port)
        s->port = next_port++;
    s->state = SIM_CALLING;
    s->call_at = sim_time;
    s->call_lost = sim_now.dial == SIM_LOST;
    if (sim_now.dial == SIM_LATER)
        s->call_at += sim_now.delay + 1;
    else
        sim_call(s);
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
    name_of(first, first->calls, first->call, first->call_size, name, size);
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
        if (held(&s->in) || embryo)
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
    } else if (held(&s->in) || s->urgent || s->linger0) {
        if (other)
            reset(other);
        is_over(s);
    } else {
        s->shut = RECEIVES | SENDS;
        s->ends = 1;
        leaves(s);              /* it may be over then, and is freed */
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
        if (is_tcp(s)) {
            if (s->other)
                reset(s->other);
            s->state = SIM_OVER;
        } else {
            hang_up_unix(s, 1);
        }
        if (s->other)
            s->other->other = NULL;
        free_sock(s);
        next = sim_socks;       /* whoever was freed beside it */
    }
    listener->state = SIM_OVER;
}

int sim_close(int fd)
{
    if (fd < 0 || fd >= ALL_FDS ||
        (!sim_files[fd].sock && !sim_files[fd].epoll))
        return sim_fails(EBADF);
    sim_sock *s = sim_files[fd].sock;
    sim_forget(fd);
    open_count -= fd < SIM_FDS;
    free(sim_files[fd].epoll);
    sim_files[fd] = (sim_file){NULL, NULL};
    if (!s)
        return 0;
    if (s->state == SIM_LISTENING) {
        s->fd = -1;
        forsake(s);
    } else if (is_tcp(s)) {
        if (s->state == SIM_OPEN && !held(&s->in) && !s->urgent &&
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
    free_sock(s);
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
        flow(s);
        return 1;
    }
    if (s->state != SIM_CALLING || s->call_at > sim_time)
        return 0;
    sim_call(s);
    return 1;
}

/* Sockets go as it does, so from the start each time. */
void sim_happen(void)
{
    sim_sock *s = sim_socks;
    while (s)
        s = happens_to(s) ? sim_socks : s->next;
}

/* --- options, files ---------------------------------------------------- */

int sim_setsockopt(int fd, int level, int option, const void *value,
                   socklen_t size)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (level == SOL_SOCKET && option == SO_LINGER) {
        struct linger is;
        CHECK(size == sizeof is);
        memcpy(&is, value, sizeof is);
        s->linger0 = is.l_onoff && !is.l_linger;
    }
    return 0;
}

int sim_getsockopt(int fd, int level, int option, void *value,
                   socklen_t *size)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (s->is_pipe)
        return sim_fails(ENOTSOCK);
    CHECK(level == SOL_SOCKET && option == SO_ERROR && *size == sizeof(int));
    int error = sim_take_error(s);
    memcpy(value, &error, sizeof error);
    return 0;
}

int sim_ioctl(int fd, unsigned long request, int *value)
{
    const sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (s->state == SIM_LISTENING)
        return sim_fails(EINVAL);
    CHECK(request == FIONREAD || request == SIOCOUTQ);
    if (request == FIONREAD)
        *value = (int)(before_urgent(s) < held(&s->in) ? before_urgent(s)
                                                       : held(&s->in));
    else if (is_tcp(s))
        *value = (int)held(&s->out) + (s->ends && !s->end_arrived &&
                                       s->state == SIM_OPEN);
    else
        *value = s->other ? (int)held(&s->other->in) : 0;
    return 0;
}

int sim_fcntl(int fd, int command, int argument)
{
    (void)command, (void)argument;
    return sim_sock_of(fd) ? 0 : -1;
}

int sim_lstat(const char *path, struct stat *info)
{
    int place = path_of(path, sizeof paths->path);
    if (place < 0)
        return sim_fails(ENOENT);
    memset(info, 0, sizeof *info);
    info->st_mode = S_IFSOCK;
    info->st_dev = 1;
    info->st_ino = (ino_t)paths[place].inode;
    return 0;
}

int sim_unlink(const char *path)
{
    int place = path_of(path, sizeof paths->path);
    if (place < 0)
        return sim_fails(ENOENT);
    memset(&paths[place], 0, sizeof *paths);
    return 0;
}

int sim_chmod(const char *path, mode_t mode)
{
    (void)mode;
    return path_of(path, sizeof paths->path) < 0 ? sim_fails(ENOENT) : 0;
}

int sim_fchmodat(int directory, const char *path, mode_t mode, int flags)
{
    (void)directory, (void)flags;
    return sim_chmod(path, mode);
}

int sim_fchmod(int fd, mode_t mode)
{
    (void)mode;
    return sim_sock_of(fd) ? 0 : -1;
}

int sim_sched_getaffinity(int process, size_t size, void *set)
{
    (void)process;
    CPU_ZERO_S(size, (cpu_set_t *)set);
    CPU_SET_S(0, size, (cpu_set_t *)set);
    CPU_SET_S(1, size, (cpu_set_t *)set);
    return 0;
}
#else
typedef int sim_is_for_linux;   /* a file must not be empty */
#endif
