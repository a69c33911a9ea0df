/* A life's listeners: see life.h. They open, close and retire, and inputs end as
 * where a server stops. */
#ifdef __linux__
#include "life.h"
#include "sim.h"
#include "toy.h"

#include <stdio.h>

/* The user's own socket listens, and is handed over. */
static int listen_on_ours(door *d, int backlog)
{
    union {
        struct sockaddr is;
        struct sockaddr_in in;
    } at = {.in = {.sin_family = AF_INET,
                   .sin_port = htons((uint16_t)d->at.port)}};
    int fd = sim_socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0)
        return -errno;
    CHECK(!sim_bind(fd, &at.is, sizeof at.in));
    int error = pmx_listen_on(life.mux, fd, &d->policy, &d->id);
    EQUAL(error == -EINVAL || life.faults, 1);      /* it does not listen */
    CHECK(!sim_listen(fd, backlog));
    if (error)
        error = pmx_listen_on(life.mux, fd, &d->policy, &d->id);
    if (error)
        CHECK(!sim_close(fd));
    return error;
}

void user_listens(void)
{
    int i = (int)choose(life.c, DOORS);
    door *d = &life.doors[i];
    if (d->id || life.half)     /* the doors are the first mux's */
        return;
    d->policy = some_policy();
    d->policy.max_connections = once_in(life.c, 3) ? 1 + choose(life.c, 3) : 0;
    d->policy.max_per_peer = once_in(life.c, 4) ? 1 + choose(life.c, 3) : 0;
    if (life.toy == 2)
        d->policy.max_handshakes = choose(life.c, 3);
    d->at = (pmx_endpoint){.host = i ? "::1" : "127.0.0.1"};
    if (i > 1) {
        snprintf(d->path, sizeof d->path, "%s", i == 2 ? "@pymux" : "/pymux");
        if (i == 2)
            d->path[0] = 0;
        d->at = (pmx_endpoint){.path = d->path, .path_size = 6};
    }
    int backlog = (int)choose(life.c, 6);
    int error = i == 0 && once_in(life.c, 3)
                    ? listen_on_ours(d, backlog)
                    : pmx_listen(life.mux, &d->at, &d->policy, backlog, 0,
                                 0600, &d->id);
    if (error) {
        d->id = 0;
        CHECK(life.faults || error == -EMFILE);
        return;
    }
    pmx_address name;
    EQUAL(pmx_listener_address(life.mux, d->id, &name), 0);
    d->at.port = name.port;
    if (life.toy == 1)
        toy_instead(pmx__find_listener(life.mux, d->id)->rules);
    TRACE("door %d is open\n", i);
}

/* Connections' input is ended, when nothing that was said is not written yet. */
static void user_ends_inputs(void)
{
    uint64_t some[MOST_CONNS];
    if (life.log_count)
        return;
    int64_t all = pmx_accepted(life.mux, some, MOST_CONNS);
    CHECK(all >= 0 && all <= MOST_CONNS);
    uint32_t count = all ? choose(life.c, (uint32_t)all + 1) : 0;
    for (uint32_t i = 0; i < count; i++)
        if (conn_of(some[i]))
            conn_of(some[i])->limited |= 2;
    int64_t left = pmx_end_inputs(life.mux, some, count,
                                  1 + choose(life.c, 2));
    CHECK(left >= 0 && left <= count);
    for (int64_t i = 0; i < left; i++)
        if (conn_of(some[i]))
            conn_of(some[i])->limited &= 1;
    for (int i = 0; i < life.conn_count; i++)
        life.conns[i].limited = !!life.conns[i].limited;
    TRACE("%d inputs are ended, %d are not\n", (int)count, (int)left);
}

/* Listeners that have retired are closed by now, or not. */
void look_at_doors(void)
{
    pmx_address name;
    for (int i = 0; i < DOORS && !life.half; i++)
        if (life.doors[i].id &&
            pmx_listener_address(life.mux, life.doors[i].id, &name))
            life.doors[i].id = 0;
}

void user_closes_a_door(void)
{
    door *d = &ONE_OF(life.c, life.doors);
    if (life.half)
        return;
    if (d->id && once_in(life.c, 8)) {
        EQUAL(pmx_unlisten(life.mux, d->id), 0);
        d->id = 0;
    } else if (once_in(life.c, 30)) {
        EQUAL(pmx_retire(life.mux), 0);
        TRACE("the doors retire\n");
    } else if (once_in(life.c, 8)) {
        user_ends_inputs();
    }
}
#else
typedef int life_doors_on_linux;        /* a file must not be empty */
#endif
