/* A world over the system in memory, in whose time nobody is ever late. */
#ifndef VIRTUAL_H
#define VIRTUAL_H

#include "world.h"

#ifdef __linux__
#include "sim_parts.h"

/* world_serve(), with so much room in each socket's buffers. */
void virtual_begin(world *w, const pmx_policy *policy, size_t room);
void virtual_end(world *w);
/* A peer's descriptor; its connection has opened. */
int virtual_peer(world *w, uint64_t *id);

#define VIRTUAL(test) EACH(test)
#else
#define VIRTUAL(test) {#test, NULL, 0, "the system in memory is Linux"}
#endif

#endif
