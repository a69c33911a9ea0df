/* Which framing there is for a kind. */
#include "frame.h"

const pmx__framing *pmx__framing_of(const pmx_framing *f)
{
    switch (f->kind) {
    case PMX_RAW: return &pmx__raw;
    case PMX_LINES: return &pmx__lines;
    case PMX_PREFIX: return &pmx__prefix;
    case PMX_FIXED: return &pmx__fixed;
    case PMX_VARINT: return &pmx__varint;
    case PMX_SCANNER: return &pmx__scanner;
    default: return NULL;
    }
}

int pmx__framing_valid(const pmx_framing *f)
{
    const pmx__framing *framing = pmx__framing_of(f);
    return framing && f->max_size <= INT32_MAX && framing->valid(f);
}
