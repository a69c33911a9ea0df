/* pmx_listen_on: a socket of the caller's, which others may have too. */
#include "world.h"

#include <string.h>

#ifndef _WIN32
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A TCP socket that listens, if backlog says so. */
static int bound(int type, int backlog, uint32_t *port)
{
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    int sock = socket(AF_INET, type, 0);
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(!bind(sock, (struct sockaddr *)&name, sizeof name));
    CHECK(!getsockname(sock, (struct sockaddr *)&name, &size));
    CHECK(backlog < 0 || !listen(sock, backlog));
    *port = ntohs(name.sin_port);
    return sock;
}

static int unix_bound(const char *path)
{
    struct sockaddr_un name;
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    snprintf(name.sun_path, sizeof name.sun_path, "%s", path);
    CHECK(!bind(sock, (struct sockaddr *)&name, sizeof name));
    CHECK(!listen(sock, 8));
    return sock;
}

static int unix_call(const char *path)
{
    struct sockaddr_un name;
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    snprintf(name.sun_path, sizeof name.sun_path, "%s", path);
    CHECK(!connect(sock, (struct sockaddr *)&name, sizeof name));
    return sock;
}

static int option_of(int sock, int level, int option)
{
    int is = 0;
    socklen_t size = sizeof is;
    CHECK(!getsockopt(sock, level, option, &is, &size));
    return is;
}

static void a_given_listener_is_served(void)
{
    world w;
    pmx_sock peer;
    pmx_address name;
    pmx_policy p = lines("\n", 100);
    world_begin(&w, 100, 10000);
    int sock = bound(SOCK_STREAM, 8, &w.port);
    pmx_sock early = call(&w);          /* waits there already */
    put_text(early, "early\n");
    EQUAL(pmx_listen_on(w.mux, sock, &p, &w.listener), 0);
    EQUAL(pmx_counts(w.mux)->listeners, 1);
    EQUAL(pmx_listener_address(w.mux, w.listener, &name), 0);
    EQUAL(name.family, 4);
    EQUAL(name.port, w.port);
    CHECK(fcntl(sock, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(sock, F_GETFD) & FD_CLOEXEC);
    UNTIL(&w, w.message_count == 1);
    uint64_t id = meet(&w, &peer);
    EQUAL(option_of(pmx__slot(w.mux, (uint32_t)id)->sock, IPPROTO_TCP,
                    TCP_NODELAY) != 0, 1);
    put_text(peer, "hello\n");
    UNTIL(&w, messages_of(&w, id) == 1);
    leave(peer);
    leave(early);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    world_end(&w);
    CHECK(fcntl(sock, F_GETFD) < 0);    /* it was the mux's */
}

static void its_limits_are_those_of_any_listener(void)
{
    world w;
    pmx_sock peers[3];
    pmx_policy p = raw();
    p.max_connections = 2;
    p.keep_idle = 30;
    p.keep_interval = 10;
    p.keep_count = 3;
    p.half_open = 1;
    world_begin(&w, 100, 10000);
    int sock = bound(SOCK_STREAM, 8, &w.port);
    EQUAL(pmx_listen_on(w.mux, sock, &p, &w.listener), 0);
    for (int i = 0; i < 3; i++)
        peers[i] = call(&w);
    UNTIL(&w, w.opened.count == 2);
    turn(&w, 10 * MS);
    EQUAL(w.opened.count, 2);
    const pmx__conn *c = pmx__slot(w.mux, (uint32_t)w.opened.ids[0]);
    CHECK(option_of(c->sock, SOL_SOCKET, SO_KEEPALIVE));
    end_writing(peers[0]);
    UNTIL(&w, w.ended.count == 1);
    do_op(&w, w.ended.ids[0], PMX_CLOSE);
    UNTIL(&w, w.opened.count == 3);
    for (int i = 0; i < 3; i++)
        leave(peers[i]);
    UNTIL(&w, w.ended.count == 3);
    pmx_reset_all(w.mux, ECONNABORTED);
    UNTIL(&w, w.closed_count == 3);
    world_is_clean(&w);
    world_end(&w);
}

/* Another descriptor of the socket goes on, however the mux lets go of its
 * own: by closing the listener, by a drain, by its end. */
static void a_given_listener_is_not_shut_down(void)
{
    for (int way = 0; way < 3; way++) {
        world w;
        pmx_policy p = raw();
        world_begin(&w, 100, 10000);
        int ours = bound(SOCK_STREAM, 8, &w.port);
        EQUAL(pmx_listen_on(w.mux, dup(ours), &p, &w.listener), 0);
        if (way == 0)
            EQUAL(pmx_unlisten(w.mux, w.listener), 0);
        if (way == 1) {
            pmx_drain(w.mux);
            UNTIL(&w, w.t.reason & PMX_DRAINED);
        }
        if (way < 2) {
            EQUAL(pmx_counts(w.mux)->listeners, 0);
            EQUAL(pmx_unlisten(w.mux, w.listener), -ENOENT);
        }
        uint32_t port = w.port;
        world_end(&w);
        pmx_sock peer = call_port(port, 0);
        int64_t until = deadline();
        int accepted;
        while ((accepted = accept(ours, NULL, NULL)) < 0)
            CHECK(errno == EAGAIN && pmx__now() < until);
        CHECK(option_of(ours, SOL_SOCKET, SO_ACCEPTCONN));
        close(accepted);
        close(ours);
        leave(peer);
    }
}

/* Who waits there is for the other processes that have the socket. */
static void a_drain_leaves_the_backlog_of_a_given_listener(void)
{
    world w;
    pmx_sock peer, own;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint32_t of_its_own = w.port;
    int ours = bound(SOCK_STREAM, 8, &w.port);
    EQUAL(pmx_listen_on(w.mux, dup(ours), &p, &w.listener), 0);
    uint64_t id = meet(&w, &peer);
    pmx_sock waits = call(&w);
    own = call_port(of_its_own, 0);
    pmx_drain(w.mux);
    EQUAL(pmx_counts(w.mux)->listeners, 1);
    UNTIL(&w, w.t.reason & PMX_DRAINED);
    EQUAL(pmx_counts(w.mux)->accepted, 2);      /* one at its own listener */
    end_if_untold(peer);
    end_if_untold(own);
    UNTIL(&w, closed(&w, id) && w.closed_count == 2);
    int accepted = accept(ours, NULL, NULL);
    CHECK(accepted >= 0);
    close(accepted);
    close(ours);
    leave(peer);
    leave(own);
    leave(waits);
    world_is_clean(&w);
    world_end(&w);
}

static void the_path_of_a_given_listener_stays(void)
{
    static const char path[] = "build/given";
    world w;
    struct stat info;
    pmx_address name;
    pmx_policy p = raw();
    unlink(path);
    world_begin(&w, 100, 10000);
    int ours = unix_bound(path);
    EQUAL(pmx_listen_on(w.mux, dup(ours), &p, &w.listener), 0);
    EQUAL(pmx_listener_address(w.mux, w.listener, &name), 0);
    EQUAL(name.family, 1);
    EQUAL(name.path_size, strlen(path));
    CHECK(!memcmp(name.path, path, strlen(path)));
    int peer = unix_call(path);
    UNTIL(&w, w.opened.count == 1);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    CHECK(!stat(path, &info));
    close(peer);
    UNTIL(&w, w.closed_count == 1);
    peer = unix_call(path);             /* it is still listened on */
    EQUAL(pmx_listen_on(w.mux, ours, &p, &w.listener), 0);
    UNTIL(&w, w.opened.count == 2);
    close(peer);
    world_end(&w);
    CHECK(!stat(path, &info));
    CHECK(!unlink(path));
}

static void a_forked_child_lets_go_of_a_given_listener(void)
{
    world w;
    pmx_policy p = raw();
    pmx_sock peer;
    int status;
    world_begin(&w, 100, 10000);
    int sock = bound(SOCK_STREAM, 8, &w.port);
    EQUAL(pmx_listen_on(w.mux, sock, &p, &w.listener), 0);
    pid_t child = fork();
    if (!child) {
        pmx_close(w.mux);
        _exit(fcntl(sock, F_GETFD) < 0 ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child);
    EQUAL(status, 0);
    (void)meet(&w, &peer);              /* the parent's goes on */
    leave(peer);
    UNTIL(&w, w.closed_count == 1);
    world_is_clean(&w);
    world_end(&w);
}

static void a_forked_parent_may_close_what_its_child_serves(void)
{
    world w;
    pmx_policy p = raw();
    pmx_sock peer;
    int status;
    world_begin(&w, 100, 10000);
    int sock = bound(SOCK_STREAM, 8, &w.port);
    uint32_t port = w.port;
    int go[2];
    CHECK(!pipe(go));
    EQUAL(pmx_listen_on(w.mux, dup(sock), &p, &w.listener), 0);
    pid_t child = fork();
    if (!child) {
        char byte;
        int fd = -1, tries = 0;
        if (read(go[0], &byte, 1) != 1) /* the parent has closed its mux */
            _exit(2);
        while (fd < 0 && tries++ < 2000) {
            fd = accept(sock, NULL, NULL);
            usleep(1000);
        }
        _exit(fd < 0);
    }
    world_end(&w);
    close(sock);
    peer = call_port(port, 0);
    CHECK(write(go[1], "x", 1) == 1);
    CHECK(waitpid(child, &status, 0) == child);
    EQUAL(status, 0);
    leave(peer);
    close(go[0]);
    close(go[1]);
}

static void what_does_not_listen_is_refused(void)
{
    world w;
    uint32_t port;
    uint64_t id;
    pmx_policy p = raw();
    int pair[2], ends[2];
    world_begin(&w, 100, 10000);
    int idle = bound(SOCK_STREAM, -1, &port);
    int datagrams = bound(SOCK_DGRAM, -1, &port);
    int listening = bound(SOCK_STREAM, 8, &port);
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK(!pipe(ends));
    int closed_one = dup(idle);
    close(closed_one);
    EQUAL(pmx_listen_on(w.mux, idle, &p, &id), -EINVAL);
    EQUAL(pmx_listen_on(w.mux, datagrams, &p, &id), -EINVAL);
    EQUAL(pmx_listen_on(w.mux, pair[0], &p, &id), -EINVAL);
    EQUAL(pmx_listen_on(w.mux, ends[0], &p, &id), -ENOTSOCK);
    EQUAL(pmx_listen_on(w.mux, closed_one, &p, &id), -EBADF);
    EQUAL(pmx_listen_on(w.mux, -1, &p, &id), -EBADF);
    EQUAL(pmx_listen_on(w.mux, INT64_MAX, &p, &id), -EBADF);
    p.framing.kind = 99;
    EQUAL(pmx_listen_on(w.mux, listening, &p, &id), -EINVAL);
    EQUAL(pmx_counts(w.mux)->listeners, 0);
    /* they are the caller's still, as they were */
    EQUAL(fcntl(idle, F_GETFL) & O_NONBLOCK, 0);
    EQUAL(fcntl(datagrams, F_GETFL) & O_NONBLOCK, 0);
    close(idle);
    close(datagrams);
    close(listening);
    close(pair[0]);
    close(pair[1]);
    close(ends[0]);
    close(ends[1]);
    world_end(&w);
}

static void without_memory_the_socket_is_the_callers(void)
{
    world w;
    uint32_t port;
    uint64_t id;
    pmx_policy p = raw();
    world_begin(&w, 100, 10000);
    int sock = bound(SOCK_STREAM, 8, &port);
    for (int at = 1;; at++) {
        test_fail_at = at;
        int error = pmx_listen_on(w.mux, sock, &p, &id);
        int failed = !test_fail_at;
        test_fail_at = 0;
        CHECK(!error || error == -ENOMEM);
        if (!failed)
            break;
        CHECK(error);
        CHECK(fcntl(sock, F_GETFD) >= 0);
        EQUAL(pmx_counts(w.mux)->listeners, 0);
    }
    /* the same descriptor twice is one too many, where that is known */
    int error = pmx_listen_on(w.mux, sock, &p, &id);
    CHECK(error == -EEXIST || !error);
    if (!error)
        pmx_unlisten(w.mux, id);
    world_end(&w);
}
#else
typedef int listen_on_unix;     /* a file must not be empty */
#endif

#define WHY "descriptors are not numbers there"
const test_case listen_on_tests[] = {
    UNIX_EACH(a_given_listener_is_served, WHY),
    UNIX_EACH(its_limits_are_those_of_any_listener, WHY),
    UNIX_EACH(a_given_listener_is_not_shut_down, WHY),
    UNIX_EACH(a_drain_leaves_the_backlog_of_a_given_listener, WHY),
    UNIX_EACH(the_path_of_a_given_listener_stays, WHY),
    UNIX_EACH(a_forked_child_lets_go_of_a_given_listener, WHY),
    UNIX_EACH(a_forked_parent_may_close_what_its_child_serves, WHY),
    UNIX_ONCE(what_does_not_listen_is_refused, WHY),
    UNIX_EACH(without_memory_the_socket_is_the_callers, WHY),
    {0},
};
