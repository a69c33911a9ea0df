/*
 * The ends of pipes and FIFOs: see net.h.
 *
 * A write into a pipe that nobody reads raises SIGPIPE, which ends the process
 * where the program has not set it aside, and write() has no flag against that.
 * macOS and NetBSD can tell the descriptor (on macOS the signal is the
 * process's, so that a thread could not hold it back). Elsewhere the signal is
 * the writing thread's: the thread blocks it during the write, and takes it
 * back before it unblocks it.
 */
#ifdef __linux__
#define _GNU_SOURCE             /* pthread_sigmask, in strict C11 */
#endif
#ifdef __sun
#define _POSIX_PTHREAD_SEMANTICS        /* sigwait() as elsewhere */
#endif
#include "net.h"

#ifdef _WIN32
/* select() takes sockets alone there. */
int pmx__pipe_given(pmx_sock pipe, int writes)
{
    (void)pipe, (void)writes;
    return -ENOTSUP;
}

int pmx__pipe_take(pmx_sock pipe)
{
    (void)pipe;
    return -ENOTSUP;
}

int64_t pmx__pipe_read(pmx_sock pipe, void *to, size_t size)
{
    (void)pipe, (void)to, (void)size;
    return -ENOTSUP;
}

int64_t pmx__pipe_write(pmx_sock pipe, const pmx__span *spans, int count)
{
    (void)pipe, (void)spans, (void)count;
    return -ENOTSUP;
}

int pmx__pipe_is_broken(pmx_sock pipe)
{
    (void)pipe;
    return 0;
}
#else
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

/* A pipe that can be read and written on one descriptor is either end. */
int pmx__pipe_given(pmx_sock pipe, int writes)
{
    struct stat is;
    int flags = sys_fcntl(pipe, F_GETFL, 0);
    if (flags < 0 || sys_fstat(pipe, &is))
        return -errno;
    if (!S_ISFIFO(is.st_mode))
        return -EINVAL;
    int way = flags & O_ACCMODE;
    return way == O_RDWR || way == (writes ? O_WRONLY : O_RDONLY) ? 0 : -EBADF;
}

int pmx__pipe_take(pmx_sock pipe)
{
#ifdef F_SETNOSIGPIPE
    if (sys_fcntl(pipe, F_SETNOSIGPIPE, 1) < 0)
        return -errno;
#endif
    int flags = sys_fcntl(pipe, F_GETFL, 0);
    if (flags < 0 || sys_fcntl(pipe, F_SETFD, FD_CLOEXEC) < 0 ||
        sys_fcntl(pipe, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int64_t pmx__pipe_read(pmx_sock pipe, void *to, size_t size)
{
    ssize_t n;
    do
        n = sys_read(pipe, to, size);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static int64_t write_spans(pmx_sock pipe, const pmx__span *spans, int count)
{
    ssize_t n;
    do
        n = sys_writev(pipe, spans, count);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

#ifdef F_SETNOSIGPIPE
static int64_t write_quietly(pmx_sock pipe, const pmx__span *spans, int count)
{
    return write_spans(pipe, spans, count);
}
#else
static int is_pending(void)
{
    sigset_t pending;
    return !sigpending(&pending) && sigismember(&pending, SIGPIPE) == 1;
}

/* A signal that waited before is the program's. */
static int64_t write_quietly(pmx_sock pipe, const pmx__span *spans, int count)
{
    sigset_t alone, before;
    sigemptyset(&alone);
    sigaddset(&alone, SIGPIPE);
    int error = pthread_sigmask(SIG_BLOCK, &alone, &before);
    if (error)
        return -error;
    int had = sigismember(&before, SIGPIPE) == 1 && is_pending();
    int64_t n = write_spans(pipe, spans, count);
    if (n == -EPIPE && !had && is_pending()) {
        int taken;
        (void)sigwait(&alone, &taken);
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n;
}
#endif

/* macOS refuses more than INT_MAX bytes at once. */
int64_t pmx__pipe_write(pmx_sock pipe, const pmx__span *spans, int count)
{
    enum { MOST = 1 << 30 };
    pmx__span cut[PMX__SPANS];
    size_t room = MOST;
    int n = 0;
    while (n < count && room) {
        cut[n] = spans[n];
        if (cut[n].iov_len > room)
            cut[n].iov_len = room;
        room -= cut[n++].iov_len;
    }
    return write_quietly(pipe, cut, n);
}

int pmx__pipe_is_broken(pmx_sock pipe)
{
    struct pollfd look = {.fd = pipe, .events = POLLOUT};
    int n;
    do
        n = sys_poll(&look, 1, 0);
    while (n < 0 && errno == EINTR);
    return n > 0 && look.revents & (POLLERR | POLLHUP | POLLNVAL);
}
#endif
