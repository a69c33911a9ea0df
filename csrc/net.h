/* Stream sockets. The code that differs from OS to OS is behind these calls.
 * Each returns >= 0 or -errno, and retries EINTR where that is sound. Layer
 * 1. */
#ifndef PMX_NET_H
#define PMX_NET_H

#include "net_addr.h"

/* HANDS_ON: accepted sockets inherit the options of their listener.
 * EPIPE_TELLS: a send to a peer that is lost fails with EPIPE if the peer had
 * ended its stream before, and with another errno if it had not, as in Linux'
 * tcp_reset(). */
#ifdef __linux__
enum { PMX__HANDS_ON = 1, PMX__EPIPE_TELLS = 1 };
#else
enum { PMX__HANDS_ON = 0, PMX__EPIPE_TELLS = 0 };
#endif

/* The OS can make descriptors ready to use, as pmx__prepare() does: one call
 * instead of four, and a program that another thread starts never inherits
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

/* The error of the last call that failed, as -errno. */
int pmx__net_error(void);
/* An option that the OS may lack or refuse. */
void pmx__set_option(pmx_sock sock, int level, int option, int value);
/* A stream socket for such an address, prepared, without delays. */
int pmx__open_sock(const pmx__target *target, pmx_sock *sock);
/* Make the socket non-blocking, not inherited by other programs, and free of
 * SIGPIPE. */
int pmx__prepare(pmx_sock sock);
/* Listen. The file is for pmx__file_close(); there is none if this fails. */
int pmx__listen(const pmx__target *target, int backlog, int reuse_port,
                uint32_t mode, pmx_sock *sock, pmx__file *file);
/* The name of a listening socket of the caller's. -EBADF or -ENOTSOCK; -EINVAL:
 * it is no stream socket, or does not listen. */
int pmx__listen_given(pmx_sock sock, pmx__target *name);
/* The same for a connected stream socket, with the name of its peer; -ENOTCONN:
 * it is not connected. */
int pmx__stream_given(pmx_sock sock, pmx__target *peer);
/* Make such a socket ready to use: pmx__prepare(), and no delays. */
int pmx__take_given(pmx_sock sock, const pmx__target *name);
/* The socket of an accepted connection, and its peer; -EAGAIN when no peer
 * waits. */
int pmx__accept(pmx_sock listener, pmx_sock *sock, pmx__target *peer);
/* Set TCP's keepalive as the policy says. Where PMX__HANDS_ON, those that a
 * listener accepts inherit it. */
void pmx__keep_alive(pmx_sock sock, const pmx_policy *policy);
/* The same with the other options of the policy. */
void pmx__set_options(pmx_sock sock, const pmx_policy *policy);
/* Acknowledge now what has been received, where the OS would wait for an answer
 * to go with it. Nothing where it offers no such option. */
void pmx__acknowledge(pmx_sock sock);
/* Begin to connect, from `source` unless its size is 0. 0: done; -EINPROGRESS: on its way; -EAGAIN: not now, as a
 * Unix backlog is full or the system is short of something. */
int pmx__dial(const pmx__target *source, const pmx__target *target,
              pmx_sock *sock);
/* 0 when a dialled socket is connected, else its error. A connection to itself
 * is -ECONNREFUSED. */
int pmx__dialled(pmx_sock sock);

/* net_pipe.c: a descriptor of the caller's that is a pipe's read or write end.
 * -EBADF: it is the other end, or closed; -EINVAL: no pipe; -ENOTSUP: the OS
 * has no pipes that a poller can watch. */
int pmx__pipe_given(pmx_sock pipe, int writes);
/* Make it ready to use, as pmx__prepare() does a socket. */
int pmx__pipe_take(pmx_sock pipe);
/* As pmx__recv() and pmx__send_spans(); no SIGPIPE is left. */
int64_t pmx__pipe_read(pmx_sock pipe, void *to, size_t size);
int64_t pmx__pipe_write(pmx_sock pipe, const pmx__span *spans, int count);
/* True if nobody can read what is written into this write end. */
int pmx__pipe_is_broken(pmx_sock pipe);

/* Bytes, 0 at the end of the stream (recv), or -errno. A send that fails with
 * -ENOBUFS may be tried again: the system has no memory for it just now (every
 * busy send on macOS and NetBSD, https://github.com/libuv/libuv/issues/1573;
 * Unix sockets on Linux). The socket has room, so no event follows. */
int64_t pmx__recv(pmx_sock sock, void *to, size_t size);
int64_t pmx__send(pmx_sock sock, const void *from, size_t size);
int64_t pmx__send_spans(pmx_sock sock, pmx__span *spans, int count);
/* Bytes that wait to be received; SIZE_MAX: the OS does not tell. */
size_t pmx__arrived(pmx_sock sock);
/* Bytes sent that the peer has not acknowledged (Linux counts the end of the
 * stream as one), or, on a Unix socket, has not received. -1: the OS does not
 * tell. */
int64_t pmx__unacknowledged(pmx_sock sock);
/* The pid (-1: the OS does not tell), uid and gid of the process at the other
 * end of a connected Unix socket; -ENOTSUP: the OS does not tell. */
int pmx__credentials(pmx_sock sock, int64_t of[3]);
/* The pending error of the socket, which is taken: 0 or an errno. */
int pmx__sock_error(pmx_sock sock);
void pmx__shutdown_write(pmx_sock sock);
void pmx__shutdown_both(pmx_sock sock);
void pmx__close_sock(pmx_sock sock);
void pmx__reset_sock(pmx_sock sock);
/* Close this process's descriptor; the connection goes on in others. */
void pmx__drop_sock(pmx_sock sock);

int pmx__local(pmx_sock sock, pmx__target *name);
/* Two connected descriptors: [0] is read, [1] is written a byte at a time. */
int pmx__wakeup_open(pmx_sock pair[2]);
void pmx__wakeup_close(const pmx_sock pair[2]);
int pmx__wakeup_send(const pmx_sock pair[2]);
void pmx__wakeup_drain(const pmx_sock pair[2]);
/* Wait for a byte alone, for so many nanoseconds: 1 if one has come, 0, or
 * -errno; -ENOSYS where no wait of the system's is precise enough. */
int pmx__wakeup_wait(const pmx_sock pair[2], int64_t ns);

/* os.c. This call comes before all others. */
int pmx__net_start(void);
/* Monotonic nanoseconds. */
int64_t pmx__now(void);
/* The number of forks between the first process and this one. */
uint32_t pmx__forks(void);
/* Share the first `size` bytes of a file: 0 or -errno. -EINVAL: it has fewer. */
int pmx__map(int64_t file, size_t size, void **place);
void pmx__unmap(void *place, size_t size);
uint32_t pmx__usable_cpus(void);
/* Give memory that is free back to the system, where the allocator keeps it. */
void pmx__trim_memory(void);

#endif
