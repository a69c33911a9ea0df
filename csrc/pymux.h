/*
 * pymux: an I/O multiplexer. This is its public C API, with watch.h (what a
 * selector is made of), moving.h, tls.h, arrow.h and load.h.
 *
 * One call, pmx_harvest(), sends what is queued, waits, receives and frames
 * everything that is ready on every connection, and reports it as columns.
 *
 * Functions return >= 0 or -errno. A mux belongs to one thread; pmx_wakeup()
 * alone may be called from any. Who calls another function while a thread is
 * inside one of the same mux gets -EBUSY, and has done nothing. Between the
 * two markers stands what cffi reads, so plain declarations only.
 */
#ifndef PYMUX_H
#define PYMUX_H

#include <stddef.h>
#include <stdint.h>

#include "stats.h"

/* cdef begin */

enum pmx_framing_kind {
    PMX_RAW,                    /* a message is what one receive brings */
    PMX_LINES,                  /* messages end with a delimiter */
    PMX_PREFIX,                 /* a length of fixed width comes before */
    PMX_FIXED,                  /* all messages have one size */
    PMX_VARINT,                 /* a length in LEB128 comes before */
    PMX_SCANNER                 /* a function of the caller's finds them */
};

/* Where a frame's message is: behind `head` bytes it has `size` bytes, and
 * the next frame begins after `whole` bytes. */
typedef struct {
    size_t head;
    size_t size;
    size_t whole;
} pmx_frame;

/* Find the first frame of `size` bytes, at least one, and change none.
 * 1: *frame tells where it is; it has to end within size. 0: more bytes are
 * needed; frame->whole may be set to how many the frame has in all. An errno,
 * negated: the connection ends with it. *scanned is 0 where a frame begins;
 * the function may keep in it how far it has searched, until the frame is
 * found. It is called without Python's GIL, in the thread of the harvest. */
typedef int (*pmx_scan)(const uint8_t *bytes, size_t size, uint64_t *scanned,
                        pmx_frame *frame);

/* Policies are hashed and compared as bytes: no padding here. */
typedef struct {
    uint32_t kind;          /* enum pmx_framing_kind */
    uint32_t width;         /* of the delimiter (1 to 16) or the length (1, 2,
                               3, 4, 8), in bytes */
    uint32_t little;        /* PMX_PREFIX: least significant byte first */
    uint32_t max_size;      /* of the largest message; PMX_FIXED: the size;
                               PMX_SCANNER: of the largest frame */
    uint32_t offset;        /* bytes before the length; needs keep_head */
    int32_t adjust;         /* PMX_PREFIX: bytes that follow the length, less
                               what it says */
    uint32_t keep_head;     /* the message is the whole frame, and what is sent
                               goes out as it is */
    uint32_t other;         /* pmx_policy.replies: it holds, see there */
    uint64_t scan;          /* PMX_SCANNER: the address of a pmx_scan */
    uint8_t delimiter[16];
} pmx_framing;

/* What the connections of a listener, or an outgoing one, may do. Durations are
 * nanoseconds, -1 is none. */
typedef struct {
    pmx_framing framing;        /* of what is received; and of what is sent, */
    pmx_framing replies;        /* unless replies.other: then in this one */
    uint32_t max_connections;   /* of a listener; 0 is none */
    uint32_t half_open;         /* the peer's end is reported, not answered */
    uint64_t high_water;
    uint64_t low_water;
    uint64_t max_output;
    int64_t idle_ns;
    int64_t message_ns;         /* from a frame's first byte to its last */
    int64_t close_ns;
    int64_t connect_ns;         /* read by pmx_connect() alone */
    uint32_t max_per_peer;      /* of a listener: connections of an address, or
                                   of a /64 of IPv6; 0 is none */
    uint32_t send_buffer;       /* SO_SNDBUF, and TCP_NOTSENT_LOWAT where the
                                   OS has it, in bytes; 0 leaves the OS' */
    uint32_t notsent_lowat;
    /* TLS: a number of the caller's, which pmx_turn.waiting tells it; 0 is
     * plain text. See tls.h. */
    uint32_t tls;
    uint32_t tls_lax;           /* an end without close_notify is no error */
    uint32_t max_handshakes;    /* of a listener, unfinished; 0 is none */
    int64_t handshake_ns;       /* from TCP being connected to the end of
                                   the handshake */
    /* TCP's keepalive, in seconds, seconds and probes; idle 0 is none. */
    uint32_t keep_idle;
    uint32_t keep_interval;
    uint32_t keep_count;
    uint32_t service;           /* from pmx_add_service(), or 0 */
    /* Of a listener: from pmx_trust(): a PROXY header comes before anything else,
     * TLS too; and how soon, in milliseconds. 0: none comes. */
    uint32_t proxy;
    uint32_t proxy_ms;
} pmx_policy;                   /* no padding: policies are compared */

/* Where to listen or connect: a numeric host and a port, or (host NULL) the
 * path of a Unix socket, which may hold a leading NUL. Where to connect from: a
 * numeric host of this machine, or NULL, and a port, or 0. What is sent before
 * anything else, past TLS: at most 64 KiB, or NULL. pmx_connect() reads these of
 * its first endpoint. */
typedef struct {
    const char *host;
    const char *path;
    const char *source;
    uint32_t path_size;
    uint32_t port;
    uint32_t source_port;
    const uint8_t *header;
    uint32_t header_size;
} pmx_endpoint;

typedef struct {
    int32_t family;             /* 4, 6 or 1 (Unix) */
    uint32_t port;
    uint32_t scope;
    uint32_t path_size;
    uint8_t ip[16];
    const char *path;           /* until the next call with this mux */
} pmx_address;

/* What is done to a connection, in the top four bits of an id of a block. */
enum pmx_op {
    PMX_SEND,
    PMX_SEND_EOF,
    PMX_CLOSE,
    PMX_FAIL,                   /* close, reported as ECONNABORTED */
    PMX_ABORT,
    PMX_PAUSE,
    PMX_RESUME,
    PMX_HOLD,                   /* pause that a lost peer lifts */
    PMX_RELEASE,
    /* Of a connection whose messages a task takes: the task waits for the next;
     * messages are kept for it; it has taken the last of those. See
     * pmx_turn.idle. */
    PMX_WAITS,
    PMX_KEPT,
    PMX_TAKEN,
    /* Its piece is a pmx_policy and any number of bytes behind it. What is
     * sent from here on is framed by that policy. Those bytes, then all input
     * that has not been reported, are cut anew by it, and its limits hold.
     * The place under max_connections stays that of the first policy. A
     * policy that is not valid ends the connection with EINVAL. */
    PMX_SWITCH,
    /* Of a connection with PMX_RAW whose bytes the caller cuts: the last bytes
     * that were reported end inside a frame, so message_ns counts, from now on
     * unless it does already; they do not. */
    PMX_BEGUN,
    PMX_WHOLE,
    /* Answers to the connection's messages are owed. They come in blocks that
     * are PMX_ANSWERS, until PMX_WAITS says that all of them are in. Meanwhile
     * its idle clock stands still, and the connection does not close though its
     * peer has ended its stream. */
    PMX_OWED
};

/* How a block tells where its pieces begin and end. */
enum pmx_cut {
    PMX_LENGTHS,                /* bounds: int64_t[count], the lengths */
    PMX_OFFSETS32,              /* bounds: int32_t[count + 1], the offsets */
    PMX_OFFSETS64,              /* bounds: int64_t[count + 1] */
    PMX_SHARED,                 /* the whole of data, for each id */
    PMX_DELIMITED,              /* bounds: a pmx_framing, Lines, which is the
                                   ids'; data: lines as they go out */
    PMX_SPANS,                  /* bounds: int64_t[count], the lengths; data:
                                   uint8_t *[count], where each begins */
    PMX_ANSWERS = 16            /* a flag beside one of these: the pieces are
                                   answers, to connections that are PMX_OWED */
};

/* A stretch of the output log: what is done to ids[k], with piece k of data.
 * All of it is read during the harvest only. */
typedef struct {
    uint32_t cut;               /* enum pmx_cut, perhaps with PMX_ANSWERS */
    uint32_t count;
    const void *ids;            /* uint64_t[count], aligned or not; 0: the
                                   piece is nobody's, and not sent */
    const void *bounds;         /* likewise */
    const void *data;
    uint64_t size;              /* of data, in bytes */
} pmx_block;

/* Who needs an arena: its owner, and each Arrow array of it. The last one of
 * them that ends frees the arena. */
typedef struct pmx_lease pmx_lease;

/* One batch: columns, then payloads back to back, in one piece of memory.
 * Message k is data[offsets[k]] up to data[offsets[k + 1]]; while gap is not
 * 0, `gap` bytes less. pmx_close_gaps() takes them out. */
typedef struct {
    uint64_t total;             /* bytes of this whole block */
    uint64_t capacity;          /* of data */
    uint64_t size;              /* of data in use */
    uint64_t scanned;           /* (an unfinished frame) searched so far, */
    int64_t since;              /* and when it began: see pmx__frame_begins() */
    uint32_t rows;              /* room for so many messages */
    uint32_t uniform;           /* every message has this length, or ~0 */
    uint32_t gap;               /* bytes of delimiter left behind each */
    uint32_t no_gaps;           /* there are to be none */
    uint32_t run_count;         /* runs of rows of one connection, */
    uint32_t owned;             /* 0: handed over, and nobody's yet */
    uint64_t *ids;
    int32_t *offsets;
    uint32_t *slots;
    uint32_t *runs;             /* and how many rows each of them has */
    uint8_t *data;
    pmx_lease *lease;           /* NULL: there was no Arrow array yet */
} pmx_arena;

typedef struct {
    uint64_t id;
    int32_t error;              /* errno, 0 for an ordinary end */
    uint32_t slot;
    const pmx_address *names;   /* peer, local; until the next harvest */
    uint64_t tls_error;         /* OpenSSL's code, or 0; PMX_TLS_CUT */
    int64_t tls_verify;         /* X509_V_..., 0: the peer was verified */
} pmx_closed;

/* A connection that waits for its TLS object: see tls.h. */
typedef struct {
    uint64_t id;
    uint32_t tls;               /* pmx_policy.tls */
    uint32_t outgoing;
} pmx_waiting;

enum pmx_reason {
    PMX_ROWS = 1,               /* there is something to report */
    PMX_WOKEN = 2,              /* by pmx_wakeup() or a signal's byte */
    PMX_INTERRUPTED = 4,        /* by a signal */
    PMX_OTHER_ROWS = 8,         /* any of the rows that are no messages */
    PMX_LARGE = 16,             /* the arena is a new one, the caller's */
    PMX_GAPS = 64,              /* each message has its delimiter behind it */
    PMX_DRAINED = 32,           /* the listeners were closed by pmx_drain() */
    PMX_GATHERING = 128,        /* too few messages yet: they are kept */
    PMX_FOREIGN = 256,          /* descriptors of pmx_foreign() are ready */
    PMX_NOTABLE = 512,          /* accepting has paused or refused: see stats */
    PMX_HANDSHAKES = 1024,      /* there are `waiting` or `failed` connections */
    PMX_GIVEN = 2048,           /* pmx_given() has connections for other workers */
    PMX_MESSAGES_SHIFT = 16     /* reasons are below this bit; what stands from
                                   it on in pmx_exchange() is messages */
};

/* Timeouts that are none. */
enum pmx_timeout {
    PMX_FOR_EVER = -1,
    PMX_LOOK = -2               /* as 0, but a batch that may still gather is
                                   kept, and the next harvest goes on with it
                                   (the same arena, whatever the turn says);
                                   not while another service has rows */
};

typedef struct {
    pmx_mux *mux;               /* in */
    pmx_arena *arena;           /* in: where to put the batch; out: where it
                                   is, a different one for a large frame,
                                   which is then the caller's to free */
    const pmx_block *blocks;    /* in: the log */
    uint32_t block_count;
    uint32_t until_sent;        /* return (PMX_ROWS) once nothing is queued */
    int64_t timeout_ns;         /* or enum pmx_timeout */
    uint32_t service;           /* out: all rows are of its connections */
    uint32_t messages;          /* out: how many of each */
    uint32_t opened_count;
    uint32_t ended_count;
    uint32_t blocked_count;
    uint32_t drained_count;
    uint32_t closed_count;
    uint32_t idle_count;
    uint32_t reason;            /* enum pmx_reason, as returned */
    uint32_t foreign_count;
    int64_t done_ns;            /* out: monotonic, when this returned */
    uint64_t *opened;           /* out: ids, until the next harvest */
    uint64_t *ended;
    uint64_t *blocked;          /* went over high water, */
    uint64_t *drained;          /* and then under low water */
    uint64_t *idle;             /* out of time, while its task may work on a
                                   message: PMX_WAITS if it does not */
    pmx_closed *closed;
    const int64_t *foreign;     /* number << 2 | enum pmx_interest, likewise */
    uint32_t waiting_count;
    uint32_t failed_count;
    const pmx_waiting *waiting; /* for pmx_tls_adopt() */
    pmx_closed *failed;         /* accepted, but the handshake has failed */
} pmx_turn;

/* Backends, best first; NULL past the last. */
const char *pmx_backend_name(uint32_t index);
/* Try the backend on this machine: 0 or -errno. */
int pmx_backend_probe(const char *name);
const char *pmx_compiler(void);
uint32_t pmx_select_limit(void);

/* spin_ns: how long to poll before blocking; -1 adapts. */
int pmx_open(pmx_mux **mux, const char *backend, uint32_t max_messages,
             uint64_t arena_size, int64_t spin_ns);
/* The same for few connections: it takes little memory, and no descriptor but
 * the poller's until pmx_wakeup_open(). Before that pmx_wakeup() does nothing.
 * It never spins. */
int pmx_open_small(pmx_mux **mux, const char *backend, uint32_t max_messages,
                   uint64_t arena_size);
int pmx_wakeup_open(pmx_mux *mux);
/* From now on the wakeup's two descriptors are the caller's, for
 * pmx_wakeup_close(): the mux has no wakeup any more. */
int pmx_keep_wakeup(pmx_mux *mux, int64_t *wakeup);
void pmx_wakeup_close(const int64_t *wakeup);
/* Send what can be sent at once, close every descriptor, and free all but what
 * a late call looks at, which gets -EBADF. In a forked child, only free memory
 * and close descriptors. A second call does nothing. */
int pmx_shut(pmx_mux *mux);
/* The same, and frees the rest too. */
int pmx_close(pmx_mux *mux);
/* pmx_close(*mux) unless that is NULL, and *mux = NULL. */
void pmx_dispose(pmx_mux **mux);
const char *pmx_name(const pmx_mux *mux);
int pmx_fileno(pmx_mux *mux);
/* 1 if this process was forked off after the mux was opened, else 0. */
int pmx_forked(const pmx_mux *mux);

/* A service is the connections of one handler. The rows of a harvest belong to
 * one service, pmx_turn.service. Rows of other services keep their place, and
 * services that have rows take turns. Service 0 always exists. This makes
 * another: its number, 1, 2 and so on, or -errno. A service stays until the mux
 * is closed, so a number that no policy names any more should be used again. A
 * policy that names a service which does not exist is -EINVAL. */
int pmx_add_service(pmx_mux *mux);
/* Once a batch of this service has a message, a harvest waits for min_messages,
 * but for max_delay_ns at most, and not while another service has rows. With
 * leave_gaps the delimiters of lines are left in place. These hold until the
 * next call; at first they are 1, 0, 0. */
int pmx_configure(pmx_mux *mux, uint32_t service, uint32_t min_messages,
                  int64_t max_delay_ns, uint32_t leave_gaps);

int pmx_listen(pmx_mux *mux, const pmx_endpoint *endpoint,
               const pmx_policy *policy, int backlog, int reuse_port,
               uint32_t mode, uint64_t *listener);
/* Listen on another TCP address with the policy of a TCP listener: max_connections
 * and max_per_peer count for both together. -ENOENT: there is no such listener. */
int pmx_listen_beside(pmx_mux *mux, const pmx_endpoint *endpoint,
                      uint64_t beside, int backlog, int reuse_port,
                      uint64_t *listener);
/* pmx_listen() on a stream socket of the caller's that listens already, TCP or
 * Unix. It is made non-blocking, and if this succeeds its descriptor is the
 * mux's. In the end the mux closes the descriptor; it does not shut the socket
 * down or unlink its path, so other descriptors of it go on. -EBADF, -ENOTSOCK;
 * -EINVAL: no stream socket, or it does not listen. */
int pmx_listen_on(pmx_mux *mux, int64_t sock, const pmx_policy *policy,
                  uint64_t *listener);
int pmx_unlisten(pmx_mux *mux, uint64_t listener);
/* Let a listener, and those beside it, have so many connections from now on. No
 * connection ends for that. -EINVAL: most is 0, or there was no max_connections. */
int pmx_set_most(pmx_mux *mux, uint64_t listener, uint32_t most);
int pmx_listener_address(pmx_mux *mux, uint64_t listener,
                         pmx_address *name);
/* Try the endpoints in order, each a quarter of a second after the one before
 * if that has not failed sooner; the first that answers is the connection's. A
 * later harvest reports `opened`, or `closed` with the error of the last. */
int pmx_connect(pmx_mux *mux, const pmx_endpoint *endpoints, uint32_t count,
                const pmx_policy *policy, uint64_t *id);
/* The same of a descriptor of the caller's, which is the mux's if this succeeds,
 * and non-blocking: of a connected stream socket of TCP or Unix (pipe 0), of a
 * pipe's read end (PMX_READABLE) or write end (PMX_WRITABLE). -EBADF, -ENOTSOCK,
 * -ENOTCONN; -EINVAL: it is something else; -ENOTSUP: no pipes on this OS. */
int pmx_adopt(pmx_mux *mux, int64_t number, uint32_t pipe,
              const pmx_policy *policy, uint64_t *id);
/* names[0] is the peer's, names[1] the local one. */
int pmx_addresses(pmx_mux *mux, uint64_t id, pmx_address *names);
/* The last peer that pmx_stats.refuser has refused; -ENOENT: none yet. */
int pmx_refused_peer(pmx_mux *mux, pmx_address *name);
int pmx_policy_of(pmx_mux *mux, uint64_t id, pmx_policy *policy);
/* Bytes that the kernel has not taken yet; UINT64_MAX: another thread is
 * inside. Those of all connections are stats.queued. */
uint64_t pmx_queued(pmx_mux *mux, uint64_t id);
/* Move the connections with at most so many bytes queued to the front, in
 * order; how many these are. The others are behind them, in any order. */
int64_t pmx_pass_over(pmx_mux *mux, uint64_t *ids, uint32_t count,
                      uint64_t most);
/* The same plus the bytes that the peer's system has not acknowledged, the end
 * of the stream being one. -ENOTSUP: the OS does not tell; -ENOENT: the
 * connection has ended. */
int64_t pmx_unacknowledged(pmx_mux *mux, uint64_t id);

/* The socket of a connection or of a listener, which stays the mux's; -ENOENT:
 * it has none, or has none any more. */
int64_t pmx_socket(pmx_mux *mux, uint64_t id);
/* The process at the other end of a Unix socket, when that was connected: its
 * pid (-1: the OS does not tell), uid and gid. -ENOTSUP: the OS does not tell,
 * or this is no Unix socket; -ENOENT: the connection has ended. */
int pmx_credentials(pmx_mux *mux, uint64_t id, int64_t *pid_uid_gid);

/* 1 if something of the connection was not reported yet: input that has
 * arrived and is not paused, the end of the input, or the end of the
 * connection. */
int pmx_pending(pmx_mux *mux, uint64_t id);

/* Have harvests tell when a descriptor of the caller's is ready, from what was
 * wanted of it (enum pmx_interest, 0: nothing) to what is. This ends a harvest,
 * as a wakeup does. After it was told, the descriptor is to be wanted anew, with
 * `had` as it was: then it is told again if it still is ready. -EBADF, -EPERM
 * (a file that is always ready), -EEXIST (it is a connection's). */
int pmx_foreign(pmx_mux *mux, int64_t number, uint32_t had, uint32_t wanted);

/* One turn: send, wait, receive, close, accept, report. */
int pmx_harvest(pmx_turn *turn);
/* The same with a log of one block, whose cut and count are `shape`: the cut
 * from bit 32 on. One piece with PMX_LENGTHS has the size of data. What a
 * struct's fields would cost the caller to set costs more than arguments do.
 * Returns reasons | messages << PMX_MESSAGES_SHIFT, or -errno. */
int64_t pmx_exchange(pmx_turn *turn, int64_t timeout_ns, uint64_t shape,
                     const void *ids, const void *bounds,
                     const void *data, uint64_t size);
/* Only the first step of a turn: take over the log and send. */
int pmx_submit(pmx_turn *turn);
/* Nanoseconds until a harvest has work that no descriptor reports; -1: never.
 * The caller is done with the last batch, and waits. */
int64_t pmx_next_timeout(pmx_mux *mux);
/* For a caller that watches pmx_fileno(), after PMX_GATHERING: for so many
 * nanoseconds, `least_ns` or more where the batch may gather as long, the caller
 * had better watch pmx_woken_fd() instead, and then harvest. 0: watch on. To
 * ask again meanwhile gives what is left. */
int64_t pmx_doze(pmx_mux *mux, int64_t least_ns);
/* Accept the peers in the backlog, close the listeners, and end the input of
 * every accepted connection: each closes as if its peer had ended behind the
 * bytes that have arrived. Connections made by pmx_connect() go on. A listener
 * of pmx_listen_on() is closed at once, and its backlog left to others. */
int pmx_drain(pmx_mux *mux);
/* Accept the peers in the backlog, then close the listeners that there are now;
 * connections go on, and so do listeners made later. A listener closes when no
 * peer waits, or when it has accepted as many as may wait: limits of connections
 * do not keep these out. One of pmx_listen_on() is closed at once. */
int pmx_retire(pmx_mux *mux);
/* The ids of the accepted connections, the first `room` of them; returns how many
 * there are. */
int64_t pmx_accepted(pmx_mux *mux, uint64_t *ids, uint32_t room);
/* When pmx_end_inputs() ends a connection's input. */
enum pmx_end {
    PMX_END_ASK,                /* never: it only tells which are not open yet */
    PMX_END_WHOLE,              /* when no part of a frame has come */
    PMX_END_QUIET               /* and no output is queued */
};
/* End the input of these connections behind what has arrived, as pmx_drain()
 * does. Where it is too early for that, or the connection has not opened yet, its
 * id stays: such ids come to the front, and their number is returned. */
int64_t pmx_end_inputs(pmx_mux *mux, uint64_t *ids, uint32_t count,
                       uint32_t when);
/* 1 if one of these has ended the connection's input, 0 if its peer has. This is known
 * once what had arrived has been received, and as long as the id is. */
int pmx_stopping(pmx_mux *mux, uint64_t id);
/* Reset all connections that are left; they are reported with this errno. */
int pmx_reset_all(pmx_mux *mux, int error);

/* For tests: wakeups by a pipe, as where no socket pair is to be had; of what
 * is opened from now on. */
void pmx_wakeup_by_pipe(int on);
/* For tests: the core's clock runs so many milliseconds ahead of the system's
 * monotonic one, in this process. A mux that waits is to be woken: the wait
 * was reckoned before. */
void pmx_shift_clock(uint32_t ms);
int pmx_wakeup_fd(const pmx_mux *mux);
/* The descriptor that pmx_wakeup() makes readable, until a harvest; it makes
 * pmx_fileno() readable too. */
int pmx_woken_fd(const pmx_mux *mux);
int pmx_wakeup(const pmx_mux *mux);

/* Whether n + 1 offsets of 4 or 8 bytes each do not fall and stay within
 * size; -1, or the index of the first that is wrong. */
int64_t pmx_check_offsets(const void *offsets, uint32_t width, uint64_t n,
                          uint64_t size);

void pmx_close_gaps(pmx_arena *arena);
pmx_arena *pmx_arena_new(uint64_t capacity, uint32_t rows);
void pmx_arena_free(pmx_arena *arena);
/* The same for one that is owned, else nothing: what was to own it may be
 * dropped before the owner has said so. Arrow arrays of it keep its memory. */
void pmx_arena_drop(pmx_arena *arena);

/* cdef end */

#define PMX_OP_SHIFT 60
#define PMX_CUT_SHIFT 32
#define PMX_ID_MASK ((UINT64_C(1) << PMX_OP_SHIFT) - 1)

#endif
