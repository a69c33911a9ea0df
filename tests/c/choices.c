/* See choices.h. */
#include "choices.h"

#include <string.h>

choices choices_given(const uint8_t *bytes, size_t size)
{
    return (choices){.bytes = bytes ? bytes : (const uint8_t *)"",
                     .size = size};
}

choices choices_drawn(uint64_t seed)
{
    return (choices){.state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
}

int are_used_up(const choices *c)
{
    return c->bytes && c->at >= c->size;
}

static uint32_t next_byte(choices *c)
{
    uint8_t byte;
    if (c->bytes) {
        byte = c->at < c->size ? c->bytes[c->at] : 0;
        c->at++;
    } else {
        c->state = c->state * UINT64_C(6364136223846793005) +
                   UINT64_C(1442695040888963407);
        byte = (uint8_t)(c->state >> 40);
    }
    if (c->record)
        append(c->record, &byte, 1);
    return byte;
}

uint32_t choose(choices *c, uint32_t of)
{
    uint32_t is = of > 1 ? next_byte(c) : 0;
    if (of > 256)
        is = is << 8 | next_byte(c);
    return is % of;
}

int once_in(choices *c, uint32_t of)
{
    return choose(c, of) == of - 1;
}

/* --- framings ---------------------------------------------------------- */

static enum plain cut_line(const pmx_framing *f, const uint8_t *bytes,
                           size_t size, int ended, size_t *length,
                           size_t *next)
{
    size_t at = 0;
    while (at + f->width <= size && memcmp(bytes + at, f->delimiter, f->width))
        at++;
    if (at + f->width <= size) {
        *length = at;
        *next = at + f->width;
        return at > f->max_size ? PLAIN_TOO_LONG : PLAIN_MESSAGE;
    }
    *length = *next = size;
    if (size > (uint64_t)f->max_size + f->width - 1 ||
        (ended && size > f->max_size))
        return PLAIN_TOO_LONG;
    return ended && size ? PLAIN_MESSAGE : PLAIN_NONE;
}

static enum plain cut_prefixed(const pmx_framing *f, const uint8_t *bytes,
                               size_t size, size_t *begin, size_t *length,
                               size_t *next)
{
    uint64_t claim = 0;
    if (size < f->width)
        return PLAIN_NONE;
    for (uint32_t i = 0; i < f->width; i++)
        claim |= (uint64_t)bytes[i]
                 << 8 * (f->little ? i : f->width - 1 - i);
    if (claim > f->max_size)
        return PLAIN_TOO_LONG;
    *begin = f->width;
    *length = (size_t)claim;
    *next = *begin + *length;
    return size >= *next ? PLAIN_MESSAGE : PLAIN_NONE;
}

enum plain plain_cut(const pmx_framing *f, const uint8_t *bytes, size_t size,
                     int ended, size_t *begin, size_t *length, size_t *next)
{
    *begin = 0;
    switch (f->kind) {
    case PMX_LINES:
        return cut_line(f, bytes, size, ended, length, next);
    case PMX_PREFIX:
        return cut_prefixed(f, bytes, size, begin, length, next);
    case PMX_FIXED:
        *length = *next = f->max_size;
        return size >= *next ? PLAIN_MESSAGE : PLAIN_NONE;
    default:
        *length = *next = size;
        return size ? PLAIN_MESSAGE : PLAIN_NONE;
    }
}

void plain_frame(const pmx_framing *f, const uint8_t *bytes, size_t size,
                 buffer *wire)
{
    if (f->kind == PMX_PREFIX)
        for (uint32_t i = 0; i < f->width; i++) {
            uint32_t shift = 8 * (f->little ? i : f->width - 1 - i);
            uint8_t byte = (uint8_t)((uint64_t)size >> shift);
            append(wire, &byte, 1);
        }
    append(wire, bytes, size);
    if (f->kind == PMX_LINES)
        append(wire, f->delimiter, f->width);
}

pmx_policy some_framing(choices *c)
{
    static const char *const delimiters[] = {"\n", "\r\n", "ab", "aab", "a",
                                             "abababab", "aaaa",
                                             "0123456789abcdef"};
    static const uint32_t sizes[] = {0, 1, 5, 30, 100, 1000, 4096, 20000,
                                     70000, 300000};
    uint32_t size = ONE_OF(c, sizes);
    switch (choose(c, 5)) {
    case 0:
        return raw();
    case 1: case 2:
        return lines(ONE_OF(c, delimiters), size);
    case 3:
        return prefix(1u << choose(c, 4), (int)choose(c, 2), size);
    default:
        return fixed(size ? size : 3);
    }
}
