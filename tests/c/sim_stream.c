/* The streams of the system in memory: bytes on their way, ends and resets.
 * See sim.h. */
#ifdef __linux__
#include "sim_parts.h"

#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

size_t sim_held(const sim_bytes *b)
{
    return b->end - b->begin;
}

static void drop(sim_bytes *b, size_t size)
{
    b->begin += size;
    if (b->begin == b->end)
        b->begin = b->end = 0;
}

/* --- a stream ---------------------------------------------------------- */

int sim_is_tcp(const sim_sock *s)
{
    return s->family != AF_UNIX;
}

int sim_is_writable(const sim_sock *s)
{
    if (sim_is_tcp(s))      /* sk_stream_is_writeable, unix_writable */
        return sim_held(&s->out) <= s->room_out / 3 * 2;
    if (s->is_pipe)
        return !s->other || sim_held(&s->other->in) < s->room_out;
    return !s->other || sim_held(&s->other->in) <= s->room_out / 4;
}

void sim_is_over(sim_sock *s)
{
    s->state = SIM_OVER;
    s->shut = RECEIVES | SENDS;
    s->out.begin = s->out.end = 0;
    if (s->other)
        s->other->other = NULL;
    s->other = NULL;
    sim_wake(s, 0);
}

void sim_release(sim_sock *s)
{
    if (s->fd < 0 && s->state == SIM_OVER && !s->in_backlog)
        sim_free(s);
}

/* The other end, or the network, says that there is no connection. */
void sim_lost(sim_sock *s, int error)
{
    if (s->state == SIM_OVER)
        return;
    s->error = error;
    sim_wake(s, EPOLLERR);
    sim_is_over(s);
    sim_release(s);
}

void sim_reset(sim_sock *s)
{
    sim_lost(s, s->state == SIM_CALLING ? ECONNREFUSED
            : s->done && !s->ends ? EPIPE : ECONNRESET);
}

static void reset_both(sim_sock *s)
{
    sim_sock *other = s->other;
    sim_reset(s);
    if (other)
        sim_reset(other);
}

void sim_break(int fd, int error)
{
    sim_sock *s = sim_sock_of(fd);
    sim_sock *other = s ? s->other : NULL;
    if (!s || s->state != SIM_OPEN || !sim_is_tcp(s))
        return;
    sim_lost(s, error);
    if (other)
        sim_lost(other, error);
}

/* Both ends have been sent and have arrived. */
static void end_of_both(sim_sock *s, sim_sock *other)
{
    sim_is_over(s);
    sim_is_over(other);
    sim_release(s);
    sim_release(other);
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
        s->urgent_out - 1 > s->sent - sim_held(&s->out) + size)
        return;
    to->urgent = s->urgent_out;
    s->urgent_out = 0;
    sim_wake(to, EPOLLPRI);
}

/* What is on its way arrives, as far as there is room for it. */
void sim_flow(sim_sock *s)
{
    sim_sock *to = s->other;
    if (!to || s->flows_at > sim_time)
        return;
    size_t size = sim_held(&s->out), room = to->room_in - sim_held(&to->in);
    if (to->room_in < sim_held(&to->in))
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
    if (sim_held(&s->out) || !s->ends || s->end_arrived)
        return;
    s->end_arrived = 1;
    to->done = 1;
    to->shut |= RECEIVES;
    sim_wake(to, 0);
    if (to->end_arrived)
        end_of_both(s, to);
}

void sim_leaves(sim_sock *s)
{
    if (s->flows_at <= sim_time)
        s->flows_at = sim_time + s->delay;
    sim_flow(s);
}

static ssize_t send_tcp(sim_sock *s, const uint8_t *from, size_t size)
{
    size_t room = s->room_out - sim_held(&s->out), part;
    if (!room || !sim_is_writable(s)) {
        s->no_room = 1;
        return sim_fails(EAGAIN);
    }
    part = size < room ? size : room;
    put(&s->out, from, part);
    s->sent += part;
    if (part < size)
        s->no_room = 1;
    sim_leaves(s);
    return (ssize_t)part;
}

static ssize_t send_unix(sim_sock *s, const uint8_t *from, size_t size)
{
    sim_sock *to = s->other;
    if (!to || to->shut & RECEIVES)
        return sim_fails(EPIPE);
    size_t used = sim_held(&to->in);
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

static ssize_t send_some(sim_sock *s, const void *from, size_t size, int flags)
{
    if (!s)
        return -1;
    if (s->state == SIM_CALLING && !s->error)
        return sim_fails(EAGAIN);
    if (sim_is_tcp(s) && s->error)
        return sim_fails(sim_take_error(s));
    if (s->state == SIM_IDLE && !sim_is_tcp(s))
        return sim_fails(ENOTCONN);
    if (s->state != SIM_OPEN || s->shut & SENDS)
        return sim_fails(EPIPE);
    if (!size)
        return 0;
    if (flags & MSG_OOB && !sim_is_tcp(s))
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
    return sim_is_tcp(s) ? send_tcp(s, from, size) : send_unix(s, from, size);
}

ssize_t sim_send(int fd, const void *from, size_t size, int flags)
{
    return send_some(sim_no_pipe(fd), from, size, flags);
}

int sim_passes(int fd)
{
    const sim_sock *s = sim_sock_of(fd);
    return s && s->other && s->other->rights_to;
}

/* All spans together, so that an error is the next call's; with a descriptor,
 * if anything comes along with them. */
ssize_t sim_sendmsg(int fd, const struct msghdr *message, int flags)
{
    const sim_sock *s = sim_no_pipe(fd);
    ssize_t all = 0;
    if (s && message->msg_controllen) {
        sim_sock *to = s->other;
        uint64_t from = s->sent;
        CHECK(!sim_is_tcp(s) && message->msg_iovlen == 1 && !sim_passes(fd));
        all = sim_send(fd, message->msg_iov->iov_base,
                       message->msg_iov->iov_len, flags);
        if (all > 0) {
            to->rights_from = from;
            to->rights_to = s->sent;
        }
        return all;
    }
    for (size_t i = 0; s && i < (size_t)message->msg_iovlen; i++) {
        const struct iovec *span = &message->msg_iov[i];
        if (!span->iov_len)
            continue;
        ssize_t n = all && s->error ? -1
                                    : sim_send(fd, span->iov_base,
                                               span->iov_len, flags);
        if (n < 0)
            return all ? all : n;
        all += n;
        if ((size_t)n < span->iov_len)
            break;
    }
    return s ? all : -1;
}

int sim_take_error(sim_sock *s)
{
    int error = s->error;
    s->error = 0;
    return error;
}

size_t sim_before_urgent(const sim_sock *s)
{
    return s->urgent ? (size_t)(s->urgent - 1 - s->received) : SIZE_MAX;
}

static ssize_t receive(sim_sock *s, void *to, size_t size)
{
    if (!s)
        return -1;
    if (!sim_is_tcp(s) && s->state != SIM_OPEN && s->state != SIM_OVER)
        return sim_fails(EINVAL);
    if (s->state == SIM_LISTENING)
        return sim_fails(ENOTCONN);
    size_t n = sim_held(&s->in) < size ? sim_held(&s->in) : size;
    size_t before = sim_before_urgent(s);
    if (!before)
        s->urgent = 0;          /* skipped */
    else if (before < n)
        n = before;             /* not across it */
    if (s->rights_to && s->received + n > s->rights_from) {
        if (n > s->rights_to - s->received)
            n = (size_t)(s->rights_to - s->received);   /* nor behind it */
        s->rights_to = 0;       /* taken, with the first of its bytes */
    }
    if (n) {
        memcpy(to, s->in.is + s->in.begin, n);
        drop(&s->in, n);
        s->received += n;
        if (sim_is_tcp(s) && s->other)
            sim_flow(s->other);
        else if (s->other)
            room_again(s->other);
        return (ssize_t)n;
    }
    if (!size || (sim_is_tcp(s) && s->done))
        return 0;
    if (s->error)
        return sim_fails(sim_take_error(s));
    if (s->shut & RECEIVES)
        return 0;
    return sim_fails(sim_is_tcp(s) && s->state == SIM_IDLE ? ENOTCONN : EAGAIN);
}

ssize_t sim_recv(int fd, void *to, size_t size, int flags)
{
    (void)flags;
    return receive(sim_no_pipe(fd), to, size);
}

ssize_t sim_read(int fd, void *to, size_t size)
{
    return receive(sim_sock_of(fd), to, size);
}

ssize_t sim_write(int fd, const void *from, size_t size)
{
    return send_some(sim_sock_of(fd), from, size, 0);
}

ssize_t sim_writev(int fd, const struct iovec *spans, int count)
{
    ssize_t all = 0;
    for (int i = 0; i < count; i++) {
        ssize_t n = spans[i].iov_len ? sim_write(fd, spans[i].iov_base,
                                                 spans[i].iov_len) : 0;
        if (n < 0)
            return all ? all : n;
        all += n;
        if ((size_t)n < spans[i].iov_len)
            break;
    }
    return all;
}

void sim_disconnect(sim_sock *s)
{
    sim_sock *other = s->other;
    if (s->state == SIM_OPEN || s->state == SIM_CALLING)
        s->error = ECONNRESET;
    sim_is_over(s);
    s->state = SIM_IDLE;
    s->shut = 0;
    s->ends = s->end_arrived = s->done = 0;
    s->in.begin = s->in.end = 0;
    s->urgent = 0;
    if (s->error)
        sim_wake(s, EPOLLERR);
    if (other)
        sim_reset(other);
}

int sim_shutdown(int fd, int how)
{
    sim_sock *s = sim_no_pipe(fd);
    if (!s)
        return -1;
    unsigned what = how == SHUT_RD ? RECEIVES : how == SHUT_WR ? SENDS
                                              : RECEIVES | SENDS;
    if (sim_is_tcp(s)) {
        if (s->state == SIM_IDLE || s->state == SIM_OVER) {
            s->shut |= what;
            sim_wake(s, 0);
            return sim_fails(ENOTCONN);
        }
        if (s->state == SIM_LISTENING)
            return 0;           /* it is closed next */
        if (s->state == SIM_CALLING) {
            sim_disconnect(s);
            return 0;
        }
        s->shut |= what;
        if (what & SENDS && !s->ends) {
            s->ends = 1;
            sim_wake(s, 0);
            sim_leaves(s);
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
#else
typedef int sim_streams_on_linux;   /* a file must not be empty */
#endif
