/* TLS as a C program on OpenSSL has it: a BIO over the socket that also notes when
 * the socket is empty, read-ahead, and buffers that are released while idle, as
 * Python's ssl releases them. One cipher, that all contenders have. */
#include "wire.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define AHEAD 73728U /* of ciphertext, read at once: 64 KiB and what encloses it */

static SSL_CTX *context;
static BIO_METHOD *method;
static bool dry; /* the last receive has emptied its socket */

/* ---- the socket ---------------------------------------------------------- */

static int socket_of(BIO *bio)
{
    return (int)(intptr_t)BIO_get_data(bio);
}

static int from_socket(BIO *bio, char *to, int size)
{
    ssize_t n = recv(socket_of(bio), to, (size_t)size, 0);
    BIO_clear_retry_flags(bio);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(bio);
    dry = n < size;
    return (int)n;
}

static int to_socket(BIO *bio, const char *from, int size)
{
    ssize_t n = send(socket_of(bio), from, (size_t)size, 0);
    BIO_clear_retry_flags(bio);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)n;
}

static long control(BIO *bio, int what, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return what == BIO_CTRL_FLUSH;
}

/* ---- the program ----------------------------------------------------------- */

bool wire_set_up(const char *pem)
{
    context = SSL_CTX_new(pem ? TLS_server_method() : TLS_client_method());
    method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "wire");
    if (!context || !method)
        return false;
    BIO_meth_set_read(method, from_socket);
    BIO_meth_set_write(method, to_socket);
    BIO_meth_set_ctrl(method, control);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, AHEAD);
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    if (!pem)
        return SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256");
    return SSL_CTX_use_certificate_chain_file(context, pem) == 1 &&
           SSL_CTX_use_PrivateKey_file(context, pem, SSL_FILETYPE_PEM) == 1;
}

const char *wire_about(void)
{
    return OpenSSL_version(OPENSSL_VERSION);
}

/* ---- a connection ------------------------------------------------------------ */

bool wire_begin(struct wire *w, int fd, bool accepted)
{
    SSL *ssl = SSL_new(context);
    BIO *bio = BIO_new(method);
    if (!ssl || !bio) {
        SSL_free(ssl);
        BIO_free(bio);
        return false;
    }
    BIO_set_data(bio, (void *)(intptr_t)fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    if (accepted)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    w->fd = fd;
    w->ssl = ssl;
    return true;
}

/* OpenSSL's call returned `result`: what recv() is to return then; sets errno. */
static ssize_t failed(struct wire *w, int result)
{
    int error = errno, why = SSL_get_error(w->ssl, result);
    ERR_clear_error();
    errno = EPROTO;
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        errno = EAGAIN;
    else if (why == SSL_ERROR_SYSCALL && error)
        errno = error;
    return why == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static int at_most(size_t size)
{
    return size < INT_MAX ? (int)size : INT_MAX;
}

ssize_t wire_recv(struct wire *w, void *to, size_t size)
{
    size_t done = 0;

    dry = false;
    while (done < size && !(done > 0 && dry && !SSL_has_pending(w->ssl))) {
        int n = SSL_read(w->ssl, (char *)to + done, at_most(size - done));
        if (n <= 0 && done == 0)
            return failed(w, n);
        if (n <= 0) { /* an end or an error is told by the next call */
            ERR_clear_error();
            break;
        }
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t wire_send(struct wire *w, const void *from, size_t size)
{
    size_t done = 0;

    while (done < size) {
        int n = SSL_write(w->ssl, (const char *)from + done, at_most(size - done));
        if (n <= 0) {
            failed(w, n);
            return done > 0 ? (ssize_t)done : -1;
        }
        done += (size_t)n;
    }
    return (ssize_t)done;
}

bool wire_holds(const struct wire *w)
{
    return SSL_has_pending(w->ssl);
}

bool wire_shakes(const struct wire *w)
{
    return !SSL_is_init_finished(w->ssl);
}

void wire_end(struct wire *w)
{
    if (SSL_is_init_finished(w->ssl))
        SSL_shutdown(w->ssl);
    ERR_clear_error();
    SSL_free(w->ssl);
    close(w->fd);
}
