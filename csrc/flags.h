/* The small words of a connection's state, which the slot has. Layer 3. */
#ifndef PMX_FLAGS_H
#define PMX_FLAGS_H

#include <stdint.h>

/* Which deadline a connection has. */
enum pmx__due {
    PMX__NOT_DUE,
    PMX__CONNECT_DUE,           /* of a handshake too */
    PMX__IDLE_DUE,
    PMX__SLOW_DUE,              /* idle, unless the peer is still reading */
    PMX__CLOSE_DUE,             /* counted from the last progress */
    PMX__LOOK_DUE,              /* none: the connection is only looked at */
    PMX__FRAME_DUE              /* none but that of an unfinished frame, which
                                   the other ones may have too */
};

/* Whether a closing connection lingers: the kernel has all output and the end
 * of the stream; and whether the peer has acknowledged that, so that the
 * connection may be closed when others need its place. */
enum pmx__lingers { PMX__LINGERS_NOT, PMX__LINGERS, PMX__MAY_GO };

/* The state of a connection, in five groups. */
enum pmx__flags {
    /* Life: connecting, open, closing, done. */
    PMX__CONNECTING = 1 << 0,   /* or shaking hands, or awaiting its header:
                                   see pmx__shakes(), pmx__awaits() */
    PMX__CLOSING = 1 << 1,      /* flush, send the end, drop input */
    PMX__DONE = 1 << 2,         /* closed, and to be reported */
    PMX__OUTGOING = 1 << 3,     /* made by pmx_connect() */
    PMX__COUNTED = 1 << 4,      /* among stats.connections */
    PMX__DISOWNED = 1 << 5,     /* its caller got an error: no report */

    /* Input: what may come, what is in the way, how it has ended. */
    PMX__CAN_READ = 1 << 6,     /* the kernel may have more */
    PMX__TO_THE_END = 1 << 7,   /* receive until nothing comes */
    PMX__FRAMES = 1 << 8,       /* the carry holds a complete frame */
    PMX__PAUSED = 1 << 9,       /* by the user */
    PMX__HELD = 1 << 10,        /* by messages that are not taken yet */
    PMX__OVER_WATER = 1 << 11,  /* by its own output, over high water */
    PMX__LOST = 1 << 12,        /* the peer is gone: HELD and OVER_WATER do
                                   not hold reading any more */
    PMX__HANGUP_SEEN = 1 << 13, /* a hang-up without error: watch nothing */
    PMX__LIMITED = 1 << 14,     /* no more than `left` bytes are read; with
                                   ENDED: a stop has ended the input */
    PMX__ENDED = 1 << 15,       /* no more input is delivered */
    PMX__ENDING = 1 << 16,      /* close once this batch is answered */
    PMX__DROPPING = 1 << 17,    /* with ENDED: read on to the peer's end, and
                                   drop what comes */

    /* Output. */
    PMX__CAN_WRITE = 1 << 18,   /* the kernel may take more */
    PMX__SEND_ENDED = 1 << 19,  /* nothing more is accepted for sending */
    PMX__SHUT = 1 << 20,        /* the end of the stream was sent */
    PMX__SEND_FAILED = 1 << 21,
    PMX__RESET_LAST = 1 << 22,  /* after a protocol error: reset once flushed */
    PMX__UNACKED = 1 << 23,     /* finish once the peer has it all */

    /* Reports to come. */
    PMX__SAY_OPENED = 1 << 24,  /* before any message */
    PMX__SAY_ENDED = 1 << 25,
    PMX__SAY_DRAINED = 1 << 26,

    /* Where the connection stands. */
    PMX__IN_READY = 1 << 27,    /* in a ready list: its service's, */
    PMX__IN_CHORES = 1 << 28,   /* or that of chores */
    PMX__IN_REPORT = 1 << 29,
    PMX__IN_POLLER = 1 << 30
};
#define PMX__MAY_BRING (UINT32_C(1) << 31)      /* among the sources */
#define PMX__UNKNOWN UINT32_MAX /* how much is unacknowledged */

/* The events of a connection that a level-triggered poller watches. */
enum pmx__watched {
    PMX__WATCH_IN = 1,
    PMX__WATCH_OUT = 2,
    PMX__WATCH_DROP = 4
};

/* The peer's family, and what the task has that takes the messages. */
enum pmx__task {
    PMX__FAMILY = 7,            /* of a connection that has been open: 4, 6,
                                   1 (Unix), */
    PMX__SCOPED = 7,            /* or this: IPv6, at.peer6; */
    PMX__OVER_TLS = 5,          /* or this: at.tls, whatever its family; */
    PMX__PROXIED = 0,           /* or this, if it was accepted: at.proxy; */
    PMX__READ_END = 2,          /* of a pipe, also before it is open */
    PMX__WRITE_END = 3,
    PMX__SAY_IDLE = 8,          /* to be reported: the idle time is over */
    PMX__TASK = 16,             /* there is a task */
    PMX__OWES = 32,             /* the task has a message, not answered yet */
    PMX__OWES_MORE = 64,        /* the task got several messages in one turn:
                                   an answer in that turn may be to any */
    PMX__KEEPS = 128            /* messages are kept that are not taken yet */
};

#endif
