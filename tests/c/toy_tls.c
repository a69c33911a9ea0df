/* See toy.h. */
#include "toy.h"

#include <stdlib.h>
#include <string.h>

enum { KEY = 0x5a, ROOM = 2 * (TOY_RECORD + TOY_HEAD), MOST = 3000 };

typedef struct toy {
    struct toy *next;
    pmx_sock sock;
    int said_hello, heard_hello, said_bye, heard_bye;
    size_t used;                /* of in, from the socket */
    size_t begin;               /* of what is not delivered: a record, or the
                                   rest of one */
    size_t left;                /* of that record's bytes */
    uint8_t in[ROOM];
} toy;

int toy_states;
static toy *toys;

static toy *toy_of(const pmx__conn *c)
{
    toy *t = toys;
    while (t && t->sock != c->sock)
        t = t->next;
    if (!t) {
        t = calloc(1, sizeof *t);
        CHECK(t);
        t->sock = c->sock;
        t->next = toys;
        toys = t;
        toy_states++;
    }
    return t;
}

static void toy_end(pmx__conn *c)
{
    for (toy **place = &toys; *place; place = &(*place)->next)
        if ((*place)->sock == c->sock) {
            toy *t = *place;
            *place = t->next;
            free(t);
            toy_states--;
            return;
        }
}

/* What the socket does not take is the head of the queue. */
static int put_out(pmx_mux *mux, pmx__conn *c, const uint8_t *bytes,
                   size_t size)
{
    if (c->flags & PMX__SEND_FAILED)    /* nothing follows what is lost */
        return 0;
    int64_t n = c->queue && c->queue->head->raw
                    ? -EAGAIN : pmx__send(c->sock, bytes, size);
    if (n < 0 && n != -EAGAIN && n != -ENOBUFS)
        return (int)n;
    size_t taken = n > 0 ? (size_t)n : 0;
    return taken < size ? pmx__queue_raw(mux, c, bytes + taken, size - taken)
                        : 0;
}

static int shake(pmx_mux *mux, pmx__conn *c, toy *t)
{
    static const uint8_t hello = TOY_HELLO;
    if (t->said_hello)
        return 0;
    t->said_hello = 1;
    return put_out(mux, c, &hello, 1);
}

static size_t size_at(const uint8_t *head)
{
    return (size_t)head[0] << 8 | head[1];
}

/* Deliver of what has arrived; 0: there is no whole record. -EPROTO. */
static int64_t deliver(toy *t, uint8_t *to, size_t size)
{
    if (!t->heard_hello && t->used) {
        if (t->in[t->begin++] != TOY_HELLO)
            return -EPROTO;
        t->heard_hello = 1;
    }
    if (!t->left && t->used - t->begin >= TOY_HEAD) {
        size_t whole = size_at(t->in + t->begin);
        if (whole > TOY_RECORD)
            return -EPROTO;
        if (!whole) {
            t->heard_bye = 1;
        } else if (t->used - t->begin - TOY_HEAD >= whole) {
            t->begin += TOY_HEAD;
            t->left = whole;
        }
    }
    size_t n = t->left < size ? t->left : size;
    for (size_t i = 0; i < n; i++)
        to[i] = t->in[t->begin + i] ^ KEY;
    t->begin += n;
    t->left -= n;
    return (int64_t)n;
}

static int64_t toy_recv(pmx_mux *mux, pmx__conn *c, void *to, size_t size,
                        pmx__got *got)
{
    toy *t = toy_of(c);
    int error = shake(mux, c, t);
    got->dry = 0;
    while (!error) {
        int64_t n = t->heard_bye ? 0 : deliver(t, to, size);
        if (n || t->heard_bye)
            return n;
        memmove(t->in, t->in + t->begin, t->used - t->begin);
        t->used -= t->begin;
        t->begin = 0;
        n = pmx__recv(c->sock, t->in + t->used, ROOM - t->used);
        if (n <= 0) {
            got->dry = n == -EAGAIN;
            return n ? n : -ECONNABORTED;
        }
        got->wire += (size_t)n;
        got->dry = !c->rules->transport->arrives_at_once &&
                   (size_t)n < ROOM - t->used;
        t->used += (size_t)n;
    }
    return error;
}

/* What is dropped need not be changed back. */
static int64_t toy_drop(pmx_mux *mux, pmx__conn *c, pmx__got *got)
{
    int64_t n = pmx__recv(c->sock, mux->scratch, mux->scratch_size);
    got->wire = n > 0 ? (size_t)n : 0;
    got->dry = c->rules->transport->arrives_at_once
                   ? n == -EAGAIN : got->wire < mux->scratch_size;
    return n;
}

static int64_t toy_send(pmx_mux *mux, pmx__conn *c, pmx__span *spans,
                        int count)
{
    toy *t = toy_of(c);
    int error = shake(mux, c, t);
    buffer plain = {0}, wire = {0};
    if (!error && c->queue && c->queue->head->raw)
        return -EAGAIN;
    for (int i = 0; i < count && plain.size < MOST; i++) {
        size_t size = PMX__SPAN_SIZE(spans[i]);
        append(&plain, spans[i].iov_base,
               size < MOST - plain.size ? size : MOST - plain.size);
    }
    toy_wrap(&wire, plain.bytes, plain.size);
    if (!error && wire.size)
        error = put_out(mux, c, wire.bytes, wire.size);
    size_t taken = plain.size;
    release(&plain);
    release(&wire);
    return error ? error : (int64_t)taken;
}

static size_t toy_held(const pmx__conn *c)
{
    const toy *t = toys;
    while (t && t->sock != c->sock)
        t = t->next;
    return t ? t->used - t->begin : 0;
}

static int say_bye(pmx_mux *mux, pmx__conn *c)
{
    static const uint8_t bye[1 + TOY_HEAD] = {TOY_HELLO};
    toy *t = toy_of(c);
    if (t->said_bye)
        return 0;
    /* in one piece, since there is one raw chunk at a time */
    int error = put_out(mux, c, bye + t->said_hello,
                        sizeof bye - (size_t)t->said_hello);
    t->said_hello = t->said_bye = 1;
    return error;
}

const pmx__transport toy_tcp = {
    .name = "toy", .recv = toy_recv, .send = toy_send, .held = toy_held,
    .drop = toy_drop, .bye = say_bye, .end = toy_end,
};

const pmx__transport toy_unix = {
    .name = "toy on Unix", .arrives_at_once = 1, .recv = toy_recv,
    .send = toy_send, .held = toy_held, .drop = toy_drop, .bye = say_bye,
    .end = toy_end,
};

void toy_instead(pmx__rules *rules)
{
    rules->transport = rules->transport->arrives_at_once ? &toy_unix : &toy_tcp;
}

/* --- a peer's side -------------------------------------------------------- */

void toy_wrap(buffer *wire, const void *bytes, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t part = size - at < TOY_RECORD ? size - at : TOY_RECORD;
        uint8_t head[TOY_HEAD] = {(uint8_t)(part >> 8), (uint8_t)part};
        append(wire, head, TOY_HEAD);
        append(wire, (const uint8_t *)bytes + at, part);
        for (size_t i = wire->size - part; i < wire->size; i++)
            wire->bytes[i] ^= KEY;
        at += part;
    }
}

void toy_bye(buffer *wire)
{
    append(wire, "\0\0", TOY_HEAD);
}

int toy_unwrap(const buffer *wire, size_t *at, buffer *plain)
{
    if (!*at && wire->size) {
        EQUAL(wire->bytes[0], TOY_HELLO);
        *at = 1;
    }
    while (*at && wire->size - *at >= TOY_HEAD) {
        const uint8_t *head = wire->bytes + *at;
        size_t size = size_at(head);
        if (wire->size - *at - TOY_HEAD < size)
            break;
        CHECK(size <= TOY_RECORD);
        *at += TOY_HEAD + size;
        if (!size) {
            EQUAL(*at, wire->size);     /* nothing comes behind a bye */
            return 1;
        }
        append(plain, head + TOY_HEAD, size);
        for (size_t i = plain->size - size; i < plain->size; i++)
            plain->bytes[i] ^= KEY;
    }
    return 0;
}
