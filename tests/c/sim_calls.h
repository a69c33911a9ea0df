/* From here on the system's calls are those of the system in memory, while
 * that is on: for injected*.c, behind everything that it includes. */
#include "sim.h"

#ifdef __linux__
#define EITHER(call, ...) \
    (sim_on ? sim_##call(__VA_ARGS__) : call(__VA_ARGS__))
#define accept(...) EITHER(accept, __VA_ARGS__)
#define accept4(...) EITHER(accept4, __VA_ARGS__)
#define bind(...) EITHER(bind, __VA_ARGS__)
#define clock_gettime(...) EITHER(clock_gettime, __VA_ARGS__)
#define close(...) EITHER(close, __VA_ARGS__)
#define connect(...) EITHER(connect, __VA_ARGS__)
#define epoll_create1(...) EITHER(epoll_create1, __VA_ARGS__)
#define epoll_ctl(...) EITHER(epoll_ctl, __VA_ARGS__)
#define epoll_wait(...) EITHER(epoll_wait, __VA_ARGS__)
#define fchmod(...) EITHER(fchmod, __VA_ARGS__)
#define fchmodat(...) EITHER(fchmodat, __VA_ARGS__)
#define fcntl(...) EITHER(fcntl, __VA_ARGS__)
#define flock(...) EITHER(flock, __VA_ARGS__)
#define fstat(...) EITHER(fstat, __VA_ARGS__)
#define fstatat(...) EITHER(fstatat, __VA_ARGS__)
#define getpeername(...) EITHER(getpeername, __VA_ARGS__)
#define getsockname(...) EITHER(getsockname, __VA_ARGS__)
#define getsockopt(...) EITHER(getsockopt, __VA_ARGS__)
#ifdef __GLIBC__
#define ioctl(...) EITHER(ioctl, __VA_ARGS__)
#else                           /* the request is an int there */
#define ioctl(fd, request, value) \
    (sim_on ? sim_ioctl(fd, request, value) : ioctl(fd, (int)(request), value))
#endif
#define listen(...) EITHER(listen, __VA_ARGS__)
#define openat(...) EITHER(openat, __VA_ARGS__)
#define pipe(...) EITHER(pipe, __VA_ARGS__)
#define pipe2(...) EITHER(pipe2, __VA_ARGS__)
#define poll(...) EITHER(poll, __VA_ARGS__)
#define ppoll(...) EITHER(ppoll, __VA_ARGS__)
#define read(...) EITHER(read, __VA_ARGS__)
#define recv(...) EITHER(recv, __VA_ARGS__)
#define sched_getaffinity(...) EITHER(sched_getaffinity, __VA_ARGS__)
#define select(...) EITHER(select, __VA_ARGS__)
#define send(...) EITHER(send, __VA_ARGS__)
#define sendmsg(...) EITHER(sendmsg, __VA_ARGS__)
#define setsockopt(...) EITHER(setsockopt, __VA_ARGS__)
#define shutdown(...) EITHER(shutdown, __VA_ARGS__)
#define socket(...) EITHER(socket, __VA_ARGS__)
#define socketpair(...) EITHER(socketpair, __VA_ARGS__)
#define unlinkat(...) EITHER(unlinkat, __VA_ARGS__)
#define write(...) EITHER(write, __VA_ARGS__)
#define writev(...) EITHER(writev, __VA_ARGS__)
#define syscall(number, epoll, events, room, span, ...) \
    (sim_on ? sim_epoll_pwait2(epoll, events, room, span) \
            : syscall(number, epoll, events, room, span, __VA_ARGS__))
#endif
