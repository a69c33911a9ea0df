/* No framing: what one receive brings is a message. */
#include "frame.h"

static int valid(const pmx_framing *f)
{
    (void)f;
    return 1;
}

static int next(const pmx_framing *f, const uint8_t *bytes, size_t size,
                uint64_t *scanned, pmx_frame *frame)
{
    (void)f, (void)bytes, (void)scanned;
    *frame = (pmx_frame){0, size, size};
    return PMX__MESSAGE;
}

const pmx__framing pmx__raw = {.valid = valid, .next = next};
