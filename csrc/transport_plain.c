/* The transports that change no byte. */
#include "transport.h"

/* A receive that TCP does not fill has taken all there was. */
static int64_t tcp_recv(pmx_mux *mux, pmx__conn *c, void *to, size_t size,
                        pmx__got *got)
{
    (void)mux;
    int64_t n = pmx__recv(c->sock, to, size);
    got->wire = n > 0 ? (size_t)n : 0;
    got->dry = got->wire < size;
    return n;
}

/* A receive ends behind bytes that a descriptor was passed with, so one that
 * is not filled does not tell. */
static int64_t unix_recv(pmx_mux *mux, pmx__conn *c, void *to, size_t size,
                         pmx__got *got)
{
    (void)mux;
    int64_t n = pmx__recv(c->sock, to, size);
    got->wire = n > 0 ? (size_t)n : 0;
    got->dry = n == -EAGAIN;
    return n;
}

static int64_t plain_send(pmx_mux *mux, pmx__conn *c, pmx__span *spans,
                          int count)
{
    (void)mux;
    return count == 1 ? pmx__send(c->sock, spans[0].iov_base,
                                  PMX__SPAN_SIZE(spans[0]))
                      : pmx__send_spans(c->sock, spans, count);
}

const pmx__transport pmx__tcp = {
    .name = "tcp", .moves = 1, .recv = tcp_recv, .send = plain_send,
};

const pmx__transport pmx__unix = {
    .name = "unix", .arrives_at_once = 1, .moves = 1, .recv = unix_recv,
    .send = plain_send,
};
