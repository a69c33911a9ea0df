/* A pipe's ends as connections: the read end, and what concerns both. */
#include "pipeline.h"

#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- the read end -------------------------------------------------------- */

static void a_read_end_is_a_connection_that_receives(void)
{
    pipeline p;
    pmx_policy policy = lines("\n", 100);
    pmx_address names[2];
    pipeline_begin(&p, PMX_READABLE, &policy);
    write_text(&p, "one\ntw");
    UNTIL(&p.w, messages_of(&p.w, p.id) == 1);
    CHECK(has(&p.w.opened, p.id));
    write_text(&p, "o\nthree");
    UNTIL(&p.w, messages_of(&p.w, p.id) == 2);
    EQUAL(pmx_addresses(p.w.mux, p.id, names), 0);
    for (int k = 0; k < 2; k++)
        CHECK(names[k].family == 1 && !names[k].path_size);
    int64_t whose[3];
    EQUAL(pmx_credentials(p.w.mux, p.id, whose), -ENOTSUP);
    EQUAL(pmx_socket(p.w.mux, p.id), p.own);
    EQUAL(pmx_counts(p.w.mux)->connected, 1);
    EQUAL(pmx_counts(p.w.mux)->outgoing, 1);
    mux_is_sound(p.w.mux);
    leave_peer(&p);
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(messages_of(&p.w, p.id), 3);
    CHECK(is_text(&p.w, message_of(&p.w, p.id, 2), "three"));
    EQUAL(error_of(&p.w, p.id), 0);
    pipeline_end(&p);
}

/* Nor when it switches to a policy with others. */
static void options_of_sockets_are_not_set_on_a_pipe(void)
{
    for (uint32_t end = PMX_READABLE; end <= PMX_WRITABLE; end++) {
        pipeline p;
        pmx_policy policy = raw();
        policy.send_buffer = policy.notsent_lowat = 10000;
        policy.keep_idle = policy.keep_interval = policy.keep_count = 5;
        pipeline_begin(&p, end, &policy);
        UNTIL(&p.w, has(&p.w.opened, p.id));
        policy.keep_idle = 7;
        switch_to(&p.w, p.id, &policy, NULL, 0);
        do_op(&p.w, p.id, PMX_CLOSE);
        UNTIL(&p.w, closed(&p.w, p.id));
        pipeline_end(&p);
    }
}

static void what_was_written_before_and_the_end_behind_it_arrive(void)
{
    pipeline p;
    pmx_policy policy = lines("\n", 100);
    pipeline_begin(&p, PMX_READABLE, &policy);
    write_text(&p, "early\n");
    leave_peer(&p);
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(messages_of(&p.w, p.id), 1);
    EQUAL(error_of(&p.w, p.id), 0);
    pipeline_end(&p);
}

static void bytes_that_the_caller_has_read_come_first(void)
{
    pipeline p;
    pmx_policy policy = lines("\n", 100);
    pipeline_begin(&p, PMX_READABLE, &policy);
    write_text(&p, "o\nthree\n");
    switch_to(&p.w, p.id, &policy, "one\ntw", 6);
    UNTIL(&p.w, messages_of(&p.w, p.id) == 3);
    CHECK(is_text(&p.w, message_of(&p.w, p.id, 0), "one"));
    CHECK(is_text(&p.w, message_of(&p.w, p.id, 1), "two"));
    leave_peer(&p);
    UNTIL(&p.w, closed(&p.w, p.id));
    pipeline_end(&p);
}

/* More than a pipe holds. */
static void much_comes_whole(void)
{
    pipeline p;
    pmx_policy policy = raw();
    buffer all = {0};
    size_t at = 0;
    fill(&all, 1000000, 7);
    pipeline_begin(&p, PMX_READABLE, &policy);
    int64_t until = deadline();
    while (at < all.size) {
        ssize_t n = write(p.peer, all.bytes + at, all.size - at);
        at += n > 0 ? (size_t)n : 0;
        turn(&p.w, 0);
        CHECK(pmx__now() < until);
    }
    leave_peer(&p);
    UNTIL(&p.w, closed(&p.w, p.id));
    buffer got = received_by(&p.w, p.id);
    CHECK(same(&got, &all));
    release(&got);
    release(&all);
    pipeline_end(&p);
}

static void what_is_sent_on_a_read_end_is_discarded(void)
{
    pipeline p;
    pmx_policy policy = lines("\n", 100);
    pipeline_begin(&p, PMX_READABLE, &policy);
    say_text(&p.w, p.id, "before");
    UNTIL(&p.w, has(&p.w.opened, p.id));
    say_text(&p.w, p.id, "after");
    do_op(&p.w, p.id, PMX_SEND_EOF);
    turn(&p.w, 0);
    EQUAL(pmx_counts(p.w.mux)->discarded, 7 + 6);
    EQUAL(pmx_counts(p.w.mux)->messages_out, 0);
    write_text(&p, "still\n");
    UNTIL(&p.w, messages_of(&p.w, p.id) == 1);
    do_op(&p.w, p.id, PMX_CLOSE);
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(error_of(&p.w, p.id), 0);
    pipeline_end(&p);
}

/* Nothing is read any more, so the writer is told at once. */
static void a_read_end_closes_at_once(void)
{
    static const enum pmx_op ops[] = {PMX_CLOSE, PMX_ABORT, PMX_FAIL};
    for (int early = 0; early < 2; early++)
        for (int k = 0; k < 3; k++) {
            pipeline p;
            pmx_policy policy = raw();
            pipeline_begin(&p, PMX_READABLE, &policy);
            if (!early)
                UNTIL(&p.w, has(&p.w.opened, p.id));
            write_text(&p, "unread");
            do_op(&p.w, p.id, ops[k]);
            turn(&p.w, 0);
            CHECK(closed(&p.w, p.id));
            EQUAL(error_of(&p.w, p.id), ops[k] == PMX_FAIL ? ECONNABORTED : 0);
            void (*before)(int) = signal(SIGPIPE, SIG_IGN);
            EQUAL(write(p.peer, "x", 1), -1);
            EQUAL(errno, EPIPE);
            signal(SIGPIPE, before);
            pipeline_end(&p);
        }
}

static void a_paused_read_end_waits_behind_its_end(void)
{
    pipeline p;
    pmx_policy policy = lines("\n", 100);
    pipeline_begin(&p, PMX_READABLE, &policy);
    UNTIL(&p.w, has(&p.w.opened, p.id));
    do_op(&p.w, p.id, PMX_PAUSE);
    turn(&p.w, 0);
    write_text(&p, "late\n");
    leave_peer(&p);
    for (int n = 0; n < 5; n++)
        turn(&p.w, 0);
    count_waits(&p.w);
    long before = wait_count;
    turn(&p.w, 50 * MS);
    CHECK(wait_count - before < 5);     /* the hang-up wakes nobody twice */
    EQUAL(messages_of(&p.w, p.id), 0);
    CHECK(!closed(&p.w, p.id));
    do_op(&p.w, p.id, PMX_RESUME);
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(messages_of(&p.w, p.id), 1);
    pipeline_end(&p);
}

static void the_end_of_a_half_open_read_end_is_reported(void)
{
    pipeline p;
    pmx_policy policy = raw();
    policy.half_open = 1;
    pipeline_begin(&p, PMX_READABLE, &policy);
    UNTIL(&p.w, has(&p.w.opened, p.id));
    leave_peer(&p);
    UNTIL(&p.w, has(&p.w.ended, p.id));
    for (int n = 0; n < 5; n++)
        turn(&p.w, 0);
    mux_is_sound(p.w.mux);
    count_waits(&p.w);
    long before = wait_count;
    turn(&p.w, 50 * MS);
    CHECK(wait_count - before < 5);
    CHECK(!closed(&p.w, p.id));
    do_op(&p.w, p.id, PMX_CLOSE);
    UNTIL(&p.w, closed(&p.w, p.id));
    pipeline_end(&p);
}

static void a_broken_frame_ends_a_read_end(void)
{
    pipeline p;
    pmx_policy policy = lines("\n", 4);
    pipeline_begin(&p, PMX_READABLE, &policy);
    write_text(&p, "ok\nmuch too long\n");
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(messages_of(&p.w, p.id), 1);
    EQUAL(error_of(&p.w, p.id), EMSGSIZE);
    pipeline_end(&p);
}

static void a_read_end_without_input_is_out_of_time(void)
{
    pipeline p;
    pmx_policy policy = raw();
    policy.idle_ns = 20 * MS;
    pipeline_begin(&p, PMX_READABLE, &policy);
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(error_of(&p.w, p.id), ETIMEDOUT);
    pipeline_end(&p);
}

/* Only Linux and FreeBSD tell a FIFO without a writer from one that has lost
 * its writers. */
static void a_fifo_waits_for_its_first_writer(void)
{
#if defined(__linux__)
    world w;
    char path[64];
    uint64_t id;
    pmx_policy policy = lines("\n", 100);
    snprintf(path, sizeof path, "/tmp/pymux-%d.fifo", (int)getpid());
    CHECK(!mkfifo(path, 0600));
    int reader = open(path, O_RDONLY | O_NONBLOCK);
    CHECK(reader >= 0);
    world_begin(&w, 100, 10000);
    EQUAL(pmx_adopt(w.mux, reader, PMX_READABLE, &policy, &id), 0);
    UNTIL(&w, has(&w.opened, id));
    for (int n = 0; n < 5; n++)
        turn(&w, 0);
    CHECK(!closed(&w, id));
    int writer = open(path, O_WRONLY);
    EQUAL(write(writer, "hello\n", 6), 6);
    UNTIL(&w, messages_of(&w, id) == 1);
    CHECK(!close(writer) && !unlink(path));
    UNTIL(&w, closed(&w, id));
    EQUAL(error_of(&w, id), 0);
    world_is_clean(&w);
    world_end(&w);
#else
    test_skipped("a FIFO has an end before its first writer there");
#endif
}

/* --- both ---------------------------------------------------------------- */

static void a_mux_that_closes_closes_its_ends(void)
{
    for (uint32_t end = PMX_READABLE; end <= PMX_WRITABLE; end++)
        for (int opened = 0; opened < 2; opened++) {
            pipeline p;
            pmx_policy policy = raw();
            pipeline_begin(&p, end, &policy);
            if (opened)
                UNTIL(&p.w, has(&p.w.opened, p.id));
            if (end == PMX_WRITABLE && opened) {
                say_text(&p.w, p.id, "bye");
                turn(&p.w, 0);
            }
            world_end(&p.w);
            EQUAL(fcntl(p.own, F_GETFD), -1);
            if (end == PMX_WRITABLE) {
                EQUAL(read_all(&p), 0);
                EQUAL(p.got.size, opened ? 3 : 0);
            }
            leave_peer(&p);
            release(&p.got);
        }
}

static int flags_of(int fd)
{
    return fcntl(fd, F_GETFL) ^ (fcntl(fd, F_GETFD) == FD_CLOEXEC) * 16777216;
}

static void what_is_no_end_of_a_pipe_is_refused_unchanged(void)
{
    world w;
    pmx_sock sockets[2];
    int ends[2];
    char path[64] = "/tmp/pymux-XXXXXX";
    pmx_policy policy = raw(), wrong = fixed(0);
    uint64_t id = 0;
    world_begin(&w, 100, 10000);
    pair_of(sockets);
    CHECK(!pipe(ends));
    int file = mkstemp(path);
    CHECK(file >= 0 && !unlink(path));
    int null = open("/dev/null", O_RDWR);
    const struct { int fd; uint32_t end; int error; } cases[] = {
        {-1, PMX_READABLE, -EBADF}, {1000000, PMX_READABLE, -EBADF},
        {ends[0], PMX_WRITABLE, -EBADF}, {ends[1], PMX_READABLE, -EBADF},
        {ends[0], PMX_READABLE | PMX_WRITABLE, -EINVAL},
        {sockets[0], PMX_READABLE, -EINVAL}, {file, PMX_READABLE, -EINVAL},
        {file, PMX_WRITABLE, -EINVAL}, {null, PMX_WRITABLE, -EINVAL},
        {ends[0], 0, -ENOTSOCK},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int before = flags_of(cases[k].fd);
        EQUAL(pmx_adopt(w.mux, cases[k].fd, cases[k].end, &policy, &id),
              cases[k].error);
        EQUAL(flags_of(cases[k].fd), before);
    }
    EQUAL(pmx_adopt(w.mux, ends[0], PMX_READABLE, &wrong, &id), -EINVAL);
    int error, tries = 0, before = flags_of(ends[0]);
    do {                        /* each allocation in turn */
        EQUAL(flags_of(ends[0]), before);
        test_fail_at = ++tries;
        error = pmx_adopt(w.mux, ends[0], PMX_READABLE, &policy, &id);
        test_fail_at = 0;
        CHECK(!error || error == -ENOMEM);
    } while (error && tries < 20);
    EQUAL(error, 0);
    CHECK(tries > 2);
    CHECK(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
    uint64_t other;
    if (strcmp(test_backend, "kqueue") != 0)    /* which does not tell */
        EQUAL(pmx_adopt(w.mux, ends[0], PMX_READABLE, &policy, &other),
              -EEXIST);
    UNTIL(&w, has(&w.opened, id));
    CHECK(!close(ends[1]));
    UNTIL(&w, closed(&w, id));
    leave(sockets[0]);
    leave(sockets[1]);
    CHECK(!close(file) && !close(null));
    world_is_clean(&w);
    world_end(&w);
}

/* Two FIFOs' or pipes' ends of one program: from one to the other. */
static void one_end_feeds_another(void)
{
    pipeline p;
    pmx_policy policy = lines("\n", 100);
    uint64_t out;
    pipeline_begin(&p, PMX_READABLE, &policy);
    EQUAL(pmx_adopt(p.w.mux, p.peer, PMX_WRITABLE, &policy, &out), 0);
    p.peer = -1;
    for (int k = 0; k < 50; k++)
        say_text(&p.w, out, "line");
    do_op(&p.w, out, PMX_SEND_EOF);
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(messages_of(&p.w, p.id), 50);
    CHECK(closed(&p.w, out));
    EQUAL(error_of(&p.w, p.id), 0);
    EQUAL(error_of(&p.w, out), 0);
    pipeline_end(&p);
}

const test_case pipe_tests[] = {
    EACH(a_read_end_is_a_connection_that_receives),
    EACH(options_of_sockets_are_not_set_on_a_pipe),
    EACH(what_was_written_before_and_the_end_behind_it_arrive),
    EACH(bytes_that_the_caller_has_read_come_first),
    EACH(much_comes_whole),
    EACH(what_is_sent_on_a_read_end_is_discarded),
    EACH(a_read_end_closes_at_once),
    EACH(a_paused_read_end_waits_behind_its_end),
    EACH(the_end_of_a_half_open_read_end_is_reported),
    EACH(a_broken_frame_ends_a_read_end),
    EACH(a_read_end_without_input_is_out_of_time),
    EACH(a_fifo_waits_for_its_first_writer),
    EACH(a_mux_that_closes_closes_its_ends),
    EACH(what_is_no_end_of_a_pipe_is_refused_unchanged),
    EACH(one_end_feeds_another),
    {0},
};
#else
const test_case pipe_tests[] = {{0}};
#endif
