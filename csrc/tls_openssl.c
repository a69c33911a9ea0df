/*
 * The engine that drives OpenSSL's SSL inside an object of Python's ssl.
 *
 * Python has set the object up: certificates, verification, names, callbacks.
 * Its memory BIOs are replaced by one of ours, which all objects of the process
 * share. That BIO reads and writes the area of the mux that is at work in this
 * thread; outside the calls below it gives and takes nothing. Muxes of several
 * threads use it at once, so nothing in it changes. Python owns the object and
 * frees it.
 *
 * The functions come from whichever OpenSSL the process has loaded, so no header
 * of it is included.
 */
#include "tls_engine.h"

#include <limits.h>
#include <string.h>

#ifdef _MSC_VER
#define PER_THREAD __declspec(thread)
#else
#define PER_THREAD _Thread_local
#endif

typedef struct ssl SSL;
typedef struct bio BIO;
typedef struct bio_method BIO_METHOD;
typedef void noted_t(void *parent, void *value, void *data, int index,
                     long number, void *pointer);

/* Required of OpenSSL 1.1.1 and later: result, name, arguments. */
#define MUST_HAVE(X)                                                         \
    X(int, SSL_do_handshake, (SSL *))                                        \
    X(int, SSL_read, (SSL *, void *, int))                                   \
    X(int, SSL_write, (SSL *, const void *, int))                            \
    X(int, SSL_shutdown, (SSL *))                                            \
    X(int, SSL_pending, (const SSL *))                                       \
    X(int, SSL_get_error, (const SSL *, int))                                \
    X(long, SSL_get_verify_result, (const SSL *))                            \
    X(int, SSL_is_server, (const SSL *))                                     \
    X(uint64_t, SSL_set_options, (SSL *, uint64_t))                          \
    X(void, SSL_set_bio, (SSL *, BIO *, BIO *))                              \
    X(BIO_METHOD *, BIO_meth_new, (int, const char *))                       \
    X(int, BIO_meth_set_read, (BIO_METHOD *, int (*)(BIO *, char *, int)))   \
    X(int, BIO_meth_set_write,                                               \
      (BIO_METHOD *, int (*)(BIO *, const char *, int)))                     \
    X(int, BIO_meth_set_ctrl,                                                \
      (BIO_METHOD *, long (*)(BIO *, int, long, void *)))                    \
    X(BIO *, BIO_new, (const BIO_METHOD *))                                  \
    X(int, BIO_up_ref, (BIO *))                                              \
    X(void, BIO_set_init, (BIO *, int))                                      \
    X(void, BIO_set_flags, (BIO *, int))                                     \
    X(void, ERR_clear_error, (void))                                         \
    X(unsigned long, ERR_peek_error, (void))                                 \
    X(unsigned long, ERR_get_error, (void))                                  \
    X(int, CRYPTO_get_ex_new_index,                                          \
      (int, long, void *, noted_t *, void *, void *))
/* Those of 3.0, for tickets; and to count. */
#define MAY_LACK(X)                                                          \
    X(size_t, SSL_get_num_tickets, (const SSL *))                            \
    X(int, SSL_set_num_tickets, (SSL *, size_t))                             \
    X(int, SSL_new_session_ticket, (SSL *))                                  \
    X(int, SSL_session_reused, (const SSL *))

/* NOLINTBEGIN(bugprone-macro-parentheses): types, names and a sum */
#define FIELD(result, name, arguments) result (*name) arguments;
static struct {
    MUST_HAVE(FIELD)
    MAY_LACK(FIELD)
} T;

#define NAME(result, name, arguments) #name,
static const char *const names[] = {MUST_HAVE(NAME) MAY_LACK(NAME)};
#define ONE(result, name, arguments) + 1
/* NOLINTEND(bugprone-macro-parentheses) */
enum { ALL = sizeof names / sizeof *names, NEEDED = 0 MUST_HAVE(ONE) };

/* Numbers of OpenSSL's headers. */
enum {
    WANT_READ = 2, ZERO_RETURN = 6,             /* SSL_get_error() */
    RETRY_READ = 0x09,                          /* flags of a BIO */
    CTRL_FLUSH = 11,
    SOURCE_SINK = 0x0400 | 100,
    INDEX_SSL = 0,                              /* CRYPTO_EX_INDEX_SSL */
};
static const uint64_t no_renegotiation = UINT64_C(1) << 30;

static BIO *our_bio;
static PER_THREAD pmx__tls_area *at_work;
static PER_THREAD int lacks_memory;
static PER_THREAD pmx_tls_notes notes;

/* --- the BIO ------------------------------------------------------------ */

static int bio_read(BIO *bio, char *to, int room)
{
    pmx__tls_area *area = at_work;
    (void)bio;
    if (!area || !area->in_size)
        return -1;
    size_t n = area->in_size < (size_t)room ? area->in_size : (size_t)room;
    memcpy(to, area->in, n);
    area->in += n;
    area->in_size -= n;
    return (int)n;
}

static int bio_write(BIO *bio, const char *from, int size)
{
    pmx__tls_area *area = at_work;
    (void)bio;
    if (!area || size < 0)
        return -1;
    if (pmx__area_reserve(area, (size_t)size)) {
        lacks_memory = 1;
        return -1;
    }
    memcpy(area->out + area->out_size, from, (size_t)size);
    area->out_size += (size_t)size;
    return size;
}

static long bio_ctrl(BIO *bio, int what, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return what == CTRL_FLUSH;
}

/* A read that finds nothing is to be tried again. That is said once and for all:
 * a flag that each read cleared and set would be another thread's, and its
 * handshake would fail. What a write returns is judged by `lacks_memory`. */
static int make_bio(void)
{
    BIO_METHOD *method = T.BIO_meth_new(SOURCE_SINK, "pymux");
    if (!method || !T.BIO_meth_set_read(method, bio_read) ||
        !T.BIO_meth_set_write(method, bio_write) ||
        !T.BIO_meth_set_ctrl(method, bio_ctrl))
        return -ENOMEM;
    our_bio = T.BIO_new(method);
    if (!our_bio)
        return -ENOMEM;
    T.BIO_set_init(our_bio, 1);
    T.BIO_set_flags(our_bio, RETRY_READ);
    return 0;
}

/* --- the functions, and what is made ------------------------------------ */

static void note(void *parent, void *value, void *data, int index,
                 long number, void *pointer)
{
    (void)value;
    (void)data;
    (void)index;
    (void)number;
    (void)pointer;
    notes.last = (uint64_t)(uintptr_t)parent;
    notes.count++;
}

const char *pmx_tls_function(uint32_t index)
{
    return index < ALL ? names[index] : NULL;
}

uint32_t pmx_tls_optional(void)
{
    return NEEDED;
}

const pmx_tls_notes *pmx_tls_noted(void)
{
    return &notes;
}

int pmx_tls_use(const uint64_t *addresses, uint32_t count)
{
    uintptr_t table[ALL];
    if (count != ALL)
        return -EINVAL;
    for (uint32_t k = 0; k < ALL; k++) {
        table[k] = (uintptr_t)addresses[k];
        if (!table[k] && k < NEEDED)
            return -EINVAL;
    }
    if (our_bio)
        return memcmp(&T, table, sizeof T) ? -EALREADY : 0;
    memcpy(&T, table, sizeof T);
    if (T.CRYPTO_get_ex_new_index(INDEX_SSL, 0, NULL, note, NULL, NULL) < 0)
        return -ENOMEM;
    return make_bio();
}

/* --- the engine ---------------------------------------------------------- */

static SSL *ssl_of(const pmx__tls *t)
{
    return (SSL *)(uintptr_t)t->object;
}

/* The queue is the thread's, and Python's. To clear one that is empty, as it
 * nearly always is, takes 100 ns; to look takes 17. */
static void clear_errors(void)
{
    if (T.ERR_peek_error())
        T.ERR_clear_error();
}

static void enter(pmx__tls_area *area)
{
    at_work = area;
    lacks_memory = 0;
    clear_errors();
}

static void leave(void)
{
    clear_errors();
    at_work = NULL;
}

/* A call has not succeeded: -EAGAIN if it only wants ciphertext. */
static int64_t judge(pmx__tls *t, int result)
{
    int why = T.SSL_get_error(ssl_of(t), result);
    if (why == WANT_READ && !lacks_memory)
        return -EAGAIN;
    if (why == ZERO_RETURN)
        return 0;
    t->code = T.ERR_get_error();
    t->verify = T.SSL_get_verify_result(ssl_of(t));
    return lacks_memory ? -ENOMEM : -EPROTO;
}

/* A server's tickets are sent before its first answer, not behind the handshake.
 * A client that only sends and never reads would leave them unread when it
 * closes; its kernel would then reset the connection, and throw away what the
 * server has not received yet (https://github.com/openssl/openssl/issues/7948).
 */
int pmx__openssl_begin(pmx__tls *t)
{
    SSL *ssl = ssl_of(t);
    if (!our_bio)
        return -EINVAL;
    (void)T.BIO_up_ref(our_bio);
    (void)T.BIO_up_ref(our_bio);
    T.SSL_set_bio(ssl, our_bio, our_bio);
    (void)T.SSL_set_options(ssl, no_renegotiation);
    if (T.SSL_is_server(ssl) && T.SSL_new_session_ticket &&
        T.SSL_set_num_tickets && T.SSL_get_num_tickets) {
        size_t count = T.SSL_get_num_tickets(ssl);
        t->tickets = (uint8_t)(count < 16 ? count : 16);
        (void)T.SSL_set_num_tickets(ssl, 0);
    }
    return 0;
}

static int64_t shake(pmx__tls *t, pmx__tls_area *area, int *resumed)
{
    enter(area);
    int result = T.SSL_do_handshake(ssl_of(t));
    int64_t is = result == 1 ? 1 : judge(t, result);
    if (!is)                    /* the peer has ended its stream meanwhile */
        is = -EPROTO;
    if (is == 1 && T.SSL_session_reused)
        *resumed = T.SSL_session_reused(ssl_of(t));
    leave();
    return is;
}

static int64_t read_in(pmx__tls *t, pmx__tls_area *area, uint8_t *to,
                       size_t room)
{
    enter(area);
    int result = T.SSL_read(ssl_of(t), to,
                            room < INT_MAX ? (int)room : INT_MAX);
    int64_t is = result > 0 ? result : judge(t, result);
    leave();
    return is;
}

static void send_tickets(pmx__tls *t)
{
    for (; t->tickets; t->tickets--)
        (void)T.SSL_new_session_ticket(ssl_of(t));      /* 0 under TLS 1.2 */
    clear_errors();
}

/* For tickets OpenSSL takes buffers as for a handshake. That of what comes in,
 * 16 KiB, is freed when a read finds nothing; with an idle peer, never. */
static void let_go_of_buffer(const pmx__tls *t, const pmx__tls_area *area)
{
    char nothing;
    if (!area->in_size)
        (void)T.SSL_read(ssl_of(t), &nothing, 0);
}

static int write_out(pmx__tls *t, pmx__tls_area *area, const uint8_t *from,
                     size_t size)
{
    int64_t is = 0;
    enter(area);
    int first = !!t->tickets;
    if (first)
        send_tickets(t);
    while (size && !is) {
        int part = size < INT_MAX ? (int)size : INT_MAX;
        int result = T.SSL_write(ssl_of(t), from, part);
        if (result > 0) {
            from += result;
            size -= (size_t)result;
        } else {
            is = judge(t, result);
            if (!is || is == -EAGAIN)   /* no object that is up wants that */
                is = -EPROTO;
        }
    }
    if (first && !is)
        let_go_of_buffer(t, area);
    leave();
    return (int)is;
}

static void bye(pmx__tls *t, pmx__tls_area *area)
{
    enter(area);
    (void)T.SSL_shutdown(ssl_of(t));
    leave();
}

static size_t pending(const pmx__tls *t)
{
    return (size_t)T.SSL_pending(ssl_of(t));
}

const pmx__tls_engine pmx__openssl = {
    .name = "adopted", .shake = shake, .read = read_in, .write = write_out,
    .bye = bye, .pending = pending,
};
