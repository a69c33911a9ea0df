/* The system in memory against the real one: the same calls, in scripts and
 * at random, with the same results. What is only a matter of sizes, such as
 * when a buffer is full, is not compared. */
#include "test.h"

#ifdef __linux__
#include "both.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>

static uint32_t state;

static uint32_t chance(uint32_t of)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % of;
}

/* --- what is called in both -------------------------------------------- */

enum call { SEND, RECV, SHUT, CLOSE, RESET, ERROR, UNREAD, PEER, URGENT, CUT,
            PASS };

typedef struct {
    enum call call;
    int sock, size;
} step;

static const char *const names[] = {"send", "recv", "shutdown", "close",
                                    "reset", "error", "unread", "peer",
                                    "urgent", "cut", "pass"};

/* Bytes, and a descriptor with them. */
static long pass(int fd, void *bytes, size_t size)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec span = {bytes, size};
    struct msghdr message = {.msg_iov = &span, .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    memset(&control, 0, sizeof control);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.head), &listeners[0], sizeof(int));
    return sys_sendmsg(fd, &message, MSG_NOSIGNAL);
}

static long do_in(int system, const step *s)
{
    int fd = socks[system][s->sock], value = 0;
    uint8_t bytes[64];
    struct linger now = {1, 0};
    union {
        struct sockaddr is;
        struct sockaddr_storage room;
    } name;
    socklen_t size = sizeof value;
    long n = 0;
    memset(bytes, 'x', sizeof bytes);
    sim_on = system;
    switch (s->call) {
    case SEND:
        n = sys_send(fd, bytes, (size_t)s->size, MSG_NOSIGNAL);
        break;
    case URGENT:
        n = sys_send(fd, bytes, (size_t)s->size, MSG_NOSIGNAL | MSG_OOB);
        break;
    case PASS:
        n = pass(fd, bytes, (size_t)s->size);
        break;
    case RECV:
        n = sys_recv(fd, bytes, (size_t)s->size, 0);
        break;
    case SHUT:
        n = sys_shutdown(fd, s->size);
        break;
    case RESET:
        (void)sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        n = sys_close(fd);
        break;
    case CLOSE:
        n = sys_close(fd);
        break;
    case CUT:
        name.is.sa_family = AF_UNSPEC;
        n = sys_connect(fd, &name.is, sizeof name.is);
        break;
    case ERROR:
        n = sys_getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &size);
        n = n ? n : value;
        break;
    case UNREAD:
        n = sys_ioctl(fd, FIONREAD, &value);
        n = n ? n : value;
        break;
    case PEER:
        size = sizeof name;
        n = sys_getpeername(fd, &name.is, &size);
        break;
    }
    if (n < 0)
        n = -errno;
    sim_on = 0;
    return n;
}

/* --- comparing --------------------------------------------------------- */

static char history[4096];

static void differ(const char *what, int sock, long is, long wanted)
{
    fprintf(stderr, "%s %s\n%s: of %d, in memory %lx, really %lx\n",
            tcp ? "TCP" : "Unix", history, what, sock, (unsigned long)is,
            (unsigned long)wanted);
    test_differ(__FILE__, __LINE__, "what the system in memory says", is,
                wanted);
}

static void note(const step *s)
{
    size_t used = strlen(history);
    snprintf(history + used, sizeof history - used, "%s(%d, %d) ",
             names[s->call], s->sock, s->size);
}

static void compare_states(const step *last)
{
    static int before[SOCKS];
    int64_t until = 0;
    uint32_t edges[2][SOCKS] = {{0}, {0}};
    int sent_to = last && (last->call == SEND || last->call == PASS)
                      ? last->sock ^ 1 : -1;
    edges_in(1, edges[1]);
    for (int i = 0; i < SOCKS; i++)
        if (socks[0][i] >= 0)
            while (state_in(0, i) != state_in(1, i))
                if (!soon(&until))
                    differ("poll", i, state_in(1, i), state_in(0, i));
    until = 0;
    for (int i = 0; i < SOCKS; i++)
        do
            edges_in(0, edges[0]);
        while ((edges[0][i] | edges[1][i]) != edges[0][i] && soon(&until));
    /* Linux tells of some states again, when an acknowledgement comes. But
     * what is new it tells, and what it does not tell must not be told. */
    for (int i = 0; i < SOCKS; i++) {
        int is = socks[1][i] >= 0 ? state_in(1, i) : 0;
        int new = last && (is & ~before[i] || (i == sent_to && is & POLLIN));
        before[i] = is;
        if ((edges[0][i] | edges[1][i]) != edges[0][i])
            differ("an edge that is none", i, (long)edges[1][i],
                   (long)edges[0][i]);
        if (new && edges[0][i] && !edges[1][i])
            differ("an edge is missing", i, (long)edges[1][i],
                   (long)edges[0][i]);
    }
}

static void run_step(const step *s)
{
    int64_t until = 0;
    if (socks[0][s->sock] < 0)
        return;
    note(s);
    long wanted = do_in(0, s), is = do_in(1, s);
    while (wanted != is && wanted == -EAGAIN && soon(&until))
        wanted = do_in(0, s);
    if (is != wanted)
        differ(names[s->call], s->sock, is, wanted);
    if (s->call == CLOSE || s->call == RESET)
        socks[0][s->sock] = socks[1][s->sock] = -1;
    compare_states(s);
}

static void random_steps(uint32_t seed)
{
    static const int hows[] = {SHUT_WR, SHUT_WR, SHUT_RDWR, SHUT_RD};
    state = seed;
    tcp = (int)(seed % 3 != 0);
    history[0] = 0;
    both_begin();
    for (int i = 0; i < SOCKS; i += 2) {
        pair_in(0, i);
        pair_in(1, i);
    }
    compare_states(NULL);
    for (int k = 0; k < 40; k++) {
        static const enum call calls[] = {SEND, SEND, SEND, RECV, RECV, RECV,
                                          SHUT, CLOSE, RESET, ERROR, UNREAD,
                                          PEER, URGENT, CUT};
        step s = {calls[chance(14)], (int)chance(SOCKS),
                  1 + (int)chance(chance(2) ? 3 : 40)};
        if (s.call == SHUT)
            s.size = hows[chance(4)];
        if (s.call >= SHUT && s.call <= RESET && chance(3))
            continue;           /* let them live */
        if (s.call >= URGENT && (!tcp || chance(4)))
            continue;
        if (s.call == SEND && !tcp && chance(2) && socks[1][s.sock] >= 0 &&
            !sim_passes(socks[1][s.sock]))
            s.call = PASS;
        if (s.call == URGENT && socks[1][s.sock ^ 1] >= 0 &&
            state_in(1, s.sock ^ 1) & (POLLPRI | POLLRDHUP))
            continue;           /* one at a time */
        run_step(&s);
    }
    both_end();
}

static void sockets_do_what_linux_does(void)
{
    for (uint32_t seed = 1; seed <= 150; seed++) {
        snprintf(test_note, sizeof test_note, "seed %u", seed);
        random_steps(seed);
    }
}

/* --- connecting -------------------------------------------------------- */

static int became_of(int system, int fd)
{
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    int error = 0;
    socklen_t size = sizeof error;
    sim_on = system;
    CHECK(sys_poll(&p, 1, 1000) == 1);
    CHECK(!sys_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size));
    sim_on = 0;
    return p.revents << 16 | error;
}

static void calls_end_as_they_do_on_linux(void)
{
    int is[2], fd, pair[2][2];
    tcp = 1;
    both_begin();
    for (int system = 0; system < 2; system++) {
        /* answered; a reset before it is accepted */
        EQUAL(call_in(system, &fd), EINPROGRESS);
        is[system] = became_of(system, fd);
        sim_on = system;
        struct linger now = {1, 0};
        sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        sys_close(fd);
        struct sockaddr_storage name;
        socklen_t size = sizeof name;
        fd = sys_accept4(listeners[system], (struct sockaddr *)&name, &size,
                         SOCK_NONBLOCK);
        CHECK(fd >= 0);
        EQUAL(size, sizeof(struct sockaddr_in));
        char byte;
        CHECK(sys_recv(fd, &byte, 1, 0) < 0);
        EQUAL(errno, ECONNRESET);
        sys_close(fd);
        sim_on = 0;
    }
    EQUAL(is[1], is[0]);
    for (int system = 0; system < 2; system++) {
        /* the listener closes on who waits; nobody listens */
        EQUAL(call_in(system, &pair[system][0]), EINPROGRESS);
        (void)became_of(system, pair[system][0]);
        sim_on = system;
        sys_close(listeners[system]);
        sim_on = 0;
        is[system] = became_of(system, pair[system][0]);
    }
    EQUAL(is[1], is[0]);
    for (int system = 0; system < 2; system++) {
        CHECK(call_in(system, &pair[system][1]));
        is[system] = became_of(system, pair[system][1]);
        sim_on = system;
        sys_close(pair[system][0]);
        sys_close(pair[system][1]);
        sim_on = 0;
    }
    EQUAL(is[1], is[0]);
    listeners[0] = dup(epolls[0]);
    both_end();
}

static int unix_call(int system, const char *path, int *fd)
{
    struct sockaddr_un at;
    memset(&at, 0, sizeof at);
    at.sun_family = AF_UNIX;
    strcpy(at.sun_path, path);
    sim_on = system;
    *fd = sys_socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int error = sys_connect(*fd, (struct sockaddr *)&at, sizeof at) ? errno
                                                                   : 0;
    sim_on = 0;
    return error;
}

static void unix_sockets_are_called_as_on_linux(void)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/pymux-sim-%d", (int)getpid());
    int said[2][13] = {{0}}, fds[4];
    both_begin();
    for (int system = 0; system < 2; system++) {
        int n = 0, l, *is = said[system];
        struct sockaddr_un at;
        struct stat info;
        memset(&at, 0, sizeof at);
        at.sun_family = AF_UNIX;
        strcpy(at.sun_path, path);
        is[n++] = unix_call(system, path, &fds[0]);
        sim_on = system;
        l = sys_socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        CHECK(!sys_bind(l, (struct sockaddr *)&at, sizeof at));
        int directory = sys_openat(AT_FDCWD, "/tmp", O_RDONLY | O_DIRECTORY);
        CHECK(directory >= 0);
        is[n++] = sys_fstatat(directory, path + 5, &info, 0) ||
                  !S_ISSOCK(info.st_mode);
        is[n++] = unix_call(system, path, &fds[1]);
        sim_on = system;
        CHECK(!sys_listen(l, 0));
        is[n++] = unix_call(system, path, &fds[2]);
        is[n++] = unix_call(system, path, &fds[3]);     /* it is full */
        sim_on = system;
        sys_close(l);
        char byte;
        is[n++] = (int)sys_recv(fds[2], &byte, 1, 0);
        is[n++] = errno;
        is[n++] = (int)sys_recv(fds[2], &byte, 1, 0);
        is[n++] = sys_bind(fds[0], (struct sockaddr *)&at, sizeof at);
        is[n++] = errno;
        is[n++] = sys_unlinkat(directory, path + 5, 0);
        is[n++] = sys_unlinkat(directory, path + 5, 0);
        sys_close(directory);
        for (int i = 0; i < 4; i++)
            sys_close(fds[i]);
        sim_on = 0;
    }
    for (int i = 0; i < 13; i++)
        EQUAL(said[1][i], said[0][i]);
    both_end();
}

/* --- buffers, waits, descriptors --------------------------------------- */

static void a_full_buffer_is_writable_again_once_it_is_read(void)
{
    for (tcp = 0; tcp < 2; tcp++) {
        both_begin();
        for (int system = 0; system < 2; system++) {
            uint32_t edges[SOCKS] = {0};
            uint8_t bytes[4096] = {0};
            pair_in(system, 0);
            edges_in(system, edges);
            sim_on = system;
            ssize_t n;
            size_t all = 0;
            while ((n = sys_send(socks[system][0], bytes, sizeof bytes,
                                 MSG_NOSIGNAL)) > 0)
                all += (size_t)n;
            EQUAL(errno, EAGAIN);
            EQUAL(state_in(system, 0) & POLLOUT, 0);
            edges[0] = 0;
            edges_in(system, edges);
            EQUAL(edges[0], 0);
            int64_t until = 0;
            while (all) {
                sim_on = system;
                n = sys_recv(socks[system][1], bytes, sizeof bytes, 0);
                CHECK(n > 0 || soon(&until));
                all -= n > 0 ? (size_t)n : 0;
            }
            do
                edges_in(system, edges);
            while (!(edges[0] & EPOLLOUT) && soon(&until));
            EQUAL(edges[0], EPOLLOUT);
            CHECK(state_in(system, 0) & POLLOUT);
        }
        both_end();
    }
}

static void select_and_level_triggered_epoll_tell_what_poll_does(void)
{
    tcp = 1;
    both_begin();
    for (int system = 0; system < 2; system++) {
        pair_in(system, 0);
        int fd = socks[system][0], number;
        fd_set in, out, failed;
        FD_ZERO(&in);
        FD_SET(fd, &in);
        out = failed = in;
        struct timeval none = {0, 0};
        sim_on = system;
        EQUAL(sys_select(fd + 1, &in, &out, &failed, &none), 1);
        CHECK(FD_ISSET(fd, &out) && !FD_ISSET(fd, &in));
        struct epoll_event e = {EPOLLIN, {.u32 = 9}};
        CHECK(!sys_epoll_ctl(epolls[system], EPOLL_CTL_MOD, fd, &e));
        EQUAL(sys_epoll_wait(epolls[system], &e, 1, 0), 1);  /* socks[1] */
        EQUAL(sys_epoll_wait(epolls[system], &e, 1, 0), 0);
        CHECK(sys_send(socks[system][1], "x", 1, 0) == 1);
        for (int k = 0; k < 3; k++) {
            EQUAL(sys_epoll_wait(epolls[system], &e, 1, 1000), 1);
            EQUAL(e.events, EPOLLIN);
        }
        /* the lowest number that is free is the next */
        number = sys_socket(AF_INET, SOCK_STREAM, 0);
        sys_close(number);
        EQUAL(sys_socket(AF_UNIX, SOCK_STREAM, 0), number);
        sys_close(number);
        CHECK(sys_epoll_ctl(epolls[system], EPOLL_CTL_DEL, number, &e) < 0);
        EQUAL(errno, EBADF);
        sim_on = 0;
    }
    both_end();
}

static void descriptors_run_out_and_waits_take_virtual_time(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    struct epoll_event e;
    sim_begin();
    sim_now.descriptors = 2;
    int l = sys_socket(AF_INET, SOCK_STREAM, 0);
    CHECK(!sys_bind(l, (struct sockaddr *)&at, sizeof at) &&
          !sys_listen(l, 1));
    int epoll = sys_epoll_create1(0);
    CHECK(sys_socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == EMFILE);
    int64_t before = sim_clock();
    const int64_t span[2] = {3, 0};
    EQUAL(sys_epoll_pwait2(epoll, &e, 1, span), 0);
    EQUAL(sim_clock() - before, INT64_C(3000000000));
    CHECK(sys_epoll_wait(epoll, &e, 1, -1) < 0 && errno == EDEADLK);
    EQUAL(sim_open(), 2);
    sim_end();
}

const test_case sim_tests[] = {
    ONCE(sockets_do_what_linux_does),
    ONCE(calls_end_as_they_do_on_linux),
    ONCE(unix_sockets_are_called_as_on_linux),
    ONCE(a_full_buffer_is_writable_again_once_it_is_read),
    ONCE(select_and_level_triggered_epoll_tell_what_poll_does),
    ONCE(descriptors_run_out_and_waits_take_virtual_time),
    {0},
};
#else
const test_case sim_tests[] = {
    {"the_system_in_memory", NULL, 0, "it is Linux that it resembles"},
    {0},
};
#endif
