/* A mux with one end of a pipe, whose other end a test has. */
#ifndef PIPELINE_H
#define PIPELINE_H

#include "world.h"

/* A pipe of which the mux gets one end; `peer` is the other, non-blocking. */
typedef struct {
    world w;
    uint64_t id;
    int own, peer;
    buffer got;
    uint64_t not_sockets;
} pipeline;

void pipeline_begin(pipeline *p, uint32_t end, const pmx_policy *policy);
void leave_peer(pipeline *p);
/* The connection is closed, and no socket's call was made on the pipe. */
void pipeline_end(pipeline *p);
void write_text(const pipeline *p, const char *text);
/* Read what there is: 1, 0 at the end, or -errno. */
int read_all(pipeline *p);

#endif
