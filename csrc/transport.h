/*
 * The contract of a transport: what stands between a connection's socket and
 * the bytes that are framed. A policy in use (pmx__rules) says which. An entry
 * that is NULL means that the transport has nothing to do there.
 *
 * "Wire" bytes are those of the socket. A portion of a turn, what a stop still
 * lets in, and what is dropped are counted in them, so that a peer cannot make
 * many of them look like few. Layer 4.
 */
#ifndef PMX_TRANSPORT_H
#define PMX_TRANSPORT_H

#include "tls_engine.h"

typedef struct {
    size_t wire;                /* bytes taken from the socket */
    int dry;                    /* the socket has no more for now */
    int queued;                 /* the transport has queued bytes of its own */
} pmx__got;

typedef struct pmx__transport {
    const char *name;
    /* What was sent is with the peer, and a close does not take it back; there
     * is nothing to acknowledge. */
    int arrives_at_once;
    int shakes;                 /* connections are open after a handshake only */
    int moves;                  /* a connection may go to another mux: nothing
                                   of it is here (see move.c) */
    /* Bytes for the framing, 0 at the end of the peer's stream, or -errno;
     * -EAGAIN when there are none now: until the socket has more if got->dry,
     * else the caller asks again later. PMX__CUT, when the stream has ended
     * where it must not. It sets got, whatever it returns. */
    int64_t (*recv)(pmx_mux *mux, pmx__conn *c, void *to,
                    size_t size, pmx__got *got);
    /* How many bytes of the spans were taken, or -errno; -EAGAIN when none can
     * be taken now. The bytes of the spans are not changed. A byte that was
     * taken counts as sent and is not given again; those behind it are, later.
     * So what the socket refuses of what a transport made of bytes that it has
     * taken, the transport puts at the head of the queue, by
     * pmx__queue_raw(). */
    int64_t (*send)(pmx_mux *mux, pmx__conn *c,
                    pmx__span *spans, int count);
    /* Bytes taken from the socket that recv() may still deliver. No event
     * reports them: the connection stays ready. */
    size_t (*held)(const pmx__conn *c);
    /* As recv(), of a connection whose input is dropped; NULL: recv(). */
    int64_t (*drop)(pmx_mux *mux, pmx__conn *c, pmx__got *got);
    /* Say the end of our stream, once, however often it is called: what the
     * socket refuses of it goes to the queue, which is empty. FIN follows when
     * the queue is empty again. 0 or -errno: the peer is lost. */
    int (*bye)(pmx_mux *mux, pmx__conn *c);
    /* The connection ends, its socket is open yet: free what belongs to it. */
    void (*end)(pmx__conn *c);
} pmx__transport;

/* Free what the transport keeps, before the connection's socket is closed. */
static inline void pmx__transport_end(pmx__conn *c)
{
    if (c->rules->transport->end)
        c->rules->transport->end(c);
}

extern const pmx__transport pmx__tcp;
extern const pmx__transport pmx__unix;
extern const pmx__transport pmx__read_end;
extern const pmx__transport pmx__write_end;

/* pipe.c: questions that a pipe answers otherwise than a socket; see net.h. */
int pmx__pending_error(const pmx__conn *c);
int64_t pmx__not_acknowledged(const pmx__conn *c);
void pmx__close_end(const pmx__conn *c);
void pmx__reset_end(const pmx__conn *c);
extern const pmx__transport pmx__tls_tcp;
extern const pmx__transport pmx__tls_unix;

static inline const pmx__transport *
pmx__transport_for(const pmx_policy *policy, const pmx__target *target)
{
    if (policy->tls)
        return pmx__family(target) == 1 ? &pmx__tls_unix : &pmx__tls_tcp;
    return pmx__family(target) == 1 ? &pmx__unix : &pmx__tcp;
}

/* transport_tls.c: for handshakes too */
/* Send what the area has for the connection's peer; what the socket refuses is
 * queued. 0 or -errno; the area is empty after it. */
int pmx__put_out(pmx_mux *mux, pmx__conn *c);
/* Give the area what the connection has kept of its ciphertext; and keep what
 * the engine has not taken: 0 or -ENOMEM. */
void pmx__unkeep(pmx_mux *mux, pmx__tls *t);
int pmx__keep(pmx_mux *mux, pmx__tls *t);

/* outq.c: queued output */
int pmx__queue_copy(pmx_mux *mux, pmx__conn *c, const void *bytes,
                    size_t size);
int pmx__queue_common(pmx_mux *mux, pmx__conn *c, pmx__common *common,
                     size_t begin);
/* Bytes that a transport has made, and the socket has not taken, in front of
 * all else but earlier bytes of that kind. */
int pmx__queue_raw(pmx_mux *mux, pmx__conn *c, const void *bytes, size_t size);
/* Until the queue is empty (0) or the kernel takes no more (-errno). */
int pmx__queue_send(pmx_mux *mux, pmx__conn *c, size_t *taken);
void pmx__queue_drop(pmx_mux *mux, pmx__conn *c);
/* The bytes go to `to` (NULL: nowhere), and count as neither sent nor
 * discarded. */
void pmx__queue_take(pmx_mux *mux, pmx__conn *c, uint8_t *to);
pmx__common *pmx__common_new(pmx_mux *mux, const void *bytes, size_t size);
void pmx__common_drop(pmx_mux *mux, pmx__common *common);

#endif
