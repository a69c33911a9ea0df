/* A life's pipes: see life.h. The user has one end, a peer the other. */
#ifdef __linux__
#include "life.h"
#include "sim.h"

#include <stdio.h>

/* The user's end is handed over, or closed again. 1: no peer may come. */
int adopt_pipe(conn *k)
{
    static const size_t rooms[] = {16, 300, 9000, 70000};
    uint32_t end = (uint32_t)PMX_READABLE << choose(life.c, 2);
    int pair[2], own;
    if (life.peer_count == MOST_PEERS || life.toy)
        return 1;
    sim_now.room_out = ONE_OF(life.c, rooms);
    if (sim_pipe_to_peer(pair, end == PMX_READABLE))
        return -errno;
    own = pair[end == PMX_WRITABLE];
    int error = pmx_adopt(life.mux, own, end, &k->policy, &k->id);
    TRACE("a pipe to adopt: %d\n", error);
    if (error) {
        CHECK(!sim_close(pair[0]) && !sim_close(pair[1]));
        return error;
    }
    k->pipe = end;
    k->ended_by_user = end == PMX_READABLE;     /* what is sent is discarded */
    k->peer = life.peer_count;
    life.peers[life.peer_count++] = (peer){
        .fd = pair[end == PMX_READABLE], .policy = k->policy, .pipe = end,
        .conn = (int)(k - life.conns),
        /* who only reads has nothing to say */
        .ended = end == PMX_WRITABLE, .cannot_send = end == PMX_WRITABLE,
    };
    return 0;
}

/* Who writes into a pipe is told of no end: it leaves when it has said all, or
 * when nobody reads it. 1: it has left. */
int writer_finishes(peer *p)
{
    if (p->planned < p->plan.size && !p->cannot_send)
        return 0;
    CHECK(!sim_close(p->fd));
    p->fd = -1;
    p->ended = 1;
    return 1;
}
#else
typedef int life_pipes_on_linux;        /* a file must not be empty */
#endif
