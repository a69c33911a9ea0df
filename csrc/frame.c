/* Framings, both ways. Nothing here allocates or copies. */
#include "frame.h"

#include <string.h>

int pmx__framing_valid(const pmx_framing *f)
{
    switch (f->kind) {
    case PMX_RAW:
        return 1;
    case PMX_LINES:
        return f->width >= 1 && f->width <= sizeof f->delimiter;
    case PMX_PREFIX:
        return f->width == 1 || f->width == 2 || f->width == 4 ||
               f->width == 8;
    case PMX_FIXED:
        return f->max_size >= 1;
    default:
        return 0;
    }
}

static int next_line(const pmx_framing *f, const uint8_t *bytes, size_t size,
                     uint64_t *scanned, pmx__frame *frame)
{
    size_t width = f->width;
    const uint8_t *at = bytes + *scanned;
    const uint8_t *end = bytes + size;

    /* Whatever begins at or after `end - (width - 1)` is not whole yet. */
    while ((size_t)(end - at) >= width) {
        at = memchr(at, f->delimiter[0], (size_t)(end - at) - (width - 1));
        if (!at) {
            at = end - (width - 1);
            break;
        }
        if (width == 1 || !memcmp(at, f->delimiter, width)) {
            frame->head = 0;
            frame->size = (size_t)(at - bytes);
            frame->whole = frame->size + width;
            *scanned = 0;
            return frame->size > f->max_size ? -EMSGSIZE : 1;
        }
        at++;
    }
    *scanned = (uint64_t)(at - bytes);
    frame->whole = 0;
    return *scanned > f->max_size ? -EMSGSIZE : 0;
}

static int next_prefixed(const pmx_framing *f, const uint8_t *bytes,
                         size_t size, pmx__frame *frame)
{
    uint64_t claimed = 0;
    frame->whole = f->width;
    if (size < f->width)
        return 0;
    for (uint32_t i = 0; i < f->width; i++)
        claimed = claimed << 8 | bytes[f->little ? f->width - 1 - i : i];
    if (claimed > f->max_size)
        return -EMSGSIZE;
    frame->head = f->width;
    frame->size = (size_t)claimed;
    frame->whole = f->width + frame->size;
    return size >= frame->whole;
}

int pmx__next_frame(const pmx_framing *f, const uint8_t *bytes, size_t size,
                    uint64_t *scanned, pmx__frame *frame)
{
    switch (f->kind) {
    case PMX_LINES:
        return next_line(f, bytes, size, scanned, frame);
    case PMX_PREFIX:
        return next_prefixed(f, bytes, size, frame);
    default:                    /* PMX_FIXED; raw bytes have no frames */
        frame->head = 0;
        frame->size = frame->whole = f->max_size;
        return size >= frame->whole;
    }
}

uint8_t pmx__frame_head(const pmx_framing *f, uint64_t size, uint8_t *head)
{
    if (f->kind != PMX_PREFIX)
        return 0;
    for (uint32_t i = 0; i < f->width; i++)
        head[f->little ? i : f->width - 1 - i] = (uint8_t)(size >> 8 * i);
    return (uint8_t)f->width;
}
