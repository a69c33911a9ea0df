/* The targets of the fuzzers: see fuzz/targets.h. */
#ifdef __linux__
#include "fuzz/targets.h"
#include "life.h"
#include "sim.h"
#include "toy.h"
#include "toy_ssl.h"

#include <stdlib.h>
#include <string.h>

static const char *const backends[] = {"epoll", "poll", "select"};

void fuzz_turn(const uint8_t *bytes, size_t size)
{
    choices c = choices_given(bytes, size);
    live(&c, ONE_OF(&c, backends));
}

/* --- a mux and one peer ------------------------------------------------ */

typedef struct {
    world w;
    pmx_policy policy;
    int peer;
    uint64_t id;
    int toy;                    /* over toy.h's transport; 2: over TLS, with
                                   toy_ssl.h's objects: */
    buffer wire, heard;         /* what the peer says, and has heard, */
    size_t wired, unwrapped;    /* and how far that went */
    toy_heard secret;
} pair;

/* Of what the peer says over the toy: 0, or -1. */
static int put_out(pair *p)
{
    ssize_t n = sim_send(p->peer, p->wire.bytes + p->wired,
                         p->wire.size - p->wired, 0);
    p->wired += n > 0 ? (size_t)n : 0;
    return n < 0 && errno != EAGAIN ? -1 : 0;
}

static void greet(pair *p)
{
    if (p->toy == 2)
        toy_greet(&p->wire);
    else if (p->toy)
        append(&p->wire, "h", 1);
}

static void wrap(pair *p, const uint8_t *bytes, size_t size)
{
    if (p->toy == 2)
        toy_data(&p->wire, bytes, size);
    else
        toy_wrap(&p->wire, bytes, size);
}

static void meet_in_memory(pair *p, choices *c, size_t room)
{
    static const uint64_t arenas[] = {16, 100, 5000, 262144};
    static const uint32_t rows[] = {1, 3, 100};
    sim_begin();
    sim_now.room_in = sim_now.room_out = room;
    inject_nothing();
    test_backend = ONE_OF(c, backends);
    p->policy = some_framing(c);
    world_begin(&p->w, ONE_OF(c, rows), ONE_OF(c, arenas));
    p->w.gaps = (int)choose(c, 2);
    p->toy = (int)choose(c, 3);
    if (p->toy == 2) {
        toy_ways.portable = (int)choose(c, 2);
        toy_ways.tickets = (int)choose(c, 3);
        toy_ways.flight = choose(c, 3000);
        p->policy.tls = 1;
        toy_secure(&p->w);
    }
    world_listen(&p->w, &p->policy);
    if (p->toy == 1)
        pmx__find_listener(p->w.mux, p->w.listener)->rules->transport =
            &toy_tcp;
    union {
        struct sockaddr is;
        struct sockaddr_in in;
    } at = {.in = {.sin_family = AF_INET,
                   .sin_port = htons((uint16_t)p->w.port)}};
    sim_as_peer = 1;
    p->peer = sim_socket(AF_INET, SOCK_STREAM, 0);
    (void)sim_connect(p->peer, &at.is, sizeof at.in);
    sim_as_peer = 0;
    greet(p);
    for (int k = 0; k < 3000 && !p->w.opened.count; k++) {
        turn(&p->w, 0);
        if (p->toy == 2)
            EQUAL(put_out(p), 0);
    }
    EQUAL(p->w.opened.count, 1);
    p->id = p->w.opened.ids[0];
}

static void part(pair *p)
{
    world_end(&p->w);
    EQUAL(toy_states, 0);
    release(&p->wire);
    release(&p->heard);
    toy_forget(&p->secret);
    toy_over();
    EQUAL(sim_open(), 0);
    sim_end();
    test_backend = NULL;
}

/* The peer sends of these bytes what there is room for: how many, or -1. Over
 * the toy what it says is taken whole, once the last of it is out. */
static ssize_t peer_says(pair *p, const uint8_t *bytes, size_t size)
{
    if (!p->toy)
        return sim_send(p->peer, bytes, size, 0);
    if (p->wired == p->wire.size || p->wired == 0)
        wrap(p, bytes, size);
    else
        size = 0;
    return put_out(p) ? -1 : (ssize_t)size;
}

static void peer_ends(pair *p)
{
    if (p->toy) {
        if (p->toy == 2)
            toy_record(&p->wire, 'b', NULL, 0);
        else
            toy_bye(&p->wire);
        while (p->wired < p->wire.size && !put_out(p))
            turn(&p->w, 0);
    }
    sim_shutdown(p->peer, SHUT_WR);
}

/* --- in ---------------------------------------------------------------- */

/* What the core cuts off the stream when it comes in pieces: each frame once
 * it is whole, in an exact copy, so that a read too far is seen. */
static void cut_alone(const pmx_framing *f, const uint8_t *bytes, size_t size,
                      choices c)
{
    uint64_t scanned = 0;
    size_t at = 0, end = 0, begin, length, next;
    pmx_frame frame;
    while (f->kind != PMX_RAW) {
        if (end == at && end < size)
            end++;              /* a framing is not asked about nothing */
        else if (end == at)
            return;
        uint8_t *copy = malloc(end - at ? end - at : 1);
        CHECK(copy);
        memcpy(copy, bytes + at, end - at);
        int is = next_frame(f, copy, end - at, &scanned, &frame);
        free(copy);
        enum plain wanted = plain_cut(f, bytes + at, end - at, 0, &begin,
                                      &length, &next);
        EQUAL(is == -EMSGSIZE ? PLAIN_TOO_LONG
              : is < 0 ? PLAIN_BROKEN : is, (int)wanted);
        if (is < 0)
            return;
        if (is) {
            EQUAL(frame.head, begin);
            EQUAL(frame.size, length);
            EQUAL(frame.whole, next);
            EQUAL(scanned, 0);
            at += next;
            continue;
        }
        if (end == size)
            return;
        end += 1 + choose(&c, 40);
        end = end < size ? end : size;
    }
}

/* The next message that was delivered is the next of the stream. */
static size_t check_next(const pair *p, size_t k, const uint8_t *stream,
                         size_t at, size_t size)
{
    const message *m = &p->w.messages[k];
    size_t begin, length, next;
    EQUAL(m->id, p->id);
    if (p->policy.framing.kind == PMX_RAW) {
        CHECK(m->size && m->size <= size - at);
        CHECK(!memcmp(p->w.in.bytes + m->at, stream + at, m->size));
        return at + m->size;
    }
    EQUAL(plain_cut(&p->policy.framing, stream + at, size - at, 1, &begin,
                    &length, &next), PLAIN_MESSAGE);
    EQUAL(m->size, length);
    CHECK(!length || !memcmp(p->w.in.bytes + m->at, stream + at + begin,
                             length));
    return at + next;
}

void fuzz_frames_in(const uint8_t *bytes, size_t size)
{
    pair p = {.peer = -1};
    choices c = choices_given(bytes, size);
    meet_in_memory(&p, &c, 1 << 20);
    if (c.at > size)
        c.at = size;
    const uint8_t *stream = bytes + c.at;
    size_t left = size - c.at, at = 0, sent = 0;
    /* what tells how to cut is the stream's own bytes, from the end on */
    choices cuts = choices_drawn(left ? stream[left - 1] + left : 0);
    cut_alone(&p.policy.framing, stream, left, cuts);
    while (sent < left) {
        size_t some = 1 + choose(&cuts, choose(&cuts, 4) ? 30 : 5000);
        some = some < left - sent ? some : left - sent;
        ssize_t n = peer_says(&p, stream + sent, some);
        if (n < 0 && errno != EAGAIN)
            break;
        sent += n > 0 ? (size_t)n : 0;
        turn(&p.w, 0);
        mux_is_sound(p.w.mux);
    }
    peer_ends(&p);
    for (int k = 0; k < 100000 && !closed(&p.w, p.id); k++) {
        turn(&p.w, MS);
        uint8_t end[16];
        if (sim_recv(p.peer, end, sizeof end, 0) == 0)
            sim_shutdown(p.peer, SHUT_RDWR);
    }
    for (size_t k = 0; k < p.w.message_count; k++)
        at = check_next(&p, k, stream, at, left);
    /* and what is left is none, for the reason that is told */
    size_t begin, length, next;
    enum plain is = plain_cut(&p.policy.framing, stream + at, left - at, 1,
                              &begin, &length, &next);
    CHECK(is != PLAIN_MESSAGE);
    int told = error_of(&p.w, p.id);
    /* A scanner that has seen a part may find it too long, and broken later. */
    if (is == PLAIN_BROKEN && p.policy.framing.kind == PMX_SCANNER &&
        told == EMSGSIZE)
        told = EPROTO;
    EQUAL(told, is == PLAIN_TOO_LONG ? EMSGSIZE : at < left ? EPROTO : 0);
    world_is_clean(&p.w);
    part(&p);
}

/* --- out --------------------------------------------------------------- */

enum { MESSAGES = 40 };

typedef struct {
    uint64_t ids[MESSAGES], offsets[MESSAGES + 1];
    int64_t lengths[MESSAGES];
    uint32_t offsets32[MESSAGES + 1];
    const uint8_t *spans[MESSAGES];
    uint32_t count;
    buffer data, wire;
} outgoing;

/* What the blocks of this kind hold of the bytes; whether it can be said. */
static int put_in_block(const outgoing *o, pmx_block *b, pmx_framing *lines)
{
    b->ids = o->ids;
    b->count = o->count;
    b->data = o->data.bytes;
    b->size = o->data.size;
    switch (b->cut) {
    case PMX_LENGTHS: b->bounds = o->lengths; return 1;
    case PMX_OFFSETS32: b->bounds = o->offsets32; return 1;
    case PMX_OFFSETS64: b->bounds = o->offsets; return 1;
    case PMX_SPANS:
        b->bounds = o->lengths;
        b->data = o->spans;
        return 1;
    case PMX_DELIMITED:         /* of data that goes out as it is */
        lines->max_size = INT32_MAX;
        b->bounds = lines;
        b->data = o->wire.bytes;
        b->size = o->wire.size;
        return lines->kind == PMX_LINES;
    default:
        return 0;
    }
}

/* A delimiter in a message makes two of it, on the way and behind it. */
static int can_be_cut(const pmx_framing *f, const uint8_t *bytes, size_t size)
{
    buffer one = {0};
    size_t begin, length, next;
    pmx_framing free_of = *f;
    free_of.max_size = INT32_MAX;
    if (f->kind == PMX_FIXED || f->kind == PMX_RAW)
        return 0;
    plain_frame(f, bytes, size, &one);
    int is = plain_cut(&free_of, one.bytes, one.size, 0, &begin, &length,
                       &next) == PLAIN_MESSAGE && length == size &&
             next == one.size;
    release(&one);
    return is;
}

static void get_all(pair *p, buffer *got)
{
    uint8_t bytes[4096];
    ssize_t n;
    while ((n = sim_recv(p->peer, bytes, sizeof bytes, 0)) > 0)
        append(p->toy == 2 ? &p->secret.wire : p->toy ? &p->heard : got, bytes,
               (size_t)n);
    if (p->toy == 1)
        (void)toy_unwrap(&p->heard, &p->unwrapped, got);
    if (p->toy != 2)
        return;
    size_t before = p->secret.plain.size;
    toy_parse(&p->secret);
    if (p->secret.plain.size > before)
        append(got, p->secret.plain.bytes + before,
               p->secret.plain.size - before);
}

/* Messages are pieces of what is left of the input, in order. */
static int make_messages(outgoing *o, const pair *p, choices *c,
                         const uint8_t *bytes, size_t size)
{
    int cuttable = 1;
    size_t at = c->at < size ? c->at + 60 : size;
    choices sizes = *c;
    uint32_t count = 1 + choose(&sizes, MESSAGES - 1);
    at = at < size ? at : size;
    append(&o->data, bytes + at, size - at);
    append(&o->data, "end", 3);         /* so that there is some */
    at = 0;
    for (; o->count < count; o->count++) {
        uint32_t k = o->count;
        size_t some = choose(&sizes, choose(&sizes, 8) ? 20 : 9000);
        some = some < o->data.size - at ? some : o->data.size - at;
        if (p->policy.framing.kind == PMX_PREFIX &&
            p->policy.framing.width == 1 && some > 255)
            some = 255;
        o->ids[k] = p->id;
        o->lengths[k] = (int64_t)some;
        o->offsets[k] = at;
        o->offsets32[k] = (uint32_t)at;
        o->spans[k] = o->data.bytes + at;
        cuttable &= can_be_cut(&p->policy.framing, o->spans[k], some);
        plain_frame(&p->policy.framing, o->spans[k], some, &o->wire);
        at += some;
    }
    o->offsets[count] = at;
    o->offsets32[count] = (uint32_t)at;
    o->data.size = at;
    return cuttable;
}

/* Cut again, they are what they were. */
static void cut_again(const outgoing *o, const pmx_framing *framing,
                      const buffer *got)
{
    pmx_framing f = *framing;
    pmx_frame frame;
    uint64_t scanned = 0;
    size_t at = 0;
    f.max_size = INT32_MAX;
    for (uint32_t k = 0; k < o->count; k++) {
        EQUAL(next_frame(&f, got->bytes + at, got->size - at, &scanned,
                              &frame), 1);
        EQUAL(frame.size, o->lengths[k]);
        CHECK(!frame.size || !memcmp(got->bytes + at + frame.head,
                                     o->spans[k], frame.size));
        at += frame.whole;
    }
    EQUAL(at, got->size);
}

void fuzz_frames_out(const uint8_t *bytes, size_t size)
{
    static const size_t rooms[] = {16, 1000, 1 << 20};
    pair p = {.peer = -1};
    outgoing o = {.count = 0};
    buffer got = {0}, nothing = {0};
    choices c = choices_given(bytes, size);
    uint32_t cut = choose(&c, PMX_SPANS + 1);
    meet_in_memory(&p, &c, ONE_OF(&c, rooms));
    int cuttable = make_messages(&o, &p, &c, bytes, size);
    pmx_framing lines = p.policy.framing;
    pmx_block block = {.cut = cut};
    if (cut == PMX_DELIMITED && !cuttable)
        block.cut = PMX_LENGTHS;
    if (cut == PMX_SHARED) {            /* the same for each */
        block = (pmx_block){.cut = cut, .ids = o.ids, .count = o.count,
                            .data = o.spans[0],
                            .size = (uint64_t)o.lengths[0]};
        o.wire.size = 0;
        for (uint32_t k = 0; k < o.count; k++) {
            plain_frame(&p.policy.framing, o.spans[0], (size_t)o.lengths[0],
                        &o.wire);
            o.spans[k] = o.spans[0];
            o.lengths[k] = o.lengths[0];
        }
    } else if (!put_in_block(&o, &block, &lines)) {
        block.cut = PMX_OFFSETS64;
        (void)put_in_block(&o, &block, &lines);
    }
    pmx_turn t = {.mux = p.w.mux, .blocks = &block, .block_count = 1};
    EQUAL(pmx_submit(&t), 0);
    EQUAL(t.block_count, 0);
    for (int k = 0; k < 100000 && got.size < o.wire.size; k++) {
        get_all(&p, &got);
        turn(&p.w, 0);
    }
    get_all(&p, &got);
    CHECK(same(&got, &o.wire));
    /* nothing without a frame is no message */
    uint64_t said = pmx_counts(p.w.mux)->messages_out;
    plain_frame(&p.policy.framing, NULL, 0, &nothing);
    CHECK(said == o.count || (said < o.count && !nothing.size));
    if (cuttable)
        cut_again(&o, &p.policy.framing, &got);
    sim_close(p.peer);
    while (!closed(&p.w, p.id))
        turn(&p.w, 0);
    world_is_clean(&p.w);
    release(&got);
    release(&nothing);
    release(&o.data);
    release(&o.wire);
    part(&p);
}
#else
typedef int targets_on_linux;   /* a file must not be empty */
#endif
