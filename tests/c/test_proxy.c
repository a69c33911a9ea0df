/* Headers of the PROXY protocol, as bytes. */
#include "headers.h"
#include "world.h"

#include <stdlib.h>
#include <string.h>

/* Take a header as it comes, at most `step` bytes at once: how many bytes were
 * taken, or -EPROTO. The last `size` bytes of `to` are in use, so that the
 * sanitizer sees what is read behind them. */
static int64_t take(const text *from, size_t step, uint8_t *to)
{
    size_t size = 0;
    for (;;) {
        uint8_t *exact = malloc(size + !size);
        CHECK(exact);
        memcpy(exact, from->bytes, size);
        int lacks = pmx__proxy_lacks(exact, size);
        free(exact);
        CHECK(lacks <= PMX__PROXY_MOST);
        if (lacks < 0)
            return lacks;
        if (!lacks)
            break;
        size_t part = (size_t)lacks < step ? (size_t)lacks : step;
        if (part > from->size - size)
            part = from->size - size;
        if (!part)
            return -EAGAIN;     /* no more has come */
        size += part;
    }
    memcpy(to, from->bytes, size);
    return (int64_t)size;
}

static void a_header_is_taken_exactly_however_it_comes(void)
{
    uint8_t whole[PMX__PROXY_MOST];
    for (size_t k = 0; k < GOOD; k++)
        for (size_t step = 1; step < 120; step++) {
            buffer more = {0};
            append(&more, good[k].bytes, good[k].size);
            append(&more, "\r\n\n \r\n", 6);     /* none of it */
            text from = {(const char *)more.bytes, more.size};
            EQUAL(take(&from, step, whole), good[k].size);
            CHECK(pmx__proxy_settle(whole, good[k].size) >= 16);
            release(&more);
        }
}

static void what_is_no_header_is_refused(void)
{
    uint8_t whole[PMX__PROXY_MOST];
    for (size_t k = 0; k < BAD; k++)
        for (size_t step = 1; step < 120; step++) {
            int64_t size = take(&bad[k], step, whole);
            if (size > 0)
                size = pmx__proxy_settle(whole, (size_t)size);
            EQUAL(size, -EPROTO);
        }
}

/* No part of a good header is refused before the rest has come, and each changed
 * byte of the head of one is. */
static void a_part_of_a_header_waits_for_the_rest(void)
{
    uint8_t whole[PMX__PROXY_MOST];
    for (size_t k = 0; k < GOOD; k++)
        for (size_t size = 0; size < good[k].size; size++) {
            text part = {good[k].bytes, size};
            EQUAL(take(&part, 1, whole), -EAGAIN);
        }
    for (size_t at = 0; at < 12; at++) {
        memcpy(whole, TCP4, 28);
        whole[at] ^= 1;
        text from = {(const char *)whole, at + 1};
        EQUAL(take(&from, 1, whole), -EPROTO);
    }
}

static void names_are_those_of_the_header(void)
{
    for (size_t k = 0; k < 4; k++) {
        uint8_t whole[PMX__PROXY_MOST];
        pmx__target name;
        pmx_address peer, local;
        int64_t size = take(&good[k], 1, whole);
        size = pmx__proxy_settle(whole, (size_t)size);
        EQUAL(size, k / 2 ? 52 : 28);
        EQUAL(pmx__proxy_names(whole, 0, &name), 1);
        pmx__describe(&name, &peer);
        EQUAL(pmx__proxy_names(whole, 1, &name), 1);
        pmx__describe(&name, &local);
        EQUAL(peer.family, k / 2 ? 6 : 4);
        EQUAL(peer.port, 0x1234);
        EQUAL(local.port, 0x5678);
        EQUAL(peer.ip[k / 2 ? 15 : 3], k / 2 ? 1 : 3);
        EQUAL(local.ip[k / 2 ? 15 : 3], k / 2 ? 2 : 6);
        EQUAL(local.ip[0], k / 2 ? 0x20 : 10);
        CHECK(!memcmp(whole, good[k | 1].bytes, good[k | 1].size));
    }
    for (size_t k = 9; k < GOOD; k++) {
        uint8_t whole[PMX__PROXY_MOST];
        pmx__target name;
        int64_t size = take(&good[k], 1, whole);
        size = pmx__proxy_settle(whole, (size_t)size);
        EQUAL(pmx__proxy_names(whole, 0, &name), k == 14);
        EQUAL(pmx__proxy_is_local(whole), k < 11);
        EQUAL(size, k == 13 || k == 10 ? 16 : good[k].size);
    }
}

/* HAProxy 2.6 has sent this one, with proxy-v2-options crc32c,unique-id. */
static void a_checksum_is_checked(void)
{
    static const char sent[] =
        SIGNATURE "\x21\x11\0\x1b\x7f\0\0\1\x7f\0\0\1\x96\x46\x72\xd9"
        "\3\0\4\x4e\x8a\xcd\x74\5\0\5hello";
    uint8_t whole[sizeof sent + PMX__PROXY_ROOM];
    size_t size = sizeof sent - 1;
    memcpy(whole, sent, size);
    EQUAL(pmx__proxy_lacks(whole, size), 0);
    EQUAL(pmx__proxy_settle(whole, size), size);
    for (size_t bit = 8 * 16; bit < 8 * size; bit++) {
        if (bit / 8 == 28)
            continue;           /* then it is no checksum */
        whole[bit / 8] ^= (uint8_t)(1 << bit % 8);
        EQUAL(pmx__proxy_settle(whole, size), -EPROTO);
        whole[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

const test_case proxy_tests[] = {
    ONCE(a_header_is_taken_exactly_however_it_comes),
    ONCE(what_is_no_header_is_refused),
    ONCE(a_part_of_a_header_waits_for_the_rest),
    ONCE(names_are_those_of_the_header),
    ONCE(a_checksum_is_checked),
    {0},
};
