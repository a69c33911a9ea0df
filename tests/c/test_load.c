/* The load generator: what it sends, what it notices, what it counts. */
#include "world.h"

#include <string.h>

enum { COUNT = 9, LENGTH = 5 };

static char asked[COUNT * LENGTH + 1], due[COUNT * LENGTH + 1];

/* A load on a world that sends back what comes. */
static pmx_load *begin(world *w, const pmx_policy *policy, int framed)
{
    static pmx_endpoint at;
    pmx_load *load = NULL;
    for (int k = 0; k < COUNT; k++) {
        memcpy(asked + k * LENGTH, "abcd", 4);
        asked[k * LENGTH + 4] = (char)('0' + k);
    }
    memcpy(due, asked, sizeof due);
    world_serve(w, policy);
    w->echo = 1;
    at = (pmx_endpoint){.host = "127.0.0.1", .port = w->port};
    pmx_load_plan plan = {
        .conns = 3, .depth = 2, .framed = (uint32_t)framed,
        .count = COUNT, .size = LENGTH,
        .questions = (const uint8_t *)asked, .answers = (const uint8_t *)due,
        .endpoints = &at, .endpoint_count = 1, .policy = policy,
    };
    EQUAL(pmx_load_open(&load, test_backend, &plan), 0);
    return load;
}

#define UNTIL_LOADED(w, load, mode, what) \
    UNTIL_DOING(w, what, EQUAL(pmx_load_run(load, mode, 0), 0))

static void end(world *w, pmx_load *load)
{
    pmx_load_close(load);
    UNTIL(w, w->closed_count == w->opened.count);
    world_is_clean(w);
    world_end(w);
}

static void all_answers_are_right(const pmx_policy *policy, int framed)
{
    world w;
    pmx_load *load = begin(&w, policy, framed);
    const pmx_load_figures *f = pmx_load_counts(load);
    UNTIL_LOADED(&w, load, PMX_LOAD_CONNECT, f->opened == 3);
    EQUAL(f->in_flight, 0);
    UNTIL_LOADED(&w, load, PMX_LOAD_SEND, f->answered > 50);
    EQUAL(f->in_flight, 6);
    pmx_load_clear(load);
    EQUAL(f->answered, 0);
    EQUAL(f->max_ns, 0);
    UNTIL_LOADED(&w, load, PMX_LOAD_FINISH, f->in_flight == 0);
    CHECK(f->answered > 0 && f->answered <= 6);
    EQUAL(pmx_load_quantile(load, 1.0), f->max_ns);
    CHECK(pmx_load_quantile(load, 0.01) <= f->max_ns);
    EQUAL(f->lost + f->wrong, 0);
    end(&w, load);
}

static void streams_are_compared(void)
{
    pmx_policy p = raw();
    all_answers_are_right(&p, 0);
}

static void messages_are_compared(void)
{
    pmx_policy p = lines("\n", 100);
    all_answers_are_right(&p, 1);
}

static void an_answer_that_is_not_due_is_noticed(void)
{
    world w;
    pmx_policy p = lines("\n", 100);
    pmx_load *load = begin(&w, &p, 1);
    const pmx_load_figures *f = pmx_load_counts(load);
    due[COUNT * LENGTH - 1] ^= 1; /* each connection gets there in the end */
    UNTIL_LOADED(&w, load, PMX_LOAD_CONNECT, f->opened == 3);
    UNTIL_LOADED(&w, load, PMX_LOAD_SEND, f->wrong == 3);
    EQUAL(f->in_flight, 0);
    EQUAL(f->lost, 0);
    end(&w, load);
}

static void more_than_was_asked_for_is_wrong(void)
{
    world w;
    pmx_policy p = raw();
    pmx_load *load = begin(&w, &p, 0);
    const pmx_load_figures *f = pmx_load_counts(load);
    UNTIL_LOADED(&w, load, PMX_LOAD_CONNECT, f->opened == 3);
    UNTIL(&w, w.opened.count == 3);
    say(&w, w.opened.ids[0], asked, LENGTH);      /* nothing was sent yet */
    UNTIL_LOADED(&w, load, PMX_LOAD_CONNECT, f->wrong == 1);
    end(&w, load);
}

static void a_message_of_another_size_is_wrong(void)
{
    world w;
    pmx_policy p = lines("\n", 100);
    pmx_load *load = begin(&w, &p, 1);
    const pmx_load_figures *f = pmx_load_counts(load);
    UNTIL_LOADED(&w, load, PMX_LOAD_CONNECT, f->opened == 3);
    UNTIL(&w, w.opened.count == 3);
    w.echo = 0;
    UNTIL_LOADED(&w, load, PMX_LOAD_SEND, w.message_count == 6);
    for (int k = 0; k < 3; k++)
        say(&w, w.opened.ids[k], "abc", 3);
    UNTIL_LOADED(&w, load, PMX_LOAD_SEND, f->wrong == 3);
    end(&w, load);
}

static void connections_that_end_are_lost(void)
{
    world w;
    pmx_policy p = raw();
    pmx_load *load = begin(&w, &p, 0);
    const pmx_load_figures *f = pmx_load_counts(load);
    UNTIL_LOADED(&w, load, PMX_LOAD_CONNECT, f->opened == 3);
    UNTIL(&w, w.opened.count == 3);
    UNTIL_LOADED(&w, load, PMX_LOAD_SEND, f->answered > 0);
    for (size_t k = 0; k < 3; k++)
        do_op(&w, w.opened.ids[k], PMX_ABORT);
    UNTIL_LOADED(&w, load, PMX_LOAD_SEND, f->lost == 3);
    CHECK(is_reset(-f->error));
    EQUAL(f->in_flight, 0);
    end(&w, load);
}

static void a_refused_connection_is_lost_and_its_reason_kept(void)
{
    world w;
    pmx_policy p = raw();
    pmx_load *load = begin(&w, &p, 0);
    const pmx_load_figures *f = pmx_load_counts(load);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    UNTIL_LOADED(&w, load, PMX_LOAD_CONNECT, f->lost == 3);
    EQUAL(f->opened, 0);
    EQUAL(f->error, ECONNREFUSED);
    EQUAL(pmx_load_run(load, PMX_LOAD_SEND, 0), 0);
    EQUAL(f->in_flight, 0);
    pmx_load_close(load);
    world_end(&w);
}

static void a_plan_that_cannot_be_is_refused(void)
{
    const uint8_t text[2] = {0};
    const pmx_policy policy = raw();
    const pmx_endpoint at = {.host = "127.0.0.1", .port = 1};
    const pmx_load_plan good = {
        .conns = 1, .depth = 1, .count = 1, .size = 2, .questions = text,
        .answers = text, .endpoints = &at, .endpoint_count = 1,
        .policy = &policy,
    };
    pmx_load *load = NULL;
    for (int k = 0; k < 7; k++) {
        pmx_load_plan plan = good;
        switch (k) {
        case 0: plan.conns = 0; break;
        case 1: plan.depth = 0; break;
        case 2: plan.count = 0; break;
        case 3: plan.size = 0; break;
        case 4: plan.size = UINT64_C(1) << 31; break;
        case 5: plan.conns = plan.depth = 1 << 13; break;
        default: plan.answers = NULL; break;
        }
        EQUAL(pmx_load_open(&load, NULL, &plan), -EINVAL);
    }
    EQUAL(pmx_load_open(&load, "none such", &good), -EINVAL);
    CHECK(!load);
    EQUAL(pmx_load_open(&load, NULL, &good), 0);
    pmx_load_close(load);
    pmx_load_close(NULL);
}

static void without_memory_there_is_no_load(void)
{
    const uint8_t text[2] = {0};
    const pmx_policy policy = raw();
    const pmx_endpoint at = {.host = "127.0.0.1", .port = 1};
    const pmx_load_plan plan = {
        .conns = 1, .depth = 1, .count = 1, .size = 2, .questions = text,
        .answers = text, .endpoints = &at, .endpoint_count = 1,
        .policy = &policy,
    };
    pmx_load *load = NULL;
    int error = -ENOMEM;
    for (long at_call = 1; error; at_call++) {
        test_fail_at = at_call;
        error = pmx_load_open(&load, NULL, &plan);
        CHECK(!error || error == -ENOMEM);
        CHECK(at_call < 1000);
    }
    test_fail_at = 1;           /* the place of the first connection */
    CHECK(pmx_load_run(load, PMX_LOAD_CONNECT, 0) <= 0);
    test_fail_at = 0;
    pmx_load_close(load);
}

const test_case load_tests[] = {
    EACH(streams_are_compared),
    EACH(messages_are_compared),
    EACH(an_answer_that_is_not_due_is_noticed),
    EACH(more_than_was_asked_for_is_wrong),
    EACH(a_message_of_another_size_is_wrong),
    EACH(connections_that_end_are_lost),
    EACH(a_refused_connection_is_lost_and_its_reason_kept),
    ONCE(a_plan_that_cannot_be_is_refused),
    ONCE(without_memory_there_is_no_load),
    {0},
};
