/* The calls of the core for files and pipes, and how they fail: see injected.h. */
#include "injected.h"

#ifndef _WIN32
#include "poller.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/file.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif
#include "injected_parts.h"
#include "sim_calls.h"

int sys_fchmod(int fd, mode_t mode_)
{
    return injected_fails(CALL_fchmod) ? -1 : fchmod(fd, mode_);
}

int sys_fchmodat(int directory, const char *path, mode_t mode_, int flags)
{
    return injected_fails(CALL_fchmodat)
               ? -1 : fchmodat(directory, path, mode_, flags);
}

int sys_fcntl(int fd, int command, int argument)
{
    return injected_fails(CALL_fcntl) ? -1 : fcntl(fd, command, argument);
}

int sys_flock(int fd, int what)
{
    return injected_fails(CALL_flock) ? -1 : flock(fd, what);
}

int sys_fstat(int fd, struct stat *info)
{
    return injected_fails(CALL_fstat) ? -1 : fstat(fd, info);
}

int sys_fstatat(int directory, const char *path, struct stat *info, int flags)
{
    return injected_fails(CALL_fstatat)
               ? -1 : fstatat(directory, path, info, flags);
}

int sys_openat(int directory, const char *path, int flags)
{
    injected_inheritable += !(flags & O_CLOEXEC);
    return injected_fails(CALL_openat) ? -1 : openat(directory, path, flags);
}

int sys_pipe(int pair[2])
{
    injected_inheritable++;
    return injected_fails(CALL_pipe) ? -1 : pipe(pair);
}

#ifdef SOCK_NONBLOCK
int sys_pipe2(int pair[2], int flags)
{
    injected_inheritable += !(flags & O_CLOEXEC);
    return injected_fails(CALL_pipe) ? -1 : pipe2(pair, flags);
}
#endif

ssize_t sys_read(int fd, void *to, size_t size)
{
    if (injected_bytes(CALL_read, fd, &size))
        return -1;
    return read(fd, to, size);
}

int sys_unlinkat(int directory, const char *path, int flags)
{
    return injected_fails(CALL_unlinkat)
               ? -1 : unlinkat(directory, path, flags);
}

/* EAGAIN is of a pair that is full, which is readable: so it is made so. */
ssize_t sys_write(int fd, const void *from, size_t size)
{
    int error = injected_fails(CALL_write);
    if (error == EAGAIN)
        (void)!write(fd, from, size);
    errno = error ? error : errno;
    return error ? -1 : write(fd, from, size);
}

ssize_t sys_writev(int fd, const struct iovec *spans, int count)
{
    struct iovec cut[PMX__SPANS];
    size_t size = 0;
    CHECK(count <= PMX__SPANS);
    for (int i = 0; i < count; i++)
        size += spans[i].iov_len;
    if (injected_bytes(CALL_writev, fd, &size))
        return -1;
    injected_cut(cut, spans, count, size);
    return writev(fd, cut, count);
}

/* These are real, also beside the system in memory, which has no files but
 * sockets. */
int sys_fstat_file(int fd, struct stat *info)
{
    return injected_fails(CALL_fstat) ? -1 : (fstat)(fd, info);
}

void *sys_mmap(void *at, size_t size, int may, int flags, int fd, off_t offset)
{
    return injected_fails(CALL_mmap) ? MAP_FAILED
                                     : mmap(at, size, may, flags, fd, offset);
}

int sys_munmap(void *at, size_t size)
{
    return munmap(at, size);
}

int sys_sched_getaffinity(int process, size_t size, void *set)
{
#ifdef __linux__
    return injected_fails(CALL_sched_getaffinity)
               ? -1 : sched_getaffinity(process, size, set);
#else
    (void)process, (void)size, (void)set;
    return -1;
#endif
}
#else
typedef int injected_no_files;  /* a file must not be empty */
#endif
