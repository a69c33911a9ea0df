/* Messages end with a delimiter of 1 to 16 bytes. */
#include "frame.h"

#include <errno.h>
#include <string.h>

static int valid(const pmx_framing *f)
{
    return f->width >= 1 && f->width <= sizeof f->delimiter;
}

static int next(const pmx_framing *f, const uint8_t *bytes, size_t size,
                uint64_t *scanned, pmx_frame *frame)
{
    size_t width = f->width;
    const uint8_t *at = bytes + *scanned;
    const uint8_t *end = bytes + size;

    /* A delimiter that begins at `end - (width - 1)` or later is not whole. */
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
            return frame->size > f->max_size ? -EMSGSIZE : PMX__MESSAGE;
        }
        at++;
    }
    *scanned = (uint64_t)(at - bytes);
    frame->whole = 0;
    return *scanned > f->max_size ? -EMSGSIZE : PMX__MORE;
}

/* Lines that stay where they are, their delimiter of one byte behind them. */
static void run(const pmx_framing *f, pmx__run *r)
{
    uint8_t *at = r->at, *found;
    uint64_t scanned = r->scanned;
    uint32_t count = r->count, uniform = r->uniform;

    if (f->width != 1 || r->gap != 1)
        return;
    while (count < r->room && at + scanned < r->end &&
           (found = memchr(at + scanned, f->delimiter[0],
                           (size_t)(r->end - at) - (size_t)scanned))) {
        size_t size = (size_t)(found - at);
        if (size > f->max_size)
            break;
        uniform = count && uniform != size ? UINT32_MAX : (uint32_t)size;
        at = found + 1;
        scanned = 0;
        r->offsets[count++] = (int32_t)(at - r->data);
    }
    r->at = r->to = at;
    r->scanned = scanned;
    r->count = count;
    r->uniform = uniform;
}

/* The bytes behind the last delimiter are the last line. */
static int at_end(const pmx_framing *f, size_t size, pmx_frame *frame)
{
    *frame = (pmx_frame){0, size, size};
    return size > f->max_size ? -EMSGSIZE : PMX__MESSAGE;
}

static uint8_t tail(const pmx_framing *f)
{
    return (uint8_t)f->width;
}

const pmx__framing pmx__lines = {
    .valid = valid, .next = next, .run = run, .at_end = at_end, .tail = tail,
};
