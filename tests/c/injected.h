/*
 * The system as tests have it (see csrc/sys.h): each call is the real one,
 * unless a test says that it fails, or falls short.
 *
 * Only what the core does while inject_*() is in force counts; the same calls
 * by a test's peers are not of the core, so tests switch it on around the
 * core's functions alone.
 */
#ifndef INJECTED_H
#define INJECTED_H

#include <stddef.h>
#include <stdint.h>

/* Allocations fail on every OS, the rest on those with Unix's calls. */
void *sys_malloc(size_t size);
void *sys_calloc(size_t count, size_t size);
void *sys_realloc(void *memory, size_t size);
int sys_malloc_trim(size_t pad);
extern long test_trims;         /* so often has it been called */

#ifndef _WIN32
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

struct epoll_event;
struct kevent;
struct pollfd;
struct timespec;

int sys_accept(int fd, struct sockaddr *name, socklen_t *size);
int sys_accept4(int fd, struct sockaddr *name, socklen_t *size, int flags);
int sys_bind(int fd, const struct sockaddr *name, socklen_t size);
int sys_clock_gettime(int clock, struct timespec *now);
int sys_close(int fd);
int sys_connect(int fd, const struct sockaddr *name, socklen_t size);
int sys_epoll_create1(int flags);
int sys_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event);
int sys_epoll_pwait2(int epoll, struct epoll_event *events, int room,
                     const int64_t *span);
int sys_epoll_wait(int epoll, struct epoll_event *events, int room, int ms);
int sys_fchmod(int fd, mode_t mode);
int sys_fchmodat(int directory, const char *path, mode_t mode, int flags);
int sys_fcntl(int fd, int command, int argument);
int sys_flock(int fd, int what);
int sys_fstat(int fd, struct stat *info);
int sys_fstat_file(int fd, struct stat *info);
int sys_fstatat(int directory, const char *path, struct stat *info, int flags);
int sys_getpeername(int fd, struct sockaddr *name, socklen_t *size);
int sys_getsockname(int fd, struct sockaddr *name, socklen_t *size);
int sys_getsockopt(int fd, int level, int option, void *value,
                   socklen_t *size);
int sys_ioctl(int fd, unsigned long request, int *value);
int injected_kevent(int fd, const struct kevent *changes, int count,
                    struct kevent *events, int room,
                    const struct timespec *span);
#define sys_kevent(fd, changes, count, events, room, span) \
    injected_kevent(fd, changes, (int)(count), events, (int)(room), span)
int sys_kqueue(void);
int sys_kqueue1(int flags);
int sys_listen(int fd, int backlog);
void *sys_mmap(void *at, size_t size, int may, int flags, int fd, off_t offset);
int sys_munmap(void *at, size_t size);
int sys_openat(int directory, const char *path, int flags);
int sys_pipe(int pair[2]);
int sys_pipe2(int pair[2], int flags);
int sys_poll(struct pollfd *fds, unsigned long count, int ms);
int sys_ppoll(struct pollfd *fds, unsigned long count,
              const struct timespec *span, const void *mask);
ssize_t sys_read(int fd, void *to, size_t size);
ssize_t sys_recv(int fd, void *to, size_t size, int flags);
int sys_sched_getaffinity(int process, size_t size, void *set);
int sys_select(int count, fd_set *in, fd_set *out, fd_set *failed,
               struct timeval *span);
ssize_t sys_send(int fd, const void *from, size_t size, int flags);
ssize_t sys_sendmsg(int fd, const struct msghdr *message, int flags);
int sys_setsockopt(int fd, int level, int option, const void *value,
                   socklen_t size);
int sys_shutdown(int fd, int how);
int sys_socket(int family, int type, int protocol);
int sys_socketpair(int family, int type, int protocol, int pair[2]);
int sys_unlinkat(int directory, const char *path, int flags);
ssize_t sys_write(int fd, const void *from, size_t size);
ssize_t sys_writev(int fd, const struct iovec *spans, int count);

#define INJECTED_CALLS(CALL) \
    CALL(malloc) CALL(calloc) CALL(realloc) \
    CALL(accept) CALL(bind) CALL(close) CALL(connect) CALL(dial_unix) \
    CALL(epoll_create1) CALL(epoll_add) CALL(epoll_pwait2) CALL(epoll_wait) \
    CALL(fchmod) CALL(fchmodat) CALL(fcntl) CALL(flock) CALL(fstat) CALL(fstatat) \
    CALL(getpeername) CALL(getsockname) CALL(getsockopt) CALL(ioctl) \
    CALL(kevent) CALL(kqueue) CALL(listen) CALL(mmap) CALL(openat) CALL(pipe) \
    CALL(poll) CALL(read) CALL(recv) CALL(sched_getaffinity) CALL(select) CALL(send) \
    CALL(setsockopt) CALL(shutdown) CALL(socket) CALL(socketpair) \
    CALL(unlinkat) CALL(write) CALL(writev)

enum injected_call {
#define CALL(name) CALL_##name,
    INJECTED_CALLS(CALL)
#undef CALL
    CALLS
};

/* What a call can come to. */
typedef struct {
    enum injected_call call;
    int error;                  /* an errno, or one of these: */
    const char *name;           /* of the two */
} injected_fault;
enum {
    SHORT = -1,                 /* fewer bytes than it could be */
    SPURIOUS = -2               /* what is not ready is said to be */
};

extern const injected_fault injected_faults[];
extern const size_t injected_fault_count;

/* From now on: fail the nth call of one kind that could fail so, or one in
 * so many calls, or none. What is short is `shortest` bytes, or any number. */
void inject_nth(const injected_fault *fault, long nth, size_t shortest);
void inject_at_random(uint32_t seed, uint32_t one_in);
void inject_nothing(void);
/* Not while this is on: for what the test itself does. */
void inject_pause(int on);
extern uint64_t injected_count[CALLS];  /* faults since the program began */
extern uint64_t injected_total;
extern uint64_t injected_now;           /* since inject_nth or _at_random, */
int injected_error(int error);          /* and with this errno */
/* Called before each call of the core, NULL: nothing. */
extern void (*injected_before)(enum injected_call call);
/* Descriptors that a program started meanwhile would have inherited: those
 * made without close-on-exec, where the system can make them with it. */
extern uint64_t injected_inheritable;
/* Calls for sockets that were made on something else. */
extern uint64_t injected_not_sockets;
/* What dials over TCP is bound to the port that it dials, as the system may
 * choose to do, and so connected to itself; of the next so many. */
extern int injected_to_itself;
/* The system leaves out the name of whom it accepts. */
extern int injected_nameless;

/* Waits in which nothing happens take no time: the clock is put forward by
 * what they would have taken. A wait without an end is an error then. */
void inject_haste(int on);
extern int injected_stuck;      /* there was such a wait */
#endif

#endif
