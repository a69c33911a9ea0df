/*
 * A life: a mux on the system in memory (sim.h), peers that do anything, a
 * user who does anything, faults, and a model of what must come of it.
 *
 * A `peer` is the other end of a connection and keeps what it sent and what
 * it got; a `conn` is what the user knows of one. What is received must be the
 * peer's stream, cut as choices.c plainly cuts it; what the peer gets must be
 * the beginning of what the user sent, and all that was owed, unless
 * something happened that explains it.
 */
#ifndef LIFE_H
#define LIFE_H

#include "choices.h"
#include "toy_ssl.h"

enum { MOST_PEERS = 48, MOST_CONNS = 96, DOORS = 4, MOST_ENTRIES = 512,
       MOST_SERVICES = 4 };

/* What is the matter with a connection: which error it may close with. */
enum {
    WAS_RESET = 1,              /* by its peer, or the peer has left */
    WAS_CUT = 2,                /* the link failed */
    MAY_BE_LATE = 4,            /* one of its times may be over */
    MAY_OVERFLOW = 8,
    USER_FAILED = 16,
    USER_ABORTED = 32,
    HAS_FAULT = 64,             /* anything may have failed */
    RESET_ALL = 128
};

typedef struct {
    int fd;                     /* -1: it has left */
    uint32_t pipe;              /* it has a pipe; the conn has this end, or 0 */
    pmx_policy policy;          /* of the other side */
    uint64_t link;              /* see sim_link() */
    int port;                   /* its own, or the mux's that called */
    buffer header;              /* to be sent first, from `headed` on */
    size_t headed;
    int has_no_header;          /* what it sends first is none */
    size_t first;               /* bytes of the mux's header that it got */
    buffer plan;                /* to be sent, from `planned` on */
    size_t planned;
    buffer wire, heard;         /* over the toy: to be sent, from `wired` on, */
    size_t wired, unwrapped;    /* and what came, whose records are read */
    toy_heard secret;           /* the same over TLS */
    int answers;                /* it was called, so over TLS it is the server */
    buffer sent, got;
    size_t cut;                 /* of what was sent: delivered */
    size_t compared;            /* of what it got */
    int ended_by_drain;         /* all of it has arrived, its end too */
    int ended, got_end, is_lost, cannot_send;
    int says_bye;               /* what it still plans is never sent */
    int is_urgent;              /* a mark stops what tells how much is there */
    int matter;
    int break_error;
    int conn;                   /* index, or -1 */
} peer;

typedef struct {
    uint64_t id;
    int half;                   /* in which mux it is */
    uint64_t door;              /* of the first mux, by which it came, or 0 */
    int peer;                   /* index, or -1: not known */
    uint32_t pipe;              /* which end it is, or 0 */
    pmx_policy policy;
    int64_t since;
    buffer expected;            /* what its peer is to get */
    size_t owed;
    size_t looked;              /* see look_ahead() */
    int outgoing, opened, told_ended, told_closed;
    int limited;                /* its input was ended: pmx_end_inputs() */
    int closed_by_user, ended_by_user, switched;
    int begun;                  /* the user has said so: PMX_BEGUN */
    int paused, had_row, last_line, too_long;
    int was_over, is_over;      /* high water: perhaps, and surely */
    int told_blocked;           /* and not yet that it has drained */
    size_t largest;             /* of what was sent to it, as it goes out */
    int answered;               /* what is queued may be its answers */
    int waits;                  /* for answers that are owed, */
    int said_owed;              /* or will, once the log is written */
    int matter;
    int error;
    uint32_t was_in;            /* services before its switches: a bit each */
} conn;

/* A second mux, and what belongs to it, while the life is at the first. */
typedef struct {
    pmx_mux *mux;               /* NULL: the life has one mux */
    pmx_arena *arena;
    pmx_turn t;
    uint32_t services;
    int gathering;
    uint32_t waits[MOST_SERVICES];
} life_half;

typedef struct {
    int conn;
    enum pmx_op op;
    size_t size;
} entry;

/* A place to call: a listener of the mux's, or one of the peers'. */
typedef struct {
    uint64_t id;                /* 0: closed */
    int fd;                     /* the peers' */
    pmx_policy policy;
    pmx_endpoint at;
    char path[32];
} door;

typedef struct {
    choices *c;
    pmx_mux *mux;
    pmx_arena *arena;
    pmx_turn t;
    peer peers[MOST_PEERS];
    conn conns[MOST_CONNS];
    int peer_count, conn_count;
    door doors[DOORS], others[DOORS];
    entry log[MOST_ENTRIES];
    int log_count;
    buffer out;                 /* what the blocks point into */
    int wild;                   /* resets, garbage, times that are short */
    int large;
    int proxied;                /* behind headers of the PROXY protocol */
    int toy;                    /* connections are over toy.h's transport, or 2:
                                   over TLS, with toy_ssl.h's objects */
    int faults;                 /* 1: one is to come; 2: have been */
    const injected_fault *fault;
    int acts;                   /* of peers, in this turn's wait */
    int talk;                   /* what they may say through the end */
    int woken, ending, way, draining, all_reset;
    uint32_t max_rows, services;
    uint32_t waits[MOST_SERVICES];      /* harvests of others that rows of a
                                           service have waited for */
    uint64_t rows, opened, closed, failed, shutdowns_failed;
    int gathering;
    life_half other;
    int half;                   /* which of the two muxes `mux` is: 0 or 1 */
    uint64_t moved;
    int serves[MOST_CONNS];     /* ports of adopted sockets whose peers are clients, */
    int serve_count;            /* over TLS */
    int seats;                  /* a file: other workers have fewer; or 0 */
} life_t;

extern life_t life;
extern int life_trace;          /* say what happens, on stderr */
#define TRACE(...) \
    do { \
        if (life_trace) \
            fprintf(stderr, __VA_ARGS__); \
    } while (0)

/* One life, on this backend, from beginning to end: each CHECK holds. */
void live(choices *c, const char *backend);

/* How much longer output may become that the socket has refused. */
size_t header_slack(void);
static inline size_t life_slack(void)
{
    return header_slack() +
           (life.toy == 2 ? 1000 + toy_ways.flight : life.toy ? 64 : 0);
}

/* Whether a stop has ended the connection's input, by a drain or alone. */
static inline int is_drained(const conn *k)
{
    return (life.draining && !k->outgoing) || k->limited;
}

/* life_move.c: two muxes */
extern int life_two;            /* lives have a second mux, and connections move */
void life_open_second(const char *backend, uint64_t size);
void life_turn_to_other(void);
void life_moves(void);
void life_note_faults(void);    /* life.c */

/* Others have fewer connections than the first mux, which keeps what it is to give
 * away, as one whose neighbours take nothing. */
void life_shares(void);
void life_gives(int reason);
void life_shares_no_more(void);

/* life_header.c */
int headers_trust_all(pmx_mux *mux);
void header_policy(pmx_policy *p);      /* of a door */
void header_out(pmx_endpoint *at);
void header_plan(peer *p);
int header_sends(peer *p, size_t most); /* 1: something has moved */
size_t header_got(peer *p, const uint8_t *bytes, size_t size);

/* life_peers.c */
int peers_act(void);
int peers_finish(void);         /* 1: something has moved */
void peers_listen(void);
void peers_accept(void);
void peers_links(void);
void peers_note_drain(void);
void compare_got(peer *p);

/* life_pipe.c */
int adopt_pipe(conn *k);
int writer_finishes(peer *p);

/* life_report.c */
void check_opened(uint64_t id);
void check_message(uint32_t row);
int peer_matter(const conn *k);
void check_ended(uint64_t id);
void check_blocked(uint64_t id);
void check_drained(uint64_t id);
void check_closed(const pmx_closed *row);

/* life_doors.c */
void user_listens(void);
void user_closes_a_door(void);
void look_at_doors(void);

/* life_user.c */
void user_acts(void);
pmx_policy some_policy(void);
void write_log(void);           /* into life.t's blocks */
void free_log(void);
void user_says(int conn, enum pmx_op op, size_t size);
conn *conn_of(uint64_t id);
size_t some_size(size_t most);

#endif
