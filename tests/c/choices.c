/* See choices.h. */
#include "choices.h"

#include <stdio.h>
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

/* What the length says, with what follows it: kept apart from what the core
 * computes as far as can be. */
static enum plain cut_counted(const pmx_framing *f, size_t size, size_t head,
                              uint64_t says, size_t *begin, size_t *length,
                              size_t *next)
{
    if (says >= UINT64_C(1) << 40)
        return PLAIN_TOO_LONG;
    int64_t body = (int64_t)says + (f->kind == PMX_PREFIX ? f->adjust : 0);
    if (body < 0)
        return PLAIN_BROKEN;
    *begin = f->keep_head ? 0 : head;
    if (head + (uint64_t)body - *begin > f->max_size)
        return PLAIN_TOO_LONG;  /* perhaps more than a size_t can say */
    *next = head + (size_t)body;
    *length = *next - *begin;
    return size >= *next ? PLAIN_MESSAGE : PLAIN_NONE;
}

static enum plain cut_prefixed(const pmx_framing *f, const uint8_t *bytes,
                               size_t size, size_t *begin, size_t *length,
                               size_t *next)
{
    uint64_t says = 0;
    size_t head = f->offset + f->width;
    if (size < head)
        return PLAIN_NONE;
    for (uint32_t i = 0; i < f->width; i++)
        says |= (uint64_t)bytes[f->offset + i]
                << 8 * (f->little ? i : f->width - 1 - i);
    return cut_counted(f, size, head, says, begin, length, next);
}

static enum plain cut_varint(const pmx_framing *f, const uint8_t *bytes,
                             size_t size, size_t *begin, size_t *length,
                             size_t *next)
{
    uint64_t says = 0, unit = 1;
    size_t at = f->offset;
    do {
        if (at - f->offset == 5)
            return PLAIN_BROKEN;
        if (at >= size)
            return PLAIN_NONE;
        says += bytes[at] % 128 * unit;
        unit *= 128;
    } while (bytes[at++] >= 128);
    return cut_counted(f, size, at, says, begin, length, next);
}

static enum plain cut_netstring(const pmx_framing *f, const uint8_t *bytes,
                                size_t size, size_t *begin, size_t *length,
                                size_t *next)
{
    size_t at = 0, says = 0;
    for (; at < size && bytes[at] >= '0' && bytes[at] <= '9' && at < 7; at++)
        says = 10 * says + bytes[at] - '0';
    if (at == 7 || (at < size && bytes[at] != ':') || (at < size && !at))
        return PLAIN_BROKEN;
    *begin = at + 1;
    *length = says;
    *next = *begin + says + 1;
    if (at < size && *next <= size && bytes[*next - 1] != ',')
        return PLAIN_BROKEN;
    if (at < size ? *next > f->max_size : size >= f->max_size)
        return PLAIN_TOO_LONG;
    return at < size && *next <= size ? PLAIN_MESSAGE : PLAIN_NONE;
}

int scan_netstring(const uint8_t *bytes, size_t size, uint64_t *scanned,
                   pmx_frame *frame)
{
    size_t length = 0;
    size_t at = (size_t)*scanned;       /* digits that were seen before */
    while (at < size && bytes[at] >= '0' && bytes[at] <= '9')
        if (++at == 7)
            return -EPROTO;
    *scanned = at;
    if (at == size)
        return 0;
    if (bytes[at] != ':' || !at)
        return -EPROTO;
    for (size_t i = 0; i < at; i++)
        length = 10 * length + (size_t)(bytes[i] - '0');
    *frame = (pmx_frame){at + 1, length, at + length + 2};
    if (frame->whole > size)
        return 0;
    return bytes[frame->whole - 1] == ',' ? 1 : -EPROTO;
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
    case PMX_VARINT:
        return cut_varint(f, bytes, size, begin, length, next);
    case PMX_SCANNER:
        return size ? cut_netstring(f, bytes, size, begin, length, next)
                    : PLAIN_NONE;
    case PMX_FIXED:
        *length = *next = f->max_size;
        return size >= *next ? PLAIN_MESSAGE : PLAIN_NONE;
    default:
        *length = *next = size;
        return size ? PLAIN_MESSAGE : PLAIN_NONE;
    }
}

static void append_length(const pmx_framing *f, uint64_t says, buffer *wire)
{
    for (uint32_t i = 0; f->kind == PMX_PREFIX && i < f->width; i++) {
        uint32_t shift = 8 * (f->little ? i : f->width - 1 - i);
        uint8_t byte = (uint8_t)(says >> shift);
        append(wire, &byte, 1);
    }
    while (f->kind == PMX_VARINT) {
        uint8_t byte = (uint8_t)(says % 128 + (says > 127 ? 128 : 0));
        append(wire, &byte, 1);
        says /= 128;
        if (!says)
            break;
    }
}

void plain_frame(const pmx_framing *f, const uint8_t *bytes, size_t size,
                 buffer *wire)
{
    if (!f->keep_head)
        append_length(f, (uint64_t)((int64_t)size - f->adjust), wire);
    append(wire, bytes, size);
    if (f->kind == PMX_LINES)
        append(wire, f->delimiter, f->width);
}

void plain_stream(const pmx_framing *f, const uint8_t *bytes, size_t size,
                  buffer *wire)
{
    char digits[24];
    pmx_framing head = *f;
    head.keep_head = 0;
    for (uint32_t i = 0; i < f->offset; i++)
        append(wire, "o", 1);
    if (f->kind == PMX_SCANNER) {
        int n = snprintf(digits, sizeof digits, "%u:", (unsigned)size);
        append(wire, digits, (size_t)n);
    }
    plain_frame(&head, bytes, size, wire);
    if (f->kind == PMX_SCANNER)
        append(wire, ",", 1);
}

size_t plain_most(const pmx_framing *f)
{
    size_t around = f->kind == PMX_SCANNER ? 8
                  : f->keep_head ? f->offset + 8 : 0;
    return f->max_size > around ? f->max_size - around : 0;
}

const pmx_framing *plain_out(const pmx_policy *p)
{
    return p->replies.other ? &p->replies : &p->framing;
}

pmx_policy some_framing(choices *c)
{
    static const char *const delimiters[] = {"\n", "\r\n", "ab", "aab", "a",
                                             "abababab", "aaaa",
                                             "0123456789abcdef"};
    static const uint32_t sizes[] = {0, 1, 5, 30, 100, 1000, 4096, 20000,
                                     70000, 300000};
    static const int32_t adjusts[] = {0, 0, 1, 6, -4, -1};
    uint32_t size = ONE_OF(c, sizes);
    pmx_policy p;
    switch (choose(c, 9)) {
    case 0:
        return raw();
    case 1: case 2:
        return lines(ONE_OF(c, delimiters), size);
    case 3:
        return prefix(1u << choose(c, 4), (int)choose(c, 2), size);
    case 5: case 6:
        p = prefix(1 + choose(c, 4), (int)choose(c, 2), size);
        p.framing.adjust = ONE_OF(c, adjusts);
        p.framing.keep_head = choose(c, 2);
        p.framing.offset = p.framing.keep_head ? choose(c, 4) : 0;
        return p;
    case 7:
        p = varint(size);
        p.framing.keep_head = choose(c, 2);
        p.framing.offset = p.framing.keep_head ? choose(c, 3) : 0;
        return p;
    case 8:
        return scanner(scan_netstring, size ? size : 40);
    default:
        return fixed(size ? size : 3);
    }
}
