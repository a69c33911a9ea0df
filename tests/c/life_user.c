/* A life's user, whose acts go to the mux in blocks of every kind: see life.h. */
#ifdef __linux__
#include "life.h"
#include "sim.h"
#include "toy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t some_size(size_t most)
{
    static const size_t sizes[] = {0, 1, 2, 7, 15, 100, 255, 1000, 4095, 4096,
                                   5000};
    size_t size = ONE_OF(life.c, sizes);
    if (life.large && once_in(life.c, 3))
        size = 60000 + 40000 * choose(life.c, 4);
    if (once_in(life.c, 6))
        size = most - (most > 0 && once_in(life.c, 2));
    if (!life.large && size > 9000)
        size = 9000;
    return size < most ? size : most;
}

conn *conn_of(uint64_t id)
{
    for (int i = life.conn_count; i--;)
        if (life.conns[i].id == id && life.conns[i].half == life.half)
            return &life.conns[i];
    return NULL;
}

void user_says(int k, enum pmx_op op, size_t size)
{
    conn *c = &life.conns[k];
    if (op == PMX_SWITCH) {     /* what waits is another service's */
        memset(life.waits, 0, sizeof life.waits);
        c->switched = 1;
    }
    c->begun |= op == PMX_BEGUN;
    if (life.log_count == MOST_ENTRIES || (op == PMX_WAITS && !c->said_owed) ||
        (op == PMX_SWITCH && c->waits && !c->said_owed))    /* it may close */
        return;
    if (op == PMX_OWED || op == PMX_WAITS)
        c->said_owed = op == PMX_OWED;
    life.log[life.log_count++] = (entry){k, op, size};
}

/* --- listening, connecting --------------------------------------------- */

static int64_t some_time(choices *c)
{
    static const int64_t spans[] = {-1, -1, 1, 5, 50, 1000, 60000};
    int64_t ms = ONE_OF(c, spans);
    return ms < 0 || !life.wild ? -1 : ms * MS;
}

pmx_policy some_policy(void)
{
    pmx_policy p = some_framing(life.c);
    static const uint64_t waters[] = {0, 100, 5000, 65536};
    static const uint64_t outputs[] = {16777216, 16777216, 20000, 100, 0};
    p.high_water = ONE_OF(life.c, waters);
    p.low_water = once_in(life.c, 2) ? p.high_water : p.high_water / 4;
    p.max_output = life.wild ? ONE_OF(life.c, outputs) : 16777216;
    p.half_open = choose(life.c, 2);
    p.idle_ns = some_time(life.c);
    p.message_ns = some_time(life.c);
    p.close_ns = some_time(life.c);
    p.connect_ns = some_time(life.c);
    p.service = choose(life.c, life.services);
    p.tls = life.toy == 2;
    p.handshake_ns = life.toy == 2 ? some_time(life.c) : -1;
    if (once_in(life.c, 4)) {
        p.replies = some_framing(life.c).framing;
        p.replies.other = 1;
    }
    return p;
}

/* The user's own socket is connected, and is handed over. 1: nobody is there. */
static int adopt_ours(const door *d, conn *k)
{
    union {
        struct sockaddr is;
        struct sockaddr_in in;
    } at = {.in = {.sin_family = AF_INET,
                   .sin_port = htons((uint16_t)d->at.port)}};
    int fd = sim_socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0)
        return -errno;
    at.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sim_now.dial = SIM_AT_ONCE;
    int error = sim_connect(fd, &at.is, sizeof at.in) ? 1 : 0;
    if (!error && life.toy == 2 && life.serve_count < MOST_CONNS &&
        once_in(life.c, 2)) {
        life.serves[life.serve_count++] = sim_port(fd);
        k->policy.tls = TOY_SERVES;
    }
    if (!error)
        error = pmx_adopt(life.mux, fd, 0, &k->policy, &k->id);
    if (error)
        CHECK(!sim_close(fd));
    return error;
}

static void user_connects(void)
{
    door *d = &ONE_OF(life.c, life.others);
    if (life.conn_count == MOST_CONNS)
        return;
    static const enum sim_dial dials[] = {SIM_SOON, SIM_AT_ONCE, SIM_LATER,
                                          SIM_LOST};
    static const size_t rooms[] = {16, 300, 9000, 70000};
    sim_now.dial = dials[choose(life.c, life.wild ? 4 : 3)];
    sim_now.room_in = life.large ? 70000 : ONE_OF(life.c, rooms);
    sim_now.room_out = life.large ? 70000 : ONE_OF(life.c, rooms);
    conn *k = &life.conns[life.conn_count];
    *k = (conn){.peer = -1, .half = life.half, .outgoing = 1,
                .since = sim_clock()};
    k->policy = some_policy();
    k->policy.framing = d->policy.framing;
    pmx_endpoint at[2] = {life.others[DOORS - 1].at, d->at};
    uint32_t skip = choose(life.c, 2);
    at[skip].source = once_in(life.c, 3) ? "127.0.0.1" : NULL;
    header_out(&at[skip]);
    int error = d->at.host && once_in(life.c, 4)
                    ? life.proxied || once_in(life.c, 2) ? adopt_pipe(k)
                                                         : adopt_ours(d, k)
                    : pmx_connect(life.mux, at + skip, 2 - skip, &k->policy,
                                  &k->id);
    if (error) {
        CHECK(life.faults || error == -EMFILE || error == 1);
        return;
    }
    if (life.toy == 1)
        toy_instead(pmx__find(life.mux, k->id)->rules);
    life.conn_count++;
    TRACE("conn %d connects\n", life.conn_count - 1);
}

static void user_does_something_to(int i)
{
    static const enum pmx_op mild[] = {
        PMX_PAUSE, PMX_RESUME, PMX_RESUME, PMX_HOLD, PMX_RELEASE, PMX_RELEASE,
        PMX_BEGUN, PMX_WHOLE, PMX_OWED, PMX_WAITS};
    const conn *k = &life.conns[i];
    if (k->half != life.half)
        return;
    switch (choose(life.c, 13)) {
    case 0: case 1: case 2: case 3: case 4:
        user_says(i, PMX_SEND, some_size(plain_out(&k->policy)->max_size));
        break;
    case 5: case 6: case 7: case 8:
        user_says(i, ONE_OF(life.c, mild), 0);
        break;
    case 9:
        if (once_in(life.c, 4))
            user_says(i, PMX_SEND_EOF, 0);
        break;
    case 10:
        if (once_in(life.c, 4))
            user_says(i, PMX_CLOSE, 0);
        break;
    case 11:
        /* rows of a batch that gathers are cut already */
        if (!life.gathering && once_in(life.c, 3))
            user_says(i, PMX_SWITCH, some_size(100));
        break;
    default:
        if (life.wild && once_in(life.c, 4))
            user_says(i, once_in(life.c, 2) ? PMX_ABORT : PMX_FAIL, 0);
        break;
    }
}

void user_acts(void)
{
    look_at_doors();
    switch (choose(life.c, 8)) {
    case 0:
        user_listens();
        break;
    case 1:
        user_connects();
        break;
    case 2:
        user_closes_a_door();
        break;
    default:
        if (life.conn_count)
            user_does_something_to((int)choose(life.c,
                                               (uint32_t)life.conn_count));
        break;
    }
}

/* --- the log ----------------------------------------------------------- */

static pmx_block blocks[MOST_ENTRIES];
static uint64_t ids[MOST_ENTRIES];
static uint64_t bounds[2 * MOST_ENTRIES + 1];
static const uint8_t *spans[MOST_ENTRIES];
static size_t begins[MOST_ENTRIES];
static pmx_framing delimiters[MOST_ENTRIES];
static uint32_t flags[MOST_ENTRIES];
static int answering;           /* what is written now is PMX_ANSWERS */

/* Whether what is sent now is sure to be taken. */
static int is_owed(const conn *k)
{
    const peer *p = k->peer >= 0 ? &life.peers[k->peer] : NULL;
    if (k->matter || k->closed_by_user || k->ended_by_user || k->told_closed)
        return 0;
    if (!k->opened)
        return k->outgoing;
    if (!p || p->matter)
        return 0;
    if (k->had_row || k->pipe == PMX_WRITABLE)
        return 1;
    return !is_drained(k) && !k->too_long &&
           (!p->ended || k->policy.half_open);
}

static void note_output(conn *k, const uint8_t *bytes, size_t size)
{
    int owed = is_owed(k);
    size_t got = k->peer >= 0 ? life.peers[k->peer].got.size : 0;
    size_t slack = life_slack();
    if (k->closed_by_user || k->ended_by_user || k->told_closed)
        return;
    append(&k->expected, bytes, size);
    k->largest = size > k->largest ? size : k->largest;
    if (k->had_row || (answering && k->waits))
        k->answered = 1;                /* and may have any size */
    else if (k->expected.size - got + slack > k->policy.max_output)
        k->matter |= MAY_OVERFLOW;
    if (k->expected.size - got + slack > k->policy.high_water)
        k->was_over = 1;
    if (owed && !(k->matter & MAY_OVERFLOW))
        k->owed = k->expected.size;
}

static void note_op(conn *k, enum pmx_op op)
{
    switch (op) {
    case PMX_SEND_EOF: k->ended_by_user = 1; break;
    case PMX_FAIL: k->matter |= USER_FAILED; k->closed_by_user = 1; break;
    case PMX_CLOSE: k->closed_by_user = 1; break;
    case PMX_ABORT: k->matter |= USER_ABORTED; k->closed_by_user = 1; break;
    case PMX_PAUSE: k->paused = 1; break;
    case PMX_RESUME: k->paused = 0; break;
    case PMX_OWED: k->waits = 1; break;
    case PMX_WAITS: k->waits = 0; break;
    default: break;
    }
}

/* Digits, in which no delimiter begins that is a line's here; or anything. */
static void some_text(size_t size, uint32_t seed, int digits)
{
    size_t at = life.out.size;
    fill(&life.out, size, seed);
    for (size_t i = at; digits && i < at + size; i++)
        life.out.bytes[i] = (uint8_t)"987654"[life.out.bytes[i] % 6];
}

/* The bytes come before what was not reported yet, and all of that is cut by
 * the new policy; a connection that closes does not mind. */
static void note_switch(conn *k, const pmx_policy *to, const uint8_t *bytes,
                        size_t size)
{
    const pmx__conn *c = pmx__find(life.mux, k->id);
    peer *p = k->peer >= 0 ? &life.peers[k->peer] : NULL;
    /* who ends what a pipe's write end sends has closed it */
    int ended = k->pipe == PMX_WRITABLE && k->ended_by_user;
    if (!c || c->flags & (PMX__CLOSING | PMX__DONE) || k->closed_by_user ||
        ended)
        return;
    uint32_t half_open = k->policy.half_open;
    k->was_in |= UINT32_C(1) << k->policy.service;
    k->policy = *to;
    k->policy.half_open = half_open;
    k->was_over = k->answered = 1;      /* as far as is known */
    if (size)
        k->told_ended = k->last_line = 0;
    if (!p)
        return;
    buffer rest = {0};
    if (p->sent.size > p->cut)
        append(&rest, p->sent.bytes + p->cut, p->sent.size - p->cut);
    p->sent.size = p->cut;
    append(&p->sent, bytes, size);
    append(&p->sent, rest.bytes, rest.size);
    release(&rest);
    p->policy.framing = to->framing;
    k->too_long = 0;
    k->looked = SIZE_MAX;
}

static int is_lines(const entry *e, const pmx_framing *f)
{
    const pmx_framing *is = plain_out(&life.conns[e->conn].policy);
    return e->op == PMX_SEND && is->kind == PMX_LINES &&
           is->width == f->width &&
           !memcmp(is->delimiter, f->delimiter, f->width);
}

/* Entry i in the block: its bytes, and what the model makes of it. */
static void write_entry(const pmx_block *b, int i)
{
    const entry *e = &life.log[i];
    conn *c = &life.conns[e->conn];
    uint64_t op = (uint64_t)e->op << PMX_OP_SHIFT;
    buffer wire = {0};
    ids[i] = c->id | op;
    begins[i] = life.out.size;
    TRACE("conn %d: op %d, %d bytes, cut %d\n", e->conn, (int)e->op,
          (int)e->size, (int)b->cut);
    if (e->op == PMX_SWITCH) {
        pmx_policy to = some_policy();
        to.half_open = c->policy.half_open;
        size_t back = c->peer < 0 || c->pipe == PMX_WRITABLE ? 0 : e->size;
        append(&life.out, &to, sizeof to);
        some_text(back, (uint32_t)c->id, 0);
        note_switch(c, &to, life.out.bytes + life.out.size - back, back);
    } else if (e->op != PMX_SEND) {
        note_op(c, e->op);
    } else if (b->cut == PMX_SHARED) {
        begins[i] = (size_t)b->size;
        plain_frame(plain_out(&c->policy), life.out.bytes + begins[i],
                    life.out.size - begins[i], &wire);
        note_output(c, wire.bytes, wire.size);
    } else {
        some_text(e->size, (uint32_t)(c->id + c->expected.size),
                  b->cut == PMX_DELIMITED);
        plain_frame(plain_out(&c->policy), life.out.bytes + begins[i], e->size,
                    &wire);
        if (b->cut == PMX_DELIMITED)
            append(&life.out, plain_out(&c->policy)->delimiter,
                   plain_out(&c->policy)->width);
        note_output(c, wire.bytes, wire.size);
    }
    release(&wire);
}

/* A run of entries as one block, of a kind that can hold them; how many. */
static int write_block(pmx_block *b, int first)
{
    int count = 1 + (int)choose(life.c, (uint32_t)(life.log_count - first));
    const pmx_framing *f =
        plain_out(&life.conns[life.log[first].conn].policy);
    *b = (pmx_block){.cut = choose(life.c, PMX_SPANS + 1)};
    for (int i = 0; i < count; i++)
        if (life.log[first + i].op == PMX_SWITCH && b->cut == PMX_SHARED)
            b->cut = PMX_SPANS; /* it has a piece of its own */
    if (b->cut == PMX_DELIMITED && !is_lines(&life.log[first], f))
        b->cut = PMX_OFFSETS64;
    if (b->cut == PMX_DELIMITED) {
        delimiters[first] = *f;
        delimiters[first].max_size = INT32_MAX;     /* replies have none */
        for (int i = 1; i < count; i++)
            if (!is_lines(&life.log[first + i], f))
                count = i;
    }
    b->size = life.out.size;            /* where it begins, for now */
    if (b->cut == PMX_SHARED)
        some_text(life.log[first].size, (uint32_t)first, 0);
    if (b->cut != PMX_SHARED && once_in(life.c, 4))
        some_text(3, 1, 0);             /* what belongs to nobody */
    if (b->cut == PMX_LENGTHS || b->cut == PMX_DELIMITED)
        life.out.size = (size_t)b->size;
    for (int i = first; i < first + count; i++)
        write_entry(b, i);
    b->count = (uint32_t)count;
    return count;
}

static void set_bound(pmx_block *b, int at, uint64_t value)
{
    if (b->cut == PMX_OFFSETS32)
        ((uint32_t *)(void *)bounds)[at] = (uint32_t)value;
    else
        bounds[at] = value;
}

/* Pointers, once the bytes do not move any more. */
static void point(pmx_block *b, int first, size_t end, int *used)
{
    size_t begin = (size_t)b->size;
    uint32_t count = b->count;
    b->ids = ids + first;
    b->data = life.out.bytes + begin;
    b->size = end - begin;
    b->bounds = bounds + *used;
    if (b->cut == PMX_DELIMITED)
        b->bounds = &delimiters[first];
    if (b->cut == PMX_SHARED || b->cut == PMX_DELIMITED)
        return;
    for (uint32_t k = 0; k < count; k++) {
        size_t at = begins[first + (int)k];
        size_t next = k + 1 < count ? begins[first + (int)k + 1] : end;
        spans[first + (int)k] = life.out.bytes + at;
        int place = b->cut == PMX_OFFSETS32 ? 2 * *used + (int)k
                                            : *used + (int)k;
        if (b->cut == PMX_LENGTHS || b->cut == PMX_SPANS)
            set_bound(b, place, next - at);
        else
            set_bound(b, place, at - begin);
    }
    if (b->cut == PMX_OFFSETS32)
        set_bound(b, 2 * *used + (int)count, end - begin);
    else if (b->cut == PMX_OFFSETS64)
        set_bound(b, *used + (int)count, end - begin);
    if (b->cut == PMX_SPANS)
        b->data = spans + first;
    *used += (int)count + 1;
}

void write_log(void)
{
    uint32_t n = 0;
    int used = 0;
    life.out.size = 0;
    append(&life.out, "x", 1);          /* so that there is some memory */
    for (int first = 0; first < life.log_count; n++) {
        answering = once_in(life.c, 3);
        flags[n] = answering ? PMX_ANSWERS : 0;
        first += write_block(&blocks[n], first);
    }
    for (uint32_t i = 0, first = 0; i < n; i++) {
        size_t end = i + 1 < n ? (size_t)blocks[i + 1].size : life.out.size;
        uint32_t count = blocks[i].count;
        point(&blocks[i], (int)first, end, &used);
        blocks[i].cut |= flags[i];
        first += count;
    }
    life.t.blocks = blocks;
    life.t.block_count = n;
    life.log_count = 0;
}

void free_log(void)
{
    release(&life.out);
}
#else
typedef int life_user_on_linux; /* a file must not be empty */
#endif
