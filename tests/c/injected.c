/* The calls of the core, and how they fail: see injected.h. Those that wait,
 * and the clock, are in injected_wait.c, those of files in injected_files.c. */
#include "injected.h"

#include "poller.h"
#include "test.h"

#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

long test_fail_at;
long test_allocations;
long test_trims;

#ifdef _WIN32
static int fails_memory(int call)
{
    (void)call;
    test_allocations++;
    return test_fail_at && !--test_fail_at;
}
enum { CALL_malloc, CALL_calloc, CALL_realloc };
#else
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>
#include "injected_parts.h"
#include "sim_calls.h"

#define FAULT(call, error) {CALL_##call, error, #call " " #error}

/* From the manual pages of Linux, and what its sources return beside. */
const injected_fault injected_faults[] = {
    FAULT(malloc, ENOMEM), FAULT(calloc, ENOMEM), FAULT(realloc, ENOMEM),
    FAULT(accept, EINTR), FAULT(accept, EAGAIN), FAULT(accept, ECONNABORTED),
    FAULT(accept, EMFILE), FAULT(accept, ENFILE), FAULT(accept, ENOMEM),
    FAULT(accept, ENOBUFS), FAULT(accept, EPROTO), FAULT(accept, EPERM),
    FAULT(accept, ENETDOWN), FAULT(accept, EHOSTUNREACH),
    FAULT(bind, EADDRINUSE), FAULT(bind, EACCES), FAULT(bind, ENOMEM),
    FAULT(close, EINTR), FAULT(close, EIO),
    FAULT(connect, EINTR), FAULT(connect, ECONNREFUSED),
    FAULT(connect, ETIMEDOUT), FAULT(connect, ENETUNREACH),
    FAULT(connect, EADDRNOTAVAIL), FAULT(connect, EACCES),
    FAULT(connect, EAGAIN),
    FAULT(dial_unix, EAGAIN), FAULT(dial_unix, ECONNREFUSED),
    FAULT(dial_unix, EINTR), FAULT(dial_unix, ENOENT),
    FAULT(epoll_create1, EMFILE), FAULT(epoll_create1, ENFILE),
    FAULT(epoll_create1, ENOMEM),
    FAULT(epoll_add, ENOMEM), FAULT(epoll_add, ENOSPC),
    FAULT(epoll_pwait2, EINTR), FAULT(epoll_pwait2, ENOSYS),
    FAULT(epoll_pwait2, EPERM), FAULT(epoll_pwait2, SPURIOUS),
    FAULT(epoll_wait, EINTR), FAULT(epoll_wait, SPURIOUS),
    FAULT(fchmod, EPERM), FAULT(fchmodat, EPERM), FAULT(fchmodat, ENOTSUP),
    FAULT(fcntl, EINVAL), FAULT(flock, EWOULDBLOCK), FAULT(flock, ENOLCK),
    FAULT(fstat, EIO), FAULT(fstatat, ENOENT), FAULT(fstatat, EACCES),
    FAULT(getpeername, ENOTCONN), FAULT(getpeername, ENOBUFS),
    FAULT(getsockname, ENOBUFS), FAULT(getsockopt, ENOBUFS),
    FAULT(ioctl, EINVAL),
    FAULT(kevent, EINTR), FAULT(kevent, ENOMEM), FAULT(kqueue, EMFILE),
    FAULT(kqueue, ENFILE), FAULT(kqueue, ENOMEM),
    FAULT(listen, EADDRINUSE), FAULT(listen, ENOMEM),
    FAULT(mmap, ENOMEM), FAULT(mmap, EACCES),
    FAULT(openat, EMFILE), FAULT(openat, EACCES),
    FAULT(pipe, EMFILE), FAULT(pipe, ENFILE),
    FAULT(poll, EINTR), FAULT(poll, ENOMEM), FAULT(poll, SPURIOUS),
    FAULT(read, EINTR), FAULT(read, EAGAIN), FAULT(read, SHORT),
    FAULT(recv, EINTR), FAULT(recv, EAGAIN), FAULT(recv, ECONNRESET),
    FAULT(recv, ETIMEDOUT), FAULT(recv, ENOMEM), FAULT(recv, SHORT),
    FAULT(sched_getaffinity, EINVAL),
    FAULT(select, EINTR), FAULT(select, ENOMEM), FAULT(select, SPURIOUS),
    FAULT(send, EINTR), FAULT(send, EAGAIN), FAULT(send, ECONNRESET),
    FAULT(send, EPIPE), FAULT(send, ETIMEDOUT), FAULT(send, ENOBUFS),
    FAULT(send, ENOMEM), FAULT(send, SHORT),
    FAULT(setsockopt, ENOBUFS), FAULT(setsockopt, ENOMEM),
    FAULT(shutdown, ENOTCONN), FAULT(shutdown, ENOBUFS),
    FAULT(socket, EMFILE), FAULT(socket, ENFILE), FAULT(socket, ENOMEM),
    FAULT(socket, ENOBUFS), FAULT(socket, EACCES),
    FAULT(socketpair, EMFILE), FAULT(socketpair, ENFILE),
    FAULT(socketpair, ENOMEM),
    FAULT(unlinkat, EACCES), FAULT(unlinkat, EIO), FAULT(unlinkat, ENOENT),
    FAULT(write, EINTR), FAULT(write, EAGAIN),
    FAULT(writev, EINTR), FAULT(writev, EAGAIN), FAULT(writev, EPIPE),
    FAULT(writev, ENOMEM), FAULT(writev, SHORT),
};
const size_t injected_fault_count =
    sizeof injected_faults / sizeof *injected_faults;

uint64_t injected_count[CALLS];
uint64_t injected_total, injected_now;
void (*injected_before)(enum injected_call call);
uint64_t injected_inheritable, injected_not_sockets;
int injected_to_itself, injected_nameless;
static uint8_t errors[256];     /* that there were since */

static enum { NONE, NTH, RANDOM } mode;
static const injected_fault *wanted;
static long left;               /* calls until it is the one */
static size_t short_size;
static uint32_t one_in;
static uint64_t state;
static int paused;

static uint32_t draw(uint32_t of)
{
    state = state * UINT64_C(6364136223846793005) +
            UINT64_C(1442695040888963407);
    return (uint32_t)(state >> 33) % of;
}

int injected_error(int error)
{
    return errors[error];
}

static void begin(uint32_t seed)
{
    state = seed;
    injected_now = 0;
    memset(errors, 0, sizeof errors);
}

void inject_nth(const injected_fault *fault, long nth, size_t shortest)
{
    mode = NTH;
    wanted = fault;
    left = nth;
    short_size = shortest;
    begin(0);
}

void inject_at_random(uint32_t seed, uint32_t of)
{
    mode = RANDOM;
    one_in = of;
    begin(seed);
}

void inject_nothing(void)
{
    mode = NONE;
    paused = 0;
    injected_before = NULL;
    injected_to_itself = injected_nameless = 0;
}

void inject_pause(int on)
{
    paused = on;
}

static int injected(const injected_fault *fault)
{
    injected_count[fault->call]++;
    injected_total++;
    injected_now++;
    if (fault->error > 0)
        errors[fault->error] = 1;
    return fault->error;
}

static int any_fault_of(enum injected_call call)
{
    static uint16_t first[CALLS], count[CALLS];
    if (!count[CALL_malloc])
        for (size_t i = injected_fault_count; i--;) {
            first[injected_faults[i].call] = (uint16_t)i;
            count[injected_faults[i].call]++;
        }
    return injected(&injected_faults[first[call] + draw(count[call])]);
}

/* The result of a call for sockets. */
static int on_socket(int result)
{
    injected_not_sockets += result < 0 && errno == ENOTSOCK;
    return result;
}

/* What becomes of this call: 0, an errno, SHORT or SPURIOUS. */
int injected_fate(enum injected_call call)
{
    if (injected_before)
        injected_before(call);
    if (mode == NONE || paused)
        return 0;
    if (mode == RANDOM)
        return draw(one_in) ? 0 : any_fault_of(call);
    if (call != wanted->call || !left || --left)
        return 0;
    return injected(wanted);
}

int injected_fails(enum injected_call call)
{
    int error = injected_fate(call);
    if (error)
        errno = error;
    return error;
}

static int fails_memory(int call)
{
    test_allocations++;
    if (test_fail_at && !--test_fail_at)
        return 1;
    return injected_fails((enum injected_call)call);
}

int injected_bytes(enum injected_call call, int fd, size_t *size)
{
    int error = injected_fate(call);
    if (error == SHORT) {
        if (*size > 1)
            *size = mode == RANDOM ? 1 + draw((uint32_t)*size - 1) :
                    short_size < *size ? short_size : *size - 1;
        injected_again(fd);
        return 0;
    }
    if (error == EAGAIN)
        injected_again(fd);
    if (error == ECONNRESET || error == EPIPE || error == ETIMEDOUT)
        (void)shutdown(fd, SHUT_RDWR);
    errno = error;
    return error;
}

/* --- sockets ----------------------------------------------------------- */

int sys_accept(int fd, struct sockaddr *name, socklen_t *size)
{
    int error = injected_fails(CALL_accept);
    injected_inheritable++;
    if (error == EAGAIN)
        injected_again(fd);
    return error ? -1 : accept(fd, name, size);
}

#ifdef SOCK_NONBLOCK
int sys_accept4(int fd, struct sockaddr *name, socklen_t *size, int flags)
{
    int error = injected_fails(CALL_accept);
    injected_inheritable += !(flags & SOCK_CLOEXEC);
    if (error == EAGAIN)
        injected_again(fd);
    if (injected_nameless && !error) {
        *size = 0;
        return accept4(fd, NULL, NULL, flags);
    }
    return error ? -1 : accept4(fd, name, size, flags);
}
#endif

int sys_bind(int fd, const struct sockaddr *name, socklen_t size)
{
    return injected_fails(CALL_bind) ? -1 : bind(fd, name, size);
}

int sys_close(int fd)
{
    int error = injected_fate(CALL_close), is;
    injected_forget(fd);
    is = close(fd);             /* whatever is said of it */
    if (error)
        errno = error;
    return error ? -1 : is;
}

int sys_connect(int fd, const struct sockaddr *name, socklen_t size)
{
    if (name->sa_family == AF_UNSPEC)
        return on_socket(connect(fd, name, size));
    if (name->sa_family != AF_UNIX && injected_to_itself && injected_to_itself--)
        CHECK(!bind(fd, name, size));
    int error = injected_fate(name->sa_family == AF_UNIX ? CALL_dial_unix
                                                : CALL_connect);
    if (error == EINTR)         /* it goes on all the same */
        (void)connect(fd, name, size);
    if (error)
        errno = error;
    return error ? -1 : connect(fd, name, size);
}

int sys_getpeername(int fd, struct sockaddr *name, socklen_t *size)
{
    int error = injected_fails(CALL_getpeername);
    if (error == ENOTCONN)
        injected_again(fd);         /* not yet, or not any more */
    return error ? -1 : on_socket(getpeername(fd, name, size));
}

int sys_getsockname(int fd, struct sockaddr *name, socklen_t *size)
{
    return injected_fails(CALL_getsockname)
               ? -1 : on_socket(getsockname(fd, name, size));
}

int sys_getsockopt(int fd, int level, int option, void *value,
                   socklen_t *size)
{
    return injected_fails(CALL_getsockopt)
               ? -1 : on_socket(getsockopt(fd, level, option, value, size));
}

int sys_ioctl(int fd, unsigned long request, int *value)
{
    int result = injected_fails(CALL_ioctl) ? -1 : ioctl(fd, request, value);
    injected_not_sockets += result < 0 && errno == ENOTTY;
    return result;
}

int sys_listen(int fd, int backlog)
{
    return injected_fails(CALL_listen) ? -1 : listen(fd, backlog);
}

ssize_t sys_recv(int fd, void *to, size_t size, int flags)
{
    if (injected_bytes(CALL_recv, fd, &size))
        return -1;
    return on_socket((int)recv(fd, to, size, flags));
}

ssize_t sys_send(int fd, const void *from, size_t size, int flags)
{
    if (injected_bytes(CALL_send, fd, &size))
        return -1;
    return on_socket((int)send(fd, from, size, flags));
}

void injected_cut(struct iovec *to, const struct iovec *from, int count,
                  size_t size)
{
    for (int i = 0; i < count; i++) {
        to[i] = from[i];
        if (to[i].iov_len > size)
            to[i].iov_len = size;
        size -= to[i].iov_len;
    }
}

ssize_t sys_sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct msghdr cut = *message;
    struct iovec spans[PMX__SPANS];
    size_t all = 0, size;
    int count = (int)message->msg_iovlen;
    CHECK(count <= PMX__SPANS);
    for (int i = 0; i < count; i++)
        all += message->msg_iov[i].iov_len;
    size = all;
    if (injected_bytes(CALL_send, fd, &size))
        return -1;
    if (size == all)
        return sendmsg(fd, message, flags);
    injected_cut(spans, message->msg_iov, count, size);
    cut.msg_iov = spans;
    return sendmsg(fd, &cut, flags);
}

int sys_setsockopt(int fd, int level, int option, const void *value,
                   socklen_t size)
{
    return injected_fails(CALL_setsockopt)
               ? -1 : on_socket(setsockopt(fd, level, option, value, size));
}

int sys_shutdown(int fd, int how)
{
    return injected_fails(CALL_shutdown) ? -1 : on_socket(shutdown(fd, how));
}

#ifndef SOCK_CLOEXEC
enum { SOCK_CLOEXEC = 0 };
#endif

int sys_socket(int family, int type, int protocol)
{
    injected_inheritable += !(type & SOCK_CLOEXEC);
    return injected_fails(CALL_socket) ? -1 : socket(family, type, protocol);
}

int sys_socketpair(int family, int type, int protocol, int pair[2])
{
    injected_inheritable += !(type & SOCK_CLOEXEC);
    return injected_fails(CALL_socketpair)
               ? -1 : socketpair(family, type, protocol, pair);
}

#endif

/* It cannot fail, and is real where there is one. */
int sys_malloc_trim(size_t pad)
{
    test_trims++;
#ifdef __GLIBC__
    return malloc_trim(pad);
#else
    (void)pad;
    return 0;
#endif
}

void *sys_malloc(size_t size)
{
    return fails_memory(CALL_malloc) ? NULL : malloc(size);
}

void *sys_calloc(size_t count, size_t size)
{
    return fails_memory(CALL_calloc) ? NULL : calloc(count, size);
}

void *sys_realloc(void *memory, size_t size)
{
    return fails_memory(CALL_realloc) ? NULL : realloc(memory, size);
}
