/* Sockets in the real system and in memory: see both.h. */
#ifdef __linux__
#include "both.h"

#include "test.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int socks[2][SOCKS], epolls[2], listeners[2];
int tcp;
static struct sockaddr_in tcp_at[2];

static void listen_in(int system)
{
    union {
        struct sockaddr is;
        struct sockaddr_in in;
        struct sockaddr_un un;
    } at;
    socklen_t size = sizeof at;
    memset(&at, 0, sizeof at);
    sim_on = system;
    at.in.sin_family = AF_INET;
    at.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listeners[system] = sys_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(!sys_bind(listeners[system], &at.is, sizeof at.in));
    CHECK(!sys_listen(listeners[system], BACKLOG));
    CHECK(!sys_getsockname(listeners[system], &at.is, &size));
    tcp_at[system] = at.in;
    epolls[system] = sys_epoll_create1(0);
    sim_on = 0;
}

int call_in(int system, int *fd)
{
    union {
        struct sockaddr is;
        struct sockaddr_in in;
    } at = {.in = tcp_at[system]};
    sim_on = system;
    *fd = sys_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int error = sys_connect(*fd, &at.is, sizeof at.in) ? errno : 0;
    sim_on = 0;
    return error;
}

void pair_in(int system, int at)
{
    union {
        struct sockaddr is;
        struct sockaddr_in in;
    } name;
    socklen_t size = sizeof name;
    int *pair = &socks[system][at];
    if (tcp) {
        EQUAL(call_in(system, &pair[0]), EINPROGRESS);
        sim_on = system;
        do
            pair[1] = sys_accept4(listeners[system], &name.is, &size,
                                  SOCK_NONBLOCK);
        while (pair[1] < 0 && errno == EAGAIN);
        CHECK(pair[1] >= 0);
    } else {
        sim_on = system;
        CHECK(!sys_socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    }
    for (int i = 0; i < 2; i++) {
        struct epoll_event e = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI |
                                EPOLLET, {.u32 = (uint32_t)(at + i)}};
        CHECK(!sys_epoll_ctl(epolls[system], EPOLL_CTL_ADD, pair[i], &e));
    }
    sim_on = 0;
}

void both_begin(void)
{
    sim_begin();
    sim_on = 0;
    memset(socks, -1, sizeof socks);
    listen_in(0);
    listen_in(1);
}

static void close_all(void)
{
    for (int i = 0; i < SOCKS; i++)
        if (socks[0][i] >= 0)
            close(socks[0][i]);
    memset(socks, -1, sizeof socks);
}

void both_end(void)
{
    close_all();
    close(listeners[0]);
    close(epolls[0]);
    sim_end();
}

int state_in(int system, int sock)
{
    struct pollfd p = {socks[system][sock], POLLIN | POLLOUT | POLLRDHUP |
                       POLLPRI, 0};
    sim_on = system;
    CHECK(sys_poll(&p, 1, 0) >= 0);
    sim_on = 0;
    return p.revents;
}

void edges_in(int system, uint32_t *edges)
{
    struct epoll_event events[SOCKS];
    sim_on = system;
    int n = sys_epoll_wait(epolls[system], events, SOCKS, 0);
    sim_on = 0;
    for (int i = 0; i < n; i++)
        edges[events[i].data.u32] |= events[i].events;
}

int soon(int64_t *until)
{
    if (!*until)
        *until = pmx__now() + 500000000;
    return pmx__now() < *until;
}
#else
typedef int both_is_for_linux;  /* a file must not be empty */
#endif
