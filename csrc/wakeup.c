/*
 * The wakeup lets a waiting mux return: another thread or a signal writes a
 * byte to it. It is a socket pair, since select on Windows takes only sockets.
 * A pipe takes its place where the system refuses a pair. An eventfd would not
 * do, since signal.set_wakeup_fd writes single bytes.
 */
#ifdef __linux__
#define _GNU_SOURCE
#endif
#include "net.h"

#include <string.h>

static int by_pipe;

void pmx_wakeup_by_pipe(int on)
{
    by_pipe = on;
}

#ifdef _WIN32
static int closed_with(pmx_sock sock, int error)
{
    pmx__drop_sock(sock);
    return error;
}

static pmx_sock tcp(void)
{
    return sys_socket(AF_INET, SOCK_STREAM, 0, NULL, 0,
                      WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
}

/* Accept the connection of `ours`. Drop connections of other processes. */
static int accept_from(pmx_sock listener, pmx_sock ours, pmx_sock *sock)
{
    pmx__target own, peer;
    int error = pmx__local(ours, &own);
    while (!error) {
        peer.size = sizeof peer.to;
        *sock = sys_accept(listener, &peer.to.any, &peer.size);
        if (*sock == PMX__NO_SOCK)
            return pmx__net_error();
        if (peer.to.v4.sin_port == own.to.v4.sin_port &&
            peer.to.v4.sin_addr.s_addr == own.to.v4.sin_addr.s_addr)
            return 0;
        pmx__drop_sock(*sock);
    }
    return error;
}

static int connect_pair(pmx_sock listener, pmx_sock pair[2])
{
    BOOL on = 1;
    pmx__target to;
    memset(&to, 0, sizeof to);
    to.to.v4.sin_family = AF_INET;
    to.to.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (sys_bind(listener, &to.to.any, sizeof to.to.v4) ||
        sys_listen(listener, 8) || pmx__local(listener, &to))
        return pmx__net_error();
    pair[1] = tcp();
    if (pair[1] == PMX__NO_SOCK)
        return pmx__net_error();
    if (sys_connect(pair[1], &to.to.any, to.size))
        return closed_with(pair[1], pmx__net_error());
    int error = accept_from(listener, pair[1], &pair[0]);
    if (error)
        return closed_with(pair[1], error);
    (void)sys_setsockopt(pair[1], IPPROTO_TCP, TCP_NODELAY, (const char *)&on,
                         sizeof on);
    return 0;
}

/* Connect two TCP sockets over loopback. */
static int open_pair(pmx_sock pair[2])
{
    pmx_sock listener = tcp();
    if (listener == PMX__NO_SOCK)
        return pmx__net_error();
    return closed_with(listener, connect_pair(listener, pair));
}

static int64_t write_byte(pmx_sock sock)
{
    return sys_send(sock, "", 1, 0);
}

static int64_t read_bytes(pmx_sock sock, char *to, size_t size)
{
    return sys_recv(sock, to, (int)size, 0);
}

/* Its select rounds up to the clock's tick, many milliseconds. */
int pmx__wakeup_wait(const pmx_sock pair[2], int64_t ns)
{
    (void)pair, (void)ns;
    return -ENOSYS;
}
#else
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#ifdef PMX__MADE_READY
static int open_pair(pmx_sock pair[2])
{
    const int type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    if ((by_pipe || sys_socketpair(AF_UNIX, type, 0, pair)) &&
        sys_pipe2(pair, O_CLOEXEC | O_NONBLOCK))
        return pmx__net_error();
    return 0;
}
#else
static int open_pair(pmx_sock pair[2])
{
    if ((by_pipe || sys_socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) &&
        sys_pipe(pair))
        return pmx__net_error();
    return 0;
}
#endif

static int64_t write_byte(pmx_sock sock)
{
    return sys_write(sock, "", 1);
}

static int64_t read_bytes(pmx_sock sock, char *to, size_t size)
{
    return sys_read(sock, to, size);
}

#if defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__)
#include <poll.h>

int pmx__wakeup_wait(const pmx_sock pair[2], int64_t ns)
{
    struct pollfd self = {.fd = pair[0], .events = POLLIN};
    const struct timespec span = {.tv_sec = (time_t)(ns / 1000000000),
                                  .tv_nsec = (long)(ns % 1000000000)};
    int n = sys_ppoll(&self, 1, &span, NULL);
    return n >= 0 ? n : -errno;
}
#else
#include <sys/select.h>

int pmx__wakeup_wait(const pmx_sock pair[2], int64_t ns)
{
    fd_set in;
    struct timeval span = {.tv_sec = (time_t)(ns / 1000000000),
                           .tv_usec = (suseconds_t)(ns % 1000000000 / 1000)};
    if (pair[0] >= FD_SETSIZE)
        return -ENOSYS;
    FD_ZERO(&in);
    FD_SET(pair[0], &in);
    int n = sys_select(pair[0] + 1, &in, NULL, NULL, &span);
    return n >= 0 ? n : -errno;
}
#endif
#endif

int pmx__wakeup_open(pmx_sock pair[2])
{
    int error = open_pair(pair);
#ifndef PMX__MADE_READY
    if (error)
        return error;
    error = pmx__prepare(pair[0]);
    if (!error)
        error = pmx__prepare(pair[1]);
    if (error)
        pmx__wakeup_close(pair);
#endif
    return error;
}

void pmx__wakeup_close(const pmx_sock pair[2])
{
    pmx__drop_sock(pair[0]);
    pmx__drop_sock(pair[1]);
}

/* A full pair needs no further byte: it wakes the mux already. */
int pmx__wakeup_send(const pmx_sock pair[2])
{
    int error;
    do
        error = write_byte(pair[1]) == 1 ? 0 : pmx__net_error();
    while (error == -EINTR);
    return error == -EAGAIN ? 0 : error;
}

void pmx__wakeup_drain(const pmx_sock pair[2])
{
    char bytes[256];
    while (read_bytes(pair[0], bytes, sizeof bytes) == sizeof bytes)
        ;
}
