/* frame*.c: where frames begin and end. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

/* Every frame of a stream that comes cut at `cut`, as "a|b|c|" in text. */
static void frames_of(const pmx_framing *f, const char *stream, size_t size,
                      size_t cut, buffer *found)
{
    uint64_t scanned = 0;
    size_t at = 0, end = cut;
    pmx_frame frame;
    for (;;) {
        /* an exact copy, so that a read too far is seen */
        uint8_t *copy = malloc(end - at ? end - at : 1);
        CHECK(copy);
        memcpy(copy, stream + at, end - at);
        int n = end > at ? next_frame(f, copy, end - at, &scanned, &frame) : 0;
        CHECK(n >= 0);
        if (n) {
            append(found, copy + frame.head, frame.size);
            append(found, "|", 1);
            at += frame.whole;
            EQUAL(scanned, 0);
        }
        free(copy);
        if (!n && end == size)
            break;
        if (!n)
            end = size;
    }
    append(found, stream + at, size - at);
}

static void expect(const pmx_policy *p, const char *stream, size_t size,
                   const char *wanted)
{
    CHECK(pmx__framing_valid(&p->framing));
    for (size_t cut = 0; cut <= size; cut++) {
        buffer found = {0};
        frames_of(&p->framing, stream, size, cut, &found);
        CHECK(is_text_of(&found, wanted));
        release(&found);
    }
}

static void lines_are_cut_at_their_delimiter(void)
{
    pmx_policy p = lines("\n", 100);
    expect(&p, "", 0, "");
    expect(&p, "\n", 1, "|");
    expect(&p, "a\n\nbc\r\nd", 8, "a||bc\r|d");
    p = lines("\r\n", 100);
    expect(&p, "a\r\nb\rc\nd\r\r\ne\r", 13, "a|b\rc\nd\r|e\r");
}

static void a_delimiter_that_resembles_its_beginning_is_found(void)
{
    pmx_policy p = lines("aab", 100);
    expect(&p, "aaabaab", 7, "a||");
    expect(&p, "aaaaabxaabaa", 12, "aaa|x|aa");
    p = lines("0123456789abcdef", 100);
    expect(&p, "x0123456789abcde0123456789abcdef0123456789abcdefy", 49,
           "x0123456789abcde||y");
}

static void prefixes_of_each_width_and_order_are_read(void)
{
    static const char big[][16] = {"\2hi\0\1x", "\0\2hi\0\0\0\1x",
                                   "\0\0\0\2hi\0\0\0\0", ""};
    pmx_policy p = prefix(1, 0, 100);
    expect(&p, big[0], 6, "hi||x|");
    p = prefix(2, 0, 100);
    expect(&p, big[1], 9, "hi||x|");
    p = prefix(2, 1, 100);
    expect(&p, "\2\0hi\0\0\1\0x", 9, "hi||x|");
    p = prefix(4, 0, 100);
    expect(&p, big[2], 10, "hi||");
    p = prefix(4, 1, 100);
    expect(&p, "\2\0\0\0hi\0\0\0\0", 10, "hi||");
    p = prefix(8, 0, 100);
    expect(&p, "\0\0\0\0\0\0\0\2hi", 10, "hi|");
    p = prefix(8, 1, 100);
    expect(&p, "\2\0\0\0\0\0\0\0hi", 10, "hi|");
}

static void fixed_frames_are_cut_by_size(void)
{
    pmx_policy p = fixed(3);
    expect(&p, "abcdefgh", 8, "abc|def|gh");
    p = fixed(1);
    expect(&p, "abc", 3, "a|b|c|");
}

static void what_is_written_is_what_is_read(void)
{
    static const uint32_t widths[] = {1, 2, 4, 8};
    for (int i = 0; i < 4; i++)
        for (int little = 0; little < 2; little++)
            for (uint32_t size = 0; size < 300; size += 7) {
                pmx_policy p = prefix(widths[i], little, 1000);
                uint8_t bytes[400] = {0};
                uint64_t scanned = 0;
                pmx_frame frame;
                if (widths[i] == 1 && size > 255)
                    continue;
                uint8_t head = frame_head(&p.framing, size, bytes);
                EQUAL(head, widths[i]);
                EQUAL(next_frame(&p.framing, bytes, head + size,
                                      &scanned, &frame), 1);
                EQUAL(frame.size, size);
                EQUAL(frame.head, head);
                EQUAL(frame.whole, head + size);
            }
    pmx_policy p = raw();
    uint8_t none[8];
    EQUAL(frame_head(&p.framing, 5, none), 0);
}

static void a_frame_over_max_size_is_an_error(void)
{
    pmx_frame frame;
    uint64_t scanned = 0;
    pmx_policy p = lines("\n", 4);
    EQUAL(next_frame(&p.framing, (const uint8_t *)"abcd\n", 5, &scanned,
                          &frame), 1);
    EQUAL(next_frame(&p.framing, (const uint8_t *)"abcde\n", 6, &scanned,
                          &frame), -EMSGSIZE);
    scanned = 0;
    EQUAL(next_frame(&p.framing, (const uint8_t *)"abcd", 4, &scanned,
                          &frame), 0);
    EQUAL(next_frame(&p.framing, (const uint8_t *)"abcde", 5, &scanned,
                          &frame), -EMSGSIZE);
    p = lines("\r\n", 4);       /* what may become the delimiter is none yet */
    scanned = 0;
    EQUAL(next_frame(&p.framing, (const uint8_t *)"abcd\r", 5, &scanned,
                          &frame), 0);
    EQUAL(next_frame(&p.framing, (const uint8_t *)"abcd\r\n", 6,
                          &scanned, &frame), 1);
    EQUAL(next_frame(&p.framing, (const uint8_t *)"abcdef", 6, &scanned,
                          &frame), -EMSGSIZE);
    static const uint8_t huge[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    for (uint32_t width = 1; width <= 8; width *= 2) {
        p = prefix(width, 0, 100);
        EQUAL(next_frame(&p.framing, huge, 8, &scanned, &frame),
              -EMSGSIZE);
    }
}

static void a_stream_is_searched_once(void)
{
    pmx_policy p = lines("\r\n", 1000);
    uint64_t scanned = 0;
    pmx_frame frame;
    uint8_t bytes[600];
    memset(bytes, 'x', sizeof bytes);
    EQUAL(next_frame(&p.framing, bytes, 500, &scanned, &frame), 0);
    EQUAL(scanned, 499);
    memcpy(bytes, "\r\n", 2);           /* it does not look here again */
    EQUAL(next_frame(&p.framing, bytes, 600, &scanned, &frame), 0);
    EQUAL(scanned, 599);
}

static void framings_that_make_no_sense_are_refused(void)
{
    pmx_policy p = lines("\n", 1);
    p.framing.width = 0;
    CHECK(!pmx__framing_valid(&p.framing));
    p.framing.width = 17;
    CHECK(!pmx__framing_valid(&p.framing));
    for (uint32_t width = 0; width < 10; width++) {
        p = prefix(width, 0, 1);
        EQUAL(pmx__framing_valid(&p.framing),
              (width >= 1 && width <= 4) || width == 8);
    }
    p = fixed(0);
    CHECK(!pmx__framing_valid(&p.framing));
    p = raw();
    CHECK(pmx__framing_valid(&p.framing));
    p.framing.kind = UINT32_MAX;
    CHECK(!pmx__framing_valid(&p.framing));
}

const test_case frame_tests[] = {
    ONCE(lines_are_cut_at_their_delimiter),
    ONCE(a_delimiter_that_resembles_its_beginning_is_found),
    ONCE(prefixes_of_each_width_and_order_are_read),
    ONCE(fixed_frames_are_cut_by_size),
    ONCE(what_is_written_is_what_is_read),
    ONCE(a_frame_over_max_size_is_an_error),
    ONCE(a_stream_is_searched_once),
    ONCE(framings_that_make_no_sense_are_refused),
    {0},
};
