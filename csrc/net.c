/* Sockets, addresses, time: see net.h. */
#ifdef __linux__
#define _GNU_SOURCE             /* accept4 */
#endif
#include "net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef _WIN32
#include <afunix.h>
#include <mswsock.h>
#else
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#ifdef __linux__
#include <linux/sockios.h>
#endif
#include <sys/stat.h>
#include <unistd.h>
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

#ifdef _WIN32
static int net_error(void)
{
    switch (WSAGetLastError()) {
    case WSAEWOULDBLOCK: return -EAGAIN;
    case WSAEINPROGRESS: return -EINPROGRESS;
    case WSAEINTR: return -EINTR;
    case WSAEACCES: return -EACCES;
    case WSAEADDRINUSE: return -EADDRINUSE;
    case WSAEADDRNOTAVAIL: return -EADDRNOTAVAIL;
    case WSAEAFNOSUPPORT: return -EAFNOSUPPORT;
    case WSAECONNABORTED: return -ECONNABORTED;
    case WSAECONNREFUSED: return -ECONNREFUSED;
    case WSAECONNRESET: return -ECONNRESET;
    case WSAENETRESET: return -ECONNRESET;
    case WSAESHUTDOWN: return -EPIPE;
    case WSAEHOSTUNREACH: return -EHOSTUNREACH;
    case WSAENETUNREACH: return -ENETUNREACH;
    case WSAENETDOWN: return -ENETDOWN;
    case WSAEMFILE: return -EMFILE;
    case WSAENOBUFS: return -ENOBUFS;
    case WSAENOTCONN: return -ENOTCONN;
    case WSAETIMEDOUT: return -ETIMEDOUT;
    case WSAEINVAL: return -EINVAL;
    default: return -EIO;
    }
}
#else
static int net_error(void)
{
    return -errno;
}
#endif

#ifndef __linux__               /* there, flags of socket() and accept4() do */
/* Non-blocking, not inherited by other programs, no SIGPIPE. */
static int prepare(pmx_sock sock)
{
#ifdef _WIN32
    u_long on = 1;
    return ioctlsocket(sock, FIONBIO, &on) ? net_error() : 0;
#else
    int flags = fcntl(sock, F_GETFL);
    if (flags < 0 || fcntl(sock, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(sock, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
#ifdef SO_NOSIGPIPE
    int on = 1;
    (void)setsockopt(sock, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    return 0;
#endif
}
#endif

static void set_option(pmx_sock sock, int level, int option, int value)
{
    (void)setsockopt(sock, level, option, (const void *)&value,
                     sizeof value);
}

static int open_sock(const pmx__target *target, pmx_sock *sock)
{
    int family = target->to.any.sa_family;
#ifdef __linux__
    pmx_sock s = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
#else
    pmx_sock s = socket(family, SOCK_STREAM, 0);
#endif
    if (s == PMX__NO_SOCK)
        return net_error();
#ifndef __linux__
    int error = prepare(s);
    if (error) {
        pmx__drop_sock(s);
        return error;
    }
#endif
    if (family != AF_UNIX)
        set_option(s, IPPROTO_TCP, TCP_NODELAY, 1);
    *sock = s;
    return 0;
}

#ifndef _WIN32
static int resolve_path(const pmx_endpoint *endpoint, pmx__target *target)
{
    struct sockaddr_un *un = &target->to.un;
    size_t size = endpoint->path_size;
    /* an abstract name fills the room, a path leaves some for its NUL */
    if (!size || size + (endpoint->path[0] != 0) > sizeof un->sun_path)
        return -ENAMETOOLONG;
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, endpoint->path, size);
    target->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size +
                               (endpoint->path[0] != 0));
    return 0;
}
#endif

int pmx__resolve(const pmx_endpoint *endpoint, pmx__target *target)
{
    memset(target, 0, sizeof *target);
    if (!endpoint->host)
#ifdef _WIN32
        return -EAFNOSUPPORT;
#else
        return resolve_path(endpoint, target);
#endif
    char port[12];
    struct addrinfo hints, *found;
    memset(&hints, 0, sizeof hints);
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    snprintf(port, sizeof port, "%u", endpoint->port);
    if (getaddrinfo(endpoint->host, port, &hints, &found))
        return -EINVAL;
    memcpy(&target->to, found->ai_addr, (size_t)found->ai_addrlen);
    target->size = (socklen_t)found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

const char *pmx__file_of(const pmx__target *target)
{
#ifndef _WIN32
    if (target->to.any.sa_family == AF_UNIX && target->to.un.sun_path[0])
        return target->to.un.sun_path;
#else
    (void)target;
#endif
    return NULL;
}

#ifdef _WIN32
int pmx__file_identity(const char *path, uint64_t identity[2])
{
    (void)path, (void)identity;
    return -ENOTSUP;
}

void pmx__unlink_if(const char *path, const uint64_t identity[2])
{
    (void)path, (void)identity;
}
#else
int pmx__file_identity(const char *path, uint64_t identity[2])
{
    struct stat info;
    if (lstat(path, &info))
        return -errno;
    if (!S_ISSOCK(info.st_mode))
        return -ENOTSOCK;
    identity[0] = (uint64_t)info.st_dev;
    identity[1] = (uint64_t)info.st_ino;
    return 0;
}

void pmx__unlink_if(const char *path, const uint64_t identity[2])
{
    uint64_t now[2];
    if (!pmx__file_identity(path, now) && now[0] == identity[0] &&
        now[1] == identity[1])
        (void)unlink(path);
}

/* Whether the path is a socket that nobody listens on any more. */
static int is_stale(const pmx__target *target, uint64_t identity[2])
{
    pmx_sock sock = PMX__NO_SOCK;
    if (pmx__file_identity(target->to.un.sun_path, identity) ||
        open_sock(target, &sock))
        return 0;
    int refused = connect(sock, &target->to.any, target->size) &&
                  errno == ECONNREFUSED;
    close(sock);
    return refused;
}
#endif

static int bind_to(pmx_sock sock, const pmx__target *target, uint32_t mode)
{
#ifdef _WIN32
    (void)mode;
    return bind(sock, &target->to.any, target->size) ? net_error() : 0;
#else
    const char *path = pmx__file_of(target);
    uint64_t identity[2];
    if (path)                   /* so that it is never wider, on Linux */
        (void)fchmod(sock, (mode_t)mode);
    if (bind(sock, &target->to.any, target->size)) {
        int error = -errno;
        if (error != -EADDRINUSE || !path || !is_stale(target, identity))
            return error;
        pmx__unlink_if(path, identity);
        if (bind(sock, &target->to.any, target->size))
            return -errno;
    }
    /* before listen(): nobody can have connected yet */
    if (path && chmod(path, (mode_t)mode)) {
        int error = -errno;
        (void)unlink(path);
        return error;
    }
    return 0;
#endif
}

int pmx__listen(const pmx__target *target, int backlog, int reuse_port,
                uint32_t mode, pmx_sock *sock)
{
    pmx_sock s = PMX__NO_SOCK;
    int error = open_sock(target, &s);
    if (error)
        return error;
    if (target->to.any.sa_family != AF_UNIX) {
#ifdef _WIN32
        set_option(s, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
#else
        set_option(s, SOL_SOCKET, SO_REUSEADDR, 1);
#endif
    }
    if (target->to.any.sa_family == AF_INET6) {
        static const struct in6_addr any = IN6ADDR_ANY_INIT;
        set_option(s, IPPROTO_IPV6, IPV6_V6ONLY,
                   memcmp(&target->to.v6.sin6_addr, &any, sizeof any) != 0);
    }
    if (reuse_port) {
#ifdef SO_REUSEPORT
        int on = 1;
        if (setsockopt(s, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on))
            error = -errno;
#else
        error = -ENOTSUP;
#endif
    }
    if (!error)
        error = bind_to(s, target, mode);
    if (error)
        goto fail;
    if (listen(s, backlog)) {
        error = net_error();
#ifndef _WIN32
        if (pmx__file_of(target))
            (void)unlink(pmx__file_of(target));
#endif
        goto fail;
    }
    *sock = s;
    return 0;
fail:
    pmx__drop_sock(s);
    return error;
}

int pmx__accept(pmx_sock listener, pmx_sock *sock, pmx__target *peer)
{
    pmx_sock s = PMX__NO_SOCK;
    do {
        peer->size = sizeof peer->to;
#ifdef __linux__
        s = accept4(listener, &peer->to.any, &peer->size,
                    SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
        s = accept(listener, &peer->to.any, &peer->size);
#endif
    } while (s == PMX__NO_SOCK && net_error() == -EINTR);
    if (s == PMX__NO_SOCK)
        return net_error() == -EWOULDBLOCK ? -EAGAIN : net_error();
#ifndef __linux__               /* there it is inherited */
    if (peer->to.any.sa_family != AF_UNIX)
        set_option(s, IPPROTO_TCP, TCP_NODELAY, 1);
    int error = prepare(s);
    if (error) {
        pmx__drop_sock(s);
        return error;
    }
#endif
    *sock = s;
    return 0;
}

int pmx__dial(const pmx__target *target, pmx_sock *sock)
{
    pmx_sock s = PMX__NO_SOCK;
    int error = open_sock(target, &s);
    if (error)
        return error;
    if (connect(s, &target->to.any, target->size)) {
        error = net_error();
        /* a Unix socket says EAGAIN where the backlog is full */
        if (error == -EINTR ||
            (error == -EAGAIN && target->to.any.sa_family != AF_UNIX))
            error = -EINPROGRESS;
        if (error != -EINPROGRESS) {
            pmx__drop_sock(s);
            return error;
        }
    }
    *sock = s;
    return error;
}

int pmx__dialled(pmx_sock sock)
{
    int error = pmx__sock_error(sock);
    if (error)
        return -error;
    pmx__target peer;
    peer.size = sizeof peer.to;
    return getpeername(sock, &peer.to.any, &peer.size) ? net_error() : 0;
}

int64_t pmx__recv(pmx_sock sock, void *to, size_t size)
{
    int64_t n;
    do
#ifdef _WIN32
        n = recv(sock, to, (int)size, 0);
#else
        n = recv(sock, to, size, 0);
#endif
    while (n < 0 && net_error() == -EINTR);
    if (n >= 0)
        return n;
    return net_error() == -EWOULDBLOCK ? -EAGAIN : net_error();
}

static int64_t sent(int64_t n)
{
    if (n >= 0)
        return n;
    int error = net_error();
    if (error == -EWOULDBLOCK)
        return -EAGAIN;
    return error == -EPIPE ? -ECONNRESET : error;
}

int64_t pmx__send(pmx_sock sock, const void *from, size_t size)
{
    int64_t n;
    do
#ifdef _WIN32
        n = send(sock, from, (int)(size < INT32_MAX ? size : INT32_MAX), 0);
#else
        n = send(sock, from, size, MSG_NOSIGNAL);
#endif
    while (n < 0 && net_error() == -EINTR);
    return sent(n);
}

int64_t pmx__send_spans(pmx_sock sock, pmx__span *spans, int count)
{
    int64_t n;
#ifdef _WIN32
    DWORD taken = 0;
    n = WSASend(sock, spans, (DWORD)count, &taken, 0, NULL, NULL);
    n = n ? -1 : (int64_t)taken;
#else
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = spans;
#ifdef __linux__
    message.msg_iovlen = (size_t)count;
#else
    message.msg_iovlen = count;
#endif
    do
        n = sendmsg(sock, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
#endif
    return sent(n);
}

size_t pmx__arrived(pmx_sock sock)
{
#ifdef _WIN32
    u_long n = 0;
    return ioctlsocket(sock, FIONREAD, &n) ? 0 : n;
#else
    int n = 0;
    return ioctl(sock, FIONREAD, &n) || n < 0 ? 0 : (size_t)n;
#endif
}

size_t pmx__unacknowledged(pmx_sock sock)
{
#if defined(SIOCOUTQ)
    int n = 0;
    return ioctl(sock, SIOCOUTQ, &n) || n < 0 ? 0 : (size_t)n;
#elif defined(FIONWRITE)
    int n = 0;
    return ioctl(sock, FIONWRITE, &n) || n < 0 ? 0 : (size_t)n;
#elif defined(SO_NWRITE)
    int n = 0;
    socklen_t size = sizeof n;
    return getsockopt(sock, SOL_SOCKET, SO_NWRITE, &n, &size) || n < 0
               ? 0 : (size_t)n;
#else
    (void)sock;
    return 0;
#endif
}

int pmx__sock_error(pmx_sock sock)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(sock, SOL_SOCKET, SO_ERROR, (void *)&error, &size))
        return -net_error();
#ifdef _WIN32
    if (error) {
        WSASetLastError(error);
        error = -net_error();
    }
#endif
    return error == EPIPE ? ECONNRESET : error;
}

void pmx__shutdown_write(pmx_sock sock)
{
#ifdef _WIN32
    (void)shutdown(sock, SD_SEND);
#else
    (void)shutdown(sock, SHUT_WR);
#endif
}

void pmx__drop_sock(pmx_sock sock)
{
#ifdef _WIN32
    (void)closesocket(sock);
#else
    (void)close(sock);          /* EINTR: closed all the same, on Linux */
#endif
}

void pmx__close_sock(pmx_sock sock)
{
#ifdef _WIN32
    (void)shutdown(sock, SD_BOTH);
#else
    (void)shutdown(sock, SHUT_RDWR);
#endif
    pmx__drop_sock(sock);
}

void pmx__reset_sock(pmx_sock sock)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(sock, SOL_SOCKET, SO_LINGER, (const void *)&now,
                     sizeof now);
#ifdef __linux__
    /* resets at once even where a forked child holds the descriptor too */
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    (void)connect(sock, &none, sizeof none);
#endif
    pmx__drop_sock(sock);
}

int pmx__local(pmx_sock sock, pmx__target *name)
{
    memset(name, 0, sizeof *name);
    name->size = sizeof name->to;
    return getsockname(sock, &name->to.any, &name->size) ? net_error() : 0;
}

void pmx__describe(const pmx__target *target, pmx_address *address)
{
    memset(address, 0, sizeof *address);
    if (target->to.any.sa_family == AF_INET) {
        address->family = 4;
        address->port = ntohs(target->to.v4.sin_port);
        memcpy(address->ip, &target->to.v4.sin_addr, 4);
    } else if (target->to.any.sa_family == AF_INET6) {
        address->family = 6;
        address->port = ntohs(target->to.v6.sin6_port);
        address->scope = target->to.v6.sin6_scope_id;
        memcpy(address->ip, &target->to.v6.sin6_addr, 16);
    } else {
        address->family = 1;
#ifndef _WIN32
        const char *path = target->to.un.sun_path;
        size_t head = offsetof(struct sockaddr_un, sun_path);
        size_t size = target->size > head ? target->size - head : 0;
        if (size && path[0]) {  /* a path: up to its NUL, if it has one */
            const char *end = memchr(path, 0, size);
            size = end ? (size_t)(end - path) : size;
        }
        address->path = path;
        address->path_size = (uint32_t)size;
#endif
    }
}

#ifdef _WIN32
int pmx__net_start(void)
{
    static int started;
    WSADATA data;
    if (!started && WSAStartup(MAKEWORD(2, 2), &data))
        return -ENOSYS;
    started = 1;
    return 0;
}

uint32_t pmx__forks(void)
{
    return 0;
}

int64_t pmx__now(void)
{
    LARGE_INTEGER count, rate;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&rate);
    return count.QuadPart / rate.QuadPart * 1000000000 +
           count.QuadPart % rate.QuadPart * 1000000000 / rate.QuadPart;
}

uint32_t pmx__usable_cpus(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return (uint32_t)info.dwNumberOfProcessors;
}
#else
static uint32_t forks;

static void after_fork(void)
{
    forks++;
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork);
}

int pmx__net_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    return -pthread_once(&once, watch_forks);
}

uint32_t pmx__forks(void)
{
    return forks;
}

int64_t pmx__now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint32_t pmx__usable_cpus(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set))
        return (uint32_t)CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}
#endif
