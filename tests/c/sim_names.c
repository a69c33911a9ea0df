/* The names of the sockets of the system in memory: paths and ports. See
 * sim.h. */
#ifdef __linux__
#include "sim_parts.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

static uint16_t next_port;

void sim_no_names(void)
{
    next_port = 40000;
}

uint16_t sim_free_port(void)
{
    return next_port++;
}

sim_sock *sim_bound_to(const sim_sock *s)
{
    for (sim_sock *o = sim_socks; o; o = o->next) {
        if (o == s || o->family != s->family || o->state == SIM_OVER)
            continue;
        if (sim_is_tcp(s) ? o->state == SIM_LISTENING && o->port == s->calls
                      : o->is_bound && o->name_size == s->call_size &&
                            !memcmp(o->name, s->call, s->call_size))
            return o;
    }
    return NULL;
}

static int bind_unix(sim_sock *s, const struct sockaddr *name, socklen_t size)
{
    const char *path = ((const struct sockaddr_un *)(const void *)name)
                           ->sun_path;
    s->call_size = size - offsetof(struct sockaddr_un, sun_path);
    memcpy(s->call, path, s->call_size);
    if (path[0]) {
        if (sim_make_file(s, path, s->call_size))
            return -1;
    } else if (sim_bound_to(s)) {
        return sim_fails(EADDRINUSE);
    }
    s->is_bound = 1;
    s->name_size = s->call_size;
    memcpy(s->name, s->call, s->call_size);
    return 0;
}

uint16_t sim_port_in(const struct sockaddr *name)
{
    return ntohs(((const struct sockaddr_in *)(const void *)name)->sin_port);
}

int sim_bind(int fd, const struct sockaddr *name, socklen_t size)
{
    sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (!sim_is_tcp(s))
        return bind_unix(s, name, size);
    s->port = s->calls = sim_port_in(name);
    if (!s->port)
        s->port = sim_free_port();
    else if (sim_bound_to(s))
        return sim_fails(EADDRINUSE);
    return 0;
}

void sim_name_of(const sim_sock *s, int port, const char *path,
                 size_t path_size, struct sockaddr *name, socklen_t *size)
{
    union {
        struct sockaddr_un un;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } is;
    size_t whole;
    memset(&is, 0, sizeof is);
    if (!sim_is_tcp(s)) {
        is.un.sun_family = AF_UNIX;
        if (path_size)
            memcpy(is.un.sun_path, path, path_size);
        whole = offsetof(struct sockaddr_un, sun_path) + path_size;
    } else if (s->family == AF_INET6) {
        is.in6.sin6_family = AF_INET6;
        is.in6.sin6_port = htons((uint16_t)port);
        is.in6.sin6_addr = in6addr_loopback;
        whole = sizeof is.in6;
    } else {
        is.in.sin_family = AF_INET;
        is.in.sin_port = htons((uint16_t)port);
        is.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        whole = sizeof is.in;
    }
    memcpy(name, &is, whole < *size ? whole : *size);
    *size = (socklen_t)whole;
}

int sim_getsockname(int fd, struct sockaddr *name, socklen_t *size)
{
    const sim_sock *s = sim_no_pipe(fd);
    if (!s)
        return -1;
    sim_name_of(s, s->port, s->name, s->name_size, name, size);
    return 0;
}

static int is_called(const sim_sock *s)
{
    return sim_is_tcp(s) ? s->state == SIM_OPEN
                     : s->state == SIM_OPEN || s->state == SIM_OVER;
}

int sim_getpeername(int fd, struct sockaddr *name, socklen_t *size)
{
    const sim_sock *s = sim_no_pipe(fd);
    if (!s)
        return -1;
    if (!is_called(s))
        return sim_fails(ENOTCONN);
    sim_name_of(s, s->calls, s->call, s->call_size, name, size);
    return 0;
}

int sim_port(int fd)
{
    const sim_sock *s = sim_sock_of(fd);
    return s ? s->port : -1;
}
#else
typedef int sim_names_is_for_linux;     /* a file must not be empty */
#endif
