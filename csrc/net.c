/* Stream sockets: see net.h. */
#ifdef __linux__
#define _GNU_SOURCE             /* struct linger, in strict C11 */
#endif
#include "net.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#ifndef _WIN32
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#ifdef __linux__
#include <linux/sockios.h>
#endif
#ifdef __sun
#include <sys/filio.h>
#endif
#if defined(__APPLE__) || defined(__FreeBSD__)
#include <sys/param.h>
#include <sys/ucred.h>          /* struct xucred */
#include <sys/un.h>
#endif
#ifdef __NetBSD__
#include <sys/un.h>
#endif
#include <unistd.h>
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#ifndef MSG_DONTWAIT             /* others may make a duplicate blocking again, */
#define MSG_DONTWAIT 0          /* as PyPy does, and with it our socket */
#endif
enum { FLAGS = MSG_NOSIGNAL | MSG_DONTWAIT };
/* The most bytes of one call. macOS refuses more than INT_MAX, and Windows
 * takes an int. Windows gets less, since its kernel takes any send whole and
 * locks the pages. */
#ifdef _WIN32
#define MOST ((size_t)1 << 20)
#else
#define MOST ((size_t)1 << 30)
#endif

#ifdef _WIN32
int pmx__net_error(void)
{
    int error = WSAGetLastError();
    switch (error) {
    case WSAEWOULDBLOCK: return -EAGAIN;
    case WSAENETRESET: return -ECONNRESET;
    case WSAESHUTDOWN: return -EPIPE;
    case WSAEINTR: return -EINTR;
    case WSAEBADF: return -EBADF;
    case WSAENOTSOCK: return -EBADF;
    case WSAEACCES: return -EACCES;
    case WSAEFAULT: return -EFAULT;
    case WSAEINVAL: return -EINVAL;
    case WSAEMFILE: return -EMFILE;
    default: return -error;     /* the same number as errno's, see net.h */
    }
}

/* Out-of-band bytes stay in the stream. Otherwise select() would keep reporting
 * them as an error. */
int pmx__prepare(pmx_sock sock)
{
    u_long on = 1;
    BOOL inlined = 1;
    (void)SetHandleInformation((HANDLE)sock, HANDLE_FLAG_INHERIT, 0);
    (void)sys_setsockopt(sock, SOL_SOCKET, SO_OOBINLINE, (const char *)&inlined,
                         sizeof inlined);
    return sys_ioctl(sock, (long)FIONBIO, &on) ? pmx__net_error() : 0;
}
#else
int pmx__net_error(void)
{
    return -errno;
}

int pmx__prepare(pmx_sock sock)
{
    int flags = sys_fcntl(sock, F_GETFL, 0);
    if (flags < 0 || sys_fcntl(sock, F_SETFL, flags | O_NONBLOCK) < 0 ||
        sys_fcntl(sock, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
#ifdef SO_NOSIGPIPE
    int on = 1;
    (void)sys_setsockopt(sock, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    return 0;
}
#endif

/* Return the bytes that a call moved, or -errno, the same on every OS. */
static int64_t moved(int64_t n)
{
    if (n >= 0)
        return n;
    int error = pmx__net_error();
    switch (-error) {
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK: return -EAGAIN;
#endif
#ifdef _WIN32
    case ECONNABORTED: return -ECONNRESET;      /* the peer's TCP aborted */
#endif
    default: return error;
    }
}

void pmx__set_option(pmx_sock sock, int level, int option, int value)
{
    (void)sys_setsockopt(sock, level, option, (const void *)&value,
                         sizeof value);
}

int pmx__open_sock(const pmx__target *target, pmx_sock *sock)
{
    int family = target->to.any.sa_family;
#if defined(PMX__MADE_READY)
    pmx_sock s = sys_socket(family,
                            SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
#elif defined(_WIN32)
    pmx_sock s = sys_socket(family, SOCK_STREAM, 0, NULL, 0,
                            WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
#else
    pmx_sock s = sys_socket(family, SOCK_STREAM, 0);
#endif
    if (s == PMX__NO_SOCK)
        return pmx__net_error();
#ifndef PMX__MADE_READY
    int error = pmx__prepare(s);
    if (error) {
        pmx__drop_sock(s);
        return error;
    }
#endif
    if (family != AF_UNIX)
        pmx__set_option(s, IPPROTO_TCP, TCP_NODELAY, 1);
    *sock = s;
    return 0;
}

/* An option that the OS lacks is left out. TCP sends no probes while output is
 * unacknowledged, so another option limits that time to the same span. On Linux
 * the limit is a little lower, since timers run late by up to an eighth; it is
 * still high enough for every probe. */
void pmx__keep_alive(pmx_sock sock, const pmx_policy *policy)
{
    int idle = (int)policy->keep_idle;
    int interval = (int)policy->keep_interval;
    int count = (int)policy->keep_count;
    int in_all = idle + interval * count;
    if (!idle)
        return;
    pmx__set_option(sock, SOL_SOCKET, SO_KEEPALIVE, 1);
#if defined(TCP_KEEPIDLE)
    pmx__set_option(sock, IPPROTO_TCP, TCP_KEEPIDLE, idle);
#elif defined(TCP_KEEPALIVE)    /* macOS */
    pmx__set_option(sock, IPPROTO_TCP, TCP_KEEPALIVE, idle);
#endif
#if defined(TCP_KEEPINTVL)
    pmx__set_option(sock, IPPROTO_TCP, TCP_KEEPINTVL, interval);
#endif
#if defined(TCP_KEEPCNT)
    pmx__set_option(sock, IPPROTO_TCP, TCP_KEEPCNT, count);
#endif
#if defined(TCP_USER_TIMEOUT)
    int64_t less = interval * 500 < in_all * 125 ? interval * 500
                                                 : in_all * 125;
    int64_t ms = in_all * INT64_C(1000) - less;
    pmx__set_option(sock, IPPROTO_TCP, TCP_USER_TIMEOUT,
               ms < INT_MAX ? (int)ms : INT_MAX);
#elif defined(TCP_MAXUNACKTIME)         /* FreeBSD */
    pmx__set_option(sock, IPPROTO_TCP, TCP_MAXUNACKTIME, in_all);
#elif defined(TCP_RXT_CONNDROPTIME)     /* macOS */
    pmx__set_option(sock, IPPROTO_TCP, TCP_RXT_CONNDROPTIME, in_all);
#elif defined(TCP_MAXRT)        /* Windows */
    pmx__set_option(sock, IPPROTO_TCP, TCP_MAXRT, in_all);
#else
    (void)in_all;
#endif
}

static int to_int(uint32_t value)
{
    return value < INT_MAX ? (int)value : INT_MAX;
}

void pmx__set_options(pmx_sock sock, const pmx_policy *policy)
{
    pmx__keep_alive(sock, policy);
    if (policy->send_buffer)
        pmx__set_option(sock, SOL_SOCKET, SO_SNDBUF,
                        to_int(policy->send_buffer));
#if defined(TCP_NOTSENT_LOWAT)
    if (policy->notsent_lowat)
        pmx__set_option(sock, IPPROTO_TCP, TCP_NOTSENT_LOWAT,
                        to_int(policy->notsent_lowat));
#endif
}

int pmx__credentials(pmx_sock sock, int64_t of[3])
{
#if defined(__linux__)
    struct ucred is;
    socklen_t size = sizeof is;
    if (sys_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &is, &size))
        return pmx__net_error();
    of[0] = is.pid, of[1] = is.uid, of[2] = is.gid;
    return 0;
#elif defined(__OpenBSD__)
    struct sockpeercred is;
    socklen_t size = sizeof is;
    if (sys_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &is, &size))
        return pmx__net_error();
    of[0] = is.pid, of[1] = is.uid, of[2] = is.gid;
    return 0;
#elif defined(__NetBSD__)
    struct unpcbid is;
    socklen_t size = sizeof is;
    if (sys_getsockopt(sock, 0, LOCAL_PEEREID, &is, &size))
        return pmx__net_error();
    of[0] = is.unp_pid, of[1] = is.unp_euid, of[2] = is.unp_egid;
    return 0;
#elif defined(LOCAL_PEERCRED)           /* FreeBSD, macOS */
    struct xucred is;
    socklen_t size = sizeof is;
    if (sys_getsockopt(sock, 0, LOCAL_PEERCRED, &is, &size))
        return pmx__net_error();
    of[0] = -1, of[1] = is.cr_uid, of[2] = is.cr_groups[0];
#if defined(LOCAL_PEERPID)
    pid_t pid;
    size = sizeof pid;
    if (!sys_getsockopt(sock, 0, LOCAL_PEERPID, &pid, &size))
        of[0] = pid;
#elif defined(__FreeBSD_version) && __FreeBSD_version >= 1300030
    of[0] = is.cr_pid;
#endif
    return 0;
#else
    (void)sock, (void)of;
    return -ENOTSUP;
#endif
}

/* Linux chooses a port only in connect(), so that it need differ from those of
 * other connections to the same peer alone. */
static int bind_source(pmx_sock sock, const pmx__target *source)
{
#ifndef _WIN32
    pmx__set_option(sock, SOL_SOCKET, SO_REUSEADDR, 1);
#endif
#ifdef IP_BIND_ADDRESS_NO_PORT
    if (!source->to.v4.sin_port)
        pmx__set_option(sock, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
#endif
    return sys_bind(sock, &source->to.any, source->size) ? pmx__net_error() : 0;
}

int pmx__dial(const pmx__target *source, const pmx__target *target,
              pmx_sock *sock)
{
    pmx_sock s = PMX__NO_SOCK;
    int error = pmx__open_sock(target, &s);
    if (error)
        return error;
    if (source->size && (error = bind_source(s, source))) {
        pmx__drop_sock(s);
        return error;
    }
    if (sys_connect(s, &target->to.any, target->size)) {
        error = pmx__net_error();
#ifdef _WIN32
        if (error == -EAGAIN)   /* Windows has begun; others have not */
            error = -EINPROGRESS;
#endif
        if (error == -EINTR)
            error = -EINPROGRESS;
        if (error != -EINPROGRESS) {
            pmx__drop_sock(s);
            return error;
        }
    }
    *sock = s;
    return error;
}

static int is_same(const pmx__sockaddr *a, const pmx__sockaddr *b)
{
    if (a->any.sa_family != b->any.sa_family)
        return 0;
    if (a->any.sa_family == AF_INET)
        return a->v4.sin_port == b->v4.sin_port &&
               a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
    return a->any.sa_family == AF_INET6 &&
           a->v6.sin6_port == b->v6.sin6_port &&
           !memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr,
                   sizeof a->v6.sin6_addr);
}

/* If no process listens on a port of this machine, the system may choose that
 * very port for our end, which connects the socket to itself. */
int pmx__dialled(pmx_sock sock)
{
    int error = pmx__sock_error(sock);
    if (error)
        return -error;
    pmx__target peer, own;
    peer.size = sizeof peer.to;
    if (sys_getpeername(sock, &peer.to.any, &peer.size)) {
        error = pmx__net_error();
#ifdef __APPLE__                /* the socket is not connected (any more) */
        if (error == -EINVAL)
            error = -ENOTCONN;
#endif
        return error;
    }
    return !pmx__local(sock, &own) && is_same(&own.to, &peer.to)
               ? -ECONNREFUSED : 0;
}

int64_t pmx__recv(pmx_sock sock, void *to, size_t size)
{
    int64_t n;
    do
#ifdef _WIN32
        n = sys_recv(sock, to, (int)(size < MOST ? size : MOST), 0);
#else
        n = sys_recv(sock, to, size, MSG_DONTWAIT);
#endif
    while (n < 0 && pmx__net_error() == -EINTR);
    return moved(n);
}

int64_t pmx__send(pmx_sock sock, const void *from, size_t size)
{
    int64_t n;
    do
#if defined(_WIN32)
        n = sys_send(sock, from, (int)(size < MOST ? size : MOST), 0);
#elif defined(__linux__)        /* the kernel cuts the size itself */
        n = sys_send(sock, from, size, FLAGS);
#else
        n = sys_send(sock, from, size < MOST ? size : MOST, FLAGS);
#endif
    while (n < 0 && pmx__net_error() == -EINTR);
    return moved(n);
}

#ifndef __linux__
/* Shorten the spans to MOST bytes in all, and return their number. */
static int at_most(pmx__span *spans, int count)
{
    size_t room = MOST;
    for (int i = 0; i < count; i++) {
        if (spans[i].iov_len >= room) {
            spans[i].iov_len = room;
            return i + 1;
        }
        room -= spans[i].iov_len;
    }
    return count;
}
#endif

int64_t pmx__send_spans(pmx_sock sock, pmx__span *spans, int count)
{
    int64_t n;
#ifdef _WIN32
    WSABUF buffers[PMX__SPANS];
    DWORD taken = 0;
    count = at_most(spans, count);
    for (int i = 0; i < count; i++) {
        buffers[i].buf = spans[i].iov_base;
        buffers[i].len = (ULONG)spans[i].iov_len;
    }
    n = sys_sendmsg(sock, buffers, (DWORD)count, &taken, 0, NULL, NULL)
            ? -1 : (int64_t)taken;
#else
    struct msghdr message;
    memset(&message, 0, sizeof message);
#ifndef __linux__
    count = at_most(spans, count);
#endif
    message.msg_iov = spans;
    message.msg_iovlen = (uint8_t)count;    /* fits every OS's type */
    do
        n = sys_sendmsg(sock, &message, FLAGS);
    while (n < 0 && errno == EINTR);
#endif
    return moved(n);
}

size_t pmx__arrived(pmx_sock sock)
{
#ifdef _WIN32
    u_long n = 0;
    return sys_ioctl(sock, (long)FIONREAD, &n) ? SIZE_MAX : n;
#else
    int n = 0;
    return sys_ioctl(sock, FIONREAD, &n) || n < 0 ? SIZE_MAX : (size_t)n;
#endif
}

int64_t pmx__unacknowledged(pmx_sock sock)
{
#if defined(SIOCOUTQ)
    int n = 0;
    return sys_ioctl(sock, SIOCOUTQ, &n) || n < 0 ? -1 : n;
#elif defined(FIONWRITE)
    int n = 0;
    return sys_ioctl(sock, FIONWRITE, &n) || n < 0 ? -1 : n;
#elif defined(SO_NWRITE)
    int n = 0;
    socklen_t size = sizeof n;
    return sys_getsockopt(sock, SOL_SOCKET, SO_NWRITE, &n, &size) || n < 0
               ? -1 : n;
#else
    (void)sock;
    return -1;
#endif
}

int pmx__sock_error(pmx_sock sock)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (sys_getsockopt(sock, SOL_SOCKET, SO_ERROR, (void *)&error, &size))
        return -pmx__net_error();
#ifdef _WIN32
    /* SO_ERROR reports failed connects; only a receive reports a reset */
    char byte;
    if (error)
        WSASetLastError(error);
    if (error || sys_recv(sock, &byte, 1, MSG_PEEK) < 0)
        error = -(int)moved(-1);
    if (error == EAGAIN || error == ENOTCONN)
        error = 0;
#endif
    return error;
}

int pmx__local(pmx_sock sock, pmx__target *name)
{
    memset(name, 0, sizeof *name);
    name->size = sizeof name->to;
    return sys_getsockname(sock, &name->to.any, &name->size)
               ? pmx__net_error() : 0;
}

void pmx__shutdown_write(pmx_sock sock)
{
#ifdef _WIN32
    (void)sys_shutdown(sock, SD_SEND);
#else
    (void)sys_shutdown(sock, SHUT_WR);
#endif
}

void pmx__shutdown_both(pmx_sock sock)
{
#ifdef _WIN32
    (void)sys_shutdown(sock, SD_BOTH);
#else
    (void)sys_shutdown(sock, SHUT_RDWR);
#endif
}

void pmx__drop_sock(pmx_sock sock)
{
#ifdef _WIN32
    (void)sys_close(sock);
#else
    (void)sys_close(sock);      /* on EINTR, Linux has closed it too */
#endif
}

void pmx__close_sock(pmx_sock sock)
{
    pmx__shutdown_both(sock);
    pmx__drop_sock(sock);
}

void pmx__reset_sock(pmx_sock sock)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    (void)sys_setsockopt(sock, SOL_SOCKET, SO_LINGER, (const void *)&now,
                         sizeof now);
#ifdef __linux__
    /* resets at once, even if a forked child holds the descriptor too */
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    (void)sys_connect(sock, &none, sizeof none);
#endif
    pmx__drop_sock(sock);
}
