/* The calls of the core, and how they fail: see injected.h. */
#include "injected.h"

#include "poller.h"
#include "test.h"

#include <stdlib.h>

long test_fail_at;
long test_allocations;

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
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
#endif
#ifdef PMX_HAVE_KQUEUE
#include <sys/event.h>
#include <sys/time.h>
#endif
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
    FAULT(chmod, EPERM), FAULT(chmod, EIO), FAULT(close, EINTR),
    FAULT(close, EIO),
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
    FAULT(fcntl, EINVAL),
    FAULT(getpeername, ENOTCONN), FAULT(getpeername, ENOBUFS),
    FAULT(getsockname, ENOBUFS), FAULT(getsockopt, ENOBUFS),
    FAULT(ioctl, EINVAL),
    FAULT(kevent, EINTR), FAULT(kevent, ENOMEM), FAULT(kqueue, EMFILE),
    FAULT(kqueue, ENFILE), FAULT(kqueue, ENOMEM),
    FAULT(listen, EADDRINUSE), FAULT(listen, ENOMEM),
    FAULT(lstat, ENOENT), FAULT(lstat, EACCES),
    FAULT(pipe, EMFILE), FAULT(pipe, ENFILE),
    FAULT(poll, EINTR), FAULT(poll, ENOMEM), FAULT(poll, SPURIOUS),
    FAULT(read, EINTR), FAULT(read, EAGAIN),
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
    FAULT(unlink, EACCES), FAULT(unlink, EIO), FAULT(unlink, ENOENT),
    FAULT(write, EINTR), FAULT(write, EAGAIN),
};
const size_t injected_fault_count =
    sizeof injected_faults / sizeof *injected_faults;

enum { FDS = 4096, NEVER = 0 };

uint64_t injected_count[CALLS];
uint64_t injected_total, injected_now;
static uint8_t errors[256];     /* that there were since */
int injected_stuck;

static enum { NONE, NTH, RANDOM } mode;
static const injected_fault *wanted;
static long left;               /* calls until it is the one */
static size_t short_size;
static uint32_t one_in;
static uint64_t state;
static int paused;

static int hasty;
static int64_t ahead;           /* of the system's clock */

/* Descriptors that were told that there is nothing (more), while there may
 * be: the next wait tells of them anew, as if something had come since. */
static uint8_t again[FDS];
static int again_any;
#ifdef __linux__
static struct { int epoll; struct epoll_event is; } listed[FDS];
#endif

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
}

void inject_pause(int on)
{
    paused = on;
}

void inject_haste(int on)
{
    hasty = on;
    ahead = on ? ahead : 0;
    injected_stuck = 0;
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

/* What becomes of this call: 0, an errno, SHORT or SPURIOUS. */
static int fate(enum injected_call call)
{
    if (mode == NONE || paused)
        return 0;
    if (mode == RANDOM)
        return draw(one_in) ? 0 : any_fault_of(call);
    if (call != wanted->call || !left || --left)
        return 0;
    return injected(wanted);
}

static int fails(enum injected_call call)
{
    int error = fate(call);
    if (error)
        errno = error;
    return error;
}

static int fails_memory(int call)
{
    test_allocations++;
    if (test_fail_at && !--test_fail_at)
        return 1;
    return fails((enum injected_call)call);
}

static void tell_again(int fd)
{
    again[fd] = 1;
    again_any = 1;
}

/* The fate of a call that moves bytes. After a reset nothing more comes, and
 * what is sent fails, as with a real one. */
static int fate_of_bytes(enum injected_call call, int fd, size_t *size)
{
    int error = fate(call);
    if (error == SHORT) {
        if (*size > 1)
            *size = mode == RANDOM ? 1 + draw((uint32_t)*size - 1) :
                    short_size < *size ? short_size : *size - 1;
        tell_again(fd);
        return 0;
    }
    if (error == EAGAIN)
        tell_again(fd);
    if (error == ECONNRESET || error == EPIPE || error == ETIMEDOUT)
        (void)shutdown(fd, SHUT_RDWR);
    errno = error;
    return error;
}

/* --- sockets ----------------------------------------------------------- */

int sys_accept(int fd, struct sockaddr *name, socklen_t *size)
{
    int error = fails(CALL_accept);
    if (error == EAGAIN)
        tell_again(fd);
    return error ? -1 : accept(fd, name, size);
}

#ifdef SOCK_NONBLOCK
int sys_accept4(int fd, struct sockaddr *name, socklen_t *size, int flags)
{
    int error = fails(CALL_accept);
    if (error == EAGAIN)
        tell_again(fd);
    return error ? -1 : accept4(fd, name, size, flags);
}
#endif

int sys_bind(int fd, const struct sockaddr *name, socklen_t size)
{
    return fails(CALL_bind) ? -1 : bind(fd, name, size);
}

int sys_close(int fd)
{
    int error = fate(CALL_close), is;
    if (fd < FDS) {
        again[fd] = 0;
#ifdef __linux__
        listed[fd].epoll = 0;
#endif
    }
    is = close(fd);             /* whatever is said of it */
    if (error)
        errno = error;
    return error ? -1 : is;
}

int sys_connect(int fd, const struct sockaddr *name, socklen_t size)
{
    if (name->sa_family == AF_UNSPEC)
        return connect(fd, name, size);
    int error = fate(name->sa_family == AF_UNIX ? CALL_dial_unix
                                                : CALL_connect);
    if (error == EINTR)         /* it goes on all the same */
        (void)connect(fd, name, size);
    if (error)
        errno = error;
    return error ? -1 : connect(fd, name, size);
}

int sys_getpeername(int fd, struct sockaddr *name, socklen_t *size)
{
    int error = fails(CALL_getpeername);
    if (error == ENOTCONN)
        tell_again(fd);         /* not yet, or not any more */
    return error ? -1 : getpeername(fd, name, size);
}

int sys_getsockname(int fd, struct sockaddr *name, socklen_t *size)
{
    return fails(CALL_getsockname) ? -1 : getsockname(fd, name, size);
}

int sys_getsockopt(int fd, int level, int option, void *value,
                   socklen_t *size)
{
    return fails(CALL_getsockopt) ? -1
                                  : getsockopt(fd, level, option, value, size);
}

int sys_ioctl(int fd, unsigned long request, int *value)
{
    return fails(CALL_ioctl) ? -1 : ioctl(fd, request, value);
}

int sys_listen(int fd, int backlog)
{
    return fails(CALL_listen) ? -1 : listen(fd, backlog);
}

ssize_t sys_recv(int fd, void *to, size_t size, int flags)
{
    if (fate_of_bytes(CALL_recv, fd, &size))
        return -1;
    return recv(fd, to, size, flags);
}

ssize_t sys_send(int fd, const void *from, size_t size, int flags)
{
    if (fate_of_bytes(CALL_send, fd, &size))
        return -1;
    return send(fd, from, size, flags);
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
    if (fate_of_bytes(CALL_send, fd, &size))
        return -1;
    if (size == all)
        return sendmsg(fd, message, flags);
    memcpy(spans, message->msg_iov, (size_t)count * sizeof *spans);
    cut.msg_iov = spans;
    for (int i = 0; i < count; i++) {
        if (spans[i].iov_len > size)
            spans[i].iov_len = size;
        size -= spans[i].iov_len;
    }
    return sendmsg(fd, &cut, flags);
}

int sys_setsockopt(int fd, int level, int option, const void *value,
                   socklen_t size)
{
    return fails(CALL_setsockopt) ? -1
                                  : setsockopt(fd, level, option, value, size);
}

int sys_shutdown(int fd, int how)
{
    return fails(CALL_shutdown) ? -1 : shutdown(fd, how);
}

int sys_socket(int family, int type, int protocol)
{
    return fails(CALL_socket) ? -1 : socket(family, type, protocol);
}

int sys_socketpair(int family, int type, int protocol, int pair[2])
{
    return fails(CALL_socketpair) ? -1
                                  : socketpair(family, type, protocol, pair);
}

/* --- files and bytes --------------------------------------------------- */

int sys_chmod(const char *path, mode_t mode_)
{
    return fails(CALL_chmod) ? -1 : chmod(path, mode_);
}

int sys_fchmod(int fd, mode_t mode_)
{
    return fails(CALL_fchmod) ? -1 : fchmod(fd, mode_);
}

int sys_fchmodat(int directory, const char *path, mode_t mode_, int flags)
{
    return fails(CALL_fchmodat) ? -1 : fchmodat(directory, path, mode_, flags);
}

int sys_fcntl(int fd, int command, int argument)
{
    return fails(CALL_fcntl) ? -1 : fcntl(fd, command, argument);
}

int sys_lstat(const char *path, struct stat *info)
{
    return fails(CALL_lstat) ? -1 : lstat(path, info);
}

int sys_pipe(int pair[2])
{
    return fails(CALL_pipe) ? -1 : pipe(pair);
}

ssize_t sys_read(int fd, void *to, size_t size)
{
    int error = fails(CALL_read);
    if (error)
        tell_again(fd);
    return error ? -1 : read(fd, to, size);
}

int sys_unlink(const char *path)
{
    return fails(CALL_unlink) ? -1 : unlink(path);
}

/* EAGAIN is of a pair that is full, which is readable: so it is made so. */
ssize_t sys_write(int fd, const void *from, size_t size)
{
    int error = fails(CALL_write);
    if (error == EAGAIN)
        (void)!write(fd, from, size);
    errno = error ? error : errno;
    return error ? -1 : write(fd, from, size);
}

int sys_sched_getaffinity(int process, size_t size, void *set)
{
#ifdef __linux__
    return fails(CALL_sched_getaffinity) ? -1
                                         : sched_getaffinity(process, size,
                                                             set);
#else
    (void)process, (void)size, (void)set;
    return -1;
#endif
}

/* --- time and waits ---------------------------------------------------- */

int sys_clock_gettime(int clock, struct timespec *now)
{
    int result = clock_gettime((clockid_t)clock, now);
    int64_t ns = (int64_t)now->tv_nsec + ahead;
    now->tv_sec += (time_t)(ns / 1000000000);
    now->tv_nsec = (long)(ns % 1000000000);
    return result;
}

/* What a peer has just sent may still be on its way: the kernel delivers some
 * of it in a thread of its own. */
enum { MOMENT = 100000 };       /* ns */
static int breathe(void)
{
    const struct timespec span = {0, MOMENT};
    return !nanosleep(&span, NULL);
}

/* Nothing has happened in a wait for so long (-1: for ever). */
static void pass(int64_t ns)
{
    if (ns < 0)
        injected_stuck = 1;
    else
        ahead += ns;
}

#ifdef __linux__
int sys_epoll_create1(int flags)
{
    return fails(CALL_epoll_create1) ? -1 : epoll_create1(flags);
}

int sys_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
    if (what == EPOLL_CTL_ADD && fails(CALL_epoll_add))
        return -1;
    int result = epoll_ctl(epoll, what, fd, event);
    if (!result && fd < FDS) {
        listed[fd].epoll = what == EPOLL_CTL_DEL ? 0 : epoll;
        listed[fd].is = *event;
    }
    return result;
}

/* An edge for who was sent away though there was something. */
static void make_edges(int epoll)
{
    for (int fd = 0; again_any && fd < FDS; fd++)
        if (again[fd] && listed[fd].epoll == epoll) {
            (void)epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &listed[fd].is);
            again[fd] = 0;
        }
    again_any = 0;
}

/* All that are watched are said to be ready, one event each. */
static int all_ready(int epoll, struct epoll_event *events, int n, int room)
{
    for (int fd = 0; fd < FDS; fd++) {
        int k = 0;
        if (listed[fd].epoll != epoll)
            continue;
        uint32_t what = listed[fd].is.events & (EPOLLIN | EPOLLOUT);
        while (k < n && events[k].data.u64 != listed[fd].is.data.u64)
            k++;
        if (k == n && n < room)
            events[n++] = (struct epoll_event){0, listed[fd].is.data};
        if (k < n)
            events[k].events |= what;
    }
    return n;
}

static int epoll_for(enum injected_call call, int epoll,
                     struct epoll_event *events, int room, int64_t ns)
{
    int error = fate(call);
    make_edges(epoll);
    if (error == SPURIOUS) {
        int n = epoll_wait(epoll, events, room, 0);
        return n < 0 ? n : all_ready(epoll, events, n, room);
    }
    if (error) {
        errno = error;
        return -1;
    }
    if (hasty && ns) {
        int n = epoll_wait(epoll, events, room, 0);
        if (!n && breathe())
            n = epoll_wait(epoll, events, room, 0);
        if (!n)
            pass(ns);
        return n;
    }
    if (call == CALL_epoll_wait)
        return epoll_wait(epoll, events, room, ns < 0 ? -1 : 0);
    const int64_t span[2] = {ns / 1000000000, ns % 1000000000};
    return (int)syscall(SYS_epoll_pwait2, epoll, events, room, span, NULL,
                        (size_t)0);
}

int sys_epoll_pwait2(int epoll, struct epoll_event *events, int room,
                     const int64_t *span)
{
    return epoll_for(CALL_epoll_pwait2, epoll, events, room,
                     span[0] * 1000000000 + span[1]);
}

int sys_epoll_wait(int epoll, struct epoll_event *events, int room, int ms)
{
    return epoll_for(CALL_epoll_wait, epoll, events, room, ms);
}
#endif

/* As poll; ns < 0 is for ever. */
static int poll_for(struct pollfd *fds, unsigned long count, int64_t ns)
{
    int error = fate(CALL_poll);
    if (error == SPURIOUS) {
        int n = 0;
        (void)poll(fds, (nfds_t)count, 0);
        for (unsigned long i = 0; i < count; i++) {
            if (fds[i].fd >= 0)
                fds[i].revents |= fds[i].events;
            n += !!fds[i].revents;
        }
        return n;
    }
    if (error) {
        errno = error;
        return -1;
    }
    if (hasty && ns) {
        int n = poll(fds, (nfds_t)count, 0);
        if (!n && breathe())
            n = poll(fds, (nfds_t)count, 0);
        if (!n)
            pass(ns);
        return n;
    }
#ifdef __linux__
    const struct timespec span = {(time_t)(ns / 1000000000),
                                  (long)(ns % 1000000000)};
    return ppoll(fds, (nfds_t)count, ns < 0 ? NULL : &span, NULL);
#else
    return poll(fds, (nfds_t)count, ns < 0 ? -1 : (int)(ns / 1000000));
#endif
}

int sys_poll(struct pollfd *fds, unsigned long count, int ms)
{
    return poll_for(fds, count, ms < 0 ? -1 : (int64_t)ms * 1000000);
}

int sys_ppoll(struct pollfd *fds, unsigned long count,
              const struct timespec *span, const void *mask)
{
    CHECK(!mask);
    return poll_for(fds, count,
                    span ? (int64_t)span->tv_sec * 1000000000 + span->tv_nsec
                         : -1);
}

int sys_select(int count, fd_set *in, fd_set *out, fd_set *failed,
               struct timeval *span)
{
    int error = fate(CALL_select);
    if (error == SPURIOUS) {
        int n = 0;
        for (int fd = 0; fd < count; fd++)
            n += !!FD_ISSET(fd, in) + !!FD_ISSET(fd, out);
        return n;
    }
    if (error) {
        errno = error;
        return -1;
    }
    int64_t ns = span ? (int64_t)span->tv_sec * 1000000000 +
                            span->tv_usec * 1000 : -1;
    struct timeval moment = {0, ns ? MOMENT / 1000 : 0};
    int n = select(count, in, out, failed, hasty ? &moment : span);
    if (hasty && !n && ns)
        pass(ns);
    return n;
}

#ifdef PMX_HAVE_KQUEUE
int sys_kqueue(void)
{
    return fails(CALL_kqueue) ? -1 : kqueue();
}

int injected_kevent(int fd, const struct kevent *changes, int count,
                    struct kevent *events, int room,
                    const struct timespec *span)
{
    if (fails(CALL_kevent))
        return -1;
#ifdef __NetBSD__
    return kevent(fd, changes, (size_t)count, events, (size_t)room, span);
#else
    return kevent(fd, changes, count, events, room, span);
#endif
}
#endif
#endif

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
