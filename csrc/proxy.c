/*
 * The header of the PROXY protocol, version 1 or 2: what a balancer says,
 * before the first byte of a connection, of the two ends that it connects.
 * (The specification is doc/proxy-protocol.txt of HAProxy.) Nothing here knows
 * a connection.
 *
 * A header that has come in part tells how many bytes are missing at least,
 * and no more than that are received. So a header is received exactly, and
 * what follows is left to the socket, for TLS or a framing, whatever brings
 * it. A part that was only peeked at would wake a level-triggered poller again
 * and again.
 *
 * A header that is whole is kept as one of version 2, whichever it was.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

enum {
    HEAD = 16,                  /* of version 2: all but what has a length */
    COMMAND = 12,               /* of version 2: where a header says what it */
    FAMILY = 13,                /* is, and of which family; */
    LENGTH = 14,                /* how many bytes follow the head */
    LINE_LEAST = 15,            /* "PROXY UNKNOWN\r\n" */
    LINE_MOST = 107,
    WORD_ROOM = 48,             /* for an address as text */
    CHECKSUM = 3                /* the type of a TLV */
};

static const uint8_t SIGNATURE[COMMAND] = {
    '\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'
};

/* --- how much is missing ------------------------------------------------ */

static int begins(const uint8_t *bytes, size_t size, const char *text)
{
    size_t whole = strlen(text);
    return !memcmp(bytes, text, size < whole ? size : whole);
}

/* Of a line: until it is whole, each word that is missing has a space before it
 * and a byte, and the end has two bytes. */
static int line_lacks(const uint8_t *bytes, size_t size)
{
    int known = begins(bytes, size, "PROXY TCP4 ") ||
                begins(bytes, size, "PROXY TCP6 ");
    if (!known && !begins(bytes, size, "PROXY UNKNOWN"))
        return -EPROTO;
    const uint8_t *end = memchr(bytes, '\r', size);
    const uint8_t *feed = memchr(bytes, '\n', size);
    size_t lacks = 2, spaces = 0;
    if (feed)                   /* both are the line's last two bytes */
        return feed == bytes + size - 1 && end == feed - 1 &&
                       size >= LINE_LEAST && size <= LINE_MOST
                   ? 0 : -EPROTO;
    if ((end && end != bytes + size - 1) || size >= LINE_MOST)
        return -EPROTO;
    if (end)
        return 1;
    if (size < LINE_LEAST)
        return (int)(LINE_LEAST - size);
    if (known) {
        for (size_t i = 0; i < size; i++)
            spaces += bytes[i] == ' ';
        if (spaces > 5)
            return -EPROTO;
        lacks += 2 * (5 - spaces);
    }
    return (int)(lacks < LINE_MOST - size ? lacks : LINE_MOST - size);
}

int pmx__proxy_lacks(const uint8_t *bytes, size_t size)
{
    if (!size)
        return LINE_LEAST;      /* no header is shorter */
    if (bytes[0] != SIGNATURE[0])
        return line_lacks(bytes, size);
    if (memcmp(bytes, SIGNATURE, size < COMMAND ? size : COMMAND) != 0)
        return -EPROTO;
    if (size > COMMAND && bytes[COMMAND] != PMX__PROXY_LOCAL &&
        bytes[COMMAND] != PMX__PROXY_FOR)
        return -EPROTO;
    if (size > FAMILY && (bytes[FAMILY] >> 4 > 3 || (bytes[FAMILY] & 15) > 2))
        return -EPROTO;
    if (size < HEAD)
        return (int)(HEAD - size);
    size_t whole = HEAD + ((size_t)bytes[LENGTH] << 8 | bytes[LENGTH + 1]);
    return whole > PMX__PROXY_MOST || size > whole ? -EPROTO
                                                   : (int)(whole - size);
}

/* --- a line -------------------------------------------------------------- */

/* A number without leading zeros, 0 to 65535, or -1. */
static int32_t port_of(const char *text)
{
    int32_t port = 0;
    size_t digits = 0;
    for (; text[digits]; digits++) {
        if (text[digits] < '0' || text[digits] > '9' || digits == 5)
            return -1;
        port = 10 * port + (text[digits] - '0');
    }
    if (!digits || (text[0] == '0' && digits > 1) || port > 65535)
        return -1;
    return port;
}

/* Cut the words of a line behind its family: two addresses and two ports. */
static int cut_words(const uint8_t *at, const uint8_t *end,
                     char words[4][WORD_ROOM])
{
    for (int k = 0; k < 4; k++) {
        size_t n = 0;
        for (; at < end && *at != ' '; at++) {
            if (n == WORD_ROOM - 1 || !*at)
                return -EPROTO;
            words[k][n++] = (char)*at;
        }
        words[k][n] = 0;
        if ((at < end) != (k < 3))
            return -EPROTO;
        at++;
    }
    return 0;
}

/* Write the head of a header of version 2. */
static int64_t put_head(uint8_t *to, uint8_t family, size_t size)
{
    memcpy(to, SIGNATURE, COMMAND);
    to[COMMAND] = PMX__PROXY_FOR;
    to[FAMILY] = family;
    to[LENGTH] = (uint8_t)(size >> 8);
    to[LENGTH + 1] = (uint8_t)size;
    return (int64_t)(HEAD + size);
}

/* Write the line anew, as a header of version 2. */
static int64_t settle_line(uint8_t *bytes, size_t size)
{
    char words[4][WORD_ROOM];
    uint8_t is[2 * 16 + 4];
    int is6 = bytes[9] == '6';
    size_t each = is6 ? 16 : 4;
    if (bytes[6] == 'U')
        return size == LINE_LEAST || bytes[LINE_LEAST - 2] == ' '
                   ? put_head(bytes, 0, 0) : -EPROTO;
    if (cut_words(bytes + 11, bytes + size - 2, words))
        return -EPROTO;
    for (size_t k = 0; k < 2; k++) {
        int32_t port = port_of(words[2 + k]);
        if (!pmx__read_ip(words[k], is6, is + k * each) || port < 0)
            return -EPROTO;
        is[2 * each + 2 * k] = (uint8_t)(port >> 8);
        is[2 * each + 2 * k + 1] = (uint8_t)port;
    }
    memcpy(bytes + HEAD, is, 2 * each + 4);
    return put_head(bytes, is6 ? PMX__PROXY_TCP6 : PMX__PROXY_TCP4,
                    2 * each + 4);
}

/* --- version 2 ----------------------------------------------------------- */

/* CRC-32C (RFC 9260, appendix A), four bits at a time. */
static uint32_t crc_of(uint32_t crc, const uint8_t *bytes, size_t size)
{
    static const uint32_t of_four[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
        0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75
    };
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ of_four[crc & 15];
        crc = crc >> 4 ^ of_four[crc & 15];
    }
    return crc;
}

/* True if the checksum at that place is the header's. It was made with zeros in
 * its place. */
static int checks(const uint8_t *bytes, size_t size, size_t place)
{
    static const uint8_t zeros[4];
    uint32_t crc = crc_of(UINT32_MAX, bytes, place);
    crc = crc_of(crc, zeros, sizeof zeros);
    crc = ~crc_of(crc, bytes + place + 4, size - place - 4);
    return bytes[place] == crc >> 24 &&
           bytes[place + 1] == (crc >> 16 & 255) &&
           bytes[place + 2] == (crc >> 8 & 255) &&
           bytes[place + 3] == (crc & 255);
}

/* Walk over the TLVs from that place to the end: 0 if the last one ends there,
 * and the checksum is right if there is one. */
static int check_tlvs(const uint8_t *bytes, size_t size, size_t at)
{
    size_t sum = 0;
    while (at < size) {
        if (size - at < 3)
            return -EPROTO;
        size_t length = (size_t)bytes[at + 1] << 8 | bytes[at + 2];
        if (length > size - at - 3)
            return -EPROTO;
        if (bytes[at] == CHECKSUM && (sum || length != 4))
            return -EPROTO;
        if (bytes[at] == CHECKSUM)
            sum = at + 3;
        at += 3 + length;
    }
    return sum && !checks(bytes, size, sum) ? -EPROTO : 0;
}

int pmx__proxy_is_local(const uint8_t *header)
{
    return header[COMMAND] == PMX__PROXY_LOCAL;
}

static size_t tlvs_of(const uint8_t *header)
{
    static const size_t sizes[] = {0, 12, 36, 216};
    return HEAD + sizes[header[FAMILY] >> 4 & 3];
}

int64_t pmx__proxy_settle(uint8_t *bytes, size_t size)
{
    if (bytes[0] != SIGNATURE[0])
        return settle_line(bytes, size);
    if (pmx__proxy_is_local(bytes))
        return HEAD;            /* whatever else it has means nothing */
    size_t at = tlvs_of(bytes);
    if (at > size)
        return -EPROTO;
    if (!check_tlvs(bytes, size, at))
        return (int64_t)size;
    /* of a family that nobody knows, addresses may stand there */
    return bytes[FAMILY] >> 4 ? -EPROTO
                              : put_head(bytes, bytes[FAMILY], 0);
}

/* --- what it says -------------------------------------------------------- */

int pmx__proxy_names(const uint8_t *header, int local, pmx__target *name)
{
    size_t k = local ? 1 : 0;
    const uint8_t *ends = header + HEAD;
    if (header[COMMAND] != PMX__PROXY_FOR)
        return 0;
    if (header[FAMILY] == PMX__PROXY_TCP4) {
        memset(name, 0, sizeof *name);
        name->size = sizeof name->to.v4;
        name->to.v4.sin_family = AF_INET;
        memcpy(&name->to.v4.sin_addr, ends + 4 * k, 4);
        memcpy(&name->to.v4.sin_port, ends + 8 + 2 * k, 2);
        return 1;
    }
    if (header[FAMILY] != PMX__PROXY_TCP6)
        return 0;
    memset(name, 0, sizeof *name);
    name->size = sizeof name->to.v6;
    name->to.v6.sin6_family = AF_INET6;
    memcpy(&name->to.v6.sin6_addr, ends + 16 * k, 16);
    memcpy(&name->to.v6.sin6_port, ends + 32 + 2 * k, 2);
    return 1;
}

/* --- who may say it ------------------------------------------------------ */

struct pmx__trust {
    uint32_t count;
    pmx_network networks[];
};

int pmx__do_trust(pmx_mux *mux, const pmx_network *networks, uint32_t count)
{
    enum { MOST = 65536 };
    if (!count || count > MOST)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        const pmx_network *is = &networks[i];
        uint32_t bits = is->family == 4 ? 32 : is->family == 6 ? 128 : 0;
        if ((!bits && is->family != 1) || is->bits > bits)
            return -EINVAL;
    }
    size_t size = count * sizeof *networks;
    for (uint32_t i = 0; i < mux->trust_count; i++)
        if (mux->trusts[i]->count == count &&
            !memcmp(mux->trusts[i]->networks, networks, size))
            return (int)i + 1;
    if (mux->trust_count == MOST)
        return -ENOMEM;
    size_t room = mux->trust_count + 1;
    struct pmx__trust **grown =
        sys_realloc(mux->trusts, room * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    mux->trusts = grown;
    struct pmx__trust *trust = sys_malloc(sizeof *trust + size);
    if (!trust)
        return -ENOMEM;
    trust->count = count;
    memcpy(trust->networks, networks, size);
    mux->trusts[mux->trust_count++] = trust;
    return (int)mux->trust_count;
}

void pmx__trusts_end(pmx_mux *mux)
{
    for (uint32_t i = 0; i < mux->trust_count; i++)
        free(mux->trusts[i]);
    free(mux->trusts);
}

static int is_in(const pmx_network *network, int family, const uint8_t *ip)
{
    uint32_t bytes = network->bits / 8, bits = network->bits % 8;
    if (network->family != family || memcmp(network->ip, ip, bytes) != 0)
        return 0;
    return !bits || !((network->ip[bytes] ^ ip[bytes]) >> (8 - bits));
}

/* An address of IPv4 that is written as one of IPv6 is one of IPv4. */
int pmx__trusts(const pmx_mux *mux, uint32_t number, const pmx__target *peer,
                int is_unix)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    const struct pmx__trust *trust = mux->trusts[number - 1];
    const uint8_t *ip = (const uint8_t *)&peer->to.v6.sin6_addr;
    int family = is_unix ? 1 : pmx__family(peer);
    if (family == 1 && !is_unix)
        return 0;               /* the system has told no name */
    if (family == 4) {
        ip = (const uint8_t *)&peer->to.v4.sin_addr;
    } else if (family == 6 && !memcmp(ip, mapped, sizeof mapped)) {
        family = 4;
        ip += sizeof mapped;
    }
    for (uint32_t i = 0; i < trust->count; i++)
        if (family == 1 ? trust->networks[i].family == 1
                        : is_in(&trust->networks[i], family, ip))
            return 1;
    return 0;
}
