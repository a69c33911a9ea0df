/* The transports that change nothing. */
#include "transport.h"

static int64_t plain_recv(pmx_mux *mux, pmx__conn *c, void *to, size_t size)
{
    (void)mux;
    return pmx__recv(c->sock, to, size);
}

static int64_t plain_send(pmx_mux *mux, pmx__conn *c, pmx__span *spans,
                          int count)
{
    (void)mux;
    return count == 1 ? pmx__send(c->sock, spans[0].iov_base,
                                  PMX__SPAN_SIZE(spans[0]))
                      : pmx__send_spans(c->sock, spans, count);
}

const pmx__transport pmx__tcp = {"tcp", 1, 0, plain_recv, plain_send};

/* A receive ends behind bytes that a descriptor was passed with. */
const pmx__transport pmx__unix = {"unix", 0, 1, plain_recv, plain_send};
