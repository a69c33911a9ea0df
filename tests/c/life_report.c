/* What a life is told of its connections must be so: see life.h. */
#ifdef __linux__
#include "life.h"
#include "sim.h"
#include "toy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- who is who -------------------------------------------------------- */

/* By the connection's own mark; where the socket is gone already, by name. */
static int peer_of(const pmx__conn *c, int port)
{
    uint64_t link = c->sock >= 0 ? sim_link(c->sock) : 0;
    for (int i = 0; i < life.peer_count; i++) {
        const peer *p = &life.peers[i];
        if (p->conn < 0 && (link ? p->link == link : port && p->port == port))
            return i;
    }
    return -1;
}

static void meet_peer(conn *k)
{
    pmx_address names[2];
    const pmx__conn *c = pmx__find(life.mux, k->id);
    CHECK(c);
    EQUAL(pmx_addresses(life.mux, k->id, names), 0);
    inject_pause(1);
    sim_as_peer = 1;
    peers_accept();
    sim_as_peer = 0;
    peers_links();
    if (!k->pipe)
        k->peer = peer_of(c, (int)names[k->outgoing].port);
    int64_t of[3] = {0};
    int told = pmx_credentials(life.mux, k->id, of);
    CHECK(c->sock < 0 ? told == -ENOENT
          : k->pipe ? told == -ENOTSUP
          : names[0].family == 1 ? !told && of[0] == 1 && of[1] == 2 && of[2] == 3
                                 : told == -ENOTSUP);
    inject_pause(0);
    CHECK(k->peer >= 0 || life.faults || names[0].family == 1 ||
          life.peer_count == MOST_PEERS);       /* nobody accepts it */
    if (k->peer < 0)
        return;
    peer *p = &life.peers[k->peer];
    CHECK(!p->has_no_header);
    CHECK(names[0].family == 1 || life.faults ||
          p->port == (int)names[k->outgoing].port);
    p->conn = (int)(k - life.conns);
    if (!k->outgoing)
        k->policy = p->policy;
    TRACE("conn %d is peer %d's\n", p->conn, k->peer);
}

/* --- what is reported -------------------------------------------------- */

/* All rows of a harvest are of one service. */
static void check_service(const conn *k)
{
    int may_fail = life.faults || k->matter ||
                   (k->peer >= 0 && life.peers[k->peer].matter);
    int was = life.t.service < 32 && k->was_in >> life.t.service & 1;
    if (!may_fail || !was)              /* else it failed before it could switch */
        EQUAL(k->policy.service, life.t.service);
}

void check_opened(uint64_t id)
{
    conn *k = conn_of(id);
    if (!k) {
        CHECK(life.conn_count < MOST_CONNS);
        k = &life.conns[life.conn_count++];
        *k = (conn){.id = id, .peer = -1, .half = life.half,
                    .since = sim_clock()};
        EQUAL(pmx_policy_of(life.mux, id, &k->policy), 0);
    } else {
        CHECK(k->outgoing);
    }
    CHECK(!k->opened && !k->told_closed);
    k->opened = 1;
    life.opened++;
    meet_peer(k);
    check_service(k);
    if (life.faults == 2)
        k->matter |= HAS_FAULT;
    if (life.all_reset)         /* it may have been among them */
        k->matter |= RESET_ALL;
}

static void check_text(conn *k, const uint8_t *bytes, size_t size)
{
    peer *p = &life.peers[k->peer];
    const pmx_framing *f = &k->policy.framing;
    const uint8_t *from = p->sent.bytes + p->cut;
    size_t left = p->sent.size - p->cut, begin, length, next;
    int is_cut = life.draining || k->limited || k->matter & HAS_FAULT;
    CHECK(!k->last_line);
    if (f->kind == PMX_RAW) {
        CHECK(size && size <= left && !memcmp(from, bytes, size));
        p->cut += size;
        return;
    }
    enum plain is = plain_cut(f, from, left, 0, &begin, &length, &next);
    if (is == PLAIN_MESSAGE && (size == length || !is_cut)) {
        EQUAL(size, length);
        CHECK(!size || !memcmp(from + begin, bytes, size));
        p->cut += next;
        return;
    }
    /* a last line that has no end, or what had come of it by the drain, or by
     * a fault that says that the peer had ended */
    CHECK(f->kind == PMX_LINES && (p->ended || is_cut));
    CHECK(size && size <= f->max_size);
    CHECK(size == left || (is_cut && size < left));
    CHECK(!memcmp(from, bytes, size));
    p->cut += size;
    k->last_line = 1;
}

void check_message(uint32_t row)
{
    const pmx_arena *a = life.t.arena;
    conn *k = conn_of(a->ids[row]);
    CHECK(k && k->opened && !k->told_closed && !k->told_ended);
    check_service(k);
    CHECK(!k->paused || life.gathering);
    CHECK(!k->closed_by_user || life.gathering);
    CHECK(a->offsets[row + 1] >= a->offsets[row] + (int32_t)a->gap);
    size_t size = (size_t)(a->offsets[row + 1] - a->offsets[row]) - a->gap;
    const uint8_t *bytes = a->data + a->offsets[row];
    CHECK(a->slots[row] == (uint32_t)a->ids[row]);
    CHECK(a->uniform == UINT32_MAX || a->uniform == size);
    if (a->gap) {
        EQUAL(k->policy.framing.width, a->gap);
        CHECK(!memcmp(bytes + size, k->policy.framing.delimiter, a->gap));
    }
    if (k->peer >= 0)
        check_text(k, bytes, size);
    k->had_row = 1;
    life.rows++;
    TRACE("conn %d: %d bytes\n", (int)(k - life.conns), (int)size);
    if (once_in(life.c, 2))
        user_says((int)(k - life.conns), PMX_SEND, size);
}

/* What was delivered is all that there was to deliver: the next of it, if
 * anything, is none. */
static void check_input_done(const conn *k)
{
    size_t begin, length, next;
    const peer *p = &life.peers[k->peer];
    size_t left = p->sent.size - p->cut;
    if (left)
        EQUAL(plain_cut(&k->policy.framing, p->sent.bytes + p->cut, left, 1,
                        &begin, &length, &next), PLAIN_NONE);
}

int peer_matter(const conn *k)
{
    return k->matter | (k->peer >= 0 ? life.peers[k->peer].matter : 0);
}

/* Whether the drain has cut its input; not where the peer's end was there. */
static int was_cut(const conn *k)
{
    int cut = pmx_stopping(life.mux, k->id);
    CHECK(!cut || is_drained(k));
    if (k->peer >= 0 && !peer_matter(k) && !k->limited)
        CHECK(!cut || !life.peers[k->peer].ended_by_drain);
    return cut;
}

void check_ended(uint64_t id)
{
    conn *k = conn_of(id);
    CHECK(k && k->opened && !k->told_ended && !k->told_closed);
    CHECK(k->policy.half_open);
    check_service(k);
    k->told_ended = 1;
    TRACE("conn %d has ended\n", (int)(k - life.conns));
    if (k->peer < 0 || was_cut(k))
        return;
    CHECK(life.peers[k->peer].ended || k->matter & HAS_FAULT);
    if (!k->closed_by_user && !(k->matter & HAS_FAULT))
        check_input_done(k);
}

/* True if it may have been over high water; TLS queues bytes of its own too. */
static int may_have_been_over(const conn *k)
{
    return k->was_over || life.toy == 2;
}

/* The rows `blocked` and `drained` alternate. */
void check_blocked(uint64_t id)
{
    conn *k = conn_of(id);
    CHECK(k && k->opened && !k->told_closed && !k->told_blocked);
    CHECK(!k->closed_by_user || life.gathering);
    CHECK(may_have_been_over(k));
    check_service(k);
    k->told_blocked = 1;
}

void check_drained(uint64_t id)
{
    conn *k = conn_of(id);
    CHECK(k && k->opened && !k->told_closed && k->told_blocked);
    CHECK(may_have_been_over(k));
    k->told_blocked = 0;
    check_service(k);
    uint64_t slack = life_slack();
    /* while a row waits for its service's turn, or its mux's, more may be
     * queued; and so behind a switch, which sends what was logged before */
    int at_once = life.services == 1 && !k->switched && !life.other.mux;
    uint64_t most = at_once ? k->policy.low_water : k->policy.high_water;
    if (life.max_rows >= 64 && !life.gathering)
        CHECK(pmx_queued(life.mux, id) <= most + slack);
    /* one that comes late may find it over again */
    k->was_over = pmx_queued(life.mux, id) > k->policy.low_water;
    k->is_over = pmx_queued(life.mux, id) > k->policy.high_water + slack;
}

/* Whether something that happened explains the error. */
static int explains(const conn *k, int error)
{
    const peer *p = k->peer >= 0 ? &life.peers[k->peer] : NULL;
    int matter = peer_matter(k);
    int draining = is_drained(k);
    size_t begin, length, next;
    enum plain is;
    if (matter & (HAS_FAULT | RESET_ALL) || (k->opened && !p))
        return 1;
    /* What was sent before a switch has found the peer lost: what the framing
     * before the switch has found stands. */
    if ((error == EMSGSIZE || error == EPROTO) && k->switched &&
        matter & (WAS_RESET | WAS_CUT))
        return 1;
    switch (error) {
    case 0:
        return k->closed_by_user || draining || matter ||
               !p || p->ended;
    case ECONNRESET:
        return matter & (WAS_RESET | WAS_CUT) ||
               (k->outgoing && !k->opened &&
                (life.wild || life.peer_count == MOST_PEERS));
    case ECONNABORTED:
        return matter & USER_FAILED ||
               (life.toy && matter & (WAS_RESET | WAS_CUT));
    case ENOBUFS:
        return matter & MAY_OVERFLOW;
    case ECONNREFUSED:
        return k->outgoing && !k->opened;
    case ETIMEDOUT:
        return (k->policy.idle_ns >= 0 && k->opened) ||
               (k->policy.message_ns >= 0 && k->opened &&
                (k->policy.framing.kind != PMX_RAW || k->begun)) ||
               k->policy.close_ns >= 0 ||
               (!k->opened && k->outgoing) ||
               (matter & WAS_CUT && p->break_error != ECONNRESET);
    case EHOSTUNREACH:          /* before it was known to be open */
        return k->outgoing && !k->opened && life.wild;
    case EMSGSIZE:              /* a drain may cut a delimiter in two, and a
                                 * scanner that saw a part find it too long */
        if (!p || (draining &&
                   p->sent.size - p->cut > k->policy.framing.max_size))
            return p != NULL;
        is = plain_cut(&k->policy.framing, p->sent.bytes + p->cut,
                       p->sent.size - p->cut, p->ended, &begin, &length,
                       &next);
        return is == PLAIN_TOO_LONG ||
               (is == PLAIN_BROKEN && k->policy.framing.kind == PMX_SCANNER);
    case EPROTO:
        if (life.toy == 2 && (matter & (WAS_RESET | WAS_CUT) || !k->opened))
            return 1;           /* a cut, or a handshake that failed */
        return p && p->cut < p->sent.size &&
               (p->ended || draining ||
                plain_cut(&k->policy.framing, p->sent.bytes + p->cut,
                          p->sent.size - p->cut, 0, &begin, &length,
                          &next) == PLAIN_BROKEN) &&
               k->policy.framing.kind != PMX_RAW &&
               k->policy.framing.kind != PMX_LINES;
    default:
        return 0;
    }
}

void check_closed(const pmx_closed *row)
{
    conn *k = conn_of(row->id);
    CHECK(k && !k->told_closed);
    CHECK(k->opened || k->outgoing);
    check_service(k);
    CHECK(row->slot == (uint32_t)row->id);
    k->told_closed = 1;
    k->error = row->error;
    life.closed++;
    TRACE("conn %d is closed: %d\n", (int)(k - life.conns), row->error);
    if (!explains(k, row->error)) {
        if (life_trace)
            fprintf(stderr, "error %d, what is the matter: %x\n", row->error,
                    (unsigned)peer_matter(k));
        test_differ(__FILE__, __LINE__, "an error that nothing explains",
                    row->error, 0);
    }
    /* all of its input was delivered, unless something cut it */
    const peer *p = k->peer >= 0 ? &life.peers[k->peer] : NULL;
    if (p && !row->error && !peer_matter(k) && !k->closed_by_user &&
        !was_cut(k)) {
        CHECK(p->ended);
        check_input_done(k);
    }
}
#else
typedef int life_report_on_linux;       /* a file must not be empty */
#endif
