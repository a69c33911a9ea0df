/* Addresses and the files of Unix sockets: see net_addr.h. */
#ifdef __linux__
#define _GNU_SOURCE             /* struct addrinfo */
#endif
#include "net_addr.h"

#include <stdio.h>
#include <string.h>
#ifndef _WIN32
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#ifndef _WIN32
static int resolve_path(const pmx_endpoint *endpoint, pmx__target *target)
{
    struct sockaddr_un *un = &target->to.un;
    size_t size = endpoint->path_size;
    /* an abstract name may fill the room; a path needs room for its NUL */
    if (!size || size > sizeof un->sun_path - (endpoint->path[0] != 0))
        return -ENAMETOOLONG;
#ifndef __linux__
    if (!endpoint->path[0])     /* only Linux has abstract names */
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

int pmx__read_ip(const char *text, int is6, uint8_t *ip)
{
    return inet_pton(is6 ? AF_INET6 : AF_INET, text, ip) == 1;
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

/* --- socket files ------------------------------------------------------ */

#ifdef _WIN32
int pmx__file_begin(pmx__file *file, const char *path)
{
    (void)path;
    *file = (pmx__file){.directory = -1};
    return 0;
}

void pmx__file_close(pmx__file *file, const char *path, int forked)
{
    (void)file, (void)path, (void)forked;
}
#else
/* Flags to open a directory that this user may enter but not list. */
#if defined(O_PATH)
#define ENTER (O_PATH | O_DIRECTORY | O_CLOEXEC)
#elif defined(O_SEARCH)
#define ENTER (O_SEARCH | O_DIRECTORY | O_CLOEXEC)
#endif

/* Return the last part of a path. */
static const char *name_in(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int open_directory(const char *path)
{
    char directory[sizeof(struct sockaddr_un)] = ".";
    size_t size = (size_t)(name_in(path) - path);
    if (size) {
        memcpy(directory, path, size);
        directory[size] = 0;
    }
    int fd = sys_openat(AT_FDCWD, directory,
                        O_RDONLY | O_DIRECTORY | O_CLOEXEC);
#ifdef ENTER
    if (fd < 0 && errno == EACCES)
        fd = sys_openat(AT_FDCWD, directory, ENTER);
#endif
    return fd < 0 ? -errno : fd;
}

/* A server that starts holds the lock for about a millisecond. A stopped server
 * may hold the lock for ever, and so may any program that can open the
 * directory. So after about a second this server goes on without the lock, and
 * so it does if the system has no such lock. pmx__file_end() then finds nearly
 * everything that can go wrong. */
static int lock(int fd)
{
    enum { TRIES = 1000 };
    for (int n = 0; n < TRIES; n++) {
        if (!sys_flock(fd, LOCK_EX | LOCK_NB))
            return 1;
        if (errno != EWOULDBLOCK)
            return 0;
        (void)sys_poll(NULL, 0, 1);
    }
    return 0;
}

/* To close the descriptor is not enough: a process that was forked meanwhile
 * shares the descriptor, and so holds the lock. */
static void unlock(pmx__file *file)
{
    if (file->is_locked)
        (void)sys_flock(file->directory, LOCK_UN);
    file->is_locked = 0;
}

int pmx__file_begin(pmx__file *file, const char *path)
{
    *file = (pmx__file){.directory = -1};
    if (!path)
        return 0;
    int fd = open_directory(path);
    if (fd < 0)
        return fd;
    file->directory = fd;
    file->is_locked = lock(fd);
    return 0;
}

static int look(const pmx__file *file, const char *path, uint64_t identity[2],
                mode_t *mode)
{
    struct stat info;
    if (sys_fstatat(file->directory, name_in(path), &info,
                    AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (!S_ISSOCK(info.st_mode))
        return -ENOTSOCK;
    identity[0] = (uint64_t)info.st_dev;
    identity[1] = (uint64_t)info.st_ino;
    *mode = info.st_mode & 0777;
    return 0;
}

int pmx__file_look(const pmx__file *file, const char *path,
                   uint64_t identity[2])
{
    mode_t mode = 0;
    return look(file, path, identity, &mode);
}

/* Return 0 if the path still names that file, else -EADDRINUSE or -errno. */
static int compare(const pmx__file *file, const char *path,
                   const uint64_t identity[2])
{
    uint64_t now[2] = {0, 0};
    int error = pmx__file_look(file, path, now);
    if (error && error != -ENOENT && error != -ENOTSOCK)
        return error;
    return error || now[0] != identity[0] || now[1] != identity[1]
               ? -EADDRINUSE : 0;
}

int pmx__file_claim(pmx__file *file, const char *path, uint32_t mode)
{
    mode_t now = 0;
    const char *name = name_in(path);
    int error = look(file, path, file->identity, &now);
    if (error)
        return error == -ENOENT || error == -ENOTSOCK ? -EADDRINUSE : error;
    file->is_ours = 1;
    if (now == (mode_t)mode)    /* mostly so: fchmod() came before bind() */
        return 0;
    if (!sys_fchmodat(file->directory, name, (mode_t)mode,
                      AT_SYMLINK_NOFOLLOW))
        return 0;
    if (errno != ENOTSUP && errno != EOPNOTSUPP)
        return -errno;
    return sys_fchmodat(file->directory, name, (mode_t)mode, 0) /* old libc */
               ? -errno : 0;
}

int pmx__file_end(pmx__file *file, const char *path)
{
    int error = path ? compare(file, path, file->identity) : 0;
    unlock(file);
    return error;
}

int pmx__file_unlink(const pmx__file *file, const char *path,
                     const uint64_t identity[2])
{
    int error = compare(file, path, identity);
    if (error)
        return error;
    return sys_unlinkat(file->directory, name_in(path), 0) ? -errno : 0;
}

void pmx__file_close(pmx__file *file, const char *path, int forked)
{
    if (file->directory < 0)
        return;
    if (file->is_ours && path && !forked)
        (void)pmx__file_unlink(file, path, file->identity);
    unlock(file);
    (void)sys_close(file->directory);
    *file = (pmx__file){.directory = -1};
}
#endif

/* --- names ------------------------------------------------------------- */

#ifndef _WIN32
static size_t path_size(const pmx__target *target)
{
    const char *path = target->to.un.sun_path;
    size_t head = offsetof(struct sockaddr_un, sun_path);
    size_t size = target->size > head ? target->size - head : 0;
#ifdef __linux__
    if (size && !path[0])       /* an abstract name may hold NULs */
        return size;
#endif
    const char *end = memchr(path, 0, size);    /* a NUL may follow the path */
    return end ? (size_t)(end - path) : size;
}
#endif

int pmx__is_named(const pmx__target *target)
{
    if (target->to.any.sa_family == AF_UNSPEC)
        return 0;
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

int pmx__target_of(const pmx_address *address, pmx__target *target)
{
    memset(target, 0, sizeof *target);
    if (address->port > 65535)
        return -EINVAL;
    if (address->family == 4) {
        target->size = sizeof target->to.v4;
        target->to.v4.sin_family = AF_INET;
        target->to.v4.sin_port = htons((uint16_t)address->port);
        memcpy(&target->to.v4.sin_addr, address->ip, 4);
        return 0;
    }
    if (address->family == 6) {
        target->size = sizeof target->to.v6;
        target->to.v6.sin6_family = AF_INET6;
        target->to.v6.sin6_port = htons((uint16_t)address->port);
        target->to.v6.sin6_scope_id = address->scope;
        memcpy(&target->to.v6.sin6_addr, address->ip, 16);
        return 0;
    }
    if (address->family != 1)
        return -EINVAL;
#ifdef _WIN32
    return -EINVAL;
#else
    pmx_endpoint where = {.path = address->path,
                          .path_size = address->path_size};
    target->to.un.sun_family = AF_UNIX;
    target->size = offsetof(struct sockaddr_un, sun_path);
    if (address->path_size && pmx__resolve(&where, target))
        target->size = offsetof(struct sockaddr_un, sun_path);
    return 0;                   /* without a name that no target can have */
#endif
}
