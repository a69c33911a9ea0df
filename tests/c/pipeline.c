/* A pipe between a mux and a peer: see pipeline.h. */
#include "pipeline.h"

#ifndef _WIN32
#include "injected.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void make_pipe(pipeline *p, uint32_t end)
{
    int pair[2];
    CHECK(!pipe(pair));
    p->own = pair[end == PMX_WRITABLE];
    p->peer = pair[end == PMX_READABLE];
    CHECK(!fcntl(p->peer, F_SETFL, O_NONBLOCK));
}

void pipeline_begin(pipeline *p, uint32_t end, const pmx_policy *policy)
{
    memset(p, 0, sizeof *p);
    world_begin(&p->w, 100, 10000);
    p->not_sockets = injected_not_sockets;
    make_pipe(p, end);
    EQUAL(pmx_adopt(p->w.mux, p->own, end, policy, &p->id), 0);
}

void leave_peer(pipeline *p)
{
    if (p->peer >= 0)
        CHECK(!close(p->peer));
    p->peer = -1;
}

/* The end of the mux is closed, and no socket's call was made on it. */
void pipeline_end(pipeline *p)
{
    CHECK(closed(&p->w, p->id));
    EQUAL(fcntl(p->own, F_GETFD), -1);
    leave_peer(p);
    release(&p->got);
    world_is_clean(&p->w);
    world_end(&p->w);
    EQUAL(injected_not_sockets, p->not_sockets);
}

void write_text(const pipeline *p, const char *text)
{
    EQUAL(write(p->peer, text, strlen(text)), strlen(text));
}

/* Read what there is: 1, 0 at the end, or -errno. */
int read_all(pipeline *p)
{
    uint8_t bytes[4096];
    ssize_t n;
    while ((n = read(p->peer, bytes, sizeof bytes)) > 0)
        append(&p->got, bytes, (size_t)n);
    return n ? errno == EAGAIN ? 1 : -errno : 0;
}
#else
typedef int pipeline_is_for_unix;       /* a file must not be empty */
#endif
