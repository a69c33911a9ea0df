/* What a random test decides by: bytes, given (a fuzzer's) or drawn from a
 * seed. The same bytes make the same life. */
#ifndef CHOICES_H
#define CHOICES_H

#include "world.h"

typedef struct {
    const uint8_t *bytes;       /* NULL: drawn */
    size_t size, at;
    uint64_t state;
    buffer *record;             /* what was drawn, or NULL */
} choices;

choices choices_given(const uint8_t *bytes, size_t size);
choices choices_drawn(uint64_t seed);
/* One of 0 to of - 1; 0 where nothing is given any more. */
uint32_t choose(choices *c, uint32_t of);
/* Once in so many times. Nothing that is rare happens for want of bytes. */
int once_in(choices *c, uint32_t of);
int are_used_up(const choices *c);
#define ONE_OF(c, array) \
    ((array)[choose(c, (uint32_t)(sizeof(array) / sizeof *(array)))])

/* The framings, as plainly as they can be said. */
enum plain { PLAIN_BROKEN = -2, PLAIN_TOO_LONG, PLAIN_NONE, PLAIN_MESSAGE };
/* The first message of a stream, which has ended or goes on: where its
 * payload begins, its size, and where the next one begins. */
enum plain plain_cut(const pmx_framing *f, const uint8_t *bytes, size_t size,
                     int ended, size_t *begin, size_t *length, size_t *next);
/* A message as it goes out; and a frame as it comes in, with a payload of that
 * size at most, if the framing has room for it. */
void plain_frame(const pmx_framing *f, const uint8_t *bytes, size_t size,
                 buffer *wire);
void plain_stream(const pmx_framing *f, const uint8_t *bytes, size_t size,
                  buffer *wire);
size_t plain_most(const pmx_framing *f);
/* In which framing a connection's messages go out. */
const pmx_framing *plain_out(const pmx_policy *p);
pmx_policy some_framing(choices *c);
/* A pmx_scan: netstrings, as "5:hello,". */
int scan_netstring(const uint8_t *bytes, size_t size, uint64_t *scanned,
                   pmx_frame *frame);

#endif
