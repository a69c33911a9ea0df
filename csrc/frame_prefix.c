/*
 * Framings whose frames tell their size before their message does: a length of
 * fixed width, a length in LEB128, and a function of the caller's.
 *
 *   offset bytes | the length, L | L + adjust bytes
 *
 * The message is what follows the length; with keep_head it is all of the
 * frame.
 */
#include "frame.h"

#include <errno.h>
#include <string.h>

enum {
    LARGEST_OFFSET = 4096,      /* carries and their bounds allow for it */
    LONGEST_VARINT = 5
};

static int valid_head(const pmx_framing *f)
{
    return f->offset <= LARGEST_OFFSET && (f->keep_head || !f->offset);
}

/* Where the frame is whose length has `width` bytes and says `length`. */
static int bounds(const pmx_framing *f, size_t size, size_t width,
                  uint64_t length, int64_t adjust, pmx_frame *frame)
{
    size_t before = f->offset + width;
    if (length > INT64_MAX / 2)
        return -EMSGSIZE;
    int64_t rest = (int64_t)length + adjust;
    if (rest < 0)
        return -EPROTO;
    if ((uint64_t)rest + (f->keep_head ? before : 0) > f->max_size)
        return -EMSGSIZE;
    frame->whole = before + (size_t)rest;
    frame->head = f->keep_head ? 0 : before;
    frame->size = frame->whole - frame->head;
    return size >= frame->whole ? PMX__MESSAGE : PMX__MORE;
}

/* --- a length of fixed width -------------------------------------------- */

static int prefix_valid(const pmx_framing *f)
{
    return ((f->width >= 1 && f->width <= 4) || f->width == 8) &&
           valid_head(f);
}

static int prefix_next(const pmx_framing *f, const uint8_t *bytes,
                       size_t size, uint64_t *scanned, pmx_frame *frame)
{
    uint64_t length = 0;
    const uint8_t *at = bytes + f->offset;
    (void)scanned;
    frame->whole = (size_t)f->offset + f->width;
    if (size < frame->whole)
        return PMX__MORE;
    for (uint32_t i = 0; i < f->width; i++)
        length = length << 8 | at[f->little ? f->width - 1 - i : i];
    return bounds(f, size, f->width, length, f->adjust, frame);
}

static uint8_t prefix_head(const pmx_framing *f, uint64_t size,
                           uint8_t head[PMX__HEAD])
{
    uint64_t length = size - (uint64_t)(int64_t)f->adjust;
    if (f->keep_head)
        return 0;
    for (uint32_t i = 0; i < f->width; i++)
        head[f->little ? i : f->width - 1 - i] = (uint8_t)(length >> 8 * i);
    return (uint8_t)f->width;
}

const pmx__framing pmx__prefix = {
    .valid = prefix_valid, .next = prefix_next, .head = prefix_head,
};

/* --- a length in LEB128 ------------------------------------------------- */

static int varint_next(const pmx_framing *f, const uint8_t *bytes,
                       size_t size, uint64_t *scanned, pmx_frame *frame)
{
    uint64_t length = 0;
    (void)scanned;
    frame->whole = 0;
    for (uint32_t i = 0; i < LONGEST_VARINT; i++) {
        if (size <= (size_t)f->offset + i)
            return PMX__MORE;
        uint8_t byte = bytes[f->offset + i];
        length |= (uint64_t)(byte & 127) << 7 * i;
        if (byte < 128)
            return bounds(f, size, i + 1, length, 0, frame);
    }
    return -EPROTO;
}

static uint8_t varint_head(const pmx_framing *f, uint64_t size,
                           uint8_t head[PMX__HEAD])
{
    uint8_t width = 0;
    if (f->keep_head)
        return 0;
    for (; size > 127 && width < LONGEST_VARINT - 1; size >>= 7)
        head[width++] = (uint8_t)(size | 128);
    head[width++] = (uint8_t)(size & 127);
    return width;
}

const pmx__framing pmx__varint = {
    .valid = valid_head, .next = varint_next, .head = varint_head,
};

/* --- a function of the caller's ----------------------------------------- */

static int scanner_valid(const pmx_framing *f)
{
    return f->scan && f->scan <= UINTPTR_MAX && f->max_size;
}

/* The scanner's answers are checked: a wrong one must not make the core read
 * beyond the bytes, or stand still. */
static int scanner_next(const pmx_framing *f, const uint8_t *bytes,
                        size_t size, uint64_t *scanned, pmx_frame *frame)
{
    enum { ERRNOS = 4096 };
    pmx_scan scan = (pmx_scan)(uintptr_t)f->scan;
    memset(frame, 0, sizeof *frame);
    int is = scan(bytes, size, scanned, frame);
    if (is < 0)
        return is > -ERRNOS ? is : -EPROTO;
    if (is == 1) {
        *scanned = 0;
        if (!frame->whole || frame->whole > size ||
            frame->head > frame->whole ||
            frame->size > frame->whole - frame->head)
            return -EPROTO;
        return frame->whole > f->max_size ? -EMSGSIZE : PMX__MESSAGE;
    }
    if (is)
        return -EPROTO;
    if (frame->whole <= size)   /* the scanner does not know it */
        frame->whole = 0;
    return size >= f->max_size || frame->whole > f->max_size ? -EMSGSIZE
                                                             : PMX__MORE;
}

const pmx__framing pmx__scanner = {
    .valid = scanner_valid, .next = scanner_next, .is_local = 1,
};
