/*
 * A mux with what tests need around it: a log to write to, everything that was
 * reported so far, and plain sockets as peers, non-blocking, in this thread.
 */
#ifndef WORLD_H
#define WORLD_H

#include "mux.h"
#include "test.h"

#include <stdio.h>

typedef struct {
    uint8_t *bytes;
    size_t size, room;
} buffer;

typedef struct {
    uint64_t id;
    size_t at, size;            /* in world.in */
    int turn;
} message;

typedef struct {
    uint64_t id;
    int error;
    uint64_t tls_error;
    int64_t tls_verify;
    pmx_address peer, local;
    int turn;
} ending;

typedef struct {
    uint64_t *ids;
    size_t count, room;
} id_list;

typedef struct world {
    pmx_mux *mux;
    void (*adopt)(struct world *);      /* gives those that wait a TLS object */
    pmx_arena *arena, *large;   /* ours, and one that was handed over */
    pmx_turn t;
    uint64_t listener;
    uint32_t port;
    int turns;
    int echo;                   /* send back what comes */
    int forget;                 /* keep no messages, count their bytes */
    int gaps;                   /* leave delimiters in place */
    int answers;                /* what is sent is PMX_ANSWERS */
    uint64_t bytes;

    buffer ids, lengths, out;   /* the log */
    uint32_t log_count;

    buffer in;                  /* what was received */
    message *messages;
    size_t message_count, message_room;
    id_list opened, ended, blocked, drained;
    ending *closed;
    size_t closed_count, closed_room;
    ending failed[16];          /* the last ones */
    size_t failed_count;
} world;

/* A framing's entries, found by its kind. */
static inline int next_frame(const pmx_framing *f, const uint8_t *bytes,
                             size_t size, uint64_t *scanned, pmx_frame *frame)
{
    return pmx__framing_of(f)->next(f, bytes, size, scanned, frame);
}

static inline uint8_t frame_head(const pmx_framing *f, uint64_t size,
                                 uint8_t *head)
{
    const pmx__framing *is = pmx__framing_of(f);
    return is->head ? is->head(f, size, head) : 0;
}

/* Policies: no limits but the defaults. */
pmx_policy raw(void);
pmx_policy lines(const char *delimiter, uint32_t max_size);
pmx_policy prefix(uint32_t width, int little, uint32_t max_size);
pmx_policy fixed(uint32_t size);
pmx_policy varint(uint32_t max_size);
pmx_policy scanner(pmx_scan scan, uint32_t max_size);

void world_begin(world *w, uint32_t max_messages, uint64_t arena_size);
/* world_begin and a listener on 127.0.0.1. */
void world_serve(world *w, const pmx_policy *policy);
void world_listen(world *w, const pmx_policy *policy);
void world_end(world *w);
/* Everything must be as if nothing had been: no connection, no memory. */
void world_is_clean(world *w);

/* Its lists, flags and figures agree, between any two turns. */
void mux_is_sound(const pmx_mux *mux);

/* One harvest, with what is in the log; the reason, and all is recorded. */
int turn_of(world *w, int64_t timeout_ns, uint32_t min_messages,
            int64_t max_delay_ns);
int turn(world *w, int64_t timeout_ns);
#define MS INT64_C(1000000)

/* Turns until something holds: at least one, and for a bounded time. */
int64_t deadline(void);
#define UNTIL_DOING(w, what, doing) \
    do { \
        int64_t until_ = deadline(); \
        do { \
            doing; \
            turn(w, MS); \
            if (pmx__now() > until_) \
                test_failed(__FILE__, __LINE__, "in time: " #what); \
        } while (!(what)); \
    } while (0)
#define UNTIL(w, what) UNTIL_DOING(w, what, (void)0)

void say(world *w, uint64_t id, const void *bytes, size_t size);
void say_text(world *w, uint64_t id, const char *text);
/* More than the kernel takes, and until it takes no more. */
void say_much(world *w, uint64_t id, const buffer *bytes);
void do_op(world *w, uint64_t id, enum pmx_op op);
/* To another policy; `back` are bytes that the caller gives back. */
void switch_to(world *w, uint64_t id, const pmx_policy *to, const void *back,
               size_t size);

/* What is known of a connection. */
int has(const id_list *list, uint64_t id);
const ending *closed(const world *w, uint64_t id);
int error_of(const world *w, uint64_t id);      /* -1: not closed */
/* The received bytes of one connection put together. */
buffer received_by(const world *w, uint64_t id);
size_t messages_of(const world *w, uint64_t id);
const message *message_of(const world *w, uint64_t id, size_t k);
int is_text(const world *w, const message *m, const char *text);

/* Peers. */
pmx_sock call(const world *w);                  /* connected, non-blocking */
pmx_sock call_small(const world *w);            /* with a small buffer */
pmx_sock call_port(uint32_t port, int small);
void pair_of(pmx_sock pair[2]);                 /* of each other */
void set_room(pmx_sock peer, int option, int size);
uint64_t meet(world *w, pmx_sock *peer);        /* call, and its id */
uint64_t meet_small(world *w, pmx_sock *peer);
void put(pmx_sock peer, const void *bytes, size_t size);
void put_text(pmx_sock peer, const char *text);
/* What it takes now of bytes[*at..size); 1 when that was the last. */
int put_some(pmx_sock peer, const buffer *bytes, size_t *at);
int64_t offer(pmx_sock peer, const void *bytes, size_t size);
/* What is there now; 1: more may come, 0: the end, -errno. */
int get(pmx_sock peer, buffer *into);
int get_at_most(pmx_sock peer, buffer *into, size_t size);
void end_writing(pmx_sock peer);
void end_both(pmx_sock peer);
void leave(pmx_sock peer);                      /* close it */
void reset_peer(pmx_sock peer);
int is_reset(int said);                         /* by get() */
void needs_resets(void);                        /* else skips the test */
int acks_are_told(void);        /* what a peer has acknowledged, by the OS */
/* Without that, a close in a drain waits for the peer's end: here it is. */
void end_if_untold(pmx_sock peer);
int is_text_of(const buffer *b, const char *text);

void append(buffer *b, const void *bytes, size_t size);
void release(buffer *b);
FILE *file_of(size_t size);
/* Bytes that are different wherever one looks. */
void fill(buffer *b, size_t size, uint32_t seed);
int same(const buffer *a, const buffer *b);

/* Count the waits of a mux, and let them fail. */
extern long wait_count;
extern int wait_result;         /* returned once instead, if not 0, */
extern long wait_fails_at;      /* from the nth wait on */
void count_waits(world *w);

#endif
