/*
 * The data of the core: connections, policies in use, the mux; and functions
 * that touch the memory of one of these alone. Layer 3.
 *
 * Words of the core alone (for the others see pymux/engine/engine.py):
 *   slot       the place of a connection, used again by others
 *   rules      a policy in use, with its framing, transport and service
 *   ready      in a list of connections that a turn is to serve
 *   chore      work of a connection that brings no rows
 *   portion    how much one connection may bring in a turn
 *   carry      input of one connection that is not delivered yet
 *   run        messages that are cut in one go
 *   piece      one frame of this turn's output; chunk: a part of a queue
 *   common     bytes that many queues refer to
 *   dirty      a connection that this turn's output is for
 *   wire       of the socket, before a transport has changed the bytes
 *   route      the addresses that a dialled connection tries, in order
 *   settle     take the steps to the end of a connection that can be taken
 *   linger     stay, all sent, until the peer has ended or acknowledged
 *   finish     close the socket; only the report is left
 *   due        having a deadline; touch: it counts from now on
 *   look       see what a peer has acknowledged: no event reports that
 *   limit      end the input behind what has arrived, for a stop
 *   foreign    of a descriptor that is only watched, for the caller
 *   lease      who needs an arena: its owner, and Arrow arrays of it
 *   header     what a balancer says before a connection's first byte (proxy.c)
 *   door       lets one thread at a time into a mux (entry.c)
 */
#ifndef PMX_CORE_H
#define PMX_CORE_H

#include "arrow.h"
#include "bounds.h"
#include "flags.h"
#include "header.h"
#include "poller.h"
#include "tls.h"

#include <errno.h>

#define PMX__NONE UINT32_MAX

/* Tokens of listeners, of the wakeup, and of foreign descriptors, with number
 * << 2 | what. A connection's token is its id, which has less than 62 bits. */
#define PMX__LISTENER_TAG (UINT64_C(1) << 63)
#define PMX__FOREIGN_TAG (UINT64_C(1) << 62)
#define PMX__WAKEUP_TOKEN UINT64_MAX

/* Queued output: chunks, whose bytes are their own or common to many. */
typedef struct {
    uint32_t refs;
    size_t size;
    uint8_t bytes[];
} pmx__common;

typedef struct pmx__chunk {
    struct pmx__chunk *next;
    pmx__common *common;        /* has the bytes; NULL: they are in here */
    size_t begin, end, room;
    int raw;                    /* as it goes to the socket, past the
                                   transport: only at the head */
    uint8_t bytes[];
} pmx__chunk;

typedef struct {
    size_t size;                /* in bytes */
    pmx__chunk *head, *tail;
} pmx__queue;

typedef struct { uint32_t head, tail; } pmx__list;

typedef struct {
    int64_t at;
    uint32_t slot;
} pmx__deadline;

struct pmx__framing;            /* see frame.h, transport.h */
struct pmx__transport;
struct pmx__tls_area;           /* see tls_engine.h */

/* A service: the connections of one handler. The rows of a batch are of one
 * service, so each has lists of its own. */
typedef struct pmx__service {
    uint32_t number;
    uint32_t min_messages;      /* see pmx_configure() */
    int64_t max_delay_ns;
    uint32_t leave_gaps;
    uint32_t is_answered;       /* its peers wait for answers: see doze.c */
    uint32_t suspicions;        /* how often that was possible, */
    uint32_t try_after;         /* and after how many it is tried; */
    uint32_t was_late;          /* the last time they came, but not soon */
    int64_t pace;               /* nanoseconds a message, or 0: unknown */
    uint32_t sources;           /* connections that may bring messages */
    pmx__list ready;            /* connections that have input to be served */
    uint32_t ready_count;
    uint32_t cut_short;         /* the connection whose portion a full batch
                                   has cut, */
    size_t cut_left;            /* and the bytes that are left of it */
    pmx__list report;           /* connections that have something to report */
    uint32_t report_count;
    uint32_t in_line;           /* the service waits for a batch, */
    struct pmx__service *next;  /* and then this one */
} pmx__service;

/* A policy in use. A listener and its connections have one; outgoing
 * connections with equal policies have one together, which a table finds. */
typedef struct pmx__rules {
    pmx_policy policy;
    const struct pmx__framing *framing;         /* of what is received, */
    const struct pmx__framing *out_framing;     /* and of what is sent, */
    const pmx_framing *out;                     /* with its parameters */
    const struct pmx__transport *transport;
    pmx__service *service;
    struct pmx__rules *first;   /* what connections that have switched began
                                   with, and still count for; or NULL */
    struct pmx__rules *next;    /* in the same place of the table */
    uint64_t listener;          /* the first one that has them, or 0 */
    uint32_t hash;
    uint32_t reused;            /* it is in the table */
    uint32_t refs;
    uint32_t connections;       /* that are open, accepted by the listener, */
    uint32_t shaking;           /* and how many of them shake hands */
    uint32_t lingering;         /* how many of them linger */
    uint32_t oldest, newest;    /* of those that may go: slot + 1, or 0 */
} pmx__rules;

/* A name of IPv6, as the network has it. */
typedef struct {
    uint8_t ip[16];
    uint32_t scope;
    uint16_t port;
} pmx__name6;

/* The peer and local names of a connection that has closed. */
typedef struct {
    pmx_address names[2];
    pmx__target targets[2];
    pmx__proxy *proxy;          /* or NULL */
    uint64_t tls_error;         /* and why its TLS has failed */
    int64_t tls_verify;
} pmx__names;

/* An address of an outgoing connection, and the socket on its way there. */
typedef struct {
    pmx__target to;
    pmx_sock sock;
} pmx__attempt;

/* The addresses of an outgoing connection: see dial.c. */
typedef struct {
    int64_t until;              /* INT64_MAX: as long as the system tries */
    int64_t next_at;            /* when the next address is tried */
    uint32_t count, next;       /* addresses; the first that was not tried */
    pmx__target source;         /* size 0: the system chooses */
    uint32_t header_size;       /* of what is sent first, */
    uint8_t *header;            /* behind the attempts */
    pmx__attempt attempts[];
} pmx__route;

/* A connection over TLS. The peer is first, so at.peer is it too. */
typedef struct pmx__tls {
    pmx__target peer;
    const struct pmx__tls_engine *engine;   /* NULL: it waits for its object */
    uint64_t object;            /* adopted: the address of its SSL */
    uint64_t id;
    uint8_t *rest;              /* ciphertext that is not taken in yet: */
    size_t rest_begin, rest_end;
    int64_t until;              /* the deadline of its handshake */
    uint64_t code;              /* of OpenSSL, why it has failed */
    int64_t verify;
    int64_t over;               /* what recv() returns from now on, if not 1 */
    uint8_t told;               /* among `waiting` */
    uint8_t tickets;            /* to be sent before the first answer */
    uint8_t said_bye;
    uint8_t has_more;           /* portable: it may have plaintext */
    pmx__proxy *proxy;          /* or NULL */
} pmx__tls;

/* A slot: 96 bytes a connection on 64-bit Unix. */
typedef struct pmx__conn {
    pmx__rules *rules;
    union {
        pmx_arena *carry;       /* input that is no complete frame yet; it is
                                   empty where the caller has the bytes */
        struct {
            uint32_t older, newer;      /* slot + 1, or 0 */
        } linger;               /* MAY_GO: its neighbours in that list */
    };
    pmx__queue *queue;
    union {
        pmx__route *route;      /* CONNECTING: it has the sockets */
        uint8_t ip6[8];         /* open, IPv6: the first half of the peer's */
        pmx__name6 *peer6;      /* open, IPv6 with a scope */
        pmx__target *peer;      /* open, Unix: no longer than the name is */
        pmx__tls *tls;          /* shaking or open, over TLS */
        pmx__proxy *proxy;      /* awaiting its header, or open with one */
        pmx__names *names;      /* DONE */
    } at;
    int64_t since;              /* last activity */
    pmx_sock sock;
    uint32_t generation : 29;   /* even: the slot is free */
    uint32_t say_blocked : 1;   /* more flags: see report.c */
    uint32_t counts_for_peer : 1;       /* and peers.c, */
    uint32_t owed : 1;          /* and PMX_OWED */
    uint32_t flags;             /* enum pmx__flags */
    int32_t error;              /* the first errno */
    uint32_t ready_prev, ready_next;
    uint32_t due_place;         /* in the heap, where `due` is set */
    uint32_t report_next;
    uint32_t dirty;             /* the entry in this turn's output */
    uint32_t row_turn;          /* the last turn with a row */
    uint32_t left;              /* LIMITED: bytes that are still to be read;
                                   CLOSING or SLOW_DUE: bytes that were not
                                   acknowledged at the last look, or UNKNOWN */
    uint32_t ip4;               /* the peer's address, in network order; IPv6
                                   without a scope: bytes 8 to 11 of it */
    uint16_t port4;             /* the peer's port, likewise */
    uint8_t due : 3;            /* enum pmx__due */
    uint8_t lingers : 2;        /* enum pmx__lingers */
    uint8_t watched : 3;        /* enum pmx__watched */
    uint8_t task;               /* enum pmx__task */
    uint8_t ip6_end[4];         /* IPv6 without a scope: bytes 12 to 15 */
} pmx__conn;

/* The memory that `at` points to, or NULL: it is freed with the connection. */
static inline void *pmx__at_memory(const pmx__conn *c)
{
    return (c->task & PMX__FAMILY) == 6 &&
                   !(c->flags & (PMX__CONNECTING | PMX__DONE))
               ? NULL : c->at.names;
}

typedef struct {
    pmx_sock sock;
    pmx__rules *rules;          /* NULL: a free place */
    pmx__target name;
    pmx__file file;
    uint32_t generation;
    uint32_t prev, next;        /* in a list of listeners */
    uint8_t is_given;           /* others may have the socket: no shutdown */
    uint8_t can_accept;         /* in that list, unless */
    uint8_t full;               /* at max_connections, in that list */
    uint32_t backlog;           /* how many peers may wait, as far as is known */
    uint32_t last;              /* it retires: it accepts so many more but one,
                                   then closes; or 0 */
} pmx__listener;

/* One frame of this turn's output: a head, the caller's bytes, and a tail,
 * which the connection's framing knows. */
typedef struct {
    const uint8_t *data;
    size_t size;
    uint32_t next;
    uint32_t common;            /* common to all ids of this block, + 1 */
    uint8_t head_size;
    uint8_t tail_size;
    uint8_t head[8];            /* PMX__HEAD, of frame.h */
} pmx__piece;

typedef struct {
    uint32_t slot, head, tail;
    size_t size;
} pmx__dirty;

/* Connections of a listener that one peer address has. */
typedef struct {
    pmx__rules *rules;          /* the listener's; NULL: a free place */
    uint64_t net;
    uint32_t is6;
    uint32_t count;
} pmx__peer_count;

/* A connection that is to be given to another worker: see balance.c. */
typedef struct {
    pmx_sock sock;
    uint64_t listener;
    uint32_t seat;
    pmx__target peer;
} pmx__gift;

struct pmx_mux {
    int32_t door;               /* see entry.c */
    uint32_t forks;
    const pmx__poller *poller;
    void *poll_state;
    pmx_sock wakeup[2];         /* PMX__NO_SOCK before it is opened */

    pmx__conn **slabs;
    uint32_t slab_count;
    uint32_t slots;             /* that have been in use */
    uint32_t slot_room;         /* slots that there is memory for */
    uint32_t first_slots;       /* room at first: a slab, or FEW_SLOTS */
    pmx__list free;
    pmx__deadline *due;         /* room for every slot */
    uint32_t due_count, due_room;
    pmx__rules **rules;         /* the table of those that are reused */
    uint32_t rules_count, rules_room;   /* the room is a power of 2 */
    pmx__peer_count *peers;     /* the table of max_per_peer, likewise */
    uint32_t peer_used, peer_room;
    uint64_t peer_seed;
    pmx__listener *listeners;
    uint32_t listener_count, listener_room;
    pmx__list free_listeners;
    pmx__list accepting;        /* listeners whose backlog may have peers */
    pmx__list full_listeners;   /* listeners at max_connections */
    int64_t accept_again;       /* accepting is paused until then, or 0 */
    int64_t ask_at;             /* next pmx__ask_sockets() */
    uint32_t unacked;           /* connections that are UNACKED */
    int notable;                /* accepting has paused or refused, and the
                                   caller has not been told */
    pmx__target refused_peer;   /* the last one that had max_per_peer */
    pmx__target refused_header[2];      /* of stats.proxy_refused: the last peer,
                                           and its listener */
    struct pmx__trust **trusts; /* those of pmx_trust(), by number - 1 */
    uint32_t trust_count;
    int room;                   /* a descriptor or a place has come free */
    uint32_t retiring;          /* listeners that have `last` */
    int draining;               /* 1: the backlog is accepted; 2: the input of
                                   accepted connections is limited, slots
                                   below `limited` have been; 3: all have */
    uint32_t limited;
    uint32_t fresh;             /* slots accepted in 2: a chain by ready_next */

    pmx__service first;         /* service 0 */
    pmx__service **others;      /* service k is others[k - 1] */
    uint32_t service_count, service_room;
    pmx__service *line_head, *line_tail;    /* services that wait for a batch */
    pmx__service *serving;      /* the service that this batch is for */
    pmx__list chores;           /* connections whose work brings no rows */
    uint32_t chore_count;
    uint32_t ready_count;       /* of all services together, */
    uint32_t report_count;      /* and so are these */
    uint32_t sources;

    /* this turn's batch */
    uint32_t turn;
    uint32_t max_rows;
    uint64_t arena_most;        /* bytes that a batch takes in at most, */
    uint64_t arena_size;        /* or that this batch's arena has room for */
    pmx_arena *arena;
    uint32_t rows, row_conns;
    uint32_t *row_slots;        /* the connections with rows, each once */
    int64_t handed_at;          /* when the caller got the batch, or 0 */
    int64_t away;               /* how long nothing was read, in all, since the
                                   caller was at a batch */
    int full;                   /* the batch takes no more */
    int crowded;                /* a listener brings more than fits: do not wait */
    int gathering;              /* the last harvest left the batch unfinished */
    uint32_t idle_count;
    int64_t gathered_at;        /* the batch may gather until then */
    int64_t slice;              /* its last doze, or 0; then it had so many */
    int64_t dozed_at;
    uint32_t dozed_rows;
    uint32_t slices;            /* of this batch */
    int64_t loop_least;         /* how short a slice of a loop's may be, or 0 */
    uint32_t opened_count, ended_count, drained_count, closed_count;
    uint32_t blocked_count;
    uint64_t *opened, *ended, *blocked, *drained, *idle;
    pmx_closed *closed;
    uint32_t waiting_count, failed_count;
    pmx_waiting *waiting;       /* these two and the area are made when the */
    pmx_closed *failed;         /* first connection over TLS is */
    struct pmx__tls_area *tls;
    uint32_t shakes;            /* steps of handshakes, in this turn */
    uint32_t *ending;           /* slots that close once this is answered */
    uint32_t ending_count, common_room;

    /* this turn's output */
    pmx__piece *pieces;
    uint32_t piece_count, piece_room;
    pmx__dirty *dirty;
    uint32_t dirty_count, dirty_room;
    pmx__common **commons;      /* by block; room for common_room */
    uint8_t *scratch;
    size_t scratch_size;
    int answering;              /* this block is PMX_ANSWERS */
    uint8_t *wire;              /* runs of frames as they go out */
    size_t wire_used, wire_room;

    size_t dropped, flushed;    /* bytes, in this turn */
    int short_of_buffers;       /* a send was refused: try again soon */
    uint32_t unheard;           /* waits in a row that have filled `events` */
    uint32_t foreign_count;     /* in this turn */
    int64_t *foreign;           /* those that are ready; room for event_room */
    int keeps_memory;           /* see pmx__keep_freed_memory() */
    uint32_t event_room;
    uint64_t most_buffers;      /* since memory was given back the last time */
    int64_t trim_at;            /* it is given back then, or 0 */
    int64_t now;
    int64_t spin_ns, spin_now;
    pmx__target asked[2];       /* has the paths that pmx_addresses() shows */
    pmx_stats *stats;           /* `own`, or memory of the caller's */
    pmx_stats own;
    void *shared;               /* a file's pages, which have them, or NULL */
    size_t shared_size;
    pmx_sock watcher;           /* gets a byte if stats->asleep; or none */
    struct pmx__seats *seats;   /* NULL: nothing is given away */
    int64_t sent_ns;            /* how long this turn has sent what was logged */
    pmx__event *events;         /* room for event_room */
};

static inline pmx__conn *pmx__slot(const pmx_mux *mux, uint32_t slot)
{
    return &mux->slabs[slot / PMX__SLAB][slot % PMX__SLAB];
}

static inline int64_t pmx__earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A moment, INT64_MAX being never. */
static inline int64_t pmx__after(int64_t at, int64_t span)
{
    return at > 0 && span > INT64_MAX - at ? INT64_MAX : at + span;
}

/* True if the connection has no deadline but its unfinished frame's. */
static inline int pmx__has_no_due(const pmx__conn *c)
{
    return c->due == PMX__NOT_DUE || c->due == PMX__FRAME_DUE;
}

/* arena.c */
void pmx__arena_reset(pmx_arena *arena);
/* Room for size more bytes behind data; the arena may move. */
int pmx__arena_reserve(pmx_mux *mux, pmx_arena **arena, size_t size,
                       size_t most);
void pmx__carry_drop(pmx_mux *mux, pmx__conn *c);
const pmx_arena *pmx__leased(const pmx_lease *lease);
void pmx__lease_more(pmx_lease *lease);
void pmx__lease_end(pmx_lease *lease);

/* memory.c: the mux's tables, and what goes back to the system */
int pmx__allocate_tables(pmx_mux *mux);
void pmx__free_tables(pmx_mux *mux);
void pmx__keep_freed_memory(pmx_mux *mux);
void pmx__give_memory_back(pmx_mux *mux);

/* figures.c: what is counted of turns, and where */
int pmx__do_count_in(pmx_mux *mux, int64_t file, uint64_t offset);
void pmx__do_wakes(pmx_mux *mux, int64_t sock);
void pmx__count_in_own(pmx_mux *mux);
/* A turn has begun, at mux->now, and has sent what was logged, if it was. */
void pmx__turn_begins(pmx_mux *mux, int has_sent);
/* The turn ends; its last wait ended at mux->now. */
void pmx__turn_ends(pmx_mux *mux);

/* due.c: deadlines */
/* Look again soon at the connection that pmx__overdue() named. */
void pmx__put_off(pmx_mux *mux);
void pmx__touch(pmx_mux *mux, uint32_t slot);
void pmx__set_due(pmx_mux *mux, uint32_t slot, enum pmx__due due);
int64_t pmx__next_due(const pmx_mux *mux);
int64_t pmx__deadline_of(const pmx__conn *c);   /* INT64_MAX: none */
/* The same of the connection's unfinished frame. */
int64_t pmx__frame_deadline(const pmx_mux *mux, const pmx__conn *c);
/* Have the connection come up when its unfinished frame is too old. */
void pmx__frame_due(pmx_mux *mux, uint32_t slot);
/* Have the connection come up by then, or at its deadline if that is sooner. */
void pmx__look_at(pmx_mux *mux, uint32_t slot, int64_t at);
/* A connection whose time is over, or that is to be looked at; or NONE. */
uint32_t pmx__overdue(pmx_mux *mux);
void pmx__due_since(pmx_mux *mux, uint32_t slot, enum pmx__due due, int64_t since);
void pmx__undue(pmx_mux *mux, uint32_t slot);

#include "conn.h"

#endif
