/* Listening sockets: bind, listen and accept; sockets of the caller's. See
 * net.h. */
#ifdef __linux__
#define _GNU_SOURCE             /* accept4 */
#endif
#include "net.h"

#include <string.h>

#ifndef _WIN32
#include <netinet/tcp.h>
#include <sys/stat.h>
#endif

#ifndef _WIN32
/* Return 1 if no process listens on the socket at the path any more, 0 if one
 * does or the path is no socket, or -errno if no connect could be tried. */
static int is_stale(const pmx__target *target, const pmx__file *file,
                    uint64_t identity[2])
{
    pmx_sock sock = PMX__NO_SOCK;
    if (pmx__file_look(file, pmx__file_of(target), identity))
        return 0;
    int error = pmx__open_sock(target, &sock);
    if (error)
        return error;
    int refused = sys_connect(sock, &target->to.any, target->size) &&
                  errno == ECONNREFUSED;
    pmx__drop_sock(sock);
    return refused;
}

/* Bind to a path that is in use already. */
static int replace(pmx_sock sock, const pmx__target *target,
                   const pmx__file *file)
{
    uint64_t identity[2] = {0, 0};
    int stale = is_stale(target, file, identity);
    if (stale <= 0)
        return stale ? stale : -EADDRINUSE;
    int error = pmx__file_unlink(file, pmx__file_of(target), identity);
    if (error && error != -ENOENT)
        return error;
    return sys_bind(sock, &target->to.any, target->size) ? -errno : 0;
}
#endif

static int bind_to(pmx_sock sock, const pmx__target *target, uint32_t mode,
                   pmx__file *file)
{
    const char *path = pmx__file_of(target);
    int error = pmx__file_begin(file, path);
    if (error)
        return error;
#ifdef _WIN32
    (void)mode;
    return sys_bind(sock, &target->to.any, target->size) ? pmx__net_error() : 0;
#else
    if (path)                   /* on Linux the file gets this mode at bind() */
        (void)sys_fchmod(sock, (mode_t)mode);
    if (sys_bind(sock, &target->to.any, target->size))
        error = -errno;
    if (error == -EADDRINUSE && path)
        error = replace(sock, target, file);
    /* set the mode before listen(), so before any peer can connect */
    return error || !path ? error : pmx__file_claim(file, path, mode);
#endif
}

int pmx__listen(const pmx__target *target, int backlog, int reuse_port,
                uint32_t mode, pmx_sock *sock, pmx__file *file)
{
    pmx_sock s = PMX__NO_SOCK;
    *file = (pmx__file){.directory = -1};
    int error = pmx__open_sock(target, &s);
    if (error)
        return error;
    if (target->to.any.sa_family != AF_UNIX) {
#ifdef _WIN32
        pmx__set_option(s, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
#else
        pmx__set_option(s, SOL_SOCKET, SO_REUSEADDR, 1);
#endif
    }
    if (target->to.any.sa_family == AF_INET6) {
        static const struct in6_addr any = IN6ADDR_ANY_INIT;
        pmx__set_option(s, IPPROTO_IPV6, IPV6_V6ONLY,
                   memcmp(&target->to.v6.sin6_addr, &any, sizeof any) != 0);
    }
    if (reuse_port) {
#if defined(SO_REUSEPORT_LB)    /* FreeBSD: SO_REUSEPORT does not balance */
        int on = 1, option = SO_REUSEPORT_LB;
#elif defined(SO_REUSEPORT)
        int on = 1, option = SO_REUSEPORT;
#endif
#if defined(SO_REUSEPORT)
        if (sys_setsockopt(s, SOL_SOCKET, option, &on, sizeof on))
            error = -errno;
#else
        error = -ENOTSUP;
#endif
    }
    if (!error)
        error = bind_to(s, target, mode, file);
    if (error)
        goto fail;
#ifdef _WIN32                   /* cuts a positive backlog to 200 */
    if (backlog > 200)
        backlog = -(backlog < 65535 ? backlog : 65535);     /* a "hint" */
#endif
    if (sys_listen(s, backlog))
        error = pmx__net_error();
#ifndef _WIN32
    if (!error)
        error = pmx__file_end(file, pmx__file_of(target));
#endif
    if (error)
        goto fail;
    *sock = s;
    return 0;
fail:
    pmx__file_close(file, pmx__file_of(target), 0);
    pmx__drop_sock(s);
    return error;
}

/* Return the value of a socket's option, or -errno. */
static int get_option(pmx_sock sock, int option)
{
    int value = 0;
    socklen_t size = sizeof value;
    return sys_getsockopt(sock, SOL_SOCKET, option, (void *)&value, &size)
               ? pmx__net_error() : value;
}

static int is_known(const pmx__target *name)
{
    int family = name->to.any.sa_family;
#ifndef _WIN32
    if (family == AF_UNIX)
        return 1;
#endif
    return family == AF_INET || family == AF_INET6;
}

int pmx__listen_given(pmx_sock sock, pmx__target *name)
{
    int type = get_option(sock, SO_TYPE);
    int listens = get_option(sock, SO_ACCEPTCONN);
    if (type < 0)
        return type;
    if (type != SOCK_STREAM || !listens)
        return -EINVAL;
    int error = pmx__local(sock, name);
    return error || is_known(name) ? error : -EINVAL;
}

int pmx__stream_given(pmx_sock sock, pmx__target *peer)
{
    int type = get_option(sock, SO_TYPE);
    if (type < 0)
        return type;
    peer->size = sizeof peer->to;
    if (type != SOCK_STREAM)
        return -EINVAL;
    if (sys_getpeername(sock, &peer->to.any, &peer->size)) {
        int error = pmx__net_error();
        return error == -EINVAL ? -ENOTCONN : error;    /* macOS, shut down */
    }
#ifndef _WIN32
    if (!peer->size)            /* some systems name no Unix peer */
        peer->to.any.sa_family = AF_UNIX;
#endif
    return is_known(peer) ? 0 : -EINVAL;
}

/* On Linux accepted sockets inherit TCP_NODELAY from their listener. */
int pmx__take_given(pmx_sock sock, const pmx__target *name)
{
    int error = pmx__prepare(sock);
    if (!error && pmx__family(name) != 1)
        pmx__set_option(sock, IPPROTO_TCP, TCP_NODELAY, 1);
    return error;
}

static int accepted(pmx_sock listener, pmx_sock *sock, pmx__target *peer)
{
    pmx_sock s = PMX__NO_SOCK;
    do {
        peer->to.any.sa_family = AF_UNSPEC;     /* some systems set none */
        peer->size = sizeof peer->to;
#ifdef PMX__MADE_READY
        s = sys_accept4(listener, &peer->to.any, &peer->size,
                        SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
        s = sys_accept(listener, &peer->to.any, &peer->size);
#endif
    } while (s == PMX__NO_SOCK && pmx__net_error() == -EINTR);
    *sock = s;
    return s == PMX__NO_SOCK ? pmx__net_error() : 0;
}

int pmx__accept(pmx_sock listener, pmx_sock *sock, pmx__target *peer)
{
    int error = accepted(listener, sock, peer);
    if (error == -EWOULDBLOCK)
        return -EAGAIN;
#ifdef _WIN32
    if (error == -ECONNRESET || error == -ENOTCONN)
        return -ECONNABORTED;   /* the peer left before the accept */
#endif
    if (error)
        return error;
#ifdef __APPLE__
    if (!peer->size) {          /* a connection that was reset has no name */
        pmx__drop_sock(*sock);
        return -ECONNABORTED;
    }
#endif
#ifndef __linux__               /* Linux inherits it from the listener */
    if (peer->to.any.sa_family != AF_UNIX)
        pmx__set_option(*sock, IPPROTO_TCP, TCP_NODELAY, 1);
#endif
#ifndef PMX__MADE_READY
    error = pmx__prepare(*sock);
    if (error)
        pmx__drop_sock(*sock);
#endif
    return error;
}

void pmx__acknowledge(pmx_sock sock)
{
#ifdef TCP_QUICKACK
    pmx__set_option(sock, IPPROTO_TCP, TCP_QUICKACK, 1);
#else
    (void)sock;
#endif
}
