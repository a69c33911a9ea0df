/* What carries a connection's bytes: its socket, or TLS over the socket where a
 * program is compiled with BENCH_TLS. The yardstick and the load generator are
 * written once, over this. */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#ifdef BENCH_TLS

struct wire {
    int fd;
    void *ssl;
};

/* Makes the context: of a server with the certificate and key in `pem`, or of a
 * client that verifies nobody. False: it cannot. */
bool wire_set_up(const char *pem);

/* Which OpenSSL this is. */
const char *wire_about(void);

/* Takes the socket over. False without memory: the socket is still open. */
bool wire_begin(struct wire *w, int fd, bool accepted);

/* As recv() and send(), of plaintext: EAGAIN too while hands are shaken. A recv()
 * that gives less than `size` has left nothing behind. A send() that was refused
 * is repeated with at least the same bytes. */
ssize_t wire_recv(struct wire *w, void *to, size_t size);
ssize_t wire_send(struct wire *w, const void *from, size_t size);

/* Whether it has bytes that the socket has not. */
bool wire_holds(const struct wire *w);

/* Whether a send() may go on when there is something to be received. */
bool wire_shakes(const struct wire *w);

/* Says the end, and closes the socket. */
void wire_end(struct wire *w);

#else

struct wire {
    int fd;
};

static inline bool wire_set_up(const char *pem)
{
    return !pem;
}

static inline const char *wire_about(void)
{
    return "";
}

static inline bool wire_begin(struct wire *w, int fd, bool accepted)
{
    (void)accepted;
    w->fd = fd;
    return true;
}

static inline ssize_t wire_recv(struct wire *w, void *to, size_t size)
{
    return recv(w->fd, to, size, 0);
}

static inline ssize_t wire_send(struct wire *w, const void *from, size_t size)
{
    return send(w->fd, from, size, 0);
}

static inline bool wire_holds(const struct wire *w)
{
    (void)w;
    return false;
}

static inline bool wire_shakes(const struct wire *w)
{
    (void)w;
    return false;
}

static inline void wire_end(struct wire *w)
{
    close(w->fd);
}

#endif
#endif
