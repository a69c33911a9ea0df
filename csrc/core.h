/* What the parts of the core work on: connections, policies in use, the mux;
 * and what is done with the memory of one alone. Layer 3. */
#ifndef PMX_CORE_H
#define PMX_CORE_H

#include "poller.h"

#include <errno.h>

#define PMX__NONE UINT32_MAX

/* Tokens of what is no connection; a connection's token is its id. */
#define PMX__LISTENER_TAG (UINT64_C(1) << 63)
#define PMX__WAKEUP_TOKEN UINT64_MAX

enum {
    /* A connection's share of a turn is at least this: about what a socket's
     * receive queue holds, and a little more, so that a message of 64 KiB
     * comes with its framing, and a receive that it does not fill tells that
     * there is no more. */
    PMX__PORTION = 65536 + 4096,
    /* A frame from here on is handed over in its own memory, not copied. */
    PMX__LARGE_FRAME = 65536,
    /* A carry up to this is copied in front of what is received next; a
     * larger one is received into. Bounds the copying, saves allocations. */
    PMX__SMALL_CARRY = 2048,
    /* A piece up to this is coalesced by copying, a larger one is sent by
     * reference: where a span of sendmsg begins to cost less than memcpy. */
    PMX__SMALL_PIECE = 4096,
    /* New connections a turn: a burst must not hold up the established. */
    PMX__ACCEPTS = 256,
    /* Of a queue, and of what is read and dropped, a turn: others wait. */
    PMX__FLUSH = 1 << 20,
    PMX__FLUSH_ALL = 8 << 20,   /* of all queues */
    PMX__DROPS = 1 << 20,
    PMX__EVENTS = 1024,
    /* The same, a scratch, and slots at first, of a small mux. */
    PMX__FEW_EVENTS = 8,
    PMX__SMALL_SCRATCH = 2 * PMX__SMALL_PIECE,
    PMX__FEW_SLOTS = 4,
    /* Deadlines a turn: a mass of them must not hold up the others. */
    PMX__EXPIRIES = 256,
    /* Connections that a drain limits, a turn; and places that it looks at. */
    PMX__LIMITS = 128,
    PMX__PLACES = 4096,
    PMX__LOOKS = 4,             /* for progress, while close_ns passes */
    PMX__SLAB = 1024,           /* slots; slabs are never moved */
    PMX__GENERATIONS = 1 << 28, /* then a slot is retired */
};
/* Where buffers held so much, and hold a quarter of that for a while, what
 * they held goes back to the system. */
#define PMX__TRIM_LEAST (UINT64_C(16) << 20)
#define PMX__TRIM_NS INT64_C(500000000)
#define PMX__RETRY_NS INT64_C(100000000)    /* accept again after EMFILE */
#define PMX__ACK_NS INT64_C(10000000)       /* is it acknowledged by now? */
#define PMX__ACK_EACH_NS INT64_C(10000)     /* more of it, for each that waits */
#define PMX__SOON_NS INT64_C(1000000)       /* looks are no closer than this */
#define PMX__AGAIN_NS INT64_C(1000000)      /* an idle one not heard yet */
#define PMX__BUFFERS_NS INT64_C(1000000)    /* send again after ENOBUFS */
#define PMX__REDIAL_NS INT64_C(10000000)    /* a Unix backlog that was full */

/* Output that waits for the kernel. */
typedef struct {
    uint32_t refs;
    size_t size;
    uint8_t bytes[];
} pmx__shared;

typedef struct pmx__chunk {
    struct pmx__chunk *next;
    pmx__shared *shared;        /* where the bytes are, NULL: in here */
    size_t begin, end, room;
    int raw;                    /* as it goes to the socket, past the
                                   transport: only at the head */
    uint8_t bytes[];
} pmx__chunk;

typedef struct {
    pmx__chunk *head, *tail;
    size_t size;
} pmx__queue;

typedef struct {
    uint32_t head, tail;
} pmx__list;

enum pmx__due {
    PMX__NOT_DUE,
    PMX__CONNECT_DUE,
    PMX__IDLE_DUE,
    PMX__SLOW_DUE,              /* idle but for what it may be reading */
    PMX__CLOSE_DUE,             /* since the last progress */
    PMX__LOOK_DUE               /* no deadline: it is only to be looked at */
};

/* Of a connection that closes: all of it is with the kernel, its end too; and
 * the peer has acknowledged that, so that it may go where others need room. */
enum pmx__lingers { PMX__LINGERS_NOT, PMX__LINGERS, PMX__MAY_GO };

typedef struct {
    int64_t at;
    uint32_t slot;
} pmx__deadline;

struct pmx__framing;            /* see frame.h, transport.h */
struct pmx__transport;

/* What the connections of one handler are to the mux. A batch has the rows of
 * one service, so each has lists of its own. */
typedef struct pmx__service {
    uint32_t number;
    uint32_t min_messages;      /* see pmx_configure() */
    int64_t max_delay_ns;
    uint32_t leave_gaps;
    uint32_t sources;           /* connections that may bring messages */
    pmx__list ready;            /* connections that have input to be served */
    uint32_t ready_count;
    uint32_t cut_short;         /* the connection that a batch's end kept from
                                   its portion, */
    size_t cut_left;            /* and what is left of that */
    pmx__list report;           /* connections with rows but messages */
    uint32_t report_count;
    uint32_t in_line;           /* for its turn, */
    struct pmx__service *next;  /* before this one */
} pmx__service;

/* A policy in use: by a listener and its connections, or by all outgoing ones
 * that have the same, which a table finds. */
typedef struct pmx__rules {
    pmx_policy policy;
    const struct pmx__framing *framing;
    const struct pmx__transport *transport;
    pmx__service *service;
    struct pmx__rules *first;   /* of connections that have switched: what
                                   they began with, and still count for */
    struct pmx__rules *next;    /* with the same place in the table */
    uint32_t hash;
    uint32_t shared;            /* it is in the table */
    uint32_t refs;
    uint32_t connections;       /* open, and those that linger: */
    uint32_t lingering;
    uint32_t oldest, newest;    /* of them, who may go: slot + 1, or 0 */
} pmx__rules;

enum pmx__flags {
    PMX__CONNECTING = 1 << 0,
    PMX__DONE = 1 << 1,         /* closed, to be reported */
    PMX__CAN_READ = 1 << 2,     /* the kernel may have more */
    PMX__CAN_WRITE = 1 << 3,    /* the kernel may take more */
    PMX__TO_THE_END = 1 << 4,   /* receive until nothing comes */
    PMX__FRAMES = 1 << 5,       /* the carry holds a complete frame */
    PMX__ENDED = 1 << 6,        /* no more input is delivered */
    PMX__ENDING = 1 << 7,       /* closes once this batch is answered */
    PMX__CLOSING = 1 << 8,      /* flush, shut down, drop input */
    PMX__SEND_ENDED = 1 << 9,   /* nothing more is accepted for sending */
    PMX__SHUT = 1 << 10,        /* the end was sent */
    PMX__SEND_FAILED = 1 << 11,
    PMX__RESET_LAST = 1 << 12,  /* a protocol error: reset once flushed */
    PMX__PAUSED = 1 << 13,      /* by the user */
    PMX__HELD = 1 << 14,        /* by messages not taken */
    PMX__OVER_WATER = 1 << 15,        /* over high water */
    PMX__LOST = 1 << 16,        /* reset: what holds reading is lifted */
    PMX__HANGUP_SEEN = 1 << 17,        /* hung up, no error: nothing to watch */
    PMX__LIMITED = 1 << 18,     /* reads no more than `left`; when ENDED: the
                                   end is that, not the peer's */
    PMX__SAY_ENDED = 1 << 19,   /* to be reported */
    PMX__SAY_DRAINED = 1 << 20,
    PMX__IN_READY = 1 << 21,
    PMX__IN_REPORT = 1 << 22,
    PMX__MAY_BRING = 1 << 23,      /* may bring messages */
    PMX__IN_POLLER = 1 << 24,      /* in the poller */
    PMX__SAY_OPENED = 1 << 25,  /* to be reported, before any message */
    PMX__IN_CHORES = 1 << 26,   /* in that ready list, not its service's */
    PMX__OUTGOING = 1 << 27,    /* made by pmx_connect() */
    PMX__COUNTED = 1 << 28,     /* among the open connections */
    PMX__UNACKED = 1 << 30,     /* finished once the peer has it all */
    PMX__DISOWNED = 1 << 29,    /* nobody was told of it: no report */
};
/* Input behind ENDED is read and dropped, until the peer's end. */
#define PMX__DROPPING (UINT32_C(1) << 31)
#define PMX__UNKNOWN UINT32_MAX /* how much is unacknowledged */

/* What the poller was told to watch. */
enum pmx__watched {
    PMX__WATCH_IN = 1,
    PMX__WATCH_OUT = 2,
    PMX__WATCH_DROP = 4
};

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
} pmx__names;

/* Where an outgoing connection is tried. */
typedef struct {
    int64_t until;              /* INT64_MAX: as long as the system tries */
    uint32_t count, next;
    int refused;                /* a full Unix backlog: try again */
    pmx__target targets[];
} pmx__route;

/* A slot: 96 bytes on 64-bit Unix, for every connection there is. */
typedef struct pmx__conn {
    pmx__rules *rules;
    union {
        pmx_arena *carry;       /* input that is no complete frame yet */
        struct {
            uint32_t older, newer;      /* slot + 1, or 0 */
        } linger;               /* (may go) among those of its rules */
    };
    pmx__queue *queue;
    union {                     /* by the connection's state */
        pmx__route *route;      /* connecting */
        uint8_t ip6[8];         /* open, by family: IPv6, behind ip6_end, */
        pmx__name6 *peer6;      /* or with a scope */
        pmx__target *peer;      /* of a Unix socket, as long as its name is */
        pmx__names *names;      /* done */
    } at;
    int64_t since;              /* last activity */
    pmx_sock sock;
    uint32_t generation;        /* even: free */
    uint32_t flags;
    int32_t error;              /* the first errno */
    uint32_t ready_prev, ready_next;
    uint32_t due_place;         /* in the heap, when due */
    uint32_t report_next;
    uint32_t dirty;             /* its entry in this turn's output */
    uint32_t row_turn;          /* the last turn it had a row in */
    uint32_t left;              /* bytes yet to be read, when LIMITED; not
                                   acknowledged at the last look, or UNKNOWN,
                                   when CLOSING or SLOW_DUE */
    uint32_t ip4;               /* the peer's, as the network has them */
    uint16_t port4;
    uint8_t due : 3;            /* enum pmx__due */
    uint8_t lingers : 2;        /* enum pmx__lingers */
    uint8_t watched : 3;        /* enum pmx__watched */
    uint8_t task;               /* enum pmx__task; below it the family */
    uint8_t ip6_end[4];         /* of IPv6 without a scope, which has ip4 and
                                   at.ip6 for the rest of it, and port4 */
} pmx__conn;

/* Where a task takes the connection's messages: what the task has of them. */
enum pmx__task {
    PMX__TASK = 16,             /* there is one */
    PMX__OWES = 32,             /* it has a message that is not answered */
    PMX__OWES_MORE = 64,        /* and had several at once: which of them an
                                   answer in the same turn is to is not known */
    PMX__KEEPS = 128,           /* messages are kept that it has not taken */
    PMX__SAY_IDLE = 8,          /* to be reported: its time is over */
    PMX__FAMILY = 7,            /* of the peer of one that has been open */
    PMX__SCOPED = 7             /* IPv6, at.peer6 */
};

/* What `at` points to, if it does: to be freed with the connection. */
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
    uint8_t is_given;           /* others may have it too: no shutdown */
    uint8_t can_accept;         /* it is in the list of those, */
    uint8_t full;               /* or in that: at max_connections */
} pmx__listener;

/* One frame of this turn's output: a head, the caller's bytes, a tail that
 * its connection's framing knows. */
typedef struct {
    const uint8_t *data;
    size_t size;
    uint32_t next;
    uint32_t share;             /* the block it is shared through, + 1 */
    uint8_t head_size;
    uint8_t tail_size;
    uint8_t head[8];            /* PMX__HEAD */
} pmx__piece;

typedef struct {
    uint32_t slot, head, tail;
    size_t size;
} pmx__dirty;

struct pmx_mux {
    int32_t door;               /* see entry.c */
    uint32_t forks;
    const pmx__poller *poller;
    void *poll_state;
    pmx_sock wakeup[2];         /* or none: see pmx__do_wakeup_open() */

    pmx__conn **slabs;
    uint32_t slab_count;
    uint32_t slots;             /* handed out so far */
    uint32_t slot_room;         /* slots that there is memory for */
    uint32_t first_slots;       /* how many at first: a slab, or FEW_SLOTS */
    pmx__list free;
    pmx__deadline *due;         /* room for every slot */
    uint32_t due_count, due_room;
    pmx__rules **rules;         /* the table of those that are shared, */
    uint32_t rules_count, rules_room;   /* the room a power of 2 */
    pmx__listener *listeners;
    uint32_t listener_count, listener_room;
    pmx__list free_listeners;
    pmx__list accepting;        /* those from which it may be accepted, */
    pmx__list full_listeners;   /* and those at max_connections */
    int64_t accept_again;       /* accepting is paused until then, or 0 */
    int64_t ask_at;             /* when sockets are asked, see ask_sockets() */
    uint32_t unacked;           /* connections that wait for that */
    int room;                   /* a descriptor or a place has come free */
    int draining;               /* 1: accepts who waits, 2: limits the input of
                                   all accepted, up to slot `limited`, 3: has */
    uint32_t limited;
    uint32_t fresh;             /* accepted meanwhile: a chain, by ready_next */

    pmx__service first;         /* service 0; */
    pmx__service **others;      /* from 1 on */
    uint32_t service_count, service_room;
    pmx__service *line_head, *line_tail;    /* for their turn */
    pmx__service *serving;      /* whose rows this batch has, if any */
    pmx__list chores;           /* connections that have work, but no rows */
    uint32_t chore_count;
    uint32_t ready_count;       /* of all services, and so are these: */
    uint32_t report_count;
    uint32_t sources;

    /* this turn's batch */
    uint32_t turn;
    uint32_t max_rows;
    uint64_t arena_most;        /* what a batch takes in at most; */
    uint64_t arena_size;        /* and as far as its arena has room */
    pmx_arena *arena;
    uint32_t rows, row_conns;
    uint32_t *row_slots;        /* the connections that have them, each once */
    int64_t handed_at;          /* since when the caller has the batch, or 0 */
    int full;                   /* the batch takes no more */
    int capped;                 /* a connection had its share: do not wait */
    int gathering;              /* the last harvest left it unfinished */
    uint32_t idle_count;
    int64_t gathered_at;        /* until when it may gather */
    uint32_t opened_count, ended_count, drained_count, closed_count;
    uint64_t *opened, *ended, *drained, *idle;
    pmx_closed *closed;
    uint32_t *ending;           /* slots that close once it is answered */
    uint32_t ending_count, share_room;

    /* this turn's output */
    pmx__piece *pieces;
    uint32_t piece_count, piece_room;
    pmx__dirty *dirty;
    uint32_t dirty_count, dirty_room;
    pmx__shared **shares;       /* by block; room for share_room */
    uint8_t *scratch;
    size_t scratch_size;
    uint8_t *wire;              /* runs of frames as they go out */
    size_t wire_used, wire_room;

    size_t dropped, flushed;    /* bytes, in this turn */
    int short_of_buffers;       /* a send was refused for it: try again soon */
    uint32_t unheard;           /* waits in a row that filled all the room */
    int keeps_memory;           /* see pmx__keep_freed_memory() */
    uint32_t event_room;
    uint64_t most_buffers;      /* since memory was given back, */
    int64_t trim_at;            /* which is done then, or 0 */
    int64_t now;
    int64_t spin_ns, spin_now;
    pmx__target asked[2];       /* behind the paths of names asked for */
    pmx_stats stats;
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

/* INT64_MAX: for ever. */
static inline int64_t pmx__after(int64_t at, int64_t span)
{
    return span > INT64_MAX - at ? INT64_MAX : at + span;
}

/* arena.c */
void pmx__arena_reset(pmx_arena *arena);
/* Room for size more bytes behind data; the arena may move. */
int pmx__arena_reserve(pmx_mux *mux, pmx_arena **arena, size_t size,
                       size_t most);
void pmx__carry_drop(pmx_mux *mux, pmx__conn *c);

/* names.c: what a connection's ends are called */
void pmx__peer(const pmx__conn *c, pmx__target *peer);
/* Remember the peer's name; without memory the connection has none. */
void pmx__keep_peer(pmx__conn *c, const pmx__target *peer);
void pmx__keep_names(pmx__conn *c);

/* memory.c: the mux's tables, and what goes back to the system */
int pmx__allocate_tables(pmx_mux *mux);
void pmx__free_tables(pmx_mux *mux);
void pmx__keep_freed_memory(pmx_mux *mux);
void pmx__give_memory_back(pmx_mux *mux);

/* due.c: deadlines */
/* Look again soon at the connection that pmx__overdue() named. */
void pmx__put_off(pmx_mux *mux);
void pmx__touch(pmx_mux *mux, uint32_t slot);
void pmx__set_due(pmx_mux *mux, uint32_t slot, enum pmx__due due);
int64_t pmx__next_due(const pmx_mux *mux);
int64_t pmx__deadline_of(const pmx__conn *c);   /* INT64_MAX: none */
/* Have it come up by then, or at its deadline, if that is sooner. */
void pmx__look_at(pmx_mux *mux, uint32_t slot, int64_t at);
/* Somebody whose time is over, or who is to be looked at; or NONE. */
uint32_t pmx__overdue(pmx_mux *mux);
void pmx__due_since(pmx_mux *mux, uint32_t slot, enum pmx__due due,
                    int64_t since);
void pmx__undue(pmx_mux *mux, uint32_t slot);

#endif
