/* A life with two muxes, between which connections move: see life.h. */
#ifdef __linux__
#include "life.h"
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int life_two;

void life_open_second(const char *backend, uint64_t size)
{
    if (!life_two || life.toy)  /* over the toys nothing moves */
        return;
    int error = pmx_open(&life.other.mux, backend, life.max_rows, size, 0);
    for (uint32_t k = 1; !error && k < life.services; k++)
        if (pmx_add_service(life.other.mux) < 0) {
            CHECK(life.faults);
            pmx_dispose(&life.other.mux);
            error = 1;
        }
    if (!error && life.proxied && !headers_trust_all(life.other.mux)) {
        pmx_dispose(&life.other.mux);
        error = 1;
    }
    CHECK(!error || life.faults || error == -EMFILE);
    if (error)
        return;
    inject_pause(1);
    life.other.arena = pmx_arena_new(size, life.max_rows);
    CHECK(life.other.arena);
    inject_pause(0);
    life.other.services = life.services;
}

/* The log is its mux's, so that takes it over before. */
static void submit(void)
{
    write_log();
    life.t.mux = life.mux;
    EQUAL(pmx_submit(&life.t), 0);
    life_note_faults();
    mux_is_sound(life.mux);
}

void life_turn_to_other(void)
{
    life_half was = {life.mux, life.arena, life.t, life.services,
                     life.gathering, {0}};
    if (!life.other.mux)
        return;
    submit();
    memcpy(was.waits, life.waits, sizeof was.waits);
    life.mux = life.other.mux;
    life.arena = life.other.arena;
    life.t = life.other.t;
    life.services = life.other.services;
    life.gathering = life.other.gathering;
    memcpy(life.waits, life.other.waits, sizeof life.waits);
    life.other = was;
    life.half ^= 1;
    TRACE("half %d\n", life.half);
}

/* By what the connection lives in the other mux: the policy of the door that it
 * came by, or another one with the same framing. */
static uint64_t some_heir(conn *k, const pmx_moving *m)
{
    const pmx__listener *l = NULL;
    pmx_policy own = k->policy;
    k->door = m->listener ? m->listener : k->door;
    k->was_over = k->answered = 1;      /* as far as is known */
    if (life.half && k->door && once_in(life.c, 2))
        l = pmx__find_listener(life.other.mux, k->door);
    if (l) {
        k->was_in |= UINT32_C(1) << k->policy.service;
        k->policy = l->rules->policy;
        k->policy.framing = own.framing;
        k->policy.replies = own.replies;
        return k->door;
    }
    if (once_in(life.c, 2)) {
        k->was_in |= UINT32_C(1) << k->policy.service;
        k->policy.high_water = choose(life.c, 9000);
        k->policy.low_water = k->policy.high_water / 2;
        k->policy.service = choose(life.c, life.other.services);
        k->policy.idle_ns = life.wild ? 50 * MS : -1;
    }
    return 0;
}

static void move(conn *k)
{
    pmx_moving m;
    buffer input = {0}, output = {0};
    uint64_t id = 0;
    int held = pmx_held(life.mux, k->id, &m);
    CHECK(!held || held == -EAGAIN || held == -ENOTSUP || held == -ENOENT);
    TRACE("conn %d moves: %d\n", (int)(k - life.conns), held);
    if (held)
        return;
    CHECK(k->opened && !k->outgoing && !k->closed_by_user && !life.toy);
    CHECK(!k->waits && !k->told_closed);
    EQUAL(!!(m.state & PMX_WAS_PAUSED), k->paused);
    EQUAL(!!(m.state & PMX_WAS_BLOCKED), k->told_blocked);
    EQUAL(!!(m.state & PMX_WAS_ENDED), k->told_ended);
    EQUAL(!!(m.state & PMX_WAS_SHUT), k->ended_by_user);
    EQUAL(m.output_size, pmx_queued(life.mux, k->id));
    char path[108];
    memcpy(path, m.peer.path_size ? m.peer.path : "", m.peer.path_size);
    m.peer.path = path;
    fill(&input, (size_t)m.input_size + 1, 1);
    fill(&output, (size_t)m.output_size + 1, 1);
    int64_t sock = pmx_detach(life.mux, k->id, input.bytes, output.bytes);
    CHECK(sock >= 0);
    EQUAL(pmx_held(life.mux, k->id, &m), -ENOENT);
    EQUAL(input.bytes[m.input_size], input.bytes[input.size - 1]);
    mux_is_sound(life.mux);
    const peer *p = k->peer >= 0 ? &life.peers[k->peer] : NULL;
    if (p && m.input_size) {    /* what is not cut yet, from its beginning */
        CHECK(m.input_size <= p->sent.size - p->cut);
        CHECK(!memcmp(input.bytes, p->sent.bytes + p->cut,
                      (size_t)m.input_size));
    }
    m.input = input.bytes;
    m.output = output.bytes;
    pmx_policy own = k->policy;
    uint64_t listener = some_heir(k, &m);
    int error = pmx_attach(life.other.mux, sock, listener, &k->policy, &m, &id);
    life_note_faults();
    mux_is_sound(life.other.mux);
    if (error) {                /* it goes back to where it was */
        CHECK(life.faults || error == -EMFILE);
        inject_pause(1);
        k->policy = own;
        EQUAL(pmx_attach(life.mux, sock, 0, &own, &m, &id), 0);
        inject_pause(0);
        mux_is_sound(life.mux);
    } else {
        k->half ^= 1;
        life.moved++;
    }
    CHECK(id);
    k->id = id;
    k->had_row = 0;
    if (m.state & PMX_WAS_ENDED && !k->policy.half_open)
        k->closed_by_user = 1;
    release(&input);
    release(&output);
}

void life_moves(void)
{
    if (!life.other.mux || !once_in(life.c, 2))
        return;
    submit();
    int all = once_in(life.c, 3);
    for (int i = 0; i < life.conn_count; i++)
        if (life.conns[i].half == life.half && life.conns[i].opened &&
            (all || once_in(life.c, 3)))
            move(&life.conns[i]);
}

/* --- what is accepted for others ----------------------------------------- */

void life_shares(void)
{
    static pmx_seat seats[3];
    if (!once_in(life.c, 4))
        return;
    inject_pause(1);
    FILE *file = file_of(sizeof seats);
    seats[1].open = 1;
    seats[1].here = choose(life.c, 3);
    rewind(file);
    CHECK(fwrite(seats, sizeof seats, 1, file) == 1);
    life.seats = dup(fileno(file));
    CHECK(life.seats > 0 && !fclose(file));
    inject_pause(0);
    int error = pmx_balance(life.mux, life.seats, 3, 2);
    CHECK(!error || life.faults);
    life_note_faults();
}

void life_gives(int reason)
{
    pmx_gift gift;
    CHECK(!(reason & PMX_GIVEN) || life.seats);
    while (reason & PMX_GIVEN && !once_in(life.c, 8) &&
           pmx_given(life.mux, &gift)) {
        EQUAL(gift.seat, 1);
        EQUAL(pmx_gave(life.mux, 0), 0);
        life_note_faults();
        mux_is_sound(life.mux);
    }
}

void life_shares_no_more(void)
{
    if (life.seats)
        CHECK(!close(life.seats));
}
#else
typedef int life_move_on_linux; /* a file must not be empty */
#endif
