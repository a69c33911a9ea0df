/*
 * A scene: a server with two listeners and a Unix socket, clients that do what
 * clients do, well and badly, and two connections that go out; in plain text, or
 * all of it over TLS, by the toy of OpenSSL. Calls of the system may fail in it, as
 * injected.h was told.
 */
#ifndef SCENE_H
#define SCENE_H

#include "toy_ssl.h"

#ifndef _WIN32
enum client_kind {
    PLAIN,                      /* frames in pieces, then its end */
    BULK,                       /* a message that takes many sends */
    BREAKER,                    /* resets in the middle of a frame */
    IDLER,                      /* says nothing at all */
    CLINGER,                    /* is closed, and stays */
    BABBLER,                    /* a frame that is too long */
    STAYER,                     /* is there when the server stops */
    LOCAL,                      /* over a Unix socket */
    CLIENTS
};

typedef struct {
    pmx_sock sock;
    uint32_t port;
    uint64_t id;                /* of the connection, 0: never opened */
    int error, is_closed;       /* what it closed with, and whether */
    size_t sent;
    int step, has_ended;
    buffer got;
    int said;                   /* by get(): 1, 0 at the end, or -errno */
    buffer out;                 /* what it has yet to send, over TLS, */
    size_t out_at;              /* from here on */
    toy_heard heard;
} client;

typedef struct {
    world w;
    uint64_t loose, strict, local;      /* listeners */
    uint32_t ports[2];
    char path[64];
    client clients[CLIENTS];
    pmx_sock remote;            /* a listener that is not the mux's */
    uint32_t remote_port;
    pmx_sock visitor;           /* whom the mux has connected to it */
    buffer from_mux;
    toy_heard heard_from_mux;
    uint64_t out, self;         /* outgoing connections */
    uint64_t out_said, self_said;       /* messages that came on them */
    int out_error, self_error;  /* of either end */
    int out_is_closed, self_is_closed;
    int drained;
    int lost;                   /* closed with an errno that was not to be */
    int nameless;               /* handshakes that failed, nobody knows whose */
} scene;

extern int scene_is_secure;     /* the next one is over TLS */

/* What a client does. */
typedef struct {
    const char *sends[3];       /* a piece a step, NULL: no more */
    const char *answer;
    int ends;                   /* closes its writing side behind it */
    int strict;                 /* at the second listener, with deadlines */
    int error;                  /* that its connection closes with */
} role;

extern const role script[CLIENTS];
extern buffer bulk;             /* one line */

uint32_t own_port(pmx_sock sock);
void arrive(scene *s);          /* the clients */
void act(scene *s, int i);      /* a step of one of them */
void act_remote(scene *s);      /* and of the other end of what goes out */

/* What one client sends; made before the first scene, dropped after the last. */
void make_bulk(void);
void drop_bulk(void);

/* All of it, under whatever inject_*() was told; how many were harmed. */
int play(scene *s);

/* Whether there was such a failure, or what may follow from one. */
int explained(int error);
#endif

#endif
