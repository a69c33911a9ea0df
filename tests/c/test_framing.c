/* Framing through the mux: what comes in pieces comes out in frames. */
#include "world.h"

#include <errno.h>
#include <string.h>

/* Send the stream cut in two at `cut`, to a connection of its own. */
static void comes_out(world *w, const char *stream, size_t size, size_t cut,
                      const char *wanted)
{
    pmx_sock peer;
    uint64_t id = meet(w, &peer);
    uint64_t before = pmx_counts(w->mux)->bytes_in;
    put(peer, stream, cut);
    if (cut)
        UNTIL(w, pmx_counts(w->mux)->bytes_in == before + cut);
    put(peer, stream + cut, size - cut);
    leave(peer);
    UNTIL(w, closed(w, id));
    buffer all = {0};
    for (size_t i = 0; i < w->message_count; i++)
        if (w->messages[i].id == id) {
            append(&all, w->in.bytes + w->messages[i].at,
                   w->messages[i].size);
            append(&all, "|", 1);
        }
    if (error_of(w, id)) {
        char code = error_of(w, id) == EPROTO     ? 'P'
                    : error_of(w, id) == EMSGSIZE ? 'M' : '?';
        append(&all, &code, 1);
    }
    CHECK(is_text_of(&all, wanted));
    release(&all);
}

static void at_every_cut(const pmx_policy *p, uint64_t arena_size,
                         uint32_t rows, int gaps, const char *stream,
                         size_t size, const char *wanted)
{
    world w;
    world_begin(&w, rows, arena_size);
    w.gaps = gaps;
    world_listen(&w, p);
    for (size_t cut = 0; cut < size; cut++)
        comes_out(&w, stream, size, cut, wanted);
    world_is_clean(&w);
    world_end(&w);
}

/* In a roomy batch, in one of a row, and in an arena of 16 bytes. */
static void expect(const pmx_policy *p, const char *stream, size_t size,
                   const char *wanted)
{
    int gaps = p->framing.kind == PMX_LINES;
    at_every_cut(p, 262144, 4096, 0, stream, size, wanted);
    at_every_cut(p, 262144, 1, gaps, stream, size, wanted);
    at_every_cut(p, 16, 4096, gaps, stream, size, wanted);
    at_every_cut(p, 16, 2, 0, stream, size, wanted);
    if (gaps)
        at_every_cut(p, 262144, 4096, 1, stream, size, wanted);
}

static void lines_come_whole(void)
{
    pmx_policy p = lines("\n", 40);
    expect(&p, "a\n\nbc\nlonger than the arena of 16\nlast", 38,
           "a||bc|longer than the arena of 16|last|");
    expect(&p, "0123456789abcdef\n0123456789abcde\n", 33,
           "0123456789abcdef|0123456789abcde|");
    p = lines("\r\n", 40);
    expect(&p, "a\r\n\r\r\nb\rc\r", 10, "a|\r|b\rc\r|");
}

static void prefixed_frames_come_whole(void)
{
    pmx_policy p = prefix(2, 0, 40);
    expect(&p, "\0\2hi\0\0\0\31nineteen and more bytes!!", 33,
           "hi||nineteen and more bytes!!|");
    p = prefix(8, 1, 40);
    expect(&p, "\2\0\0\0\0\0\0\0hi\1\0\0\0\0\0\0\0x", 19, "hi|x|");
    p = prefix(1, 1, 40);
    expect(&p, "\0\0\1x\3ab", 7, "||x|P");
    p = prefix(4, 0, 40);
    expect(&p, "\0\0\0\1x\0\0", 7, "x|P");
}

static void fixed_frames_come_whole(void)
{
    pmx_policy p = fixed(3);
    expect(&p, "abcdefghi", 9, "abc|def|ghi|");
    expect(&p, "abcde", 5, "abc|P");
    p = fixed(20);
    expect(&p, "exactly twenty bytes", 20, "exactly twenty bytes|");
}

static void frames_before_one_that_is_too_long_are_delivered(void)
{
    pmx_policy p = lines("\n", 4);
    expect(&p, "a\nabcd\nabcde\nx\n", 15, "a|abcd|M");
    expect(&p, "a\nabcdef", 8, "a|M");
    p = prefix(2, 0, 4);
    expect(&p, "\0\1a\0\4abcd\0\5abcde", 16, "a|abcd|M");
}

/* What a delimiter of a line that never ends, or a huge claim, buffers. */
static void a_claim_buffers_nothing(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = prefix(8, 0, INT32_MAX);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    put(peer, "\0\0\0\0\177\377\377\377x", 9);
    UNTIL(&w, pmx_counts(w.mux)->bytes_in == 9);
    CHECK(pmx_counts(w.mux)->buffers < 1024);
    leave(peer);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), EPROTO);
    world_is_clean(&w);
    world_end(&w);
}

static void max_size_bounds_what_is_buffered(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 300000);
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer), most = 0;
    buffer long_line = {0}, end = {0};
    fill(&long_line, 2000000, 1);
    for (size_t i = 0; i < long_line.size; i++)
        long_line.bytes[i] |= 64;       /* no newline */
    size_t at = 0;
    int64_t until = deadline();
    while (!closed(&w, id)) {
        int64_t n = offer(peer, long_line.bytes + at, long_line.size - at);
        at += n > 0 ? (size_t)n : 0;
        turn(&w, MS);
        if (pmx_counts(w.mux)->buffers > most)
            most = pmx_counts(w.mux)->buffers;
        CHECK(pmx__now() < until);
    }
    EQUAL(error_of(&w, id), EMSGSIZE);
    EQUAL(w.message_count, 0);
    CHECK(most < 600000);
    CHECK(is_reset(get(peer, &end)));
    leave(peer);
    release(&long_line);
    world_is_clean(&w);
    world_end(&w);
}

static void answers_before_a_frame_that_is_too_long_are_flushed(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = prefix(2, 0, 60);
    world_serve(&w, &p);
    w.echo = 1;
    uint64_t id = meet(&w, &peer);
    put(peer, "\0\2hi\0\3you\377\377", 11);
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), EMSGSIZE);
    buffer got = {0};
    CHECK(is_reset(get(peer, &got)));
    EQUAL(got.size, 9);
    CHECK(!memcmp(got.bytes, "\0\2hi\0\3you", 9));
    release(&got);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

/* The kernel has the answers, the peer does not yet, and has sent more. */
static void a_reset_waits_until_the_peer_has_the_answers(void)
{
    world w;
    pmx_sock peer;
    buffer answer = {0}, got = {0};
    pmx_policy p = prefix(4, 0, 60);
    int64_t until = deadline();
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    fill(&answer, 200000, 1);
    say(&w, id, answer.bytes, answer.size);
    UNTIL(&w, !pmx_queued(w.mux, id));
    put(peer, "\377\377\377\377 is too much", 16);
    UNTIL(&w, pmx_counts(w.mux)->bytes_in >= 4);
    (void)offer(peer, "and more", 8);
    while (acks_are_told() && !is_reset(get(peer, &got))) {
        turn(&w, MS);
        CHECK(pmx__now() < until);
    }
    UNTIL(&w, closed(&w, id));
    if (acks_are_told()) {      /* else it does not wait */
        EQUAL(got.size, 4 + answer.size);
        CHECK(!memcmp(got.bytes + 4, answer.bytes, answer.size));
    }
    EQUAL(error_of(&w, id), EMSGSIZE);
    release(&answer);
    release(&got);
    leave(peer);
    world_is_clean(&w);
    world_end(&w);
}

/* What the core frames, the core reads: each framing echoes through a second
 * mux that is connected to the first. */
static void both_ways_agree(void)
{
    static const size_t sizes[] = {0, 1, 2, 100, 255, 200, 3, 17};
    pmx_policy policies[] = {
        lines("\n", 1000), lines("<END>", 1000), prefix(1, 0, 255),
        prefix(2, 0, 1000), prefix(2, 1, 1000), prefix(4, 0, 1000),
        prefix(4, 1, 1000), prefix(8, 0, 1000), prefix(8, 1, 1000), fixed(9),
    };
    for (size_t k = 0; k < sizeof policies / sizeof *policies; k++) {
        world server, client;
        const pmx_policy *p = &policies[k];
        world_serve(&server, p);
        server.echo = 1;
        world_begin(&client, 100, 10000);
        pmx_endpoint at = {.host = "127.0.0.1", .port = server.port};
        uint64_t id;
        buffer text = {0};
        EQUAL(pmx_connect(client.mux, &at, 1, p, &id), 0);
        fill(&text, 5000, 1);
        for (size_t i = 0; i < text.size; i++)
            text.bytes[i] = (uint8_t)('a' + text.bytes[i] % 20);
        size_t begin = 0;
        for (size_t i = 0; i < 8; i++) {
            size_t size = p->framing.kind == PMX_FIXED ? 9 : sizes[i];
            say(&client, id, text.bytes + begin, size);
            begin += size;
        }
        UNTIL_DOING(&client, client.message_count == 8, turn(&server, 0));
        EQUAL(client.in.size, begin);
        CHECK(!memcmp(client.in.bytes, text.bytes, begin));
        for (size_t i = 0; i < 8; i++)
            EQUAL(client.messages[i].size,
                  p->framing.kind == PMX_FIXED ? 9 : sizes[i]);
        do_op(&client, id, PMX_CLOSE);
        UNTIL_DOING(&client, closed(&client, id), turn(&server, 0));
        EQUAL(error_of(&client, id), 0);
        UNTIL(&server, server.closed_count == 1);
        release(&text);
        world_is_clean(&server);
        world_is_clean(&client);
        world_end(&server);
        world_end(&client);
    }
}

/* Answers in a framing of their own: one alone, several in a row, and one that
 * waits for a slow reader. */
static void answers_may_have_another_framing_than_questions(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    p.replies = prefix(2, 0, 65535).framing;
    p.replies.other = 1;
    world_serve(&w, &p);
    uint64_t id = meet_small(&w, &peer);
    buffer got = {0}, much = {0};
    put_text(peer, "one\ntwo\n");
    UNTIL(&w, w.message_count == 2);
    EQUAL(w.messages[1].size, 3);
    say_text(&w, id, "ONE");
    say_text(&w, id, "TWO");
    UNTIL_DOING(&w, got.size == 10, get(peer, &got));
    CHECK(!memcmp(got.bytes, "\0\3ONE\0\3TWO", 10));
    got.size = 0;
    fill(&much, 60000, 1);
    for (int i = 0; i < 100; i++)
        say(&w, id, much.bytes, much.size);
    turn(&w, 0);
    CHECK(pmx_queued(w.mux, id) > 0);
    UNTIL_DOING(&w, got.size == 100 * 60002, get(peer, &got));
    for (size_t i = 0; i < 100; i++) {
        CHECK(!memcmp(got.bytes + i * 60002, "\xea\x60", 2));
        CHECK(!memcmp(got.bytes + i * 60002 + 2, much.bytes, much.size));
    }
    leave(peer);
    UNTIL(&w, closed(&w, id));
    p.replies.width = 5;
    pmx_endpoint at = {.host = "127.0.0.1"};
    uint64_t made;
    EQUAL(pmx_listen(w.mux, &at, &p, 8, 0, 0600, &made), -EINVAL);
    p.replies.other = 0;                /* then nobody reads it */
    EQUAL(pmx_listen(w.mux, &at, &p, 8, 0, 0600, &made), 0);
    release(&got);
    release(&much);
    world_end(&w);
}

static void many_frames_leave_one_row_at_a_time(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    world_begin(&w, 1, 262144);
    world_listen(&w, &p);
    uint64_t id = meet(&w, &peer);
    buffer sent = {0};
    for (int i = 0; i < 5000; i++) {
        uint32_t line = (uint32_t)i % 10;
        append(&sent, "0123456789", line);
        append(&sent, "\n", 1);
    }
    put(peer, sent.bytes, sent.size);
    UNTIL(&w, w.message_count == 5000);
    for (size_t i = 0; i < 5000; i++) {
        EQUAL(w.messages[i].size, i % 10);
        CHECK(!memcmp(w.in.bytes + w.messages[i].at, "0123456789", i % 10));
        CHECK(!i || w.messages[i].turn > w.messages[i - 1].turn);
    }
    leave(peer);
    UNTIL(&w, closed(&w, id));
    release(&sent);
    world_is_clean(&w);
    world_end(&w);
}

const test_case framing_tests[] = {
    EACH(lines_come_whole),
    EACH(prefixed_frames_come_whole),
    EACH(fixed_frames_come_whole),
    EACH(frames_before_one_that_is_too_long_are_delivered),
    EACH(a_claim_buffers_nothing),
    EACH(max_size_bounds_what_is_buffered),
    EACH(answers_before_a_frame_that_is_too_long_are_flushed),
    EACH(a_reset_waits_until_the_peer_has_the_answers),
    EACH(both_ways_agree),
    EACH(answers_may_have_another_framing_than_questions),
    EACH(many_frames_leave_one_row_at_a_time),
    {0},
};
