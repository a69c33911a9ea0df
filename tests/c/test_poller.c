/* The contract of a backend, see poller.h. */
#include "world.h"

#include <string.h>

typedef struct {
    const pmx__poller *is;
    void *state;
    pmx__event events[64];
} poller;

static void begin(poller *p)
{
    EQUAL(pmx__poller_open(test_backend, 0, &p->is, &p->state), 0);
    CHECK(!strcmp(p->is->name, test_backend));
}

static void unpair(const pmx_sock pair[2])
{
    leave(pair[0]);
    leave(pair[1]);
}

/* What one wait that does not block says of a token. */
static uint32_t what_of(poller *p, uint64_t token)
{
    uint32_t what = 0;
    int n = p->is->wait(p->state, p->events, 64, 0);
    CHECK(n >= 0);
    for (int i = 0; i < n; i++)
        if (p->events[i].token == token)
            what |= p->events[i].what;
    return what;
}

static void a_poller_tells_who_can_read_and_write(void)
{
    poller p;
    pmx_sock a[2], b[2];
    begin(&p);
    pair_of(a);
    pair_of(b);
    uint64_t big = UINT64_MAX - 5;
    EQUAL(p.is->add(p.state, a[0], big, PMX__IN | PMX__OUT), 0);
    EQUAL(p.is->add(p.state, b[0], 7, PMX__IN | PMX__OUT), 0);
    EQUAL(what_of(&p, big) & (PMX__IN | PMX__OUT), PMX__OUT);
    p.is->mod(p.state, a[0], big, PMX__IN);
    p.is->mod(p.state, b[0], 7, PMX__IN);
    EQUAL(what_of(&p, 7), 0);
    put_text(b[1], "x");
    CHECK(what_of(&p, 7) & PMX__IN);
    EQUAL(what_of(&p, big) & PMX__IN, 0);
    p.is->del(p.state, b[0]);
    put_text(b[1], "x");
    EQUAL(what_of(&p, 7), 0);
    put_text(a[1], "x");
    CHECK(what_of(&p, big) & PMX__IN);
    p.is->del(p.state, a[0]);
    unpair(a);
    unpair(b);
    p.is->close(p.state);
}

static void one_that_wants_nothing_is_not_told_of_a_hang_up(void)
{
    poller p;
    pmx_sock a[2];
    begin(&p);
    pair_of(a);
    EQUAL(p.is->add(p.state, a[0], 7, PMX__IN), 0);
    p.is->mod(p.state, a[0], 7, PMX__DROP);
    put_text(a[1], "x");
    leave(a[1]);
    if (!p.is->edge) {
        EQUAL(what_of(&p, 7), 0);
        p.is->mod(p.state, a[0], 7, PMX__IN);
    }
    CHECK(what_of(&p, 7) & PMX__IN);
    p.is->del(p.state, a[0]);
    leave(a[0]);
    p.is->close(p.state);
}

static void one_that_watches_errors_tells_of_a_hang_up(void)
{
    poller p;
    pmx_sock a[2];
    begin(&p);
    pair_of(a);
    EQUAL(p.is->add(p.state, a[0], 7, PMX__IN | PMX__OUT), 0);
    (void)what_of(&p, 7);
    p.is->mod(p.state, a[0], 7, 0);
    leave(a[1]);
    if (p.is->watches_errors)
        CHECK(what_of(&p, 7) & PMX__LAST);
    else
        EQUAL(what_of(&p, 7), 0);
    p.is->del(p.state, a[0]);
    leave(a[0]);
    p.is->close(p.state);
}

static void nobody_starves_where_more_are_ready_than_fit(void)
{
    enum { COUNT = 20 };
    poller p;
    pmx_sock pairs[COUNT][2];
    int seen[COUNT] = {0};
    begin(&p);
    for (int i = 0; i < COUNT; i++) {
        pair_of(pairs[i]);
        put_text(pairs[i][1], "x");
        EQUAL(p.is->add(p.state, pairs[i][0], (uint64_t)i, PMX__IN), 0);
    }
    for (int turns = 0; turns < COUNT / 4; turns++) {
        int n = p.is->wait(p.state, p.events, 4, 0);
        EQUAL(n, 4);
        for (int i = 0; i < n; i++)
            seen[p.events[i].token]++;
    }
    for (int i = 0; i < COUNT; i++)
        EQUAL(seen[i], 1);
    for (int i = 0; i < COUNT; i++) {
        p.is->del(p.state, pairs[i][0]);
        unpair(pairs[i]);
    }
    p.is->close(p.state);
}

/* Adding and deleting in all orders must not confuse tokens. */
static void tokens_stay_with_their_descriptors(void)
{
    enum { COUNT = 40 };
    poller p;
    pmx_sock pairs[COUNT][2];
    int in[COUNT] = {0};
    uint32_t x = 1;
    begin(&p);
    for (int i = 0; i < COUNT; i++)
        pair_of(pairs[i]);
    for (int step = 0; step < 2000; step++) {
        x = x * 1664525u + 1013904223u;
        int i = (int)(x >> 8) % COUNT;
        if (in[i])
            EQUAL(p.is->del(p.state, pairs[i][0]), 0);
        else
            EQUAL(p.is->add(p.state, pairs[i][0], (uint64_t)i + 100,
                            PMX__IN), 0);
        in[i] = !in[i];
        int k = (int)(x >> 16) % COUNT;
        put_text(pairs[k][1], "x");
        uint32_t what = what_of(&p, (uint64_t)k + 100);
        EQUAL(!!(what & PMX__IN), in[k]);
        buffer b = {0};
        get(pairs[k][0], &b);
        release(&b);
    }
    for (int i = 0; i < COUNT; i++)
        unpair(pairs[i]);
    p.is->close(p.state);
}

static void a_wait_is_never_shorter_than_asked(void)
{
    static const int64_t spans[] = {1, 999, 1000, 50 * 1000, 1001 * 1000,
                                    3 * MS + 1};
    poller p;
    begin(&p);
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        int64_t before = pmx__now();
        EQUAL(p.is->wait(p.state, p.events, 64, spans[i]), 0);
        CHECK(pmx__now() - before >= spans[i]);
    }
    p.is->close(p.state);
}

static void its_descriptor_is_readable_when_a_wait_has_something(void)
{
    poller p;
    pmx_sock a[2];
    begin(&p);
    int fd = p.is->fileno(p.state);
    if (fd < 0) {
        EQUAL(fd, -ENOTSUP);
    } else {
        const pmx__poller *outer;
        void *state;
        pmx__event event;
        pair_of(a);
        EQUAL(p.is->add(p.state, a[0], 7, PMX__IN), 0);
        (void)what_of(&p, 7);
        EQUAL(pmx__poller_open("poll", 0, &outer, &state), 0);
        EQUAL(outer->add(state, (pmx_sock)fd, 1, PMX__IN), 0);
        EQUAL(outer->wait(state, &event, 1, 0), 0);
        put_text(a[1], "x");
        EQUAL(outer->wait(state, &event, 1, 0), 1);
        outer->close(state);
        unpair(a);
    }
    p.is->close(p.state);
}

/* On Unix by their number, on Windows by their count. */
static void select_refuses_what_its_sets_cannot_hold(void)
{
    const pmx__poller *s;
    void *state;
    pmx_sock limit = (pmx_sock)pmx_select_limit();
    EQUAL(pmx__poller_open("select", 0, &s, &state), 0);
#ifdef _WIN32
    for (pmx_sock i = 0; i < limit; i++)
        EQUAL(s->add(state, 4 * i + 4, i, PMX__IN), 0);
    EQUAL(s->add(state, 4, 1, PMX__IN), -ENOSPC);
    EQUAL(s->del(state, 400), 0);
    EQUAL(s->add(state, 3, 1, PMX__IN), 0);
#else
    EQUAL(s->add(state, limit, 1, PMX__IN), -ENOSPC);
#endif
    s->close(state);
}

static void an_unknown_backend_is_refused(void)
{
    pmx_mux *mux;
    EQUAL(pmx_backend_probe("what"), -EINVAL);
    EQUAL(pmx_open(&mux, "what", 10, 1000, 0), -EINVAL);
    EQUAL(pmx_open(&mux, NULL, 0, 1000, 0), -EINVAL);
    EQUAL(pmx_open(&mux, NULL, 10, 0, 0), -EINVAL);
    EQUAL(pmx_open(&mux, NULL, 10, UINT64_C(1) << 31, 0), -EINVAL);
    EQUAL(pmx_open(&mux, NULL, UINT32_MAX, 1000, 0), -EINVAL);
    EQUAL(pmx_open(&mux, NULL, 10, 1000, 0), 0);
    CHECK(!strcmp(pmx_name(mux), pmx_backend_name(0)) ||
          pmx_backend_probe(pmx_backend_name(0)));
    pmx_close(mux);
}

const test_case poller_tests[] = {
    EACH(a_poller_tells_who_can_read_and_write),
    EACH(one_that_wants_nothing_is_not_told_of_a_hang_up),
    EACH(one_that_watches_errors_tells_of_a_hang_up),
    EACH(nobody_starves_where_more_are_ready_than_fit),
    EACH(tokens_stay_with_their_descriptors),
    EACH(a_wait_is_never_shorter_than_asked),
    EACH(its_descriptor_is_readable_when_a_wait_has_something),
    ONCE(select_refuses_what_its_sets_cannot_hold),
    ONCE(an_unknown_backend_is_refused),
    {0},
};
