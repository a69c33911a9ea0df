/* A mux from open to close, its forks too, and the drain of a server. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

static void opening_and_closing_leaves_nothing(void)
{
    for (int i = 0; i < 20; i++) {
        world w;
        pmx_policy p = raw();
        world_begin(&w, 1, 1);
        world_listen(&w, &p);
        pmx_sock peer = call(&w);
        UNTIL(&w, w.opened.count == 1);
        world_end(&w);
        leave(peer);
    }
}

/* Closing a mux sends what the kernel takes; who has more to get is reset. */
static void a_mux_that_closes_sends_what_it_can(void)
{
    world w;
    pmx_sock little, much;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t id = meet(&w, &little), other = meet(&w, &much);
    buffer data = {0}, got = {0};
    fill(&data, 6000000, 1);
    say_text(&w, id, "bye");
    say(&w, other, data.bytes, data.size);
    turn(&w, 0);
    world_end(&w);
    EQUAL(get(little, &got), 0);
    CHECK(is_text_of(&got, "bye"));
    got.size = 0;
    CHECK(is_reset(get(much, &got)));
    CHECK(got.size < data.size);
    leave(little);
    leave(much);
    release(&data);
    release(&got);
}

static void a_mux_closes_in_any_state(void)
{
    world w;
    pmx_sock peers[6];
    uint64_t ids[6], id;
    pmx_policy p = lines("\n", 1 << 20);
    world_begin(&w, 2, 262144);
    world_listen(&w, &p);
    for (int i = 0; i < 6; i++)
        ids[i] = meet_small(&w, &peers[i]);
    buffer much = {0};
    fill(&much, 6000000, 1);
    put_text(peers[0], "1\n2\n3\n4");
    put(peers[1], much.bytes, 9000);
    say(&w, ids[2], much.bytes, much.size);
    do_op(&w, ids[3], PMX_PAUSE);
    do_op(&w, ids[4], PMX_CLOSE);
    reset_peer(peers[5]);
    turn(&w, 0);
    pmx_endpoint at = {.host = "127.0.0.1", .port = w.port};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
#ifndef _WIN32
    at = (pmx_endpoint){.path = "/nowhere/at/all", .path_size = 15};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
#endif
    world_end(&w);
    for (int i = 0; i < 5; i++)
        leave(peers[i]);
    release(&much);
}

#ifndef _WIN32
static void in_a_forked_child_close_harms_nobody(void)
{
    world w;
    int status;
    pmx_sock peer, slow;
    char path[64];
    uint64_t file;
    pmx_policy p = raw();
    world_serve(&w, &p);
    snprintf(path, sizeof path, "/tmp/pymux-fork-%ld", (long)getpid());
    pmx_endpoint at = {.path = path, .path_size = (uint32_t)strlen(path)};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &file), 0);
    uint64_t id = meet(&w, &peer), other = meet_small(&w, &slow);
    buffer much = {0}, got = {0};
    fill(&much, 6000000, 1);
    say(&w, other, much.bytes, much.size);
    turn(&w, 0);
    CHECK(!pmx_forked(w.mux));
    pid_t child = fork();
    if (!child) {
        int wrong = !pmx_forked(w.mux);
        wrong |= turn(&w, 0) != -EPERM;
        int before = test_descriptors();
        pmx_close(w.mux);
        wrong |= test_descriptors() >= before;
        _exit(wrong);
    }
    EQUAL(waitpid(child, &status, 0), child);
    EQUAL(status, 0);
    /* the parent goes on as before */
    put_text(peer, "hello");
    UNTIL(&w, messages_of(&w, id) == 1);
    say_text(&w, id, "answer");
    UNTIL_DOING(&w, got.size == 6, get(peer, &got));
    got.size = 0;
    UNTIL_DOING(&w, got.size == much.size, get(slow, &got));
    CHECK(same(&got, &much));
    pmx_sock third = call(&w);
    UNTIL(&w, w.opened.count == 3);
    CHECK(!access(path, F_OK));
    EQUAL(pmx_unlisten(w.mux, file), 0);
    CHECK(access(path, F_OK));
    leave(peer);
    leave(slow);
    leave(third);
    UNTIL(&w, w.closed_count == 3);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}

/* A child that holds a copy of each descriptor: what the parent closes is
 * closed all the same, and brings no more events. */
static void a_child_that_holds_descriptors_does_not_matter(void)
{
    world w;
    int hold[2];
    pmx_sock first, second;
    pmx_policy p = raw();
    world_serve(&w, &p);
    uint64_t a = meet(&w, &first), b = meet(&w, &second);
    CHECK(!pipe(hold));
    pid_t child = fork();
    if (!child) {
        char byte;
        close(hold[1]);
        leave(first);
        leave(second);
        (void)!read(hold[0], &byte, 1);
        _exit(0);
    }
    close(hold[0]);
    buffer got = {0};
    do_op(&w, a, PMX_ABORT);
    do_op(&w, b, PMX_CLOSE);
    int end = 1;
    UNTIL_DOING(&w, !end, end = get(second, &got));
    EQUAL(get(first, &got), -ECONNRESET);
    put_text(second, "x");
    leave(second);
    UNTIL(&w, w.closed_count == 2);
    count_waits(&w);
    turn(&w, 20 * MS);
    CHECK(wait_count < 4);
    close(hold[1]);
    waitpid(child, NULL, 0);
    leave(first);
    world_is_clean(&w);
    world_end(&w);
}
#endif

static void next_timeout_tells_of_work_without_descriptors(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = lines("\n", 100);
    p.idle_ns = 500 * MS;
    world_begin(&w, 1, 262144);
    world_listen(&w, &p);
    EQUAL(pmx_next_timeout(w.mux), -1);
    uint64_t id = meet(&w, &peer);
    turn(&w, 0);
    int64_t next = pmx_next_timeout(w.mux);
    CHECK(next > 0 && next <= 500 * MS);
    put_text(peer, "1\n2\n");
    UNTIL(&w, w.message_count == 1);
    EQUAL(pmx_next_timeout(w.mux), 0);          /* a frame is buffered */
    UNTIL(&w, w.message_count == 2);
    turn(&w, 0);
    CHECK(pmx_next_timeout(w.mux) > 0);
    put_text(peer, "3\n");
    leave(peer);
    UNTIL(&w, w.message_count == 3);
    turn(&w, 0);
    EQUAL(w.closed_count ? 0 : pmx_next_timeout(w.mux), 0);
    UNTIL(&w, closed(&w, id));
    turn(&w, 0);
    EQUAL(pmx_next_timeout(w.mux), -1);
    world_is_clean(&w);
    world_end(&w);
}

#ifndef _WIN32
static void reset_all_ends_everybody(void)
{
    world w;
    pmx_sock peers[4];
    uint64_t ids[4], id;
    pmx_policy p = raw();
    world_serve(&w, &p);
    for (int i = 0; i < 4; i++)
        ids[i] = meet(&w, &peers[i]);
    buffer much = {0}, got = {0};
    fill(&much, 100000, 1);
    do_op(&w, ids[0], PMX_CLOSE);
    do_op(&w, ids[1], PMX_PAUSE);
    say(&w, ids[2], much.bytes, much.size);
    turn(&w, 0);
    pmx_endpoint at = {.path = "/nowhere/at/all", .path_size = 15};
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    for (int i = 0; i < 4; i++)
        EQUAL(pmx_pending(w.mux, ids[i]), 0);
    pmx_reset_all(w.mux, ETIMEDOUT);
    for (int i = 0; i < 4; i++)         /* their ends are not reported yet */
        EQUAL(pmx_pending(w.mux, ids[i]), 1);
    UNTIL(&w, w.closed_count == 5);
    for (int i = 0; i < 4; i++) {
        EQUAL(pmx_pending(w.mux, ids[i]), 0);
        EQUAL(error_of(&w, ids[i]), ETIMEDOUT);
        got.size = 0;
        EQUAL(get(peers[i], &got), i ? -ECONNRESET : 0);
        leave(peers[i]);
    }
    EQUAL(error_of(&w, id), ENOENT);
    release(&much);
    release(&got);
    world_is_clean(&w);
    world_end(&w);
}
#endif

#ifdef PMX__MADE_READY
/* A program that another thread starts at any moment has none of them. */
static void no_descriptor_is_inheritable_for_a_moment(void)
{
    static const injected_fault no_pair = {CALL_socketpair, EMFILE, ""};
    char path[64];
    snprintf(path, sizeof path, "/tmp/pymux-life-%d", getpid());
    uint64_t before = injected_inheritable;
    for (int by_pipe = 0; by_pipe < 2; by_pipe++) {
        world w;
        pmx_policy p = raw();
        uint64_t id;
        if (by_pipe)
            inject_nth(&no_pair, 1, 0);
        world_begin(&w, 100, 10000);
        inject_nothing();
        world_listen(&w, &p);
        pmx_endpoint at[] = {
            {.path = path, .path_size = (uint32_t)strlen(path)},
            {.host = "127.0.0.1", .port = w.port}};
        for (int stale = 0; stale < 2; stale++) {
            EQUAL(pmx_listen(w.mux, &at[0], &p, 10, 0, 0600, &w.listener), 0);
            if (!stale) {       /* the file stays, as of a dead server */
                w.mux->listeners[1].file.is_ours = 0;
                EQUAL(pmx_unlisten(w.mux, w.listener), 0);
            }
        }
        for (int i = 0; i < 2; i++)
            EQUAL(pmx_connect(w.mux, &at[i], 1, &p, &id), 0);
        UNTIL(&w, w.opened.count == 4);
        world_end(&w);
    }
    pmx_watch *watch;
    EQUAL(pmx_backend_probe(test_backend), 0);
    EQUAL(pmx_watch_open(&watch, test_backend), 0);
    pmx_watch_shut(watch);
    pmx_watch_free(watch);
    EQUAL(injected_inheritable, before);
}
#endif

const test_case life_tests[] = {
    EACH(opening_and_closing_leaves_nothing),
    EACH(a_mux_that_closes_sends_what_it_can),
    EACH(a_mux_closes_in_any_state),
    UNIX_EACH(in_a_forked_child_close_harms_nobody, "there is no fork"),
    UNIX_EACH(a_child_that_holds_descriptors_does_not_matter,
              "there is no fork"),
    EACH(next_timeout_tells_of_work_without_descriptors),
    UNIX_EACH(reset_all_ends_everybody, NO_UNIX),
#ifdef PMX__MADE_READY
    EACH(no_descriptor_is_inheritable_for_a_moment),
#endif
    {0},
};
