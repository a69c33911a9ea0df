/* Addresses and the files of Unix sockets: see net_addr.h. */
#ifdef __linux__
#define _GNU_SOURCE             /* struct addrinfo */
#endif
#include "net_addr.h"

#include <stdio.h>
#include <string.h>
#ifndef _WIN32
#include <fcntl.h>
#include <netdb.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#ifndef _WIN32
static int resolve_path(const pmx_endpoint *endpoint, pmx__target *target)
{
    struct sockaddr_un *un = &target->to.un;
    size_t size = endpoint->path_size;
    /* an abstract name fills the room, a path leaves some for its NUL */
    if (!size || size > sizeof un->sun_path - (endpoint->path[0] != 0))
        return -ENAMETOOLONG;
#ifndef __linux__
    if (!endpoint->path[0])     /* no abstract names there */
        return -EINVAL;
#endif
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
    (void)snprintf(port, sizeof port, "%u", endpoint->port);
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
    if (sys_lstat(path, &info))
        return -errno;
    if (!S_ISSOCK(info.st_mode))
        return -ENOTSOCK;
    identity[0] = (uint64_t)info.st_dev;
    identity[1] = (uint64_t)info.st_ino;
    return 0;
}

void pmx__unlink_if(const char *path, const uint64_t identity[2])
{
    uint64_t now[2] = {0};
    if (!pmx__file_identity(path, now) && now[0] == identity[0] &&
        now[1] == identity[1])
        (void)sys_unlink(path);
}

int pmx__set_mode(const char *path, uint32_t mode)
{
    struct stat info;
    if (sys_lstat(path, &info))
        return -errno;
    if (!S_ISSOCK(info.st_mode))
        return -EADDRINUSE;
    if ((info.st_mode & 0777) == (mode_t)mode)
        return 0;
    if (!sys_fchmodat(AT_FDCWD, path, (mode_t)mode, AT_SYMLINK_NOFOLLOW))
        return 0;
    if (errno != ENOTSUP && errno != EOPNOTSUPP)
        return -errno;
    return sys_chmod(path, (mode_t)mode) ? -errno : 0;     /* an old libc */
}
#endif

#ifndef _WIN32
static size_t path_size(const pmx__target *target)
{
    const char *path = target->to.un.sun_path;
    size_t head = offsetof(struct sockaddr_un, sun_path);
    size_t size = target->size > head ? target->size - head : 0;
#ifdef __linux__
    if (size && !path[0])       /* an abstract name: all of it */
        return size;
#endif
    const char *end = memchr(path, 0, size);    /* a NUL may stand behind */
    return end ? (size_t)(end - path) : size;
}
#endif

int pmx__is_named(const pmx__target *target)
{
#ifndef _WIN32
    if (target->to.any.sa_family == AF_UNIX)
        return path_size(target) > 0;
#else
    (void)target;
#endif
    return 1;
}

uint8_t pmx__family(const pmx__target *target)
{
    return target->to.any.sa_family == AF_INET    ? 4
           : target->to.any.sa_family == AF_INET6 ? 6
                                                  : 1;
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
        address->path = target->to.un.sun_path;
        address->path_size = (uint32_t)path_size(target);
#endif
    }
}
