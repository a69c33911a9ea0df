/* The peers of a scene: see scene.h. */
#include "scene.h"

#ifndef _WIN32
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint32_t own_port(pmx_sock sock)
{
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    CHECK(!getsockname(sock, (struct sockaddr *)&name, &size));
    return ntohs(name.sin_port);
}

/* It has a name of its own, so that its connection can be told. */
static pmx_sock call_path(const char *path)
{
    struct sockaddr_un from = {.sun_family = AF_UNIX}, to = from;
    pmx_sock sock = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(to.sun_path, path);
    snprintf(from.sun_path, sizeof from.sun_path, "%s-peer", path);
    CHECK(sock >= 0);
    CHECK(!bind(sock, (struct sockaddr *)&from, sizeof from));
    CHECK(!unlink(from.sun_path));
    CHECK(!connect(sock, (struct sockaddr *)&to, sizeof to));
    CHECK(!pmx__prepare(sock));
    return sock;
}

/* From a port that no other has, by which we tell them: connect() alone may
 * choose one for two that go to different ports. */
static pmx_sock call_from_own_port(uint32_t port)
{
    struct sockaddr_in from = {.sin_family = AF_INET}, to;
    pmx_sock sock = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    CHECK(sock >= 0);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to = from;
    to.sin_port = htons((uint16_t)port);
    CHECK(!bind(sock, (struct sockaddr *)&from, sizeof from));
    CHECK(!setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    CHECK(!connect(sock, (struct sockaddr *)&to, sizeof to));
    CHECK(!pmx__prepare(sock));
    return sock;
}

void arrive(scene *s)
{
    for (int i = 0; i < CLIENTS; i++) {
        client *c = &s->clients[i];
        c->said = 1;
        if (scene_is_secure)
            toy_greet(&c->out);
        if (i == LOCAL) {
            c->sock = call_path(s->path);
            continue;
        }
        c->sock = call_from_own_port(s->ports[script[i].strict]);
        c->port = own_port(c->sock);
    }
}

/* Over TLS; whether all is with the kernel. */
static int flush(client *c)
{
    if (c->out_at < c->out.size) {
        int64_t n = offer(c->sock, c->out.bytes + c->out_at,
                          c->out.size - c->out_at);
        c->out_at += n > 0 ? (size_t)n : 0;
    }
    return c->out_at == c->out.size;
}

/* What the kernel takes of it; over TLS the rest follows. */
static size_t speak(client *c, const void *bytes, size_t size)
{
    if (!scene_is_secure) {
        int64_t n = offer(c->sock, bytes, size);
        return n > 0 ? (size_t)n : 0;
    }
    toy_data(&c->out, bytes, size);
    (void)flush(c);
    return size;
}

static int hear(client *c, size_t most)
{
    if (!scene_is_secure)
        return get_at_most(c->sock, &c->got, most);
    int said = get_at_most(c->sock, &c->heard.wire, most);
    toy_parse(&c->heard);
    return said;
}

void act(scene *s, int i)
{
    client *c = &s->clients[i];
#ifdef TCP_QUICKACK             /* the kernel may wait 200 ms with it */
    if (i == BABBLER || i == STAYER) {
        int on = 1;
        (void)setsockopt(c->sock, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
    }
#endif
    if (i == BULK && c->sent < bulk.size) {
        c->sent += speak(c, bulk.bytes + c->sent, bulk.size - c->sent);
    } else if (c->said > 0 && !flush(c)) {
        ;                       /* first what was said before */
    } else if (i != BULK && c->step < 3 && script[i].sends[c->step]) {
        const char *text = script[i].sends[c->step++];
        (void)speak(c, text, strlen(text));
    } else if (i == BREAKER && c->sock >= 0 && c->step++ == 3) {
        reset_peer(c->sock);
        c->sock = PMX__NO_SOCK;
        c->said = 0;
    } else if (script[i].ends && !c->has_ended) {
        if (scene_is_secure) {
            toy_record(&c->out, 'b', NULL, 0);
            (void)flush(c);
        }
        end_writing(c->sock);
        c->has_ended = 1;
    } else {
        c->step++;
    }
    if (c->said > 0)
        c->said = hear(c, i == BULK ? 32768 : SIZE_MAX);
}

static void act_securely(scene *s)
{
    toy_heard *h = &s->heard_from_mux;
    size_t before = h->plain.size;
    int is_first = !h->wire.size;
    buffer wire = {0};
    int is = toy_hear(h, s->visitor);
    if (is_first && h->wire.size)
        toy_record(&wire, 's', NULL, 0);
    if (h->plain.size > before)
        toy_data(&wire, h->plain.bytes + before, h->plain.size - before);
    if (is > 0)
        (void)offer(s->visitor, wire.bytes, wire.size);
    release(&wire);
    if (is <= 0) {
        leave(s->visitor);
        s->visitor = PMX__NO_SOCK;
    }
}

/* The other end of the connection that goes out sends back what comes. */
void act_remote(scene *s)
{
    size_t before = s->from_mux.size;
    if (scene_is_secure && s->visitor >= 0) {
        act_securely(s);
    } else if (s->visitor < 0) {
        s->visitor = accept(s->remote, NULL, NULL);
        CHECK(s->visitor < 0 || !pmx__prepare(s->visitor));
    } else if (get(s->visitor, &s->from_mux) > 0) {
        if (s->from_mux.size > before)
            (void)offer(s->visitor, s->from_mux.bytes + before,
                        s->from_mux.size - before);
    } else {
        leave(s->visitor);
        s->visitor = PMX__NO_SOCK;
    }
}
#else
typedef int scene_peers_are_for_unix;   /* a file must not be empty */
#endif
