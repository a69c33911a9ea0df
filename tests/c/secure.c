/* Worlds over TLS: see toy_ssl.h. */
#include "toy_ssl.h"

#include <string.h>

void toy_serve(world *w, const pmx_policy *policy, uint32_t rows,
               uint64_t arena)
{
    pmx_policy p = *policy;
    p.tls = 7;
    world_begin(w, rows, arena);
    toy_secure(w);
    world_listen(w, &p);
}

void toy_end(world *w)
{
    world_is_clean(w);
    EQUAL(w->mux->tls ? w->mux->tls->out_size : 0, 0);
    world_end(w);
    toy_over();
}

void toy_greet(buffer *wire)
{
    toy_record(wire, 'c', NULL, 0);
    toy_record(wire, 'f', NULL, 0);
}

uint64_t toy_meet(world *w, pmx_sock *peer, int small)
{
    buffer wire = {0};
    size_t before = w->opened.count;
    *peer = small ? call_small(w) : call(w);
    toy_greet(&wire);
    put(*peer, wire.bytes, wire.size);
    UNTIL(w, w->opened.count > before);
    release(&wire);
    return w->opened.ids[before];
}

void toy_put_data(pmx_sock peer, const char *text)
{
    buffer wire = {0};
    toy_data(&wire, text, strlen(text));
    put(peer, wire.bytes, wire.size);
    release(&wire);
}

void toy_put(pmx_sock peer, char kind)
{
    buffer wire = {0};
    toy_record(&wire, kind, NULL, 0);
    put(peer, wire.bytes, wire.size);
    release(&wire);
}

/* --- a peer's side --------------------------------------------------------- */

void toy_record(buffer *wire, char kind, const void *bytes, size_t size)
{
    const uint8_t head[SSL_HEAD] = {(uint8_t)kind, (uint8_t)(size >> 8),
                                    (uint8_t)size};
    append(wire, head, SSL_HEAD);
    append(wire, bytes, size);
    for (size_t i = wire->size - size; i < wire->size; i++)
        wire->bytes[i] ^= SSL_KEY;
}

void toy_data(buffer *wire, const void *bytes, size_t size)
{
    for (size_t at = 0; at < size; at += SSL_RECORD)
        toy_record(wire, 'd', (const uint8_t *)bytes + at,
                   size - at < SSL_RECORD ? size - at : SSL_RECORD);
}

void toy_parse(toy_heard *h)
{
    while (h->wire.size - h->at >= SSL_HEAD) {
        const uint8_t *head = h->wire.bytes + h->at;
        size_t size = (size_t)head[1] << 8 | head[2];
        if (h->wire.size - h->at - SSL_HEAD < size)
            break;
        CHECK(!h->byes);        /* nothing comes behind it */
        h->at += SSL_HEAD + size;
        h->hellos += head[0] == 's' && !size;
        h->byes += head[0] == 'b';
        h->alerts += head[0] == 'a';
        h->updates += head[0] == 'K';
        h->tickets += head[0] == 't';
        if (head[0] == 'd') {
            if (!h->plain.size)
                h->tickets_before_data = h->tickets;
            append(&h->plain, head + SSL_HEAD, size);
            for (size_t i = h->plain.size - size; i < h->plain.size; i++)
                h->plain.bytes[i] ^= SSL_KEY;
        }
        CHECK(strchr("sbaKtdcf", head[0]));
    }
}

int toy_hear(toy_heard *h, pmx_sock peer)
{
    int is = get(peer, &h->wire);
    toy_parse(h);
    h->end |= is == 0;
    if (is < 0 && !h->error)
        h->error = -is;
    return is;
}

void toy_forget(toy_heard *h)
{
    release(&h->wire);
    release(&h->plain);
}
