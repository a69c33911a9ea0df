/*
 * A toy of OpenSSL, for transport_tls.c and both engines: the functions that
 * pmx_tls_use() takes, and a function for portable objects. A record is a kind,
 * two bytes of length, and bytes that are changed. A client says 'c'; the server
 * answers by its flight, records 's', the last one without bytes; the client says
 * 'f', and both are up. Then: 'd' data, 'b' the bye, 'k' asks for a 'K', 't' a
 * ticket, 'a' an alert.
 */
#ifndef TOY_SSL_H
#define TOY_SSL_H

#include "world.h"

enum { SSL_HEAD = 3, SSL_RECORD = 700, SSL_KEY = 0xa5 };
enum { TOY_CODE = 0x0A000123 }; /* why a toy has failed */
/* pmx_policy.tls of an outgoing connection whose peer is the client; others are
 * any number. */
enum { TOY_SERVES = 2 };

/* How the objects that are made from now on behave. */
typedef struct {
    int portable;               /* driven by the function, not adopted */
    size_t flight;              /* of a server, in bytes */
    int tickets;                /* of a server */
    int reused;
    int refuse;                 /* no object can be made */
    long fail_at;               /* the nth step of all objects fails, 0: none */
} toy_manner;

extern toy_manner toy_ways;
extern long toy_steps;          /* of all objects */
extern long toy_written;        /* plaintext bytes that were encrypted */

/* The core is to have these functions; and connections of a turn these
 * objects. */
void toy_use(void);
void toy_adopt(pmx_mux *mux, const pmx_turn *t);
/* From now on connections of the world get such objects when they wait. */
void toy_secure(world *w);
/* Free the objects of all worlds. */
void toy_over(void);
uint64_t toy_object(int server);        /* the address of a new object */

/* A peer's side: what it says, and what it hears. */
void toy_record(buffer *wire, char kind, const void *bytes, size_t size);
void toy_data(buffer *wire, const void *bytes, size_t size);
typedef struct {
    buffer wire, plain;
    size_t at;
    int hellos, byes, alerts, updates, tickets, end, error;
    int tickets_before_data;
} toy_heard;
int toy_hear(toy_heard *h, pmx_sock peer);      /* as get() */
void toy_parse(toy_heard *h);                   /* what is in h->wire */
void toy_forget(toy_heard *h);


/* A world that serves by this policy over TLS; and its end, which is clean. */
void toy_serve(world *w, const pmx_policy *policy, uint32_t rows,
               uint64_t arena);
void toy_end(world *w);
void toy_greet(buffer *wire);                   /* a client's handshake */
/* A peer whose handshake is done, and its id. */
uint64_t toy_meet(world *w, pmx_sock *peer, int small);
void toy_put_data(pmx_sock peer, const char *text);
void toy_put(pmx_sock peer, char kind);

#endif
