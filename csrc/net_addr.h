/* Addresses, the files of Unix sockets, and what the OS calls a socket. Layer
 * 1. */
#ifndef PMX_NET_ADDR_H
#define PMX_NET_ADDR_H

#include "pymux.h"

#include <errno.h>

#ifdef _WIN32
#include <winsock2.h>
#include <ws2tcpip.h>
typedef SOCKET pmx_sock;
#define PMX__NO_SOCK INVALID_SOCKET
/* Where Windows has two numbers for an error, Python's errno has Winsock's. */
#undef EADDRINUSE
#undef EADDRNOTAVAIL
#undef EAFNOSUPPORT
#undef ECONNABORTED
#undef ECONNREFUSED
#undef ECONNRESET
#undef EHOSTUNREACH
#undef EINPROGRESS
#undef EMSGSIZE
#undef ENETDOWN
#undef ENETUNREACH
#undef ENOBUFS
#undef ENOTCONN
#undef ETIMEDOUT
#define EADDRINUSE WSAEADDRINUSE
#define EADDRNOTAVAIL WSAEADDRNOTAVAIL
#define EAFNOSUPPORT WSAEAFNOSUPPORT
#define ECONNABORTED WSAECONNABORTED
#define ECONNREFUSED WSAECONNREFUSED
#define ECONNRESET WSAECONNRESET
#define EHOSTUNREACH WSAEHOSTUNREACH
#define EINPROGRESS WSAEINPROGRESS
#define EMSGSIZE WSAEMSGSIZE
#define ENETDOWN WSAENETDOWN
#define ENETUNREACH WSAENETUNREACH
#define ENOBUFS WSAENOBUFS
#define ENOTCONN WSAENOTCONN
#define ETIMEDOUT WSAETIMEDOUT
#else
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
typedef int pmx_sock;
#define PMX__NO_SOCK (-1)
#endif

#include "sys.h"

/* Any address that a connection here can have. */
typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
#ifndef _WIN32
    struct sockaddr_un un;
#endif
    struct sockaddr_storage room;
} pmx__sockaddr;

typedef struct {
    socklen_t size;
    pmx__sockaddr to;
} pmx__target;

int pmx__resolve(const pmx_endpoint *endpoint, pmx__target *target);
/* Read an address of IPv4, or of IPv6, as inet_pton() takes it: 1, or 0. */
int pmx__read_ip(const char *text, int is6, uint8_t *ip);
/* The path in the description stays in target. */
void pmx__describe(const pmx__target *target, pmx_address *address);
/* The inverse: 0, or -EINVAL for what is no such description. */
int pmx__target_of(const pmx_address *address, pmx__target *target);
/* 4, 6, or 1 for a Unix socket. */
uint8_t pmx__family(const pmx__target *target);
/* True if the name says more than that it is a Unix socket. */
int pmx__is_named(const pmx__target *target);
/* The path of a Unix target in the file system; NULL: it has none. */
const char *pmx__file_of(const pmx__target *target);

/* The socket file of a Unix listener. Its directory stays open until the file
 * is removed. So the name in it means this file, whatever becomes of the
 * working directory, of the root, or of links in the path. */
typedef struct {
    int directory;              /* -1: none */
    int is_locked;
    int is_ours;                /* identity is that of the file we made */
    uint64_t identity[2];
} pmx__file;

/* Open the directory of a path (NULL: there is none) and lock it. Of several
 * servers that start on one path each then tests, replaces, binds and listens
 * before the next one does. */
int pmx__file_begin(pmx__file *file, const char *path);
/* The identity of the file at the path: 0, or -errno; -ENOTSOCK for another
 * kind of file. */
int pmx__file_look(const pmx__file *file, const char *path,
                   uint64_t identity[2]);
/* bind() has just made the file: from now on it is ours, and gets this mode. A
 * link is not followed: another program that may write to the directory may
 * have put one in its place. */
int pmx__file_claim(pmx__file *file, const char *path, uint32_t mode);
/* The socket listens, so the lock ends. -EADDRINUSE: the path is another file
 * by now, so no peer could connect. */
int pmx__file_end(pmx__file *file, const char *path);
/* Unlink the path if it still is this file: 0 or -errno. */
int pmx__file_unlink(const pmx__file *file, const char *path,
                     const uint64_t identity[2]);
/* Unlink the file if it is ours, and close the directory. A forked process does
 * not unlink a file that its parent has too. */
void pmx__file_close(pmx__file *file, const char *path, int forked);

#endif
