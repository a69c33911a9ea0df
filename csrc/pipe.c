/*
 * A pipe's end as a connection.
 *
 * A read end only receives: from the start nothing more is accepted for sending
 * and the end of its stream was sent. A write end only sends: from the start its
 * input has ended. Closing is all that there is to tell the other end, which
 * gets what was written all the same. A socket's calls are not made on a pipe.
 */
#include "transport.h"

/* A read that is not filled may have stopped at the end of one writer's packet
 * (O_DIRECT on Linux), so it does not tell. */
static int64_t read_some(pmx_mux *mux, pmx__conn *c, void *to, size_t size,
                         pmx__got *got)
{
    (void)mux;
    int64_t n = pmx__pipe_read(c->sock, to, size);
    got->wire = n > 0 ? (size_t)n : 0;
    got->dry = n == -EAGAIN;
    return n;
}

static int64_t write_some(pmx_mux *mux, pmx__conn *c, pmx__span *spans,
                          int count)
{
    (void)mux;
    return pmx__pipe_write(c->sock, spans, count);
}

/* A call that an end cannot serve fails, as it does in the system. */
static int64_t read_none(pmx_mux *mux, pmx__conn *c, void *to, size_t size,
                         pmx__got *got)
{
    (void)mux, (void)c, (void)to, (void)size;
    *got = (pmx__got){.dry = 1};
    return -EBADF;
}

static int64_t write_none(pmx_mux *mux, pmx__conn *c, pmx__span *spans,
                          int count)
{
    (void)mux, (void)c, (void)spans, (void)count;
    return -EBADF;
}

const pmx__transport pmx__read_end = {
    .name = "read end", .arrives_at_once = 1, .recv = read_some,
    .send = write_none,
};

const pmx__transport pmx__write_end = {
    .name = "write end", .arrives_at_once = 1, .recv = read_none,
    .send = write_some,
};

/* A read end has no error that is not read. */
int pmx__pending_error(const pmx__conn *c)
{
    if (!pmx__is_pipe(c))
        return pmx__sock_error(c->sock);
    return pmx__only_sends(c) && pmx__pipe_is_broken(c->sock) ? EPIPE : 0;
}

int64_t pmx__not_acknowledged(const pmx__conn *c)
{
    return pmx__is_pipe(c) ? -1 : pmx__unacknowledged(c->sock);
}

void pmx__close_end(const pmx__conn *c)
{
    if (pmx__is_pipe(c))
        pmx__drop_sock(c->sock);
    else
        pmx__close_sock(c->sock);
}

void pmx__reset_end(const pmx__conn *c)
{
    if (pmx__is_pipe(c))
        pmx__drop_sock(c->sock);
    else
        pmx__reset_sock(c->sock);
}
