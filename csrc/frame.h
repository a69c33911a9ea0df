/* How a stream is cut into messages. Framings see bytes, no connection.
 * Layer 4. */
#ifndef PMX_FRAME_H
#define PMX_FRAME_H

#include "net.h"

/* frame.c */
typedef struct {
    size_t head;                /* bytes before the payload */
    size_t size;                /* of the payload */
    size_t whole;               /* head, payload and tail */
} pmx__frame;
/* 1: a frame; 0: more is needed (whole: so much in all, if known);
 * -EMSGSIZE. scanned is kept from call to call. */
int pmx__next_frame(const pmx_framing *f, const uint8_t *bytes, size_t size,
                    uint64_t *scanned, pmx__frame *frame);
uint8_t pmx__frame_head(const pmx_framing *f, uint64_t size, uint8_t *head);
int pmx__framing_valid(const pmx_framing *f);

#endif
