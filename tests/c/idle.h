/* A connection whose idle time is over when the test says so. */
#ifndef IDLE_H
#define IDLE_H

#include "world.h"

enum { IDLE_S = 60 };
#define IDLE_NS (INT64_C(1000000000) * IDLE_S)

static inline uint64_t serve_idle(world *w, pmx_sock *peer)
{
    pmx_policy p = raw();
    p.idle_ns = IDLE_NS;
    world_serve(w, &p);
    return meet(w, peer);
}

/* It has said nothing for as long as it may. */
static inline void age(world *w, uint64_t id)
{
    pmx__due_since(w->mux, (uint32_t)id, PMX__IDLE_DUE,
                   pmx__now() - IDLE_NS - MS);
}

#endif
