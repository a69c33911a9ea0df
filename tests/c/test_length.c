/* frame_prefix.c: lengths, where they stand, and scanners. */
#include "choices.h"

#include <stdio.h>
#include <string.h>

/* What a stream is cut into, cut in two at each byte: sizes of the messages,
 * then how it ends: 0, or an errno; and that nothing is read behind an end. */
static void is_cut(const pmx_policy *p, const void *stream, size_t size,
                   const char *wanted)
{
    CHECK(pmx__framing_valid(&p->framing));
    for (size_t cut = 1; cut <= size; cut++) {
        char said[200] = "";
        size_t at = 0, end = cut, n = 0;
        uint64_t scanned = 0;
        pmx_frame frame;
        for (;;) {
            buffer copy = {0};
            append(&copy, (const uint8_t *)stream + at, end - at);
            int is = end == at ? 0 : next_frame(&p->framing, copy.bytes,
                                                end - at, &scanned, &frame);
            release(&copy);
            if (is < 0) {
                snprintf(said + n, sizeof said - n, "%s",
                         is == -EMSGSIZE ? "M" : is == -EPROTO ? "P" : "?");
                break;
            }
            if (is) {
                n += (size_t)snprintf(said + n, sizeof said - n, "%d+%d ",
                                      (int)(at + frame.head),
                                      (int)frame.size);
                at += frame.whole;
                EQUAL(scanned, 0);
            } else if (end == size) {
                if (at < end)
                    snprintf(said + n, sizeof said - n, "...");
                break;
            } else {
                end = size;
            }
        }
        if (strcmp(said, wanted))
            test_failed(__FILE__, __LINE__, said);
    }
}

static pmx_policy length_at(uint32_t width, int little, uint32_t offset,
                            int32_t adjust)
{
    pmx_policy p = prefix(width, little, 1000);
    p.framing.offset = offset;
    p.framing.adjust = adjust;
    p.framing.keep_head = 1;
    return p;
}

static void lengths_of_real_protocols_are_read(void)
{
    pmx_policy p = length_at(4, 0, 1, -4);      /* Postgres counts itself */
    is_cut(&p, "Q\0\0\0\6hiX\0\0\0\4C\0\0", 15, "0+7 7+5 ...");
    is_cut(&p, "Q\0\0\0\3", 5, "P");            /* less than itself */
    is_cut(&p, "Q\0\0\0\6hiQ\177\377\377\377", 12, "0+7 M");
    p = length_at(4, 0, 3, 1);                  /* AMQP has one byte behind */
    is_cut(&p, "\1\0\1\0\0\0\2hi\316\10\0\0\0\0\0\0\316", 18, "0+10 10+8 ");
    p = length_at(3, 0, 0, 6);                  /* HTTP/2: flags, stream */
    is_cut(&p, "\0\0\2\0\0\0\0\0\1hi\0\0\0\4\1\0\0\0\0", 20, "0+11 11+9 ");
    is_cut(&p, "\377\377\377\0\0\0\0\0\1", 9, "M");
    p = length_at(3, 1, 0, 1);                  /* MySQL: a number behind */
    is_cut(&p, "\2\0\0\1hi\0\0\0\2", 10, "0+6 6+4 ");
}

static void a_message_is_what_follows_the_length(void)
{
    pmx_policy p = prefix(3, 0, 1000);
    is_cut(&p, "\0\0\2hi\0\0\0\0\0\1x\0", 13, "3+2 8+0 11+1 ...");
    p = prefix(3, 1, 1000);
    is_cut(&p, "\2\0\0hi\1\0\0x", 9, "3+2 8+1 ");
    p = prefix(2, 0, 4);
    p.framing.adjust = -2;                      /* it counts itself */
    is_cut(&p, "\0\6abcd\0\2\0\7", 10, "2+4 8+0 M");
    is_cut(&p, "\0\1", 2, "P");
    p.framing.adjust = INT32_MIN;
    is_cut(&p, "\377\377", 2, "P");
    p = prefix(8, 0, INT32_MAX);
    p.framing.adjust = INT32_MAX;
    is_cut(&p, "\377\377\377\377\377\377\377\377", 8, "M");
    is_cut(&p, "\0\0\0\0\0\0\0\1", 8, "M");
}

static void max_size_is_of_the_message(void)
{
    pmx_policy p = length_at(2, 0, 1, 0);
    p.framing.max_size = 5;                     /* its head is part of it */
    is_cut(&p, "x\0\2hix\0\3", 8, "0+5 M");
    p.framing.offset = p.framing.keep_head = 0;
    is_cut(&p, "\0\5hello\0\6", 9, "2+5 M");
}

static void varints_have_five_bytes_at_most(void)
{
    pmx_policy p = varint(INT32_MAX);           /* protobuf's streams */
    uint8_t long_one[203] = {200, 1};
    is_cut(&p, "\2hi\0\1x\2a", 8, "1+2 4+0 5+1 ...");
    is_cut(&p, long_one, 202, "2+200 ");
    is_cut(&p, "\200\200\200\200\0\1x", 7, "5+0 6+1 ");
    is_cut(&p, "\377\377\377\377\17", 5, "M");
    is_cut(&p, "\200\200\200\200\200", 5, "P");
    is_cut(&p, "\377\377\377\377\377\1", 6, "P");
    p.framing.offset = p.framing.keep_head = 1;    /* MQTT */
    is_cut(&p, "\300\0\60\5\0\1ahi\60\200", 11, "0+2 2+7 ...");
    p.framing.max_size = 4;
    is_cut(&p, "0\2hi0\3", 6, "0+4 M");
}

static void heads_that_are_written_are_read(void)
{
    static const uint64_t sizes[] = {1, 5, 127, 128, 200, 16383, 16384,
                                     2097151, 2097152, INT32_MAX};
    for (int kind = 0; kind < 4; kind++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            pmx_policy p = kind == 0   ? varint(INT32_MAX)
                           : kind == 1 ? prefix(3, 1, INT32_MAX)
                                       : prefix(4, 0, INT32_MAX);
            uint8_t head[PMX__HEAD] = {0};
            uint64_t scanned = 0;
            pmx_frame frame = {0};
            p.framing.adjust = kind < 2 ? 0 : kind == 2 ? -4 : 1;
            if (kind == 1 && sizes[k] >> 24)
                continue;
            uint8_t n = frame_head(&p.framing, sizes[k], head);
            int is = next_frame(&p.framing, head, n, &scanned, &frame);
            EQUAL(is, PMX__MORE);
            EQUAL(frame.head, n);
            EQUAL(frame.size, sizes[k]);
        }
    /* a whole frame is sent as it is */
    uint8_t head[PMX__HEAD];
    pmx_policy p = length_at(4, 0, 1, -4);
    EQUAL(frame_head(&p.framing, 10, head), 0);
    p = varint(100);
    p.framing.keep_head = 1;
    EQUAL(frame_head(&p.framing, 10, head), 0);
    p = scanner(scan_netstring, 10);
    EQUAL(frame_head(&p.framing, 10, head), 0);
}

/* --- scanners ----------------------------------------------------------- */

static pmx_frame answer;        /* what the scanner says */
static int answer_is;

static int says(const uint8_t *bytes, size_t size, uint64_t *scanned,
                pmx_frame *frame)
{
    (void)bytes;
    CHECK(size && !frame->head && !frame->size && !frame->whole);
    *scanned = 77;
    *frame = answer;
    return answer_is;
}

static int told(int is, size_t head, size_t size, size_t whole, size_t among,
                pmx_frame *frame)
{
    pmx_policy p = scanner(says, 100);
    uint64_t scanned = 0;
    uint8_t bytes[200] = {0};
    answer_is = is;
    answer = (pmx_frame){head, size, whole};
    int found = next_frame(&p.framing, bytes, among, &scanned, frame);
    EQUAL(scanned, found == PMX__MESSAGE ? 0 : scanned);
    return found;
}

static void a_scanner_is_not_believed(void)
{
    pmx_frame f;
    EQUAL(told(1, 2, 3, 6, 10, &f), PMX__MESSAGE);
    CHECK(f.head == 2 && f.size == 3 && f.whole == 6);
    EQUAL(told(1, 0, 0, 1, 10, &f), PMX__MESSAGE);
    EQUAL(told(1, 0, 10, 10, 10, &f), PMX__MESSAGE);
    EQUAL(told(1, 0, 0, 0, 10, &f), -EPROTO);           /* no progress */
    EQUAL(told(1, 0, 5, 11, 10, &f), -EPROTO);          /* beyond the bytes */
    EQUAL(told(1, 4, 3, 6, 10, &f), -EPROTO);           /* beyond the frame */
    EQUAL(told(1, 7, 0, 6, 10, &f), -EPROTO);
    EQUAL(told(1, SIZE_MAX, 2, 6, 10, &f), -EPROTO);
    EQUAL(told(1, 2, SIZE_MAX, 6, 10, &f), -EPROTO);
    EQUAL(told(1, 2, 3, SIZE_MAX, 10, &f), -EPROTO);
    EQUAL(told(2, 2, 3, 6, 10, &f), -EPROTO);
    EQUAL(told(1, 0, 100, 101, 150, &f), -EMSGSIZE);    /* of the frame */
    EQUAL(told(0, 0, 0, 0, 99, &f), PMX__MORE);
    EQUAL(f.whole, 0);
    EQUAL(told(0, 9, 9, 100, 10, &f), PMX__MORE);
    EQUAL(f.whole, 100);
    EQUAL(told(0, 0, 0, 5, 10, &f), PMX__MORE);         /* it has as many */
    EQUAL(f.whole, 0);
    EQUAL(told(0, 0, 0, 101, 10, &f), -EMSGSIZE);
    EQUAL(told(0, 0, 0, 0, 100, &f), -EMSGSIZE);
    EQUAL(told(-EBADMSG, 0, 0, 0, 10, &f), -EBADMSG);
    EQUAL(told(INT32_MIN, 0, 0, 0, 10, &f), -EPROTO);
    EQUAL(told(-4096, 0, 0, 0, 10, &f), -EPROTO);
}

static void a_scanner_finds_frames(void)
{
    pmx_policy p = scanner(scan_netstring, 100);
    is_cut(&p, "5:hello,0:,2:hi", 15, "2+5 10+0 ...");
    is_cut(&p, "5:hello;", 8, "P");
    is_cut(&p, "1:x,hello", 9, "2+1 P");
    is_cut(&p, "96:", 3, "...");
    is_cut(&p, "97:", 3, "M");
}

/* Through a mux, where its errno is the connection's. */
static void an_error_of_the_scanner_ends_the_connection(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = scanner(says, 100);
    world_serve(&w, &p);
    answer_is = -EBADMSG;
    uint64_t id = meet(&w, &peer);
    put_text(peer, "what");
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), EBADMSG);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

static void what_a_scanner_cuts_goes_out_as_it_is_given(void)
{
    world w;
    pmx_sock peer;
    buffer got = {0};
    pmx_policy p = scanner(scan_netstring, 100000);
    world_serve(&w, &p);
    w.echo = 1;
    uint64_t id = meet(&w, &peer);
    put_text(peer, "5:hello,0:,3:yo");
    UNTIL_DOING(&w, got.size == 5, get(peer, &got));
    put_text(peer, "u,");
    UNTIL_DOING(&w, got.size == 8, get(peer, &got));
    CHECK(is_text_of(&got, "helloyou"));
    EQUAL(messages_of(&w, id), 3);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

static void what_makes_no_sense_is_refused(void)
{
    pmx_policy p = prefix(4, 0, 100);
    p.framing.offset = 1;               /* what would go before a reply? */
    CHECK(!pmx__framing_valid(&p.framing));
    p.framing.keep_head = 1;
    CHECK(pmx__framing_valid(&p.framing));
    p.framing.offset = 4097;
    CHECK(!pmx__framing_valid(&p.framing));
    p = varint(100);
    CHECK(pmx__framing_valid(&p.framing));
    p.framing.offset = 1;
    CHECK(!pmx__framing_valid(&p.framing));
    p = varint((uint32_t)INT32_MAX + 1);
    CHECK(!pmx__framing_valid(&p.framing));
    p = scanner(scan_netstring, 0);
    CHECK(!pmx__framing_valid(&p.framing));
    p = scanner(NULL, 1);
    CHECK(!pmx__framing_valid(&p.framing));
}

const test_case length_tests[] = {
    ONCE(lengths_of_real_protocols_are_read),
    ONCE(a_message_is_what_follows_the_length),
    ONCE(max_size_is_of_the_message),
    ONCE(varints_have_five_bytes_at_most),
    ONCE(heads_that_are_written_are_read),
    ONCE(a_scanner_is_not_believed),
    ONCE(a_scanner_finds_frames),
    EACH(an_error_of_the_scanner_ends_the_connection),
    EACH(what_a_scanner_cuts_goes_out_as_it_is_given),
    ONCE(what_makes_no_sense_is_refused),
    {0},
};
