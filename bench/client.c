#define _GNU_SOURCE
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proc.h"

#define RECV_MAX 262144U
#define EVENTS 512
#define SLOW_RCVBUF 16384
#define SOURCES 250U /* 127.0.0.1 to 127.0.0.250 */

struct run run;

static char buffer[RECV_MAX];

void hang_up(struct conn *c)
{
    if (c->wire.fd >= 0)
        wire_end(&c->wire);
    c->wire.fd = -1;
    c->state = CLOSED;
}

void drop(struct conn *c, enum fault fault, int error)
{
    static const char *const names[FAULTS] = {
        "refused", "lost", "answered wrongly", "left unanswered",
    };

    run.faults[fault]++;
    if (!run.error[0])
        snprintf(run.error, sizeof run.error,
                 "connection %u of %u was %s after %llu answers%s%s",
                 c->index + 1, run.total, names[fault],
                 (unsigned long long)c->answered + (c->state == OPEN),
                 error ? ": " : "", error ? strerror(error) : "");
    if (c->state == CONNECTING || c->state == GREETING)
        run.pending--;
    else if (c->kind == ACTIVE)
        run.outstanding -= c->waiting;
    hang_up(c);
    c->waiting = 0;
}

/* ---- one connection: sending ------------------------------------------- */

void queue(struct conn *c, uint64_t now)
{
    size_t begin = c->next > 0 ? run.ring.ends[c->next - 1] : 0;
    size_t length = run.ring.ends[c->next] - begin;

    if (c->stamps)
        c->stamps[(c->answered + c->waiting) % opt.depth] = now;
    c->next = c->next + 1 == run.ring.count ? 0 : c->next + 1;
    c->unsent += length;
    c->owed += length;
    c->waiting++;
    if (c->state == OPEN && c->kind == ACTIVE)
        run.outstanding++;
}

void flush(struct conn *c)
{
    while (c->unsent > 0) {
        size_t length = c->unsent < run.ring.length ? c->unsent : run.ring.length;
        ssize_t n = wire_send(&c->wire, run.ring.request + c->put, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            drop(c, LOST, errno);
            return;
        }
        c->unsent -= (size_t)n;
        c->put = (c->put + (size_t)n) % run.ring.length;
    }
}

void fill_window(struct conn *c, uint64_t now)
{
    while (c->waiting < opt.depth)
        queue(c, now);
    flush(c);
}

/* ---- one connection: receiving ------------------------------------------ */

uint64_t due_time(uint64_t message)
{
    return run.start + (uint64_t)((double)message * 1e9 / opt.rate);
}

static void message_answered(struct conn *c, uint64_t now)
{
    c->waiting--;
    if (c->state == GREETING) {
        c->state = OPEN;
        run.opened++;
        run.pending--;
        if (run.measuring || !run.churning)
            hist_add(&run.opening, now - c->started);
        return;
    }
    if (c->kind == ACTIVE) {
        run.outstanding--;
        run.messages += run.measuring;
        if (opt.rate > 0) {
            uint64_t due = due_time(c->answered * run.active + c->index);
            if (due >= run.from && due < run.until)
                hist_add(&run.latency, now - due);
        } else if (run.measuring) {
            hist_add(&run.latency, now - c->stamps[c->answered % opt.depth]);
        }
    }
    c->answered++;
}

/* Checks n received bytes against what is due. */
static bool take(struct conn *c, size_t n, uint64_t now)
{
    if (n > c->owed - c->unsent ||
        memcmp(buffer, run.ring.answer + c->get, n) != 0)
        return false;
    c->owed -= n;
    while (n > 0) {
        size_t missing = run.ring.ends[c->due] - c->get;
        if (n < missing) {
            c->get += n;
            break;
        }
        n -= missing;
        c->get += missing;
        c->due++;
        if (c->due == run.ring.count)
            c->due = 0, c->get = 0;
        message_answered(c, now);
    }
    run.progress = now;
    return true;
}

bool receive(struct conn *c, size_t limit)
{
    while (limit > 0) {
        size_t want = limit < run.ring.length ? limit : run.ring.length;
        want = want < RECV_MAX ? want : RECV_MAX;
        ssize_t n = wire_recv(&c->wire, buffer, want);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n <= 0) {
            drop(c, LOST, n < 0 ? errno : 0);
            return false;
        }
        if (!take(c, (size_t)n, now_ns())) {
            drop(c, WRONG, 0);
            return false;
        }
        if ((size_t)n < want)
            return true;
        limit -= (size_t)n;
    }
    return true;
}

/* ---- connecting --------------------------------------------------------- */

void launch(struct conn *c)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET,
                                .data.ptr = c};
    struct sockaddr_in source = {.sin_family = AF_INET};
    uint32_t host = ntohl(run.server.sin_addr.s_addr);
    int one = 1, small = SLOW_RCVBUF, fd;

    *c = (struct conn){.wire.fd = -1, .kind = c->kind, .index = c->index,
                       .stamps = c->stamps, .state = CONNECTING,
                       .started = now_ns(), .next = c->index * 37 % run.ring.count};
    c->due = c->next;
    c->put = c->get = c->next > 0 ? run.ring.ends[c->next - 1] : 0;
    run.pending++;
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || !wire_begin(&c->wire, fd, false)) {
        drop(c, REFUSED, errno);
        if (fd >= 0)
            close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->kind == SLOW)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (host >> 24 == 127) { /* one address has 28,000 ports to give */
        source.sin_addr.s_addr = htonl(0x7f000001U + c->index % SOURCES);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0) {
            drop(c, REFUSED, errno);
            return;
        }
    }
    if ((connect(fd, (struct sockaddr *)&run.server, sizeof run.server) < 0 &&
         errno != EINPROGRESS) ||
        epoll_ctl(run.epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        drop(c, REFUSED, errno);
}

/* True when connected; it then has its greeting under way. */
static bool connected(struct conn *c)
{
    int error = 0;
    socklen_t length = sizeof error;

    getsockopt(c->wire.fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        drop(c, REFUSED, error);
        return false;
    }
    c->state = GREETING;
    queue(c, now_ns());
    return true;
}

static void handle(struct conn *c, uint32_t events)
{
    if (c->state == CLOSED || (c->state == CONNECTING && !connected(c)))
        return;
    if (events & EPOLLOUT || wire_shakes(&c->wire)) {
        flush(c);
        if (c->state == CLOSED)
            return;
    }
    if (!(events & ~(uint32_t)EPOLLOUT) || !receive(c, SIZE_MAX) ||
        c->state != OPEN)
        return;
    if (run.churning) {
        run.messages += run.measuring;
        hang_up(c);
        launch(c);
    } else if (c->kind == ACTIVE && run.sending && opt.rate <= 0) {
        fill_window(c, run.progress);
    } else if (c->kind == SLOW) { /* from now on served by the clock */
        epoll_ctl(run.epoll, EPOLL_CTL_DEL, c->wire.fd, NULL);
    }
}

void step(uint64_t until)
{
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns();
    int timeout = 0;

    if (!opt.spin && until > now) {
        uint64_t wait = until - now;
        struct pollfd ready = {.fd = run.epoll, .events = POLLIN};
        struct timespec t = {.tv_nsec = (long)(wait % SECOND)};
        if (wait >= SECOND / 100)
            timeout = wait < SECOND ? (int)(wait / 1000000U) : 1000;
        else
            ppoll(&ready, 1, &t, NULL); /* finer than a millisecond */
    }
    int n = epoll_wait(run.epoll, events, EVENTS, timeout);
    for (int i = 0; i < n; i++)
        handle(events[i].data.ptr, events[i].events);
}

void open_range(unsigned first, unsigned end, unsigned window)
{
    unsigned next = first;
    uint64_t patience = (uint64_t)(opt.timeout * 1e9), failures = 0;

    run.progress = now_ns();
    do {
        while (next < end && run.pending < window &&
               !(failures && run.stop_at_failure))
            launch(&run.conns[next++]);
        step(run.progress + patience);
        failures = run.faults[REFUSED] + run.faults[LOST] + run.faults[WRONG];
    } while (now_ns() - run.progress < patience &&
             (run.pending > 0 ||
              (next < end && !(failures && run.stop_at_failure))));
    for (unsigned i = first; i < next; i++)
        if (run.conns[i].state == CONNECTING || run.conns[i].state == GREETING)
            drop(&run.conns[i], UNANSWERED, 0);
}
