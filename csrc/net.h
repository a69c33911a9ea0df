/* Sockets: the only per-OS socket code is behind these. Every function
 * returns >= 0 or -errno and retries EINTR where that is sound. Layer 1. */
#ifndef PMX_NET_H
#define PMX_NET_H

#include "net_addr.h"

/* Whether a listener's options are those of whom it accepts; and whether a
 * send to a peer that had ended its stream before it was lost is EPIPE, and to
 * one that had not another errno, as in Linux' tcp_reset(). */
#ifdef __linux__
enum { PMX__HANDS_ON = 1, PMX__EPIPE_TELLS = 1 };
#else
enum { PMX__HANDS_ON = 0, PMX__EPIPE_TELLS = 0 };
#endif

/* Descriptors can be made as pmx__prepare() makes them: by one call instead of
 * four, and at no moment does a program that another thread starts inherit
 * them. */
#if defined(__linux__) || defined(__FreeBSD__) || defined(__NetBSD__) || \
    defined(__OpenBSD__) || defined(__DragonFly__)
#define PMX__MADE_READY
#endif

/* A span of bytes to send. */
#ifdef _WIN32                  /* a WSABUF holds less than 4 GiB */
typedef struct {
    void *iov_base;
    size_t iov_len;
} pmx__span;
#else
typedef struct iovec pmx__span;
#endif
#define PMX__SPAN(pointer, length) \
    ((pmx__span){.iov_base = (void *)(uintptr_t)(pointer), .iov_len = (length)})
#define PMX__SPAN_SIZE(span) ((span).iov_len)
enum { PMX__SPANS = 64 };

/* What the last call that failed left as its error, as -errno. */
int pmx__net_error(void);
/* An option that the OS may lack or refuse. */
void pmx__set_option(pmx_sock sock, int level, int option, int value);
/* A stream socket for such an address, prepared, without delays. */
int pmx__open_sock(const pmx__target *target, pmx_sock *sock);
/* Non-blocking, not inherited by other programs, no SIGPIPE. */
int pmx__prepare(pmx_sock sock);
/* The file is for pmx__file_close(); there is none where this fails. */
int pmx__listen(const pmx__target *target, int backlog, int reuse_port,
                uint32_t mode, pmx_sock *sock, pmx__file *file);
/* Have a socket that somebody else has made fit to be accepted from, and its
 * name: -EBADF or -ENOTSOCK, or -EINVAL for one that is no stream socket or
 * does not listen. It is changed by success alone. */
int pmx__listen_given(pmx_sock sock, pmx__target *name);
/* The connection's socket and its peer; -EAGAIN when nobody waits. */
int pmx__accept(pmx_sock listener, pmx_sock *sock, pmx__target *peer);
/* Ask whether a silent peer is still there, as the policy says, if it does.
 * A listener hands it on to whom it accepts, where PMX__HANDS_ON. */
void pmx__keep_alive(pmx_sock sock, const pmx_policy *policy);
/* 0: done; -EINPROGRESS: on its way; -EAGAIN: not now, a Unix backlog is full
 * or the system short of something. */
int pmx__dial(const pmx__target *target, pmx_sock *sock);
/* 0 when a dialled socket is connected, else what became of it; a connection
 * to itself is -ECONNREFUSED. */
int pmx__dialled(pmx_sock sock);

/* Bytes, 0 at the end of the stream (recv), or -errno. A send that is -ENOBUFS
 * may be tried again: the system has no memory for it just now (any that is
 * busy on macOS and NetBSD, https://github.com/libuv/libuv/issues/1573; Unix
 * sockets on Linux). The socket has room, so no event follows. */
int64_t pmx__recv(pmx_sock sock, void *to, size_t size);
int64_t pmx__send(pmx_sock sock, const void *from, size_t size);
int64_t pmx__send_spans(pmx_sock sock, pmx__span *spans, int count);
/* Bytes that wait to be received; SIZE_MAX: as many as there are. */
size_t pmx__arrived(pmx_sock sock);
/* Bytes sent that the peer has not acknowledged (Linux counts the end of the
 * stream as one); of a Unix socket, that it has not received. -1: the OS does
 * not tell. */
int64_t pmx__unacknowledged(pmx_sock sock);
/* The pending error, taken: 0 or an errno. */
int pmx__sock_error(pmx_sock sock);
void pmx__shutdown_write(pmx_sock sock);
void pmx__shutdown_both(pmx_sock sock);
void pmx__close_sock(pmx_sock sock);
void pmx__reset_sock(pmx_sock sock);
/* Close this process's descriptor, leave the connection to the others. */
void pmx__drop_sock(pmx_sock sock);

int pmx__local(pmx_sock sock, pmx__target *name);
/* Two connected descriptors: [0] is read, [1] is written a byte at a time. */
int pmx__wakeup_open(pmx_sock pair[2]);
void pmx__wakeup_close(const pmx_sock pair[2]);
int pmx__wakeup_send(const pmx_sock pair[2]);
void pmx__wakeup_drain(const pmx_sock pair[2]);

/* os.c: this must have been called before anything else here. */
int pmx__net_start(void);
/* Monotonic nanoseconds. */
int64_t pmx__now(void);
/* How often this process was forked off. */
uint32_t pmx__forks(void);
uint32_t pmx__usable_cpus(void);
/* Give memory that is free back to the system, where the allocator keeps it. */
void pmx__trim_memory(void);

#endif
