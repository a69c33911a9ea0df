/*
 * A system in memory: sockets, files of Unix sockets, waits and a clock, as
 * Linux has them, without a system call and the same every time. While sim_on,
 * the calls of the core come here, behind the faults of injected.c.
 *
 * Time passes in waits alone (and a little with each look at the clock). A
 * wait that finds nothing asks sim_idle() whether anybody does something; if
 * not, the clock is put forward to what happens next. A wait for ever for
 * nothing fails with EDEADLK.
 *
 * Not simulated: routes, names, datagrams, descriptors that are shared. All
 * directories are one.
 */
#ifndef SIM_H
#define SIM_H

#ifdef __linux__
#include "injected.h"

#include <poll.h>
#include <sys/epoll.h>

/* What sockets and links are like that are made from now on, and how calls
 * to connect end. */
enum sim_dial {
    SIM_SOON,                   /* in progress, then done at once, as Linux */
    SIM_AT_ONCE,
    SIM_LATER,                  /* after `delay` */
    SIM_LOST                    /* nobody answers: ETIMEDOUT, by and by */
};
typedef struct {
    size_t room_in, room_out;   /* of a socket's buffers, in bytes */
    int64_t delay;              /* of what is sent, in nanoseconds */
    enum sim_dial dial;
    int descriptors;            /* so many may be open */
    int untold;                 /* what is unacknowledged, as on Windows */
} sim_rules;
enum { SIM_FDS = 256 };         /* of the core; the peers' stand behind them */

extern int sim_on;
extern int sim_as_peer;         /* descriptors made now are the peers' */
extern sim_rules sim_now;
extern int (*sim_idle)(void);   /* 1: something was done */

void sim_begin(void);
void sim_end(void);
int64_t sim_clock(void);        /* nanoseconds, without letting any pass */
int sim_pass(void);             /* to what happens next: 0, nothing does */
int sim_open(void);             /* descriptors of the core that are open */
void sim_break(int fd, int error);      /* the link fails, both ends hear it */
int sim_port(int fd);           /* of a TCP socket */
/* A pipe whose write end (or else its read end) is a peer's. */
int sim_pipe_to_peer(int pair[2], int writes);
/* Whether the other end has not yet taken a descriptor that was passed to it:
 * there is one at a time. */
int sim_passes(int fd);
/* What both ends of a connection have the same of, and nobody else; 0. */
uint64_t sim_link(int fd);

int sim_accept(int fd, struct sockaddr *name, socklen_t *size);
int sim_accept4(int fd, struct sockaddr *name, socklen_t *size, int flags);
int sim_bind(int fd, const struct sockaddr *name, socklen_t size);
int sim_clock_gettime(int clock, struct timespec *time);
int sim_close(int fd);
int sim_connect(int fd, const struct sockaddr *name, socklen_t size);
int sim_epoll_create1(int flags);
int sim_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event);
int sim_epoll_wait(int epoll, struct epoll_event *events, int room, int ms);
int sim_epoll_pwait2(int epoll, struct epoll_event *events, int room,
                     const int64_t *span);
int sim_fchmod(int fd, mode_t mode);
int sim_fchmodat(int directory, const char *path, mode_t mode, int flags);
int sim_fcntl(int fd, int command, int argument);
int sim_flock(int fd, int what);
int sim_fstat(int fd, struct stat *info);
int sim_fstatat(int directory, const char *path, struct stat *info, int flags);
int sim_getpeername(int fd, struct sockaddr *name, socklen_t *size);
int sim_getsockname(int fd, struct sockaddr *name, socklen_t *size);
int sim_getsockopt(int fd, int level, int option, void *value,
                   socklen_t *size);
int sim_ioctl(int fd, unsigned long request, int *value);
int sim_listen(int fd, int backlog);
int sim_openat(int directory, const char *path, int flags);
int sim_pipe(int pair[2]);
int sim_pipe2(int pair[2], int flags);
int sim_poll(struct pollfd *fds, unsigned long count, int ms);
int sim_ppoll(struct pollfd *fds, unsigned long count,
              const struct timespec *span, const void *mask);
ssize_t sim_read(int fd, void *to, size_t size);
ssize_t sim_recv(int fd, void *to, size_t size, int flags);
int sim_sched_getaffinity(int process, size_t size, void *set);
int sim_select(int count, fd_set *in, fd_set *out, fd_set *failed,
               struct timeval *span);
ssize_t sim_send(int fd, const void *from, size_t size, int flags);
ssize_t sim_sendmsg(int fd, const struct msghdr *message, int flags);
int sim_setsockopt(int fd, int level, int option, const void *value,
                   socklen_t size);
int sim_shutdown(int fd, int how);
int sim_socket(int family, int type, int protocol);
int sim_socketpair(int family, int type, int protocol, int pair[2]);
int sim_unlinkat(int directory, const char *path, int flags);
ssize_t sim_write(int fd, const void *from, size_t size);
ssize_t sim_writev(int fd, const struct iovec *spans, int count);
#endif

#endif
