/* The client side: connections that send the ring's messages and check each
 * answer. One thread, one epoll; the loads in load.c drive it. */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>

#include "hist.h"
#include "pattern.h"
#include "wire.h"

#define SECOND 1000000000U

enum kind { ACTIVE, IDLE, SLOW };
enum state { CLOSED, CONNECTING, GREETING, OPEN };
enum fault { REFUSED, LOST, WRONG, UNANSWERED, FAULTS };

struct conn {
    struct wire wire;
    uint8_t kind, state;
    uint32_t index;
    uint32_t next, due;   /* ring: the message to queue, the one to be answered */
    size_t put, get;      /* ring: the byte to send, the one to be received */
    size_t unsent, owed;  /* bytes queued here; bytes queued or sent, unanswered */
    uint32_t waiting;     /* messages queued or sent, unanswered */
    uint64_t answered;    /* messages, the greeting not counted */
    uint64_t started;     /* when it was launched */
    uint64_t *stamps;     /* when each of the `depth` in flight was queued */
};

struct options {
    const char *mode, *host, *framing, *payload, *size;
    unsigned port, conns, depth, idle, slow, window, base;
    int pid;
    bool spin;
    double rate, warmup, duration, timeout; /* per second; seconds */
};

struct run {
    int epoll;
    bool sending, measuring, churning, stop_at_failure;
    struct conn *conns; /* the active ones first, then slow, then idle */
    unsigned total, active, pending, opened;
    uint64_t outstanding, progress; /* messages; when the last one came */
    uint64_t start, from, until;    /* of an open loop, of what is measured */
    uint64_t messages, faults[FAULTS];
    struct hist latency, opening;
    char error[160];
    struct pattern ring;
    struct sockaddr_in server;
};

extern struct options opt;
extern struct run run;

/* When an open loop's message is due: message j of connection i is the
 * (j * active + i)-th. */
uint64_t due_time(uint64_t message);

void launch(struct conn *c);

/* Queues the next message, as of `now`; `flush` sends what is queued, and what
 * the kernel refuses when epoll tells of room. */
void queue(struct conn *c, uint64_t now);
void flush(struct conn *c);
void fill_window(struct conn *c, uint64_t now);

/* Takes in at most `limit` bytes; false when the connection is gone. */
bool receive(struct conn *c, size_t limit);

/* Closes the connection without a fault; state CLOSED. */
void hang_up(struct conn *c);

/* Counts the fault, keeps the first one's words, closes the connection. */
void drop(struct conn *c, enum fault fault, int error);

/* Handles what is ready, after waiting until `until` at the latest. */
void step(uint64_t until);

/* Opens connections [first, end), at most `window` at once; those that are
 * not answered within the timeout are counted. */
void open_range(unsigned first, unsigned end, unsigned window);

#endif
