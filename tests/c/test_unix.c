/* Unix sockets: files, abstract names, and what is left of them. */
#include "world.h"

#ifndef _WIN32
#include "socket_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void a_unix_socket_echoes_and_is_unlinked(void)
{
    world w;
    pmx_policy p = raw();
    struct stat info;
    pmx_address names[2];
    uint64_t id;
    pmx_endpoint at = begin(&w);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0640, &w.listener), 0);
    CHECK(!stat(path, &info));
    EQUAL(info.st_mode & 07777, 0640);
    EQUAL(pmx_listener_address(w.mux, w.listener, names), 0);
    EQUAL(names[0].family, 1);
    EQUAL(names[0].path_size, at.path_size);
    CHECK(!memcmp(names[0].path, path, at.path_size));
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    UNTIL(&w, w.opened.count == 2);
    uint64_t other = w.opened.ids[w.opened.ids[0] == id];
    EQUAL(pmx_addresses(w.mux, id, names), 0);
    EQUAL(names[0].path_size, at.path_size);
    EQUAL(names[1].path_size, 0);
    EQUAL(pmx_addresses(w.mux, other, names), 0);
    EQUAL(names[0].family, 1);
    EQUAL(names[0].path_size, 0);
    EQUAL(names[1].path_size, at.path_size);
    buffer sent = {0};
    fill(&sent, 3000000, 1);
    say(&w, id, sent.bytes, sent.size);
    do_op(&w, id, PMX_SEND_EOF);
    UNTIL(&w, w.closed_count == 2);
    CHECK(same(&sent, &w.in));
    release(&sent);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    CHECK(!exists());
    world_is_clean(&w);
    end(&w);
}

static void an_abstract_name_leaves_no_file(void)
{
    world w;
    pmx_policy p = raw();
    pmx_address name;
    uint64_t id, second;
    char text[32];
    (void)begin(&w);
    int size = snprintf(text, sizeof text, "%cpymux-test-%ld", 0,
                        (long)getpid());
    pmx_endpoint at = {.path = text, .path_size = (uint32_t)size};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), 0);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &second), -EADDRINUSE);
    EQUAL(pmx_listener_address(w.mux, w.listener, &name), 0);
    EQUAL(name.path_size, size);
    CHECK(!memcmp(name.path, text, (size_t)size));
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    say_text(&w, id, "hello");
    UNTIL(&w, w.message_count == 1);
    do_op(&w, id, PMX_CLOSE);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    end(&w);
}

static void a_stale_socket_file_is_replaced(void)
{
    world w;
    pmx_policy p = raw();
    struct sockaddr_un name;
    uint64_t id;
    pmx_endpoint at = begin(&w);
    int old = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    memcpy(name.sun_path, path, at.path_size);
    CHECK(!bind(old, (struct sockaddr *)&name, sizeof name));
    CHECK(!listen(old, 1));
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), -EADDRINUSE);
    close(old);
    CHECK(exists());
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), 0);
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    UNTIL(&w, w.opened.count == 2);
    end(&w);
    CHECK(!exists());
}

static void what_is_no_socket_is_left_alone(void)
{
    world w;
    pmx_policy p = raw();
    char long_path[300];
    pmx_endpoint at = begin(&w);
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    EQUAL(write(file, "mine", 4), 4);
    close(file);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), -EADDRINUSE);
    EQUAL(pmx_counts(w.mux)->listeners, 0);
    struct stat info;
    CHECK(!stat(path, &info) && info.st_size == 4);
    unlink(path);
    CHECK(!mkdir(path, 0700));
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), -EADDRINUSE);
    CHECK(exists());
    rmdir(path);
    memset(long_path, 'x', sizeof long_path);
    at = (pmx_endpoint){.path = long_path, .path_size = 108};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener),
          -ENAMETOOLONG);
    at.path_size = UINT32_MAX;
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener),
          -ENAMETOOLONG);
    at = (pmx_endpoint){.path = "", .path_size = 0};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener),
          -ENAMETOOLONG);
    at = (pmx_endpoint){.path = "/nowhere/at/all", .path_size = 15};
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), -ENOENT);
    end(&w);
}

static void only_our_own_file_is_unlinked(void)
{
    world w;
    pmx_policy p = raw();
    uint64_t second;
    pmx_endpoint at = begin(&w);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), 0);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &second), -EADDRINUSE);
    CHECK(exists());
    unlink(path);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &second), 0);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    CHECK(exists());
    EQUAL(pmx_unlisten(w.mux, second), 0);
    CHECK(!exists());
    end(&w);
}

/* --- descriptors that come along ----------------------------------------- */

/* A piece of the stream, and a descriptor with it: recv() ends behind it,
 * whatever is there behind it. */
static void put_and_pass(pmx_sock peer, const void *bytes, size_t size)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec span = {(void *)(uintptr_t)bytes, size};
    struct msghdr with = {.msg_iov = &span, .msg_iovlen = 1,
                          .msg_control = &control,
                          .msg_controllen = sizeof control};
    memset(&control, 0, sizeof control);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.head), &peer, sizeof(int));
    EQUAL(sendmsg(peer, &with, 0), size);
}

/* The stream's second half is in the kernel already when the first is
 * received, and nothing comes behind it that an event could tell. */
static void bytes_behind_a_descriptor_are_received(void)
{
    static const char stream[] = "\0\0\0\4ab\n\n\0\0\0\4cd\n\n";
    const pmx_policy policies[] = {raw(), lines("\n\n", 100),
                                   prefix(4, 0, 100), fixed(8)};
    static const size_t messages[] = {0, 2, 2, 2};
    for (int k = 0; k < 4; k++)
        for (size_t cut = 1; cut < 16; cut++) {
            world w;
            struct sockaddr_un name = {.sun_family = AF_UNIX};
            pmx_endpoint at = begin(&w);
            EQUAL(pmx_listen(w.mux, &at, &policies[k], 10, 0, 0600,
                             &w.listener), 0);
            int peer = socket(AF_UNIX, SOCK_STREAM, 0);
            strcpy(name.sun_path, path);
            CHECK(!connect(peer, (struct sockaddr *)&name, sizeof name));
            UNTIL(&w, w.opened.count == 1);
            turn(&w, 0);        /* nothing is there yet: its events are over */
            put_and_pass(peer, stream, cut);
            put(peer, stream + cut, 16 - cut);
            UNTIL(&w, w.in.size >= (k == 2 ? 8u : k == 1 ? 12u : 16u));
            if (messages[k])
                EQUAL(w.message_count, messages[k]);
            close(peer);
            UNTIL(&w, w.closed_count == 1);
            EQUAL(w.closed[0].error, 0);
            end(&w);
        }
}

static void a_full_backlog_is_tried_again(void)
{
    enum { COUNT = 8 };
    world w;
    pmx_policy p = raw();
    uint64_t ids[COUNT];
    pmx_endpoint at = begin(&w);
    EQUAL(pmx_listen(w.mux, &at, &p, 1, 0, 0600, &w.listener), 0);
    for (int i = 0; i < COUNT; i++)
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[i]), 0);
    say_text(&w, ids[COUNT - 1], "hello");
    UNTIL(&w, w.opened.count == 2 * COUNT);
    UNTIL(&w, w.message_count == 1);
    for (int i = 0; i < COUNT; i++)
        do_op(&w, ids[i], PMX_CLOSE);
    UNTIL(&w, w.closed_count == 2 * COUNT);
    world_is_clean(&w);
    end(&w);
}

static void a_connect_that_waits_for_a_backlog_can_time_out(void)
{
    world w;
    pmx_policy p = raw();
    uint64_t ids[3];
    struct sockaddr_un name;
    p.connect_ns = 30 * MS;
    pmx_endpoint at = begin(&w);
    int full = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    memcpy(name.sun_path, path, at.path_size);
    CHECK(!bind(full, (struct sockaddr *)&name, sizeof name));
    CHECK(!listen(full, 0));
    for (int i = 0; i < 3; i++)
        EQUAL(pmx_connect(w.mux, &at, 1, &p, &ids[i]), 0);
    UNTIL(&w, closed(&w, ids[2]));
    EQUAL(error_of(&w, ids[2]), ETIMEDOUT);
    CHECK(has(&w.opened, ids[0]));
    do_op(&w, ids[0], PMX_ABORT);
    do_op(&w, ids[1], PMX_ABORT);
    UNTIL(&w, w.closed_count == 3);
    close(full);
    world_is_clean(&w);
    end(&w);
}

static void the_process_at_the_other_end_is_known(void)
{
    world w;
    pmx_policy p = raw();
    uint64_t id;
    int64_t of[3] = {7, 7, 7};
    pmx_endpoint at = begin(&w);
    EQUAL(pmx_listen(w.mux, &at, &p, 10, 0, 0600, &w.listener), 0);
    EQUAL(pmx_connect(w.mux, &at, 1, &p, &id), 0);
    UNTIL(&w, w.opened.count == 2);
    for (size_t i = 0; i < 2; i++) {
        int error = pmx_credentials(w.mux, w.opened.ids[i], of);
        if (error == -ENOTSUP)
            break;              /* an OS that does not tell */
        EQUAL(error, 0);
        CHECK(of[0] == getpid() || of[0] == -1);
        EQUAL(of[1], geteuid());
        EQUAL(of[2], getegid());
    }
    CHECK(pmx_socket(w.mux, id) == pmx__find(w.mux, id)->sock);
    CHECK(pmx_socket(w.mux, w.listener) == w.mux->listeners[0].sock);
    do_op(&w, id, PMX_ABORT);
    UNTIL(&w, closed(&w, id));
    EQUAL(pmx_credentials(w.mux, id, of), -ENOENT);
    EQUAL(pmx_socket(w.mux, id), -ENOENT);
    EQUAL(pmx_unlisten(w.mux, w.listener), 0);
    EQUAL(pmx_socket(w.mux, w.listener), -ENOENT);
    UNTIL(&w, w.closed_count == 2);
    world_is_clean(&w);
    end(&w);
}

static void tcp_tells_of_no_process(void)
{
    world w;
    pmx_sock peer;
    pmx_policy p = raw();
    int64_t of[3];
    p.send_buffer = 20000;
    p.notsent_lowat = 4096;
    world_serve(&w, &p);
    uint64_t id = meet(&w, &peer);
    EQUAL(pmx_credentials(w.mux, id, of), -ENOTSUP);
    int room = 0;
    socklen_t size = sizeof room;
    pmx_sock sock = (pmx_sock)pmx_socket(w.mux, id);
    CHECK(!getsockopt(sock, SOL_SOCKET, SO_SNDBUF, &room, &size));
    CHECK(room >= 20000 && room <= 40000);      /* Linux doubles it */
    leave(peer);
    UNTIL(&w, closed(&w, id));
    world_is_clean(&w);
    world_end(&w);
}
#endif

const test_case unix_tests[] = {
    UNIX_EACH(a_unix_socket_echoes_and_is_unlinked, NO_UNIX),
    UNIX_EACH(an_abstract_name_leaves_no_file, NO_UNIX),
    UNIX_ONCE(a_stale_socket_file_is_replaced, NO_UNIX),
    UNIX_ONCE(what_is_no_socket_is_left_alone, NO_UNIX),
    UNIX_ONCE(only_our_own_file_is_unlinked, NO_UNIX),
    UNIX_EACH(bytes_behind_a_descriptor_are_received, NO_UNIX),
    UNIX_EACH(a_full_backlog_is_tried_again, NO_UNIX),
    UNIX_EACH(a_connect_that_waits_for_a_backlog_can_time_out, NO_UNIX),
    UNIX_ONCE(the_process_at_the_other_end_is_known, NO_UNIX),
    UNIX_ONCE(tcp_tells_of_no_process, NO_UNIX),
    {0},
};
