/*
 * The public C API of TLS. The caller makes an object for each connection, with
 * all that it has configured, and the core drives it: either the OpenSSL `SSL`
 * inside the caller's object ("adopted"), or the object itself through a
 * function of the caller's ("portable").
 *
 * A connection whose policy has `tls` waits for its object when TCP is
 * connected. The turn tells so (PMX_HANDSHAKES, `waiting`), and the caller
 * answers by pmx_tls_adopt(). The connection is `opened` when its handshake is
 * done. An accepted one that never gets there is `failed`, not `closed`.
 */
#ifndef PMX_TLS_H
#define PMX_TLS_H

#include "pymux.h"

/* cdef begin */
enum pmx_tls {
    /* pmx_tls_adopt(): in the place of the address of an SSL */
    PMX_TLS_PORTABLE = 0,
    PMX_TLS_REFUSED = 1,        /* the caller could not make an object: the
                                   connection ends with EPROTO */
    /* pmx_closed.tls_error: the stream ended without close_notify. (OpenSSL's
     * code for it: ERR_LIB_SSL, unexpected eof while reading.) */
    PMX_TLS_CUT = 0x0A000126
};

/* The OpenSSL objects that this thread has made since pmx_tls_use(). */
typedef struct {
    uint64_t count;
    uint64_t last;              /* the address of the last one */
} pmx_tls_notes;

/* The names of the functions that the core needs of OpenSSL; NULL past the
 * last. Those from the first that is optional on may be lacking. */
const char *pmx_tls_function(uint32_t index);
uint32_t pmx_tls_optional(void);        /* the index of that one */
/* Their addresses, in that order, 0 for one that is lacking. From now on
 * OpenSSL tells which objects are made. Once a process: the functions and this
 * library must never be unloaded. -EALREADY: others were given before;
 * -EINVAL; -ENOMEM. */
int pmx_tls_use(const uint64_t *addresses, uint32_t count);
/* This thread's notes, which stay where they are as long as the thread runs. */
const pmx_tls_notes *pmx_tls_noted(void);

/* Give connections of pmx_turn.waiting their objects: addresses of SSL, or enum
 * pmx_tls. The caller keeps each object until the connection is reported in
 * `closed` or `failed`, or the mux is closed, and does not read or write it. An
 * id that is not waiting any more is passed over. */
int pmx_tls_adopt(pmx_mux *mux, const uint64_t *ids, const uint64_t *objects,
                  uint32_t count);

/* What a portable object is to do. */
enum pmx_tls_step {
    PMX_TLS_SHAKE,              /* take in, and go on with the handshake */
    PMX_TLS_READ,               /* take in, and decrypt into `to` */
    PMX_TLS_WRITE,              /* encrypt all of `in` */
    PMX_TLS_BYE,                /* say the end of our stream */
    PMX_TLS_TAKE                /* nothing but to give what was made before */
};
enum pmx_tls_is {
    PMX_TLS_GOES_ON,            /* all was done that can be */
    PMX_TLS_DONE,               /* SHAKE: the handshake is done; READ: the peer
                                   has ended its stream, behind `got` bytes */
    PMX_TLS_FAILED              /* likewise: the caller keeps the error */
};
typedef struct {
    pmx_mux *mux;               /* whose connection, */
    uint64_t id;                /* and which */
    uint32_t step;              /* enum pmx_tls_step */
    int32_t is;                 /* set: enum pmx_tls_is; FAILED before */
    const uint8_t *in;          /* all of this is taken: ciphertext, or for */
    uint64_t in_size;           /* WRITE plaintext; 16 KiB at most */
    uint8_t *to;                /* where plaintext goes, */
    uint64_t room;
    uint64_t got;               /* set: how many bytes did; the object has no
                                   more if that is less than room */
    uint8_t *out;               /* where ciphertext goes that was made, */
    uint64_t out_room;
    uint64_t made;              /* set: how many bytes did; more is left for
                                   PMX_TLS_TAKE if it is out_room */
    uint64_t resumed;           /* set by SHAKE, when it is done */
} pmx_tls_work;
typedef void (*pmx_tls_call)(pmx_tls_work *work);
/* What drives portable objects, in the thread of the harvest. It must not call
 * into any mux. An object that has failed fails again. */
void pmx_tls_portable(pmx_tls_call call);
/* cdef end */

#endif
