/*
 * The seam: every call of the core that the system can refuse, under its own
 * name with sys_ in front. In a normal build it is the call itself. With
 * PMX_INJECTED it is the tests' (tests/c/injected.h), which can fail, fall
 * short, or be another system altogether.
 */
#ifndef PMX_SYS_H
#define PMX_SYS_H

#if defined(PMX_INJECTED)
#include "injected.h"
#else
#define sys_malloc malloc
#define sys_calloc calloc
#define sys_realloc realloc
#endif

#if defined(PMX_INJECTED) && !defined(_WIN32)
/* as injected.h has them */
#elif defined(_WIN32)
#define sys_accept accept
#define sys_bind bind
#define sys_close closesocket
#define sys_connect connect
#define sys_getpeername getpeername
#define sys_getsockname getsockname
#define sys_getsockopt getsockopt
#define sys_ioctl ioctlsocket
#define sys_listen listen
#define sys_recv recv
#define sys_select select
#define sys_send send
#define sys_sendmsg WSASend
#define sys_setsockopt setsockopt
#define sys_shutdown shutdown
#define sys_socket WSASocketW
#else
#define sys_accept accept
#define sys_accept4 accept4
#define sys_bind bind
#define sys_clock_gettime clock_gettime
#define sys_close close
#define sys_connect connect
#define sys_epoll_create1 epoll_create1
#define sys_epoll_ctl epoll_ctl
#define sys_epoll_pwait2(fd, events, room, span) \
    syscall(SYS_epoll_pwait2, fd, events, room, span, NULL, (size_t)0)
#define sys_epoll_wait epoll_wait
#define sys_fchmod fchmod
#define sys_fchmodat fchmodat
#define sys_fcntl fcntl
#define sys_flock flock
#define sys_fstat fstat         /* of a socket, a pipe or a directory */
#define sys_fstatat fstatat
#define sys_fstat_file fstat
#define sys_getpeername getpeername
#define sys_getsockname getsockname
#define sys_getsockopt getsockopt
#define sys_ioctl ioctl
#define sys_kevent kevent
#define sys_kqueue kqueue
#define sys_kqueue1 kqueue1
#define sys_listen listen
#define sys_malloc_trim malloc_trim
#define sys_mmap mmap
#define sys_munmap munmap
#define sys_openat openat
#define sys_pipe pipe
#define sys_pipe2 pipe2
#define sys_poll poll
#define sys_ppoll ppoll
#define sys_read read
#define sys_recv recv
#define sys_sched_getaffinity sched_getaffinity
#define sys_select select
#define sys_send send
#define sys_sendmsg sendmsg
#define sys_setsockopt setsockopt
#define sys_shutdown shutdown
#define sys_socket socket
#define sys_socketpair socketpair
#define sys_unlinkat unlinkat
#define sys_write write
#define sys_writev writev
#endif

#endif
