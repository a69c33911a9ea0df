/*
 * The wakeup: what another thread or a signal writes a byte to, so that a
 * waiting mux returns. A socket pair, since send() can be told not to raise
 * SIGPIPE and Windows' select takes nothing else; a pipe where no pair is to
 * be had. An eventfd would not do: signal.set_wakeup_fd writes single bytes.
 */
#ifdef __linux__
#define _GNU_SOURCE
#endif
#include "net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
/* Two TCP sockets connected over loopback, each checked to be the other's. */
int pmx__wakeup_open(pmx_sock pair[2])
{
    struct sockaddr_in to, from;
    int size = sizeof to;
    u_long on = 1;
    pmx_sock listener = socket(AF_INET, SOCK_STREAM, 0);
    pair[0] = pair[1] = PMX__NO_SOCK;
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener == PMX__NO_SOCK ||
        bind(listener, (struct sockaddr *)&to, sizeof to) ||
        listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&to, &size))
        goto fail;
    pair[1] = socket(AF_INET, SOCK_STREAM, 0);
    if (pair[1] == PMX__NO_SOCK ||
        connect(pair[1], (struct sockaddr *)&to, sizeof to) ||
        getsockname(pair[1], (struct sockaddr *)&from, &size))
        goto fail;
    pair[0] = accept(listener, (struct sockaddr *)&to, &size);
    if (pair[0] == PMX__NO_SOCK || to.sin_port != from.sin_port ||
        ioctlsocket(pair[0], FIONBIO, &on) ||
        ioctlsocket(pair[1], FIONBIO, &on))
        goto fail;
    closesocket(listener);
    return 0;
fail:
    if (listener != PMX__NO_SOCK)
        closesocket(listener);
    pmx__wakeup_close(pair);
    return -EMFILE;
}

void pmx__wakeup_close(const pmx_sock pair[2])
{
    for (int i = 0; i < 2; i++)
        if (pair[i] != PMX__NO_SOCK)
            closesocket(pair[i]);
}

int pmx__wakeup_send(const pmx_sock pair[2])
{
    return send(pair[1], "", 1, 0) == 1 ? 0 : -EAGAIN;
}

void pmx__wakeup_drain(const pmx_sock pair[2])
{
    char bytes[256];
    while (recv(pair[0], bytes, sizeof bytes, 0) == sizeof bytes)
        ;
}
#else
#include <fcntl.h>
#include <unistd.h>

static int keep_private(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
           fcntl(fd, F_SETFD, FD_CLOEXEC) < 0;
}

int pmx__wakeup_open(pmx_sock pair[2])
{
    const char *wanted = getenv("PYMUX_WAKEUP");    /* for the tests */
    int forced = wanted && !strcmp(wanted, "pipe");
    if ((forced || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) && pipe(pair))
        return -errno;
    if (keep_private(pair[0]) || keep_private(pair[1])) {
        int error = -errno;
        pmx__wakeup_close(pair);
        return error;
    }
    return 0;
}

void pmx__wakeup_close(const pmx_sock pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

/* A full pair is as good as a new byte: it is about to be read. */
int pmx__wakeup_send(const pmx_sock pair[2])
{
    ssize_t n;
    do
        n = write(pair[1], "", 1);
    while (n < 0 && errno == EINTR);
    return n == 1 || errno == EAGAIN ? 0 : -errno;
}

void pmx__wakeup_drain(const pmx_sock pair[2])
{
    char bytes[256];
    while (read(pair[0], bytes, sizeof bytes) == sizeof bytes)
        ;
}
#endif
