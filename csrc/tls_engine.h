/*
 * The contract of a TLS engine: what drives one connection's TLS object. It sees
 * bytes in memory, never a socket: transport_tls.c and shake.c move them.
 *
 * Ciphertext for the object stands in the area's `in`; what the object makes for
 * the peer goes to the area's `out`. The area is the mux's, for one connection at
 * a time: `out` is empty whenever another connection is taken up, or one peer
 * would get the bytes of another. Layer 4.
 */
#ifndef PMX_TLS_ENGINE_H
#define PMX_TLS_ENGINE_H

#include "core.h"

enum {
    PMX__WIRE = PMX__PORTION,   /* ciphertext that one receive takes at most */
    PMX__ENCRYPT = 65536,       /* plaintext that is encrypted in one go, */
    PMX__ENCRYPTED = PMX__ENCRYPT + 8192,   /* and what it becomes: five
                                   records, and tickets */
};

typedef struct pmx__tls_area {
    pmx_mux *mux;               /* whose area it is */
    const uint8_t *in;          /* not taken in yet */
    size_t in_size;
    uint8_t *out;
    size_t out_size, out_room;
    uint8_t wire[PMX__WIRE];    /* where ciphertext is received */
} pmx__tls_area;

/* A result that is neither bytes nor an errno: the stream has ended without
 * close_notify. */
#define PMX__CUT INT64_MIN

/* Each call may read area->in and add to area->out. One that fails sets t->code
 * and t->verify, if it can say why. */
typedef struct pmx__tls_engine {
    const char *name;
    /* 1: the handshake is done, and *resumed tells whether by a ticket; -EAGAIN:
     * all of `in` is taken, and more is needed; another -errno: it has failed. */
    int64_t (*shake)(pmx__tls *t, pmx__tls_area *area, int *resumed);
    /* Plaintext bytes, 0: the peer has ended its stream, or -errno likewise. */
    int64_t (*read)(pmx__tls *t, pmx__tls_area *area, uint8_t *to,
                    size_t room);
    /* Encrypt all: 0 or -errno. */
    int (*write)(pmx__tls *t, pmx__tls_area *area, const uint8_t *from,
                 size_t size);
    void (*bye)(pmx__tls *t, pmx__tls_area *area);
    /* Plaintext that read() would give without more of `in`. */
    size_t (*pending)(const pmx__tls *t);
} pmx__tls_engine;

/* Room for so many more bytes of `out`: 0 or -ENOMEM. */
int pmx__area_reserve(pmx__tls_area *area, size_t more);
pmx__tls_area *pmx__area_new(pmx_mux *mux);
void pmx__area_free(pmx__tls_area *area);

/* tls_openssl.c: the connection's object is the address of an SSL. */
extern const pmx__tls_engine pmx__openssl;
/* Prepare the object that t->object names: 0, or -EINVAL before
 * pmx_tls_use(). */
int pmx__openssl_begin(pmx__tls *t);

/* tls_portable.c: the caller has the object, by the connection's id. */
extern const pmx__tls_engine pmx__portable;
int pmx__has_portable(void);

#endif
