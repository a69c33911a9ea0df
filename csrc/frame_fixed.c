/* All messages have one size. */
#include "frame.h"

static int valid(const pmx_framing *f)
{
    return f->max_size >= 1;
}

static int next(const pmx_framing *f, const uint8_t *bytes, size_t size,
                uint64_t *scanned, pmx_frame *frame)
{
    (void)bytes, (void)scanned;
    *frame = (pmx_frame){0, f->max_size, f->max_size};
    return size >= frame->whole ? PMX__MESSAGE : PMX__MORE;
}

const pmx__framing pmx__fixed = {.valid = valid, .next = next};
