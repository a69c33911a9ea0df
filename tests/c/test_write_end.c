/* A pipe's ends as connections: the write end. */
#include "pipeline.h"
#include "sim.h"

#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#ifdef __linux__
#include <linux/sockios.h>
#endif

static void a_write_end_is_a_connection_that_sends(void)
{
    pipeline p;
    pmx_policy policy = lines("\n", 100);
    pipeline_begin(&p, PMX_WRITABLE, &policy);
    say_text(&p.w, p.id, "early");
    UNTIL(&p.w, has(&p.w.opened, p.id));
    EQUAL(p.w.mux->sources, 0);         /* no batch waits for it */
    say_text(&p.w, p.id, "late");
    do_op(&p.w, p.id, PMX_CLOSE);
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(read_all(&p), 0);
    CHECK(is_text_of(&p.got, "early\nlate\n"));
    EQUAL(error_of(&p.w, p.id), 0);
    EQUAL(pmx_counts(p.w.mux)->bytes_out, 11);
    pipeline_end(&p);
}

static void the_end_of_sending_is_the_end_of_a_write_end(void)
{
    for (int early = 0; early < 2; early++) {
        pipeline p;
        pmx_policy policy = raw();
        pipeline_begin(&p, PMX_WRITABLE, &policy);
        if (!early)
            UNTIL(&p.w, has(&p.w.opened, p.id));
        say_text(&p.w, p.id, "all");
        do_op(&p.w, p.id, PMX_SEND_EOF);
        UNTIL(&p.w, closed(&p.w, p.id));
        CHECK(has(&p.w.opened, p.id));
        EQUAL(read_all(&p), 0);
        CHECK(is_text_of(&p.got, "all"));
        EQUAL(error_of(&p.w, p.id), 0);
        pipeline_end(&p);
    }
}

static void a_write_end_queues_what_its_pipe_does_not_take(void)
{
    pipeline p;
    pmx_policy policy = raw();
    buffer all = {0};
    fill(&all, 3000000, 9);
    pipeline_begin(&p, PMX_WRITABLE, &policy);
    say(&p.w, p.id, all.bytes, all.size);
    UNTIL(&p.w, has(&p.w.blocked, p.id));
    CHECK(pmx_queued(p.w.mux, p.id) > 0);
    CHECK(pmx_unacknowledged(p.w.mux, p.id) > 0);
    mux_is_sound(p.w.mux);
    do_op(&p.w, p.id, PMX_CLOSE);
    UNTIL_DOING(&p.w, closed(&p.w, p.id), (void)read_all(&p));
    EQUAL(read_all(&p), 0);
    CHECK(same(&p.got, &all));
    EQUAL(error_of(&p.w, p.id), 0);
    release(&all);
    pipeline_end(&p);
}

static void a_write_end_tells_that_it_has_drained(void)
{
    pipeline p;
    pmx_policy policy = raw();
    buffer all = {0};
    fill(&all, 300000, 9);
    pipeline_begin(&p, PMX_WRITABLE, &policy);
    say(&p.w, p.id, all.bytes, all.size);
    UNTIL(&p.w, has(&p.w.blocked, p.id));
    UNTIL_DOING(&p.w, has(&p.w.drained, p.id), (void)read_all(&p));
    do_op(&p.w, p.id, PMX_ABORT);
    UNTIL(&p.w, closed(&p.w, p.id));
    release(&all);
    pipeline_end(&p);
}

static void the_loss_of_the_reader_is_reported(void)
{
    enum { EARLY, IDLE, PAUSED, QUEUED, CASES };
    for (int k = 0; k < CASES; k++) {
        pipeline p;
        pmx_policy policy = raw();
        buffer all = {0};
        fill(&all, 300000, 9);
        pipeline_begin(&p, PMX_WRITABLE, &policy);
        if (k != EARLY)
            UNTIL(&p.w, has(&p.w.opened, p.id));
        if (k == PAUSED)
            do_op(&p.w, p.id, PMX_PAUSE);
        if (k == QUEUED)
            say(&p.w, p.id, all.bytes, all.size);
        if (k != EARLY)
            turn(&p.w, 0);
        leave_peer(&p);
        UNTIL(&p.w, closed(&p.w, p.id));
        EQUAL(error_of(&p.w, p.id), ECONNRESET);
        CHECK(has(&p.w.opened, p.id));
        release(&all);
        pipeline_end(&p);
    }
}

static int is_pending(void)
{
    sigset_t pending;
    CHECK(!sigpending(&pending));
    return sigismember(&pending, SIGPIPE);
}

/* The reader goes between two turns, and the write finds out. */
static void write_to_nobody(void)
{
    pipeline p;
    pmx_policy policy = raw();
    pipeline_begin(&p, PMX_WRITABLE, &policy);
    UNTIL(&p.w, has(&p.w.opened, p.id));
    leave_peer(&p);
    say_text(&p.w, p.id, "to nobody");
    UNTIL(&p.w, closed(&p.w, p.id));
    EQUAL(error_of(&p.w, p.id), ECONNRESET);
    pipeline_end(&p);
}

static void a_write_without_a_reader_leaves_no_signal(void)
{
    void (*before)(int) = signal(SIGPIPE, SIG_DFL);     /* it would kill */
    sigset_t alone, mask;
    write_to_nobody();
    CHECK(!is_pending());
    CHECK(!pthread_sigmask(SIG_BLOCK, NULL, &mask));
    CHECK(!sigismember(&mask, SIGPIPE));
    sigemptyset(&alone);
    sigaddset(&alone, SIGPIPE);
    CHECK(!pthread_sigmask(SIG_BLOCK, &alone, NULL));
    write_to_nobody();
    CHECK(!is_pending());
    CHECK(!pthread_kill(pthread_self(), SIGPIPE));
    write_to_nobody();
    CHECK(is_pending());        /* the program's own is still there, */
    CHECK(!pthread_sigmask(SIG_BLOCK, NULL, &mask));
    CHECK(sigismember(&mask, SIGPIPE));         /* and so is its mask */
    int taken;
    CHECK(!sigwait(&alone, &taken));
    CHECK(!pthread_sigmask(SIG_UNBLOCK, &alone, NULL));
    signal(SIGPIPE, before);
}

/* Its input has ended, which a half-open connection is told; bytes that are
 * given back to it are nobody's. */
static void the_input_of_a_write_end_has_ended(void)
{
    pipeline p;
    pmx_policy policy = raw();
    policy.half_open = 1;
    pipeline_begin(&p, PMX_WRITABLE, &policy);
    UNTIL(&p.w, has(&p.w.ended, p.id));
    CHECK(has(&p.w.opened, p.id));
    policy = lines("\n", 100);
    switch_to(&p.w, p.id, &policy, "x\n", 2);
    say_text(&p.w, p.id, "hello");
    UNTIL(&p.w, (read_all(&p), p.got.size));
    CHECK(is_text_of(&p.got, "hello\n"));
    EQUAL(messages_of(&p.w, p.id), 0);
    do_op(&p.w, p.id, PMX_CLOSE);
    UNTIL(&p.w, closed(&p.w, p.id));
    pipeline_end(&p);
}

static void a_reader_that_does_not_read_is_out_of_time(void)
{
    for (int closing = 0; closing < 2; closing++) {
        pipeline p;
        pmx_policy policy = raw();
        buffer all = {0};
        fill(&all, 300000, 9);
        policy.idle_ns = closing ? -1 : 20 * MS;
        policy.close_ns = 20 * MS;
        pipeline_begin(&p, PMX_WRITABLE, &policy);
        say(&p.w, p.id, all.bytes, all.size);
        if (closing)
            do_op(&p.w, p.id, PMX_CLOSE);
        UNTIL(&p.w, closed(&p.w, p.id));
        EQUAL(error_of(&p.w, p.id), ETIMEDOUT);
        release(&all);
        pipeline_end(&p);
    }
}

#ifdef __linux__
/* What poll says of both ends, behind what a step has come to. */
static int note(const int ends[2], long result, long *said, int n)
{
    said[n++] = result < 0 ? -errno : result;
    for (int i = 0; i < 2; i++) {
        struct pollfd look = {.fd = ends[i], .events = POLLIN | POLLOUT};
        said[n++] = sys_poll(&look, 1, 0) < 0 ? -errno : look.revents;
    }
    return n;
}

/* One pipe loses its writer behind bytes, another its reader. */
static int go_through(int system, long *said)
{
    char bytes[8] = "abcdefg";
    struct iovec spans[2] = {{bytes, 2}, {bytes, 3}};
    struct stat is;
    int ends[2], value, n = 0;
    socklen_t size = sizeof value;
    sim_on = system;
    CHECK(!sys_pipe2(ends, O_NONBLOCK));
    n = note(ends, sys_read(ends[0], bytes, 1), said, n);
    n = note(ends, sys_writev(ends[1], spans, 2), said, n);
    n = note(ends, sys_read(ends[0], bytes, 3), said, n);
    for (int i = 0; i < 2; i++) {
        n = note(ends, sys_fcntl(ends[i], F_GETFL, 0) & O_ACCMODE, said, n);
        n = note(ends, sys_fstat(ends[i], &is), said, n);
        said[n++] = !!S_ISFIFO(is.st_mode);
        n = note(ends, sys_getsockopt(ends[i], SOL_SOCKET, SO_ERROR, &value,
                                      &size), said, n);
        n = note(ends, sys_shutdown(ends[i], SHUT_RDWR), said, n);
        n = note(ends, sys_recv(ends[i], bytes, 1, 0), said, n);
        n = note(ends, sys_send(ends[i], bytes, 1, 0), said, n);
        n = note(ends, sys_ioctl(ends[i], SIOCOUTQ, &value), said, n);
    }
    CHECK(!sys_close(ends[1]));
    ends[1] = ends[0];
    for (int i = 0; i < 3; i++)
        n = note(ends, sys_read(ends[0], bytes, 8), said, n);
    CHECK(!sys_close(ends[0]) && !sys_pipe2(ends, O_NONBLOCK));
    n = note(ends, sys_writev(ends[1], spans, 1), said, n);
    CHECK(!sys_close(ends[0]));         /* with bytes that nobody reads */
    ends[0] = ends[1];
    n = note(ends, sys_writev(ends[1], spans, 2), said, n);
    CHECK(!sys_close(ends[1]));
    sim_on = 0;
    return n;
}

static void a_pipe_in_memory_is_as_linux_has_it(void)
{
    long real[100], simulated[100];
    void (*before)(int) = signal(SIGPIPE, SIG_IGN);
    int n = go_through(0, real);
    signal(SIGPIPE, before);
    sim_begin();
    EQUAL(go_through(1, simulated), n);
    sim_end();
    for (int k = 0; k < n; k++) {
        snprintf(test_note, sizeof test_note, "result %d", k);
        EQUAL(simulated[k], real[k]);
    }
}
#else
static void a_pipe_in_memory_is_as_linux_has_it(void)
{
    test_skipped("it is Linux that it resembles");
}
#endif

const test_case write_end_tests[] = {
    EACH(a_write_end_is_a_connection_that_sends),
    EACH(the_end_of_sending_is_the_end_of_a_write_end),
    EACH(a_write_end_queues_what_its_pipe_does_not_take),
    EACH(a_write_end_tells_that_it_has_drained),
    EACH(the_loss_of_the_reader_is_reported),
    EACH(a_write_without_a_reader_leaves_no_signal),
    EACH(the_input_of_a_write_end_has_ended),
    EACH(a_reader_that_does_not_read_is_out_of_time),
    ONCE(a_pipe_in_memory_is_as_linux_has_it),
    {0},
};
#else
const test_case write_end_tests[] = {{0}};
#endif
