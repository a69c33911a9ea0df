/* Headers of the PROXY protocol in a life: see life.h. */
#ifdef __linux__
#include "life.h"
#include "sim.h"

#include <stdio.h>
#include <string.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

/* What the mux sends first of all. */
static const char first[] = SIGNATURE "\x21\x11\0\x0c" "12341234" "pppp";

int headers_trust_all(pmx_mux *mux)
{
    static const pmx_network all[] = {{4, 0, {0}}, {6, 0, {0}}, {1, 0, {0}}};
    int number = pmx_trust(mux, all, 3);
    CHECK(number == 1 || life.faults);
    return number == 1;
}

void header_policy(pmx_policy *p)
{
    p->proxy = life.proxied ? 1 : 0;
    p->proxy_ms = life.proxied && life.wild ? 1 + 20 * choose(life.c, 256)
                                            : 3600000;
}

void header_out(pmx_endpoint *at)
{
    if (!life.proxied)
        return;
    at->header = (const uint8_t *)first;
    at->header_size = sizeof first - 1;
}

size_t header_slack(void)
{
    return life.proxied ? sizeof first - 1 : 0;
}

/* --- the peers' side -------------------------------------------------------- */

static void put_line(peer *p)
{
    char line[100];
    int n = snprintf(line, sizeof line, p->port % 2
                         ? "PROXY TCP4 127.0.0.1 10.1.2.3 %d 80\r\n"
                         : "PROXY TCP6 ::ffff:127.0.0.1 2001:db8::1 %d 80\r\n",
                     p->port);
    append(&p->header, line, (size_t)n);
}

/* With a TLV of so many bytes. */
static void put_binary(peer *p, size_t more)
{
    uint8_t head[31] = SIGNATURE "\x21\x11\0\0" "\x7f\0\0\1" "\x0a\1\2\3";
    size_t size = 12 + 3 + more;
    head[14] = (uint8_t)(size >> 8);
    head[15] = (uint8_t)size;
    head[24] = (uint8_t)(p->port >> 8);
    head[25] = (uint8_t)p->port;
    head[28] = 0xe0;
    head[29] = (uint8_t)(more >> 8);
    head[30] = (uint8_t)more;
    append(&p->header, head, sizeof head);
    fill(&p->header, more, 1);
}

/* A header that says who the peer is, or that nothing is said; or none. */
void header_plan(peer *p)
{
    static const size_t sizes[] = {0, 20, 300, 4000};
    if (!p->policy.proxy)
        return;
    uint32_t kind = choose(life.c, 8);
    if (kind < 2 && p->port)
        put_line(p);
    else if (kind < 4 && p->port)
        put_binary(p, ONE_OF(life.c, sizes));
    else if (kind < 5)
        append(&p->header, "PROXY UNKNOWN\r\n", 15);
    else if (kind < 6)
        append(&p->header, SIGNATURE "\x20\0\0\0", 16);
    else
        append(&p->header, SIGNATURE "\x21\0\0\6" "\5\0\3abc", 22);
    if (life.wild && once_in(life.c, 6)) {
        p->header.bytes[choose(life.c, 12)] ^= 64;
        p->has_no_header = 1;
    }
}

/* 1: something went. */
int header_sends(peer *p, size_t most)
{
    size_t left = p->header.size - p->headed;
    ssize_t n = sim_send(p->fd, p->header.bytes + p->headed,
                         left < most ? left : most, 0);
    p->cannot_send = n < 0 && errno != EAGAIN;
    if (n <= 0)
        return 0;
    p->headed += (size_t)n;
    TRACE("peer %d sends %d of its header\n", (int)(p - life.peers), (int)n);
    return 1;
}

/* Of what the peer got, how much belongs to the mux's header. */
size_t header_got(peer *p, const uint8_t *bytes, size_t size)
{
    size_t left = p->answers ? header_slack() - p->first : 0;
    size_t part = size < left ? size : left;
    CHECK(!memcmp(bytes, first + p->first, part));
    p->first += part;
    return part;
}
#else
typedef int life_headers_on_linux;  /* a file must not be empty */
#endif
