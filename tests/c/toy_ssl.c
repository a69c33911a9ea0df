/* See toy_ssl.h. */
#include "toy_ssl.h"

#include <stdlib.h>
#include <string.h>

enum { WANTS_READ = 2, HAS_ENDED = 6, HAS_FAILED = 1 };
enum { MAY_RETRY = 0x09 };      /* flags of a BIO */

/* As OpenSSL's types, of which the core knows the names only. */
struct bio;

typedef struct bio_method {
    int (*read)(struct bio *, char *, int);
    int (*write)(struct bio *, const char *, int);
    long (*ctrl)(struct bio *, int, long, void *);
} BIO_METHOD;

typedef struct bio {
    const BIO_METHOD *method;
    int refs, is_ready, flags;
    buffer in, out;             /* of a memory BIO: a portable object's */
    size_t taken;
} BIO;

typedef struct ssl {
    struct ssl *next;
    BIO *bio;
    int server, up, said_hello, ended, failed, why;
    toy_manner ways;
    uint64_t id;
    size_t tickets;
    uint8_t head[SSL_HEAD];
    size_t heads, size, used;   /* of the record at hand, */
    size_t left;                /* and what is to be delivered of it */
    uint8_t record[SSL_RECORD];
} SSL;

typedef void new_t(void *, void *, void *, int, long, void *);

toy_manner toy_ways;
long toy_steps, toy_written;
static SSL *objects;
static new_t *is_new;
static unsigned long error_queue;
static BIO_METHOD the_method;
static BIO the_bio;

/* --- functions of OpenSSL ------------------------------------------------- */

static BIO_METHOD *t_meth_new(int kind, const char *name)
{
    CHECK(kind && name);
    return &the_method;
}

static int t_set_read(BIO_METHOD *m, int (*f)(BIO *, char *, int))
{
    m->read = f;
    return 1;
}

static int t_set_write(BIO_METHOD *m, int (*f)(BIO *, const char *, int))
{
    m->write = f;
    return 1;
}

static int t_set_ctrl(BIO_METHOD *m, long (*f)(BIO *, int, long, void *))
{
    m->ctrl = f;
    return 1;
}

static BIO *t_bio_new(const BIO_METHOD *m)
{
    the_bio = (BIO){.method = m, .refs = 1};
    return &the_bio;
}

static int t_up_ref(BIO *b) { return ++b->refs; }
static void t_set_init(BIO *b, int is) { b->is_ready = is; }
static void t_clear_error(void) { error_queue = 0; }

/* Objects of several threads share a BIO, so that it may not change any more. */
static void t_set_flags(BIO *b, int flags)
{
    EQUAL(b->refs, 1);
    b->flags |= flags;
}

static unsigned long t_peek_error(void) { return error_queue; }

static unsigned long t_get_error(void)
{
    unsigned long is = error_queue;
    error_queue = 0;
    return is;
}

static int t_ex_index(int kind, long number, void *pointer, new_t *fresh,
                      void *copy, void *gone)
{
    CHECK(!kind && !number && !pointer && !copy && !gone);
    is_new = fresh;
    return 1;
}

static void t_set_bio(SSL *s, BIO *in, BIO *out)
{
    CHECK(in == out && in->is_ready);
    s->bio = in;
}

static uint64_t t_set_options(SSL *s, uint64_t options)
{
    CHECK(s && options == UINT64_C(1) << 30);
    return options;
}

static int put_out(SSL *s, char kind, const void *bytes, size_t size)
{
    buffer wire = {0};
    toy_record(&wire, kind, bytes, size);
    int is = 1;
    if (!s->bio->method) {
        append(&s->bio->out, wire.bytes, wire.size);
    } else {
        is = s->bio->method->write(s->bio, (const char *)wire.bytes,
                                   (int)wire.size) == (int)wire.size;
        EQUAL(s->bio->method->ctrl(s->bio, 11, 0, NULL), 1);
    }
    release(&wire);
    return is;
}

static int take_in(SSL *s, uint8_t *to, size_t room)
{
    BIO *b = s->bio;
    if (b->method)
        return b->method->read(b, (char *)to, (int)room);
    size_t n = b->in.size - b->taken < room ? b->in.size - b->taken : room;
    if (!n)
        return -1;
    memcpy(to, b->in.bytes + b->taken, n);
    b->taken += n;
    return (int)n;
}

static int fail(SSL *s, int alert)
{
    if (!s->failed && alert)
        (void)put_out(s, 'a', "!", 1);
    s->failed = 1;
    s->why = HAS_FAILED;
    error_queue = TOY_CODE;
    return -1;
}

static int step_fails(void)
{
    return ++toy_steps == toy_ways.fail_at;
}

/* The next record: 1, or 0: more bytes are needed. */
static int next_record(SSL *s)
{
    while (s->heads < SSL_HEAD || s->used < s->size) {
        int in_head = s->heads < SSL_HEAD;
        int n = in_head ? take_in(s, s->head + s->heads, SSL_HEAD - s->heads)
                        : take_in(s, s->record + s->used, s->size - s->used);
        if (n <= 0) {
            s->why = WANTS_READ;
            return 0;
        }
        if (!in_head) {
            s->used += (size_t)n;
            continue;
        }
        s->heads += (size_t)n;
        if (s->heads == SSL_HEAD) {
            s->size = (size_t)s->head[1] << 8 | s->head[2];
            s->used = 0;
            if (s->size > SSL_RECORD)
                s->head[0] = '?', s->size = 0;
        }
    }
    s->heads = 0;
    for (size_t i = 0; i < s->size; i++)
        s->record[i] ^= SSL_KEY;
    return 1;
}

static int t_do_handshake(SSL *s)
{
    static const uint8_t zeros[SSL_RECORD];
    if (s->failed || step_fails())
        return fail(s, 1);
    if (!s->server && !s->said_hello) {
        s->said_hello = 1;
        if (!put_out(s, 'c', NULL, 0))
            return fail(s, 0);
    }
    while (!s->up) {
        if (!next_record(s))
            return -1;
        if (s->server && s->head[0] == 'c' && !s->said_hello) {
            s->said_hello = 1;
            for (size_t left = s->ways.flight; left;) {
                size_t part = left < SSL_RECORD ? left : SSL_RECORD;
                if (!put_out(s, 's', zeros, part))
                    return fail(s, 0);
                left -= part;
            }
            if (!put_out(s, 's', NULL, 0))
                return fail(s, 0);
        } else if (s->server && s->head[0] == 'f' && s->said_hello) {
            s->up = 1;
        } else if (!s->server && s->head[0] == 's' && !s->size) {
            s->up = 1;
            if (!put_out(s, 'f', NULL, 0))
                return fail(s, 0);
        } else if (s->server || s->head[0] != 's') {
            return fail(s, s->head[0] != 'a');
        }
    }
    for (size_t k = 0; s->server && k < s->tickets; k++)
        (void)put_out(s, 't', "ticket", 6);
    return 1;
}

static int t_read(SSL *s, void *to, int room)
{
    CHECK(s->up);
    if (s->failed || (room && step_fails()))
        return fail(s, 1);
    while (!s->left) {
        if (s->ended) {
            s->why = HAS_ENDED;
            return 0;
        }
        if (!next_record(s))
            return -1;
        char kind = (char)s->head[0];
        s->ended = kind == 'b';
        if (kind == 'k' && !put_out(s, 'K', NULL, 0))
            return fail(s, 0);
        if (!strchr("dbkKt", kind))
            return fail(s, kind != 'a');
        s->left = kind == 'd' ? s->size : 0;
    }
    size_t n = s->left < (size_t)room ? s->left : (size_t)room;
    memcpy(to, s->record + s->size - s->left, n);
    s->left -= n;
    return (int)n;
}

static int t_write(SSL *s, const void *from, int size)
{
    CHECK(s->up && size > 0);
    if (s->failed || step_fails())
        return fail(s, 1);
    size_t part = size < SSL_RECORD ? (size_t)size : SSL_RECORD;
    if (!put_out(s, 'd', from, part))
        return fail(s, 0);
    toy_written += (long)part;
    return (int)part;           /* of a large piece, as a partial write */
}

static int t_shutdown(SSL *s)
{
    if (!s->failed)
        (void)put_out(s, 'b', NULL, 0);
    return 0;
}

static int t_pending(const SSL *s) { return (int)s->left; }

static int t_ssl_error(const SSL *s, int result)
{
    CHECK(result <= 0);
    EQUAL(s->bio->flags, MAY_RETRY);    /* else a read could want nothing */
    return s->why;
}

static long t_verify(const SSL *s) { return s->failed ? 20 : 0; }
static size_t t_get_tickets(const SSL *s) { return s->tickets; }
static int t_is_server(const SSL *s) { return s->server; }
static int t_reused(const SSL *s) { return s->ways.reused; }

static int t_set_tickets(SSL *s, size_t count)
{
    s->tickets = count;
    return 1;
}

static int t_new_ticket(SSL *s)
{
    return put_out(s, 't', "ticket", 6);
}

/* --- objects --------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*is)(void);
} functions[] = {
#define F(name, function) {name, (void (*)(void))(function)}
    F("SSL_do_handshake", t_do_handshake), F("SSL_read", t_read),
    F("SSL_write", t_write), F("SSL_shutdown", t_shutdown),
    F("SSL_pending", t_pending), F("SSL_get_error", t_ssl_error),
    F("SSL_get_verify_result", t_verify), F("SSL_is_server", t_is_server),
    F("SSL_set_options", t_set_options), F("SSL_set_bio", t_set_bio),
    F("BIO_meth_new", t_meth_new), F("BIO_meth_set_read", t_set_read),
    F("BIO_meth_set_write", t_set_write), F("BIO_meth_set_ctrl", t_set_ctrl),
    F("BIO_new", t_bio_new), F("BIO_up_ref", t_up_ref),
    F("BIO_set_init", t_set_init), F("BIO_set_flags", t_set_flags),
    F("ERR_clear_error", t_clear_error), F("ERR_peek_error", t_peek_error),
    F("ERR_get_error", t_get_error),
    F("CRYPTO_get_ex_new_index", t_ex_index),
    F("SSL_get_num_tickets", t_get_tickets),
    F("SSL_set_num_tickets", t_set_tickets),
    F("SSL_new_session_ticket", t_new_ticket),
    F("SSL_session_reused", t_reused),
};

static void use(void)
{
    uint64_t addresses[sizeof functions / sizeof *functions] = {0};
    uint32_t count = 0;
    for (const char *name; (name = pmx_tls_function(count)); count++)
        for (size_t k = 0; k < sizeof functions / sizeof *functions; k++)
            if (!strcmp(name, functions[k].name))
                addresses[count] = (uint64_t)(uintptr_t)functions[k].is;
    EQUAL(pmx_tls_use(addresses, count), 0);
}

static SSL *new_object(int server)
{
    SSL *s = calloc(1, sizeof *s);
    CHECK(s);
    s->server = server;
    s->ways = toy_ways;
    s->tickets = (size_t)toy_ways.tickets;
    s->next = objects;
    objects = s;
    if (is_new)
        is_new(s, NULL, NULL, 1, 0, NULL);
    return s;
}

uint64_t toy_object(int server)
{
    use();
    return (uint64_t)(uintptr_t)new_object(server);
}

static void portable_step(pmx_tls_work *work)
{
    SSL *s = objects;
    while (s && s->id != work->id)
        s = s->next;
    CHECK(s);
    BIO *b = s->bio;
    int n = 1;
    work->is = PMX_TLS_GOES_ON;
    if (work->step == PMX_TLS_SHAKE || work->step == PMX_TLS_READ)
        append(&b->in, work->in, work->in_size);
    if (work->step == PMX_TLS_SHAKE && (n = t_do_handshake(s)) == 1) {
        work->is = PMX_TLS_DONE;
        work->resumed = (uint64_t)s->ways.reused;
    }
    while (work->step == PMX_TLS_READ && work->got < work->room) {
        n = t_read(s, work->to + work->got, (int)(work->room - work->got));
        if (n <= 0)
            break;
        work->got += (uint64_t)n;
    }
    for (size_t at = 0; work->step == PMX_TLS_WRITE && at < work->in_size && n > 0;)
        if ((n = t_write(s, work->in + at, (int)(work->in_size - at))) > 0)
            at += (size_t)n;
    if (work->step == PMX_TLS_BYE)
        (void)t_shutdown(s);
    if (n <= 0 && s->why != WANTS_READ)
        work->is = s->why == HAS_ENDED ? PMX_TLS_DONE : PMX_TLS_FAILED;
    if (b->taken == b->in.size)
        b->taken = b->in.size = 0;
    work->made = b->out.size < work->out_room ? b->out.size : work->out_room;
    if (!work->made)
        return;
    memcpy(work->out, b->out.bytes, work->made);
    b->out.size -= work->made;
    memmove(b->out.bytes, b->out.bytes + work->made, b->out.size);
}

void toy_adopt(pmx_mux *mux, const pmx_turn *t)
{
    for (uint32_t k = 0; k < t->waiting_count; k++) {
        const pmx_waiting *row = &t->waiting[k];
        uint64_t object = PMX_TLS_REFUSED;
        if (!toy_ways.refuse) {
            SSL *s = new_object(!row->outgoing || row->tls == TOY_SERVES);
            object = (uint64_t)(uintptr_t)s;
            CHECK(pmx_tls_noted()->last == object);
            if (toy_ways.portable) {
                s->bio = calloc(1, sizeof *s->bio);
                CHECK(s->bio);
                s->id = row->id;
                object = PMX_TLS_PORTABLE;
            }
        }
        EQUAL(pmx_tls_adopt(mux, &row->id, &object, 1), 0);
    }
}

static void adopt(world *w)
{
    toy_adopt(w->mux, &w->t);
}

void toy_use(void)
{
    use();
    pmx_tls_portable(portable_step);
}

void toy_secure(world *w)
{
    toy_use();
    w->adopt = adopt;
}

void toy_over(void)
{
    while (objects) {
        SSL *s = objects;
        objects = s->next;
        if (s->bio && !s->bio->method) {
            release(&s->bio->in);
            release(&s->bio->out);
            free(s->bio);
        }
        free(s);
    }
    toy_ways = (toy_manner){0};
}
