/* A life's peers: see life.h. */
#ifdef __linux__
#include "life.h"
#include "sim.h"
#include "toy.h"

#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

static void new_peer(int fd, int port, const pmx_policy *policy)
{
    peer *p = &life.peers[life.peer_count++];
    *p = (peer){.fd = fd, .port = port, .policy = *policy, .conn = -1};
}

/* Which connection it is the end of, once there is one. */
void peers_links(void)
{
    for (int i = 0; i < life.peer_count; i++)
        if (life.peers[i].fd >= 0)
            life.peers[i].link = sim_link(life.peers[i].fd);
}

void peers_note_drain(void)
{
    for (int i = 0; i < life.peer_count; i++) {
        peer *p = &life.peers[i];
        int left = 0;
        if (p->fd >= 0 && !p->pipe)
            CHECK(!sim_ioctl(p->fd, SIOCOUTQ, &left));
        p->ended_by_drain = p->ended && !p->is_urgent && !(left && p->port);
    }
}

static void some_rules(void)
{
    static const size_t rooms[] = {16, 300, 2000, 9000, 70000, 70000};
    static const int64_t delays[] = {0, 0, 0, MS / 5, 20 * MS};
    static const enum sim_dial dials[] = {SIM_SOON, SIM_SOON, SIM_AT_ONCE,
                                          SIM_LATER};
    sim_now.room_in = life.large ? 70000 : ONE_OF(life.c, rooms);
    sim_now.room_out = life.large ? 70000 : ONE_OF(life.c, rooms);
    sim_now.delay = ONE_OF(life.c, delays);
    sim_now.dial = life.wild && once_in(life.c, 20) ? SIM_LOST
                                                    : ONE_OF(life.c, dials);
}

static void peer_calls(void)
{
    const door *d = &ONE_OF(life.c, life.doors);
    pmx__target to;
    if (!d->id || life.peer_count == MOST_PEERS)
        return;
    some_rules();
    enum sim_dial dial = sim_now.dial;
    sim_now.dial = SIM_SOON;
    CHECK(!pmx__resolve(&d->at, &to));
    int fd = sim_socket(to.to.any.sa_family, SOCK_STREAM, 0);
    if (fd < 0)
        return;
    if (sim_connect(fd, &to.to.any, to.size) && errno != EINPROGRESS) {
        sim_close(fd);          /* a full backlog */
        return;
    }
    sim_now.dial = dial;
    new_peer(fd, sim_port(fd), &d->policy);
    header_plan(&life.peers[life.peer_count - 1]);
    TRACE("peer %d calls door %d\n", life.peer_count - 1,
          (int)(d - life.doors));
}

/* Something to send: a frame, as it should be or not. */
static void peer_plans(peer *p)
{
    const pmx_framing *f = &p->policy.framing;
    size_t most = plain_most(f);
    size_t size = f->kind == PMX_FIXED ? most : some_size(most);
    buffer text = {0};
    if (p->plan.size > (life.large && life.max_rows > 5 ? 200000u : 10000u))
        return;
    if (life.wild && once_in(life.c, 12))
        size += 1 + choose(life.c, 3);          /* too long, perhaps */
    fill(&text, size + 1, (uint32_t)p->plan.size + choose(life.c, 256));
    for (size_t i = 0; i < size; i++)
        text.bytes[i] = (uint8_t)"abcdx\nyz"[text.bytes[i] % 8];
    if (life.wild && once_in(life.c, 12))
        append(&p->plan, text.bytes, size);     /* no frame at all */
    else
        plain_stream(f, text.bytes, size, &p->plan);
    release(&text);
}

static int is_loss(const peer *p, ssize_t n)
{
    if (n >= 0 || errno == EAGAIN)
        return 0;
    TRACE("peer %d: errno %d\n", (int)(p - life.peers), errno);
    return 1;
}

/* One on a Unix socket may pass a descriptor along: the core's receive ends
 * behind the bytes that it comes with, whatever is there behind them. */
static int passes(const peer *p)
{
    return !p->port && !p->pipe && !life.ending && once_in(life.c, 3) &&
           !sim_passes(p->fd);
}

static ssize_t pass_and_send(const peer *p, size_t size)
{
    struct iovec span = {p->plan.bytes + p->planned, (size + 1) / 2};
    const struct msghdr with = {.msg_iov = &span, .msg_iovlen = 1,
                                .msg_controllen = 1};
    ssize_t n = sim_sendmsg(p->fd, &with, 0), more = 0;
    TRACE("peer %d passes a descriptor\n", (int)(p - life.peers));
    if (n == (ssize_t)span.iov_len && size > span.iov_len)
        more = sim_send(p->fd, p->plan.bytes + p->planned + n,
                        size - span.iov_len, 0);
    return more > 0 ? n + more : n;
}

/* What is planned counts as sent when it is wrapped; it goes to the socket as
 * that takes it. 1: something went. */
static int send_wire(peer *p)
{
    size_t before = p->wired;
    while (p->wired < p->wire.size && !p->cannot_send) {
        ssize_t n = sim_send(p->fd, p->wire.bytes + p->wired,
                             p->wire.size - p->wired, 0);
        p->cannot_send = is_loss(p, n);
        if (n <= 0)
            break;
        p->wired += (size_t)n;
    }
    /* who says bye has ended; the end of the stream follows at once */
    if (p->says_bye && p->wired == p->wire.size && !p->ended)
        p->ended = !sim_shutdown(p->fd, SHUT_WR);
    return p->wired > before;
}

/* Over TLS a peer that calls is the client, and one that is called the
 * server, which need not wait for the hello. */
static void greet(peer *p)
{
    if (life.toy == 1)
        append(&p->wire, "h", 1);
    else if (p->answers)
        toy_record(&p->wire, 's', NULL, 0);
    else
        toy_greet(&p->wire);
}

static int toy_sends(peer *p, size_t size)
{
    if (p->ended || p->cannot_send)
        return 0;
    if (!p->wire.size)
        greet(p);
    int moved = send_wire(p);
    if (p->wired < p->wire.size || !size || p->says_bye)
        return moved;
    if (life.toy == 2)
        toy_data(&p->wire, p->plan.bytes + p->planned, size);
    else
        toy_wrap(&p->wire, p->plan.bytes + p->planned, size);
    append(&p->sent, p->plan.bytes + p->planned, size);
    p->planned += size;
    (void)send_wire(p);
    return 1;
}

static int peer_sends(peer *p, size_t most)
{
    size_t size = p->plan.size - p->planned;
    if (size > most)
        size = most;
    if (p->headed < p->header.size)
        return !p->ended && !p->cannot_send && header_sends(p, most);
    if (life.toy)
        return toy_sends(p, size);
    if (!size || p->ended || p->cannot_send)
        return 0;
    ssize_t n = passes(p) ? pass_and_send(p, size)
                : p->pipe ? sim_write(p->fd, p->plan.bytes + p->planned, size)
                          : sim_send(p->fd, p->plan.bytes + p->planned, size,
                                     0);
    p->cannot_send = is_loss(p, n);
    if (n <= 0)
        return 0;
    append(&p->sent, p->plan.bytes + p->planned, (size_t)n);
    p->planned += (size_t)n;
    TRACE("peer %d sends %d\n", (int)(p - life.peers), (int)n);
    return 1;
}

static void unwrap(peer *p)
{
    size_t before = p->secret.plain.size;
    if (life.toy == 1)
        (void)toy_unwrap(&p->heard, &p->unwrapped, &p->got);
    toy_parse(&p->secret);
    if (p->secret.plain.size > before)
        append(&p->got, p->secret.plain.bytes + before,
               p->secret.plain.size - before);
}

static int peer_reads(peer *p, size_t most)
{
    uint8_t bytes[16384];
    size_t all = 0;
    ssize_t n = 0;
    while (all < most && !p->got_end && !p->is_lost &&
           p->pipe != PMX_READABLE) {
        size_t part = most - all < sizeof bytes ? most - all : sizeof bytes;
        n = p->pipe ? sim_read(p->fd, bytes, part)
                    : sim_recv(p->fd, bytes, part, 0);
        p->is_lost = is_loss(p, n);
        if (n <= 0)
            break;
        size_t skip = header_got(p, bytes, (size_t)n);
        append(life.toy == 2 ? &p->secret.wire
               : life.toy ? &p->heard : &p->got, bytes + skip, (size_t)n - skip);
        all += (size_t)n;
    }
    if (life.toy)
        unwrap(p);
    if (all)
        TRACE("peer %d gets %d\n", (int)(p - life.peers), (int)all);
    if (n == 0 && all < most && !p->got_end && !p->is_lost &&
        p->pipe != PMX_READABLE) {
        p->got_end = 1;
        TRACE("peer %d gets the end\n", (int)(p - life.peers));
        return 1;
    }
    return all > 0;
}

static void peer_ends(peer *p)
{
    if (p->ended || p->is_lost)
        return;
    if (p->pipe) {              /* of which it writes */
        p->planned = p->plan.size;
        (void)writer_finishes(p);
        return;
    }
    if (life.toy && !p->cannot_send) {  /* behind a bye, once that is out */
        (void)toy_sends(p, 0);
        if (!p->says_bye && life.toy == 2)
            toy_record(&p->wire, 'b', NULL, 0);
        else if (!p->says_bye)
            toy_bye(&p->wire);
        p->says_bye = 1;
        (void)send_wire(p);
        if (!p->cannot_send)
            return;
    }
    if (sim_shutdown(p->fd, SHUT_WR))
        return;
    p->ended = 1;
    TRACE("peer %d ends\n", (int)(p - life.peers));
}

static void peer_leaves(peer *p, int by_reset)
{
    struct linger now = {1, 0};
    if (by_reset)
        sim_setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    peers_links();
    sim_close(p->fd);
    p->fd = -1;
    p->ended = 1;
    p->matter |= WAS_RESET;
    TRACE("peer %d leaves%s\n", (int)(p - life.peers),
          by_reset ? " by a reset" : "");
}

static void peer_does_ill(peer *p)
{
    static const int errors[] = {ETIMEDOUT, EHOSTUNREACH, ECONNRESET};
    switch (choose(life.c, 4)) {
    case 0:
        peer_leaves(p, 1);
        break;
    case 1:
        peer_leaves(p, 0);
        break;
    case 2:
        if (p->matter & WAS_CUT)
            break;
        p->break_error = ONE_OF(life.c, errors);
        p->matter |= WAS_CUT;
        sim_break(p->fd, p->break_error);
        TRACE("peer %d is cut off: %d\n", (int)(p - life.peers),
              p->break_error);
        break;
    default:
        if (!p->ended && !p->cannot_send)
            p->is_urgent |= sim_send(p->fd, "!", 1, MSG_OOB) > 0;
        break;
    }
}

static void one_peer_acts(void)
{
    peer *p;
    peers_accept();
    if (!life.peer_count || once_in(life.c, 5)) {
        peer_calls();
        return;
    }
    p = &life.peers[choose(life.c, (uint32_t)life.peer_count)];
    if (p->fd < 0)
        return;
    switch (choose(life.c, 8)) {
    case 0: case 1:
        peer_plans(p);
        (void)peer_sends(p, SIZE_MAX);
        break;
    case 2:
        peer_plans(p);
        peer_plans(p);
        break;
    case 3:
        (void)peer_sends(p, 1 + choose(life.c, 5000));
        break;
    case 4:
        (void)peer_reads(p, SIZE_MAX);
        break;
    case 5:
        (void)peer_reads(p, 1 + choose(life.c, 256));
        break;
    case 6:
        if (once_in(life.c, 6))
            peer_ends(p);
        break;
    default:
        if (life.wild && once_in(life.c, 4))
            peer_does_ill(p);
        break;
    }
}

/* The others' listeners, which the mux calls. */
void peers_listen(void)
{
    for (int i = 0; i < DOORS - 1; i++) {
        door *d = &life.others[i];
        union {
            struct sockaddr is;
            struct sockaddr_in in;
        } at = {.in = {.sin_family = AF_INET}};
        some_rules();
        d->fd = sim_socket(AF_INET, SOCK_STREAM, 0);
        CHECK(!sim_bind(d->fd, &at.is, sizeof at.in));
        CHECK(!sim_listen(d->fd, (int)choose(life.c, 8)));
        d->policy = some_framing(life.c);
        d->at = (pmx_endpoint){.host = "127.0.0.1",
                               .port = (uint32_t)sim_port(d->fd)};
    }
    /* nobody listens there */
    life.others[DOORS - 1].at = (pmx_endpoint){.host = "127.0.0.1",
                                               .port = 1};
    life.others[DOORS - 1].policy = raw();
    life.others[DOORS - 1].fd = -1;
}

/* The mux has adopted a socket whose peer is to be a client. */
static int is_served(int port)
{
    int n = life.serve_count;
    while (n && life.serves[n - 1] != port)
        n--;
    return n;
}

void peers_accept(void)
{
    union {
        struct sockaddr is;
        struct sockaddr_in in;
    } name;
    for (int i = 0; i < DOORS; i++) {
        door *d = &life.others[i];
        while (d->fd >= 0 && life.peer_count < MOST_PEERS) {
            socklen_t size = sizeof name;
            some_rules();
            int fd = sim_accept(d->fd, &name.is, &size);
            if (fd < 0)
                break;
            new_peer(fd, ntohs(name.in.sin_port), &d->policy);
            life.peers[life.peer_count - 1].answers =
                !is_served(ntohs(name.in.sin_port));
            TRACE("peer %d accepts at %d\n", life.peer_count - 1, i);
        }
    }
}

/* In a wait: whether one has done something. */
int peers_act(void)
{
    if (life.acts) {
        life.acts--;
        sim_as_peer = 1;
        one_peer_acts();
        sim_as_peer = 0;
        return 1;
    }
    if (life.t.timeout_ns == PMX_FOR_EVER && !life.woken) {
        inject_pause(1);
        EQUAL(pmx_wakeup(life.mux), 0);
        inject_pause(0);
        life.woken = 1;
        return 1;
    }
    return 0;
}

/* All that has to be read is, all that has to be sent; who gets the end ends,
 * and leaves. */
int peers_finish(void)
{
    int moved = 0;
    sim_as_peer = 1;
    int before = life.peer_count;
    peers_accept();
    moved |= life.peer_count > before;
    /* more than that can be: who still waits is reset */
    for (int i = 0; i < DOORS && life.peer_count == MOST_PEERS; i++)
        if (life.others[i].fd >= 0) {
            sim_close(life.others[i].fd);
            life.others[i].fd = -1;
            moved = 1;
        }
    for (int i = 0; i < life.peer_count; i++) {
        peer *p = &life.peers[i];
        if (p->fd < 0)
            continue;
        moved |= peer_reads(p, SIZE_MAX);
        if (p->got_end || p->is_lost) {
            peer_ends(p);
            if (life.toy && !p->ended)
                p->matter |= WAS_RESET;         /* it said less than it was to */
            peers_links();
            sim_close(p->fd);
            p->fd = -1;
            moved = 1;
            continue;
        }
        if (life.talk && !p->ended) {
            life.talk--;
            peer_plans(p);
        }
        moved |= peer_sends(p, SIZE_MAX);
        if (p->pipe == PMX_READABLE) {
            moved |= writer_finishes(p);
            continue;
        }
        if (!p->ended && (p->says_bye || (life.way == 3 &&
                                          p->planned == p->plan.size))) {
            peer_ends(p);
            moved |= p->ended;
        }
    }
    sim_as_peer = 0;
    return moved;
}

/* The beginning of what the user sent, and of nothing else. */
void compare_got(peer *p)
{
    const conn *k = p->conn >= 0 ? &life.conns[p->conn] : NULL;
    size_t more = p->got.size - p->compared;
    if (!more || !k)
        return;
    CHECK(p->got.size <= k->expected.size);
    CHECK(!memcmp(p->got.bytes + p->compared, k->expected.bytes + p->compared,
                  more));
    p->compared = p->got.size;
}
#else
typedef int life_peers_on_linux;    /* a file must not be empty */
#endif
