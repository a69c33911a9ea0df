/*
 * The contract of a framing: how a stream of bytes is cut into messages, and
 * what surrounds a message that is sent. A framing sees bytes, never a
 * connection: input.c has the loops that receive, count rows and keep what is
 * left over, once for all framings.
 *
 * An entry that is NULL means that the framing has nothing to do there.
 * Layer 4.
 */
#ifndef PMX_FRAME_H
#define PMX_FRAME_H

#include "net.h"

/* Results of next() and at_end() for the first of the bytes. A framing whose
 * messages come in parts, or that answers some frames itself, adds a kind. */
enum pmx__found {
    PMX__MORE,                  /* no whole frame yet */
    PMX__MESSAGE
};

enum { PMX__HEAD = 8 };         /* the longest head that is written */

/* Messages that are cut where they are, as many as there are in a row. */
typedef struct {
    uint8_t *at, *end;          /* what is left to cut */
    uint8_t *to;                /* where the next message is moved, <= at */
    uint64_t scanned;
    const uint8_t *data;        /* offsets count from here */
    int32_t *offsets;           /* out: where each message ends, its gap too */
    uint32_t room;              /* of offsets */
    uint32_t count;             /* in and out: the messages so far, */
    uint32_t uniform;           /* and the size that all have, or ~0 */
    uint32_t gap;               /* bytes of the tail that stay behind each */
} pmx__run;

typedef struct pmx__framing {
    /* Whether the parameters make sense. */
    int (*valid)(const pmx_framing *f);
    /* Find the first frame in `size` bytes, at least one, and change none:
     * PMX__MESSAGE with *frame, or PMX__MORE with frame->whole, the size of
     * the whole frame, 0 if it is not known yet; else -EMSGSIZE for a message
     * that is, or says it will be, over max_size, or -EPROTO. *scanned is 0
     * where a frame begins, and kept from call to call until it is found. */
    int (*next)(const pmx_framing *f, const uint8_t *bytes, size_t size,
                uint64_t *scanned, pmx_frame *frame);
    /* The same for many frames at once, faster: one that is unusual, not
     * whole or wrong is left to next(). */
    void (*run)(const pmx_framing *f, pmx__run *run);
    /* The stream has ended inside a frame, behind these bytes: PMX__MESSAGE
     * if they are one, else -errno. NULL: -EPROTO. */
    int (*at_end)(const pmx_framing *f, size_t size, pmx_frame *frame);
    /* Write what goes before a message of this size; how many bytes. */
    uint8_t (*head)(const pmx_framing *f, uint64_t size,
                    uint8_t head[PMX__HEAD]);
    /* How many bytes go behind a message; they are f->delimiter. */
    uint8_t (*tail)(const pmx_framing *f);
    /* The parameters mean nothing in another process: a connection that has
     * switched to this framing cannot move there. All other state of a framing
     * is in the bytes that are not cut yet, which move. */
    int is_local;
} pmx__framing;

extern const pmx__framing pmx__raw, pmx__lines, pmx__prefix, pmx__fixed,
    pmx__varint, pmx__scanner;

/* frame.c: which of them; NULL: no such kind. */
const pmx__framing *pmx__framing_of(const pmx_framing *f);
int pmx__framing_valid(const pmx_framing *f);

#endif
